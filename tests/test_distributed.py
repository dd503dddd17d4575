"""One run of two processes, as a user starts them: real processes, on loopback."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxgan import checkpoint, training

ROOT = Path(__file__).parents[1]
# Small, and with a large epsilon: Adam would lift the rounding of gradients that are 0.
OPTIONS = [
    *("--batch-size", "16", "--generator-widths", "32", "--latent-dim", "8"),
    *("--adam-eps", "1e-3", "--checkpoint-every", "1"),
]


@pytest.fixture
def dataset(tmp_path) -> list[str]:
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    return ["--dataset", str(tmp_path / "images.npy"), *OPTIONS]


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
    """Parameters, optimizer moments, sums and metrics, to the rounding of sums in another order.

    And the scores of samples, to that of whole pixels and neighbours.
    """
    found, expected = (
        checkpoint.restore(path, training.checkpoint_like(path)) for path in (folder, other)
    )
    assert found is not None
    assert expected is not None
    assert found[1] == expected[1]
    leaves = [checkpoint.jax.tree.leaves(restored[0].arrays) for restored in (found, expected)]
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
        for name in (name for name in a if name.startswith(("fd(", "coverage("))):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=0.02, abs=0.02), name


def test_two_processes_train_save_and_resume_to_what_one_device_does(tmp_path, dataset):
    one, two = tmp_path / "one", tmp_path / "two"
    dataset += ["--evaluate-every", "1"]
    finish(start(*dataset, "--workdir", one, "--epochs", 1))
    first, second = finish(*start_under_slurm(*dataset, "--workdir", two, "--epochs", 1))
    assert_same_run(two, one)
    assert "epoch 1/1" in first[0]
    assert "(pca64, train, n=100)" in first[0]
    assert "epoch" not in second[0]  # only the first speaks, and writes
    # Each goes on where the other was.
    one_goes_on, two_go_on = (
        start(*dataset, "--workdir", two, "--epochs", 2),
        start_two(*dataset, "--workdir", one, "--epochs", 2),
    )
    assert f"resuming {two} after 1 epochs" in finish(one_goes_on)[0][0]
    assert f"resuming {one} after 1 epochs" in finish(*two_go_on)[0][0]
    assert_same_run(two, one)
    assert (one / "samples" / "image_at_epoch_0002.png").exists()


def test_two_processes_share_a_population(tmp_path, dataset):
    options = [*dataset, "--population", "5", "--epochs", "1"]
    finish(*start_two(*options, "--workdir", tmp_path / "two"))
    finish(start(*options, "--workdir", tmp_path / "one", JAX_NUM_CPU_DEVICES="1"))
    assert_same_run(tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "two" / "best.png").read_bytes()


def wait_for_epochs(folder: Path, epochs: int, processes) -> None:
    table = folder / "metrics.csv"
    for _ in range(1200):
        if table.exists() and len(table.read_text().splitlines()) > epochs:
            return
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.1)
    raise AssertionError(f"no {epochs} epochs in two minutes")


def test_one_that_is_killed_brings_the_run_down_and_it_resumes(tmp_path, dataset):
    folder = tmp_path / "run"
    finish(start(*dataset, "--workdir", folder, "--epochs", 1))
    # Neither amid a save, nor with a second device that waits in vain: there the other hears of it
    # only from jax, which then ends it.
    options = [*dataset, "--checkpoint-every", 10**6, "--workdir", folder]
    processes = start_two(*options, "--epochs", 10**6, JAX_NUM_CPU_DEVICES="1")
    wait_for_epochs(folder, 3, processes)
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
    output, _ = finish(start(*options, "--epochs", 2))[0]
    assert f"resuming {folder} after 1 epochs" in output


def test_a_signal_to_one_stops_and_saves_both(tmp_path, dataset):
    folder = tmp_path / "run"
    processes = start_two(*dataset, "--workdir", folder, "--epochs", 10**6)
    wait_for_epochs(folder, 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    first, _ = finish(*processes, status=128 + signal.SIGTERM)
    assert "stopped by SIGTERM and saved" in first[0]


def test_what_one_process_cannot_do_is_told_by_both(tmp_path, dataset):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    first, second = finish(*start_two(*dataset, "--workdir", tmp_path / "taken"), status=2)
    assert "is not a run folder" in first[1]
    assert "error: another process of this run could not open" in second[1]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes.txt"]


def test_processes_that_would_train_different_runs_are_refused(tmp_path, dataset):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", 2, "--process-id"]
    options = [*dataset, "--workdir", tmp_path / "run", "--epochs", 1]
    processes = [start(*options, "--latent-dim", 8 + i, *together, i) for i in range(2)]
    for _, errors in finish(*processes, status=2):
        assert "differ in their options or their data" in errors
    assert not (tmp_path / "run").exists()
