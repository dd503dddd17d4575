"""Steps and samples on meshes with explicit axes, the default of `jax.make_mesh`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG, SIZE, assert_trees_close, contract_config, train
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgan import MODELS, JaxganError, create_state, sample, train_step

OPTIONS = {
    "all": {
        "spectral_norm": True,
        "r1": 1.0,
        "augment": 0.5,
        "instance_noise": 0.1,
        "ema_decay": 0.9,
        "num_classes": 3,
        "pac": 2,
        "updates": "alternating",
        "disc_steps": 2,
    },
    "private": {"clip_norm": 1.0, "noise_multiplier": 0.1, "discriminator_dropout": (0.5,)},
}
"""Of GANs."""


def make_mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))


def placed(tree, *axes):
    """A tree of arrays on the devices of `make_mesh`, split along these axes."""
    return jax.device_put(tree, NamedSharding(make_mesh(), PartitionSpec(*axes)))


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def config(model, tiny):
    smaller = {"gan": {"generator_widths": ()}, "diffusion": {"sample_steps": 3}}
    return dataclasses.replace(contract_config(model, tiny), **smaller.get(model.name, {}))


@pytest.fixture(scope="module")
def gan(tiny):
    """A GAN whose generator has one layer."""
    return dataclasses.replace(tiny, image_shape=(4, 4, 1), generator_widths=())


@pytest.fixture(scope="module")
def batches():
    """Two batches."""
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, 4, 4, 1), np.uint8)
    labels = np.arange(2 * SIZE).reshape(2, SIZE) % 3
    return [{"image": images[i], "label": labels[i]} for i in range(2)]


@pytest.fixture(scope="module")
def plain(model, config, batches):
    """The first state, and the plain loop, with which all else is compared."""
    state = model.create_state(RNG, config)
    return state, train(state, batches, step=model.train_step)


@pytest.mark.parametrize("spread", [False, True])
def test_explicit_mesh_is_no_mesh(model, plain, batches, spread):
    state, expected = plain
    split = [placed(batch, "data") for batch in batches]
    start = placed(state) if spread else state
    found = train(start, split, step=model.train_step)
    assert_trees_close(found, expected)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(found[0]))
    # From one state: rounding may turn the eigenvectors of a Gaussian.
    sample = functools.partial(model.sample, rng=RNG, n=4)
    assert_trees_close(sample(placed(expected[0])), sample(expected[0]))
    if not spread:
        return
    many = placed(jax.tree.map(lambda *x: jnp.stack(x), *batches), None, "data")
    found = jax.lax.scan(lambda state, batch: model.train_step(state, batch, RNG), start, many)
    assert_trees_close(found, expected)


def test_set_mesh_is_no_mesh(model, config, plain, batches):
    with jax.set_mesh(make_mesh()):
        for given in (batches, [placed(batch, "data") for batch in batches]):
            state = model.create_state(RNG, config)
            assert_trees_close(train(state, given, step=model.train_step), plain[1])
        state = plain[1][0]
        samples = [model.sample(state, RNG, 4) for state in (state, placed(state))]
    for found in samples:
        assert_trees_close(found, model.sample(state, RNG, 4))


def test_shard_map_over_explicit_mesh_is_no_mesh(gan, batches):
    # Each shard would draw its own dropout.
    config = dataclasses.replace(gan, discriminator_dropout=(0.0,))
    state, mesh = create_state(RNG, config), make_mesh()
    whole = PartitionSpec()
    step = jax.shard_map(
        functools.partial(train_step, axis_name="data"),
        mesh=mesh,
        in_specs=(whole, PartitionSpec("data"), whole),
        out_specs=whole,
    )
    found = jax.jit(step)(placed(state), placed(batches[0]["image"], "data"), RNG)
    assert_trees_close(found, train_step(state, batches[0]["image"], RNG))


def test_sample_refuses_split_parameters(tiny):
    state = create_state(RNG, tiny)
    width = state.generator.params["Dense_0"]["kernel"].shape[1]
    assert width % 2 == 0

    def split(x):
        return placed(x, None, "data") if x.shape[1:] == (width,) else placed(x)

    with pytest.raises(JaxganError, match=r"AxisType\.Auto"):
        sample(jax.tree.map(split, state), RNG, 4)


def test_step_on_explicit_mesh_is_split(gan, batches):
    state = create_state(RNG, gan)
    split = placed(batches[0]["image"], "data")
    program = jax.jit(train_step).lower(placed(state), split, RNG).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program


@pytest.mark.parametrize("name", OPTIONS)
def test_options_on_explicit_mesh(gan, batches, name):
    # SGD: Adam would magnify the rounding of gradients that are almost 0.
    options = {"discriminator_dropout": (0.0,), "optimizer": "sgd", **OPTIONS[name]}
    config = dataclasses.replace(gan, **options)
    state = create_state(RNG, config)
    expected = train(state, batches)
    # With a placed state both steps are one program.
    found = train(placed(state), [placed(batch, "data") for batch in batches])
    assert_trees_close(found, expected)
