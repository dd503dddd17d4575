"""What the training step becomes on a CPU, an H100, a TPU v5e and a TPU v6e: compiled, not run.

The compilers run on any Linux machine, without the device. For each program and device this
compiles what `loop.fit` runs between two looks at the progress: a loop of steps over 60,000 images
on the device, with a donated state. For the H100 it needs `pip install 'jax[cuda13]'` (4.6 GB), for
a TPU `pip install 'jax[tpu]'`. Without --devices it leaves out devices without a compiler. A
program takes 10 to 60 seconds. Rows that the file of --json has are not compiled again.

The numbers are of one step (of all members, where they train together):
- kernels: what the device starts one after the other; on the CPU, calls of compiled functions.
- copies on the device, which are no kernels here. On a TPU most of them run beside the kernels.
- products: matrix products.
- GFLOP, MB moved and the time (us): estimates of the compiler; NVIDIA's gives none. An estimate
  counts one turn of each loop, and a gather as a read of its whole operand.
- memory: of the whole program, with the data set (47 MB).
- open loops: whiles without a known number of turns. On a GPU the host then reads a flag back in
  each turn. "to the host" counts these reads and all other transfers to the host.
"unmeasured" is the reference without metrics: the difference is what measuring costs.

In a run on an H100 the compiler times several kernels for each product, and takes the fastest. Here
it cannot, so a run may have a few more or fewer kernels.
"""

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# No device is used. libtpu would look for the TPU of this machine, and refuse a second process.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import harness
import jax
import numpy as np
from hlo import count
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import jaxgan
from jaxgan import PRESETS, schedules
from jaxgan.errors import JaxganError
from jaxgan.run import loop
from jaxgan.run.members import make_runs

