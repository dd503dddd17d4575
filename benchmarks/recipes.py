"""Which generator is best? The table compares GANs, diffusion models and two plain generators.

All learn from Fashion-MNIST. Each recipe is trained with five seeds. Its samples are scored by two
judges. The second judge has another shape and seed; no setting was chosen by it. real images: the
scores of the test images. Printed are means over the seeds that have not diverged, ± half of the
95% interval of the mean (Student's t).

- Gaussian per class: the mean and the covariance of the pixels of each class.
- SMOTE: points on the line between an image and one of its five nearest neighbours of its class
  (arXiv 1106.1813).
- The others are presets of scripts/train.py. Diffusion has three predictions, each sampled in 10,
  50 and 1,000 steps. "latents x 1.5": with latents times this number (option --latent-scale).
- --method trains a recipe of your own, such as --method 'mine: preset=large r1=0.2 steps=20000'.

First all recipes train and sample in turns, which gives the seconds of this machine. They are those
of one run alone. Nothing else should run at that time. The file also keeps the seconds of other
machines. --curves draws the quality over the seconds of training.

Rows are written to --json one by one; a later call trains only those that are missing. On an
accelerator the seeds of a recipe are one population. On two CPU cores a run takes from three to 35
minutes.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np

from jaxgan import MODELS, PRESETS, data, schedules
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.history import mean_interval
from jaxgan.labels import fit_to_classes
from jaxgan.metrics import evaluation
from jaxgan.metrics.classifier import BUNDLED
from jaxgan.model import Model
from jaxgan.run import loop, population

PICTURED = 4
"""Samples of each seed in the picture, by the last of the ways of sampling."""
ROUNDS, STRETCH = 9, 100
"""Rounds in which the recipes take turns, and training steps of each in a round."""
SAMPLED, SAMPLING_ROUNDS = 1_000, 3
"""Samples drawn at once when sampling is timed, and the rounds of it."""
POINTS = 10
"""Points of a curve."""
CURVES = ("large", "diffusion-image")
"""The recipes with a curve, beside those of --method."""
SCORING = 30
"""About how many seconds it takes to score a run, for the progress."""


class Recipe(NamedTuple):
    """How a model is trained and sampled."""

    preset: str
    conditional: bool = False
    changes: Mapping[str, Any] = {}
    """Fields of the config that differ from those of the preset."""
    samplings: Mapping[str, Mapping[str, Any]] = {"": {}}
    """Ways of sampling: the fields of the config by a name. The picture shows the last one."""
    run: Mapping[str, Any] = {}
    """Fields of TrainConfig that differ from those of the preset."""


def _latents(scale: float) -> dict[str, dict[str, float]]:
    return {f"latents x {scale}": {"latent_scale": scale}, "": {}}


_STEPS = {f"{n} steps": {"sample_steps": n} for n in (10, 50, 1000)}

RECIPES = {
    "reference": Recipe("reference"),
    "tuned": Recipe("tuned"),
    "large": Recipe("large", samplings=_latents(1.5)),
    "large-conditional": Recipe("large", conditional=True, samplings=_latents(0.75)),
    **{
        f"diffusion-{prediction}": Recipe("diffusion", False, {"prediction": prediction}, _STEPS)
        for prediction in ("noise", "image", "v")
    },
}


def gaussian_per_class(
    images: np.ndarray, labels: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Samples of a Gaussian of each class, uint8, with the classes wanted."""
    samples = np.empty((len(wanted), *images.shape[1:]), np.uint8)
    for label in np.unique(wanted):
        points = images[labels == label].reshape(-1, images[0].size).astype(float)
        n = (wanted == label).sum()
        drawn = rng.multivariate_normal(points.mean(0), np.cov(points.T), n, method="eigh")
        samples[wanted == label] = to_images(drawn, images)
    return samples


