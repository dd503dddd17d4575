"""The same GAN in Keras on its JAX backend: an independent implementation to agree with.

In float64: two orders of summation differ in the last bit of a float32, Adam turns the sign of a
tiny gradient into a whole step, and after ten steps a real difference could hide in the rest.
"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from helpers import latents_of

from jaxgan import GANConfig, create_state, data, generate, train_step
from jaxgan.adversarial import losses

STEPS, BATCH = 10, 128
RNG = jax.random.key(3)
CONFIG = GANConfig(discriminator_dropout=(0.0, 0.0, 0.0))


def dense(width, **options):
    # The weights come from elsewhere.
    return keras.layers.Dense(width, kernel_initializer="zeros", **options)


def keras_generator():
    layers = [dense(width, activation="relu") for width in (64, 128, 256)]
    # jax's tanh, since Keras's own gives float32 for float64.
    layers += [dense(784, activation=jnp.tanh), keras.layers.Reshape((28, 28, 1))]
    return keras.Sequential([keras.Input((100,)), *layers])


def keras_discriminator():
    layers = [keras.layers.Flatten()]
    for width in (256, 128, 64):
        layers += [dense(width), keras.layers.LeakyReLU(0.2)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers, dense(1)])


def in_keras_order(params) -> list[np.ndarray]:
    """Kernel and bias of each layer in turn, as Keras lists its weights."""
    layers = [params[f"Dense_{i}"] for i in range(len(params))]
    return [np.asarray(layer[name]) for layer in layers for name in ("kernel", "bias")]


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    # Keras needs the promotions that other tests refuse.
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def state(float64):
    def widened(leaf):
        wide = jnp.float64 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        return jnp.asarray(np.asarray(leaf, wide))

    state = jax.tree.map(widened, create_state(jax.random.key(0), CONFIG))
    # Made in float32, these would not be the numbers that Keras takes.
    for learner in (state.generator, state.discriminator):
        hyperparams = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-7}
        learner.opt_state.hyperparams.update({k: jnp.float64(v) for k, v in hyperparams.items()})
    return state


class KerasGAN:
    """Simultaneous updates, written with Keras's layers, losses and optimizers."""

    def __init__(self, *weights):
        self.models = (keras_generator(), keras_discriminator())
        self.weights = list(weights)
        self.optimizers = [keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999) for _ in range(2)]
        for optimizer, model in zip(self.optimizers, self.models, strict=True):
            optimizer.build(model.trainable_variables)
        self.moments = [[v.value for v in optimizer.variables] for optimizer in self.optimizers]
        self.steps = 0
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.compiled = jax.jit(self.losses_gradients_and_updates)

    def losses(self, generator_weights, discriminator_weights, latents, real):
        generator, discriminator = self.models
        fake, _ = generator.stateless_call(generator_weights, [], latents)
        fake_logits, _ = discriminator.stateless_call(discriminator_weights, [], fake)
        real_logits, _ = discriminator.stateless_call(discriminator_weights, [], real)
        gen_loss = self.bce(jnp.ones_like(fake_logits), fake_logits)
        disc_loss = self.bce(jnp.ones_like(real_logits), real_logits) + self.bce(
            jnp.zeros_like(fake_logits), fake_logits
        )
        return gen_loss, disc_loss

    def losses_gradients_and_updates(self, weights, moments, latents, real, epsilon):
        losses = self.losses(*weights, latents, real)
        gradients, updated = [], []
        for i, optimizer in enumerate(self.optimizers):
            gradient = jax.grad(lambda *args, i=i: self.losses(*args)[i], argnums=i)
            gradients.append(gradient(*weights, latents, real))
            optimizer.epsilon = epsilon
            updated.append(optimizer.stateless_apply(moments[i], gradients[i], weights[i]))
        return losses, gradients, *map(list, zip(*updated, strict=True))

    def step(self, latents, real):
        # Keras divides by sqrt(v) + epsilon-hat with uncorrected v; Algorithm 1 of the Adam paper,
        # as Optax does, by sqrt(v / (1 - b2^t)) + epsilon. They are one formula with epsilon-hat =
        # epsilon sqrt(1 - b2^t).
        self.steps += 1
        epsilon = CONFIG.adam_eps * np.sqrt(1 - 0.999**self.steps)
        losses, gradients, self.weights, self.moments = self.compiled(
            self.weights, self.moments, latents, real, epsilon
        )
        return losses, gradients

    def images(self, latents):
        return self.models[0].stateless_call(self.weights[0], [], latents)[0]


def test_losses_gradients_and_parameters_agree_over_ten_steps(state):
    """Our gradients are read off Adam's first moments, m' = b1 m + (1 - b1) g."""
    batches, start = images(), state
    learners = (state.generator, state.discriminator)
    keras_gan = KerasGAN(*(in_keras_order(learner.params) for learner in learners))
    before = [[np.zeros_like(w) for w in in_keras_order(learner.params)] for learner in learners]
    # What the latents are drawn from is not compared.
    latents = [np.asarray(latents_of(RNG, step, BATCH, 100)) for step in range(STEPS)]
    for step in range(STEPS):
        state, metrics = train_step(state, scaled(batches[step]), RNG)
        expected_losses, gradients = keras_gan.step(latents[step], scaled(batches[step]))
        # Keras's softplus rounds to float32 on the way; its gradients, below, do not.
        np.testing.assert_allclose(metrics[:2], expected_losses, rtol=1e-7)
        for i, learner in enumerate((state.generator, state.discriminator)):
            moments = in_keras_order(learner.opt_state.inner_state[0].mu)
            for last, moment, expected in zip(before[i], moments, gradients[i], strict=True):
                gradient = (moment - 0.9 * last) / 0.1
                np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-12)
            before[i] = moments
    assert state.step == STEPS
    for i, network in enumerate(("generator", "discriminator")):
        ours = in_keras_order(getattr(state, network).params)
        starts = in_keras_order(getattr(start, network).params)
        for our, theirs, first in zip(ours, keras_gan.weights[i], starts, strict=True):
            assert np.abs(our - first).max() > 1e-3  # they have moved
            np.testing.assert_allclose(our, theirs, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(generate(state, latents[0]), keras_gan.images(latents[0]), atol=1e-9)


def test_non_saturating_is_keras_binary_crossentropy():
    def bce(target, logits):
        targets = np.full_like(logits, target)
        # A last axis of 1, since Keras takes the mean over the last axis.
        loss = keras.losses.binary_crossentropy(targets[:, None], logits[:, None], from_logits=True)
        return np.asarray(loss)

    real = np.array([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0], np.float32)
    fake = real[::-1].copy()
    generator, discriminator = losses.non_saturating(jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(generator, bce(1, fake), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(discriminator, bce(1, real) + bce(0, fake), rtol=1e-6, atol=1e-7)


def images() -> np.ndarray:
    """Ten batches: real ones if they are at hand, else the same statistics at random."""
    if data.idx.find("fashion_mnist", "test") is None:
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (STEPS, BATCH, 28, 28, 1), np.uint8)
    return (
        data.load("fashion_mnist", "test").images[: STEPS * BATCH].reshape(STEPS, BATCH, 28, 28, 1)
    )


def scaled(batch: np.ndarray) -> np.ndarray:
    return (batch.astype(np.float64) - 127.5) / 127.5
