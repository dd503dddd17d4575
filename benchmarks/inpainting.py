"""Which method fills in missing pixels best? The table compares generative and plain methods.

The images are test images, by default of Fashion-MNIST. Missing are the centre, the lower half, or
80% of the pixels at random. Plain methods learn from the training images:

- neighbours: the ten training images with the nearest known pixels.
- Gaussian: the conditional distribution of one Gaussian of all pixels.
- regression: an MLP from the known pixels to the missing ones, with least squares. It has no draws.

Each other method is a run of scripts/train.py. Columns:

- The root mean squared error (RMSE; black is 0, white is 1) of a draw and of the mean of all draws.
- The Fréchet distance of the first draws and of the means from the original images.
- Seconds for a draw of an image.
- Calibration: the squared error of the mean of k draws, divided by that of a draw, divided by
  (1 + 1/k) / 2. It is 1 if draws have the conditional distribution, and above 1 if they vary too
  little.

Neighbours has ten draws. The one image of the regression counts as a draw.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import harness
import jax
import numpy as np

from jaxgan import MODELS, data
from jaxgan.data.pixels import to_uint8
from jaxgan.metrics import evaluation
from jaxgan.metrics.frechet import frechet_distance
from jaxgan.run import saved
from jaxgan.uses import inpainting

NEIGHBOURS, EPOCHS = 10, 20
"""Nearest training images, and passes of the regression over the training images."""
PICTURED = 12
"""Images in the picture."""
MASKS = ("centre", "lower", "random")
PLAIN = ("neighbours", "Gaussian", "regression")
COLUMNS = (
    "mask mask, method method, rmse RMSE of a draw, mean_rmse of the mean, fd distance of draws, "
    "mean_fd of means, seconds seconds, calibration calibration"
)
Fill = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""`(images, known, draws) -> [draws or 1, N, H, W, C]`, all in [0, 1]; known is bool
`[N, H, W, C]`."""


def main() -> None:
    args = parse()
    header = harness.about()
    train = data.load(args.dataset, "train", args.data_dir)
    test = data.load(args.dataset, "test", args.data_dir)
    images = test.images[: args.num].astype(np.float32) / 255
    real = train.images.astype(np.float32) / 255
    extractor = evaluation.make_extractor(train)
    originals = extractor.extract(test.images[: args.num]).features
    fills: dict[str, Fill] = {"neighbours": neighbours(real), "Gaussian": gaussian(real)}
    fills["regression"] = regression(real)
    fills |= {path: of_run(path) for path in args.runs}
    rows = harness.Rows(args.json, header, ("mask", "method"), order(args))
    more = {"dataset": args.dataset, "num": args.num, "draws": args.draws}
    wanted = {f"{mask} {name}": more for mask in MASKS for name in fills}

    def measure(key: str) -> tuple[dict[str, Any], np.ndarray]:
        mask, _, name = key.partition(" ")
        missing = inpainting.make_missing(mask, *images.shape[:3])[..., None]
        known = np.broadcast_to(~missing, images.shape)
        started = time.perf_counter()
        draws = fills[name](images, known, args.draws)
        seconds = (time.perf_counter() - started) / len(draws) / len(images)
        draws = np.where(known, images, draws)
        row: dict[str, Any] = {"mask": mask, "method": name, "seconds": seconds}
        for prefix, found in (("", draws), ("mean_", draws.mean(axis=0)[None])):
            row[f"{prefix}rmse"] = rmse(found, images, ~known)
            features = extractor.extract(to_uint8(found[0] * 2 - 1)).features
            row[f"{prefix}fd"] = frechet_distance(originals, features)
        if (k := len(draws)) > 1:
            row["calibration"] = (row["mean_rmse"] / row["rmse"]) ** 2 / ((1 + 1 / k) / 2)
        return row, to_uint8(draws[0, :PICTURED] * 2 - 1)

    found = rows.complete(wanted, measure)
    print(harness.table(COLUMNS, found))
    if args.picture and (samples := rows.samples(found)):
        rows_shown = {"original": test.images[:PICTURED]} | samples
        harness.save_picture(args.picture, harness.draw_rows(rows_shown))


