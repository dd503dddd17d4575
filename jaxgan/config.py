"""What is learned (GANConfig), how a run goes (TrainConfig), and the named presets of both."""

import dataclasses
import math
import numbers
import typing
from typing import Any, Literal

from jaxgan import schedules
from jaxgan.errors import JaxganError
from jaxgan.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class GANConfig:
    """Everything that defines the two networks and how they learn.

    Frozen, hashable and compared by value: it is a static part of every state, and equal
    configs share one compiled program. The defaults are the reference GAN. Variants come from
    `dataclasses.replace`.

    A field that is a Schedule may change over the steps: a number, or KIND:START:END:STEPS, such as
    cosine:0.1:0:10000 (`jaxgan.schedules`).

    Raises:
      JaxganError: at construction, if a field is out of its range.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    """Height, width and channels of the images."""
    latent_dim: int = 100
    """Size of the generator's input, drawn from N(0, I)."""
    generator_widths: tuple[int, ...] = (64, 128, 256)
    """Hidden layers of the generator."""
    discriminator_widths: tuple[int, ...] = (256, 128, 64)
    """Hidden layers of the discriminator."""
    discriminator_dropout: tuple[float, ...] = (0.5, 0.3, 0.2)
    """Dropout rate after each hidden layer of the discriminator, in [0, 1)."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Of both players. sgd is plain gradient descent."""
    generator_lr: float = 1e-3
    """Learning rate of the generator."""
    discriminator_lr: float = 1e-3
    """Learning rate of the discriminator."""
    lr_scale: Schedule = 1.0
    """A factor for both learning rates."""
    generator_b1: float = 0.9
    """Decay of the first moment in the generator's Adam."""
    discriminator_b1: float = 0.9
    """Decay of the first moment in the discriminator's Adam."""
    generator_b2: float = 0.999
    """Decay of the second moment in the generator's Adam."""
    discriminator_b2: float = 0.999
    """Decay of the second moment in the discriminator's Adam."""
    adam_eps: float = 1e-7
    """Added to the root of the second moment in both Adams (after bias correction)."""
    loss: Literal[
        "non_saturating", "minimax", "wasserstein", "hinge", "least_squares", "relativistic"
    ] = "non_saturating"
    """What the two players play for (`jaxgan.losses`)."""
    label_smoothing: float = 0.0
    """The discriminator's target on real images is 1 minus this, in [0, 1)."""
    updates: Literal["simultaneous", "alternating"] = "simultaneous"
    """Whether the generator learns from the discriminator as it was before the step, or from the
    one that the step has just updated."""
    disc_steps: int = 1
    """The discriminator learns in each step, from a fresh batch, the generator in every k-th."""
    unroll_steps: int = 0
    """The generator plays against the discriminator as it will be after k more updates on the same
    batch, with the same noise, and its gradient goes through those (arXiv 1611.02163; 5 is usual).
    With alternating updates they follow that of the step."""
    pac: int = 1
    """How many images the discriminator judges together, as channels of one (arXiv 1712.04086). Of
    a batch that this does not divide, the last images are left out."""
    instance_noise: Schedule = 0.0
    """Standard deviation of noise on all that the discriminator sees, where images are in [-1, 1]
    (arXiv 1610.04490); annealed to 0 as a rule."""
    augment: Schedule = 0.0
    """Probability of each augmentation of all images that the discriminator sees: moved, a part
    cut out (`jaxgan.augmentation`, arXiv 2006.10738). In [0, 1]; from about 0.8 on the generator
    may learn them too (arXiv 2006.06676)."""
    r1: Schedule = 0.0
    """Weight of half the squared gradient norm on real images (arXiv 1801.04406, 10 there)."""
    r2: Schedule = 0.0
    """The same on generated images."""
    gradient_penalty: Schedule = 0.0
    """Weight of (gradient norm - target)^2 between real and generated images (WGAN-GP, arXiv
    1704.00028, 10 there)."""
    gradient_penalty_target: float = 1.0
    """The norm that `gradient_penalty` asks for."""
    dragan: Schedule = 0.0
    """Weight of (gradient norm - 1)^2 around real images (arXiv 1705.07215, 10 there)."""
    roth: Schedule = 0.0
    """Weight of the penalty that stands for noise on the images (arXiv 1705.09367)."""
    weight_penalty: Schedule = 0.0
    """Weight of the sum of squares of the discriminator's kernels."""
    weight_clip: float = 0.0
    """The discriminator's parameters are kept within plus and minus this; 0: not at all (arXiv
    1701.07875, 0.01 there)."""
    spectral_norm: bool = False
    """Divide the kernels of the discriminator MLP by their largest singular value (arXiv
    1802.05957)."""
    ema_decay: float = 0.0
    """Samples come from an average of the generator's parameters that decays by this each step, in
    [0, 1); 0: from the parameters themselves (arXiv 1806.04498; 0.999 is usual). In step t of the
    first by (1 + t) / (10 + t), while that is less, so that the start is soon forgotten."""
    precision: Literal["f32", "bf16"] = "f32"
    """What the two MLPs compute in. bf16: layers in bfloat16; parameters, moments, losses and
    images stay float32. Faster on accelerators, not on CPUs. Modules of your own have their own
    dtype."""
    generator: Any = None
    """A Flax linen module, latents [B, latent_dim] -> images [B, H, W, C] in [-1, 1], in place of
    the MLP. If its `__call__` has an argument `train`, it is told which pass it is in."""
    discriminator: Any = None
    """A Flax linen module, images [B, H, W, C] -> logits [B] or [B, 1], in place of the MLP;
    `train` as for the generator."""
    bounded: bool = True
    """Whether the generator MLP ends in tanh, as images in [-1, 1] need and points do not. In a run
    it follows the data, as `image_shape` does."""

    def __post_init__(self):
        for name in ("image_shape", "generator_widths", "discriminator_widths"):
            # Lists (from JSON, from a command line) would make the config unhashable.
            object.__setattr__(self, name, tuple(getattr(self, name)))
            _check(
                all(_is_size(n) for n in getattr(self, name)), self, name, "whole numbers above 0"
            )
        object.__setattr__(self, "discriminator_dropout", tuple(self.discriminator_dropout))
        _check(len(self.image_shape) == 3, self, "image_shape", "(height, width, channels)")
        _check(_is_size(self.latent_dim), self, "latent_dim", "a whole number above 0")
        rates = self.discriminator_dropout
        _check(
            all(0 <= rate < 1 for rate in rates), self, "discriminator_dropout", "rates in [0, 1)"
        )
        _check(
            len(rates) == len(self.discriminator_widths),
            self,
            "discriminator_dropout",
            f"one rate for each of the {len(self.discriminator_widths)} discriminator_widths",
        )
        for player in ("generator", "discriminator"):
            rate = getattr(self, f"{player}_lr")
            _check(0 < rate < math.inf, self, f"{player}_lr", "above 0, and finite")
            for name in (f"{player}_b1", f"{player}_b2"):
                _check(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        _check(self.adam_eps > 0, self, "adam_eps", "above 0")
        self._check_remedies()
        self._check_combinations()
        try:
            hash(self)
        except TypeError as error:
            raise JaxganError(
                f"GANConfig must be hashable, and so the fields of its modules: {error}"
            ) from error

    def _check_remedies(self):
        for name, known in _CHOICES.items():
            _check(getattr(self, name) in known, self, name, "one of " + ", ".join(known))
        _check(_is_size(self.disc_steps), self, "disc_steps", "a whole number above 0")
        _check(_is_size(self.pac), self, "pac", "a whole number above 0")
        steps = self.unroll_steps
        _check(steps == 0 or _is_size(steps), self, "unroll_steps", "a whole number, 0 or more")
        for name in ("label_smoothing", "ema_decay"):
            _check(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        for name in ("weight_clip", "gradient_penalty_target"):
            _check(0 <= getattr(self, name) < math.inf, self, name, "0 or more, and finite")
        for name in ("instance_noise", "augment", *PENALTIES, "lr_scale"):
            try:
                ends = schedules.ends(getattr(self, name))
            except JaxganError as error:
                raise JaxganError(f"{name}: {error}") from None
            in_range = all(0 <= end < math.inf for end in ends)
            _check(in_range, self, name, "0 or more, and finite")
        _check(max(schedules.ends(self.augment)) <= 1, self, "augment", "from 0 to 1")
        _check(not schedules.is_zero(self.lr_scale), self, "lr_scale", "above 0 at some time")

    def _check_combinations(self):
        """Refuses what makes no sense together."""
        on = {name for name in PENALTIES if not schedules.is_zero(getattr(self, name))}
        bounds = {"weight_clip"} if self.weight_clip else set()
        bounds |= {"spectral_norm"} if self.spectral_norm else set()
        bounds |= on - {"roth", "weight_penalty"}
        own = self.discriminator is not None
        adam = [name for name in _ADAM if getattr(self, name) != getattr(GANConfig, name)]
        target = self.gradient_penalty_target != GANConfig.gradient_penalty_target
        reasons = {
            "augment moves and cuts images, and points are none": (
                not schedules.is_zero(self.augment) and self.image_shape[:2] == (1, 1)
            ),
            f"optimizer 'sgd' has no moments: leave out {', '.join(map(repr, adam))}": (
                self.optimizer == "sgd" and adam
            ),
            "gradient_penalty_target is that of gradient_penalty, whose weight is 0": (
                target and "gradient_penalty" not in on
            ),
            "precision 'bf16' is for the two MLPs, and both networks are modules of your own: give "
            "them a dtype instead": self.precision == "bf16" and self.generator and own,
            "spectral_norm is for the discriminator MLP, and yours is a module of your own: wrap "
            "its layers in flax.linen.SpectralNorm instead": self.spectral_norm and own,
            "weight_clip and spectral_norm: the scale that is clipped is divided out again": (
                self.weight_clip and self.spectral_norm
            ),
            "loss 'wasserstein' is unbounded unless the critic is held Lipschitz: add "
            "gradient_penalty (10 is usual), weight_clip (0.01), r1 or spectral_norm": (
                self.loss == "wasserstein" and not bounds and not own
            ),
            f"label_smoothing needs a loss with labels, and {self.loss!r} has none: take "
            "non_saturating, minimax or least_squares": (
                self.label_smoothing and self.loss in ("wasserstein", "hinge", "relativistic")
            ),
            f"roth stands for noise under a cross-entropy, and {self.loss!r} is none: take "
            "non_saturating or minimax, or r1 and r2": (
                "roth" in on and self.loss not in ("non_saturating", "minimax")
            ),
        }
        for reason, found in reasons.items():
            if found:
                raise JaxganError(reason)


_CHOICES = {
    field.name: typing.get_args(field.type)
    for field in dataclasses.fields(GANConfig)
    if typing.get_origin(field.type) is Literal
}

_ADAM = ("generator_b1", "discriminator_b1", "generator_b2", "discriminator_b2", "adam_eps")

PENALTIES = ("r1", "r2", "gradient_penalty", "dragan", "roth", "weight_penalty")
"""The fields of GANConfig that are weights of penalties."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a run goes: its data, its length and what it leaves behind.

    Raises:
      JaxganError: at construction, if a field is out of its range.
    """

    dataset: str = "auto"
    """fashion_mnist, mnist, kmnist, digits, ring, grid, a folder of PNG/JPEG images, a .npy or .npz
    file, tfds:NAME, or auto: Fashion-MNIST where it can be had, else digits."""
    data_dir: str | None = None
    """Where the files of the dataset are looked for first; then $JAXGAN_DATA_DIR, the cache of
    tensorflow-datasets, the network."""
    image_size: int | None = None
    """Resize and centre-crop the images to this many pixels square."""
    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step; the last batch of an epoch may be smaller."""
    seed: int = 0
    """Of everything random: same seed, same run."""
    sample_every: int = 1
    """Epochs between two pictures of samples."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints; the last epoch always leaves one."""
    evaluate_every: int | None = None
    """Epochs between two evaluations of samples (`jaxgan.evaluation`), the last one included; by
    default none. Each leaves a checkpoint, and the best is kept beside the newest. A signal waits
    for the one at hand."""
    population: int | None = None
    """Train this many GANs in one program, with the seeds SEED, SEED + 1, ..."""
    sweep: tuple[str, ...] = ()
    """What members of a population have of their own, as NAME=VALUE,VALUE,...: generator_lr,
    discriminator_lr, their _b1 and _b2, adam_eps. Every combination gets every seed."""
    devices: int | None = None
    """How many devices share the work, the first ones: a population's members, else each batch's
    images. By default all for a population or several processes, else one."""
    stop_on_failure: bool = False
    """End the run when a failure is seen (`jaxgan.diagnostics`), a population when one is seen in
    every member that has not diverged: saved, with exit status 5."""
    tensorboard: bool = False
    """Also write TensorBoard events (needs the extra: pip install 'jaxgan[tensorboard]')."""

    def __post_init__(self):
        for name in ("batch_size", "sample_every", "checkpoint_every"):
            _check(_is_size(getattr(self, name)), self, name, "a whole number above 0")
        for name in ("image_size", "population", "devices", "evaluate_every"):
            value = getattr(self, name)
            _check(value is None or _is_size(value), self, name, "a whole number above 0")
        _check(self.epochs >= 0, self, "epochs", "0 or more")
        _check(0 <= self.seed < 2**32, self, "seed", "from 0 to 2**32 - 1")
        last = self.seed + (self.population or 1) - 1
        _check(last < 2**32, self, "population", "so small that every seed is below 2**32")
        # Lists (from JSON) would make it unhashable.
        object.__setattr__(self, "sweep", tuple(self.sweep))
        _check(_parsed(self.sweep) is not None, self, "sweep", "NAME=VALUE,VALUE,..., a name once")

    @property
    def sweep_values(self) -> dict[str, list[float]]:
        """The sweep's values by name."""
        return _parsed(self.sweep) or {}


def _parsed(sweep: tuple[str, ...]) -> dict[str, list[float]] | None:
    """("lr=1e-4,1e-3",) as {"lr": [1e-4, 1e-3]}; None if it is not written so."""
    parsed = {}
    for entry in sweep:
        name, _, values = entry.partition("=")
        try:
            parsed[name] = [float(value) for value in values.split(",")]
        except ValueError:
            return None
    return parsed if len(parsed) == len(sweep) else None


def _is_size(value) -> bool:
    return isinstance(value, numbers.Integral) and int(value) > 0


def _check(ok: bool, config, name: str, wanted: str) -> None:
    if not ok:
        got = getattr(config, name)
        raise JaxganError(f"{name} must be {wanted}, got {got!r}")


_TUNED = GANConfig(
    loss="hinge",
    updates="alternating",
    generator_lr=5e-4,
    discriminator_lr=4e-3,
    lr_scale="cosine:1:0.1:23450",
    generator_b1=0.5,
    discriminator_b1=0.5,
    generator_b2=0.99,
    discriminator_b2=0.99,
    discriminator_dropout=(0.0, 0.0, 0.0),
    r1=0.4,
    ema_decay=0.9995,
)

_LARGE = dataclasses.replace(
    _TUNED,
    generator_widths=(256, 512, 1024),
    discriminator_widths=(1024, 512, 256),
    generator_lr=2.5e-4,
    discriminator_lr=2e-3,
    lr_scale="cosine:1:0.1:56280",
    augment="linear:0:0.4:56280",
    ema_decay=0.9998,
)

PRESETS: dict[str, tuple[GANConfig, TrainConfig]] = {
    "reference": (GANConfig(), TrainConfig()),
    "tuned": (_TUNED, TrainConfig()),
    "large": (_LARGE, TrainConfig(epochs=60, batch_size=64)),
}
"""Settings by name, for `scripts/train.py --preset`. tuned: the reference's two networks, with what
`benchmarks/search.py` and trials after it found for them on Fashion-MNIST. large: layers of four
times the width, in batches of half the size: more steps did more for it than larger ones. The rates
of both fall within their epochs."""
