"""The Python of both READMEs, run as it stands there, and the files that they name."""

import dataclasses
import functools
import re

import numpy as np
import pytest
from helpers import ROOT

import jaxgan
from jaxgan.run import journal

READMES = [ROOT / "README.md", ROOT / "scripts" / "README.md"]


@pytest.fixture(autouse=True)
def _small(no_curves, monkeypatch, tmp_path):
    """Networks of one hidden layer by default, which compile faster, and a folder for files.

    The digits are eleven whole batches: a smaller last one would need a program of its own.
    """
    monkeypatch.chdir(tmp_path)
    small = {"generator_widths": (16,), "discriminator_widths": (16,)}
    config = functools.partial(jaxgan.GANConfig, **small, discriminator_dropout=(0.3,))
    monkeypatch.setattr(jaxgan, "GANConfig", config)
    tuned, training = jaxgan.PRESETS["tuned"]
    tuned = dataclasses.replace(tuned, **small, discriminator_dropout=(0.0,))
    monkeypatch.setitem(jaxgan.PRESETS, "tuned", (tuned, training))
    digits = jaxgan.data.load("digits")
    digits = digits._replace(images=digits.images[: 11 * 128], labels=digits.labels[: 11 * 128])
    monkeypatch.setattr(jaxgan.data, "load", {"digits": digits}.get)


def run_blocks(path) -> dict:
    names = {}
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        exec(block, names)
    return names


def test_the_first_readme_composes_the_step():
    names = run_blocks(READMES[0])
    assert names["samples"].shape == (16, 8, 8, 1)
    assert names["history"].gen_loss.shape == (10,)
    assert names["states"].step.tolist() == [1] * 8
    assert names["state"].config.discriminator == names["Critic"]()


def test_the_readme_of_the_scripts_trains_a_population():
    names = run_blocks(READMES[1])
    assert jaxgan.population.member(names["run"].state, 2).step == 11
    assert len(names["losses"]) == 3
    assert names["dataset"].images.dtype == np.uint8  # of the example of own data
    assert names["state"].step == 1


@pytest.mark.parametrize("path", READMES, ids=str)
def test_every_file_that_is_named_is_there(path):
    for name in re.findall(r'(?:src="|\]\()((?!http)[^")]+)', path.read_text()):
        assert (path.parent / name.partition("#")[0]).exists(), name


def test_the_readme_is_short():
    assert len(READMES[0].read_text().splitlines()) <= 150


@pytest.mark.parametrize("model", jaxgan.MODELS.values(), ids=jaxgan.MODELS)
def test_the_table_of_columns_is_that_of_the_code(model):
    # The columns of all models stand before those of the GAN.
    columns = (journal.COLUMNS if model.name == "gan" else {}) | dict(model.columns)
    rows = [f"| `{name}` | {one.meaning} | {one.healthy} |" for name, one in columns.items()]
    assert "\n".join(["|---|---|---|", *rows, ""]) in READMES[1].read_text()
