"""Lesson 10: Which paths carry the gradient?

A residual network of n blocks is a bundle of 2^n paths: at each block a path takes the branch or the shortcut. The
gradient is taken apart, exactly, by the number of branches that its paths take. A. Veit et al., arXiv:1605.06431,
section 5, sampled such paths; sums of all paths of one length need no sampling, since backward is linear in dy.
"""

import math
import sys
from typing import Literal

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.lesson_08_degradation import hand_signs, train_sgd
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.errors import ConfigError
from minires.instruments.style import BLUE, INK, MUTED, figure, legend
from minires.nn import Add, Block, Sequential, resnet
from minires.train import Preprocess

LESSON = Lesson(
    number=10,
    title="Which paths carry the gradient?",
    question="A gradient comes back through 27 residual blocks by 134 million paths, some through all branches, one "
    "through none. Which of them carry it?",
    idea=r"""
    At each of n blocks a path takes the branch or the shortcut. "n choose k" paths take k branches; their mean length
    is n/2, and nearly all are of about that length. But each path has its own strength, and the strengths can be
    measured without following one of them. Keep the gradient as n + 1 parts $g_0 ... g_n$, by the branches passed so
    far, and let each block do, with its own backward pass,

    new $g_k = \mathrm{skip}(g_k) + \mathrm{branch}(g_{k-1})$

    For a given forward pass, backward is linear in dy. So the parts add up to the gradient, to rounding, and that is
    the check: the engine's own backward, with its add node, against a sum over 134 million paths.

    In the pre-activation ResNet-56 the gradient's power sits on paths shorter than the count says, and training
    shortens them further. That is what "ensembles of relatively shallow networks" means. The rule behind it is simple:
    if block l sends back through its branch $r_l$ times the power that comes through its shortcut, it is as if each
    path tossed a coin there that shows "branch" with $p_l = r_l / (1 + r_l)$. The mean length is $\sum p_l$.

    Short paths are no law of residual networks, they come with depth. The trunk's variance grows from block to block
    and BN divides it out of the branch (lesson 6), so it is the late blocks whose coins show "shortcut". The mean
    length over the count's is 1.09, 0.90, 0.76 and 0.60 in ResNet-8, 20, 32 and 56, and 1.17 in the post-activation
    ResNet-20: at few blocks most of the power takes the long ways.

    The gradient shown is that of the activations, where it reaches the first block, at initialisation and after a
    short training; a part's power is its sum of squares.
    """,
    look_for="The bars lie to the left of the grey count, in the right panel further. The dashed line, the coins, "
    "foretells them from one number a block.",
    wrong_if="The parts did not add up to the gradient, or their mean length was that of the count.",
    exercise="Where would the bars lie if every coin were fair? Find a network that comes near it among "
    "`minires lesson 10 --epochs 0 --arch resnet20`, resnet8, and both with `--block post`.",
    next_try="minires lesson 10 --arch resnet20 --block post",
    sources=(
        "A. Veit et al., arXiv:1605.06431, sections 3 (unravelled view) and 5.3 (the gradient by path length)",
        "S. De, S. Smith, arXiv:2002.10444, section 3 (BN makes the branches small in deep networks)",
    ),
    shows=(Block, Add),
    quick={"seeds": 1, "epochs": 0},
)
SIZE, WIDTHS, BATCH, IMAGES = 8, (8, 16, 32), 32, 320  # pixels, channels; ten steps an epoch
LR = 0.03
MEASURED_AT = {"arch": "resnet56", "block": "pre"}


def measure(
    *,
    arch: Literal["resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56"] = "resnet56",
    block: Literal["pre", "post"] = "pre",
    epochs: int = 4,
    seeds: int = 2,
    seed: int = 0,
) -> dict:
    """The gradient's power by the number of branches on its way, at initialisation and trained.

    arch    the residual network
    block   where its ReLUs are: before the convolutions (pre-activation) or behind the sum
    epochs  ten steps of SGD each; 0 for initialisation alone
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds)
    if epochs < 0:
        raise ConfigError(f"--epochs: expected 0 or more, got {epochs}")
    train, test = hand_signs("builtin", SIZE, IMAGES, BATCH)
    options = {"widths": WIDTHS, "preact": block == "pre"}
    seen = {"init": [], "trained": []} if epochs else {"init": []}
    for s in range(seed, seed + seeds):
        model = resnet(arch, train.shape, len(train.classes), **options, seed=s)
        seen["init"].append(_lengths(model, test))
        if epochs:
            model = resnet(arch, train.shape, len(train.classes), **options, seed=s)
            train_sgd(model, train, epochs=epochs, lr=LR, seed=s)
            seen["trained"].append(_lengths(model, test))
    blocks = len(model.blocks())
    count = [math.comb(blocks, k) / 2**blocks for k in range(blocks + 1)]
    return {"knobs": knobs, "count": count, "moments": seen}


def _lengths(model, test) -> dict:
    """The parts' shares of the power, what the coins foretell, and by how much the parts miss the gradient."""
    model.astype(np.float64).train()
    x = Preprocess.measure(test)(test.images(np.arange(len(test))), np.float64)
    _, probs = ops.softmax_cross_entropy_forward(model.forward(x), test.labels)
    dlogits = ops.softmax_cross_entropy_backward(probs, test.labels)
    with blas_threads(1):
        parts, ratios = take_apart(model, dlogits)
        gradient = dlogits
        for layer in reversed(model.layers[1:]):
            gradient = layer.backward(gradient)
    power = np.array([(part**2).sum() for part in parts])
    expected = np.ones(1)
    for ratio in ratios:
        expected = np.convolve(expected, (1 / (1 + ratio), ratio / (1 + ratio)))
    error = np.linalg.norm(sum(parts) - gradient) / np.linalg.norm(gradient)
    return {"shares": (power / power.sum()).tolist(), "expected": expected.tolist(), "error": float(error)}


