"""Runs that are killed, stopped or diverge, as real processes."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, here

sys.path.insert(0, str(ROOT / "benchmarks"))

import kill_resume

OPTIONS = [
    *("--batch-size", "16", "--generator-widths", "32", "--latent-dim", "8"),
    *("--discriminator-widths", "32", "--discriminator-dropout", "0.3"),
]
STEPS = 6_000
"""The steps of an epoch. It must still run when the signal arrives."""


def save_images(folder: Path, n: int) -> list[str]:
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8), np.uint8)
    np.save(folder / "images.npy", images)
    return ["--dataset", str(folder / "images.npy"), *OPTIONS]


def test_killed_at_random_moments_and_resumed_it_is_the_same_run(tmp_path):
    options = [*save_images(tmp_path, 200), "--epochs", "15", "--checkpoint-every", "1"]
    here("train.py", *options, "--workdir", tmp_path / "reference")
    seed = random.SystemRandom().randrange(10**6)
    moments, differences = kill_resume.trial(
        tmp_path, tmp_path / "reference", options, kills=2, seed=seed, seconds=0.5
    )
    assert not differences, f"seed {seed}, killed {moments}"
    assert any(moment != "too late" for moment in moments), f"seed {seed}"


def test_the_comparison_finds_a_difference(tmp_path):
    options = [*save_images(tmp_path, 200), "--epochs", "1"]
    for name, seed in (("a", 0), ("b", 1)):
        here("train.py", *options, "--seed", seed, "--workdir", tmp_path / name)
    found = kill_resume.differences(tmp_path / "a", tmp_path / "b")
    assert any("params" in name for name in found)
    assert any("mu" in name for name in found)
    assert any("metrics.csv" in name for name in found)


@pytest.fixture(scope="module")
def long_epochs(tmp_path_factory) -> tuple[list[str], Path]:
    """Options of a run whose epochs are long enough to stop in them, and such a run, finished."""
    folder = tmp_path_factory.mktemp("long")
    options = [*save_images(folder, 16 * STEPS), "--epochs", "1"]
    here("train.py", *options, "--workdir", folder / "reference")
    return options, folder / "reference"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_within_an_epoch_and_says_how_to_resume(
    tmp_path, long_epochs, terminal, number
):
    options, reference = long_epochs
    workdir = tmp_path / "run"
    command = [sys.executable, str(kill_resume.TRAIN), "--workdir", str(workdir), *options]
    # On a terminal, whose bar shows when the first steps have been taken.
    master, slave = terminal
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    err = ""
    while not re.search(rf" [1-9]\d*/{STEPS} ", err):
        err += os.read(master, 4096).decode(errors="replace")
    process.send_signal(number)
    out, _ = process.communicate()
    assert process.returncode == 128 + number, err
    assert f"stopped by {number.name} and saved in {workdir}; resume with:" in out
    assert "Traceback" not in err
    python, train, *arguments = out.splitlines()[-1].split()
    assert (python, Path(train)) == ("python", kill_resume.TRAIN)
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert 0 < steps[0] < STEPS

    if number == signal.SIGTERM:
        out, _ = here("train.py", *arguments)
        assert f"resuming {workdir}" in out
        assert kill_resume.differences(workdir, reference) == []


def test_a_diverging_run_ends_with_3_and_keeps_the_last_good_checkpoint(tmp_path):
    options = [*save_images(tmp_path, 200), "--epochs", "30", "--checkpoint-every", "1"]
    # Updates of this size overflow after some epochs.
    options += ["--discriminator-lr", "3000", "--discriminator-widths", "16", "16", "16"]
    options += ["--discriminator-dropout", "0.5", "0.3", "0.2"]
    process = kill_resume.start(tmp_path / "run", options)
    error = process.communicate()[1].decode()
    assert process.returncode == 3, error
    assert error.startswith("error: training diverged in epoch ")
    assert len(error.splitlines()) == 1
    epoch = int(error.split("epoch ")[1].split(":")[0])
    rows = kill_resume.metrics(tmp_path / "run")
    assert len(rows) == epoch - 1
    numbers = [value for row in rows for name, value in row.items() if name != "failures"]
    assert np.isfinite([float(number) for number in numbers]).all()
    assert "last checkpoint" in error
