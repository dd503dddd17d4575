"""Inpainting against closed forms, for each model, and as a script."""

import dataclasses
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import contents, here, picture, save_images
from PIL import Image

from jaxgan import MODELS, GANConfig, JaxganError, create_state, samplers
from jaxgan.diffusion import DiffusionConfig
from jaxgan.errors import NonFiniteError
from jaxgan.uses import inpainting

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

GAN = MODELS["gan"]
RNG = jax.random.key(3)


def repaint_pairs(resamplings: int) -> np.ndarray:
    """Unknown pixels of pairs of correlation 0.8 whose other pixel is 1."""
    covariance = np.array([[1, 0.8], [0.8, 1]])
    shares = samplers.signal_shares("cosine", 200)
    # The best estimate of the clean pair is linear in the noisy one.
    table = [
        np.sqrt(share) * covariance @ np.linalg.inv(share * covariance + (1 - share) * np.eye(2))
        for share in shares
    ]
    gains = jnp.asarray(np.array(table), jnp.float32)

    def denoise(x, t):
        return (x.reshape(-1, 2) @ gains[t]).reshape(x.shape)

    images = jnp.ones((1_000, 1, 2, 1))
    known = jnp.broadcast_to(jnp.array([True, False])[:, None], images.shape)
    noise = jax.random.normal(RNG, images.shape)
    found = inpainting.repaint(denoise, noise, images, known, RNG, shares, 200, resamplings)
    np.testing.assert_array_equal(found[:, 0, 0], 1)
    return np.asarray(found[:, 0, 1])


def test_repaint_draws_from_the_conditional_distribution_of_a_gaussian():
    """It would do so exactly with ever more resamplings and noise levels."""
    pixels = repaint_pairs(10)
    assert pixels.mean() == pytest.approx(0.8, abs=0.05)
    assert pixels.var() == pytest.approx(0.36, abs=0.05)
    # Without resampling, the unknown pixel depends too little on the known one.
    assert repaint_pairs(1).mean() == pytest.approx(0.5, abs=0.05)


class Linear(nn.Module):
    """Images that are linear in the latents."""

    @nn.compact
    def __call__(self, latents):
        return nn.Dense(6, use_bias=False)(latents).reshape(-1, 2, 3, 1)


def test_the_search_finds_the_likeliest_latents_of_a_linear_generator():
    state = create_state(RNG, GANConfig((2, 3, 1), 4, generator=Linear()))
    (weights,) = jax.tree.leaves(state.generator.params)  # [latents, pixels]
    images = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 2, 3, 1)).astype(np.float32)
    known = np.array([[True, True, False], [True, False, True]])
    found = inpainting.inpaint(GAN, state, images, known, RNG)[0]
    seen = np.asarray(weights, np.float64)[:, known.ravel()]
    # Ridge regression: the latents have variance 1, the known pixels the deviation squared.
    gram = seen @ seen.T + inpainting.SEARCH.deviation**2 * np.eye(4)
    latents = np.linalg.solve(gram, seen @ images[:, known].reshape(3, -1).T).T
    expected = (latents @ weights).reshape(images.shape)
    np.testing.assert_allclose(found[:, ~known], expected[:, ~known], atol=5e-3)
    np.testing.assert_array_equal(found[:, known], images[:, known])


class ByClass(nn.Module):
    """Images whose first pixel is 1 for class 1, else -1, and whose second pixel is the reverse."""

    @nn.compact
    def __call__(self, latents, labels):
        sign = jnp.where(labels == 1, 1.0, -1.0)
        unused = nn.Dense(2, kernel_init=nn.initializers.zeros)(latents)
        return (jnp.stack([sign, -sign], axis=1) + unused).reshape(-1, 1, 2, 1)


def test_without_labels_the_search_tries_each_class(monkeypatch):
    monkeypatch.setattr(inpainting, "_AT_ONCE", 3)  # there are nine starts: two images at a time
    config = GANConfig((1, 2, 1), 4, generator=ByClass(), num_classes=3)
    state = create_state(RNG, config)
    first = np.array([1, -1, 1, 1, -1, -1, 1], np.float32)
    images = np.stack([first, np.full(7, np.nan)], axis=1).reshape(7, 1, 2, 1)
    known = np.array([[True, False]])
    found = inpainting.inpaint(GAN, state, images, known, RNG, draws=2)
    assert found.shape == (2, 7, 1, 2, 1)
    np.testing.assert_allclose(found[:, :, 0, 1, 0], -np.stack([first, first]), atol=1e-5)
    # A class that is given is kept.
    found = inpainting.inpaint(GAN, state, images, known, RNG, labels=0)
    np.testing.assert_allclose(found[0, :, 0, 1, 0], 1, atol=1e-5)


