"""Can the network learn one batch by heart? Whatever can train reaches a loss of nearly zero; what cannot has a fault.

    result = overfit(classifier, train)
    result.fitted, result.ok, result.findings

A. Karpathy, "A Recipe for Training Neural Networks", 2019, "overfit one batch". Where it fails the instruments say
why: the batch itself, dead ReLUs, `audit` for the structure, `gradcheck` for the gradients, last other rates. The
network is left as it was.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np

from minires.backend import blas_threads, device_of, to_device, to_numpy
from minires.data.dataset import Dataset
from minires.errors import ConfigError, MiniresError
from minires.fast.step import make_step
from minires.instruments.audit import audit, not_run
from minires.instruments.dead import dead_relus, rectifiers
from minires.instruments.findings import Finding
from minires.instruments.gradcheck import gradcheck
from minires.instruments.gradcheck.watch import run_through
from minires.instruments.guard import check_model, not_finite, owned
from minires.instruments.rate_test import borrowed
from minires.nn import Dropout
from minires.ranges import check
from minires.train.classifier import Classifier
from minires.train.recipe import Recipe

IMAGES, STEPS, TARGET = 16, 200, 0.01
OTHER_RATES = (10.0, 0.1, 100.0, 0.01, 1000.0, 0.001)  # times the recipe's
SMALL = 2_000_000  # parameters up to which structure and gradients are looked at even where the batch was fitted


@dataclass(frozen=True)
class Overfit:
    """losses: step by step. fitted: whether the last one is below `target`. looked: at structure and gradients too.

    findings: status 'fail' is a fault, also where the batch was fitted in spite of it.
    """

    fitted: bool
    losses: tuple[float, ...]
    target: float
    images: int
    lr: float
    looked: bool
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the batch was fitted and no fault found."""
        return self.fitted and not any(f.status == "fail" for f in self.findings)

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self) | {"ok": self.ok, "steps": len(self.losses)}

    def __str__(self) -> str:
        end = f"{self.losses[-1]:.3g}" if self.losses else "not finite"
        what = f"{self.images} images by heart at {self.lr:g}: loss {end} after {len(self.losses)} steps"
        if self.ok:
            told = "" if self.looked else "; its structure and gradients were not looked at: minires audit, gradcheck"
            return f"learned {what}{told}"
        return f"learned {what}, in spite of a fault" if self.fitted else f"did not learn {what}, not {self.target:g}"


def overfit(
    classifier: Classifier,
    train: Dataset,
    recipe: Recipe | None = None,
    *,
    images: int = IMAGES,
    steps: int = STEPS,
    target: float = TARGET,
    on_step: Callable | None = lambda done: None,
) -> Overfit:
    """Train on one batch of so many images, class by class in turn, until the loss is below `target`.

    recipe: its optimiser and rate, which stays; no augmentation, weight decay, smoothing, dropout. on_step(done): told
    after each step. ConfigError for a number outside its range, or fewer than two images.
    """
    recipe = replace(recipe or Recipe(), weight_decay=0.0, freeze={}, rates={})
    check(images=images, steps=steps, target=target)
    if min(images, len(train)) < 2:
        raise ConfigError(f"overfit: expected two images or more, got {min(images, len(train))}")
    check_model(classifier.model)
    index = _in_turn(train.labels, images)
    pixels, labels = train.images(index), train.labels[index]
    model = classifier.model
    if not model.params():
        raise ConfigError(f"overfit: {model.name or type(model).__name__} has no parameters to train: add a layer")
    device, dtype = device_of(model.params()[0].data), model.params()[0].data.dtype
    batch = classifier.preprocess(to_device(pixels, device), dtype), to_device(labels, device)
    with owned("overfit"):
        findings = _not_run(model, to_numpy(batch[0][:2]))
        if findings:
            return Overfit(False, (), target, len(index), recipe.lr, True, tuple(findings))
        findings = _of_the_batch(pixels, labels, train)
        with undisturbed(model):
            findings += dead_relus(rectifiers(model, batch[0]))
            losses = losses_on(model, batch, recipe, recipe.lr, steps, target, on_step)
            died = dead_relus(rectifiers(model, batch[0]))
        fitted = bool(losses) and losses[-1] < target
        looked = not fitted or sum(model.parameter_count()) <= SMALL
        if looked:
            findings += _of_the_network(model, to_numpy(batch[0]), findings)
        if not fitted and not findings:
            findings += [_other_rate(model, batch, recipe, steps, target), *died]
    return Overfit(fitted, tuple(losses), target, len(index), recipe.lr, looked, tuple(findings))


