"""What help() shows of configs, the examples of docstrings, and the names after `import jaxgan`."""

import dataclasses
import doctest
import importlib
import inspect
import pydoc
import subprocess
import sys
import types

import docstring_parser
import pytest
from helpers import ROOT

import jaxgan
from jaxgan import fields

CONFIGS = [jaxgan.TrainConfig, *(model.config for model in jaxgan.MODELS.values())]
EXAMPLES = [path for path in (ROOT / "jaxgan").rglob("*.py") if ">>> " in path.read_text()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_help_describes_every_field(config):
    described = {x.arg_name: x for x in docstring_parser.parse(config.__doc__).params}
    assert list(described) == [field.name for field in dataclasses.fields(config)]
    for field in dataclasses.fields(config):
        assert described[field.name].description, field.name
        assert f"default {field.default!r}" in described[field.name].type_name


def test_help_shows_the_type_the_default_and_the_docstring_of_a_field():
    text = pydoc.plain(pydoc.render_doc(jaxgan.GANConfig))
    assert " |  Everything that defines the two networks" in text
    assert " |    latent_dim (int, default 100):\n |      Size of the generator's input, " in text
    assert " |    r1 (Schedule, default 0.0):\n |      Weight of half" in text  # inherited


def test_a_docstring_is_written_at_its_first_use():
    @fields.documented
    @dataclasses.dataclass
    class Small:
        """A config."""

        size: int = 1
        """How large
        it is."""

    assert not isinstance(vars(Small)["__doc__"], str)
    text = "A config.\n\nAttributes:\n  size (int, default 1):\n    How large\n    it is."
    assert Small().__doc__ == Small.__doc__ == inspect.getdoc(Small) == text
    assert vars(Small)["__doc__"] == text


def test_a_subclass_has_its_own_docstring():
    class Further(jaxgan.GANConfig):
        """Another one."""

    assert Further.__doc__ == "Another one."


def test_a_class_without_source_keeps_its_docstring():
    names = {"dataclasses": dataclasses, "fields": fields, "__name__": "nowhere"}
    source = '@fields.documented\n@dataclasses.dataclass\nclass C:\n    """Text."""\n    x: int = 1'
    exec(source, names)
    assert names["C"].__doc__ == "Text."


def test_python_without_docstrings_gets_none(monkeypatch):
    flags = types.SimpleNamespace(optimize=2)  # python -OO
    monkeypatch.setattr(fields, "sys", types.SimpleNamespace(flags=flags))

    @fields.documented
    class Small:
        __doc__ = None

    assert Small.__doc__ is None


def test_every_public_name_is_there_after_the_import():
    code = (
        "import jaxgan, sys\n"
        "heavy = ('jaxgan.metrics', 'jaxgan.run.population', 'jaxgan.report', 'matplotlib',\n"
        "    'sklearn', 'scipy.stats', 'tensorflow_datasets', 'orbax', 'tqdm', 'safetensors')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])\n"
        "assert set(jaxgan.__all__) <= set(dir(jaxgan))\n"
        "for name in jaxgan.__all__:\n"
        "    getattr(jaxgan, name)\n"
        "print(jaxgan.metrics.frechet_distance.__name__, jaxgan.population.__name__)\n"
        "print([name for name in sys.modules if name.startswith(heavy[3:])])\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = "[]\nfrechet_distance jaxgan.run.population\n[]\n"
    assert done.stdout == expected, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jaxgan' has no attribute 'metric'"):
        jaxgan.metric  # noqa: B018


def test_modules_have_short_names():
    assert jaxgan.losses.__name__ == "jaxgan.adversarial.losses"
    assert jaxgan.penalties.__name__ == "jaxgan.adversarial.penalties"
    assert jaxgan.population.__name__ == "jaxgan.run.population"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_docstrings_hold(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    found = doctest.testmod(importlib.import_module(".".join(parts).removesuffix(".__init__")))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_public_function_of_metrics_has_an_example():
    functions = filter(inspect.isfunction, map(vars(jaxgan.metrics).get, jaxgan.metrics.__all__))
    examples = {x.__name__: doctest.DocTestFinder().find(x)[0].examples for x in functions}
    assert {"features", "frechet_distance", "kernel_distance", "prdc"} <= set(examples)
    assert all(examples.values()), examples
