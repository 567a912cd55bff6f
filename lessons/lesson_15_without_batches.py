"""Lesson 15: What if there is no batch?

Batch normalisation (BN) makes what a network says of one image depend on the images beside it. Group normalisation (GN:
Y. Wu, K. He, arXiv:1803.08494) takes each image by itself; SkipInit (S. De, S. Smith, arXiv:2002.10444, section 4) has
no normalisation at all, but a learned factor on each branch that begins at zero. What does each of them keep, and how
fast does it learn?
"""

import sys
from dataclasses import replace
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.lesson_08_degradation import Losses
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.data import Dataset, make_signs
from minires.errors import ConfigError
from minires.instruments.bn_doctor import inputs, recalibrate
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PINK, TEXT, figure, legend
from minires.nn import BatchNorm, GroupNorm, Module, Param, ResNet, Sequential, resnet
from minires.nn.probe import rms
from minires.train import Classifier, Recipe, evaluate, fit

LESSON = Lesson(
    number=15,
    title="What if there is no batch?",
    question="Batch normalisation lets the images of a batch look at each other. Is that a fault, once there are only "
    "two of them? And what do networks lose that never let them?",
    idea=r"""
    Batch normalisation (BN), $y = \gamma (x - m) / \sqrt{v} + \beta$, takes m and v from all images of the batch. So in
    training the answer to an image depends on its neighbours. The lesson puts one image among others and others again,
    and measures how far its logits move, as a share of what differs between images. Group normalisation (GN) takes m
    and v from groups of channels of one image: nothing moves, to the bit.

    The gradient feels it, too. Where each image is by itself, the loss of a batch is the mean of its images' losses,
    and the mean gradient of many small batches is that of one large batch, to rounding. With BN it is not, however many
    are averaged: what small batches descend is another function. That is no noise that would average out.

    What may take BN's place must keep signal and gradient in hand at the start. Without anything the signal grows by
    about $\sqrt{2}$ from block to block, like the sum of two equal parts, and what comes out is a hundred times what
    went in. GN stops that as BN does. SkipInit does it with one number: a factor on each branch that is learned and
    begins at zero, so that all blocks begin as the identity. (Zero-initialised last layers, as in Fixup, do the same.)

    So far the usual story holds. It goes on: with two images BN's statistics are so noisy that GN must win. Not here.
    In one pass over 720 images, two at a time and at one rate for all, BN's training loss comes down first, with every
    seed; GN and SkipInit hardly begin. (The test accuracy mostly agrees; after so few steps it scatters.) Nor is the
    price paid in evaluation: the running statistics are means over some twenty images, and yet they do about as well
    as statistics that are estimated anew (lesson 12).

    What this does not say: that GN is worse. The published comparison (ImageNet, 100 epochs, rates chosen for it) is of
    where training ends; this is about how it begins, at one rate. At 32 images at a time the two are level: two seeds
    gave BN 64 and 59 % of the test, GN 64 and 61 (`minires lesson 15 --batch 32 --epochs 4 --count 1080`), SkipInit 20
    and 28, and the same eight layers without any of it 55 and 60: so few need no care at their start.
    """,
    look_for="Left: BN's two lines stay well above zero even at 32 images, GN's lie on it. Right: the order of the "
    "bars is not the usual story's.",
    wrong_if="GN's output depended on a neighbour, SkipInit's signal grew with depth, or GN learned faster than BN, "
    "two images at a time.",
    exercise="The scatter of a mean falls with the root of its number. Does what the neighbours do to an image, from 2 "
    "images to 32? And what will `minires lesson 15 --groups 1` change in the left panel, and 8?",
    next_try="minires lesson 15 --batch 32 --epochs 4",
    sources=(
        "Y. Wu, K. He, arXiv:1803.08494, section 3 and figure 1 (group normalisation, and BN at small batches)",
        "S. De, S. Smith, arXiv:2002.10444, sections 3 and 4 (SkipInit)",
        "S. Ioffe, arXiv:1702.03275, section 2 (what small batches do to BN)",
    ),
    shows=(GroupNorm, BatchNorm),
    quick={"seeds": 1},
)
KINDS = {"BN": ORANGE, "GN": BLUE, "SkipInit": GREEN, "none": PINK}
SIZES = (2, 4, 8, 16, 32)  # images in a batch, where nothing is trained
WIDTHS, TESTS = (8, 16, 32), 240
PROBES, DRAWS, SHARED = 6, 3, 64
FELT = ("neighbours", "gradient")
PARTS, LAST = 20, 6  # pieces of a run, over each of which the loss is averaged; the last of them


