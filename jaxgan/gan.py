"""The GAN as three pure functions: `create_state`, `train_step`, `sample`. Start reading here.

    config = GANConfig()
    state = create_state(rng, config)
    state, metrics = train_step(state, batch, rng)
    images = sample(state, rng, n)

A state holds arrays. Its config, networks and optimizers are static parts of it. `train_step` reads
like the algorithm of the paper (arXiv 1406.2661). The helpers follow in the order of their use.
"""

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

from jaxgan import privacy, schedules
from jaxgan.adversarial import augmentation, diagnostics, losses, measures, penalties
from jaxgan.adversarial.measures import Metrics, PrivateMetrics
from jaxgan.config import GANConfig
from jaxgan.data.dataset import fit_to_images
from jaxgan.data.pixels import batch_images
from jaxgan.errors import JaxganError
from jaxgan.inputs import check_latents, check_rng, check_sampling, checks_inputs, jit
from jaxgan.labels import batch_included, batch_labels, choose_labels
from jaxgan.learner import (
    Learner,
    at_least_float32,
    average,
    create,
    current_config,
    descend,
    forward,
    norm,
    start_average,
    with_average,
    without_average,
)
from jaxgan.model import Curve, DenseLayers, Model, Network, Private
from jaxgan.networks import MLPDiscriminator, MLPGenerator
from jaxgan.shards import Shards, on_any_mesh


class GANState(struct.PyTreeNode):
    """Generator and discriminator as one pytree. Equal configs give equal treedefs."""

    generator: Learner
    discriminator: Learner
    config: GANConfig = struct.field(pytree_node=False)
    ema: Any = None
    """The average of the generator's parameters, if `config.ema_decay` is above 0."""
    hyperparameters: Mapping[str, jax.Array] = struct.field(default_factory=dict)
    """Values that replace those of the config, by the names of its fields. They are leaves, so that
    the members of a population may differ in them (`jaxgan.population.with_hyperparameters`)."""

    @property
    def step(self) -> jax.Array:
        """Number of training steps taken, int32 scalar."""
        return self.discriminator.step


@jit(static_argnames="config")
def create_state(rng: jax.Array, config: GANConfig | None = None) -> GANState:
    """Draws the initial parameters of both networks.

    Args:
      rng: a key, `jax.random.key(seed)`.
      config: the networks and their optimizers; by default the reference GAN.

    Returns:
      The GANState at step 0.

    Raises:
      JaxganError: if the networks of the config do not fit each other or `config.image_shape`.
    """
    check_rng(rng)
    config = config or GANConfig()
    parts = _static_parts(config)
    generator_rng, discriminator_rng = jax.random.split(rng)
    n = 2 * config.pac
    latents, images = jnp.zeros((n, config.latent_dim)), jnp.zeros((n, *config.image_shape))
    labels = jnp.zeros(n, jnp.int32) if config.num_classes else None
    packed, packed_labels = _pack(images, config.pac), _pack_labels(labels, config.pac)
    generator = create(*parts.generator, generator_rng, latents, labels=labels)
    state = GANState(
        generator=generator,
        discriminator=create(*parts.discriminator, discriminator_rng, packed, labels=packed_labels),
        config=config,
        ema=start_average(generator.params, config.ema_decay),
    )
    # Traces one forward pass, so that networks which do not fit are refused here.
    jax.eval_shape(
        lambda: _logits(
            state.discriminator,
            _pack(_generate(state, latents, labels, rng), config.pac),
            packed_labels,
            rng,
        )
    )
    return state


class StepKeys(NamedTuple):
    """The keys of a step, one for each use of random numbers."""

    latents: jax.Array
    generator: jax.Array
    """Dropout in the generator."""
    fake: jax.Array
    """Dropout in the discriminator, on generated images."""
    real: jax.Array
    """Dropout in the discriminator, on real images."""
    noise: jax.Array
    penalty: jax.Array
    augment: jax.Array


class _Batch(NamedTuple):
    """The inputs of a step."""

    real: jax.Array
    """Real images `[B, H, W, C]` in [-1, 1]."""
    labels: jax.Array | None
    """The labels of real and of generated images, int32 `[B]`; None if there are no classes."""
    latents: jax.Array
    """`[B, latent_dim]`."""
    rngs: StepKeys
    step: jax.Array
    """The step at which the schedules are evaluated."""
    included: jax.Array | None
    """Which real images count, bool `[B]`; None if all do."""
    noise_rng: jax.Array
    """The key of the noise that makes the step private. The same in all shards."""


