"""What the commands share: options, a quick start, and one line for errors that users can fix."""

import contextlib
import dataclasses
import difflib
import importlib.util
import logging
import os
import re
import shutil
import sys
import textwrap
import time
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from jaxgan.errors import JaxganError, LostProcessError
from jaxgan.files import cache_folder, expand
from jaxgan.model import Model


def parse(options: Any, arguments: Sequence[str] | None = None, default: Any = None) -> Any:
    """Parses the command line. --help shows the docstrings of the dataclass and of its fields."""
    import docstring_parser
    import tyro

    if os.environ.get("NO_COLOR"):  # no-color.org; tyro reads TERM only
        os.environ["TERM"] = "dumb"
    _join_lines(options)
    _check_words(options, sys.argv[1:] if arguments is None else arguments)
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    kwargs: dict[str, Any] = {} if default is None else {"default": default}
    page = _Page(sys.stdout)
    try:
        with contextlib.redirect_stdout(cast(Any, page)):
            return tyro.cli(options, args=arguments, config=config, description=_HERE, **kwargs)
    except SystemExit:
        # tyro fills the options to the terminal, but neither the usage nor the description.
        usage, found, rest = page.text.partition(_HERE)
        if found:
            usage = re.sub(r"\x1b\[[0-9;]*m", "", usage).strip()
            text = docstring_parser.parse(options.__doc__ or "").description or ""
            print(filled(usage), filled(text), rest.strip(), sep="\n\n")
        else:  # such as a completion for a shell
            print(page.text, end="")
        raise


_HERE = "DESCRIPTION"
"""Stands in for the description in the text of tyro."""


class _Page:
    """Collects what is printed. For all else, such as colours, it answers like the stream."""

    def __init__(self, stream: Any):
        self._stream, self.text = stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


def filled(text: str) -> str:
    """A text with its paragraphs and bullets filled to the width of the terminal. Indented
    paragraphs, such as commands, stay as they are."""
    width = shutil.get_terminal_size().columns

    def fill(item: str) -> str:
        indent = "  " if item.startswith(("- ", "usage")) else ""
        options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
        return textwrap.fill(" ".join(item.split()), width, subsequent_indent=indent, **options)

    paragraphs = text.split("\n\n")
    return "\n\n".join(
        one if one.startswith(" ") else "\n".join(map(fill, re.split(r"\n(?=- )", one)))
        for one in paragraphs
    )


def _join_lines(options: Any) -> None:
    """Gives tyro the docstring of each field as one line, which it wraps to the terminal.

    tyro itself would also keep the line breaks of the source.
    """
    import docstring_parser

    docs = {
        param.arg_name: " ".join((param.description or "").split())
        for kind in reversed(options.__mro__[:-1])
        for param in docstring_parser.parse_from_object(kind).params
    }
    for field in dataclasses.fields(options):
        if field.name in docs:
            field.metadata = MappingProxyType({**field.metadata, "help": docs[field.name]})
        if dataclasses.is_dataclass(field.type):
            _join_lines(field.type)


def _check_words(options: Any, words: Sequence[str]) -> None:
    """Suggests the right option or value for a wrong one. tyro lists all of them.

    Raises:
      JaxganError: if an option does not have that value, or if it has another name here.
    """
    fields = list(_fields(options))
    names = {field.name for field in fields}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if not word.startswith("--"):
            continue
        option, given, value = word.partition("=")
        name, value = option[2:].replace("-", "_"), value if given else following
        here = [other for other in _OTHER_NAMES.get(name, ()) if other in names]
        if here and name not in names:
            use = " and ".join(f"--{other.replace('_', '-')}" for other in here)
            raise JaxganError(f"there is no {option}: use {use}")
        for field in fields:
            kind = field.type
            is_optional = type(None) in typing.get_args(kind)
            if is_optional or typing.get_origin(kind) is tuple:  # the first of several values
                kind = typing.get_args(kind)[0]
            known = typing.get_args(kind)
            is_choice = field.name == name and typing.get_origin(kind) is Literal
            if is_choice and value not in ("", "None", *known) and not value.startswith("--"):
                raise JaxganError(_other_value(option, value, known))


def _other_value(option: str, value: str, known: Sequence[str]) -> str:
    plain = value.lower().replace("-", "_")
    near = [_OTHER_VALUES[plain]] if _OTHER_VALUES.get(plain) in known else []
    near += difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]}?" if near else "."
    return f"{option} has no value {value!r}{meant} It takes {', '.join(known)}"


def _fields(options: Any) -> Iterator[Any]:
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(field.type):
            yield from _fields(field.type)
        yield field


_RATES = ("generator_lr", "discriminator_lr")
_OTHER_NAMES = {
    "learning_rate": _RATES,
    "lr": _RATES,
    "batch": ("batch_size",),
    "output": ("out", "workdir"),
    "tensorboard": ("log",),
}
"""Names that other programs have for options, and the names here."""
_OTHER_VALUES = {
    "wgan": "wasserstein",
    "lsgan": "least_squares",
    "vanilla": "non_saturating",
    "bfloat16": "bf16",
    "float32": "f32",
}
"""Names that other programs have for values, and the names here."""


def command(name: str | None = None) -> list[str]:
    """The words that start a command, in the way that this process was started.

    By default it is the command of this process. `python scripts/train.py` gives
    `python scripts/NAME.py`, and `jaxgan train` gives `jaxgan NAME`.
    """
    program = sys.argv[0]
    if program.endswith(".py"):
        return ["python", str(Path(program).with_name(f"{name}.py")) if name else program]
    *words, own = program.split()
    return [*words, name or own]


