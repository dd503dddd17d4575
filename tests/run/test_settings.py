import pytest

from jaxgan import JaxganError, TrainConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("population", 0),
        ("sweep", ("generator_lr",)),
        ("sweep", ("generator_lr=fast",)),
        ("sweep", ("generator_lr=1", "generator_lr=2")),
        ("devices", -1),
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
    assert TrainConfig().sweep_values == {}
