"""Lesson 7: How far can you trust one step?

The gradient says how to change the weights. Take that step, a little one, and ask for the gradient again: does it still
point the same way? The idea of gradient predictiveness is that of S. Santurkar et al., arXiv:1805.11604, section 3;
here it compares ResNet-56 with its plain twin.
"""

import sys
from typing import Literal

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.data import make_signs
from minires.instruments.style import BLUE, INK, MUTED, ORANGE, figure, legend
from minires.nn import Block, resnet
from minires.nn.probe import cosine
from minires.optim import SGD
from minires.train import Preprocess

LESSON = Lesson(
    number=7,
    title="How far can you trust one step?",
    question="A gradient is a promise about the loss nearby. How near is nearby, with and without skips?",
    idea=r"""
    All weights together are one long vector w, and g is its gradient, the weight gradient of the whole network. Walk
    downhill by a share r of the weights' own size,

    $w' = w - r \frac{|w|}{|g|} g$

    and look twice. Does the new gradient still point like the old one: what is the cosine between $g(w')$ and $g(w)$?
    And how much of the promised fall of the loss, $r |w| |g|$, has come?

    The residual network of 56 layers can be trusted for a step of one part in 100,000. After the same step the plain
    twin's gradient has nothing left in common with the one before, and less than a tenth of the promise is kept. Its
    radius of trust, the step at which the cosine falls to 1/2, is several hundred times shorter. A step of one part in
    1,000 is too far for both.

    Why: the weights' change reaches the output through the same layers that bring the gradient back. Where each
    layer multiplies a gradient by 1.21 (lesson 5) it also multiplies the difference between two forward passes, and 56
    of them make a giant of a speck.

    This is the network at initialisation, with batch normalisation in training mode. It is no verdict on training: the
    first step of SGD at a learning rate of 0.03 is longer than either radius, a hundred times for the residual network
    and some million times for the plain one (the table has its length), and both then learn something (lesson 8).
    """,
    look_for="Two curves of one shape, nearly three powers of ten apart. The promise fails where the direction does; "
    "at the far left it is kept to the digit, which makes that point a gradient check (lesson 2).",
    wrong_if="The plain network's gradient still pointed the same way after a relative step of 1e-5, or the residual "
    "network's did not.",
    exercise="The plain gradient is concentrated in the first layers, so one long vector moves them most. Is that all? "
    "Let each layer move by the same share of its own size: `minires lesson 7 --each-layer on`.",
    next_try="minires lesson 7 --arch resnet20",
    sources=(
        "S. Santurkar et al., arXiv:1805.11604, section 3 and figure 4 (there: batch normalisation on and off)",
        "K. He et al., arXiv:1512.03385, section 4.2 (plain-56 and ResNet-56)",
    ),
    shows=(cosine, SGD, Block),
    quick={"seeds": 1},
)
SIZE, WIDTHS = 8, (8, 16, 32)  # pixels and channels
LR = 0.03  # of the step that SGD would take
SHARES = [10.0**power for power in range(-8, -1)]
KINDS = {"residual": True, "plain": False}
MEASURED_AT = {"arch": "resnet56", "batch": 32}


def measure(
    *,
    arch: Literal["resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56"] = "resnet56",
    batch: int = 32,
    each_layer: bool = False,
    seeds: int = 5,
    seed: int = 0,
) -> dict:
    """The cosine between the weight gradients before and after a step, by its length; the fall of the loss.

    arch        the residual network, which is measured beside its plain twin
    batch       built-in hand signs, the same before and after the step
    each_layer  every array moves by the same share of its own size, instead of all as one vector
    seeds       how many networks, each with its own images
    seed        the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds, batch=batch)
    seen = {kind: [] for kind in KINDS}
    with blas_threads(1):
        for s in range(seed, seed + seeds):
            signs, _ = make_signs(batch, 1, SIZE, seed=s)
            x = Preprocess.measure(signs)(signs.images(np.arange(batch)), np.float64)
            for kind, skip in KINDS.items():
                model = resnet(arch, signs.shape, len(signs.classes), widths=WIDTHS, skip=skip, seed=s)
                seen[kind].append(_walk(model.astype(np.float64), x, signs.labels, each_layer))
    keys = ("cosine", "kept", "sgd")
    return {"knobs": knobs} | {key: {kind: [w[key] for w in walks] for kind, walks in seen.items()} for key in keys}


def _walk(model, x, labels, each_layer) -> dict:
    """For each relative step from the same place: the cosine of the gradients, the kept part of the promised fall;
    and how long SGD's first step is."""
    flat = SGD(model.params())  # all weights as one array, all gradients as another; it takes no step
    loss = _loss(model, x, labels)
    start, gradient, direction = flat.weights.copy(), flat.grads.copy(), _downhill(flat, each_layer)
    length = LR * np.linalg.norm(gradient) / np.linalg.norm(start)
    walk = {"cosine": [], "kept": [], "sgd": float(length)}
    for share in SHARES:
        flat.weights[...] = start + share * direction
        fall = loss - _loss(model, x, labels)
        walk["cosine"].append(float(cosine(gradient, flat.grads)))
        walk["kept"].append(float(fall / (-share * direction @ gradient)))
    return walk


