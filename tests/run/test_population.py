"""Populations: each member is the single run of its seed, however and wherever they are trained.

That it is so to the bit for members in turns is tested in tests/adversarial/test_remedies.py.
"""

import dataclasses
import statistics

import jax
import numpy as np
import pytest
import toy
from helpers import assert_trees_close, assert_trees_equal

from jaxgan import MODELS, GANConfig, JaxganError, loop
from jaxgan.errors import NonFiniteError
from jaxgan.model import Diagnosis, Finding
from jaxgan.run import population
from jaxgan.run.devices import make_layout

GAN = MODELS["gan"]
SEEDS = [7, 2**32 - 1, 0, 5, 6, 8]
RATES = [1e-3, 3e-4, 2e-3, 1e-4, 5e-4, 4e-4]
# Of the 30 images no smaller batch is left, so that there is one program to compile;
# test_loop has smaller batches.
SETTINGS = {"epochs": 2, "batch_size": 5, "progress": False}


@pytest.fixture(scope="module")
def images(images) -> np.ndarray:
    return images[:30]


@pytest.fixture(scope="module")
def config(tiny) -> GANConfig:
    # Adam divides by the size of the gradients. It would lift gradients that are rounding alone to
    # the size of a step. With a larger epsilon the comparison is of what was computed.
    return dataclasses.replace(tiny, adam_eps=1e-3)


