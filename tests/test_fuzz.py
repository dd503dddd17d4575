"""Files and command lines, cut and altered at random, with fixed seeds.

Each must give the right value or one JaxganError. Old results and files outside the run folder must
not change.
"""

import contextlib
import gzip
import io
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import toy
from PIL import Image

from jaxgan import JaxganError, TrainConfig, cli, data
from jaxgan.commands import train as train_command
from jaxgan.run import saved, training

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)


def altered(rng: np.random.Generator, content: bytes) -> bytes:
    """Some bytes cut, flipped, inserted, removed, repeated or constant, or another digit."""
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 9))
    bit = bytes([content[at] ^ 1 << int(rng.integers(8))])
    some = content[at : at + length]
    digits = [i for i, byte in enumerate(content) if byte in b"0123456789"] or [0]
    digit = digits[rng.integers(len(digits))]
    return [
        content[:at],
        content[:at] + bit + content[at + 1 :],
        content[:at] + rng.bytes(length) + content[at:],
        content[:at] + content[at + length :],
        content[:at] + some * 3 + content[at + length :],
        content[:at] + b"\xff" * len(some) + content[at + length :],
        content[:digit] + b"%d" % rng.integers(10) + content[digit + 1 :],
    ][rng.integers(7)]


def is_data(found: data.Dataset) -> bool:
    images = found.images
    in_range = images.dtype == np.uint8 or bool((np.abs(images) <= 1).all())
    return images.ndim == 4 and images.size > 0 and in_range


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder; of a link, where it leads."""
    return {
        str(path.relative_to(folder)): bytes(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def outside(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if not name.startswith("run/")}


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, PIXELS)
    elif kind == "npz":
        np.savez(file, images=PIXELS, labels=np.arange(32))
    else:
        Image.fromarray(PIXELS[0, ..., 0]).save(file, kind)
    return file.getvalue()


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Passes over a JaxganError with a message of one line."""
    try:
        yield
    except JaxganError as error:
        lines = str(error).splitlines()
    else:
        return
    assert len(lines) == 1


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "bmp", "gif", "jpeg", "tiff", "webp"])
def test_altered_images_are_images_or_one_error(tmp_path, kind):
    rng, content = np.random.default_rng(1), encoded(kind)
    is_array = kind.startswith("np")
    path = tmp_path / f"a.{kind}"
    for _ in range(120):
        path.write_bytes(altered(rng, content))
        with warnings.catch_warnings(), one_error():
            warnings.simplefilter("ignore")
            assert is_data(data.load(path if is_array else tmp_path))


def test_altered_idx_files_are_the_right_ones_or_one_error(tmp_path):
    rng, folder = np.random.default_rng(2), tmp_path / "mnist"
    folder.mkdir()
    images = bytes([0, 0, 8, 3, 0, 0, 0, 32, 0, 0, 0, 8, 0, 0, 0, 8]) + PIXELS.tobytes()
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 32]) + bytes(range(10)) * 3 + bytes(2)
    contents = {
        "train-images-idx3-ubyte.gz": gzip.compress(images, mtime=0),
        "train-labels-idx1-ubyte.gz": gzip.compress(labels, mtime=0),
    }
    for trial in range(120):
        for i, (name, content) in enumerate(contents.items()):
            (folder / name).write_bytes(altered(rng, content) if i == trial % 2 else content)
        with one_error():
            # gzip has a checksum.
            np.testing.assert_array_equal(data.load("mnist", data_dir=str(tmp_path)).images, PIXELS)


class Finished(NamedTuple):
    """A run of two epochs in a folder, beside its images and a file of somebody else."""

    folder: Path
    means: list[np.ndarray]
    """The state after 0, 1, 2 and 3 epochs."""
    history: list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder, longer = tmp_path_factory.mktemp("fuzz"), tmp_path_factory.mktemp("longer")
    means = [np.zeros(0)]
    for path in (folder, longer):
        np.save(path / "images.npy", PIXELS)
        (path / "other").write_text("of somebody else")
        for epochs in (1, 2) if path == folder else (3,):
            train(path, epochs)
            means.append(np.asarray(saved.load_state(toy.MODEL, path / "run")[0].mean))
    return Finished(folder, means, saved.read_history(toy.MODEL, folder / "run"))