@pytest.fixture(scope="module")
def denoising():
    config = DiffusionConfig((4, 4, 1), width=8, blocks=1, num_classes=2)
    state = MODELS["diffusion"].create_state(RNG, config)
    # At first all predictions are 0.
    rng = np.random.default_rng(0)
    random = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state.ema)
    return state.replace(ema=random)


def test_repaint_keeps_known_pixels_and_draws_the_others(denoising, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    known = np.random.default_rng(1).random((5, 4, 4)) < 0.5
    fill = [
        inpainting.inpaint(MODELS["diffusion"], denoising, images, known, RNG, 2, labels)
        for labels in (None, 0, 1)
    ]
    assert not any(np.array_equal(fill[a], fill[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    for found in fill:
        assert found.shape == (2, 5, 4, 4, 1)
        expected = np.broadcast_to(images[known] / np.float32(127.5) - 1, (2, known.sum(), 1))
        np.testing.assert_allclose(found[:, known], expected, atol=1e-6)
        assert np.abs(found).max() <= 1
        assert (found[0] != found[1])[~known].mean() > 0.9
    # Labels belong to their images. The fourth and fifth are in a second part.
    monkeypatch.setattr(inpainting, "_AT_ONCE", 3)
    arguments = MODELS["diffusion"], denoising, images, known, RNG, 1
    zeros, ones, both = (inpainting.inpaint(*arguments, x) for x in (0, 1, [0, 1, 1, 0, 1]))
    np.testing.assert_array_equal(both[0, [0, 3]], zeros[0, [0, 3]])
    np.testing.assert_array_equal(both[0, [1, 2, 4]], ones[0, [1, 2, 4]])


def test_a_model_that_has_seen_no_hidden_labels_needs_labels(denoising):
    config = dataclasses.replace(denoising.config, label_dropout=0.0)
    state = denoising.replace(config=config)
    arguments = (MODELS["diffusion"], state, np.zeros((1, 4, 4, 1)), np.eye(4) > 0, RNG)
    with pytest.raises(JaxganError, match="this model needs labels"):
        inpainting.inpaint(*arguments)
    assert inpainting.inpaint(*arguments, labels=1).shape == (1, 1, 4, 4, 1)
    broken = denoising.replace(ema=jax.tree.map(lambda x: x * np.nan, denoising.ema))
    with pytest.raises(NonFiniteError, match="the model has diverged"):
        inpainting.inpaint(arguments[0], broken, *arguments[2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 4, 3, 1), np.uint8)}, r"must be \[N, 4, 4, 1\], got"),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, r"must be \[N, 4, 4, 1\], got"),
        ({"known": np.zeros((4, 3), bool)}, r"must be bool of \[4, 4\] or \[2, 4, 4\], got"),
        ({"known": np.zeros((4, 4))}, "got float64"),
        ({"known": np.ones((4, 4), bool)}, "all pixels are known"),
        ({"images": np.full((2, 4, 4, 1), np.nan)}, "a known pixel is not finite"),
        ({"images": np.zeros((2, 4, 4, 1), int)}, "images must be uint8 or float"),
        ({"draws": 0}, "draws must be 1 or more, got 0"),
        ({"labels": 2}, "whole numbers from 0 to 1, got 2"),
        ({"model": GAN._replace(generate=None)}, "the model gan cannot fill in pixels"),
    ],
)
def test_what_does_not_fit_is_refused(denoising, change, message):
    arguments = {
        "model": MODELS["diffusion"],
        "images": np.zeros((2, 4, 4, 1), np.uint8),
        "known": np.arange(16).reshape(4, 4) < 8,
    } | change
    with pytest.raises(JaxganError, match=message):
        inpainting.inpaint(state=denoising, rng=RNG, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of 8x8, two equal batches, and a run of each model on them."""
    folder = tmp_path_factory.mktemp("inpainting")
    dataset, images, *small_gan = save_images(folder, 32)
    short = (dataset, images, "--epochs", 1, "--no-evaluate")
    here("train.py", *short, *small_gan, "--workdir", folder / "gan")
    diffusion = ("--model", "diffusion", "--width", 8, "--blocks", 1)
    here("train.py", *short, *diffusion, "--workdir", folder / "diffusion")
    return folder


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(inpainting, "SEARCH", inpainting.SEARCH._replace(steps=5))
    monkeypatch.setattr(inpainting, "REPAINT", inpainting.Repaint(5, 1))


@pytest.mark.parametrize("name", ["gan", "diffusion"])
@pytest.mark.usefixtures("short")
def test_a_run_fills_in_images_and_says_how_well(folder, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no old result
    options = (folder / name, "--num", 9, "--draws", 3, "--out", out)
    said, _ = here("inpaint.py", *options, "--mask", "lower")
    assert sorted(path.name for path in out.iterdir()) == ["inpainted.npz", "picture.png"]
    with np.load(out / "inpainted.npz") as file:
        found = dict(file)
    images = np.load(folder / "images.npy")[:9, ..., None]
    np.testing.assert_array_equal(found["images"], images)
    missing = np.zeros((9, 8, 8), bool)
    missing[:, 4:] = True
    np.testing.assert_array_equal(found["missing"], missing)
    draws = found["draws"].astype(float)
    assert (draws == images)[:, ~missing].all()
    np.testing.assert_allclose(found["mean"], draws.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(found["spread"], draws.std(axis=0), atol=1e-3)
    assert (draws[0] != draws[1]).any()
    lines = said.splitlines()
    images_name = "9 train images of images.npy"
    assert lines[0] == f"{images_name}, 50.0% of their pixels filled in: {out}"
    for filled, line in ((draws, lines[2]), (draws.mean(axis=0)[None], lines[3])):
        squares = np.square((filled - images) / 255)[:, missing]
        assert float(line.split()[-1]) == pytest.approx(np.sqrt(squares.mean()), abs=6e-4)
    # Eight rows: image, known pixels, the draws, their mean, and twice their spread.
    shown = picture(out / "picture.png")
    size = shown.shape[0] // 8
    tiles = shown[:: size // 8, :: size // 8].reshape(8, 8, -1, 8).swapaxes(1, 2)
    assert tiles.shape[1] == 7
    np.testing.assert_array_equal(tiles[:, 0], images[:8, ..., 0])
    np.testing.assert_array_equal(tiles[:, 1], np.where(missing, 127, images[..., 0])[:8])
    np.testing.assert_array_equal(tiles[:, 2:5], found["draws"][:, :8, ..., 0].swapaxes(0, 1))
    np.testing.assert_allclose(tiles[:, 5], draws.mean(axis=0)[:8, ..., 0], atol=0.51)
    twice = np.minimum(2 * draws.std(axis=0)[:8, ..., 0], 255)
    np.testing.assert_allclose(tiles[:, 6], twice, atol=0.51)
    # The same call gives the same draws, and does not write over the first ones.
    before = contents(out)
    _, said = here("inpaint.py", *options, "--mask", "lower", status=2)
    assert "is not empty: files of two calls would mix; choose another --out" in said
    assert contents(out) == before
    here("inpaint.py", *options[:-1], tmp_path / "again", "--mask", "lower")
    with np.load(tmp_path / "again" / "inpainted.npz") as file:
        np.testing.assert_array_equal(file["draws"], found["draws"])


def masks_of(folder, tmp_path, mask):
    out = tmp_path / "out"
    here("inpaint.py", folder / "gan", "--num", 32, "--draws", 1, "--mask", mask, "--out", out)
    with np.load(out / "inpainted.npz") as file:
        return file["missing"]


@pytest.mark.usefixtures("short")
def test_masks_are_centred_random_or_a_picture(folder, tmp_path):
    centre = np.zeros((8, 8), bool)
    centre[2:6, 2:6] = True
    (tmp_path / "a").mkdir()
    assert (masks_of(folder, tmp_path / "a", "centre") == centre).all()
    (tmp_path / "b").mkdir()
    random = masks_of(folder, tmp_path / "b", "random:0.8")
    assert random.mean() == pytest.approx(0.8, abs=0.05)
    assert (random[0] != random[1]).any()
    drawn = np.random.default_rng(0).random((8, 8)) < 0.5
    Image.fromarray(drawn.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    (tmp_path / "c").mkdir()
    assert (masks_of(folder, tmp_path / "c", tmp_path / "mask.png") == drawn).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mask", "upper"), "must be centre, lower, random:SHARE"),
        (("--mask", "random"), "random:SHARE needs a share between 0 and 1, got ''"),
        (("--mask", "random:1"), "needs a share between 0 and 1, got '1'"),
        (("--mask", "none.png"), "none.png: cannot be read as an image"),
        (("--mask", "images.npy.png"), "cannot be read as an image"),
        (("--mask", "wide.png"), "wide.png has 9x8 pixels, but the images have 8x8"),
        (("--mask", "black.png"), "--mask black.png leaves no pixel missing"),
        (("--mask", "white.png", "--num", 0), "--num must be 1 or more, got 0"),
        (("--draws", 0), "--draws must be 1 or more, got 0"),
        (("--seed", -1), "--seed must be from 0"),
        (("digits.npy",), "are 6x6x1, and the run has images of 8x8x1: give images of that size"),
        (("wide.png",), "are 8x9x1, and the run has images of 8x8x1"),
        (("mixed",), "make all sizes equal; train.py and upsample.py do that with --image-size"),
        (("ring",), "ring contains vectors"),
        (("--mask", "random:1e-9"), "leaves no pixel missing"),
        (("--out", "wide.png"), "is a file: choose another --out"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    for name, shape, level in (("wide", (8, 9), 255), ("black", (8, 8), 0)):
        Image.fromarray(np.full(shape, level, np.uint8)).save(f"{name}.png")
    (tmp_path / "images.npy.png").write_bytes(b"no picture")
    (tmp_path / "mixed").mkdir()
    for name in ("wide", "black"):
        (tmp_path / "mixed" / f"{name}.png").write_bytes((tmp_path / f"{name}.png").read_bytes())
    np.save("digits.npy", np.full((40, 6, 6), 200, np.uint8))
    before = contents(tmp_path)
    _, said = here("inpaint.py", folder / "gan", "--out", "deep/out", *options, status=2)
    assert message in said
    assert said.count("\n") == 1
    assert contents(tmp_path) == before
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("mode", ["RGB", "LA"])
@pytest.mark.usefixtures("short")
def test_a_gray_picture_may_be_saved_as_another_kind(folder, tmp_path, mode):
    gray = np.load(folder / "images.npy")[0]
    Image.fromarray(gray).convert(mode).save(tmp_path / "a.png")
    here("inpaint.py", folder / "gan", tmp_path / "a.png", "--out", tmp_path / "out")
    with np.load(tmp_path / "out" / "inpainted.npz") as file:
        np.testing.assert_array_equal(file["images"], gray[None, ..., None])


@pytest.mark.usefixtures("short")
def test_pictures_of_a_conditional_run_in_colour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 5, 3, 3), np.uint8)
    names = ["zero", "one"]
    np.savez("colour.npz", images=images, labels=np.arange(20) % 2, classes=names)
    model = ("--model", "diffusion", "--width", 8, "--blocks", 1, "--conditional")
    short = ("--dataset", "colour.npz", "--epochs", 1, "--no-evaluate", "--workdir", "run")
    here("train.py", *short, *model)
    said, _ = here("inpaint.py", "run", "--num", 2, "--draws", 1)
    assert "2 train images of colour.npz, 13.3% of their pixels filled in: inpainted" in said
    # A grey picture, of odd size; the folder is named by a link.
    Image.fromarray(images[0, ..., 0]).save("grey.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other")
    said, _ = here("inpaint.py", "run", "grey.png", "--draws", 2, "--out", "link")
    assert "1 given images of grey.png" in said
    with np.load("other/inpainted.npz") as file:
        np.testing.assert_array_equal(file["images"][0], np.repeat(images[0, ..., :1], 3, axis=2))
        assert np.argwhere(file["missing"][0]).tolist() == [[1, 1], [2, 1]]
    # The classes of a folder are in the order of their names, and keep the numbers of the run.
    for name, image in zip(("one", "zero"), images[:2], strict=True):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "classes" / name / "a.png")
    inpaint = mock.Mock(wraps=inpainting.inpaint)
    monkeypatch.setattr(inpainting, "inpaint", inpaint)
    here("inpaint.py", "run", "classes", "--out", "named")
    *_, labels = inpaint.call_args.args
    assert labels.tolist() == [1, 0]
    (tmp_path / "classes" / "one").rename(tmp_path / "classes" / "two")
    _, said = here("inpaint.py", "run", "classes", "--out", "other_names", status=2)
    assert (
        "classes has classes that the run run does not have: two. The run has zero, one\n" in said
    )
    assert said.count("\n") == 1
