"""Odd but real inputs, from bug reports of other projects, and what each must give.

A new case is one line of a table. Its function gets an empty folder.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from flax import nnx
from helpers import ROOT, here
from PIL import Image

from jaxgan import GANConfig, JaxganError, data
from jaxgan.commands import evaluate
from jaxgan.data import idx
from jaxgan.run import checkpoint, training

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

BYTES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
SIGNED = BYTES / 127.5 - 1
FORMATS = ("a.png", "b.bmp", "c.webp", "d.tif", "e.gif", "f.jfif", "g.JPEG")


def with_first(value: float, floats: np.ndarray) -> np.ndarray:
    """The floats with another first value."""
    floats = floats.copy()
    floats.flat[0] = value
    return floats


def arrays(folder: Path, images: np.ndarray, **more) -> data.Dataset:
    """The data set of an array file."""
    np.savez(folder / "a.npz", images=images, **more)
    return data.load(folder / "a.npz")


def named(folder: Path, *names: str) -> data.Dataset:
    """The data set of gray pictures with these names; a name that ends with / is a folder."""
    for i, name in enumerate(names):
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in Image.registered_extensions():
            Image.fromarray(BYTES[i % 4, ..., 0]).save(path)
        elif not name.endswith("/"):
            path.write_text("text")
    return data.load(folder)


def pixel(folder: Path, mode: str, color, *, colors=(), **options) -> list[int]:
    """The first pixel of a picture of one colour."""
    image = Image.new(mode, (8, 8), color)
    if colors:
        image.putpalette(colors)
    image.save(folder / "a.png", **options)
    return data.load(folder).images[0, 0, 0].tolist()


def tiff(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """The images of a TIFF file of floats or of whole numbers of 32 bits."""
    Image.fromarray(pixels[0, ..., 0]).save(folder / "a.tif")
    return data.load(folder).images


def samples(folder: Path, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The samples of a file, as `evaluate.py` takes them for real images of this shape."""
    np.save(folder / "a.npy", images)
    options = evaluate.Options(samples=str(folder / "a.npy"))
    (found,) = evaluate.load_samples(options, shape).values()
    return found


def long_idx(folder: Path) -> None:
    """A file of a hundred megabytes of zeros, after a header of 0 images."""
    path = folder / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(10**8), 1))
    idx.read(path, 1)


