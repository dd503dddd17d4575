"""The detectors on histories of which it is known what they show."""

import dataclasses

import numpy as np
import pytest
from test_gan import assert_trees_equal

from jaxgan import GANConfig, TrainConfig, checkpoint, diagnostics, plots, training
from jaxgan.diagnostics import diagnose, diagnose_members, failures, signs
from jaxgan.journal import read_history

HEALTHY = {
    "gen_loss": 0.7,
    "disc_loss": 1.4,
    "real_accuracy": 0.6,
    "fake_accuracy": 0.6,
    "diversity": 0.9,
    "logit_spread": 0.5,
    "gen_grad_norm": 1.0,
    "disc_grad_norm": 1.0,
    "gen_param_norm": 10.0,
    "disc_param_norm": 10.0,
}


def history(epochs: int, *, steps: int = 500, **columns) -> list[dict]:
    """A healthy run but for some columns: a number, or one for each epoch.

    `gen_swing` and `disc_swing` are standard deviations of the losses over the steps of an epoch.
    """
    values = {k: np.broadcast_to(v, epochs) for k, v in (HEALTHY | columns).items()}
    for player in ("gen", "disc"):
        swing = values.pop(f"{player}_swing", 0.0)
        values[f"{player}_loss_square"] = values[f"{player}_loss"] ** 2 + np.square(swing)
    return [
        {"epoch": i + 1, "step": steps * (i + 1), **{k: float(v[i]) for k, v in values.items()}}
        for i in range(epochs)
    ]


def as_population(*members: list[dict]) -> list[dict]:
    rows = zip(*members, strict=True)
    own = ("epoch", "step")
    return [
        {k: row[0][k] if k in own else [member[k] for member in row] for k in row[0]}
        for row in rows
    ]


def found(rows: list[dict]) -> list[tuple[str, int, int]]:
    return [(finding.name, finding.epoch, finding.last) for finding in diagnose(rows)]


# Vanishing gradients: from the third epoch on.
def vanishing(norm=0.05, known=0.95, epochs=7, **columns) -> list[dict]:
    after = epochs - 2
    return history(
        epochs,
        gen_grad_norm=[0.4, 1.0, *after * [norm]],
        real_accuracy=[0.6, 0.6, *after * [known]],
        fake_accuracy=[0.6, 0.6, *after * [0.99]],
        **columns,
    )


def test_a_healthy_history_shows_nothing():
    assert found(history(30)) == []
    assert failures(history(3)) == 3 * [[""]]
    assert (diagnose([]), failures([]), diagnostics.has_failed([])) == ([], [], False)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({}, True),
        ({"norm": 0.051}, False),
        ({"norm": 0.0}, True),
        ({"known": 0.949}, False),
        ({"epochs": 6}, False),
        # No warm-up: it is over after some dozens of steps.
        ({"steps": 10}, True),
    ],
)
def test_vanishing_gradients(change, seen):
    assert found(vanishing(**change)) == ([("vanishing gradients", 7, 7)] if seen else [])


def test_what_is_seen_of_vanishing_gradients_and_what_to_try():
    (finding,) = diagnose(vanishing(norm=1e-5, known=0.9876, epochs=12))
    assert (finding.epoch, finding.last) == (7, 12)
    for number in ("98.7%", "from 1 to 1e-05"):
        assert number in finding.evidence
    assert "--loss non_saturating" in finding.remedies


def test_a_generator_without_gradient_has_not_collapsed_nor_do_its_losses_swing():
    # Step 1,000 is in the epoch in which the gradients have vanished.
    swings = {"gen_swing": 1.0, "disc_swing": 1.0}
    rows = vanishing(epochs=15, diversity=0.1, steps=145, **swings)
    assert found(rows) == [("vanishing gradients", 7, 15)]
    assert found(vanishing(epochs=15, diversity=0.1, steps=145, known=0.9, **swings)) == [
        ("mode collapse", 7, 15),
        ("no convergence", 10, 15),
    ]


