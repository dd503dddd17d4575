"""The judge, and scores from classes."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import here
from safetensors.numpy import save_file

from jaxgan import JaxganError, data
from jaxgan.metrics import classifier
from jaxgan.metrics.classifier import BUNDLED, Judge, JudgeCNN, class_scores, judge_images


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Untrained."""
    module = JudgeCNN(10, (4, 8))
    params = module.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))["params"]
    return Judge("test-v1", (8, 8, 1), module, params)


def train_judge(*options, status: int = 0) -> tuple[str, str]:
    """Runs the script: its output and errors."""
    # The schedules of optax mix types.
    with jax.numpy_dtype_promotion("standard"):
        return here("train_judge.py", *options, status=status)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_judges_know_real_clothes(name, real_data_dir):
    test = data.load("fashion_mnist", "test", real_data_dir)
    judge = classifier.load_judge(name)
    file = Path(classifier.__file__).parent / f"{name}.safetensors"
    assert file.stat().st_size < 1_000_000
    judged = judge_images(judge, test.images)
    assert judged.features.shape == (10_000, 128)
    assert (judged.probabilities.argmax(axis=1) == test.labels).mean() >= 0.915


def test_bytes_and_floats_are_the_same_images(judge):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    floats = (images.astype(np.float32) - 127.5) / 127.5
    one, other = (judge_images(judge, x) for x in (images, floats))
    np.testing.assert_allclose(one.features, other.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (one.features >= 0).all()


def test_the_features_of_an_image_do_not_depend_on_the_others(judge, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    whole = judge_images(judge, images)
    monkeypatch.setattr(classifier, "_CHUNK", 3)
    parts = judge_images(judge, images)
    np.testing.assert_allclose(whole.features, parts.features, rtol=1e-5, atol=1e-6)


def test_a_judge_is_trained_written_and_read(tmp_path):
    file = tmp_path / "digits-v1.safetensors"
    options = ("--dataset", "digits", "--epochs", 2, "--widths", 4, 8, "--kernel", 5)
    options += ("--learning-rate", 0.01)
    out, _ = train_judge(*options, "--out", file)
    found = classifier.load_judge(file)
    assert (found.name, found.image_shape, found.module) == (
        "digits-v1",
        (8, 8, 1),
        JudgeCNN(10, (4, 8), 5),
    )
    test = data.load("digits", "test")
    right = judge_images(found, test.images).probabilities.argmax(axis=1) == test.labels
    assert right.mean() > 0.7
    assert f"digits-v1: {right.mean():.2%} of 297 test images" in out
    # Equal seeds give equal judges.
    train_judge(*options, "--out", tmp_path / "again.safetensors")
    again = classifier.load_judge(tmp_path / "again.safetensors")
    assert again.name == "again"
    for one, other in zip(*map(jax.tree.leaves, (found.params, again.params)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_and_files_that_are_no_judge_are_refused(judge, tmp_path):
    message = "no judge 'nobody': give fashion-cnn-v1, fashion-cnn5-v1 or a file"
    with pytest.raises(JaxganError, match=message):
        classifier.load_judge("nobody")
    (tmp_path / "text").write_text("text")
    save_file({"x": np.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("text", "other.safetensors"):
        with pytest.raises(JaxganError, match=f"{name} holds no judge"):
            classifier.load_judge(tmp_path / name)
    for shape in ((3, 8, 8, 3), (0, 8, 8, 1), (8, 8, 1)):
        with pytest.raises(JaxganError, match=r"test-v1 takes images \[N, 8, 8, 1\]"):
            judge_images(judge, np.zeros(shape, np.uint8))


def test_without_a_test_split_a_tenth_is_held_out(tmp_path):
    images, labels = data.load("digits").images[:101, ..., 0], np.arange(101) % 3
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    options = ("--dataset", tmp_path / "own.npz", "--epochs", 1, "--widths", 4)
    out, _ = train_judge(*options, "--out", tmp_path / "own.safetensors")
    assert "of 11 test images" in out
    assert classifier.load_judge(tmp_path / "own.safetensors").module.classes == 3


def test_data_and_options_that_make_no_judge_are_refused(tmp_path):
    def error(*options, out="j.safetensors", status=2) -> str:
        return train_judge(*options, "--out", tmp_path / out, status=status)[1]

    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8), np.uint8))
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8), np.uint8), labels=[0])
    assert "--out must be NAME.safetensors" in error(out="judge")
    (tmp_path / "j.safetensors").write_bytes(b"old")
    diverging = ("--dataset", "digits", "--epochs", 1, "--widths", 4, "--learning-rate", 1e30)
    assert "diverged in epoch 1" in error(*diverging, status=3)
    for options, message in (
        (("--epochs", 0), "--epochs and --batch-size must be 1 or more"),
        (("--learning-rate", "nan"), "--learning-rate must be above 0, got nan"),
        (("--seed", -1), "--seed must be from 0"),
        (("--dataset", tmp_path / "images.npy"), "has no labels"),
        (("--dataset", tmp_path / "one.npz"), "a judge needs at least 2"),
    ):
        assert message in error(*options)
    assert (tmp_path / "j.safetensors").read_bytes() == b"old"
    assert "cannot write to" in error(out="j.safetensors/inside.safetensors")


def test_class_scores_in_closed_form():
    # Half of the samples surely of class 0, half surely of class 1; the real ones of all four.
    samples = np.repeat(np.eye(4)[:2], 10, axis=0)
    real = np.repeat(np.eye(4), [10, 20, 5, 5], axis=0)
    found = class_scores(samples, real)
    assert found.classifier_score == pytest.approx(2)
    assert found.histogram == [0.5, 0.5, 0, 0]
    assert found.entropy == pytest.approx(math.log(2))
    assert (found.worst_class, found.worst_share) == (2, 0)
    # A class that the real images lack cannot be the worst.
    found = class_scores(real, np.repeat(np.eye(4), [5, 20, 15, 0], axis=0))
    assert (found.worst_class, found.worst_share) == (2, pytest.approx((5 / 40) / (15 / 40)))
    # Samples about which the classifier is undecided have no divergence.
    assert class_scores(np.full((9, 4), 0.25), real).classifier_score == pytest.approx(1)
    # By hand: KL of (3/4, 1/4) and of (1/4, 3/4) from (1/2, 1/2).
    two = class_scores(np.array([[0.75, 0.25], [0.25, 0.75]]), np.eye(2))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert two.classifier_score == pytest.approx(math.exp(kl))
    json.dumps(two)  # it has plain numbers


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((0, 4)), "at least 1 samples are needed, got 0"),
        (np.eye(3), "of the same D"),
        (np.zeros(4), "of the same D"),
        (np.full((2, 4), np.nan), "finite"),
    ],
)
def test_class_scores_of_arrays_that_are_no_probabilities_are_refused(samples, message):
    with pytest.raises(JaxganError, match=message):
        class_scores(samples, np.eye(4))
    if samples.shape[1:] == (4,):
        with pytest.raises(JaxganError, match=message):
            class_scores(np.eye(4), samples)
