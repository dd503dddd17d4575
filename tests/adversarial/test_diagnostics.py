"""The failures, on histories of which it is known what they show."""

import dataclasses

import numpy as np
import pytest
from helpers import assert_trees_equal

from jaxgan import MODELS, GANConfig, TrainConfig
from jaxgan.adversarial import diagnostics
from jaxgan.adversarial.diagnostics import diagnose, signs
from jaxgan.history import member_history
from jaxgan.metrics import parts
from jaxgan.model import Finding
from jaxgan.report import plots, texts
from jaxgan.run import checkpoint, saved, training

GAN = MODELS["gan"]

HEALTHY = {
    "gen_loss": 0.7,
    "disc_loss": 1.4,
    "real_accuracy": 0.6,
    "fake_accuracy": 0.6,
    "missed": 0.0,
    "logit_spread": 0.5,
    "gen_grad_norm": 1.0,
    "disc_grad_norm": 1.0,
    "gen_param_norm": 10.0,
    "disc_param_norm": 10.0,
}


def history(epochs: int, *, steps: int = 400, **columns) -> list[dict]:
    """A healthy run but for some columns: a number, or one for each epoch. A window has 5 epochs.

    `gen_swing` and `disc_swing` are standard deviations of the losses over the steps of an epoch.
    """
    values = {k: np.broadcast_to(v, epochs) for k, v in (HEALTHY | columns).items()}
    for network in ("gen", "disc"):
        swing = values.pop(f"{network}_swing", 0.0)
        values[f"{network}_loss_square"] = values[f"{network}_loss"] ** 2 + np.square(swing)
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


def findings_of(rows: list[dict]) -> list[Finding]:
    """The failures of one run."""
    (findings,) = diagnose(rows).findings
    return findings


def found(rows: list[dict]) -> list[tuple[str, int, int]]:
    """The failures of one run, with the first and the last epoch of each."""
    for finding in findings_of(rows):
        first, last = finding.epochs[0], finding.epochs[-1]
        assert finding.epochs == tuple(range(first, last + 1))
    return [(f.name, f.epochs[0], f.epochs[-1]) for f in findings_of(rows)]


def names(rows: list[dict]) -> list[list[str]]:
    """The failures seen at the end of each epoch, `[epochs][members]`."""
    return diagnose(rows).names([row["epoch"] for row in rows])


def lines(rows: list[dict], **settings) -> list[str]:
    return texts.finding_lines(diagnose(rows).findings, len(rows), GAN, settings)


def stops(rows: list[dict]) -> bool:
    """Whether a run with `stop_on_failure` stops after the last epoch of this history."""
    return diagnose(rows).all_failed(rows[-1])


def vanishing(norm=0.05, known=0.95, epochs=7, **columns) -> list[dict]:
    """Vanishing gradients from the third epoch on."""
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
    assert names(history(3)) == 3 * [[""]]
    assert (diagnose([]).findings, names([])) == ([[]], [])
    assert not stops(history(30))


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({}, True),
        ({"norm": 0.051}, False),
        ({"norm": 0.0}, True),
        ({"known": 0.949}, False),
        ({"epochs": 6}, False),
        # Then a window has seven epochs.
        ({"steps": 286}, False),
    ],
)
def test_vanishing_gradients(change, seen):
    assert found(vanishing(**change)) == ([("vanishing gradients", 7, 7)] if seen else [])


@pytest.mark.parametrize(("steps", "first"), [(2_000, 4), (10_000, 4), (667, 5), (334, 8)])
def test_a_window_has_2000_steps_or_two_epochs(steps, first):
    assert found(vanishing(steps=steps, epochs=8)) == [("vanishing gradients", first, 8)]


def test_the_evidence_and_the_remedies_of_vanishing_gradients():
    (finding,) = findings_of(vanishing(norm=1e-5, known=0.9876, epochs=12))
    assert finding.epochs == (7, 8, 9, 10, 11, 12)
    for number in ("98.7%", "from 1 to 1e-05"):
        assert number in finding.evidence
    assert "--loss non_saturating" in finding.remedies


