"""Sample quality: all scores of `jaxgan.metrics` for samples, and for real images (the floor).

A score compares n samples with n training images, by the features of a named extractor. The floor
is the same scores of n other real images: about what a perfect generator would get.
"""

import contextlib
import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgan import data
from jaxgan.data import idx
from jaxgan.data.pixels import to_uint8
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.files import cache_folder, write_atomically
from jaxgan.inputs import check_number
from jaxgan.metrics import copies
from jaxgan.metrics.classifier import class_scores, judge_images, load_judge
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance
from jaxgan.metrics.neighbours import PRDC, memorisation, prdc

SAMPLES = 10_000
"""The number of samples of the published tables."""
LEAST = 50
"""The smallest number of samples. Scores of fewer samples say nothing."""
JUDGES = {"fashion_mnist": "fashion-cnn-v1"}
"""The bundled judge of a data set."""
COMPONENTS = 64
"""For data without a judge, features are the principal components. This is their number."""
FD = "fd"
"""The name of the Fréchet distance. The generator with the smallest one is the best."""
IN_TRAINING = 5_000
"""The number of samples for scores in training. It is at most half the number of images, since the
floor needs the other half."""
_FITTED = 10_000
"""At most so many images determine the principal components."""
_CHUNK = 1_000
"""Samples drawn at a time, so that any number of samples fits into the memory."""


Sample = Callable[..., jax.Array]
"""`(rng, n) -> images [n, H, W, C]`, float in [-1, 1]; or `(rng, n, labels)` with classes."""


class Features(NamedTuple):
    """What an extractor computes from N images."""

    features: np.ndarray
    """Float32 `[N, D]`."""
    probabilities: np.ndarray | None
    """The probabilities of the classes, `[N, K]`; None if the extractor has no classes."""


class Extractor(NamedTuple):
    """A function from images to features."""

    name: str
    """Part of the name of every score."""
    digest: str
    """A digest of its parameters, since several extractors may have the same name."""
    extract: Callable[[np.ndarray], Features]
    """Takes images `[N, H, W, C]`, uint8."""


class Reference(NamedTuple):
    """The real images of a data set, and their features."""

    extractor: Extractor
    images: np.ndarray
    """The training images in a fixed random order: the first n are a random sample, for any n."""
    train: Features
    """The features of the training images, in the same order."""
    test: Features | None
    """The features of the test images, in a fixed random order; None if there are none."""
    labels: np.ndarray | None = None
    """The labels of the training images, in the same order."""
    test_labels: np.ndarray | None = None


def make_extractor(dataset: data.Dataset, judge: str | None = None) -> Extractor:
    """The extractor for a data set.

    Args:
      dataset: its training images.
      judge: a name or a file, as for `load_judge`. The default is the bundled judge of the data
        set. If there is none, features are the principal components of the images.

    Raises:
      JaxganError: if the judge cannot be loaded, or takes images of another shape.
    """
    shape = dataset.images.shape[1:]
    known = JUDGES.get(dataset.name)
    # A folder of this name may have its classes in another order.
    others = dataset.classes not in ((), idx.CLASSES.get(dataset.name))
    if judge is None and (known is None or others):
        return _components(dataset.images)
    found = load_judge(judge or str(known))
    if shape != found.image_shape:
        if judge is None:
            return _components(dataset.images)  # resized images
        raise JaxganError(
            f"{found.name} takes images of {found.image_shape}, and those of {dataset.name} are "
            f"{shape}: train a judge for them with scripts/train_judge.py"
        )
    digest = _digest(*(np.asarray(x) for x in jax.tree.leaves(found.params)))
    return Extractor(found.name, digest, lambda images: Features(*judge_images(found, images)))


def make_reference(
    extractor: Extractor, train: data.Dataset, test: data.Dataset | None
) -> Reference:
    """Extracts the features of the real images, and keeps them in the user's cache folder.

    Args:
      extractor: from `make_extractor`.
      train: the images on which generators are trained.
      test: other real images, or None if there are none.
    """
    images = shuffle(train.images)
    others = None if test is None else _extract_cached(extractor, shuffle(test.images))
    labels, test_labels = (
        None if one is None or one.labels is None else shuffle(one.labels) for one in (train, test)
    )
    features = _extract_cached(extractor, images)
    return Reference(extractor, images, features, others, labels, test_labels)


def first(features: Features, n: int) -> Features:
    """The features of the first n images."""
    return _part(features, slice(n))


def floor(reference: Reference, n: int) -> Features:
    """The features of n real images, apart from the n training images of `evaluate`.

    They are test images if there are any, else further training images. Their scores are the best
    that n samples can be expected to get.

    Raises:
      JaxganError: if there are too few images.
    """
    found = _part(reference.test or reference.train, _floor_part(reference, n))
    if len(found.features) < n:
        needed = f"{n} test images" if reference.test is not None else f"{2 * n} training images"
        raise JaxganError(f"scores of {n} samples and of as many real images need {needed}")
    return found


