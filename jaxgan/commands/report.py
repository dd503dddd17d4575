"""Makes a page about runs: one HTML file, with a live explorer of latents."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from jaxgan import MODELS, JaxganError, Model, cli, data
from jaxgan.advice import DONE, advise, longer
from jaxgan.data.dataset import class_name
from jaxgan.data.pixels import are_vectors, to_uint8
from jaxgan.files import check_writable, disk_errors, expand, write_atomically
from jaxgan.history import History, finite_mean, mean_interval
from jaxgan.labels import num_classes
from jaxgan.metrics import copies
from jaxgan.metrics.modes import ModeScores
from jaxgan.model import Curve, Diagnosis
from jaxgan.report import page, plots, texts, verdict
from jaxgan.report.page import Alarm, Explorer, Player, Score, View
from jaxgan.run import checkpoint, saved
from jaxgan.run.journal import COLUMNS, diagnose
from jaxgan.run.members import make_runs
from jaxgan.run.settings import TrainConfig

SAMPLES = 16
"""How many samples are denoised, and stand beside their nearest training images."""
FRAMES = 13
"""Pictures of the denoising."""
TITLES = {"gan": "GAN", "diffusion": "diffusion model", "gaussian": "Gaussians", "gain": "GAIN"}
NOT_SHOWN = (
    *("dataset", "data_dir"),  # a page may be sent to somebody: it names no folder
    *("image_shape", "bounded", "num_classes"),  # those of the data
    *("sample_every", "checkpoint_every"),  # they follow from the epochs
)
"""Settings that are not in the table."""
PRIVATE = "This run is private: it shows nothing that needs real images."


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes a page about runs: one HTML file, which needs no server and no network.

    It has the verdict, a live explorer of latents (of a GAN) or the denoising (of a diffusion
    model), samples over the epochs, curves with alarms, scores beside those of real images, the
    nearest training images, and the settings. Several runs stand side by side.
    """

    workdirs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders; the runs may still continue."""
    out: str | None = None
    """The page; by default report.html in the first run folder."""
    config: str | None = None
    """FILE.py:NAME, as for train.py, of those runs that have parts of your own."""


class Run:
    """A run folder: what is read of it once."""

    def __init__(self, workdir: str, own: Any):
        self.path: Path = expand(workdir)
        if self.path.is_file():
            raise JaxganError(f"{workdir} is a file: the page is about run folders")
        self.model: Model = saved.find_model(workdir, MODELS)
        self.settings: TrainConfig = saved.read_settings(workdir)
        self.config: Any = saved.read_config(self.model, workdir)
        self.described: Mapping[str, Any] = checkpoint.read_config(workdir)
        if not isinstance(self.described.get("data"), Mapping):
            raise JaxganError(f"{workdir} is not a run folder: its config.json has no 'data'")
        self.history: History = saved.read_history(self.model, workdir)
        self.classes: list[str] = saved.read_classes(workdir)
        runs = make_runs(self.model, self.config, self.settings)
        self.labels: list[dict[str, Any]] = runs.labels
        self.is_private: bool = self.settings.epsilon is not None
        self.is_population: bool = "member" in self.labels[0]
        self.report: Mapping[str, Any] = read_report(self.path) if self.is_finished else {}
        self.diagnosis: Diagnosis | None = diagnose(self.model, self.history)
        self.state: Any = None
        self.no_state: str = "The run cannot be sampled."
        if not checkpoint.steps(self.path):
            self.no_state = "The run has no checkpoint yet."
        self.notes: list[str] = []
        """Why something is left out, in more words than the page has: they may name folders."""
        try:
            state, epochs = saved.load_state(self.model, workdir, config=own)
            self.state = state if epochs > 0 else None
        except JaxganError as error:
            self.notes.append(str(error))

    @property
    def is_finished(self) -> bool:
        """Whether all its epochs are in the history."""
        epochs = self.settings.epochs
        return epochs is not None and len(self.history) >= epochs


def main() -> None:
    """Writes the page, and prints its size and what it leaves out."""
    options = cli.parse(Options)
    if not options.workdirs:
        raise JaxganError("nothing to report: name one run folder or more")
    out = expand(options.out or Path(options.workdirs[0]) / "report.html")
    own = cli.load_config(options.config, MODELS)
    runs = [Run(workdir, own) for workdir in options.workdirs]
    check_writable(out)
    views = [make_view(run) for run in tqdm(runs, "making the page", disable=None, leave=False)]
    views = [view._replace(name=name) for view, name in zip(views, distinct(views), strict=True)]
    content = page.html(views)
    with disk_errors(out):
        write_atomically(out, content)
    for run, view in zip(runs, views, strict=True):
        for reason in dict.fromkeys((*view.left_out.values(), *run.notes)):
            print(texts.wrapped(f"{view.name}: {reason}"))
    print(f"{len(content.encode()) / 1e6:.1f} MB in {out}")


def distinct(views: Sequence[View]) -> list[str]:
    """The names of the views; those that are equal are numbered."""
    names = [view.name for view in views]
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def make_view(run: Run) -> View:
    """What the page shows of a run."""
    left_out: dict[str, str] = {}
    verdicts = run.report.get("verdicts", [])
    best = run.report.get("best")
    found = verdicts[best or 0] if verdicts else {}
    scores = [] if run.is_private else make_scores(run)
    if run.is_private:
        left_out |= dict.fromkeys(("verdict", "scores"), PRIVATE)
        left_out["curves"] = "A private run has no detectors of failures."
    elif not verdicts:
        ended = "" if run.is_finished else " yet: it has not ended"
        left_out["verdict"] = f"It has no verdict{ended}."
    if run.diagnosis is None:
        left_out.setdefault("curves", "This model has no detectors of failures.")
    if not scores and not run.is_private:
        left_out["scores"] = "The samples were not scored."
    health = found.get("health", "")
    return View(
        name=(run.path if run.path.name.strip(".") else run.path.resolve()).name,
        lead=lead(run),
        health=health,
        verdict=of_best(run, best) + found.get("sentences", ""),
        advice=advice(run, health),
        members=members(run, verdicts),
        best=best,
        history=run.history,
        curves=curves(run.model, run.history),
        equilibrium=run.model.equilibrium(run.config),
        alarms=alarms(run),
        scores=scores,
        scored=scored(run),
        settings=all_settings(run),
        samples=samples(run),
        denoising=denoising(run, left_out),
        explorer=explorer(run, left_out),
        nearest=nearest(run, left_out),
        left_out=left_out,
    )


def of_best(run: Run, best: int | None) -> str:
    """Which member of a population the page shows."""
    many = best is not None and len(run.labels) > 1
    return f"Member {best} is the best of {len(run.labels)}. " if many else ""


def read_report(path: Path) -> Mapping[str, Any]:
    """report.json, or {} if there is none or if it is damaged."""
    try:
        found = json.loads((path / "report.json").read_text())
        verdicts = [verdict.Verdict(**one)._asdict() for one in found["verdicts"]]
        best = found.get("best") if found.get("best") in range(len(verdicts)) else None
        return {"verdicts": verdicts, "scores": dict(found["scores"]), "best": best}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def lead(run: Run) -> str:
    """What kind of run it is, and how long."""
    kind = TITLES.get(run.model.name, run.model.name)
    classes = "conditional " if num_classes(run.config) else ""
    parts = [f"{classes}{kind} on {run.described['data'].get('name', 'unknown data')}"]
    epochs, done = run.settings.epochs, len(run.history)
    parts.append(counted(done, "epoch") if run.is_finished else f"{done} of {epochs} epochs")
    if run.history:
        parts.append(counted(run.history[-1]["step"], "step"))
    if run.is_population:
        parts.append(counted(len(run.labels), "member"))
    if run.is_private:
        parts.append(f"differential privacy with epsilon {run.settings.epsilon:g}")
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


def counted(n: int, noun: str) -> str:
    """A number of things."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def advice(run: Run, health: str) -> str:
    """What to do next, in a sentence."""
    if not health:
        return ""
    epochs, dataset = longer(run.history, run.settings.steps), run.settings.dataset
    reason, options = advise(run.model, run.config, health, epochs, dataset)
    command = ["jaxgan sample --workdir RUN"] if health in DONE else []
    return f"{reason.removesuffix('.')}: `{' '.join([*command, *options])}`."


