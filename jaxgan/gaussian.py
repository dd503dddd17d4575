"""A Gaussian for each class, in closed form, as three pure functions: `create_state`, `train_step`,
`sample`.

    config = GaussianConfig()
    state = create_state(rng, config)
    state, metrics = train_step(state, batch, rng)
    images = sample(state, rng, n)

One step fits it to its batch, which should hold all images. Nothing is learned from step to step.
It is the plain method beside the networks. With differential privacy it is hard to beat: it looks
at the images once, and its few sums need little noise. The functions are in the same order as in
`jaxgan/gan.py`.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgan.data.dataset import fit_to_images
from jaxgan.data.pixels import batch_images
from jaxgan.fields import check_field, check_types, documented, is_size
from jaxgan.inputs import check_latents, check_rng, check_sampling, checks_inputs, jit
from jaxgan.labels import batch_included, batch_labels, choose_labels
from jaxgan.model import Column, Curve, Model, Private
from jaxgan.privacy import MARGIN, noise_rng
from jaxgan.shards import Shards, on_any_mesh

_SHARES = {"counts": 0.01, "center": 0.01, "basis": 0.13, "means": 0.25, "covariances": 0.6}
"""The shares of the budget that the sums take. They add up to 1."""
_CLASS_NOISE = 0.5
"""Noise may change a variance of a class by this much, on average over the classes. The unit is the
variance of all images. The clipping norm of the class sums follows from it."""


@documented
@dataclasses.dataclass(frozen=True)
class GaussianConfig:
    """Everything that defines the Gaussians.

    Frozen, hashable and compared by value, as GANConfig is.

    Raises:
      JaxganError: at construction, if a field is out of its range.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of the images."""
    frequencies: int = 16
    """The Gaussians describe so many of the lowest frequencies (of a cosine transform) in each
    direction and channel. Vectors, which are images of one row, are taken whole."""
    components: int = 100
    """The dimension of the Gaussians: they describe so many principal components of the images."""
    clip: float = 0.5
    """The largest norm of an image less the mean image, when the components are found. The unit is
    the root of the number of pixel values. Longer ones are scaled to this norm."""
    noise_multiplier: float = 0.0
    """The standard deviation of the noise on all sums together, in units of the most that one image
    adds. train.py finds it for --epsilon. 0: the Gaussians are not private."""
    bounded: bool = True
    """Whether images are in [-1, 1]; other vectors are not. A run sets this field and `image_shape`
    to fit the data."""
    num_classes: int = 0
    """The number of classes, each with a Gaussian; with 0 there is one Gaussian. A run with
    `conditional` takes the number from the labels of the data."""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        shape = self.image_shape
        sizes = len(shape) == 3 and all(is_size(n) for n in shape)
        check_field(sizes, self, "image_shape", "(height, width, channels)")
        for name in ("frequencies", "components"):
            check_field(is_size(getattr(self, name)), self, name, "a whole number above 0")
        check_field(0 < self.clip < math.inf, self, "clip", "above 0, and finite")
        noise = self.noise_multiplier
        check_field(0 <= noise < math.inf, self, "noise_multiplier", "0 or more, and finite")
        classes = self.num_classes
        check_field(
            classes == 0 or is_size(classes), self, "num_classes", "a whole number, 0 or more"
        )


class GaussianState(struct.PyTreeNode):
    """The Gaussians as a pytree. Equal configs give equal treedefs."""

    step: jax.Array
    """Number of steps taken, int32 scalar."""
    center: jax.Array
    """The mean of the coefficients of the images, `[D]`."""
    basis: jax.Array
    """Their principal components, scaled by their standard deviations, `[D, d]`."""
    means: jax.Array
    """Of the components in each class, `[K, d]`."""
    covariances: jax.Array
    """`[K, d, d]`."""
    config: GaussianConfig = struct.field(pytree_node=False)


class GaussianMetrics(NamedTuple):
    """The metrics of a step: float32 scalars. They follow from the noisy sums alone."""

    explained: jax.Array
    """The share of the variance of the coefficients that the components have."""
    between: jax.Array
    """The share of the variance of the components that is between the classes."""


@jit(static_argnames="config")
def create_state(rng: jax.Array, config: GaussianConfig | None = None) -> GaussianState:
    """Gaussians of mean 0 and variance 1 in the lowest frequencies, before any image is seen.

    Args:
      rng: a key, which is not used.
      config: the sizes and the noise; by default `GaussianConfig()`.

    Returns:
      The GaussianState at step 0.
    """
    check_rng(rng)
    config = config or GaussianConfig()
    size = len(_transform(config))
    d, classes = min(config.components, size), max(1, config.num_classes)
    return GaussianState(
        step=jnp.zeros((), jnp.int32),
        center=jnp.zeros(size),
        basis=jnp.eye(size, d),
        means=jnp.zeros((classes, d)),
        covariances=jnp.tile(jnp.eye(d), (classes, 1, 1)),
        config=config,
    )


@checks_inputs
@jit(static_argnames="axis_name")
@on_any_mesh
@jax.default_matmul_precision("highest")  # rounded products would exceed the bounds of the sums
def train_step(
    state: GaussianState, batch: Any, rng: jax.Array, *, axis_name: str | None = None
) -> tuple[GaussianState, GaussianMetrics]:
    """Fits the Gaussians to a batch of images. Pure.

    The batch gives five sums in turn: images in each class, the mean image, the second moments of
    all images, and the means and second moments of the principal components in each class. Each sum
    gets normal noise. One image changes all sums together by at most `noise_multiplier` standard
    deviations: this is one Gaussian mechanism.

    Args:
      state: from `create_state`; its Gaussians are replaced.
      batch: images `[B, H, W, C]`, uint8 or float in [-1, 1]; or a dict that holds them as "image",
        and, with `config.num_classes`, their labels as "label", int `[B]`. "included", bool `[B]`,
        says which images count.
      rng: a key, for the noise; private training needs a secret one.
      axis_name: inside a `shard_map`, the mesh axis over which the batch is split. The state must
        be replicated.

    Returns:
      The next state, and the GaussianMetrics.

    Raises:
      JaxganError: if rng is no key, images have another shape or scale, or labels are missing or
        out of range. For scale and range, only the first jax array of each shape and type is read:
        to read one is to wait for the device.
    """
    config = state.config
    sums = _Sums(config, jax.random.fold_in(rng, state.step), Shards(axis_name))
    x, weights = _coefficients(batch, config)
    counts = jnp.maximum(sums.noisy("counts", weights.sum(axis=0), 1.0), 1.0)
    images, n = weights.sum(axis=1, keepdims=True), counts.sum()
    reach = math.sqrt(math.prod(config.image_shape))
    center = sums.noisy("center", (images * _clipped(x, reach)).sum(axis=0), reach)
    center /= n

    x = x - center[None]
    basis, explained = _fit_basis(x, images, n, sums)
    z = x @ (basis / jnp.square(basis).sum(axis=0, keepdims=True))
    means, covariances = _fit_classes(z, weights, counts, sums)
    fitted = state.replace(
        step=state.step + 1, center=center, basis=basis, means=means, covariances=covariances
    )
    outer = (counts[:, None] * jnp.square(means)).sum()
    inner = (counts * jnp.trace(covariances, axis1=1, axis2=2)).sum()
    return fitted, GaussianMetrics(explained, outer / (outer + inner + 1e-12))


def sample(state: GaussianState, rng: jax.Array, n: int, labels: Any = None) -> jax.Array:
    """Draws n images from the Gaussians: `[n, H, W, C]`, float32 in [-1, 1] if `config.bounded`.

    Args:
      state: from `train_step`.
      rng: a key.
      n: how many, 1 or more.
      labels: the classes of the images, int `[n]`, or one for all. By default 0, 1, 2, ... in turn,
        so that all classes have equal shares.

    Raises:
      JaxganError: if labels are out of range, or if there are labels and no classes.
    """
    check_sampling(state, rng, n)
    return generate(state, jax.random.normal(rng, (n, state.means.shape[1])), None, labels)


def generate(
    state: GaussianState, latents: jax.Array, rng: jax.Array | None = None, labels: Any = None
) -> jax.Array:
    """The images `[B, H, W, C]` of latents `[B, d]`. `labels` are those of `sample`; the rng is not
    used.

    Raises:
      JaxganError: if the latents have another shape, or like `sample`.
    """
    del rng
    check_latents(latents, state.means.shape[1:])
    labels = choose_labels(state.config.num_classes, latents.shape[0], labels)
    return _generate(state, latents, labels)


@jax.jit
def _generate(state: GaussianState, latents: jax.Array, labels: jax.Array | None) -> jax.Array:
    config = state.config
    variances, vectors = jnp.linalg.eigh(state.covariances)
    # Noise makes some eigenvalues negative.
    roots = vectors * jnp.sqrt(jnp.maximum(variances, 0))[:, None]
    labels = jnp.zeros(latents.shape[0], jnp.int32) if labels is None else labels
    components = state.means[labels] + jnp.einsum("bij,bj->bi", roots[labels], latents)
    pixels = (state.center[None] + components @ state.basis.T) @ _transform(config)
    images = pixels.reshape(-1, *config.image_shape)
    return jnp.clip(images, -1, 1) if config.bounded else images


class _Sums(NamedTuple):
    """The sums of a step, to which noise is added."""

    config: GaussianConfig
    rng: jax.Array
    shards: Shards

    def deviation(self, name: str, most: Any) -> Any:
        """The standard deviation of the noise on a sum, to which an image adds at most `most`."""
        return most * self.config.noise_multiplier / math.sqrt(_SHARES[name])

    def noisy(self, name: str, total: jax.Array, most: Any) -> jax.Array:
        """A sum over the whole batch, with noise. `total` is that of this shard."""
        rngs = jax.random.split(noise_rng(self.rng), len(_SHARES))
        noise = jax.random.normal(rngs[list(_SHARES).index(name)], total.shape)
        if name in ("basis", "covariances"):
            # Symmetric. The size of a matrix is the root of the sum of the squares of all entries,
            # so entries beside the diagonal, which occur twice, need half the variance.
            # So are the sums, but for their rounding, which would stay visible beside the noise.
            noise, total = ((x + jnp.swapaxes(x, -1, -2)) / 2 for x in (noise, total))
        return self.shards.sum(total) + self.deviation(name, most) * noise


def _fit_basis(
    x: jax.Array, images: jax.Array, n: jax.Array, sums: _Sums
) -> tuple[jax.Array, jax.Array]:
    """The principal components, scaled by their standard deviations, `[D, d]`, and the share of
    variance that they have.

    Args:
      x: the coefficients of the images less their mean, `[B, D]`.
      images: which images count, `[B, 1]`.
      n: how many count in the whole batch.
      sums: of the step.
    """
    config = sums.config
    reach = config.clip * math.sqrt(math.prod(config.image_shape))
    y = _clipped(x, reach)
    moments = sums.noisy("basis", (images * y).T @ y, reach**2) / n
    found, vectors = _principal(moments, min(config.components, len(moments)))
    # Eigenvalues of noise alone reach its deviation times sqrt(2 D). Smaller ones are raised to it.
    floor = sums.deviation("basis", reach**2) / n * math.sqrt(2 * len(moments))
    variances = jnp.maximum(found, jnp.maximum(floor, 1e-6 * found[0] + 1e-12))
    explained = jnp.where(found > floor, found, 0).sum() / (jnp.trace(moments) + 1e-12)
    return vectors * jnp.sqrt(variances)[None], jnp.clip(explained, 0, 1)


def _fit_classes(
    z: jax.Array, weights: jax.Array, counts: jax.Array, sums: _Sums
) -> tuple[jax.Array, jax.Array]:
    """The means `[K, d]` and covariances `[K, d, d]` of the components `[B, d]` in each class."""
    # Noise alone changes eigenvalues by up to its deviation times sqrt(2 d).
    most = sums.deviation("covariances", 1.0) * math.sqrt(2 * z.shape[1])
    reach = jnp.sqrt(_CLASS_NOISE * counts.mean() / max(most, 1e-12))
    clipped = _clipped(z, reach)
    means = sums.noisy("means", weights.T @ clipped, reach) / counts[:, None]

    def squares(own: tuple[jax.Array, jax.Array]) -> jax.Array:
        mean, weight = own
        y = _clipped(z - mean[None], reach)
        return (weight[:, None] * y).T @ y

    moments = sums.noisy("covariances", jax.lax.map(squares, (means, weights.T)), reach**2)
    return means, moments / counts[:, None, None]


def _coefficients(batch: Any, config: GaussianConfig) -> tuple[jax.Array, jax.Array]:
    """The coefficients of the images `[B, D]`, and their weights in each class `[B, K]`: 1 in the
    class of an image that counts, else 0."""
    images, labels = (
        batch_images(batch, config.image_shape),
        batch_labels(batch, config.num_classes),
    )
    n = images.shape[0]
    weights = jnp.ones((n, 1)) if labels is None else jax.nn.one_hot(labels, config.num_classes)
    included = batch_included(batch)
    if included is not None:
        weights = weights * included.astype(weights.dtype)[:, None]
    flat = images.reshape(n, -1).astype(jnp.float32)
    return flat @ _transform(config).T, weights


def _clipped(x: jax.Array, reach: Any) -> jax.Array:
    """The rows, longer ones scaled down to the norm MARGIN * reach, so that rounding does not
    exceed `reach`. Rows whose norm is not finite become 0."""
    norms = jnp.sqrt(jnp.square(x).sum(axis=1, keepdims=True))
    scaled = x * jnp.minimum(1, MARGIN * reach / jnp.maximum(norms, 1e-12))
    # A huge row must not make the sum infinite or NaN, which would give it away.
    return jnp.where(jnp.isfinite(norms), scaled, 0)


def _principal(moments: jax.Array, d: int) -> tuple[jax.Array, jax.Array]:
    """The d largest eigenvalues of a symmetric matrix, `[d]`, and their vectors `[D, d]`."""
    variances, vectors = jnp.linalg.eigh(moments)
    variances, vectors = variances[::-1][:d], vectors[:, ::-1][:, :d]
    # The signs of eigenvectors are arbitrary: make the largest entry of each positive.
    largest = jnp.take_along_axis(vectors, jnp.abs(vectors).argmax(axis=0)[None], axis=0)
    return variances, vectors * jnp.where(largest < 0, -1.0, 1.0)


@functools.cache
def _transform(config: GaussianConfig) -> np.ndarray:
    """The rows of an orthonormal transform, float32 `[D, H * W * C]`: pixels to coefficients."""
    height, width, channels = config.image_shape
    if height == 1:
        return np.eye(width * channels, dtype=np.float32)
    rows, columns = (_cosines(n, min(n, config.frequencies)) for n in (height, width))
    return np.kron(np.kron(rows, columns), np.eye(channels)).astype(np.float32)


def _cosines(n: int, k: int) -> np.ndarray:
    """The k lowest rows of the orthonormal cosine transform of n values."""
    i, j = np.arange(k)[:, None], np.arange(n)[None]
    rows = np.cos(np.pi * i * (2 * j + 1) / (2 * n)) * np.sqrt(2 / n)
    return np.where(i == 0, np.sqrt(1 / n), rows)


MODEL = Model(
    name="gaussian",
    config=GaussianConfig,
    fit_to=fit_to_images,
    create_state=create_state,
    train_step=train_step,
    sample=sample,
    networks=lambda config: {},
    hyperparameters={},
    curves=(Curve("share of variance", {"in the components": "explained"}),),
    columns={
        "explained": Column("share of variance in the components", "near 1"),
        "between": Column("share of it between the classes"),
    },
    latent_shape=lambda config: (min(config.components, len(_transform(config))),),
    generate=generate,
    private=Private(most_steps=1),
)
"""All that `jaxgan.run` needs to know of the Gaussians."""
