"""Lesson 9: Take a block out of a trained network. What is left?

The lesion study of A. Veit et al., arXiv:1605.06431, section 4.1: they deleted layers from a trained VGG, which then
guessed, and from a ResNet, which hardly noticed. Here both are the same network, with and without its shortcuts.
"""

import copy
import sys

import numpy as np
from matplotlib.ticker import PercentFormatter
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.lesson_08_degradation import WIDTHS, form, hand_signs, train_sgd
from minires.lessons.terminal import run

from minires.backend import blas_threads
from minires.data import Dataset
from minires.instruments.bn_doctor import inputs, recalibrate
from minires.instruments.style import BLUE, INK, MUTED, ORANGE, figure, legend
from minires.nn import BatchNorm, Block, ResNet, Sequential, resnet
from minires.train import Classifier, evaluate

LESSON = Lesson(
    number=9,
    title="Lesion study: delete a block",
    question="Train a network, then take one block out and train no more. How much does it still know?",
    idea=r"""
    A plain network is a chain: each block was trained to read what the block before it writes, in a code that only
    those two share. Take one out, and the next one reads what it never saw. A residual block writes
    $x_{l+1} = \mathrm{relu}(x_l + F_l(x_l))$: it adds to what all blocks before it have written, and all blocks after
    it read the sum. Take it out, and one term is missing.

    To delete a block here is to remove it from the list: its neighbours meet. That is possible where a block keeps the
    shape of its input, so the blocks that begin the second and the third stage stay. In the residual network it is
    the same, to the bit, as switching the branch off, since what enters has been through a ReLU; in the plain one it
    replaces the block by the identity. After each deletion all batch normalisation is re-estimated on training images,
    in both networks alike: without that, one would measure running statistics that no longer fit (lesson 12) and not
    the lost block.

    The plain network kept a third to a half of its accuracy on the built-in signs, a fifth to two fifths on photographs
    (`--data sign-language-digits/ --count 960 --epochs 10`); Veit's VGG of 15 layers kept nothing. The residual one
    kept nine tenths and more on both.

    Veit and others read it thus: n blocks are $2^n$ paths; a deletion in the residual network cuts half of them, and in
    the chain the only one. Lesson 10 weighs the paths. Another reading is that the blocks of a stage refine one
    estimate, step by step. This measurement does not decide between the two.
    """,
    look_for="the distance of each dot from its network's dashed line, the accuracy before anything was deleted.",
    wrong_if="the plain network kept most of its accuracy, or the residual one lost most of it.",
    exercise="Which deletion hurts the residual network most, and is it so for other seeds, `--seed 1`? Predict what "
    "more blocks do to the blue dots, then run `minires lesson 9 --depth 32`.",
    next_try="minires lesson 9 --depth 32",
    sources=(
        "A. Veit, M. Wilber, S. Belongie, arXiv:1605.06431, section 4.1 (deleting single layers)",
        "K. Greff, R. Srivastava, J. Schmidhuber, arXiv:1612.07771 (blocks that refine one estimate)",
    ),
    shows=(Block, recalibrate),
    quick={"depth": 14, "epochs": 6, "count": 720},
)
TESTS = 240
SEEN = 512  # training images for the new statistics of batch normalisation


