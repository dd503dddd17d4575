"""The benchmarks that measure time and memory."""

import functools
import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, colors, latents_of
from idx_files import write_set

import jaxgan

# What is not jax, flax, optax, numpy or needed by them cannot be imported. All scripts run in one
# process, each with its options.
ALONE = """
import os, runpy, sys
for name in ("orbax", "tensorflow_datasets", "tensorflow", "matplotlib", "PIL", "sklearn", "tqdm",
             "tyro", "tensorboardX", "keras"):
    sys.modules[name] = None
for command in sys.argv[1:]:
    sys.argv = command.split()
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def few_images(tmp_path_factory) -> str:
    """A folder with a Fashion-MNIST of 260 images."""
    images = np.random.default_rng(0).integers(0, 256, (260, 28, 28), np.uint8)
    folder = tmp_path_factory.mktemp("data")
    return str(write_set(folder, images, np.zeros(260, np.uint8), ("train",)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, few_images) -> dict[str, dict]:
    """The results of the benchmarks that need jax, flax, optax and numpy only, by name."""
    folder = tmp_path_factory.mktemp("alone")
    options = {
        "steps_per_second": "--batch-sizes 130 --rounds 2 --seconds 0.01",
        "scaling": "--sweeps batch --batch-sizes 130 65 --rounds 2 --seconds 0.01",
    }
    commands = [
        f"{ROOT}/benchmarks/{name}.py {text} --data-dir {few_images} --json {folder}/{name}.json"
        for name, text in options.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *commands], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "batch: round 2 of 2" in done.stderr
    for text in ("GFLOP/s", "GAN-steps/s"):
        assert text in done.stdout
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in options}


def test_steps_per_second_measures_the_loop_and_the_epoch(alone):
    report = alone["steps_per_second"]
    assert report["images"] == "fashion_mnist"
    assert "--batch-sizes 130" in report["command"]
    assert f"jax {jax.__version__}" in report["versions"]
    assert [row["batch_size"] for row in report["rows"]] == [130]
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


@pytest.fixture
def small_networks(monkeypatch) -> jaxgan.GANConfig:
    """The GAN that scaling.py measures, with small networks."""
    import scaling

    config = jaxgan.GANConfig(
        generator_widths=(8,), discriminator_widths=(8,), discriminator_dropout=(0.5,)
    )
    monkeypatch.setattr(scaling.Setting, "config", config)
    return config


def test_scaling_measures_each_size(alone, run, tmp_path, few_images, small_networks):
    import scaling

    path, plot = tmp_path / "report.json", tmp_path / "report.png"
    options = ["--sweeps", "population", "--populations", 2, "--rounds", 2, "--seconds", 0.01]
    run(scaling, *options, "--data-dir", few_images, "--json", path, "--plot", plot)
    assert alone["scaling"]["images"] == "fashion_mnist"
    rows = alone["scaling"]["rows"] + json.loads(path.read_text())["rows"]
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
        parameters = 491_473 if row["sweep"] == "batch" else 101 * 8 + 9 * 784 + 785 * 8 + 9
        assert row["states_mb"] == 12 * parameters * members / 1e6
        whole_batches = 256 if row["sweep"] == "population" else 260
        assert row["data_mb"] == whole_batches * 784 / 1e6
        # The new states take the place of the old ones.
        np.testing.assert_allclose(row["arguments_mb"], row["states_mb"], rtol=1e-2)
        np.testing.assert_allclose(row["reused_mb"], row["results_mb"], rtol=1e-2)
        held = row["arguments_mb"] + row["temporary_mb"]
        np.testing.assert_allclose(row["memory_mb"], held, rtol=1e-2)
    assert [row["flop_slope"] for row in rows] == [None, 1, None, None]
    assert any(blue - red > 100 for red, _, blue in colors(plot))  # the first of the series
    widths = [row | {"sweep": "width"} for row in alone["scaling"]["rows"]]
    assert len(scaling.draw(rows + widths, "a device").axes) == 6


def test_scaling_can_leave_out_members_in_turns(run, few_images, monkeypatch):
    import scaling

    named = []
    monkeypatch.setattr(
        scaling, "measure", lambda sweep, settings, *_: named.extend(settings) or []
    )
    options = ["--sweeps", "batch", "population", "--batch-sizes", 2, "--populations", 2, 1]
    for more in ([], ["--together"]):
        run(scaling, *options, *more, "--data-dir", few_images)
    members = [(1, "in turns"), (1, "together"), (2, "in turns"), (2, "together")]
    assert named == [(2, "single"), *members, (2, "single"), *members[1::2]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--widths", "1", "0"], "above 0, got '0'"),
        (["--batch-sizes", "261"], "from 1 to the 260 images"),
        (["--seconds", "nan"], "--seconds: must be above 0"),
        (["--json", "no/such/folder/x.json"], "no folder no/such/folder"),
        (["--plot", "x.png"], "--plot needs matplotlib"),
    ],
)
def test_scaling_refuses_nonsense_before_it_starts(
    run, few_images, monkeypatch, capsys, options, problem
):
    import scaling

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as end:
        run(scaling, *options, "--data-dir", few_images)
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("width", [1, 2])
def test_scaling_counts_as_xla_does(width):
    from peers import matmul_bound
    from scaling import Setting, count_parameters, layers, start

    setting = Setting(512, width)
    sizes = layers(setting.config)
    if width == 1:
        assert sizes == (matmul_bound.GENERATOR, matmul_bound.DISCRIMINATOR)
    state, rng = jax.eval_shape(functools.partial(start, setting))
    inputs = jax.eval_shape(lambda: matmul_bound.make_inputs(jax.random.key(0), *sizes, 512))
    images = jax.ShapeDtypeStruct((512, 28, 28, 1), np.uint8)
    products, step = (
        jax.jit(program).lower(*inputs).compile().cost_analysis()["flops"]
        for program, inputs in (
            (matmul_bound.products, inputs),
            (jaxgan.train_step, (state, images, rng)),
        )
    )
    np.testing.assert_allclose(products, matmul_bound.count_flop(*sizes, 512), rtol=1e-4)
    # Beside the products: what is done to each activation and parameter, and random numbers.
    assert 1 < step / products < 1.15
    params = jax.tree.leaves((state.generator.params, state.discriminator.params))
    assert sum(x.size for x in params) == count_parameters(setting.config)


def test_the_data_set_stays_uint8(small_networks):
    """A million images need no memory beside their own but for their order and its sorting."""
    from scaling import Setting, compile_epoch, start

    n, pixels = 8_000 * 128, 784
    data = jax.ShapeDtypeStruct((n, 28, 28, 1), np.uint8)

    def temporary(program) -> float:
        """Bytes for each image."""
        assert program.memory_analysis().argument_size_in_bytes / n == pytest.approx(pixels, abs=1)
        return program.memory_analysis().temp_size_in_bytes / n

    assert temporary(compile_epoch(Setting(), n)) < 25
    for together in (False, True):
        assert temporary(compile_epoch(Setting(members=2, together=together), n)) < 2 * 25

    # That the compiler's account would show it.
    @functools.partial(jax.jit, donate_argnums=0)
    def epoch_of_floats(state, images, rng):
        images = (images.astype(jnp.float32) - 127.5) / 127.5
        return jaxgan.loop.train_epoch(jaxgan.train_step, state, images, rng, 0, batch_size=128)

    state, rng = jax.eval_shape(functools.partial(start, Setting()))
    assert temporary(epoch_of_floats.lower(state, data, rng).compile()) > 4 * pixels


def test_compare_runs_the_peers_that_are_here_and_names_the_others(run, tmp_path, few_images):
    import compare

    names = ["jaxgan", "jax", "bound", "pytorch-cuda-graph"]
    absent = [
        name
        for name, package in {"keras": "tensorflow", "pytorch": "torch"}.items()
        if importlib.util.find_spec(package) is None
    ]
    # With the batches of `alone`, whose programs are compiled.
    options = ["--rounds", "2", "--seconds", "0.01", "--data-dir", few_images, "--batch-size", 130]
    path = tmp_path / "report.json"
    out, _ = run(compare, *options, "--only", *names, *absent, "--json", path)
    report = json.loads(path.read_text())
    assert report["images"] == "fashion_mnist"
    assert "--rounds 2" in report["command"]
    peers = report["peers"]
    assert list(peers) == [*names, *absent]
    for name in ("pytorch-cuda-graph", *absent):
        assert peers[name]["problem"].startswith("skipped: "), name
        assert peers[name]["problem"] in out
    for name in ("jaxgan", "jax", "bound"):
        rates = [peers[name][key] for key in ("min", "steps_per_second", "max")]
        assert rates == sorted(rates)
        assert len(peers[name]["rates"]) == 2
    assert peers["jaxgan"]["ratio_to_jaxgan"] == 1
    assert peers["jax"]["parameters"] == [249_296, 242_177]
    assert "rate of the products alone" in out


def test_compare_refuses_a_peer_that_it_does_not_know(run, capsys):
    import compare

    with pytest.raises(SystemExit) as end:
        run(compare, "--only", "pytorhc")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "pytorhc" in error
    assert "pytorch-compile" in error


def test_a_peer_that_fails_does_not_stop_the_others(monkeypatch):
    import compare

    broken = {name: compare.Peer(name) for name in ("program", "no_such_module")}
    monkeypatch.setattr(compare, "PEERS", broken)
    images = np.zeros((4, 28, 28, 1), np.uint8)
    results = compare.compare(list(broken), images, batch_size=2, rounds=1, seconds=0.1)
    assert results["program"]["problem"].startswith("failed: AttributeError")
    assert results["no_such_module"]["problem"].startswith("failed: ModuleNotFoundError")


def test_a_peer_that_ends_in_a_round_is_named(monkeypatch, capsys):
    import compare

    class Worker:
        about = {"about": "x", "gflop": None}  # noqa: RUF012

        def __init__(self, *_):
            self.rounds = 0

        def train(self, _):
            self.rounds += 1
            if self.rounds == 2:
                raise compare.PeerError("failed: ended with exit code -9")
            return 7.0

        def close(self):
            pass

    monkeypatch.setattr(compare, "Worker", Worker)
    images = np.zeros((4, 28, 28, 1), np.uint8)
    results = compare.compare(["jaxgan"], images, batch_size=2, rounds=3, seconds=0.1)
    assert results["jaxgan"]["problem"] == "failed: ended with exit code -9"
    assert results["jaxgan"]["rates"] == [7.0]
    compare.report(results)
    assert "failed: ended with exit code -9" in capsys.readouterr().out


def test_the_bound_counts_the_products_of_a_step():
    from peers import matmul_bound

    sizes = (matmul_bound.GENERATOR, matmul_bound.DISCRIMINATOR)
    inputs = matmul_bound.make_inputs(jax.random.key(0), *sizes, 128)
    loop = functools.partial(matmul_bound.repeat_products, 3)
    for program in (matmul_bound.products, loop):  # of a loop XLA counts one turn
        compiled = jax.jit(program).lower(*inputs).compile()
        # XLA takes a column times a row for a multiplication, not for a product: 0.003% less.
        flop = compiled.cost_analysis()["flops"]
        np.testing.assert_allclose(matmul_bound.count_flop(*sizes, 128), flop, rtol=1e-4)


def test_the_peer_in_plain_jax_takes_the_same_step():
    """Without dropout, as the masks are drawn otherwise; our gradients are Adam's first moments."""
    from peers import plain_jax

    config = jaxgan.GANConfig(discriminator_dropout=(0.0, 0.0, 0.0))
    state = jaxgan.create_state(jax.random.key(0), config)
    rng = jax.random.key(1)
    latents = latents_of(rng, 0, 16, config.latent_dim)
    real = jax.random.uniform(jax.random.key(2), (16, 28, 28, 1), minval=-1)
    params = state.generator.params, state.discriminator.params
    discriminator = plain_jax.Discriminator(dropout=config.discriminator_dropout)
    gradients = jax.jit(plain_jax.gradients, static_argnames="discriminator")
    grads, metrics = gradients(params, real, latents, rng, discriminator)
    state, expected = jaxgan.train_step(state, real, rng)
    np.testing.assert_allclose(metrics, jnp.stack(expected[:4]), rtol=1e-5)
    for learner, grad in zip((state.generator, state.discriminator), grads, strict=True):
        moments = learner.opt_state.inner_state[0].mu
        jax.tree.map(
            lambda g, m: np.testing.assert_allclose(g, m / 0.1, rtol=1e-3, atol=1e-6), grad, moments
        )


