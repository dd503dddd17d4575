"""Trains a model in a run folder, with pictures, curves and checkpoints, or resumes it."""

# ruff: noqa: E402
import gc
import signal

# Until there is a run to save, Ctrl-C ends the process at once, also during the imports. A process
# that was started to ignore it, by nohup or in the background, still does.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Garbage collection during imports and tracing would take a tenth of the start-up time.
gc.set_threshold(100_000)

from jaxgan import cli
from jaxgan.commands.train import main

if __name__ == "__main__":
    cli.main(main)
