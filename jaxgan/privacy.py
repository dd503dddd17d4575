"""Differential privacy: clipped gradients with noise (DP-SGD, arXiv 1607.00133), and their budget.

A training step is private if one image can change it only by a bounded amount, and noise hides that
amount. `private_gradients` does both. The budget (epsilon, delta) of a run follows from the noise,
the number of steps, and the share of the images that a step takes.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgan.errors import JaxganError
from jaxgan.shards import Shards

NO_STATISTICS = (
    "{} keeps statistics of its batches, such as those of BatchNorm. They couple images and get no "
    "noise: take a module without them, or leave out clip_norm"
)
"""The error for a network with statistics and a clip_norm."""
_FLOATS_AT_ONCE = 2**24
"""Floats in the gradients of the examples that are clipped at once, on a CPU: 64 MB."""
_MORE = 4
"""On an accelerator this many times as many are clipped at once. In a population this holds for
each member."""
_TINY = 1e-30
MARGIN = 0.999
"""Gradients and images are clipped to this share of the allowed norm, so that rounding does not
exceed it."""
_MOST_NOISE = 1e6
_NOISE = 2**31 + 1
"""Folded into the key of a step. Other keys come from splitting it."""


def private_gradients(
    loss: Callable[[Any, Any], jax.Array],
    params: Any,
    examples: Any,
    included: jax.Array | None,
    rng: jax.Array,
    *,
    clip_norm: float,
    noise_multiplier: float,
    shards: Shards,
) -> Any:
    """The mean of gradients that are clipped example by example, plus noise.

    Args:
      loss: `(params, example) -> scalar`, of one example alone.
      params: the parameters.
      examples: a tree of arrays `[B, ...]`.
      included: bool `[B]`, the examples that count, or None for all. The others are empty places of
        a batch of random size.
      rng: a key, for the noise. It must be the same in all shards, and secret.
      clip_norm: the largest L2 norm of the gradient of one example. A longer gradient is scaled to
        this norm. A gradient that is not finite counts as 0.
      noise_multiplier: the standard deviation of the noise on the sum, in units of `clip_norm`.
      shards: how the batch is split.

    Returns:
      The gradients, a tree like `params`: the noisy sum, divided by B. B is the number of places,
      which says nothing about the images.

    Raises:
      JaxganError: if a parameter is narrower than float32.
    """
    n = jax.tree.leaves(examples)[0].shape[0]
    kept = jnp.ones(n, bool) if included is None else included
    for leaf in jax.tree.leaves(params):
        if leaf.dtype.itemsize < 4:
            raise JaxganError(f"private training needs parameters in float32, got {leaf.dtype}")
    # Full products, also on accelerators, and a margin for their rounding.
    with jax.default_matmul_precision("highest"):
        total = _clipped_sum(loss, shards.vary(params), examples, kept, MARGIN * clip_norm)
    noisy = add_noise(shards.sum(total), rng, noise_multiplier * clip_norm)
    return jax.tree.map(lambda t: t / (n * shards.number), noisy)


def _clipped_sum(
    loss: Callable[[Any, Any], jax.Array], params: Any, examples: Any, kept: Any, clip_norm: float
) -> Any:
    """The sum of the clipped gradients of the kept examples, some examples at a time."""
    n = len(kept)
    size = sum(x.size for x in jax.tree.leaves(params))
    floats = _FLOATS_AT_ONCE * (1 if jax.default_backend() == "cpu" else _MORE)
    chunk = max(1, min(n, floats // size))
    empty = -n % chunk

    def in_chunks(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.repeat(x[:1], empty, axis=0)])
        return filled.reshape(-1, chunk, *x.shape[1:])

    kept = jnp.concatenate([kept, jnp.zeros(empty, bool)]).reshape(-1, chunk)

    def norm(example: Any) -> jax.Array:
        grads = jax.grad(loss)(params, example)
        return optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        examples, keep = part
        norms = jax.vmap(norm)(examples)
        keep &= jnp.isfinite(norms)
        scales = jnp.where(keep, jnp.minimum(1, clip_norm / jnp.maximum(norms, _TINY)), 0)
        # Where a gradient is not finite, zeros take the place of the example: 0 times NaN is NaN.
        safe = jax.tree.map(
            lambda x: jnp.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x)),
            examples,
        )

        # The sum of scaled gradients is the gradient of one scaled sum. So no gradient of a single
        # example is kept in the memory, and the products are large ones.
        def scaled(params: Any) -> jax.Array:
            return (scales * jax.vmap(loss, (None, 0))(params, safe)).sum()

        grads = jax.grad(scaled)(params)
        return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads), None

    zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
    return jax.lax.scan(add, zeros, (jax.tree.map(in_chunks, examples), kept))[0]


def add_noise(tree: Any, rng: jax.Array, deviation: float) -> Any:
    """A tree of arrays plus independent normal noise with this standard deviation."""
    leaves, structure = jax.tree.flatten(tree)
    rngs = jax.random.split(rng, len(leaves))
    noisy = [
        x + deviation * jax.random.normal(rng, x.shape, x.dtype)
        for x, rng in zip(leaves, rngs, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def noise_rng(rng: jax.Array) -> jax.Array:
    """The key of the noise of a step, from the key of the step."""
    return jax.random.fold_in(rng, _NOISE)


class Mechanism(NamedTuple):
    """What a run reveals: noisy sums over random subsets of the images."""

    sampling_rate: float
    """The probability, in (0, 1], with which a step takes an image."""
    noise_multiplier: float
    """The standard deviation of the noise, by the most that one image adds to a sum."""
    steps: int


@functools.lru_cache
def epsilon(mechanism: Mechanism, delta: float, before: Mechanism | None = None) -> float:
    """The epsilon of a mechanism at this delta, if an image is added or removed.

    If `before` is given, this is the epsilon of both mechanisms together.

    The accountant composes privacy loss distributions (PLD, arXiv 2207.04380). Its bound is an
    upper bound.

    Raises:
      JaxganError: if dp-accounting is not installed.
    """
    accounting = _dp_accounting()
    if not mechanism.steps and before is None:
        return 0.0
    found = math.inf
    # The grid must be fine compared with epsilon. A fine grid is fast only if epsilon is small.
    for interval in (1e-3, 1e-4):
        if found == math.inf or found < 3:
            accountant = accounting.pld.PLDAccountant(value_discretization_interval=interval)
            accountant.compose(_event(accounting, mechanism, before))
            found = float(accountant.get_epsilon(delta))
    return found


@functools.lru_cache
def noise_multiplier(
    wanted: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    before: Mechanism | None = None,
) -> float:
    """The smallest noise multiplier, within 0.2%, with which a run reaches an epsilon.

    Args:
      wanted: the epsilon, above 0.
      delta: in (0, 1).
      sampling_rate: the probability with which a step takes an image.
      steps: of the run.
      before: an earlier mechanism on the same images. Its own epsilon must be below `wanted`.

    Raises:
      JaxganError: if dp-accounting is not installed.
    """
    from scipy.optimize import brentq

    accounting = _dp_accounting()

    def excess(log_noise: float) -> float:
        mechanism = Mechanism(sampling_rate, math.exp(log_noise), steps)
        return math.log(max(epsilon(mechanism, delta, before), 1e-9) / wanted)

    # The faster accountant, of Rényi divergences, gives an upper bound of the noise. Its own bound
    # for much noise may stay above a small epsilon.
    high = 0.25
    while (
        high < _MOST_NOISE
        and _renyi(accounting, Mechanism(sampling_rate, high, steps), delta, before) > wanted
    ):
        high *= 1.25
    while excess(math.log(high)) > 0:  # an epsilon below the steps of the other accountant's grid
        high *= 1.5
    low = high / 1.5
    while excess(math.log(low)) <= 0:
        low, high = low / 1.5, low
    noise: Any = brentq(excess, math.log(low), math.log(high), xtol=5e-4)
    noise = math.exp(noise)
    while epsilon(Mechanism(sampling_rate, noise, steps), delta, before) > wanted:
        noise *= 1.0005
    return noise


def _renyi(accounting: Any, mechanism: Mechanism, delta: float, before: Mechanism | None) -> float:
    # Whole orders: others take long, and warn where they do not converge.
    accountant = accounting.rdp.RdpAccountant(orders=range(2, 257))
    return accountant.compose(_event(accounting, mechanism, before)).get_epsilon(delta)


def _event(accounting: Any, mechanism: Mechanism, before: Mechanism | None) -> Any:
    events = []
    for rate, noise, steps in (one for one in (before, mechanism) if one and one.steps):
        sampled = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
        events.append(accounting.SelfComposedDpEvent(sampled, steps))
    return accounting.ComposedDpEvent(events)


@functools.cache
def _dp_accounting() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise JaxganError(
            "private training needs dp-accounting: pip install 'jaxgan[private]'"
        ) from error
    return dp_accounting
