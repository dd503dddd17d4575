import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from jaxgan import GANConfig
from jaxgan.adversarial import penalties
from jaxgan.adversarial.penalties import PENALTIES, Inputs

RNG = jax.random.key(4)
SHAPE = (5, 2, 3, 2)
NUMBERS = np.random.default_rng(0)
REAL, FAKE = NUMBERS.uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
W = NUMBERS.normal(size=SHAPE[1:]).astype(np.float32)
NORM = np.sqrt((W.astype(np.float64) ** 2).sum())
"""Over all pixels and channels."""

jit = functools.partial(jax.jit, static_argnums=0)
zero_centered = jit(penalties.zero_centered)
gradient_penalty = jit(penalties.gradient_penalty)
dragan = jit(penalties.dragan)
roth = jit(penalties.roth)


def linear(w):
    """D(x) = <w, x> + 0.3, whose gradient is w wherever it is taken."""
    return lambda image: jnp.sum(w * image) + 0.3


LINEAR = linear(W)


def quadratic(image):
    """D(x) = |x|^2 / 2, whose gradient is the image itself."""
    return 0.5 * jnp.sum(image**2)


def norms(images):
    return np.sqrt((np.asarray(images, np.float64) ** 2).sum(axis=(1, 2, 3)))


def test_zero_centered():
    np.testing.assert_allclose(zero_centered(LINEAR, REAL), np.full(5, NORM**2 / 2), rtol=1e-5)
    np.testing.assert_allclose(zero_centered(quadratic, FAKE), norms(FAKE) ** 2 / 2, rtol=1e-5)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_gradient_penalty_of_a_linear_critic(target):
    np.testing.assert_allclose(
        gradient_penalty(LINEAR, REAL, FAKE, RNG, target=target),
        np.full(5, (NORM - target) ** 2),
        rtol=1e-5,
    )


