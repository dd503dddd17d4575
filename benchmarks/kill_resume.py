"""Kills training runs with SIGKILL at random moments, resumes them, and compares them to the bit.

Each trial starts scripts/train.py, kills it --kills times and then lets it finish. Half of the
kills wait until a save is under way. The last checkpoint (parameters, moments of both Adams,
counters) and metrics.csv without its timings must equal those of a run that was never interrupted.
Fifty trials take about half an hour on two CPU cores.
"""

import collections
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import jax
import numpy as np

from jaxgan import MODELS
from jaxgan.run import checkpoint, saved

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
TIMINGS = ("seconds", "steps_per_second")


def start(workdir: Path, options: list[str]) -> subprocess.Popen:
    """Starts training in a process."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), "--workdir", str(workdir), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> float:
    """Waits until a process ends without an error; returns the seconds."""
    started = time.perf_counter()
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"training failed with exit code {process.returncode}:\n{errors.decode()}")
    return time.perf_counter() - started


def kill_once(
    process: subprocess.Popen, workdir: Path, chance: random.Random, seconds: float
) -> str:
    """Waits for a new checkpoint, and kills the process after a random time.

    Returns the moment: `random`, `in a save`, or `too late`.
    """
    in_a_save = chance.random() < 0.5
    before = checkpoint.steps(workdir)[:1]
    while process.poll() is None and checkpoint.steps(workdir)[:1] == before:
        time.sleep(0.002)
    until = time.perf_counter() + chance.uniform(0, seconds)
    while process.poll() is None and time.perf_counter() < until:
        time.sleep(0.0005)
    if in_a_save:
        while process.poll() is None and not is_saving(workdir):
            time.sleep(0.0002)
        time.sleep(chance.uniform(0, 0.03))
    if process.poll() is not None:
        finish(process)
        return "too late"
    process.kill()
    process.communicate()
    return "in a save" if is_saving(workdir) else "random"


def is_saving(workdir: Path) -> bool:
    # Orbax gives a step this name until it is complete.
    return any(workdir.glob("checkpoints/*-tmp*"))


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs."""
    arrays = []
    for workdir in (one, other):
        restored = checkpoint.restore(workdir, saved.checkpoint_like(MODELS["gan"], workdir))
        if restored is None:
            return [f"{workdir} has no checkpoint"]
        arrays.append(jax.tree_util.tree_leaves_with_path(restored[0].arrays))
    found = [
        jax.tree_util.keystr(path)
        for (path, a), (_, b) in zip(*arrays, strict=True)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
    ]
    tables = [metrics(workdir) for workdir in (one, other)]
    if tables[0] != tables[1]:
        found.append(f"metrics.csv ({len(tables[0])} and {len(tables[1])} rows)")
    return found


def metrics(workdir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the timings."""
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_rows(workdir)]


def read_rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trial(
    folder: Path, reference: Path, options: list[str], kills: int, seed: int, seconds: float
) -> tuple[list[str], list[str]]:
    """Kills and resumes one run; returns the moments of the kills, and what differs at the end."""
    chance = random.Random(seed)
    workdir = folder / f"trial_{seed}"
    moments = [kill_once(start(workdir, options), workdir, chance, seconds) for _ in range(kills)]
    finish(start(workdir, options))
    return moments, differences(workdir, reference)


def main() -> None:
    parser = harness.make_parser(__doc__, trials=50, kills=2, epochs=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--dataset", default="digits", help="default: %(default)s")
    args = parser.parse_args()
    header = harness.about()
    options = ["--dataset", args.dataset, "--epochs", str(args.epochs), "--checkpoint-every", "1"]
    equal, kills = 0, collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, reference = Path(name), Path(name) / "reference"
        # All processes compile the same programs; one of them is enough.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        finish(start(reference, options))
        seconds = sum(float(row["seconds"]) for row in read_rows(reference))
        for i in range(args.trials):
            harness.note(f"trial {i + 1} of {args.trials}")
            seed = args.seed + i
            moments, differ = trial(folder, reference, options, args.kills, seed, 2 * seconds)
            kills.update(moments)
            equal += not differ
            if differ:
                harness.note(f"killed {', '.join(moments)}: {', '.join(differ)} differ")
    text = harness.cell(dict(sorted(kills.items())))
    print(f"{equal} of {args.trials} runs equal the uninterrupted one to the bit; kills: {text}")
    harness.write_json(args.json, header | {"trials": args.trials, "equal": equal, "kills": kills})
    sys.exit(equal != args.trials)


if __name__ == "__main__":
    harness.main(main)
