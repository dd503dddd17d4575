"""The user's own data: a folder of pictures, or an array file of images or vectors."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan.data.dataset import Dataset
from jaxgan.data.pixels import are_vectors
from jaxgan.data.resizing import resize
from jaxgan.errors import JaxganError, NoSplitError
from jaxgan.files import check_writable, disk_errors, expand, new_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""The suffixes of picture files."""
_LEVEL = 1 / 255
"""Floats may lie outside their range by one level of a byte, by rounding or resampling."""


def load_folder(name: str, split: str, image_size: int | None) -> Dataset:
    """Loads the images in a folder, or in its subfolders, which are then the classes.

    Labels number the subfolders in the order of their names. If all images are gray they become
    `[H, W, 1]`, else RGB. Transparent images are composited over white. Hidden files are skipped
    (`.*` and `__MACOSX*`). Other files, folders inside classes, and subfolders without images
    beside classes are skipped with a warning.

    Raises:
      JaxganError: if there are no images, if images are both in the folder and in subfolders, if
        one cannot be read, or if their sizes differ and no `image_size` is given.
    """
    _only_train(name, split)
    root = expand(name)
    folders = sorted(path for path in _visible(root) if path.is_dir())
    classes = [folder for folder in folders if _pictures(folder)]
    paths = _pictures(root)
    labels = None
    if paths and classes:
        raise JaxganError(
            f"{name} contains images and also subfolders with images ({classes[0].name}): "
            "put all images into subfolders, one for each class, or none"
        )
    if classes:
        by_class = [_pictures(folder) for folder in classes]
        paths = [path for pictures in by_class for path in pictures]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(p) for p in by_class])
    if not paths:
        raise JaxganError(f"{name} contains no images ({', '.join(SUFFIXES)})")
    _warn_of_others(name, [root, *classes], sorted(set(folders) - set(classes)))

    from tqdm import tqdm

    images = [
        read_picture(path, image_size) for path in tqdm(paths, "reading", disable=None, leave=False)
    ]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise JaxganError(
                f"{path} is {_size(image)}, but {paths[0]} is {_size(images[0])}: "
                "make all sizes equal; train.py and upsample.py do that with --image-size"
            )
    names = tuple(folder.name for folder in classes)
    return Dataset(stack_pictures(images), labels, root.resolve().name, split, names)


def load_arrays(name: str, split: str) -> Dataset:
    """Loads images or vectors from a .npy or .npz file, and labels and the names of the classes if
    there are any; see `data.load`."""
    _only_train(name, split)
    try:
        with expand(name).open("rb") as file:  # numpy itself would leave a damaged file open
            loaded = np.load(file, allow_pickle=False)
            found = {"images": loaded} if isinstance(loaded, np.ndarray) else loaded
            names = list(found)
            images_name = names[0] if len(names) == 1 else "images"
            # numpy reads the arrays of an .npz file when they are used.
            wanted = (images_name, "labels", "classes")
            arrays = {key: found[key] for key in wanted if key in names}
    except Exception as error:  # numpy, zipfile, zlib and tokenize have their own errors
        raise JaxganError(f"{name}: cannot be read as a numpy file ({error})") from error
    if images_name not in arrays:
        raise JaxganError(f"{name} has no array `images`, only {', '.join(names)}")
    names = tuple(map(str, np.ravel(arrays.get("classes", ()))))
    found = make_dataset(name, arrays[images_name], arrays.get("labels"), names)
    return found._replace(name=Path(name).name)


def make_dataset(
    name: str, images: np.ndarray, labels: np.ndarray | None, classes: tuple[str, ...] = ()
) -> Dataset:
    """A Dataset of images or vectors, and of labels if there are any; see `data.load`.

    Raises:
      JaxganError: if their shapes, types or values do not fit.
    """
    rows = images.ndim == 2 and images.dtype != np.uint8  # [H, W] of bytes is one picture
    images = _as_vectors(name, images) if rows else _as_uint8(name, images)
    if labels is not None:
        labels = _as_labels(name, labels, len(images))
    return Dataset(images, labels, name, "train", classes)


def save(dataset: Dataset, path: str | Path) -> None:
    """Writes a data set to an .npz file, which `data.load` and `--dataset` read.

    Raises:
      JaxganError: if the name does not end in .npz, or if the file cannot be written.
    """
    path = expand(path)
    if path.suffix != ".npz":
        raise JaxganError(f"{path}: the name of a data set must end in .npz")
    images = dataset.images
    # Gray images keep their channel: without it narrow ones would be taken for something else.
    arrays = {"images": images[:, 0, 0] if are_vectors(images.shape[1:]) else images}
    if dataset.labels is not None:
        arrays["labels"] = dataset.labels
    if dataset.classes:
        arrays["classes"] = np.array(dataset.classes)
    check_writable(path)
    with disk_errors(path), new_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _only_train(name: str, split: str) -> None:
    if split != "train":
        raise NoSplitError(f"{name} has one split only, train; there is no {split!r}")


def _visible(folder: Path) -> list[Path]:
    """What a folder contains, without hidden files and folders, such as `.ipynb_checkpoints`."""
    return [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]


