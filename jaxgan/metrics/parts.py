"""What samples miss of a data set, and how much they differ: cheap enough for every epoch.

The parts of a data set are clusters of its images, in each class if it has labels; those of a
mixture are its modes. A part is missed if samples lie in it much more rarely than real images do.
So a generator that has lost a tenth of the modes misses about a tenth of the data, whatever its
samples look like. (arXiv 1805.12462 compares the shares of such parts by statistical tests.)

The measure does not tell how real the samples are, or how many different ones a part has. A
generator that repeats one image in each part misses nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.data.pixels import to_float
from jaxgan.history import History
from jaxgan.model import Model

PARTS = 50
"""About the number of parts of images."""
COMPONENTS = 32
"""Principal components of the images, in which the parts are clusters."""
IMAGES = 10_000
"""At most so many real images make the parts."""
SAMPLES = 2_000
"""Samples to measure: about 40 in each part."""
CHUNK = 500
"""Samples are drawn so many at a time."""
STEPS = 400
"""Samples are measured after an epoch in which the step passes a multiple of this. Measuring takes
about as long as two steps of the reference GAN."""
RARE = 0.25
"""A part is missed if its share of the samples is below this times its share of the real images.
By chance alone, at 40 samples in a part, this happens once in 10**8 parts."""


class Parts(NamedTuple):
    """The parts of a data set, K of them."""

    mean: jax.Array
    """The mean real image, `[D]`, of pixels in [-1, 1]."""
    components: jax.Array
    """`[D, F]`. Features are `(flat image - mean) @ components`."""
    centers: jax.Array
    """The centres of the parts, `[K, F]`."""
    shares: jax.Array
    """The share of the real images in each part, `[K]`."""
    distance: jax.Array
    """The mean distance between two real images, whose pixels are in [-1, 1]: a scalar."""


class SampleMeasures(NamedTuple):
    """What is measured of samples while a model trains."""

    missed: jax.Array
    """The share of the real images in parts that have almost no samples (RARE), in [0, 1]."""
    diversity: jax.Array
    """The mean distance between two samples, divided by that between two real images. About 1 if
    samples differ as real images do; 0 if all are equal."""


def make_parts(images: np.ndarray, labels: np.ndarray | None = None) -> Parts:
    """Divides a data set into parts.

    Args:
      images: `[N, H, W, C]`, uint8 or float in [-1, 1]; points are images of 1 x 1.
      labels: `[N]`, the classes of images or the modes of points. All classes have the same number
        of parts, about PARTS together. Each mode is one part. More than PARTS classes are not used.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    chosen = np.random.default_rng(0).permutation(len(images))[:IMAGES]
    flat = np.asarray(to_float(jnp.asarray(images[chosen]))).reshape(len(chosen), -1)
    with np.errstate(invalid="ignore"):  # equal images have no variance to explain
        pca: Any = PCA(min(COMPONENTS, *flat.shape), random_state=0).fit(flat)
    features = np.round(pca.transform(flat), 4)  # so that equal images have equal features
    if labels is not None and len(np.unique(labels)) > PARTS:
        labels = None  # in so many classes there would be too few samples
    classes = np.zeros(len(flat), int) if labels is None else labels[chosen]
    groups = [features[classes == label] for label in np.unique(classes)]
    count = 1 if images.shape[1:] == (1, 1, 2) and labels is not None else PARTS // len(groups)
    centers = []
    for group in groups:
        # Equal images cannot have more parts than there are different ones.
        clusters: Any = KMeans(min(count, len(np.unique(group, axis=0))), random_state=0)
        centers.append(clusters.fit(group).cluster_centers_)
    arrays = (pca.mean_, pca.components_.T, np.concatenate(centers))
    mean, components, centers = (jnp.asarray(x, jnp.float32) for x in arrays)
    parts = Parts(mean, components, centers, jnp.ones(len(centers)), _distance(jnp.asarray(flat)))
    return parts._replace(shares=_shares(parts, jnp.asarray(flat)))


@jax.jit
def measure(parts: Parts, samples: jax.Array) -> SampleMeasures:
    """Measures samples `[n, H, W, C]` in [-1, 1]; SAMPLES of them are enough for all parts.

    All measures are NaN if a pixel is not finite.
    """
    flat = samples.reshape(len(samples), -1).astype(jnp.float32)
    shares = _shares(parts, flat)
    missed = jnp.where(shares < RARE * parts.shares, parts.shares, 0).sum()
    equal = parts.distance == 0
    diversity = jnp.where(equal, 1.0, _distance(flat) / jnp.where(equal, 1.0, parts.distance))
    finite = jnp.isfinite(flat).all()
    return SampleMeasures(*(jnp.where(finite, x, jnp.nan) for x in (missed, diversity)))


def is_due(history: History) -> bool:
    """Whether samples are measured at the end of the last epoch of a history."""
    step, epoch = int(history[-1]["step"]), int(history[-1]["epoch"])
    return step // STEPS > (step - step // epoch) // STEPS


def make_measure(model: Model, parts: Parts) -> Callable[[Any, jax.Array], dict[str, float]]:
    """A function `(state, rng) -> measures by name`, of samples and of the state itself.

    Args:
      model: of the state.
      parts: of the data on which the state is trained.
    """

    def measure_state(state: Any, rng: jax.Array) -> dict[str, float]:
        # In chunks, which any memory holds.
        rngs = jax.random.split(rng, SAMPLES // CHUNK)
        samples = jnp.concatenate([model.sample(state, one, CHUNK) for one in rngs])
        found = measure(parts, samples)._asdict() | model.measure(state)
        return {name: float(value) for name, value in found.items()}

    return measure_state


@jax.jit
def _shares(parts: Parts, flat: jax.Array) -> jax.Array:
    """The share of images `[N, D]` in each part, `[K]`."""
    features = (flat - parts.mean[None]) @ parts.components
    # The squared distance to each centre, less that of the features to 0.
    distances = jnp.square(parts.centers).sum(axis=1)[None] - 2 * features @ parts.centers.T
    return jnp.zeros(len(parts.centers)).at[distances.argmin(axis=1)].add(1) / len(flat)


@jax.jit
def _distance(flat: jax.Array) -> jax.Array:
    """Mean Euclidean distance between two of `[N, D]`, over N // 2 disjoint pairs; 0 if N is 1."""
    pairs = len(flat) // 2
    first, second = jnp.asarray(flat[:pairs]), jnp.asarray(flat[pairs : 2 * pairs])
    # The compiler may fuse the subtraction with the operations before it. Then equal pixels could
    # differ by rounding.
    differences = jnp.where(first == second, 0, first - second)
    return jnp.linalg.norm(differences, axis=1).sum() / max(pairs, 1)
