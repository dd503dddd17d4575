"""Every method on the two mixtures of Gaussians: how many modes it captures, and how well.

Each method trains ten seeds on `ring` (8 modes) and on `grid` (25 modes), with the same networks
and as many steps. Scores are those of 2,500 samples of each seed (jaxgan/metrics/modes.py). Beside
them stand published numbers, which were measured with other networks, and those of chance: points
spread over the same region, without its modes.

The networks: three layers of 128 units each. Both are made for mixtures. The discriminator gets the
points and 64 fixed random Fourier features of them. The hidden biases of the generator start
uniform in [-0.5, 0.5], and its latents are doubled. PacGAN's networks have none of this.

The learning rates of each method are tuned for each data set: both are multiplied by 1/4, 1/2, 1
and 2, and each factor trains the seeds 100 and 101 for half of the steps. The best factor has the
most modes, then the highest quality, then the smallest reverse KL. A row has the factor and the
scores of all four. Its own seeds are 0, 1, ... with all steps.

"unrolled 0" is a control: the GAN with the rates of the unrolled GANs, without unrolling. Its
factor is tuned too. PacGAN4 has packs of 4 as in its paper. But its steps have 32 packs, so that
all methods see as many points. Those of the paper's program have 100 packs, and there are 38 times
as many.

modes, % quality, rev KL, round: means over the n seeds, ± half of the 95% interval of the mean
(Student's t). round: the covariance ratio of the worst mode, 1 if it is round. lost a mode: the
share of such seeds; from, to: its 95% interval (Wilson). lr x: the factor. MB: the memory of a
compiled step.

--method trains a method of your own: 'NAME: FIELD=VALUE ...', fields of GANConfig that differ from
those of "GAN". Its learning rates are tuned like those of the others.

Rows are written to --json one by one; a later call trains only the rows that are missing. A data
set takes about two hours on a CPU core (NPROC=1, with --data), or less than five minutes with
--quick.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import both

from jaxgan import MODELS, GANConfig, GANState, create_state, loop, sample, schedules, train_step
from jaxgan.data.mixtures import MIXTURES, POINTS, load
from jaxgan.errors import NonFiniteError
from jaxgan.history import mean_interval
from jaxgan.metrics.modes import ModeScores, mode_scores
from jaxgan.run import population, sweep

SAMPLES = 2_500
"""Of each seed, as in the published tables."""
FRAMES = 6
"""Moments of the training in the picture: the start, the end and some between."""
SHOWN = 500
"""Samples in a panel of the picture."""
ROUNDS, STRETCH = 9, 200
"""Rounds of --rates, and steps of each method in a round."""

RATES = ("generator_lr", "discriminator_lr")
FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of both learning rates of a method."""
TUNING_SEEDS = (100, 101)
"""Other seeds than those of the rows, if these are at most 100."""
RANKED = ("modes", "high_quality", "reverse_kl")
"""The scores that choose a factor, the first one first."""

PENALTIES = {"r1": "{r1}", "r2": "{r1}"}
UNROLLED = {**both(b1=0.5, b2=0.999), "generator_lr": 1e-3, "discriminator_lr": 1e-4}
"""The rates of the program of arXiv 1611.02163. With those of the other methods it loses nearly all
modes of the ring."""
METHODS: dict[str, dict[str, Any]] = {
    "GAN": {},
    "minimax": {"loss": "minimax"},
    "WGAN": {"loss": "wasserstein", "weight_clip": 0.1, "disc_steps": 5},
    "WGAN-GP": {"loss": "wasserstein", "gradient_penalty": 0.1, "disc_steps": 5},
    "unrolled 0": UNROLLED,
    "unrolled 5": {"unroll_steps": 5, **UNROLLED},
    "PacGAN2": {"pac": 2},
    "PacGAN4": {"pac": 4},
    "R1": {"r1": "{r1}"},
    "R1+R2": PENALTIES,
    "instance noise": {"instance_noise": "{noise}"},
    "relativistic+R1+R2": {"loss": "relativistic", **PENALTIES},
    "relativistic+R1+R2+EMA": {"loss": "relativistic", **PENALTIES, "ema_decay": 0.99},
}
"""Fields of GANConfig that each method has beside those of SHARED."""
FIXED = ("generator_widths", "discriminator_widths", "discriminator_dropout", *sweep.OF_DATA)
"""Fields that a method cannot have: the networks and the data are the same for all."""
QUICK = ("GAN", "PacGAN2", "relativistic+R1+R2+EMA")


