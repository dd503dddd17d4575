"""Searches for the settings of `--preset tuned` among the remedies.

Optuna asks, a population of each trial is trained, the median of its Fréchet distances is told.

The log, --json, has every trial; given again, the command goes on from there. A trial takes about a
minute on two CPU cores; one that is worse than the median after EARLY epochs ends there. Needs
optuna: pip install -e '.[search]'
"""

import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from remedies import BATCH, JUDGED, Real, add_data_options, judged, load_real
from steps_per_second import machine
from tqdm import tqdm

from jaxgan import GANConfig, loop, population
from jaxgan.checkpoint import write_atomically
from jaxgan.errors import NonFiniteError

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "loss": CategoricalDistribution(["non_saturating", "hinge", "relativistic"]),
    "updates": CategoricalDistribution(["simultaneous", "alternating"]),
    "generator_lr": FloatDistribution(1e-4, 2e-3, log=True),
    "discriminator_lr": FloatDistribution(1e-4, 1e-2, log=True),
    "b1": CategoricalDistribution([0.0, 0.5, 0.9]),
    "b2": CategoricalDistribution([0.99, 0.999]),
    "falling_lr": CategoricalDistribution([False, True]),
    "dropout": FloatDistribution(0, 1),
    "r1": FloatDistribution(0.01, 10, log=True),
    "r2": CategoricalDistribution([0.0, 0.01, 0.1, 1.0]),
    "instance_noise": CategoricalDistribution([0.0, 0.1, 0.3]),
    "augment": FloatDistribution(0, 0.7),
    "pac": CategoricalDistribution([1, 2]),
    "ema_decay": CategoricalDistribution([0.99, 0.999, 0.9995]),
}
"""What is searched. dropout is a factor of the reference's rates; instance_noise falls to 0, and
if falling_lr so do the learning rates."""
KNOWN: list[dict[str, Any]] = [
    # What benchmarks/remedies.py says of single remedies.
    {
        "loss": "relativistic",
        "updates": "simultaneous",
        "generator_lr": 2e-4,
        "discriminator_lr": 2e-4,
        "b1": 0.5,
        "b2": 0.999,
        "falling_lr": falling,
        "dropout": dropout,
        "r1": r1,
        "r2": r2,
        "instance_noise": 0.0,
        "augment": 0.0,
        "pac": 1,
        "ema_decay": 0.999,
    }
    for falling, dropout, r1, r2 in ((False, 1, 1, 1), (True, 0, 1, 1), (True, 0, 0.1, 0.1))
]
"""Tried first."""
PACKED_WIDTHS = (136, 128, 64)
"""Of a discriminator that sees two images at once: as many parameters as the reference's, within
2%."""
EARLY = 3
"""Epochs after which a trial may end."""


def main() -> None:
    args = parse()
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    real = load_real(args)
    trials = load_log(args)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        # Seeded by what is there, so that a command that goes on does not ask the same again.
        sampler=optuna.samplers.TPESampler(seed=len(trials), multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8),
    )
    for trial in trials:
        study.add_trial(told(trial))
    for params in KNOWN[len(trials) :]:
        study.enqueue_trial(params)
    for _ in tqdm(range(len(trials), args.trials), "trials", disable=None):
        trials.append(tried(study, real, args))
        log = about | described(args) | {"trials": trials}
        write_atomically(args.json, json.dumps(log, indent=2) + "\n")
        print_trial(len(trials) - 1, trials[-1])
    print_summary(study, trials)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60, help="in all; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=2, help="of each; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    add_data_options(parser)
    parser.add_argument("--json", type=Path, default=Path("runs/search.json"), help="the log")
    args = parser.parse_args()
    if min(args.trials, args.seeds, args.epochs) < 1:
        parser.error("--trials, --seeds and --epochs must be above 0")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    return args


