"""Pictures, by their pixels."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from jaxgan.adversarial import diagnostics
from jaxgan.model import Curve
from jaxgan.report import plots

# The colours in which matplotlib draws one line after the other.
COLORS = {
    "C0": (31, 119, 180),
    "C1": (255, 127, 14),
    "C2": (44, 160, 44),
    "C3": (214, 39, 40),
    "C4": (148, 103, 189),
    "C5": (140, 86, 75),
}


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def mask(picture: np.ndarray, color, tolerance: float = 50) -> np.ndarray:
    """Where a picture has a colour, a name in COLORS or RGB."""
    color = np.array(COLORS[color] if isinstance(color, str) else color)
    return np.abs(picture[..., :3].astype(int) - color).sum(axis=-1) < tolerance


# Grids


def test_grid_reads_row_by_row():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) + np.zeros((5, 2, 3, 1), np.uint8) + 1
    grid = plots.image_grid(images)
    assert grid.shape == (4, 9, 1)
    expected = np.array([[1, 2, 3], [4, 5, 0]], np.uint8).repeat(2, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(grid[..., 0], expected)
    row = plots.image_grid(images, columns=5)
    np.testing.assert_array_equal(row[..., 0], np.tile(np.arange(1, 6).repeat(3), (2, 1)))


def test_grid_has_each_pixel_of_each_image():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    grid = plots.image_grid(images, columns=3)
    for i, image in enumerate(images):
        at = np.array([4, 5]) * divmod(i, 3)
        np.testing.assert_array_equal(grid[at[0] : at[0] + 4, at[1] : at[1] + 5], image)
    floats = (images.astype(np.float32) - 127.5) / 127.5
    np.testing.assert_array_equal(plots.image_grid(floats, columns=3), grid)


@pytest.mark.parametrize(("channels", "shape"), [(1, ()), (3, (3,)), (4, (4,)), (2, ())])
def test_grid_png_is_enlarged_without_smoothing(channels, shape):
    images = np.random.default_rng(0).integers(0, 256, (4, 14, 14, channels), np.uint8)
    picture = opened(plots.enlarged_png(plots.image_grid(images)))
    assert picture.shape == (448, 448, *shape)
    shown = images[..., :1] if channels == 2 else images
    grid = plots.image_grid(shown).reshape(28, 28, *shape)
    np.testing.assert_array_equal(picture, grid.repeat(16, axis=0).repeat(16, axis=1))


def test_large_pictures_keep_their_size():
    image = np.random.default_rng(0).integers(0, 256, (9, 700, 3), np.uint8)
    np.testing.assert_array_equal(opened(plots.enlarged_png(image)), image)
    np.testing.assert_array_equal(opened(plots.png(image[:, :20])), image[:, :20])


def test_the_real_images_of_a_picture_are_drawn_from_all_and_the_same_each_time():
    images = np.repeat(np.arange(200, dtype=np.uint8), 2).reshape(200, 1, 2, 1)
    chosen = plots.choose_real(images)[:, 0, 0, 0]
    assert len(set(chosen)) == 16
    assert chosen.max() > 100
    np.testing.assert_array_equal(plots.choose_real(images)[:, 0, 0, 0], chosen)
    points = np.zeros((9999, 1, 1, 2), np.float32)
    assert len(plots.choose_real(points)) == plots.samples_shown((1, 1, 2)) == 2500


# Animations


def frames(animation: bytes) -> tuple[list[np.ndarray], list[int]]:
    """The frames, RGB, and how many milliseconds each is shown."""
    found, durations = [], []
    with Image.open(io.BytesIO(animation)) as image:
        for i in range(image.n_frames):
            image.seek(i)
            found.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return found, durations


def write_frames(folder, images) -> list:
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(plots.png(image))
    return paths


def test_gif_shows_the_pixels_of_each_frame(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    found, durations = frames(plots.gif(write_frames(tmp_path, images)))
    np.testing.assert_array_equal(found, images.repeat(3, axis=-1))
    # Eight seconds in all; the last frame stays for two.
    assert durations == [2000, 2000, 2000, 2000]
    _, durations = frames(plots.gif(write_frames(tmp_path, images), seconds=1))
    assert durations == [250, 250, 250, 2000]


def test_gif_of_colours(tmp_path):
    # Those of its palette, multiples of 51.
    images = 51 * np.random.default_rng(0).integers(0, 6, (3, 8, 8, 3), np.uint8)
    found, _ = frames(plots.gif(write_frames(tmp_path, images)))
    np.testing.assert_array_equal(found, images)


def test_gif_keeps_the_last_frame_and_bounds_their_number(tmp_path):
    images = [np.full((8, 8, 1), 30 * i, np.uint8) for i in range(7)]
    found, _ = frames(plots.gif(write_frames(tmp_path, images), most=3))
    assert [frame[0, 0, 0] for frame in found] == [0, 90, 180]


@pytest.mark.parametrize("chunk", [b"", b"IDAT", b"IHDR"])
def test_gif_leaves_out_a_damaged_frame(tmp_path, chunk):
    paths = write_frames(tmp_path, [np.full((8, 8, 1), 30 * i, np.uint8) for i in range(3)])
    # Pillow has another error for each chunk whose length is damaged.
    length, _, rest = paths[1].read_bytes().partition(chunk) if chunk else (b"", b"", b"rubbish")
    paths[1].write_bytes(length[:-1] + b"\0" + chunk + rest)
    assert plots.read_png(paths[1]) is None
    found, _ = frames(plots.gif(paths))
    assert [frame[0, 0, 0] for frame in found] == [0, 60]


# Curves


def constant(*values, epochs: int = 5) -> list[dict]:
    """A history whose metrics a, b, ... have these values in each epoch."""
    row = dict(zip("abcdef", values, strict=False))
    return [{"epoch": i + 1, **row} for i in range(epochs)]


def frame(picture: np.ndarray) -> tuple[int, int]:
    """The rows of the upper and of the lower edge of a panel. The legend is above."""
    black = np.flatnonzero(mask(picture, (0, 0, 0), 150).sum(axis=1) > 350)
    return int(black[0]), int(black[-1])


def rows(picture: np.ndarray, color) -> np.ndarray:
    """For each column the lowest row of a panel that has the colour; NaN if none has."""
    found = mask(picture, color)
    found[: frame(picture)[0]] = False
    lowest = found.shape[0] - 1 - found[::-1].argmax(axis=0)
    return np.where(found.any(axis=0), lowest, np.nan)


def level(picture: np.ndarray, row: float) -> float:
    """How high a row is in a panel, from 0 to 1."""
    top, bottom = frame(picture)
    return (bottom - row) / (bottom - top)


def rows_of(*values: float, **options) -> list[float]:
    """The rows at which the lines of these values are drawn in one panel."""
    names = "abcdef"[: len(values)]
    curve = Curve("loss", dict(zip(names, names, strict=True)), **options)
    picture = opened(plots.curves_png(constant(*values), [curve]))
    return [float(np.nanmedian(rows(picture, f"C{i}"))) for i in range(len(values))]


def test_a_falling_curve_falls_and_a_constant_one_does_not():
    history = [{"epoch": i + 1, "a": 1 - i / 5, "b": 0.0} for i in range(6)]
    picture = opened(plots.curves_png(history, [Curve("loss", {"a": "a", "b": "b"})]))
    assert picture.shape[:2] == (400, 500)
    falling, flat = rows(picture, "C0"), rows(picture, "C1")
    columns = np.flatnonzero(np.isfinite(falling))
    assert len(columns) > 350
    line = np.polynomial.Polynomial.fit(columns, falling[columns], 1)
    # A row counts downwards.
    assert line(columns[-1]) - line(columns[0]) > 250
    np.testing.assert_allclose(falling[columns], line(columns), atol=3)
    shared = np.flatnonzero(np.isfinite(flat) & np.isfinite(falling))
    assert np.ptp(flat[shared]) <= 1
    # Both end at 0.
    assert falling[columns[-1]] == pytest.approx(flat[shared[-1]], abs=3)


def test_each_curve_is_in_its_own_panel():
    curves = [Curve("loss", {"a": "a"}, (0, 2)), Curve("score", {"b": "b"}, (0, 1))]
    history = constant(1.0, 0.5)
    picture = opened(plots.curves_png(history, curves))
    assert picture.shape[:2] == (400, 1000)
    for i, curve in enumerate(curves):
        alone = opened(plots.curves_png(history, [curve]))
        panel = picture[:, 500 * i : 500 * (i + 1)]
        np.testing.assert_allclose(np.nanmedian(rows(panel, "C0")), np.nanmedian(rows(alone, "C0")))
        assert np.isfinite(rows(panel, "C0")).sum() > 350


def test_an_axis_with_limits_does_not_depend_on_the_values():
    (quarter,) = rows_of(0.25, limits=(0, 1))
    half, three_quarters = rows_of(0.5, 0.75, limits=(0, 1))
    assert quarter - half > 70
    assert quarter - half == pytest.approx(half - three_quarters, abs=1)
    # Without limits it does: a constant curve is in the middle.
    assert rows_of(0.25) == pytest.approx(rows_of(0.75), abs=1)


def test_on_a_logarithmic_axis_equal_ratios_are_equally_far():
    found = rows_of(1, 10, 100, 1000, limits=(0.1, 10_000), scale="log")
    np.testing.assert_allclose(np.diff(found), (found[3] - found[0]) / 3, atol=1)
    assert found[0] - found[3] > 150


def test_a_symlog_axis_has_a_place_for_zero():
    zero, small, one = rows_of(0.0, 1e-6, 1.0, scale="symlog")
    assert zero - small > 30
    assert small - one > 30


def test_scores_of_three_epochs_get_a_panel_with_a_logarithmic_axis():
    history = constant(1.0, epochs=9)
    scores = {"fd(j)": 10.0, "real_fd(j)": 1.0, "raw_fd(j)": 100.0, "kid(j)": 5.0}
    for scored in (1, 5, 9):
        # Of two epochs there is no curve to see.
        assert opened(plots.curves_png(history, [Curve("loss", {"a": "a"})])).shape[1] == 500
        history[scored - 1] |= scores
    picture = opened(plots.curves_png(history, [Curve("loss", {"a": "a"})]))
    assert picture.shape[:2] == (400, 1000)
    panel = picture[:, 500:]
    found = [np.nanmedian(rows(panel, color)) for color in ("C0", "C1", "C2")]
    samples, real, raw = found
    assert real > samples > raw
    assert real - samples == pytest.approx(samples - raw, abs=2)
    assert not mask(panel, "C3").any()


def test_a_band_shows_the_deviation_over_the_steps():
    # Mean 1, mean of the squares 1.25: a deviation of 0.5.
    history = [{**row, "a_square": 1.25} for row in constant(1.0)]
    curve = Curve("loss", {"a": "a"}, (0, 2))
    picture = opened(plots.curves_png(history, [curve._replace(deviation=True)]))
    # A fifth of C0 over white.
    band = np.argwhere(mask(picture, (210, 228, 240), 12).sum(axis=1) > 100)[:, 0]
    # On an axis from 0 to 2.
    assert level(picture, band.min()) == pytest.approx(0.75, abs=0.01)
    assert level(picture, band.max()) == pytest.approx(0.25, abs=0.01)
    assert level(picture, np.nanmedian(rows(picture, "C0"))) == pytest.approx(0.5, abs=0.01)
    assert not (mask(opened(plots.curves_png(history, [curve])), (210, 228, 240), 12)).any()


def test_thin_lines_are_the_members_and_a_thick_one_the_mean_of_the_finite():
    curve = Curve("loss", {"a": "a"}, (0, 4))
    history = [{"epoch": i + 1, "a": [1.0, 3.0, float("nan")]} for i in range(5)]
    picture = opened(plots.curves_png(history, [curve])).astype(int)
    blue = picture[..., 2] - picture[..., 0]
    assert level(picture, np.nanmedian(rows(picture, "C0"))) == pytest.approx(0.5, abs=0.01)
    # The line in the legend is in few columns.
    lines = np.flatnonzero((blue > 15).sum(axis=1) > 200)
    for value in (0.25, 0.5, 0.75):
        assert np.abs(level(picture, lines) - value).min() <= 0.01
    assert len(lines) < 15
    # All members have diverged: no line, and no error.
    history = [{"epoch": i + 1, "a": [float("nan")] * 3} for i in range(5)]
    picture = opened(plots.curves_png(history, [curve]))
    assert mask(picture, "C0").sum(axis=1).max() < 50


@pytest.mark.parametrize("epochs", [1, 2])
def test_few_epochs_have_markers(epochs):
    curve = Curve("loss", {"a": "a"}, (0, 2))
    picture = opened(plots.curves_png(constant(1.0, epochs=epochs), [curve]))
    # A dot is higher than a line.
    found = mask(picture[frame(picture)[0] :], "C0").sum(axis=0)
    assert found.max() >= 4


def test_the_healthy_range_is_green():
    curve = Curve("score", {"a": "a"}, (0, 2), healthy=(0.2, 1.5))
    picture = opened(plots.curves_png(constant(1.0), [curve]))
    # A tenth of green, (44, 160, 44), over white.
    green = mask(picture, (234, 246, 234), 9)
    found = np.flatnonzero(green.sum(axis=1) > 300)
    assert level(picture, found.max()) == pytest.approx(0.1, abs=0.01)
    assert level(picture, found.min()) == pytest.approx(0.75, abs=0.01)
    # The legend names it.
    assert green[: frame(picture)[0]].any()
    plain = opened(plots.curves_png(constant(1.0), [curve._replace(healthy=None)]))
    assert not mask(plain, (234, 246, 234), 9).any()


def test_the_equilibrium_of_a_metric_is_a_dashed_line_of_its_colour():
    curve = Curve("loss", {"a": "a", "b": "b"}, (0, 4))
    picture = opened(plots.curves_png(constant(1.0, 2.0), [curve], {"b": 3.0, "other": 0.5}))
    counts = mask(picture, "C1", 150).sum(axis=1)
    counts[: frame(picture)[0]] = 0
    # The curve, and above it the dashes, which leave gaps.
    places = np.array([round(level(picture, row), 2) for row in np.flatnonzero(counts > 100)])
    curves, dashes = np.abs(places - 0.5) < 0.02, np.abs(places - 0.75) < 0.02
    assert curves.any()
    assert dashes.any()
    assert (curves | dashes).all()
    assert counts[counts > 100][dashes].max() < 0.9 * counts.max()


# Failures

METRICS = {
    name: value
    for curve in diagnostics.CURVES
    for name, value in zip(curve.metrics.values(), (0.2, 0.3), strict=False)
}


def history_of(missed: float = 0.3, epochs: int = 9) -> list[dict]:
    row = METRICS | {"missed": missed, "gen_loss_square": 0.1, "disc_loss_square": 0.1}
    return [{"epoch": i + 1, **row} for i in range(epochs)]


@functools.cache
def diagnosis(missed: float = 0.3, **marks: tuple[int, ...]) -> np.ndarray:
    """The picture, with the epochs of `marks` for vanishing, collapse and swing."""
    names = {"vanishing": "vanishing gradients", "collapse": "mode collapse"}
    chosen = {names.get(k, "no convergence"): epochs for k, epochs in marks.items()}
    curves = plots.curves_png(history_of(missed), diagnostics.CURVES, None, chosen, rows=2)
    return opened(curves)


def panels(picture: np.ndarray) -> list[np.ndarray]:
    height, width = (size // 2 for size in picture.shape[:2])
    return [picture[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]


def vertical(panel: np.ndarray, color: str) -> np.ndarray:
    """The columns with a vertical line of dashes in a colour."""
    return np.flatnonzero(mask(panel, color, 60)[frame(panel)[0] :].sum(axis=0) > 40)


def test_failures_are_vertical_lines_in_all_four_panels():
    picture = diagnosis(vanishing=(5,), collapse=(1, 9))
    assert picture.shape[:2] == (800, 1000)
    for panel in panels(picture):
        columns = np.flatnonzero(np.isfinite(rows(panel, "C0")))
        first, last = columns[0], columns[-1]
        assert vertical(panel, "C3").mean() == pytest.approx((first + last) / 2, abs=3)
        found = vertical(panel, "C4")
        assert found.min() == pytest.approx(first, abs=3)
        assert found.max() == pytest.approx(last, abs=3)
    assert not mask(diagnosis(), "C3").any()


def test_failures_of_one_epoch_do_not_hide_each_other():
    for panel in panels(diagnosis(vanishing=(5,), collapse=(5,), swing=(5,))):
        places = [vertical(panel, color) for color in ("C3", "C4", "C5")]
        assert np.ptp([place.mean() for place in places]) <= 1


def test_each_panel_names_the_failures_above_its_curves():
    for panel in panels(diagnosis(vanishing=(5,), collapse=(1, 9))):
        legend = panel[: frame(panel)[0]]
        assert mask(legend, "C3").any()
        assert mask(legend, "C4").any()


def test_the_panel_of_what_is_missed_begins_at_zero():
    pictures = diagnosis(0.1), diagnosis(), diagnosis(0.5)
    low, middle, high = (np.nanmedian(rows(panels(picture)[3], "C0")) for picture in pictures)
    assert low - middle == pytest.approx(middle - high, abs=1)
    assert low - high > 80


# Evaluation

PURE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


def strip(colors: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colors[:, None, None], (len(colors), 6, 6, 3))


def test_strips_show_their_images_side_by_side_and_one_below_the_other():
    strips = {"real images": strip(PURE), "samples": strip(PURE[::-1])}
    picture = opened(plots.evaluation_png(strips, {}))
    half = picture.shape[0] // 2
    places = {}
    for i, color in enumerate(PURE):
        for j, part in enumerate((picture[:half], picture[half:])):
            at = np.argwhere(mask(part, color))
            assert len(at) > 500
            places[i, j] = at.mean(axis=0)
    for j in (0, 1):
        assert np.ptp([places[i, j][0] for i in range(4)]) < 2
        steps = np.diff([places[i, j][1] for i in range(4)])
        np.testing.assert_allclose(steps, (1 - 2 * j) * np.abs(steps[0]), atol=2)
    for i in range(4):
        assert places[i, 0][1] == pytest.approx(places[3 - i, 1][1], abs=2)


def test_gray_levels_are_not_stretched():
    levels = np.array([100, 120, 140, 160], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (4, 6, 6, 1))
    picture = opened(plots.evaluation_png({"samples": images}, {}))
    for level in levels:
        assert mask(picture, (level, level, level), 4).sum() > 500


def test_gray_strips_are_gray():
    levels = np.array([0, 100, 255], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (3, 6, 6, 1))
    picture = opened(plots.evaluation_png({"samples": images}, {}))
    assert mask(picture, (100, 100, 100), 4).sum() > 500


def heights(picture: np.ndarray, color: str) -> list[int]:
    """The heights of the bars of a colour, from left to right."""
    found = mask(picture, color)
    base = np.flatnonzero(found.sum(axis=1) > 15).max()
    columns = np.flatnonzero(found[base - 2])
    bars = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    tops = [found[: base + 1, bar[len(bar) // 2]][::-1] for bar in bars]
    return [int(top.argmin()) for top in tops]


def test_bars_are_as_high_as_the_shares():
    strips = {"real images": strip(PURE), "samples": strip(PURE)}
    shares = {"real images": [0.25, 0.25, 0.25, 0.25], "samples": [0.1, 0.2, 0.3, 0.4]}
    picture = opened(plots.evaluation_png(strips, shares))
    right = picture[:, picture.shape[1] * 8 // 13 :]
    even, rising = heights(right, "C0"), heights(right, "C1")
    assert even == pytest.approx([even[0]] * 4, abs=1)
    assert even[0] > 40
    np.testing.assert_allclose(rising, even[0] * np.array([0.4, 0.8, 1.2, 1.6]), atol=2)


# Scatter plots

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
    # The axes reach half as far again as the real points. Points beyond are on the frame.
    np.testing.assert_allclose(place(90, -70) - center, [1.5 * unit, 1.5 * unit], atol=2)
    np.testing.assert_allclose(place(1.4, 0) - center, [0, 1.4 * unit], atol=1)


def test_scatter_shows_the_real_points_and_nothing_of_a_diverged_member():
    picture = plots.scatter(np.full((5, 1, 1, 2), np.nan), CORNERS)
    assert picture.shape == (448, 448, 3)
    assert not blue(picture).any()
    center = place(0, 0)
    unit = place(1, 0)[1] - center[1]
    gray = np.argwhere((picture == 204).all(axis=-1)) - center
    gray = gray[np.abs(gray).max(axis=1) < 1.4 * unit]  # without the letters beside the axes
    np.testing.assert_allclose(gray.mean(axis=0), 0, atol=1)
    np.testing.assert_allclose(np.abs(gray), unit, atol=8)


def test_scatter_has_a_panel_for_each_member():
    # Of three members, two points each: in the middle, far left, nowhere.
    points = np.array([[0, 0], [0, 0], [-1, 0], [-1, 0], [np.nan, 0], [np.nan, 0]])
    picture = plots.scatter(points.reshape(6, 1, 1, 2), CORNERS, columns=2)
    half = picture.shape[0] // 2
    parts = [picture[:half, :half], picture[:half, half:], picture[half:]]
    first, second = (np.argwhere(blue(part)).mean(axis=0) for part in parts[:2])
    assert first[0] == pytest.approx(second[0], abs=1)
    assert first[1] > second[1] + 40
    assert not blue(parts[2]).any()


def test_a_picture_of_points_is_a_scatter_plot_and_of_images_a_grid():
    points = CORNERS / 2
    np.testing.assert_array_equal(plots.picture(points, CORNERS), plots.scatter(points, CORNERS))
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 2, 1), np.uint8)
    np.testing.assert_array_equal(
        plots.picture(images, images, 2), plots.image_grid(images, columns=2)
    )


@pytest.mark.parametrize("size", [1, 2, 5])
def test_vectors_without_real_ones_are_drawn_where_they_are(size):
    vectors = np.arange(3 * size, dtype=np.float32).reshape(3, 1, 1, size)
    whole = plots.scatter(vectors)
    diverged = np.concatenate([vectors, np.full((2, 1, 1, size), np.nan, np.float32)])
    np.testing.assert_array_equal(plots.scatter(diverged), whole)
    # One place, and none, have axes too.
    assert (plots.scatter(vectors[:1]) != plots.scatter(diverged[-1:])).any()
