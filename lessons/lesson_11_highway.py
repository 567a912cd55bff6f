"""Lesson 11: Keep the highway clean.

What happens to the gradient when something is put on the shortcut, after K. He et al., arXiv:1603.05027, sections 2 and
3.1 (constant scaling), and what may be put on the branch instead: a factor (S. De, S. Smith, arXiv:2002.10444), or a
last gamma of zero (P. Goyal et al., arXiv:1706.02677, section 5.1).
"""

import math
import sys

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.lesson_08_degradation import hand_signs, train_sgd
from minires.lessons.networks import dense_stack
from minires.lessons.terminal import run

from minires.backend import blas_threads
from minires.errors import ConfigError
from minires.instruments.style import BLUE, GREEN, INK, MARKERS, MUTED, ORANGE, PALETTE, figure, legend
from minires.nn import Add, Block, resnet
from minires.nn.probe import rms

LESSON = Lesson(
    number=11,
    title="Keep the highway clean",
    question="The shortcut hands the gradient on untouched. What if it were scaled, only a little? And what if the "
    "branch were?",
    idea=r"""
    Let the add node scale what enters it: $y = s x + b F(x)$. The one path that takes every shortcut then brings back
    $s^n$ times the gradient after n blocks, for s = 0.5 and n = 25 a thirty-millionth. K. He and others found that
    such a network trains badly or not at all, and named the reason: the pure path is gone.

    But the gradient does not vanish here, it explodes. With batch normalisation (BN) a branch does not know how small
    its input has become: BN divides by it. With $a = \pi / (\pi - 1)$, the constant of lesson 5, and v the variance of
    x, one block multiplies the gradient's power by

    $s^2 + b^2 \frac{a}{v}$

    and v becomes $s^2 v + b^2 / a$. With s = 1, v grows with each block and the product of the factors is a power of
    the depth. With s below 1, v settles, and every block multiplies the power by $s^2 + a^2 (1 - s^2)$: exponential
    growth, and at s = 0 the plain network with BN. Scaling the skip turns the residual network back into a plain one,
    by degrees.

    The branch is the place for a factor. With $b = 1/\sqrt{n}$ the power grows by less than $e^a$ however deep the
    network is, and with b = 0, which is what a zero gamma in the branch's last BN does, every block starts as the
    identity: gradient and pure path are the same. The right panel trains ResNet-56 from such starts.

    Left, the gradient shown is that of the activations of a dense pre-activation network, at initialisation.
    """,
    look_for="Left: a slope for each shortcut scale, on its dashed theory, while the dotted pure paths go the other "
    "way. Right: the ordinary start leaps above guessing and has not come back after forty steps; by then a quarter "
    "of gamma is ahead of none.",
    wrong_if="Scaling the shortcut by 0.5 left the gradient where it was, or made it vanish.",
    exercise="The rule says what s above 1 does too. Compute it for 1.1 and 25 blocks, then run "
    "`minires lesson 11 --scales 1 1.1 --steps 0`. And which network of lesson 3 is `--scales 0`?",
    next_try="minires lesson 11 --scales 1.0 0.99 0.95 --depth 100 --steps 0",
    sources=(
        "K. He et al., arXiv:1603.05027, sections 2 (the pure path) and 3.1 (constant scaling)",
        "P. Goyal et al., arXiv:1706.02677, section 5.1 (zero gamma)",
        "S. De, S. Smith, arXiv:2002.10444, sections 3 and 4 (the scale of the branch)",
    ),
    shows=(Block, Add),
    quick={"seeds": 1, "steps": 20},
)
A = math.pi / (math.pi - 1)
GAMMAS = (1.0, 0.25, 0.0)
SIZE, WIDTHS, BATCH, LR = 8, (8, 16, 32), 32, 0.03  # of the network that is trained: pixels, channels, images a step
FIRST = 30  # steps over which the early loss is averaged
MEASURED_AT = {"depth": 50, "width": 128, "batch": 128}


