"""Lesson 2: Which epsilon can you trust in a gradient check?

The central difference (L(t + e d) - L(t - e d)) / 2e against the gradient, for e over ten powers of ten, in both
precisions, with ReLU and with its smooth relative softplus. The two arms of the V are round-off and curvature
(W. Press et al., Numerical Recipes, section 5.7); what a ReLU adds is the kink.
"""

import sys

import numpy as np
from matplotlib.ticker import PercentFormatter
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.instruments.gradcheck import epsilon_sweep
from minires.instruments.style import BLUE, GREEN, ORANGE, PINK, figure, legend
from minires.nn import BatchNorm, Block, Conv2d, Dense, GlobalAvgPool2d, Module, ReLU, Sequential

LESSON = Lesson(
    number=2,
    title="Which epsilon can you trust?",
    question="A gradient check nudges the weights by epsilon, both ways, and compares the change of the loss with the "
    "gradient. How small should epsilon be?",
    idea=r"""
    Not as small as you can. In float64, 1e-5 or 1e-6 agrees with a right gradient to eight digits or more. In
    float32, the type that networks are trained in, 1e-7 is off by a third of the gradient, and with ReLUs the best
    epsilon leaves three or four digits.

    The check takes a random direction d through all weights and the input at once and compares
    $(L(w + \epsilon d) - L(w - \epsilon d)) / 2\epsilon$ with $\langle dw, d \rangle$. Three errors are in it:

    - Round-off. The two losses are nearly the same number, so their difference has few digits left. In float32 a loss
      near 2 is known to about $10^{-7}$; divided by $2\epsilon$, that is everything. The error grows as $1/\epsilon$.
    - Curvature. The loss is no straight line between the two points. The error grows as $\epsilon^2$: a step ten times
      as long is a hundred times worse.
    - Kinks. If a ReLU is on at one end and off at the other, the difference is a mean of two slopes, one on each
      side, and your gradient is right for one of them. No formula bounds that. A smooth function in the ReLU's
      place, softplus $= \log(1 + e^x)$, has no kinks; the difference between the two lines is theirs.

    So a check that fails may be telling you about epsilon. `minires gradcheck` therefore works in float64, and tries
    other epsilons and looks for kinks before it blames your backward pass.
    """,
    look_for="The V of the smooth network in float64: left arm round-off, right arm curvature, twice as steep. The "
    "ReLU line leaves it where stencils begin to cross kinks, in the right panel. Both float32 lines stand far above.",
    wrong_if="A right gradient were off by more than 1e-8 at 1e-5 in float64, or ReLU and softplus erred alike at "
    "1e-2. A wrong one shows as a floor: no epsilon brings the error down.",
    exercise="Larger images mean more ReLUs, each with its kink. Where does the ReLU line leave the V with "
    "`minires lesson 2 --size 8 --seeds 2`? Say before you look whether it moves to the left or to the right.",
    next_try="minires gradcheck resnet8 --sweep",
    sources=(
        "W. Press et al., Numerical Recipes, section 5.7 (the best step)",
        "A. Karpathy et al., CS231n notes, gradient checks (kinks, precision)",
        "C. Dugas et al., NIPS 2000 (softplus)",
    ),
    shows=(epsilon_sweep, ops.relu_backward),
    quick={"seeds": 2},
)
EPSILONS = [float(f"{10 ** (half / 2):.3g}") for half in range(-22, -1)]  # 1e-11 to 0.1, two a power of ten
CURVES = {(act, dtype): f"{act}, {dtype}" for dtype in ("float64", "float32") for act in ("ReLU", "softplus")}


class Softplus(Module):
    """y = log(1 + exp(x)), a ReLU with a rounded corner; its slope is the logistic function of x."""

    def forward(self, x):
        self.save(x)
        return np.logaddexp(x, x.dtype.type(0))

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        return dy / (1 + np.exp(-x))


class Loss(Module):
    """A network with its cross-entropy, one number in the network's own precision."""

    def __init__(self, network, labels):
        super().__init__("loss")
        self.network, self.labels = network, labels

    def forward(self, x):
        loss, probs = ops.softmax_cross_entropy_forward(self.network.forward(x), self.labels)
        self.save(probs)
        return loss.reshape(1)

    def backward(self, dloss, need_dx=True):
        (probs,) = self.saved()
        return self.network.backward(dloss * ops.softmax_cross_entropy_backward(probs, self.labels))


