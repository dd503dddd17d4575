"""The result of every loader."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Images in the host's memory.

    `images`: uint8 `[N, H, W, C]`. Vectors are float32 `[N, 1, 1, D]`: images of one pixel with D
    channels. `labels`: int32 `[N]`, or None. `name`: the name given to `load`, or the last part of
    the path, or "arrays". `classes`: the names of the classes by their labels, or ().
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    split: str
    classes: tuple[str, ...] = ()

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays from which batches are taken: "image" and, if there are labels, "label"."""
        labels = {} if self.labels is None else {"label": self.labels}
        return {"image": self.images} | labels


def fit_to_images(config: Any, dataset: Dataset) -> Any:
    """A config with the image shape of a data set, and `bounded` unless the images are vectors."""
    images = dataset.images
    bounded = images.dtype == np.uint8
    return dataclasses.replace(config, image_shape=images.shape[1:], bounded=bounded)


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a class, or its label where there is no name."""
    return classes[label] if label < len(classes) else str(label)
