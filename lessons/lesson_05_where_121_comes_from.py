"""Lesson 5: Where does 1.21 come from?

Batch normalisation takes out what all rows of a batch have in common, and scales up what is left: the mean field
theory of G. Yang et al., arXiv:1902.08129, measured on dense networks of several batch sizes; then the
convolutional plain network of 56 layers at initialisation and after a few steps of training.
"""

import math
import sys
from typing import Literal

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.networks import dense_stack, gradient_by_depth
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.data import make_signs
from minires.instruments.gradflow import gradflow
from minires.instruments.style import BLUE, GREEN, INK, ORANGE, PAPER, TEXT, figure, legend
from minires.nn import resnet
from minires.train import SGD, Preprocess

LIMIT = math.pi / (math.pi - 1)
LESSON = Lesson(
    number=5,
    title="Where does 1.21 come from?",
    question="With batch normalisation, a plain network's gradient grows by 1.21 in each layer, whatever the weights. "
    "Which part of the network makes it grow, and does it stay so?",
    idea=r"""
    Follow the mean square of a signal through one layer: the ReLU, the matrix, BN. In: numbers like a normal
    distribution's, with mean square 1, as BN leaves them.

    - The ReLU leaves a mean square of 1/2. Its outputs are never negative, so they have a mean, $1/\sqrt{2\pi}$; the
      square of that mean, $1/(2\pi)$, is the part that all rows of the batch have in common. That is 1 part in
      $\pi$, 32 %.
    - The matrix mixes the units. What was common to all rows stays common.
    - BN subtracts the mean over the batch: the common 32 % are gone. It divides by the spread of what is left, so that
      the mean square is 1 again: the other 68 % are scaled up by $\pi/(\pi-1) = 1.467$.

    On the way back the scaling up is passed on, but what was removed is hardly missed: gradients of different rows have
    little in common, so there is little that BN's subtraction could take. The matrix and the ReLU balance each other as
    in lesson 3. What remains in each layer is a factor of 1.467 on the mean square, $\sqrt{1.467} = 1.211$ on the
    size.

    The factor depends on the batch. With four rows the variance by which BN divides is a rough guess, often far too
    small, and dividing by it makes the gradient larger still.

    Does it matter? At initialisation a convolutional plain network of 56 layers shows it: its first block receives
    thousands of times the gradient of the last. One step of SGD later it is a hundred times, four steps after that
    no more than the last. So this is what the first steps meet; "why plain networks train badly" it is not. The
    gradients are those of the activations, on images that were not trained on; the learning rate is 0.03.
    """,
    look_for="Left: the orange part, which BN takes away. Middle: the points come down to the dashed limit as the "
    "batch grows (a little below it: 128 units are not infinitely many). Right: a steep line, and five steps later a "
    "flat one.",
    wrong_if=r"The part that BN removes were not $1/\pi$ of the whole, the factor did not depend on the batch, or the "
    "ratio of plain-56 stayed in the thousands.",
    exercise="What is the factor for batches of 2, and why? Think first of BN's output for two rows, then run "
    "`minires lesson 5 --batches 2 4 8`.",
    next_try="minires lesson 5 --arch resnet20 --lr 0.003",
    sources=(
        "G. Yang et al., arXiv:1902.08129 (the theory; and that one step of training calms the gradient)",
        "S. Ioffe, C. Szegedy, arXiv:1502.03167, section 3",
        "K. He et al., arXiv:1512.03385, section 4.2 (plain-56)",
    ),
    shows=(ops.batchnorm_statistics, ops.batchnorm_forward, ops.batchnorm_backward),
    quick={"seeds": 3, "batches": (4, 64)},
)
SIZE, BATCH, WIDTHS = 16, 32, (8, 16, 32)  # of the convolutional network: pixels, images in a step, channels
# bounds by batch size
FACTORS = {
    4: (2, None),
    64: (1.40, 1.56),
    256: (1.40, 1.50),
}
MEASURED_AT = {"depth": 50, "width": 128}
CONV_AT = {"arch": "resnet56", "steps": 5, "lr": 0.03}


