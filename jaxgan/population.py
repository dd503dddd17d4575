"""Many GANs in one compiled program: each with its own seed, and learning rates if wanted.

A population is a state whose leaves have a leading axis of members. Member i is what a single run
of its seed would be: to the bit where members take turns (the default on a CPU), else within
rounding, since a batched product of matrices adds up in another order.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan import loop, losses
from jaxgan.config import GANConfig
from jaxgan.devices import Layout, agree, fetch, make_layout
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.gan import OPTIMIZER_NUMBERS, GANState, create_state, train_step, with_numbers

_CREATED_AT_ONCE = 64

Member = dict[str, Any]
"""What sets a member apart: its "seed", and what it has of its own."""


def train_population(
    config: GANConfig,
    data: Any,
    seeds: Sequence[int],
    *,
    epochs: int = 50,
    batch_size: int = 128,
    devices: int | None = None,
    vectorize: bool | None = None,
    progress: bool = True,
    on_epoch: Callable[[loop.Run], None] = lambda run: None,
    **overrides: Any,
) -> loop.Run:
    """Trains one GAN per seed, all in one compiled program, over all devices.

    Args:
      config: the networks, the same for all.
      data: images `[N, H, W, C]`, uint8 or float in [-1, 1].
      seeds: `[members]`; member i equals the single run of seeds[i], data order included.
      epochs: passes over the data, each member in its own order.
      batch_size: images per member and step.
      devices: over how many devices the members are split; by default all.
      vectorize: whether members take a step together (the default on accelerators) or in turns.
      progress: whether to show it.
      on_epoch: called with the run after each epoch; its arrays are donated when training goes on.
      **overrides: numbers of the optimizers by their names in GANConfig, such as `generator_lr`:
        one for all, or `[members]`.

    Returns:
      The loop.Run. Leaves of its state are `[members, ...]`, and so are the metrics in its history;
      `member(run.state, i)` is one GANState. Members that the memory cannot hold at once are
      trained a part at a time, each for an epoch.

    Raises:
      JaxganError: if seeds or overrides do not fit; NonFiniteError if all members have diverged.
    """
    for name, value in overrides.items():
        if np.ndim(value) and len(value) != len(seeds):
            raise JaxganError(f"{name} has {len(value)} values for {len(seeds)} seeds")
    own = {name: np.broadcast_to(value, len(seeds)).tolist() for name, value in overrides.items()}
    members = [
        {"seed": int(seed), **{name: values[i] for name, values in own.items()}}
        for i, seed in enumerate(seeds)
    ]
    layout = make_layout(devices, population=True, vectorize=vectorize)
    run = loop.start_run(train_step, create_states(config, members), data, batch_size, layout)
    rngs = make_rngs(members).training
    return fit(
        train_step,
        run,
        data,
        rngs,
        batch_size=batch_size,
        epochs=epochs,
        progress=progress,
        on_epoch=on_epoch,
        layout=layout,
    )


def crossed(seed: int, count: int, sweep: Mapping[str, Sequence[float]]) -> list[Member]:
    """Every combination of the sweep's values, each with the seeds seed, seed + 1, ... ."""
    return [
        {"seed": seed + i, **dict(zip(sweep, values, strict=True))}
        for values in itertools.product(*sweep.values())
        for i in range(count)
    ]


