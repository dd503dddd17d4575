"""What an installed jaxgan contains."""

import subprocess
import sys
import tomllib

from helpers import ROOT


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "jaxgan").rglob("__init__.py")}
    assert set(settings["tool"]["setuptools"]["packages"]) == {
        ".".join(folder.parts) for folder in folders
    }


def test_a_type_checker_finds_the_package_from_outside(tmp_path):
    # It follows paths, but not the import hooks that an editable installation may have.
    code = """import jaxgan
reveal_type(jaxgan.GANConfig().latent_dim)
reveal_type(jaxgan.metrics.frechet_distance)
reveal_type(jaxgan.population.create_states)
jaxgan.no_such_name
"""
    (tmp_path / "code.py").write_text(code)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "code.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'latent_dim" is "int"' in done.stdout, done
    assert 'frechet_distance" is "(real: ' in done.stdout
    assert 'create_states" is "(' in done.stdout
    assert '"no_such_name" is not a known attribute' in done.stdout
    assert "1 error, " in done.stdout
