"""What several test files share."""

import contextlib
import csv
import dataclasses
import functools
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from jaxgan import MODELS, cli, train_step
from jaxgan.run.journal import COLUMNS

ROOT = Path(__file__).parents[1]
RNG = jax.random.key(5)
SIZE = 16
"""Of batches, images, latents and layers in tests of the contract: each new shape takes time to
compile."""


def contract_config(model, tiny):
    """A config of a model for tests of the contract, with images of 4x4 pixels."""
    if model.name == "diffusion":
        # Adam would magnify the rounding of gradients that are almost 0.
        options = {"width": SIZE, "blocks": 1, "num_classes": 3, "adam_eps": 1e-3}
        return model.config(image_shape=(4, 4, 1), **options)
    if model.name == "gaussian":
        return model.config(image_shape=(4, 4, 1), num_classes=3, noise_multiplier=0.1)
    if model.name == "gain":
        return model.config(image_shape=(4, 4, 1), adam_eps=1e-3)
    return dataclasses.replace(tiny, image_shape=(4, 4, 1), latent_dim=SIZE)


def assert_trees_equal(a, b):
    """Equal structures, and leaves equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_trees_close(a, b):
    """Parameters, moments, counters and metrics, equal within the rounding of float32.

    Relative to the largest entry of each leaf, since second moments are as small as 1e-7. They are
    squares, so their relative error is twice that of gradients, 2e-5.
    """
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        atol = 4e-5 * float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol)


def train(state, batches, rng=RNG, step=train_step):
    """The plain loop: the last state, and the metrics of all steps, as arrays of numpy."""
    history = []
    for batch in batches:
        state, metrics = step(state, batch, rng)
        history.append(metrics)
    return state, jax.tree.map(lambda *values: np.stack(values), *jax.device_get(history))


def latents_of(rng, step: int, n: int, size: int):
    """The latents that `train_step` draws at a step: `[n, size]`."""
    return jax.random.normal(jax.random.split(jax.random.fold_in(rng, step), 7)[0], (n, size))


def make_mesh(devices: int = 2):
    """Devices along the axis "data"."""
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def make_shard_map(step, mesh, check_vma: bool = True):
    """The step with the batch split along the axis "data", compiled."""
    return jax.jit(
        jax.shard_map(
            functools.partial(step, axis_name="data"),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
    )


def placed(tree, *axes, devices: int = 2):
    """A tree of arrays on the devices of `make_mesh`, split along these axes."""
    return jax.device_put(tree, NamedSharding(make_mesh(devices), PartitionSpec(*axes)))


class Point(nn.Module):
    """A generator of one parameter, with no use of the latents: the Dirac-GAN's (1801.04406)."""

    start: float

    @nn.compact
    def __call__(self, latents):
        theta = self.param("theta", nn.initializers.constant(self.start), ())
        return jnp.broadcast_to(theta, (latents.shape[0], 1, 1, 1))


class Slope(nn.Module):
    """A discriminator of one parameter, D(x) = psi x."""

    start: float

    @nn.compact
    def __call__(self, images):
        return self.param("psi", nn.initializers.constant(self.start), ()) * images[:, 0, 0, 0]


def script(name: str, *arguments, status: int = 0, **environment) -> tuple[str, str]:
    """Runs a script in a process: its output and errors. Fails if the exit status is another."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def here(name: str, *arguments, status: int = 0) -> tuple[str, str]:
    """As `script`, but in this process, which has imported and compiled most of it already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        # These settings would outlive the script.
        patch.setattr(cli, "quieten", lambda: None)
        patch.setattr(cli, "keep_programs", lambda: None)
        patch.setattr("gc.set_threshold", lambda *_: None)
        patch.setattr("signal.signal", lambda *_: None)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    assert end.value.code == status, out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


def save_images(folder: Path, n: int) -> list[str]:
    """Writes n random images; gives the options of `train.py` for a small GAN on them."""
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8), np.uint8)
    np.save(folder / "images.npy", images)
    return [
        *("--dataset", str(folder / "images.npy"), "--batch-size", "16", "--latent-dim", "8"),
        *("--generator-widths", "32", "--discriminator-widths", "32"),
        *("--discriminator-dropout", "0.3"),
    ]


def picture(path: Path) -> np.ndarray:
    """The pixels of a picture file."""
    with Image.open(path) as image:
        return np.asarray(image)


def colors(path: Path, left: int = 0) -> set[tuple[int, int, int]]:
    """The colors in a picture file, (red, green, blue), without some pixels at the left."""
    with Image.open(path) as image:
        part = image.convert("RGB").crop((left, 0, *image.size))
        return {color for _, color in part.getcolors(2**24)}


def contents(folder: Path) -> dict[Path, bytes]:
    """The files of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undescribed(workdir: Path) -> set[str]:
    """The columns of the metrics.csv of a GAN that no word explains. There should be none."""
    gan = MODELS["gan"]
    described = {*COLUMNS, *gan.columns, *gan.hyperparameters}
    with (workdir / "metrics.csv").open(newline="") as file:
        names = next(csv.reader(file))
    assert "gen_loss" in names
    found = {name for name in names if name not in described}
    return {n for n in found if n.removeprefix("raw_").removeprefix("real_") not in described}


def read_terminal(master: int) -> bytes:
    """All that a process writes to its terminal, until it ends."""
    shown = b""
    # The end of the process is an error for the reader of its terminal.
    with contextlib.suppress(OSError):
        while some := os.read(master, 10_000):
            shown += some
    return shown
