"""Inpainting: fills in the unknown pixels of images with a trained model.

For a diffusion model this is RePaint (arXiv 2201.09865). For other models a search finds latents
whose images agree with the known pixels (arXiv 1607.07539).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgan import samplers
from jaxgan.data.pixels import to_float
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.labels import choose_labels, num_classes
from jaxgan.model import Model


class Repaint(NamedTuple):
    """The settings of RePaint."""

    steps: int = 100
    """The number of noise levels; at most those of the model."""
    resamplings: int = 5
    """How often each step is taken."""


class Search(NamedTuple):
    """The settings of the search."""

    steps: int = 300
    """Steps of Adam."""
    rate: float = 0.05
    """The first learning rate. A cosine lowers it to 0."""
    starts: int = 8
    """Searches for each draw, from random latents. If classes are tried, this number is rounded up,
    so that each class gets the same number."""
    deviation: float = 0.2
    """The search assumes that known pixels, in [-1, 1], differ from the image of the model by
    normal noise of this standard deviation."""


REPAINT, SEARCH = Repaint(), Search()
_AT_ONCE = 500
"""Images filled in at a time, so that their number does not matter for the memory of a device."""


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

    Draws of a diffusion model are samples, given the known pixels, approximately. Those of the
    search are likeliest images, each from other starts. They differ less than samples would.

    Args:
      model: of the state, such as `jaxgan.MODELS["diffusion"]`.
      state: a trained state.
      images: `[N, H, W, C]`, uint8 or float in [-1, 1]. Unknown pixels may have any values.
      known: which pixels are known: bool, `[H, W]` for all images or `[N, H, W]`.
      rng: a key.
      draws: how many times each image is filled in.
      labels: of a conditional model: the classes of the images, int `[N]`, or one for all. Without
        them a diffusion model ignores the classes, and the search tries each class.

    Returns:
      `[draws, N, H, W, C]`, float32 in [-1, 1]. Known pixels are those of the images.

    Raises:
      JaxganError: if a shape or a type does not fit, if a known pixel is not finite, if all pixels
        are known, or if labels are out of range, missing, or given to a model without classes. Also
        if the model has neither `make_denoise` nor `generate`.
      NonFiniteError: if the model has diverged.
    """
    from tqdm import tqdm

    images, known = _check(state, images, known)
    if draws < 1:
        raise JaxganError(f"draws must be 1 or more, got {draws}")
    n, classes = len(images), num_classes(state.config)
    chosen = None if labels is None else choose_labels(classes, n, labels)
    fill, at_once = _method(model, state, classes if labels is None else 0)
    # All parts have the same size, so that one program serves them.
    size = -(-n // -(-n // at_once))
    found = np.empty((draws, n, *images.shape[1:]), np.float32)
    parts = [(draw, at) for draw in range(draws) for at in range(0, n, size)]
    for draw, at in tqdm(parts, "inpainting", disable=None, leave=False):
        part = np.minimum(np.arange(at, at + size), n - 1)
        given = np.where(known[part], np.asarray(to_float(jnp.asarray(images[part]))), 0)
        part_rng = jax.random.fold_in(jax.random.fold_in(rng, draw), at)
        wanted = None if chosen is None else chosen[part]
        filled = np.asarray(fill(given.astype(np.float32), known[part], part_rng, wanted))
        if not np.isfinite(filled).all():
            raise NonFiniteError("the filled pixels are not finite: the model has diverged")
        found[draw, at : at + size] = np.where(known[part], given, filled)[: n - at]
    return found


def make_missing(
    kind: str, n: int, height: int, width: int, share: float = 0.8, seed: int = 0
) -> np.ndarray:
    """Which pixels of n images are missing, bool `[n, height, width]`.

    Args:
      kind: `centre`: the middle half of the height and of the width; `lower`: the lower half;
        `random`: each pixel with the probability `share`.
      n: how many images.
      height: of the images.
      width: of the images.
      share: in [0, 1], for `random`.
      seed: for `random`.
    """
    missing = np.zeros((n, height, width), bool)
    if kind == "centre":
        rows, columns = max(1, height // 2), max(1, width // 2)
        top, left = (height - rows) // 2, (width - columns) // 2
        missing[:, top : top + rows, left : left + columns] = True
    elif kind == "lower":
        missing[:, height // 2 :] = True
    else:
        missing = np.random.default_rng(seed).random(missing.shape) < share
    return missing


def _check(state: Any, images: Any, known: Any) -> tuple[np.ndarray, np.ndarray]:
    """The images, and the mask as bool `[N, H, W, 1]`."""
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
    if images.dtype.kind == "f" and not np.isfinite(np.where(known, images, 0)).all():
        raise JaxganError("a known pixel is not finite")
    return images, known


def _method(model: Model, state: Any, classes: int) -> tuple[Callable[..., jax.Array], int]:
    """`(images, known, rng, labels) -> images`, and for how many images at a time.

    `classes` is the number of classes to try, or 0.
    """
    if model.make_denoise is not None:
        return functools.partial(_repaint, model.make_denoise, REPAINT, state), _AT_ONCE
    if model.generate is None:
        raise JaxganError(f"the model {model.name} cannot fill in pixels")
    starts = SEARCH.starts if not classes else classes * -(-SEARCH.starts // classes)
    shape = model.latent_shape(state.config)
    search = functools.partial(_search, model.generate, shape, SEARCH, starts, classes, state)
    return search, max(1, 8 * _AT_ONCE // starts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _repaint(
    make_denoise: Callable[..., Any],
    settings: Repaint,
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
    steps = min(settings.steps, len(shares) - 1)
    return repaint(denoise, noise, images, known, rng, shares, steps, settings.resamplings)


class _Level(NamedTuple):
    """What a step needs, `[steps]` each."""

    step: samplers.Step
    signal: Any
    """Of the lower noise level."""
    noise: Any
    back: Any
    """The weight of an image of the lower level, on the way back to the higher one."""
    back_noise: Any
    rng: Any


def repaint(
    denoise: samplers.Denoise,
    noise: jax.Array,
    images: jax.Array,
    known: jax.Array,
    rng: jax.Array,
    shares: np.ndarray,
    steps: int,
    resamplings: int,
) -> jax.Array:
    """Ancestral sampling in which the known pixels are given (arXiv 2201.09865, algorithm 1).

    Each step goes to a lower noise level. Then the known pixels are replaced by those of the
    images, with noise of that level. Then noise is added, back to the higher level, and the step is
    taken again, `resamplings` times in all. This makes the two parts of an image fit.

    The authors use 250 levels and go back ten at a time. Here there are fewer levels, and it is one
    at a time. The last step is repeated, too.

    Args:
      denoise: the estimate of the clean images, for a scalar t.
      noise: standard normal, `[B, H, W, C]`.
      images: `[B, H, W, C]`.
      known: bool `[B, H, W, 1]`.
      rng: a key.
      shares: from `samplers.signal_shares`, `[T + 1]`.
      steps: noise levels, from 1 to T.
      resamplings: 1 or more.

    Returns:
      Images `[B, H, W, C]`. The known pixels are those of `images`.

    Raises:
      JaxganError: if there are more steps than noise levels.
    """
    table = samplers.make_steps("ancestral", shares, steps)
    lower = shares[np.append(table.t[1:], 0)]
    ratio = shares[table.t] / lower
    squares = np.stack([lower, 1 - lower, ratio, 1 - ratio])
    signal, added, back, back_noise = jnp.asarray(np.sqrt(squares), jnp.float32)
    weights = (jnp.asarray(x, jnp.float32) for x in table[1:])
    step = samplers.Step(jnp.asarray(table.t), *weights)
    levels = _Level(step, signal, added, back, back_noise, jax.random.split(rng, steps))

    def go_down(x: jax.Array, level: _Level) -> tuple[jax.Array, None]:
        def again(higher_and_lower: Any, rng: jax.Array) -> tuple[Any, None]:
            x, _ = higher_and_lower
            fresh, known_noise, back_noise = jax.random.normal(rng, (3, *x.shape))
            clean = denoise(x, level.step.t)
            x = level.step.x_weight * x + level.step.clean_weight * clean
            x += level.step.noise_weight * fresh
            x = jnp.where(known, level.signal * images + level.noise * known_noise, x)
            return (level.back * x + level.back_noise * back_noise, x), None

        rngs = jax.random.split(level.rng, resamplings)
        return jax.lax.scan(again, (x, x), rngs)[0][1], None

    return jax.lax.scan(go_down, noise, levels)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _search(
    generate: Callable[..., jax.Array],
    latent_shape: tuple[int, ...],
    settings: Search,
    starts: int,
    classes: int,
    state: Any,
    images: jax.Array,
    known: jax.Array,
    rng: jax.Array,
    labels: jax.Array | None,
) -> jax.Array:
    """Searches for the likeliest latents of the known pixels.

    The loss is the negative log density of the known pixels and of the latents. (The paper weights
    pixels by their distance from unknown ones, and asks the discriminator whether an image is
    real.) The best of all starts is kept.
    """
    n = images.shape[0]
    if classes:
        labels = jnp.tile(jnp.arange(starts) % classes, n)
    elif labels is not None:
        labels = jnp.repeat(labels, starts)
    images, known = (jnp.repeat(x, starts, axis=0) for x in (images, known))

    def fit(latents: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The sum of the losses; the losses `[n * starts]`, and the images."""
        made = generate(state, latents, None, labels)
        errors = jnp.where(known, made - images, 0).reshape(n * starts, -1) / settings.deviation
        flat = latents.reshape(n * starts, -1)
        losses = (jnp.square(errors).sum(axis=1) + jnp.square(flat).sum(axis=1)) / 2
        return losses.sum(), (losses, made)

    adam = optax.adam(optax.cosine_decay_schedule(settings.rate, settings.steps))

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        latents, opt_state = carry
        grads = jax.grad(fit, has_aux=True)(latents)[0]
        # optax mixes types, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = adam.update(grads, opt_state)
        return (optax.apply_updates(latents, updates), opt_state), None

    latents = jax.random.normal(rng, (n * starts, *latent_shape))
    carry = (latents, adam.init(latents))
    latents = jax.lax.scan(step, carry, length=settings.steps)[0][0]
    _, (losses, made) = fit(latents)
    losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    best = losses.reshape(n, starts).argmin(axis=1)
    return made.reshape(n, starts, *made.shape[1:])[jnp.arange(n), best]
