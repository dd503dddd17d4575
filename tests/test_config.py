import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxgan import PRESETS, GANConfig, JaxganError, TrainConfig, create_state, schedules
from jaxgan.adversarial.penalties import PENALTIES


def test_equal_configs_are_one_key():
    assert GANConfig(generator_widths=[3, 4]) == GANConfig(generator_widths=(3, 4))
    assert len({GANConfig(), GANConfig(), GANConfig(latent_dim=3)}) == 2
    assert GANConfig(generator=nn.Dense(3)) == GANConfig(generator=nn.Dense(3))


def test_modules_that_cannot_be_hashed_are_refused():
    with pytest.raises(JaxganError, match="hashable"):
        GANConfig(generator=nn.Sequential([nn.Dense(3)]))


def test_reference_preset_is_the_default():
    gan, train = PRESETS["reference"]
    assert (gan, train) == (GANConfig(), TrainConfig())
    train = train.fitted(60_000)
    assert (train.epochs, train.batch_size) == (50, 128)
    assert (train.sample_every, train.checkpoint_every) == (1, 10)
    assert (gan.latent_dim, gan.generator_lr, gan.discriminator_lr, gan.adam_eps) == (
        100,
        1e-3,
        1e-3,
        1e-7,
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_shape", (28, 28)),
        ("image_shape", (28, 28, 0)),
        ("latent_dim", 0),
        ("generator_widths", 64),
        ("generator_widths", "64"),
        ("generator_widths", (64, -1)),
        ("generator_widths", (64, 1.5)),
        ("discriminator_dropout", (0.5, 0.3)),
        ("discriminator_dropout", (0.5, 0.3, 1.0)),
        ("generator_lr", 0.0),
        ("generator_lr", "fast"),
        ("discriminator_b1", 1.0),
        ("generator_b2", -0.1),
        ("adam_eps", 0.0),
        ("optimizer", "rmsprop"),
        ("loss", "bce"),
        ("updates", "both"),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("ema_decay", 1.0),
        ("disc_steps", 0),
        ("disc_steps", 1.5),
        ("unroll_steps", -1),
        ("unroll_steps", 0.5),
        ("pac", 0),
        ("weight_clip", -0.01),
        ("instance_noise", -0.1),
        ("augment", -0.1),
        ("augment", "linear:0:1.1:10"),
        ("r1", -1.0),
        ("r2", "linear:1:-1:10"),
        ("roth", float("nan")),
        ("lr_scale", "linear:-1:1:10"),
        ("lr_scale", 0.0),
        ("r1", float("inf")),
        ("generator_lr", float("inf")),
        ("weight_clip", float("inf")),
        ("bounded", "false"),
        ("spectral_norm", "no"),
        ("spectral_norm", 1),
        ("discriminator_dropout", ("a", 0.0, 0.0)),
        ("r1", jnp.ones(())),
        ("lr_scale", None),
    ],
)
def test_gan_fields_out_of_range_are_named(field, value):
    with pytest.raises(JaxganError, match=f"^{field} must be"):
        dataclasses.replace(GANConfig(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("sample_every", 0),
        ("checkpoint_every", 0),
        ("image_size", 0),
    ],
)
def test_train_fields_out_of_range_are_named(field, value):
    with pytest.raises(JaxganError, match=f"^{field} must be"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("field", ["instance_noise", "augment", "lr_scale", *PENALTIES])
def test_a_malformed_schedule_is_named_with_its_field(field):
    with pytest.raises(JaxganError, match=rf"^{field}: a schedule is .*; got 'linear:1'"):
        GANConfig(**{field: "linear:1"})


MODULE = nn.Dense(1)


def test_the_networks_of_the_presets_have_their_published_sizes():
    def parameters(preset):
        state = jax.eval_shape(lambda: create_state(jax.random.key(0), PRESETS[preset][0]))
        learners = (state.generator, state.discriminator)
        return [sum(x.size for x in jax.tree.leaves(learner.params)) for learner in learners]

    assert parameters("reference") == [249_296, 242_177]
    generator, discriminator = parameters("tuned")
    assert generator == 249_296
    assert 0.9 * 242_177 <= discriminator <= 1.1 * 242_177
    assert PRESETS["tuned"][1] == PRESETS["reference"][1]
    assert parameters("large") == [1_486_352, 1_460_225]


@pytest.mark.parametrize(("preset", "end"), [("tuned", 0.1), ("large", 0.1), ("diffusion", 0.01)])
@pytest.mark.parametrize("images", [60_000, 1500])
def test_the_rates_of_a_preset_fall_until_its_last_step(preset, end, images):
    config, train = PRESETS[preset]
    train = train.fitted(images)
    steps = train.epochs * math.ceil(images / train.batch_size)
    assert 0 <= steps - train.steps < math.ceil(images / train.batch_size)
    scale = schedules.over(config, steps).lr_scale
    at = [float(schedules.value(scale, t)) for t in (0, steps // 2, steps, 2 * steps)]
    assert at == pytest.approx([1, (1 + end) / 2, end, end], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "wasserstein"}, "'wasserstein' is unbounded .*: add gradient_penalty"),
        # Neither bounds the slope of the discriminator.
        ({"loss": "wasserstein", "weight_penalty": 1.0}, "unbounded"),
        ({"loss": "wasserstein", "r1": "linear:0:0:10"}, "unbounded"),
        ({"loss": "wasserstein", "r1": 1.0, "label_smoothing": 0.1}, "'wasserstein' has none"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing needs a loss with labels"),
        ({"loss": "relativistic", "label_smoothing": 0.1}, "take non_saturating, minimax or"),
        ({"loss": "hinge", "roth": 1.0}, "roth needs a cross-entropy, and 'hinge' is none"),
        ({"loss": "least_squares", "roth": 1.0}, "or r1 and r2"),
        ({"loss": "relativistic", "roth": "linear:1:0:10"}, "'relativistic' is none"),
        ({"loss": "wasserstein", "weight_clip": 0.1, "roth": 1.0}, "'wasserstein' is none"),
        (
            {"weight_clip": 0.1, "spectral_norm": True},
            "weight_clip has no effect with spectral_norm",
        ),
        ({"spectral_norm": True, "discriminator": MODULE}, "flax.linen.SpectralNorm"),
        ({"optimizer": "sgd", "generator_b1": 0.5}, "'sgd' has no moments"),
        ({"optimizer": "sgd", "adam_eps": 1e-3}, "'adam_eps'"),
        (
            {"image_shape": (1, 1, 2), "augment": 0.5},
            "augment is for images, and the data are points",
        ),
    ],
)
def test_options_that_make_no_sense_together_are_refused_with_the_reason(options, reason):
    with pytest.raises(JaxganError, match=reason):
        GANConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "wasserstein", "weight_clip": 0.01},
        {"loss": "wasserstein", "spectral_norm": True},
        {"loss": "wasserstein", "r1": "linear:0:1:10"},
        {"loss": "wasserstein", "gradient_penalty": 10.0},
        # Nothing is known of this discriminator.
        {"loss": "wasserstein", "discriminator": MODULE},
        {"loss": "least_squares", "label_smoothing": 0.1},
        {"loss": "minimax", "roth": 0.1, "label_smoothing": 0.1},
        {"optimizer": "sgd", "generator_lr": 0.1},
    ],
)
def test_options_that_make_sense_together_are_taken(options):
    GANConfig(**options)


def test_a_config_with_schedules_survives_json():
    gan = GANConfig(
        generator_widths=(8,),
        loss="relativistic",
        r1="cosine:1:0.1:1000",
        r2=0.5,
        lr_scale="exponential:1:0.01:1000",
        instance_noise="linear:0.1:0:500",
        augment="linear:0:0.5:500",
        disc_steps=2,
        spectral_norm=True,
    )
    again = GANConfig(**json.loads(json.dumps(dataclasses.asdict(gan))))
    assert again == gan
    assert hash(again) == hash(gan)
