"""Which method of upsampling makes the best classifier of unbalanced data?

The set-up is that of DeepSMOTE (arXiv 2105.02340). The training images are the first 4,000, 2,000,
1,000, 750, 500, 350, 200, 100, 60 and 40 of classes 0 to 9 of Fashion-MNIST. Two classifiers learn
from them, and classify the test images, which are in balance. Methods:

- nothing: the images as they are. moved thresholds: the same, and the probabilities are divided by
  the shares of the classes. logit adjustment: the logs of the shares are added to the logits in
  training (arXiv 2007.07314). class weights: losses are weighted by 1 / share.
- copies: images of small classes are repeated until all classes have 4,000. with augmentation:
  batches are also shifted by up to two pixels and mirrored at random. SMOTE: of imbalanced-learn.
- GAN, diffusion: the sampler of jaxgan.uses.upsampling. with augmentation: as for copies.
  filtered: twice as many images are generated. Of each class the half that a classifier of the real
  images (class weights, the CNN) finds likeliest is kept. down-weighted: a generated image counts
  half as much as a real one (arXiv 2403.05170).
- real images: the first 4,000 of each class, which no method has.

--scale multiplies the sizes of the classes.

linear: logistic regression on 1,000 random ReLU features. CNN: three convolutions and two dense
layers. Both are trained for --steps steps of 128 images. Columns for each:

- accuracy: the mean over the classes of the share of test images that are classified correctly.
- recall: this mean for the three smallest classes.
- calibration: the expected calibration error in 15 bins, of the test images; and, as trained, of
  test images that are weighted so that classes have the shares of the training images.

Rows are written to --json one by one; a later call makes only those that are missing. With
--validation the last 10,000 training images replace the test images: settings are chosen by them.
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from imblearn import over_sampling

from jaxgan import data
from jaxgan.data.pixels import to_float, to_uint8
from jaxgan.errors import JaxganError
from jaxgan.history import mean_interval
from jaxgan.metrics.classifier import JudgeCNN
from jaxgan.uses import upsampling

SIZES = (4000, 2000, 1000, 750, 500, 350, 200, 100, 60, 40)
SMALLEST, BINS, HELD_OUT = 3, 15, 10_000
FILTER_STEPS = 2_000
"""Training steps of the classifier that filters images."""
BATCH, RATE = 128, 1e-3
"""Images in a batch of the classifiers, and the first learning rate of Adam; a cosine lowers it."""
PICTURED = 12
"""Generated images in the picture, in turn of the three smallest classes."""
COLUMNS = (
    "method method, linear linear accuracy, linear_recall recall, linear_calibration calibration, "
    "linear_as_trained as trained, cnn CNN accuracy, cnn_recall recall, cnn_calibration "
    "calibration, cnn_as_trained as trained, seconds seconds"
)


class Upsampled(NamedTuple):
    """What a method gives the classifiers."""

    images: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray | None = None
    """Added to the logits in training, `[K]`."""
    weights: np.ndarray | None = None
    """Of the losses, `[N]`."""
    augment: bool = False
    """Whether batches are shifted and mirrored at random."""
    move: bool = False
    """Whether probabilities are divided by the shares of the classes."""


Method = Callable[[np.ndarray, np.ndarray, int], Upsampled]
"""`(images, labels, seed) -> Upsampled`."""


class Linear(nn.Module):
    """Logits that are linear in random ReLU features of the pixels, which are not trained."""

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        x = images.reshape(images.shape[0], -1)
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(x.shape[1], 1000)) * np.sqrt(2 / x.shape[1])
        bias = rng.normal(size=(1, 1000))
        x = nn.relu(x @ jnp.asarray(kernel, x.dtype) + jnp.asarray(bias, x.dtype))
        return nn.Dense(self.classes)(x), x


READOUTS: dict[str, Any] = {"linear": Linear, "cnn": JudgeCNN}


def main() -> None:
    args = parse()
    header = harness.about()
    images, labels = load(args, "train")
    if args.validation:
        tested = images[-HELD_OUT:], labels[-HELD_OUT:]
        images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    else:
        tested = load(args, "test")
    sizes = [round(args.scale * size) for size in SIZES]
    few = unbalanced(images, labels, sizes)
    found = np.bincount(few[1], minlength=len(sizes)).tolist()
    if min(sizes) < 1 or found != sizes:
        raise JaxganError(f"--scale {args.scale} wants {sizes} images, and there are {found}")
    many = unbalanced(images, labels, [sizes[0]] * len(sizes))
    seeds = [str(seed) for seed in range(args.first, args.first + args.seeds)]
    order = [f"{method} {seed}" for method in METHODS for seed in map(str, range(1000))]
    rows = harness.Rows(args.json, header, ("method", "seed"), order)
    settings = {"dataset": args.dataset, "steps": args.steps, "validation": args.validation}
    settings["sizes"] = sizes
    wanted = {
        f"{method} {seed}": settings | recipe_of(method)
        for seed in seeds
        for method in args.methods
    }

    def measure(key: str) -> tuple[harness.Row, np.ndarray]:
        method, _, seed = key.rpartition(" ")
        started = time.perf_counter()
        given = many if method == "real images" else few
        found = METHODS[method](*given, int(seed))
        row: harness.Row = {"method": method, "seed": seed}
        row["seconds"] = time.perf_counter() - started
        for name, readout in READOUTS.items():
            scores = judge(readout(len(SIZES)), found, tested, sizes, int(seed), args.steps)
            row |= {f"{name}_{k}".removesuffix("_accuracy"): v for k, v in scores.items()}
        new = found.images[len(few[0]) :], found.labels[len(few[0]) :]
        return row, pictured(*new) if method not in ("real images", *PLAIN) else new[0][:0]

    found = rows.complete(wanted, measure)
    lines = []
    for method in args.methods:
        each = [row for row in found if row["method"] == method]
        line: harness.Row = {"method": method}
        for column in (part.split()[0] for part in COLUMNS.split(", ")[1:]):
            line[column] = mean_interval([row[column] for row in each])
        lines.append(line)
    print(harness.table(COLUMNS, lines))
    if args.picture and (samples := rows.samples(found)):
        last = {name.rpartition(" ")[0]: s for name, s in samples.items() if len(s)}
        real = {"real images": pictured(*many)}
        harness.save_picture(args.picture, harness.draw_rows(real | last))


def parse() -> argparse.Namespace:
    numbers = {"seeds": 5, "steps": 2_000, "scale": 1.0}
    parser = harness.make_parser(__doc__, "upsampling.json", "any", **numbers)
    harness.add_names(parser, "--methods", METHODS)
    parser.add_argument("--first", type=int, default=0, help="the first seed; default: 0")
    text = "classify held-out training images, to choose settings"
    parser.add_argument("--validation", action="store_true", help=text)
    return parser.parse_args()


def load(args: argparse.Namespace, split: str) -> tuple[np.ndarray, np.ndarray]:
    dataset = data.load(args.dataset, split, args.data_dir)
    if dataset.labels is None:
        raise JaxganError(f"{args.dataset} has no labels")
    return dataset.images, dataset.labels


def unbalanced(images: np.ndarray, labels: np.ndarray, sizes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first images of each class."""
    rows = [np.flatnonzero(labels == label)[:n] for label, n in enumerate(sizes)]
    chosen = np.concatenate(rows)
    return images[chosen], labels[chosen]


