"""Imputers for tables, with the interface of scikit-learn: NaN is a missing value.

    filled = GAINImputer().fit_transform(X)
    filled = ChosenImputer().fit_transform(X)  # takes what fills in hidden cells of X best

GAIN is a generative model (`jaxgan.imputation`). The other imputers are the plain methods that it
has to beat. All scale columns to [0, 1] themselves, and leave known values unchanged.
"""

import abc
import functools
import itertools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data

from jaxgan import imputation, learner
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.fields import is_size
from jaxgan.networks import MaskedMLP

_CHUNK = 100
"""Training steps in one program."""


if TYPE_CHECKING:

    class _Base:
        """Stands in for the classes of scikit-learn, which have no types."""

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...

        def set_params(self, **params: Any) -> Any: ...

        def fit_transform(self, X: Any, y: Any = None) -> Any: ...

        def get_feature_names_out(self, input_features: Any = None) -> Any: ...

        def __sklearn_tags__(self) -> Any: ...

else:

    class _Base(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
        pass


class _Imputer(_Base, abc.ABC):
    """What all imputers share: checks, scaling, constant and empty columns.

    A subclass defines `_train(rows, known, seed)` and `_fill(rows, known)`. Their rows are float64
    `[N, columns]` in [0, 1], with 0 in place of missing values. `known` is bool. They get only
    columns with two different values at least.
    """

    random_state: Any
    keep_empty_features: bool
    low_: np.ndarray
    high_: np.ndarray
    kept_: np.ndarray
    learned_: np.ndarray

    def fit(self, X: Any, y: Any = None) -> Any:
        """Learns from a table.

        Args:
          X: numbers `[N, columns]`; NaN is missing.
          y: ignored.

        Raises:
          ValueError: if X is no table of finite numbers and NaN.
          NonFiniteError: if training has diverged.
        """
        X = _check(self, X, reset=True)
        known = ~np.isnan(X)
        empty = ~known.any(axis=0)
        low = np.where(known, X, np.inf).min(axis=0)
        high = np.where(known, X, -np.inf).max(axis=0)
        with np.errstate(over="ignore"):
            huge = np.isinf(high - low) & ~empty
        if huge.any():
            raise JaxganError(f"the values of column {huge.argmax()} are too far apart for floats")
        self.low_, self.high_ = np.where(empty, 0, low), np.where(empty, 0, high)
        self.kept_ = ~empty | self.keep_empty_features
        self.learned_ = high > low
        seed = int(check_random_state(self.random_state).randint(2**31))
        if self.learned_.any():
            self._train(*self._scale(X), seed)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Fills in the missing values of a table, which may have new rows.

        As with scikit-learn's SimpleImputer, columns that were empty in `fit` are left out, or
        filled with 0 if `keep_empty_features`. Other columns are filled within their range in
        `fit`.
        """
        return self._fill_table(X, self._fill)

    def _fill_table(self, X: Any, fill: Callable[..., np.ndarray]) -> np.ndarray:
        check_is_fitted(self)
        X = _check(self, X, reset=False)
        filled = np.where(np.isnan(X), self.low_[None], X).astype(X.dtype)
        if self.learned_.any():
            low, high = self.low_[self.learned_], self.high_[self.learned_]
            found = np.clip(fill(*self._scale(X)), 0, 1) * (high - low) + low
            filled[:, self.learned_] = np.clip(found, low, high)  # after rounding
        return np.where(np.isnan(X), filled, X)[:, self.kept_]

    def _scale(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The learned columns in [0, 1], 0 where they are missing; which values are known."""
        X, low, high = (x[..., self.learned_] for x in (X, self.low_, self.high_))
        known = ~np.isnan(X)
        return np.where(known, (X - low) / (high - low), 0.0), known

    @abc.abstractmethod
    def _train(self, rows: np.ndarray, known: np.ndarray, seed: int) -> None: ...

    @abc.abstractmethod
    def _fill(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray: ...

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        return super().get_feature_names_out(input_features)[self.kept_]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _check(imputer: Any, X: Any, *, reset: bool) -> Any:
    return validate_data(imputer, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", reset=reset)


class GAINImputer(_Imputer):
    """Fills in missing values with GAIN (arXiv 1806.02920).

    It fills a value in the same way each time; `draw` varies its noise.

    Args:
      steps: of training, each on 128 random rows.
      hint_rate: see `imputation.GAINConfig`.
      reconstruction_weight: see `imputation.GAINConfig`.
      keep_empty_features: see `transform`.
      random_state: an int, a numpy RandomState, or None for a different result each time.
      verbose: whether to show progress.
    """

    config_: imputation.GAINConfig
    params_: Any

    def __init__(
        self,
        steps: int = 5_000,
        *,
        hint_rate: float = 0.9,
        reconstruction_weight: float = 100.0,
        keep_empty_features: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.steps = steps
        self.hint_rate = hint_rate
        self.reconstruction_weight = reconstruction_weight
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state
        self.verbose = verbose

    def draw(self, X: Any, n: int, seed: int = 0) -> np.ndarray:
        """Fills in a table n times, with other noise each time: `[n, N, columns]`.

        The noise of GAIN is small, and so is the spread of the draws.
        """
        if not is_size(n):
            raise JaxganError(f"n must be a whole number above 0, got {n}")
        rngs = jax.random.split(jax.random.key(seed), n)
        fills = [functools.partial(self._fill, rng=rng) for rng in rngs]
        return np.stack([self._fill_table(X, fill) for fill in fills])

    def _train(self, rows: np.ndarray, known: np.ndarray, seed: int) -> None:
        self.config_ = imputation.GAINConfig(
            image_shape=(1, 1, rows.shape[1]),
            hint_rate=self.hint_rate,
            reconstruction_weight=self.reconstruction_weight,
        )
        state = imputation.create_state(jax.random.key(seed), self.config_)
        # Without a mask the model hides values itself, which a table without NaN needs.
        mask = None if known.all() else known
        step = imputation.train_step
        state = _run_steps(step, state, rows, mask, seed, self.steps, self.verbose)
        self.params_ = jax.device_get(state.generator.params)

    def _fill(
        self, rows: np.ndarray, known: np.ndarray, rng: jax.Array | None = None
    ) -> np.ndarray:
        state = imputation.create_state(jax.random.key(0), self.config_)
        state = state.replace(generator=state.generator.replace(params=self.params_))
        filled = imputation.impute(state, _as_images(rows), known[:, None, None], rng)
        return _as_rows(filled)


class DenoisingImputer(_Imputer):
    """Fills in missing values with an MLP that has learned to fill in hidden ones.

    In each step it hides known values at random, and learns to restore them by least squares.

    Args:
      steps: of training, each on `batch_size` random rows.
      batch_size: rows of a step.
      widths: of the hidden layers.
      lr: the first learning rate of Adam. A cosine lowers it to 0.
      hide: the share of known values that are hidden, in (0, 1).
      keep_empty_features: see `transform`.
      random_state: an int, a numpy RandomState, or None for a different result each time.
      verbose: whether to show progress.
    """

    params_: Any

    def __init__(
        self,
        steps: int = 6_000,
        *,
        batch_size: int = 256,
        widths: tuple[int, ...] = (512, 512, 512),
        lr: float = 1e-3,
        hide: float = 0.2,
        keep_empty_features: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.steps = steps
        self.batch_size = batch_size
        self.widths = widths
        self.lr = lr
        self.hide = hide
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state
        self.verbose = verbose

    def _train(self, rows: np.ndarray, known: np.ndarray, seed: int) -> None:
        if not 0 < self.hide < 1:
            raise JaxganError(f"hide must be between 0 and 1, got {self.hide}")
        example = jnp.zeros((1, 1, 1, rows.shape[1]))
        adam = optax.adam(optax.cosine_decay_schedule(self.lr, self.steps))
        network = learner.create(
            MaskedMLP(tuple(self.widths), bounded=True),
            adam,
            jax.random.key(seed),
            example,
            masks=example,
        )
        step = _denoise_step(self.hide)
        options = {"batch_size": self.batch_size}
        network = _run_steps(step, network, rows, known, seed, self.steps, self.verbose, **options)
        self.params_ = jax.device_get(network.params)

    def _fill(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        network = MaskedMLP(tuple(self.widths), bounded=True)
        return _as_rows(_apply(network, self.params_, _as_images(rows), known[:, None, None]))


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: Any, params: Any, images: jax.Array, known: jax.Array) -> jax.Array:
    images, known = jnp.where(known, images, 0), known.astype(jnp.float32)
    return network.apply({"params": params}, images, known)


@functools.cache
def _denoise_step(hide: float) -> Callable[..., Any]:
    def step(
        network: learner.Learner, batch: Any, rng: jax.Array
    ) -> tuple[learner.Learner, jax.Array]:
        rng = jax.random.fold_in(rng, network.step)
        images, known = batch["image"], batch["mask"]
        hidden = known & (jax.random.uniform(rng, images.shape) < hide)
        seen = known & ~hidden

        def loss(params: Any) -> jax.Array:
            given = jnp.where(seen, images, 0)
            output, _ = learner.forward(
                network.replace(params=params),
                given,
                rng,
                train=True,
                masks=seen.astype(jnp.float32),
            )
            errors = jnp.where(hidden, jnp.square(output - images), 0)
            return errors.sum() / jnp.maximum(hidden.sum(dtype=jnp.float32), 1)

        value, grads = jax.value_and_grad(loss)(network.params)
        return learner.descend(network, grads), value

    return step


def _run_steps(
    step: Callable[..., Any],
    state: Any,
    rows: np.ndarray,
    known: np.ndarray | None,
    seed: int,
    steps: int,
    verbose: bool,
    batch_size: int = 128,
) -> Any:
    """Trains on batches of random rows, with a progress bar if `verbose`."""
    from tqdm import tqdm

    if not is_size(steps):
        raise JaxganError(f"steps must be a whole number above 0, got {steps}")
    if not is_size(batch_size):
        raise JaxganError(f"batch_size must be a whole number above 0, got {batch_size}")
    rng, draw = jax.random.key(seed), np.random.default_rng(seed)
    images = _as_images(rows)
    disable = None if verbose else True  # None: disabled unless it is a terminal
    with tqdm(total=steps, desc="training", disable=disable, leave=False) as bar:
        for done in range(0, steps, _CHUNK):
            n = min(_CHUNK, steps - done)
            at = draw.integers(len(rows), size=(n, batch_size))
            batches = {"image": images[at]}
            if known is not None:
                batches["mask"] = known[at][:, :, None, None]
            state = _scan(step, state, batches, rng)
            bar.update(n)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
        raise NonFiniteError("training has diverged: a parameter is not finite")
    return state


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _scan(step: Callable[..., Any], state: Any, batches: Any, rng: jax.Array) -> Any:
    return jax.lax.scan(lambda state, batch: (step(state, batch, rng)[0], None), state, batches)[0]


def _as_images(rows: np.ndarray) -> np.ndarray:
    """Rows in [0, 1] as images `[N, 1, 1, columns]` in [-1, 1]."""
    return (2 * rows - 1).astype(np.float32)[:, None, None]


def _as_rows(images: Any) -> np.ndarray:
    return (np.asarray(images, np.float64)[:, 0, 0] + 1) / 2


class ScaledImputer(_Imputer):
    """An imputer of scikit-learn, on columns in [0, 1].

    Args:
      imputer: such as KNNImputer().
      power: whether columns are transformed to normal first (PowerTransformer, Yeo-Johnson), and
        back at the end.
      keep_empty_features: see `transform`.
      random_state: an int, a numpy RandomState, or None for a different result each time.
    """

    scaler_: Any
    inverse_: list[tuple[np.ndarray, np.ndarray]]
    imputer_: Any

    def __init__(
        self,
        imputer: Any,
        *,
        power: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = None,
    ):
        self.imputer = imputer
        self.power = power
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    def _train(self, rows: np.ndarray, known: np.ndarray, seed: int) -> None:
        from sklearn.preprocessing import PowerTransformer

        table: Any = _as_table(rows, known)
        if self.power:
            self.scaler_ = PowerTransformer().fit(table)
            values, table = table, self.scaler_.transform(table)
            # The inverse by interpolation: that of the formula overflows for skewed columns.
            self.inverse_ = [_sorted_pairs(*pair) for pair in zip(table.T, values.T, strict=True)]
        self.imputer_ = _fit(_seeded(self.imputer, seed), table)

    def _fill(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        table = _as_table(rows, known)
        if not self.power:
            return self.imputer_.transform(table)
        filled = self.imputer_.transform(self.scaler_.transform(table))
        columns = zip(filled.T, self.inverse_, strict=True)
        return np.stack([np.interp(column, *inverse) for column, inverse in columns], axis=1)


def _sorted_pairs(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The known values of two columns, by the order of the first."""
    order = np.argsort(x)[: np.isfinite(x).sum()]
    return x[order], y[order]


class RoundsImputer(_Imputer):
    """Rounds of regressions: each column is predicted from all others, several times.

    The first values are those of ridge regressions (scikit-learn's IterativeImputer). From these
    better regressors need few rounds. With trees it is much like MissForest.

    Args:
      estimator: a regressor of scikit-learn.
      rounds: how often each column is predicted.
      keep_empty_features: see `transform`.
      random_state: an int, a numpy RandomState, or None for a different result each time.
      verbose: whether to show progress.
    """

    start_: Any
    regressions_: list[tuple[int, Any]]

    def __init__(
        self,
        estimator: Any,
        *,
        rounds: int = 2,
        keep_empty_features: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.estimator = estimator
        self.rounds = rounds
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state
        self.verbose = verbose

    def _train(self, rows: np.ndarray, known: np.ndarray, seed: int) -> None:
        from tqdm import tqdm

        table = _as_table(rows, known)
        self.start_ = _fit(_seeded(make_ridge(), seed), table)
        filled = self.start_.transform(table).clip(0, 1)
        # Columns with the fewest missing values come first. One with very few known values keeps
        # those of the ridge.
        columns = [j for j in np.argsort(-known.sum(axis=0)) if known[:, j].sum() >= _FEWEST]
        if len(known[0]) == 1:  # there is nothing to predict it from
            columns = []
        disable = None if self.verbose else True
        self.regressions_ = []
        todo = [j for _ in range(self.rounds) for j in columns]
        for j in tqdm(todo, "columns", disable=disable, leave=False):
            others = np.delete(filled, j, axis=1)
            regressor = _seeded(self.estimator, seed)
            regressor.fit(others[known[:, j]], rows[known[:, j], j])
            self.regressions_.append((j, regressor))
            _predict(filled, known, j, regressor)

    def _fill(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        filled = self.start_.transform(_as_table(rows, known)).clip(0, 1)
        for j, regressor in self.regressions_:
            _predict(filled, known, j, regressor)
        return filled


_FEWEST = 5
"""Known values that a regression needs."""


def _predict(filled: np.ndarray, known: np.ndarray, j: int, regressor: Any) -> None:
    """Replaces the missing values of column j, in place."""
    missing = ~known[:, j]
    if missing.any():
        found = regressor.predict(np.delete(filled[missing], j, axis=1))
        filled[missing, j] = found.clip(0, 1)


class ChosenImputer(_Imputer):
    """Takes the imputer that restores hidden values best, or a mean of up to three.

    It hides some known values of the table, and fills them in with each candidate. Then it fits the
    best ones to the whole table.

    Args:
      candidates: imputers by name; by default those of `make_candidates` that are not too slow for
        the size of the table.
      hide: the share of known values that are hidden, in (0, 1).
      scored: the columns whose errors count, by their places; by default all.
      keep_empty_features: see `transform`.
      random_state: an int, a numpy RandomState, or None for a different result each time.
      verbose: whether to show progress.

    Attributes after `fit`: `errors_`, the root mean squared error of each candidate on the hidden
    values, for columns in [0, 1], and that of the chosen mean; `chosen_`, the names.
    """

    chosen_: tuple[str, ...]
    errors_: dict[str, float]
    imputers_: list[Any]

    def __init__(
        self,
        candidates: Mapping[str, Any] | None = None,
        *,
        hide: float = 0.1,
        scored: Sequence[int] | None = None,
        keep_empty_features: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.candidates = candidates
        self.hide = hide
        self.scored = scored
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Any:
        self.chosen_, self.errors_ = (), {}
        return super().fit(X, y)

    def _train(self, rows: np.ndarray, known: np.ndarray, seed: int) -> None:
        if not 0 < self.hide < 1:
            raise JaxganError(f"hide must be between 0 and 1, got {self.hide}")
        table = _as_table(rows, known)
        candidates = self._candidates(*rows.shape)
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(rows))[:_TRIED]
        rows, known = rows[some], known[some]
        hidden = known & (rng.random(known.shape) < self.hide)
        hidden.flat[rng.choice(np.flatnonzero(known))] = True
        if self.scored is not None:
            hidden &= np.isin(np.flatnonzero(self.learned_), self.scored)
        if not hidden.any():  # nothing can be compared
            hidden = known
        guesses = {}
        rest = _as_table(rows, known & ~hidden)
        self._say(
            f"{hidden.sum():,} known values are hidden; the error of each method on them, for"
        )
        self._say("columns from 0 to 1 (root mean square), and its seconds:")
        for name, imputer in candidates.items():
            self._say(f"  {name:<24}", end="")
            started = time.perf_counter()
            guesses[name] = self._ready(imputer, seed).fit_transform(rest)[hidden]
            error = _rmse(guesses[name], rows[hidden])
            self._say(f"{error:.4f}{time.perf_counter() - started:8.0f}")
        self.chosen_, self.errors_ = choose(guesses, rows[hidden])
        if len(self.chosen_) > 1:
            together = " + ".join(self.chosen_)
            self._say(f"  {together:<24} {self.errors_[together]:.4f}")
        self._say(f"fitting {' + '.join(self.chosen_)} to the whole table")
        self.imputers_ = [self._ready(candidates[name], seed).fit(table) for name in self.chosen_]

    def _fill(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        table = _as_table(rows, known)
        return np.mean([imputer.transform(table) for imputer in self.imputers_], axis=0)

    def _candidates(self, n: int, columns: int) -> dict[str, Any]:
        """The candidates, by default without those that would take too long for the table."""
        if self.candidates is not None:
            if not self.candidates:
                raise JaxganError("candidates must have at least one imputer")
            return dict(self.candidates)
        if slow := too_slow(n, columns):
            self._say(f"too slow for this table: {', '.join(slow)}")
        return {name: one for name, one in make_candidates().items() if name not in slow}

    def _ready(self, imputer: Any, seed: int) -> Any:
        options = {"random_state": seed, "keep_empty_features": True, "verbose": self.verbose}
        copy: Any = clone(imputer)
        known = copy.get_params(deep=False)
        return copy.set_params(**{k: v for k, v in options.items() if k in known})

    def _say(self, text: str, end: str = "\n") -> None:
        if self.verbose:
            print(text, end=end, flush=True)


_TRIED = 10_000
"""At most so many rows, drawn at random, serve to choose a method."""


def choose(
    guesses: Mapping[str, np.ndarray], truth: np.ndarray
) -> tuple[tuple[str, ...], dict[str, float]]:
    """The names whose mean guess has the smallest error, three at most; and the errors.

    Args:
      guesses: `[n]` by name.
      truth: `[n]`.

    Returns:
      The names. The root mean squared errors by name, and that of the mean, by its names joined
      with " + ".
    """

    def error(names: tuple[str, ...]) -> float:
        mean = np.mean([guesses[name] for name in names], axis=0)
        return _rmse(mean, truth)

    sizes = range(1, min(3, len(guesses)) + 1)
    groups = [names for n in sizes for names in itertools.combinations(guesses, n)]
    errors = {names: error(names) for names in groups}
    best = min(groups, key=lambda names: np.nan_to_num(errors[names], nan=np.inf))
    return best, {
        " + ".join(names): errors[names] for names in groups if len(names) == 1 or names == best
    }


def _rmse(guess: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.square(guess - truth).mean()))


def make_candidates() -> dict[str, Any]:
    """The imputers that ChosenImputer tries, by name."""
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
    from sklearn.impute import KNNImputer, SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    squares = PolynomialFeatures(2, include_bias=False)
    ridge = RidgeCV(np.logspace(-3, 3, 13))
    return {
        "mean": ScaledImputer(SimpleImputer()),
        "neighbours": ScaledImputer(KNNImputer(n_neighbors=10, weights="distance")),
        "ridge": ScaledImputer(make_ridge()),
        "power_ridge": ScaledImputer(make_ridge(), power=True),
        "quadratic_ridge": RoundsImputer(
            make_pipeline(StandardScaler(), squares, StandardScaler(), ridge)
        ),
        "trees": RoundsImputer(ExtraTreesRegressor(50, n_jobs=-1)),
        "boosting": RoundsImputer(HistGradientBoostingRegressor()),
        "denoiser": DenoisingImputer(),
        "gain": GAINImputer(),
    }


def too_slow(n: int, columns: int) -> list[str]:
    """The candidates that would take hours for a table of n rows."""
    limits = {
        "neighbours": n > 20_000,
        "quadratic_ridge": columns > 40,
        "trees": columns > 100,
        "boosting": columns > 100,
    }
    return [name for name, slow in limits.items() if slow]


def make_ridge(**options: Any) -> Any:
    """Rounds of ridge regressions: scikit-learn's IterativeImputer, with its options."""
    try:
        from sklearn.impute import IterativeImputer
    except ImportError:  # older releases hide it
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer
    # All columns, unless there are very many.
    return IterativeImputer(**{"keep_empty_features": True, "n_nearest_features": 100} | options)


def _seeded(estimator: Any, seed: int) -> Any:
    """A copy of an estimator with this seed, in all its parts that take one."""
    names = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
    copy: Any = clone(estimator)
    return copy.set_params(**dict.fromkeys(names, seed))


def _fit(imputer: Any, table: np.ndarray) -> Any:
    """Fits an imputer. Rounds of ridge that have not converged impute well enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return imputer.fit(table)


def _as_table(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, rows, np.nan)
