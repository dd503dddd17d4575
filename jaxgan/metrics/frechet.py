"""The Fréchet distance between two sets of features."""

import numpy as np

from jaxgan.errors import JaxganError


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared Fréchet distance between two Gaussians with the means and covariances of two sets.

    It is |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), in squared units of the features. It depends on
    the number of samples: compare distances of equal numbers of samples only.

    Args:
      real: features `[N, D]`, N >= 2.
      fake: features `[M, D]`, M >= 2.

    Returns:
      The distance, >= 0, computed in float64. There may be fewer samples than features.

    Raises:
      JaxganError: if a shape differs from these, or if a number is not finite.

    Source: Heusel et al. 2017 (arXiv 1706.08500); with Inception's features it is the FID.

    >>> import numpy as np
    >>> import jaxgan
    >>> real = np.array([[0, 0], [0, 2], [2, 0], [2, 2]])
    >>> round(jaxgan.metrics.frechet_distance(real, real + 3), 6)
    18.0
    """
    real, fake = checked_features(real, fake)
    (mean, root), (other_mean, other_root) = _moments(real), _moments(fake)
    # With S = R^T R the trace of (S S')^(1/2) is the sum of the singular values of R R'^T. So no
    # root of a number that rounding has made negative is needed.
    shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    spread = np.square(root).sum() + np.square(other_root).sum()
    return float(max(np.square(mean - other_mean).sum() + spread - 2 * shared, 0.0))


def checked_features(*sets: np.ndarray, least: int = 2) -> list[np.ndarray]:
    """Sets of features `[N, D]` with the same D, in float64.

    Raises:
      JaxganError: if their shapes differ from this, if one has fewer than `least` samples, or if a
        number is not finite.
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
