"""The failures of a GAN, read from its history: vanishing gradients, mode collapse, no
convergence.

`diagnose` is a pure function of the history: it gives the same findings whether or not the run was
interrupted. A failure has two signs, each with a threshold. It is found while both are seen.

A discriminator that is merely stronger is no failure. With the non-saturating loss the generator's
gradient is then large, and the generator may catch up. The reference GAN on Fashion-MNIST begins
like this, with a generator loss of 5 to 8 in epoch 2.

Mode collapse is read from `missed`, the share of the data that samples miss
(`jaxgan.metrics.parts`). A run whose samples miss less and less is not collapsed, but undertrained:
the caveat of the diagnosis says so.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxgan.history import History
from jaxgan.model import Column, Curve, Diagnosis, Finding

Columns = dict[str, np.ndarray]

WINDOW = 2_000
"""A sign must last for this many steps, rounded up to whole epochs, and for at least two epochs.
Signs come and go in healthy runs. It is five epochs of the reference GAN on Fashion-MNIST."""

CERTAIN = 0.95
"""Vanishing gradients, first sign: in each epoch of the window the discriminator's accuracy on real
and on generated images is at least this."""

VANISHED = 0.05
"""Vanishing gradients, second sign: in each epoch of the window the generator's gradient norm is at
most this share of its largest value so far. The gradient of the minimax loss vanishes with the
scores of generated images (arXiv 1701.04862, theorem 2.4)."""

MISSED = 0.035
"""Mode collapse, first sign: throughout the window samples miss at least this share of the data.
One lost mode of 25 is 0.04."""

FALL = 0.8
"""Mode collapse, second sign: the samples miss more than this share of what they missed at half the
steps. If they miss less, the run is undertrained."""

SWING = 0.1
"""No convergence, first sign: over the second half of the steps the standard deviation of both
losses, divided by their size, is at least this. The noise of the batches is not counted, nor is a
straight line through the losses, since a run that improves is no oscillation. The size is the
largest of three numbers: the root mean squares of both losses and the spread of the logits. The
Wasserstein loss needs the last one, since it ends as noise around 0. An oscillation is seen if its
period is at most half of the history."""

LASTING = 0.8
"""No convergence, second sign: the ratio is at least this share of its value over the quarter
before. In a run that converges, losses swing less and less, and parameters grow less and less."""

GROWTH = 2.0
"""Also no convergence: the norm of a network's parameters is at least this many times its largest
value before the window, and this factor is at least LASTING times its value one window earlier."""


MISSED_CURVE = Curve(
    "share of the data", {"missed by samples": "missed"}, limits=(0, 1.02), healthy=(0, MISSED)
)
CURVES = (
    Curve("loss", {"generator": "gen_loss", "discriminator": "disc_loss"}, deviation=True),
    Curve(
        "gradient norm",
        {"generator": "gen_grad_norm", "discriminator": "disc_grad_norm"},
        scale="symlog",
    ),
    Curve(
        "accuracy of the discriminator",
        {"on real images": "real_accuracy", "on generated images": "fake_accuracy"},
        limits=(0, 1.02),
        healthy=(0, CERTAIN),
    ),
    MISSED_CURVE,
)
"""The curves that show the failures."""

COLUMNS = {
    "gen_loss": Column("loss of the generator", "levels off"),
    "gen_loss_sd": Column("sd over steps, less batch noise", "falls"),
    "disc_loss": Column("loss of the discriminator", "levels off"),
    "disc_loss_sd": Column("sd over steps, less batch noise", "falls"),
    "real_score": Column("mean sigmoid of real logits", "inside (0,1)"),
    "fake_score": Column("mean sigmoid of generated logits", "inside (0,1)"),
    "real_accuracy": Column("accuracy on real images", f"below {CERTAIN}"),
    "fake_accuracy": Column("accuracy on generated images", f"below {CERTAIN}"),
    "penalty": Column("penalties, with their weights", "levels off"),
    "logit_spread": Column("spread of the logits", "levels off"),
    "gen_grad_norm": Column("gradient norm, generator", "not near 0"),
    "disc_grad_norm": Column("gradient norm, discriminator", "levels off"),
    "gen_param_norm": Column("norm of parameters, generator", "levels off"),
    "disc_param_norm": Column("norm of parameters, discriminator", "levels off"),
}
"""The columns of metrics.csv that only a GAN has."""


def diagnose(history: History) -> Diagnosis:
    """The failures in each member of a population; one run is one member.

    A diverged member, whose metrics are NaN, shows no failure from then on.

    Args:
      history: the rows of a run, with the means of `measures.Metrics` over the steps of each epoch.
        Some rows also have `missed` and the norms of the parameters.

    Raises:
      KeyError: if a column is missing.
    """
    if not history:
        return Diagnosis([[]], _caveat(history, {}))
    measured = signs(history)
    epochs = np.array([int(row["epoch"]) for row in history])
    findings: list[list[Finding]] = [[] for _ in measured["missed"].T]
    for name, failure in _FAILURES.items():
        flags = failure.is_seen(measured)
        for i in np.flatnonzero(flags.any(axis=0)):
            first = int(np.argmax(flags[:, i]))
            until_first = {k: values[: first + 1, i] for k, values in measured.items()}
            finding = Finding(
                name,
                tuple(epochs[flags[:, i]].tolist()),
                failure.evidence(until_first),
                failure.remedies,
                failure.meaning,
            )
            findings[i].append(finding)
    return Diagnosis(findings, _caveat(history, measured))


def _caveat(history: History, measured: Columns) -> str | None:
    """What a history does not show because it is short, or None."""
    if not history:
        return "the run has no epoch yet"
    missing = _epochs_in_window(history) - len(history)
    if missing > 0:
        epochs = f"{missing:,} more epoch{'s' * (missing > 1)}"
        return f"the run is short: failures can only be seen after {epochs}"
    last = {name: values[-1] for name, values in measured.items()}
    improving = (last["missed"] >= MISSED) & (last["missed_fall"] <= FALL)
    if improving.any():
        now = last["missed"][improving]
        then = now / last["missed_fall"][improving]
        return (
            f"the run is undertrained: its samples miss {now.mean():.0%} of the data, and missed "
            f"{then.mean():.0%} at half the steps; train it longer"
        )
    return None


class _Failure(NamedTuple):
    is_seen: Callable[[Columns], np.ndarray]
    """Signs `[epochs, members]` -> whether the failure is seen at the end of each epoch, bool."""
    evidence: Callable[[Columns], str]
    """Signs `[epochs]` of one member, up to the epoch in which it is first seen -> a text."""
    remedies: tuple[str, ...]
    meaning: str


def signs(history: History) -> Columns:
    """What the thresholds are compared with, `[epochs, members]` each.

    step: the step at the end of the epoch; window: the number of epochs in a window.
    certainty: the smaller of the two accuracies.
    gradient: the generator's gradient norm; gradient_share: divided by its largest value so far.
    missed: the last measured value; missed_fall: that value divided by the one at half the steps.
    swing: the smaller standard deviation of the two losses over the second half of the steps,
      divided by the largest of their root mean squares and of the spread of the logits.
    swing_before: the same over the quarter before.
    growth: the larger factor by which the norm of a network's parameters has grown over its largest
      value before the window.

    The signs that compare epochs are NaN in the first epochs.
    """

    def column(name: str) -> np.ndarray:
        return np.array([np.ravel(row[name]) for row in history], float)

    networks = ("gen", "disc")
    gradient = column("gen_grad_norm")
    window = _epochs_in_window(history)

    def last_measured(name: str) -> np.ndarray:
        return _last_measured(history, name, gradient.shape)

    missed = last_measured("missed")
    norms = np.array([last_measured(f"{network}_param_norm") for network in networks])
    norms_before = _before(np.fmax.accumulate(norms, axis=1), window)

    def swing(first: float, last: float) -> np.ndarray:
        """Over this part of the steps, as shares of all."""

        def mean(name: str) -> np.ndarray:
            return _mean_over(column(name), first, last)

        squares = np.array([mean(f"{network}_loss_square") for network in networks])
        means = np.array([mean(f"{network}_loss") for network in networks])
        trends = np.array([_trend(column(f"{network}_loss"), first, last) for network in networks])
        deviations = np.sqrt(np.maximum(squares - np.square(means) - trends, 0))
        sizes = np.sqrt(np.maximum(squares, 0)).max(axis=0)
        return _ratio(deviations.min(axis=0), np.maximum(sizes, mean("logit_spread")))

    return {
        "step": np.broadcast_to(column("step"), gradient.shape),
        "window": np.full(gradient.shape, window),
        "certainty": np.minimum(column("real_accuracy"), column("fake_accuracy")),
        "gradient": gradient,
        "gradient_share": _ratio(gradient, np.maximum.accumulate(gradient, axis=0)),
        "missed": missed,
        "missed_fall": _ratio(missed, _at_half(missed)),
        "swing": swing(0.5, 1.0),
        "swing_before": swing(0.25, 0.5),
        "growth": _ratio(norms, norms_before).max(axis=0),
    }


def _vanishing(signs: Columns) -> np.ndarray:
    flags = (signs["certainty"] >= CERTAIN) & (signs["gradient_share"] <= VANISHED)
    return _lasting(flags, signs)


def _vanishing_evidence(signs: Columns) -> str:
    gradient = signs["gradient"]
    return (
        f"the discriminator classifies at least {np.floor(1000 * signs['certainty'][-1]) / 10}% of "
        f"the real and of the generated images correctly, and the generator's gradient norm has "
        f"fallen from {gradient.max():.2g} to {gradient[-1]:.2g}"
    )


def _collapse(signs: Columns) -> np.ndarray:
    flags = _lasting(signs["missed"] >= MISSED, signs) & (signs["missed_fall"] > FALL)
    # Without a gradient the generator does not change. This is vanishing gradients, no collapse.
    return flags & ~_vanishing(signs)


def _collapse_evidence(signs: Columns) -> str:
    missed, fall = signs["missed"][-1], signs["missed_fall"][-1]
    return (
        f"almost no samples lie in parts that hold {missed:.0%} of the real images; at half the "
        f"steps it was {missed / fall:.0%}"
    )


def _no_convergence(signs: Columns) -> np.ndarray:
    growth, window = signs["growth"], _window(signs)
    swinging = (signs["swing"] >= SWING) & (signs["swing"] >= LASTING * signs["swing_before"])
    growing = (growth >= GROWTH) & (growth >= LASTING * _before(growth, window))
    return (swinging | growing) & (signs["step"] >= WINDOW) & ~_vanishing(signs)


def _no_convergence_evidence(signs: Columns) -> str:
    growth = signs["growth"][-1]
    if growth >= GROWTH:
        epochs = _window(signs)
        return f"the norm of a network's parameters has grown {growth:.1f} times in {epochs} epochs"
    return (
        f"over the second half of the steps both losses swung by at least {signs['swing'][-1]:.0%} "
        f"of their size, and by {signs['swing_before'][-1]:.0%} in the quarter before"
    )


def _ratio(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return values / np.maximum(others, np.finfo(np.float32).tiny)


def _epochs_in_window(history: History) -> int:
    steps_per_epoch = history[-1]["step"] / history[-1]["epoch"]
    return max(2, math.ceil(WINDOW / steps_per_epoch))


def _window(signs: Columns) -> int:
    return int(signs["window"].flat[0])


def _last_measured(history: History, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A column that some rows lack. Such a row gets the value before it, NaN if there is none."""
    values = np.full(shape, np.nan)
    for i, row in enumerate(history):
        values[i] = np.ravel(row[name]) if name in row else values[i - 1] if i else np.nan
    return values


