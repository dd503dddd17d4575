"""A page about runs: one HTML file that needs no other file, no server and no network.

`html` makes it from a View of each run. The script (page.js) reads one JSON in the page. The curves
are drawn by hand as SVG, in the colours of the page: plotly.js alone has 4.5 MB.
"""

import base64
import gzip
import importlib.resources
import json
import math
import string
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgan import samplers
from jaxgan.data.pixels import to_uint8
from jaxgan.history import History, finite_mean
from jaxgan.model import Curve, DenseLayers
from jaxgan.report import plots

BUDGET = 1_400_000
"""The most characters that the pictures of all players take in a page."""
_POINTS = 400
"""The most epochs of a curve that are drawn."""
_DASHES = ("", "6 4", "2 3", "9 3 2 3")


class Alarm(NamedTuple):
    """A failure that a run has shown."""

    name: str
    when: str
    first: tuple[int, ...]
    """The epochs in which it was first seen, one for each member with it."""
    meaning: str
    evidence: str
    remedies: Sequence[str]
    """What to try, if it is not in use yet."""


class Score(NamedTuple):
    """A score of samples."""

    name: str
    meaning: str
    value: float
    half: float | None
    """Half of its 95% interval, if it has one."""
    real: float | None
    """The score of real images: the best that can be expected."""
    healthy: str
    """What it is in a healthy run."""


class Player(NamedTuple):
    """Pictures over time, one at a time."""

    tracks: Mapping[str, Sequence[np.ndarray]]
    """Pictures uint8 `[H, W, C]`, by the names of the tracks, which stand side by side."""
    captions: Sequence[str]
    rows: Sequence[str] = ()
    """The names of the rows of each picture, or ()."""


class Explorer(NamedTuple):
    """A generator that runs in the page."""

    dense: DenseLayers
    shape: tuple[int, ...]
    """Of an image, `(H, W, C)`."""
    latent_dim: int
    classes: Sequence[str] = ()
    """The names of the classes, or ()."""


class View(NamedTuple):
    """What a page shows of one run."""

    name: str
    lead: str
    """What kind of run it is, and how long."""
    health: str = ""
    """The verdict in a word."""
    verdict: str = ""
    """Why, in sentences."""
    advice: str = ""
    """What to do next, in a sentence. Words in `backticks` are code."""
    members: Sequence[Mapping[str, Any]] = ()
    """A row of the table of each member of a population."""
    best: int | None = None
    """The best member."""
    history: History = ()
    curves: Sequence[Curve] = ()
    equilibrium: Mapping[str, float] = {}
    alarms: Sequence[Alarm] = ()
    scores: Sequence[Score] = ()
    scored: str = ""
    """The caption of the scores: what was scored."""
    settings: Mapping[str, tuple[Any, Any]] = {}
    """All settings: `(default, here)`. Those that differ in a run are shown."""
    samples: Player | None = None
    denoising: Player | None = None
    explorer: Explorer | None = None
    nearest: tuple[np.ndarray, np.ndarray] | None = None
    """Samples and the training images nearest to them, uint8 `[N, H, W, C]` each."""
    left_out: Mapping[str, str] = {}
    """Why a section has nothing of this run, by the id of the section."""


def html(views: Sequence[View]) -> str:
    """The whole page.

    Args:
      views: of one run or more. Several runs stand side by side, and share the axes of the curves.
    """
    sections = {
        "verdict": ("Verdict", _columns(views, "verdict", _verdict)),
        "explore": ("Explore", _columns(views, "explore", _explore)),
        "samples": ("Samples over the epochs", _columns(views, "samples", _samples)),
        "curves": ("Curves", _curves(views)),
        "scores": ("Scores", _columns(views, "scores", _scores)),
        "nearest": ("Nearest training images", _columns(views, "nearest", _nearest, _NEAREST)),
        "settings": ("Settings that differ from the reference", _settings(views)),
    }
    shown = {name: found for name, found in sections.items() if found[1]}
    named = len(views) > 1
    data = json.dumps(_data(views), allow_nan=False, separators=(",", ":"))
    return string.Template(_asset("page.html")).substitute(
        title=escape(", ".join(view.name for view in views)),
        leads="".join(
            f'<p class="quiet">{escape(f"{view.name}: " if named else "")}{escape(view.lead)}</p>'
            for view in views
        ),
        links="".join(
            f'<li><a href="#{name}">{title.split()[0]}</a></li>'
            for name, (title, _) in shown.items()
        ),
        sections="".join(
            f'<section id="{name}" aria-labelledby="{name}-title">'
            f'<h2 id="{name}-title">{title}</h2>{body}</section>'
            for name, (title, body) in shown.items()
        ),
        style=_asset("page.css"),
        data=data.replace("<", "\\u003c"),  # so that no text ends the element
        script=_asset("page.js"),
    )


