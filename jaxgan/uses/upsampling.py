"""Upsampling: generates rows of small classes, with the interface of imbalanced-learn.

    sampler = GenerativeSampler(random_state=0)
    X, y = sampler.fit_resample(X, y)

It trains a conditional model on the data and draws the rows that each class lacks. It needs the
extra `uses`: pip install 'jaxgan[uses]'.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import numpy as np
from scipy import sparse

from jaxgan import schedules
from jaxgan.data.pixels import to_uint8
from jaxgan.errors import JaxganError, NonFiniteError
from jaxgan.labels import choose_labels, num_classes
from jaxgan.model import Model
from jaxgan.models import MODELS
from jaxgan.presets import PRESETS
from jaxgan.run import loop, saved

try:
    from imblearn.over_sampling.base import BaseOverSampler
    from imblearn.utils import check_sampling_strategy, check_target_type
    from sklearn.utils import check_random_state
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.validation import validate_data
except ImportError as _error:
    raise JaxganError(
        f"upsampling needs imbalanced-learn ({_error}): pip install 'jaxgan[uses]'"
    ) from _error

if TYPE_CHECKING:

    class _Base:
        """Stands in for BaseOverSampler: imbalanced-learn has no types."""

        _parameter_constraints: ClassVar[dict[str, Any]]

        def __init__(self, sampling_strategy: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

        def fit(self, X: Any, y: Any, **params: Any) -> Any: ...

        def fit_resample(self, X: Any, y: Any, **params: Any) -> Any: ...

else:
    _Base = BaseOverSampler


class Recipe(NamedTuple):
    """How a model is trained on the rows of a sampler."""

    preset: str
    """The model and its settings, from `jaxgan.PRESETS`."""
    steps: int
    batch_size: int
    power: float
    """Of n rows of a class, batches have a share that is proportional to n ** power."""


RECIPES = {
    "gan": Recipe("tuned", 10_000, 128, 0.0),
    "diffusion": Recipe("diffusion", 20_000, 256, 0.5),
}
"""By the names of the models. Steps and powers were chosen by the accuracy of a classifier on
held-out images of Fashion-MNIST (`benchmarks/upsampling.py --validation`)."""
LEAST = 6
"""The smallest class of which rows can be generated, as in SMOTE."""
_AT_ONCE = 1_000
"""Rows generated at a time, so that their number does not matter for the memory of a device."""
_LEAST_STEPS = 100
"""Steps in an epoch: small data are repeated, since each epoch costs time on the host."""


class GenerativeSampler(_Base):
    """Over-sampling by a conditional generative model, for images or vectors.

    The rows that are given come first, unchanged. New rows follow, class by class. They have the
    shape and the type of the others, and no value beyond the least and the largest one.

    Images are `[N, H, W]` or `[N, H, W, C]`, uint8 or of other numbers. Vectors are `[N, D]`: an
    array, a list or a data frame. Their columns are taken as continuous; whole numbers are rounded.
    A class needs at least LEAST rows, unless sampling_strategy leaves it out.

    Args:
      sampling_strategy: as in imbalanced-learn. "auto" gives every class as many rows as the
        largest one has; a dict gives the number of rows by class.
      model: "gan" or "diffusion".
      steps: of training; by default those of `RECIPES`.
      run: a folder of a conditional run of `scripts/train.py`. Its model is used, and none is
        trained. It must have been trained on images of the same shape. Labels are those of the run,
        or names of its classes.
      random_state: a seed, a numpy RandomState, or None for a new result each time.
      verbose: whether to show progress.

    `fit_resample` raises:
      JaxganError: if values or labels are missing or not finite, if a class is too small, or if a
        run does not fit the data. Other input is checked by imbalanced-learn and scikit-learn,
        which raise ValueError or TypeError.
      NonFiniteError: if the model diverges.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_Base._parameter_constraints,
        "model": [StrOptions(set(RECIPES))],
        "steps": [Interval(Integral, 1, None, closed="left"), None],
        "run": [str, os.PathLike, None],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        model: str = "diffusion",
        steps: int | None = None,
        run: str | Path | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ):
        super().__init__(sampling_strategy=sampling_strategy)
        self.model = model
        self.steps = steps
        self.run = run
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, **params: Any) -> Any:
        """Checks the input, as `fit_resample` does. It trains nothing."""
        _check_labels(y)
        return super().fit(X, y, **params)

    def fit_resample(self, X: Any, y: Any, **params: Any) -> Any:
        """The rows and their labels, with new rows at the end; see the class."""
        _check_labels(y)
        return super().fit_resample(X, y, **params)

    def _check_X_y(self, X: Any, y: Any) -> tuple[Any, np.ndarray, bool]:
        y, binarize_y = check_target_type(y, indicate_one_vs_all=True)
        options: dict[str, Any] = {"ensure_all_finite": False, "allow_nd": np.ndim(X) in (3, 4)}
        X, y = validate_data(self, X=X, y=y, reset=True, accept_sparse=["csr", "csc"], **options)
        wrong = (~np.isfinite(X.data if sparse.issparse(X) else X)).sum()
        if wrong:
            raise JaxganError(f"X has {wrong} values that are NaN or infinite: replace them")
        wanted: Any = check_sampling_strategy(self.sampling_strategy, y, self._sampling_type)
        _check_sizes(y, wanted)
        if self.run is not None:
            _run_classes(self.run, _image_shape(X.shape), np.unique(y))
        return X, y, binarize_y

    def _fit_resample(self, X: Any, y: np.ndarray) -> tuple[Any, np.ndarray]:
        if sparse.issparse(X):
            rows, y = self._fit_resample(X.toarray(), y)
            return type(X)(rows), y
        classes, labels = np.unique(y, return_inverse=True)
        counts = [self.sampling_strategy_.get(name, 0) for name in classes.tolist()]
        wanted = np.repeat(np.arange(len(classes)), counts)
        if not len(wanted):
            return X.copy(), y.copy()
        seed = check_random_state(self.random_state).randint(2**31)
        images, scaling = _scale(X, standardise=self.run is None)
        if self.run is None:
            recipe = RECIPES[self.model]
            recipe = recipe._replace(steps=self.steps or recipe.steps)
            model, state = train(recipe, images, labels, seed, progress=self.verbose)
            drawn_labels = wanted
        else:
            model = saved.find_model(self.run, MODELS)
            state, _ = saved.load_state(model, self.run)
            drawn_labels = _run_classes(self.run, images.shape[1:], classes)[wanted]
        rng = loop.make_rngs(seed).pictures
        new = scaling.undo(draw(model, state, drawn_labels, rng, progress=self.verbose))
        new = new.reshape(-1, *X.shape[1:])
        return np.concatenate([X, new]), np.concatenate([y, classes[wanted]])


