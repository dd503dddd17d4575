"""Scores of whole sets of images, and `scripts/evaluate.py`."""

import json

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA
from test_data import write_set
from test_scripts import here, picture

from jaxgan import (
    GANConfig,
    JaxganError,
    checkpoint,
    create_state,
    data,
    evaluation,
    loop,
    population,
    training,
)
from jaxgan.errors import NonFiniteError
from jaxgan.journal import read_history
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
    path.write_bytes(judge_bytes(Judge(name, shape, JudgeCNN(10), params)))
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
    for length in (99, 0):
        for file in cache.iterdir():
            file.write_bytes(file.read_bytes()[:length])
        assert reference(0)[1] == 2
        assert reference(0)[1] == 0


def test_features_by_other_components_are_not_taken_for_these(digits, monkeypatch):
    own = evaluation.make_extractor(digits[0])
    assert own.digest == evaluation.make_extractor(digits[0]).digest
    fit = PCA.fit

    def turned(self, *args):
        fit(self, *args).components_[3] *= -1
        return self

    monkeypatch.setattr(PCA, "fit", turned)
    assert own.digest != evaluation.make_extractor(digits[0]).digest


def test_the_bundled_judge_knows_its_own_data(digits):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), np.uint8)
    clothes = digits[0]._replace(images=images, name="fashion_mnist")
    assert evaluation.make_extractor(clothes).name == "fashion-cnn-v1"
    assert evaluation.make_extractor(clothes._replace(name="own")).name.startswith("pca")
    resized = clothes._replace(images=images[:, ::2, ::2])
    assert evaluation.make_extractor(resized).name.startswith("pca")


def test_the_floor_is_of_other_images_than_samples_are_compared_with(digits):
    train, test = digits
    extractor = evaluation.make_extractor(train)
    reference = evaluation.make_reference(extractor, train, test)
    assert (evaluation.floor(reference, 90).features == reference.unseen.features[:90]).all()
    with pytest.raises(JaxganError, match="score 298 samples takes 298 test images"):
        evaluation.floor(reference, 298)
    reference = evaluation.make_reference(extractor, train, None)
    assert (evaluation.floor(reference, 90).features == reference.train.features[90:180]).all()
    assert len(evaluation.floor(reference, 750).features) == 750
    with pytest.raises(JaxganError, match="score 751 samples takes 1502 training images"):
        evaluation.floor(reference, 751)


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


def test_files_of_samples_are_scored(runs, digits, tmp_path):
    def scores(samples, *options):
        file = tmp_path / "scores.json"
        here("evaluate.py", *options, "--samples", samples, "--json", file)
        return json.loads(file.read_text())

    # The smallest set sets the number for all, the floor among them.
    here("sample.py", "--workdir", runs / "plain", "--num", 60, "--out", tmp_path / "few.npz")
    found = scores(tmp_path / "few.npz", runs / "plain")
    assert list(found) == ["real images", str(runs / "plain"), str(tmp_path / "few.npz")]
    names = {name.split("(")[1] for column in found.values() for name in column}
    assert names == {"pca64, train, n=60)"}
    # Sorted by class, and more than are scored: a fair draw is taken all the same.
    images, labels = digits[0].images, digits[0].labels
    np.save(tmp_path / "sorted.npy", images[labels.argsort(kind="stable"), ..., 0])
    fd = "fd(pca64, train, n=297)"
    real, of_samples = scores(tmp_path / "sorted.npy", "--dataset", "digits").values()
    assert of_samples[fd] < 1.5 * real[fd]
    # Data without a test split: other training images are the floor.
    real, of_samples = scores(
        tmp_path / "sorted.npy", "--dataset", tmp_path / "sorted.npy"
    ).values()
    assert real.keys() == of_samples.keys()
    assert 0 < real["fd(pca64, train, n=750)"] < 1


def test_a_damaged_test_split_is_not_taken_for_none(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)
    write_set(tmp_path, images, np.arange(200, dtype=np.uint8) % 10)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"")
    np.save(tmp_path / "samples.npy", images)
    options = ("--dataset", "mnist", "--data-dir", tmp_path)
    for script in (
        ("evaluate.py", "--samples", tmp_path / "samples.npy"),
        ("train_judge.py", "--out", tmp_path / "judge.safetensors"),
    ):
        assert "t10k-images-idx3-ubyte.gz" in here(*script, *options, status=2)[1]


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
    assert "--num must be 1 or more, got 0" in error(runs / "plain", "--num", 0)
    assert "--seed must be from 0" in error(runs / "plain", "--seed", -1)
    (tmp_path / "config.json").write_text("{}")
    assert "is of another version of jaxgan" in error(tmp_path)
    assert "--plot must be NAME.png" in error(runs / "plain", "--plot", "scores.jpg")
    assert "cannot write to" in error(
        runs / "plain", "--json", tmp_path / "ring" / "config.json" / "a"
    )
    np.save(tmp_path / "small.npy", np.zeros((60, 5, 5), np.uint8))
    assert "small.npy are (5, 5, 1), and the real ones (8, 8, 1)" in error(
        "--samples", tmp_path / "small.npy", "--dataset", "digits"
    )


FD = "fd(pca64, train, n=750)"


def evaluated(workdir, *options, epochs=5) -> list[dict]:
    """The history of a run on digits that is evaluated every other epoch."""
    options = (*options, "--evaluate-every", 2, "--checkpoint-every", 100, "--epochs", epochs)
    here("train.py", "--dataset", "digits", *options, "--workdir", workdir)
    return read_history(workdir)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    return folder, evaluated(folder, "--ema-decay", 0.9)


