"""Each tracker by its real client, without network; what its own reader then finds."""

import dataclasses
import json
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import toy
from helpers import picture
from PIL import Image

from jaxgan import JaxganError, TrainConfig, data
from jaxgan.history import finite_mean
from jaxgan.report import plots
from jaxgan.run import saved, trackers, training
from jaxgan.run.journal import Journal
from jaxgan.run.trackers import Trackers

SETTINGS = {"model": "gan", "train": {"epochs": 3, "seed": 0}}
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class Found(NamedTuple):
    """What a tracker shows of a run."""

    name: str
    settings: Any
    values: dict[str, list[tuple[int, float]]]
    """Of each metric: step and value."""
    pictures: list[tuple[int, np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """Clients write into their own places in a temporary folder, and nothing else is set."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "WANDB_PROJECT"):
            patch.delenv(name, raising=False)
        for name in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            patch.delenv(name, raising=False)
        for name in ("TRACKIO_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder / name))
        yield


def row(step: int, loss: Any) -> dict[str, Any]:
    return {"epoch": step // 7, "step": step, "disc_loss": loss, "seconds": 1.5}


def show(name: trackers.Name, path: Path, after: int, steps: tuple[int, ...]) -> None:
    """One process of a run, which continues after a step."""
    shown = Trackers((name,), path, SETTINGS)
    shown.begin(after)
    for step in steps:
        shown.write_row(row(step, step / 8))
        shown.write_image(PIXELS + np.uint8(step), step)
    shown.close()


def read_records(path: Path, make: Any) -> list[Any]:
    """The records of a TensorBoard file: a length, its checksum, the event, its checksum."""
    records, raw = [], path.read_bytes()
    while raw:
        (length,) = struct.unpack("<Q", raw[:8])
        records.append(make(raw[12 : 12 + length]))
        raw = raw[16 + length :]
    return records


def read_tensorboard(path: Path) -> Found:
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    values, pictures, settings = {}, [], None
    for file in sorted((path / "tensorboard").iterdir()):
        for event in read_records(file, Event.FromString):
            if event.session_log.status == SessionLog.START:  # then TensorBoard forgets the rest
                values = {k: [x for x in v if x[0] < event.step] for k, v in values.items()}
                pictures = [one for one in pictures if one[0] < event.step]
            for value in event.summary.value:
                if value.tag.startswith("settings"):
                    settings = json.loads(value.tensor.string_val[0])
                elif value.HasField("image"):
                    (path / "shown.png").write_bytes(value.image.encoded_image_string)
                    pictures.append((event.step, picture(path / "shown.png")))
                else:
                    values.setdefault(value.tag, []).append((event.step, value.simple_value))
    return Found(name_of(path), settings, values, pictures)


def read_trackio(path: Path) -> Found:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = [run for run in trackio.Api().runs("jaxgan") if run.name == name_of(path)]
    settings = {k: v for k, v in run.config.items() if not k.startswith("_")}
    values, pictures = {}, []
    for entry in SQLiteStorage.get_logs("jaxgan", run.name):
        step, _ = entry.pop("step"), entry.pop("timestamp")
        if "samples" in entry:
            file = trackio.TRACKIO_DIR / "media" / entry.pop("samples")["file_path"]
            pictures.append((step, picture(file)[..., :3]))
        for name, value in entry.items():
            values.setdefault(name, []).append((step, value))
    return Found(run.name, settings, values, pictures)


def read_wandb_records(file: Path) -> list[Any]:
    """The records of a .wandb file, which has the format of LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, at, whole, records = file.read_bytes(), 7, b"", []
    while at + 7 <= len(raw):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            records.append(Record.FromString(whole))
            whole = b""
    return records


def read_wandb(path: Path) -> Found:
    """All processes of a run. Each has a folder."""
    import wandb

    wandb.teardown()  # waits for its service, which writes the files
    values, pictures, settings, names = {}, [], {}, set()
    for file in sorted(path.glob("wandb/offline-run-*/*.wandb")):
        for record in read_wandb_records(file):
            if record.HasField("run"):
                names |= {record.run.run_id, record.run.display_name}
                settings = {one.key: json.loads(one.value_json) for one in record.run.config.update}
                settings.pop("_wandb", None)
            items = {
                one.key or "/".join(one.nested_key): json.loads(one.value_json)
                for one in record.history.item
            }
            for name, value in items.items():
                if name == "samples/path":
                    shown = picture(file.parent / "files" / value)
                    pictures.append((items["_step"], shown))
                elif not name.startswith(("_", "samples")):
                    values.setdefault(name, []).append((items["_step"], value))
    (name,) = names
    return Found(name, settings, values, pictures)


def read_mlflow(path: Path) -> Found:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{path}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("jaxgan").experiment_id])
    assert run.info.status == "FINISHED"
    settings = {"train": {}}
    for name, value in run.data.params.items():
        section, _, field = name.rpartition(".")
        (settings[section] if section else settings)[field] = int(value) if section else value
    values = {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    files = path.glob("mlflow/artifacts/*/artifacts/images/*.png")
    pictures = sorted((int(file.name.split("+")[2]), file) for file in files)
    return Found(run.info.run_name, settings, values, [(step, picture(f)) for step, f in pictures])


def name_of(path: Path) -> str:
    return (path / "tracker_name").read_text()


# SQLAlchemy warns MLflow.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb", "mlflow"])
def test_a_tracker_has_the_settings_metrics_and_samples_of_a_resumed_run(name, tmp_path):
    path = tmp_path / "a run"
    path.mkdir()
    show(name, path, 0, (7, 14))
    for file in path.glob("tensorboard/*"):  # the second process may begin in the same second
        file.rename(file.with_name(f"0{file.name}"))
    show(name, path, 7, (14, 21))  # killed after the checkpoint of step 7
    found = globals()[f"read_{name}"](path)
    assert found.name == name_of(path)
    assert found.name.startswith("a_run-")
    assert found.settings == SETTINGS
    # Two processes of W&B cannot know of each other without its server.
    steps = [7, 14, 14, 21] if name == "wandb" else [7, 14, 21]
    assert found.values == {
        "disc_loss": [(step, step / 8) for step in steps],
        "seconds": [(step, 1.5) for step in steps],
    }
    assert [step for step, _ in found.pictures] == steps
    for step, shown in found.pictures:
        np.testing.assert_array_equal(shown, PIXELS + np.uint8(step))


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_package_is_one_line_before_the_run(name, tmp_path, monkeypatch):
    package = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(JaxganError, match=rf"^--log {name} needs .*'jaxgan\[{name}\]' .*{package}"):
        training.train(toy.MODEL, toy.ToyConfig(), settings(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Recorder:
    """A tracker that remembers what it is told."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012
    begun_with = 0
    fails_at = ""

    def __init__(self, path: Path):
        pass

    def tell(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name == self.fails_at:
            raise OSError("no space\nleft")

    def begin(self, name: str, settings: Any, step: int) -> int:
        self.tell("begin", name, settings, step)
        return self.begun_with

    def scalars(self, row: Any, step: int) -> None:
        self.tell("scalars", row, step)

    def image(self, picture: np.ndarray, step: int) -> None:
        self.tell("image", picture, step)

    def close(self) -> None:
        self.tell("close")


@pytest.fixture
def recorders(monkeypatch) -> list[Any]:
    """In the place of W&B and of MLflow."""
    kinds = [type(name, (Recorder,), {"calls": []}) for name in ("First", "Second")]
    for name, kind in zip(("wandb", "mlflow"), kinds, strict=True):
        monkeypatch.setitem(trackers.TRACKERS, name, kind)
    return kinds


def settings(*log: Any, **changes: Any) -> TrainConfig:
    return TrainConfig(
        **{"dataset": "digits", "epochs": 2, "batch_size": 500, "evaluate": False, "log": log}
        | changes
    )


@pytest.mark.usefixtures("no_curves")
def test_trackers_show_the_numbers_of_metrics_csv_of_a_population_its_means(recorders, tmp_path):
    path, config = tmp_path / "run", toy.ToyConfig()
    given = settings("wandb", sweep=("lr=0.1,1e38",), devices=1)
    history = training.train(toy.MODEL, config, given, path).history
    calls = recorders[0].calls
    assert [call[0] for call in calls] == ["begin", *2 * ["scalars", "image"], "close"]
    described = json.loads((path / "config.json").read_text())
    del described["sha256 of the rest"]
    name, shown, step = calls[0][1:]
    assert (name, json.loads(json.dumps(shown)), step) == (name_of(path), described, 0)
    for call, epoch in zip(calls[1::2], history, strict=False):
        assert call[2] == epoch["step"]
        assert call[1].keys() == epoch.keys() - {"epoch", "step"}
        for name, value in call[1].items():
            assert value == finite_mean(epoch[name])
    # The picture of the folder, in colours.
    for i, call in enumerate(calls[2:5:2]):
        with Image.open(path / f"samples/image_at_epoch_000{i + 1}.png") as image:
            shown = np.asarray(image.convert("RGB"))
        scale = len(shown) // len(call[1])
        np.testing.assert_array_equal(shown[::scale, ::scale], call[1])
    # With more epochs the same run continues.
    training.train(toy.MODEL, config, dataclasses.replace(given, epochs=3), path)
    later = calls[6:]
    assert [call[0] for call in later] == ["begin", "scalars", "image", "close"]
    assert (later[0][1], later[0][3], later[1][2]) == (calls[0][1], 6, 9)


def test_what_a_tracker_shows_already_is_not_repeated(recorders, tmp_path):
    recorders[0].begun_with = 14
    shown = Trackers(("wandb", "mlflow"), tmp_path, {})
    shown.begin(7)
    for step in (14, 21):
        shown.write_row(row(step, [1.0, float("nan"), 3.0]))
        shown.write_image(PIXELS[..., :1], step)
    rows = [
        [(call[1]["disc_loss"], call[2]) for call in kind.calls if call[0] == "scalars"]
        for kind in recorders
    ]
    assert rows == [[(2.0, 21)], [(2.0, 14), (2.0, 21)]]
    assert [call[2] for call in recorders[0].calls if call[0] == "image"] == [21]


@pytest.mark.parametrize("at", ["begin", "scalars", "image", "close"])
def test_a_tracker_that_fails_is_left_out_with_one_warning(at, recorders, tmp_path):
    recorders[0].fails_at = at
    shown = Trackers(("wandb", "mlflow"), tmp_path, {})

    def train() -> None:
        shown.begin(0)
        for step in (7, 14):
            shown.write_row(row(step, 1.0))
            shown.write_image(PIXELS, step)
        shown.close()

    with pytest.warns(UserWarning, match="continues without --log wandb: no space$") as caught:
        train()
    assert len(caught) == 1
    order = ["begin", "scalars", "image", "scalars", "image", "close"]
    assert [call[0] for call in recorders[0].calls] == order[: order.index(at) + 1]
    assert [call[0] for call in recorders[1].calls] == order


def test_a_private_run_shows_no_real_points(recorders, tmp_path):
    points = np.random.default_rng(0).normal(size=(2, 20, 1, 1, 2)).astype(np.float32)
    shown = Trackers(("wandb",), tmp_path, {})
    journal = Journal(tmp_path, toy.MODEL, toy.ToyConfig(), [{}], shown)
    dataset = data.Dataset(points[0], None, "points", "train")
    journal.begin([], 0, dataset, show_real=False)
    journal.write_samples([row(7, 1.0)], plots.Grid(points[1]))
    np.testing.assert_array_equal(recorders[0].calls[-1][1], plots.picture(points[1], None))


def test_without_trackers_nothing_is_written(tmp_path):
    shown = Trackers((), tmp_path, SETTINGS)
    shown.begin(0)
    shown.write_row(row(7, 1.0))
    shown.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_curves")
def test_a_run_of_an_earlier_version_with_tensorboard_is_read_and_resumed(tmp_path):
    path, config = tmp_path / "run", toy.ToyConfig()
    training.train(toy.MODEL, config, settings(epochs=1), path)
    described = json.loads((path / "config.json").read_text())
    del described["sha256 of the rest"], described["train"]["log"], described["train"]["profile"]
    described["train"]["tensorboard"] = True
    (path / "config.json").write_text(json.dumps(described))
    assert saved.read_settings(path).log == ()
    outcome = training.train(toy.MODEL, config, settings("tensorboard"), path)
    assert (outcome.trained, len(outcome.history)) == (1, 2)
    assert saved.read_settings(path).log == ("tensorboard",)