def denoise(
    make_denoise: Callable[..., Any], state: Any, rng: jax.Array, n: int, frames: int
) -> Player:
    """How a diffusion model makes n samples from noise.

    Args:
      make_denoise: of its Model.
      state: of the model.
      rng: a key. The samples are those of `Model.sample` with the same key.
      n: the number of samples.
      frames: about how many steps are shown, of those that the sampler takes.
    """
    config = state.config
    latents = jax.random.normal(rng, (n, *config.image_shape))
    sampler_rng, denoiser_rng = jax.random.split(jax.random.fold_in(rng, 0))
    classes = getattr(config, "num_classes", 0)
    labels = jnp.arange(n, dtype=jnp.int32) % classes if classes else None
    estimate, shares = make_denoise(state, denoiser_rng, labels)
    steps = samplers.make_steps(config.sampler, shares, config.sample_steps, config.eta)
    trace = jax.jit(lambda x: samplers.trace(estimate, x, sampler_rng, steps))
    images, estimates = trace(latents)
    images = np.concatenate([latents[None], images])  # the first picture is noise
    estimates = np.concatenate([estimates[:1], estimates])
    total = len(images) - 1
    chosen = _evenly(total + 1, frames)
    return Player(
        {
            name: [plots.image_grid(to_uint8(some[i])) for i in chosen]
            for name, some in (("Image", images), ("Estimate of the clean image", estimates))
        },
        [f"step {i} of {total}" for i in chosen],
    )


def _columns(
    views: Sequence[View], section: str, render: Callable[[View, int], str], text: str = ""
) -> str:
    """A section with a column for each run; "" if no run has anything there.

    The text stands above all columns that have something.
    """
    bodies = [render(view, i) for i, view in enumerate(views)]
    reasons = [view.left_out.get(section, "") for view in views]
    if not any(bodies) and not any(reasons):
        return ""
    cells = [
        (f"<h3>{escape(view.name)}</h3>" if len(views) > 1 else "")
        + (body or f'<p class="quiet">{escape(reason or "Nothing to show.")}</p>')
        for view, body, reason in zip(views, bodies, reasons, strict=True)
    ]
    above = f'<p class="quiet">{text}</p>' if text and any(bodies) else ""
    return f'{above}<div class="runs">{"".join(f"<div>{cell}</div>" for cell in cells)}</div>'


_TONES = {"healthy": "good", "undertrained": "warn", "poor": "warn", "unknown": "none", "": "none"}


def _verdict(view: View, _: int) -> str:
    tone = _TONES.get(view.health, "bad")
    parts = [f'<p class="badge {tone}">{escape((view.health or "no verdict").capitalize())}</p>']
    texts = filter(None, (view.verdict, view.left_out.get("verdict")))
    parts += [f"<p>{escape(text)}</p>" for text in texts]
    if view.advice:
        pieces = escape(view.advice).split("`")
        code = "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))
        parts.append(f'<p class="next"><strong>Next:</strong> {code}</p>')
    if view.members:
        parts.append(_members(view))
    return "".join(parts)


def _members(view: View) -> str:
    names = list(view.members[0])
    rows = [
        "".join(_cell(row[name], head=name == names[0]) for name in names) for row in view.members
    ]
    body = "".join(
        f'<tr class="best">{row}</tr>' if i == view.best else f"<tr>{row}</tr>"
        for i, row in enumerate(rows)
    )
    caption = "All members" + ("" if view.best is None else f"; the best is member {view.best}")
    return _table(caption, names, body, {n for n in names if _is_number(view.members[0][n])})


