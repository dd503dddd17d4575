"""One network with its optimizer: `create`, `forward`, `descend`, `average`."""

import functools
import inspect
from collections.abc import Callable, Mapping
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
    module: nn.Module,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    inputs: jax.Array,
    **more: jax.Array | None,
) -> Learner:
    """Draws the initial parameters of a network.

    Args:
      module: the network.
      tx: its optimizer.
      rng: a key.
      inputs: an example of its inputs, `[B, ...]`.
      more: examples of further inputs by their names, such as labels; None is left out.
    """
    init = functools.partial(module.init, rng, inputs, **_given(more))
    variables = dict(_run(init, module, train=False))
    params = variables.pop("params", {})
    return Learner(
        # A Python 0 is weakly typed. A checkpoint restores int32, and the step would be traced
        # again.
        step=jnp.zeros((), jnp.int32),
        apply_fn=_make_apply(module),
        params=params,
        tx=tx,
        # Moments are float32: in bfloat16 Adam's decay of 0.999 would round to 1.
        opt_state=tx.init(jax.tree.map(at_least_float32, params)),
        collections=variables,
    )


def forward(
    learner: Learner, inputs: jax.Array, rng: jax.Array, *, train: bool, **more: jax.Array | None
) -> tuple[jax.Array, Learner]:
    """Runs the network. Returns its outputs, and the learner with updated collections.

    In a training pass dropout is active and running statistics are updated. The rng is for dropout,
    and for all other random numbers that the network draws. `more` are further inputs by their
    names, such as labels; None is left out.
    """
    outputs, updates = learner.apply_fn(
        {"params": learner.params, **learner.collections},
        inputs,
        **_given(more),
        train=train,
        # Flax takes the stream "params" for each stream that is not given.
        rngs={"dropout": rng, "params": jax.random.fold_in(rng, 0)},
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
    grads = jax.tree.map(at_least_float32, grads)
    # optax mixes types (its Adam takes a float to an integer power), strict promotion refuses it.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = learner.tx.update(grads, learner.opt_state, learner.params)

    def move(param: jax.Array, update: jax.Array) -> jax.Array:
        moved = at_least_float32(param) + scale * at_least_float32(update)
        return moved.astype(param.dtype)

    params = jax.tree.map(move, learner.params, updates)
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


def at_least_float32(x: jax.Array) -> jax.Array:
    """The array, in float32 if its type is narrower."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def takes(module: nn.Module, name: str) -> bool:
    """Whether the `__call__` of a module takes an argument with this name."""
    parameters = _parameters(module)
    return name in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def _given(inputs: Mapping[str, jax.Array | None]) -> dict[str, jax.Array]:
    return {name: value for name, value in inputs.items() if value is not None}


@functools.cache
def _make_apply(module: nn.Module) -> Callable[..., Any]:
    """`module.apply` with an argument `train`, under the name that the module has for it.

    Equal modules get the same function. Their learners then have equal tree structures, also
    after `copy.deepcopy`.
    """

    def apply(variables: Any, *args: Any, train: bool = False, **kwargs: Any) -> Any:
        run = functools.partial(module.apply, variables, *args, **kwargs)
        return _run(run, module, train=train)

    return apply


def _run(run: Callable[..., Any], module: nn.Module, *, train: bool) -> Any:
    """Calls `run` with the mode of the module, by keyword, or else by position.

    `nn.remat` and `nn.jit` need static arguments by position.
    """
    mode = _mode(module, train=train)
    try:
        return run(**mode)
    except (ValueError, jax.errors.TracerBoolConversionError) as error:
        # By position only if the mode comes directly after the inputs.
        if list(_parameters(module))[2:3] != list(mode):
            raise
        try:
            return run(*mode.values())
        except Exception:
            raise error from None


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's `__call__`, with self."""
    # `ToLinen` wraps a module of the class `nnx_class`.
    kind: Any = getattr(module, "nnx_class", type(module))
    return inspect.signature(kind.__call__).parameters


def _mode(module: nn.Module, *, train: bool) -> dict[str, bool]:
    """The argument that tells a module whether it trains; empty if it has none."""
    parameters = _parameters(module)
    modes = dict.fromkeys(("train", "training", "is_training"), train)
    modes |= dict.fromkeys(("deterministic", "use_running_average"), not train)
    for name in modes:
        if name in parameters:
            return {name: modes[name]}
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters.values())
    return {"train": train} if takes_any else {}
