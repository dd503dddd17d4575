"""Class-conditional GANs: what a label does in both networks, and what is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, assert_trees_close, assert_trees_equal

from jaxgan import (
    MODELS,
    GANConfig,
    JaxganError,
    create_state,
    data,
    generate,
    loop,
    sample,
    train_step,
)
from jaxgan.labels import batch_included, fit_to_classes, like_data, num_classes, proportional


@pytest.fixture(scope="module")
def config(tiny) -> GANConfig:
    return dataclasses.replace(tiny, num_classes=3, image_shape=(2, 2, 1), latent_dim=4)


@pytest.fixture(scope="module")
def state(config):
    return create_state(RNG, config)


def batch(config, n=6):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (n, *config.image_shape)).astype(np.float32)
    return {"image": images, "label": np.arange(n) % 3}


def dense(params, x):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def test_the_generator_gets_the_one_hot_label_beside_the_latents(state):
    latents = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([2, 0, 1, 1, 2])
    params = state.generator.params
    hidden = np.maximum(dense(params["Dense_0"], np.hstack([latents, np.eye(3)[labels]])), 0)
    expected = np.tanh(dense(params["Dense_1"], hidden)).reshape(5, 2, 2, 1)
    np.testing.assert_allclose(generate(state, latents, labels=labels), expected, atol=1e-6)
    # One label is for all.
    one = generate(state, latents, labels=1)
    assert_trees_equal(one, generate(state, latents, labels=np.full(5, 1)))
    assert (np.asarray(one) != np.asarray(generate(state, latents, labels=2))).all()


@pytest.mark.parametrize("pac", [1, 2])
def test_the_discriminator_adds_the_product_of_a_vector_of_the_label(config, pac):
    """Projection, arXiv 1802.05637. The metrics of a step hold its mean logits, by the loss."""
    config = dataclasses.replace(
        config, pac=pac, discriminator_dropout=(0.0,), loss="wasserstein", r1=1e-9
    )
    state = create_state(RNG, config)
    kernels = {"Dense_2": {"bias": jnp.linspace(-1.0, 1.0, 16)}}
    params = state.discriminator.params
    params = params | {"Dense_2": params["Dense_2"] | kernels["Dense_2"]}
    state = state.replace(discriminator=state.discriminator.replace(params=params))
    given = batch(config)

    def logits(images, labels):
        images = images.reshape(6 // pac, pac, -1).swapaxes(1, 2).reshape(6 // pac, -1)
        x = dense(params["Dense_0"], images)
        x = np.where(x > 0, x, 0.2 * x)
        one_hot = np.eye(3)[labels].reshape(6 // pac, -1)
        return dense(params["Dense_1"], x)[:, 0] + (x * dense(params["Dense_2"], one_hot)).sum(1)

    _, metrics = train_step(state, given, RNG)
    latents = jax.random.normal(jax.random.split(jax.random.fold_in(RNG, 0), 7)[0], (6, 4))
    fake = np.asarray(generate(state, latents, labels=given["label"]))
    real_logits, fake_logits = (logits(x, given["label"]) for x in (given["image"], fake))
    assert float(metrics.gen_loss) == pytest.approx(-fake_logits.mean(), abs=1e-6)
    expected = fake_logits.mean() - real_logits.mean()
    assert float(metrics.disc_loss) == pytest.approx(expected, abs=1e-6)
    shifted = given | {"label": (given["label"] + 1) % 3}
    assert abs(float(train_step(state, shifted, RNG)[1].disc_loss) - expected) > 1e-4


def test_samples_are_of_the_wanted_class():
    """Class k is the image whose pixels are all -0.8, 0 or 0.8."""
    config = GANConfig(
        image_shape=(2, 2, 1),
        latent_dim=4,
        num_classes=3,
        generator_widths=(32,),
        discriminator_widths=(32,),
        discriminator_dropout=(0.0,),
        r1=1.0,
        generator_b1=0.0,
        discriminator_b1=0.0,
    )
    labels = jnp.arange(96) % 3
    noise = 0.05 * np.random.default_rng(0).normal(size=(96, 2, 2, 1))
    images = (0.8 * (np.arange(96) % 3 - 1))[:, None, None, None] + noise
    given = {"image": jnp.asarray(images, jnp.float32), "label": labels}

    def step(state, _):
        return train_step(state, given, RNG)

    state, _ = jax.lax.scan(step, create_state(RNG, config), length=1500)
    means = [float(sample(state, RNG, 200, label).mean()) for label in range(3)]
    np.testing.assert_allclose(means, [-0.8, 0, 0.8], atol=0.15)


def test_the_default_labels_are_all_classes_in_turn(state):
    assert_trees_equal(sample(state, RNG, 7), sample(state, RNG, 7, [0, 1, 2, 0, 1, 2, 0]))
    # Labels that jax traces, in another program.
    traced = jax.jit(lambda labels: sample(state, RNG, 7, labels))
    assert_trees_close(traced(np.arange(7) % 3), sample(state, RNG, 7))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (3, "whole numbers from 0 to 2, got 3"),
        ([0, -1], "whole numbers from 0 to 2, got -1"),
        ([0.0, 1.0], "whole numbers from 0 to 2, got float64"),
        ("a", "whole numbers from 0 to 2, got <U1"),
        ([0, 1, 2], "2 samples need 2 labels, or one, got"),
    ],
)
def test_wrong_labels_of_samples_are_refused(labels, message, state):
    with pytest.raises(JaxganError, match=message):
        sample(state, RNG, 2, labels)


@pytest.mark.parametrize("labels", [np.arange(1, 7) % 4, np.arange(6) % 3 - 1])
@pytest.mark.parametrize("name", ["gan", "diffusion", "gaussian"])
def test_labels_that_are_no_classes_are_refused(name, labels, config):
    model, given = MODELS[name], batch(config) | {"label": labels}
    if name != "gan":
        config = model.config(image_shape=(2, 2, 1), num_classes=3)
    state = jax.eval_shape(lambda: model.create_state(RNG, config))
    for wrong in (given, jax.tree.map(jnp.asarray, given)):
        with pytest.raises(JaxganError, match=f"from 0 to 2.* from {labels.min()} to"):
            model.train_step(state, wrong, RNG)
        with pytest.raises(JaxganError, match="labels must be from 0 to 2"):
            loop.start_run(model.train_step, state, wrong, 2)


def test_a_batch_needs_a_label_for_each_image(state, config):
    good = batch(config)
    for wrong, message in (
        (good["image"], "the model has 3 classes, and the batch has no labels"),
        ({"image": good["image"]}, "the model has 3 classes, and the batch has no labels"),
        (good | {"label": np.zeros(5, int)}, r"must be 6 whole numbers, got int32 of shape \(5,\)"),
        (good | {"label": np.zeros(6, np.float32)}, "must be 6 whole numbers, got float32"),
    ):
        with pytest.raises(JaxganError, match=message):
            train_step(state, wrong, RNG)


@pytest.mark.parametrize("included", [np.ones(5, bool), np.ones(6, np.int32), np.bool_(True)])
def test_a_batch_says_of_each_image_whether_it_counts(included, config):
    with pytest.raises(JaxganError, match=r'^"included" must be 6 bools for 6 images, got'):
        batch_included(batch(config) | {"included": included})
    assert batch_included(batch(config)) is None
    assert batch_included(batch(config)["image"]) is None


def test_a_model_without_classes_has_no_labels(tiny):
    state = create_state(RNG, tiny)
    with pytest.raises(JaxganError, match="no classes, so its samples have no labels"):
        sample(state, RNG, 2, 0)


class Deaf(nn.Module):
    """A network that does not take labels."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x.reshape(len(x), -1))


