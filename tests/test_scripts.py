"""The scripts as a user starts them, with real files; as processes where that is the matter."""

import csv
import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import (
    ROOT,
    contents,
    here,
    picture,
    read_terminal,
    save_images,
    script,
    undescribed,
)
from PIL import Image
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from jaxgan import MODELS, PRESETS, GANConfig, JaxganError, data, generate, loop, sample
from jaxgan.__main__ import described
from jaxgan.adversarial import diagnostics
from jaxgan.advice import advise, longer
from jaxgan.commands import inpaint, report, train
from jaxgan.commands import sample as sampling
from jaxgan.data.pixels import to_uint8
from jaxgan.metrics import parts
from jaxgan.report import plots, texts
from jaxgan.run import saved
from jaxgan.run.checkpoint import RunFolder, read_config

GAN = MODELS["gan"]
COLUMNS = (
    "epoch,step,gen_loss,disc_loss,real_score,fake_score,penalty,real_accuracy,fake_accuracy,"
    "logit_spread,gen_grad_norm,disc_grad_norm,gen_loss_sd,disc_loss_sd,seconds,steps_per_second,"
    "fd,precision,recall,density,coverage,"
    "real_fd,real_precision,real_recall,real_density,real_coverage,failures"
)
SMALL = (
    *("--generator-widths", 16, "--latent-dim", 8),
    *("--discriminator-widths", 16, "--discriminator-dropout", 0.3),
)
EQUAL = ("--batch-size", 125)
"""Twelve equal batches of the digits: a smaller last batch would need a program of its own."""
DIGITS = ("train.py", "--dataset", "digits", *EQUAL, *SMALL)


@pytest.fixture
def refused():
    """Runs a script that has to exit with status 2; gives its errors."""
    return lambda name, *arguments: here(name, *arguments, status=2)[1]


@pytest.fixture
def user_error(refused):
    """Runs a script that has to end with one line of error."""

    def run_here(name: str, *arguments) -> str:
        err = refused(name, *arguments)
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        return err

    return run_here


@pytest.fixture
def advice(monkeypatch):
    """The command that train.py suggests after a run with a verdict, by its options."""

    def advise(health: str, options: str, epochs: int = 6) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *options.split()])
        _, command = train.advice(health, train.parse_options(), epochs, Path("runs/x"))
        return " ".join(command)

    return advise


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder after three epochs on the digits."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    out, err = here(*DIGITS, "--epochs", 3, "--log", "tensorboard", "--workdir", workdir)
    assert not err
    assert len([line for line in out.splitlines() if line.startswith("epoch ")]) == 3
    assert f"everything is in {workdir}" in out
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Verdict: undertrained. "))
    advice = lines.index("Next: train longer; this continues the run.")
    assert max(map(len, lines[at:advice])) <= 80
    assert lines[advice + 1].endswith(f"--workdir {workdir} --epochs 1955")
    return workdir


def enlarged(grid: np.ndarray, width: int) -> np.ndarray:
    """A grid as the picture of this width shows it."""
    scale = width // grid.shape[1]
    grid = grid[..., 0] if grid.shape[-1] == 1 else grid
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def test_the_run_folder_has_all_that_is_promised(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["gan"]["image_shape"], config["data"]["images"]) == ([8, 8, 1], 1500)
    assert config["model"] == "gan"
    lines = (trained / "metrics.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    assert undescribed(trained) == set()
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "12"], ["2", "24"], ["3", "36"]]
    names = [f"image_at_epoch_000{i}.png" for i in (1, 2, 3)]
    assert sorted(path.name for path in (trained / "samples").iterdir()) == names
    # Samples are scored at half the epochs and at the end. Then there is a checkpoint.
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["24", "36"]
    rows = list(csv.DictReader(lines))
    assert [bool(row["fd"]) for row in rows] == [False, True, True]
    report = json.loads((trained / "report.json").read_text())
    assert report["scores"]["fd(pca64, train, n=750)"]["value"] == float(rows[-1]["fd"])
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))


def test_the_pictures_of_a_run_are_its_samples_and_its_images(trained):
    state, _ = saved.load_state(GAN, trained)
    drawn = sample(state, loop.make_rngs(0).pictures, 16)
    shown = picture(trained / "samples" / "image_at_epoch_0003.png")
    assert shown.shape == (448, 448)
    np.testing.assert_array_equal(shown, enlarged(plots.image_grid(drawn), 448))
    chosen = plots.choose_real(data.load("digits").images)
    real = picture(trained / "real.png")
    np.testing.assert_array_equal(real, enlarged(plots.image_grid(chosen), 448))
    with Image.open(trained / "training.gif") as animation:
        assert animation.n_frames == 3
        for i in range(3):
            animation.seek(i)
            frame = np.asarray(animation.convert("L"))
            shown = picture(trained / "samples" / f"image_at_epoch_000{i + 1}.png")
            np.testing.assert_array_equal(frame, shown)
    history = saved.read_history(GAN, trained)
    drawn = plots.curves_png(history, GAN.curves, GAN.equilibrium(GAN.config()))
    assert (trained / "curves.png").read_bytes() == drawn


