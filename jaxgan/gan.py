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

from jaxgan import losses
from jaxgan.config import GANConfig
from jaxgan.errors import JaxganError
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

    @property
    def step(self) -> jax.Array:
        """Number of training steps taken, int32 scalar."""
        return self.generator.step


OPTIMIZER_NUMBERS = {
    f"{player}_{field}": ((player, leaf),)
    for player in ("generator", "discriminator")
    for field, leaf in (("lr", "learning_rate"), ("b1", "b1"), ("b2", "b2"))
} | {"adam_eps": (("generator", "eps"), ("discriminator", "eps"))}
"""The fields of GANConfig that are leaves of a state: for each the players and the leaf's name in
`opt_state.hyperparams`."""


class Metrics(NamedTuple):
    """What a step reports: float32 scalars, means over the batch."""

    gen_loss: jax.Array
    """Loss of the generator, in nats."""
    disc_loss: jax.Array
    """Loss of the discriminator, in nats: on real plus on generated images."""
    real_score: jax.Array
    """Mean sigmoid of the logits on real images, in [0, 1]."""
    fake_score: jax.Array
    """Mean sigmoid of the logits on generated images, in [0, 1]."""


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
    latents = jnp.zeros((2, config.latent_dim))
    images = jnp.zeros((2, *config.image_shape))
    state = GANState(
        generator=_create_player(*parts.generator, generator_rng, latents),
        discriminator=_create_player(*parts.discriminator, discriminator_rng, images),
        config=config,
    )
    # One forward pass on shapes alone: networks that do not fit are refused here, not in training.
    jax.eval_shape(lambda: _logits(state.discriminator, generate(state, latents)))
    return state


def with_numbers(state: GANState, **numbers: jax.Array) -> GANState:
    """The state with other numbers in its optimizers, by their names in OPTIMIZER_NUMBERS.

    Of a population's state each is `[members]`. The state's config keeps those it was made from.
    """
    for name, value in numbers.items():
        for player_name, leaf in OPTIMIZER_NUMBERS[name]:
            player = getattr(state, player_name)
            opt_state = player.opt_state
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
    latents and one forward pass of the discriminator over the fakes. (Many codes alternate: they
    update the discriminator first and show the generator the new one.)

    Pure: give it to `jax.jit` (with `donate_argnums=0` if you like), `lax.scan`, `jax.vmap`,
    `jax.shard_map`. For data parallelism plain `jit` with the batch under a NamedSharding is
    enough; it needs no `axis_name`.

    Args:
      state: from `create_state` or an earlier step.
      batch: real images `[B, H, W, C]`, uint8 in 0..255 or float in [-1, 1]; or a dict that holds
        them as "image". Any B >= 1.
      rng: a key. The step folds `state.step` into it, so the same key may be given every time.
      axis_name: only inside `shard_map` with the batch split and the state replicated: the name of
        the mesh axis, of AxisType.Auto. Losses, gradients and metrics are then means over the whole
        batch, and the shards draw the latents of the unsharded step; dropout masks differ.

    Returns:
      The next state, and the Metrics of this step at the old parameters.

    Raises:
      JaxganError: if the images are not of `state.config.image_shape`.
    """
    real = _scaled_images(batch, state.config)
    rng = jax.random.fold_in(rng, state.step)
    latent_rng, *dropout_rngs = jax.random.split(rng, 4)
    latents = _draw_latents(latent_rng, real.shape[0], state.config, axis_name)
    if axis_name is not None:
        shard = jax.lax.axis_index(axis_name)
        dropout_rngs = [jax.random.fold_in(rng, shard) for rng in dropout_rngs]
    generator_rng, fake_rng, real_rng = dropout_rngs

    def play(generator_params, discriminator_params):
        """Both players' losses at the same parameters; each will descend its own."""
        generator = state.generator.replace(params=generator_params)
        discriminator = state.discriminator.replace(params=discriminator_params)
        fake, generator = _forward(generator, latents, generator_rng)
        fake, gate = _gated(fake)
        fake_logits, discriminator = _logits(discriminator, fake, fake_rng)
        real_logits, discriminator = _logits(discriminator, real, real_rng)
        gen_losses, disc_losses = losses.non_saturating(real_logits, fake_logits)
        metrics = Metrics(
            gen_loss=gen_losses.mean(),
            disc_loss=disc_losses.mean(),
            real_score=nn.sigmoid(real_logits).mean(),
            fake_score=nn.sigmoid(fake_logits).mean(),
        )
        collections = (generator.collections, discriminator.collections)
        # The mean over shards belongs inside the differentiated function: shard_map already sums
        # the gradients of replicated parameters, and a mean of those alone would be too large.
        metrics, collections = _pmean((metrics, collections), axis_name)
        losses_of_both = (metrics.gen_loss, metrics.disc_loss)
        return (*losses_of_both, fake_logits, gate), (metrics, collections, real_logits)

    players = (state.generator, state.discriminator)
    outputs, pull_back, aux = jax.vjp(play, *(player.params for player in players), has_aux=True)
    _, _, fake_logits, gate = outputs
    metrics, collections, real_logits = aux
    if axis_name is None and type(_module(state.discriminator)) is MLPDiscriminator:
        grads = pull_back((0.0, 1.0, *_one_pass_for_both(real_logits, fake_logits)))
    else:
        # Two pull-backs through the one forward pass; compiled, what each drops is never computed.
        unchanged = (jnp.zeros_like(fake_logits), jnp.ones_like(gate))
        generator_grads, _ = pull_back((1.0, 0.0, *unchanged))
        _, discriminator_grads = pull_back((0.0, 1.0, *unchanged))
        grads = _pmean((generator_grads, discriminator_grads), axis_name)
    generator, discriminator = (
        player.apply_gradients(grads=grad, collections=collection)
        for player, grad, collection in zip(players, grads, collections, strict=True)
    )
    return state.replace(generator=generator, discriminator=discriminator), metrics


