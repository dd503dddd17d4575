"""A population: many runs of a model in one compiled program, each with its own seed.

The members may also differ in hyperparameters. A population is a state whose leaves have a leading
axis of members. Member i equals the single run of its seed. If members take turns (the default on a
CPU) on one device, they are equal to the bit. Otherwise they are equal within rounding, since the
compiled program may add numbers in another order.
"""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.history import Row, finite_members
from jaxgan.metrics import evaluation
from jaxgan.model import Model
from jaxgan.processes import agree
from jaxgan.run import loop
from jaxgan.run.devices import Layout, fetch, make_layout

_CREATED_AT_ONCE = 64

Member = dict[str, Any]
"""What may differ between members: the "seed", and hyperparameters."""


def train_population(
    model: Model,
    config: Any,
    data: Any,
    seeds: Sequence[int],
    *,
    epochs: int = 50,
    batch_size: int = 128,
    devices: int | None = None,
    vectorize: bool | None = None,
    progress: bool = True,
    measure: Callable[[loop.Run], Mapping[str, Any]] = lambda run: {},
    on_epoch: Callable[[loop.Run], None] = lambda run: None,
    **hyperparameters: Any,
) -> loop.Run:
    """Trains a model once per seed, all in one compiled program, over all devices.

    Args:
      model: such as `jaxgan.MODELS["gan"]`.
      config: its config, the same for all members.
      data: images `[N, H, W, C]`, uint8 or float in [-1, 1], or a dict of arrays `[N, ...]`.
      seeds: `[members]`. Member i equals the single run of seeds[i].
      epochs: passes over the data.
      batch_size: images per member and step.
      devices: over how many devices the members are split; by default all.
      vectorize: whether members take steps together (the default on accelerators) or in turns.
      progress: whether to show progress.
      measure: called with the run after each epoch; its result is added to the row of the epoch.
      on_epoch: called with the run after `measure`; its arrays are donated afterwards.
      **hyperparameters: fields in `model.hyperparameters`, such as `generator_lr`. Each has one
        value for all members, or `[members]` values.

    Returns:
      The loop.Run. Leaves of its state are `[members, ...]`, and the metrics in its history are
      lists. `member(run.state, i)` is the state of one member. If the memory cannot hold all
      members, parts of them take turns, one epoch at a time.

    Raises:
      JaxganError: if there are no seeds, if seeds or hyperparameters are out of range or differ in
        number, or if members cannot differ in a hyperparameter.
      NonFiniteError: if all members have diverged.
    """
    members = make_members(seeds, hyperparameters)
    layout = make_layout(devices, population=True, vectorize=vectorize)
    states = create_states(model, config, members)
    return fit(
        model.train_step,
        loop.start_run(model.train_step, states, data, batch_size, layout),
        data,
        make_rngs(members).training,
        batch_size=batch_size,
        epochs=epochs,
        progress=progress,
        measure=measure,
        on_epoch=on_epoch,
        layout=layout,
    )


