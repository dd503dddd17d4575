"""Trains a model in a run folder, with pictures, curves and checkpoints, or resumes it."""

import argparse
import dataclasses
import functools
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxgan import MODELS, PRESETS, GANConfig, TrainConfig, cli, data
from jaxgan.adversarial.losses import LOSSES
from jaxgan.advice import DONE, advise, longer
from jaxgan.diffusion import DiffusionConfig
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.files import expand
from jaxgan.gaussian import GaussianConfig
from jaxgan.labels import fit_to_classes
from jaxgan.metrics import evaluation
from jaxgan.model import Model
from jaxgan.processes import connect, is_first, together
from jaxgan.report import texts, verdict
from jaxgan.run import checkpoint, saved, settings_file, sweep, training

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(LOSSES)]
OwnPart = Annotated[Any, tyro.conf.Suppress, tyro.conf.Fixed]

FRESH_NOISE = (
    "a private run draws its own noise, so it does not repeat the samples of another run. On the "
    "same data both together cost more than one epsilon."
)


@dataclasses.dataclass(frozen=True)
class NetworkOptions(GANConfig):
    """The networks and how they learn. FLOAT|STR is a number, or KIND:START:END for a number that
    changes over the run: linear, cosine or exponential, such as cosine:1:0.1. KIND:START:END:STEPS
    changes over STEPS steps."""

    loss: LossName = "non_saturating"
    """The adversarial loss (`jaxgan.adversarial.losses`)."""
    # Not on the command line: the first three are fitted to the data, and --config has own parts.
    image_shape: Annotated[tuple[int, int, int], tyro.conf.Suppress] = (28, 28, 1)
    bounded: Annotated[bool, tyro.conf.Suppress] = True
    num_classes: Annotated[int, tyro.conf.Suppress] = 0
    generator: OwnPart = None
    discriminator: OwnPart = None
    generator_optimizer: OwnPart = None
    discriminator_optimizer: OwnPart = None
    augmentation: OwnPart = None
    penalties: OwnPart = ()
    noise_multiplier: Annotated[float, tyro.conf.Suppress] = 0.0


@dataclasses.dataclass(frozen=True)
class DenoiserOptions(DiffusionConfig):
    """The denoiser of the diffusion model, how it learns, and how samples are drawn. FLOAT|STR is a
    number, or KIND:START:END for a number that changes over the run: linear, cosine or exponential,
    such as cosine:1:0.1. KIND:START:END:STEPS changes over STEPS steps."""

    image_shape: Annotated[tuple[int, int, int], tyro.conf.Suppress] = (28, 28, 1)
    bounded: Annotated[bool, tyro.conf.Suppress] = True
    num_classes: Annotated[int, tyro.conf.Suppress] = 0
    denoiser: OwnPart = None
    optimizer: OwnPart = None
    noise_multiplier: Annotated[float, tyro.conf.Suppress] = 0.0


