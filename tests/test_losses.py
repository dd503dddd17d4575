import typing

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.optimize import minimize_scalar
from scipy.special import expit

from jaxgan import GANConfig, losses

LOGITS = np.array([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0], np.float32)
ALL = list(losses.LOSSES.values())
LABELLED = [losses.minimax, losses.non_saturating, losses.least_squares]

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
    # Where the margin of 1 is kept nothing is lost: log 3 > 1, and log(1 / 4) < -1.
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


def test_each_loss_has_its_closed_form():
    assert CLOSED_FORMS.keys() == losses.LOSSES.keys()


def test_each_loss_can_be_chosen():
    assert set(typing.get_args(typing.get_type_hints(GANConfig)["loss"])) == losses.LOSSES.keys()


@pytest.mark.parametrize("loss", ALL)
def test_values_at_chosen_logits(loss):
    generator, discriminator = loss(jnp.asarray(REAL), jnp.asarray(FAKE))
    expected = CLOSED_FORMS[loss.__name__]
    np.testing.assert_allclose(generator, expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(discriminator, expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("minimax", np.log(4)),
        ("non_saturating", np.log(4)),
        ("wasserstein", 0),
        ("hinge", 2),
        ("least_squares", 1 / 4),
        ("relativistic", np.log(2)),
    ],
)
def test_what_the_discriminator_loses_where_it_cannot_tell(loss, expected):
    assert losses.equilibrium(loss) == pytest.approx(expected, abs=1e-6)
    if losses.LOSSES[loss] in LABELLED:

        def lost(logit):
            logits = jnp.full(1, logit)
            return float(losses.LOSSES[loss](logits, logits, 0.3).discriminator[0])

        least = minimize_scalar(lost).fun
        assert losses.equilibrium(loss, 0.3) == pytest.approx(least, rel=1e-5)
        assert least < expected - 0.01


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_at_the_boundary_a_discriminator_loses_least_by_one_logit_for_all(loss):
    for smoothing in (0.0, 0.3) if losses.LOSSES[loss] in LABELLED else (0.0,):
        options = {"label_smoothing": smoothing} if smoothing else {}

        def lost(logit, options=options):
            return losses.LOSSES[loss](logit, logit, **options).discriminator.mean()

        found = losses.boundary(loss, jnp.float32(3.0), jnp.float32(-1.0), smoothing)
        assert abs(jax.grad(lost)(found)) < 1e-6
        # Where any level does as well, that of the logits.
        if loss in ("wasserstein", "relativistic"):
            assert found == 1


def test_non_saturating_is_keras_binary_crossentropy():
    def bce(target, logits):
        targets = np.full_like(logits, target)
        # A last axis of 1, since Keras takes the mean over the last axis.
        loss = keras.losses.binary_crossentropy(targets[:, None], logits[:, None], from_logits=True)
        return np.asarray(loss)

    real, fake = LOGITS, LOGITS[::-1].copy()
    generator, discriminator = losses.non_saturating(jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(generator, bce(1, fake), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(discriminator, bce(1, real) + bce(0, fake), rtol=1e-6, atol=1e-7)


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


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_values_and_gradients_are_finite_at_any_logit(loss, logit):
    for fake in (logit, -logit):
        primals = jnp.float32(logit), jnp.float32(fake)
        assert np.isfinite(loss(*primals)).all()
        assert np.isfinite(jax.tree.leaves(jax.jacrev(loss, (0, 1))(*primals))).all()


@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_gradients_of_cross_entropies_are_those_of_sigmoids(logit):
    score, zero = expit(logit), jnp.float32(0)

    def slopes(loss):
        """Of both losses, by the fake logit."""
        return jax.jacrev(loss, 1)(zero, jnp.float32(logit))

    # -log s(fake) for the one that does not saturate, log(1 - s(fake)) for the one that does.
    np.testing.assert_allclose(slopes(losses.non_saturating), (score - 1, score), atol=1e-7)
    np.testing.assert_allclose(slopes(losses.minimax), (-score, score), atol=1e-7)
    np.testing.assert_allclose(slopes(losses.relativistic), (score - 1, score), atol=1e-7)


@pytest.mark.parametrize("loss", ALL)
def test_gradients_by_finite_differences(loss):
    with jax.enable_x64(True):
        # Away from the corners of the hinge, at -1 and 1.
        real, fake = jnp.array([-3.0, -0.5, 0.3, 2.0]), jnp.array([0.7, -2.5, 1.5, -0.2])
        check_grads(loss, (real, fake), order=2, modes=["fwd", "rev"])
        if loss in LABELLED:
            check_grads(lambda *logits: loss(*logits, 0.2), (real, fake), order=2, modes=["rev"])


def test_from_where_on_an_image_is_taken_for_real():
    means = jnp.float32(3.0), jnp.float32(-1.0)
    found = {name: float(losses.boundary(name, *means)) for name in losses.LOSSES}
    assert found == {
        "minimax": 0.0,
        "non_saturating": 0.0,
        "hinge": 0.0,
        "least_squares": 0.5,
        "wasserstein": 1.0,
        "relativistic": 1.0,
    }
