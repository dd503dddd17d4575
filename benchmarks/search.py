"""Searches settings for `--preset tuned` among the remedies, on Fashion-MNIST.

Optuna suggests the settings of a trial, and a population is trained with them; Optuna is told the
median of its Fréchet distances. A trial ends after three epochs if its distance is then worse than
the median of the others. All trials are written to --json, and a later call continues from there.
A trial takes about a minute on two CPU cores.

--space FILE searches the space of a TOML file. The default space, at the end of this text, is an
example. A line has the choices or the bounds of a field of GANConfig, or of one of four more: b1
and b2 (of both networks), dropout (a factor of the reference's rates) and falling_lr (whether
learning rates fall to 0). instance_noise always falls to 0. Other fields are those of the
reference.

Trials by hand are runs of `scripts/train.py --evaluate-every N`. --add adds their settings and
scores to a log and prints it; without a run folder it only prints it:

    python benchmarks/search.py --add runs/a runs/b --json runs/trials.json

It needs optuna: pip install -e '.[search]'
"""

import argparse
import dataclasses
import json
import math
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import harness
import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from remedies import BATCH, SCORES, load_real, scores_of

from jaxgan import MODELS, GANConfig, JaxganError, loop, schedules
from jaxgan.metrics import evaluation
from jaxgan.run import checkpoint, saved

SPACE = """\
loss = ["non_saturating", "hinge", "relativistic"]
updates = ["simultaneous", "alternating"]
generator_lr = {low = 1e-4, high = 2e-3, log = true}
discriminator_lr = {low = 1e-4, high = 1e-2, log = true}
b1 = [0.0, 0.5, 0.9]
b2 = [0.99, 0.999]
falling_lr = [false, true]
dropout = {low = 0.0, high = 1.0}
r1 = {low = 0.01, high = 10.0, log = true}
r2 = [0.0, 0.01, 0.1, 1.0]
instance_noise = [0.0, 0.1, 0.3]
augment = {low = 0.0, high = 0.7}
pac = [1, 2]
ema_decay = [0.99, 0.999, 0.9995]
"""
"""What is searched without --space."""
OWN = ("falling_lr", "dropout", "b1", "b2")
"""What can be searched beside fields of GANConfig."""
KNOWN: list[dict[str, Any]] = [
    # The best of remedies.py, without dropout, and with smaller penalties.
    {"loss": "relativistic", "updates": "simultaneous", "generator_lr": 2e-4}
    | {"discriminator_lr": 2e-4, "b1": 0.5, "b2": 0.999, "falling_lr": falling, "dropout": dropout}
    | {"r1": r, "r2": r, "instance_noise": 0.0, "augment": 0.0, "pac": 1, "ema_decay": 0.999}
    for falling, dropout, r in ((False, 1, 1), (True, 0, 1), (True, 0, 0.1))
]
"""The first trials, without --space."""
PACKED_WIDTHS = (136, 128, 64)
"""Of a discriminator of two images at once: as many parameters as the reference's, within 2%."""
EARLY = 3
"""The number of epochs after which a trial may end."""
LEAST_TRIALS = 20
"""Importances of fewer whole trials would be chance."""
ADDED_SCORES = ("fd", "precision", "recall", "density", "coverage")
COLUMNS = "trial trial, state state, fd fd, recall recall, coverage coverage, params settings"
ADDED_COLUMNS = (
    f"trial trial, epoch epoch, {', '.join(f'{name} {name}' for name in ADDED_SCORES)}, "
    "batch_size batch, seed seed, settings settings"
)


def main() -> None:
    parser = harness.make_parser(__doc__, data="any", trials=60, seeds=2, epochs=10)
    parser.epilog = f"the space without --space:\n\n{SPACE}"
    parser.set_defaults(json=harness.RUNS / "search.json")
    parser.add_argument("--add", nargs="*", type=Path, metavar="RUN", help="see above")
    parser.add_argument("--space", type=Path, metavar="FILE", help="default: see below")
    args = parser.parse_args()
    header = harness.about()
    if args.add is None:
        search(args, header)
    else:
        add_runs(args, header)


def search(args: argparse.Namespace, header: dict[str, Any]) -> None:
    """Trials that Optuna suggests."""
    space = read_space(args.space)
    real = load_real(args)
    log = load_log(args, header)
    trials = log["trials"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        # The seed differs after each call, so that no call suggests the trials of an earlier one.
        sampler=optuna.samplers.TPESampler(seed=len(trials), multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8),
    )
    for trial in trials:
        study.add_trial(as_optuna(trial, space))
    for params in [] if args.space else KNOWN[len(trials) :]:
        study.enqueue_trial(params)
    for i in range(len(trials), args.trials):
        harness.note(f"trial {i + 1} of {args.trials}")
        trials.append(train_trial(study, space, real, args))
        harness.write_json(args.json, log)
    print_summary(study, trials)


