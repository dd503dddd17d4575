"""Does `jaxgan.adversarial.diagnostics` see failures that are known to be there, and no others?

Each case is trained from several seeds, as a population. Three cases fail by construction; the
others are healthy, among them two of the three with a remedy. Printed is in how many seeds each
failure is seen at the end of any epoch. It takes about 20 minutes on two CPU cores. The reference
needs the files of Fashion-MNIST.
"""

from collections.abc import Callable
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
from jaxgan.data.mixtures import RING
from jaxgan.metrics.modes import mode_scores

FAILURES = ("vanishing gradients", "mode collapse", "no convergence")
SIGNS = ("certainty", "gradient_share", "diversity", "swing", "growth")
COLUMNS = "case case, expected failure, " + ", ".join(
    f"{name.replace(' ', '_')} {name}" for name in FAILURES
)


def digits() -> np.ndarray:
    return data.load("digits").images


def ring() -> np.ndarray:
    return RING.draw(100 * 256, seed=0)[0].reshape(-1, 1, 1, 2)


def origin() -> np.ndarray:
    return np.zeros((100, 1, 1, 1), np.float32)


def fashion() -> np.ndarray:
    return data.load("fashion_mnist").images


class Case(NamedTuple):
    expected: str | None
    """The failure that is there."""
    config: GANConfig
    images: Callable[[], np.ndarray] = ring
    epochs: int = 20
    batch_size: int = 256


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


NO_DROPOUT = (0.0, 0.0, 0.0)
STRONG = GANConfig(
    (8, 8, 1), discriminator_dropout=NO_DROPOUT, loss="minimax", discriminator_lr=1e-2
)
PLANE = GANConfig((1, 1, 2), 2, (128,) * 3, (128,) * 3, NO_DROPOUT, bounded=False)
STEADY = replace(PLANE, **both(b1=0.0, b2=0.99))
DIRAC = GANConfig(
    (1, 1, 1),
    latent_dim=1,
    generator=DiracGenerator(),
    discriminator=DiracDiscriminator(),
    loss="minimax",
    optimizer="sgd",
    **both(lr=0.1),
)


RELATIVISTIC = replace(STEADY, loss="relativistic", r1=0.1, r2=0.1)
WASSERSTEIN = replace(STEADY, loss="wasserstein", r1=1.0)
CASES = {
    "minimax against a strong discriminator, digits": Case(FAILURES[0], STRONG, digits, 100, 128),
    "slow discriminator, ring": Case(FAILURES[1], replace(PLANE, discriminator_lr=2e-4)),
    "Dirac GAN": Case(FAILURES[2], DIRAC, origin, 20, 1),
    "reference, Fashion-MNIST": Case(None, GANConfig(), fashion, 12, 128),
    "R1, ring": Case(None, replace(STEADY, r1=0.1)),
    "relativistic, R1 and R2, ring": Case(None, RELATIVISTIC),
    "Wasserstein, R1, ring": Case(None, WASSERSTEIN),
    "R1, Dirac GAN": Case(None, replace(DIRAC, r1=1.0), origin, 20, 1),
}


def main() -> None:
    parser = harness.make_parser(__doc__, seeds=10)
    text = f"some of: {'; '.join(CASES)} (default: all)"
    parser.add_argument(
        "--cases", nargs="+", choices=[*CASES], default=[*CASES], metavar="CASE", help=text
    )
    args = parser.parse_args()
    header = harness.about()
    rows = []
    for name in args.cases:
        harness.note(f"training {name}")
        rows.append({"case": name, **measure(CASES[name], args.seeds)})
    print(f"of {args.seeds} seeds, in how many each failure is seen")
    seen = [{name.replace(" ", "_"): row["seen"][name] for name in FAILURES} for row in rows]
    print(harness.table(COLUMNS, [row | each for row, each in zip(rows, seen, strict=True)]))
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
    harness.write_json(args.json, header | sums | {"rows": rows})


def measure(case: Case, seeds: int) -> dict[str, Any]:
    """A row: how many seeds show which failure, when first, and the numbers that decide."""
    options = {"epochs": case.epochs, "batch_size": case.batch_size, "progress": False}
    run = harness.train(case.config, case.images(), range(seeds), **options)
    if run is None:
        raise AssertionError("all seeds have diverged")
    found = diagnostics.diagnose(run.history).findings
    first = {
        name: [f.epochs[0] for member in found for f in member if f.name == name]
        for name in FAILURES
    }
    row = {
        "expected": case.expected,
        "epochs": case.epochs,
        "steps": run.history[-1]["step"],
        "seen": {name: len(epochs) for name, epochs in first.items()},
        "any": sum(bool(member) for member in found),
        "first_epochs": first,
        "signs": extremes(run.history),
        "seconds": round(sum(row["seconds"] for row in run.history), 1),
    }
    if case.images is ring:
        row["modes"] = [modes(state) for state in harness.members(run)]
    return row


def extremes(history: list[dict]) -> dict[str, list[float]]:
    """The least and the greatest value, after the warm-up, of what has thresholds."""
    signs = diagnostics.signs(history)
    late = signs["step"] >= diagnostics.WARM_UP
    values = {name: signs[name][late & np.isfinite(signs[name])] for name in SIGNS}
    return {
        name: [float(some.min()), float(some.max())] if some.size else []
        for name, some in values.items()
    }


def modes(state) -> float:
    points = sample(state, jax.random.key(1), 2_500).reshape(-1, 2)
    return mode_scores(np.asarray(points), RING).modes


if __name__ == "__main__":
    harness.main(main)
