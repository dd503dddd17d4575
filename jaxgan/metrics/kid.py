"""The kernel distance between two sets of features."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.metrics.frechet import checked_features
from jaxgan.metrics.neighbours import ROWS


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3.

    Its expectation does not depend on the number of samples and is 0 for equal distributions. So it
    may be negative. It is a mean over all pairs of the two sets, not over blocks of them.

    Args:
      real: features `[N, D]`, N >= 2.
      fake: features `[M, D]`, M >= 2.

    Returns:
      The distance, computed in float64.

    Raises:
      JaxganError: if a shape differs from these, or if a number is not finite.

    Source: Binkowski et al. 2018 (arXiv 1801.01401); with Inception's features it is the KID.

    >>> import numpy as np
    >>> import jaxgan
    >>> real = np.array([[0, 0], [0, 2], [2, 0], [2, 2]])
    >>> round(jaxgan.metrics.kernel_distance(real, real + 3), 3)
    4662.333
    """
    real, fake = checked_features(real, fake)
    with jax.enable_x64(True):
        across = float(_kernel_sum(real, fake)) / (len(real) * len(fake))
        within = [
            # The pairs of a sample with itself are left out.
            float(_kernel_sum(x, x) - _kernel(jnp.square(x).sum(axis=1), x.shape[1]).sum())
            / (len(x) * (len(x) - 1))
            for x in (real, fake)
        ]
    return sum(within) - 2 * across


def _kernel(products: jax.Array, dimensions: int) -> jax.Array:
    return (products / dimensions + 1) ** 3


@jax.jit
def _kernel_sum(xs: jax.Array, ys: jax.Array) -> jax.Array:
    def row(x):
        return _kernel(ys @ x, len(x)).sum()

    return jax.lax.map(row, xs, batch_size=ROWS).sum()
