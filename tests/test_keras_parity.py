"""The same GAN in Keras on its JAX backend: an independent implementation to agree with.

In float64: two orders of summation differ in the last bit of a float32, Adam turns the sign of a
tiny gradient into a whole step, and after ten steps a real difference could hide in what is left.
"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from jaxgan import GANConfig, create_state, data, generate, train_step
from jaxgan.gan import _draw_latents

STEPS, BATCH = 10, 128
RNG = jax.random.key(3)
CONFIG = GANConfig(discriminator_dropout=(0.0, 0.0, 0.0))


def keras_generator():
    layers = [keras.layers.Dense(width, activation="relu") for width in (64, 128, 256)]
    # jax's tanh, since Keras's own gives float32 for float64.
    layers += [keras.layers.Dense(784, activation=jnp.tanh), keras.layers.Reshape((28, 28, 1))]
    return keras.Sequential([keras.Input((100,)), *layers])


def keras_discriminator():
    layers = [keras.layers.Flatten()]
    for width in (256, 128, 64):
        layers += [keras.layers.Dense(width), keras.layers.LeakyReLU(0.2)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers, keras.layers.Dense(1)])


def in_keras_order(params) -> list[np.ndarray]:
    """Kernel and bias of each layer in turn, as Keras lists its weights."""
    layers = [params[f"Dense_{i}"] for i in range(len(params))]
    return [np.asarray(layer[name]) for layer in layers for name in ("kernel", "bias")]


def latents_of(step: int) -> np.ndarray:
    """The latents that `train_step` draws at a step; where they come from is not compared."""
    rng = jax.random.split(jax.random.fold_in(RNG, step), 4)[0]
    return np.asarray(_draw_latents(rng, BATCH, CONFIG))


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def state():
    def widened(leaf):
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    state = jax.tree.map(widened, create_state(jax.random.key(0), CONFIG))
    # Made in float32, these would not be the numbers that Keras takes.
    for player in (state.generator, state.discriminator):
        hyperparams = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-7}
        player.opt_state.hyperparams.update({k: jnp.float64(v) for k, v in hyperparams.items()})
    return state


class KerasGAN:
    """Simultaneous updates, written with Keras's layers, losses and optimizers."""

    def __init__(self, generator_weights, discriminator_weights):
        self.models = (keras_generator(), keras_discriminator())
        self.models[0].set_weights(generator_weights)
        self.models[1].set_weights(discriminator_weights)
        self.optimizers = [
            keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7) for _ in range(2)
        ]
        for optimizer, model in zip(self.optimizers, self.models, strict=True):
            optimizer.build(model.trainable_variables)
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.compiled = jax.jit(self.gradients)

    def weights(self):
        return [[variable.value for variable in model.trainable_variables] for model in self.models]

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

    def gradients(self, *weights_latents_real):
        losses = self.losses(*weights_latents_real)
        gradients = [
            jax.grad(lambda *args, i=i: self.losses(*args)[i], argnums=i)(*weights_latents_real)
            for i in range(2)
        ]
        return losses, gradients

    def step(self, latents, real):
        losses, gradients = self.compiled(*self.weights(), latents, real)
        for optimizer, model, gradient in zip(self.optimizers, self.models, gradients, strict=True):
            # Keras divides by sqrt(v) + epsilon-hat with uncorrected v; Algorithm 1 of the Adam
            # paper, as Optax does, by sqrt(v / (1 - b2^t)) + epsilon. They are one formula with
            # epsilon-hat = epsilon sqrt(1 - b2^t).
            t = int(optimizer.iterations.value) + 1
            optimizer.epsilon = CONFIG.adam_eps * np.sqrt(1 - 0.999**t)
            optimizer.apply(gradient, model.trainable_variables)
        return losses, gradients


def test_losses_gradients_and_parameters_agree_over_ten_steps(state):
    """Our gradients are read off Adam's first moments, m' = b1 m + (1 - b1) g."""
    batches, begun = images(), state
    players = (state.generator, state.discriminator)
    keras_gan = KerasGAN(*(in_keras_order(player.params) for player in players))
    before = [[np.zeros_like(w) for w in in_keras_order(player.params)] for player in players]
    for step in range(STEPS):
        state, metrics = train_step(state, scaled(batches[step]), RNG)
        losses, gradients = keras_gan.step(latents_of(step), scaled(batches[step]))
        # Keras's softplus rounds to float32 on the way; its gradients, below, do not.
        np.testing.assert_allclose(metrics[:2], losses, rtol=1e-7)
        for i, player in enumerate((state.generator, state.discriminator)):
            moments = in_keras_order(player.opt_state.inner_state[0].mu)
            for last, moment, expected in zip(before[i], moments, gradients[i], strict=True):
                gradient = (moment - 0.9 * last) / 0.1
                np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-12)
            before[i] = moments
    assert state.step == STEPS
    for i, player in enumerate(("generator", "discriminator")):
        ours = in_keras_order(getattr(state, player).params)
        starts = in_keras_order(getattr(begun, player).params)
        for our, theirs, start in zip(ours, keras_gan.weights()[i], starts, strict=True):
            assert np.abs(our - start).max() > 1e-3  # they have moved
            np.testing.assert_allclose(our, theirs, rtol=1e-9, atol=1e-11)
    latents = latents_of(0)
    np.testing.assert_allclose(
        generate(state, latents), keras_gan.models[0].predict(latents, verbose=0), atol=1e-9
    )


def images() -> np.ndarray:
    """Ten batches: real ones where they are at hand, else the same statistics at random."""
    if data.idx.find("fashion_mnist", "test") is None:
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (STEPS, BATCH, 28, 28, 1), np.uint8)
    return (
        data.load("fashion_mnist", "test").images[: STEPS * BATCH].reshape(STEPS, BATCH, 28, 28, 1)
    )


def scaled(batch: np.ndarray) -> np.ndarray:
    return (batch.astype(np.float64) - 127.5) / 127.5
