"""The user's own images: a folder of pictures, or an array file."""

from pathlib import Path

import numpy as np

from jaxgan.data.dataset import Dataset
from jaxgan.data.resizing import resize
from jaxgan.errors import JaxganError, NoSplitError

_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_folder(name: str, split: str, image_size: int | None) -> Dataset:
    """Loads the PNG and JPEG images in a folder, or in its subfolders, which are then the classes.

    Labels number the subfolders in the order of their names. If all images are gray they become
    `[H, W, 1]`, else RGB.

    Raises:
      JaxganError: if there are no images, if images are both in the folder and in subfolders, if
        one cannot be read, or if their sizes differ and no `image_size` is given.
    """
    _only_train(name, split)
    root = Path(name).expanduser()
    classes = sorted(path for path in root.iterdir() if path.is_dir() and _pictures(path))
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
        raise JaxganError(f"{name} contains no images ({', '.join(_SUFFIXES)})")

    from tqdm import tqdm

    images = [_read(path, image_size) for path in tqdm(paths, "reading", disable=None, leave=False)]
    channels = max(image.shape[-1] for image in images)
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise JaxganError(
                f"{path} is {_size(image)}, but {paths[0]} is {_size(images[0])}: "
                "make all sizes equal, or give --image-size"
            )
    images = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    return Dataset(images, labels, root.resolve().name, split)


def load_arrays(name: str, split: str) -> Dataset:
    """Loads images, and labels if there are any, from a .npy or .npz file; see `data.load`."""
    _only_train(name, split)
    try:
        loaded = np.load(Path(name).expanduser(), allow_pickle=False)
        # numpy reads an .npz file only when its arrays are used.
        arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # numpy, zipfile, zlib and tokenize have their own errors
        raise JaxganError(f"{name}: cannot be read as a numpy file ({error})") from error
    if "images" not in arrays and len(arrays) == 1:
        arrays = {"images": next(iter(arrays.values()))}
    if "images" not in arrays:
        raise JaxganError(f"{name} has no array `images`, only {', '.join(arrays)}")
    images = _as_uint8(name, arrays["images"])
    labels = arrays.get("labels")
    if labels is not None and labels.shape != images.shape[:1]:
        raise JaxganError(f"{name} has {len(images)} images, but labels of shape {labels.shape}")
    if labels is not None and not np.issubdtype(labels.dtype, np.integer):
        raise JaxganError(f"{name}: labels must be whole numbers, got {labels.dtype}")
    labels = None if labels is None else labels.astype(np.int32)
    return Dataset(images, labels, Path(name).name, split)


def _only_train(name: str, split: str) -> None:
    if split != "train":
        raise NoSplitError(f"{name} has one split only, train; there is no {split!r}")


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _read(path: Path, image_size: int | None) -> np.ndarray:
    """One image as uint8 `[h, w, 1]` or `[h, w, 3]`."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # gray of 16 bits, which convert("L") would clip
                pixels = (np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8)
            else:
                pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise JaxganError(f"{path}: cannot be read as an image ({error})") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels if image_size is None else resize(pixels, image_size)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _as_uint8(name: str, images: np.ndarray) -> np.ndarray:
    """Images as uint8 `[N, H, W, C]`, from uint8 or from floats in [0, 1] or [-1, 1]."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise JaxganError(
            f"{name}: images must be [N, H, W] or [N, H, W, C], not empty; got {list(images.shape)}"
        )
    if images.shape[-1] not in (1, 3, 4):
        raise JaxganError(f"{name}: images must have 1, 3 or 4 channels, got {images.shape[-1]}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise JaxganError(f"{name}: images must be uint8 or float, got {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1 and high <= 1):  # also if either is NaN
        raise JaxganError(
            f"{name}: float images must be in [0, 1] or in [-1, 1]; "
            f"these are in [{low:g}, {high:g}]"
        )
    unit = (images + 1) / 2 if low < 0 else images
    return np.round(unit * 255).astype(np.uint8)