def test_gradient_penalty_is_taken_at_a_point_of_each_pairs_own():
    """The real images are multiples of 1, the generated ones their negatives, all on one line.

    With a target of 0 the penalty is |x|^2, where x = (2 alpha - 1) real: alpha can be read off.
    """
    n = 2000
    sizes = 1 + np.arange(n, dtype=np.float32) % 7
    real = np.broadcast_to(sizes[:, None, None, None], (n, 2, 2, 1))
    found, other = (
        np.asarray(gradient_penalty(quadratic, real, -real, rng, target=0.0), np.float64)
        for rng in (RNG, jax.random.key(5))
    )
    at = np.sqrt(found) / (2 * sizes)  # |2 alpha - 1|
    assert (at <= 1 + 1e-6).all()
    assert len(np.unique(np.round(at, 6))) > 0.99 * n
    # Uniform on [0, 1]: its mean, and the share below a quarter, to four standard errors.
    assert abs(at.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert abs((at < 0.25).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)
    assert (found != other).mean() > 0.99
    # Between a real image and the generated one of its pair, not that of another pair.
    same = gradient_penalty(quadratic, REAL, REAL, RNG, target=0.0)
    np.testing.assert_allclose(same, norms(REAL) ** 2, rtol=1e-5)


def test_dragan_is_taken_around_the_real_images():
    np.testing.assert_allclose(dragan(LINEAR, REAL, RNG), np.full(5, (NORM - 1) ** 2), rtol=1e-5)
    # One pixel far from 0: |x| - 1 = x - 1, where x is between the image and half a standard
    # deviation of the batch above it.
    n = 4000
    real = np.where(np.arange(n) % 2, 10.0, 14.0).astype(np.float32)
    found = np.asarray(dragan(quadratic, real.reshape(n, 1, 1, 1), RNG), np.float64)
    shift = np.sqrt(found) + 1 - real
    assert shift.min() >= -1e-5
    assert 0.9 < shift.max() <= 0.5 * 2 + 1e-5
    # The product of two uniform numbers: a mean of 1 / 4 and a variance of 1 / 9 - 1 / 16.
    assert abs(shift.mean() - 0.25) < 4 * np.sqrt((1 / 9 - 1 / 16) / n)
    # Each pixel of an image has its own noise: if they were still equal, this would be 1.
    alike = np.broadcast_to(real[:, None, None, None], (n, 1, 2, 1))
    apart = dragan(lambda x: 0.5 * (x[0, 0, 0] - x[0, 1, 0]) ** 2, alike, RNG)
    assert (np.asarray(apart) != 1).mean() > 0.99


def test_roth_has_the_sigmoids_as_weights():
    scores = [expit((W.astype(np.float64) * x).sum((1, 2, 3)) + 0.3) for x in (REAL, FAKE)]
    expected = NORM**2 / 2 * ((1 - scores[0]) ** 2 + scores[1] ** 2)
    np.testing.assert_allclose(roth(LINEAR, REAL, FAKE), expected, rtol=1e-5)


def test_weight_penalty_is_of_kernels_alone():
    params = {
        "Dense_0": {"kernel": np.float32([[1.0, -2.0]]), "bias": np.float32([7.0, 7.0])},
        "Conv_0": {"kernel": np.full((2, 2, 1, 1), 3.0, np.float32)},
        "scale": np.float32(5.0),
    }
    assert penalties.weight_penalty(params) == 1 + 4 + 4 * 9
    assert penalties.weight_penalty({"bias": np.ones(3, np.float32)}) == 0


@pytest.mark.parametrize("name", PENALTIES)
def test_any_penalty_is_finite_where_the_gradient_is_zero(name):
    @jax.jit
    @jax.value_and_grad
    def penalty(w):
        return PENALTIES[name](Inputs(linear(w), w, REAL, FAKE, RNG)).mean()

    value, slope = penalty(np.zeros_like(W))
    assert value == (1 if name in ("gradient_penalty", "dragan") else 0)
    np.testing.assert_array_equal(slope, np.zeros_like(W))


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_with_respect_to_the_critic_by_finite_differences(name):
    with jax.enable_x64(True):
        w, real, fake = (np.asarray(x, np.float64) for x in (W, REAL, FAKE))

        def penalty(w):
            def critic(x):
                return jnp.sum(w * (x + x**2))

            return PENALTIES[name](Inputs(critic, w, real, fake, RNG)).mean()

        check_grads(jax.jit(penalty), (w,), order=1, modes=["rev"])


def test_the_sum_is_weighted_and_of_means():
    config = GANConfig(
        r1="linear:1:3:10", r2=0.5, gradient_penalty=2.0,
        dragan=0.125, roth=0.0625, weight_penalty=0.03125,
    )  # fmt: skip
    inputs = Inputs(LINEAR, {"kernel": np.float32([[4.0]])}, REAL, FAKE, RNG)

    @jax.jit
    def total(step):
        return penalties.weighted_sum(config.penalty_weights, step, inputs)

    on_scores = float(roth(LINEAR, REAL, FAKE).mean())
    rest = 0.5 * NORM**2 / 2 + 2 * (NORM - 1) ** 2 + (NORM - 1) ** 2 / 8 + on_scores / 16 + 16 / 32
    for step, weight in ((0, 1), (5, 2), (20, 3)):
        expected = weight * NORM**2 / 2 + rest
        np.testing.assert_allclose(total(jnp.int32(step)), expected, rtol=1e-5)
    assert penalties.weighted_sum(GANConfig().penalty_weights, jnp.int32(0), inputs) == 0


def test_the_gradient_is_that_of_the_logit_for_the_label_of_each_image():
    weights = np.stack([W, -2 * W, 3 * W])
    labels = np.array([0, 2, 1, 1, 0])

    def critic(image, label):
        return (jnp.asarray(weights)[label] * image).sum()

    norms_of_labels = NORM * np.array([1, 2, 3])[labels]
    np.testing.assert_allclose(
        zero_centered(critic, REAL, labels), norms_of_labels**2 / 2, rtol=1e-5
    )
    expected = (norms_of_labels - 1) ** 2
    found = (gradient_penalty(critic, REAL, FAKE, RNG, labels), dragan(critic, REAL, RNG, labels))
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-5)
    logits = [(weights[labels] * x).sum(axis=(1, 2, 3)) for x in (REAL, FAKE)]
    shares = 1 / (1 + np.exp(-np.array(logits)))
    expected = ((1 - shares[0]) ** 2 + shares[1] ** 2) * norms_of_labels**2 / 2
    np.testing.assert_allclose(roth(critic, REAL, FAKE, labels), expected, rtol=1e-5)
