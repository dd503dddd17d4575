import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, Point, Slope
from scipy.special import expit

from jaxgan import GANConfig, create_state, train_step
from jaxgan.adversarial import measures


@pytest.mark.parametrize("n", [1, 2, 8])
def test_a_square_has_no_bias(n):
    """Over many batches of n losses its mean is the square of the expected loss."""
    losses = np.random.default_rng(0).exponential(2.0, (200_000, n))
    mean, mean_square = losses.mean(axis=1), np.square(losses).mean(axis=1)
    squares = measures.square(jnp.asarray(mean), jnp.asarray(mean_square), n)
    # One loss does not tell its variance, here 4.
    np.testing.assert_allclose(squares.mean(), 4 + 4 * (n == 1), rtol=0.02)


@pytest.mark.parametrize("loss", ["non_saturating", "wasserstein"])
def test_the_metrics_of_a_step_in_closed_form(loss):
    """Of D(x) = psi x and a generated point theta, with a penalty of psi^2 / 2."""
    theta, psi, x = 0.4, -1.5, np.array([0.5, -0.25, -1.0, 0.25])
    modules = {"generator": Point(theta), "discriminator": Slope(psi)}
    config = GANConfig((1, 1, 1), 1, loss=loss, r1=1.0, **modules)
    _, metrics = train_step(create_state(RNG, config), x.reshape(4, 1, 1, 1).astype("f4"), RNG)
    if loss == "wasserstein":
        each = psi * (theta - x)
        losses = -psi * theta, each.mean()
        slopes = psi, theta - x.mean() + psi
        boundary = psi * (x.mean() + theta) / 2
    else:
        each = -np.log(expit(psi * x) * expit(-psi * theta))
        losses = -np.log(expit(psi * theta)), each.mean()
        slopes = (
            -expit(-psi * theta) * psi,
            (-expit(-psi * x) * x).mean() + expit(psi * theta) * theta + psi,
        )
        boundary = 0
    middle = psi * (x.mean() + theta) / 2
    expected = {
        "gen_loss": losses[0],
        "disc_loss": losses[1],
        "real_score": expit(psi * x).mean(),
        "fake_score": expit(psi * theta),
        "penalty": psi**2 / 2,
        "real_accuracy": (psi * x > boundary).mean(),
        "fake_accuracy": float(psi * theta < boundary),
        "logit_spread": np.sqrt(
            (((psi * x - middle) ** 2).mean() + (psi * theta - middle) ** 2) / 2
        ),
        "gen_grad_norm": abs(slopes[0]),
        "disc_grad_norm": abs(slopes[1]),
        "gen_loss_square": losses[0] ** 2,
        "disc_loss_square": losses[1] ** 2 - each.var(ddof=1) / 4,
    }
    assert expected.keys() == metrics._asdict().keys()
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(metrics, name), value, rtol=1e-5, err_msg=name)