@pytest.mark.usefixtures("no_curves")
def test_a_run_without_scores_has_no_verdict_on_its_samples(tmp_path):
    out, _ = here(*DIGITS, "--epochs", 1, "--no-evaluate", "--workdir", tmp_path / "run")
    shown = " ".join(out.split())
    assert "Verdict: unknown. Samples were not scored. At the end no failure was seen." in shown
    assert "sample.py --workdir " in out.splitlines()[-2]
    # Each score has a real_ score beside it.
    scores = {name for name in COLUMNS.split(",") if f"real_{name}" in COLUMNS}
    assert "coverage" in scores
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert not scores & set(header.split(","))
    assert json.loads((tmp_path / "run" / "report.json").read_text())["scores"] == {}
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["12"]


@pytest.mark.parametrize(
    ("health", "given", "suggested"),
    [
        # The preset gives the networks and how they learn; the data stay.
        ("collapsed", "--dataset digits --loss minimax --workdir x", "--dataset digits"),
        ("poor", "--generator-widths 8 16 --batch-size=9 --generator_lr=0.1", "--batch-size=9"),
        ("diverged", "--data-dir d --epochs 5", "--data-dir d"),
        ("no convergence", "--preset tuned --r1 0 --seed 3", "--seed 3"),
    ],
)
def test_the_next_command_after_a_failure_has_a_tuned_preset(health, given, suggested, advice):
    assert advice(health, given) == f"python train.py {suggested} --preset tuned"


@pytest.mark.parametrize(
    ("health", "given", "suggested"),
    [
        ("undertrained", "--loss minimax --steps 9 --workdir x", "--loss minimax --workdir x"),
        ("undertrained", "--epochs 4 --preset tuned", "--preset tuned"),
        # There is no better preset than large.
        ("poor", "--preset=large --epochs=4", "--preset=large"),
    ],
)
def test_the_next_command_of_a_run_that_may_improve_has_twice_the_epochs(
    health, given, suggested, advice
):
    assert advice(health, given, epochs=8) == f"python train.py {suggested} --epochs 8"


def test_the_next_command_may_be_a_larger_preset_or_lower_rates_or_samples(advice):
    assert advice("poor", "--preset tuned --seed 3") == "python train.py --seed 3 --preset large"
    # The folder holds a run with other rates.
    rates = "--generator-lr=2.5e-05 --discriminator-lr=0.0002"
    found = advice("diverged", "--preset large --workdir x --seed 3")
    assert found == f"python train.py --preset large --seed 3 {rates}"
    for health in ("healthy", "unknown"):
        sampled = advice(health, "--loss minimax")
        assert sampled.startswith("python sample.py --workdir runs/x --num 10000 ")


def test_the_advice_for_points_and_for_a_short_run():
    # Some presets cannot be used for points.
    points = GANConfig(image_shape=(1, 1, 2), bounded=False)
    assert advise(MODELS["gan"], points, "poor", 6, "ring")[1] == ["--preset", "tuned"]
    # Twice the epochs of a short run would still be short.
    assert longer([{"step": 12}, {"step": 24}], 23_450) == 1955
    assert longer([{"step": 12}, {"step": 24}], 24) == 4


def test_the_next_command_of_a_run_with_own_parts_keeps_or_leaves_its_config(advice):
    own = ROOT / "scripts" / "conv_gan.py"
    assert advice("poor", f"--config {own} --seed 3") == "python train.py --seed 3 --preset tuned"
    sampled = advice("healthy", f"--config {own}")
    assert sampled.startswith(f"python sample.py --workdir runs/x --config {own} --num 10000 ")
    longer = advice("undertrained", f"--config {own}", epochs=4)
    assert longer == f"python train.py --config {own} --epochs 4"


@pytest.mark.parametrize(
    ("health", "given", "suggested"),
    [
        (
            "healthy",
            "",
            "draw samples: `jaxgan sample --workdir RUN --num 10000 --out samples.npz`.",
        ),
        ("undertrained", "", "train longer; this continues the run: `--epochs 6`."),
        ("poor", "--preset large", "train longer; this continues the run: `--epochs 6`."),
        (
            "poor",
            "--model gaussian",
            "a network can learn more than Gaussians: `--preset diffusion`.",
        ),
        (
            "collapsed",
            "--dataset digits",
            "on digits, samples of tuned cover 99% of the data, those of reference 83%: "
            "`--preset tuned`.",
        ),
        (
            "poor",
            "--dataset digits --preset large --r1 0",
            "on fashion_mnist, samples of large cover 87% of the data: `--preset large`.",
        ),
        (
            "diverged",
            "--preset large",
            "a tenth of the learning rates: `--generator-lr=2.5e-05 --discriminator-lr=0.0002`.",
        ),
    ],
)
def test_the_page_of_a_run_has_the_advice_of_train(health, given, suggested, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *given.split()])
    options = train.parse_options()
    reason, command = train.advice(health, options, 6, Path("RUN"))
    # The config as the run folder has it, fitted to the data.
    config = dataclasses.replace(options.model_config, image_shape=(8, 8, 1), num_classes=3)
    model = MODELS[options.model]
    config = model.config(**json.loads(json.dumps(saved.as_json(config))))
    run = types.SimpleNamespace(
        model=model, config=config, history=[{"step": 56_280}] * 3, settings=options.train
    )
    assert report.advice(run, health) == suggested
    text, shown = suggested[:-2].split(": `")
    assert text == reason.removesuffix(".")
    assert " ".join(command).endswith(shown.removeprefix("jaxgan sample"))


