"""The diffusion model: its losses, its samples, and how it runs."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, assert_trees_equal, train

from jaxgan import MODELS, JaxganError, TrainConfig, data, samplers
from jaxgan.diffusion import DiffusionConfig, create_state, generate, sample, train_step
from jaxgan.run import saved, training

SMALL = DiffusionConfig(image_shape=(4, 4, 1), width=32, blocks=0, adam_eps=1e-3)
COSINE = samplers.signal_shares("cosine", 1000)[1:]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("noise", 1.0),
        ("v", (COSINE + (1 - COSINE) * 0.6**2).mean()),
        ("image", (0.6**2 / np.maximum(1 - COSINE, 0.5**2)).mean()),
    ],
)
def test_the_loss_of_a_prediction_of_zero_is_the_mean_square_of_its_target(prediction, expected):
    """The first prediction of a network is 0. All pixels of all images are 0.6."""
    config = dataclasses.replace(SMALL, prediction=prediction)
    images = np.full((4096, 4, 4, 1), 0.6, np.float32)
    _, metrics = train_step(create_state(RNG, config), images, RNG)
    assert float(metrics.loss) == pytest.approx(expected, rel=0.02)
    assert float(metrics.zero_loss) == pytest.approx(float(metrics.loss), rel=1e-5)
    parts = (metrics.low_loss, metrics.middle_loss, metrics.high_loss)
    assert float(sum(parts)) / 3 == pytest.approx(float(metrics.loss), rel=1e-5)
    if prediction == "v":
        thirds = np.array_split(COSINE + (1 - COSINE) * 0.6**2, 3)
        np.testing.assert_allclose(parts, [third.mean() for third in thirds], rtol=0.03)


class Oracle(nn.Module):
    """Predicts what says that the clean image is 0.25 everywhere, whatever it is."""

    prediction: str

    @nn.compact
    def __call__(self, x: jax.Array, levels: jax.Array) -> jax.Array:
        self.param("unused", nn.initializers.zeros, ())
        shares = jnp.asarray(samplers.signal_shares("cosine", 1000), jnp.float32)
        share = shares[jnp.round(levels * 1000).astype(int)][:, None, None, None]
        a, s = jnp.sqrt(share), jnp.sqrt(1 - share)
        clean = jnp.full_like(x, 0.25)
        return {"image": clean, "noise": (x - a * clean) / s, "v": (a * x - clean) / s}[
            self.prediction
        ]


def test_the_three_predictions_of_one_estimate_agree():
    images = np.random.default_rng(0).uniform(-1, 1, (512, 4, 4, 1)).astype(np.float32)
    losses, drawn = {}, {}
    for prediction in ("noise", "v", "image"):
        config = dataclasses.replace(SMALL, prediction=prediction, denoiser=Oracle(prediction))
        state = create_state(RNG, config)
        losses[prediction] = jax.tree.map(float, train_step(state, images, RNG)[1])
        drawn[prediction] = sample(state, RNG, 5)
    # The error of v is that of the image divided by s_t^2, here where s_t is not below its bound.
    for part in ("middle_loss", "high_loss"):
        found = getattr(losses["v"], part)
        assert found == pytest.approx(getattr(losses["image"], part), rel=1e-4)
    assert losses["v"].low_loss > 2 * losses["image"].low_loss
    # That of the noise is a_t^2 times as large: 1 = a_t^2 + s_t^2.
    assert losses["noise"].loss < losses["v"].loss
    mean = np.square(images - 0.25).mean()
    third = COSINE[666:]
    assert losses["noise"].high_loss == pytest.approx(mean * (third / (1 - third)).mean(), rel=0.05)
    for images in drawn.values():
        np.testing.assert_allclose(images, 0.25, atol=1e-3)


def fit(config, images, steps, labels=None):
    """A model after some steps on all of these images at once, in one program."""
    batch = {"image": jnp.asarray(images, jnp.float32)}
    batch |= {} if labels is None else {"label": jnp.asarray(labels)}

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: train_step(s, batch, RNG), state, length=steps)[0]

    return run(create_state(RNG, config))


def test_a_ring_in_512_dimensions_is_learned_by_predicting_images_and_not_noise():
    """arXiv 2511.13720, figure 2: a network that is narrower than the data cannot hold noise."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 64)
    basis = np.linalg.qr(rng.normal(size=(512, 512)))[0][:2]
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ basis
    errors = {}
    for prediction in ("image", "noise"):
        config = DiffusionConfig(
            image_shape=(1, 1, 512),
            prediction=prediction,
            noise_schedule="linear",
            width=64,
            blocks=1,
            lr=3e-3,
            lr_scale="cosine:1:0:250",
            ema_decay=0.9,
            bounded=False,
            sample_steps=20,
        )
        state = fit(config, points[:, None, None], 250)
        drawn = np.asarray(sample(state, RNG, 200), np.float64).reshape(200, 512)
        plane = drawn @ basis.T
        off_plane = np.linalg.norm(drawn - plane @ basis, axis=1)
        off_ring = np.abs(np.linalg.norm(plane, axis=1) - 1)
        errors[prediction] = np.hypot(off_plane, off_ring).mean()
    assert errors["image"] < 0.2
    assert errors["noise"] > 1.0


