"""Scores samples of trained models in one table, beside the scores of real images."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from jaxgan import MODELS, JaxganError, cli, data
from jaxgan.data.dataset import class_name
from jaxgan.data.pixels import are_vectors
from jaxgan.errors import NoSplitError
from jaxgan.files import check_writable, disk_errors, expand, write_atomically
from jaxgan.labels import num_classes, proportional
from jaxgan.metrics import evaluation
from jaxgan.metrics.neighbours import nearest
from jaxgan.report import plots, texts, verdict
from jaxgan.run import saved

FLOOR = "real images"
LESS = ("fd", "kid", "class_fd")
MORE = (
    *("precision", "recall", "density", "coverage"),
    *("classifier_score", "entropy", "worst_share", "class_accuracy"),
)
BETTER = dict.fromkeys(LESS, "less") | dict.fromkeys(MORE, "more")
"""Which way scores are better."""
MEMORISATION = (
    "Memorisation: copies get 1, new images 0.5. Collapsed samples that look real\n"
    "also get more than 0.5."
)
SHOWN = 10
"""Samples of each generator in the figure."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores samples of trained models in one table, beside the scores of real images.

    - fd, kid: distances from the real images; less is better.
    - precision, density: how real the samples look; more is better.
    - recall, coverage: how much of the real variety they have; more is better.
    - memorisation: how often a sample is nearer to the training images than a test image is. Copies
      get 1 and new images 0.5. Samples unlike all real images get less. Collapsed samples get more,
      if the few of them look real.
    - classifier_score, entropy: how clear and how even the classes are; more is better.
    - worst_share: of all classes, the smallest ratio of their shares in samples and real images.
    - worst_class: the class with this ratio.
    - copies: the share of samples that copy a training image; about 0.01 for new images.
    - class_accuracy: of conditional runs, the share of samples in which the judge sees the wanted
      class; class_fd: the mean Fréchet distance within the classes.
    """

    workdirs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run folders on the same data set."""
    samples: str | None = None
    """Other samples: a .npz or .npy file, or a folder of images."""
    dataset: str | None = None
    """The real images; by default those of the runs, or Fashion-MNIST without runs."""
    data_dir: str | None = None
    """The first place to look for its files; by default that of the first run."""
    config: str | None = None
    """FILE.py:NAME, as for train.py, of those runs that have parts of your own."""
    judge: str | None = None
    """A bundled judge, or the file of one (scripts/train_judge.py). The default is the bundled
    judge of the data set. If there is none, features are the principal components of the images."""
    num: int = evaluation.SAMPLES
    """The number of samples of each generator. It is reduced to the number of --samples, and to the
    number of test images (without these, to half the number of training images)."""
    seed: int = 0
    """The seed of the latents."""
    json: str | None = None
    """Also write the scores to this file."""
    plot: str | None = None
    """Also draw samples, their nearest training images and the classes, into this PNG file."""


def main() -> None:
    options = cli.parse(Options)
    check(options)
    train, test = load_real(options)
    given = load_samples(options, train.images.shape[1:])
    others = len(test.images) if test else len(train.images) // 2
    n = min(options.num, len(train.images), others, *map(len, given.values()))
    drawn, wanted = draw(options, n, train)
    drawn |= {name: images[:n] for name, images in given.items()}
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}"
    bar = tqdm(total=3 + 3 * len(drawn), desc="scoring", bar_format=form, disable=None)
    extractor = evaluation.make_extractor(train, options.judge)
    reference = evaluation.make_reference(extractor, train, test)
    features = {FLOOR: evaluation.floor(reference, n)}
    bar.update()
    scores = {FLOOR: evaluation.evaluate(reference, features[FLOOR])}
    labels = evaluation.floor_labels(reference, n)
    if wanted and labels is not None:
        scores[FLOOR] |= evaluation.evaluate_classes(reference, features[FLOOR], labels)
    bar.update()
    near = {}
    if test:
        near = evaluation.make_copy_references(reference, test)
        # Those from the end: those from the start set the thresholds.
        unseen = evaluation.shuffle(test.images)[::-1]
        scores[FLOOR] |= evaluation.copy_scores(near, unseen[:n])
    bar.update()
    for name, images in drawn.items():
        features[name] = extractor.extract(images)
        bar.update()
        scores[name] = evaluation.evaluate(reference, features[name])
        if name in wanted:
            scores[name] |= evaluation.evaluate_classes(reference, features[name], wanted[name])
        bar.update()
        scores[name] |= evaluation.copy_scores(near, images)
        bar.update()
    bar.close()
    print_table(scores)
    if wanted:
        print_classes(scores, train.classes)
    print_summary(scores)
    if any(saved.read_settings(workdir).epsilon is not None for workdir in options.workdirs):
        print("These scores look at real images. The epsilon of a private run does not cover them.")
    if options.json:
        write(options.json, json.dumps(without_nan(scores), indent=2, allow_nan=False) + "\n")
    if options.plot:
        write(options.plot, figure(reference, drawn, features))


