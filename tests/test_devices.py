"""One GAN over several devices: what each holds, and that the result is that of one device."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxgan import JaxganError, create_state, devices, loop, train_step
from jaxgan.devices import make_layout

RNG = jax.random.key(5)


def fit(config, images, layout, batch_size=8, epochs=3) -> loop.Run:
    state = create_state(RNG, config)
    run = loop.start_run(train_step, state, images, layout=layout)
    return loop.fit(
        train_step, run, images, RNG, batch_size=batch_size, epochs=epochs, layout=layout,
        progress=False,
    )  # fmt: skip


# Batches that divide by four but for the last, and batches that do not.
@pytest.mark.parametrize(("n", "batch_size"), [(30, 8), (32, 5)])
def test_four_devices_train_to_what_one_does(tiny, images, n, batch_size):
    # A larger epsilon: Adam would lift the rounding of gradients that are 0 to the size of a step.
    config = dataclasses.replace(tiny, adam_eps=1e-3)
    one, four = (fit(config, images[:n], make_layout(number), batch_size) for number in (1, 4))
    for a, b in zip(jax.tree.leaves(four.state), jax.tree.leaves(one.state), strict=True):
        assert len(a.sharding.device_set) == 4
        atol = 2e-5 * float(np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)
    for row, expected in zip(four.history, one.history, strict=True):
        for name in ("gen_loss", "disc_loss", "real_score", "fake_score"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5)


def test_each_device_holds_its_part_of_the_images_in_bytes(images):
    placed = make_layout(4).place_data(images[:30])
    assert placed.dtype == np.uint8
    parts = [np.asarray(shard.data) for shard in placed.addressable_shards]
    assert [len(part) for part in parts] == [8] * 4
    np.testing.assert_array_equal(np.concatenate(parts)[:30], images[:30])


def test_each_device_works_on_its_part_of_the_batch(tiny, images):
    layout = make_layout(4)
    state, data, rng = create_state(RNG, tiny), layout.place_data(images), RNG
    run = loop.start_run(train_step, state, images, layout=layout)
    state, totals, rng = layout.place_run((run.state, run.totals, rng))
    order = jax.numpy.arange(32)
    lowered = loop._compiled_steps.lower(
        train_step, state, totals, data, order, rng, 0, 1, batch_size=20, last=False, layout=layout
    )
    text = lowered.compile().as_text()
    assert "all-reduce" in text
    # The first layer of both networks has 16 units: for 5 images and nowhere for all 20.
    assert "f32[5,16]" in text
    assert "f32[20,16]" not in text


def test_a_layout_that_cannot_be_is_refused():
    assert make_layout().mesh is None
    assert make_layout(population=True).mesh.size == 4
    for number in (0, 5):
        with pytest.raises(JaxganError, match=f"from 1 to the 4 .* got {number}"):
            make_layout(number)


def test_alone_a_process_agrees_with_itself():
    assert devices.agree([3, True]).tolist() == [3, 1]
    with pytest.raises(JaxganError, match="mine"), devices.together("do it"):
        raise JaxganError("mine")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "belong together"),
        ((None, 2, 0), "belong together"),
        (("host", 2, 0), "HOST:PORT, got 'host'"),
        (("host:1", 2, 2), "from 0 to 1, .* got 2"),
    ],
)
def test_what_says_nothing_sensible_of_processes_is_refused(given, message):
    with pytest.raises(JaxganError, match=message):
        devices.connect(*given)
