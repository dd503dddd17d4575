"""Augmentation of what a discriminator sees, of real and generated images alike, differentiable."""

import functools

import jax
import jax.numpy as jnp

MOVED = 1 / 8
"""How far an image is moved at most, in its own height or width, and rounded to whole pixels."""
CUT = 1 / 2
"""The height and width of what is cut out, likewise."""


def augment(images: jax.Array, probability, rng: jax.Array) -> jax.Array:
    """Moves images, and cuts a part out, each by draws of its own.

    Shown to the discriminator in place of all real and all generated images it keeps that from
    knowing the real ones by heart, and the generator does not learn it as long as many images are
    as they were.

    Args:
      images: `[B, H, W, C]`.
      probability: of each of the two, for each image, in [0, 1].
      rng: a key.

    Returns:
      The images, `[B, H, W, C]`: moved by whole pixels, up to MOVED of their size, the edges
      repeated; 0, the middle gray, in parts of CUT of their height and width, which may reach over
      the edge.

    Source: Zhao et al. 2020 (arXiv 2006.10738), for translation and cutout; Karras et al. 2020
    (arXiv 2006.06676), for the probability.
    """
    move_rng, cut_rng, *chance_rngs = jax.random.split(rng, 4)
    n, height, width, _ = images.shape
    moved, cut = (jax.random.uniform(key, (n, 1)) < probability for key in chance_rngs)
    size = jnp.broadcast_to(jnp.array([height, width]), (n, 2))
    far = jnp.round(size * MOVED).astype(int)
    shifts = jnp.where(moved, jax.random.randint(move_rng, (n, 2), -far, far + 1), 0)
    # As products with matrices of zeros and ones: to gather pixels, and to scatter their gradients,
    # takes a CPU longer.
    rows, columns = _shift(shifts[:, 0], height), _shift(shifts[:, 1], width)
    # Exact on accelerators too, which by default round what they multiply.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    images = product("bih,bhwc->biwc", rows.astype(images.dtype), images)
    images = product("bjw,biwc->bijc", columns.astype(images.dtype), images)
    centers = jax.random.randint(cut_rng, (n, 2), jnp.zeros_like(size), size)
    inside = _near(centers[:, 0], height)[:, :, None] & _near(centers[:, 1], width)[:, None, :]
    return jnp.where((cut[:, :, None] & inside)[..., None], 0, images)


def _shift(shifts: jax.Array, size: int) -> jax.Array:
    """Matrices `[B, size, size]` that move a line of pixels."""
    at = jnp.arange(size)
    source = jnp.clip(at[None] - shifts[:, None], 0, size - 1)
    return source[:, :, None] == at[None, None]


def _near(centers: jax.Array, size: int) -> jax.Array:
    """Which of a line of pixels a part around each center covers: `[B, size]`."""
    side = round(size * CUT)
    start = centers[:, None] - side // 2
    at = jnp.arange(size)[None]
    return (start <= at) & (at < start + side)
