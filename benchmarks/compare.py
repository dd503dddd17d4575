"""Steps per second of the reference GAN in jaxgan and in other libraries, measured in turns.

Each peer is a process that loads, compiles and trains two epochs, and then waits. In each round all
of them train whole epochs for about --seconds, one after the other. A step is the same for all: a
shuffled batch of Fashion-MNIST from memory, both networks updated at once, four metrics summed.
jaxgan also computes what its failure detectors need. The losses are means over the first epoch:
they show that a peer learns.

"bound" is no peer: it is the matrix products of a step alone, in XLA. "large-product" multiplies
matrices of 2048 x 2048 float32, as a measure of the machine. Printed are medians over the rounds,
also of the rate divided by that of jaxgan in the same round.

It takes about five minutes on two CPU cores. Nothing else should run at the same time. For the
peers: pip install -e '.[peers]'
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Several processes share one GPU: none may take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import harness
import numpy as np
from peers.program import PeerError
from peers.worker import Worker

COLUMNS = (
    "name peer, steps_per_second steps/s, min min, max max, ratio_to_jaxgan to jaxgan, gflop "
    "GFLOP/step, gflop_per_second GFLOP/s, gen_loss gen loss, disc_loss disc loss, about with"
)


class Peer(NamedTuple):
    module: str
    """In peers/."""
    variant: str = ""
    needs: tuple[str, ...] = ()
    """Packages beside those of jaxgan."""


KERAS, TORCH = ("keras", "tensorflow"), ("torch",)
PEERS = {
    "jaxgan": Peer("jaxgan_epoch"),
    "bound": Peer("matmul_bound", "step"),
    "large-product": Peer("matmul_bound", "large"),
    "jax": Peer("plain_jax"),
    "keras": Peer("keras_tensorflow", "graph", KERAS),
    "keras-xla": Peer("keras_tensorflow", "xla", KERAS),
    "pytorch": Peer("pytorch", "eager", TORCH),
    "pytorch-compile": Peer("pytorch", "compile", TORCH),
    "pytorch-cuda-graph": Peer("pytorch", "cuda-graph", TORCH),
    "pytorch-compile-cuda-graph": Peer("pytorch", "compile cuda-graph", TORCH),
}


def main() -> None:
    parser = harness.make_parser(__doc__, data="fashion", rounds=5, seconds=3.0, batch_size=128)
    text = f"some of: {', '.join(PEERS)} (default: all)"
    parser.add_argument(
        "--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=text
    )
    args = parser.parse_args()
    images, source = harness.find_images(args.data_dir)
    if args.batch_size > len(images):
        parser.error(f"--batch-size must be from 1 to the {len(images)} images")
    named = {"batch_size": args.batch_size, "rounds": args.rounds, "seconds": args.seconds}
    header = harness.about(images=source, **named)
    results = compare(args.only, images, **named)
    report(results)
    harness.write_json(args.json, header | {"peers": results})


def compare(
    names: Sequence[str], images: np.ndarray, batch_size: int, rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """For each peer what it says of itself and its rates, or its problem."""
    results: dict[str, dict[str, Any]] = {name: {} for name in names}

    def noting_problems(name: str, run: Callable[[], Any]) -> Any:
        """What `run` returns. The problem of one peer does not stop the others."""
        try:
            return None if "problem" in results[name] else run()
        except PeerError as error:
            results[name]["problem"] = str(error)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "images.npy"
        np.save(path, images)

        def start(name: str) -> Callable[[], float | None]:
            worker = Worker(*PEERS[name], path, batch_size)
            stack.callback(worker.close)
            results[name] |= worker.about
            return lambda: noting_problems(name, lambda: worker.train(seconds))

        programs = {}
        for name in names:
            harness.note(f"starting {name}")
            programs[name] = noting_problems(name, lambda name=name: start(name))
        programs = {name: program for name, program in programs.items() if program}
        for name, rates in harness.in_turns(programs, rounds).items():
            results[name]["rates"] = [rate for rate in rates if rate is not None]
    return results


def report(results: dict[str, dict[str, Any]]) -> None:
    """Adds to each result what follows from its rates, and prints a table."""
    whole = {name: result for name, result in results.items() if "problem" not in result}
    for name, result in whole.items():
        found = harness.spread(result["rates"])
        result |= {"steps_per_second": found["median"], "min": found["min"], "max": found["max"]}
        if "jaxgan" in whole and name != "large-product":
            result["ratio_to_jaxgan"] = harness.ratio(result["rates"], whole["jaxgan"]["rates"])
        if result["gflop"]:
            result["gflop_per_second"] = result["gflop"] * result["steps_per_second"]
    rows = [
        {"name": name, **result, "about": result.get("problem") or result["about"]}
        for name, result in results.items()
    ]
    print(harness.table(COLUMNS, rows))
    if "ratio_to_jaxgan" in results.get("bound", {}):
        percent = 100 / results["bound"]["ratio_to_jaxgan"]
        print(f"jaxgan runs at {percent:.0f}% of the rate of the products alone")


if __name__ == "__main__":
    harness.main(main)
