"""What every loader gives."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images in memory, as a host array.

    `images`: uint8 `[N, H, W, C]`; of a mixture float32 `[N, 1, 1, 2]`, points in their own units,
    which to a network are images of one pixel with two channels. `labels`: int32 `[N]`, or None
    where there are none. `name`: the name that it was asked for by; of a path its last part.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    split: str
