"""The GAN as three pure functions: `create_state`, `train_step`, `sample`. Start reading here.

    config = GANConfig()
    state = create_state(rng, config)
    state, metrics = train_step(state, batch, rng)
    images = sample(state, rng, n)

A state is arrays and, as static parts, the config and what is built from it. Nothing here
loops, prints or touches a file; `jaxgan.loop` repeats the step and knows nothing of GANs.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training import train_state

from jaxgan import augmentation, losses, measures, penalties, schedules
from jaxgan.config import GANConfig
from jaxgan.errors import JaxganError
from jaxgan.measures import Metrics
from jaxgan.networks import MLPDiscriminator, MLPGenerator


class Player(train_state.TrainState):
    """One network and its optimizer: a flax TrainState that also carries the network's own state.

    `collections` holds the variables beside `params`, such as the running statistics of
    BatchNorm; it is empty for the MLPs. The learning rate is a leaf,
    `opt_state.hyperparams["learning_rate"]`, and so are the other numbers of Adam.
    """

    apply_fn: Any = struct.field(pytree_node=False)
    step: Any
    collections: Any = struct.field(default_factory=dict)


class GANState(struct.PyTreeNode):
    """The two players, who travel as a pair. Equal configs give equal tree structures."""

    generator: Player
    discriminator: Player
    config: GANConfig = struct.field(pytree_node=False)
    ema: Any = None
    """The average of the generator's parameters, if `config.ema_decay` asks for one."""

    @property
    def step(self) -> jax.Array:
        """Number of training steps taken, int32 scalar."""
        return self.discriminator.step


OPTIMIZER_NUMBERS = {
    f"{player}_{field}": ((player, leaf),)
    for player in ("generator", "discriminator")
    for field, leaf in (("lr", "learning_rate"), ("b1", "b1"), ("b2", "b2"))
} | {"adam_eps": (("generator", "eps"), ("discriminator", "eps"))}
"""The fields of GANConfig that are leaves of a state: for each the players and the leaf's name in
`opt_state.hyperparams`."""


@functools.partial(jax.jit, static_argnames="config")
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
    config = config or GANConfig()
    parts = _static_parts(config)
    generator_rng, discriminator_rng = jax.random.split(rng)
    latents = jnp.zeros((2 * config.pac, config.latent_dim))
    images = _packed(jnp.zeros((2 * config.pac, *config.image_shape)), config.pac)
    generator = _create_player(*parts.generator, generator_rng, latents)
    state = GANState(
        generator=generator,
        discriminator=_create_player(*parts.discriminator, discriminator_rng, images),
        config=config,
        ema=generator.params if config.ema_decay else None,
    )
    # One forward pass on shapes alone: networks that do not fit are refused here, not in training.
    jax.eval_shape(
        lambda: _logits(state.discriminator, _packed(generate(state, latents), config.pac))
    )
    return state


def with_numbers(state: GANState, **numbers: jax.Array) -> GANState:
    """The state with other numbers in its optimizers, by their names in OPTIMIZER_NUMBERS.

    Of a population's state each is `[members]`. The state's config keeps those it was made from.
    """
    for name, value in numbers.items():
        for player_name, leaf in OPTIMIZER_NUMBERS[name]:
            player = getattr(state, player_name)
            opt_state = player.opt_state
            if leaf not in opt_state.hyperparams:
                raise JaxganError(f"{state.config.optimizer} has no number {name!r}")
            value = jnp.asarray(value, opt_state.hyperparams[leaf].dtype)
            opt_state = opt_state._replace(hyperparams={**opt_state.hyperparams, leaf: value})
            state = state.replace(**{player_name: player.replace(opt_state=opt_state)})
    return state