def draw(
    model: Model, state: Any, labels: np.ndarray, rng: jax.Array, *, progress: bool = True
) -> np.ndarray:
    """Draws a sample of each wanted class, in parts.

    Args:
      model: of the state, such as `jaxgan.MODELS["gan"]`.
      state: a trained state of a conditional model.
      labels: the wanted classes, int `[N]`.
      rng: a key.
      progress: whether to show a progress bar.

    Returns:
      `[N, H, W, C]`, float32, in [-1, 1] if the model is bounded.

    Raises:
      JaxganError: if the model has no classes, or if a label is out of range.
      NonFiniteError: if the model has diverged.
    """
    from tqdm import tqdm

    n = len(labels)
    chosen = choose_labels(num_classes(state.config), n, labels)
    if not n:
        return np.zeros((0, *state.config.image_shape), np.float32)
    # All parts have the same size, so that one program serves them.
    size = -(-n // -(-n // _AT_ONCE))
    parts = []
    hidden = None if progress else True  # None: hidden if there is no terminal
    for at in tqdm(range(0, n, size), "sampling", disable=hidden, leave=False):
        part = np.resize(np.asarray(chosen)[at : at + size], size)
        parts.append(np.asarray(model.sample(state, jax.random.fold_in(rng, at), size, part)))
        if not np.isfinite(parts[-1]).all():
            raise NonFiniteError("the new rows are not finite: the model has diverged")
    return np.concatenate(parts)[:n]


def train(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, seed: int, *, progress: bool = True
) -> tuple[Model, Any]:
    """Trains a conditional model on few or many images of each class.

    Args:
      recipe: such as `RECIPES["gan"]`.
      images: `[N, H, W, C]`, uint8, or float32 in [-1, 1]. Those of one pixel are vectors, which
        have no bounds.
      labels: int `[N]`, from 0. Each class up to the largest label has an image.
      seed: of all random numbers.
      progress: whether to show progress.

    Returns:
      The model and its trained state.

    Raises:
      NonFiniteError: if the model diverges.
    """
    config, _ = PRESETS[recipe.preset]
    model = next(model for model in MODELS.values() if isinstance(config, model.config))
    rows = _epoch_rows(labels, recipe, seed)
    steps = len(rows) // recipe.batch_size
    epochs = -(-recipe.steps // steps)
    config = dataclasses.replace(
        schedules.over(config, epochs * steps),
        image_shape=images.shape[1:],
        bounded=images.shape[1:3] != (1, 1),
        num_classes=int(labels.max()) + 1,
    )
    data = {"image": images[rows], "label": labels[rows].astype(np.int32)}
    rngs = loop.make_rngs(seed)
    run = loop.start_run(
        model.train_step, model.create_state(rngs.init, config), data, recipe.batch_size
    )
    options: dict[str, Any] = {"batch_size": recipe.batch_size, "epochs": epochs}
    run = loop.fit(model.train_step, run, data, rngs.training, progress=progress, **options)
    return model, run.state


def _epoch_rows(labels: np.ndarray, recipe: Recipe, seed: int) -> np.ndarray:
    """The rows of an epoch, in whole batches. Each is there, those of small classes more often."""
    counts = np.bincount(labels)
    shares = counts**recipe.power / (counts**recipe.power).sum()
    least = min(_LEAST_STEPS, recipe.steps)
    batches = max(least, -(-int((counts / shares).max()) // recipe.batch_size))
    total = batches * recipe.batch_size
    # Cumulative sums, so that the rounded numbers add up to the total.
    numbers = np.diff(np.round(np.cumsum(shares) * total).astype(int), prepend=0)
    rng = np.random.default_rng(seed)
    of_class = (rng.permutation(np.flatnonzero(labels == label)) for label in range(len(counts)))
    return np.concatenate([np.resize(rows, n) for rows, n in zip(of_class, numbers, strict=True)])


class _Scaling(NamedTuple):
    """How rows become images: (x - shift) / scale."""

    shift: Any
    scale: Any
    whole: Any
    """Whether all given values are whole: of each column, or of all pixels."""
    low: Any
    """The least value: of each column, or of all pixels."""
    high: Any
    dtype: np.dtype

    def undo(self, images: np.ndarray) -> np.ndarray:
        """New rows `[N, H, W, C]`, of the type and between the least and largest of the others."""
        if self.dtype == np.uint8:
            return to_uint8(images)
        rows = np.clip(self.shift + self.scale * images.astype(np.float64), self.low, self.high)
        return np.where(self.whole, np.round(rows), rows).astype(self.dtype)


def _image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(H, W, C) of rows `[N, H, W, C]`, `[N, H, W]`, or of vectors `[N, D]`: (1, 1, D)."""
    return {2: (1, 1, *shape[1:]), 3: (*shape[1:], 1)}.get(len(shape), tuple(shape[1:]))


def _scale(X: np.ndarray, standardise: bool) -> tuple[np.ndarray, _Scaling]:
    """Rows as images `[N, H, W, C]`, and how that is undone.

    Vectors become images of one pixel. They are standardised, unless a run has learned them as they
    are. Images are scaled to [-1, 1]; those of uint8 stay as they are.
    """
    images = X.reshape(len(X), *_image_shape(X.shape))
    vectors = images.shape[1:3] == (1, 1)
    if images.dtype == np.uint8 and not vectors:
        return images, _Scaling(127.5, 127.5, True, 0, 255, X.dtype)
    rows = images.astype(np.float64)
    axis = 0 if vectors else None
    low, high = rows.min(axis=axis), rows.max(axis=axis)
    shift, scale = (low + high) / 2, (high - low) / 2
    if vectors:
        shift, scale = (rows.mean(axis=0), rows.std(axis=0)) if standardise else (0.0, 1.0)
    scale = np.where(scale > 0, scale, 1.0)  # of a constant column
    whole = (rows % 1 == 0).all(axis=axis)
    scaling = _Scaling(shift, scale, whole, low, high, X.dtype)
    return ((rows - shift) / scale).astype(np.float32), scaling


def _run_classes(run: str | Path, shape: Sequence[int], classes: np.ndarray) -> np.ndarray:
    """The numbers that classes have in a run: int `[K]`.

    Raises:
      JaxganError: if the run has no classes, other ones, or images of another shape.
    """
    config = saved.read_config(saved.find_model(run, MODELS), run)
    known = num_classes(config)
    if not known:
        raise JaxganError(f"{run} has no classes: train a run with --conditional")
    if config.image_shape != tuple(shape):
        found, wanted = ("x".join(map(str, size)) for size in (shape, config.image_shape))
        raise JaxganError(f"the images are {found}, and the run {run} has images of {wanted}")
    names = {name: i for i, name in enumerate(saved.read_classes(run))}
    numbers = names | {i: i for i in range(known)}
    if unknown := [str(name) for name in classes.tolist() if name not in numbers]:
        raise JaxganError(
            f"the run {run} has the classes {', '.join(names) or f'0 to {known - 1}'}, not "
            f"{', '.join(unknown[:5])}"
        )
    return np.array([numbers[name] for name in classes.tolist()])


def _check_labels(y: Any) -> None:
    """Raises JaxganError if labels are missing."""
    if y is None:
        raise JaxganError("upsampling requires y to be passed, but the target y is None")
    # NaN is the only value that differs from itself.
    missing = [label is None or label != label for label in np.asarray(y).ravel().tolist()]
    if any(missing):
        raise JaxganError(f"{sum(missing)} labels are missing: fill or remove these rows")


def _check_sizes(y: np.ndarray, wanted: Mapping[Any, int]) -> None:
    """Raises JaxganError if rows are wanted of a class that has too few."""
    sizes = Counter(y.tolist())
    few = [f"{name} has {sizes[name]}" for name, n in wanted.items() if n and sizes[name] < LEAST]
    if few:
        raise JaxganError(
            f"a class needs at least {LEAST} rows to be learned, and {', '.join(few[:5])}: collect "
            "more, or leave such classes out"
        )
