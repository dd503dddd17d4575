"""Data sets as arrays: `load(name) -> Dataset` and `from_arrays(images) -> Dataset`."""

import difflib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan.data import files, idx, mixtures, prepared
from jaxgan.data.arrays import from_arrays
from jaxgan.data.dataset import Dataset
from jaxgan.data.files import save
from jaxgan.data.mixtures import MIXTURES, Mixture
from jaxgan.data.resizing import resize_all
from jaxgan.errors import DataUnavailableError, JaxganError, NoSplitError
from jaxgan.files import expand

__all__ = ["MIXTURES", "Dataset", "Mixture", "from_arrays", "load", "save"]


def load(
    name: str | Path,
    split: str = "train",
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
) -> Dataset:
    """Loads a data set into memory.

    Args:
      name: one of
        `fashion_mnist` (arXiv 1708.07747), `mnist`, `kmnist` (arXiv 1812.01718): four gzip IDX
          files. `load` looks for them in `data_dir` and in $JAXGAN_DATA_DIR (first in a subfolder
          with the name of the set), then in the cache of tensorflow-datasets. Else it downloads
          them into that cache and checks their checksums;
        `digits`: 1,797 8x8 images that scikit-learn contains, 1,500 of them in train. scikit-learn
          orders them by writer. Here each class is split at random, always in the same way, so
          that test images are distributed like training images;
        `ring`, `grid`: 100,000 points of a mixture in `MIXTURES`; the labels are the modes;
        `auto`: `fashion_mnist` if it is on this machine or can be downloaded, else `digits` with a
          warning;
        a folder of images (PNG, JPEG, BMP, GIF, TIFF, WebP); subfolders are the classes;
        a `.npy` or `.npz` file of images `[N, H, W]` or `[N, H, W, C]`: uint8, or floats in
          [0, 1], or floats in [-1, 1], if at least 1% are negative and the least is -0.5 or below.
          An .npz file, such as one of `save`, has the array `images`. It may have `labels` and,
          with these, `classes`, their names. Numbers `[N, D]` are vectors, such as the
          rows of a table: they stay as they are, so scale them to about [-1, 1];
        `tfds:NAME`: a set of tensorflow-datasets, prepared as array_record in `data_dir` or in its
          default folder. Only TensorFlow can prepare it.
      split: `train` or `test`; a folder or an array file has `train` only.
      data_dir: the first folder to look in.
      image_size: resizes the shorter side of the images to this many pixels, and crops the square
        in the centre. Without it all images must have the same size.

    Returns:
      A Dataset of uint8 images, or of float32 vectors.

    Raises:
      DataUnavailableError: if the set is not on this machine and cannot be downloaded.
      NoSplitError: if it has no such split.
      JaxganError: if the name is unknown, if a file is damaged or of another kind, or if there is
        an `image_size` for vectors.
    """
    name = str(name)
    try:
        dataset = _load(name, split, data_dir, image_size)
    except OSError as error:
        raise JaxganError(f"{name}: cannot be read ({error})") from error
    return resize_all(dataset, image_size)


def _load(name: str, split: str, data_dir: str | Path | None, image_size: int | None) -> Dataset:
    if name == "auto":
        return _auto(split, data_dir, image_size)
    if name in idx.NAMES:
        return idx.load(name, split, data_dir)
    if name == "digits":
        return _digits(split)
    if name in MIXTURES:
        return mixtures.load(name, split)
    if name.startswith("tfds:"):
        return prepared.load(name, split, data_dir, image_size)
    if name.endswith((".npy", ".npz")):
        return files.load_arrays(name, split)
    if name and expand(name).is_dir():
        return files.load_folder(name, split, image_size)
    raise JaxganError(_unknown(name))


def _auto(split, data_dir, image_size) -> Dataset:
    try:
        return load("fashion_mnist", split, data_dir, image_size=image_size)
    except DataUnavailableError as error:
        warnings.warn(
            f"training on the small data set digits instead of Fashion-MNIST: {error}",
            stacklevel=3,
        )
        return load("digits", split, image_size=image_size)


def _digits(split: str) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise NoSplitError(f"digits has the splits train and test, not {split!r}")
    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    parts = train_test_split(
        np.arange(len(labels)), train_size=1500, stratify=labels, random_state=0
    )
    chosen = parts[("train", "test").index(split)]
    return Dataset(images[chosen], labels[chosen], "digits", split, tuple("0123456789"))


def _unknown(name: str) -> str:
    known = [*idx.NAMES, "digits", *MIXTURES, "auto"]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.5)
    if "/" in name:
        what = f"there is no folder {name!r}."
    elif near:
        what = f"unknown dataset {name!r}; did you mean {near[0]}?"
    else:
        what = f"unknown dataset {name!r}."
    return (
        f"{what} Known are {', '.join(known)}, a folder of images, a .npy or .npz file, tfds:NAME"
    )
