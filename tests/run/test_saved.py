"""What a run leaves in its folder, also a run of another version."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
from helpers import assert_trees_equal, contents, here

from jaxgan import MODELS, JaxganError, TrainConfig, __version__, loop
from jaxgan.metrics import evaluation
from jaxgan.run import checkpoint, population, saved, training

GAN = MODELS["gan"]
FD, COVERAGE, PRECISION = (
    f"{name}(pca30, train, n=50)" for name in ("fd", "coverage", "precision")
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory, images) -> TrainConfig:
    file = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(file, images[..., 0])
    return TrainConfig(dataset=str(file), epochs=2, batch_size=32, checkpoint_every=1, devices=1)


@pytest.fixture(scope="module")
def gan_folder(tmp_path_factory, tiny, settings) -> Path:
    folder = tmp_path_factory.mktemp("gan") / "run"
    config = dataclasses.replace(tiny, ema_decay=0.9, generator_widths=())
    training.train(GAN, config, settings, folder)
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory, settings) -> Path:
    """A folder of a population of six."""
    folder = tmp_path_factory.mktemp("toys") / "run"
    settings = dataclasses.replace(settings, population=3, sweep=("lr=0.01,0.1",))
    training.train(toy.MODEL, toy.ToyConfig(), settings, folder)
    return folder


@pytest.fixture
def edited(gan_folder, tmp_path):
    """Copies the folder of the GAN with another config.json."""

    def edit(change) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(gan_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        del config["sha256 of the rest"]
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return edit


def test_the_data_set_of_a_run_is_the_one_that_auto_has_found(edited):
    def change(config):
        config["train"]["dataset"] = "auto"
        config["data"]["name"] = "digits"

    assert saved.read_settings(edited(change)).dataset == "digits"


def newest(model, folder) -> checkpoint.Checkpoint:
    found = checkpoint.restore(folder, saved.checkpoint_like(model, folder))
    assert found is not None
    return found[0]


def test_the_newest_state_is_loaded(gan_folder, settings):
    assert saved.find_model(gan_folder, MODELS) is GAN
    assert saved.read_settings(gan_folder) == settings.fitted(32)
    state, epochs = saved.load_state(GAN, gan_folder)
    assert (epochs, int(state.step)) == (2, 2)
    assert_trees_equal(state, newest(GAN, gan_folder).arrays["state"])
    with pytest.raises(JaxganError, match="is one run, not a population: it has no member 0"):
        saved.load_state(GAN, gan_folder, 0)
    with pytest.raises(JaxganError, match="no finite score in its newest checkpoint"):
        saved.load_state(GAN, gan_folder, best=True)


@pytest.mark.usefixtures("no_curves")
def test_without_a_checkpoint_there_is_no_state(tmp_path, settings):
    settings = dataclasses.replace(settings, epochs=0)
    training.train(toy.MODEL, toy.ToyConfig(), settings, tmp_path / "run")
    message = "run has no checkpoint yet: train it, or wait for the first one$"
    with pytest.raises(JaxganError, match=message):
        saved.load_state(toy.MODEL, tmp_path / "run")
    with pytest.raises(JaxganError, match=message):
        saved.load_state(toy.MODEL, tmp_path / "run", best=True)


def test_a_run_is_the_same_after_it_was_saved(images):
    state = toy.create_state(jax.random.key(0), toy.ToyConfig())
    run = loop.start_run(toy.train_step, state, images)._replace(seconds=3.0, history=[{"a": 1}])
    found = saved.as_checkpoint(run)
    json.dumps(found.record)
    assert_trees_equal(loop.Run(**found.arrays, **found.record), run)


def test_one_member_is_loaded_by_default_the_best(toys):
    states = newest(toy.MODEL, toys).arrays["state"]
    best = json.loads((toys / "report.json").read_text())["best"]
    assert best != 0
    for asked, i in ((3, 3), (0, 0), (None, best)):
        state, epochs = saved.load_state(toy.MODEL, toys, asked)
        assert epochs == 2
        assert_trees_equal(state, population.member(states, i))
    with pytest.raises(JaxganError, match="members 0 to 5, and no member 6"):
        saved.load_state(toy.MODEL, toys, 6)


@pytest.mark.parametrize(("best", "member"), [(1, 1), (2, 0)])
@pytest.mark.usefixtures("no_curves")
def test_the_best_checkpoint_is_kept_and_its_best_member_loaded(
    best, member, tmp_path, monkeypatch
):
    images = np.random.default_rng(0).integers(0, 256, (100, 6, 5), np.uint8)
    np.save(tmp_path / "images.npy", images)
    distances = np.full((5, 2), 9.0)
    distances[best - 1, member] = 1
    scripted = iter(distances.ravel().tolist())
    monkeypatch.setattr(
        evaluation,
        "evaluate_in_training",
        lambda *_: {FD: next(scripted), COVERAGE: 0.5, PRECISION: 0.5},
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = TrainConfig(
        dataset=str(tmp_path / "images.npy"), epochs=5, population=2, evaluate_every=1, devices=1
    )
    folder = tmp_path / "run"
    training.train(toy.MODEL, toy.ToyConfig(), settings, folder)
    assert set(checkpoint.steps(folder)) == {best, 3, 4, 5}
    state, epochs = saved.load_state(toy.MODEL, folder, best=True)
    assert epochs == best
    like = saved.checkpoint_like(toy.MODEL, folder)
    members = checkpoint.restore_step(folder, best, like).arrays["state"]
    assert_trees_equal(state, population.member(members, member))
    state, _ = saved.load_state(toy.MODEL, folder, 1 - member, best=True)
    assert_trees_equal(state, population.member(members, 1 - member))


# Other versions


def as_of_version_0_3(config: dict) -> None:
    """There was only the GAN then, and its config had a field more."""
    config["jaxgan"] = "0.3.0"
    del config["model"]
    config["gan"]["gradient_penalty_target"] = 1.0


def test_a_folder_of_version_0_3_can_be_sampled(gan_folder, edited, tmp_path):
    folder = edited(as_of_version_0_3)
    assert saved.find_model(folder, MODELS) is GAN
    state, epochs = saved.load_state(GAN, folder)
    expected, _ = saved.load_state(GAN, gan_folder)
    assert epochs == 2
    assert_trees_equal(state, expected)
    here("sample.py", "--workdir", folder, "--num", 3, "--out", tmp_path / "samples.npz")
    assert np.load(tmp_path / "samples.npz")["images"].shape == (3, 6, 5)


def test_a_config_that_was_damaged_is_refused(gan_folder, tmp_path):
    folder = shutil.copytree(gan_folder, tmp_path / "run")
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"latent_dim": 7', '"latent_dim": 8'))
    with pytest.raises(JaxganError, match=r"config\.json has changed since it was written"):
        saved.load_state(GAN, folder)


def test_the_sums_of_metrics_of_another_version_do_not_matter(gan_folder, edited):
    expected = newest(GAN, gan_folder)
    folder = edited(lambda config: None)
    totals = {"of_another_version": np.float32(1)}
    with checkpoint.RunFolder(folder, checkpoint.read_config(folder)) as run_folder:
        arrays = {"state": expected.arrays["state"], "totals": totals}
        run_folder.save(9, expected._replace(arrays=arrays))
    state, _ = saved.load_state(GAN, folder)
    assert_trees_equal(state, expected.arrays["state"])


def test_a_folder_of_version_0_3_cannot_be_resumed(edited, settings):
    folder = edited(as_of_version_0_3)
    before = contents(folder)
    options = ("--dataset", settings.dataset, "--batch-size", 32, "--epochs", 3)
    _, err = here("train.py", *options, "--workdir", folder, status=2)
    assert err == (
        f"error: {folder} was written by jaxgan 0.3.0, and jaxgan {__version__} cannot resume it "
        "to the bit: resume it with jaxgan 0.3.0, or choose another --workdir\n"
    )
    assert contents(folder) == before


def test_a_folder_of_a_later_version_with_another_field_is_refused(edited, tmp_path):
    def change(config):
        config["jaxgan"] = "9.9.0"
        config["gan"] |= {"warp": 1, "twist": 2}

    folder = edited(change)
    out = ("--out", tmp_path / "samples.npz")
    _, err = here("sample.py", "--workdir", folder, *out, status=2)
    assert err == (
        f"error: {folder} was written by jaxgan 9.9.0, and this is jaxgan {__version__}, which "
        "does not know twist, warp\n"
    )
    assert not (tmp_path / "samples.npz").exists()


def test_a_folder_of_a_later_version_with_known_fields_is_loaded(gan_folder, edited):
    folder = edited(lambda config: config.update(jaxgan="9.9.0"))
    state, _ = saved.load_state(GAN, folder)
    assert_trees_equal(state, saved.load_state(GAN, gan_folder)[0])


def test_a_later_setting_of_the_run_is_refused_too(edited):
    folder = edited(lambda config: config.update(jaxgan="9.5.1", train={"warmth": 3}))
    with pytest.raises(JaxganError, match=r"by jaxgan 9\.5\.1, .* does not know warmth"):
        saved.read_settings(folder)


def test_an_unknown_model_is_refused(edited, tmp_path):
    folder = edited(lambda config: config.update(model="flow"))
    known = "gan, diffusion, gaussian, gain"
    message = f"{folder} holds a run of the model 'flow'; this version of jaxgan has {known}"
    with pytest.raises(JaxganError, match=message):
        saved.find_model(folder, MODELS)
    assert here("diagnose.py", folder, status=2)[1] == f"error: {message}\n"
    with pytest.raises(JaxganError, match="is not a run folder"):
        saved.find_model(tmp_path, MODELS)


def test_networks_of_the_user_cannot_be_loaded_by_config_json(edited):
    folder = edited(lambda config: config["gan"].update(generator="MyNetwork()"))
    with pytest.raises(JaxganError, match=r"with your own generator, .* that takes --config"):
        saved.load_state(GAN, folder)


def test_values_that_this_version_refuses_are_one_clear_error(edited):
    folder = edited(lambda config: config["gan"].update(loss="nonesuch"))
    with pytest.raises(
        JaxganError, match=rf"by jaxgan {__version__}, .* cannot read its settings .loss must"
    ):
        saved.load_state(GAN, folder)
