"""Sweeps: runs that differ in settings, in one program where that is possible.

The values of a hyperparameter (`Model.hyperparameters`) are members of one population. Any other
setting, such as the loss, changes the program, and so does a hyperparameter of 0 that leaves out a
part, such as a penalty. Then each program has a group of members, with a run folder of its own, and
the groups are trained one after the other.
"""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgan import data
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.fields import parse_value
from jaxgan.files import disk_errors, expand, write_atomically
from jaxgan.history import Row, finite_members, mean_interval, readable
from jaxgan.model import Model
from jaxgan.processes import is_first, together
from jaxgan.report import plots
from jaxgan.report.texts import short
from jaxgan.run import population, training
from jaxgan.run.saved import as_json
from jaxgan.run.settings import TrainConfig

SCORES = (
    *("fd", "coverage", "precision", "recall", "density"),
    *("modes", "high_quality", "reverse_kl", "covariance_ratio", "missed"),
)
"""The scores in the table of a sweep, the most important first."""
_OF_THE_RUN = ("batch_size",)
"""Settings of a run, not of a model, that a sweep may vary."""
OF_DATA = ("image_shape", "bounded", "num_classes")
"""Settings of a model that a run sets to fit the data."""


class Group(NamedTuple):
    """The members of a sweep that share one program."""

    name: str
    """What distinguishes the group, such as "loss=hinge": the name of its run folder. "" if it is
    the only one."""
    values: Mapping[str, Any]
    """The swept settings that all its members share."""
    config: Any
    settings: TrainConfig
    """Of a population. Its sweep has the settings in which the members differ."""


class Outcome(NamedTuple):
    """The result of `train`."""

    workdir: Path
    groups: list[training.Outcome]
    """Of each group that was trained, in the order of the groups. Those that diverged are
    missing. If a signal has stopped the sweep, the last one says so."""
    table: list[dict[str, Any]]
    """A row for each combination of settings: these, the numbers of members, of diverged and of
    failed ones, and for each score a mapping, as in `mean_interval`."""


def make_groups(model: Model, config: Any, settings: TrainConfig) -> list[Group]:
    """The groups of a sweep, each with all combinations of its values.

    Raises:
      JaxganError: if a name is no setting, or if a value does not fit it.
    """
    choices = []
    for name, texts in settings.sweep_texts.items():
        if name in OF_DATA:
            raise JaxganError(f"{name} follows from the data: leave it out of the sweep")
        of = settings if name in _OF_THE_RUN else config
        values = [parse_value(of, name, text) for text in texts]
        if any(isinstance(value, tuple) for value in values):
            raise JaxganError(f"{name} has several values: it cannot be swept")
        if len(set(values)) < len(values):
            raise JaxganError(f"the sweep of {name} has a value twice")
        numbers = tuple(value for value in values if _is_leaf(model, name, value))
        others = [(value,) for value in values if not _is_leaf(model, name, value)]
        # One choice has all numbers: they share a program.
        choices.append([(name, found) for found in (*others, numbers) if found])
    varied = {options[0][0] for options in choices if len(options) > 1}
    groups = [
        _make_group(model, config, settings, dict(choice), varied)
        for choice in itertools.product(*choices)
    ]
    if len({group.name for group in groups}) < len(groups):
        raise JaxganError("the sweep has two values that differ by too little")
    for group in groups:  # checks all values before the first group is trained
        for name, numbers in group.settings.sweep_values.items():
            for number in numbers:
                dataclasses.replace(group.config, **{name: number})
    return groups


def _is_leaf(model: Model, name: str, value: Any) -> bool:
    """Whether the value is a leaf of the state, and does not change the program."""
    paths = model.hyperparameters.get(name)
    return paths is not None and not isinstance(value, str) and (paths != () or value != 0)


def _make_group(
    model: Model,
    config: Any,
    settings: TrainConfig,
    values: Mapping[str, tuple[Any, ...]],
    varied: Collection[str],
) -> Group:
    """The group with these values. It is named by the settings that are varied between groups."""
    swept = {name: found for name, found in values.items() if _is_leaf(model, name, found[0])}
    fixed = {name: found[0] for name, found in values.items() if name not in swept}
    of_run = {name: fixed[name] for name in fixed if name in _OF_THE_RUN}
    # Of hyperparameters the first values: with 0 the program would leave out a part.
    of_model = {name: found[0] for name, found in values.items() if name not in of_run}
    names = (f"{name}={','.join(map(short, values[name]))}" for name in values if name in varied)
    return Group(
        ",".join(names),
        fixed,
        dataclasses.replace(config, **of_model),
        dataclasses.replace(
            settings,
            **of_run,
            population=settings.population or 1,
            sweep=tuple(f"{name}={','.join(map(repr, found))}" for name, found in swept.items()),
        ),
    )


