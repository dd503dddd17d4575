"""A trace of some steps of a run: which operation takes how long."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from jaxgan.files import check_writable, disk_errors
from jaxgan.processes import is_first

STEPS = 20
"""How many steps are traced at most, so that the files are small."""


class Profile:
    """Traces one stretch of steps of `loop.fit`, after the first.

    It waits for a stretch of STEPS steps or of an epoch. If steps are slow, it takes the fourth
    stretch.

    Args:
      folder: gets plugins/profile/TIME/ with HOST.xplane.pb and HOST.trace.json.gz.
      on_traced: called once after that, with the first and the last step of the trace.
    """

    def __init__(self, folder: Path, on_traced: Callable[[int, int], None]):
        self._folder, self._on_traced = folder, on_traced
        self._stretches = 0
        self._is_next = False
        self.is_done: bool = False

    def limited(self, length: int, epoch: int) -> int:
        """Decides whether to trace the next stretch, in an epoch of so many steps.

        Returns:
          The length of the stretch, at most STEPS if it is traced. On an accelerator the loop
          rounds it up to whole programs.
        """
        long, late = length >= min(STEPS, epoch), self._stretches >= 3
        self._is_next = self._stretches > 0 and (long or late) and not self.is_done
        self._stretches += 1
        return min(length, STEPS) if self._is_next else length

    @contextlib.contextmanager
    def stretch(self, first: int, last: int) -> Iterator[None]:
        """The context in which these steps of the run are trained."""
        self.is_done = self.is_done or self._is_next
        if not self._is_next or not is_first():
            yield
            return
        options = jax.profiler.ProfileOptions()
        # Calls of Python functions would hide the operations, and fill the trace.
        options.python_tracer_level = 0
        check_writable(self._folder / "plugins")
        with disk_errors(self._folder):
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
        try:
            with jax.profiler.TraceAnnotation(f"steps {first} to {last}"):
                yield
        finally:
            with disk_errors(self._folder):
                jax.profiler.stop_trace()
        self._on_traced(first, last)
