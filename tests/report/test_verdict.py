"""Verdicts on histories of which it is known what they show."""

import pytest

from jaxgan.model import Diagnosis, Finding
from jaxgan.report.verdict import Verdict, give_verdict, lines, quality

FD = "fd(judge, train, n=50)"
SHORT = Diagnosis([[]], "the run is short: failures show after 3 more epochs")
NO_FAILURE = Diagnosis([[]])


def images(distance: float, coverage: float) -> dict[str, float]:
    """The scores of an epoch on images, of which the real ones have a coverage of 0.8."""
    scores = {"fd": distance, "coverage": coverage, "precision": 0.7}
    scores |= {"real_fd": 1.0, "real_coverage": 0.8, "real_precision": 0.9}
    return {f"{name}(judge, train, n=50)": value for name, value in scores.items()}


def points(modes: int, share: float) -> dict[str, float]:
    return {"modes": float(modes), "high_quality": share}


def history(*scores: dict[str, float] | None, **last: float) -> list[dict[str, float]]:
    """A history with these scores, None in an epoch without; the last row has more metrics."""
    rows = [
        {"epoch": i + 1, "step": 500 * (i + 1), "gen_loss": 0.7, **(row or {})}
        for i, row in enumerate(scores)
    ]
    rows[-1] |= last
    return rows


def seen(name: str, *epochs: int) -> Diagnosis:
    finding = Finding(name, epochs, "the samples are alike", ("--r1 1",))
    return Diagnosis([[finding]], "the run is short")


GOOD, BAD = images(2.0, 0.41), images(20.0, 0.4)


@pytest.mark.parametrize(
    ("rows", "diagnosis", "health"),
    [
        (history(None, GOOD), NO_FAILURE, "healthy"),
        # A good score is good, also of a short run.
        (history(None, GOOD), SHORT, "healthy"),
        (history(None, GOOD), None, "healthy"),
        # A failure at the end counts more than scores.
        (history(None, GOOD), seen("mode collapse", 1, 2), "collapsed"),
        (history(None, BAD), seen("vanishing gradients", 2), "vanishing gradients"),
        (history(None, None), seen("no convergence", 2), "no convergence"),
        # One that is over does not.
        (history(None, GOOD), seen("mode collapse", 1), "healthy"),
        (history(None, None), seen("mode collapse", 1), "unknown"),
        (history(None, None), None, "unknown"),
        (history(BAD, None), NO_FAILURE, "unknown"),
        # Scores that are not good yet.
        (history(BAD, BAD), SHORT, "undertrained"),
        (history(images(25.1, 0.4), BAD), NO_FAILURE, "undertrained"),
        (history(images(24.9, 0.4), BAD), NO_FAILURE, "poor"),
        (history(images(5.0, 0.4), BAD), NO_FAILURE, "poor"),
        # Without earlier scores nobody knows whether they improve.
        (history(None, BAD), NO_FAILURE, "poor"),
        # The epoch nearest to half the steps counts, among those with scores.
        (history(images(50.0, 0), BAD, None, None, BAD), NO_FAILURE, "poor"),
        (history(BAD, images(50.0, 0), None, None, BAD), NO_FAILURE, "undertrained"),
        # What is not finite comes before all.
        (history(None, GOOD, gen_loss=float("nan")), seen("mode collapse", 2), "diverged"),
        (history(None, GOOD | {FD: float("inf")}), NO_FAILURE, "diverged"),
    ],
)
def test_the_health_of_a_run_on_images(rows, diagnosis, health):
    assert give_verdict(rows, diagnosis, None).health == health


@pytest.mark.parametrize(
    ("half", "end", "health"),
    [
        (points(8, 0.95), points(8, 0.91), "healthy"),
        (points(8, 0.95), points(8, 0.9), "poor"),
        (points(8, 0.95), points(7, 0.99), "poor"),
        # The errors are 1/8 + 0.3 and 0.3; then 1/8 + 0.2 and 0.3.
        (points(7, 0.7), points(8, 0.7), "undertrained"),
        (points(7, 0.8), points(8, 0.7), "poor"),
        (points(7, 0.8), None, "unknown"),
    ],
)
def test_the_health_of_a_run_on_points(half, end, health):
    assert give_verdict(history(half, end), NO_FAILURE, 8).health == health


def test_the_sentences_have_the_numbers_and_the_reasons():
    covered = "The samples cover 40% of the variety of the real images (other real images: 80%)"
    real = "70% of them look real (90%)."
    found = give_verdict(history(BAD, BAD), SHORT, None).sentences
    assert found.startswith(f"{covered}, and {real} ")
    assert found.endswith(" The run is short: failures show after 3 more epochs.")
    collapsed = give_verdict(history(None, BAD), seen("mode collapse", 2), None).sentences
    assert collapsed.startswith(
        "First seen in epoch 2: the samples are alike. The samples cover 40%"
    )
    points_found = give_verdict(history(None, points(3, 0.25)), NO_FAILURE, 8).sentences
    assert points_found.startswith("The samples have 3 of 8 modes, and 25% of them lie within 3 ")
    unknown = give_verdict(history(None), SHORT, None).sentences
    assert unknown == (
        "Samples were not scored. At the end no failure was seen. The run is short: failures show "
        "after 3 more epochs."
    )


def test_an_epoch_without_scores_has_no_quality():
    assert quality({"epoch": 1, "gen_loss": 0.7}, None) is None
    assert quality({"epoch": 1, "gen_loss": 0.7}, 8) is None


def test_the_lines_of_one_run_fit_a_terminal():
    found = lines([Verdict("poor", "The samples are words and words. " * 9)], 0)
    assert len(found) > 3
    assert max(map(len, found)) <= 80
    assert " ".join(found) == "Verdict: poor. " + " ".join(["The samples are words and words."] * 9)


def test_the_lines_of_a_population_name_its_members_and_describe_the_best():
    members = [Verdict("healthy", f"Number {i} is good.") for i in range(12)]
    members[1] = members[4] = Verdict("collapsed", "All alike.")
    found = lines(members, 3)
    assert max(map(len, found)) <= 80
    assert " ".join(found) == (
        "Verdict on 12 members: 10 healthy (0, 2, 3, 5, 6, 7, 8, 9, ...), 2 collapsed (1, 4). "
        "The best is member 3: Number 3 is good."
    )
    assert " ".join(lines(2 * [Verdict("diverged", "")], None)) == (
        "Verdict on 2 members: 2 diverged (0, 1)."
    )