def parse() -> argparse.Namespace:
    numbers = {"num": 2_000, "draws": 4}
    parser = harness.make_parser(__doc__, "inpainting.json", "any", **numbers)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders on the same data set")
    return parser.parse_args()


def order(args: argparse.Namespace) -> list[str]:
    return [f"{mask} {name}" for mask in MASKS for name in (*PLAIN, *args.runs)]


def rmse(filled: np.ndarray, images: np.ndarray, missing: np.ndarray) -> float:
    return float(np.sqrt(np.square(filled[:, missing] - images[missing]).mean()))


def neighbours(real: np.ndarray) -> Fill:
    flat = real.reshape(len(real), -1)
    squares = np.square(flat)

    def fill(images: np.ndarray, known: np.ndarray, draws: int) -> np.ndarray:
        found = []
        for image, mask in zip(images, known, strict=True):
            seen = mask.ravel().astype(np.float32)
            distances = squares @ seen - 2 * flat @ (seen * image.ravel())
            near = np.argpartition(distances, NEIGHBOURS)[:NEIGHBOURS]
            found.append(real[np.random.default_rng(0).permutation(near)])
        return np.stack(found, axis=1)

    return fill


def gaussian(real: np.ndarray) -> Fill:
    flat = real.reshape(len(real), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    covariance = np.cov(flat.T) + 1e-5 * np.eye(len(mean))

    def fill(images: np.ndarray, known: np.ndarray, draws: int) -> np.ndarray:
        rng, filled = np.random.default_rng(0), np.repeat(images[None], draws, axis=0)
        flat = filled.reshape(draws, len(images), -1)
        solved: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        for i, mask in enumerate(known.reshape(len(known), -1)):
            if mask.tobytes() not in solved:
                across = covariance[np.ix_(~mask, mask)]
                gain = np.linalg.solve(covariance[np.ix_(mask, mask)], across.T).T
                rest = covariance[np.ix_(~mask, ~mask)] - gain @ across.T
                solved = {mask.tobytes(): (gain, np.linalg.cholesky(rest))}
            gain, root = solved[mask.tobytes()]
            expected = mean[~mask] + gain @ (flat[0, i, mask] - mean[mask])
            noise = rng.normal(size=(draws, len(root)))
            flat[:, i, ~mask] = np.clip(expected + noise @ root.T, 0, 1)
        return filled

    return fill


def regression(real: np.ndarray) -> Fill:
    from sklearn.neural_network import MLPRegressor

    def inputs(images: np.ndarray, known: np.ndarray) -> np.ndarray:
        seen = np.where(known, images, 0).reshape(len(images), -1)
        return np.concatenate([seen, known.reshape(len(images), -1)], axis=1, dtype=np.float32)

    def fill(images: np.ndarray, known: np.ndarray, draws: int) -> np.ndarray:
        # Masks of training images are those of the test images, in turn.
        masks = known[np.arange(len(real)) % len(known)]
        options: dict[str, Any] = {"batch_size": 256, "random_state": 0}
        network: Any = MLPRegressor(hidden_layer_sizes=(512, 512), **options)
        given, wanted = inputs(real, masks), real.reshape(len(real), -1)
        for _ in range(EPOCHS):
            network.partial_fit(given, wanted)
        found = network.predict(inputs(images, known)).reshape(images.shape)
        return np.clip(found, 0, 1)[None]

    return fill


def of_run(path: str) -> Fill:
    model = saved.find_model(path, MODELS)
    state, _ = saved.load_state(model, path)

    def fill(images: np.ndarray, known: np.ndarray, draws: int) -> np.ndarray:
        rng = jax.random.key(0)
        found = inpainting.inpaint(model, state, images * 2 - 1, known[..., 0], rng, draws)
        return (found + 1) / 2

    return fill


if __name__ == "__main__":
    harness.main(main)
