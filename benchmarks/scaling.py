"""Time and memory of a training step by batch size, width of the networks and population.

There are three sweeps. Each varies one of them; the others are those of the reference: batch 128,
width x1, a single GAN. Width xW: all hidden widths of both networks times W; images and latents
keep their size. Populations train both in turns and together (in batched steps).

A point is a compiled epoch over part of the images, which are shuffled on the device. All points of
a sweep train in turns, each for about --seconds in a round. Printed are medians over the rounds;
bars go from the smallest to the largest. It takes about ten minutes on two CPU cores and needs jax,
flax, optax and numpy only (--plot also matplotlib and Pillow). Nothing else should run at the same
time.

What theory says of the time of a step, in FLOPs (see `count_flop` in peers/matmul_bound.py):
- batch B: FLOPs grow as B, slope 1. A pass of both Adams over their parameters does not grow: time
  = a + b B. The smallest and the largest batch set a and b.
- width W: FLOPs are p W + q W^2 (layers with one and with two hidden sides). The slope is 1.2 at
  x1 and 1.6 at x8, since the images do not widen; it tends to 2.
- population P: slope 1 once the device is full, so that GAN-steps/s stay; always if in turns.
The largest point sets the height of each line.

Memory is what the compiler plans for an epoch over all images, in MB (10**6 bytes). The table has
the total without the data set, which is uint8 on the device. It holds the states, 12 bytes for each
parameter and member (parameters and two Adam moments), and what steps need. The states are donated,
so the new ones take their place; `loop.fit` needs one more, since it keeps that of its caller. The
file of --json has all parts.
"""

import dataclasses
import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import harness
import jax
import numpy as np
from peers.matmul_bound import count_flop

import jaxgan
from jaxgan import loop
from jaxgan.run.devices import make_layout

GFLOP_PER_SECOND, ON_ACCELERATOR = 60, 20_000
"""Rates that set the number of steps of an epoch. A faster device repeats the epoch."""
LEAST_STEPS = 4
"""Of an epoch, so that its start and the order of the data take a small part of the time."""


class Setting(NamedTuple):
    """What is trained."""

    batch_size: int = 128
    width: int = 1
    """A factor of all hidden widths of both networks."""
    members: int | None = None
    """Of a population; None is a single GAN."""
    together: bool = False
    """Whether members take each step together, or in turns."""

    @property
    def config(self) -> jaxgan.GANConfig:
        config = jaxgan.GANConfig()
        return dataclasses.replace(
            config,
            generator_widths=tuple(self.width * n for n in config.generator_widths),
            discriminator_widths=tuple(self.width * n for n in config.discriminator_widths),
        )

    @property
    def way(self) -> str:
        if self.members is None:
            return "single"
        return "together" if self.together else "in turns"


SWEEPS: dict[str, Callable[[int], list[Setting]]] = {
    "batch": lambda n: [Setting(batch_size=n)],
    "width": lambda n: [Setting(width=n)],
    "population": lambda n: [Setting(members=n, together=together) for together in (False, True)],
}

COLUMNS = (
    "sweep sweep, size size, way way, ms_per_step ms/step, ms_min min, ms_max max, slope slope, "
    "flop_slope by FLOPs, steps_per_second steps/s, gan_steps_per_second GAN-steps/s, "
    "gflop_per_step GFLOP/step, gflop_per_second GFLOP/s, memory_mb memory MB, states_mb states MB"
)


def main() -> None:
    parser = harness.make_parser(
        __doc__,
        data="fashion",
        batch_sizes=[32, 64, 128, 256, 512, 1024, 2048, 4096],
        widths=[1, 2, 4, 8],
        populations=[1, 2, 4, 8, 16, 32, 64],
        rounds=5,
        seconds=1.0,
    )
    parser.add_argument(
        "--sweeps",
        nargs="+",
        choices=SWEEPS,
        default=list(SWEEPS),
        metavar="NAME",
        help=f"some of: {', '.join(SWEEPS)} (default: all)",
    )
    text = "train populations together only: on a GPU large ones take long in turns"
    parser.add_argument("--together", action="store_true", help=text)
    parser.add_argument("--plot", type=harness.output, help="draw the points in this PNG file")
    args = parser.parse_args()
    if args.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    images, source = harness.find_images(args.data_dir)
    if "batch" in args.sweeps and max(args.batch_sizes) > len(images):
        parser.error(f"--batch-sizes must be from 1 to the {len(images)} images")
    header = harness.about(images=source, repeats=args.rounds, seconds=args.seconds)
    sizes = {"batch": args.batch_sizes, "width": args.widths, "population": args.populations}
    rows = []
    for sweep in args.sweeps:
        settings = {
            (n, setting.way): setting
            for n in sorted(set(sizes[sweep]))
            for setting in SWEEPS[sweep](n)
            if not (args.together and setting.way == "in turns")
        }
        rows += measure(sweep, settings, images, args.rounds, args.seconds)
    print(harness.table(COLUMNS, rows))
    harness.write_json(args.json, header | {"rows": rows})
    if args.plot:
        harness.save_picture(args.plot, draw(rows, header["device"]), dpi=100)


