"""Trains a judge, the classifier whose features score samples, and writes it into one file."""

import contextlib
import dataclasses
import functools
import math
import platform
import shlex
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from tqdm import tqdm

from jaxgan import JaxganError, cli, data
from jaxgan.data.pixels import are_vectors, to_float
from jaxgan.errors import NonFiniteError, NoSplitError
from jaxgan.files import check_writable, disk_errors, expand, write_atomically
from jaxgan.metrics.classifier import Judge, JudgeCNN, judge_bytes, judge_images


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains a judge, the classifier whose features score samples, and writes it into one file."""

    out: str
    """The output, NAME.safetensors."""
    name: str | None = None
    """The name of the judge in every score; by default that of the file."""
    dataset: str = "fashion_mnist"
    """A data set with labels, as for train.py."""
    data_dir: str | None = None
    """The first place to look for its files."""
    image_size: int | None = None
    """Resize and centre-crop the images to this height and width, in pixels."""
    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of the convolutions."""
    kernel: int = 3
    """Width and height of the convolution kernels, in pixels."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start. It falls to 0 along half a cosine."""
    seed: int = 0
    """The seed of all random numbers."""


class Labelled(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


def main() -> None:
    options = cli.parse(Options)
    out = expand(options.out)
    if out.suffix != ".safetensors":
        raise JaxganError(f"--out must be NAME.safetensors, got {options.out!r}")
    sizes = (*options.widths, options.kernel, options.epochs, options.batch_size)
    if not options.widths or min(sizes) < 1:
        raise JaxganError("--widths, --kernel, --epochs and --batch-size must be 1 or more")
    if not 0 < options.learning_rate < math.inf:
        raise JaxganError(f"--learning-rate must be above 0, got {options.learning_rate}")
    cli.check_seed(options.seed)
    check_writable(out)
    train, test = load(options)
    classes = int(train.labels.max()) + 1
    module = JudgeCNN(classes, options.widths, options.kernel)
    params = fit(module, train.images, train.labels, options)
    judge = Judge(options.name or out.stem, train.images.shape[1:], module, params)
    judged = judge_images(judge, test.images)
    accuracy = float((judged.probabilities.argmax(axis=1) == test.labels).mean())
    about = {
        "test_accuracy": f"{accuracy:.4f}",
        "command": shlex.join([*cli.command(), *sys.argv[1:]]),
        "versions": f"jax {jax.__version__}, Python {platform.python_version()}",
    }
    with disk_errors(out):
        write_atomically(out, judge_bytes(judge, **about))
    print(f"{judge.name}: {accuracy:.2%} of {len(test.images)} test images; in {out}")


def load(options: Options) -> tuple[Labelled, Labelled]:
    """Training and test images. If no test images have labels, a tenth of the data is held out."""
    size = options.image_size
    train = data.load(options.dataset, "train", options.data_dir, image_size=size)
    if train.labels is None:
        raise JaxganError(f"{options.dataset} has no labels, and a judge needs classes")
    images, labels = train.images, train.labels
    if are_vectors(images.shape[1:]):
        raise JaxganError(f"{options.dataset} contains vectors, and a judge is of images")
    if len(images) < 2:
        raise JaxganError(
            f"{options.dataset} has {len(images)} image; a judge needs at least 2, one to test on"
        )
    with contextlib.suppress(NoSplitError):
        test = data.load(options.dataset, "test", options.data_dir, image_size=size)
        if test.labels is not None:
            return Labelled(images, labels), Labelled(test.images, test.labels)
    order = np.random.default_rng(options.seed).permutation(len(images))
    tested, trained = np.split(order, [-(-len(images) // 10)])
    return Labelled(images[trained], labels[trained]), Labelled(images[tested], labels[tested])


def fit(module: JudgeCNN, images: np.ndarray, labels: np.ndarray, options: Options) -> Any:
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
            logits, _ = state.apply_fn({"params": params}, to_float(images), train=True, rngs=rngs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    order = np.random.default_rng(options.seed)
    # Not loop.fit: on a CPU convolutions inside a compiled loop take twenty times as long.
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
