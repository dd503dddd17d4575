import pytest

from jaxgan import JaxganError, TrainConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("population", 0),
        ("sweep", ("generator_lr",)),
        ("sweep", ("generator_lr=1,",)),
        ("sweep", ("=1",)),
        ("sweep", ("generator_lr=1", "generator_lr=2")),
        ("devices", -1),
        ("log", ("tensorbord",)),
        ("log", ("wandb", "wandb")),
        ("batch_size", 0),
        ("evaluate_every", 0),
        ("image_size", 1.5),
        ("epochs", -1),
        ("seed", 2**32),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(JaxganError, match=f"^{field} must be"):
        TrainConfig(**{field: value})


def test_seeds_beyond_the_last_are_refused():
    assert TrainConfig(seed=2**32 - 3, population=3).population == 3
    with pytest.raises(JaxganError, match="every seed is below"):
        TrainConfig(seed=2**32 - 2, population=3)


def test_a_sweep_is_read_by_name():
    settings = TrainConfig(sweep=["generator_lr=1e-4,1e-3", "generator_b1=0.5"])
    assert settings.sweep_values == {"generator_lr": [1e-4, 1e-3], "generator_b1": [0.5]}
    assert hash(settings) == hash(TrainConfig(sweep=settings.sweep))
    assert hash(TrainConfig(log=["wandb"])) == hash(TrainConfig(log=("wandb",)))
    assert TrainConfig().sweep_values == {}
    words = TrainConfig(sweep=["loss=hinge,minimax"])
    assert words.sweep_texts == {"loss": ["hinge", "minimax"]}
    with pytest.raises(JaxganError, match="differ in numbers alone"):
        words.sweep_values  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        ({}, 60_000, (50, 1, 10)),
        # As many steps, whatever the size; not more pictures than for Fashion-MNIST.
        ({}, 1500, (1955, 39, 390)),
        ({"batch_size": 64}, 60_000, (25, 1, 10)),
        ({"steps": 7, "batch_size": 4}, 9, (3, 1, 10)),
        ({"epochs": 3, "steps": 7}, 9, (3, 1, 10)),
        ({"epochs": 0}, 9, (0, 1, 10)),
        ({"epochs": 200, "checkpoint_every": 7}, 9, (200, 4, 7)),
        ({"epochs": 200, "sample_every": 2}, 9, (200, 2, 20)),
    ],
)
def test_a_run_is_as_long_as_its_data_need(settings, images, expected):
    found = TrainConfig(**settings).fitted(images)
    assert (found.epochs, found.sample_every, found.checkpoint_every) == expected
    assert found.fitted(images) == found
