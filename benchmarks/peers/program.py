"""What a peer is to the worker: `make(images, batch_size, variant) -> Program`, in its module.

`images` is uint8 `[N, 28, 28, 1]` in the host's memory; an epoch takes N // batch_size steps, all
on full batches.
"""

from collections.abc import Callable
from typing import NamedTuple


class Program(NamedTuple):
    """A compiled and loaded program that trains, or that does a part of the work of training."""

    run: Callable[[], dict[str, float]]
    """Takes `steps` steps, waits for the device, gives the means of the metrics over them."""
    steps: int
    about: str
    """The framework's version and the device it runs on."""
    parameters: tuple[int, int] | None = None
    """How many the generator and the discriminator have."""
    gflop: float | None = None
    """Of one step, where it is known exactly."""


class NotHereError(Exception):
    """The peer cannot run on this machine."""
