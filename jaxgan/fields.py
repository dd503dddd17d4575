"""Checks of the fields of a config."""

import numbers
from typing import Any

from jaxgan.errors import JaxganError


def is_size(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, numbers.Integral) and int(value) > 0


def check_field(ok: bool, config: Any, name: str, wanted: str) -> None:
    """Raises a JaxganError unless `ok`. The message says that the field must be `wanted`."""
    if not ok:
        got = getattr(config, name)
        raise JaxganError(f"{name} must be {wanted}, got {got!r}")