def _explore(view: View, i: int) -> str:
    if view.denoising is not None:
        text = "From noise to samples: the slider goes through the steps of the sampler."
        return f'<p class="quiet">{text}</p>{_player(view.denoising, i, "denoising", "Step")}'
    if view.explorer is None:
        return ""
    classes = "".join(
        f'<button type="button" data-label="{k}" aria-pressed="{str(k == 0).lower()}">'
        f"{escape(name)}</button>"
        for k, name in enumerate(view.explorer.classes)
    )
    chosen = f'<fieldset><legend>Class</legend><div class="bar">{classes}</div></fieldset>'
    template = _asset("explorer.html").replace("CLASSES", chosen if classes else "")
    return f'<div class="explorer" data-run="{i}">{template}</div>'


def _samples(view: View, i: int) -> str:
    if view.samples is None:
        return ""
    return _player(view.samples, i, "samples", "Epoch")


def _player(player: Player, run: int, part: str, unit: str) -> str:
    many = len(player.tracks) > 1
    tracks = "".join(
        "<div>"
        + (f'<p class="quiet small">{escape(name)}</p>' if many else "")
        + '<img alt=""></div>'
        for name in player.tracks
    )
    body = f'<div class="tracks">{tracks}</div>'
    if player.rows:
        rows = "".join(f"<li>{escape(name)}</li>" for name in player.rows)
        body = f'<div class="with-names"><ol>{rows}</ol>{body}</div>'
    return (
        f'<figure class="player" data-run="{run}" data-part="{part}">{body}'
        '<figcaption class="bar one-line">'
        '<button type="button" class="square" data-by="-1" aria-label="Previous">&lsaquo;</button>'
        f'<input type="range" min="0" step="1" aria-label="{unit}">'
        '<button type="button" class="square" data-by="1" aria-label="Next">&rsaquo;</button>'
        '<button type="button" class="play">Play</button><output></output></figcaption></figure>'
    )


def _curves(views: Sequence[View]) -> str:
    panels = _panels(views)
    if not panels:
        return ""
    figures = "".join(
        f'<figure data-panel="{i}"><h3>{escape(panel["title"])}</h3><ul class="legend"></ul>'
        '<div class="plot"></div>'
        f'<p class="quiet small"><output aria-live="off"></output>{_note(panel)}</p></figure>'
        for i, panel in enumerate(panels)
    )
    alarms = [(view, alarm) for view in views for alarm in view.alarms]
    items = "".join(
        f'<li><span class="count">{i + 1}</span><h3>{escape(alarm.name.capitalize())}'
        f"{', ' + escape(view.name) if len(views) > 1 else ''}</h3>"
        f"<p>{escape(alarm.meaning)}</p>"
        f'<p class="quiet">Seen in {escape(alarm.when)}: {escape(alarm.evidence)}.</p>'
        f"{_remedies(alarm)}</li>"
        for i, (view, alarm) in enumerate(alarms)
    )
    no_alarms = "".join(
        f'<p class="quiet">{escape(f"{view.name}: " if len(views) > 1 else "")}'
        f"{escape(view.left_out.get('curves', 'No alarm: the detectors saw no failure.'))}</p>"
        for view in views
        if not view.alarms
    )
    listed = f'<ol class="alarms" aria-label="Alarms">{items}</ol>' if alarms else ""
    return f'<div class="panels">{figures}</div>{no_alarms}{listed}'


def _note(panel: Mapping[str, Any]) -> str:
    """What the dotted lines and the shaded area of a panel are."""
    evens = [_number(line["even"]) for line in panel["lines"] if line["even"] is not None]
    notes = [f"dotted: equilibrium, {' and '.join(dict.fromkeys(evens))}"] if evens else []
    notes += ["shaded: healthy"] if panel["healthy"] else []
    notes += ["band: one standard deviation"] if any(x["deviation"] for x in panel["lines"]) else []
    return "".join(f" · {note}" for note in notes)


def _remedies(alarm: Alarm) -> str:
    if not alarm.remedies:
        return ""
    pieces = (f"<code>{escape(r)}</code>" if "--" in r else escape(r) for r in alarm.remedies)
    return f"<p>Try {', or '.join(pieces)}.</p>"


