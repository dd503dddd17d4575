"""The Dirac-GAN, of which all is known: D(x) = psi x, one real point and one generated point.

Figures from Mescheder et al. 2018 (arXiv 1801.04406); those of the unrolled rows by hand.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, Point, Slope
from scipy.special import expit as sigmoid

from jaxgan import GANConfig, create_state, train_step
from jaxgan.adversarial import losses, penalties

H = 0.1
"""The step size, in figures that depend on it."""


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
        generator=state.generator.replace(params={"theta": jnp.asarray(theta, jnp.float32)}),
        discriminator=state.discriminator.replace(params={"psi": jnp.asarray(psi, jnp.float32)}),
    )


def where(state):
    """The parameters, `[..., 2]`."""
    return jnp.stack([state.generator.params["theta"], state.discriminator.params["psi"]], axis=-1)


@functools.partial(jax.jit, static_argnames="batch")
def steps(state, points, batch=1):
    """Where a step takes each of the points `[N, 2]`; the data are at 0."""
    images = jnp.zeros((batch, 1, 1, 1))
    return jax.lax.map(lambda x: where(train_step(at(state, *x), images, RNG)[0]), points)


def moved(state, batch=1):
    """What a step does to points `[N, 2]`, as a function."""
    return lambda points: np.asarray(steps(state, np.float32(points), batch), np.float64)


def jacobian(function, e=1e-2):
    """By central differences, at the equilibrium."""
    up, down = np.split(function(e * np.concatenate([np.eye(2), -np.eye(2)])), 2)
    return ((up - down) / (2 * e)).T


def closed_form(damping):
    """-damping +- sqrt(damping^2 - 1/4), the one with the larger imaginary part first."""
    root = np.sqrt(complex(damping**2 - 1 / 4))
    return np.array([-damping + root, -damping - root])


def field_jacobian(state, batch=1):
    """That of the field v that a step follows: it takes x to x + h v(x)."""
    return (jacobian(moved(state, batch)) - np.eye(2)) / state.config.generator_lr


def eigenvalues(matrix):
    return np.array(sorted(np.linalg.eigvals(matrix), key=lambda z: (-z.imag, -z.real)))


ROWS = [
    ({}, 0),
    ({"loss": "minimax"}, 0),
    ({"loss": "relativistic"}, 0),
    # The damping is half the weight; it is critical at 1.
    ({"r1": 0.3}, 0.15),
    ({"r1": 1.0}, 0.5),
    ({"r1": 1.5}, 0.75),
    ({"r2": 0.3}, 0.15),
    ({"r1": 0.4, "r2": 0.5}, 0.45),
    # A quarter of it, since the two squares of sigmoids are a quarter each; critical at 2.
    ({"roth": 0.6}, 0.15),
    ({"roth": 2.0}, 0.5),
    ({"roth": 2.4}, 0.6),
    # A quarter of steps times step size, which a stopped gradient would halve; critical at 2.
    ({"unroll_steps": 1}, H / 4),
    ({"unroll_steps": 5}, 5 * H / 4),
    ({"unroll_steps": 5, "h": 0.4}, 0.5),
    ({"unroll_steps": 5, "h": 0.6}, 0.75),
]


@pytest.mark.parametrize(("options", "damping"), ROWS, ids=[str(row[0]) for row in ROWS])
def test_eigenvalues_at_the_equilibrium(options, damping):
    found = eigenvalues(field_jacobian(start(**options)))
    # At the critical damping the root magnifies the rounding of float32.
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
    # The two are on either side of the critical variance of 2.
    assert eigenvalues(found).imag.any() == (variance < 2)
    # Real and generated images have different noise: the slope follows half of the difference of
    # their means.
    drift = abs(moved(state, batch=n)(np.zeros((4, 2)))[0, 1]) / H
    assert 0 < drift < 4 * np.sqrt(2 * variance / n) / 2


def test_the_distance_after_one_simultaneous_step():
    points = np.array([(1.0, 1.0), (0.3, -2.0), (-1.5, -0.7), (2.0, 1.5)])
    # f(t) = -log(1 + exp(-t)) in the paper, whose psi is our -psi.
    slopes = sigmoid(points.prod(axis=1))
    after = moved(start(loss="minimax"))(points)
    growth = np.linalg.norm(after, axis=1) / np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(growth, np.sqrt(1 + H**2 * slopes**2), rtol=1e-6)


def test_alternating_steps_neither_grow_nor_shrink_at_the_equilibrium():
    def modulus(updates):
        step = moved(start(loss="minimax", updates=updates))
        return np.abs(np.linalg.eigvals(jacobian(step)))

    np.testing.assert_allclose(modulus("alternating"), 1, atol=1e-6)
    np.testing.assert_allclose(modulus("simultaneous"), np.sqrt(1 + H**2 / 4), atol=1e-6)


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_alternating_and_disc_steps_by_hand(updates):
    state = at(start(updates=updates, disc_steps=3), 0.8, -1.5)
    theta, psi = 0.8, -1.5
    images = np.zeros((1, 1, 1, 1), np.float32)
    for i in range(6):
        state, metrics = train_step(state, images, RNG)
        before = psi
        psi = before - H * sigmoid(before * theta) * theta
        frozen = psi if updates == "alternating" else before
        gradient = -sigmoid(-frozen * theta) * frozen
        if i % 3 == 2:
            theta = theta - H * gradient
        np.testing.assert_allclose(where(state), (theta, psi), rtol=1e-5)
        expected = 3 * abs(gradient) if i % 3 == 2 else 0
        np.testing.assert_allclose(metrics.gen_grad_norm, expected, rtol=1e-5)


def distance_after_2000_alternating_steps(simultaneous, alternating):
    """From (1, 1), where the generator moves first; our psi is the negative of the paper's.

    Our alternating step moves the discriminator first. So it is a move of the generator alone, then
    2,000 steps, of the last of which only the discriminator's half counts.

    Args:
      simultaneous: a step of both, `[2] -> [2]`.
      alternating: the same with the updated discriminator.
    """

    @jax.jit
    def end():
        first = jnp.array([1.0, -1.0])
        begin = jnp.stack([simultaneous(first)[0], first[1]])
        last, before = jax.lax.scan(lambda x, _: (alternating(x), x), begin, length=2000)
        return jnp.hypot(before[-1, 0], last[1])

    return float(end())


def stepper(state):
    def step(x):
        return where(train_step(at(state, *x), jnp.zeros((1, 1, 1, 1)), RNG)[0])

    return step


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"loss": "minimax"}, 1.418), ({}, 0.200), ({"r1": 0.3}, 0.000)],
    ids=["gan", "non-saturating", "r1"],
)
def test_distance_after_2000_alternating_steps(options, expected):
    simultaneous, alternating = (
        stepper(start(updates=updates, **options)) for updates in ("simultaneous", "alternating")
    )
    found = distance_after_2000_alternating_steps(simultaneous, alternating)
    assert found == pytest.approx(expected, abs=5e-4)


def wgan_gp_stepper(updates, target, weight):
    """A step of WGAN-GP by hand, from the loss and the penalty alone."""
    data = jnp.zeros((1, 1, 1, 1))

    def objectives(x):
        theta, psi = x
        fake = jnp.full((1, 1, 1, 1), theta)
        critic = lambda image: psi * image[0, 0, 0]  # noqa: E731
        values = losses.wasserstein(jax.vmap(critic)(data), jax.vmap(critic)(fake))
        penalty = penalties.gradient_penalty(critic, data, fake, RNG, target=target)
        return values.generator.mean(), (values.discriminator + weight * penalty).mean()

    def step(x):
        theta, psi = x
        new_psi = psi - H * jax.grad(lambda psi: objectives((theta, psi))[1])(psi)
        frozen = new_psi if updates == "alternating" else psi
        new_theta = theta - H * jax.grad(lambda theta: objectives((theta, frozen))[0])(theta)
        return jnp.stack([new_theta, new_psi])

    return step


def test_distance_of_wgan_gp_after_2000_alternating_steps():
    # The paper's weight of 1 comes with a factor of 1/2.
    found = distance_after_2000_alternating_steps(
        *(wgan_gp_stepper(updates, 0.3, 0.5) for updates in ("simultaneous", "alternating"))
    )
    assert found == pytest.approx(0.386, abs=5e-4)


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_wgan_gp_by_hand(updates):
    """With the target that a config has, 1."""
    state = start(updates=updates, loss="wasserstein", gradient_penalty=0.5)

    @jax.jit
    def trajectories(x):
        both = (stepper(state), wgan_gp_stepper(updates, 1.0, 0.5))
        return [jax.lax.scan(lambda x, _, s=s: (s(x), x), x, length=200)[1] for s in both]

    found, expected = trajectories(np.float32([1, -1]))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.5
