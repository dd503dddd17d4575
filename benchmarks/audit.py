"""Does an epsilon hold? An attack on private runs, and on runs in which something is broken.

An attacker knows all settings, and all rows of the data but one. That row is the canary. He gets
the state at the end of a run, and decides whether the canary was in the data. Half of the runs have
it. His error rates give lower bounds of epsilon, with 97.5% confidence each:

- lower bound: of any mechanism, from the ratio of the rates (arXiv 2006.07709).
- Gaussian: only for runs whose steps take all rows. Such a run is one Gaussian mechanism. Its two
  error rates give its epsilon (arXiv 2302.07956). This bound is much tighter.

They must stay below the stated epsilon, which the accountant of `jaxgan.privacy` promises. We know
no worse case than this one: the other rows are zeros, the canary is large, and the learning rate is
so small that all noisy gradients add up in Adam's first moment. The score of a run is this moment
in the direction of the canary's gradient. The score of a Gaussian model is its variance. One half
of the runs chooses the threshold of the attack, the other half gives the bounds.

The same attack looks at broken runs. It catches one if a bound is above the stated epsilon:

- no noise.
- no clipping: of a GAN or a diffusion model, the norm is a thousand times as large, with the same
  noise. Of the Gaussian model, nothing is clipped.
- counted twice: a step that takes the canary takes it twice.
- not sampled: each step takes the canary, in runs whose steps should take a twentieth of the rows.

The attack sees neither the file of the secret nor a start from Gaussians. Other tests of jaxgan do.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgan import MODELS, GANConfig, TrainConfig, gaussian, privacy
from jaxgan.diffusion import DiffusionConfig
from jaxgan.errors import JaxganError
from jaxgan.gaussian import GaussianConfig
from jaxgan.privacy import Mechanism
from jaxgan.run import loop, private
from jaxgan.run.members import make_runs

DELTA, CONFIDENCE = 1e-5, 0.975
SIZE, LARGE = 16, 1e3
"""Values in a row, and each value of the canary."""
TINY_RATE, SLOW = 1e-12, 0.999
"""The learning rate, and the decay of Adam's first moment."""
CONFIGS: dict[str, Any] = {
    "gan": GANConfig(
        (1, 1, SIZE),
        latent_dim=4,
        generator_widths=(4,),
        discriminator_widths=(8,),
        discriminator_dropout=(0.0,),
        loss="least_squares",
        clip_norm=1.0,
        bounded=False,
        discriminator_lr=TINY_RATE,
        discriminator_b1=SLOW,
    ),
    "diffusion": DiffusionConfig(
        (1, 1, SIZE),
        width=8,
        blocks=1,
        clip_norm=1.0,
        bounded=False,
        noise_draws=4,
        lr=TINY_RATE,
        b1=SLOW,
    ),
    "gaussian": GaussianConfig((1, 1, 1), components=1, bounded=False),
}
ALL_ROWS, SAMPLED = TrainConfig(epochs=4, batch_size=20), TrainConfig(epochs=1, batch_size=1)
ROWS = {"gan": 20, "diffusion": 20, "gaussian": 1000}
CASES = {
    "nothing broken": ALL_ROWS,
    "no noise": ALL_ROWS,
    "no clipping": ALL_ROWS,
    "counted twice": ALL_ROWS,
    "nothing broken, sampled": SAMPLED,
    "not sampled": SAMPLED,
}
COLUMNS = (
    "model model, case run, stated stated epsilon, bound lower bound, gaussian Gaussian, "
    "verdict verdict, seconds seconds"
)


class Bounds(NamedTuple):
    """Lower bounds of epsilon."""

    any: float
    """For any mechanism."""
    gaussian: float | None
    """For a Gaussian mechanism; None if steps take random rows."""


