"""What a run leaves for its reader: metrics.csv, pictures, curves, TensorBoard events."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan import diagnostics, plots
from jaxgan.checkpoint import disk_errors, write_atomically
from jaxgan.devices import is_first
from jaxgan.errors import JaxganError
from jaxgan.loop import sound_mean

History = Sequence[dict[str, Any]]


class Events:
    """TensorBoard events in a folder, or nothing if they are not wanted.

    Raises:
      JaxganError: at construction, if they are wanted and tensorboardX is not installed.
    """

    def __init__(self, path: Path, wanted: bool):
        self._path = path
        self._make_writer: Any = None
        self._writer: Any = None
        if wanted:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise JaxganError(
                    "--tensorboard needs tensorboardX: pip install 'jaxgan[tensorboard]'"
                ) from error
            self._make_writer = SummaryWriter

    def begin(self, step: int) -> None:
        """Goes on after a step; what an earlier process wrote of later ones is purged."""
        if self._make_writer is not None:
            self._writer = self._make_writer(str(self._path), purge_step=step + 1)

    def write_row(self, row: dict[str, float]) -> None:
        """Writes one epoch's row of the history."""
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self._writer.add_scalar(name, sound_mean(value), row["step"])

    def write_image(self, image: np.ndarray, step: float) -> None:
        """Writes a picture, uint8 `[H, W, C]`."""
        if self._writer is not None:
            self._writer.add_image("samples", image, step, dataformats="HWC")

    def close(self) -> None:
        """Finishes the file of events."""
        if self._writer is not None:
            self._writer.close()


class Journal:
    """Writes the files of a run folder that are for reading; each is whole at any moment.

    Of several processes only the first writes. All methods raise JaxganError if the folder cannot
    be written.
    """

    def __init__(self, path: Path, events: Events, members: Sequence[Mapping] | None = None):
        self._path = path
        self._events = events
        self._members = members
        self._real: np.ndarray | None = None

    def begin(self, history: History, step: int, images: np.ndarray) -> None:
        """Writes a picture of real images, and metrics.csv as it was at that step."""
        self._real = plots.chosen(images)
        self._write("real.png", plots.enlarged_png(plots.picture(self._real)))
        self._write("metrics.csv", _csv(history, self._members))
        self._events.begin(step)

    def write_epoch(self, history: History) -> None:
        """Writes metrics.csv and the events of the last epoch."""
        self._write("metrics.csv", _csv(history, self._members))
        self._events.write_row(history[-1])

    def write_samples(self, history: History, images, columns: int | None = None) -> None:
        """Writes a picture of samples, `[N, H, W, C]`, as that of the last epoch."""
        epoch, step = len(history), history[-1]["step"]
        picture = plots.picture(images, self._real, columns)
        self._write(_sample_name(epoch), plots.enlarged_png(picture))
        self._events.write_image(picture, step)

    def write_member(self, name: str, images) -> None:
        """Writes a picture of one member's samples, `[N, H, W, C]`, as NAME.png."""
        self._write(f"{name}.png", plots.enlarged_png(plots.picture(images, self._real)))

    def write_report(self, report: Mapping) -> None:
        """Writes report.json."""
        self._write("report.json", json.dumps(report, indent=2) + "\n")

    def end(self, history: History) -> None:
        """Writes the curves and the animation of all samples so far."""
        if history:
            self._write("curves.png", plots.curves_png(history))
        # Not all that lie there: a run that went on from an older checkpoint may be behind them.
        frames = [self._path / _sample_name(epoch + 1) for epoch in range(len(history))]
        frames = [path for path in frames if path.exists()]
        if frames:
            self._write("training.gif", plots.gif(frames))

    def _write(self, name: str, content: str | bytes) -> None:
        if not is_first():
            return
        path = self._path / name
        with disk_errors(self._path):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The history that the metrics.csv of a run folder tells, also while the run goes on.

    Of a population the numbers of an epoch are lists, as in `loop.Run`.

    Raises:
      JaxganError: if there is no such file, or it is not one that this version has written.
    """
    file = Path(path).expanduser() / "metrics.csv"
    epochs: dict[str, list[dict[str, str]]] = {}
    try:
        for row in csv.DictReader(file.read_text().splitlines()):
            epochs.setdefault(row["epoch"], []).append(row)
        history = [_row(members) for members in epochs.values()]
        diagnostics.failures(history)
    except FileNotFoundError as error:
        raise JaxganError(f"{path} is not a run folder: it has no metrics.csv") from error
    except (OSError, ValueError, TypeError) as error:
        raise JaxganError(f"{file} cannot be read ({error})") from error
    except KeyError as error:
        raise JaxganError(
            f"{file} is of another version of jaxgan: it has no column {error}"
        ) from error
    return history


def _row(members: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A row of the history from the lines of an epoch, one for each member."""
    first = members[0]
    # Empty: not measured in this epoch.
    values: dict[str, Any] = {
        name: [float(line[name]) for line in members]
        for name, text in first.items()
        if name != "failures" and text
    }
    if "member" not in first:
        values = {name: value for name, (value,) in values.items()}
    return values | {name: int(first[name]) for name in ("epoch", "step")}


def _sample_name(epoch: int) -> str:
    return f"samples/image_at_epoch_{epoch:04}.png"


def _csv(history: History, members: Sequence[Mapping] | None) -> str:
    """A row for each epoch, or of a population for each epoch and member."""
    rows = []
    for row, failures in zip(history, diagnostics.failures(history), strict=True):
        for i, member in enumerate(members or [{}]):
            own = {"member": i, **member} if members else {}
            values = {k: v[i] if isinstance(v, list) else v for k, v in row.items()}
            place = {"epoch": values.pop("epoch"), "step": values.pop("step")}
            rows.append({**place, **own, **values, "failures": failures[i]})
    # Not every row has all: what was not measured is left empty.
    names = {name: None for row in rows for name in row if name != "failures"}
    table = io.StringIO()
    if rows:
        writer = csv.DictWriter(table, [*names, "failures"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return table.getvalue()
