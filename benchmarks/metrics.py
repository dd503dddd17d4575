"""The time and memory of each metric of samples: 10,000 against 10,000, of 128 features.

Each runs once for its programs to be compiled, then --repeats times; printed is the median. The
memory is the most that the process has held so far, imports and features included. Nothing else
should run meanwhile.
"""

import argparse
import json
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from steps_per_second import machine

from jaxgan.checkpoint import write_atomically
from jaxgan.metrics.classifier import FEATURES, class_scores
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance
from jaxgan.metrics.neighbours import memorisation, prdc

TRAINED = 60_000
"""Training images that the memorisation check looks for the nearest in."""


def main() -> None:
    args = parse()
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    rng = np.random.default_rng(0)
    # As features are after a ReLU.
    train, unseen, samples = (
        np.maximum(rng.normal(size=(n, FEATURES)), 0).astype(np.float32)
        for n in (max(TRAINED, args.num), args.num, args.num)
    )
    real = train[: args.num]
    classes = rng.dirichlet(np.ones(10), size=args.num)
    metrics: dict[str, Callable[[], object]] = {
        "Fréchet distance": lambda: frechet_distance(real, samples),
        "KID": lambda: kernel_distance(real, samples),
        "precision, recall, density, coverage": lambda: prdc(real, samples),
        f"memorisation, of {len(train):,}": lambda: memorisation(train, unseen, samples),
        "classifier score, classes": lambda: class_scores(classes, classes),
    }
    rows = []
    for name, metric in metrics.items():
        metric()
        seconds = statistics.median(timed(metric) for _ in range(args.repeats))
        rows.append({"metric": name, "seconds": seconds, "peak_mb": peak_mb()})
        print(f"{name:40} {seconds:7.2f} s {rows[-1]['peak_mb']:7.0f} MB", flush=True)
    total = sum(row["seconds"] for row in rows)
    print(f"{'all':40} {total:7.2f} s")
    if args.json:
        content = about | {"num": args.num, "rows": rows, "seconds": total}
        write_atomically(args.json, json.dumps(content, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    if args.num < 10 or args.repeats < 1:
        parser.error("--num must be 10 or more, --repeats 1 or more")
    return args


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


if __name__ == "__main__":
    main()
