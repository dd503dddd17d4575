"""Reads data sets that tensorflow-datasets has prepared as array_record, without TensorFlow."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from jaxgan.data.dataset import Dataset
from jaxgan.data.network import not_cached, unreachable
from jaxgan.data.resizing import resize
from jaxgan.errors import DataUnavailableError, JaxganError, NoSplitError
from jaxgan.files import expand


def load(
    name: str, split: str, data_dir: str | Path | None = None, image_size: int | None = None
) -> Dataset:
    """Loads `tfds:NAME`; see `jaxgan.data.load`."""
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    try:
        builder: Any = tfds.builder(name.removeprefix("tfds:"), data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise JaxganError(f"{name}: tensorflow-datasets knows no such set") from error
    if not builder.info.splits:
        builder = _prepare(name, data_dir)
    if split not in builder.info.splits:
        raise NoSplitError(f"{name} has the splits {', '.join(builder.info.splits)}, not {split!r}")
    image_key, label_key = _keys(name, builder.info.features)
    try:
        source = builder.as_data_source(split=split)
    except NotImplementedError as error:  # by tensorflow-datasets, for sets in another file format
        raise JaxganError(
            f"{name} is prepared in {builder.data_path}, but not as array_record: prepare it with "
            "file_format='array_record', in another --data-dir"
        ) from error
    images, labels = [], []
    for row in tqdm(source, "reading", disable=None, leave=False):
        image = row[image_key]
        images.append(image if image_size is None else resize(image, image_size))
        if images[-1].shape != images[0].shape:
            raise JaxganError(
                f"{name} holds images of different sizes, {images[0].shape} and "
                f"{images[-1].shape}: make all sizes equal; train.py does that with --image-size, "
                "and data.load with image_size"
            )
        if label_key:
            labels.append(row[label_key])
    if not images or images[0].dtype != np.uint8:
        raise JaxganError(f"{name}: its split {split} has no uint8 images")
    return Dataset(
        np.stack(images), np.asarray(labels, np.int32) if label_key else None, name, split
    )


def _prepare(name: str, data_dir):
    """Downloads the set and writes it as array_record."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants

    if importlib.util.find_spec("tensorflow") is None:
        raise DataUnavailableError(
            f"{name} is not prepared on this machine, and only TensorFlow can prepare it: install "
            "TensorFlow and run this command again. Or run tfds.builder(NAME, "
            "file_format='array_record').download_and_prepare() on another machine, copy the "
            "folder here, and give it by --data-dir"
        )
    builder: Any = tfds.builder(
        name.removeprefix("tfds:"), data_dir=data_dir, file_format="array_record"
    )
    urls = list(builder.url_infos or [])
    root = expand(data_dir or constants.DATA_DIR)
    # Some sets need only some of their URLs. So the network is needed only if none is cached.
    reason = None
    if urls and len(not_cached(builder, urls, root / "downloads")) == len(urls):
        reason = unreachable(urls[0])
    if reason:
        raise DataUnavailableError(
            f"{name} cannot be downloaded: {reason}; --dataset digits needs no download"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # each set has its own code
        raise DataUnavailableError(f"{name} cannot be prepared: {error}") from error
    return builder


def _keys(name: str, features) -> tuple[str, str | None]:
    """The key of the image, and that of the label or None."""
    import tensorflow_datasets as tfds

    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    if len(images) != 1:
        raise JaxganError(
            f"{name} must have one image feature; it has {', '.join(images) or 'none'}"
        )
    return images[0], labels[0] if len(labels) == 1 else None
