"""The benchmark that says what a step spends its time on."""

import json

import jax
import numpy as np
import pytest
from helpers import ROOT

from jaxgan import TrainConfig

# Types of jaxlib 0.12 that read traces, on Python 3.13.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__")
TEXT = """\
HloModule jit_steps

%normal (a: u32[4]) -> f32[4] {
  %a = u32[4]{0} parameter(0)
  %xor.1 = u32[4]{0} xor(%a, %a)
  %shift.1 = u32[4]{0} shift-left(%xor.1, %a)
  ROOT %multiply.9 = f32[4]{0} multiply(%shift.1, %a), metadata={op_name="step/jvp(Dense)/mul"}
}

%dense (b: f32[4,4]) -> f32[4,4] {
  %b = f32[4,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[4,4]{1,0} dot(%b, %b), lhs_contracting_dims={1}
}

%adam (c: f32[4]) -> (f32[4], f32[]) {
  %c = f32[4]{0} parameter(0)
  %one = f32[4]{0} multiply(%c, %c), metadata={op_name="step/jvp(Dense)/mul"}
  %two = f32[4]{0} add(%c, %c), metadata={op_name="step/jvp(Dense)/add"}
  ROOT %all = f32[4]{0} add(%one, %two), metadata={op_name="step/vmap(optimizer)/add"}
}

%images (d: u8[9,4]) -> f32[4] {
  %d = u8[9,4]{1,0} parameter(0)
  %rows = u8[4]{0} gather(%d, %d)
  %float = f32[4]{0} convert(%rows)
  ROOT %scaled = f32[4]{0} divide(%float, %float), metadata={op_name="step/div"}
}

%padded (e: f32[4]) -> f32[8] {
  %e = f32[4]{0} parameter(0)
  %zero = f32[] constant(0)
  ROOT %pad.1 = f32[8]{0} pad(%e, %zero), padding=0_4
}

%moved (k: f32[4]) -> f32[8] {
  %k = f32[4]{0} parameter(0)
  %slice.1 = f32[4]{0} slice(%k)
  %power = f32[4]{0} power(%slice.1, %slice.1), metadata={op_name="step/pow"}
  ROOT %pad.3 = f32[8]{0} pad(%power, %power)
}

%tie (f: f32[4]) -> f32[4] {
  %f = f32[4]{0} parameter(0)
  %leaky = f32[4]{0} add(%f, %f), metadata={op_name="step/add"}
  ROOT %square = f32[4]{0} multiply(%leaky, %leaky), metadata={op_name="step/measure/square"}
}

%turn (g: (s32[], f32[4])) -> (s32[], f32[4]) {
  %g = (s32[], f32[4]{0}) parameter(0)
  %element = f32[4]{0} get-tuple-element(%g), index=1
  %copy.1 = f32[4]{0} copy(%element)
  %copy.2 = u32[4]{0} copy(%g)
  %mask.1 = f32[4]{0} fusion(%copy.2), kind=kLoop, calls=%normal
  %gemm_fusion.1 = f32[4,4]{1,0} fusion(%g), kind=kCustom, calls=%dense
  %library = f32[4]{0} custom-call(%g), custom_call_target="__cublas$gemm"
  %few = f32[] reduce(%g, %g), to_apply=%sum, metadata={op_name="step/Dense_1/dot_general"}
  %batch.1 = f32[4]{0} fusion(%g), kind=kLoop, calls=%images
  %pad.2 = f32[8]{0} fusion(%copy.1), kind=kLoop, calls=%padded
  %pad.4 = f32[8]{0} fusion(%element), kind=kLoop, calls=%moved
  %tie.1 = f32[4]{0} fusion(%copy.1), kind=kLoop, calls=%tie
  %tanh = f32[4]{0} tanh(%pad.2), metadata={op_name="step/tanh"}
  %window = f32[2]{0} reduce-window(%tanh, %tanh), to_apply=%sum
  %bitcast = f32[2]{0} bitcast(%window)
  %copy.3 = f32[4]{0} copy(%element)
  %norm = f32[] reduce(%bitcast, %copy.3), to_apply=%sum, metadata={op_name="step/measure/sum"}
  %adam.1 = f32[4]{0} fusion(%norm), kind=kLoop, calls=%adam, \
metadata={op_name="step/vmap(optimizer)/add"}
  %next = s32[] add(%g, %g)
  ROOT %tuple = (s32[], f32[4]{0}) tuple(%next, %adam.1)
}

%sum (h: f32[], i: f32[]) -> f32[] {
  %h = f32[] parameter(0)
  %i = f32[] parameter(1)
  ROOT %add.4 = f32[] add(%h, %i)
}

ENTRY %main (j: (s32[], f32[4])) -> (s32[], f32[4]) {
  %j = (s32[], f32[4]{0}) parameter(0)
  ROOT %while.1 = (s32[], f32[4]{0}) while(%j), condition=%sum, body=%turn
}
"""


