import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, Point, Slope, assert_trees_equal, latents_of
from scipy.special import expit

from jaxgan import MODELS, GANConfig, JaxganError, create_state, generate, sample, train_step
from jaxgan.networks import MLPDiscriminator

THETA, PSI = 0.8, -1.5


@pytest.fixture(scope="module")
def state(small):
    """The reference's architecture, small, before its first step."""
    return create_state(RNG, small)


@pytest.fixture(scope="module")
def dirac():
    """A generator and a discriminator of one parameter each."""
    config = GANConfig((1, 1, 1), 1, generator=Point(THETA), discriminator=Slope(PSI))
    return create_state(RNG, config)


def test_gradients_are_simultaneous_and_in_closed_form(dirac):
    theta, psi, x = THETA, PSI, np.array([0.5, -0.25], np.float32)
    after, metrics = train_step(dirac, x.reshape(2, 1, 1, 1), RNG)
    # -log s(psi theta) for the generator; -log s(psi x) - log(1 - s(psi theta)) for the other.
    generator_gradient = -expit(-psi * theta) * psi
    discriminator_gradient = (-expit(-psi * x) * x).mean() + expit(psi * theta) * theta
    # Adam's first moment after one step is (1 - b1) times the gradient.
    moments = [
        jax.tree.leaves(learner.opt_state.inner_state[0].mu)[0]
        for learner in (after.generator, after.discriminator)
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
    np.testing.assert_allclose(metrics.gen_loss, -np.log(expit(psi * theta)), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.disc_loss,
        -np.log(expit(psi * x)).mean() - np.log(expit(-psi * theta)),
        rtol=1e-5,
    )
    np.testing.assert_allclose(metrics.real_score, expit(psi * x).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.fake_score, expit(psi * theta), rtol=1e-5)


def test_both_networks_are_updated_and_their_updates_counted(state, images):
    assert state.step == 0
    after, _ = train_step(state, images, RNG)
    assert (after.step, after.generator.step, after.discriminator.step) == (1, 1, 1)
    for network in ("generator", "discriminator"):
        before, now = getattr(state, network).params, getattr(after, network).params
        moved = jax.tree.map(lambda a, b: (np.asarray(a) != np.asarray(b)).any(), before, now)
        assert all(jax.tree.leaves(moved))


def test_bytes_are_scaled_floats(dirac):
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 1, 1), np.uint8)
    floats = (images.astype(np.float32) - 127.5) / 127.5
    from_bytes = train_step(dirac, images, RNG)
    # XLA scales bytes and floats in different fusions: equal up to the last bit of a float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8),
        from_bytes,
        train_step(dirac, floats, RNG),
    )
    assert_trees_equal(from_bytes, train_step(dirac, {"image": images, "label": 3}, RNG))


def test_a_constant_rng_draws_new_latents_each_step(state, images):
    later = state.replace(discriminator=state.discriminator.replace(step=jnp.int32(1)))
    _, first = train_step(state, images, RNG)
    _, second = train_step(later, images, RNG)
    assert first.fake_score != second.fake_score


def test_any_batch_size_trains(flat, images):
    state = create_state(RNG, dataclasses.replace(flat, optimizer="sgd"))
    for n in (1, 3):  # 32 are in other tests
        state, metrics = train_step(state, images[:n], RNG)
        assert np.isfinite(metrics).all()


def test_equal_configs_give_equal_tree_structures(small, state):
    again = dataclasses.replace(small)
    assert again is not small
    second = create_state(jax.random.key(1), again)
    assert jax.tree.structure(state) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: None, state, second)

    def structure(rng, config):
        return jax.tree.structure(jax.eval_shape(create_state, rng, config))

    # Traced anew, for a key of another kind.
    assert jax.tree.structure(state) == structure(jax.random.PRNGKey(0), small)
    other = dataclasses.replace(small, latent_dim=9)
    assert jax.tree.structure(state) != structure(RNG, other)


def test_one_trace_per_config_and_shape(flat, images):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images):
            traces.append(images.shape)
            return nn.Dense(1)(images.reshape(images.shape[0], -1))

    config = dataclasses.replace(flat, discriminator=Counted())
    state = create_state(RNG, config)
    created = len(traces)
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
    jax.eval_shape(train_step, state, images[:5], RNG)
    # Another shape costs exactly one trace more.
    assert len(traces) == once + (once - created)


