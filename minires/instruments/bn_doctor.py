"""Why is the trained network at chance on the test set? Batch normalisation, examined and mended.

In training a layer normalises with its batch's statistics; in evaluation with running ones, which hold the share
momentum^updates of their initial values 0 and 1 still. `bn_doctor` evaluates with both, and with statistics
estimated anew from the training images; `recalibrate` puts those in. `input_drift` looks at the other suspect:
images that were preprocessed unlike those of training.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from minires import ops
from minires.backend import Array, device_of, get_xp, to_device, to_numpy
from minires.console import Shown
from minires.data import Dataset
from minires.errors import ConfigError, DataError
from minires.instruments.findings import Finding
from minires.instruments.gradcheck.watch import run_through
from minires.instruments.guard import check_model, copied, label, not_finite, owned
from minires.train.classifier import Classifier, evaluate
from minires.train.precise_bn import batch_mode, norms, recalibrate
from minires.train.scores import interval_of, with_interval

BATCH = 64  # images whose statistics stand for a batch's
MOST = 2048  # training images that the new statistics come from
REMAINS = 0.05  # a larger share of the initial statistics does harm
GAP = 0.05  # accuracy that is lost for a reason, on data that shows it
OFF = 0.5  # standard deviations, or log variance ratio, by which a layer is called off

FURTHER = "where accuracy is low, minires diagnose looks further"
USUAL = {  # what people feed a network: x = (u / scale - mean) / std for pixels u in 0..255
    "x / 255": (255.0, (0.0,) * 3, (1.0,) * 3),
    "pixels in 0..255, not scaled": (1.0, (0.0,) * 3, (1.0,) * 3),
    "x / 127.5 - 1": (127.5, (1.0,) * 3, (1.0,) * 3),
    "ImageNet's mean and std": (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "ImageNet's mean subtracted, BGR": (1.0, (103.939, 116.779, 123.68), (1.0,) * 3),
}


@dataclass(frozen=True)
class LayerStatistics:
    """How far a layer's running statistics are from the re-estimated ones, as RMS over its channels."""

    name: str
    mean_off: float  # in standard deviations
    var_off: float  # log(running variance / re-estimated variance)

    @property
    def off(self) -> float:
        return max(self.mean_off, self.var_off)


@dataclass(frozen=True)
class Diagnosis(Shown):
    """Loss and accuracy by the statistics used ('running', 'batch', 're-estimated'), and what follows from them."""

    source: str
    images: int
    results: dict[str, dict[str, float]]
    layers: tuple[LayerStatistics, ...]
    updates: int | None
    momentum: float | None
    remains: float | None  # momentum ** updates: the share of the initial statistics
    finding: Finding

    @property
    def ok(self) -> bool:
        """Whether batch normalisation does no harm."""
        return self.finding.status != "fail"

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        found = asdict(self) | {"ok": self.ok}
        for row in found["results"].values():
            row["interval"] = interval_of(row["accuracy"], self.images)
        return found

    def table(self, most: int = 5) -> Table:
        """The three evaluations, then the layers that are furthest off."""
        table = Table(title=f"{self.source}: {self.images} images", title_justify="left")
        for heading in ("statistics", "accuracy (95 % interval)", "loss"):
            table.add_column(heading, justify="left" if heading == "statistics" else "right")
        for name, row in self.results.items():
            accuracy = with_interval(row["accuracy"], interval_of(row["accuracy"], self.images))
            table.add_row(name, accuracy, f"{row['loss']:.3f}")
        table.add_section()
        table.add_row("furthest off", "mean, in std", "log variance ratio", style="bold")
        for layer in sorted(self.layers, key=lambda layer: -layer.off)[:most]:
            table.add_row(layer.name, f"{layer.mean_off:.2g}", f"{layer.var_off:.2g}")
        return table