class _Outputs(NamedTuple):
    """The outputs of the discriminator for a batch."""

    real_logits: jax.Array | None
    fake_logits: jax.Array
    penalty: jax.Array | None
    discriminator: Learner
    """The discriminator with updated collections."""


@checks_inputs
@jit(static_argnames="axis_name")
@on_any_mesh
def train_step(
    state: GANState, batch: Any, rng: jax.Array, *, axis_name: str | None = None
) -> tuple[GANState, Any]:
    """Updates discriminator and generator once, on one batch of real images. Pure.

    The updates are simultaneous: both gradients are taken at the old parameters, from one set of
    latents. With `updates="alternating"` the generator's gradient is taken against the updated
    discriminator. With `disc_steps=k` the generator is updated in every k-th step only.

    Differentiating this step may give NaN: the square root in Adam has an infinite derivative
    where a gradient is 0. SGD has no root. With `unroll_steps` the discriminator's Adam is finite.

    Args:
      state: from `create_state` or an earlier step.
      batch: real images `[B, H, W, C]`, uint8 or float in [-1, 1]; or a dict that holds them as
        "image". Any B >= 1 (or >= `config.pac`). With `config.num_classes` the dict also holds
        "label", int `[B]`; the generated images have the same labels. With `config.clip_norm`
        "included", bool `[B]`, says which images count.
      rng: a key. The step folds `state.step` into it, so every step may get the same key.
      axis_name: inside a `shard_map`, the mesh axis over which the batch is split.
        The state must be replicated. Losses, gradients and metrics are means over the whole batch.
        The latents are those of a run without shards; other random numbers differ.

    Returns:
      The next state, and the Metrics of this step at the old parameters, or PrivateMetrics with
      `config.clip_norm`.

    Raises:
      JaxganError: if rng is no key, images have another shape or scale, or labels are missing or
        out of range. For scale and range, only the first jax array of each shape and type is read:
        to read one is to wait for the device.
    """
    config, shards = current_config(state), Shards(axis_name)
    batch = _draw_batch(state, batch, rng, shards)
    fake, generator = _fake_images(state.generator, batch)

    # The discriminator. The generator's gradient repeats its passes, and the compiler merges them:
    # the reference has 34 matrix products, as many as with shared passes.
    outputs, disc_grads = _discriminator_gradients(state, config, fake, batch, shards)
    discriminator = _descend_discriminator(outputs.discriminator, disc_grads, config, state.step)

    # The generator, against the old or the updated discriminator.
    alternating = config.updates == "alternating"
    frozen = discriminator if alternating else state.discriminator
    batch = _without_real(batch, config, shards)
    loss = functools.partial(_generator_loss, batch=batch, config=config, shards=shards)

    def update(generator: Learner) -> tuple[Learner, jax.Array]:
        (_, _), grads = shards.value_and_grad(loss)(generator.params, state.generator, frozen)
        scale = schedules.value(config.lr_scale, state.step)
        return descend(generator, grads, scale, 0, config.max_grad_norm), norm(grads)

    generator, gen_norm = _every(config.disc_steps, state.step, update, generator)
    norms = (gen_norm, norm(disc_grads))
    metrics = _measure(config, outputs, norms, shards)
    return _next_state(state, config, generator, discriminator, shards), metrics


def sample(state: GANState, rng: jax.Array, n: int, labels: Any = None) -> jax.Array:
    """Draws n images from the generator: `[n, H, W, C]`, float32 in [-1, 1] if `config.bounded`.

    If `config.ema_decay` is above 0 the images come from the average of the generator's
    parameters. For images from the parameters themselves give `state.replace(ema=None)`.

    Args:
      state: from `create_state` or `train_step`.
      rng: a key.
      n: how many, 1 or more.
      labels: of a conditional GAN: the classes of the images, int `[n]`, or one for all. By
        default 0, 1, 2, ... in turn, so that all classes have equal shares.

    Raises:
      JaxganError: if labels are out of range, or if there are labels and no classes.
    """
    check_sampling(state, rng, n)
    return _sample(state, rng, n, choose_labels(state.config.num_classes, n, labels))


