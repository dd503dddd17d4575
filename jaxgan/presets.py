"""Named settings of a model and of its run: `PRESETS`."""

import dataclasses
from typing import Any

from jaxgan.config import GANConfig
from jaxgan.diffusion import DiffusionConfig
from jaxgan.gaussian import GaussianConfig
from jaxgan.run.settings import TrainConfig

_TUNED = GANConfig(
    loss="hinge",
    updates="alternating",
    generator_lr=5e-4,
    discriminator_lr=4e-3,
    lr_scale="cosine:1:0.1",
    generator_b1=0.5,
    discriminator_b1=0.5,
    generator_b2=0.99,
    discriminator_b2=0.99,
    discriminator_dropout=(0.0, 0.0, 0.0),
    r1=0.4,
    ema_decay=0.9995,
)

_LARGE = dataclasses.replace(
    _TUNED,
    generator_widths=(256, 512, 1024),
    discriminator_widths=(1024, 512, 256),
    generator_lr=2.5e-4,
    discriminator_lr=2e-3,
    augment="linear:0:0.4",
    ema_decay=0.9998,
)

_DIFFUSION = DiffusionConfig(lr=2e-3, lr_scale="cosine:1:0.01", sampler="ancestral")

PRESETS: dict[str, tuple[Any, TrainConfig]] = {
    "reference": (GANConfig(), TrainConfig()),
    "tuned": (_TUNED, TrainConfig()),
    "large": (_LARGE, TrainConfig(steps=56_280, batch_size=64)),
    "diffusion": (_DIFFUSION, TrainConfig(steps=28_200, batch_size=256)),
    "gaussian": (GaussianConfig(), TrainConfig(steps=1, batch_size=2**31 - 1)),
}
"""Settings by name, for `scripts/train.py --preset`.

tuned: the reference's two networks, with settings that `benchmarks/search.py` and trials by hand
found for Fashion-MNIST. large: layers four times as wide, and batches of half the size, since more
steps helped more than larger batches. diffusion: a diffusion model. On two CPU cores its training
takes as long as that of large. In these three presets the learning rates fall over the whole run.
"""

COVERAGE: dict[str, dict[str, float]] = {
    "fashion_mnist": {"reference": 0.39, "tuned": 0.78, "large": 0.87},
    "digits": {"reference": 0.83, "tuned": 0.99},
    "ring": {"reference": 0.12, "tuned": 1.0},
}
"""For each data set and preset, the coverage of the real images (`metrics.neighbours`), or the
share of the modes that have samples: medians of five seeds, after the steps of the preset. They are
from recipes.json and planted_failures.json in benchmarks/results."""