def train(folder: Path, epochs: int) -> None:
    dataset = str(folder / "images.npy")
    settings = TrainConfig(dataset, epochs=epochs, batch_size=16, checkpoint_every=1)
    training.train(toy.MODEL, toy.ToyConfig(), settings, folder / "run")


def altered_run(finished: Finished, folder: Path, rng: np.random.Generator) -> Path:
    """A copy of the run in which a file is altered, or a part is a link to something outside."""
    shutil.copytree(finished.folder, folder)
    shutil.copytree(finished.folder / "run" / "checkpoints", folder / "checkpoints")
    run = folder / "run"
    others = [folder / "other", folder / "checkpoints"]
    if rng.random() < 0.3:
        path, target = [(run / "config.json", others[0]), (run / "checkpoints", others[1])][
            rng.integers(2)
        ]
        path.rename(folder / "moved")
        path.symlink_to(target)
        return path
    names = [*files(run / "checkpoints")]
    chosen = ("config.json", "metrics.csv", f"checkpoints/{names[rng.integers(len(names))]}")
    path = run / chosen[rng.integers(3)]
    path.write_bytes(altered(rng, path.read_bytes() or b"x"))
    return path


@pytest.mark.filterwarnings("ignore:checkpoint .* cannot be used")
def test_an_altered_run_is_read_as_it_was_or_is_one_error(finished, tmp_path):
    rng = np.random.default_rng(3)
    for trial in range(40):
        folder = tmp_path / str(trial)
        altered_run(finished, folder, rng)
        before = files(folder)
        with one_error():
            state, epochs = saved.load_state(toy.MODEL, folder / "run")
            np.testing.assert_array_equal(state.mean, finished.means[epochs])
            assert saved.read_config(toy.MODEL, folder / "run") == toy.ToyConfig((8, 8, 1))
            assert saved.read_settings(folder / "run").batch_size == 16
        with one_error():
            found = saved.read_history(toy.MODEL, folder / "run")
            assert found[:1] == finished.history[:1]
        assert files(folder) == before


@pytest.mark.filterwarnings("ignore:checkpoint .* cannot be used")
def test_an_altered_run_is_resumed_to_the_same_end_or_is_one_error(finished, tmp_path):
    rng = np.random.default_rng(4)
    for trial in range(16):
        folder = tmp_path / str(trial)
        path = altered_run(finished, folder, rng)
        before = files(folder)
        try:
            train(folder, 3)
        except JaxganError:
            assert files(folder) == before, path
        else:
            state, epochs = saved.load_state(toy.MODEL, folder / "run")
            assert epochs == 3
            np.testing.assert_array_equal(state.mean, finished.means[3], str(path))
        after = files(folder)
        assert outside(after) == outside(before), path


WORDS = (
    *(
        "",
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "9" * 40,
        "\x00",
        "\udcff",
        "é",
        "--",
        "=",
        "linear:1:0",
    ),
    *(
        "cosine:1:::",
        "None",
        "True",
        "generator_lr=1,1",
        "generator_lr=",
        "1,2",
        "[]",
        "1e-9",
        "64",
    ),
)


@pytest.fixture(scope="module")
def options() -> Any:
    """The options of train.py."""
    return train_command.GANRun(TrainConfig(), train_command.NetworkOptions())


def test_altered_command_lines_are_options_or_one_error(options, capsys):
    names = [*vars(options.train), *vars(options.network), "workdir", "preset", "no_such_option"]
    rng = np.random.default_rng(5)
    statuses = []
    for _ in range(40):
        words = []
        for name in rng.choice(names, 2):
            words += [f"--{name.replace('_', '-')}", WORDS[rng.integers(len(WORDS))]]
        try:
            with one_error():
                assert isinstance(cli.parse(type(options), words, options), type(options))
        except SystemExit as end:
            statuses.append(end.code)
    assert set(statuses) == {2}
    assert "Traceback" not in capsys.readouterr().err
