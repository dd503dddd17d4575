"""Nearest neighbours among features: precision, recall, density, coverage, memorisation.

Distances are Euclidean, in float64. The matrix of distances is computed ROWS rows at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.metrics.frechet import checked_features

ROWS = 256
"""Rows of the matrix of all pairs that are in memory at a time: 20 MB for 10,000 columns."""
PART = 2_000
"""The progress bar moves after at most this many points."""

_ROUNDING = 1e-12
"""The rounding error of a squared distance is below this times the sum of both squared norms."""


class PRDC(NamedTuple):
    """How real the generated samples are, and how much of the real variety they have.

    The radius of the ball of a sample is the distance to its k-th nearest neighbour in its own set,
    or to its `k_coverage`-th for density and coverage. A ball includes its boundary, because
    repeated samples can make its radius 0.
    """

    precision: float
    """Share of the generated samples that are in the ball of a real sample."""
    recall: float
    """Share of the real samples that are in the ball of a generated sample."""
    density: float
    """The mean number of balls of real samples that contain a generated sample, divided by
    `k_coverage`. Its expectation is 1 for equal distributions, and it may be larger."""
    coverage: float
    """Share of the real samples with a generated sample in their ball. Its expectation for equal
    distributions is 1 - prod_{i=1..k} (N - i) / (M + N - i) with k = `k_coverage`: 0.9688 for
    N = M = 10,000, k = 5."""


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 3, k_coverage: int = 5) -> PRDC:
    """Precision, recall, density and coverage of generated samples.

    Args:
      real: features `[N, D]`, N > k and N > k_coverage.
      fake: features `[M, D]`, M > k and M > k_coverage.
      k: which neighbour sets the radius, for precision and recall. A sample is not its own
        neighbour.
      k_coverage: the same for density and coverage.

    Returns:
      The PRDC. It depends on N and M: compare scores of equal numbers of samples only.

    Raises:
      JaxganError: if a shape differs from these, or if a number is not finite.

    Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), Naeem et al. 2020 (arXiv 2002.09797).

    >>> import numpy as np
    >>> import jaxgan
    >>> real = np.array([0, 1, 2, 3, 4, 5, 90, 91, 92, 93, 94, 95])[:, None]
    >>> fake = real[:6]  # half of the real variety
    >>> scores = jaxgan.metrics.prdc(real, fake)
    >>> scores.precision, scores.recall, scores.coverage
    (1.0, 0.5, 0.5)
    """
    real, fake = checked_features(real, fake, least=max(k, k_coverage) + 1)
    # Centred, since rounding is relative to the distance from the origin.
    real, fake = real - real.mean(axis=0), fake - real.mean(axis=0)
    with jax.enable_x64(True), _progress(real, fake, fake, real) as bar:
        near = _by_parts(_neighbours, bar, np.arange(len(real)), real, max(k, k_coverage))
        real_radii = near[:, [k - 1, k_coverage - 1]].T
        fake_radii = _by_parts(_neighbours, bar, np.arange(len(fake)), fake, k)[:, [k - 1]].T
        balls, _ = _by_parts(_balls_around, bar, fake, real, real_radii)
        fake_balls, nearest = _by_parts(_balls_around, bar, real, fake, fake_radii)
    least = nearest - 2 * _ROUNDING * np.square(real).sum(axis=1)
    return PRDC(
        precision=float((balls[:, 0] > 0).mean()),
        recall=float((fake_balls[:, 0] > 0).mean()),
        density=float(balls[:, 1].mean()) / k_coverage,
        coverage=float((least <= real_radii[1]).mean()),
    )


def memorisation(train: np.ndarray, test: np.ndarray, samples: np.ndarray) -> float:
    """The probability that a sample is nearer to the training data than a test image.

    Args:
      train: features `[N, D]` of the training data.
      test: features `[M, D]` of other real data.
      samples: features `[K, D]` of generated samples.

    Returns:
      The probability, in [0, 1]. The distances compared are those to the nearest training image;
      ties count half. It is 0.5 for new samples of the same distribution, and 1 for copies. It also
      depends on quality: it falls if samples are unlike all real images, and rises if they vary
      less than real images. If half of the samples are copies and half are noise, it is about 0.5.
      `metrics.copies` looks for copies alone.

    Raises:
      JaxganError: if a shape differs from these, or if a number is not finite.

    Source: Meehan et al. 2020 (arXiv 2004.05675), whose statistic is the z-score of this one.

    >>> import numpy as np
    >>> import jaxgan
    >>> train, test = np.arange(0, 10, 2)[:, None], np.arange(1, 11, 2)[:, None]
    >>> jaxgan.metrics.memorisation(train, test, train)  # samples are copies of training images
    1.0
    >>> jaxgan.metrics.memorisation(train, test, test)
    0.5
    """
    from scipy.stats import mannwhitneyu

    train, test, samples = checked_features(train, test, samples, least=1)
    with jax.enable_x64(True), _progress(samples, test) as bar:
        no_balls = np.zeros((1, len(train)))
        own, others = (
            _by_parts(_balls_around, bar, points, train, no_balls)[1] for points in (samples, test)
        )
    wins = mannwhitneyu(others, own, method="asymptotic").statistic
    return float(wins) / (len(own) * len(others))


def _squared_distances(point: jax.Array, points: jax.Array) -> jax.Array:
    """`[D]`, `[N, D]` -> `[N]`."""
    squares = jnp.square(points).sum(axis=1) + jnp.square(point).sum()
    return jnp.maximum(squares - 2 * (points @ point), 0)


def _progress(*sets: np.ndarray) -> Any:
    """A progress bar for one call of `_by_parts` for each of these sets."""
    from tqdm import tqdm

    return tqdm(total=sum(map(_parts, sets)), desc="comparing", disable=None, leave=False)


def _parts(points: np.ndarray) -> int:
    return -(-len(points) // PART)


def _by_parts(function: Callable[..., Any], bar: Any, points: np.ndarray, *others: Any) -> Any:
    """`function(points, *others)`, for at most PART points at a time: one row for each point."""
    size = -(-len(points) // _parts(points))
    others = tuple(jax.device_put(x) if isinstance(x, np.ndarray) else x for x in others)
    found = []
    for start in range(0, len(points), size):
        # The last part overlaps the one before: parts of one size need one program.
        first = min(start, len(points) - size)
        rows = jax.device_get(function(points[first : first + size], *others))
        found.append(jax.tree.map(lambda x, done=start - first: x[done:], rows))
        bar.update()
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


@functools.partial(jax.jit, static_argnames="k")
def _neighbours(indices: jax.Array, points: jax.Array, k: int) -> jax.Array:
    """For each index `[R]` into the points `[N, D]` the squared distances to its k nearest other
    points, `[R, k]`, ascending."""

    def row(i):
        def next_nearest(distances, _):
            at = distances.argmin()
            return distances.at[at].set(jnp.inf), distances[at]

        # On a CPU lax.top_k would sort the whole row.
        distances = _squared_distances(points[i], points).at[i].set(jnp.inf)
        return jax.lax.scan(next_nearest, distances, length=k)[1]

    return jax.lax.map(row, indices, batch_size=ROWS)


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each point `[N, D]` the index of the nearest of the others `[M, D]`: int `[N]`."""
    points, others = checked_features(points, others, least=1)
    with jax.enable_x64(True):
        return jax.device_get(_nearest(points, others))


@jax.jit
def _nearest(points: jax.Array, others: jax.Array) -> jax.Array:
    def row(point):
        return _squared_distances(point, others).argmin()

    return jax.lax.map(row, points, batch_size=ROWS)


@jax.jit
def _balls_around(points: jax.Array, others: jax.Array, radii: jax.Array):
    """For each point `[N, D]` the number of balls around the others `[M, D]` that contain it,
    `[N, R]`, and the squared distance to the nearest of these, `[N]`. Radii are squared, `[R, M]`.
    """

    def row(point):
        distances = _squared_distances(point, others)
        rounding = _ROUNDING * (jnp.square(point).sum() + jnp.square(others).sum(axis=1))
        return ((distances - rounding)[None] <= radii).sum(axis=1), distances.min()

    return jax.lax.map(row, points, batch_size=ROWS)