@pytest.mark.parametrize(
    ("diversity", "steps", "epoch"),
    [
        (0.499, 500, 5),
        (0.5, 500, None),
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1], 500, None),
        ([0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 500, 7),
        # Not before step 1,000.
        (0.1, 142, 8),
        (0.1, 124, None),
        # By a fifth and more within five epochs it rises.
        (0.1 * 1.21 ** (np.arange(8) / 4), 500, None),
        (0.1 * 1.19 ** (np.arange(8) / 4), 500, 5),
    ],
)
def test_mode_collapse(diversity, steps, epoch):
    rows = history(8, diversity=diversity, steps=steps)
    assert found(rows) == ([("mode collapse", epoch, 8)] if epoch else [])


def test_a_collapse_that_is_over_is_a_finding_with_an_end():
    rows = history(12, diversity=[*7 * [0.123], *5 * [0.9]])
    assert found(rows) == [("mode collapse", 5, 7)]
    assert "12.3%" in diagnose(rows)[0].evidence
    (line,) = diagnostics.describe([diagnose(rows)], 12, population=False, settings={})
    assert line.startswith("mode collapse, epoch 5 to 7: ")
    assert not diagnostics.has_failed(rows)
    assert diagnostics.has_failed(rows[:7])


def deviation(share: float) -> float:
    """The deviation of a loss around 1.4 that is this share of its root mean square."""
    return 1.4 * share / np.sqrt(1 - share**2)


@pytest.mark.parametrize(
    ("share", "before", "steps", "seen"),
    [
        (0.251, 0.251, 500, True),
        (0.249, 0.249, 500, False),
        (0.4, 0.51, 500, False),
        (0.4, 0.49, 500, True),
        (0.4, 0.1, 500, True),
        (0.4, 0.4, 99, False),
    ],
)
def test_losses_that_swing_and_do_not_settle(share, before, steps, seen):
    swing = np.repeat([deviation(before), deviation(share)], 5)
    losses = {"gen_loss": 1.4, "disc_loss": 1.4, "gen_swing": swing, "disc_swing": swing}
    rows = history(10, steps=steps, **losses)
    assert found(rows) == ([("no convergence", 10, 10)] if seen else [])
    if seen:
        assert f"{share:.0%} of their size" in diagnose(rows)[0].evidence
    for player in ("gen", "disc"):
        # What only one of the losses does is not a chase.
        assert found(history(10, steps=steps, **(losses | {f"{player}_swing": 0.3}))) == []


def test_losses_around_zero_swing_beside_the_spread_of_the_logits():
    """As those of Wasserstein, which in the end are but what the batches differ by."""
    losses = {"gen_loss": 0.0, "disc_loss": 0.0, "gen_swing": 0.1, "disc_swing": 0.1}
    assert found(history(10, **losses, logit_spread=0.39)) == [("no convergence", 10, 10)]
    assert found(history(10, **losses, logit_spread=0.41)) == []


@pytest.mark.parametrize(
    ("settings", "suggested"),
    [
        ({}, ["--pac 2", "--unroll-steps 5", "--loss relativistic --r1 1 --r2 1"]),
        ({"pac": 4}, ["--unroll-steps 5", "--loss relativistic --r1 1 --r2 1"]),
        ({"unroll_steps": 5, "loss": "relativistic"}, ["--pac 2"]),
        ({"loss": "hinge"}, ["--pac 2", "--unroll-steps 5", "--loss relativistic --r1 1 --r2 1"]),
    ],
)
def test_what_a_run_has_is_not_suggested(settings, suggested):
    rows = history(8, diversity=0.1)
    options = {"population": False, "settings": vars(GANConfig(**settings))}
    (line,) = diagnostics.describe([diagnose(rows)], 8, **options)
    assert line.split("; try ")[1] == ", or ".join(suggested)


def test_where_all_is_tried_nothing_is_suggested():
    settings = vars(GANConfig(pac=2, unroll_steps=5, loss="relativistic"))
    found = [diagnose(history(8, diversity=0.1))]
    (line,) = diagnostics.describe(found, 8, population=False, settings=settings)
    assert line.endswith("of what two real images do")


def test_a_vanishing_gradient_of_the_minimax_loss_has_the_other_loss_for_a_remedy():
    for loss, there in (("minimax", True), ("non_saturating", False)):
        options = {"population": False, "settings": vars(GANConfig(loss=loss))}
        (line,) = diagnostics.describe([diagnose(vanishing())], 7, **options)
        assert ("--loss non_saturating" in line) == there