@functools.partial(jax.jit, static_argnames="n")
def sample(state: GANState, rng: jax.Array, n: int) -> jax.Array:
    """Draws n images from the generator: `[n, H, W, C]`, float32 in [-1, 1]."""
    return generate(state, _draw_latents(rng, n, state.config))


@jax.jit
def generate(state: GANState, latents: jax.Array) -> jax.Array:
    """The generator's images `[B, H, W, C]`, in [-1, 1], for given latents `[B, latent_dim]`."""
    images, _ = _forward(state.generator, latents)
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
    adam = optax.inject_hyperparams(optax.adam, static_args=("eps_root",))
    dtype = jnp.bfloat16 if config.precision == "bf16" else None
    return _StaticParts(
        generator=(
            config.generator or MLPGenerator(config.generator_widths, config.image_shape, dtype),
            adam(config.generator_lr, config.generator_b1, config.generator_b2, config.adam_eps),
        ),
        discriminator=(
            config.discriminator
            or MLPDiscriminator(config.discriminator_widths, config.discriminator_dropout, dtype),
            adam(
                config.discriminator_lr,
                config.discriminator_b1,
                config.discriminator_b2,
                config.adam_eps,
            ),
        ),
    )


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


@jax.custom_vjp
def _gated(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The images, and a gate `[B]`: its cotangents are factors of the images' gradients."""
    return images, jnp.zeros(images.shape[0])


def _gated_backward(_, cotangents):
    grads, factors = cotangents
    return ((grads * factors.reshape(-1, 1, 1, 1)).astype(grads.dtype),)


_gated.defvjp(lambda images: (_gated(images), None), _gated_backward)


def _one_pass_for_both(real_logits, fake_logits) -> tuple[jax.Array, jax.Array]:
    """Cotangents of `fake_logits` and of the gate, with which one pass back serves both players.

    A discriminator that sees each image on its own sends the two losses back to a fake along the
    same way: their gradients there differ by a factor, that of their gradients at its logit. So
    the discriminator's goes all the way, and the gate makes it the generator's. It saves a second
    pass through the discriminator.
    """

    def grad(player: str) -> jax.Array:
        def loss(fake_logits):
            return getattr(losses.non_saturating(real_logits, fake_logits), player).mean()

        return jax.grad(loss)(fake_logits)

    generator, discriminator = grad("generator"), grad("discriminator")
    # A sure discriminator has next to no gradient, and the way back would lose the generator's with
    # it. A little more does not show beside the rounding of the other images' gradients.
    enough = jnp.where(jnp.abs(discriminator) < _LEAST_GRADIENT, _LEAST_GRADIENT, discriminator)
    return enough - discriminator, generator / enough


_LEAST_GRADIENT = 1e-20
"""Far below the resolution of float32 beside 1 / B, and far above its smallest number."""


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


def _pmean(tree, axis_name: str | None):
    def mean(x):
        return jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return tree if axis_name is None else jax.tree.map(mean, tree)
