"""How well a generator has learned the modes of a mixture: `mode_scores`."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxgan.errors import JaxganError

if TYPE_CHECKING:
    from jaxgan.data import Mixture

WITHIN = 3.0
"""A sample within this distance of the nearest centre, in units of sigma, has high quality."""
LEAST = 30
"""The smallest number of samples from which a covariance is estimated."""
RESAMPLES = 200
"""Bootstrap samples for an interval."""


class ModeScores(NamedTuple):
    """The scores of the published tables (arXiv 1705.07761, 1712.04086), and the shape of modes.

    N points of the mixture itself have all K modes, a high quality of 1 - exp(-9/2) = 0.989 and a
    reverse KL of about (K - 1) / (2 N). By chance their covariance ratio is below 1: for 2,500
    points about 0.78 on the ring and 0.58 on the grid.
    """

    modes: float
    """The number of modes with at least one sample of high quality."""
    high_quality: float
    """Share of the samples within 3 sigma of the nearest centre, in [0, 1]."""
    reverse_kl: float
    """KL(generated || uniform) over the modes, in nats, from 0 to log K. Every sample counts for
    the mode with the nearest centre. (The code of arXiv 1712.04086 counts only samples of high
    quality.)"""
    covariance_ratio: float
    """How round the worst mode is: 1 for a circle, 0 for a line or a point. For each mode with at
    least 30 samples of high quality, it is the smallest eigenvalue of their covariance divided by
    the largest. It is 0 if there is no such mode."""


def mode_scores(points: np.ndarray, mixture: "Mixture") -> ModeScores:
    """Scores samples of a generator.

    Args:
      points: `[N, 2]`, finite; the published tables have N = 2,500.
      mixture: the training data, such as `jaxgan.data.MIXTURES["ring"]`.

    Returns:
      The ModeScores, computed in float64.

    Raises:
      JaxganError: if the points are not `[N, 2]` with N >= 1, or if one is not finite.

    >>> import jaxgan
    >>> ring = jaxgan.data.MIXTURES["ring"]
    >>> scores = jaxgan.metrics.mode_scores(ring.centers[:4], ring)  # points in 4 of 8 modes
    >>> scores.modes, round(scores.reverse_kl, 6)
    (4, 0.693147)
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise JaxganError(f"points must be [N, 2] with N >= 1, got {list(points.shape)}")
    if not np.isfinite(points).all():
        raise JaxganError("points must be finite: the model has diverged")
    distances = np.linalg.norm(points[:, None] - mixture.centers, axis=-1)
    nearest = distances.argmin(axis=1)
    close = distances.min(axis=1) <= WITHIN * mixture.sigma
    k = len(mixture.centers)
    captured = np.bincount(nearest[close], minlength=k)
    shares = np.bincount(nearest, minlength=k) / len(points)
    shares = shares[shares > 0]
    ratios = [
        _roundness(points[close & (nearest == mode)]) for mode in np.flatnonzero(captured >= LEAST)
    ]
    return ModeScores(
        modes=int((captured > 0).sum()),
        high_quality=float(close.mean()),
        reverse_kl=float((shares * np.log(shares * k)).sum()),
        covariance_ratio=min(ratios, default=0.0),
    )


def mode_intervals(points: np.ndarray, mixture: "Mixture") -> dict[str, tuple[float, float]]:
    """95% intervals of the ModeScores, by their names, from RESAMPLES bootstrap samples.

    Some scores are biased, and those of bootstrap samples more so. So an interval is moved by the
    score less the mean of the bootstrap scores, and clipped to the range of the score.

    Takes the same arguments and raises the same errors as `mode_scores`.
    """
    rng, n = np.random.default_rng(0), len(points)
    scores = [mode_scores(points[rng.integers(n, size=n)], mixture) for _ in range(RESAMPLES)]
    shift = np.mean(scores, axis=0) - mode_scores(points, mixture)
    k = len(mixture.centers)
    shifted = np.percentile(scores, (2.5, 97.5), axis=0) - shift
    low, high = np.clip(shifted, 0, np.array([[k, 1, np.log(k), 1]]))
    return dict(zip(ModeScores._fields, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _roundness(points: np.ndarray) -> float:
    """Smallest over largest eigenvalue of the covariance of points `[N, 2]`; 0 if all are equal."""
    smallest, largest = np.linalg.eigvalsh(np.cov(points.T))
    return float(max(smallest, 0) / largest) if largest > 0 else 0.0