@functools.partial(jax.jit, static_argnames="n")
def _sample(state: GANState, rng: jax.Array, n: int, labels: jax.Array | None) -> jax.Array:
    latents = jax.random.normal(rng, (n, state.config.latent_dim))
    return _generate(state, latents, labels, jax.random.fold_in(rng, 0))


def generate(
    state: GANState, latents: jax.Array, rng: jax.Array | None = None, labels: Any = None
) -> jax.Array:
    """The generator's images `[B, H, W, C]` for latents `[B, latent_dim]`.

    The latents are first multiplied by `config.latent_scale`. `rng` is for a generator that draws
    random numbers itself. The default is a fixed key. `labels` are those of `sample`.

    Raises:
      JaxganError: if the latents have another shape, or like `sample`.
    """
    check_latents(latents, (state.config.latent_dim,))
    labels = choose_labels(state.config.num_classes, latents.shape[0], labels)
    return _generate(state, latents, labels, jax.random.key(0) if rng is None else rng)


@jax.jit
def _generate(
    state: GANState, latents: jax.Array, labels: jax.Array | None, rng: jax.Array
) -> jax.Array:
    generator = with_average(state.generator, state.ema)
    latents = current_config(state).latent_scale * latents
    images, _ = forward(generator, latents, rng, train=False, labels=labels)
    if images.shape[1:] != state.config.image_shape:
        raise JaxganError(
            f"the generator makes images of shape {images.shape[1:]}, "
            f"but the config's image_shape is {state.config.image_shape}"
        )
    return at_least_float32(images)


def _draw_batch(state: GANState, batch: Any, rng: jax.Array, shards: Shards) -> _Batch:
    """The real images, keys and latents. Only the key of the latents is the same in all shards."""
    config = state.config
    real, labels = batch_images(batch, config.image_shape), batch_labels(batch, config.num_classes)
    rng = jax.random.fold_in(rng, state.step)
    latent_rng, *rngs = jax.random.split(rng, len(StepKeys._fields))
    size = config.latent_dim
    latents = shards.rows(lambda n: jax.random.normal(latent_rng, (n, size)), real.shape[0])
    keys = StepKeys(latent_rng, *(shards.fold_in(rng) for rng in rngs))
    included, noise_rng = batch_included(batch), privacy.noise_rng(rng)
    return _Batch(real, labels, latents, keys, state.step, included, noise_rng)


def _fake_images(generator: Learner, batch: _Batch) -> tuple[jax.Array, Learner]:
    rng, labels = batch.rngs.generator, batch.labels
    images, generator = forward(generator, batch.latents, rng, train=True, labels=labels)
    return at_least_float32(images), generator


def _discriminator_gradients(
    state: GANState, config: GANConfig, fake: jax.Array, batch: _Batch, shards: Shards
) -> tuple[_Outputs, Any]:
    """The outputs of the discriminator and the gradients of its objective.

    With `clip_norm` each real image has a gradient of its own, with the generated image beside it.
    """
    discriminator = state.discriminator
    objective = functools.partial(_discriminator_objective, config=config)
    if not config.clip_norm:
        whole = functools.partial(objective, fake=fake, batch=batch)
        (_, outputs), grads = shards.value_and_grad(whole)(discriminator.params, discriminator)
        return outputs, grads

    for name, learner in (("the generator", state.generator), ("the discriminator", discriminator)):
        if learner.collections:
            raise JaxganError(privacy.NO_STATISTICS.format(name))

    def loss(params: Any, example: Any) -> jax.Array:
        (real, fake, labels), i = example
        rngs = StepKeys(*(jax.random.fold_in(rng, i) for rng in batch.rngs))
        one = batch._replace(real=real[None], rngs=rngs)
        one = one._replace(labels=None if labels is None else labels[None])
        return objective(params, discriminator, fake=fake[None], batch=one)[0]

    grads = privacy.private_gradients(
        loss,
        discriminator.params,
        ((batch.real, fake, batch.labels), jnp.arange(len(fake))),
        batch.included,
        batch.noise_rng,
        clip_norm=config.clip_norm,
        noise_multiplier=config.noise_multiplier,
        shards=shards,
    )
    # The images of the batch without the real ones; what they give may be shown.
    public = _without_real(batch, config, shards)
    images, _ = _fake_images(state.generator, public)
    inputs = _discriminator_inputs(public, images, config)
    _, fake_logits, _ = _real_and_fake_logits(discriminator, inputs, batch.rngs)
    return _Outputs(None, fake_logits, None, discriminator), grads


