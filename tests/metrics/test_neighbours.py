"""Precision, recall, density, coverage and memorisation, against other implementations."""

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.spatial.distance import cdist

from jaxgan import JaxganError
from jaxgan.metrics import neighbours
from jaxgan.metrics.neighbours import memorisation, prdc


def two_sets(n, m, dimensions, shift, scale, seed=0):
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(n, dimensions)).astype(np.float32)
    fake = (shift + scale * rng.normal(size=(m, dimensions))).astype(np.float32)
    return real, fake


@pytest.mark.parametrize(
    ("sizes", "k", "k_coverage"),
    [
        ((300, 300, 5, 0.0, 1.0), 3, 5),
        ((500, 271, 3, 0.3, 0.6), 4, 1),
        ((64, 600, 20, 5.0, 1.1), 3, 5),
    ],
)
def test_prdc_is_that_of_its_authors(sizes, k, k_coverage):
    real, fake = two_sets(*sizes)
    # Far from the origin, where a difference of squares would lose its digits.
    real, fake = real + 1000, fake + 1000
    found = prdc(real, fake, k, k_coverage)
    first = compute_prdc(real.astype(np.float64), fake.astype(np.float64), k)
    second = compute_prdc(real.astype(np.float64), fake.astype(np.float64), k_coverage)
    for name in ("precision", "recall"):
        assert getattr(found, name) == pytest.approx(first[name], abs=1e-9)
    for name in ("density", "coverage"):
        assert getattr(found, name) == pytest.approx(second[name], abs=1e-9)


@pytest.mark.parametrize("repeats", [1, 2, 6, 50])
def test_equal_sets_have_precision_recall_and_coverage_of_1_also_if_samples_repeat(repeats):
    real, _ = two_sets(30, 1, 16, 5.0, 1.0)
    real = np.repeat(real, repeats, axis=0)
    found = prdc(real, real)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # In the ball of each sample are its copies, or its five nearest and the sample itself.
    expected = repeats if repeats > 5 else None
    assert expected is None or found.density == pytest.approx(expected / 5)


def test_of_equal_distributions_density_and_coverage_are_what_theory_says():
    n, m, k, runs = 200, 300, 5, 40
    found = np.array([prdc(*two_sets(n, m, 2, 0.0, 1.0, seed), k, k)[2:] for seed in range(runs)])
    i = np.arange(1, k + 1)
    expected = 1, 1 - np.prod((n - i) / (m + n - i))
    errors = found.std(axis=0, ddof=1) / np.sqrt(runs)
    assert (np.abs(found.mean(axis=0) - expected) < 4 * errors).all()
    assert (errors < 0.01).all()


def test_a_generator_of_one_sample_has_precision_and_no_recall():
    real, _ = two_sets(200, 1, 3, 0, 1)
    fake = np.repeat(real[:1], 50, axis=0)
    found = prdc(real, fake)
    # In the ball of its own sample and in those of its neighbours. Its own ball is a point.
    assert (found.precision, found.recall) == (1, 1 / 200)
    assert found.coverage < 0.1


def test_memorisation_is_the_share_of_pairs_in_which_the_sample_is_nearer():
    train, test = two_sets(90, 40, 3, 0, 1)
    samples = np.concatenate([train[:20], train[20:50] + 0.3])
    own, others = (cdist(x, train).min(axis=1) for x in (samples, test))
    expected = np.sign(others[:, None] - own) / 2 + 0.5
    assert memorisation(train, test, samples) == pytest.approx(expected.mean(), abs=1e-9)
    assert memorisation(train, test, train[:10]) == 1
    assert memorisation(train, test, test) == 0.5
    assert memorisation(train, test, test + 100) == 0


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((5, 3)), np.zeros((9, 3)), "at least 6 samples are needed, got 5"),
        (np.zeros((9, 3)), np.zeros((0, 3)), "at least 6 samples are needed, got 0"),
        (np.zeros((9, 3)), np.zeros((9, 2)), r"got \[9, 3\] and \[9, 2\]"),
        (np.zeros((9, 3, 1)), np.zeros((9, 3, 1)), r"must be \[N, D\]"),
        (np.zeros((9, 3)), np.full((9, 3), np.nan), "finite"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(real, fake, message):
    with pytest.raises(JaxganError, match=message):
        prdc(real, fake)


def test_scores_do_not_depend_on_the_number_of_parts(monkeypatch):
    real, fake = two_sets(100, 70, 3, 0.2, 0.8)
    expected = prdc(real, fake), memorisation(real, fake[:30], fake)
    for part in (7, 33, 99):
        monkeypatch.setattr(neighbours, "PART", part)
        assert (prdc(real, fake), memorisation(real, fake[:30], fake)) == expected