def _scores(view: View, _: int) -> str:
    if not view.scores:
        return ""
    has_real = any(score.real is not None for score in view.scores)
    names = ["score", "samples", "real images" if has_real else "healthy"]
    rows = []
    for score in view.scores:
        half = "" if score.half is None else f" ± {score.half:.2g}"
        real = "" if score.real is None else _number(score.real)
        compared = _cell(real, number=True) if has_real else _cell(score.healthy)
        rows.append(
            f'<tr><th scope="row">{escape(score.name)}'
            f'<br><span class="quiet small">{escape(score.meaning)}</span></th>'
            f"{_cell(_number(score.value) + half, number=True)}{compared}</tr>"
        )
    return _table(view.scored, names, "".join(rows), {"samples", "real images"})


_NEAREST = (
    "Each pair is a sample and, to its right, the training image with the most similar pixels. "
    "If both are equal, the sample is a copy."
)


def _nearest(view: View, _: int) -> str:
    if view.nearest is None:
        return ""
    pairs = "".join(
        f'<li><img src="{_uri(plots.png(_seen(sample)))}" alt="sample {i + 1}">'
        f'<img src="{_uri(plots.png(_seen(real)))}" alt="training image nearest to it"></li>'
        for i, (sample, real) in enumerate(zip(*view.nearest, strict=True))
    )
    return f'<ul class="pairs">{pairs}</ul>'


def _settings(views: Sequence[View]) -> str:
    changed = {
        name: default
        for view in views
        for name, (default, here) in view.settings.items()
        if here != default
    }
    if not changed:
        return '<p class="quiet">None: all settings are the defaults.</p>'
    rows = []
    for name, default in changed.items():
        # A run of another model may not have this setting.
        found = [view.settings.get(name, ("", "")) for view in views]
        here = [_cell(_value(value)) for _, value in found]
        head = escape(name).replace("_", "_<wbr>")  # lines may break there
        cells = f'<th scope="row">{head}</th>{_cell(_value(default))}{"".join(here)}'
        rows.append(f"<tr>{cells}</tr>")
    heads = [view.name for view in views] if len(views) > 1 else ["this run"]
    return _table("", ["setting", "reference", *heads], "".join(rows), set())


def _table(caption: str, names: Sequence[str], body: str, numbers: set[str]) -> str:
    heads = "".join(
        f'<th scope="col"{" class=number" if name in numbers else ""}>{escape(name)}</th>'
        for name in names
    )
    titled = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption or "Table")}">'
        f"<table>{titled}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any, *, head: bool = False, number: bool = False) -> str:
    number = number or (_is_number(value) and not head)
    text = escape(_number(value) if _is_number(value) else str(value))
    if head:
        return f'<th scope="row">{text}</th>'
    return f'<td class="number">{text}</td>' if number else f"<td>{text}</td>"


def _data(views: Sequence[View]) -> dict[str, Any]:
    """What page.js reads."""
    players = sum(view.samples is not None for view in views)
    players += sum(view.denoising is not None for view in views)
    room = BUDGET // max(players, 1)
    by_step = _by_step(views)
    numbered = enumerate((i, alarm) for i, view in enumerate(views) for alarm in view.alarms)
    alarms = [
        {"number": number + 1, "at": at}
        for number, (i, alarm) in numbered
        for at in sorted({_at(views[i].history, epoch, by_step) for epoch in alarm.first})
    ]
    ends = [
        row["step" if by_step else "epoch"]
        for view in views
        for row in (*view.history[:1], *view.history[-1:])
    ]
    return {
        "axis": "step" if by_step else "epoch",
        "range": [min(ends, default=0), max(ends, default=0)],
        "alarms": alarms,
        "panels": _panels(views),
        "runs": [
            {
                "samples": _player_data(view.samples, room),
                "denoising": _player_data(view.denoising, room),
                "explorer": _explorer_data(view.explorer),
            }
            for view in views
        ],
    }


def _by_step(views: Sequence[View]) -> bool:
    """Whether the horizontal axis of the curves has steps: epochs of the runs differ in length."""
    lengths = {view.history[0]["step"] for view in views if view.history}
    return len(lengths) > 1


def _at(history: History, epoch: int, by_step: bool) -> int:
    if not by_step:
        return epoch
    return next(int(row["step"]) for row in history if row["epoch"] == epoch)


