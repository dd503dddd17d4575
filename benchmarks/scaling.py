"""Time and memory of a training step over batch size, width of the networks and size of population.

Three sweeps, each with the other settings at the reference: batch 128, width x1, a single GAN.
Width xW: all hidden widths of both networks times W; images and latents keep their size. A point is
a compiled and warm epoch over part of the images, shuffled on the device; in each round all points
of a sweep train in turn, so that a slow moment of the machine hits all. Medians over the rounds,
bars from the least to the most. Populations train both in turns and together (a batched step).

What theory says of the time of a step, in FLOPs (see `count_flop`):
- batch B: FLOPs grow as B, slope 1. What does not grow is a pass of both Adams over their
  parameters: time = a + b B. a and b are set by the smallest and the largest batch.
- width W: FLOPs are p W + q W^2 (layers with one and with two hidden sides). The slope is 1.2 at
  x1 and 1.6 at x8, as the images do not widen; only far beyond it comes to 2.
- population P: slope 1 once the device is full, so that GAN-steps/s stay; always if in turns.
But for a and b, the lines are set by the largest point alone.

Memory is what the compiler plans for an epoch over all images, less the data set (uint8): states,
of 12 bytes a parameter and member (parameters and two Adam moments), and what steps need beside.
"""

import argparse
import importlib.util
import io
import itertools
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from memory import Setting, compile_epoch, output, planned, size, start, table
from steps_per_second import find_images, machine

import jaxgan

GFLOP_PER_SECOND = 60
"""About what two CPU cores do: sets how many steps an epoch has. Faster devices repeat it."""
LEAST_STEPS = 4
"""Of an epoch, so that its order and its start do not count."""

SWEEPS: dict[str, Callable[[int], list[Setting]]] = {
    "batch": lambda n: [Setting(batch_size=n)],
    "width": lambda n: [Setting(width=n)],
    "population": lambda n: [
        Setting(members=n, together=False),
        Setting(members=n, together=True),
    ],
}

COLUMNS = {
    "sweep": ("     sweep", "s"),
    "size": ("size", "d"),
    "way": ("     way", "s"),
    "ms_per_step": ("ms/step", ".3f"),
    "ms_min": ("     min", ".3f"),
    "ms_max": ("     max", ".3f"),
    "slope": ("slope", ".2f"),
    "flop_slope": ("by FLOPs", ".2f"),
    "steps_per_second": ("steps/s", ".1f"),
    "gan_steps_per_second": ("GAN-steps/s", ".1f"),
    "gflop_per_step": ("GFLOP/step", ".3f"),
    "gflop_per_second": ("GFLOP/s", ".1f"),
    "memory_mb": ("memory MB", ".1f"),
    "states_mb": ("states MB", ".1f"),
}


