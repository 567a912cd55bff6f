"""How to train: every setting of a run in one place, stored in its checkpoint and its manifest."""

from dataclasses import dataclass, field

from minires.data.augment import Augment
from minires.errors import ConfigError
from minires.nn import Param
from minires.optim import OPTIMIZERS, Optimizer
from minires.ranges import COUNT, POSITIVE, check_fields
from minires.train.schedule import KINDS, Schedule, usual_warmup

# optimiser -> learning rate and weight decay, for batches of 32
USUAL = {"sgd": (0.02, 5e-4), "adam": (1e-3, 0.0), "adamw": (2e-3, 0.05)}


@dataclass(frozen=True)
class Recipe:
    """How to train; stored in the checkpoint. The defaults were chosen by measurement (README).

    >>> recipe = minires.Recipe(epochs=30, optimizer="sgd", lr=0.1, freeze=("stem",), rates={"head": 10})
    >>> recipe.batch_size, recipe.weight_decay
    (32, 0.0005)
    >>> minires.Recipe(optimizer="adamm")
    Traceback (most recent call last):
    minires.errors.ConfigError: unknown optimizer 'adamm': choose one of sgd, adam, adamw
    """

    epochs: int = 11
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float | None = None  # the schedule's peak; None: as in USUAL
    momentum: float = 0.9  # SGD's
    nesterov: bool = True  # SGD's
    betas: tuple[float, float] = (0.9, 0.98)  # Adam's; 0.999 remembers the large first gradients for a whole short run
    weight_decay: float | None = None  # None: as in USUAL
    decay_all: bool = False
    clip_norm: float | None = None
    schedule: str = "onecycle"
    warmup_epochs: float | None = None  # None: one, of a short run no more than 30 %
    label_smoothing: float = 0.0
    # it mirrors only images whose classes allow it
    augment: Augment | None = field(default_factory=lambda: Augment(0.1, 10, 0.1, flip=True))
    precise_bn: bool = True  # at the end estimate running statistics anew, with the last weights (precise_bn.py)
    patience: int | None = None  # epochs without a better test loss before stopping
    # fine-tuning (finetune.py); a part is "stem", "stage2", ..., "head", or a block or layer by its name
    freeze: dict = field(default_factory=dict)  # part -> epochs for which it stays as it is, None: all; or their names
    rates: dict = field(default_factory=dict)  # part -> factor of the learning rate
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.augment, dict):
            object.__setattr__(self, "augment", Augment(**self.augment))
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"unknown optimizer {self.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
        lr, weight_decay = USUAL[self.optimizer]
        object.__setattr__(self, "lr", lr if self.lr is None else self.lr)
        object.__setattr__(self, "weight_decay", weight_decay if self.weight_decay is None else self.weight_decay)
        if self.schedule not in KINDS:
            raise ConfigError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(KINDS)}")
        check_fields(self)
        if not isinstance(self.freeze, dict):
            object.__setattr__(self, "freeze", dict.fromkeys(self.freeze))
        for part, epochs in self.freeze.items():
            if not (epochs is None or COUNT.holds(epochs)):
                raise ConfigError(f"freeze: {part}: expected epochs, {COUNT.words}, or None, got {epochs!r}")
        for part, factor in self.rates.items():
            if not POSITIVE.holds(factor):
                raise ConfigError(f"rates: {part}: expected {POSITIVE.words}, got {factor!r}: or freeze that part")
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"a warm-up of {self.warmup_epochs:g} epochs fills the whole run of {self.epochs}: shorten it, "
                "or train for longer"
            )

    def make_optimizer(self, params: list[Param] | list[dict]) -> Optimizer:
        """The optimiser of `params`, or of groups of them; that of a network's parts is `finetune.make_optimizer`."""
        options = {k: getattr(self, k) for k in ("weight_decay", "decay_all", "clip_norm")}
        if self.optimizer == "sgd":
            options |= {"momentum": self.momentum, "nesterov": self.nesterov}
        else:
            options |= {"betas": self.betas}
        return OPTIMIZERS[self.optimizer](params, **options)

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        total = self.epochs * steps_per_epoch
        if self.warmup_epochs is None:
            warmup = min(steps_per_epoch, usual_warmup(total))
        else:
            warmup = min(round(self.warmup_epochs * steps_per_epoch), max(0, total - 2))
        return Schedule(self.schedule, self.lr, total, warmup)
