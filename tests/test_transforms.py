"""The contract of `train_step`: it composes with every transformation that users build on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_gan import assert_trees_equal

from jaxgan import GANConfig, create_state, train_step

RNG = jax.random.key(5)
STEPS = 4


@pytest.fixture
def batches(images):
    return jnp.stack([jnp.asarray(images[8 * i : 8 * i + 8]) for i in range(STEPS)])


def train(state, batches, rng=RNG, step=train_step):
    """The plain loop that all else is compared with."""
    history = []
    for batch in batches:
        state, metrics = step(state, batch, rng)
        history.append(metrics)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *history)


def assert_trees_close(a, b):
    """Parameters, optimizer moments, counters, metrics, to the rounding of float32.

    Relative to the largest entry of each leaf: second moments are as small as 1e-7.
    """
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        atol = 2e-5 * float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol)


def test_eager_is_jit(small, batches):
    state = create_state(RNG, small)
    compiled = train(state, batches[:2])
    with jax.disable_jit():
        eager = train(state, batches[:2])
    assert_trees_close(eager, compiled)


def test_scan_of_n_steps_is_n_calls(small, batches):
    state = create_state(RNG, small)
    scanned = jax.lax.scan(lambda state, batch: train_step(state, batch, RNG), state, batches)
    assert_trees_close(scanned, train(state, batches))


def test_vmap_over_seeds_and_learning_rates_is_single_runs(small, batches):
    rngs = jax.random.split(RNG, 3)
    rates = jnp.array([1e-4, 1e-3, 1e-2])

    def with_rate(state, rate):
        for player in ("generator", "discriminator"):
            old = getattr(state, player)
            hyperparams = old.opt_state.hyperparams | {"learning_rate": rate}
            opt_state = old.opt_state._replace(hyperparams=hyperparams)
            state = state.replace(**{player: old.replace(opt_state=opt_state)})
        return state

    def one(rng, rate):
        return with_rate(create_state(rng, small), rate)

    states = jax.vmap(one)(rngs, rates)
    many, metrics = states, None
    for batch in batches:
        many, metrics = jax.vmap(train_step, in_axes=(0, None, 0))(many, batch, rngs)
    for i in range(3):
        single, history = train(one(rngs[i], rates[i]), batches, rngs[i])
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], many), single)
        assert_trees_close(
            jax.tree.map(lambda x, i=i: x[i], metrics), jax.tree.map(lambda x: x[-1], history)
        )
    kernels = jax.tree.leaves(many.generator.params)[-1]
    assert (kernels[0] != kernels[1]).any()


def make_mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))


def test_sharded_batch_is_unsharded(small, batches):
    mesh = make_mesh()
    state = create_state(RNG, small)
    everywhere = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    split = jax.device_put(batches, NamedSharding(mesh, PartitionSpec(None, "data")))
    assert len(split.sharding.device_set) == 2
    assert_trees_close(train(everywhere, split), train(state, batches))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_is_unsharded(small, batches, check_vma):
    # Without dropout, whose masks are drawn shard by shard.
    config = GANConfig(**(vars(small) | {"discriminator_dropout": (0.0, 0.0)}))
    state = create_state(RNG, config)
    step = jax.jit(
        jax.shard_map(
            functools.partial(train_step, axis_name="data"),
            mesh=make_mesh(),
            in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
    )
    assert_trees_close(train(state, batches, step=step), train(state, batches))


def test_shards_draw_their_own_dropout(small, batches):
    state = create_state(RNG, small)
    step = jax.shard_map(
        functools.partial(train_step, axis_name="data"),
        mesh=make_mesh(),
        in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    # Both shards see the same real images: equal masks would give the real score of one shard.
    half = batches[0][:4]
    both = jnp.concatenate([half, half])
    _, metrics = jax.jit(step)(state, both, RNG)
    alone = jax.jit(
        jax.shard_map(
            functools.partial(train_step, axis_name="data"),
            mesh=jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec(),
        )
    )
    _, first = alone(state, half, RNG)
    assert abs(float(metrics.real_score) - float(first.real_score)) > 1e-5


def test_donated_state_gives_the_same(small, batches):
    donating = jax.jit(train_step, donate_argnums=0)
    kept = create_state(RNG, small)
    donated = jax.tree.map(jnp.copy, kept)
    result = train(donated, batches, step=donating)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))
    assert_trees_equal(result, train(kept, batches))