IMAGES = (60_000, 28, 28, 1)
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
"""
"""What the compiler asks of an H100 (SXM), a GpuTargetConfigProto."""


class Device(NamedTuple):
    platform: str
    extra: str = ""
    """What pip installs for its compiler."""
    topology: str = ""
    options: Mapping[str, Any] = {}

    def find(self) -> Any:
        """A device to compile for.

        Raises:
          JaxganError: if its compiler is not installed.
        """
        if not self.topology:
            return jax.devices("cpu")[0]
        try:
            found = topologies.get_topology_desc(self.topology, self.platform, **self.options)
        except Exception as error:  # of other types in other versions
            reason = str(error).partition("\n")[0]
            raise JaxganError(
                f"cannot compile for {self.platform} ({reason}): pip install '{self.extra}'"
            ) from error
        return found.devices[0]


DEVICES = {
    "cpu": Device("cpu"),
    "h100": Device("cuda", "jax[cuda13]", "1x1x1", {"target_config": H100, "topology": "1x1x1"}),
    "v5e": Device("tpu", "jax[tpu]", "v5e:2x2"),
    "v6e": Device("tpu", "jax[tpu]", "v6e:2x2"),
}


class Program(NamedTuple):
    preset: str = "reference"
    members: int | None = None
    """Of a population."""
    measured: bool = True
    """Whether the step has metrics."""
    last: bool = False
    """Whether it is the program of the smaller last batch."""


PROGRAMS = {
    "reference": Program(),
    "unmeasured": Program(measured=False),
    "last batch": Program(last=True),
    "tuned": Program("tuned"),
    "large": Program("large"),
    "population of 64": Program(members=64),
    "diffusion": Program("diffusion"),
}
COMPILERS = ("jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc")
COLUMNS = (
    "program program, device device, kernels kernels, copies copies, products products, gflop "
    "GFLOP, moved_mb MB moved, estimate_us us, memory_mb memory MB, open_loops open loops, to_host "
    "to the host"
)


def main() -> None:
    parser = harness.make_parser(__doc__)
    parser.set_defaults(json=harness.RUNS / "compile_only.json")
    harness.add_names(parser, "--devices", DEVICES)
    harness.add_names(parser, "--programs", PROGRAMS)
    args = parser.parse_args()
    chosen = args.devices is not parser.get_default("devices")
    devices = find_devices(args.devices, needed=chosen)
    header = harness.about(compilers=", ".join(compilers()))
    names = [(program, device) for program in PROGRAMS for device in DEVICES]
    rows = harness.Rows(args.json, header, ("program", "device"), list(map(" ".join, names)))
    found = []
    for program, device in names:
        if program not in args.programs or device not in devices:
            continue
        settings = described(PROGRAMS[program])
        row = rows.find(f"{program} {device}", settings)
        if row is None:
            harness.note(f"compiling {program} for {device}")
            counts = measure(PROGRAMS[program], DEVICES[device].platform, devices[device])
            row = {"program": program, "device": device, **counts, "settings": settings}
            rows.put(row, np.zeros(0))
        found.append(row)
    print(harness.table(COLUMNS, found))
    print("These programs were compiled, not run. Times are estimates of the compiler.")


def find_devices(names: list[str], *, needed: bool) -> dict[str, Any]:
    """The devices by name. If they are not `needed`, those without a compiler are left out."""
    found = {}
    for name in names:
        try:
            found[name] = DEVICES[name].find()
        except JaxganError as error:
            if needed:
                raise
            harness.note(f"{name} is left out: {error}")
    return found


def compilers() -> Iterator[str]:
    """The installed compilers with their versions."""
    for name in COMPILERS:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def described(program: Program) -> harness.Row:
    """What a row depends on."""
    config, settings = PRESETS[program.preset]
    return harness.settings(config, batch_size=settings.batch_size, **program._asdict())


def measure(program: Program, platform: str, device: Any) -> harness.Row:
    """The numbers of a row."""
    compiled = compile_steps(program, platform, device)
    cost: Any = compiled.cost_analysis() or {}
    plan: Any = compiled.memory_analysis()
    held = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    held += plan.output_size_in_bytes - plan.alias_size_in_bytes
    seconds = cost.get("optimal_seconds", 0)  # 0 or less if it is not known
    return {
        **count(compiled.as_text() or "", platform),
        "gflop": cost["flops"] / 1e9 if cost else None,
        "moved_mb": cost["bytes accessed"] / 1e6 if cost else None,
        "estimate_us": 1e6 * seconds if seconds > 0 else None,
        "memory_mb": held / 1e6,
    }


def compile_steps(program: Program, platform: str, device: Any) -> jax.stages.Compiled:
    """Compiles the steps of an epoch for a device, as `loop.fit` does."""
    config, settings = PRESETS[program.preset]
    settings = dataclasses.replace(settings, population=program.members).fitted(IMAGES[0])
    config = schedules.over(config, settings.all_steps(IMAGES[0]))
    model = next(model for model in jaxgan.MODELS.values() if isinstance(config, model.config))
    step = model.train_step if program.measured else without_metrics(model.train_step)
    runs = make_runs(model, config, settings)
    # Members train together on an accelerator, and in turns on a CPU.
    layout = runs.make_layout(1)._replace(vectorize=platform != "cpu")
    data = {"image": jax.ShapeDtypeStruct(IMAGES, np.uint8)}
    state, rng = runs.state_like(), runs.rngs.training
    totals = loop.start_run(step, state, data, settings.batch_size, layout).totals
    order = jax.eval_shape(functools.partial(loop._epoch_order, n=IMAGES[0]), rng, 0)
    at = jax.ShapeDtypeStruct((), np.int32, weak_type=True)  # a Python number
    sharding = SingleDeviceSharding(device)

    def place(x: Any) -> jax.ShapeDtypeStruct:
        weak = getattr(x, "weak_type", False)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=weak)

    arguments = jax.tree.map(place, (state, totals, data, order, rng, at, at))
    options = {"batch_size": settings.batch_size, "layout": layout}
    length = loop._chunk(IMAGES[0] // settings.batch_size, platform)
    if program.last:
        options["last"] = True
    elif length:
        options["length"] = length
    traced = loop._compiled_steps.trace(step, *arguments, **options)
    return traced.lower(lowering_platforms=(platform,)).compile()


class NoMetrics(NamedTuple):
    """The metrics of a step that measures nothing."""


def without_metrics(train_step: loop.TrainStep) -> loop.TrainStep:
    """The step without its metrics: the compiler leaves out what only they need."""
    return lambda state, batch, rng: (train_step(state, batch, rng)[0], NoMetrics())


if __name__ == "__main__":
    harness.main(main)