def load_log(args: argparse.Namespace, header: dict[str, Any]) -> dict[str, Any]:
    """The file with the trials so far. Ends the program if they have other settings."""
    settings = {"dataset": args.dataset, "epochs": args.epochs, "seeds": args.seeds}
    space = {"space": tomllib.loads(args.space.read_text())} if args.space else {}
    if not args.json.exists():
        return {**header, **settings, **space, "trials": []}
    log = json.loads(args.json.read_text())
    if log.get("space") != space.get("space"):
        sys.exit(f"error: {args.json} has trials of another space: choose another --json")
    if any(log.get(name) != value for name, value in settings.items()):
        found = ", ".join(f"{name} {log.get(name)}" for name in settings)
        sys.exit(f"error: {args.json} has other settings ({found}): choose another --json")
    return log


def read_space(path: Path | None) -> dict[str, BaseDistribution]:
    """The distributions of a file by their fields; without a file those of SPACE.

    Raises:
      JaxganError: if the file cannot be read, or if a line cannot be searched.
    """
    try:
        lines = tomllib.loads(path.read_text() if path else SPACE).items()
        if not lines:
            raise ValueError("it is empty: give a line such as r1 = {low = 0.01, high = 10.0}")
        space = {name: make_distribution(name, line) for name, line in lines}
        # Each field at its ends, with the others at their first value.
        first = {name: ends(one)[0] for name, one in space.items()}
        for name, one in space.items() if path else ():
            for value in ends(one):
                make_config(first | {name: value}, np.zeros((1, 28, 28, 1), np.uint8), 1)
    except (OSError, ValueError, JaxganError) as error:
        raise JaxganError(f"--space {path}: {error}") from None
    return space


def make_distribution(name: str, line: Any) -> BaseDistribution:
    """What a line of a space says: choices, or bounds."""
    if isinstance(line, list) and all(isinstance(x, str | int | float) for x in line):
        return CategoricalDistribution(line)
    if not isinstance(line, dict) or not {"low", "high"} <= line.keys() <= {"low", "high", "log"}:
        raise ValueError(f"{name} must be [VALUE, ...] or {{low = ..., high = ..., log = true}}")
    if not all(isinstance(line[end], int | float) for end in ("low", "high")):
        raise ValueError(f"{name}: low and high must be numbers")
    is_whole = isinstance(getattr(GANConfig, name, None), int)
    return (IntDistribution if is_whole else FloatDistribution)(**line)


def ends(distribution: Any) -> tuple[Any, ...]:
    """The choices, or the bounds."""
    return getattr(distribution, "choices", None) or (distribution.low, distribution.high)


def as_optuna(trial: dict[str, Any], space: dict[str, BaseDistribution]) -> FrozenTrial:
    """A trial of the file as Optuna knows it."""
    early, state = trial["early_fd"], TrialState[trial["state"]]
    return create_trial(
        state=state,
        value=trial["fd"] if state == TrialState.COMPLETE else None,
        params=trial["params"],
        distributions=space,
        intermediate_values={} if early is None else {EARLY: early},
    )


def make_config(params: dict[str, Any], images: np.ndarray, epochs: int) -> GANConfig:
    """The GAN of a trial, for a run of so many epochs."""
    steps = epochs * math.ceil(len(images) / BATCH)
    reference = GANConfig()
    # As texts, so that a space can have values such as "64,128".
    texts = {name: str(value) for name, value in params.items() if name not in OWN}
    for name in params.keys() & {"b1", "b2"}:
        texts |= harness.both(**{name: str(params[name])})
    fields = harness.parse_fields(reference, texts) | {"image_shape": images.shape[1:]}
    if "dropout" in params:
        factor = float(params["dropout"])
        fields["discriminator_dropout"] = [factor * x for x in reference.discriminator_dropout]
    if params.get("pac") == 2:
        fields = {"discriminator_widths": PACKED_WIDTHS} | fields
    if params.get("falling_lr"):
        fields["lr_scale"] = "cosine:1:0"
    noise = fields.get("instance_noise", 0.0)
    if noise and not isinstance(noise, str):
        fields["instance_noise"] = f"linear:{noise}:0"
    return schedules.over(dataclasses.replace(reference, **fields), steps)


