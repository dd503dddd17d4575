"""Arrays to pictures: grids of images, scatter plots of points, curves, animations."""

import contextlib
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

History = Sequence[Mapping[str, Any]]

_MIN_WIDTH = 448
"""Small images are enlarged until the picture is about this wide, in pixels."""


def are_points(shape: Sequence[int]) -> bool:
    """Whether images of this shape, `(H, W, C)`, are points in the plane."""
    return tuple(shape) == (1, 1, 2)


def samples_shown(shape: Sequence[int]) -> int:
    """How many samples of this shape one picture shows."""
    return 2500 if are_points(shape) else 16


def chosen(images: np.ndarray) -> np.ndarray:
    """As many real images as one picture shows, from all over the data; the same every time."""
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[: samples_shown(images.shape[1:])]]


def to_uint8(images) -> np.ndarray:
    """Images as bytes: float `[..., H, W, C]` in [-1, 1] -> uint8 in 0..255; uint8 as it is.

    NaN, of a member of a population that has failed, is black.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    levels = np.nan_to_num(np.round(images * 127.5 + 127.5), nan=0)
    return np.clip(levels, 0, 255).astype(np.uint8)


def image_grid(images, columns: int | None = None) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: `[N, H, W, C]`, uint8 or float in [-1, 1]. Of channels other than 1, 3 or 4 only the
        first is shown.
      columns: images per row; by default as many as make the grid square.

    Returns:
      uint8 `[H', W', C]`, black where a last row is not full.
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


def png(image: np.ndarray) -> bytes:
    """One picture, uint8 `[H, W, C]`, pixel by pixel, as a PNG file."""
    return _encoded(_pillow(image), format="PNG")


def enlarged_png(image: np.ndarray) -> bytes:
    """One picture, uint8 `[H, W, C]`, enlarged if it is small, as a PNG file."""
    scale = max(1, round(_MIN_WIDTH / image.shape[1]))
    return png(image.repeat(scale, axis=0).repeat(scale, axis=1))


def scatter(points, real=None, columns: int | None = None) -> np.ndarray:
    """Draws points in the plane over real ones.

    Args:
      points: `[N, 1, 1, 2]`, float; those beyond the axes lie on the frame, NaN nowhere.
      real: `[R, 1, 1, 2]`, gray below them. The axes depend on these alone, so that pictures are of
        one scale; by default on `points`.
      columns: how many points go into a panel of their own; by default all into one.

    Returns:
      uint8 `[H', W', 3]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = np.asarray(points).reshape(-1, columns or len(points), 2)
    real = np.asarray(points if real is None else real).reshape(-1, 2)
    low, high = real.min(axis=0), real.max(axis=0)
    limits = (low + high) / 2 + 0.75 * (high - low).max() * np.array([[-1], [1]])
    across = math.ceil(math.sqrt(len(points)))
    down = math.ceil(len(points) / across)
    side = max(2.5, _MIN_WIDTH / 100 / across)
    figure = Figure(figsize=(across * side, down * side), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, panel in enumerate(points):
        axes = figure.add_subplot(down, across, i + 1, aspect="equal")
        for some, color, size in ((real, "0.8", 8), (panel, "tab:blue", 2.5)):
            # Not in the layout: the axes are to stay where they are, whatever lies on the frame.
            style = {"markersize": size, "markeredgewidth": 0, "clip_on": False, "in_layout": False}
            axes.plot(*some.clip(*limits).T, ".", color=color, **style)
        axes.set(xlim=limits[:, 0], ylim=limits[:, 1])
        axes.tick_params(labelsize="small")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def picture(images, real=None, columns: int | None = None) -> np.ndarray:
    """Images `[N, H, W, C]` as `image_grid`, points as `scatter` over real ones."""
    if are_points(np.shape(images)[1:]):
        return scatter(images, real, columns)
    return image_grid(images, columns)


def gif(frames: Sequence[Path], seconds: float = 8.0, most: int = 100) -> bytes:
    """PNG files as one animation of about that many seconds, from at most `most` of the files."""
    from PIL import Image

    step = math.ceil(len(frames) / most)
    chosen = []
    # Backwards, so that whatever is left out, the last frame is not.
    for path in frames[::-1][::step][::-1]:
        # A picture that somebody has damaged is left out; the run itself is whole.
        with contextlib.suppress(OSError), Image.open(path) as frame:
            chosen.append(frame.convert("P"))
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


def curves_png(history: History) -> bytes:
    """Losses (left) and scores (right) over the epochs, as a PNG file.

    Where samples were evaluated (`jaxgan.evaluation`) also their Fréchet distance and that of real
    images, on a logarithmic axis. Of a population: each member's in a thin line, and the mean of
    those that have not failed.
    """
    columns = dict.fromkeys(name for row in history for name in row)
    distances = [name for name in columns if name.startswith(("fd(", "raw_fd(", "real_fd("))]
    figure, (losses, scores, *rest) = _panels(1, 3 if distances else 2)
    scores.set_ylim(0, 1)
    _draw(losses, history, "loss", _LOSSES)
    _draw(
        scores,
        history,
        "mean score",
        {"real images": "real_score", "generated images": "fake_score"},
    )
    for axes in rest:
        axes.set_yscale("log")
        for name in distances:
            evaluated = [row for row in history if name in row]
            _draw(axes, evaluated, "Fréchet distance", {name: name})
    return _saved(figure)


def diagnosis_png(history: History, marks: Mapping[str, Sequence[int]]) -> bytes:
    """Losses, gradient norms, accuracies and the diversity over the epochs, as a PNG file.

    Args:
      history: the rows of `loop.Run`. The band around a loss is its standard deviation over the
        steps of the epoch. Of a population all is as in `curves_png`, without the band.
      marks: for each failure the epochs at which it was first seen, one for each member with it.
    """
    figure, panels = _panels(2, 2)
    losses, norms, accuracies, diversity = panels.ravel()
    _draw(losses, history, "loss", _LOSSES, swing=True)
    norms.set_yscale("symlog", linthresh=1e-12)  # logarithmic, with a place for 0
    _draw(
        norms,
        history,
        "gradient norm",
        {"generator": "gen_grad_norm", "discriminator": "disc_grad_norm"},
    )
    accuracies.set_ylim(0, 1.02)
    _draw(
        accuracies,
        history,
        "share told by the discriminator",
        {"real images": "real_accuracy", "generated images": "fake_accuracy"},
    )
    _draw(diversity, history, "diversity", {"of samples, beside that of real images": "diversity"})
    diversity.set_ylim(0, max(1.05, diversity.get_ylim()[1]))
    for i, (name, epochs) in enumerate(marks.items()):
        # Dashes that leave room for those of the others.
        color, dashes = f"C{3 + i}", (5 * i, (5, 10))
        for axes in panels.ravel():
            for epoch in epochs:
                axes.axvline(epoch, color=color, linestyle=dashes)
        diversity.plot([], [], color=color, label=name)
    diversity.legend(loc="upper right")
    return _saved(figure)


def evaluation_png(
    strips: Mapping[str, np.ndarray], shares: Mapping[str, Sequence[float]]
) -> bytes:
    """Rows of images, and the shares of the classes as bars, as a PNG file.

    Args:
      strips: for each name images `[N, H, W, C]`, uint8, N the same for all.
      shares: for each name the share of each class, `[K]`; empty where there are no classes.
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
        axes.imshow(image_grid(images, columns), cmap="gray")
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


_LOSSES = {"generator": "gen_loss", "discriminator": "disc_loss"}


def _panels(rows: int, columns: int) -> tuple[Any, np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _draw(axes, history: History, label: str, lines: Mapping[str, str], *, swing=False) -> None:
    """Columns of a history over its epochs, by the names of the lines."""
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    for name, column in lines.items():
        values = np.array([row[column] for row in history]).reshape(len(history), -1)
        mean = np.ma.masked_invalid(values).mean(axis=1)
        # A marker where a line would have no length.
        (line,) = axes.plot(epochs, mean, label=name, marker="." if len(history) < 3 else "")
        if values.shape[1] > 1:
            axes.plot(epochs, values, color=line.get_color(), linewidth=0.5, alpha=0.3)
        elif swing:
            squares = np.array([row[f"{column}_square"] for row in history]).ravel()
            deviation = np.sqrt(np.maximum(squares - np.square(mean), 0))
            band = {"color": line.get_color(), "alpha": 0.2, "linewidth": 0}
            axes.fill_between(epochs, mean - deviation, mean + deviation, **band)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epochs) == 1:
        axes.set_xticks(epochs)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")


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
