"""The judge: a classifier of images, whose features and classes score samples."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgan.data.pixels import to_float
from jaxgan.errors import JaxganError
from jaxgan.files import expand
from jaxgan.metrics.frechet import checked_features

FEATURES = 128
"""The number of features: the size of the last hidden layer."""
BUNDLED = ("fashion-cnn-v1", "fashion-cnn5-v1")
"""The judges that come with the package. A search for settings may use the first one. The second,
with other layers and another seed, then shows whether the settings were fitted to the first."""
_CHUNK = 500


class JudgeCNN(nn.Module):
    """Convolutions of stride 2 with ReLU, and a layer of 128 features.

    On a CPU strides are faster than pooling, whose gradient takes five times as long.

    `__call__`: images `[B, H, W, C]` in [-1, 1] -> logits `[B, classes]` and features `[B, 128]`;
    dropout is active if `train`.
    """

    classes: int
    widths: tuple[int, ...] = (32, 64, 64)
    kernel: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        x = images
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (self.kernel, self.kernel), strides=2)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x.reshape(x.shape[0], -1))
        features = nn.relu(nn.Dense(FEATURES)(x))
        return nn.Dense(self.classes)(nn.Dropout(0.3, deterministic=not train)(features)), features


class Judge(NamedTuple):
    """A trained classifier. Its name is part of the name of every score."""

    name: str
    image_shape: tuple[int, int, int]
    module: JudgeCNN
    params: Any


class Judged(NamedTuple):
    """The outputs of a judge for images."""

    features: np.ndarray
    """Float32 `[N, 128]`, >= 0."""
    probabilities: np.ndarray
    """The probabilities of the classes, float32 `[N, classes]`."""


def judge_images(judge: Judge, images: np.ndarray) -> Judged:
    """Runs a judge on images.

    Args:
      judge: from `load_judge`.
      images: `[N, H, W, C]`, uint8 or float in [-1, 1].

    Raises:
      JaxganError: if there are no images, or if their shape is not that of the judge.
    """
    if images.ndim != 4 or images.shape[1:] != judge.image_shape or not len(images):
        raise JaxganError(
            f"{judge.name} takes images [N, {', '.join(map(str, judge.image_shape))}] with "
            f"N >= 1, got {list(images.shape)}"
        )
    parts = [
        _judged(judge.params, images[at : at + _CHUNK], judge.module)
        for at in range(0, len(images), _CHUNK)
    ]
    return Judged(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnames="module")
def _judged(params, images: jax.Array, module: JudgeCNN) -> tuple[jax.Array, jax.Array]:
    outputs: Any = module.apply({"params": params}, to_float(images).astype(jnp.float32))
    logits, features = outputs
    return features, nn.softmax(logits)


def features(images: np.ndarray | jax.Array, judge: str | Path = BUNDLED[0]) -> np.ndarray:
    """Features of images, by a judge. Most scores compare those of real and of generated images.

    Args:
      images: `[N, H, W, C]`, N >= 1, uint8 or float in [-1, 1]. The bundled judges take those of
        Fashion-MNIST, `[N, 28, 28, 1]`.
      judge: its name or file, as for `load_judge`.

    Returns:
      Float32 `[N, 128]`, >= 0.

    Raises:
      JaxganError: if there is no such judge, if there are no images, or if their shape is not that
        of the judge.

    >>> import numpy as np
    >>> import jaxgan
    >>> images = np.zeros((3, 28, 28, 1), np.uint8)
    >>> jaxgan.metrics.features(images).shape
    (3, 128)
    """
    return judge_images(load_judge(judge), np.asarray(images)).features


def load_judge(name: str | Path) -> Judge:
    """A judge of `BUNDLED`, or one from a file of `scripts/train_judge.py`.

    Raises:
      JaxganError: if there is no such judge or file, or if the file holds no judge.
    """
    from safetensors import safe_open

    bundled = Path(__file__).parent / f"{name}.safetensors"
    path = bundled if str(name) in BUNDLED else expand(name)
    if not path.is_file():
        raise JaxganError(f"there is no judge {str(name)!r}: give {', '.join(BUNDLED)} or a file")
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            params = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        height, width, channels = map(int, about["image_shape"].split("x"))
        module = JudgeCNN(
            int(about["classes"]),
            tuple(map(int, about["widths"].split("x"))),
            int(about["kernel"]),
        )
        example = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
        expected = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
        params = unflatten_dict(params, sep="/")
        if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
            raise ValueError("its arrays are not those of its layers")
        return Judge(about["name"], (height, width, channels), module, params)
    except Exception as error:  # a file of something else may hold anything
        reason = (str(error).splitlines() or [""])[0]
        raise JaxganError(f"{path} holds no judge ({type(error).__name__}: {reason})") from error


def judge_bytes(judge: Judge, **about: str) -> bytes:
    """A judge as a safetensors file, with `about` as further metadata."""
    from safetensors.numpy import save

    tensors: Any = flatten_dict(jax.tree.map(np.asarray, judge.params), sep="/")
    about |= {
        "name": judge.name,
        "image_shape": "x".join(map(str, judge.image_shape)),
        "classes": str(judge.module.classes),
        "widths": "x".join(map(str, judge.module.widths)),
        "kernel": str(judge.module.kernel),
    }
    return save(tensors, about)


class ClassScores(NamedTuple):
    """Scores by the classes of samples."""

    classifier_score: float
    """exp of the mean KL(p(y|x) || p(y)), from 1 to the number of classes. High if each sample has
    a clear class and all classes occur: the Inception score (arXiv 1606.03498), by the judge."""
    histogram: list[float]
    """For each class, the share of the samples for which it is the likeliest class."""
    entropy: float
    """The entropy of the histogram, in nats, from 0 to the log of the number of classes."""
    worst_class: int
    """The class with the smallest ratio of its share in the samples to that in the real images."""
    worst_share: float
    """That ratio. It should be 1."""


def class_scores(probabilities: np.ndarray, real: np.ndarray) -> ClassScores:
    """Scores samples by the probabilities of their classes. Computed in float64.

    Args:
      probabilities: of the samples, `[N, K]`, N >= 1.
      real: of real images, `[M, K]`, M >= 1. The worst class is one that they have.

    Raises:
      JaxganError: if a shape differs from these, or if a number is not finite.
    """
    p, real = checked_features(probabilities, real, least=1)
    marginal = p.mean(axis=0)
    tiny = np.finfo(np.float64).tiny
    divergence = (p * (np.log(p + tiny) - np.log(marginal + tiny))).sum(axis=1).mean()
    shares, real_shares = (
        np.bincount(x.argmax(axis=1), minlength=p.shape[1]) / len(x) for x in (p, real)
    )
    some = shares[shares > 0]
    ratios = np.divide(shares, real_shares, out=np.full(len(shares), np.inf), where=real_shares > 0)
    return ClassScores(
        classifier_score=math.exp(divergence),
        histogram=shares.tolist(),
        entropy=float(-(some * np.log(some)).sum()),
        worst_class=int(ratios.argmin()),
        worst_share=float(ratios.min()),
    )
