import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgan import MODELS, create_state, sample
from jaxgan.diffusion import DiffusionConfig
from jaxgan.learner import forward
from jaxgan.networks import (
    MaskedMLP,
    MLPDenoiser,
    MLPDiscriminator,
    MLPGenerator,
    SpectralDense,
    _drop,
)


@pytest.fixture(scope="module")
def state():
    return create_state(jax.random.key(1))


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_reference_has_the_published_numbers_of_parameters(state):
    assert count(state.generator.params) == 249_296
    assert count(state.discriminator.params) == 242_177


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_kernels_are_glorot_uniform_and_biases_zero(state, network):
    params = getattr(state, network).params
    for layer in params.values():
        fan_in, fan_out = layer["kernel"].shape
        bound = np.sqrt(6 / (fan_in + fan_out))
        kernel = np.asarray(layer["kernel"])
        assert np.abs(kernel).max() <= bound
        # A uniform on [-b, b] has a standard deviation of b / sqrt(3).
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=4 / np.sqrt(kernel.size))
        assert not np.asarray(layer["bias"]).any()


def test_generator_gives_images_in_range(state):
    images = np.asarray(sample(state, jax.random.key(1), 5))
    assert images.shape == (5, 28, 28, 1)
    assert images.dtype == np.float32
    assert np.abs(images).max() <= 1


def test_discriminator_by_hand():
    network = MLPDiscriminator(widths=(2,), dropout=(0.5,))
    params = {
        "Dense_0": {"kernel": np.array([[1.0, -1.0]], np.float32), "bias": np.zeros(2, np.float32)},
        "Dense_1": {
            "kernel": np.array([[1.0], [10.0]], np.float32),
            "bias": np.ones(1, np.float32),
        },
    }
    images = np.array([3.0, -2.0], np.float32).reshape(2, 1, 1, 1)
    # LeakyReLU: (3, -0.6) and (-0.4, 2); no dropout.
    np.testing.assert_allclose(network.apply({"params": params}, images), [-2.0, 20.6], rtol=1e-6)

    @jax.jit
    @jax.vmap
    def train(rng):
        return network.apply({"params": params}, images, train=True, rngs={"dropout": rng})

    # In training each hidden unit is either dropped or doubled.
    logits = np.round(np.asarray(train(jax.random.split(jax.random.key(0), 64))), 3)
    assert set(logits[:, 0]) == {np.float32(x) for x in (1.0, 7.0, -11.0, -5.0)}


def test_dropout_is_off_outside_training(state):
    images = np.ones((3, 28, 28, 1), np.float32)
    run = jax.jit(functools.partial(forward, train=False))
    logits = np.asarray(run(state.discriminator, images, jax.random.key(0))[0])
    np.testing.assert_allclose(logits, np.full(3, logits[0]))


def rounded(rate):
    """The rates of dropout are multiples of 2**-16."""
    return round(rate * 2**16) / 2**16


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.2])
def test_dropout_keeps_its_share_and_its_mean(rate):
    n = 100_000
    bits = np.random.default_rng(0).integers(0, 2**16, (n, 1), np.uint32)
    found = np.asarray(_drop(jnp.full((n, 1), 3.0), rate, bits))
    np.testing.assert_allclose(np.unique(found), [0, 3 / (1 - rounded(rate))], rtol=1e-6)
    error = 4 * np.sqrt(rate * (1 - rate) / n)
    assert abs((found == 0).mean() - rate) < error
    # All of the bits together: the mean is kept, however the rate is rounded.
    every = np.arange(2**16, dtype=np.uint32)[:, None]
    mean = np.asarray(_drop(jnp.ones((2**16, 1)), rate, every), np.float64).mean()
    np.testing.assert_allclose(mean, 1, rtol=1e-6)


def test_dropout_is_finite_at_any_rate():
    bits = np.array([0, 1, 2**16 - 1], np.uint32)[:, None]
    x = jnp.full((3, 1), -2.0)
    np.testing.assert_array_equal(_drop(x, 0.0, bits), x)
    # At least one of the 2**16 numbers keeps a unit.
    np.testing.assert_array_equal(_drop(x, 0.99999, bits), [[0], [0], [-(2.0**17)]])
    slope = jax.grad(lambda x: _drop(x, 0.99999, bits).sum())(x)
    np.testing.assert_array_equal(slope, [[0], [0], [2.0**16]])


def test_each_layer_drops_its_share_and_no_two_alike():
    rates = (0.5, 0.3, 0.2)
    # Of one unit each, with weights of 1: what a layer drops makes the logit 0.
    ones = {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    params = {f"Dense_{i}": ones for i in range(4)}
    images = np.ones((20_000, 1, 1, 1), np.float32)

    def logits(rates, seed):
        network = MLPDiscriminator(widths=(1,) * 3, dropout=rates)
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(network.apply({"params": params}, images, True, rngs=rngs))

    kept = np.prod([1 - rounded(rate) for rate in rates])
    # All or nothing, unbiased, and kept as often as by independent layers (4 standard errors).
    np.testing.assert_allclose(np.unique(logits(rates, 0)), [0, 1 / kept], rtol=1e-6)
    error = 4 * np.sqrt(kept * (1 - kept) / 20_000)
    assert abs((logits(rates, 0) > 0).mean() - kept) < error
    for i, rate in enumerate(rates):
        alone = tuple(rate * (j == i) for j in range(3))
        share = (logits(alone, 1) == 0).mean()
        assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / 20_000)


