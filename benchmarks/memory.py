"""Device memory of a compiled epoch, by batch size and population, as the compiler plans it.

In MB (10**6 bytes). "data set" is uint8, as it lies on the device; no float copy of it is ever
made. "state" is parameters and both Adam moments of all members, 12 bytes a parameter; it is
donated, so the new one takes its place ("reused"). "temporary" is what the program needs beside:
the order of the data, activations, gradients. "total" is arguments, temporary memory and results
less what is reused. A caller who keeps a state of his own, as `loop.fit` does for its, adds that.

Where the device counts its memory (not on a CPU), each program is also run once, the smallest
first, and "peak" is the most that was in use until its end; "-" if an earlier one needed more.
"""

import argparse
import dataclasses
import functools
import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from steps_per_second import find_images, machine

import jaxgan
from jaxgan import loop
from jaxgan.devices import make_layout

COLUMNS = {
    "batch_size": ("batch", "d"),
    "members": ("population", "d"),
    "way": ("     way", "s"),
    "data_mb": ("data set", ".2f"),
    "state_mb": ("   state", ".2f"),
    "temporary_mb": ("temporary", ".2f"),
    "results_mb": (" results", ".2f"),
    "reused_mb": ("  reused", ".2f"),
    "total_mb": ("   total", ".2f"),
    "peak_mb": ("    peak", ".2f"),
}


class Setting(NamedTuple):
    """What is trained."""

    batch_size: int = jaxgan.TrainConfig().batch_size
    width: int = 1
    """All hidden widths of both networks are those of the reference times this."""
    members: int | None = None
    """Of a population; None is a single GAN."""
    together: bool = False
    """Whether members take their steps together, or in turns."""

    @property
    def config(self) -> jaxgan.GANConfig:
        config = jaxgan.GANConfig()
        return dataclasses.replace(
            config,
            generator_widths=tuple(self.width * n for n in config.generator_widths),
            discriminator_widths=tuple(self.width * n for n in config.discriminator_widths),
        )

    @property
    def way(self) -> str:
        if self.members is None:
            return "single"
        return "together" if self.together else "in turns"


def main() -> None:
    args = parse_arguments()
    images, source = find_images(args.data_dir)
    if max(args.batch_sizes) > len(images):
        sys.exit(f"--batch-sizes must be from 1 to the {len(images)} images")
    about = {"command": shlex.join(["python", *sys.argv]), "images": source, **machine()}
    about["data_set"] = f"{len(images)} images, {images.dtype}, {images.nbytes / 1e6:.2f} MB"
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    settings = [
        Setting(batch_size, 1, *ways)
        for batch_size in args.batch_sizes
        for members in args.populations
        # A population of one is the single GAN.
        for ways in ([(members, False), (members, True)] if members > 1 else [()])
    ]
    rows, programs = [], []
    for setting in settings:
        print(f"compiling: {setting}", file=sys.stderr)
        programs.append(compile_epoch(setting, len(images)))
        shown = {"batch_size": setting.batch_size, "members": setting.members or 1}
        rows.append(shown | {"way": setting.way} | planned(programs[-1], images))
    add_peaks(rows, settings, programs, images)
    print(table(COLUMNS, rows))
    if args.json:
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch-sizes", type=size, nargs="+", default=[32, 128, 512, 2048],
        help="default: 32 128 512 2048",
    )  # fmt: skip
    parser.add_argument(
        "--populations", type=size, nargs="+", default=[1, 8, 64], help="default: 1 8 64"
    )
    parser.add_argument("--data-dir", help="where Fashion-MNIST is; else $JAXGAN_DATA_DIR")
    parser.add_argument("--json", type=output, help="also write the results to this file")
    return parser.parse_args()


def size(text: str) -> int:
    """A whole number above 0, from the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def output(text: str) -> Path:
    """A file to write, from the command line."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def start(setting: Setting) -> tuple[jaxgan.GANState, jax.Array]:
    """The untrained state, and the key or keys of the training."""
    if setting.members is None:
        rngs = loop.make_rngs(0)
        return jaxgan.create_state(rngs.init, setting.config), rngs.training
    rngs = loop.make_rngs(range(setting.members))
    states = jax.vmap(lambda rng: jaxgan.create_state(rng, setting.config))(rngs.init)
    return states, rngs.training


def compile_epoch(setting: Setting, n: int) -> jax.stages.Compiled:
    """`loop.train_epoch` over n images: program(state, data, rng, epoch), which donates the state.

    As one program of the device, from the order of the data to the means of the metrics.
    """
    layout = make_layout(1, population=setting.members is not None, vectorize=setting.together)
    epoch = functools.partial(
        loop.train_epoch, jaxgan.train_step, batch_size=setting.batch_size, layout=layout
    )
    state, rng = jax.eval_shape(functools.partial(start, setting))
    data = jax.ShapeDtypeStruct((n, *setting.config.image_shape), np.uint8)
    return jax.jit(epoch, donate_argnums=0).lower(state, data, rng, 0).compile()


def planned(program: jax.stages.Compiled, images: np.ndarray) -> dict[str, float]:
    """The memory of an epoch over the images by the compiler's account, in MB."""
    plan: Any = program.memory_analysis()
    arguments, temporary = plan.argument_size_in_bytes, plan.temp_size_in_bytes
    results, reused = plan.output_size_in_bytes, plan.alias_size_in_bytes
    parts = {
        "data": images.nbytes,
        "state": arguments - images.nbytes,
        "temporary": temporary,
        "results": results,
        "reused": reused,
        "total": arguments + temporary + results - reused,
    }
    return {f"{name}_mb": value / 1e6 for name, value in parts.items()}


def add_peaks(rows, settings, programs, images: np.ndarray) -> None:
    """Adds to each row the most memory that was ever in use on the device, where that is known."""
    peak = 0
    data = jax.device_put(images) if device_peak() is not None else None
    for i in sorted(range(len(rows)), key=lambda i: rows[i]["total_mb"]):
        rows[i]["peak_mb"] = None
        if data is None:
            continue
        print(f"running: {settings[i]}", file=sys.stderr)
        state, rng = start(settings[i])
        jax.block_until_ready(programs[i](state, data, rng, 0))
        before, peak = peak, device_peak() or 0
        # The device only keeps the highest of all: it says nothing of a program that needs less.
        rows[i]["peak_mb"] = peak / 1e6 if peak > before else None


def device_peak() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def table(columns: dict[str, tuple[str, str]], rows: list[dict[str, Any]]) -> str:
    """Lines of cells under their titles; a missing value is a dash."""
    lines = ["  ".join(title for title, _ in columns.values())]
    for row in rows:
        cells = (
            ("-" if row[key] is None else f"{row[key]:{kind}}").rjust(len(title))
            for key, (title, kind) in columns.items()
        )
        lines.append("  ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