def _lasting(flags: np.ndarray, signs: Columns) -> np.ndarray:
    """Whether the flags are True in each epoch of the window, `[epochs, members]`."""
    window = _window(signs)
    counts = np.concatenate([np.zeros((1, *flags.shape[1:])), np.cumsum(flags, axis=0)])
    lasting = np.zeros(flags.shape, bool)
    lasting[window - 1 :] = counts[window:] - counts[:-window] == window
    return lasting


def _mean_over(values: np.ndarray, first: float, last: float) -> np.ndarray:
    """For each epoch, the mean from the share `first` to the share `last` of the epochs so far; NaN
    if there are none."""
    sums = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    epochs = np.arange(1, len(values) + 1)
    start, stop = (np.floor(share * epochs).astype(int) for share in (first, last))
    count = (stop - start)[:, None]
    return np.where(count > 0, (sums[stop] - sums[start]) / np.maximum(count, 1), np.nan)


def _trend(values: np.ndarray, first: float, last: float) -> np.ndarray:
    """The variance over these epochs that is due to a straight line through the values."""
    epochs = np.broadcast_to(np.arange(len(values))[:, None], values.shape).astype(float)
    time, value, both, square = (
        _mean_over(x, first, last) for x in (epochs, values, epochs * values, np.square(epochs))
    )
    variance = square - np.square(time)
    return np.square(both - time * value) / np.where(variance > 0, variance, np.inf)


