"""A diffusion model (DDPM) as three pure functions: `create_state`, `train_step`, `sample`.

    config = DiffusionConfig()
    state = create_state(rng, config)
    state, metrics = train_step(state, batch, rng)
    images = sample(state, rng, n)

It learns to remove noise from images (arXiv 2006.11239), and makes images from noise alone, in
several steps (`jaxgan.samplers`). The functions are in the same order as in `jaxgan/gan.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxgan import privacy, samplers, schedules
from jaxgan.data.dataset import fit_to_images
from jaxgan.data.pixels import batch_images
from jaxgan.errors import JaxganError
from jaxgan.fields import (
    check_field,
    check_module,
    check_optimizer,
    check_schedules,
    check_types,
    documented,
    is_size,
)
from jaxgan.history import History, member_history
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
    takes,
    with_average,
    without_average,
)
from jaxgan.model import Column, Curve, Diagnosis, Finding, Model, Network, Private
from jaxgan.networks import MLPDenoiser
from jaxgan.schedules import Schedule
from jaxgan.shards import Shards, on_any_mesh


@documented
@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """Everything that defines a diffusion model, how it learns and how it samples.

    Frozen, hashable and compared by value, as GANConfig is. The last four fields act on samples
    alone. To sample otherwise give them to a trained state, as in
    `jaxgan.learner.with_settings(state, sample_steps=10)`.

    Raises:
      JaxganError: at construction, if a field is out of its range.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of the images."""
    width: int = 384
    """Width of the layers of the denoiser."""
    blocks: int = 8
    """Residual blocks of the denoiser. Each has two layers."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    lr_scale: Schedule = 1.0
    """A factor for the learning rate."""
    b1: float = 0.9
    """Decay of the first moment in Adam."""
    b2: float = 0.999
    """Decay of the second moment in Adam."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment in Adam, after bias correction."""
    optimizer: Any = None
    """An optax.GradientTransformation in place of Adam, as in GANConfig."""
    max_grad_norm: float = 0.0
    """The largest norm of the gradient of a batch, which is scaled down to it; 0 does not clip."""
    ema_decay: float = 0.9995
    """Decay, in [0, 1), of an exponential moving average of the parameters, from which samples are
    drawn. With 0, samples come from the parameters themselves. In step t the decay is at most
    (1 + t) / (10 + t)."""
    noise_levels: int = 1000
    """T, the number of noise levels in training, 50 or more."""
    noise_schedule: Literal["linear", "cosine"] = "cosine"
    """How the noise grows with its level (`jaxgan.samplers.signal_shares`)."""
    prediction: Literal["noise", "image", "v"] = "image"
    """What the denoiser predicts: the noise (arXiv 2006.11239), the clean image, or v = a_t e - s_t
    x (`jaxgan.samplers`; arXiv 2202.00512). The loss is the squared error of the noise or of v. For
    a predicted image it is the error of v, with a weight of at most `weight_bound`. A network that
    is not much wider than the image cannot predict noise, which has no structure (arXiv
    2511.13720)."""
    weight_bound: float = 4.0
    """The largest weight of the squared error of a predicted image. The weight is 1 / s_t^2 where
    that is smaller; the loss is then the error of v. A larger bound gives finer details and worse
    shapes. For points the bound is at least 400."""
    label_dropout: float = 0.1
    """With `num_classes`, the share of training images whose label is hidden, in [0, 1).
    Guidance needs it (arXiv 2207.12598)."""
    precision: Literal["f32", "bf16"] = "f32"
    """The type in which the layers of the MLP compute; all else is float32."""
    denoiser: Any = None
    """A Flax linen module in place of the MLP. It takes noisy images [B, H, W, C] and an argument
    `levels`, the noise levels [B] in [0, 1], and gives predictions [B, H, W, C]. With `num_classes`
    it must have an argument `labels`, float32 [B, num_classes]: one-hot, or 0 for no class. An
    argument `train`, or its variants, is that of GANConfig."""
    bounded: bool = True
    """Whether images are in [-1, 1]; points are not. If they are, estimates of clean images are
    clipped, and an MLP that predicts images ends in tanh. A run sets this field and `image_shape`
    to fit the data."""
    noise_draws: int = 1
    """How many noise levels and noises each image gets in a step. More of them lower the noise of a
    gradient, and cost time, but no privacy (arXiv 2210.09929)."""
    clip_norm: float = 0.0
    """The largest norm of the gradient for one image. With a value above 0 gradients are clipped
    image by image, and the metrics leave out what the images decide. 0 does not clip. train.py
    --epsilon takes 1 by default (DP-SGD, arXiv 1607.00133)."""
    noise_multiplier: float = 0.0
    """The standard deviation of the noise on the sum of these gradients, in units of `clip_norm`.
    train.py finds it for --epsilon."""
    num_classes: int = 0
    """The number of classes of a conditional model; 0: there are none. A run with `conditional`
    takes the number from the labels of the data."""
    sampler: Literal["ancestral", "ddim", "dpm_solver"] = "ddim"
    """How samples are drawn (`jaxgan.samplers`)."""
    sample_steps: int = 50
    """Passes through the denoiser for a sample; at most `noise_levels`."""
    eta: float = 0.0
    """Noise in each step of DDIM, in [0, 1]. With 0 a sample depends on its latents alone."""
    guidance: float = 1.0
    """With `num_classes`, how much stronger than learned the class acts on samples. 1 is as
    learned, 0 ignores the class. All values but 1 double the cost of a sample."""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        shape = self.image_shape
        sizes = len(shape) == 3 and all(is_size(n) for n in shape)
        check_field(sizes, self, "image_shape", "(height, width, channels)")
        for name in ("width", "noise_draws", "sample_steps"):
            check_field(is_size(getattr(self, name)), self, name, "a whole number above 0")
        for name in ("blocks", "num_classes"):
            value = getattr(self, name)
            check_field(value == 0 or is_size(value), self, name, "a whole number, 0 or more")
        check_field(0 < self.lr < math.inf, self, "lr", "above 0, and finite")
        check_field(self.adam_eps > 0, self, "adam_eps", "above 0")
        for name in ("b1", "b2", "ema_decay"):
            check_field(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        check_optimizer(self, "optimizer", ("lr", "b1", "b2", "adam_eps"))
        for name in ("max_grad_norm", "clip_norm", "noise_multiplier"):
            value = getattr(self, name)
            check_field(0 <= value < math.inf, self, name, "0 or more, and finite")
        bound = self.weight_bound
        check_field(0 < bound < math.inf, self, "weight_bound", "above 0, and finite")
        check_field(0 <= self.label_dropout < 1, self, "label_dropout", "in [0, 1)")
        check_field(0 <= self.eta <= 1, self, "eta", "in [0, 1]")
        check_field(0 <= self.guidance < math.inf, self, "guidance", "0 or more, and finite")
        check_schedules(self, ("lr_scale",))
        check_field(not schedules.is_zero(self.lr_scale), self, "lr_scale", "above 0 at some time")
        enough = is_size(self.noise_levels) and self.noise_levels >= 50
        check_field(enough, self, "noise_levels", "a whole number, 50 or more")
        few = self.sample_steps <= self.noise_levels
        check_field(few, self, "sample_steps", f"at most noise_levels, {self.noise_levels}")
        check_module("denoiser", self.denoiser, self.num_classes)
        if self.denoiser is not None and not takes(self.denoiser, "levels"):
            raise JaxganError(
                "the denoiser does not take the noise levels: its __call__ needs an argument levels"
            )
        if bound != DiffusionConfig.weight_bound and self.prediction != "image":
            raise JaxganError(f"weight_bound is for predicted images, not for {self.prediction}")
        if self.noise_multiplier and not self.clip_norm:
            raise JaxganError("noise_multiplier has no effect without clip_norm (1 is usual)")
        if self.clip_norm and self.precision == "bf16":
            raise JaxganError(
                "precision 'bf16' rounds sums of many images: with clip_norm, which bounds what "
                "one image adds, leave it out"
            )
        if self.eta and self.sampler != "ddim":
            raise JaxganError(
                f"eta is for the sampler ddim, not for {self.sampler}: make it 0, or take ddim"
            )
        if self.guidance != 1 and self.num_classes and not self.label_dropout:
            raise JaxganError("guidance needs a label_dropout above 0 in training (0.1 is usual)")


class DiffusionState(struct.PyTreeNode):
    """The denoiser as a pytree. Equal configs give equal treedefs."""

    denoiser: Learner
    config: DiffusionConfig = struct.field(pytree_node=False)
    ema: Any = None
    """The average of the parameters, if `config.ema_decay` is above 0."""
    hyperparameters: Mapping[str, jax.Array] = struct.field(default_factory=dict)
    """Values of fields of the config, as in GANState."""

    @property
    def step(self) -> jax.Array:
        """Number of training steps taken, int32 scalar."""
        return self.denoiser.step


class DiffusionMetrics(NamedTuple):
    """The metrics of a step: float32 scalars, means over the batch, at the old parameters."""

    loss: jax.Array
    """The mean squared error of a pixel, of the noise or of v."""
    low_loss: jax.Array
    """The loss at the lowest third of the noise levels. The means of the three over some steps show
    where the model errs; in one step they depend on how many images have such a level."""
    middle_loss: jax.Array
    high_loss: jax.Array
    zero_loss: jax.Array
    """The loss of predicting 0."""
    grad_norm: jax.Array
    """L2 norm of the gradient."""


@jit(static_argnames="config")
def create_state(rng: jax.Array, config: DiffusionConfig | None = None) -> DiffusionState:
    """Draws the initial parameters.

    Args:
      rng: a key, `jax.random.key(seed)`.
      config: the network, its optimizer and the noise; by default `DiffusionConfig()`.

    Returns:
      The DiffusionState at step 0.

    Raises:
      JaxganError: if the denoiser does not give predictions of `config.image_shape`.
    """
    check_rng(rng)
    config = config or DiffusionConfig()
    images, levels = jnp.zeros((2, *config.image_shape)), jnp.zeros(2)
    labels = jnp.zeros((2, config.num_classes)) if config.num_classes else None
    denoiser = create(*_static_parts(config), rng, images, levels=levels, labels=labels)
    state = DiffusionState(denoiser, config, start_average(denoiser.params, config.ema_decay))
    # Traces a forward pass, so that a network that does not fit is refused here.
    jax.eval_shape(lambda: _predict(state.denoiser, images, levels, labels, rng, train=True))
    return state


class PrivateDiffusionMetrics(NamedTuple):
    """The metrics of a step with `clip_norm`: what follows from noisy gradients alone."""

    grad_norm: jax.Array
    """L2 norm of the clipped gradient with its noise."""
    param_norm: jax.Array
    """L2 norm of the parameters."""


class StepKeys(NamedTuple):
    """The keys of a step, one for each use of random numbers."""

    level: jax.Array
    noise: jax.Array
    label: jax.Array
    """Which labels are hidden."""
    denoiser: jax.Array
    """Dropout in the denoiser."""


class _Batch(NamedTuple):
    """The inputs of a step."""

    images: jax.Array
    """Clean images `[B, H, W, C]` in [-1, 1]."""
    noise: jax.Array
    """Standard normal, `[B, H, W, C]`."""
    t: jax.Array
    """Noise levels, int32 `[B]` in [1, T]."""
    labels: jax.Array | None
    """One-hot `[B, num_classes]`, 0 for hidden labels; None if there are no classes."""
    rng: jax.Array
    """For dropout in the denoiser."""


@checks_inputs
@jit(static_argnames="axis_name")
@on_any_mesh
def train_step(
    state: DiffusionState, batch: Any, rng: jax.Array, *, axis_name: str | None = None
) -> tuple[DiffusionState, Any]:
    """Updates the denoiser once, on one batch of images. Pure.

    Each image gets a random noise level and noise. From the noisy image the denoiser predicts what
    `config.prediction` says. Adam lowers its squared error.

    Args:
      state: from `create_state` or an earlier step.
      batch: images `[B, H, W, C]`, uint8 or float in [-1, 1]; or a dict that holds them as "image"
        and, with `config.num_classes`, their labels as "label", int `[B]`. With `config.clip_norm`
        "included", bool `[B]`, says which images count.
      rng: a key. The step folds `state.step` into it, so every step may get the same key.
      axis_name: inside a `shard_map`, the mesh axis over which the batch is split.
        The state must be replicated. Losses, gradients and metrics are means over the whole batch.
        All numbers are drawn as in a run without shards, except dropout in a denoiser of your own.

    Returns:
      The next state, and the DiffusionMetrics of this step at the old parameters, or
      PrivateDiffusionMetrics with `config.clip_norm`.

    Raises:
      JaxganError: if rng is no key, images have another shape or scale, or labels are missing or
        out of range. For scale and range, only the first jax array of each shape and type is read:
        to read one is to wait for the device.
    """
    config, shards = current_config(state), Shards(axis_name)
    scale = schedules.value(config.lr_scale, state.step)
    if config.clip_norm:
        grads = _private_gradients(state, config, batch, rng, shards)
        denoiser = descend(state.denoiser, grads, scale, max_norm=config.max_grad_norm)
        norms = norm(grads), norm(state.denoiser.params)
        return _next_state(state, config, denoiser, shards), PrivateDiffusionMetrics(*norms)
    batch = _draw_batch(state, config, batch, rng, shards)

    def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Learner]]:
        learner = state.denoiser.replace(params=params)
        losses, zero_loss, denoiser = _losses(learner, batch, config)
        return losses.mean(), (losses, zero_loss, denoiser)

    (_, (losses, zero_loss, denoiser)), grads = shards.value_and_grad(loss)(state.denoiser.params)
    denoiser = descend(denoiser, grads, scale, max_norm=config.max_grad_norm)
    metrics = _measure(losses, zero_loss, batch.t, norm(grads), config, shards)
    return _next_state(state, config, denoiser, shards), metrics