@functools.partial(jax.jit, static_argnames="axis_name")
def train_step(
    state: GANState, batch: Any, rng: jax.Array, *, axis_name: str | None = None
) -> tuple[GANState, Metrics]:
    """Updates both players once, on one batch of real images and as many generated ones.

    The updates are simultaneous: both gradients are taken at the old parameters, from one set of
    latents and one forward pass of the discriminator over the fakes. With `updates="alternating"`
    the generator's is taken once more, from the same latents, against the new discriminator. With
    `disc_steps=k` only every k-th step moves the generator; each still takes a batch.

    Pure: give it to `jax.jit` (with `donate_argnums=0` if you like), `lax.scan`, `jax.vmap`,
    `jax.shard_map`. For data parallelism plain `jit` with the batch under a NamedSharding is
    enough; it needs no `axis_name`.

    Args:
      state: from `create_state` or an earlier step.
      batch: real images `[B, H, W, C]`, uint8 in 0..255 or float in [-1, 1]; or a dict that holds
        them as "image". Any B >= 1 (or >= `config.pac`).
      rng: a key. The step folds `state.step` into it, so the same key may be given every time.
      axis_name: only inside `shard_map` with the batch split and the state replicated: the name of
        the mesh axis, of AxisType.Auto. Losses, gradients and metrics are then means over the whole
        batch, and the shards draw the latents of the unsharded step; all else that is random
        (dropout masks, noise, the points of penalties) differs.

    Returns:
      The next state, and the Metrics of this step at the old parameters.

    Raises:
      JaxganError: if the images are not of `state.config.image_shape`.
    """
    config, step = state.config, state.step
    real = _scaled_images(batch, config)
    latent_rng, *own_rngs = jax.random.split(jax.random.fold_in(rng, step), 7)
    latents = _draw_latents(latent_rng, real.shape[0], config, axis_name)
    if axis_name is not None:
        shard = jax.lax.axis_index(axis_name)
        own_rngs = [jax.random.fold_in(own_rng, shard) for own_rng in own_rngs]
    generator_rng, *judge_rngs = own_rngs

    def play(generator_params, discriminator_params, discriminator):
        """Both players' losses, of which each will descend its own; and what was seen."""
        generator = state.generator.replace(params=generator_params)
        fake, generator = _forward(generator, latents, generator_rng)
        shown = {"real": real, "fake": fake, "rngs": judge_rngs}
        judge = functools.partial(_judge, step=step, config=config, axis_name=axis_name, **shown)
        verdict = judge(discriminator.replace(params=discriminator_params))
        gen_loss = verdict.gen_loss
        if config.unroll_steps:
            # From where the discriminator is: a constant, in which its own gradient has no part.
            gen_loss = judge(_unrolled(discriminator, judge, config, axis_name)).gen_loss
        return (gen_loss, verdict.disc_objective), (fake, _agreed(generator, axis_name), verdict)

    def play_against(discriminator):
        """Each player's gradient, as a function that computes it; and what was seen."""
        params = (state.generator.params, discriminator.params)
        game = functools.partial(play, discriminator=discriminator)
        # One forward pass, and a pull-back for each player: what each drops is never computed.
        (gen_loss, objective), pull_back, seen = jax.vjp(game, *params, has_aux=True)
        one, none = jnp.ones_like, jnp.zeros_like
        return (
            lambda: _pmean(pull_back((one(gen_loss), none(objective)))[0], axis_name),
            lambda: _pmean(pull_back((none(gen_loss), one(objective)))[1], axis_name),
            seen,
        )

    generator_grads, discriminator_grads, seen = play_against(state.discriminator)
    fake, generator, verdict = seen
    disc_grads = discriminator_grads()
    discriminator = _descended(verdict.discriminator, disc_grads, config, step, config.weight_clip)

    def move(generator):
        alternating = config.updates == "alternating"
        grads = play_against(discriminator)[0]() if alternating else generator_grads()
        return _descended(generator, grads, config, step), optax.tree.norm(grads)

    generator, gen_grad_norm = _every(config.disc_steps, step, move, generator)
    gradient_norms = (gen_grad_norm, optax.tree.norm(disc_grads))
    metrics = _measured(state, verdict, real, fake, gradient_norms, axis_name)
    ema = _averaged(state, generator.params)
    return state.replace(generator=generator, discriminator=discriminator, ema=ema), metrics