def check_seed(seed: int) -> None:
    """Raises a JaxganError unless --seed is a seed of jax and of numpy."""
    if not 0 <= seed < 2**32:
        raise JaxganError(f"--seed must be from 0 to 2**32 - 1, got {seed}")


def is_settings(where: str | None) -> bool:
    """Whether --config names a file of settings (`run.settings_file`), not a Python file."""
    return where is not None and where.endswith((".json", ".toml"))


def load_config(where: str | None, models: Mapping[str, Model]) -> Any:
    """Runs a Python file of the user's, and takes a config of one of the models from it.

    Args:
      where: FILE.py:NAME, or FILE.py for the name "config"; None gives None.
      models: a table such as `jaxgan.MODELS`.

    Raises:
      JaxganError: if the file cannot be run, or has no such config.
    """
    if where is None:
        return None
    if is_settings(where):
        raise JaxganError(
            f"--config {where}: only train.py reads settings from such a file. This command reads "
            "them from the run folder, and --config FILE.py:NAME gives it parts of your own"
        )
    file, _, name = where.partition(":")
    path, name = expand(file).absolute(), name or "config"
    # Under a name of its own, so that a file such as json.py replaces no other module.
    own_name = f"_config_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(own_name, path)
    if spec is None or spec.loader is None:
        raise JaxganError(
            f"--config must be FILE.py:NAME (or FILE.json or FILE.toml in train.py), got {where!r}"
        )
    module = importlib.util.module_from_spec(spec)
    # Like a script, the file can import modules beside it.
    sys.path.append(str(path.parent))
    try:
        sys.modules[own_name] = module
        spec.loader.exec_module(module)
    except FileNotFoundError as error:
        raise JaxganError(f"--config: there is no file {error.filename}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or [0, *lines][-1]
        kind = "" if isinstance(error, JaxganError) else f"{type(error).__name__}: "
        raise JaxganError(f"{file}, line {line}: {kind}{error}") from error
    config = getattr(module, name, None)
    kinds = [model.config for model in models.values()]
    if type(config) not in kinds:
        known = " or ".join(kind.__name__ for kind in kinds)
        got = "nothing" if config is None else type(config).__name__
        raise JaxganError(f"{name} in {file} must be a {known}, got {got}")
    return config


def main(run: Callable[[], int | None]) -> None:
    """Runs a script and exits with its status. A JaxganError becomes one line."""
    # On a GPU jax would take three quarters of the memory at its first use, and a second script on
    # the same card would fail.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    guard_streams()
    quieten()
    keep_programs()
    try:
        status = run() or 0
    except JaxganError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = error.exit_code
        if isinstance(error, LostProcessError):
            # At its normal exit jax would wait for the lost process and then abort.
            os._exit(status)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # The reader of a pipe, such as `| head`, has ended. Python flushes the rest at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)


def guard_streams() -> None:
    """Lets a run go on when a line cannot be printed.

    A standard stream may be closed, its disk full, or its terminal gone. Its encoding may lack a
    character.
    """
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout = _Stream(sys.stdout or open(os.devnull, "w"))  # noqa: PTH123, SIM115
    sys.stderr = _Stream(sys.stderr or open(os.devnull, "w"))  # noqa: PTH123, SIM115


class _Stream:
    """A text output stream. A failed write does not end the run, unless a pipe lost its reader."""

    def __init__(self, stream: Any):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Callable[..., Any], *args: Any) -> None:
        try:
            do(*args)
        except BrokenPipeError:
            raise
        except OSError:
            # From now on all output, also the rest of the buffer, goes to the null device.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


_UNSAFE = re.compile(r"\x1b(?!\[[0-9;]*[AKm])|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters, such as those in the name of a file, except the colour and cursor codes of
progress bars."""


def quieten() -> None:
    """Silences libraries that also report a script's errors. Prints each warning as one line."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    # Orbax logs errors at length before it raises them.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    previous = sys.unraisablehook

    def unraisable(args) -> None:
        # After a failed write, tensorstore's callbacks find a closed event loop.
        if "Event loop is closed" not in str(args.exc_value):
            previous(args)

    sys.unraisablehook = unraisable


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, so that the next start is quick.

    If the user has chosen another folder, by $JAX_COMPILATION_CACHE_DIR for example, nothing
    changes. If the folder cannot be written, or if other users may write to it, nothing is kept:
    jaxgan would run any program that they put there.
    """
    import jax

    folder, config = cache_folder("compiled"), cast(Any, jax.config)
    if folder is None or config.jax_compilation_cache_dir is not None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        warnings.warn(
            f"compiled programs are not kept, because other users own {folder} or can write to it; "
            "run chmod 700 on it, or remove it",
            stacklevel=2,
        )
        return
    # Keeps the folder small. jax's own limit (jax_compilation_cache_max_size) would keep no more
    # programs after a kill has left one without the file that says when it was used.
    forget_programs(folder, older_than=30 * 86400)
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    show = warnings.showwarning

    def show_others(message, *args, **kwargs) -> None:
        if "Error reading persistent compilation cache" in str(message):
            # jax compiles a damaged program again, but does not replace its file.
            forget_programs(folder)
        elif "Error writing persistent compilation cache" not in str(message):
            show(message, *args, **kwargs)

    warnings.showwarning = show_others


def forget_programs(folder: Path, older_than: float = 0.0) -> None:
    """Removes the compiled programs in a folder that are older than this many seconds."""
    for file in folder.glob("*-cache"):
        # Another process may remove them too.
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime >= older_than:
                file.unlink()