def sample(state: DiffusionState, rng: jax.Array, n: int, labels: Any = None) -> jax.Array:
    """Draws n images: `[n, H, W, C]`, float32 in [-1, 1] if `config.bounded`.

    The sampler of the config draws them, with the average of the parameters if there is one.

    Args:
      state: from `create_state` or `train_step`.
      rng: a key.
      n: how many, 1 or more.
      labels: of a conditional model: the classes of the images, int `[n]`, or one for all. By
        default 0, 1, 2, ... in turn, so that all classes have equal shares.

    Raises:
      JaxganError: if labels are out of range, or if there are labels and no classes.
    """
    check_sampling(state, rng, n)
    latents = jax.random.normal(rng, (n, *state.config.image_shape))
    return generate(state, latents, jax.random.fold_in(rng, 0), labels)


def generate(
    state: DiffusionState, latents: jax.Array, rng: jax.Array | None = None, labels: Any = None
) -> jax.Array:
    """The images `[B, H, W, C]` that a sampler makes from noise, the latents `[B, H, W, C]`.

    `rng` is for samplers that add noise in each step. The default is a fixed key. `labels` are
    those of `sample`.

    Raises:
      JaxganError: if the latents have another shape, or like `sample`.
    """
    check_latents(latents, state.config.image_shape)
    labels = choose_labels(state.config.num_classes, latents.shape[0], labels)
    return _generate(state, latents, labels, jax.random.key(0) if rng is None else rng)


