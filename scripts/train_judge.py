"""Trains the classifier by which samples are judged, and writes it into one file."""

import contextlib
import dataclasses
import functools
import math
import platform
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from tqdm import tqdm

from jaxgan import JaxganError, checkpoint, cli, data
from jaxgan.errors import NonFiniteError, NoSplitError
from jaxgan.metrics.classifier import Judge, JudgeCNN, judge_bytes, judge_images, scaled


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains the classifier by which samples are judged, and writes it into one file."""

    out: str
    """Where to: NAME.safetensors."""
    name: str | None = None
    """What it is called in every score; by default that of the file."""
    dataset: str = "fashion_mnist"
    """A labelled data set, as for train.py."""
    data_dir: str | None = None
    """Where its files are looked for first."""
    image_size: int | None = None
    """Resize and centre-crop the images to this many pixels square."""
    widths: tuple[int, ...] = (32, 64, 64)
    """Of its convolutions."""
    kernel: int = 3
    """Side of their kernels, in pixels."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 1e-3
    """Of Adam at the start; it falls to 0 in half a cosine."""
    seed: int = 0
    """Of everything random."""


class Labelled(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


def main() -> None:
    options = cli.parse(Options)
    out = Path(options.out).expanduser()
    if out.suffix != ".safetensors":
        raise JaxganError(f"--out must be NAME.safetensors, got {options.out!r}")
    sizes = (*options.widths, options.kernel, options.epochs, options.batch_size)
    if not options.widths or min(sizes) < 1:
        raise JaxganError("--widths, --kernel, --epochs and --batch-size must be 1 or more")
    if not 0 < options.learning_rate < math.inf:
        raise JaxganError(f"--learning-rate must be above 0, got {options.learning_rate}")
    if not 0 <= options.seed < 2**32:
        raise JaxganError(f"--seed must be from 0 to 2**32 - 1, got {options.seed}")
    checkpoint.check_writable(out)
    train, test = load(options)
    classes = int(train.labels.max()) + 1
    module = JudgeCNN(classes, options.widths, options.kernel)
    params = fit(module, train.images, train.labels, options)
    judge = Judge(options.name or out.stem, train.images.shape[1:], module, params)
    judged = judge_images(judge, test.images)
    accuracy = float((judged.probabilities.argmax(axis=1) == test.labels).mean())
    about = {
        "test_accuracy": f"{accuracy:.4f}",
        "command": shlex.join(["python", *sys.argv]),
        "versions": f"jax {jax.__version__}, Python {platform.python_version()}",
    }
    with checkpoint.disk_errors(out):
        checkpoint.write_atomically(out, judge_bytes(judge, **about))
    print(f"{judge.name}: {accuracy:.2%} of {len(test.images)} test images; in {out}")


def load(options: Options) -> tuple[Labelled, Labelled]:
    """Images to train on, and others to test on: a tenth, where the set has no such split."""
    size = options.image_size
    train = data.load(options.dataset, "train", options.data_dir, image_size=size)
    if train.labels is None:
        raise JaxganError(f"{options.dataset} has no labels, and so no classes to tell apart")
    images, labels = train.images, train.labels
    if len(images) < 2:
        raise JaxganError(f"{options.dataset} has {len(images)} image: none is left to test on")
    with contextlib.suppress(NoSplitError):
        test = data.load(options.dataset, "test", options.data_dir, image_size=size)
        if test.labels is not None:
            return Labelled(images, labels), Labelled(test.images, test.labels)
    order = np.random.default_rng(options.seed).permutation(len(images))
    tested, trained = np.split(order, [-(-len(images) // 10)])
    return Labelled(images[trained], labels[trained]), Labelled(images[tested], labels[tested])


def fit(module: JudgeCNN, images: np.ndarray, labels: np.ndarray, options: Options):
    """The parameters of a trained classifier."""
    init_rng, training_rng = jax.random.split(jax.random.key(options.seed))
    batches = -(-len(images) // options.batch_size)
    steps = options.epochs * batches
    state = TrainState.create(
        apply_fn=module.apply,
        params=module.init(init_rng, jnp.zeros((1, *images.shape[1:])))["params"],
        tx=optax.adam(optax.cosine_decay_schedule(options.learning_rate, steps)),
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, images, labels):
        def loss(params):
            rngs = {"dropout": jax.random.fold_in(training_rng, state.step)}
            logits, _ = state.apply_fn({"params": params}, scaled(images), train=True, rngs=rngs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    order = np.random.default_rng(options.seed)
    # Not loop.fit: inside of a compiled loop a CPU takes twenty times as long for convolutions.
    for epoch in range(options.epochs):
        parts = np.array_split(order.permutation(len(images)), batches)
        values = []
        for part in tqdm(parts, f"epoch {epoch + 1}/{options.epochs}", disable=None):
            state, value = train_step(state, images[part], labels[part])
            values.append(value)
        loss = np.mean(jax.device_get(values))
        if not np.isfinite(loss):
            raise NonFiniteError(
                f"training diverged in epoch {epoch + 1}: take a lower --learning-rate"
            )
        print(f"epoch {epoch + 1}/{options.epochs}  loss {loss:.4f}", flush=True)
    return state.params


if __name__ == "__main__":
    cli.main(main)
