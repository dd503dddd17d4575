"""The table of all models, `MODELS`, and `load`, which reads a trained model."""

from pathlib import Path
from typing import Any

from jaxgan import diffusion, gan, gaussian, imputation
from jaxgan.model import Model

MODELS: dict[str, Model] = {
    model.name: model for model in (gan.MODEL, diffusion.MODEL, gaussian.MODEL, imputation.MODEL)
}
"""The models by name. config.json holds the same names."""


def load(path: str | Path, config: Any = None) -> tuple[Model, Any]:
    """A trained model, from a file of `export.py --to safetensors` or from a run folder.

    Args:
      path: the file, or the folder; of a population it gives the best member.
      config: needed if the model has parts of your own, such as networks: a config with the same
        parts. Its other fields are ignored.

    Returns:
      The Model and its state, for `model.sample(state, rng, n)` and `model.generate(state,
      latents)`. A file has what samples need; other parts of its state, such as the discriminator,
      are not trained.

    Raises:
      JaxganError: if there is no such file or run, if it is damaged, if it has no checkpoint yet,
        or if it has parts of your own and `config` is missing or has others.
    """
    from jaxgan.run import saved  # not at the import of jaxgan: it takes time

    model = saved.find_model(path, MODELS)
    state, _ = saved.load_state(model, path, config=config)
    return model, state
