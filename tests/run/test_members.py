"""One run and a population, behind the same methods."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from helpers import assert_trees_equal

from jaxgan import JaxganError, TrainConfig, loop
from jaxgan.run import population
from jaxgan.run.members import OneRun, Population, make_runs

CONFIG = toy.ToyConfig()
DATA_SETTINGS = {"batch_size": 5, "epochs": 2, "progress": False}


def make(**settings) -> OneRun:
    return make_runs(toy.MODEL, CONFIG, TrainConfig(seed=5, **settings))


def only(tree):
    """The only member of a population of one."""
    assert {leaf.shape[0] for leaf in jax.tree.leaves(tree)} == {1}
    return population.member(tree, 0)


def test_a_population_is_made_if_members_are_asked_for():
    assert type(make()) is OneRun
    assert type(make(population=1)) is Population
    assert type(make(sweep=("lr=0.1",))) is Population
    assert OneRun.folder_suffix != Population.folder_suffix


def test_both_have_the_same_methods():
    def methods(kind):
        return {
            name: tuple(inspect.signature(method).parameters)
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and name != "member_picture"  # of one member in both
        }

    assert methods(OneRun) == methods(Population)


def test_the_members_of_a_sweep_are_each_value_with_each_seed():
    runs = make(population=2, sweep=("lr=0.5,0.25", "lr2=1"))
    assert runs.labels == [
        {"member": 0, "seed": 5, "lr": 0.5, "lr2": 1},
        {"member": 1, "seed": 6, "lr": 0.5, "lr2": 1},
        {"member": 2, "seed": 5, "lr": 0.25, "lr2": 1},
        {"member": 3, "seed": 6, "lr": 0.25, "lr2": 1},
    ]
    # A sweep alone has one seed for each value.
    assert [label["seed"] for label in make(sweep=("lr=1,2",)).labels] == [5, 5]
    assert make().labels == [{}]


@pytest.fixture(scope="module")
def pair(images):
    """One run and a population of the same member, and both after two epochs."""
    trained = []
    for runs in (make(), make(population=1)):
        layout = runs.make_layout(1)
        start = loop.start_run(toy.train_step, runs.create_state(), images, 5, layout)
        training = runs.rngs.training
        run = runs.fit(toy.train_step, start, images, training, layout=layout, **DATA_SETTINGS)
        trained.append((runs, run))
    return trained


def test_they_start_with_the_same_state_and_keys(pair):
    (one, _), (many, _) = pair
    assert_trees_equal(only(many.create_state()), one.create_state())
    for key, keys in zip(one.rngs, many.rngs, strict=True):
        assert keys.shape == (1,)
        assert (jax.random.key_data(keys[0]) == jax.random.key_data(key)).all()


def test_they_train_to_the_same_numbers(pair):
    (_, run), (_, runs) = pair
    assert run.state.step == 14
    assert_trees_equal(only(runs.state), run.state)
    for row, expected in zip(runs.history, run.history, strict=True):
        assert row.keys() == expected.keys()
        for name in ("loss", "size"):
            assert row[name] == [expected[name]]
        for name in ("epoch", "step"):
            assert row[name] == expected[name]


def test_they_give_the_same_members(pair):
    (one, run), (many, runs) = pair
    ((state, rng),) = one.members(run.state)
    ((member, member_rng),) = many.members(runs.state)
    assert_trees_equal(member, state)
    assert (jax.random.key_data(member_rng) == jax.random.key_data(rng)).all()


def test_they_give_the_same_scores(pair):
    (one, run), (many, runs) = pair

    def score(state, rng):
        return {"mean": float(toy.sample(state, rng, 9).mean()), "step": int(state.step)}

    expected = one.evaluate(score, run.state)
    assert many.evaluate(score, runs.state) == {k: [v] for k, v in expected.items()}


def test_they_give_the_same_pictures(pair):
    (one, run), (many, runs) = pair
    images, columns, _ = one.pictures(run.state)
    assert (images.shape, columns) == ((16, 6, 5, 1), None)
    # A row for the member, of the first half of its samples.
    row, columns, _ = many.pictures(runs.state)
    assert (row.shape, columns) == ((8, 6, 5, 1), 8)
    np.testing.assert_allclose(row, images[:8], rtol=1e-6, atol=1e-6)


def test_they_choose_the_same_state(pair):
    (one, run), (many, runs) = pair
    for best in (None, 0):
        assert one.index(run.history, None, best) == many.index(runs.history, None, best) == 0
    assert many.index([], 0, None) == 0
    assert_trees_equal(one.member_state(run.state, 0), run.state)
    assert_trees_equal(many.member_state(runs.state, 0), run.state)
    with pytest.raises(JaxganError, match="one run, not a population: it has no member 0"):
        one.index([], 0, None)
    for i in (-1, 1):
        with pytest.raises(JaxganError, match=f"has the members 0 to 0, and no member {i}"):
            many.index([], i, None)


def test_only_a_population_has_a_report(pair):
    (one, run), (many, runs) = pair
    assert one.report(run.history) is None
    assert many.report([]) is None
    report = many.report(runs.history)
    assert (report.nearest_to_equilibrium, report.diverged) == (0, [])
    assert report.summary[0]["loss_mean"] == run.history[-1]["loss"]


def test_the_best_member_is_the_one_asked_for_or_else_that_of_the_report():
    runs = make(population=3)
    nan = float("nan")
    history = [{"loss": [1.0, nan, 2.0], "missed": [0.9, nan, 0.1]}]
    for best, i in ((1, 1), (None, 2)):
        assert runs.index(history, None, best) == i
    # Without an epoch or a score it is the first that has not diverged.
    for history, i in (([], 0), ([{"loss": [2.0, 1.0, 1.0]}], 0), ([{"loss": [nan, 1.0, 1.0]}], 1)):
        assert runs.index(history, None, None) == i


def test_a_picture_shows_eight_members():
    runs = make(population=9)
    states = runs.create_state()
    images, columns, _ = runs.pictures(states)
    assert (images.shape, columns) == ((64, 6, 5, 1), 8)
    for i in (0, 7):
        expected = toy.sample(population.member(states, i), runs.rngs.pictures[i], 16)
        np.testing.assert_allclose(images[8 * i : 8 * i + 8], expected[:8], rtol=1e-6, atol=1e-6)


def test_the_picture_of_a_population_has_a_column_for_each_class():
    def sample(state, rng, n, labels):
        del state, rng
        return jnp.broadcast_to(labels[:, None, None, None], (n, 6, 5, 1))

    config = type("Config", (), {"image_shape": (6, 5, 1), "num_classes": 3})()
    model = toy.MODEL._replace(sample=sample)
    runs = make_runs(model, config, TrainConfig(population=2))
    states = jax.tree.map(lambda x: np.zeros(2), toy.create_state(jax.random.key(0), CONFIG))
    images, columns, _ = runs.pictures(states)
    assert columns == 6
    np.testing.assert_array_equal(images[:, 0, 0, 0], 4 * [0, 1, 2])
