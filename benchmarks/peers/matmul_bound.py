"""The matrix products of a step and nothing else, in XLA: no step on the device can be faster.

Variant "step": all products of one step, in its shapes and with its transpositions: the forward
passes, the gradients of all weights, and the gradients of the inputs that earlier layers need. On
generated images these are needed once: both losses have the same ones but for a factor for each
image, which costs no product.

Variant "large": one product of 2048 x 2048 float32 matrices, as a measure of the machine.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from peers.program import Program

GENERATOR = (100, 64, 128, 256, 784)
DISCRIMINATOR = (784, 256, 128, 64, 1)
"""Inputs, hidden widths and outputs of the reference's networks."""
LARGE, LARGE_PRODUCTS = 2048, 8


def make(images: np.ndarray, batch_size: int, variant: str) -> Program:
    rng = jax.random.key(0)
    if variant == "large":
        steps = LARGE_PRODUCTS
        # Scaled so that the repeated product neither grows nor vanishes.
        factor = jax.random.normal(rng, (LARGE, LARGE)) / LARGE**0.5
        program = jax.jit(lambda a: jax.lax.fori_loop(0, steps, lambda _, x: x @ a, a))
        inputs, flop = (factor,), 2 * LARGE**3
    else:
        steps = len(images) // batch_size
        program = jax.jit(functools.partial(repeat_products, steps))
        inputs = make_inputs(rng, GENERATOR, DISCRIMINATOR, batch_size)
        flop = count_flop(GENERATOR, DISCRIMINATOR, batch_size)

    def run() -> dict[str, float]:
        jax.block_until_ready(program(*inputs))
        return {}

    about = f"jax {jax.__version__}, {jax.default_backend()}"
    return Program(run, steps, about, gflop=flop / 1e9)


def make_inputs(rng, generator: tuple[int, ...], discriminator: tuple[int, ...], batch_size: int):
    """The weights `[inputs, outputs]` of both networks, latents and images `[B, inputs]`."""
    rngs = iter(jax.random.split(rng, len(generator) + len(discriminator)))
    glorot = jax.nn.initializers.glorot_uniform()
    weights = [
        [glorot(next(rngs), shape) for shape in itertools.pairwise(sizes)]
        for sizes in (generator, discriminator)
    ]
    latents = jax.random.normal(next(rngs), (batch_size, generator[0]))
    return *weights, latents, jax.random.normal(next(rngs), (batch_size, discriminator[0]))


def repeat_products(steps: int, generator, discriminator, latents, real):
    """The products of many steps; gives the last results.

    The inputs change, so that nothing can leave the loop: the sign of the latents does, and the
    generated images of one turn are the real ones of the next. All results are carried, so that
    none is dropped.
    """

    def body(_, carry):
        latents, real, _ = carry
        fake, grads = products(generator, discriminator, latents, real)
        return -latents, fake, grads

    grads = jax.tree.map(jnp.zeros_like, (generator, discriminator, discriminator))
    return jax.lax.fori_loop(0, steps, body, (latents, real, grads))


def products(generator, discriminator, latents, real):
    """The products of one step: the generated images and the gradients of all weights.

    The networks are linear: all else is left out. The gradients of the discriminator on generated
    and on real images are not added up.
    """

    chain = functools.partial(functools.reduce, jnp.matmul)

    def logits(generator, on_fake, on_real):
        fake = chain(generator, latents)
        return (chain(on_fake, fake), chain(on_real, real)), fake

    both, vjp, fake = jax.vjp(logits, generator, discriminator, discriminator, has_aux=True)
    return fake, vjp(both)


def count_flop(generator: tuple[int, ...], discriminator: tuple[int, ...], batch_size: int) -> int:
    """The FLOPs of the products of a step, from the sizes of the layers: 2 B (3 g - g1 + 6 d - d1).

    A product of `[B, i]` and `[i, o]` takes 2 B i o FLOPs, and so do the gradients of its weights
    and of its inputs. The networks have g and d weights, g1 and d1 of them in the first layers.
    Forward: g + 2 d (generated and real images). Weights: g + 2 d. Inputs: g - g1 in the generator;
    d for generated images, whose gradient the generator needs; d - d1 for real ones.
    """
    (g1, *g), (d1, *d) = (
        [i * o for i, o in itertools.pairwise(sizes)] for sizes in (generator, discriminator)
    )
    return 2 * batch_size * (3 * sum(g) + 2 * g1 + 6 * sum(d) + 5 * d1)
