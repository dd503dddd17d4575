import math

import numpy as np
import pytest

from jaxgan.history import (
    finite_mean,
    finite_members,
    mean_interval,
    member_history,
    readable,
    with_squares,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        (3.0, 3),
        ([1.0, 2.0, 6.0], 3),
        # Diverged members do not count.
        ([1.0, NAN, 3.0, INF, -INF], 2),
        (np.float32([[1, 5]]), 3),
    ],
)
def test_the_mean_of_a_metric_is_over_the_finite_members(values, mean):
    found = finite_mean(values)
    assert found == mean
    assert type(found) is float


@pytest.mark.parametrize("values", [NAN, INF, [NAN, INF], []])
def test_without_a_finite_member_the_mean_is_nan(values):
    assert math.isnan(finite_mean(values))


def test_a_member_is_finite_if_all_its_metrics_are():
    row = {
        "epoch": 2,
        "seconds": NAN,  # no metric of the members
        "gen_loss": [1.0, NAN, 3.0, 4.0],
        "disc_loss": [1.0, 2.0, INF, 4.0],
    }
    assert finite_members(row).tolist() == [True, False, False, True]


def test_one_run_is_finite():
    assert finite_members({"epoch": 1, "gen_loss": 1.0}).all()


def test_the_history_of_a_member_is_that_of_one_run():
    history = [
        {"epoch": 1, "step": 7, "gen_loss": [1.0, 2.0], "seconds": 3.0},
        {"epoch": 2, "step": 14, "gen_loss": [4.0, NAN], "fd(pca)": [5.0, 6.0], "seconds": 3.0},
    ]
    assert member_history(history, 0) == [
        {"epoch": 1, "step": 7, "gen_loss": 1.0, "seconds": 3.0},
        {"epoch": 2, "step": 14, "gen_loss": 4.0, "fd(pca)": 5.0, "seconds": 3.0},
    ]
    assert math.isnan(member_history(history, 1)[1]["gen_loss"])
    assert history[0]["gen_loss"] == [1.0, 2.0]


def test_an_interval_of_a_mean_is_that_of_student():
    # Quantiles of t tables: 12.706 with 1 degree of freedom, 2.776 with 4.
    found = mean_interval([1, 3, NAN])
    assert found == {"mean": 2, "half": pytest.approx(12.706, abs=1e-3), "n": 2}
    half = mean_interval([1, 2, 3, 4, 5])["half"]
    assert half == pytest.approx(2.776 * 2.5**0.5 / 5**0.5, abs=1e-3)
    assert mean_interval([3, INF]) == {"mean": 3, "half": None, "n": 1}
    assert mean_interval([NAN]) == {"mean": None, "half": None, "n": 0}


def test_people_get_the_deviation_over_the_steps_and_short_names():
    # Of the losses 1 and 5 the mean is 3, the mean square 13 and the deviation 2.
    row = {"epoch": 1, "gen_loss": 3.0, "gen_loss_square": 13.0, "fd(judge, train, n=50)": 7.0}
    found = readable(row)
    assert found == {"epoch": 1, "gen_loss": 3.0, "gen_loss_sd": 2.0, "fd": 7.0}
    assert list(found) == ["epoch", "gen_loss", "gen_loss_sd", "fd"]
    # The mean square may be an estimate, here smaller than the square of the mean by 4.
    assert readable({"gen_loss": 3.0, "gen_loss_square": 5.0})["gen_loss_sd"] == -2


@pytest.mark.parametrize("square", [13.0, 9.0, 5.0, -1.0, NAN])
def test_the_squares_come_back_from_the_deviations(square):
    row = {"epoch": 3, "disc_loss": 3.0, "disc_loss_square": square, "seconds": 1.5}
    assert with_squares(readable(row)) == pytest.approx(row, nan_ok=True)
