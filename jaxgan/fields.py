"""Checks of the fields of a config."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Iterable
from typing import Any, Literal

import flax.linen as nn

from jaxgan import schedules
from jaxgan.errors import JaxganError
from jaxgan.learner import takes


def is_size(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, numbers.Integral) and int(value) > 0


def check_field(ok: bool, config: Any, name: str, wanted: str) -> None:
    """Raises a JaxganError unless `ok`. The message says that the field must be `wanted`."""
    if not ok:
        got = getattr(config, name)
        raise JaxganError(f"{name} must be {wanted}, got {got!r}")


def check_choices(config: Any) -> None:
    """Refuses a value of a Literal field that is not one of its choices."""
    for field in dataclasses.fields(config):
        if typing.get_origin(field.type) is Literal:
            known = typing.get_args(field.type)
            ok = getattr(config, field.name) in known
            check_field(ok, config, field.name, "one of " + ", ".join(known))


def check_schedules(config: Any, names: Iterable[str]) -> None:
    """Refuses fields that are not finite schedules of 0 or more."""
    for name in names:
        try:
            ends = schedules.ends(getattr(config, name))
        except JaxganError as error:
            raise JaxganError(f"{name}: {error}") from None
        in_range = all(0 <= end < math.inf for end in ends)
        check_field(in_range, config, name, "0 or more, and finite")


def check_module(name: str, module: Any, classes: int) -> None:
    """Accepts None or a hashable Flax linen module, which must take labels if there are classes."""
    if module is None:
        return
    if isinstance(module, type):
        raise JaxganError(f"{name} must be a Flax module, not its class: {module.__name__}()")
    if not isinstance(module, nn.Module):
        raise JaxganError(
            f"{name} must be a Flax linen module, got {type(module).__name__}; for NNX modules "
            "there is flax.nnx.bridge.ToLinen"
        )
    try:
        hash(module)
    except TypeError as error:
        reason = str(error.__cause__ or error).splitlines()[-1]
        raise JaxganError(
            f"the fields of {name}, a {type(module).__name__}, must be hashable ({reason}): give "
            "tuples in place of lists and dicts"
        ) from error
    if classes and not takes(module, "labels"):
        raise JaxganError(
            f"num_classes is {classes}, and the {name} does not take the classes: its __call__ "
            "needs an argument labels"
        )
