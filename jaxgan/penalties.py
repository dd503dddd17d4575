"""Penalties that keep a discriminator teachable, most on its gradient with respect to the image.

A `critic` is the discriminator seen from one image: `[H, W, C]` -> a scalar logit. Each penalty
takes it with batches `[B, H, W, C]` and gives `[B]`, one value per image, unweighted.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from jaxgan import schedules
from jaxgan.config import GANConfig

Critic = Callable[[jax.Array], jax.Array]


def zero_centered(critic: Critic, images: jax.Array) -> jax.Array:
    """Half the squared norm of the gradient: R1 on real images, R2 on generated ones, `[B]`.

    Source: Mescheder et al. 2018, equation 9 (arXiv 1801.04406).
    """
    return 0.5 * _squared_norm(jax.vmap(jax.grad(critic))(images))


def gradient_penalty(
    critic: Critic, real: jax.Array, fake: jax.Array, rng: jax.Array, target: float = 1.0
) -> jax.Array:
    """(norm of the gradient - target)^2 between each real image and a generated one, `[B]`.

    At a point drawn uniformly on the line between the two, for each pair its own; the norm is that
    over all pixels of the image.

    Source: Gulrajani et al. 2017 (arXiv 1704.00028).
    """
    alpha = jax.random.uniform(rng, (real.shape[0],) + (1,) * (real.ndim - 1))
    between = fake + alpha * (real - fake)
    return jnp.square(_norm(jax.vmap(jax.grad(critic))(between)) - target)


def dragan(critic: Critic, real: jax.Array, rng: jax.Array) -> jax.Array:
    """(norm of the gradient - 1)^2 around the real images, `[B]`.

    As in the authors' own program: between each image and one of which each pixel is moved up, by
    a uniform draw from 0 to half the standard deviation of the batch.

    Source: Kodali et al. 2017 (arXiv 1705.07215).
    """
    between_rng, moved_rng = jax.random.split(rng)
    moved = real + 0.5 * real.std() * jax.random.uniform(moved_rng, real.shape)
    return gradient_penalty(critic, moved, real, between_rng)


def roth(critic: Critic, real: jax.Array, fake: jax.Array) -> jax.Array:
    """What noise on the images does to the cross-entropy, to first order, `[B]`.

    Half of (1 - D)^2 |grad|^2 at the real image plus D^2 |grad|^2 at the generated one, where D is
    the sigmoid of the logit and grad the gradient of the logit.

    Source: Roth et al. 2017 (arXiv 1705.09367).
    """

    def half(images, weight):
        logits, grads = jax.vmap(jax.value_and_grad(critic))(images)
        return 0.5 * jnp.square(weight(logits)) * _squared_norm(grads)

    return half(real, lambda logits: sigmoid(-logits)) + half(fake, sigmoid)


def weight_penalty(params: Any) -> jax.Array:
    """The sum of the squares of all kernels (the parameters of two or more dimensions), scalar."""
    kernels = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params) if jnp.ndim(x) > 1]
    return jnp.asarray(sum(kernels, 0.0))


def weighted_sum(
    config: GANConfig,
    step: jax.Array,
    critic: Critic,
    params: Any,
    real: jax.Array,
    fake: jax.Array,
    rng: jax.Array,
) -> jax.Array:
    """All penalties of a config with their weights at a step, means over the batch: a scalar."""
    between_rng, around_rng = jax.random.split(rng)
    penalties: dict[str, Callable[[], jax.Array]] = {
        "r1": lambda: zero_centered(critic, real),
        "r2": lambda: zero_centered(critic, fake),
        "gradient_penalty": lambda: gradient_penalty(
            critic, real, fake, between_rng, config.gradient_penalty_target
        ),
        "dragan": lambda: dragan(critic, real, around_rng),
        "roth": lambda: roth(critic, real, fake),
        "weight_penalty": lambda: weight_penalty(params),
    }
    total = jnp.zeros(())
    for name, penalty in penalties.items():
        weight = getattr(config, name)
        if not schedules.is_zero(weight):
            total += schedules.value(weight, step) * penalty().mean()
    return total


def _squared_norm(x: jax.Array) -> jax.Array:
    """`[B, ...]` -> `[B]`."""
    return jnp.sum(jnp.square(x.reshape(x.shape[0], math.prod(x.shape[1:]))), axis=1)


def _norm(x: jax.Array) -> jax.Array:
    """`[B, ...]` -> `[B]`; at zero its gradient is zero, where that of the root is not finite."""
    squared = _squared_norm(x)
    zero = squared == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squared)))