def bn_doctor(
    classifier: Classifier, dataset: Dataset, *, train: Dataset | None = None, updates: int | None = None
) -> Diagnosis:
    """Evaluate `classifier` on `dataset` with each kind of statistics and say what is wrong, if anything.

    train    the training images, for statistics estimated anew; without them the images of `dataset` serve
    updates  training steps that the running statistics have seen (a checkpoint's training["steps"])
    The model is left as it was. Raises ConfigError for a network without batch normalisation, DataError as
    `evaluate` does.
    """
    check_model(classifier.model)
    found = norms(classifier.model)
    if not found:
        raise ConfigError(f"bn-doctor: {label(classifier.model)} has no batch normalisation to examine")
    momentum = max(n.momentum for n in found)
    remains = None if updates is None else momentum**updates
    if bad := not_finite(classifier.model):
        return Diagnosis(dataset.source, len(dataset), {}, (), updates, momentum, remains, bad)
    with owned("bn-doctor"), np.errstate(all="ignore"):
        if dataset.shape == getattr(classifier.model, "input_shape", dataset.shape):
            weights = classifier.model.params()[0].data
            x = classifier.preprocess(dataset.images(np.arange(min(2, len(dataset)))), weights.dtype)
            run_through(classifier.model, x, training=False, backward=False)
        mended = Classifier(copied(classifier.model), classifier.classes, classifier.preprocess)
        recalibrate(mended.model, inputs(mended, train or dataset))
        results = {
            "running": _summary(evaluate(classifier, dataset)),
            "batch": _with_batch_statistics(classifier, dataset),
            "re-estimated": _summary(evaluate(mended, dataset)),
        }
        layers = tuple(_compare(a, b) for a, b in zip(found, norms(mended.model), strict=True))
    finding = _conclude(results, len(dataset), layers, updates, momentum, remains, _untouched(found))
    return Diagnosis(dataset.source, len(dataset), results, layers, updates, momentum, remains, finding)


def inputs(
    classifier: Classifier, dataset: Dataset, *, batch: int = BATCH, most: int = MOST, seed: int = 0
) -> Iterator[Array]:
    """Yield network inputs of equal batches from up to `most` images, in random order: classes come mixed."""
    for index in _shuffled(len(dataset), batch, most, seed):
        yield _input(classifier, dataset, index)


def input_drift(classifier: Classifier, x: Array) -> Finding:
    """Whether `x` (N, H, W, C) floats, about to enter the network, were preprocessed as in training.

    Undoing the right preprocessing gives back whole numbers in 0..255. The finding names the usual one that does;
    images resized as floats have no whole numbers and are judged by their range alone.
    """
    x = np.asarray(to_numpy(x), np.float64)
    if x.ndim != 4 or x.shape[-1] != len(classifier.preprocess.mean):
        raise DataError(f"input_drift: expected (N, H, W, {len(classifier.preprocess.mean)}) floats, got {x.shape}")
    stored = (255.0, classifier.preprocess.mean, classifier.preprocess.std)
    seen = f"mean {x.mean():.3g}, from {x.min():.3g} to {x.max():.3g}"
    if _undone(x, stored) == "pixels":
        return Finding("preprocessing", "ok", f"as in training ({seen})")
    fix = "use Classifier.probs, which applies the stored preprocessing, or (image / 255 - mean) / std by hand"
    wanted = f"training used mean {stored[1]} and std {stored[2]}"
    for name, usual in USUAL.items():
        if _undone(x, usual) == "pixels":
            detail = f"the images come as {name} ({seen}), {wanted}: the network sees what it was not trained on"
            return Finding("preprocessing", "fail", detail, fix)
    if _undone(x, stored) == "range":
        return Finding("preprocessing", "ok", f"within the range of training's ({seen}); no whole pixels to tell more")
    detail = f"the images lie outside what training's preprocessing can give ({seen}); {wanted}"
    return Finding("preprocessing", "fail", detail, fix)


def _undone(x, preprocessing) -> str:
    """'pixels' where x comes from whole numbers in 0..255 that differ, 'range' where it at least fits, else ''."""
    scale, mean, std = preprocessing
    u = (x * np.asarray(std) + np.asarray(mean)) * scale
    if u.min() < -0.1 or u.max() > 255.1:
        return ""
    return "pixels" if np.abs(u - u.round()).mean() < 0.01 and u.max() > 2 else "range"


def _shuffled(count, batch, most, seed):
    order = np.random.default_rng(seed).permutation(count)[:most]
    return np.array_split(order, max(1, round(len(order) / batch)))


def _input(classifier, dataset, index):
    weights = classifier.model.params()[0].data
    return classifier.preprocess(to_device(dataset.images(index), device_of(weights)), weights.dtype)