def test_without_a_gradient_there_is_neither_mode_collapse_nor_swing():
    columns = {"gen_swing": 1.0, "disc_swing": 1.0, "missed": 0.5}
    last = [name for (name,) in names(vanishing(epochs=15, **columns))[6:]]
    assert set(last) == {"vanishing gradients"}
    last = [name for (name,) in names(vanishing(epochs=15, known=0.9, **columns))[6:]]
    assert set(last) == {"mode collapse+no convergence"}


@pytest.mark.parametrize(
    ("missed", "steps", "epoch"),
    [
        (0.035, 400, 5),
        (0.034, 400, None),
        ([0.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.5, 0.5], 400, None),
        ([0.0, 0.0, *6 * [0.5]], 400, 7),
        (0.5, 250, 8),
        (0.5, 249, None),
        # It falls: what is missed is at most 0.8 of that at half the steps.
        (0.9 * 0.79 ** (np.arange(8) / 3), 400, None),
        (0.9 * 0.81 ** (np.arange(8) / 4), 400, 5),
    ],
)
def test_mode_collapse(missed, steps, epoch):
    rows = history(8, missed=missed, steps=steps)
    assert found(rows) == ([("mode collapse", epoch, 8)] if epoch else [])


def test_between_measurements_the_last_one_holds():
    rows = history(20, missed=0.5, steps=100)
    for row in rows:
        if row["epoch"] % 4:
            del row["missed"]
    # Measured first in epoch 4; the window has 20 epochs.
    assert found(rows) == []
    rows += [row | {"epoch": row["epoch"] + 20, "step": row["step"] + 2_000} for row in rows]
    assert found(rows) == [("mode collapse", 23, 40)]
    for row in rows:
        row.pop("missed", None)
    assert found(rows) == []


def test_a_run_that_misses_less_and_less_is_undertrained():
    rows = history(12, missed=0.9 * 0.9 ** np.arange(12))
    assert found(rows) == []
    caveat = diagnose(rows).caveat
    assert "undertrained: its samples miss 28% of the data, and missed 53% at half" in caveat
    # Or it has arrived.
    assert diagnose(history(12, missed=0.9 * 0.5 ** np.arange(12))).caveat is None


def test_a_collapse_that_is_over_is_a_finding_with_an_end():
    rows = history(12, missed=[*7 * [0.62], *5 * [0.0]])
    assert found(rows) == [("mode collapse", 5, 7)]
    assert "that hold 62% of the real images" in findings_of(rows)[0].evidence
    (line,) = lines(rows)
    assert line.startswith("mode collapse, epoch 5 to 7: ")
    assert not stops(rows)
    assert stops(rows[:7])


def test_a_collapse_that_comes_back_is_one_finding():
    rows = history(20, missed=[*6 * [0.5], *4 * [0.0], *6 * [0.5], *4 * [0.0]])
    (finding,) = findings_of(rows)
    assert finding.epochs == (5, 6, 15, 16)
    assert [name for (name,) in names(rows)].count("mode collapse") == 4


def deviation(share: float) -> float:
    """The deviation of a loss around 1.4 that is this share of its root mean square."""
    return 1.4 * share / np.sqrt(1 - share**2)


@pytest.mark.parametrize(
    ("share", "before", "steps", "seen"),
    [
        (0.101, 0.101, 400, True),
        (0.099, 0.099, 400, False),
        (0.3, 0.38, 400, False),
        (0.3, 0.37, 400, True),
        (0.3, 0.1, 400, True),
        (0.3, 0.3, 249, False),
    ],
)
def test_losses_that_swing_and_do_not_settle(share, before, steps, seen):
    # In epochs 3 and 4, the quarter before, and in the second half.
    swing = np.repeat([0, deviation(before), deviation(share), deviation(share)], 2)
    losses = {"gen_loss": 1.4, "disc_loss": 1.4, "gen_swing": swing, "disc_swing": swing}
    rows = history(8, steps=steps, **losses)
    assert names(rows)[-1] == ["no convergence" if seen else ""]
    if seen:
        assert "of their size" in findings_of(rows)[0].evidence
    for network in ("gen", "disc"):
        # Both losses have to swing.
        assert found(history(8, steps=steps, **(losses | {f"{network}_swing": 0.1}))) == []


