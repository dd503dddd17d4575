"""What an installed jaxgan contains."""

import tomllib

from helpers import ROOT


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "jaxgan").rglob("__init__.py")}
    assert set(settings["tool"]["setuptools"]["packages"]) == {
        ".".join(folder.parts) for folder in folders
    }
