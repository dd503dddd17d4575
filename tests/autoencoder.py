"""A second Model, of another kind than a GAN: a variational autoencoder (arXiv 1312.6114).

It shows what `jaxgan.run` needs of a model. `run/test_second_model.py` trains it.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxgan import Model, learner
from jaxgan.data.pixels import to_float
from jaxgan.model import Curve


@dataclasses.dataclass(frozen=True)
class Config:
    image_shape: tuple[int, int, int] = (8, 8, 1)
    latent_dim: int = 4
    learning_rate: float = 1e-3

    def __post_init__(self):
        object.__setattr__(self, "image_shape", tuple(self.image_shape))


class Autoencoder(nn.Module):
    pixels: int
    latent_dim: int

    def setup(self):
        self.encoder = nn.Dense(2 * self.latent_dim)
        self.decoder = nn.Dense(self.pixels)

    def __call__(self, pixels, noise):
        mean, log_deviation = jnp.split(self.encoder(pixels), 2, axis=1)
        prior = jnp.exp(2 * log_deviation) + jnp.square(mean) - 1 - 2 * log_deviation
        return self.decode(mean + jnp.exp(log_deviation) * noise), 0.5 * prior.sum(axis=1)

    def decode(self, latents):
        return nn.tanh(self.decoder(latents))


class State(struct.PyTreeNode):
    autoencoder: learner.Learner
    config: Config = struct.field(pytree_node=False)

    @property
    def step(self):
        return self.autoencoder.step


class Losses(NamedTuple):
    reconstruction: jax.Array
    prior: jax.Array


@functools.cache
def parts(config):
    module = Autoencoder(math.prod(config.image_shape), config.latent_dim)
    return module, optax.inject_hyperparams(optax.adam)(config.learning_rate)


@functools.partial(jax.jit, static_argnames="config")
def create_state(rng, config):
    module, tx = parts(config)
    params = module.init(rng, jnp.zeros((1, module.pixels)), jnp.zeros((1, config.latent_dim)))
    created = learner.Learner.create(apply_fn=module.apply, params=params["params"], tx=tx)
    return State(created.replace(step=jnp.zeros((), jnp.int32)), config)


@jax.jit
def train_step(state, batch, rng):
    pixels = to_float(batch["image"]).reshape(len(batch["image"]), -1)
    shape = (len(pixels), state.config.latent_dim)
    noise = jax.random.normal(jax.random.fold_in(rng, state.step), shape)

    def objective(params):
        decoded, prior = state.autoencoder.apply_fn({"params": params}, pixels, noise)
        losses = Losses(jnp.square(decoded - pixels).sum(axis=1).mean(), prior.mean())
        return sum(losses), losses

    grads, losses = jax.grad(objective, has_aux=True)(state.autoencoder.params)
    return state.replace(autoencoder=learner.descend(state.autoencoder, grads)), losses


@functools.partial(jax.jit, static_argnames="n")
def sample(state, rng, n):
    latents = jax.random.normal(rng, (n, state.config.latent_dim))
    variables = {"params": state.autoencoder.params}
    pixels = state.autoencoder.apply_fn(variables, latents, method="decode")
    return pixels.reshape(n, *state.config.image_shape)


MODEL = Model(
    name="autoencoder",
    config=Config,
    fit_to=lambda config, dataset: dataclasses.replace(
        config, image_shape=dataset.images.shape[1:]
    ),
    create_state=create_state,
    train_step=train_step,
    sample=sample,
    networks=lambda config: {},
    hyperparameters={
        "learning_rate": (("autoencoder", "opt_state", "hyperparams", "learning_rate"),)
    },
    curves=(Curve("loss", {"reconstruction": "reconstruction", "prior": "prior"}),),
)
