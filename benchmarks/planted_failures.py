"""Do the detectors of `jaxgan.diagnostics` see failures that are known to be there, and no others?

Each case is trained from several seeds, as a population. Counted is in how many of them each
failure is seen at the end of any epoch. Three cases are failures by construction; the others are
healthy, among them the same games with a remedy. The reference needs the files of Fashion-MNIST.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from steps_per_second import machine

from jaxgan import GANConfig, data, diagnostics, population, sample
from jaxgan.data.mixtures import RING
from jaxgan.metrics.modes import mode_scores

FAILURES = ("vanishing gradients", "mode collapse", "no convergence")


class DiracGenerator(nn.Module):
    """Puts all mass on one point, theta (arXiv 1801.04406)."""

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        # Seeds differ in the phase: theta from -1 to 1, where psi begins with 1.
        theta = self.param("theta", lambda rng: jax.random.uniform(rng, (), minval=-1, maxval=1))
        return jnp.broadcast_to(theta, (latents.shape[0], 1, 1, 1))


class DiracDiscriminator(nn.Module):
    """Linear: its logit is psi x."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return self.param("psi", lambda _: jnp.ones(())) * images[:, 0, 0, 0]


class Case(NamedTuple):
    expected: str | None
    """The failure that is there."""
    config: GANConfig
    images: Callable[[], np.ndarray]
    epochs: int
    batch_size: int


STRONG = {"discriminator_lr": 1e-2, "discriminator_dropout": (0.0, 0.0, 0.0)}
PLANE = {
    "image_shape": (1, 1, 2),
    "bounded": False,
    "latent_dim": 2,
    "generator_widths": (128, 128, 128),
    "discriminator_widths": (128, 128, 128),
    "discriminator_dropout": (0.0, 0.0, 0.0),
}
STEADY: dict[str, Any] = {
    "generator_b1": 0.0,
    "discriminator_b1": 0.0,
    "generator_b2": 0.99,
    "discriminator_b2": 0.99,
}
DIRAC = {
    "image_shape": (1, 1, 1),
    "latent_dim": 1,
    "generator": DiracGenerator(),
    "discriminator": DiracDiscriminator(),
    "loss": "minimax",
    "optimizer": "sgd",
    "generator_lr": 0.1,
    "discriminator_lr": 0.1,
}


def digits() -> np.ndarray:
    return data.load("digits").images


def ring() -> np.ndarray:
    return RING.draw(100 * 256, seed=0)[0].reshape(-1, 1, 1, 2)


def origin() -> np.ndarray:
    return np.zeros((100, 1, 1, 1), np.float32)


def fashion() -> np.ndarray:
    return data.load("fashion_mnist").images


CASES = {
    "minimax against a strong discriminator, digits": Case(
        "vanishing gradients",
        GANConfig(image_shape=(8, 8, 1), loss="minimax", **STRONG),
        digits,
        epochs=100,
        batch_size=128,
    ),
    "slow discriminator, ring": Case(
        "mode collapse", GANConfig(**PLANE, discriminator_lr=2e-4), ring, epochs=20, batch_size=256
    ),
    "Dirac GAN": Case("no convergence", GANConfig(**DIRAC), origin, epochs=20, batch_size=1),
    "reference, Fashion-MNIST": Case(None, GANConfig(), fashion, epochs=12, batch_size=128),
    "R1, ring": Case(None, GANConfig(**PLANE, **STEADY, r1=0.1), ring, epochs=20, batch_size=256),
    "relativistic, R1 and R2, ring": Case(
        None,
        GANConfig(**PLANE, **STEADY, loss="relativistic", r1=0.1, r2=0.1),
        ring,
        epochs=20,
        batch_size=256,
    ),
    "Wasserstein, R1, ring": Case(
        None,
        GANConfig(**PLANE, **STEADY, loss="wasserstein", r1=1.0),
        ring,
        epochs=20,
        batch_size=256,
    ),
    "R1, Dirac GAN": Case(None, GANConfig(**DIRAC, r1=1.0), origin, epochs=20, batch_size=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="default: %(default)s")
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=[*CASES],
        default=[*CASES],
        metavar="CASE",
        help="some of them: " + "; ".join(CASES),
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds must be above 0")
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print(f"of {args.seeds} seeds, in how many is seen")
    print(f"{'':48}" + "".join(f"{name:>21}" for name in FAILURES))
    rows = []
    for name in args.cases:
        rows.append({"case": name, **measure(CASES[name], args.seeds)})
        cells = (
            f"{rows[-1]['seen'][failure]}{' <-' if failure == CASES[name].expected else '   '}"
            for failure in FAILURES
        )
        print(f"{name:48}" + "".join(f"{cell:>21}" for cell in cells), flush=True)
    healthy = [row for row in rows if row["expected"] is None]
    sums = {
        "hits": sum(row["seen"][row["expected"]] for row in rows if row["expected"]),
        "failures": args.seeds * (len(rows) - len(healthy)),
        "false_alarms": sum(row["any"] for row in healthy),
        "healthy": args.seeds * len(healthy),
    }
    print(
        f"{sums['hits']} of {sums['failures']} failures seen, {sums['false_alarms']} false alarms "
        f"in {sums['healthy']} healthy runs"
    )
    if args.json:
        args.json.write_text(json.dumps(about | sums | {"rows": rows}, indent=2) + "\n")


def measure(case: Case, seeds: int) -> dict[str, Any]:
    """A row: how many seeds show what, when first, and the numbers that decide."""
    started = time.perf_counter()
    run = population.train_population(
        case.config,
        case.images(),
        range(seeds),
        epochs=case.epochs,
        batch_size=case.batch_size,
        devices=1,
        progress=False,
    )
    found = diagnostics.diagnose_members(run.history)
    first = {
        name: [f.epoch for member in found for f in member if f.name == name] for name in FAILURES
    }
    row = {
        "expected": case.expected,
        "epochs": case.epochs,
        "steps": run.history[-1]["step"],
        "seen": {name: len(epochs) for name, epochs in first.items()},
        "any": sum(bool(member) for member in found),
        "first_epochs": first,
        "signs": extremes(run.history),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if case.images is ring:
        row["modes"] = [modes(population.member(run.state, i)) for i in range(seeds)]
    return row


def extremes(history: list[dict]) -> dict[str, list[float]]:
    """The least and the greatest of what the thresholds are compared with, after the warm-up."""
    signs = diagnostics.signs(history)
    late = signs["step"] >= diagnostics.WARM_UP
    names = ("certainty", "gradient_share", "diversity", "swing", "growth")
    values = {name: signs[name][late & np.isfinite(signs[name])] for name in names}
    return {
        name: [float(some.min()), float(some.max())] if some.size else []
        for name, some in values.items()
    }


def modes(state) -> float:
    points = sample(state, jax.random.key(1), 2_500).reshape(-1, 2)
    return mode_scores(np.asarray(points), RING).modes


if __name__ == "__main__":
    main()
