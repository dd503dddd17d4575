"""The result of every loader."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images in the host's memory.

    `images`: uint8 `[N, H, W, C]`. Points of a mixture are float32 `[N, 1, 1, 2]`: images of one
    pixel with two channels. `labels`: int32 `[N]`, or None. `name`: the name given to `load`, or
    the last part of the path.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    split: str
