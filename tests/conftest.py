"""Four fake CPU devices for all tests, and errors where shapes would be broadcast by accident."""

import atexit
import dataclasses
import fcntl
import os
import pty
import shutil
import struct
import tempfile
import termios

os.environ["KERAS_BACKEND"] = "jax"
# Here and in the processes that tests start a program is compiled once, and that is most of the
# time that tests take. Programs for other numbers of devices are others.
_COMPILED = tempfile.mkdtemp(prefix="jaxgan-compiled-")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

import numpy as np
import pytest

import jaxgan


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Each compiled program maps memory, and a process may have so many maps: of the hundreds of
    this suite XLA dies. The next test file has those that it shares from the folder above."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def real_data_dir() -> str:
    """The folder of the real Fashion-MNIST."""
    folder = os.environ.get("JAXGAN_DATA_DIR")
    if not folder:
        pytest.skip("JAXGAN_DATA_DIR is unset: it names the folder of the real Fashion-MNIST")
    return folder


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
def images() -> np.ndarray:
    """32 images for `small` and `tiny`, uint8."""
    images = np.random.default_rng(0).integers(0, 256, (32, 6, 5, 1), np.uint8)
    images.flags.writeable = False  # all tests share them
    return images