@jax.jit
def _generate(
    state: DiffusionState, latents: jax.Array, labels: jax.Array | None, rng: jax.Array
) -> jax.Array:
    config = state.config
    sampler_rng, denoiser_rng = jax.random.split(rng)
    denoise, shares = make_denoise(state, denoiser_rng, labels)
    steps = samplers.make_steps(config.sampler, shares, config.sample_steps, config.eta)
    return samplers.run(denoise, at_least_float32(latents), sampler_rng, steps)


def make_denoise(
    state: DiffusionState, rng: jax.Array, labels: jax.Array | None = None
) -> tuple[samplers.Denoise, np.ndarray]:
    """The estimates of clean images, as `jaxgan.samplers` needs them.

    Args:
      state: from `train_step`. The average of the parameters is used if there is one.
      rng: a key, for a denoiser that draws numbers.
      labels: of a conditional model: the classes of the images, int `[B]`. `config.guidance` acts
        on them. Without labels the model gets zeros, as for hidden labels in training.

    Returns:
      The function, whose estimates are in [-1, 1] if `config.bounded`; and the signal shares
      `[T + 1]` of the noise levels.

    Raises:
      JaxganError: if a conditional model gets no labels and `config.label_dropout` is 0.
    """
    config = current_config(state)
    denoiser = with_average(state.denoiser, state.ema)
    one_hot = None if labels is None else jax.nn.one_hot(labels, config.num_classes)
    if config.num_classes and labels is None and not state.config.label_dropout:
        raise JaxganError("this model needs labels: it was trained with a label_dropout of 0")

    def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
        t = jnp.broadcast_to(t, x.shape[:1])
        no_class = jnp.zeros((x.shape[0], config.num_classes)) if config.num_classes else None

        def estimate(one_hot: jax.Array | None) -> jax.Array:
            output, _ = _predict(denoiser, x, t / config.noise_levels, one_hot, rng, train=False)
            return _clean(output, x, t, config)

        clean = estimate(no_class if one_hot is None else one_hot)
        as_learned = not isinstance(config.guidance, jax.Array) and config.guidance == 1
        if one_hot is not None and not as_learned:
            without = estimate(no_class)
            clean = without + config.guidance * (clean - without)
        return jnp.clip(clean, -1, 1) if config.bounded else clean

    return denoise, _shares(config)


