"""The presets side by side on Fashion-MNIST: whole runs of five seeds, by two judges.

The second judge, of another shape and seed, had no part in the search for the presets
(benchmarks/search.py). Each run is written to --json when it ends, with samples beside it in an
.npz; given again, the command goes on with the runs that are missing. At the end all presets train
some steps in turns, for their time beside the reference's. Nothing else should run meanwhile.
"""

import argparse
import dataclasses
import io
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from remedies import add_data_options, picture
from steps_per_second import machine, time_epochs

from jaxgan import PRESETS, GANConfig, create_state, data, evaluation, population
from jaxgan.checkpoint import write_atomically
from jaxgan.errors import NonFiniteError
from jaxgan.metrics.classifier import BUNDLED

SHOWN = ("fd", "precision", "recall", "density", "coverage")
PICTURED = 4
"""Samples of each seed in the picture."""
ROUNDS, STRETCH = 9, 100
"""Rounds in which the presets take turns, and steps of each in a round."""


def main() -> None:
    args = parse()
    about = {"command": shlex.join(["python", *sys.argv]), **machine()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    train = data.load(args.dataset, data_dir=args.data_dir)
    unseen = data.load(args.dataset, "test", args.data_dir)
    found = json.loads(args.json.read_text()) if args.json.exists() else {}
    rows, path = found.get("rows", []), args.json.with_suffix(".npz")
    for row in rows:
        if row["settings"] != settings(row["preset"], train.images, args):
            sys.exit(
                f"error: {args.json} has {row['preset']} with other settings: choose another --json"
            )
    references = {
        judge: evaluation.make_reference(evaluation.make_extractor(train, judge), train, None)
        for judge in args.judges
    }
    pictures: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    n = min(args.num, len(unseen.images))
    floor = scored(references, unseen.images[:n])
    print_row("real images", [floor])
    for preset in args.presets:
        row = next((row for row in rows if row["preset"] == preset), None)
        if row is None:
            row = {"preset": preset, "settings": settings(preset, train.images, args), "runs": []}
            rows.append(row)
            rows.sort(key=lambda row: [*PRESETS].index(row["preset"]))
        for seed in range(len(row["runs"]), args.seeds):
            run, drawn = train_run(preset, seed, train.images, references, n, args)
            row["runs"].append(run)
            before = pictures.get(preset, drawn[:0])
            pictures[preset] = np.concatenate([before[: seed * PICTURED], drawn])
            file = io.BytesIO()
            np.savez_compressed(file, **pictures)
            # First: a run that is there has its pictures.
            write_atomically(path, file.getvalue())
            write(args.json, about, floor, rows)
        print_row(preset, [run["scores"] for run in row["runs"]])
    for preset, times in measured_times(train.images, args).items():
        row = next(row for row in rows if row["preset"] == preset)
        row["time_beside_reference"] = statistics.median(times)
        print(f"{preset}: {row['time_beside_reference']:.2f} of the reference's time for a run")
    write(args.json, about, floor, rows)
    if args.picture:
        write_atomically(args.picture, picture(args.presets, pictures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", help=f"comma-separated, of: {', '.join(PRESETS)}")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, help="default: those of the preset")
    parser.add_argument("--num", type=int, default=evaluation.SAMPLES, help="samples of each seed")
    parser.add_argument("--judges", help=f"names or files; default: {', '.join(BUNDLED)}")
    add_data_options(parser)
    parser.add_argument("--json", type=Path, default=Path("runs/recipes.json"), help="the rows")
    parser.add_argument("--picture", type=Path, help="write samples of each preset to this PNG")
    args = parser.parse_args()
    args.presets = args.presets.split(",") if args.presets else [*PRESETS]
    args.judges = args.judges.split(",") if args.judges else [*BUNDLED]
    for preset in args.presets:
        if preset not in PRESETS:
            parser.error(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    if args.seeds < 1:
        parser.error("--seeds must be above 0")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    return args


def make_config(preset: str, images: np.ndarray) -> GANConfig:
    return dataclasses.replace(PRESETS[preset][0], image_shape=images.shape[1:])


def settings(preset: str, images: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    reference, fields = vars(GANConfig()), vars(make_config(preset, images))
    described = {name: value for name, value in fields.items() if value != reference[name]}
    training = PRESETS[preset][1]
    described |= {
        "epochs": args.epochs or training.epochs,
        "batch_size": training.batch_size,
        "dataset": args.dataset,
        "num": args.num,
        "judges": args.judges,
    }
    # As they come back from the file.
    return json.loads(json.dumps(described))


def train_run(
    preset: str,
    seed: int,
    images: np.ndarray,
    references: dict[str, evaluation.Reference],
    n: int,
    args: argparse.Namespace,
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains a GAN: what is written of it, and PICTURED of its samples."""
    described = settings(preset, images, args)
    run = population.train_population(
        make_config(preset, images),
        images,
        [seed],
        epochs=described["epochs"],
        batch_size=described["batch_size"],
        devices=1,
    )
    try:
        drawn = evaluation.draw(population.member(run.state, 0), jax.random.key(1), n)
        scores = scored(references, drawn)
    except NonFiniteError:
        drawn, scores = np.zeros((PICTURED, *images.shape[1:]), np.uint8), None
    seconds = sum(epoch["seconds"] for epoch in run.history)
    return {"seed": seed, "seconds": seconds, "scores": scores}, drawn[:PICTURED]


def scored(references: dict[str, evaluation.Reference], images: np.ndarray) -> dict[str, Any]:
    """All scores of images, by each judge."""
    scores = {}
    for reference in references.values():
        scores |= evaluation.evaluate(reference, reference.extractor.see(images))
    return scores


def measured_times(images: np.ndarray, args: argparse.Namespace) -> dict[str, list[float]]:
    """The time of a preset's run beside the reference's, by that of its steps in each round."""
    rng = jax.random.key(0)
    presets = dict.fromkeys(("reference", *args.presets))
    states = {p: create_state(rng, make_config(p, images)) for p in presets}
    times: dict[str, list[float]] = {preset: [] for preset in presets}
    for i in range(ROUNDS + 1):
        for preset, state in states.items():
            training = PRESETS[preset][1]
            some = jax.device_put(images[: training.batch_size * STRETCH])
            states[preset], seconds = time_epochs(state, some, rng, training.batch_size, 1)
            epochs = args.epochs or training.epochs
            # The first time it is compiled.
            times[preset] += [seconds / len(some) * len(images) * epochs] if i else []
    beside = times["reference"]
    return {
        preset: [time / other for time, other in zip(times[preset], beside, strict=True)]
        for preset in args.presets
    }


def write(path: Path, about: dict, floor: dict, rows: list[dict]) -> None:
    content = about | {"real images": floor, "rows": rows}
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def print_row(name: str, scores: list[dict[str, Any] | None]) -> None:
    """Medians over the seeds, and in brackets the least and the most."""
    sound = [score for score in scores if score is not None]
    print(f"{name}: {len(sound)} of {len(scores)} seeds" if len(scores) > 1 else f"{name}:")
    for label in sound[0] if sound else ():
        if label.partition("(")[0] in SHOWN:
            values = [score[label] for score in sound]
            spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
            print(f"  {label:44} {statistics.median(values):.3g}{spread}", flush=True)


if __name__ == "__main__":
    main()
