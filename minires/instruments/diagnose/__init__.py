"""Why does it not learn? From a symptom to its cause: data, network, training or file, whatever is at hand.

    print(minires.diagnose("runs/signs"))

What bears on the question runs, cheapest first: the file, the images and their labels, the weights, one batch forward
and back, the structure and the gradients, the curves, some steps at other rates, the running statistics, the
predictions. Nothing is changed. The causes come in order: what is shown before what is likely, what lies further up
before what follows from it.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Column, Table

from minires.backend import to_numpy
from minires.console import Shown
from minires.data.dataset import Dataset
from minires.instruments.diagnose import data as of_data
from minires.instruments.diagnose import network as of_network
from minires.instruments.diagnose import parameters as of_parameters
from minires.instruments.diagnose import predictions as of_predictions
from minires.instruments.diagnose import training as of_training
from minires.instruments.diagnose.cause import LIKELY, POSSIBLE, SURE, Cause, ordered
from minires.instruments.diagnose.images import sample
from minires.instruments.diagnose.subject import Subject, opened
from minires.nn import Module

__all__ = ["Cause", "Diagnosis", "diagnose"]

BATCH = 32  # images of the batch that goes through the network


@dataclass(frozen=True)
class Diagnosis(Shown):
    """What was found. causes: the likeliest first; looked: what was looked at, in order."""

    title: str
    causes: tuple[Cause, ...]
    looked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no cause was found that is shown or likely."""
        return not any(cause.status == "fail" for cause in self.causes)

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        rows = [{k: v for k, v in asdict(c).items() if k != "show"} | {"status": c.status} for c in self.causes]
        return {"title": self.title, "ok": self.ok, "looked at": self.looked, "causes": rows}

    def table(self) -> Table:
        """A row a cause: how sure, what, the evidence, what to do."""
        table = Table(
            "",
            Column("cause", no_wrap=True),
            Column("evidence", overflow="fold"),
            Column("what to do", overflow="fold"),
        )
        table.title, table.title_justify = self.title, "left"
        for cause in self.causes:
            table.add_row(cause.sure, cause.name, cause.evidence, cause.fix)
        nothing = "" if self.causes else "no cause of trouble was found; "
        table.caption, table.caption_justify = f"{nothing}looked at: {', '.join(self.looked)}", "left"
        return table


def diagnose(
    what: Any,
    *,
    data: Any = None,
    test: Any = None,
    recipe: Any = None,
    history: list[dict] | None = None,
    inputs: Any = None,
    weights: Any = None,
    model: Module | None = None,
    on_step: Callable[[str], Any] = lambda doing: None,
) -> Diagnosis:
    """The likeliest causes why `what` does not do what it should, with evidence in numbers and what to do.

    what     a run's folder; a file of weights or data, a folder of images; or a Classifier, Network, layer, Dataset
    data     training images, a Dataset, a pair (images, labels) or a path; test: images held out
    recipe   a Recipe, that it was or will be trained with; history: rows as in a run's `history.jsonl`
    inputs   (N, H, W, C) floats as one's own code gives them to the network; of a single layer, what it takes
    weights  a file that should fit the network `what`; model: the network of a run, where its file alone builds none
    on_step  told what is looked at next

    ConfigError for what is none of these. Whatever is wrong with the subject itself becomes a cause.

    >>> train, test = minires.make_signs(96, 24, size=16)
    >>> labels = numpy.roll(train.labels, 7) * 0
    >>> minires.diagnose((train.images(range(96)), labels)).causes[0].name
    'one class'
    """
    subject = opened(what, data, test, recipe, history, inputs, weights, model)
    looked, causes = [], list(subject.causes)
    for doing, look in _looks(subject):
        on_step(doing)
        try:
            found = look(subject, causes)
        except Exception as error:  # layers of others raise anything, and the rest is to be looked at all the same
            line = f"{doing}: {' '.join(str(error).split()) or type(error).__name__}"
            found = [Cause("not looked at", "speed", POSSIBLE, line, "mend what it names, and diagnose again")]
        looked.append(doing)
        causes += found
    return Diagnosis(subject.title, ordered(_explained(causes)), tuple(looked))


def _looks(s: Subject):
    """(what is looked at, function(subject, causes by now)) for what there is."""
    if s.parts:
        yield "images and labels", _images
    if s.network is None:
        if s.model is not None and s.inputs is not None:
            yield "the layer's gradient", lambda s, known: of_network.layer(s.model, np.asarray(s.inputs))
        return
    yield "weights", lambda s, known: _parameters(s)
    if s.classifier is None:
        yield "classes", _classes
        return
    yield "one batch", _batch
    yield "threads", lambda s, known: of_training.threads()
    if s.history:
        yield (
            "curves",
            lambda s, known: of_training.from_history(s.recipe or _recipe(), s.history, s.network.classes, _steps(s)),
        )
    if s.recipe:
        yield "recipe", lambda s, known: of_training.from_recipe(s.recipe, s.network, s.history, _steps(s))
    yield "structure and gradients", _structure
    if s.parts:
        yield "predictions", of_predictions.rules
    if "training" in s.parts and (s.recipe or s.history):
        yield "some steps", _trial


