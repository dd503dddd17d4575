"""The matrix products of a step and nothing else, in XLA: what no step on the device can beat.

Variant "step": every product that one step needs, in its shapes and with its transpositions: all
forward passes, the gradients of all weights, and the gradients that must flow on to earlier layers.
On the fakes these are needed once: both losses send the same ones back through the discriminator
but for one factor per image, which costs no product.

Variant "large": one product of 2048 x 2048 float32 matrices, as a measure of the machine.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from program import Program

GENERATOR = (100, 64, 128, 256, 784)
DISCRIMINATOR = (784, 256, 128, 64, 1)
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
        program = jax.jit(lambda *inputs: repeat_products(steps, *inputs))
        inputs, flop = make_inputs(rng, batch_size), count_flop(batch_size)

    def run() -> dict[str, float]:
        jax.block_until_ready(program(*inputs))
        return {}

    about = f"jax {jax.__version__}, {jax.default_backend()}"
    return Program(run, steps, about, gflop=flop / 1e9)


def make_inputs(rng, batch_size: int):
    """The weights `[inputs, outputs]` of both networks, latents `[B, 100]`, images `[B, 784]`."""
    rngs = iter(jax.random.split(rng, 10))
    glorot = jax.nn.initializers.glorot_uniform()
    weights = [
        [glorot(next(rngs), shape) for shape in itertools.pairwise(widths)]
        for widths in (GENERATOR, DISCRIMINATOR)
    ]
    latents = jax.random.normal(next(rngs), (batch_size, GENERATOR[0]))
    return *weights, latents, jax.random.normal(next(rngs), (batch_size, DISCRIMINATOR[0]))


def repeat_products(steps: int, generator, discriminator, latents, real):
    """The products of many steps; gives the last results.

    So that nothing can leave the loop, its inputs change: the sign of the latents does, and the
    fakes of one turn are the real images of the next. So that none is dropped, all results are
    carried.
    """

    def body(_, carry):
        latents, real, _ = carry
        fake, grads = products(generator, discriminator, latents, real)
        return -latents, fake, grads

    _, grads = jax.eval_shape(products, generator, discriminator, latents, real)
    grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), grads)
    return jax.lax.fori_loop(0, steps, body, (latents, real, grads))


def products(generator, discriminator, latents, real):
    """The products of one step. The networks are linear: the rest is left out."""
    *hidden, fake = forward(generator, latents)
    *on_fake, fake_logits = forward(discriminator, fake)
    *on_real, real_logits = forward(discriminator, real)
    fake_grads, sent_back = backward(discriminator, [fake, *on_fake], fake_logits)
    sent_back = sent_back @ discriminator[0].T
    real_grads, _ = backward(discriminator, [real, *on_real], real_logits)
    generator_grads, _ = backward(generator, [latents, *hidden], sent_back)
    return fake, (generator_grads, fake_grads, real_grads)


def forward(weights, x):
    """The outputs of all layers."""
    outputs = []
    for weight in weights:
        x = x @ weight
        outputs.append(x)
    return outputs


def backward(weights, inputs, grad):
    """From the gradient of the outputs those of the weights, and of the first layer's outputs."""
    weight_grads = []
    for i in reversed(range(len(weights))):
        weight_grads.append(inputs[i].T @ grad)
        if i:
            grad = grad @ weights[i].T
    return weight_grads, grad


def count_flop(batch_size: int) -> int:
    """By hand: a product of `[B, i]` and `[i, o]` takes 2 B i o, and so do both its gradients."""
    generator, discriminator = (
        [i * o for i, o in itertools.pairwise(widths)] for widths in (GENERATOR, DISCRIMINATOR)
    )
    forward = sum(generator) + 2 * sum(discriminator)
    weight_grads = sum(generator) + 2 * sum(discriminator)
    input_grads = sum(generator[1:]) + sum(discriminator) + sum(discriminator[1:])
    return 2 * batch_size * (forward + weight_grads + input_grads)
