import dataclasses

import flax.linen as nn
import pytest

from jaxgan import PRESETS, GANConfig, JaxganError, TrainConfig


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
    assert (train.epochs, train.batch_size, train.checkpoint_every) == (50, 128, 10)
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
        ("generator_widths", (64, -1)),
        ("generator_widths", (64, 1.5)),
        ("discriminator_dropout", (0.5, 0.3)),
        ("discriminator_dropout", (0.5, 0.3, 1.0)),
        ("generator_lr", 0.0),
        ("discriminator_b1", 1.0),
        ("generator_b2", -0.1),
        ("adam_eps", 0.0),
    ],
)
def test_gan_fields_out_of_range_are_named(field, value):
    with pytest.raises(JaxganError, match=f"GANConfig.{field} must be"):
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
    with pytest.raises(JaxganError, match=f"TrainConfig.{field} must be"):
        TrainConfig(**{field: value})
