"""Numbers that change over the steps of a run.

A schedule is a number, or KIND:START:END:STEPS: it goes from START to END in STEPS training steps
and then stays at END. KIND is linear, cosine (half a wave, flat at both ends) or exponential (a
constant factor per step). KIND:START:END lasts for a whole run; `over` adds STEPS.
"""

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgan.errors import JaxganError

Schedule = float | str
_KINDS = ("linear", "cosine", "exponential")


def value(schedule: Schedule, step: jax.Array) -> Any:
    """The number at a step, float or float32 scalar."""
    if not isinstance(schedule, str):
        return schedule
    kind, start, end, steps = parse(schedule)
    if steps is None:
        raise JaxganError(
            f"{schedule!r} has no STEPS, which only a run can fill in: give KIND:START:END:STEPS"
        )
    if kind == "linear":
        return optax.linear_schedule(start, end, steps)(step)
    if kind == "exponential":
        return optax.exponential_decay(start, steps, end / start, end_value=end)(step)
    # optax's cosine ends at a share of its start. This one goes from any number to any other.
    return end + (start - end) * optax.cosine_decay_schedule(1.0, steps)(
        jnp.asarray(step, jnp.float32)
    )


def ends(schedule: Schedule) -> tuple[float, float]:
    """The first and the last number, between which all others lie.

    Raises:
      JaxganError: like `parse`.
    """
    if not isinstance(schedule, str):
        return schedule, schedule
    _, start, end, _ = parse(schedule)
    return start, end


def is_zero(schedule: Any) -> bool:
    """Whether it is 0 at every step. An array, which a population varies, never counts as 0."""
    return not isinstance(schedule, jax.Array) and ends(schedule) == (0, 0)


def check(name: str, schedule: Schedule) -> None:
    """Raises a JaxganError unless the schedule is 0 or more, and finite, at every step."""
    ok = False
    try:
        if isinstance(schedule, str | numbers.Real):  # an array has no hash
            first, last = ends(schedule)
            ok = 0 <= first < math.inf and 0 <= last < math.inf
    except JaxganError as error:
        raise JaxganError(f"{name}: {error}") from None
    if not ok:
        raise JaxganError(
            f"{name} must be 0 or more, and finite, as a Python number or a schedule, got "
            f"{schedule!r}"
        )


def over(config: Any, steps: int) -> Any:
    """A copy of the config, in which schedules without STEPS get `steps`."""
    kinds = tuple(f"{kind}:" for kind in _KINDS)

    def stretched(value: Any) -> Any:
        if isinstance(value, tuple):  # such as own penalties with their weights
            return tuple(map(stretched, value)) if type(value) is tuple else value
        is_open = isinstance(value, str) and value.startswith(kinds) and parse(value)[3] is None
        return f"{value}:{max(1, steps)}" if is_open else value

    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: stretched(x) for name, x in fields.items()})


def parse(schedule: str) -> tuple[str, float, float, int | None]:
    """KIND, START, END and STEPS, which may be None.

    Raises:
      JaxganError: if the string has another form, or an exponential schedule is not above 0.
    """
    try:
        kind, start, end, *steps = schedule.split(":")
        found = kind, float(start), float(end), int(*steps) if steps else None
    except (ValueError, TypeError) as error:
        raise _error(schedule) from error
    if kind not in _KINDS or found[3] == 0 or (found[3] or 1) < 1:
        raise _error(schedule)
    if not math.isfinite(found[1]) or not math.isfinite(found[2]):
        raise _error(schedule)
    if kind == "exponential" and min(found[1:3]) <= 0:
        raise JaxganError(
            f"START and END of an exponential schedule must be above 0, got {schedule!r}"
        )
    return found


def _error(schedule: str) -> JaxganError:
    return JaxganError(
        "a schedule is a number, or KIND:START:END or KIND:START:END:STEPS with the kinds linear, "
        f"cosine and exponential, such as cosine:0.1:0:10000; got {schedule!r}"
    )