def take_apart(model, dy):
    """(parts, ratios): the gradient at the first block by branches passed, from dy at the logits; each block's r.

    Every module's backward runs once for each part, and the forward's slots are left as they were.
    """
    parts, ratios = [dy], []
    for layer in reversed(model.layers[1:]):  # all but the stem
        for module in reversed(layer.layers if isinstance(layer, Sequential) else [layer]):
            if not isinstance(module, Block):
                parts = [pull_back(module, part) for part in parts]
                continue
            skips, branches = map(list, zip(*(_both_ways(module, part) for part in parts), strict=True))
            ratios.append(float((sum(branches) ** 2).sum() / (sum(skips) ** 2).sum()))
            between = [skip + branch for skip, branch in zip(skips[1:], branches, strict=False)]
            parts = [skips[0], *between, branches[-1]]
    return parts, ratios


def _both_ways(block, dy):
    """What comes back through a block's shortcut alone, and through its branch alone."""
    if block.after is not None:
        dy = pull_back(block.after, dy)
    identity = block.shortcut == Block.IDENTITY
    skip = dy if identity else pull_back(block.shortcut, dy)
    branch = pull_back(block.branch, dy)
    if block.before is not None:
        skip, branch = skip if identity else pull_back(block.before, skip), pull_back(block.before, branch)
    return skip, branch


def pull_back(module, dy):
    """dx by the module's own backward, with what its forward saved put back for the next dy."""
    slots = [(m, m._slot) for m in module.modules()]
    dx = module.backward(dy)
    for m, slot in slots:
        m._slot = slot
    return dx


def _mean_length(shares) -> float:
    return float(np.arange(len(shares)) @ np.array(shares))


def check(result: dict) -> list[Claim]:
    """The parts add up; the mean length against that of the count, and against the coins'."""
    knobs, moments = result["knobs"], result["moments"]
    moved = ", ".join(f"{name} {value}" for name, value in MEASURED_AT.items() if knobs[name] != value)
    skipped = f"the bounds are for {moved}" if moved else ""
    count = _mean_length(result["count"])
    error = max(one["error"] for seen in moments.values() for one in seen)
    claims = [Claim("parts against the gradient, relative error", error, 0, 1e-10)]
    for moment, high in (("init", 0.75), ("trained", 0.5)):
        if moment in moments:
            shares, expected = (
                np.mean([one[key] for one in moments[moment]], axis=0) for key in ("shares", "expected")
            )
            mean, foretold = _mean_length(shares) / count, _mean_length(expected) / count
            few = skipped or ("the bound is for 4 epochs" if moment == "trained" and knobs["epochs"] != 4 else "")
            claims += [
                Claim(f"{moment}: mean length / the count's", mean, 0.2, high, few),
                Claim(f"{moment}: mean length foretold / measured", foretold / mean, 0.8, 1.2, few),
            ]
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """A panel for each moment: the power by path length beside the count of paths."""
    knobs, moments = result["knobs"], result["moments"]
    fig, axes = figure(LESSON.title, panels=len(moments), note=note(LESSON, result))
    at = np.arange(len(result["count"]))
    name = f"{knobs['arch']}, {knobs['block']}-activation"
    headings = {"init": f"{name}, at initialisation", "trained": f"after {10 * knobs['epochs']} steps"}
    for ax, (moment, seen) in zip(axes, moments.items(), strict=True):
        shares, expected = (np.mean([one[key] for one in seen], axis=0) for key in ("shares", "expected"))
        means = [f"mean {_mean_length(values):.1f}" for values in (result["count"], shares, expected)]
        ax.fill_between(at, result["count"], step="mid", color=MUTED, alpha=0.3, label=f"count, {means[0]}")
        ax.bar(at, shares, width=0.72, color=BLUE, label=f"power, {means[1]}")
        ax.plot(at, expected, color=INK, linestyle="--", linewidth=1.5, label=f"coins, {means[2]}")
        ax.set_xlabel("branches on the path")
        ax.sharey(axes[0])
        legend(ax, headings[moment], columns=2)
    axes[0].set_ylabel("share")
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
