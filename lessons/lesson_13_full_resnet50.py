"""Lesson 13: The full ResNet-50 on hand signs, and CPU against GPU.

K. He et al., arXiv:1512.03385, table 1, in the size of the deep learning course: 64x64 images, six classes. A report on
a run of yours, or on a few steps that are trained here: training curve, confusion, gradient by layer, and the time of
a step by batch size on each device that there is. Nothing is asserted about speed.
"""

import json
import statistics
import sys
import textwrap
import time
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.lesson_08_degradation import Losses
from minires.lessons.terminal import run

from minires.backend import choose_device, device_of, synchronize, to_device
from minires.data import Dataset, make_signs
from minires.errors import DataError
from minires.fast.step import make_step
from minires.instruments.gradflow import gradflow
from minires.instruments.report import wilson
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, TEXT, dress, figure, legend
from minires.nn import ResNet, resnet50
from minires.run import data_source
from minires.train import Classifier, Recipe, evaluate, fit, load_classifier

LESSON = Lesson(
    number=13,
    title="The full ResNet-50 on hand signs",
    question="All parts together: 50 layers, 23.6 million numbers, hand signs. How well does it learn, what does its "
    "gradient look like, and what does one step cost on the CPU and on a GPU?",
    idea=r"""
    This is the network of the course's notebook: a 7x7 convolution, 16 bottleneck blocks in four stages, the average,
    one dense layer. Count its numbers by hand once: a convolution has $R S C O$ weights and O biases, batch
    normalisation 4 C, half of which are trained. The sum is 23,600,006.

    Without a run this lesson trains 16 steps on 64 images, seen eight times each, to show that all parts run together.
    The loss jumps up and down while the rate rises and comes down as it falls again; how good a network gets is
    another question.
    `make train` takes minutes and leaves a folder; give it with `--run`, and the curve, the confusion and the gradient
    are those of your network. The default recipe reached 97.5 % on the built-in signs (120 test images) and 99.6 %
    three times on the Sign Language Digits photographs (`minires train --data sign-language-digits --epochs 10`, seeds
    0 to 2); a single run on 120 images can differ by several images from another one.

    After so few steps the running statistics of batch normalisation would spoil the test (lesson 12), so they are
    estimated anew before the short run is tested, as at the end of every run of yours.

    The gradient is that of the activations, dL/dy at the output of each convolution of the main path, on one batch of
    training images: as initialised and as trained. Branches start at a quarter of their strength, as in
    `minires train`.

    Its teeth are the blocks, three convolutions each. The third makes 4 C channels of C. Its weights are drawn for the
    way forward, with variance 2/C; on the way back each of its inputs sums up 4 C numbers with such weights, a power
    of 8, of which the ReLU leaves 4: behind it the gradient is more than twice as large as before it. The first
    convolution, from 4 C to C, takes it back.

    The time of a step is forward, loss, backward and update of one batch that lies ready, the way `fit` runs them
    (layers brought together where that pays, on a GPU one recorded graph), the median of a few. On a
    GPU a small batch costs almost as much as a larger one: hundreds of small launches, each with its own delay. That is
    why the curves of CPU and GPU can cross. What a GPU gives here is measured where there is one, and nowhere else.
    """,
    look_for="the gradient's curve, before and after: how many powers of ten lie between the first layer and the last? "
    "And the confusion: neighbouring numbers of fingers.",
    wrong_if="the parameters were not 23,600,006, or the gradient of the untrained network changed by powers of ten on "
    "its way through 16 blocks.",
    exercise="Train it, `minires train --out runs/full`, and come back with `minires lesson 13 --run runs/full`. Does "
    "the gradient of the trained network grow or shrink with depth? Then double the largest batch with "
    "`--batches 8 16 32 64`: does an image get cheaper?",
    next_try="minires lesson 13 --run runs/full",
    sources=(
        "K. He et al., arXiv:1512.03385, table 1 and section 3.4",
        "P. Goyal et al., arXiv:1706.02677, section 5.1 (branches that start small)",
    ),
    shows=(resnet50,),
    quick={"epochs": 1, "batches": (2, 8), "repeats": 1},
)
TESTS = 60
FLOW_BATCH = 32  # images of the gradient's batch


