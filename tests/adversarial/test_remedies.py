"""The options of GANConfig against collapse and instability, as parts of `train_step`.

Their mathematics is tested in test_dirac.py, test_losses.py, test_penalties.py and
test_schedules.py.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    RNG,
    Point,
    Slope,
    assert_trees_close,
    assert_trees_equal,
    make_mesh,
    make_shard_map,
    placed,
    train,
)
from scipy.special import expit

from jaxgan import (
    MODELS,
    GANConfig,
    JaxganError,
    TrainConfig,
    create_state,
    loop,
    sample,
    train_step,
)
from jaxgan.gan import _pack
from jaxgan.run import population, saved, training
from jaxgan.run.checkpoint import RunFolder

GAN = MODELS["gan"]
# Batches, images, latents and layers are of size 8: each new shape takes time to compile.
TINY = GANConfig(
    image_shape=(4, 2, 1),
    latent_dim=8,
    generator_widths=(),
    discriminator_widths=(8,),
    discriminator_dropout=(0.0,),
    # Adam would magnify the rounding of gradients that are 0.
    adam_eps=1e-3,
)
SGD = {"optimizer": "sgd", "adam_eps": 1e-7, "generator_lr": 0.1, "discriminator_lr": 0.1}
OPTIONS = {
    "relativistic": {
        "loss": "relativistic",
        "r1": "cosine:1:0.1:6",
        "r2": 0.5,
        "ema_decay": 0.9,
        "lr_scale": "linear:1:0.1:8",
        "spectral_norm": True,
        "num_classes": 3,
    },
    "unrolled": {
        "loss": "least_squares",
        "unroll_steps": 2,
        "label_smoothing": 0.1,
        "weight_clip": 0.1,
        "weight_penalty": 0.01,
        "disc_steps": 2,
        **SGD,
    },
    # These draw random numbers in each step.
    "noisy": {
        "loss": "hinge",
        "updates": "alternating",
        "instance_noise": "linear:0.3:0:8",
        "augment": 0.5,
        # It is a gradient penalty around the real images.
        "dragan": 0.5,
        "pac": 2,
        "num_classes": 3,
        "discriminator_dropout": (0.3,),
        **SGD,
    },
}


@functools.cache
def begin(name, seed=5):
    return create_state(jax.random.key(seed), dataclasses.replace(TINY, **OPTIONS[name]))


@functools.cache
def make_batches():
    """Four batches of eight images, with labels for the options that have classes."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 4, 2, 1), np.uint8)
    return {"image": images, "label": np.arange(32, dtype=np.int32).reshape(4, 8) % 3}


def batches(*at):
    """The batches at these places, one after another."""
    return [jax.tree.map(lambda x, i=i: x[i], make_batches()) for i in at or range(4)]


@functools.cache
def one_by_one(name, seed=5):
    """One step after another: all else is compared with this."""
    return train(begin(name, seed), batches(), jax.random.key(seed))


@pytest.mark.parametrize("name", OPTIONS)
def test_they_train(name):
    state, metrics = one_by_one(name)
    assert state.step == 4
    assert np.isfinite(metrics).all()
    for network in ("generator", "discriminator"):
        before, after = getattr(begin(name), network).params, getattr(state, network).params
        for layer in before:
            kernels = [np.asarray(params[layer]["kernel"]) for params in (before, after)]
            assert (kernels[0] != kernels[1]).any()


@pytest.mark.parametrize("name", OPTIONS)
def test_scan_of_donated_states_under_vmap_over_sharded_batches(name):
    """All of these in one program, which is compared with single runs."""
    seeds = (5, 6)
    rngs = jnp.stack([jax.random.key(seed) for seed in seeds])
    step = jax.vmap(train_step, in_axes=(0, None, 0))

    @functools.partial(jax.jit, donate_argnums=0)
    def scanned(states, batches):
        return jax.lax.scan(lambda states, batch: step(states, batch, rngs), states, batches)

    singles = [begin(name, seed) for seed in seeds]
    donated = placed(jax.tree.map(lambda *xs: np.stack(xs), *singles))
    split = placed(make_batches(), None, "data")
    assert all(len(x.sharding.device_set) == 2 for x in jax.tree.leaves(split))
    states, metrics = jax.device_get(scanned(donated, split))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    for i, seed in enumerate(seeds):
        found = population.member(states, i), jax.tree.map(lambda x, i=i: x[:, i], metrics)
        assert_trees_close(found, one_by_one(name, seed))


