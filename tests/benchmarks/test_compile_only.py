"""The benchmark that compiles for devices that are not there."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from jaxgan import MODELS, JaxganError, TrainConfig
from jaxgan.run import loop
from jaxgan.run.members import make_runs

PUBLISHED = json.loads((ROOT / "benchmarks/results/compile_only.json").read_text())["rows"]
TEXT = """\
HloModule jit_steps, entry_computation_layout={(f32[])->f32[]}

%product (a: f32[2,2]) -> f32[2,2] {
  %a = f32[2,2]{1,0} parameter(0)
  ROOT %dot.1 = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={1}
}

%turn (b: (s32[], u32[4])) -> (s32[], u32[4]) {
  %b = (s32[], u32[4]{0}) parameter(0)
  %copy.1 = u32[4]{0} copy(%b)
  %xor.1 = u32[4]{0} fusion(%copy.1), kind=kLoop, calls=%product
  ROOT %tuple.1 = (s32[], /*index=1*/u32[4]{0}) tuple(%b, %xor.1)
}

%more (c: s32[]) -> pred[] {
  %c = s32[] parameter(0)
  %constant.3 = s32[] constant(3)
  %end = s32[] add(%c, %constant.3)
  ROOT %less = pred[] compare(%c, %end), direction=LT
}

%twice (j: s32[]) -> pred[] {
  %constant.2 = s32[]{:T(128)} constant(2)
  %j = s32[] parameter(0)
  ROOT %less.2 = pred[] compare(%j, %constant.2), direction=LT
}

%one.part (d: f32[2,2]) -> f32[2,2] {
  %d = f32[2,2]{1,0} parameter(0)
  ROOT %gemm = f32[2,2]{1,0} custom-call(%d), custom_call_target="__cublas$gemm"
}

%step (e: (s32[], u32[4])) -> (s32[], u32[4]) {
  %e = (s32[], u32[4]{0}) parameter(0)
  %inner = (s32[], u32[4]{0}) while(%e), condition=%more, body=%turn, \
backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}
  %tpu = (s32[], u32[4]{0}) while(%inner), condition=%twice, body=%turn
  %part = f32[2,2]{1,0} call(%e), to_apply=%one.part
  %start = (f32[2]{0:T(128)S(1)}, f32[2]{0:T(128)}, u32[]{:S(2)}) copy-start(%part)
  %done = f32[2]{0:T(128)S(1)} copy-done(%start)
  %scalar = f32[]{:T(128)} add(%part, %part), metadata={op_name="jit(step)/add (x)"}
  ROOT %reduce = f32[2]{0} reduce(%part, %scalar), dimensions={1}, to_apply=%more
}

%members (g: (s32[], u32[4])) -> (s32[], u32[4]) {
  %g = (s32[], u32[4]{0}) parameter(0)
  %own = f32[2]{0} copy(%g)
  ROOT %steps = (s32[], u32[4]{0}) while(%g), condition=%more, body=%step
}

%idle (h: f32[]) -> f32[] {
  ROOT %h = f32[] parameter(0)
}

%telling (i: f32[]) -> token[] {
  %i = f32[] parameter(0)
  ROOT %out = token[] outfeed(%i)
}

ENTRY %main.5 (f: f32[]) -> f32[] {
  %f = f32[] parameter(0)
  %outer = (s32[], u32[4]{0}) while(%f), condition=%more, body=%members, \
backend_config={"known_trip_count":{"n":"2"}}
  %either = f32[] conditional(%f, %f), branch_computations={%idle, %telling}
  %saved = f32[2]{0:S(5)} copy(%either)
  ROOT %told = f32[] custom-call(%f), custom_call_target="xla_python_callback"
}
"""


@pytest.fixture
def compile_only():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())  # the import changes it
        import compile_only

        return compile_only


def test_a_program_is_counted_by_its_text(compile_only):
    # Of the step, by hand: a fusion in each of 5 and of 2 turns, the product in the call, and the
    # reduction. Products are counted once in each loop.
    expected = {"kernels": 5 + 2 + 2, "copies": 5 + 2 + 1, "products": 2 + 1, "open_loops": 1}
    # A copy in the host's memory, a call of the host and an outfeed; on a GPU also the flags of the
    # open loop and of the conditional.
    assert compile_only.count(TEXT, "tpu") == expected | {"to_host": 3}
    assert compile_only.count(TEXT, "cuda") == expected | {"to_host": 5}


def test_a_program_without_loops_is_one_step(compile_only):
    text = """ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %square = f32[2]{0} dot(%a, %a)
  ROOT %sum = f32[2]{0} fusion(%square), calls=%added
}

