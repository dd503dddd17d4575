"""The notebooks of scripts/, run as they stand there, with less training."""

import ast
import base64
import functools
import re
import types

import notebooks
import numpy as np
import pytest
import sklearn.datasets
from helpers import ROOT

import jaxgan

SMALL = {"generator_widths": (16,), "discriminator_widths": (16,), "discriminator_dropout": (0.0,)}


def run(name: str) -> tuple[dict, list[bytes]]:
    """Runs the code cells of a notebook with a fiftieth of the epochs.

    Gives the names that they define, and the pictures that a notebook would show.
    """
    names, pictures = {}, []
    for source in notebooks.code(notebooks.read(name)):
        less = re.sub(r"(epochs=|every=|in range\()(\d\d+)", _fiftieth, source)
        body = ast.parse(less.replace("epoch_0200", "epoch_0004")).body
        last = (
            body.pop().value
            if isinstance(body[-1], ast.Expr)
            else ast.parse("None", mode="eval").body
        )
        exec(compile(ast.Module(body, []), name, "exec"), names)
        shown = eval(compile(ast.Expression(last), name, "eval"), names)
        if hasattr(shown, "_repr_png_"):
            pictures.append(shown._repr_png_())
    return names, pictures


def _fiftieth(found: re.Match) -> str:
    return f"{found[1]}{max(1, int(found[2]) // 50)}"


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_train_look_resume_sample(monkeypatch, capsys):
    tuned, settings = jaxgan.PRESETS["tuned"]
    tuned = jaxgan.GANConfig(**vars(tuned) | SMALL)
    monkeypatch.setitem(jaxgan.PRESETS, "tuned", (tuned, settings))
    # In equal batches: a smaller last one would need a program of its own.
    equal = functools.partial(jaxgan.TrainConfig, batch_size=125)
    monkeypatch.setattr(jaxgan, "TrainConfig", equal)
    names, pictures = run("train")
    shown = capsys.readouterr().out
    assert "1 more epochs, 5 in all" in shown
    assert "curves.png" in shown
    assert names["images"].shape == (64, 8, 8, 1)
    assert names["epochs"] == 5
    assert len(pictures) == 5


def test_compose_train_step(monkeypatch, capsys):
    digits, whole = sklearn.datasets.load_digits(), 14 * 128  # whole batches
    less = types.SimpleNamespace(images=digits.images[:whole], target=digits.target[:whole])
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: less)
    names, pictures = run("compose")
    assert "the same samples: True" in capsys.readouterr().out
    assert names["dataset"].labels.shape == (1792,)
    assert names["state"].config.generator == names["Generator"]()
    assert names["devices"] > 1
    assert len(pictures) == 2
    members = [np.asarray(member) for member in names["drawn"]]
    assert (members[0] != members[1]).any()
    assert (members[0] != members[2]).any()


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_a_notebook_is_stored_with_small_pictures_and_no_paths(name):
    text = (ROOT / "scripts" / f"{name}.ipynb").read_text()
    assert not re.search(r'"[^"]*(?<![\w.])/(home|root|tmp|work|Users)/', text)
    cells = [cell for cell in notebooks.read(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    pictures = [output["data"]["image/png"] for output in outputs if "data" in output]
    assert len(pictures) > 1
    assert sum(len(base64.b64decode(picture)) for picture in pictures) < 100_000
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "scripts" / link).exists(), link
