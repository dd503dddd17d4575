"""One run over several devices: what each holds, and that the result is that of one device."""

import dataclasses

import jax
import numpy as np
import pytest
import toy
from helpers import RNG, assert_trees_close

from jaxgan import MODELS, JaxganError, create_state, loop, train_step
from jaxgan.run.devices import make_layout


def fit(model, config, images, layout, batch_size) -> loop.Run:
    state = model.create_state(RNG, config)
    run = loop.start_run(model.train_step, state, images, batch_size, layout)
    options = {"batch_size": batch_size, "layout": layout}
    return loop.fit(model.train_step, run, images, RNG, epochs=3, progress=False, **options)


# Batches that divide by four, and a last one that does not, with less images than devices.
@pytest.mark.parametrize(("name", "n"), [("gan", 32), ("toy", 26)])
def test_four_devices_train_to_what_one_does(tiny, images, name, n):
    # A larger epsilon: Adam would lift the rounding of gradients that are 0 to the size of a step.
    gan = dataclasses.replace(tiny, adam_eps=1e-3)
    model, config = {"gan": (MODELS["gan"], gan), "toy": (toy.MODEL, toy.ToyConfig())}[name]
    one, four = (fit(model, config, images[:n], make_layout(number), 8) for number in (1, 4))
    assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(four.state))
    assert_trees_close(four.state, one.state)
    for row, expected in zip(four.history, one.history, strict=True):
        shown = {metric for curve in model.curves for metric in curve.metrics.values()}
        for metric in shown & row.keys():
            assert row[metric] == pytest.approx(expected[metric], rel=1e-5), metric


def test_each_device_holds_its_part_of_the_images_in_bytes(images):
    labels = np.arange(32, dtype=np.int32)
    placed = make_layout(4).place_data({"image": images[:30], "label": labels[:30]})
    for name, expected in (("image", images[:30]), ("label", labels[:30])):
        assert placed[name].dtype == expected.dtype
        parts = [np.asarray(shard.data) for shard in placed[name].addressable_shards]
        assert [len(part) for part in parts] == [8] * 4
        np.testing.assert_array_equal(np.concatenate(parts)[:30], expected)


def test_each_device_works_on_its_part_of_the_batch(tiny, images):
    layout = make_layout(4)
    state, data, rng = create_state(RNG, tiny), layout.place_data(images), RNG
    run = loop.start_run(train_step, state, images, 20, layout)
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


def test_processes_share_all_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert make_layout().mesh.size == 4
    with pytest.raises(JaxganError, match=r"2 processes share one run .* leave --devices out"):
        make_layout(3)
