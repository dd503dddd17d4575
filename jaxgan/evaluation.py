"""How good samples are: all of `jaxgan.metrics` beside the real images, and their floor.

Every score is of n samples against as many training images, by features that have a name; the same
scores of n real images that were not trained on are what a perfect generator would have.
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
from tqdm import tqdm

from jaxgan import data, plots
from jaxgan.checkpoint import write_atomically
from jaxgan.cli import cache_folder
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.gan import GANState, sample
from jaxgan.metrics.classifier import class_scores, judge_images, load_judge
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance
from jaxgan.metrics.neighbours import PRDC, memorisation, prdc

SAMPLES = 10_000
"""Of how many samples the published tables are."""
LEAST = 50
"""Of fewer samples no score says anything."""
JUDGES = {"fashion_mnist": "fashion-cnn-v1"}
"""Which of the bundled judges knows a data set."""
COMPONENTS = 64
"""Of the principal components that stand in where there is no judge."""
FD = "fd"
"""What the Fréchet distance is called: of several generators the one with the least is the best."""
IN_TRAINING = 5_000
"""Of how many samples the scores in training are, or of half as many as there are images if that is
less: the other half has the floor."""
_CHUNK = 1_000
"""Samples drawn at a time, so that any number of them fits the memory."""


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
    images = shuffled(train.images)
    others = None if unseen is None else _seen(extractor, shuffled(unseen.images))
    return Reference(extractor, images, _seen(extractor, images), others)


def first(seen: Seen, n: int) -> Seen:
    """What was seen in the first n images."""
    return _part(seen, slice(n))


def floor(reference: Reference, n: int) -> Seen:
    """What is seen in n real images other than those that n samples are compared with.

    Unseen ones if there are any, else further training images. Their scores are the best that n
    samples can be expected to have.

    Raises:
      JaxganError: if there are too few.
    """
    some = slice(n) if reference.unseen is not None else slice(n, 2 * n)
    part = _part(reference.unseen or reference.train, some)
    if len(part.features) < n:
        needed = f"{n} test images" if reference.unseen is not None else f"{2 * n} training images"
        raise JaxganError(f"to score {n} samples takes {needed}, for what real ones would score")
    return part


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
        `floor` in their place it is the best that can be expected.

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
        FD: frechet_distance(train, samples.features),
        "kid": kernel_distance(train, samples.features),
        **balls._asdict(),
    }
    if reference.unseen is not None:
        unseen = reference.unseen.features[:n]
        found["memorisation"] = memorisation(reference.train.features, unseen, samples.features)
    if samples.probabilities is not None and probabilities is not None:
        found |= class_scores(samples.probabilities, probabilities)._asdict()
    return {_named(reference, k, n): v for k, v in found.items()}


def draw(state: GANState, rng: jax.Array, n: int) -> np.ndarray:
    """n samples as bytes, uint8 `[n, H, W, C]`, drawn some at a time, with a progress bar.

    Raises:
      NonFiniteError: if a number in them is not finite.
    """
    rngs = jax.random.split(rng, -(-n // _CHUNK))
    parts = []
    for part_rng in tqdm(rngs, "sampling", disable=None, leave=False):
        images = np.asarray(sample(state, part_rng, _CHUNK))
        if not np.isfinite(images).all():
            raise NonFiniteError("samples are not finite: the generator has diverged")
        parts.append(plots.to_uint8(images))
    return np.concatenate(parts)[:n]


def evaluate_in_training(reference: Reference, state: GANState, rng: jax.Array) -> dict[str, float]:
    """The scores that are quick, of IN_TRAINING samples: the Fréchet distance and the PRDC.

    Named as by `evaluate`. Of a GAN with an average of weights those of the weights themselves
    stand beside them, as `raw_fd(...)` and so on. NaN of a GAN that has diverged.
    """
    n = _in_training(reference)
    scores = {}
    for prefix, drawn in (("", state), ("raw_", state.replace(ema=None))):
        if prefix and state.ema is None:
            continue
        try:
            found = _quick_scores(reference, reference.extractor.see(draw(drawn, rng, n)))
        except NonFiniteError:
            found = dict.fromkeys((FD, *PRDC._fields), math.nan)
        scores |= {prefix + _named(reference, k, n): v for k, v in found.items()}
    return scores


def floor_in_training(reference: Reference) -> dict[str, float]:
    """The same scores of as many real images: `real_fd(...)` and so on."""
    n = _in_training(reference)
    found = _quick_scores(reference, floor(reference, n))
    return {"real_" + _named(reference, k, n): v for k, v in found.items()}


def _in_training(reference: Reference) -> int:
    return min(IN_TRAINING, len(reference.images) // 2)


def _quick_scores(reference: Reference, samples: Seen) -> dict[str, float]:
    real = first(reference.train, len(samples.features)).features
    return {
        FD: frechet_distance(real, samples.features),
        **prdc(real, samples.features)._asdict(),
    }


def best_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of a history with the least Fréchet distance, of a population that of any member.

    None if none was measured, or it was never finite.
    """
    # By one judge: another version of jaxgan may have begun the run with another.
    names = [name for row in history for name in row if name.startswith(f"{FD}(")]
    history = [row for row in history if names and names[-1] in row]
    best = min(history, key=least_distance, default=None)
    return best if best is not None and math.isfinite(least_distance(best)) else None


def least_distance(row: Mapping[str, Any]) -> float:
    """The Fréchet distance in a row, of a population the least; infinite if there is none."""
    values = [v for name, v in row.items() if name.startswith(f"{FD}(")]
    return float(np.nanmin([np.inf, *np.ravel(values)]))


def best_member(row: Mapping[str, Any]) -> int:
    """Of the row of a population, the member with the least Fréchet distance."""
    (values,) = (value for name, value in row.items() if name.startswith(f"{FD}("))
    return int(np.nanargmin(values))


def _part(seen: Seen, part: slice) -> Seen:
    probabilities = seen.probabilities
    return Seen(seen.features[part], None if probabilities is None else probabilities[part])


def _named(reference: Reference, name: str, n: int) -> str:
    return f"{name}({reference.extractor.name}, train, n={n})"


def _components(images: np.ndarray) -> Extractor:
    """The principal components of images, of data that have no judge."""
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, *images.reshape(len(images), -1).shape)
    components: Any = PCA(count, random_state=0).fit(_flat(images))

    def see(others: np.ndarray) -> Seen:
        if others.shape[1:] != images.shape[1:]:
            raise JaxganError(
                f"the samples are {others.shape[1:]}, and the real images {images.shape[1:]}"
            )
        return Seen(components.transform(_flat(others)).astype(np.float32), None)

    return Extractor(f"pca{count}", _digest(components.mean_, components.components_), see)


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()[:16]


def _flat(images: np.ndarray) -> np.ndarray:
    """`[N, H, W, C]` -> float32 `[N, H W C]`, bytes in [-1, 1]."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / 127.5 - 1 if images.dtype == np.uint8 else flat


def shuffled(images: np.ndarray) -> np.ndarray:
    """Images in an order drawn once for all, so that the first n of any number are a fair draw."""
    return images[np.random.default_rng(0).permutation(len(images))]


def _seen(extractor: Extractor, images: np.ndarray) -> Seen:
    """What an extractor sees in real images; from the cache if it has seen them before."""
    folder = cache_folder("features")
    file = folder and folder / f"{extractor.name}-{extractor.digest}-{_digest(images)}.npz"
    try:
        with np.load(io.BytesIO(Path(str(file)).read_bytes())) as arrays:
            return Seen(arrays["features"], arrays.get("probabilities"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
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