def train_trial(
    study: optuna.Study,
    space: dict[str, BaseDistribution],
    real: evaluation.Reference,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Trains the next trial and tells Optuna its result: its entry in the file."""
    trial = study.ask(fixed_distributions=space)
    entry: dict[str, Any] = {"params": trial.params, "early_fd": None}
    started = time.perf_counter()

    def scores(run: loop.Run) -> dict[str, float]:
        found = [scores_of(state, real) for state in harness.members(run)]
        # Not statistics.median: this one is NaN if one of them is.
        return {name: float(np.median([score[name] for score in found])) for name in SCORES}

    def look(run: loop.Run) -> None:
        if len(run.history) == EARLY < args.epochs:
            entry["early_fd"] = scores(run)["fd"]
            trial.report(entry["early_fd"], EARLY)
            if trial.should_prune():
                raise optuna.TrialPruned

    found, state = dict.fromkeys(SCORES), TrialState.FAIL
    options: dict[str, Any] = {"epochs": args.epochs, "batch_size": BATCH, "on_epoch": look}
    try:
        config = make_config(trial.params, real.images, args.epochs)
        run = harness.train(config, real.images, range(args.seeds), progress=False, **options)
        if run is not None:
            found = scores(run)
            state = TrialState.COMPLETE if math.isfinite(found["fd"]) else TrialState.FAIL
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except JaxganError as error:  # settings that do not go together
        harness.note(f"no GAN: {error}")
    study.tell(trial, found["fd"] if state == TrialState.COMPLETE else None, state)
    seconds = round(time.perf_counter() - started, 1)
    return entry | found | {"state": state.name, "seconds": seconds}


def print_summary(study: optuna.Study, trials: list[dict[str, Any]]) -> None:
    """All trials, the smallest distance, and what the distances depended on most."""
    rows = [{"trial": i, **trial} for i, trial in enumerate(trials)]
    print(harness.table(COLUMNS, [row | {"params": text_of(row["params"])} for row in rows]))
    done = [row for row in rows if row["state"] == TrialState.COMPLETE.name]
    print(f"{sum(trial['seconds'] for trial in trials) / 60:.0f} minutes, {len(done)} whole trials")
    if done:
        number = min(done, key=lambda row: row["fd"])["trial"]
        print(f"the smallest distance: trial {number}. It is one trial, and may be so by chance")
    if len(done) < LEAST_TRIALS:
        print(f"no importances: they need {LEAST_TRIALS} whole trials, and there are {len(done)}")
    elif len({row["fd"] for row in done}) > 1:
        print("importance (fANOVA):")
        for name, share in optuna.importance.get_param_importances(study).items():
            print(f"  {name:16} {share:.2f}")


def text_of(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={harness.cell(value)}" for name, value in settings.items())


def add_runs(args: argparse.Namespace, header: dict[str, Any]) -> None:
    """Adds runs of scripts/train.py to the log, and prints it."""
    log = json.loads(args.json.read_text()) if args.json.exists() else {**header, "trials": []}
    log["trials"] += map(read_run, args.add)
    if args.add:
        harness.write_json(args.json, log)
    rows = [
        {**trial, "trial": i, "epoch": epoch, **scores, "settings": text_of(trial["settings"])}
        for i, trial in enumerate(log["trials"])
        for epoch, scores in trial["scores"].items()
    ]
    print(harness.table(ADDED_COLUMNS, rows))


def read_run(workdir: Path) -> dict[str, Any]:
    """The settings of a run that differ from the reference's, and its scores by epoch."""
    described, reference = checkpoint.read_config(workdir), vars(GANConfig())
    fields, train = described["gan"], described["train"]
    fields = {k: v for k, v in fields.items() if v != json.loads(json.dumps(reference[k]))}
    scores, features = {}, ""
    for row in saved.read_history(MODELS["gan"], workdir):
        short = {name.partition("(")[0]: value for name, value in row.items()}
        if np.isfinite(short.get("fd", np.nan)):
            scores[str(row["epoch"])] = {name: short[name] for name in ADDED_SCORES}
            features = next(name for name in row if name.startswith("fd("))[3:-1]
    if not scores:
        raise JaxganError(f"{workdir} has no scores: train with --evaluate-every")
    named = {"batch_size": train["batch_size"], "seed": train["seed"]}
    return {"settings": fields, **named, "features": features, "scores": scores}


if __name__ == "__main__":
    harness.main(main)
