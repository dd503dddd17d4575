"""What processes agree on. tests/run/test_distributed.py starts real ones."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from jaxgan import JaxganError, processes
from jaxgan.processes import agree, connect, is_first, is_lost_process, together


@pytest.fixture
def other(monkeypatch):
    """Another process, which gives these numbers."""
    numbers = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda own: np.stack([own, numbers.pop()])
    )
    return numbers


def test_alone_a_process_agrees_with_itself():
    assert agree([3, True]).tolist() == [3, 1]
    assert is_first()
    with pytest.raises(JaxganError, match="mine"), together("do it"):
        raise JaxganError("mine")


def test_processes_agree_on_the_largest_of_each_number(other):
    other.append([5, -1])
    assert agree([3, True]).tolist() == [5, 1]


def test_an_error_of_another_process_is_an_error_here(other):
    other.append([0])
    with together("do it"):
        done = True
    assert done
    other.append([1])
    with (
        pytest.raises(JaxganError, match="another process of this run could not do it; its"),
        together("do it"),
    ):
        pass
    # Both have failed: each tells its own reason.
    other.append([1])
    with pytest.raises(ZeroDivisionError), together("do it"):
        raise ZeroDivisionError
    assert not other


@pytest.mark.parametrize("text", ["Gloo connection closed", "UNAVAILABLE: x", "barrier failed"])
def test_the_loss_of_another_process_is_recognized(other, text):
    assert is_lost_process(RuntimeError(text))
    # It is raised at once: the lost process cannot be asked whether it failed.
    with pytest.raises(ValueError, match=text), together("do it"):
        raise ValueError(text)
    assert not is_lost_process(JaxganError(text))
    assert not is_lost_process(KeyError(text))
    assert not is_lost_process(RuntimeError("out of memory"))


def test_alone_no_process_is_lost():
    assert not is_lost_process(RuntimeError("Gloo connection closed"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "belong together"),
        ((None, 2, 0), "belong together"),
        (("host", 2, 0), "HOST:PORT, got 'host'"),
        (("host:1", 2, 2), "from 0 to 1, .* got 2"),
        (("host:1", 2, -1), "from 0 to 1, .* got -1"),
    ],
)
def test_options_that_describe_no_process_are_refused(given, message):
    with pytest.raises(JaxganError, match=message):
        connect(*given)


@pytest.fixture
def initialized(monkeypatch):
    """Collects the calls of jax.distributed.initialize, which does nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: calls.append(given))
    monkeypatch.setattr(processes, "_has_tpu", lambda: False)
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_a_process_that_nobody_announces_is_alone(initialized, monkeypatch):
    connect()
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    connect()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    connect()
    assert not initialized


def test_announced_processes_are_joined(initialized, monkeypatch):
    connect("host:1", 2, 1)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    connect()
    assert initialized == [("host:1", 2, 1), (None, None, None)]


@pytest.mark.parametrize(
    ("host", "address", "bound"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        # A host that knows its own name as a loopback address, and an address of another host.
        ("host", "127.0.1.1", False),
        ("host", "192.0.2.1", False),
    ],
)
def test_the_coordinator_listens_at_the_given_address_if_it_can(monkeypatch, host, address, bound):
    monkeypatch.setattr(processes.socket, "gethostbyname", lambda name: {host: address}[name])
    assert processes._bind_address(f"{host}:1234") == (f"{host}:1234" if bound else None)


def test_processes_that_do_not_connect_are_one_clear_error(initialized, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no answer\nfrom the coordinator")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(JaxganError, match=r"did not find each other: no answer$"):
        connect("host:1", 2, 1)