def _pictures(folder: Path) -> list[Path]:
    paths = _visible(folder)
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _warn_of_others(name: str, read: list[Path], empty: list[Path]) -> None:
    """Warns of files that are no images, folders in classes, and subfolders without images."""
    inner = [path for folder in read[1:] for path in _visible(folder) if path.is_dir()]
    if inner:
        number = f"{len(inner)} folder{'s' * (len(inner) > 1)}"
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in inner[:5])
        warnings.warn(f"{name}: skipped {number} in the classes: {names}", stacklevel=4)
    files = [path for folder in read for path in _visible(folder) if path.is_file()]
    kinds = Counter(path.suffix or path.name for path in files)
    others = {kind: n for kind, n in kinds.items() if kind.lower() not in SUFFIXES}
    if others:
        number = sum(others.values())
        what = f"{number} other file{'s' * (number > 1)} ({', '.join(sorted(others)[:5])})"
        warnings.warn(f"{name}: skipped {what}", stacklevel=4)
    if empty and len(read) > 1:
        folders = ", ".join(path.name for path in empty[:5])
        warnings.warn(
            f"{name}: these subfolders have no images and are no classes: {folders}", stacklevel=4
        )


def read_picture(path: Path, image_size: int | None = None) -> np.ndarray:
    """One image as uint8 `[h, w, 1]` or `[h, w, 3]`. Transparent parts become white.

    Raises:
      JaxganError: if it cannot be read, or if its values are outside [0, 1] (floats) or
        [0, 65,535] (whole numbers).
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            pixels = picture_pixels(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise JaxganError(f"{path}: cannot be read as an image ({error})") from error
    return pixels if image_size is None else resize(pixels, image_size)


def stack_pictures(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of one size as `[N, h, w, 1]` if all are gray, else as `[N, h, w, 3]`."""
    channels = 1 if all(_is_gray(picture) for picture in pictures) else 3
    shape = (*pictures[0].shape[:2], 3)
    return np.stack([np.broadcast_to(picture, shape)[..., :channels] for picture in pictures])


def picture_pixels(picture: Any) -> np.ndarray:
    """A PIL image as uint8 `[h, w, 1]` or `[h, w, 3]`. Transparent parts become white.

    Raises:
      JaxganError: if floats are not in [0, 1], or whole numbers not in [0, 65,535].
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(picture)
    if image.mode.startswith(("I", "F")):  # gray of 16 bits or of floats: convert("L") clips
        kind, white = ("float", 1) if image.mode == "F" else ("integer", 65_535)
        deep = np.asarray(image).astype(np.float64)
        low, high = deep.min() / white, deep.max() / white
        if not (low >= -_LEVEL and high <= 1 + _LEVEL):  # also if either is NaN
            raise JaxganError(
                f"{kind} pixels must be from 0 to {white:,}; these are from {deep.min():g} to "
                f"{deep.max():g}: save the picture with 8 bits"
            )
        deep[deep == image.info.get("transparency")] = white
        pixels = (np.clip(deep / white, 0, 1) * 255).round().astype(np.uint8)
    elif image.has_transparency_data:
        background = Image.new("RGBA", image.size, "white")
        pixels = np.asarray(Image.alpha_composite(background, image.convert("RGBA")))[..., :3]
    else:
        pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def _is_gray(image: np.ndarray) -> bool:
    return bool((image == image[..., :1]).all())


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _as_vectors(name: str, vectors: np.ndarray) -> np.ndarray:
    """Vectors `[N, D]` as float32 images of one pixel, `[N, 1, 1, D]`."""
    if not vectors.size or vectors.dtype.kind not in "iuf":
        raise JaxganError(
            f"{name}: vectors must be numbers [N, D], not empty; got {vectors.dtype} "
            f"{list(vectors.shape)}"
        )
    with np.errstate(over="ignore"):
        found = vectors.astype(np.float32)
    if not np.isfinite(found).all():
        raise JaxganError(
            f"{name}: a vector has a value that is missing, or too large for float32: leave out "
            "such rows, or fill them in (scripts/impute.py does that for CSV files)"
        )
    return found[:, None, None]


def _as_labels(name: str, labels: np.ndarray, images: int) -> np.ndarray:
    """Labels of this many images as int32 `[N]`."""
    if labels.shape != (images,):
        raise JaxganError(f"{name}: {images} images, but labels of shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise JaxganError(f"{name}: labels must be whole numbers, got {labels.dtype}")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < 2**31:
            raise JaxganError(f"{name}: labels must be from 0 to 2**31 - 1, got {label}")
    return labels.astype(np.int32)


def _as_uint8(name: str, images: np.ndarray) -> np.ndarray:
    """Images as uint8 `[N, H, W, C]`, from uint8 or from floats in [0, 1] or [-1, 1]."""
    if images.ndim == 3 and images.shape[-1] in (1, 3, 4):
        raise JaxganError(
            f"{name}: {list(images.shape)} is one picture with channels; a set of images is "
            "[N, H, W] or [N, H, W, C]"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise JaxganError(
            f"{name}: images must be [N, H, W] or [N, H, W, C], not empty, and "
            f"vectors float [N, D]; got {list(images.shape)}"
        )
    if are_vectors(images.shape[1:]):
        raise JaxganError(f"{name}: images of one pixel are no images; vectors are float [N, D]")
    if images.shape[-1] not in (1, 3, 4):
        raise JaxganError(f"{name}: images must have 1, 3 or 4 channels, got {images.shape[-1]}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise JaxganError(f"{name}: images must be uint8 or float, got {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 - _LEVEL and high <= 1 + _LEVEL):  # also if either is NaN
        raise JaxganError(
            f"{name}: float images must be in [0, 1] or in [-1, 1]; "
            f"these are in [{low:g}, {high:g}]"
        )
    negative = float((images < -_LEVEL).mean())
    if negative and (low > -0.5 or negative < 0.01):
        raise JaxganError(
            f"{name}: {negative:.2%} of the values are negative, down to {low:g}. The range is "
            "unclear, [0, 1] or [-1, 1]: save the images as uint8"
        )
    unit = (images + 1) / 2 if negative else images
    return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
