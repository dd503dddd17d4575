"""Augmentation, beside one with numpy's padding and slices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxgan.adversarial import augmentation

augment = jax.jit(augmentation.augment)

HEIGHT, WIDTH = 16, 8  # translations by up to 2 and 1 pixels, cutouts of 8 x 4


def images(n: int) -> np.ndarray:
    """All pixels are different, and none is 0."""
    values = np.random.default_rng(0).permutation(n * HEIGHT * WIDTH * 2) + 1.0
    return (values / values.max()).reshape(n, HEIGHT, WIDTH, 2).astype(np.float32)


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    padded = np.pad(image, ((2, 2), (1, 1), (0, 0)), mode="edge")
    return padded[2 - down : 2 - down + HEIGHT, 1 - right : 1 - right + WIDTH]


def cut(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """With a hole around a pixel."""
    image = image.copy()
    image[max(row - 4, 0) : row + 4, max(column - 2, 0) : column + 2] = 0
    return image


def test_every_image_is_translated_and_cut_by_its_own_draws():
    real = images(400)
    found = np.asarray(augment(real, 1.0, jax.random.key(0)))
    shifts, centers = set(), set()
    for image, after in zip(real, found, strict=True):
        hole = (after == 0).all(axis=-1)
        # If an edge cuts the hole off, its other end tells the center.
        rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
        row = rows[0] + 4 if rows[0] else rows[-1] - 3
        column = columns[0] + 2 if columns[0] else columns[-1] - 1
        fits = [
            shift
            for shift in itertools.product(range(-2, 3), range(-1, 2))
            if np.array_equal(cut(moved(image, *shift), row, column), after)
        ]
        assert len(fits) == 1
        shifts |= set(fits)
        centers.add((row, column))
    assert len(shifts) == 5 * 3
    assert {row for row, _ in centers} == set(range(HEIGHT))
    assert {column for _, column in centers} == set(range(WIDTH))


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_both_augmentations_come_with_their_probability(probability):
    real = images(4000)
    found = np.asarray(augment(real, probability, jax.random.key(1)))
    is_cut = (found == 0).any(axis=(1, 2, 3))
    # A fifteenth of the translations is by no pixel.
    is_moved = (found != real).any(axis=(1, 2, 3), where=found != 0)
    deviation = (0.3 * 0.7 / 4000) ** 0.5
    assert abs(is_cut.mean() - probability) <= 4 * deviation * (probability > 0)
    assert abs(is_moved.mean() - probability * 14 / 15) <= 4 * deviation * (probability > 0)
    both = probability**2 * 14 / 15
    assert abs((is_cut & is_moved).mean() - both) <= 4 * deviation * (probability > 0)


def test_gradients_go_through():
    check_grads(lambda x: augment(x, 0.7, jax.random.key(2)), (images(3),), 1, rtol=1e-2)


def test_images_keep_their_type():
    for dtype in (jnp.float32, jnp.bfloat16):
        assert augment(jnp.zeros((2, 8, 8, 1), dtype), 0.5, jax.random.key(0)).dtype == dtype
