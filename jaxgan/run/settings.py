"""The settings of a run: `TrainConfig`."""

import dataclasses

from jaxgan.errors import JaxganError
from jaxgan.fields import check_field, documented, is_size
from jaxgan.run import trackers

MEMBERS = 100_000
"""The largest population. A list of more members would fill the memory before any is trained."""


@documented
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
    epochs: int | None = None
    """Passes over the training images; by default as many as --steps needs."""
    steps: int = 23_450
    """Training steps of a run without --epochs. The run ends with the epoch that reaches this
    number. The default is 50 epochs of Fashion-MNIST in batches of 128; a smaller data set has more
    epochs."""
    batch_size: int = 128
    """Images per step; the last batch of an epoch may be smaller."""
    seed: int = 0
    """The seed of all random numbers. Equal seeds give equal runs."""
    sample_every: int | None = None
    """Epochs between two pictures of samples; by default 1 for fewer than 100 epochs, else so
    many that a run has 50 to 75 pictures."""
    checkpoint_every: int | None = None
    """Epochs between two checkpoints; by default ten times --sample-every. There is always one of
    the last epoch."""
    evaluate: bool = True
    """Whether samples are scored at half the run and at its end, for the verdict. This takes some
    seconds for each run or member."""
    evaluate_every: int | None = None
    """Also score samples every this many epochs (`jaxgan.metrics.evaluation`). Each scored epoch is
    saved. The best and the newest checkpoints are kept."""
    population: int | None = None
    """Train a population of this many members in one program, with the seeds SEED, SEED + 1, ...
    At most 100,000."""
    sweep: tuple[str, ...] = ()
    """Settings to compare, as NAME=VALUE,VALUE,..., such as r1=0.1,1,10 or loss=hinge,minimax. NAME
    is a setting of the model with one value, or batch_size. Every combination is trained with every
    seed. Values that do not change the program, such as learning rates and weights of penalties
    above 0, are trained together, others one after the other. At the end sweep.csv has a table, and
    sweep.png its picture."""
    devices: int | None = None
    """How many devices share the members of a population, or the images of each batch. The default
    is all devices for a population or for several processes, else one."""
    stop_on_failure: bool = False
    """Stop and save the run when a failure is seen, with exit status 5. A population stops when
    every member that has not diverged shows a failure."""
    log: tuple[trackers.Name, ...] = ()
    """One or several programs that show the settings, metrics and samples too: TensorBoard,
    Trackio, Weights & Biases, MLflow. Each needs the extra of its name, such as pip install
    'jaxgan[wandb]'. Nothing leaves this machine, unless the environment says so: WANDB_MODE=online,
    MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL."""
    profile: bool = False
    """Write a trace of up to 20 compiled steps (64 on an accelerator) into the folder profile of
    the run, for TensorBoard (with its plugin xprof) or Perfetto."""
    epsilon: float | None = None
    """Train with differential privacy. One image more or less in the data then changes the samples
    little; epsilon bounds how much. 1 is strong, 10 is weak. The run folder has privacy.json, and
    nothing that shows real images. Needs the extra: pip install 'jaxgan[private]'."""
    delta: float = 1e-5
    """With --epsilon: the probability with which this bound may fail. It must be below
    1 / number of images."""
    start_epochs: int = 0
    """With --epsilon, for a GAN or a diffusion model: epochs on 59,904 samples of private Gaussians
    before the first private step. The Gaussians take a third of epsilon. Training on their samples
    costs no further epsilon."""
    conditional: bool = False
    """Train on the labels of the data too, so that samples of a wanted class can be drawn."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps"):
            check_field(is_size(getattr(self, name)), self, name, "a whole number above 0")
        optional = ("image_size", "population", "devices", "evaluate_every")
        for name in (*optional, "sample_every", "checkpoint_every"):
            value = getattr(self, name)
            check_field(value is None or is_size(value), self, name, "a whole number above 0")
        check_field(self.batch_size < 2**31, self, "batch_size", "below 2**31")
        epsilon, delta = self.epsilon, self.delta
        check_field(epsilon is None or 0 < epsilon <= 100, self, "epsilon", "above 0, at most 100")
        check_field(0 < delta < 1, self, "delta", "between 0 and 1")
        start = self.start_epochs
        check_field(start == 0 or is_size(start), self, "start_epochs", "a whole number, 0 or more")
        check_field(
            not start or epsilon is not None, self, "start_epochs", "0 in a run without epsilon"
        )
        check_field(self.epochs is None or self.epochs >= 0, self, "epochs", "0 or more")
        check_field(0 <= self.seed < 2**32, self, "seed", "from 0 to 2**32 - 1")
        last = self.seed + (self.population or 1) - 1
        check_field(last < 2**32, self, "population", "so small that every seed is below 2**32")
        members = self.population or 1
        check_field(members <= MEMBERS, self, "population", f"at most {MEMBERS:,}")
        # Lists (from JSON) would make it unhashable.
        for name in ("sweep", "log"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        known = list(trackers.TRACKERS)
        is_known = set(self.log) <= {*known} and len({*self.log}) == len(self.log)
        check_field(is_known, self, "log", f"some of {', '.join(known)}, each once")
        texts = _parsed(self.sweep)
        is_whole = all(name and all(values) for name, values in texts.items())
        once = len(texts) == len(self.sweep)
        check_field(is_whole and once, self, "sweep", "NAME=VALUE,VALUE,..., a name once")

    def fitted(self, images: int) -> "TrainConfig":
        """The settings for a data set of this many images.

        epochs, sample_every and checkpoint_every become numbers if they were None. A batch has at
        most all images.
        """
        epochs = self.epochs
        if epochs is None:
            epochs = -(-self.steps // self.steps_per_epoch(images))
        sample_every = self.sample_every or max(1, epochs // 50)
        return dataclasses.replace(
            self,
            batch_size=min(self.batch_size, images),
            epochs=epochs,
            sample_every=sample_every,
            checkpoint_every=self.checkpoint_every or 10 * sample_every,
        )

    def steps_per_epoch(self, images: int) -> int:
        """The number of steps in an epoch over this many images. The last batch may be smaller."""
        return -(-images // self.batch_size)

    def all_steps(self, images: int) -> int:
        """The number of steps of the whole run, of settings that are `fitted`."""
        return (self.epochs or 0) * self.steps_per_epoch(images)

    @property
    def sweep_texts(self) -> dict[str, list[str]]:
        """The values of the sweep as they were written, by name."""
        return _parsed(self.sweep)

    @property
    def sweep_values(self) -> dict[str, list[float]]:
        """The values of a sweep of numbers alone, by name.

        Raises:
          JaxganError: if a value is not a number.
        """
        try:
            return {name: [float(x) for x in texts] for name, texts in self.sweep_texts.items()}
        except ValueError as error:
            raise JaxganError(
                f"the members of a population differ in numbers alone ({error}): "
                "jaxgan.run.sweep.train trains other values in groups"
            ) from None


def _parsed(sweep: tuple[str, ...]) -> dict[str, list[str]]:
    """("lr=1e-4,1e-3",) as {"lr": ["1e-4", "1e-3"]}."""
    entries = [entry.partition("=") for entry in sweep]
    return {name: values.split(",") for name, _, values in entries}
