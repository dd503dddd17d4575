"""The reference GAN and every remedy on Fashion-MNIST: five seeds each, equal steps.

Rows are written to --json one by one, with samples beside it in an .npz; given again, the command
goes on with the rows that are missing. About an hour on two CPU cores.
"""

import argparse
import io
import json
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from steps_per_second import machine

from jaxgan import GANConfig, GANState, data, diagnostics, evaluation, plots, population, sample
from jaxgan.checkpoint import write_atomically
from jaxgan.errors import NonFiniteError
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.neighbours import prdc

PENALTIES = {"r1": 1.0, "r2": 1.0}
SLOW = {
    "generator_lr": 2e-4,
    "discriminator_lr": 2e-4,
    "generator_b1": 0.5,
    "discriminator_b1": 0.5,
}
METHODS: dict[str, dict[str, Any]] = {
    "reference": {},
    "minimax": {"loss": "minimax"},
    "hinge": {"loss": "hinge"},
    "least squares": {"loss": "least_squares"},
    "WGAN": {"loss": "wasserstein", "weight_clip": 0.05, "disc_steps": 5},
    "WGAN-GP": {"loss": "wasserstein", "gradient_penalty": 10.0, "disc_steps": 5, **SLOW},
    "label smoothing": {"label_smoothing": 0.1},
    "alternating": {"updates": "alternating"},
    "unrolled 5": {"unroll_steps": 5},
    "PacGAN2": {"pac": 2},
    "instance noise": {"instance_noise": "linear:0.3:0:{steps}"},
    "R1": {"r1": 1.0},
    "DRAGAN": {"dragan": 1.0},
    "Roth": {"roth": 0.1},
    "weight penalty": {"weight_penalty": 1e-4},
    "spectral norm": {"spectral_norm": True},
    "EMA": {"ema_decay": 0.999},
    "slow rates": SLOW,
    "relativistic+R1+R2": {"loss": "relativistic", **PENALTIES, **SLOW},
    "relativistic+R1+R2+EMA": {
        "loss": "relativistic",
        **PENALTIES,
        **SLOW,
        "ema_decay": 0.999,
    },
}
"""What each has beside the reference, as fields of GANConfig."""
SHOWN = 2
"""Samples of each seed in the picture."""
BATCH = 128
MEASURED = ("gen_loss", "disc_loss", "real_score", "fake_score", "diversity")
JUDGED = ("fd", "recall", "coverage")
SCORED = 5_000
"""Samples of each seed that are judged, against as many training images."""


class Real(NamedTuple):
    images: np.ndarray
    extractor: evaluation.Extractor
    features: np.ndarray
    """Of SCORED of the images, or of all if there are less."""


