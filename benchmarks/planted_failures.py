"""Does `jaxgan.adversarial.diagnostics` see failures that are there, and no others?

lost modes: real images of only k modes or classes stand in for samples. In how many of 50 trials
does what they miss (`jaxgan.metrics.parts`) count as mode collapse?

Dirac GAN: the two numbers circle around their equilibrium for ever; with R1 they reach it. In how
many seeds is no convergence seen, by the learning rate? The period falls with the rate.

runs: GANs, each trained from several seeds. A run is healthy by a score that no detector uses: on
mixtures all modes and more than 90% of high quality, on images a coverage of more than
half of that of real images. An alarm in a healthy run is false.

verdicts: what `jaxgan.report.verdict` says at the end of these runs. It is right if it is the
planted failure, or healthy exactly if the run is. The verdict sees scores too, of other samples
and of other real images than those that decide here whether a run is healthy.

The thresholds were chosen on seeds below 2,000; this benchmark takes seeds from 2,000 on. Intervals
are 95% (Wilson). It takes about an hour on two CPU cores. Fashion-MNIST needs its files.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import both

from jaxgan import MODELS, PRESETS, GANConfig, TrainConfig, data, sample, schedules
from jaxgan.adversarial import diagnostics
from jaxgan.data.mixtures import MIXTURES, RING
from jaxgan.data.pixels import to_float
from jaxgan.history import member_history
from jaxgan.metrics import evaluation, parts
from jaxgan.metrics.modes import ModeScores, mode_scores
from jaxgan.report import verdict

FAILURES = ("vanishing gradients", "mode collapse", "no convergence")
LOST = "data data, kept kept, seen seen, low from, high to, missed missed"
ORBITS = "updates updates, r1 R1, rate rate, period period, seen seen, of of"
RUNS = (
    "case case, healthy healthy, false false alarms, unhealthy unhealthy, alarms alarms, "
    "verdicts verdicts"
)
RATES_OF = "truth truth, right right, of of, low from, high to"
FIRST_SEED = 2_000
KEPT = {
    "ring": (8, 7, 6, 5, 4, 3, 2, 1),
    "grid": (25, 24, 23, 22, 20, 15, 10, 5),
    "digits": (10, 9, 8, 7, 5, 3, 1),
    "fashion_mnist": (10, 9, 8, 7, 5, 3, 1),
}
"""For each data set, how many modes or classes samples are drawn from."""
TRIALS = 50
"""Random choices of modes for each number of them."""
DIRAC_STEPS = 20_000
RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def main() -> None:
    parser = harness.make_parser(__doc__, seeds=5)
    text = f"some of: {'; '.join(CASES)} (default: all)"
    parser.add_argument(
        "--cases", nargs="+", choices=[*CASES], default=[*CASES], metavar="CASE", help=text
    )
    parser.add_argument("--data-dir", help="the folder of the data; default: $JAXGAN_DATA_DIR")
    args = parser.parse_args()
    header = harness.about()
    lost = [row for name, kept in KEPT.items() for row in lost_modes(name, kept, args.data_dir)]
    print(harness.table(LOST, lost))
    dirac = [dirac_row(*one, seeds=args.seeds) for one in dirac_cases()]
    print(harness.table(ORBITS, dirac))
    runs = []
    for name in args.cases:
        harness.note(f"training {name}")
        runs.append({"case": name, **measure(CASES[name], args.seeds, args.data_dir)})
        harness.write_json(args.json, header | {"lost": lost, "dirac": dirac, "runs": runs})
    print(harness.table(RUNS, runs))
    healthy, false = (sum(row[name] for row in runs) for name in ("healthy", "false"))
    sums = {"healthy": healthy, "false_alarms": false, "interval": interval(false, healthy)}
    print(f"{false} false alarms in {healthy} healthy runs, 95% interval {sums['interval']}")
    sums["verdicts"] = verdict_rates(runs)
    print(harness.table(RATES_OF, sums["verdicts"]))
    harness.write_json(args.json, header | sums | {"lost": lost, "dirac": dirac, "runs": runs})


def verdict_rates(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often the verdict is right, for each planted failure, and by the health of other runs."""
    right: dict[str, list[bool]] = {}
    for row in runs:
        for one in row["each"]:
            state = "healthy" if one["healthy"] else "not healthy"
            truth = f"planted: {row['planted']}" if row["planted"] else state
            same = one["verdict"] == (row["planted"] or "healthy")
            right.setdefault(truth, []).append(same if truth != "not healthy" else not same)
    rows = []
    for truth, found in right.items():
        low, high = interval(sum(found), len(found))
        rows.append(
            {"truth": truth, "right": sum(found), "of": len(found), "low": low, "high": high}
        )
    return rows


