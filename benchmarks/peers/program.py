"""The interface of a peer: its module has `make(images, batch_size, variant) -> Program`.

`images` is uint8 `[N, 28, 28, 1]` in the host's memory. An epoch has N // batch_size steps, all on
full batches.
"""

from collections.abc import Callable
from typing import NamedTuple

LATENT_DIM = 100
METRICS = ("gen_loss", "disc_loss", "real_score", "fake_score")


class Program(NamedTuple):
    """A compiled program that trains, or that does a part of the work of training."""

    run: Callable[[], dict[str, float]]
    """Takes `steps` steps, waits for the device, and gives the means of the metrics over them."""
    steps: int
    about: str
    """The framework's version and the device it runs on."""
    parameters: tuple[int, int] | None = None
    """The numbers of parameters of the generator and the discriminator."""
    gflop: float | None = None
    """Of one step, if it is known exactly."""


class PeerError(Exception):
    """The peer cannot run on this machine, or has failed; the message says why, in one line."""