@pytest.mark.parametrize(("epochs", "steps"), [(9, 500), (10, 99)])
def test_of_a_short_run_it_is_said_that_it_is(epochs, steps):
    assert "the run is short" in diagnostics.too_short(history(epochs, steps=steps))
    assert diagnostics.too_short(history(10, steps=100)) is None


def test_a_swing_is_that_over_all_steps_of_the_window():
    rng = np.random.default_rng(0)
    losses = rng.normal(0.5, 1, (2, 9, 40)) + rng.normal(0, 1, (2, 9, 1))
    means, squares = losses.mean(-1), np.square(losses).mean(-1)
    rows = history(9, gen_loss=means[0], disc_loss=means[1], logit_spread=0.01)
    for row, square in zip(rows, squares.T, strict=True):
        row |= {"gen_loss_square": square[0], "disc_loss_square": square[1]}
    last = losses[:, -5:].reshape(2, -1)
    expected = last.std(axis=1).min() / np.sqrt(np.square(last).mean(axis=1).max())
    np.testing.assert_allclose(signs(rows)["swing"][-1], expected)
    assert np.isnan(signs(rows)["swing"][:4]).all()


@pytest.mark.parametrize(("factor", "seen"), [(2.01, True), (1.99, False)])
@pytest.mark.parametrize("player", ["gen", "disc"])
def test_parameters_that_grow_without_end(player, factor, seen):
    norms = [*6 * [10.0], *6 * [5.0], 10 * factor]
    rows = history(13, **{f"{player}_param_norm": norms})
    assert found(rows) == ([("no convergence", 13, 13)] if seen else [])
    if seen:
        assert "2.0 times" in diagnose(rows)[0].evidence


def test_parameters_that_grow_from_a_small_start_are_no_failure():
    # As seen in a run on Fashion-MNIST that went well, layers of twice the reference's width.
    norms = [42, 64, 83, 97, 108, 117, 125, 132, 138, 144, 149, 153]
    assert found(history(12, disc_param_norm=norms)) == []
    steady = 1.2 ** np.arange(12)
    assert found(history(12, disc_param_norm=steady)) == [("no convergence", 11, 12)]


def test_two_failures_at_once_are_both_named():
    rows = history(10, diversity=0.1, gen_swing=2.0, disc_swing=2.0)
    assert found(rows) == [("mode collapse", 5, 10), ("no convergence", 10, 10)]
    assert failures(rows)[3:] == [[""], *5 * [["mode collapse"]], ["mode collapse+no convergence"]]


def random_history(seed: int) -> list[dict]:
    """A walk that goes through all three failures, in and out."""
    rng = np.random.default_rng(seed)
    walk = np.exp(rng.normal(0, 0.5, (len(HEALTHY), 60)).cumsum(axis=1))
    columns = dict(zip(HEALTHY, walk, strict=True))
    certain = rng.random(60).cumsum() % 9 < 5
    columns |= {"real_accuracy": np.where(certain, 0.99, 0.5), "fake_accuracy": np.full(60, 0.99)}
    swings = {"gen_swing": walk[0] * rng.random(60), "disc_swing": walk[1] * rng.random(60)}
    return history(60, **swings, **columns)


def test_what_is_seen_of_an_epoch_does_not_depend_on_later_ones():
    """So a run that was interrupted finds what one finds that was not."""
    names = set()
    for seed in range(8):
        rows = random_history(seed)
        whole = failures(rows)
        assert all(failures(rows[:n]) == whole[:n] for n in range(1, 61))
        for finding in diagnose(rows):
            assert finding in [
                f._replace(last=finding.last) for f in diagnose(rows[: finding.epoch])
            ]
            names.add(finding.name)
    assert names == {"vanishing gradients", "mode collapse", "no convergence"}


def test_members_of_a_population_are_looked_at_one_by_one():
    members = [random_history(seed) for seed in range(4)]
    rows = as_population(*members)
    assert diagnose_members(rows) == [diagnose(member) for member in members]
    assert [diagnostics.member_history(rows, i) for i in range(4)] == members
    names = [failures(member) for member in members]
    assert failures(rows) == [[name for (name,) in epoch] for epoch in zip(*names, strict=True)]