def members(run: Run, verdicts: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The table of a population: for each member its settings, verdict and first scores."""
    if not run.is_population or not run.history:
        return []
    row = run.history[-1]
    names = [name for name in row if "(" in name and not name.startswith(("real_", "raw_"))]
    names = [*names, *(name for name in ("modes", "high_quality", "missed") if name in row)][:3]
    rows = []
    for i, label in enumerate(run.labels):
        found = dict(label) | ({"verdict": verdicts[i]["health"]} if verdicts else {})
        rows.append(found | {name.partition("(")[0]: float(row[name][i]) for name in names})
    return rows


def curves(model: Model, history: History) -> list[Curve]:
    """All curves of a model, and those of the Fréchet distances if there are three or more."""
    # Of two curves with one title, that of the diagnosis shows more.
    found = {curve.title: curve for curve in (*model.curves, *model.diagnosis_curves)}
    distances = {
        name: {"fd": "samples", "real_fd": "real images"}[name.partition("(")[0]]
        for row in history
        for name in row
        if name.startswith(("fd(", "real_fd("))
    }
    count = sum(any(name in row for name in distances) for row in history)
    if count > 2:
        names = {label: name for name, label in distances.items()}
        found["Fréchet distance"] = Curve("Fréchet distance", names, scale="log")
    return list(found.values())


def alarms(run: Run) -> list[Alarm]:
    """The failures that were seen. Those of several members are one alarm."""
    if run.diagnosis is None:
        return []
    fields, found = vars(run.config), []
    for name, first in run.diagnosis.first_seen().items():
        hits = {
            i: finding
            for i, some in enumerate(run.diagnosis.findings)
            for finding in some
            if finding.name == name
        }
        member, finding = min(hits.items(), key=lambda item: item[1].epochs[0])
        when = texts.when(finding, len(run.history))
        if run.is_population:
            when = f"{len(hits)} of {len(run.labels)} members, first in member {member}, {when}"
        remedies = texts.untried(finding, run.model, fields)
        found.append(Alarm(name, when, tuple(first), finding.meaning, finding.evidence, remedies))
    return found


def last_scored(history: History) -> Mapping[str, Any]:
    """The last row with scores, or {}."""
    scored = (
        row for row in reversed(history) if "modes" in row or any("(" in name for name in row)
    )
    return next(scored, {})


def make_scores(run: Run) -> list[Score]:
    """The last scores of the samples; of a population the means over its members."""
    row, found = last_scored(run.history), []
    intervals = run.report.get("scores", {})
    for name, value in row.items():
        short = name.partition("(")[0]
        if short not in COLUMNS or not ("(" in name or short in ModeScores._fields):
            continue
        interval = (intervals.get(name) or {}).get("interval")
        half = mean_interval(value)["half"] if isinstance(value, list) else None
        if interval:
            half = (interval[1] - interval[0]) / 2
        real = row.get(f"real_{name}")
        real = None if real is None else finite_mean(real)
        column = COLUMNS[short]
        found.append(Score(short, column.meaning, finite_mean(value), half, real, column.healthy))
    return found


def scored(run: Run) -> str:
    """Of what the scores are."""
    row = last_scored(run.history)
    if not row:
        return ""
    text = f"Scores after epoch {row['epoch']}"
    if name := next((name for name in row if "(" in name), ""):
        features, _, n = name.partition("(")[2].rstrip(")").split(", ")
        text += f": {int(n.removeprefix('n=')):,} samples, by the features of {features}"
    if run.is_population:
        text += f"; means over {len(run.labels)} members, with 95% intervals"
    return text


def all_settings(run: Run) -> dict[str, tuple[Any, Any]]:
    """`(default, here)` of the settings of a run: those of the model, then those of the run."""
    n = int(run.described["data"].get("images", 1))
    found = {}
    for section, default in (
        (run.model.name, saved.as_json(run.model.config())),
        ("train", saved.as_json(TrainConfig().fitted(n))),
    ):
        here = run.described[section]
        found |= {
            name: (default[name], value)
            for name, value in here.items()
            if name in default and name not in NOT_SHOWN
        }
    return found


def samples(run: Run) -> Player | None:
    """The pictures of samples in a run folder, in their own size."""
    captions, pictures = [], []
    classes, shape = num_classes(run.config), run.config.image_shape
    vectors = are_vectors(shape)
    labels = plots.class_labels(classes) if classes else []
    rows = [class_name(run.classes, label) for label in labels]
    if run.is_population:
        rows = [f"member {i}" for i in range(min(len(run.labels), plots.MEMBERS_SHOWN))]
    for path in sorted((run.path / "samples").glob("image_at_epoch_*.png")):
        epoch = int(path.stem.rpartition("_")[2])
        picture = plots.read_png(path) if epoch <= len(run.history) else None
        if picture is not None and not vectors:
            named = bool(classes) and not run.is_population
            picture = plots.natural(picture, shape, len(rows) or 4, named)
        if picture is not None:
            captions.append(f"epoch {epoch}")
            pictures.append(picture)
    if not pictures:
        return None
    return Player({"samples": pictures}, captions, () if vectors else rows)


def denoising(run: Run, left_out: dict[str, str]) -> Player | None:
    """The denoising of samples, of a diffusion model on images."""
    if run.model.make_denoise is None or are_vectors(run.config.image_shape):
        return None
    if run.state is None:
        left_out["explore"] = run.no_state
        return None
    rng = jax.random.key(0)
    return page.denoise(run.model.make_denoise, run.state, rng, SAMPLES, FRAMES)


def explorer(run: Run, left_out: dict[str, str]) -> Explorer | None:
    """The generator, if it has dense layers."""
    if run.model.make_denoise is not None and not are_vectors(run.config.image_shape):
        return None
    dense = None if run.state is None else run.model.dense(run.state)
    if dense is None:
        left_out["explore"] = run.no_state
        if run.state is not None:
            left_out["explore"] = "There is no explorer: it needs a generator of dense layers."
        return None
    if not all(np.isfinite(array).all() for layer in dense.layers for array in layer):
        left_out["explore"] = "There is no explorer: the generator has diverged."
        return None
    names = [class_name(run.classes, i) for i in range(num_classes(run.config))]
    (size,) = run.model.latent_shape(run.config)
    return Explorer(dense, run.config.image_shape, size, names)


def nearest(run: Run, left_out: dict[str, str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples, and the training images with the most similar pixels."""
    from sklearn.metrics import pairwise_distances_argmin

    shape = run.config.image_shape
    reason = PRIVATE if run.is_private else run.no_state if run.state is None else ""
    if are_vectors(shape):
        reason = reason or "There are no nearest images: these data are vectors."
    if reason:
        left_out["nearest"] = reason
        return None
    settings = run.settings
    try:
        real = data.load(
            settings.dataset, "train", settings.data_dir, image_size=settings.image_size
        )
    except JaxganError as error:
        left_out["nearest"] = "There are no nearest images: the training images were not found."
        run.notes.append(str(error))
        return None
    if real.images.shape[1:] != tuple(shape):
        left_out["nearest"] = "The training images have changed."
        return None
    drawn = to_uint8(run.model.sample(run.state, jax.random.key(0), SAMPLES))
    at = pairwise_distances_argmin(copies.pixels(drawn), copies.pixels(real.images))
    return drawn, real.images[at]
