"""Balances a set of images: generates images of the classes that have fewer than the largest."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from jaxgan import JaxganError, cli, data
from jaxgan.data.dataset import Dataset, class_name
from jaxgan.data.pixels import for_file
from jaxgan.files import (
    check_new_folder,
    check_writable,
    disk_errors,
    expand,
    new_file,
    new_folder,
)
from jaxgan.report import plots
from jaxgan.run import saved


@dataclasses.dataclass(frozen=True)
class Options:
    """Balances a set of images: generates images of the classes that have fewer than the largest.

    It trains a conditional model on the images, or takes the one of a run. All classes then have as
    many images as the largest one. The given images come first, as uint8 and otherwise unchanged.
    """

    data: Annotated[str, tyro.conf.Positional]
    """The images and their classes: a folder with a subfolder for each class, an .npz file with the
    arrays images and labels, or a data set, as for train.py."""
    out: str = "balanced.npz"
    """The output: NAME.npz (images, uint8 [N, H, W] or [N, H, W, C]; labels, int32 [N]; generated,
    bool [N]; classes, the names of the classes, if they have names), or a folder, FOLDER/, with
    PNGs in a subfolder for each class. Points of ring and grid go into NAME.npz."""
    run: str | None = None
    """The folder of a conditional run on such images, instead of training a model."""
    model: Literal["gan", "diffusion"] | None = None
    """The model to train; by default diffusion."""
    steps: int | None = None
    """Training steps; the default depends on the model."""
    seed: int = 0
    """The seed of all random numbers. Equal seeds give equal images."""
    image_size: int | None = None
    """Resize and centre-crop the images to this height and width, in pixels."""
    data_dir: str | None = None
    """The first place to look for the files of a data set."""


def main() -> None:
    options = cli.parse(Options)
    cli.check_seed(options.seed)
    if options.steps is not None and options.steps < 1:
        raise JaxganError(f"--steps must be 1 or more, got {options.steps}")
    for name in ("model", "steps"):
        if options.run is not None and getattr(options, name) is not None:
            raise JaxganError(f"--run takes a trained model, so it has no --{name}")
    out = expand(options.out)
    as_arrays = out.suffix == ".npz" and not options.out.endswith("/")
    if not as_arrays and not options.out.endswith("/") and out.suffix:
        raise JaxganError(f"--out must be NAME.npz or FOLDER/, got {options.out!r}")
    given = expand(options.data)
    if as_arrays and out.exists() and given.exists() and out.samefile(given):
        raise JaxganError(f"--out is the data set itself, {given}: give another file")
    # Not before: it imports imbalanced-learn, which may be missing.
    from jaxgan.uses.upsampling import GenerativeSampler

    dataset = load(options)
    if not as_arrays and dataset.images.dtype != np.uint8:
        raise JaxganError(f"vectors go into NAME.npz, not into a folder, {options.out}")
    settings: dict[str, Any] = {"steps": options.steps, "run": options.run}
    settings["model"] = options.model or "diffusion"
    sampler = GenerativeSampler(**settings, random_state=options.seed, verbose=True)
    sampler.fit(dataset.images, dataset.labels)  # checks them, before it makes a folder
    (check_writable if as_arrays else check_new_folder)(out)
    images, labels = sampler.fit_resample(dataset.images, dataset.labels)
    with disk_errors(out):
        if as_arrays:
            save_arrays(out, images, labels, dataset)
        else:
            save_folder(out, images, labels, dataset.classes)
    print(count(dataset, labels))
    made = len(images) - len(dataset.images)
    print(f"{len(dataset.images)} images of {dataset.name} and {made} generated ones in {out}")


def load(options: Options) -> Dataset:
    """The images, with labels of at least two classes that are not in balance."""
    dataset = data.load(options.data, "train", options.data_dir, image_size=options.image_size)
    if dataset.labels is None:
        raise JaxganError(
            f"{options.data} has no labels: take a folder with a subfolder for each class, or an "
            ".npz file with the arrays images and labels"
        )
    sizes = np.unique(dataset.labels, return_counts=True)[1]
    if len(sizes) < 2:
        raise JaxganError(f"{options.data} has one class only, so there is nothing to balance")
    if len(set(sizes)) == 1:
        raise JaxganError(f"{options.data} is in balance: each class has {sizes[0]} images")
    if options.run is not None:
        known = saved.read_classes(options.run)
        if known and dataset.classes and known != list(dataset.classes):
            raise JaxganError(
                f"the classes of {options.data} are {', '.join(dataset.classes[:10])}, and those "
                f"of the run {', '.join(known[:10])}"
            )
    return dataset


def save_arrays(out: Path, images: np.ndarray, labels: np.ndarray, given: Dataset) -> None:
    generated = np.arange(len(images)) >= len(given.images)
    arrays = {"images": for_file(images), "labels": labels, "generated": generated}
    if given.classes:
        arrays["classes"] = np.array(given.classes)
    with new_file(out) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def save_folder(
    out: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> None:
    # A slash, as in T-shirt/top, would be a folder.
    names = [class_name(classes, label).replace("/", "-") for label in labels]
    with new_folder(out) as folder:
        for name in set(names):
            (folder / name).mkdir()
        for i, (name, image) in enumerate(
            zip(names, tqdm(images, "writing", disable=None), strict=True)
        ):
            (folder / name / f"{i:06}.png").write_bytes(plots.png(image))


def count(dataset: Dataset, labels: np.ndarray) -> str:
    """A table of the images of each class, before and after."""
    found, before = np.unique(np.asarray(dataset.labels), return_counts=True)
    after = np.unique(labels, return_counts=True)[1]
    names = ["class", *(class_name(dataset.classes, label) for label in found)]
    width = max(map(len, names))
    rows = zip(names, ["before", *before], ["after", *after], strict=True)
    return "\n".join(f"{name:<{width}}  {a:>7}  {b:>7}" for name, a, b in rows)
