"""The program `jaxgan`, also `python -m jaxgan`: it starts a command, such as `jaxgan train`."""

import ast
import difflib
import gc
import importlib
import shutil
import signal
import sys
import textwrap
from pathlib import Path

from jaxgan import cli, commands
from jaxgan.errors import JaxganError
from jaxgan.version import __version__


def main() -> None:
    """Starts the command that the first word names, and exits with its status."""
    # As in scripts/train.py, which says why. Other commands remove what they have begun to write.
    is_train = sys.argv[1:2] == ["train"]
    if is_train and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(100_000)
    cli.main(run)


def run() -> int | None:
    """Runs the command that the first word names."""
    program, *words = sys.argv
    program = "python -m jaxgan" if Path(program).name == "__main__.py" else "jaxgan"
    name = words[0] if words else "--help"
    if name == "--version":
        print(__version__)
        return None
    known = described()
    if name in ("-h", "--help"):
        print(f"usage: {program} COMMAND [OPTIONS]\n\nSmall generative models, in JAX.\n")
        columns = shutil.get_terminal_size().columns
        for command, text in known.items():
            start = f"  {command:12} "
            print(textwrap.fill(start + text, columns, subsequent_indent=" " * len(start)))
        print(f"\n{program} COMMAND --help explains the options of a command.")
        return None
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise JaxganError(f"there is no command {name!r}{meant} There are {', '.join(known)}")
    sys.argv = [f"{program} {name}", *words[1:]]
    return importlib.import_module(f"jaxgan.commands.{name}").main()


def described() -> dict[str, str]:
    """The first sentence of each command. It is read, not imported, since imports take seconds."""
    folder = Path(commands.__path__[0])
    files = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_bytes())) or "" for path in files}
    return {name: text.splitlines()[0] for name, text in texts.items()}


if __name__ == "__main__":
    main()
