"""The reference GAN and every remedy on Fashion-MNIST: five seeds each, the same number of steps.

Printed are means and 95% intervals over the seeds (Student's t), of the last of --epochs epochs:
losses, scores, the share of the data that samples miss, their diversity; the Fréchet distance,
recall and coverage of 5,000 samples; in how many seeds the detectors saw which failure. Means are
over the n seeds that have not diverged.

The reference has learning rates of 1e-3 and b1 of 0.9. Some methods have slow rates: 2e-4, with b1
of 0.5. Their names end with "slow rates". They stand beside the row "slow rates", the reference
with these rates and no remedy.

--method trains a method of your own: 'NAME: FIELD=VALUE ...', fields of GANConfig that differ from
those of the reference.

Rows are written to --json one by one; a later call trains only the rows that are missing. It takes
about an hour on two CPU cores.
"""

import argparse
import math
import statistics
from typing import Any

import harness
import jax
import numpy as np

from jaxgan import GANConfig, data, sample, schedules
from jaxgan.adversarial import diagnostics
from jaxgan.data.pixels import to_uint8
from jaxgan.history import finite_members, mean_interval
from jaxgan.metrics import evaluation

SLOW = harness.both(lr=2e-4, b1=0.5)
STABLE = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, **SLOW}
METHODS: dict[str, dict[str, Any]] = {
    "reference": {},
    "minimax": {"loss": "minimax"},
    "hinge": {"loss": "hinge"},
    "least squares": {"loss": "least_squares"},
    "WGAN": {"loss": "wasserstein", "weight_clip": 0.05, "disc_steps": 5},
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
    "WGAN-GP+slow rates": {
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "disc_steps": 5,
        **SLOW,
    },
    "relativistic+R1+R2+slow rates": STABLE,
    "relativistic+R1+R2+EMA+slow rates": {**STABLE, "ema_decay": 0.999},
}
"""Fields of GANConfig in which each method differs from the reference."""
SHOWN = 2
"""Samples of each seed in the picture."""
BATCH = 128
MEASURED = ("gen_loss", "disc_loss", "real_score", "fake_score", "missed", "diversity")
SCORES = ("fd", "recall", "coverage")
COLUMNS = (
    f"method method, {', '.join(f'{name} {name}' for name in MEASURED + SCORES)}, "
    "steps_per_second steps/s, alarms alarms (seeds), n n, diverged diverged"
)


def main() -> None:
    args = parse()
    header = harness.about()
    images = data.load(args.dataset, data_dir=args.data_dir).images
    print(f"{args.seeds} seeds, {args.epochs} epochs of {args.dataset}")
    print("mean ± half of its 95% interval, of the last epoch; n seeds have not diverged")
    rows = harness.Rows(args.json, header, ("method",), list(METHODS))
    wanted = {method: settings(method, images, args) for method in args.methods}
    found = rows.complete(
        wanted,
        lambda method, work: train_row(method, load_real(args), args, work),
        args.seeds * count_steps(images, args),
    )
    print(harness.table(COLUMNS, [row | {"n": row["fd"]["n"]} for row in found]))
    if args.picture and (samples := rows.samples(found)):
        harness.save_picture(args.picture, harness.draw_rows(samples))


def parse() -> argparse.Namespace:
    parser = harness.make_parser(__doc__, "remedies.json", "any", seeds=5, epochs=10)
    fields = "the reference, with other values of fields of GANConfig"
    harness.add_methods(parser, "--methods", METHODS, fields)
    args = parser.parse_args()
    args.fields = harness.define_methods(
        parser, args, "methods", METHODS, lambda own: harness.parse_fields(GANConfig(), own)
    )
    return args


def load_real(args: argparse.Namespace) -> evaluation.Reference:
    dataset = data.load(args.dataset, data_dir=args.data_dir)
    return evaluation.make_reference(evaluation.make_extractor(dataset), dataset, None)


def count_steps(images: np.ndarray, args: argparse.Namespace) -> int:
    return args.epochs * math.ceil(len(images) / BATCH)


def make_config(method: str, images: np.ndarray, args: argparse.Namespace) -> GANConfig:
    steps = count_steps(images, args)
    fields: dict[str, Any] = {
        name: value.format(steps=steps) if isinstance(value, str) else value
        for name, value in args.fields[method].items()
    }
    return schedules.over(GANConfig(image_shape=images.shape[1:], **fields), steps)


def settings(method: str, images: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    config = make_config(method, images, args)
    more = {"dataset": args.dataset, "epochs": args.epochs, "seeds": args.seeds}
    return harness.settings(config, **more, method=method)


def train_row(
    method: str, real: evaluation.Reference, args: argparse.Namespace, work: harness.Progress
) -> tuple[dict, np.ndarray]:
    """Trains a population: its row, and SHOWN samples of each member."""
    config = make_config(method, real.images, args)
    options: Any = {"epochs": args.epochs, "batch_size": BATCH}
    run = harness.train(config, real.images, range(args.seeds), work=work, **options)
    row: dict[str, Any] = {"method": method, "seeds": args.seeds}
    if run is None:
        nothing = {name: mean_interval([]) for name in (*MEASURED, *SCORES)}
        row |= {"diverged": args.seeds, **nothing, "alarms": {}, "steps_per_second": None}
        return row, np.zeros((args.seeds * SHOWN, *config.image_shape), np.uint8)
    # Samples are not measured in every epoch.
    last, members = {k: v for row in run.history for k, v in row.items()}, harness.members(run)
    scores = [scores_of(state, real) for state in members]
    found = [{f.name for f in member} for member in diagnostics.diagnose(run.history).findings]
    row |= {
        "diverged": int((~finite_members(last)).sum()),
        **{name: mean_interval(last.get(name, [])) for name in MEASURED},
        **{name: mean_interval([score[name] for score in scores]) for name in SCORES},
        "alarms": {n: sum(n in names for names in found) for n in sorted(set().union(*found))},
        "steps_per_second": statistics.median(row["steps_per_second"] for row in run.history),
    }
    drawn = [sample(state, jax.random.key(1), SHOWN) for state in members]
    return row, to_uint8(np.concatenate(drawn))


def scores_of(state: Any, real: evaluation.Reference) -> dict[str, float]:
    """SCORES of samples, by their short names; NaN if the state has diverged."""
    found = evaluation.evaluate_in_training(
        real, lambda rng, n: sample(state, rng, n), jax.random.key(2)
    )
    short = {name.partition("(")[0]: value for name, value in found.items()}
    return {name: short[name] for name in SCORES}


if __name__ == "__main__":
    harness.main(main)
