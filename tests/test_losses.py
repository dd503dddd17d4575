import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from jaxgan import losses

LOGITS = np.array([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0], np.float32)


def test_non_saturating_at_chosen_logits():
    real, fake = np.array([0.0, np.log(3.0)]), np.array([0.0, -np.log(4.0)])
    generator, discriminator = losses.non_saturating(jnp.asarray(real), jnp.asarray(fake))
    # Scores are 1/2 and 3/4 on real, 1/2 and 1/5 on fake.
    np.testing.assert_allclose(generator, [np.log(2), np.log(5)], rtol=1e-6)
    np.testing.assert_allclose(
        discriminator, [2 * np.log(2), np.log(4 / 3) + np.log(5 / 4)], rtol=1e-6
    )


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


@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_value_and_gradient_are_finite_at_any_logit(logit):
    def total(real, fake):
        return sum(losses.non_saturating(real, fake))

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(logit, -logit)
    assert np.isfinite(value)
    sigmoid = expit(logit)
    # d/d real: -s(-real). d/d fake: s(fake) - s(-fake).
    np.testing.assert_allclose(gradients[0], sigmoid - 1, atol=1e-6)
    np.testing.assert_allclose(gradients[1], (1 - sigmoid) - sigmoid, atol=1e-6)


def test_gradients_of_both_players_by_finite_differences():
    check_grads(losses.non_saturating, (jnp.asarray(LOGITS[1:-1]), jnp.asarray(LOGITS[1:-1])), 2)