def _with_batch_statistics(classifier, dataset) -> dict:
    loss = right = 0.0
    with batch_mode(classifier.model):
        for index in _shuffled(len(dataset), BATCH, len(dataset), 0):
            logits = to_numpy(classifier.model.forward(_input(classifier, dataset, index)))
            labels = dataset.labels[index]
            loss += float(ops.softmax_cross_entropy_forward(logits, labels)[0]) * len(index)
            right += int((logits.argmax(axis=1) == labels).sum())
    return {"accuracy": right / len(dataset), "loss": loss / len(dataset)}


def _summary(evaluation) -> dict:
    return {"accuracy": evaluation.accuracy, "loss": evaluation.loss}


def drift(mean: Array, var: Array, true_mean: Array, true_var: Array, epsilon: float) -> tuple[float, float]:
    """How far statistics (C,) are from the true ones, as RMS over the channels, 0-d arrays on their device.

    Of (mean - true mean) / sqrt(true variance + epsilon), in standard deviations; and of the logarithm of
    (variance + epsilon) / (true variance + epsilon).
    """
    xp = get_xp(mean)
    mean, var, true_mean, true_var = (each.astype(xp.float64) for each in (mean, var, true_mean, true_var))
    spread = true_var + epsilon
    mean_off = xp.sqrt(((mean - true_mean) ** 2 / spread).mean())
    return mean_off, xp.sqrt((xp.log((var + epsilon) / spread) ** 2).mean())


def _compare(norm, mended) -> LayerStatistics:
    off = drift(norm.mean.data, norm.var.data, mended.mean.data, mended.var.data, norm.epsilon)
    return LayerStatistics(norm.name, *map(float, off))


def _untouched(norms) -> bool:
    """Whether the running statistics are still the initial ones."""
    return all(not n.mean.data.any() and bool((n.var.data == 1).all()) for n in norms)


def _smaller(momentum, updates) -> float:
    """A momentum of which 1 % of the initial statistics remains after so many updates: 0.9 where that does."""
    enough = np.floor(100 * 0.01 ** (1 / max(1, updates))) / 100
    return float(min(0.9, enough, momentum))


def _conclude(results, count, layers, updates, momentum, remains, untouched) -> Finding:
    """The cause in words, and the remedy."""
    if bad := [k for k, row in results.items() if not np.isfinite(row["loss"])]:
        detail = f"with the {bad[0]} statistics the loss is not finite: some layer's output is not"
        return Finding("forward not finite", "fail", detail, "look for the layer with minires gradcheck or audit")
    running, batch, anew = (results[k]["accuracy"] for k in ("running", "batch", "re-estimated"))
    lost, gap = max(batch, anew) - running, max(GAP, 1 / np.sqrt(count))
    numbers = f"accuracy {running:.1%} with running statistics, {batch:.1%} with the batch's, {anew:.1%} re-estimated"
    off = sum(layer.off > OFF for layer in layers)
    mend = "minires bn-doctor RUN --recalibrate OUT.h5 mends this network (in Python, recalibrate(model, batches))"
    if lost <= gap:
        return Finding(
            "running statistics",
            "ok",
            f"{numbers}: they do no harm; where accuracy is low, minires diagnose looks further",
        )
    if anew - running <= gap:
        detail = f"{numbers}: only a batch's own statistics help: these images are unlike those of training"
        return Finding("other images", "fail", detail, "compare the preprocessing (input_drift) and the images")
    if untouched:
        detail = (
            f"{numbers}: the running statistics are still 0 and 1, as at the start: they were never updated or loaded"
        )
        return Finding("no statistics", "fail", detail, f"load them with the weights; {mend}")
    if remains is not None and remains > REMAINS:
        needed = int(np.ceil(np.log(0.01) / np.log(momentum)))
        detail = (
            f"{numbers}: after {updates} updates at momentum {momentum:g}, {momentum:g}^{updates} = {remains:.1%} of "
            f"the initial statistics (mean 0, variance 1) remain; {off} of {len(layers)} layers are off"
        )
        fix = f"{mend}; next time train {needed} steps or more, or with --bn-momentum {_smaller(momentum, updates):g}"
        return Finding("few updates", "fail", detail, fix)
    known = "" if updates is None else f" though {updates} updates at momentum {momentum:g} were enough"
    detail = f"{numbers}: {off} of {len(layers)} layers are off{known}: the statistics do not belong to these weights"
    fix = f"{mend}; see whether weights and statistics come from one checkpoint, and from training at a calm rate"
    return Finding("stale statistics", "fail", detail, fix)
