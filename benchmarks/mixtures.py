"""Every method on the two mixtures, ten seeds each: how many modes it captures, and how well.

Rows are written to --json one by one, with samples over training beside it in an .npz; given again,
the command goes on with the rows that are missing. About three hours on two CPU cores, or less than
five minutes with --quick.
"""

import argparse
import functools
import io
import json
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from steps_per_second import machine, time_epochs
from tqdm import tqdm

from jaxgan import GANConfig, create_state, loop, population, sample, train_step
from jaxgan.checkpoint import write_atomically
from jaxgan.data.mixtures import MIXTURES, POINTS, load
from jaxgan.errors import NonFiniteError
from jaxgan.metrics.modes import ModeScores, mode_scores

SAMPLES = 2_500
"""Drawn of each GAN when it is trained, as in the published tables."""
FRAMES = 6
"""Pictures of the first seed over its training, untrained and final included."""
SHOWN = 500
"""Samples in a picture."""
ROUNDS, STRETCH = 9, 200
"""Rounds of --rates, and steps of each method in a round."""

PENALTIES = {"r1": "{r1}", "r2": "{r1}"}
UNROLLED = {
    "generator_lr": 1e-3,
    "discriminator_lr": 1e-4,
    "generator_b1": 0.5,
    "discriminator_b1": 0.5,
    "generator_b2": 0.999,
    "discriminator_b2": 0.999,
}
"""The rates of the paper's own program (arXiv 1611.02163): with those of the others it loses nearly
all modes of the ring."""
METHODS: dict[str, dict[str, Any]] = {
    "GAN": {},
    "minimax": {"loss": "minimax"},
    "WGAN": {"loss": "wasserstein", "weight_clip": 0.1, "disc_steps": 5},
    "WGAN-GP": {"loss": "wasserstein", "gradient_penalty": 0.1, "disc_steps": 5},
    "unrolled 5": {"unroll_steps": 5, **UNROLLED},
    "unrolled 10": {"unroll_steps": 10, **UNROLLED},
    "PacGAN2": {"pac": 2},
    "PacGAN4": {"pac": 4},
    "R1": {"r1": "{r1}"},
    "R1+R2": PENALTIES,
    "instance noise": {"instance_noise": "{noise}"},
    "relativistic+R1+R2": {"loss": "relativistic", **PENALTIES},
    "relativistic+R1+R2+EMA": {"loss": "relativistic", **PENALTIES, "ema_decay": 0.99},
}
"""What each has beside the set-up that all share, as fields of GANConfig."""
QUICK = ("GAN", "PacGAN2", "relativistic+R1+R2+EMA")


class Generator(nn.Module):
    """Three layers of 128 tanh.

    Saturated units make plateaus with steep walls between, and a point on a wall lies between two
    modes. Kernels and biases are drawn so that the first layers saturate here and there.
    """

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        x = 2 * latents
        for _ in range(3):
            x = nn.tanh(nn.Dense(128, bias_init=uniform)(x))
        return nn.Dense(2)(x).reshape(-1, 1, 1, 2)


class Discriminator(nn.Module):
    """Three layers of 128 LeakyReLU(0.2), on the points and 32 waves of them.

    The modes are small beside their distances, and layers alone are slow to learn such detail
    (arXiv 2006.10739).
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        angles = x @ np.random.default_rng(0).normal(0, 3, (x.shape[1], 32)).astype(np.float32)
        x = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=1)
        for _ in range(3):
            x = nn.leaky_relu(nn.Dense(128)(x), 0.2)
        return nn.Dense(1)(x)[:, 0]


def uniform(rng, shape, dtype=jnp.float32):
    return jax.random.uniform(rng, shape, dtype, -0.5, 0.5)


SHARED = {
    "latent_dim": 2,
    "generator": Generator(),
    "discriminator": Discriminator(),
    "generator_lr": 2e-3,
    "discriminator_lr": 2e-3,
    "generator_b1": 0.0,
    "discriminator_b1": 0.0,
    "generator_b2": 0.99,
    "discriminator_b2": 0.99,
    "lr_scale": "cosine:1:0:{steps}",
}
"""The set-up of every method."""
STEPS, BATCH = 10_500, 128
ANNEALED = {
    "ring": {"r1": "cosine:1:0.001:{steps}", "noise": "cosine:0.1:0:{steps}"},
    "grid": {"r1": "cosine:1:0.001:{steps}", "noise": "cosine:0.3:0:{steps}"},
}
"""Weights of R1 and R2, and deviation of the noise: lengths differ between the two."""


small = nn.initializers.normal(0.02)


class PacGenerator(nn.Module):
    """PacGAN's generator: four layers of 400, BatchNorm and ReLU."""

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
        x = latents
        for _ in range(4):
            x = nn.Dense(400, use_bias=False, kernel_init=small)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.95)(x))
        return nn.Dense(2, kernel_init=small)(x).reshape(-1, 1, 1, 2)


