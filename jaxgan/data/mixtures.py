"""Two mixtures of Gaussians in the plane, whose modes can be counted in samples."""

from typing import NamedTuple

import numpy as np

from jaxgan.data.dataset import Dataset
from jaxgan.errors import NoSplitError

POINTS = 100_000
"""The number of points in each split."""


class Mixture(NamedTuple):
    """Equally likely round Gaussians in the plane.

    `centers`: float64 `[K, 2]`. `sigma`: the standard deviation of each Gaussian along each axis.
    """

    name: str
    centers: np.ndarray
    sigma: float

    def draw(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws n points, float32 `[n, 2]`, and their modes, int32 `[n]`."""
        rng = np.random.default_rng(seed)
        modes = rng.integers(len(self.centers), size=n, dtype=np.int32)
        points = self.centers[modes] + self.sigma * rng.standard_normal((n, 2))
        return points.astype(np.float32), modes


def _ring() -> Mixture:
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    return Mixture("ring", np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.01)


def _grid() -> Mixture:
    marks = np.linspace(-4, 4, 5)
    return Mixture("grid", np.stack(np.meshgrid(marks, marks), axis=-1).reshape(25, 2), 0.05)


RING, GRID = _ring(), _grid()
"""8 modes on the unit circle with sigma 0.01, and 25 modes on {-4, -2, 0, 2, 4}^2 with sigma 0.05
(arXiv 1705.07761)."""

MIXTURES = {mixture.name: mixture for mixture in (RING, GRID)}


def load(name: str, split: str) -> Dataset:
    """Loads one of `MIXTURES`; see `jaxgan.data.load`. The points are the same every time."""
    seeds = {"train": 0, "test": 1}
    if split not in seeds:
        raise NoSplitError(f"{name} has the splits train and test, not {split!r}")
    points, modes = MIXTURES[name].draw(POINTS, seeds[split])
    return Dataset(points.reshape(POINTS, 1, 1, 2), modes, name, split)
