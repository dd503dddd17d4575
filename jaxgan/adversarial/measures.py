"""The metrics of a step, for people and for `jaxgan.adversarial.diagnostics`."""

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
    logit_spread: jax.Array
    """Root mean square distance of all logits from the middle between the mean logits of real and
    of generated images."""
    gen_grad_norm: jax.Array
    """L2 norm of the generator's gradient. With `disc_steps=k` it is multiplied by k in steps that
    update the generator, and is 0 in the others: its mean over steps is then the mean norm."""
    disc_grad_norm: jax.Array
    """L2 norm of the discriminator's gradient, including penalties."""
    gen_loss_square: jax.Array
    """An unbiased estimate of the square of the expected loss (`square`). Its mean over steps,
    minus the square of the mean of gen_loss, is the variance of the loss between steps, without the
    noise of batches."""
    disc_loss_square: jax.Array
    """The same for disc_loss."""


class PrivateMetrics(NamedTuple):
    """The metrics of a step with `clip_norm`: what follows from noisy gradients and from generated
    images alone, at the old parameters."""

    gen_loss: jax.Array
    """Loss of the generator."""
    fake_score: jax.Array
    """Mean sigmoid of the logits on generated images, in [0, 1]."""
    gen_grad_norm: jax.Array
    """L2 norm of the generator's gradient, as in Metrics."""
    disc_grad_norm: jax.Array
    """L2 norm of the discriminator's clipped gradient with its noise."""


def square(mean: jax.Array, mean_square: jax.Array, n: int) -> jax.Array:
    """An estimate without bias of the square of an expected loss.

    The square of a batch's mean is too large on average, by the variance of that mean. This
    function subtracts an estimate of it.

    Args:
      mean: of the losses of n images.
      mean_square: of their squares.
      n: 1 gives the square of the mean.
    """
    return jnp.square(mean) - (mean_square - jnp.square(mean)) / max(n - 1, 1)
