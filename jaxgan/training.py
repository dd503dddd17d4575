"""A whole training run of a GAN: data, training, pictures and checkpoints in one folder."""

import contextlib
import dataclasses
import hashlib
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
from jaxgan import checkpoint, data, loop
from jaxgan.config import GANConfig, TrainConfig
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.gan import GANState, create_state, sample, train_step
from jaxgan.journal import Events, Journal

_FREE = frozenset(
    f"train.{name}"
    for name in ("dataset", "data_dir", "epochs", "sample_every", "checkpoint_every", "tensorboard")
) | {"jaxgan"}
"""Settings that may change when a run goes on: what is trained does not depend on them."""


class Outcome(NamedTuple):
    """How `train` ended."""

    workdir: Path
    history: list[dict[str, float]]
    """One row per finished epoch, as in metrics.csv."""
    trained: int
    """Epochs finished by this call; 0 if the run was already done."""
    stopped_by: signal.Signals | None
    """SIGINT or SIGTERM if that ended it before its last epoch."""


def train(config: GANConfig, settings: TrainConfig, workdir: str | Path | None = None) -> Outcome:
    """Trains a GAN, or goes on where an earlier call on the same folder ended.

    SIGINT and SIGTERM are heeded after the steps at hand: the run is saved and `train` returns.

    Args:
      config: the networks; `image_shape` is replaced by that of the data.
      settings: the data, the length, what is left behind.
      workdir: the run folder; by default runs/DATASET.

    Returns:
      The Outcome. The folder then holds config.json, metrics.csv, samples/, real.png, curves.png,
      training.gif, checkpoints/ and, if asked for, tensorboard/.

    Raises:
      JaxganError: if the data cannot be had, the folder cannot be used, or training diverges
        (NonFiniteError).
    """
    dataset = _load(settings)
    config = _fitted(config, dataset)
    name = dataset.name.removeprefix("tfds:").replace("/", "_").replace(":", "_")
    workdir = Path(workdir or Path("runs") / name).expanduser().absolute()
    with contextlib.closing(Events(workdir / "tensorboard", settings.tensorboard)) as events:
        described = _described(config, settings, dataset)
        defaults = {"gan": _fields(GANConfig()), "train": _fields(TrainConfig())}
        folder = checkpoint.RunFolder(workdir, described, _FREE, defaults)
        try:
            # In this order: a signal does not interrupt the last save either.
            with _stop_signals() as received, contextlib.closing(folder):
                return _train(config, settings, dataset, folder, events, received)
        except NonFiniteError as error:
            kept = checkpoint.steps(folder.path)
            where = (
                f"the last good checkpoint is of step {kept[0]}" if kept else "no checkpoint yet"
            )
            raise NonFiniteError(f"{error}; {where}, in {folder.path}") from error


def load_state(workdir: str | Path) -> tuple[GANState, int]:
    """The trained state of a run folder, from its newest whole checkpoint.

    Returns:
      The state, and the number of epochs finished; an untrained state and -1 if there is no
      checkpoint yet.

    Raises:
      JaxganError: as `checkpoint_like`, or if all checkpoints are damaged.
    """
    like = checkpoint_like(workdir)
    found = checkpoint.restore(Path(workdir).expanduser().absolute(), like)
    if found is None:
        return like.arrays["state"], -1
    return found[0].arrays["state"], len(found[0].record["history"])


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
    try:
        config = GANConfig(**described["gan"])
        seed = described["train"]["seed"]
    except (KeyError, TypeError) as error:
        raise JaxganError(f"{workdir} is of another version of jaxgan ({error})") from error
    state = create_state(_rngs(np.uint32(seed)).init, config)
    images = np.zeros((1, *config.image_shape), np.uint8)
    return _checkpoint(loop.start_run(train_step, state, images))


def summary(config: GANConfig, settings: TrainConfig) -> str:
    """Both networks as tables, with the shapes and numbers of their parameters."""
    config = _fitted(config, _load(settings))
    state = jax.eval_shape(lambda: create_state(jax.random.key(0), config))
    tables = []
    for player, shape in (
        (state.generator, (config.latent_dim,)),
        (state.discriminator, config.image_shape),
    ):
        console = {"width": 120, "force_terminal": sys.stdout.isatty()}
        table = tabulate(player.apply_fn.__self__, jax.random.key(0), console_kwargs=console)
        tables.append(table(np.zeros((settings.batch_size, *shape), np.float32)))
    return "".join(tables)


def _train(config, settings, dataset, folder, events, received) -> Outcome:
    """`train`, in a folder that is ours."""
    rngs = _rngs(np.uint32(settings.seed))
    state = create_state(rngs.init, config)
    run = loop.start_run(train_step, state, dataset.images, settings.batch_size)
    found = folder.restore(_checkpoint(run))
    if found is not None:
        run = loop.Run(**found.arrays, **found.record)
        print(f"resuming {folder.path} after {len(run.history)} epochs, step {run.state.step}")
    before, saved = len(run.history), int(run.state.step)

    def save(run: loop.Run) -> None:
        nonlocal saved
        if int(run.state.step) > saved:
            saved = int(run.state.step)
            folder.save(saved, _checkpoint(run))

    def on_epoch(run: loop.Run) -> None:
        epoch = len(run.history)
        last = epoch == settings.epochs
        journal.write_epoch(run.history)
        if last or epoch % settings.sample_every == 0:
            journal.write_samples(run.history, sample(run.state, rngs.pictures, 16))
        # Last: a checkpoint says that all that belongs to its epochs is there.
        if last or epoch % settings.checkpoint_every == 0:
            save(run)

    journal = Journal(folder.path, events)
    journal.begin(run.history, int(run.state.step), dataset.images)
    run = loop.fit(
        train_step,
        run,
        dataset.images,
        rngs.training,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        on_epoch=on_epoch,
        should_stop=lambda: bool(received),
    )
    save(run)
    journal.end(run.history)
    stopped_by = received[0] if received and len(run.history) < settings.epochs else None
    return Outcome(folder.path, run.history, len(run.history) - before, stopped_by)


def _load(settings: TrainConfig) -> data.Dataset:
    return data.load(settings.dataset, "train", settings.data_dir, image_size=settings.image_size)


def _fitted(config: GANConfig, dataset: data.Dataset) -> GANConfig:
    return dataclasses.replace(config, image_shape=dataset.images.shape[1:])


class _RunKeys(NamedTuple):
    init: jax.Array
    training: jax.Array
    pictures: jax.Array


@jax.jit
def _rngs(seed: np.uint32) -> _RunKeys:
    return _RunKeys(*jax.random.split(jax.random.key(seed), 3))


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