@pytest.mark.parametrize(
    ("name", "check_vma"), [("relativistic", True), ("unrolled", True), ("unrolled", False)]
)
def test_shard_map_of_options_that_draw_no_numbers(name, check_vma):
    step = make_shard_map(train_step, make_mesh(), check_vma)
    split = [placed(batch, "data") for batch in batches()]
    found = train(placed(begin(name)), split, step=step)
    assert_trees_close(found, one_by_one(name))


def test_shard_map_of_options_that_draw_numbers():
    split = [placed(batch, "data") for batch in batches()]
    step = make_shard_map(train_step, make_mesh())
    state, metrics = train(placed(begin("noisy")), split, step=step)
    assert np.isfinite(metrics).all()
    kernels = [s.discriminator.params["Dense_0"]["kernel"] for s in (state, begin("noisy"))]
    assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).any()


def dirac(theta=0.8, psi=-1.5, **options):
    """D(x) = psi x against one generated point, by steps of 0.1 times the gradient."""
    config = GANConfig(
        image_shape=(1, 1, 1),
        latent_dim=1,
        generator=Point(theta),
        discriminator=Slope(psi),
        **({"optimizer": "sgd", "generator_lr": 0.1, "discriminator_lr": 0.1} | options),
    )
    return create_state(RNG, config)


POINTS = np.array([0.5, -0.25, 0.75], np.float32).reshape(3, 1, 1, 1)


def run(state, steps, images=POINTS):
    """The states from the first to the last, and the metrics of each step."""
    states, history = [state], []
    for _ in range(steps):
        state, metrics = train_step(state, images, RNG)
        states.append(state)
        history.append(metrics)
    return states, history


def thetas(states):
    return np.array([state.generator.params["theta"] for state in states], np.float64)


def psis(states):
    return np.array([state.discriminator.params["psi"] for state in states], np.float64)


def test_eager_is_jit():
    # Its step has a cond and a scan, which are Python there. The second updates both networks.
    state, _ = train(dirac(**OPTIONS["unrolled"]), [POINTS])
    with jax.disable_jit():
        eager = train(state, [POINTS])
    assert_trees_close(eager, train(state, [POINTS]))


def test_samples_come_from_a_running_average():
    decay = 0.8
    states, _ = run(dirac(ema_decay=decay), 40)
    average = 0.8
    for step, theta in enumerate(thetas(states)[1:]):
        share = min(decay, (1 + step) / (10 + step))
        average = share * average + (1 - share) * theta
        np.testing.assert_allclose(states[step + 1].ema["theta"], average, rtol=1e-5)
    last = states[-1]
    assert abs(average - thetas(states)[-1]) > 0.01
    np.testing.assert_allclose(sample(last, RNG, 2), np.full((2, 1, 1, 1), average), rtol=1e-5)
    raw = sample(last.replace(ema=None), RNG, 2)
    np.testing.assert_allclose(raw, np.full((2, 1, 1, 1), thetas(states)[-1]), rtol=1e-6)
    assert dirac().ema is None


