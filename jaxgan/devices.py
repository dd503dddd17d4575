"""Where a run lies: on one device, or split over several, of this host or of many."""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgan.errors import JaxganError

_AXIS = "devices"


class Layout(NamedTuple):
    """How a run lies on the devices. Hashable, so that it can be a static part of a program.

    Over a mesh a population is split by members, and a single run by the images of the data and
    of each batch; all else is on every device. Without a mesh all is on the default device.
    """

    mesh: Mesh | None = None
    population: bool = False
    """Whether the states, totals and keys have a leading axis of members."""
    vectorize: bool = True
    """Whether the members of one device take a step together, or one after the other."""

    @property
    def whole(self) -> NamedSharding | None:
        """All of an array on every device."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding | None:
        """An equal part of an array on each device, along its first axis."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(_AXIS))

    def place_run(self, tree: Any) -> Any:
        """Puts a copy of states, totals or keys where they belong.

        Members are filled up, with copies of the last one, to a multiple of the devices; `cut`
        takes those away.
        """
        if self.mesh is None:
            return _copied(tree)
        if self.population:
            return jax.tree.map(lambda x: _put(x, self.split), self._filled(tree))
        return jax.tree.map(lambda x: _put(x, self.whole), tree)

    def place_data(self, data: Any) -> Any:
        """Puts a tree of arrays `[N, ...]` on the devices, with the type that they have.

        A single run splits them: no device, and no host, is sent more than its part.
        """
        if self.mesh is None:
            return jax.device_put(data)
        if self.population:
            return jax.tree.map(lambda x: _put(x, self.whole, copy=False), data)
        return jax.tree.map(lambda x: _put(x, self.split, copy=False), self._filled(data))

    def cut(self, tree: Any, members: int) -> Any:
        """What `place_run` was given, of as many members."""
        if not self.population or _length(tree) == members:
            return tree
        return first(tree, members)

    def split_batch(self, batch: Any) -> Any:
        """Inside a compiled step: asks for each device to work on its part of the batch."""
        # What is left over at the end of an epoch may not divide; then each does all of it.
        if self.mesh is None or self.population or _length(batch) % self.mesh.size:
            return batch
        return jax.lax.with_sharding_constraint(batch, self.split)

    def for_each_member(
        self, steps: Callable, carried: Any, own: Sequence, shared: Sequence
    ) -> Any:
        """Inside a compiled program: `steps(carried, *own, *shared)`, for each member if there are.

        `carried`, which `steps` gives back renewed, and `own` are `[members, ...]`.
        """
        if not self.population:
            return steps(carried, *own, *shared)

        def together(carried, own, shared):
            axes = [0] * (1 + len(own)) + [None] * len(shared)
            return jax.vmap(steps, in_axes=axes)(carried, *own, *shared)

        def in_turns(carried, own, shared):
            def body(i, carried):
                one, its_own = jax.tree.map(lambda x: x[i], (carried, own))
                renewed = steps(one, *its_own, *shared)
                return jax.tree.map(lambda xs, x: xs.at[i].set(x), carried, renewed)

            # Not lax.map, which would hold all states twice.
            return jax.lax.fori_loop(0, _length(carried), body, carried)

        lifted = together if self.vectorize else in_turns
        if self.mesh is not None:
            # Each device sees to its own members and knows of no others.
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
        # Of the host's arrays nothing goes to a device here.
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

    By default one GAN has one device, or all if there are several processes; a population has all.
    Members take their steps together on accelerators, which a single small GAN cannot fill, and
    one after the other on a CPU, where that is as fast and equals single runs to the bit.

    Raises:
      JaxganError: if there are fewer devices, or some of another process are left out.
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


