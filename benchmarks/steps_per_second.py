"""Steps per second of the reference GAN: `train_step` in a Python loop, and the compiled epoch.

Runs on CPU, GPU or TPU wherever jax, flax, optax and numpy are installed; nothing else is needed.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax

import jaxgan
from jaxgan import loop
from jaxgan.data import idx

COLUMNS = {
    "batch_size": ("batch", "d"),
    "loop_steps_per_second": ("loop", ".1f"),
    "epoch_steps_per_second": ("epoch", ".1f"),
    "epoch_min": ("min", ".1f"),
    "epoch_max": ("max", ".1f"),
    "images_per_second": ("images/s", ".0f"),
    "gflop_per_step": ("GFLOP/step", ".3f"),
    "gflop_per_second": ("GFLOP/s", ".1f"),
    "step_compile_seconds": ("compile step", ".2f"),
    "epoch_compile_seconds": ("compile epoch", ".2f"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[128], help="default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="about, of each repeat (default: %(default)s)"
    )
    parser.add_argument("--data-dir", help="where Fashion-MNIST is; else $JAXGAN_DATA_DIR")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    images, source = find_images(args.data_dir)
    if min(args.batch_sizes) < 1 or max(args.batch_sizes) > len(images):
        parser.error(f"--batch-sizes must be from 1 to the {len(images)} images")
    if args.repeats < 1 or args.seconds <= 0:
        parser.error("--repeats and --seconds must be above 0")

    about = {"command": shlex.join(["python", *sys.argv]), "images": source, **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    print("steps/s are medians; loop: train_step called from Python; epoch: one compiled program")
    print("  ".join(title for title, _ in COLUMNS.values()))
    rows = []
    for batch_size in args.batch_sizes:
        row = measure(images, batch_size, args.repeats, args.seconds)
        rows.append(row)
        cells = (f"{row[key]:{kind}}".rjust(len(title)) for key, (title, kind) in COLUMNS.items())
        print("  ".join(cells), flush=True)
    if args.json:
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


def find_images(data_dir: str | None) -> tuple[np.ndarray, str]:
    """Fashion-MNIST where its files are at hand, else random images of its shape."""
    if idx.find("fashion_mnist", "train", data_dir):
        return idx.load("fashion_mnist", "train", data_dir).images, "fashion_mnist"
    return np.random.default_rng(0).integers(0, 256, (60_000, 28, 28, 1), np.uint8), "random"


def machine() -> dict[str, str]:
    modules = {"jaxgan": jaxgan, "jax": jax, "flax": flax, "optax": optax, "numpy": np}
    versions = ", ".join(f"{name} {module.__version__}" for name, module in modules.items())
    return {
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": f"{versions}, Python {platform.python_version()}",
        "matmul_precision": str(
            getattr(jax.config, "jax_default_matmul_precision", None) or "default"
        ),
    }


def measure(images: np.ndarray, batch_size: int, repeats: int, seconds: float) -> dict[str, Any]:
    """One row. Loop and epoch take turns, so that a slow moment of the machine hits both."""
    rng = jax.random.key(0)
    state = jaxgan.create_state(rng, jaxgan.GANConfig(image_shape=images.shape[1:]))
    started = time.perf_counter()
    step = jax.jit(jaxgan.train_step, donate_argnums=0)
    step = step.lower(state, images[:batch_size], rng).compile()
    step_compile = time.perf_counter() - started
    flops = (step.cost_analysis() or {}).get("flops", float("nan"))

    # Without a smaller last batch, so that all steps are alike.
    steps = len(images) // batch_size
    images = images[: steps * batch_size]
    data = jax.device_put(images)
    state, first_epoch = time_epochs(state, data, rng, batch_size, 1)
    state, one_epoch = time_epochs(state, data, rng, batch_size, 1)
    state, one_step = time_loop(step, state, images, rng, batch_size, 20)
    epochs = max(1, round(seconds / one_epoch))
    looped = max(1, round(seconds * 20 / one_step))

    rates = {"loop": [], "epoch": []}
    for _ in range(repeats):
        state, elapsed = time_loop(step, state, images, rng, batch_size, looped)
        rates["loop"].append(looped / elapsed)
        state, elapsed = time_epochs(state, data, rng, batch_size, epochs)
        rates["epoch"].append(epochs * steps / elapsed)
    row: dict[str, Any] = {"batch_size": batch_size}
    for name, values in rates.items():
        row[f"{name}_steps_per_second"] = statistics.median(values)
        row[f"{name}_min"], row[f"{name}_max"] = min(values), max(values)
    return row | {
        "images_per_second": batch_size * row["epoch_steps_per_second"],
        "gflop_per_step": flops / 1e9,
        "gflop_per_second": flops / 1e9 * row["epoch_steps_per_second"],
        "step_compile_seconds": step_compile,
        "epoch_compile_seconds": first_epoch - one_epoch,
    }


def time_loop(step, state, images, rng, batch_size: int, steps: int):
    """Calls the step from Python, on batches that lie in the host's memory."""
    at = np.arange(steps) % (len(images) // batch_size) * batch_size
    started = time.perf_counter()
    metrics = None
    for i in at:
        state, metrics = step(state, images[i : i + batch_size], rng)
    jax.block_until_ready((state, metrics))
    return state, time.perf_counter() - started


def time_epochs(state, data, rng, batch_size: int, epochs: int):
    """Runs compiled epochs over images that lie in the device's memory, shuffled there."""
    started = time.perf_counter()
    for epoch in range(epochs):
        state, metrics = loop.train_epoch(
            jaxgan.train_step, state, data, rng, epoch, batch_size=batch_size
        )
        jax.block_until_ready(metrics)
    jax.block_until_ready(state)
    return state, time.perf_counter() - started


if __name__ == "__main__":
    main()