def single(config, images, seed, rate, **settings) -> loop.Run:
    """A single run. The rate replaces the one in its state, which costs no new program."""
    rngs = loop.make_rngs(seed)
    state = GAN.create_state(rngs.init, config)
    state = population.with_hyperparameters(GAN, state, generator_lr=rate)
    run = loop.start_run(GAN.train_step, state, images, 5)
    return loop.fit(GAN.train_step, run, images, rngs.training, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def in_turns(config, images) -> loop.Run:
    """The population that others are compared with, on one device."""
    return population.train_population(
        GAN, config, images, SEEDS, generator_lr=RATES, devices=1, vectorize=False, **SETTINGS
    )


def test_together_each_member_stays_with_its_single_run_for_100_steps(config, images):
    settings = SETTINGS | {"epochs": 17}
    together = population.train_population(
        GAN, config, images, SEEDS, generator_lr=RATES, devices=1, vectorize=True, **settings
    )
    assert together.history[-1]["step"] == 102
    for i in range(2):
        alone = single(config, images, SEEDS[i], RATES[i], epochs=17)
        assert_trees_close(population.member(together.state, i), alone.state)


def test_a_member_is_taken_by_one_program(in_turns):
    # Many small ones, for members on several devices of a busy CPU, ended the process.
    with pytest.raises(JaxganError, match="there is no member -1"):
        population.member(in_turns.state, -1)
    take = jax.make_jaxpr(population.member)(in_turns.state, 1)
    assert len(take.eqns) == 1


@pytest.mark.parametrize("vectorize", [False, True])
def test_members_are_split_over_devices_that_they_do_not_fill(config, images, in_turns, vectorize):
    run = population.train_population(
        GAN, config, images, SEEDS, generator_lr=RATES, vectorize=vectorize, **SETTINGS
    )
    assert len(run.state.step) == 6
    assert_trees_close(run.state, in_turns.state)


def test_a_member_that_diverges_does_so_alone(config, images, in_turns):
    rates = [*RATES[:2], 1e38, *RATES[3:]]
    run = population.train_population(
        GAN, config, images, SEEDS, generator_lr=rates, devices=1, vectorize=False, **SETTINGS
    )
    members = [{"seed": s, "generator_lr": r} for s, r in zip(SEEDS, rates, strict=True)]
    for i in (0, 1, 3, 4, 5):
        assert_trees_equal(population.member(run.state, i), population.member(in_turns.state, i))
    assert all(np.isnan(run.history[-1][name][2]) for name in ("gen_loss", "real_score"))
    report = population.make_report(GAN, config, members, run.history)
    assert report.diverged == [2]
    assert sum(line["diverged"] for line in report.summary) == 1
    assert 2 not in (report.best, report.worst)


def test_if_all_members_diverge_the_run_is_over(config, images):
    with pytest.raises(NonFiniteError, match="epoch 1: all 6 members have diverged"):
        population.train_population(
            GAN, config, images, SEEDS, generator_lr=1e38, devices=1, vectorize=False, **SETTINGS
        )


# What follows does not depend on the model.


@pytest.fixture
def members():
    return [{"seed": s, "lr": 100 * r} for s, r in zip(SEEDS, RATES, strict=True)]


@pytest.fixture
def states(members):
    return population.create_states(toy.MODEL, toy.ToyConfig(), members)


@pytest.fixture
def start(images, states):
    layout = make_layout(1, population=True)
    return layout, loop.start_run(toy.train_step, states, images, 5, layout)


def fit(run, images, members, layout, **options):
    return population.fit(
        toy.train_step,
        run,
        images,
        population.make_rngs(members).training,
        layout=layout,
        **(SETTINGS | options),
    )


def test_each_device_holds_its_members_and_no_others(states):
    layout = make_layout(population=True)
    placed = layout.place_run(states)
    for leaf in jax.tree.leaves(placed):
        # Six members fill the four devices up to eight.
        assert [len(shard.data) for shard in leaf.addressable_shards] == [2] * 4
    assert_trees_equal(layout.cut(placed, 6), states)


def test_the_values_of_hyperparameters_are_leaves_and_the_config_stays(states, members):
    np.testing.assert_array_equal(states.lr, np.float32([member["lr"] for member in members]))
    assert states.config == toy.ToyConfig()
    changed = population.with_hyperparameters(toy.MODEL, states, lr=np.arange(6.0))
    np.testing.assert_array_equal(changed.lr, np.arange(6))
    assert changed.lr.dtype == np.float32
    assert_trees_equal(changed.replace(lr=states.lr), states)


def test_a_hyperparameter_that_the_optimizer_lacks_is_refused(tiny):
    state = GAN.create_state(jax.random.key(0), dataclasses.replace(tiny, optimizer="sgd"))
    state = population.with_hyperparameters(GAN, state, generator_lr=0.5)
    assert state.generator.opt_state.hyperparams["learning_rate"] == 0.5
    with pytest.raises(JaxganError, match="generator_b1 is no hyperparameter of this optimizer"):
        population.with_hyperparameters(GAN, state, generator_b1=0.5)


def test_in_parts_it_is_the_same_population(images, members, start, capsys):
    layout, run = start
    whole = fit(run, images, members, layout)
    reported = []
    in_parts = fit(
        run,
        images,
        members,
        layout,
        at_once=2,
        on_epoch=lambda r: reported.append(len(r.history)),
        progress=True,
    )
    assert_trees_equal(in_parts.state, whole.state)
    timings = ("seconds", "steps_per_second")
    for one, other in zip(in_parts.history, whole.history, strict=True):
        assert {k: one[k] for k in one if k not in timings} == {
            k: other[k] for k in other if k not in timings
        }
    assert reported == [1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("epoch 1/2, members 0-1 of 6  loss")


def test_in_parts_and_stopped_it_is_as_after_the_last_whole_epoch(images, members, start):
    layout, run = start
    # An epoch of three parts. Each is asked once for each stretch, the first of which is one step.
    asked = iter(range(10**6))
    stopped = fit(
        run, images, members, layout, at_once=2, should_stop=lambda: next(asked) >= 12, epochs=50
    )
    assert 0 < len(stopped.history) < 50
    assert int(stopped.state.step[0]) == 6 * len(stopped.history)
    whole_epochs = fit(run, images, members, layout, epochs=len(stopped.history))
    assert_trees_equal(stopped.state, whole_epochs.state)


def test_members_that_the_memory_cannot_hold_are_trained_in_parts(
    images, members, start, monkeypatch
):
    layout, run = start
    together = layout._replace(vectorize=True)
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(population.member(run.state, 0)))
    # The order of the data, and the data themselves.
    others = 16 * len(images) + images.nbytes

    def at_once(layout, memory):
        monkeypatch.setattr(population, "_memory", lambda device: memory)
        return population.members_at_once(toy.train_step, run, images, 5, layout)

    large, small = 1000 * (state_bytes + others), 10 * (state_bytes + others)
    assert at_once(layout, large) > at_once(layout, small) >= 2
    # To take a step together needs room for what each computes on its way.
    assert at_once(together, small) < at_once(layout, small)
    assert at_once(layout, 1) == 1
    assert at_once(make_layout(4, population=True), 1) == 4
    sizes = []
    monkeypatch.setattr(loop, "fit", lambda *args, **_: sizes.append(args[3].size) or args[1])
    monkeypatch.setattr(population, "members_at_once", lambda *_: 2)
    fit(run, images, members, layout)
    assert sizes == [2]  # a part that gives no epoch was stopped


def test_parts_need_not_be_of_one_size(images, members, start, monkeypatch):
    layout, run = start
    sizes = []

    def an_epoch(train_step, part, data, rngs, **_):
        """In place of training; the losses tell the parts apart."""
        sizes.append(rngs.size)
        row = {"seconds": 1.0, "steps_per_second": 2.0, "loss": [float(len(sizes))] * rngs.size}
        return part._replace(history=[row])

    monkeypatch.setattr(loop, "fit", an_epoch)
    five = population.member(run.state, slice(5)), population.member(run.totals, slice(5))
    after = fit(loop.Run(*five, [], 0.0), images, members[:5], layout, at_once=2, epochs=1)
    assert sizes == [2, 2, 1]
    assert after.history[0]["loss"] == [1, 1, 2, 2, 3]
    assert_trees_equal(after.state, five[0])


def test_the_report_is_what_statistics_say():
    members = population.sweep_members(3, 3, {"generator_lr": [1e-4, 1e-3]})
    assert [m["seed"] for m in members] == [3, 4, 5, 3, 4, 5]
    assert [m["generator_lr"] for m in members] == [1e-4] * 3 + [1e-3] * 3
    losses = [1.0, 1.3, 0.2, 2.0, float("nan"), 1.5]
    row = {"epoch": 1, "step": 9, "disc_loss": losses, "seconds": 1.0}
    quiet = GAN._replace(diagnose=None)
    report = population.make_report(quiet, GANConfig(), members, [row])
    assert report.diverged == [4]
    # log 4 = 1.386: 1.3 is nearest.
    assert report.nearest_to_equilibrium == 1
    low, high = report.summary
    numbers = [(group["members"], group["diverged"]) for group in (low, high)]
    assert numbers == [(3, 0), (3, 1)]
    assert low["disc_loss_mean"] == pytest.approx(statistics.mean(losses[:3]))
    assert low["disc_loss_sd"] == pytest.approx(statistics.stdev(losses[:3]))
    assert high["disc_loss_mean"] == pytest.approx(1.75)
    assert high["disc_loss_sd"] == pytest.approx(statistics.stdev([2.0, 1.5]))
    # The equilibrium of least squares is .25: 0.2 is nearest.
    report = population.make_report(quiet, GANConfig(loss="least_squares"), members, [row])
    assert report.nearest_to_equilibrium == 2
    alone = population.make_report(quiet, GANConfig(), [{"seed": 0}], [{"disc_loss": [1.0]}])
    assert alone.summary[0]["disc_loss_sd"] is None
    diverged = {"disc_loss": [float("inf")], "missed": [0.5]}
    nobody = population.make_report(quiet, GANConfig(), [{"seed": 0}], [diverged])
    assert nobody[:-1] == ([0], [], "missed", None, None, None)
    assert nobody.summary == [{"members": 1, "diverged": 1}]


def test_without_an_equilibrium_no_member_is_near_it():
    model = toy.MODEL._replace(equilibrium_distance=None)
    report = population.make_report(model, toy.ToyConfig(), [{"seed": 0}], [{"loss": [1.0]}])
    assert report[:-1] == ([], [], None, None, None, None)
    assert report.summary[0]["loss_mean"] == 1


MISSED, MODES = {"missed": [0.5, 0.1, 0.9]}, {"modes": [2, 5, 5], "high_quality": [0.9, 0.2, 0.3]}
DISTANCE = {"fd(pca64, train, n=750)": [8.0, 39.0, 4.0]}


@pytest.mark.parametrize(
    ("history", "by", "order"),
    [
        ([{"loss": [1, 2, 3]}], None, []),
        ([MISSED, {"loss": [1, 2, 3]}], "missed", [1, 0, 2]),
        ([{"missed": [0, 0, 1]}, MISSED | MODES], "modes", [2, 1, 0]),
        ([DISTANCE, MISSED], "missed", [1, 0, 2]),  # not the distance of an earlier epoch
        ([MISSED | DISTANCE], "fd(pca64, train, n=750)", [2, 0, 1]),
    ],
)
def test_members_are_ranked_by_their_samples(history, by, order):
    def report(failed, finite=(True, True, True)) -> population.Report:
        def diagnose(history):
            finding = Finding("collapse", (2,), "", ())
            return Diagnosis([[finding] if i in failed else [] for i in range(3)])

        rows = [{"epoch": i, "step": i} | row for i, row in enumerate(history, start=1)]
        rows[-1] = rows[-1] | {"epoch": 2, "size": [1.0 if ok else np.nan for ok in finite]}
        # The member that has learned nothing is nearest to equilibrium.
        model = toy.MODEL._replace(
            diagnose=diagnose, equilibrium_distance=lambda config, row: np.array([2.0, 0.0, 1.0])
        )
        return population.make_report(model, toy.ToyConfig(), [{"seed": i} for i in range(3)], rows)

    healthy = report(())
    assert (healthy.ranked_by, healthy.nearest_to_equilibrium) == (by, 1)
    if not order:
        assert (healthy.best, healthy.worst) == (None, None)
        return
    assert (healthy.best, healthy.worst) == (order[0], order[-1])
    # Members with a failure are last, in the same order.
    failed = report(order[:1])
    assert (failed.best, failed.worst, failed.failed) == (order[1], order[0], order[:1])
    all_failed = report((0, 1, 2))
    assert (all_failed.best, all_failed.worst) == (order[0], order[-1])
    diverged = report((), finite=[i != order[0] for i in range(3)])
    assert (diverged.best, diverged.worst, diverged.diverged) == (order[1], order[2], order[:1])


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
        ([0], {"latent_dim": 5}, "cannot differ in 'latent_dim', only in generator_lr"),
        # Adam's epsilon could vary up to version 0.3.
        ([0], {"adam_eps": 1e-8}, "cannot differ in 'adam_eps', only in generator_lr"),
        ([0], {"devices": 9}, "from 1 to the 4 that jax finds .*JAX_NUM_CPU_DEVICES.* got 9"),
        ([2**32], {}, "seeds must be from 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tiny, images, seeds, own, message):
    with pytest.raises(JaxganError, match=message):
        population.train_population(GAN, tiny, images, seeds, **SETTINGS, **own)
