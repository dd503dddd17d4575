"""A small convolutional GAN: networks of your own, in a config for train.py.

    python scripts/train.py --config scripts/conv_gan.py:config --epochs 10 --workdir runs/conv
    python scripts/sample.py --config scripts/conv_gan.py:config --workdir runs/conv

Both networks change the size of images by moving pixels to channels or back (arXiv 1609.05158). The
other settings of the config are those of the preset tuned.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgan import PRESETS


class Conv(nn.Module):
    """A 3x3 convolution as one product of matrices.

    On CPUs it is much faster than flax's own, which is slow in a compiled loop.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return nn.Dense(self.features)(jnp.concatenate(shifted, axis=-1))


def smaller(x: jax.Array) -> jax.Array:
    """`[B, 2H, 2W, C]` -> `[B, H, W, 4C]`."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return x.reshape(n, height // 2, width // 2, 4 * channels)


def larger(x: jax.Array) -> jax.Array:
    """`[B, H, W, 4C]` -> `[B, 2H, 2W, C]`."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width, 2, 2, channels // 4).swapaxes(2, 3)
    return x.reshape(n, 2 * height, 2 * width, channels // 4)


class Generator(nn.Module):
    @nn.compact
    def __call__(self, latents: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(7 * 7 * 32)(latents).reshape(-1, 7, 7, 32)
        for features in (16, 8):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = larger(Conv(4 * features)(x))
        return jnp.tanh(Conv(1)(nn.relu(x)))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.leaky_relu(Conv(16)(smaller(images)), 0.2)
        x = nn.leaky_relu(Conv(32)(smaller(x)), 0.2)
        return nn.Dense(1)(x.reshape(len(x), -1))


config = dataclasses.replace(
    PRESETS["tuned"][0], generator=Generator(), discriminator=Discriminator()
)
