"""Many steps: `train_epoch`, one compiled program, and `fit`, the loop on the host.

Written for any `train_step(state, batch, rng) -> (state, metrics)` whose state counts in `step` and
whose metrics are a NamedTuple of scalars; nothing here knows of GANs.

The order of the data is a function of (rng, epoch), a batch of (rng, epoch, step), and the step
folds `state.step` into its rng: a state is all that it takes to go on, to the bit, at any step.
"""

import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.devices import ONE_DEVICE, Layout, agree, fetch
from jaxgan.errors import NonFiniteError

TrainStep = Callable[[Any, Any, jax.Array], tuple[Any, Any]]

_CHECK_SECONDS = 0.25
"""How long the compiled program runs before the host looks up: at the progress, at a signal."""


class Run(NamedTuple):
    """A run at some step: all that the rest of it depends on, beside data, rng and settings."""

    state: Any
    totals: Any
    """Metrics summed over the steps of the epoch at hand."""
    history: list[dict[str, Any]]
    """A row for each finished epoch: epoch, step, the means of the metrics over the steps of the
    epoch, seconds, steps_per_second; and what `fit` was asked to measure. Of a population each
    metric is a list, NaN where a member has failed, and the steps are those of all members."""
    seconds: float
    """Spent in the epoch at hand."""


class RunKeys(NamedTuple):
    """The keys of a run: equal seeds, equal runs."""

    init: jax.Array
    """For the parameters."""
    training: jax.Array
    """For `fit`: the order of the data, and all that is random in a step."""
    pictures: jax.Array
    """For the latents of the pictures that a run leaves behind."""


def make_rngs(seed: Any) -> RunKeys:
    """The keys of the run of a seed, 0 <= seed < 2**32; of seeds `[members]` as many keys each."""
    return _run_keys(np.asarray(seed, np.uint32))


@jax.jit
def _run_keys(seeds: jax.Array) -> RunKeys:
    rngs = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(seeds.ravel())
    return RunKeys(*(rngs[:, i].reshape(seeds.shape) for i in range(3)))


def start_run(
    train_step: TrainStep,
    state: Any,
    data: Any,
    batch_size: int = 1,
    layout: Layout = ONE_DEVICE,
) -> Run:
    """A run before its first step. `data` is a tree of arrays `[N, ...]`, batched along N.

    With the batch size of `fit` the step is traced once for both.
    """
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), data)

    def metrics_of(state, batch):
        return train_step(state, batch, jax.random.key(0))[1]

    if layout.population:
        metrics_of = jax.vmap(metrics_of, in_axes=(0, None))
    metrics = jax.eval_shape(metrics_of, state, batch)
    # A sum of hundreds of bfloat16 would stand still.
    totals = jax.tree.map(
        lambda m: jnp.zeros(m.shape, jnp.promote_types(m.dtype, jnp.float32)), metrics
    )
    return Run(state, totals, [], 0.0)


def train_epoch(
    train_step: TrainStep,
    state: Any,
    data: Any,
    rng: jax.Array,
    epoch: int,
    *,
    batch_size: int,
    layout: Layout = ONE_DEVICE,
) -> tuple[Any, Any]:
    """One pass over the data in a new order: a compiled program, and one for a smaller last batch.

    Args:
      train_step: `(state, batch, rng) -> (state, metrics)`.
      state: donated: not to be used again.
      data: a tree of arrays `[N, ...]`, on the device.
      rng: a key, the same for all epochs of a run; of a population `[members]` keys.
      epoch: the number of the epoch, from 0.
      batch_size: images per step; the last step takes what is left over.
      layout: of a population, or over several devices; state, data and rng lie there already, and
        N is a multiple of the devices that share it.

    Returns:
      The state after ceil(N / batch_size) steps, and the means of the metrics over them.
    """
    totals = start_run(train_step, state, data, batch_size, layout).totals
    order_rng, step_rng = _split(rng)
    n = _length(data)
    steps = _steps_per_epoch(n, batch_size)
    order = _epoch_order(order_rng, epoch, n)
    state, totals = _train_steps(
        train_step,
        state,
        totals,
        data,
        order,
        step_rng,
        0,
        steps,
        batch_size=batch_size,
        layout=layout,
    )
    return state, jax.tree.map(lambda total: total / steps, totals)


