"""Many steps: `train_epoch`, one compiled program, and `fit`, the loop on the host.

Written for any `train_step(state, batch, rng) -> (state, metrics)` whose state counts in `step` and
whose metrics are a NamedTuple of scalars; nothing here knows of GANs.

The order of the data is a function of (rng, epoch), a batch of (rng, epoch, step), and the step
folds `state.step` into its rng: a state is all that it takes to go on, to the bit, at any step.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.errors import NonFiniteError

TrainStep = Callable[[Any, Any, jax.Array], tuple[Any, Any]]

_CHECK_SECONDS = 0.25
"""How long the compiled program runs before the host looks up: at the progress, at a signal."""


class Run(NamedTuple):
    """A run at some step: all that the rest of it depends on, beside data, rng and settings."""

    state: Any
    totals: Any
    """Metrics summed over the steps of the epoch at hand."""
    history: list[dict[str, float]]
    """A row for each finished epoch: epoch, step, the means of the metrics over the steps of the
    epoch, seconds, steps_per_second."""
    seconds: float
    """Spent in the epoch at hand."""


def start_run(train_step: TrainStep, state: Any, data: Any, batch_size: int = 1) -> Run:
    """A run before its first step. `data` is a tree of arrays `[N, ...]`, batched along N.

    With the batch size of `fit` the step is traced once for both.
    """
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), data)
    _, metrics = jax.eval_shape(lambda s, b: train_step(s, b, jax.random.key(0)), state, batch)
    # A sum of hundreds of bfloat16 would stand still.
    totals = jax.tree.map(
        lambda m: jnp.zeros(m.shape, jnp.promote_types(m.dtype, jnp.float32)), metrics
    )
    return Run(state, totals, [], 0.0)


def train_epoch(
    train_step: TrainStep, state: Any, data: Any, rng: jax.Array, epoch: int, *, batch_size: int
) -> tuple[Any, Any]:
    """One pass over the data in a new order, as one compiled program.

    Args:
      train_step: `(state, batch, rng) -> (state, metrics)`.
      state: donated: not to be used again.
      data: a tree of arrays `[N, ...]`, on the device.
      rng: a key, the same for all epochs of a run.
      epoch: the number of the epoch, from 0.
      batch_size: images per step; the last step takes what is left over.

    Returns:
      The state after ceil(N / batch_size) steps, and the means of the metrics over them.
    """
    totals = start_run(train_step, state, data, batch_size).totals
    order_rng, step_rng = jax.random.split(rng)
    n = _length(data)
    steps = _steps_per_epoch(n, batch_size)
    order = _epoch_order(order_rng, epoch, n)
    state, totals = _train_steps(
        train_step, state, totals, data, order, step_rng, 0, steps, batch_size=batch_size
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
    on_epoch: Callable[[Run], None] = lambda run: None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> Run:
    """Trains until `epochs` epochs are done, from wherever the run is.

    Equals calling `train_epoch` for each epoch with the same arguments.

    Args:
      train_step: `(state, batch, rng) -> (state, metrics)`.
      run: from `start_run`, or what an earlier `fit` gave or `on_epoch` was given.
      data: a tree of arrays `[N, ...]`; moved to the device as it is.
      rng: a key, the same for the whole run.
      batch_size: images per step; the last step of an epoch takes what is left over.
      epochs: how many in all.
      on_epoch: called with the run after each epoch.
      should_stop: asked about four times a second; if it says so, `fit` returns in mid-epoch.
      progress: whether to show it: a bar per epoch on a terminal, else a line per epoch.

    Returns:
      The run at its end, or where it was stopped.

    Raises:
      NonFiniteError: at the first sign of a metric or a parameter that is not finite.
    """
    data = jax.device_put(data)
    n = _length(data)
    steps = _steps_per_epoch(n, batch_size)
    order_rng, step_rng = jax.random.split(rng)
    # The compiled steps donate their state; the caller's is to stay.
    state, totals = _copied((run.state, run.totals))
    history, seconds = list(run.history), run.seconds
    epoch, at = divmod(int(state.step), steps)
    means, chunk = {}, 1
    advance = functools.partial(
        _train_steps, train_step, data=data, rng=step_rng, batch_size=batch_size
    )
    if epoch < epochs:
        # No steps at all, just to compile: the seconds are then those of training.
        order = _epoch_order(order_rng, epoch, n)
        state, totals = advance(state, totals, order=order, start=at, stop=at)
    while epoch < epochs and not should_stop():
        order = _epoch_order(order_rng, epoch, n)
        with _Progress(epoch + 1, epochs, steps, at, enabled=progress) as bar:
            while at < steps and not should_stop():
                end = min(at + chunk, steps)
                if end == steps:
                    # Likewise, for the program of the last step.
                    state, totals = advance(state, totals, order=order, start=steps, stop=steps)
                started = time.perf_counter()
                state, totals = advance(state, totals, order=order, start=at, stop=end)
                sums = jax.device_get(totals)
                elapsed = time.perf_counter() - started
                seconds += elapsed
                chunk = max(1, min(steps, int((end - at) * _CHECK_SECONDS / max(elapsed, 1e-9))))
                at = end
                means = {k: float(v / np.float32(at)) for k, v in sums._asdict().items()}
                _check_finite(means, state, epoch + 1)
                bar.show(at, means)
        if at == steps:
            epoch, at = epoch + 1, 0
            row = {"epoch": epoch, "step": int(state.step), **means}
            history.append(row | {"seconds": seconds, "steps_per_second": steps / seconds})
            totals, seconds = jax.tree.map(jnp.zeros_like, totals), 0.0
            bar.finish(history[-1])
            on_epoch(Run(state, totals, list(history), seconds))
    return Run(state, totals, history, seconds)


def _train_steps(train_step, state, totals, data, order, rng, start, stop, *, batch_size):
    """Steps start <= i < stop of an epoch.

    A program for the whole batches and one for a smaller last one: training begins when the first
    of them is compiled.
    """
    n = order.shape[0]
    full = n // batch_size
    steps = functools.partial(
        _compiled_steps, train_step, data=data, order=order, rng=rng, batch_size=batch_size
    )
    if start < full:
        state, totals = steps(state, totals, start=start, stop=min(stop, full), last=False)
    if n % batch_size and stop > full:
        state, totals = steps(state, totals, start=start, stop=stop, last=True)
    return state, totals


@functools.partial(
    jax.jit,
    static_argnames=("train_step", "batch_size", "last"),
    donate_argnames=("state", "totals"),
)
def _compiled_steps(train_step, state, totals, data, order, rng, start, stop, *, batch_size, last):
    """Start and stop are traced, so that the same program runs whatever the host asks for: where an
    epoch is cut has no influence on its result, not even on the last bit.
    """
    carry = (state, totals)

    def take(carry, indices):
        state, totals = carry
        batch = jax.tree.map(lambda x: x[indices], data)
        state, metrics = train_step(state, batch, rng)
        return state, jax.tree.map(jnp.add, totals, metrics)

    def body(i, carry):
        return take(carry, jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size))

    if last:
        rest = order[order.shape[0] // batch_size * batch_size :]
        return jax.lax.cond(start < stop, lambda c: take(c, rest), lambda c: c, carry)
    return jax.lax.fori_loop(start, stop, body, carry)


@functools.partial(jax.jit, static_argnames="n")
def _epoch_order(rng, epoch, n: int):
    return jax.random.permutation(jax.random.fold_in(rng, epoch), n)


@jax.jit
def _copied(tree):
    return jax.tree.map(jnp.copy, tree)


def _length(data) -> int:
    return jax.tree.leaves(data)[0].shape[0]


def _steps_per_epoch(n: int, batch_size: int) -> int:
    return -(-n // batch_size)


@jax.jit
def _all_finite(tree) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    # As one array, since a reduction of each leaf takes long to compile.
    return jnp.isfinite(jnp.concatenate([x.ravel() for x in leaves])).all()


def _check_finite(means: dict[str, float], state: Any, epoch: int) -> None:
    bad = [f"{name} is {value}" for name, value in means.items() if not np.isfinite(value)]
    # The losses say nothing of what the last update did: a checkpoint must not hold it unseen.
    if not bad and not _all_finite(state):
        bad = ["a parameter or an optimizer moment is not finite"]
    if bad:
        raise NonFiniteError(f"training diverged in epoch {epoch}: {', '.join(bad)}")


class _Progress:
    """One epoch's progress: a bar on a terminal, else a line when it is done."""

    def __init__(self, epoch: int, epochs: int, steps: int, at: int, *, enabled: bool):
        self._enabled = enabled
        self._title = f"epoch {epoch}/{epochs}"
        self._bar = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=at, desc=self._title, unit="step")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def show(self, at: int, means: dict[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.3f}" for k, v in means.items()}, refresh=False)
            self._bar.update(at - self._bar.n)

    def finish(self, row: dict[str, float]) -> None:
        if self._enabled and self._bar is None:
            hidden = ("epoch", "step", "seconds", "steps_per_second")
            means = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in hidden)
            print(f"{self._title}  {means}  {row['steps_per_second']:.0f} steps/s", flush=True)