def measure(
    *,
    run: str = "none",
    count: int = 64,
    epochs: int = 8,
    batches: tuple[int, ...] = (4, 8, 16, 32),
    repeats: int = 3,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    seed: int = 0,
) -> dict:
    """The training curve, the test, the gradient by layer, and the seconds of a step by batch size.

    run      folder of a finished run; none: a few steps are trained here
    count    training images of the few steps
    epochs   how often they are seen, in batches of 32
    batches  batch sizes that are timed
    repeats  timed steps at each size, after two that are not
    device   where to compute; auto takes a GPU that works, and then the CPU is timed too
    seed     of the few steps
    """
    knobs = dict(locals())
    at_least_one(count=count, epochs=epochs, batches=min(batches), repeats=repeats)
    place, reason = choose_device(device)
    found = _few_steps(count, epochs, place, seed) if run == "none" else _finished(Path(run), place)
    classifier, curve, train, test = found
    tested = evaluate(classifier, test)
    places = ["cpu", "gpu"] if place == "gpu" and device == "auto" else [place]
    return {
        "knobs": knobs,
        "device": place,
        "reason": reason,
        "arch": classifier.model.config.arch,
        "data": train.source,
        "parameters": sum(classifier.model.parameter_count()),
        "curve": curve,
        "classes": list(classifier.classes),
        "labels": tested.labels.tolist(),
        "predictions": tested.probs.argmax(axis=1).tolist(),
        "flows": _flows(classifier, train),
        "seconds": {p: [[b, _step_seconds(classifier.model.config, b, p, repeats)] for b in batches] for p in places},
    }


def _few_steps(count: int, epochs: int, device: str, seed: int) -> tuple[Classifier, dict, Dataset, Dataset]:
    """ResNet-50 after a few steps of the default recipe, tested with statistics of its present weights."""
    train, test = make_signs(count, TESTS)
    model = resnet50(train.shape, len(train.classes), last_gamma=0.25, bn_momentum=0.9, seed=seed).to(device)
    classifier, losses = Classifier.for_data(model, train), Losses()
    fit(classifier, train, recipe=Recipe(epochs=epochs, seed=seed), reporter=losses)
    return classifier, {"unit": "step", "train": losses.each, "test": []}, train, test


def _finished(folder: Path, device: str) -> tuple[Classifier, dict, Dataset, Dataset]:
    """The network of a run's folder with its history and its data."""
    classifier, source = load_classifier(folder), data_source(folder)
    train, test = source.load()
    if test is None:
        raise DataError(f"{folder}: a run without test images: give one that has some")
    classifier.model.to(device)
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = {"unit": "epoch", **{part: [row.get(f"{part}_loss") for row in rows] for part in ("train", "test")}}
    return classifier, curve, train, test


def _flows(classifier: Classifier, train: Dataset) -> dict:
    """RMS of dL/dy at each convolution of the main path, of the network as it was initialised and as it is."""
    index = np.random.default_rng(0).permutation(len(train))[:FLOW_BATCH]
    device = device_of(classifier.model.params()[0].data)
    x = classifier.preprocess(to_device(train.images(index), device))
    labels = to_device(train.labels[index], device)
    fresh = ResNet(classifier.model.config).to(device)
    return {
        name: {
            "depth": [layer.depth for layer in flow.layers if layer.main],
            "dy_rms": [layer.dy_rms for layer in flow.layers if layer.main],
            "ratio": flow.ratio(),
        }
        for name, model in (("as initialised", fresh), ("as trained", classifier.model))
        for flow in [gradflow(model, x, labels)]
    }


def _step_seconds(config, batch: int, device: str, repeats: int) -> float:
    """Seconds of a step as `fit` takes it on a batch of noise: the median, after two to warm up (or to record)."""
    model = ResNet(config).to(device)
    optimizer = Recipe().make_optimizer(model.params())
    rng = np.random.default_rng(0)
    x = to_device(rng.standard_normal((batch, *config.input_shape), np.float32), device)
    labels = to_device(rng.integers(config.classes, size=batch), device)
    times = []
    with make_step(model, optimizer) as step:
        for _ in range(2 + repeats):
            synchronize(x)
            start = time.perf_counter()
            step(x, labels, 1e-4)
            synchronize(x)
            times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def check(result: dict) -> list[Claim]:
    """The network is the course's and its gradient arrives; a run of yours beats guessing; nothing about speed."""
    knobs, labels = result["knobs"], np.array(result["labels"])
    other = result["arch"] != "resnet50" or len(result["classes"]) != 6
    why = "the bounds are for ResNet-50 with six classes" if other else ""
    ratio = float(np.log10(result["flows"]["as initialised"]["ratio"]))
    claims = [
        Claim("parameters", result["parameters"], 23_600_006, 23_600_006, why),
        Claim("gradient as initialised: log10, first block's input / last's output", ratio, *RATIO, why),
    ]
    if knobs["run"] != "none":
        low, _ = wilson(int((labels == result["predictions"]).sum()), len(labels))
        chance = float(np.bincount(labels).max() / len(labels))
        name = "test accuracy, lower end of the 95 % interval / chance"
        claims.append(Claim(name, low / chance, 1))
    else:
        losses = result["curve"]["train"]
        fall = float(np.mean(losses[:3]) - np.mean(losses[-3:])) if len(losses) >= 6 else None
        claims.append(Claim("training loss, first three steps − last three", fall))
    return assert_claims([*claims, *_times(result)], LESSON, result)


