"""Lesson 12: Why is the trained network at chance on the test set?

Five published runs of the deep learning course's ResNet-50 notebook report a test accuracy of 0.16667, chance for six
classes, after two epochs in which the training accuracy reached 34 to 58 %. The lesson makes it happen in a small
network, shows who did it, and mends the network without training it. Running statistics: S. Ioffe, C. Szegedy,
arXiv:1502.03167, section 3.1 and algorithm 2.
"""

import copy
import sys

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.lesson_08_degradation import form, hand_signs, train_sgd
from minires.lessons.terminal import run

from minires.backend import blas_threads
from minires.data import Dataset
from minires.errors import ConfigError
from minires.instruments.bn_doctor import bn_doctor, inputs, recalibrate
from minires.instruments.style import AMBER, BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PINK, TEXT, figure, legend
from minires.nn import BatchNorm, resnet
from minires.train import Classifier, evaluate

LESSON = Lesson(
    number=12,
    title="Why is the trained network at chance on the test set?",
    question="The training accuracy rises to a half and more; on the test set the same network answers as if it "
    "guessed. Is it overfitting?",
    idea=r"""
    It happened in five published runs of the course's notebook: two epochs, 68 steps, a test accuracy of 0.16667 for
    six classes. Nothing is wrong with the weights. Batch normalisation, $y = \gamma (x - m) / \sqrt{v} + \beta$,
    takes m and v from the batch in training, and in evaluation from running statistics that each step moves a little:

    $m \leftarrow 0.99\, m + 0.01\, m_{batch}$, and v alike, beginning at m = 0 and v = 1.

    After 68 steps these are $0.99^{68} = 0.505$ of the beginning, mean 0 and variance 1, which no layer ever had. The
    other half is an average over the whole way, and the weights of step 10 had other statistics than those of step 68.
    Is it the beginning, then? The beginning can be taken out exactly, as Adam takes it out of its moments: divide by
    $1 - 0.99^{68}$. The lesson does that, too, and most of the gap stays. The half that was measured is as much out
    of date as the other half is made up. Each layer adds its own error to that of the one before.

    So the patient needs statistics of the weights that it has: one pass over training images, no step of training.
    That is `recalibrate`. Or a shorter memory from the start: at momentum 0.9, the share of the beginning is
    $0.9^{68} = 0.0008$ and the average covers some ten steps. Training itself never reads the running statistics, so
    both networks have the same weights, bit for bit; only what evaluation makes of them differs.

    The network is as wide as the paper's, and its branches begin at a quarter of their strength (lesson 11). At half
    the width and full strength one seed of five learnt next to nothing in its 68 steps (training loss 1.76, guessing
    is 1.79): for its first weights, not for the order of the images. There no statistics help.

    On photographs of ten signs (`--data sign-language-digits/`) the weights learn more in the same 68 steps, and the
    gap is wider: five networks got 14 % of the test images right with running statistics, 21 % with the start removed,
    56 % at momentum 0.9 and 88 % with re-estimated statistics.

    Why many never meet it: with thousands of steps and a rate that ends low, the weights stand still long enough for
    0.99 to catch up. It is the short run, on few images, that is caught. (`minires train` re-estimates the statistics
    at the end of a run; here they stay as training left them.)
    """,
    look_for="the second panel: with running statistics nearly every image gets the same answer. In the third each dot "
    "is a channel; on the line running and true variance agree.",
    wrong_if="with re-estimated statistics the same weights did no better, or a momentum of 0.9 did not help.",
    exercise="How many steps until 0.99 is harmless? Try `minires lesson 12 --epochs 10` and 30, and look at the third "
    "panel. For a run of your own: `minires bn-doctor runs/RUN` says which of the two it is.",
    next_try="minires lesson 12 --epochs 12",
    sources=(
        "S. Ioffe, C. Szegedy, arXiv:1502.03167, section 3.1, algorithm 2",
        "D. Kingma, J. Ba, arXiv:1412.6980, section 3 (the correction for a start at zero)",
        "Y. Wu, J. Johnson, arXiv:2105.07576, section 3 (precise batch statistics against running ones)",
    ),
    shows=(BatchNorm, recalibrate),
    quick={"depth": 14, "count": 576, "batch": 32},
)
TESTS = 240
WIDTHS = (16, 32, 64)
LAST_GAMMA = 0.25
CALM = 0.9  # the momentum that is compared
COLORS = {
    "running": ORANGE,
    "running, start removed": PINK,
    "running, momentum 0.9": GREEN,
    "batch": AMBER,
    "re-estimated": BLUE,
}
MODES = tuple(COLORS)