class PacDiscriminator(nn.Module):
    """PacGAN's discriminator: three layers of 200 maxout units of 5 pieces."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        for _ in range(3):
            x = nn.Dense(200 * 5, kernel_init=small)(x).reshape(-1, 200, 5).max(axis=2)
        return nn.Dense(1, kernel_init=small)(x)[:, 0]


PACGAN = {
    "latent_dim": 2,
    "generator": PacGenerator(),
    "discriminator": PacDiscriminator(),
    "generator_lr": 1e-4,
    "discriminator_lr": 1e-4,
    "generator_b1": 0.8,
    "discriminator_b1": 0.8,
}

VEEGAN, GDPP, PAC = (
    "VEEGAN's nets (arXiv 1705.07761)",
    "VEEGAN's nets (GDPP, arXiv 1812.00068)",
    "PacGAN's nets, 10 seeds (arXiv 1712.04086)",
)
PUBLISHED = {
    # Method and set-up; modes and % of high quality; reverse KL where it was given.
    "ring": [
        ("GAN", VEEGAN, 1, 99.3, None),
        ("unrolled 5", VEEGAN, 7.6, 35.6, None),
        ("VEEGAN", VEEGAN, 8, 52.9, None),
        ("WGAN-GP", GDPP, 6.8, 59.6, None),
        ("GDPP", GDPP, 8.0, 71.7, None),
        ("GAN", PAC, 6.3, 98.2, None),
        ("PacGAN2", PAC, 7.9, 95.6, None),
        ("PacGAN4", PAC, 7.8, 95.9, 0.07),
    ],
    "grid": [
        ("GAN", VEEGAN, 3.3, 0.5, None),
        ("unrolled 5", VEEGAN, 23.6, 16, None),
        ("VEEGAN", VEEGAN, 24.6, 40, None),
        ("WGAN-GP", GDPP, 24.2, 28.7, None),
        ("GDPP", GDPP, 24.8, 68.5, None),
        ("GAN", PAC, 17.3, 94.8, None),
        ("PacGAN2", PAC, 23.8, 91.3, None),
        ("PacGAN4", PAC, 24.8, 93.6, 0.04),
    ],
}


def main() -> None:
    args = parse()
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print(f"{args.seeds} seeds, {args.steps} steps of {args.batch_size} points, {SAMPLES} samples")
    rows = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    found = [find(rows, data, method, args) for data in args.data for method in args.methods]
    pairs = {(data, method) for data in args.data for method in args.methods}
    if found.count(None) != len(pairs - {(row["data"], row["method"]) for row in rows}):
        sys.exit(f"{args.json} has rows of other settings: choose another --json")
    frames = load_frames(args.json)
    for data in args.data:
        print_header(data)
        for method in args.methods:
            row = find(rows, data, method, args)
            if row is None:
                row, frames[f"{data} {method}"] = train_row(data, method, args)
                rows.append(row)
                save(args.json, about | {"rows": in_order(rows)}, frames)
            print_row(row)
    if args.rates:
        rates = measured_rates(args)
        print("\n".join(f"{method:24} {rate:6.0f} steps/s" for method, rate in rates.items()))
        asked = [settings(data, method, args) for data in args.data for method in args.methods]
        for row in rows:
            if row["settings"] in asked:
                row["steps_per_second"] = rates[row["method"]]
        save(args.json, about | {"rows": in_order(rows)}, frames)
    if args.picture:
        write_atomically(args.picture, picture(args, frames))
    new = found.count(None)
    print(f"{new} rows trained, {len(found) - new} found in {args.json}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=[*MIXTURES], help="one of the two; default: both")
    parser.add_argument("--methods", help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, help="default: 10")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS:,}; or as many in whole parts")
    parser.add_argument("--batch-size", type=int, help=f"default: {BATCH}")
    shorter = parser.add_mutually_exclusive_group()
    shorter.add_argument(
        "--quick", action="store_true", help=f"by default 2 seeds, 1,000 steps, {', '.join(QUICK)}"
    )
    shorter.add_argument(
        "--pacgan",
        action="store_true",
        help="with PacGAN's own nets, by default 400,000 steps of 100 packs: a task for a GPU",
    )
    parser.add_argument(
        "--json", type=Path, help="the rows; default: runs/mixtures[_quick|_pacgan].json"
    )
    parser.add_argument(
        "--rates",
        action="store_true",
        help="then measure the steps/s of all methods anew, in turns; nothing else should run",
    )
    parser.add_argument("--picture", type=Path, help="write samples over training to this PNG")
    args = parser.parse_args()
    steps, batch_size, methods = STEPS, BATCH, ",".join(METHODS)
    if args.quick:
        steps, methods = 1_000, ",".join(QUICK)
    if args.pacgan:
        steps, batch_size, methods = 400_000, 100, "GAN,PacGAN2,PacGAN4"
    args.steps = steps if args.steps is None else args.steps
    args.seeds = (2 if args.quick else 10) if args.seeds is None else args.seeds
    args.batch_size = batch_size if args.batch_size is None else args.batch_size
    kind = "_quick" if args.quick else "_pacgan" if args.pacgan else ""
    args.json = args.json or Path("runs") / f"mixtures{kind}.json"
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.data = [args.data] if args.data else [*MIXTURES]
    args.methods = (args.methods or methods).split(",")
    for method in args.methods:
        if method not in METHODS:
            parser.error(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    least, most = FRAMES - 1, POINTS // 4  # a part for each frame; a batch of four packs
    if args.seeds < 1 or args.steps < least or not 4 <= args.batch_size <= most:
        parser.error(
            f"--seeds must be above 0, --steps {least} or more, --batch-size from 4 to {most}"
        )
    epochs, per_epoch = parts(args)
    args.steps = epochs * per_epoch
    return args


def parts(args: argparse.Namespace) -> tuple[int, int]:
    """Epochs of whole batches, with the frames at the ends of some, and the steps in each."""
    largest = batch_size("PacGAN4", args)
    epochs = (FRAMES - 1) * math.ceil(args.steps / (FRAMES - 1) / (POINTS // largest))
    return epochs, round(args.steps / epochs)


def batch_size(method: str, args: argparse.Namespace) -> int:
    """In points: PacGAN's own batches are of packs."""
    return args.batch_size * (METHODS[method].get("pac", 1) if args.pacgan else 1)


