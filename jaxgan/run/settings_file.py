"""Settings as a file: the config.json of a run, or a JSON or TOML file with the same sections."""

import dataclasses
import json
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxgan.errors import JaxganError
from jaxgan.fields import check_value, nearest
from jaxgan.files import expand
from jaxgan.run import checkpoint
from jaxgan.run.saved import as_json, is_own
from jaxgan.run.settings import TrainConfig
from jaxgan.version import __version__

_FITTED = ("image_shape", "bounded", "noise_multiplier")
"""Settings of a model that every run sets itself."""
_OF_RUN = ("jaxgan", "data", "privacy")
"""Sections of config.json that hold no settings."""

Settings = tuple[Any, TrainConfig]
"""The config of a model, and the settings of its run."""


def write(name: str, config: Any, settings: TrainConfig) -> str:
    """The settings of a run of the model with this name, as JSON that `read` reads.

    Raises:
      JaxganError: if the config has parts of your own.
    """
    of_model = {k: v for k, v in as_json(config).items() if k not in _FITTED and v is not None}
    for key, value in of_model.items():
        _check_not_own(key, value, None)
    sections = {"model": name, name: of_model, "train": as_json(settings)}
    return json.dumps(sections, indent=2)


def read(file: str | Path, defaults: Mapping[str, Settings]) -> Settings:
    """The settings in a file. What it does not name has its default.

    Args:
      file: NAME.json or NAME.toml, with a section for the model and the section "train". "model"
        names the model. Without it the model is that of the section. Without that, it is the GAN,
        or with epsilon the Gaussians.
      defaults: for each model that may be trained, by its name.

    Raises:
      JaxganError: if the file cannot be read, or if it has a setting or a section that does not
        exist, a value that is not allowed, or parts of your own.
    """
    path = expand(file)
    described = _load(path)
    try:
        return _read(described, defaults)
    except JaxganError as error:
        raise JaxganError(f"{file}: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # on Windows a file may begin with a mark
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError as error:
        raise JaxganError(f"--config: there is no file {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise JaxganError(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise JaxganError(f"{path} must hold sections with settings, such as those of config.json")
    return checkpoint.without_digest(found, path)


def _read(described: Mapping[str, Any], defaults: Mapping[str, Settings]) -> Settings:
    name = _model_name(described, defaults)
    configs: dict[str, Any] = dict(zip((name, "train"), defaults[name], strict=True))
    for section, values in described.items():
        if section == "model" or section in _OF_RUN:
            continue
        if section not in configs:
            raise JaxganError(f"there is no section {section!r}{_hint(section, configs, configs)}")
        if not isinstance(values, Mapping):
            raise JaxganError(f"{section} must be a section with settings, got {values!r}")
        configs[section] = _replaced(section, values, configs, described.get("jaxgan"))
    config, settings = configs.values()
    data = described.get("data")
    if not isinstance(data, Mapping):
        return config, settings
    # The file describes a run on these data. `auto` has found them, and they have set the classes.
    if settings.dataset == "auto":
        settings = dataclasses.replace(settings, dataset=str(data.get("name", "auto")))
    if settings.conditional:
        config = dataclasses.replace(config, num_classes=0)
    return config, settings


def _model_name(described: Mapping[str, Any], defaults: Mapping[str, Settings]) -> str:
    of_section = next((name for name in defaults if name in described), None)
    train = described.get("train")
    private = isinstance(train, Mapping) and train.get("epsilon") is not None
    name = described.get("model", of_section or ("gaussian" if private else "gan"))
    if not isinstance(name, str) or name not in defaults:
        raise JaxganError(f"model must be one of {', '.join(defaults)}, got {name!r}")
    return name


def _replaced(
    section: str, values: Mapping[str, Any], configs: Mapping[str, Any], version: Any
) -> Any:
    """The config of a section with these values. `version` is of the jaxgan that wrote the file."""
    config, changed = configs[section], {}
    fields = _fields(config)
    for key, value in values.items():
        if key not in fields and version not in (None, __version__):
            warnings.warn(
                f"this version of jaxgan has no setting {key!r} in {section}: it is left out",
                stacklevel=2,
            )
            continue
        if key not in fields:
            raise JaxganError(f"{section} has no setting {key!r}{_hint(key, fields, configs)}")
        _check_not_own(key, value, fields[key])
        if key not in _FITTED:
            changed[key] = check_value(key, value, fields[key].type)
    return dataclasses.replace(config, **changed)


def _hint(name: str, known: Iterable[str], configs: Mapping[str, Any]) -> str:
    """Where the setting with this name is, or else the known name that is most like it."""
    home = next((section for section in configs if name in _fields(configs[section])), None)
    near = nearest(name, known)
    if home is not None:
        return f": it is a setting of {home}"
    return f"; did you mean {near}?" if near else f". There are {', '.join(known)}"


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(config)}


def _check_not_own(key: str, value: Any, field: Any) -> None:
    if is_own(value, field):
        raise JaxganError(
            f"{key} is a part of your own, which no such file can hold: --config FILE.py:NAME "
            "takes it from your Python file"
        )
