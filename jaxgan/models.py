"""The table of all models, `MODELS`."""

from jaxgan import diffusion, gan, gaussian, imputation
from jaxgan.model import Model

MODELS: dict[str, Model] = {
    model.name: model for model in (gan.MODEL, diffusion.MODEL, gaussian.MODEL, imputation.MODEL)
}
"""The models by name. config.json holds the same names."""
