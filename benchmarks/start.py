"""Seconds from the command `python scripts/train.py` to the end of the first training step.

On a cold cache of compiled programs (a new, empty folder) and on a warm one, beside what
`import jaxgan` adds to the import of jax, flax.linen, optax and numpy. Each run is a process of its
own; they take turns, so that a slow moment of the machine hits all.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steps_per_second import machine

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"

IMPORTS = """
import time
started = time.perf_counter()
import jax, flax.linen, optax, numpy
dependencies = time.perf_counter()
import jaxgan
print(dependencies - started, time.perf_counter() - dependencies)
"""

# The script as it is, up to the moment when it would show the metrics of its first step.
FIRST_STEP = """
import os, sys
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
import train
from jaxgan import cli, loop
loop._Progress.show = lambda *_: os._exit(0)
cli.main(train.main)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument(
        "options", nargs="*", help="for scripts/train.py, behind --, such as -- --dataset digits"
    )
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats must be above 0")

    seconds = measure(args.repeats, args.options)
    # Not before: what asks for the device may also take its memory.
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    rows = {
        name: {"median": statistics.median(each), "min": min(each), "max": max(each)}
        for name, each in seconds.items()
    }
    print(f"{'seconds':34}median     min     max")
    for name, row in rows.items():
        print(f"{name:32}" + "".join(f"{value:8.3f}" for value in row.values()))
    if args.json:
        args.json.write_text(json.dumps(about | {"seconds": rows}, indent=2) + "\n")


def measure(repeats: int, options: list[str]) -> dict[str, list[float]]:
    names = (
        "import dependencies",
        "import jaxgan",
        "first step, cold cache",
        "first step, warm cache",
    )
    seconds: dict[str, list[float]] = {name: [] for name in names}
    # Once before, uncounted: the files are then in the memory of the system.
    import_seconds()
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            first_steps = [first_step_seconds(cache, options) for _ in range(2)]
        for name, value in zip(names, [*import_seconds(), *first_steps], strict=True):
            seconds[name].append(value)
    return seconds


def import_seconds() -> list[float]:
    """Of the dependencies, and of jaxgan after them."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def first_step_seconds(cache: str, options: list[str]) -> float:
    """From the start of the process to the metrics of the first step, read by the host."""
    # Without a folder that the caller has chosen for compiled programs.
    environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    environment["XDG_CACHE_HOME"] = cache
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-c", FIRST_STEP, str(TRAIN), "--workdir", workdir, *options]
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