class Scale(Module):
    """y = factor * x, one learned number for all of x: SkipInit's, at the end of a branch."""

    def __init__(self, name: str, factor: float = 0.0):
        super().__init__(name)
        self.factor = Param(f"{name}.factor", np.full(1, factor, np.float32), decay=False)

    def forward(self, x):
        self.save(x)
        return self.factor.data * x

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        self.factor.write_grad(np.vdot(dy, x).reshape(1))
        return self.factor.data * dy

    def output_shape(self, shape):
        return shape


def network(kind: str, arch: str, shape: tuple, classes: int, groups: int, seed: int) -> ResNet:
    """A network of the family with this in the place of each batch normalisation; one seed gives all the same kernels.

    BN  as it is.  GN  with `groups` groups.  none  a bias for each convolution.  SkipInit  that, and a `Scale`.
    """
    model = resnet(arch, shape, classes, widths=WIDTHS, seed=seed)
    for chain in [m for m in model.modules() if isinstance(m, Sequential)]:
        if kind != "BN":
            chain.layers = [_instead(kind, layer, groups) for layer in chain.layers]
    for block in model.blocks() if kind == "SkipInit" else ():
        block.branch.layers.append(Scale(f"{block.name}.scale"))
    return model


def _instead(kind: str, layer: Module, groups: int) -> Module:
    if not isinstance(layer, BatchNorm):
        return layer
    channels = layer.gamma.data.size
    return GroupNorm(layer.name, channels, groups) if kind == "GN" else Shift(layer.name, channels)


class Shift(Module):
    """y = x + beta: what is left of a normalisation that does not normalise."""

    def __init__(self, name: str, channels: int):
        super().__init__(name)
        self.beta = Param(f"{name}.beta", np.zeros(channels, np.float32), decay=False)

    def forward(self, x):
        return x + self.beta.data

    def backward(self, dy, need_dx=True):
        self.beta.write_grad(dy.sum(axis=tuple(range(dy.ndim - 1))))
        return dy

    def output_shape(self, shape):
        return shape


def measure(
    *,
    arch: Literal["resnet8", "resnet14", "resnet20"] = "resnet8",
    deep: Literal["resnet20", "resnet32", "resnet56"] = "resnet32",
    groups: int = 4,
    size: int = 16,
    count: int = 720,
    batch: int = 2,
    epochs: int = 1,
    lr: float = 0.003,
    seeds: int = 3,
    seed: int = 0,
) -> dict:
    """What neighbours in the batch do to an image and to the gradient; signal and gradient by depth; what is learnt.

    arch    the network that is trained
    deep    the network whose signal is followed, as initialised
    groups  of group normalisation
    size    side of the images, in pixels
    count   training images
    batch   how many make a step
    epochs  how often they are seen
    lr      learning rate of Adam
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(groups=groups, epochs=epochs, seeds=seeds)
    if WIDTHS[0] % groups:
        raise ConfigError(f"--groups: expected a divisor of {WIDTHS[0]}, the channels of the first stage, got {groups}")
    if count < SHARED:
        raise ConfigError(f"--count: expected {SHARED} images or more, got {count}")
    train, test = make_signs(count, TESTS, size)
    with blas_threads(1):
        runs = [_run(knobs, train, test, s) for s in range(seed, seed + seeds)]
    return {"knobs": knobs, "batches": list(SIZES), "classes": len(train.classes), "runs": runs}


def _run(knobs: dict, train: Dataset, test: Dataset, seed: int) -> dict:
    """What one seed gives."""

    def fresh(kind, arch=knobs["arch"]):
        return network(kind, arch, train.shape, len(train.classes), knobs["groups"], seed)

    order = np.random.default_rng([seed, 15]).permutation(len(train))[:SHARED]
    x, labels = Classifier.for_data(fresh("BN"), train).preprocess(train.images(order)), train.labels[order]
    return {
        "neighbours": {kind: [_told_by_neighbours(fresh(kind), x, b, seed) for b in SIZES] for kind in ("BN", "GN")},
        "gradient": {kind: [_off(fresh(kind), x, labels, b) for b in SIZES] for kind in ("BN", "GN")},
        "flow": {kind: _flow(fresh(kind, knobs["deep"]), x[:16], seed) for kind in KINDS},
        "trained": {kind: _train(fresh(kind), train, test, knobs, seed) for kind in KINDS},
    }


def _told_by_neighbours(model: ResNet, x: np.ndarray, batch: int, seed: int) -> float:
    """How far an image's logits move with its neighbours: RMS, over that of the images' own differences."""
    rng, others = np.random.default_rng([seed, batch]), x[PROBES:]
    seen = np.empty((PROBES, DRAWS, model.config.classes))
    for i in range(PROBES):
        for j in range(DRAWS):
            beside = others[rng.choice(len(others), batch - 1, replace=False)]
            seen[i, j] = model.forward(np.concatenate([x[i : i + 1], beside]))[0]
    model.release()
    means = seen.mean(axis=1, keepdims=True)
    moved = np.sqrt(np.mean((seen - means) ** 2) * DRAWS / (DRAWS - 1))
    return float(moved / rms(means - means.mean(axis=0)))


def _off(model: ResNet, x: np.ndarray, labels: np.ndarray, batch: int) -> float:
    """The mean gradient of all batches of these images, less that of all images at once, over its norm."""

    def gradient(batch):
        total = 0
        for i in range(0, len(x), batch):
            probs = ops.softmax_cross_entropy_forward(model.forward(x[i : i + batch]), labels[i : i + batch])[1]
            model.backward(ops.softmax_cross_entropy_backward(probs, labels[i : i + batch]), need_dx=False)
            total = total + np.concatenate([p.grad.ravel() for p in model.params()]) * batch / len(x)
        return total

    whole = gradient(len(x))
    return float(np.linalg.norm(gradient(batch) - whole) / np.linalg.norm(whole))


def _flow(model: ResNet, x: np.ndarray, seed: int) -> dict:
    """RMS of the signal after stem and blocks, over the stem's; of a random gradient there, over that at the end."""
    units = [unit for layer in model.layers[:-2] for unit in (layer.layers if layer.name != "stem" else [layer])]
    signal, gradient = [], []
    for unit in units:
        x = unit.forward(x)
        signal.append(float(rms(x)))
    dy = np.random.default_rng([seed, 3]).standard_normal(x.shape).astype(x.dtype)
    for unit in reversed(units):
        gradient.append(float(rms(dy)))
        dy = unit.backward(dy)
    return {
        "signal": (np.array(signal) / signal[0]).tolist(),
        "gradient": (np.array(gradient[::-1]) / gradient[0]).tolist(),
    }


