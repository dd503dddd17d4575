import jax.numpy as jnp
import numpy as np
import pytest

from jaxgan import JaxganError
from jaxgan.data.pixels import are_vectors, to_float, to_uint8

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_bytes_become_floats_and_bytes_again():
    floats = to_float(LEVELS)
    assert floats.dtype == jnp.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(np.asarray(floats), (LEVELS.astype(np.float32) - 127.5) / 127.5)
    np.testing.assert_array_equal(to_uint8(floats), LEVELS)


def test_floats_beyond_the_range_are_clipped_and_nan_is_black():
    floats = np.float32([-3, 0.999, 3, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(to_uint8(floats), [0, 255, 255, 0, 255, 0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floats_stay_as_they_are(dtype):
    images = jnp.linspace(-1, 1, 12, dtype=dtype).reshape(1, 2, 3, 2)
    assert to_float(images) is images


def test_bytes_stay_as_they_are():
    assert to_uint8(LEVELS) is LEVELS


def test_other_types_are_refused():
    with pytest.raises(JaxganError, match=r"uint8 or float in \[-1, 1\], got int32"):
        to_float(jnp.zeros((1, 2, 2, 1), jnp.int32))


def test_vectors_are_images_of_one_pixel():
    assert are_vectors((1, 1, 2))
    assert are_vectors([1, 1, 30])
    assert not any(are_vectors(shape) for shape in ((1, 2, 1), (2, 1, 2), (28, 28, 1)))
