"""`Model`: all that a run needs to know of a generative model.

A model is one file, such as `jaxgan/gan.py`, with its Model at the end. `jaxgan.run`,
`jaxgan.metrics` and `jaxgan.report` import no model: their callers pass one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxgan.history import History, Row, finite_members


class Curve(NamedTuple):
    """A panel of a figure: metrics over the epochs."""

    title: str
    """The label of the vertical axis."""
    metrics: Mapping[str, str]
    """The columns of the history, by their names in the legend."""
    limits: tuple[float, float] | None = None
    """The limits of the vertical axis; by default those of the data."""
    scale: str = "linear"
    """linear, log, or symlog: logarithmic, with a place for 0."""
    deviation: bool = False
    """Whether to draw a band of one standard deviation over the steps of an epoch. It follows from
    the columns NAME_square (`jaxgan.history`)."""
    healthy: tuple[float, float] | None = None
    """The range of a healthy run, which is shaded."""


class Column(NamedTuple):
    """A column of metrics.csv, in words."""

    meaning: str
    healthy: str = ""
    """What it is in a healthy run."""


class Finding(NamedTuple):
    """A failure that was seen in one run."""

    name: str
    """What failed, such as mode collapse."""
    epochs: tuple[int, ...]
    """The epochs at whose end it was seen, in order."""
    evidence: str
    """What was seen first, with the numbers."""
    remedies: tuple[str, ...]
    """What to try, as options of scripts/train.py, or in words."""
    meaning: str = ""
    """What this failure is, in one sentence for a beginner."""


class Diagnosis(NamedTuple):
    """What a history says of the health of a run."""

    findings: list[list[Finding]]
    """A list of failures for each member, in a fixed order. A single run is one member."""
    caveat: str | None = None
    """What the findings leave open, because the run is short or undertrained, or None."""

    def first_seen(self) -> dict[str, list[int]]:
        """For each failure, the epochs in which it was first seen, one for each member with it."""
        found: dict[str, list[int]] = {}
        for member in self.findings:
            for finding in member:
                found.setdefault(finding.name, []).append(finding.epochs[0])
        return found

    def names(self, epochs: Sequence[int]) -> list[list[str]]:
        """The failures seen at the end of each epoch, joined by "+": `[epochs][members]`."""
        names: list[dict[int, list[str]]] = [{} for _ in self.findings]
        for member, findings in zip(names, self.findings, strict=True):
            for finding in findings:
                for epoch in finding.epochs:
                    member.setdefault(epoch, []).append(finding.name)
        return [["+".join(member.get(epoch, [])) for member in names] for epoch in epochs]

    def failed(self, row: Row) -> np.ndarray:
        """Whether each member shows a failure at the end of a row's epoch, bool `[members]`."""
        (names,) = self.names([row["epoch"]])
        return np.array([bool(name) for name in names])

    def all_failed(self, row: Row) -> bool:
        """Whether every member that has not diverged shows a failure at the end of a row's epoch.

        True if all have diverged.
        """
        return bool((self.failed(row) | ~np.atleast_1d(finite_members(row))).all())


class Network(NamedTuple):
    """A network and its inputs."""

    module: nn.Module
    shape: tuple[int, ...]
    """The shape of one input, float32."""
    more: Mapping[str, np.ndarray] = {}
    """Examples of further inputs by their names, such as one label."""


class DenseLayers(NamedTuple):
    """A generator of dense layers as arrays, which any program can run.

    `x = relu(x @ kernel + bias)` for each layer but the last, which has no ReLU. The input is
    `latents [B, D]`, joined by one-hot labels `[B, K]` if there are K classes. The output is
    reshaped to `[B, H, W, C]`.
    """

    layers: Sequence[tuple[np.ndarray, np.ndarray]]
    """Kernel `[in, out]` and bias `[out]` of each layer, float32, also if the network computes in
    bfloat16. A factor of the latents, such as `latent_scale`, is in the first kernel."""
    bounded: bool
    """Whether a tanh follows the last layer."""