def recipe_of(method: str) -> harness.Row:
    """The settings of a generative method."""
    recipe = upsampling.RECIPES.get(method.partition(" ")[0].lower())
    return {} if recipe is None else {"recipe": list(recipe)}


def shares(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels) / len(labels)


def pictured(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first images of the three smallest classes, in turn."""
    classes = range(len(SIZES) - SMALLEST, len(SIZES))
    rows = [np.flatnonzero(labels == label)[: PICTURED // SMALLEST] for label in classes]
    return images[np.concatenate(rows)]


# The methods


def plain(images: np.ndarray, labels: np.ndarray, seed: int, **more: Any) -> Upsampled:
    return Upsampled(images, labels, **more)


def logit_adjustment(images: np.ndarray, labels: np.ndarray, seed: int) -> Upsampled:
    return Upsampled(images, labels, offsets=np.log(shares(labels)))


def class_weights(images: np.ndarray, labels: np.ndarray, seed: int) -> Upsampled:
    return Upsampled(images, labels, weights=1 / (len(SIZES) * shares(labels)[labels]))


def imbalanced_learn(
    images: np.ndarray, labels: np.ndarray, seed: int, sampler: str, augment: bool = False
) -> Upsampled:
    flat = images.reshape(len(images), -1).astype(np.float32)
    made: Any = getattr(over_sampling, sampler)(random_state=seed)
    more, more_labels = made.fit_resample(flat, labels)
    more = np.round(more).astype(np.uint8).reshape(-1, *images.shape[1:])
    return Upsampled(more, more_labels, augment=augment)


def generated(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    model: str,
    augment: bool = False,
    keep: float = 1.0,
    weight: float = 1.0,
) -> Upsampled:
    """The images, and generated ones until classes are in balance.

    Of 1 / `keep` times as many, those are kept that a classifier of the real images finds
    likeliest. They count `weight` times as much as real images.
    """
    new, new_labels = draw(images, labels, seed, model, keep)
    if keep < 1:
        weighted = class_weights(images, labels, seed)
        classifier = JudgeCNN(len(SIZES))
        likely = fit(classifier, weighted, seed, FILTER_STEPS)(new)[np.arange(len(new)), new_labels]
        kept = [np.flatnonzero(new_labels == label) for label in range(len(SIZES))]
        kept = [rows[np.argsort(-likely[rows])][: round(keep * len(rows))] for rows in kept]
        chosen = np.concatenate(kept)
        new, new_labels = new[chosen], new_labels[chosen]
    weights = np.repeat([1.0, weight], [len(labels), len(new_labels)])
    both = np.concatenate([images, new]), np.concatenate([labels, new_labels])
    return Upsampled(*both, weights=weights, augment=augment)


_trained: dict[tuple[str, int], Any] = {}
"""The last model, by its name and seed: several methods draw from it."""


def draw(
    images: np.ndarray, labels: np.ndarray, seed: int, model: str, keep: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generated images, made as GenerativeSampler makes them."""
    if (model, seed) not in _trained:
        _trained.clear()
        recipe = upsampling.RECIPES[model]
        _trained[model, seed] = upsampling.train(recipe, images, labels, seed)
    sizes = np.bincount(labels)
    missing = np.round((sizes.max() - sizes) / keep).astype(int)
    wanted = np.repeat(np.arange(len(SIZES)), missing)
    trained, state = _trained[model, seed]
    drawn = upsampling.draw(trained, state, wanted, jax.random.key(seed))
    return to_uint8(drawn), wanted


PLAIN: Mapping[str, Method] = {
    "nothing": plain,
    "moved thresholds": functools.partial(plain, move=True),
    "logit adjustment": logit_adjustment,
    "class weights": class_weights,
    "copies": functools.partial(imbalanced_learn, sampler="RandomOverSampler"),
    "copies with augmentation": functools.partial(
        imbalanced_learn, sampler="RandomOverSampler", augment=True
    ),
}
_OPTIONS = {
    "": {},
    " filtered": {"keep": 0.5},
    " down-weighted": {"weight": 0.5},
    " with augmentation": {"augment": True},
}
METHODS: Mapping[str, Method] = {
    **PLAIN,
    "SMOTE": functools.partial(imbalanced_learn, sampler="SMOTE"),
    **{
        f"{name}{more}": functools.partial(generated, model=name.lower(), **options)
        for name in ("GAN", "diffusion")
        for more, options in _OPTIONS.items()
    },
    "real images": plain,
}


# The classifiers


def judge(
    module: Any,
    given: Upsampled,
    tested: tuple[np.ndarray, np.ndarray],
    sizes: list[int],
    seed: int,
    steps: int,
) -> dict[str, float]:
    """Trains a classifier, and scores it on test images. `sizes`: of the unbalanced classes."""
    images, labels = tested
    probabilities = fit(module, given, seed, steps)(images)
    if given.move:
        moved = probabilities / shares(given.labels)
        probabilities = moved / moved.sum(axis=1, keepdims=True)
    right = probabilities.argmax(axis=1) == labels
    recalls = [right[labels == label].mean() for label in range(len(SIZES))]
    as_trained = (np.array(sizes) / np.bincount(labels))[labels]
    return {
        "accuracy": float(np.mean(recalls)),
        "recall": float(np.mean(recalls[-SMALLEST:])),
        "calibration": calibration_error(probabilities, right, np.ones(len(labels))),
        "as_trained": calibration_error(probabilities, right, as_trained),
    }


def calibration_error(probabilities: np.ndarray, right: np.ndarray, weights: np.ndarray) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy over bins."""
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights * (confidence - right), BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def fit(module: Any, given: Upsampled, seed: int, steps: int) -> Callable[[np.ndarray], np.ndarray]:
    """Trains a classifier; gives `images -> probabilities [N, K]`."""
    n, classes = len(given.labels), len(SIZES)
    offsets = jnp.asarray(
        np.zeros(classes) if given.offsets is None else given.offsets, jnp.float32
    )
    weights = jnp.asarray(np.ones(n) if given.weights is None else given.weights, jnp.float32)
    images, labels = jnp.asarray(given.images), jnp.asarray(given.labels, jnp.int32)
    init_rng, step_rng = jax.random.split(jax.random.key(seed))
    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    params = module.init(init_rng, to_float(images[:1]))["params"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, rows: jax.Array, i: jax.Array, arrays: Any) -> Any:
        params, opt_state = state
        images, labels, weights = (array[rows] for array in arrays)
        augment_rng, dropout_rng = jax.random.split(jax.random.fold_in(step_rng, i))
        inputs = to_float(images)
        inputs = augmented(inputs, augment_rng) if given.augment else inputs

        def loss(params: Any) -> jax.Array:
            rngs = {"dropout": dropout_rng}
            logits, _ = module.apply({"params": params}, inputs, train=True, rngs=rngs)
            errors = optax.softmax_cross_entropy_with_integer_labels(logits + offsets[None], labels)
            return (weights * errors).mean()

        # optax mixes types, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = adam.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    order = np.random.default_rng(seed)
    epochs = [order.permutation(n) for _ in range(-(-steps * BATCH // n))]
    batches = np.concatenate(epochs)[: steps * BATCH].reshape(steps, BATCH)
    state = params, adam.init(params)
    # Not a scan: on a CPU convolutions inside a compiled loop take twenty times as long.
    for i, rows in enumerate(batches):
        state = step(state, rows, i, (images, labels, weights))

    @jax.jit
    def predict(params: Any, images: jax.Array) -> jax.Array:
        return nn.softmax(module.apply({"params": params}, to_float(images))[0])

    def probabilities(images: np.ndarray) -> np.ndarray:
        parts = np.array_split(images, -(-len(images) // 1_000))
        return np.concatenate([np.asarray(predict(state[0], part)) for part in parts])

    return probabilities


def augmented(images: jax.Array, rng: jax.Array) -> jax.Array:
    """Images `[B, H, W, C]`, shifted by up to two pixels and mirrored at random."""
    n, height, width, _ = images.shape
    shift_rng, mirror_rng = jax.random.split(rng)
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1)
    shifts = jax.random.randint(shift_rng, (n, 2), 0, 5)

    def cut(image: jax.Array, shift: jax.Array) -> jax.Array:
        start = (shift[0], shift[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, image.shape[2]))

    moved = jax.vmap(cut)(padded, shifts)
    mirror = jax.random.bernoulli(mirror_rng, shape=(n, 1, 1, 1))
    return jnp.where(mirror, moved[:, :, ::-1], moved)


if __name__ == "__main__":
    harness.main(main)
