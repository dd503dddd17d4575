"""A trained generator as one function of arrays: what ONNX and StableHLO hold."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from jaxgan.data.pixels import are_vectors
from jaxgan.errors import JaxganError
from jaxgan.export import onnx_graph
from jaxgan.labels import num_classes
from jaxgan.model import Model
from jaxgan.run.weights import used_leaves

PLATFORMS = ("cpu", "cuda", "tpu")
"""The platforms on which a StableHLO file runs."""


class Generator(NamedTuple):
    """A function of latents, and of labels if there are classes."""

    call: Callable[..., jax.Array]
    """`(latents, labels) -> images`, or `latents -> images`."""
    inputs: dict[str, tuple[tuple[int, ...], Any]]
    """The shapes of its arguments without n, and their types, by their names."""
    part: str
    """The name of its network, for an error."""

    def specs(self) -> list[jax.ShapeDtypeStruct]:
        """The shapes and types of its arguments, with a symbol for n."""
        (n,) = export.symbolic_shape("n")
        return [jax.ShapeDtypeStruct((n, *shape), dtype) for shape, dtype in self.inputs.values()]


def make_generator(model: Model, state: Any, form: str = "float") -> Generator:
    """The generator of a trained state, with its parameters as constants.

    Args:
      model: of the state.
      state: trained; its `config` also says how samples are drawn.
      form: of the images. `float`: `[n, H, W, C]`, as `model.generate` gives them. `uint8`: the
        same in 0..255. `rgb`: uint8 `[n, 3, H, W]`; the three channels of gray images are equal.
        Vectors are `[n, D]`, and float.

    Returns:
      The function of latents, float32 `[n, d]`, and of labels, int32 `[n]`, if there are classes.
      Latents of a diffusion model are images: d is H * W * C, row after row.

    Raises:
      JaxganError: if samples do not follow from latents alone, or if they have no such form.
    """
    config, shape = state.config, model.latent_shape(state.config)
    image_shape = config.image_shape
    if form != "float" and are_vectors(image_shape):
        raise JaxganError(f"vectors are floats: leave out --images {form}")
    if form == "rgb" and image_shape[2] not in (1, 3):
        raise JaxganError(f"--images rgb needs 1 or 3 channels; these have {image_shape[2]}")
    used, draws = used_leaves(model, state)
    if draws:
        raise JaxganError(_draws(model, config))
    leaves, treedef = jax.tree.flatten(state)

    def call(latents: jax.Array, *labels: jax.Array) -> jax.Array:
        # Arrays that are not needed become zeros, which take no room in the file.
        needed = [
            leaf if use else jnp.zeros(leaf.shape, leaf.dtype)
            for leaf, use in zip(leaves, used, strict=True)
        ]
        latents = latents.reshape(latents.shape[0], *shape)
        images = model.generate(treedef.unflatten(needed), latents, None, *labels)
        return _formed(images, form)

    size = math.prod(shape)
    inputs: dict[str, tuple[tuple[int, ...], Any]] = {"latents": ((size,), jnp.float32)}
    if num_classes(config):
        inputs["labels"] = ((), jnp.int32)
    return Generator(call, inputs, next(iter(model.networks(config)), model.name))


def onnx_bytes(generator: Generator) -> bytes:
    """The generator as an ONNX file. Its labels are int64, as other programs have them.

    Raises:
      JaxganError: if onnx is not installed, or if a network has an operation without counterpart.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise _missing("onnx") from error
    try:
        return onnx_graph.to_onnx(generator.call, generator.inputs, "images").SerializeToString()
    except onnx_graph.Unsupported as error:
        raise JaxganError(
            f"the {generator.part} has an operation, {error}, that jaxgan does not translate to "
            "ONNX, or that mixes images; --to stablehlo takes every network"
        ) from error


def stablehlo_bytes(generator: Generator) -> tuple[bytes, dict[str, Any]]:
    """The generator as a file of `jax.export`, for all `PLATFORMS`, and what to know of it.

    Raises:
      JaxganError: if flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise _missing("flatbuffers") from error
    jitted = jax.jit(generator.call)
    exported = export.export(jitted, platforms=PLATFORMS)(*generator.specs())
    about = {
        "jax": jax.__version__,
        "calling convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "inputs": dict(zip(generator.inputs, map(str, exported.in_avals), strict=True)),
        "output": str(exported.out_avals[0]),
    }
    return bytes(exported.serialize()), about


def _formed(images: jax.Array, form: str) -> jax.Array:
    n, *shape = images.shape
    if are_vectors(shape):
        return images.reshape(n, shape[2])
    if form == "float":
        return images
    # As `jaxgan.data.pixels.to_uint8`.
    pixels = jnp.clip(jnp.round(images * 127.5 + 127.5), 0, 255).astype(jnp.uint8)
    if form == "uint8":
        return pixels
    pixels = jnp.moveaxis(pixels, 3, 1)
    return pixels if shape[2] == 3 else jnp.concatenate([pixels] * 3, axis=1)


def _draws(model: Model, config: Any) -> str:
    if "sampler" in model.sampling:
        return (
            f"the sampler {config.sampler} adds noise in each step, so its images do not follow "
            "from latents alone: give --sampler ddim --eta 0, or --sampler dpm_solver"
        )
    return "the generator draws random numbers, so its images do not follow from latents alone"


def _missing(name: str) -> JaxganError:
    return JaxganError(f"{name} is not installed: pip install 'jaxgan[export]'")
