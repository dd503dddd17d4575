"""A model that jaxgan does not have, trained on digits without a line changed for it."""

import csv
import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from autoencoder import MODEL
from helpers import assert_trees_equal, picture

from jaxgan import TrainConfig, data, loop
from jaxgan.run import checkpoint, saved, training

CONFIG = MODEL.config(learning_rate=1e-2)
SETTINGS = TrainConfig(dataset="digits", epochs=6, batch_size=64, checkpoint_every=2)
STEPS = 24
"""Of an epoch with 1,500 images. The last batch has 28."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, training.Outcome]:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    return folder, training.train(MODEL, CONFIG, SETTINGS, folder)


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without times."""
    found = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


def test_a_run_leaves_what_a_run_of_a_gan_leaves(whole):
    folder, outcome = whole
    assert outcome.trained == 6
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.json", "metrics.csv", "report.json", "checkpoints", "samples"),
        *("real.png", "curves.png", "training.gif"),
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == "autoencoder"
    assert config["autoencoder"] == {**dataclasses.asdict(CONFIG), "image_shape": [8, 8, 1]}

    table = rows(folder)
    assert [int(row["step"]) for row in table] == [STEPS * epoch for epoch in range(1, 7)]
    losses = [float(row["reconstruction"]) for row in table]
    assert losses == sorted(losses, reverse=True)
    # A decoder that only knows the mean image cannot do better than the variance of the pixels.
    pixels = data.load("digits").images.reshape(1500, -1) / 127.5 - 1
    assert losses[-1] < pixels.var(axis=0).sum()

    # The last picture shows 16 samples of the saved parameters, enlarged.
    state, epochs = saved.load_state(MODEL, folder)
    assert (epochs, state.step) == (6, 6 * STEPS)
    samples = np.asarray(MODEL.sample(state, loop.make_rngs(0).pictures, 16))
    grid = samples.reshape(4, 4, 8, 8).transpose(0, 2, 1, 3).reshape(32, 32) * 127.5 + 127.5
    shown = picture(max((folder / "samples").iterdir()))
    scale = len(shown) // 32
    assert scale > 1
    assert np.abs(shown[::scale, ::scale] - grid).max() <= 1
    assert shown.std() > 50


def test_sigterm_saves_and_the_same_call_resumes_to_the_bit(whole, tmp_path, monkeypatch):
    show = training.Journal.show_epoch

    def show_and_stop(journal, row):
        show(journal, row)
        if row["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training.Journal, "show_epoch", show_and_stop)
        stopped = training.train(MODEL, CONFIG, SETTINGS, tmp_path / "run")
    assert stopped.stopped_by == signal.SIGTERM
    assert stopped.trained == 3
    assert checkpoint.steps(tmp_path / "run")[0] == 3 * STEPS
    assert training.train(MODEL, CONFIG, SETTINGS, tmp_path / "run").trained == 3
    one, two = (saved.load_state(MODEL, folder)[0] for folder in (whole[0], tmp_path / "run"))
    assert one.step == 6 * STEPS
    assert_trees_equal(one, two)
    assert rows(tmp_path / "run") == rows(whole[0])


def test_a_population_of_three(whole, tmp_path):
    settings = dataclasses.replace(SETTINGS, population=3, epochs=2, devices=1)
    outcome = training.train(MODEL, CONFIG, settings, tmp_path)
    assert [label["seed"] for label in outcome.labels] == [0, 1, 2]
    assert {"best.png", "worst.png", "curves.png"} <= {path.name for path in tmp_path.iterdir()}
    table = rows(tmp_path)
    assert [(row["epoch"], row["seed"]) for row in table] == [(e, s) for e in "12" for s in "012"]
    # The member with the seed of the single run has its losses; the others have their own.
    single = [row["reconstruction"] for row in rows(whole[0])[:2]]
    assert [row["reconstruction"] for row in table if row["seed"] == "0"] == single
    assert len({row["reconstruction"] for row in table}) == 6
    members = [saved.load_state(MODEL, tmp_path, member)[0] for member in range(3)]
    kernels = [m.autoencoder.params["encoder"]["kernel"] for m in members]
    assert not any(np.array_equal(kernels[0], other) for other in kernels[1:])
