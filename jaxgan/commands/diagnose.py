"""Describes the history of a run: its course, its failures, what to try; and draws it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Annotated, Any

import numpy as np
import tyro

from jaxgan import MODELS, JaxganError, cli
from jaxgan.files import disk_errors, expand, write_atomically
from jaxgan.history import History, Row, finite_mean, member_history, readable
from jaxgan.model import Column, Diagnosis, Model
from jaxgan.report import plots, texts
from jaxgan.run import checkpoint, journal, saved
from jaxgan.run.journal import COLUMNS


@dataclasses.dataclass(frozen=True)
class Options:
    """Describes the history of a run: its course, its failures, what to try; and draws it."""

    workdir: Annotated[str, tyro.conf.Positional]
    """The run folder; the run may still continue."""
    member: int | None = None
    """A member of a population. By default, the means over all that have not diverged."""
    plot: str | None = None
    """The PNG file of the figure; by default diagnosis.png in the run folder."""
    follow: bool = False
    """Watch a run that trains: first print its last ten epochs, then each new epoch, and each new
    failure. When the run ends or is stopped, its diagnosis follows. Ctrl-C leaves the run alone."""


_POLL = 1.0
"""Seconds between two looks at a run that trains."""


def main() -> None:
    options = cli.parse(Options)
    workdir = expand(options.workdir)
    if workdir.is_file():
        raise JaxganError(f"{workdir} is a file: a diagnosis is about run folders")
    model = saved.find_model(workdir, MODELS)
    if options.follow:
        follow(model, workdir, options)
        if model.diagnose is None:
            return
    if model.diagnose is None:
        private = MODELS[model.name].diagnose is not None
        why = "a diagnosis needs real images" if private else f"{model.name} has no diagnosis"
        kind = "private run" if private else "run"
        raise JaxganError(f"{workdir} holds a {kind} of {model.name}: {why}")
    config = saved.read_config(model, workdir)
    history = saved.read_history(model, workdir)
    if not history:
        raise JaxganError(f"{workdir} has no finished epoch yet")
    loss = first_loss(model)
    history = choose(history, loss, options)
    diagnosis = model.diagnose(history)
    print("\n".join(course_lines(history, loss, COLUMNS | dict(model.columns))))
    lines = texts.finding_lines(diagnosis.findings, len(history), model, vars(config))
    print(
        "\n".join(
            ["Found:", *(texts.wrapped(f"  {line}", "    ") for line in lines)]
            if lines
            else map(texts.wrapped, healthy_lines(model, history, loss, diagnosis))
        )
    )
    figure = expand(options.plot) if options.plot else workdir / "diagnosis.png"
    with disk_errors(figure):
        figure.parent.mkdir(parents=True, exist_ok=True)
        equilibrium, marks = model.equilibrium(config), diagnosis.first_seen()
        curves = model.diagnosis_curves or model.curves
        picture = plots.curves_png(history, curves, equilibrium, marks, rows=2)
        write_atomically(figure, picture)
    print(f"drawn in {figure}")


def follow(model: Model, workdir: Path, options: Options) -> None:
    """Prints each epoch and each new failure of a run, until no process trains it."""
    config = saved.read_config(model, workdir)
    shown, diagnosed, trains = None, 0, True
    while trains:
        # This comes first, so that the last epochs are read when the run has ended.
        trains = checkpoint.in_use(workdir)
        is_begun = (workdir / "metrics.csv").exists()
        history = journal.read_table(workdir, model) if is_begun else []
        if shown is None:
            shown = max(0, len(history) - 10)
            if trains and not history:
                print(f"waiting for the first epoch in {workdir}", flush=True)
        if history:
            history = choose(history, first_loss(model), options)
        lines = list(map(epoch_line, history[shown:]))
        lines += map(texts.wrapped, new_failures(model, vars(config), history, diagnosed))
        for line in lines:
            print(line, flush=True)
        # It may be less than before: a run that resumes from an older checkpoint repeats epochs.
        shown = diagnosed = len(history)
        if trains:
            sleep(_POLL)


def epoch_line(row: Row) -> str:
    """The first four metrics of an epoch, and its scores; of a population the means."""
    values = {k: finite_mean(v) for k, v in readable(row).items()}
    names = [name for name in values if name not in ("epoch", "step", *COLUMNS)][:4]
    names += [name for name in ("missed", "fd", "coverage") if name in values]
    metrics = "  ".join(f"{name} {values[name]:.4g}" for name in names)
    return f"epoch {row['epoch']}  {metrics}  {values['steps_per_second']:.0f} steps/s"


def new_failures(
    model: Model, settings: Mapping[str, Any], history: History, after: int
) -> list[str]:
    """A line for each failure that is seen for the first time after an epoch."""
    if model.diagnose is None or len(history) <= after:
        return []
    found = model.diagnose(history).findings
    new = [[one for one in findings if one.epochs[0] > after] for findings in found]
    return texts.finding_lines(new, len(history), model, settings)


def first_loss(model: Model) -> str:
    return next(iter(model.curves[0].metrics.values()))


def choose(history: list[dict[str, Any]], loss: str, options: Options) -> list[dict[str, Any]]:
    """The history of one member, or of all. `loss` is the column of a loss."""
    if options.member is None:
        return history
    if not isinstance(history[0][loss], list):
        raise JaxganError(f"{options.workdir} is no population: it has no member {options.member}")
    members = len(history[0][loss])
    if not 0 <= options.member < members:
        raise JaxganError(
            f"{options.workdir} has the members 0 to {members - 1}, and no member {options.member}"
        )
    return member_history(history, options.member)


def course_lines(history: list[dict[str, Any]], loss: str, columns: dict[str, Column]) -> list[str]:
    """The length of the run, and a table: each metric in its first and in its last epoch."""
    last = history[-1]
    members, finite = np.size(last[loss]), int(np.isfinite(last[loss]).sum())
    length = f"{last['epoch']} epochs, {last['step']} steps"
    if members > 1:
        length += f", {members} members, of which {members - finite} diverged; means of the others:"
    elif not finite:
        length += ", in which it diverged"
    means = [{k: finite_mean(v) for k, v in readable(row).items()} for row in history]
    lines = [length, f"{'':16}{'first':>8}{'last':>9} healthy"]
    for name, column in columns.items():
        values = [row[name] for row in means if name in row]
        healthy, real = column.healthy, means[-1].get(f"real_{name}")
        if real is not None:
            healthy = f"near {number(real)}"
        if values and healthy:
            ends = f"{number(values[0]):>8}{number(values[-1]):>9}"
            lines.append(f"{name:16}{ends} {healthy:13}{column.meaning}")
    return lines


def number(value: float) -> str:
    text = f"{value:.3g}" if np.isfinite(value) else "-"
    return f"{value:.1e}" if "e" in text else text


def healthy_lines(
    model: Model, history: list[dict[str, Any]], loss: str, diagnosis: Diagnosis
) -> list[str]:
    """Says that no failure was seen, and how far the run was from each."""
    if not np.isfinite(history[-1][loss]).any():
        return ["No failure was seen before it diverged; try lower learning rates."]
    if diagnosis.caveat:
        return [f"No failure was seen, but {diagnosis.caveat}."]
    return [*model.healthy_lines(history)]
