"""A whole training run of a GAN: data, training, pictures and checkpoints in one folder."""

import contextlib
import dataclasses
import hashlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.linen.summary import tabulate

import jaxgan
from jaxgan import checkpoint, data, devices, diagnostics, evaluation, loop, plots, population
from jaxgan.config import GANConfig, TrainConfig
from jaxgan.errors import JaxganError, LostProcessError, NonFiniteError
from jaxgan.gan import GANState, create_state, sample, train_step
from jaxgan.journal import Events, Journal
from jaxgan.metrics.modes import ModeScores, mode_scores

_FREE = frozenset(
    f"train.{name}"
    for name in (
        *("dataset", "data_dir", "epochs", "sample_every", "checkpoint_every", "tensorboard"),
        *("devices", "stop_on_failure", "evaluate_every"),
    )
) | {"jaxgan"}
"""Settings that may change when a run goes on: what is trained does not depend on them, but for the
rounding of sums over other devices."""


_MEMBERS_SHOWN = 8


class Outcome(NamedTuple):
    """How `train` ended."""

    workdir: Path
    history: list[dict[str, Any]]
    """One row per finished epoch, as in `loop.Run`."""
    trained: int
    """Epochs finished by this call; 0 if the run was already done."""
    stopped_by: signal.Signals | None
    """SIGINT or SIGTERM if that ended it before its last epoch."""
    members: list[population.Member] | None = None
    """What sets the members of a population apart; None for a single GAN."""
    scores: ModeScores | None = None
    """Of 2,500 samples at the end of a run on a mixture; of a population the means over the members
    that have not failed."""
    failed: bool = False
    """Whether `stop_on_failure` is set and the last epoch shows one (`diagnostics.has_failed`)."""


def train(config: GANConfig, settings: TrainConfig, workdir: str | Path | None = None) -> Outcome:
    """Trains a GAN or a population, or goes on where an earlier call on the same folder ended.

    SIGINT and SIGTERM are heeded after the steps at hand: the run is saved and `train` returns.
    Several processes that jax has connected train one run; the folder must be the same for all.

    Args:
      config: the networks; `image_shape` and `bounded` are replaced by what the data need.
      settings: the data, the length, what is left behind.
      workdir: the run folder; by default runs/DATASET.

    Returns:
      The Outcome. The folder then holds config.json, metrics.csv, samples/, real.png, curves.png,
      training.gif, checkpoints/ and, if asked for, tensorboard/.

    Raises:
      JaxganError: if the data cannot be had, the folder cannot be used, or training diverges
        (NonFiniteError), or another process of the run is lost (LostProcessError).
    """
    try:
        return _train_in_folder(config, settings, workdir)
    except (RuntimeError, ValueError) as error:
        if not devices.is_lost_process(error):
            raise
        raise LostProcessError(
            "another process of this run has ended or cannot be reached "
            f"({str(error).splitlines()[0]}); run the same commands again, and all go on from the "
            "last checkpoint"
        ) from error


def _train_in_folder(config, settings: TrainConfig, workdir: str | Path | None) -> Outcome:
    with devices.together("load the data"):
        dataset = _load(settings)
    config = _fitted(config, dataset)
    described = _described(config, settings, dataset)
    _check_alike(described)
    # Before there is a folder: what cannot be trained leaves none.
    _check_last_batch(len(dataset.images), settings.batch_size, config.pac)
    _check_evaluation(settings, dataset)
    layout = devices.make_layout(settings.devices, population=_members(settings) is not None)
    start = _start(config, settings)
    name = dataset.name.removeprefix("tfds:").replace("/", "_").replace(":", "_")
    name += "_population" if _members(settings) else ""
    workdir = Path(workdir or Path("runs") / name).expanduser().absolute()
    with devices.together("begin"):
        events = Events(workdir / "tensorboard", settings.tensorboard and devices.is_first())
    defaults = {"gan": _fields(GANConfig()), "train": _fields(TrainConfig())}
    with contextlib.closing(events):
        folder = checkpoint.RunFolder(workdir, described, _FREE, defaults)
        try:
            # In this order: a signal does not interrupt the last save either.
            with _stop_signals() as received, folder:
                return _train(settings, start, layout, dataset, folder, events, received)
        except NonFiniteError as error:
            kept = checkpoint.steps(folder.path)
            where = (
                f"the last good checkpoint is of step {kept[0]}" if kept else "no checkpoint yet"
            )
            raise NonFiniteError(
                f"{error}; {where}, in {folder.path}; lower learning rates may help"
            ) from error


