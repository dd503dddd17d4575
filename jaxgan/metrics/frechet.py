"""The Fréchet distance between two sets of features."""

import numpy as np

from jaxgan.errors import JaxganError


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of two sets.

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), in the square of the features' unit. It depends on the
    number of samples: compare at equal numbers only.

    Args:
      real: features `[N, D]`, N >= 2.
      fake: features `[M, D]`, M >= 2.

    Returns:
      The distance, >= 0, computed in float64. Fewer samples than features are allowed: their
      covariance is singular, which does no harm here.

    Raises:
      JaxganError: if the sets are not of these shapes, or not all numbers are finite.

    Source: Heusel et al. 2017 (arXiv 1706.08500), there of Inception's features, as FID.
    """
    real, fake = checked_features(real, fake)
    (mean, root), (other_mean, other_root) = _moments(real), _moments(fake)
    # With S = R^T R the trace of (S S')^(1/2) is the sum of the singular values of R R'^T: no root
    # is taken of what rounding may have made negative.
    shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    spread = np.square(root).sum() + np.square(other_root).sum()
    return float(max(np.square(mean - other_mean).sum() + spread - 2 * shared, 0.0))


def checked_features(*sets: np.ndarray, least: int = 2) -> list[np.ndarray]:
    """Sets of features `[N, D]` in float64, if they are such and fit each other.

    Raises:
      JaxganError: if not, or if one has fewer than `least` samples, or a number is not finite.
    """
    found = [np.asarray(features, np.float64) for features in sets]
    for features in found:
        if features.ndim != 2 or features.shape[1:] != found[0].shape[1:]:
            shapes = " and ".join(str(list(features.shape)) for features in found)
            raise JaxganError(f"sets of features must be [N, D], of the same D; got {shapes}")
        if len(features) < least:
            raise JaxganError(f"at least {least} samples are needed, got {len(features)}")
        if not np.isfinite(features).all():
            raise JaxganError("features must be finite: a generator has diverged")
    return found


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[D]`, and R with R^T R the unbiased covariance."""
    mean = features.mean(axis=0)
    root = np.linalg.qr(features - mean, mode="r")
    return mean, root / np.sqrt(len(features) - 1)
