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
import os
import shlex
import sys
from typing import Annotated, Literal

import numpy as np
import tyro

from jaxgan import (
    PRESETS,
    GANConfig,
    TrainConfig,
    checkpoint,
    cli,
    data,
    devices,
    diagnostics,
    evaluation,
    population,
    training,
)
from jaxgan.metrics.modes import ModeScores

LEFT_BEHIND = (
    "samples/",
    "training.gif",
    "curves.png",
    "best.png",
    "worst.png",
    "report.json",
    "real.png",
    "metrics.csv",
    "config.json",
    "checkpoints/",
    "tensorboard/",
)


@dataclasses.dataclass(frozen=True)
class NetworkOptions(GANConfig):
    """The networks and how they learn. Where FLOAT|STR stands a number may change over the steps:
    KIND:START:END:STEPS with the kinds linear, cosine and exponential, such as
    cosine:0.1:0:10000."""

    # Not for the command line: the first two follow the data, and modules come from Python.
    image_shape: Annotated[tuple[int, int, int], tyro.conf.Suppress] = (28, 28, 1)
    bounded: Annotated[bool, tyro.conf.Suppress] = True
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
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes train one run. Under Slurm and on cloud TPUs
    leave out all three: what those announce is taken."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    preset: Literal["reference", "tuned", "large"] = "reference"
    """Named settings, which the other options then change. tuned: the same two networks, with
    remedies found for them by search and by hand. large: these with layers of four times the width,
    for 60 epochs of batches of 64; a quarter of an hour on two CPU cores."""


def main() -> int | None:
    options = parse_options()
    devices.connect(options.coordinator, options.num_processes, options.process_id)
    if not devices.is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    config = GANConfig(**vars(options.gan))
    if options.summary:
        with devices.together("load the data"):
            print(training.summary(config, options.train))
    if options.summary and options.train.epochs == 0:
        return 0
    outcome = training.train(config, options.train, options.workdir)
    if outcome.stopped_by is not None:
        saved = "and saved" if checkpoint.steps(outcome.workdir) else "before the first step"
        print(f"stopped by {outcome.stopped_by.name} {saved} in {outcome.workdir}; resume with:")
        print(f"  {shlex.join(['python', *sys.argv])}")
        return 128 + outcome.stopped_by
    if outcome.members and outcome.history:
        print_report(config, outcome.members, outcome.history)
    if outcome.scores is not None:
        print_scores(outcome.scores, options.train.dataset, outcome.members)
    if outcome.history:
        print_failures(config, outcome)
        print_best(outcome)
    if outcome.failed:
        print(f"stopped by --stop-on-failure and saved in {outcome.workdir}")
        return 5
    if not outcome.trained:
        print(f"already trained for {len(outcome.history)} epochs; more --epochs goes on")
    print(f"everything is in {outcome.workdir}:")
    for name in LEFT_BEHIND:
        if (outcome.workdir / name).exists():
            print(f"  {name}")
    return None


def print_report(config: GANConfig, members: list[population.Member], history: list[dict]) -> None:
    report = population.report(config, members, history[-1])
    print(f"epoch {len(history)}, mean and standard deviation over the members:")
    for group in report.summary:
        own = [f"{k} {v:g}" for k, v in group.items() if k in members[0]]
        # The losses and scores; report.json has them all.
        names = [name.removesuffix("_mean") for name in group if name.endswith("_mean")][:4]
        values = [
            f"{name} {group[f'{name}_mean']:.3f}"
            + (f" +- {sd:.3f}" if (sd := group[f"{name}_sd"]) is not None else "")
            for name in names
        ]
        failed = f"{group['failed']} of {group['members']} failed"
        print("  " + "  ".join([*own, *values, failed]))
    for name, i in (("best", report.best), ("worst", report.worst)):
        if i is not None:
            print(f"{name}: member {i}, " + " ".join(f"{k} {v}" for k, v in members[i].items()))


def print_scores(scores: ModeScores, dataset: str, members: list | None) -> None:
    modes = len(data.MIXTURES[dataset].centers)
    print(
        f"2,500 samples{' of each member, mean' if members else ''}: {scores.modes:.3g} of {modes} "
        f"modes, {scores.high_quality:.1%} of high quality, reverse KL {scores.reverse_kl:.3f} "
        f"nats, covariance ratio {scores.covariance_ratio:.3f}"
    )


def print_failures(config: GANConfig, outcome: training.Outcome) -> None:
    found = diagnostics.diagnose_members(outcome.history)
    several, epochs = outcome.members is not None, len(outcome.history)
    lines = diagnostics.describe(found, epochs, population=several, settings=vars(config))
    short = diagnostics.too_short(outcome.history)
    sound = population.sound(outcome.history[-1]) if several else np.ones(1, bool)
    if not lines and sound.any():
        where = "" if sound.all() else " in the members that have not diverged"
        lines = [f"no failure was seen{where}{f', but {short}' if short else ''}"]
    print("\n".join(lines))


def print_best(outcome: training.Outcome) -> None:
    best = evaluation.best_row(outcome.history)
    if best is not None:
        value = evaluation.least_distance(best)
        of = f", of member {evaluation.best_member(best)}" if outcome.members else ""
        print(f"the least Fréchet distance was {value:.3g}{of}, after epoch {best['epoch']}:")
        command = ["python", "scripts/sample.py", "--best", "--workdir", str(outcome.workdir)]
        print(f"  {shlex.join(command)}")


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
