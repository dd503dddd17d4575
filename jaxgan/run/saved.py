"""Reads a run folder: the settings of the run, and its state at a checkpoint."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from jaxgan import schedules
from jaxgan.errors import JaxganError
from jaxgan.files import expand
from jaxgan.history import member_history
from jaxgan.metrics import evaluation
from jaxgan.model import Model
from jaxgan.run import checkpoint, journal, loop, private, weights
from jaxgan.run.members import OneRun, make_runs
from jaxgan.run.settings import TrainConfig
from jaxgan.version import __version__


class Loaded(NamedTuple):
    """A trained state, and where it comes from."""

    state: Any
    epochs: int
    """The number of finished epochs."""
    label: dict[str, Any]
    """Of a member of a population: its number, its seed and its own settings."""
    row: dict[str, Any]
    """The row of the last of these epochs in the history, for this member."""


def find_model(workdir: str | Path, models: Mapping[str, Model]) -> Model:
    """The model of a run folder, from a table such as `jaxgan.MODELS`.

    Raises:
      JaxganError: if it is no run folder, or if its model is not in the table.
    """
    # Before version 0.4 there was only the GAN.
    name = str(checkpoint.read_config(workdir).get("model", "gan"))
    if name not in models:
        raise JaxganError(
            f"{workdir} holds a run of the model {name!r}; this version of jaxgan has "
            f"{', '.join(models)}"
        )
    settings = checkpoint.read_config(workdir).get("train")
    if isinstance(settings, Mapping) and settings.get("epsilon") is not None:
        return private.without_real(models[name])
    return models[name]


def read_settings(workdir: str | Path) -> TrainConfig:
    """The TrainConfig of the run in a folder, with the data set that `auto` has found.

    Raises:
      JaxganError: if it is no run folder, or if this version does not know its settings.
    """
    settings = _read(workdir, "train", TrainConfig)
    if settings.dataset != "auto":
        return settings
    name = _section(workdir, checkpoint.read_config(workdir), "data").get("name")
    return dataclasses.replace(settings, dataset=str(name))


def read_classes(workdir: str | Path) -> list[str]:
    """The names of the classes of a conditional run, by their labels; [] if they have no names.

    Raises:
      JaxganError: if it is no run folder.
    """
    found = _section(workdir, checkpoint.read_config(workdir), "data").get("classes")
    return list(map(str, found)) if isinstance(found, list) else []


def read_config(model: Model, workdir: str | Path) -> Any:
    """The config of the run in a folder. Stand-ins replace parts of your own, such as networks.

    Raises:
      JaxganError: if it is no run folder, or if this version does not know its settings.
    """
    return _read(workdir, model.name, model.config, _STAND_INS, check=False)


def read_history(model: Model, workdir: str | Path) -> list[dict[str, Any]]:
    """The history of the run in a folder, which may still continue.

    The epochs until the newest checkpoint come from there, since it has digests. The later ones
    come from metrics.csv.

    Raises:
      JaxganError: if neither can be read, or if no checkpoint can be used.
    """
    path = expand(workdir)
    record = checkpoint.restore_record(path)
    if record is None:
        return journal.read_table(path, model)
    history = as_run(checkpoint.Checkpoint({"state": None}, record), path, model).history
    try:
        table = journal.read_table(path, model)
    except JaxganError:
        table = []
    return [*history, *table[len(history) :]]


def load_state(
    model: Model,
    workdir: str | Path,
    member: int | None = None,
    *,
    best: bool = False,
    config: Any = None,
) -> tuple[Any, int]:
    """The trained state in a run folder, from the newest intact checkpoint or from the best one.

    Args:
      model: of the run, as `find_model` gives it.
      workdir: the run folder, or a file of `export.py --to safetensors`.
      member: which one of a population; by default the best (`population.make_report`).
      best: whether to take the checkpoint with the best scores (`evaluation.best_row`). The default
        member of a population is then the one with these scores.
      config: needed if the run has parts of your own, such as networks: a config with the same
        parts. Its other fields are ignored.

    Returns:
      The state and the number of finished epochs.

    Raises:
      JaxganError: like `checkpoint_like`. Also if there is no checkpoint that can be used, if there
        is no such member, or if `best` and no epoch has a finite score.
    """
    found = load(model, workdir, member, best=best, config=config)
    return found.state, found.epochs


def load(
    model: Model,
    workdir: str | Path,
    member: int | None = None,
    *,
    best: bool = False,
    config: Any = None,
) -> Loaded:
    """Like `load_state`. The result also names the member and has the row of its last epoch."""
    path = expand(workdir).absolute()
    if path.is_file():
        return _load_file(model, path, member, best, config)
    runs, like = _runs_and_checkpoint(model, workdir, config)
    # Without the sums of metrics, which other versions may have named differently.
    like = like._replace(arrays={"state": like.arrays["state"]})
    newest = checkpoint.restore(path, like)
    if newest is None:
        raise JaxganError(f"{workdir} has no checkpoint yet: train it, or wait for the first one")
    found, _ = newest
    history = as_run(found, path).history
    row = evaluation.best_row(history) if best else None
    if row is not None:
        found = checkpoint.restore_step(path, row["step"], like)
        history = as_run(found, path).history
    elif best:
        raise JaxganError(
            f"{workdir} has no finite score in its newest checkpoint: its samples were not scored"
        )
    chosen = runs.index(history, member, None if row is None else evaluation.best_member(row))
    return Loaded(
        runs.member_state(found.arrays["state"], chosen),
        len(history),
        runs.labels[chosen],
        member_history(history, chosen)[-1] if history else {},
    )


def _load_file(model: Model, path: Path, member: int | None, best: bool, own: Any) -> Loaded:
    if member is not None or best:
        raise JaxganError(f"{path} holds one state: leave out {'best' if best else 'member'}")
    config, _ = _read_configs(model, path, own)
    saved: Any = checkpoint.read_config(path).get("saved")
    return Loaded(weights.restore(model, path, config), saved["epochs"], {}, {})


def checkpoint_like(model: Model, workdir: str | Path, config: Any = None) -> checkpoint.Checkpoint:
    """The shapes and dtypes of the checkpoints of a run, as `checkpoint.restore` needs them.

    `config` is that of `load_state`.

    Raises:
      JaxganError: if it is no run folder, if this version does not know its settings, or if it has
        parts of your own, and `config` is missing or has others.
    """
    return _runs_and_checkpoint(model, workdir, config)[1]


def as_json(config: Any) -> dict[str, Any]:
    """The fields of a config as config.json holds them.

    A part of your own, such as a network, is {"own": its repr, without addresses in memory}.
    """
    return {
        field.name: _as_json(getattr(config, field.name)) for field in dataclasses.fields(config)
    }


def _as_json(value: Any) -> Any:
    # An optax optimizer is a tuple, and a Flax module need not be callable.
    if callable(value) or isinstance(value, nn.Module) or hasattr(value, "update"):
        return {_OWN: re.sub(r" at 0x[0-9a-f]+", "", repr(value))}
    return [_as_json(one) for one in value] if isinstance(value, tuple | list) else value


def as_checkpoint(run: loop.Run) -> checkpoint.Checkpoint:
    """The checkpoint of a run; `as_run` gives the run again."""
    return checkpoint.Checkpoint(
        arrays={"state": run.state, "totals": run.totals},
        record={"history": run.history, "seconds": run.seconds},
    )


def as_run(found: checkpoint.Checkpoint, path: Path, model: Model | None = None) -> loop.Run:
    """The run of a checkpoint in a run folder.

    Raises:
      JaxganError: if the record of the checkpoint is not that of a run, or, with `model`, if it
        lacks a column that the diagnosis of the model needs, as that of another version may.
    """
    try:
        run = loop.Run(**{"totals": None} | found.arrays, **found.record)
        if not (float(run.seconds) >= 0 and all(map(_is_row, run.history))):
            raise ValueError("it is no history")
        if model is not None:
            journal.diagnose(model, run.history)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise JaxganError(
            f"the record of a checkpoint in {path} is damaged, or of another version of jaxgan"
        ) from error
    return run


def _is_row(row: Any) -> bool:
    """Whether this is a row of a history: numbers by name. The names and numbers go into tables."""
    return {"epoch", "step"} <= dict(row).keys() and all(
        re.match("[a-z]", name)
        and name.isprintable()
        and np.issubdtype(np.asarray(value).dtype, np.number)
        for name, value in dict(row).items()
    )


def _runs_and_checkpoint(
    model: Model, workdir: str | Path, own: Any = None
) -> tuple[OneRun, checkpoint.Checkpoint]:
    config, settings = _read_configs(model, workdir, own)
    runs = make_runs(model, config, settings)
    # A view of one zero takes no memory: a damaged config.json may ask for any size.
    images = np.broadcast_to(np.uint8(0), (1, *config.image_shape))
    batch = {"image": images, "label": np.zeros(1, np.int32)}
    layout = runs.make_layout(1)
    state = runs.state_like()
    run = loop.start_run(model.train_step, state, batch, settings.batch_size, layout)
    return runs, as_checkpoint(run)


def _read_configs(model: Model, workdir: str | Path, own: Any) -> tuple[Any, TrainConfig]:
    """The config of the model, with the parts of your own in `own`, and that of the run."""
    own = {} if own is None else {x.name: getattr(own, x.name) for x in dataclasses.fields(own)}
    config = _read(workdir, model.name, model.config, own)
    settings = _read(workdir, "train", TrainConfig)
    data: Any = checkpoint.read_config(workdir).get("data")
    n = data.get("images") if isinstance(data, Mapping) else None
    n = n if isinstance(n, int) else 1  # a damaged file may hold anything
    return schedules.over(config, settings.all_steps(n)), settings


def _section(workdir: str | Path, described: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = described.get(section)
    if not isinstance(found, Mapping):
        raise JaxganError(f"{workdir} is not a run folder: its config.json has no {section!r}")
    return found


def _read(
    workdir: str | Path,
    section: str,
    kind: type,
    own: Mapping[str, Any] | None = None,
    *,
    check: bool = True,
) -> Any:
    """A section of config.json as a config of the class `kind`, with these parts of your own.

    Without `check` they need not be those that config.json describes.
    """
    own = own or {}
    described = checkpoint.read_config(workdir)
    version = str(described.get("jaxgan"))
    fields = _section(workdir, described, section)
    known = {field.name: field for field in dataclasses.fields(kind)}
    parts = {name: value for name, value in fields.items() if is_own(value, known.get(name))}
    if check:
        _check_own_parts(workdir, parts, own)
    # Fields of an earlier version that no longer exist are ignored. If they changed the shapes of
    # the state, its checkpoint is refused. Fields of a later version may change the samples.
    if _parsed(version) > _parsed(__version__) and fields.keys() - known.keys():
        raise JaxganError(
            f"{workdir} was written by jaxgan {version}, and this is jaxgan {__version__}, which "
            f"does not know {', '.join(sorted(fields.keys() - known.keys()))}"
        )
    values = {name: value for name, value in fields.items() if name in known}
    values |= {name: own.get(name, known[name].default) for name in parts.keys() & known.keys()}
    try:
        return kind(**values)
    except Exception as error:  # a damaged file may hold anything
        raise JaxganError(
            f"{workdir} was written by jaxgan {version}, and this version cannot read its "
            f"settings ({error})"
        ) from error


def is_own(value: Any, field: Any) -> bool:
    """Whether a value in config.json is a part of the user's own, or has such parts."""
    if isinstance(value, list):
        return any(is_own(one, None) for one in value)
    if isinstance(value, Mapping):
        return _OWN in value
    # Before version 0.11 config.json held the bare repr of a module.
    return isinstance(value, str) and field is not None and field.type is Any


