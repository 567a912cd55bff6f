"""Lesson 4: Do the weights starve too?

The gradient of the activations beside that of the weights, in the networks of lesson 3. A ReLU network without biases
is homogeneous of degree one in each weight matrix, so by Euler's theorem <w, dL/dw> is the same number in every
layer (S. Du, W. Hu, J. Lee, arXiv:1806.00900, section 2); behind a batch normalisation the degree is zero, and so is
the number (S. Arora, Z. Li, K. Lyu, arXiv:1812.03981, section 2.2).
"""

import sys

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.networks import Init, Norm, Skip, dense_stack, gradient_by_depth, kernels, kinds, label
from minires.lessons.terminal import run

from minires import ops
from minires.instruments.style import BLUE, GREEN, ORANGE, PINK, figure, legend

LESSON = Lesson(
    number=4,
    title="Do the weights starve too?",
    question="Where the gradient of the activations vanishes on its way back, do the first layers' weights learn less "
    "than the last ones'?",
    idea=r"""
    No. In the plain network with Glorot's weights the activation gradient of the first layer is 35 million times
    smaller than that of the last. The weight gradients of the two are alike: tiny, but all of them together, a few
    millionths of the weights where those of the network with He's weights are fifty times the weights.

    A weight's gradient is a product of what came forward and what came back, $dw = x^T dy$. With weights that are too
    small both lose $1/\sqrt{2}$ in each layer, x from the left to the right and dy from the right to the left. Their
    product has lost the same number of factors everywhere, fifty, whichever layer you look at.

    One identity says it without any statistics. Multiply one matrix by t. In a plain network without BN and biases
    the output is multiplied by t too, whichever matrix it was. Differentiate by t at 1: $\langle w, dw \rangle$, the
    sum over all entries of a weight times its gradient, is the same number in every layer. It is, to 13 digits.

    With BN behind the matrix the output does not change at all, so $\langle w, dw \rangle = 0$: the gradient stands
    at right angles to the weights, and a step along it can only make them longer. Here x keeps its size on its way, so
    the weight gradients slope as the activation gradients do: the first layer gets ten thousand times as much.

    So a picture of "the gradient by layer" can show a steep slope or none for one and the same network. Ask which
    gradient it shows. These here are gradients at initialisation.
    """,
    look_for="The orange line, steep on the left and flat on the right, seven powers of ten below the blue one. The "
    "lines with BN slope in both panels. On the right they lie apart: shorter weights, larger gradients.",
    wrong_if="<w, dw> differed from layer to layer without BN, or the weight gradients sloped as the activations' do.",
    exercise="Adam divides each weight's gradient by its own size. Which of the four networks does that help? And run "
    "`minires lesson 4 --skip pre`: the activation gradients of He's network grow, its weight gradients do not. Why?",
    next_try="minires lesson 4 --skip post --bn on",
    sources=(
        "S. Du, W. Hu, J. Lee, arXiv:1806.00900, section 2 (the same <w, dw> in every layer)",
        "S. Arora, Z. Li, K. Lyu, arXiv:1812.03981, section 2.2 (BN: the gradient is orthogonal to the weights)",
        "K. He et al., arXiv:1502.01852, section 2.2",
    ),
    shows=(ops.dense_backward, ops.batchnorm_backward),
    quick={"seeds": 1},
)
MEASURED_AT = {"depth": 50, "width": 128, "batch": 128}


