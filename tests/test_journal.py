import struct
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxgan.journal import Events, Journal

ROW = {"epoch": 1, "step": 7, "gen_loss": 0.1 + 0.2, "seconds": 1.5}


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
    journal.begin([], 0, images)
    second = ROW | {"epoch": 2, "step": 14}
    journal.write_epoch([ROW, second])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,gen_loss,seconds"
    assert lines[1:] == ["1,7,0.30000000000000004,1.5", "2,14,0.30000000000000004,1.5"]
    journal.begin([ROW], 7, images)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines[:2]


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
