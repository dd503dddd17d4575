"""A trained state in one safetensors file: what its samples need, and what its config.json says."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxgan.errors import JaxganError
from jaxgan.labels import num_classes
from jaxgan.model import Model

_ABOUT, _DIGEST = "jaxgan", "sha256"


def used_leaves(model: Model, state: Any) -> tuple[list[bool], bool]:
    """What `model.generate` reads: which leaves of the state, and whether it draws numbers."""
    leaves, treedef = jax.tree.flatten(state)

    def generate(leaves: Any, rng: Any, latents: jax.Array, *labels: jax.Array) -> jax.Array:
        rng = jax.random.wrap_key_data(rng)
        return model.generate(treedef.unflatten(leaves), latents, rng, *labels)

    n = 2
    latents = jax.ShapeDtypeStruct((n, *model.latent_shape(state.config)), jnp.float32)
    labels = [jax.ShapeDtypeStruct((n,), jnp.int32)] if num_classes(state.config) else []
    rng = jax.random.key_data(jax.random.key(0))
    exported = export.export(jax.jit(generate))(leaves, rng, latents, *labels)
    kept = set(exported.module_kept_var_idx)
    return [i in kept for i in range(len(leaves))], len(leaves) in kept


def to_bytes(model: Model, state: Any, about: Mapping[str, Any]) -> bytes:
    """The file of a state.

    Args:
      model: of the state.
      state: its leaves that samples need go into the file.
      about: like a config.json, with the config of this state.
    """
    from safetensors.numpy import save

    used, _ = used_leaves(model, state)
    named = zip(_names(state), jax.tree.leaves(state), strict=True)
    arrays = {
        name: np.ascontiguousarray(leaf)
        for (name, leaf), use in zip(named, used, strict=True)
        if use
    }
    content = json.dumps(about)
    return save(arrays, {_ABOUT: content, _DIGEST: _digest(content, arrays)})


def read_about(path: Path) -> dict[str, Any]:
    """What `to_bytes` was told about a state: the content of a config.json.

    Raises:
      JaxganError: if the file cannot be read, or is of something else. `restore` checks the arrays.
    """
    with _open(path) as (_, metadata):
        about = json.loads(metadata[_ABOUT])
        if not isinstance(about, dict):
            raise ValueError("it describes no run")
        return about


def restore(model: Model, path: Path, config: Any) -> Any:
    """The state in a file.

    Parts that samples do not need, such as a discriminator or the moments of an optimizer, are as
    at the start of training.

    Args:
      model: of the state.
      path: a file by `to_bytes`.
      config: that of the state.

    Raises:
      JaxganError: if the file cannot be read, is damaged, or holds other arrays.
    """
    with _open(path) as (file, metadata):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get(_DIGEST) != _digest(metadata[_ABOUT], arrays):
            raise ValueError("it is damaged: it has changed since it was written")
    state = model.create_state(jax.random.key(0), config)
    used, _ = used_leaves(model, state)
    names, (leaves, treedef) = _names(state), jax.tree.flatten(state)
    wanted = {
        name: (leaf.shape, leaf.dtype)
        for name, leaf, use in zip(names, leaves, used, strict=True)
        if use
    }
    if wanted != {name: (array.shape, array.dtype) for name, array in arrays.items()}:
        raise JaxganError(f"the arrays in {path} are not those of its settings")
    found = [
        jnp.asarray(arrays[name]) if use else leaf
        for name, leaf, use in zip(names, leaves, used, strict=True)
    ]
    return treedef.unflatten(found)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Opens a file, and gives its metadata too. Errors in the block become those of the file."""
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if _ABOUT not in metadata:
                raise ValueError("no program of jaxgan wrote it")
            yield file, metadata
    except Exception as error:  # a file of something else may hold anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JaxganError(f"{path} holds no model of jaxgan ({reason})") from error


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _names(state: Any) -> list[str]:
    """The names of the leaves, such as generator/params/Dense_0/kernel."""
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