def fit(
    train_step: TrainStep,
    run: Run,
    data: Any,
    rng: jax.Array,
    *,
    batch_size: int,
    epochs: int,
    measure: Callable[[Run], Mapping[str, Any]] = lambda run: {},
    on_epoch: Callable[[Run], None] = lambda run: None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
    label: str = "",
    layout: Layout = ONE_DEVICE,
) -> Run:
    """Trains until `epochs` epochs are done, from wherever the run is.

    Equals calling `train_epoch` for each epoch with the same arguments.

    Args:
      train_step: `(state, batch, rng) -> (state, metrics)`.
      run: from `start_run`, or what an earlier `fit` gave or `on_epoch` was given.
      data: a tree of arrays `[N, ...]`; moved to the devices as it is.
      rng: a key, the same for the whole run; of a population `[members]` keys.
      batch_size: images per step; the last step of an epoch takes what is left over.
      epochs: how many in all.
      measure: called with the run after each epoch; what it gives goes into the row of the epoch.
      on_epoch: called with the run after that; its arrays are donated when training goes on.
      should_stop: asked about four times a second; if it says so, `fit` returns in mid-epoch. Of
        several processes it is enough that one is asked to stop.
      progress: whether to show it: a bar per epoch on a terminal, else a line per epoch.
      label: shown in place of the number of the epoch.
      layout: on which devices, and whether `run` is a population: then every leaf of its state and
        totals has a leading axis `[members]`, and each member takes its own way through the data.

    Returns:
      The run at its end, or where it was stopped.

    Raises:
      NonFiniteError: at the first sign of a metric or a parameter that is not finite; not of a
        population, whose members do not disturb each other.
    """
    n, members = _length(data), rng.size
    steps = _steps_per_epoch(n, batch_size)
    order_rng, step_rng = layout.place_run(_split(rng))
    # The compiled steps donate their state; the caller's is to stay.
    state, totals = layout.place_run((run.state, run.totals))
    advance = functools.partial(
        _train_steps,
        train_step,
        data=layout.place_data(data),
        rng=step_rng,
        batch_size=batch_size,
        layout=layout,
    )
    history, seconds = list(run.history), run.seconds
    epoch, at = divmod(step(state), steps)

    def current() -> Run:
        cut_state, cut_totals = layout.cut((state, totals), members)
        return Run(cut_state, cut_totals, list(history), seconds)

    if epoch < epochs:
        # No steps at all, just to compile: the seconds are then those of training.
        order = _epoch_order(order_rng, epoch, n)
        state, totals = advance(state, totals, order=order, start=at, stop=at)
    while epoch < epochs:
        order, means = _epoch_order(order_rng, epoch, n), {}
        with _Progress(label or f"epoch {epoch + 1}/{epochs}", steps, at, enabled=progress) as bar:
            for state, totals, at, elapsed in _stretches(  # noqa: B020
                functools.partial(advance, order=order), state, totals, at, steps, should_stop
            ):
                seconds += elapsed
                sums = fetch(layout.cut(totals, members))
                finite = fetch(_finite(state, layout))[:members]
                means = {k: v / np.float32(at) for k, v in sums._asdict().items()}
                means = _checked(means, finite, epoch + 1, layout.population)
                bar.show(at, means)
        if at < steps:
            break  # stopped
        epoch, at = epoch + 1, 0
        row = {"epoch": epoch, "step": step(state)}
        row |= {name: mean.tolist() for name, mean in means.items()}
        history.append(row | {"seconds": seconds, "steps_per_second": members * steps / seconds})
        totals, seconds = jax.tree.map(jnp.zeros_like, totals), 0.0
        bar.finish(means, history[-1]["steps_per_second"])
        finished = current()
        finished.history[-1].update(measure(finished))  # the same row as in `history`
        on_epoch(finished)
    return current()


def _stretches(advance, state, totals, at: int, steps: int, should_stop):
    """Trains from step `at` of an epoch to its end, or until that is not wanted any more.

    Yields state, totals, the steps done and the seconds, after about each _CHECK_SECONDS.
    """
    length = 1
    while at < steps:
        length, stop = agree([length, should_stop()])
        if stop:
            return
        end = min(at + int(length), steps)
        if end == steps:
            # No steps, just to compile, for the program of the last step.
            state, totals = advance(state, totals, start=steps, stop=steps)
        started = time.perf_counter()
        state, totals = jax.block_until_ready(advance(state, totals, start=at, stop=end))
        elapsed = time.perf_counter() - started
        length = max(1, min(steps, int((end - at) * _CHECK_SECONDS / max(elapsed, 1e-9))))
        at = end
        yield state, totals, at, elapsed


def _train_steps(
    train_step, state, totals, data, order, rng, start, stop, *, batch_size, layout=ONE_DEVICE
):
    """Steps start <= i < stop of an epoch.

    A program for the whole batches and one for a smaller last one: training begins when the first
    of them is compiled.
    """
    n = order.shape[-1]
    full = n // batch_size
    steps = functools.partial(
        _compiled_steps,
        train_step,
        data=data,
        order=order,
        rng=rng,
        batch_size=batch_size,
        layout=layout,
    )
    if start < full:
        state, totals = steps(state, totals, start=start, stop=min(stop, full), last=False)
    if n % batch_size and stop > full:
        state, totals = steps(state, totals, start=start, stop=stop, last=True)
    return state, totals