def make_members(seeds: Sequence[int], hyperparameters: Mapping[str, Any]) -> list[Member]:
    """A member for each seed, with its values of the hyperparameters, as in `train_population`."""
    for name, value in hyperparameters.items():
        if np.ndim(value) and len(value) != len(seeds):
            raise JaxganError(f"{name} has {len(value)} values for {len(seeds)} seeds")
    columns: dict[str, list[Any]] = {"seed": [int(seed) for seed in seeds]}
    columns |= {k: np.broadcast_to(v, len(seeds)).tolist() for k, v in hyperparameters.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def sweep_members(seed: int, count: int, sweep: Mapping[str, Sequence[float]]) -> list[Member]:
    """Every combination of the values of a sweep, each with the seeds seed, seed + 1, ..."""
    return [
        {"seed": seed + i, **dict(zip(sweep, values, strict=True))}
        for values in itertools.product(*sweep.values())
        for i in range(count)
    ]


def create_states(model: Model, config: Any, members: Sequence[Member]) -> Any:
    """The initial states of a population, leaves `[members, ...]`, in the host's memory.

    Raises:
      JaxganError: if there are no members, if they differ in a field that is no hyperparameter, or
        if the config refuses a value.
    """
    if not members:
        raise JaxganError("a population needs at least one member")
    if not all(0 <= member["seed"] < 2**32 for member in members):
        raise JaxganError("seeds must be from 0 to 2**32 - 1")
    names = [name for name in members[0] if name != "seed"]
    check_hyperparameters(model, names)
    for member in members:
        dataclasses.replace(config, **{name: member[name] for name in names})  # checks the values
    parts = []
    # In parts, since one device may not hold all members.
    for at in range(0, len(members), _CREATED_AT_ONCE):
        part = members[at : at + _CREATED_AT_ONCE]
        # One after the other: a batched program may round an initial value differently.
        states = _create(make_rngs(part).init, model.create_state, config)
        values = {name: jnp.array([member[name] for member in part]) for name in names}
        parts.append(jax.device_get(with_hyperparameters(model, states, **values)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


@functools.partial(jax.jit, static_argnames=("create_state", "config"))
def _create(rngs: jax.Array, create_state: Callable[..., Any], config: Any) -> Any:
    return jax.lax.map(lambda rng: create_state(rng, config), rngs)


def with_hyperparameters(model: Model, state: Any, **values: Any) -> Any:
    """The state with other hyperparameters, by their names in `model.hyperparameters`.

    For the state of a population the values are `[members]`. They may be tracers of `jax.vmap`. The
    config of the state does not change.

    Raises:
      JaxganError: if the model has no such hyperparameter, or the state no such leaf.
    """
    check_hyperparameters(model, values)
    wanted = {path: name for name in values for path in model.hyperparameters[name]}
    leaves = {
        name: jnp.asarray(v, jnp.float32)
        for name, v in values.items()
        if not model.hyperparameters[name]
    }
    if leaves:
        state = state.replace(hyperparameters={**state.hyperparameters, **leaves})
    found = set()

    def replace(path: Any, leaf: Any) -> Any:
        names = tuple(str(getattr(key, "name", getattr(key, "key", None))) for key in path)
        if names not in wanted:
            return leaf
        found.add(names)
        return jnp.asarray(values[wanted[names]], leaf.dtype)

    state = jax.tree_util.tree_map_with_path(replace, state)
    for path in wanted.keys() - found:
        raise JaxganError(f"{wanted[path]} is no hyperparameter of this optimizer")
    return state


def check_hyperparameters(model: Model, names: Iterable[str]) -> None:
    """Raises a JaxganError unless the members of a population may differ in these."""
    for name in names:
        if name not in model.hyperparameters:
            known = ", ".join(model.hyperparameters)
            only = f"only in {known}" if known else f"the members of {model.name} differ in seeds"
            raise JaxganError(f"members cannot differ in {name!r}, {only}")


def make_rngs(members: Sequence[Member]) -> loop.RunKeys:
    """The keys of each member's run, `[members]` each."""
    return loop.make_rngs(np.array([member["seed"] for member in members], np.uint32))


def member(tree: Any, i: Any) -> Any:
    """Member i of the state of a population, or of any tree with a leading axis of members."""
    if isinstance(i, slice):
        return jax.tree.map(lambda x: x[i], tree)
    members = jax.tree.leaves(tree)[0].shape[0]
    if isinstance(i, int) and not 0 <= i < members:  # jax would take the nearest member
        raise JaxganError(f"there is no member {i}: the members are 0 to {members - 1}")
    return _member(tree, i)


@jax.jit
def _member(tree: Any, i: Any) -> Any:
    # One program. With one for each leaf, those of several members wait for each other if several
    # devices of a busy CPU hold them, until XLA ends the process.
    return jax.tree.map(lambda x: x[i], tree)


def fit(
    train_step: loop.TrainStep,
    run: loop.Run,
    data: Any,
    rngs: jax.Array,
    *,
    batch_size: int,
    epochs: int,
    layout: Layout,
    measure: Callable[[loop.Run], Mapping[str, Any]] = lambda run: {},
    on_epoch: Callable[[loop.Run], None] = lambda run: None,
    at_once: int | None = None,
    **options: Any,
) -> loop.Run:
    """`loop.fit` for a population of any size.

    If there are more members than the memory holds (or than `at_once`), parts of them take turns,
    one epoch at a time. The others wait in the host's memory. If such a run is stopped within an
    epoch, the result is the run after the last whole epoch. A diverged member continues as NaN.

    Raises:
      NonFiniteError: if all members have diverged.
    """

    def checked(run: loop.Run) -> None:
        if not finite_members(run.history[-1]).any():
            raise NonFiniteError(
                f"training diverged in epoch {len(run.history)}: "
                f"all {rngs.size} members have diverged"
            )
        on_epoch(run)

    options |= {"batch_size": batch_size, "layout": layout}
    at_once = at_once or members_at_once(
        train_step, run, data, batch_size, layout, options.get("places")
    )
    if at_once >= rngs.size:
        options |= {"measure": measure, "on_epoch": checked}
        return loop.fit(train_step, run, data, rngs, epochs=epochs, **options)
    data = layout.place_data(data)
    run = _on_host(run)
    # Parts of nearly equal size, so that few programs are compiled.
    parts = np.array_split(np.arange(rngs.size), -(-rngs.size // at_once))
    while (epoch := len(run.history)) < epochs:
        trained = []
        for part in parts:
            label = f"epoch {epoch + 1}/{epochs}, members {part[0]}-{part[-1]} of {rngs.size}"
            start = loop.Run(member(run.state, part), member(run.totals, part), [], 0.0)
            options |= {"epochs": epoch + 1, "label": label}
            trained.append(_on_host(loop.fit(train_step, start, data, rngs[part], **options)))
            if not trained[-1].history:
                return run  # stopped
        run = _join(run.history, trained)
        run.history[-1].update(measure(run))
        checked(run)
    return run


def members_at_once(
    train_step: loop.TrainStep,
    run: loop.Run,
    data: Any,
    batch_size: int,
    layout: Layout,
    places: int | None = None,
) -> int:
    """How many members the memory of the devices holds, estimated from the size of one."""
    devices = 1 if layout.mesh is None else layout.mesh.size
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), run.state)
    n = jax.tree.leaves(data)[0].shape[0]
    # The state, a copy of it while it is saved, and the order of the data while it is sorted.
    size = 2 * sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(one)) + 16 * n
    room = 0.8 * _memory(jax.local_devices()[0]) - sum(x.nbytes for x in jax.tree.leaves(data))
    members = jax.tree.leaves(run.state)[0].shape[0] / devices
    # A step needs at most a few times the memory of the state. If that may be too much, it is
    # compiled to find out.
    if layout.vectorize and 10 * size * members > room:
        size += _step_bytes(train_step, one, data, batch_size, places)
    # The smallest number that any process has room for.
    return -int(agree([-max(1, int(room / size))])[0]) * devices


class Report(NamedTuple):
    """The result of a population, by its last epoch."""

    diverged: list[int]
    """Members with metrics or parameters that are not finite."""
    failed: list[int]
    """Members that show a failure (`Model.diagnose`)."""
    ranked_by: str | None
    """The score that ranks the members: the column of the Fréchet distance, modes, or missed. None
    if none of them was measured."""
    best: int | None
    """The best member. Members with a failure come after all others. None if there is no score,
    or if all members have diverged."""
    worst: int | None
    """The worst member of those that have not diverged."""
    nearest_to_equilibrium: int | None
    """The member with the smallest `Model.equilibrium_distance`; None if the equilibrium is not
    known, or if all have diverged. It may be a poor one."""
    summary: list[dict[str, Any]]
    """A mapping for each combination of hyperparameters. It holds these, the numbers of members and
    of diverged members, and the mean and standard deviation of each metric over the others."""


def make_report(
    model: Model, config: Any, members: Sequence[Member], history: Sequence[Row]
) -> Report:
    """Sums up a population by its history, of one epoch or more."""
    row = history[-1]
    finite = finite_members(row)
    failed = np.zeros(len(members), bool)
    if model.diagnose is not None:
        failed = model.diagnose(history).failed(row)
    ranked_by, rank = ranks(history)
    best = worst = nearest = None
    if finite.any() and ranked_by is not None:
        order = [i for i in np.lexsort((rank, failed)) if finite[i]]
        best, worst = int(order[0]), int(order[-1])
    if finite.any() and model.equilibrium_distance is not None:
        distance = np.where(finite, model.equilibrium_distance(config, row), np.nan)
        # All are NaN if the equilibrium is not known.
        nearest = None if np.isnan(distance).all() else int(np.nanargmin(distance))
    return Report(
        np.flatnonzero(~finite).tolist(),
        np.flatnonzero(failed & finite).tolist(),
        ranked_by,
        best,
        worst,
        nearest,
        _summary(members, row, finite),
    )


def ranks(history: Sequence[Row]) -> tuple[str | None, np.ndarray]:
    """The name of the score that ranks the members, and its values `[members]`; less is better.

    It is the first of these that was measured: the Fréchet distance of the last epoch; its modes,
    then the share of high quality; the last `missed`, the share of the data that samples miss.
    """
    row = history[-1]
    distance = evaluation.distance_name(row)
    if distance is not None:
        return distance, np.asarray(row[distance])
    if "modes" in row:
        return "modes", -np.asarray(row["modes"]) - np.asarray(row["high_quality"])
    for row in reversed(history):
        if "missed" in row:
            return "missed", np.asarray(row["missed"])
    return None, np.zeros(0)


def _summary(members: Sequence[Member], row: Row, finite: np.ndarray) -> list[dict[str, Any]]:
    """`Report.summary`, by the row of an epoch; `finite` names the members that count."""
    settings = [{k: v for k, v in member.items() if k != "seed"} for member in members]
    metrics = [name for name, value in row.items() if isinstance(value, list)]
    summary = []
    for values in [settings[i] for i in range(len(settings)) if settings[i] not in settings[:i]]:
        group = np.array([other == values for other in settings])
        line = {**values, "members": int(group.sum()), "diverged": int((group & ~finite).sum())}
        for name in metrics if (group & finite).any() else []:
            chosen = np.asarray(row[name])[group & finite]
            line |= {f"{name}_mean": float(chosen.mean())}
            # The sample standard deviation, which one member alone does not have.
            line |= {f"{name}_sd": float(chosen.std(ddof=1)) if len(chosen) > 1 else None}
        summary.append(line)
    return summary


def _step_bytes(train_step, one, data, batch_size: int, places: int | None) -> int:
    """The memory of a step of one member, without its state."""
    n = places or batch_size
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), data)
    if places:
        batch |= {"included": jax.ShapeDtypeStruct((n,), bool)}
    compiled = jax.jit(train_step).lower(one, batch, jax.random.key(0)).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0


def _memory(device: Any) -> int:
    """The bytes that arrays may take on a device. On a CPU it is half of the host's memory."""
    stats = device.memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return stats.get("bytes_limit", host)


def _on_host(run: loop.Run) -> loop.Run:
    state, totals = fetch((run.state, run.totals))
    return run._replace(state=state, totals=totals)


def _join(history: list, parts: Sequence[loop.Run]) -> loop.Run:
    """The parts of a population after an epoch, as one run."""
    rows = [part.history[-1] for part in parts]
    row = {
        name: [x for row in rows for x in row[name]] if isinstance(value, list) else value
        for name, value in rows[0].items()
    }
    seconds = sum(row["seconds"] for row in rows)
    row["steps_per_second"] = (
        sum(row["seconds"] * row["steps_per_second"] for row in rows) / seconds
    )
    row["seconds"] = seconds
    state, totals = jax.tree.map(
        lambda *xs: np.concatenate(xs), *((part.state, part.totals) for part in parts)
    )
    return loop.Run(state, totals, [*history, row], 0.0)
