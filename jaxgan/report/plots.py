"""Pictures from arrays and histories: grids of images, scatter plots, curves, animations."""

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgan.data.pixels import are_vectors, to_uint8
from jaxgan.history import History
from jaxgan.model import Curve
from jaxgan.report.texts import short

MEMBERS_SHOWN = 8
"""How many members of a population a picture shows."""
_MOST_LINES = 12
"""The most lines of a legend: a longer one would hide the curves."""
_MIN_WIDTH = 448
"""Small images are enlarged until the picture is about this wide, in pixels."""
_CLASS_COLUMNS = 8
"""Images of each class in a grid with a row for each class."""
_MOST_CLASSES = 20
"""Rows of such a grid. Further classes are not shown."""


def samples_shown(shape: Sequence[int]) -> int:
    """How many samples of this shape, `(H, W, C)`, one picture shows."""
    return 2500 if are_vectors(shape) else 16


class Grid(NamedTuple):
    """Images of one picture: a grid, or panels of vectors."""

    images: Any
    """`[N, H, W, C]`, uint8 or float in [-1, 1]."""
    columns: int | None = None
    """Images in a row, or vectors in a panel."""
    labels: Sequence[int] = ()
    """The classes of the rows, or ()."""


def class_rows(classes: int) -> np.ndarray:
    """The labels of a grid with a row for each class, int32 `[rows * _CLASS_COLUMNS]`."""
    return np.repeat(np.arange(min(classes, _MOST_CLASSES), dtype=np.int32), _CLASS_COLUMNS)


def class_labels(classes: int) -> list[int]:
    """The label of each row of `class_rows`."""
    return list(range(min(classes, _MOST_CLASSES)))


def class_grid(images: Any, labels: np.ndarray) -> Grid:
    """Images `[N, H, W, C]` of `class_rows` as a grid."""
    return Grid(images, _CLASS_COLUMNS, labels[::_CLASS_COLUMNS].tolist())


def choose_real(images: np.ndarray) -> np.ndarray:
    """Real images for one picture, chosen at random from all; the same every time."""
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[: samples_shown(images.shape[1:])]]


def real_classes(images: np.ndarray, labels: np.ndarray) -> Grid:
    """Real images, a row for each class. A class with few images repeats them."""
    order = np.random.default_rng(0).permutation(len(images))
    found = np.unique(labels)[:_MOST_CLASSES]
    chosen = [np.resize(order[labels[order] == label], _CLASS_COLUMNS) for label in found]
    return Grid(images[np.concatenate(chosen)], _CLASS_COLUMNS, found.tolist())


def image_grid(images: Any, columns: int | None = None) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: `[N, H, W, C]`, uint8 or float in [-1, 1]. If C is not 1, 3 or 4, only the first
        channel is shown.
      columns: images per row; by default the grid is square.

    Returns:
      uint8 `[H', W', C]`, black where the last row is not full.
    """
    images = to_uint8(images)
    n, height, width, channels = images.shape
    if channels not in (1, 3, 4):
        images, channels = images[..., :1], 1
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:n] = images
    cells = cells.reshape(rows, columns, height, width, channels)
    return cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


_UNREADABLE = (OSError, SyntaxError, ValueError)
"""What Pillow raises for a damaged PNG file."""


def read_png(path: Path) -> np.ndarray | None:
    """A picture uint8 `[H, W, C]` from a PNG file; None if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            found = np.asarray(picture)
    except _UNREADABLE:
        return None
    return found[..., None] if found.ndim == 2 else found


def png(image: np.ndarray) -> bytes:
    """One picture, uint8 `[H, W, C]`, as a PNG file of the same size."""
    return _encoded(_pillow(image), format="PNG")


def enlarged_png(image: np.ndarray, names: Sequence[str] = ()) -> bytes:
    """One picture, uint8 `[H, W, C]`, enlarged if it is small, as a PNG file.

    `names` are those of the rows, at the left.
    """
    scale = max(1, round(_MIN_WIDTH / image.shape[1]))
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return png(_named_rows(image, names) if names else image)


