import gzip
import hashlib
import http.server
import json
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from idx_files import FILES, IMAGES, LABELS, idx_bytes, write_set
from PIL import Image

from jaxgan import JaxganError, data
from jaxgan.data import idx, network
from jaxgan.errors import DataUnavailableError


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path_factory):
    """Hides the user's files and the network: every test brings its own."""
    monkeypatch.delenv("JAXGAN_DATA_DIR", raising=False)
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
    monkeypatch.setattr(network, "TIMEOUT", 1.0)


# The MNIST family


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "kmnist"])
@pytest.mark.parametrize("place", ["the folder", "a folder of its name", "the variable"])
def test_idx_files_are_found(tmp_path, monkeypatch, name, place):
    write_set(tmp_path if place == "the folder" else tmp_path / name)
    data_dir = str(tmp_path)
    if place == "the variable":
        monkeypatch.setenv("JAXGAN_DATA_DIR", data_dir)
        data_dir = None
    found = data.load(name, "test", data_dir)
    np.testing.assert_array_equal(found.images, IMAGES[..., None])
    np.testing.assert_array_equal(found.labels, LABELS)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int32)
    assert (found.name, found.split) == (name, "test")


def test_the_named_folder_goes_before_the_variable(tmp_path, monkeypatch):
    write_set(tmp_path / "a")
    write_set(tmp_path / "b", images=IMAGES // 2)
    monkeypatch.setenv("JAXGAN_DATA_DIR", str(tmp_path / "b"))
    found = data.load("mnist", data_dir=tmp_path / "a")
    np.testing.assert_array_equal(found.images, IMAGES[..., None])
    # And a folder of the set's name before the folder itself: the whole family has the same names.
    write_set(tmp_path / "a" / "mnist", images=IMAGES // 3)
    found = data.load("mnist", data_dir=tmp_path / "a")
    np.testing.assert_array_equal(found.images, IMAGES[..., None] // 3)


def test_the_real_images(real_data_dir):
    train = data.load("fashion_mnist", data_dir=real_data_dir)
    assert train.images.shape == (60_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(train.labels), [6000] * 10)
    # The published mean and standard deviation.
    np.testing.assert_allclose(train.images.mean() / 255, 0.28604, atol=5e-6)
    np.testing.assert_allclose(train.images.std() / 255, 0.35302, atol=5e-6)
    test = data.load("fashion_mnist", "test", real_data_dir)
    assert test.images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)


def damaged(content: bytes, how: str) -> bytes:
    raw = gzip.decompress(content)
    return {
        "truncated": content[: len(content) // 2],
        "not gzip": raw,
        "flipped": content[:-12] + bytes([content[-12] ^ 255]) + content[-11:],
        "empty": b"",
        "wrong magic": gzip.compress(b"\x00\x00\x0d\x03" + raw[4:]),
        "too short": gzip.compress(raw[:-1]),
        "too long": gzip.compress(raw + b"\x00"),
        "no header": gzip.compress(raw[:6]),
        "no rows": gzip.compress(raw[:4] + bytes(4) + raw[8:16]),
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "damaged or truncated gzip"),
        ("not gzip", "damaged or truncated gzip"),
        ("flipped", "damaged or truncated gzip"),
        ("empty", "wrong magic number|damaged or truncated"),
        ("wrong magic", "wrong magic number 0x00000d03, expected 0x00000803"),
        ("too short", r"wrong length, 75 bytes; by its header \(5, 4, 3\) it has 76"),
        ("too long", r"wrong length, more than 76 bytes; by its header \(5, 4, 3\) it has 76"),
        ("no header", "wrong length"),
        ("no rows", r"empty, by its header \(0, 4, 3\)"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, how, message):
    write_set(tmp_path)
    path = tmp_path / FILES["train"][0]
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(JaxganError, match=message) as error:
        data.load("mnist", data_dir=tmp_path)
    assert str(path) in str(error.value)


def test_images_and_labels_of_different_number(tmp_path):
    write_set(tmp_path, labels=LABELS[:4])
    with pytest.raises(
        JaxganError, match=r"has 5 images, but .* has 4 labels: they do not belong together"
    ):
        data.load("mnist", data_dir=tmp_path)


def test_a_missing_file_beside_others_is_named(tmp_path):
    write_set(tmp_path)
    (tmp_path / FILES["train"][1]).unlink()
    with pytest.raises(
        JaxganError, match=r"train-labels-idx1-ubyte\.gz missing, though its other files"
    ):
        data.load("mnist", data_dir=tmp_path)
    with pytest.raises(JaxganError, match="splits train and test, not 'val'"):
        data.load("mnist", "val", tmp_path)


def test_the_files_of_another_set_of_the_family_are_refused(real_data_dir):
    folder = idx.find("fashion_mnist", "train", real_data_dir)[0].parent
    with pytest.raises(JaxganError, match="is a file of fashion_mnist, not of kmnist"):
        data.load("kmnist", "test", folder)


def seed_tfds_cache(monkeypatch, folder: Path, content: dict[str, bytes]) -> None:
    """Puts files into tfds's download cache as its own download would, with its own names."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums, resource

    builder = tfds.builder_cls("fashion_mnist")
    infos = dict(builder.url_infos)
    downloads = folder / "downloads" / "fashion_mnist"
    downloads.mkdir(parents=True)
    for name, raw in content.items():
        url = f"{builder.URL}{name}"
        digest = hashlib.sha256(raw).hexdigest()
        infos[url] = checksums.UrlInfo(size=len(raw), checksum=digest, filename=name)
        path = downloads / resource.get_dl_fname(url, digest)
        path.write_bytes(raw)
        info = {"dataset_names": ["fashion_mnist"], "original_fname": name, "urls": [url]}
        path.with_suffix(path.suffix + ".INFO").write_text(json.dumps(info))
    monkeypatch.setattr(builder, "url_infos", infos)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(folder))


def test_the_cache_of_tfds_is_read_without_a_network(tmp_path, monkeypatch):
    arrays = zip(FILES["train"], (IMAGES, LABELS), strict=True)
    content = {name: gzip.compress(idx_bytes(array)) for name, array in arrays}
    seed_tfds_cache(monkeypatch, tmp_path, content)
    monkeypatch.setattr(idx, "unreachable", lambda url: pytest.fail(f"asked the network for {url}"))
    found = data.load("fashion_mnist")
    np.testing.assert_array_equal(found.images, IMAGES[..., None])
    np.testing.assert_array_equal(found.labels, LABELS)


def test_the_real_files_in_the_cache_of_tfds(tmp_path, monkeypatch, real_data_dir):
    """With tfds's registered checksums, so that these are the files that it would download."""
    import tensorflow_datasets as tfds

    registered = dict(tfds.builder_cls("fashion_mnist").url_infos)
    folder = idx.find("fashion_mnist", "test", real_data_dir)[0].parent
    seed_tfds_cache(
        monkeypatch, tmp_path, {name: (folder / name).read_bytes() for name in FILES["test"]}
    )
    assert tfds.builder_cls("fashion_mnist").url_infos == registered
    assert data.load("fashion_mnist", "test").images.shape == (10_000, 28, 28, 1)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """tfds's downloads of Fashion-MNIST from a server on this machine; gives its folder."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import checksums

    folder = write_set(tmp_path / "server")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        builder = tfds.builder_cls("fashion_mnist")
        url = f"http://127.0.0.1:{running.server_address[1]}/"
        infos = {}
        for name in (name for names in FILES.values() for name in names):
            raw = (folder / name).read_bytes()
            infos[url + name] = checksums.UrlInfo(
                size=len(raw), checksum=hashlib.sha256(raw).hexdigest(), filename=name
            )
        monkeypatch.setattr(builder, "URL", url)
        monkeypatch.setattr(builder, "url_infos", infos)
        yield folder
        running.shutdown()


def test_a_download_is_checked_cached_and_used_again(server, monkeypatch):
    found = data.load("fashion_mnist")
    np.testing.assert_array_equal(found.images, IMAGES[..., None])
    for file in server.iterdir():
        file.unlink()
    np.testing.assert_array_equal(data.load("fashion_mnist").images, found.images)
    with pytest.raises(DataUnavailableError, match="no such file"):
        data.load("fashion_mnist", "test")


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(server):
    import tensorflow_datasets as tfds

    other = gzip.compress(idx_bytes(IMAGES // 2))
    (server / FILES["train"][0]).write_bytes(other)
    with pytest.raises(JaxganError, match="checksum"):
        data.load("fashion_mnist")
    downloads = Path(tfds.core.constants.DATA_DIR) / "downloads"
    assert not [
        path for path in downloads.rglob("*") if path.is_file() and path.read_bytes() == other
    ]
    assert not list(downloads.rglob("*.tmp.*"))


def test_no_network_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls("fashion_mnist")
    # A port of this machine at which nothing listens.
    infos = {
        url.replace(builder.URL, "http://127.0.0.1:9/"): i for url, i in builder.url_infos.items()
    }
    monkeypatch.setattr(builder, "url_infos", infos)
    monkeypatch.setattr(builder, "URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("JAXGAN_DATA_DIR", str(tmp_path / "variable"))
    with pytest.raises(DataUnavailableError) as error:
        data.load("fashion_mnist", data_dir=tmp_path / "named")
    message = str(error.value)
    for part in ("named", "variable", "downloads", "127.0.0.1:9", "--data-dir", "--dataset digits"):
        assert part in message
    for name in (name for names in FILES.values() for name in names):
        assert name in message
    with pytest.warns(UserWarning, match="data set digits instead of Fashion-MNIST"):
        assert data.load("auto").name == "digits"


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        reason = network.unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}/file")
    assert reason is not None
    assert "127.0.0.1" in reason


def test_a_name_server_that_never_answers_is_given_up(monkeypatch):
    def looking_up_the_name(*_, **__):
        time.sleep(3 * network.TIMEOUT)
        return types.SimpleNamespace(raise_for_status=lambda: None)

    monkeypatch.setattr("requests.head", looking_up_the_name)
    assert "no answer" in (network.unreachable("http://somewhere/file") or "an answer")


def test_auto_is_fashion_mnist_where_it_is_and_damage_is_not_hidden(tmp_path):
    write_set(tmp_path)
    assert data.load("auto", data_dir=tmp_path).name == "fashion_mnist"
    path = tmp_path / FILES["train"][0]
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(JaxganError, match="truncated"):
        data.load("auto", data_dir=tmp_path)


# Digits and names


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    def in_order(images, labels):
        rows = np.column_stack([images.reshape(len(images), -1), labels])
        return rows[np.lexsort(rows.T)]

    train, test = data.load("digits"), data.load("digits", "test")
    assert (train.images.shape, test.images.shape) == ((1500, 8, 8, 1), (297, 8, 8, 1))
    found = [np.concatenate(pair) for pair in zip(train[:2], test[:2], strict=True)]
    expected = load_digits()
    images = np.round(expected.images * 255 / 16)
    np.testing.assert_array_equal(in_order(*found), in_order(images, expected.target))
    with pytest.raises(JaxganError, match="splits train and test"):
        data.load("digits", "all")


def test_test_digits_are_of_the_distribution_of_the_training_digits():
    from sklearn.neighbors import KNeighborsClassifier

    train, test = data.load("digits"), data.load("digits", "test")
    counts = np.array([np.bincount(d.labels) for d in (train, test)])
    np.testing.assert_allclose(counts[0] / counts[1], 1500 / 297, rtol=0.05)
    flat = [d.images.reshape(len(d.images), -1).astype(float) for d in (train, test)]
    # By the same writers: 94.6% for the last 297 images, which are by others.
    assert KNeighborsClassifier(1).fit(flat[0], train.labels).score(flat[1], test.labels) > 0.97
    np.testing.assert_array_equal(data.load("digits").images, train.images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashon-mnist", "did you mean fashion_mnist?"),
        ("MNIST", "did you mean mnist?"),
        ("digit", "did you mean digits?"),
        ("imagenet64x64", "unknown dataset 'imagenet64x64'. Known are fashion_mnist, mnist"),
        ("photos/cats", "there is no folder 'photos/cats'"),
        ("tfds:no_such_set", "tensorflow-datasets knows no such set"),
        ("tfds:", "tensorflow-datasets knows no such set"),
        ("tfds:mnist/foo", "tensorflow-datasets knows no such set"),
        ("tfds:mnist:9.9.9", "tensorflow-datasets knows no such set"),
        ("", "unknown dataset ''"),
        ("nowhere.npy", "nowhere.npy: cannot be read"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(JaxganError) as error:
        data.load(name)
    assert message in str(error.value)


# Folders of images


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def test_a_folder_of_gray_images(tmp_path):
    for i, image in enumerate(IMAGES):
        save(tmp_path / f"{i}.png", image)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match=r"skipped 1 other file \(\.txt\)"):
        found = data.load(f"{tmp_path}/")
    np.testing.assert_array_equal(found.images, IMAGES[..., None])
    assert found.labels is None
    assert found.name == tmp_path.name
    with pytest.raises(JaxganError, match="one split only"):
        data.load(str(tmp_path), "test")


def test_class_subfolders_become_labels_and_one_colour_makes_all_rgb(tmp_path):
    save(tmp_path / "b" / "1.PNG", IMAGES[0])
    save(tmp_path / "a" / "1.png", IMAGES[1])
    colour = np.stack([IMAGES[2], IMAGES[3], IMAGES[4]], -1)
    save(tmp_path / "a" / "2.png", colour)
    found = data.load(str(tmp_path))
    np.testing.assert_array_equal(found.labels, [0, 0, 1])
    np.testing.assert_array_equal(found.images[1], colour)
    np.testing.assert_array_equal(found.images[2], np.stack([IMAGES[0]] * 3, -1))


def test_jpeg_16_bit_and_rotated_images(tmp_path):
    flat = np.full((8, 8), 200, np.uint8)
    save(tmp_path / "1.jpeg", flat, quality=100)
    save(tmp_path / "2.png", np.full((8, 8), 200 * 257, np.uint16))
    found = data.load(str(tmp_path))
    np.testing.assert_allclose(found.images, 200, atol=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side, to be turned by 90 degrees
    save(tmp_path / "turned" / "1.png", IMAGES[0], exif=exif)
    np.testing.assert_array_equal(
        data.load(str(tmp_path / "turned")).images[0, ..., 0], np.rot90(IMAGES[0], -1)
    )


def test_mixed_sizes_need_an_image_size(tmp_path):
    save(tmp_path / "1.png", np.zeros((4, 4), np.uint8))
    save(tmp_path / "2.png", np.full((9, 12), 77, np.uint8))
    with pytest.raises(JaxganError, match=r"2\.png is 12x9, but .*1\.png is 4x4.*--image-size"):
        data.load(str(tmp_path))
    found = data.load(str(tmp_path), image_size=6)
    assert found.images.shape == (2, 6, 6, 1)
    np.testing.assert_array_equal(found.images[1], 77)


def test_image_size_crops_the_centre(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255
    save(tmp_path / "1.png", wide)
    np.testing.assert_array_equal(data.load(str(tmp_path), image_size=4).images, 255)


def test_image_size_holds_for_arrays_too():
    assert data.load("digits", image_size=12).images.shape == (1500, 12, 12, 1)


def test_folders_that_hold_nothing_or_rubbish(tmp_path):
    with pytest.raises(JaxganError, match="contains no images"):
        data.load(str(tmp_path))
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    with pytest.raises(JaxganError, match=r"1\.png: cannot be read as an image"):
        data.load(str(tmp_path))
    content = save(tmp_path / "1.png", np.zeros((64, 64), np.uint8)).read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(JaxganError, match=r"1\.png: cannot be read as an image"):
        data.load(str(tmp_path))


def test_images_both_beside_and_in_subfolders_are_refused(tmp_path):
    save(tmp_path / "1.png", IMAGES[0])
    save(tmp_path / "a" / "1.png", IMAGES[0])
    with pytest.raises(JaxganError, match="into subfolders, one for each class, or none"):
        data.load(str(tmp_path))


# Arrays

WIDE = np.repeat(IMAGES, 2, axis=2)
"""`[5, 4, 6]`: a last axis of 3 would be taken for colours."""


def test_arrays_of_bytes_and_floats(tmp_path):
    np.save(tmp_path / "bytes.npy", WIDE)
    np.save(tmp_path / "unit.npy", (WIDE / 255).astype(np.float32))
    np.save(tmp_path / "signed.npy", WIDE[..., None] / 127.5 - 1)
    for name in ("bytes", "unit", "signed"):
        found = data.load(str(tmp_path / f"{name}.npy"))
        np.testing.assert_array_equal(found.images, WIDE[..., None])
        assert found.labels is None
    np.savez(tmp_path / "both.npz", images=WIDE, labels=LABELS)
    np.testing.assert_array_equal(data.load(str(tmp_path / "both.npz")).labels, LABELS)
    np.savez(tmp_path / "one.npz", whatever=WIDE)
    np.testing.assert_array_equal(data.load(str(tmp_path / "one.npz")).images[..., 0], WIDE)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": WIDE / 127.5}, r"must be in \[0, 1\] or in \[-1, 1\]; these are in"),
        ({"images": np.where(WIDE > 200, np.nan, 0.5)}, "these are in"),
        ({"images": WIDE.astype(np.int64)}, "uint8 or float, got int64"),
        ({"images": WIDE[0]}, r"must be \[N, H, W\]"),
        ({"images": WIDE[:0]}, "not empty"),
        ({"images": WIDE, "labels": LABELS[:3]}, "5 images, but labels of shape"),
        ({"images": WIDE, "labels": LABELS / 2}, "labels must be whole numbers"),
        ({"images": np.stack([WIDE] * 5, -1)}, "1, 3 or 4 channels, got 5"),
        ({"x": WIDE, "y": LABELS}, "has no array `images`, only x, y"),
    ],
)
def test_arrays_out_of_shape_or_range(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(JaxganError, match=message):
        data.load(str(tmp_path / "set.npz"))


@pytest.mark.parametrize("name", ["set.npy", "set.npz"])
def test_files_that_are_no_arrays(tmp_path, name):
    (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(JaxganError, match="cannot be read as a numpy file"):
        data.load(str(tmp_path / name))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(JaxganError, match="cannot be read as a numpy file"):
        data.load(str(tmp_path / "objects.npy"))


# Sets prepared by tensorflow-datasets


def prepare(root: Path, shapes, *, file_format="array_record") -> None:
    """Writes the set `tiny` as tfds's `download_and_prepare` leaves it, without TensorFlow."""
    import io

    import tensorflow_datasets as tfds
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
    )
    features.save_config(str(folder))
    writer = array_record_module.ArrayRecordWriter(
        str(folder / f"tiny-train.{file_format}-00000-of-00001"), "group_size:1"
    )
    for i, (height, width) in enumerate(shapes):
        file = io.BytesIO()
        Image.fromarray(np.full((height, width), 10 * i, np.uint8)).save(file, format="PNG")
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(file.getvalue())
        example.features.feature["label"].int64_list.value.append(i % 3)
        writer.write(example.SerializeToString())
    writer.close()
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "train",
        "numBytes": "1",
        "shardLengths": [str(len(shapes))],
    }
    info = {"fileFormat": file_format, "name": "tiny", "splits": [split], "version": "1.0.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_a_prepared_set_is_read_without_tensorflow(tmp_path):
    import sys

    prepare(tmp_path, [(4, 5)] * 4)
    found = data.load("tfds:tiny", data_dir=tmp_path)
    assert found.images.shape == (4, 4, 5, 1)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], [0, 10, 20, 30])
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 0])
    assert "tensorflow" not in sys.modules
    with pytest.raises(JaxganError, match="has the splits train, not 'test'"):
        data.load("tfds:tiny", "test", tmp_path)