def interval(count: int, n: int) -> list[float]:
    return [round(end, 3) for end in harness.share_interval(count, n)]


def lost_modes(name: str, kept: Iterable[int], data_dir: str | None) -> list[dict[str, Any]]:
    """A row for each number of modes of a mixture, or of classes of a data set."""
    if name in MIXTURES:
        points, labels = MIXTURES[name].draw(200_000, seed=1)
        images = points.reshape(-1, 1, 1, 2)
    else:
        dataset = data.load(name, data_dir=data_dir)
        images, labels = dataset.images, np.asarray(dataset.labels)
    made = parts.make_parts(images, labels)
    modes = np.unique(labels)
    rows = []
    for k in kept:
        missed = []
        for trial in range(TRIALS):
            rng = np.random.default_rng(FIRST_SEED + trial)
            chosen = np.flatnonzero(np.isin(labels, rng.permutation(modes)[:k]))
            drawn = images[rng.choice(chosen, parts.SAMPLES)]
            missed.append(float(parts.measure(made, to_float(jnp.asarray(drawn))).missed))
        seen = sum(value >= diagnostics.MISSED for value in missed)
        low, high = interval(seen, TRIALS)
        share = {"seen": seen / TRIALS, "low": low, "high": high}
        rows.append({"data": name, "kept": k, **share, "missed": harness.spread(missed)})
    return rows


class DiracGenerator(nn.Module):
    """Puts all mass on one point, theta (arXiv 1801.04406)."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        # Seeds differ in the phase: theta from -1 to 1, while psi begins with 1.
        theta = self.param("theta", lambda rng: jax.random.uniform(rng, (), minval=-1, maxval=1))
        return jnp.broadcast_to(theta, (latents.shape[0], 1, 1, 1))


class DiracDiscriminator(nn.Module):
    """Linear: its logit is psi x."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return self.param("psi", lambda _: jnp.ones(())) * images[:, 0, 0, 0]


DIRAC = GANConfig(
    (1, 1, 1),
    latent_dim=1,
    generator=DiracGenerator(),
    discriminator=DiracDiscriminator(),
    loss="minimax",
    optimizer="sgd",
    **both(lr=0.1),
)


def dirac_cases() -> list[tuple[str, float, float]]:
    """Updates, learning rates and weights of R1; with R1 the GAN converges (arXiv 1801.04406)."""
    updates = ("simultaneous", "alternating")
    return [(way, rate, r1) for r1 in (0.0, 1.0) for way in updates for rate in RATES]


