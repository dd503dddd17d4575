"""Settings in JSON and TOML files."""

import dataclasses
import json

import optax
import pytest

from jaxgan import MODELS, PRESETS, GANConfig, JaxganError, TrainConfig, __version__
from jaxgan.commands.train import DEFAULTS
from jaxgan.diffusion import DiffusionConfig
from jaxgan.run import settings_file
from jaxgan.run.saved import as_json

TRAIN = TrainConfig(
    dataset="digits", image_size=16, epochs=3, conditional=True, sweep=("r1=0,1", "seed=2")
)


@pytest.fixture
def file(tmp_path):
    """Writes a file of settings."""

    def write(text: str, name: str = "own.toml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def model_of(config) -> str:
    return next(name for name, model in MODELS.items() if type(config) is model.config)


@pytest.mark.parametrize(
    "settings",
    [
        *PRESETS.values(),
        (GANConfig(generator_widths=(), augment="linear:0:0.4", num_classes=3), TRAIN),
        (DiffusionConfig(guidance=1.5), dataclasses.replace(TRAIN, epsilon=2.0, population=3)),
    ],
    ids=lambda settings: type(settings[0]).__name__,
)
def test_what_is_written_is_read_again(file, settings):
    text = settings_file.write(model_of(settings[0]), *settings)
    assert settings_file.read(file(text, "own.json"), DEFAULTS) == settings


def test_what_a_file_does_not_name_has_its_default(file):
    whole = '[train]\nepochs = 3\n[gan]\nr1 = 1\ngenerator_widths = [8, 9]\nlr_scale = "cosine:1:0"'
    config, settings = settings_file.read(file(whole), DEFAULTS)
    assert config == GANConfig(r1=1.0, generator_widths=(8, 9), lr_scale="cosine:1:0")
    assert settings == TrainConfig(epochs=3)
    # As config.json has it: 1 and 1.0 would be other settings there.
    assert json.dumps(as_json(config)["r1"]) == "1.0"
    assert settings_file.read(file(""), DEFAULTS) == (GANConfig(), TrainConfig())


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ('model = "diffusion"', "diffusion"),
        ("[diffusion]\nwidth = 8", "diffusion"),
        ("[train]\nepsilon = 1", "gaussian"),
        ("[gan]\n[train]\nepsilon = 1", "gan"),
    ],
)
def test_the_model_is_named_or_that_of_the_section(file, text, model):
    config, settings = settings_file.read(file(text), DEFAULTS)
    assert model_of(config) == model
    assert (settings.batch_size == 2**31 - 1) == (model == "gaussian")


def test_the_config_of_a_run_names_its_data_and_leaves_its_classes_to_them(file):
    fitted = GANConfig(image_shape=(8, 8, 1), num_classes=10, bounded=False)
    run = {"jaxgan": "0.1", "model": "gan", "gan": as_json(fitted), "privacy": {"rate": 1}}
    run |= {"train": as_json(TrainConfig(conditional=True)), "data": {"name": "digits"}}
    config, settings = settings_file.read(file(json.dumps(run), "config.json"), DEFAULTS)
    assert config == GANConfig()
    assert settings == TrainConfig(dataset="digits", conditional=True)
    run |= {"train": as_json(TrainConfig(dataset="kmnist"))}
    config, settings = settings_file.read(file(json.dumps(run), "config.json"), DEFAULTS)
    assert config == GANConfig(num_classes=10)  # not from the data
    assert settings == TrainConfig(dataset="kmnist")