def _parameters(s):
    found = [*of_parameters.weights(s.model), *of_parameters.hidden(s.model)]
    found += of_parameters.fresh_statistics(s.model, s.recipe) if s.history or s.steps else []
    return found + of_parameters.frozen(s.model, s.recipe)


def _images(s, known):
    show = f"minires data show {s.again}" if s.again else "minires data show --data DATA"
    parts = [sample(name, part) for name, part in s.parts.items()]
    return of_data.rules(parts, show)


def _classes(s, known):
    train = s.parts["training"]
    detail = f"the network tells {s.network.classes} classes apart, the data have {len(train.classes)}"
    fix = f"build it with classes={len(train.classes)}"
    return [Cause("other number of classes", "network", SURE, detail, fix)]


def _steps(s) -> int:
    train = s.parts.get("training")
    return 1 if train is None else math.ceil(len(train) / (s.recipe or _recipe()).batch_size)


def _recipe():
    from minires.train.recipe import Recipe

    return Recipe()


def batch_of(s: Subject, count: int = BATCH):
    """(x, labels or None): some images as the network takes them, else noise of standard deviation 1."""
    part: Dataset | None = s.parts.get("training") or s.parts.get("test")
    dtype = s.network.dtype
    if part is None or part.shape != s.network.input_shape:
        return np.random.default_rng(0).standard_normal((min(count, 8), *s.network.input_shape)).astype(dtype), None
    index = np.sort(np.random.default_rng(0).permutation(len(part))[:count])
    labels = part.labels[index] if len(part.classes) == s.network.classes else None
    return s.classifier.preprocess(part.images(index), dtype), labels


def _batch(s, known):
    if {"weights not finite"} & {c.name for c in known}:
        return []
    x, labels = batch_of(s)
    return of_network.one_batch(s.model, x, labels, trained=bool(s.history or s.steps))


def _structure(s, known):
    names = {c.name for c in known if c.level > 1}
    if names & {"weights not finite", "overflow", "forward not finite", "shapes", "not a function"}:
        return []
    x, _ = batch_of(s, 2)
    return of_network.structure(s.model, to_numpy(x), names)


def _trial(s, known):
    sure = {c.area for c in known if c.level == SURE} - ({"network", "gradient"} if s.history else set())
    if sure & {"files", "numbers", "network", "gradient"} or of_training.learns(s.history, s.network.classes):
        return []
    x, labels = batch_of(s, of_training.IMAGES)
    if labels is None:
        return []
    model = of_training.fresh(s.network)
    return of_training.tried(model, s.recipe or _recipe(), x, labels, lambda done: None)


# a cause -> those that follow from it, and are no causes of their own where it is shown
_FOLLOW = {
    "value range": {"constant images", "duplicates", "contradicting labels", "leak", "shuffled labels", "other images"},
    "one class": {"missing class", "unbalanced classes", "shuffled labels"},
    "missing class": {"unbalanced classes"},
    "shuffled labels": {"overfitting", "too few steps", "contradicting labels"},
    "contradicting labels": {"shuffled labels", "duplicates"},
    "label order": {"overfitting", "stale statistics"},
    "class order": {"overfitting", "label order"},
    "other images": {"overfitting", "stale statistics"},
    "weights not finite": {"dead ReLUs", "rate too large"},
    "dead ReLUs": {"vanishing gradient", "too few steps", "rate too small"},
    "zero weights": {"vanishing gradient", "same weights", "dead ReLUs"},
    "few updates": {"overfitting", "stale statistics"},
    "no statistics": {"overfitting"},
    "stale statistics": {"overfitting"},
    "batch too small": {"noisy gradient", "stale statistics"},
    "rate too large": {"too few steps", "overfitting", "dead ReLUs", "exploding gradient"},
    "rate too small": {"too few steps"},
    "few images": {"overfitting"},
    "smoothing too strong": {"too few steps"},
    "augmentation too strong": {"too few steps"},
    "dropout too strong": {"too few steps"},
    "waits for data": {"too few steps"},
    "schedule over": {"too few steps"},
}


def _explained(causes: list[Cause]) -> list[Cause]:
    """Without those that follow from another that is at least as sure."""
    level = {c.name: max(d.level for d in causes if d.name == c.name) for c in causes}
    told = {name for cause, follow in _FOLLOW.items() if level.get(cause, 0) >= LIKELY for name in follow}
    return [c for c in causes if c.name not in told]
