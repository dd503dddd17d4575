"""Scores the samples of trained generators, side by side, beside what real images would score."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from jaxgan import JaxganError, checkpoint, cli, data, evaluation, plots, training
from jaxgan.errors import NoSplitError
from jaxgan.metrics.neighbours import nearest

FLOOR = "real images"
SHOWN = 10
"""Samples of each generator in the figure."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores the samples of trained generators, side by side, beside what real images score.

    fd, kid: distances from the real images, less is better (kid may be below 0). precision,
    density: how real the samples are; recall, coverage: how much of the variety they have; more is
    better, up to what real images score. memorisation: 0.5 of new images, 1 of copies.
    classifier_score, entropy: how clear and how even the classes are. worst_class has the least of
    its share, worst_share.
    """

    workdirs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Run folders, of one data set."""
    samples: str | None = None
    """Instead, or beside them: a .npz or .npy file or a folder of images."""
    dataset: str | None = None
    """The real images; by default those of the runs, of samples alone Fashion-MNIST."""
    data_dir: str | None = None
    """Where its files are looked for first; by default where the first run found them."""
    judge: str | None = None
    """A bundled judge, or the file of one (scripts/train_judge.py); by default the one that knows
    the data set, and where there is none the principal components of its images."""
    num: int = evaluation.SAMPLES
    """How many samples of each, or fewer: all have as many as the smallest set of samples, and as
    the test images (without such as half of the training images)."""
    seed: int = 0
    """Of the latents."""
    json: str | None = None
    """Also write the scores to this file."""
    plot: str | None = None
    """Also draw real images, the nearest training images and samples, and the classes, in this
    PNG."""


def main() -> None:
    options = cli.parse(Options)
    check(options)
    train, unseen = load_real(options)
    given = load_samples(options, train.images.shape[1:])
    others = len(unseen.images) if unseen else len(train.images) // 2
    n = min(options.num, len(train.images), others, *map(len, given.values()))
    extractor = evaluation.make_extractor(train, options.judge)
    reference = evaluation.make_reference(extractor, train, unseen)
    seen = {FLOOR: evaluation.floor(reference, n)}
    scores = {FLOOR: evaluation.evaluate(reference, seen[FLOOR])}
    drawn = draw(options, n) | {name: images[:n] for name, images in given.items()}
    for name, images in tqdm(drawn.items(), "scoring", disable=None):
        seen[name] = extractor.see(images)
        scores[name] = evaluation.evaluate(reference, seen[name])
    print_table(scores)
    if options.json:
        write(options.json, json.dumps(scores, indent=2) + "\n")
    if options.plot:
        write(options.plot, figure(reference, drawn, seen))


def check(options: Options) -> None:
    if not options.workdirs and options.samples is None:
        raise JaxganError("nothing to evaluate: name run folders, or --samples FILE or FOLDER")
    if options.num < 1:
        raise JaxganError(f"--num must be 1 or more, got {options.num}")
    if not 0 <= options.seed < 2**32:
        raise JaxganError(f"--seed must be from 0 to 2**32 - 1, got {options.seed}")
    if options.plot and Path(options.plot).suffix != ".png":
        raise JaxganError(f"--plot must be NAME.png, got {options.plot!r}")
    for path in filter(None, (options.json, options.plot)):
        checkpoint.check_writable(Path(path).expanduser())


def load_real(options: Options) -> tuple[data.Dataset, data.Dataset | None]:
    """The training images of all runs, and the test images if there are any."""
    found = [settings(workdir) for workdir in options.workdirs] or [("fashion_mnist", None, None)]
    if options.dataset:
        found = [(options.dataset, size, None) for _, size, _ in found]
    if len({(name, size) for name, size, _ in found}) > 1:
        names = {f"{name} at size {size}" if size else name: None for name, size, _ in found}
        raise JaxganError(f"runs on different data cannot stand side by side: {', '.join(names)}")
    name, size, data_dir = found[0]
    if name in data.MIXTURES:
        raise JaxganError(f"a run on {name} is scored when it ends: its points have no features")
    data_dir = options.data_dir or data_dir
    train = data.load(name, "train", data_dir, image_size=size)
    try:
        return train, data.load(name, "test", data_dir, image_size=size)
    except NoSplitError:
        return train, None  # a folder, a file


def settings(workdir: str) -> tuple[str, int | None, str | None]:
    """The data set of a run, the size of its images if they were resized, and where it was."""
    described, train = checkpoint.read_config(workdir), training.read_settings(workdir)
    name = described["data"]["name"] if train.dataset == "auto" else train.dataset
    return name, train.image_size, train.data_dir


def load_samples(options: Options, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The samples of --samples, of a shape, by the name of their column; none without."""
    if options.samples is None:
        return {}
    images = data.load(options.samples).images
    if images.shape[1:] != shape:
        raise JaxganError(
            f"the images of {options.samples} are {images.shape[1:]}, and the real ones {shape}"
        )
    # Files may be sorted, by class for example.
    return {options.samples: evaluation.shuffled(images)}


def draw(options: Options, n: int) -> dict[str, np.ndarray]:
    """n samples of each generator, bytes, by the name of their column."""
    drawn = {}
    for workdir in options.workdirs:
        state, epochs = training.load_state(workdir)
        if epochs < 0:
            raise JaxganError(f"{workdir} has no checkpoint yet")
        rng = jax.random.key(options.seed)
        drawn[workdir] = evaluation.draw(state, rng, n)
        if state.ema is not None:
            raw = state.replace(ema=None)
            drawn[f"{workdir} (not averaged)"] = evaluation.draw(raw, rng, n)
    return drawn


def print_table(scores: dict[str, dict[str, Any]]) -> None:
    """A row for each score, a column for each generator."""
    labels = {label: None for column in scores.values() for label in column}
    width, columns = max(map(len, labels)), [max(8, len(name)) for name in scores]
    print(
        " " * width
        + "".join(f"  {name}".rjust(2 + n) for name, n in zip(scores, columns, strict=True))
    )
    for label in labels:
        values = [column.get(label) for column in scores.values()]
        if not any(isinstance(value, list) for value in values):
            cells = (said(value).rjust(2 + n) for value, n in zip(values, columns, strict=True))
            print(f"{label:{width}}" + "".join(cells))


def said(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4g}"


def write(path: str, content: str | bytes) -> None:
    file = Path(path).expanduser()
    with checkpoint.disk_errors(file):
        checkpoint.write_atomically(file, content)
    print(f"in {file}")


def figure(reference: evaluation.Reference, drawn: dict, seen: dict) -> bytes:
    """Real images, and below the samples of each generator the training images nearest to them."""
    strips = {"real images": reference.images[:SHOWN]}
    shares = {"real images": evaluation.class_shares(reference.train)}
    for name, images in drawn.items():
        at = nearest(seen[name].features[:SHOWN], reference.train.features)
        strips |= {name: images[:SHOWN], f"nearest to {name}": reference.images[at]}
        shares[name] = evaluation.class_shares(seen[name])
    return plots.evaluation_png(strips, {k: v for k, v in shares.items() if v is not None})


if __name__ == "__main__":
    cli.main(main)
