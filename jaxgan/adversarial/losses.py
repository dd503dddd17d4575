"""Adversarial losses on logits: one value per image, `[B]`, for each network. The caller averages.

Each loss is `(real_logits, fake_logits) -> Losses`, with the discriminator's logits `[B]` on real
and on generated images. Cross-entropies are written with softplus: -log s(x) = softplus(-x), where
s is the sigmoid. So they and their gradients are finite also where s is rounded to 0 or 1. `LOSSES`
holds each loss with its properties. A new loss is a function here and its line there.

`GANConfig(loss=...)` also takes a function of your own, or a `Loss`, which says more about it.
"""

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

from jaxgan.errors import JaxganError


class Losses(NamedTuple):
    """What each network minimizes, one value per image: `[B]` each."""

    generator: jax.Array
    discriminator: jax.Array


def minimax(real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: float = 0.0) -> Losses:
    """The original GAN loss, which is zero-sum: the generator minimizes log(1 - s(fake)).

    The generator's gradient vanishes as the logits of generated images fall. Both losses are in
    nats, and the generator's is <= 0.

    Args:
      real_logits: `[B]`.
      fake_logits: `[B]`.
      label_smoothing: in [0, 1). The target of real images is 1 minus this, that of generated
        images stays 0 (arXiv 1606.03498, section 3.4).

    Source: Goodfellow et al. 2014, equation 1 (arXiv 1406.2661).
    """
    both = non_saturating(real_logits, fake_logits, label_smoothing)
    return both._replace(generator=-softplus(fake_logits))


def non_saturating(
    real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: float = 0.0
) -> Losses:
    """Binary cross-entropy. The labels of the generator's loss are flipped.

    The discriminator minimizes -log s(real) - log(1 - s(fake)), the generator -log s(fake). Both
    are in nats and >= 0. `label_smoothing` is that of `minimax`.

    Source: Goodfellow et al. 2014, section 3 (arXiv 1406.2661).
    """
    on_real = softplus(-real_logits) + label_smoothing * real_logits
    return Losses(softplus(-fake_logits), on_real + softplus(fake_logits))


def wasserstein(real_logits: jax.Array, fake_logits: jax.Array) -> Losses:
    """The discriminator maximizes real - fake, the generator fake.

    The losses are unbounded unless the discriminator is kept Lipschitz, by a penalty for example.

    Source: Arjovsky et al. 2017 (arXiv 1701.07875).
    """
    return Losses(-fake_logits, fake_logits - real_logits)


def hinge(real_logits: jax.Array, fake_logits: jax.Array) -> Losses:
    """The discriminator minimizes max(0, 1 - real) + max(0, 1 + fake), the generator -fake.

    Source: Lim and Ye 2017 (arXiv 1705.02894), Miyato et al. 2018 (arXiv 1802.05957).
    """
    return Losses(-fake_logits, relu(1 - real_logits) + relu(1 + fake_logits))


def least_squares(
    real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: float = 0.0
) -> Losses:
    """Half the squared distance of logits to labels: 1 for real and 0 for generated images.

    For the generator the label of generated images is 1. `label_smoothing` is that of `minimax`.

    Source: Mao et al. 2016 (arXiv 1611.04076).
    """
    on_real = jnp.square(real_logits - (1 - label_smoothing))
    return Losses(0.5 * jnp.square(fake_logits - 1), 0.5 * on_real + 0.5 * jnp.square(fake_logits))


def relativistic(real_logits: jax.Array, fake_logits: jax.Array) -> Losses:
    """Compares each real image with a generated one.

    The discriminator minimizes -log s(real - fake), the generator -log s(fake - real), in nats.

    Source: Jolicoeur-Martineau 2018 (arXiv 1807.00734), paired as in Huang et al. 2025 (arXiv
    2501.05441).
    """
    margin = real_logits - fake_logits
    return Losses(softplus(margin), softplus(-margin))


class Loss(NamedTuple):
    """A loss and its properties."""

    function: Callable[..., Losses]
    equilibrium_logit: Callable[[Any], Any] | None = lambda label_smoothing: 0.0
    """Label smoothing -> the best logit for an image that is as likely real as generated. None if
    it is not known, or if the loss depends on differences of logits alone: then all logits are
    equally good."""
    takes_smoothing: bool = False
    """Whether it has labels and takes `label_smoothing`."""
    is_cross_entropy: bool = False


