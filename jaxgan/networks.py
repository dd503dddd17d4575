"""The multilayer perceptrons of the models, as Flax linen modules."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

_glorot = nn.initializers.glorot_uniform()


class MLPGenerator(nn.Module):
    """Dense layers with ReLU from latents to images.

    `__call__`: latents `[B, latent_dim]` -> images `[B, H, W, C]`. A tanh keeps these in [-1, 1]
    unless `bounded` is False. The layers compute in `dtype`, by default that of their inputs; the
    parameters are float32. With `num_classes` it takes labels `[B]` too. Their one-hot code is
    joined to the latents (arXiv 1411.1784).
    """

    widths: tuple[int, ...]
    image_shape: tuple[int, int, int]
    dtype: Any = None
    bounded: bool = True
    num_classes: int = 0

    @nn.compact
    def __call__(self, latents: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        x = latents
        if labels is not None:
            x = jnp.concatenate([x, _one_hot(labels, self.num_classes, x.dtype)], axis=-1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype, kernel_init=_glorot)(x))
        x = nn.Dense(math.prod(self.image_shape), dtype=self.dtype, kernel_init=_glorot)(x)
        return (nn.tanh(x) if self.bounded else x).reshape(-1, *self.image_shape)


class MLPDiscriminator(nn.Module):
    """Dense layers with LeakyReLU(0.2) and dropout from images to logits.

    `__call__`: images `[B, H, W, C]` in [-1, 1] -> logits `[B]`; dropout is active if `train`. The
    layers compute in `dtype`, by default that of their inputs; the parameters are float32. With
    `spectral_norm` each kernel is divided by an estimate of its largest singular value (arXiv
    1802.05957). With `num_classes` it takes labels too, `[B]`, or `[B, pac]` for packed images, and
    adds the product of the last hidden layer with a vector of the label (arXiv 1802.05637).
    """

    widths: tuple[int, ...]
    dropout: tuple[float, ...]
    dtype: Any = None
    spectral_norm: bool = False
    num_classes: int = 0

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, labels: jax.Array | None = None
    ) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        drop = train and any(self.dropout)
        bits = self._draw_bits(x.shape[0]) if drop else [None] * len(self.widths)
        for width, rate, layer_bits in zip(self.widths, self.dropout, bits, strict=True):
            x = nn.leaky_relu(self._dense(width, x, train), 0.2)
            if layer_bits is not None:
                x = _drop(x, rate, layer_bits)
        logits = self._dense(1, x, train)[:, 0]
        if labels is None:
            return logits
        one_hot = _one_hot(labels, self.num_classes, x.dtype).reshape(x.shape[0], -1)
        return logits + (self._dense(x.shape[1], one_hot, train) * x).sum(axis=1)

    def _dense(self, width: int, x: jax.Array, train: bool) -> jax.Array:
        if self.spectral_norm:
            return SpectralDense(width, self.dtype)(x, train)
        return nn.Dense(width, dtype=self.dtype, kernel_init=_glorot)(x)

    def _draw_bits(self, batch_size: int) -> list[jax.Array]:
        """16 random bits for each unit of each layer, `[B, width]`, uint32.

        Two units share a random word of 32 bits, and all layers share one draw. nn.Dropout draws
        for each layer, which takes longer to compile and to run.
        """
        units = sum(self.widths)
        words = jax.random.bits(self.make_rng("dropout"), (batch_size, -(-units // 2)))
        bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=1)[:, :units]
        return jnp.split(bits, np.cumsum(self.widths)[:-1], axis=1)


class MLPDenoiser(nn.Module):
    """A residual MLP from noisy images and their noise levels to what a diffusion model predicts.

    `__call__`: images `[B, H, W, C]`, noise levels `[B]` in [0, 1] and, with `num_classes`, one-hot
    labels `[B, num_classes]`, which are 0 for images without a class -> `[B, H, W, C]`. Each block
    normalises its input, then scales and shifts it by a code of noise level and label (arXiv
    1709.07871). If it is `bounded`, a tanh keeps the result in [-1, 1]. The layers compute in
    `dtype`, by default that of their inputs; the parameters are float32.
    """

    width: int
    blocks: int
    dtype: Any = None
    bounded: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, levels: jax.Array, labels: jax.Array | None = None
    ) -> jax.Array:
        def dense(size: int, **options: Any) -> nn.Dense:
            return nn.Dense(size, dtype=self.dtype, **options)

        code = _waves(levels)
        if labels is not None:
            code = jnp.concatenate([code, labels.astype(code.dtype)], axis=1)
        code = nn.silu(dense(_CODE)(code))
        x = dense(self.width)(images.reshape(images.shape[0], -1))
        for _ in range(self.blocks):
            scale, shift = jnp.split(dense(2 * self.width)(code), 2, axis=1)
            y = nn.LayerNorm(use_scale=False, use_bias=False, dtype=self.dtype)(x)
            y = nn.silu(dense(self.width)(y * (1 + scale) + shift))
            x = x + dense(self.width)(y)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        # The first prediction is 0.
        x = dense(math.prod(images.shape[1:]), kernel_init=nn.initializers.zeros, name="last")(x)
        return (nn.tanh(x) if self.bounded else x).reshape(images.shape)


class MaskedMLP(nn.Module):
    """Dense layers with ReLU from images and masks to images.

    `__call__`: images `[B, H, W, C]`, masks `[B, H, W, C]` -> `[B, H, W, C]`. If it is `bounded`, a
    tanh keeps the result in [-1, 1].
    """

    widths: tuple[int, ...]
    bounded: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, masks: jax.Array) -> jax.Array:
        n = images.shape[0]
        x = jnp.concatenate([images.reshape(n, -1), masks.reshape(n, -1)], axis=1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
        x = nn.Dense(math.prod(images.shape[1:]), kernel_init=nn.initializers.he_normal())(x)
        return (nn.tanh(x) if self.bounded else x).reshape(images.shape)


_CODE = 128
"""The size of the code of noise level and label."""


def _waves(levels: jax.Array) -> jax.Array:
    """Sines and cosines of noise levels in [0, 1], of 32 wavelengths: `[B]` -> `[B, 64]`."""
    rates = jnp.asarray(np.pi * np.geomspace(1, 500, 32), levels.dtype)
    angles = levels[:, None] * rates[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _one_hot(labels: jax.Array, num_classes: int, dtype: Any) -> jax.Array:
    """`[...]` -> `[..., num_classes]`."""
    return jax.nn.one_hot(labels, num_classes, dtype=dtype)


def _drop(x: jax.Array, rate: float, bits: jax.Array) -> jax.Array:
    """Dropout by 16 random bits for each unit; the rate is rounded to a multiple of 2**-16."""
    threshold = min(round(rate * 2**16), 2**16 - 1)
    keep_rate = 1 - threshold / 2**16
    return jnp.where(bits < threshold, jnp.zeros((), x.dtype), x / keep_rate)


class SpectralDense(nn.Module):
    """A dense layer whose kernel is divided by an estimate of its largest singular value.

    Each call makes one power iteration. With `train` the next call continues from its result.
    Where nn.SpectralNorm multiplies vectors, this class takes sums. XLA adds up a product in an
    order that differs between programs, but a member of a population must equal its single run to
    the bit.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel = self.param("kernel", _glorot, (x.shape[-1], self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        right = self.variable("spectral", "right", self._draw_direction)
        v = _unit((kernel * right.value).sum(axis=1, keepdims=True))
        u = _unit((kernel * v).sum(axis=0, keepdims=True))
        u, v = jax.lax.stop_gradient((u, v))
        if train:
            right.value = u
        value = (kernel * u * v).sum()
        kernel = kernel / jnp.where(value > 0, value, 1)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias[None]

    def _draw_direction(self) -> jax.Array:
        return _unit(jax.random.normal(self.make_rng("params"), (1, self.width)))


def _unit(x: jax.Array) -> jax.Array:
    """The vector of length 1 in the direction of x."""
    return x * jax.lax.rsqrt(jnp.sum(x**2) + 1e-24)