@dataclasses.dataclass(frozen=True)
class GaussianOptions(GaussianConfig):
    """The Gaussians."""

    image_shape: Annotated[tuple[int, int, int], tyro.conf.Suppress] = (28, 28, 1)
    bounded: Annotated[bool, tyro.conf.Suppress] = True
    num_classes: Annotated[int, tyro.conf.Suppress] = 0
    noise_multiplier: Annotated[float, tyro.conf.Suppress] = 0.0


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains a model, with pictures, curves and checkpoints in a run folder.

    - The same command resumes a run that was stopped.
    - With more --epochs it continues a finished run.
    - --model diffusion --help shows the options of a diffusion model.
    - Samples are not anonymous: they may show training images. An attack that guesses which
      images were in the training data has an AUC of .51 on samples of tuned, and a coin has .5.
      Other attacks may do better. With --epsilon samples may be shared.
    """

    train: TrainConfig
    network: Any
    model: Literal["gan", "diffusion", "gaussian"] = "gan"
    """What is trained: a GAN, a diffusion model (DDPM), or a Gaussian for each class. That takes
    seconds, and is the default with --epsilon."""
    workdir: str | None = None
    """The run folder. By default it is runs/DATASET. A model other than the GAN, a preset other
    than the reference, and a file of settings add their names. A population adds _population, and
    RUN/config.json adds -repeat. If that folder holds a run with other settings, a number is added.
    """
    summary: bool = False
    """Print the networks as tables before training. With --epochs 0 nothing else is done."""
    coordinator: str | None = None
    """HOST:PORT of process 0, if several processes train one run. Slurm and cloud TPUs announce the
    processes. There, leave out this and the next two options."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """The number of this process, from 0."""
    preset: Literal["reference", "tuned", "large", "diffusion", "gaussian"] = "reference"
    """Named settings, which other options can change. tuned: the GAN of the reference with the best
    settings found for Fashion-MNIST. large: similar settings, with layers four times as wide, and
    56,280 steps in batches of 64. It takes a quarter to half an hour on two CPU cores. diffusion: a
    diffusion model. Its training takes as long as that of large. gaussian: one step over all
    images."""

    config: str | None = None
    """Settings in a file, which other options can change. RUN/config.json repeats a run, in another
    run folder. FILE.json and FILE.toml have the same sections, and need not have all settings.
    FILE.py:NAME is a config in a Python file of yours. It may have parts of your own, such as
    networks, optimizers or a loss. Then sample.py, evaluate.py, inpaint.py, export.py and report.py
    need it too."""
    print_config: bool = False
    """Print all settings as JSON, for --config, and do nothing else."""

    @property
    def model_config(self) -> Any:
        """The config of the model."""
        config = MODELS[self.model].config(**vars(self.network))
        loss = getattr(own_config(self.config), "loss", None)
        if loss is not None and not isinstance(loss, str):
            config = dataclasses.replace(config, loss=loss)
        return config


@dataclasses.dataclass(frozen=True)
class GANRun(Options):
    __doc__ = Options.__doc__

    network: NetworkOptions


@dataclasses.dataclass(frozen=True)
class DiffusionRun(Options):
    __doc__ = Options.__doc__

    network: DenoiserOptions


@dataclasses.dataclass(frozen=True)
class GaussianRun(Options):
    __doc__ = Options.__doc__

    network: GaussianOptions


RUNS: dict[str, Any] = {
    "gan": (GANRun, NetworkOptions),
    "diffusion": (DiffusionRun, DenoiserOptions),
    "gaussian": (GaussianRun, GaussianOptions),
}
"""The options of each model, and those of its config."""


DEFAULTS: dict[str, tuple[Any, TrainConfig]] = {
    "gan": PRESETS["reference"],
    "diffusion": (DiffusionConfig(), TrainConfig()),
    "gaussian": PRESETS["gaussian"],
}
"""The settings of each model without a preset."""


def main() -> int | None:
    options = parse_options()
    if options.print_config:
        print(settings_file.write(options.model, options.model_config, options.train))
        return 0
    connect(options.coordinator, options.num_processes, options.process_id)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    model, config = MODELS[options.model], options.model_config
    if options.summary:
        print_summary(model, config, options.train)
        if options.train.epochs == 0:
            return 0
    if cli.is_settings(options.config) and options.train.epsilon is not None:
        print(texts.wrapped(f"{options.config}: {FRESH_NOISE}", ""))
    arguments = (model, config, options.train, options.workdir)
    extras: dict[str, Any] = {"label": label(options), "gaussians": MODELS["gaussian"]}
    swept = None
    try:
        if options.train.sweep:
            swept = sweep.train(*arguments, **extras)
            outcome = swept.groups[-1]
        else:
            outcome = training.train(*arguments, **extras)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        print_advice(*advice("diverged", options))
        return error.exit_code
    if outcome.stopped_by is not None:
        saved = "and saved" if checkpoint.steps(outcome.workdir) else "before the first step"
        print(f"stopped by {outcome.stopped_by.name} {saved} in {outcome.workdir}; resume with:")
        print(f"  {shlex.join([*cli.command(), *sys.argv[1:]])}")
        return 128 + outcome.stopped_by
    if swept is not None and swept.workdir != outcome.workdir:  # each group has a folder
        print_sweep(swept, options)
        return 5 if any(one.stopped_on_failure for one in swept.groups) else None
    print_report(outcome, summary=swept is None)  # a sweep has a table
    if swept is not None:
        print_sweep(swept, options)
    print_privacy(outcome, options)
    print_best(outcome, options)
    print_verdict(outcome, options)
    if outcome.stopped_on_failure:
        print(f"stopped by --stop-on-failure and saved in {outcome.workdir}")
        return 5
    if not outcome.trained and outcome.privacy is None:
        print(f"already trained for {len(outcome.history)} epochs; more --epochs continue the run")
    print(f"everything is in {outcome.workdir}")
    return None


def label(options: Options) -> str:
    """What the options add to the name of the default run folder."""
    names = [name for name in (options.model, options.preset) if name not in ("gan", "reference")]
    if cli.is_settings(options.config):
        path = expand(options.config or "").absolute()
        # A repeated repeat has a folder of its own too.
        again = ["repeat"] * (1 + path.parent.name.count("-repeat"))
        names = [*dict.fromkeys(names), *(again if path.name == "config.json" else [path.stem])]
        return "".join(f"-{name}" for name in names)
    return "".join(f"-{name}" for name in dict.fromkeys(names))


def print_summary(model: Model, config: Any, settings: TrainConfig) -> None:
    with together("load the data"):
        dataset = data.load(
            settings.dataset, "train", settings.data_dir, image_size=settings.image_size
        )
    config = fit_to_classes(model.fit_to(config, dataset), dataset, settings.conditional)
    networks = model.networks(config)
    print(texts.summary(networks, settings.batch_size))


def print_report(outcome: training.Outcome, summary: bool) -> None:
    report = outcome.report
    if report is not None:
        if summary:
            n = len(outcome.history)
            print(f"epoch {n}, mean and standard deviation (sd) over the members:")
        by = f", by {report.ranked_by}" if report.ranked_by else ""
        named = {
            f"best{by}": report.best,
            f"worst{by}": report.worst,
            "nearest to equilibrium": report.nearest_to_equilibrium,
        }
        rows = report.summary if summary else []
        print("\n".join(texts.report_lines(rows, named, outcome.labels)))


def print_sweep(swept: sweep.Outcome, options: Options) -> None:
    """The table of a sweep, and where its picture is."""
    print("\n".join(texts.sweep_lines(swept.table, list(options.train.sweep_texts), sweep.SCORES)))
    print(f"sweep.csv has the table, sweep.png its picture, both in {swept.workdir}")
    if swept.workdir != swept.groups[-1].workdir:
        print("each group is a run folder in it; sample.py and evaluate.py take its path")


def print_privacy(outcome: training.Outcome, options: Options) -> None:
    if outcome.privacy is not None:
        spent, delta = outcome.privacy["spent"], outcome.privacy["delta"]
        text = f"privacy: epsilon {spent['epsilon']:.3g} at delta {delta:g}; samples may be shared "
        print(texts.wrapped(text + "under the assumptions in privacy.json", ""))
        command = sample_command(outcome.workdir, options, "--num", "60000", "--out", "samples.npz")
        print_advice("draw samples.", command)
    elif options.train.epsilon is None and outcome.trained:
        print(texts.wrapped(texts.NOT_ANONYMOUS, ""))


def print_best(outcome: training.Outcome, options: Options) -> None:
    best = evaluation.best_row(outcome.history)
    if best is not None and best["epoch"] != len(outcome.history):
        value = evaluation.least_distance(best)
        of = f", of member {evaluation.best_member(best)}" if outcome.report else ""
        print(f"the smallest Fréchet distance was {value:.3g}{of}, after epoch {best['epoch']}:")
        print(f"  {shlex.join(sample_command(outcome.workdir, options, '--best'))}")


def print_verdict(outcome: training.Outcome, options: Options) -> None:
    if outcome.verdicts:
        best = outcome.report.best if outcome.report else 0
        print("\n".join(verdict.lines(outcome.verdicts, best)))
        health = outcome.verdicts[best or 0].health
        found = saved.read_settings(outcome.workdir).dataset  # what auto was
        train = dataclasses.replace(options.train, dataset=found)
        options = dataclasses.replace(options, train=train)
        epochs = longer(outcome.history, options.train.steps)
        print_advice(*advice(health, options, epochs, outcome.workdir))


def print_advice(reason: str, command: list[str]) -> None:
    print(texts.wrapped(f"Next: {reason}", ""))
    print(f"  {shlex.join(command)}")


def advice(
    health: str, options: Options, epochs: int = 0, workdir: Path = Path()
) -> tuple[str, list[str]]:
    """The next command for a run with this verdict, and why. `epochs` are those of a longer run."""
    model, config = MODELS[options.model], options.model_config
    reason, more = advise(model, config, health, epochs, options.train.dataset)
    if health in DONE:
        return reason, sample_command(workdir, options, *more)
    changed = {word[2:].partition("=")[0].replace("-", "_") for word in more if word[:2] == "--"}
    if "epochs" in changed:
        dropped = {"epochs", "steps", "stop_on_failure"}
    elif "preset" in changed:
        networks = {field.name for field in dataclasses.fields(options.network)}
        dropped = networks | {"model", "preset", "config", "workdir", "epochs", "steps", "sweep"}
    else:
        dropped = {*changed, "workdir", "sweep"}
    return reason, [*without(dropped), *more]


def sample_command(workdir: Path, options: Options, *more: str) -> list[str]:
    """The command that draws samples. The run folder is relative if it is below the current one."""
    here = Path.cwd()
    folder = workdir.relative_to(here) if workdir.is_relative_to(here) else workdir
    is_own = options.config is not None and not cli.is_settings(options.config)
    own = ["--config", options.config] if is_own else []
    return [*cli.command("sample"), "--workdir", str(folder), *own, *more]


def without(names: set[str]) -> list[str]:
    """The command of this process, without the options with these names and their values."""
    kept, dropped = cli.command(), False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            dropped = word[2:].partition("=")[0].replace("-", "_") in names
        if not dropped:
            kept.append(word)
    return kept


@functools.cache
def own_config(where: str | None) -> Any:
    """The config in a Python file of the user's; None without one."""
    if cli.is_settings(where):
        return None
    return cli.load_config(where, {name: MODELS[name] for name in RUNS})