def main() -> None:
    parser = harness.make_parser(__doc__, runs=2000, epsilon=4.0, seed=1)
    harness.add_names(parser, "--models", CONFIGS)
    args = parser.parse_args()
    most = any_bound(*limits(np.zeros(args.runs // 2), np.ones(args.runs // 2), 0.5))
    if most <= args.epsilon:
        raise JaxganError(
            f"{args.runs} runs give a lower bound of at most {most:.3g}, so the attack could catch "
            f"nothing at epsilon {args.epsilon:g}: take more --runs, or a smaller --epsilon"
        )
    rows = []
    for name in args.models:
        for case, settings in CASES.items():
            if name == "gaussian" and settings == SAMPLED:
                continue
            harness.note(f"{name}: {case}")
            started = time.perf_counter()
            found = audit(name, case, args.epsilon, args.runs, args.seed)
            caught = (found.any if found.gaussian is None else found.gaussian) > args.epsilon
            row = {"model": name, "case": case, "stated": args.epsilon, "bound": found.any}
            row |= {"gaussian": found.gaussian, "verdict": "caught" if caught else "holds"}
            if caught == case.startswith("nothing"):
                row["verdict"] += ", which is wrong"
            rows.append(row | {"seconds": time.perf_counter() - started})
    print(harness.table(COLUMNS, rows))
    header = harness.about(runs=args.runs, confidence=CONFIDENCE, delta=DELTA)
    harness.write_json(args.json, header | {"rows": rows})


def audit(name: str, case: str, epsilon: float, runs: int, seed: int) -> Bounds:
    """The lower bounds of epsilon that the attack finds in this many runs of each kind."""
    rngs = jax.random.split(jax.random.key(seed), 2)
    found = [scores(name, case, epsilon, runs, rngs[i], has_canary=i == 1) for i in range(2)]
    first, second = ([part[i::2] for part in found] for i in range(2))
    thresholds = np.quantile(first[0], np.linspace(0.5, 1, 200))

    def best(bound: Callable[[float, float], float]) -> float:
        threshold = max(thresholds, key=lambda at: bound(*limits(first[0], first[1], at)))
        return bound(*limits(second[0], second[1], threshold))

    if CASES[case] == SAMPLED:
        return Bounds(best(any_bound), None)
    # The accountant needs noise of at least 0.01.
    noise = 1 / min(max(best(distance), 1e-6), 100)
    return Bounds(best(any_bound), privacy.epsilon(Mechanism(1.0, noise, 1), DELTA))


def limits(without: np.ndarray, with_canary: np.ndarray, threshold: float) -> tuple[float, float]:
    """A lower limit of the hit rate, and an upper limit of the rate of false alarms."""
    from scipy import stats

    # Each limit may be wrong with half of 1 - CONFIDENCE.
    confidence = 1 - (1 - CONFIDENCE) / 2
    low, high = (
        stats.binomtest(int((scores > threshold).sum()), len(scores), alternative=side)
        for scores, side in ((with_canary, "greater"), (without, "less"))
    )
    return float(low.proportion_ci(confidence).low), float(high.proportion_ci(confidence).high)


def any_bound(right: float, wrong: float) -> float:
    """A lower bound of epsilon from the least share of hits and the largest of false alarms."""
    return math.log((right - DELTA) / wrong) if right - DELTA > wrong else 0.0


def distance(right: float, wrong: float) -> float:
    """The distance between two normal distributions with these rates, in standard deviations."""
    from scipy import stats

    return max(0.0, float(stats.norm.ppf(right) - stats.norm.ppf(wrong)))


def scores(
    name: str, case: str, epsilon: float, runs: int, rng: jax.Array, *, has_canary: bool
) -> np.ndarray:
    """The scores of many runs `[runs]`, which are members of a population."""
    model, config, n = MODELS[name], CONFIGS[name], ROWS[name]
    settings = dataclasses.replace(CASES[case], epsilon=epsilon, delta=DELTA, population=runs)
    if name == "gaussian":
        settings = dataclasses.replace(settings, epochs=1, batch_size=n)
    settings = settings.fitted(n)
    plan = private.make_plan(model, config, settings, n, 1)
    config = plan.config
    rows = np.zeros((n, *config.image_shape), np.float32)
    rows[0] = LARGE
    members = make_runs(model, config, settings)
    start, layout = members.create_state(), members.make_layout(1)
    rngs = jax.random.split(rng, runs)
    options: Any = {"batch_size": settings.batch_size, "layout": layout, "places": plan.places}
    with breaking(name, case):
        step = make_step(name, case, has_canary)
        run = loop.start_run(step, start, {"image": rows}, **options)
        end = loop.fit(
            step,
            run,
            {"image": rows},
            rngs,
            epochs=settings.epochs or 1,
            progress=False,
            **options,
        ).state
    if name == "gaussian":
        return np.asarray(end.covariances).ravel()
    return np.asarray(jax.jit(jax.vmap(functools.partial(score, name)))(start, end))


def score(name: str, start: Any, end: Any) -> jax.Array:
    """The first moment of a run in the direction of the canary's gradient, a scalar."""
    quiet = dataclasses.replace(start.config, noise_multiplier=0.0)
    batch = {"image": jnp.full((1, *quiet.image_shape), LARGE)}
    first = moment(
        MODELS[name].train_step(start.replace(config=quiet), batch, jax.random.key(0))[0]
    )
    return jnp.vdot(moment(end), first) / jnp.linalg.norm(first)


def moment(state: Any) -> jax.Array:
    """Adam's first moment of the network that sees real rows, `[parameters]`."""
    learner = getattr(state, "discriminator", None) or state.denoiser
    return ravel_pytree(learner.opt_state.inner_state[0].mu)[0]


def make_step(name: str, case: str, has_canary: bool) -> loop.TrainStep:
    """The step of a model, in which the canary is missing or something is broken."""

    def step(state: Any, batch: Any, rng: jax.Array) -> Any:
        images, included, config = batch["image"], batch["included"], state.config
        canary = (images == LARGE).all(axis=(1, 2, 3))
        taken = (included & canary).any()
        if not has_canary or case == "not sampled":
            included &= ~canary
        if case in ("counted twice", "not sampled"):  # one more place, which may stay empty
            again = has_canary & (taken | (case == "not sampled"))
            images = jnp.concatenate([images, jnp.full_like(images[:1], LARGE)])
            included = jnp.concatenate([included, again[None]])
        used = config
        if case == "no noise":
            used = dataclasses.replace(config, noise_multiplier=0.0)
        elif case == "no clipping" and name != "gaussian":
            norm, noise = 1e3 * config.clip_norm, config.noise_multiplier / 1e3
            used = dataclasses.replace(config, clip_norm=norm, noise_multiplier=noise)
        batch = {"image": images, "included": included}
        state, metrics = MODELS[name].train_step(state.replace(config=used), batch, rng)
        return state.replace(config=config), metrics

    return step


@contextlib.contextmanager
def breaking(name: str, case: str) -> Iterator[None]:
    """Takes the clipping out of the Gaussian model. A config cannot do this."""
    unclipped: Callable[[Any, Any], Any] = lambda x, reach: x  # noqa: E731
    if (name, case) != ("gaussian", "no clipping"):
        yield
        return
    jax.clear_caches()
    try:
        with mock.patch.object(gaussian, "_clipped", unclipped):
            yield
    finally:
        jax.clear_caches()


if __name__ == "__main__":
    harness.main(main)
