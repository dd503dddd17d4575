"""Resizing of images, by Pillow."""

import warnings

import numpy as np

from jaxgan.data.dataset import Dataset
from jaxgan.data.pixels import are_vectors
from jaxgan.errors import JaxganError


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Scales the shorter side to `size` and crops the centre: `[h, w, C]` -> `[size, size, C]`."""
    from PIL import Image, ImageOps

    gray = image.shape[-1] == 1
    fitted = ImageOps.fit(
        Image.fromarray(image[..., 0] if gray else image),
        (size, size),
        method=Image.Resampling.LANCZOS,
    )
    return np.asarray(fitted).reshape(size, size, image.shape[-1])


def resize_all(dataset: Dataset, size: int | None) -> Dataset:
    """Resizes all images, if there is a size. Warns if they are nearly black.

    Raises:
      JaxganError: if there is a size, and the data are vectors.
    """
    images, name = dataset.images, dataset.name
    if size is not None and are_vectors(images.shape[1:]):
        raise JaxganError(f"{name} contains vectors, which have no size: leave out --image-size")
    if size is not None and images.shape[1:3] != (size, size):
        images = np.stack([resize(image, size) for image in images])
    if images.dtype == np.uint8 and images.max() == 1:
        warnings.warn(
            f"{name}: the largest value is 1 of 255, so all images are nearly black; if they are "
            "binary, multiply them by 255",
            stacklevel=3,
        )
    return dataset._replace(images=images)
