# pyright: strict
"""A user's program. pyright, in strict mode, must know the type of all that it uses."""

import jax
import numpy as np

import jaxgan
from jaxgan.run import training

config = jaxgan.GANConfig(loss="hinge", r1=0.1)
rng = jax.random.key(0)
dataset = jaxgan.data.load("digits")
state = jaxgan.create_state(rng, jaxgan.GANConfig(image_shape=dataset.images.shape[1:]))
state, metrics = jaxgan.train_step(state, dataset.images[:128], rng)
assert isinstance(metrics, jaxgan.Metrics)
print(state.step + 1, metrics.gen_loss, state.generator.params)
samples = jaxgan.sample(state, rng, 16)
images = jaxgan.generate(state, jax.random.normal(rng, (4, state.config.latent_dim)))
print(np.asarray(samples).mean(), images.shape)

start = jaxgan.loop.start_run(jaxgan.train_step, state, dataset.arrays, 128)
run = jaxgan.loop.fit(jaxgan.train_step, start, dataset.arrays, rng, batch_size=128, epochs=1)
print(run.history[-1]["gen_loss"], run.seconds)

config = jaxgan.diffusion.DiffusionConfig(width=64, blocks=1)
denoiser = jaxgan.diffusion.create_state(rng, config)
denoiser, _ = jaxgan.diffusion.train_step(denoiser, dataset.images[:128], rng)
print(jaxgan.diffusion.sample(denoiser, rng, 4).shape)

model, loaded = jaxgan.load("runs/digits")
print(
    np.asarray(model.sample(loaded, rng, 4)).shape,
    jaxgan.MODELS["gan"].name,
    jaxgan.PRESETS["tuned"],
)
settings = jaxgan.TrainConfig(dataset="digits", epochs=2)
outcome = training.train(jaxgan.MODELS["gan"], config, settings, "runs/digits")
print(outcome.history, outcome.workdir)
