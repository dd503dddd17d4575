import io

import numpy as np
import pytest
from PIL import Image

from jaxgan import plots


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_floats_and_bytes_are_one():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = (levels.astype(np.float32) - 127.5) / 127.5
    np.testing.assert_array_equal(plots.to_uint8(floats), levels)
    np.testing.assert_array_equal(plots.to_uint8(np.float32([-3, 0.999, 3])), [0, 255, 255])


def test_grid_reads_row_by_row():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) + np.zeros((5, 2, 3, 1), np.uint8) + 1
    grid = plots.image_grid(images)
    assert grid.shape == (4, 9, 1)
    np.testing.assert_array_equal(grid[::2, ::3, 0], [[1, 2, 3], [4, 5, 0]])
    assert plots.image_grid(images, columns=5).shape == (2, 15, 1)


@pytest.mark.parametrize(("channels", "shape"), [(1, ()), (3, (3,)), (4, (4,)), (2, ())])
def test_grid_png_is_enlarged_without_smoothing(channels, shape):
    images = np.random.default_rng(0).integers(0, 256, (4, 14, 14, channels), np.uint8)
    picture = opened(plots.grid_png(images))
    assert picture.shape == (448, 448, *shape)
    expected = images[..., :1] if channels == 2 else images
    np.testing.assert_array_equal(
        picture[::16, ::16], plots.image_grid(expected).reshape(28, 28, *shape)
    )


def test_gif_keeps_the_last_frame_and_bounds_their_number(tmp_path):
    paths = []
    for i in range(7):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(plots.png(np.full((8, 8, 1), 30 * i, np.uint8)))
    animation = Image.open(io.BytesIO(plots.gif(paths, most=3)))
    levels = []
    for i in range(animation.n_frames):
        animation.seek(i)
        levels.append(np.asarray(animation.convert("L"))[0, 0])
    assert levels == [0, 90, 180]


def test_gif_leaves_out_a_damaged_frame(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        path.write_bytes(plots.png(np.full((8, 8, 1), 30 * int(path.stem), np.uint8)))
    paths[1].write_bytes(b"rubbish")
    with Image.open(io.BytesIO(plots.gif(paths))) as animation:
        assert animation.n_frames == 2


@pytest.mark.parametrize("epochs", [1, 5])
def test_curves_draw_losses_left_and_scores_right(epochs):
    history = [
        {
            "epoch": i + 1,
            "gen_loss": 1.0 + i,
            "disc_loss": 2.0,
            "real_score": 0.7,
            "fake_score": 0.3,
        }
        for i in range(epochs)
    ]
    picture = opened(plots.curves_png(history))[..., :3].astype(int)
    colored = np.abs(picture - picture.mean(-1, keepdims=True)).max(-1) > 60
    width = picture.shape[1]
    assert colored[:, : width // 2].any()
    assert colored[:, width // 2 :].any()
