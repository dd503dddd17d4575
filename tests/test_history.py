import math

import numpy as np
import pytest

from jaxgan.history import finite_mean, finite_members, member_history

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
