"""Adversarial losses on logits: one `[B]` array per player, which the caller averages.

Each is `(real_logits, fake_logits) -> PlayerLosses`, with the discriminator's logits `[B]` on real
and on generated images, and is finite, with its gradients, at any logit. Those built on
cross-entropy are written with softplus: -log s(x) = softplus(-x), with s the sigmoid.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus


class PlayerLosses(NamedTuple):
    """The losses that the two players minimize, one value per sample: `[B]` each."""

    generator: jax.Array
    discriminator: jax.Array


def minimax(
    real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: float = 0.0
) -> PlayerLosses:
    """The original GAN loss, a zero-sum game: the generator minimizes log(1 - s(fake)).

    Its gradient vanishes as the discriminator becomes sure of the fakes. In nats; the generator's
    is <= 0.

    Args:
      real_logits: `[B]`.
      fake_logits: `[B]`.
      label_smoothing: the target of real images is 1 minus this, in [0, 1): one-sided (arXiv
        1606.03498, section 3.4).

    Source: Goodfellow et al. 2014, equation 1 (arXiv 1406.2661).
    """
    game = non_saturating(real_logits, fake_logits, label_smoothing)
    return game._replace(generator=-softplus(fake_logits))


def non_saturating(
    real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: float = 0.0
) -> PlayerLosses:
    """Binary cross-entropy, the generator with flipped labels.

    The discriminator minimizes -log s(real) - log(1 - s(fake)), the generator -log s(fake). In
    nats, each >= 0. `label_smoothing` as for `minimax`.

    Source: Goodfellow et al. 2014, section 3 (arXiv 1406.2661).
    """
    on_real = softplus(-real_logits) + label_smoothing * real_logits
    return PlayerLosses(softplus(-fake_logits), on_real + softplus(fake_logits))


def wasserstein(real_logits: jax.Array, fake_logits: jax.Array) -> PlayerLosses:
    """The critic maximizes real - fake, the generator fake; the critic must be held Lipschitz.

    Source: Arjovsky et al. 2017 (arXiv 1701.07875).
    """
    return PlayerLosses(-fake_logits, fake_logits - real_logits)


def hinge(real_logits: jax.Array, fake_logits: jax.Array) -> PlayerLosses:
    """The discriminator minimizes max(0, 1 - real) + max(0, 1 + fake), the generator -fake.

    Source: Lim and Ye 2017 (arXiv 1705.02894), Miyato et al. 2018 (arXiv 1802.05957).
    """
    return PlayerLosses(-fake_logits, relu(1 - real_logits) + relu(1 + fake_logits))


def least_squares(
    real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: float = 0.0
) -> PlayerLosses:
    """Half the squared distance of outputs to labels: 1 for real, 0 for fake; flipped to generate.

    `label_smoothing` as for `minimax`.

    Source: Mao et al. 2016 (arXiv 1611.04076).
    """
    on_real = jnp.square(real_logits - (1 - label_smoothing))
    return PlayerLosses(
        0.5 * jnp.square(fake_logits - 1), 0.5 * on_real + 0.5 * jnp.square(fake_logits)
    )


def relativistic(real_logits: jax.Array, fake_logits: jax.Array) -> PlayerLosses:
    """Each real image is compared with a fake: is it the more real one of the two?

    The discriminator minimizes -log s(real - fake), the generator -log s(fake - real), in nats.

    Source: Jolicoeur-Martineau 2018 (arXiv 1807.00734), paired as in Huang et al. 2025 (arXiv
    2501.05441).
    """
    margin = real_logits - fake_logits
    return PlayerLosses(softplus(margin), softplus(-margin))


LOSSES: dict[str, Callable[..., PlayerLosses]] = {
    loss.__name__: loss
    for loss in (minimax, non_saturating, wasserstein, hinge, least_squares, relativistic)
}
"""The losses by their names."""


def equilibrium(loss: str, label_smoothing: float = 0.0) -> float:
    """The discriminator's loss where it cannot tell real images from generated ones.

    The least that one logit for all images can give: log 4 nats of the cross-entropies (arXiv
    1406.2661, theorem 1).
    """
    logit = jnp.full(1, _undecided(loss, label_smoothing))
    smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
    return float(LOSSES[loss](logit, logit, **smoothing).discriminator[0])


def boundary(
    loss: str, real_mean: jax.Array, fake_mean: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """The logit above which a discriminator of that loss takes an image for real, a scalar.

    Losses of differences leave the level of the logits open: the middle of their two means.
    """
    if loss in ("wasserstein", "relativistic"):
        return (real_mean + fake_mean) / 2
    return jnp.asarray(_undecided(loss, label_smoothing))


def _undecided(loss: str, label_smoothing: float) -> float:
    """The best logit for an image that is as likely real as generated."""
    target = (1 - label_smoothing) / 2
    if loss == "least_squares":
        return target
    if loss in ("minimax", "non_saturating"):
        return math.log(target / (1 - target))
    return 0.0
