"""Four fake CPU devices for all tests, and errors where shapes would be broadcast by accident."""

import fcntl
import os
import pty
import struct
import termios

os.environ["KERAS_BACKEND"] = "jax"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

import numpy as np
import pytest

import jaxgan


@pytest.fixture(scope="session")
def real_data_dir() -> str:
    """The folder of the real Fashion-MNIST."""
    folder = os.environ.get("JAXGAN_DATA_DIR")
    if not folder:
        pytest.skip("JAXGAN_DATA_DIR is unset: it names the folder of the real Fashion-MNIST")
    return folder


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """For the processes that tests start: each program is compiled once, not once in each."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture
def terminal():
    """A terminal for a process: the end to read from, and the end to give to it and close."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    yield master, slave
    os.close(master)


@pytest.fixture
def small() -> jaxgan.GANConfig:
    """The reference's architecture, small."""
    return jaxgan.GANConfig(
        image_shape=(6, 5, 1),
        latent_dim=7,
        generator_widths=(16, 12),
        discriminator_widths=(16, 8),
        discriminator_dropout=(0.5, 0.3),
    )


@pytest.fixture
def images() -> np.ndarray:
    """32 images for `small`, uint8."""
    return np.random.default_rng(0).integers(0, 256, (32, 6, 5, 1), np.uint8)
