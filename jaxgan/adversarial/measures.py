"""The metrics of a step, for people and for `jaxgan.adversarial.diagnostics`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Metrics(NamedTuple):
    """The metrics of a step: float32 scalars, means over the batch, at the old parameters."""

    gen_loss: jax.Array
    """Loss of the generator, in nats if the loss is a cross-entropy."""
    disc_loss: jax.Array
    """Loss of the discriminator on real plus on generated images, without penalties."""
    real_score: jax.Array
    """Mean sigmoid of the logits on real images, in [0, 1]."""
    fake_score: jax.Array
    """Mean sigmoid of the logits on generated images, in [0, 1]."""
    penalty: jax.Array
    """The sum of the penalties, with their weights."""
    real_accuracy: jax.Array
    """Share of the real images that the discriminator classifies as real (`losses.boundary`)."""
    fake_accuracy: jax.Array
    """Share of the generated images that it classifies as generated."""
    diversity: jax.Array
    """Mean distance between two generated images, divided by that between two real ones. About 1
    if the samples differ as real images do, 0 if all samples are equal."""
    logit_spread: jax.Array
    """Root mean square distance of all logits from the middle between the mean logits of real and
    of generated images."""
    gen_grad_norm: jax.Array
    """L2 norm of the generator's gradient. With `disc_steps=k` it is multiplied by k in steps that
    update the generator, and is 0 in the others: its mean over steps is then the mean norm."""
    disc_grad_norm: jax.Array
    """L2 norm of the discriminator's gradient, including penalties."""
    gen_param_norm: jax.Array
    """L2 norm of the generator's parameters."""
    disc_param_norm: jax.Array
    """L2 norm of the discriminator's parameters."""
    gen_loss_square: jax.Array
    """gen_loss^2. Its mean over steps, with that of gen_loss, gives the variance between steps."""
    disc_loss_square: jax.Array
    """disc_loss^2."""


def share(flags: jax.Array) -> jax.Array:
    """The share of True among `[B]`, float32 scalar."""
    return flags.astype(jnp.float32).mean()


def distance(images: jax.Array) -> jax.Array:
    """Mean Euclidean distance between two images of a batch `[B, H, W, C]`, scalar.

    The mean is over B // 2 disjoint pairs: all pairs would cost as much as a layer of the networks.
    It is 0 if B is 1.
    """
    pairs = images.shape[0] // 2
    pixels = images[: 2 * pairs].reshape(pairs, 2, math.prod(images.shape[1:]))
    pixels = pixels.astype(jnp.float32) if images.dtype.itemsize < 4 else pixels
    first, second = pixels[:, 0], pixels[:, 1]
    # The compiler may fuse the subtraction with the operations before it. Then equal pixels could
    # differ by rounding.
    differences = jnp.where(first == second, 0, first - second)
    distances = jnp.linalg.norm(differences, axis=1)
    return distances.sum() / max(pairs, 1)


def diversity(real_distance: jax.Array, fake_distance: jax.Array) -> jax.Array:
    """The ratio of the distances; 1 if all real images are equal."""
    equal = real_distance == 0
    return jnp.where(equal, 1.0, fake_distance / jnp.where(equal, 1.0, real_distance))
