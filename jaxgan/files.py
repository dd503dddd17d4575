"""Files that are written completely or not at all, errors of the disk, folders for caches."""

import contextlib
import errno
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jaxgan.errors import JaxganError
from jaxgan.processes import is_lost_process

_PARTIAL = ".partial"
_SIGNS = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
)
"""What a system says of a disk that cannot be written."""


def expand(path: str | Path) -> Path:
    """The path, with ~ replaced by the home folder.

    Raises:
      JaxganError: if it begins with ~, and there is no such home folder; or if it is a URL.
    """
    if "://" in str(path):
        raise JaxganError(f"{path} is a URL, and jaxgan reads and writes local files only")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise JaxganError(f"{path}: there is no such home folder; give the whole path") from error


def check_writable(path: Path) -> None:
    """Makes the folder of a file that will be written later, and checks that it can be written.

    Raises:
      JaxganError: if it cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file. At any moment either the old or the new file is there, complete."""
    with new_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file. It replaces the file at `path` if the block ends without an error."""
    partial = partial_path(path)
    try:
        # "x" never opens what is there already, such as a link to another file.
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_new_folder(path: Path) -> None:
    """Checks that `new_folder(path)` will work. Makes the parent folder.

    Raises:
      JaxganError: if there is a file or a folder with files, or if it cannot be written.
    """
    path = path.resolve()
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise JaxganError(f"{path} is a file: choose another --out")
        if path.exists() and any(path.iterdir()):
            raise JaxganError(
                f"{path} is not empty: files of two calls would mix; choose another --out"
            )
    check_writable(partial_path(path))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a new folder to write in. If the block ends without an error, it moves to `path`.

    There must be nothing at `path`, or an empty folder, else OSError is raised.
    """
    path = path.resolve()
    partial = partial_path(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(path: Path) -> Path:
    """An unpredictable name in the folder of `path`, for a file or folder that is being written."""
    return path.with_name(f".{secrets.token_hex(8)}{_PARTIAL}")


def remove_partial(folder: Path) -> None:
    """Removes incomplete files that an interrupted write left in a folder."""
    for path in folder.glob(f".*{_PARTIAL}"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, comfort: str = "") -> Iterator[None]:
    """Turns the errors of writing, such as those of a full disk, into a JaxganError of one line."""
    try:
        yield
    except JaxganError:
        raise
    # tensorstore reports a full disk as ValueError, Orbax's threads as RuntimeError.
    except (OSError, ValueError, RuntimeError) as error:
        if is_lost_process(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "then run the same command again"
        if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
            advice = "Choose another path, or move what is in the way, " + advice
        elif isinstance(error, OSError) or any(sign in str(error) for sign in _SIGNS):
            advice = "Make room or permit writing there, " + advice
        else:
            advice = "If the system has run out of memory or threads, end other programs, " + advice
        raise JaxganError(f"cannot write to {path}: {reason}. {comfort}{advice}") from error


def cache_folder(kind: str) -> Path | None:
    """A folder in the user's cache folder, such as "compiled"; None if there is no home folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():  # the XDG standard ignores relative paths
        root = Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    try:
        return root.expanduser() / "jaxgan" / kind
    except RuntimeError:
        return None
