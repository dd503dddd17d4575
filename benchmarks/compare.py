"""Steps per second of the reference GAN in jaxgan and in its peers, measured in turn.

Each peer is a process of its own, which loads, compiles and trains two epochs, and then waits.
In each round all train for a while, one after the other, so that a slow moment of the machine hits
all; nothing else should run there meanwhile. A step is the same work for all: a shuffled batch of
Fashion-MNIST from memory, both networks updated at once, four metrics summed.

The losses are means over the first epoch: they show that a peer learns.

"bound" is no peer but the matrix products of a step alone, in XLA; "large product" one product of
2048 x 2048 float32 matrices. Of each peer the median rate over the rounds is printed, and the
median over the rounds of its rate divided by that of jaxgan in the same round.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# Several processes share one GPU: none may take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import numpy as np
from steps_per_second import find_images, machine
from tqdm import tqdm

WORKER = Path(__file__).parent / "peers" / "worker.py"

COLUMNS = {
    "steps_per_second": ("steps/s", ".1f"),
    "min": ("  min", ".1f"),
    "max": ("  max", ".1f"),
    "ratio_to_jaxgan": ("to jaxgan", ".2f"),
    "gflop": ("GFLOP/step", ".3f"),
    "gflop_per_second": ("GFLOP/s", ".1f"),
    "gen_loss": ("gen loss", ".2f"),
    "disc_loss": ("disc loss", ".2f"),
}


class Peer(NamedTuple):
    module: str
    """In peers/."""
    variant: str = ""
    needs: tuple[str, ...] = ()
    """Packages beyond those of jaxgan."""


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


WIDTH = max(map(len, PEERS))


class WorkerError(Exception):
    """A worker did not do what it was asked; the message says why, in one line."""


class Worker:
    """The process of one peer."""

    def __init__(self, peer: Peer, folder: Path, batch_size: int):
        missing = [need for need in peer.needs if importlib.util.find_spec(need) is None]
        if missing:
            raise WorkerError(f"skipped: needs {', '.join(missing)}: pip install -e '.[peers]'")
        self._errors = (folder / f"{peer.module} {peer.variant}.txt").open("w+")
        arguments = [peer.module, peer.variant, str(folder / "images.npy"), str(batch_size)]
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """Waits for the next one; the first comes unasked, once the peer is ready."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = (self._errors.read().strip() or "it says nothing").splitlines()[-1]
            raise WorkerError(f"failed: ended with exit code {self._process.wait()}: {last}")
        answer = json.loads(line)
        for problem in answer.keys() & {"skipped", "failed"}:
            raise WorkerError(f"{problem}: {answer[problem]}")
        return answer

    def train(self, seconds: float) -> float:
        """Trains for about so long; gives steps per second."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # the answer says more
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        answer = self.answer()
        return answer["steps"] / answer["seconds"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def main() -> None:
    args = parse_arguments()
    images, source = find_images(args.data_dir)
    if not 1 <= args.batch_size <= len(images):
        sys.exit(f"--batch-size must be from 1 to the {len(images)} images")
    about = {"command": shlex.join(["python", *sys.argv]), "images": source, **machine()}
    about |= {"batch_size": args.batch_size, "rounds": args.rounds, "seconds": args.seconds}
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images)
        results = compare(args, Path(folder))
    report(results)
    if args.json:
        args.json.write_text(json.dumps(about | {"peers": results}, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME",
        help=f"some of: {', '.join(PEERS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=3.0,
        help="about, of each peer in each round: whole epochs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--data-dir", help="where Fashion-MNIST is; else $JAXGAN_DATA_DIR")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    return args


def compare(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """What each peer says of itself and its steps per second in each round, or its problem."""
    results: dict[str, dict[str, Any]] = {name: {} for name in args.only}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in tqdm(args.only, "starting"):
            with noting_problem(results[name]):
                workers[name] = Worker(PEERS[name], folder, args.batch_size)
                stack.callback(workers[name].close)
                results[name] |= workers[name].answer()
                results[name]["rates"] = []
        for _ in tqdm(range(args.rounds), "rounds"):
            for name, worker in workers.items():
                if "problem" not in results[name]:
                    with noting_problem(results[name]):
                        results[name]["rates"].append(worker.train(args.seconds))
    return results


@contextlib.contextmanager
def noting_problem(result: dict[str, Any]):
    """One peer's problem does not keep the others from running."""
    try:
        yield
    except WorkerError as error:
        result["problem"] = str(error)


def summarize(name: str, result: dict[str, Any], reference: list[float]) -> None:
    """Adds to a result what follows from its rates and, if there are any, those of jaxgan."""
    rates = result["rates"]
    result["steps_per_second"] = statistics.median(rates)
    result["min"], result["max"] = min(rates), max(rates)
    if len(reference) == len(rates) and name != "large-product":
        ratios = (a / b for a, b in zip(rates, reference, strict=True))
        result["ratio_to_jaxgan"] = statistics.median(ratios)
    if result["gflop"]:
        result["gflop_per_second"] = result["gflop"] * result["steps_per_second"]


def report(results: dict[str, dict[str, Any]]) -> None:
    """Adds to each result what follows from its rates, and prints a table."""
    for name, result in results.items():
        if "problem" not in result:
            summarize(name, result, results.get("jaxgan", {}).get("rates", []))
    print("  ".join(["peer".ljust(WIDTH), *(title for title, _ in COLUMNS.values()), "with"]))
    for name, result in results.items():
        cells = [
            (f"{result[key]:{kind}}" if result.get(key) else "").rjust(len(title))
            for key, (title, kind) in COLUMNS.items()
        ]
        tail = [result["problem"]] if "problem" in result else [*cells, result["about"]]
        print("  ".join([name.ljust(WIDTH), *tail]))
    if "ratio_to_jaxgan" in results.get("bound", {}):
        percent = 100 / results["bound"]["ratio_to_jaxgan"]
        print(f"jaxgan runs at {percent:.0f}% of the rate of the products alone")


if __name__ == "__main__":
    main()
