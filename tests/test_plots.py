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
    picture = opened(plots.enlarged_png(plots.image_grid(images)))
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


CORNERS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], float).reshape(4, 1, 1, 2)


def blue(picture: np.ndarray) -> np.ndarray:
    return picture[..., 2].astype(int) - picture[..., 0] > 60


def place(x: float, y: float) -> np.ndarray:
    """Where in the picture (row, column) a point is drawn."""
    points = np.broadcast_to([x, y], (5, 1, 1, 2))
    return np.argwhere(blue(plots.scatter(points, CORNERS))).mean(axis=0)


def test_scatter_draws_points_to_one_scale_on_axes_of_the_real_ones():
    center, right, up = place(0, 0), place(1, 0), place(0, 1)
    unit = right[1] - center[1]
    assert unit > 100
    # A row counts downwards.
    np.testing.assert_allclose(right - center, [0, unit], atol=1)
    np.testing.assert_allclose(up - center, [-unit, 0], atol=1)
    # The axes reach half as far again as the real points; what lies beyond is on the frame.
    np.testing.assert_allclose(place(90, -70) - center, [1.5 * unit, 1.5 * unit], atol=2)
    np.testing.assert_allclose(place(1.4, 0) - center, [0, 1.4 * unit], atol=1)


def test_scatter_shows_the_real_points_and_nothing_of_a_failed_member():
    picture = plots.scatter(np.full((5, 1, 1, 2), np.nan), CORNERS)
    assert picture.shape == (448, 448, 3)
    assert not blue(picture).any()
    center = place(0, 0)
    unit = place(1, 0)[1] - center[1]
    gray = np.argwhere((picture == 204).all(axis=-1)) - center
    gray = gray[np.abs(gray).max(axis=1) < 1.4 * unit]  # not of the letters beside the axes
    np.testing.assert_allclose(gray.mean(axis=0), 0, atol=1)
    np.testing.assert_allclose(np.abs(gray), unit, atol=8)


def test_scatter_has_a_panel_for_each_member():
    # Of three members, two points each: in the middle, far left, nowhere.
    points = np.array([[0, 0], [0, 0], [-1, 0], [-1, 0], [np.nan, 0], [np.nan, 0]])
    picture = plots.scatter(points.reshape(6, 1, 1, 2), CORNERS, columns=2)
    half = picture.shape[0] // 2
    panels = [picture[:half, :half], picture[:half, half:], picture[half:]]
    first, second = (np.argwhere(blue(panel)).mean(axis=0) for panel in panels[:2])
    assert first[0] == pytest.approx(second[0], abs=1)
    assert first[1] > second[1] + 40
    assert not blue(panels[2]).any()


def test_a_picture_of_points_is_a_scatter_plot_and_of_images_a_grid():
    points = CORNERS / 2
    np.testing.assert_array_equal(plots.picture(points, CORNERS), plots.scatter(points, CORNERS))
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 2, 1), np.uint8)
    np.testing.assert_array_equal(
        plots.picture(images, images, 2), plots.image_grid(images, columns=2)
    )
