"""The MNIST family: four gzip files in the IDX format, from this machine or downloaded."""

import gzip
import hashlib
import importlib.util
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan.data.dataset import Dataset
from jaxgan.data.network import not_cached, unreachable
from jaxgan.errors import DataUnavailableError, JaxganError, NoSplitError
from jaxgan.files import expand

CLASSES: dict[str, tuple[str, ...]] = {
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "mnist": tuple("0123456789"),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
"""The names of the classes of each set, by their labels."""
NAMES = tuple(CLASSES)

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def load(name: str, split: str, data_dir: str | Path | None) -> Dataset:
    """Loads one split of a set of `NAMES`; see `jaxgan.data.load`."""
    if split not in _FILES:
        raise NoSplitError(f"{name} has the splits train and test, not {split!r}")
    paths = find(name, split, data_dir) or _from_tfds(name, split, data_dir)
    other = _other_set(name, paths[0])
    if other:
        raise JaxganError(
            f"{paths[0]} is a file of {other}, not of {name}: put the files of each data set into "
            f"a folder of its name, {name}/, and give the folder above it"
        )
    images, labels = (read(path, ndim) for path, ndim in zip(paths, (3, 1), strict=True))
    if len(images) != len(labels):
        raise JaxganError(
            f"{paths[0]} has {len(images)} images, but {paths[1]} has {len(labels)} labels: "
            "they do not belong together"
        )
    return Dataset(images[..., None], labels.astype(np.int32), name, split, CLASSES[name])


def find(name: str, split: str, data_dir: str | Path | None = None) -> tuple[Path, Path] | None:
    """The image and the label file in `data_dir` or $JAXGAN_DATA_DIR; None if neither has any.

    In each of the two folders, a subfolder with the name of the set comes first.

    Raises:
      JaxganError: if a folder has some files of the set, but not both of this split.
    """
    for root in _roots(data_dir):
        for folder in (root / name, root):
            paths = [folder / file for file in _FILES[split]]
            missing = [str(path) for path in paths if not path.is_file()]
            if not missing:
                return paths[0], paths[1]
            if any((folder / file).is_file() for pair in _FILES.values() for file in pair):
                raise JaxganError(
                    f"{name}: {' and '.join(missing)} missing, though its other files are there"
                )
    return None


def read(path: Path, ndim: int) -> np.ndarray:
    """Reads one gzip IDX file of unsigned bytes with `ndim` dimensions.

    Raises:
      JaxganError: if the file is damaged, or not of this kind.
    """
    # The header: two zero bytes, the type (8: unsigned byte), the number of dimensions, the sizes.
    expected_magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    try:
        with gzip.open(path) as file:
            raw = file.read(header)
            if raw[:4] != expected_magic:
                raise JaxganError(
                    f"{path}: wrong magic number 0x{raw[:4].hex()}, expected "
                    f"0x{expected_magic.hex()} (IDX, unsigned bytes, {ndim} dimensions)"
                )
            shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4))
            expected = header + math.prod(shape)
            # Reads at most one byte more than expected: a damaged file may unpack to any length.
            # Reads in chunks: gzip allocates the whole requested size at once.
            while len(raw) <= expected and (more := file.read(min(expected + 1 - len(raw), 2**24))):
                raw += more
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise JaxganError(
            f"{path}: damaged or truncated gzip file ({error}); download it again"
        ) from error
    except OSError as error:
        raise JaxganError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(raw) != expected:
        length = len(raw) if len(raw) < expected else f"more than {expected}"
        raise JaxganError(
            f"{path}: wrong length, {length} bytes; by its header {shape} it has {expected}"
        )
    if not all(shape):
        raise JaxganError(f"{path}: empty, by its header {shape}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _other_set(name: str, path: Path) -> str | None:
    """The other set to which a file belongs, by the checksums of tensorflow-datasets; or None.

    All sets of the family have the same file names.
    """
    found = importlib.util.find_spec("tensorflow_datasets")
    if found is None or not found.submodule_search_locations:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for other in NAMES:
        # Importing tensorflow-datasets would take longer than all else.
        sums = Path(found.submodule_search_locations[0], "url_checksums", f"{other}.txt")
        if other != name and sums.is_file() and digest in sums.read_text():
            return other
    return None


def _roots(data_dir) -> list[Path]:
    named = (data_dir, os.environ.get("JAXGAN_DATA_DIR"))
    return [expand(root) for root in named if root]


def _from_tfds(name: str, split: str, data_dir) -> list[Path]:
    """The two files from the cache of tensorflow-datasets, or downloaded into it."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise DataUnavailableError(
            _not_found(name, data_dir, "tensorflow-datasets is not installed")
        )
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    builder: Any = tfds.builder_cls(name)
    urls = [f"{builder.URL}{file}" for file in _FILES[split]]
    # The folder that tfds itself uses: downloads are shared with it.
    try:
        downloads = expand(constants.DATA_DIR) / "downloads"
    except JaxganError as error:
        raise DataUnavailableError(_not_found(name, data_dir, str(error))) from error

    missing = not_cached(builder, urls, downloads)
    # Without a network, the retries of tfds would take minutes.
    reason = unreachable(missing[0]) if missing else None
    if reason:
        raise DataUnavailableError(_not_found(name, data_dir, reason, downloads))
    leftovers = set(downloads.glob("**/*.tmp.*"))
    try:
        manager = tfds.download.DownloadManager(
            download_dir=downloads, url_infos=builder.url_infos, dataset_name=name
        )
        paths: Any = manager.download(urls)
        return [Path(path) for path in paths]
    except NonMatchingChecksumError as error:
        raise JaxganError(f"{name}: a downloaded file has a wrong checksum: {error}") from error
    except (DownloadError, requests.RequestException, OSError) as error:
        raise DataUnavailableError(_not_found(name, data_dir, str(error), downloads)) from error
    finally:
        for folder in set(downloads.glob("**/*.tmp.*")) - leftovers:
            shutil.rmtree(folder, ignore_errors=True)


def _not_found(name: str, data_dir, reason: str, cache: Path | None = None) -> str:
    tried = [*map(str, _roots(data_dir)), *([str(cache)] if cache else [])]
    four = ", ".join(file for pair in _FILES.values() for file in pair)
    return (
        f"{name} is not on this machine and cannot be downloaded: {reason}. "
        f"Searched: {', '.join(tried) or 'no folder (none was given)'}. Put its four files "
        f"({four}) into a folder and give that by --data-dir or $JAXGAN_DATA_DIR, "
        "or take --dataset digits, which needs no download"
    )
