"""Generative adversarial networks as pure functions, in JAX."""

from jaxgan import data, loop
from jaxgan.config import PRESETS, GANConfig, TrainConfig
from jaxgan.errors import JaxganError
from jaxgan.gan import GANState, create_state, generate, sample, train_step
from jaxgan.measures import Metrics

__version__ = "0.3.0"

__all__ = [
    "PRESETS",
    "GANConfig",
    "GANState",
    "JaxganError",
    "Metrics",
    "TrainConfig",
    "create_state",
    "data",
    "generate",
    "loop",
    "sample",
    "train_step",
]