def _panels(views: Sequence[View]) -> list[dict[str, Any]]:
    """The panels of all runs. Curves with the same title share a panel."""
    panels: dict[str, dict[str, Any]] = {}
    by_step = _by_step(views)
    for i, view in enumerate(views):
        for curve in view.curves:
            lines = _lines(view, curve, by_step)
            panel = panels.setdefault(
                curve.title,
                {
                    "title": curve.title,
                    "scale": curve.scale,
                    "limits": curve.limits,
                    "healthy": curve.healthy,
                    "lines": [],
                },
            )
            if len(views) > 1:  # colours are runs, and dashes are metrics
                for k, line in enumerate(lines):
                    line |= {"name": f"{view.name}: {line['name']}", "colour": i % 6}
                    line |= {"dash": _DASHES[k % len(_DASHES)], "even": None, "deviation": []}
            panel["lines"] += lines
    return [panel for panel in panels.values() if panel["lines"]]


def _lines(view: View, curve: Curve, by_step: bool) -> list[dict[str, Any]]:
    lines = []
    for k, (name, column) in enumerate(curve.metrics.items()):
        rows = [row for row in view.history if column in row]
        rows = [rows[i] for i in _evenly(len(rows), _POINTS)]
        values = [np.ravel(row[column]).astype(float) for row in rows]
        if not any(np.isfinite(value).any() for value in values):
            continue
        single = len(values[0]) == 1
        deviation = []
        if curve.deviation and single:
            squares = [finite_mean(row[f"{column}_square"]) for row in rows]
            deviation = [
                _plain(math.sqrt(max(0.0, square - value[0] ** 2)))
                for square, value in zip(squares, values, strict=True)
            ]
        even = view.equilibrium.get(column)
        lines.append(
            {
                "name": name,
                "x": [row["step" if by_step else "epoch"] for row in rows],
                "y": [_plain(finite_mean(value)) for value in values],
                "members": []
                if single
                else [[_plain(value) for value in member] for member in np.transpose(values)],
                "deviation": deviation,
                "even": None if even is None else even + 0.0,  # no -0
                "colour": k % 6,
                "dash": "",
            }
        )
    return lines


def _player_data(player: Player | None, room: int) -> dict[str, Any] | None:
    """The pictures as PNG, of so few frames that they take at most `room` characters."""
    if player is None:
        return None
    frames = [
        [_uri(plots.png(picture)) for picture in pictures]
        for pictures in zip(*player.tracks.values(), strict=True)
    ]
    sizes = np.array([sum(map(len, frame)) for frame in frames])
    count = len(frames)
    while count > 2 and sizes[_evenly(len(frames), count)].sum() > room:
        count -= 1
    chosen = _evenly(len(frames), count)
    return {
        "captions": [player.captions[i] for i in chosen],
        "tracks": [
            {"name": name, "images": [frames[i][k] for i in chosen]}
            for k, name in enumerate(player.tracks)
        ],
    }


def _explorer_data(explorer: Explorer | None) -> dict[str, Any] | None:
    if explorer is None:
        return None
    layers = explorer.dense.layers
    flat = np.concatenate([np.ravel(array) for layer in layers for array in layer])
    return {
        "shape": explorer.shape,
        "latent": explorer.latent_dim,
        "classes": list(explorer.classes),
        "bounded": explorer.dense.bounded,
        "layers": [kernel.shape for kernel, _ in layers],
        "weights": pack(flat),
    }


def pack(numbers: np.ndarray) -> str:
    """Numbers `[N]` as float16, in base64 of gzip.

    The low bytes come first, then the high bytes: gzip makes the latter a third smaller.
    """
    halves = np.asarray(numbers, "<f2").view(np.uint8).reshape(-1, 2)
    return base64.b64encode(gzip.compress(halves.T.tobytes(), mtime=0)).decode()


def _evenly(length: int, most: int) -> list[int]:
    """At most `most` indices, evenly spaced, with the first and the last."""
    if length <= most:
        return list(range(length))
    return np.unique(np.linspace(0, length - 1, max(2, most)).round().astype(int)).tolist()


def _seen(image: np.ndarray) -> np.ndarray:
    return image if image.shape[-1] in (1, 3, 4) else image[..., :1]


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _plain(value: float) -> float | None:
    """Four digits of a number; None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _value(value: Any) -> str:
    """A setting as a text."""
    if isinstance(value, Mapping):
        return str(value.get("own", value))
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    return "none" if value is None else str(value)


def _asset(name: str) -> str:
    return importlib.resources.files("jaxgan.report").joinpath(name).read_text()
