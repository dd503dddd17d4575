"""What a step reports of itself, for people and for the detectors of `jaxgan.diagnostics`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Metrics(NamedTuple):
    """What a step reports: float32 scalars, means over the batch, at the old parameters."""

    gen_loss: jax.Array
    """Loss of the generator; in nats where the loss is a cross-entropy."""
    disc_loss: jax.Array
    """Loss of the discriminator: on real plus on generated images, without penalties."""
    real_score: jax.Array
    """Mean sigmoid of the logits on real images, in [0, 1]."""
    fake_score: jax.Array
    """Mean sigmoid of the logits on generated images, in [0, 1]."""
    penalty: jax.Array
    """The penalties with their weights."""
    real_accuracy: jax.Array
    """Share of the real images that the discriminator takes for real (`losses.boundary`)."""
    fake_accuracy: jax.Array
    """Share of the generated images that it takes for generated."""
    diversity: jax.Array
    """Mean distance between two generated images over that between two real ones: about 1 in good
    health, 0 if all samples are one; 1 if the real images are all one."""
    logit_spread: jax.Array
    """Root mean square distance of all logits from the middle between the mean on real and the mean
    on generated images."""
    gen_grad_norm: jax.Array
    """L2 norm of the generator's gradient: against the discriminator at its old parameters, with
    `updates="alternating"` or `unroll_steps` against the one that the generator learns from. With
    `disc_steps=k` k times that in steps that move the generator and 0 in the others, so that means
    over steps are right."""
    disc_grad_norm: jax.Array
    """L2 norm of the discriminator's gradient, penalties included."""
    gen_param_norm: jax.Array
    """L2 norm of the generator's parameters."""
    disc_param_norm: jax.Array
    """L2 norm of the discriminator's parameters."""
    gen_loss_square: jax.Array
    """gen_loss^2: with the mean of gen_loss its mean tells how much that swings between steps."""
    disc_loss_square: jax.Array
    """disc_loss^2."""


def share(flags: jax.Array) -> jax.Array:
    """The share of True among `[B]`, float32 scalar."""
    return flags.astype(jnp.float32).mean()


def distance(images: jax.Array) -> jax.Array:
    """Mean distance of two images, over as many pairs of different ones as `[B, H, W, C]` holds.

    All pairs would cost as much as a layer of the networks. 0 for a single image.
    """
    pairs = images.shape[0] // 2
    pixels = images[: 2 * pairs].reshape(pairs, 2, math.prod(images.shape[1:]))
    pixels = pixels.astype(jnp.promote_types(images.dtype, jnp.float32))
    distances = jnp.linalg.norm(pixels[:, 0] - pixels[:, 1], axis=1)
    return distances.sum() / max(pairs, 1)


def diversity(real_distance: jax.Array, fake_distance: jax.Array) -> jax.Array:
    """Their ratio; 1 if the real images are all one."""
    alike = real_distance == 0
    return jnp.where(alike, 1, fake_distance / jnp.where(alike, 1, real_distance))