def _check_alike(described: dict[str, Any]) -> None:
    """That all processes train the same, on the same data."""
    here = {"data_dir": None}  # where the data lie may differ
    text = json.dumps(described | {"train": described["train"] | here}, sort_keys=True)
    digest = int(hashlib.sha256(text.encode()).hexdigest()[:7], 16)
    most, least = devices.agree([digest, -digest])
    if most != -least:
        raise JaxganError(
            "the processes of this run differ in their options or their data; start each with the "
            "same command but for its --process-id, and the same --dataset at hand"
        )


def _check_last_batch(images: int, batch_size: int, pac: int) -> None:
    """That it is no less than a pack, which would come out at the end of the first epoch only."""
    last = images % batch_size or batch_size
    if last < pac:
        raise JaxganError(
            f"pac={pac} needs at least {pac} images in a batch, and of {images} images in batches "
            f"of {batch_size} the last has {last}: choose another --batch-size"
        )


def _check_evaluation(settings: TrainConfig, dataset: data.Dataset) -> None:
    if settings.evaluate_every is None:
        return
    if plots.are_points(dataset.images.shape[1:]):
        raise JaxganError(
            "evaluate_every is for images; a run on ring or grid is scored when it ends"
        )
    least = 2 * evaluation.LEAST
    if len(dataset.images) < least:
        raise JaxganError(
            f"evaluate_every needs at least {least} images, got {len(dataset.images)}"
        )


def load_state(
    workdir: str | Path, member: int | None = None, *, best: bool = False
) -> tuple[GANState, int]:
    """The trained state of a run folder, from its newest whole checkpoint, or its best.

    Args:
      workdir: the run folder.
      member: which one of a population; by default the best (`population.report`).
      best: take the checkpoint with the best scores (`evaluation.best_row`), and of a population
        by default the member that has them.

    Returns:
      The state, and the number of epochs finished; an untrained state and -1 if there is no
      checkpoint yet.

    Raises:
      JaxganError: as `checkpoint_like`, if all checkpoints are damaged, or there is no such member.
    """
    like, path = checkpoint_like(workdir), Path(workdir).expanduser().absolute()
    newest = checkpoint.restore(path, like)
    found = newest and newest[0]
    row = evaluation.best_row(found.record["history"]) if found and best else None
    if row is not None:
        found = checkpoint.restore_step(path, row["step"], like)
    elif best:
        raise JaxganError(
            f"{workdir} has no finite score in its newest checkpoint: epochs are evaluated while "
            "they are trained with --evaluate-every"
        )
    state = (found or like).arrays["state"]
    history = found.record["history"] if found else []
    members = _members(read_settings(workdir))
    if members is None and member is not None:
        raise JaxganError(f"{workdir} is no population: it has no member {member}")
    if members is not None:
        if member is None and row is not None:
            member = evaluation.best_member(row)
        elif member is None and history:
            member = population.report(state.config, members, history[-1]).best
        member = member or 0
        if not 0 <= member < len(members):
            raise JaxganError(
                f"{workdir} has the members 0 to {len(members) - 1}, and no member {member}"
            )
        state = population.member(state, member)
    return state, len(history) if found else -1


def checkpoint_like(workdir: str | Path) -> checkpoint.Checkpoint:
    """The checkpoint of a run folder before its first step, as `checkpoint.restore` wants it.

    Raises:
      JaxganError: if it is no run folder, or its networks are not the MLPs (then build the state in
        Python and give it to `checkpoint.restore`).
    """
    described = checkpoint.read_config(workdir)
    gan = described.get("gan", {})
    if gan.get("generator") or gan.get("discriminator"):
        raise JaxganError(
            f"{workdir} was trained with networks of its own, which only its code can build"
        )
    settings = read_settings(workdir)
    try:
        config = GANConfig(**gan)
    except TypeError as error:
        raise JaxganError(f"{workdir} is of another version of jaxgan ({error})") from error
    images = np.zeros((1, *config.image_shape), np.uint8)
    members = _members(settings)
    layout = devices.Layout(population=members is not None)
    start = _start(config, settings)[0]
    return _checkpoint(loop.start_run(train_step, start, images, settings.batch_size, layout))


def read_settings(workdir: str | Path) -> TrainConfig:
    """How the run of a folder goes.

    Raises:
      JaxganError: if it is no run folder, or one of another version of jaxgan.
    """
    try:
        return TrainConfig(**checkpoint.read_config(workdir)["train"])
    except (KeyError, TypeError) as error:
        raise JaxganError(f"{workdir} is of another version of jaxgan ({error})") from error


