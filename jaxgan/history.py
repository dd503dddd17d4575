"""The history of a run: a row for each epoch, as plain dicts.

A row holds epoch, step, the means of the metrics over the steps of the epoch, seconds,
steps_per_second and, if samples were evaluated, their scores. In the history of a population each
metric is a list with a value for each member, NaN if the member has diverged.

NAME_square, if the steps have it, is the mean over the steps of an estimate: the square of the
expectation of NAME, without the noise of the batch (`jaxgan.adversarial.measures.square`). People
get NAME_sd in its place, the standard deviation over the steps. The estimate of the variance can be
negative, if the steps differ by less than the noise of the batches. NAME_sd is then minus the root
of its size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
History = Sequence[Row]


def readable(row: Row) -> dict[str, Any]:
    """A row for people: NAME_sd in place of NAME_square, and the names of scores without their
    extractors."""
    found = {}
    for name, value in row.items():
        stem = name.removesuffix("_square")
        if stem != name and stem in row:
            variance = np.asarray(value) - np.square(row[stem])
            name, value = f"{stem}_sd", (np.sign(variance) * np.abs(variance) ** 0.5).tolist()
        found[name.partition("(")[0]] = value
    return found


def with_squares(row: Row) -> dict[str, Any]:
    """A row with NAME_square in place of NAME_sd."""
    found = {}
    for name, value in row.items():
        stem = name.removesuffix("_sd")
        if stem != name and stem in row:
            name, value = f"{stem}_square", value * abs(value) + row[stem] ** 2
        found[name] = value
    return found


def finite_mean(values: Any) -> float:
    """The mean of a metric over the members that have not diverged; for one run, its value."""
    flat = np.ravel(values)
    finite = flat[np.isfinite(flat)]
    return float(finite.mean()) if len(finite) else float("nan")


def mean_interval(values: Any) -> dict[str, Any]:
    """The mean of a metric over the n members that have not diverged, and half of its 95% interval
    (Student's t), None if n is below 2. The mean is None if n is 0."""
    from scipy import stats

    flat = np.ravel(values)
    finite = flat[np.isfinite(flat)]
    n, half = len(finite), None
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1) * finite.std(ddof=1) / np.sqrt(n))
    return {"mean": float(finite.mean()) if n else None, "half": half, "n": n}


def finite_members(row: Row) -> np.ndarray:
    """Which members of a population have not diverged: `[members]`, bool."""
    return np.all([np.isfinite(v) for v in row.values() if isinstance(v, list)], axis=0)


def member_history(history: History, i: int) -> list[dict[str, Any]]:
    """The history of member i of a population, in the form of one run's history."""
    return [{k: v[i] if isinstance(v, list) else v for k, v in row.items()} for row in history]
