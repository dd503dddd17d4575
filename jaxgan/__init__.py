"""Small generative models as pure functions, in JAX."""

from typing import TYPE_CHECKING

from jaxgan import data, diffusion, run
from jaxgan.adversarial import losses, penalties
from jaxgan.adversarial.measures import Metrics
from jaxgan.config import GANConfig
from jaxgan.errors import JaxganError
from jaxgan.gan import GANState, create_state, generate, sample, train_step
from jaxgan.model import Model
from jaxgan.models import MODELS, load
from jaxgan.presets import PRESETS
from jaxgan.run import loop
from jaxgan.run.settings import TrainConfig
from jaxgan.version import __version__

if TYPE_CHECKING:
    from jaxgan import metrics
    from jaxgan.run import population
else:
    # They are imported at their first use. A type checker that saw these functions would accept
    # any name.
    _AT_FIRST_USE = {"metrics": "jaxgan.metrics", "population": "jaxgan.run.population"}

    def __getattr__(name):
        if name not in _AT_FIRST_USE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return importlib.import_module(_AT_FIRST_USE[name])

    def __dir__():
        return sorted({*globals(), *_AT_FIRST_USE})


__all__ = [
    "MODELS",
    "PRESETS",
    "GANConfig",
    "GANState",
    "JaxganError",
    "Metrics",
    "Model",
    "TrainConfig",
    "__version__",
    "create_state",
    "data",
    "diffusion",
    "generate",
    "load",
    "loop",
    "losses",
    "metrics",
    "penalties",
    "population",
    "run",
    "sample",
    "train_step",
]
