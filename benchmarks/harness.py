"""What all benchmarks share: options, machine and versions, turns, rows that resume, tables, PNGs.

It needs jax, flax, optax and numpy; pictures also need matplotlib and Pillow. As a command it makes
the files of pictures smaller: `python benchmarks/harness.py FILE.png ...`
"""

import argparse
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax
import jax
import numpy as np
import optax

import jaxgan
from jaxgan import cli
from jaxgan.data import idx
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.fields import parse_value
from jaxgan.files import write_atomically
from jaxgan.metrics import parts
from jaxgan.run import loop, population, sweep

T = TypeVar("T")
Row = dict[str, Any]
RUNS = Path("runs")
"""The default folder of tables that resume, and the folder of all samples for pictures."""
MOST_BYTES = 300_000
"""The limit for the file of a picture."""
LINE_SECONDS = 60
"""Seconds between lines of progress, if stderr is no terminal."""


def make_parser(
    description: str | None, json_file: str | None = None, data: str = "", **numbers: Any
) -> argparse.ArgumentParser:
    """A parser with --json and other options that take numbers above 0.

    Args:
      description: for --help.
      json_file: the default of --json, in RUNS. Such a table also has --picture.
      data: "fashion" adds --data-dir, "any" also --dataset.
      **numbers: the defaults of options by their names. The type of a default says what the option
        takes: a whole number, a float, or several whole numbers.
    """
    parser = argparse.ArgumentParser(
        description=cli.filled(description or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, number in numbers.items():
        options: Any = {"nargs": "+"} if isinstance(number, list) else {}
        options["type"] = positive if isinstance(number, float) else size
        # Commands of older results have --repeats for --rounds.
        flags = {"rounds": ["--rounds", "--repeats"]}.get(name, [f"--{name.replace('_', '-')}"])
        parser.add_argument(*flags, default=number, help="default: %(default)s", **options)
    if data == "any":
        parser.add_argument("--dataset", default="fashion_mnist", help="default: %(default)s")
    if data:
        parser.add_argument("--data-dir", help="the folder of the data; default: $JAXGAN_DATA_DIR")
    path = RUNS / json_file if json_file else None
    text = "the file of the results; default: %(default)s"
    parser.add_argument("--json", type=output, default=path, help=text)
    if json_file:
        parser.add_argument("--picture", type=output, help="draw samples in this PNG file")
    return parser


def add_names(
    parser: argparse.ArgumentParser,
    option: str,
    known: Iterable[str],
    default: Iterable[str] | None = None,
) -> None:
    """Adds an option that takes some of the known names, separated by commas; by default all."""
    known = list(known)

    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                problem = f"unknown {option.strip('-').rstrip('s')} {name!r}"
                raise argparse.ArgumentTypeError(f"{problem}; known are {', '.join(known)}")
        return text.split(",")

    chosen = known if default is None else list(default)
    text = f"separated by commas; default: {','.join(chosen)}"
    parser.add_argument(option, type=parse, default=chosen, help=text)


def add_methods(
    parser: argparse.ArgumentParser, option: str, known: Iterable[str], fields: str
) -> None:
    """Adds an option that takes some of the known methods, and --method, which defines others.

    `fields` says what another method is.
    """
    add_names(parser, option, known)
    text = (
        f"train a method of your own: {fields}. Several --method are several methods. Without "
        f"{option} only they are trained. Example: --method 'mine: loss=hinge r1=0.5'"
    )
    form = "'NAME: FIELD=VALUE ...'"
    parser.add_argument("--method", action="append", default=[], metavar=form, help=text)


def define_methods(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    chosen: str,
    known: Mapping[str, Any],
    make: Callable[[dict[str, str]], Any],
) -> dict[str, Any]:
    """The known methods and those of --method, by name. The latter join the chosen ones.

    Args:
      parser: with the options of `add_methods`.
      args: its arguments. args.CHOSEN gets the names of --method too. If the user chose no known
        methods, it has these alone.
      chosen: the name of the option that chooses methods.
      known: the known methods.
      make: makes a method from the texts of its fields.

    Raises:
      JaxganError: if a --method has another form, if its name exists, or if `make` refuses it.
    """
    own: dict[str, Any] = {}
    for text in args.method:
        name, colon, rest = (part.strip() for part in text.partition(":"))
        pairs = [part.partition("=")[::2] for part in rest.split()]
        fields, is_whole = dict(pairs), all(field and value for field, value in pairs)
        if not (name and colon and is_whole) or "=" in name or len(fields) < len(pairs):
            form = "'NAME: FIELD=VALUE FIELD=VALUE ...', each field once"
            raise JaxganError(f"--method must be {form}; got {text!r}")
        if name in known or name in own:
            raise JaxganError(f"--method: there is a method {name!r} already: choose another name")
        try:
            own[name] = make(fields)
        except JaxganError as error:
            raise JaxganError(f"--method {name}: {error}") from None
    # argparse gives the default object itself.
    by_default = getattr(args, chosen) is parser.get_default(chosen)
    setattr(args, chosen, [*([] if own and by_default else getattr(args, chosen)), *own])
    return {**known, **own}


def parse_fields(
    config: Any, fields: Mapping[str, str], fixed: Iterable[str] = sweep.OF_DATA
) -> Row:
    """The values of texts, by the names of their fields. The config with them is checked.

    Raises:
      JaxganError: if a field is unknown, `fixed` or out of its range.
    """
    for name in fixed:
        if name in fields:
            raise JaxganError(f"{name} is fixed here: leave it out")
    values = {name: parse_value(config, name, text) for name, text in fields.items()}
    dataclasses.replace(config, **values)
    return values


def size(text: str) -> int:
    """A whole number above 0, from the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0, from the command line."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return number


def output(text: str) -> Path:
    """A file to write, from the command line."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def about(**more: Any) -> Row:
    """The command, the machine and the versions: prints them, and returns them for the JSON."""
    modules = {"jaxgan": jaxgan, "jax": jax, "flax": flax, "optax": optax, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    precision = getattr(jax.config, "jax_default_matmul_precision", None)
    header = {
        "command": shlex.join(["python", *sys.argv]),
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": f"{versions}, Python {platform.python_version()}",
        "matmul_precision": str(precision or "default"),
        **more,
    }
    print("\n".join(f"{key}: {value}" for key, value in header.items()), flush=True)
    return header


def note(text: str) -> None:
    """Says on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Writes a result, if there is a file for it."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=2) + "\n")


def main(run: Callable[[], None]) -> None:
    """Runs a benchmark. An error that the user can fix becomes one line."""
    try:
        run()
    except JaxganError as error:
        sys.exit(f"error: {error}")


def find_images(data_dir: str | None) -> tuple[np.ndarray, str]:
    """Fashion-MNIST if its files are at hand, else random images of its shape."""
    if idx.find("fashion_mnist", "train", data_dir):
        return idx.load("fashion_mnist", "train", data_dir).images, "fashion_mnist"
    return np.random.default_rng(0).integers(0, 256, (60_000, 28, 28, 1), np.uint8), "random"


class Progress:
    """The progress over all work, with the time left: a bar on a terminal, else lines.

    The time left is by the work of this call, not by that of an earlier one.

    Args:
      total: all work, in any unit.
      done: the work that is done already.
    """

    def __init__(self, total: float, done: float):
        from tqdm import tqdm

        self._lines, self._at = not sys.stderr.isatty(), time.monotonic()
        form = "{desc}{percentage:3.0f}% of all|{bar}| {elapsed}<{remaining}"
        options: Any = {"dynamic_ncols": True, "delay": 1e-9}
        if self._lines:
            form = "{desc}{percentage:.0f}% of all is done, {elapsed} passed, {remaining} left"
            options = {"file": io.StringIO(), "mininterval": math.inf}
        options |= {"total": total, "initial": done, "smoothing": 0}
        self._bar = tqdm(bar_format=form, **options)

    def start(self, name: str, done: float) -> None:
        """Begins the next part, when so much of the work is done."""
        self._bar.set_description(name, refresh=False)
        self._bar.n = done
        self._bar.refresh()
        self._say(0)

    def add(self, work: float) -> None:
        """Counts work as done."""
        self._bar.update(min(work, self._bar.total - self._bar.n))
        self._say(LINE_SECONDS)

    def close(self) -> None:
        """Ends it: all work is done."""
        self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()

    def _say(self, least: float) -> None:
        """Prints a line if there is no bar, and the last line is `least` seconds old."""
        if self._lines and time.monotonic() - self._at >= least:
            note(str(self._bar))
            self._at = time.monotonic()


def in_turns(
    programs: Mapping[Any, Callable[[], T]], rounds: int, label: str = ""
) -> dict[Any, list[T]]:
    """What each program returns in each round.

    In a round all programs run one after the other, so that a slow moment of the machine hits all.
    """
    found: dict[Any, list[T]] = {name: [] for name in programs}
    for i in range(rounds):
        note(f"{label}round {i + 1} of {rounds}")
        for name, program in programs.items():
            found[name].append(program())
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, the smallest and the largest of the values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def share_interval(count: int, n: int) -> tuple[float, float]:
    """The 95% interval of the share of `count` in n (Wilson)."""
    from scipy import stats

    if not n:
        return 0.0, 1.0
    found = stats.binomtest(count, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of each value divided by the other of its round."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def make_trainer(
    state: Any, images: Any, batch_size: int, train_step: loop.TrainStep = jaxgan.train_step
) -> Callable[[int], float]:
    """A function `epochs -> seconds` that trains compiled epochs. Each call continues the last one.

    The images, or a dict of images and labels, are moved to the device once. The first call
    compiles.
    """
    data, rng, epoch = jax.device_put(images), jax.random.key(0), 0

    def train(epochs: int) -> float:
        nonlocal state, epoch
        started = time.perf_counter()
        for _ in range(epochs):
            state, metrics = loop.train_epoch(
                train_step, state, data, rng, epoch, batch_size=batch_size
            )
            epoch += 1
            jax.block_until_ready(metrics)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return train


def train(
    config: jaxgan.GANConfig,
    images: np.ndarray,
    seeds: Sequence[int],
    labels: np.ndarray | None = None,
    score: Callable[[Any, jax.Array], Row] | None = None,
    made: parts.Parts | None = None,
    work: Progress | None = None,
    **options: Any,
) -> loop.Run | None:
    """A population, trained on one device with the options of `population.train_population`.

    Its samples are measured as in a run folder. None if all members have diverged.

    Args:
      config: of the GAN.
      images: the data.
      seeds: of the members.
      labels: the classes of the images, or the modes of the points.
      score: `(state, rng) -> scores`, at half the epochs and at the end.
      made: the parts in which samples are counted; by default those of the images.
      work: gets the steps of all members. It takes the place of the progress of this population.
      **options: of the training.
    """
    gan = jaxgan.MODELS["gan"]
    measure_one = parts.make_measure(gan, made or parts.make_parts(images, labels))
    rngs, epochs = loop.make_rngs(list(seeds)).pictures, options["epochs"]

    def measure(run: loop.Run) -> Row:
        if work is not None:
            work.add(len(seeds) * math.ceil(len(images) / options["batch_size"]))
        wanted = [measure_one] if parts.is_due(run.history) else []
        if score is not None and len(run.history) in (-(-epochs // 2), epochs):
            wanted.append(score)
        found: Row = {}
        for one in wanted:
            rows = [one(*member) for member in zip(members(run), rngs, strict=True)]
            found |= {name: [row[name] for row in rows] for name in rows[0]}
        return found

    options = {"devices": 1, "measure": measure, "progress": work is None} | options
    try:
        return population.train_population(gan, config, images, seeds, **options)
    except NonFiniteError:
        return None


def members(run: loop.Run) -> list[Any]:
    """The states of the members of a population."""
    return [population.member(run.state, i) for i in range(len(run.state.step))]


def both(**fields: Any) -> dict[str, Any]:
    """The same values for both networks, as fields of GANConfig."""
    return {f"{net}_{k}": v for net in ("generator", "discriminator") for k, v in fields.items()}


def settings(config: Any, **more: Any) -> Row:
    """What a row depends on: the fields that differ from the defaults, and more, as in JSON."""
    defaults = vars(type(config)())
    fields = {name: value for name, value in vars(config).items() if value != defaults[name]}
    return json.loads(json.dumps(fields | more, default=repr))


class Rows:
    """The rows of a JSON file, which is written after each row. A later call finds them there.

    Samples for pictures are in RUNS, in an .npz file of the same name. Rows do not need them.

    Args:
      path: the JSON file. An existing one keeps its header.
      header: from `about`.
      keys: the fields of a row that are its name.
      order: names in the order of the file. Others come last.
    """

    def __init__(self, path: Path, header: Row, keys: Sequence[str], order: Sequence[str]):
        self.path, self._header, self._keys, self._order = path, header, keys, list(order)
        self.content: Row = json.loads(path.read_text()) if path.exists() else dict(header)
        self.content.setdefault("rows", [])
        self._npz = RUNS / path.with_suffix(".npz").name
        self._samples = dict(np.load(self._npz)) if self._npz.exists() else {}

    def find(self, name: str, settings: Row) -> Row | None:
        """The row of a name, if there is one. Ends the program if it has other settings."""
        row = next((row for row in self.content["rows"] if self._name(row) == name), None)
        if row is not None and row["settings"] != settings:
            sys.exit(f"error: {self.path} has {name} with other settings: choose another --json")
        return row

    def complete(
        self,
        wanted: Mapping[str, Row],
        train: Callable[..., tuple[Row, np.ndarray]],
        work: float | None = None,
    ) -> list[Row]:
        """The rows of names with their settings; trains those that are not there.

        `train` gives the row of a name and its samples. If `work` says how much work a row is, it
        also gets the Progress over all rows, to which it adds its work.
        """
        found = {name: self.find(name, settings) for name, settings in wanted.items()}
        missing = [name for name, row in found.items() if row is None]
        print(f"{len(missing)} rows to train, {len(found) - len(missing)} found in {self.path}")
        done = len(found) - len(missing)
        progress = Progress(len(found) * work, done * work) if work and missing else None
        for i, name in enumerate(missing, done):
            if work and progress:
                progress.start(f"training {name}", i * work)
            else:
                note(f"training {name}")
            row, samples = train(name, progress) if progress else train(name)
            row["settings"] = wanted[name]
            self.put(row, samples)
        if progress:
            progress.close()
        return [row for row in self.content["rows"] if self._name(row) in wanted]

    def put(self, row: Row, samples: np.ndarray, at: int = 0) -> None:
        """Adds a row or replaces the one of its name, and writes the files.

        The samples follow the first `at` of the row; if those are not there, none are kept.
        """
        others = {
            key: self._header[key]
            for key in ("device", "host", "versions")
            if self._header[key] != self.content.get(key)
        }
        if others:  # the header of the file does not hold for this row
            row["about"] = others
        rows = [old for old in self.content["rows"] if self._name(old) != self._name(row)]
        places = {name: place for place, name in enumerate(self._order)}
        self.content["rows"] = sorted(
            [*rows, row], key=lambda row: places.get(self._name(row), len(places))
        )
        before = self._samples.pop(self._key(row), samples[:0])[:at]
        if len(before) == at:
            self._samples[self._key(row)] = np.concatenate([before, samples])
        file = io.BytesIO()
        np.savez_compressed(file, **self._samples)  # pyright: ignore[reportArgumentType]
        self._npz.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._npz, file.getvalue())
        self.write()

    def write(self) -> None:
        write_json(self.path, self.content)

    def samples(self, rows: Iterable[Row]) -> dict[str, np.ndarray]:
        """The samples of rows, by the names of the rows. Says which rows have none."""
        found = {self._name(row): self._samples.get(self._key(row)) for row in rows}
        missing = [name for name, samples in found.items() if samples is None]
        if missing:
            note(
                f"{self._npz} has no samples of {', '.join(missing)}: to make them, train these "
                f"rows again with another file, such as --json {RUNS}/again.json"
            )
        return {name: samples for name, samples in found.items() if samples is not None}

    def _name(self, row: Row) -> str:
        return " ".join(row[key] for key in self._keys)

    def _key(self, row: Row) -> str:
        """The name of a row's samples: other settings have other samples."""
        text = json.dumps(row["settings"], sort_keys=True)
        return f"{self._name(row)} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def table(columns: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Lines of cells under their titles; words start at the left, numbers end at the right.

    Args:
      columns: "KEY TITLE, KEY TITLE, ..."; a title may have several words.
      rows: with a value for each key; "-" if it is missing.
    """
    parts = [column.split(maxsplit=1) for column in columns.split(", ")]
    rows = list(rows)
    values = [[row.get(key) for row in rows] for key, _ in parts]
    cells = [[title, *map(cell, column)] for (_, title), column in zip(parts, values, strict=True)]
    for i, column in enumerate(values):
        width = max(map(len, cells[i]))
        words = any(isinstance(value, str) for value in column)
        cells[i] = [text.ljust(width) if words else text.rjust(width) for text in cells[i]]
    return "\n".join("  ".join(line).rstrip() for line in zip(*cells, strict=True))


def cell(value: Any) -> str:
    """A value as text, with three digits: also of `spread`, `mean_interval`, counts by name."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if not isinstance(value, Mapping):
        return str(value)
    if "median" in value:
        return "{median} ({min} to {max})".format(**{k: cell(v) for k, v in value.items()})
    if "half" in value:
        return " ± ".join(cell(value[k]) for k in ("mean", "half") if value[k] is not None) or "-"
    return ", ".join(f"{name} {count}" for name, count in value.items() if count) or "none"


def draw_rows(samples: Mapping[str, np.ndarray]) -> Any:
    """A figure of images `[N, H, W, C]`, with a row for each name."""
    from matplotlib.figure import Figure

    from jaxgan.report import plots

    columns = max(map(len, samples.values()))
    margin = 0.2 + 0.07 * max(map(len, samples))  # for the names, in inches
    figure = Figure(figsize=(0.6 * columns + margin, 0.6 * len(samples)))
    panels = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(margin / figure.get_figwidth(), 0, 1, 1, 0, 0.02)
    for (name, images), axes in zip(samples.items(), panels, strict=True):
        grid = plots.image_grid(images, columns)
        axes.imshow(grid, cmap="gray", vmin=0, vmax=255, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def save_picture(path: Path, figure: Any, dpi: float = 80) -> None:
    """Writes a figure as a PNG of less than MOST_BYTES, with fewer dots per inch if needed."""
    content = None
    while content is None or len(content) >= MOST_BYTES:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi)
        content = compressed(file.getvalue())
        dpi *= 0.9
    write_atomically(path, content)


def compressed(png: bytes) -> bytes:
    """The same picture in at most 256 colours, or in grays; the given one if that is smaller."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    gray = image.convert("L")
    small = gray if gray.convert("RGB") == image else image.quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    small.save(file, format="png", optimize=True)
    return min(file.getvalue(), png, key=len)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_atomically(Path(name), compressed(Path(name).read_bytes()))