def test_no_two_units_share_their_masks():
    """Neither in one layer, nor in two, nor two that share a random word."""
    n, widths = 20_000, (4, 3, 2)
    network = MLPDiscriminator(widths=widths, dropout=(0.5,) * 3)
    rngs = {"dropout": jax.random.key(0)}
    bits = [np.asarray(x) for x in network.apply({}, n, rngs=rngs, method="_draw_bits")]
    assert [x.shape for x in bits] == [(n, width) for width in widths]
    units = np.concatenate(bits, axis=1)
    assert units.max() < 2**16
    masks = units < 2**15
    correlations = np.corrcoef(masks.T) - np.eye(9)
    # 36 pairs, 5 standard errors.
    assert np.abs(correlations).max() < 5 / np.sqrt(n)
    assert np.abs(np.corrcoef(units.T) - np.eye(9)).max() < 5 / np.sqrt(n)


def test_spectral_norm_makes_the_largest_singular_values_1():
    network = MLPDiscriminator(widths=(12,), dropout=(0.0,), spectral_norm=True)
    images = np.random.default_rng(0).normal(size=(6, 5, 4, 2)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    # As if trained: with scales of their own, and biases.
    variables["params"] = jax.tree.map(lambda x: 3 * x + 0.1, variables["params"])

    @jax.jit
    def passed(collections, _):
        variables_now = {"params": variables["params"], **collections}
        _, after = network.apply(variables_now, images, train=True, mutable=list(collections))
        return after, None

    start = {"spectral": variables["spectral"]}
    after, _ = jax.lax.scan(passed, start, length=200)

    x = images.reshape(6, -1).astype(np.float64)
    for i in range(2):
        layer = variables["params"][f"SpectralDense_{i}"]
        kernel = np.asarray(layer["kernel"], np.float64)
        x = x @ (kernel / np.linalg.svd(kernel)[1][0]) + np.asarray(layer["bias"])
        x = np.where(x > 0, x, 0.2 * x) if i < 1 else x

    @jax.jit
    def logits(collections):
        return network.apply({"params": variables["params"], **collections}, images)

    np.testing.assert_allclose(logits(after), x[:, 0], rtol=1e-4, atol=1e-5)
    # Before the passes the estimates are too low, and so the logits are not these.
    assert np.abs(logits(start) - x[:, 0]).max() > 1e-2


def test_spectral_norm_is_differentiated_through():
    """A column k of a kernel becomes k / |k|: its scale has no influence, and no gradient."""
    x, column = np.array([[1.0, 2.0, -2.0]], np.float32), np.array([0.6, 0.8, 0.0], np.float32)

    @jax.jit
    def output(scale):
        params = {"kernel": scale * column[:, None], "bias": np.full(1, 7.0, np.float32)}
        spectral = {"right": np.ones((1, 1), np.float32)}
        variables = {"params": params, "spectral": spectral}
        return SpectralDense(1).apply(variables, x, False)[0, 0]

    slope = jax.jit(jax.grad(output))
    for scale in (0.5, 2.0):
        np.testing.assert_allclose(output(scale), 7 + 2.2, rtol=1e-6)
        np.testing.assert_allclose(slope(scale), 0, atol=1e-5)
    assert np.isfinite(slope(0.0))


def test_a_bounded_denoiser_ends_in_tanh():
    images = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    levels = jnp.array([0.1, 0.5, 1.0])
    free, bounded = (MLPDenoiser(8, 1, bounded=value) for value in (False, True))
    params = free.init(jax.random.key(1), images, levels)
    # The first prediction is 0.
    params = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(2), x.shape), params)
    expected = np.tanh(free.apply(params, images, levels))
    np.testing.assert_allclose(bounded.apply(params, images, levels), expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1


def test_networks_that_predict_images_are_bounded():
    for config, bounded in (
        (DiffusionConfig(), True),
        (DiffusionConfig(prediction="v"), False),
        (DiffusionConfig(bounded=False), False),
    ):
        network: Any = MODELS["diffusion"].networks(config)["denoiser"].module
        assert network.bounded == bounded


@pytest.mark.parametrize(
    ("network", "more"),
    [
        (MLPGenerator((8,), (4, 4, 1), num_classes=3), {"labels": jnp.arange(2)}),
        (
            MLPDiscriminator((8,), (0.5,), spectral_norm=True, num_classes=3),
            {"train": True, "labels": jnp.arange(2)},
        ),
        (MLPDenoiser(8, 1), {"levels": jnp.ones(2), "labels": jnp.ones((2, 3))}),
        (MaskedMLP((8,)), {"masks": jnp.ones((2, 4, 4, 1))}),
    ],
)
def test_types_are_never_promoted(network, more):
    """The tests refuse promotion. `jaxgan.learner` allows it, since Flax's own layers need it."""
    inputs = jnp.ones((2, 5) if isinstance(network, MLPGenerator) else (2, 4, 4, 1))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    outputs, _ = jax.eval_shape(functools.partial(network.init_with_output, rngs, **more), inputs)
    assert outputs.dtype == jnp.float32