def connect(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of a run, on this host or others, if there are any.

    Call it before anything else of jax. Without arguments the processes are those that Slurm or a
    cloud TPU announces; where neither does, this process is the only one.

    Args:
      coordinator: HOST:PORT of process 0, which all can reach.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      JaxganError: if only some of the three are given, or the others do not come.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and any(value is not None for value in given):
        raise JaxganError("--coordinator, --num-processes and --process-id belong together")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise JaxganError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise JaxganError(
            f"--process-id must be from 0 to {num_processes - 1}, one for each of the "
            f"--num-processes, got {process_id}"
        )
    on_tpu = coordinator is None and _has_tpu()
    if coordinator is None and not on_tpu and not _in_slurm_step():
        return
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
        # Now, while all are here: later one may be late with its data.
        agree([0])
    except (RuntimeError, ValueError) as error:
        if on_tpu and isinstance(error, ValueError):
            return  # a TPU of one host, which announces nothing
        reason = str(error).splitlines()[0]
        raise JaxganError(f"the processes of this run did not find each other: {reason}") from error


def _in_slurm_step() -> bool:
    """Whether Slurm has started several processes as one step, of which this is one."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    return tasks != "1" and "SLURM_STEP_NODELIST" in os.environ


def _has_tpu() -> bool:
    """Whether this may be a host of a cloud TPU; of the others jax asks the cloud's own service."""
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("*")]
    return importlib.util.find_spec("libtpu") is not None and bool(devices)


def fetch(tree: Any) -> Any:
    """A tree of arrays as numpy arrays, also of parts that lie on other hosts."""
    leaves, structure = jax.tree.flatten(tree)
    far = [i for i, x in enumerate(leaves) if not _is_here(x)]
    if far:
        # In one program, as each is compiled and connected for itself.
        sharding = NamedSharding(leaves[far[0]].sharding.mesh, PartitionSpec())
        gathered = _gather([leaves[i] for i in far], sharding)
        for i, x in zip(far, gathered, strict=True):
            leaves[i] = x
    return jax.device_get(jax.tree.unflatten(structure, leaves))


def local(tree: Any) -> Any:
    """A tree of arrays that this process can compute with on its own."""
    return tree if jax.process_count() == 1 else fetch(tree)


def agree(values: Sequence[int]) -> np.ndarray:
    """The largest of each number that any process gives: `[len(values)]`, the same in all."""
    if jax.process_count() == 1:
        return np.asarray(values)
    from jax.experimental import multihost_utils

    return np.max(multihost_utils.process_allgather(np.asarray(values)), axis=0)


def is_first() -> bool:
    """Whether this process is the one that writes: process 0, or the only one."""
    return jax.process_index() == 0


def is_lost_process(error: Exception) -> bool:
    """Whether an error of jax comes from talking to another process."""
    signs = ("gloo", "nccl", "coordination", "unavailable", "deadline_exceeded", "barrier")
    if jax.process_count() == 1 or isinstance(error, JaxganError):
        return False
    return isinstance(error, RuntimeError | ValueError) and any(
        s in str(error).lower() for s in signs
    )


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """Does a thing in all processes: an error of one is raised in each.

    Raises:
      JaxganError: that another process could not do it; this process's own error as it is.
    """
    error = None
    try:
        yield
    except Exception as own:
        error = own
    if error is not None and is_lost_process(error):
        raise error
    failed = agree([error is not None])[0]
    if error is not None:
        raise error
    if failed:
        raise JaxganError(f"another process of this run could not {what}; its message says why")


def replicated(tree: Any) -> Any:
    """A tree of arrays that all processes have, as arrays over the devices of all of them.

    What is in the host's memory stays there.
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
        # What is placed may be donated, and device_put does not copy what is there already.
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
    return jax.jit(_copied, out_shardings=sharding)(xs)


def _length(tree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


@jax.jit
def _copied(tree):
    return jax.tree.map(jnp.copy, tree)


@functools.partial(jax.jit, static_argnames="n")
def first(tree: Any, n: int) -> Any:
    """The first n along the leading axis of each leaf."""
    return jax.tree.map(lambda x: x[:n], tree)
