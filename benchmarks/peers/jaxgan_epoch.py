"""jaxgan: the epoch as one compiled program."""

import jax
import numpy as np
from peers.program import Program

import jaxgan
from jaxgan import loop


def make(images: np.ndarray, batch_size: int, variant: str) -> Program:
    del variant
    steps = len(images) // batch_size
    data = jax.device_put(images[: steps * batch_size])
    rng = jax.random.key(0)
    state, epoch = jaxgan.create_state(rng), 0

    def run() -> dict[str, float]:
        nonlocal state, epoch
        state, metrics = loop.train_epoch(
            jaxgan.train_step, state, data, rng, epoch, batch_size=batch_size
        )
        epoch += 1
        jax.block_until_ready((state, metrics))
        return {name: float(value) for name, value in metrics._asdict().items()}

    params = state.generator.params, state.discriminator.params
    generator, discriminator = (sum(x.size for x in jax.tree.leaves(p)) for p in params)
    about = f"jaxgan {jaxgan.__version__}, jax {jax.__version__}, {jax.default_backend()}"
    return Program(run, steps, about, (generator, discriminator))
