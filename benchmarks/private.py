"""How good are samples with differential privacy, and do they give their training images away?

A model is trained on Fashion-MNIST with its labels. Classifiers are trained on 60,000 of its
samples, and classify the real test images. The models:

- gaussian E: the Gaussians at epsilon E. GAN E, diffusion E: DP-SGD, by the settings in RECIPES.
  GAN long E, diffusion long E: settings for a GPU, with more steps and larger batches. They are
  trained only if --methods names them.
- gaussian, reference, tuned, large, diffusion: the presets, without privacy.
- SMOTE: new images between two neighbours of a class, by imbalanced-learn.
- real images: the training images.

delta is 1e-5. The classifiers are linear in the pixels, an MLP with one hidden layer, and the CNN
of jaxgan's judges. Each is trained for 3,000 steps of 128 images. Columns:

- linear, MLP, CNN: the share of test images that they classify correctly.
- distance, recall: of 10,000 samples, by the judge of jaxgan (jaxgan.metrics).
- AUC: of a membership attack. Somebody has 60,000 samples, 10,000 training images and 10,000 test
  images. He guesses that images near a sample are training images (arXiv 1909.03935). .5 is
  guessing at random. It is the mean over all images: it hardly sees a few copies. in
  features: the distances are those of the judge's features.
- seconds: for training the model.

With --validation the last 10,000 training images replace the test images, also in the attack. We
chose all settings with them. Rows are written to --json one by one; a later call makes only those
that are missing.
"""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import harness
import jax
import numpy as np
import upsampling
from imblearn.over_sampling import SMOTE
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from jaxgan import MODELS, PRESETS, GANConfig, TrainConfig, data
from jaxgan.diffusion import DiffusionConfig
from jaxgan.gaussian import GaussianConfig
from jaxgan.history import mean_interval
from jaxgan.metrics import evaluation
from jaxgan.metrics.classifier import JudgeCNN
from jaxgan.run import saved, training

SAMPLES, HELD_OUT, SCORED, ATTACKED, STEPS = 60_000, 10_000, 10_000, 10_000, 3_000
PICTURED = 20
DELTA = 1e-5
COLUMNS = (
    "method model, linear linear, mlp MLP, cnn CNN, distance distance, recall recall, "
    "auc AUC, auc_features in features, seconds seconds"
)
PUBLISHED = """published, the accuracy of a classifier at epsilon 1 and 10 (arXiv 2503.14681):
DP-MERF, DP-NTK, DP-Kernel, GS-WGAN, DP-GAN      66, 64, 69, 53, 73%; 61 to 76%
DPDM (arXiv 2210.09929)                          76.4%; 85.4%
DP-FETA (arXiv 2504.01395)                       81.5%; 87.3%
FETA-Pro (arXiv 2601.06368)                      82.3%; -"""


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        x = images.reshape(images.shape[0], -1)
        return nn.Dense(self.classes)(x), x


class MLP(nn.Module):
    """Logits of a network with one hidden layer."""

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        x = nn.relu(nn.Dense(256)(images.reshape(images.shape[0], -1)))
        return nn.Dense(self.classes)(x), x


CLASSIFIERS: dict[str, Any] = {"linear": Linear, "mlp": MLP, "cnn": JudgeCNN}


class Recipe(NamedTuple):
    """What is trained."""

    model: str
    config: Any
    settings: TrainConfig


class Real(NamedTuple):
    """Real images and their labels."""

    images: np.ndarray
    labels: np.ndarray


class Samples(NamedTuple):
    """What the classifiers and the attack get."""

    images: np.ndarray
    labels: np.ndarray
    seconds: float
    """The time of training."""


