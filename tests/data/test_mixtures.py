"""The two mixtures as data, and a generator that can reach them."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxgan import MODELS, GANConfig, JaxganError, create_state, data, sample
from jaxgan.data.mixtures import GRID, RING


def test_the_modes_are_those_of_the_published_tables():
    rounded = {tuple(center) for center in np.round(RING.centers, 9)}
    half = round(np.sqrt(0.5), 9)
    signs = itertools.product((-half, half), repeat=2)
    assert rounded == {(1, 0), (0, 1), (-1, 0), (0, -1), *signs}
    assert {tuple(center) for center in GRID.centers} == {
        *itertools.product((-4, -2, 0, 2, 4), repeat=2)
    }
    assert (len(RING.centers), len(GRID.centers)) == (8, 25)
    assert (RING.sigma, GRID.sigma) == (0.01, 0.05)


@pytest.mark.parametrize("mixture", [RING, GRID], ids=lambda mixture: mixture.name)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_points_are_of_the_mixture(mixture, split):
    images, modes, name, *_ = data.load(mixture.name, split)
    assert (images.shape, images.dtype) == ((100_000, 1, 1, 2), np.float32)
    assert (name, modes.dtype) == (mixture.name, np.int32)
    k, n = len(mixture.centers), len(modes)
    # Each bound is five standard errors.
    shares = np.bincount(modes, minlength=k) / n
    np.testing.assert_allclose(shares, 1 / k, atol=5 * np.sqrt(1 / k / n))
    offsets = (images[:, 0, 0] - mixture.centers[modes]) / mixture.sigma
    for mode in range(k):
        own = offsets[modes == mode]
        error = 5 / np.sqrt(len(own))
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=error)
        np.testing.assert_allclose(np.cov(own.T), np.eye(2), atol=error * np.sqrt(2))
    # The distance from the centre, in sigma, has the density r exp(-r^2 / 2).
    within = (np.linalg.norm(offsets, axis=1) <= 1).mean()
    np.testing.assert_allclose(within, 1 - np.exp(-0.5), atol=2.5 / np.sqrt(n))


def test_the_points_are_the_same_every_time_but_not_in_both_splits():
    train, test = (data.load("ring", split).images for split in ("train", "test"))
    np.testing.assert_array_equal(data.load("ring").images, train)
    assert len(np.unique(np.concatenate([train, test]), axis=0)) > 199_900


def test_what_makes_no_sense_for_points_is_refused(tmp_path):
    with pytest.raises(JaxganError, match="leave out --image-size"):
        data.load("ring", image_size=28)
    with pytest.raises(JaxganError, match="grid has the splits train and test, not 'valid'"):
        data.load("grid", "valid")
    with pytest.raises(JaxganError, match="did you mean ring"):
        data.load("rings")
    # A file of points is not taken for images.
    np.savez(tmp_path / "points.npz", images=data.load("ring").images[:9])
    with pytest.raises(JaxganError, match="images of one pixel are no images"):
        data.load(tmp_path / "points.npz")


def test_a_run_on_points_has_a_generator_that_can_reach_them():
    small = GANConfig(
        generator_widths=(4,), discriminator_widths=(4,), discriminator_dropout=(0.0,)
    )
    fit_to = MODELS["gan"].fit_to
    config = fit_to(small, data.load("grid"))
    assert (config.image_shape, config.bounded) == ((1, 1, 2), False)
    images = data.Dataset(np.zeros((1, 2, 2, 1), np.uint8), None, "images", "train")
    assert fit_to(config, images).bounded

    def furthest(config):
        state = create_state(jax.random.key(0), config)
        generator = state.generator
        params = jax.tree.map(lambda x: 100 * x, generator.params)
        state = state.replace(generator=generator.replace(params=params))
        return np.abs(sample(state, jax.random.key(1), 64)).max()

    assert furthest(config) > 100
    assert furthest(dataclasses.replace(config, bounded=True)) == 1