def measure(
    *,
    data: str = "builtin",
    depth: int = 20,
    size: int = 16,
    count: int = 1080,
    epochs: int = 4,
    batch: int = 64,
    lr: float = 0.1,
    momentum: float = 0.99,
    seeds: int = 1,
    seed: int = 0,
) -> dict:
    """The test accuracy of one network by the statistics that its batch normalisation uses.

    data      builtin, or a folder of photographs with a subfolder for each class
    depth     layers: 8, 14, 20, 32, 44, 56 or 110
    size      side of the images, in pixels
    count     training images
    epochs    how often they are seen
    batch     images a step
    lr        learning rate
    momentum  share of the old running statistics that each step keeps
    seeds     how many runs are averaged
    seed      the first of them
    """
    knobs = dict(locals())
    at_least_one(epochs=epochs, seeds=seeds)
    if not 0 < momentum < 1:
        raise ConfigError(f"--momentum: expected a number between 0 and 1, got {momentum}")
    train, test = hand_signs(data, size, count, TESTS)
    with blas_threads(1):
        runs = [_run(knobs, train, test, s) for s in range(seed, seed + seeds)]
    return {"knobs": knobs, "true": np.bincount(test.labels).tolist(), "runs": runs}


def _run(knobs: dict, train: Dataset, test: Dataset, seed: int) -> dict:
    """Train, examine, mend: what one seed gives."""
    sick, losses = _trained(knobs, knobs["momentum"], train, seed)
    calm, _ = _trained(knobs, CALM, train, seed)
    weights = zip(sick.model.params(), calm.model.params(), strict=True)
    diagnosis = bn_doctor(sick, test, train=train, updates=len(losses))
    accuracy = {name: row["accuracy"] for name, row in diagnosis.results.items()}
    accuracy["running, momentum 0.9"] = evaluate(calm, test).accuracy
    accuracy["running, start removed"] = evaluate(without_start(sick, diagnosis.remains), test).accuracy
    answers, variances = [_answers(sick, test)], [_variances(sick)]
    recalibrate(sick.model, inputs(sick, train))
    answers, variances = [*answers, _answers(sick, test)], [*variances, _variances(sick)]
    return {
        "steps": len(losses),
        "remains": diagnosis.remains,
        "finding": diagnosis.finding.detail,
        "accuracy": {name: accuracy[name] for name in MODES},
        "answers": dict(zip(("running", "re-estimated"), answers, strict=True)),
        "variances": dict(zip(("running", "re-estimated"), variances, strict=True)),
        "weights differ by": max(float(np.abs(a.data - b.data).max()) for a, b in weights),
    }


def _trained(knobs: dict, momentum: float, train: Dataset, seed: int) -> tuple[Classifier, list[float]]:
    options = {"widths": WIDTHS, "last_gamma": LAST_GAMMA, "bn_momentum": momentum, "seed": seed}
    model = resnet(f"resnet{knobs['depth']}", train.shape, len(train.classes), **options)
    return train_sgd(model, train, epochs=knobs["epochs"], lr=knobs["lr"], batch=knobs["batch"], seed=seed)


def without_start(classifier: Classifier, share: float) -> Classifier:
    """A copy whose running statistics have lost the `share` of mean 0 and variance 1 that they began with."""
    mended = copy.deepcopy(classifier)
    for norm in _norms(mended):
        norm.mean.data[:] = norm.mean.data / (1 - share)
        norm.var.data[:] = np.maximum(norm.var.data - share, 0) / (1 - share)
    return mended


def _norms(classifier: Classifier) -> list[BatchNorm]:
    return [m for m in classifier.model.modules() if isinstance(m, BatchNorm)]


def _variances(classifier: Classifier) -> list[list[float]]:
    """The variance that evaluation uses, for each layer and channel."""
    return [norm.var.data.tolist() for norm in _norms(classifier)]


def _answers(classifier: Classifier, test: Dataset) -> list[int]:
    """How often each class is the answer."""
    return np.bincount(evaluate(classifier, test).probs.argmax(axis=1), minlength=len(test.classes)).tolist()