def test_a_setting_that_another_version_had_is_left_out_with_a_warning(file):
    run = {"jaxgan": "0.1.0", "train": {"tensorboard": False, "seed": 3}}
    with pytest.warns(UserWarning, match="has no setting 'tensorboard' in train"):
        _, settings = settings_file.read(file(json.dumps(run), "config.json"), DEFAULTS)
    assert settings == TrainConfig(seed=3)
    run["jaxgan"] = __version__
    with pytest.raises(JaxganError, match="train has no setting 'tensorboard'"):
        settings_file.read(file(json.dumps(run), "config.json"), DEFAULTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", "there is no section 'epochs': it is a setting of train"),
        ("[gann]", r"there is no section 'gann'; did you mean gan\?"),
        ("[other]", r"there is no section 'other'\. There are gan, train"),
        ('model = "diffusion"\n[gan]', r"no section 'gan'\. There are diffusion, train"),
        ("[train]\nepoch = 3", r"train has no setting 'epoch'; did you mean epochs\?"),
        ("[gan]\nepochs = 3", "gan has no setting 'epochs': it is a setting of train"),
        ("[train]\nxyz = 3", r"train has no setting 'xyz'\. There are dataset, "),
        ('model = "gain"', "model must be one of gan, diffusion, gaussian, got 'gain'"),
        ("train = 3", "train must be a section with settings, got 3"),
        ("[gan]\nlatent_dim = 1.5", "latent_dim must be a whole number, got 1.5"),
        ("[gan]\nlatent_dim = true", "latent_dim must be a whole number, got True"),
        ('[gan]\ngenerator_lr = "fast"', "generator_lr must be a number, got 'fast'"),
        ("[gan]\ngenerator_lr = -1", "generator_lr must be above 0, and finite, got -1.0"),
        (f"[gan]\ngenerator_lr = {10**400}", "generator_lr must be a number, got 1000"),
        ("[gan]\nr1 = true", "r1 must be a number or a text, got True"),
        ('[gan]\noptimizer = "adm"', "optimizer must be one of adam, sgd, got 'adm'"),
        ('[gan]\ngenerator_widths = [8, "9"]', "a list of which each is a whole number, got"),
        ('[gan]\naugmentation = "f"', "augmentation is a part of your own"),
        ("[gan]\naugmentation = 3", "augmentation must be left out"),
        ("[train]\nevaluate = 1", "evaluate must be true or false, got 1"),
        ("[train]\nepochs = 2000-01-01", "epochs must be a whole number, got datetime"),
        ('[gan]\ngenerator = "Net()"', "generator is a part of your own, .* FILE.py:NAME"),
        ('[gan]\nloss = {own = "<function f>"}', "loss is a part of your own"),
        ('[gan]\npenalties = [["r1", 1]]', "penalties must be left out, since it can only"),
        ("x = ", "cannot be read"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(file, text, message):
    with pytest.raises(JaxganError, match=rf"own\.toml.*{message}") as error:
        settings_file.read(file(text), DEFAULTS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{", "\udcff", "[" * 10_000])
def test_a_file_that_is_no_json_is_one_line(tmp_path, text):
    (tmp_path / "own.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(JaxganError, match=r"own\.json (cannot be read|must hold sections)"):
        settings_file.read(tmp_path / "own.json", DEFAULTS)
    with pytest.raises(JaxganError, match=r"there is no file .*none\.json"):
        settings_file.read(tmp_path / "none.json", DEFAULTS)


def test_a_file_of_windows_is_read(tmp_path):
    """With the mark that its programs put before UTF-8, and its ends of lines."""
    for name, text in {
        "own.toml": '[train]\r\ndataset = "Größe"\r\n',
        "own.json": "{}\r\n",
    }.items():
        (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
    assert settings_file.read(tmp_path / "own.toml", DEFAULTS)[1].dataset == "Größe"
    assert settings_file.read(tmp_path / "own.json", DEFAULTS) == DEFAULTS["gan"]


def test_a_changed_config_of_a_run_is_refused(file):
    text = json.dumps({"model": "gan", "gan": {"r1": 1.0}, "sha256 of the rest": "0" * 64})
    with pytest.raises(JaxganError, match=r"config\.json has changed since it was written"):
        settings_file.read(file(text, "config.json"), DEFAULTS)


def test_own_parts_cannot_be_written():
    config = GANConfig(generator_optimizer=optax.adam(1e-3))
    with pytest.raises(JaxganError, match="generator_optimizer is a part of your own"):
        settings_file.write("gan", config, TrainConfig())