def _draw_batch(
    state: DiffusionState, config: DiffusionConfig, batch: Any, rng: jax.Array, shards: Shards
) -> _Batch:
    images = batch_images(batch, config.image_shape)
    labels = batch_labels(batch, config.num_classes)
    if config.noise_draws > 1:
        images = jnp.repeat(images, config.noise_draws, axis=0)
        labels = None if labels is None else jnp.repeat(labels, config.noise_draws)
    n = images.shape[0]
    keys = StepKeys(*jax.random.split(jax.random.fold_in(rng, state.step), len(StepKeys._fields)))

    def draw_levels(n: int) -> jax.Array:
        # One level in each of n equal parts: the loss of a batch varies less than with independent
        # levels (arXiv 2107.00630).
        order_rng, place_rng = jax.random.split(keys.level)
        order = jax.random.permutation(order_rng, n).astype(jnp.float32)
        places = (order + jax.random.uniform(place_rng, (n,))) / n
        return 1 + jnp.minimum(places * config.noise_levels, config.noise_levels - 1).astype(int)

    noise = shards.rows(lambda n: jax.random.normal(keys.noise, (n, *config.image_shape)), n)
    one_hot = None
    if labels is not None:
        hidden = shards.rows(
            lambda n: jax.random.bernoulli(keys.label, config.label_dropout, (n, 1)), n
        )
        one_hot = jnp.where(hidden, 0.0, jax.nn.one_hot(labels, config.num_classes))
    t = shards.rows(draw_levels, n)
    return _Batch(images, noise, t, one_hot, shards.fold_in(keys.denoiser))


