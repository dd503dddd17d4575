"""The contract of `train_step`: it composes with every transformation that users build on.

It holds for each model of MODELS. The diffusion model has labels here; test_remedies.py has GANs
with labels.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    RNG,
    SIZE,
    assert_trees_close,
    contract_config,
    make_mesh,
    make_shard_map,
    placed,
    train,
)

from jaxgan import MODELS, JaxganError, create_state, train_step
from jaxgan.labels import num_classes
from jaxgan.run.population import member, with_hyperparameters


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def config(model, tiny):
    config = contract_config(model, tiny)
    return dataclasses.replace(config, generator_widths=()) if model.name == "gan" else config


@pytest.fixture(scope="module")
def batches():
    """Four batches, as dicts of arrays `[4, ...]`."""
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, 4, 4, 1), np.uint8)
    labels = np.arange(4 * SIZE, dtype=np.int32).reshape(4, SIZE) % 3
    return {"image": images, "label": labels}


def each(batches, n=4):
    """The first n batches, one after another."""
    return [jax.tree.map(lambda x, i=i: x[i], batches) for i in range(n)]


@pytest.fixture(scope="module")
def state(model, config):
    return model.create_state(RNG, config)


@pytest.fixture(scope="module")
def plain(model, state, batches):
    """The plain loop, with which all else is compared."""
    return train(state, each(batches), step=model.train_step)


def test_eager_is_jit(model, state, batches):
    first, second = each(batches, 2)
    state, _ = train(state, [first], step=model.train_step)  # no moment is 0 then
    with jax.disable_jit():
        eager = train(state, [second], step=model.train_step)
    assert_trees_close(eager, train(state, [second], step=model.train_step))


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_a_number_of_samples_is_above_0(model, state, n):
    with pytest.raises(JaxganError, match="n, how many samples, must be a whole number above 0"):
        model.sample(state, RNG, n)


HYPERPARAMETERS = {
    "augment": (0.5, 0.9),
    "ema_decay": (0.5, 0.05),
    "guidance": (1.5, 3.0),
    "label_dropout": (0.3, 0.6),
    "latent_scale": (0.7, 1.3),
    "max_grad_norm": (0.1, 0.3),
    "missing_rate": (0.2, 0.5),
    "weight_bound": (2.0, 8.0),
    "weight_clip": (0.05, 0.2),
}


def test_vmap_over_seeds_and_hyperparameters_is_single_runs(model, config, batches):
    rngs = jax.random.split(RNG, 2)
    rates = {name: (1e-4, 1e-2) for name in model.hyperparameters if name.endswith("lr")}
    names = [name for name, paths in model.hyperparameters.items() if not paths]
    values = {name: HYPERPARAMETERS.get(name, (0.1, 0.4)) for name in names}
    configs = [dataclasses.replace(config, **{k: v[i] for k, v in values.items()}) for i in (0, 1)]

    @jax.jit
    def create(rng, values):
        return with_hyperparameters(model, model.create_state(rng, configs[0]), **values)

    arrays = {name: jnp.array(both) for name, both in (rates | values).items()}
    many = jax.vmap(create)(rngs, arrays)
    step = jax.vmap(model.train_step, in_axes=(0, None, 0))
    many, metrics = train(many, each(batches, 2), rngs, step)
    many = jax.device_get(many)
    labels = (0,) if num_classes(config) else ()
    samples = jax.vmap(lambda state: model.sample(state, RNG, 4, *labels))(many)
    # The config of the states has the values of the first member: the second shows whether its own
    # count.
    single = model.create_state(rngs[1], configs[1])
    single = with_hyperparameters(model, single, **{name: both[1] for name, both in rates.items()})
    single, history = train(single, each(batches, 2), rngs[1], model.train_step)
    mine = member(many, 1)
    if names:
        assert set(mine.hyperparameters) == set(names)
        mine = mine.replace(hyperparameters={})
    assert (np.asarray(samples[0]) != np.asarray(samples[1])).any()
    expected = model.sample(single, RNG, 4, *labels)
    # Their optimizers are other objects, so their structures differ.
    assert_trees_close(jax.tree.leaves((mine, samples[1])), jax.tree.leaves((single, expected)))
    assert_trees_close(jax.tree.map(lambda x: x[:, 1], metrics), history)


def test_scan_over_sharded_batches_with_a_donated_state_is_n_calls_with_whole_ones(
    model, state, batches, plain
):
    split = placed(batches, None, "data")
    assert all(len(x.sharding.device_set) == 2 for x in jax.tree.leaves(split))

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, batches):
        return jax.lax.scan(
            lambda state, batch: model.train_step(state, batch, RNG), state, batches
        )

    donated = placed(jax.device_get(state))
    assert_trees_close(scan(donated, split), plain)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))


def test_shard_map_is_unsharded(model, config, batches):
    # Without dropout, whose masks are drawn shard by shard. For check_vma=False see test_remedies.
    if model.name == "gan":
        config = dataclasses.replace(config, discriminator_dropout=(0.0,))
    state, step = model.create_state(RNG, config), make_shard_map(model.train_step, make_mesh())
    # With a placed state all steps are one program.
    found = train(placed(state), each(batches), step=step)
    assert_trees_close(found, train(state, each(batches), step=model.train_step))


def test_shards_draw_their_own_dropout(tiny, batches):
    # The shards change their images: with equal masks the mean score would stay.
    state = create_state(RNG, dataclasses.replace(tiny, image_shape=(4, 4, 1), latent_dim=SIZE))
    step, images = make_shard_map(train_step, make_mesh()), batches["image"][0]
    _, one = step(state, images, RNG)
    _, other = step(state, np.roll(images, SIZE // 2, axis=0), RNG)
    assert abs(float(one.real_score) - float(other.real_score)) > 1e-5
