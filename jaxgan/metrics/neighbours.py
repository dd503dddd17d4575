"""Nearest neighbours among features: precision, recall, density, coverage, memorisation.

Distances are Euclidean. All is computed in float64, some rows of the matrix of distances at a time.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.metrics.frechet import checked_features

ROWS = 256
"""Of a matrix of all pairs, so many rows are in memory at a time: 20 MB of 10,000 columns."""


class PRDC(NamedTuple):
    """How much of what is generated is real, and how much of the real is generated."""

    precision: float
    """Share of the fakes within a ball of a real sample, the k-th nearest neighbour its radius."""
    recall: float
    """Share of the real samples within such a ball of a fake."""
    density: float
    """Balls of real samples that a fake lies in, over k: the mean over the fakes. 1 is expected of
    equal distributions; it may be more."""
    coverage: float
    """Share of the real samples with a fake in their ball. Of equal distributions less than 1 is
    expected: 1 - prod_{i=1..k} (N - i) / (M + N - i), or 0.9688 of 10,000 each with k = 5."""


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 3, k_coverage: int = 5) -> PRDC:
    """Precision and recall, density and coverage of fakes.

    Args:
      real: features `[N, D]`, N > k and k_coverage.
      fake: features `[M, D]`, M > k and k_coverage.
      k: which neighbour is the radius, for precision and recall; the sample itself is none.
      k_coverage: the same for density and coverage.

    Returns:
      The PRDC. It depends on N and M: compare at equal numbers only.

    Raises:
      JaxganError: if the sets are not of these shapes, or not all numbers are finite.

    Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), Naeem et al. 2020 (arXiv 2002.09797).
    """
    real, fake = checked_features(real, fake, least=max(k, k_coverage) + 1)
    # Rounding is relative to the distance from the origin.
    real, fake = real - real.mean(axis=0), fake - real.mean(axis=0)
    with jax.enable_x64(True):
        real_radii = _neighbours(real, max(k, k_coverage))[:, [k - 1, k_coverage - 1]].T
        fake_radii = _neighbours(fake, k)[:, [k - 1]].T
        balls, _ = jax.device_get(_seen_from(fake, real, real_radii))
        fake_balls, nearest = jax.device_get(_seen_from(real, fake, fake_radii))
    return PRDC(
        precision=float((balls[:, 0] > 0).mean()),
        recall=float((fake_balls[:, 0] > 0).mean()),
        density=float(balls[:, 1].mean()) / k_coverage,
        coverage=float((nearest < np.asarray(real_radii[1])).mean()),
    )


def memorisation(train: np.ndarray, unseen: np.ndarray, samples: np.ndarray) -> float:
    """How likely a sample is nearer to the training data than a real one that was not seen.

    Args:
      train: features `[N, D]` of what the generator was trained on.
      unseen: features `[M, D]` of real data that it was not trained on.
      samples: features `[K, D]` of what it makes.

    Returns:
      The probability that the nearest training sample of a sample is nearer than that of an unseen
      real one, in [0, 1]; ties count half. 0.5 of new samples of the same distribution, 1 of
      copies; far below 0.5 of samples that are far from all real data.

    Raises:
      JaxganError: if the sets are not of these shapes, or not all numbers are finite.

    Source: Meehan et al. 2020 (arXiv 2004.05675), whose statistic is the z-score of this one.
    """
    from scipy.stats import mannwhitneyu

    train, unseen, samples = checked_features(train, unseen, samples, least=1)
    with jax.enable_x64(True):
        no_balls = np.zeros((1, len(train)))
        own, others = (_seen_from(points, train, no_balls)[1] for points in (samples, unseen))
    wins = mannwhitneyu(others, own, method="asymptotic").statistic
    return float(wins) / (len(own) * len(others))


def _squared_distances(point: jax.Array, points: jax.Array) -> jax.Array:
    """`[D]`, `[N, D]` -> `[N]`."""
    squares = jnp.square(points).sum(axis=1) + jnp.square(point).sum()
    return jnp.maximum(squares - 2 * (points @ point), 0)


@functools.partial(jax.jit, static_argnames="k")
def _neighbours(points: jax.Array, k: int) -> jax.Array:
    """Squared distances to the k nearest other points, `[N, D]` -> `[N, k]`, ascending."""

    def row(i, point):
        def next_nearest(distances, _):
            at = distances.argmin()
            return distances.at[at].set(jnp.inf), distances[at]

        # Not lax.top_k, which sorts the whole row on a CPU.
        distances = _squared_distances(point, points).at[i].set(jnp.inf)
        return jax.lax.scan(next_nearest, distances, length=k)[1]

    return jax.lax.map(lambda x: row(*x), (jnp.arange(len(points)), points), batch_size=ROWS)


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the others `[M, D]` is nearest to each point `[N, D]`: int `[N]`."""
    points, others = checked_features(points, others, least=1)
    with jax.enable_x64(True):
        return jax.device_get(_nearest(points, others))


@jax.jit
def _nearest(points: jax.Array, others: jax.Array) -> jax.Array:
    def row(point):
        return _squared_distances(point, others).argmin()

    return jax.lax.map(row, points, batch_size=ROWS)


@jax.jit
def _seen_from(points: jax.Array, others: jax.Array, radii: jax.Array):
    """From each of `[N, D]`: in how many balls of the others `[M, D]` it lies, by squared radii
    `[R, M]`, as `[N, R]`; and the squared distance to the nearest of them, `[N]`."""

    def row(point):
        distances = _squared_distances(point, others)
        return (distances[None] < radii).sum(axis=1), distances.min()

    return jax.lax.map(row, points, batch_size=ROWS)
