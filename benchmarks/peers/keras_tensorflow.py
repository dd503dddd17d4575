"""Keras 3 on TensorFlow: an epoch is one `tf.function` with a loop in the graph.

On a CPU this was the fastest of three forms, and with XLA of two: a Python loop over a compiled
step was slower.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from peers.program import LATENT_DIM, METRICS, Program


def make(images: np.ndarray, batch_size: int, variant: str) -> Program:
    """The variant is "graph", or "xla" for `jit_compile=True`."""
    keras.utils.set_random_seed(0)
    steps = len(images) // batch_size
    data = tf.constant(images)
    networks = make_generator(), make_discriminator()
    train_step = make_train_step(*networks, batch_size)

    @tf.function(jit_compile=variant == "xla")
    def train_epoch(data, order):
        totals = tf.zeros(len(METRICS))
        for i in tf.range(steps):
            totals += train_step(tf.gather(data, order[i]))
        return totals / steps

    @tf.function
    def shuffled():
        order = tf.random.shuffle(tf.range(len(images)))
        return tf.reshape(order[: steps * batch_size], (steps, batch_size))

    def run() -> dict[str, float]:
        means = train_epoch(data, shuffled()).numpy()
        return dict(zip(METRICS, means.tolist(), strict=True))

    device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    about = f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {device}"
    generator, discriminator = (network.count_params() for network in networks)
    return Program(run, steps, about, (generator, discriminator))


def make_generator() -> keras.Model:
    """Latents `[B, 100]` -> images `[B, 28, 28, 1]` in [-1, 1]."""
    hidden = [layers.Dense(width, activation="relu") for width in (64, 128, 256)]
    image = [layers.Dense(784, activation="tanh"), layers.Reshape((28, 28, 1))]
    return keras.Sequential([keras.Input((LATENT_DIM,)), *hidden, *image])


def make_discriminator() -> keras.Model:
    """Images `[B, 28, 28, 1]` in [-1, 1] -> logits `[B, 1]`."""
    hidden = []
    for width, rate in ((256, 0.5), (128, 0.3), (64, 0.2)):
        hidden += [layers.Dense(width), layers.LeakyReLU(0.2), layers.Dropout(rate)]
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), *hidden, layers.Dense(1)])


def make_train_step(generator, discriminator, batch_size: int):
    """A step on a batch of uint8 images `[B, 28, 28, 1]`; it returns its METRICS `[4]`."""
    variables = [network.trainable_variables for network in (generator, discriminator)]
    # One Adam updates both networks, since its settings are the same for both.
    adam = keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7)
    adam.build(variables[0] + variables[1])

    def train_step(batch):
        real = (tf.cast(batch, tf.float32) - 127.5) / 127.5
        latents = tf.random.normal((batch_size, LATENT_DIM))
        with tf.GradientTape(persistent=True) as tape:
            fake = generator(latents, training=True)
            fake_logits = discriminator(fake, training=True)
            real_logits = discriminator(real, training=True)
            gen_loss = tf.reduce_mean(tf.nn.softplus(-fake_logits))
            disc_loss = tf.reduce_mean(tf.nn.softplus(-real_logits))
            disc_loss += tf.reduce_mean(tf.nn.softplus(fake_logits))
        grads = tape.gradient(gen_loss, variables[0]) + tape.gradient(disc_loss, variables[1])
        adam.apply(grads)
        scores = [tf.reduce_mean(tf.sigmoid(logits)) for logits in (real_logits, fake_logits)]
        return tf.stack([gen_loss, disc_loss, *scores])

    return train_step
