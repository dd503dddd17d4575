"""One run and a population, with the same methods.

`make_runs` returns a OneRun or a Population. The code that trains, saves or reads a run folder
works with both.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgan.data.pixels import are_vectors
from jaxgan.errors import JaxganError
from jaxgan.history import History
from jaxgan.labels import num_classes
from jaxgan.model import Model
from jaxgan.report import plots
from jaxgan.run import loop, population
from jaxgan.run.devices import Layout, first, local, make_layout
from jaxgan.run.settings import TrainConfig


class OneRun:
    """A single run."""

    folder_suffix = ""
    """The end of the name of the default run folder."""
    ranked = False
    """Whether the last epoch is scored, to put the members into an order."""

    def __init__(self, model: Model, config: Any, settings: TrainConfig):
        self._model, self._config = model, config
        self.labels: list[dict[str, Any]] = [{}]
        """For each member, the columns of metrics.csv that identify it."""
        self.rngs: loop.RunKeys = loop.make_rngs(settings.seed)

    def create_state(self) -> Any:
        """The initial state."""
        return self._model.create_state(self.rngs.init, self._config)

    def state_like(self) -> Any:
        """The shapes and dtypes of the state. They take no memory."""
        return jax.eval_shape(self.create_state)

    def make_layout(self, devices: int | None) -> Layout:
        """A layout over this many devices."""
        return make_layout(devices)

    def fit(self, *args: Any, **options: Any) -> loop.Run:
        """`loop.fit`."""
        return loop.fit(*args, **options)

    def members(self, state: Any) -> Iterator[tuple[Any, jax.Array]]:
        """Yields the state and the key for pictures of each member."""
        yield state, self.rngs.pictures

    def evaluate(self, score: Callable[[Any, jax.Array], dict[str, Any]], state: Any) -> Any:
        """The scores of the state, by `score(state, rng)`."""
        return score(state, self.rngs.pictures)

    def pictures(self, state: Any) -> plots.Grid:
        """Samples for a picture."""
        return self.member_picture(local(state), self.rngs.pictures)

    def member_picture(self, state: Any, rng: jax.Array) -> plots.Grid:
        """Samples of one member for a picture: with classes, a row for each class of images."""
        shape, classes = self._config.image_shape, num_classes(self._config)
        if not classes or are_vectors(shape):
            return plots.Grid(self._model.sample(state, rng, plots.samples_shown(shape)))
        labels = plots.class_rows(classes)
        return plots.class_grid(self._model.sample(state, rng, len(labels), labels), labels)

    def index(self, history: History, member: int | None, best: int | None) -> int:
        """The number of a member: `member`, by default `best`, or the best by the history."""
        del history, best
        if member is not None:
            raise JaxganError(f"this is one run, not a population: it has no member {member}")
        return 0

    def member_state(self, state: Any, i: int) -> Any:
        """The state of the member that `index` gives."""
        del i
        return state

    def report(self, history: History) -> population.Report | None:
        """A summary of the members by their history; None for one run, or without an epoch."""
        del history


class Population(OneRun):
    """Runs with several seeds or hyperparameters."""

    folder_suffix = "_population"
    ranked = True

    def __init__(self, model: Model, config: Any, settings: TrainConfig):
        self._model, self._config = model, config
        self._members = population.sweep_members(
            settings.seed, settings.population or 1, settings.sweep_values
        )
        self.labels: list[dict[str, Any]] = [
            {"member": i, **member} for i, member in enumerate(self._members)
        ]
        self.rngs: loop.RunKeys = population.make_rngs(self._members)

    def create_state(self) -> Any:
        return population.create_states(self._model, self._config, self._members)

    def state_like(self) -> Any:
        values = {name: 1.0 for name in self._members[0] if name != "seed"}

        def create(rng: jax.Array) -> Any:
            state = self._model.create_state(rng, self._config)
            return population.with_hyperparameters(self._model, state, **values)

        one = jax.eval_shape(create, self.rngs.init[0])
        members = len(self._members)
        # Each leaf is a view of a single zero. Orbax restores numpy leaves to the host's memory.
        return jax.tree.map(
            lambda x: np.broadcast_to(np.zeros((), x.dtype), (members, *x.shape)), one
        )

    def make_layout(self, devices: int | None) -> Layout:
        return make_layout(devices, population=True)

    def fit(self, *args: Any, **options: Any) -> loop.Run:
        return population.fit(*args, **options)

    def members(self, state: Any) -> Iterator[tuple[Any, jax.Array]]:
        for i in range(len(self._members)):
            yield population.member(state, i), self.rngs.pictures[i]

    def evaluate(self, score: Callable[[Any, jax.Array], dict[str, Any]], state: Any) -> Any:
        scores = [score(*one) for one in self.members(state)]
        return {name: [one[name] for one in scores] for name in scores[0]}

    def pictures(self, state: Any) -> plots.Grid:
        shape = self._config.image_shape
        n, classes = plots.samples_shown(shape), num_classes(self._config)
        if are_vectors(shape):
            classes = 0
        shown = min(len(self._members), plots.MEMBERS_SHOWN)
        state, rngs = first((state, self.rngs.pictures), shown)
        # With classes, each column shows one class. Else it is the first half of the samples.
        labels = (np.arange(n) % classes,) if classes else ()
        images = jax.vmap(lambda state, rng: self._model.sample(state, rng, n, *labels))(
            local(state), rngs
        )
        columns = min(n, classes * max(1, n // 2 // classes)) if classes else n // 2
        return plots.Grid(images[:, :columns].reshape(-1, *images.shape[2:]), columns)

    def index(self, history: History, member: int | None, best: int | None) -> int:
        if member is None:
            member = _best(self.report(history), len(self._members)) if best is None else best
        if not 0 <= member < len(self._members):
            raise JaxganError(
                f"this population has the members 0 to {len(self._members) - 1}, and no member "
                f"{member}"
            )
        return member

    def member_state(self, state: Any, i: int) -> Any:
        return population.member(state, i)

    def report(self, history: History) -> population.Report | None:
        if not history:
            return None
        return population.make_report(self._model, self._config, self._members, history)


def make_runs(model: Model, config: Any, settings: TrainConfig) -> OneRun:
    """The run or the population that the settings describe."""
    if settings.population is None and not settings.sweep:
        return OneRun(model, config, settings)
    return Population(model, config, settings)


def _best(report: population.Report | None, members: int) -> int:
    """The best member of so many, or the first healthy one if no score ranks them."""
    if report is None:
        return 0
    if report.best is not None:
        return report.best
    return min(set(range(members)) - {*report.diverged, *report.failed}, default=0)
