import copy
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import RNG, assert_trees_equal

from jaxgan import JaxganError, create_state, train_step
from jaxgan.learner import average, create, descend, forward, norm, start_average

INPUTS = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)


class Affine(nn.Module):
    """w x + b, without an argument `train`."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.constant(2.0), ())
        return w * x + self.param("b", nn.initializers.constant(-1.0), ())


class Mode(nn.Module):
    """Gives 1 in training passes and 0 in others; counts the training passes."""

    @nn.compact
    def __call__(self, x, train):
        passes = self.variable("counts", "passes", lambda: jnp.zeros((), jnp.int32))
        if train:
            passes.value = passes.value + 1
        return jnp.full(x.shape[:1], float(train))


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        return Mode()(x, not deterministic)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training: bool = False):
        return Mode()(x, training)


class Keywords(nn.Module):
    @nn.compact
    def __call__(self, x, **kwargs):
        return Mode()(x, **kwargs)


class NoiseNNX(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs

    def __call__(self, x):
        return x + jax.random.normal(self.rngs.noise(), x.shape)


class Conditional(nn.Module):
    @nn.compact
    def __call__(self, x, labels, train: bool):
        return Mode()(x, train) + 0 * labels


class WithDropout(nnx.Module):
    def __init__(self, rngs):
        self.mode, self.dropout = NNX(rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, train: bool = False):
        dropped = self.dropout(x, deterministic=not train)
        return jnp.where((dropped == x).all(), 0.0, self.mode(x, train))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.passes = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x, train: bool = False):
        self.passes[...] = self.passes[...] + int(train)
        return jnp.full(x.shape[:1], float(train))


def learner_of(module, tx=None):
    return create(module, tx or optax.sgd(0.1), RNG, INPUTS)


def test_a_new_learner_has_parameters_collections_and_no_steps():
    learner = learner_of(Mode())
    assert learner.params == {}
    assert learner.collections == {"counts": {"passes": 0}}
    assert learner_of(Affine()).params == {"w": 2, "b": -1}
    # A weak type would become another type in a checkpoint, and cost a trace.
    assert (learner.step, learner.step.dtype, learner.step.weak_type) == (0, jnp.int32, False)


def test_forward_passes_train_only_to_modules_that_take_it():
    outputs, same = forward(learner_of(Affine()), INPUTS, RNG, train=True)
    np.testing.assert_array_equal(outputs, 2 * INPUTS - 1)
    assert same.collections == {}


@pytest.mark.parametrize(
    "module",
    [
        Mode(),
        Deterministic(),
        Training(),
        Keywords(),
        nn.remat(Mode, static_argnums=(2,))(),
        nn.jit(Mode, static_argnames=("train",))(),
        nnx.bridge.ToLinen(NNX),
        nnx.bridge.ToLinen(WithDropout),
    ],
    ids=["train", "deterministic", "training", "kwargs", "remat", "jit", "NNX", "NNX dropout"],
)
def test_a_module_is_told_the_mode_under_the_name_that_it_knows(module):
    learner = learner_of(module)
    training, after = forward(learner, INPUTS, RNG, train=True)
    np.testing.assert_array_equal(training, [1, 1])
    assert jax.tree.leaves(after.collections) == [1]
    other, unchanged = forward(after, INPUTS, RNG, train=False)
    np.testing.assert_array_equal(other, [0, 0])
    assert_trees_equal(unchanged.collections, after.collections)


def test_a_module_is_told_the_mode_under_all_names_that_it_knows():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic: bool = True, use_running_average: bool = True):
            return Mode()(x, not deterministic and not use_running_average)

    training, _ = forward(learner_of(Both()), INPUTS, RNG, train=True)
    np.testing.assert_array_equal(training, [1, 1])


def test_rematerialized_networks_with_labels_are_told_the_mode_by_position():
    labels = jnp.zeros(2)
    module = nn.remat(Conditional, static_argnums=(3,))()
    learner = create(module, optax.sgd(0.1), RNG, INPUTS, labels=labels)
    for train in (True, False):
        outputs, _ = forward(learner, INPUTS, RNG, train=train, labels=labels)
        np.testing.assert_array_equal(outputs, [train, train])


def test_layers_in_a_row_get_the_mode_if_the_first_takes_it():
    plain = learner_of(nn.Sequential((nn.Dense(3), jnp.tanh)))
    assert forward(plain, INPUTS, RNG, train=True)[0].shape == (2, 3)
    told = learner_of(nn.Sequential((Deterministic(), jnp.negative)))
    np.testing.assert_array_equal(forward(told, INPUTS, RNG, train=True)[0], [-1, -1])
    with pytest.raises(JaxganError, match="Dropout in Sequential would be off in training too"):
        learner_of(nn.Sequential((nn.Dense(3), nn.Dropout(0.5, deterministic=True))))


class Eval(nn.Module):
    """Its name for the mode is not known."""

    @nn.compact
    def __call__(self, x, eval: bool = True):  # noqa: A002
        return nn.Dropout(0.5)(nn.BatchNorm(use_running_average=eval)(x), deterministic=eval)


class OneOfTwo(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=True)(x)
        return nn.Dropout(0.5, deterministic=False)(x)


class Swallows(nn.Module):
    @nn.compact
    def __call__(self, x, **kwargs):
        return nn.Dropout(0.5, deterministic=kwargs.get("eval", True))(x)


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (Eval(), "BatchNorm and Dropout in Eval"),
        (OneOfTwo(), "Dropout in OneOfTwo"),
        (Swallows(), "Dropout in Swallows"),
    ],
)
def test_dropout_that_would_stay_off_is_refused(module, layers):
    with pytest.raises(JaxganError, match=f"{layers} would be off in training too: .* `train`"):
        learner_of(module)


def test_dropout_that_is_always_on_is_taken():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(x)

    learner = learner_of(Noisy())
    assert (forward(learner, INPUTS, RNG, train=False)[0] == 0).any()


class Wrong(nn.Module):
    @nn.compact
    def __call__(self, x, **kwargs):
        return nn.Dense(1)(x, train=kwargs["train"])


def test_the_errors_of_a_module_are_its_own():
    with pytest.raises(TypeError, match="unexpected keyword argument 'train'"):
        learner_of(Wrong())

    class Picky(nn.Module):
        def __call__(self, x, train):
            raise ValueError(f"no inputs of {x.shape}")

    with pytest.raises(ValueError, match=r"no inputs of \(2, 2\)"):
        learner_of(Picky())


class Noise(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


@pytest.mark.parametrize("module", [Noise(), nnx.bridge.ToLinen(NoiseNNX)], ids=["linen", "NNX"])
def test_forward_draws_any_random_stream_from_its_rng(module):
    learner, other = learner_of(module), jax.random.key(7)
    for train in (False, True):
        first, again = (forward(learner, INPUTS, RNG, train=train)[0] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (forward(learner, INPUTS, other, train=train)[0] != first).all()


def test_moments_of_narrow_parameters_are_float32():
    layer = nn.Dense(2, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    learner = learner_of(layer, optax.inject_hyperparams(optax.adam)(1e-2))
    grads = jax.tree.map(jnp.ones_like, learner.params)
    after = descend(learner, grads)
    types = [[x.dtype for x in jax.tree.leaves(one)] for one in (learner, after)]
    assert types[0] == types[1]
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(after.params))
    adam = after.opt_state.hyperparams
    assert (adam["b2"].dtype, float(adam["b2"])) == (jnp.float32, np.float32(0.999))


def test_forward_draws_dropout_from_its_rng_in_training_alone():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dropout(0.5, deterministic=not train)(x)

    learner = learner_of(Dropped())
    x = np.ones((50, 2), np.float32)
    run = jax.jit(lambda rng: forward(learner, x, rng, train=True)[0])
    first, again, other = (np.asarray(run(jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(np.unique(first), [0, 2])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(forward(learner, x, RNG, train=False)[0], x)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # w = 2 and b = -1, by gradients of 5 and -30 and a learning rate of 0.1.
        ({}, (1.5, 2.0)),
        ({"scale": 0.5}, (1.75, 0.5)),
        ({"scale": jnp.float32(0.5)}, (1.75, 0.5)),
        ({"clip": 1.75}, (1.5, 1.75)),
        ({"scale": 2.0, "clip": 0.25}, (0.25, 0.25)),
        # Parameters are clipped, not the update.
        ({"scale": 0.0, "clip": 0.5}, (0.5, -0.5)),
    ],
)
def test_descend_scales_the_update_and_clips_the_parameters(options, expected):
    learner = learner_of(Affine())
    after = descend(learner, {"w": jnp.float32(5), "b": jnp.float32(-30)}, **options)
    np.testing.assert_allclose((after.params["w"], after.params["b"]), expected, rtol=1e-6)
    assert after.step == 1
    assert learner.step == 0


def test_the_scale_does_not_change_the_moments_of_adam():
    learner = learner_of(Affine(), optax.inject_hyperparams(optax.adam)(0.1))
    grads = {"w": jnp.float32(3), "b": jnp.float32(-2)}
    whole, part = jax.jit(lambda: tuple(descend(learner, grads, s) for s in (1.0, 0.25)))()
    assert_trees_equal(whole.opt_state, part.opt_state)
    for name, sign in (("w", -1), ("b", 1)):
        # Adam's first update is the learning rate.
        for after, scale in ((whole, 1), (part, 0.25)):
            moved = after.params[name] - learner.params[name]
            np.testing.assert_allclose(moved, 0.1 * scale * sign, rtol=1e-5)


def test_average_has_its_closed_form():
    mean, params = {"a": jnp.array([2.0, -1.0])}, {"a": jnp.array([0.0, 5.0])}
    update = jax.jit(average, static_argnames="decay")
    for decay in (0.0, 0.5, 0.999):
        for step in (0, 3, 8, 100, 10**6):
            now = min(decay, (1 + step) / (10 + step))
            found = update(mean, params, decay, jnp.int32(step))
            expected = [now * 2, now * -1 + (1 - now) * 5]
            np.testing.assert_allclose(found["a"], expected, rtol=1e-6, atol=1e-6)
    # If the parameters stay the same, the distance of the mean from them shrinks in n steps by the
    # product of (1 + t) / (10 + t) for t < n, which is 9! / ((n + 1) ... (n + 9)).
    found = mean
    for step in range(12):
        found = update(found, params, 0.999, jnp.int32(step))
    rest = math.factorial(9) / math.prod(range(13, 22))
    np.testing.assert_allclose(found["a"], [2 * rest, 5 - 6 * rest], rtol=1e-5)


def test_an_average_of_narrow_parameters_is_float32_and_moves():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.bfloat16)}
    mean = start_average(jax.tree.map(lambda p: p + 1, params), 0.9995)
    found = average(mean, params, 0.9995, jnp.int32(10**6))
    for one in found.values():
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, 0.9995, rtol=1e-6)  # in bfloat16 this is 1
    assert start_average(params, 0.0) is None
    assert average(None, params, 0.9995, jnp.int32(3)) is None


@pytest.mark.parametrize("clip", [0.25, jnp.float32(0.25)])
def test_clipped_parameters_keep_their_type(clip):
    learner = learner_of(nn.Dense(2, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    after = descend(learner, jax.tree.map(jnp.ones_like, learner.params), clip=clip)
    for one in jax.tree.leaves(after.params):
        assert one.dtype == jnp.bfloat16
        assert np.abs(one.astype(jnp.float32)).max() <= 0.25


def test_a_deep_copy_of_a_state_is_the_same_to_jit(tiny, images):
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, images, train: bool = False):
            traces.append(images.shape)
            return nn.Dense(1)(images.reshape(images.shape[0], -1))

    config = dataclasses.replace(tiny, generator_widths=(), discriminator=Counted())
    state = create_state(RNG, config)
    after = train_step(state, images, RNG)
    once = len(traces)
    copied = copy.deepcopy(state)
    assert copied is not state
    assert jax.tree.structure(copied) == jax.tree.structure(state)
    assert_trees_equal(train_step(copied, images, RNG), after)
    assert len(traces) == once
    # Also if the copy is of a state that took steps.
    train_step(copy.deepcopy(after[0]), images, RNG)
    assert len(traces) == once


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_norm_is_that_of_all_numbers_as_one_vector(monkeypatch, on_gpu):
    tree = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.full(4, -3.0, jnp.bfloat16)}
    if on_gpu:
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *xs, cuda, **_: cuda(*xs))
    vector = np.concatenate([np.ravel(x).astype(np.float64) for x in tree.values()])
    found = jax.jit(lambda tree: norm(tree))(tree)
    np.testing.assert_allclose(found, np.linalg.norm(vector), rtol=1e-6)
    assert found.dtype == jnp.float32
    assert norm({}) == 0
