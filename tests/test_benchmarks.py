import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "steps_per_second.py"

# What is not jax, flax, optax, numpy or needed by them cannot be imported.
ALONE = """
import runpy, sys
for name in ("orbax", "tensorflow_datasets", "tensorflow", "matplotlib", "PIL", "sklearn", "tqdm",
             "tyro", "tensorboardX", "keras"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
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