def _without_real(batch: _Batch, config: GANConfig, shards: Shards) -> _Batch:
    """With `clip_norm`, the batch without its real images and labels, for the generator.

    The labels are drawn anew, from all classes alike.
    """
    if not config.clip_norm:
        return batch
    labels = batch.labels
    if labels is not None:
        rng = jax.random.fold_in(batch.rngs.latents, 0)
        classes = config.num_classes
        labels = shards.rows(lambda n: jax.random.randint(rng, (n,), 0, classes), len(labels))
    return batch._replace(real=jnp.zeros_like(batch.real), labels=labels)


def _discriminator_objective(
    params: Any, discriminator: Learner, fake: jax.Array, batch: _Batch, config: GANConfig
) -> tuple[jax.Array, _Outputs]:
    """The discriminator's loss plus penalties, a scalar, and its outputs."""
    discriminator = discriminator.replace(params=params)
    inputs = _discriminator_inputs(batch, fake, config)
    penalty = _penalty(discriminator, inputs, batch, config)
    real_logits, fake_logits, discriminator = _real_and_fake_logits(
        discriminator, inputs, batch.rngs
    )
    loss = losses.per_image(config.loss, real_logits, fake_logits, config.label_smoothing)
    outputs = _Outputs(real_logits, fake_logits, penalty, discriminator)
    return loss.discriminator.mean() + penalty, outputs


def _penalty(
    discriminator: Learner, inputs: "_Inputs", batch: _Batch, config: GANConfig
) -> jax.Array:
    """The weighted sum of the penalties, a scalar."""

    def critic(image: jax.Array, label: jax.Array | None = None) -> jax.Array:
        # Without dropout, and with running statistics: statistics of one image mean nothing.
        labels = None if label is None else label[None]
        return _logits(discriminator, image[None], labels, batch.rngs.penalty)[0][0]

    labels = () if inputs.labels is None else (inputs.labels,)
    penalty_inputs = penalties.Inputs(
        critic, discriminator.params, inputs.real, inputs.fake, batch.rngs.penalty, labels
    )
    return penalties.weighted_sum(config.penalty_weights, batch.step, penalty_inputs)


def _descend_discriminator(
    discriminator: Learner, grads: Any, config: GANConfig, step: jax.Array
) -> Learner:
    """The discriminator after an update."""
    scale = schedules.value(config.lr_scale, step)
    return descend(discriminator, grads, scale, config.weight_clip, config.max_grad_norm)


def _generator_loss(
    params: Any,
    generator: Learner,
    discriminator: Learner,
    batch: _Batch,
    config: GANConfig,
    shards: Shards,
) -> tuple[jax.Array, None]:
    """The generator's loss, a scalar, and None, since it has no other outputs."""
    fake, _ = _fake_images(generator.replace(params=params), batch)
    if config.unroll_steps:
        discriminator = _unroll(discriminator, fake, batch, config, shards)
    inputs = _discriminator_inputs(batch, fake, config)
    real_logits, fake_logits, _ = _real_and_fake_logits(discriminator, inputs, batch.rngs)
    loss = losses.per_image(config.loss, real_logits, fake_logits, config.label_smoothing)
    return loss.generator.mean(), None


def _unroll(
    discriminator: Learner, fake: jax.Array, batch: _Batch, config: GANConfig, shards: Shards
) -> Learner:
    """The discriminator after `config.unroll_steps` more updates on the same batch.

    Gradients pass through these updates (arXiv 1611.02163).
    """
    objective = functools.partial(_discriminator_objective, fake=fake, config=config)

    def update(learner: Learner, _: None) -> tuple[Learner, None]:
        now = batch._replace(step=learner.step)
        gradients = shards.value_and_grad(functools.partial(objective, batch=now))
        (_, _), grads = gradients(learner.params, learner)
        return _descend_discriminator(learner, grads, config, learner.step), None

    return jax.lax.scan(update, discriminator, length=config.unroll_steps)[0]


class _Inputs(NamedTuple):
    """The inputs of the discriminator."""

    real: jax.Array
    fake: jax.Array
    labels: jax.Array | None
    """Of the real and of the generated images."""


