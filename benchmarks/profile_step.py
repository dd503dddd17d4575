"""What a step of training spends its time on: a table by kind of work.

For each preset this compiles the program that `loop.fit` runs for whole batches, times it, and
traces some steps. A trace has an event for each kernel of a GPU, and on a CPU for each function
that XLA has compiled. The instruction that an event belongs to tells its kind: what it computes,
and where in the code it comes from. One that joins several kinds of work has the kind of its
result if that is optimizer, measurement or random numbers, else that of most of its parts.

The numbers are of one step:
- kernels: how often the device starts something.
- us: microseconds in which it ran. Where several threads of a CPU or streams of a GPU run
  instructions at once, these share the time equally.
- kinds: batch gathers the images; copies are also padding; counters are those of loops;
  activations are all the rest: also biases, dropout, losses and the derivatives of all these.

The line above a table has the wall time of a step without tracing, and of the traced ones. In the
rest of the time no instruction runs. Tracing makes that longer: on a GPU each kernel starts later,
and XLA uses no CUDA graphs. The traces and the texts of the programs are left in
runs/profile/PRESET. Nothing else should run at the same time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import harness
import hlo
import jax
import numpy as np

import jaxgan
from jaxgan import PRESETS, schedules
from jaxgan.errors import JaxganError
from jaxgan.run import loop

WAITING = "waiting"
"""What `divide` calls the time in which no instruction runs."""
MARKS = {
    "optimizer": r"\boptimizer\b",
    "measurement": r"\bmeasure\b",
    "random numbers": r"threefry|random_|_uniform|_normal|_bernoulli|_draw_bits",
}
"""Kinds by the names that JAX gives to what the code does."""
MOVES = {"transpose", "reshape", "pad", "slice", "concatenate", *hlo.COPIES}
CONTAINERS = {"while", "call", "conditional"}
"""The time of these is that of the instructions inside."""
COLUMNS = "kind kind, kernels kernels, us us, share share"


def main() -> None:
    parser = harness.make_parser(__doc__, data="fashion", steps=100, rounds=5)
    parser.set_defaults(json=harness.RUNS / "profile.json")
    harness.add_names(parser, "--presets", ("reference", "tuned", "large", "diffusion"))
    args = parser.parse_args()
    images, source = harness.find_images(args.data_dir)
    header, found = harness.about(images=source), []
    for preset in args.presets:
        harness.note(f"compiling and tracing {preset}")
        found.append(measure(preset, images, args.steps, args.rounds))
        print(described(found[-1]), flush=True)
        harness.write_json(args.json, header | {"presets": found})


def measure(preset: str, images: np.ndarray, steps: int, rounds: int) -> harness.Row:
    """The profile of a preset."""
    program = compile_steps(preset, images, steps)
    folder = harness.RUNS / "profile" / preset
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.txt").write_text(program.text)
    program.run()
    seconds = [harness.seconds_of(program.run) for _ in range(rounds)]
    instructions = find_instructions(program.text)
    events = trace(program.run, folder, instructions)
    rows = make_rows(events, instructions.kinds, program.steps)
    return {
        "preset": preset,
        "steps": program.steps,
        "us": harness.spread([1e6 * one / program.steps for one in seconds]),
        "us_traced": sum(divide(events).values()) / 1e3 / program.steps,
        "us_running": sum(row["us"] for row in rows),
        "products": hlo.count(program.text, jax.default_backend())["products"],
        "products_traced": sum(instructions.products[name] for name in {e.name for e in events}),
        "rows": rows,
    }


class Program(NamedTuple):
    text: str
    """Of the compiler."""
    steps: int
    run: Callable[[], None]
    """Takes these steps."""


def compile_steps(preset: str, images: np.ndarray, steps: int) -> Program:
    """Compiles a program of `loop.fit`. It runs as often as it takes for about these steps."""
    config, settings = PRESETS[preset]
    n, batch_size = len(images), settings.batch_size
    config = schedules.over(config, settings.all_steps(n))
    model = next(model for model in jaxgan.MODELS.values() if isinstance(config, model.config))
    rngs, data = loop.make_rngs(0), {"image": jax.device_put(images)}
    state = model.create_state(rngs.init, config)
    totals = loop.start_run(model.train_step, state, data, batch_size).totals
    order = loop._epoch_order(rngs.training, 0, n)
    full = n // batch_size
    options, start, stop = next(loop._programs(0, min(steps, full), full, loop._chunk(full)))
    arguments = data, order, rngs.training, start, stop
    options |= {"batch_size": batch_size}
    compiled = loop._compiled_steps.lower(model.train_step, state, totals, *arguments, **options)
    compiled = compiled.compile()
    calls = max(1, round(steps / (stop - start)))

    def run() -> None:
        nonlocal state, totals
        for _ in range(calls):
            state, totals = compiled(state, totals, *arguments)
        jax.block_until_ready((state, totals))

    return Program(compiled.as_text() or "", calls * (stop - start), run)


class Instructions(NamedTuple):
    """What is known of the instructions of a program, by their names and by those of kernels."""

    kinds: Mapping[str, str]
    products: Mapping[str, int]
    """How many matrix products they have inside."""
    containers: set[str]


def find_instructions(text: str) -> Instructions:
    """The instructions of a compiled program."""
    computations = hlo.parse(text)
    kinds: dict[str, str] = {}
    products: dict[str, int] = Counter()
    containers = set()
    for ops in computations.values():
        sources = find_sources(ops)
        for op in ops:
            inside = [part for name in op.calls for part in hlo.all_ops(computations, name)]
            # A kernel of a GPU has the name of its instruction, without dots.
            for name in {op.label, re.sub(r"\W", "_", op.label)}:
                if op.name in CONTAINERS:
                    containers.add(name)
                else:
                    kinds[name] = kind_of(op, inside, sources[op.label])
                    products[name] = sum(map(hlo.is_product, [op, *inside]))
    return Instructions(kinds, products, containers)


def find_sources(ops: Sequence[hlo.Op]) -> dict[str, str]:
    """Where in the code the instructions of a computation come from.

    The compiler makes some of its own. They come from where their result is used.
    """
    sources: dict[str, str] = {}
    users: dict[str, str] = {}
    for op in reversed(ops):  # in the order in which they run
        sources[op.label] = found = source(op) or users.get(op.label, "")
        if found:
            operands = re.findall(r"[\w.-]+", op.rest.partition(")")[0])
            users |= dict.fromkeys(operands, found)
    return sources


def source(op: hlo.Op) -> str:
    """Where in the code an instruction comes from: names of functions and of an operation."""
    found = re.search(r'op_name="([^"]*)"', op.rest)
    return found[1] if found else ""


def kind_of(op: hlo.Op, inside: Sequence[hlo.Op], where: str) -> str:
    """The kind of an instruction, by those inside of it and where it comes from."""
    both = [op, *inside]
    # For the compiler a product of few numbers is a sum, and a long one is several and a sum.
    if any(map(hlo.is_product, both)) or source(op).endswith("dot_general"):
        return "matrix products"
    if any(part.name == "gather" for part in both):
        return "batch"
    parts = [part for part in inside if part.name not in hlo.FREE | {"broadcast"}]
    own = mark(op, where)
    if own in MARKS or op.name != "fusion" or not parts:
        return own
    # If two kinds have as many parts, the last part decides. It is the result.
    votes = Counter(mark(part, source(part) or where) for part in reversed(parts))
    clear = Counter({kind: n for kind, n in votes.items() if kind not in ("copies", "counters")})
    return (clear or votes).most_common(1)[0][0]


def mark(op: hlo.Op, where: str) -> str:
    """The kind of an instruction by itself."""
    if op.name in MOVES:
        where = source(op)  # what the compiler moves is no work of the code
    if re.match(r"\(?u(16|32|64)\[", op.shape):  # nothing else has such numbers
        return "random numbers"
    for kind, pattern in MARKS.items():
        if re.search(pattern, where):
            return kind
    if re.match(r"(s32|pred)\[[1,]*\]", op.shape):
        return "counters"
    return "copies" if op.name in MOVES else "activations"


class Event(NamedTuple):
    """An instruction that ran."""

    line: str
    """The thread, or the stream of a GPU."""
    start: float
    """In nanoseconds, as the end."""
    end: float
    name: str


def trace(run: Callable[[], None], folder: Path, instructions: Instructions) -> list[Event]:
    """Runs a program, and leaves a trace in the folder.

    Raises:
      JaxganError: if the trace has none of its instructions.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), profiler_options=options):
        run()
    files = folder.glob("plugins/profile/*/*.xplane.pb")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    on_gpu = jax.default_backend() != "cpu"
    events = list(read_events(newest, instructions, on_gpu=on_gpu))
    if not any(event.name in instructions.kinds for event in events):
        raise JaxganError(f"the trace in {folder} has no instructions: a GPU needs CUPTI for it")
    return events


