"""Differentiable augmentation of real and generated images before the discriminator."""

import functools

import jax
import jax.numpy as jnp

MOVED = 1 / 8
"""The largest translation, as a share of the height or width, rounded to whole pixels."""
CUT = 1 / 2
"""The height and width of a cutout, as shares of those of the image, rounded likewise."""


def augment(images: jax.Array, probability: float | jax.Array, rng: jax.Array) -> jax.Array:
    """Translates images and cuts parts out, with independent draws for each image.

    If real and generated images are augmented, the discriminator does not memorise the real ones.
    The generator does not learn the augmentations as long as many images remain unchanged.

    Args:
      images: `[B, H, W, C]`.
      probability: of a translation, and of a cutout, for each image; in [0, 1].
      rng: a key.

    Returns:
      The images, `[B, H, W, C]`. Translations are by whole pixels, and edges are repeated. Cutouts
      are 0, the middle gray, and may reach over an edge.

    Source: Zhao et al. 2020 (arXiv 2006.10738), for translation and cutout; Karras et al. 2020
    (arXiv 2006.06676), for the probability.
    """
    move_rng, cut_rng, *chance_rngs = jax.random.split(rng, 4)
    n, height, width, _ = images.shape
    moved, cut = (jax.random.uniform(rng, (n, 1)) < probability for rng in chance_rngs)
    size = jnp.broadcast_to(jnp.array([height, width]), (n, 2))
    far = jnp.array([round(height * MOVED), round(width * MOVED)])[None]
    shifts = jnp.where(moved, jax.random.randint(move_rng, (n, 2), -far, far + 1), 0)
    # Products with matrices of zeros and ones: on a CPU these are faster than gathering pixels and
    # scattering their gradients.
    rows, columns = _shift(shifts[:, 0], height), _shift(shifts[:, 1], width)
    # By default accelerators round the factors of a product.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    images = product("bih,bhwc->biwc", rows.astype(images.dtype), images)
    images = product("bjw,biwc->bijc", columns.astype(images.dtype), images)
    centers = jax.random.randint(cut_rng, (n, 2), jnp.zeros_like(size), size)
    inside = _near(centers[:, 0], height)[:, :, None] & _near(centers[:, 1], width)[:, None, :]
    return jnp.where((cut[:, :, None] & inside)[..., None], 0, images)


def _shift(shifts: jax.Array, size: int) -> jax.Array:
    """Matrices `[B, size, size]` that translate a line of pixels."""
    at = jnp.arange(size)
    source = jnp.clip(at[None] - shifts[:, None], 0, size - 1)
    return source[:, :, None] == at[None, None]


def _near(centers: jax.Array, size: int) -> jax.Array:
    """Which pixels of a line the cutout around each center covers: `[B, size]`."""
    side = round(size * CUT)
    start = centers[:, None] - side // 2
    at = jnp.arange(size)[None]
    return (start <= at) & (at < start + side)