def measure(
    *,
    batches: tuple[int, ...] = (4, 8, 16, 32, 64, 256),
    depth: int = 50,
    width: int = 128,
    arch: Literal["resnet20", "resnet32", "resnet44", "resnet56"] = "resnet56",
    steps: int = 5,
    lr: float = 0.03,
    seeds: int = 5,
    seed: int = 0,
) -> dict:
    """The factor by batch size in dense plain networks with BN; a convolutional one in its first steps.

    batches  rows of the random batches for the dense network
    depth    dense layers, an even number
    width    units in each of them
    arch     the convolutional network, whose plain twin is measured
    steps    steps of SGD with momentum 0.9 that it takes
    lr       their learning rate
    seeds    how many networks are averaged
    seed     the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds, steps=steps)
    some_seeds = range(seed, seed + seeds)
    train, _ = make_signs(BATCH * (steps + 1), 6, SIZE)
    with blas_threads(1):  # the products are small
        return {
            "knobs": knobs,
            "factors": [[_factor(depth, width, batch, s) for s in some_seeds] for batch in batches],
            "parts": [_parts(width, max(batches), s) for s in some_seeds],
            "conv": [_first_steps(arch, train, steps, lr, s) for s in some_seeds],
        }


def _factor(depth, width, batch, seed) -> float:
    """By how much a layer multiplies the gradient's mean square: the slope of its logarithm, ends left out."""
    flow = np.array(gradient_by_depth(dense_stack(depth, width, bn=True, seed=seed), batch, seed))
    inner = slice(len(flow) // 10, -(len(flow) // 10) or None)
    if not flow[inner].all():  # nothing comes through
        return 0.0
    slope = np.polyfit(np.arange(len(flow))[inner], np.log(flow[inner]), 1)[0]
    return math.exp(-2 * slope)


def _parts(width, batch, seed) -> dict:
    """The mean square behind the ReLU, the matrix and BN, as [common to all rows, the rest]: means over layers 2 to 6.

    Further down a network of this width a few rows grow far larger than the others, and theory no longer applies.
    """
    x, layers = np.random.default_rng([seed, 3]).standard_normal((batch, width)), []
    for unit in dense_stack(6, width, bn=True, seed=seed).layers:
        z = unit.layers[0].forward(x)
        layers.append([_common_and_rest(a) for a in (x, z, unit.layers[1].forward(z))])
        x = unit.forward(x)
    return dict(zip(("ReLU", "matrix", "BN"), np.mean(layers[1:], axis=0).tolist(), strict=True))


def _common_and_rest(a) -> tuple[float, float]:
    return (a.mean(axis=0) ** 2).mean(), a.var(axis=0).mean()


def _first_steps(arch, train, steps, lr, seed) -> dict:
    """The plain twin's activation gradients by block before, after one and after all steps; the loss of each step."""
    model = resnet(arch, train.shape, len(train.classes), widths=WIDTHS, skip=False, seed=seed)
    optimizer, preprocess = SGD(model.params(), momentum=0.9), Preprocess.measure(train)
    order = np.random.default_rng(seed).permutation(len(train)).reshape(steps + 1, BATCH)
    batches = [(preprocess(train.images(index)), train.labels[index]) for index in order]
    flows, losses = {"0": _by_block(model, *batches[-1])}, []
    for step, (x, labels) in enumerate(batches[:-1], 1):
        loss, probs = ops.softmax_cross_entropy_forward(model.forward(x), labels)
        model.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)
        optimizer.step(lr)
        losses.append(float(loss))
        if step in (1, steps):
            flows[str(step)] = _by_block(model, *batches[-1])
    return {"flows": flows, "losses": losses}


def _by_block(model, x, labels) -> list[float]:
    """RMS of the activation gradient before the first block and after each, on a batch that is not trained on."""
    blocks = gradflow(model, x, labels).blocks
    return [blocks[0].dx_rms, *(block.dy_rms for block in blocks)]


def _ratio(result, step) -> list[float]:
    return [seen["flows"][str(step)][0] / seen["flows"][str(step)][-1] for seen in result["conv"]]


