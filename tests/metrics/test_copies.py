"""Copies of training images among samples: mixtures of known shares."""

import numpy as np
import pytest

from jaxgan import data
from jaxgan.metrics import copies

TRAIN = 1_000


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, and unseen ones with their classes."""
    found = data.load("digits")
    return found.images[:TRAIN], found.images[TRAIN:], found.labels[TRAIN:]


@pytest.fixture(scope="module")
def reference(digits) -> copies.Reference:
    train, _, _ = digits
    unseen = data.load("digits", "test").images
    return copies.make_reference(copies.pixels, copies.pixels(train), unseen)


def test_new_images_have_about_one_percent(reference, digits):
    _, new, labels = digits
    assert copies.share(reference, new) < 0.03
    # New images of a single class, and the most typical of all new images, are no copies.
    for label in range(10):
        assert copies.share(reference, new[labels == label]) < 0.05
    distances = np.linalg.norm(copies.pixels(new)[:, None] - reference.train[None], axis=-1).min(
        axis=1
    )
    assert copies.share(reference, new[distances.argsort()[:100]]) < 0.1


def test_unseen_images_have_the_share_that_defines_a_copy(reference):
    unseen = data.load("digits", "test").images
    assert copies.share(reference, unseen) == pytest.approx(copies.QUANTILE, abs=1 / len(unseen))


def test_copies_are_counted(reference, digits):
    train, new, _ = digits
    assert copies.share(reference, train) == 1
    assert copies.share(reference, train[:, :, ::-1]) == 1
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    assert copies.share(reference, np.concatenate([train[:300], noise])) == 0.5
    assert copies.share(reference, noise) == 0
    mixed = np.concatenate([train[:100], new[:300]])
    assert copies.share(reference, mixed) == pytest.approx(0.25, abs=0.02)
    inexact = train + np.random.default_rng(1).normal(0, 8, train.shape)
    assert copies.share(reference, np.clip(inexact, 0, 255).astype(np.uint8)) > 0.99


def test_copies_are_counted_if_the_data_have_duplicates():
    """Blank images, and unseen images that equal training images."""
    images = np.random.default_rng(0).integers(0, 2, (200, 4, 4, 1), np.uint8) * 255
    images[:20] = 0
    train = np.concatenate([images, images])
    reference = copies.make_reference(copies.pixels, copies.pixels(train), images[:100])
    assert reference.threshold == 0
    assert copies.share(reference, images) == 1
    noise = np.random.default_rng(1).integers(0, 256, (200, 4, 4, 1), np.uint8)
    assert copies.share(reference, noise) == 0


def test_what_is_not_a_copy_but_near_to_one_is_said_to_be_unseen(reference, digits):
    """The limits that the docstring names."""
    train, _, _ = digits
    assert copies.share(reference, 255 - train) < 0.05
    halves = ((train.astype(int) + np.roll(train, 1, axis=0)) // 2).astype(np.uint8)
    assert copies.share(reference, halves) < 0.2


def test_real_copies_that_are_shifted_by_a_pixel(real_data_dir):
    train = data.load("fashion_mnist", data_dir=real_data_dir).images
    unseen = data.load("fashion_mnist", "test", real_data_dir).images[:500]
    train, new = train[:3_000], train[3_000:3_200]
    reference = copies.make_reference(copies.pixels, copies.pixels(train), unseen)
    assert copies.share(reference, new) < 0.03
    for axis in (1, 2):
        assert copies.share(reference, np.roll(train[:200], 1, axis)) > 0.85
    assert copies.share(reference, np.roll(train[:200, :, ::-1], -1, 2)) > 0.85


def test_variants_are_the_image_mirrored_and_shifted():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    found = copies.variants(image)
    assert len({one.tobytes() for one in found}) == 10
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[5], image[:, :, ::-1])
    for one, (y, x) in zip(found[1:5], ((-1, 0), (1, 0), (0, -1), (0, 1)), strict=True):
        moved = np.roll(image, (-y, -x), (1, 2))
        inner = (slice(None), slice(1, -1), slice(1, -1))
        np.testing.assert_array_equal(one[inner], moved[inner])
