"""A run with differential privacy: its plan, its secret and its privacy.json.

The secret is a random key. From it come the noise and the images of each step. Whoever has the
secret can take the noise away. So it is not the seed, and the run deletes it at its end.
"""

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgan import privacy, schedules
from jaxgan.data.dataset import Dataset
from jaxgan.data.pixels import to_uint8
from jaxgan.errors import JaxganError
from jaxgan.files import disk_errors, write_atomically
from jaxgan.labels import num_classes
from jaxgan.model import Model, Private
from jaxgan.privacy import Mechanism
from jaxgan.processes import agree, is_first, together
from jaxgan.run import loop
from jaxgan.run.devices import Layout
from jaxgan.run.members import make_runs
from jaxgan.run.settings import TrainConfig

SECRET = "secret.key"
"""The file of the secret in a run folder."""
_PUBLIC = (
    "the number of images and their shape",
    "all settings of the run, and what they were chosen by",
    "neighbouring data sets differ by one image, which is added or removed",
    "sums are computed in float32; their rounding is not counted",
    "noise is drawn in float32 by jax's threefry2x32, from 64 random bits of the system",
)
_START_SHARE = 1 / 3
"""The Gaussians of a start get this share of the run's epsilon."""
_START_BATCH, _START_SAMPLES = 256, 256 * 234
_START_PARTS = 18
"""The samples are drawn in so many parts. Each finds the eigenvectors anew."""
_START = 2**31 + 2
"""Folded into the key of the first member, for the Gaussians of a start."""
_LEFT_OUT = ("real.png", "scores, verdict and diagnosis", "losses on real images", "best members")


class Plan(NamedTuple):
    """How a run reaches its budget."""

    epsilon: float
    delta: float
    mechanism: Mechanism
    """Of the whole run, for one member of a population."""
    places: int
    """Of the batches, whose sizes are random."""
    members: int
    assumptions: tuple[str, ...]
    config: Any
    """The config of the model, with its noise."""
    unset: tuple[str, ...]
    """The fields of this config that only private training sets."""
    start: Mechanism | None
    """The mechanism of the Gaussians of `start_from_gaussians`, or None."""
    gaussians: Model | None
    """Their Model."""

    def described(self) -> dict[str, Any]:
        """The mechanisms, for config.json."""
        start = {} if self.start is None else {"start": self.start._asdict()}
        return self.mechanism._asdict() | start

    def spent(self, steps: int) -> float:
        """The epsilon of this many steps, and of the start."""
        return privacy.epsilon(self.mechanism._replace(steps=steps), _most(self.delta), self.start)

    def lines(self) -> list[str]:
        """What the run does for its budget, for people."""
        rate, noise, steps = self.mechanism
        each = f" for each of {self.members} members" if self.members > 1 else ""
        taken = "all images" if rate == 1 else f"a random {rate:.2%} of the images"
        return [
            f"differential privacy: epsilon {self.epsilon:g}, delta {self.delta:g}{each}; "
            f"{steps:,} step{'s' * (steps != 1)} over {taken}, noise multiplier {noise:.3g}",
            *(["before that, epochs on samples of private Gaussians"] if self.start else []),
        ]


def without_real(model: Model) -> Model:
    """The model of a private run: it shows and diagnoses nothing that needs real images."""
    if model.private is None:
        raise JaxganError(
            f"the model {model.name} cannot be trained with differential privacy: leave out epsilon"
        )
    return model._replace(
        curves=model.curves if model.private.curves is None else model.private.curves,
        diagnose=None,
        diagnosis_curves=(),
        equilibrium=lambda config: {},
        equilibrium_distance=None,
    )


