from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import struct
from helpers import assert_trees_equal

from jaxgan import loop
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.run import population
from jaxgan.run.devices import ONE_DEVICE, make_layout

RNG = jax.random.key(2)
N, BATCH = 22, 4


class Tally(struct.PyTreeNode):
    """A state of no GAN: it records at which step each row was in the batch."""

    step: jax.Array
    at: jax.Array
    weight: jax.Array


class Sums(NamedTuple):
    size: jax.Array
    total: jax.Array


def tally_step(state, batch, rng):
    rows = batch["row"]
    at = state.at.at[rows].set(state.step)
    weight = state.weight + jax.random.normal(jax.random.fold_in(rng, state.step))
    metrics = Sums(jnp.float32(rows.shape[0]), rows.sum().astype(jnp.float32))
    return Tally(state.step + 1, at, weight), metrics


@pytest.fixture
def tally():
    return Tally(jnp.int32(0), jnp.full((N,), -1), jnp.float32(0))


@pytest.fixture
def rows():
    return {"row": jnp.arange(N)}


def test_an_epoch_takes_every_row_once_and_the_rest_in_a_smaller_batch(tally, rows):
    state, means = loop.train_epoch(tally_step, tally, rows, RNG, 0, batch_size=BATCH)
    assert state.step == 6
    np.testing.assert_array_equal(np.bincount(state.at), [4, 4, 4, 4, 4, 2])
    # Means over the steps, of which the last is the smaller one.
    np.testing.assert_allclose(means, (N / 6, N * (N - 1) / 2 / 6), rtol=1e-6)


def test_order_follows_rng_and_epoch_alone(tally, rows):
    def order(rng, epoch):
        copy = jax.tree.map(jnp.copy, tally)
        return loop.train_epoch(tally_step, copy, rows, rng, epoch, batch_size=BATCH)[0].at

    np.testing.assert_array_equal(order(RNG, 3), order(RNG, 3))
    assert (order(RNG, 3) != order(RNG, 4)).any()
    assert (order(RNG, 3) != order(jax.random.key(7), 3)).any()


def test_batch_larger_than_the_data_is_one_step(tally, rows):
    state, means = loop.train_epoch(tally_step, tally, rows, RNG, 0, batch_size=100)
    assert (state.step, means.size) == (1, N)


def test_fit_is_train_epoch_for_each_epoch(images):
    state = toy.create_state(RNG, toy.ToyConfig())
    run = loop.start_run(toy.train_step, state, images, batch_size=5)
    run = loop.fit(toy.train_step, run, images, RNG, batch_size=5, epochs=3, progress=False)
    for epoch in range(3):
        state, means = loop.train_epoch(
            toy.train_step, state, jnp.asarray(images), RNG, epoch, batch_size=5
        )
        row = run.history[epoch]
        assert (row["epoch"], row["step"]) == (epoch + 1, 7 * (epoch + 1))
        for name, value in means._asdict().items():
            assert np.float32(row[name]) == value
    assert_trees_equal(run.state, state)


@pytest.mark.parametrize("vectorize", [False, True])
def test_train_epoch_takes_a_population_too(images, vectorize):
    layout = make_layout(1, population=True, vectorize=vectorize)
    rngs = jax.random.split(RNG, 6)
    states = jax.vmap(lambda rng: toy.create_state(rng, toy.ToyConfig()))(rngs)
    run = loop.start_run(toy.train_step, states, images, 5, layout)
    options = {"batch_size": 5, "layout": layout}
    run = loop.fit(toy.train_step, run, images, rngs, epochs=2, progress=False, **options)
    for epoch in range(2):
        states, means = loop.train_epoch(
            toy.train_step, states, jnp.asarray(images), rngs, epoch, **options
        )
        for name, value in means._asdict().items():
            np.testing.assert_allclose(run.history[epoch][name], value, rtol=1e-6)
    assert_trees_equal(run.state, states)


