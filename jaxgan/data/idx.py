"""The MNIST family: four gzip files in the IDX format, found on this machine or downloaded."""

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

NAMES = ("fashion_mnist", "mnist", "kmnist")

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
            f"{paths[0]} is of {other}, not of {name}: "
            f"put the files of each set into a folder of its name, {name}/, and name the one above"
        )
    images, labels = (read(path, ndim) for path, ndim in zip(paths, (3, 1), strict=True))
    if len(images) != len(labels):
        raise JaxganError(
            f"{paths[0]} holds {len(images)} images, but {paths[1]} {len(labels)} labels: "
            "they are not of one set"
        )
    return Dataset(images[..., None], labels.astype(np.int32), name, split)


def find(name: str, split: str, data_dir: str | Path | None = None) -> tuple[Path, Path] | None:
    """The image and the label file in `data_dir` or $JAXGAN_DATA_DIR, or None if neither has any.

    In each of the two a folder of the set's name goes before the folder itself.

    Raises:
      JaxganError: if a folder holds some of the set's files but not both of this split.
    """
    for root in _roots(data_dir):
        for folder in (root / name, root):
            paths = [folder / file for file in _FILES[split]]
            missing = [str(path) for path in paths if not path.is_file()]
            if not missing:
                return paths[0], paths[1]
            if any((folder / file).is_file() for pair in _FILES.values() for file in pair):
                raise JaxganError(
                    f"{name}: missing {' and '.join(missing)}, beside its other files"
                )
    return None


def read(path: Path, ndim: int) -> np.ndarray:
    """Reads one gzip IDX file of unsigned bytes with `ndim` dimensions.

    Raises:
      JaxganError: if the file is not whole, or not of this kind.
    """
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise JaxganError(
            f"{path}: damaged or truncated gzip file ({error}); fetch it anew"
        ) from error
    except OSError as error:
        raise JaxganError(f"{path}: cannot be read ({error.strerror or error})") from error
    # Two zero bytes, the type (8: unsigned byte), the number of dimensions; then each size.
    magic, wanted = raw[:4], bytes([0, 0, 8, ndim])
    if magic != wanted:
        raise JaxganError(
            f"{path}: wrong magic number 0x{magic.hex()}, expected 0x{wanted.hex()} "
            f"(IDX, unsigned bytes, {ndim} dimensions)"
        )
    header = 4 + 4 * ndim
    shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4))
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise JaxganError(
            f"{path}: wrong length, {len(raw)} bytes where its header {shape} says {expected}"
        )
    if not all(shape):
        raise JaxganError(f"{path}: empty, its header says {shape}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _other_set(name: str, path: Path) -> str | None:
    """The other set of the family that a file belongs to by the registered checksums, if any.

    All sets of the family have the same file names.
    """
    found = importlib.util.find_spec("tensorflow_datasets")
    if found is None or not found.submodule_search_locations:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for other in NAMES:
        # Read as a file, since to import tensorflow-datasets takes longer than the rest.
        sums = Path(found.submodule_search_locations[0], "url_checksums", f"{other}.txt")
        if other != name and sums.is_file() and digest in sums.read_text():
            return other
    return None


def _roots(data_dir) -> list[Path]:
    named = (data_dir, os.environ.get("JAXGAN_DATA_DIR"))
    return [Path(root).expanduser() for root in named if root]


def _from_tfds(name: str, split: str, data_dir) -> list[Path]:
    """The two files by way of tensorflow-datasets: from its cache, or downloaded into it."""
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
    # The folder that tfds itself uses: what was downloaded by either is found by the other.
    downloads = Path(constants.DATA_DIR).expanduser() / "downloads"

    missing = not_cached(builder, urls, downloads)
    # tfds's own retries go on for minutes without a network: ask first.
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
        raise JaxganError(f"{name}: a download is not what it should be: {error}") from error
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
        f"Looked in {', '.join(tried) or 'no folder (none was named)'}. Put its four files "
        f"({four}) into a folder and name that with --data-dir or $JAXGAN_DATA_DIR, "
        "or take --dataset digits, which needs no download"
    )