class Private(NamedTuple):
    """How a model trains with differential privacy. Its config has a `noise_multiplier`.

    The metrics of its private steps follow from noisy sums alone.
    """

    curves: Sequence[Curve] | None = None
    """The panels of curves.png; None for those of the model."""
    settings: Mapping[str, Any] = {}
    """Fields of the config that a private run sets, unless they are set already."""
    most_steps: int | None = None
    """How many steps are of use: more would share the budget and lose all but the last."""


class Model(NamedTuple):
    """A generative model, as plain functions and names."""

    name: str
    """Its name in config.json and in `jaxgan.MODELS`."""
    config: type
    """Its settings: a frozen dataclass. Every field has a default."""
    fit_to: Callable[[Any, Any], Any]
    """`(config, dataset) -> config`: fitted to the images of a `data.Dataset`."""
    create_state: Callable[[jax.Array, Any], Any]
    """`(rng, config) -> state`, a pytree with the attributes `step`, int32, and `config`."""
    train_step: Callable[..., Any]
    """`(state, batch, rng) -> (state, metrics)`, pure. The batch is a dict of arrays `[B, ...]`;
    metrics is a NamedTuple of scalars. A run prints the first four while it trains."""
    sample: Callable[..., jax.Array]
    """`(state, rng, n) -> images [n, H, W, C]`, float in [-1, 1]. If the config has a `num_classes`
    above 0, `(state, rng, n, labels)`: see `jaxgan.labels`."""
    networks: Callable[[Any], Mapping[str, Network]]
    """`config -> the networks by name`, for a summary."""
    hyperparameters: Mapping[str, tuple[tuple[str, ...], ...]]
    """The config fields in which members of a population may differ, since they do not change the
    program. Each has the paths of its leaves in a state, such as ("generator", "opt_state",
    "hyperparams", "learning_rate"). A field without paths is a leaf of `state.hyperparameters`. If
    it is 0 in the config of a run, the program leaves its term out."""
    curves: Sequence[Curve]
    """The panels of curves.png."""
    columns: Mapping[str, Column] = {}
    """Its own columns of metrics.csv."""
    equilibrium: Callable[[Any], Mapping[str, float]] = lambda config: {}
    """`config -> {column: value}`: metrics of a model in its equilibrium."""
    diagnose: Callable[[History], Diagnosis] | None = None
    """`history -> Diagnosis`: which failures a run or a population shows. Raises KeyError if a
    column is missing."""
    diagnosis_curves: Sequence[Curve] = ()
    """The panels of diagnosis.png; () for those of curves.png."""
    healthy_lines: Callable[[History], Sequence[str]] = lambda history: ["No failure was seen."]
    """`history -> sentences`: how far a history without a failure is from each."""
    equilibrium_distance: Callable[[Any, Mapping[str, Any]], np.ndarray] | None = None
    """`(config, row) -> [members]`: how far each member is from its equilibrium, by the row of an
    epoch. It is small for a discriminator that has learned nothing, too."""
    measure: Callable[[Any], Mapping[str, jax.Array]] = lambda state: {}
    """`state -> {name: scalar}`: more measures of a state, which are too slow for each step. They
    are taken when samples are measured."""
    sampling: tuple[str, ...] = ()
    """The config fields that act on samples alone. They may change when a run is resumed."""
    latent_shape: Callable[[Any], tuple[int, ...]] = lambda config: ()
    """`config -> the shape of the latents of one sample`, which are standard normal."""
    generate: Any = None
    """`(state, latents, rng, labels) -> images`: the samples of these latents. The default
    rng is a fixed key; the labels default as in `sample`."""
    dense: Callable[[Any], DenseLayers | None] = lambda state: None
    """`state -> DenseLayers | None`: the generator of a state as arrays. None if it has other
    layers, such as a network of the user's own."""
    make_denoise: Any = None
    """Of a model that removes noise: `(state, rng, labels) -> (denoise, signal_shares)`, see
    `jaxgan.samplers`."""
    private: Private | None = None
    """How it trains with differential privacy; None if it does not."""
    raw: Callable[[Any], Any] = lambda state: None
    """`state -> state | None`: the state without its average of parameters, or None if samples
    come from the parameters themselves."""
