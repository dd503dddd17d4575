"""A run in a folder: trained, saved, resumed, reported. See also tests/test_scripts.py."""

import csv
import dataclasses
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import struct
from helpers import assert_trees_equal, contents, here, picture, undescribed

from jaxgan import MODELS, GANConfig, JaxganError, TrainConfig, data
from jaxgan.errors import NonFiniteError
from jaxgan.metrics.modes import mode_scores
from jaxgan.model import Curve
from jaxgan.report import plots
from jaxgan.run import checkpoint, loop, members, population, saved, training

MODEL, CONFIG = toy.MODEL, toy.ToyConfig()


@pytest.fixture(scope="module")
def settings(tmp_path_factory, images) -> TrainConfig:
    """Of a population of six."""
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "images.npy", images[..., 0])
    return TrainConfig(
        dataset=str(folder / "images.npy"),
        epochs=2,
        batch_size=5,
        checkpoint_every=1,
        population=3,
        sweep=("lr=0.01,0.1",),
        devices=1,
    )


@pytest.fixture(scope="module")
def run_folder(settings, tmp_path_factory) -> tuple[Path, training.Outcome]:
    folder = tmp_path_factory.mktemp("population") / "run"
    return folder, training.train(MODEL, CONFIG, settings, folder)


@pytest.mark.usefixtures("no_curves")
def test_a_second_experiment_gets_a_folder_of_its_own(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(settings, population=None, sweep=(), epochs=1)
    other = dataclasses.replace(settings, seed=7)
    first, second, again = (
        training.train(MODEL, CONFIG, one, label="-a") for one in (settings, other, other)
    )
    assert first.workdir == tmp_path / "runs" / "images.npy-a"
    assert second.workdir == again.workdir == tmp_path / "runs" / "images.npy-a-2"
    assert (second.trained, again.trained) == (1, 0)
    out = capsys.readouterr().out
    assert (
        f"runs/images.npy-a holds another run (train.seed: 0 -> 7): this one is in {tmp_path}"
        in " ".join(out.split())
    )
    # Before the first wait.
    assert out.startswith("32 images of images.npy, 6x5x1; 1 epoch of 7 steps\ntoy, on ")
    assert out.index("compiling") < out.index("epoch 1/1")


def test_too_little_memory_is_said_in_one_line_and_leaves_no_folder(settings, tmp_path):
    settings = dataclasses.replace(settings, population=None, sweep=())
    config = GANConfig(generator_widths=(2**21, 2**21))  # 18 TB
    with pytest.raises(JaxganError, match=r"^out of memory \(.*smaller batch size"):
        training.train(MODELS["gan"], config, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_delta_is_for_private_runs(settings, tmp_path):
    settings = dataclasses.replace(settings, delta=1e-7)
    with pytest.raises(JaxganError, match="delta is for private runs: give epsilon"):
        training.train(MODEL, CONFIG, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_removed_ends_the_run(settings, tmp_path, monkeypatch):
    # Without a save in the background, which would write while the folder is removed.
    one_run = {"population": None, "sweep": (), "epochs": 5, "checkpoint_every": 10}
    settings = dataclasses.replace(settings, **one_run)
    pictures = training.Journal.write_samples

    def remove(journal, history, *args):
        pictures(journal, history, *args)
        if len(history) == 2:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(training.Journal, "write_samples", remove)
    with pytest.raises(JaxganError, match="was removed or replaced"):
        training.train(MODEL, CONFIG, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_curves")
def test_a_long_history_is_diagnosed_and_written_a_hundred_times_while_it_doubles(
    settings, tmp_path, monkeypatch
):
    looked = []
    monkeypatch.setattr(training.Journal, "write_table", lambda _, h, *__: looked.append(len(h)))
    settings = dataclasses.replace(
        settings, population=None, sweep=(), epochs=411, sample_every=10**6, checkpoint_every=10**6
    )
    training.train(MODEL, CONFIG, settings, tmp_path / "run")
    expected = [*range(1, 200), *range(200, 300, 2), *range(300, 400, 3), 400, 404, 408, 411]
    assert looked == expected


def test_a_second_signal_while_an_epoch_is_scored_does_not_end_the_run(monkeypatch, capfd):
    """More signals: test_field_cases.py."""
    times, ended = iter([0.0, 59.0]), []
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(times)))
    before = signal.signal(signal.SIGHUP, lambda number, _: ended.append(number))
    try:
        with training._stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            said = "stopping: the run will be saved; this may take some seconds"
            assert capfd.readouterr().err.strip() == said
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (received, ended) == ([signal.SIGHUP] * 2, [])
    assert capfd.readouterr().err == ""


def read_table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def restored(folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.restore(folder, saved.checkpoint_like(MODEL, folder))
    assert found is not None
    return found[0]


def enlarged(grid: np.ndarray, width: int) -> np.ndarray:
    """A grid `[H, W, 1]` as the picture of this width shows it."""
    scale = width // grid.shape[1]
    return grid[..., 0].repeat(scale, axis=0).repeat(scale, axis=1)


def test_each_member_has_its_rows_and_the_report_sums_them_up(run_folder):
    folder, outcome = run_folder
    rows = read_table(folder)
    labels = [(row["epoch"], row["member"], row["seed"], row["lr"]) for row in rows]
    assert labels == [
        (epoch, str(i), str(i % 3), ["0.01", "0.1"][i // 3])
        for epoch in ("1", "2")
        for i in range(6)
    ]
    report = json.loads((folder / "report.json").read_text())
    losses = [float(row["loss"]) for row in rows[6:]]
    assert report["summary"][1]["loss_mean"] == pytest.approx(np.mean(losses[3:]))
    assert report["nearest_to_equilibrium"] == np.argmin(losses)
    # The last epoch is measured, so that the members have an order.
    assert report["ranked_by"] == "missed"
    missed = [float(row["missed"]) for row in rows[6:]]
    assert (missed[report["best"]], missed[report["worst"]]) == (min(missed), max(missed))
    assert not any(row["missed"] for row in rows[:6])
    assert outcome.history[-1]["loss"] == losses
    # So few images are not scored.
    verdicts = [verdict._asdict() for verdict in outcome.verdicts]
    assert report == outcome.report._asdict() | {"scores": {}, "verdicts": verdicts}
    assert verdicts == 6 * [{"health": "unknown", "sentences": "Samples were not scored."}]
    assert (outcome.trained, outcome.stopped_by, outcome.diagnosis) == (2, None, None)


def test_the_folder_says_what_was_trained(run_folder, settings):
    folder, _ = run_folder
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == "toy"
    assert config["toy"] == {"image_shape": [6, 5, 1], "lr": 0.1, "noise": 0.1}
    assert config["train"]["sweep"] == list(settings.sweep)
    assert (config["data"]["name"], config["data"]["images"]) == ("images.npy", 32)


def test_the_pictures_are_the_samples_of_the_members(run_folder, images):
    folder, outcome = run_folder
    states = restored(folder).arrays["state"]
    rngs = population.make_rngs([{"seed": i % 3} for i in range(6)]).pictures

    def samples(i):
        return toy.sample(population.member(states, i), rngs[i], 16)

    for name in ("best", "worst"):
        shown = picture(folder / f"{name}.png")
        grid = plots.image_grid(samples(getattr(outcome.report, name)))
        np.testing.assert_array_equal(shown, enlarged(grid, shown.shape[1]))
    # A row for each of six members, the first eight samples of each. They were drawn in one program
    # for all, which may round a value in the middle of two levels to either.
    shown = picture(folder / "samples" / "image_at_epoch_0002.png")
    rows = np.concatenate([samples(i)[:8] for i in range(6)])
    grid = enlarged(plots.image_grid(rows, 8), shown.shape[1])
    assert shown.shape == grid.shape
    np.testing.assert_allclose(shown.astype(int), grid, atol=1)
    shown = picture(folder / "real.png")
    grid = plots.image_grid(plots.choose_real(images))
    np.testing.assert_array_equal(shown, enlarged(grid, shown.shape[1]))
    expected = plots.curves_png(outcome.history, MODEL.curves)
    assert (folder / "curves.png").read_bytes() == expected


@pytest.mark.usefixtures("no_curves")
def test_resumed_it_is_the_same_population_to_the_bit(run_folder, settings, tmp_path):
    training.train(MODEL, CONFIG, dataclasses.replace(settings, epochs=1), tmp_path)
    # On any number of devices: members do not depend on each other.
    outcome = training.train(MODEL, CONFIG, dataclasses.replace(settings, devices=4), tmp_path)
    assert outcome.trained == 1
    assert_trees_equal(restored(tmp_path).arrays, restored(run_folder[0]).arrays)


@pytest.mark.usefixtures("no_curves")
def test_fewer_epochs_than_are_finished_leave_a_finished_run(run_folder, settings, tmp_path):
    folder = shutil.copytree(run_folder[0], tmp_path / "run")
    outcome = training.train(MODEL, CONFIG, dataclasses.replace(settings, epochs=1), folder)
    assert (outcome.trained, len(outcome.history)) == (0, 2)
    assert json.loads((folder / "config.json").read_text())["train"]["epochs"] == 2
    assert saved.read_settings(folder).epochs == 2


@pytest.mark.usefixtures("no_curves")
def test_in_parts_it_is_saved_resumed_and_reported_alike(
    run_folder, settings, tmp_path, monkeypatch
):
    folder, _ = run_folder
    monkeypatch.setattr(population, "members_at_once", lambda *_: 2)
    training.train(MODEL, CONFIG, dataclasses.replace(settings, epochs=1), tmp_path)
    training.train(MODEL, CONFIG, settings, tmp_path)
    assert_trees_equal(restored(tmp_path).arrays, restored(folder).arrays)
    for name in ("report.json", "best.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_another_population_is_refused(run_folder, settings):
    folder, _ = run_folder
    before = contents(folder)
    for change, message in (
        ({"population": 2, "sweep": ("lr=1,2,3",)}, r"train\.population: 3 -> 2"),
        ({"sweep": ("lr=0.01,2",)}, r"train\.sweep: .*0\.1'\] -> \['.*0\.01,2'\]"),
        ({"population": None, "sweep": ()}, "holds a run of another configuration"),
    ):
        with pytest.raises(JaxganError, match=message):
            training.train(MODEL, CONFIG, dataclasses.replace(settings, **change), folder)
    assert contents(folder) == before


@pytest.mark.parametrize("sweep", ["rate=1", "lr=-1"])
def test_a_sweep_that_cannot_be_leaves_no_folder(settings, tmp_path, sweep):
    settings = dataclasses.replace(settings, sweep=(sweep,))
    with pytest.raises(JaxganError, match=r"cannot differ in 'rate', only in lr|lr must be above"):
        training.train(MODEL, CONFIG, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_members_that_diverge_are_counted_and_the_others_continue(
    settings, tiny, tmp_path, monkeypatch
):
    log, sweep = ("tensorboard",), ("generator_lr=1e38,1e-4",)
    settings = dataclasses.replace(settings, sweep=sweep, log=log)
    gan, folder = MODELS["gan"], tmp_path / "run"
    config = dataclasses.replace(tiny, discriminator_widths=(), discriminator_dropout=())
    # Of the 32 images no smaller batch is left: one program less.
    settings = dataclasses.replace(settings, batch_size=8)
    with monkeypatch.context() as patch:
        patch.setattr(plots, "curves_png", lambda *_, **__: b"")  # the next ones replace them
        training.train(gan, config, dataclasses.replace(settings, epochs=1), folder)
    outcome = training.train(gan, config, settings, folder)
    assert len(outcome.history) == 2
    report = json.loads((folder / "report.json").read_text())
    assert report["diverged"] == [0, 1, 2]
    numbers = [(group["members"], group["diverged"]) for group in report["summary"]]
    assert numbers == [(3, 3), (3, 0)]
    assert undescribed(folder) == set()
    rows = read_table(folder)
    assert {"member", "generator_lr", "diversity"} < set(rows[0])
    assert [np.isnan(float(row["gen_loss"])) for row in rows] == 2 * (3 * [True] + 3 * [False])
    distances = [float(row[report["ranked_by"]]) for row in rows[-3:]]
    chosen = [distances[report[name] - 3] for name in ("best", "worst")]
    assert chosen == [min(distances), max(distances)]
    assert [verdict.health for verdict in outcome.verdicts[:3]] == 3 * ["diverged"]
    assert "diverged" not in [verdict.health for verdict in outcome.verdicts[3:]]
    drawn = plots.curves_png(outcome.history, gan.curves, gan.equilibrium(config))
    assert (folder / "curves.png").read_bytes() == drawn
    # A diverged member cannot be sampled, but its history can be described.
    options = ("--workdir", folder, "--out", tmp_path / "samples.npz")
    assert "has diverged" in here("sample.py", *options, "--member", 0, status=3)[1]
    assert not (tmp_path / "samples.npz").exists()
    here("sample.py", *options, "--member", 3)
    # What diagnose.py draws is tested in commands/test_diagnose.py.
    monkeypatch.setattr(plots, "curves_png", lambda *_, **__: b"")
    described = here("diagnose.py", folder, "--member", 0)[0]
    assert "in which it diverged" in described
    assert "before it diverged; try lower learning rates" in described
    described = here("diagnose.py", folder)[0]
    assert "6 members, of which 3 diverged; means of the others:" in described
    error = here("diagnose.py", folder, "--member", 6, status=2)[1]
    assert "has the members 0 to 5, and no member 6" in error


@pytest.mark.usefixtures("no_curves")
def test_a_run_that_diverges_names_its_last_checkpoint(settings, tmp_path):
    settings = dataclasses.replace(settings, population=None, sweep=())
    with pytest.raises(NonFiniteError, match=r"in epoch 1: .*; no checkpoint yet, in .*run$"):
        training.train(MODEL, toy.ToyConfig(lr=1e38), settings, tmp_path / "run")
    # An update of this size overflows after some epochs.
    with pytest.raises(NonFiniteError, match=r"the last checkpoint is of step \d+, in"):
        training.train(
            MODEL,
            toy.ToyConfig(lr=50),
            dataclasses.replace(settings, epochs=50),
            tmp_path / "later",
        )
    assert checkpoint.steps(tmp_path / "later")


@pytest.mark.usefixtures("no_curves")
def test_a_mixture_gives_scores_and_a_panel_for_each_member(tmp_path):
    settings = TrainConfig(dataset="ring", epochs=1, batch_size=20_000, population=3, devices=1)
    outcome = training.train(MODEL, CONFIG, settings, tmp_path)
    rngs = population.make_rngs(outcome.labels).pictures
    points, scores = [], []
    for i in range(3):
        state, _ = saved.load_state(MODEL, tmp_path, i)
        points.append(np.asarray(toy.sample(state, rngs[i], 2500)))
        scores.append(mode_scores(points[-1].reshape(2500, 2), data.MIXTURES["ring"]))
    assert scores[0] != scores[1]
    report = json.loads((tmp_path / "report.json").read_text())
    for name in scores[0]._fields:
        values = [getattr(one, name) for one in scores]
        found = report["scores"][name]
        # Student's t of two degrees of freedom.
        half = 4.30265 * np.std(values, ddof=1) / 3**0.5
        assert (found["mean"], found["n"]) == (pytest.approx(np.mean(values)), 3)
        assert found["half"] == pytest.approx(half, rel=1e-5)
    for verdict, one in zip(report["verdicts"], scores, strict=True):
        assert f"The samples have {one.modes} of 8 modes" in verdict["sentences"]
    real = plots.choose_real(data.load("ring").images)
    shown = picture(tmp_path / "best.png")
    np.testing.assert_array_equal(shown, plots.scatter(points[outcome.report.best], real))
    # Two panels in a row.
    shown = picture(tmp_path / "samples" / "image_at_epoch_0001.png")
    assert shown.shape == (500, 500, 3)
    runs = members.make_runs(MODEL, dataclasses.replace(CONFIG, image_shape=(1, 1, 2)), settings)
    drawn = runs.pictures(restored(tmp_path).arrays["state"])
    assert drawn.columns == 1250
    np.testing.assert_array_equal(shown, plots.scatter(drawn.images, real, 1250))


class Sums(NamedTuple):
    label: jax.Array
    error: jax.Array


class LabelState(struct.PyTreeNode):
    step: jax.Array
    config: toy.ToyConfig = struct.field(pytree_node=False)


def label_step(state, batch, rng):
    """Its metrics are the mean label, and how far labels are from the pixels of their images."""
    assert batch.keys() == {"image", "label"}
    assert (batch["image"].dtype, batch["label"].dtype) == (jnp.uint8, jnp.int32)
    pixels = batch["image"][:, 0, 0, 0].astype(jnp.int32)
    error = jnp.abs(pixels - batch["label"]).sum().astype(jnp.float32)
    mean = batch["label"].astype(jnp.float32).mean()
    return state.replace(step=state.step + 1), Sums(mean, error)


@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.usefixtures("no_curves")
def test_a_step_gets_the_labels_of_its_images(tmp_path, population):
    labels = np.random.default_rng(0).permutation(32)
    images = np.broadcast_to(labels.astype(np.uint8).reshape(32, 1, 1, 1), (32, 4, 4, 1))
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    model = MODEL._replace(
        create_state=lambda rng, config: LabelState(jnp.int32(0), config),
        train_step=label_step,
        sample=lambda state, rng, n: jnp.zeros((n, *state.config.image_shape)),
        curves=(Curve("label", {"mean": "label"}),),
        equilibrium_distance=None,
    )
    settings = TrainConfig(
        dataset=str(tmp_path / "set.npz"), epochs=1, batch_size=8, population=population, devices=1
    )
    (row,) = training.train(model, CONFIG, settings, tmp_path / "run").history
    assert np.ravel(row["label"]) == pytest.approx(labels.mean())
    assert not np.any(row["error"])


@pytest.mark.usefixtures("no_curves")
def test_the_order_of_a_run_does_not_depend_on_how_it_is_shown(settings, tmp_path):
    """What a folder shows does not change what is trained."""
    settings = dataclasses.replace(settings, population=None, sweep=())
    other = dataclasses.replace(settings, sample_every=9, checkpoint_every=9, log=("tensorboard",))
    for name, chosen in (("a", settings), ("b", other)):
        training.train(MODEL, CONFIG, chosen, tmp_path / name)
    states = [saved.load_state(MODEL, tmp_path / name)[0] for name in ("a", "b")]
    assert_trees_equal(*states)
    assert loop.step(states[0]) == 14


def test_processes_that_would_train_different_runs_are_refused(settings, monkeypatch, tmp_path):
    """Real processes are in test_distributed; here this one is told the numbers of another."""
    given = []
    monkeypatch.setattr(training, "agree", lambda values: given.append(values) or values)
    for changed in ({}, {"data_dir": "elsewhere"}, {"epochs": 3}):
        training._check_alike(
            {"jaxgan": "1", "train": vars(settings) | changed, "data": {"sha256": "a"}}
        )
    own, elsewhere, other = given
    # The files may be in another place.
    assert own == elsewhere != other
    monkeypatch.setattr(training, "agree", lambda values: np.maximum(values, given[0]))
    with pytest.raises(JaxganError, match="processes of this run differ in their options or their"):
        training.train(MODEL, CONFIG, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
