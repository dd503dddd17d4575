"""Around the compiled functions of a model: checks of what callers give, and types."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgan.errors import JaxganError

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SEEN: set[Any] = set()
"""The shapes and types of jax arrays of which one was checked. Later arrays of the same shape are
not."""


def check_rng(rng: Any) -> None:
    """Raises a JaxganError unless it is a key, or keys."""
    dtype, shape = getattr(rng, "dtype", None), getattr(rng, "shape", ())
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    # Keys of the older kind, by jax.random.PRNGKey, are arrays.
    if not is_key and not (dtype == np.uint32 and shape[-1:] == (2,)):
        got = type(rng).__name__ if dtype is None else f"{dtype} of {list(shape)}"
        raise JaxganError(f"rng must be a key, such as jax.random.key(0), got {got}")


def check_sampling(state: Any, rng: Any) -> None:
    """Raises a JaxganError if rng is no key, or if parameters are split over explicit axes."""
    check_rng(rng)
    for x in jax.tree.leaves(state):
        placed = jax.typeof(x).sharding
        explicit = {*getattr(placed.mesh, "explicit_axes", ())}
        if explicit & {*jax.tree.leaves(tuple(placed.spec))}:
            raise JaxganError(
                "the parameters are split over explicit axes of a mesh: replicate them, or make "
                "the mesh with axis_types=(jax.sharding.AxisType.Auto,)"
            )


def check_scale(batch: Any, config: Any) -> None:
    """Raises a JaxganError if float images look like [0, 1] or [0, 255], not like [-1, 1].

    Args:
      batch: images `[N, H, W, C]`, or a dict that holds them as "image". Arrays without values,
        as inside jit, pass.
      config: of the model. If it is not `bounded`, all values pass. So do vectors.
    """
    images: Any = batch.get("image") if isinstance(batch, Mapping) else batch
    is_float = np.issubdtype(getattr(images, "dtype", np.uint8), np.floating)
    is_image = is_float and np.shape(images)[1:3] != (1, 1)
    if not is_image or isinstance(images, Tracer) or not getattr(config, "bounded", False):
        return
    # A look at a jax array waits for the device, so only one of each shape is checked.
    seen = isinstance(images, jax.Array) and (
        not images.is_fully_addressable or (images.shape, images.dtype) in _SEEN
    )
    if seen:
        return
    values = np.asarray(images)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    # Images in [-1, 1] that come from bytes have no pixel that is 0 exactly.
    unit = low == 0 and 0.5 < high < 1.01
    if unit or (low >= 0 and high > 2):
        raise JaxganError(
            f"images must be uint8, or float in [-1, 1]; these floats are from {low:g} to "
            f"{high:g}: give {'2 * x - 1' if unit else '(x - 127.5) / 127.5'}"
        )
    if isinstance(images, jax.Array):
        _SEEN.add((images.shape, images.dtype))


def jit(**options: Any) -> Callable[[_Function], _Function]:
    """`jax.jit` with options. A type checker then knows the arguments and results."""
    return cast(Any, functools.partial(jax.jit, **options))


def checks_inputs(train_step: _Function) -> _Function:
    """Lets a `train_step(state, batch, rng)` check its rng, and the scale of its images."""

    @functools.wraps(train_step)
    def checked(state: Any, batch: Any, rng: Any, **options: Any) -> Any:
        check_rng(rng)
        check_scale(batch, state.config)
        return train_step(state, batch, rng, **options)

    for name in ("lower", "trace", "eval_shape", "clear_cache"):  # of jax.jit
        setattr(checked, name, getattr(train_step, name))
    return checked  # pyright: ignore
