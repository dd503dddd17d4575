"""Runs that are killed, stopped or diverge, as real processes."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, here, save_images

sys.path.insert(0, str(ROOT / "benchmarks"))

import kill_resume

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

STEPS = 8_000
"""Of an epoch: so many that it still runs when the signal arrives, even on a fast machine."""


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """Options of a run of one epoch that is long enough to stop in it.

    Without scores: those of so many images take longer than the steps.
    """
    images = save_images(tmp_path_factory.mktemp("data"), 16 * STEPS)
    return [*images, "--epochs", "1", "--no-evaluate"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, options) -> Path:
    """Such a run, finished."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    here("train.py", *options, "--workdir", folder)
    return folder


def test_killed_at_random_moments_and_resumed_it_is_the_same_run(tmp_path, monkeypatch):
    # That scores are equal after a stop is tested in metrics/test_evaluation.py.
    options = [*save_images(tmp_path, 192), "--epochs", "20", "--checkpoint-every", "1"]
    options.append("--no-evaluate")

    def run(workdir, options):
        here("train.py", *options, "--workdir", workdir)

    run(tmp_path / "reference", options)
    # A process is killed; what is left of the run is trained in this one.
    starts = iter([kill_resume.start, run])
    monkeypatch.setattr(kill_resume, "start", lambda *args: next(starts)(*args))
    monkeypatch.setattr(kill_resume, "finish", lambda _: 0.0)
    seed = random.SystemRandom().randrange(10**6)
    moments, differences = kill_resume.trial(
        tmp_path, tmp_path / "reference", options, kills=1, seed=seed, seconds=0.2
    )
    assert not differences, f"seed {seed}, killed {moments}"
    assert any(moment != "too late" for moment in moments), f"seed {seed}"


def test_the_comparison_finds_a_difference(tmp_path, reference):
    table = shutil.copytree(reference, tmp_path / "run") / "metrics.csv"
    table.write_text(table.read_text().replace(f",{STEPS},", f",{STEPS + 1},"))
    found = kill_resume.differences(tmp_path / "run", reference)
    assert found == ["metrics.csv (1 and 1 rows)"]


def test_a_run_stopped_by_sigint_saves_within_an_epoch_and_says_how_to_resume(
    tmp_path, options, reference, terminal
):
    """As SIGTERM does, to one of two processes: run/test_distributed.py."""
    workdir = tmp_path / "run"
    command = [sys.executable, str(kill_resume.TRAIN), "--workdir", str(workdir), *options]
    # On a terminal, whose bar shows when the first steps have been taken.
    master, slave = terminal
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    err = ""
    while not re.search(r" [1-9]\d*%", err):
        err += os.read(master, 4096).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    while "stopping: the run will be saved" not in err:
        err += os.read(master, 4096).decode(errors="replace")
    out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, err
    assert f"stopped by SIGINT and saved in {workdir}; resume with:" in out
    assert "Traceback" not in err
    python, train, *arguments = out.splitlines()[-1].split()
    assert (python, Path(train)) == ("python", kill_resume.TRAIN)
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert 0 < steps[0] < STEPS
    found = kill_resume.differences(workdir, reference)
    assert any("params" in name for name in found)
    assert any("mu" in name for name in found)
    assert any("metrics.csv" in name for name in found)

    out, _ = here("train.py", *arguments)
    assert f"resuming {workdir}" in out
    assert kill_resume.differences(workdir, reference) == []


def test_a_diverging_run_ends_with_3_and_keeps_the_last_good_checkpoint(tmp_path):
    options = [*save_images(tmp_path, 192), "--epochs", "5", "--checkpoint-every", "1"]
    # Updates that grow so fast overflow after some epochs.
    options += ["--lr-scale", "exponential:1:1e20:60"]
    out, error = here("train.py", *options, "--workdir", tmp_path / "run", status=3)
    assert error.startswith("error: training diverged in epoch ")
    assert len(error.splitlines()) == 1
    epoch = int(error.split("epoch ")[1].split(":")[0])
    rows = kill_resume.metrics(tmp_path / "run")
    assert len(rows) == epoch - 1
    # Scores are of some epochs; the others have no number there.
    numbers = [value for row in rows for name, value in row.items() if value and name != "failures"]
    assert np.isfinite([float(number) for number in numbers]).all()
    assert "last checkpoint" in error
    # What to try comes last, without the network options that diverged.
    words = out.splitlines()[-1].split()
    assert words[0] == "python"
    assert words[-2:] == ["--preset", "tuned"]
    assert not {"--lr-scale", "--workdir"} & set(words)