def read_events(file: Path, instructions: Instructions, *, on_gpu: bool) -> Iterator[Event]:
    """The instructions in a trace: kernels of a GPU or functions of a CPU."""
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            if on_gpu and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if on_gpu and name not in instructions.kinds:
                    name = event.name
                if name is not None and name not in instructions.containers:
                    end = event.start_ns + event.duration_ns
                    yield Event(f"{plane.name} {line.name}", event.start_ns, end, str(name))


def divide(events: Sequence[Event]) -> dict[str, float]:
    """The time from the first start to the last end, in nanoseconds by instruction.

    Instructions that run at once share the time equally. On one line they are nested: the time is
    that of the innermost.
    """
    points = [
        point
        for i, event in enumerate(events)
        if event.start < event.end
        for point in ((event.start, 1, -event.end, i), (event.end, 0, 0, i))
    ]
    times: dict[str, float] = defaultdict(float)
    lines: dict[str, list[int]] = defaultdict(list)
    before = min(points)[0] if points else 0
    for at, starts, _, i in sorted(points):
        running = [events[line[-1]].name for line in lines.values() if line] or [WAITING]
        for name in running:
            times[name] += (at - before) / len(running)
        before, line = at, lines[events[i].line]
        if starts:
            line.append(i)
        else:
            line.remove(i)
    return times


