"""The text of a program that XLA has compiled: its instructions, and counts of them."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Op(NamedTuple):
    """An instruction of a compiled program."""

    label: str
    """Its own name, such as "fusion.3"."""
    shape: str
    """Of its result."""
    name: str
    """What it does, such as "fusion"."""
    rest: str
    """Its operands and attributes."""

    @property
    def calls(self) -> list[str]:
        """The computations that it names, but not the condition of a while."""
        found = re.findall(r"\b(?:calls|to_apply|body|\w+_computation)=%?([\w.-]+)", self.rest)
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        return found + re.findall(r"[\w.-]+", branches[1] if branches else "")


Computations = dict[str, list[Op]]
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
"""Instructions that do nothing when a program runs."""
COPIES = {"copy", "copy-start"}
PRODUCTS = {"dot", "convolution"}
"""On a TPU all products are convolutions."""


def parse(text: str) -> Computations:
    """The computations of a program in XLA's text, by name. The main one is "ENTRY"."""
    found: Computations = {}
    ops: list[Op] = []
    for line in text.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            ops = found["ENTRY" if start[1] else start[2]] = []
        elif op := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)", line):
            ops.append(Op(*op.groups()))
    return found


def turns_of(loop: Op, computations: Computations) -> int | None:
    """The number of turns of a while, if the compiler knows it."""
    if known := re.search(r'known_trip_count"?[:=]\{"?n"?:"(\d+)"', loop.rest):
        return int(known[1])
    # On a TPU the condition says it: a counter is compared with a constant.
    condition = re.search(r"condition=%?([\w.-]+)", loop.rest)
    ops = computations[condition[1]] if condition else []
    ends = [op.rest.partition(")")[0] for op in ops if op.name == "constant"]
    is_direct = any(op.name == "compare" and "%constant" in op.rest for op in ops)
    return int(ends[0]) if is_direct and len(ends) == 1 and ends[0].isdecimal() else None


def all_ops(computations: Computations, name: str) -> Iterator[Op]:
    """All instructions of a computation and of those that it calls."""
    for op in computations[name]:
        yield op
        for called in op.calls:
            yield from all_ops(computations, called)


def count(text: str, platform: str) -> dict[str, int]:
    """The counts of `compile_only.py`, from the text of a compiled program."""
    computations = parse(text)
    inside = functools.partial(all_ops, computations)

    def products(name: str) -> int:
        return sum(is_product(op) for op in inside(name))

    def started(name: str, counts: Callable[[Op], bool]) -> int:
        """How many instructions with `counts` are started. A loop starts its own in each turn."""
        total = 0
        for op in computations[name]:
            if op.name in ("while", "call", "conditional"):
                turns = turns_of(op, computations) if op.name == "while" else 1
                total += (turns or 1) * sum(started(called, counts) for called in op.calls)
            else:
                total += counts(op)
        return total

    everything = list(inside("ENTRY"))
    bodies = {name for op in everything if op.name in ("while", "conditional") for name in op.calls}
    # The step is the innermost loop or branch that has all products, or the whole program.
    step = min({"ENTRY", *bodies}, key=lambda name: (-products(name), sum(1 for _ in inside(name))))
    loops = [op for op in everything if op.name == "while"]
    open_loops = sum(turns_of(op, computations) is None for op in loops)
    branches = sum(op.name == "conditional" for op in everything)
    return {
        "kernels": started(step, is_kernel),
        "copies": started(step, lambda op: op.name in COPIES),
        "products": products(step),
        "open_loops": open_loops,
        "to_host": sum(map(is_transfer, everything))
        + (open_loops + branches if platform == "cuda" else 0),
    }


def is_kernel(op: Op) -> bool:
    # A number outside a fusion: the scalar unit of a TPU computes it while kernels run.
    if op.name not in ("fusion", "custom-call") and re.fullmatch(r"\w+\[[1,]*\](\{.*)?", op.shape):
        return False
    return op.name not in FREE | COPIES and not op.name.endswith("-done")


def is_product(op: Op) -> bool:
    library = op.name == "custom-call" and re.search(r'target="[^"]*(gemm|matmul|conv)', op.rest)
    return op.name in PRODUCTS or bool(library)


def is_transfer(op: Op) -> bool:
    """Whether it moves numbers between the device and the host."""
    if op.name == "custom-call":
        return "callback" in op.rest
    return op.name in ("infeed", "outfeed", "send", "recv") or "S(5)" in op.shape
