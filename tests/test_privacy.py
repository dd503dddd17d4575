import dataclasses
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, assert_trees_close, make_mesh, make_shard_map, placed
from jax_privacy import clipping
from scipy import optimize, stats

from jaxgan import MODELS, GANConfig, JaxganError, privacy
from jaxgan.diffusion import DiffusionConfig
from jaxgan.privacy import Mechanism
from jaxgan.shards import Shards

SHAPE, N = (4, 4, 1), 12
GAN = GANConfig(
    image_shape=SHAPE,
    latent_dim=4,
    generator_widths=(),
    discriminator_widths=(8,),
    discriminator_dropout=(0.5,),
    discriminator_lr=1e-30,  # it does not change, and passes nothing on
    num_classes=3,
    clip_norm=0.1,
    gradient_penalty=1.0,
    r1=1.0,
)
# In the first step of this model only the last layer has a gradient: blocks would add none.
DIFFUSION = DiffusionConfig(
    image_shape=SHAPE,
    width=8,
    blocks=0,
    num_classes=3,
    adam_eps=1e-3,
    clip_norm=0.1,
    noise_multiplier=0.5,
    noise_draws=2,
)
CONFIGS = {"gan": GAN, "diffusion": DIFFUSION}


def make_batch(seed=0, n=N, included=True):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (n, *SHAPE), np.uint8),
        "label": rng.integers(0, 3, n).astype(np.int32),
        "included": np.full(n, included),
    }


def replaced(batch, at, **values):
    """The batch with other values at these places."""
    changed = {name: batch[name].copy() for name in values}
    for name, value in values.items():
        changed[name][at] = value
    return batch | changed


def first_moments(state):
    """The first moments of the network that sees real images: a tenth of its gradients."""
    learner = getattr(state, "discriminator", None) or state.denoiser
    moments = jax.device_get(jax.tree.leaves(learner.opt_state.inner_state[0].mu))
    return np.concatenate([x.ravel() for x in moments])


def squared_errors(params, x, y):
    """The loss of one example with a layer of two dimensions."""
    return jnp.square(jnp.tanh(x @ params["kernel"]) + params["bias"] - y).sum()


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(5, 3)), "bias": rng.normal(size=3)}
    x, y = 2 * rng.normal(size=(N, 5)), rng.normal(size=(N, 3))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, (x, y)))


def summed(params, examples, clip_norm, noise=0.0, included=None, rng=RNG):
    """`private_gradients` as a sum."""
    grads = privacy.private_gradients(
        lambda params, example: squared_errors(params, *example),
        params,
        examples,
        included,
        rng,
        clip_norm=clip_norm,
        noise_multiplier=noise,
        shards=Shards(),
    )
    return jax.tree.map(lambda g: len(examples[0]) * g, grads)


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")  # in jax-privacy
@pytest.mark.parametrize("clip_norm", [0.5, 7.0, 1e4])
@pytest.mark.parametrize("at_once", [1, 5, N])
def test_clipped_gradients_are_those_of_jax_privacy(problem, clip_norm, at_once, monkeypatch):
    params, examples = problem
    monkeypatch.setattr(privacy, "_FLOATS_AT_ONCE", 18 * at_once)
    clipped = clipping.clipped_grad(
        squared_errors, l2_clip_norm=clip_norm, batch_argnums=(1, 2), keep_batch_dim=False
    )
    found = summed(params, examples, clip_norm / privacy.MARGIN)
    assert_trees_close(found, clipped(params, *examples))


def test_examples_that_do_not_count_or_are_not_finite_add_nothing(problem):
    params, (x, y) = problem
    kept = jnp.arange(N) < N - 2
    x = x.at[0].set(np.nan).at[1].set(np.inf)
    found = summed(params, (x, y), 0.5, included=kept)
    rest = summed(params, (x[2:-2], y[2:-2]), 0.5)
    assert_trees_close(found, rest)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_noise_has_its_deviation_and_depends_on_the_key_alone(problem):
    params, examples = problem
    rngs = jax.random.split(RNG, 2000)
    noisy = jax.vmap(lambda rng: summed(params, examples, 0.5, 3.0, rng=rng)["kernel"])(rngs)
    noise = np.asarray(noisy - summed(params, examples, 0.5)["kernel"][None])
    deviations = noise.std(axis=0) / 1.5
    np.testing.assert_allclose(deviations, 1, atol=5 / math.sqrt(2 * len(rngs)))
    # Independent between the entries.
    correlations = np.corrcoef(noise.reshape(len(rngs), -1), rowvar=False) - np.eye(15)
    assert np.abs(correlations).max() < 5 / math.sqrt(len(rngs))