@functools.partial(
    jax.jit,
    static_argnames=("train_step", "batch_size", "last", "layout"),
    donate_argnames=("state", "totals"),
)
def _compiled_steps(
    train_step, state, totals, data, order, rng, start, stop, *, batch_size, last, layout
):
    """Start and stop are traced, so that the same program runs whatever the host asks for: where an
    epoch is cut has no influence on its result, not even on the last bit.
    """

    def steps(carry, order, rng, data, start, stop):
        def take(indices, carry):
            state, totals = carry
            batch = layout.split_batch(jax.tree.map(lambda x: x[indices], data))
            state, metrics = train_step(state, batch, rng)
            return state, jax.tree.map(jnp.add, totals, metrics)

        def body(i, carry):
            at = i * batch_size
            return take(jax.lax.dynamic_slice_in_dim(order, at, batch_size), carry)

        if last:
            rest = order[order.shape[0] // batch_size * batch_size :]
            return jax.lax.cond(start < stop, lambda c: take(rest, c), lambda c: c, carry)
        return jax.lax.fori_loop(start, stop, body, carry)

    return layout.for_each_member(steps, (state, totals), (order, rng), (data, start, stop))


@functools.partial(jax.jit, static_argnames="n")
def _epoch_order(rng, epoch, n: int):
    """A permutation of n for each key: `[n]` or `[members, n]`."""

    def order(rng):
        return jax.random.permutation(jax.random.fold_in(rng, epoch), n)

    return jax.vmap(order)(rng) if rng.ndim else order(rng)


@jax.jit
def _split(rng) -> tuple[jax.Array, jax.Array]:
    """Of a key, or of each of `[members]`: one for the order of the data and one for the steps."""
    rngs = jax.vmap(jax.random.split)(rng.ravel())
    return rngs[:, 0].reshape(rng.shape), rngs[:, 1].reshape(rng.shape)


def step(state: Any) -> int:
    """The step of a state, or of a population's, whose members keep step."""
    return int(jax.jit(jnp.max)(state.step))


def _length(tree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _steps_per_epoch(n: int, batch_size: int) -> int:
    return -(-n // batch_size)


@functools.partial(jax.jit, static_argnames="layout")
def _finite(state, layout: Layout) -> jax.Array:
    """Whether all numbers of a state are finite: `[1]`, or `[members]`."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    rows = _length(state) if layout.population else 1
    # As one array, since a reduction of each leaf takes long to compile.
    leaves = [x.reshape(rows, -1) for x in leaves] or [jnp.zeros((rows, 1))]
    return jnp.isfinite(jnp.concatenate(leaves, axis=1)).all(axis=1)


def _checked(means, finite: np.ndarray, epoch: int, population: bool) -> dict[str, np.ndarray]:
    """The means; of a population NaN for members of which a number is not finite."""
    sound = finite & np.all([np.isfinite(mean) for mean in means.values()], axis=0)
    if sound.all():
        return means
    if population:
        return {name: np.where(sound, mean, np.nan) for name, mean in means.items()}
    bad = [f"{name} is {mean}" for name, mean in means.items() if not np.isfinite(mean)][:4]
    # The losses say nothing of what the last update did: a checkpoint must not hold it unseen.
    bad = bad or ["a parameter or an optimizer moment is not finite"]
    raise NonFiniteError(f"training diverged in epoch {epoch}: {', '.join(bad)}")


def sound_mean(values: Any) -> float:
    """The mean of a metric over the members that have not failed; a single run's as it is."""
    sound = np.ravel(values)[np.isfinite(np.ravel(values))]
    return float(sound.mean()) if len(sound) else float("nan")


class _Progress:
    """One epoch's progress: a bar on a terminal, else a line when it is done.

    It shows the first four of the metrics; of a population their means over the members that have
    not failed.
    """

    def __init__(self, title: str, steps: int, at: int, *, enabled: bool):
        self._enabled = enabled
        self._title = title
        self._bar = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=at, desc=self._title, unit="step")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def show(self, at: int, means: dict[str, np.ndarray]) -> None:
        if self._bar is not None:
            self._bar.set_postfix(
                {k: f"{sound_mean(v):.3f}" for k, v in _shown(means)}, refresh=False
            )
            self._bar.update(at - self._bar.n)

    def finish(self, means: dict[str, np.ndarray], rate: float) -> None:
        if self._enabled and self._bar is None:
            shown = "  ".join(f"{k} {sound_mean(v):.4f}" for k, v in _shown(means))
            print(f"{self._title}  {shown}  {rate:.0f} steps/s", flush=True)


def _shown(means: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return list(means.items())[:4]