def summary(config: GANConfig, settings: TrainConfig) -> str:
    """Both networks as tables, with the shapes and numbers of their parameters."""
    config = _fitted(config, _load(settings))
    state = jax.eval_shape(lambda: create_state(jax.random.key(0), config))
    tables = []
    for player, shape in (
        (state.generator, (config.latent_dim,)),
        (state.discriminator, (*config.image_shape[:2], config.image_shape[2] * config.pac)),
    ):
        console = {"width": 120, "force_terminal": sys.stdout.isatty()}
        table = tabulate(player.apply_fn.__self__, jax.random.key(0), console_kwargs=console)
        tables.append(table(np.zeros((settings.batch_size, *shape), np.float32)))
    return "".join(tables)


def _start(config: GANConfig, settings: TrainConfig) -> tuple[GANState, loop.RunKeys]:
    """What a run begins with: of a population both have a leading axis of members."""
    members = _members(settings)
    if members is None:
        rngs = loop.make_rngs(settings.seed)
        return create_state(rngs.init, config), rngs
    return population.create_states(config, members), population.make_rngs(members)


def _members(settings: TrainConfig) -> list[population.Member] | None:
    if settings.population is None and not settings.sweep:
        return None
    return population.crossed(settings.seed, settings.population or 1, settings.sweep_values)


def _train(settings, start, layout, dataset, folder, events, received) -> Outcome:
    """`train`, in a folder that is ours."""
    members = _members(settings)
    state, rngs = start
    run = loop.start_run(train_step, state, dataset.images, settings.batch_size, layout)
    found = folder.restore(_checkpoint(run))
    if found is not None:
        run = loop.Run(**found.arrays, **found.record)
        print(
            f"resuming {folder.path} after {len(run.history)} epochs, step {loop.step(run.state)}"
        )
    elif (folder.path / "metrics.csv").exists():
        print(f"{folder.path} has no checkpoint: training starts anew")
    before, saved = len(run.history), loop.step(run.state)
    with devices.together("look at the real images"):
        reference = _reference(settings, dataset) if before < settings.epochs else None
        floor = evaluation.floor_in_training(reference) if reference else {}
    _announce_scores(floor)
    failed = settings.stop_on_failure and diagnostics.has_failed(run.history)

    def save(run: loop.Run) -> None:
        nonlocal saved
        step = loop.step(run.state)
        if step > saved:
            saved = step
            best = evaluation.best_row(run.history)
            folder.save(saved, _checkpoint(run), best and best["step"])

    def due(every: int | None, epoch: int) -> bool:
        return every is not None and (epoch == settings.epochs or epoch % every == 0)

    def measure(run: loop.Run) -> dict[str, Any]:
        if reference is None or not due(settings.evaluate_every, len(run.history)):
            return {}
        scores = _evaluate(reference, devices.local(run.state), rngs.pictures)
        _announce_scores(scores)
        return scores | floor

    def on_epoch(run: loop.Run) -> None:
        nonlocal failed
        epoch = len(run.history)
        shown = due(settings.sample_every, epoch)
        pictures = _pictures(run.state, rngs.pictures, members) if shown else None
        with devices.together(f"write to {folder.path}"):
            journal.write_epoch(run.history)
            if pictures is not None:
                journal.write_samples(run.history, *pictures)
        if devices.is_first():
            _announce_failures(run.history, members is not None, state.config)
        failed = settings.stop_on_failure and diagnostics.has_failed(run.history)
        # Last: a checkpoint says that all that belongs to its epochs is there.
        if due(settings.checkpoint_every, epoch) or due(settings.evaluate_every, epoch):
            save(run)

    journal = Journal(folder.path, events, members)
    at = loop.step(run.state)
    with devices.together(f"write to {folder.path}"):
        journal.begin(run.history, at, dataset.images)
    fit = loop.fit if members is None else population.fit
    run = fit(
        train_step,
        run,
        dataset.images,
        rngs.training,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        measure=measure,
        on_epoch=on_epoch,
        should_stop=lambda: bool(received) or failed,
        progress=devices.is_first(),
        layout=layout,
    )
    save(run)
    state = devices.local(run.state)
    with devices.together(f"write to {folder.path}"):
        journal.end(run.history)
        if members and run.history:
            _write_report(journal, members, run.history, state, rngs.pictures)
    stop = devices.agree([received[0] if received else 0])[0]
    stopped_by = signal.Signals(stop) if stop and len(run.history) < settings.epochs else None
    trained = len(run.history) - before
    mixture = data.MIXTURES.get(settings.dataset)
    scores = None
    if mixture and run.history and stopped_by is None:
        scores = _scores(mixture, run.history[-1], state, rngs.pictures)
    return Outcome(folder.path, run.history, trained, stopped_by, members, scores, failed)