@pytest.mark.parametrize("epochs_per_period", [0.1, 1, 7, 15, 20])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_swing_is_seen_at_any_period_that_fits_the_history(epochs_per_period, start):
    """Losses that follow a sine; half of 40 epochs holds a period of any of these lengths."""
    steps = 400
    times = np.arange(40 * steps) / (epochs_per_period * steps)
    losses = 1 + 0.5 * np.sin(2 * np.pi * (times + start / 4)).reshape(40, steps)
    rows = history(40, gen_loss=losses.mean(1), disc_loss=losses.mean(1), logit_spread=0.01)
    for row, square in zip(rows, np.square(losses).mean(1), strict=True):
        row |= {"gen_loss_square": square, "disc_loss_square": square}
    assert [finding.name for finding in findings_of(rows)] == ["no convergence"]


def test_the_swing_of_losses_around_zero_is_compared_with_the_spread_of_the_logits():
    """Wasserstein losses end so: only the differences between batches are left."""
    losses = {"gen_loss": 0.0, "disc_loss": 0.0, "gen_swing": 0.1, "disc_swing": 0.1}
    assert found(history(10, **losses, logit_spread=0.99)) == [("no convergence", 5, 10)]
    assert found(history(10, **losses, logit_spread=1.01)) == []


@pytest.mark.parametrize(
    ("settings", "suggested"),
    [
        ({}, ["--r1 1", "--loss relativistic --r1 1 --r2 1 --ema-decay 0.999"]),
        ({"r1": 0.1}, ["--loss relativistic --r1 1 --r2 1 --ema-decay 0.999"]),
        ({"loss": "relativistic"}, ["--r1 1"]),
        ({"loss": "hinge"}, ["--r1 1", "--loss relativistic --r1 1 --r2 1 --ema-decay 0.999"]),
    ],
)
def test_remedies_that_a_run_has_are_not_suggested(settings, suggested):
    (line,) = lines(history(8, missed=0.5), **vars(GANConfig(**settings)))
    assert line.split("; try ")[1] == ", or ".join(suggested)


def test_a_run_that_has_all_remedies_gets_no_suggestion():
    settings = vars(GANConfig(r1=1.0, loss="relativistic"))
    (line,) = lines(history(8, missed=0.5), **settings)
    assert line.endswith("at half the steps it was 50%")


def test_a_remedy_for_vanishing_gradients_of_the_minimax_loss_is_the_other_loss():
    for loss, there in (("minimax", True), ("non_saturating", False)):
        (line,) = lines(vanishing(), **vars(GANConfig(loss=loss)))
        assert ("--loss non_saturating" in line) == there


def test_the_diagnosis_of_a_short_run_has_a_caveat():
    assert str(diagnose(history(10, steps=199)).caveat).endswith("after 1 more epoch")
    # Two epochs at least, and 2,000 steps.
    assert str(diagnose(history(1, steps=9_000)).caveat).endswith("after 1 more epoch")
    assert str(diagnose(history(2, steps=400)).caveat).endswith("after 3 more epochs")
    assert diagnose([]).caveat == "the run has no epoch yet"
    assert diagnose(history(10, steps=200)).caveat is None


