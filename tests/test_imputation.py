"""GAIN against closed forms; the contract of its step is in test_transforms.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import RNG

from jaxgan import MODELS, JaxganError
from jaxgan.imputation import GAINConfig, create_state, impute, sample, train_step
from jaxgan.run import saved, training
from jaxgan.run.settings import TrainConfig

SHAPE = (1, 1, 3)
CONFIG = GAINConfig(image_shape=SHAPE)
ROWS = np.random.default_rng(0).uniform(-1, 1, (40, *SHAPE)).astype(np.float32)
KNOWN = np.random.default_rng(1).random(ROWS.shape) < 0.7


def test_the_losses_of_networks_that_give_zero():
    """The generator then fills in 1/2, on the scale of the paper; the discriminator's D is 1/2."""
    state = create_state(RNG, dataclasses.replace(CONFIG, lr=1e-9, hint_rate=0.0))
    zeros = lambda learner: learner.replace(params=jax.tree.map(jnp.zeros_like, learner.params))  # noqa: E731
    networks = {name: zeros(getattr(state, name)) for name in ("generator", "discriminator")}
    _, found = train_step(state.replace(**networks), {"image": ROWS, "mask": KNOWN}, RNG)
    assert found.disc_loss == pytest.approx(np.log(2), rel=1e-5)
    unit = (ROWS + 1) / 2
    assert found.known_error == pytest.approx(np.square(unit - 0.5)[KNOWN].mean(), rel=1e-5)
    assert found.gen_loss == pytest.approx((~KNOWN).mean() * np.log(2), rel=1e-5)


def fit(config, steps, batch):
    state = create_state(RNG, config)
    batches = jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), batch)
    step = lambda state, batch: train_step(state, batch, RNG)  # noqa: E731
    return jax.lax.scan(step, state, batches)


def test_only_values_without_a_hint_count():
    told, untold = (
        fit(dataclasses.replace(CONFIG, hint_rate=rate), 1, {"image": ROWS, "mask": KNOWN})[1]
        for rate in (1.0, 0.0)
    )
    assert told.disc_loss == 0
    assert told.gen_loss == 0
    assert untold.disc_loss > 0.1
    assert untold.gen_loss > 0.1


def test_hints_tell_what_is_known():
    """A row is all known or all missing, so one hint tells all of it."""
    known = np.broadcast_to((np.arange(40) % 2 == 0)[:, None, None, None], ROWS.shape)
    losses = [
        fit(dataclasses.replace(CONFIG, hint_rate=rate), 500, {"image": 0 * ROWS, "mask": known})[1]
        for rate in (0.9, 0.0)
    ]
    hinted, blind = (float(found.disc_loss[-100:].mean()) for found in losses)
    assert hinted < blind / 2


def test_known_values_come_back_and_missing_ones_may_be_anything():
    state = create_state(RNG, CONFIG)
    found = impute(state, ROWS, KNOWN)
    np.testing.assert_array_equal(found[KNOWN], ROWS[KNOWN])
    assert (np.abs(found) <= 1).all()
    dirty = np.where(KNOWN, ROWS, np.nan)
    np.testing.assert_array_equal(impute(state, dirty, KNOWN), found)
    after, metrics = train_step(state, {"image": dirty, "mask": KNOWN}, RNG)
    clean, _ = train_step(state, {"image": ROWS, "mask": KNOWN}, RNG)
    assert np.isfinite(metrics.gen_loss)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_noise_moves_the_filled_values():
    state = create_state(RNG, CONFIG)
    one, other = (impute(state, ROWS, KNOWN, jax.random.key(seed)) for seed in (0, 1))
    assert (one != other)[~KNOWN].any()
    np.testing.assert_array_equal(one[KNOWN], other[KNOWN])


def test_the_generator_learns_from_the_known_values():
    """All columns are equal, so a missing value is known from the others."""
    rows = np.broadcast_to(np.linspace(-0.9, 0.9, 64)[:, None, None, None], (64, *SHAPE))
    config = dataclasses.replace(CONFIG, widths=(16, 16), lr=3e-3)
    state, metrics = fit(config, 1_000, jnp.asarray(rows, jnp.float32))
    known = np.ones(rows.shape, bool)
    known[..., 1] = False
    found = impute(state, rows.astype(np.float32), known)
    assert np.sqrt(np.square(found - rows)[..., 1].mean()) < 0.2  # the mean has 0.53
    assert metrics.known_error[-1] < 0.01


def test_wrong_masks_are_refused():
    state = create_state(RNG, CONFIG)
    for mask in (KNOWN[:, :, :, :2], KNOWN.astype(float)):
        with pytest.raises(JaxganError, match="mask of known values must be bool"):
            train_step(state, {"image": ROWS, "mask": mask}, RNG)
        with pytest.raises(JaxganError, match="mask of known values must be bool"):
            impute(state, ROWS, mask)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hint_rate", 1.5),
        ("missing_rate", 0.0),
        ("reconstruction_weight", -1.0),
        ("lr", 0.0),
        ("widths", (0,)),
        ("image_shape", (1, 2)),
        ("b1", 1.0),
        ("adam_eps", 0.0),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(JaxganError, match=field):
        dataclasses.replace(CONFIG, **{field: value})


@pytest.mark.usefixtures("no_curves")
def test_a_run_folder_holds_it_as_any_model(tmp_path):
    model = MODELS["gain"]
    images = np.random.default_rng(0).integers(0, 256, (64, 2, 2, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    settings = TrainConfig(dataset=str(tmp_path / "images.npy"), epochs=2, batch_size=32)
    outcome = training.train(model, GAINConfig(), settings, tmp_path / "run")
    assert saved.find_model(outcome.workdir, MODELS) is model
    state, epochs = saved.load_state(model, outcome.workdir)
    assert epochs == 2
    assert state.step == 4
    assert sample(state, RNG, 3).shape == (3, 2, 2, 1)
    assert {"gen_loss", "disc_loss", "known_error"} <= set(
        saved.read_history(model, outcome.workdir)[0]
    )
