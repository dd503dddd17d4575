"""The notebooks of scripts/.

`python tests/notebooks.py` runs them and stores what they show. It needs nbclient and ipykernel.
What a cell prints while it trains is not stored: it has times and the paths of this machine.
"""

import base64
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parents[1] / "scripts"
NAMES = ("train", "compose")


def read(name: str) -> dict[str, Any]:
    """The content of a notebook."""
    return json.loads((FOLDER / f"{name}.ipynb").read_text())


def code(notebook: dict[str, Any]) -> list[str]:
    """The source of each code cell."""
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def renew(name: str) -> None:
    """Runs a notebook in a folder of its own, and stores its outputs in scripts/."""
    import nbclient
    import nbformat

    path = FOLDER / f"{name}.ipynb"
    notebook: Any = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            trains = "training.train(" in cell.source
            cell.outputs = [kept(output) for output in cell.outputs if is_kept(output, trains)]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def is_kept(output: dict[str, Any], trains: bool) -> bool:
    """Whether an output of a cell is stored: pictures, and what other cells print."""
    return "data" in output or (not trains and output["name"] == "stdout")


def kept(output: dict[str, Any]) -> dict[str, Any]:
    """An output; of a picture a small PNG alone."""
    if "image/png" in output.get("data", {}):
        output["data"] = {"image/png": small_png(output["data"]["image/png"])}
    return output


def small_png(text: str) -> str:
    """A PNG picture as base64, with 32 colours."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        image.convert("RGB").quantize(32).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for each in NAMES:
        renew(each)
