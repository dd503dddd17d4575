"""The Dirac-GAN, in which all is known: D(x) = psi x, the data and the fakes are one point each.

Figures from Mescheder et al. 2018 (arXiv 1801.04406) and, in the unrolled row, by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gan import RNG, Point, Slope

from jaxgan import GANConfig, create_state, train_step

H = 0.1
"""The step size, where the figures depend on it."""


def start(h=H, **options):
    config = GANConfig(
        image_shape=(1, 1, 1),
        latent_dim=1,
        generator=Point(0.0),
        discriminator=Slope(0.0),
        optimizer="sgd",
        generator_lr=h,
        discriminator_lr=h,
        **options,
    )
    return create_state(RNG, config)


def at(state, theta, psi):
    """The state at other parameters."""
    return state.replace(
        generator=state.generator.replace(params={"theta": jnp.float32(theta)}),
        discriminator=state.discriminator.replace(params={"psi": jnp.float32(psi)}),
    )


def where(state):
    params = state.generator.params["theta"], state.discriminator.params["psi"]
    return np.array(params, np.float64)


def moved(state, batch=1):
    """What a step does to (theta, psi), as a function; the data are at 0."""
    images = jnp.zeros((batch, 1, 1, 1))
    return lambda theta, psi: where(train_step(at(state, theta, psi), images, RNG)[0])


def jacobian(function, e=1e-2):
    """By central differences, at the equilibrium."""
    columns = [(function(*x) - function(*-x)) / (2 * e) for x in e * np.eye(2)]
    return np.stack(columns, axis=1)


def closed_form(damping):
    """-damping +- sqrt(damping^2 - 1/4), the one with the larger imaginary part first."""
    root = np.sqrt(complex(damping**2 - 1 / 4))
    return np.array([-damping + root, -damping - root])


def field_jacobian(state, batch=1):
    """Of the field that a step follows: it takes x to x + h v(x)."""
    return (jacobian(moved(state, batch)) - np.eye(2)) / state.config.generator_lr


def eigenvalues(matrix):
    return np.array(sorted(np.linalg.eigvals(matrix), key=lambda z: (-z.imag, -z.real)))


ROWS = [
    ({}, 0),
    ({"loss": "minimax"}, 0),
    ({"loss": "relativistic"}, 0),
    # Damping of half the weight; critical at 1.
    ({"r1": 0.3}, 0.15),
    ({"r1": 1.0}, 0.5),
    ({"r1": 1.5}, 0.75),
    ({"r2": 0.3}, 0.15),
    ({"r1": 0.4, "r2": 0.5}, 0.45),
    # Of a quarter, since the two squares of sigmoids are a quarter each; critical at 2.
    ({"roth": 0.6}, 0.15),
    ({"roth": 2.0}, 0.5),
    ({"roth": 2.4}, 0.6),
    # Of a quarter of steps times step size, which a stopped gradient would halve; critical at 2.
    ({"unroll_steps": 1}, H / 4),
    ({"unroll_steps": 5}, 5 * H / 4),
    ({"unroll_steps": 5, "h": 0.4}, 0.5),
    ({"unroll_steps": 5, "h": 0.6}, 0.75),
]


@pytest.mark.parametrize(("options", "damping"), ROWS, ids=[str(row[0]) for row in ROWS])
def test_eigenvalues_at_the_equilibrium(options, damping):
    found = eigenvalues(field_jacobian(start(**options)))
    # At the critical damping the root magnifies what float32 rounds off.
    atol = 5e-3 if damping == 0.5 else 5e-5
    np.testing.assert_allclose(found, closed_form(damping), atol=atol)


@pytest.mark.parametrize("variance", [1.6, 2.4])
def test_instance_noise_damps_by_a_quarter_of_its_variance(variance):
    n, state = 200_000, start(instance_noise=variance**0.5)
    found = field_jacobian(state, batch=n)
    # The damping is (the mean square of the real noise + that of the fake noise) / 8, and the mean
    # square of n normal numbers has a variance of 2 / n. Four standard errors.
    error = 4 * variance * np.sqrt(2 * 2 / n) / 8
    assert abs(-np.trace(found) / 2 - variance / 4) < error
    np.testing.assert_allclose(np.linalg.det(found), 1 / 4, atol=1e-4)
    # The two lie on either side of the critical variance of 2.
    assert eigenvalues(found).imag.any() == (variance < 2)
    # Real and generated images have noise of their own: the slope follows half of what their means
    # differ by.
    drift = abs(moved(state, batch=n)(0.0, 0.0)[1]) / H
    assert 0 < drift < 4 * np.sqrt(2 * variance / n) / 2


def test_what_one_simultaneous_step_does_to_the_distance():
    step = moved(start(loss="minimax"))
    for theta, psi in [(1.0, 1.0), (0.3, -2.0), (-1.5, -0.7), (2.0, 1.5)]:
        # f(t) = -log(1 + exp(-t)) in the paper, whose psi is our -psi.
        slope = 1 / (1 + np.exp(-theta * psi))
        growth = np.linalg.norm(step(theta, psi)) / np.hypot(theta, psi)
        np.testing.assert_allclose(growth, np.sqrt(1 + H**2 * slope**2), rtol=1e-6)


def test_alternating_steps_neither_grow_nor_shrink_at_the_equilibrium():
    def modulus(updates):
        step = moved(start(loss="minimax", updates=updates))
        return np.abs(np.linalg.eigvals(jacobian(step)))

    np.testing.assert_allclose(modulus("alternating"), 1, atol=1e-6)
    np.testing.assert_allclose(modulus("simultaneous"), np.sqrt(1 + H**2 / 4), atol=1e-6)


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_alternating_and_disc_steps_by_hand(updates):
    state = at(start(updates=updates, disc_steps=3), 0.8, -1.5)
    theta, psi = 0.8, -1.5
    images = np.zeros((1, 1, 1, 1), np.float32)
    for i in range(6):
        state, metrics = train_step(state, images, RNG)
        before = psi
        psi = before - H * sigmoid(before * theta) * theta
        judge = psi if updates == "alternating" else before
        gradient = -sigmoid(-judge * theta) * judge
        if i % 3 == 2:
            theta = theta - H * gradient
        np.testing.assert_allclose(where(state), (theta, psi), rtol=1e-5)
        expected = 3 * abs(gradient) if i % 3 == 2 else 0
        np.testing.assert_allclose(metrics.gen_grad_norm, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss": "minimax"}, 1.418),
        ({}, 0.200),
        # The paper's weight of 1 comes with a factor of 1/2.
        ({"loss": "wasserstein", "gradient_penalty": 0.5, "gradient_penalty_target": 0.3}, 0.386),
        ({"r1": 0.3}, 0.000),
    ],
    ids=["gan", "non-saturating", "wgan-gp", "r1"],
)
def test_distance_after_2000_alternating_steps(options, expected):
    """From (1, 1), where the generator moves first; our psi is the negative of the paper's.

    Our alternating step moves the discriminator first. So it is a move of the generator alone, then
    2,000 steps, of the last of which only the discriminator's half counts.
    """
    images = jnp.zeros((1, 1, 1, 1))
    first = train_step(at(start(**options), 1.0, -1.0), images, RNG)[0]
    begun = at(start(updates="alternating", **options), where(first)[0], -1.0)
    ended, last = jax.lax.scan(
        lambda state, _: (train_step(state, images, RNG)[0], state), begun, length=2000
    )
    theta, psi = last.generator.params["theta"][-1], ended.discriminator.params["psi"]
    assert np.hypot(theta, psi) == pytest.approx(expected, abs=5e-4)
