"""The verdict on a run, in one or two sentences that a beginner understands."""

from typing import NamedTuple

import numpy as np

from jaxgan.history import History, Row
from jaxgan.metrics import evaluation
from jaxgan.metrics.modes import WITHIN
from jaxgan.model import Diagnosis
from jaxgan.report.texts import wrapped

COVERED = 0.5
"""Images are healthy if their coverage is above this fraction of the coverage of real images."""
HIGH_QUALITY = 0.9
"""Points are healthy if they have all modes, and more than this share of them has high quality."""
IMPROVED = 0.8
"""A run is undertrained if its error is less than this share of that at half the steps."""

NAMES = {"mode collapse": "collapsed"}
"""The names of verdicts for failures. Other failures keep their own."""


class Verdict(NamedTuple):
    """What a run has become."""

    health: str
    """One of these:

    - healthy;
    - collapsed, vanishing gradients, no convergence: the detectors see this failure at the end;
    - undertrained: the samples are not good, but the run is short or they were worse at half of it;
    - poor: the samples are not good, and did not improve after half the steps;
    - diverged;
    - unknown: the samples were not scored, and no failure is seen at the end."""
    sentences: str
    """Why, with the numbers."""


class Quality(NamedTuple):
    """How good the samples of an epoch are, by scores that no detector of failures uses."""

    healthy: bool
    error: float
    """Less is better: the Fréchet distance of images, the missing modes and the missing quality of
    points."""
    sentence: str


def give_verdict(history: History, diagnosis: Diagnosis | None, modes: int | None) -> Verdict:
    """The verdict on one run, or on one member of a population.

    Args:
      history: of the run, one epoch or more. Scores at its end and at half of it are used.
      diagnosis: of this history.
      modes: the number of modes of a mixture, or None for images.
    """
    last = history[-1]
    if not all(np.isfinite(value) for value in last.values()):
        return Verdict("diverged", "A loss, a parameter or a sample is not finite.")
    now = quality(last, modes)
    scored = "" if now is None else f" {now.sentence}"
    findings = () if diagnosis is None else diagnosis.findings[0]
    for finding in findings:
        if last["epoch"] in finding.epochs:
            health = NAMES.get(finding.name, finding.name)
            seen = f"First seen in epoch {finding.epochs[0]}: {finding.evidence}."
            return Verdict(health, seen + scored)
    caveat = None if diagnosis is None else diagnosis.caveat
    if now is None:
        seen = "" if diagnosis is None else " At the end no failure was seen."
        return Verdict("unknown", f"Samples were not scored.{seen}{_sentence(caveat)}")
    if now.healthy:
        return Verdict("healthy", now.sentence)
    if caveat:
        return Verdict("undertrained", f"{now.sentence}{_sentence(caveat)}")
    before = _at_half(history, modes)
    if before is None:
        return Verdict("poor", now.sentence)
    if now.error < IMPROVED * before.error:
        return Verdict("undertrained", f"{now.sentence} They still get better.")
    then = "better" if before.error < IMPROVED * now.error else "about as good"
    return Verdict("poor", f"{now.sentence} They were {then} at half the steps.")


def quality(row: Row, modes: int | None) -> Quality | None:
    """The quality of the samples of an epoch; None if they were not scored.

    Args:
      row: of the epoch, of one run.
      modes: the number of modes of a mixture, or None for images.
    """
    if modes is not None:
        if "modes" not in row:
            return None
        found, share = row["modes"], row["high_quality"]
        return Quality(
            found == modes and share > HIGH_QUALITY,
            (1 - found / modes) + (1 - share),
            f"The samples have {found:.0f} of {modes} modes, and {share:.0%} of them lie within "
            f"{WITHIN:.0f} standard deviations of a mode (99% of real points do).",
        )
    distance = evaluation.distance_name(row)
    if distance is None:
        return None
    coverage, precision = (
        row[distance.replace("fd", name, 1)] for name in ("coverage", "precision")
    )
    real = {
        name.partition("(")[0]: value for name, value in row.items() if name.startswith("real_")
    }
    return Quality(
        coverage > COVERED * real["real_coverage"],
        row[distance],
        f"The samples cover {coverage:.0%} of the variety of the real images (other real images: "
        f"{real['real_coverage']:.0%}), and {precision:.0%} of them look real "
        f"({real['real_precision']:.0%}).",
    )


def _at_half(history: History, modes: int | None) -> Quality | None:
    """The quality in the earlier epoch, of those with scores, that is nearest to half the steps."""
    half = history[-1]["step"] / 2
    scored = [(row, found) for row in history[:-1] if (found := quality(row, modes))]
    nearest = min(scored, key=lambda pair: abs(pair[0]["step"] - half), default=None)
    return nearest and nearest[1]


def lines(verdicts: list[Verdict], best: int | None) -> list[str]:
    """The verdict for the terminal, in lines of at most 80 characters.

    Args:
      verdicts: of each member; of one run a single one.
      best: the best member of a population, or None.
    """
    if len(verdicts) == 1:
        text = f"Verdict: {verdicts[0].health}. {verdicts[0].sentences}"
    else:
        names = list(dict.fromkeys(verdict.health for verdict in verdicts))
        members = {n: [i for i, v in enumerate(verdicts) if v.health == n] for n in names}
        text = f"Verdict on {len(verdicts)} members: "
        text += ", ".join(f"{len(some)} {name} ({_listed(some)})" for name, some in members.items())
        text += "."
        if best is not None:
            text += f" The best is member {best}: {verdicts[best].sentences}"
    return wrapped(text, "").splitlines()


def _sentence(clause: str | None) -> str:
    return f" {clause[0].upper()}{clause[1:]}." if clause else ""


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