def test_an_instruction_has_the_kind_of_what_it_computes_and_of_its_place():
    import profile_step

    found = profile_step.find_instructions(TEXT)
    expected = {
        "copy.1": "copies",
        "copy.2": "random numbers",
        "mask.1": "random numbers",
        "gemm_fusion.1": "matrix products",
        "library": "matrix products",
        "few": "matrix products",  # a sum for the compiler
        "batch.1": "batch",
        "pad.2": "copies",
        "pad.4": "activations",
        "tie.1": "measurement",
        "tanh": "activations",
        "window": "measurement",  # which uses it
        "norm": "measurement",
        "copy.3": "copies",  # although a measurement uses it
        "adam.1": "optimizer",
        "next": "counters",
    }
    assert {name: found.kinds[name] for name in expected} == expected
    assert found.kinds["gemm_fusion_1"] == "matrix products"  # the name of a kernel
    assert {"while.1", "while_1"} == found.containers
    assert not found.containers & found.kinds.keys()
    assert sum(found.products[name] for name in expected) == 2


def test_times_are_shared_and_those_of_the_innermost():
    import profile_step

    def events(line, *spans):
        return [profile_step.Event(line, *span) for span in spans]

    found = events("a", (0, 100, "outer"), (10, 40, "dot"), (10, 10, "empty"), (60, 80, "dot"))
    found += events("b", (30, 50, "add"), (180, 200, "other"))
    # "dot" alone from 10 to 30, with "add" from 30 to 40; "outer" with "add" from 40 to 50.
    expected = {"dot": 20 + 5 + 20, "add": 10, "outer": 10 + 5 + 10 + 20, "other": 20}
    times = profile_step.divide(found)
    assert times == expected | {"waiting": 80}
    kinds = {"dot": "matrix products", "outer": "copies", "add": "copies", "empty": "copies"}
    assert profile_step.make_rows(found, kinds, 10) == [
        {"kind": "copies", "kernels": 0.3, "us": 0.0055, "share": 55 / 120},
        {"kind": "matrix products", "kernels": 0.2, "us": 0.0045, "share": 45 / 120},
        {"kind": "unknown", "kernels": 0.1, "us": 0.002, "share": 20 / 120},
    ]


class Named:
    """A part of a trace."""

    def __init__(self, name, **fields):
        self.name = name
        vars(self).update(fields)


def test_the_kernels_of_a_gpu_are_read_from_its_streams(monkeypatch):
    import profile_step

    def event(name, start, hlo_op=None):
        stats = [("correlation_id", 3)] + ([("hlo_op", hlo_op)] if hlo_op else [])
        return Named(name, start_ns=start, duration_ns=5, stats=stats)

    kernels = [
        event("nvjet_sm90", 10, "library"),
        event("gemm_fusion_1", 20, "command_buffer"),
        event("MemcpyD2H", 30),
    ]
    launches = [event("cuLaunchKernel", 1, "library")]
    planes = [
        Named("/host:CPU", lines=[Named("a thread", events=launches)]),
        Named(
            "/device:GPU:0",
            lines=[
                Named("Stream #13(Kernel)", events=kernels),
                Named("CUPTI overhead", events=launches),
            ],
        ),
    ]
    monkeypatch.setattr(
        jax.profiler, "ProfileData", Named("", from_file=lambda _: Named("", planes=planes))
    )
    instructions = profile_step.find_instructions(TEXT)
    found = list(profile_step.read_events(ROOT, instructions, on_gpu=True))
    line = "/device:GPU:0 Stream #13(Kernel)"
    assert found == [
        (line, 10, 15, "library"),
        (line, 20, 25, "gemm_fusion_1"),
        (line, 30, 35, "MemcpyD2H"),
    ]


def test_a_profile_adds_up_and_has_the_products_of_the_program(run, monkeypatch, tiny):
    import profile_step

    monkeypatch.setitem(
        profile_step.PRESETS, "reference", (tiny, TrainConfig(batch_size=16, epochs=1))
    )
    images = np.random.default_rng(0).integers(0, 256, (100, *tiny.image_shape), np.uint8)
    monkeypatch.setattr(profile_step.harness, "find_images", lambda _: (images, "random"))
    out, _ = run(profile_step, "--preset", "reference", "--steps", 6, "--rounds", 2)
    (found,) = json.loads((profile_step.harness.RUNS / "profile.json").read_text())["presets"]
    rows = {row["kind"]: row for row in found["rows"]}
    assert found["steps"] == 6
    assert found["products"] == found["products_traced"] > 0
    assert rows["matrix products"]["kernels"] >= found["products"]
    assert {"optimizer", "measurement", "random numbers", "batch", "activations"} <= rows.keys()
    assert "unknown" not in rows
    np.testing.assert_allclose(sum(row["share"] for row in rows.values()), 1)
    total = sum(row["us"] for row in rows.values())
    np.testing.assert_allclose(total, found["us_running"])
    assert 0 < total <= found["us_traced"]
    assert "all" in out.splitlines()[-1]
    (file,) = (profile_step.harness.RUNS / "profile/reference").glob(
        "plugins/profile/*/*.xplane.pb"
    )
    assert file.stat().st_size


def test_a_trace_without_instructions_is_refused(tmp_path):
    import profile_step

    nothing = profile_step.find_instructions("")
    with pytest.raises(profile_step.JaxganError, match="has no instructions"):
        profile_step.trace(lambda: None, tmp_path, nothing)
