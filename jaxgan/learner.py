"""One network with its optimizer: `create`, `forward`, `descend`, `average`, `norm`."""

import copy
import dataclasses
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

from jaxgan import schedules
from jaxgan.errors import JaxganError


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

    Raises:
      JaxganError: if dropout or BatchNorm in the network would never be in training mode, or if
        the optimizer cannot make an update from gradients and parameters alone.
    """
    init = functools.partial(module.init, _streams(rng, jax.random.fold_in(rng, 0)))
    run = functools.partial(_run, init, module, inputs, more)
    off: dict[tuple[str, ...], str] = {}
    with nn.intercept_methods(functools.partial(_note_layers, off)):
        variables = dict(run(train=False))
        if _takes_any(module):  # it may ignore the mode: see what its layers do in training
            off.clear()
            jax.eval_shape(functools.partial(run, train=True))
    _check_hears_mode(module, off)
    params = variables.pop("params", {})
    # Moments are float32: in bfloat16 Adam's decay of 0.999 would round to 1.
    opt_state = tx.init(jax.tree.map(at_least_float32, params))
    _check_optimizer(tx, opt_state, params)
    return Learner(
        # A Python 0 is weakly typed. A checkpoint restores int32, and the step would be traced
        # again.
        step=jnp.zeros((), jnp.int32),
        apply_fn=_make_apply(module),
        params=params,
        tx=tx,
        opt_state=opt_state,
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
        more,
        train=train,
        rngs=_streams(jax.random.fold_in(rng, 0), rng),
        mutable=list(learner.collections) if train else [],
    )
    return outputs, learner.replace(collections={**learner.collections, **updates})


def current_config(state: Any) -> Any:
    """The config of a state, where `state.hyperparameters` replace its values.

    Those are arrays, so the config has no hash. Use it only to read fields.

    Raises:
      JaxganError: if `ema_decay` is a hyperparameter, and the state has no average.
    """
    if not state.hyperparameters:
        return state.config
    if "ema_decay" in state.hyperparameters and state.ema is None:
        raise JaxganError("members that differ in ema_decay need one above 0 in their config")
    config = copy.copy(state.config)
    vars(config).update(state.hyperparameters)
    return config


@jax.named_scope("optimizer")  # for benchmarks/profile_step.py
def descend(
    learner: Learner, grads: Any, scale: Any = 1.0, clip: Any = 0.0, max_norm: Any = 0.0
) -> Learner:
    """Makes one update.

    Args:
      learner: the network and its optimizer.
      grads: gradients of its objective, a tree like its parameters.
      scale: a factor for the update.
      clip: keeps each parameter within plus and minus this; 0 does not clip.
      max_norm: gradients with a larger norm are scaled down to it; 0 does not clip.
    """
    grads = jax.tree.map(at_least_float32, grads)
    # optax mixes types (its Adam takes a float to an integer power), strict promotion refuses it.
    with jax.numpy_dtype_promotion("standard"):
        if not schedules.is_zero(max_norm):
            # A member of a population may have 0.
            clipping = optax.clip_by_global_norm(jnp.where(max_norm > 0, max_norm, jnp.inf))
            grads, _ = clipping.update(grads, clipping.init(learner.params))
        updates, opt_state = learner.tx.update(grads, learner.opt_state, learner.params)

    def move(param: jax.Array, update: jax.Array) -> jax.Array:
        moved = at_least_float32(param) + scale * at_least_float32(update)
        return moved.astype(param.dtype)

    params = jax.tree.map(move, learner.params, updates)
    if not schedules.is_zero(clip):
        clip = jnp.where(clip > 0, clip, jnp.inf)
        params = jax.tree.map(
            lambda p: jnp.clip(at_least_float32(p), -clip, clip).astype(p.dtype), params
        )
    return learner.replace(step=learner.step + 1, params=params, opt_state=opt_state)


@jax.named_scope("optimizer")  # for benchmarks/profile_step.py
def average(mean: Any, params: Any, decay: Any, step: jax.Array) -> Any:
    """Updates an exponential moving average of parameters (arXiv 1806.04498).

    The decay is min(decay, (1 + step) / (10 + step)): a constant decay would keep the initial
    parameters in the average for a long time.

    Args:
      mean: from `start_average`, or an earlier average. None stays None.
      params: the parameters after the step.
      decay: in [0, 1).
      step: the number of steps before this one.
    """
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))

    def move(mean: jax.Array, param: jax.Array) -> jax.Array:
        param = at_least_float32(param)
        return (param + decay_now * (mean - param)).astype(mean.dtype)

    return None if mean is None else jax.tree.map(move, mean, params)


def start_average(params: Any, decay: float) -> Any:
    """The average of parameters before the first step; None if the decay is 0.

    It is float32 or wider: in bfloat16 the small updates of an average round to nothing.
    """
    return jax.tree.map(at_least_float32, params) if decay else None


def with_average(learner: Learner, mean: Any) -> Learner:
    """The learner with the average of its parameters, in their types; itself if there is none."""
    if mean is None:
        return learner
    params = jax.tree.map(lambda m, p: m.astype(p.dtype), mean, learner.params)
    return learner.replace(params=params)


def without_average(state: Any) -> Any:
    """The state whose samples come from the parameters themselves; None if they already do."""
    return None if state.ema is None else state.replace(ema=None)


@jax.named_scope("measure")  # for benchmarks/profile_step.py
def norm(tree: Any) -> jax.Array:
    """The L2 norm of a tree, over all its leaves: a scalar.

    On a GPU the sum of each leaf would be a kernel of its own, so the leaves are joined first. On a
    CPU or a TPU joining them would cost a copy.
    """

    def of_all(*leaves: jax.Array) -> jax.Array:
        return optax.tree.norm(jnp.concatenate([x.ravel() for x in leaves]))

    def of_each(*leaves: jax.Array) -> jax.Array:
        return optax.tree.norm(leaves)

    leaves = [at_least_float32(x) for x in jax.tree.leaves(tree)]
    if not leaves:
        return jnp.zeros(())
    return jax.lax.platform_dependent(*leaves, cuda=of_all, rocm=of_all, default=of_each)


def at_least_float32(x: jax.Array) -> jax.Array:
    """The array, in float32 if its type is narrower."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def with_settings(state: Any, **settings: Any) -> Any:
    """A state with other values in fields of its config, such as those that act on samples."""
    state = state.replace(config=dataclasses.replace(state.config, **settings))
    leaves = getattr(state, "hyperparameters", {})
    if leaves:  # they would count in place of the config
        leaves = {name: value for name, value in leaves.items() if name not in settings}
        state = state.replace(hyperparameters=leaves)
    return state