def natural(picture: np.ndarray, shape: Sequence[int], rows: int, named: bool) -> np.ndarray:
    """Undoes the enlargement of `enlarged_png`, and leaves out the names of the rows.

    Args:
      picture: a grid of images, uint8 `[H', W', C]`.
      shape: of one image, `(H, W, C)`.
      rows: of the grid.
      named: whether the rows have names, as those of `class_grid`.
    """
    scale = len(picture) // (rows * shape[0])
    if not scale or len(picture) % (rows * shape[0]):
        return picture  # of another version of jaxgan
    cell = scale * shape[1]
    columns = _CLASS_COLUMNS if named else picture.shape[1] // cell
    return picture[::scale, picture.shape[1] - columns * cell :: scale]


def _named_rows(image: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A picture with the names of its rows in a margin at the left."""
    from PIL import Image, ImageDraw, ImageFont

    height, channels = len(image) // len(names), image.shape[2]
    font = ImageFont.load_default(size=min(14, max(8, height // 2)))
    shown = [name if len(name) <= 20 else f"{name[:18]}..." for name in names]
    width = 8 + math.ceil(max(font.getlength(name) for name in shown))
    margin = Image.new("L", (width, len(image)), 255)
    draw = ImageDraw.Draw(margin)
    for i, name in enumerate(shown):
        middle = i * height + height // 2
        draw.text((width - 4, middle), name, fill=0, font=font, anchor="rm")
    pixels = np.repeat(np.asarray(margin)[..., None], channels, axis=2)
    if channels == 4:
        pixels[..., 3] = 255
    return np.concatenate([pixels, image], axis=1)


def scatter(points: Any, real: Any = None, columns: int | None = None) -> np.ndarray:
    """Draws vectors as points: their first two values. Real vectors lie below, in gray.

    Args:
      points: `[N, 1, 1, D]`, float. Points outside the axes are drawn on the frame, NaN not at all.
      real: `[R, 1, 1, D]`, drawn in gray below them. The axes depend on `real` alone, so that all
        pictures have the same scale. Without it they depend on `points`.
      columns: how many points share a panel; by default there is one panel.

    Returns:
      uint8 `[H', W', 3]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = _first_two(points).reshape(-1, columns or len(points), 2)
    real = points.reshape(-1, 2) if real is None else _first_two(real)
    real = real[np.isfinite(real).all(axis=1)]
    low, high = (real.min(axis=0), real.max(axis=0)) if len(real) else np.array([[-1.0], [1.0]])
    side = (high - low).max() or 1.0
    limits = np.broadcast_to((low + high) / 2, 2) + 0.75 * side * np.array([[-1], [1]])
    across = math.ceil(math.sqrt(len(points)))
    down = math.ceil(len(points) / across)
    inches = max(2.5, _MIN_WIDTH / 100 / across)
    figure = Figure(figsize=(across * inches, down * inches), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, panel in enumerate(points):
        axes = figure.add_subplot(down, across, i + 1, aspect="equal")
        for some, color, size in ((real, "0.8", 8), (panel, "tab:blue", 2.5)):
            # Points on the frame must not move the axes, so they are left out of the layout.
            style = {"markersize": size, "markeredgewidth": 0, "clip_on": False, "in_layout": False}
            axes.plot(*some.clip(*limits).T, ".", color=color, **style)
        axes.set(xlim=limits[:, 0], ylim=limits[:, 1])
        axes.tick_params(labelsize="small")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _first_two(vectors: Any) -> np.ndarray:
    """The first two values `[N, 2]` of vectors `[N, 1, 1, D]`. The second is 0 if D is 1."""
    flat = np.asarray(vectors).reshape(len(vectors), -1)
    return np.pad(flat, ((0, 0), (0, 1)))[:, :2]


def picture(images: Any, real: Any = None, columns: int | None = None) -> np.ndarray:
    """Images `[N, H, W, C]` as an `image_grid`, vectors as a `scatter` plot over real ones."""
    if are_vectors(np.shape(images)[1:]):
        return scatter(images, real, columns)
    return image_grid(images, columns)


def gif(frames: Sequence[Path], seconds: float = 8.0, most: int = 100) -> bytes | None:
    """An animation of about `seconds` seconds from PNG files, of which it shows at most `most`.

    None if there are no frames that can be read.
    """
    from PIL import Image

    step = math.ceil(len(frames) / most) or 1
    chosen = []
    # Counted from the end, so that the last frame is always included.
    for path in frames[::-1][::step][::-1]:
        # A damaged picture is left out.
        with contextlib.suppress(*_UNREADABLE), Image.open(path) as frame:
            chosen.append(frame.convert("P"))
    if not chosen:
        return None
    duration = max(20, round(1000 * seconds / len(chosen)))
    durations = [duration] * (len(chosen) - 1) + [2000]
    return _encoded(
        chosen[0],
        format="GIF",
        save_all=True,
        append_images=chosen[1:],
        duration=durations,
        loop=0,
    )


def curves_png(
    history: History,
    curves: Sequence[Curve],
    equilibrium: Mapping[str, float] | None = None,
    marks: Mapping[str, Sequence[int]] | None = None,
    rows: int = 1,
) -> bytes:
    """The curves of a history, one panel each, as a PNG file.

    If three or more epochs were scored, another panel shows the Fréchet distance of samples and
    that of real images. For a population thin lines show the members, and a thick line shows the
    mean over the members that have not diverged.

    Args:
      history: of one run or of a population.
      curves: which metrics.
      equilibrium: for some columns their value in the equilibrium, a dashed line.
      marks: for each failure the epochs in which it was first seen, one for each affected member:
        vertical lines.
      rows: of panels.
    """
    scored = [row for row in history if any(name.startswith("fd(") for name in row)]
    distances = [name for row in scored for name in row if re.match(r"(raw_|real_)?fd\(", name)]
    if len(scored) > 2:
        names = {name: name for name in distances}
        curves = [*curves, Curve("Fréchet distance", names, scale="log")]
    figure, panels = _panels(rows, -(-len(curves) // rows))
    for axes in np.ravel(panels)[len(curves) :]:
        axes.remove()
    for axes, curve in zip(np.ravel(panels), curves, strict=False):
        _draw(axes, history, curve, equilibrium or {})
        for i, (name, epochs) in enumerate((marks or {}).items()):
            # Each failure has its own offset, so that lines in one epoch do not hide each other.
            style: Any = {"color": f"C{3 + i}", "linestyle": (5 * i, (5, 10))}
            for epoch in set(epochs):
                axes.axvline(epoch, **style)
            axes.plot([], [], label=name, color=style["color"], linestyle=":")
        # Above the panel, where it hides no curve.
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small", frameon=False
        )
    return _saved(figure)


def sweep_png(rows: Sequence[Mapping[str, Any]], names: Sequence[str], score: str) -> bytes:
    """A score over the values of each swept setting, as a PNG file.

    Each panel has one setting on its horizontal axis. A line is one combination of the others. The
    bars are 95% intervals of the mean over the seeds.

    Args:
      rows: of the table of a sweep (`run.sweep.Outcome`).
      names: the swept settings.
      score: the name of the score.
    """
    figure, panels = _panels(1, len(names))
    for axes, name in zip(np.ravel(panels), names, strict=True):
        values = list(dict.fromkeys(row[name] for row in rows))
        numbers = sorted(value for value in values if not isinstance(value, str | bool | tuple))
        is_line = len(numbers) == len(values) > 1
        lines: dict[str, list[Any]] = {}
        for row in rows:
            others = ", ".join(f"{k}={short(row[k])}" for k in names if k != name)
            lines.setdefault(others, []).append(row)
        for i, (others, found) in enumerate(lines.items()):
            found = [row for row in found if row.get(score, {}).get("mean") is not None]
            x = [row[name] if is_line else values.index(row[name]) + 0.05 * i for row in found]
            mean, half = ([row[score][k] for row in found] for k in ("mean", "half"))
            order = np.argsort(x)
            axes.errorbar(
                np.array(x)[order],
                np.array(mean)[order],
                np.array([h or 0.0 for h in half])[order],
                marker=".",
                capsize=3,
                linestyle="-" if is_line else "",
                label=others or None,
            )
        if not is_line:
            axes.set_xticks(range(len(values)), [short(value) for value in values])
        elif numbers[0] > 0 and numbers[-1] >= 10 * numbers[0]:
            axes.set_xscale("log")
        axes.set(xlabel=name, ylabel=score)
        axes.grid(alpha=0.3)
        if 1 < len(lines) <= _MOST_LINES:
            axes.legend(fontsize="small")
    return _saved(figure)


def evaluation_png(
    strips: Mapping[str, np.ndarray], shares: Mapping[str, Sequence[float]]
) -> bytes:
    """Rows of images, and the shares of the classes as bars, as a PNG file.

    Args:
      strips: for each name images `[N, H, W, C]`, uint8, with the same N.
      shares: for each name the share of each class, `[K]`; empty if there are no classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(next(iter(strips.values())))
    figure = Figure(figsize=(13 if shares else 8, 0.8 * len(strips) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(1, 2, width_ratios=(8, 5)) if shares else (figure, None)
    left, right = parts
    rows = left.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(rows, strips.items(), strict=True):
        axes.imshow(image_grid(images, columns), cmap="gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        label = textwrap.fill(name, 28)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
    if right is not None:
        axes = right.subplots()
        width = 0.8 / len(shares)
        for i, (name, values) in enumerate(shares.items()):
            axes.bar(
                np.arange(len(values)) + i * width, values, width, label=textwrap.fill(name, 28)
            )
        axes.set(xlabel="class", ylabel="share")
        axes.legend(fontsize="small")
    return _saved(figure)


def _panels(rows: int, columns: int) -> tuple[Any, np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _draw(axes: Any, history: History, curve: Curve, equilibrium: Mapping[str, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    if curve.healthy is not None:
        axes.axhspan(*curve.healthy, color="tab:green", alpha=0.1, linewidth=0, label="healthy")

    for name, column in curve.metrics.items():
        rows = [row for row in history if column in row]
        epochs = [row["epoch"] for row in rows]
        values = np.array([np.ravel(row[column]) for row in rows]).reshape(
            len(rows), -1 if rows else 1
        )
        mean = np.ma.masked_invalid(values).mean(axis=1)
        # A line through one or two points is hard to see without markers.
        (line,) = axes.plot(epochs, mean, label=name, marker="." if len(rows) < 3 else "")
        if values.shape[1] > 1:
            axes.plot(epochs, values, color=line.get_color(), linewidth=0.5, alpha=0.3)
        elif curve.deviation:
            squares = np.array([row[f"{column}_square"] for row in rows]).ravel()
            deviation = np.sqrt(np.maximum(squares - np.square(mean), 0))
            band = {"color": line.get_color(), "alpha": 0.2, "linewidth": 0}
            axes.fill_between(epochs, mean - deviation, mean + deviation, **band)
        if column in equilibrium:
            label = f"equilibrium: {equilibrium[column] + 0.0:.2f}"  # no -0.00
            axes.axhline(
                equilibrium[column],
                color=line.get_color(),
                linestyle="--",
                linewidth=1,
                label=label,
            )
    axes.set(xlabel="epoch", ylabel=curve.title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(history) == 1:
        axes.set_xticks([history[0]["epoch"]])
    if curve.scale == "symlog":
        axes.set_yscale("symlog", linthresh=1e-12)
    else:
        axes.set_yscale(curve.scale)
    axes.set_ylim(curve.limits)
    axes.grid(alpha=0.3)


def _saved(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _pillow(image: np.ndarray):
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _encoded(image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()
