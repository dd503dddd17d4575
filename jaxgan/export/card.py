"""What a file of a trained model says of it, for programs and, as a model card, for people."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgan.data.pixels import are_vectors
from jaxgan.files import expand
from jaxgan.labels import num_classes
from jaxgan.metrics.classifier import BUNDLED
from jaxgan.metrics.modes import ModeScores
from jaxgan.model import Model
from jaxgan.run import checkpoint, saved
from jaxgan.version import __version__

_LICENCES = {
    "fashion_mnist": "(c) 2017 Zalando SE, MIT licence, https://arxiv.org/abs/1708.07747",
    "mnist": "Yann LeCun and Corinna Cortes, CC BY-SA 3.0",
    "kmnist": "KMNIST by CODH, CC BY-SA 4.0, https://doi.org/10.20676/00000341",
    "digits": "E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0, "
    "https://doi.org/10.24432/C50P49",
    "ring": "made by a formula, without a licence",
    "grid": "made by a formula, without a licence",
}
_PLAIN = (
    "Samples are not anonymous: they may show what is special to one training image. Do not share "
    "them, or this model, if the training images are confidential."
)
_PRIVATE = (
    "Trained with differential privacy, so samples may be shared. Epsilon is {epsilon:g} (spent: "
    "{spent:.3g}), delta {delta:g}, for one image that is added or removed. This assumes:"
)


def describe(model: Model, workdir: str | Path, found: saved.Loaded) -> dict[str, Any]:
    """What a file says about its state: the config.json of its run, its training and its scores.

    Folders of this machine are left out.

    Args:
      model: of the run.
      workdir: the run folder, or a file of an exported state.
      found: the state. Its config may differ from that of the run in what acts on samples.
    """
    about = checkpoint.read_config(workdir)
    run, state = saved.read_settings(workdir), found.state
    name = str(about["data"]["name"])
    own = {k: v for k, v in found.label.items() if k in ("seed", *model.hyperparameters)}
    train: dict[str, Any] = {"dataset": name, "data_dir": None, "population": None, "sweep": []}
    train["seed"] = own.pop("seed", run.seed)
    sampling = {field: getattr(state.config, field) for field in model.sampling}
    kept = ("name", "images", "classes")
    before = about.get("saved", {})
    scores = {
        key: float(value)
        for key, value in found.row.items()
        if ("(" in key or key in ModeScores._fields) and math.isfinite(value)
    }
    privacy = expand(workdir) / "privacy.json"
    return about | {
        "train": about["train"] | train,
        model.name: about[model.name] | own | sampling,
        "data": {key: value for key, value in about["data"].items() if key in kept},
        "saved": {
            "by": __version__,
            "epochs": found.epochs,
            "scores": scores or before.get("scores", {}),
            "scored with": before.get("scored with")
            or {field: about[model.name].get(field) for field in sampling},
            "privacy": json.loads(privacy.read_text())
            if privacy.is_file()
            else before.get("privacy"),
        },
    }


def card(model: Model, config: Any, about: Mapping[str, Any], name: str) -> str:
    """The model card of a file, as Markdown. `name` is that of the file."""
    data, past, classes = about["data"], about["saved"], num_classes(config)
    height, width, channels = config.image_shape
    kind = f"images of {height}x{width}x{channels}"
    if are_vectors(config.image_shape):
        kind = f"vectors of {channels}"
    trained = f"{past['epochs']} epoch{'s' if past['epochs'] != 1 else ''} of {data['name']}"
    parts = [
        f"---\nlibrary_name: jaxgan\ntags: [jaxgan, {model.name}]\n---\n",
        f"# {Path(name).stem}\n",
        f"Makes {kind}{f' of {classes} classes' if classes else ''}. It is the model {model.name} "
        f"of jaxgan {about['jaxgan']} after {trained} ({data['images']} training examples).\n",
        *("## Use\n", _use(config, name)),
        *("## Intended use\n", _INTENDED),
        *("## Scores\n", *_score_lines(model, config, past)),
        *("## Privacy\n", *_privacy_lines(past["privacy"])),
        *("## Data and licence\n", *_licence_lines(data)),
        *("## Settings\n", *_setting_lines(model, config, about)),
    ]
    return "\n".join(parts)


def _use(config: Any, name: str) -> str:
    labels = ", labels=0" if num_classes(config) else ""
    return f"""```python
import jax
import jaxgan

model, state = jaxgan.load("{name}")
samples = model.sample(state, jax.random.key(0), 16{labels})  # [16, {_sizes(config)}]
```

On the command line: `jaxgan sample {name} --num 64`.
"""


def _sizes(config: Any) -> str:
    return ", ".join(map(str, config.image_shape))


_INTENDED = """To study generative models, and to make more data like the training data. Samples
repeat the gaps and faults of these data. Do not present them as real, and do not test on them.
"""


def _score_lines(model: Model, config: Any, past: Mapping[str, Any]) -> list[str]:
    scores = past["scores"]
    names = [name for name in scores if not name.startswith("real_")]
    if not names:
        return ["The samples were not scored.\n"]
    extractor = names[0].partition("(")[2].partition(",")[0]
    judge = f", by features of `{extractor}`" if extractor else ""
    judge += ", a small classifier of jaxgan" if extractor in BUNDLED else ""
    rows = [
        f"| {name} | {scores[name]:.4g} | {_number(scores.get(f'real_{name}'))} |" for name in names
    ]
    other = {
        field: value
        for field, value in past["scored with"].items()
        if value is not None and value != getattr(config, field)
    }
    settings = ", ".join(f"{field}={value}" for field, value in other.items())
    note = f" They are scores of samples with {settings}." if other else ""
    return [
        f"Scores of samples{judge}. Those of other real images are the best to expect.{note}\n",
        "| score | samples | real images |\n|---|---|---|",
        *rows,
        "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _privacy_lines(privacy: Mapping[str, Any] | None) -> list[str]:
    if privacy is None:
        return [f"{_PLAIN}\n"]
    spent = privacy["spent"]["epsilon"]
    text = _PRIVATE.format(epsilon=privacy["epsilon"], delta=privacy["delta"], spent=spent)
    lines = [f"{text}\n", *(f"- {line}" for line in privacy["assumptions"]), ""]
    together = privacy.get("all members together")
    if together:
        lines += [
            f"This is one of {together['members']} models; all of them together have an epsilon of "
            f"{together['epsilon']:.3g}.\n"
        ]
    return lines


def _licence_lines(data: Mapping[str, Any]) -> list[str]:
    licence = _LICENCES.get(data["name"], "unknown to jaxgan; add it here")
    return [
        f"Data: {data['name']}; {licence}.\n",
        "The licence of the parameters is for their owner to choose; it belongs at the top of this "
        "file, as `license:`.\n",
    ]


def _setting_lines(model: Model, config: Any, about: Mapping[str, Any]) -> list[str]:
    """A table of the settings that are not those of `model.config()`."""
    plain = saved.as_json(model.config())
    changed = {
        field.name: about[model.name].get(field.name, plain[field.name])
        for field in dataclasses.fields(config)
    }
    changed = {name: value for name, value in changed.items() if value != plain[name]}
    run = {name: about["train"].get(name) for name in ("batch_size", "seed")}
    rows = [f"| {name} | {_text(value)} |" for name, value in (changed | run).items()]
    return ["Those that differ from the defaults.\n", "| setting | value |\n|---|---|", *rows, ""]


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and "own" in value:
        value = value["own"]
    return " ".join(str(value).split()).replace("|", "\\|")
