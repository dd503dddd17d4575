"""diagnose.py --follow beside a run that trains."""

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from helpers import here

import jaxgan
from jaxgan import MODELS, TrainConfig
from jaxgan.commands import diagnose
from jaxgan.run.checkpoint import RunFolder
from jaxgan.run.journal import Journal
from jaxgan.run.journal import diagnose as find
from jaxgan.run.saved import as_json
from jaxgan.run.trackers import Trackers

GAN = MODELS["gan"]
ROW = {
    "gen_loss": 0.7,
    "disc_loss": 1.4,
    "real_accuracy": 0.6,
    "fake_accuracy": 0.6,
    "logit_spread": 0.5,
    "missed": 0.5,
    "gen_grad_norm": 1.0,
    "disc_grad_norm": 1.0,
    "gen_param_norm": 9.0,
    "disc_param_norm": 9.0,
    "gen_loss_square": 0.49,
    "disc_loss_square": 1.96,
    "steps_per_second": 100.0,
}


class FakeRun:
    """Holds the lock of a run folder, and writes metrics.csv as a run does. Samples of it lack half
    of the data, which is a failure from its fifth epoch on."""

    def __init__(self, path: Path):
        settings = dataclasses.asdict(TrainConfig(dataset="digits", epochs=12))
        sections = {"jaxgan": jaxgan.__version__, "model": "gan", "train": settings, "data": {}}
        self.folder = RunFolder(path, {**sections, "gan": as_json(GAN.config())})
        self.journal = Journal(path, GAN, GAN.config(), [{}], Trackers((), path, {}))

    def write(self, epochs: int) -> None:
        history = [{"epoch": i + 1, "step": 400 * (i + 1), **ROW} for i in range(epochs)]
        self.journal.write_table(history, find(GAN, history))


def epochs_of(output: str) -> list[int]:
    return [int(line.split()[1]) for line in output.splitlines() if line.startswith("epoch ")]


@pytest.fixture
def looks(monkeypatch) -> threading.Semaphore:
    """Counts how often `follow` has looked; it looks every ten milliseconds."""
    semaphore = threading.Semaphore(0)

    def sleep(seconds: float) -> None:
        assert seconds == 1
        semaphore.release()
        time.sleep(0.01)

    monkeypatch.setattr(diagnose, "sleep", sleep)
    return semaphore


def test_each_epoch_and_failure_of_a_run_is_printed_once_until_it_ends(tmp_path, looks):
    run = FakeRun(tmp_path)

    def wait_for_a_look() -> None:
        while looks.acquire(blocking=False):
            pass
        for _ in range(2):  # the first look may have begun before
            assert looks.acquire(timeout=60)

    def train() -> None:
        with run.folder:
            # The last two: it resumes from an older checkpoint, and trains these epochs again.
            for epochs in (0, 1, 4, 6, 5, 8):
                wait_for_a_look()
                run.write(epochs)
            wait_for_a_look()
            run.write(9)

    thread = threading.Thread(target=train)
    thread.start()
    out, err = here("diagnose.py", tmp_path, "--follow")
    thread.join()
    assert not err
    lines = out.splitlines()
    assert lines[0] == f"waiting for the first epoch in {tmp_path}"
    numbers = epochs_of(out)
    assert numbers == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9]
    metrics = "gen_loss 0.7  disc_loss 1.4  real_accuracy 0.6  fake_accuracy 0.6  missed 0.5"
    assert lines[1] == f"epoch 1  {metrics}  100 steps/s"
    (at,) = [i for i, line in enumerate(lines) if line.startswith("mode collapse, epoch ")]
    assert lines[at - 1].startswith("epoch 6 ")
    # Then the whole run is described.
    assert out.index("epoch 9  ") < out.index("9 epochs, 3600 steps\n") < out.index("Found:")
    assert (tmp_path / "diagnosis.png").exists()


def test_of_a_run_that_has_ended_the_last_ten_epochs_are_printed(tmp_path, looks):
    run = FakeRun(tmp_path)
    with run.folder:
        run.write(12)
    out, _ = here("diagnose.py", tmp_path, "--follow")
    assert epochs_of(out) == list(range(3, 13))
    assert "12 epochs, 4800 steps" in out
    assert not looks.acquire(blocking=False)


def test_a_run_that_ended_before_its_first_epoch_is_one_line(tmp_path, looks):
    with FakeRun(tmp_path).folder:
        pass
    out, err = here("diagnose.py", tmp_path, "--follow", status=2)
    assert (out, err) == ("", f"error: {tmp_path} is not a run folder: it has no metrics.csv\n")
    assert "not a run folder" in here("diagnose.py", tmp_path / "no", "--follow", status=2)[1]


def test_ctrl_c_ends_watching_without_a_traceback_and_the_run_goes_on(tmp_path, monkeypatch):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnose, "sleep", interrupt)
    run = FakeRun(tmp_path)
    with run.folder:
        run.write(2)
        out, err = here("diagnose.py", tmp_path, "--follow", status=130)
        run.folder.check_present()
    assert (epochs_of(out), err) == ([1, 2], "")