def _private_gradients(
    state: DiffusionState, config: DiffusionConfig, batch: Any, rng: jax.Array, shards: Shards
) -> Any:
    """The gradients of the loss, clipped for each image over its noise draws, with noise."""
    drawn = _draw_batch(state, config, batch, rng, shards)
    if state.denoiser.collections:
        raise JaxganError(privacy.NO_STATISTICS.format("the denoiser"))
    n = drawn.t.shape[0] // config.noise_draws
    images, noise, t, labels = jax.tree.map(
        lambda x: x.reshape(n, config.noise_draws, *x.shape[1:]), drawn[:-1]
    )

    def loss(params: Any, example: Any) -> jax.Array:
        (images, noise, t, labels), i = example
        one = _Batch(images, noise, t, labels, jax.random.fold_in(drawn.rng, i))
        return _losses(state.denoiser.replace(params=params), one, config)[0].mean()

    return privacy.private_gradients(
        loss,
        state.denoiser.params,
        ((images, noise, t, labels), jnp.arange(n)),
        batch_included(batch),
        privacy.noise_rng(jax.random.fold_in(rng, state.step)),
        clip_norm=config.clip_norm,
        noise_multiplier=config.noise_multiplier,
        shards=shards,
    )


def _losses(
    denoiser: Learner, batch: _Batch, config: DiffusionConfig
) -> tuple[jax.Array, jax.Array, Learner]:
    """The squared errors, one for each image, `[B]`; their mean if the network predicted 0, a
    scalar; and the updated denoiser."""
    a, s = _signal_and_noise(batch.t, config)
    noisy = a * batch.images + s * batch.noise
    levels = batch.t / config.noise_levels
    output, denoiser = _predict(denoiser, noisy, levels, batch.labels, batch.rng, train=True)
    # Dividing an error of the image by s_t gives an error of v. At low levels s_t is almost 0. An
    # MLP does not copy an image exactly, so these levels would take most of the loss. So the weight
    # has a bound, much as in arXiv 2303.09556.
    bound = config.weight_bound if config.bounded else jnp.maximum(config.weight_bound, 400)
    target, weight = {
        "noise": (batch.noise, 1.0),
        "v": (a * batch.noise - s * batch.images, 1.0),
        "image": (batch.images, 1 / jnp.maximum(s, bound**-0.5)),
    }[config.prediction]
    errors = weight * (output - target)
    losses = jnp.square(errors).reshape(errors.shape[0], -1).mean(axis=1)
    return losses, jnp.square(weight * target).mean(), denoiser


