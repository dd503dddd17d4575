"""Many steps: `train_epoch`, one compiled program, and `fit`, the loop on the host.

Both work with any `train_step(state, batch, rng) -> (state, metrics)` whose state has an attribute
`step` and whose metrics are a NamedTuple of scalars.

The order of the data is a function of (rng, epoch), and a batch is one of (rng, epoch, step).
`train_step` folds `state.step` into its rng. So a run can continue from any state, to the bit.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.history import finite_mean
from jaxgan.inputs import check_labels, check_scale
from jaxgan.processes import agree
from jaxgan.run.devices import ONE_DEVICE, Layout, fetch
from jaxgan.run.profile import Profile

TrainStep = Callable[[Any, Any, jax.Array], tuple[Any, Any]]

_CHECK_SECONDS = 0.25
"""How long compiled programs run before the host shows the progress and asks `should_stop`."""
_CHUNK = 32, 64
"""The least and the most steps of a program whose number of steps is fixed (`_chunk`)."""


class Run(NamedTuple):
    """A run at some step. With data, rng and settings it determines the rest of the run."""

    state: Any
    totals: Any
    """Metrics summed over the steps of the current epoch."""
    history: list[dict[str, Any]]
    """A row for each finished epoch (`jaxgan.history`), with the results of `measure` in `fit`."""
    seconds: float
    """The time of training in the current epoch."""


class RunKeys(NamedTuple):
    """The keys of a run: equal seeds give equal runs."""

    init: jax.Array
    """For the initial parameters."""
    training: jax.Array
    """For `fit`: the order of the data, and the random numbers of the steps."""
    pictures: jax.Array
    """For the samples in the run folder."""


def make_rngs(seed: Any) -> RunKeys:
    """The keys of a run for a seed, 0 <= seed < 2**32. Seeds `[members]` give keys `[members]`."""
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
    places: int | None = None,
) -> Run:
    """A run before its first step. `data` is a tree of arrays `[N, ...]`, batched along N.

    If `fit` has the same batch size and places, the step is traced once for both.

    Raises:
      JaxganError: if the arrays have different lengths, if images have another scale, or if labels
        are out of range.
    """
    lengths = sorted({x.shape[0] for x in jax.tree.leaves(data)})
    if len(lengths) > 1:  # jax would give the last label to the images that have none
        raise JaxganError(f"the arrays of the data must have one length, got {lengths}")
    check_scale(data, getattr(state, "config", None))
    check_labels(data, getattr(state, "config", None))
    n = places or batch_size
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), data)
    if places:
        batch |= {"included": jax.ShapeDtypeStruct((n,), bool)}

    def metrics_of(state, batch):
        return train_step(state, batch, jax.random.key(0))[1]

    metrics = jax.eval_shape(layout.map(metrics_of, 0, None), state, batch)
    # A sum of hundreds of bfloat16 numbers would be too inaccurate.
    totals = jax.tree.map(
        lambda m: jnp.zeros(m.shape, m.dtype if m.dtype.itemsize >= 4 else jnp.float32), metrics
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
    """Trains for one epoch: a compiled program, and a second one for a smaller last batch.

    Args:
      train_step: `(state, batch, rng) -> (state, metrics)`.
      state: donated, so it must not be used again.
      data: a tree of arrays `[N, ...]`, on the device.
      rng: a key, the same for all epochs of a run; for a population `[members]` keys.
      epoch: the number of the epoch, from 0.
      batch_size: images per step; the last step takes the rest.
      layout: where state, data and rng are. For one run on several devices, N must be a multiple
        of their number.

    Returns:
      The state after ceil(N / batch_size) steps, and the means of the metrics over them.
    """
    totals = start_run(train_step, state, data, batch_size, layout).totals
    order_rng, step_rng = _split(rng)
    n = _length(data)
    steps = _steps_per_epoch(n, batch_size)
    order, full = _epoch_order(order_rng, epoch, n), n // batch_size
    # On an accelerator the whole batches of the epoch are one chunk.
    for options, start, stop in _programs(0, steps, full, full if _chunk(full) else 0):
        state, totals = _compiled_steps(
            train_step,
            state,
            totals,
            data,
            order,
            step_rng,
            start,
            stop,
            batch_size=batch_size,
            layout=layout,
            **options,
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
    places: int | None = None,
    profile: Profile | None = None,
) -> Run:
    """Trains a run until it has `epochs` epochs. The run may be at any step. The result equals that
    of `train_epoch`, called for each epoch with the same arguments.

    Args:
      train_step, data, rng, batch_size: as in `train_epoch`; the data are moved to the devices.
      run: from `start_run`, from an earlier `fit`, or from `on_epoch`.
      epochs: the number of epochs in all.
      measure: called with the run after each epoch; its result is added to the row of the epoch.
      on_epoch: called with the run after `measure`; the run's arrays are donated afterwards.
      should_stop: called about four times a second, between programs. If it returns True in one
        process, all stop at that step.
      progress: whether to show it: on a terminal a bar for the whole run, else at most 100 lines.
      label: shown in place of the number of the epoch.
      layout: on which devices, and whether `run` is a population: leaves of its state and totals
        have a leading axis `[members]`, and each member has its own order of the data.
      places: for Poisson sampling: each step takes each image with probability batch_size / N. A
        batch, a dict, has so many places, and "included", bool `[places]`, says which are taken.
      profile: traces some steps.

    Returns:
      The run at its end, or where it was stopped. The metrics of diverged members are NaN.

    Raises:
      JaxganError: if `run` is no Run; NonFiniteError, if a single run diverges.
    """
    fitting = _Fitting(train_step, run, data, rng, batch_size, layout, places, profile)
    # A part of a population has a label, and a bar for each epoch.
    first, every = (fitting.epoch, 1) if label else (0, max(1, epochs // 50))
    with _Progress((epochs - first) * fitting.steps, enabled=progress) as bar:
        while fitting.epoch < epochs:
            bar.title = label or f"epoch {fitting.epoch + 1}/{epochs}"
            before = (fitting.epoch - first) * fitting.steps
            means = fitting.finish_epoch(should_stop, functools.partial(bar.show, before))
            if means is None:
                break
            if fitting.epoch % every == 0 or fitting.epoch == epochs:
                bar.print_line(means, fitting.history[-1]["steps_per_second"])
            finished = fitting.current()
            finished.history[-1].update(measure(finished))  # also the last row of fitting.history
            on_epoch(finished)
    return fitting.current()


class _Fitting:
    """A run on its devices, in the middle of `fit`."""

    def __init__(
        self,
        train_step,
        run: Run,
        data,
        rng,
        batch_size: int,
        layout: Layout,
        places: int | None,
        profile: Profile | None,
    ):
        if not isinstance(run, Run):
            raise JaxganError(
                f"fit trains a Run, got {type(run).__name__}: give it start_run(train_step, state, "
                "data, batch_size)"
            )
        self._layout, self._members, self._n = layout, rng.size, _length(data)
        self.steps = _steps_per_epoch(self._n, batch_size)
        self._full = self.steps if places else self._n // batch_size
        self._chunk = _chunk(self._full)
        self._rate, self._places, self._profile = batch_size / self._n, places, profile
        self._order_rng, step_rng = layout.place_run(_split(rng))
        # The compiled steps donate their state, so they get a copy of the caller's.
        self._state, self._totals = layout.place_run((run.state, run.totals))
        self._train_step = train_step
        self._arguments = {
            "data": layout.place_data(data),
            "rng": step_rng,
            "batch_size": places or batch_size,
            "layout": layout,
            "is_random": places is not None,
        }
        self._compiled: list[dict[str, Any]] = []
        """The options of the programs that are compiled."""
        self.history, self._seconds = list(run.history), run.seconds
        self.epoch, self.at = divmod(step(self._state), self.steps)

    def finish_epoch(self, should_stop, show) -> dict[str, np.ndarray] | None:
        """Trains to the end of the epoch. Returns the means of its metrics, or None if stopped."""
        means = {}
        for elapsed in self._stretches(should_stop):
            self._seconds += elapsed
            sums = fetch(self._layout.cut(self._totals, self._members))
            means = {k: v / np.float32(self.at) for k, v in sums._asdict().items()}
            show(self.at, means)  # before the check, whose first call compiles a program
            means = self._checked(means)
        if self.at < self.steps:
            return None
        self.epoch, self.at = self.epoch + 1, 0
        row = {"epoch": self.epoch, "step": step(self._state)}
        row |= {name: mean.tolist() for name, mean in means.items()}
        rate = self._members * self.steps / self._seconds
        self.history.append(row | {"seconds": self._seconds, "steps_per_second": rate})
        self._totals, self._seconds = jax.tree.map(jnp.zeros_like, self._totals), 0.0
        return means

    def current(self) -> Run:
        state, totals = self._layout.cut((self._state, self._totals), self._members)
        return Run(state, totals, list(self.history), self._seconds)

    def _stretches(self, should_stop) -> Iterator[float]:
        """Trains to the end of the epoch or until it should stop.

        Yields the seconds of each stretch of about _CHECK_SECONDS.
        """
        order, chunk = self._order(), self._chunk or 1
        length = chunk
        while self.at < self.steps:
            length, stop = agree([length, should_stop()])
            if stop:
                return
            if self._profile is not None:
                length = self._profile.limited(int(length), self.steps)
            # A stretch has whole chunks: a part of one would need another program.
            length = max(chunk, int(length) // chunk * chunk)
            end = min(self.at + length, self.steps)
            self._compile(order, self.at, end)
            with self._traced(self.at + 1, end):
                started = time.perf_counter()
                self._train(order, self.at, end)
                jax.block_until_ready((self._state, self._totals))
                elapsed = time.perf_counter() - started
            per_second = (end - self.at) / max(elapsed, 1e-9)
            length = max(1, min(self.steps, int(per_second * _CHECK_SECONDS)))
            self.at = end
            yield elapsed

    def _compile(self, order, start: int, stop: int) -> None:
        """Compiles the programs of these steps, but takes no step: the seconds count only training.

        Each program is compiled before the first stretch that needs it. So the first step seldom
        waits for the program of a smaller last batch.
        """
        for options, _, _ in _programs(start, stop, self._full, self._chunk):
            if options not in self._compiled:
                steps = (self._train_step, self._state, self._totals)
                arguments = self._arguments | {"order": order, "start": start, "stop": stop}
                _compiled_steps.lower(*steps, **arguments, **options).compile()
                self._compiled.append(options)

    def _traced(self, first: int, last: int) -> contextlib.AbstractContextManager[None]:
        """Traces these steps of the epoch, if the profile wants them."""
        if self._profile is None:
            return contextlib.nullcontext()
        before = self.epoch * self.steps
        return self._profile.stretch(before + first, before + last)

    def _train(self, order, start: int, stop: int) -> None:
        for options, first, end in _programs(start, stop, self._full, self._chunk):
            self._state, self._totals = _compiled_steps(
                self._train_step,
                self._state,
                self._totals,
                order=order,
                start=first,
                stop=end,
                **self._arguments,
                **options,
            )

    def _order(self) -> jax.Array:
        if self._places is not None:
            size = {"n": self._n, "steps": self.steps, "places": self._places}
            return _random_order(self._order_rng, self.epoch, self._rate, **size)
        return _epoch_order(self._order_rng, self.epoch, self._n)

    def _checked(self, means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The means, with NaN for diverged members.

        Raises:
          NonFiniteError: if it is one run, and it has diverged.
        """
        parameters = np.ravel(fetch(_finite(self._state, self._layout)))[: self._members]
        finite = parameters & np.all([np.isfinite(mean) for mean in means.values()], axis=0)
        if finite.all():
            return means
        if self._layout.population:
            return {name: np.where(finite, mean, np.nan) for name, mean in means.items()}
        # Metrics are measured before the update. Its result, which is saved, may not be finite.
        names = [name for name, mean in means.items() if not np.isfinite(mean)]
        what = ", ".join(names[:4] or ["a parameter or an optimizer moment"])
        raise NonFiniteError(f"training diverged in epoch {self.epoch + 1}: not finite: {what}")


