"""Sweeps: one program for numbers, groups for all else, a table and a picture."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import toy
from helpers import picture

from jaxgan import MODELS, GANConfig, JaxganError, TrainConfig
from jaxgan.errors import NonFiniteError
from jaxgan.report import plots, texts
from jaxgan.run import saved, sweep, training

GAN = MODELS["gan"]


@pytest.fixture
def settings(tmp_path, images) -> TrainConfig:
    np.save(tmp_path / "images.npy", images[..., 0])
    return TrainConfig(
        dataset=str(tmp_path / "images.npy"), epochs=2, batch_size=16, population=3, devices=1
    )


def swept(settings, *entries):
    return dataclasses.replace(settings, sweep=entries)


def groups(*entries):
    made = sweep.make_groups(GAN, GANConfig(), TrainConfig(sweep=entries, population=2))
    return {group.name: (group.settings.sweep, group.settings.population) for group in made}


def test_numbers_share_a_program_and_all_else_has_one_each():
    assert groups("r1=0.1,1,10", "generator_b1=0,0.5") == {
        "": (("r1=0.1,1.0,10.0", "generator_b1=0.0,0.5"), 2)
    }
    assert groups("loss=hinge,minimax", "r1=1,2") == {
        "loss=hinge": (("r1=1.0,2.0",), 2),
        "loss=minimax": (("r1=1.0,2.0",), 2),
    }
    # 0 leaves the penalty out, and a schedule is part of the program.
    assert groups("r1=0,1,2", "lr_scale=0.5,cosine:1:0.1") == {
        "r1=0,lr_scale=cosine:1:0.1": ((), 2),
        "r1=0,lr_scale=0.5": (("lr_scale=0.5",), 2),
        "r1=1,2,lr_scale=cosine:1:0.1": (("r1=1.0,2.0",), 2),
        "r1=1,2,lr_scale=0.5": (("r1=1.0,2.0", "lr_scale=0.5"), 2),
    }


def test_the_config_of_a_group_has_its_settings_and_the_parts_of_its_hyperparameters():
    entries = ("spectral_norm=true,false", "batch_size=32,64", "ema_decay=0.9,0.99")
    made = sweep.make_groups(GAN, GANConfig(), TrainConfig(sweep=entries))
    found = [(one.config.spectral_norm, one.settings.batch_size) for one in made]
    assert found == [(True, 32), (True, 64), (False, 32), (False, 64)]
    assert {one.config.ema_decay for one in made} == {0.9}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("r2d2=1,2", "the model has no setting 'r2d2'; did you mean r2?"),
        ("r1=a,b", "r1 must be like its default, 0.0, got 'a'"),
        ("loss=wgan", "loss must be one of non_saturating"),
        ("spectral_norm=1", "spectral_norm must be true or false"),
        ("generator=Dense", "set it in Python"),
        ("r1=1,-1", "r1 must be .*0 or more"),
        ("r1=1,1.0", "the sweep of r1 has a value twice"),
        ("generator_widths=8,16", "generator_widths has several values"),
        ("num_classes=0,3", "num_classes follows from the data"),
    ],
)
def test_a_value_that_no_setting_takes_is_refused(settings, entry, message):
    with pytest.raises(JaxganError, match=message):
        sweep.train(GAN, GANConfig(image_shape=(6, 5, 1)), swept(settings, entry))


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_of_numbers_is_one_run_with_a_table_and_a_picture(settings, tmp_path):
    folder = tmp_path / "run"
    outcome = sweep.train(toy.MODEL, toy.ToyConfig(), swept(settings, "lr=0.01,0.1"), folder)
    assert outcome.workdir == folder
    assert len(outcome.groups) == 1
    row = outcome.groups[0].history[-1]
    rows = table(folder)
    assert [(one["lr"], one["members"], one["diverged"]) for one in rows] == [
        ("0.01", "3", "0"),
        ("0.1", "3", "0"),
    ]
    for i, one in enumerate(rows):
        missed = np.array(row["missed"][3 * i : 3 * i + 3])
        # Student's t with 2 degrees of freedom.
        half = 4.302652729911275 * missed.std(ddof=1) / 3**0.5
        np.testing.assert_allclose(float(one["missed_mean"]), missed.mean())
        np.testing.assert_allclose(float(one["missed_half"]), half, atol=1e-12)
    shown = picture(folder / "sweep.png")
    rows = [dict(one) for one in outcome.table]
    rows[0]["missed"] = rows[0]["missed"] | {"mean": 2.0}
    other = plots.sweep_png(rows, ["lr"], "missed")
    assert (folder / "sweep.png").read_bytes() != other
    assert shown.shape == picture(io.BytesIO(other)).shape


@pytest.mark.usefixtures("no_curves")
def test_groups_train_one_after_the_other_and_resume(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    many = swept(settings, "noise=0.1,0.5", "lr=0.05,0.1")
    outcome = sweep.train(toy.MODEL, toy.ToyConfig(), many)
    folder = tmp_path / "runs" / "images.npy_sweep"
    assert outcome.workdir == folder
    assert [one.workdir.name for one in outcome.groups] == ["noise=0.1", "noise=0.5"]
    found = [(one["noise"], one["lr"]) for one in table(folder)]
    assert found == [("0.1", "0.05"), ("0.1", "0.1"), ("0.5", "0.05"), ("0.5", "0.1")]
    assert "group 2 of 2: noise=0.5" in capsys.readouterr().out
    # Each group equals a population of its own.
    alone = dataclasses.replace(many, sweep=("lr=0.05,0.1",))
    single = training.train(toy.MODEL, toy.ToyConfig(noise=0.5), alone, tmp_path / "alone")
    assert single.history[-1]["loss"] == outcome.groups[1].history[-1]["loss"]
    # The same command has nothing to do, more epochs continue, another sweep gets a folder.
    again = sweep.train(toy.MODEL, toy.ToyConfig(), many)
    assert [one.trained for one in again.groups] == [0, 0]
    longer = sweep.train(toy.MODEL, toy.ToyConfig(), dataclasses.replace(many, epochs=3))
    assert (longer.workdir, [one.trained for one in longer.groups]) == (folder, [1, 1])
    other = sweep.train(toy.MODEL, toy.ToyConfig(), dataclasses.replace(many, seed=5))
    assert other.workdir == tmp_path / "runs" / "images.npy_sweep-2"
    with pytest.raises(JaxganError, match="holds another sweep; choose another --workdir"):
        sweep.train(toy.MODEL, toy.ToyConfig(), dataclasses.replace(many, seed=6), folder)
    assert json.loads((folder / "sweep.json").read_text())["run"]["seed"] == 0
    with pytest.raises(JaxganError, match=r"is a sweep; choose one .*: noise=0.1, noise=0.5$"):
        saved.read_settings(folder)


@pytest.mark.usefixtures("no_curves")
def test_images_of_different_sizes_take_the_image_size(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(16):
        (folder / f"{i}.png").write_bytes(plots.png(np.full((6 + i, 6, 1), 10 * i, np.uint8)))
    many = swept(settings, "noise=0.1,0.5")
    options = {"dataset": str(folder), "image_size": 4, "epochs": 1, "evaluate": False}
    many = dataclasses.replace(many, **options)
    outcome = sweep.train(toy.MODEL, toy.ToyConfig((4, 4, 1)), many)
    assert outcome.workdir == tmp_path / "runs" / "mixed_sweep"
    assert [one.trained for one in outcome.groups] == [1, 1]


@pytest.mark.usefixtures("no_curves")
def test_a_group_that_diverges_does_not_stop_the_others(settings, tmp_path):
    many = swept(settings, "noise=inf,0.1")
    outcome = sweep.train(toy.MODEL, toy.ToyConfig(), many, tmp_path / "run")
    assert [one.workdir.name for one in outcome.groups] == ["noise=0.1"]
    assert [(one["noise"], one["diverged"]) for one in table(tmp_path / "run")] == [
        ("inf", "3"),
        ("0.1", "0"),
    ]
    lines = texts.sweep_lines(outcome.table, ["noise"], sweep.SCORES)
    assert [line.split()[:4] for line in lines[:2]] == [
        ["noise", "members", "diverged", "failed"],
        ["inf", "3", "3", "0"],
    ]
    with pytest.raises(NonFiniteError, match="all 3 members have diverged"):
        sweep.train(toy.MODEL, toy.ToyConfig(), swept(settings, "noise=inf,nan"), tmp_path / "b")


def test_groups_of_a_private_sweep_would_add_up_their_epsilons(settings, tmp_path):
    private = dataclasses.replace(swept(settings, "loss=hinge,minimax"), epsilon=1.0)
    with pytest.raises(JaxganError, match=r"would each spend epsilon: .* leave out loss"):
        sweep.train(GAN, GANConfig(image_shape=(6, 5, 1)), private, tmp_path / "run")
    assert not (tmp_path / "run").exists()
