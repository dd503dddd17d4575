"""Files of judges, the classifiers whose features score samples."""

from pathlib import Path

import jax
import numpy as np

from jaxgan.metrics.classifier import Judge, JudgeCNN, judge_bytes


def make_judge(
    path: Path, seed: int = 0, shape: tuple[int, int, int] = (8, 8, 1), name: str = "untrained"
) -> str:
    """Writes an untrained judge into a file; gives the name of the file. It tells images apart."""
    module = JudgeCNN(10, (8, 16))
    params = module.init(jax.random.key(seed), np.zeros((1, *shape), np.float32))["params"]
    path.write_bytes(judge_bytes(Judge(name, shape, module, params)))
    return str(path)