def test_a_run_with_more_epochs_than_were_asked_for_last_has_ended(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((trained / "config.json").read_text())
    config["train"]["epochs"] = 2
    del config["sha256 of the rest"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    run = report.Run(str(tmp_path / "run"), None)
    assert report.lead(run) == "GAN on digits, 3 epochs, 36 steps"
    assert report.make_view(run).health == "undertrained"


def test_the_page_of_a_run_without_checkpoint_says_so(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    run = report.Run(str(tmp_path / "run"), None)
    assert (run.state, run.no_state) == (None, "The run has no checkpoint yet.")


@pytest.mark.usefixtures("no_curves")
def test_a_finished_run_says_so_and_more_epochs_continue_it(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    out, _ = here(*DIGITS, "--epochs", 3, "--workdir", tmp_path / "run")
    assert "already trained for 3 epochs" in out
    out, _ = here(*DIGITS, "--epochs", 4, "--workdir", tmp_path / "run")
    assert "resuming" in out
    assert "epoch 4/4" in out
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 5


def test_another_config_is_refused_and_nothing_changes(trained, user_error):
    before = contents(trained)
    options = ("--latent-dim", 7, "--seed", 3, "--image-size", 16)
    error = user_error(*DIGITS, *options, "--workdir", trained)
    assert "train.image_size: None -> 16, train.seed: 0 -> 3" in error
    assert "and 2 more)" in error
    assert contents(trained) == before


def test_a_folder_in_use_is_refused(trained, user_error):
    holder = RunFolder(trained, read_config(trained))
    before = contents(trained)
    error = user_error(*DIGITS, "--epochs", 9, "--workdir", trained)
    assert "in use by another process" in error
    assert contents(trained) == before
    holder.close()


def test_samples_as_array_picture_and_folder(trained, tmp_path):
    options = ("sample.py", "--workdir", trained, "--seed", 1)
    out, _ = here(*options, "--num", 30, "--out", tmp_path / "a.npz")
    assert "30 images of 8x8x1" in out
    images = np.load(tmp_path / "a.npz")["images"]
    assert (images.shape, images.dtype) == ((30, 8, 8), np.uint8)
    # Each image has a key of its own.
    state, _ = saved.load_state(GAN, trained)
    rngs = [jax.random.fold_in(jax.random.key(1), i) for i in range(30)]
    latents = np.stack([jax.random.normal(rng, (8,)) for rng in rngs])
    np.testing.assert_array_equal(images, to_uint8(generate(state, latents))[..., 0])

    here(*options, "--num", 5, "--out", f"{tmp_path}/f/")
    pngs = sorted((tmp_path / "f").iterdir())
    assert [path.name for path in pngs] == [f"0000{i}.png" for i in range(5)]
    # Fewer samples of the same seed are the first of more.
    np.testing.assert_array_equal([picture(path) for path in pngs], images[:5])

    here(*options, "--num", 9, "--out", tmp_path / "g.png")
    grid = picture(tmp_path / "g.png")
    assert grid.shape == (24 * 19, 24 * 19)
    expected = plots.image_grid(images[:9, ..., None])
    np.testing.assert_array_equal(grid, enlarged(expected, 24 * 19))
    here(*options[:-1], 2, "--num", 9, "--out", tmp_path / "h.png")
    assert (picture(tmp_path / "h.png") != grid).any()


def test_interpolation_goes_smoothly_from_one_latent_to_another(trained, tmp_path):
    options = ("sample.py", "--workdir", trained, "--num", 20, "--interpolate")
    here(*options, "--out", tmp_path / "i.npz")
    images = np.load(tmp_path / "i.npz")["images"]
    rows = images.reshape(2, 10, 64).astype(float)
    steps = np.abs(np.diff(rows, axis=1)).mean(-1)
    ends = np.abs(rows[:, -1] - rows[:, 0]).mean(-1)
    assert (ends > 2 * steps.max(axis=1)).all()
    # In a picture each pair of latents has a row.
    here(*options, "--out", tmp_path / "i.png")
    shown = picture(tmp_path / "i.png")
    grid = plots.image_grid(images[..., None], 10)
    np.testing.assert_array_equal(shown, enlarged(grid, shown.shape[1]))


def test_the_newest_run_is_sampled_unless_it_has_no_checkpoint(
    trained, tmp_path, monkeypatch, user_error
):
    monkeypatch.chdir(tmp_path)
    assert "there is no run in runs/" in user_error("sample.py")
    for age, name in enumerate(("new", "old")):
        shutil.copytree(trained, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "metrics.csv", (1e9 - age, 1e9 - age))
    out, _ = here("sample.py", "--num", 4, "--out", "a.npz")
    assert out.startswith("the newest run: runs/new\nafter ")
    assert np.load("a.npz")["images"].shape == (4, 8, 8)
    shutil.rmtree(tmp_path / "runs" / "new" / "checkpoints")
    assert "runs/new has no checkpoint yet" in user_error("sample.py", "--out", "b.npz")
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num", 0], "--num must be 1 or more"),
        (["--seed", -1], "--seed must be from 0"),
        (["--out", "a.jpg"], "--out must be NAME.npz, NAME.png or a folder, got 'a.jpg'"),
        (["--num", 10_001, "--out", "a.png"], "too large for one picture"),
        (["--workdir", "nowhere"], "nowhere is not a run folder"),
        (["--member", 0], "this is one run, not a population"),
        (["--out", "/dev/null/a.npz"], "cannot write to /dev/null/a.npz"),
    ],
)
def test_mistakes_in_sampling_get_one_line(trained, user_error, arguments, message):
    workdir = [] if "--workdir" in arguments else ["--workdir", trained]
    assert message in user_error("sample.py", *workdir, *arguments)


def test_what_cannot_be_written_is_refused_before_samples_are_drawn(
    trained, tmp_path, monkeypatch, user_error
):
    monkeypatch.setattr(sampling, "draw_latents", lambda *_: pytest.fail("samples are drawn"))
    (tmp_path / "a.npz").mkdir()
    for out in (tmp_path / "a.npz", "/proc/x/a.npz"):
        error = user_error("sample.py", "--workdir", trained, "--out", out)
        assert f"cannot write to {out}" in error


def test_an_exported_model_is_not_its_own_output(trained, tmp_path, monkeypatch, user_error):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a b.safetensors"
    out, _ = here("export.py", trained, "--to", "safetensors", "--out", file)
    assert f"/sample.py '{file}'\n" in out
    before = contents(tmp_path)
    for own in ((), ("--out", file)):
        error = user_error("export.py", file, "--to", "safetensors", "--latent-scale", 0.5, *own)
        assert f"--out is the model itself, {file}: give another file" in error
    assert contents(tmp_path) == before


def test_who_draws_or_exports_samples_is_told_that_they_are_not_anonymous(trained, tmp_path):
    export = ("export.py", "--to", "safetensors", "--out", tmp_path / "a.safetensors")
    for command in (export, ("sample.py", "--out", tmp_path / "a.npz")):
        out, _ = here(*command, trained)
        lines = out.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("These samples are not "))
        assert " ".join(lines[at:]).startswith(texts.NOT_ANONYMOUS)
        assert max(map(len, lines[at:])) <= 80


def test_files_and_vectors_and_options_without_effect_are_refused(tmp_path, user_error):
    file = tmp_path / "m.safetensors"
    file.write_text("")
    error = user_error("diagnose.py", file)
    assert f"{file} is a file: a diagnosis is about run folders" in error
    np.savez(tmp_path / "v.npz", images=np.zeros((9, 2), np.float32), labels=np.arange(9) % 2)
    error = user_error("train_judge.py", "--dataset", tmp_path / "v.npz", "--out", file)
    assert "v.npz contains vectors, and a judge is of images" in error
    for option in (("--model", "gan"), ("--steps", 3)):
        error = user_error("upsample.py", "digits", "--run", tmp_path, *option)
        assert f"--run takes a trained model, so it has no {option[0]}" in error


def test_samples_do_not_mix_with_other_files(tmp_path, user_error):
    (tmp_path / "mine.txt").write_text("")
    assert "is not empty" in user_error("sample.py", "--out", f"{tmp_path}/")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "fashon_mnist"], "unknown dataset 'fashon_mnist'; did you mean fashion_mn"),
        (["--dataset", "digits", "--workdir", "/dev/null/run"], "cannot write to /dev/null/run"),
        (["--dataset", "nowhere.npz"], "nowhere.npz: cannot be read"),
        (["--dataset", "digits", "--pac", 97], "1500 images in batches of 128 the last batch has"),
    ],
)
def test_mistakes_in_training_get_one_line(user_error, arguments, message):
    assert message in user_error("train.py", *SMALL, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", 3], "--epochs"),
        (["--preset", "nonesuch"], "reference"),
        (["--preset"], "train.py --help"),
        (["--batch-size", 0], "batch_size must be a whole number above 0"),
        (["--discriminator-widths", 3, 4], "one rate for each of the 2 discriminator_widths"),
    ],
)
def test_wrong_options_exit_with_2_and_are_explained(refused, arguments, message):
    err = refused("train.py", *arguments)
    assert "Traceback" not in err
    assert message in err


