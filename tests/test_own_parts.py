"""Parts of the user's own: optimizers, losses, penalties, augmentation. And checks of inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import RNG, assert_trees_close, assert_trees_equal, train

from jaxgan import (
    MODELS,
    GANConfig,
    JaxganError,
    create_state,
    learner,
    loop,
    sample,
    schedules,
    train_step,
)
from jaxgan.adversarial import augmentation, losses, penalties
from jaxgan.run import population, saved


@pytest.fixture(scope="module")
def batches(images):
    return [images[:8], images[8:16], images[16:24]]


def arrays(state):
    """What must be equal if two configs mean the same."""
    return state.generator.params, state.discriminator.params, state.ema


def trained(config, batches, model=MODELS["gan"]):
    return train(model.create_state(RNG, config), batches, step=model.train_step)


def own_hinge(real_logits, fake_logits):
    return losses.hinge(real_logits, fake_logits)


def own_r1(inputs):
    return penalties.zero_centered(inputs.critic, inputs.real)


def own_augment(images, probability, rng):
    return augmentation.augment(images, probability, rng)


def test_own_functions_train_as_those_of_the_library(flat, batches):
    # With a hidden layer the logits are near 0, and the gradients of r1 differ between images.
    flat = dataclasses.replace(flat, discriminator_widths=(16,), discriminator_dropout=(0.5,))
    known = {"loss": "hinge", "r1": 0.3, "augment": 0.5}
    own = {"loss": own_hinge, "penalties": {own_r1: 0.3}, "augmentation": own_augment}
    own["augment"] = 0.5
    expected, metrics = trained(dataclasses.replace(flat, **known), batches)
    found, own_metrics = trained(dataclasses.replace(flat, **own), batches)
    assert_trees_close(arrays(found), arrays(expected))
    np.testing.assert_allclose(own_metrics.penalty, metrics.penalty, rtol=1e-5)
    assert (np.asarray(metrics.penalty) > 0).all()
    np.testing.assert_allclose(own_metrics.disc_loss, metrics.disc_loss, rtol=1e-5)
    # Logits near 0 have a hinge loss of 2, and would have one of log(4) by default.
    assert metrics.disc_loss[0] > 1.7


def test_an_own_augmentation_gets_the_images_the_probability_and_a_key(flat, batches):
    seen = []

    def record(images, probability, rng):
        seen.append((images.shape, probability, rng.dtype == RNG.dtype))
        return jnp.zeros_like(images)

    _, metrics = trained(dataclasses.replace(flat, augmentation=record, augment=0.25), batches[:1])
    assert set(seen) == {((8, *flat.image_shape), 0.25, True)}
    # Real and generated images look the same.
    np.testing.assert_array_equal(metrics.real_score, metrics.fake_score)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gan", ("generator_optimizer", "discriminator_optimizer")),
        ("diffusion", ("optimizer",)),
        ("gain", ("optimizer",)),
    ],
)
def test_any_optax_optimizer_takes_the_place_of_adam_in_each_model(name, fields, flat, batches):
    model = MODELS[name]
    options = {"diffusion": {"width": 16, "blocks": 1}, "gain": {"widths": (16,)}}
    config = flat
    if name != "gan":
        config = model.config(image_shape=flat.image_shape, **options[name])
    # The default optimizer, by optax itself, with clipping in front of it: that is max_grad_norm.
    adam = optax.chain(
        optax.clip_by_global_norm(0.01), optax.adam(1e-3, 0.9, 0.999, config.adam_eps)
    )
    own = dataclasses.replace(config, **dict.fromkeys(fields, adam))
    expected, _ = trained(dataclasses.replace(config, max_grad_norm=0.01), batches, model)
    found, metrics = trained(own, batches, model)
    params = [
        [one.params for one in vars(state).values() if hasattr(one, "params")]
        for state in (found, expected)
    ]
    assert_trees_close(*params)
    # All gradients are clipped, and by other factors in each step.
    norms = [norm for name, norm in metrics._asdict().items() if name.endswith("grad_norm")]
    assert len(norms) == len(params[0])
    assert all((np.asarray(norm) > 0.01).all() and np.ptp(norm) > 0 for norm in norms)


def test_equal_configs_with_own_parts_share_one_program(flat, batches):
    traced = []

    def counted(real_logits, fake_logits):
        traced.append(1)
        return losses.hinge(real_logits, fake_logits)

    schedule = optax.cosine_decay_schedule(1e-3, 100)
    sgd = optax.chain(optax.clip(1.0), optax.sgd(schedule))
    for _ in range(2):
        config = dataclasses.replace(flat, loss=counted, generator_optimizer=sgd)
        trained(config, batches[:2])
        traced.append(0)
    first = traced.index(0)
    assert first > 0
    assert traced == [1] * first + [0, 0]


def test_the_equilibrium_of_an_own_loss_is_known_if_the_loss_says_so(flat):
    found = MODELS["gan"].equilibrium
    assert found(dataclasses.replace(flat, loss=own_hinge)) == {}
    known = losses.Loss(losses.hinge)
    assert found(dataclasses.replace(flat, loss=known)) == found(
        dataclasses.replace(flat, loss="hinge")
    )
    # It depends on differences of logits alone: all logits are equally good.
    assert losses.equilibrium(losses.wasserstein) == (0, 0)
    distance = MODELS["gan"].equilibrium_distance(
        dataclasses.replace(flat, loss=own_hinge), {"disc_loss": [1.0, 2.0]}
    )
    assert np.isnan(distance).all()


ADAM = optax.adam(1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "wgan"}, "loss must be one of non_saturating, .* or a function"),
        ({"loss": 3}, "or a function"),
        ({"generator_optimizer": "adam"}, r"an optax.GradientTransformation.*got 'adam'"),
        ({"generator_optimizer": optax.adam}, "such as optax.adam"),
        (
            {"generator_optimizer": ADAM, "generator_lr": 1e-4},
            "generator_lr would have no effect: generator_optimizer is your own",
        ),
        (
            {"generator_optimizer": ADAM, "discriminator_optimizer": ADAM, "optimizer": "sgd"},
            "optimizer would have no effect",
        ),
        ({"penalties": {"r3": 1.0}}, r"a penalty must be a function Inputs -> \[B\], got 'r3'"),
        ({"penalties": {own_r1: None}}, "the weight of a penalty must be 0 or more"),
        ({"loss": losses.Loss("hinge")}, "or a function"),
        ({"penalties": {own_r1: -1.0}}, "the weight of a penalty must be 0 or more"),
        ({"augmentation": 0.5}, "augmentation must be a function"),
        ({"augmentation": own_augment}, "augmentation has no effect without augment"),
        ({"penalties": 3}, "penalties must be {penalty: weight}, or pairs"),
        ({"penalties": [own_r1]}, "or pairs"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be 0 or more"),
        ({"generator": lambda latents: latents}, "generator must be a Flax linen module"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused(fields, message):
    with pytest.raises(JaxganError, match=message):
        GANConfig(**fields)


def test_a_loss_of_another_shape_is_refused(flat, batches):
    def mean(real_logits, fake_logits):
        return losses.Losses(fake_logits.mean(), real_logits.mean())

    with pytest.raises(
        JaxganError, match=r"one value per image, \[8\] each; .* gave \[\] and \[\]"
    ):
        trained(dataclasses.replace(flat, loss=mean), batches)
    with pytest.raises(JaxganError, match=r"gave .*Tracer"):
        trained(dataclasses.replace(flat, loss=lambda real, fake: fake), batches)


def test_an_optimizer_that_needs_more_than_gradients_is_refused(flat):
    needy = optax.contrib.reduce_on_plateau()
    with pytest.raises(JaxganError, match=r"from gradients and parameters alone: .*'value'"):
        create_state(RNG, dataclasses.replace(flat, generator_optimizer=needy))


def test_other_outputs_of_own_functions_are_refused(flat, batches):
    for parts, message in (
        ({"penalties": {lambda inputs: {"a": 1}: 1.0}}, "a penalty must give an array"),
        (
            {"augmentation": lambda images, p, rng: images[:, 1:], "augment": 0.5},
            r"must keep the shape of the images, \[8, 6, 5, 1\]; it gave \[8, 5, 5, 1\]",
        ),
    ):
        with pytest.raises(JaxganError, match=message):
            trained(dataclasses.replace(flat, **parts), batches)


def test_a_penalty_that_is_given_twice_counts_twice(flat, batches):
    again = {penalties.PENALTIES["r1"]: 0.3}
    _, twice = trained(dataclasses.replace(flat, r1=0.1, penalties=again), batches[:1])
    _, once = trained(dataclasses.replace(flat, r1=0.1), batches[:1])
    np.testing.assert_allclose(twice.penalty, 4 * once.penalty, rtol=1e-5)


def test_a_schedule_of_an_own_penalty_lasts_for_the_run(flat):
    config = dataclasses.replace(flat, penalties={own_r1: "linear:1:0"}, r1="cosine:1:0:5")
    found = schedules.over(config, 20)
    assert (found.penalties, found.r1) == (((own_r1, "linear:1:0:20"),), "cosine:1:0:5")


def test_members_without_clipping_equal_runs_without_it(flat, batches):
    state = create_state(RNG, flat)
    zero = population.with_hyperparameters(MODELS["gan"], state, weight_clip=0.0, max_grad_norm=0.0)
    found, expected = (train(one, batches)[0] for one in (zero, state))
    assert_trees_close(arrays(found), arrays(expected))


def test_other_settings_for_samples_count_in_place_of_a_member_s(flat):
    state = create_state(RNG, flat)
    member = population.with_hyperparameters(MODELS["gan"], state, latent_scale=0.5)
    other = learner.with_settings(member, latent_scale=2.0)
    expected = sample(create_state(RNG, dataclasses.replace(flat, latent_scale=2.0)), RNG, 4)
    np.testing.assert_allclose(sample(other, RNG, 4), expected, rtol=1e-6)
    assert (np.asarray(sample(member, RNG, 4)) != np.asarray(expected)).any()


def test_a_step_can_be_lowered(flat, batches):
    state = create_state(RNG, flat)
    assert train_step.lower(state, batches[0], RNG).compile().cost_analysis()


def test_config_json_holds_own_parts_without_addresses(flat):
    config = dataclasses.replace(
        flat, loss=own_hinge, penalties={own_r1: 0.5}, generator_optimizer=ADAM
    )
    described = saved.as_json(config)
    assert described["loss"] == {"own": "<function own_hinge>"}
    assert described["penalties"] == [[{"own": "<function own_r1>"}, 0.5]]
    assert described["r1"] == 0
    assert " at 0x" not in str(described)
    assert "init_fn" in described["generator_optimizer"]["own"]


UNIT = np.linspace(0, 1, 8 * 30, dtype=np.float32).reshape(8, 6, 5, 1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"images": UNIT}, "holds its images as \"image\"; this one has 'images'"),
        ((UNIT, None), "not a tuple"),
        ([UNIT], "not a list"),
        (UNIT, r"these floats are from 0 to 1: give 2 \* x - 1"),
        ({"image": 255 * UNIT}, r"from 0 to 255: give \(x - 127.5\) / 127.5"),
        (UNIT.astype(np.int32), "uint8 or float"),
    ],
)
def test_wrong_batches_are_refused_in_one_line(flat, batch, message):
    state = create_state(RNG, flat)
    for given in (batch, jax.tree.map(jnp.asarray, batch)):
        for _ in range(2):  # the second time too
            with pytest.raises(JaxganError, match=message) as error:
                train_step(state, given, RNG)
            assert "\n" not in str(error.value)


def test_the_loop_refuses_unscaled_floats_and_states(flat):
    state, data = create_state(RNG, flat), UNIT
    with pytest.raises(JaxganError, match="floats are from 0 to 1"):
        loop.start_run(train_step, state, {"image": data}, 4)
    with pytest.raises(JaxganError, match="fit trains a Run, got GANState: give it start_run"):
        loop.fit(train_step, state, 2 * data - 1, RNG, batch_size=4, epochs=1)
    # Points and vectors may have any values.
    vectors = data[:, :1, :1].repeat(2, 3)
    train_step(create_state(RNG, dataclasses.replace(flat, image_shape=(1, 1, 2))), vectors, RNG)
    points = dataclasses.replace(flat, image_shape=(1, 1, 2), bounded=False)
    loop.start_run(train_step, create_state(RNG, points), 300 * vectors, 4)


def test_jax_arrays_are_checked_once_for_each_model(flat):
    good, bad = jnp.asarray(2 * UNIT[:7] - 1), jnp.asarray(UNIT[:7])
    train_step(create_state(RNG, flat), good, RNG)
    other = create_state(RNG, dataclasses.replace(flat, generator_lr=2e-3))
    with pytest.raises(JaxganError, match=r"floats are from 0 to 0\.87"):
        train_step(other, bad, RNG)


def test_a_number_is_no_key(flat):
    state = create_state(RNG, flat)
    for call in (
        lambda: create_state(0, GANConfig()),
        lambda: train_step(state, 2 * UNIT - 1, 0),
        lambda: sample(state, 0, 4),
    ):
        with pytest.raises(JaxganError, match=r"rng must be a key, such as jax.random.key\(0\)"):
            call()
    old = jax.random.PRNGKey(5)
    assert_trees_equal(create_state(old, flat), state)
    with jax.default_prng_impl("rbg"):
        longer = jax.random.PRNGKey(5)
        assert longer.shape == (4,)
        assert sample(state, longer, 2).shape == (2, *flat.image_shape)