def _train(model: ResNet, train: Dataset, test: Dataset, knobs: dict, seed: int) -> dict:
    """Adam at one rate, from this start; the training loss by step, the test accuracy by statistics."""
    classifier, losses = Classifier.for_data(model, train), Losses()
    recipe = Recipe(
        epochs=knobs["epochs"],
        batch_size=knobs["batch"],
        optimizer="adam",
        lr=knobs["lr"],
        schedule="constant",
        warmup_epochs=0,
        augment=None,
        precise_bn=False,  # estimated anew below, beside the running ones
        seed=seed,
    )
    fit(classifier, train, recipe=recipe, reporter=losses, check=False)
    each = np.array(losses.each)
    result = {
        "losses": [float(part.mean()) for part in np.array_split(each, PARTS)],
        "accuracy": evaluate(classifier, test).accuracy,
    }
    if any(isinstance(m, BatchNorm) for m in model.modules()):
        result["of its batch"] = _by_own_batches(classifier, test, knobs["batch"])
        recalibrate(model, inputs(classifier, train))
        result["re-estimated"] = evaluate(classifier, test).accuracy
    return result


def _by_own_batches(classifier: Classifier, test: Dataset, batch: int) -> float:
    """The test accuracy with each batch's own statistics, as in training."""
    model, right = classifier.model, 0
    order = np.random.default_rng(0).permutation(len(test))
    model.train()
    for i in range(0, len(order), batch):
        index = order[i : i + batch]
        logits = model.forward(classifier.preprocess(test.images(index)))
        right += int((logits.argmax(axis=1) == test.labels[index]).sum())
    model.release()
    return right / len(test)


MEASURED_AT = {"arch": "resnet8", "deep": "resnet32", "groups": 4, "size": 16, "count": 720, "batch": 2, "epochs": 1}
MEASURED_AT |= {"lr": 0.003}


