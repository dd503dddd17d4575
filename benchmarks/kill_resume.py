"""Kills training runs with SIGKILL at random moments, resumes them, and compares to the bit.

Each trial starts scripts/train.py, kills it up to --kills times, half of the times as soon as a
save is seen to be under way, lets it end, and compares the last checkpoint (parameters, both Adams,
steps) and metrics.csv (all but the timings) with those of a run that was never interrupted.
"""

import argparse
import csv
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from steps_per_second import machine
from tqdm import tqdm

from jaxgan import checkpoint, training

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
TIMINGS = ("seconds", "steps_per_second")


def start(workdir: Path, options: list[str]) -> subprocess.Popen:
    """Training in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(TRAIN), "--workdir", str(workdir), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> float:
    """Waits for a process to end well; gives the seconds that it took from now."""
    started = time.perf_counter()
    _, errors = process.communicate()
    if process.returncode != 0:
        sys.exit(f"training failed with exit code {process.returncode}:\n{errors.decode()}")
    return time.perf_counter() - started


def kill_once(
    process: subprocess.Popen, workdir: Path, chance: random.Random, seconds: float
) -> str:
    """Kills a process that trains; gives the moment: `random`, `in a save`, or `too late`."""
    in_a_save = chance.random() < 0.5
    begun = metrics_time(workdir)
    while process.poll() is None and metrics_time(workdir) == begun:
        time.sleep(0.002)
    until = time.perf_counter() + chance.uniform(0, seconds)
    while process.poll() is None and time.perf_counter() < until:
        time.sleep(0.0005)
    if in_a_save:
        # Orbax names a step so until it is whole.
        while process.poll() is None and not list(workdir.glob("checkpoints/*-tmp*")):
            time.sleep(0.0002)
        time.sleep(chance.uniform(0, 0.03))
    if process.poll() is not None:
        finish(process)
        return "too late"
    process.kill()
    process.communicate()
    return "in a save" if list(workdir.glob("checkpoints/*-tmp*")) else "random"


def metrics_time(workdir: Path) -> int:
    """When metrics.csv was last written: training is at work once it is."""
    path = workdir / "metrics.csv"
    return path.stat().st_mtime_ns if path.exists() else 0


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs, to the bit."""
    found = []
    arrays = []
    for workdir in (one, other):
        restored = checkpoint.restore(workdir, training.checkpoint_like(workdir))
        if restored is None:
            return [f"{workdir} has no checkpoint"]
        arrays.append(jax.tree_util.tree_leaves_with_path(restored[0].arrays))
    for (path, a), (_, b) in zip(*arrays, strict=True):
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            found.append(jax.tree_util.keystr(path))
    tables = [metrics(workdir) for workdir in (one, other)]
    if tables[0] != tables[1]:
        found.append(f"metrics.csv ({len(tables[0])} and {len(tables[1])} rows)")
    return found


def metrics(workdir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the timings."""
    rows = read_rows(workdir)
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def read_rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trial(
    folder: Path, reference: Path, options: list[str], kills: int, seed: int, seconds: float
) -> tuple[list[str], list[str]]:
    """One run, killed and resumed; gives the moments of the kills, and what differs at the end."""
    chance = random.Random(seed)
    workdir = folder / f"trial_{seed}"
    moments = [kill_once(start(workdir, options), workdir, chance, seconds) for _ in range(kills)]
    finish(start(workdir, options))
    return moments, differences(workdir, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=50, help="runs to kill (default: 50)")
    parser.add_argument("--kills", type=int, default=2, help="times each is killed (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--dataset", default="digits", help="as for scripts/train.py (default: digits)"
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each run (default: 40)")
    args = parser.parse_args()
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    options = ["--dataset", args.dataset, "--epochs", str(args.epochs), "--checkpoint-every", "1"]
    survived, moments = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # All processes compile the same programs: once is enough.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        finish(start(folder / "reference", options))
        seconds = sum(float(row["seconds"]) for row in read_rows(folder / "reference"))
        for i in tqdm(range(args.trials), "trials"):
            killed, differ = trial(
                folder, folder / "reference", options, args.kills, args.seed + i, 2 * seconds
            )
            moments += killed
            survived += not differ
            if differ:
                print(
                    f"trial {i}, killed {', '.join(killed)}: {', '.join(differ)}", file=sys.stderr
                )
    counts = {moment: moments.count(moment) for moment in sorted(set(moments))}
    print(
        f"{survived} of {args.trials} runs equal the uninterrupted one to the bit; kills: {counts}"
    )
    sys.exit(survived != args.trials)


if __name__ == "__main__":
    main()
