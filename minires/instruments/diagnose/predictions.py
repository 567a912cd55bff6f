"""What a trained network's answers show: classes in another order, running statistics, preprocessing."""

import copy
from dataclasses import replace

import numpy as np

from minires.data.dataset import Dataset, Subset
from minires.errors import MiniresError
from minires.instruments.bn_doctor import USUAL, bn_doctor, input_drift
from minires.instruments.diagnose.cause import LIKELY, SURE, Cause
from minires.instruments.diagnose.data import best_order, in_words
from minires.nn import BatchNorm, Module
from minires.train.classifier import Classifier, Preprocess, evaluate
from minires.train.precise_bn import norms

MOST = 256  # images that are predicted


def rules(s, known) -> list[Cause]:
    """Causes that the answers to held-out and to training images show."""
    found = []
    if s.inputs is not None:
        found += _inputs(s)
    if {c.area for c in known if c.level == SURE} & {"numbers", "files"}:
        return found
    names = next(iter(s.parts.values())).classes
    if names != s.classifier.classes and sorted(names) == sorted(s.classifier.classes):
        order = np.array([names.index(name) for name in s.classifier.classes])
        detail = f"the network has the classes in the order {', '.join(s.classifier.classes)}; the data in the order "
        detail += f"{', '.join(names)}: {in_words(order, names)}"
        fix = "number the data by the network's classes: load_parts(DATA, classes=classifier.classes)"
        return [*found, Cause("class order", "data", SURE, detail, fix)]
    if len(names) != s.network.classes:
        return found
    classifier = replace(s.classifier, classes=names)
    held = next((p for n, p in s.parts.items() if n != "training"), None)
    seen = {name: _some(p) for name, p in (("held out", held), ("training", s.parts.get("training"))) if p is not None}
    results = {name: evaluate(classifier, part) for name, part in seen.items()}
    found += _orders(results, names) or _preprocessing(classifier, seen, results)
    if not found and held is not None and any(isinstance(m, BatchNorm) for m in s.model.modules()):
        found += _statistics(classifier, seen["held out"], s)
    return found


def _inputs(s):
    try:
        finding = input_drift(s.classifier, s.inputs)
    except MiniresError as error:
        return [Cause("other preprocessing", "inference", SURE, str(error), "minires.predict prepares images itself")]
    if finding.status == "ok":
        return []
    return [Cause("other preprocessing", "inference", SURE, finding.detail, finding.fix)]


def _some(part: Dataset) -> Subset:
    return Subset(part, np.sort(np.random.default_rng(1).permutation(len(part))[:MOST]))


def _orders(results, names):
    """Whether answers are right but for the classes' order, everywhere or on held-out images alone."""
    better = {}
    for name, result in results.items():
        order, permuted = best_order(result.probs.argmax(axis=1), result.labels, len(names))
        moved = (order != np.arange(len(names))).any()
        if moved and permuted > result.accuracy + 0.25 and permuted > 0.5:
            better[name] = (order, permuted, result.accuracy)
    if not better:
        return []
    where, (order, permuted, accuracy) = next(iter(better.items()))
    detail = f"{accuracy:.0%} of the {where} images are told right, with the classes in another order {permuted:.0%}: "
    detail += in_words(order, names)
    if len(better) == len(results):
        fix = "number the data by the classes that the network was trained with, in their order"
        return [Cause("class order", "data", SURE, detail, fix)]
    return [Cause("label order", "data", SURE, detail, "number the labels of all parts by one list of names")]


def _preprocessing(classifier: Classifier, seen, results):
    """Whether another usual preprocessing makes the answers right."""
    name, part = next(iter(seen.items()))
    accuracy = results[name].accuracy
    candidates = {f"{what}, {words}": p for what, (words, p) in _candidates(seen).items()}
    for what, preprocess in candidates.items():
        other = evaluate(replace(classifier, preprocess=preprocess), part).accuracy
        if other > accuracy + 0.25:
            detail = f"with the stored preprocessing ({classifier.preprocess}) {accuracy:.0%} of the {name} images are "
            detail += f"told right, with {what} {other:.0%}"
            fix = f"Classifier(model, classes, {preprocess})"
            return [Cause("other preprocessing", "inference", SURE, detail, fix)]
    return []


def _candidates(seen):
    data = next((p for n, p in seen.items() if n == "training"), next(iter(seen.values())))
    own = Preprocess.measure(data)
    found = {"the data's own": (f"mean {own.mean}", own)}
    for what, (scale, mean, std) in USUAL.items():
        mean, std = (tuple(float(v) * scale / 255 for v in np.broadcast_to(each, 3)) for each in (mean, std))
        found[what] = ("as is usual", Preprocess(mean, std))
    return found


def _statistics(classifier, held, s):
    if not norms(classifier.model) or any(m.frozen for m in classifier.model.modules()):
        classifier = replace(classifier, model=_moving(classifier.model))
    diagnosis = bn_doctor(classifier, held, train=s.parts.get("training"), updates=s.steps)
    finding = diagnosis.finding
    if finding.status == "ok":
        return []
    area = "data" if finding.name == "other images" else "normalisation"
    return [Cause(finding.name, area, LIKELY if area == "data" else SURE, finding.detail, finding.fix)]


def _moving(model: Module) -> Module:
    """A copy whose normalisations can be estimated anew, frozen ones too."""
    model = copy.deepcopy(model).freeze(False)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.update_running_stats = True
    return model