RATIO = (0, 1.5)


def _times(result: dict) -> list[Claim]:
    """Milliseconds of a step by device and batch size, and where the GPU overtakes the CPU: to know, not to judge."""
    times = {place: dict(rows) for place, rows in result["seconds"].items()}
    claims = [
        Claim(f"{place.upper()}: milliseconds a step, batch of {batch}", 1000 * seconds)
        for place, rows in times.items()
        for batch, seconds in rows.items()
    ]
    text = "smallest batch at which the GPU is faster than the CPU"
    if set(times) == {"cpu", "gpu"}:
        faster = [batch for batch, seconds in times["gpu"].items() if seconds < times["cpu"][batch]]
        return [*claims, Claim(text, min(faster, default=None))]
    absent = f"no GPU was timed: {result['reason']}" if "gpu" not in times else "only the GPU was timed (--device gpu)"
    return [*claims, Claim(text, None, skipped=absent)]


def plot(result: dict):
    """Training curve, confusion, gradient by layer, time by batch size."""
    fig, spare = figure("ResNet-50 on hand signs", panels=2, height=9.4, note=note(LESSON, result))
    for ax in spare:
        ax.remove()
    axes = list(fig.subplots(2, 2).flat)
    for ax in axes:
        dress(ax)
    _draw_curve(axes[0], result["curve"])
    _draw_confusion(axes[1], result)
    _draw_flows(axes[2], result["flows"])
    _draw_seconds(axes[3], result)
    return fig


def _draw_curve(ax, curve: dict) -> None:
    for part, color, marker in (("train", BLUE, "o"), ("test", ORANGE, "s")):
        values = curve[part]
        if values and values[0] is not None:
            ax.plot(np.arange(len(values)) + 1, values, marker + "-", color=color, linewidth=2, label=part)
    ax.set_xlabel(curve["unit"])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.set_ylabel("cross-entropy")
    ax.set_ylim(0, 1.06 * ax.dataLim.ymax)
    legend(ax, "Loss")


def _draw_confusion(ax, result: dict) -> None:
    classes, labels, predictions = result["classes"], np.array(result["labels"]), np.array(result["predictions"])
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predictions), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts) if len(classes) <= 12 else ():
        color = "white" if share[row, column] > 0.55 else INK if count else MUTED
        ax.text(column, row, count, ha="center", va="center", color=color, fontsize=TEXT - 1)
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    ax.grid(False)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title(_tested(result, labels == predictions), loc="left", fontsize=TEXT, color=INK)


def _tested(result: dict, right) -> str:
    low, high = wilson(int(right.sum()), len(right))
    return f"Test accuracy {right.mean():.1%} ({low:.0%} to {high:.0%}), {len(right)} images"


def _draw_flows(ax, flows: dict) -> None:
    for (name, flow), color in zip(flows.items(), (MUTED, GREEN), strict=True):
        ax.plot(flow["depth"], flow["dy_rms"], ".-", color=color, linewidth=1.6, markersize=6, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("depth, in layers from the image")
    ax.set_ylabel("RMS of dL/dy")
    legend(ax, "Activation gradient at each layer's output")


def _draw_seconds(ax, result: dict) -> None:
    for (device, rows), color, marker in zip(result["seconds"].items(), (BLUE, ORANGE), "os", strict=False):
        batches, seconds = np.array(rows).T
        ax.plot(batches, 1000 * seconds, f"{marker}-", color=color, linewidth=2.2, label=device.upper())
        for batch, each in rows:
            text = f"{1000 * each / batch:.0f} ms an image"
            ax.annotate(
                text, (batch, 1000 * each), (6, -12), textcoords="offset points", fontsize=TEXT - 3, color=MUTED
            )
    if "gpu" not in result["seconds"]:
        reason = textwrap.fill(f"no GPU was timed: {result['reason']}", 44)
        ax.text(0.03, 0.96, reason, transform=ax.transAxes, va="top", fontsize=TEXT - 3, color=MUTED)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("images in a batch")
    ax.set_ylabel("milliseconds a training step")
    ax.margins(0.18)
    legend(ax, "Time of a step")


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
