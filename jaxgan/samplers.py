"""Noise schedules and samplers of diffusion models, as tables of numbers.

A noisy image is x_t = a_t x + s_t e, with a clean image x and standard normal noise e. The signal
a_t falls from 1 at t = 0 to almost 0 at t = T, and a_t^2 + s_t^2 = 1.

A sampler starts from noise and goes from one noise level to the next lower one. In each step a
denoiser estimates the clean image. All samplers are one loop, `run`, with other weights:

    x <- x_weight x + clean_weight estimate + last_weight last_estimate + noise_weight fresh_noise
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan.errors import JaxganError

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
"""`(noisy images [B, H, W, C], t) -> estimates of the clean images [B, H, W, C]`; t is an int32
scalar in [1, T]."""

SCHEDULES = ("linear", "cosine")


def signal_shares(schedule: str, steps: int) -> np.ndarray:
    """a_t^2 for t = 0 to T, float64 `[T + 1]`; often called alpha bar.

    Args:
      schedule: `linear`: the variances of the steps grow from 1e-4 to 0.02 (arXiv 2006.11239). For
        T other than 1,000 they are scaled, so that the last share stays about the same. `cosine`:
        arXiv 2102.09672, equation 17.
      steps: T.
    """
    if schedule == "linear":
        variances = np.linspace(1e-4, 0.02, steps) * (1000 / steps)
    else:
        f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        variances = 1 - f[1:] / f[:-1]
    return np.concatenate([[1.0], np.cumprod(1 - np.minimum(variances, 0.999))])


class Step(NamedTuple):
    """The noise level and the weights of each step, `[steps]` each."""

    t: Any
    """The noise level before the step, int32."""
    x_weight: Any
    clean_weight: Any
    last_weight: Any
    noise_weight: Any


def make_steps(sampler: str, shares: np.ndarray, steps: int, eta: float = 0.0) -> Step:
    """The noise levels and weights of a sampler.

    Args:
      sampler: `ddim` (arXiv 2010.02502); `ancestral` (arXiv 2006.11239): DDIM with an eta of 1,
        which is the smaller variance of that paper; `dpm_solver`, DPM-Solver++(2M) (arXiv
        2211.01095), which is deterministic.
      shares: from `signal_shares`, `[T + 1]`.
      steps: from 1 to T. The noise levels are evenly spaced in t.
      eta: of DDIM, in [0, 1]. With 0 a sample is a function of the noise at the start.

    Raises:
      JaxganError: if there are more steps than noise levels.
    """
    if not 1 <= steps < len(shares):
        raise JaxganError(f"a sampler takes from 1 to {len(shares) - 1} steps, got {steps}")
    levels = np.round(np.linspace(len(shares) - 1, 0, steps + 1)).astype(np.int32)
    signal, noise = np.sqrt(shares[levels]), np.sqrt(1 - shares[levels])
    numbers = _dpm_solver(signal, noise)
    if sampler != "dpm_solver":
        numbers = _ddim(signal, noise, 1.0 if sampler == "ancestral" else eta)
    return Step(levels[:-1], *numbers)


def _ddim(signal: np.ndarray, noise: np.ndarray, eta: float) -> tuple[np.ndarray, ...]:
    """Equation 12 of the paper, with its sigma (equation 16)."""
    a, s, next_a, next_s = signal[:-1], noise[:-1], signal[1:], noise[1:]
    sigma = eta * next_s / s * np.sqrt(1 - np.square(a / next_a))
    rest = np.sqrt(np.maximum(np.square(next_s) - np.square(sigma), 0))
    # The estimate of the noise is (x - a estimate) / s.
    return rest / s, next_a - rest * a / s, np.zeros_like(a), sigma


def _dpm_solver(signal: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, ...]:
    """Algorithm 2 of the paper. The first and the last step are of first order."""
    a, s, next_a, next_s = signal[:-1], noise[:-1], signal[1:], noise[1:]
    with np.errstate(divide="ignore"):
        log_ratio = np.log(signal) - np.log(noise)  # infinite at the clean image
    widths = np.diff(log_ratio)
    clean = next_a - next_s * a / s  # -next_a (exp(-width) - 1)
    more = np.zeros_like(a)
    more[1:-1] = widths[1:-1] / (2 * widths[:-2])
    return next_s / s, (1 + more) * clean, -more * clean, np.zeros_like(a)


def run(denoise: Denoise, noise: jax.Array, rng: jax.Array, steps: Step) -> jax.Array:
    """Draws samples from noise, by a scan.

    Args:
      denoise: the estimate of the clean images.
      noise: standard normal, `[B, H, W, C]`.
      rng: a key, for samplers that add noise.
      steps: from `make_steps`.

    Returns:
      Images `[B, H, W, C]`.
    """
    return _scan(denoise, noise, rng, steps, lambda x, clean: None)[0]


def trace(
    denoise: Denoise, noise: jax.Array, rng: jax.Array, steps: Step
) -> tuple[jax.Array, jax.Array]:
    """Draws samples like `run`, and returns what each step has made: `[steps, B, H, W, C]` twice.

    The first are the images after the step, the second its estimates of the clean images.
    """
    return _scan(denoise, noise, rng, steps, lambda x, clean: (x, clean))[1]


def _scan(
    denoise: Denoise, noise: jax.Array, rng: jax.Array, steps: Step, keep: Callable[..., Any]
) -> tuple[jax.Array, Any]:
    """The images at the end, and `keep(images, estimates)` of each step, stacked."""
    table = Step(jnp.asarray(steps.t), *(jnp.asarray(x, jnp.float32) for x in steps[1:]))

    def step(carry, numbers_and_rng):
        x, last = carry
        numbers, step_rng = numbers_and_rng
        clean = denoise(x, numbers.t)
        x = numbers.x_weight * x + numbers.clean_weight * clean + numbers.last_weight * last
        if steps.noise_weight.any():
            x += numbers.noise_weight * jax.random.normal(step_rng, x.shape)
        return (x, clean), keep(x, clean)

    rngs = jax.random.split(rng, len(steps.t))
    (images, _), kept = jax.lax.scan(step, (noise, jnp.zeros_like(noise)), (table, rngs))
    return images, kept
