"""The Fréchet and the kernel distance, against closed forms, scipy and scikit-learn."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel

from jaxgan import JaxganError
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance


def correlated(n, dimensions, seed):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return rng.normal(size=(n, dimensions)) @ mixing + rng.normal(size=dimensions)


def test_frechet_distance_by_the_root_of_scipy():
    a, b = correlated(300, 12, 0), correlated(200, 12, 1)
    roots = sqrtm(np.cov(a.T) @ np.cov(b.T))
    expected = np.square(a.mean(0) - b.mean(0)).sum()
    expected += np.trace(np.cov(a.T) + np.cov(b.T) - 2 * roots.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_gaussians_on_axes():
    # Exact means and variances: (difference of means)^2 + (difference of deviations)^2 per axis.
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)
    a, b = signs * [1.0, 3.0] + [0.0, 5.0], signs * [2.5, 0.0] + [2.0, 4.0]
    expected = 2.0**2 + 1.0**2 + (2.5 - 1.0) ** 2 + 3.0**2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_singular_covariances():
    # Fewer samples than features, and a feature that never changes.
    a = correlated(20, 50, 0)
    a[:, 7] = 3.0
    shift = np.zeros(50)
    shift[7] = 2.0
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx(4, rel=1e-9)
    # Of a and 2a the deviations differ by once those of a.
    twice = a.mean(0) + 2 * (a - a.mean(0))
    assert frechet_distance(a, twice) == pytest.approx(a.var(axis=0, ddof=1).sum(), rel=1e-9)


def test_kernel_distance_by_the_kernels_of_scikit_learn():
    a, b = correlated(300, 6, 0), correlated(517, 6, 0) + 0.1

    def mean_of_pairs(x):
        kernel = polynomial_kernel(x, degree=3, gamma=1 / 6, coef0=1)
        return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))

    across = polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1).mean()
    expected = mean_of_pairs(a) + mean_of_pairs(b) - 2 * across
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-7)


def test_kernel_distance_has_no_bias():
    rng = np.random.default_rng(0)
    found = [kernel_distance(*rng.normal(size=(2, 20, 4))) for _ in range(200)]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_sets_that_cannot_be_compared_are_refused(distance):
    one = np.zeros((9, 3))
    with pytest.raises(JaxganError, match="at least 2 samples are needed, got 1"):
        distance(one, one[:1])
    with pytest.raises(JaxganError, match=r"got \[9, 3\] and \[9, 2\]"):
        distance(one, one[:, :2])
    with pytest.raises(JaxganError, match="finite"):
        distance(one, np.full((9, 3), np.inf))
