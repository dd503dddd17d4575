"""The advice after a verdict: what to run next."""

import math
from typing import Any

from jaxgan.history import History
from jaxgan.model import Model
from jaxgan.presets import COVERAGE, PRESETS

DONE = ("healthy", "unknown")
"""The verdicts after which `advise` says to draw samples."""


def advise(
    model: Model, config: Any, health: str, epochs: int, dataset: str
) -> tuple[str, list[str]]:
    """What to do after a verdict.

    Args:
      model: of the run.
      config: of the run.
      health: of its verdict.
      epochs: the length of a longer run (`longer`).
      dataset: the name of its data set.

    Returns:
      The reason, and the options to add: to sample.py if the verdict is in `DONE`, else to the
      command of the run.
    """
    if health in DONE:
        return "draw samples.", ["--num", "10000", "--out", "samples.npz"]
    if model.name == "gaussian":
        return "a network can learn more than Gaussians.", ["--preset", "diffusion"]
    now, better = _presets(config) if model.name == "gan" else (None, None)
    if health == "diverged" and better is None:
        rates = {name: getattr(config, name) for name in model.hyperparameters if name[-2:] == "lr"}
        options = [f"--{name.replace('_', '-')}={rate / 10:g}" for name, rate in rates.items()]
        return "a tenth of the learning rates.", options
    if health == "undertrained" or better is None:
        return "train longer; this continues the run.", ["--epochs", str(epochs)]
    on = dataset if better in COVERAGE.get(dataset, {}) else "fashion_mnist"
    than = f", those of {now} {COVERAGE[on][now]:.0%}" if now else ""
    reason = f"on {on}, samples of {better} cover {COVERAGE[on][better]:.0%} of the data{than}."
    return reason, ["--preset", better]


def longer(history: History, steps: int) -> int:
    """The number of epochs of a longer run: twice as many, and at least `steps` steps."""
    epochs, last = len(history), history[-1]["step"]
    return max(2 * epochs, math.ceil(steps * epochs / last))


def _presets(config: Any) -> tuple[str | None, str | None]:
    """The preset of a GAN if none of its settings was changed, and the one to try next, or None."""
    # These follow from the data and from --epsilon.
    fitted = ("image_shape", "bounded", "num_classes", "noise_multiplier")
    changes = {}
    for name in ("reference", "tuned", "large"):
        preset = {k: v for k, v in vars(PRESETS[name][0]).items() if k not in fitted}
        changes[name] = sum(getattr(config, field) != value for field, value in preset.items())
    nearest = min(changes, key=lambda name: changes[name])
    if changes[nearest]:
        return None, "tuned" if nearest == "reference" else nearest
    return nearest, {"reference": "tuned", "tuned": "large"}.get(nearest)