def floor_labels(reference: Reference, n: int) -> np.ndarray | None:
    """The labels of the images of `floor`, `[n]`; None if they have none."""
    labels = reference.labels if reference.test is None else reference.test_labels
    return None if labels is None else labels[_floor_part(reference, n)]


def _floor_part(reference: Reference, n: int) -> slice:
    return slice(n) if reference.test is not None else slice(n, 2 * n)


def class_shares(features: Features) -> list[float] | None:
    """For each class, the share of images for which it is the likeliest; None without classes."""
    if features.probabilities is None:
        return None
    return class_scores(features.probabilities, features.probabilities).histogram


def evaluate(reference: Reference, samples: Features) -> dict[str, Any]:
    """All scores of n samples, by names such as `fd(fashion-cnn-v1, train, n=10000)`.

    Args:
      reference: the real images, at least n of them.
      samples: the features of n samples by the same extractor, n >= LEAST, or those of `floor`.

    Raises:
      JaxganError: if there are fewer than LEAST samples, or more samples than real images.
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
        FD: frechet_distance(train, samples.features),
        "kid": kernel_distance(train, samples.features),
        **balls._asdict(),
    }
    if reference.test is not None:
        test = reference.test.features[:n]
        found["memorisation"] = memorisation(reference.train.features, test, samples.features)
    if samples.probabilities is not None and probabilities is not None:
        found |= class_scores(samples.probabilities, probabilities)._asdict()
    return {_named(reference, k, n): v for k, v in found.items()}


def evaluate_classes(reference: Reference, samples: Features, labels: np.ndarray) -> dict[str, Any]:
    """Scores of n samples of wanted classes, by names as those of `evaluate`.

    `class_fd` is the mean of `fd_by_class`, the Fréchet distances from the training images of each
    class; `class_accuracy` is the share of samples for which the judge finds the wanted class, and
    `accuracy_by_class` the same within each class. Without a judge there are no accuracies. The
    distance of a class with fewer than LEAST samples or training images is NaN, and is not in the
    mean. Without any distance there is no `class_fd`.

    Args:
      reference: the real images, with labels.
      samples: the features of n samples by the same extractor.
      labels: the wanted classes, int `[n]`.
    """
    if reference.labels is None:
        return {}
    distances = []
    for label in range(int(labels.max()) + 1):
        one = samples.features[labels == label]
        real = reference.train.features[reference.labels == label]
        n = min(len(one), len(real))
        distances.append(frechet_distance(real[:n], one[:n]) if n >= LEAST else math.nan)
    found: dict[str, Any] = {}
    if not np.isnan(distances).all():
        found |= {"class_fd": _mean(distances), "fd_by_class": distances}
    if samples.probabilities is not None:
        right = samples.probabilities.argmax(axis=1) == labels
        shares = [_mean(right[labels == label]) for label in range(len(distances))]
        found |= {"class_accuracy": _mean(right), "accuracy_by_class": shares}
    return {_named(reference, k, len(labels)): v for k, v in found.items()}


def _mean(values: Any) -> float:
    """The mean of the numbers that are not NaN; NaN if there are none."""
    finite = [value for value in np.asarray(values, float) if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan


def make_copy_references(reference: Reference, test: data.Dataset) -> dict[str, copies.Reference]:
    """What `copy_scores` needs: how near unseen images are to training images.

    Args:
      reference: the training images.
      test: unseen images. The first half of them, in the order of `shuffle`, set the thresholds,
        or the first `copies.IMAGES`.

    Returns:
      The references in pixels, and in the features of a judge if there is one, by their names.
      (Principal components are not used: their distances are almost those of pixels.)
    """
    unseen = shuffle(test.images)[: min(copies.IMAGES, -(-len(test.images) // 2))]
    found = {
        "pixels": copies.make_reference(copies.pixels, copies.pixels(reference.images), unseen)
    }
    if reference.train.probabilities is not None:

        def features(images: np.ndarray) -> np.ndarray:
            return reference.extractor.extract(images).features

        train = reference.train.features
        found[reference.extractor.name] = copies.make_reference(features, train, unseen)
    return found


def copy_scores(references: Mapping[str, copies.Reference], images: np.ndarray) -> dict[str, float]:
    """The shares of copies of training images among samples `[N, H, W, C]`, uint8.

    Their names are such as `copies(pixels, train, n=1000)`.
    """
    n = min(len(images), copies.IMAGES)
    return {
        f"copies({name}, train, n={n})": copies.share(reference, images)
        for name, reference in references.items()
    }


def draw(sample: Sample, rng: jax.Array, n: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Draws n samples, uint8 `[n, H, W, C]`, in parts, with a progress bar.

    Args:
      sample: `(rng, n) -> images`, float in [-1, 1].
      rng: a key.
      n: how many, 1 or more.
      labels: the wanted classes, `[n]`, if `sample` takes them.

    Raises:
      JaxganError: if n is not above 0.
      NonFiniteError: if a number in them is not finite.
    """
    from tqdm import tqdm

    check_number(n)
    rngs = jax.random.split(rng, -(-n // _CHUNK))
    parts = []
    for i, part_rng in enumerate(tqdm(rngs, "sampling", disable=None, leave=False)):
        wanted = [] if labels is None else [np.resize(labels[i * _CHUNK :][:_CHUNK], _CHUNK)]
        images = np.asarray(sample(part_rng, _CHUNK, *wanted))
        if not np.isfinite(images).all():
            raise NonFiniteError("samples are not finite: the model has diverged")
        parts.append(to_uint8(images))
    return np.concatenate(parts)[:n]


def reference_in_training(dataset: data.Dataset) -> Reference:
    """The reference of the scores in training: as many training images as they need."""
    extractor = make_extractor(dataset)
    images = shuffle(dataset.images)[: 2 * IN_TRAINING]
    return Reference(extractor, images, _extract_cached(extractor, images), None)


def evaluate_in_training(
    reference: Reference, sample: Sample, rng: jax.Array, prefix: str = ""
) -> dict[str, float]:
    """The quick scores of IN_TRAINING samples: the Fréchet distance and the PRDC.

    Their names are the prefix and the names of `evaluate`. They are NaN if samples are not finite.
    """
    n = _in_training(reference)
    try:
        found = _quick_scores(reference, reference.extractor.extract(draw(sample, rng, n)))
    except NonFiniteError:
        found = dict.fromkeys((FD, *PRDC._fields), math.nan)
    return {prefix + _named(reference, k, n): v for k, v in found.items()}


def floor_in_training(reference: Reference) -> dict[str, float]:
    """The scores of `evaluate_in_training` for as many real images, with the prefix real_."""
    n = _in_training(reference)
    found = _quick_scores(reference, floor(reference, n))
    return {"real_" + _named(reference, k, n): v for k, v in found.items()}


def _in_training(reference: Reference) -> int:
    return min(IN_TRAINING, len(reference.images) // 2)


def _quick_scores(reference: Reference, samples: Features) -> dict[str, float]:
    real = first(reference.train, len(samples.features)).features
    return {
        FD: frechet_distance(real, samples.features),
        **prdc(real, samples.features)._asdict(),
    }


def best_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of a history with the smallest Fréchet distance of any member.

    It is None if the distance was never measured or never finite.
    """
    # Only distances by the last extractor: an earlier version may have begun with another one.
    names = [name for row in history for name in row if name.startswith(f"{FD}(")]
    history = [row for row in history if names and names[-1] in row]
    best = min(history, key=least_distance, default=None)
    return best if best is not None and math.isfinite(least_distance(best)) else None


def least_distance(row: Mapping[str, Any]) -> float:
    """The smallest Fréchet distance of all members in a row; infinite if there is none."""
    values = [v for name, v in row.items() if name.startswith(f"{FD}(")]
    return float(np.nanmin([np.inf, *np.ravel(values)]))


def best_member(row: Mapping[str, Any]) -> int:
    """The member with the smallest Fréchet distance, by the row of a population."""
    return int(np.nanargmin(row[str(distance_name(row))]))


def distance_name(row: Mapping[str, Any]) -> str | None:
    """The name of the Fréchet distance in a row; None if it was not measured."""
    return next((name for name in row if name.startswith(f"{FD}(")), None)


def _part(features: Features, part: slice) -> Features:
    probabilities = features.probabilities
    return Features(features.features[part], None if probabilities is None else probabilities[part])


def _named(reference: Reference, name: str, n: int) -> str:
    return f"{name}({reference.extractor.name}, train, n={n})"


def _components(images: np.ndarray) -> Extractor:
    """The extractor of principal components, for data without a judge."""
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, len(images), images[0].size)
    components: Any = PCA(count, random_state=0).fit(_flat(shuffle(images)[:_FITTED]))

    def extract(others: np.ndarray) -> Features:
        if others.shape[1:] != images.shape[1:]:
            raise JaxganError(
                f"the samples have the shape {others.shape[1:]}, the real images {images.shape[1:]}"
            )
        return Features(components.transform(_flat(others)).astype(np.float32), None)

    return Extractor(f"pca{count}", _digest(components.mean_, components.components_), extract)


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()[:16]


def _flat(images: np.ndarray) -> np.ndarray:
    """`[N, H, W, C]` -> float32 `[N, H W C]`; uint8 is scaled to [-1, 1]."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / 127.5 - 1 if images.dtype == np.uint8 else flat


def shuffle(images: np.ndarray) -> np.ndarray:
    """Images in a fixed random order: the first n are a random sample, for any n."""
    return images[np.random.default_rng(0).permutation(len(images))]


def _extract_cached(extractor: Extractor, images: np.ndarray) -> Features:
    """The features of real images, from the cache if it has them."""
    folder = cache_folder("features")
    file = folder and folder / f"{extractor.name}-{extractor.digest}-{_digest(images)}.npz"
    try:
        with np.load(io.BytesIO(Path(str(file)).read_bytes())) as arrays:
            return Features(arrays["features"], arrays.get("probabilities"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # no such file, or a damaged one
    found = extractor.extract(images)
    if file is not None:
        content = io.BytesIO()
        np.savez(content, **{k: v for k, v in found._asdict().items() if v is not None})
        # Without a cache the features are extracted again next time.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content.getvalue())
    return found