def test_learning_rates_follow_the_training_steps_of_both_networks():
    scaled, _ = run(dirac(lr_scale="linear:1:0:4", disc_steps=2), 6)
    # The generator is updated in the second and the fourth step, in the latter with a quarter of
    # the rate; from then on neither network changes.
    theta, psi = 0.8, -1.5
    for step in range(6):
        rate = 0.1 * max(0, 1 - step / 4)
        on_real = (-expit(-psi * POINTS) * POINTS).mean()
        theta_now = theta
        if step % 2:
            theta = theta + rate * expit(-psi * theta) * psi
        psi = psi - rate * (on_real + expit(psi * theta_now) * theta_now)
        np.testing.assert_allclose(thetas(scaled)[step + 1], theta, rtol=1e-5)
        np.testing.assert_allclose(psis(scaled)[step + 1], psi, rtol=1e-5)
    assert thetas(scaled)[3] != thetas(scaled)[4] == thetas(scaled)[6]


def test_both_networks_get_the_noise_of_the_step():
    # From 1 to 0 after the first step; the discriminator hardly changes.
    options = {"instance_noise": "linear:1:0:1", "discriminator_lr": 1e-12}
    (_, first), _ = run(dirac(**options), 1)
    (_, second), _ = run(dirac(updates="alternating", **options), 1)
    np.testing.assert_allclose(thetas([first]), thetas([second]), rtol=1e-6)
    without = 0.8 - 0.1 * expit(1.5 * 0.8) * 1.5
    assert abs(thetas([first]) - without) > 1e-4


def test_clipped_parameters_stay_within_their_bound():
    states, _ = run(dirac(psi=0.05, weight_clip=0.1, loss="wasserstein"), 12)
    # The slope of the discriminator falls by about 0.1 (theta - mean of the points) = 0.047 a step.
    expected = np.maximum(0.05 - 0.047 * np.arange(13), -np.float32(0.1))
    np.testing.assert_allclose(psis(states), expected, atol=0.002)
    assert (psis(states)[5:] == -np.float32(0.1)).all()


def objective(psi, theta):
    return jax.nn.softplus(-psi * POINTS.ravel()).mean() + jax.nn.softplus(psi * theta)


@jax.jit
@jax.grad
def unrolled_slope(theta, psi, m, v, count):
    """Of the generator's loss after three updates of the discriminator by Adam."""
    for t in (count + 1, count + 2, count + 3):
        slope = jax.grad(objective)(psi, theta)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        root = jnp.sqrt(v / (1 - 0.999**t))
        psi = psi - 0.05 * m / (1 - 0.9**t) / (root + 1e-7)
    return jax.nn.softplus(-psi * theta)


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_the_unrolled_discriminator_goes_on_with_its_own_adam(updates):
    """Adam by Algorithm 1 of Kingma and Ba 2014 (arXiv 1412.6980), differentiated."""
    options = {"optimizer": "adam", "generator_lr": 0.02, "discriminator_lr": 0.05}
    state = dirac(unroll_steps=3, updates=updates, **options)
    (*_, before, after), _ = run(state, 4)
    # The start of the three updates: that of this step is the first of them, or comes before them.
    start = before if updates == "simultaneous" else after
    with jax.enable_x64(True):
        adam = start.discriminator.opt_state.inner_state[0]
        begun = [float(x["psi"]) for x in (start.discriminator.params, adam.mu, adam.nu)]
        theta = float(before.generator.params["theta"])
        expected = float(unrolled_slope(theta, *begun, float(adam.count)))
    moments = [float(s.generator.opt_state.inner_state[0].mu["theta"]) for s in (before, after)]
    np.testing.assert_allclose((moments[1] - 0.9 * moments[0]) / 0.1, expected, rtol=1e-4)


class Pair(nn.Module):
    """A discriminator of two grey pixels at once, <w, x>."""

    @nn.compact
    def __call__(self, images):
        assert images.shape[1:] == (1, 1, 2)
        w = self.param("w", lambda rng: jnp.array([1.5, -0.5]))
        return (images[:, 0, 0] * w[None]).sum(axis=1)


