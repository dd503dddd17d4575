"""Fields of a config: their checks, their values as texts, and their help."""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import itertools
import numbers
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import flax.linen as nn
import numpy as np

from jaxgan import schedules
from jaxgan.errors import JaxganError
from jaxgan.learner import takes

_WORDS = {"true": True, "false": False}
_Class = TypeVar("_Class", bound=type)


def is_size(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, numbers.Integral) and int(value) > 0


def check_field(ok: bool, config: Any, name: str, wanted: str) -> None:
    """Raises a JaxganError unless `ok`. The message says that the field must be `wanted`."""
    if not ok:
        got = getattr(config, name)
        raise JaxganError(f"{name} must be {wanted}, got {got!r}")


def check_types(config: Any) -> None:
    """Checks the values of four kinds of fields. A Literal takes one of its choices, a tuple
    several values, a bool True or False, a float a number."""
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), typing.get_origin(field.type)
        if kind is Literal:
            known = typing.get_args(field.type)
            check_field(value in known, config, field.name, "one of " + ", ".join(known))
        elif kind is tuple and typing.get_args(field.type)[0] in (int, float):
            several = isinstance(value, Iterable) and not isinstance(value, str)
            check_field(several, config, field.name, "several values, such as (64, 128)")
        elif field.type is bool:
            check_field(isinstance(value, bool | np.bool_), config, field.name, "True or False")
        elif field.type is float:
            check_field(isinstance(value, numbers.Real), config, field.name, "a Python number")


def check_schedules(config: Any, names: Iterable[str]) -> None:
    """Refuses fields that are not finite schedules of 0 or more."""
    for name in names:
        schedules.check(name, getattr(config, name))


def check_function(name: str, function: Any, signature: str) -> None:
    """Refuses what is not a hashable function."""
    if not callable(function) or isinstance(function, type):
        raise JaxganError(f"{name} must be a function {signature}, got {function!r}")
    check_hashable(name, function)


def check_optimizer(config: Any, name: str, replaced: Iterable[str]) -> None:
    """Accepts None or an optax optimizer. The fields that it replaces must have their defaults."""
    optimizer = getattr(config, name)
    if optimizer is None:
        return
    if isinstance(optimizer, type) or not all(hasattr(optimizer, x) for x in ("init", "update")):
        raise JaxganError(
            f"{name} must be an optax.GradientTransformation, such as optax.adam(1e-3), got "
            f"{optimizer!r}"
        )
    check_hashable(name, optimizer)
    unused = [x for x in replaced if getattr(config, x) != getattr(type(config), x)]
    if unused:
        raise JaxganError(
            f"{' and '.join(unused)} would have no effect: {name} is your own optimizer. Leave out "
            "one of the two"
        )


def check_hashable(name: str, part: Any) -> None:
    """Refuses a part of a config that has no hash."""
    try:
        hash(part)
    except TypeError as error:
        raise JaxganError(
            f"{name} must be hashable ({error}): give tuples in place of lists and dicts"
        ) from error


def parse_value(config: Any, name: str, text: str) -> Any:
    """The value of a field that a text stands for, such as 0.5, hinge, true or 64,128.

    The default of the field says of which type it is. Numbers that change over the steps, such as
    cosine:1:0.1, stay texts.

    Args:
      config: a dataclass, or its class.
      name: of the field.
      text: the value, as on a command line.

    Raises:
      JaxganError: if there is no such field, if its value cannot be written as a text, or if the
        text is of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    if name not in fields:
        meant = nearest(name, fields)
        meant = f"; did you mean {meant}?" if meant else f". It has {', '.join(fields)}"
        raise JaxganError(f"the model has no setting {name!r}{meant}")
    default = fields[name].default
    try:
        if isinstance(default, bool):
            return _WORDS[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            is_number = fields[name].type is float or ":" not in text
            return float(text) if is_number else text
        if isinstance(default, tuple) and default:  # of () the type of its values is not known
            return tuple(type(default[0])(part) for part in text.split(","))
    except (KeyError, ValueError):
        wanted = "true or false" if isinstance(default, bool) else f"like its default, {default!r}"
        raise JaxganError(f"{name} must be {wanted}, got {text!r}") from None
    if not isinstance(default, str):
        raise JaxganError(f"{name} cannot be written as a text: set it in Python")
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one; None if none is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def check_value(name: str, value: Any, kind: Any) -> Any:
    """A value of a JSON or TOML file, as the value of a field of this type.

    Whole numbers become floats, and lists tuples, where the field has these.

    Raises:
      JaxganError: if the value is of another type.
    """
    try:
        return _typed(value, kind)
    except (OverflowError, TypeError):
        raise JaxganError(f"{name} must be {_wanted(kind)}, got {value!r}") from None


def _typed(value: Any, kind: Any) -> Any:
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in of:
            with contextlib.suppress(TypeError):
                return _typed(value, one)
    elif origin is tuple and isinstance(value, list):
        if ... in of or len(of) == len(value):
            return tuple(_typed(one, of[0]) for one in value)  # all have the type of the first
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind or (origin is Literal and value in of) or (kind is Any and not value):
        return value
    raise TypeError


def _wanted(kind: Any) -> str:
    """A type in words."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(of)
    if origin is tuple and typing.get_origin(of[0]) is not tuple:
        return f"a list of which each is {_wanted(of[0])}"
    words = [word for one, word in _TYPES.items() if one in (of or (kind,))]
    return " or ".join(words) or "left out, since it can only be set in Python"


_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


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


def documented(cls: _Class) -> _Class:
    """Makes help() of a dataclass show its fields: their types, defaults and docstrings.

    A field's docstring is a string after it, which Python drops. It is read from the source when
    the docstring of the class is first read.
    """
    if sys.flags.optimize < 2:  # python -OO drops docstrings
        cls.__doc__ = typing.cast(Any, _Docstring(cls, cls.__doc__))
    return cls


class _Docstring:
    """The docstring of a class, which is written when it is first read."""

    def __init__(self, cls: type, text: str | None):
        self._class, self._text = cls, inspect.cleandoc(text or "")

    def __get__(self, instance: Any, owner: Any) -> str:
        text = self._text
        # The source may be missing, or may have changed since the import.
        with contextlib.suppress(Exception):
            text = "\n".join([text, "", "Attributes:", *_describe_fields(self._class)])
        self._class.__doc__ = text
        return text


def _describe_fields(cls: type) -> Iterator[str]:
    """The lines of a docstring that describe the fields of a dataclass."""
    types, texts = {}, {}
    for kind in reversed(cls.__mro__[:-1]):  # all but object
        body: Any = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        for node, following in itertools.pairwise(body.body):
            match node, following:
                case ast.AnnAssign(), ast.Expr(ast.Constant(str(text))):
                    name = ast.unparse(node.target)
                    types[name], texts[name] = ast.unparse(node.annotation), inspect.cleandoc(text)
    for field in dataclasses.fields(cls):
        yield f"  {field.name} ({types[field.name]}, default {field.default!r}):"
        yield textwrap.indent(texts[field.name], "    ")