def check(result: dict) -> list[Claim]:
    """What neighbours do, what keeps signal and gradient in hand, and what is learnt two images at a time."""
    elsewhere = moved(result["knobs"], MEASURED_AT)
    skipped = f"the bounds are for {elsewhere}" if elsewhere else ""
    told, off = ({kind: np.array([r[key][kind] for r in result["runs"]]) for kind in ("BN", "GN")} for key in FELT)
    signal = {kind: float(np.mean([r["flow"][kind]["signal"][-1] for r in result["runs"]])) for kind in KINDS}
    gradient = {kind: float(np.mean([r["flow"][kind]["gradient"][0] for r in result["runs"]])) for kind in KINDS}
    final = {kind: float(np.mean([r["trained"][kind]["losses"][-LAST:] for r in result["runs"]])) for kind in KINDS}
    right = {bar: float(accuracies(result, bar).mean()) for bar in BARS}
    best = right["BN, statistics re-estimated"]
    small, large = result["batches"][0], result["batches"][-1]
    claims = [
        Claim(f"BN: an image's answer moves with its neighbours, {small} images", told["BN"][:, 0].mean(), 0.2, 2),
        Claim(f"the same, {large} images", told["BN"][:, -1].mean(), 0.05, 0.6),
        Claim("GN: the same, largest", float(told["GN"].max()), 0, 0),
        Claim(f"BN: mean gradient by {small}, less that of all at once", off["BN"][:, 0].mean(), 0.3, 2),
        Claim("GN: the same of the gradient, largest", float(off["GN"].max()), 0, 1e-4),
        Claim("signal, last block over stem: no normalisation", signal["none"], 20, None, skipped),
        Claim("the same signal: SkipInit", signal["SkipInit"], 0.3, 2.5, skipped),
        Claim("gradient, stem over last block: BN", gradient["BN"], 3, None, skipped),
        Claim("the same gradient: SkipInit", gradient["SkipInit"], 0.05, 1.5, skipped),
        Claim("final loss: GN less BN", final["GN"] - final["BN"], 0.03, None, skipped),
        Claim("final loss: SkipInit less BN", final["SkipInit"] - final["BN"], 0.03, None, skipped),
        Claim("test accuracy: BN, re-estimated, less GN", best - right["GN"]),
        Claim("test accuracy: BN, re-estimated, less SkipInit", best - right["SkipInit"]),
        Claim("test accuracy: BN, re-estimated less running", best - right["BN, running statistics"]),
    ]
    return assert_claims([replace(c, measured=float(c.measured)) for c in claims], LESSON, result)


def plot(result: dict):
    """What neighbours do by batch size; the gradient by depth; the accuracy of each kind at batches of 32 and of 2."""
    fig, axes = figure("With a batch, and without", panels=3, height=5, note=note(LESSON, result))
    batches = np.array(result["batches"])
    for key, color, line, text in (
        ("neighbours", ORANGE, "-", "BN: an image's answer"),
        ("gradient", ORANGE, "--", "BN: the gradient"),
        ("neighbours", BLUE, "-", "GN: the answer"),
        ("gradient", BLUE, "--", "GN: the gradient"),
    ):
        runs = np.array([run[key][text[:2]] for run in result["runs"]])
        axes[0].plot(batches, runs.mean(axis=0), color=color, linestyle=line, marker="o", markersize=5, label=text)
        axes[0].fill_between(batches, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, linewidth=0)
    axes[0].set_xscale("log", base=2)
    axes[0].set_xticks(batches, batches)
    axes[0].set_xlabel("images in the batch")
    axes[0].set_ylabel("change, over what it is without them")
    axes[0].set_ylim(-0.03)
    legend(axes[0], "What the neighbours change", columns=1)
    for kind, color in KINDS.items():
        runs = np.array([run["flow"][kind]["gradient"] for run in result["runs"]])
        at = np.arange(runs.shape[1])
        axes[1].plot(at, runs.mean(axis=0), color=color, linewidth=2.2, label=kind)
        axes[1].fill_between(at, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axes[1].set_yscale("log")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_xlabel("blocks from the image")
    axes[1].set_ylabel("RMS of dL/dy, over the last block's")
    legend(axes[1], f"As initialised, {result['knobs']['deep'].removeprefix('resnet')} layers", columns=2)
    _draw_accuracy(axes[2], result)
    return fig


# bar -> kind, and which of its accuracies
BARS = {
    "BN, running statistics": ("BN", "accuracy"),
    "BN, statistics re-estimated": ("BN", "re-estimated"),
    "BN, of each batch": ("BN", "of its batch"),
    "GN": ("GN", "accuracy"),
    "SkipInit": ("SkipInit", "accuracy"),
    "none": ("none", "accuracy"),
}


def accuracies(result: dict, bar: str) -> np.ndarray:
    """Of the test, a number for each seed."""
    kind, key = BARS[bar]
    return np.array([run["trained"][kind][key] for run in result["runs"]])


def _draw_accuracy(ax, result: dict) -> None:
    at, under = np.arange(len(BARS))[::-1], {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
    for y, bar in zip(at, BARS, strict=True):
        seen = accuracies(result, bar)
        ax.barh(y, seen.mean(), color=KINDS[BARS[bar][0]], height=0.45)
        ax.plot(seen, np.full(len(seen), y), "o", color=INK, markersize=3.5)
        text = {"color": INK, "fontsize": TEXT - 1, "zorder": 4, "bbox": under}
        ax.text(0, y + 0.27, f"{bar}: {seen.mean():.0%}", va="bottom", **text)
    ax.axvline(1 / result["classes"], color=MUTED, linestyle="--", linewidth=1.2, label="guessing")
    ax.set_xlim(0, max(0.6, *(1.1 * accuracies(result, bar).max() for bar in BARS)))
    ax.set_ylim(-0.5, len(BARS) - 0.2)
    ax.set_yticks([])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("test accuracy")
    legend(ax, f"What is learnt, {result['knobs']['batch']} at a time")


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
