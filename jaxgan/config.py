"""GANConfig: the two networks and how they learn."""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from jaxgan import schedules
from jaxgan.adversarial import losses
from jaxgan.adversarial.penalties import PENALTIES, Penalty, Weights
from jaxgan.errors import JaxganError
from jaxgan.fields import (
    check_field,
    check_function,
    check_hashable,
    check_module,
    check_optimizer,
    check_schedules,
    check_types,
    documented,
    is_size,
)
from jaxgan.schedules import Schedule


@documented
@dataclasses.dataclass(frozen=True)
class GANConfig(Weights):
    """Everything that defines the two networks and how they learn.

    Frozen, hashable and compared by value. It is a static part of every state, and equal configs
    share one compiled program. The defaults are the reference GAN. `dataclasses.replace` makes
    variants.

    A field of type Schedule is a number, or a string KIND:START:END:STEPS for a number that changes
    over the steps, such as cosine:0.1:0:10000 (`jaxgan.schedules`). In a run you may leave out
    STEPS. The schedule then lasts for the whole run.

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
    """The optimizer of both networks. sgd is plain gradient descent."""
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
    """Added to the root of the second moment in both Adams, after bias correction."""
    max_grad_norm: float = 0.0
    """A larger gradient of a batch is scaled down to this norm before the optimizer gets it; 0 does
    not clip. `clip_norm` is for the gradients of single images."""
    generator_optimizer: Any = None
    """An optax.GradientTransformation in place of the generator's optimizer, such as
    optax.adamw(1e-4). Leave out the settings that it replaces. Two configs are equal only if they
    hold the same optimizer object."""
    discriminator_optimizer: Any = None
    """The same in place of the discriminator's optimizer."""
    loss: losses.AnyLoss = "non_saturating"
    """The adversarial loss: a name in `LOSSES`, a function (real_logits, fake_logits) -> Losses, or
    a `Loss` (all in `jaxgan.adversarial.losses`)."""
    label_smoothing: float = 0.0
    """In [0, 1). The discriminator's target on real images is 1 minus this."""
    updates: Literal["simultaneous", "alternating"] = "simultaneous"
    """Whether the generator's gradient is taken against the discriminator before its update in the
    same step (simultaneous), or after it (alternating)."""
    disc_steps: int = 1
    """Steps for each update of the generator. Every step updates the discriminator."""
    unroll_steps: int = 0
    """The generator's loss is taken against the discriminator after this many more updates on the
    same batch. Its gradient goes through these updates (arXiv 1611.02163; 5 is usual)."""
    pac: int = 1
    """How many images the discriminator gets at once, as channels of one image (arXiv 1712.04086).
    If the batch size is not a multiple of it, the last images are left out."""
    instance_noise: Schedule = 0.0
    """Standard deviation of the noise on real and generated images, which are in [-1, 1], before
    the discriminator (arXiv 1610.04490). It usually falls to 0."""
    augment: Schedule = 0.0
    """Probability, in [0, 1], of each augmentation of real and generated images before the
    discriminator: translation and cutout (arXiv 2006.10738). From about 0.8 on the generator may
    learn to make augmented images (arXiv 2006.06676)."""
    augmentation: Any = None
    """A function (images, probability, rng) -> images of your own, in place of translation and
    cutout (`jaxgan.adversarial.augmentation`). The probability is `augment`, which must not be 0.
    """
    penalties: tuple[tuple[Penalty, Schedule], ...] = ()
    """Penalties of your own with their weights: {penalty: weight}, or pairs (penalty, weight). A
    penalty is a function `Inputs -> [B]` (`jaxgan.adversarial.penalties`)."""
    weight_clip: float = 0.0
    """Clips the discriminator's parameters to plus and minus this; 0 does not clip (arXiv
    1701.07875; 0.01 there)."""
    spectral_norm: bool = False
    """Divide each kernel of the discriminator MLP by its largest singular value (arXiv
    1802.05957)."""
    ema_decay: float = 0.0
    """Decay, in [0, 1), of an exponential moving average of the generator's parameters, from which
    samples are drawn (arXiv 1806.04498; 0.999 is usual). With 0, samples come from the parameters
    themselves. In step t the decay is at most (1 + t) / (10 + t). It does not average the running
    statistics of a BatchNorm generator: these belong to the parameters of the last steps."""
    precision: Literal["f32", "bf16"] = "f32"
    """The type in which the two MLPs compute. With bf16 their layers compute in bfloat16, and
    parameters, moments, losses and images stay float32. It is faster on accelerators, not on CPUs.
    """
    generator: Any = None
    """A Flax linen module, latents [B, latent_dim] -> images [B, H, W, C] in [-1, 1], in place of
    the MLP. If its `__call__` has an argument `train`, `training` or `is_training`, this is
    True in training passes; `deterministic` and `use_running_average` are False in them. A linen
    module without any of these is refused if its dropout or BatchNorm is off: it would be off in
    training too. With `num_classes` it must have an argument `labels`, int32 [B]."""
    discriminator: Any = None
    """A Flax linen module, images [B, H, W, C] -> logits [B] or [B, 1], in place of the MLP. Like
    the generator it gets `train`, or a variant, and `labels`; with `pac` above 1 these are
    [B, pac]."""
    bounded: bool = True
    """Whether the generator MLP ends in tanh. Images in [-1, 1] need it, points do not. A run sets
    it and `image_shape` to fit the data."""
    clip_norm: float = 0.0
    """The largest norm of the discriminator's gradient for one real image. With a value above 0 its
    gradients are clipped image by image, and the metrics leave out what real images decide. 0 does
    not clip. train.py --epsilon takes 1 by default (DP-SGD, arXiv 1607.00133, 1802.06739)."""
    noise_multiplier: float = 0.0
    """The standard deviation of the noise on the sum of these gradients, in units of `clip_norm`.
    train.py finds it for --epsilon."""
    num_classes: int = 0
    """The number of classes of a conditional GAN, which makes images of a wanted class. Its batches
    hold labels, which start at 0. With 0 there are no classes. A run with `conditional` takes the
    number from the labels of the data."""
    latent_scale: float = 1.0
    """Samples are drawn from latents that are multiplied by this. Training is not changed. Above 1
    samples vary more and look less real. Below 1 they vary less, much as by the truncation trick
    (arXiv 1809.11096), which draws large latents anew. In a run it also changes the scores and the
    verdict."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("image_shape", "generator_widths", "discriminator_widths"):
            # Lists (from JSON or a command line) would make the config unhashable.
            object.__setattr__(self, name, tuple(getattr(self, name)))
            check_field(
                all(is_size(n) for n in getattr(self, name)), self, name, "whole numbers above 0"
            )
        object.__setattr__(self, "discriminator_dropout", tuple(self.discriminator_dropout))
        pairs = self.penalties.items() if isinstance(self.penalties, Mapping) else self.penalties
        is_pairs = isinstance(pairs, Iterable) and all(
            isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
        )
        check_field(is_pairs, self, "penalties", "{penalty: weight}, or pairs (penalty, weight)")
        object.__setattr__(self, "penalties", tuple(map(tuple, pairs)))
        check_field(len(self.image_shape) == 3, self, "image_shape", "(height, width, channels)")
        check_field(is_size(self.latent_dim), self, "latent_dim", "a whole number above 0")
        scale = self.latent_scale
        check_field(0 <= scale < math.inf, self, "latent_scale", "0 or more, and finite")
        classes = self.num_classes
        check_field(
            classes == 0 or is_size(classes), self, "num_classes", "a whole number, 0 or more"
        )
        rates = self.discriminator_dropout
        check_field(
            all(isinstance(rate, numbers.Real) and 0 <= rate < 1 for rate in rates),
            self,
            "discriminator_dropout",
            "rates in [0, 1)",
        )
        check_field(
            len(rates) == len(self.discriminator_widths),
            self,
            "discriminator_dropout",
            f"one rate for each of the {len(self.discriminator_widths)} discriminator_widths",
        )
        for network in ("generator", "discriminator"):
            rate = getattr(self, f"{network}_lr")
            check_field(0 < rate < math.inf, self, f"{network}_lr", "above 0, and finite")
            for name in (f"{network}_b1", f"{network}_b2"):
                check_field(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        check_field(self.adam_eps > 0, self, "adam_eps", "above 0")
        self._check_ranges()
        self._check_own_parts()
        self._check_combinations()
        for network in ("generator", "discriminator"):
            check_module(network, getattr(self, network), self.num_classes)

    def _check_ranges(self) -> None:
        check_field(is_size(self.disc_steps), self, "disc_steps", "a whole number above 0")
        check_field(is_size(self.pac), self, "pac", "a whole number above 0")
        steps = self.unroll_steps
        check_field(steps == 0 or is_size(steps), self, "unroll_steps", "a whole number, 0 or more")
        for name in ("label_smoothing", "ema_decay"):
            check_field(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        for name in ("weight_clip", "max_grad_norm", "clip_norm", "noise_multiplier"):
            value = getattr(self, name)
            check_field(0 <= value < math.inf, self, name, "0 or more, and finite")
        check_schedules(self, ("instance_noise", "augment", *PENALTIES, "lr_scale"))
        check_field(max(schedules.ends(self.augment)) <= 1, self, "augment", "from 0 to 1")
        check_field(not schedules.is_zero(self.lr_scale), self, "lr_scale", "above 0 at some time")

    def _check_own_parts(self) -> None:
        check_hashable("loss", losses.find(self.loss))
        for penalty, weight in self.penalties:
            check_function("a penalty", penalty, "Inputs -> [B]")
            schedules.check("the weight of a penalty", weight)
        if self.augmentation is not None:
            check_function(
                "augmentation", self.augmentation, "(images, probability, rng) -> images"
            )
        for network in ("generator", "discriminator"):
            check_optimizer(self, f"{network}_optimizer", [f"{network}_{x}" for x in _OF_NETWORK])
        if self.generator_optimizer is not None and self.discriminator_optimizer is not None:
            check_optimizer(self, "generator_optimizer", ["optimizer", "adam_eps"])

    @property
    def penalty_weights(self) -> list[tuple[Penalty, Schedule]]:
        """All penalties with their weights."""
        known = [(penalty, getattr(self, name)) for name, penalty in PENALTIES.items()]
        return [*known, *self.penalties]

    def _check_combinations(self) -> None:
        """Refuses options that make no sense together."""
        on = {name for name in PENALTIES if not schedules.is_zero(getattr(self, name))}
        bounds = {"weight_clip"} if self.weight_clip else set()
        bounds |= {"spectral_norm"} if self.spectral_norm else set()
        bounds |= on - {"roth", "weight_penalty"}
        own = self.discriminator is not None
        adam = [name for name in _ADAM if getattr(self, name) != getattr(GANConfig, name)]
        loss, private = losses.find(self.loss), self.clip_norm > 0
        couples = "must not couple images: with clip_norm each gradient is that of one image"
        reasons = {
            "noise_multiplier has no effect without clip_norm (1 is usual)": (
                self.noise_multiplier and not private
            ),
            f"pac {couples}; leave out pac, which packs several": private and self.pac > 1,
            f"dragan {couples}; it takes the deviation of a batch: take r1": (
                private and "dragan" in on
            ),
            "the relativistic loss shows real images to the generator: with clip_norm choose "
            "another loss": private and self.loss == "relativistic",
            "unroll_steps has no noise: the generator's gradient would go through real images; "
            "leave out unroll_steps or clip_norm": private and self.unroll_steps,
            "precision 'bf16' rounds sums of many images: with clip_norm, which bounds what one "
            "image adds, leave it out": private and self.precision == "bf16",
            "spectral_norm keeps statistics beside the clipped gradients; leave out spectral_norm "
            "or clip_norm": private and self.spectral_norm,
            "augment is for images, and the data are points: leave it out": (
                not schedules.is_zero(self.augment) and self.image_shape[:2] == (1, 1)
            ),
            "augmentation has no effect without augment, its probability": (
                self.augmentation is not None and schedules.is_zero(self.augment)
            ),
            f"optimizer 'sgd' has no moments: leave out {', '.join(map(repr, adam))}": (
                self.optimizer == "sgd" and adam
            ),
            "precision 'bf16' is for the MLPs, and both networks are your own modules: give them "
            "a dtype instead": self.precision == "bf16" and self.generator and own,
            "spectral_norm is for the discriminator MLP, and yours is your own module: wrap its "
            "layers in flax.linen.SpectralNorm instead": self.spectral_norm and own,
            "weight_clip has no effect with spectral_norm, which divides by the scale: leave one "
            "out": self.weight_clip and self.spectral_norm,
            "loss 'wasserstein' is unbounded unless the discriminator is kept Lipschitz: add "
            "gradient_penalty (10 is usual), weight_clip (0.01), r1 or spectral_norm": (
                self.loss == "wasserstein" and not bounds and not own
            ),
            f"label_smoothing needs a loss with labels, and {self.loss!r} has none: take "
            "non_saturating, minimax or least_squares": (
                self.label_smoothing and not loss.takes_smoothing
            ),
            f"roth needs a cross-entropy, and {self.loss!r} is none: take non_saturating or "
            "minimax, or r1 and r2": "roth" in on and not loss.is_cross_entropy,
        }
        for reason, found in reasons.items():
            if found:
                raise JaxganError(reason)


_ADAM = ("generator_b1", "discriminator_b1", "generator_b2", "discriminator_b2", "adam_eps")
_OF_NETWORK = ("lr", "b1", "b2")
