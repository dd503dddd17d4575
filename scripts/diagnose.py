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
    settings = checkpoint.read_config(workdir).get("gan", {})
    history = read_history(workdir)
    if not history:
        raise JaxganError(f"{workdir} has no finished epoch yet")
    history = chosen(history, options)
    found = diagnostics.diagnose_members(history)
    print("\n".join(story(history)))
    print("\n".join(verdict(history, found, settings)))
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
    """What happened from the first epoch to the last, a sentence for each number."""
    last = history[-1]
    members, sound = np.size(last["gen_loss"]), np.isfinite(last["gen_loss"]).sum()
    whole = f"{last['epoch']} epochs, {last['step']} steps"
    if members > 1:
        whole += f", {members} members, {members - sound} diverged; these are means over the others"
    elif not sound:
        whole += ", in which it diverged"
    return [
        whole,
        f"The generator's loss was {course(history, 'gen_loss')}; {swing(last, 'gen')}",
        f"The discriminator's loss was {course(history, 'disc_loss')}; {swing(last, 'disc')}",
        f"The generator's gradient norm was {course(history, 'gen_grad_norm')}.",
        f"The discriminator's was {course(history, 'disc_grad_norm')}.",
        f"The norm of the generator's parameters was {course(history, 'gen_param_norm')}.",
        f"The discriminator's was {course(history, 'disc_param_norm')}.",
        f"The share of real images taken for real was {course(history, 'real_accuracy')}.",
        f"That of generated ones seen through was {course(history, 'fake_accuracy')}; 0.5: a draw.",
        "Two samples differed from each other, beside two real images, by "
        f"{course(history, 'diversity')}; 1 is as it should be.",
    ]


def course(history: list[dict], name: str) -> str:
    """A number over the epochs."""
    means = np.array([sound_mean(row[name]) for row in history])
    if not np.isfinite(means).any():
        return "never finite"
    said = f"{means[0]:.3g} in epoch 1"
    if len(means) > 1:
        said += f", {means[-1]:.3g} in epoch {len(means)}"
    inner = {"least": int(np.nanargmin(means)), "most": int(np.nanargmax(means))}
    for word, at in inner.items():
        if at not in (0, len(means) - 1):
            said += f", {word} {means[at]:.3g} in epoch {at + 1}"
    return said


def swing(row: dict, player: str) -> str:
    squares, means = (np.array(row[f"{player}_loss{end}"]) for end in ("_square", ""))
    deviation = sound_mean(np.sqrt(np.maximum(squares - np.square(means), 0)))
    return f"in epoch {row['epoch']} it swung by {deviation:.2g} from step to step."


def verdict(
    history: list[dict], found: list[list[diagnostics.Finding]], settings: dict
) -> list[str]:
    """The findings; or that there are none, and how far from it the run was."""
    several = isinstance(history[0]["gen_loss"], list)
    lines = diagnostics.describe(found, len(history), population=several, settings=settings)
    if lines:
        return ["Found:", *(f"  {line}" for line in lines)]
    if not np.isfinite(history[-1]["gen_loss"]).any():
        return ["No failure was seen before it diverged; try lower learning rates."]
    if short := diagnostics.too_short(history):
        return [f"Nothing was found, but {short}."]
    last = {name: values[-1] for name, values in diagnostics.signs(history).items()}
    diversity, swing = np.nanmin(last["diversity"]), np.nanmax(last["swing"])
    share = np.nanmin(last["gradient_share"])
    return [
        "Nothing was found: no vanishing gradients, mode collapse or lack of convergence.",
        f"In the end the diversity is {diversity:.2f} (a collapse: below {diagnostics.COLLAPSED} "
        f"and not rising), both losses swing by {swing:.0%} of their size within "
        f"{diagnostics.WINDOW} epochs "
        f"(no convergence: {diagnostics.SWING:.0%} and no less than before), and the generator's "
        f"gradient norm is {share:.0%} of its largest (vanishing: {diagnostics.VANISHED:.0%} and a "
        "discriminator that is certain).",
        "A few modes may be missing all the same, which the diversity does not show.",
    ]


if __name__ == "__main__":
    cli.main(main)