def _discriminator_inputs(batch: _Batch, fake: jax.Array, config: GANConfig) -> _Inputs:
    """Real and generated images as the discriminator gets them: augmented, noisy, packed."""
    real, rngs = batch.real, batch.rngs
    if not schedules.is_zero(config.augment):
        probability = schedules.value(config.augment, batch.step)
        real_rng, fake_rng = jax.random.split(rngs.augment)
        real = _augment(config, real, probability, real_rng)
        fake = _augment(config, fake, probability, fake_rng)
    if not schedules.is_zero(config.instance_noise):
        deviation = schedules.value(config.instance_noise, batch.step)
        real_noise, fake_noise = jax.random.normal(rngs.noise, (2, *real.shape))
        real, fake = real + deviation * real_noise, fake + deviation * fake_noise
    labels = _pack_labels(batch.labels, config.pac)
    return _Inputs(_pack(real, config.pac), _pack(fake, config.pac), labels)


def _augment(config: GANConfig, images: jax.Array, probability: Any, rng: jax.Array) -> jax.Array:
    augmented = (config.augmentation or augmentation.augment)(images, probability, rng)
    if jnp.shape(augmented) != images.shape:
        raise JaxganError(
            f"augmentation must keep the shape of the images, {list(images.shape)}; it gave "
            f"{list(jnp.shape(augmented))}"
        )
    return augmented


def _real_and_fake_logits(
    discriminator: Learner, inputs: _Inputs, rngs: StepKeys
) -> tuple[jax.Array, jax.Array, Learner]:
    """Runs two training passes: logits `[B]` of real and generated images, and the learner."""
    real, fake, labels = inputs
    fake_logits, discriminator = _logits(discriminator, fake, labels, rngs.fake, train=True)
    real_logits, discriminator = _logits(discriminator, real, labels, rngs.real, train=True)
    return real_logits, fake_logits, discriminator


def _logits(
    discriminator: Learner,
    images: jax.Array,
    labels: jax.Array | None,
    rng: jax.Array,
    *,
    train: bool = False,
) -> tuple[jax.Array, Learner]:
    """One logit per image, `[B]`, float32 or wider: losses and metrics need that precision."""
    logits, discriminator = forward(discriminator, images, rng, train=train, labels=labels)
    batch_size = images.shape[0]
    if logits.shape not in ((batch_size,), (batch_size, 1)):
        raise JaxganError(
            "the discriminator must give one logit per image, [B] or [B, 1]: "
            f"for {batch_size} images it gave {logits.shape}"
        )
    return at_least_float32(logits.reshape(batch_size)), discriminator


def _every(k: int, step: jax.Array, update: Any, generator: Learner) -> tuple[Learner, jax.Array]:
    """The generator, updated in every k-th step, and the norm of its gradient.

    In steps without an update the norm is 0. In the others it is multiplied by k, so that its mean
    over steps is its mean over updates.
    """
    if k == 1:
        return update(generator)
    _, like = jax.eval_shape(update, generator)
    unchanged = (generator, jnp.zeros(like.shape, like.dtype))
    generator, grad_norm = jax.lax.cond(step % k == k - 1, update, lambda _: unchanged, generator)
    return generator, k * grad_norm


def _next_state(
    state: GANState,
    config: GANConfig,
    generator: Learner,
    discriminator: Learner,
    shards: Shards,
) -> GANState:
    generator, discriminator = (
        learner.replace(collections=shards.mean(learner.collections))
        for learner in (generator, discriminator)
    )
    return state.replace(
        generator=generator,
        discriminator=discriminator,
        ema=average(state.ema, generator.params, config.ema_decay, state.step),
    )