def _check_own_parts(workdir: str | Path, parts: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises a JaxganError unless `own` has the parts that config.json describes."""
    names = ", ".join(parts)
    if parts and not own:
        raise JaxganError(
            f"{workdir} was trained with your own {names}, which config.json cannot hold: load it "
            "with load_state(..., config=), or by a script that takes --config FILE.py:NAME"
        )
    for name, described in parts.items():
        now = _as_json(own.get(name))
        if now != described and now != {_OWN: described}:
            raise JaxganError(
                f"{workdir} was trained with {name}={_repr_of(described)}, and your config has "
                f"{_repr_of(now)}"
            )


def _repr_of(described: Any) -> str:
    return str(described[_OWN] if isinstance(described, Mapping) else described)


class _AnyNetwork(nn.Module):
    """A stand-in for a network."""

    def __call__(self, inputs: Any, levels: Any = None, labels: Any = None) -> Any:
        return inputs


def _unknown_loss(real_logits: Any, fake_logits: Any) -> Any:
    """A stand-in for a loss."""
    return math.nan * fake_logits, math.nan * real_logits


_OWN = "own"
_STAND_INS = {
    **dict.fromkeys(("generator", "discriminator", "denoiser"), _AnyNetwork()),
    "loss": _unknown_loss,
}


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
