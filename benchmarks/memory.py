"""The device memory of a compiled epoch, by batch size and population, as the compiler plans it.

In MB (10**6 bytes). data set: uint8, as it is on the device; there is no float copy of it. state:
parameters and both Adam moments of all members, 12 bytes for each parameter. The state is donated,
so the new one takes its place ("reused"). temporary: what the program needs beside these, such as
the order of the data, activations and gradients. total: data set, state, temporary and results,
less what is reused. `loop.fit` needs one more state: it keeps that of its caller.

peak: where the device counts its memory (not on a CPU) each program also runs once, the one with
the smallest total first; peak is the most that was in use so far, or "-" if an earlier program
needed more. It takes about two minutes on two CPU cores and needs jax, flax, optax and numpy only.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import harness
import jax
import numpy as np

import jaxgan
from jaxgan import loop
from jaxgan.run.devices import make_layout

COLUMNS = (
    "batch_size batch, members population, way way, data_mb data set, state_mb state, temporary_mb "
    "temporary, results_mb results, reused_mb reused, total_mb total, peak_mb peak"
)


class Setting(NamedTuple):
    """What is trained."""

    batch_size: int = 128
    width: int = 1
    """A factor of all hidden widths of both networks."""
    members: int | None = None
    """Of a population; None is a single GAN."""
    together: bool = False
    """Whether members take each step together, or in turns."""

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
    sizes: Any = {"batch_sizes": [32, 128, 512, 2048], "populations": [1, 8, 64]}
    parser = harness.make_parser(__doc__, data="fashion", **sizes)
    args = parser.parse_args()
    images, source = harness.find_images(args.data_dir)
    if max(args.batch_sizes) > len(images):
        parser.error(f"--batch-sizes must be from 1 to the {len(images)} images")
    described = f"{len(images)} images, {images.dtype}, {images.nbytes / 1e6:.2f} MB"
    header = harness.about(images=source, data_set=described)
    settings = [
        Setting(batch_size, 1, *ways)
        for batch_size in args.batch_sizes
        for members in args.populations
        # A population of one is the single GAN.
        for ways in ([(members, False), (members, True)] if members > 1 else [()])
    ]
    rows, programs = [], []
    for setting in settings:
        harness.note(f"compiling: {setting}")
        programs.append(compile_epoch(setting, len(images)))
        named = {"batch_size": setting.batch_size, "members": setting.members or 1}
        rows.append(named | {"way": setting.way} | planned(programs[-1], images))
    add_peaks(rows, settings, programs, images)
    print(harness.table(COLUMNS, rows))
    harness.write_json(args.json, header | {"rows": rows})


def start(setting: Setting) -> tuple[jaxgan.GANState, jax.Array]:
    """The untrained state, and the key or the keys of the training."""
    if setting.members is None:
        rngs = loop.make_rngs(0)
        return jaxgan.create_state(rngs.init, setting.config), rngs.training
    rngs = loop.make_rngs(range(setting.members))
    states = jax.vmap(lambda rng: jaxgan.create_state(rng, setting.config))(rngs.init)
    return states, rngs.training


def compile_epoch(setting: Setting, n: int) -> jax.stages.Compiled:
    """`loop.train_epoch` over n images as one program(state, data, rng, epoch).

    It makes the order of the data, trains, and returns the means of the metrics. It donates the
    state.
    """
    layout = make_layout(1, population=setting.members is not None, vectorize=setting.together)
    epoch = functools.partial(
        loop.train_epoch, jaxgan.train_step, batch_size=setting.batch_size, layout=layout
    )
    state, rng = jax.eval_shape(functools.partial(start, setting))
    data = jax.ShapeDtypeStruct((n, *setting.config.image_shape), np.uint8)
    return jax.jit(epoch, donate_argnums=0).lower(state, data, rng, 0).compile()


def planned(program: jax.stages.Compiled, images: np.ndarray) -> dict[str, float]:
    """The memory of an epoch over the images in MB, by the account of the compiler."""
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
    """Adds to each row the largest memory in use on the device so far, if the device counts it."""
    peak = 0
    data = None if device_peak() is None else jax.device_put(images)
    for i in sorted(range(len(rows)), key=lambda i: rows[i]["total_mb"]):
        rows[i]["peak_mb"] = None
        if data is None:
            continue
        harness.note(f"running: {settings[i]}")
        state, rng = start(settings[i])
        jax.block_until_ready(programs[i](state, data, rng, 0))
        before, peak = peak, device_peak() or 0
        rows[i]["peak_mb"] = peak / 1e6 if peak > before else None


def device_peak() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


if __name__ == "__main__":
    harness.main(main)
