"""The attack on private runs."""

import importlib
import json

import numpy as np
import pytest
from scipy import stats

from jaxgan import JaxganError


@pytest.fixture
def audit():
    return importlib.import_module("audit")


def test_bounds_are_below_the_truth_and_near_it(audit):
    """Scores of a Gaussian mechanism with one unit of noise."""
    rng, n = np.random.default_rng(0), 20_000
    without, with_canary = rng.normal(0, 1, n), rng.normal(1, 1, n)
    right, wrong = audit.limits(without, with_canary, 1.0)
    assert right < stats.norm.sf(0.0) < right + 0.02
    assert wrong - 0.02 < stats.norm.sf(1.0) < wrong
    assert 0.9 < audit.distance(right, wrong) < 1
    assert audit.any_bound(right, wrong) == pytest.approx(np.log(0.5 / stats.norm.sf(1)), abs=0.1)
    assert audit.distance(wrong, right) == audit.any_bound(wrong, right) == 0


def test_it_catches_what_is_broken_and_nothing_else(audit, run, tmp_path, monkeypatch):
    cases = {k: v for k, v in audit.CASES.items() if k in ("nothing broken", "counted twice")}
    monkeypatch.setattr(audit, "CASES", cases)
    options = ("--models", "gaussian", "--runs", "500", "--json", tmp_path / "audit.json")
    output = run(audit, *options).out
    rows = json.loads((tmp_path / "audit.json").read_text())["rows"]
    assert {row["case"]: row["verdict"] for row in rows} == {
        "nothing broken": "holds",
        "counted twice": "caught",
    }
    honest = rows[0]["gaussian"]
    assert 0.5 < honest < rows[0]["stated"] == 4
    assert "counted twice" in output


def test_the_membership_attack_sees_copies_and_nothing_in_other_images():
    private = importlib.import_module("private")
    rng = np.random.default_rng(0)
    members, others, new = (rng.integers(0, 256, (300, 6, 5, 1), np.uint8) for _ in range(3))
    assert private.attack(members[::-1], members, others) == 1
    assert private.attack(others, members, others) == 0
    assert 0.4 < private.attack(new, members, others) < 0.6


def test_smote_makes_samples_of_all_classes_between_two_images():
    private = importlib.import_module("private")
    rng, labels = np.random.default_rng(0), np.arange(100, dtype=np.int32) % 10
    images = rng.integers(0, 2, (100, 3, 3, 1)).astype(np.uint8) * 20 + labels[:, None, None, None]
    found = private.generate("SMOTE", private.Real(images, labels), seed=0)
    assert len(found.images) == private.SAMPLES
    np.testing.assert_array_equal(np.bincount(found.labels), 10 * [private.SAMPLES // 10])
    # Each is between images of its class, which are 20 levels apart.
    inside = found.images.astype(int) - found.labels[:, None, None, None]
    assert inside.min() >= 0
    assert inside.max() <= 20


def test_too_few_runs_are_refused(audit, run):
    """They could not catch anything."""
    with pytest.raises(JaxganError, match="take more --runs"):
        run(audit, "--runs", "100")