def test_start_measures_imports_and_first_steps(run, tmp_path, monkeypatch):
    import start

    # Once, although it is measured after a first try.
    monkeypatch.setattr(start, "import_seconds", functools.cache(start.import_seconds))
    np.save(tmp_path / "images.npy", np.zeros((8, 2, 2), np.uint8))
    options = ["--dataset", tmp_path / "images.npy", "--generator-widths", "2"]
    options += ["--discriminator-widths", "2", "--discriminator-dropout", "0"]
    run(start, "--repeats", "1", "--json", tmp_path / "b.json", "--", *options)
    report = json.loads((tmp_path / "b.json").read_text())
    assert "start.py --repeats 1" in report["command"]
    assert f"jax {jax.__version__}" in report["versions"]
    assert len(report["seconds"]) == 4
    assert all(row["median"] > 0 for row in report["seconds"].values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "images.npy"]


def test_ablations_train_every_variant(run, tmp_path, few_images, small_networks, monkeypatch):
    import ablations

    names = ("reference", "SGD for Adam", ablations.WITHOUT_MEASURES)
    configs = dict.fromkeys(names, small_networks)
    monkeypatch.setattr(ablations, "CONFIGS", configs)
    options = ["--rounds", 2, "--steps", 2, "--data-dir", few_images]
    out, _ = run(ablations, *options, "--json", tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [*configs, "the products alone"]
    assert rows[0]["to_reference"] == 1
    assert all(0 < row["min"] <= row["median"] <= row["max"] for row in rows)
    assert "to reference" in out


def test_metrics_measures_each_metric(run, tmp_path, monkeypatch):
    import metrics

    monkeypatch.setattr(metrics, "TRAINED", 100)
    out, _ = run(metrics, "--num", 60, "--rounds", 1, "--json", tmp_path / "m.json")
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["num"] == 60
    assert report["seconds"] == sum(row["seconds"] for row in report["rows"]) > 0
    peaks = [row["peak_mb"] for row in report["rows"]]
    assert peaks == sorted(peaks)
    assert "memorisation, of 100" in out


def test_kill_resume_writes_what_it_counts(run, tmp_path, monkeypatch):
    import kill_resume

    trials = iter([(["random"], []), (["in a save"], ["metrics.csv"])])
    monkeypatch.setattr(kill_resume, "start", lambda *_: None)
    monkeypatch.setattr(kill_resume, "finish", lambda *_: 0.0)
    monkeypatch.setattr(kill_resume, "read_rows", lambda _: [{"seconds": "1"}])
    monkeypatch.setattr(kill_resume, "trial", lambda *_: next(trials))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, os.environ[name])  # it changes these
    with pytest.raises(SystemExit) as end:
        run(kill_resume, "--trials", 2, "--kills", 1, "--json", tmp_path / "k.json")
    assert end.value.code == 1
    report = json.loads((tmp_path / "k.json").read_text())
    assert (report["trials"], report["equal"]) == (2, 1)
    assert report["kills"] == {"random": 1, "in a save": 1}
