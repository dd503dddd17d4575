"""One run of two processes, as a user starts them: real processes, on loopback."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import ROOT, here, picture, save_images

from jaxgan import MODELS, loop, sample
from jaxgan.report import plots
from jaxgan.run import checkpoint, saved

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

GAN = MODELS["gan"]

EVALUATED = ["--evaluate-every", "1", "--epochs", "1"]


def small_run(folder: Path, n: int) -> list[str]:
    # A large epsilon: Adam would lift the rounding of gradients that are 0.
    return [*save_images(folder, n), "--adam-eps", "1e-3", "--checkpoint-every", "1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> list[str]:
    # A multiple of the batch: a smaller last batch would need a program of its own.
    return small_run(tmp_path_factory.mktemp("data"), 192)


@pytest.fixture(scope="module")
def one(tmp_path_factory, dataset) -> Path:
    """A run of one process, after one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    here("train.py", *dataset, *EVALUATED, "--workdir", folder)
    return folder


def start(*arguments, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2", **environment},
    )


def start_two(*arguments, **environment) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2]
    return [start(*arguments, *together, "--process-id", i, **environment) for i in range(2)]


def start_under_slurm(*arguments) -> list[subprocess.Popen]:
    """As `srun --ntasks 2` would on this host."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    return [start(*arguments, **job, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)]


def finish(*processes: subprocess.Popen, status: int = 0) -> list[tuple[str, str]]:
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == status, output
    return outputs


def assert_same_run(folder: Path, other: Path) -> None:
    """Parameters, moments, sums and metrics are equal within the rounding of sums in another order.

    Scores of samples are equal within the rounding of pixels, which may change neighbours.
    """
    found, expected = (
        checkpoint.restore(path, saved.checkpoint_like(GAN, path)) for path in (folder, other)
    )
    assert found is not None
    assert expected is not None
    assert found[1] == expected[1]
    leaves = [jax.tree.leaves(restored[0].arrays) for restored in (found, expected)]
    for a, b in zip(*leaves, strict=True):
        atol = 1e-4 * float(np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=atol)
    rows = [
        list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
        for path in (folder, other)
    ]
    for a, b in zip(*rows, strict=True):
        for name in ("gen_loss", "disc_loss", "real_score", "fake_score"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4)
        assert a.keys() == b.keys()
        for name in (name for name in a if a[name] and name in ("fd", "coverage")):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=0.02, abs=0.02), name


def test_two_processes_train_and_save_what_one_device_does(tmp_path, dataset, one):
    two = tmp_path / "two"
    first, second = finish(*start_under_slurm(*dataset, *EVALUATED, "--workdir", two))
    assert_same_run(two, one)
    assert "epoch 1/1" in first[0]
    assert "(pca64, train, n=96)" in " ".join(first[0].split())
    assert "epoch" not in second[0]  # only the first prints and writes
    assert (two / "samples" / "image_at_epoch_0001.png").exists()


def wait_for_epochs(folder: Path, epochs: int, processes) -> None:
    table = folder / "metrics.csv"
    for _ in range(1200):
        if table.exists() and len(table.read_text().splitlines()) > epochs:
            return
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.1)
    raise AssertionError(f"no {epochs} epochs in two minutes")


def test_if_one_is_killed_the_other_ends_and_the_run_resumes(tmp_path, dataset, one):
    folder = shutil.copytree(one, tmp_path / "run")
    # Neither during a save, nor with a second device that waits in vain: then the other is told
    # only by jax, which ends it.
    options = [*dataset, "--no-evaluate", "--checkpoint-every", 10**6, "--workdir", folder]
    processes = start_two(*options, "--epochs", 10**6, JAX_NUM_CPU_DEVICES="1")
    wait_for_epochs(folder, 2, processes)
    processes[1].kill()
    _, errors = processes[0].communicate(timeout=150)
    processes[1].communicate()
    if processes[0].returncode == -signal.SIGABRT:
        assert "another task died" in errors
    else:
        assert processes[0].returncode == 4, errors
        assert "error: another process of this run has ended" in errors
        assert "run the same commands again" in errors
        assert "Traceback" not in errors
    output, _ = here("train.py", *options, "--epochs", 2)
    assert f"resuming {folder} after 1 epochs" in output


def test_two_processes_share_a_population_and_a_signal_to_one_stops_and_saves_both(tmp_path):
    # After an epoch of 400 steps samples are measured, which puts the members into an order.
    options = [*small_run(tmp_path, 400), "--batch-size", "1", "--population", "5"]
    # Dropout is in the runs above: without it the programs are smaller.
    options += ["--no-evaluate", "--checkpoint-every", 10**6, "--discriminator-dropout", 0]
    two = tmp_path / "two"
    processes = start_two(*options, "--workdir", two, "--epochs", 10**6)
    wait_for_epochs(two, 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    first, _ = finish(*processes, status=128 + signal.SIGTERM)
    assert "stopped by SIGTERM and saved" in first[0]
    best = json.loads((two / "report.json").read_text())["best"]
    state, epochs = saved.load_state(GAN, two)
    grid = plots.image_grid(sample(state, loop.make_rngs(best).pictures, 16))
    shown = picture(two / "best.png")
    np.testing.assert_array_equal(shown[::14, ::14], grid[..., 0])
    # One process trains the same population, from where they stopped and from the start.
    for folder in (two, tmp_path / "one"):
        options += ["--epochs", epochs + 1, "--devices", 1]
        here("train.py", *options, "--workdir", folder)
    assert_same_run(two, tmp_path / "one")


def test_both_report_what_one_cannot_do(tmp_path, dataset):
    (tmp_path / "taken" / "notes").mkdir(parents=True)
    first, second = finish(*start_two(*dataset, "--workdir", tmp_path / "taken"), status=2)
    assert "is not a run folder" in first[1]
    assert "error: another process of this run could not open" in second[1]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes"]
