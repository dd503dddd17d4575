"""The time and the memory of each metric of samples: 10,000 samples against 10,000, 128 features.

All metrics run in turns; the seconds are medians. The memory is the most that the process has held
when a metric has run for the first time, with imports and features. It takes about a minute on two
CPU cores. Nothing else should run at the same time.
"""

import functools
import resource
import sys
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

from jaxgan.metrics.classifier import FEATURES, class_scores
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance
from jaxgan.metrics.neighbours import memorisation, prdc

TRAINED = 60_000
"""The number of training images for the memorisation."""
COLUMNS = "metric metric, seconds seconds, peak_mb memory MB"


def main() -> None:
    parser = harness.make_parser(__doc__, num=10_000, rounds=3)
    args = parser.parse_args()
    if args.num < 10:
        parser.error("--num must be 10 or more")
    header = harness.about(num=args.num)
    metrics = make_metrics(args.num)
    peaks = {}
    for name, metric in metrics.items():  # compiles
        metric()
        peaks[name] = peak_mb()
    programs = {k: functools.partial(harness.seconds_of, metric) for k, metric in metrics.items()}
    rows: list[dict[str, Any]] = [
        {"metric": name, "seconds": harness.spread(seconds)["median"], "peak_mb": peaks[name]}
        for name, seconds in harness.in_turns(programs, args.rounds).items()
    ]
    total = sum(row["seconds"] for row in rows)
    print(harness.table(COLUMNS, [*rows, {"metric": "all", "seconds": total}]))
    harness.write_json(args.json, header | {"rows": rows, "seconds": total})


def make_metrics(n: int) -> dict[str, Callable[[], object]]:
    """Each metric as a function without arguments, on features as they are after a ReLU."""
    rng = np.random.default_rng(0)
    train, test, samples = (
        np.maximum(rng.normal(size=(n, FEATURES)), 0).astype(np.float32)
        for n in (max(TRAINED, n), n, n)
    )
    real = train[:n]
    classes = rng.dirichlet(np.ones(10), size=n)
    return {
        "Fréchet distance": lambda: frechet_distance(real, samples),
        "KID": lambda: kernel_distance(real, samples),
        "precision, recall, density, coverage": lambda: prdc(real, samples),
        f"memorisation, of {len(train):,}": lambda: memorisation(train, test, samples),
        "classifier score, classes": lambda: class_scores(classes, classes),
    }


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


if __name__ == "__main__":
    harness.main(main)
