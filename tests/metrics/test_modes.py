"""The scores of samples from a mixture, against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxgan import JaxganError
from jaxgan.data.mixtures import GRID, RING, Mixture
from jaxgan.metrics.modes import mode_intervals, mode_scores

BOTH = pytest.mark.parametrize("mixture", [RING, GRID], ids=lambda mixture: mixture.name)


@BOTH
def test_points_of_the_mixture_itself(mixture):
    n, k = 50_000, len(mixture.centers)
    scores = mode_scores(mixture.draw(n, 7)[0], mixture)
    assert scores.modes == k
    # Five standard errors.
    share = 1 - math.exp(-4.5)
    error = math.sqrt(share * (1 - share) / n)
    assert scores.high_quality == pytest.approx(share, abs=5 * error)
    # 2 N KL is chi-squared of K - 1 degrees of freedom.
    assert 2 * n * scores.reverse_kl == pytest.approx(k - 1, abs=5 * math.sqrt(2 * (k - 1)))
    assert 0.85 < scores.covariance_ratio <= 1


@BOTH
def test_the_expected_reverse_kl_of_2500_points(mixture):
    k = len(mixture.centers)
    kls = [mode_scores(mixture.draw(2500, seed)[0], mixture).reverse_kl for seed in range(200)]
    error = math.sqrt(2 * (k - 1)) / 5000 / math.sqrt(200)
    assert np.mean(kls) == pytest.approx((k - 1) / 5000, abs=5 * error)


@BOTH
def test_one_mode_alone(mixture):
    points, modes = mixture.draw(20_000, 0)
    scores = mode_scores(points[modes == 3], mixture)
    assert scores.modes == 1
    assert scores.reverse_kl == pytest.approx(math.log(len(mixture.centers)))
    assert scores.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.02)


def test_unequal_shares_and_samples_between_the_modes():
    line = Mixture("line", np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0], [30.0, 0.0]]), 1.0)
    # Within 3 sigma of the first mode 4, of the second 1, of the others none; 3 more are nearest to
    # the third: shares 1/2, 1/8, 3/8, 0.
    points = [(0, 2.9), (-1, 0), (3, 0), (0, 0), (10, -3), (16, 0), (24, 0), (20, 3.1)]
    scores = mode_scores(np.array(points), line)
    assert scores.modes == 2
    assert scores.high_quality == 5 / 8
    assert scores.reverse_kl == pytest.approx(
        math.log(2) / 2 + math.log(1 / 2) / 8 + 3 / 8 * math.log(3 / 2)
    )
    # No mode has samples enough to say how round it is.
    assert scores.covariance_ratio == 0


def test_the_intervals_hold_the_scores_and_that_of_a_share_is_binomial():
    points = np.concatenate(
        [GRID.draw(1_500, 3)[0], np.random.default_rng(0).normal(size=(500, 2))]
    )
    scores, intervals = mode_scores(points, GRID), mode_intervals(points, GRID)
    assert intervals.keys() == set(scores._fields)
    for name in scores._fields:
        low, high = intervals[name]
        assert low <= getattr(scores, name) <= high, name
    count = round(scores.high_quality * 2_000)
    wilson = stats.binomtest(count, 2_000).proportion_ci(method="wilson")
    assert intervals["high_quality"] == pytest.approx(tuple(wilson), abs=0.004)
    assert intervals["high_quality"][0] < intervals["high_quality"][1] - 0.02


def test_the_intervals_stay_within_the_range_of_the_scores():
    points, modes = RING.draw(400, 0)
    rare = np.concatenate([points[modes != 5], points[modes == 5][:1]])  # the mean shift is up
    assert mode_scores(rare, RING).modes == 8
    assert mode_intervals(rare, RING)["modes"] == (pytest.approx(7.4, abs=0.2), 8)
    angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    circle = RING.centers[0] + RING.sigma * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert mode_intervals(circle, RING)["covariance_ratio"][1] == 1


def test_far_away_there_is_no_quality():
    scores = mode_scores(100 + GRID.draw(500, 0)[0], GRID)
    assert (scores.modes, scores.high_quality) == (0, 0)
    assert scores.reverse_kl == pytest.approx(math.log(25))
    assert scores.covariance_ratio == 0


def test_the_worst_mode_gives_the_ratio():
    rng = np.random.default_rng(0)
    points, modes = RING.draw(80_000, 0)
    # In mode 5 an ellipse, turned by 30 degrees, with half-axes of variance 1 : 4.
    angle = math.radians(30)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    ellipse = rng.standard_normal((10_000, 2)) * [0.0025, 0.005] @ turn
    squeezed = np.concatenate([points[modes != 5], RING.centers[5] + ellipse])
    ratio = mode_scores(squeezed, RING).covariance_ratio
    assert ratio == pytest.approx(1 / 4, rel=5 * math.sqrt(4 / 10_000))
    # What lies far outside has no say.
    assert mode_scores(np.append(squeezed, [[9.0, 0.1]], axis=0), RING).covariance_ratio == ratio


def test_a_line_is_not_round_and_few_samples_say_nothing():
    line = GRID.centers[7] + np.linspace(-0.1, 0.1, 40)[:, None] * [0.6, 0.8]
    assert mode_scores(line, GRID).covariance_ratio == pytest.approx(0, abs=1e-9)
    angles = np.linspace(0, 2 * math.pi, 30, endpoint=False)
    circle = GRID.centers[7] + 0.1 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert mode_scores(circle, GRID).covariance_ratio == pytest.approx(1)
    assert mode_scores(circle[:29], GRID).covariance_ratio == 0


def test_a_single_place_is_not_round():
    scores = mode_scores(np.repeat(RING.centers[:1], 40, axis=0), RING)
    assert (scores.modes, scores.high_quality, scores.covariance_ratio) == (1, 1, 0)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 1, 1, 2)), r"must be \[N, 2\] .* got \[5, 1, 1, 2\]"),
        (np.zeros((0, 2)), "N >= 1"),
        (np.full((5, 2), np.nan), "must be finite"),
    ],
)
def test_what_is_no_set_of_points_is_refused(points, message):
    with pytest.raises(JaxganError, match=message):
        mode_scores(points, RING)
