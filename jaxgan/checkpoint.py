"""Checkpoints that can be trusted, and the run folder that holds them.

A run folder belongs to one process at a time and one configuration for good:

    config.json          what the run is; a run that differs is refused
    checkpoints/STEP/    Orbax, atomic, the last 3 and the best
    damaged/STEP/        checkpoints that were found damaged, moved out of the way

Knows nothing of GANs: a checkpoint is a tree of arrays and a record that fits JSON.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgan.devices import agree, is_first, is_lost_process, replicated, together
from jaxgan.errors import JaxganError

KEEP = 3
"""How many checkpoints are kept, the newest; beside the best."""

_NONE = -1
_COMFORT = "Earlier checkpoints are intact. "
_DIGESTS = "digests.json"
_NOT_DATA = (_DIGESTS, "_CHECKPOINT_METADATA", "commit_success.txt")
"""What Orbax still writes after the digests, and does not need for reading."""


class Checkpoint(NamedTuple):
    """What is saved: `arrays`, any tree of jax arrays, and `record`, anything that fits JSON."""

    arrays: Any
    record: Any


class RunFolder:
    """A run's folder, locked for this process until `close`.

    Args:
      path: the folder; made if it is not there.
      config: what the run is, nested mappings of what fits JSON. It is compared with the
        `config.json` that is there.
      free: the fields, as "section.name", that may differ from an earlier process's.
      defaults: like `config`: what the fields stand for that an earlier version did not have yet.

    Raises:
      JaxganError: if the folder cannot be written, is in use, holds a run of another config, or
        holds something else. Nothing is changed then.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping,
        free: frozenset[str] = frozenset(),
        defaults: Mapping | None = None,
    ):
        self.path = Path(path).expanduser().absolute()
        self._manager: Any = None
        self._saving: int | None = None
        self._best: int | None = None
        self._lock: int | None = None
        with together(f"open {self.path}"):
            if is_first():
                self._open(config, free, defaults or {})

    def _open(self, config: Mapping, free: frozenset[str], defaults: Mapping) -> None:
        if set("[]\\") & set(str(self.path)):
            # Orbax takes the path for a pattern when it merges its files, and saves nothing then.
            raise JaxganError(f"a run folder's path must not hold [, ] or \\: {self.path}")
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_config(config, free, defaults)
            self._lock = _locked(self.path / ".lock")
        try:
            # Once more: until now another process may have been at work here.
            self._check_config(config, free, defaults)
            with disk_errors(self.path):
                write_atomically(self.path / "config.json", json.dumps(config, indent=2) + "\n")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        if isinstance(error, Exception) and is_lost_process(error):
            self._manager = None  # to wait for the last save would not end
        self.close()

    def restore(self, like: Checkpoint) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None if there is none at all; see `restore`."""
        found = restore(self.path, like)
        if found is None:
            return None
        checkpoint, step = found
        with together("move what is damaged"):
            if is_first():
                self._put_aside(step)
        return checkpoint

    def _put_aside(self, step: int) -> None:
        """Moves the checkpoints after a step out of the way, which are damaged.

        Orbax would take them for saved; and they may be all that is left of a long run.
        """
        for newer in steps(self.path):
            if newer > step:
                aside = self.path / "damaged" / str(newer)
                with disk_errors(self.path):
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.parent.mkdir(exist_ok=True)
                    (self.path / "checkpoints" / str(newer)).rename(aside)

    def save(self, step: int, checkpoint: Checkpoint, best: int | None = None) -> None:
        """Begins to save in the background; waits only for the save before.

        Of the older checkpoints the newest are kept, and that of the step `best` if there is one.
        The arrays may be donated as soon as this returns: Orbax has them in the host's memory.

        Raises:
          JaxganError: if this save or the one before fails, on a full disk for example. Older
            checkpoints are intact then.
        """
        import orbax.checkpoint as ocp

        with disk_errors(self.path, _COMFORT):
            if self._manager is None:
                self._manager = _manager(self.path, self._write_digests, lambda: self._best)
            with together(f"save to {self.path}"):
                self._manager.wait_until_finished()
            self._saving, self._best = step, best
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(checkpoint.arrays),
                    record=ocp.args.JsonSave(checkpoint.record),
                ),
            )

    def close(self) -> None:
        """Finishes the last save and gives the folder free. Raises as `save`."""
        manager, self._manager = self._manager, None
        try:
            if manager is not None:
                with disk_errors(self.path, _COMFORT):
                    manager.close()
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def _write_digests(self) -> None:
        """Runs in Orbax's thread when all files of a step are written.

        That is just before the temporary folder gets its final name: a finished step has digests.
        """
        for folder in (self.path / "checkpoints").glob(f"{self._saving}*"):
            if folder.name.split(".")[0] == str(self._saving):
                write_atomically(folder / _DIGESTS, json.dumps(_digests(folder)))

    def _check_config(self, config: Mapping, free: frozenset[str], defaults: Mapping) -> None:
        file = self.path / "config.json"
        if not file.exists():
            # What a process that was killed before it had a config.json may have left.
            ours = (".lock", _partial(file).name)
            foreign = [entry.name for entry in self.path.iterdir() if entry.name not in ours]
            if foreign:
                raise JaxganError(
                    f"{self.path} is not a run folder: it has no config.json but {foreign[0]}; "
                    "choose another --workdir"
                )
            return
        now = _flat(json.loads(json.dumps(config)))
        before = _flat(json.loads(json.dumps(defaults))) | _flat(read_config(self.path))
        names = [
            name
            for name in sorted(before.keys() | now.keys())
            if name not in free and before.get(name) != now.get(name)
        ]
        if names:
            changes = ", ".join(f"{n}: {before.get(n)!r} -> {now.get(n)!r}" for n in names)
            raise JaxganError(
                f"{self.path} holds a run of another configuration ({changes}); "
                "go on with the same settings, or choose another --workdir"
            )


def restore(path: Path, like: Checkpoint) -> tuple[Checkpoint, int] | None:
    """Reads the newest checkpoint of a run folder that is whole, without changing anything.

    Args:
      path: the run folder.
      like: a checkpoint whose arrays give structure, shapes, types and placement.

    Returns:
      The checkpoint and its step, or None if there is none. One that is damaged, or of another
      version, gives a warning, and the
      one before is taken.

    Raises:
      JaxganError: if there are checkpoints, and all are damaged.
    """
    damaged: set[int] = set()
    while True:
        with together(f"read the checkpoints in {path}"):
            step = _newest_whole(path, damaged) if is_first() else _NONE
        step = int(agree([step])[0])
        if step == _NONE:
            return None
        folder = path / "checkpoints" / str(step)
        try:
            return _read(folder, like), step
        # Orbax and tensorstore raise whatever comes, even bare Exception.
        except Exception as error:
            if jax.process_count() > 1:
                raise  # the other processes may have read it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            _warn_damaged(folder, f"it may be of another version of jaxgan ({reason})")
            damaged.add(step)


def restore_step(path: Path, step: int, like: Checkpoint) -> Checkpoint:
    """Reads one checkpoint of a run folder, as `restore` does.

    Raises:
      JaxganError: if it is not there, or is damaged.
    """
    folder = path / "checkpoints" / str(step)
    damage = _damage(folder) if step in steps(path) else "it is not there"
    if damage is None:
        try:
            return _read(folder, like)
        # Orbax and tensorstore raise whatever comes, even bare Exception.
        except Exception as error:
            damage = (str(error).splitlines() or [type(error).__name__])[0]
    raise JaxganError(f"checkpoint {folder} cannot be used: {damage}; others may be whole")


def _newest_whole(path: Path, damaged: set[int]) -> int:
    """The newest step that is not damaged, or _NONE if there is none at all."""
    found = steps(path)
    for step in found:
        if step not in damaged:
            folder = path / "checkpoints" / str(step)
            damage = _damage(folder)
            if damage is None:
                return step
            _warn_damaged(folder, damage)
            damaged.add(step)
    if found:
        raise JaxganError(
            f"all checkpoints in {path / 'checkpoints'} are unusable; nothing was changed. Restore "
            "them from a backup, take the version of jaxgan that made them, or start anew in "
            "another --workdir"
        )
    return _NONE


def _warn_damaged(folder: Path, damage: str) -> None:
    warnings.warn(f"checkpoint {folder} is unusable and passed over: {damage}", stacklevel=4)


def read_config(path: str | Path) -> dict:
    """The config.json of a run folder.

    Raises:
      JaxganError: if there is none, or it cannot be read.
    """
    file = Path(path).expanduser() / "config.json"
    try:
        config = json.loads(file.read_text())
        if not isinstance(config, dict) or not all(
            isinstance(v, dict | str) for v in config.values()
        ):
            raise ValueError("it is not of a run")
        return config
    except FileNotFoundError as error:
        raise JaxganError(f"{path} is not a run folder: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise JaxganError(f"{file} cannot be read ({error})") from error


def check_writable(path: Path) -> None:
    """Makes the folder of a file that is to be written later, and sees that it can be.

    Raises:
      JaxganError: if not, before the work is done that goes into it.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that at any moment the old one or the new one is there, whole."""
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _manager(path: Path, when_final: Callable[[], None], best: Callable[[], int | None]):
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers

    class Best(checkpoint_managers.PreservationPolicy):
        """Asked at each save; of Orbax's own policies none knows of a best step that changes."""

        def should_preserve(self, checkpoints, *, context):
            return [checkpoint.step == best() for checkpoint in checkpoints]

    latest = checkpoint_managers.LatestN(KEEP)
    return ocp.CheckpointManager(
        path / "checkpoints",
        options=ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, Best()]),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=when_final),
        ),
    )


