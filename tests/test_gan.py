import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgan import GANConfig, JaxganError, create_state, generate, sample, train_step
from jaxgan.networks import MLPDiscriminator

RNG = jax.random.key(5)


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Point(nn.Module):
    """A generator of one parameter, whatever the latent: that of the Dirac-GAN (1801.04406)."""

    start: float

    @nn.compact
    def __call__(self, latents):
        theta = self.param("theta", nn.initializers.constant(self.start), ())
        return jnp.broadcast_to(theta, (latents.shape[0], 1, 1, 1))


class Slope(nn.Module):
    """A discriminator of one parameter, D(x) = psi x."""

    start: float

    @nn.compact
    def __call__(self, images):
        return self.param("psi", nn.initializers.constant(self.start), ()) * images[:, 0, 0, 0]


def test_gradients_are_simultaneous_and_in_closed_form():
    theta, psi, x = 0.8, -1.5, np.array([0.5, -0.25], np.float32)
    config = GANConfig((1, 1, 1), 1, generator=Point(theta), discriminator=Slope(psi))
    state = create_state(RNG, config)
    after, metrics = train_step(state, x.reshape(2, 1, 1, 1), RNG)

    def sigmoid(t):
        return 1 / (1 + np.exp(-t))

    # -log s(psi theta) for the generator; -log s(psi x) - log(1 - s(psi theta)) for the other.
    generator_gradient = -sigmoid(-psi * theta) * psi
    discriminator_gradient = (-sigmoid(-psi * x) * x).mean() + sigmoid(psi * theta) * theta
    # Adam's first moment after one step is (1 - b1) times the gradient.
    moments = [
        jax.tree.leaves(player.opt_state.inner_state[0].mu)[0]
        for player in (after.generator, after.discriminator)
    ]
    np.testing.assert_allclose(moments[0], 0.1 * generator_gradient, rtol=1e-5)
    np.testing.assert_allclose(moments[1], 0.1 * discriminator_gradient, rtol=1e-5)
    # And its first update is the learning rate in the direction of -gradient, up to epsilon.
    np.testing.assert_allclose(
        after.generator.params["theta"], theta - 1e-3 * np.sign(generator_gradient), rtol=1e-5
    )
    np.testing.assert_allclose(
        after.discriminator.params["psi"], psi - 1e-3 * np.sign(discriminator_gradient), rtol=1e-5
    )
    np.testing.assert_allclose(metrics.gen_loss, -np.log(sigmoid(psi * theta)), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.disc_loss,
        -np.log(sigmoid(psi * x)).mean() - np.log(sigmoid(-psi * theta)),
        rtol=1e-5,
    )
    np.testing.assert_allclose(metrics.real_score, sigmoid(psi * x).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.fake_score, sigmoid(psi * theta), rtol=1e-5)


def test_both_players_step_and_are_counted(small, images):
    state = create_state(RNG, small)
    assert state.step == 0
    after, _ = train_step(state, images, RNG)
    assert (after.step, after.generator.step, after.discriminator.step) == (1, 1, 1)
    for player in ("generator", "discriminator"):
        before, now = getattr(state, player).params, getattr(after, player).params
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, now)
        assert all(jax.tree.leaves(moved))


def test_bytes_are_scaled_floats(small, images):
    state = create_state(RNG, small)
    floats = (images.astype(np.float32) - 127.5) / 127.5
    # XLA scales bytes and floats in different fusions: equal up to the last bit of a float32.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8),
        train_step(state, images, RNG),
        train_step(state, floats, RNG),
    )
    assert_trees_equal(
        train_step(state, images, RNG), train_step(state, {"image": images, "label": 3}, RNG)
    )


def test_a_constant_rng_draws_new_latents_each_step(small, images):
    state = create_state(RNG, small)
    later = state.replace(discriminator=state.discriminator.replace(step=jnp.int32(1)))
    _, first = train_step(state, images, RNG)
    _, second = train_step(later, images, RNG)
    assert first.fake_score != second.fake_score


def test_any_batch_size_trains(small, images):
    state = create_state(RNG, small)
    for n in (1, 3, 32):
        state, metrics = train_step(state, images[:n], RNG)
        assert np.isfinite(metrics).all()


