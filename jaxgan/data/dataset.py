"""The result of every loader."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images in the host's memory.

    `images`: uint8 `[N, H, W, C]`. Points of a mixture are float32 `[N, 1, 1, 2]`: images of one
    pixel with two channels. `labels`: int32 `[N]`, or None. `name`: the name given to `load`, or
    the last part of the path. `classes`: the names of the classes by their labels, or ().
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    split: str
    classes: tuple[str, ...] = ()


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a class, or its label where there is no name."""
    return classes[label] if label < len(classes) else str(label)