def test_networks_with_statistics_and_without_train(flat, images):
    class Generator(nn.Module):
        @nn.compact
        def __call__(self, latents, train: bool):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(30)(latents))
            return nn.tanh(x).reshape(-1, 6, 5, 1)

    class Discriminator(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(1)(images.reshape(images.shape[0], -1))

    config = dataclasses.replace(flat, generator=Generator(), discriminator=Discriminator())
    state = create_state(RNG, config)
    start = state.generator.collections["batch_stats"]["BatchNorm_0"]
    assert not np.any(start["mean"])
    state, _ = train_step(state, images, RNG)
    now = state.generator.collections["batch_stats"]["BatchNorm_0"]
    assert np.all(now["mean"])
    # Sampling uses the statistics and leaves them; an image does not depend on its neighbours.
    latents = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    np.testing.assert_allclose(
        generate(state, latents)[:2], generate(state, latents[:2]), atol=1e-6
    )


@pytest.mark.parametrize("both", [True, False])
def test_networks_in_bfloat16_train_with_losses_in_float32(flat, images, both):
    class Generator(nn.Module):
        @nn.compact
        def __call__(self, latents):
            x = nn.LayerNorm(dtype=jnp.bfloat16)(nn.Dense(30, dtype=jnp.bfloat16)(latents))
            return nn.tanh(x).reshape(-1, 6, 5, 1)

    class Discriminator(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(1, dtype=jnp.bfloat16)(images.reshape(images.shape[0], -1))

    own = {"generator": Generator()} | ({"discriminator": Discriminator()} if both else {})
    state = create_state(RNG, dataclasses.replace(flat, gradient_penalty=1.0, **own))
    after, metrics = train_step(state, images, RNG)
    assert {metric.dtype for metric in metrics} == {jnp.dtype("float32")}
    assert sample(after, RNG, 2).dtype == jnp.float32
    kernels = [s.generator.params["Dense_0"]["kernel"] for s in (state, after)]
    assert kernels[1].dtype == jnp.float32
    assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).any()


def test_the_average_of_a_generator_in_bfloat16_moves(flat, images):
    class Generator(nn.Module):
        @nn.compact
        def __call__(self, latents):
            x = nn.Dense(30, param_dtype=jnp.bfloat16)(latents)
            return nn.tanh(x).reshape(-1, 6, 5, 1)

    config = dataclasses.replace(flat, generator=Generator(), ema_decay=0.9999)
    start = create_state(RNG, config)
    start = start.replace(discriminator=start.discriminator.replace(step=jnp.int32(10**6)))
    step = lambda state, _: train_step(state, images, RNG)  # noqa: E731
    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, length=3))(start)
    before, after, params = (
        x["Dense_0"]["kernel"] for x in (start.ema, state.ema, state.generator.params)
    )
    assert (after.dtype, params.dtype) == (jnp.float32, jnp.bfloat16)
    assert (before != after).mean() > 0.5
    # Samples are those of the average in the types of the parameters.
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.ema)
    averaged = state.generator.replace(params=narrow)
    assert_trees_equal(
        sample(state, RNG, 3), sample(state.replace(generator=averaged, ema=None), RNG, 3)
    )


def test_real_and_generated_images_get_different_dropout(flat):
    """With equal images on both sides and one mask, both scores would be equal."""

    class Gray(nn.Module):
        @nn.compact
        def __call__(self, latents):
            shift = self.param("shift", nn.initializers.zeros, ())
            return jnp.broadcast_to(shift, (latents.shape[0], 6, 5, 1))

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, images, train: bool = False):
            x = nn.Dense(16)(images.reshape(images.shape[0], -1) + 1)
            return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))

    config = dataclasses.replace(flat, generator=Gray(), discriminator=Dropped())
    _, metrics = train_step(create_state(RNG, config), np.zeros((8, 6, 5, 1), np.float32), RNG)
    assert abs(float(metrics.real_score) - float(metrics.fake_score)) > 1e-3


def test_samples_follow_the_rng(state):
    first, again, other = (np.asarray(sample(state, jax.random.key(i), 3)) for i in (0, 0, 1))
    assert first.shape == (3, 6, 5, 1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).all(axis=(1, 2, 3)).all()


def test_the_scale_of_the_latents_acts_on_samples_alone(state, images):
    wide = state.replace(config=dataclasses.replace(state.config, latent_scale=1.5))
    latents = jax.random.normal(jax.random.key(2), (3, state.config.latent_dim))
    expected = generate(state, 1.5 * latents)
    np.testing.assert_array_equal(generate(wide, latents), expected)
    assert (np.asarray(generate(state, latents)) != expected).any()
    none = state.replace(config=dataclasses.replace(state.config, latent_scale=0))
    assert np.ptp(sample(none, RNG, 4), axis=0).max() == 0
    trained, _ = train_step(state, images, RNG)
    others, _ = train_step(wide, images, RNG)
    assert_trees_equal(others.generator, trained.generator)
    assert_trees_equal(others.discriminator, trained.discriminator)
    with pytest.raises(JaxganError, match="latent_scale must be 0 or more"):
        dataclasses.replace(state.config, latent_scale=-1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((4, 5, 6, 1), np.uint8), r"must be \[B, 6, 5, 1\]"),
        (np.zeros((4, 6, 5), np.uint8), r"must be \[B, 6, 5, 1\]"),
        (np.zeros((0, 6, 5, 1), np.uint8), "B >= 1"),
        (np.zeros((4, 6, 5, 1), np.int32), "uint8 or float"),
    ],
)
def test_wrong_batches_are_refused(state, batch, message):
    with pytest.raises(JaxganError, match=message):
        train_step(state, batch, RNG)


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