def _cross_entropy_logit(label_smoothing: Any) -> Any:
    target = (1 - label_smoothing) / 2
    return jnp.log(target / (1 - target))


LOSSES: dict[str, Loss] = {
    "non_saturating": Loss(
        non_saturating, _cross_entropy_logit, takes_smoothing=True, is_cross_entropy=True
    ),
    "minimax": Loss(minimax, _cross_entropy_logit, takes_smoothing=True, is_cross_entropy=True),
    "wasserstein": Loss(wasserstein, equilibrium_logit=None),
    "hinge": Loss(hinge),
    "least_squares": Loss(
        least_squares, lambda label_smoothing: (1 - label_smoothing) / 2, takes_smoothing=True
    ),
    "relativistic": Loss(relativistic, equilibrium_logit=None),
}
"""The losses by their names."""


AnyLoss = str | Loss | Callable[..., Losses]
"""A name in LOSSES, or a loss of your own."""


def find(loss: AnyLoss) -> Loss:
    """The loss with its properties. A plain function does not say its best logit.

    Raises:
      JaxganError: if there is no loss with this name, or if it is no function.
    """
    if isinstance(loss, Loss) and callable(loss.function):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if isinstance(loss, str) or not callable(loss):
        raise JaxganError(
            f"loss must be one of {', '.join(LOSSES)}, or a function (real_logits, fake_logits) -> "
            f"Losses; got {loss!r}"
        )
    for known in LOSSES.values():
        if known.function is loss:
            return known
    takes_smoothing = False
    with contextlib.suppress(ValueError):  # of a function in C
        takes_smoothing = "label_smoothing" in inspect.signature(loss).parameters
    return Loss(loss, equilibrium_logit=None, takes_smoothing=takes_smoothing)


def per_image(
    loss: AnyLoss, real_logits: jax.Array, fake_logits: jax.Array, label_smoothing: Any = 0.0
) -> Losses:
    """The losses of each image, `[B]` for each network. `label_smoothing` is that of `minimax`.

    Raises:
      JaxganError: if a loss of your own does not give `Losses` of two arrays `[B]`.
    """
    found = find(loss)
    options = {"label_smoothing": label_smoothing} if found.takes_smoothing else {}
    values = found.function(real_logits, fake_logits, **options)
    shapes = [jnp.shape(value) for value in values] if isinstance(values, tuple) else []
    if shapes != [real_logits.shape] * 2:
        raise JaxganError(
            "a loss must give Losses(generator, discriminator) with one value per image, "
            f"{list(real_logits.shape)} each; {loss!r} gave "
            f"{' and '.join(str(list(shape)) for shape in shapes) or type(values).__name__}"
        )
    return Losses(*values)


def equilibrium(loss: AnyLoss, label_smoothing: float = 0.0) -> tuple[float, float]:
    """The losses of generator and discriminator if the discriminator cannot tell real images from
    generated ones.

    The discriminator's is the smallest one with one logit for all images: log 4 nats for the
    cross-entropies (arXiv 1406.2661, theorem 1). Both are NaN if the best logit is not known.
    """
    logit_of = find(loss).equilibrium_logit
    if logit_of is None:
        # The equilibrium is known only if all logits are equally good: these have one loss then.
        logits = jnp.array([0.0, -10.0, 10.0])
    else:
        logits = jnp.full(1, logit_of(label_smoothing))
    generator, discriminator = per_image(loss, logits, logits, label_smoothing)
    if not jnp.allclose(discriminator, discriminator[0]):
        return math.nan, math.nan
    return float(generator[0]), float(discriminator[0])


def boundary(
    loss: AnyLoss, real_mean: jax.Array, fake_mean: jax.Array, label_smoothing: Any = 0.0
) -> jax.Array:
    """The logit above which the discriminator classifies an image as real, a scalar.

    For losses that depend on differences of logits alone, or whose best logit is not known, it is
    the middle between the mean logits of real and of generated images.
    """
    logit_of = find(loss).equilibrium_logit
    if logit_of is None:
        return (real_mean + fake_mean) / 2
    return jnp.asarray(logit_of(label_smoothing), real_mean.dtype)
