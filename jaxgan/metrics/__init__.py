"""Scores of samples: pure functions of arrays, and `evaluation`, which puts them together.

Most scores compare features of real and of generated images:

    real = features(jaxgan.data.load("fashion_mnist").images[:10_000])
    fake = features(jaxgan.sample(state, rng, 10_000))
    frechet_distance(real, fake)
"""

from jaxgan.metrics import evaluation
from jaxgan.metrics.classifier import features
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.metrics.kid import kernel_distance
from jaxgan.metrics.modes import ModeScores, mode_scores
from jaxgan.metrics.neighbours import PRDC, memorisation, prdc

__all__ = [
    "PRDC",
    "ModeScores",
    "evaluation",
    "features",
    "frechet_distance",
    "kernel_distance",
    "memorisation",
    "mode_scores",
    "prdc",
]
