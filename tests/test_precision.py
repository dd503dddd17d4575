"""GANConfig.precision: layers in bfloat16, all else in float32."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgan import GANConfig, JaxganError, create_state, data, sample, train_step

RNG = jax.random.key(0)


@pytest.fixture(scope="module")
def states(tiny):
    """Before the first step, by their precision."""
    return {
        precision: create_state(RNG, dataclasses.replace(tiny, precision=precision))
        for precision in ("f32", "bf16")
    }


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_all_matrix_products_are_of_the_precision(states, images, precision):
    program = jax.jit(train_step).lower(states[precision], images, RNG).as_text()
    operands = re.findall(r"dot_general.* : \((.*)\) ->", program)
    assert len(operands) > 10
    types = {kind for pair in operands for kind in re.findall(r"x([a-z]+\d+)>", pair)}
    assert types == {precision}


def test_parameters_moments_metrics_and_images_stay_in_float32(states, images):
    # The same parameters to begin with.
    for one, other in zip(*map(jax.tree.leaves, states.values()), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    after, metrics = train_step(states["bf16"], images, RNG)
    for one, other in zip(*map(jax.tree.leaves, (states["f32"], after)), strict=True):
        assert one.dtype == other.dtype
    assert {m.dtype for m in metrics} == {jnp.dtype("float32")}
    assert sample(after, RNG, 3).dtype == jnp.float32


def test_bf16_trains_as_f32_does():
    pictures = data.load("digits").images
    batches = jnp.asarray(pictures[:1472]).reshape(-1, 64, *pictures.shape[1:])
    batches = jnp.tile(batches, (4, 1, 1, 1, 1))

    def losses(precision: str) -> np.ndarray:
        config = GANConfig(
            image_shape=pictures.shape[1:],
            generator_widths=(64,),
            discriminator_widths=(64,),
            discriminator_dropout=(0.3,),
            precision=precision,
        )
        _, metrics = jax.lax.scan(
            lambda state, batch: train_step(state, batch, RNG), create_state(RNG, config), batches
        )
        return np.stack([metrics.gen_loss, metrics.disc_loss], axis=-1)

    f32, bf16 = losses("f32"), losses("bf16")
    # bfloat16 has 8 bits; both losses change by more than 0.07 in these 92 steps.
    assert (f32 != bf16).any(axis=0).all()
    np.testing.assert_allclose(bf16, f32, atol=0.02)
    assert (np.ptp(bf16, axis=0) > 0.07).all()


def test_a_precision_without_effect_is_refused():
    with pytest.raises(JaxganError, match=r"^precision must be one of f32, bf16, got 'f16'"):
        GANConfig(precision="f16")  # pyright: ignore
    GANConfig(precision="bf16", generator=nn.Dense(1))
    with pytest.raises(JaxganError, match="both networks are your own modules"):
        GANConfig(precision="bf16", generator=nn.Dense(1), discriminator=nn.Dense(1))