def small_network(activation, seed: int, channels: int = 4, classes: int = 6) -> Sequential:
    """A stem, one residual block and a classifier; `activation` is the class of its three nonlinearities."""

    def conv_norm(name, inputs):
        return Conv2d(f"{name}.conv", inputs, channels, 3, pad=1, seed=seed), BatchNorm(f"{name}.bn", channels)

    branch = Sequential(*conv_norm("a", channels), activation("a.act"), *conv_norm("b", channels), name="branch")
    return Sequential(
        *conv_norm("stem", 3),
        activation("stem.act"),
        Block("block", branch, Block.IDENTITY, after=activation("b.act")),
        GlobalAvgPool2d("pool"),
        Dense("fc", channels, classes, seed=seed),
    )


def measure(*, size: int = 4, directions: int = 5, seeds: int = 5, seed: int = 0) -> dict:
    """The error of the central difference by epsilon: ReLU and softplus, float64 and float32.

    size        pixels of an image's side; a batch has four
    directions  random directions for each network
    seeds       how many networks
    seed        the first of them
    """
    knobs = dict(locals())
    at_least_one(size=size, directions=directions, seeds=seeds)
    curves = []
    for (name, dtype), label in CURVES.items():
        sweeps = []
        for s in range(seed, seed + seeds):
            rng = np.random.default_rng(s)
            x, labels = rng.standard_normal((4, size, size, 3)), rng.integers(0, 6, 4)
            loss = Loss(small_network({"ReLU": ReLU, "softplus": Softplus}[name], s), labels)
            with blas_threads(1):
                options = {"epsilons": EPSILONS, "directions": directions, "dtype": getattr(np, dtype), "seed": s}
                sweeps.append(epsilon_sweep(loss, x, **options).rows)
        columns = {key: np.array([[row[key] for row in rows] for rows in sweeps]) for key in ("error", "crossed")}
        crossed = columns["crossed"].mean(axis=0).tolist()
        curves.append({"label": label, "errors": columns["error"].tolist(), "crossed": crossed})
    return {"knobs": knobs, "epsilons": EPSILONS, "curves": curves}


def check(result: dict) -> list[Claim]:
    """The two precisions, the kinks, and the arm of curvature."""
    errors = {curve["label"]: np.array(curve["errors"]) for curve in result["curves"]}
    at = {epsilon: result["epsilons"].index(epsilon) for epsilon in (1e-7, 1e-5, 1e-3, 1e-2)}
    relu, smooth = (np.median(errors[f"{name}, float64"], axis=0) for name in ("ReLU", "softplus"))
    single = float(errors["ReLU, float32"][:, at[1e-7]].mean())
    larger = result["knobs"]["size"] > 4
    skipped = "the bounds on ReLU are for images of 4x4: larger ones have more kinks" if larger else ""
    growth = relu[at[1e-2]] / relu[at[1e-5]]
    numbers = [
        ("float64, ReLU: error at 1e-5", relu[at[1e-5]], 0, 1e-8, skipped),
        ("float64, softplus: error at 1e-5", smooth[at[1e-5]], 0, 1e-8),
        ("float32, ReLU: error at 1e-7 (mean)", single, 0.2, None),
        ("float64, ReLU: error at 1e-2 / at 1e-5", growth, 1000, None, skipped),
        ("kinks: ReLU / softplus, at 1e-2", relu[at[1e-2]] / smooth[at[1e-2]], 10, None),
        ("curvature: softplus at 1e-2 / at 1e-3", smooth[at[1e-2]] / smooth[at[1e-3]], 80, 120),
    ]
    return assert_claims([Claim(text, float(value), *rest) for text, value, *rest in numbers], LESSON, result)


def plot(result: dict):
    """The V-curves, and the share of stencils that cross a kink."""
    fig, (left, right) = figure(LESSON.title, panels=2, note=note(LESSON, result))
    looks = {"ReLU, float64": (ORANGE, "-", "o"), "softplus, float64": (BLUE, "-", "s")}
    looks |= {"ReLU, float32": (PINK, "--", "^"), "softplus, float32": (GREEN, "--", "D")}
    for curve in result["curves"]:
        color, line, marker = looks[curve["label"]]
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 2}
        left.plot(result["epsilons"], np.median(curve["errors"], axis=0), label=curve["label"], **style)
        band = np.min(curve["errors"], axis=0), np.max(curve["errors"], axis=0)
        left.fill_between(result["epsilons"], *band, color=color, alpha=0.15, linewidth=0)
        if "float64" in curve["label"]:
            right.plot(result["epsilons"], curve["crossed"], label=curve["label"], **style)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xlabel("epsilon")
    left.set_yscale("log")
    left.set_ylabel("error, over the gradient's norm")
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set_ylabel("share of stencils")
    legend(left, "Error of the central difference (band: the seeds)", columns=2)
    legend(right, "A ReLU is on at one end and off at the other", columns=2)
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