class Generator(nn.Module):
    """Three layers of 128 tanh.

    Saturated units make plateaus with steep walls between them. A point on a wall lies between two
    modes. The initial kernels and biases saturate some units of the first layers.
    """

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        x = 2 * latents
        for _ in range(3):
            x = nn.tanh(nn.Dense(128, bias_init=uniform)(x))
        return nn.Dense(2)(x).reshape(-1, 1, 1, 2)


class Discriminator(nn.Module):
    """Three layers of 128 LeakyReLU(0.2), on the points and 32 sine waves of them.

    The modes are small beside their distances. Layers alone are slow to learn such detail (arXiv
    2006.10739).
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
    **both(lr=2e-3, b1=0.0, b2=0.99),
    "lr_scale": "cosine:1:0:{steps}",
}
"""The fields of every method."""
ANNEALED = {
    "ring": {"r1": "cosine:1:0.001:{steps}", "noise": "cosine:0.1:0:{steps}"},
    "grid": {"r1": "cosine:1:0.001:{steps}", "noise": "cosine:0.3:0:{steps}"},
}
"""The weights of R1 and R2, and the deviation of the noise: the two sets have other distances."""

VEEGAN, GDPP, PAC = (
    "VEEGAN's nets (arXiv 1705.07761)",
    "VEEGAN's nets (GDPP, arXiv 1812.00068)",
    "PacGAN's nets, 10 seeds (arXiv 1712.04086)",
)
PUBLISHED = (
    # Method and set-up; modes, % of high quality, reverse KL if it was given.
    ("GAN", VEEGAN, {"ring": (1, 99.3, None), "grid": (3.3, 0.5, None)}),
    ("unrolled 5", VEEGAN, {"ring": (7.6, 35.6, None), "grid": (23.6, 16, None)}),
    ("VEEGAN", VEEGAN, {"ring": (8, 52.9, None), "grid": (24.6, 40, None)}),
    ("WGAN-GP", GDPP, {"ring": (6.8, 59.6, None), "grid": (24.2, 28.7, None)}),
    ("GDPP", GDPP, {"ring": (8.0, 71.7, None), "grid": (24.8, 68.5, None)}),
    ("GAN", PAC, {"ring": (6.3, 98.2, None), "grid": (17.3, 94.8, None)}),
    ("PacGAN2", PAC, {"ring": (7.9, 95.6, None), "grid": (23.8, 91.3, None)}),
    ("PacGAN4", PAC, {"ring": (7.8, 95.9, 0.07), "grid": (24.8, 93.6, 0.04)}),
)
COLUMNS = (
    "method method, modes modes, high_quality % quality, reverse_kl rev KL, "
    "covariance_ratio round, failed_share lost a mode, failed_low from, failed_high to, "
    "factor lr x, steps_per_second steps/s, step_mb MB, of of"
)


def main() -> None:
    args = parse()
    header = harness.about()
    print(f"{args.seeds} seeds, {args.steps} steps of {args.batch_size} points, {SAMPLES} samples")
    print(f"mean ± half of its 95% interval, n={args.seeds}")
    order = [f"{data} {method}" for data in MIXTURES for method in METHODS]
    rows = harness.Rows(args.json, header, ("data", "method"), order)
    wanted = {f"{d} {m}": settings(d, m, args) for d in args.data for m in args.methods}
    tuning = len(FACTORS) * len(TUNING_SEEDS) * half_as_long(args).steps

    def train_one(name: str, work: harness.Progress) -> tuple[dict, np.ndarray]:
        data, method = name.split(" ", 1)
        return train_row(data, method, args, work)

    found = rows.complete(wanted, train_one, tuning + args.seeds * args.steps)
    if args.rates:
        rates = measured_rates(args)
        for row in found:
            row["steps_per_second"] = rates[row["method"]]
        rows.content["rates"] = header
        rows.write()
    for data in args.data:
        print(f"\n{data}: {len(MIXTURES[data].centers)} modes")
        print(table(data, [row for row in found if row["data"] == data], args.seeds))
    if args.picture and (samples := rows.samples(found)):
        harness.save_picture(args.picture, draw(args, samples), dpi=72)


def parse() -> argparse.Namespace:
    parser = harness.make_parser(__doc__, "mixtures.json", seeds=10, steps=10_500, batch_size=128)
    parser.add_argument("--data", choices=[*MIXTURES], help="default: both")
    fields = "GAN, with other values of fields of GANConfig"
    harness.add_methods(parser, "--methods", METHODS, fields)
    text = f"other defaults: 2 seeds, 1,000 steps, {', '.join(QUICK)}, mixtures_quick.json"
    parser.add_argument("--quick", action="store_true", help=text)
    parser.add_argument(
        "--rates",
        action="store_true",
        help="then measure the steps/s of all methods again, in turns; nothing else should run",
    )
    if parser.parse_args().quick:
        quick = harness.RUNS / "mixtures_quick.json"
        parser.set_defaults(seeds=2, steps=1_000, methods=list(QUICK), json=quick)
    args = parser.parse_args()
    args.data = [args.data] if args.data else [*MIXTURES]
    # An epoch for each frame, also in half of the steps; a batch of four packs.
    least, most = 2 * (FRAMES - 1), POINTS // 4
    if args.steps < least or not 4 <= args.batch_size <= most:
        parser.error(f"--steps must be {least} or more, --batch-size from 4 to {most}")
    args.steps = math.prod(epochs_and_steps(args))
    args.fields = METHODS
    plain = make_config("ring", "GAN", args)
    args.fields = harness.define_methods(
        parser, args, "methods", METHODS, lambda own: harness.parse_fields(plain, own, FIXED)
    )
    return args


def epochs_and_steps(args: argparse.Namespace) -> tuple[int, int]:
    """The number of epochs, each of whole batches, and of steps in each. Frames end some epochs."""
    epochs = (FRAMES - 1) * math.ceil(args.steps / (FRAMES - 1) / (POINTS // args.batch_size))
    return epochs, round(args.steps / epochs)


def make_config(data: str, method: str, args: argparse.Namespace) -> GANConfig:
    annealed = {k: v.format(steps=args.steps) for k, v in ANNEALED[data].items()}
    fields: dict[str, Any] = {
        name: value.format(steps=args.steps, **annealed) if isinstance(value, str) else value
        for name, value in (SHARED | args.fields[method]).items()
    }
    config = GANConfig(image_shape=(1, 1, 2), bounded=False, **fields)
    return schedules.over(config, args.steps)


def settings(data: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    config = make_config(data, method, args)
    tuning = {"factors": FACTORS, "seeds": TUNING_SEEDS, "steps": half_as_long(args).steps}
    numbers = {"steps": args.steps, "batch_size": args.batch_size, "seeds": args.seeds}
    return harness.settings(config, **numbers, tuning=tuning)


def train_row(
    data: str, method: str, args: argparse.Namespace, work: harness.Progress
) -> tuple[dict, np.ndarray]:
    """Trains a population: its row, and the samples of the first member `[FRAMES, SHOWN, 2]`."""
    factor, candidates = tune(data, method, args, work)
    config = make_config(data, method, args)
    config = dataclasses.replace(config, **multiplied_rates(config, factor))
    epochs, _ = epochs_and_steps(args)
    frames, rates = [points_of(create_state(loop.make_rngs(0).init, config))], []

    def on_epoch(run: loop.Run) -> None:
        rates.append(run.history[-1]["steps_per_second"])
        if len(run.history) % (epochs // (FRAMES - 1)) == 0:
            frames.append(points_of(population.member(run.state, 0)))

    members = train(config, data, args, range(args.seeds), on_epoch=on_epoch, work=work)
    frames += [members[0]] * (FRAMES - len(frames))  # if all have diverged
    row = {"data": data, "method": method, "seeds": args.seeds, **sum_up(members, data)}
    row |= {
        "factor": factor,
        "candidates": candidates,
        "steps_per_second": statistics.median(rates) if rates else None,
        "step_mb": step_megabytes(config, args.batch_size),
    }
    shown = np.stack([np.asarray(frame)[:SHOWN] for frame in frames]).astype(np.float16)
    return row, shown


def tune(
    data: str, method: str, args: argparse.Namespace, work: harness.Progress | None = None
) -> tuple[float, list[dict[str, Any]]]:
    """The best of FACTORS, and the scores of each with each of TUNING_SEEDS."""
    args = half_as_long(args)
    config = make_config(data, method, args)
    factors, seeds = zip(*itertools.product(FACTORS, TUNING_SEEDS), strict=True)
    rates = [multiplied_rates(config, factor) for factor in factors]
    sweep = {name: [each[name] for each in rates] for name in RATES}
    members = train(config, data, args, seeds, work=work, **sweep)
    scores = [score(points, data) for points in members]
    candidates = []
    for i, factor in enumerate(FACTORS):
        found = scores[i * len(TUNING_SEEDS) :][: len(TUNING_SEEDS)]
        candidate = {name: [getattr(one, name) for one in found] for name in RANKED}
        candidate["high_quality"] = [100 * share for share in candidate["high_quality"]]
        candidates.append({"factor": factor, **candidate})

    def rank(candidate: dict[str, Any]) -> tuple[float, ...]:
        modes, quality, kl = (statistics.fmean(candidate[name]) for name in RANKED)
        return modes, quality, -kl

    return max(candidates, key=rank)["factor"], candidates


def half_as_long(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with half of the steps."""
    half = argparse.Namespace(**vars(args) | {"steps": args.steps // 2})
    half.steps = math.prod(epochs_and_steps(half))
    return half


def multiplied_rates(config: GANConfig, factor: float) -> dict[str, float]:
    return {name: factor * getattr(config, name) for name in RATES}


def train(
    config: GANConfig,
    data: str,
    args: argparse.Namespace,
    seeds: Sequence[int],
    work: harness.Progress | None = None,
    **options: Any,
) -> list[np.ndarray]:
    """Trains a population: the samples `[SAMPLES, 2]` of each member, NaN if all have diverged."""
    epochs, per_epoch = epochs_and_steps(args)
    points = load(data, "train").images[: per_epoch * args.batch_size]

    def count(run: loop.Run) -> dict[str, Any]:
        if work is not None:
            work.add(len(seeds) * per_epoch)
        return {}

    options |= {"epochs": epochs, "batch_size": args.batch_size, "devices": 1}
    options |= {"measure": count, "progress": work is None}
    try:
        run = population.train_population(MODELS["gan"], config, points, seeds, **options)
    except NonFiniteError:
        return [np.full((SAMPLES, 2), np.nan)] * len(seeds)
    # One after the other, in one program: all at once may need more memory than training.
    return list(np.asarray(jax.jit(functools.partial(jax.lax.map, points_of))(run.state)))


@jax.jit
def points_of(state: GANState) -> jax.Array:
    """Samples `[SAMPLES, 2]`."""
    return sample(state, jax.random.key(1), SAMPLES).reshape(SAMPLES, 2)


def score(points: np.ndarray, data: str) -> ModeScores:
    """The scores of samples. Those that diverged have no modes and the largest possible KL."""
    mixture = MIXTURES[data]
    if not np.isfinite(points).all():
        return ModeScores(0, 0.0, math.log(len(mixture.centers)), 0.0)
    return mode_scores(points, mixture)


def sum_up(members: list[np.ndarray], data: str) -> dict[str, Any]:
    """The scores of the samples `[SAMPLES, 2]` of all seeds."""
    scores = [score(points, data) for points in members]
    modes, quality, kl, ratio = zip(*scores, strict=True)
    lost = sum(number < len(MIXTURES[data].centers) for number in modes)
    low, high = harness.share_interval(lost, len(scores))
    return {
        "modes": mean_interval(modes),
        "modes_worst": min(modes),
        "high_quality": mean_interval([100 * share for share in quality]),
        "high_quality_worst": 100 * min(quality),
        "reverse_kl": mean_interval(kl),
        "covariance_ratio": mean_interval(ratio),
        "failed_share": lost / len(scores),
        "failed_low": low,
        "failed_high": high,
    }


def chance(data: str, seeds: int) -> dict[str, Any]:
    """The scores of points that know the extent of the data but not its modes."""

    def circle(rng: np.random.Generator) -> np.ndarray:
        angles = rng.uniform(0, 2 * np.pi, SAMPLES)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def square(rng: np.random.Generator) -> np.ndarray:
        edge = np.abs(MIXTURES[data].centers).max() + 0.5
        return rng.uniform(-edge, edge, (SAMPLES, 2))

    method, draw = ("circle", circle) if data == "ring" else ("uniform noise", square)
    members = [draw(np.random.default_rng(seed)) for seed in range(seeds)]
    return {"method": method, **sum_up(members, data), "of": "chance"}


def measured_rates(args: argparse.Namespace) -> dict[str, float]:
    """Steps per second of one GAN of each method, in turns; medians over the rounds."""
    data = args.data[0]
    steps = min(STRETCH, POINTS // args.batch_size)
    points = load(data, "train").images[: steps * args.batch_size]

    def make_program(method: str):
        state = create_state(jax.random.key(0), make_config(data, method, args))
        train = harness.make_trainer(state, points, args.batch_size)
        return lambda: steps / train(1)

    programs = {method: make_program(method) for method in args.methods}
    harness.in_turns(programs, 1, "compiling: ")
    rates = harness.in_turns(programs, ROUNDS)
    return {method: statistics.median(values) for method, values in rates.items()}


def step_megabytes(config: GANConfig, batch_size: int) -> float | None:
    """The memory of the compiled step of one GAN, with its state and batch."""
    rng = jax.random.key(0)
    state = jax.eval_shape(functools.partial(create_state, config=config), rng)
    batch = jax.ShapeDtypeStruct((batch_size, *config.image_shape), jnp.float32)
    analysis = jax.jit(train_step).lower(state, batch, rng).compile().memory_analysis()
    if analysis is None:
        return None
    return (analysis.argument_size_in_bytes + analysis.temp_size_in_bytes) / 1e6


def table(data: str, rows: list[dict[str, Any]], seeds: int) -> str:
    """The published rows, chance, and ours."""
    keys = ("method", "of", *RANKED)
    published: list[dict[str, Any]] = [
        dict(zip(keys, (method, of, *numbers[data]), strict=True))
        for method, of, numbers in PUBLISHED
    ]
    ours = [row | {"of": "ours"} for row in rows]
    return harness.table(COLUMNS, [*published, chance(data, seeds), *ours])


def draw(args: argparse.Namespace, samples: dict[str, np.ndarray]):
    """A figure of samples over training: a row for each method, the data sets side by side."""
    from matplotlib.figure import Figure

    methods = [m for m in args.methods if any(f"{data} {m}" in samples for data in args.data)]
    columns = FRAMES * len(args.data)
    figure = Figure(figsize=(1.05 * columns + 1, 1.05 * len(methods) + 0.3))
    panels = figure.subplots(len(methods), columns, squeeze=False)
    figure.subplots_adjust(0.1, 0, 1, 1 - 0.3 / figure.get_figheight(), 0.02, 0.02)
    for method, row in zip(methods, panels, strict=True):
        row[0].set_ylabel(method.replace("+", "\n+"), rotation=0, ha="right", va="center")
        for i, axes in enumerate(row):
            data = args.data[i // FRAMES]
            reach = 1.2 * np.abs(MIXTURES[data].centers).max()
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
            frames = samples.get(f"{data} {method}")
            if frames is not None:
                axes.scatter(*frames[i % FRAMES].T, s=1.5, lw=0, color="tab:blue")
    for i, axes in enumerate(panels[0]):
        axes.set_title(f"step {i % FRAMES * args.steps // (FRAMES - 1):,}", fontsize=8)
    return figure


if __name__ == "__main__":
    harness.main(main)