def train(
    model: Model,
    config: Any,
    settings: TrainConfig,
    workdir: str | Path | None = None,
    *,
    label: str = "",
    gaussians: Model | None = None,
) -> Outcome:
    """Trains a sweep, group by group, or resumes it.

    Args:
      model, config, settings, label, gaussians: as in `training.train`; `settings.sweep` names the
        values.
      workdir: the folder; by default runs/DATASET_population for one group, else runs/DATASET_sweep
        with a run folder for each group.

    Returns:
      The Outcome. The folder then also contains sweep.csv, the table, and sweep.png, its picture.

    Raises:
      JaxganError: like `make_groups` and `training.train`; also if a private sweep has several
        groups, since their epsilons would add up.
      NonFiniteError: if all members of all groups diverge.
    """
    groups = make_groups(model, config, settings)
    names = list(settings.sweep_texts)
    if len(groups) == 1:
        (group,) = groups
        outcome = training.train(
            model, group.config, group.settings, workdir, label=label, gaussians=gaussians
        )
        rows = _rows(group, outcome.labels, outcome.history, outcome.report)
        _write(outcome.workdir, names, rows)
        return Outcome(outcome.workdir, [outcome], rows)
    if settings.epsilon is not None:
        raise JaxganError(
            "the groups of this sweep would each spend epsilon: with epsilon leave out "
            + ", ".join(name for name in names if name in groups[0].values)
        )
    path = _folder(model, config, settings, workdir, label)
    outcomes, rows, error = [], [], None
    for i, group in enumerate(groups):
        training.print_lines([f"group {i + 1} of {len(groups)}: {group.name}"])
        try:
            outcome = training.train(model, group.config, group.settings, path / group.name)
        except NonFiniteError as found:
            training.print_lines([str(found)])
            error = found
            rows += _rows(group, _labels(group), [], None)
            continue
        outcomes.append(outcome)
        rows += _rows(group, outcome.labels, outcome.history, outcome.report)
        if outcome.stopped_by is not None:
            return Outcome(path, outcomes, rows)
    if error is not None and not outcomes:
        raise error
    _write(path, names, rows)
    return Outcome(path, outcomes, rows)


def _folder(
    model: Model, config: Any, settings: TrainConfig, workdir: str | Path | None, label: str
) -> Path:
    """The folder of a sweep of several groups. sweep.json in it says which sweep it is."""
    run = {k: v for k, v in as_json(settings).items() if f"train.{k}" not in training.FREE}
    of_model = {k: v for k, v in as_json(config).items() if k not in model.sampling}
    content = json.dumps({"model": model.name, "config": of_model, "run": run}, indent=2)

    def is_free(path: Path) -> bool:
        with disk_errors(path):
            file = path / "sweep.json"
            return not file.exists() or file.read_text() == content

    if workdir is None:
        with together("load the data"):
            dataset = data.load(
                settings.dataset, "train", settings.data_dir, image_size=settings.image_size
            )
        default = f"{training.folder_name(dataset)}{label}_sweep"
        numbered = (Path("runs", f"{default}-{i}") for i in itertools.count(2))
        path = next(filter(is_free, itertools.chain([Path("runs", default)], numbered))).absolute()
    else:
        path = expand(workdir).absolute()
        if not is_free(path):
            raise JaxganError(f"{path} holds another sweep; choose another --workdir")
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if is_first():
            write_atomically(path / "sweep.json", content)
    return path


def _labels(group: Group) -> list[dict[str, Any]]:
    """The members of a group."""
    settings = group.settings
    return population.sweep_members(settings.seed, settings.population or 1, settings.sweep_values)


def _rows(
    group: Group,
    labels: Sequence[Mapping[str, Any]],
    history: Sequence[Row],
    report: population.Report | None,
) -> list[dict[str, Any]]:
    """The rows of a group in the table: one for each combination of hyperparameters."""
    settings = [{k: v for k, v in label.items() if k not in ("member", "seed")} for label in labels]
    # Scores come from the last epoch in which they were measured.
    scores = {k: v for row in history for k, v in readable(row).items() if k in SCORES}
    finite = finite_members(history[-1]) if history else np.zeros(len(labels), bool)
    failed = np.isin(np.arange(len(labels)), report.failed if report else [])
    rows = []
    for values in [one for i, one in enumerate(settings) if one not in settings[:i]]:
        chosen = np.array([one == values for one in settings])
        row: dict[str, Any] = {**group.values, **values, "members": int(chosen.sum())}
        row |= {"diverged": int((chosen & ~finite).sum()), "failed": int((chosen & failed).sum())}
        for name in SCORES:
            if name in scores:
                row[name] = mean_interval(np.asarray(scores[name])[chosen & finite])
        rows.append(row)
    return rows


def _write(path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes sweep.csv and, if there are scores, sweep.png."""
    scores = [name for name in SCORES if any(name in row for row in rows)]
    columns = [*names, "members", "diverged", "failed"]
    columns += [f"{name}_{part}" for name in scores for part in ("mean", "half")]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        parts = {
            f"{name}_{part}": row[name][part]
            for name in scores
            if name in row
            for part in ("mean", "half")
        }
        writer.writerow({k: v for k, v in row.items() if k not in scores} | parts)
    with together(f"write to {path}"):
        if is_first():
            write_atomically(path / "sweep.csv", file.getvalue())
            if scores:
                write_atomically(path / "sweep.png", plots.sweep_png(rows, names, scores[0]))