# by form of the lesson: the bounds of each claim
BOUNDS = {
    "full": [(None, 0.55), (0.55, None), (0.1, None), (0.05, None), (0.3, None)],
    "quick": [(None, 0.45), (0.35, None), (0.03, None), (None, None), (0.22, None)],
    "photographs": [(None, 0.25), (0.75, None), (0.5, None), (0.4, None), (0.3, None)],
}


def check(result: dict) -> list[Claim]:
    """The weights are good, the statistics are not; what mends and what does not."""
    accuracy = {mode: float(np.mean([r["accuracy"][mode] for r in result["runs"]])) for mode in MODES}
    where, why = form(result["knobs"], measure, LESSON)
    effects = {
        "test accuracy, running statistics": accuracy["running"],
        "test accuracy, re-estimated": accuracy["re-estimated"],
        "the gap": accuracy["re-estimated"] - accuracy["running"],
        "re-estimated − running with the start removed": accuracy["re-estimated"] - accuracy["running, start removed"],
        "test accuracy, running at momentum 0.9": accuracy["running, momentum 0.9"],
    }
    bounds = BOUNDS.get(where, [(None, None)] * len(effects))
    claims = [Claim(text, value, *b, why) for (text, value), b in zip(effects.items(), bounds, strict=True)]
    apart = max(r["weights differ by"] for r in result["runs"])
    claims.append(Claim("weights: momentum 0.9 − momentum of the run, largest", apart, 0, 0))
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """Accuracy by the statistics used; what the network answers; running against true variances."""
    fig, axes = figure("The same weights, other statistics", panels=3, height=5, note=note(LESSON, result))
    first = result["runs"][0]
    _draw_accuracy(axes[0], [r["accuracy"] for r in result["runs"]], max(result["true"]) / sum(result["true"]))
    _draw_answers(axes[1], result["true"], first["answers"])
    _draw_variances(axes[2], first["variances"])
    return fig


def _draw_accuracy(ax, accuracies: list[dict], chance: float) -> None:
    values = np.array([[accuracy[mode] for mode in MODES] for accuracy in accuracies])
    at, paper = np.arange(len(MODES))[::-1], {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    ax.barh(at, values.mean(axis=0), color=[COLORS[mode] for mode in MODES], height=0.5)
    for y, mode, seen in zip(at, MODES, values.T, strict=True):
        ax.plot(seen, np.full(len(seen), y), "o", color=INK, markersize=3.5)
        ax.text(
            0, y + 0.3, f"{mode}: {seen.mean():.0%}", va="bottom", color=INK, fontsize=TEXT - 1, zorder=4, bbox=paper
        )
    ax.axvline(chance, color=MUTED, linestyle="--", linewidth=1.2, label="guessing")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.5, len(MODES) - 0.2)
    ax.set_yticks([])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("test accuracy")
    legend(ax, "Accuracy, by the statistics used")


def _draw_answers(ax, true: list[int], answers: dict) -> None:
    at = np.arange(len(true))
    for shift, (mode, counts) in zip((-0.2, 0.2), answers.items(), strict=True):
        ax.bar(at + shift, counts, width=0.38, color=COLORS[mode], label=mode)
    ax.plot(at, true, "_", color=INK, markersize=22, markeredgewidth=2, label="the truth")
    ax.set_xticks(at)
    ax.grid(False, axis="x")
    ax.set_xlabel("class")
    ax.set_ylabel("test images that get this answer")
    legend(ax, "What the network answers")


def _draw_variances(ax, variances: dict) -> None:
    layers = list(zip(variances["re-estimated"], variances["running"], strict=True))
    everything = np.concatenate([np.concatenate(pair) for pair in layers])
    for i, (true, running) in enumerate(layers):
        ax.plot(true, running, "o", color=_shade(i / len(layers)), markersize=4, alpha=0.8)
    ends = np.array([everything[everything > 0].min() / 1.5, everything.max() * 1.5])
    ax.plot(ends, ends, color=INK, linestyle="--", linewidth=1.2, label="equal")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("true variance of the channel")
    ax.set_ylabel("running variance")
    first, last = (
        Line2D([], [], color=_shade(i), marker="o", linestyle="", label=f"{name} layer")
        for name, i in (("first", 0.0), ("last", 1 - 1 / len(layers)))
    )
    legend(ax, "What the layers were told", extra=(first, last))


def _shade(depth: float):
    """From the first layer's blue to the last one's green: seen on white and in the dark."""
    return colormaps["viridis"](0.25 + 0.6 * depth)


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
