import jax
import numpy as np
import pytest

from jaxgan import GANConfig, create_state, sample
from jaxgan.networks import MLPDiscriminator, SpectralDense


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_reference_has_the_published_numbers_of_parameters():
    state = create_state(jax.random.key(0))
    assert count(state.generator.params) == 249_296
    assert count(state.discriminator.params) == 242_177


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_kernels_are_glorot_uniform_and_biases_zero(player):
    params = getattr(create_state(jax.random.key(1)), player).params
    for layer in params.values():
        fan_in, fan_out = layer["kernel"].shape
        bound = np.sqrt(6 / (fan_in + fan_out))
        kernel = np.asarray(layer["kernel"])
        assert np.abs(kernel).max() <= bound
        # A uniform on [-b, b] has a standard deviation of b / sqrt(3).
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=4 / np.sqrt(kernel.size))
        assert not np.asarray(layer["bias"]).any()


def test_generator_gives_images_in_range():
    images = sample(create_state(jax.random.key(0)), jax.random.key(1), 5)
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
    # In training each hidden unit is either dropped or doubled.
    logits = {
        tuple(
            np.round(
                np.asarray(
                    network.apply(
                        {"params": params}, images, train=True, rngs={"dropout": jax.random.key(i)}
                    )
                ),
                3,
            )
        )
        for i in range(64)
    }
    first = {pair[0] for pair in logits}
    assert first == {np.float32(x) for x in (1.0, 7.0, -11.0, -5.0)}


def test_dropout_is_off_outside_training():
    state = create_state(jax.random.key(0), GANConfig())
    images = np.ones((3, 28, 28, 1), np.float32)
    logits = state.discriminator.apply_fn({"params": state.discriminator.params}, images)
    np.testing.assert_allclose(logits, np.full(3, logits[0]))


def test_each_layer_drops_its_share_and_no_two_alike():
    rates = (0.5, 0.3, 0.2)
    network = MLPDiscriminator(widths=(1,) * 3, dropout=rates)
    # Of one unit each, with weights of 1: what a layer drops makes the logit 0.
    ones = {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    params = {f"Dense_{i}": ones for i in range(4)}
    images = np.ones((20_000, 1, 1, 1), np.float32)
    logits = network.apply({"params": params}, images, True, rngs={"dropout": jax.random.key(0)})
    kept = np.prod([1 - rate for rate in rates])
    # All or nothing, unbiased, and kept as often as by independent layers (4 standard errors).
    np.testing.assert_allclose(np.unique(logits), [0, 1 / kept], rtol=1e-6)
    error = 4 * np.sqrt(kept * (1 - kept) / 20_000)
    assert abs(float((np.asarray(logits) > 0).mean()) - kept) < error
    for i, rate in enumerate(rates):
        alone = tuple(rate * (j == i) for j in range(3))
        network = MLPDiscriminator(widths=(1,) * 3, dropout=alone)
        logits = network.apply(
            {"params": params}, images, True, rngs={"dropout": jax.random.key(1)}
        )
        share = float((np.asarray(logits) == 0).mean())
        assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / 20_000)


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