def _reference(settings: TrainConfig, dataset: data.Dataset) -> evaluation.Reference | None:
    """What samples are evaluated beside, if they are."""
    if settings.evaluate_every is None:
        return None
    return evaluation.make_reference(evaluation.make_extractor(dataset), dataset, None)


def _evaluate(reference: evaluation.Reference, state: GANState, rng: jax.Array) -> dict[str, Any]:
    """The scores of a state; of a population's a list each, over the members."""
    if not rng.ndim:
        return evaluation.evaluate_in_training(reference, state, rng)
    found = [
        evaluation.evaluate_in_training(reference, population.member(state, i), rng[i])
        for i in range(rng.size)
    ]
    return {name: [scores[name] for scores in found] for name in found[0]}


_SCORED = {"": "", "raw": " of raw weights", "real": " of real images"}


def _announce_scores(scores: dict[str, Any]) -> None:
    if devices.is_first():
        lines = {}
        for name, value in scores.items():
            short, _, of = name.partition("(")
            kind, _, plain = short.rpartition("_")
            shown = f"{plain} {loop.sound_mean(value):.3g}"
            lines.setdefault(f"({of}{_SCORED[kind]}", []).append(shown)
        for of, shown in lines.items():
            print(f"  {'  '.join(shown)}  {of}", flush=True)


def _announce_failures(history: list[dict], population: bool, config: GANConfig) -> None:
    """Prints what is seen for the first time at the end of the last epoch."""
    epoch = len(history)
    found = diagnostics.diagnose_members(history)
    new = [[finding for finding in member if finding.epoch == epoch] for member in found]
    for line in diagnostics.describe(new, epoch, population=population, settings=vars(config)):
        print(line, flush=True)


def _pictures(state: GANState, rng, members) -> tuple[jax.Array, int | None]:
    """Samples `[N, H, W, C]`, and how many make a row or a panel: each member shown has one."""
    if members is None:
        return _sampled(devices.local(state), rng), None
    state, rng = devices.first((state, rng), min(len(members), _MEMBERS_SHOWN))
    images = jax.vmap(_sampled)(devices.local(state), rng)
    columns = images.shape[1] // 2
    return images[:, :columns].reshape(-1, *images.shape[2:]), columns


def _sampled(state: GANState, rng) -> jax.Array:
    """As many samples as a picture shows."""
    return sample(state, rng, plots.samples_shown(state.config.image_shape))


def _write_report(journal: Journal, members, history, state: GANState, rng) -> None:
    report = population.report(state.config, members, history[-1])
    for name, i in (("best", report.best), ("worst", report.worst)):
        if i is not None:
            journal.write_member(name, _sampled(population.member(state, i), rng[i]))
    journal.write_report(report._asdict())


def _scores(mixture: data.Mixture, row: dict, state: GANState, rng: jax.Array) -> ModeScores:
    """The scores of the points in the last picture; of a population the means."""
    runs = [(state, rng)]
    if rng.ndim:
        sound = np.flatnonzero(population.sound(row)).tolist()
        runs = [(population.member(state, i), rng[i]) for i in sound]
    scores = [mode_scores(np.asarray(_sampled(*run)).reshape(-1, 2), mixture) for run in runs]
    return ModeScores(*map(loop.sound_mean, zip(*scores, strict=True)))


def _load(settings: TrainConfig) -> data.Dataset:
    return data.load(settings.dataset, "train", settings.data_dir, image_size=settings.image_size)


def _fitted(config: GANConfig, dataset: data.Dataset) -> GANConfig:
    images = dataset.images
    return dataclasses.replace(
        config, image_shape=images.shape[1:], bounded=images.dtype == np.uint8
    )


def _checkpoint(run: loop.Run) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        arrays={"state": run.state, "totals": run.totals},
        record={"history": run.history, "seconds": run.seconds},
    )


def _described(config: GANConfig, settings: TrainConfig, dataset: data.Dataset) -> dict[str, Any]:
    """What config.json says."""
    return {
        "jaxgan": jaxgan.__version__,
        "gan": _fields(config),
        "train": _fields(settings),
        "data": {
            "name": dataset.name,
            "images": len(dataset.images),
            "sha256": hashlib.sha256(dataset.images.tobytes()).hexdigest(),
        },
    }


def _fields(config: GANConfig | TrainConfig) -> dict[str, Any]:
    """The fields of a config as JSON holds them; a module of the user's by its `repr`."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: repr(v) if isinstance(v, nn.Module) else v for name, v in values.items()}


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one works as ever."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python gives signals to the main thread only
        return

    def note(number, _):
        received.append(signal.Signals(number))
        signal.signal(number, before[number])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
