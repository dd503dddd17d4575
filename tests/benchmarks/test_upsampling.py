"""The benchmark of upsampling: its parts against closed forms, and a small table."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxgan import PRESETS, JaxganError, data
from jaxgan.uses import upsampling as use


@pytest.fixture
def upsampling(monkeypatch):
    import upsampling

    monkeypatch.setattr(upsampling, "SIZES", (30, 20, 12, 10, 10, 10, 10, 9, 8, 7))
    monkeypatch.setattr(upsampling, "HELD_OUT", 200)
    monkeypatch.setattr(upsampling, "FILTER_STEPS", 2)
    small = {"width": 8, "blocks": 1, "sample_steps": 3}
    config = dataclasses.replace(PRESETS["diffusion"][0], **small)
    monkeypatch.setitem(PRESETS, "diffusion", (config, None))
    recipe = use.RECIPES["diffusion"]._replace(steps=2, batch_size=16)
    monkeypatch.setitem(use.RECIPES, "diffusion", recipe)
    return upsampling


def test_a_table_is_made_row_by_row(upsampling, run, tmp_path, monkeypatch):
    # The CNN filters. In its other place the linear classifier, which compiles faster, will do.
    monkeypatch.setitem(upsampling.READOUTS, "cnn", upsampling.Linear)
    methods = "moved thresholds,SMOTE,diffusion filtered,real images"
    options = ["--dataset", "digits", "--seeds", 1, "--steps", 2, "--json", tmp_path / "a.json"]
    said = run(upsampling, *options, "--methods", methods, "--picture", tmp_path / "a.png").out
    assert "4 rows to train, 0 found" in said
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["method"] for row in rows] == methods.split(",")
    for row in rows:
        for name in ("linear", "cnn"):
            assert 0 <= row[name] <= 1
            assert row[f"{name}_calibration"] <= 1
    assert (tmp_path / "a.png").exists()
    assert "0 rows to train, 4 found" in run(upsampling, *options, "--methods", methods).out
    more = ["--validation", "--scale", 0.9, "--methods", "SMOTE"]
    run(upsampling, *options[:-1], tmp_path / "b.json", *more)
    settings = json.loads((tmp_path / "b.json").read_text())["rows"][0]["settings"]
    assert settings["validation"]
    assert settings["sizes"] == [27, 18, 11, 9, 9, 9, 9, 8, 7, 6]
    with pytest.raises(JaxganError, match="and there are"):
        run(upsampling, *options, "--scale", 100, "--methods", "SMOTE")


def test_every_method_gives_all_classes_as_many_images(upsampling):
    images, labels = upsampling.unbalanced(*data.load("digits")[:2], upsampling.SIZES)
    assert np.bincount(labels).tolist() == list(upsampling.SIZES)
    for name in ("copies", "copies with augmentation", "SMOTE", "diffusion", "diffusion filtered"):
        found = upsampling.METHODS[name](images, labels, 0)
        assert np.bincount(found.labels).tolist() == [30] * 10, name
        np.testing.assert_array_equal(found.images[: len(images)], images)
        assert found.images.dtype == np.uint8
        assert found.augment == name.endswith("augmentation")
    weights = upsampling.METHODS["diffusion down-weighted"](images, labels, 0).weights
    assert weights.tolist() == [1.0] * len(labels) + [0.5] * (300 - len(labels))
    weighted = upsampling.METHODS["class weights"](images, labels, 0)
    np.testing.assert_allclose(np.bincount(labels, weighted.weights), len(labels) / 10)


def test_the_calibration_error_is_the_mean_gap_of_the_bins(upsampling):
    confidence = np.repeat([0.95, 0.65], [60, 40])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    right = np.r_[np.arange(60) < 30, np.arange(40) < 26]
    error = upsampling.calibration_error(probabilities, right, np.ones(100))
    assert error == pytest.approx(0.6 * 0.45)
    # Without weight the first bin does not count.
    weights = np.repeat([0.0, 1.0], [60, 40])
    assert upsampling.calibration_error(probabilities, right, weights) == pytest.approx(0, abs=1e-9)


def test_offsets_and_moved_thresholds_undo_the_shares_of_classes(upsampling, monkeypatch):
    """Images say nothing of their class here, so the probabilities are the shares, or equal."""
    monkeypatch.setattr(upsampling, "SIZES", (300, 100))
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 1), np.uint8)
    labels = np.repeat([0, 1], [300, 100])
    tested = images[:200] * 0, np.repeat([0, 1], 100)
    means = {}
    for name in ("nothing", "logit adjustment", "class weights"):
        given = upsampling.METHODS[name](images * 0, labels, 0)
        found = upsampling.fit(upsampling.Linear(2), given, 0, 300)(tested[0])
        means[name] = found[:, 1].mean()
    assert means["nothing"] == pytest.approx(0.25, abs=0.03)
    assert means["logit adjustment"] == pytest.approx(0.5, abs=0.03)
    assert means["class weights"] == pytest.approx(0.5, abs=0.03)
    seen = []
    monkeypatch.setattr(upsampling, "fit", lambda *_: lambda x: np.tile([0.75, 0.25], (200, 1)))
    monkeypatch.setattr(upsampling, "calibration_error", lambda p, *_: seen.append(p) or 0.0)
    moved = upsampling.METHODS["moved thresholds"](images, labels, 0)
    upsampling.judge(upsampling.Linear(2), moved, tested, [300, 100], 0, 1)
    np.testing.assert_allclose(seen[0], 0.5)


def test_augmented_images_are_shifted_and_mirrored(upsampling):
    images = np.full((1000, 7, 7, 1), -1, np.float32)
    images[:, 3, 2] = 1
    found = np.asarray(upsampling.augmented(images, jax.random.key(0)))
    assert (found.sum(axis=(1, 2, 3)) == 2 - 49).all()
    places = {tuple(place) for place in np.argwhere(found == 1)[:, 1:3].tolist()}
    assert places == {(y, x) for y in range(1, 6) for x in range(7)}