@functools.partial(jax.jit, static_argnames="n")
def sample(state: GANState, rng: jax.Array, n: int) -> jax.Array:
    """Draws n images from the generator: `[n, H, W, C]`, float32 in [-1, 1].

    From the average of its parameters if `config.ema_decay` asks for one; of
    `state.replace(ema=None)` from the parameters themselves.
    """
    return generate(state, _draw_latents(rng, n, state.config))


@jax.jit
def generate(state: GANState, latents: jax.Array) -> jax.Array:
    """The generator's images `[B, H, W, C]`, in [-1, 1], for given latents `[B, latent_dim]`."""
    generator = state.generator
    if state.ema is not None:
        generator = generator.replace(params=state.ema)
    images, _ = _forward(generator, latents)
    if images.shape[1:] != state.config.image_shape:
        raise JaxganError(
            f"the generator makes images of shape {images.shape[1:]}, "
            f"but the config's image_shape is {state.config.image_shape}"
        )
    return _at_least_float32(images)


class _StaticParts(NamedTuple):
    generator: tuple[nn.Module, optax.GradientTransformation]
    discriminator: tuple[nn.Module, optax.GradientTransformation]


@functools.cache
def _static_parts(config: GANConfig) -> _StaticParts:
    """What a config stands for, built once: TrainStates whose optimizers were built twice from
    equal settings have unequal tree structures, and jit would trace each anew."""
    dtype = jnp.bfloat16 if config.precision == "bf16" else None
    generator = config.generator or MLPGenerator(
        config.generator_widths, config.image_shape, dtype, config.bounded
    )
    discriminator = config.discriminator or MLPDiscriminator(
        config.discriminator_widths, config.discriminator_dropout, dtype, config.spectral_norm
    )
    return _StaticParts(
        generator=(generator, _optimizer(config, "generator")),
        discriminator=(discriminator, _optimizer(config, "discriminator")),
    )


def _optimizer(config: GANConfig, player: str) -> optax.GradientTransformation:
    lr = getattr(config, f"{player}_lr")
    if config.optimizer == "sgd":
        return optax.inject_hyperparams(optax.sgd)(lr)
    moments = (getattr(config, f"{player}_b1"), getattr(config, f"{player}_b2"))
    # Unrolling differentiates Adam's root, which is not finite where a gradient is exactly zero.
    eps_root = 1e-16 if config.unroll_steps and player == "discriminator" else 0.0
    adam = optax.inject_hyperparams(optax.adam, static_args=("eps_root",))
    return adam(lr, *moments, config.adam_eps, eps_root=eps_root)


def _create_player(module, tx, rng, inputs) -> Player:
    variables = dict(module.init(rng, inputs, **_mode(module, train=False)))
    params = variables.pop("params", {})
    player = Player.create(apply_fn=module.apply, params=params, tx=tx, collections=variables)
    # Of the type that comes back from a checkpoint: a Python 0, weakly typed, would cost a trace.
    return player.replace(step=jnp.zeros((), jnp.int32))


def _forward(player: Player, inputs, rng=None) -> tuple[jax.Array, Player]:
    """The network's outputs and the player with its collections brought up to date.

    With an rng the pass is one of training: dropout is at work, statistics are updated.
    """
    train = rng is not None
    outputs, updates = player.apply_fn(
        {"params": player.params, **player.collections},
        inputs,
        rngs={"dropout": rng} if train else None,
        mutable=list(player.collections) if train else [],
        **_mode(_module(player), train=train),
    )
    return outputs, player.replace(collections={**player.collections, **updates})


def _module(player: Player) -> nn.Module:
    return player.apply_fn.__self__


def _mode(module: nn.Module, *, train: bool) -> dict[str, bool]:
    """The argument `train`, for a module that takes one."""
    takes_train = "train" in inspect.signature(type(module).__call__).parameters
    return {"train": train} if takes_train else {}


def _logits(discriminator: Player, images, rng=None) -> tuple[jax.Array, Player]:
    """One logit per image, `[B]`."""
    logits, discriminator = _forward(discriminator, images, rng)
    batch_size = images.shape[0]
    if logits.shape not in ((batch_size,), (batch_size, 1)):
        raise JaxganError(
            "the discriminator must give one logit per image, [B] or [B, 1]: "
            f"for {batch_size} images it gave {logits.shape}"
        )
    # Losses and metrics want float32, also of a network that works in bfloat16.
    return _at_least_float32(logits.reshape(batch_size)), discriminator


