import inspect
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import here
from jax.test_util import check_grads
from scipy.optimize import minimize_scalar
from scipy.special import expit

import jaxgan.commands.train  # noqa: F401
from jaxgan import GANConfig, commands
from jaxgan.adversarial import losses
from jaxgan.adversarial.losses import LOSSES, per_image

LOGITS = np.array([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0], np.float32)
LARGE = np.array([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32)

# Scores of 1/2, 3/4 and 1/10 on real images, of 1/2, 1/5 and 9/10 on generated ones.
REAL = np.log([1.0, 3.0, 1 / 9])
FAKE = np.log([1.0, 1 / 4, 9.0])
CLOSED_FORMS = {
    "minimax": (
        np.log([1 / 2, 4 / 5, 1 / 10]),
        -np.log([1 / 2 * 1 / 2, 3 / 4 * 4 / 5, 1 / 10 * 1 / 10]),
    ),
    "non_saturating": (
        -np.log([1 / 2, 1 / 5, 9 / 10]),
        -np.log([1 / 2 * 1 / 2, 3 / 4 * 4 / 5, 1 / 10 * 1 / 10]),
    ),
    "wasserstein": (-np.log([1.0, 1 / 4, 9.0]), np.log([1.0, 1 / 12, 81.0])),
    # No loss beyond the margin of 1: log 3 > 1, and log(1 / 4) < -1.
    "hinge": (-np.log([1.0, 1 / 4, 9.0]), np.array([2.0, 0.0, 2 + 2 * np.log(9)])),
    "least_squares": (
        np.array([0.5, 0.5 * (1 + np.log(4)) ** 2, 0.5 * (np.log(9) - 1) ** 2]),
        np.array(
            [
                0.5,
                0.5 * (np.log(3) - 1) ** 2 + 0.5 * np.log(4) ** 2,
                0.5 * (np.log(9) + 1) ** 2 + 0.5 * np.log(9) ** 2,
            ]
        ),
    ),
    # s(real - fake) is 1/2, 12/13 and 1/82.
    "relativistic": (-np.log([1 / 2, 1 / 13, 81 / 82]), -np.log([1 / 2, 12 / 13, 1 / 82])),
}


def test_a_line_in_the_table_is_all_that_a_new_loss_needs(monkeypatch):
    monkeypatch.setitem(LOSSES, "new", losses.Loss(losses.hinge))
    assert GANConfig(loss="new").loss == "new"
    # The command reads the table at its import. Afterwards the other tests get their module back.
    monkeypatch.delitem(sys.modules, commands.train.__name__)
    monkeypatch.setattr(commands, "train", commands.train)
    out, _ = here("train.py", "--help")
    assert "--loss {non_saturating,minimax" in out
    assert ",new}" in out


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_is_finite_with_finite_gradients_and_one_value_per_image(name):
    real, fake = np.array(list(itertools.product(LARGE, LARGE)), np.float32).T
    loss = LOSSES[name]

    @jax.jit
    def values_and_gradients(real, fake):
        per_pair = jax.vmap(jax.jacrev(loss.function, (0, 1)))
        return loss.function(real, fake), per_pair(real, fake)

    values, gradients = values_and_gradients(real, fake)
    assert [value.shape for value in values] == [(25,), (25,)]
    for found in (*values, *jax.tree.leaves(gradients)):
        assert found.dtype == jnp.float32
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_smoothing_exactly_if_its_function_does(name):
    loss = LOSSES[name]
    parameters = inspect.signature(loss.function).parameters
    assert loss.takes_smoothing == ("label_smoothing" in parameters)
    real, fake = LOGITS, LOGITS[::-1].copy()
    plain, smooth = (jax.tree.map(np.asarray, per_image(name, real, fake, s)) for s in (0.0, 0.2))
    np.testing.assert_array_equal(plain.generator, smooth.generator)
    changed = (plain.discriminator != smooth.discriminator).any()
    assert changed == loss.takes_smoothing


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_values_at_chosen_logits(name):
    found = LOSSES[name].function(jnp.asarray(REAL), jnp.asarray(FAKE))
    for values, expected in zip(found, CLOSED_FORMS[name], strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minimax", (-np.log(2), np.log(4))),
        ("non_saturating", (np.log(2), np.log(4))),
        ("wasserstein", (0, 0)),
        ("hinge", (0, 2)),
        ("least_squares", (1 / 8, 1 / 4)),
        ("relativistic", (np.log(2), np.log(2))),
    ],
)
def test_the_losses_with_a_discriminator_that_cannot_tell(name, expected):
    assert losses.equilibrium(name) == pytest.approx(expected, abs=1e-6)
    if LOSSES[name].takes_smoothing:
        loss = jax.jit(lambda logits: per_image(name, logits, logits, 0.3).discriminator)
        least = minimize_scalar(lambda logit: float(loss(np.float32([logit]))[0])).fun
        assert losses.equilibrium(name, 0.3)[1] == pytest.approx(least, rel=1e-5)
        assert least < expected[1] - 0.01


