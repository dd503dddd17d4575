"""benchmarks/imputation.py: its patterns and its score in closed form, and a table that resumes."""

import json

import numpy as np
import pytest


@pytest.fixture
def imputation():
    import imputation

    return imputation


def test_the_energy_score_is_that_of_the_formula(imputation):
    truth = np.zeros((3, 2))
    hidden = np.array([[True, True], [True, False], [False, False]])
    draws = np.array([[[3.0, 4], [1, 9], [9, 9]], [[0, 4], [-3, 9], [9, 9]]])
    # Row 0 has the distances 5 and 4 to the truth, and 3 between the draws; row 1 has 1, 3 and 4.
    wanted = [(5 + 4) / 2 - 3 / 2, (1 + 3) / 2 - 4 / 2]
    assert imputation.energy_score(draws, truth, hidden) == pytest.approx(np.mean(wanted))
    assert imputation.energy_score(draws[:1], truth, hidden) == pytest.approx((5 + 1) / 2)


def test_the_patterns_hide_a_fifth(imputation):
    table = np.random.default_rng(0).normal(size=(20_000, 10))
    random = imputation.hide(table, "random", np.random.default_rng(1))
    np.testing.assert_allclose(random.mean(axis=0), 0.2, atol=0.015)
    dependent = imputation.hide(table, "dependent", np.random.default_rng(1))
    known = ~dependent.any(axis=0)
    assert known.sum() == 3
    np.testing.assert_allclose(dependent[:, ~known].mean(axis=0), 0.2, atol=0.015)
    # What is hidden depends on the known columns, and on nothing else.
    related = np.abs(np.corrcoef(table.T, dependent[:, ~known].T)[:10, 10:])
    assert related[known].max() > 0.15
    assert related[~known].max() < 0.04


def test_a_table_resumes_by_seed(run, imputation, tmp_path, monkeypatch):
    monkeypatch.setattr(imputation, "DRAWS", 2)
    few = imputation.load("breast")[:, :6]
    monkeypatch.setattr(imputation, "load", lambda name: few)
    file = tmp_path / "rows.json"
    options = ["--tables", "breast", "--methods", "mean,ridge,ridge draws", "--json", file]
    run(imputation, *options, "--patterns", "random", "--seeds", 1)
    before = json.loads(file.read_text())["rows"]
    out, _ = run(imputation, *options, "--seeds", 2)
    rows = json.loads(file.read_text())["rows"]
    assert [len(row["runs"]) for row in rows] == [2] * 6
    assert [row["runs"][:1] for row in rows[:3]] == [row["runs"] for row in before]
    errors = {(r["pattern"], r["method"]): [one["rmse"] for one in r["runs"]] for r in rows}
    assert max(errors["random", "ridge"]) < 0.8 * min(errors["random", "mean"])
    scores = {r["method"]: r["runs"][0]["energy"] for r in rows[:3]}
    assert scores["ridge draws"] < 0.8 * scores["ridge"]
    assert "breast  dependent  ridge draws" in out
