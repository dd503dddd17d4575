import functools
import gzip
import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgan
from jaxgan.gan import _draw_latents

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "steps_per_second.py"
COMPARE = BENCHMARKS / "compare.py"
SCALING = BENCHMARKS / "scaling.py"
MEMORY = BENCHMARKS / "memory.py"

# What is not jax, flax, optax, numpy or needed by them cannot be imported.
ALONE = """
import os, runpy, sys
for name in ("orbax", "tensorflow_datasets", "tensorflow", "matplotlib", "PIL", "sklearn", "tqdm",
             "tyro", "tensorboardX", "keras"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_steps_per_second_needs_jax_flax_optax_and_numpy_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXGAN_DATA_DIR", raising=False)
    options = ["--batch-sizes", "1024", "2048", "--repeats", "1", "--seconds", "0.05"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(SCRIPT), *options, "--json", str(tmp_path / "b.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["images"] == "random"
    assert "--batch-sizes 1024 2048" in report["command"]
    assert f"jax {jax.__version__}" in report["versions"]
    assert [row["batch_size"] for row in report["rows"]] == [1024, 2048]
    for row in report["rows"]:
        for name in ("loop", "epoch"):
            rates = [row[f"{name}_{key}"] for key in ("min", "steps_per_second", "max")]
            assert rates == sorted(rates)
        # By hand: a product of [B, i] and [i, o] is 2 B i o. Forward: the generator once, the
        # discriminator twice. Backward for its own weights as much, and for what lies before it
        # as much again but for the first layer; for the generator's gradient once through it all.
        generator = [100 * 64, 64 * 128, 128 * 256, 256 * 784]
        discriminator = [784 * 256, 256 * 128, 128 * 64, 64]
        g, d = sum(generator), sum(discriminator)
        forward = g + 2 * d
        own = 2 * (d + d - discriminator[0])
        through = d + g + g - generator[0]
        expected = 2 * row["batch_size"] * (forward + own + through) / 1e9
        np.testing.assert_allclose(row["gflop_per_step"], expected, rtol=0.1)
    assert "GFLOP/s" in done.stdout


@pytest.fixture
def benchmarks_on_path(monkeypatch):
    """The benchmarks' modules, as the scripts and the workers import them."""
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("XLA_PYTHON_CLIENT_PREALLOCATE", "TF_FORCE_GPU_ALLOW_GROWTH"):
        monkeypatch.setenv(name, "false")  # compare.py would set them for the tests after these


def run_compare(*options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(COMPARE), *options], capture_output=True, text=True, check=False
    )


@pytest.fixture
def few_images(tmp_path) -> str:
    """A folder with a Fashion-MNIST of 260 images."""
    arrays = {"images-idx3": np.zeros((260, 28, 28)), "labels-idx1": np.zeros(260)}
    for name, array in arrays.items():
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        with gzip.open(tmp_path / f"train-{name}-ubyte.gz", "wb") as file:
            file.write(header + array.astype(np.uint8).tobytes())
    return str(tmp_path)


def test_compare_runs_the_peers_that_are_here_and_names_the_others(tmp_path, few_images):
    names = ["jaxgan", "jax", "bound", "pytorch-cuda-graph"]
    absent = [
        name
        for name, package in {"keras": "tensorflow", "pytorch": "torch"}.items()
        if importlib.util.find_spec(package) is None
    ]
    options = ["--rounds", "2", "--seconds", "0.01", "--data-dir", few_images]
    report = tmp_path / "report.json"
    done = run_compare(*options, "--only", *names, *absent, "--json", str(report))
    assert done.returncode == 0, done.stderr
    report = json.loads(report.read_text())
    assert report["images"] == "fashion_mnist"
    assert "--rounds 2" in report["command"]
    peers = report["peers"]
    assert list(peers) == [*names, *absent]
    for name in ("pytorch-cuda-graph", *absent):
        assert peers[name]["problem"].startswith("skipped: "), name
        assert peers[name]["problem"] in done.stdout
    for name in ("jaxgan", "jax", "bound"):
        rates = [peers[name][key] for key in ("min", "steps_per_second", "max")]
        assert rates == sorted(rates)
        assert len(peers[name]["rates"]) == 2
    assert peers["jaxgan"]["ratio_to_jaxgan"] == 1
    assert peers["jax"]["parameters"] == [249_296, 242_177]
    assert "rate of the products alone" in done.stdout