def test_a_run_is_evaluated_while_it_trains(watched, digits):
    folder, history = watched
    assert [FD in row for row in history] == [False, True, False, True, True]
    # The same of the newest checkpoint, from the samples of its generator with and without EMA.
    state, _ = training.load_state(folder)
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), digits[0], None)
    rng = loop.make_rngs(0).pictures
    for prefix, drawn in (("", state), ("raw_", state.replace(ema=None))):
        images = evaluation.draw(drawn, rng, 750)
        scores = evaluation.evaluate(reference, reference.extractor.see(images))
        for name in ("fd", "precision", "recall", "density", "coverage"):
            name = f"{name}(pca64, train, n=750)"
            assert history[-1][prefix + name] == pytest.approx(scores[name], rel=1e-9)
    floor = evaluation.evaluate(reference, evaluation.floor(reference, 750))
    assert {f"real_{name}" for name in floor if not name.startswith("kid")} <= set(history[-1])
    assert history[-1][f"real_{FD}"] == history[1][f"real_{FD}"] == pytest.approx(floor[FD])
    assert history[-1][FD] != history[-1][f"raw_{FD}"]
    assert picture(folder / "curves.png").shape[1] == 1500


def test_the_best_checkpoint_is_kept_and_sampled(watched, tmp_path):
    folder, history = watched
    rows = [row for row in history if FD in row]
    best = min(rows, key=lambda row: row[FD])
    state, epochs = training.load_state(folder, best=True)
    assert (epochs, int(state.step)) == (best["epoch"], best["step"])
    out, _ = here("sample.py", "--workdir", folder, "--best", "--out", tmp_path / "best.png")
    assert f"after {best['epoch']} epochs" in out
    assert "--best chooses from the checkpoints" in here("sample.py", "--best", status=2)[1]


def test_a_run_that_goes_on_is_evaluated_as_one_that_was_not_stopped(watched, tmp_path):
    expected = watched[1]
    evaluated(tmp_path, "--ema-decay", 0.9, epochs=4)
    found = evaluated(tmp_path, "--ema-decay", 0.9)
    timed = ("seconds", "steps_per_second")
    for row, other in zip(found, expected, strict=True):
        assert {k: v for k, v in row.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }


def test_evaluating_does_not_change_what_is_trained(watched, tmp_path):
    here(
        "train.py", "--dataset", "digits", "--epochs", 5, "--ema-decay", 0.9, "--workdir", tmp_path
    )
    for one, other in zip(
        jax.tree.leaves(training.load_state(tmp_path)[0]),
        jax.tree.leaves(training.load_state(watched[0])[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    error = here("sample.py", "--workdir", tmp_path, "--best", status=2)[1]
    assert "no finite score in its newest checkpoint" in error


@pytest.mark.parametrize("at_once", [2, 1])
def test_each_member_of_a_population_is_evaluated(at_once, tmp_path, monkeypatch):
    # In parts too, as of more members than the memory holds.
    monkeypatch.setattr(population, "members_at_once", lambda *_: at_once)
    history = evaluated(tmp_path, "--population", 2, epochs=2)
    assert FD not in history[0]
    assert len(set(history[1][FD])) == 2


@pytest.mark.parametrize(("best", "member"), [(1, 1), (2, 0)])
def test_the_best_member_of_the_best_checkpoint_is_sampled(best, member, tmp_path, monkeypatch):
    distances = np.full((5, 2), 9.0)
    distances[best - 1, member] = 1
    scripted = iter(distances.ravel().tolist())
    monkeypatch.setattr(evaluation, "evaluate_in_training", lambda *_: {FD: next(scripted)})
    options = ("--dataset", "digits", "--population", 2, "--evaluate-every", 1, "--epochs", 5)
    here("train.py", *options, "--workdir", tmp_path)
    kept = {int(path.name) // 12 for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {best, 3, 4, 5}
    state, epochs = training.load_state(tmp_path, best=True)
    assert epochs == best
    like = training.checkpoint_like(tmp_path)
    members = checkpoint.restore_step(tmp_path, 12 * best, like).arrays["state"]
    expected = population.member(members, member)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_best_row_is_found_among_those_that_were_evaluated():
    nan, inf = float("nan"), float("inf")
    history = [{"epoch": i} for i in range(1, 6)]
    assert evaluation.best_row([]) is None
    assert evaluation.best_row(history) is None
    for row, value in zip(history, (None, 3.0, nan, 2.0, inf), strict=True):
        row |= {} if value is None else {FD: value, f"raw_{FD}": 1.0}
    assert evaluation.best_row(history)["epoch"] == 4
    members = [
        {"epoch": 1, FD: [nan, 5.0]},
        {"epoch": 2, FD: [nan, nan]},
        {"epoch": 3, FD: [4.0, 6]},
    ]
    assert evaluation.best_row(members)["epoch"] == 3
    assert evaluation.best_member(members[0]) == 1
    assert evaluation.best_row([{FD: nan}]) is None


def test_a_generator_that_has_diverged_has_no_scores(digits):
    state = create_state(jax.random.key(0), GANConfig(image_shape=(8, 8, 1)))
    state = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, state)
    with pytest.raises(NonFiniteError, match="the generator has diverged"):
        evaluation.draw(state, jax.random.key(0), 3)
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), digits[0], None)
    scores = evaluation.evaluate_in_training(reference, state, jax.random.key(0))
    assert len(scores) == 5
    assert np.isnan(list(scores.values())).all()


def test_what_cannot_be_evaluated_in_training_leaves_no_folder(tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((99, 5, 5), np.uint8))
    for dataset, reason in (
        ("ring", "is for images"),
        (tmp_path / "few.npy", "at least 100 images"),
    ):
        options = ("--evaluate-every", 1, "--workdir", tmp_path / "run")
        assert reason in here("train.py", "--dataset", dataset, *options, status=2)[1]
        assert not (tmp_path / "run").exists()
