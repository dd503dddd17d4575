"""What the scripts share: a quick start, and one line for what the user can mend, no traceback."""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

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
    keep_programs()
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


def keep_programs() -> None:
    """Keeps what jax compiles in the user's cache folder, so that the next start is a quick one.

    A folder that the user has chosen for it, by $JAX_COMPILATION_CACHE_DIR for example, is left as
    it is. Where nothing can be kept all goes on without, and says nothing.
    """
    import jax

    folder, config = cache_folder("compiled"), cast(Any, jax.config)
    if folder is None or config.jax_compilation_cache_dir is not None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    # A bound on its size: that of jax needs a package which jax does not bring.
    forget_programs(folder, older_than=30 * 86400)
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    show = warnings.showwarning

    def show_others(message, *args, **kwargs) -> None:
        if "Error reading persistent compilation cache" in str(message):
            # Damaged, and there for good: jax compiles anew, but replaces no file.
            forget_programs(folder)
        elif "Error writing persistent compilation cache" not in str(message):
            show(message, *args, **kwargs)

    warnings.showwarning = show_others


def cache_folder(kind: str) -> Path | None:
    """The folder for things of a kind in the user's cache folder; None if there is no such."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():  # to be ignored then, says the standard
        root = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    try:
        return root.expanduser() / "jaxgan" / kind
    except RuntimeError:
        return None


def forget_programs(folder: Path, older_than: float = 0.0) -> None:
    """Removes the compiled programs in a folder, or those older than so many seconds."""
    for file in folder.glob("*-cache"):
        # Another process may be at the same.
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime >= older_than:
                file.unlink()
