"""Checkpoints that can be trusted, and the run folder that holds them.

A run folder belongs to one process at a time, and always to the same configuration:

    config.json          the configuration; a run with another one is refused
    checkpoints/STEP/    written atomically by Orbax: the last 3 and the best
    damaged/STEP/        damaged checkpoints, moved out of the way

A checkpoint is a tree of arrays and a record that fits JSON.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgan.errors import JaxganError
from jaxgan.files import disk_errors, expand, remove_partial, write_atomically
from jaxgan.processes import agree, is_first, is_lost_process, together
from jaxgan.run import weights
from jaxgan.run.devices import replicated

KEEP = 3
"""How many of the newest checkpoints are kept, beside the best one."""

ENTRIES = (
    *("samples", "training.gif", "curves.png", "best.png", "worst.png", "report.json", "real.png"),
    *("metrics.csv", "config.json", "checkpoints", "privacy.json", "secret.key"),
    *("tensorboard", "wandb", "mlflow", "profile", "tracker_name"),
)
"""What a run writes into its folder, the most interesting first."""

_NONE = -1
_COMFORT = "Earlier checkpoints are intact. "
_DIGEST = "sha256 of the rest"
_DIGESTS = "digests.json"
_NOT_DATA = (_DIGESTS, "_CHECKPOINT_METADATA", "commit_success.txt")
"""The digests, and files that Orbax writes after them. Restoring does not need these files."""


class Checkpoint(NamedTuple):
    """`arrays`: any tree of jax arrays. `record`: anything that fits JSON."""

    arrays: Any
    record: Any


class RunFolder:
    """A run folder, locked for this process until `close`.

    Args:
      path: the folder; it is made if it does not exist.
      config: the configuration, nested mappings that fit JSON. "jaxgan" is the version of jaxgan.
        An existing config.json must be equal to it, apart from `free`.
      free: the fields, as "section.name", that may differ from those in config.json.

    Raises:
      JaxganError: if the folder cannot be written, is in use, holds another configuration or is no
        run folder, or if another minor version of jaxgan wrote it. Its files are unchanged then.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        free: frozenset[str] = frozenset(),
    ):
        self.path: Path = expand(path).absolute()
        self._manager: Any = None
        self._saving: int | None = None
        self._best: int | None = None
        self._lock: int | None = None
        with together(f"open {self.path}"):
            if is_first():
                self._open(config, free)

    def _open(self, config: Mapping[str, Any], free: frozenset[str]) -> None:
        _check_path(self.path)
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_config(config, free)
            self._lock = _locked(self.path / ".lock")
        try:
            # Again, since another process may have written the file before this one got the lock.
            self._check_config(config, free)
            with disk_errors(self.path):
                for folder in (self.path, self.path / "samples"):
                    remove_partial(folder)
            self.write_config(config)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, Exception) and is_lost_process(error):
            self._manager = None  # waiting for the last save would never end
        with contextlib.suppress(JaxganError) if error else contextlib.nullcontext():
            self.close()

    def check_present(self) -> None:
        """Checks that the folder is still there.

        Raises:
          JaxganError: if it was removed, or if there is another one in its place.
        """
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._lock), (self.path / ".lock").lstat()):
                    return
            raise removed(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json."""
        content = {**config, _DIGEST: _digest(config)}
        with disk_errors(self.path):
            write_atomically(self.path / "config.json", json.dumps(content, indent=2) + "\n")

    def restore(self, like: Checkpoint) -> Checkpoint | None:
        """The newest intact checkpoint, or None if there is none, by the function `restore`."""
        found = restore(self.path, like)
        if found is None:
            return None
        checkpoint, step = found
        with together("move the damaged checkpoints"):
            if is_first():
                self._put_aside(step)
        return checkpoint

    def _put_aside(self, step: int) -> None:
        """Moves the damaged checkpoints after a step out of the way.

        Orbax would count them as saved. They are not deleted: a long run may have no others.
        """
        for newer in steps(self.path):
            if newer > step:
                aside = self.path / "damaged" / str(newer)
                with disk_errors(self.path):
                    if aside.is_symlink():
                        aside.unlink()
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.parent.mkdir(exist_ok=True)
                    (self.path / "checkpoints" / str(newer)).rename(aside)

    def save(self, step: int, checkpoint: Checkpoint, best: int | None = None) -> None:
        """Starts to save in the background, after the previous save has finished.

        Keeps the KEEP newest checkpoints, and that of the step `best` if there is one. When this
        returns, Orbax has copied the arrays to the host's memory, and they may be donated.

        Raises:
          JaxganError: if this save or the previous one fails, on a full disk for example. Older
            checkpoints are intact then.
        """
        import orbax.checkpoint as ocp

        with disk_errors(self.path, _COMFORT):
            with together(f"save to {self.path}"):
                self.check_present()
            if self._manager is None:
                self._manager = _manager(self.path, self._write_digests, lambda: self._best)
            with together(f"save to {self.path}"):
                self._manager.wait_until_finished()
            self._saving, self._best = step, best
            begun = self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(checkpoint.arrays),
                    record=ocp.args.JsonSave(checkpoint.record),
                ),
            )
        if not begun:
            raise JaxganError(
                f"step {step} was not saved: {self.path / 'checkpoints'} already has a checkpoint "
                f"of step {steps(self.path)[0]}, which this run did not write; move it away"
            )

    def wait(self) -> None:
        """Finishes the last save. Raises like `save`."""
        if self._manager is not None:
            with disk_errors(self.path, _COMFORT):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save and unlocks the folder. Raises like `save`."""
        manager, self._manager = self._manager, None
        lock, self._lock = self._lock, None
        try:
            if manager is not None:
                with disk_errors(self.path, _COMFORT):
                    manager.close()
        finally:
            if lock is not None:
                os.close(lock)

    def _write_digests(self) -> None:
        """Runs in Orbax's thread when all files of a checkpoint are written.

        The temporary folder gets its final name after this. So a finished checkpoint has digests.
        """
        for folder in (self.path / "checkpoints").glob(f"{self._saving}*"):
            if folder.name.split(".")[0] == str(self._saving):
                content = {"step": self._saving, "sha256": _digests(folder)}
                write_atomically(folder / _DIGESTS, json.dumps(content))

    def _check_config(self, config: Mapping[str, Any], free: frozenset[str]) -> None:
        file = self.path / "config.json"
        entries = list(self.path.iterdir())
        for entry in entries:
            if entry.is_symlink() and entry.name in (*ENTRIES, ".lock", "damaged"):
                raise JaxganError(
                    f"{entry} is a link, and a run writes and deletes files in its own folder "
                    "only; put a real file or folder there, or choose another --workdir"
                )
        if not file.exists():
            # Other files, such as a log, may stay. Folders may not.
            foreign = [one.name for one in entries if one.is_dir() or one.name in ENTRIES]
            if foreign:
                raise JaxganError(
                    f"{self.path} is not a run folder: it has {foreign[0]}, but no config.json; "
                    "choose another --workdir"
                )
            return
        self._check_version(str(read_config(self.path).get("jaxgan")), str(config.get("jaxgan")))
        if changes := differences(self.path, config, free):
            raise JaxganError(
                f"{self.path} holds a run of another configuration ({shortened(changes)}); "
                "resume it with the same settings, or choose another --workdir"
            )

    def _check_version(self, before: str, now: str) -> None:
        """Refuses a run of another minor version, whose steps may draw other random numbers."""
        if before.split(".")[:2] != now.split(".")[:2]:
            raise JaxganError(
                f"{self.path} was written by jaxgan {before}, and jaxgan {now} cannot resume it to "
                f"the bit: resume it with jaxgan {before}, or choose another --workdir"
            )


def differences(path: Path, config: Mapping[str, Any], free: frozenset[str]) -> list[str]:
    """How a config differs from that of a run folder, apart from the fields in `free`.

    Each difference is a text, mostly "NAME: BEFORE -> NOW". The minor version of jaxgan always
    counts. The list is empty if the folder holds no run.
    """
    if not (path / "config.json").exists():
        return []
    try:
        before = flat(read_config(path))
    except JaxganError as error:
        return [str(error)]
    now, found = flat(json.loads(json.dumps(config))), []

    def order(name: str) -> tuple[bool, bool, str]:
        # First the settings of the run, last the data.
        return not name.startswith("train."), name.startswith("data."), name

    for name in sorted(before.keys() | now.keys(), key=order):
        pair = [str(one.get(name)) for one in (before, now)]
        if name == "jaxgan":
            pair = [".".join(version.split(".")[:2]) for version in pair]
        if pair[0] != pair[1] and (name not in free or name == "jaxgan"):
            is_digest = name == "data.sha256"
            found.append("the data have changed" if is_digest else f"{name}: {' -> '.join(pair)}")
    return found


def shortened(changes: Sequence[str], most: int = 3) -> str:
    """The first texts, and how many more there are."""
    more = [f"and {len(changes) - most} more"] if len(changes) > most else []
    return ", ".join([*changes[:most], *more])


def _check_path(path: Path) -> None:
    """Refuses paths that Orbax cannot write, before a long training."""
    if set("[]\\") & set(str(path)):
        # Orbax would take the path for a pattern and save nothing.
        raise JaxganError(f"the path of a run folder must not contain [, ] or \\: {path}")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise JaxganError(
            f"the path of a run folder must be UTF-8: {str(path)!r}; set PYTHONUTF8=1 or a UTF-8 "
            "locale, or choose another --workdir"
        ) from error


def restore(path: Path, like: Checkpoint) -> tuple[Checkpoint, int] | None:
    """Reads the newest intact checkpoint of a run folder. The folder does not change.

    Args:
      path: the run folder.
      like: a checkpoint with the structure, shapes, dtypes and placement of the arrays.

    Returns:
      The checkpoint and its step, or None if there is none. For a checkpoint that cannot be used,
      it warns and tries the one before.

    Raises:
      JaxganError: if there are checkpoints and none can be used.
    """
    path, damaged = path.absolute(), set()
    while True:
        with together(f"read the checkpoints in {path}"):
            step = _newest_intact(path, damaged) if is_first() else _NONE
        step = int(agree([step])[0])
        if step == _NONE:
            return None
        folder = path / "checkpoints" / str(step)
        try:
            return _read(folder, like), step
        # Orbax and tensorstore raise errors of many types, even bare Exception.
        except Exception as error:
            if jax.process_count() > 1:
                raise  # other processes may have read it without an error
            if not folder.exists():
                continue  # a run that is training has removed it; there is a newer one
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            _warn_damaged(folder, f"it may be of another version of jaxgan ({reason})")
            damaged.add(step)


def restore_record(path: Path) -> Any:
    """The record of the newest intact checkpoint of a run folder; None if there is none.

    Raises:
      JaxganError: like `restore`.
    """
    import orbax.checkpoint as ocp

    path = path.absolute()
    step = _newest_intact(path, set())
    if step == _NONE:
        return None
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        folder, args = path / "checkpoints" / str(step), ocp.args.JsonRestore()
        return checkpointer.restore(folder, args=ocp.args.Composite(record=args))["record"]


def restore_step(path: Path, step: int, like: Checkpoint) -> Checkpoint:
    """Reads one checkpoint of a run folder, like `restore`.

    Raises:
      JaxganError: if it does not exist or is damaged.
    """
    folder = path / "checkpoints" / str(step)
    damage = _damage(folder) if step in steps(path) else "it does not exist"
    if damage is None:
        try:
            return _read(folder, like)
        # Orbax and tensorstore raise errors of many types, even bare Exception.
        except Exception as error:
            damage = (str(error).splitlines() or [type(error).__name__])[0]
    raise JaxganError(f"checkpoint {folder} cannot be used: {damage}; others may be intact")


def _newest_intact(path: Path, damaged: set[int]) -> int:
    """The step of the newest intact checkpoint, or _NONE if there are no checkpoints."""
    found = steps(path)
    for step in found:
        if step not in damaged:
            folder = path / "checkpoints" / str(step)
            damage = _damage(folder)
            if damage is None:
                return step
            if not folder.exists():
                return _newest_intact(path, damaged)  # a run that is training has removed it
            _warn_damaged(folder, damage)
            damaged.add(step)
    if found:
        raise JaxganError(
            f"no checkpoint in {path / 'checkpoints'} can be used; nothing was changed. Restore "
            "them from a backup, use the version of jaxgan that wrote them, or start again in "
            "another --workdir"
        )
    return _NONE


def _warn_damaged(folder: Path, damage: str) -> None:
    warnings.warn(f"checkpoint {folder} cannot be used and is skipped: {damage}", stacklevel=4)


def removed(path: Path) -> JaxganError:
    """The error of a run whose folder was removed or replaced."""
    return JaxganError(
        f"{path} was removed or replaced while the run was writing to it; put it back and run the "
        "same command again, or start again"
    )


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a run folder, or what a file of `jaxgan.run.weights` has in its place.

    Raises:
      JaxganError: if it does not exist, cannot be read, or has changed since it was written.
    """
    if expand(path).is_file():
        return weights.read_about(expand(path))
    file = expand(path) / "config.json"
    try:
        config = json.loads(file.read_text())
        if not isinstance(config, dict) or not all(
            isinstance(v, dict | str) for v in config.values()
        ):
            raise ValueError("it describes no run")
    except FileNotFoundError as error:
        message = f"{path} is not a run folder: it has no config.json"
        groups = sorted(found.parent.name for found in expand(path).glob("*/config.json"))
        if groups and (expand(path) / "sweep.json").exists():
            message = f"{path} is a sweep; choose one of its run folders: {', '.join(groups)}"
        raise JaxganError(message) from error
    except (OSError, ValueError, RecursionError) as error:
        raise JaxganError(f"{file} cannot be read ({error})") from error
    return without_digest(config, file)


def without_digest(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The content of a config.json without its digest.

    Raises:
      JaxganError: if it has changed since it was written.
    """
    rest = {name: value for name, value in config.items() if name != _DIGEST}
    # Earlier versions had none.
    if _DIGEST in config and config[_DIGEST] != _digest(rest):
        raise JaxganError(
            f"{file} has changed since it was written; restore it, or, if you changed it on "
            f"purpose, remove its entry {_DIGEST!r}"
        )
    return rest


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _manager(path: Path, when_final: Callable[[], None], best: Callable[[], int | None]):
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers

    class Best(checkpoint_managers.PreservationPolicy):
        """Keeps the best step. Orbax's own policies have no best step that can change later."""

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

    # numpy arrays stay numpy arrays, in the host's memory.
    target = jax.tree.map(
        lambda x: x if isinstance(x, np.ndarray) else ocp.utils.to_shape_dtype_struct(x),
        replicated(like.arrays),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        # Partial: a reader of the state alone does not mind what else other versions have saved.
        arrays = ocp.args.PyTreeRestore(
            target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        found = checkpointer.restore(
            folder, args=ocp.args.Composite(arrays=arrays, record=ocp.args.JsonRestore())
        )
    # What the file lacks comes back as it was given.
    pairs = zip(jax.tree.leaves(found["arrays"]), jax.tree.leaves(target), strict=True)
    for restored, given in pairs:
        if restored is given:
            raise ValueError("it lacks some of the arrays")
        if restored.shape != given.shape:
            raise ValueError(f"it has an array of {restored.shape} in place of {given.shape}")
    return Checkpoint(found["arrays"], found["record"])


def steps(path: Path) -> list[int]:
    """The steps of the finished checkpoints of a run folder, newest first."""
    # The name of a folder is a step only when its checkpoint is complete.
    try:
        names = [folder.name for folder in (path / "checkpoints").iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JaxganError(f"{path / 'checkpoints'} cannot be read ({error.strerror})") from error
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of every data file below a folder, by relative path."""
    return {
        str(file.relative_to(folder)): _sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in _NOT_DATA
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    Orbax itself restores wrong values from a file with a flipped bit, without an error.
    """
    try:
        written = json.loads((folder / _DIGESTS).read_text())
        step = written.get("step", folder.name)
        # Before version 0.5 the file had the digests alone.
        for name, digest in written.get("sha256", written).items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _sha256(folder / name) != digest:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    except (AttributeError, TypeError):
        return f"{_DIGESTS} is not what was written"
    return None if str(step) == folder.name else f"it is a copy of the checkpoint of step {step}"


def _locked(path: Path) -> int:
    """An open and locked file. The system unlocks it when the process ends, however it ends."""
    import fcntl

    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    for wait in (0.1, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(wait)  # `in_use` may have looked at this moment
    os.close(file)
    raise JaxganError(
        f"{path.parent} is in use by another process; wait for it, or choose another --workdir"
    )


def in_use(path: Path) -> bool:
    """Whether a process is training the run in a folder."""
    import fcntl

    try:
        with (path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # such as no file
        return False
    return False


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"train": {"seed": 0}} as {"train.seed": 0}."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