def test_equal_configs_give_equal_tree_structures(small):
    again = dataclasses.replace(small)
    assert again is not small
    first, second = create_state(RNG, small), create_state(jax.random.key(1), again)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: a + b, first, second)
    # Traced anew, for a key of another kind.
    third = create_state(jax.random.PRNGKey(0), small)
    assert jax.tree.structure(first) == jax.tree.structure(third)
    other = create_state(RNG, dataclasses.replace(small, latent_dim=9))
    assert jax.tree.structure(first) != jax.tree.structure(other)


def test_one_trace_per_config_and_shape(small, images):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images):
            traces.append(images.shape)
            return nn.Dense(1)(images.reshape(images.shape[0], -1))

    config = dataclasses.replace(small, discriminator=Counted())
    state = create_state(RNG, config)
    state, _ = train_step(state, images, RNG)
    once = len(traces)
    for seed in range(3):
        other = create_state(jax.random.key(seed), dataclasses.replace(config))
        for _ in range(2):
            other, _ = train_step(other, images, jax.random.key(seed))
    # Only create_state looks at the networks again, and that only in its first call.
    assert len(traces) == once
    # A weakly typed leaf would become another type in a checkpoint, and cost a trace there.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    train_step(state, images[:5], RNG)
    assert len(traces) == once + 2


def test_networks_with_statistics_and_without_train(small, images):
    class Generator(nn.Module):
        @nn.compact
        def __call__(self, latents, train: bool):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(30)(latents))
            return nn.tanh(x).reshape(-1, 6, 5, 1)

    class Discriminator(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(1)(images.reshape(images.shape[0], -1))

    config = dataclasses.replace(small, generator=Generator(), discriminator=Discriminator())
    state = create_state(RNG, config)
    start = state.generator.collections["batch_stats"]["BatchNorm_0"]
    assert not start["mean"].any()
    state, _ = train_step(state, images, RNG)
    now = state.generator.collections["batch_stats"]["BatchNorm_0"]
    assert now["mean"].all()
    # Sampling uses the statistics and leaves them; an image does not depend on its neighbours.
    latents = jax.random.normal(RNG, (4, 7))
    np.testing.assert_allclose(
        generate(state, latents)[:2], generate(state, latents[:2]), atol=1e-6
    )


def test_networks_in_bfloat16_train_with_losses_in_float32(small, images):
    class Generator(nn.Module):
        @nn.compact
        def __call__(self, latents):
            return nn.tanh(nn.Dense(30, dtype=jnp.bfloat16)(latents)).reshape(-1, 6, 5, 1)

    class Discriminator(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(1, dtype=jnp.bfloat16)(images.reshape(images.shape[0], -1))

    config = dataclasses.replace(small, generator=Generator(), discriminator=Discriminator())
    state = create_state(RNG, config)
    after, metrics = train_step(state, images, RNG)
    assert {metric.dtype for metric in metrics} == {jnp.dtype("float32")}
    assert sample(after, RNG, 2).dtype == jnp.float32
    kernels = [s.generator.params["Dense_0"]["kernel"] for s in (state, after)]
    assert kernels[1].dtype == jnp.float32
    assert (kernels[0] != kernels[1]).any()


def test_real_and_generated_images_are_seen_through_different_dropout(small):
    """With equal images on both sides and one mask, both scores would be equal."""
    start = jnp.zeros((1, 1, 1))

    class Gray(nn.Module):
        @nn.compact
        def __call__(self, latents):
            shift = self.param("shift", nn.initializers.zeros, (1,))
            return jnp.zeros((latents.shape[0], 6, 5, 1)) + shift[None, None, None] + start[None]

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, images, train: bool = False):
            x = nn.Dense(16)(images.reshape(images.shape[0], -1) + 1)
            return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))

    config = dataclasses.replace(small, generator=Gray(), discriminator=Dropped())
    _, metrics = train_step(create_state(RNG, config), np.zeros((8, 6, 5, 1), np.float32), RNG)
    assert abs(float(metrics.real_score) - float(metrics.fake_score)) > 1e-3


def test_samples_follow_the_rng(small):
    state = create_state(RNG, small)
    first = sample(state, jax.random.key(0), 3)
    assert first.shape == (3, 6, 5, 1)
    np.testing.assert_array_equal(first, sample(state, jax.random.key(0), 3))
    assert (first != sample(state, jax.random.key(1), 3)).all(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((4, 5, 6, 1), np.uint8), r"must be \[B, 6, 5, 1\]"),
        (np.zeros((4, 6, 5), np.uint8), r"must be \[B, 6, 5, 1\]"),
        (np.zeros((0, 6, 5, 1), np.uint8), "B >= 1"),
        (np.zeros((4, 6, 5, 1), np.int32), "uint8 or float"),
    ],
)
def test_wrong_batches_are_refused(small, batch, message):
    with pytest.raises(JaxganError, match=message):
        train_step(create_state(RNG, small), batch, RNG)


