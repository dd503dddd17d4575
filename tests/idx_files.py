"""The four files of a set of the MNIST family."""

import gzip
from pathlib import Path

import numpy as np

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes in the IDX format."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_set(
    folder: Path,
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    splits: tuple[str, ...] = ("train", "test"),
) -> Path:
    """Writes images `[N, H, W]` and labels `[N]` as each of the splits; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        for name, array in zip(FILES[split], (images, labels), strict=True):
            (folder / name).write_bytes(gzip.compress(idx_bytes(array)))
    return folder
