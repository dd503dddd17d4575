"""A trace of some steps, and that it changes nothing."""

import gzip
import json

import jax
import numpy as np
import pytest
import toy
from helpers import assert_trees_equal

from jaxgan.errors import JaxganError
from jaxgan.run import loop, profile
from jaxgan.run.profile import Profile

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 60, 50, 1), np.uint8)
"""Large enough for a loop whose steps are in a trace: XLA makes one function of a small loop."""


def fit(run: loop.Run, epochs: int, profile: Profile | None = None) -> loop.Run:
    rng, options = jax.random.key(1), {"batch_size": 10, "progress": False}
    return loop.fit(
        toy.train_step, run, {"image": IMAGES}, rng, epochs=epochs, profile=profile, **options
    )


@pytest.fixture(scope="module")
def start() -> loop.Run:
    state = toy.create_state(jax.random.key(0), toy.ToyConfig(image_shape=(60, 50, 1)))
    return loop.start_run(toy.train_step, state, {"image": IMAGES}, 10)


def read_trace(folder) -> tuple[dict, list[dict]]:
    """The event of the steps, and the events within its time."""
    (file,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    assert next(file.parent.glob("*.xplane.pb")).stat().st_size > 1000
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    events = [event for event in events if event.get("ph") == "X"]
    (steps,) = [event for event in events if event["name"].startswith("steps ")]
    begin, end = steps["ts"], steps["ts"] + steps["dur"]
    return steps, [event for event in events if begin <= event["ts"] < end]


def test_a_trace_has_the_operations_of_its_steps_and_changes_nothing(start, tmp_path):
    traced = []
    run = fit(start, 3, Profile(tmp_path, lambda *steps: traced.append(steps)))
    ((first, last),) = traced
    assert 1 < first <= last < first + profile.STEPS
    steps, within = read_trace(tmp_path)
    assert steps["name"] == f"steps {first} to {last}"
    # Each step draws noise.
    assert max(map([event["name"] for event in within].count, {e["name"] for e in within})) >= (
        last - first + 1
    )
    plain = fit(start, 3)
    assert_trees_equal((run.state, run.totals), (plain.state, plain.totals))


def test_a_resumed_run_is_traced_again_with_its_own_steps(start, tmp_path):
    traced = []
    run = fit(start, 1)
    fit(run, 3, Profile(tmp_path, lambda *steps: traced.append(steps)))
    assert 31 < traced[0][0] <= traced[0][1] <= 90
    assert read_trace(tmp_path)[0]["name"] == f"steps {traced[0][0]} to {traced[0][1]}"


@pytest.mark.parametrize(
    ("lengths", "epoch", "traced"),
    [
        ([1, 300, 300], 469, 1),
        # A short epoch: the rest of it, but not a single step at its start.
        ([1, 3, 1, 12], 12, 3),
        ([1, 1, 1, 1, 1], 469, 3),  # slow steps
        ([1, 1], 1, 1),
        ([1, 2], 469, None),
    ],
)
def test_one_stretch_is_traced_which_is_long_if_steps_are_fast(
    lengths, epoch, traced, tmp_path, monkeypatch
):
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    one = Profile(tmp_path, lambda *steps: found.append(steps))
    for i, length in enumerate(lengths):
        limited = one.limited(length, epoch)
        assert limited == (min(length, profile.STEPS) if i == traced else length)
        with one.stretch(i, i):
            pass
    assert found == ([] if traced is None else [(traced, traced)])
    assert one.is_done == (traced is not None)


def test_another_process_takes_the_same_stretches_and_traces_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "is_first", lambda: False)
    one = Profile(tmp_path, lambda *_: pytest.fail("it was traced"))
    for length in (1, 300):
        limited = one.limited(length, 469)
        with one.stretch(1, 2):
            pass
    assert limited == profile.STEPS
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line_before_the_trace(tmp_path):
    (tmp_path / "profile").touch()
    one = Profile(tmp_path / "profile", lambda *_: pytest.fail("it was traced"))
    for length in (1, 300):
        one.limited(length, 469)
    message = r"cannot write to .*profile/plugins: .*Choose another path, or"
    with pytest.raises(JaxganError, match=message), one.stretch(2, 21):
        pytest.fail("it was trained")