def test_a_prepared_set_of_mixed_sizes_needs_an_image_size(tmp_path):
    prepare(tmp_path, [(4, 5), (6, 6)])
    with pytest.raises(JaxganError, match=r"different sizes.*--image-size, .* image_size$"):
        data.load("tfds:tiny", data_dir=tmp_path)
    assert data.load("tfds:tiny", data_dir=tmp_path, image_size=4).images.shape == (2, 4, 4, 1)


def test_a_set_prepared_as_tfrecord_says_what_to_do(tmp_path):
    prepare(tmp_path, [(4, 5)], file_format="tfrecord")
    with pytest.raises(JaxganError, match="not as array_record"):
        data.load("tfds:tiny", data_dir=tmp_path)


def test_a_set_that_is_not_prepared_needs_tensorflow(tmp_path):
    with pytest.raises(DataUnavailableError, match="only TensorFlow can prepare it"):
        data.load("tfds:cifar10", data_dir=tmp_path)


def test_an_array_of_two_dimensions_is_vectors(tmp_path):
    rows = np.random.default_rng(0).normal(0, 100, (30, 7))
    np.savez(tmp_path / "rows.npz", images=rows, labels=np.arange(30) % 2)
    dataset = data.load(tmp_path / "rows.npz")
    assert dataset.images.shape == (30, 1, 1, 7)
    assert dataset.images.dtype == np.float32
    np.testing.assert_array_equal(dataset.images[:, 0, 0], rows.astype(np.float32))
    np.save(tmp_path / "whole.npy", np.arange(12).reshape(6, 2))
    np.testing.assert_array_equal(
        data.load(tmp_path / "whole.npy").images[:, 0, 0, 1], 1 + 2 * np.arange(6)
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[1.0, np.nan]]), "missing, or too large"),
        (np.full((2, 2), 1e300), "missing, or too large"),
        (np.array([["a"]]), r"must be numbers \[N, D\]"),
        (np.zeros((0, 3)), r"must be numbers \[N, D\]"),
        (np.zeros((4, 1, 1, 3), np.uint8), "images of one pixel are no images"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(rows, message, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(JaxganError, match=message):
        data.load(tmp_path / "rows.npy")


def test_vectors_have_no_size(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((3, 4)))
    with pytest.raises(JaxganError, match="leave out --image-size"):
        data.load(tmp_path / "rows.npy", image_size=8)
