"""Populations: each member is the single run of its seed, however and wherever they are trained."""

import dataclasses
import statistics

import jax
import numpy as np
import pytest
from test_gan import assert_trees_equal
from test_transforms import assert_trees_close

from jaxgan import GANConfig, JaxganError, create_state, loop, population, train_step
from jaxgan.devices import make_layout
from jaxgan.errors import NonFiniteError

# Of this size, in these batches of these images in test_loop and test_population_runs too: each
# program is then compiled once for all.
SEEDS = [7, 2**32 - 1, 0, 5, 6, 8]
RATES = [1e-3, 3e-4, 2e-3, 1e-4, 5e-4, 4e-4]
SETTINGS = {"epochs": 2, "batch_size": 5, "progress": False}


def single(config, images, seed, **settings) -> loop.Run:
    rngs = loop.make_rngs(seed)
    run = loop.start_run(train_step, create_state(rngs.init, config), images)
    return loop.fit(train_step, run, images, rngs.training, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def in_turns(tiny, images) -> loop.Run:
    """The population that others are compared with, on one device."""
    return population.train_population(
        tiny, images, SEEDS, generator_lr=RATES, devices=1, vectorize=False, **SETTINGS
    )


def metrics_of(run: loop.Run) -> list[dict]:
    timings = ("seconds", "steps_per_second")
    return [{k: v for k, v in row.items() if k not in timings} for row in run.history]


def test_in_turns_each_member_is_its_single_run_to_the_bit(tiny, images, in_turns):
    for i in (1, 4):
        config = dataclasses.replace(tiny, generator_lr=RATES[i])
        alone = single(config, images, SEEDS[i])
        member = population.member(in_turns.state, i)
        assert_trees_equal(jax.tree.leaves(member), jax.tree.leaves(alone.state))
        for row, expected in zip(metrics_of(in_turns), metrics_of(alone), strict=True):
            assert {k: v[i] if isinstance(v, list) else v for k, v in row.items()} == expected
    assert in_turns.history[0]["gen_loss"][0] != in_turns.history[0]["gen_loss"][1]


def test_together_each_member_stays_with_its_single_run_for_100_steps(tiny, images):
    # Adam divides by the size of the gradients: where those are rounding alone, it lifts it to the
    # size of a step. A larger epsilon keeps the comparison to what was computed.
    config = dataclasses.replace(tiny, adam_eps=1e-3)
    settings = SETTINGS | {"epochs": 15}
    together = population.train_population(
        config, images, SEEDS, generator_lr=RATES, devices=1, vectorize=True, **settings
    )
    assert together.history[-1]["step"] == 105
    for i in range(2):
        alone = single(
            dataclasses.replace(config, generator_lr=RATES[i]), images, SEEDS[i], epochs=15
        )
        member = population.member(together.state, i)
        for one, other in zip(jax.tree.leaves(member), jax.tree.leaves(alone.state), strict=True):
            atol = 2e-5 * float(np.abs(other).max())
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("vectorize", [False, True])
def test_members_are_split_over_devices_that_they_do_not_fill(tiny, images, in_turns, vectorize):
    run = population.train_population(
        tiny, images, SEEDS, generator_lr=RATES, vectorize=vectorize, **SETTINGS
    )
    assert len(run.state.step) == 6
    (assert_trees_close if vectorize else assert_trees_equal)(run.state, in_turns.state)


@pytest.fixture
def members():
    return [{"seed": s, "generator_lr": r} for s, r in zip(SEEDS, RATES, strict=True)]


def test_each_device_holds_its_members_and_no_others(tiny, members):
    layout = make_layout(population=True)
    placed = layout.place_run(population.create_states(tiny, members))
    for leaf in jax.tree.leaves(placed):
        # Six members fill the four devices up to eight.
        assert [len(shard.data) for shard in leaf.addressable_shards] == [2] * 4
    assert_trees_equal(layout.cut(placed, 6), population.create_states(tiny, members))


def fit(run, images, members, layout, **options):
    return population.fit(
        train_step,
        run,
        images,
        population.make_rngs(members).training,
        layout=layout,
        **(SETTINGS | options),
    )


@pytest.fixture
def start(tiny, images, members):
    layout = make_layout(1, population=True)
    states = population.create_states(tiny, members)
    return layout, loop.start_run(train_step, states, images, layout=layout)


def test_in_parts_it_is_the_same_population(images, members, start, in_turns, capsys):
    layout, run = start
    seen = []
    run = fit(
        run, images, members, layout, at_once=2, on_epoch=lambda r: seen.append(len(r.history)),
        progress=True,
    )  # fmt: skip
    assert_trees_equal(run.state, in_turns.state)
    assert metrics_of(run) == metrics_of(in_turns)
    assert seen == [1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("epoch 1/2, members 0-1 of 6  gen_loss")


def test_in_parts_and_stopped_it_is_as_after_the_last_whole_epoch(images, members, start, in_turns):
    layout, run = start
    # The first epoch of three parts, each asked once per chunk of steps, of which the first is one.
    asked = iter(range(10**6))
    stopped = fit(
        run, images, members, layout, at_once=2, should_stop=lambda: next(asked) >= 12, epochs=50
    )
    assert 0 < len(stopped.history) < 50
    assert int(stopped.state.step[0]) == 7 * len(stopped.history)
    one_epoch = fit(run, images, members, layout, epochs=len(stopped.history))
    assert_trees_equal(stopped.state, one_epoch.state)


def test_what_the_memory_does_not_hold_goes_in_parts(images, members, start, monkeypatch):
    layout, run = start
    together = layout._replace(vectorize=True)
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(population.member(run.state, 0)))

    def at_once(layout, memory):
        monkeypatch.setattr(population, "_memory", lambda device: memory)
        return population.members_at_once(train_step, run, images, 5, layout)

    assert at_once(layout, 1000 * state_bytes) > at_once(layout, 10 * state_bytes) >= 2
    # Taking a step together needs room for what each computes on its way.
    assert at_once(together, 20 * state_bytes) < at_once(layout, 20 * state_bytes)
    assert at_once(layout, 1) == 1
    assert at_once(make_layout(4, population=True), 1) == 4
    seen = []
    monkeypatch.setattr(loop, "fit", lambda *args, **_: seen.append(args[3].size) or args[1])
    monkeypatch.setattr(population, "members_at_once", lambda *_: 2)
    fit(run, images, members, layout)
    assert seen == [2]  # and a part that gives no epoch was stopped


def test_parts_need_not_be_of_one_size(images, members, start, monkeypatch):
    layout, run = start
    seen = []

    def an_epoch(train_step, part, data, rngs, **_):
        """In place of training; the seeds tell the members apart."""
        seen.append(rngs.size)
        row = {"seconds": 1.0, "steps_per_second": 2.0, "gen_loss": [float(len(seen))] * rngs.size}
        return part._replace(history=[row])

    monkeypatch.setattr(loop, "fit", an_epoch)
    five = population.member(run.state, slice(5)), population.member(run.totals, slice(5))
    after = fit(loop.Run(*five, [], 0.0), images, members[:5], layout, at_once=2, epochs=1)
    assert seen == [2, 2, 1]
    assert after.history[0]["gen_loss"] == [1, 1, 2, 2, 3]
    assert_trees_equal(after.state, five[0])


def test_a_member_that_diverges_fails_alone(tiny, images, in_turns):
    rates = [*RATES[:2], 1e38, *RATES[3:]]
    run = population.train_population(
        tiny, images, SEEDS, generator_lr=rates, devices=1, vectorize=False, **SETTINGS
    )
    members = [{"seed": s, "generator_lr": r} for s, r in zip(SEEDS, rates, strict=True)]
    for i in (0, 1, 3, 4, 5):
        assert_trees_equal(population.member(run.state, i), population.member(in_turns.state, i))
    assert all(np.isnan(run.history[-1][name][2]) for name in ("gen_loss", "real_score"))
    report = population.report(tiny, members, run.history[-1])
    assert report.failed == [2]
    assert sum(line["failed"] for line in report.summary) == 1
    assert 2 not in (report.best, report.worst)


def test_if_all_members_diverge_the_run_is_over(tiny, images):
    with pytest.raises(NonFiniteError, match="epoch 1: all 6 members"):
        population.train_population(
            tiny, images, SEEDS, generator_lr=1e38, devices=1, vectorize=False, **SETTINGS
        )


def test_the_report_is_what_statistics_say():
    members = population.crossed(3, 3, {"generator_lr": [1e-4, 1e-3]})
    assert [m["seed"] for m in members] == [3, 4, 5, 3, 4, 5]
    assert [m["generator_lr"] for m in members] == [1e-4] * 3 + [1e-3] * 3
    losses = [1.0, 1.3, 0.2, 2.0, float("nan"), 1.5]
    row = {"epoch": 1, "step": 9, "disc_loss": losses, "seconds": 1.0}
    report = population.report(GANConfig(), members, row)
    assert report.failed == [4]
    # log 4 = 1.386: 1.3 is nearest, 0.2 furthest.
    assert (report.best, report.worst) == (1, 2)
    low, high = report.summary
    assert (low["members"], low["failed"], high["members"], high["failed"]) == (3, 0, 3, 1)
    assert low["disc_loss_mean"] == pytest.approx(statistics.mean(losses[:3]))
    assert low["disc_loss_sd"] == pytest.approx(statistics.stdev(losses[:3]))
    assert high["disc_loss_mean"] == pytest.approx(1.75)
    assert high["disc_loss_sd"] == pytest.approx(statistics.stdev([2.0, 1.5]))
    # And .25 of least squares, to which 0.2 is nearest, and 2.0 furthest.
    report = population.report(GANConfig(loss="least_squares"), members, row)
    assert (report.best, report.worst) == (2, 3)
    alone = population.report(GANConfig(), [{"seed": 0}], {"disc_loss": [1.0]})
    assert alone.summary[0]["disc_loss_sd"] is None
    nobody = population.report(GANConfig(), [{"seed": 0}], {"disc_loss": [float("inf")]})
    assert (nobody.best, nobody.worst, nobody.summary) == (
        None,
        None,
        [{"members": 1, "failed": 1}],
    )


@pytest.mark.parametrize(
    ("seeds", "own", "message"),
    [
        ([], {}, "at least one member"),
        ([0, 1], {"generator_lr": [1e-3]}, "generator_lr has 1 values for 2 seeds"),
        (
            [0, 1],
            {"generator_lr": [1e-3, -1.0]},
            "generator_lr must be above 0, and finite, got -1.0",
        ),
        ([0], {"latent_dim": 5}, "cannot differ in 'latent_dim'; .*generator_lr"),
        ([0], {"devices": 9}, "from 1 to the 4 that jax finds .*JAX_NUM_CPU_DEVICES.* got 9"),
        ([2**32], {}, "seeds must be from 0"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, images, seeds, own, message):
    with pytest.raises(JaxganError, match=message):
        population.train_population(tiny, images, seeds, **SETTINGS, **own)
