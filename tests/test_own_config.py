"""`--config`: settings from a file. FILE.py:NAME may have parts of the user's own."""

import json
import sys
import textwrap
import types

import jax
import numpy as np
import pytest
from helpers import ROOT, assert_trees_equal, here, save_images

from jaxgan import MODELS, JaxganError, cli, sample
from jaxgan.commands.train import label
from jaxgan.run import saved

CONFIG = """
    import dataclasses

    import flax.linen as nn
    import jax.numpy as jnp
    import optax

    from jaxgan import GANConfig, losses


    class Generator(nn.Module):
        width: int = 8

        @nn.compact
        def __call__(self, latents):
            x = nn.relu(nn.Dense(self.width)(latents))
            return jnp.tanh(nn.Dense(64)(x)).reshape(-1, 8, 8, 1)


    def saturating(real_logits, fake_logits):
        return losses.minimax(real_logits, fake_logits)


    config = GANConfig(
        latent_dim=4,
        generator=Generator(),
        discriminator_widths=(16,),
        discriminator_dropout=(0.0,),
        generator_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
        loss=saturating,
    )
    wider = dataclasses.replace(config, generator=Generator(width=12))
    number = 3
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "my_gan.py"
    file.write_text(textwrap.dedent(CONFIG))
    return file


@pytest.fixture
def data(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (128, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    return tmp_path / "images.npy"


@pytest.mark.usefixtures("no_curves")
def test_a_run_with_own_parts_trains_resumes_samples_and_evaluates(file, data, tmp_path):
    run, own = tmp_path / "run", ("--config", f"{file}:config")
    options = ("--dataset", data, "--batch-size", 16, "--no-evaluate")
    train = ("train.py", *own, *options, "--workdir", run)
    out, _ = here(*train, "--epochs", 1, "--r1", 0.1)
    assert "everything is in" in out
    described = json.loads((run / "config.json").read_text())["gan"]
    assert described["loss"] == {"own": "<function saturating>"}
    assert described["generator"]["own"].startswith("Generator(")
    assert (described["r1"], described["latent_dim"]) == (0.1, 4)
    out, _ = here(*train, "--epochs", 2, "--r1", 0.1)
    assert "after 1 epochs" in out

    out, _ = here("sample.py", "--workdir", run, *own, "--num", 4, "--out", tmp_path / "s.npz")
    assert "after 2 epochs" in out
    drawn = np.load(tmp_path / "s.npz")["images"]
    assert drawn.shape == (4, 8, 8)
    config = cli.load_config(f"{file}:config", MODELS)
    state, epochs = saved.load_state(MODELS["gan"], run, config=config)
    assert (epochs, int(state.step)) == (2, 16)
    assert sample(state, jax.random.key(0), 4).shape == (4, 8, 8, 1)
    here("evaluate.py", run, *own, "--json", tmp_path / "scores.json")
    assert str(run) in (tmp_path / "scores.json").read_text()
    here("diagnose.py", run)

    _, err = here("sample.py", "--workdir", run, status=2)
    assert "was trained with your own" in err
    assert "by a script that takes --config FILE.py:NAME" in err
    _, err = here("sample.py", "--workdir", run, "--config", f"{file}:wider", status=2)
    assert "was trained with generator=Generator(" in err
    # The loss is the user's own, unless --loss names another one: that is another configuration.
    _, err = here(*train, "--epochs", 3, status=2)
    assert "another configuration (gan.r1: 0.1 -> 0.0)" in err


@pytest.mark.parametrize(
    ("where", "text", "message"),
    [
        ("my_gan.py:number", None, r"number in .*my_gan\.py must be a GANConfig or .*, got int"),
        ("my_gan.py:other", None, "got nothing"),
        ("my_gan.txt:config", None, "--config must be FILE.py:NAME"),
        ("none.py", None, r"there is no file .*none.py"),
        ("my_gan.py", "import jaxgan\nx = 1 / 0\n", r"my_gan.py, line 2: ZeroDivisionError"),
        ("my_gan.py", "x = (\n", r"my_gan.py, line 1: SyntaxError"),
        (
            "my_gan.py",
            "import jaxgan\n\nconfig = jaxgan.GANConfig(r1=-1)\n",
            r"my_gan.py, line 3: r1 must be 0 or more",
        ),
    ],
)
def test_a_file_without_a_config_is_one_line_of_error(file, tmp_path, where, text, message):
    if text is not None:
        file.write_text(text)
    with pytest.raises(JaxganError, match=message) as error:
        cli.load_config(str(tmp_path / where), MODELS)
    assert "\n" not in str(error.value)


def test_a_file_named_like_another_module_replaces_none(file, tmp_path):
    file.rename(tmp_path / "json.py")
    config = cli.load_config(str(tmp_path / "json.py"), MODELS)
    assert config.latent_dim == 4
    assert sys.modules["json"] is json


def test_a_config_and_a_preset_both_name_settings(file):
    _, err = here("train.py", "--config", file, "--loss", "hinge", status=2)
    assert "--loss and the loss in" in err
    _, err = here("train.py", "--config", file, "--preset", "tuned", status=2)
    assert err == "error: --preset tuned and --config both name settings: leave one out\n"
    _, err = here("train.py", "--config", file, "--model", "diffusion", status=2)
    assert "is for --model gan" in err


@pytest.mark.usefixtures("no_curves")
def test_the_convolutional_example_trains_and_samples(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
    np.save(tmp_path / "images.npy", images)
    own = ("--config", f"{ROOT / 'scripts' / 'conv_gan.py'}:config")
    run = ("--workdir", tmp_path / "run")
    data = ("--dataset", tmp_path / "images.npy", "--batch-size", 6)
    here("train.py", *own, *run, *data, "--epochs", 1, "--no-evaluate")
    here("sample.py", *own, *run, "--num", 3, "--out", tmp_path / "s.npz")
    drawn = np.load(tmp_path / "s.npz")["images"]
    assert drawn.shape == (3, 28, 28)
    assert (drawn[0] != drawn[1]).any()


# Files of settings


@pytest.mark.usefixtures("no_curves")
def test_the_config_of_a_run_repeats_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = ("--population", 2, "--sweep", "generator_lr=0.001,0.01", "--devices", 1)
    options = (*save_images(tmp_path, 32), *sweep, "--epochs", 1, "--no-evaluate")
    here("train.py", *options, "--seed", 7, "--workdir", "first")
    config = ("--config", "first/config.json")
    out, _ = here("train.py", *config)
    path = "runs/images.npy-repeat_population"
    assert f"everything is in {tmp_path / path}" in out
    assert "--config" not in out  # in the next command
    assert (tmp_path / path / "config.json").read_text() == (
        (tmp_path / "first" / "config.json").read_text()
    )
    before, now = (saved.load_state(MODELS["gan"], folder, 3)[0] for folder in ("first", path))
    assert_trees_equal(before, now)
    assert "already trained" in here("train.py", *config)[0]  # the same command resumes the repeat


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("runs/digits/config.json", "-repeat"),
        ("runs/digits-repeat/config.json", "-repeat-repeat"),  # another run than that one
        ("runs/digits-tuned/own.toml", "-own"),
        ("own.py:config", ""),
        (None, ""),
    ],
)
def test_a_file_of_settings_names_the_default_folder(file, name):
    options = types.SimpleNamespace(model="gan", preset="reference", config=file)
    assert label(options) == name
    options.model = "diffusion"
    assert label(options) == f"-diffusion{name}"


def test_the_printed_settings_are_those_of_the_command(tmp_path):
    options = ("--preset", "large", "--conditional", "--seed", 3, "--sweep", "loss=hinge,minimax")
    printed, err = here("train.py", *options, "--print-config", "--workdir", tmp_path / "run")
    assert err == ""
    assert not (tmp_path / "run").exists()
    (tmp_path / "own.json").write_text(printed)
    config = ("--config", tmp_path / "own.json")
    assert here("train.py", *config, "--print-config")[0] == printed
    shown = json.loads(here("train.py", *config, "--print-config", "--steps", 9, "--r1", 1)[0])
    expected = json.loads(printed)
    expected["train"]["steps"], expected["gan"]["r1"] = 9, 1.0
    assert shown == expected
    for name, value in (("epochs", None), ("steps", 9)):  # a run's file has both
        expected["train"][name] = value or 5
    (tmp_path / "own.json").write_text(json.dumps(expected))
    shown = json.loads(here("train.py", *config, "--print-config", "--steps", 7)[0])["train"]
    assert (shown["epochs"], shown["steps"]) == (None, 7)


@pytest.mark.usefixtures("no_curves")
def test_a_private_run_of_a_file_says_that_its_noise_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path, 40)
    text = '[train]\ndataset = "images.npy"\nepsilon = 1.0\ndelta = 1e-3\n'
    (tmp_path / "private.toml").write_text(text)
    out, _ = here("train.py", "--config", "private.toml")
    assert "draws its own noise" in out
    first = tmp_path / "runs" / "images.npy-gaussian-private"
    assert f"everything is in {first}" in out
    out, _ = here("train.py", "--config", first / "config.json", "--workdir", "second")
    states = [saved.load_state(MODELS["gaussian"], run)[0] for run in (first, "second")]
    assert (first / "config.json").read_text() == (tmp_path / "second/config.json").read_text()
    with pytest.raises(AssertionError):
        assert_trees_equal(*states)


def test_a_file_of_settings_is_for_training(file, tmp_path):
    (tmp_path / "own.toml").write_text("[gan]\nr1 = 1\n")
    config = ("--config", tmp_path / "own.toml")
    _, err = here("train.py", *config, "--model", "diffusion", status=2)
    assert "own.toml is for --model gan" in err
    _, err = here("train.py", *config, "--preset", "tuned", status=2)
    assert "both name settings" in err
    _, err = here("train.py", "--config", f"{file}:config", "--print-config", status=2)
    assert "is a part of your own, which no such file can hold" in err
    with pytest.raises(JaxganError, match=r"only train\.py reads settings from such a file"):
        cli.load_config(str(tmp_path / "own.toml"), MODELS)