def _predict(
    denoiser: Learner,
    noisy: jax.Array,
    levels: jax.Array,
    labels: jax.Array | None,
    rng: jax.Array,
    *,
    train: bool,
) -> tuple[jax.Array, Learner]:
    """The outputs of the network, float32 or wider, and the updated denoiser."""
    outputs, denoiser = forward(denoiser, noisy, rng, train=train, levels=levels, labels=labels)
    if outputs.shape != noisy.shape:
        raise JaxganError(
            f"the denoiser must give predictions of the shape of its images, {noisy.shape}, got "
            f"{outputs.shape}"
        )
    return at_least_float32(outputs), denoiser


def _clean(output: jax.Array, x: jax.Array, t: jax.Array, config: DiffusionConfig) -> jax.Array:
    """The estimate of the clean images by an output of the denoiser, `[B, H, W, C]`."""
    a, s = _signal_and_noise(t, config)
    if config.prediction == "image":
        return output
    return (x - s * output) / a if config.prediction == "noise" else a * x - s * output


def _signal_and_noise(t: jax.Array, config: DiffusionConfig) -> tuple[jax.Array, jax.Array]:
    """a_t and s_t of noise levels `[B]`, each `[B, 1, 1, 1]`."""
    shares = _shares(config)
    signal, noise = (jnp.asarray(np.sqrt(x), jnp.float32) for x in (shares, 1 - shares))
    return signal[t][:, None, None, None], noise[t][:, None, None, None]


def _shares(config: DiffusionConfig) -> np.ndarray:
    return samplers.signal_shares(config.noise_schedule, config.noise_levels)


def _next_state(
    state: DiffusionState, config: DiffusionConfig, denoiser: Learner, shards: Shards
) -> DiffusionState:
    denoiser = denoiser.replace(collections=shards.mean(denoiser.collections))
    ema = average(state.ema, denoiser.params, config.ema_decay, state.step)
    return state.replace(denoiser=denoiser, ema=ema)


@jax.named_scope("measure")
def _measure(
    losses: jax.Array,
    zero_loss: jax.Array,
    t: jax.Array,
    norm: jax.Array,
    config: DiffusionConfig,
    shards: Shards,
) -> DiffusionMetrics:
    third = (t - 1) * 3 // config.noise_levels  # 0, 1 or 2: t is in [1, T]
    low, middle, high = (3 * jnp.where(third == k, losses, 0).mean() for k in range(3))
    means = DiffusionMetrics(losses.mean(), low, middle, high, zero_loss, norm)
    return shards.mean(means)


