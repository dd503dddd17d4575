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
from jaxgan.data.pixels import are_points, to_uint8
from jaxgan.errors import NoSplitError
from jaxgan.files import check_writable, disk_errors, expand, new_folder, partial_path
from jaxgan.report import plots
from jaxgan.run import saved
from jaxgan.uses import inpainting

PICTURED, DRAWS = 8, 4
"""Images in the picture, and draws of each."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Fills in missing pixels of images with a trained model, several times each.

    A diffusion model takes RePaint. A GAN is searched for latents whose images agree with the known
    pixels. The folder of the results gets two files:

    - inpainted.npz: images, uint8 [N, H, W, C]; missing, bool [N, H, W]; draws, uint8
      [K, N, H, W, C]; mean and spread (the standard deviation) of the draws, float32
      [N, H, W, C], in grey levels.
    - picture.png: a row for each of the first eight images: the image, its known pixels, four
      draws, and the mean and the spread of all draws.
    """

    workdir: Annotated[str, tyro.conf.Positional]
    """The run folder."""
    images: Annotated[str, tyro.conf.Positional] = ""
    """A folder of images, a .npz or .npy file, or a data set (then its test images). By default
    the data set of the run."""
    mask: str = "centre"
    """What is missing: centre (a square of half the height and width), lower (the lower half),
    random:SHARE (such a share of the pixels of each image, from --seed), or MASK.png, a picture of
    the size of the images: white is missing."""
    out: str = "inpainted"
    """A folder that is empty or does not exist."""
    num: int = 100
    """How many images: the first ones."""
    draws: int = 4
    """How many times each image is filled in."""
    member: int | None = None
    """Which member of a population; by default the best one."""
    data_dir: str | None = None
    """The first place to look for the files of a data set."""
    seed: int = 0
    """The seed of all that is drawn."""


def main() -> None:
    options = cli.parse(Options)
    out = expand(options.out)
    check(options, out)
    model = saved.find_model(options.workdir, MODELS)
    state, epochs = saved.load_state(model, options.workdir, options.member)
    if epochs < 0:
        raise JaxganError(f"{options.workdir} has no checkpoint yet: train it first")
    images = load_images(options, state.config.image_shape)
    missing = make_mask(options, *images.shape[:3])
    check_writable(partial_path(out))
    rng = jax.random.key(options.seed)
    draws = to_uint8(inpainting.inpaint(model, state, images, ~missing, rng, options.draws))
    mean: np.ndarray = draws.mean(axis=0, dtype=np.float32)
    spread: np.ndarray = draws.std(axis=0, dtype=np.float32)
    arrays: dict[str, Any] = {"images": images, "missing": missing, "draws": draws}
    with disk_errors(out), new_folder(out) as folder:
        np.savez_compressed(folder / "inpainted.npz", **arrays, mean=mean, spread=spread)
        picture = draw_picture(images, missing, draws, mean, spread)
        (folder / "picture.png").write_bytes(picture)
    print(f"{len(images)} images, {missing.mean():.0%} of their pixels filled in: {out}")
    print("root mean squared error of these pixels, from black to white 1:")
    print(f"  one draw           {error(draws, images, missing):.3f}")
    if options.draws > 1:
        print(f"  mean of {options.draws} draws{error(mean[None], images, missing):10.3f}")


def check(options: Options, out: Path) -> None:
    for name in ("num", "draws"):
        if getattr(options, name) < 1:
            raise JaxganError(f"--{name} must be 1 or more, got {getattr(options, name)}")
    if not 0 <= options.seed < 2**32:
        raise JaxganError(f"--seed must be from 0 to 2**32 - 1, got {options.seed}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise JaxganError(f"{out} exists and is not an empty folder: choose another --out")


def load_images(options: Options, shape: tuple[int, ...]) -> np.ndarray:
    """The images to fill in, uint8 `[N, H, W, C]`."""
    settings = saved.read_settings(options.workdir)
    name = options.images or settings.dataset
    load = functools.partial(
        data.load,
        name,
        data_dir=options.data_dir or settings.data_dir,
        image_size=settings.image_size,
    )
    try:
        images = load("test").images
    except NoSplitError:
        images = load("train").images
    if are_points(images.shape[1:]):
        raise JaxganError(f"{name} contains points, and only images have missing pixels")
    if images.shape[1:] != shape:
        sizes = ["x".join(map(str, size)) for size in (images.shape[1:], shape)]
        raise JaxganError(
            f"{name} has images of {sizes[0]}, and {options.workdir} was trained on {sizes[1]}"
        )
    return images[: options.num]


def make_mask(options: Options, n: int, height: int, width: int) -> np.ndarray:
    """Which pixels are missing, bool `[n, height, width]`."""
    kind, _, share = options.mask.partition(":")
    missing = np.zeros((n, height, width), bool)
    if options.mask == "centre":
        top, left = height // 4, width // 4
        missing[:, top : height - top, left : width - left] = True
    elif options.mask == "lower":
        missing[:, height // 2 :] = True
    elif kind == "random":
        try:
            wanted = float(share)
        except ValueError:
            wanted = math.nan
        if not 0 < wanted < 1:
            raise JaxganError(f"--mask random:SHARE needs a share between 0 and 1, got {share!r}")
        missing = np.random.default_rng(options.seed).random(missing.shape) < wanted
    elif options.mask.lower().endswith(".png"):
        missing[:] = read_mask(expand(options.mask), (height, width))
    else:
        raise JaxganError(
            "--mask must be centre, lower, random:SHARE (such as random:0.8) or a file MASK.png; "
            f"got {options.mask!r}"
        )
    return missing


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The white pixels of a picture, bool `[height, width]`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            white = np.asarray(picture.convert("L")) > 127
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as problem:
        raise JaxganError(f"{path}: no picture could be read ({problem})") from problem
    if white.shape != size:
        sizes = [f"{width}x{height}" for height, width in (white.shape, size)]
        raise JaxganError(f"{path} is of {sizes[0]} pixels, and the images are of {sizes[1]}")
    if not white.any():
        raise JaxganError(f"{path} has no white pixels, so nothing is missing")
    return white


def draw_picture(
    images: np.ndarray,
    missing: np.ndarray,
    draws: np.ndarray,
    mean: np.ndarray,
    spread: np.ndarray,
) -> bytes:
    """A row for each of the first PICTURED images; the spread is drawn twice as bright."""
    known = np.where(missing[..., None], np.uint8(127), images)
    bright = np.clip(2 * spread, 0, 255).astype(np.uint8)
    columns = [images, known, *draws[:DRAWS], mean.astype(np.uint8), bright]
    rows = np.stack([column[:PICTURED] for column in columns], axis=1)
    grid = plots.image_grid(rows.reshape(-1, *images.shape[1:]), len(columns))
    return plots.enlarged_png(grid)


def error(filled: np.ndarray, images: np.ndarray, missing: np.ndarray) -> float:
    """The root mean squared error of the missing pixels of `[K, N, H, W, C]`, from 0 to 1."""
    squares = np.square((filled.astype(np.float32) - images) / 255)
    return float(np.sqrt(squares[:, missing].mean()))


if __name__ == "__main__":
    cli.main(main)
