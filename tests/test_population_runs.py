"""A population in a run folder: trained, checkpointed, resumed, reported, sampled."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from test_gan import assert_trees_equal
from test_scripts import here

from jaxgan import (
    GANConfig,
    JaxganError,
    TrainConfig,
    checkpoint,
    data,
    population,
    sample,
    training,
)
from jaxgan.metrics.modes import mode_scores


@pytest.fixture(scope="module")
def settings(tmp_path_factory, images) -> TrainConfig:
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "images.npy", images[..., 0])
    return TrainConfig(
        dataset=str(folder / "images.npy"),
        epochs=2,
        batch_size=5,
        checkpoint_every=1,
        population=3,
        sweep=("generator_lr=1e-4,1e-3",),
        devices=1,
    )


@pytest.fixture(scope="module")
def run_folder(settings, tiny, tmp_path_factory):
    config = dataclasses.replace(tiny, image_shape=GANConfig().image_shape)
    folder = tmp_path_factory.mktemp("population") / "run"
    outcome = training.train(config, settings, folder)
    return config, folder, outcome


def restored(folder):
    found = checkpoint.restore(folder, training.checkpoint_like(folder))
    assert found is not None
    return found[0]


def test_each_member_has_its_rows_and_the_report_sums_them_up(run_folder):
    _, folder, outcome = run_folder
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    members = [(row["epoch"], row["member"], row["seed"], row["generator_lr"]) for row in rows]
    assert members == [
        (epoch, str(i), str(i % 3), ["0.0001", "0.001"][i // 3])
        for epoch in ("1", "2")
        for i in range(6)
    ]
    report = json.loads((folder / "report.json").read_text())
    losses = [float(row["disc_loss"]) for row in rows[6:]]
    assert report["summary"][1]["disc_loss_mean"] == pytest.approx(np.mean(losses[3:]))
    distances = np.abs(np.array(losses) - 2 * np.log(2))
    assert (report["best"], report["worst"]) == (distances.argmin(), distances.argmax())
    assert outcome.history[-1]["disc_loss"] == losses


def test_the_pictures_are_there_and_of_the_members(run_folder):
    _, folder, _ = run_folder
    for name in ("best", "worst", "curves", "real"):
        Image.open(folder / f"{name}.png").verify()
    grid = np.asarray(Image.open(folder / "samples" / "image_at_epoch_0002.png"))
    # A row for each of six members, of eight samples of 6 x 5 pixels, enlarged.
    assert grid.shape[0] * (8 * 5) == grid.shape[1] * (6 * 6)
    best, worst = (np.asarray(Image.open(folder / f"{name}.png")) for name in ("best", "worst"))
    assert (best != worst).any()


def test_resumed_it_is_the_same_population_to_the_bit(run_folder, settings, tmp_path):
    config, folder, _ = run_folder
    training.train(config, dataclasses.replace(settings, epochs=1), tmp_path / "cut")
    # On as many devices as one likes: members do not see each other.
    outcome = training.train(config, dataclasses.replace(settings, devices=4), tmp_path / "cut")
    assert outcome.trained == 1
    found, expected = restored(tmp_path / "cut"), restored(folder)
    assert_trees_equal(found.arrays, expected.arrays)


def test_one_member_can_be_taken_out(run_folder):
    _, folder, outcome = run_folder
    states = restored(folder).arrays["state"]
    best = population.report(states.config, outcome.members, outcome.history[-1]).best
    for asked, i in ((3, 3), (None, best)):
        state, epochs = training.load_state(folder, asked)
        assert epochs == 2
        assert_trees_equal(state, population.member(states, i))
    with pytest.raises(JaxganError, match="members 0 to 5, and no member 6"):
        training.load_state(folder, 6)


def test_another_population_is_refused(run_folder, settings):
    config, folder, _ = run_folder
    for change, message in (
        ({"population": 2, "sweep": ("generator_lr=1,2,3",)}, r"train\.population: 3 -> 2"),
        ({"sweep": ("generator_lr=1e-4,2",)}, r"train\.sweep: .*1e-3'\] -> \['.*1e-4,2'\]"),
        ({"population": None, "sweep": ()}, "holds a run of another configuration"),
    ):
        with pytest.raises(JaxganError, match=message):
            training.train(config, dataclasses.replace(settings, **change), folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("population", 0),
        ("sweep", ("generator_lr",)),
        ("sweep", ("generator_lr=fast",)),
        ("sweep", ("generator_lr=1", "generator_lr=2")),
        ("devices", -1),
    ],
)
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(JaxganError, match=f"^{field} must be"):
        TrainConfig(**{field: value})


def test_seeds_beyond_the_last_are_refused():
    assert TrainConfig(seed=2**32 - 3, population=3).population == 3
    with pytest.raises(JaxganError, match="every seed is below"):
        TrainConfig(seed=2**32 - 2, population=3)


def test_a_sweep_alone_is_one_seed_for_each_value():
    settings = TrainConfig(seed=4, sweep=("generator_lr=1e-4,1e-3", "adam_eps=1e-7"))
    assert training._members(settings) == [
        {"seed": 4, "generator_lr": 1e-4, "adam_eps": 1e-7},
        {"seed": 4, "generator_lr": 1e-3, "adam_eps": 1e-7},
    ]


def test_in_parts_it_is_saved_resumed_and_reported_alike(
    run_folder, settings, tmp_path, monkeypatch
):
    config, folder, _ = run_folder
    monkeypatch.setattr(population, "members_at_once", lambda *_: 2)
    training.train(config, dataclasses.replace(settings, epochs=1), tmp_path / "parts")
    training.train(config, settings, tmp_path / "parts")
    assert_trees_equal(restored(tmp_path / "parts").arrays, restored(folder).arrays)
    for name in ("report.json", "best.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (folder / name).read_bytes()


def test_members_that_fail_are_counted_and_the_others_go_on(run_folder, settings, tmp_path):
    config, _, _ = run_folder
    settings = dataclasses.replace(settings, sweep=("generator_lr=1e38,1e-4",), tensorboard=True)
    training.train(config, dataclasses.replace(settings, epochs=1), tmp_path / "run")
    outcome = training.train(config, dataclasses.replace(settings, devices=4), tmp_path / "run")
    assert len(outcome.history) == 2
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["failed"] == [0, 1, 2]
    assert [(line["members"], line["failed"]) for line in report["summary"]] == [(3, 3), (3, 0)]
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [np.isnan(float(row["gen_loss"])) for row in rows] == 2 * (3 * [True] + 3 * [False])
    Image.open(tmp_path / "run" / "curves.png").verify()
    # Its samples are not to be had, and its history is told.
    options = ("--workdir", tmp_path / "run", "--out", tmp_path / "samples.npz")
    assert "has diverged" in here("sample.py", *options, "--member", 0, status=3)[1]
    assert not (tmp_path / "samples.npz").exists()
    here("sample.py", *options, "--member", 3)
    told = here("diagnose.py", tmp_path / "run", "--member", 0)[0]
    assert "in which it diverged" in told
    assert "before it diverged; try lower learning rates" in told


def test_a_sweep_that_cannot_be_leaves_no_folder(run_folder, settings, tmp_path):
    config, _, _ = run_folder
    for sweep in ("generatr_lr=1", "generator_lr=-1"):
        with pytest.raises(JaxganError, match="generat"):
            training.train(config, dataclasses.replace(settings, sweep=(sweep,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_mixture_gives_scores_and_a_panel_for_each_member(run_folder, tmp_path):
    config, _, outcome = run_folder
    assert outcome.scores is None
    settings = TrainConfig(dataset="ring", epochs=1, batch_size=20_000, population=3, devices=1)
    outcome = training.train(config, settings, tmp_path / "run")
    rngs = population.make_rngs(outcome.members).pictures
    scores = []
    for i in range(3):
        state, _ = training.load_state(tmp_path / "run", i)
        points = np.asarray(sample(state, rngs[i], 2500)).reshape(2500, 2)
        scores.append(mode_scores(points, data.MIXTURES["ring"]))
    assert scores[0] != scores[1]
    for name, mean in outcome.scores._asdict().items():
        values = np.array([getattr(one, name) for one in scores])
        sound = values[np.isfinite(values)]
        assert mean == pytest.approx(sound.mean() if len(sound) else np.nan, nan_ok=True), name
    # Two panels in a row.
    shown = np.asarray(Image.open(tmp_path / "run" / "samples" / "image_at_epoch_0001.png"))
    assert shown.shape == (500, 500, 3)
    assert np.asarray(Image.open(tmp_path / "run" / "best.png")).shape == (448, 448, 3)