def measure(
    *,
    depth: int = 50,
    width: int = 128,
    batch: int = 128,
    skip: Skip = "none",
    bn: Norm = "both",
    init: Init = "both",
    seeds: int = 5,
    seed: int = 0,
) -> dict:
    """Activation and weight gradients by depth in dense networks at initialisation.

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
    regimes = []
    for kind in kinds(skip, bn, init):
        seen = [_one(dense_stack(depth, width, **kind, seed=s), batch, s) for s in range(seed, seed + seeds)]
        regimes.append(kind | _summary(*map(np.array, zip(*seen, strict=True))))
    return {"knobs": knobs, "regimes": regimes}


def _one(network, batch, seed):
    """log10 of the activation gradients, log10 of |dw| / |w|, <w, dw>, and <w, dw> / (|w| |dw|), by layer."""
    flow = gradient_by_depth(network, batch, seed)
    pairs = [(p.data, p.grad) for p in kernels(network)]
    products = np.array([(w * dw).sum() for w, dw in pairs])
    sizes = np.array([(np.linalg.norm(w), np.linalg.norm(dw)) for w, dw in pairs])
    return np.log10(flow), np.log10(sizes[:, 1] / sizes[:, 0]), products, products / sizes.prod(axis=1)


def _summary(flows, weights, products, cosines) -> dict:
    """Curves as means over the seeds (rows); one number a seed for what the claims are about."""
    return {
        "activations": (flows - flows[:, -1:]).mean(axis=0).tolist(),
        "weights": weights.mean(axis=0).tolist(),
        "activation_ratio": (flows[:, 0] - flows[:, -1]).tolist(),
        "weight_ratio": (weights[:, 0] - weights[:, -1]).tolist(),
        "product_spread": (np.ptp(products, axis=1) / abs(products).max(axis=1)).tolist(),
        "largest_cosine": abs(cosines).max(axis=1).tolist(),
    }


def check(result: dict) -> list[Claim]:
    """The two identities, for any depth and width; the slopes, where they were measured."""
    knobs = result["knobs"]
    regimes = {(r["skip"], r["bn"], r["init"]): r for r in result["regimes"]}
    elsewhere = moved(knobs, MEASURED_AT)
    skipped = f"the bounds on slopes are for {elsewhere}" if elsewhere else ""
    claims = []
    for key, regime in regimes.items():
        if key[:2] == ("none", False):
            text = f"{label(*key)}: spread of <w, dw> over the layers"
            claims.append(Claim(text, max(regime["product_spread"]), 0, 1e-10))
        if key[0] != "pre" and key[1]:
            text = f"{label(*key)}: largest cosine of w and dw"
            claims.append(Claim(text, max(regime["largest_cosine"]), 0, 1e-10))
    glorot, he, norm = (regimes.get(("none", *key)) for key in ((False, "glorot"), (False, "he"), (True, "he")))
    slopes = []  # log10
    if glorot:
        text = "plain, Glorot: log10 of first / last"
        slopes += [(f"{text}, activations", glorot["activation_ratio"], -8.5, -6.5)]
        slopes += [(f"{text}, weights", glorot["weight_ratio"], -1, 1)]
    if glorot and he:
        lower = np.mean(glorot["weights"]) - np.mean(he["weights"])
        slopes += [("plain: log10 of Glorot / He, all weights", lower, -8.5, -6.5)]
    if norm:
        slopes += [("plain, BN: log10 of first layer / last, weights", norm["weight_ratio"], 3.5, 4.6)]
    claims += [Claim(text, float(np.mean(value)), *bounds, skipped) for text, value, *bounds in slopes]
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """Activation gradients beside weight gradients, a line for each network."""
    fig, (left, right) = figure("Two gradients of the same networks", panels=2, note=note(LESSON, result))
    looks = {(False, "he"): BLUE, (False, "glorot"): ORANGE, (True, "he"): GREEN, (True, "glorot"): PINK}
    lines = {"none": "-", "pre": "--", "post": ":"}
    for regime in result["regimes"]:
        name = label(regime["skip"], regime["bn"], regime["init"])
        style = {"color": looks[regime["bn"], regime["init"]], "linestyle": lines[regime["skip"]], "linewidth": 2.5}
        if regime["bn"] and regime["init"] == "glorot":
            style |= {"dashes": (1.5, 1), "zorder": 3}
        depths = np.linspace(0, result["knobs"]["depth"], len(regime["activations"]))
        left.plot(depths, regime["activations"], label=name, **style)
        right.plot(np.arange(1, len(regime["weights"]) + 1), regime["weights"], label=name, **style)
    for ax, heading in ((left, "Activation gradients"), (right, "Weight gradients")):
        ax.yaxis.set_major_formatter("$10^{{{x:.0f}}}$")
        ax.set_xlabel("layers from the input")
        legend(ax, heading, columns=2)
    left.set_ylabel("RMS of dL/dy, over the output's")
    right.set_ylabel("norm of dL/dw, over that of w")
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
