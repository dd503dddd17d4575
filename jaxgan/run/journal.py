"""The files of a run folder that people read: metrics.csv, pictures, curves."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan.data.dataset import Dataset, class_name
from jaxgan.data.pixels import are_vectors
from jaxgan.errors import JaxganError
from jaxgan.files import disk_errors, expand, write_atomically
from jaxgan.history import History, member_history, readable, with_squares
from jaxgan.labels import num_classes
from jaxgan.model import Column, Diagnosis, Model
from jaxgan.processes import is_first
from jaxgan.report import plots
from jaxgan.run.checkpoint import removed
from jaxgan.run.trackers import Trackers

COLUMNS = {
    "epoch": Column("the number of the epoch, from 1"),
    "step": Column("steps taken so far"),
    "member": Column("the number of the member"),
    "seed": Column("the seed of the member"),
    "seconds": Column("time of training, in seconds"),
    "steps_per_second": Column("steps in a second; of a population those of all members"),
    "missed": Column("share of data in parts without samples", "falls to 0"),
    "diversity": Column("distance of samples / of real images", "about 1"),
    "fd": Column("Fréchet distance of samples", "as for real images"),
    "precision": Column("share of samples that look real", "as for real images"),
    "recall": Column("share of real images like samples", "as for real images"),
    "density": Column("real images around each sample", "as for real images"),
    "coverage": Column("share of real images near samples", "as for real images"),
    "modes": Column("modes that have samples", "all"),
    "high_quality": Column("share of samples near a mode", "about 0.99"),
    "reverse_kl": Column("KL of modes from uniform, in nats", "near 0"),
    "covariance_ratio": Column("how round the worst mode is", "0.5 or more"),
    "failures": Column("failures seen at the epoch's end", "none"),
}
"""The columns of metrics.csv that are the same for all models. Scores of images also exist with
real_ (of real images) and, with --evaluate-every, raw_ (of parameters without their average)."""


class Journal:
    """Writes the files of a run folder that people read. Each file is complete at any moment.

    If there are several processes, only the first writes. All methods raise JaxganError if the
    folder cannot be written.

    Args:
      path: the run folder.
      model: of the run; it has the curves and the diagnosis.
      config: of the model.
      labels: for each member, the columns of metrics.csv that identify it.
      trackers: programs that show the run too.
    """

    def __init__(
        self,
        path: Path,
        model: Model,
        config: Any,
        labels: Sequence[Mapping[str, Any]],
        trackers: Trackers,
    ):
        self._path = path
        self._model = model
        self._config = config
        self._labels = labels
        self._trackers = trackers
        self._real: np.ndarray | None = None
        self._classes: tuple[str, ...] = ()

    def begin(
        self, history: History, step: int, dataset: Dataset, *, show_real: bool = True
    ) -> None:
        """Writes a picture of real images, and metrics.csv as it was at that step.

        With `show_real=False` no picture contains real images.
        """
        images, labels = dataset.images, dataset.labels
        self._classes = dataset.classes
        if show_real:
            self._real = plots.choose_real(images)
            has_rows = num_classes(self._config) and not are_vectors(images.shape[1:])
            grid = plots.Grid(self._real)
            if has_rows and labels is not None:
                grid = plots.real_classes(images, labels)
            self._write_picture("real.png", grid)
        self._write("metrics.csv", self._csv(history, diagnose(self._model, history)))
        self._trackers.begin(step)

    def write_table(self, history: History, diagnosis: Diagnosis | None) -> None:
        """Writes metrics.csv."""
        self._write("metrics.csv", self._csv(history, diagnosis))

    def show_epoch(self, row: Mapping[str, Any]) -> None:
        """Shows the row of an epoch in the trackers."""
        self._trackers.write_row(row)

    def write_samples(self, history: History, samples: plots.Grid) -> None:
        """Writes the picture of the last epoch."""
        if is_first():
            picture = self._write_picture(_sample_name(len(history)), samples)
            self._trackers.write_image(picture, history[-1]["step"])

    def write_member(self, name: str, samples: plots.Grid) -> None:
        """Writes a picture of the samples of one member, as NAME.png."""
        if is_first():
            self._write_picture(f"{name}.png", samples)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Writes report.json."""
        self._write("report.json", json.dumps(report, indent=2) + "\n")

    def end(self, history: History) -> None:
        """Writes the curves and the animation of the samples."""
        if not is_first():
            return
        if history:
            found = diagnose(self._model, history)
            marks = {} if found is None else found.first_seen()
            equilibrium = self._model.equilibrium(self._config)
            picture = plots.curves_png(history, self._model.curves, equilibrium, marks)
            self._write("curves.png", picture)
        # A run that continued from an older checkpoint may have pictures of later epochs.
        frames = [self._path / _sample_name(epoch + 1) for epoch in range(len(history))]
        animation = plots.gif([path for path in frames if path.exists()])
        if animation is not None:
            self._write("training.gif", animation)

    def _write_picture(self, name: str, grid: plots.Grid) -> np.ndarray:
        picture = plots.picture(grid.images, self._real, grid.columns)
        names = [class_name(self._classes, label) for label in grid.labels]
        self._write(name, plots.enlarged_png(picture, names))
        return picture

    def _write(self, name: str, content: str | bytes) -> None:
        if not is_first():
            return
        path = self._path / name
        if not self._path.exists():
            raise removed(self._path)
        with disk_errors(self._path):
            if path.parent != self._path:
                path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)

    def _csv(self, history: History, diagnosis: Diagnosis | None) -> str:
        """A row for each epoch and member."""
        rows = []
        failures = diagnosis.names([row["epoch"] for row in history]) if diagnosis else []
        for at, row in enumerate(history):
            for i, label in enumerate(self._labels):
                (one,) = member_history([row], i)
                values = readable(one)
                place = {"epoch": values.pop("epoch"), "step": values.pop("step")}
                last = {"failures": failures[at][i]} if diagnosis else {}
                rows.append({**place, **label, **values, **last})
        # If a metric was not measured in an epoch, its cell is empty.
        names = {name: None for row in rows for name in row if name != "failures"}
        last = ["failures"] if diagnosis else []
        table = io.StringIO()
        if rows:
            writer = csv.DictWriter(table, [*names, *last], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return table.getvalue()


def diagnose(model: Model, history: History) -> Diagnosis | None:
    """The diagnosis of a history; None if the model has none."""
    return None if model.diagnose is None else model.diagnose(history)


def read_table(path: str | Path, model: Model) -> list[dict[str, Any]]:
    """The history in the metrics.csv of a run folder. The run may still continue.

    Raises:
      JaxganError: if the file does not exist, cannot be read or lacks a column.
    """
    file = expand(path) / "metrics.csv"
    epochs: dict[str, list[dict[str, str]]] = {}
    try:
        for row in csv.DictReader(file.read_text().splitlines()):
            epochs.setdefault(row["epoch"], []).append(row)
        history = [_row(members) for members in epochs.values()]
        diagnose(model, history)
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
    """A row of the history, from the rows of an epoch in metrics.csv."""
    first = members[0]
    lines = [
        with_squares({k: float(v) for k, v in line.items() if k != "failures" and first[k]})
        for line in members
    ]
    values: dict[str, Any] = {name: [line[name] for line in lines] for name in lines[0]}
    if "member" not in first:
        values = {name: value for name, (value,) in values.items()}
    return values | {name: int(first[name]) for name in ("epoch", "step")}


def _sample_name(epoch: int) -> str:
    return f"samples/image_at_epoch_{epoch:04}.png"
