"""Describes the history of a run: its course, its failures, what to try; and draws it."""

import dataclasses
from typing import Annotated

import numpy as np
import tyro

from jaxgan import MODELS, JaxganError, cli
from jaxgan.files import disk_errors, expand, write_atomically
from jaxgan.history import finite_mean, member_history, readable
from jaxgan.model import Column, Diagnosis, Model
from jaxgan.report import plots, texts
from jaxgan.run import saved
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


def main() -> None:
    options = cli.parse(Options)
    workdir = expand(options.workdir)
    model = saved.find_model(workdir, MODELS)
    if model.diagnose is None:
        private = MODELS[model.name].diagnose is not None
        why = "a diagnosis needs real images" if private else f"{model.name} has no diagnosis"
        kind = "private run" if private else "run"
        raise JaxganError(f"{workdir} holds a {kind} of {model.name}: {why}")
    config = saved.read_config(model, workdir)
    history = saved.read_history(model, workdir)
    if not history:
        raise JaxganError(f"{workdir} has no finished epoch yet")
    loss = next(iter(model.curves[0].metrics.values()))
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


def choose(history: list[dict], loss: str, options: Options) -> list[dict]:
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


def course_lines(history: list[dict], loss: str, columns: dict[str, Column]) -> list[str]:
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


def healthy_lines(model: Model, history: list[dict], loss: str, diagnosis: Diagnosis) -> list[str]:
    """Says that no failure was seen, and how far the run was from each."""
    if not np.isfinite(history[-1][loss]).any():
        return ["No failure was seen before it diverged; try lower learning rates."]
    if diagnosis.caveat:
        return [f"No failure was seen, but {diagnosis.caveat}."]
    return [*model.healthy_lines(history)]
