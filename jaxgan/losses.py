"""Adversarial losses on logits: one `[B]` array per player, which the caller averages."""

from typing import NamedTuple

import jax


class PlayerLosses(NamedTuple):
    """The losses that the two players minimize, one value per sample: `[B]` each."""

    generator: jax.Array
    discriminator: jax.Array


def non_saturating(real_logits: jax.Array, fake_logits: jax.Array) -> PlayerLosses:
    """The non-saturating GAN loss: binary cross-entropy, the generator with flipped labels.

    The discriminator minimizes -log s(real) - log(1 - s(fake)), the generator -log s(fake), with s
    the sigmoid. Written with softplus, so that value and gradient are finite at any logit.

    Args:
      real_logits: the discriminator's logits on real images, `[B]`.
      fake_logits: its logits on the generator's images, `[B]`.

    Returns:
      PlayerLosses of `[B]` arrays, in nats, each >= 0.

    Source: Goodfellow et al. 2014, section 3 (arXiv 1406.2661).
    """
    return PlayerLosses(
        generator=jax.nn.softplus(-fake_logits),
        discriminator=jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits),
    )
