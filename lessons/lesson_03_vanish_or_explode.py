"""Lesson 3: Vanish, hold or explode?

Dense networks of 50 layers at initialisation, plain and residual, with and without batch normalisation, with He's and
Glorot's weights: by how much does the gradient change on its way back? The factors for plain networks are those of
K. He et al., arXiv:1502.01852, section 2.2, and of G. Yang et al., arXiv:1902.08129; the residual ones add the
shortcut's power to the branch's.
"""

import math
import sys

import numpy as np
from matplotlib.lines import Line2D
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.networks import SKIPS, Init, Norm, Skip, dense_stack, gradient_by_depth, kernels, kinds, label
from minires.lessons.terminal import run

from minires import ops
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, PINK, figure, legend
from minires.nn import Block
from minires.nn.init import glorot_uniform, he_normal

LESSON = Lesson(
    number=3,
    title="Vanish, hold or explode?",
    question="Send one gradient back through 50 layers of a network that has just been initialised. "
    "How much of it arrives?",
    idea=r"""
    Five networks, their weights just drawn by Glorot's recipe (variance 1/n) or He's (2/n). One gradient each, 50
    layers back:

    - plain, Glorot's weights: it shrinks 35 million times
    - plain, He's weights: it keeps its size
    - plain, batch normalisation, either's weights: it grows 8,000 times
    - residual, He's weights: it grows 5,000 times
    - residual, He's weights, batch normalisation: it grows 17 times

    The table below has these as powers of ten: log10 of what the first layer gets over what the last one got.

    So the story of the courses, "in a plain network the gradient vanishes, and skips cure that", is true for the first
    line alone: no normalisation, and weights that are too small. The paper's ResNets have batch normalisation (BN).
    Take their skips away and the gradient does not vanish, it explodes. What skips do there is to tame the growth, from
    exponential in the depth to a power of the depth.

    Why: a layer sends back $dx = (dy \odot [y > 0])\, w^T$. The ReLU lets half of the mean square through; a matrix
    with n rows multiplies it by $n\,\mathrm{Var}(w)$, which is 2 for He and 1 for Glorot. So the size changes by 1 or
    by $1/\sqrt{2}$ in each layer. BN divides the weights' scale out again, so that it cannot matter, and leaves the
    factor $\sqrt{\pi/(\pi-1)} = 1.21$, which lesson 5 takes apart. A residual block adds the shortcut's mean square to
    its branch's: $\sqrt{1+1}$ in a block for He, $\sqrt{1+1/4}$ for Glorot.

    Two warnings. This is the gradient of the activations; that of the weights looks different (lesson 4). And this is
    initialisation: the explosion is nearly gone after five steps (lesson 5), and the authors of the ResNet themselves
    held vanishing gradients to be an unlikely reason why deep plain networks train worse. Lesson 8 trains some.
    """,
    look_for="Straight lines: on this axis they are exponentials, and the dashed theory lies on them. On the left the "
    "two lines with BN lie on each other, whatever the weights. With skips and BN the lines bend: no exponential.",
    wrong_if="A plain network with BN kept its gradient over 50 layers, or its weights' scale mattered.",
    exercise="Predict the numbers for 100 layers from the theory, then run `minires lesson 3 --depth 100`. Then make "
    "the layers narrow, `--width 16`: why do the seeds spread? And why do He's and Glorot's weights differ with BN in "
    "the pre-activation network alone? (Which matrix has no BN behind it?)",
    next_try="minires lesson 3 --depth 80 --bn off",
    sources=(
        "K. He et al., arXiv:1502.01852, section 2.2 (He's weights, the backward factor)",
        "X. Glorot, Y. Bengio, AISTATS 2010, section 4.2.1",
        "G. Yang et al., arXiv:1902.08129 (batch normalisation makes the gradient of plain networks explode)",
        "K. He et al., arXiv:1512.03385, section 4.1 (not vanishing gradients)",
        "S. De, S. Smith, arXiv:2002.10444 (what batch normalisation does to residual blocks)",
    ),
    shows=(he_normal, glorot_uniform, ops.relu_backward, ops.batchnorm_backward, Block),
    quick={"seeds": 1},
)

# factor on the norm in each unit (a layer, or a block of two), where there is a closed form
THEORY = {
    ("none", False, "he"): 1.0,
    ("none", False, "glorot"): math.sqrt(1 / 2),
    ("none", True, "he"): math.sqrt(math.pi / (math.pi - 1)),
    ("none", True, "glorot"): math.sqrt(math.pi / (math.pi - 1)),
    ("pre", False, "he"): math.sqrt(2),
    ("pre", False, "glorot"): math.sqrt(1 + 1 / 4),
}
# log10 of the input side over the output side, mean of the seeds: bounds
BOUNDS = {
    ("none", False, "he"): (-1, 1),
    ("none", False, "glorot"): (-8.5, -6.5),
    ("none", True, "he"): (3.5, 4.5),
    ("none", True, "glorot"): (3.5, 4.5),
    ("pre", False, "he"): (3.3, 4.3),
    ("pre", False, "glorot"): (0.9, 1.6),
    ("pre", True, "he"): (1.0, 1.5),
    ("pre", True, "glorot"): (0.8, 1.2),
    ("post", False, "he"): (3.6, 4.7),
    ("post", False, "glorot"): (0.8, 1.5),
    ("post", True, "he"): (1.1, 1.7),
    ("post", True, "glorot"): (1.1, 1.7),
}
MEASURED_AT = {"depth": 50, "width": 128, "batch": 128}