def _read(folder: Path, like: Checkpoint) -> Checkpoint:
    import orbax.checkpoint as ocp

    # What is numpy's stays so, in the host's memory.
    target = jax.tree.map(
        lambda x: x if isinstance(x, np.ndarray) else ocp.utils.to_shape_dtype_struct(x),
        replicated(like.arrays),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(
            folder,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(target), record=ocp.args.JsonRestore()
            ),
        )
    return Checkpoint(found["arrays"], found["record"])


def steps(path: Path) -> list[int]:
    """The steps of the finished checkpoints of a run folder, newest first."""
    # Orbax gives a step its plain number only when it is whole.
    try:
        names = [folder.name for folder in (path / "checkpoints").iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JaxganError(f"{path / 'checkpoints'} cannot be read ({error.strerror})") from error
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of data below a folder, by relative path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in _NOT_DATA
    }


def _damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    Without this Orbax would restore wrong values from a file in which a bit has flipped, and say
    nothing.
    """
    try:
        expected = json.loads((folder / _DIGESTS).read_text())
        found = _digests(folder)
    except (OSError, ValueError) as error:
        return str(error)
    if not isinstance(expected, dict):
        return f"{_DIGESTS} is not what was written"
    for name, digest in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} has changed since it was written"
    return None


def _locked(path: Path) -> int:
    """An open file that this process holds the lock of; the system frees it however we end."""
    import fcntl

    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise JaxganError(
            f"{path.parent} is in use by another process; wait for it, or choose another --workdir"
        ) from error
    return file


@contextlib.contextmanager
def disk_errors(path: Path, comfort: str = "") -> Iterator[None]:
    """Turns what a full or read-only disk raises into one clear line."""
    try:
        yield
    except JaxganError:
        raise
    # tensorstore reports a full disk as ValueError, Orbax's threads as RuntimeError.
    except (OSError, ValueError, RuntimeError) as error:
        if is_lost_process(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JaxganError(
            f"cannot write to {path}: {reason}. {comfort}"
            "Make room or permit writing there, and run the same command again"
        ) from error


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, the keys joined by dots."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