@pytest.mark.parametrize("name", LOSSES)
def test_at_the_boundary_the_loss_of_one_logit_for_all_images_is_least(name):
    for smoothing in (0.0, 0.3) if LOSSES[name].takes_smoothing else (0.0,):

        def loss(logit, smoothing=smoothing):
            return per_image(name, logit, logit, smoothing).discriminator

        found = losses.boundary(name, jnp.float32(3.0), jnp.float32(-1.0), smoothing)
        assert abs(jax.jit(jax.grad(loss))(found)) < 1e-6
        # If any logit is as good, the boundary depends on the logits.
        if name in ("wasserstein", "relativistic"):
            assert found == 1


@pytest.mark.parametrize("loss", [losses.non_saturating, losses.minimax])
def test_smoothed_labels_are_soft_targets_of_real_images_alone(loss):
    real, fake = jnp.asarray(LOGITS), jnp.asarray(LOGITS[::-1].copy())
    cross_entropy = optax.sigmoid_binary_cross_entropy
    smooth = loss(real, fake, label_smoothing=0.1)
    expected = cross_entropy(real, jnp.full(7, 0.9)) + cross_entropy(fake, jnp.zeros(7))
    np.testing.assert_allclose(smooth.discriminator, expected, rtol=1e-6)
    np.testing.assert_array_equal(smooth.generator, loss(real, fake).generator)


def test_smoothed_labels_of_least_squares():
    smooth = losses.least_squares(jnp.array([0.9, 1.0]), jnp.zeros(2), label_smoothing=0.1)
    np.testing.assert_allclose(smooth.discriminator, [0, 0.005], atol=1e-8)
    np.testing.assert_allclose(smooth.generator, [0.5, 0.5])


def test_gradients_of_cross_entropies_are_those_of_sigmoids():
    scores = expit(LARGE)

    def slopes(loss):
        """Of both losses, by the logits of generated images."""
        by_fake = jax.jit(jax.vmap(jax.jacrev(loss, 1), (None, 0)))
        return by_fake(jnp.float32(0), LARGE)

    # -log s(fake) for the loss that does not saturate, log(1 - s(fake)) for the one that does.
    np.testing.assert_allclose(slopes(losses.non_saturating), (scores - 1, scores), atol=1e-7)
    np.testing.assert_allclose(slopes(losses.minimax), (-scores, scores), atol=1e-7)
    np.testing.assert_allclose(slopes(losses.relativistic), (scores - 1, scores), atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences(name):
    loss = LOSSES[name].function
    with jax.enable_x64(True):
        # Away from the corners of the hinge, at -1 and 1.
        real, fake = jnp.array([-3.0, -0.5, 0.3, 2.0]), jnp.array([0.7, -2.5, 1.5, -0.2])
        check_grads(loss, (real, fake), order=2, modes=["fwd", "rev"])
        if LOSSES[name].takes_smoothing:
            check_grads(lambda *logits: loss(*logits, 0.2), (real, fake), order=2, modes=["rev"])


def test_the_logit_above_which_an_image_is_taken_for_real():
    means = jnp.float32(3.0), jnp.float32(-1.0)
    found = {name: float(losses.boundary(name, *means)) for name in LOSSES}
    assert found == {
        "minimax": 0.0,
        "non_saturating": 0.0,
        "hinge": 0.0,
        "least_squares": 0.5,
        "wasserstein": 1.0,
        "relativistic": 1.0,
    }
