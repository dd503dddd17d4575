"""Scores of whole sets of images, and `scripts/evaluate.py`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from helpers import assert_trees_equal, here, undescribed
from idx_files import write_set
from judges import make_judge
from sklearn.decomposition import PCA

from jaxgan import MODELS, JaxganError, TrainConfig, data, loop
from jaxgan.data import idx
from jaxgan.data.pixels import to_uint8
from jaxgan.errors import NonFiniteError
from jaxgan.metrics import evaluation
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.neighbours import nearest, prdc
from jaxgan.report import plots
from jaxgan.run import population, saved, training

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

GAN = MODELS["gan"]
SMALL = (
    *("--generator-widths", 16, "--latent-dim", 8),
    *("--discriminator-widths", 16, "--discriminator-dropout", 0.3),
    *("--batch-size", 125),  # a divisor: a smaller last batch would need a program of its own
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxgan" / "features"


@pytest.fixture(scope="module")
def digits() -> tuple[data.Dataset, data.Dataset]:
    return data.load("digits", "train"), data.load("digits", "test")


def test_scores_have_the_names_of_what_they_depend_on(digits, tmp_path):
    extractor = evaluation.make_extractor(digits[0], make_judge(tmp_path / "j.safetensors"))
    reference = evaluation.make_reference(extractor, *digits)
    n = 297
    test = evaluation.first(reference.test, n)
    scores = evaluation.evaluate(reference, test)
    train = reference.train.features
    assert scores["fd(untrained, train, n=297)"] == frechet_distance(train[:n], test.features)
    assert scores["coverage(untrained, train, n=297)"] == prdc(train[:n], test.features).coverage
    # The test images are new themselves.
    assert scores["memorisation(untrained, train, n=297)"] == 0.5
    assert len(scores) == 12
    json.dumps(scores)
    # The training images, in any order, are copies.
    copies = evaluation.evaluate(reference, evaluation.first(reference.train, n))
    assert copies["memorisation(untrained, train, n=297)"] > 0.99
    assert copies["fd(untrained, train, n=297)"] == pytest.approx(0, abs=1e-6)
    # Rounding may depend on the size of the batch.
    few = extractor.extract(reference.images[:9]).features
    np.testing.assert_allclose(few, train[:9], rtol=1e-4, atol=1e-6)


def test_features_of_real_images_are_kept(digits, cache, tmp_path):
    def reference(seed, train=digits[0]):
        made = evaluation.make_extractor(train, make_judge(tmp_path / "j.safetensors", seed))
        calls = []
        counted = made._replace(extract=lambda images: calls.append(1) or made.extract(images))
        return evaluation.make_reference(counted, train, digits[1]), len(calls)

    first, calls = reference(0)
    again, later = reference(0)
    assert (calls, later) == (2, 0)
    for one, other in ((first.train, again.train), (first.test, again.test)):
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    # A judge of the same name with other weights, and other images.
    other, calls = reference(1)
    assert calls == 2
    assert (other.train.features != first.train.features).any()
    assert reference(0, digits[0]._replace(images=digits[0].images[:500]))[1] == 1
    # Damaged files are made again.
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


def test_the_bundled_judge_is_for_its_own_data(digits):
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), np.uint8)
    clothes = digits[0]._replace(images=images, name="fashion_mnist", classes=())
    assert evaluation.make_extractor(clothes).name == "fashion-cnn-v1"
    assert evaluation.make_extractor(clothes._replace(name="own")).name.startswith("pca")
    names = idx.CLASSES["fashion_mnist"]
    own = evaluation.make_extractor(clothes._replace(classes=names))
    assert own.name == "fashion-cnn-v1"
    # The subfolders of a folder of this name are in alphabetical order.
    turned = evaluation.make_extractor(clothes._replace(classes=tuple(sorted(names))))
    assert turned.name.startswith("pca")
    resized = clothes._replace(images=images[:, ::2, ::2])
    assert evaluation.make_extractor(resized).name.startswith("pca")


def test_the_floor_is_of_other_images_than_samples_are_compared_with(digits):
    train, test = digits
    extractor = evaluation.make_extractor(train)
    reference = evaluation.make_reference(extractor, train, test)
    assert (evaluation.floor(reference, 90).features == reference.test.features[:90]).all()
    with pytest.raises(JaxganError, match=r"scores of 298 samples .* need 298 test images"):
        evaluation.floor(reference, 298)
    reference = evaluation.make_reference(extractor, train, None)
    assert (evaluation.floor(reference, 90).features == reference.train.features[90:180]).all()
    assert len(evaluation.floor(reference, 750).features) == 750
    with pytest.raises(JaxganError, match=r"scores of 751 samples .* need 1502 training images"):
        evaluation.floor(reference, 751)


def test_without_a_judge_the_features_are_principal_components(digits):
    extractor = evaluation.make_extractor(digits[0])
    assert extractor.name == "pca64"
    test = extractor.extract(digits[1].images)
    assert (test.features.shape, test.probabilities) == ((297, 64), None)
    # All 64 of them are a rotation, which does not change distances.
    pixels = digits[1].images.reshape(297, 64) / 127.5
    np.testing.assert_allclose(
        np.linalg.norm(test.features[1:] - test.features[:-1], axis=1),
        np.linalg.norm(pixels[1:] - pixels[:-1], axis=1),
        rtol=1e-4,
    )
    reference = evaluation.make_reference(extractor, digits[0], None)
    scores = evaluation.evaluate(reference, test)
    assert [name.split("(")[0] for name in scores] == [
        *("fd", "kid", "precision", "recall", "density", "coverage")
    ]
    assert evaluation.class_shares(test) is None
    with pytest.raises(JaxganError, match=r"the shape \(4, 4, 1\), the real images \(8, 8, 1\)"):
        extractor.extract(np.zeros((3, 4, 4, 1), np.uint8))


def test_class_shares_are_of_the_likeliest_classes():
    features = evaluation.Features(np.zeros((4, 2)), np.eye(3)[[0, 0, 2, 0]])
    assert evaluation.class_shares(features) == [0.75, 0, 0.25]


def test_scores_that_say_nothing_are_refused(digits, tmp_path):
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), *digits)
    with pytest.raises(JaxganError, match=r"from 50 samples to .* 1500, got 49"):
        evaluation.evaluate(reference, evaluation.first(reference.test, 49))
    wrong = make_judge(tmp_path / "j.safetensors", shape=(9, 9, 1))
    with pytest.raises(JaxganError, match=r"untrained takes images of \(9, 9, 1\).*train_judge"):
        evaluation.make_extractor(digits[0], wrong)


def test_no_samples_are_refused():
    with pytest.raises(JaxganError, match="must be a whole number above 0, got 0"):
        evaluation.draw(lambda rng, n: jnp.zeros((n, 4, 4, 1)), jax.random.key(0), 0)


def test_samples_are_drawn_in_parts_of_a_key_each(monkeypatch):
    monkeypatch.setattr(evaluation, "_CHUNK", 4)
    rng = jax.random.key(0)

    def sample(rng, n):
        return jax.random.uniform(rng, (n, 2, 2, 1), minval=-1.0)

    found = evaluation.draw(sample, rng, 6)
    expected = np.concatenate([to_uint8(sample(part, 4)) for part in jax.random.split(rng, 2)])
    np.testing.assert_array_equal(found, expected[:6])
    assert found.dtype == np.uint8


FD = "fd(pca64, train, n=750)"


def evaluated(workdir, *options, epochs=3) -> list[dict]:
    """The history of a run on digits that is evaluated every other epoch alone."""
    options = (*options, "--evaluate-every", 2, "--no-evaluate")
    options = (*options, "--checkpoint-every", 100, "--epochs", epochs)
    here("train.py", "--dataset", "digits", *SMALL, *options, "--workdir", workdir)
    return saved.read_history(GAN, workdir)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run on digits with an average, and its history."""
    folder = tmp_path_factory.mktemp("watched")
    return folder, evaluated(folder, "--ema-decay", 0.9)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run on digits without an average."""
    folder = tmp_path_factory.mktemp("plain")
    here("train.py", "--dataset", "digits", *SMALL, "--epochs", 1, "--workdir", folder)
    return folder


def test_runs_stand_side_by_side_beside_real_images(plain, watched, digits, tmp_path, monkeypatch):
    drawn = []
    draw = plots.evaluation_png

    def remember(*args):
        drawn.append((*args, draw(*args)))
        return drawn[-1][-1]

    monkeypatch.setattr(plots, "evaluation_png", remember)
    options = ("--json", tmp_path / "scores.json", "--plot", tmp_path / "scores.png")
    judge = make_judge(tmp_path / "j.safetensors")
    folders = (plain, watched[0])
    out, _ = here("evaluate.py", *folders, "--judge", judge, *options)
    scores = json.loads((tmp_path / "scores.json").read_text())
    columns = ["real images", str(folders[0]), str(folders[1]), f"{folders[1]} (not averaged)"]
    assert list(scores) == columns
    fd = [column["fd(untrained, train, n=297)"] for column in scores.values()]
    # After a few epochs of twelve steps a generator makes noise.
    assert max(fd[0] * 5, 1e-3) < min(fd[1:])
    assert fd[2] != fd[3]
    lines = out.splitlines()
    line = next(line for line in lines if line.startswith("fd "))
    assert line.split() == ["fd", "less", *(f"{value:.3g}" for value in fd)]
    # Long names get letters, so that no line of the table is long.
    for letter, name in zip("abc", columns[1:], strict=True):
        assert f"  ({letter}) {name}" in lines
    at = lines.index(next(line for line in lines if line.split()[-3:] == ["(a)", "(b)", "(c)"]))
    assert [line for line in lines[at:] if len(line) > 80 and str(tmp_path) not in line] == []
    # It ends with the best of them.
    best = columns[1 + int(np.argmin(fd[1:]))]
    sentence = f"{best} has the smallest Fréchet distance: The samples cover"
    assert "".join(sentence.split()) in "".join(out.split())

    # The figure: ten real images; ten samples of each and the training images nearest to them.
    ((strips, shares, png),) = drawn
    assert (tmp_path / "scores.png").read_bytes() == png
    samples = columns[1:]
    assert set(strips) == {"real images", *samples, *(f"nearest to {name}" for name in samples)}
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0], judge), *digits)
    np.testing.assert_array_equal(strips["real images"], reference.images[:10])
    for name in samples:
        features = reference.extractor.extract(strips[name]).features
        at = nearest(features, reference.train.features)
        np.testing.assert_array_equal(strips[f"nearest to {name}"], reference.images[at])
    state, _ = saved.load_state(GAN, folders[0])
    own = evaluation.draw(lambda rng, n: GAN.sample(state, rng, n), jax.random.key(0), 10)
    np.testing.assert_array_equal(strips[columns[1]], own)
    assert list(shares) == columns
    assert all(sum(share) == pytest.approx(1) for share in shares.values())


def test_files_of_samples_are_scored(plain, digits, tmp_path):
    def scores(samples, *options):
        file = tmp_path / "scores.json"
        here("evaluate.py", *options, "--samples", samples, "--json", file)
        return json.loads(file.read_text())

    # The smallest set determines the number of samples for all, also for the floor.
    here("sample.py", "--workdir", plain, "--num", 60, "--out", tmp_path / "few.npz")
    found = scores(tmp_path / "few.npz", plain)
    assert list(found) == ["real images", str(plain), str(tmp_path / "few.npz")]
    names = {name.split("(")[1] for column in found.values() for name in column}
    assert names == {"pca64, train, n=60)", "pixels, train, n=60)"}
    # A file sorted by class, with more images than are scored: they are drawn from all of it.
    images, labels = digits[0].images, digits[0].labels
    np.save(tmp_path / "sorted.npy", images[labels.argsort(kind="stable"), ..., 0])
    fd = "fd(pca64, train, n=297)"
    real, of_samples = scores(tmp_path / "sorted.npy", "--dataset", "digits").values()
    assert of_samples[fd] < 1.5 * real[fd]
    # They are the training images themselves; of unseen images about 1% count as copies.
    copies = "copies(pixels, train, n=297)"
    assert of_samples[copies] == 1
    assert 0 < real[copies] < 0.03
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


@pytest.fixture
def error():
    """Runs evaluate.py, which has to refuse its arguments: the line of the error."""

    def run(*arguments) -> str:
        err = here("evaluate.py", *arguments, status=2)[1]
        (line,) = [line for line in err.splitlines() if "error" in line]
        return line

    return run


def test_runs_that_cannot_be_evaluated_are_refused_in_one_line(plain, error, tmp_path):
    assert "nothing to evaluate" in error()
    assert "is not a run folder" in error(tmp_path)
    for dataset in ("ring", "digits"):
        options = ("--dataset", dataset, *SMALL, "--epochs", 0)
        here("train.py", *options, "--workdir", tmp_path / dataset)
    assert "ring contains vectors; evaluate.py scores images only" in error(tmp_path / "ring")
    assert "different data cannot be compared: digits, ring" in error(plain, tmp_path / "ring")
    assert "has no checkpoint yet" in error(tmp_path / "digits")


def test_a_config_without_the_settings_of_the_run_is_refused_in_one_line(error, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert str(tmp_path) in error(tmp_path)


def test_options_of_evaluate_are_checked(plain, error, tmp_path):
    assert "from 50 samples" in error(plain, "--num", 20)
    assert "--num must be 1 or more, got 0" in error(plain, "--num", 0)
    assert "--seed must be from 0" in error(plain, "--seed", -1)
    assert "--plot must be NAME.png" in error(plain, "--plot", "scores.jpg")
    (tmp_path / "file").write_text("")
    assert "cannot write to" in error(plain, "--json", tmp_path / "file" / "a")
    np.save(tmp_path / "small.npy", np.zeros((60, 5, 5), np.uint8))
    assert "small.npy are (5, 5, 1), and the real ones (8, 8, 1)" in error(
        "--samples", tmp_path / "small.npy", "--dataset", "digits"
    )


def test_a_run_is_evaluated_while_it_trains(watched, digits):
    folder, history = watched
    assert [FD in row for row in history] == [False, True, True]
    # The same scores come from the newest checkpoint, with its average and without.
    state, _ = saved.load_state(GAN, folder)
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), digits[0], None)
    rng = loop.make_rngs(0).pictures
    for prefix, drawn in (("", state), ("raw_", state.replace(ema=None))):
        images = evaluation.draw(lambda rng, n, drawn=drawn: GAN.sample(drawn, rng, n), rng, 750)
        scores = evaluation.evaluate(reference, reference.extractor.extract(images))
        for name in ("fd", "precision", "recall", "density", "coverage"):
            name = f"{name}(pca64, train, n=750)"
            assert history[-1][prefix + name] == pytest.approx(scores[name], rel=1e-9)
    floor = evaluation.evaluate(reference, evaluation.floor(reference, 750))
    assert {f"real_{name}" for name in floor if not name.startswith("kid")} <= set(history[-1])
    assert history[-1][f"real_{FD}"] == history[1][f"real_{FD}"] == pytest.approx(floor[FD])
    assert history[-1][FD] != history[-1][f"raw_{FD}"]
    assert "raw_fd" in (folder / "metrics.csv").read_text()
    assert undescribed(folder) == set()


def test_the_best_checkpoint_is_kept_and_sampled(watched, tmp_path):
    folder, history = watched
    rows = [row for row in history if FD in row]
    best = min(rows, key=lambda row: row[FD])
    state, epochs = saved.load_state(GAN, folder, best=True)
    assert (epochs, int(state.step)) == (best["epoch"], best["step"])
    out, _ = here("sample.py", "--workdir", folder, "--best", "--out", tmp_path / "best.png")
    assert f"after {best['epoch']} epochs" in out


def test_a_resumed_run_is_evaluated_as_one_that_was_not_stopped(watched, tmp_path):
    expected = watched[1]
    evaluated(tmp_path, "--ema-decay", 0.9, epochs=2)
    found = evaluated(tmp_path, "--ema-decay", 0.9)
    timed = ("seconds", "steps_per_second")
    for row, other in zip(found, expected, strict=True):
        assert {k: v for k, v in row.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }


def test_evaluating_does_not_change_what_is_trained(watched, tmp_path):
    options = ("--epochs", 3, "--ema-decay", 0.9, "--no-evaluate", "--workdir", tmp_path)
    here("train.py", "--dataset", "digits", *SMALL, *options)
    assert_trees_equal(saved.load_state(GAN, tmp_path)[0], saved.load_state(GAN, watched[0])[0])
    error = here("sample.py", "--workdir", tmp_path, "--best", status=2)[1]
    assert "no finite score in its newest checkpoint" in error


@pytest.mark.parametrize("at_once", [2, 1])
def test_each_member_of_a_population_is_evaluated(at_once, digits, tmp_path, monkeypatch):
    # Also in parts, as with more members than the memory holds.
    monkeypatch.setattr(population, "members_at_once", lambda *_: at_once)
    settings = TrainConfig(dataset="digits", epochs=3, population=2, devices=1)
    outcome = training.train(toy.MODEL, toy.ToyConfig(), settings, tmp_path / "run")
    # At half the epochs and at the end.
    history = outcome.history
    assert [FD in row for row in history] == [False, True, True]
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), digits[0], None)
    for i in range(2):
        state, _ = saved.load_state(toy.MODEL, tmp_path / "run", i)
        rng = loop.make_rngs(i).pictures
        scores = evaluation.evaluate_in_training(
            reference, lambda rng, n, state=state: toy.sample(state, rng, n), rng
        )
        for name, value in scores.items():
            assert history[-1][name][i] == pytest.approx(value, rel=1e-9), name
    assert len(set(history[-1][FD])) == 2
    assert not any(name.startswith("raw_") for name in history[-1])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = report["scores"][FD]
    # Half of the interval of two values is 12.706 times half their distance.
    assert found["half"] == pytest.approx(12.706 * np.ptp(history[-1][FD]) / 2, rel=1e-4)
    assert found["mean"] == pytest.approx(np.mean(history[-1][FD]))
    assert len(outcome.verdicts) == 2


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
    # A distance by another extractor, of an earlier version, does not count.
    mixed = [{"epoch": 1, "fd(other)": 0.1}, {"epoch": 2, FD: 3.0}, {"epoch": 3, FD: 2.0}]
    assert evaluation.best_row(mixed)["epoch"] == 3


def test_a_generator_that_has_diverged_has_no_scores(digits):
    def sample(rng, n):
        return jnp.full((n, 8, 8, 1), jnp.nan)

    with pytest.raises(NonFiniteError, match="the model has diverged"):
        evaluation.draw(sample, jax.random.key(0), 3)
    reference = evaluation.make_reference(evaluation.make_extractor(digits[0]), digits[0], None)
    scores = evaluation.evaluate_in_training(reference, sample, jax.random.key(0))
    assert len(scores) == 5
    assert np.isnan(list(scores.values())).all()


def test_data_that_cannot_be_evaluated_in_training_leave_no_folder(tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((99, 5, 5), np.uint8))
    for dataset, reason in (
        ("ring", "is for images"),
        (tmp_path / "few.npy", "at least 100 images"),
    ):
        options = ("--evaluate-every", 1, "--workdir", tmp_path / "run")
        assert reason in here("train.py", "--dataset", dataset, *options, status=2)[1]
        assert not (tmp_path / "run").exists()


def test_scores_by_class_are_those_of_its_samples_alone():
    rng = np.random.default_rng(0)
    labels, wanted = rng.integers(0, 3, 900), rng.integers(0, 3, 600)
    wanted[wanted == 2] = np.where(np.arange((wanted == 2).sum()) < 20, 2, 0)  # too few
    train = rng.normal(size=(900, 4)).astype(np.float32) + 3.0 * labels[:, None]
    samples = rng.normal(size=(600, 4)).astype(np.float32) + 3.0 * wanted[:, None]
    samples[wanted == 1] += 2.0
    seen = np.where(np.arange(600) < 150, 0, wanted)
    extractor = evaluation.Extractor("x", "0", lambda images: evaluation.Features(images, None))
    reference = evaluation.Reference(
        extractor, train, evaluation.Features(train, np.eye(3)[labels]), None, labels
    )
    found = evaluation.evaluate_classes(
        reference, evaluation.Features(samples, np.eye(3)[seen]), wanted
    )
    distances, shares = (found[f"{name}_by_class(x, train, n=600)"] for name in ("fd", "accuracy"))
    # The means differ by 2 in each of four dimensions.
    assert distances[0] < 1
    assert distances[1] == pytest.approx(16, abs=3)
    assert np.isnan(distances[2])
    assert found["class_fd(x, train, n=600)"] == pytest.approx(np.mean(distances[:2]))
    right = seen == wanted
    assert found["class_accuracy(x, train, n=600)"] == pytest.approx(right.mean())
    assert shares == pytest.approx([right[wanted == label].mean() for label in range(3)])
    # Without classes there are no scores of them.
    without = reference._replace(labels=None)
    assert evaluation.evaluate_classes(without, reference.train, labels) == {}
