"""Draws images (or vectors) from a trained model: into an array file, a picture, or a folder."""

import contextlib
import dataclasses
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from jaxgan import MODELS, JaxganError, Model, cli, data
from jaxgan.data.dataset import class_name
from jaxgan.data.pixels import are_vectors, for_file, to_uint8
from jaxgan.errors import NonFiniteError
from jaxgan.files import (
    check_new_folder,
    check_writable,
    disk_errors,
    expand,
    new_file,
    new_folder,
    write_atomically,
)
from jaxgan.labels import num_classes
from jaxgan.learner import with_settings
from jaxgan.report import plots, texts
from jaxgan.run import saved

CHUNK = 1000
"""Images generated at a time, so that any number of images fits into the memory."""
MOST_IN_A_PICTURE = 10_000
INTERPOLATION_STEPS = 10
ATTACK = (
    "An attack that guesses which images were in the training data has an AUC of .51 on samples of "
    "tuned, and a coin has .5. Other attacks may do better."
)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How samples are drawn. The defaults are the values of the run."""

    latent_scale: float | None = None
    """Of a GAN: a factor for the latents. Above 1 samples vary more and look less real."""
    sampler: Literal["ancestral", "ddim", "dpm_solver"] | None = None
    """Of a diffusion model: how samples are drawn (`jaxgan.samplers`)."""
    sample_steps: int | None = None
    """Of a diffusion model: passes through the network for a sample."""
    eta: float | None = None
    """Of a diffusion model: noise in each step of ddim, in [0, 1]."""
    guidance: float | None = None
    """Of a conditional diffusion model: how much stronger than learned the class acts; 1 is as
    learned."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws images from a trained model."""

    run: Annotated[str | None, tyro.conf.Positional] = None
    """The run folder, or a file of export.py --to safetensors; by default the newest run in
    runs/."""
    workdir: str | None = None
    """The run folder, as an option."""
    member: int | None = None
    """Which member of a population; by default the best one, as in its report.json."""
    best: bool = False
    """Sample from the checkpoint with the smallest Fréchet distance (train.py --evaluate-every),
    not from the newest. The default member of a population is then the one with this distance."""
    config: str | None = None
    """FILE.py:NAME, as for train.py, of a run with parts of your own."""
    num: int = 64
    """How many images. With --label all it is rounded up to full rows."""
    seed: int = 0
    """The seed of the latents. Equal seeds give equal images. A smaller --num gives the first of
    these images, but not with --interpolate."""
    out: str = "samples.png"
    """The output: NAME.npz (`images`, uint8 [N, H, W] or [N, H, W, C]), NAME.png (one grid), or a
    folder, FOLDER/ (numbered PNGs, which FID tools read). Vectors go into NAME.npz (`images`,
    float32 [N, D]) or NAME.png (a scatter plot of their first two values)."""
    label: str | None = None
    """The class of the images, of a conditional run: a number, or all: a row for each class. By
    default all classes in turn. NAME.npz then also holds `labels`, int32 [N]."""
    interpolate: bool = False
    """Interpolate between pairs of latents, in ten images each: a row of the grid for each pair. A
    diffusion model then takes dpm_solver, or ddim without noise."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)


def main() -> None:
    options = cli.parse(Options)
    out = expand(options.out)
    kind = "folder" if options.out.endswith("/") else out.suffix
    check(options, out, kind)
    if options.run is not None and options.workdir is not None:
        raise JaxganError(f"give {options.run} or --workdir {options.workdir}, not both")
    workdir = options.run or options.workdir or newest_run()
    options = dataclasses.replace(options, workdir=workdir)
    model, state = load(options)
    vectors = are_vectors(state.config.image_shape)
    if vectors and kind not in (".npz", ".png"):
        raise JaxganError(f"vectors go into NAME.npz or NAME.png, not into a folder, {options.out}")
    labels = wanted_labels(options, num_classes(state.config))
    if labels is not None:
        options = dataclasses.replace(options, num=len(labels))
        check(options, out, kind)
    if kind in (".npz", ".png"):
        check_writable(out)
    latents = draw_latents(options, model.latent_shape(state.config))
    parts = []
    for at in tqdm(range(0, len(latents), CHUNK), "sampling", disable=None):
        chunk = slice(at, at + CHUNK)
        wanted = None if labels is None else labels[chunk]
        rng = jax.random.fold_in(jax.random.key(options.seed), at)
        part = np.asarray(model.generate(state, latents[chunk], rng, wanted))
        if not np.isfinite(part).all():
            raise NonFiniteError("samples are not finite: the model has diverged")
        parts.append(part if vectors else to_uint8(part))
    images = np.concatenate(parts)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == ".npz":
            save_arrays(out, images, labels)
        elif kind == ".png":
            write_atomically(out, draw_picture(options, images, labels))
        else:
            save_folder(out, images)
    shape = images.shape[1:]
    what = f"vectors of {shape[2]}" if vectors else f"images of {'x'.join(map(str, shape))}"
    print(f"{len(images)} {what} in {out}")
    if saved.read_settings(str(options.workdir)).epsilon is None:
        print(texts.wrapped(f"{texts.NOT_ANONYMOUS} {ATTACK}", ""))


def wanted_labels(options: Options, classes: int) -> np.ndarray | None:
    """The class of each image, int32 `[N]`; None if the run has no classes."""
    label = options.label
    if not classes:
        if label is not None:
            raise JaxganError(
                f"{options.workdir} has no classes: leave out --label, or train with --conditional"
            )
        return None
    # All images of a row of --interpolate are of one class.
    row = INTERPOLATION_STEPS if options.interpolate else 1
    if label == "all":
        rows = -(-options.num // (classes * row))
        return np.repeat(np.arange(classes, dtype=np.int32), rows * row)
    if label is not None and not (label.isdecimal() and int(label) < classes):
        names = saved.read_classes(str(options.workdir))
        named = ", ".join(f"{i} {name}" for i, name in enumerate(names) if name != str(i))
        known = f"a number from 0 to {classes - 1}{f' ({named})' if named else ''}, or all"
        raise JaxganError(f"--label must be {known}; got {label!r}")
    if label is not None:
        return np.full(options.num, int(label), np.int32)
    return (np.arange(options.num, dtype=np.int32) // row) % classes


def draw_picture(options: Options, images: np.ndarray, labels: np.ndarray | None) -> bytes:
    if are_vectors(images.shape[1:]):
        run, real = saved.read_settings(str(options.workdir)), None
        if run.epsilon is None and Path(str(options.workdir)).is_dir():
            with contextlib.suppress(JaxganError):  # only a background: the data may be gone
                real = plots.choose_real(data.load(run.dataset, data_dir=run.data_dir).images)
        return plots.enlarged_png(plots.scatter(images, real))
    columns, names = INTERPOLATION_STEPS if options.interpolate else None, []
    if options.label == "all" and labels is not None:
        classes = saved.read_classes(str(options.workdir))
        columns = columns or int((labels == 0).sum())
        names = [class_name(classes, label) for label in labels[::columns]]
    return plots.enlarged_png(plots.image_grid(images, columns), names)


def check(options: Options, out: Path, kind: str) -> None:
    if options.num < 1:
        raise JaxganError(f"--num must be 1 or more, got {options.num}")
    cli.check_seed(options.seed)
    if kind not in (".npz", ".png", "folder", ""):
        raise JaxganError(f"--out must be NAME.npz, NAME.png or a folder, got {options.out!r}")
    if kind == ".png" and options.num > MOST_IN_A_PICTURE:
        raise JaxganError(
            f"a grid of {options.num} images is too large for one picture (at most "
            f"{MOST_IN_A_PICTURE}); take --out samples.npz or --out folder/"
        )
    if kind in ("folder", ""):
        check_new_folder(out)


def load(options: Options) -> tuple[Model, Any]:
    workdir = str(options.workdir)
    model = saved.find_model(workdir, MODELS)
    own = cli.load_config(options.config, MODELS)
    state, epochs = saved.load_state(model, workdir, options.member, best=options.best, config=own)
    print(f"after {epochs} epochs")
    changed = changes(options.sampling, model, state.config, workdir)
    if options.interpolate and "sampler" in model.sampling:
        # The other samplers add noise. With it the images of a row would jump.
        known = changed.get("sampler", state.config.sampler)
        changed |= {"sampler": known if known == "dpm_solver" else "ddim", "eta": 0.0}
    return model, with_settings(state, **changed)


def changes(sampling: Sampling, model: Model, config: Any, workdir: str) -> dict[str, Any]:
    """The fields of the config of a run that the options change."""
    changed = dataclasses.asdict(sampling)
    changed = {name: value for name, value in changed.items() if value is not None}
    if others := changed.keys() - set(model.sampling):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(others))
        raise JaxganError(f"{workdir} is a run of the model {model.name}: leave out {names}")
    if sampling.guidance is not None and not num_classes(config):
        raise JaxganError("--guidance is for runs with classes (train.py --conditional)")
    return changed


def newest_run() -> str:
    """The folder in runs/ whose metrics.csv was written last."""
    tables = [path for path in Path("runs").glob("*/metrics.csv") if path.is_file()]
    if not tables:
        train = shlex.join(cli.command("train"))
        raise JaxganError(f"there is no run in runs/: train one ({train}), or give --workdir")
    workdir = max(tables, key=lambda path: path.stat().st_mtime).parent
    print(f"the newest run: {workdir}")
    return str(workdir)


def draw_latents(options: Options, shape: tuple[int, ...]) -> jax.Array:
    """`[num, *shape]`. Each has its own key, so that fewer latents are the first of more."""

    def draw(n: int) -> jax.Array:
        rngs = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(options.seed), i))(
            jnp.arange(n)
        )
        return jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs)

    if not options.interpolate:
        return draw(options.num)
    pairs = -(-options.num // INTERPOLATION_STEPS)
    ends = draw(2 * pairs)
    flat = ends.reshape(2 * pairs, -1)
    return interpolate(flat[:pairs], flat[pairs:])[: options.num].reshape(-1, *shape)


def interpolate(start: jax.Array, end: jax.Array) -> jax.Array:
    """Spherical interpolation (arXiv 1609.04468): `[rows, d]` twice -> `[rows * steps, d]`.

    A straight line would pass near 0, where N(0, I) has almost no mass.
    """

    def norm(x):
        return jnp.linalg.norm(x, axis=-1, keepdims=True)

    cosine = (start * end).sum(-1, keepdims=True) / (norm(start) * norm(end))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))[:, None]
    t = jnp.linspace(0, 1, INTERPOLATION_STEPS)[None, :, None]
    # At an angle of 0 the weights tend to those of a straight line.
    flat = jnp.sin(angle) < 1e-6
    sine = jnp.where(flat, 1, jnp.sin(angle))
    weight_start = jnp.where(flat, 1 - t, jnp.sin((1 - t) * angle) / sine)
    weight_end = jnp.where(flat, t, jnp.sin(t * angle) / sine)
    points = weight_start * start[:, None] + weight_end * end[:, None]
    return points.reshape(-1, start.shape[-1])


def save_arrays(out: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    more: dict[str, Any] = {} if labels is None else {"labels": labels}
    with new_file(out) as file:
        np.savez_compressed(file, images=for_file(images), **more)


def save_folder(out: Path, images: np.ndarray) -> None:
    digits = max(5, len(str(len(images) - 1)))
    with new_folder(out) as folder:
        for i, image in enumerate(tqdm(images, "writing", disable=None)):
            (folder / f"{i:0{digits}}.png").write_bytes(plots.png(image))
