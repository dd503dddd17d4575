"""Steps per second of the reference GAN, in two ways.

loop: `train_step` is called from Python with batches from the host's memory.
epoch: a compiled program shuffles the images in the device's memory and trains on them.

Both train in turns, for about --seconds in each round; the numbers are medians over the rounds. A
batch size takes about half a minute. It runs wherever jax, flax, optax and numpy are installed, on
a CPU, a GPU or a TPU. Nothing else should run at the same time.
"""

import time
from collections.abc import Callable
from typing import Any

import harness
import jax
import numpy as np
from harness import in_turns, seconds_of, spread

import jaxgan

COLUMNS = (
    "batch_size batch, loop_steps_per_second loop, epoch_steps_per_second epoch, epoch_min min, "
    "epoch_max max, images_per_second images/s, gflop_per_step GFLOP/step, gflop_per_second "
    "GFLOP/s, step_compile_seconds compile step, epoch_compile_seconds compile epoch"
)


def main() -> None:
    parser = harness.make_parser(__doc__, data="fashion", batch_sizes=[128], rounds=5, seconds=2.0)
    args = parser.parse_args()
    images, source = harness.find_images(args.data_dir)
    if max(args.batch_sizes) > len(images):
        parser.error(f"--batch-sizes must be from 1 to the {len(images)} images")
    header = harness.about(images=source)
    rows = [measure(images, size, args.rounds, args.seconds) for size in args.batch_sizes]
    print(harness.table(COLUMNS, rows))
    harness.write_json(args.json, header | {"rows": rows})


def measure(images: np.ndarray, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The row of a batch size."""
    config, rng = jaxgan.GANConfig(image_shape=images.shape[1:]), jax.random.key(0)
    state = jaxgan.create_state(rng, config)
    started = time.perf_counter()
    step = jax.jit(jaxgan.train_step, donate_argnums=0)
    step = step.lower(state, images[:batch_size], rng).compile()
    step_compile = time.perf_counter() - started
    gflop = (step.cost_analysis() or {}).get("flops", float("nan")) / 1e9

    # Without a smaller last batch, so that all steps take the same time.
    steps = len(images) // batch_size
    images = images[: steps * batch_size]
    train_epochs = harness.make_trainer(state, images, batch_size)
    call = make_caller(step, jaxgan.create_state(rng, config), images, batch_size)
    first_epoch, one_epoch = train_epochs(1), train_epochs(1)
    call(1)
    calls = max(1, round(20 * seconds / seconds_of(lambda: call(20))))
    epochs = max(1, round(seconds / one_epoch))
    rates = in_turns(
        {
            "loop": lambda: calls / seconds_of(lambda: call(calls)),
            "epoch": lambda: epochs * steps / train_epochs(epochs),
        },
        rounds,
        f"batch {batch_size}: ",
    )
    row: dict[str, Any] = {"batch_size": batch_size}
    for name, values in rates.items():
        found = spread(values)
        row[f"{name}_steps_per_second"] = found["median"]
        row |= {f"{name}_min": found["min"], f"{name}_max": found["max"]}
    return row | {
        "images_per_second": batch_size * row["epoch_steps_per_second"],
        "gflop_per_step": gflop,
        "gflop_per_second": gflop * row["epoch_steps_per_second"],
        "step_compile_seconds": step_compile,
        "epoch_compile_seconds": first_epoch - one_epoch,
    }


def make_caller(
    step: Any, state: Any, images: np.ndarray, batch_size: int
) -> Callable[[int], None]:
    """A function that calls the compiled step so many times, and continues at its next call."""
    at, rng = 0, jax.random.key(0)

    def call(steps: int) -> None:
        nonlocal state, at
        metrics = None
        for _ in range(steps):
            state, metrics = step(state, images[at : at + batch_size], rng)
            at = (at + batch_size) % len(images)
        jax.block_until_ready((state, metrics))

    return call


if __name__ == "__main__":
    harness.main(main)
