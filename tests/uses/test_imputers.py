"""Imputers as scikit-learn asks for them, and against what is known of normal tables."""

import functools
import types
import warnings

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from sklearn.utils.estimator_checks import estimator_checks_generator

from jaxgan import imputation
from jaxgan.errors import NonFiniteError
from jaxgan.uses import imputers
from jaxgan.uses.imputers import (
    ChosenImputer,
    DenoisingImputer,
    GAINImputer,
    RoundsImputer,
    ScaledImputer,
)

NAN = np.nan
MEAN = ScaledImputer(SimpleImputer())
ROUNDS = RoundsImputer(Ridge(), rounds=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Networks of GAIN with one small layer: the checks train some for each number of columns."""
    config = functools.partial(imputation.GAINConfig, widths=(4,))
    # Replaced only where the imputers use it: pickle must find the class itself in its module.
    names = types.SimpleNamespace(**vars(imputation) | {"GAINConfig": config})
    monkeypatch.setattr(imputers, "imputation", names)


CHECKED = [GAINImputer(steps=2), ChosenImputer({"mean": MEAN, "rounds": ROUNDS})]
CHECKS = [check for imputer in CHECKED for check in estimator_checks_generator(imputer)]


@pytest.mark.parametrize(
    ("imputer", "check"), CHECKS, ids=lambda part: getattr(part, "func", type(part)).__name__
)
def test_scikit_learn_accepts_it(imputer, check):
    check(imputer)


@pytest.fixture(scope="module")
def table():
    """Two columns of correlation 0.9 with other scales, and which cells are hidden."""
    rng = np.random.default_rng(0)
    normal = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 2_000)
    hidden = rng.random(normal.shape) < 0.2
    hidden[hidden.all(axis=1)] = False
    return normal * [1, 50] + [10, -20], hidden


def error(imputer, table):
    """The root mean squared error of hidden cells, divided by the deviation of their columns."""
    values, hidden = table
    incomplete = np.where(hidden, NAN, values)
    filled = imputer.fit_transform(incomplete)
    np.testing.assert_array_equal(filled[~hidden], values[~hidden])
    return np.sqrt(np.square((filled - values) / values.std(axis=0))[hidden].mean())


BEST = np.sqrt(1 - 0.9**2)
"""The error of the conditional mean."""


@pytest.mark.parametrize(
    ("imputer", "most"),
    [
        (ScaledImputer(imputers.make_ridge()), 1.05),
        (ScaledImputer(imputers.make_ridge(), power=True), 1.05),
        (RoundsImputer(LinearRegression()), 1.05),
        (DenoisingImputer(500, widths=(32,), batch_size=128, lr=0.01), 1.1),
    ],
    ids=lambda x: type(x).__name__,
)
def test_hidden_cells_come_near_their_conditional_mean(imputer, most, table):
    # The mean of the column would have 1 / BEST = 2.3.
    assert BEST * 0.9 < error(imputer.set_params(random_state=0), table) < BEST * most


def test_trees_find_what_ridge_cannot():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 500)
    values = np.column_stack([x, x**2, rng.normal(size=500)])
    hidden = np.zeros(values.shape, bool)
    hidden[:100, 1] = True
    imputer = RoundsImputer(ExtraTreesRegressor(20), random_state=0)
    found = error(imputer, (values, hidden))
    assert found < 0.1
    assert error(ScaledImputer(imputers.make_ridge()), (values, hidden)) > 0.9


def test_scaled_neighbours_are_those_of_scikit_learn(table):
    values, hidden = table
    incomplete = np.where(hidden, NAN, values)[:200]
    low, high = np.nanmin(incomplete, axis=0), np.nanmax(incomplete, axis=0)
    wanted = KNNImputer().fit_transform((incomplete - low) / (high - low)) * (high - low) + low
    found = ScaledImputer(KNNImputer()).fit_transform(incomplete)
    np.testing.assert_allclose(found, wanted)


def test_the_best_candidate_is_chosen_by_hidden_cells(table):
    bad = ScaledImputer(SimpleImputer(strategy="constant", fill_value=1.0))
    ridge = ScaledImputer(imputers.make_ridge())
    imputer = ChosenImputer({"bad": bad, "ridge": ridge, "mean": MEAN}, random_state=0)
    found = error(imputer, table)
    assert imputer.chosen_ == ("ridge",)
    assert imputer.errors_["bad"] > imputer.errors_["mean"] > imputer.errors_["ridge"]
    # The errors are those of columns from 0 to 1. More cells are hidden, so it is larger.
    values, hidden = table
    known = np.where(hidden, NAN, values)
    spread = (values.std(axis=0) / (np.nanmax(known, axis=0) - np.nanmin(known, axis=0))).mean()
    assert found < imputer.errors_["ridge"] / spread < 1.6 * found


def test_a_mean_of_candidates_is_chosen_where_it_is_better():
    truth = np.zeros(4)
    guesses = {"a": np.full(4, 1.0), "b": np.full(4, -1.1), "c": np.full(4, 2.0)}
    names, errors = imputers.choose(guesses, truth)
    assert names == ("a", "b")
    assert errors == pytest.approx({"a": 1.0, "b": 1.1, "c": 2.0, "a + b": 0.05})


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("imputer", [GAINImputer(2), ROUNDS, ScaledImputer(KNNImputer())])
def test_constant_and_empty_columns_are_those_of_simple_imputer(imputer, keep):
    rows = np.array([[1.0, 5, NAN, 0], [2, NAN, NAN, NAN], [3, 5, NAN, 1], [4, 5, NAN, 0]])
    imputer = imputer.set_params(keep_empty_features=keep)
    found = imputer.fit_transform(rows)
    plain = SimpleImputer(keep_empty_features=keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it skips the empty column
        assert found.shape == plain.fit_transform(rows).shape
    np.testing.assert_array_equal(found[:, 1], 5)
    names = imputer.get_feature_names_out(["a", "b", "c", "d"])
    assert names.tolist() == (["a", "b", "c", "d"] if keep else ["a", "b", "d"])
    if keep:
        np.testing.assert_array_equal(found[:, 2], 0)


def test_new_rows_and_single_rows_are_filled(table):
    values, _ = table
    imputer = GAINImputer(300, random_state=0).fit(values)  # learns from a complete table, too
    rows = np.array([[12.0, NAN], [NAN, 80.0], [NAN, NAN]])
    many = imputer.transform(rows)
    assert np.isfinite(many).all()
    np.testing.assert_allclose(imputer.transform(rows[:1]), many[:1], rtol=1e-5)
    assert many[0, 0] == 12.0
    assert many[1, 1] == 80.0


def test_draws_of_gain_differ_by_their_noise(table):
    values, hidden = table
    incomplete = np.where(hidden, NAN, values)
    imputer = GAINImputer(50, random_state=0).fit(incomplete)
    draws = imputer.draw(incomplete, 3, seed=1)
    assert draws.shape == (3, *values.shape)
    assert (draws[:, ~hidden] == values[~hidden]).all()
    assert (draws.std(axis=0)[hidden] > 0).mean() > 0.9
    np.testing.assert_array_equal(draws, imputer.draw(incomplete, 3, seed=1))
    assert (imputer.draw(incomplete, 3, seed=2) != draws).any()


def test_categories_go_through_a_column_transformer():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(60, 2))
    kinds = np.where(numbers[:, 0] > 0, "high", "low").astype(object)
    rows = np.column_stack([numbers.astype(object), kinds])
    rows[::7, 2] = NAN
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=NAN)
    columns = make_column_transformer((encode, [2]), remainder="passthrough")
    steps = make_pipeline(columns, GAINImputer(20, random_state=0)).fit(rows)
    unseen = rows[:2].copy()
    unseen[0, 2] = "neither"
    found = steps.transform(unseen)
    assert found.shape == (2, 3)
    assert np.isfinite(found.astype(float)).all()


@pytest.mark.parametrize("imputer", [GAINImputer(5), DenoisingImputer(5, widths=(4,))])
def test_the_seed_decides_everything(imputer, table):
    values, hidden = table
    incomplete = np.where(hidden, NAN, values)[:100]
    one, same, other = (
        imputer.set_params(random_state=seed).fit_transform(incomplete) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_diverged_training_is_an_error(table):
    with pytest.raises(NonFiniteError, match="diverged"):
        DenoisingImputer(20, widths=(4,), lr=1e38).fit(table[0][:50] * [1, 0.02])


def test_only_scored_columns_count(table):
    values, _ = table
    third = np.column_stack([values, np.arange(len(values)) % 2])  # nothing predicts it
    ridge, half = ScaledImputer(imputers.make_ridge()), ScaledImputer(SimpleImputer())
    options = {"candidates": {"ridge": ridge, "mean": half}, "random_state": 0}
    every = ChosenImputer(**options).fit(third)
    some = ChosenImputer(**options, scored=[0, 1]).fit(third)
    assert some.errors_["ridge"] < 0.3 * every.errors_["ridge"]


def test_slow_methods_are_left_out_of_large_tables(monkeypatch, capsys):
    names = ("neighbours", "quadratic_ridge", "trees", "boosting", "mean")
    monkeypatch.setattr(imputers, "make_candidates", lambda: dict.fromkeys(names, MEAN))
    imputer = ChosenImputer(verbose=True)
    assert list(imputer._candidates(30_000, 70)) == ["trees", "boosting", "mean"]
    assert "too slow for this table: neighbours, quadratic_ridge" in capsys.readouterr().out
    assert list(imputer._candidates(20_000, 40)) == list(names)
    assert list(imputer._candidates(50, 300)) == ["neighbours", "mean"]


def test_skewed_columns_come_back_from_yeo_johnson():
    rng = np.random.default_rng(0)
    rare = np.where(rng.random(400) < 0.02, rng.lognormal(3, 2, 400), 0)
    values = np.column_stack([rare, rng.normal(size=400)])
    incomplete = np.where(rng.random(values.shape) < 0.2, NAN, values)
    found = ScaledImputer(imputers.make_ridge(), power=True).fit_transform(incomplete)
    assert np.isfinite(found).all()
    assert (found[:, 0] <= np.nanmax(incomplete[:, 0])).all()


def test_bad_options_are_refused(table):
    for hide in (0.0, 1.0):
        with pytest.raises(ValueError, match="hide must be between 0 and 1"):
            ChosenImputer({"mean": MEAN}, hide=hide).fit(table[0])
        with pytest.raises(ValueError, match="hide must be between 0 and 1"):
            DenoisingImputer(1, widths=(4,), hide=hide).fit(table[0])
    with pytest.raises(ValueError, match="candidates must have at least one"):
        ChosenImputer({}).fit(table[0])
    with pytest.raises(ValueError, match="n must be a whole number above 0"):
        GAINImputer(1).fit(table[0]).draw(table[0], 0)
    with pytest.raises(ValueError, match="column 0 are too far apart"):
        GAINImputer(1).fit([[1e308, 1.0], [-1e308, 3.0]])
    with pytest.raises(ValueError, match="steps must be a whole number above 0"):
        GAINImputer(0).fit(table[0])
    with pytest.raises(ValueError, match="batch_size must be a whole number above 0, got 0"):
        DenoisingImputer(1, widths=(4,), batch_size=0).fit(table[0])
    with pytest.raises(ValueError, match="infinity"):
        GAINImputer(1).fit([[np.inf, 1.0], [2.0, 3.0]])
