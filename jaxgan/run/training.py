"""A whole run of a model in a folder: `train` starts or resumes it."""

import contextlib
import hashlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgan import data, schedules
from jaxgan.data.pixels import are_vectors
from jaxgan.errors import JaxganError, LostProcessError, NonFiniteError
from jaxgan.files import expand
from jaxgan.history import mean_interval, member_history
from jaxgan.labels import fit_to_classes, like_data, num_classes
from jaxgan.metrics import evaluation, parts
from jaxgan.metrics.modes import ModeScores, mode_intervals, mode_scores
from jaxgan.model import Diagnosis, Model
from jaxgan.processes import agree, is_first, is_lost_process, together
from jaxgan.report import plots, texts
from jaxgan.report.verdict import Verdict, give_verdict
from jaxgan.run import checkpoint, loop, private
from jaxgan.run.devices import Layout, local
from jaxgan.run.journal import Journal, diagnose
from jaxgan.run.members import OneRun, make_runs
from jaxgan.run.population import Report
from jaxgan.run.profile import Profile
from jaxgan.run.saved import as_checkpoint, as_json, as_run
from jaxgan.run.settings import TrainConfig
from jaxgan.run.trackers import Trackers
from jaxgan.version import __version__

Scorer = Callable[[Any, jax.Array], dict[str, Any]]
"""`(state, rng) -> scores by name`."""

FREE = frozenset(
    f"train.{name}"
    for name in (
        *("dataset", "data_dir", "epochs", "steps", "sample_every", "checkpoint_every"),
        *("devices", "stop_on_failure", "evaluate", "evaluate_every", "log", "profile"),
        "tensorboard",  # the --log of earlier versions
    )
) | {"jaxgan"}
"""Settings that may change when a run is resumed. They do not change what an epoch computes, with
two exceptions: another number of devices rounds sums differently, and another length stretches
schedules without STEPS."""


