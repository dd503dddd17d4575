"""Noise schedules and samplers against their papers, and on data whose best denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgan import JaxganError, samplers

RNG = jax.random.key(0)
MEAN, VARIANCE = 0.3, 0.25


def signal_and_noise(shares):
    return np.sqrt(shares), np.sqrt(1 - shares)


def test_the_constants_of_the_linear_schedule():
    shares = samplers.signal_shares("linear", 1000)
    assert shares.shape == (1001,)
    assert shares[0] == 1
    assert shares[1] == pytest.approx(1 - 1e-4, abs=1e-12)
    assert shares[1000] / shares[999] == pytest.approx(1 - 0.02, abs=1e-12)
    assert shares[1000] == pytest.approx(4.04e-5, rel=2e-3)
    # With other numbers of levels the same noise at the end, about.
    for steps in (500, 4000):
        assert samplers.signal_shares("linear", steps)[-1] == pytest.approx(4.04e-5, rel=0.25)


def test_the_cosine_schedule_is_a_squared_cosine():
    shares = samplers.signal_shares("cosine", 1000)
    t = np.arange(1001) / 1000
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(shares[:-1], expected[:-1], rtol=1e-9)
    # The last variance is 0.999 and not 1.
    assert shares[-1] == pytest.approx(0.001 * shares[-2])


@pytest.mark.parametrize("schedule", samplers.SCHEDULES)
def test_ancestral_sampling_is_that_of_the_paper(schedule):
    """The posterior of arXiv 2006.11239, equations 6 and 7, with the variance of equation 7."""
    shares = samplers.signal_shares(schedule, 200)
    steps = samplers.make_steps("ancestral", shares, 200)
    np.testing.assert_array_equal(steps.t, np.arange(200, 0, -1))
    now, before = shares[steps.t], shares[steps.t - 1]
    beta = 1 - now / before
    np.testing.assert_allclose(steps.clean_weight, np.sqrt(before) * beta / (1 - now), rtol=1e-7)
    x_weight = np.sqrt(1 - beta) * (1 - before) / (1 - now)
    np.testing.assert_allclose(steps.x_weight, x_weight, rtol=1e-7, atol=1e-12)
    deviations = np.sqrt(beta * (1 - before) / (1 - now))
    np.testing.assert_allclose(steps.noise_weight, deviations, rtol=1e-7, atol=1e-12)
    ddim = samplers.make_steps("ddim", shares, 200, eta=1.0)
    np.testing.assert_array_equal(np.array(steps), np.array(ddim))
    assert not samplers.make_steps("ddim", shares, 200).noise_weight.any()


def test_dpm_solver_of_first_order_is_ddim():
    """arXiv 2211.01095, section 4.1. With two steps both are of first order."""
    shares = samplers.signal_shares("cosine", 100)
    found = (samplers.make_steps(name, shares, 2) for name in ("dpm_solver", "ddim"))
    np.testing.assert_allclose(*map(np.array, found), rtol=1e-7, atol=1e-12)


def test_a_sampler_has_no_more_steps_than_there_are_levels():
    shares = samplers.signal_shares("cosine", 100)
    with pytest.raises(JaxganError, match="takes from 1 to 100 steps, got 101"):
        samplers.make_steps("ddim", shares, 101)


def sample_gaussian(sampler, steps, latents, eta=0.0, schedule="cosine"):
    """Samples for data N(MEAN, VARIANCE): the best estimate of the clean image is linear."""
    shares = samplers.signal_shares(schedule, 1000)

    def denoise(x, t):
        share = jnp.asarray(shares, jnp.float32)[t]
        signal = jnp.sqrt(share)
        gain = signal * VARIANCE / (share * VARIANCE + 1 - share)
        return MEAN + gain * (x - signal * MEAN)

    steps = samplers.make_steps(sampler, shares, steps, eta)
    return np.asarray(samplers.run(denoise, latents, RNG, steps), np.float64)


LATENTS = jax.random.normal(RNG, (20_000, 1, 1, 1))


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 1000), ("dpm_solver", 50)])
@pytest.mark.parametrize("schedule", samplers.SCHEDULES)
def test_deterministic_samplers_map_each_latent_as_the_exact_flow_does(sampler, steps, schedule):
    """For a Gaussian the probability flow is linear: it maps quantiles to quantiles."""
    latents = LATENTS[:50]
    found = sample_gaussian(sampler, steps, latents, schedule=schedule)
    expected = MEAN + np.sqrt(VARIANCE) * np.asarray(latents)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize(("sampler", "eta"), [("ancestral", 0.0), ("ddim", 0.5)])
def test_samplers_with_noise_give_the_mean_and_the_variance(sampler, eta):
    found = sample_gaussian(sampler, 250, LATENTS, eta)
    n = len(found)
    assert found.mean() == pytest.approx(MEAN, abs=5 * np.sqrt(VARIANCE / n))
    assert found.var() == pytest.approx(VARIANCE, abs=5 * VARIANCE * np.sqrt(2 / n) + 0.005)
    # They are no functions of the latents: two equal ones end apart.
    pair = sample_gaussian(sampler, 50, jnp.zeros((2, 1, 1, 1)), max(eta, 0.5))
    assert abs(pair[0] - pair[1]).item() > 1e-3


def test_dpm_solver_errs_less_than_ddim_in_as_many_steps():
    latents = LATENTS[:50]
    exact = MEAN + np.sqrt(VARIANCE) * np.asarray(latents)
    errors = [
        np.abs(sample_gaussian(name, 20, latents) - exact).mean() for name in ("dpm_solver", "ddim")
    ]
    assert errors[0] < errors[1] / 3