def check(options: Options) -> None:
    if not options.workdirs and options.samples is None:
        raise JaxganError("nothing to evaluate: name run folders, or --samples FILE or FOLDER")
    if options.num < 1:
        raise JaxganError(f"--num must be 1 or more, got {options.num}")
    cli.check_seed(options.seed)
    if options.plot and Path(options.plot).suffix != ".png":
        raise JaxganError(f"--plot must be NAME.png, got {options.plot!r}")
    for path in filter(None, (options.json, options.plot)):
        check_writable(expand(path))


def load_real(options: Options) -> tuple[data.Dataset, data.Dataset | None]:
    """The training images of all runs, and the test images if there are any."""
    found = [settings(workdir) for workdir in options.workdirs] or [("fashion_mnist", None, None)]
    if options.dataset:
        found = [(options.dataset, size, None) for _, size, _ in found]
    if len({(name, size) for name, size, _ in found}) > 1:
        names = {f"{name} at size {size}" if size else name: None for name, size, _ in found}
        raise JaxganError(f"runs on different data cannot be compared: {', '.join(names)}")
    name, size, data_dir = found[0]
    data_dir = options.data_dir or data_dir
    train = data.load(name, "train", data_dir, image_size=size)
    if are_vectors(train.images.shape[1:]):
        raise JaxganError(f"{name} contains vectors; evaluate.py scores images only")
    try:
        return train, data.load(name, "test", data_dir, image_size=size)
    except NoSplitError:
        return train, None  # a folder or a file


def settings(workdir: str) -> tuple[str, int | None, str | None]:
    """The data set of a run, the size of its images if they were resized, and its folder."""
    train = saved.read_settings(workdir)
    return train.dataset, train.image_size, train.data_dir


