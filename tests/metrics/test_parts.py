"""The parts of a data set, and what samples of known defects miss of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from jaxgan import data
from jaxgan.data.mixtures import GRID, RING
from jaxgan.data.pixels import to_float
from jaxgan.metrics import parts


def points(mixture, seed: int, modes=None, n: int = parts.SAMPLES) -> np.ndarray:
    """Points of some of the modes of a mixture, by default of all, as images `[n, 1, 1, 2]`."""
    drawn, labels = mixture.draw(20 * n, seed)
    kept = drawn if modes is None else drawn[np.isin(labels, modes)]
    return kept[:n].reshape(-1, 1, 1, 2).astype(np.float32)


def with_modes(mixture) -> tuple[np.ndarray, np.ndarray]:
    drawn, modes = mixture.draw(10_000, 0)
    return drawn.reshape(-1, 1, 1, 2), modes


@pytest.fixture(scope="module")
def ring() -> parts.Parts:
    return parts.make_parts(*with_modes(RING))


@pytest.fixture(scope="module")
def grid() -> parts.Parts:
    return parts.make_parts(*with_modes(GRID))


def test_true_samples_miss_nothing(ring, grid):
    for seed in range(1, 6):
        for made, mixture in ((ring, RING), (grid, GRID)):
            found = parts.measure(made, points(mixture, seed))
            assert found.missed == 0
            np.testing.assert_allclose(found.diversity, 1, atol=0.06)


@pytest.mark.parametrize("k", [1, 2, 4, 6, 7])
def test_of_k_modes_of_a_ring_the_rest_is_missed(ring, k):
    modes = np.random.default_rng(k).permutation(8)[:k]
    found = parts.measure(ring, points(RING, k, modes))
    np.testing.assert_allclose(found.missed, 1 - k / 8, atol=0.02)


@pytest.mark.parametrize("k", [1, 10, 20, 24])
def test_of_k_modes_of_a_grid_the_rest_is_missed(grid, k):
    modes = np.random.default_rng(k).permutation(25)[:k]
    found = parts.measure(grid, points(GRID, k, modes))
    np.testing.assert_allclose(found.missed, 1 - k / 25, atol=0.02)


def test_the_parts_of_a_mixture_are_its_modes(ring):
    assert len(ring.shares) == 8
    # Samples in all modes miss nothing, however they lie in the modes.
    narrow = np.repeat(RING.centers, 250, axis=0).reshape(-1, 1, 1, 2) + 0.02
    assert parts.measure(ring, narrow).missed == 0
    clusters = parts.make_parts(points(RING, 0, n=10_000))
    assert len(clusters.shares) == parts.PARTS
    assert parts.measure(clusters, points(RING, 1)).missed == 0
    assert parts.measure(clusters, narrow).missed > 0.5


def test_a_generator_of_a_few_real_images_misses_most():
    digits = data.load("digits").images
    made = parts.make_parts(digits)
    rng = np.random.default_rng(0)
    few = digits[rng.choice(len(digits), 10)][rng.integers(0, 10, parts.SAMPLES)]
    found = parts.measure(made, jnp.asarray(few / 127.5 - 1))
    assert found.missed > 0.7
    # Which the mean distance does not show.
    assert found.diversity > 0.8


def test_lost_classes_of_digits_are_missed():
    digits = data.load("digits")
    made = parts.make_parts(digits.images, digits.labels)
    assert len(made.shares) == 50
    rng = np.random.default_rng(0)
    for lost in range(10):
        kept = digits.images[digits.labels != lost]
        chosen = kept[rng.integers(0, len(kept), parts.SAMPLES)] / 127.5 - 1
        assert 0.08 < parts.measure(made, jnp.asarray(chosen)).missed < 0.12


def test_diversity_is_a_ratio_of_mean_distances():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(4_000, 3, 3, 1)).astype(np.float32)
    made = parts.make_parts(real)
    np.testing.assert_allclose(parts.measure(made, 0.5 * real).diversity, 0.5, rtol=0.02)
    alike = np.concatenate([real[:2_000], np.repeat(real[:1], 2_000, axis=0)])[
        rng.permutation(4_000)
    ]
    # Two of four pairs are of different kinds, one of two random samples, one of equal ones.
    distances = np.linalg.norm((alike[:2_000] - alike[2_000:]).reshape(2_000, -1), axis=1)
    expected = distances.mean() / made.distance
    np.testing.assert_allclose(parts.measure(made, alike).diversity, expected, rtol=1e-5)


def test_more_classes_than_parts_are_not_used():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2_000, 4, 4, 1), np.uint8)
    made = parts.make_parts(images, np.arange(2_000) // 10)
    assert len(made.shares) == parts.PARTS
    assert parts.measure(made, to_float(jnp.asarray(images))).missed == 0
    few = parts.make_parts(images, np.arange(2_000) % 7 - 3)
    assert len(few.shares) == 7 * (parts.PARTS // 7)


def test_equal_images_make_one_part():
    made = parts.make_parts(np.full((30, 4, 4, 1), 7, np.uint8))
    assert len(made.shares) == 1
    found = parts.measure(made, jnp.full((10, 4, 4, 1), 7 / 127.5 - 1))
    assert (found.missed, found.diversity) == (0, 1)


def test_samples_that_are_not_finite_have_no_measures(ring):
    samples = jnp.asarray(points(RING, 1)).at[3, 0, 0, 1].set(jnp.nan)
    assert all(np.isnan(value) for value in parts.measure(ring, samples))


@pytest.mark.parametrize(
    ("steps_per_epoch", "due"), [(500, [1, 2, 3]), (150, [3, 6, 8]), (12, [34, 67, 100])]
)
def test_samples_are_measured_about_every_400_steps(steps_per_epoch, due):
    rows = [{"epoch": i, "step": steps_per_epoch * i} for i in range(1, due[-1] + 1)]
    assert [i for i in range(1, len(rows) + 1) if parts.is_due(rows[:i])] == due


def test_a_state_is_measured_by_its_samples():
    made = parts.make_parts(np.random.default_rng(0).integers(0, 256, (64, 6, 5, 1), np.uint8))
    state = toy.create_state(jax.random.key(0), toy.ToyConfig())
    rng = jax.random.key(1)
    model = toy.MODEL._replace(measure=lambda state: {"lr": state.lr})
    found = parts.make_measure(model, made)(state, rng)
    rngs = jax.random.split(rng, 4)
    samples = jnp.concatenate([toy.sample(state, one, 500) for one in rngs])
    expected = parts.measure(made, samples)
    assert found == {
        "missed": float(expected.missed),
        "diversity": float(expected.diversity),
        "lr": float(state.lr),
    }