def measure(
    *,
    depth: int = 50,
    width: int = 128,
    batch: int = 128,
    skip: Skip = "all",
    bn: Norm = "both",
    init: Init = "both",
    seeds: int = 5,
    seed: int = 0,
) -> dict:
    """The activation gradient by depth in up to twelve kinds of dense networks at initialisation.

    depth  dense layers, an even number: a residual block has two
    width  units in each layer
    batch  rows of the random batch
    skip   where the shortcut goes: none, pre- or post-activation blocks
    bn     batch normalisation
    init   initial weights
    seeds  how many networks are averaged
    seed   the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds)
    regimes, change = [], None
    for kind in kinds(skip, bn, init):
        networks = [dense_stack(depth, width, **kind, seed=s) for s in range(seed, seed + seeds)]
        flows = [gradient_by_depth(network, batch, seed + i) for i, network in enumerate(networks)]
        regimes.append(kind | _curves(np.log10(flows)) | {"theory": THEORY.get(tuple(kind.values()))})
        if kind == {"skip": "none", "bn": True, "init": "he"}:
            change = _change_when_shrunk(networks[0], batch, seed, regimes[-1]["log10_ratio"][0])
    return {"knobs": knobs, "regimes": regimes, "change_when_shrunk": change}


def _change_when_shrunk(network, batch, seed, before) -> float:
    """By how much log10 of the ratio changes when He's weights shrink to the size of Glorot's."""
    for p in kernels(network):
        p.data /= math.sqrt(2)
    flow = gradient_by_depth(network, batch, seed)
    return abs(math.log10(flow[0] / flow[-1]) - before)


def _curves(flows) -> dict:
    """(seeds, units + 1) -> log10 of the gradient over the output's, from the input to the output, where it is 0."""
    flows = flows - flows[:, -1:]
    curves = {"mean": flows.mean(axis=0), "low": flows.min(axis=0), "high": flows.max(axis=0)}
    return {"log10_ratio": flows[:, 0].tolist()} | {name: curve.tolist() for name, curve in curves.items()}


def check(result: dict) -> list[Claim]:
    """The sign and the size of every slope, and that the weights' scale is nothing to a plain network with BN."""
    knobs, claims = result["knobs"], []
    elsewhere = moved(knobs, MEASURED_AT)
    skipped = f"the bounds are for {elsewhere}; hold the numbers against the theory" if elsewhere else ""
    for regime in result["regimes"]:
        key = regime["skip"], regime["bn"], regime["init"]
        mean, units = float(np.mean(regime["log10_ratio"])), len(regime["mean"]) - 1
        theory = f" (theory {units * math.log10(regime['theory']):+.1f})" if regime["theory"] else ""
        claims.append(Claim(f"log10, {label(*key)}{theory}", mean, *BOUNDS[key], skipped))
    if (change := result["change_when_shrunk"]) is not None:
        claims.append(Claim("change of plain, BN when all weights shrink by √2", change, 0, 1e-6))
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """A panel for each kind of skip: the gradient by depth, theory dashed."""
    shown = list(dict.fromkeys(regime["skip"] for regime in result["regimes"]))
    fig, axes = figure("How much of the gradient arrives?", panels=len(shown), note=note(LESSON, result))
    looks = {(False, "he"): (BLUE, "-"), (False, "glorot"): (ORANGE, "-")}
    looks |= {(True, "he"): (GREEN, "-"), (True, "glorot"): (PINK, (0, (1, 1)))}
    for ax in axes[1:]:
        ax.sharey(axes[0])
    for ax, skip in zip(axes, shown, strict=True):
        for regime in (r for r in result["regimes"] if r["skip"] == skip):
            color, line = looks[regime["bn"], regime["init"]]
            units = len(regime["mean"]) - 1
            at = np.arange(units + 1) * (result["knobs"]["depth"] / units)
            name = f"{'BN, ' if regime['bn'] else ''}{regime['init'].capitalize()}"
            ax.plot(at, regime["mean"], color=color, linestyle=line, linewidth=3 if line == "-" else 4, label=name)
            ax.fill_between(at, regime["low"], regime["high"], color=color, alpha=0.2, linewidth=0)
            if regime["theory"]:
                expected = math.log10(regime["theory"]) * np.arange(units, -1, -1)
                ax.plot(at, expected, color=INK, linestyle="--", linewidth=1.2, zorder=3)
        ax.axhline(0, color=MUTED, linewidth=0.8)
        ax.set_xlabel("layers from the input")
        ax.yaxis.set_major_formatter("$10^{{{x:.0f}}}$")
        theory = [Line2D([], [], color=INK, linestyle="--", linewidth=1.2, label="theory")]
        legend(ax, SKIPS[skip].capitalize(), columns=3, extra=theory if skip != "post" else ())
    axes[0].set_ylabel("RMS of dL/dy, over the output's")
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