def main() -> None:
    args = parse_arguments()
    images, source = find_images(args.data_dir)
    if max(args.batch) > len(images):
        sys.exit(f"--batch-sizes must be from 1 to the {len(images)} images")
    about = {"command": shlex.join(["python", *sys.argv]), "images": source, **machine()}
    about |= {"repeats": args.repeats, "seconds": args.seconds}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    rows = []
    for sweep in args.sweeps:
        rows += measure(sweep, getattr(args, sweep), images, args.repeats, args.seconds)
    print(table(COLUMNS, rows))
    if args.json:
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")
    if args.plot:
        args.plot.write_bytes(draw(rows, about["device"]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="default: all"
    )
    for option, sweep, sizes in (
        ("--batch-sizes", "batch", [32, 64, 128, 256, 512, 1024, 2048, 4096]),
        ("--widths", "width", [1, 2, 4, 8]),
        ("--populations", "population", [1, 2, 4, 8, 16, 32, 64]),
    ):
        parser.add_argument(
            option, dest=sweep, type=size, nargs="+", default=sizes,
            help=f"default: {' '.join(map(str, sizes))}",
        )  # fmt: skip
    parser.add_argument("--repeats", type=size, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="about, of each repeat (default: %(default)s)"
    )
    parser.add_argument("--data-dir", help="where Fashion-MNIST is; else $JAXGAN_DATA_DIR")
    parser.add_argument("--json", type=output, help="also write the results to this file")
    parser.add_argument("--plot", type=output, help="also draw them, to this PNG file")
    args = parser.parse_args()
    if not 0 < args.seconds < math.inf:
        parser.error("--seconds must be above 0")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    for sweep in SWEEPS:
        setattr(args, sweep, sorted(set(getattr(args, sweep))))
    return args


class Point:
    """A setting, compiled and warm."""

    def __init__(self, setting: Setting, images: np.ndarray, seconds: float):
        self.setting = setting
        self.members = setting.members or 1
        self.gflop = self.members * count_flop(setting.config, setting.batch_size) / 1e9
        all_steps = len(images) // setting.batch_size
        wanted = max(LEAST_STEPS, round(seconds * GFLOP_PER_SECOND / self.gflop))
        self.steps = min(all_steps, wanted)
        # Without a smaller last batch, so that all steps are alike.
        part, images = (images[: n * setting.batch_size] for n in (self.steps, all_steps))
        self._program = compile_epoch(setting, len(part))
        whole = self._program if len(part) == len(images) else compile_epoch(setting, len(images))
        plan = planned(whole, images)
        self.memory = plan["total_mb"] - plan["data_mb"]
        self._data = jax.device_put(part)
        self._state, self._rng = start(setting)
        self._epochs, self._epoch = 1, 0
        self.train()
        self._epochs = max(1, round(1e3 * seconds / (self.steps * self.train())))

    def train(self) -> float:
        """Trains for a while; gives milliseconds per step."""
        started = time.perf_counter()
        for _ in range(self._epochs):
            self._state, _ = self._program(self._state, self._data, self._rng, self._epoch)
            self._epoch += 1
        jax.block_until_ready(self._state)
        return 1e3 * (time.perf_counter() - started) / (self._epochs * self.steps)


def measure(
    sweep: str, sizes: list[int], images: np.ndarray, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """The rows of a sweep, by way and size."""
    named = [(n, setting) for n in sizes for setting in SWEEPS[sweep](n)]
    points = []
    for i, (n, setting) in enumerate(named):
        note(f"{sweep} {n}, {setting.way}: compiling, {i + 1} of {len(named)}")
        points.append(Point(setting, images, seconds))
    times = [[] for _ in points]
    for i in range(repeats):
        note(f"{sweep}: round {i + 1} of {repeats}")
        for point, taken in zip(points, times, strict=True):
            taken.append(point.train())
    rows = [
        {"sweep": sweep, "size": n} | summarize(point, taken)
        for (n, _), point, taken in zip(named, points, times, strict=True)
    ]
    rows.sort(key=lambda row: row["way"])
    for last, row in itertools.pairwise(rows):
        if last["way"] == row["way"]:
            grown = math.log(row["size"] / last["size"])
            row["slope"] = math.log(row["ms_per_step"] / last["ms_per_step"]) / grown
            row["flop_slope"] = math.log(row["gflop_per_step"] / last["gflop_per_step"]) / grown
    return rows


def summarize(point: Point, times: list[float]) -> dict[str, Any]:
    """A row, from the milliseconds per step of each round."""
    rate = 1e3 / statistics.median(times)
    parameters = count_parameters(point.setting.config)
    return {
        "way": point.setting.way,
        "ms_per_step": statistics.median(times),
        "ms_min": min(times),
        "ms_max": max(times),
        "slope": None,
        "flop_slope": None,
        "steps_per_second": rate,
        "gan_steps_per_second": rate * point.members,
        "gflop_per_step": point.gflop,
        "gflop_per_second": rate * point.gflop,
        "memory_mb": point.memory,
        "states_mb": 12 * parameters * point.members / 1e6,
        "steps_per_epoch": point.steps,
    }


def count_layers(config: jaxgan.GANConfig) -> tuple[list[int], list[int]]:
    """The weights of each layer of the generator and of the discriminator, without biases."""
    pixels = math.prod(config.image_shape)
    generator = (config.latent_dim, *config.generator_widths, pixels)
    discriminator = (pixels, *config.discriminator_widths, 1)
    generator, discriminator = (
        [i * o for i, o in itertools.pairwise(widths)] for widths in (generator, discriminator)
    )
    return generator, discriminator


def count_parameters(config: jaxgan.GANConfig) -> int:
    """Of both networks."""
    pixels = math.prod(config.image_shape)
    biases = sum(config.generator_widths) + pixels + sum(config.discriminator_widths) + 1
    return sum(map(sum, count_layers(config))) + biases


def count_flop(config: jaxgan.GANConfig, batch_size: int) -> int:
    """FLOPs of the matrix products of a step: 2 B (3 g - g1 + 6 d - d1).

    A product of `[B, i]` and `[i, o]` takes 2 B i o FLOPs, and so do the gradients of its weights
    and of its inputs. With g and d weights in the networks, of which g1 and d1 in the first layers:
    forward g + 2 d (generated and real images), weights g + 2 d, inputs g - g1 for the generator,
    d for the generated images (back to the generator) and d - d1 for the real ones.
    """
    generator, discriminator = count_layers(config)
    g, d = sum(generator), sum(discriminator)
    return 2 * batch_size * (2 * (g + 2 * d) + (g - generator[0]) + d + (d - discriminator[0]))


def draw(rows: list[dict[str, Any]], device: str) -> bytes:
    """Time per step (above) and memory (below) against size, log-log, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    sweeps = list(dict.fromkeys(row["sweep"] for row in rows))
    figure = Figure(figsize=(4.7 * len(sweeps), 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(sweeps), squeeze=False, sharex="col")
    for sweep, (above, below) in zip(sweeps, panels.T, strict=True):
        chosen = [row for row in rows if row["sweep"] == sweep]
        series = []
        for way in dict.fromkeys(row["way"] for row in chosen):
            series = [row for row in chosen if row["way"] == way]
            draw_time(above, sweep, series)
            memory = [row["memory_mb"] for row in series]
            below.plot([row["size"] for row in series], memory, "o", label=f"program, {way}")
        sizes = [row["size"] for row in series]
        states = [row["states_mb"] for row in series]
        below.plot(sizes, states, "--", color="gray", label="states: 12 bytes per parameter")
        for axes in (above, below):
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(sizes, [f"x{n}" if sweep == "width" else str(n) for n in sizes])
            axes.set_xticks([], minor=True)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        below.set_xlabel(sweep)
    panels[0, 0].set_ylabel("time per step, ms")
    panels[1, 0].set_ylabel("memory without the data set, MB")
    figure.suptitle(f"Scaling of the reference GAN: {device}")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def draw_time(axes, sweep: str, series: list[dict[str, Any]]) -> None:
    """Measured points with bars, and beside them the lines of theory."""
    sizes, times, least, most, flop = (
        np.array([row[key] for row in series])
        for key in ("size", "ms_per_step", "ms_min", "ms_max", "gflop_per_step")
    )
    label = "measured" if sweep != "population" else f"measured, {series[0]['way']}"
    bars = axes.errorbar(
        sizes, times, [times - least, most - times], fmt="o", capsize=3, label=label
    )
    color = bars.lines[0].get_color()
    line = "FLOPs: p W + q W$^2$" if sweep == "width" else "FLOPs: slope 1"
    axes.plot(sizes, times[-1] * flop / flop[-1], "--", color=color, alpha=0.7, label=line)
    if sweep == "width":
        square = times[-1] * (sizes / sizes[-1]) ** 2
        axes.plot(sizes, square, ":", color="gray", label="slope 2")
    if sweep == "batch" and len(sizes) > 2:
        share = (times[-1] - times[0]) / (sizes[-1] - sizes[0])
        dense = np.geomspace(sizes[0], sizes[-1], 50)
        fixed = times[0] - share * sizes[0]
        label = f"a + b B, a = {fixed:.2g} ms"
        axes.plot(dense, fixed + share * dense, "-", color="gray", label=label)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
