"""Copies of training images among samples.

Each unseen real image has a distance to its nearest training image. A sample is a copy if its own
distance is smaller than that of 99% of unseen images. The sample is also compared mirrored and
shifted by a pixel. About 1% of new images count as copies. The distance to a training image is
divided by that image's distance to its own neighbours, since images of some classes are nearer to
each other than those of others. Distances are measured in features and in pixels. Small changes
hardly alter features; pixels do not depend on what a judge has learned. (Meehan et al. 2020, arXiv
2004.05675, detect copies by the distance to the nearest training image.)

Copies that are changed in another way are not seen: rotated, enlarged or recoloured ones, mixtures
of two training images, or samples that repeat a part of one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgan.data.pixels import to_float

IMAGES = 1_000
"""At most so many samples are compared, and as many unseen images."""
QUANTILE = 0.01
"""The share of unseen images that count as copies."""
NEIGHBOUR = 5
"""Distances to a training image are divided by the distance from it to this neighbour."""

Space = Callable[[np.ndarray], np.ndarray]
"""Images `[N, H, W, C]`, uint8, to points `[N, D]`."""


class Reference(NamedTuple):
    """Training images as points of a space."""

    space: Space
    train: np.ndarray
    """`[N, D]`."""
    threshold: float
    """A sample that is nearer to a training image than this is a copy. So is one at distance 0."""


def pixels(images: np.ndarray) -> np.ndarray:
    """The space of pixels in [-1, 1]."""
    return np.asarray(to_float(jnp.asarray(images))).reshape(len(images), -1)


def make_reference(space: Space, train: np.ndarray, unseen: np.ndarray) -> Reference:
    """Training images, and how near to them unseen images are.

    Args:
      space: where distances are taken.
      train: `space` of the training images, `[N, D]`, N > NEIGHBOUR.
      unseen: other real images `[M, H, W, C]`, uint8; IMAGES of them are enough.
    """
    distances = _distances(space, train, unseen)
    return Reference(space, train, float(np.quantile(distances, QUANTILE)))


def share(reference: Reference, samples: np.ndarray) -> float:
    """The share of copies among samples `[M, H, W, C]`, uint8, in random order. In [0, 1]."""
    distances = _distances(reference.space, reference.train, samples[:IMAGES])
    return float(((distances < reference.threshold) | (distances == 0)).mean())


def variants(images: np.ndarray) -> list[np.ndarray]:
    """Images `[N, H, W, C]` and their mirror images, each also shifted by a pixel to four sides."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    moved = [
        padded[:, y : y + height, x : x + width]
        for y, x in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    ]
    return moved + [image[:, :, ::-1] for image in moved]


def _distances(space: Space, train: np.ndarray, images: np.ndarray) -> np.ndarray:
    """For each image, how near its nearest variant is to a training image, `[M]`."""
    from sklearn.metrics import pairwise_distances_argmin_min
    from sklearn.neighbors import NearestNeighbors

    found = [pairwise_distances_argmin_min(space(some), train) for some in variants(images)]
    nearest, distances = (np.array(each) for each in zip(*found, strict=True))
    chosen = distances.argmin(axis=0)[None]
    nearest = np.take_along_axis(nearest, chosen, axis=0)[0]
    distances = np.take_along_axis(distances, chosen, axis=0)[0]
    # By rounding, equal images are up to 2e-6 apart, in pixels and in the features of the judge. If
    # one pixel differs by a grey level, images are 0.008 apart in pixels, and 0.002 in features.
    distances[distances < 1e-3] = 0
    # A training image is its own first neighbour.
    neighbours = NearestNeighbors(n_neighbors=NEIGHBOUR + 1, algorithm="brute").fit(train)
    units = neighbours.kneighbors(train[nearest])[0][:, -1]
    return distances / np.maximum(units, np.finfo(np.float32).tiny)
