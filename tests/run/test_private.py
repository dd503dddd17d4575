"""Runs with differential privacy."""

import dataclasses
import json
import os
import re
import signal
import stat
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import RNG, assert_trees_equal

from jaxgan import MODELS, JaxganError, TrainConfig, data, privacy
from jaxgan.report import plots
from jaxgan.run import checkpoint, loop, private, saved, training
from jaxgan.run.devices import ONE_DEVICE

SECRET = "00112233445566aa"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A run on 60 small images with labels."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "images.npz"
    images = rng.integers(0, 256, (60, 6, 5), np.uint8)
    np.savez(path, images=images, labels=np.arange(60) % 3)
    return TrainConfig(
        dataset=str(path), epochs=2, batch_size=10, epsilon=8.0, delta=1e-4, conditional=True
    )


@pytest.fixture(scope="module")
def config(flat):
    """Without hidden layers: private steps are large programs."""
    return flat


@pytest.fixture(scope="module")
def few_samples():
    """A start has 40 samples in 2 parts, and 2 steps in an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private, "_START_SAMPLES", 40)
        patch.setattr(private, "_START_BATCH", 20)
        patch.setattr(private, "_START_PARTS", 2)
        yield


@pytest.fixture
def known_secret(monkeypatch):
    monkeypatch.setattr(private.secrets, "token_hex", lambda _: SECRET)


def describe(folder):
    return json.loads((folder / "privacy.json").read_text())


@pytest.mark.parametrize("name", ["gan", "diffusion", "gaussian"])
def test_the_folder_has_the_budget_and_nothing_of_real_images(name, settings, config, tmp_path):
    if name != "gan":
        small = {"diffusion": {"width": 8, "blocks": 0}, "gaussian": {"components": 5}}
        config = MODELS[name].config(**small[name])
    folder, steps, epochs = tmp_path / "run", 12, 2
    if name == "gaussian":  # one step over all images
        steps, epochs = 1, 1
        settings = dataclasses.replace(settings, epochs=1, batch_size=100)
    outcome = training.train(MODELS[name], config, settings, folder)
    found = {path.name for path in folder.iterdir()}
    assert {"real.png", private.SECRET} & found == set()
    assert {"privacy.json", "metrics.csv", "curves.png", "samples"} <= found
    columns = set((folder / "metrics.csv").read_text().splitlines()[0].split(","))
    of_steps = {
        "gan": {"gen_loss", "fake_score", "gen_grad_norm", "disc_grad_norm"},
        "diffusion": {"grad_norm", "param_norm"},
        "gaussian": {"explained", "between"},
    }[name]
    assert columns == {"epoch", "step", "seconds", "steps_per_second"} | of_steps
    assert "sha256" not in json.loads((folder / "config.json").read_text())["data"]
    assert outcome.verdicts == []
    assert outcome.diagnosis is None
    report = describe(folder)
    assert report == outcome.privacy
    assert report["spent"]["steps"] == report["mechanism"]["steps"] == steps
    assert 7.9 < report["spent"]["epsilon"] <= 8
    assert (report["epsilon"], report["delta"]) == (8, 1e-4)
    # The run can be read again, without what needs real images.
    model = saved.find_model(folder, MODELS)
    state, finished = saved.load_state(model, folder)
    assert finished == epochs
    assert model.sample(state, jax.random.key(0), 4).shape == (4, 6, 5, 1)
    # The same command again trains no more.
    assert training.train(MODELS[name], config, settings, folder).trained == 0


@pytest.mark.usefixtures("no_curves")
def test_equal_seeds_have_other_noise(settings, config, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        training.train(MODELS["gan"], config, settings, folder)
    one, two = (saved.load_state(MODELS["gan"], folder)[0] for folder in folders)
    assert not np.array_equal(*(jax.tree.leaves(s.discriminator.params)[0] for s in (one, two)))


@pytest.mark.usefixtures("no_curves")
def test_a_stopped_run_resumes_to_the_bit_with_its_secret(
    settings, config, tmp_path, monkeypatch, known_secret
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    training.train(MODELS["gan"], config, settings, whole)
    fit = loop.fit
    with monkeypatch.context() as patch:  # as a signal after the first epoch
        patch.setattr(loop, "fit", lambda *a, **o: fit(*a, **{**o, "epochs": 1}))
        training.train(MODELS["gan"], config, settings, stopped)
    secret = stopped / private.SECRET
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().split()[0] == SECRET
    spent = describe(stopped)["spent"]
    assert spent["steps"] == 6
    assert 0 < spent["epsilon"] < 8
    monkeypatch.setattr(private.secrets, "token_hex", lambda _: "ff" * 8)
    training.train(MODELS["gan"], config, settings, stopped)
    assert not secret.exists()
    one, two = (saved.load_state(MODELS["gan"], folder)[0] for folder in (whole, stopped))
    assert_trees_equal(one, two)


@pytest.mark.usefixtures("no_curves")
def test_without_its_secret_a_run_does_not_resume(settings, config, tmp_path, monkeypatch):
    fit = loop.fit
    with monkeypatch.context() as patch:
        patch.setattr(loop, "fit", lambda *a, **o: fit(*a, **{**o, "epochs": 1}))
        training.train(MODELS["gan"], config, settings, tmp_path)
    for content, message in (("no key", "is damaged: it holds no key"), (None, "is gone")):
        secret = tmp_path / private.SECRET
        secret.write_text(content) if content else secret.unlink()
        with pytest.raises(JaxganError, match=message):
            training.train(MODELS["gan"], config, settings, tmp_path)
        assert checkpoint.steps(tmp_path) == [6]


@pytest.fixture(scope="module")
def members(settings, config, few_samples, tmp_path_factory):
    """A run of two members with a start: its folder, outcome and samples."""
    settings = dataclasses.replace(settings, start_epochs=2, population=2)
    folder, started = tmp_path_factory.mktemp("members") / "run", []
    draw = private.draw_from_gaussians
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "curves_png", lambda *_, **__: b"")
        patch.setattr(
            private, "draw_from_gaussians", lambda *a: started.append(draw(*a)) or started[-1]
        )
        outcome = train(settings, config, folder)
        # The same command finds the finished run.
        assert train(settings, config, folder).trained == 0
    (samples,) = started
    return folder, outcome, samples


def train(settings, config, folder):
    """Trains a GAN, with Gaussians for its start."""
    return training.train(MODELS["gan"], config, settings, folder, gaussians=MODELS["gaussian"])


def test_members_have_own_noise_and_all_together_cost_more(members):
    folder, outcome, _ = members
    together = describe(folder)["all members together"]
    assert together["members"] == 2
    assert together["epsilon"] > 8
    assert outcome.report is not None
    assert outcome.report.best is None  # no score may rank them
    states = [saved.load_state(MODELS["gan"], folder, i)[0] for i in range(2)]
    norms = [row["disc_grad_norm"] for row in outcome.history]
    assert len(set(norms[0])) == 2
    assert not np.array_equal(*(jax.tree.leaves(s.discriminator.params)[0] for s in states))


def test_each_step_takes_each_image_by_itself():
    n, rate, steps, places = 50, 0.3, 400, 50
    order = loop._random_order(jax.random.key(0), 3, rate, n=n, steps=steps, places=places).reshape(
        steps, places
    )
    order = np.asarray(order)
    taken = np.zeros((steps, n))
    for row, indices in zip(taken, order, strict=True):
        chosen = indices[indices >= 0]
        assert len(set(chosen.tolist())) == len(chosen)
        row[chosen] = 1
    # Each image in its share of the steps, and independent of the others.
    deviation = np.sqrt(rate * (1 - rate) / steps)
    assert np.abs(taken.mean(axis=0) - rate).max() < 4.5 * deviation
    assert abs(taken.sum(axis=1).var() / (n * rate * (1 - rate)) - 1) < 0.25
    other = loop._random_order(jax.random.key(0), 4, rate, n=n, steps=steps, places=places)
    assert not np.array_equal(order.ravel(), other)


def test_batches_have_places_for_all_but_a_negligible_share():
    from scipy import stats

    mechanism = private.Mechanism(512 / 60_000, 1.0, 10_000)
    places = private._places(mechanism, 60_000, 10.0, 1e-5)
    too_many = stats.binom.sf(places, 60_000, 512 / 60_000)
    assert 10_000 * too_many * (1 + np.exp(10.0)) <= 1e-5 / 1000
    assert places < 800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be above 0, at most 100"),
        ({"delta": 1.0}, "delta must be between 0 and 1"),
        ({"delta": 0.02}, "delta must be below 1 / 60"),
        ({"evaluate_every": 1}, "evaluate_every looks at real images"),
        ({"stop_on_failure": True}, "stop_on_failure looks at real images"),
        (
            {"epsilon": 0.01, "batch_size": 60},
            r"epsilon 0.01 cannot be reached in 2 steps with batches of 60: .*; take a larger epsi",
        ),
    ],
)
def test_what_cannot_be_private_is_refused(options, message, settings, config, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(JaxganError, match=message):
        training.train(MODELS["gan"], config, dataclasses.replace(settings, **options), folder)
    assert not folder.exists()


def test_larger_batches_are_named_if_no_step_can_be_paid(settings, config, tmp_path, monkeypatch):
    monkeypatch.setattr(privacy, "noise_multiplier", lambda *_: 11.0)
    monkeypatch.setattr(privacy, "epsilon", lambda *_: 9.0)
    message = (
        r"in 12 steps with batches of 10: .* take larger batches \(--batch-size\), or a larger"
    )
    with pytest.raises(JaxganError, match=message):
        training.train(MODELS["gan"], config, settings, tmp_path / "run")


def test_the_steps_that_an_epsilon_allows_are_named(settings, config, tmp_path):
    # Without sampling the search is fast.
    wanted = dataclasses.replace(settings, batch_size=60, epochs=200, epsilon=0.5)
    with pytest.raises(JaxganError, match="take at most") as error:
        training.train(MODELS["gan"], config, wanted, tmp_path / "run")
    (steps,) = re.findall(r"at most ([\d,]+) steps", str(error.value))
    fewer = dataclasses.replace(wanted, epochs=None, steps=int(steps.replace(",", "")))
    dataset = data.load(settings.dataset)
    plan = private.make_plan(
        MODELS["gan"], config, fewer.fitted(len(dataset.images)), len(dataset.images), 1
    )
    assert plan.mechanism.noise_multiplier <= 60


@pytest.mark.usefixtures("no_curves")
def test_changed_data_do_not_resume(settings, config, tmp_path, monkeypatch):
    other = tmp_path / "images.npz"
    other.write_bytes(Path(settings.dataset).read_bytes())
    settings, fit = dataclasses.replace(settings, dataset=str(other)), loop.fit
    with monkeypatch.context() as patch:
        patch.setattr(loop, "fit", lambda *a, **o: fit(*a, **{**o, "epochs": 1}))
        training.train(MODELS["gan"], config, settings, tmp_path / "run")
    np.savez(other, images=np.zeros((60, 6, 5), np.uint8), labels=np.arange(60) % 3)
    with pytest.raises(JaxganError, match=r"the data of .* have changed"):
        training.train(MODELS["gan"], config, settings, tmp_path / "run")


def test_gaussians_take_one_step(settings, tmp_path):
    with pytest.raises(JaxganError, match="gaussian takes 1 step over all images"):
        training.train(MODELS["gaussian"], MODELS["gaussian"].config(), settings, tmp_path / "run")


def test_clipping_without_epsilon_is_refused(settings, config, tmp_path):
    settings = dataclasses.replace(settings, epsilon=None)
    config = dataclasses.replace(config, clip_norm=1.0)
    with pytest.raises(JaxganError, match="are for private runs: give epsilon"):
        training.train(MODELS["gan"], config, settings, tmp_path / "run")


def test_gain_is_refused(settings, tmp_path):
    settings = dataclasses.replace(settings, conditional=False)
    with pytest.raises(JaxganError, match="gain cannot be trained with differential privacy"):
        training.train(MODELS["gain"], MODELS["gain"].config(), settings, tmp_path / "run")


def test_a_start_from_gaussians_costs_its_share(members):
    folder, _, samples = members
    report = describe(folder)
    assert 7.9 < report["spent"]["epsilon"] <= 8
    # The Gaussians alone have a third of epsilon, by the closed form of one Gaussian mechanism.
    noise = report["start"]["noise_multiplier"]
    one = privacy.epsilon(private.Mechanism(1.0, noise, 1), 0.999 * 1e-4)
    assert one == pytest.approx(8 / 3, rel=0.01)
    assert samples["image"].shape == (40, 6, 5, 1)
    assert samples["image"].dtype == np.uint8
    np.testing.assert_array_equal(samples["label"], np.arange(40) % 3)


@pytest.mark.usefixtures("few_samples")
def test_a_start_changes_the_parameters_and_nothing_else(settings, config):
    """The optimizers begin anew."""
    settings = dataclasses.replace(settings, start_epochs=1)
    dataset = data.load(settings.dataset)
    config = dataclasses.replace(config, image_shape=(6, 5, 1), num_classes=3)
    plan = private.make_plan(MODELS["gan"], config, settings.fitted(60), 60, 1, MODELS["gaussian"])
    fresh = MODELS["gan"].create_state(RNG, plan.config)
    key = jax.random.key(1)
    begun, again = (
        private.start_from_gaussians(
            plan, MODELS["gan"], settings, dataset, fresh, key, ONE_DEVICE, lambda: False
        )
        for _ in range(2)
    )
    assert_trees_equal(begun, again)
    assert jax.tree.structure(begun) == jax.tree.structure(fresh)
    for name in ("generator", "discriminator"):
        own, new = getattr(fresh, name), getattr(begun, name)
        assert not np.array_equal(*(jax.tree.leaves(x.params)[0] for x in (own, new)))
        assert_trees_equal(own.opt_state, new.opt_state)
    assert int(begun.step) == 0


@pytest.mark.parametrize(
    ("model", "message"), [("gaussian", "needs no start"), ("gan", "needs the model of the Gauss")]
)
def test_a_start_that_cannot_be_made_is_refused(model, message, settings, config, tmp_path):
    settings = dataclasses.replace(settings, start_epochs=1)
    if model == "gaussian":
        config = MODELS[model].config()
        settings = dataclasses.replace(settings, epochs=1, batch_size=100)
    with pytest.raises(JaxganError, match=message):
        training.train(MODELS[model], config, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("few_samples", "no_curves")
def test_a_run_that_is_stopped_in_its_start_begins_again(settings, config, tmp_path, known_secret):
    settings = dataclasses.replace(settings, start_epochs=1)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(settings, config, whole)

    def stop(*args, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return args[4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private, "start_from_gaussians", stop)
        outcome = train(settings, config, stopped)
    assert outcome.stopped_by == signal.SIGTERM
    assert checkpoint.steps(stopped) == []
    # The Gaussians alone have been paid for.
    spent = describe(stopped)["spent"]
    assert spent["steps"] == 0
    assert spent["epsilon"] == pytest.approx(8 / 3, rel=0.01)
    train(settings, config, stopped)
    one, two = (saved.load_state(MODELS["gan"], folder)[0] for folder in (whole, stopped))
    assert_trees_equal(one, two)


@pytest.mark.usefixtures("few_samples")
def test_a_start_has_the_classes_of_the_model(settings, config):
    """They are public. The labels of the data are not."""
    settings = dataclasses.replace(settings, start_epochs=1)
    config = dataclasses.replace(config, image_shape=(6, 5, 1), num_classes=5)
    plan = private.make_plan(MODELS["gan"], config, settings.fitted(60), 60, 1, MODELS["gaussian"])
    samples = private.draw_from_gaussians(plan, data.load(settings.dataset), RNG)
    assert set(samples["label"]) == {0, 1, 2, 3, 4}
