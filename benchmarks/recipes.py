"""The presets on Fashion-MNIST: whole runs of five seeds, scored by two judges.

The second judge has another shape and seed; the search for the presets (search.py) did not use it.
Printed are medians over the seeds, and the range. real images: the scores of test images.

At the end all presets train some steps in turns: that gives the time of a run, divided by that of
the reference. Nothing else should run then.

Runs are written to --json one by one; a later call trains only those that are missing. On two CPU
cores a run of reference or tuned takes about two minutes, one of large about a quarter of an hour.
"""

import argparse
import dataclasses
from typing import Any

import harness
import jax
import numpy as np

from jaxgan import PRESETS, GANConfig, create_state, data, sample, schedules
from jaxgan.metrics import evaluation
from jaxgan.metrics.classifier import BUNDLED

PICTURED = 4
"""Samples of each seed in the picture."""
ROUNDS, STRETCH = 9, 100
"""Rounds in which the presets take turns, and steps of each in a round."""

References = dict[str, evaluation.Reference]


def main() -> None:
    args = parse()
    header = harness.about()
    train = data.load(args.dataset, data_dir=args.data_dir)
    test = data.load(args.dataset, "test", args.data_dir).images[: args.num]
    rows = harness.Rows(args.json, header, ("preset",), list(PRESETS))
    found = {}
    for preset in args.presets:
        described = settings(preset, train.images, args)
        row = rows.find(preset, described)
        found[preset] = row or {"preset": preset, "settings": described, "runs": []}
    missing = [(row, i) for row in found.values() for i in range(len(row["runs"]), args.seeds)]
    if missing:
        references = {
            judge: evaluation.make_reference(evaluation.make_extractor(train, judge), train, None)
            for judge in args.judges
        }
        rows.content["real images"] = score(references, test)
        for row, seed in missing:
            harness.note(f"training {row['preset']}, seed {seed}")
            run, drawn = train_run(row["preset"], seed, train.images, references, len(test), args)
            row["runs"].append(run)
            rows.put(row, drawn, seed * PICTURED)
    if args.times or any("time_beside_reference" not in row for row in found.values()):
        rows.content["times"] = header
        for preset, time in measured_times(train.images, args).items():
            found[preset]["time_beside_reference"] = time
        rows.write()
    print(table(rows.content["real images"], found))
    if args.picture and (samples := rows.samples(found.values())):
        real = {"real images": test[: PICTURED * args.seeds]}
        harness.save_picture(args.picture, harness.draw_rows(real | samples))


def parse() -> argparse.Namespace:
    parser = harness.make_parser(__doc__, "recipes.json", "any", seeds=5, num=evaluation.SAMPLES)
    harness.add_names(parser, "--presets", PRESETS)
    parser.add_argument("--epochs", type=harness.size, help="default: those of the preset")
    judges = ",".join(BUNDLED)
    parser.add_argument("--judges", default=judges, help="names or files; default: %(default)s")
    text = "measure the times again; without it only if some are missing"
    parser.add_argument("--times", action="store_true", help=text)
    args = parser.parse_args()
    args.judges = args.judges.split(",")
    return args


def prepare(
    preset: str, images: np.ndarray, args: argparse.Namespace
) -> tuple[GANConfig, dict[str, Any]]:
    """The GAN of a preset, and the length of its training."""
    config, training = PRESETS[preset]
    training = dataclasses.replace(training, epochs=args.epochs).fitted(len(images))
    config = dataclasses.replace(config, image_shape=images.shape[1:])
    config = schedules.over(config, training.all_steps(len(images)))
    return config, {"epochs": training.epochs, "batch_size": training.batch_size}


def settings(preset: str, images: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    config, length = prepare(preset, images, args)
    more = {"dataset": args.dataset, "num": args.num, "judges": args.judges}
    return harness.settings(config, **length, **more)


def train_run(
    preset: str,
    seed: int,
    images: np.ndarray,
    references: References,
    n: int,
    args: argparse.Namespace,
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains a GAN: its entry in the row, and PICTURED of its samples."""
    config, length = prepare(preset, images, args)
    run = harness.train(config, images, [seed], **length)
    if run is None:
        nothing = np.zeros((PICTURED, *images.shape[1:]), np.uint8)
        return {"seed": seed, "seconds": None, "scores": None}, nothing
    (state,) = harness.members(run)
    drawn = evaluation.draw(lambda rng, n: sample(state, rng, n), jax.random.key(1), n)
    seconds = sum(epoch["seconds"] for epoch in run.history)
    return {"seed": seed, "seconds": seconds, "scores": score(references, drawn)}, drawn[:PICTURED]


def score(references: References, images: np.ndarray) -> dict[str, Any]:
    """All scores of images, by each judge."""
    scores = {}
    for reference in references.values():
        scores |= evaluation.evaluate(reference, reference.extractor.extract(images))
    return scores


def measured_times(images: np.ndarray, args: argparse.Namespace) -> dict[str, float]:
    """The time of a run of each preset divided by that of the reference, by steps in turns."""

    def make_program(preset: str):
        config, length = prepare(preset, images, args)
        some = images[: length["batch_size"] * STRETCH]
        state = create_state(jax.random.key(0), config)
        train = harness.make_trainer(state, some, length["batch_size"])
        epochs = length["epochs"] * len(images) / len(some)
        return lambda: epochs * train(1)

    programs = {preset: make_program(preset) for preset in ("reference", *args.presets)}
    harness.in_turns(programs, 1, "compiling: ")
    times = harness.in_turns(programs, ROUNDS, "times: ")
    return {preset: harness.ratio(times[preset], times["reference"]) for preset in args.presets}


def table(floor: dict[str, Any], rows: dict[str, dict[str, Any]]) -> str:
    """A line for each score, a column for each preset."""
    scores = {
        preset: [run["scores"] for run in row["runs"] if run["scores"] is not None]
        for preset, row in rows.items()
    }
    lines: list[dict[str, Any]] = [
        {"score": name, "real": value}
        | {k: harness.spread([each[name] for each in v]) for k, v in scores.items() if v}
        for name, value in floor.items()
        if not isinstance(value, list) and not name.startswith("worst_class")
    ]
    whole = {k: f"{len(v)} of {len(rows[k]['runs'])}" for k, v in scores.items()}
    times = {k: row["time_beside_reference"] for k, row in rows.items()}
    lines += [{"score": "runs that did not diverge", **whole}, {"score": "time of a run", **times}]
    presets = ", ".join(f"{preset} {preset}" for preset in rows)
    return harness.table(f"score score, {presets}, real real images", lines)


if __name__ == "__main__":
    harness.main(main)