def test_a_fit_that_is_stopped_anywhere_continues_to_the_same_bits(images):
    state = toy.create_state(RNG, toy.ToyConfig())
    start = loop.start_run(toy.train_step, state, images, batch_size=5)

    def fit(run, **options):
        return loop.fit(
            toy.train_step, run, images, RNG, batch_size=5, epochs=3, progress=False, **options
        )

    whole = fit(start)
    run, stops = start, 0
    while len(run.history) < 3:
        # Asked before each stretch, the first of which is one step: each call trains for a step.
        answers = iter([False, True])
        run = fit(run, should_stop=lambda answers=answers: next(answers))
        stops += 1
        assert run.state.step == stops
    assert stops == 21
    assert_trees_equal(run.state, whole.state)
    for one, other in zip(run.history, whole.history, strict=True):
        timings = ("seconds", "steps_per_second")
        assert {k: v for k, v in one.items() if k not in timings} == {
            k: v for k, v in other.items() if k not in timings
        }


@pytest.mark.parametrize("members", [None, 2])
def test_programs_of_a_fixed_length_give_the_same_bits(images, monkeypatch, members):
    """On accelerators. An epoch has 6 whole batches and a smaller one; the run starts at step 1."""
    layout, rng = make_layout(1, population=members is not None), RNG
    state = toy.create_state(RNG, toy.ToyConfig())
    if members is not None:
        rng = jax.random.split(RNG, members)
        state = jax.vmap(lambda rng: toy.create_state(rng, toy.ToyConfig()))(rng)

    def fit(run, **options):
        options |= {"batch_size": 5, "epochs": 2, "layout": layout, "progress": False}
        return loop.fit(toy.train_step, run, images, rng, **options)

    answers = iter([False, True])
    start = loop.start_run(toy.train_step, state, images, 5, layout)
    start = fit(start, should_stop=lambda: next(answers))
    assert loop.step(start.state) == 1
    plain, steps, events = fit(start), loop._compiled_steps, []

    def record(*args, length=None, **options):
        events.append((options["start"], options["stop"], length))
        return steps(*args, length=length, **options)

    def lower(*args, **options):
        events.append("last" if options.get("last") else options.get("length"))
        return steps.lower(*args, **options)

    monkeypatch.setattr(record, "lower", lower, raising=False)
    monkeypatch.setattr(loop, "_compiled_steps", record)
    monkeypatch.setattr(loop, "_chunk", lambda full: 4)
    run = fit(start)
    assert_trees_equal((run.state, run.totals), (plain.state, plain.totals))
    # The first steps do not wait for the programs of the later ones.
    first, second = [(1, 5, 4), (5, 6, None), (6, 7, None)], [(0, 4, 4), (4, 6, None), (6, 7, None)]
    assert events == [4, first[0], None, "last", *first[1:], *second]

    # Nor do they when a run resumes.
    answers = iter([False, True])
    stopped = fit(start, should_stop=lambda: next(answers))
    assert loop.step(stopped.state) == 5
    events.clear()
    fit(stopped)
    assert events == [None, "last", *first[1:], 4, *second]


def test_chunks_leave_few_steps_over():
    assert loop._chunk(468) == loop._chunk(468, "cpu") == 0
    for full, chunk in ((468, 36), (64, 32), (12, 12), (1, 1), (0, 0), (467, 58)):
        assert loop._chunk(full, "gpu") == chunk


class Labelled(struct.PyTreeNode):
    """A state that records the label that came with each image, and how often it came."""

    step: jax.Array
    labels: jax.Array
    counts: jax.Array