class ScaledAdd(Add):
    """y = branch_scale * F(x) + shortcut_scale * x; each path gets its gradient scaled alike."""

    def __init__(self, name, branch_scale=1.0, shortcut_scale=1.0):
        super().__init__(name)
        self.branch_scale, self.shortcut_scale = branch_scale, shortcut_scale

    def forward(self, branch, shortcut):
        return super().forward(self.branch_scale * branch, self.shortcut_scale * shortcut)

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = super().backward(dy)
        return self.branch_scale * dbranch, self.shortcut_scale * dshortcut


def measure(
    *,
    scales: tuple[float, ...] = (1.0, 0.9, 0.8, 0.5),
    depth: int = 50,
    width: int = 128,
    batch: int = 128,
    steps: int = 40,
    seeds: int = 3,
    seed: int = 0,
) -> dict:
    """The gradient by depth under scaled shortcuts and scaled branches; the first losses by the branches' last gamma.

    scales  what the shortcut is multiplied by
    depth   dense layers, an even number: a block has two
    width   units in each layer
    batch   rows of the random batch
    steps   of SGD for ResNet-56 with each last gamma; 0 leaves the training out
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds)
    if batch < 2 or steps < 0:
        raise ConfigError(f"expected --batch 2 or more and --steps 0 or more, got {batch} and {steps}")
    run_of_seeds = range(seed, seed + seeds)
    pairs = [(1.0, scale) for scale in scales] + [(1 / math.sqrt(depth // 2 or 1), 1.0), (0.0, 1.0)]
    flows = []
    with blas_threads(1):
        for branch, shortcut in pairs:
            seen = [_flow(depth, width, batch, branch, shortcut, s) for s in run_of_seeds]
            total, pure = zip(*seen, strict=True)
            flows.append({"branch": branch, "shortcut": shortcut, "total": total, "pure": pure})
    train, _ = hand_signs("builtin", SIZE, BATCH * max(steps, 1), 6)
    losses = {str(gamma): [_losses(train, gamma, s) for s in run_of_seeds] for gamma in GAMMAS} if steps else {}
    return {"knobs": knobs, "flows": flows, "losses": losses}


def _flow(depth, width, batch, branch, shortcut, seed) -> tuple[list, list]:
    """RMS of the gradient before the first block and after each, over the output's: all of it; by shortcuts alone."""
    network = dense_stack(depth, width, skip="pre", bn=True, seed=seed)
    for block in network.layers:
        block.add = ScaledAdd(block.add.name, branch, shortcut)
    rng = np.random.default_rng([seed, 3])
    dy = pure = rng.standard_normal(network.forward(rng.standard_normal((batch, width))).shape)
    total, alone, end = [1.0], [1.0], rms(dy)
    for block in reversed(network.layers):
        dy, (_, pure) = block.backward(dy), block.add.backward(pure)
        total.append(float(rms(dy) / end))
        alone.append(float(rms(pure) / end))
    return total[::-1], alone[::-1]


def _losses(train, gamma, seed) -> list[float]:
    """The loss of each step of ResNet-56, one pass over the images, its branches' last gammas starting at `gamma`."""
    model = resnet("resnet56", train.shape, len(train.classes), widths=WIDTHS, last_gamma=gamma, seed=seed)
    return train_sgd(model, train, epochs=1, lr=LR, seed=seed)[1]


def theory(blocks: int, branch: float, shortcut: float) -> list[float]:
    """The gradient's size before the first block and after each, over the output's: the rule of the text."""
    variance, powers = 1.0, []
    for _ in range(blocks):
        powers.append(shortcut**2 + branch**2 * A / variance)
        variance = shortcut**2 * variance + branch**2 / A
    return [*np.sqrt(np.cumprod(powers[::-1]))[::-1].tolist(), 1.0]