class Point:
    """A setting, compiled and warm."""

    def __init__(self, setting: Setting, images: np.ndarray, seconds: float):
        self.setting = setting
        self.members = setting.members or 1
        self.gflop = self.members * count_flop(*layers(setting.config), setting.batch_size) / 1e9
        all_steps = len(images) // setting.batch_size
        rate = GFLOP_PER_SECOND if jax.default_backend() == "cpu" else ON_ACCELERATOR
        wanted = max(LEAST_STEPS, round(seconds * rate / self.gflop))
        self.steps = min(all_steps, wanted)
        # Without a smaller last batch, so that all steps take the same time.
        part, images = (images[: n * setting.batch_size] for n in (self.steps, all_steps))
        self._program = compile_epoch(setting, len(part))
        whole = self._program if len(part) == len(images) else compile_epoch(setting, len(images))
        self.memory = planned(whole, images)
        self._data = jax.device_put(part)
        self._state, self._rng = start(setting)
        self._epochs, self._epoch = 1, 0
        self.train()
        self._epochs = max(1, round(1e3 * seconds / (self.steps * self.train())))

    def train(self) -> float:
        """Trains for a while; gives milliseconds per step."""
        return 1e3 * harness.seconds_of(self._train) / (self._epochs * self.steps)

    def _train(self) -> None:
        for _ in range(self._epochs):
            self._state, _ = self._program(self._state, self._data, self._rng, self._epoch)
            self._epoch += 1
        jax.block_until_ready(self._state)


def measure(
    sweep: str,
    settings: Mapping[tuple[int, str], Setting],
    images: np.ndarray,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """The rows of a sweep, by way and size. The settings are named by size and way."""
    points = {}
    for (n, way), setting in settings.items():
        harness.note(f"{sweep} {n}, {way}: compiling")
        points[n, way] = Point(setting, images, seconds)
    programs = {name: point.train for name, point in points.items()}
    times = harness.in_turns(programs, rounds, f"{sweep}: ")
    rows = [
        {"sweep": sweep, "size": name[0]} | make_row(point, times[name])
        for name, point in points.items()
    ]
    rows.sort(key=lambda row: row["way"])
    for last, row in itertools.pairwise(rows):
        if last["way"] == row["way"]:
            grown = math.log(row["size"] / last["size"])
            row["slope"] = math.log(row["ms_per_step"] / last["ms_per_step"]) / grown
            row["flop_slope"] = math.log(row["gflop_per_step"] / last["gflop_per_step"]) / grown
    return rows


def make_row(point: Point, times: list[float]) -> dict[str, Any]:
    """A row, from the milliseconds per step of each round."""
    found = harness.spread(times)
    rate = 1e3 / found["median"]
    return {
        "way": point.setting.way,
        "ms_per_step": found["median"],
        "ms_min": found["min"],
        "ms_max": found["max"],
        "slope": None,
        "flop_slope": None,
        "steps_per_second": rate,
        "gan_steps_per_second": rate * point.members,
        "gflop_per_step": point.gflop,
        "gflop_per_second": rate * point.gflop,
        "memory_mb": point.memory["total_mb"] - point.memory["data_mb"],
        "states_mb": 12 * count_parameters(point.setting.config) * point.members / 1e6,
        "steps_per_epoch": point.steps,
        **point.memory,
    }


def start(setting: Setting) -> tuple[jaxgan.GANState, jax.Array]:
    """The untrained state, and the key or the keys of the training."""
    if setting.members is None:
        rngs = loop.make_rngs(0)
        return jaxgan.create_state(rngs.init, setting.config), rngs.training
    rngs = loop.make_rngs(range(setting.members))
    states = jax.vmap(lambda rng: jaxgan.create_state(rng, setting.config))(rngs.init)
    return states, rngs.training


def compile_epoch(setting: Setting, n: int) -> jax.stages.Compiled:
    """`loop.train_epoch` over n images as one program(state, data, rng, epoch).

    It makes the order of the data, trains, and returns the means of the metrics. It donates the
    state.
    """
    layout = make_layout(1, population=setting.members is not None, vectorize=setting.together)
    epoch = functools.partial(
        loop.train_epoch, jaxgan.train_step, batch_size=setting.batch_size, layout=layout
    )
    state, rng = jax.eval_shape(functools.partial(start, setting))
    data = jax.ShapeDtypeStruct((n, *setting.config.image_shape), np.uint8)
    return jax.jit(epoch, donate_argnums=0).lower(state, data, rng, 0).compile()


def planned(program: jax.stages.Compiled, images: np.ndarray) -> dict[str, float]:
    """The memory of an epoch over the images in MB, by the account of the compiler."""
    plan: Any = program.memory_analysis()
    arguments, temporary = plan.argument_size_in_bytes, plan.temp_size_in_bytes
    results, reused = plan.output_size_in_bytes, plan.alias_size_in_bytes
    parts = {
        "data": images.nbytes,
        "arguments": arguments - images.nbytes,
        "temporary": temporary,
        "results": results,
        "reused": reused,
        "total": arguments + temporary + results - reused,
    }
    return {f"{name}_mb": value / 1e6 for name, value in parts.items()}


def layers(config: jaxgan.GANConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes of inputs, hidden layers and outputs of the generator and the discriminator."""
    pixels = math.prod(config.image_shape)
    generator = (config.latent_dim, *config.generator_widths, pixels)
    return generator, (pixels, *config.discriminator_widths, 1)


def count_parameters(config: jaxgan.GANConfig) -> int:
    """Of both networks."""
    # A weight for each input and a bias.
    return sum((i + 1) * o for sizes in layers(config) for i, o in itertools.pairwise(sizes))


def draw(rows: list[dict[str, Any]], device: str):
    """A figure of time per step (above) and memory (below) against size, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    sweeps = list(dict.fromkeys(row["sweep"] for row in rows))
    figure = Figure(figsize=(4.7 * len(sweeps), 8), layout="constrained")
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
    return figure


def draw_time(axes, sweep: str, series: list[dict[str, Any]]) -> None:
    """Measured points with bars, and the lines of theory."""
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


if __name__ == "__main__":
    harness.main(main)
