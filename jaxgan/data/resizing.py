"""Resizing of single images, by Pillow."""

import numpy as np


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
