"""The user's own data in memory: arrays, or anything that gives images one after the other."""

import numbers
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxgan.data import files
from jaxgan.data.dataset import Dataset
from jaxgan.data.pixels import are_vectors
from jaxgan.data.resizing import resize, resize_all
from jaxgan.errors import JaxganError
from jaxgan.fields import is_size

_NAME = "arrays"
_CHANNELS = (1, 3, 4)


def from_arrays(
    images: Any,
    labels: Any = None,
    *,
    image_size: int | None = None,
    limit: int | None = None,
) -> Dataset:
    """Makes a Dataset of arrays, or of what a loader gives.

    Args:
      images: one of
        an array of images `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`: uint8, or floats as in
          `load`. Vectors are `[N, D]`. It may be of numpy, jax, torch or TensorFlow, or a
          data frame;
        an iterable, or what has `__len__` and `__getitem__`, such as a list, a generator, a
          `datasets.Dataset`, a loader of Grain, tf.data or torch, or a torch Dataset. It is read
          once, so each image keeps the random augmentation that it then has. Each item is an image
          (an array, or one of PIL), a pair (image, label), or a dict with "image" and perhaps
          "label"; or a batch of these. Items without labels are batches if they are `[B, H, W, C]`,
          `[B, C, H, W]`, or `[B, H, W]` where neither B is 1 or 3 nor W is 1, 3 or 4. Join batches
          of vectors first.
      labels: whole numbers from 0, `[N]`, if `images` has none.
      image_size: resizes the shorter side of the images to this many pixels, and crops the square
        in the centre. Images of different sizes must be uint8.
      limit: takes at most this many images. An endless loader needs it.

    Returns:
      A Dataset of uint8 images, or of float32 vectors. The names of its classes are those of the
      feature "label" of a `datasets.Dataset`.

    Raises:
      JaxganError: if images, labels and their numbers do not fit, if there are no images, or if
        they fill a quarter of the memory and there is no `limit`.
    """
    for name, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and not is_size(value):
            raise JaxganError(f"{name} must be a whole number above 0, got {value!r}")
    source, beside = _parts(images) if isinstance(images, Mapping) else (images, None)
    if hasattr(source, "__array__"):
        source, found = _channels_last(_pixels(source))[:limit], None
    else:
        source, found = _read(source, image_size, limit)
    given = [one for one in (labels, beside, found) if one is not None]
    if len(given) > 1:
        raise JaxganError(f"{_NAME}: the images have labels already: leave out labels")
    found = _labels(given[0])[:limit] if given else None
    return resize_all(files.make_dataset(_NAME, source, found, _class_names(images)), image_size)


