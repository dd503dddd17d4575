"""Where the time of a training step goes: the reference GAN with one part changed or left out.

All variants train --steps steps in turns, and so do the matrix products of a step alone
(peers/matmul_bound.py). Printed are steps per second, and the median over the rounds of the rate
divided by that of the reference in the same round. It takes about three minutes on two CPU cores.
Nothing else should run at the same time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import jax
import numpy as np
import optax
from peers import matmul_bound

import jaxgan

BATCH_SIZE = 128
WITHOUT_MEASURES, PRODUCTS = "losses and scores alone", "the products alone"
CONFIGS = {
    "reference": jaxgan.GANConfig(),
    "SGD for Adam": jaxgan.GANConfig(),
    "Adam of constants": jaxgan.GANConfig(),
    "no dropout": jaxgan.GANConfig(discriminator_dropout=(0.0, 0.0, 0.0)),
    WITHOUT_MEASURES: jaxgan.GANConfig(),
    "products in bfloat16": jaxgan.GANConfig(precision="bf16"),
}
OPTIMIZERS = {"SGD for Adam": optax.sgd(1e-4), "Adam of constants": optax.adam(1e-3, eps=1e-7)}
COLUMNS = "name name, median steps/s, min min, max max, to_reference to reference"


class Scores(NamedTuple):
    """The metrics of a step without those for the detectors of failures."""

    gen_loss: jax.Array
    disc_loss: jax.Array
    real_score: jax.Array
    fake_score: jax.Array


def lean_step(state, batch, rng):
    """`train_step`; the compiler leaves out the measures that are not returned."""
    state, metrics = jaxgan.train_step(state, batch, rng)
    return state, Scores(*metrics[:4])


def make_state(name: str) -> jaxgan.GANState:
    state = jaxgan.create_state(jax.random.key(0), CONFIGS[name])
    if name not in OPTIMIZERS:
        return state
    tx = OPTIMIZERS[name]

    def with_optimizer(learner: Any) -> Any:
        return learner.replace(tx=tx, opt_state=tx.init(learner.params))

    return state.replace(
        generator=with_optimizer(state.generator),
        discriminator=with_optimizer(state.discriminator),
    )


def main() -> None:
    parser = harness.make_parser(__doc__, data="fashion", rounds=20, steps=117)
    args = parser.parse_args()
    images, source = harness.find_images(args.data_dir)
    if args.steps * BATCH_SIZE > len(images):
        parser.error(f"--steps must be from 1 to {len(images) // BATCH_SIZE}")
    header = harness.about(images=source)
    rows = measure(images[: args.steps * BATCH_SIZE], args.rounds)
    print(harness.table(COLUMNS, rows))
    harness.write_json(args.json, header | {"rows": rows})


def measure(images: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    programs = {name: make_program(name, images) for name in CONFIGS}
    bound = matmul_bound.make(images, BATCH_SIZE, "step")
    programs[PRODUCTS] = lambda: bound.steps / harness.seconds_of(bound.run)
    harness.in_turns(programs, 2, "compiling: ")
    rates = harness.in_turns(programs, rounds)
    return [
        {
            "name": name,
            **harness.spread(values),
            "to_reference": harness.ratio(values, rates["reference"]),
        }
        for name, values in rates.items()
    ]


def make_program(name: str, images: np.ndarray) -> Callable[[], float]:
    """A function that trains one epoch and gives the steps per second."""
    step = lean_step if name == WITHOUT_MEASURES else jaxgan.train_step
    train = harness.make_trainer(make_state(name), images, BATCH_SIZE, step)
    return lambda: len(images) // BATCH_SIZE / train(1)


if __name__ == "__main__":
    harness.main(main)