%added (b: f32[2]) -> f32[2] {
  %b = f32[2]{0} parameter(0)
  ROOT %twice = f32[2]{0} add(%b, %b)
}
"""
    counts = compile_only.count(text, "cuda")
    assert (counts["kernels"], counts["products"], counts["to_host"]) == (2, 1, 0)


@pytest.mark.parametrize("known", [True, False])
def test_a_loop_is_counted_as_it_was_written(compile_only, known):
    def steps(x, matrices, stop):
        def body(_, x):
            for matrix in matrices:
                x = jnp.tanh(x @ matrix)
            return x

        return jax.lax.fori_loop(0, 7 if known else stop, body, x)

    x, matrices = jnp.ones((64, 64)), jnp.ones((3, 64, 64))
    text = jax.jit(steps).lower(x, matrices, 7).compile().as_text()
    counts = compile_only.count(text, "cpu")
    assert counts["products"] == 3
    assert counts["open_loops"] == (not known)
    assert counts["to_host"] == 0


class Stop(Exception):
    """Ends `fit` before it compiles."""


@pytest.mark.parametrize("members", [None, 2])
def test_the_program_is_that_of_a_run(compile_only, monkeypatch, tiny, members):
    gan, signature, called = MODELS["gan"], inspect.signature(loop._compiled_steps), []

    def record(*args, **options):
        arguments = signature.bind(*args, **options).arguments
        fixed = {"batch_size", "last", "layout"} & arguments.keys()
        statics = {name: arguments.pop(name) for name in (*fixed, "train_step")}
        assert not arguments.pop("is_random", False)
        called.append((statics, jax.tree.map(describe, arguments)))
        raise Stop

    def describe(x):
        x = jax.typeof(x) if isinstance(x, int | np.ndarray | jax.Array) else x
        return x.shape, x.dtype, bool(getattr(x, "weak_type", False))

    record.trace = record.lower = record
    monkeypatch.setattr(loop, "_compiled_steps", record)
    settings = TrainConfig(batch_size=16, epochs=1, population=members)
    monkeypatch.setitem(compile_only.PRESETS, "tiny", (tiny, settings))
    monkeypatch.setattr(compile_only, "IMAGES", (64, *tiny.image_shape))
    with pytest.raises(Stop):
        compile_only.compile_steps(compile_only.Program("tiny", members), "cpu", jax.devices()[0])
    runs, data = make_runs(gan, tiny, settings), {"image": np.zeros((64, 6, 5, 1), np.uint8)}
    layout = runs.make_layout(1)
    run = loop.start_run(gan.train_step, runs.create_state(), data, 16, layout)
    options = {"batch_size": 16, "epochs": 1, "layout": layout, "progress": False}
    with pytest.raises(Stop):
        runs.fit(gan.train_step, run, data, runs.rngs.training, **options)
    of_benchmark, of_run = called
    assert of_benchmark == of_run
    assert of_run[0]["train_step"] == gan.train_step


def test_an_unmeasured_step_trains_as_the_measured_one(compile_only, tiny, images):
    gan = MODELS["gan"]
    state, rng = gan.create_state(jax.random.key(0), tiny), jax.random.key(1)
    step = compile_only.without_metrics(gan.train_step)
    shapes = jax.eval_shape(step, state, {"image": images[:16]}, rng)
    measured = jax.eval_shape(gan.train_step, state, {"image": images[:16]}, rng)
    assert shapes[0] == measured[0]
    assert not jax.tree.leaves(shapes[1])
    assert jax.tree.leaves(measured[1])


@pytest.mark.parametrize("device", ["cpu", "h100", "v5e", "v6e"])
def test_the_counts_of_the_reference_are_those_of_the_results(compile_only, tmp_path, device):
    """In a process, since the tests optimize less."""
    needed = {"cpu": "jaxlib", "h100": "jax_cuda13_plugin"}.get(device, "libtpu")
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"its compiler is not installed: {compile_only.DEVICES[device].extra}")
    options = ["--programs", "reference", "--devices", device, "--json", tmp_path / "counts.json"]
    changed = ("JAX", "XLA")  # by the tests
    env = {k: v for k, v in os.environ.items() if not k.startswith(changed)}
    env["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it does not change the instructions
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/compile_only.py"), *map(str, options)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "compiled, not run" in done.stdout
    (row,) = json.loads((tmp_path / "counts.json").read_text())["rows"]
    (published,) = (
        row for row in PUBLISHED if (row["program"], row["device"]) == ("reference", device)
    )
    # Other versions fuse in other ways.
    for name in ("kernels", "products", "gflop", "memory_mb"):
        if published[name] is not None:
            np.testing.assert_allclose(row[name], published[name], rtol=0.15, err_msg=name)
    assert row["open_loops"] <= published["open_loops"]
    assert row["to_host"] <= published["to_host"]


def test_rows_are_compiled_once(compile_only, run, monkeypatch):
    compiled = []

    def measure(program, platform, device):
        compiled.append((program.preset, platform, device.platform))
        return {"kernels": 5}

    monkeypatch.setattr(compile_only, "measure", measure)
    run(compile_only, "--devices", "cpu", "--programs", "large", "--json", "rows.json")
    out, _ = run(compile_only, "--devices", "cpu", "--json", "rows.json")
    presets = [program.preset for program in compile_only.PROGRAMS.values()]
    assert sorted(compiled) == sorted((preset, "cpu", "cpu") for preset in presets)
    (line,) = [line for line in out.splitlines() if line.startswith("population of 64")]
    assert line.split()[4:7] == ["5", "-", "-"]


def test_a_device_without_a_compiler_is_left_out_or_refused(compile_only, run, monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("no plugin\nand more")

    monkeypatch.setattr(compile_only.topologies, "get_topology_desc", missing)
    monkeypatch.setattr(compile_only, "measure", lambda *_: {})
    out, err = run(compile_only)
    assert "reference" in out
    assert "h100" not in out
    assert "v6e is left out" in err
    with pytest.raises(JaxganError, match=r"\(no plugin\): pip install 'jax\[tpu\]'$"):
        run(compile_only, "--devices", "v5e", "--json", "other.json")