def load_samples(options: Options, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The images of --samples, by the name of their column. Empty without --samples."""
    if options.samples is None:
        return {}
    images = data.load(options.samples).images
    if images.shape[-1] != shape[-1] and (images == images[..., :1]).all():  # gray, saved as RGB
        images = np.broadcast_to(images[..., :1], (*images.shape[:3], shape[-1]))
    if images.shape[1:] != shape:
        raise JaxganError(
            f"the images of {options.samples} are {images.shape[1:]}, and the real ones {shape}"
        )
    # Files may be sorted, by class for example.
    return {options.samples: evaluation.shuffle(images)}


def draw(
    options: Options, n: int, train: data.Dataset
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """n samples of each generator, uint8, by the name of their column; and their classes.

    The classes of a conditional run have the shares of the labels of the training images. Other
    runs, and runs on data of other classes, have none.
    """
    drawn, wanted = {}, {}
    own = cli.load_config(options.config, MODELS)
    for workdir in options.workdirs:
        model = saved.find_model(workdir, MODELS)
        state, _ = saved.load_state(model, workdir, config=own)
        rng, classes = jax.random.key(options.seed), None
        same = saved.read_classes(workdir) == list(train.classes)
        if num_classes(state.config) and same and train.labels is not None:
            classes = proportional(train.labels, n)
        raw = model.raw(state)
        for name, one in ((workdir, state), (f"{workdir} (not averaged)", raw)):
            if one is not None:
                sample = functools.partial(model.sample, one)
                drawn[name] = evaluation.draw(sample, rng, n, classes)
                wanted |= {} if classes is None else {name: classes}
    return drawn, wanted


def print_table(scores: dict[str, dict[str, Any]]) -> None:
    """A row for each score, a column for each generator, in 80 characters if they have room."""
    labels = {label: None for column in scores.values() for label in column}
    plain = [label.partition("(")[0] for label in labels]
    features = {label.partition("(")[2].partition(",")[0]: None for label in labels}
    print(f"Features: {', '.join(features)}.")
    short = {
        # Copies are counted by several features.
        label: name if plain.count(name) == 1 else label.partition(",")[0] + ")"
        for label, name in zip(labels, plain, strict=True)
    }
    names = list(scores)
    columns = [max(8, len(name)) for name in names]
    width = max(map(len, short.values()))
    if width + 6 + sum(2 + n for n in columns) > 80:
        letters = [FLOOR, *(f"({chr(97 + i % 26)})" for i in range(len(names) - 1))]
        for letter, name in list(zip(letters, names, strict=True))[1:]:
            print(f"  {letter} {name}")
        names, columns = letters, [max(8, len(letter)) for letter in letters]
    print(" " * (width + 6) + "".join(f"  {n:>{w}}" for n, w in zip(names, columns, strict=True)))
    for label, shown in short.items():
        values = [column.get(label) for column in scores.values()]
        if not any(isinstance(value, list) for value in values):
            cells = (f"  {cell(v):>{w}}" for v, w in zip(values, columns, strict=True))
            print(f"{shown:{width}}  {BETTER.get(shown, ''):4}" + "".join(cells))


def print_classes(scores: dict[str, dict[str, Any]], names: tuple[str, ...]) -> None:
    """For each class its Fréchet distance, and the share of samples in which the judge sees it."""
    if not any("_by_class(" in label for column in scores.values() for label in column):
        print(f"No scores by class: they need a judge, or {evaluation.LEAST} samples of a class.")
    for name, column in scores.items():
        by_class = {
            label.partition("_by_class(")[0]: values
            for label, values in column.items()
            if "_by_class(" in label
        }
        if by_class:
            print(f"{name}:")
            heads = "".join(f"  {head:>8}" for head in by_class)
            print(f"  {'class':20}{heads}")
        for label, values in enumerate(zip(*by_class.values(), strict=True)):
            cells = "".join(f"  {cell(value):>8}" for value in values)
            print(f"  {class_name(names, label):20.20}{cells}")


def cell(value: float | int | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def print_summary(scores: dict[str, dict[str, Any]]) -> None:
    """Which generator is the best, how good it is, and whether it copies."""
    real, *others = scores
    rows = {
        name: scores[name] | {f"real_{k}": v for k, v in scores[real].items()} for name in others
    }
    best = min(rows, key=lambda name: evaluation.least_distance(rows[name]))
    quality = verdict.quality(rows[best], None)
    if any(name.startswith("memorisation(") for name in rows[best]):
        print(MEMORISATION)
    copied = [value for name, value in rows[best].items() if name.startswith("copies(")]
    text = f"{best}{' has the smallest Fréchet distance' if len(rows) > 1 else ''}: "
    text += quality.sentence if quality else ""
    if copied:
        text += f" {max(copied):.1%} of them count as copies of training images; of new images "
        text += "about 1% do."
    print(texts.wrapped(text, ""))


def without_nan(value: Any) -> Any:
    """Scores with None for NaN and infinity, which JSON does not have. A class with few images has
    no Fréchet distance, for example."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: str, content: str | bytes) -> None:
    file = expand(path)
    with disk_errors(file):
        write_atomically(file, content)
    print(f"in {file}")


def figure(
    reference: evaluation.Reference,
    drawn: Mapping[str, np.ndarray],
    features: Mapping[str, evaluation.Features],
) -> bytes:
    """Real images, and the samples of each generator with the training images nearest to them."""
    strips = {"real images": reference.images[:SHOWN]}
    shares = {"real images": evaluation.class_shares(reference.train)}
    for name, images in drawn.items():
        at = nearest(features[name].features[:SHOWN], reference.train.features)
        strips |= {name: images[:SHOWN], f"nearest to {name}": reference.images[at]}
        shares[name] = evaluation.class_shares(features[name])
    return plots.evaluation_png(strips, {k: v for k, v in shares.items() if v is not None})