def main() -> None:
    args = parse()
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    real = load_real(args)
    print(f"{args.seeds} seeds, {args.epochs} epochs of {args.dataset}; means of the last epoch")
    print(f"{', '.join(JUDGED)}: ({real.extractor.name}, train, n={len(real.features)})")
    rows = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
    path = args.json.with_suffix(".npz")
    pictures: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    print_header()
    for method in args.methods:
        row = next((r for r in rows if r["settings"] == settings(method, real.images, args)), None)
        if row is None:
            row, pictures[method] = train_row(method, real, args)
            rows = [r for r in rows if r["method"] != method] + [row]
            rows.sort(key=lambda row: [*METHODS].index(row["method"]))
            file = io.BytesIO()
            np.savez_compressed(file, **pictures)
            # First: a row that is there has its pictures.
            write_atomically(path, file.getvalue())
            write_atomically(args.json, json.dumps(about | {"rows": rows}, indent=2) + "\n")
        print_row(row)
    if args.picture:
        write_atomically(args.picture, picture(args.methods, pictures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    add_data_options(parser)
    parser.add_argument("--json", type=Path, default=Path("runs/remedies.json"), help="the rows")
    parser.add_argument("--picture", type=Path, help="write samples of each method to this PNG")
    args = parser.parse_args()
    args.methods = args.methods.split(",") if args.methods else [*METHODS]
    for method in args.methods:
        if method not in METHODS:
            parser.error(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    if args.seeds < 1 or args.epochs < 1:
        parser.error("--seeds and --epochs must be above 0")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    return args


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="fashion_mnist", help="default: %(default)s")
    parser.add_argument("--data-dir", help="where it is; else $JAXGAN_DATA_DIR")


def load_real(args: argparse.Namespace) -> Real:
    dataset = data.load(args.dataset, data_dir=args.data_dir)
    extractor = evaluation.make_extractor(dataset)
    reference = evaluation.make_reference(extractor, dataset, None)
    return Real(dataset.images, extractor, reference.train.features[:SCORED])


def make_config(method: str, images: np.ndarray, args: argparse.Namespace) -> GANConfig:
    steps = args.epochs * math.ceil(len(images) / BATCH)
    fields = {
        name: value.format(steps=steps) if name == "instance_noise" else value
        for name, value in METHODS[method].items()
    }
    return GANConfig(image_shape=images.shape[1:], **fields)


def settings(method: str, images: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    reference = vars(GANConfig())
    fields = vars(make_config(method, images, args))
    described = {name: value for name, value in fields.items() if value != reference[name]}
    described |= {"dataset": args.dataset, "epochs": args.epochs, "seeds": args.seeds}
    # As they come back from the file.
    return json.loads(json.dumps(described | {"method": method}))


def train_row(method: str, real: Real, args: argparse.Namespace) -> tuple[dict, np.ndarray]:
    """Trains a population: its row, and SHOWN samples of each member."""
    config, seeds = make_config(method, real.images, args), list(range(args.seeds))
    options: dict[str, Any] = {"epochs": args.epochs, "batch_size": BATCH, "devices": 1}
    row = {"method": method, "seeds": args.seeds, "settings": settings(method, real.images, args)}
    try:
        run = population.train_population(config, real.images, seeds, **options)
    except NonFiniteError:  # all of them: a row like any other
        nothing = {name: spread([]) for name in (*MEASURED, *JUDGED)}
        row |= {"diverged": args.seeds, **nothing, "alarms": {}, "steps_per_second": None}
        return row, np.zeros((args.seeds * SHOWN, *config.image_shape), np.uint8)
    findings = diagnostics.diagnose_members(run.history)
    names = sorted({finding.name for of_one in findings for finding in of_one})
    members = [population.member(run.state, i) for i in range(args.seeds)]
    scores = [judged(state, real) for state in members]
    row |= {
        "diverged": int((~population.sound(run.history[-1])).sum()),
        **{name: spread(run.history[-1][name]) for name in MEASURED},
        **{name: spread([score[name] for score in scores]) for name in JUDGED},
        "alarms": {n: sum(any(f.name == n for f in of_one) for of_one in findings) for n in names},
        "steps_per_second": statistics.median(row["steps_per_second"] for row in run.history),
    }
    drawn = [sample(state, jax.random.key(1), SHOWN) for state in members]
    return row, plots.to_uint8(np.concatenate(drawn))


def judged(state: GANState, real: Real) -> dict[str, float]:
    """The scores of as many samples as there are real features."""
    try:
        images = evaluation.draw(state, jax.random.key(2), len(real.features))
    except NonFiniteError:
        return dict.fromkeys(JUDGED, math.nan)
    features = real.extractor.see(images).features
    balls = prdc(real.features, features)
    return {
        "fd": frechet_distance(real.features, features),
        "recall": balls.recall,
        "coverage": balls.coverage,
    }


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and standard deviation over the seeds that have not diverged."""
    sound = [value for value in values if math.isfinite(value)]
    if not sound:
        return {"mean": None, "sd": None}
    return {
        "mean": statistics.mean(sound),
        "sd": statistics.stdev(sound) if len(sound) > 1 else None,
    }


COLUMNS = "{:24}" + " {:>13}" * len(MEASURED + JUDGED) + " {:>8}  {}"


def print_header() -> None:
    print(COLUMNS.format("method", *MEASURED, *JUDGED, "steps/s", "alarms (seeds)"))


def print_row(row: dict[str, Any]) -> None:
    cells = []
    for name in (*MEASURED, *JUDGED):
        mean, sd = row[name]["mean"], row[name]["sd"]
        cells.append("-" if mean is None else f"{mean:.2f}" + (f" +- {sd:.2f}" if sd else ""))
    alarms = [f"{name} {count}" for name, count in row["alarms"].items()]
    alarms += [f"{row['diverged']} diverged"] if row["diverged"] else []
    rate = row["steps_per_second"]
    rate = "-" if rate is None else f"{rate:.0f}"
    print(COLUMNS.format(row["method"], *cells, rate, ", ".join(alarms) or "none"), flush=True)


def picture(methods: list[str], pictures: dict[str, np.ndarray]) -> bytes:
    """Samples of each seed, a row for each method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(pictures[methods[0]])
    figure = Figure(figsize=(0.6 * columns + 2, 0.6 * len(methods)))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(methods), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(2 / figure.get_figwidth(), 0, 1, 1, 0, 0.02)
    for method, axes in zip(methods, panels, strict=True):
        axes.imshow(plots.image_grid(pictures[method], columns), cmap="gray", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(method, rotation=0, ha="right", va="center", fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()


if __name__ == "__main__":
    main()
