"""Where a run is placed: on one device, or on several devices of one or many hosts."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgan.errors import JaxganError

_AXIS = "devices"


class Layout(NamedTuple):
    """How one run or a population is placed on devices. Hashable: a static part of programs.

    On a mesh, each device has a part of the members of a population. For one run, each device has a
    part of the data and of each batch, and the whole state. Without a mesh, everything is on the
    default device.
    """

    mesh: Mesh | None = None
    population: bool = False
    """Whether states, totals and keys have a leading axis of members."""
    vectorize: bool = True
    """Whether the members on a device take each step together (vmap), or take turns."""

    @property
    def whole(self) -> NamedSharding | None:
        """The sharding of an array that is on every device."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding | None:
        """The sharding of an array that is split along its first axis."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(_AXIS))

    def place_run(self, tree: Any) -> Any:
        """Puts a copy of states, totals or keys on the devices.

        Copies of the last member fill a population up to a multiple of the number of devices. `cut`
        removes them.
        """
        if self.mesh is None:
            return _copy(tree)
        if self.population:
            return jax.tree.map(lambda x: _put(x, self.split), self._filled(tree))
        return jax.tree.map(lambda x: _put(x, self.whole), tree)

    def place_data(self, data: Any) -> Any:
        """Puts a tree of arrays `[N, ...]` on the devices; their dtypes do not change.

        For one run, each device and host gets only its part of them.
        """
        if self.mesh is None:
            return jax.device_put(data)
        if self.population:
            return jax.tree.map(lambda x: _put(x, self.whole, copy=False), data)
        return jax.tree.map(lambda x: _put(x, self.split, copy=False), self._filled(data))

    def cut(self, tree: Any, members: int) -> Any:
        """Removes the copies that `place_run` added to this many members."""
        if not self.population or _length(tree) == members:
            return tree
        return first(tree, members)

    def split_batch(self, batch: Any) -> Any:
        """Inside a compiled step: lets each device work on its part of the batch."""
        # If a batch has no equal parts, a smaller last one for example, each device works on all.
        if self.mesh is None or self.population or _length(batch) % self.mesh.size:
            return batch
        return jax.lax.with_sharding_constraint(batch, self.split)

    def map(self, function: Callable[..., Any], *in_axes: int | None) -> Callable[..., Any]:
        """The function for each member of a population (vmap); for one run the function itself."""
        return jax.vmap(function, in_axes=in_axes) if self.population else function

    def for_each_member(
        self, steps: Callable[..., Any], carried: Any, own: Sequence[Any], shared: Sequence[Any]
    ) -> Any:
        """Inside a compiled program: calls `steps(carried, *own, *shared)` for each member.

        `steps` returns the new `carried`. In a population `carried` and `own` are `[members, ...]`.
        """
        if not self.population:
            return steps(carried, *own, *shared)

        def together(carried, own, shared):
            axes = [0] * (1 + len(own)) + [None] * len(shared)
            return self.map(steps, *axes)(carried, *own, *shared)

        def in_turns(carried, own, shared):
            def body(i, carried):
                member, member_own = jax.tree.map(lambda x: x[i], (carried, own))
                updated = steps(member, *member_own, *shared)
                return jax.tree.map(lambda xs, x: xs.at[i].set(x), carried, updated)

            # lax.map would keep two copies of all states.
            return jax.lax.fori_loop(0, _length(carried), body, carried)

        lifted = together if self.vectorize else in_turns
        if self.mesh is not None:
            # Each device trains its own members, without any communication.
            split, whole = PartitionSpec(_AXIS), PartitionSpec()
            lifted = jax.shard_map(
                lifted,
                mesh=self.mesh,
                in_specs=(split, split, whole),
                out_specs=split,
                check_vma=False,
            )
        return lifted(carried, tuple(own), tuple(shared))

    def _filled(self, tree: Any) -> Any:
        short = -_length(tree) % self.mesh.size if self.mesh is not None else 0
        if not short:
            return tree
        # Arrays in the host's memory stay there.
        return jax.tree.map(
            lambda x: (np if isinstance(x, np.ndarray) else jnp).concatenate(
                [x, *[x[-1:]] * short]
            ),
            tree,
        )


ONE_DEVICE = Layout()
"""One run on the default device."""


def make_layout(
    devices: int | None = None, *, population: bool = False, vectorize: bool | None = None
) -> Layout:
    """A layout over the first `devices` devices.

    By default one run has one device, or all devices if there are several processes. A population
    has all devices. By default its members take steps together on accelerators, which one small
    model cannot fill. On a CPU they take turns, which is as fast. On one device each member then
    equals its single run to the bit.

    Raises:
      JaxganError: if there are fewer devices, or if several processes do not use all of theirs.
    """
    found = jax.devices()
    processes = jax.process_count()
    if devices is None:
        devices = len(found) if population or processes > 1 else 1
    if not 1 <= devices <= len(found):
        hint = "; JAX_NUM_CPU_DEVICES sets their number" if found[0].platform == "cpu" else ""
        raise JaxganError(
            f"devices must be from 1 to the {len(found)} that jax finds "
            f"({found[0].device_kind}){hint}, got {devices}"
        )
    if processes > 1 and devices < len(found):
        raise JaxganError(
            f"{processes} processes share one run and all of their {len(found)} devices; "
            f"leave --devices out, got {devices}"
        )
    together = found[0].platform != "cpu" if vectorize is None else vectorize
    mesh = None
    if devices > 1:
        mesh = Mesh(np.array(found[:devices]), (_AXIS,), axis_types=(AxisType.Auto,))
    return Layout(mesh, population, together)


def fetch(tree: Any) -> Any:
    """A tree of arrays as numpy arrays, including parts on other hosts."""
    leaves, structure = jax.tree.flatten(tree)
    far = [i for i, x in enumerate(leaves) if not _is_here(x)]
    if far:
        # In one program, since each program takes time to compile and to connect.
        sharding = NamedSharding(leaves[far[0]].sharding.mesh, PartitionSpec())
        gathered = _gather([leaves[i] for i in far], sharding)
        for i, x in zip(far, gathered, strict=True):
            leaves[i] = x
    return jax.device_get(jax.tree.unflatten(structure, leaves))


def local(tree: Any) -> Any:
    """A tree of arrays with which this process can compute alone."""
    return tree if jax.process_count() == 1 else fetch(tree)


def replicated(tree: Any) -> Any:
    """A tree of arrays that all processes have, as arrays over the devices of all processes.

    Arrays in the host's memory stay there.
    """
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (_AXIS,), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else _put(x, whole), tree)


def _put(x: Any, sharding: NamedSharding | None, *, copy: bool = True) -> jax.Array:
    assert sharding is not None
    if jax.process_count() == 1:
        x = jax.device_put(x, sharding)
        # Placed arrays may be donated, but device_put does not copy an array that is there already.
        return jnp.copy(x) if copy else x
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        placed = not copy and x.sharding == sharding
        return x if placed else jax.jit(jnp.copy, out_shardings=sharding)(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _is_here(x: Any) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def _gather(xs: list[jax.Array], sharding: NamedSharding) -> list[jax.Array]:
    return jax.jit(_copy, out_shardings=sharding)(xs)


def _length(tree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


@jax.jit
def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


@functools.partial(jax.jit, static_argnames="n")
def first(tree: Any, n: int) -> Any:
    """The first n along the leading axis of each leaf."""
    return jax.tree.map(lambda x: x[:n], tree)
