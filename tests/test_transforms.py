"""The contract of `train_step`: it composes with every transformation that users build on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    RNG,
    assert_trees_close,
    assert_trees_equal,
    make_mesh,
    make_shard_map,
    placed,
    train,
)

from jaxgan import MODELS, create_state, train_step
from jaxgan.run.population import member, with_hyperparameters

SIZE = 16
"""Of batches, images, latents and layers: each new shape takes time to compile."""


@pytest.fixture(scope="module")
def config(tiny):
    return dataclasses.replace(tiny, image_shape=(4, 4, 1), latent_dim=SIZE)


@pytest.fixture(scope="module")
def batches():
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, 4, 4, 1), np.uint8)
    return jnp.asarray(images)


@pytest.fixture(scope="module")
def state(config):
    assert {SIZE} == {*config.generator_widths, *config.discriminator_widths}
    return create_state(RNG, config)


@pytest.fixture(scope="module")
def plain(state, batches):
    """The plain loop, with which all else is compared."""
    return train(state, batches)


def test_eager_is_jit(state, batches):
    with jax.disable_jit():
        eager = train(state, batches[:2])
    assert_trees_close(eager, train(state, batches[:2]))


def test_vmap_over_seeds_and_learning_rates_is_single_runs(config, batches):
    rngs = jax.random.split(RNG, 3)
    rates = jnp.array([1e-4, 1e-3, 1e-2])

    @jax.jit
    def create(rng, rate):
        values = {"generator_lr": rate, "discriminator_lr": rate}
        return with_hyperparameters(MODELS["gan"], create_state(rng, config), **values)

    step = jax.vmap(train_step, in_axes=(0, None, 0))
    many, metrics = train(jax.vmap(create)(rngs, rates), batches, rngs, step)
    last = jax.tree.map(lambda x: x[-1], metrics)
    for i in range(3):
        single, history = train(create(rngs[i], rates[i]), batches, rngs[i])
        assert_trees_close(member(many, i), single)
        assert_trees_close(member(last, i), jax.tree.map(lambda x: x[-1], history))
    kernels = np.asarray(jax.tree.leaves(many.generator.params)[-1])
    assert (kernels[0] != kernels[1]).any()


def test_scan_over_sharded_batches_is_n_calls_with_whole_ones(state, batches, plain):
    split = placed(batches, None, "data")
    assert len(split.sharding.device_set) == 2
    step = lambda state, batch: train_step(state, batch, RNG)  # noqa: E731
    assert_trees_close(jax.lax.scan(step, placed(state), split), plain)


def test_shard_map_is_unsharded(config, batches):
    # Without dropout, whose masks are drawn shard by shard. For check_vma=False see test_remedies.
    state = create_state(RNG, dataclasses.replace(config, discriminator_dropout=(0.0,)))
    step = make_shard_map(train_step, make_mesh())
    assert_trees_close(train(state, batches, step=step), train(state, batches))


def test_shards_draw_their_own_dropout(state, batches):
    # The shards change their images: with equal masks the mean score would stay.
    step = make_shard_map(train_step, make_mesh())
    _, one = step(state, batches[0], RNG)
    _, other = step(state, jnp.roll(batches[0], SIZE // 2, axis=0), RNG)
    assert abs(float(one.real_score) - float(other.real_score)) > 1e-5


def test_donated_state_gives_the_same(state, batches, plain):
    donating = jax.jit(train_step, donate_argnums=0)
    donated = jax.tree.map(jnp.copy, state)
    result = train(donated, batches, step=donating)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert_trees_equal(result, plain)