def takes(module: nn.Module, name: str) -> bool:
    """Whether the `__call__` of a module takes an argument with this name."""
    return name in _parameters(module) or _takes_any(module)


def _check_optimizer(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> None:
    """Raises a JaxganError if the optimizer needs more than gradients and parameters."""
    grads = jax.tree.map(at_least_float32, params)
    try:
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(tx.update, grads, opt_state, params)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise JaxganError(
            f"the optimizer cannot make an update from gradients and parameters alone: {reason}"
        ) from error


@functools.cache
def _make_apply(module: nn.Module) -> Callable[..., Any]:
    """`module.apply`, which takes further inputs as a dict, and the mode as `train`.

    Equal modules get the same function. Their learners then have equal tree structures, also
    after `copy.deepcopy`.
    """

    def apply(
        variables: Any, inputs: Any, more: Any = None, *, train: bool = False, **options: Any
    ) -> Any:
        run = functools.partial(module.apply, variables, **options)
        return _run(run, module, inputs, more or {}, train=train)

    return apply


@jax.numpy_dtype_promotion("standard")  # strict promotion refuses some of Flax's layers
def _run(
    run: Callable[..., Any], module: nn.Module, inputs: Any, more: Mapping[str, Any], *, train: bool
) -> Any:
    """Calls `run` with the inputs, and tells the module its mode."""
    given = {name: value for name, value in more.items() if value is not None}
    modes = _modes(module, train=train)
    try:
        return run(inputs, **given, **modes)
    except (ValueError, jax.errors.TracerBoolConversionError) as error:
        # nn.remat and nn.jit need static arguments by position.
        try:
            bound = _signature(module).bind(module, inputs, **given, **modes)
            bound.apply_defaults()
            return run(*bound.args[1:], **bound.kwargs)
        except Exception:
            raise error from None


def _streams(rng: jax.Array, others: jax.Array) -> dict[str, jax.Array]:
    """The random streams of a network: one for parameters, and one for all else.

    Flax linen takes "params" for a stream that is not given, and NNX takes "default".
    """
    return {"params": rng, "dropout": others, "default": jax.random.fold_in(others, 1)}


def _modes(module: nn.Module, *, train: bool) -> dict[str, bool]:
    """The arguments that tell a module whether it trains."""
    if isinstance(module, nn.Sequential):  # it passes them on to its first layer
        first = module.layers[0] if module.layers else None
        return _modes(first, train=train) if isinstance(first, nn.Module) else {}
    modes = dict.fromkeys(("train", "training", "is_training"), train)
    modes |= dict.fromkeys(("deterministic", "use_running_average"), not train)
    known = {name: value for name, value in modes.items() if name in _parameters(module)}
    return known or ({"train": train} if _takes_any(module) else {})


def _takes_any(module: nn.Module) -> bool:
    return any(one.kind == one.VAR_KEYWORD for one in _parameters(module).values())


def _note_layers(
    off: dict[tuple[str, ...], str], call: Any, args: Any, kwargs: Any, context: Any
) -> Any:
    """An interceptor for `nn.intercept_methods`. It records dropout and BatchNorm that are off."""
    layer = context.module
    if context.method_name == "__call__" and isinstance(layer, nn.Dropout | nn.BatchNorm):
        dropout = isinstance(layer, nn.Dropout)
        name = "deterministic" if dropout else "use_running_average"
        given = kwargs.get(name, args[1] if len(args) > 1 else None)
        is_off = getattr(layer, name) if given is None else given
        if is_off and not (dropout and layer.rate == 0):
            off[layer.path] = type(layer).__name__
    return call(*args, **kwargs)


def _check_hears_mode(module: nn.Module, off: Mapping[tuple[str, ...], str]) -> None:
    """Raises a JaxganError if layers are off and no argument of the module turns them on."""
    if off and not _modes(module, train=True).keys() & _parameters(module).keys():
        names = " and ".join(sorted(set(off.values())))
        raise JaxganError(
            f"{names} in {type(module).__name__} would be off in training too: write a module "
            "whose __call__ has an argument `train`, which is True in training, and passes it on"
        )


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's `__call__`, with self."""
    return _signature(module).parameters


def _signature(module: nn.Module) -> inspect.Signature:
    # `ToLinen` wraps a module of the class `nnx_class`.
    kind: Any = getattr(module, "nnx_class", type(module))
    return inspect.signature(kind.__call__)
