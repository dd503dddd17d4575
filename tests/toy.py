"""A model of a few numbers: quick to compile, for tests of what is built around a step.

It learns the mean image, with noise in each step. `jaxgan.run` has to take it as it takes a GAN.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgan import Model
from jaxgan.config import check_field
from jaxgan.data.pixels import to_float
from jaxgan.model import Curve, Network


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    image_shape: tuple[int, int, int] = (6, 5, 1)
    lr: float = 0.1
    noise: float = 0.1

    def __post_init__(self):
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        check_field(self.lr > 0, self, "lr", "above 0")


class ToyState(struct.PyTreeNode):
    step: jax.Array
    mean: jax.Array
    lr: jax.Array
    config: ToyConfig = struct.field(pytree_node=False)


class ToyMetrics(NamedTuple):
    loss: jax.Array
    size: jax.Array


@jax.jit
def train_step(state: ToyState, batch: Any, rng: jax.Array) -> tuple[ToyState, ToyMetrics]:
    images = to_float(batch["image"] if isinstance(batch, dict) else batch)

    def loss(mean: jax.Array) -> jax.Array:
        return jnp.square(images - mean[None]).mean()

    value, gradient = jax.value_and_grad(loss)(state.mean)
    noise = jax.random.normal(jax.random.fold_in(rng, state.step), state.mean.shape)
    update = state.lr * (images[0].size * gradient + state.config.noise * noise)
    after = state.replace(step=state.step + 1, mean=state.mean - update)
    return after, ToyMetrics(value, jnp.float32(len(images)))


def create_state(rng: jax.Array, config: ToyConfig) -> ToyState:
    mean = jax.random.normal(rng, config.image_shape)
    return ToyState(jnp.int32(0), mean, jnp.float32(config.lr), config)


def sample(state: ToyState, rng: jax.Array, n: int) -> jax.Array:
    return jnp.tanh(state.mean[None] + jax.random.normal(rng, (n, *state.config.image_shape)))


MODEL = Model(
    name="toy",
    config=ToyConfig,
    fit_to=lambda config, dataset: dataclasses.replace(
        config, image_shape=dataset.images.shape[1:]
    ),
    create_state=create_state,
    train_step=train_step,
    sample=sample,
    networks=lambda config: {"toy": Network(nn.Dense(1), config.image_shape)},
    hyperparameters={"lr": (("lr",),)},
    curves=(Curve("loss", {"of the mean image": "loss"}),),
    equilibrium_distance=lambda config, row: np.asarray(row["loss"]),
)
