"""The judge: a classifier of images, whose features and classes say how good samples are."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgan.errors import JaxganError
from jaxgan.metrics.frechet import checked_features

FEATURES = 128
"""Size of the layer before the classes, after its ReLU."""
BUNDLED = ("fashion-cnn-v1", "fashion-cnn5-v1")
"""The judges that come with the package: one by which settings may be searched, and one of another
shape and seed that tells whether they were fitted to the first."""
_CHUNK = 500


class JudgeCNN(nn.Module):
    """Convolutions of stride 2 with ReLU, and a layer of 128 features.

    Strides in place of pooling: the gradient of those takes five times as long on a CPU.

    `__call__`: images `[B, H, W, C]` in [-1, 1] -> logits `[B, classes]` and features `[B, 128]`;
    dropout is at work if `train`.
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
    """A trained classifier; it goes by its name in every score."""

    name: str
    image_shape: tuple[int, int, int]
    module: JudgeCNN
    params: Any


class Judged(NamedTuple):
    """What a judge says of images."""

    features: np.ndarray
    """Float32 `[N, 128]`, >= 0."""
    probabilities: np.ndarray
    """Of the classes, float32 `[N, classes]`."""


def judge_images(judge: Judge, images: np.ndarray) -> Judged:
    """Shows images to a judge.

    Args:
      judge: from `load_judge`.
      images: `[N, H, W, C]`, uint8 or float in [-1, 1].

    Raises:
      JaxganError: if there is no image, or images are not of the shape that the judge knows.
    """
    if images.ndim != 4 or images.shape[1:] != judge.image_shape or not len(images):
        raise JaxganError(
            f"{judge.name} judges images [N, {', '.join(map(str, judge.image_shape))}] with "
            f"N >= 1, got {list(images.shape)}"
        )
    parts = [
        _judged(judge.params, images[at : at + _CHUNK], judge.module)
        for at in range(0, len(images), _CHUNK)
    ]
    return Judged(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnames="module")
def _judged(params, images: jax.Array, module: JudgeCNN) -> tuple[jax.Array, jax.Array]:
    outputs: Any = module.apply({"params": params}, scaled(images))
    logits, features = outputs
    return features, nn.softmax(logits)


def scaled(images: jax.Array) -> jax.Array:
    """Images as the networks see them, float32 in [-1, 1]: bytes are scaled, floats as they are."""
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) - 127.5) / 127.5
    return images.astype(jnp.float32)


def load_judge(name: str | Path) -> Judge:
    """A judge of `BUNDLED`, or one that `scripts/train_judge.py` has left in a file.

    Raises:
      JaxganError: if there is no such, or the file is none of a judge.
    """
    from safetensors import SafetensorError, safe_open

    bundled = Path(__file__).parent / f"{name}.safetensors"
    path = bundled if str(name) in BUNDLED else Path(name).expanduser()
    if not path.is_file():
        raise JaxganError(
            f"there is no judge {str(name)!r}: known are {', '.join(BUNDLED)}, a file"
        )
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
        return Judge(
            name=about["name"],
            image_shape=(height, width, channels),
            module=module,
            params=unflatten_dict(params, sep="/"),
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise JaxganError(f"{path} is not the file of a judge ({error!r})") from error


def judge_bytes(judge: Judge, **about: str) -> bytes:
    """A judge as a safetensors file, with more about it in words."""
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
    """What the classes of samples say."""

    classifier_score: float
    """exp of the mean KL(p(y|x) || p(y)), from 1 to the number of classes: high if each sample is
    clear and all classes occur (the Inception score of arXiv 1606.03498, by this classifier)."""
    histogram: list[float]
    """The share of the samples in each class, by the likeliest one."""
    entropy: float
    """Of the histogram, in nats, from 0 to the log of the number of classes."""
    worst_class: int
    """The class with the least of its share in the real data."""
    worst_share: float
    """Its share among the samples, over that among the real images: 1 is as it should be."""


def class_scores(probabilities: np.ndarray, real: np.ndarray) -> ClassScores:
    """Scores samples by the probabilities of their classes, `[N, K]`, beside real ones, `[M, K]`.

    Computed in float64. Classes that the real images lack are left out of the worst.

    Raises:
      JaxganError: if the sets are not of these shapes, one is empty, or a number is not finite.
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
