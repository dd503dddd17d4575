"""`--config FILE.py:NAME`: a run with parts of the user's own, by the scripts."""

import json
import sys
import textwrap

import jax
import numpy as np
import pytest
from helpers import ROOT, here

from jaxgan import MODELS, JaxganError, cli, sample
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


def test_a_run_with_own_parts_trains_resumes_samples_and_evaluates(file, data, tmp_path):
    run, own = tmp_path / "run", ("--config", f"{file}:config")
    train = ("train.py", *own, "--dataset", data, "--batch-size", 16, "--workdir", run)
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