@jax.named_scope("measure")
def _measure(
    config: GANConfig,
    outputs: _Outputs,
    gradient_norms: tuple[jax.Array, jax.Array],
    shards: Shards,
) -> Metrics | PrivateMetrics:
    real_logits, fake_logits = outputs.real_logits, outputs.fake_logits
    if real_logits is None or outputs.penalty is None:
        loss = losses.per_image(config.loss, fake_logits, fake_logits, 0.0).generator.mean()
        score = nn.sigmoid(fake_logits).mean()
        return shards.mean(PrivateMetrics(loss, score, gradient_norms[0], gradient_norms[1]))
    loss = losses.per_image(config.loss, real_logits, fake_logits, config.label_smoothing)

    def means(*rows: jax.Array) -> jax.Array:
        """The means over the whole batch of some `[B]`, in one sum for all."""
        stacked = jnp.stack([row.astype(real_logits.dtype) for row in rows])
        return shards.mean(stacked.mean(axis=1))

    logits = real_logits, fake_logits
    found = means(*loss, *map(jnp.square, loss), *logits, *map(nn.sigmoid, logits))
    gen_loss, disc_loss, gen_square, disc_square = found[:4]
    real_mean, fake_mean, real_score, fake_score = found[4:]
    boundary = losses.boundary(config.loss, real_mean, fake_mean, config.label_smoothing)
    middle = (real_mean + fake_mean) / 2
    real_accuracy, fake_accuracy, real_spread, fake_spread = means(
        real_logits > boundary,
        fake_logits < boundary,
        jnp.square(real_logits - middle),
        jnp.square(fake_logits - middle),
    )
    n = len(real_logits) * shards.number
    return shards.mean(
        Metrics(
            gen_loss=gen_loss,
            disc_loss=disc_loss,
            real_score=real_score,
            fake_score=fake_score,
            penalty=outputs.penalty,
            real_accuracy=real_accuracy,
            fake_accuracy=fake_accuracy,
            logit_spread=jnp.sqrt((real_spread + fake_spread) / 2),
            gen_grad_norm=gradient_norms[0],
            disc_grad_norm=gradient_norms[1],
            gen_loss_square=measures.square(gen_loss, gen_square, n),
            disc_loss_square=measures.square(disc_loss, disc_square, n),
        )
    )