def test_a_swing_is_that_over_all_steps_of_the_second_half():
    rng = np.random.default_rng(0)
    losses = rng.normal(0.5, 1, (2, 9, 40)) + rng.normal(0, 1, (2, 9, 1))
    means, squares = losses.mean(-1), np.square(losses).mean(-1)
    rows = history(9, gen_loss=means[0], disc_loss=means[1], logit_spread=0.01)
    for row, square in zip(rows, squares.T, strict=True):
        row |= {"gen_loss_square": square[0], "disc_loss_square": square[1]}
    for name, part in (("swing", losses[:, 4:]), ("swing_before", losses[:, 2:4])):
        flat, epochs = part.reshape(2, -1), np.arange(part.shape[1])
        # Less the straight line through the means of the epochs.
        lines = [np.polyval(np.polyfit(epochs, mean, 1), epochs) for mean in part.mean(-1)]
        left = np.sqrt(flat.var(axis=1) - np.var(lines, axis=1))
        expected = left.min() / np.sqrt(np.square(flat).mean(axis=1).max())
        np.testing.assert_allclose(signs(rows)[name][-1], expected)
    assert np.isnan(signs(rows)["swing_before"][:1]).all()


@pytest.mark.parametrize(("factor", "seen"), [(2.01, True), (1.99, False)])
@pytest.mark.parametrize("network", ["gen", "disc"])
def test_parameters_that_grow_without_end(network, factor, seen):
    norms = [*6 * [10.0], *6 * [5.0], 10 * factor]
    rows = history(13, **{f"{network}_param_norm": norms})
    assert found(rows) == ([("no convergence", 13, 13)] if seen else [])
    if seen:
        assert "2.0 times" in findings_of(rows)[0].evidence


def test_parameters_that_grow_from_a_small_start_are_no_failure():
    # From a healthy run on Fashion-MNIST, with layers twice as wide as the reference's.
    norms = [42, 64, 83, 97, 108, 117, 125, 132, 138, 144, 149, 153]
    assert found(history(12, disc_param_norm=norms)) == []
    steady = 1.2 ** np.arange(12)
    assert found(history(12, disc_param_norm=steady)) == [("no convergence", 11, 12)]


def test_two_failures_at_once_are_both_named():
    swing = [*6 * [0.0], *4 * [2.0]]
    rows = history(10, missed=0.5, gen_swing=swing, disc_swing=swing)
    assert found(rows) == [("mode collapse", 5, 10), ("no convergence", 7, 10)]
    assert names(rows)[5:7] == [["mode collapse"], ["mode collapse+no convergence"]]


def random_history(seed: int) -> list[dict]:
    """A walk that goes through all three failures, in and out."""
    rng = np.random.default_rng(seed)
    walk = np.exp(rng.normal(0, 0.5, (len(HEALTHY), 60)).cumsum(axis=1))
    columns = dict(zip(HEALTHY, walk, strict=True))
    certain = rng.random(60).cumsum() % 9 < 5
    columns |= {"real_accuracy": np.where(certain, 0.99, 0.5), "fake_accuracy": np.full(60, 0.99)}
    swings = {"gen_swing": walk[0] * rng.random(60), "disc_swing": walk[1] * rng.random(60)}
    return history(60, **swings, **columns)


def test_the_findings_of_an_epoch_do_not_depend_on_later_ones():
    """So a run that was interrupted shows the same as one that was not."""
    found_names = set()
    for seed in range(8):
        rows = random_history(seed)
        whole = names(rows)
        for n in range(1, 61):
            assert names(rows[:n]) == whole[:n]
        for finding in findings_of(rows):
            first = finding.epochs[0]
            assert finding._replace(epochs=(first,)) in findings_of(rows[:first])
            found_names.add(finding.name)
    assert found_names == {"vanishing gradients", "mode collapse", "no convergence"}


def test_the_members_of_a_population_are_diagnosed_one_by_one():
    members = [random_history(seed) for seed in range(4)]
    rows = as_population(*members)
    assert diagnose(rows).findings == [findings_of(member) for member in members]
    assert [member_history(rows, i) for i in range(4)] == members
    columns = [[name for (name,) in names(member)] for member in members]
    assert names(rows) == [list(epoch) for epoch in zip(*columns, strict=True)]


