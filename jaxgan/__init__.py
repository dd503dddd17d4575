"""Small generative models as pure functions, in JAX."""

from jaxgan import data, diffusion
from jaxgan.adversarial.measures import Metrics
from jaxgan.config import GANConfig
from jaxgan.errors import JaxganError
from jaxgan.gan import GANState, create_state, generate, sample, train_step
from jaxgan.model import Model
from jaxgan.models import MODELS
from jaxgan.presets import PRESETS
from jaxgan.run import loop
from jaxgan.run.settings import TrainConfig
from jaxgan.version import __version__

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
    "loop",
    "sample",
    "train_step",
]
