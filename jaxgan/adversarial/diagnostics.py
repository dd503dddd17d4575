"""The failures of a GAN, read from its history: vanishing gradients, mode collapse, no
convergence.

`diagnose` is a pure function of the history: it gives the same findings whether or not the run was
interrupted. At the end of every epoch it looks at the last WINDOW epochs. A failure has two signs,
each with a threshold. It is found while both are seen.

A discriminator that is merely stronger is no failure. With the non-saturating loss the generator's
gradient is then large, and the generator may catch up. The reference GAN on Fashion-MNIST begins
like this, with a generator loss of 5 to 8 in epoch 2.

Diversity shows a collapse to few modes, not the loss of one. On a ring of 8 modes it is 0 for 1
mode, 0.30 for 2 neighbours, 0.52 for 3, 0.69 for 4; but 0.80 for 2 opposite modes and 0.98 for 7.
`jaxgan.metrics.modes` counts modes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxgan.history import History
from jaxgan.model import Curve, Diagnosis, Finding

Columns = dict[str, np.ndarray]

WINDOW = 5
"""Number of epochs for which a sign must last. In healthy runs signs come and go."""

WARM_UP = 1_000
"""Number of steps before mode collapse or a lack of convergence is reported. The reference GAN has
a diversity of 0.1 after 500 steps and recovers."""

CERTAIN = 0.95
"""Vanishing gradients, first sign: in each epoch of the window the discriminator's accuracy on real
and on generated images is at least this."""

VANISHED = 0.05
"""Vanishing gradients, second sign: in each epoch of the window the generator's gradient norm is at
most this share of its largest value so far. The gradient of the minimax loss vanishes with the
scores of generated images (arXiv 1701.04862, theorem 2.4)."""

COLLAPSED = 0.5
"""Mode collapse, first sign: the diversity is below this in each epoch of the window."""

RISE = 1.2
"""Mode collapse, second sign: the diversity has not grown by this factor within the window."""

SWING = 0.25
"""No convergence, first sign: the standard deviation of both losses over the steps of the window,
divided by their size, is at least this. The size is the largest of their root mean squares and of
the spread of the logits. For the Dirac-GAN the ratio is 0.3 to 0.6, for the reference it is below
0.15. The spread of the logits matters for the Wasserstein loss, which ends as noise around 0."""

LASTING = 0.8
"""No convergence, second sign: the ratio is at least this share of its value one window earlier. In
a run that converges, losses swing less and less, and parameters grow less and less."""

GROWTH = 2.0
"""Also no convergence: the norm of a network's parameters is at least this many times its largest
value before the window, and this factor is at least LASTING times its value one window earlier."""


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
    ),
    Curve("diversity", {"of samples, divided by that of real images": "diversity"}),
)
"""The curves that show the failures."""


def diagnose(history: History) -> Diagnosis:
    """The failures in each member of a population; one run is one member.

    A diverged member, whose metrics are NaN, shows no failure from then on.

    Args:
      history: the rows of a run, with the means of `measures.Metrics` over the steps of each epoch.

    Raises:
      KeyError: if a column is missing.
    """
    if not history:
        return Diagnosis([[]], _caveat(history))
    measured = signs(history)
    epochs = np.array([int(row["epoch"]) for row in history])
    findings: list[list[Finding]] = [[] for _ in measured["diversity"].T]
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
            )
            findings[i].append(finding)
    return Diagnosis(findings, _caveat(history))


def _caveat(history: History) -> str | None:
    """Which failures cannot be seen in a history because it is short, or None."""
    if history and len(history) >= 2 * WINDOW and history[-1]["step"] >= WARM_UP:
        return None
    return (
        f"the run is short: vanishing gradients show after {WINDOW} epochs, mode collapse after "
        f"{WARM_UP:,} steps, a lack of convergence after {2 * WINDOW} epochs and {WARM_UP:,} steps"
    )


class _Failure(NamedTuple):
    is_seen: Callable[[Columns], np.ndarray]
    """Signs `[epochs, members]` -> whether the failure is seen at the end of each epoch, bool."""
    evidence: Callable[[Columns], str]
    """Signs `[epochs]` of one member, up to the epoch in which it is first seen -> a text."""
    remedies: tuple[str, ...]


def signs(history: History) -> Columns:
    """What the thresholds are compared with, `[epochs, members]` each.

    step: the step at the end of the epoch.
    certainty: the smaller of the two accuracies.
    gradient: the generator's gradient norm; gradient_share: divided by its largest value so far.
    diversity: as in the metrics.
    swing: the smaller standard deviation of the two losses over the steps of the window, divided by
      the largest of their root mean squares and of the spread of the logits.
    growth: the larger factor by which the norm of a network's parameters has grown over its largest
      value before the window.

    Swing and growth are NaN until there are enough epochs.
    """

    def column(name: str) -> np.ndarray:
        return np.array([np.ravel(row[name]) for row in history], float)

    networks = ("gen", "disc")
    gradient = column("gen_grad_norm")
    means = [_window_mean(column(f"{network}_loss")) for network in networks]
    squares = [_window_mean(column(f"{network}_loss_square")) for network in networks]
    deviations = np.sqrt(np.maximum(np.array(squares) - np.square(means), 0))
    sizes, spread = np.sqrt(np.max(squares, axis=0)), _window_mean(column("logit_spread"))
    norms = np.array([column(f"{network}_param_norm") for network in networks])
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
        f"the discriminator classifies at least {np.floor(1000 * signs['certainty'][-1]) / 10}% of "
        f"the real and of the generated images correctly, and the generator's gradient norm has "
        f"fallen from {gradient.max():.2g} to {gradient[-1]:.2g}"
    )


def _collapse(signs: Columns) -> np.ndarray:
    diversity = signs["diversity"]
    low = _lasting(diversity < COLLAPSED)
    rising = diversity >= RISE * _before(diversity, WINDOW - 1)
    # Without a gradient the generator does not change. This is vanishing gradients, no collapse.
    return low & ~rising & (signs["step"] >= WARM_UP) & ~_vanishing(signs)


def _collapse_evidence(signs: Columns) -> str:
    return (
        f"over {WINDOW} epochs the mean distance of two samples was "
        f"{signs['diversity'][-WINDOW:].mean():.1%} of that of two real images"
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
        return f"the norm of a network's parameters has grown {growth:.1f} times in {WINDOW} epochs"
    return (
        f"over the steps of {WINDOW} epochs both losses swung by at least {swing[-1]:.0%} "
        f"of their size, and by {swing[-1 - WINDOW]:.0%} in the {WINDOW} epochs before"
    )


def _ratio(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return values / np.maximum(others, np.finfo(np.float32).tiny)


def _lasting(flags: np.ndarray) -> np.ndarray:
    """Whether the flags are True in each epoch of the window, `[epochs, members]`."""
    return _window_mean(flags.astype(float)) == 1


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Means over the window that ends with each epoch, `[epochs, members]`; NaN if not full."""
    means = np.full(values.shape, np.nan)
    if len(values) >= WINDOW:
        windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=0)
        means[WINDOW - 1 :] = windows.mean(axis=-1)
    return means


def _before(values: np.ndarray, epochs: int) -> np.ndarray:
    """The values of this many epochs earlier, `[..., epochs, members]`; NaN before epoch 1."""
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
