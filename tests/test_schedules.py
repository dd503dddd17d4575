import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgan import GANConfig, JaxganError, schedules

STEPS = [0, 25, 50, 75, 99, 100, 101, 10**6]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear:1:3:100", [1, 1.5, 2, 2.5, 2.98, 3, 3, 3]),
        ("linear:0.5:0:100", [0.5, 0.375, 0.25, 0.125, 0.005, 0, 0, 0]),
        (
            "cosine:1:3:100",
            [1, 2 - np.sqrt(0.5), 2, 2 + np.sqrt(0.5), 2 - np.cos(0.99 * np.pi), 3, 3, 3],
        ),
        ("cosine:-1:0:100", [-1, -(2 + np.sqrt(2)) / 4, -0.5, -(2 - np.sqrt(2)) / 4,
                             -(1 + np.cos(0.99 * np.pi)) / 2, 0, 0, 0]),
        ("exponential:1:16:100", [1, 2, 4, 8, 16**0.99, 16, 16, 16]),
        ("exponential:0.1:0.001:100", [0.1, 0.1**1.5, 0.01, 0.1**2.5, 0.1**2.98, *[1e-3] * 3]),
        ("exponential:2:2:100", [2] * 8),
        ("linear:5:1:1", [5, *[1] * 7]),
    ],
)  # fmt: skip
def test_values_at_the_start_in_between_at_the_end_and_beyond(schedule, expected):
    found = jax.jit(jax.vmap(lambda step: schedules.value(schedule, step)))(jnp.array(STEPS))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_number_is_itself_at_any_step():
    assert schedules.value(0.3, jnp.int32(7)) == 0.3
    assert schedules.ends(0.3) == (0.3, 0.3)
    assert schedules.ends("cosine:0.1:2:10") == (0.1, 2.0)


def test_which_schedules_are_zero_all_the_time():
    assert schedules.is_zero(0)
    assert schedules.is_zero("linear:0:0:10")
    assert not schedules.is_zero("linear:0:1:10")
    assert not schedules.is_zero("cosine:1:0:10")
    assert not schedules.is_zero(1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "0.1",
        "linear",
        "linear:1:2:3:4",
        "linear:1:2:0",
        "linear:1:2:-5",
        "linear:1:2:1.5",
        "linear:a:2:10",
        "linear:1:inf:10",
        "linear:nan:1:10",
        "sine:1:2:10",
        "Linear:1:2:10",
    ],
)
def test_other_strings_are_refused(schedule):
    with pytest.raises(JaxganError, match="a schedule is a number, or KIND:START:END"):
        schedules.ends(schedule)


def test_schedules_without_steps_take_those_of_the_run():
    config = GANConfig(lr_scale="cosine:1:0.1", augment="linear:0:0.4:7", instance_noise=0.2)
    with pytest.raises(JaxganError, match="which only a run can fill in"):
        schedules.value(config.lr_scale, jnp.int32(0))
    found = schedules.over(config, 300)
    assert (found.lr_scale, found.augment) == ("cosine:1:0.1:300", "linear:0:0.4:7")
    assert dataclasses.replace(found, lr_scale=config.lr_scale) == config


@pytest.mark.parametrize("schedule", ["exponential:0:1:10", "exponential:1:0:10"])
def test_an_exponential_cannot_start_or_end_at_zero(schedule):
    with pytest.raises(JaxganError, match="of an exponential schedule must be above 0"):
        schedules.ends(schedule)