def test_a_network_that_takes_no_labels_is_refused():
    with pytest.raises(JaxganError, match="the discriminator does not take the classes"):
        GANConfig(num_classes=2, discriminator=Deaf())


def dataset(labels) -> data.Dataset:
    n = 4 if labels is None else len(labels)
    return data.Dataset(np.zeros((n, 2, 2, 1), np.uint8), labels, "set.npz", "train")


def test_a_config_gets_the_classes_of_the_data(tiny, config):
    labelled = dataset(np.array([0, 4, 1]))
    assert num_classes(fit_to_classes(tiny, labelled, conditional=True)) == 5
    assert fit_to_classes(tiny, labelled, conditional=False) == tiny
    # With classes of its own it keeps them, if they are enough.
    assert fit_to_classes(config, dataset(np.array([0, 1])), conditional=False) == config
    for given, some, message in (
        (config, labelled, "set.npz has the labels 0 to 4, and num_classes is 3"),
        (config, dataset(None), "set.npz has no labels"),
        (config, dataset(np.array([-1, 0])), "set.npz has negative labels"),
        (object(), labelled, "this model has no classes"),
    ):
        with pytest.raises(JaxganError, match=message):
            fit_to_classes(given, some, conditional=True)


def test_samples_like_the_data_have_its_classes_in_its_shares(state):
    labels = np.repeat([0, 2], [90, 10])
    assert np.bincount(proportional(labels, 50)).tolist() == [45, 0, 5]
    # The first of them are a random part.
    assert 0 < (proportional(labels, 1000)[:100] == 2).sum() < 25
    model = like_data(MODELS["gan"], labels)
    assert_trees_equal(
        model.sample(state, RNG, 50), sample(state, RNG, 50, proportional(labels, 50))
    )
    assert_trees_equal(model.sample(state, RNG, 2, np.array([1, 1])), sample(state, RNG, 2, 1))
