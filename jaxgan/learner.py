"""One network with its optimizer: `create`, `forward`, `descend`, `average`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training import train_state


class Learner(train_state.TrainState):
    """A flax TrainState that also carries the variables of its network that are no parameters.

    `collections` holds these variables, such as the running statistics of BatchNorm. It is empty
    for the MLPs without spectral norm. `step` counts the updates.
    """

    apply_fn: Any = struct.field(pytree_node=False)
    step: Any
    collections: Any = struct.field(default_factory=dict)


def create(
    module: nn.Module, tx: optax.GradientTransformation, rng: jax.Array, inputs: jax.Array
) -> Learner:
    """Draws the initial parameters of a network.

    Args:
      module: the network.
      tx: its optimizer.
      rng: a key.
      inputs: an example of its inputs, `[B, ...]`.
    """
    variables = dict(module.init(rng, inputs, **_mode(module, train=False)))
    params = variables.pop("params", {})
    learner = Learner.create(
        apply_fn=_make_apply(module), params=params, tx=tx, collections=variables
    )
    # A Python 0 is weakly typed. A checkpoint restores int32, and the step would be traced again.
    return learner.replace(step=jnp.zeros((), jnp.int32))


def forward(
    learner: Learner, inputs: jax.Array, rng: jax.Array | None = None
) -> tuple[jax.Array, Learner]:
    """Runs the network. Returns its outputs, and the learner with updated collections.

    With an rng this is a training pass: dropout is active and running statistics are updated.
    """
    train = rng is not None
    outputs, updates = learner.apply_fn(
        {"params": learner.params, **learner.collections},
        inputs,
        train=train,
        rngs={"dropout": rng} if train else None,
        mutable=list(learner.collections) if train else [],
    )
    return outputs, learner.replace(collections={**learner.collections, **updates})


def descend(learner: Learner, grads: Any, scale: Any = 1.0, clip: float = 0.0) -> Learner:
    """Makes one update.

    Args:
      learner: the network and its optimizer.
      grads: gradients of its objective, a tree like its parameters.
      scale: a factor for the update.
      clip: keeps each parameter within plus and minus this; 0 does not clip.
    """
    # optax mixes types (its Adam takes a float to an integer power), strict promotion refuses it.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = learner.tx.update(grads, learner.opt_state, learner.params)
    params = jax.tree.map(lambda p, u: (p + scale * u).astype(p.dtype), learner.params, updates)
    if clip:
        params = jax.tree.map(lambda p: jnp.clip(p, -clip, clip), params)
    return learner.replace(step=learner.step + 1, params=params, opt_state=opt_state)


def average(mean: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Updates an exponential moving average of parameters (arXiv 1806.04498).

    The decay is min(decay, (1 + step) / (10 + step)): a constant decay would keep the initial
    parameters in the average for a long time.
    """
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda m, p: (p + decay_now * (m - p)).astype(p.dtype), mean, params)


@functools.cache
def _make_apply(module: nn.Module) -> Callable[..., Any]:
    """`module.apply` with an argument `train`, which it passes to modules that accept it.

    Equal modules get the same function. Their learners then have equal tree structures, also
    after `copy.deepcopy`.
    """

    def apply(variables: Any, *args: Any, train: bool = False, **kwargs: Any) -> Any:
        return module.apply(variables, *args, **_mode(module, train=train), **kwargs)

    return apply


def _mode(module: nn.Module, *, train: bool) -> dict[str, Any]:
    takes_train = "train" in inspect.signature(type(module).__call__).parameters
    return {"train": train} if takes_train else {}
