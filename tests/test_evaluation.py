"""Scores of whole sets of images, and `scripts/evaluate.py`."""

import json

import jax
import numpy as np
import pytest
from test_scripts import here, picture

from jaxgan import JaxganError, data, evaluation
from jaxgan.metrics.classifier import Judge, JudgeCNN, judge_bytes
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.neighbours import prdc


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxgan" / "features"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train"), data.load("digits", "test")


def make_judge(path, seed=0, shape=(8, 8, 1), name="untrained"):
    """A file of one; it sees something, whatever that is."""
    params = JudgeCNN(10).init(jax.random.key(seed), np.zeros((1, *shape), np.float32))["params"]
    path.write_bytes(judge_bytes(Judge(name, shape, 10, params)))
    return str(path)


def test_scores_bear_the_names_of_what_they_depend_on(digits, tmp_path):
    extractor = evaluation.make_extractor(digits[0], make_judge(tmp_path / "j.safetensors"))
    reference = evaluation.make_reference(extractor, *digits)
    n = 200
    seen = evaluation.first(reference.unseen, n)
    scores = evaluation.evaluate(reference, seen)
    train = reference.train.features
    assert scores["fd(untrained, train, n=200)"] == frechet_distance(train[:n], seen.features)
    assert scores["coverage(untrained, train, n=200)"] == prdc(train[:n], seen.features).coverage
    # Of the unseen ones themselves.
    assert scores["memorisation(untrained, train, n=200)"] == 0.5
    assert len(scores) == 12
    json.dumps(scores)
    # The training images, in any order, have been memorised.
    copies = evaluation.evaluate(reference, evaluation.first(reference.train, n))
    assert copies["memorisation(untrained, train, n=200)"] > 0.99
    assert copies["fd(untrained, train, n=200)"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(extractor.see(reference.images[:9]).features, train[:9])


def test_what_was_seen_of_real_images_is_kept(digits, cache, tmp_path):
    def reference(seed, train=digits[0]):
        made = evaluation.make_extractor(train, make_judge(tmp_path / "j.safetensors", seed))
        calls = []
        counted = made._replace(see=lambda images: calls.append(1) or made.see(images))
        return evaluation.make_reference(counted, train, digits[1]), len(calls)

    first, calls = reference(0)
    again, later = reference(0)
    assert (calls, later) == (2, 0)
    for one, other in ((first.train, again.train), (first.unseen, again.unseen)):
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    # A judge of the same name with other weights, and other images.
    other, calls = reference(1)
    assert calls == 2
    assert (other.train.features != first.train.features).any()
    assert reference(0, digits[0]._replace(images=digits[0].images[:500]))[1] == 1
    # What is damaged is seen anew.
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:99])
    assert reference(0)[1] == 2
    assert reference(0)[1] == 0


def test_without_a_judge_principal_components_stand_in(digits):
    extractor = evaluation.make_extractor(digits[0])
    assert extractor.name == "pca64"
    seen = extractor.see(digits[1].images)
    assert (seen.features.shape, seen.probabilities) == ((297, 64), None)
    # All 64 of them: a rotation, which leaves distances as they are.
    pixels = digits[1].images.reshape(297, 64) / 127.5
    np.testing.assert_allclose(
        np.linalg.norm(seen.features[1:] - seen.features[:-1], axis=1),
        np.linalg.norm(pixels[1:] - pixels[:-1], axis=1),
        rtol=1e-4,
    )
    reference = evaluation.make_reference(extractor, digits[0], None)
    scores = evaluation.evaluate(reference, seen)
    assert [name.split("(")[0] for name in scores] == [
        *("fd", "kid", "precision", "recall", "density", "coverage")
    ]


def test_scores_that_say_nothing_are_refused(digits, tmp_path):
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), *digits)
    with pytest.raises(JaxganError, match=r"from 50 samples to .* 1500, got 49"):
        evaluation.evaluate(reference, evaluation.first(reference.unseen, 49))
    wrong = make_judge(tmp_path / "j.safetensors", shape=(9, 9, 1))
    with pytest.raises(JaxganError, match=r"untrained judges images of \(9, 9, 1\).*train_judge"):
        evaluation.make_extractor(digits[0], wrong)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on digits."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in (("plain", ()), ("averaged", ("--ema-decay", 0.9))):
        workdir = folder / name
        here("train.py", "--dataset", "digits", "--epochs", 1, *options, "--workdir", workdir)
    return folder


def test_runs_stand_side_by_side_beside_real_images(runs, tmp_path):
    options = ("--json", tmp_path / "scores.json", "--plot", tmp_path / "scores.png")
    judge = make_judge(tmp_path / "j.safetensors")
    folders = (runs / "plain", runs / "averaged")
    out, _ = here("evaluate.py", *folders, "--judge", judge, *options)
    scores = json.loads((tmp_path / "scores.json").read_text())
    columns = ["real images", str(folders[0]), str(folders[1]), f"{folders[1]} (not averaged)"]
    assert list(scores) == columns
    fd = [column["fd(untrained, train, n=297)"] for column in scores.values()]
    # After an epoch of twelve steps a generator makes noise.
    assert max(fd[0] * 5, 1e-3) < min(fd[1:])
    assert fd[2] != fd[3]
    line = next(line for line in out.splitlines() if line.startswith("fd(untrained, train, n=297)"))
    assert line.split()[-4:] == [f"{value:.4g}" for value in fd]
    assert picture(tmp_path / "scores.png").shape[1] > 800
    # The same numbers from a file of the same samples.
    here("sample.py", "--workdir", folders[0], "--num", 60, "--out", tmp_path / "samples.npz")
    options = ("--dataset", "digits", "--num", 60, "--json", tmp_path / "own.json")
    here("evaluate.py", "--samples", tmp_path / "samples.npz", *options)
    own = json.loads((tmp_path / "own.json").read_text())
    assert list(own) == ["real images", str(tmp_path / "samples.npz")]
    assert all(name.endswith("(pca64, train, n=60)") for column in own.values() for name in column)


def test_what_cannot_be_evaluated_is_said_in_one_line(runs, tmp_path):
    def error(*arguments):
        err = here("evaluate.py", *arguments, status=2)[1]
        (line,) = [line for line in err.splitlines() if "error" in line]
        return line

    assert "nothing to evaluate" in error()
    assert "is not a run folder" in error(tmp_path)
    for dataset in ("ring", "digits"):
        here("train.py", "--dataset", dataset, "--epochs", 0, "--workdir", tmp_path / dataset)
    assert "its points have no features" in error(tmp_path / "ring")
    assert "different data cannot stand side by side: digits, ring" in error(
        runs / "plain", tmp_path / "ring"
    )
    assert "has no checkpoint yet" in error(tmp_path / "digits")
    assert "from 50 samples" in error(runs / "plain", "--num", 20)
    np.save(tmp_path / "small.npy", np.zeros((60, 5, 5), np.uint8))
    assert "samples are (5, 5, 1)" in error(
        "--samples", tmp_path / "small.npy", "--dataset", "digits"
    )