def _at_half(values: np.ndarray) -> np.ndarray:
    """For each epoch, the value at half the epochs until then; NaN in the first."""
    half = np.arange(1, len(values) + 1) // 2
    return np.where(half[:, None] > 0, values[half - 1], np.nan)


def _before(values: np.ndarray, epochs: int) -> np.ndarray:
    """The values of this many epochs earlier, `[..., epochs, members]`; NaN before epoch 1."""
    earlier = np.full(values.shape, np.nan)
    earlier[..., epochs:, :] = values[..., :-epochs, :]
    return earlier


_FAILURES = {
    "vanishing gradients": _Failure(
        _vanishing,
        _vanishing_evidence,
        ("--loss non_saturating", "--r1 1", "a lower --discriminator-lr"),
        "The discriminator tells real from generated images almost without error. Its answers "
        "hardly change with the samples, so the generator learns nothing more.",
    ),
    "mode collapse": _Failure(
        _collapse,
        _collapse_evidence,
        ("--r1 1", "--loss relativistic --r1 1 --r2 1 --ema-decay 0.999"),
        "The generator makes only some kinds of images. Other kinds of the data have almost no "
        "samples.",
    ),
    "no convergence": _Failure(
        _no_convergence,
        _no_convergence_evidence,
        ("--r1 1", "--lr-scale cosine:1:0", "lower learning rates"),
        "The two networks keep reacting to each other and do not settle. The samples change, and "
        "do not get better.",
    ),
}


def healthy_lines(history: History) -> list[str]:
    """Says how far a history without a failure is from each failure."""
    last = {name: values[-1] for name, values in signs(history).items()}
    missed, swing = _largest(last["missed"]), _largest(last["swing"])
    share = np.nanmin(last["gradient_share"])
    return [
        "No failure was seen: no vanishing gradients, mode collapse or lack of convergence.",
        f"The samples miss {missed} of the data (mode collapse: {MISSED:.1%}, and no less than at "
        "half the steps).",
        f"Over the second half of the steps both losses swing by {swing} of their size (no "
        f"convergence: {SWING:.0%}, and no less than before).",
        f"The generator's gradient norm is {share:.0%} of its largest (vanishing gradients: "
        f"{VANISHED:.0%}, and an accuracy of {CERTAIN:.0%}).",
    ]


def _largest(values: np.ndarray) -> str:
    """The largest value that is finite, in percent."""
    finite = values[np.isfinite(values)]
    return f"{finite.max():.1%}" if len(finite) else "an unknown share"
