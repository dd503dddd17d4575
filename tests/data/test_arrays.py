"""`from_arrays`: images of the user's own, from arrays and from the loaders of other libraries.

torch and TensorFlow are too large to install for this. Small classes stand in for them, with the
methods of theirs that matter here.
"""

import dataclasses
import itertools

import datasets
import grain
import jax
import numpy as np
import pytest
from PIL import Image

import jaxgan
from jaxgan import JaxganError, data
from jaxgan.data import arrays
from jaxgan.run import loop, population

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (7, 6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (7, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 0, 1, 0, 1, 1])
UNIT = COLOUR.transpose(0, 3, 1, 2) / np.float32(255)
"""As torchvision's ToTensor gives them: channels first, in [0, 1]."""
PAIRS = list(zip(COLOUR, LABELS, strict=True))


def batches(images, size):
    return [images[i : i + size] for i in range(0, len(images), size)]


class Tensor:
    """Like a tensor of torch or TensorFlow: no array of numpy, but it can become one."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._values)


class TorchDataset:
    """Like a torch.utils.data.Dataset: it has no `__iter__`, and no end."""

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return Tensor(UNIT[i % 7]), int(LABELS[i % 7])


class TorchLoader:
    """Like a torch.utils.data.DataLoader: its batches are lists."""

    def __len__(self):
        return 3

    def __iter__(self):
        for i in range(0, 7, 3):
            yield [Tensor(UNIT[i : i + 3]), Tensor(LABELS[i : i + 3])]


class TFData:
    """Like a tf.data.Dataset of dicts, batched. If it repeats, its cardinality is -1."""

    def __init__(self, repeats=False):
        self._repeats = repeats

    def __len__(self):
        raise TypeError("the length is unknown")

    def cardinality(self):
        return np.int64(-1 if self._repeats else 3)

    def __iter__(self):
        for i in itertools.cycle(range(0, 7, 3)) if self._repeats else range(0, 7, 3):
            yield {"image": Tensor(COLOUR[i : i + 3]), "label": Tensor(LABELS[i : i + 3])}


def hugging_face(images=COLOUR):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    columns = {"image": list(map(Image.fromarray, images)), "label": LABELS}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def grain_pairs():
    return grain.MapDataset.source(PAIRS)


def test_arrays_of_every_kind():
    pixels = GRAY[..., None]
    for images in (GRAY, pixels, GRAY / 255, GRAY / 127.5 - 1, Tensor(GRAY), list(GRAY)):
        np.testing.assert_array_equal(data.from_arrays(images).images, pixels)
    found = data.from_arrays(UNIT, LABELS)
    np.testing.assert_array_equal(found.images, COLOUR)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert (found.labels.dtype, found.name, found.classes) == (np.int32, "arrays", ())
    assert data.from_arrays(GRAY).labels is None
    rows = RNG.normal(size=(7, 2))
    for vectors in (rows, list(rows), rows.tolist(), [(row, 1) for row in rows]):
        found = data.from_arrays(vectors)
        np.testing.assert_array_equal(found.images[:, 0, 0], rows.astype(np.float32))


@pytest.mark.parametrize(
    "source",
    [
        iter(PAIRS),
        {"image": COLOUR, "label": LABELS},
        {"image": list(COLOUR), "label": LABELS.tolist()},
        [{"image": image, "label": label} for image, label in PAIRS],
        hugging_face(),
        hugging_face().with_format("numpy"),
        hugging_face().to_iterable_dataset(),
        grain_pairs(),
        grain_pairs().batch(3),
        grain_pairs().to_iter_dataset(),
        TorchDataset(),
        TorchLoader(),
        TFData(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_loader_gives_the_same_data(source):
    found = data.from_arrays(source)
    np.testing.assert_array_equal(found.images, COLOUR)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.images.dtype == np.uint8
    is_named = type(source).__module__.startswith("datasets")
    assert found.classes == (("cat", "dog") if is_named else ())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_without_labels(size):
    for images, expected in ((COLOUR, COLOUR), (UNIT, COLOUR), (GRAY[..., None], GRAY[..., None])):
        np.testing.assert_array_equal(data.from_arrays(batches(images, size)).images, expected)
    # The first batch is gray, so a last one of 3 images is no image of three channels.
    gray = [GRAY[:4], GRAY[4:]]
    np.testing.assert_array_equal(data.from_arrays(gray).images, GRAY[..., None])


def test_images_of_two_libraries_and_sizes_become_equal():
    pictures = [Image.fromarray(GRAY[0]), Image.fromarray(COLOUR[0])]
    with pytest.raises(JaxganError, match=r"image 1 has the shape \[8, 8, 3\], .*image_size"):
        data.from_arrays(pictures)
    found = data.from_arrays(pictures, image_size=8)
    np.testing.assert_array_equal(found.images[1], COLOUR[0])
    assert (found.images[0] == found.images[0, ..., :1]).all()
    assert data.from_arrays(UNIT, image_size=4).images.shape == (7, 4, 4, 3)


@pytest.mark.parametrize(
    ("endless", "message"),
    [
        (itertools.cycle(PAIRS), "images fill a quarter of the memory"),
        (grain_pairs().repeat(), "the loader repeats without end"),
        (TFData(repeats=True), "the loader repeats without end"),
    ],
    ids=["generator", "grain", "tf.data"],
)
def test_a_limit_ends_an_endless_loader(endless, message, monkeypatch):
    found = data.from_arrays(endless, limit=9)
    np.testing.assert_array_equal(found.images, np.concatenate([COLOUR, COLOUR[:2]]))
    np.testing.assert_array_equal(found.labels, [*LABELS, *LABELS[:2]])
    monkeypatch.setattr(arrays, "_most_bytes", lambda: 10_000)
    with pytest.raises(JaxganError, match=f"{message}: give limit=, the number of images"):
        data.from_arrays(endless)


def test_a_limit_cuts_arrays():
    found = data.from_arrays(COLOUR, LABELS, limit=2)
    assert (len(found.images), len(found.labels)) == (2, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ([GRAY[0], GRAY[1, :3]],),
            r"image 1 has the shape \[3, 5, 1\], and image 0 has \[6, 5, 1",
        ),
        ((COLOUR / 2,), r"must be in \[0, 1\] or in \[-1, 1\]; these are in"),
        ((GRAY, LABELS[:3]), "7 images, but labels of shape"),
        ((list(GRAY), LABELS / 2), "labels must be whole numbers"),
        ((PAIRS, LABELS), "have labels already"),
        (([(COLOUR[:3], LABELS[:2])],), r"3 images and labels of shape \[2\]"),
        (([(COLOUR, 1)],), r"images must be \[N, H, W\]"),
        (([*PAIRS, COLOUR[0]],), "some items have labels, and others have none"),
        (([],), "there are no images"),
        ((iter(()),), "there are no images"),
        ((COLOUR[:0],), "not empty"),
        ((3,), "int is no array, and gives no images one after the other"),
        (("images",), "'images' is no array: jaxgan.data.load reads files"),
        (([[]],), "not empty; got float64"),
        ((["a", "b"],), "got str of <U1"),
        ((range(3),), "got int of int64"),
        (([[[1], [2, 3]]],), "list is no array"),
        (
            (hugging_face().rename_column("image", "img"),),
            r"named \"image\"; here is 'img', 'label'",
        ),
        ((datasets.DatasetDict(train=hugging_face()),), "here is 'train'"),
        (([GRAY.astype(np.int64)],), "uint8 or float, got int64"),
        ((np.zeros((4, 1, 1, 7)),), "images of one pixel are no images"),
        ((GRAY, iter(LABELS)), "whole numbers .N., and .*iterator is no such array"),
        ((list(GRAY), [[1], [2, 3]]), "whole numbers .N., and list is no such array"),
    ],
)
def test_what_cannot_be_images_is_one_line_of_error(given, message):
    with pytest.raises(JaxganError, match=message) as error:
        data.from_arrays(*given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["limit", "image_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3"])
def test_a_size_is_a_whole_number_above_0(name, value):
    with pytest.raises(JaxganError, match=f"{name} must be a whole number above 0, got {value!r}"):
        data.from_arrays(iter(COLOUR), **{name: value})


def test_any_loader_trains(tiny):
    dataset = data.from_arrays(hugging_face())
    config = dataclasses.replace(tiny, image_shape=dataset.images.shape[1:], num_classes=2)
    state = jaxgan.create_state(jax.random.key(0), config)
    start = loop.start_run(jaxgan.train_step, state, dataset.arrays, batch_size=7)
    rng = jax.random.key(1)
    run = loop.fit(
        jaxgan.train_step, start, dataset.arrays, rng, batch_size=7, epochs=1, progress=False
    )
    assert int(run.state.step) == 1
    stepped, _ = jaxgan.train_step(state, dataset.arrays, rng)
    assert int(stepped.step) == 1
    model = jaxgan.MODELS["gan"]
    members = population.train_population(
        model, config, dataset.arrays, [0, 1], epochs=1, batch_size=7, devices=1, progress=False
    )
    assert members.history[0]["gen_loss"][0] != members.history[0]["gen_loss"][1]


@pytest.mark.parametrize(
    "dataset",
    [
        data.from_arrays(hugging_face()),
        data.from_arrays(list(GRAY[:, :, :3])),
        data.from_arrays([[0.5]]),
    ],
    ids=["classes", "narrow", "vectors"],
)
def test_a_saved_set_is_loaded_again(dataset, tmp_path):
    data.save(dataset, tmp_path / "new" / "own.npz")
    found = data.load(tmp_path / "new" / "own.npz")
    jax.tree.map(np.testing.assert_array_equal, found[:2], dataset[:2])
    assert (found.name, found.classes) == ("own.npz", dataset.classes)


def test_a_set_that_cannot_be_saved_leaves_the_old_file(tmp_path, monkeypatch):
    dataset = data.from_arrays(COLOUR)
    with pytest.raises(JaxganError, match=r"must end in \.npz"):
        data.save(dataset, tmp_path / "own")
    (tmp_path / "own.npz").write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(JaxganError, match="No space left"):
        data.save(dataset, tmp_path / "own.npz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