@pytest.fixture(scope="module")
def classes():
    """A model of three classes: images of -0.8, 0 and 0.8, with a little noise."""
    labels = np.arange(96) % 3
    noise = 0.1 * np.random.default_rng(0).normal(size=(96, 2, 2, 1))
    config = DiffusionConfig(
        image_shape=(2, 2, 1),
        width=64,
        blocks=1,
        weight_bound=400,
        num_classes=3,
        ema_decay=0.99,
        sample_steps=20,
    )
    images = 0.8 * (labels - 1)[:, None, None, None] + noise
    return fit(config, images.clip(-1, 1), 1000, labels)


def test_samples_are_of_the_wanted_class(classes):
    drawn = [np.asarray(sample(classes, RNG, 200, label)) for label in range(3)]
    np.testing.assert_allclose([x.mean() for x in drawn], [-0.8, 0, 0.8], atol=0.1)
    assert 0.05 < drawn[1].std() < 0.2
    # By default all classes in turn.
    assert_trees_equal(sample(classes, RNG, 6), sample(classes, RNG, 6, [0, 1, 2, 0, 1, 2]))


def test_guidance_weighs_the_class(classes):
    def guided(guidance, labels):
        config = dataclasses.replace(classes.config, guidance=guidance)
        return np.asarray(sample(classes.replace(config=config), RNG, 100, labels))

    # Without guidance the class is ignored: all three come.
    without = guided(0.0, 1)
    np.testing.assert_array_equal(without, guided(0.0, 2))
    assert without.std() > 0.4
    assert np.abs(guided(1.5, 1)).mean() < np.abs(guided(0.5, 1)).mean()


def test_samples_by_ddim_are_functions_of_their_latents(classes):
    latents = jax.random.normal(RNG, (6, 2, 2, 1))
    one, other = (generate(classes, latents, jax.random.key(seed), 1) for seed in (0, 1))
    assert_trees_equal(one, other)
    config = dataclasses.replace(classes.config, eta=1.0)
    one, other = (
        np.asarray(generate(classes.replace(config=config), latents, jax.random.key(seed), 1))
        for seed in (0, 1)
    )
    assert (one != other).all()


def test_latents_of_another_shape_are_refused(classes):
    with pytest.raises(JaxganError, match=r"latents must be \[B, 2, 2, 1\], got \(3, 4\)"):
        generate(classes, jnp.zeros((3, 4)))


def test_latents_in_bfloat16_give_the_images_of_the_same_numbers(classes):
    latents = jax.random.normal(RNG, (3, 2, 2, 1), jnp.bfloat16)
    expected = generate(classes, latents.astype(jnp.float32))
    assert_trees_equal(generate(classes, latents), expected)


def test_samples_come_from_the_average_of_the_parameters():
    images = np.random.default_rng(0).uniform(-1, 1, (16, 4, 4, 1)).astype(np.float32)
    state, _ = train(create_state(RNG, SMALL), [images] * 5, step=train_step)
    raw = MODELS["diffusion"].raw(state)
    assert raw.ema is None
    found, others = np.asarray(sample(state, RNG, 3)), np.asarray(sample(raw, RNG, 3))
    assert (found != others).any()
    averaged = raw.replace(denoiser=raw.denoiser.replace(params=state.ema))
    np.testing.assert_array_equal(sample(averaged, RNG, 3), found)
    assert np.abs(found).max() <= 1


