"""What every loader gives."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images in memory, as a host array.

    `images`: uint8 `[N, H, W, C]`. `labels`: int32 `[N]`, or None where there are none.
    `name`: the name that it was asked for by; of a path its last part.
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    split: str
