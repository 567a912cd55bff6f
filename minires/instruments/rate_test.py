"""Which learning rate? The range test: one short run in which the rate grows with every step.

    test = rate_test(classifier, train, recipe)
    test.suggestion, test.largest
    fit(classifier, train, recipe=replace(recipe, lr=test.suggestion))

Below some rate nothing is learned, above another the loss rises again: what lies between can be tried (L. Smith,
"Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3; here the rate grows by a constant
factor, not a constant difference). The network is left as it was.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, count

import numpy as np

from minires.backend import device_of, to_device
from minires.data.batches import Batches
from minires.data.dataset import Dataset
from minires.errors import ConfigError
from minires.fast.step import make_step
from minires.nn import Module
from minires.nn.probe import untouched
from minires.train import finetune
from minires.train.classifier import Classifier
from minires.train.recipe import Recipe

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 120
DIVERGED = 2.0  # times the lowest mean loss: from here on nothing is learned any more
FALL = 0.03  # of the first loss: a smaller fall from decade to decade is noise


@dataclass(frozen=True)
class RateTest:
    """Losses step by step, and what is read from them, if they fell at all.

    suggestion: a peak for the schedule, where the loss falls fastest; largest: where it is lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]  # their mean over half a decade of rates
    suggestion: float | None
    largest: float | None
    optimizer: str
    steps: int  # that were asked for; fewer ran where the loss rose

    def as_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        if self.suggestion is None:
            return f"the loss fell at no rate of {self.rates[0]:.1e} to {self.rates[-1]:.1e}: look for another fault"
        return (
            f"{self.optimizer}: the loss falls fastest at {self.suggestion:.1e} and is lowest at {self.largest:.1e}: "
            f"try --lr {self.suggestion:.1e}"
        )


def rate_test(
    classifier: Classifier,
    train: Dataset,
    recipe: Recipe | None = None,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    on_step: Callable | None = lambda done: None,
) -> RateTest:
    """Train for `steps` steps at rates from `lowest` to `highest`, as `recipe` says but for its schedule.

    Ends early where the loss is DIVERGED times its lowest, or not finite. on_step(done): told after each step.
    ConfigError for rates that do not grow, or fewer than 20 steps.
    """
    recipe = recipe or Recipe()
    if not 0 < lowest < highest < math.inf or steps < 20:
        raise ConfigError(
            f"rate test: expected rates 0 < lowest < highest and 20 steps or more, got {lowest:g}, {highest:g}, {steps}"
        )
    rates, losses, lowest_mean = np.geomspace(lowest, highest, steps), [], math.inf
    wide = max(5, round(steps / math.log10(highest / lowest) / 2))  # steps in half a decade
    with borrowed(classifier.model), finetune.thawed(classifier.model, recipe):
        for x, labels, step in _steps(classifier, train, recipe):
            loss = float(step(x, labels, rates[len(losses)])[0])
            if not math.isfinite(loss):
                break
            losses.append(loss)
            on_step(len(losses))
            mean = np.mean(losses[-wide:])
            lowest_mean = min(lowest_mean, mean)
            if len(losses) == steps or mean > DIVERGED * lowest_mean:
                break
    smooth = [float(np.mean(losses[max(0, i - wide // 2) : i + wide // 2 + 1])) for i in range(len(losses))]
    rates = tuple(rates[: len(losses)].tolist())
    return RateTest(rates, tuple(losses), tuple(smooth), *_read(rates, losses, smooth, wide), recipe.optimizer, steps)


def _read(rates, losses, smooth, wide) -> tuple[float | None, float | None]:
    """(where the loss falls fastest, where it is lowest): by means over the decades before and behind."""
    falls = [
        np.mean(losses[i - 2 * wide : i]) - np.mean(losses[i : i + 2 * wide]) for i in range(2 * wide, len(losses))
    ]
    if not falls or max(falls) < FALL * losses[0]:
        return None, None
    steepest = 2 * wide + int(np.argmax(falls))
    return rates[steepest], rates[steepest + int(np.argmin(smooth[steepest:]))]


def _steps(classifier, train, recipe):
    """(x, labels, step) for ever."""
    model = classifier.model
    optimizer = finetune.make_optimizer(model, recipe)
    device, dtype = device_of(optimizer.weights), optimizer.weights.dtype
    batches = Batches(train, recipe.batch_size, seed=recipe.seed, augment=recipe.augment)
    with make_step(model, optimizer, label_smoothing=recipe.label_smoothing) as step:
        for images, labels, _ in chain.from_iterable(map(batches.epoch, count())):
            images, labels = to_device(images, device), to_device(labels, device)
            yield classifier.preprocess(images, dtype), labels, step


@contextmanager
def borrowed(model: Module) -> Iterator[None]:
    """Whatever is trained inside, the network has its weights and statistics back afterwards."""
    arrays = [(param, param.data) for param in model.params()]  # an optimiser trains copies of them
    with untouched(model):
        try:
            yield
        finally:
            for param, data in arrays:
                param.data = data
