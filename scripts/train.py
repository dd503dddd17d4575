"""Trains a GAN of two MLPs, with pictures, curves and checkpoints; the same command resumes."""

# ruff: noqa: E402
import gc
import signal

# Until there is a run to save, Ctrl-C just ends the process, also amid the imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# A tenth of the start would go into looking for garbage among what is imported and traced.
gc.set_threshold(100_000)

import argparse
import dataclasses
import shlex
import sys
from typing import Annotated, Literal

import tyro

from jaxgan import PRESETS, GANConfig, TrainConfig, checkpoint, cli, training

LEFT_BEHIND = (
    "samples/",
    "training.gif",
    "curves.png",
    "real.png",
    "metrics.csv",
    "config.json",
    "checkpoints/",
    "tensorboard/",
)


@dataclasses.dataclass(frozen=True)
class NetworkOptions(GANConfig):
    """The networks and how they learn."""

    # Not for the command line: the shape follows the data, and modules come from Python.
    image_shape: Annotated[tuple[int, int, int], tyro.conf.Suppress] = (28, 28, 1)
    generator: Annotated[None, tyro.conf.Suppress] = None
    discriminator: Annotated[None, tyro.conf.Suppress] = None


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains a GAN, with pictures, curves and checkpoints in a run folder.

    The same command on the same folder resumes it; more --epochs goes on.
    """

    train: TrainConfig
    gan: NetworkOptions
    workdir: str | None = None
    """The run folder; by default runs/DATASET."""
    summary: bool = False
    """Print both networks as tables first; with --epochs 0 nothing else is done."""
    preset: Literal["reference"] = "reference"
    """Named settings, which the other options then change."""


def main() -> int | None:
    options = parse_options()
    config = GANConfig(**vars(options.gan))
    if options.summary:
        print(training.summary(config, options.train))
    if options.summary and options.train.epochs == 0:
        return 0
    outcome = training.train(config, options.train, options.workdir)
    if outcome.stopped_by is not None:
        saved = "and saved" if checkpoint.steps(outcome.workdir) else "before the first step"
        print(f"stopped by {outcome.stopped_by.name} {saved} in {outcome.workdir}; resume with:")
        print(f"  {shlex.join(['python', *sys.argv])}")
        return 128 + outcome.stopped_by
    if not outcome.trained:
        print(f"already trained for {len(outcome.history)} epochs; more --epochs goes on")
    print(f"everything is in {outcome.workdir}:")
    for name in LEFT_BEHIND:
        if (outcome.workdir / name).exists():
            print(f"  {name}")
    return None


def parse_options() -> Options:
    # The preset gives the defaults that the other options, and --help, start from.
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--preset", default="reference")
    preset = first.parse_known_args()[0].preset
    gan, train = PRESETS.get(preset, PRESETS["reference"])
    default = Options(train=train, gan=NetworkOptions(**vars(gan)))
    return cli.parse(Options, default=default)


if __name__ == "__main__":
    cli.main(main)
