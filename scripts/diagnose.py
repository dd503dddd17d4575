"""Describes the history of a run: its course, its failures, what to try; and draws it."""

import dataclasses
from typing import Annotated

import numpy as np
import tyro

from jaxgan import MODELS, JaxganError, cli
from jaxgan.adversarial import diagnostics
from jaxgan.files import disk_errors, expand, write_atomically
from jaxgan.history import finite_mean, member_history
from jaxgan.model import Diagnosis
from jaxgan.report import plots, texts
from jaxgan.run import checkpoint, saved
from jaxgan.run.journal import read_history


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
        raise JaxganError(f"{workdir} holds a run of {model.name}, which has no diagnosis")
    settings = checkpoint.read_config(workdir).get(model.name, {})
    history = read_history(workdir, model)
    if not history:
        raise JaxganError(f"{workdir} has no finished epoch yet")
    history = choose(history, options)
    diagnosis = model.diagnose(history)
    print("\n".join(course_lines(history)))
    lines = texts.finding_lines(diagnosis.findings, len(history), model, settings)
    print(
        "\n".join(
            ["Found:", *(f"  {line}" for line in lines)]
            if lines
            else healthy_lines(history, diagnosis)
        )
    )
    marks: dict[str, list[int]] = {}
    for member in diagnosis.findings:
        for finding in member:
            marks.setdefault(finding.name, []).append(finding.epochs[0])
    figure = expand(options.plot) if options.plot else workdir / "diagnosis.png"
    with disk_errors(figure):
        figure.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(figure, plots.diagnosis_png(history, diagnostics.CURVES, marks))
    print(f"drawn in {figure}")


def choose(history: list[dict], options: Options) -> list[dict]:
    """The history of one member, or of all."""
    if options.member is None:
        return history
    if not isinstance(history[0]["gen_loss"], list):
        raise JaxganError(f"{options.workdir} is no population: it has no member {options.member}")
    members = len(history[0]["gen_loss"])
    if not 0 <= options.member < members:
        raise JaxganError(
            f"{options.workdir} has the members 0 to {members - 1}, and no member {options.member}"
        )
    return member_history(history, options.member)


def course_lines(history: list[dict]) -> list[str]:
    """What happened from the first epoch to the last, a sentence for each metric."""
    last = history[-1]
    members, finite = np.size(last["gen_loss"]), np.isfinite(last["gen_loss"]).sum()
    length = f"{last['epoch']} epochs, {last['step']} steps"
    if members > 1:
        length += f", {members} members, of which {members - finite} diverged; means of the others:"
    elif not finite:
        length += ", in which it diverged"
    return [
        length,
        f"The generator's loss was {course(history, 'gen_loss')}; {swing(last, 'gen')}",
        f"The discriminator's loss was {course(history, 'disc_loss')}; {swing(last, 'disc')}",
        f"The generator's gradient norm was {course(history, 'gen_grad_norm')}.",
        f"The discriminator's gradient norm was {course(history, 'disc_grad_norm')}.",
        f"The norm of the generator's parameters was {course(history, 'gen_param_norm')}.",
        f"The norm of the discriminator's parameters was {course(history, 'disc_param_norm')}.",
        f"The discriminator's accuracy on real images was {course(history, 'real_accuracy')}.",
        f"Its accuracy on generated images was {course(history, 'fake_accuracy')}; 0.5 is chance.",
        f"The share of the data that samples miss was {course(history, 'missed')}; 0 is best.",
        "The diversity of samples, divided by that of real images, was "
        f"{course(history, 'diversity')}; it should be about 1.",
    ]


def course(history: list[dict], name: str) -> str:
    """A metric over the epochs."""
    rows = [row for row in history if name in row]
    means = np.array([finite_mean(row[name]) for row in rows])
    if not np.isfinite(means).any():
        return "never measured" if not rows else "never finite"
    text = f"{means[0]:.3g} in epoch {rows[0]['epoch']}"
    if len(means) > 1:
        text += f", {means[-1]:.3g} in epoch {rows[-1]['epoch']}"
    extremes = {"smallest": int(np.nanargmin(means)), "largest": int(np.nanargmax(means))}
    for word, at in extremes.items():
        if at not in (0, len(means) - 1):
            text += f", {word} {means[at]:.3g} in epoch {rows[at]['epoch']}"
    return text


def swing(row: dict, network: str) -> str:
    squares, means = (np.array(row[f"{network}_loss{end}"]) for end in ("_square", ""))
    deviation = finite_mean(np.sqrt(np.maximum(squares - np.square(means), 0)))
    return f"its standard deviation over the steps of epoch {row['epoch']} was {deviation:.2g}."


def healthy_lines(history: list[dict], diagnosis: Diagnosis) -> list[str]:
    """Says that no failure was seen, and how far the run was from each."""
    if not np.isfinite(history[-1]["gen_loss"]).any():
        return ["No failure was seen before it diverged; try lower learning rates."]
    if diagnosis.caveat:
        return [f"No failure was seen, but {diagnosis.caveat}."]
    last = {name: values[-1] for name, values in diagnostics.signs(history).items()}
    missed, swing = finite_max(last["missed"]), finite_max(last["swing"])
    share = np.nanmin(last["gradient_share"])
    return [
        "No failure was seen: no vanishing gradients, mode collapse or lack of convergence.",
        f"The samples miss {missed} of the data (mode collapse: {diagnostics.MISSED:.1%}, and no "
        "less than at half the steps).",
        f"Over the second half of the steps both losses swing by {swing} of their size (no "
        f"convergence: {diagnostics.SWING:.0%}, and no less than before).",
        f"The generator's gradient norm is {share:.0%} of its largest (vanishing gradients: "
        f"{diagnostics.VANISHED:.0%}, and an accuracy of {diagnostics.CERTAIN:.0%}).",
    ]


def finite_max(values: np.ndarray) -> str:
    """The largest value that is finite, in percent."""
    finite = values[np.isfinite(values)]
    return f"{finite.max():.1%}" if len(finite) else "an unknown share"


if __name__ == "__main__":
    cli.main(main)