def make_plan(
    model: Model,
    config: Any,
    settings: TrainConfig,
    n: int,
    members: int,
    gaussians: Model | None = None,
) -> Plan:
    """The Plan of a run that has an epsilon.

    Args:
      model: of the run.
      config: of the model, fitted to the data.
      settings: of the run, fitted to the data.
      n: the number of images.
      members: of the population.
      gaussians: the Model for `settings.start_epochs`.

    Raises:
      JaxganError: if the budget cannot be reached, or if settings contradict it.
    """
    wanted, delta, steps = settings.epsilon, settings.delta, settings.all_steps(n)
    if model.private is None or wanted is None:
        raise JaxganError(f"the model {model.name} has no private training")
    _check(model, model.private, config, settings, n)
    start = None
    if settings.start_epochs:
        if gaussians is None:
            raise JaxganError("start_epochs needs the model of the Gaussians: give `gaussians`")
        share = privacy.noise_multiplier(_START_SHARE * wanted, _most(delta), 1.0, 1)
        start = Mechanism(1.0, _rounded(share), 1)
    rate = _rate(settings.batch_size, n)
    noise = _rounded(privacy.noise_multiplier(wanted, _most(delta), rate, steps, start))
    if noise > settings.batch_size:
        raise JaxganError(_unreachable(settings, noise, rate, steps, start))
    unset = {k: v for k, v in model.private.settings.items() if not getattr(config, k)}
    config = dataclasses.replace(config, noise_multiplier=noise, **unset)
    scale = "pixels are from 0 to 255" if config.bounded else "vectors were scaled without the data"
    assumptions = [*_PUBLIC, f"the range of their values: {scale}"]
    classes = num_classes(config)
    if classes:
        assumptions.append(f"the number of classes, {classes}, and their names")
    mechanism = Mechanism(rate, noise, steps)
    return Plan(
        wanted,
        delta,
        mechanism,
        _places(mechanism, n, wanted, delta, members),
        members,
        tuple(assumptions),
        config,
        tuple(model.private.settings),
        start,
        gaussians,
    )


def _check(model: Model, of: Private, config: Any, settings: TrainConfig, n: int) -> None:
    """Raises JaxganError if settings contradict epsilon."""
    delta, steps = settings.delta, settings.all_steps(n)
    for name in ("evaluate_every", "stop_on_failure"):
        if getattr(settings, name):
            raise JaxganError(
                f"{name} looks at real images, and epsilon does not count that: leave it out"
            )
    if config.noise_multiplier:
        raise JaxganError("noise_multiplier follows from epsilon: give one of them")
    if delta >= 1 / n:
        raise JaxganError(
            f"delta must be below 1 / {n}, where {n} is the number of images: with delta {delta:g} "
            "a private run may reveal a whole image"
        )
    if not steps:
        raise JaxganError("a private run needs at least one step: give --epochs or --steps")
    if of.most_steps is not None and settings.start_epochs:
        raise JaxganError(f"{model.name} needs no start: leave out start_epochs")
    if of.most_steps is not None and steps > of.most_steps:
        raise JaxganError(
            f"{model.name} takes {of.most_steps} step over all images: leave out --steps, "
            "--epochs and --batch-size with epsilon"
        )


def _rounded(noise: float) -> float:
    """Rounded up, so that another machine finds the same."""
    return math.ceil(noise * 1e4) / 1e4


def _unreachable(
    settings: TrainConfig, noise: float, rate: float, steps: int, start: Mechanism | None
) -> str:
    """Why an epsilon cannot be reached, and what can."""

    def reached(steps: int) -> bool:
        most = Mechanism(rate, settings.batch_size, steps)
        return privacy.epsilon(most, _most(settings.delta), start) <= (settings.epsilon or 0)

    low, high = 0, steps
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (middle, high) if reached(middle) else (low, middle)
    what = "take a larger epsilon"
    if low:
        what = f"take at most {low:,} steps (--steps), or a larger epsilon"
    elif rate < 1:
        what = "take larger batches (--batch-size), or a larger epsilon"
    return (
        f"epsilon {settings.epsilon:g} cannot be reached in {steps:,} steps with batches of "
        f"{settings.batch_size}: the noise would be {noise:,.0f} times what one image adds, which "
        f"is more than a whole batch; {what}"
    )


