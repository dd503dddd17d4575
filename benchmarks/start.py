"""Seconds from the command `python scripts/train.py` to the end of the first training step.

cold: with an empty cache of compiled programs. warm: once more with the same cache. Beside them
stand the import of jax, flax, optax and numpy, and what `import jaxgan` adds to it. Each start is a
new process; they take turns. A round takes about ten seconds on two CPU cores. Nothing else should
run at the same time.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
NAMES = ("import dependencies", "import jaxgan", "first step, cold cache", "first step, warm cache")
COLUMNS = "name what, median seconds, min min, max max"

IMPORTS = """
import time
started = time.perf_counter()
import jax, flax.linen, optax, numpy
dependencies = time.perf_counter()
import jaxgan
print(dependencies - started, time.perf_counter() - dependencies)
"""

# The script itself, up to the moment when it shows the metrics of its first step.
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
    parser = harness.make_parser(__doc__, rounds=5)
    parser.add_argument(
        "options", nargs="*", help="of scripts/train.py, after --, such as -- --dataset digits"
    )
    args = parser.parse_args()
    import_seconds()  # then the files are in the memory of the system
    turns = {"imports": import_seconds, "starts": lambda: start_seconds(args.options)}
    found = harness.in_turns(turns, args.rounds)
    columns = [*zip(*found["imports"], strict=True), *zip(*found["starts"], strict=True)]
    seconds = {k: harness.spread(v) for k, v in zip(NAMES, columns, strict=True)}
    # At the end: jax, once it has a device, may hold the memory that the starts need.
    header = harness.about()
    print(harness.table(COLUMNS, [{"name": name, **row} for name, row in seconds.items()]))
    harness.write_json(args.json, header | {"seconds": seconds})


def import_seconds() -> list[float]:
    """Of the dependencies, and of jaxgan after them."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def start_seconds(options: list[str]) -> list[float]:
    """From the start of a process to the first metrics, with a cold and with a warm cache."""
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        # Without a cache folder that the user has chosen.
        environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}
        environment["XDG_CACHE_HOME"] = cache
        for _ in range(2):
            with tempfile.TemporaryDirectory() as workdir:
                command = [sys.executable, "-c", FIRST_STEP, str(TRAIN), "--workdir", workdir]
                started = time.perf_counter()
                subprocess.run([*command, *options], env=environment, check=True)
                seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    harness.main(main)
