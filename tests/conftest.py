"""Four fake CPU devices for all tests; errors where shapes or types would be promoted by accident.

Most of the time that tests take goes into compiling. So programs are optimized less, and each is
compiled once: all workers, and the processes that tests start, share a folder. Tests of results
that are equal to the bit have the marker `optimized`: their programs are those that users run.
JAX_DISABLE_MOST_OPTIMIZATIONS=0 makes them so for all tests.
"""

import atexit
import dataclasses
import fcntl
import gc
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path


def _xla_takes(flags: str) -> bool:
    """Whether XLA knows flags. It ends a process that sets an unknown one: a child tries them."""
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


if "JAXGAN_TESTS_XLA_FLAGS" not in os.environ:  # else this is a process of a test run
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["JAXGAN_TESTS_XLA_FLAGS"] = flags
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_NUM_CPU_DEVICES"] = "4"
    # The threads of numpy and scikit-learn spin while they wait, and take the cores from others.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    folder = tempfile.mkdtemp(prefix="jaxgan-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # no lines of Python in the programs
    less = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
    # XLA cuts a program into up to 32 parts. A small one compiles faster in one part.
    faster = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
    if less:
        taken = faster if _xla_takes(" ".join(faster)) else filter(_xla_takes, faster)
        flags = " ".join([flags, *taken])
    os.environ["XLA_FLAGS"] = flags

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

import numpy as np
import pytest

import jaxgan
from jaxgan.report import plots


def pytest_configure(config):
    config.addinivalue_line("markers", "optimized: with the programs that users run, in a process")
    # One worker may read a program that another is writing. JAX then compiles it again.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error reading persistent compilation cache entry:UserWarning"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test with the marker `optimized` in a process whose programs are optimized."""
    optimized = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"
    if optimized or pyfuncitem.get_closest_marker("optimized") is None:
        return None
    arguments = ["-n", "0", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    flags = os.environ["JAXGAN_TESTS_XLA_FLAGS"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def pytest_collection_finish():
    """Looks for garbage as rarely as the command does, and not among what is there to stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Removes the programs of earlier test files from memory when there are many.

    Each program maps memory, and a process may have only so many maps (65,530 by default): with
    the thousands of programs of this suite XLA dies. The next test file finds its programs in the
    folder of JAX_COMPILATION_CACHE_DIR.
    """
    yield
    maps = Path("/proc/self/maps")  # Linux only; elsewhere they are always removed
    if not maps.exists() or maps.read_bytes().count(b"\n") > 10_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def real_data_dir() -> str:
    """The folder of the real Fashion-MNIST."""
    folder = os.environ.get("JAXGAN_DATA_DIR")
    if not folder:
        pytest.skip("JAXGAN_DATA_DIR is unset: it names the folder of the real Fashion-MNIST")
    return folder


@pytest.fixture
def no_curves(monkeypatch):
    """Runs in this process draw no curves: a few epochs take less time to train than to draw."""
    monkeypatch.setattr(plots, "curves_png", lambda *_, **__: b"")


@pytest.fixture(scope="module")
def no_curves_in_file():
    """As `no_curves`, for all tests of a file and the runs that they share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "curves_png", lambda *_, **__: b"")
        yield


@pytest.fixture
def terminal():
    """A terminal for a process: the end to read from, and the end to give to it and close."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    yield master, slave
    os.close(master)


@pytest.fixture(scope="session")
def small() -> jaxgan.GANConfig:
    """The reference's architecture, small."""
    return jaxgan.GANConfig(
        image_shape=(6, 5, 1),
        latent_dim=7,
        generator_widths=(16, 12),
        discriminator_widths=(16, 8),
        discriminator_dropout=(0.5, 0.3),
    )


@pytest.fixture(scope="session")
def tiny(small) -> jaxgan.GANConfig:
    """`small` with a hidden layer less: for tests of what is built around a step."""
    return dataclasses.replace(
        small, generator_widths=(16,), discriminator_widths=(16,), discriminator_dropout=(0.5,)
    )


@pytest.fixture(scope="session")
def flat(tiny) -> jaxgan.GANConfig:
    """`tiny` without hidden layers: its programs are the smallest."""
    return dataclasses.replace(
        tiny, generator_widths=(), discriminator_widths=(), discriminator_dropout=()
    )


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """32 images for `small` and `tiny`, uint8."""
    images = np.random.default_rng(0).integers(0, 256, (32, 6, 5, 1), np.uint8)
    images.flags.writeable = False  # all tests share them
    return images
