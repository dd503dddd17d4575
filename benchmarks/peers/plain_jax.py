"""JAX without jaxgan: Flax networks, Optax, a jitted step with a donated state in a Python loop.

The images and their order are on the device, and the step takes its batch from them. (To gather
the batch in another program costs a second dispatch.)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from peers.program import LATENT_DIM, METRICS, Program

ADAM = optax.adam(1e-3, b1=0.9, b2=0.999, eps=1e-7)


class Generator(nn.Module):
    """Latents `[B, 100]` -> images `[B, 28, 28, 1]` in [-1, 1]."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.glorot_uniform()
        for width in (64, 128, 256):
            x = nn.relu(nn.Dense(width, kernel_init=init)(x))
        return nn.tanh(nn.Dense(784, kernel_init=init)(x)).reshape(-1, 28, 28, 1)


class Discriminator(nn.Module):
    """Images `[B, 28, 28, 1]` in [-1, 1] -> logits `[B]`."""

    dropout: tuple[float, float, float] = (0.5, 0.3, 0.2)

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.glorot_uniform()
        x = x.reshape(len(x), -1)
        for width, rate in zip((256, 128, 64), self.dropout, strict=True):
            x = nn.leaky_relu(nn.Dense(width, kernel_init=init)(x), 0.2)
            x = nn.Dropout(rate, deterministic=False)(x)
        return nn.Dense(1, kernel_init=init)(x)[:, 0]


def gradients(params, real, latents, rng, discriminator: Discriminator | None = None):
    """The gradients of both networks, from one forward pass, and the METRICS `[4]`."""
    discriminator = discriminator or Discriminator()
    fake_rng, real_rng = jax.random.split(rng)

    def both_losses(generator_params, discriminator_params):
        def logits(images, rng) -> Any:
            variables = {"params": discriminator_params}
            return discriminator.apply(variables, images, rngs={"dropout": rng})

        fake = Generator().apply({"params": generator_params}, latents)
        fake_logits, real_logits = logits(fake, fake_rng), logits(real, real_rng)
        gen_loss = nn.softplus(-fake_logits).mean()
        disc_loss = nn.softplus(-real_logits).mean() + nn.softplus(fake_logits).mean()
        scores = nn.sigmoid(real_logits).mean(), nn.sigmoid(fake_logits).mean()
        return (gen_loss, disc_loss), jnp.stack([gen_loss, disc_loss, *scores])

    _, vjp, metrics = jax.vjp(both_losses, *params, has_aux=True)
    return (vjp((1.0, 0.0))[0], vjp((0.0, 1.0))[1]), metrics


def train_step(state, images, order):
    """One step on the batch `order[step]` of an order `[steps, B]`. The state counts the steps."""
    params, opt_state, rng, step, totals = state
    real = (images[order[step % len(order)]].astype(jnp.float32) - 127.5) / 127.5
    rng, latent_rng, dropout_rng = jax.random.split(rng, 3)
    latents = jax.random.normal(latent_rng, (len(real), LATENT_DIM))
    grads, metrics = gradients(params, real, latents, dropout_rng)
    updates, opt_state = ADAM.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return params, opt_state, rng, step + 1, totals + metrics


def make(images: np.ndarray, batch_size: int, variant: str) -> Program:
    del variant
    steps = len(images) // batch_size
    data = jax.device_put(images)
    rngs = jax.random.split(jax.random.key(0), 5)
    # One Adam updates both networks, since its settings are the same for both.
    params = (
        Generator().init(rngs[0], jnp.zeros((1, LATENT_DIM)))["params"],
        Discriminator().init({"params": rngs[1], "dropout": rngs[2]}, data[:1] / 255.0)["params"],
    )
    state = (params, ADAM.init(params), rngs[3], jnp.int32(0), jnp.zeros(len(METRICS)))
    order_rng = rngs[4]
    step = jax.jit(train_step, donate_argnums=0)

    @jax.jit
    def shuffled(rng):
        return jax.random.permutation(rng, len(images))[: steps * batch_size].reshape(steps, -1)

    def run() -> dict[str, float]:
        nonlocal state, order_rng
        order_rng, rng = jax.random.split(order_rng)
        order = shuffled(rng)
        state = (*state[:-1], jnp.zeros(len(METRICS)))
        for _ in range(steps):
            state = step(state, data, order)
        jax.block_until_ready(state)
        return dict(zip(METRICS, (state[-1] / steps).tolist(), strict=True))

    generator, discriminator = (sum(x.size for x in jax.tree.leaves(p)) for p in params)
    about = f"jax {jax.__version__}, flax modules, optax {optax.__version__}, "
    return Program(run, steps, about + jax.default_backend(), (generator, discriminator))
