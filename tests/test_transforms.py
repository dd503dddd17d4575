"""The contract of `train_step`: it composes with every transformation that users build on.

It holds for each model of MODELS. The diffusion model has labels here; test_remedies.py has GANs
with labels.
"""

import dataclasses

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

from jaxgan import MODELS, create_state, train_step
from jaxgan.labels import num_classes
from jaxgan.run.population import member, with_hyperparameters


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def config(model, tiny):
    return contract_config(model, tiny)


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


def test_vmap_over_seeds_and_learning_rates_is_single_runs(model, config, batches):
    rngs = jax.random.split(RNG, 3)
    rates = jnp.array([1e-4, 1e-3, 1e-2])

    @jax.jit
    def create(rng, rate):
        values = {name: rate for name in model.hyperparameters if name.endswith("lr")}
        return with_hyperparameters(model, model.create_state(rng, config), **values)

    step = jax.vmap(model.train_step, in_axes=(0, None, 0))
    many, metrics = train(jax.vmap(create)(rngs, rates), each(batches), rngs, step)
    last = jax.tree.map(lambda x: x[-1], metrics)
    for i in range(3):
        alone = create(rngs[i], rates[i])
        single, history = train(alone, each(batches), rngs[i], model.train_step)
        assert_trees_close(member(many, i), single)
        assert_trees_close(member(last, i), jax.tree.map(lambda x: x[-1], history))
    kernels = many.means if model.name == "gaussian" else None
    if kernels is None:
        learner = next(iter(model.hyperparameters.values()))[0][0]
        kernels = jax.tree.leaves(getattr(many, learner).params)[-1]
    kernels = np.asarray(kernels)
    assert (kernels[0] != kernels[1]).any()


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


def test_vmap_over_hyperparameters_is_single_runs(model, config, batches):
    names = [name for name, paths in model.hyperparameters.items() if not paths]
    values = {name: HYPERPARAMETERS.get(name, (0.1, 0.4)) for name in names}
    configs = [dataclasses.replace(config, **{k: v[i] for k, v in values.items()}) for i in (0, 1)]

    @jax.jit
    def create(values):
        return with_hyperparameters(model, model.create_state(RNG, configs[0]), **values)

    arrays = {name: jnp.array(both) for name, both in values.items()}
    many = jax.vmap(create, axis_size=2)(arrays)
    step = jax.vmap(model.train_step, in_axes=(0, None, None))
    many, metrics = train(many, each(batches, 2), step=step)
    labels = (0,) if num_classes(config) else ()
    samples = jax.vmap(lambda state: model.sample(state, RNG, 4, *labels))(many)
    # The config of the states has the values of the first member: the second shows whether its own
    # count.
    single, history = train(
        model.create_state(RNG, configs[1]), each(batches, 2), step=model.train_step
    )
    mine = member(many, 1)
    if names:
        assert set(mine.hyperparameters) == set(names)
        mine = mine.replace(hyperparameters={})
        assert (np.asarray(samples[0]) != np.asarray(samples[1])).any()
    expected = model.sample(single, RNG, 4, *labels)
    # Their optimizers are other objects, so their structures differ.
    assert_trees_close(jax.tree.leaves((mine, samples[1])), jax.tree.leaves((single, expected)))
    assert_trees_close(jax.tree.map(lambda x: x[:, 1], metrics), history)


def test_scan_over_sharded_batches_is_n_calls_with_whole_ones(model, state, batches, plain):
    split = placed(batches, None, "data")
    assert all(len(x.sharding.device_set) == 2 for x in jax.tree.leaves(split))
    step = lambda state, batch: model.train_step(state, batch, RNG)  # noqa: E731
    assert_trees_close(jax.lax.scan(step, placed(state), split), plain)


def test_shard_map_is_unsharded(model, config, batches):
    # Without dropout, whose masks are drawn shard by shard. For check_vma=False see test_remedies.
    if model.name == "gan":
        config = dataclasses.replace(config, discriminator_dropout=(0.0,))
    state, step = model.create_state(RNG, config), make_shard_map(model.train_step, make_mesh())
    found = train(state, each(batches), step=step)
    assert_trees_close(found, train(state, each(batches), step=model.train_step))


def test_shards_draw_their_own_dropout(tiny, batches):
    # The shards change their images: with equal masks the mean score would stay.
    state = create_state(RNG, dataclasses.replace(tiny, image_shape=(4, 4, 1), latent_dim=SIZE))
    step, images = make_shard_map(train_step, make_mesh()), batches["image"][0]
    _, one = step(state, images, RNG)
    _, other = step(state, np.roll(images, SIZE // 2, axis=0), RNG)
    assert abs(float(one.real_score) - float(other.real_score)) > 1e-5


def test_donated_state_gives_the_same(model, state, batches, plain):
    donating = jax.jit(model.train_step, donate_argnums=0)
    donated = jax.tree.map(jnp.copy, state)
    result = train(donated, each(batches), step=donating)
    # A fit of Gaussians uses nothing of the state but its step.
    used = donated.step if model.name == "gaussian" else donated
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(used))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    # It is another program, which may round otherwise.
    assert_trees_close(result, plain)