_DP_SGD = TrainConfig(batch_size=512, start_epochs=5, epsilon=10)
_LONG = TrainConfig(batch_size=4096, steps=1000, start_epochs=20, epsilon=10, sample_every=10_000)
RECIPES: dict[str, Recipe] = {
    "GAN": Recipe("gan", GANConfig(), dataclasses.replace(_DP_SGD, steps=590)),
    "diffusion": Recipe("diffusion", DiffusionConfig(), dataclasses.replace(_DP_SGD, steps=118)),
    "GAN long": Recipe(
        "gan",
        GANConfig(
            discriminator_dropout=(0.0, 0.0, 0.0),
            disc_steps=10,
            ema_decay=0.999,
            **harness.both(b1=0.5),
        ),
        dataclasses.replace(_LONG, batch_size=2048, steps=4000, start_epochs=10),
    ),
    "diffusion long": Recipe("diffusion", DiffusionConfig(width=256, blocks=3), _LONG),
    "gaussian": Recipe("gaussian", GaussianConfig(), PRESETS["gaussian"][1]),
}
"""The private models. Those with DP-SGD begin with samples of private Gaussians. They have as many
steps as two CPU cores take in some minutes, and the long ones as many as an H100 takes in half a
minute; the published ones have hours of GPUs."""
EPSILONS = (1, 3, 10)
METHODS: Mapping[str, Recipe | None] = {
    **{
        f"{name} {epsilon}": Recipe(
            model, config, dataclasses.replace(settings, epsilon=float(epsilon))
        )
        for name, (model, config, settings) in RECIPES.items()
        for epsilon in EPSILONS
    },
    **{
        name: Recipe(model, *PRESETS[name])
        for name, model in (
            ("gaussian", "gaussian"),
            ("reference", "gan"),
            ("tuned", "gan"),
            ("large", "gan"),
            ("diffusion", "diffusion"),
        )
    },
    "SMOTE": None,
    "real images": None,
}


def main() -> None:
    args = parse()
    header = harness.about(delta=DELTA)
    dataset = data.load("fashion_mnist", "train", args.data_dir)
    if args.validation:
        dataset, held_out = (
            dataset._replace(images=dataset.images[part], labels=np.asarray(dataset.labels)[part])
            for part in (slice(-HELD_OUT), slice(-HELD_OUT, None))
        )
    else:
        held_out = data.load("fashion_mnist", "test", args.data_dir)
    train, test = (Real(x.images, np.asarray(x.labels)) for x in (dataset, held_out))
    extractor = evaluation.make_extractor(dataset)
    reference = evaluation.make_reference(extractor, dataset, None)
    seeds = [str(seed) for seed in range(args.first, args.first + args.seeds)]
    order = [f"{method} {seed}" for method in METHODS for seed in map(str, range(1000))]
    rows = harness.Rows(args.json, header, ("method", "seed"), order)
    wanted = {
        f"{method} {seed}": settings_of(method) | {"validation": args.validation}
        for seed in seeds
        for method in args.methods
    }

    def measure(key: str) -> tuple[harness.Row, np.ndarray]:
        method, _, seed = key.rpartition(" ")
        found = generate(method, train, int(seed))
        row: harness.Row = {"method": method, "seed": seed, "seconds": found.seconds}
        given = upsampling.Upsampled(found.images, found.labels)
        for name, classifier in CLASSIFIERS.items():
            probabilities = upsampling.fit(classifier(10), given, int(seed), STEPS)(test.images)
            row[name] = float((probabilities.argmax(axis=1) == test.labels).mean())
        features = extractor.extract(found.images)
        scores = evaluation.evaluate(reference, evaluation.first(features, SCORED))
        for name, column in ((evaluation.FD, "distance"), ("recall", "recall")):
            row[column] = next(v for k, v in scores.items() if k.startswith(f"{name}("))
        members = np.random.default_rng(0).permutation(len(train.images))[:ATTACKED]
        sides = train.images[members], test.images[:ATTACKED]
        row["auc"] = attack(found.images, *sides)
        features_of = [extractor.extract(images).features for images in sides]
        row["auc_features"] = attack(features.features, *features_of)
        return row, found.images[:PICTURED]

    found = rows.complete(wanted, measure)
    lines = []
    for method in args.methods:
        each = [row for row in found if row["method"] == method]
        columns = [part.split()[0] for part in COLUMNS.split(", ")[1:]]
        means = {column: mean_interval([row[column] for row in each]) for column in columns}
        lines.append({"method": method} | means)
    print(harness.table(COLUMNS, lines))
    print(PUBLISHED)
    if args.picture and (samples := rows.samples(found)):
        last = {name.rpartition(" ")[0]: images for name, images in samples.items()}
        harness.save_picture(args.picture, harness.draw_rows(last))


