"""How good samples are: all of `jaxgan.metrics` beside the real images, and their floor.

Every score is of n samples against as many training images, by features that have a name; the same
scores of n real images that were not trained on are what a perfect generator would have.
"""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgan import data
from jaxgan.checkpoint import write_atomically
from jaxgan.cli import cache_folder
from jaxgan.errors import JaxganError
from jaxgan.metrics.classifier import class_scores, judge_images, load_judge
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance
from jaxgan.metrics.neighbours import memorisation, prdc

SAMPLES = 10_000
"""Of how many samples the published tables are."""
LEAST = 50
"""Of fewer samples no score says anything."""
JUDGES = {"fashion_mnist": "fashion-cnn-v1"}
"""Which of the bundled judges knows a data set."""
COMPONENTS = 64
"""Of the principal components that stand in where there is no judge."""


class Seen(NamedTuple):
    """What an extractor sees in images."""

    features: np.ndarray
    """Float32 `[N, D]`."""
    probabilities: np.ndarray | None
    """Of the classes, `[N, K]`; None where it knows of none."""


class Extractor(NamedTuple):
    """What turns images into features."""

    name: str
    """Borne by all scores."""
    digest: str
    """Of what it was made from: of one name there may be several."""
    see: Callable[[np.ndarray], Seen]
    """Of images `[N, H, W, C]`."""


class Reference(NamedTuple):
    """The real images of a data set, as an extractor sees them."""

    extractor: Extractor
    images: np.ndarray
    """The training images, in an order drawn once for all: any first n are a fair draw."""
    train: Seen
    """Of these."""
    unseen: Seen | None
    """Of the test images, in such an order; None where there are none."""


def make_extractor(dataset: data.Dataset, judge: str | None = None) -> Extractor:
    """What judges samples of a data set.

    Args:
      dataset: its training images.
      judge: a name or a file, as for `load_judge`; by default the bundled one that knows the set,
        and where there is none the principal components of its images.

    Raises:
      JaxganError: if the judge is not to be had, or does not know images of this shape.
    """
    shape = dataset.images.shape[1:]
    known = JUDGES.get(dataset.name)
    if judge is None and known is None:
        return _components(dataset.images)
    found = load_judge(judge or str(known))
    if shape != found.image_shape:
        if judge is None:
            return _components(dataset.images)  # of a size that the bundled one does not know
        raise JaxganError(
            f"{found.name} judges images of {found.image_shape}, and those of {dataset.name} are "
            f"{shape}: train one for them with scripts/train_judge.py"
        )
    digest = _digest(*(np.asarray(x) for x in jax.tree.leaves(found.params)))
    return Extractor(found.name, digest, lambda images: Seen(*judge_images(found, images)))


def make_reference(
    extractor: Extractor, train: data.Dataset, unseen: data.Dataset | None
) -> Reference:
    """Shows an extractor the real images; what it sees is kept in the user's cache folder.

    Args:
      extractor: from `make_extractor`.
      train: what generators are trained on.
      unseen: real images that they are not trained on, or None if there are none.
    """
    images = _shuffled(train.images)
    others = None if unseen is None else _seen(extractor, _shuffled(unseen.images))
    return Reference(extractor, images, _seen(extractor, images), others)


def first(seen: Seen, n: int) -> Seen:
    """What was seen in the first n images."""
    probabilities = seen.probabilities
    return Seen(seen.features[:n], None if probabilities is None else probabilities[:n])


def class_shares(seen: Seen) -> list[float] | None:
    """The share of each class, by the likeliest one; None where there are no classes."""
    if seen.probabilities is None:
        return None
    return class_scores(seen.probabilities, seen.probabilities).histogram


def evaluate(reference: Reference, samples: Seen) -> dict[str, Any]:
    """All scores of n samples, by names such as `fd(fashion-cnn-v1, train, n=10000)`.

    Args:
      reference: the real images, at least n of them.
      samples: what the same extractor sees in the samples, n of LEAST or more. With the unseen
        images in their place it is the floor, the best that can be expected.

    Raises:
      JaxganError: if there are fewer than LEAST samples, or more than real images.
    """
    n = len(samples.features)
    if not LEAST <= n <= len(reference.train.features):
        raise JaxganError(
            f"scores need from {LEAST} samples to as many as there are training images, "
            f"{len(reference.train.features)}, got {n}"
        )
    train, probabilities = first(reference.train, n)
    balls = prdc(train, samples.features)
    found: dict[str, Any] = {
        "fd": frechet_distance(train, samples.features),
        "kid": kernel_distance(train, samples.features),
        **balls._asdict(),
    }
    if reference.unseen is not None:
        unseen = reference.unseen.features[:n]
        found["memorisation"] = memorisation(reference.train.features, unseen, samples.features)
    if samples.probabilities is not None and probabilities is not None:
        found |= class_scores(samples.probabilities, probabilities)._asdict()
    return {f"{k}({reference.extractor.name}, train, n={n})": v for k, v in found.items()}


def _components(images: np.ndarray) -> Extractor:
    """The principal components of images, of data that have no judge."""
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, *images.reshape(len(images), -1).shape)
    components = PCA(count, random_state=0).fit(_flat(images))

    def see(others: np.ndarray) -> Seen:
        if others.shape[1:] != images.shape[1:]:
            raise JaxganError(
                f"the samples are {others.shape[1:]}, and the real images {images.shape[1:]}"
            )
        return Seen(components.transform(_flat(others)).astype(np.float32), None)

    return Extractor(f"pca{count}", _digest(images), see)


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()[:16]


def _flat(images: np.ndarray) -> np.ndarray:
    """`[N, H, W, C]` -> float32 `[N, H W C]`, bytes in [-1, 1]."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / 127.5 - 1 if images.dtype == np.uint8 else flat


def _shuffled(images: np.ndarray) -> np.ndarray:
    return images[np.random.default_rng(0).permutation(len(images))]


def _seen(extractor: Extractor, images: np.ndarray) -> Seen:
    """What an extractor sees in real images; from the cache if it has seen them before."""
    folder = cache_folder("features")
    file = folder and folder / f"{extractor.name}-{extractor.digest}-{_digest(images)}.npz"
    try:
        with np.load(io.BytesIO(Path(str(file)).read_bytes())) as arrays:
            return Seen(arrays["features"], arrays.get("probabilities"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there, or damaged
    seen = extractor.see(images)
    if file is not None:
        content = io.BytesIO()
        np.savez(content, **{k: v for k, v in seen._asdict().items() if v is not None})
        # Without a cache it just takes longer.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content.getvalue())
    return seen
