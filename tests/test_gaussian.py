import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from helpers import RNG
from scipy.fft import dctn
from sklearn.datasets import load_digits

from jaxgan import JaxganError
from jaxgan.gaussian import GaussianConfig, create_state, generate, sample, train_step

SHAPE = (8, 8, 1)
EXACT = GaussianConfig(SHAPE, components=64, clip=2.0, bounded=False)
CLIPPED = dataclasses.replace(EXACT, clip=0.5, num_classes=10, noise_multiplier=0.05)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).reshape(-1, *SHAPE).astype(np.float32)
    # Pixels that are always black have no variance.
    images += 0.1 * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    return {"image": np.clip(images, -1, 1), "label": labels.astype(np.int32)}


def fitted(config, batch, rng=RNG):
    return train_step(create_state(rng, config), batch, rng)[0]


def test_without_noise_it_has_the_mean_and_covariance_of_each_class(digits):
    state = fitted(dataclasses.replace(EXACT, num_classes=10), digits)
    for label in (0, 7):
        own = digits["image"][digits["label"] == label].reshape(-1, 64)
        drawn = np.asarray(sample(state, RNG, 20_000, label)).reshape(-1, 64)
        spread = own.std(axis=0) / math.sqrt(len(drawn))
        assert (np.abs(drawn.mean(axis=0) - own.mean(axis=0)) < 5 * spread + 1e-3).all()
        expected = np.cov(own, rowvar=False)
        size = math.sqrt(np.square(expected).sum())
        assert math.sqrt(np.square(np.cov(drawn, rowvar=False) - expected).sum()) < 0.05 * size


def test_a_few_components_are_the_principal_ones(digits):
    config = dataclasses.replace(EXACT, components=5)
    state, metrics = train_step(create_state(RNG, config), digits, RNG)
    flat = digits["image"].reshape(-1, 64)
    values = np.linalg.eigvalsh(np.cov(flat, rowvar=False))[::-1]
    np.testing.assert_allclose(metrics.explained, values[:5].sum() / values.sum(), rtol=1e-3)
    lengths = np.square(np.asarray(state.basis)).sum(axis=0)
    np.testing.assert_allclose(lengths, values[:5], rtol=2e-3)
    assert metrics.between < 1e-6  # one class


def test_the_coefficients_are_those_of_the_cosine_transform(digits):
    state = fitted(dataclasses.replace(EXACT, frequencies=3, components=9), digits)
    mean = digits["image"].mean(axis=0)[..., 0]
    expected = dctn(mean, norm="ortho")[:3, :3].ravel()
    np.testing.assert_allclose(state.center, expected, atol=1e-4)


def test_vectors_are_taken_whole():
    batch = np.random.default_rng(0).normal(size=(500, 1, 1, 20)).astype(np.float32)
    config = GaussianConfig((1, 1, 20), clip=9.0, bounded=False)
    state = fitted(config, batch)
    drawn = np.asarray(sample(state, RNG, 5000)).reshape(-1, 20)
    expected = np.cov(batch.reshape(-1, 20), rowvar=False)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), expected, atol=0.12)


def test_the_noise_of_each_sum_is_its_share_of_one_mechanism(digits):
    config = dataclasses.replace(EXACT, num_classes=10, noise_multiplier=2.0, bounded=True)
    state = create_state(RNG, config)
    step = jax.jit(jax.vmap(lambda rng: train_step(state, digits, rng)[0].center))
    centers = np.asarray(step(jax.random.split(RNG, 300)))
    # Images in [-1, 1] add at most the root of 64 to the sum of their coefficients.
    deviation = 2.0 / math.sqrt(0.01) * math.sqrt(64) / len(digits["image"])
    found = centers.std(axis=0) / deviation
    assert abs(found.mean() - 1) < 0.05


def test_shares_of_the_budget_add_up_to_one():
    from jaxgan import gaussian

    assert sum(gaussian._SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize(("at", "mapping"), [(0, dict), (5, FrozenDict)])
def test_an_image_that_does_not_count_changes_nothing(digits, at, mapping):
    included = np.arange(len(digits["image"])) != at
    other = {k: v.copy() for k, v in digits.items()}
    other["image"][at] = 1
    batches = [mapping(batch | {"included": included}) for batch in (digits, other)]
    one, two = (fitted(CLIPPED, batch) for batch in batches)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    three = fitted(CLIPPED, other)
    assert not np.array_equal(one.means, three.means)


def test_an_outlier_is_clipped(digits):
    far = {k: v.copy() for k, v in digits.items()}
    far["image"][0] = 1e6
    state = fitted(CLIPPED, far)
    # The mean image moves by the reach of one image, at most.
    moved = np.linalg.norm(np.asarray(state.center - fitted(CLIPPED, digits).center))
    assert moved <= 2.001 * math.sqrt(64) / len(digits["image"])
    drawn = np.asarray(sample(state, RNG, 1000))
    assert np.abs(drawn).mean() < 3


@pytest.mark.parametrize("value", [3e38, 1e30])
def test_a_huge_row_changes_no_sum_without_bound(value):
    """Sums that are not finite would give it away."""
    rows = np.random.default_rng(0).normal(0, 0.1, (300, 1, 1, 5)).astype(np.float32)
    rows[0] = value
    config = GaussianConfig((1, 1, 5), noise_multiplier=3.0, bounded=False)
    state = fitted(config, rows)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("n", [1, 40])
def test_images_without_variance_have_finite_metrics(digits, n):
    images = digits["image"][:1].repeat(n, axis=0)
    state, metrics = train_step(create_state(RNG, EXACT), images, RNG)
    assert np.isfinite(metrics).all()
    np.testing.assert_allclose(sample(state, RNG, 2), images[:1].repeat(2, axis=0), atol=1e-2)


def test_heavy_noise_leaves_finite_images(digits):
    config = dataclasses.replace(EXACT, num_classes=10, noise_multiplier=300.0, bounded=True)
    drawn = sample(fitted(config, digits), RNG, 20)
    assert drawn.shape == (20, *SHAPE)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components must be a whole number above 0"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be 0 or more"),
        ({"image_shape": (0, 1, 1)}, "image_shape must be"),
        ({"num_classes": -1}, "num_classes must be"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(JaxganError, match=re.escape(message)):
        GaussianConfig(**options)


def test_latents_of_another_shape_are_refused():
    with pytest.raises(JaxganError, match=r"latents must be \[B, 64\], got \(3, 5\)"):
        generate(create_state(RNG, EXACT), jnp.zeros((3, 5)))


def test_a_batch_without_labels_is_refused(digits):
    config = dataclasses.replace(EXACT, num_classes=10)
    with pytest.raises(JaxganError, match="the batch has no labels"):
        fitted(config, jnp.asarray(digits["image"]))
