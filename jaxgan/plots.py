"""Arrays to pictures: grids of images, curves, animations, each as the bytes of a file."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MIN_WIDTH = 448
"""Small images are enlarged until the picture is about this wide, in pixels."""


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


def grid_png(images, columns: int | None = None) -> bytes:
    """`image_grid`, enlarged if it is small, as a PNG file."""
    grid = image_grid(images, columns)
    scale = max(1, round(_MIN_WIDTH / grid.shape[1]))
    return png(grid.repeat(scale, axis=0).repeat(scale, axis=1))


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


def curves_png(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Losses (left) and scores (right) over the epochs, as a PNG file.

    Of a population: each member's in a thin line, and the mean of those that have not failed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    panels = (
        ("loss", (("generator", "gen_loss"), ("discriminator", "disc_loss"))),
        ("mean score", (("real images", "real_score"), ("generated images", "fake_score"))),
    )
    losses, scores = figure.subplots(1, 2)
    scores.set_ylim(0, 1)
    for axes, (label, lines) in zip((losses, scores), panels, strict=True):
        for name, column in lines:
            values = np.array([row[column] for row in history]).reshape(len(history), -1)
            mean = np.ma.masked_invalid(values).mean(axis=1)
            # A marker where a line would have no length.
            (line,) = axes.plot(epochs, mean, label=name, marker="." if len(history) < 3 else "")
            if values.shape[1] > 1:
                axes.plot(epochs, values, color=line.get_color(), linewidth=0.5, alpha=0.3)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
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