def load_log(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The trials so far."""
    if not args.json.exists():
        return []
    log = json.loads(args.json.read_text())
    settings = described(args)
    if any(log.get(name) != value for name, value in settings.items()):
        found = ", ".join(f"{name} {log.get(name)}" for name in settings)
        sys.exit(f"error: {args.json} is of other settings ({found}); take another --json")
    return log["trials"]


def described(args: argparse.Namespace) -> dict[str, Any]:
    """What all trials of a log have in common."""
    return {"dataset": args.dataset, "epochs": args.epochs, "seeds": args.seeds}


def told(trial: dict[str, Any]) -> FrozenTrial:
    """A trial of the log as Optuna knows it."""
    early, state = trial["early_fd"], TrialState[trial["state"]]
    return create_trial(
        state=state,
        value=trial["fd"] if state == TrialState.COMPLETE else None,
        params=trial["params"],
        distributions=SPACE,
        intermediate_values={} if early is None else {EARLY: early},
    )


def make_config(params: dict[str, Any], images, epochs: int) -> GANConfig:
    """The GAN of a trial, for a run of so many epochs."""
    steps = epochs * math.ceil(len(images) / BATCH)
    own = dict(params)
    moments = {name: own.pop(name) for name in ("b1", "b2")}
    falling, dropout, noise = (own.pop(x) for x in ("falling_lr", "dropout", "instance_noise"))
    reference = GANConfig()
    return GANConfig(
        image_shape=images.shape[1:],
        **own,
        **{
            f"{player}_{k}": v
            for player in ("generator", "discriminator")
            for k, v in moments.items()
        },
        discriminator_widths=PACKED_WIDTHS if own["pac"] == 2 else reference.discriminator_widths,
        discriminator_dropout=tuple(dropout * rate for rate in reference.discriminator_dropout),
        lr_scale=f"cosine:1:0:{steps}" if falling else 1.0,
        instance_noise=f"linear:{noise}:0:{steps}" if noise else 0.0,
    )


def tried(study: optuna.Study, real: Real, args: argparse.Namespace) -> dict[str, Any]:
    """Asks for a trial, trains it and tells what came of it: its entry in the log."""
    trial = study.ask(fixed_distributions=SPACE)
    entry: dict[str, Any] = {"params": trial.params, "early_fd": None}
    started = time.perf_counter()

    def scores(run: loop.Run) -> dict[str, float]:
        members = [population.member(run.state, i) for i in range(args.seeds)]
        found = [judged(state, real) for state in members]
        # Unlike that of statistics not a number if one of them is none.
        return {name: float(np.median([score[name] for score in found])) for name in JUDGED}

    def look(run: loop.Run) -> None:
        if len(run.history) == EARLY < args.epochs:
            entry["early_fd"] = scores(run)["fd"]
            trial.report(entry["early_fd"], EARLY)
            if trial.should_prune():
                raise optuna.TrialPruned

    found = dict.fromkeys(JUDGED)
    try:
        run = population.train_population(
            make_config(trial.params, real.images, args.epochs),
            real.images,
            range(args.seeds),
            epochs=args.epochs,
            batch_size=BATCH,
            devices=1,
            progress=False,
            on_epoch=look,
        )
        found = scores(run)
        state = TrialState.COMPLETE if math.isfinite(found["fd"]) else TrialState.FAIL
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except NonFiniteError:
        state = TrialState.FAIL
    study.tell(trial, found["fd"] if state == TrialState.COMPLETE else None, state)
    seconds = round(time.perf_counter() - started, 1)
    return entry | found | {"state": state.name, "seconds": seconds}


def print_trial(number: int, trial: dict[str, Any]) -> None:
    scores = " ".join(f"{k} {trial[k]:.2f}" for k in JUDGED if trial[k] is not None)
    early = trial["early_fd"]
    after = "" if early is None else f"after {EARLY} epochs {early:.1f}"
    params = " ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial["params"].items()
    )
    print(f"{number:3} {trial['state']:8} {scores or after}  {params}", flush=True)


def print_summary(study: optuna.Study, trials: list[dict[str, Any]]) -> None:
    """The best trial, and what the distances depended on most."""
    done = [i for i, trial in enumerate(trials) if trial["state"] == TrialState.COMPLETE.name]
    print(f"{sum(trial['seconds'] for trial in trials) / 60:.0f} minutes, {len(done)} whole trials")
    if done:
        print("the best:")
        best = min(done, key=lambda i: trials[i]["fd"])
        print_trial(best, trials[best])
    if len({trials[i]["fd"] for i in done}) > 1:
        print("importance (fANOVA):")
        for name, share in optuna.importance.get_param_importances(study).items():
            print(f"  {name:16} {share:.2f}")


if __name__ == "__main__":
    main()
