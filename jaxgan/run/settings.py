"""The settings of a run: `TrainConfig`."""

import dataclasses

from jaxgan.fields import check_field, is_size


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The settings of a run: its data, its length and what it writes.

    Raises:
      JaxganError: at construction, if a field is out of its range.
    """

    dataset: str = "auto"
    """fashion_mnist, mnist, kmnist, digits, ring, grid, a folder of images, a .npy or .npz
    file, tfds:NAME, or auto: Fashion-MNIST if it can be loaded, else digits."""
    data_dir: str | None = None
    """The first place to look for the files of the dataset. The next are $JAXGAN_DATA_DIR, the
    cache of tensorflow-datasets and the network."""
    image_size: int | None = None
    """Resize and centre-crop the images to this height and width, in pixels."""
    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step; the last batch of an epoch may be smaller."""
    seed: int = 0
    """The seed of all random numbers. Equal seeds give equal runs."""
    sample_every: int = 1
    """Epochs between two pictures of samples."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints. There is always one of the last epoch."""
    evaluate_every: int | None = None
    """Epochs between two evaluations of samples (`jaxgan.metrics.evaluation`). By default there are
    none. The last epoch is evaluated too. Each evaluation saves a checkpoint. The best one is kept,
    and so are the newest."""
    population: int | None = None
    """Train a population of this many members in one program, with the seeds SEED, SEED + 1, ..."""
    sweep: tuple[str, ...] = ()
    """Hyperparameters in which the members of a population differ, as NAME=VALUE,VALUE,... For a
    GAN NAME is generator_lr, generator_b1, generator_b2, or the same of the discriminator. Every
    combination is trained with every seed."""
    devices: int | None = None
    """How many devices share the members of a population, or the images of each batch. The default
    is all devices for a population or for several processes, else one."""
    stop_on_failure: bool = False
    """Stop and save the run when a failure is seen, with exit status 5. A population stops when
    every member that has not diverged shows a failure."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the extra: pip install 'jaxgan[tensorboard]')."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "sample_every", "checkpoint_every"):
            check_field(is_size(getattr(self, name)), self, name, "a whole number above 0")
        for name in ("image_size", "population", "devices", "evaluate_every"):
            value = getattr(self, name)
            check_field(value is None or is_size(value), self, name, "a whole number above 0")
        check_field(self.epochs >= 0, self, "epochs", "0 or more")
        check_field(0 <= self.seed < 2**32, self, "seed", "from 0 to 2**32 - 1")
        last = self.seed + (self.population or 1) - 1
        check_field(last < 2**32, self, "population", "so small that every seed is below 2**32")
        # Lists (from JSON) would make it unhashable.
        object.__setattr__(self, "sweep", tuple(self.sweep))
        check_field(
            _parsed(self.sweep) is not None, self, "sweep", "NAME=VALUE,VALUE,..., a name once"
        )

    @property
    def sweep_values(self) -> dict[str, list[float]]:
        """The values of the sweep, by name."""
        return _parsed(self.sweep) or {}


def _parsed(sweep: tuple[str, ...]) -> dict[str, list[float]] | None:
    """("lr=1e-4,1e-3",) as {"lr": [1e-4, 1e-3]}; None if it has another form."""
    parsed = {}
    for entry in sweep:
        name, _, values = entry.partition("=")
        try:
            parsed[name] = [float(value) for value in values.split(",")]
        except ValueError:
            return None
    return parsed if len(parsed) == len(sweep) else None
