"""Trains a model in a run folder, with pictures, curves and checkpoints, or resumes it."""

# ruff: noqa: E402
import gc
import signal

# Until there is a run to save, Ctrl-C ends the process at once, also during the imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# Garbage collection during imports and tracing would take a tenth of the start-up time.
gc.set_threshold(100_000)

from jaxgan import cli
from jaxgan.commands.train import main

if __name__ == "__main__":
    cli.main(main)
