"""One run and a population, behind the same methods."""

import inspect

import jax
import numpy as np
import pytest
import toy
from helpers import assert_trees_equal

from jaxgan import JaxganError, TrainConfig, loop
from jaxgan.run import members, population
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
            if inspect.isfunction(method)
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
    images, columns = one.pictures(run.state, 16)
    assert (images.shape, columns) == ((16, 6, 5, 1), None)
    # A row for the member, of the first half of its samples.
    row, columns = many.pictures(runs.state, 16)
    assert (row.shape, columns) == ((8, 6, 5, 1), 8)
    np.testing.assert_allclose(row, images[:8], rtol=1e-6, atol=1e-6)


def test_they_choose_the_same_state(pair):
    (one, run), (many, runs) = pair
    for best in (None, 0):
        state = one.choose(run.state, run.history[-1], None, best)
        assert_trees_equal(many.choose(runs.state, runs.history[-1], None, best), state)
        assert_trees_equal(state, run.state)
    assert_trees_equal(many.choose(runs.state, None, 0, None), run.state)
    with pytest.raises(JaxganError, match="one run, not a population: it has no member 0"):
        one.choose(run.state, None, 0, None)
    for i in (-1, 1):
        with pytest.raises(JaxganError, match=f"has the members 0 to 0, and no member {i}"):
            many.choose(runs.state, None, i, None)


def test_only_a_population_has_a_report(pair):
    (one, run), (many, runs) = pair
    assert one.report(run.history[-1]) is None
    report = many.report(runs.history[-1])
    assert (report.best, report.worst, report.diverged) == (0, 0, [])
    assert report.summary[0]["loss_mean"] == run.history[-1]["loss"]


def test_the_best_member_is_chosen_by_the_score_or_else_by_the_distance():
    runs = make(population=3)
    states = runs.create_state()
    row = {"loss": [3.0, float("nan"), 2.0]}
    for best, i in ((1, 1), (None, 2)):
        chosen = runs.choose(states, row, None, best)
        assert_trees_equal(chosen, population.member(states, i))
    # Without a row or a distance it is the first.
    assert_trees_equal(runs.choose(states, None, None, None), population.member(states, 0))


def test_a_picture_shows_eight_members():
    runs = make(population=9)
    states = runs.create_state()
    images, columns = runs.pictures(states, 4)
    assert (images.shape, columns) == ((16, 6, 5, 1), 2)
    for i in (0, 7):
        expected = toy.sample(population.member(states, i), runs.rngs.pictures[i], 4)
        np.testing.assert_allclose(images[2 * i : 2 * i + 2], expected[:2], rtol=1e-6, atol=1e-6)


def test_the_finite_members_are_those_that_have_not_diverged(pair):
    (one, run), _ = pair
    ((state, _),) = members.finite(one, run.state, run.history[-1])
    assert_trees_equal(state, run.state)
    runs = make(population=3)
    states = runs.create_state()
    found = members.finite(runs, states, {"loss": [1.0, float("nan"), 2.0]})
    assert len(found) == 2
    for (state, rng), i in zip(found, (0, 2), strict=True):
        assert_trees_equal(state, population.member(states, i))
        assert (jax.random.key_data(rng) == jax.random.key_data(runs.rngs.pictures[i])).all()