def test_packed_images_have_one_logit():
    config = dataclasses.replace(dirac().config, discriminator=Pair(), pac=2)
    state = create_state(RNG, config)
    images = np.array([0.5, -0.25, 0.75, 1.0, -1.0], np.float32)
    after, _ = train_step(state, images.reshape(5, 1, 1, 1), RNG)
    w, theta = np.array([1.5, -0.5]), 0.8
    # Of five images the last is left out.
    pairs, fake = images[:4].reshape(2, 2).astype(np.float64), theta * np.ones(2)
    w_gradient = (-expit(-pairs @ w)[:, None] * pairs).mean(axis=0) + expit(fake @ w) * fake
    np.testing.assert_allclose(after.discriminator.params["w"], w - 0.1 * w_gradient, rtol=1e-5)
    theta_gradient = -expit(-fake @ w) * w.sum()
    np.testing.assert_allclose(thetas([after])[0], theta - 0.1 * theta_gradient, rtol=1e-5)
    images[4] = 0.3
    again, _ = train_step(state, images.reshape(5, 1, 1, 1), RNG)
    assert_trees_equal(again.discriminator.params, after.discriminator.params)
    with pytest.raises(JaxganError, match="pac=2 needs at least 2 images in a batch, got 1"):
        train_step(state, images[:1].reshape(1, 1, 1, 1), RNG)


def test_the_images_of_a_pack_are_its_channels():
    images = np.arange(5 * 2 * 2 * 3).reshape(5, 2, 2, 3)
    packed = np.asarray(_pack(jnp.asarray(images), 2))
    assert packed.shape == (2, 2, 2, 6)
    np.testing.assert_array_equal(packed[1, ..., :3], images[2])
    np.testing.assert_array_equal(packed[1, ..., 3:], images[3])


def test_shards_draw_their_own_noise():
    step = make_shard_map(train_step, make_mesh())
    # The shards change their images: with equal noise the mean score would stay.
    scores = [
        float(step(dirac(instance_noise=1.0), np.concatenate(shards), RNG)[1].real_score)
        for shards in ((POINTS, -POINTS), (-POINTS, POINTS))
    ]
    assert abs(scores[0] - scores[1]) > 1e-3


def test_unrolling_leaves_the_discriminator_as_it_is():
    # With the second rate the updates ahead overflow, and with them the generator's gradient.
    states = [dirac(unroll_steps=k, loss="least_squares") for k in (0, 5)]
    for rate in (0.1, 1e13):
        options = {"discriminator_lr": rate}
        plain, unrolled = (
            run(population.with_hyperparameters(GAN, state, **options), 1) for state in states
        )
        np.testing.assert_array_equal(psis(plain[0]), psis(unrolled[0]))
        assert np.isfinite(psis(plain[0])).all()
        assert np.isfinite(thetas(unrolled[0])[1]) == (rate == 0.1)
        assert thetas(plain[0])[1] != thetas(unrolled[0])[1]
        # Metrics are of the parameters before the step.
        assert plain[1][0].gen_loss == unrolled[1][0].gen_loss


def test_unrolling_through_adam_is_finite_where_a_gradient_is_zero():
    # The fake is at 0, and so are the data.
    options = {"optimizer": "adam", "unroll_steps": 2}
    states, _ = run(dirac(theta=0.0, psi=0.0, **options), 2, np.zeros((1, 1, 1, 1), np.float32))
    assert np.isfinite(thetas(states)).all()
    assert np.isfinite(psis(states)).all()


EVERYTHING = {
    "loss": "relativistic",
    "disc_steps": 2,
    "instance_noise": "linear:0.3:0:8",
    "r1": "cosine:1:0.1:6",
    "lr_scale": "exponential:1:0.1:8",
    "ema_decay": 0.9,
    "spectral_norm": True,
    "discriminator_dropout": (0.5,),
}
"""Options of each kind that make the state larger, or depend on the step, or draw numbers."""
FIT = {"batch_size": 8, "epochs": 2, "progress": False}


