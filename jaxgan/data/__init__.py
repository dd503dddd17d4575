"""Data sets as arrays: `load(name) -> Dataset`."""

import difflib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan.data import files, idx, mixtures, prepared
from jaxgan.data.dataset import Dataset
from jaxgan.data.mixtures import MIXTURES, Mixture
from jaxgan.data.resize import resized
from jaxgan.errors import DataUnavailableError, JaxganError, NoSplitError

__all__ = ["MIXTURES", "Dataset", "Mixture", "load"]


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
        `fashion_mnist` (arXiv 1708.07747), `mnist`, `kmnist` (arXiv 1812.01718): from their four
          gzip IDX files in `data_dir` (in it, or in a folder in it of the set's name), else in
          $JAXGAN_DATA_DIR likewise, else from the download cache of tensorflow-datasets, else
          downloaded there and checked against its registered checksums;
        `digits`: scikit-learn's 1,797 8x8 images, bundled, no download (1,500 of them in train);
        `ring`, `grid`: 100,000 points from a mixture of Gaussians in the plane, of `MIXTURES`;
          their labels are the modes;
        `auto`: `fashion_mnist` where it can be had, else `digits` with a warning;
        a folder of PNG or JPEG images, whose subfolders, if any, are the classes;
        a `.npy` or `.npz` file of images `[N, H, W]` or `[N, H, W, C]`: uint8, or floats in
          [0, 1], or floats in [-1, 1] if any is negative; an .npz names them `images` and,
          if there are any, `labels`, as `scripts/sample.py` does;
        `tfds:NAME`: a set prepared by tensorflow-datasets as array_record in `data_dir` or its
          own folder; one that is not is prepared first, which needs TensorFlow.
      split: `train` or `test`; a folder or an array file is all `train`.
      data_dir: where to look first.
      image_size: resize the images, their shorter side to this many pixels, and crop the centre
        square. Without it all images must be of one size.

    Returns:
      A Dataset of uint8 images, or of float32 points.

    Raises:
      DataUnavailableError: if the set is not on this machine and cannot be downloaded.
      NoSplitError: if it has no such split.
      JaxganError: if the name is unknown, a file is not what it should be, or points are to be
        resized.
    """
    name = str(name)
    try:
        dataset = _load(name, split, data_dir, image_size)
    except OSError as error:
        raise JaxganError(f"{name}: cannot be read ({error})") from error
    if image_size is not None and dataset.images.shape[1:3] != (image_size, image_size):
        images = np.stack([resized(image, image_size) for image in dataset.images])
        dataset = dataset._replace(images=images)
    return dataset


def _load(name: str, split: str, data_dir: str | Path | None, image_size: int | None) -> Dataset:
    if name == "auto":
        return _auto(split, data_dir, image_size)
    if name in idx.NAMES:
        return idx.load(name, split, data_dir)
    if name == "digits":
        return _digits(split)
    if name in MIXTURES:
        if image_size is not None:
            raise JaxganError(f"{name} holds points, which have no size: leave out --image-size")
        return mixtures.load(name, split)
    if name.startswith("tfds:"):
        return prepared.load(name, split, data_dir, image_size)
    if name.endswith((".npy", ".npz")):
        return files.load_arrays(name, split)
    if name and Path(name).expanduser().is_dir():
        return files.load_folder(name, split, image_size)
    raise JaxganError(_unknown(name))


def _auto(split, data_dir, image_size) -> Dataset:
    try:
        return load("fashion_mnist", split, data_dir, image_size=image_size)
    except DataUnavailableError as error:
        warnings.warn(
            f"training on the small bundled set `digits` instead of Fashion-MNIST: {error}",
            stacklevel=3,
        )
        return load("digits", split, image_size=image_size)


def _digits(split: str) -> Dataset:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    part = {"train": slice(0, 1500), "test": slice(1500, None)}
    if split not in part:
        raise NoSplitError(f"digits has the splits train and test, not {split!r}")
    return Dataset(images[part[split]], labels[part[split]], "digits", split)


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