def test_compare_refuses_a_peer_that_it_does_not_know():
    done = run_compare("--only", "pytorhc")
    assert done.returncode == 2
    assert "pytorhc" in done.stderr
    assert "pytorch-compile" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_peer_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, benchmarks_on_path):
    import compare

    np.save(tmp_path / "images.npy", np.zeros((4, 28, 28, 1), np.uint8))
    broken = {name: compare.Peer(name) for name in ("program", "no_such_module")}
    monkeypatch.setattr(compare, "PEERS", broken)
    args = Namespace(only=list(broken), batch_size=2, rounds=1, seconds=0.1)
    results = compare.compare(args, tmp_path)
    assert results["program"]["problem"].startswith("failed: AttributeError")
    assert results["no_such_module"]["problem"].startswith("failed: ModuleNotFoundError")


def test_the_bound_counts_the_products_of_a_step(benchmarks_on_path):
    import matmul_bound

    inputs = matmul_bound.make_inputs(jax.random.key(0), 128)
    loop = functools.partial(matmul_bound.repeat_products, 3)
    for program in (matmul_bound.products, loop):  # of a loop XLA counts one turn
        compiled = jax.jit(program).lower(*inputs).compile()
        # XLA takes a column times a row for a multiplication, not for a product: 0.003% less.
        flop = compiled.cost_analysis()["flops"]
        np.testing.assert_allclose(matmul_bound.count_flop(128), flop, rtol=1e-4)


def test_the_peer_in_plain_jax_takes_the_same_step(benchmarks_on_path):
    """Without dropout, as the masks are drawn otherwise; our gradients are Adam's first moments."""
    import plain_jax

    config = jaxgan.GANConfig(discriminator_dropout=(0.0, 0.0, 0.0))
    state = jaxgan.create_state(jax.random.key(0), config)
    rng = jax.random.key(1)
    latents = _draw_latents(jax.random.split(jax.random.fold_in(rng, 0), 4)[0], 16, config)
    real = jax.random.uniform(jax.random.key(2), (16, 28, 28, 1), minval=-1)
    params = state.generator.params, state.discriminator.params
    discriminator = plain_jax.Discriminator(dropout=config.discriminator_dropout)
    gradients = jax.jit(plain_jax.gradients, static_argnames="discriminator")
    grads, metrics = gradients(params, real, latents, rng, discriminator)
    state, expected = jaxgan.train_step(state, real, rng)
    np.testing.assert_allclose(metrics, jnp.stack(expected[:4]), rtol=1e-5)
    for player, grad in zip((state.generator, state.discriminator), grads, strict=True):
        moments = player.opt_state.inner_state[0].mu
        jax.tree.map(
            lambda g, m: np.testing.assert_allclose(g, m / 0.1, rtol=1e-3, atol=1e-6), grad, moments
        )


def test_start_measures_imports_and_first_steps(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((8, 2, 2), np.uint8))
    options = ["--dataset", str(tmp_path / "images.npy"), "--generator-widths", "2"]
    options += ["--discriminator-widths", "2", "--discriminator-dropout", "0"]
    command = [sys.executable, str(SCRIPT.with_name("start.py")), "--repeats", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "b.json"), "--", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "b.json").read_text())
    assert "start.py --repeats 1" in report["command"]
    assert f"jax {jax.__version__}" in report["versions"]
    dependencies, own, cold, warm = (row["median"] for row in report["seconds"].values())
    assert own < dependencies < warm < cold
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "images.npy"]


