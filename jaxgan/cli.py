"""What the scripts share: one line for what the user can mend, no traceback."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jaxgan.errors import JaxganError, LostProcessError


def parse(options: Any, arguments: Sequence[str] | None = None, default: Any = None) -> Any:
    """Options from the command line, by the fields of a dataclass; --help explains each."""
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    kwargs = {} if default is None else {"default": default}
    return tyro.cli(options, args=arguments, config=config, **kwargs)


def main(run: Callable[[], int | None]) -> None:
    """Runs a script's body and exits with its status; an error of the user's becomes one line."""
    quieten()
    try:
        status = run() or 0
    except JaxganError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = error.exit_code
        if isinstance(error, LostProcessError):
            # The orderly end of jax would wait for the lost process, and then abort.
            os._exit(status)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # The reader of a pipe has gone, `| head` for example. What Python would still flush at its
        # end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)


def quieten() -> None:
    """Keeps libraries from reporting what the script reports, and makes a warning one line."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    # Orbax logs at length, from several threads, what it then also raises and we report.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    previous = sys.unraisablehook

    def unraisable(args) -> None:
        # tensorstore's callbacks come to a closed event loop after a write has failed.
        if "Event loop is closed" not in str(args.exc_value):
            previous(args)

    sys.unraisablehook = unraisable