@pytest.mark.optimized
def test_members_in_turns_and_a_resumed_run_are_single_runs_to_the_bit(tmp_path):
    """In one test, since these programs take long to compile."""
    config = dataclasses.replace(TINY, **EVERYTHING)
    images = np.asarray(make_batches()["image"]).reshape(32, 4, 2, 1)
    seeds, rates = [2**32 - 1, 0], [config.generator_lr, 3e-4]
    options = {"devices": 1, "vectorize": False, **FIT}
    members = population.train_population(GAN, config, images, seeds, generator_lr=rates, **options)
    for i, seed in enumerate(seeds):
        rngs = loop.make_rngs(seed)
        state = create_state(rngs.init, config)
        if rates[i] != config.generator_lr:  # else its state has the rate already
            state = population.with_hyperparameters(GAN, state, generator_lr=rates[i])
        start = loop.start_run(train_step, state, images, batch_size=8)
        alone = loop.fit(train_step, start, images, rngs.training, **FIT)
        member = population.member(members.state, i)
        assert_trees_equal(jax.tree.leaves(member), jax.tree.leaves(alone.state))
        for row, expected in zip(members.history, alone.history, strict=True):
            for name in expected.keys() - {"epoch", "step", "seconds", "steps_per_second"}:
                assert row[name][i] == expected[name]
    assert members.history[0]["gen_loss"][0] != members.history[0]["gen_loss"][1]

    stopped = start
    for _ in range(3):
        # Asked before each stretch of steps, the first of which is one.
        answers = iter([False, True])
        stop = {"should_stop": lambda answers=answers: next(answers)}
        stopped = loop.fit(train_step, stopped, images, rngs.training, **FIT, **stop)
    assert stopped.state.step == 3
    with RunFolder(tmp_path / "run", {}) as folder:
        folder.save(int(stopped.state.step), saved.as_checkpoint(stopped))
    with RunFolder(tmp_path / "run", {}) as folder:
        found = folder.restore(saved.as_checkpoint(start))
    restored = loop.Run(**jax.device_get(found.arrays), **found.record)
    assert_trees_equal(restored.state, stopped.state)
    resumed = loop.fit(train_step, restored, images, rngs.training, **FIT)
    assert_trees_equal(resumed.state, alone.state)
    assert resumed.history[-1]["gen_loss"] == alone.history[-1]["gen_loss"]


def test_a_last_batch_smaller_than_a_pack_is_refused_before_there_is_a_folder(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((17, 4, 2), np.uint8))
    settings = TrainConfig(dataset=str(tmp_path / "images.npy"), batch_size=8)
    message = "pac=2 needs at least 2 .*: of 17 images in batches of 8 the last batch has 1; choose"
    with pytest.raises(JaxganError, match=message):
        training.train(GAN, dataclasses.replace(TINY, pac=2), settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_packs_is_read_back(tmp_path):
    config = dataclasses.replace(TINY, pac=2)
    described = {"gan": vars(config), "train": vars(TrainConfig(batch_size=8))}
    with RunFolder(tmp_path / "run", described):
        pass
    assert saved.read_config(GAN, tmp_path / "run") == config


class Holes(nn.Module):
    """A discriminator that measures how much is cut out of an image."""

    @nn.compact
    def __call__(self, images):
        share = (images == 0).mean(axis=(1, 2, 3))
        return self.param("weight", nn.initializers.ones, ()) * share


def test_real_and_generated_images_are_augmented():
    # With a probability of 0 in the first step, and of 1 in the second.
    config = dataclasses.replace(
        TINY, image_shape=(8, 8, 1), discriminator=Holes(), augment="linear:0:1:1"
    )
    state = create_state(jax.random.key(0), config)
    for probability in (0, 1):
        now = state.replace(discriminator=state.discriminator.replace(step=jnp.int32(probability)))
        _, metrics = train_step(now, np.ones((16, 8, 8, 1), np.float32), jax.random.key(1))
        # At least a quarter of a cutout is in the image, at most all of it.
        low, high = (1 / (1 + np.exp(-probability * share)) for share in (1 / 16, 1 / 4))
        for score in (metrics.real_score, metrics.fake_score):
            assert low <= score <= high