def check(result: dict) -> list[Claim]:
    """The pure path exactly, the whole gradient against the rule, and the early loss by the last gamma."""
    knobs, blocks = result["knobs"], result["knobs"]["depth"] // 2
    moved = ", ".join(f"{name} {value}" for name, value in MEASURED_AT.items() if knobs[name] != value)
    skipped = f"the bounds are for {moved}" if moved else ""
    total = {(f["branch"], f["shortcut"]): float(np.mean(f["total"], axis=0)[0]) for f in result["flows"]}
    wrong = max(_distance(run[0], f["shortcut"] ** blocks) for f in result["flows"] for run in f["pure"])
    claims = [Claim("pure path: relative distance from scale^n, largest", wrong, 0, 1e-10)]
    for (branch, shortcut), value in total.items():
        if not branch:
            continue
        expected = theory(blocks, branch, shortcut)[0]
        name = f"gradient / theory ({expected:.3g}), " + _name(branch, shortcut)
        claims.append(Claim(name, value / expected, 0.75, 1.35, skipped))
    if {0.5, 1.0} <= set(knobs["scales"]):
        ratio = total[1.0, 0.5] / total[1.0, 1.0]
        claims.append(Claim("gradient, shortcut times 0.5 / times 1", ratio, 50, None, skipped))
    claims.append(Claim("gradient, branch times 0: distance from 1", abs(total[0.0, 1.0] - 1), 0, 1e-12))
    if result["losses"]:
        early = {gamma: float(np.mean(runs, axis=0)[:FIRST].mean()) for gamma, runs in result["losses"].items()}
        few = "" if knobs["steps"] >= 20 else "the bound is for 20 steps and more"
        for gamma in GAMMAS[1:]:
            less = early["1.0"] - early[str(gamma)]
            claims.append(Claim(f"early loss, last gamma 1 less {gamma:g}", less, 0.2, None, few))
    return assert_claims(claims, LESSON, result)


def _distance(value, expected) -> float:
    return abs(value - expected) / (abs(expected) or 1)


def _name(branch, shortcut) -> str:
    return f"branch × {branch:.3g}" if branch != 1 else f"shortcut × {shortcut:.3g}"


def plot(result: dict):
    """The gradient by depth for each scale, with the pure path; the losses by the last gamma."""
    panels = 2 if result["losses"] else 1
    fig, axes = figure(LESSON.title, panels=panels, height=5.2, note=note(LESSON, result))
    ax = axes[0]
    for flow, color, marker in zip(result["flows"], PALETTE * 4, MARKERS * 4, strict=False):
        total, blocks = np.array(flow["total"]), result["knobs"]["depth"] // 2
        at = np.arange(blocks + 1)
        style = {"color": color, "marker": marker, "markersize": 4, "markevery": max(blocks // 12, 1)}
        ax.plot(at, total.mean(axis=0), linewidth=2.2, label=_name(flow["branch"], flow["shortcut"]), **style)
        ax.fill_between(at, total.min(axis=0), total.max(axis=0), color=color, alpha=0.2, linewidth=0)
        ax.plot(at, theory(blocks, flow["branch"], flow["shortcut"]), color=INK, linestyle="--", linewidth=1, zorder=3)
        ax.plot(at, np.mean(flow["pure"], axis=0), color=color, linestyle=":", linewidth=1.6)
    ax.axhline(1, color=MUTED, linewidth=0.8)
    ax.set_yscale("log")
    ax.set_xlabel("blocks from the input")
    ax.set_ylabel("RMS of dL/dy, over the output's")
    legend(ax, "All paths; dashed: theory; dotted: the pure shortcut path", columns=3)
    if result["losses"]:
        for (gamma, runs), color in zip(result["losses"].items(), (ORANGE, GREEN, BLUE), strict=True):
            runs, steps = np.array(runs), np.arange(1, result["knobs"]["steps"] + 1)
            axes[1].plot(steps, runs.mean(axis=0), color=color, linewidth=2.2, label=f"last gamma {float(gamma):g}")
            axes[1].fill_between(steps, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.2, linewidth=0)
        axes[1].axhline(math.log(6), color=INK, linestyle="--", linewidth=1, label="guessing")
        axes[1].set_xlabel("step")
        axes[1].set_ylabel("training loss")
        legend(axes[1], "ResNet-56, its first steps of SGD", columns=2)
    return fig


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
