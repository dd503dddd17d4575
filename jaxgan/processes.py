"""Several processes of one run: how they find each other, agree, and fail together."""

import contextlib
import importlib.util
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxgan.errors import JaxganError


def connect(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of a run, on this host or others, if there are any.

    Call it before any other function of jax. Without arguments it joins the processes that Slurm or
    a cloud TPU announces. If neither announces any, this process is the only one.

    Args:
      coordinator: HOST:PORT of process 0, reachable by all. It has no authentication: use an
        address in a network that you trust.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      JaxganError: if only some of the three are given, or if the processes do not connect.
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
        # Anyone who reaches the coordinator may join. So it listens at the given address only.
        bind_address = _bind_address(coordinator) if coordinator and process_id == 0 else None
        jax.distributed.initialize(
            coordinator, num_processes, process_id, coordinator_bind_address=bind_address
        )
        # Connects all processes now. Later one of them may be busy loading its data.
        agree([0])
    except (RuntimeError, ValueError) as error:
        if on_tpu and isinstance(error, ValueError):
            return  # a TPU of one host, which announces nothing
        reason = str(error).splitlines()[0]
        raise JaxganError(f"the processes of this run did not find each other: {reason}") from error


def _bind_address(coordinator: str) -> str | None:
    """The address at which process 0 listens; None for all addresses of its host.

    It is the coordinator's, unless this host has no such address (behind a NAT, for example), or
    knows itself by that name at an address that others cannot reach.
    """
    host = coordinator.rpartition(":")[0]
    try:
        address = socket.gethostbyname(host)
        with socket.socket() as trial:
            trial.bind((address, 0))
    except OSError:
        return None
    is_local_name = address.startswith("127.") and host not in (address, "localhost")
    return None if is_local_name else coordinator


def _in_slurm_step() -> bool:
    """Whether this process is one of several of a Slurm step."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    return tasks != "1" and "SLURM_STEP_NODELIST" in os.environ


def _has_tpu() -> bool:
    """Whether this may be a host of a cloud TPU. If so, jax asks the cloud for the other hosts."""
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("*")]
    return importlib.util.find_spec("libtpu") is not None and bool(devices)


def agree(values: Sequence[int]) -> np.ndarray:
    """The maximum of each number over all processes, `[len(values)]`, the same in all."""
    if jax.process_count() == 1:
        return np.asarray(values)
    from jax.experimental import multihost_utils

    return np.max(multihost_utils.process_allgather(np.asarray(values)), axis=0)


def is_first() -> bool:
    """Whether this process is the one that writes files: process 0, or the only one."""
    return jax.process_index() == 0


def is_lost_process(error: Exception) -> bool:
    """Whether an error of jax says that another process is lost."""
    signs = ("gloo", "nccl", "coordination", "unavailable", "deadline_exceeded", "barrier")
    if jax.process_count() == 1 or isinstance(error, JaxganError):
        return False
    return isinstance(error, RuntimeError | ValueError) and any(
        s in str(error).lower() for s in signs
    )


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """Runs its body in all processes: an error in one of them becomes an error in each.

    Raises:
      JaxganError: if the body failed in another process. An error of this process is raised
        unchanged.
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