def make_config(data: str, method: str, args: argparse.Namespace) -> GANConfig:
    fields = {**(PACGAN if args.pacgan else SHARED), **METHODS[method]}
    annealed = {k: v.format(steps=args.steps) for k, v in ANNEALED[data].items()}
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = value.format(steps=args.steps, **annealed)
    return GANConfig(image_shape=(1, 1, 2), bounded=False, **fields)


def settings(data: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    reference = vars(GANConfig())
    fields = vars(make_config(data, method, args))
    described = {name: value for name, value in fields.items() if value != reference[name]}
    described |= {"steps": args.steps, "batch_size": args.batch_size, "seeds": args.seeds}
    return json.loads(json.dumps(described, default=repr))


def find(rows: list[dict], data: str, method: str, args: argparse.Namespace) -> dict | None:
    """The row of an earlier call, if it was trained with the same settings."""
    same = settings(data, method, args)
    return next(
        (
            row
            for row in rows
            if (row["data"], row["method"], row["settings"]) == (data, method, same)
        ),
        None,
    )


def train_row(data: str, method: str, args: argparse.Namespace) -> tuple[dict, np.ndarray]:
    """Trains a population: its row, and the first member's samples `[FRAMES, SHOWN, 2]`."""
    config, points_in_batch = make_config(data, method, args), batch_size(method, args)
    epochs, per_epoch = parts(args)
    points = load(data, "train").images[: per_epoch * points_in_batch]
    draw = jax.jit(lambda state: sample(state, jax.random.key(1), SAMPLES).reshape(SAMPLES, 2))
    frames, rates = [draw(create_state(loop.make_rngs(0).init, config))], []

    def on_epoch(run: loop.Run) -> None:
        rates.append(run.history[-1]["steps_per_second"])
        if len(run.history) % (epochs // (FRAMES - 1)) == 0:
            frames.append(draw(population.member(run.state, 0)))

    try:
        run = population.train_population(
            config,
            points,
            list(range(args.seeds)),
            epochs=epochs,
            batch_size=points_in_batch,
            on_epoch=on_epoch,
            devices=1,
        )
        members = [np.asarray(draw(population.member(run.state, i))) for i in range(args.seeds)]
    except NonFiniteError:  # all of them: a row like any other
        members = [np.full((SAMPLES, 2), np.nan)] * args.seeds
        frames += [members[0]] * (FRAMES - len(frames))
    row = {"data": data, "method": method, "seeds": args.seeds, **summed_up(members, data)}
    row |= {
        "steps_per_second": statistics.median(rates) if rates else None,
        "step_mb": step_megabytes(config, points_in_batch),
        "settings": settings(data, method, args),
    }
    shown = np.stack([np.asarray(frame)[:SHOWN] for frame in frames]).astype(np.float16)
    return row, shown


def summed_up(members: list[np.ndarray], data: str) -> dict[str, Any]:
    """The scores of the samples `[SAMPLES, 2]` of each seed, and what they say together."""
    from scipy import stats

    mixture = MIXTURES[data]
    k = len(mixture.centers)
    # A member that diverged has no modes, and is as far from them as one can be.
    none = ModeScores(0, 0.0, math.log(k), float("nan"))
    scores = [mode_scores(m, mixture) if np.isfinite(m).all() else none for m in members]
    modes = np.array([score.modes for score in scores])
    lost = int((modes < k).sum())
    interval = stats.binomtest(lost, len(scores)).proportion_ci(method="wilson")
    ratios = [s.covariance_ratio for s in scores if not math.isnan(s.covariance_ratio)]
    se = float(modes.std(ddof=1) / math.sqrt(len(modes))) if len(modes) > 1 else None
    return {
        "modes_mean": float(modes.mean()),
        "modes_se": se,
        "modes_worst": int(modes.min()),
        "high_quality_mean": 100 * statistics.mean(s.high_quality for s in scores),
        "high_quality_worst": 100 * min(s.high_quality for s in scores),
        "reverse_kl_mean": statistics.mean(s.reverse_kl for s in scores),
        "covariance_ratio_mean": statistics.mean(ratios) if ratios else None,
        "failed_share": lost / len(scores),
        "failed_low": float(interval.low),
        "failed_high": float(interval.high),
    }


def measured_rates(args: argparse.Namespace) -> dict[str, float]:
    """Steps per second of one GAN of each method: medians over rounds in which all take turns."""
    data, rng = args.data[0], jax.random.key(0)
    sizes = {method: batch_size(method, args) for method in args.methods}
    points = jax.device_put(load(data, "train").images)
    configs = {method: make_config(data, method, args) for method in args.methods}
    states = {method: create_state(rng, config) for method, config in configs.items()}
    rates: dict[str, list[float]] = {method: [] for method in args.methods}
    # The first round compiles, and does not count.
    for i in tqdm(range(1 + ROUNDS), "rounds"):
        for method, state in states.items():
            steps = min(STRETCH, POINTS // sizes[method])
            some = points[: steps * sizes[method]]
            states[method], seconds = time_epochs(state, some, rng, sizes[method], 1)
            rates[method] += [steps / seconds] if i else []
    return {method: statistics.median(values) for method, values in rates.items()}


def step_megabytes(config: GANConfig, batch_size: int) -> float | None:
    """What the compiled step of one GAN takes, its state and batch included."""
    rng = jax.random.key(0)
    state = jax.eval_shape(functools.partial(create_state, config=config), rng)
    batch = jax.ShapeDtypeStruct((batch_size, *config.image_shape), jnp.float32)
    analysis = jax.jit(train_step).lower(state, batch, rng).compile().memory_analysis()
    if analysis is None:
        return None
    return (analysis.argument_size_in_bytes + analysis.temp_size_in_bytes) / 1e6


def in_order(rows: list[dict]) -> list[dict]:
    names = [*METHODS]
    return sorted(rows, key=lambda row: (row["data"] != "ring", names.index(row["method"])))


def load_frames(path: Path) -> dict[str, np.ndarray]:
    path = path.with_suffix(".npz")
    return dict(np.load(path)) if path.exists() else {}


def save(path: Path, results: dict[str, Any], frames: dict[str, Any]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **frames)
    # First: a row that is there has its frames.
    write_atomically(path.with_suffix(".npz"), file.getvalue())
    write_atomically(path, json.dumps(results, indent=2) + "\n")


COLUMNS = "{:24} {:>13} {:>10} {:>6} {:>6} {:>17} {:>8} {:>6}"


def print_header(data: str) -> None:
    k = len(MIXTURES[data].centers)
    print(f"\n{data}: {k} modes")
    titles = (f"modes of {k}", "% quality", "rev KL", "round", "lost a mode", "steps/s", "MB")
    print(COLUMNS.format("method", *titles))
    for method, set_up, modes, quality, kl in PUBLISHED[data]:
        cells = (f"{modes:.1f}", f"{quality:.1f}", "" if kl is None else f"{kl:.2f}")
        print(COLUMNS.format(method, *cells, "", "", "", "") + f"  {set_up}")


def print_row(row: dict[str, Any]) -> None:
    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    cells = (
        f"{row['modes_mean']:.1f} +- {number(row['modes_se'], 2)}",
        number(row["high_quality_mean"], 1),
        number(row["reverse_kl_mean"], 3),
        number(row["covariance_ratio_mean"], 2),
        f"{row['failed_share']:.0%} ({row['failed_low']:.0%}-{row['failed_high']:.0%})",
        number(row["steps_per_second"], 0),
        number(row["step_mb"], 1),
    )
    print(COLUMNS.format(row["method"], *cells) + "  ours", flush=True)


def picture(args: argparse.Namespace, frames: dict[str, np.ndarray]) -> bytes:
    """Samples over training: a row for each method, the data sets side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = FRAMES * len(args.data)
    figure = Figure(figsize=(1.05 * columns + 1, 1.05 * len(args.methods) + 0.3))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(args.methods), columns, squeeze=False)
    figure.subplots_adjust(0.1, 0, 1, 1 - 0.3 / figure.get_figheight(), 0.02, 0.02)
    for method, row in zip(args.methods, panels, strict=True):
        row[0].set_ylabel(method.replace("+", "\n+"), rotation=0, ha="right", va="center")
        for i, axes in enumerate(row):
            data = args.data[i // FRAMES]
            reach = 1.2 * np.abs(MIXTURES[data].centers).max()
            axes.scatter(*frames[f"{data} {method}"][i % FRAMES].T, s=1.5, lw=0, color="tab:blue")
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
    for i, axes in enumerate(panels[0]):
        axes.set_title(f"step {i % FRAMES * args.steps // (FRAMES - 1):,}", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=72)
    return file.getvalue()


if __name__ == "__main__":
    main()