def _rate(batch_size: int, n: int) -> float:
    """The probability with which a step takes an image: that of float32, in steps of 2**-23."""
    return min(1.0, math.ceil(float(np.float32(batch_size / n)) * 2**23) / 2**23)


def _places(mechanism: Mechanism, n: int, wanted: float, delta: float, members: int = 1) -> int:
    """The number of places. That a batch needs more is so improbable that delta covers it.

    A batch that needs more loses images. So the run differs from a private one with a small
    probability t, and has (epsilon, delta + (1 + e^epsilon) t). Several members together have at
    most their epsilon in sum.
    """
    from scipy import stats

    rate, _, steps = mechanism
    if rate == 1:
        return n
    all_steps = steps * members
    log_most = math.log(delta / 1000) - np.logaddexp(0, wanted * members) - math.log(all_steps)
    places = math.ceil(n * rate)
    while stats.binom.logsf(places, n + 1, rate) > log_most and places < n:
        places += max(1, math.isqrt(places) // 4)
    return min(places, n)


def _most(delta: float) -> float:
    """The delta of the mechanism. The rest, a thousandth, is for batches that are too large."""
    return 0.999 * delta


def secret_rngs(path: Path, shape: tuple[int, ...], digest: str) -> jax.Array:
    """Keys of this shape from the secret of a run folder, which a new run makes.

    Args:
      path: the run folder.
      shape: of the keys.
      digest: of the data. The file of the secret holds it too.

    Raises:
      JaxganError: if the run has begun and its secret is gone, or if the data have changed. With
        the same noise, the difference between two results would show what has changed.
    """
    file, words = path / SECRET, [0, 0, 0, 0]
    with together(f"read {file}"), disk_errors(path):
        if is_first():
            if not file.exists():
                if (path / "privacy.json").exists():
                    raise JaxganError(
                        f"{file} is gone. Without it the run would draw other noise, and repeat "
                        "steps that it has already paid for. Sample from its checkpoint, or begin "
                        "a new run with another --workdir"
                    )
                _write_secret(file, digest)
            try:
                key, before = file.read_text().split()
                words = np.frombuffer(bytes.fromhex(key), np.uint16, 4).tolist()
            except ValueError as error:
                raise JaxganError(f"{file} is damaged: it holds no key") from error
            if before != digest:
                raise JaxganError(
                    f"the data of {path} have changed: a private run must end on the data with "
                    "which it began; choose another --workdir"
                )
    # Other processes get it from the first one, in numbers that int32 holds.
    data = np.asarray(agree(words), np.uint16).view(np.uint32)
    rng = jax.random.wrap_key_data(jax.numpy.asarray(data), impl="threefry2x32")
    return jax.random.split(rng, shape)


def _write_secret(file: Path, digest: str) -> None:
    """Makes the file, which only its owner may read."""
    partial = file.with_name(f".{SECRET}.new")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:  # noqa: PTH123
        out.write(f"{secrets.token_hex(8)} {digest}\n")
        out.flush()
        os.fsync(out.fileno())
    partial.rename(file)


def draw_from_gaussians(plan: Plan, dataset: Dataset, rng: jax.Array) -> dict[str, np.ndarray]:
    """Fits private Gaussians to the real images. Returns samples of them, "image" and "label"."""
    gaussians, start = plan.gaussians, plan.start
    assert gaussians is not None
    assert start is not None
    fit_rng, sample_rng = jax.random.split(rng)
    classes = num_classes(plan.config)
    config = dataclasses.replace(
        gaussians.fit_to(gaussians.config(), dataset),
        num_classes=classes,
        noise_multiplier=start.noise_multiplier,
    )
    real = {"image": dataset.images} | ({"label": dataset.labels} if classes else {})
    state, _ = gaussians.train_step(gaussians.create_state(fit_rng, config), real, fit_rng)
    labels = np.arange(_START_SAMPLES, dtype=np.int32) % max(1, classes)
    parts = []
    for i, part_labels in enumerate(np.split(labels, _START_PARTS)):
        wanted = part_labels if classes else None
        rng = jax.random.fold_in(sample_rng, i)
        part = np.asarray(gaussians.sample(state, rng, len(part_labels), wanted))
        parts.append(to_uint8(part) if plan.config.bounded else part)
    return {"image": np.concatenate(parts)} | ({"label": labels} if classes else {})


def start_from_gaussians(
    plan: Plan,
    model: Model,
    settings: TrainConfig,
    dataset: Dataset,
    fresh: Any,
    rngs: jax.Array,
    layout: Layout,
    should_stop: Callable[[], bool],
) -> Any:
    """A state or a population that has learned from samples of private Gaussians.

    Only the parameters differ from `fresh`. All members learn from the same samples.

    Args:
      plan: of the run.
      model: of the run.
      settings: of the run.
      dataset: the real images.
      fresh: the initial state or population of the run.
      rngs: the secret keys of the run.
      layout: of the run.
      should_stop: as for `loop.fit`.
    """
    samples = draw_from_gaussians(plan, dataset, jax.random.fold_in(rngs.ravel()[0], _START))
    plain = type(plan.config)()
    unset = {name: getattr(plain, name) for name in ("noise_multiplier", *plan.unset)}
    steps = settings.start_epochs * (_START_SAMPLES // _START_BATCH)
    config = schedules.over(dataclasses.replace(plan.config, **unset), steps)
    runs = make_runs(model, config, settings)
    begun = loop.start_run(model.train_step, runs.create_state(), samples, _START_BATCH, layout)
    learned = runs.fit(
        model.train_step,
        begun,
        samples,
        runs.rngs.training,
        batch_size=_START_BATCH,
        epochs=settings.start_epochs,
        should_stop=should_stop,
        progress=is_first(),
        layout=layout,
    )

    # The two states have different configs. So their trees differ, and only leaves can be copied.
    own, structure = jax.tree.flatten_with_path(fresh)
    leaves = [
        new if {".params", ".ema"} & set(map(str, path)) else leaf
        for (path, leaf), new in zip(own, jax.tree.leaves(learned.state), strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


def end(path: Path) -> None:
    """Deletes the secret of a run that has taken its last step."""
    if is_first():
        with disk_errors(path):
            (path / SECRET).unlink(missing_ok=True)


def write_privacy(path: Path, plan: Plan, steps: int | None = None) -> Mapping[str, Any]:
    """Writes privacy.json, and returns its content.

    `steps` is what the run has taken. While it trains, it counts all its steps as spent.
    """
    rate, noise, all_steps = plan.mechanism
    steps = all_steps if steps is None else steps
    report = {
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "spent": {"steps": steps, "epsilon": plan.spent(steps)},
        "accountant": "privacy loss distributions, by dp-accounting (PLDAccountant)",
        "mechanism": {
            "noise_multiplier": noise,
            "sampling": "Poisson" if rate < 1 else "all images in each step",
            "sampling_rate": rate,
            "steps": all_steps,
        },
        "assumptions": list(plan.assumptions),
        "left out of this folder": list(_LEFT_OUT),
        "careful": [
            f"{SECRET} exists while the run trains; whoever has it can take the noise away",
            "scores of evaluate.py on the real images are not covered by epsilon",
        ],
    }
    if plan.start is not None:
        report["start"] = {
            "model": "Gaussians; the run has then learned from their samples",
            "noise_multiplier": plan.start.noise_multiplier,
            "sampling": "all images in one step",
        }
    if plan.members > 1:
        together_ = plan.mechanism._replace(steps=steps * plan.members)
        report["all members together"] = {
            "members": plan.members,
            "epsilon": privacy.epsilon(together_, _most(plan.delta), plan.start),
            "note": "the cost of publishing several members, or one that real images have chosen",
        }
    with disk_errors(path):
        write_atomically(path / "privacy.json", json.dumps(report, indent=2) + "\n")
    return report