def test_a_member_that_has_diverged_shows_nothing_and_does_not_hide_the_others():
    nan = {name: [0.1, *7 * [np.nan]] for name in HEALTHY}
    rows = as_population(history(8, **nan), history(8, diversity=0.1), history(8))
    assert [len(member) for member in diagnose_members(rows)] == [0, 1, 0]
    (line,) = diagnostics.describe(diagnose_members(rows), 8, population=True, settings={})
    assert line.startswith("mode collapse in 1 of 3 members (1); member 1, epoch 5 to the last: ")
    assert not diagnostics.has_failed(rows)
    assert diagnostics.has_failed(as_population(history(8, **nan), history(8, diversity=0.1)))


def test_the_ratios_of_few_modes_in_the_text_are_those_of_a_ring():
    points = np.exp(2j * np.pi * np.arange(8) / 8)

    def mean_distance(modes):
        return np.abs(points[modes][:, None] - points[modes]).mean()

    for modes, said in (
        ([0, 1], "0.30 of 2 neighbours"),
        ([0, 1, 2], "0.52 of 3"),
        ([0, 1, 2, 3], "0.69 of 4"),
        ([0, 4], "0.80 of 2 that are opposite"),
        ([0, 1, 2, 3, 4, 5, 6], "0.98 of 7"),
    ):
        ratio = mean_distance(modes) / mean_distance(range(8))
        assert said.startswith(f"{ratio:.2f} ")
        assert said in " ".join(str(diagnostics.__doc__).split())


@pytest.fixture
def run(small, images, tmp_path, monkeypatch):
    """Trains on images of noise, of which a generator makes few in the time."""
    monkeypatch.setattr(diagnostics, "WARM_UP", 15)
    np.save(tmp_path / "images.npy", images[..., 0])

    def train(name: str, **changes) -> training.Outcome:
        settings = TrainConfig(
            dataset=str(tmp_path / "images.npy"), epochs=9, batch_size=16, devices=1
        )
        config = dataclasses.replace(small, discriminator_dropout=(0.0, 0.0))
        return training.train(config, dataclasses.replace(settings, **changes), tmp_path / name)

    return train


def names_in(folder) -> list[str]:
    """The last column of metrics.csv."""
    lines = (folder / "metrics.csv").read_text().splitlines()
    return [line.rsplit(",", 1)[1] for line in lines[1:]]


def test_a_run_that_collapses_says_so_once_or_can_be_told_to_stop(run, capsys):
    whole = run("whole")
    assert (len(whole.history), whole.failed) == (9, False)
    # 2 steps an epoch: step 15 is in the eighth.
    assert names_in(whole.workdir) == [*7 * [""], "mode collapse", "mode collapse"]
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("mode collapse, epoch 8: ")]
    assert "--pac 2" in line
    assert lines.index(line) == [line[:9] for line in lines].index("epoch 8/9") + 1
    assert failures(read_history(whole.workdir)) == failures(whole.history)

    for _ in range(2):
        # The second time there is nothing to do: the failure is still there.
        cut = run("cut", stop_on_failure=True)
        assert (cut.failed, len(cut.history), cut.stopped_by) == (True, 8, None)
        assert checkpoint.steps(cut.workdir) == [16]
    # And then to go on all the same.
    assert run("cut").trained == 1
    states = [training.load_state(outcome.workdir)[0] for outcome in (cut, whole)]
    assert_trees_equal(*states)
    assert names_in(cut.workdir) == names_in(whole.workdir)


def test_a_population_stops_when_all_its_members_have_failed(run, capsys):
    outcome = run("run", population=2, stop_on_failure=True)
    first = [member[0].epoch for member in diagnose_members(outcome.history)]
    assert outcome.failed
    assert len(outcome.history) == max(first)
    assert f"mode collapse in {first.count(8)} of 2 members" in capsys.readouterr().out
    assert "" not in names_in(outcome.workdir)[-2:]


def test_the_figure_marks_what_was_found_and_bears_all_numbers():
    # A gradient of zero, a member that has diverged.
    nan = dict.fromkeys(HEALTHY, np.nan)
    rows = as_population(history(2, gen_grad_norm=0.0, disc_grad_norm=0.0), history(2, **nan))
    plain, marked = (plots.diagnosis_png(rows, marks) for marks in ({}, {"mode collapse": [1]}))
    assert plain != marked
    plots.diagnosis_png(history(1), {})
