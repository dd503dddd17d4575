"""Upsampling: what is generated, the interface of imbalanced-learn, and the script."""

import contextlib
import dataclasses
import importlib
import sys
import types
import unittest
from collections import Counter

import imblearn.utils.estimator_checks as imblearn_checks
import jax
import numpy as np
import pandas
import pytest
import sklearn.utils.estimator_checks as sklearn_checks
from helpers import contents, here, picture
from imblearn.pipeline import make_pipeline
from PIL import Image
from sklearn.linear_model import LogisticRegression

from jaxgan import MODELS, PRESETS, JaxganError, data
from jaxgan.errors import NonFiniteError
from jaxgan.uses import upsampling
from jaxgan.uses.upsampling import GenerativeSampler

QUICK = GenerativeSampler(steps=2, random_state=0)
CENTRES = np.array([[0.0, 0.0], [40.0, 3.0], [0.0, 6.0]])
SPREAD = np.array([8.0, 0.6])


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small networks, whose programs are compiled fast."""
    small = {
        "tuned": {"generator_widths": (32,), "discriminator_widths": (32,), "latent_dim": 8},
        "diffusion": {"width": 32, "blocks": 1, "sample_steps": 20, "lr": 5e-3},
    }
    small["tuned"]["discriminator_dropout"] = (0.0,)
    for name, fields in small.items():
        config = dataclasses.replace(PRESETS[name][0], **fields)
        monkeypatch.setitem(PRESETS, name, (config, PRESETS[name][1]))
    for name, recipe in upsampling.RECIPES.items():
        monkeypatch.setitem(upsampling.RECIPES, name, recipe._replace(batch_size=64))


@pytest.fixture
def _untrained(monkeypatch):
    """In place of a trained model: a Gaussian of each class, or random images."""

    def train(recipe, images, labels, seed, *, progress):
        assert recipe.steps == 2
        flat = images.reshape(len(images), -1).astype(np.float32)
        classes = range(labels.max() + 1)
        means = np.stack([flat[labels == label].mean(axis=0) for label in classes])
        config = types.SimpleNamespace(num_classes=len(means), image_shape=images.shape[1:])

        def sample(state, rng, n, labels):
            noise = jax.random.normal(jax.random.fold_in(rng, seed), (n, flat.shape[1]))
            return (means[labels] + 0.1 * noise).reshape(n, *images.shape[1:])

        return MODELS["gan"]._replace(sample=sample), types.SimpleNamespace(config=config)

    monkeypatch.setattr(upsampling, "train", train)


def gaussians(*sizes):
    """Vectors of a Gaussian for each class, far apart by their spread."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return CENTRES[y] + SPREAD * rng.normal(size=(len(y), 2)), y