def _chunk(full: int, platform: str | None = None) -> int:
    """How many steps a program takes on an accelerator; 0 on a CPU, where the number may be open.

    A GPU waits in each turn of an open loop until the host has read a flag.

    Args:
      full: the steps of an epoch that have whole batches. Few of them are left over.
      platform: of the devices, by default that of jax.
    """
    if (platform or jax.default_backend()) == "cpu":
        return 0
    least, most = (min(length, full) for length in _CHUNK)
    return min(range(max(1, least), most + 1), key=lambda length: full % length, default=0)


def _programs(
    start: int, stop: int, full: int, chunk: int
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The programs that take the steps start <= i < stop of an epoch.

    Args:
      start, stop: steps.
      full: the steps of an epoch that have whole batches.
      chunk: the steps of a program whose number of steps is fixed; 0 if there is none.

    Yields:
      For each program: the options of `_compiled_steps`, its first step, and the step after its
      last one. First come the chunks, then the other whole batches, then a smaller last batch.
    """
    end = min(stop, full)
    while chunk and start + chunk <= end:
        yield {"length": chunk}, start, start + chunk
        start += chunk
    if start < end:
        yield {}, start, end
    if stop > full:
        yield {"last": True}, full, stop


@functools.partial(
    jax.jit,
    static_argnames=("train_step", "batch_size", "length", "last", "layout", "is_random"),
    donate_argnames=("state", "totals"),
)
def _compiled_steps(
    train_step,
    state,
    totals,
    data,
    order,
    rng,
    start,
    stop,
    *,
    batch_size,
    length=None,
    last=False,
    layout=ONE_DEVICE,
    is_random=False,
):
    """Takes the steps start <= i < stop of an epoch, or `length` steps from the start, or the last
    step, whose batch is smaller.

    Start and stop are traced, so that all stretches of an epoch have the same programs. The result
    does not depend on where the epoch is cut, not even in the last bit.
    """

    def steps(carry, order, rng, data, start, stop):
        state, totals = carry
        # To add one array takes fewer kernels on an accelerator. On a CPU that would cost 4% of a
        # step.
        as_one = length is not None
        sums, unpack = _pack(totals, as_one)

        def take(indices, carry):
            state, sums = carry
            batch = jax.tree.map(lambda x: x[jnp.maximum(indices, 0)], data)
            if is_random:
                batch |= {"included": indices >= 0}
            batch = layout.split_batch(batch)
            state, metrics = train_step(state, batch, rng)
            with jax.named_scope("measure"):
                # A sum may have a wider dtype than its metric.
                metrics = jax.tree.map(lambda x, total: x.astype(total.dtype), metrics, totals)
                sums = jax.tree.map(jnp.add, sums, _pack(metrics, as_one)[0])
            return state, sums

        def body(i, carry):
            at = i * batch_size
            return take(jax.lax.dynamic_slice_in_dim(order, at, batch_size), carry)

        carry = state, sums
        if last:
            carry = take(order[order.shape[0] // batch_size * batch_size :], carry)
        elif length is not None:
            carry = jax.lax.fori_loop(0, length, lambda i, carry: body(start + i, carry), carry)
        else:
            carry = jax.lax.fori_loop(start, stop, body, carry)
        state, sums = carry
        return state, unpack(sums)

    return layout.for_each_member(steps, (state, totals), (order, rng), (data, start, stop))


def _pack(metrics: Any, as_one: bool) -> tuple[Any, Callable[[Any], Any]]:
    """All metrics, and the function that restores their tree. With `as_one` they become one array,
    if they have one dtype."""
    if not as_one or len({x.dtype for x in jax.tree.leaves(metrics)}) > 1:
        return metrics, lambda packed: packed
    return ravel_pytree(metrics)


@functools.partial(jax.jit, static_argnames="n")
def _epoch_order(rng, epoch, n: int):
    """A permutation of 0 to n - 1 for each key: `[n]` or `[members, n]`."""

    def order(rng):
        return jax.random.permutation(jax.random.fold_in(rng, epoch), n)

    return jax.vmap(order)(rng) if rng.ndim else order(rng)


@functools.partial(jax.jit, static_argnames=("n", "steps", "places"))
def _random_order(rng, epoch, rate, *, n: int, steps: int, places: int):
    """The images of each step, `[steps * places]` or `[members, ...]`; empty places are -1.

    A step takes each image with probability `rate`.
    """

    def take(rng):
        taken = jax.random.bernoulli(rng, rate, (n,))
        return jnp.nonzero(taken, size=places, fill_value=-1)[0].astype(jnp.int32)

    def order(rng):
        rngs = jax.random.split(jax.random.fold_in(rng, epoch), steps)
        return jax.lax.map(take, rngs).ravel()

    return jax.vmap(order)(rng) if rng.ndim else order(rng)


@jax.jit
def _split(rng) -> tuple[jax.Array, jax.Array]:
    """Splits each key into one for the order of the data and one for the steps."""
    rngs = jax.vmap(jax.random.split)(rng.ravel())
    return rngs[:, 0].reshape(rng.shape), rngs[:, 1].reshape(rng.shape)


def step(state: Any) -> int:
    """The step of a state; all members of a population are at the same step."""
    return int(jax.jit(jnp.max)(state.step))


def _length(tree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _steps_per_epoch(n: int, batch_size: int) -> int:
    return -(-n // batch_size)


@functools.partial(jax.jit, static_argnames="layout")
def _finite(state, layout: Layout) -> jax.Array:
    """Whether all numbers of a state are finite: a scalar, or `[members]`."""

    def all_finite(state):
        leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
        # One reduction compiles faster than one for each leaf.
        flags = [jnp.isfinite(x).ravel() for x in leaves]
        return jnp.concatenate([*flags, jnp.ones(1, bool)]).all()

    return layout.map(all_finite, 0)(state)


class _Progress:
    """The progress of `steps` steps: a bar on a terminal, else lines.

    A bar shows the first two metrics, a line the first four. For a population these are means over
    the members that have not diverged.
    """

    def __init__(self, steps: int, *, enabled: bool):
        self._enabled = enabled
        self._bar = None
        self.title = ""
        if enabled and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            # For 80 columns, with the time left.
            form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(total=steps, bar_format=form, dynamic_ncols=True, delay=1e-9)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def show(self, before: int, at: int, means: dict[str, np.ndarray]) -> None:
        """Shows that the steps before this epoch, and `at` steps of it, have been taken."""
        if self._bar is not None:
            self._bar.set_description(self.title, refresh=False)
            self._bar.set_postfix(
                {k: f"{finite_mean(v):.3f}" for k, v in list(means.items())[:2]}, refresh=False
            )
            if self._bar.n == 0 and before:  # resumed: the time left is by the new steps
                self._bar.initial = self._bar.n = before
            self._bar.update(before + at - self._bar.n)

    def print_line(self, means: dict[str, np.ndarray], rate: float) -> None:
        """Prints the end of an epoch, where there is no bar."""
        if self._enabled and self._bar is None:
            shown = "  ".join(f"{k} {finite_mean(v):.4f}" for k, v in list(means.items())[:4])
            print(f"{self.title}  {shown}  {rate:.0f} steps/s", flush=True)
