"""The modules of the benchmarks, and a way to run one in this process."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    # The import of compare would set these for the tests after these.
    for name in ("XLA_PYTHON_CLIENT_PREALLOCATE", "TF_FORCE_GPU_ALLOW_GROWTH"):
        monkeypatch.setenv(name, "false")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run(module, *options)` runs a benchmark in tmp_path: its output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(module, *options):
        monkeypatch.setattr("sys.argv", [f"{module.__name__}.py", *map(str, options)])
        module.main()
        return capsys.readouterr()

    return run
