"""One peer in a process of its own: `python worker.py MODULE VARIANT IMAGES.npy BATCH_SIZE`.

Loads, compiles and trains two epochs, says so, then for each line with a number of seconds on stdin
trains whole epochs for about that long. Every answer is one line of JSON on stdout.
"""

import importlib
import json
import math
import os
import sys
import time

import numpy as np
from program import NotHereError, Program

PARAMETERS = (249_296, 242_177)


def start(module: str, variant: str, images: str, batch_size: str) -> tuple[Program, dict]:
    """The program, warm, and what is to be told of it."""
    program = importlib.import_module(module).make(np.load(images), int(batch_size), variant)
    if program.parameters not in (None, PARAMETERS):
        raise AssertionError(f"{program.parameters} parameters, not {PARAMETERS}")
    metrics = program.run()
    if not all(math.isfinite(value) for value in metrics.values()):
        raise AssertionError(f"the first epoch gave {metrics}")
    # The first epoch compiles; some frameworks also tune, allocate or trace again in the second.
    program.run()
    about = {"about": program.about, "gflop": program.gflop, "parameters": program.parameters}
    return program, about | metrics


def measure(program: Program, seconds: float) -> dict[str, float]:
    """Whole epochs, one at least."""
    steps, started = 0, time.perf_counter()
    while not steps or time.perf_counter() - started < seconds:
        program.run()
        steps += program.steps
    return {"steps": steps, "seconds": time.perf_counter() - started}


def main() -> None:
    # Whatever a framework prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        program, about = start(*sys.argv[1:])
        answer(about)
        for line in sys.stdin:
            answer(measure(program, float(line)))
    except NotHereError as error:
        answer({"skipped": str(error)})
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        answer({"failed": f"{type(error).__name__}: {reason}"})
        raise


if __name__ == "__main__":
    main()