def smote(
    images: np.ndarray, labels: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Points between an image and one of its five nearest neighbours, with the classes wanted."""
    from sklearn.neighbors import NearestNeighbors

    samples = np.empty((len(wanted), *images.shape[1:]), np.uint8)
    for label in np.unique(wanted):
        points = images[labels == label].reshape(-1, images[0].size).astype(np.float32)
        start = points[rng.integers(len(points), size=(wanted == label).sum())]
        near = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(start, return_distance=False)
        chosen = near[np.arange(len(start)), rng.integers(1, 6, len(start))]  # 0 is the image
        share = rng.random((len(start), 1))
        samples[wanted == label] = to_images(start + share * (points[chosen] - start), images)
    return samples


def to_images(points: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Pixels `[N, H * W * C]` as uint8 images of the shape of `images`."""
    return points.round().clip(0, 255).astype(np.uint8).reshape(-1, *images.shape[1:])


PLAIN = {"gaussian-per-class": gaussian_per_class, "smote": smote}
NAMES = [*PLAIN, *RECIPES]


class Setup(NamedTuple):
    """A model that is ready to be trained."""

    model: Model
    config: Any
    data: Any
    epochs: int
    batch_size: int


def main() -> None:
    args = parse()
    header = harness.about()
    train = data.load(args.dataset, data_dir=args.data_dir)
    test = data.load(args.dataset, "test", args.data_dir)
    judges = [evaluation.make_extractor(train, judge) for judge in args.judges]
    rows = harness.Rows(args.json, header, ("recipe",), NAMES)
    found = {}
    for name in args.recipes:
        described = settings(name, train, args)
        row = rows.find(name, described)
        found[name] = row or {"recipe": name, "settings": described, "runs": []}
    machine = f"{header['device']}, {header['host']}"
    times = rows.content.setdefault("times", {}).setdefault(machine, {})
    trained = [name for name in args.recipes if name not in PLAIN]
    known = {k for k, v in times.items() if v["settings"] == found.get(k, {}).get("settings")}
    if args.times or not known.issuperset(trained):
        for name, measured in measure_times(trained, train, args).items():
            times[name] = measured | {"settings": found[name]["settings"], "about": header}
        rows.write()
    if any(len(row["runs"]) < args.seeds for row in found.values()):
        references = [evaluation.make_reference(judge, train, test) for judge in judges]
        real = test.images[: args.num], None if test.labels is None else test.labels[: args.num]
        rows.content["real images"] = scores(references, *real)
        train_missing(rows, found, times, train, references, args)
    for judge in judges:
        print(f"\n{judge.name}, n={args.num:,}; seconds of {machine}")
        print(table(rows.content["real images"], found, times, judge.name))
    if args.picture and (samples := rows.samples(found.values())):
        real = {"real images": test.images[: PICTURED * args.seeds]}
        harness.save_picture(args.picture, harness.draw_rows(real | samples))
    if args.curves:
        harness.save_picture(args.curves, draw_curves(found, times))


def train_missing(
    rows: harness.Rows,
    found: Mapping[str, Any],
    times: Mapping[str, Any],
    train: data.Dataset,
    references: list[evaluation.Reference],
    args: argparse.Namespace,
) -> None:
    """Adds the missing runs to the rows. The unit of progress is a second, by the times."""
    training = {name: times[name]["training"] if name in times else 0.0 for name in found}
    seconds = {name: SCORING + training[name] for name in found}
    for name in found.keys() & times.keys():
        seconds[name] += sum(times[name]["sampling"].values())
    missing = {name: range(len(row["runs"]), args.seeds) for name, row in found.items()}
    total = args.seeds * sum(seconds.values())
    done = total - sum(len(missing[name]) * seconds[name] for name in missing)
    progress = harness.Progress(total, done)
    for name, seeds in missing.items():
        at_once = 1 if jax.default_backend() == "cpu" else max(1, len(seeds))
        for start in seeds[::at_once]:
            some = range(start, min(start + at_once, args.seeds))
            progress.start(f"{name}, seeds {some.start} to {some.stop - 1}", done)
            work = len(some) * training[name]
            add = functools.partial(lambda work, share: progress.add(share * work), work)
            runs = make_runs(name, some, train, references, args, add)
            for seed, (run, drawn) in zip(some, runs, strict=True):
                found[name]["runs"].append({"seed": seed} | run)
                rows.put(found[name], drawn, seed * PICTURED)
            done += len(some) * seconds[name]
    progress.close()


def parse() -> argparse.Namespace:
    parser = harness.make_parser(__doc__, "recipes.json", "any", seeds=5, num=evaluation.SAMPLES)
    fields = "a preset (preset=NAME; default: reference), with other values of steps, batch_size, "
    fields += "conditional and fields of its config"
    harness.add_methods(parser, "--recipes", NAMES, fields)
    parser.add_argument("--steps", type=harness.size, help="of training; default: the preset's")
    judges = ",".join(BUNDLED)
    parser.add_argument("--judges", default=judges, help="names or files; default: %(default)s")
    text = "measure the times again; without it only if some are missing"
    parser.add_argument("--times", action="store_true", help=text)
    text = "draw quality over seconds of training in this PNG file"
    parser.add_argument("--curves", type=harness.output, help=text)
    args = parser.parse_args()
    args.judges = args.judges.split(",")
    known = PLAIN | RECIPES
    args.known = harness.define_methods(parser, args, "recipes", known, make_recipe)
    return args


def make_recipe(fields: dict[str, str]) -> Recipe:
    """The recipe of a --method."""
    preset = fields.pop("preset", "reference")
    if preset not in PRESETS:
        raise JaxganError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    config, training = PRESETS[preset]
    names = fields.keys() & {"steps", "batch_size", "conditional"}
    run = harness.parse_fields(training, {name: fields.pop(name) for name in names})
    conditional = run.pop("conditional", False)
    return Recipe(preset, conditional, harness.parse_fields(config, fields), run=run)


def prepare(name: str, train: data.Dataset, args: argparse.Namespace) -> Setup:
    """The model of a recipe, its data and the length of its training."""
    recipe = args.known[name]
    config, training = PRESETS[recipe.preset]
    model = next(model for model in MODELS.values() if isinstance(config, model.config))
    if args.steps:
        training = dataclasses.replace(training, steps=args.steps)
    training = dataclasses.replace(training, **recipe.run)
    training = training.fitted(len(train.images))
    config = model.fit_to(dataclasses.replace(config, **recipe.changes), train)
    config = fit_to_classes(config, train, recipe.conditional)
    config = schedules.over(config, training.all_steps(len(train.images)))
    arrays: dict[str, Any] = {"image": train.images}
    if recipe.conditional:
        arrays["label"] = train.labels
    return Setup(model, config, arrays, training.epochs or 0, training.batch_size)


def settings(name: str, train: data.Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    more = {"dataset": args.dataset, "num": args.num, "judges": args.judges}
    if name in PLAIN:
        return more
    setup = prepare(name, train, args)
    more |= {"samplings": args.known[name].samplings}
    return harness.settings(setup.config, epochs=setup.epochs, batch_size=setup.batch_size, **more)


Run = tuple[dict[str, Any], np.ndarray]
"""The entry of a run in a row, and PICTURED of its samples."""


def make_runs(
    name: str,
    seeds: range,
    train: data.Dataset,
    references: list[evaluation.Reference],
    args: argparse.Namespace,
    count: Callable[[float], None],
) -> Iterator[Run]:
    """A run of each seed, scored one by one. `count` gets each share of the training."""
    classes = 1 if train.labels is None else 1 + train.labels.max()
    wanted = np.random.default_rng(0).permutation(np.arange(args.num) % classes)
    if name not in PLAIN:
        yield from train_runs(name, seeds, train, references, wanted, args, count)
        return
    if train.labels is None:
        raise JaxganError(f"{name} needs labels, and {train.name} has none")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        drawn = PLAIN[name](train.images, train.labels, wanted, rng)
        yield {"scores": {"": scores(references, drawn, wanted)}}, drawn[:PICTURED]


def train_runs(
    name: str,
    seeds: range,
    train: data.Dataset,
    references: list[evaluation.Reference],
    wanted: np.ndarray,
    args: argparse.Namespace,
    count: Callable[[float], None],
) -> Iterator[Run]:
    """Trains a population and scores its samples; with a curve also during training."""
    recipe, setup = args.known[name], prepare(name, train, args)
    curves: list[list[dict[str, float]]] = [[] for _ in seeds]
    in_training = evaluation.reference_in_training(train) if has_curve(name) else None

    def sample_of(state: Any) -> evaluation.Sample:
        return functools.partial(setup.model.sample, state)

    def measure(run: loop.Run) -> dict[str, Any]:
        count(1 / setup.epochs)
        epoch = len(run.history)
        due = epoch * POINTS // setup.epochs > (epoch - 1) * POINTS // setup.epochs
        if in_training is not None and due:
            for state, curve in zip(harness.members(run), curves, strict=True):
                point = point_of_curve(in_training, sample_of(state))
                if np.isfinite(list(point.values())).all():  # it has not diverged
                    curve.append({"share": epoch / setup.epochs} | point)
        return {}

    try:
        options: Any = {"epochs": setup.epochs, "batch_size": setup.batch_size, "devices": 1}
        options |= {"progress": False, "measure": measure}
        trained = population.train_population(
            setup.model, setup.config, setup.data, list(seeds), **options
        )
        states = harness.members(trained)
    except NonFiniteError:
        states = []
    labels = wanted if recipe.conditional else None
    for i, curve in enumerate(curves):
        entry: dict[str, Any] = {"curve": curve} if curve else {}
        entry["scores"] = dict.fromkeys(recipe.samplings)
        pictured = np.zeros((PICTURED, *train.images.shape[1:]), np.uint8)
        for sampling, fields in recipe.samplings.items() if states else ():
            config = dataclasses.replace(states[i].config, **fields)
            sample = sample_of(states[i].replace(config=config))
            try:
                drawn = evaluation.draw(sample, jax.random.key(1), len(wanted), labels)
            except NonFiniteError:
                continue
            entry["scores"][sampling] = scores(references, drawn, labels)
            # Not the first ones of all seeds: diffusion models of other seeds make nearly equal
            # images of equal latents.
            pictured = drawn[seeds[i] * PICTURED :][:PICTURED]
        yield entry, pictured


def has_curve(name: str) -> bool:
    return name in CURVES or name not in NAMES


def point_of_curve(reference: evaluation.Reference, sample: evaluation.Sample) -> dict[str, float]:
    """The scores of samples in training, by their short names."""
    found = evaluation.evaluate_in_training(reference, sample, jax.random.key(2))
    return {key.partition("(")[0]: value for key, value in found.items()}


def scores(
    references: list[evaluation.Reference], images: np.ndarray, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """All scores of images, by each judge; with their wanted classes also those by class."""
    found: dict[str, Any] = {}
    for reference in references:
        features = reference.extractor.extract(images)
        found |= evaluation.evaluate(reference, features)
        if labels is not None:
            found |= evaluation.evaluate_classes(reference, features, labels)
    return found


def measure_times(
    names: list[str], train: data.Dataset, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """The seconds of a training and of args.num samples, for each recipe, by turns of all."""
    training, sampling = {}, {}
    for name in names:
        setup = prepare(name, train, args)
        state = setup.model.create_state(jax.random.key(0), setup.config)
        some = {k: v[: setup.batch_size * STRETCH] for k, v in setup.data.items()}
        mine = jax.tree.map(jnp.copy, state)  # training donates it
        one = harness.make_trainer(mine, some, setup.batch_size, setup.model.train_step)
        epochs = setup.epochs * len(train.images) / len(some["image"])
        training[name] = lambda one=one, epochs=epochs: one(1) * epochs
        for label, fields in args.known[name].samplings.items():
            other = state.replace(config=dataclasses.replace(setup.config, **fields))

            def draw(state: Any = other, model: Model = setup.model) -> float:
                run = lambda: np.asarray(model.sample(state, jax.random.key(0), SAMPLED))  # noqa: E731
                return harness.seconds_of(run) / SAMPLED * args.num

            sampling[name, label] = draw
    harness.in_turns(training | sampling, 1, "compiling: ")
    trained = harness.in_turns(training, ROUNDS, "times of training: ")
    sampled = harness.in_turns(sampling, SAMPLING_ROUNDS, "times of sampling: ")
    times: dict[str, dict[str, Any]] = {
        name: {"training": harness.spread(trained[name])["median"], "sampling": {}}
        for name in names
    }
    for (name, label), seconds in sampled.items():
        times[name]["sampling"][label] = harness.spread(seconds)["median"]
    return times


def table(
    floor: Mapping[str, Any], rows: Mapping[str, Any], times: Mapping[str, Any], judge: str
) -> str:
    """A line for each recipe and way of sampling, and one for real images."""
    columns = ("fd", "precision", "recall", "density", "coverage", "memorisation", "class_accuracy")

    def short(found: Mapping[str, Any]) -> dict[str, Any]:
        names = {name.partition("(")[0]: name for name in found if f"({judge}," in name}
        return {column: found[names[column]] for column in columns if column in names}

    lines: list[dict[str, Any]] = [{"recipe": "real images", **short(floor)}]
    for name, row in rows.items():
        for sampling in row["runs"][0]["scores"]:
            each = [run["scores"][sampling] for run in row["runs"]]
            each = [short(found) for found in each if found is not None]
            line: dict[str, Any] = {"recipe": f"{name} {sampling}".strip()}
            for column in columns:
                if values := [one[column] for one in each if column in one]:
                    line[column] = mean_interval(values)
            if len(each) < len(row["runs"]):
                line["recipe"] += f" ({len(row['runs']) - len(each)} diverged)"
            if name not in PLAIN:
                line["training"] = times[name]["training"]
                line["sampling"] = times[name]["sampling"][sampling]
            lines.append(line)
    titles = "recipe recipe, fd distance, precision precision, recall recall, density density, "
    titles += "coverage coverage, memorisation memorisation, class_accuracy in class, "
    return harness.table(titles + "training training, sampling sampling", lines)


def draw_curves(rows: Mapping[str, Any], times: Mapping[str, Any]) -> Any:
    """A figure of the Fréchet distance and the recall over the seconds of training.

    Runs that diverged are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for i, name in enumerate(filter(has_curve, rows)):
        curves = [run.get("curve", []) for run in rows[name]["runs"]]
        curves = [curve for curve in curves if len(curve) == max(map(len, curves))]
        if not curves[0]:
            harness.note(f"{name} has no curve: train it again, with another --json")
            continue
        seconds = [point["share"] * times[name]["training"] for point in curves[0]]
        for axes, score in zip(panels, ("fd", "recall"), strict=True):
            values = np.array([[point[score] for point in curve] for curve in curves])
            axes.plot(seconds, values.T, color=f"C{i}", alpha=0.3, linewidth=0.8)
            axes.plot(seconds, np.median(values, axis=0), color=f"C{i}", marker=".", label=name)
    for axes, title in zip(panels, ("Fréchet distance", "recall"), strict=True):
        axes.set(xlabel="seconds of training", ylabel=title)
    panels[0].set_yscale("log")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    harness.main(main)