def _downhill(flat, each_layer):
    """Minus the gradient, as long as the weights are: all as one vector, or array by array."""
    ends = np.cumsum([0, *(p.data.size for p in flat.params)]) if each_layer else (0, len(flat.weights))
    direction = -flat.grads
    for span in map(slice, ends[:-1], ends[1:]):
        direction[span] *= np.linalg.norm(flat.weights[span]) / np.linalg.norm(direction[span])
    return direction


def _loss(model, x, labels) -> float:
    """The loss; every gradient is written on the way."""
    loss, probs = ops.softmax_cross_entropy_forward(model.forward(x), labels)
    model.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)
    return float(loss)


def radius(cosines) -> float:
    """The relative step at which the cosine first falls to 1/2, between the measured ones on a logarithmic axis."""
    logs = np.log10(SHARES)
    below = next((i for i, value in enumerate(cosines) if value < 0.5), None)
    if not below:  # at no step, or already at the first
        return SHARES[-1] if below is None else SHARES[0]
    return float(10 ** np.interp(0.5, cosines[below - 1 : below + 1][::-1], logs[below - 1 : below + 1][::-1]))


def check(result: dict) -> list[Claim]:
    """The residual network's gradient survives a step of 1e-5, its twin's does not; the two radii of trust."""
    knobs = result["knobs"]
    moved = ", ".join(f"{name} {value}" for name, value in MEASURED_AT.items() if knobs[name] != value)
    skipped = f"the bounds are for {moved}" if moved else ""
    at = SHARES.index(1e-5)
    kept, cosines = ({kind: np.mean(result[key][kind], axis=0) for kind in KINDS} for key in ("kept", "cosine"))
    mean_radius = {kind: np.mean([np.log10(radius(walk)) for walk in result["cosine"][kind]]) for kind in KINDS}
    claims = [
        Claim("residual: cosine after a step of 1e-5", cosines["residual"][at], 0.9, 1, skipped),
        Claim("plain: cosine after a step of 1e-5", cosines["plain"][at], -0.3, 0.3, skipped),
        Claim("residual: part of the promise kept, 1e-5", kept["residual"][at], 0.8, 1.1, skipped),
        Claim("residual: part kept, 1e-8", kept["residual"][0], 0.999, 1.001, skipped),
        Claim("plain: part of the promise kept, 1e-5", kept["plain"][at], None, 0.4, skipped),
        Claim("radius of trust, residual / plain", 10 ** (mean_radius["residual"] - mean_radius["plain"]), 30, None,
              skipped),
        *(Claim(f"{kind}: length of the first step of SGD", float(np.mean(result["sgd"][kind]))) for kind in KINDS),
    ]  # fmt: skip
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """Direction and promise by the length of the step."""
    knobs = result["knobs"]
    fig, (left, right) = figure(LESSON.title, panels=2, note=note(LESSON, result))
    name = knobs["arch"].removeprefix("resnet")
    for kind, color, marker in (("residual", BLUE, "o"), ("plain", ORANGE, "s")):
        style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 2.2, "label": f"{kind}-{name}"}
        for ax, values in ((left, result["cosine"][kind]), (right, result["kept"][kind])):
            ax.fill_between(SHARES, np.min(values, axis=0), np.max(values, axis=0), color=color, alpha=0.2, linewidth=0)
            ax.plot(SHARES, np.mean(values, axis=0), **style)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.axhline(0, color=MUTED, linewidth=0.8)
        ax.axhline(1, color=INK, linestyle="--", linewidth=1)
        of = "each array's" if knobs["each_layer"] else "all weights'"
        ax.set_xlabel(f"length of the step, as a share of {of} size")
        ax.set_ylim(-0.35, 1.12)
    left.set_ylabel("cosine of the weight gradients")
    right.set_ylabel("fall of the loss, measured / promised")
    legend(left, "Does the new gradient point like the old one?")
    legend(right, "Does the loss keep the promise?")
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
