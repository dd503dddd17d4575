"""Files of judges, the classifiers whose features score samples."""

import functools
from pathlib import Path

import jax
import numpy as np

from jaxgan.metrics.classifier import Judge, JudgeCNN, judge_bytes


def make_judge(
    path: Path, seed: int = 0, shape: tuple[int, int, int] = (8, 8, 1), name: str = "untrained"
) -> str:
    """Writes an untrained judge into a file; gives the name of the file. It tells images apart."""
    module = JudgeCNN(10, (8, 16))
    init = functools.partial(module.init, images=np.zeros((1, *shape), np.float32))
    shapes, rng = jax.eval_shape(init, jax.random.key(0))["params"], np.random.default_rng(seed)
    # By numpy, since jax would compile a program for each layer.
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    path.write_bytes(judge_bytes(Judge(name, shape, module, params)))
    return str(path)