def create_states(config: GANConfig, members: Sequence[Member]) -> GANState:
    """The untrained states of a population, leaves `[members, ...]`, in the host's memory.

    Raises:
      JaxganError: if there is no member, or one has of its own what is no number of an optimizer,
        or a value that GANConfig refuses.
    """
    if not members:
        raise JaxganError("a population needs at least one member")
    if not all(0 <= member["seed"] < 2**32 for member in members):
        raise JaxganError("seeds must be from 0 to 2**32 - 1")
    names = [name for name in members[0] if name != "seed"]
    for name in names:
        if name not in OPTIMIZER_NUMBERS:
            raise JaxganError(
                f"members cannot differ in {name!r}; what they can have of their own is "
                f"{', '.join(OPTIMIZER_NUMBERS)}"
            )
    for member in members:
        dataclasses.replace(config, **{name: member[name] for name in names})
    parts = []
    # The devices together may hold more members than one of them.
    for at in range(0, len(members), _CREATED_AT_ONCE):
        some = members[at : at + _CREATED_AT_ONCE]
        states = jax.vmap(lambda rng: create_state(rng, config))(make_rngs(some).init)
        own = {name: jnp.array([member[name] for member in some]) for name in names}
        parts.append(jax.device_get(with_numbers(states, **own)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def make_rngs(members: Sequence[Member]) -> loop.RunKeys:
    """The keys of each member's run, `[members]` each."""
    return loop.make_rngs(np.array([member["seed"] for member in members], np.uint32))


def member(tree: Any, i: int) -> Any:
    """Member i of a population's state, or of any tree with a leading axis of members."""
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
    """`loop.fit` of a population of any size.

    Of more members than the memory holds (or than `at_once`) one part after the other is trained
    for an epoch, and all wait in the host's memory; stopped in mid-epoch, such a run is given back
    as it was after the last whole epoch. A member that diverges goes on as NaN.

    Raises:
      NonFiniteError: if all members have diverged.
    """

    def checked(run: loop.Run) -> None:
        if not sound(run.history[-1]).any():
            raise NonFiniteError(
                f"training diverged in epoch {len(run.history)}: "
                f"all {rngs.size} members have failed"
            )
        on_epoch(run)

    options |= {"batch_size": batch_size, "layout": layout}
    at_once = at_once or members_at_once(train_step, run, data, batch_size, layout)
    if at_once >= rngs.size:
        options |= {"measure": measure, "on_epoch": checked}
        return loop.fit(train_step, run, data, rngs, epochs=epochs, **options)
    data = layout.place_data(data)
    run = _on_host(run)
    # Parts of about equal size, so that few programs are compiled.
    parts = np.array_split(np.arange(rngs.size), -(-rngs.size // at_once))
    while (epoch := len(run.history)) < epochs:
        done = []
        for part in parts:
            label = f"epoch {epoch + 1}/{epochs}, members {part[0]}-{part[-1]} of {rngs.size}"
            state, totals = jax.tree.map(lambda x, part=part: x[part], (run.state, run.totals))
            trained = loop.fit(
                train_step,
                loop.Run(state, totals, [], 0.0),
                data,
                rngs[part],
                epochs=epoch + 1,
                label=label,
                **options,
            )
            if not trained.history:
                return run  # stopped
            done.append(_on_host(trained))
        run = _joined(run.history, done)
        run.history[-1].update(measure(run))
        checked(run)
    return run


def members_at_once(
    train_step: loop.TrainStep, run: loop.Run, data: Any, batch_size: int, layout: Layout
) -> int:
    """How many members the memory of the devices holds, by what the compiler says of one."""
    devices = 1 if layout.mesh is None else layout.mesh.size
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), run.state)
    n = jax.tree.leaves(data)[0].shape[0]
    # Its state, once more when that is saved or copied, and the order of its data while sorted.
    size = 2 * sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(one)) + 16 * n
    room = 0.8 * _memory(jax.local_devices()[0]) - sum(x.nbytes for x in jax.tree.leaves(data))
    members = jax.tree.leaves(run.state)[0].shape[0] / devices
    # A step needs at most some times the state; only where that may not do, it is compiled.
    if layout.vectorize and 10 * size * members > room:
        size += _step_bytes(train_step, one, data, batch_size)
    # The least that any host has room for.
    return -int(agree([-max(1, int(room / size))])[0]) * devices


class Report(NamedTuple):
    """How a population has done, by its last epoch."""

    failed: list[int]
    """Members whose metrics or parameters are not finite."""
    best: int | None
    """The member whose discriminator's loss is nearest to where it cannot tell real from generated
    (`losses.equilibrium`); None if all have failed."""
    worst: int | None
    """The member furthest from there, of those that have not failed."""
    summary: list[dict[str, Any]]
    """For each combination of what the members have of their own: that, members, failed, and mean
    and standard deviation (over the members that have not failed) of each metric."""


def report(config: GANConfig, members: Sequence[Member], row: Mapping[str, Any]) -> Report:
    """Sums up the row of an epoch, as in `loop.Run.history`."""
    good = sound(row)
    equilibrium = losses.equilibrium(config.loss, config.label_smoothing)
    distance = np.where(good, np.abs(np.asarray(row["disc_loss"]) - equilibrium), np.nan)
    own = [{k: v for k, v in member.items() if k != "seed"} for member in members]
    metrics = [name for name, value in row.items() if isinstance(value, list)]
    summary = []
    for values in [own[i] for i in range(len(own)) if own[i] not in own[:i]]:
        group = np.array([other == values for other in own])
        line = {**values, "members": int(group.sum()), "failed": int((group & ~good).sum())}
        for name in metrics if (group & good).any() else []:
            chosen = np.asarray(row[name])[group & good]
            line |= {f"{name}_mean": float(chosen.mean())}
            # Of the population that these members are drawn from: unknown from one alone.
            line |= {f"{name}_sd": float(chosen.std(ddof=1)) if len(chosen) > 1 else None}
        summary.append(line)
    best, worst = (
        (int(np.nanargmin(distance)), int(np.nanargmax(distance))) if good.any() else (None, None)
    )
    return Report(np.flatnonzero(~good).tolist(), best, worst, summary)


def sound(row: Mapping[str, Any]) -> np.ndarray:
    """Which members have not failed, by the row of an epoch: `[members]`, bool."""
    return np.all([np.isfinite(v) for v in row.values() if isinstance(v, list)], axis=0)


def _step_bytes(train_step, one, data, batch_size: int) -> int:
    """What a step of one member needs beside its state."""
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), data)
    compiled = jax.jit(train_step).lower(one, batch, jax.random.key(0)).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else 0


def _memory(device: Any) -> int:
    """Bytes that arrays may take on a device; half of what the host has, if that is the device."""
    stats = device.memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return stats.get("bytes_limit", host)


def _on_host(run: loop.Run) -> loop.Run:
    state, totals = fetch((run.state, run.totals))
    return run._replace(state=state, totals=totals)


def _joined(history: list, parts: Sequence[loop.Run]) -> loop.Run:
    """The parts of a population after an epoch, as one."""
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
