"""The process of one peer, and what the parent knows of it."""

import importlib
import importlib.util
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers.program import PeerError, Program

PARAMETERS = (249_296, 242_177)


class Worker:
    """A process that loads, compiles and trains two epochs, and then waits for `train`.

    `about` is what the peer says of itself, with the means of its metrics over the first epoch.

    Raises:
      PeerError: if the peer cannot run.
    """

    def __init__(
        self, module: str, variant: str, needs: Sequence[str], images: Path, batch_size: int
    ):
        missing = [need for need in needs if importlib.util.find_spec(need) is None]
        if missing:
            raise PeerError(f"skipped: needs {', '.join(missing)}: pip install -e '.[peers]'")
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        arguments = (pipe, module, variant, images, batch_size)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        pipe.close()
        self.about: dict[str, Any] = self._answer()

    def train(self, seconds: float) -> float:
        """Trains for about so long; gives steps per second."""
        self._pipe.send(seconds)
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise PeerError(f"failed: ended with exit code {code}") from None
        if isinstance(answer, PeerError):
            raise answer
        return answer


def serve(pipe: Any, module: str, variant: str, images: Path, batch_size: int) -> None:
    """The work of the process: answers through the pipe."""
    os.dup2(2, 1)  # what a framework prints must not come into the table
    try:
        program = importlib.import_module(f"peers.{module}").make(
            np.load(images), batch_size, variant
        )
        pipe.send(warm_up(program))
        while True:
            pipe.send(rate(program, pipe.recv()))
    except PeerError as error:
        pipe.send(PeerError(f"skipped: {error}"))
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        pipe.send(PeerError(f"failed: {type(error).__name__}: {reason}"))


def warm_up(program: Program) -> dict[str, Any]:
    """Trains two epochs: what is known of the program."""
    if program.parameters not in (None, PARAMETERS):
        raise AssertionError(f"{program.parameters} parameters, not {PARAMETERS}")
    metrics = program.run()
    if not all(math.isfinite(value) for value in metrics.values()):
        raise AssertionError(f"the first epoch gave {metrics}")
    # The first epoch compiles; some frameworks also tune, allocate or trace again in the second.
    program.run()
    about = {"about": program.about, "gflop": program.gflop, "parameters": program.parameters}
    return about | metrics


def rate(program: Program, seconds: float) -> float:
    """Trains whole epochs, at least one; gives steps per second."""
    steps, started = 0, time.perf_counter()
    while not steps or time.perf_counter() - started < seconds:
        program.run()
        steps += program.steps
    return steps / (time.perf_counter() - started)