def _read(
    source: Any, image_size: int | None, limit: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a loader, and their labels if there are any."""
    from tqdm import tqdm

    batches: list[np.ndarray] = []
    marks: list[np.ndarray | None] = []
    n = size = 0
    batched = None
    for item in tqdm(_items(source, limit), "reading", disable=None, leave=False):
        image, label = _parts(item)
        pixels, mark = _pixels(image), None if label is None else np.asarray(label)
        if batched is None:  # the first item says it for all
            batched = _is_batch(pixels.shape) if mark is None else mark.ndim > 0
        if not batched:
            pixels, mark = pixels[None], None if mark is None else mark[None]
        if mark is not None and mark.shape != pixels.shape[:1]:
            raise JaxganError(
                f"{_NAME}: an item has {len(pixels)} image{'s' * (len(pixels) != 1)} and labels of "
                f"shape {list(mark.shape)}: each image has one whole number"
            )
        pixels = _channels_last(pixels if pixels.ndim != 3 else pixels[..., None])
        if image_size is not None and pixels.ndim == 4 and pixels.dtype == np.uint8:
            pixels = np.stack([resize(one, image_size) for one in pixels])
        batches.append(pixels)
        marks.append(mark)
        n, size = n + len(pixels), size + pixels.nbytes
        if limit is not None and n >= limit:
            break
        if limit is None and size > _most_bytes():
            raise _endless(f"{n:,} images fill a quarter of the memory")
    return _joined(batches)[:limit], _joined_labels(marks, limit)


def _items(source: Any, limit: int | None) -> Iterable[Any]:
    """What a loader gives, item by item."""
    if isinstance(source, str | os.PathLike):
        raise JaxganError(f"{_NAME}: {str(source)!r} is no array: jaxgan.data.load reads files")
    try:
        length = len(source)
    except TypeError:  # a generator, or a tf.data.Dataset of unknown length
        length = None
    # Of a loader that repeats, Grain gives the largest number as the length, tf.data gives -1.
    cardinality = getattr(source, "cardinality", lambda: None)()
    if limit is None and (length == sys.maxsize or cardinality == -1):
        raise _endless("the loader repeats without end")
    if hasattr(source, "__iter__"):
        return source
    if hasattr(source, "__getitem__") and length is not None:
        # A torch Dataset need not end with an IndexError, at which Python would stop.
        return (source[i] for i in range(length))
    kind = type(source).__name__
    raise JaxganError(f"{_NAME}: {kind} is no array, and gives no images one after the other")


def _most_bytes() -> int:
    """A quarter of the memory. A loader that gives more is likely to be endless."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _endless(reason: str) -> JaxganError:
    return JaxganError(f"{_NAME}: {reason}: give limit=, the number of images to take")


def _parts(item: Any) -> tuple[Any, Any]:
    """The image and the label, or None, of an item; or the images and labels of a batch."""
    if isinstance(item, Mapping):
        if "image" not in item:
            names = ", ".join(map(repr, item)) or "nothing"
            raise JaxganError(f'{_NAME}: images are named "image"; here is {names}')
        return item["image"], item.get("label")
    # A list or tuple of lists or numbers is an image or a vector.
    is_pair = isinstance(item, tuple | list) and len(item) in (1, 2)
    if is_pair and not isinstance(item[0], list | tuple | numbers.Number):
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _pixels(image: Any) -> np.ndarray:
    """An image or a batch as an array."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return files.picture_pixels(image)
    try:
        found = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor on a GPU
        reason = str(error).splitlines()[0]
        raise JaxganError(f"{_NAME}: {type(image).__name__} is no array ({reason})") from error
    if found.dtype.kind not in "uif" or not found.ndim:
        raise JaxganError(
            f"{_NAME}: an item is an image of uint8 or floats, (image, label), or a dict with "
            f'"image" and "label"; got {type(image).__name__} of {found.dtype}'
        )
    return found


def _labels(labels: Any) -> np.ndarray:
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError):  # such as a list of lists, or a tensor on a GPU
        found = np.asarray(None)
    if not found.ndim:
        kind = type(labels).__name__
        raise JaxganError(f"{_NAME}: labels must be whole numbers [N], and {kind} is no such array")
    return found


def _is_batch(shape: tuple[int, ...]) -> bool:
    """Whether an array without labels is a batch, not an image; see `from_arrays`."""
    is_image = len(shape) == 3 and (shape[-1] in _CHANNELS or shape[0] in (1, 3))
    return len(shape) > 2 and not is_image


def _channels_last(batch: np.ndarray) -> np.ndarray:
    """`[B, C, H, W]`, as in torch, becomes `[B, H, W, C]`."""
    first = batch.ndim == 4 and batch.shape[-1] not in _CHANNELS and batch.shape[1] in _CHANNELS
    # Vectors, as a Dataset holds them, have one pixel.
    return np.moveaxis(batch, 1, -1) if first and not are_vectors(batch.shape[1:]) else batch


def _joined(batches: list[np.ndarray]) -> np.ndarray:
    if not batches:
        raise JaxganError(f"{_NAME}: there are no images")
    channels = {batch.shape[-1] for batch in batches if batch.ndim == 4}
    if channels == {1, 3}:  # gray pictures among coloured ones
        batches = [np.broadcast_to(batch, (*batch.shape[:3], 3)) for batch in batches]
    at, shape = 0, batches[0].shape[1:]
    for batch in batches:
        if batch.shape[1:] != shape:
            raise JaxganError(
                f"{_NAME}: image {at} has the shape {list(batch.shape[1:])}, and image 0 has "
                f"{list(shape)}: make all equal, or give image_size"
            )
        at += len(batch)
    return np.concatenate(batches)


def _joined_labels(marks: list[np.ndarray | None], limit: int | None) -> np.ndarray | None:
    found = [mark for mark in marks if mark is not None]
    if found and len(found) < len(marks):
        raise JaxganError(f"{_NAME}: some items have labels, and others have none")
    return np.concatenate(found)[:limit] if found else None


def _class_names(source: Any) -> tuple[str, ...]:
    """The names of the classes of a `datasets.Dataset`, by their labels; () if there are none."""
    features = getattr(source, "features", None)
    label = features.get("label") if isinstance(features, Mapping) else None
    return tuple(getattr(label, "names", None) or ())