def test_a_diverged_member_shows_nothing_and_does_not_hide_the_others():
    nan = {name: [0.1, *7 * [np.nan]] for name in HEALTHY}
    diverged, collapsed, healthy = history(8, **nan), history(8, missed=0.5), history(8)
    rows = as_population(diverged, collapsed, healthy)
    assert [len(member) for member in diagnose(rows).findings] == [0, 1, 0]
    (line,) = lines(rows)
    assert line.startswith("mode collapse in 1 of 3 members (1); member 1, epoch 5 to the last: ")
    assert not stops(rows)
    assert stops(as_population(diverged, collapsed))


@pytest.fixture
def run(tiny, images, tmp_path, monkeypatch):
    """Trains on images of noise, most of which the samples miss."""
    monkeypatch.setattr(diagnostics, "WINDOW", 15)
    monkeypatch.setattr(parts, "STEPS", 2)
    np.save(tmp_path / "images.npy", images[..., 0])

    def train(name: str, **changes) -> training.Outcome:
        settings = TrainConfig(
            dataset=str(tmp_path / "images.npy"),
            epochs=9,
            batch_size=16,
            devices=1,
            sample_every=9,
            evaluate=False,
        )
        layers = {"generator_widths": (), "discriminator_widths": (), "discriminator_dropout": ()}
        config = dataclasses.replace(tiny, latent_dim=4, **layers)
        settings = dataclasses.replace(settings, **changes)
        return training.train(GAN, config, settings, tmp_path / name)

    return train


def names_in(folder) -> list[str]:
    """The last column of metrics.csv."""
    rows = (folder / "metrics.csv").read_text().splitlines()
    return [row.rsplit(",", 1)[1] for row in rows[1:]]


@pytest.mark.usefixtures("no_curves")
def test_a_run_that_collapses_says_so_once_or_can_be_told_to_stop(run, capsys):
    whole = run("whole")
    assert (len(whole.history), whole.stopped_on_failure) == (9, False)
    # 2 steps an epoch: step 15 is in the eighth.
    assert names_in(whole.workdir) == [*7 * [""], "mode collapse", "mode collapse"]
    (finding,) = whole.diagnosis.findings[0]
    assert (finding.name, finding.epochs) == ("mode collapse", (8, 9))
    printed = capsys.readouterr().out.splitlines()
    (at,) = [i for i, line in enumerate(printed) if line.startswith("mode collapse, epoch 8: ")]
    after = [line[:9] for line in printed].index("epoch 9/9")
    assert [line[:9] for line in printed].index("epoch 8/9") == at - 1
    assert "--r1 1" in " ".join(printed[at:after])
    assert names(saved.read_history(GAN, whole.workdir)) == names(whole.history)

    for _ in range(2):
        # The second time there is nothing to do: the failure is still there.
        cut = run("cut", stop_on_failure=True)
        assert (cut.stopped_on_failure, len(cut.history), cut.stopped_by) == (True, 8, None)
        assert checkpoint.steps(cut.workdir) == [16]
    # It can still be resumed.
    assert run("cut").trained == 1
    states = [saved.load_state(GAN, outcome.workdir)[0] for outcome in (cut, whole)]
    assert_trees_equal(*states)
    assert names_in(cut.workdir) == names_in(whole.workdir)


@pytest.mark.usefixtures("no_curves")
def test_a_population_stops_when_all_its_members_show_a_failure(run, capsys):
    outcome = run("run", population=2, stop_on_failure=True)
    first = [member[0].epochs[0] for member in diagnose(outcome.history).findings]
    assert outcome.stopped_on_failure
    assert len(outcome.history) == max(first)
    assert f"mode collapse in {first.count(8)} of 2 members" in capsys.readouterr().out
    assert "" not in names_in(outcome.workdir)[-2:]


def test_the_figure_takes_any_numbers():
    # A gradient of zero, and a diverged member.
    nan = dict.fromkeys(HEALTHY, np.nan)
    rows = as_population(history(2, gen_grad_norm=0.0, disc_grad_norm=0.0), history(2, **nan))
    plots.curves_png(rows, diagnostics.CURVES, marks={"mode collapse": [1]}, rows=2)
    plots.curves_png(history(1), diagnostics.CURVES, {"disc_loss": 1.4}, rows=2)
