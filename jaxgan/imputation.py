"""GAIN, a GAN that fills in missing values, as pure functions (arXiv 1806.02920).

    config = GAINConfig(image_shape=(1, 1, columns))
    state = create_state(rng, config)
    state, metrics = train_step(state, batch, rng)
    rows = impute(state, rows, known, rng)

The rows of a table are images of one pixel, with a channel for each column. The generator fills in
the missing values. For each value the discriminator tells whether it was known or filled in. The
functions are in the same order as in `jaxgan/gan.py`. For tables with NaN there is
`jaxgan.uses.imputers.GAINImputer`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxgan.data.dataset import fit_to_images
from jaxgan.data.pixels import batch_images
from jaxgan.errors import JaxganError
from jaxgan.fields import check_field, check_optimizer, check_types, documented, is_size
from jaxgan.inputs import check_rng, check_sampling, checks_inputs, jit
from jaxgan.learner import Learner, create, current_config, descend, forward, norm
from jaxgan.model import Column, Curve, Model, Network
from jaxgan.networks import MaskedMLP
from jaxgan.shards import Shards, on_any_mesh

_NOISE = 0.01
"""Missing values are replaced by noise in [0, 0.01]. As in the paper, the networks see values in
[0, 1]: a missing value then hardly acts on the first layer."""


@documented
@dataclasses.dataclass(frozen=True)
class GAINConfig:
    """Everything that defines a GAIN and how it learns. Frozen, hashable and compared by value.

    Raises:
      JaxganError: at construction, if a field is out of its range.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of the images; (1, 1, columns) for the rows of a table."""
    widths: tuple[int, ...] = ()
    """Widths of the hidden layers of both networks; (): two layers, as wide as the data but at
    least 16."""
    lr: float = 1e-3
    """Learning rate of both Adams."""
    b1: float = 0.9
    """Decay of the first moment in both Adams."""
    b2: float = 0.999
    """Decay of the second moment in both Adams."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment in Adam, after bias correction."""
    optimizer: Any = None
    """An optax.GradientTransformation in place of both Adams, as in GANConfig."""
    max_grad_norm: float = 0.0
    """The largest norm of a gradient of a batch, which is scaled down to it; 0 does not clip."""
    reconstruction_weight: float = 100.0
    """Weight of the squared error of the known values in the generator's loss, for values in
    [0, 1]."""
    hint_rate: float = 0.9
    """How often the discriminator gets the true mask of a value (the hint), in [0, 1]. The
    adversarial losses are those of the other values. With 1 there are none."""
    missing_rate: float = 0.2
    """The share of values that each step hides, in (0, 1), if a batch has no mask."""
    bounded: bool = True
    """Whether values are in [-1, 1]. If they are, the generator ends in tanh."""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "widths", tuple(self.widths))
        shape = self.image_shape
        sizes = len(shape) == 3 and all(is_size(n) for n in shape)
        check_field(sizes, self, "image_shape", "(height, width, channels)")
        check_field(all(map(is_size, self.widths)), self, "widths", "whole numbers above 0")
        check_field(0 < self.lr < math.inf, self, "lr", "above 0, and finite")
        for name in ("b1", "b2"):
            check_field(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        check_field(self.adam_eps > 0, self, "adam_eps", "above 0")
        check_optimizer(self, "optimizer", ("lr", "b1", "b2", "adam_eps"))
        for name in ("reconstruction_weight", "max_grad_norm"):
            value = getattr(self, name)
            check_field(0 <= value < math.inf, self, name, "0 or more, and finite")
        check_field(0 <= self.hint_rate <= 1, self, "hint_rate", "in [0, 1]")
        check_field(0 < self.missing_rate < 1, self, "missing_rate", "between 0 and 1")


class GAINState(struct.PyTreeNode):
    """Generator and discriminator as one pytree. Equal configs give equal treedefs."""

    generator: Learner
    discriminator: Learner
    config: GAINConfig = struct.field(pytree_node=False)
    hyperparameters: Mapping[str, jax.Array] = struct.field(default_factory=dict)
    """Values of fields of the config, as in GANState."""

    @property
    def step(self) -> jax.Array:
        """Number of training steps taken, int32 scalar."""
        return self.generator.step


class GAINMetrics(NamedTuple):
    """The metrics of a step: float32 scalars, means over the batch, at the old parameters."""

    gen_loss: jax.Array
    """The sum of -log D over the missing values without a hint, divided by the number of all values
    without a hint."""
    disc_loss: jax.Array
    """The cross-entropy of the values without a hint."""
    known_error: jax.Array
    """The mean squared error of the known values, for values in [0, 1]."""
    gen_grad_norm: jax.Array
    """L2 norm of the generator's gradient."""
    disc_grad_norm: jax.Array
    """L2 norm of the discriminator's gradient."""


@jit(static_argnames="config")
def create_state(rng: jax.Array, config: GAINConfig | None = None) -> GAINState:
    """Draws the initial parameters of both networks.

    Args:
      rng: a key, `jax.random.key(seed)`.
      config: the networks and their optimizers; by default `GAINConfig()`.

    Returns:
      The GAINState at step 0.
    """
    check_rng(rng)
    config = config or GAINConfig()
    generator_rng, discriminator_rng = jax.random.split(rng)
    images = jnp.zeros((2, *config.image_shape))
    generator, discriminator, adam = _static_parts(config)
    return GAINState(
        create(generator, adam, generator_rng, images, masks=images),
        create(discriminator, adam, discriminator_rng, images, masks=images),
        config,
    )


class StepKeys(NamedTuple):
    """The keys of a step, one for each use of random numbers."""

    noise: jax.Array
    hint: jax.Array
    hide: jax.Array
    """Which values are hidden, if the batch has no mask."""


class _Batch(NamedTuple):
    """The inputs of a step, each `[B, H, W, C]`."""

    images: jax.Array
    """Values in [0, 1], with noise in place of the missing ones."""
    known: jax.Array
    """1 where a value is known, else 0."""
    hints: jax.Array
    """1 or 0 where the discriminator is told what `known` is, else 0.5."""
    unhinted: jax.Array
    """1 where it is not told, else 0: only these values count in the adversarial losses."""


@checks_inputs
@jit(static_argnames="axis_name")
@on_any_mesh
def train_step(
    state: GAINState, batch: Any, rng: jax.Array, *, axis_name: str | None = None
) -> tuple[GAINState, GAINMetrics]:
    """Updates the discriminator, then the generator against it, on one batch. Pure.

    Args:
      state: from `create_state` or an earlier step.
      batch: images `[B, H, W, C]`, uint8 or float in [-1, 1]; or a dict that holds them as "image",
        and as "mask" which of their values are known, bool `[B, H, W, C]`. Missing values may be
        NaN. Without a mask, each step hides other values, a share of `config.missing_rate`.
      rng: a key. The step folds `state.step` into it, so every step may get the same key.
      axis_name: inside a `shard_map`, the mesh axis over which the batch is split.
        The state must be replicated. Losses, gradients and metrics are means over the whole batch.
        All numbers are drawn as in a run without shards.

    Returns:
      The next state, and the GAINMetrics of this step at the old parameters. (The generator's are
      taken against the updated discriminator.)

    Raises:
      JaxganError: if the images are not of `state.config.image_shape`, or if the mask does not fit.
    """
    config, shards = current_config(state), Shards(axis_name)
    batch = _draw_batch(state, config, batch, rng, shards)
    # Shares of the whole batch. It may have none.
    known_share, unhinted_share = (
        jnp.maximum(shards.mean(x.mean()), 1e-6) for x in (batch.known, batch.unhinted)
    )

    def disc_loss(params: Any) -> tuple[jax.Array, None]:
        filled = jnp.where(batch.known > 0, batch.images, _generate(state.generator, batch))
        logits = _run(state.discriminator.replace(params=params), filled, batch.hints)
        losses = batch.unhinted * optax.sigmoid_binary_cross_entropy(logits, batch.known)
        return losses.mean() / unhinted_share, None

    (disc_value, _), disc_grads = shards.value_and_grad(disc_loss)(state.discriminator.params)
    discriminator = descend(state.discriminator, disc_grads, max_norm=config.max_grad_norm)

    def gen_loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        output = _generate(state.generator.replace(params=params), batch)
        filled = jnp.where(batch.known > 0, batch.images, output)
        logits = _run(discriminator, filled, batch.hints)
        missing = batch.unhinted * (1 - batch.known)
        fooled = (missing * jax.nn.softplus(-logits)).mean() / unhinted_share
        error = (batch.known * jnp.square(output - batch.images)).mean() / known_share
        return fooled + config.reconstruction_weight * error, (fooled, error)

    (_, parts), gen_grads = shards.value_and_grad(gen_loss)(state.generator.params)
    generator = descend(state.generator, gen_grads, max_norm=config.max_grad_norm)
    fooled, error = shards.mean(parts)
    norms = (norm(gen_grads), norm(disc_grads))
    metrics = GAINMetrics(fooled, disc_value, error, *norms)
    return state.replace(generator=generator, discriminator=discriminator), metrics


def sample(state: GAINState, rng: jax.Array, n: int) -> jax.Array:
    """Fills in n images of which nothing is known: `[n, H, W, C]`, float32 in [-1, 1] if
    `config.bounded`.

    They hardly differ, since the noise of GAIN is small: it is made to fill in, not to make new
    images.
    """
    check_sampling(state, rng, n)
    nothing = jnp.zeros((n, *state.config.image_shape))
    return impute(state, nothing, nothing > 0, rng)


@jax.jit
def impute(
    state: GAINState, images: jax.Array, known: jax.Array, rng: jax.Array | None = None
) -> jax.Array:
    """Fills in missing values: `[B, H, W, C]`, float in [-1, 1] if `config.bounded`.

    Args:
      state: from `create_state` or `train_step`.
      images: uint8 or float in [-1, 1]. Missing values may be NaN.
      known: which values are known, bool `[B, H, W, C]`; these come back unchanged.
      rng: a key for the noise in place of missing values. By default these are its mean.

    Raises:
      JaxganError: if the images are not of `state.config.image_shape`, or if the mask does not fit.
    """
    shape = state.config.image_shape
    images = batch_images(images, shape)
    known = _check_mask(known, images)
    noise = jnp.full(images.shape, _NOISE / 2)
    if rng is not None:
        noise = jax.random.uniform(rng, images.shape, maxval=_NOISE)
    batch = _join(images, known, noise, jnp.ones(images.shape, bool))
    return jnp.where(known, images, 2 * _generate(state.generator, batch) - 1)


def _draw_batch(
    state: GAINState, config: GAINConfig, batch: Any, rng: jax.Array, shards: Shards
) -> _Batch:
    images = batch_images(batch, config.image_shape)
    rngs = jax.random.split(jax.random.fold_in(rng, state.step), len(StepKeys._fields))
    keys = StepKeys(*rngs)

    def draw(rng: jax.Array) -> jax.Array:
        """Uniform in [0, 1)."""
        shape = config.image_shape
        return shards.rows(lambda n: jax.random.uniform(rng, (n, *shape)), images.shape[0])

    if isinstance(batch, Mapping) and "mask" in batch:
        known = _check_mask(jnp.asarray(batch["mask"]), images)
    else:
        known = draw(keys.hide) >= config.missing_rate
    hinted = draw(keys.hint) < config.hint_rate
    return _join(images, known, _NOISE * draw(keys.noise), hinted)


def _join(images: jax.Array, known: jax.Array, noise: jax.Array, hinted: jax.Array) -> _Batch:
    images = jnp.where(known, (images + 1) / 2, noise)
    known = known.astype(jnp.float32)
    return _Batch(images, known, jnp.where(hinted, known, 0.5), 1 - hinted.astype(jnp.float32))


def _check_mask(known: jax.Array, images: jax.Array) -> jax.Array:
    if known.shape != images.shape or known.dtype != bool:
        raise JaxganError(
            f"the mask of known values must be bool of the shape of the images, "
            f"{list(images.shape)}, got {known.dtype} of {list(known.shape)}"
        )
    return known


def _generate(generator: Learner, batch: _Batch) -> jax.Array:
    """What the generator makes of a batch: in [0, 1] if it is bounded."""
    return (_run(generator, batch.images, batch.known) + 1) / 2


def _run(learner: Learner, images: jax.Array, masks: jax.Array) -> jax.Array:
    # Neither network draws random numbers, so any key will do.
    return forward(learner, images, jax.random.key(0), train=True, masks=masks)[0]


@functools.cache
def _static_parts(
    config: GAINConfig,
) -> tuple[nn.Module, nn.Module, optax.GradientTransformation]:
    """Networks and optimizer, built once for equal configs, as in `jaxgan/gan.py`."""
    # In narrower layers all units may die.
    widths = config.widths or (max(16, math.prod(config.image_shape)),) * 2
    adam = optax.inject_hyperparams(optax.adam)
    optimizer = config.optimizer or adam(config.lr, config.b1, config.b2, config.adam_eps)
    return MaskedMLP(widths, config.bounded), MaskedMLP(widths), optimizer


def _networks(config: GAINConfig) -> dict[str, Network]:
    generator, discriminator, _ = _static_parts(config)
    more = {"masks": np.zeros(config.image_shape, np.float32)}
    shape = config.image_shape
    return {
        "generator": Network(generator, shape, more),
        "discriminator": Network(discriminator, shape, more),
    }


MODEL = Model(
    name="gain",
    config=GAINConfig,
    fit_to=fit_to_images,
    create_state=create_state,
    train_step=train_step,
    sample=sample,
    networks=_networks,
    hyperparameters={
        name: tuple(
            (network, "opt_state", "hyperparams", leaf)
            for network in ("generator", "discriminator")
        )
        for name, leaf in (("lr", "learning_rate"), ("b1", "b1"), ("b2", "b2"))
    }
    | dict.fromkeys(("max_grad_norm", "reconstruction_weight", "hint_rate", "missing_rate"), ()),
    curves=(
        Curve("loss", {"generator": "gen_loss", "discriminator": "disc_loss"}),
        Curve("squared error", {"known values": "known_error"}, scale="log"),
    ),
    columns={
        "gen_loss": Column("-log D of missing values", "levels off"),
        "disc_loss": Column("cross-entropy of known or missing", "levels off"),
        "known_error": Column("squared error of known values", "falls"),
        "gen_grad_norm": Column("gradient norm, generator", "levels off"),
        "disc_grad_norm": Column("gradient norm, discriminator", "levels off"),
    },
)
"""All that `jaxgan.run` needs to know of GAIN."""