def label_step(state, batch, rng):
    assert (batch["image"].dtype, batch["label"].dtype) == (jnp.uint8, jnp.int32)
    images = batch["image"][:, 0, 0, 0]
    labels = state.labels.at[images].set(batch["label"])
    metrics = Sums(jnp.float32(len(images)), batch["label"].sum().astype(jnp.float32))
    return Labelled(state.step + 1, labels, state.counts.at[images].add(1)), metrics


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(("members", "vectorize"), [(None, False), (3, False), (3, True)])
def test_labels_stay_with_their_images(devices, members, vectorize):
    # Each image has its number as its pixels.
    data = {
        "image": np.arange(N, dtype=np.uint8).reshape(N, 1, 1, 1).repeat(2, axis=2),
        "label": (7 * np.arange(N, dtype=np.int32) + 3) % 11,
    }
    state = Labelled(jnp.int32(0), jnp.full(N, -1), jnp.zeros(N, jnp.int32))
    layout, rng, fit = ONE_DEVICE if devices == 1 else make_layout(devices), RNG, loop.fit
    if members is not None:
        layout = make_layout(devices, population=True, vectorize=vectorize)
        rng, fit = jax.random.split(RNG, members), population.fit
        state = jax.tree.map(lambda x: jnp.stack([x] * members), state)
    run = loop.start_run(label_step, state, data, BATCH, layout)
    options = {"batch_size": BATCH, "epochs": 2, "progress": False, "layout": layout}
    run = fit(label_step, run, data, rng, **options)
    for labels, counts in zip(
        run.state.labels.reshape(-1, N), run.state.counts.reshape(-1, N), strict=True
    ):
        np.testing.assert_array_equal(labels, data["label"])
        np.testing.assert_array_equal(counts, 2)
    np.testing.assert_allclose(run.history[1]["total"], data["label"].sum() / 6, rtol=1e-6)


def test_arrays_of_different_lengths_are_refused(tally, rows):
    labels = jnp.arange(N - 1)
    with pytest.raises(JaxganError, match=f"must have one length, got .{N - 1}, {N}"):
        loop.start_run(tally_step, tally, {**rows, "label": labels}, BATCH)


def test_metrics_in_bfloat16_are_summed_in_float32(tally):
    def step(state, batch, rng):
        state, metrics = tally_step(state, batch, rng)
        return state, metrics._replace(total=jnp.bfloat16(1.0))

    # A sum in bfloat16 would stand still at 256.
    rows = {"row": jnp.zeros(600, jnp.int32)}
    _, means = loop.train_epoch(step, tally, rows, RNG, 0, batch_size=1)
    assert means.total == 1.0


def test_fit_leaves_the_callers_state_alone_and_reports_each_epoch(tally, rows):
    start = loop.start_run(tally_step, tally, rows)
    reported = []
    run = loop.fit(
        tally_step,
        start,
        rows,
        RNG,
        batch_size=BATCH,
        epochs=2,
        on_epoch=lambda run: reported.append((len(run.history), int(run.state.step))),
        progress=False,
    )
    assert reported == [(1, 6), (2, 12)]
    assert (tally.step, run.state.step) == (0, 12)
    again = loop.fit(tally_step, run, rows, RNG, batch_size=BATCH, epochs=2, progress=False)
    assert_trees_equal(again.state, run.state)


def test_a_metric_that_is_not_finite_stops_and_names_the_epoch(tally, rows):
    def diverging(state, batch, rng):
        state, metrics = tally_step(state, batch, rng)
        return state, metrics._replace(total=jnp.where(state.step > 8, jnp.nan, 1.0))

    start = loop.start_run(diverging, tally, rows)
    with pytest.raises(NonFiniteError, match="epoch 2: not finite: total"):
        loop.fit(diverging, start, rows, RNG, batch_size=BATCH, epochs=5, progress=False)


def test_a_parameter_that_is_not_finite_stops_before_the_epoch_is_reported(tally, rows):
    def diverging(state, batch, rng):
        state, metrics = tally_step(state, batch, rng)
        return state.replace(weight=jnp.where(state.step == 6, jnp.inf, 0.0)), metrics

    reported = []
    start = loop.start_run(diverging, tally, rows)
    with pytest.raises(NonFiniteError, match="epoch 1: not finite: a parameter"):
        loop.fit(
            diverging,
            start,
            rows,
            RNG,
            batch_size=BATCH,
            epochs=5,
            on_epoch=reported.append,
            progress=False,
        )
    assert not reported


def test_a_line_per_epoch_where_there_is_no_terminal(tally, rows, capsys):
    start = loop.start_run(tally_step, tally, rows)
    loop.fit(tally_step, start, rows, RNG, batch_size=BATCH, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  size 3.6667  total 38.5000")
    assert lines[1].endswith("steps/s")
