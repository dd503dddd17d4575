"""Penalties that keep the discriminator smooth. Most are on its gradient with respect to an image.

A `critic` is the discriminator for one image: `[H, W, C]` -> a scalar logit. A penalty takes it and
batches `[B, H, W, C]`, and gives one value per image, `[B]`, without its weight. A critic of a
conditional GAN also takes the label of the image, and a penalty the labels `[B, ...]`.

A new penalty is a function here and its line in `Weights`. `GANConfig(penalties=...)` takes
functions `Inputs -> [B]` of your own, with their weights.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from jaxgan import schedules
from jaxgan.errors import JaxganError
from jaxgan.schedules import Schedule

Critic = Callable[..., jax.Array]


def zero_centered(critic: Critic, images: jax.Array, *labels: jax.Array) -> jax.Array:
    """Half the squared norm of the gradient: R1 on real images, R2 on generated ones, `[B]`.

    Source: Mescheder et al. 2018, equation 9 (arXiv 1801.04406).
    """
    return 0.5 * _squared_norm(jax.vmap(jax.grad(critic))(images, *labels))


def gradient_penalty(
    critic: Critic,
    real: jax.Array,
    fake: jax.Array,
    rng: jax.Array,
    *labels: jax.Array,
    target: float = 1.0,
) -> jax.Array:
    """(norm of the gradient - target)^2 between pairs of a real and a generated image, `[B]`.

    The gradient is taken at a point drawn uniformly on the line between the two. Its norm is over
    all pixels of the image.

    Source: Gulrajani et al. 2017 (arXiv 1704.00028).
    """
    alpha = jax.random.uniform(rng, (real.shape[0],) + (1,) * (real.ndim - 1))
    between = fake + alpha * (real - fake)
    return jnp.square(_norm(jax.vmap(jax.grad(critic))(between, *labels)) - target)


def dragan(critic: Critic, real: jax.Array, rng: jax.Array, *labels: jax.Array) -> jax.Array:
    """(norm of the gradient - 1)^2 around the real images, `[B]`.

    As in the authors' program, each point lies between an image and its noisy copy. The noise of a
    pixel is uniform, from 0 to half the standard deviation of the batch.

    Source: Kodali et al. 2017 (arXiv 1705.07215).
    """
    between_rng, moved_rng = jax.random.split(rng)
    moved = real + 0.5 * real.std() * jax.random.uniform(moved_rng, real.shape)
    return gradient_penalty(critic, moved, real, between_rng, *labels)


def roth(critic: Critic, real: jax.Array, fake: jax.Array, *labels: jax.Array) -> jax.Array:
    """The first-order effect of noise on the images on the cross-entropy, `[B]`.

    It is half the sum of (1 - D)^2 |grad|^2 at the real image and D^2 |grad|^2 at the generated
    one, where D is the sigmoid of the logit and grad the gradient of the logit.

    Source: Roth et al. 2017 (arXiv 1705.09367).
    """

    def half(images, weight):
        logits, grads = jax.vmap(jax.value_and_grad(critic))(images, *labels)
        return 0.5 * jnp.square(weight(logits)) * _squared_norm(grads)

    return half(real, lambda logits: sigmoid(-logits)) + half(fake, sigmoid)


def weight_penalty(params: Any) -> jax.Array:
    """The sum of the squares of all kernels (the parameters of two or more dimensions), scalar."""
    kernels = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params) if jnp.ndim(x) > 1]
    return jnp.asarray(sum(kernels, 0.0))


class Inputs(NamedTuple):
    """The inputs of all penalties."""

    critic: Critic
    params: Any
    real: jax.Array
    fake: jax.Array
    rng: jax.Array
    labels: tuple[jax.Array, ...] = ()
    """One array, the labels of both the real and the generated images; or ()."""


Penalty = Callable[[Inputs], jax.Array]


def _weight(penalty: Penalty) -> Any:
    return dataclasses.field(default=0.0, metadata={"penalty": penalty})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """All penalties. Each field is a weight, and a field of GANConfig too. Its metadata hold the
    function."""

    r1: Schedule = _weight(lambda x: zero_centered(x.critic, x.real, *x.labels))
    """Weight of half the squared gradient norm on real images (arXiv 1801.04406; 10 there). All
    penalties are computed at the images that the discriminator gets: augmented, noisy and packed.
    With BatchNorm they use its running statistics, because one image has no statistics. So they act
    on the discriminator as it is in evaluation, not in training."""
    r2: Schedule = _weight(lambda x: zero_centered(x.critic, x.fake, *x.labels))
    """Weight of half the squared gradient norm on generated images."""
    gradient_penalty: Schedule = _weight(
        lambda x: gradient_penalty(x.critic, x.real, x.fake, jax.random.split(x.rng)[0], *x.labels)
    )
    """Weight of (gradient norm - 1)^2 at points between real and generated images (WGAN-GP, arXiv
    1704.00028; 10 there)."""
    dragan: Schedule = _weight(
        lambda x: dragan(x.critic, x.real, jax.random.split(x.rng)[1], *x.labels)
    )
    """Weight of (gradient norm - 1)^2 at points near real images (arXiv 1705.07215; 10 there)."""
    roth: Schedule = _weight(lambda x: roth(x.critic, x.real, x.fake, *x.labels))
    """Weight of a penalty that approximates the effect of noise on images (arXiv 1705.09367)."""
    weight_penalty: Schedule = _weight(lambda x: weight_penalty(x.params))
    """Weight of the sum of the squares of the discriminator's kernels."""


PENALTIES: dict[str, Penalty] = {
    field.name: field.metadata["penalty"] for field in dataclasses.fields(Weights)
}
"""The penalties by name."""


def weighted_sum(
    weights: Iterable[tuple[Penalty, Schedule]], step: jax.Array, inputs: Inputs
) -> jax.Array:
    """The weighted sum of the penalties at a step, each a mean over the batch: a scalar.

    Raises:
      JaxganError: if a penalty of your own does not give an array.
    """
    total = jnp.zeros(())
    for penalty, weight in weights:
        if not schedules.is_zero(weight):
            values = penalty(inputs)
            if not isinstance(values, jax.Array):
                raise JaxganError(
                    f"a penalty must give an array [B], and {penalty!r} gave {type(values)}"
                )
            total += schedules.value(weight, step) * values.mean()
    return total


def _squared_norm(x: jax.Array) -> jax.Array:
    """`[B, ...]` -> `[B]`."""
    return jnp.sum(jnp.square(x.reshape(x.shape[0], math.prod(x.shape[1:]))), axis=1)


def _norm(x: jax.Array) -> jax.Array:
    """`[B, ...]` -> `[B]`. Its gradient at zero is zero; that of the root would not be finite."""
    squared = _squared_norm(x)
    zero = squared == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squared)))
