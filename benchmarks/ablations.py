"""Where the time of a step goes: the reference GAN with one part left out or changed at a time.

All variants and the matrix products of a step alone (peers/matmul_bound.py) train in turns, in
rounds; printed are steps per second (median, least, most) and the median over the rounds of the
rate beside the reference's in the same round. Nothing else should run meanwhile.
"""

# pyright: reportMissingImports=false

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from steps_per_second import find_images, machine
from tqdm import tqdm

import jaxgan
from jaxgan import loop

sys.path.append(str(Path(__file__).parent / "peers"))

import matmul_bound

BATCH_SIZE = 128
WITHOUT_MEASURES = "losses and scores alone"
REFERENCE = jaxgan.GANConfig()


class Scores(NamedTuple):
    """What a step would report without measuring itself for the detectors."""

    gen_loss: jax.Array
    disc_loss: jax.Array
    real_score: jax.Array
    fake_score: jax.Array


def lean_step(state, batch, rng):
    """The step, of whose measures nobody wants to know: they are not computed."""
    state, metrics = jaxgan.train_step(state, batch, rng)
    return state, Scores(*metrics[:4])


def make_state(name: str) -> jaxgan.GANState:
    config = {
        "no dropout": jaxgan.GANConfig(discriminator_dropout=(0.0, 0.0, 0.0)),
        "products in bfloat16": jaxgan.GANConfig(precision="bf16"),
    }.get(name, REFERENCE)
    state = jaxgan.create_state(jax.random.key(0), config)
    optimizers = {"SGD for Adam": optax.sgd(1e-4), "Adam of constants": optax.adam(1e-3, eps=1e-7)}
    if name in optimizers:
        tx = optimizers[name]
        state = state.replace(
            generator=with_optimizer(state.generator, tx),
            discriminator=with_optimizer(state.discriminator, tx),
        )
    return state


def with_optimizer(player, tx):
    return player.replace(tx=tx, opt_state=tx.init(player.params))


VARIANTS = (
    "reference",
    "SGD for Adam",
    "Adam of constants",
    "no dropout",
    WITHOUT_MEASURES,
    "products in bfloat16",
)


def make_epochs(name: str, data: jax.Array) -> Callable[[], None]:
    """A function that trains an epoch, and goes on at the next call."""
    step = lean_step if name == WITHOUT_MEASURES else jaxgan.train_step
    state, epoch = make_state(name), 0

    def run() -> None:
        nonlocal state, epoch
        state, metrics = loop.train_epoch(
            step, state, data, jax.random.key(0), epoch, batch_size=BATCH_SIZE
        )
        epoch += 1
        jax.block_until_ready((state, metrics))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=117, help="per round (default: %(default)s)")
    parser.add_argument("--data-dir", help="where Fashion-MNIST is; else $JAXGAN_DATA_DIR")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    images, source = find_images(args.data_dir)
    if args.rounds < 1 or not 1 <= args.steps <= len(images) // BATCH_SIZE:
        parser.error(f"--rounds from 1, --steps from 1 to {len(images) // BATCH_SIZE}")
    about = {"command": shlex.join(["python", *sys.argv]), "images": source, **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    rows = measure(images[: args.steps * BATCH_SIZE], args.rounds)
    for row in rows:
        print("{name:28}  {median:7.1f}  {min:7.1f}  {max:7.1f}  {to_reference:5.2f}".format(**row))
    if args.json:
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


def measure(images: np.ndarray, rounds: int) -> list[dict]:
    data, steps = jax.device_put(images), len(images) // BATCH_SIZE
    programs = {name: (make_epochs(name, data), steps) for name in VARIANTS}
    bound = matmul_bound.make(images, BATCH_SIZE, "step")
    programs["the products alone"] = (bound.run, bound.steps)
    for run, _ in tqdm(programs.values(), "compiling"):
        run()
        run()
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in tqdm(range(rounds), "rounds"):
        for name, (run, steps) in programs.items():
            started = time.perf_counter()
            run()
            rates[name].append(steps / (time.perf_counter() - started))
    return [
        {
            "name": name,
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "to_reference": statistics.median(
                a / b for a, b in zip(values, rates["reference"], strict=True)
            ),
        }
        for name, values in rates.items()
    ]


if __name__ == "__main__":
    main()