STOPPING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGXCPU,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that stop and save a run: Ctrl-C, a system that shuts down, a closed terminal, and what
batch systems send before they end a job."""
_GRACE = 60.0
"""Seconds in which a second signal has no effect: the scores of an epoch may take some."""


class Outcome(NamedTuple):
    """The result of `train`."""

    workdir: Path
    history: list[dict[str, Any]]
    """A row for each finished epoch (`jaxgan.history`)."""
    trained: int
    """Epochs finished by this call; 0 if the run had finished before."""
    stopped_by: signal.Signals | None
    """The signal that stopped the run before its last epoch, if any."""
    labels: list[dict[str, Any]]
    """The number, seed and hyperparameters of each member of a population; [{}] for one run."""
    diagnosis: Diagnosis | None
    """The failures that were seen; None if the model has no diagnosis."""
    verdicts: list[Verdict]
    """The verdict on each member; a single run is one member. Empty before the first epoch."""
    report: Report | None = None
    """The result of a population; None for one run."""
    privacy: Mapping[str, Any] | None = None
    """The content of privacy.json; None for a run that is not private."""
    stopped_on_failure: bool = False
    """Whether `stop_on_failure` has stopped the run."""


def train(
    model: Model,
    config: Any,
    settings: TrainConfig,
    workdir: str | Path | None = None,
    *,
    label: str = "",
    gaussians: Model | None = None,
) -> Outcome:
    """Trains one run or a population of a model, or resumes it in its folder.

    A signal of STOPPING stops and saves the run: within a second while it trains, after the scores
    while an epoch is scored. Then `train` returns. If jax has connected several processes, they
    train one run together, in the same folder.

    Args:
      model: such as `jaxgan.MODELS["gan"]`.
      config: its config; `model.fit_to` fits it to the data.
      settings: the data, the length, and what is written.
      workdir: the run folder; by default runs/DATASET or runs/DATASET_population. If that holds a
        run with other settings, a number follows: runs/DATASET-2.
      label: a text that follows DATASET in the name of the default folder.
      gaussians: the Model of `jaxgan.gaussian`, for `settings.start_epochs`.

    Returns:
      The Outcome. The folder then contains config.json, metrics.csv, samples/, real.png,
      curves.png, training.gif, report.json and checkpoints/. A population also has best.png and
      worst.png. `help(TrainConfig)` says what `log` and `profile` add.

    Raises:
      JaxganError: if the data cannot be loaded, the folder cannot be used, or the memory is too
        small.
      NonFiniteError: if training diverges.
      LostProcessError: if another process of the run is lost.
    """
    try:
        return _prepare_and_train(model, config, settings, workdir, label, gaussians)
    except JaxganError:
        raise
    except (RuntimeError, ValueError) as error:
        if any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise JaxganError(
                f"out of memory ({str(error).splitlines()[0]}): take smaller images or networks, a "
                "smaller batch size, or fewer members"
            ) from error
        if not is_lost_process(error):
            raise
        raise LostProcessError(
            "another process of this run has ended or cannot be reached "
            f"({str(error).splitlines()[0]}); run the same commands again, and all processes "
            "resume from the last checkpoint"
        ) from error


def _prepare_and_train(
    model: Model,
    config: Any,
    settings: TrainConfig,
    workdir: str | Path | None,
    label: str,
    gaussians: Model | None,
) -> Outcome:
    with together("load the data"):
        dataset = data.load(
            settings.dataset, "train", settings.data_dir, image_size=settings.image_size
        )
    n = len(dataset.images)
    config, settings = model.fit_to(config, dataset), settings.fitted(n)
    config = fit_to_classes(config, dataset, settings.conditional)
    plan = None
    if settings.epsilon is None:
        _check_not_private(config, settings)
        model = like_data(model, dataset.labels)
    else:
        model, plan = private.without_real(model), _make_plan(model, config, settings, n, gaussians)
        config = plan.config
    described = _describe(model, config, settings, dataset)
    if plan is not None:
        described["privacy"] = plan.described()
    free = FREE | {f"{model.name}.{name}" for name in model.sampling}
    _check_alike(described)
    # All checks come before the folder is made. A run that cannot be trained leaves no folder.
    _check_evaluation(settings, dataset)
    # config.json holds the schedules without STEPS, so that a longer run has the same settings.
    runs = make_runs(model, schedules.over(config, settings.all_steps(n)), settings)
    layout = runs.make_layout(settings.devices)
    arrays = dataset.arrays
    state, places = runs.create_state(), None if plan is None else plan.places
    jax.block_until_ready(state)  # parameters that are too large leave no folder
    start = loop.start_run(model.train_step, state, arrays, settings.batch_size, layout, places)
    if plan is None:
        _check_last_batch(model, start, arrays, settings.batch_size, layout)
    if workdir is None:
        path = _default_folder(folder_name(dataset) + label + runs.folder_suffix, described, free)
    else:
        path = expand(workdir).absolute()
    with together("begin"):
        trackers = Trackers(settings.log if is_first() else (), path, described)
    with contextlib.closing(trackers):
        folder = checkpoint.RunFolder(path, described, free)
        journal = Journal(path, model, config, runs.labels, trackers)
        try:
            # The folder closes first, so that a signal does not interrupt the last save.
            with _stop_signals() as received, folder:
                training = _Training(model, settings, runs, layout, dataset, folder, journal, plan)
                return training.train(start, received)
        except NonFiniteError as error:
            steps = checkpoint.steps(path)
            where = f"the last checkpoint is of step {steps[0]}" if steps else "no checkpoint yet"
            if plan is not None:
                where += f"; delete {private.SECRET} before you share it"
            raise NonFiniteError(f"{error}; {where}, in {path}") from error


def _check_not_private(config: Any, settings: TrainConfig) -> None:
    """Refuses the settings of private runs in a run without epsilon."""
    if getattr(config, "clip_norm", 0) or getattr(config, "noise_multiplier", 0):
        raise JaxganError("clip_norm and noise_multiplier are for private runs: give epsilon")
    if settings.delta != TrainConfig.delta:
        raise JaxganError("delta is for private runs: give epsilon")


def _make_plan(model, config, settings, n, gaussians) -> private.Plan:
    members = len(make_runs(model, config, settings).labels)
    print_lines(["finding the noise for the budget: this takes some seconds"])
    return private.make_plan(model, config, settings, n, members, gaussians)


class _Training:
    """One call of `train`, in a folder that this process has locked."""

    def __init__(
        self,
        model: Model,
        settings: TrainConfig,
        runs: OneRun,
        layout: Layout,
        dataset: data.Dataset,
        folder: checkpoint.RunFolder,
        journal: Journal,
        plan: private.Plan | None,
    ):
        self._plan = plan
        """Of a private run."""
        self._privacy: Mapping[str, Any] | None = None
        self._model, self._settings, self._runs = model, settings, runs
        self._epochs = settings.epochs or 0
        self._layout, self._dataset = layout, dataset
        self._folder, self._journal = folder, journal
        self._shape = dataset.images.shape[1:]
        self._mixture = data.MIXTURES.get(settings.dataset)
        self._saved_step = 0
        self._looked = 0
        """The last epoch up to which the history was diagnosed and written to metrics.csv."""
        self._parts: parts.Parts | None = None
        self._reference: evaluation.Reference | None = None
        self._floor: dict[str, Any] = {}
        self._diagnosis: Diagnosis | None = None
        self._failed = False
        """Whether the run stops because of `stop_on_failure`."""

    def train(self, start: loop.Run, received: list[signal.Signals]) -> Outcome:
        settings, path = self._settings, self._folder.path
        run = self._restore(start)
        before, self._saved_step = len(run.history), loop.step(run.state)
        if before < self._epochs:
            print_lines(self._begin_lines(run.state))
            if settings.evaluate_every is not None:
                self._load_reference()
                print_lines(texts.score_lines(self._floor))
        self._looked = before
        self._diagnose(run.history)
        with together(f"write to {path}"):
            public = self._plan is None
            self._journal.begin(run.history, self._saved_step, self._dataset, show_real=public)
        rngs, stopped = self._runs.rngs.training, lambda: bool(received) or self._failed
        epochs = self._epochs
        if self._plan is not None and before < self._epochs:
            run, rngs, epochs = self._begin_private(self._plan, run, stopped)
        profile = Profile(path / "profile", self._say_traced) if settings.profile else None
        run = self._runs.fit(
            self._model.train_step,
            run,
            self._dataset.arrays,
            rngs,
            batch_size=settings.batch_size,
            epochs=epochs,
            measure=self._measure,
            on_epoch=self._on_epoch,
            should_stop=stopped,
            progress=is_first(),
            layout=self._layout,
            places=None if self._plan is None else self._plan.places,
            profile=profile,
        )
        self._save(run)
        if profile is not None and not profile.is_done:
            print_lines(["no steps were traced: this run had too few steps left to train"])
        if self._plan is not None:
            self._end_private(self._plan, run)
        state = local(run.state)
        with together(f"write to {path}"):
            if self._looked < len(run.history):  # it was stopped
                self._look(run)
            verdicts = self._verdicts(run.history)
            report = self._write_end(run.history, state, verdicts)
        stop = agree([received[0] if received else 0])[0]
        stopped_by = signal.Signals(stop) if stop and len(run.history) < self._epochs else None
        return Outcome(
            path,
            run.history,
            trained=len(run.history) - before,
            stopped_by=stopped_by,
            labels=self._runs.labels,
            diagnosis=self._diagnosis,
            verdicts=verdicts,
            report=report,
            privacy=self._privacy,
            stopped_on_failure=self._failed,
        )

    def _begin_lines(self, state: Any) -> list[str]:
        """What is trained on what, and where, before the first wait."""
        n, (height, width, channels) = len(self._dataset.images), self._shape
        steps = self._settings.steps_per_epoch(n)
        members = len(self._runs.labels)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        parameters = sum(x.size for path, x in leaves if ".params" in map(str, path)) // members
        of = f" of {parameters:,} parameters" if parameters else ""
        what = f"images of {self._dataset.name}, {height}x{width}x{channels}"
        if are_vectors(self._shape):
            what = f"vectors of {self._dataset.name}, of {channels} values"
        return [
            f"{n:,} {what}; {self._epochs} "
            f"epoch{'s' * (self._epochs != 1)} of {steps} step{'s' * (steps != 1)}",
            f"{self._model.name}{of}, on {jax.devices()[0].device_kind}"
            + (f", {members} members" if members > 1 else ""),
            *([] if self._plan is None else self._plan.lines()),
            f"run folder: {self._folder.path}",
            "compiling the training step: this takes some seconds, less the next time",
        ]

    def _say_traced(self, first: int, last: int) -> None:
        folder = self._folder.path / "profile"
        print_lines(
            [
                f"steps {first} to {last} are traced in {folder}: pip install tensorboard xprof, "
                f"then tensorboard --logdir {folder}; or open the newest trace.json.gz in it at "
                "https://ui.perfetto.dev"
            ]
        )

    def _restore(self, start: loop.Run) -> loop.Run:
        path, found = self._folder.path, self._folder.restore(as_checkpoint(start))
        if found is not None:
            run = as_run(found, path, self._model)
            print(f"resuming {path} after {len(run.history)} epochs, step {loop.step(run.state)}")
            if len(run.history) > self._epochs:
                self._set_epochs(len(run.history))
            return run
        if (path / "metrics.csv").exists():
            print(f"{path} has no checkpoint: training starts again")
        return start

    def _set_epochs(self, finished: int) -> None:
        """Sets the length of the run to its finished epochs, since fewer were asked for."""
        self._epochs, path = finished, self._folder.path
        with together(f"write to {path}"):
            if is_first():
                config = checkpoint.read_config(path)
                config["train"]["epochs"] = finished
                self._folder.write_config(config)

    def _load_reference(self) -> None:
        with together("extract the features of the real images"):
            self._reference = evaluation.reference_in_training(self._dataset)
            self._floor = evaluation.floor_in_training(self._reference)

    def _is_due(self, every: int | None, epoch: int) -> bool:
        return every is not None and (epoch == self._epochs or epoch % every == 0)

    def _measure(self, run: loop.Run) -> dict[str, Any]:
        """The measures of samples after an epoch. Most short epochs have none."""
        scores = self._scores(run)
        # They rank the members of a population after its last epoch, if there are no scores.
        wanted = self._runs.ranked and len(run.history) == self._epochs and not scores
        if self._plan is not None or not (wanted or parts.is_due(run.history)):
            return scores
        if self._parts is None:  # not at the start, which should be quick
            with together("divide the data into parts"):
                self._parts = parts.make_parts(self._dataset.images, self._dataset.labels)
        measure = parts.make_measure(self._model, self._parts)
        return self._runs.evaluate(measure, local(run.state)) | scores

    def _is_scored(self, epoch: int) -> bool:
        """Whether samples are scored after an epoch: at half the run, at its end, or each time
        after `evaluate_every` epochs.
        """
        can = self._mixture is not None or _no_scores(self._dataset.images) is None
        can = can and self._plan is None
        ends = can and self._settings.evaluate and epoch in (-(-self._epochs // 2), self._epochs)
        return ends or self._is_due(self._settings.evaluate_every, epoch)

    def _scores(self, run: loop.Run) -> dict[str, Any]:
        """The scores of an epoch. Empty if it is not scored."""
        if not self._is_scored(len(run.history)):
            return {}
        mixture, every = self._mixture, self._settings.evaluate_every
        if mixture is not None:
            score = _mode_scorer(self._model, mixture, plots.samples_shown(self._shape))
            return self._runs.evaluate(score, local(run.state))
        if self._reference is None:
            self._load_reference()
        reference: Any = self._reference

        def score_images(state: Any, rng: jax.Array) -> dict[str, Any]:
            scores, raw = {}, None if every is None else self._model.raw(state)
            for prefix, drawn in (("", state), ("raw_", raw)):
                if drawn is not None:
                    scores |= evaluation.evaluate_in_training(
                        reference, _sampler(self._model, drawn), rng, prefix
                    )
            return scores

        scores = self._runs.evaluate(score_images, local(run.state))
        if every is not None:
            print_lines(texts.score_lines(scores))
        return scores | self._floor

    def _on_epoch(self, run: loop.Run) -> None:
        settings, epoch = self._settings, len(run.history)
        pictures = None
        if self._is_due(settings.sample_every, epoch):
            pictures = self._runs.pictures(run.state)
        with together(f"write to {self._folder.path}"):
            self._folder.check_present()
            self._journal.show_epoch(run.history[-1])
            if pictures is not None:
                self._journal.write_samples(run.history, pictures)
            # The cost of one look grows with the number of epochs. So later looks are rarer, about
            # 100 while that number doubles. The total work stays proportional to it.
            if epoch == self._epochs or epoch % max(1, epoch // 100) == 0:
                self._look(run)
        # This comes last, so that the pictures of these epochs exist. metrics.csv may lag by 1% of
        # the epochs; a resumed run writes it again.
        if self._is_due(settings.checkpoint_every, epoch) or self._is_scored(epoch):
            self._save(run)

    def _look(self, run: loop.Run) -> None:
        """Diagnoses the history, writes it, and says what is new."""
        before = self._looked
        self._looked = len(run.history)
        self._diagnose(run.history)
        self._journal.write_table(run.history, self._diagnosis)
        print_lines(self._new_findings(before, run.state))

    def _diagnose(self, history: list[dict[str, Any]]) -> None:
        self._diagnosis = diagnose(self._model, history)
        if self._settings.stop_on_failure and self._diagnosis is not None and history:
            self._failed = self._diagnosis.all_failed(history[-1])

    def _new_findings(self, after: int, state: Any) -> list[str]:
        """A line for each failure that is seen for the first time after an epoch."""
        if self._diagnosis is None:
            return []
        new = [[f for f in one if f.epochs[0] > after] for one in self._diagnosis.findings]
        return texts.finding_lines(new, self._looked, self._model, vars(state.config))

    def _save(self, run: loop.Run) -> None:
        step = loop.step(run.state)
        if step > self._saved_step:
            self._saved_step = step
            best = evaluation.best_row(run.history)
            self._folder.save(step, as_checkpoint(run), None if best is None else best["step"])

    def _begin_private(
        self, plan: private.Plan, run: loop.Run, stopped: Callable[[], bool]
    ) -> tuple[loop.Run, jax.Array, int]:
        """The run after its start from Gaussians, its secret keys, and how many epochs it trains.

        Before the real images are used, privacy.json is there.
        """
        dataset, path = self._dataset, self._folder.path
        rngs = private.secret_rngs(path, self._runs.rngs.training.shape, _digest(dataset))
        if is_first():
            private.write_privacy(path, plan)
        if plan.start is None or self._saved_step:
            return run, rngs, self._epochs
        print_lines([f"{self._settings.start_epochs} epochs on samples of private Gaussians:"])
        state = private.start_from_gaussians(
            plan, self._model, self._settings, dataset, run.state, rngs, self._layout, stopped
        )
        return run._replace(state=state), rngs, 0 if agree([stopped()])[0] else self._epochs

    def _end_private(self, plan: private.Plan, run: loop.Run) -> None:
        """Writes what the run has spent. After the last step it deletes the secret."""
        path, step = self._folder.path, loop.step(run.state)
        if is_first():
            self._privacy = private.write_privacy(path, plan, step)
        if len(run.history) == self._epochs:
            self._folder.wait()  # the last steps are saved before the secret goes
            private.end(path)

    def _write_end(
        self, history: list[dict[str, Any]], state: Any, verdicts: list[Verdict]
    ) -> Report | None:
        try:
            self._journal.end(history)
            return self._write_report(history, state, verdicts)
        except JaxganError as error:
            self._folder.wait()
            raise JaxganError(
                f"{error} (the checkpoint is saved; some pictures may be missing)"
            ) from error

    def _write_report(
        self, history: list[dict[str, Any]], state: Any, verdicts: list[Verdict]
    ) -> Report | None:
        report = self._runs.report(history)
        if report is not None:
            members = list(self._runs.members(state))
            for name, i in (("best", report.best), ("worst", report.worst)):
                if i is not None:
                    self._journal.write_member(name, self._runs.member_picture(*members[i]))
        if history:
            content: dict[str, Any] = {"verdicts": [verdict._asdict() for verdict in verdicts]}
            content["scores"] = self._score_intervals(history[-1], state)
            self._journal.write_report(content | ({} if report is None else report._asdict()))
        return report

    def _verdicts(self, history: list[dict[str, Any]]) -> list[Verdict]:
        """The verdict on each member."""
        if self._plan is not None:
            return []
        modes = None if self._mixture is None else len(self._mixture.centers)
        verdicts, found = [], self._diagnosis
        for i in range(len(self._runs.labels) if history else 0):
            one = member_history(history, i)
            alone = found and Diagnosis([found.findings[i]])
            if found is not None and found.caveat:  # it may hold for other members
                alone = diagnose(self._model, one)
            verdicts.append(give_verdict(one, alone, modes))
        return verdicts

    def _score_intervals(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        """The scores of an epoch with their 95% intervals, as in report.json.

        For a population an interval is that of the mean over the members. For one run on a mixture
        it comes from its samples. Other scores have none.
        """
        names = [name for name in row if "(" in name or name in ModeScores._fields]
        if self._runs.ranked:
            return {name: mean_interval(row[name]) for name in names}
        intervals = dict.fromkeys(names)
        finite = all(np.isfinite(row[name]) for name in names)
        # A run that was stopped within an epoch has a newer state than its last row.
        current = loop.step(state) == row["step"]
        if self._mixture is not None and names and finite and current:
            n = plots.samples_shown(self._shape)
            ((member, rng),) = self._runs.members(state)
            points = np.asarray(self._model.sample(member, rng, n)).reshape(n, 2)
            intervals |= mode_intervals(points, self._mixture)
        values = {name: row[name] if math.isfinite(row[name]) else None for name in names}
        return {name: {"value": values[name], "interval": intervals[name]} for name in names}


def folder_name(dataset: data.Dataset) -> str:
    """The name of a data set in the name of the default folder."""
    return dataset.name.removeprefix("tfds:").replace("/", "_").replace(":", "_")


def _default_folder(name: str, described: dict[str, Any], free: frozenset[str]) -> Path:
    """runs/NAME; or runs/NAME-2, ... if that holds a run with other settings."""
    number, changes = 1, []
    if is_first():
        while found := checkpoint.differences(_numbered(name, number), described, free):
            number, changes = number + 1, changes or found
    path = _numbered(name, int(agree([number])[0]))
    if changes:
        what = checkpoint.shortened(changes)
        print_lines([f"runs/{name} holds another run ({what}): this one is in {path}"])
    return path


def _numbered(name: str, number: int) -> Path:
    return Path("runs", name if number == 1 else f"{name}-{number}").absolute()


def _mode_scorer(model: Model, mixture: data.Mixture, n: int) -> Scorer:
    """The scores of n points of a state."""

    def score(state: Any, rng: jax.Array) -> dict[str, float]:
        points = np.asarray(model.sample(state, rng, n)).reshape(n, 2)
        if not np.isfinite(points).all():
            return dict.fromkeys(ModeScores._fields, math.nan)
        return mode_scores(points, mixture)._asdict()

    return score


def _sampler(model: Model, state: Any) -> evaluation.Sample:
    return lambda rng, n: model.sample(state, rng, n)


def print_lines(lines: list[str]) -> None:
    """Prints lines in one process, above the bar of a run, if there is one."""
    if is_first() and lines:
        from tqdm import tqdm

        for line in lines:
            tqdm.write(texts.wrapped(line))
        sys.stdout.flush()


def _check_alike(described: dict[str, Any]) -> None:
    """Checks that all processes have the same settings and the same data."""
    here = {"data_dir": None}  # the folder of the data may differ
    text = json.dumps(described | {"train": described["train"] | here}, sort_keys=True)
    digest = int(hashlib.sha256(text.encode()).hexdigest()[:7], 16)
    most, least = agree([digest, -digest])
    if most != -least:
        raise JaxganError(
            "the processes of this run differ in their options or their data; start each with the "
            "same command, apart from --process-id, and with the same data"
        )


def _check_last_batch(
    model: Model, start: loop.Run, arrays: Any, batch_size: int, layout: Layout
) -> None:
    """Checks that the model can train on a smaller last batch.

    Otherwise the run would end with an error at the end of its first epoch.
    """
    n = len(arrays["image"])
    last = n % batch_size
    if last:
        try:
            loop.start_run(model.train_step, start.state, arrays, last, layout)
        except JaxganError as error:
            raise JaxganError(
                f"{error}: of {n} images in batches of {batch_size} the last batch has {last}; "
                "choose another --batch-size"
            ) from error


def _check_evaluation(settings: TrainConfig, dataset: data.Dataset) -> None:
    reason = _no_scores(dataset.images)
    if settings.evaluate_every is not None and reason:
        raise JaxganError(f"evaluate_every {reason}")


def _no_scores(images: np.ndarray) -> str | None:
    """Why samples of a data set cannot be scored while a model trains, or None."""
    if are_vectors(images.shape[1:]):
        return "is for images; these data are vectors"
    least = 2 * evaluation.LEAST
    return None if len(images) >= least else f"needs at least {least} images, got {len(images)}"


def _describe(
    model: Model, config: Any, settings: TrainConfig, dataset: data.Dataset
) -> dict[str, Any]:
    """The content of config.json."""
    # A digest of private data would tell whether somebody's copy is the same.
    is_public = settings.epsilon is None
    return {
        "jaxgan": __version__,
        "model": model.name,
        model.name: as_json(config),
        "train": as_json(settings),
        "data": {
            "name": dataset.name,
            "images": len(dataset.images),
        }
        | ({"sha256": _digest(dataset)} if is_public else {})
        | ({"classes": list(dataset.classes)} if num_classes(config) else {}),
    }


def _digest(dataset: data.Dataset) -> str:
    digest = hashlib.sha256(dataset.images.tobytes())
    if dataset.labels is not None:
        digest.update(dataset.labels.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects the signals that stop a run: STOPPING, unless they are ignored, as after nohup.

    The first one says so on stderr. A second signal within _GRACE seconds has no effect, because
    systems and people send two. A later second signal, or a third, has its usual effect.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread gets signals
        return
    first = math.inf

    def note(number: int, _: Any) -> None:
        nonlocal first
        if number == signal.SIGXCPU and received:
            return  # it comes again in each second
        now = time.monotonic()
        first = min(first, now)
        # A print could fail here, within another one. Without stderr, 2 may be any file.
        if not received and sys.__stderr__ is not None:
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping: the run will be saved; this may take some seconds\n")
        received.append(signal.Signals(number))
        if len(received) > 2 or now - first > _GRACE:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in STOPPING}
    before = {n: handler for n, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