def pictures(*sizes):
    """Images of 6x5 whose rows are bright above (class 0), in the middle (1) or below (2)."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(sizes)), sizes)
    bright = np.arange(6)[None, :] // 2 == y[:, None]
    X = 40 + 160 * bright[..., None, None] + rng.integers(0, 40, (len(y), 6, 5, 1))
    order = rng.permutation(len(y))
    return X[order].astype(np.uint8), y[order]


@pytest.mark.parametrize("model", ["gan", "diffusion"])
def test_new_vectors_have_the_distribution_of_their_class(model):
    X, y = gaussians(300, 60, 40)
    names = np.array(["large", "middle", "small"])
    sampler = GenerativeSampler(model=model, steps=1_500, random_state=0)
    more, labels = sampler.fit_resample(X, names[y])
    assert Counter(labels.tolist()) == dict.fromkeys(names.tolist(), 300)
    np.testing.assert_array_equal(more[:400], X)
    np.testing.assert_array_equal(labels[:400], names[y])
    for label, name in enumerate(names):
        new = more[400:][labels[400:] == name]
        if name == "large":
            assert not len(new)
            continue
        distances = np.linalg.norm((new[:, None] - CENTRES) / SPREAD, axis=2)
        assert (distances.argmin(axis=1) == label).mean() > 0.95
        given = X[y == label]
        assert (np.abs(new.mean(axis=0) - given.mean(axis=0)) < 0.3 * SPREAD).all()
        ratio = new.std(axis=0) / given.std(axis=0)
        assert ((ratio > 0.6) & (ratio < 1.3)).all()
        assert len(np.unique(new, axis=0)) == len(new)


@pytest.mark.parametrize("shape", [(6, 5, 1), (6, 5)])
def test_new_images_have_the_pattern_of_their_class(shape):
    X, y = pictures(60, 20, 10)
    X = X.reshape(-1, *shape)
    sampler = GenerativeSampler(sampling_strategy={2: 50, 1: 25}, steps=300, random_state=1)
    more, labels = sampler.fit_resample(X, y)
    assert (more.dtype, more.shape) == (np.uint8, (135, *shape))
    assert Counter(labels.tolist()) == {0: 60, 1: 25, 2: 50}
    np.testing.assert_array_equal(more[:90], X)
    bands = more[90:].reshape(-1, 3, 10).mean(axis=2)
    np.testing.assert_array_equal(bands.argmax(axis=1), labels[90:])


@pytest.mark.usefixtures("_untrained")
def test_images_of_floats_keep_their_range():
    X, y = pictures(60, 20, 10)
    scaled, scaling = upsampling._scale(X / 255, standardise=True)
    assert (scaled.dtype, scaled.min(), scaled.max()) == (np.float32, -1, 1)
    np.testing.assert_allclose(scaling.undo(scaled), X / 255, atol=1e-6)
    more, _ = QUICK.fit_resample(X / 255, y)
    assert more.dtype == np.float64
    assert (more.min(), more.max()) == ((X / 255).min(), (X / 255).max())


@pytest.mark.usefixtures("_untrained")
def test_whole_numbers_stay_whole_and_in_their_range():
    X, y = gaussians(50, 20)
    X = np.column_stack([np.round(X).astype(int), np.full(70, 7)])
    more, _ = QUICK.fit_resample(X, y)
    assert more.dtype == X.dtype
    new = more[70:]
    assert (new >= X.min(axis=0)).all()
    assert (new <= X.max(axis=0)).all()
    assert (new[:, 2] == 7).all()
    np.testing.assert_array_equal(more[:70], X)
    # Columns have their own range.
    _, scaling = upsampling._scale(X, standardise=True)
    wide = scaling.undo(np.array([-99.0, 99.0])[:, None, None, None] * np.ones((2, 1, 1, 3)))
    np.testing.assert_array_equal(wide[:, 0, 0], [X.min(axis=0), X.max(axis=0)])


@pytest.mark.usefixtures("_untrained")
def test_whole_columns_of_a_data_frame_are_rounded():
    X, y = gaussians(50, 20)
    rng = np.random.default_rng(0)
    counts, flags = rng.integers(0, 3, 70), rng.random(70) < 0.5
    frame = pandas.DataFrame({"x": X[:, 0], "count": counts, "flag": flags})
    found, _ = QUICK.fit_resample(frame, y)
    assert found.dtypes.tolist() == frame.dtypes.tolist()
    mixed = np.column_stack([X[:, 0], counts, flags])
    _, scaling = upsampling._scale(mixed, standardise=False)
    new = scaling.undo(np.full((1, 1, 1, 3), 0.6))[0, 0, 0]
    np.testing.assert_array_equal(new, [0.6, 1, 1])  # not cut off to 0


@pytest.mark.parametrize(("power", "shares"), [(0.0, [1 / 3] * 3), (1.0, [0.8, 0.15, 0.05])])
def test_batches_have_the_wanted_shares_of_the_classes(power, shares):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [3200, 600, 200]))
    recipe = upsampling.RECIPES["gan"]._replace(power=power, steps=7)
    rows = upsampling._epoch_rows(labels, recipe, seed=0)
    assert len(rows) % 64 == 0
    assert set(rows) == set(range(4000))
    found = np.bincount(labels[rows]) / len(rows)
    np.testing.assert_allclose(found, shares, atol=1e-3)
    # Small data are repeated, so that an epoch has many steps.
    assert len(upsampling._epoch_rows(labels[:50], recipe._replace(steps=10**4), 0)) == 6400


@pytest.mark.usefixtures("_untrained")
def test_a_pipeline_trains_its_classifier_on_the_new_rows():
    X, y = gaussians(200, 30, 30)
    pipeline = make_pipeline(QUICK, LogisticRegression(max_iter=1000)).fit(X, y)
    alone = LogisticRegression(max_iter=1000).fit(*QUICK.fit_resample(X, y))
    np.testing.assert_allclose(pipeline.predict_proba(X), alone.predict_proba(X))
    assert pipeline.score(X, y) > 0.95


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_untrained")
@pytest.mark.parametrize("checks", [imblearn_checks, sklearn_checks], ids=lambda x: x.__name__)
def test_the_checks_of_imbalanced_learn_and_scikit_learn(checks):
    done = 0
    # This check has a class of three rows.
    expected = {"check_fit2d_1feature": "a class has too few rows"}
    for estimator, check in checks.estimator_checks_generator(QUICK):
        if check.func.__name__ in expected:
            continue
        with contextlib.suppress(unittest.SkipTest):
            check(estimator)
            done += 1
    assert done > 10


def test_parameters_and_names_of_columns_are_checked():
    imblearn_checks.check_param_validation("GenerativeSampler", QUICK)
    imblearn_checks.check_dataframe_column_names_consistency("GenerativeSampler", QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "but the target y is None"),
        ({"y": [0.0] * 29 + [np.nan]}, "1 labels are missing"),
        ({"y": ["a"] * 20 + [None] * 10}, "10 labels are missing"),
        ({"y": [0] * 25 + [1] * 5}, "at least 6 rows to be learned, and 1 has 5"),
        ({"X": np.full((30, 2), np.nan)}, "X has 60 values that are NaN or infinite"),
        ({"X": np.full((30, 2, 2, 1), np.inf)}, "X has 120 values that are NaN or infinite"),
        ({"run": "nowhere"}, "nowhere is not a run folder"),
    ],
)
def test_what_cannot_be_upsampled_is_refused(monkeypatch, change, message):
    monkeypatch.setattr(upsampling, "train", None)  # the checks come first
    X, y = gaussians(20, 10)
    arguments = {"X": X, "y": y} | change
    sampler = GenerativeSampler(run=arguments.pop("run", None))
    for method in (sampler.fit, sampler.fit_resample):
        with pytest.raises(JaxganError, match=message) as error:
            method(**arguments)
        assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_untrained")
def test_a_small_class_that_gets_no_rows_is_no_error():
    X, y = gaussians(20, 10, 3)
    _, labels = GenerativeSampler(sampling_strategy={1: 15}, steps=2).fit_resample(X, y)
    assert np.bincount(labels).tolist() == [20, 15, 3]
    balanced, _ = GenerativeSampler().fit_resample(X[:30:2], y[:30:2] * 0 + [0, 1, 2] * 5)
    np.testing.assert_array_equal(balanced, X[:30:2])


def untrained(classes, value=0.0):
    """A model whose images have the value plus ten times their class, with some noise."""
    sizes = []

    def sample(state, rng, n, labels):
        sizes.append(n)
        noise = jax.random.normal(rng, (n, 6, 5, 1))
        return np.asarray(noise) + 10 * labels[:, None, None, None] + value

    config = types.SimpleNamespace(num_classes=classes, image_shape=(6, 5, 1))
    return MODELS["gan"]._replace(sample=sample), types.SimpleNamespace(config=config), sizes


def test_a_model_without_classes_or_with_numbers_that_are_not_finite_draws_nothing():
    rng, labels = jax.random.key(0), np.array([0, 1])
    with pytest.raises(JaxganError, match="this model has no classes"):
        upsampling.draw(*untrained(0)[:2], labels, rng)
    assert upsampling.draw(*untrained(2)[:2], labels[:0], rng).shape == (0, 6, 5, 1)
    with pytest.raises(JaxganError, match="whole numbers from 0 to 1, got 2"):
        upsampling.draw(*untrained(2)[:2], labels + 1, rng)
    with pytest.raises(NonFiniteError, match="the model has diverged"):
        upsampling.draw(*untrained(2, np.nan)[:2], labels, rng)


def test_many_rows_are_drawn_in_equal_parts(monkeypatch):
    monkeypatch.setattr(upsampling, "_AT_ONCE", 4)
    model, state, sizes = untrained(3)
    labels = np.arange(10) % 3
    drawn = upsampling.draw(model, state, labels, jax.random.key(0))
    assert sizes == [4, 4, 4]
    assert np.round(drawn.mean(axis=(1, 2, 3)) / 10).tolist() == labels.tolist()
    assert len(np.unique(drawn.reshape(10, -1), axis=0)) == 10


def test_without_imbalanced_learn_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imblearn.over_sampling.base", None)
    monkeypatch.delitem(sys.modules, "jaxgan.uses.upsampling")
    with pytest.raises(JaxganError, match=r"pip install 'jaxgan\[uses\]'"):
        importlib.import_module("jaxgan.uses.upsampling")
    _, said = here("upsample.py", "digits", "--out", tmp_path / "a.npz", status=2)
    assert "pip install 'jaxgan[uses]'" in said
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory, no_curves_in_file):
    """Images of three classes, and a run on them."""
    folder = tmp_path_factory.mktemp("upsampling")
    X, y = pictures(60, 20, 10)
    np.savez(folder / "images.npz", images=X, labels=y)
    small = ("--width", 16, "--blocks", 1, "--epochs", 60, "--batch-size", 45, "--lr", 5e-3)
    rare = ("--no-evaluate", "--sample-every", 60, "--checkpoint-every", 60)
    options = ("--model", "diffusion", *small, "--conditional", *rare)
    here("train.py", "--dataset", folder / "images.npz", *options, "--workdir", folder / "run")
    return folder


def arrays_in(path):
    with np.load(path) as file:
        return dict(file)


def test_the_script_balances_a_file_and_counts(folder, tmp_path):
    out = tmp_path / "deep" / "balanced.npz"
    options = (folder / "images.npz", "--steps", 20)
    said, _ = here("upsample.py", *options, "--out", out)
    X, y = pictures(60, 20, 10)
    found = arrays_in(out)
    assert np.bincount(found["labels"]).tolist() == [60, 60, 60]
    np.testing.assert_array_equal(found["images"][:90], X[..., 0])
    np.testing.assert_array_equal(found["labels"][:90], y)
    np.testing.assert_array_equal(found["generated"], np.arange(180) >= 90)
    table = [line.split() for line in said.splitlines()[-5:-1]]
    assert table == [
        ["class", "before", "after"],
        *([str(i), str(n), "60"] for i, n in enumerate((60, 20, 10))),
    ]
    assert said.splitlines()[-1] == f"90 images of images.npz and 90 generated ones in {out}"
    # What it wrote is a data set; the same call gives the same images, another seed others.
    assert len(data.load(out).images) == 180
    here("upsample.py", *options, "--out", tmp_path / "again.npz")
    np.testing.assert_array_equal(arrays_in(tmp_path / "again.npz")["images"], found["images"])
    here("upsample.py", *options, "--out", tmp_path / "again.npz", "--seed", 1)
    assert (arrays_in(tmp_path / "again.npz")["images"][90:] != found["images"][90:]).any()


def test_a_run_gives_the_new_images(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(upsampling, "train", None)
    out = tmp_path / "balanced.npz"
    here("upsample.py", folder / "images.npz", "--run", folder / "run", "--out", out)
    found = arrays_in(out)
    assert np.bincount(found["labels"]).tolist() == [60, 60, 60]
    bands = found["images"][90:].reshape(-1, 3, 10).mean(axis=2)
    assert (bands.argmax(axis=1) == found["labels"][90:]).mean() > 0.8
    # Classes of the data that are not all of those of the run keep their numbers.
    X, y = pictures(0, 20, 10)
    new, labels = GenerativeSampler(run=folder / "run", random_state=0).fit_resample(X, y)
    assert np.bincount(labels).tolist() == [0, 20, 20]
    bands = new[30:].reshape(-1, 3, 10).mean(axis=2)
    assert (bands.argmax(axis=1) == 2).mean() > 0.7


@pytest.mark.usefixtures("_untrained")
def test_a_folder_of_pictures_becomes_another(tmp_path):
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    X, y = pictures(12, 8)
    names = {0: "boot", 1: "bag"}
    for i, image in enumerate(X):
        (given / names[y[i]]).mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(given / names[y[i]] / f"{i}.png")
    said, _ = here("upsample.py", given, "--steps", 2, "--model", "gan", "--out", f"{out}/")
    assert sorted(path.name for path in out.iterdir()) == ["bag", "boot"]
    assert [len(list((out / name).iterdir())) for name in ("bag", "boot")] == [12, 12]
    assert said.splitlines()[-3].split() == ["bag", "8", "12"]
    first = picture(out / "bag" / "000000.png")
    np.testing.assert_array_equal(first, X[y == 1][0, ..., 0])
    # An array file keeps the names of the classes.
    here("upsample.py", given, "--steps", 2, "--model", "gan", "--out", tmp_path / "a.npz")
    assert data.load(tmp_path / "a.npz").classes == ("bag", "boot")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", -1), "--seed must be from 0"),
        (("--steps", 0), "--steps must be 1 or more, got 0"),
        (("--out", "a.png"), "--out must be NAME.npz or FOLDER/, got 'a.png'"),
        (("--run", "run", "--steps", 3), "--run takes a trained model, so it has no --steps"),
        (("--run", "nowhere"), "nowhere is not a run folder"),
        (("nolabels.npz",), "nolabels.npz has no labels"),
        (("one.npz",), "one.npz has one class only"),
        (("balance.npz",), "balance.npz is in balance: each class has 10 images"),
        (("few.npz",), "and 1 has 3: collect more, or leave such classes out\n"),
        (("nan.npz",), "float images must be in [0, 1] or in [-1, 1]"),
        (("wide.npz", "--run", "RUN"), "the images are 6x6x1, and the run"),
        (("more.npz", "--run", "RUN"), "has the classes 0 to 2, not 7"),
        (("nothing.npz",), "cannot be read"),
        (("--out", "full/"), "is not empty"),
        (("more.npz", "--out", "./more.npz"), "--out is the data set itself, more.npz: give"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upsampling, "train", None)
    X, y = pictures(10, 10, 10)
    files = {
        "nolabels": {"images": X},
        "one": {"images": X, "labels": y * 0},
        "balance": {"images": X, "labels": y},
        "few": {"images": X[:13], "labels": np.repeat([0, 1], [10, 3])},
        "nan": {"images": np.full((13, 6, 5), np.nan), "labels": np.repeat([0, 1], [7, 6])},
        "wide": {"images": np.zeros((13, 6, 6), np.uint8) + 9, "labels": np.repeat([0, 1], [7, 6])},
        "more": {"images": X[:13], "labels": np.repeat([0, 7], [7, 6])},
    }
    for name, arrays in files.items():
        np.savez(f"{name}.npz", **arrays)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.txt").write_text("old")
    (tmp_path / "old.npz").write_bytes(b"old")
    before = contents(tmp_path)
    options = [str(folder / "run") if word == "RUN" else word for word in options]
    if not str(options[0]).endswith(".npz"):
        options = [folder / "images.npz", *options]
    for out in ("deep/out.npz", "old.npz"):
        given = options if "--out" in options else [*options, "--out", out]
        _, said = here("upsample.py", *given, status=2)
        assert message in said
        assert said.count("\n") == 1
        assert contents(tmp_path) == before
        assert not (tmp_path / "deep").exists()


def test_a_model_that_diverges_leaves_an_old_file(folder, tmp_path, monkeypatch):
    config, settings = PRESETS["diffusion"]
    broken = dataclasses.replace(config, lr=1e38)
    monkeypatch.setitem(PRESETS, "diffusion", (broken, settings))
    (tmp_path / "old.npz").write_bytes(b"old")
    options = (folder / "images.npz", "--steps", 20, "--out", tmp_path / "old.npz")
    _, said = here("upsample.py", *options, status=3)
    assert "diverged" in said
    assert (tmp_path / "old.npz").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "old.npz"]