def run_alone(script: Path, *options) -> subprocess.CompletedProcess:
    """Where jax, flax, optax and numpy are alone; compiled fast, to programs that are slow."""
    return subprocess.run(
        [sys.executable, "-c", ALONE, str(script), *options],
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_scaling_measures_each_size_and_draws_it(tmp_path, few_images, benchmarks_on_path):
    import scaling

    options = ["--sweeps", "batch", "population", "--batch-sizes", "130", "65", "--populations"]
    options += ["2", "--repeats", "2", "--seconds", "0.01", "--data-dir", few_images]
    done = run_alone(SCALING, *options, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2" in done.stderr
    assert "GAN-steps/s" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"] == "fashion_mnist"
    rows = report["rows"]
    assert [(row["sweep"], row["size"], row["way"]) for row in rows] == [
        ("batch", 65, "single"),
        ("batch", 130, "single"),
        ("population", 2, "in turns"),
        ("population", 2, "together"),
    ]
    for row in rows:
        assert 0 < row["ms_min"] <= row["ms_per_step"] <= row["ms_max"]
        members = row["size"] if row["sweep"] == "population" else 1
        np.testing.assert_allclose(row["gan_steps_per_second"] * row["ms_per_step"], 1e3 * members)
        assert row["memory_mb"] > row["states_mb"] > 5.8 * members
    assert [row["flop_slope"] for row in rows] == [None, 1, None, None]
    assert scaling.draw(rows, "a device").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--widths", "1", "0"], "above 0, got '0'"),
        (["--batch-sizes", "261"], "from 1 to the 260 images"),
        (["--seconds", "nan"], "--seconds must be above 0"),
        (["--json", "no/such/folder/x.json"], "no folder no/such/folder"),
        (["--plot", "x.png"], "--plot needs matplotlib"),
    ],
)
def test_scaling_refuses_nonsense_before_it_starts(few_images, options, problem):
    done = run_alone(SCALING, *options, "--data-dir", few_images)
    assert done.returncode != 0
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("width", [1, 2])
def test_scaling_counts_as_xla_does(width, monkeypatch, benchmarks_on_path):
    import matmul_bound
    from memory import Setting, start
    from scaling import count_flop, count_parameters

    setting = Setting(512, width)
    hidden = [width * n for n in (64, 128, 256)]
    monkeypatch.setattr(matmul_bound, "GENERATOR", (100, *hidden, 784))
    monkeypatch.setattr(matmul_bound, "DISCRIMINATOR", (784, *hidden[::-1], 1))
    state, rng = jax.eval_shape(functools.partial(start, setting))
    inputs = jax.eval_shape(lambda: matmul_bound.make_inputs(jax.random.key(0), 512))
    images = jax.ShapeDtypeStruct((512, 28, 28, 1), np.uint8)
    products, step = (
        jax.jit(program).lower(*inputs).compile().cost_analysis()["flops"]
        for program, inputs in (
            (matmul_bound.products, inputs),
            (jaxgan.train_step, (state, images, rng)),
        )
    )
    np.testing.assert_allclose(products, count_flop(setting.config, 512), rtol=1e-4)
    # Beside the products: what is done to each activation and parameter, and random numbers.
    assert 1 < step / products < 1.15
    params = jax.tree.leaves((state.generator.params, state.discriminator.params))
    assert sum(x.size for x in params) == count_parameters(setting.config)


def test_memory_accounts_for_all_that_a_program_holds(tmp_path, few_images):
    options = ["--batch-sizes", "130", "--populations", "1", "--data-dir", few_images]
    done = run_alone(MEMORY, *options, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    assert "260 images, uint8, 0.20 MB" in done.stdout
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert (row["batch_size"], row["members"], row["way"]) == (130, 1, "single")
    assert row["data_mb"] == 260 * 784 / 1e6
    # Two networks of 491,473 parameters, each with two moments; in their place come the new ones.
    np.testing.assert_allclose(row["state_mb"], 12 * 491_473 / 1e6, rtol=1e-3)
    np.testing.assert_allclose(row["reused_mb"], row["results_mb"], rtol=1e-3)
    held = row["data_mb"] + row["state_mb"] + row["temporary_mb"]
    np.testing.assert_allclose(row["total_mb"], held, rtol=1e-3)


def test_the_data_set_stays_uint8(benchmarks_on_path):
    """A million images need no memory beside their own but for their order and its sorting."""
    from memory import Setting, compile_epoch, start

    class Small(Setting):
        config = jaxgan.GANConfig(
            generator_widths=(8,), discriminator_widths=(8,), discriminator_dropout=(0.5,)
        )

    n, pixels = 8_000 * 128, 784
    data = jax.ShapeDtypeStruct((n, 28, 28, 1), np.uint8)

    def temporary(program) -> float:
        """Bytes for each image."""
        assert program.memory_analysis().argument_size_in_bytes / n == pytest.approx(pixels, abs=1)
        return program.memory_analysis().temp_size_in_bytes / n

    assert temporary(compile_epoch(Small(), n)) < 25
    for together in (False, True):
        assert temporary(compile_epoch(Small(members=2, together=together), n)) < 2 * 25

    # That the compiler's account would show it.
    @functools.partial(jax.jit, donate_argnums=0)
    def epoch_of_floats(state, images, rng):
        images = (images.astype(jnp.float32) - 127.5) / 127.5
        return jaxgan.loop.train_epoch(jaxgan.train_step, state, images, rng, 0, batch_size=128)

    state, rng = jax.eval_shape(functools.partial(start, Small()))
    assert temporary(epoch_of_floats.lower(state, data, rng).compile()) > 4 * pixels