def first_settings(known: argparse.Namespace) -> tuple[str, Any, TrainConfig]:
    """The settings that other options may change, after the option that names them, or ""."""
    # The parser refuses a preset that does not exist.
    is_named = known.preset in PRESETS and known.preset != "reference"
    given = f"--preset {known.preset}" if is_named else ""
    if known.config is None:
        return given, *PRESETS.get(known.preset, PRESETS["reference"])
    if given:
        raise JaxganError(f"{given} and --config both name settings: leave one out")
    given = f"--config {known.config}"
    if not cli.is_settings(known.config):
        network = own_config(known.config)
        return given, network, DEFAULTS[model_of(network)][1]
    network, train = settings_file.read(known.config, DEFAULTS)
    if "--steps" in (word.partition("=")[0] for word in sys.argv):
        train = dataclasses.replace(train, epochs=None)  # with epochs, steps have no effect
    return given, network, train


def model_of(config: Any) -> str:
    """The name of the model with this config."""
    return next(name for name in RUNS if type(config) is MODELS[name].config)


def parse_options() -> Options:
    # The model and the preset give the defaults of the other options, also in --help.
    first = argparse.ArgumentParser(add_help=False)
    # An option may lack its value here: the full parser refuses that, with its own message.
    first.add_argument("--preset", nargs="?", default="reference")
    for name in ("--model", "--epsilon", "--config"):
        first.add_argument(name, nargs="?")
    known = first.parse_known_args()[0]
    given, network, train = first_settings(known)
    of_settings = model_of(network)
    model = known.model or ("gaussian" if known.epsilon and not given else of_settings)
    if model not in RUNS:
        model = of_settings  # the parser refuses it
    if model != of_settings:
        if given:
            raise JaxganError(f"{given} is for --model {of_settings}")
        network, train = DEFAULTS[model]
    run, options_of = RUNS[model]
    fields = dict(vars(network))
    if not isinstance(fields.get("loss", ""), str):
        if any(word.partition("=")[0] == "--loss" for word in sys.argv):
            raise JaxganError(f"--loss and the loss in {known.config}: leave one out")
        fields["loss"] = "non_saturating"  # model_config puts the user's own in its place
    options = cli.parse(run, default=run(train, options_of(**fields), model))
    is_guided = getattr(options.network, "guidance", 1) != 1
    if (is_guided or "guidance" in options.train.sweep_texts) and not options.train.conditional:
        raise JaxganError("--guidance is for runs with classes: add --conditional")
    return options
