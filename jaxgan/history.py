"""The history of a run: a row for each epoch, as plain dicts.

A row holds epoch, step, the means of the metrics over the steps of the epoch, seconds,
steps_per_second and, if samples were evaluated, their scores. In the history of a population each
metric is a list with a value for each member, NaN if the member has diverged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
History = Sequence[Row]


def finite_mean(values: Any) -> float:
    """The mean of a metric over the members that have not diverged; for one run, its value."""
    flat = np.ravel(values)
    finite = flat[np.isfinite(flat)]
    return float(finite.mean()) if len(finite) else float("nan")


def finite_members(row: Row) -> np.ndarray:
    """Which members of a population have not diverged: `[members]`, bool."""
    return np.all([np.isfinite(v) for v in row.values() if isinstance(v, list)], axis=0)


def member_history(history: History, i: int) -> list[dict[str, Any]]:
    """The history of member i of a population, in the form of one run's history."""
    return [{k: v[i] if isinstance(v, list) else v for k, v in row.items()} for row in history]
