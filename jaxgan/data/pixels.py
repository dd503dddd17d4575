"""Images as uint8 and as floats in [-1, 1]; vectors as images of one pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.errors import JaxganError


def to_float(images: jax.Array) -> jax.Array:
    """Scales uint8 images in 0..255 to float32 in [-1, 1]. Floats stay unchanged.

    Raises:
      JaxganError: if the images are of another type.
    """
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) - 127.5) / 127.5
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise JaxganError(f"images must be uint8 or float in [-1, 1], got {images.dtype}")
    return images


def batch_images(batch: Any, shape: Sequence[int]) -> jax.Array:
    """The images of a batch, `[B, H, W, C]` in [-1, 1].

    Args:
      batch: the images, uint8 or float in [-1, 1], or a dict that holds them as "image".
      shape: `(H, W, C)`.

    Raises:
      JaxganError: if they have another shape, or if there are none.
    """
    given = batch
    if isinstance(batch, Mapping):
        if "image" not in batch:
            names = ", ".join(map(repr, batch)) or "nothing"
            raise JaxganError(f'a batch holds its images as "image"; this one has {names}')
        given = batch["image"]
    if isinstance(given, tuple | list) or not hasattr(given, "dtype"):
        raise JaxganError(
            'a batch is an array of images, or a dict with "image" (and "label"), not a '
            f"{type(given).__name__}"
        )
    images = jnp.asarray(given)
    if images.ndim != 4 or images.shape[1:] != tuple(shape) or not images.shape[0]:
        raise JaxganError(
            f"a batch must be [B, {', '.join(map(str, shape))}] with B >= 1, "
            f"got {list(images.shape)}"
        )
    return to_float(images)


def to_uint8(images: Any) -> np.ndarray:
    """Rounds floats `[..., H, W, C]` in [-1, 1] to uint8. Images of uint8 stay unchanged.

    NaN, from a diverged member of a population, becomes black.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    levels = np.nan_to_num(np.round(images * 127.5 + 127.5), nan=0)
    return np.clip(levels, 0, 255).astype(np.uint8)


def for_file(images: np.ndarray) -> np.ndarray:
    """Images `[N, H, W, C]` as array files hold them: vectors `[N, D]`, gray images `[N, H, W]`."""
    if are_vectors(images.shape[1:]):
        return images[:, 0, 0]
    return images[..., 0] if images.shape[-1] == 1 else images


def are_vectors(shape: Sequence[int]) -> bool:
    """Whether images of this shape, `(H, W, C)`, are vectors: one pixel with a channel for each
    value. Points in the plane are vectors of two values."""
    return tuple(shape[:2]) == (1, 1)