@pytest.mark.usefixtures("no_curves")
def test_colour_images_from_a_folder_to_samples_and_fewer_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (12 + i, 14, 3), np.uint8))
        image.save(tmp_path / "images" / str(i % 2) / f"{i}.png")
    workdir = tmp_path / "run"
    here(
        *("train.py", "--dataset", tmp_path / "images", "--image-size", 8, "--epochs", 5, *SMALL),
        *("--sample-every", 2, "--checkpoint-every", 2, "--no-evaluate", "--workdir", workdir),
    )
    # Every second, and the last.
    names = [f"image_at_epoch_000{i}.png" for i in (2, 4, 5)]
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == names
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [2, 4, 5]
    state, _ = saved.load_state(GAN, workdir)
    grid = plots.image_grid(sample(state, loop.make_rngs(0).pictures, 16))
    shown = picture(workdir / "samples" / names[2])
    assert shown.shape == (448, 448, 3)
    np.testing.assert_array_equal(shown, enlarged(grid, 448))
    here("sample.py", "--workdir", workdir, "--num", 3, "--out", tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["images"].shape == (3, 8, 8, 3)
    # A mask of the size of a picture is resized like it, and stays black and white.
    mask = np.zeros((12, 14), np.uint8)
    mask[:, 7:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = inpaint.Options(str(workdir), mask=str(tmp_path / "mask.png"))
    missing = inpaint.make_missing(options, 2, 8, 8)
    np.testing.assert_array_equal(missing, np.broadcast_to(np.arange(8) >= 4, (2, 8, 8)))


@pytest.fixture(scope="module")
def by_class(tmp_path_factory) -> Path:
    """A folder with pictures of three digits, and a conditional run on them."""
    folder, digits = tmp_path_factory.mktemp("classes"), data.load("digits")
    for i in np.flatnonzero(np.asarray(digits.labels) < 3)[:375]:
        (folder / "digits" / str(digits.labels[i])).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(digits.images[i, ..., 0])
        image.save(folder / "digits" / str(digits.labels[i]) / f"{i}.png")
    train = ("train.py", "--dataset", folder / "digits", *EQUAL, *SMALL)
    options = ("--epochs", 2, "--conditional", "--no-evaluate", "--ema-decay", 0.9)
    here(*train, *options, "--workdir", folder / "run")
    return folder


def test_a_conditional_run_from_labels_to_samples(by_class, trained, tmp_path, user_error):
    workdir = by_class / "run"
    described = read_config(workdir)
    assert described["gan"]["num_classes"] == 3
    assert described["data"]["classes"] == list("012")
    state, _ = saved.load_state(GAN, workdir)
    # A row of eight samples for each class, behind their names.
    labels = np.repeat(np.arange(3), 8)
    grid = plots.image_grid(sample(state, loop.make_rngs(0).pictures, 24, labels), 8)
    shown = picture(workdir / "samples" / "image_at_epoch_0002.png")
    assert shown.shape[1] > 448
    np.testing.assert_array_equal(shown[:, -448:], enlarged(grid, 448))
    names = shown[:, :-448].reshape(3, 56, -1)
    assert (names.min(axis=(1, 2)) < 128).all()
    assert len({name.tobytes() for name in names}) == 3
    digits = data.load(by_class / "digits")
    real = picture(workdir / "real.png")[::7, -448::7].reshape(3, 8, 8, 8).swapaxes(1, 2)
    for label, row in enumerate(real):
        of_class = digits.images[digits.labels == label][..., 0]
        assert all((image == of_class).all(axis=(1, 2)).any() for image in row)

    out = tmp_path / "a.npz"
    options = ("sample.py", "--workdir", workdir, "--out", out)
    for given, expected in (
        (("--num", 21), np.arange(21) % 3),
        (("--num", 21, "--label", 2), np.full(21, 2)),
        (("--num", 19, "--label", "all"), np.repeat(np.arange(3), 7)),
        (("--num", 20, "--interpolate"), np.repeat([0, 1], 10)),
        (("--num", 15, "--interpolate", "--label", "all"), np.repeat(np.arange(3), 10)),
    ):
        here(*options, *given)
        np.testing.assert_array_equal(np.load(out)["labels"], expected)
    drawn = tmp_path / "a.png"
    here("sample.py", "--workdir", workdir, "--num", 21, "--label", "all", "--out", drawn)
    assert picture(drawn).shape[0] == 3 * 8 * 8
    assert "--label must be a number from 0 to 2, or all; got '3'" in user_error(
        *options, "--label", 3
    )

    message = user_error(
        "sample.py", "--workdir", trained, "--label", 1, "--out", tmp_path / "b.png"
    )
    assert "has no classes: leave out --label, or train with --conditional" in message
    np.save(tmp_path / "images.npy", np.zeros((9, 8, 8), np.uint8))
    message = user_error("train.py", "--dataset", tmp_path / "images.npy", "--conditional")
    assert "has no labels, and a conditional model needs them" in message


def test_the_scores_by_class_of_a_conditional_run(by_class, tmp_path):
    workdir, n = by_class / "run", 375 // 2
    out, _ = here("evaluate.py", workdir, "--num", 120)
    assert "No scores by class: they need a judge, or 50 samples of a class." in out
    here("evaluate.py", workdir, "--num", 150, "--json", tmp_path / "some.json")
    some = json.loads((tmp_path / "some.json").read_text(), parse_constant=pytest.fail)
    values = some["real images"]["fd_by_class(pca64, train, n=150)"]
    assert {value is None for value in values} == {True, False}
    out, _ = here("evaluate.py", workdir, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    real, own = (scores[name] for name in ("real images", str(workdir)))
    by_class = [column[f"fd_by_class(pca64, train, n={n})"] for column in (real, own)]
    assert [len(values) for values in by_class] == [3, 3]
    assert max(by_class[0]) < min(by_class[1])
    found = own[f"class_fd(pca64, train, n={n})"]
    assert found == pytest.approx(np.mean(by_class[1]))
    lines = out.splitlines()
    at = lines.index(f"{workdir}:")
    shown = [float(line.split()[1]) for line in lines[at + 2 : at + 5]]
    assert shown == pytest.approx(by_class[1], rel=0.01)


def test_a_diffusion_run_from_training_to_samples(trained, tmp_path, monkeypatch, user_error):
    monkeypatch.chdir(tmp_path)
    small = ("--width", 16, "--blocks", 1, "--sample-steps", 4, "--lr", 2e-3)
    train = ("train.py", "--model", "diffusion", "--dataset", "digits", *EQUAL, *small)
    out, _ = here(*train, "--epochs", 2)
    workdir = tmp_path / "runs" / "digits-diffusion"
    assert f"everything is in {workdir}" in out
    assert "Verdict: undertrained" in out
    described = read_config(workdir)
    assert (described["model"], described["diffusion"]["lr"]) == ("diffusion", 2e-3)
    model = MODELS["diffusion"]
    state, _ = saved.load_state(model, workdir)
    grid = plots.image_grid(model.sample(state, loop.make_rngs(0).pictures, 16))
    shown = picture(workdir / "samples" / "image_at_epoch_0002.png")
    np.testing.assert_array_equal(shown, enlarged(grid, 448))
    with (workdir / "metrics.csv").open(newline="") as file:
        names = next(csv.reader(file))
    assert {"loss", "low_loss", "middle_loss", "high_loss", "grad_norm"} < set(names)
    assert picture(workdir / "curves.png").size
    out, _ = here("diagnose.py", workdir)
    assert "mean squared error" in out

    # Other steps and other samplers give other samples of the same latents.
    options = ("sample.py", "--workdir", workdir, "--num", 10, "--out", "a.npz")
    drawn = []
    for given in ((), ("--sample-steps", 9), ("--sampler", "dpm_solver"), ("--eta", 1)):
        here(*options, *given)
        drawn.append(np.load("a.npz")["images"].astype(int))
    assert len({images.tobytes() for images in drawn}) == 4
    here(*options, "--num", 5)
    assert np.abs(np.load("a.npz")["images"].astype(int) - drawn[0][:5]).max() <= 1
    here(*options, "--interpolate")
    between = np.load("a.npz")["images"].astype(int)
    assert (np.abs(np.diff(between, axis=0)).sum(axis=(1, 2)) > 0).all()
    assert "sample_steps must be at most noise_levels, 1000" in user_error(
        *options, "--sample-steps", 2000
    )
    assert "--preset tuned is for --model gan" in user_error(*train, "--preset", "tuned")
    assert "add --conditional" in user_error(*train, "--guidance", 2)
    assert "--guidance is for runs with classes" in user_error(*options, "--guidance", 2)
    out, _ = here(*train, "--summary", "--epochs", 0)
    assert "MLPDenoiser Summary" in out
    assert "a run of the model diffusion: leave out --latent-scale" in user_error(
        *options, "--latent-scale", 2
    )
    assert "a run of the model gan: leave out --guidance" in user_error(
        *("sample.py", "--workdir", trained, "--guidance", 2, "--out", "b.png")
    )
    # Sampling may change when the run goes on.
    out, _ = here(*train, "--epochs", 3, "--no-evaluate", "--sampler", "dpm_solver")
    assert f"resuming {workdir} after 2 epochs" in out


def test_points_from_a_mixture_to_scatter_plots_and_scores(tmp_path, monkeypatch, user_error):
    workdir = tmp_path / "run"
    options = ("--dataset", "grid", "--batch-size", 50_000, *SMALL, "--workdir", workdir)
    out, _ = here("train.py", *options, "--epochs", 2)
    sentence = r"Verdict: undertrained. The samples have \d+ of 25 modes, and \d+% of them lie"
    assert re.search(sentence, " ".join(out.split()))
    # One run has an interval of each score, from its samples.
    scores = json.loads((workdir / "report.json").read_text())["scores"]
    assert {"modes", "high_quality", "reverse_kl"} < set(scores)
    low, high = scores["high_quality"]["interval"]
    assert low <= scores["high_quality"]["value"] <= high
    assert undescribed(workdir) == set()
    chosen = plots.choose_real(data.load("grid").images)
    real = picture(workdir / "real.png")
    np.testing.assert_array_equal(real, plots.picture(chosen))
    pictures = [picture(workdir / f"samples/image_at_epoch_000{i}.png") for i in (1, 2)]
    assert (pictures[0] != pictures[1]).any()
    state, _ = saved.load_state(GAN, workdir)
    drawn = sample(state, loop.make_rngs(0).pictures, 2500)
    np.testing.assert_array_equal(pictures[1], plots.scatter(drawn, chosen))
    # The axes are the same in all, to the pixel.
    for image in pictures:
        assert image.shape == real.shape == (448, 448, 3)
        np.testing.assert_array_equal(image[-20:], real[-20:])
    assert "--image-size" in user_error("train.py", *options, "--image-size", 8)

    options = ("sample.py", "--workdir", workdir, "--num", 30)
    out, _ = here(*options, "--out", tmp_path / "a.npz")
    assert "30 vectors of 2 in" in out
    points = np.load(tmp_path / "a.npz")["images"]
    assert (points.shape, points.dtype) == ((30, 2), np.float32)
    assert len(np.unique(points)) == 60
    here(*options, "--out", tmp_path / "a.png")
    np.testing.assert_array_equal(picture(tmp_path / "a.png"), plots.scatter(points, chosen))
    assert "vectors go into NAME.npz or NAME.png" in user_error(*options, "--out", f"{tmp_path}/f/")

    def lost(*_, **__):
        raise JaxganError("the data are gone")

    monkeypatch.setattr(data, "load", lost)
    here(*options, "--out", tmp_path / "b.png")
    np.testing.assert_array_equal(picture(tmp_path / "b.png"), plots.scatter(points, None))


@pytest.mark.usefixtures("no_curves")
def test_a_table_of_people_becomes_one_that_may_be_shared(tmp_path):
    """The example of scripts/README.md."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = 2 * rows / rows.max(axis=0) - 1
    np.savez(tmp_path / "people.npz", images=rows[::2], labels=labels[::2])
    workdir, drawn = tmp_path / "run", tmp_path / "samples.npz"
    options = ("--dataset", tmp_path / "people.npz", "--conditional", "--workdir", workdir)
    here("train.py", *options, "--epsilon", 10, "--delta", 1e-4)
    assert not (workdir / "real.png").exists()
    here("sample.py", "--workdir", workdir, "--num", 1000, "--out", drawn)
    with np.load(drawn) as file:
        samples = dict(file)
    assert samples["images"].shape == (1000, 30)
    fitted = LogisticRegression(max_iter=5000).fit(samples["images"], samples["labels"])
    assert fitted.score(rows[1::2], labels[1::2]) > 0.85
    (tmp_path / "people.npz").unlink()  # a picture does not show the real rows
    here("sample.py", "--workdir", workdir, "--out", tmp_path / "a.png")


def test_a_terminal_gets_bars_and_a_failure_which_may_end_the_run(tmp_path, terminal, user_error):
    master, slave = terminal
    workdir = tmp_path / "run"
    options = ("--dataset", "digits", "--epochs", "50", "--loss", "minimax", "--stop-on-failure")
    options += ("--batch-size", "8", "--generator-widths", "16", "--latent-dim", "8")
    options += ("--discriminator-lr", "0.02", "--discriminator-widths", "32")
    options += ("--discriminator-dropout", "0", "--sample-every", "50")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *options, "--workdir", str(workdir)],
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = read_terminal(master)
    assert process.wait() == 5
    shown = shown.decode()
    # A bar for the run, in place of lines, with the time left and both losses.
    losses = r"gen_loss=\S+, disc_loss="
    assert re.search(rf"epoch \d+/50:\s+\d+%\|.*\| \d\d:\d\d<\d\d:\d\d, {losses}", shown)
    assert not re.search(r"epoch \d+/50  ", shown)
    lines = [line.split("\r")[-1] for line in shown.splitlines()]
    found = [line for line in lines if line.startswith("vanishing gradients, epoch ")]
    # After the bar of its epoch. The verdict comes last.
    assert len(found) == 1
    assert any(
        line.startswith("Verdict: vanishing gradients. First seen in epoch ") for line in lines
    )
    assert "--loss non_saturating" in " ".join(lines)
    assert f"stopped by --stop-on-failure and saved in {workdir}" in lines

    lines = (workdir / "metrics.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[1] for line in lines[-2:]] == ["", "vanishing gradients"]
    epochs = len(lines) - 1
    assert 11 <= epochs < 50
    out, _ = here("diagnose.py", workdir)
    assert out.startswith(f"{epochs} epochs, {188 * epochs} steps\n")
    assert found[0].split(":")[0] in out
    equilibrium = GAN.equilibrium(saved.read_config(GAN, workdir))
    drawn = plots.curves_png(
        saved.read_history(GAN, workdir),
        diagnostics.CURVES,
        equilibrium,
        {"vanishing gradients": [epochs]},
        rows=2,
    )
    assert (workdir / "diagnosis.png").read_bytes() == drawn
    # The failure is in the curves, too.
    history, marks = saved.read_history(GAN, workdir), {"vanishing gradients": [epochs]}
    curves = plots.curves_png(history, GAN.curves, equilibrium, marks)
    assert (workdir / "curves.png").read_bytes() == curves
    assert "is no population" in user_error("diagnose.py", workdir, "--member", 0)
    assert "not a run folder" in user_error("diagnose.py", tmp_path)
    here("diagnose.py", workdir, "--plot", tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes() == drawn


def test_a_healthy_run_is_described(trained):
    out, _ = here("diagnose.py", trained)
    assert out.startswith("3 epochs, 36 steps\n")
    # 2,000 steps are 167 epochs of 12 steps.
    assert "the run is short: failures can only be seen after 164 more epochs" in " ".join(
        out.split()
    )
    assert max(map(len, out.splitlines()[:-1])) <= 80
    table = {line.split()[0]: line.split()[1:3] for line in out.splitlines()[2:]}
    rows = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))
    for name, at in (("gen_loss", (0, -1)), ("gen_loss_sd", (0, -1)), ("fd", (1, -1))):
        assert table[name] == [f"{float(rows[i][name]):.3g}" for i in at], name
    (line,) = [line for line in out.splitlines() if line.startswith("fd ")]
    assert f" near {float(rows[-1]['real_fd']):.3g} " in line


def test_a_reader_that_goes_away_gets_no_traceback(tmp_path):
    arguments = [*save_images(tmp_path, 32), "--epochs", 3, "--workdir", tmp_path / "run"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_help_explains_each_option_with_its_default():
    out, _ = here("train.py", "--help")
    gan, train = PRESETS["reference"]
    hidden = ("image_shape", "bounded", "num_classes", "generator", "discriminator")
    hidden += ("generator_optimizer", "discriminator_optimizer", "augmentation", "penalties")
    hidden += ("noise_multiplier",)  # --epsilon decides it
    for name in [*vars(gan), *vars(train), "workdir", "summary", "preset"]:
        option = f"--{'no-' * (name == 'evaluate')}{name.replace('_', '-')} "
        assert (option in out) == (name not in hidden), name
    assert "default: 64 128 256" in out
    assert "default: 0.001" in out


def test_train_names_the_commands_that_need_parts_of_your_own():
    (help_of_config,) = re.findall(
        r"--config {.*?--print-config", here("train.py", "--help")[0], re.DOTALL
    )
    readme = (ROOT / "scripts" / "README.md").read_text()
    (paragraph,) = re.findall(
        r"holds only the repr of such a part.*?same `--config`", readme, re.DOTALL
    )
    modules = {name: importlib.import_module(f"jaxgan.commands.{name}") for name in described()}
    names = {n for n, module in modules.items() if hasattr(module.Options, "config")} - {"train"}
    assert "export" in names
    for text in (help_of_config, paragraph):
        assert names == set(re.findall(r"(\w+)\.py", text)) & modules.keys() - {"train"}


def test_summary_shows_both_networks_of_the_data():
    out, _ = here("train.py", "--dataset", "digits", "--summary", "--epochs", 0)
    assert "MLPGenerator Summary" in out
    assert "128,8,8,1" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("no_curves")
def test_a_damaged_run_is_sampled_from_the_checkpoint_before(tmp_path):
    workdir = tmp_path / "r"
    here(*DIGITS, "--epochs", 2, "--checkpoint-every", 1, "--workdir", workdir)
    for path in (workdir / "checkpoints/24/arrays").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])
    # In a process, which makes one line of each warning.
    out, err = script("sample.py", "--workdir", workdir, "--out", tmp_path / "a.npz")
    assert "after 1 epochs" in out
    assert err.startswith("warning: checkpoint ")
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("no_curves")
def test_real_images_train_to_plausible_losses(real_data_dir, tmp_path, monkeypatch):
    """160 steps of small batches; the fiftieth epoch is measured in benchmarks/results."""
    load = data.load

    def load_some(*args, **options):
        whole = load(*args, **options)
        assert (whole.name, whole.images.shape) == ("fashion_mnist", (60_000, 28, 28, 1))
        return whole._replace(images=whole.images[:10_240], labels=whole.labels[:10_240])

    monkeypatch.setattr(data, "load", load_some)
    monkeypatch.setattr(parts, "STEPS", 160)  # after which samples are measured
    options = ("--dataset", "fashion_mnist", "--data-dir", real_data_dir)
    options += ("--epochs", 1, "--batch-size", 64, "--no-evaluate")
    here("train.py", *options, "--workdir", tmp_path / "r")
    (row,) = csv.DictReader((tmp_path / "r" / "metrics.csv").read_text().splitlines())
    assert row.pop("failures") == ""
    values = {name: float(value) for name, value in row.items()}
    assert values["step"] == 160
    assert 2 < values["gen_loss"] < 6
    assert 0.2 < values["disc_loss"] < 1
    assert 0.8 < values["real_score"] < 1
    assert 0 < values["fake_score"] < 0.3
    assert 0 < values["missed"] < 1


def test_importing_jaxgan_loads_nothing_heavy():
    heavy = ["tensorflow_datasets", "orbax", "matplotlib", "sklearn", "PIL", "tqdm", "tyro"]
    code = f"import sys, jaxgan; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("preset", [("--preset", "diffusion"), ("--preset=diffusion",)])
def test_the_preset_diffusion_is_of_that_model(preset, tmp_path, monkeypatch, user_error):
    monkeypatch.chdir(tmp_path)
    small = ("--width", 8, "--blocks", 1, "--dataset", "digits", "--epochs", 0)
    here("train.py", *preset, *small)
    found = json.loads(Path("runs/digits-diffusion/config.json").read_text())
    expected, training = PRESETS["diffusion"]
    assert found["model"] == "diffusion"
    assert (found["diffusion"]["lr"], found["diffusion"]["width"]) == (expected.lr, 8)
    assert found["train"]["batch_size"] == training.batch_size
    message = user_error("train.py", *preset, "--model", "gan")
    assert "--preset diffusion is for --model diffusion" in message
    assert "difusion" in user_error("train.py", "--preset", "difusion", "--model", "diffusion")


def test_a_preset_gives_the_defaults_that_other_options_change(tmp_path):
    options = ("--preset", "tuned", "--r1", 0.5, "--epochs", 0, "--workdir", tmp_path)
    here(*DIGITS, *options)
    gan = json.loads((tmp_path / "config.json").read_text())["gan"]
    tuned = PRESETS["tuned"][0]
    assert gan["r1"] == 0.5 != tuned.r1
    same = ("loss", "generator_lr", "discriminator_lr", "lr_scale", "ema_decay", "augment")
    assert {name: gan[name] for name in same} == {name: getattr(tuned, name) for name in same}
    assert gan["loss"] != PRESETS["reference"][0].loss