def measure(
    *,
    data: str = "builtin",
    depth: int = 20,
    size: int = 16,
    count: int = 1080,
    epochs: int = 9,
    lr: float = 0.1,
    seeds: int = 1,
    seed: int = 0,
) -> dict:
    """The test accuracy of a plain and a residual network, whole and without each of its blocks.

    data    builtin, or a folder of photographs with a subfolder for each class
    depth   layers: 8, 14, 20, 32, 44, 56 or 110
    size    side of the images, in pixels
    count   training images
    epochs  how often they are seen, in batches of 32
    lr      learning rate
    seeds   how many runs of both are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(epochs=epochs, seeds=seeds)
    train, test = hand_signs(data, size, count, TESTS)
    networks = []
    with blas_threads(1):
        for skip in (False, True):
            runs = [_lesions(_trained(knobs, skip, train, s), train, test) for s in range(seed, seed + seeds)]
            networks.append({"skip": skip, "runs": runs})
    return {"knobs": knobs, "chance": float(np.bincount(test.labels).max() / len(test)), "networks": networks}


def _trained(knobs: dict, skip: bool, train: Dataset, seed: int) -> Classifier:
    model = resnet(f"resnet{knobs['depth']}", train.shape, len(train.classes), widths=WIDTHS, skip=skip, seed=seed)
    return train_sgd(model, train, epochs=knobs["epochs"], lr=knobs["lr"], seed=seed)[0]


def _lesions(classifier: Classifier, train: Dataset, test: Dataset) -> dict:
    """Accuracy whole ('base') and without each block that can go; how far deleting is from switching off."""
    after = {name: _accuracy(without(classifier, name), train, test) for name in same_shape_blocks(classifier.model)}
    result = {"base": _accuracy(classifier, train, test), "after": after}
    if classifier.model.config.skip:
        result["off differs by"] = _off_against_deleted(classifier, test)
    return result


def same_shape_blocks(model: ResNet) -> list[str]:
    """The names of the blocks whose output has the shape of their input."""
    names, shape = [], model.config.input_shape
    for layer in model.layers:
        for part in layer.layers if isinstance(layer, Sequential) else [layer]:
            before, shape = shape, part.output_shape(shape)
            if isinstance(part, Block) and shape == before:
                names.append(part.name)
    return names


def without(classifier: Classifier, name: str) -> Classifier:
    """A copy of the network in which this block is missing: its neighbours meet."""
    cut = copy.deepcopy(classifier)
    for stage in cut.model.layers:
        if isinstance(stage, Sequential):
            stage.layers = [block for block in stage.layers if block.name != name]
    return cut


def _accuracy(classifier: Classifier, train: Dataset, test: Dataset) -> float:
    """On the test images, with batch normalisation re-estimated on training images."""
    recalibrate(classifier.model, inputs(classifier, train, most=SEEN))
    return evaluate(classifier, test).accuracy


def _off_against_deleted(classifier: Classifier, test: Dataset) -> float:
    """Largest difference of a probability between a branch that gives 0 and the network without the block."""
    name = same_shape_blocks(classifier.model)[-1]
    off = copy.deepcopy(classifier)
    block = next(b for b in off.model.blocks() if b.name == name)
    last = [m for m in block.branch.layers if isinstance(m, BatchNorm)][-1]
    last.gamma.data[:] = last.beta.data[:] = 0
    return float(np.abs(evaluate(off, test).probs - evaluate(without(classifier, name), test).probs).max())


# by form of the lesson: the bounds of each claim
BOUNDS = {
    "full": [(0.4, None), (None, 0.65), (0.75, None), (0.25, None)],
    "quick": [(0.5, None), (None, 0.6), (0.65, None), (0.15, None)],
    "photographs": [(0.8, None), (None, 0.5), (0.85, None), (0.4, None)],
}


def check(result: dict) -> list[Claim]:
    """A plain network does not survive a deletion, a residual one does."""
    plain, residual = result["networks"]
    where, why = form(result["knobs"], measure, LESSON, epochs=10, count=960)
    effects = {
        "plain: accuracy before": float(np.mean([r["base"] for r in plain["runs"]])),
        "plain: accuracy after / before, mean of the deletions": kept(plain),
        "residual: accuracy after / before, mean of the deletions": kept(residual),
        "residual − plain: share of the accuracy that is kept": kept(residual) - kept(plain),
    }
    bounds = BOUNDS.get(where, [(None, None)] * len(effects))
    claims = [Claim(text, value, *b, why) for (text, value), b in zip(effects.items(), bounds, strict=True)]
    off = max(r["off differs by"] for r in residual["runs"])
    claims.append(Claim("residual: branch switched off − block deleted, largest", off, 0, 0))
    return assert_claims(claims, LESSON, result)


def kept(network: dict) -> float:
    """Accuracy after a deletion over that before, the mean of all deletions and seeds."""
    return float(np.mean([after / r["base"] for r in network["runs"] for after in r["after"].values()]))


def plot(result: dict, *, narrow: bool = False):
    """The accuracy after each deletion, both networks."""
    title = "One block deleted, nothing trained"
    fig, (ax,) = figure(title, narrow=narrow, height=5.2, note=note(LESSON, result))
    names = list(result["networks"][0]["runs"][0]["after"])
    at = np.arange(len(names))
    for network, color, marker in zip(result["networks"], (ORANGE, BLUE), ("s", "o"), strict=True):
        after = np.array([list(r["after"].values()) for r in network["runs"]])
        base = np.mean([r["base"] for r in network["runs"]])
        label = f"{'residual' if network['skip'] else 'plain'}, keeps {kept(network):.0%}"
        ax.axhline(base, color=color, linestyle="--", linewidth=1.6)
        ax.vlines(at, after.mean(axis=0), base, color=color, alpha=0.35, linewidth=5 if network["skip"] else 2)
        ax.plot(at, after.mean(axis=0), marker, color=color, markersize=10, label=label, zorder=4)
        if len(after) > 1:
            ax.plot(np.tile(at, len(after)), after.ravel(), marker, color=color, markersize=4, alpha=0.5)
    ax.axhline(result["chance"], color=MUTED, linestyle=":", linewidth=1.6, label="guessing")
    ax.plot([], [], color=INK, linestyle="--", linewidth=1.6, label="before")
    ax.set_xticks(at, names, rotation=30 if narrow or len(names) > 9 else 0)
    ax.set_xlabel("the block that was deleted")
    ax.set_ylabel("test accuracy")
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend(ax, columns=2 if narrow else 4)
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
