"""The README's Python, run as it stands there, one block after the other."""

import re
from pathlib import Path

import jax

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_block_of_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["pictures"].shape == (16, 8, 8, 1)
    assert names["history"].gen_loss.shape == (10,)
    assert jax.device_count() == 4
    assert names["states"].step.tolist() == [1] * 8


def test_every_file_that_is_named_is_there():
    for name in re.findall(r'(?:src="|\]\()((?!http)[^")]+)', README):
        assert (Path(__file__).parents[1] / name).exists(), name