def test_latents_of_another_shape_are_refused(state):
    with pytest.raises(JaxganError, match=r"latents must be \[B, 7\], got \(3, 8\)"):
        generate(state, jnp.zeros((3, 8)))


@jax.jit
def gradients_by_definition(state, images, latents):
    """Of both networks: each one's own loss, differentiated on its own."""

    def logits(discriminator_params, images):
        return state.discriminator.apply_fn({"params": discriminator_params}, images)

    def gen_loss(generator_params):
        fake = state.generator.apply_fn({"params": generator_params}, latents)
        return -jax.nn.log_sigmoid(logits(state.discriminator.params, fake)).mean()

    def disc_loss(discriminator_params):
        fake = state.generator.apply_fn({"params": state.generator.params}, latents)
        on_real = jax.nn.log_sigmoid(logits(discriminator_params, images))
        return -(on_real + jax.nn.log_sigmoid(-logits(discriminator_params, fake))).mean()

    return {
        "generator": jax.grad(gen_loss)(state.generator.params),
        "discriminator": jax.grad(disc_loss)(state.discriminator.params),
    }


def check_gradients(state, images, networks, relative_atol):
    """Compares the gradients of a step, as Adam's first moments have them, with the definition.

    Returns those by definition.
    """
    latents = latents_of(RNG, 0, len(images), state.config.latent_dim)
    expected = gradients_by_definition(state, images, latents)
    after, _ = train_step(state, images, RNG)
    for network in networks:
        # The moment after a step from 0 is 0.1 of the gradient.
        moments = getattr(after, network).opt_state.inner_state[0].mu
        for moment, gradient in zip(
            jax.tree.leaves(moments), jax.tree.leaves(expected[network]), strict=True
        ):
            atol = 0.1 * relative_atol * float(np.abs(gradient).max())
            np.testing.assert_allclose(moment, 0.1 * np.asarray(gradient), rtol=1e-4, atol=atol)
    return expected


@pytest.mark.parametrize("bias", [0.0, -30.0, -200.0, 200.0])
def test_both_gradients_are_those_of_the_losses_at_any_logit(small, bias):
    config = dataclasses.replace(small, discriminator_dropout=(0.0, 0.0))
    state = create_state(RNG, config)
    params = jax.tree.map(lambda x: x, state.discriminator.params)
    params["Dense_2"]["bias"] = params["Dense_2"]["bias"] + bias
    state = state.replace(discriminator=state.discriminator.replace(params=params))
    images = np.random.default_rng(1).uniform(-1, 1, (8, *config.image_shape)).astype(np.float32)
    expected = check_gradients(state, images, ("generator", "discriminator"), 1e-5)
    if bias < 0:
        largest = max(np.abs(x).max() for x in jax.tree.leaves(expected["generator"]))
        assert largest > 1e-6


class AgainstTheirMean(MLPDiscriminator):
    """The logit of each image depends on the other images."""

    def __call__(self, images, train=False):
        logits = super().__call__(images, train)
        return logits - logits.mean() + (logits**2).mean()


def test_a_discriminator_that_compares_images_has_its_own_pass_for_each_network(small):
    network = AgainstTheirMean(widths=(8,), dropout=(0.0,))
    config = dataclasses.replace(small, generator_widths=(), discriminator=network)
    state = create_state(RNG, config)
    images = np.random.default_rng(1).uniform(-1, 1, (8, 6, 5, 1)).astype(np.float32)
    check_gradients(state, images, ["generator"], 1e-5)


def test_the_norms_of_the_parameters_are_measured(small):
    state = create_state(jax.random.key(0), small)
    found = MODELS["gan"].measure(state)
    for name, learner in (("gen", state.generator), ("disc", state.discriminator)):
        flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(learner.params)])
        np.testing.assert_allclose(found[f"{name}_param_norm"], np.linalg.norm(flat), rtol=1e-6)


def test_the_equilibrium_has_closed_forms():
    found = MODELS["gan"].equilibrium(GANConfig(loss="non_saturating"))
    expected = {"gen_loss": np.log(2), "disc_loss": np.log(4), "real_score": 0.5, "fake_score": 0.5}
    assert found == pytest.approx(expected, rel=1e-6)
    # With labels of 0.7 a discriminator that cannot tell has a score of 0.7 / 2.
    found = MODELS["gan"].equilibrium(GANConfig(loss="minimax", label_smoothing=0.3))
    assert found["real_score"] == found["fake_score"] == pytest.approx(0.35, rel=1e-6)
    assert found["gen_loss"] == pytest.approx(np.log(0.65), rel=1e-6)
    # Any logit is as good for the Wasserstein loss.
    found = MODELS["gan"].equilibrium(GANConfig(loss="wasserstein", r1=1.0))
    assert found == {"gen_loss": 0, "disc_loss": 0}
