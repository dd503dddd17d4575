import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, Point, Slope
from scipy.special import expit

from jaxgan import GANConfig, create_state, train_step
from jaxgan.adversarial import measures


def test_distance_is_the_mean_over_pairs_of_neighbours():
    images = np.float32([0, 3, -1, 4, 100]).reshape(5, 1, 1, 1) * np.ones((5, 2, 2, 1), np.float32)
    # Four pixels differ by 3, or by 5; the fifth image has no partner.
    np.testing.assert_allclose(measures.distance(images), (2 * 3 + 2 * 5) / 2)
    assert measures.distance(images[:1]) == 0


def test_diversity_is_a_ratio_and_1_if_all_real_images_are_equal():
    np.testing.assert_allclose(measures.diversity(jnp.float32(4.0), jnp.float32(1.0)), 0.25)
    for fake in (0.0, 2.0):
        assert measures.diversity(jnp.float32(0.0), jnp.float32(fake)) == 1


def test_share():
    assert measures.share(jnp.array([True, False, True, True])) == 0.75


@pytest.mark.parametrize("loss", ["non_saturating", "wasserstein"])
def test_the_metrics_of_a_step_in_closed_form(loss):
    """Of D(x) = psi x and a generated point theta, with a penalty of psi^2 / 2."""
    theta, psi, x = 0.4, -1.5, np.array([0.5, -0.25, -1.0, 0.25])
    modules = {"generator": Point(theta), "discriminator": Slope(psi)}
    config = GANConfig((1, 1, 1), 1, loss=loss, r1=1.0, **modules)
    _, metrics = train_step(create_state(RNG, config), x.reshape(4, 1, 1, 1).astype("f4"), RNG)
    if loss == "wasserstein":
        losses = -psi * theta, psi * (theta - x.mean())
        slopes = psi, theta - x.mean() + psi
        boundary = psi * (x.mean() + theta) / 2
    else:
        losses = -np.log(expit(psi * theta)), -np.log(expit(psi * x) * expit(-psi * theta)).mean()
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
        "diversity": 0.0,
        "logit_spread": np.sqrt(
            (((psi * x - middle) ** 2).mean() + (psi * theta - middle) ** 2) / 2
        ),
        "gen_grad_norm": abs(slopes[0]),
        "disc_grad_norm": abs(slopes[1]),
        "gen_param_norm": abs(theta),
        "disc_param_norm": abs(psi),
        "gen_loss_square": losses[0] ** 2,
        "disc_loss_square": losses[1] ** 2,
    }
    assert expected.keys() == metrics._asdict().keys()
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(metrics, name), value, rtol=1e-5, err_msg=name)


def test_if_half_of_the_generated_images_are_equal_the_diversity_is_half():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(4000, 3, 3, 1)).astype(np.float32)
    alike = np.concatenate([real[:2000], np.repeat(real[:1], 2000, axis=0)])
    found = measures.diversity(measures.distance(real), measures.distance(alike))
    np.testing.assert_allclose(found, 0.5, atol=0.02)
