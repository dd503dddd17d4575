"""Inpainting: fills in the unknown pixels of images with a trained model.

A model that removes noise takes RePaint (arXiv 2201.09865). For any other model, latents are
searched whose images agree with the known pixels (arXiv 1607.07539).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgan import samplers
from jaxgan.data.pixels import to_float
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.labels import choose_labels, num_classes
from jaxgan.model import Model

STEPS, RESAMPLINGS = 100, 5
"""Of RePaint: noise levels, and how often it goes through each."""
SEARCH_STEPS, STARTS, SEARCH_RATE = 300, 8, 0.05
"""Of the search: steps of Adam, random starts for each draw, and the learning rate at the start. It
falls to 0 by a cosine."""
DEVIATION = 0.2
"""Of the search: the standard deviation that the known pixels are assumed to have around an image
of the model, for pixels in [-1, 1]."""
_CHUNK = 500
"""Images filled in at a time, so that any number of images fits into the memory."""


def inpaint(
    model: Model,
    state: Any,
    images: np.ndarray,
    known: np.ndarray,
    rng: jax.Array,
    draws: int = 1,
    labels: Any = None,
) -> np.ndarray:
    """Fills in the unknown pixels of images, several times, with a progress bar.

    Args:
      model: of the state, such as `jaxgan.MODELS["diffusion"]`.
      state: a trained state.
      images: `[N, H, W, C]`, uint8 or float in [-1, 1]. Unknown pixels may have any values.
      known: which pixels are known: bool, `[H, W]` for all images or `[N, H, W]`.
      rng: a key.
      draws: how many times each image is filled in, each time from other random numbers.
      labels: of a conditional model: the classes of the images, int `[N]`, or one for all. Without
        them RePaint ignores the classes, and the search tries each class.

    Returns:
      `[draws, N, H, W, C]`, float32 in [-1, 1]. Known pixels are those of the images.

    Raises:
      JaxganError: if a shape does not fit, if a known pixel is not finite, if no pixel is unknown,
        or if the model can do neither RePaint nor the search.
      NonFiniteError: if the model has diverged.
    """
    from tqdm import tqdm

    images, known = _check(state, images, known)
    n = len(images)
    chosen = None if labels is None else choose_labels(num_classes(state.config), n, labels)
    fill = _filler(model, state)
    # All parts have the same size, so that one program serves them.
    size = min(n, _CHUNK)
    found = np.empty((draws, n, *images.shape[1:]), np.float32)
    parts = [(draw, at) for draw in range(draws) for at in range(0, n, size)]
    for draw, at in tqdm(parts, "inpainting", disable=None, leave=False):
        part = np.minimum(np.arange(at, at + size), n - 1)
        part_rng = jax.random.fold_in(jax.random.fold_in(rng, draw), at)
        wanted = None if chosen is None else chosen[part]
        filled = np.asarray(fill(images[part], known[part], part_rng, wanted))
        found[draw, at : at + size] = filled[: n - at]
    if not np.isfinite(found).all():
        raise NonFiniteError("the filled pixels are not finite: the model has diverged")
    return np.where(known, images, found)


def _check(state: Any, images: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images, float32 with 0 for unknown pixels, and the mask as bool `[N, H, W, 1]`."""
    shape = state.config.image_shape
    images, known = np.asarray(images), np.asarray(known)
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise JaxganError(
            f"images for this model must be [N, {', '.join(map(str, shape))}], got "
            f"{list(images.shape)}"
        )
    masks = (shape[:2], (len(images), *shape[:2]))
    if known.dtype != bool or known.shape not in masks:
        raise JaxganError(
            f"the mask of known pixels must be bool of {list(masks[0])} or {list(masks[1])}, got "
            f"{known.dtype} of {list(known.shape)}"
        )
    if known.all():
        raise JaxganError("all pixels are known, so there is nothing to fill in")
    known = np.broadcast_to(known, masks[1])[..., None]
    images = np.where(known, np.asarray(to_float(jnp.asarray(images)), np.float32), 0)
    if not np.isfinite(images).all():
        raise JaxganError("a known pixel is not finite")
    return images, known


def _filler(model: Model, state: Any) -> Callable[..., jax.Array]:
    """The method for a model: `(images, known, rng, labels) -> images`."""
    if model.make_denoise is not None:
        return functools.partial(_repaint, model.make_denoise, state)
    if model.generate is not None:
        shape = model.latent_shape(state.config)
        return functools.partial(_search, model.generate, shape, state)
    raise JaxganError(f"the model {model.name} cannot fill in pixels")


@functools.partial(jax.jit, static_argnums=0)
def _repaint(
    make_denoise: Callable[..., Any],
    state: Any,
    images: jax.Array,
    known: jax.Array,
    rng: jax.Array,
    labels: jax.Array | None,
) -> jax.Array:
    """RePaint with a trained denoiser."""
    start_rng, denoiser_rng, rng = jax.random.split(rng, 3)
    denoise, shares = make_denoise(state, denoiser_rng, labels)
    noise = jax.random.normal(start_rng, images.shape)
    return repaint(denoise, noise, images, known, rng, shares, min(STEPS, len(shares) - 1))