def dirac_row(updates: Any, rate: float, r1: float, seeds: int) -> dict[str, Any]:
    """In how many seeds a lack of convergence of the Dirac GAN is seen."""
    config = replace(DIRAC, updates=updates, r1=r1, **both(lr=rate))
    run = train(config, origin(DIRAC_STEPS // 50), seeds, epochs=50, batch_size=1)
    found = diagnostics.diagnose(run.history).findings
    return {
        "updates": updates,
        "r1": r1,
        "rate": rate,
        # Around the equilibrium the gradients are half of the other number.
        "period": round(2 * np.pi / (0.5 * rate)),
        "seen": sum(any(f.name == FAILURES[2] for f in member) for member in found),
        "of": seeds,
    }


def digits(data_dir: str | None = None) -> data.Dataset:
    return data.load("digits", data_dir=data_dir)


def few_digits(data_dir: str | None = None) -> data.Dataset:
    all_digits = digits()
    images, labels = all_digits.images[:200], np.asarray(all_digits.labels)[:200]
    return all_digits._replace(images=images, labels=labels)


def black_and_white_digits(data_dir: str | None = None) -> data.Dataset:
    images = digits().images
    return digits()._replace(images=np.where(images > 127, 255, 0).astype(np.uint8))


def coloured_digits(data_dir: str | None = None) -> data.Dataset:
    """Each digit in a colour of its own."""
    images = digits().images
    tints = np.random.default_rng(0).uniform(0.3, 1, (len(images), 1, 1, 3))
    return digits()._replace(images=(images * tints).astype(np.uint8))


def fashion(data_dir: str | None = None) -> data.Dataset:
    return data.load("fashion_mnist", data_dir=data_dir)


def ring(data_dir: str | None = None) -> data.Dataset:
    points, modes = RING.draw(100 * 256, seed=0)
    return data.Dataset(points.reshape(-1, 1, 1, 2), modes, "ring", "train")


def whole(name: str) -> Callable[[str | None], data.Dataset]:
    """A data set as train.py loads it."""

    def load(data_dir: str | None = None) -> data.Dataset:
        return data.load(name, data_dir=data_dir)

    return load


def origin(n: int) -> data.Dataset:
    return data.Dataset(np.zeros((n, 1, 1, 1), np.float32), None, "origin", "train")


class Case(NamedTuple):
    """A GAN, and how it is trained."""

    config: GANConfig
    dataset: Callable[[str | None], data.Dataset] = ring
    epochs: int = 20
    batch_size: int = 64
    planted: str | None = None
    """The verdict on a failure that is there by construction."""
    classes: int | None = None
    """Train on the first so many classes or modes alone."""


NO_DROPOUT = (0.0, 0.0, 0.0)
STRONG = GANConfig(
    (8, 8, 1), discriminator_dropout=NO_DROPOUT, loss="minimax", discriminator_lr=1e-2
)
PLANE = GANConfig((1, 1, 2), 2, (64,) * 3, (64,) * 3, NO_DROPOUT, bounded=False)
STEADY = replace(
    PLANE, **both(b1=0.0, b2=0.99), r1=0.1, ema_decay=0.999, lr_scale="cosine:1:0:8000"
)
SMALL = GANConfig((8, 8, 1), 16, (128,) * 2, (128,) * 2, NO_DROPOUT[:2], r1=1.0, **both(b1=0.0))
PRESET_STEPS = PRESETS["tuned"][1].steps
COLOURED = replace(SMALL, image_shape=(8, 8, 3))
CASES = {
    "minimax against a strong discriminator, digits": Case(STRONG, digits, 200, 128, FAILURES[0]),
    "slow discriminator, ring": Case(replace(PLANE, discriminator_lr=2e-4), planted="collapsed"),
    "GAN, ring": Case(PLANE),
    "R1, ring": Case(STEADY),
    "R1, ring, batch 16": Case(
        replace(STEADY, lr_scale="cosine:1:0:16000"), epochs=10, batch_size=16
    ),
    "R1, ring, batch 1500": Case(
        replace(STEADY, lr_scale="cosine:1:0:3600"), epochs=200, batch_size=1500
    ),
    "relativistic, R1 and R2, ring": Case(replace(STEADY, loss="relativistic", r2=0.1)),
    "Wasserstein, R1, ring": Case(replace(STEADY, loss="wasserstein", r1=1.0)),
    "least squares, R1, ring": Case(replace(STEADY, loss="least_squares")),
    "R1, slow, digits": Case(replace(SMALL, **both(lr=1e-4)), digits, 800, 128),
    "R1, very slow, digits": Case(
        replace(SMALL, **both(lr=5e-5)), digits, 250, 128, planted="undertrained"
    ),
    "R1, digits": Case(SMALL, digits, 250, 128),
    "R1, fast, digits": Case(replace(SMALL, **both(lr=4e-3)), digits, 250, 128),
    "R1, digits, batch 4": Case(replace(SMALL, ema_decay=0.999), digits, 30, 4),
    "hinge, R1, digits": Case(replace(SMALL, loss="hinge"), digits, 250, 128),
    "label smoothing, R1, digits": Case(replace(SMALL, label_smoothing=0.1), digits, 250, 128),
    "R1, 200 digits": Case(SMALL, few_digits, 2500, 128),
    "R1, black and white digits": Case(SMALL, black_and_white_digits, 250, 128),
    "R1, coloured digits": Case(COLOURED, coloured_digits, 250, 128),
    "five of ten digits": Case(SMALL, digits, 500, 128, planted="collapsed", classes=5),
    "nine of ten digits": Case(SMALL, digits, 280, 128, planted="collapsed", classes=9),
    "six of eight modes, ring": Case(STEADY, planted="collapsed", epochs=27, classes=6),
    "R1, digits, 300 steps": Case(SMALL, digits, 25, 128, planted="undertrained"),
    "R1, ring, 800 steps": Case(STEADY, epochs=2, planted="undertrained"),
    **{
        f"{preset}, {name}, {PRESET_STEPS:,} steps": Case(
            PRESETS[preset][0], whole(name), batch_size=128, epochs=0
        )
        for name in ("digits", "ring")
        for preset in ("reference", "tuned")
    },
    "reference, Fashion-MNIST": Case(GANConfig(), fashion, 10, 128),
    "R1, Fashion-MNIST": Case(GANConfig(r1=1.0), fashion, 10, 128),
}


def train(config: GANConfig, dataset: data.Dataset, seeds: int, **options: Any) -> Any:
    """A population from FIRST_SEED on."""
    numbers = range(FIRST_SEED, FIRST_SEED + seeds)
    images, labels, *_ = dataset
    run = harness.train(config, images, numbers, labels, progress=False, **options)
    if run is None:
        raise AssertionError("all seeds have diverged")
    return run


def measure(case: Case, seeds: int, data_dir: str | None) -> dict[str, Any]:
    """A row: how many runs are healthy, which raise alarms, and what the verdicts are."""
    dataset = case.dataset(data_dir)
    images, labels = dataset.images, np.asarray(dataset.labels)
    kept = images if case.classes is None else images[labels < case.classes]
    settings = TrainConfig(epochs=case.epochs or None, batch_size=case.batch_size)
    settings = settings.fitted(len(kept))
    config = MODELS["gan"].fit_to(case.config, dataset)
    config = schedules.over(config, settings.all_steps(len(kept)))
    mixture = MIXTURES.get(dataset.name)
    score, check = scores_of_points(mixture) if mixture else scores_of_images(dataset)
    run = train(
        config,
        dataset._replace(images=kept),
        seeds,
        score=score,
        made=parts.make_parts(images, labels),
        epochs=settings.epochs,
        batch_size=case.batch_size,
    )
    found = diagnostics.diagnose(run.history)
    modes = len(mixture.centers) if mixture else None
    each = []
    for i, state in enumerate(harness.members(run)):
        history = member_history(run.history, i)
        given = verdict.give_verdict(history, diagnostics.diagnose(history), modes)
        healthy, scores = check(state)
        each.append(
            {
                "healthy": healthy and case.planted is None,
                "alarm": "+".join(f.name for f in found.findings[i]),
                "verdict": given.health,
                "score": scores,
            }
        )
    return summary(case, each) | {
        "steps": run.history[-1]["step"],
        "seconds": round(sum(row["seconds"] for row in run.history), 1),
        "caveat": found.caveat,
    }


def summary(case: Case, each: list[dict[str, Any]]) -> dict[str, Any]:
    unhealthy = [one["alarm"] or "none" for one in each if not one["healthy"]]
    verdicts = [one["verdict"] for one in each]
    return {
        "planted": case.planted,
        "healthy": sum(one["healthy"] for one in each),
        "false": sum(one["healthy"] and bool(one["alarm"]) for one in each),
        "unhealthy": len(unhealthy),
        "alarms": {name: unhealthy.count(name) for name in dict.fromkeys(unhealthy)},
        "verdicts": {name: verdicts.count(name) for name in dict.fromkeys(verdicts)},
        "each": each,
    }


Check = Callable[[Any], tuple[bool, dict[str, float]]]
"""Whether a state is healthy, and the scores that say so."""


def scores_of_points(mixture: data.Mixture) -> tuple[Any, Check]:
    """The scores for the verdict, `(state, rng) -> scores`, and the check of a run's health."""

    def score(state: Any, rng: jax.Array) -> dict[str, Any]:
        points = np.asarray(sample(state, rng, 2_500)).reshape(-1, 2)
        if not np.isfinite(points).all():
            return dict.fromkeys(ModeScores._fields, np.nan)
        return mode_scores(points, mixture)._asdict()

    def check(state: Any) -> tuple[bool, dict[str, float]]:
        found = score(state, jax.random.key(1))
        healthy = (
            found["modes"] == len(mixture.centers) and found["high_quality"] > verdict.HIGH_QUALITY
        )
        share = found["modes"] / len(mixture.centers)
        return healthy, {"coverage": share, "high_quality": found["high_quality"]}

    return score, check


def scores_of_images(dataset: data.Dataset) -> tuple[Any, Check]:
    """The same for images, by their coverage."""
    reference = evaluation.reference_in_training(dataset)
    floor = evaluation.floor_in_training(reference)
    # From the end: real images with which the verdict does not compare.
    features = reference.train.features[::-1]
    others = reference._replace(
        images=reference.images[::-1], train=reference.train._replace(features=features)
    )
    real = coverage(evaluation.floor_in_training(others))

    def score(state: Any, rng: jax.Array) -> dict[str, Any]:
        draw = functools.partial(sample, state)
        return evaluation.evaluate_in_training(reference, draw, rng) | floor

    def check(state: Any) -> tuple[bool, dict[str, float]]:
        draw = functools.partial(sample, state)
        found = coverage(evaluation.evaluate_in_training(others, draw, jax.random.key(2)))
        return found > verdict.COVERED * real, {"coverage": found, "of_real_images": real}

    return score, check


def coverage(scores: dict[str, float]) -> float:
    (value,) = (value for name, value in scores.items() if "coverage(" in name)
    return value


if __name__ == "__main__":
    harness.main(main)