class _Verdict(NamedTuple):
    """What the discriminator says of a batch, and what each player makes of that."""

    gen_loss: jax.Array
    disc_loss: jax.Array
    penalty: jax.Array
    real_logits: jax.Array
    fake_logits: jax.Array
    discriminator: Player
    """With its collections brought up to date."""

    @property
    def disc_objective(self) -> jax.Array:
        """What the discriminator descends."""
        return self.disc_loss + self.penalty


def _judge(discriminator: Player, step, real, fake, rngs, config: GANConfig, axis_name) -> _Verdict:
    """Shows the discriminator real and generated images, `[B, H, W, C]` each.

    `step` is that of the schedules.
    """
    fake_rng, real_rng, noise_rng, penalty_rng, augment_rng = rngs
    if not schedules.is_zero(config.augment):
        probability = schedules.value(config.augment, step)
        real_augment_rng, fake_augment_rng = jax.random.split(augment_rng)
        real = augmentation.augment(real, probability, real_augment_rng)
        fake = augmentation.augment(fake, probability, fake_augment_rng)
    if not schedules.is_zero(config.instance_noise):
        deviation = schedules.value(config.instance_noise, step)
        real_noise, fake_noise = jax.random.normal(noise_rng, (2, *real.shape))
        real, fake = real + deviation * real_noise, fake + deviation * fake_noise
    real, fake = _packed(real, config.pac), _packed(fake, config.pac)

    def critic(image):
        # As it is after training, without dropout and with its statistics at rest: those of one
        # image alone would mean nothing.
        return _logits(discriminator, image[None])[0][0]

    penalty = penalties.weighted_sum(
        config, step, critic, discriminator.params, real, fake, penalty_rng
    )
    fake_logits, discriminator = _logits(discriminator, fake, fake_rng)
    real_logits, discriminator = _logits(discriminator, real, real_rng)
    smoothing = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
    game = losses.LOSSES[config.loss](real_logits, fake_logits, **smoothing)
    means = (game.generator.mean(), game.discriminator.mean(), penalty)
    # The mean over shards belongs inside the differentiated function: shard_map already sums the
    # gradients of replicated parameters, and a mean of those alone would be too large.
    gen_loss, disc_loss, penalty = _pmean(means, axis_name)
    discriminator = _agreed(discriminator, axis_name)
    return _Verdict(gen_loss, disc_loss, penalty, real_logits, fake_logits, discriminator)


def _unrolled(discriminator: Player, judge, config: GANConfig, axis_name) -> Player:
    """The discriminator after `config.unroll_steps` more updates, differentiable through them."""

    def update(discriminator, _):
        step = discriminator.step

        def objective(params):
            return judge(discriminator.replace(params=params), step=step).disc_objective

        grads = _pmean(jax.grad(objective)(discriminator.params), axis_name)
        return _descended(discriminator, grads, config, step, config.weight_clip), None

    return jax.lax.scan(update, discriminator, length=config.unroll_steps)[0]


def _descended(player: Player, grads, config: GANConfig, step, clip: float = 0.0) -> Player:
    """The player after one update; with `clip` its parameters are kept within plus and minus it.

    `step` is that of the training: a player that sits steps out has its own count.
    """
    updates, opt_state = player.tx.update(grads, player.opt_state, player.params)
    scale = schedules.value(config.lr_scale, step)
    params = jax.tree.map(lambda p, u: (p + scale * u).astype(p.dtype), player.params, updates)
    if clip:
        params = jax.tree.map(lambda p: jnp.clip(p, -clip, clip), params)
    return player.replace(step=player.step + 1, params=params, opt_state=opt_state)


def _every(k: int, step, move, player: Player) -> tuple[Player, jax.Array]:
    """The player, moved in every k-th step, and the norm of its gradient.

    Of the steps in which it rests the norm is 0, and of the others k times what it is: so its mean
    over steps is that over the moves.
    """
    if k == 1:
        return move(player)
    _, norm = jax.eval_shape(move, player)
    resting = (player, jnp.zeros(norm.shape, norm.dtype))
    player, norm = jax.lax.cond(step % k == k - 1, move, lambda _: resting, player)
    return player, k * norm