def repaint(
    denoise: samplers.Denoise,
    noise: jax.Array,
    images: jax.Array,
    known: jax.Array,
    rng: jax.Array,
    shares: np.ndarray,
    steps: int,
    resamplings: int = RESAMPLINGS,
) -> jax.Array:
    """Ancestral sampling in which the known pixels are given (arXiv 2201.09865, algorithm 1).

    After each step to a lower noise level, the known pixels are replaced by those of the images
    with noise of that level. Then noise is added up to the level before, and the step is taken
    again, `resamplings` times in all. So the two parts of an image come to fit each other.

    Args:
      denoise: the estimate of the clean images.
      noise: standard normal, `[B, H, W, C]`.
      images: `[B, H, W, C]`.
      known: bool `[B, H, W, 1]`.
      rng: a key.
      shares: from `samplers.signal_shares`, `[T + 1]`.
      steps: noise levels, from 1 to T.
      resamplings: 1 or more.

    Returns:
      Images `[B, H, W, C]`. The known pixels are those of `images`.
    """
    table = samplers.make_steps("ancestral", shares, steps)
    lower = shares[np.append(table.t[1:], 0)]
    levels = {
        "x_weight": table.x_weight,
        "clean_weight": table.clean_weight,
        "noise_weight": table.noise_weight,
        "signal": np.sqrt(lower),
        "noise": np.sqrt(1 - lower),
        "back": np.sqrt(shares[table.t] / lower),
        "back_noise": np.sqrt(1 - shares[table.t] / lower),
    }
    levels = {name: jnp.asarray(value, jnp.float32) for name, value in levels.items()}

    def go_down(x: jax.Array, level: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        def again(pair: tuple[jax.Array, jax.Array], rng: jax.Array) -> tuple[Any, None]:
            x, _ = pair
            fresh, known_noise, back_noise = jax.random.normal(rng, (3, *x.shape))
            clean = denoise(x, level["t"])
            x = level["x_weight"] * x + level["clean_weight"] * clean
            x += level["noise_weight"] * fresh
            given = level["signal"] * images + level["noise"] * known_noise
            x = jnp.where(known, given, x)
            return (level["back"] * x + level["back_noise"] * back_noise, x), None

        rngs = jax.random.split(level["rng"], resamplings)
        (_, x), _ = jax.lax.scan(again, (x, x), rngs)
        return x, None

    levels |= {"t": jnp.asarray(table.t), "rng": jax.random.split(rng, steps)}
    return jax.lax.scan(go_down, noise, levels)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(
    generate: Callable[..., jax.Array],
    latent_shape: tuple[int, ...],
    state: Any,
    images: jax.Array,
    known: jax.Array,
    rng: jax.Array,
    labels: jax.Array | None,
) -> jax.Array:
    """Searches for the likeliest latents of the known pixels.

    The paper weights pixels by their distance from unknown ones, and asks the discriminator whether
    an image is real. Here known pixels have equal weights, with a normal error of DEVIATION, and
    the latents are kept normal by their own density. That needs no discriminator. Of all starts the
    likeliest result is taken.
    """
    n, classes = images.shape[0], num_classes(state.config)
    starts = STARTS
    if classes and labels is None:
        starts = max(STARTS, classes)
        labels = jnp.tile(jnp.arange(starts) % classes, n)
    elif labels is not None:
        labels = jnp.repeat(labels, starts)
    images, known = (jnp.repeat(x, starts, axis=0) for x in (images, known))

    def fit(latents: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The sum of the losses; the losses `[n * starts]`, and the images."""
        made = generate(state, latents, None, labels)
        errors = jnp.where(known, made - images, 0).reshape(n * starts, -1) / DEVIATION
        flat = latents.reshape(n * starts, -1)
        losses = (jnp.square(errors).sum(axis=1) + jnp.square(flat).sum(axis=1)) / 2
        return losses.sum(), (losses, made)

    adam = optax.adam(optax.cosine_decay_schedule(SEARCH_RATE, SEARCH_STEPS))

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        latents, opt_state = carry
        grads = jax.grad(fit, has_aux=True)(latents)[0]
        # optax mixes types, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = adam.update(grads, opt_state)
        return (optax.apply_updates(latents, updates), opt_state), None

    latents = jax.random.normal(rng, (n * starts, *latent_shape))
    carry = (latents, adam.init(latents))
    latents = jax.lax.scan(step, carry, length=SEARCH_STEPS)[0][0]
    _, (losses, made) = fit(latents)
    best = losses.reshape(n, starts).argmin(axis=1)
    return made.reshape(n, starts, *made.shape[1:])[jnp.arange(n), best]
