import csv
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxgan.errors import JaxganError
from jaxgan.journal import Events, Journal, read_history

ROW = {"epoch": 1, "step": 7, "gen_loss": 0.1 + 0.2, "seconds": 1.5}
# What the detectors look at, of a healthy run.
HEALTHY = {
    "gen_loss": 0.7,
    "logit_spread": 0.5,
    "gen_loss_square": 0.49,
    "disc_loss": 1.4,
    "disc_loss_square": 1.96,
    "real_accuracy": 0.6,
    "fake_accuracy": 0.6,
    "diversity": 0.9,
    "gen_grad_norm": 1.0,
    "disc_grad_norm": 1.0,
    "gen_param_norm": 9.0,
    "disc_param_norm": 9.0,
}


def read_events(folder: Path) -> list[Event]:
    """All records: a length, its checksum, the event, its checksum."""
    events = []
    for path in sorted(folder.iterdir()):
        raw = path.read_bytes()
        while raw:
            (length,) = struct.unpack("<Q", raw[:8])
            events.append(Event.FromString(raw[12 : 12 + length]))
            raw = raw[16 + length :]
    return events


def test_events_hold_the_row_and_purge_what_was_written_after_the_checkpoint(tmp_path):
    events = Events(tmp_path / "tensorboard", wanted=True)
    events.begin(6)
    events.write_row(ROW)
    events.close()
    found = read_events(tmp_path / "tensorboard")
    starts = [e.step for e in found if e.session_log.status == SessionLog.START]
    assert starts == [7]
    values = {v.tag: (e.step, v.simple_value) for e in found for v in e.summary.value}
    assert values == {"gen_loss": (7, np.float32(0.3)), "seconds": (7, 1.5)}


def test_no_events_leave_no_folder(tmp_path):
    events = Events(tmp_path / "tensorboard", wanted=False)
    events.begin(0)
    events.write_row(ROW)
    events.close()
    assert not list(tmp_path.iterdir())


def test_metrics_csv_holds_every_bit_and_is_cut_back_on_resuming(tmp_path):
    journal = Journal(tmp_path, Events(tmp_path, wanted=False))
    images = np.zeros((3, 4, 4, 1), np.uint8)
    first = {**HEALTHY, **ROW}
    second = first | {"epoch": 2, "step": 14}
    journal.begin([], 0, images)
    journal.write_epoch([first, second])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == f"epoch,step,{','.join([*HEALTHY, 'seconds', 'failures'])}"
    assert [line[:26] for line in lines[1:]] == [
        "1,7,0.30000000000000004,0.",
        "2,14,0.30000000000000004,0",
    ]
    assert [line[-5:] for line in lines[1:]] == 2 * [",1.5,"]
    assert read_history(tmp_path) == [first, second]
    journal.begin([first], 7, images)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines[:2]


@pytest.mark.parametrize("members", [None, [{"seed": 0}, {"seed": 1}]])
def test_what_is_measured_in_some_epochs_is_empty_in_the_others(tmp_path, members):
    score = "fd(judge, train, n=50)"
    rows = [{**HEALTHY, **ROW, "epoch": epoch} for epoch in (1, 2, 3)]
    rows[1][score] = 1 / 3
    if members:
        fixed = ("epoch", "step")
        rows = [{k: v if k in fixed else [v, v] for k, v in row.items()} for row in rows]
        rows[1][score] = [1 / 3, 0.5]
    Journal(tmp_path, Events(tmp_path, wanted=False), members).write_epoch(rows)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    expected = ["", repr(1 / 3), ""] if members is None else ["", "", repr(1 / 3), "0.5", "", ""]
    assert [line[score] for line in table] == expected
    assert list(table[0])[-1] == "failures"
    found = read_history(tmp_path)
    assert [row.get(score) for row in found] == [row.get(score) for row in rows]


def test_metrics_csv_names_the_failures_of_each_epoch_and_member(tmp_path):
    members = [{"seed": 0}, {"seed": 1}]
    row = {name: [value, value] for name, value in HEALTHY.items()} | {"diversity": [0.9, 0.1]}
    history = [{"epoch": i + 1, "step": 300 * (i + 1), **row} for i in range(6)]
    journal = Journal(tmp_path, Events(tmp_path, wanted=False), members)
    journal.write_epoch(history)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["failures"] for row in rows] == [*9 * [""], "mode collapse", "", "mode collapse"]
    read = read_history(tmp_path)
    assert [row["diversity"] for row in read] == 6 * [[0.9, 0.1]]
    assert [row["step"] for row in read] == [row["step"] for row in history]


def test_a_metrics_csv_that_is_none_of_ours_is_refused(tmp_path):
    with pytest.raises(JaxganError, match=r"has no metrics\.csv"):
        read_history(tmp_path)
    for text, message in (
        ("epoch,step,gen_loss\n1,2,3\n", "another version of jaxgan: it has no column"),
        ("epoch,step,gen_loss\n1,2,x\n", "cannot be read"),
        ("epoch,step,gen_loss\n1\n", "cannot be read"),
    ):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(JaxganError, match=message):
            read_history(tmp_path)


def test_the_animation_has_the_epochs_of_the_history_alone(tmp_path):
    from PIL import Image

    journal = Journal(tmp_path, Events(tmp_path, wanted=False))
    scores = {"disc_loss": 1.0, "real_score": 0.5, "fake_score": 0.5}
    history = [ROW | scores | {"epoch": i + 1} for i in range(4)]
    for i in range(4):
        journal.write_samples(history[: i + 1], np.full((2, 4, 4, 1), i / 4))
    journal.end(history[:2])
    with Image.open(tmp_path / "training.gif") as animation:
        assert animation.n_frames == 2