def make_rows(events: Sequence[Event], kinds: Mapping[str, str], steps: int) -> list[harness.Row]:
    """The rows of a profile, by time."""
    kernels = Counter(kinds.get(event.name, "unknown") for event in events)
    times = dict.fromkeys(kernels, 0.0)
    for name, time in divide(events).items():
        if name != WAITING:
            times[kinds.get(name, "unknown")] += time
    running = sum(times.values())
    return [
        {
            "kind": kind,
            "kernels": kernels[kind] / steps,
            "us": time / 1e3 / steps,
            "share": time / running,
        }
        for kind, time in sorted(times.items(), key=lambda item: -item[1])
    ]


def described(found: harness.Row) -> str:
    """The profile of a preset as text."""
    total = {name: sum(row[name] for row in found["rows"]) for name in ("kernels", "us", "share")}
    return (
        f"\n{found['preset']}: a step takes {harness.cell(found['us'])} us. The {found['steps']} "
        f"traced steps took {harness.cell(found['us_traced'])}, and instructions ran in "
        f"{harness.cell(found['us_running'])}, with {found['products_traced']} of the "
        f"{found['products']} matrix products\n"
        + harness.table(COLUMNS, [*found["rows"], {"kind": "all", **total}])
    )


if __name__ == "__main__":
    harness.main(main)