def _averaged(state: GANState, params) -> Any:
    """The average of the generator's parameters over the steps, or None if none is kept."""
    if not state.config.ema_decay:
        return None
    # At the start a shorter one, or the untrained parameters would stay in it for long.
    decay = jnp.minimum(state.config.ema_decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda mean, p: (p + decay * (mean - p)).astype(p.dtype), state.ema, params)


def _measured(state: GANState, verdict, real, fake, gradient_norms, axis_name) -> Metrics:
    config = state.config
    real_logits, fake_logits = verdict.real_logits, verdict.fake_logits
    real_mean, fake_mean = _pmean((real_logits.mean(), fake_logits.mean()), axis_name)
    boundary = losses.boundary(config.loss, real_mean, fake_mean, config.label_smoothing)
    deviations = jnp.stack([real_logits, fake_logits]) - (real_mean + fake_mean) / 2
    logit_spread = jnp.sqrt(_pmean(jnp.square(deviations).mean(), axis_name))
    distances = _pmean((measures.distance(real), measures.distance(fake)), axis_name)
    metrics = Metrics(
        gen_loss=verdict.gen_loss,
        disc_loss=verdict.disc_loss,
        real_score=nn.sigmoid(real_logits).mean(),
        fake_score=nn.sigmoid(fake_logits).mean(),
        penalty=verdict.penalty,
        real_accuracy=measures.share(real_logits > boundary),
        fake_accuracy=measures.share(fake_logits < boundary),
        diversity=measures.diversity(*distances),
        logit_spread=logit_spread,
        gen_grad_norm=gradient_norms[0],
        disc_grad_norm=gradient_norms[1],
        gen_param_norm=optax.tree.norm(state.generator.params),
        disc_param_norm=optax.tree.norm(state.discriminator.params),
        gen_loss_square=jnp.square(verdict.gen_loss),
        disc_loss_square=jnp.square(verdict.disc_loss),
    )
    return _pmean(metrics, axis_name)


def _packed(images: jax.Array, pac: int) -> jax.Array:
    """`[B, H, W, C]` -> `[B // pac, H, W, pac * C]`: images to be judged together."""
    if pac == 1:
        return images
    n, *size, channels = images.shape
    if n < pac:
        raise JaxganError(f"pac={pac} needs at least {pac} images in a batch, got {n}")
    groups = images[: n // pac * pac].reshape(n // pac, pac, *size, channels)
    return jnp.moveaxis(groups, 1, -2).reshape(n // pac, *size, pac * channels)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _scaled_images(batch, config: GANConfig) -> jax.Array:
    """The batch's images `[B, H, W, C]` in [-1, 1]."""
    images = jnp.asarray(batch["image"] if isinstance(batch, Mapping) else batch)
    if images.ndim != 4 or images.shape[1:] != config.image_shape or not images.shape[0]:
        raise JaxganError(
            f"a batch must be [B, {', '.join(map(str, config.image_shape))}] with B >= 1, "
            f"got {list(images.shape)}"
        )
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) - 127.5) / 127.5
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise JaxganError(f"images must be uint8 or float in [-1, 1], got {images.dtype}")
    return images


def _draw_latents(rng, n: int, config: GANConfig, axis_name: str | None = None) -> jax.Array:
    """n latents from N(0, I); under an axis, this shard's n of those of the whole batch."""
    if axis_name is None:
        return jax.random.normal(rng, (n, config.latent_dim))
    shards, shard = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    latents = jax.random.normal(rng, (shards * n, config.latent_dim))
    return jax.lax.dynamic_slice_in_dim(latents, shard * n, n)


def _agreed(player: Player, axis_name: str | None) -> Player:
    """The player with the means of its collections over the shards."""
    return player.replace(collections=_pmean(player.collections, axis_name))


def _pmean(tree, axis_name: str | None):
    def mean(x):
        return jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return tree if axis_name is None else jax.tree.map(mean, tree)
