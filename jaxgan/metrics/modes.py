"""How well the modes of a mixture are learned: `mode_scores(points, mixture) -> ModeScores`."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxgan.errors import JaxganError

if TYPE_CHECKING:
    from jaxgan.data import Mixture

WITHIN = 3.0
"""How far from its mode a sample may lie, in sigma, to be of high quality."""
LEAST = 30
"""Of how many samples a covariance is estimated; of fewer, its eigenvalues say next to nothing."""


class ModeScores(NamedTuple):
    """What the published tables count (arXiv 1705.07761, 1712.04086), and the shape of the modes.

    Of as many points from the mixture itself: all modes, a high quality of 1 - exp(-9/2) = 0.989, a
    reverse KL of about (K - 1) / (2 N) for K modes and N points, a covariance ratio below 1 by
    chance alone: of 2,500 points about 0.78 on the ring and 0.58 on the grid.
    """

    modes: float
    """Modes captured: at least one sample of high quality is nearest to them."""
    high_quality: float
    """Share of the samples within 3 sigma of the nearest centre, in [0, 1]."""
    reverse_kl: float
    """KL(generated || uniform) over the modes, in nats, from 0 to log K. Every sample counts for
    the mode whose centre is nearest, of high quality or not: so it is defined for any generator.
    (The code of arXiv 1712.04086 counts those of high quality alone: nearly the same if most are.)
    """
    covariance_ratio: float
    """Smallest over largest eigenvalue of the covariance of a mode's samples of high quality, in
    the worst of the modes that have at least 30 of them: 1 is round, 0 a line or a point. NaN if no
    mode has as many."""


def mode_scores(points: np.ndarray, mixture: "Mixture") -> ModeScores:
    """Scores samples of a generator.

    Args:
      points: `[N, 2]`, finite; the published tables take N = 2,500.
      mixture: that the generator has learned, such as `jaxgan.data.MIXTURES["ring"]`.

    Returns:
      The ModeScores, computed in float64.

    Raises:
      JaxganError: if the points are not `[N, 2]` with N >= 1, or not all are finite.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise JaxganError(f"points must be [N, 2] with N >= 1, got {list(points.shape)}")
    if not np.isfinite(points).all():
        raise JaxganError("points must be finite: the generator has diverged")
    distances = np.linalg.norm(points[:, None] - mixture.centers, axis=-1)
    nearest = distances.argmin(axis=1)
    good = distances.min(axis=1) <= WITHIN * mixture.sigma
    k = len(mixture.centers)
    captured = np.bincount(nearest[good], minlength=k)
    shares = np.bincount(nearest, minlength=k) / len(points)
    shares = shares[shares > 0]
    ratios = [
        _roundness(points[good & (nearest == mode)]) for mode in np.flatnonzero(captured >= LEAST)
    ]
    return ModeScores(
        modes=int((captured > 0).sum()),
        high_quality=float(good.mean()),
        reverse_kl=float((shares * np.log(shares * k)).sum()),
        covariance_ratio=min(ratios, default=float("nan")),
    )


def _roundness(points: np.ndarray) -> float:
    """Smallest over largest eigenvalue of the covariance of points `[N, 2]`; 0 of one place."""
    smallest, largest = np.linalg.eigvalsh(np.cov(points.T))
    return float(max(smallest, 0) / largest) if largest > 0 else 0.0