class Narrow(nn.Module):
    """A denoiser with parameters in bfloat16."""

    @nn.compact
    def __call__(self, x: jax.Array, levels: jax.Array) -> jax.Array:
        return nn.Dense(1, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x)


def test_the_average_of_parameters_in_bfloat16_stays_float32():
    config = DiffusionConfig(image_shape=(4, 4, 1), denoiser=Narrow(), sample_steps=2)
    state = fit(config, np.zeros((8, 4, 4, 1)), 2)
    trees = (state.denoiser.params, state.ema)
    types = [{str(x.dtype) for x in jax.tree.leaves(tree)} for tree in trees]
    assert types == [{"bfloat16"}, {"float32"}]
    assert sample(state, RNG, 3).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "x"}, "prediction must be one of noise, image, v, got 'x'"),
        ({"sample_steps": 2000}, "sample_steps must be at most noise_levels, 1000, got 2000"),
        ({"lr_scale": "cosine:1"}, "lr_scale: "),
        ({"eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
        ({"denoiser": Oracle("v"), "num_classes": 2}, "the denoiser does not take the classes"),
        ({"weight_bound": 0}, "weight_bound must be above 0, and finite, got 0"),
        ({"weight_bound": 9, "prediction": "v"}, "weight_bound is for predicted images, not for v"),
        ({"denoiser": nn.Dense(1)}, "the denoiser does not take the noise levels"),
        ({"lr_scale": 0.0}, "lr_scale must be above 0 at some time"),
        ({"noise_levels": 10, "sample_steps": 5}, "noise_levels must be a whole number, 50"),
        ({"noise_levels": 99.5}, "noise_levels must be a whole number, 50 or more, got 99.5"),
        ({"eta": 0.5, "sampler": "dpm_solver"}, "eta is for the sampler ddim, not for dpm_solver"),
        (
            {"num_classes": 3, "guidance": 2.0, "label_dropout": 0.0},
            "guidance needs a label_dropout above 0",
        ),
    ],
)
def test_a_wrong_config_is_refused(options, message):
    with pytest.raises(JaxganError, match=message):
        DiffusionConfig(**options)


class Flat(nn.Module):
    """A denoiser of another shape than its images."""

    @nn.compact
    def __call__(self, x: jax.Array, levels: jax.Array) -> jax.Array:
        return nn.Dense(3)(x.reshape(len(x), -1)) + levels[:, None]


def test_a_denoiser_of_another_shape_is_refused():
    config = DiffusionConfig(image_shape=(4, 4, 1), denoiser=Flat())
    with pytest.raises(JaxganError, match="must give predictions of the shape of its images"):
        create_state(RNG, config)