def _not_run(model, x) -> list[Finding]:
    """What keeps it from being trained at all, if anything."""
    if bad := not_finite(model):
        return [bad]
    try:
        run_through(model, x)
    except MiniresError as error:
        return [not_run(error)]
    return []


def _in_turn(labels, count):
    """Positions of images, one of each class after the other."""
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        here = labels == label
        rank[here] = np.arange(here.sum())
    return np.sort(np.lexsort((labels, rank))[:count])


@contextmanager
def undisturbed(model):
    """Inside, nothing is dropped; afterwards the network is what it was."""
    dropouts = [m for m in model.modules() if isinstance(m, Dropout) and not m.frozen]
    with borrowed(model):
        model.train()
        for m in dropouts:
            m.freeze()
        try:
            yield
        finally:
            for m in dropouts:
                m.freeze(False)


def losses_on(model, batch, recipe, lr, steps, target, on_step=lambda done: None, *, warm=0) -> list[float]:
    """The loss of each step on one batch (x, labels), until one is below `target` or not finite. warm: steps in which
    the rate grows to `lr`."""
    losses = []
    with make_step(model, recipe.make_optimizer(model.params())) as step, np.errstate(all="ignore"):
        while len(losses) < steps:
            loss = float(step(*batch, lr * min(1, (len(losses) + 1) / (warm + 1)))[0])
            if not math.isfinite(loss):
                break
            losses.append(loss)
            on_step(len(losses))
            if loss < target:
                break
    return losses


def _of_the_batch(pixels, labels, train) -> list[Finding]:
    findings = []
    if len(np.unique(labels)) < 2:
        detail = f"all {len(labels)} labels are {train.classes[labels[0]]!r}: a constant answer is right"
        findings.append(Finding("constant labels", "fail", detail, "look at how the labels are read"))
    _, same = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_inverse=True)
    if same.max() == 0:
        detail = f"all {len(pixels)} images are the same"
        findings.append(Finding("constant images", "fail", detail, "look at how the images are read"))
    elif twins := [k for k in np.unique(same) if len(np.unique(labels[same == k])) > 1]:
        names = ", ".join(train.classes[k] for k in np.unique(labels[same == twins[0]]))
        detail = f"one and the same image is of several classes ({names}): no answer suits both"
        findings.append(Finding("contradicting labels", "fail", detail, "look at how labels and images are matched"))
    return findings


def _of_the_network(model, x, known) -> list[Finding]:
    """Faults of its structure, else of its gradients, on two images; not again what is known by then."""
    known = {f.name for f in known}
    found = [f for f in audit(model, input_shape=x.shape[1:]).findings if f.status == "fail" and f.name not in known]
    if {f.name for f in found} - {"gradient at the add"}:
        return found
    with blas_threads(1):
        report = gradcheck(model, x[:2].astype(np.float64), epsilon=1e-7, tolerance=1e-5, coordinates=0, hold=True)
    return [f for f in report.findings if f.status == "fail"] or found


def _other_rate(model, batch, recipe, steps, target) -> Finding:
    for factor in OTHER_RATES:
        lr = recipe.lr * factor
        with undisturbed(model):
            losses = losses_on(model, batch, recipe, lr, steps, target)
        if losses and losses[-1] < target:
            detail = f"at {lr:g} the same batch is learned in {len(losses)} steps, at {recipe.lr:g} not in {steps}"
            name = "rate too small" if factor > 1 else "rate too large"
            return Finding(name, "fail", detail, f"try --lr {lr:g}, or look for one with minires lr-find")
    tried = f"{recipe.lr * min(OTHER_RATES):g} to {recipe.lr * max(OTHER_RATES):g}"
    detail = f"at no rate of {tried} is the batch learned in {steps} steps, and no fault was found"
    return Finding("not learned", "fail", detail, "give it more --steps, look at the images (minires data show)")