RIGHT = {
    "one float below 0": (
        lambda f: arrays(f, with_first(-1e-7, BYTES / 255)).images[1:],
        BYTES[1:],
    ),
    "one float above 1": (
        lambda f: arrays(f, with_first(1.003, BYTES / 255)).images[1:],
        BYTES[1:],
    ),
    "floats from -1": (lambda f: arrays(f, SIGNED).images, BYTES),
    "one float below -1": (lambda f: arrays(f, with_first(-1.003, SIGNED)).images[1:], BYTES[1:]),
    "hidden folders": (lambda f: named(f, "a/a.png", "b/b.png", ".c/c.png").labels, [0, 1]),
    "all formats": (
        lambda f: len(named(f, *FORMATS).images),
        7,
    ),
    "a gray palette": (lambda f: pixel(f, "P", 1, colors=[0, 0, 0, 7, 7, 7]), [7]),
    "gray in RGB": (lambda f: pixel(f, "RGB", (7, 7, 7)), [7]),
    "hidden colours": (lambda f: pixel(f, "RGBA", (10, 20, 30, 0)), [255]),
    "half transparent": (lambda f: pixel(f, "RGBA", (5, 105, 255, 51)), [205, 225, 255]),
    "hidden gray": (lambda f: pixel(f, "LA", (7, 0)), [255]),
    "a transparent colour": (lambda f: pixel(f, "RGB", (1, 2, 3), transparency=(1, 2, 3)), [255]),
    "another transparent colour": (
        lambda f: pixel(f, "RGB", (1, 2, 3), transparency=(1, 2, 4)),
        [1, 2, 3],
    ),
    "gray samples saved as RGB": (
        lambda f: samples(f, np.repeat(BYTES, 3, -1), (8, 8, 1)).sum(),
        BYTES.astype(int).sum(),
    ),
    "gray samples of colour images": (lambda f: samples(f, BYTES, (8, 8, 3)).shape, (4, 8, 8, 3)),
    "a transparent level of 16 bits": (
        lambda f: pixel(f, "I;16", 7 * 257, transparency=7 * 257),
        [255],
    ),
    "another level of 16 bits": (lambda f: pixel(f, "I;16", 7 * 257, transparency=257), [7]),
    "a picture of floats": (lambda f: tiff(f, np.float32(BYTES / 255)), BYTES[:1]),
    "a picture of 32 bits": (lambda f: tiff(f, np.int32(BYTES) * 257), BYTES[:1]),
    "a transparent palette": (
        lambda f: pixel(f, "P", 1, colors=[0, 0, 0, 1, 2, 3], transparency=1),
        [255],
    ),
}
WARNED = {
    "other files": (
        lambda f: named(f, "a.png", "a.txt", "b.svg"),
        r"skipped 2 other files \(\.svg, \.txt\)",
    ),
    "an empty class": (lambda f: named(f, "a/a.png", "b/", "c/c.png").labels, "are no classes: b"),
    "folders in a class": (
        lambda f: named(f, "a/a.png", "a/x/b.png", "b/c.png"),
        "skipped 1 folder in the classes: a/x",
    ),
    "masks of 0 and 1": (lambda f: arrays(f, BYTES // 128), "the largest value is 1 of 255"),
}
REFUSED = {
    "samples of another shape": (
        lambda f: samples(f, BYTES, (9, 9, 1)),
        r"images of .* are \(8, 8, 1\), and the real ones \(9, 9, 1\)",
    ),
    "samples in colour": (
        lambda f: samples(f, np.concatenate([BYTES, BYTES, 0 * BYTES], -1), (8, 8, 1)),
        r"images of .* are \(8, 8, 3\)",
    ),
    "overshooting floats": (lambda f: arrays(f, with_first(-0.1, BYTES / 255)), "down to -0.1"),
    "an outlier": (lambda f: arrays(f, with_first(-0.9, BYTES / 255)), "negative, down to -0.9"),
    "labels from -1": (
        lambda f: arrays(f, BYTES, labels=np.arange(-1, 3)),
        "labels must be from 0 to .* got -1",
    ),
    "labels that an int32 cannot hold": (
        lambda f: arrays(f, BYTES, labels=np.arange(-1, 3).astype(np.uint64)),
        r"labels must be from 0 to 2\*\*31 - 1, got 18446744073709551615",
    ),
    "a picture of unknown floats": (
        lambda f: tiff(f, np.full(BYTES.shape, 1.5, np.float32)),
        r"a\.tif: .*float pixels must be from 0 to 1; these are from 1.5 to 1.5: save the picture",
    ),
    "a picture of missing floats": (
        lambda f: tiff(f, np.full(BYTES.shape, np.nan, np.float32)),
        "these are from nan to nan",
    ),
    "a picture of large numbers": (
        lambda f: tiff(f, np.full(BYTES.shape, 70_000, np.int32)),
        r"a\.tif: .*integer pixels must be from 0 to 65,535; these are from 70000 to 70000",
    ),
    "one picture": (lambda f: arrays(f, np.zeros((8, 8, 3), np.uint8)), "is one picture"),
    "one gray picture": (lambda f: arrays(f, np.zeros((8, 8, 1), np.uint8)), "is one picture"),
    "a URL": (lambda f: data.load("gs://bucket/set.npz"), "is a URL"),
    "a list in a module": (
        lambda _: GANConfig(generator=nn.Sequential([nn.Dense(4)])),
        "fields of generator, a Sequential, must be hashable .*tuples in place of lists",
    ),
    "the class of a module": (lambda _: GANConfig(generator=nn.Dense), r"not its class: Dense\(\)"),
    "a function": (
        lambda _: GANConfig(discriminator=len),
        "must be a Flax linen module, got built",
    ),
    "an NNX module": (
        lambda _: GANConfig(discriminator=nnx.Linear(2, 1, rngs=nnx.Rngs(0))),
        "for NNX modules there is flax.nnx.bridge.ToLinen",
    ),
    "a file without end": (long_idx, "more than 17 bytes; by its header"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_the_right_value(case, tmp_path):
    run, expected = RIGHT[case]
    np.testing.assert_array_equal(run(tmp_path), expected)


@pytest.mark.parametrize("case", WARNED)
def test_a_warning_names_what_is_odd(case, tmp_path):
    run, message = WARNED[case]
    with pytest.warns(UserWarning, match=message):
        run(tmp_path)


@pytest.mark.parametrize("case", REFUSED)
def test_one_line_says_why(case, tmp_path):
    run, message = REFUSED[case]
    with pytest.raises(JaxganError, match=message) as error:
        run(tmp_path)
    assert "\n" not in str(error.value)


SMALL = ("--batch-size", "50", "--generator-widths", "4", "--discriminator-widths", "4")
SMALL += ("--discriminator-dropout", "0.5", "--latent-dim", "4", "--epochs", "2", "--no-evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run folder of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "images.npy", np.repeat(BYTES, 25, axis=0))
    here("train.py", "--dataset", folder / "images.npy", *SMALL, "--workdir", folder / "run")
    return folder / "run"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    if path.name == "config.json":
        del content[checkpoint._DIGEST]
    change(content)
    path.write_text(json.dumps(content))


def forge(folder: Path, change: Callable[[dict], object]) -> None:
    """Changes the record of the newest checkpoint, and its digest too."""
    step = folder / "checkpoints" / "4"
    edit(step / "record" / "metadata", change)
    digests = checkpoint._digests(step)
    edit(step / "digests.json", lambda content: content.update(sha256=digests))


HOSTILE = {
    "deep nesting": lambda f: (f / "config.json").write_text("[" * 100_000),
    "a section that is a word": lambda f: edit(f / "config.json", lambda c: c.update(gan="x")),
    "a sweep of numbers": lambda f: edit(f / "config.json", lambda c: c["train"].update(sweep=[5])),
    "more memory than there is": lambda f: edit(
        f / "config.json", lambda c: c["gan"].update(latent_dim=10**12)
    ),
    "images larger than the memory": lambda f: edit(
        f / "config.json", lambda c: c["gan"].update(image_shape=[10**5, 10**5, 3])
    ),
    "a batch beyond int32": lambda f: edit(
        f / "config.json", lambda c: c["train"].update(batch_size=10**10)
    ),
    "a population beyond the memory": lambda f: edit(
        f / "config.json", lambda c: c["train"].update(population=10**7)
    ),
    "a row without its epoch": lambda f: forge(f, lambda r: r["history"][0].pop("epoch")),
    "a name of two lines": lambda f: forge(f, lambda r: r["history"][0].update({"a\n=x": 1.0})),
    "a name with a line separator": lambda f: forge(
        f, lambda r: r["history"][0].update({"a\u2028=x": 1.0})
    ),
    "no history": lambda f: forge(f, lambda record: record.pop("history")),
    "a formula": lambda f: forge(f, lambda r: r["history"][0].update(gen_loss="=cmd|x")),
    "a formula as a name": lambda f: forge(f, lambda r: r["history"][0].update({"=cmd|x": 1.0})),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:checkpoint .* cannot be used")
def test_a_hostile_run_folder_is_one_line(case, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    HOSTILE[case](folder)
    _, err = here("sample.py", "--workdir", folder, "--out", tmp_path / "a.png", status=2)
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "has changed since" not in lines[0]  # else its digest would protect it
    assert not (tmp_path / "a.png").exists()


@pytest.mark.filterwarnings("ignore:checkpoint .* cannot be used")
@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["history"][0].pop("gen_loss"),
        lambda record: record["history"][0].update(gen_loss=[1.0, 2.0]),
        lambda record: record["history"][0].update(epoch=float("inf")),
    ],
    ids=["missing", "of members", "infinite"],
)
def test_a_record_that_cannot_be_diagnosed_is_one_line(finished, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    forge(folder, change)
    images = finished.parent / "images.npy"
    resume = ("train.py", "--dataset", images, *SMALL, "--epochs", 3, "--workdir", folder)
    for command in (("diagnose.py", folder), resume):
        _, err = here(*command, status=2)
        assert err.splitlines()[-1].startswith("error: the record of a checkpoint in")


def test_damaged_pictures_do_not_keep_a_run_from_its_end(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for path in (folder / "samples").iterdir():
        path.write_bytes(b"")
    (folder / "training.gif").unlink()
    images = finished.parent / "images.npy"
    here("train.py", "--dataset", images, *SMALL, "--workdir", folder)
    assert not (folder / "training.gif").exists()


def test_a_run_needs_no_home_no_streams_and_no_characters(finished, tmp_path):
    command = [sys.executable, ROOT / "scripts" / "train.py", "--dataset", "images.npy", *SMALL]
    hidden = ("HOME", "XDG_CACHE_HOME", "LC_ALL", "LANG")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    shutil.copy(finished.parent / "images.npy", tmp_path)
    # The output goes to a full disk, and the errors nowhere, as for a daemon.
    subprocess.run(
        ["bash", "-c", 'exec "$@" >/dev/full 2>&-', "bash", *command, "--workdir", "caf\xe9"],
        env=environment | {"PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "caf\xe9" / "checkpoints" / "4").exists()


def test_two_signals_stop_a_run_and_a_third_one_ends_it(monkeypatch):
    ended = []
    monkeypatch.setattr(training, "_GRACE", 60)
    before = signal.signal(signal.SIGHUP, lambda number, _: ended.append(number))
    try:
        with training._stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert (received, ended) == ([signal.SIGHUP] * 2, [])
            signal.raise_signal(signal.SIGHUP)
            assert ended == [signal.SIGHUP]
        # After some seconds the second one ends it.
        monkeypatch.setattr(training, "_GRACE", 0)
        with training._stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert ended == [signal.SIGHUP] * 2
        # After nohup it is ignored.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with training._stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)
