"""Does `jaxgan.adversarial.diagnostics` see failures that are there, and no others?

lost modes: real images of only k modes or classes stand in for samples. In how many of 50 trials
does what they miss (`jaxgan.metrics.parts`) count as mode collapse?

Dirac GAN: the two numbers circle around their equilibrium for ever; with R1 they reach it. In how
many seeds is no convergence seen, by the learning rate? The period falls with the rate.

runs: GANs, each trained from several seeds. A run is healthy by a score that no detector uses: on
the ring all modes and more than 90% of high quality, on images a coverage of more than
half of that of real images. An alarm in a healthy run is false.

The thresholds were chosen on seeds below 2,000; this benchmark takes seeds from 2,000 on. Intervals
are 95% (Wilson). It takes about 25 minutes on two CPU cores. Fashion-MNIST needs its files.
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

from jaxgan import GANConfig, data, sample
from jaxgan.adversarial import diagnostics
from jaxgan.data.mixtures import MIXTURES, RING
from jaxgan.data.pixels import to_float
from jaxgan.metrics import evaluation, parts
from jaxgan.metrics.modes import mode_scores

FAILURES = ("vanishing gradients", "mode collapse", "no convergence")
LOST = "data data, kept kept, seen seen, low from, high to, missed missed"
ORBITS = "updates updates, r1 R1, rate rate, period period, seen seen, of of"
RUNS = "case case, healthy healthy, false false alarms, unhealthy unhealthy, alarms alarms"
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
    harness.write_json(args.json, header | sums | {"lost": lost, "dirac": dirac, "runs": runs})


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
    images, labels, *names = digits()
    return data.Dataset(images[:200], np.asarray(labels)[:200], *names)


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


def origin(n: int) -> data.Dataset:
    return data.Dataset(np.zeros((n, 1, 1, 1), np.float32), None, "origin", "train")


class Case(NamedTuple):
    """A GAN, and how it is trained."""

    config: GANConfig
    dataset: Callable[[str | None], data.Dataset] = ring
    epochs: int = 20
    batch_size: int = 64
    planted: str | None = None
    """A failure that is there by construction."""


NO_DROPOUT = (0.0, 0.0, 0.0)
STRONG = GANConfig(
    (8, 8, 1), discriminator_dropout=NO_DROPOUT, loss="minimax", discriminator_lr=1e-2
)
PLANE = GANConfig((1, 1, 2), 2, (64,) * 3, (64,) * 3, NO_DROPOUT, bounded=False)
STEADY = replace(
    PLANE, **both(b1=0.0, b2=0.99), r1=0.1, ema_decay=0.999, lr_scale="cosine:1:0:8000"
)
SMALL = GANConfig((8, 8, 1), 16, (128,) * 2, (128,) * 2, NO_DROPOUT[:2], r1=1.0, **both(b1=0.0))
COLOURED = replace(SMALL, image_shape=(8, 8, 3))
CASES = {
    "minimax against a strong discriminator, digits": Case(STRONG, digits, 200, 128, FAILURES[0]),
    "slow discriminator, ring": Case(
        replace(PLANE, discriminator_lr=2e-4), planted="mode collapse"
    ),
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
    "R1, very slow, digits": Case(replace(SMALL, **both(lr=5e-5)), digits, 250, 128),
    "R1, digits": Case(SMALL, digits, 250, 128),
    "R1, fast, digits": Case(replace(SMALL, **both(lr=4e-3)), digits, 250, 128),
    "R1, digits, batch 4": Case(replace(SMALL, ema_decay=0.999), digits, 30, 4),
    "hinge, R1, digits": Case(replace(SMALL, loss="hinge"), digits, 250, 128),
    "label smoothing, R1, digits": Case(replace(SMALL, label_smoothing=0.1), digits, 250, 128),
    "R1, 200 digits": Case(SMALL, few_digits, 2500, 128),
    "R1, black and white digits": Case(SMALL, black_and_white_digits, 250, 128),
    "R1, coloured digits": Case(COLOURED, coloured_digits, 250, 128),
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
    """A row: how many runs are healthy, and which raise alarms."""
    dataset = case.dataset(data_dir)
    run = train(case.config, dataset, seeds, epochs=case.epochs, batch_size=case.batch_size)
    found = diagnostics.diagnose(run.history)
    names = ["+".join(f.name for f in member) for member in found.findings]
    is_healthy = in_all_modes if case.dataset is ring else make_is_covered(dataset)
    checked = [is_healthy(state) for state in harness.members(run)]
    healthy = [ok and case.planted is None for ok, _ in checked]
    pairs = list(zip(healthy, names, strict=True))
    unhealthy = [name or "none" for ok, name in pairs if not ok]
    return {
        "steps": run.history[-1]["step"],
        "planted": case.planted,
        "healthy": sum(healthy),
        "false": sum(ok and bool(name) for ok, name in pairs),
        "unhealthy": len(unhealthy),
        "alarms": {name: unhealthy.count(name) for name in dict.fromkeys(unhealthy)},
        "each": [
            {"healthy": ok, "alarm": name, "score": score}
            for (ok, name), (_, score) in zip(pairs, checked, strict=True)
        ],
        "caveat": found.caveat,
        "seconds": round(sum(row["seconds"] for row in run.history), 1),
    }


def in_all_modes(state: Any) -> tuple[bool, dict[str, float]]:
    """Whether a GAN on the ring is healthy, and its scores."""
    points = np.asarray(sample(state, jax.random.key(1), 2_500)).reshape(-1, 2)
    found = mode_scores(points, RING)
    healthy = found.modes == len(RING.centers) and found.high_quality > 0.9
    return healthy, {"modes": found.modes, "high_quality": found.high_quality}


def make_is_covered(dataset: data.Dataset) -> Callable[[Any], tuple[bool, dict[str, float]]]:
    """The same for images, by the coverage of their principal components."""
    extractor = evaluation.make_extractor(dataset)
    reference = evaluation.make_reference(extractor, dataset, None)
    floor = coverage(evaluation.floor_in_training(reference))

    def is_covered(state: Any) -> tuple[bool, dict[str, float]]:
        draw = functools.partial(sample, state)
        found = coverage(evaluation.evaluate_in_training(reference, draw, jax.random.key(2)))
        return found > floor / 2, {"coverage": found, "of_real_images": floor}

    return is_covered


def coverage(scores: dict[str, float]) -> float:
    (value,) = (value for name, value in scores.items() if "coverage(" in name)
    return value


if __name__ == "__main__":
    harness.main(main)