@functools.cache
def _static_parts(config: DiffusionConfig) -> tuple[nn.Module, optax.GradientTransformation]:
    """Network and optimizer, built once for equal configs, as in `jaxgan/gan.py`."""
    dtype = jnp.bfloat16 if config.precision == "bf16" else None
    bounded = config.bounded and config.prediction == "image"
    denoiser = config.denoiser or MLPDenoiser(config.width, config.blocks, dtype, bounded)
    adam = optax.inject_hyperparams(optax.adam)
    own = config.optimizer
    return denoiser, own or adam(config.lr, config.b1, config.b2, config.adam_eps)


def _networks(config: DiffusionConfig) -> dict[str, Network]:
    more: dict[str, np.ndarray] = {"levels": np.zeros((), np.float32)}
    if config.num_classes:
        more["labels"] = np.zeros(config.num_classes, np.float32)
    return {"denoiser": Network(_static_parts(config)[0], config.image_shape, more)}


_PATIENCE = 2_000
"""Steps after which the network must have learned something."""
_LEARNED = 0.95
"""A network has learned nothing if its loss is at least this share of `zero_loss`."""


def _diagnose(history: History) -> Diagnosis:
    """Whether the network has learned anything."""
    members = np.size(history[-1]["loss"]) if history else 1
    caveat = None if history else "the run has no epoch yet"
    if history and history[-1]["step"] < _PATIENCE:
        caveat = f"the run is short: it is judged from {_PATIENCE:,} steps on"
    return Diagnosis([_not_falling(member_history(history, i)) for i in range(members)], caveat)


def _not_falling(history: History) -> list[Finding]:
    late = [
        row
        for row in history
        if row["step"] >= _PATIENCE and row["loss"] >= _LEARNED * row["zero_loss"]
    ]
    if not late:
        return []
    first = late[0]
    evidence = f"the loss is {first['loss']:.3g}; predicting 0 gives {first['zero_loss']:.3g}"
    remedies = ("a lower --lr", "--prediction image")
    epochs = tuple(int(row["epoch"]) for row in late)
    meaning = "The network has learned hardly more than to predict 0, so its samples are noise."
    return [Finding("loss not falling", epochs, evidence, remedies, meaning)]


MODEL = Model(
    name="diffusion",
    config=DiffusionConfig,
    fit_to=fit_to_images,
    create_state=create_state,
    train_step=train_step,
    sample=sample,
    networks=_networks,
    hyperparameters={
        name: (("denoiser", "opt_state", "hyperparams", leaf),)
        for name, leaf in (("lr", "learning_rate"), ("b1", "b1"), ("b2", "b2"))
    }
    | dict.fromkeys(
        ("lr_scale", "max_grad_norm", "ema_decay", "weight_bound", "label_dropout", "guidance"), ()
    ),
    curves=(
        Curve("loss", {"all noise levels": "loss"}),
        Curve(
            "loss by noise level",
            {"low": "low_loss", "middle": "middle_loss", "high": "high_loss"},
            scale="log",
        ),
    ),
    columns={
        "loss": Column("mean squared error", "falls"),
        "low_loss": Column("loss at the lowest third of levels", "falls"),
        "middle_loss": Column("at the middle third", "falls"),
        "high_loss": Column("at the highest third", "falls"),
        "zero_loss": Column("loss of predicting 0", "above loss"),
        "grad_norm": Column("norm of the gradient", "finite"),
        "param_norm": Column("norm of the parameters of a private run", "finite"),
    },
    diagnose=_diagnose,
    sampling=("sampler", "sample_steps", "eta", "guidance"),
    latent_shape=lambda config: config.image_shape,
    generate=generate,
    make_denoise=make_denoise,
    raw=without_average,
    private=Private(
        curves=(Curve("norm", {"noisy gradient": "grad_norm", "parameters": "param_norm"}),),
        settings={"clip_norm": 1.0},
    ),
)
"""All that `jaxgan.run` needs to know of a diffusion model."""
