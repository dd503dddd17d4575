"""Tells the history of a run in words, what failed and what to try, and draws it in one figure."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jaxgan import JaxganError, checkpoint, cli, diagnostics, plots
from jaxgan.journal import read_history
from jaxgan.loop import sound_mean


@dataclasses.dataclass(frozen=True)
class Options:
    """Tells the history of a run in words, what failed and what to try, and draws it."""

    workdir: Annotated[str, tyro.conf.Positional]
    """The run folder; the run may still be going on."""
    member: int | None = None
    """One of a population; by default all, with the means over those that have not diverged."""
    plot: str | None = None
    """Where the figure goes; by default diagnosis.png in the run folder."""


def main() -> None:
    options = cli.parse(Options)
    workdir = Path(options.workdir).expanduser()
    checkpoint.read_config(workdir)
    history = read_history(workdir)
    if not history:
        raise JaxganError(f"{workdir} has no finished epoch yet")
    history = chosen(history, options)
    population = isinstance(history[0]["gen_loss"], list)
    found = diagnostics.diagnose_members(history)
    print("\n".join(story(history)))
    print("\n".join(verdict(history, found, population)))
    marks: dict[str, list[int]] = {}
    for member in found:
        for finding in member:
            marks.setdefault(finding.name, []).append(finding.epoch)
    figure = Path(options.plot).expanduser() if options.plot else workdir / "diagnosis.png"
    with checkpoint.disk_errors(figure):
        figure.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(figure, plots.diagnosis_png(history, marks))
    print(f"drawn in {figure}")


def chosen(history: list[dict], options: Options) -> list[dict]:
    """The history of the member that is asked for, or of all."""
    if options.member is None:
        return history
    if not isinstance(history[0]["gen_loss"], list):
        raise JaxganError(f"{options.workdir} is no population: it has no member {options.member}")
    members = len(history[0]["gen_loss"])
    if not 0 <= options.member < members:
        raise JaxganError(
            f"{options.workdir} has the members 0 to {members - 1}, and no member {options.member}"
        )
    return diagnostics.member_history(history, options.member)


def story(history: list[dict]) -> list[str]:
    """What happened from the first epoch to the last, in sentences."""
    first, last = history[0], history[-1]
    n, steps = last["epoch"], last["step"]

    def course(name: str) -> str:
        means = np.array([sound_mean(row[name]) for row in history])
        low, high = int(np.nanargmin(means)), int(np.nanargmax(means))
        return (
            f"{means[0]:.3g} in epoch 1, {means[-1]:.3g} in epoch {n}, at least {means[low]:.3g} "
            f"(epoch {low + 1}) and at most {means[high]:.3g} (epoch {high + 1})"
        )

    def swing(player: str) -> float:
        square, mean = np.ravel(last[f"{player}_loss_square"]), np.ravel(last[f"{player}_loss"])
        return sound_mean(np.sqrt(np.maximum(square - np.square(mean), 0)))

    members = np.size(last["gen_loss"])
    sound = int(np.isfinite(np.ravel(last["gen_loss"])).sum())
    lines = [f"{n} epochs, {steps} steps"]
    if members > 1:
        lines[0] += (
            f", {members} members of which {members - sound} have diverged; means over the others"
        )
    for player, short in (("generator", "gen"), ("discriminator", "disc")):
        lines += [
            f"loss of the {player}: {course(f'{short}_loss')}; from step to step it swung by "
            f"{swing(short):.2g} in epoch {n}",
            f"its gradient norm: {course(f'{short}_grad_norm')}",
            f"the norm of its parameters: {sound_mean(first[f'{short}_param_norm']):.3g} to "
            f"{sound_mean(last[f'{short}_param_norm']):.3g}",
        ]
    return [
        *lines,
        f"share of the real images that the discriminator told: {course('real_accuracy')}",
        f"of the generated ones: {course('fake_accuracy')}; 0.5 would be a draw",
        f"diversity of the samples, 1 in real images: {course('diversity')}",
    ]


def verdict(
    history: list[dict], found: list[list[diagnostics.Finding]], population: bool
) -> list[str]:
    """The findings; or that there are none, and what a closer look would be at."""
    lines = diagnostics.describe(found, len(history), population=population)
    if lines:
        return lines
    least = diagnostics.WINDOW
    if len(history) < 2 * least or history[-1]["step"] < diagnostics.WARM_UP:
        return [
            f"nothing was found, in a short run: vanishing gradients are seen from epoch {least} "
            f"on, mode collapse after {diagnostics.WARM_UP} steps, and no convergence after both "
            f"these and {2 * least} epochs"
        ]
    return [
        "nothing was found: no vanishing gradients, mode collapse or lack of convergence; a few "
        "modes may still be missing, which the diversity does not show"
    ]


if __name__ == "__main__":
    cli.main(main)
