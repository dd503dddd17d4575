"""Fills in missing pixels of images with a trained model, several times each."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jaxgan import MODELS, JaxganError, cli, data
from jaxgan.data.dataset import Dataset, class_name
from jaxgan.data.files import SUFFIXES, read_picture, stack_pictures
from jaxgan.data.pixels import are_vectors, to_uint8
from jaxgan.errors import NoSplitError
from jaxgan.files import check_new_folder, disk_errors, expand, new_folder
from jaxgan.labels import num_classes
from jaxgan.report import plots
from jaxgan.run import saved
from jaxgan.uses import inpainting

PICTURED, DRAWS = 8, 4
"""Images in the picture, and draws of each."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Fills in missing pixels of images with a trained model, several times each.

    For a diffusion model this is RePaint: its draws are approximate samples, given the known
    pixels. For a GAN a search finds latents whose images agree with the known pixels. Its draws are
    likeliest images, which differ less. A conditional model uses the labels of the images, if there
    are any. If both have names of classes, the names decide. The folder of the results gets two
    files:

    - inpainted.npz: images, uint8 [N, H, W, C]; missing, bool [N, H, W]; draws, uint8
      [K, N, H, W, C]; mean and spread (the standard deviation) of the draws, float32
      [N, H, W, C], from 0 to 255.
    - picture.png: a row for each of the first eight images: the image, its known pixels, four
      draws, the mean of all draws, and their spread, twice as bright.
    """

    workdir: Annotated[str, tyro.conf.Positional]
    """The run folder."""
    images: Annotated[str, tyro.conf.Positional] = ""
    """A picture, a folder of pictures, a .npz or .npy file, or a data set. By default the data set
    of the run. Test images are taken if there are any."""
    mask: str = "centre"
    """What is missing: centre (the middle half of the height and of the width), lower (the lower
    half), random:SHARE (each pixel with this probability), or MASK.png, a picture of the size of
    the images: what is lighter than mid-grey is missing. A run with --image-size resizes the images
    and the mask."""
    out: str = "inpainted"
    """A folder that is empty or does not exist."""
    num: int = 100
    """How many images: the first ones."""
    draws: int = 4
    """How many times each image is filled in."""
    member: int | None = None
    """Which member of a population; by default the best one."""
    config: str | None = None
    """FILE.py:NAME, as for train.py, of a run with parts of your own."""
    data_dir: str | None = None
    """The first place to look for the files of a data set."""
    seed: int = 0
    """The seed of the draws and of a random mask."""


def main() -> None:
    options = cli.parse(Options)
    out = expand(options.out)
    for name in ("num", "draws"):
        if getattr(options, name) < 1:
            raise JaxganError(f"--{name} must be 1 or more, got {getattr(options, name)}")
    cli.check_seed(options.seed)
    model = saved.find_model(options.workdir, MODELS)
    own = cli.load_config(options.config, MODELS)
    state, _ = saved.load_state(model, options.workdir, options.member, config=own)
    dataset = load_images(options, state.config.image_shape)
    images = dataset.images
    missing = make_missing(options, *images.shape[:3])
    labels = labels_of_run(options, dataset, num_classes(state.config))
    check_new_folder(out)
    rng = jax.random.key(options.seed)
    draws = inpainting.inpaint(model, state, images, ~missing, rng, options.draws, labels)
    draws = to_uint8(draws)
    mean: np.ndarray = draws.mean(axis=0, dtype=np.float32)
    spread: np.ndarray = draws.std(axis=0, dtype=np.float32)
    arrays: dict[str, Any] = {"images": images, "missing": missing, "draws": draws}
    picture = draw_picture(images, missing, draws, mean, spread)
    with disk_errors(out), new_folder(out) as folder:
        np.savez_compressed(folder / "inpainted.npz", **arrays, mean=mean, spread=spread)
        (folder / "picture.png").write_bytes(picture)
    what = f"{len(images)} {dataset.split} images of {dataset.name}"
    print(f"{what}, {missing.mean():.1%} of their pixels filled in: {out}")
    print("root mean squared error of the filled pixels (black is 0, white is 1):")
    print(f"  {'one draw':<20}{error(draws, images, missing):.3f}")
    if options.draws > 1:
        print(f"  {f'mean of {options.draws} draws':<20}{error(mean[None], images, missing):.3f}")


def load_images(options: Options, shape: tuple[int, ...]) -> Dataset:
    """The images to fill in, uint8 `[N, H, W, C]`."""
    settings = saved.read_settings(options.workdir)
    name, size = options.images or settings.dataset, settings.image_size
    path = expand(name) if options.images else Path(name)
    if path.suffix.lower() in SUFFIXES:
        dataset = Dataset(stack_pictures([read_picture(path, size)]), None, path.name, "given")
    else:
        folder = options.data_dir or settings.data_dir
        load = functools.partial(data.load, name, data_dir=folder, image_size=size)
        try:
            dataset = load("test")
        except NoSplitError:
            dataset = load("train")
    images = dataset.images[: options.num]
    if are_vectors(images.shape[1:]):
        raise JaxganError(f"{name} contains vectors, and only images have missing pixels")
    if images.shape[1:] == (*shape[:2], 1):
        images = np.broadcast_to(images, (len(images), *shape))  # gray pictures for an RGB run
    if images.shape[1:] != shape:
        found, wanted = ("x".join(map(str, size)) for size in (images.shape[1:], shape))
        raise JaxganError(
            f"the images of {name} are {found}, and the run has images of {wanted}: give images of "
            "that size, or take a run that was trained on images of this size"
        )
    labels = None if dataset.labels is None else dataset.labels[: options.num]
    return dataset._replace(images=images, labels=labels)


def labels_of_run(options: Options, dataset: Dataset, classes: int) -> np.ndarray | None:
    """The labels of the images, with the numbers that the run gives its classes. If both have names
    of classes, the names decide. None for a run or images without classes."""
    names, labels = saved.read_classes(options.workdir), dataset.labels
    if not classes or labels is None:
        return None
    if not names or not dataset.classes or names == list(dataset.classes):
        return labels
    numbers = {class_name(names, i): i for i in range(classes)}
    given = [class_name(dataset.classes, label) for label in labels]
    if unknown := sorted(set(given) - set(numbers)):
        raise JaxganError(
            f"{dataset.name} has classes that the run {options.workdir} does not have: "
            f"{', '.join(unknown[:5])}. The run has {', '.join(list(numbers)[:10])}"
        )
    return np.array([numbers[name] for name in given], np.int32)


def make_missing(options: Options, n: int, height: int, width: int) -> np.ndarray:
    """Which pixels are missing, bool `[n, height, width]`."""
    kind, _, share = options.mask.partition(":")
    if options.mask in ("centre", "lower"):
        missing = inpainting.make_missing(kind, n, height, width)
    elif kind == "random":
        try:
            wanted = float(share)
        except ValueError:
            wanted = math.nan
        if not 0 < wanted < 1:
            raise JaxganError(f"--mask random:SHARE needs a share between 0 and 1, got {share!r}")
        missing = inpainting.make_missing(kind, n, height, width, wanted, options.seed)
    elif Path(options.mask).suffix.lower() in SUFFIXES:
        # In the same way as the images. What the resizing blurs becomes black or white below.
        size = saved.read_settings(options.workdir).image_size
        pixels = read_picture(expand(options.mask), size)
        if pixels.shape[:2] != (height, width):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise JaxganError(
                f"{options.mask} has {size} pixels, but the images have {width}x{height}"
            )
        missing = np.broadcast_to(pixels.mean(axis=2) > 127, (n, height, width))
    else:
        raise JaxganError(
            "--mask must be centre, lower, random:SHARE (such as random:0.8) or a file MASK.png; "
            f"got {options.mask!r}"
        )
    if not missing.any():
        raise JaxganError(f"--mask {options.mask} leaves no pixel missing")
    return missing


def draw_picture(
    images: np.ndarray,
    missing: np.ndarray,
    draws: np.ndarray,
    mean: np.ndarray,
    spread: np.ndarray,
) -> bytes:
    """A row for each of the first PICTURED images."""
    known = np.where(missing[..., None], np.uint8(127), images)
    bright = np.minimum(np.rint(2 * spread), 255).astype(np.uint8)
    columns = [images, known, *draws[:DRAWS], np.rint(mean).astype(np.uint8), bright]
    rows = np.stack([column[:PICTURED] for column in columns], axis=1)
    grid = plots.image_grid(rows.reshape(-1, *images.shape[1:]), len(columns))
    return plots.enlarged_png(grid)


def error(filled: np.ndarray, images: np.ndarray, missing: np.ndarray) -> float:
    """The root mean squared error of the missing pixels of `[K, N, H, W, C]`, from 0 to 1."""
    differences = filled[:, missing].astype(np.float32) - images[missing]
    return float(np.sqrt(np.square(differences / 255).mean()))