def parse() -> argparse.Namespace:
    parser = harness.make_parser(__doc__, "private.json", "fashion", seeds=3)
    harness.add_names(
        parser, "--methods", METHODS, [name for name in METHODS if "long" not in name]
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed; default: 0")
    text = "use held-out training images in place of the test images, to choose settings"
    parser.add_argument("--validation", action="store_true", help=text)
    return parser.parse_args()


def settings_of(method: str) -> harness.Row:
    """What a row depends on."""
    recipe = METHODS[method]
    if recipe is None:
        return {"classifier_steps": STEPS}
    run = harness.settings(recipe.config) | harness.settings(recipe.settings)
    return run | {"classifier_steps": STEPS}


def generate(method: str, train: Real, seed: int) -> Samples:
    """Trains a model, and draws samples of all classes alike, in random order."""
    started, recipe = time.perf_counter(), METHODS[method]
    labels = train.labels
    if recipe is not None:
        images, labels, seconds = draw(recipe, train, seed)
    elif method == "SMOTE":
        more = {label: n + SAMPLES // 10 for label, n in enumerate(np.bincount(labels))}
        made: Any = SMOTE(sampling_strategy=more, random_state=seed)
        flat, labels = made.fit_resample(train.images.reshape(len(labels), -1).astype("f4"), labels)
        flat, labels = flat[len(train.images) :], labels[len(train.images) :]
        images = np.round(flat).astype(np.uint8).reshape(-1, *train.images.shape[1:])
        seconds = time.perf_counter() - started
    else:
        images, seconds = train.images, 0.0
    shuffled = np.random.default_rng(seed).permutation(len(labels))[:SAMPLES]
    return Samples(images[shuffled], labels[shuffled], seconds)


def draw(recipe: Recipe, train: Real, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Trains as scripts/train.py does. The samples, their labels, and the seconds of training."""
    model = MODELS[recipe.model]
    with tempfile.TemporaryDirectory() as folder:
        file, workdir = Path(folder) / "train.npz", Path(folder) / "run"
        np.savez(file, images=train.images, labels=train.labels)
        settings = recipe.settings
        more: dict[str, Any] = {"dataset": str(file), "seed": seed, "conditional": True}
        more |= {"delta": DELTA, "evaluate": False}
        started = time.perf_counter()
        settings = TrainConfig(**vars(settings) | more)
        training.train(model, recipe.config, settings, workdir, gaussians=MODELS["gaussian"])
        seconds = time.perf_counter() - started
        state, _ = saved.load_state(model, workdir)
    labels = np.arange(SAMPLES, dtype=np.int32) % 10
    sample = functools.partial(model.sample, state)
    return evaluation.draw(sample, jax.random.key(seed), SAMPLES, labels), labels, seconds


def attack(samples: np.ndarray, members: np.ndarray, others: np.ndarray) -> float:
    """The area under the ROC curve of the distance to the nearest sample."""
    flat = [x.reshape(len(x), -1).astype(np.float32) for x in (samples, members, others)]
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(flat[0])
    distances = np.concatenate([nearest.kneighbors(x)[0][:, 0] for x in flat[1:]])
    is_member = np.repeat([True, False], [len(members), len(others)])
    return float(roc_auc_score(is_member, -distances))


if __name__ == "__main__":
    harness.main(main)