def test_networks_that_do_not_fit_are_refused(small):
    class Patches(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Conv(1, (2, 2))(images)

    class Flat(nn.Module):
        @nn.compact
        def __call__(self, latents):
            return nn.Dense(30)(latents)

    with pytest.raises(JaxganError, match="one logit per image"):
        create_state(RNG, dataclasses.replace(small, discriminator=Patches()))
    with pytest.raises(JaxganError, match="image_shape"):
        create_state(RNG, dataclasses.replace(small, generator=Flat()))


@pytest.mark.parametrize("bias", [0.0, -30.0, -200.0, 200.0])
def test_both_gradients_are_those_of_the_losses_however_sure_the_discriminator(small, bias):
    config = GANConfig(**(vars(small) | {"discriminator_dropout": (0.0, 0.0)}))
    state = create_state(RNG, config)
    params = jax.tree.map(lambda x: x, state.discriminator.params)
    params["Dense_2"]["bias"] = params["Dense_2"]["bias"] + bias
    state = state.replace(discriminator=state.discriminator.replace(params=params))
    images = np.random.default_rng(1).uniform(-1, 1, (8, *config.image_shape)).astype(np.float32)

    # By definition: each player's own loss, differentiated on its own.
    latents = jax.random.normal(
        jax.random.split(jax.random.fold_in(RNG, 0), 4)[0], (8, config.latent_dim)
    )

    def logits(discriminator_params, images):
        return state.discriminator.apply_fn({"params": discriminator_params}, images)

    def gen_loss(generator_params):
        fake = state.generator.apply_fn({"params": generator_params}, latents)
        return -jax.nn.log_sigmoid(logits(params, fake)).mean()

    def disc_loss(discriminator_params):
        fake = state.generator.apply_fn({"params": state.generator.params}, latents)
        return -(
            jax.nn.log_sigmoid(logits(discriminator_params, images))
            + jax.nn.log_sigmoid(-logits(discriminator_params, fake))
        ).mean()

    after, _ = train_step(state, images, RNG)
    for player, loss in (("generator", gen_loss), ("discriminator", disc_loss)):
        expected = jax.grad(loss)(getattr(state, player).params)
        # Adam's first moment after a step from 0 is 0.1 of the gradient.
        moments = getattr(after, player).opt_state.inner_state[0].mu
        for found, wanted in zip(jax.tree.leaves(moments), jax.tree.leaves(expected), strict=True):
            atol = 1e-5 * float(np.abs(wanted).max())
            np.testing.assert_allclose(found, 0.1 * wanted, rtol=1e-4, atol=0.1 * atol)
    if bias < 0:
        assert (
            max(
                float(np.abs(x).max())
                for x in jax.tree.leaves(jax.grad(gen_loss)(state.generator.params))
            )
            > 1e-6
        )


class AgainstTheirMean(MLPDiscriminator):
    """Not on its own: each image's logit depends on the others."""

    def __call__(self, images, train=False):
        logits = super().__call__(images, train)
        return logits - logits.mean() + (logits**2).mean()


def test_a_discriminator_that_compares_images_has_its_own_pass_for_each_player(small):
    network = AgainstTheirMean(widths=(16, 8), dropout=(0.0, 0.0))
    state = create_state(RNG, GANConfig(**(vars(small) | {"discriminator": network})))
    images = np.random.default_rng(1).uniform(-1, 1, (8, 6, 5, 1)).astype(np.float32)
    latents = jax.random.normal(jax.random.split(jax.random.fold_in(RNG, 0), 4)[0], (8, 7))

    def gen_loss(generator_params):
        fake = state.generator.apply_fn({"params": generator_params}, latents)
        logits = state.discriminator.apply_fn({"params": state.discriminator.params}, fake)
        return -jax.nn.log_sigmoid(logits).mean()

    after, _ = train_step(state, images, RNG)
    expected = jax.grad(gen_loss)(state.generator.params)
    moments = after.generator.opt_state.inner_state[0].mu
    for found, wanted in zip(jax.tree.leaves(moments), jax.tree.leaves(expected), strict=True):
        atol = 1e-6 * float(np.abs(wanted).max())
        np.testing.assert_allclose(found, 0.1 * wanted, rtol=1e-4, atol=atol)