class UNet(nn.Module):
    """A small U-Net, as a user might write it: two scales, and the noise level in each block."""

    channels: int = 8

    @nn.compact
    def __call__(
        self, x: jax.Array, levels: jax.Array, labels: jax.Array | None = None
    ) -> jax.Array:
        rates = jnp.asarray(np.geomspace(1, 500, 16), jnp.float32)
        angles = levels[:, None] * rates[None]
        code = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        if labels is not None:
            code = jnp.concatenate([code, labels], axis=1)
        code = nn.silu(nn.Dense(4 * self.channels)(code))
        fine = self._block(nn.Conv(self.channels, (3, 3))(x), code)
        coarse = nn.Conv(2 * self.channels, (3, 3), strides=2)(fine)
        coarse = self._block(coarse, code)
        n, height, width, channels = coarse.shape
        up = jax.image.resize(coarse, (n, 2 * height, 2 * width, channels), "nearest")
        both = jnp.concatenate([fine, up], axis=-1)
        fine = self._block(nn.Conv(self.channels, (3, 3))(both), code)
        return nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros)(fine)

    def _block(self, x: jax.Array, code: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = nn.GroupNorm(num_groups=4)(x)
        y = y + nn.Dense(channels)(code)[:, None, None]
        return x + nn.Conv(channels, (3, 3))(nn.silu(y))


def test_a_unet_of_your_own_learns_the_digits():
    digits = data.load("digits")
    config = DiffusionConfig(
        image_shape=(8, 8, 1), denoiser=UNet(), num_classes=10, ema_decay=0.9, lr=3e-3
    )
    images, labels = digits.images[:256], np.asarray(digits.labels)[:256]
    state, metrics = train(
        create_state(RNG, config),
        [
            {"image": images[i : i + 64], "label": labels[i : i + 64]}
            for i in (0, 64, 128, 192) * 10
        ],
        step=train_step,
    )
    losses = np.asarray(metrics.loss)
    assert losses[-8:].mean() < 0.6 * losses[:2].mean()
    assert sample(state, RNG, 2, 3).shape == (2, 8, 8, 1)


def test_a_loss_that_does_not_fall_is_seen():
    def history(losses):
        zero = np.full_like(losses[0], 2.0).tolist()
        return [
            {"epoch": epoch, "step": 500 * epoch, "loss": loss, "zero_loss": zero}
            for epoch, loss in enumerate(losses, 1)
        ]

    diagnose: Any = MODELS["diffusion"].diagnose
    (found,) = diagnose(history([2.0, 2.0, 2.1, 1.96, 1.92, 1.8])).findings[0]
    assert (found.name, found.epochs) == ("loss not falling", (4, 5))
    assert found.evidence == "the loss is 1.96; predicting 0 gives 2"
    assert diagnose(history(6 * [1.5])).findings == [[]]
    assert diagnose(history(6 * [1.5])).caveat is None
    # Before 2,000 steps it is too early.
    short = diagnose(history([2.0, 2.0, 2.0]))
    assert short.findings == [[]]
    assert short.caveat == "the run is short: it is judged from 2,000 steps on"
    assert diagnose([]) == ([[]], "the run has no epoch yet")
    both = diagnose(history(5 * [[0.5, 2.0]])).findings
    assert [len(member) for member in both] == [0, 1]


def test_each_image_of_a_batch_has_a_level_of_another_part():
    """The squares of the noise of a constant image, by their level, come from all levels evenly."""
    seen = []

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, levels: jax.Array) -> jax.Array:
            self.param("unused", nn.initializers.zeros, ())
            jax.debug.callback(lambda levels: seen.append(np.asarray(levels)), levels)
            return x

    config = DiffusionConfig(image_shape=(4, 4, 1), denoiser=Spy())
    state = create_state(RNG, config)
    for _ in range(2):
        state, _ = train_step(state, np.zeros((20, 4, 4, 1), np.float32), RNG)
    jax.effects_barrier()
    first, second = (np.round(levels * 1000).astype(int) for levels in seen[-2:])
    for levels in (first, second):
        np.testing.assert_array_equal((np.sort(levels) - 1) // 50, np.arange(20))
        assert (np.diff(levels) < 0).any()  # in no order
    assert (first != second).any()


@pytest.mark.usefixtures("no_curves")
def test_a_run_resumes_to_the_bit_and_a_population_is_its_members(tmp_path):
    model = MODELS["diffusion"]
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    options: Any = {"dataset": str(tmp_path / "images.npy"), "evaluate": False}
    settings = TrainConfig(**options, epochs=2, batch_size=16, devices=1)
    training.train(model, SMALL, settings, tmp_path / "whole")
    first = dataclasses.replace(settings, epochs=1)
    training.train(model, SMALL, first, tmp_path / "parts")
    # Sampling may change.
    quick = dataclasses.replace(SMALL, sample_steps=5)
    training.train(model, quick, settings, tmp_path / "parts")
    whole, parts = (saved.load_state(model, tmp_path / name)[0] for name in ("whole", "parts"))
    assert parts.config == quick
    for one, other in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_array_equal(one, other)
    many = dataclasses.replace(settings, population=2, sweep=("lr=1e-3,1e-2",))
    outcome = training.train(model, SMALL, many, tmp_path / "many")
    member = saved.load_state(model, tmp_path / "many", 0)[0]
    for one, other in zip(*map(jax.tree.leaves, (member, whole)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len(outcome.labels) == 4