def check(result: dict) -> list[Claim]:
    """The factor and its dependence on the batch, the share that BN removes, the first steps of plain-56."""
    knobs = result["knobs"]
    factors = {batch: float(np.mean(values)) for batch, values in zip(knobs["batches"], result["factors"], strict=True)}
    elsewhere = moved(knobs, MEASURED_AT)
    skipped = f"the bounds of the factor are for {elsewhere}" if elsewhere else ""
    claims = []
    for batch, factor in factors.items():
        if batch in FACTORS:
            claims.append(Claim(f"factor on the mean square, batch of {batch}", factor, *FACTORS[batch], skipped))
    if max(knobs["batches"]) >= 64:
        common, rest = np.mean([parts["matrix"] for parts in result["parts"]], axis=0)
        removed = float(common / (common + rest))
        text = "share that BN removes (theory 0.318)"
        claims.append(Claim(text, removed, 0.29, 0.35, skipped))
    elsewhere = moved(knobs, CONV_AT)
    if knobs["seeds"] < 3:
        elsewhere = "3 seeds or more: so narrow networks differ much"
    skipped = f"the bounds of the convolutional network are for {elsewhere}" if elsewhere else ""
    plain = f"plain-{knobs['arch'].removeprefix('resnet')}: first block's gradient over the last's"
    steps = {0: (1000, None), 1: (None, 1000)}
    for step, bounds in (steps | {knobs["steps"]: (None, 50)}).items():
        mean = float(np.exp(np.mean(np.log(_ratio(result, step)))))  # of ratios: the geometric one
        claims.append(Claim(f"{plain}, step {step}", mean, *bounds, skipped))
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """The mean square through a layer, the factor by batch size, the convolutional network in its first steps."""
    knobs = result["knobs"]
    title = "Where 1.21 comes from, and how soon it goes"
    fig, (left, middle, right) = figure(title, panels=3, note=note(LESSON, result))
    stages = list(result["parts"][0])
    common, rest = np.mean([[parts[stage] for stage in stages] for parts in result["parts"]], axis=0).T
    bars = ((rest, 0, BLUE, "each row's own"), (common, rest, ORANGE, "common to all"))
    for heights, bottom, color, name in bars:
        drawn = left.bar(stages, heights, bottom=bottom, color=color, width=0.55, label=name)
        texts = [f"{height:.2f}" if height > 0.01 else "" for height in heights]
        left.bar_label(drawn, texts, label_type="center", color=PAPER, fontsize=TEXT)
    left.grid(False, axis="x")
    left.set_xlabel("after the")
    left.set_ylabel("mean square")
    legend(left, f"Through a layer, forward; batch of {max(knobs['batches'])}", columns=2)
    low, mean, high = (f(result["factors"], axis=1) for f in (np.min, np.mean, np.max))
    middle.axhline(LIMIT, color=INK, linestyle="--", linewidth=1.2, label="1 / 0.68 = π / (π - 1)")
    middle.fill_between(knobs["batches"], low, high, color=BLUE, alpha=0.2, linewidth=0)
    middle.plot(knobs["batches"], mean, color=BLUE, marker="o", linewidth=2, label="measured")
    middle.set_xscale("log", base=2)
    middle.set_xticks(knobs["batches"], knobs["batches"])
    middle.set_xlabel("rows in the batch")
    middle.set_ylabel("factor on the gradient's mean square")
    legend(middle, "Through a layer, backward", columns=2)
    _draw_first_steps(right, result)
    return fig


def _draw_first_steps(ax, result):
    looks = zip(result["conv"][0]["flows"], (ORANGE, GREEN, BLUE), "so^", strict=False)
    for step, color, marker in looks:
        curves = np.array([seen["flows"][step] for seen in result["conv"]])
        curves = np.exp(np.log(curves / curves[:, -1:]).mean(axis=0))
        name = "at the start" if step == "0" else f"step {step}"
        ax.plot(curves, color=color, marker=marker, markersize=4, linewidth=2, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("blocks from the image")
    ax.set_ylabel("RMS of dL/dy, over the last block's")
    legend(ax, f"Convolutional plain-{result['knobs']['arch'].removeprefix('resnet')} with BN", columns=3)


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
