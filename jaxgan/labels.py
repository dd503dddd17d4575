"""The labels of a conditional model: those of its batches, and those of its samples.

Beside them stands what else a batch says of its images (`batch_included`).

A model is conditional if its config has a `num_classes` above 0. Labels are 0 to num_classes - 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgan.data.dataset import Dataset
from jaxgan.errors import JaxganError
from jaxgan.model import Model


def num_classes(config: Any) -> int:
    """The number of classes of a model with this config; 0 if it has no classes."""
    return getattr(config, "num_classes", 0)


def fit_to_classes(config: Any, dataset: Dataset, conditional: bool) -> Any:
    """A config for the classes of a data set.

    Args:
      config: of a model. If it has classes already, the labels must fit them.
      dataset: the training images.
      conditional: whether the model shall have the classes of the data set.

    Raises:
      JaxganError: if the model cannot have classes, or if the data set has no labels or too many.
    """
    if not (conditional or num_classes(config)):
        return config
    if not hasattr(config, "num_classes"):
        raise JaxganError("this model has no classes: leave out --conditional")
    if dataset.labels is None:
        raise JaxganError(
            f"{dataset.name} has no labels, and a conditional model needs them: take a folder with "
            "a subfolder for each class, or an .npz file with the arrays images and labels"
        )
    if dataset.labels.min() < 0:
        raise JaxganError(
            f"{dataset.name} has negative labels, which are no classes: choose another split"
        )
    found = int(dataset.labels.max()) + 1
    if 0 < config.num_classes < found:
        raise JaxganError(
            f"{dataset.name} has the labels 0 to {found - 1}, and num_classes is "
            f"{config.num_classes}"
        )
    return config if config.num_classes else dataclasses.replace(config, num_classes=found)


def like_data(model: Model, labels: np.ndarray | None) -> Model:
    """The model; by default its samples have classes in the shares of the data.

    Args:
      model: conditional or not.
      labels: of the training images.
    """

    def sample(state: Any, rng: jax.Array, n: int, wanted: Any = None) -> jax.Array:
        if labels is None or not num_classes(state.config):
            return model.sample(state, rng, n)
        return model.sample(state, rng, n, proportional(labels, n) if wanted is None else wanted)

    return model._replace(sample=sample)


def proportional(labels: np.ndarray, n: int) -> np.ndarray:
    """n labels with the shares of those of a data set, in a fixed random order: int32 `[n]`."""
    at = ((np.arange(n) + 0.5) * len(labels) / n).astype(int)
    return np.random.default_rng(0).permutation(np.sort(labels)[at]).astype(np.int32)


def batch_labels(batch: Any, classes: int) -> jax.Array | None:
    """The labels of a batch, int32 `[B]`; None if the model has no classes.

    Raises:
      JaxganError: if the model has classes, and the batch has no labels, or not one for each image.
    """
    if not classes:
        return None
    if not isinstance(batch, Mapping) or "label" not in batch:
        raise JaxganError(
            f"the model has {classes} classes, and the batch has no labels: give it as a dict, "
            '{"image": images, "label": labels}'
        )
    labels, n = jnp.asarray(batch["label"]), len(batch["image"])
    if labels.shape != (n,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise JaxganError(
            f"the labels of {n} images must be {n} whole numbers, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    return labels.astype(jnp.int32)


def batch_included(batch: Any) -> jax.Array | None:
    """Which images of a batch count, bool `[B]`; None if all do.

    Raises:
      JaxganError: if there is not one bool for each image.
    """
    if not isinstance(batch, Mapping) or "included" not in batch:
        return None
    included, n = jnp.asarray(batch["included"]), len(batch["image"])
    if included.shape != (n,) or included.dtype != bool:
        raise JaxganError(
            f'"included" must be {n} bools for {n} images, got {included.dtype} of shape '
            f"{included.shape}"
        )
    return included


def choose_labels(classes: int, n: int, labels: Any = None) -> jax.Array | None:
    """The labels of n samples, int32 `[n]`; None if the model has no classes.

    Args:
      classes: their number.
      n: the number of samples.
      labels: `[n]`, or one for all; by default 0, 1, 2, ... in turn.

    Raises:
      JaxganError: if a label is out of range, or if there are labels and no classes. Traced labels
        are not checked. There, networks take a label out of range for no class, and Gaussians for
        one of the classes.
    """
    if not classes:
        if labels is not None:
            raise JaxganError("this model has no classes, so its samples have no labels")
        return None
    if labels is None:
        return jnp.arange(n, dtype=jnp.int32) % classes
    if not isinstance(labels, Tracer):
        labels = np.asarray(labels)
        whole = labels.dtype.kind in "iu"
        wrong = labels[(labels < 0) | (labels >= classes)] if whole else labels
        if wrong.size:
            got = wrong.flat[0] if whole else labels.dtype
            raise JaxganError(f"labels must be whole numbers from 0 to {classes - 1}, got {got}")
    if jnp.shape(labels) not in ((), (n,)):
        raise JaxganError(f"{n} samples need {n} labels, or one, got {jnp.shape(labels)}")
    return jnp.broadcast_to(jnp.asarray(labels, jnp.int32), (n,))
