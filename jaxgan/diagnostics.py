"""What goes wrong in a run, read from its history: vanishing gradients, mode collapse, no
convergence.

Pure functions of a history, the rows of `loop.Run`: equal histories give equal findings, wherever
the run was interrupted. Each failure is looked for at the end of every epoch, in the WINDOW epochs
up to there; the thresholds below say where they come from.

A discriminator that is merely ahead is no failure. With the non-saturating loss the gradient of its
generator is then large, and it may catch up: the reference GAN begins so, on Fashion-MNIST with a
loss of the generator of 5 to 8 in its second epoch. Where it does not catch up one of the three
comes of it.

What the step measures is of a batch and an epoch. The diversity shows a collapse to few modes, not
the loss of one: on a ring of 8 modes it is 0 of 1 mode, 0.30 of 2 neighbours, 0.52 of 3, 0.69 of 4,
but 0.80 of 2 that are opposite, and 0.98 of 7. `jaxgan.metrics` counts modes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgan.config import GANConfig

History = Sequence[Mapping[str, Any]]
Columns = dict[str, np.ndarray]

WINDOW = 5
"""Epochs for which a sign has to last: shorter ones come and go in healthy runs."""

WARM_UP = 1_000
"""Steps before which neither mode collapse nor a lack of convergence is seen: the reference GAN has
a diversity of 0.1 after 500 steps and grows out of it."""

CERTAIN = 0.95
"""Vanishing gradients: the least share of the real and of the generated images that the
discriminator tells, in each epoch of the window."""

VANISHED = 0.05
"""Vanishing gradients: the most that is left of the generator's gradient norm, as a share of its
largest in any epoch so far, in each epoch of the window. The gradient of the minimax loss goes with
the scores of the fakes (arXiv 1701.04862, theorem 2.4), those of the others grow as the
discriminator wins."""

COLLAPSED = 0.5
"""Mode collapse: the diversity is below this in each epoch of the window, and"""

RISE = 1.2
"""has not grown by this factor within it."""

SWING = 0.25
"""No convergence: the least standard deviation of both players' losses over all steps of the
window, beside the largest of the two losses (root mean square) and the spread of the logits. Where
the players chase each other what one loses the other wins: 0.3 to 0.6 of the Dirac GAN, less than
0.15 of the reference. The spread is there for the Wasserstein loss, which in the end is but noise
around 0. And"""

LASTING = 0.8
"""beside the same in the window before. The losses of a run that settles swing less and less, and
its parameters grow less and less."""

GROWTH = 2.0
"""No convergence, too: the least factor by which the norm of a player's parameters has grown since
before the window, beside the largest of then, and LASTING beside the window before."""


class Finding(NamedTuple):
    """A failure that was seen in the run of one GAN."""

    name: str
    """vanishing gradients, mode collapse or no convergence."""
    epoch: int
    """The epoch at whose end it was first seen."""
    last: int
    """The last epoch at whose end it was seen."""
    evidence: str
    """What was seen first, with the numbers."""
    remedies: tuple[str, ...]
    """What to try, as options of scripts/train.py."""


def diagnose(history: History) -> list[Finding]:
    """What failed in the run of one GAN, in the order of the epochs.

    Args:
      history: its rows, with the means of `measures.Metrics` over the steps of each epoch. Of a
        population take `diagnose_members`, or `member_history` first.
    """
    return diagnose_members(history)[0]


def diagnose_members(history: History) -> list[list[Finding]]:
    """`diagnose` for each member of a population; a single GAN is one.

    NaN, of a member that has diverged, is no sign of anything.
    """
    if not history:
        return [[]]
    measured = signs(history)
    epochs = [int(row["epoch"]) for row in history]
    found: list[list[Finding]] = [[] for _ in measured["diversity"].T]
    for name, failure in _FAILURES.items():
        flags = failure.seen(measured)
        for i in np.flatnonzero(flags.any(axis=0)):
            at = np.flatnonzero(flags[:, i])
            upto = {k: values[: at[0] + 1, i] for k, values in measured.items()}
            finding = Finding(
                name, epochs[at[0]], epochs[at[-1]], failure.evidence(upto), failure.remedies
            )
            found[i].append(finding)
    return [sorted(member, key=lambda finding: finding.epoch) for member in found]


def failures(history: History) -> list[list[str]]:
    """What is seen at the end of each epoch in each member, joined by "+": `[epochs][members]`."""
    if not history:
        return []
    measured = signs(history)
    flags = {name: failure.seen(measured) for name, failure in _FAILURES.items()}
    epochs, members = measured["diversity"].shape
    return [
        ["+".join(name for name in flags if flags[name][at, i]) for i in range(members)]
        for at in range(epochs)
    ]


def has_failed(history: History) -> bool:
    """Whether a failure is seen at the end of the last epoch.

    Of a population: in every member that has not diverged.
    """
    if not history:
        return False
    sound = np.isfinite(np.ravel(history[-1]["disc_loss"]))
    last = failures(history)[-1]
    return all(names for names, alive in zip(last, sound, strict=True) if alive)


def member_history(history: History, i: int) -> list[dict[str, Any]]:
    """The rows of member i of a population, as those of a single GAN."""
    return [{k: v[i] if isinstance(v, list) else v for k, v in row.items()} for row in history]


def too_short(history: History) -> str | None:
    """What cannot be seen in a run because it is short, or None."""
    if history and len(history) >= 2 * WINDOW and history[-1]["step"] >= WARM_UP:
        return None
    return (
        f"the run is short: it takes {WINDOW} epochs to see vanishing gradients, and {WARM_UP:,} "
        f"steps to see mode collapse; {2 * WINDOW} epochs and {WARM_UP:,} steps to see that "
        "nothing converges"
    )


def describe(
    found: Sequence[Iterable[Finding]],
    epochs: int,
    *,
    population: bool,
    settings: Mapping[str, Any],
) -> list[str]:
    """Findings in words: a line for each failure, with what to try.

    Args:
      found: those of each member, as from `diagnose_members`.
      epochs: how many the history has.
      population: whether to say in which members.
      settings: the fields of the run's GANConfig by name, so that what it has is not suggested.
    """
    lines = []
    for name, failure in _FAILURES.items():
        hits = {i: f for i, member in enumerate(found) for f in member if f.name == name}
        if not hits:
            continue
        first, finding = min(hits.items(), key=lambda item: item[1].epoch)
        where = name
        if population:
            some = ", ".join(map(str, list(hits)[:8])) + (", ..." if len(hits) > 8 else "")
            where += f" in {len(hits)} of {len(found)} members ({some}); member {first}"
        untried = [remedy for remedy in failure.remedies if not _in_use(remedy, settings)]
        advice = f"; try {', or '.join(untried)}" if untried else ""
        lines.append(f"{where}, {_when(finding, epochs)}: {finding.evidence}{advice}")
    return lines


def _in_use(remedy: str, settings: Mapping[str, Any]) -> bool:
    """Whether a run has a remedy, going by its first option: --pac 2 also if it has 4."""
    option, value, *_ = remedy.split()
    name = option.removeprefix("--").replace("-", "_")
    if name not in settings:
        return False  # said in words
    now = settings[name]
    return str(now) == value or (name != "loss" and now != getattr(GANConfig, name))


def _when(finding: Finding, epochs: int) -> str:
    if finding.last == finding.epoch:
        return f"epoch {finding.epoch}"
    return f"epoch {finding.epoch} to " + (
        "the last" if finding.last == epochs else str(finding.last)
    )


class _Failure(NamedTuple):
    seen: Callable[[Columns], np.ndarray]
    """Of the signs: at the end of which epochs, in which members."""
    evidence: Callable[[Columns], str]
    """Of the signs `[epochs]` of a member, up to where it is first seen."""
    remedies: tuple[str, ...]


def signs(history: History) -> Columns:
    """What the thresholds are compared with, `[epochs, members]` each.

    step: of the last step of the epoch. certainty: the lesser of the two accuracies. gradient: the
    norm of the generator's, and gradient_share: beside its largest so far. diversity. swing: the
    lesser standard deviation of the two losses over all steps of the window, beside the largest of
    their root mean squares and the spread of the logits. growth: the norm of a player's parameters
    beside its largest before the window, the greater of the two. Swing and growth are NaN until
    there are enough epochs.
    """

    def column(name: str) -> np.ndarray:
        return np.array([np.ravel(row[name]) for row in history], float)

    players = ("gen", "disc")
    gradient = column("gen_grad_norm")
    means = [_window_mean(column(f"{player}_loss")) for player in players]
    squares = [_window_mean(column(f"{player}_loss_square")) for player in players]
    deviations = np.sqrt(np.maximum(np.array(squares) - np.square(means), 0))
    sizes, spread = np.sqrt(np.max(squares, axis=0)), _window_mean(column("logit_spread"))
    norms = np.array([column(f"{player}_param_norm") for player in players])
    norms_before = _before(np.maximum.accumulate(norms, axis=1), WINDOW)
    return {
        "step": np.broadcast_to(column("step"), gradient.shape),
        "certainty": np.minimum(column("real_accuracy"), column("fake_accuracy")),
        "gradient": gradient,
        "gradient_share": _ratio(gradient, np.maximum.accumulate(gradient, axis=0)),
        "diversity": column("diversity"),
        "swing": _ratio(deviations.min(axis=0), np.maximum(sizes, spread)),
        "growth": _ratio(norms, norms_before).max(axis=0),
    }


def _vanishing(signs: Columns) -> np.ndarray:
    return _lasting((signs["certainty"] >= CERTAIN) & (signs["gradient_share"] <= VANISHED))


def _vanishing_evidence(signs: Columns) -> str:
    gradient = signs["gradient"]
    return (
        f"the discriminator tells at least {np.floor(1000 * signs['certainty'][-1]) / 10}% of the "
        f"real and of the generated images, and the generator's gradient norm has fallen from "
        f"{gradient.max():.2g} to {gradient[-1]:.2g}"
    )


def _collapse(signs: Columns) -> np.ndarray:
    diversity = signs["diversity"]
    low = _lasting(diversity < COLLAPSED)
    rising = diversity >= RISE * _before(diversity, WINDOW - 1)
    # A generator that gets no gradient has not collapsed: it is as it was.
    return low & ~rising & (signs["step"] >= WARM_UP) & ~_vanishing(signs)


def _collapse_evidence(signs: Columns) -> str:
    return (
        f"in the last {WINDOW} epochs two samples differed by "
        f"{signs['diversity'][-WINDOW:].mean():.1%} of what two real images do"
    )


def _no_convergence(signs: Columns) -> np.ndarray:
    swinging, growing = (
        (signs[name] >= least) & (signs[name] >= LASTING * _before(signs[name], WINDOW))
        for name, least in (("swing", SWING), ("growth", GROWTH))
    )
    return (swinging | growing) & (signs["step"] >= WARM_UP) & ~_vanishing(signs)


def _no_convergence_evidence(signs: Columns) -> str:
    growth, swing = signs["growth"][-1], signs["swing"]
    if growth >= GROWTH:
        return f"the norm of a player's parameters has grown {growth:.1f} times in {WINDOW} epochs"
    return (
        f"in the last {WINDOW} epochs both losses swung by {swing[-1]:.0%} of their size or more, "
        f"in the {WINDOW} before by {swing[-1 - WINDOW]:.0%}"
    )


def _ratio(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return values / np.maximum(others, np.finfo(np.float32).tiny)


def _lasting(flags: np.ndarray) -> np.ndarray:
    """Whether True in each epoch of a window, `[epochs, members]`."""
    return _window_mean(flags.astype(float)) == 1


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Over the window up to each epoch, `[epochs, members]`; NaN before it is full."""
    means = np.full(values.shape, np.nan)
    if len(values) >= WINDOW:
        windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=0)
        means[WINDOW - 1 :] = windows.mean(axis=-1)
    return means


def _before(values: np.ndarray, epochs: int) -> np.ndarray:
    """`[..., epochs, members]` as they were so many epochs ago; NaN before the first."""
    earlier = np.full(values.shape, np.nan)
    earlier[..., epochs:, :] = values[..., :-epochs, :]
    return earlier


_FAILURES = {
    "vanishing gradients": _Failure(
        _vanishing,
        _vanishing_evidence,
        (
            "--loss non_saturating",
            "--instance-noise linear:0.1:0:10000",
            "--loss relativistic --r1 1 --r2 1",
            "a lower --discriminator-lr",
        ),
    ),
    "mode collapse": _Failure(
        _collapse,
        _collapse_evidence,
        ("--pac 2", "--unroll-steps 5", "--loss relativistic --r1 1 --r2 1"),
    ),
    "no convergence": _Failure(
        _no_convergence,
        _no_convergence_evidence,
        (
            "--r1 1",
            "--instance-noise linear:0.1:0:10000",
            "--updates alternating",
            "lower learning rates, --lr-scale cosine:1:0:STEPS",
        ),
    ),
}
