"""Programs in which a run can be watched: TensorBoard, Trackio, Weights & Biases, MLflow.

Each has a class with the methods of `Tracker`, and an extra of its name. Nothing leaves the machine
unless the user's environment says so, by WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID or
TRACKIO_SERVER_URL.
"""

import contextlib
import importlib
import io
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from jaxgan.errors import JaxganError
from jaxgan.files import disk_errors, write_atomically
from jaxgan.history import Row, finite_mean, readable
from jaxgan.run.checkpoint import flat

Name = Literal["tensorboard", "trackio", "wandb", "mlflow"]

_PROJECT = "jaxgan"


class Tracker(Protocol):
    """One of these programs. Its methods may raise anything."""

    def begin(self, name: str, settings: Mapping[str, Any], step: int) -> int:
        """Begins the run of this name, or continues it after a step.

        Returns:
          The last step that it shows already, and that it cannot remove.
        """
        ...

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        """Shows the metrics of an epoch that ended with this step."""
        ...

    def image(self, picture: np.ndarray, step: int) -> None:
        """Shows a picture of samples, uint8 `[H, W, 3 or 4]`."""
        ...

    def close(self) -> None:
        """Ends when everything is written."""
        ...


class TensorBoard:
    """Writes the folder `tensorboard` of the run."""

    def __init__(self, path: Path):
        self._make_writer = _import("tensorboardX", "tensorboard").SummaryWriter
        self._path = path / "tensorboard"
        self._writer: Any = None

    def begin(self, name: str, settings: Mapping[str, Any], step: int) -> int:
        # TensorBoard forgets the later events of an earlier process.
        self._writer = self._make_writer(str(self._path), purge_step=step + 1)
        lines = json.dumps(settings, indent=2).splitlines()
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in lines), step + 1)
        return step

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def image(self, picture: np.ndarray, step: int) -> None:
        self._writer.add_image("samples", picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """Writes where `trackio show` reads: $TRACKIO_DIR, or a folder in the user's cache."""

    def __init__(self, path: Path):
        del path
        self._trackio = _import("trackio", "trackio")
        self._run: Any = None

    def begin(self, name: str, settings: Mapping[str, Any], step: int) -> int:
        given = {"project": _PROJECT, "name": name, "config": dict(settings), "resume": "allow"}
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = self._trackio.init(
                **given, embed=False, auto_log_gpu=False, auto_log_cpu=False
            )
        return self._run._next_step - 1

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        self._run.log(dict(row), step=step)

    def image(self, picture: np.ndarray, step: int) -> None:
        self._run.log({"samples": self._trackio.Image(picture)}, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._trackio.finish()


class WandB:
    """Writes the folder `wandb` of the run. `wandb sync` uploads it."""

    def __init__(self, path: Path):
        if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
            # Else its service sends reports of its own errors.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = _import("wandb", "wandb")
        self._path = path
        self._run: Any = None

    def begin(self, name: str, settings: Mapping[str, Any], step: int) -> int:
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            dir=os.environ.get("WANDB_DIR", self._path),
            id=name,
            name=name,
            config=dict(settings),
            # An offline run cannot know what an earlier process has written.
            resume=None if os.environ["WANDB_MODE"] == "offline" else "allow",
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        return self._run.step - 1

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        self._run.log(dict(row), step=step)

    def image(self, picture: np.ndarray, step: int) -> None:
        self._run.log({"samples": self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Writes mlflow/mlflow.db and mlflow/artifacts in the run folder, or $MLFLOW_TRACKING_URI."""

    def __init__(self, path: Path):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        # With the default, 7, training would wait four minutes for a server that is not there.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        self._mlflow = _import("mlflow", "mlflow")
        self._path = path / "mlflow"
        self._client: Any = None
        self._id = ""

    def begin(self, name: str, settings: Mapping[str, Any], step: int) -> int:
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if uri is None:
            self._path.mkdir(exist_ok=True)
            uri, artifacts = f"sqlite:///{self._path}/mlflow.db", f"{self._path}/artifacts"
        client = self._client = self._mlflow.MlflowClient(uri)
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else client.create_experiment(project, artifacts)
        runs = client.search_runs([experiment], f"attributes.run_name = '{name}'")
        run = runs[0] if runs else client.create_run(experiment, run_name=name)
        self._id = run.info.run_id
        client.update_run(self._id, status="RUNNING")
        # A parameter cannot change: with more epochs, it shows those of the start.
        new = {k: v for k, v in flat(settings).items() if k not in run.data.params}
        params = [self._mlflow.entities.Param(k, str(v)) for k, v in new.items()]
        client.log_batch(self._id, params=params)
        shown = client.get_metric_history(self._id, "seconds")
        return max((metric.step for metric in shown), default=0)

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(k, v, now, step) for k, v in row.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def image(self, picture: np.ndarray, step: int) -> None:
        self._client.log_image(self._id, picture, key="samples", step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


TRACKERS: Mapping[Name, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
    "mlflow": MLflow,
}
"""By their names on the command line."""


class Trackers:
    """Shows a run in several of TRACKERS, or in none.

    One that fails is left out from then on, with a warning: training continues. What one shows
    already and cannot remove is not repeated: a resumed run computes the same numbers, to the bit.

    Args:
      names: of TRACKERS.
      path: the run folder. It need not exist before `begin`.
      settings: the content of config.json.

    Raises:
      JaxganError: at construction, if a package is not installed.
    """

    def __init__(self, names: Sequence[Name], path: Path, settings: Mapping[str, Any]):
        self._trackers = {name: TRACKERS[name](path) for name in names}
        self._path, self._settings = path, settings
        self._shown: dict[str, int] = {}

    def begin(self, step: int) -> None:
        """Begins, or continues after a step of the run.

        Raises:
          JaxganError: if the run folder cannot be written.
        """
        if self._trackers:
            run = _run_name(self._path)
            for name, tracker in list(self._trackers.items()):
                shown = self._try(name, tracker.begin, run, self._settings, step)
                self._shown[name] = shown or 0

    def write_row(self, row: Row) -> None:
        """Shows the row of an epoch; of a population the means over the members."""
        values = {name: finite_mean(value) for name, value in readable(row).items()}
        step = int(values.pop("step"))
        values.pop("epoch", None)
        for name, tracker in self._due(step):
            self._try(name, tracker.scalars, values, step)

    def write_image(self, picture: np.ndarray, step: int) -> None:
        """Shows a picture of samples, uint8 `[H, W, C]`."""
        if picture.shape[-1] == 1:  # Trackio takes colours only
            picture = np.repeat(picture, 3, axis=-1)
        for name, tracker in self._due(step):
            self._try(name, tracker.image, picture, step)

    def close(self) -> None:
        """Ends when everything is written."""
        for name in self._shown:
            if name in self._trackers:
                self._try(name, self._trackers[name].close)

    def _due(self, step: int) -> list[tuple[str, Tracker]]:
        return [(k, tracker) for k, tracker in self._trackers.items() if step > self._shown[k]]

    def _try(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:  # each client has its own
            del self._trackers[name]
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"training continues without --log {name}: {reason}", stacklevel=2)
            return None


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise JaxganError(
            f"--log {extra} needs a package: pip install 'jaxgan[{extra}]' ({error})"
        ) from error


def _run_name(path: Path) -> str:
    """The name under which trackers know the run in a folder, for as long as the folder exists."""
    file = path / "tracker_name"
    with disk_errors(path):
        if not file.exists():
            plain = re.sub(r"[^\w.-]+", "_", path.name)
            write_atomically(file, f"{plain[:64]}-{secrets.token_hex(4)}")
        return file.read_text()