def _pack(images: jax.Array, pac: int) -> jax.Array:
    """Joins the channels of `pac` images: `[B, H, W, C]` -> `[B // pac, H, W, pac * C]`."""
    if pac == 1:
        return images
    n, *size, channels = images.shape
    if n < pac:
        raise JaxganError(f"pac={pac} needs at least {pac} images in a batch, got {n}")
    groups = images[: n // pac * pac].reshape(n // pac, pac, *size, channels)
    return jnp.moveaxis(groups, 1, -2).reshape(n // pac, *size, pac * channels)


def _pack_labels(labels: jax.Array | None, pac: int) -> jax.Array | None:
    """The labels of `_pack`: `[B]` -> `[B // pac, pac]`, or unchanged without packing."""
    if labels is None or pac == 1:
        return labels
    return labels[: len(labels) // pac * pac].reshape(-1, pac)


class _StaticParts(NamedTuple):
    generator: tuple[nn.Module, optax.GradientTransformation]
    discriminator: tuple[nn.Module, optax.GradientTransformation]


@functools.cache
def _static_parts(config: GANConfig) -> _StaticParts:
    """Networks and optimizers, built once for equal configs.

    Two optimizers with equal settings are unequal objects. States that hold them would have
    unequal treedefs, and jit would trace the step for each of them.
    """
    dtype = jnp.bfloat16 if config.precision == "bf16" else None
    generator = config.generator or MLPGenerator(
        config.generator_widths, config.image_shape, dtype, config.bounded, config.num_classes
    )
    discriminator = config.discriminator or MLPDiscriminator(
        config.discriminator_widths,
        config.discriminator_dropout,
        dtype,
        config.spectral_norm,
        config.num_classes,
    )
    return _StaticParts(
        generator=(generator, _optimizer(config, "generator")),
        discriminator=(discriminator, _optimizer(config, "discriminator")),
    )


def _optimizer(config: GANConfig, network: str) -> optax.GradientTransformation:
    own = getattr(config, f"{network}_optimizer")
    if own is not None:
        return own
    lr = getattr(config, f"{network}_lr")
    if config.optimizer == "sgd":
        return optax.inject_hyperparams(optax.sgd)(lr)
    moments = (getattr(config, f"{network}_b1"), getattr(config, f"{network}_b2"))
    # Unrolling differentiates Adam's root, whose derivative is infinite at a gradient of zero.
    eps_root = 1e-16 if config.unroll_steps and network == "discriminator" else 0.0
    adam = optax.inject_hyperparams(optax.adam, static_args=("eps_root",))
    return adam(lr, *moments, config.adam_eps, eps_root=eps_root)


def _networks(config: GANConfig) -> dict[str, Network]:
    parts, pac = _static_parts(config), config.pac
    height, width, channels = config.image_shape
    shapes = {"generator": (), "discriminator": (pac,) if pac > 1 else ()}
    labels = {
        name: {"labels": np.zeros(shape, np.int32)} if config.num_classes else {}
        for name, shape in shapes.items()
    }
    shape = (height, width, channels * pac)
    return {
        "generator": Network(parts.generator[0], (config.latent_dim,), labels["generator"]),
        "discriminator": Network(parts.discriminator[0], shape, labels["discriminator"]),
    }


def _equilibrium_distance(config: GANConfig, row: Mapping[str, Any]) -> np.ndarray:
    """How far the discriminator's loss is from its equilibrium."""
    _, equilibrium = losses.equilibrium(config.loss, config.label_smoothing)
    return np.abs(np.asarray(row["disc_loss"]) - equilibrium)


def _equilibrium(config: GANConfig) -> dict[str, float]:
    """The losses if the discriminator cannot tell real images from generated ones, and its scores
    if they have a value then."""
    generator, discriminator = losses.equilibrium(config.loss, config.label_smoothing)
    if math.isnan(discriminator):  # the loss does not say which logit is best
        return {}
    found = {"gen_loss": generator, "disc_loss": discriminator}
    logit_of = losses.find(config.loss).equilibrium_logit
    if logit_of is not None:
        score = float(nn.sigmoid(logit_of(config.label_smoothing)))
        found |= {"real_score": score, "fake_score": score}
    return found


@jax.jit
def _parameter_norms(state: GANState) -> dict[str, jax.Array]:
    """The L2 norms of the parameters of both networks."""
    return {
        "gen_param_norm": norm(state.generator.params),
        "disc_param_norm": norm(state.discriminator.params),
    }


def _dense(state: GANState) -> DenseLayers | None:
    """The generator as arrays; None for a network of the user's own."""
    config = current_config(state)
    if config.generator is not None:
        return None
    params = jax.device_get(with_average(state.generator, state.ema).params)
    names = [f"Dense_{i}" for i in range(len(params))]
    layers = [(params[name]["kernel"], params[name]["bias"]) for name in names]
    kernel = layers[0][0].copy()
    kernel[: config.latent_dim] *= np.float32(config.latent_scale)  # not the labels
    return DenseLayers([(kernel, layers[0][1]), *layers[1:]], config.bounded)


_LEAVES = (
    *("lr_scale", "max_grad_norm", "label_smoothing", "instance_noise", "augment"),
    *("weight_clip", "ema_decay", "latent_scale"),
)
"""Further fields of a config whose values do not change the program."""

MODEL = Model(
    name="gan",
    config=GANConfig,
    fit_to=fit_to_images,
    create_state=create_state,
    train_step=train_step,
    sample=sample,
    networks=_networks,
    hyperparameters={
        f"{network}_{field}": ((network, "opt_state", "hyperparams", leaf),)
        for network in ("generator", "discriminator")
        for field, leaf in (("lr", "learning_rate"), ("b1", "b1"), ("b2", "b2"))
    }
    | dict.fromkeys((*_LEAVES, *penalties.PENALTIES), ()),
    curves=(
        Curve("loss", {"generator": "gen_loss", "discriminator": "disc_loss"}),
        Curve(
            "mean score",
            {"real images": "real_score", "generated images": "fake_score"},
            (0, 1),
        ),
        diagnostics.MISSED_CURVE,
    ),
    columns=diagnostics.COLUMNS,
    equilibrium=_equilibrium,
    diagnose=diagnostics.diagnose,
    diagnosis_curves=diagnostics.CURVES,
    healthy_lines=diagnostics.healthy_lines,
    equilibrium_distance=_equilibrium_distance,
    measure=_parameter_norms,
    sampling=("latent_scale",),
    latent_shape=lambda config: (config.latent_dim,),
    generate=generate,
    dense=_dense,
    raw=without_average,
    private=Private(
        curves=(
            Curve("generator's loss", {"loss": "gen_loss"}),
            Curve("mean score of generated images", {"score": "fake_score"}, (0, 1)),
        ),
        settings={"clip_norm": 1.0},
    ),
)
"""All that `jaxgan.run` needs to know of a GAN."""
