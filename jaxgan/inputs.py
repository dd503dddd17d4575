"""Checks what callers give to a model, outside its compiled functions, and keeps their types."""

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
"""The jax arrays that were checked, as (kind, shape, dtype, hash of the config of the model). To
read a jax array is to wait for the device. So only the first array of each such entry is checked.
Not the config but its hash is kept, so that the user's networks can be freed."""


def check_rng(rng: Any) -> None:
    """Raises a JaxganError unless it is a key, or keys."""
    dtype, shape = getattr(rng, "dtype", None), getattr(rng, "shape", ())
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    # Keys of the older kind, by jax.random.PRNGKey, are arrays: threefry has 2 numbers, rbg 4.
    if not is_key and not (dtype == np.uint32 and shape[-1:] in ((2,), (4,))):
        got = type(rng).__name__ if dtype is None else f"{dtype} of {list(shape)}"
        raise JaxganError(f"rng must be a key, such as jax.random.key(0), got {got}")


def check_sampling(state: Any, rng: Any, n: int) -> None:
    """Raises a JaxganError if rng is no key, if n is no number of samples, or if parameters are
    split over explicit axes."""
    check_rng(rng)
    check_number(n)
    for x in jax.tree.leaves(state):
        placed = jax.typeof(x).sharding
        explicit = {*getattr(placed.mesh, "explicit_axes", ())}
        if explicit & {*jax.tree.leaves(tuple(placed.spec))}:
            raise JaxganError(
                "the parameters are split over explicit axes of a mesh: replicate them, or make "
                "the mesh with axis_types=(jax.sharding.AxisType.Auto,)"
            )


def check_number(n: Any) -> None:
    """Raises a JaxganError unless n is a number of samples."""
    # Many networks cannot take an empty batch: jax refuses to reshape it to [B, -1].
    if not isinstance(n, int | np.integer) or n < 1:
        raise JaxganError(f"n, how many samples, must be a whole number above 0, got {n!r}")


def check_latents(latents: Any, shape: tuple[int, ...]) -> None:
    """Raises a JaxganError unless latents are `[B, *shape]`."""
    if latents.shape[1:] != shape:
        raise JaxganError(f"latents must be [B, {', '.join(map(str, shape))}], got {latents.shape}")


def check_scale(batch: Any, config: Any) -> None:
    """Raises a JaxganError if float images look like [0, 1] or [0, 255], not like [-1, 1].

    Args:
      batch: images `[N, H, W, C]`, or a dict that holds them as "image". Arrays without values,
        as inside jit, pass.
      config: of the model. If it is not `bounded`, all values pass. So do vectors.
    """
    images: Any = batch.get("image") if isinstance(batch, Mapping) else batch
    is_float = jnp.issubdtype(getattr(images, "dtype", np.uint8), jnp.floating)  # also bfloat16
    is_image = is_float and np.shape(images)[1:3] != (1, 1)
    if not is_image or isinstance(images, Tracer) or not getattr(config, "bounded", False):
        return
    if _is_seen("image", images, config):
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
    _see("image", images, config)


def check_labels(batch: Any, config: Any) -> None:
    """Raises a JaxganError if a label is none of the classes of a config.

    Args:
      batch: a dict with "label", int `[N]`. Arrays without values, as inside jit, pass.
      config: of the model. If it has no `num_classes`, all values pass.
    """
    classes = getattr(config, "num_classes", 0)
    labels: Any = batch.get("label") if classes and isinstance(batch, Mapping) else None
    if labels is None or isinstance(labels, Tracer) or _is_seen("label", labels, config):
        return
    values = np.asarray(labels)
    if values.size and (values.min() < 0 or values.max() >= classes):
        raise JaxganError(
            f"labels must be from 0 to {classes - 1}, since the model has {classes} classes; these "
            f"are from {values.min()} to {values.max()}"
        )
    _see("label", labels, config)


def _is_seen(kind: str, array: Any, config: Any) -> bool:
    """Whether a jax array need not be checked, or cannot be."""
    return isinstance(array, jax.Array) and (
        not array.is_fully_addressable or (kind, array.shape, array.dtype, hash(config)) in _SEEN
    )


def _see(kind: str, array: Any, config: Any) -> None:
    if isinstance(array, jax.Array):
        _SEEN.add((kind, array.shape, array.dtype, hash(config)))


def jit(**options: Any) -> Callable[[_Function], _Function]:
    """`jax.jit` with options. It keeps the types of the function's arguments and results."""
    return cast(Any, functools.partial(jax.jit, **options))


def checks_inputs(train_step: _Function) -> _Function:
    """Lets a `train_step(state, batch, rng)` check its rng, the scale of its images, its labels."""

    @functools.wraps(train_step)
    def checked(state: Any, batch: Any, rng: Any, **options: Any) -> Any:
        check_rng(rng)
        check_scale(batch, state.config)
        check_labels(batch, state.config)
        return train_step(state, batch, rng, **options)

    for name in ("lower", "trace", "eval_shape", "clear_cache"):  # of jax.jit
        setattr(checked, name, getattr(train_step, name))
    return checked  # pyright: ignore