@pytest.mark.parametrize("name", CONFIGS)
def test_one_image_moves_the_gradients_by_the_clip_norm_at_most(name):
    model, config = MODELS[name], CONFIGS[name]
    state, batch = model.create_state(RNG, config), make_batch()
    without = replaced(batch, 3, included=False)
    other = make_batch(seed=1)
    outlier = replaced(batch, 3, **{k: other[k][3] for k in ("image", "label")})
    moments = [
        first_moments(model.train_step(state, one, RNG)[0]) for one in (batch, without, outlier)
    ]
    unit = 0.1 * config.clip_norm / N  # Adam's first moment, of a mean over N places
    sizes = [np.linalg.norm(moments[0] - m) / unit for m in moments[1:]]
    # Exactly the margin, since clipping acts on this image.
    assert sizes[0] == pytest.approx(privacy.MARGIN, rel=1e-3)
    assert 0.01 < sizes[1] <= 2.0001


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_real_images_reach_the_generator_through_the_discriminator_alone(updates):
    model = MODELS["gan"]
    config = dataclasses.replace(GAN, updates=updates)
    state = model.create_state(RNG, config)
    one, other = (model.train_step(state, make_batch(seed), RNG) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, one[0].generator, other[0].generator)
    for metric in ("gen_loss", "fake_score", "gen_grad_norm"):
        assert getattr(one[1], metric) == getattr(other[1], metric)
    assert one[1].disc_grad_norm != other[1].disc_grad_norm


@pytest.mark.parametrize("name", CONFIGS)
def test_a_private_step_composes(name):
    model, config = MODELS[name], CONFIGS[name]
    if name == "gan":  # dropout and penalties draw other numbers in each shard
        config = dataclasses.replace(
            config,
            discriminator_widths=(),
            discriminator_dropout=(),
            discriminator_lr=1e-3,
            adam_eps=1e-3,
            noise_multiplier=0.5,
            gradient_penalty=0.0,
        )
    state = model.create_state(RNG, config)
    batch = replaced(make_batch(), slice(5), included=False)
    rngs = jax.random.split(RNG, 2)
    alone = [model.train_step(state, batch, rng) for rng in rngs]
    split = placed(state), placed(batch, "data")
    step = make_shard_map(model.train_step, make_mesh())
    assert_trees_close(step(*split, rngs[0]), alone[0])
    # In one program, which takes long to compile: a split batch, and a vmap over keys.
    many = jax.device_get(jax.vmap(model.train_step, (None, None, 0))(*split, rngs))
    for i in range(2):
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], many), alone[i])


def gaussian_delta(epsilon, noise):
    """The delta of one Gaussian mechanism (arXiv 1805.06530, theorem 8)."""
    a, b = 0.5 / noise, epsilon * noise
    return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)


@pytest.mark.parametrize(("noise", "steps"), [(3.73, 1), (0.5, 1), (4.0, 9)])
def test_epsilon_without_sampling_is_the_closed_form(noise, steps):
    # k Gaussian mechanisms are one with a noise that is smaller by the root of k.
    one = noise / math.sqrt(steps)
    exact = optimize.brentq(lambda e: gaussian_delta(e, one) - 1e-5, 0, 50)
    found = privacy.epsilon(Mechanism(1.0, noise, steps), 1e-5)
    assert exact * 0.9999 <= found <= exact * 1.005


@pytest.mark.parametrize(("noise", "renyi"), [(0.77, 10.038), (1.46, 3.009), (3.54, 1.0008)])
def test_epsilon_of_random_batches_is_below_that_of_a_second_accountant(noise, renyi):
    found = privacy.epsilon(Mechanism(512 / 60_000, noise, 10_000), 1e-5)
    assert 0.85 * renyi < found < renyi


@pytest.mark.parametrize(("wanted", "rate", "steps"), [(1.0, 1.0, 1), (3.0, 0.01, 500)])
def test_the_noise_multiplier_is_the_smallest_that_suffices(wanted, rate, steps):
    noise = privacy.noise_multiplier(wanted, 1e-5, rate, steps)
    assert privacy.epsilon(Mechanism(rate, noise, steps), 1e-5) <= wanted
    assert privacy.epsilon(Mechanism(rate, 0.995 * noise, steps), 1e-5) > wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pac": 2}, "pac must not couple images"),
        ({"dragan": 1.0}, "dragan must not couple images"),
        ({"loss": "relativistic"}, "the relativistic loss shows real images to the generator"),
        ({"unroll_steps": 1}, "unroll_steps has no noise"),
        ({"spectral_norm": True}, "spectral_norm keeps statistics"),
        ({"precision": "bf16"}, "precision 'bf16' rounds sums of many images"),
        ({"clip_norm": 0.0, "noise_multiplier": 1.0}, "no effect without clip_norm"),
        ({"clip_norm": -1.0}, "clip_norm must be 0 or more"),
        ({"noise_multiplier": math.nan}, "noise_multiplier must be 0 or more"),
    ],
)
def test_what_couples_images_is_refused(options, message):
    with pytest.raises(JaxganError, match=re.escape(message)):
        dataclasses.replace(GAN, **options)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = nn.BatchNorm(use_running_average=not train)(images.reshape(len(images), -1))
        return nn.Dense(1)(x)


def test_batch_norm_is_refused():
    config = dataclasses.replace(GAN, num_classes=0, discriminator=Normalized())
    state = MODELS["gan"].create_state(RNG, config)
    with pytest.raises(JaxganError, match="the discriminator keeps statistics of its batches"):
        MODELS["gan"].train_step(state, make_batch(), RNG)
