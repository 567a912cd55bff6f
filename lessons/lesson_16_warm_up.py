"""Lesson 16: Why start slowly?

A warm-up begins with small steps and comes to the full rate after some dozens (P. Goyal et al., arXiv:1706.02677,
section 2.2). What it changes is measured where it acts: in the sizes of the first updates, of Adam and of SGD, in the
losses of the first steps, and in what they leave behind, with batch normalisation (BN) and without.
"""

import math
import sys
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.lesson_08_degradation import smooth
from minires.lessons.terminal import run

from minires.backend import blas_threads
from minires.data import Dataset, make_signs
from minires.errors import ConfigError
from minires.fast.step import make_step
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, TEXT, figure, legend
from minires.nn import resnet
from minires.nn.probe import rms
from minires.optim import SGD, Adam
from minires.train import Classifier, evaluate
from minires.train.schedule import Schedule

LESSON = Lesson(
    number=16,
    title="Why start slowly?",
    question="A warm-up begins with small steps and comes to the full rate after some dozens. What do the first steps "
    "do without it, and which networks mind?",
    idea=r"""
    Adam divides each weight's mean gradient by the root of its mean square. After one step both know one gradient, and
    the quotient is its sign: every weight moves by the whole rate, whatever its gradient was. Later the mean of
    gradients that change is smaller than their size. Where they are noise around zero, with $b = 0.9$ Adam's first
    beta, the update of step t is

    $\sqrt{(1 - b)(1 + b^t) / ((1 + b)(1 - b^t))}$

    of the rate: 1 at first, 0.45 in the fifth step, 0.33 in the tenth, 0.23 in the end. Measured in a residual network
    with batch normalisation (BN), at a usual rate, it is that to a few per cent: as far as Adam can tell, the first
    gradients are noise. So its longest steps are its first, more than four times the later ones, taken where the
    gradient is least to be trusted (lesson 7). (The correction for a start at zero is not to blame: without it the
    first step would be $0.1 / \sqrt{0.001} = 3.2$ rates long.) A warm-up over w steps takes t / w of each, and turns
    the order round.

    Does that matter? It depends on how long a step is beside the weights. At 0.003 the first step moves them by 2 % of
    their size, and a warm-up only spends steps. At 0.03 it is 22 %: the network that was initialised with care is gone
    after one step. With BN it learns all the same, but a warm-up is better for it, with every seed.

    The usual story goes on: without BN a warm-up is needed, since v remembers the first, large gradients (a beta of
    0.999 forgets in a thousand steps) and keeps all later updates short. Some networks do that, as the exercise shows,
    and others do not; at a rate of 0.01 most of the five gain by a warm-up and not all. For SGD at 0.1, whose steps are
    as long as the gradient says, it went either way. What a warm-up does at large batches (P. Goyal and others) is not
    measured here.

    What this does not show: what is left of it after thousands of steps. These are the first sixty.
    """,
    look_for="Left: both lines on the dashed one, though no gradient here is pure noise. Middle: at the large rate the "
    "dotted line ends lower, at the usual one it only comes later. Right: dots on either side of zero are seeds that "
    "disagree.",
    wrong_if="Adam's first update were not the whole rate, the later ones did not fall as those on noise do, or the "
    "large rate did as well without a warm-up.",
    exercise="How far does Adam at 0.03 move the weights in its first twenty steps, all lengths added up, cold and "
    "warm? And how long are its updates at step 40 without BN, over the rate, cold and warm: does every seed still pay "
    "for its first steps?",
    next_try="minires lesson 16 --warmup 10",
    sources=(
        "P. Goyal et al., arXiv:1706.02677, section 2.2 (the warm-up of large rates)",
        "D. Kingma, J. Ba, arXiv:1412.6980, sections 2 and 3 (Adam's steps and their correction)",
        "J. Ma, D. Yarats, arXiv:1910.09278, sections 3 and 4 (Adam's first updates, and how long to warm up)",
        "L. Liu et al., arXiv:1908.03265, section 3 (the other explanation: the variance of Adam's rate)",
    ),
    shows=(Schedule, Adam),
    quick={"seeds": 1},
)
SIZE, WIDTHS, BATCH, COUNT, TESTS = 8, (8, 16, 32), 32, 1080, 240
BETAS = (0.9, 0.999)  # the last is Adam's own
USUAL = 0.003  # a rate of Adam at which a network with BN needs no warm-up
HIGH = 5.0  # to which the losses are drawn
LATE = 39  # a step, from 0, when a warm-up of 20 is over
LAST = 20  # steps over which the final loss is averaged
WORST = 100.0  # a larger loss, or none, is noted as this


def noise(steps: int, beta: float = 0.9) -> np.ndarray:
    """RMS of Adam's update over the rate, step by step, where the gradient is noise of one size around zero.

    m_hat is a weighted mean of t gradients, sqrt(v_hat) their size: sqrt((1 - b) / (1 + b) * (1 + b^t) / (1 - b^t)).
    """
    powers = beta ** np.arange(1, steps + 1)
    return np.sqrt((1 - beta) / (1 + beta) * (1 + powers) / (1 - powers))


# optimiser, its rate, and the network's options, where a warm-up is tried
CASES = {
    "Adam 0.003, BN": (Adam, 0.003, {}),
    "Adam 0.03, BN": (Adam, 0.03, {}),
    "Adam 0.01, no BN": (Adam, 0.01, {"norm": False}),
    "SGD 0.1, BN": (SGD, 0.1, {}),
}


def measure(
    *,
    arch: Literal["resnet8", "resnet14", "resnet20", "resnet32"] = "resnet14",
    steps: int = 60,
    warmup: int = 20,
    seeds: int = 3,
    seed: int = 0,
) -> dict:
    """The first updates and losses of four pairs of network and optimiser, with and without a warm-up.

    arch    the network
    steps   of training, at a constant rate after the warm-up
    warmup  steps in which the rate rises to that
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(warmup=warmup, seeds=seeds)
    if steps < warmup + 2:
        raise ConfigError(f"--steps: expected at least two more than the {warmup} of --warmup, got {steps}")
    train, test = make_signs(COUNT, TESTS, SIZE)
    with blas_threads(1):
        runs = [_run(knobs, train, test, s) for s in range(seed, seed + seeds)]
    return {"knobs": knobs, "classes": len(train.classes), "noise": noise(steps).tolist(), "runs": runs}


def _run(knobs: dict, train: Dataset, test: Dataset, seed: int) -> dict:
    """Each case, cold and warm; and Adam's updates by beta2, cold, at a usual rate."""
    cases = {
        name: {
            way: _train(knobs, train, test, seed, optimizer, lr, warmup, options)
            for way, warmup in (("cold", 0), ("warm", knobs["warmup"]))
        }
        for name, (optimizer, lr, options) in CASES.items()
    }
    memory = {
        str(beta): _train(knobs, train, test, seed, partial(Adam, betas=(0.9, beta)), USUAL, 0, {})["updates"]
        for beta in BETAS[:-1]
    }
    return {"cases": cases, "memory": memory | {str(BETAS[-1]): cases["Adam 0.003, BN"]["cold"]["updates"]}}


def _train(knobs, train, test, seed, optimizer, lr, warmup, options) -> dict:
    """One run at a constant rate: by step the loss, the RMS of the update over the rate, its norm over the weights'."""
    model = resnet(knobs["arch"], train.shape, len(train.classes), widths=WIDTHS, seed=seed, **options)
    classifier, optimizer = Classifier.for_data(model, train), optimizer(model.params())
    schedule = Schedule("constant", lr, knobs["steps"], warmup)
    rng, order, seen = np.random.default_rng(seed), [], {"losses": [], "updates": [], "moved": []}
    with make_step(model, optimizer) as step:
        for t in range(knobs["steps"]):
            order = order if len(order) >= BATCH else rng.permutation(len(train))
            index, order = order[:BATCH], order[BATCH:]
            before = optimizer.weights.copy()
            loss, *_ = step(classifier.preprocess(train.images(index)), train.labels[index], schedule(t))
            change = optimizer.weights - before
            seen["losses"].append(min(float(loss), WORST) if math.isfinite(loss) else WORST)
            seen["updates"].append(float(rms(change) / lr))
            seen["moved"].append(float(rms(change) / rms(before)))
    return seen | {"accuracy": evaluate(classifier, test).accuracy}


MEASURED_AT = {"arch": "resnet14", "steps": 60, "warmup": 20}


def check(result: dict) -> list[Claim]:
    """How long Adam's first updates are, and what a warm-up gains."""
    elsewhere = moved(result["knobs"], MEASURED_AT)
    skipped = f"the bounds are for {elsewhere}" if elsewhere else ""
    usual, noise_ = by_step(result, "Adam 0.003, BN", "cold", "updates"), result["noise"]
    fast = {way: by_step(result, "Adam 0.03, BN", way, "moved") for way in ("cold", "warm")}
    late = {way: by_step(result, "Adam 0.01, no BN", way, "updates")[LATE] for way in ("cold", "warm")}
    claims = [
        Claim("Adam 0.003, BN: first update, over the rate", usual[0], 0.97, 1.001, skipped),
        Claim("the fifth, over that on noise (0.45)", usual[4] / noise_[4], 0.8, 1.25, skipped),
        Claim("the tenth, over that on noise (0.33)", usual[9] / noise_[9], 0.8, 1.25, skipped),
        Claim("Adam 0.03, BN: first step, over the weights' size", fast["cold"][0], 0.15, 0.3, skipped),
        Claim("the same with the warm-up", fast["warm"][0], 0, 0.02, skipped),
        Claim("Adam 0.01, no BN: updates at step 40, cold / warm", late["cold"] / late["warm"]),
    ]
    bounds = {"Adam 0.003, BN": (None, 0.05), "Adam 0.03, BN": (-0.05, None)}
    for case in CASES:
        value = float(gain(result, case).mean())
        claims.append(Claim(f"final loss, cold less warm: {case}", value, *bounds.get(case, (None, None)), skipped))
    right = {way: np.mean([run["cases"]["Adam 0.03, BN"][way]["accuracy"] for run in result["runs"]]) for way in fast}
    text = "test accuracy, warm less cold: Adam 0.03, BN"
    claims.append(Claim(text, right["warm"] - right["cold"], 0.03, None, skipped))
    return assert_claims([replace(c, measured=float(c.measured)) for c in claims], LESSON, result)


def by_step(result: dict, case: str, way: str, key: str) -> np.ndarray:
    """The mean of the seeds."""
    return np.mean([run["cases"][case][way][key] for run in result["runs"]], axis=0)


def plot(result: dict):
    """Adam's updates by step; the losses of two cases, cold and warm; what a warm-up gains in every case."""
    fig, axes = figure("What a warm-up changes", panels=3, height=5, note=note(LESSON, result))
    at = np.arange(result["knobs"]["steps"]) + 1
    for beta, color in zip(BETAS, (GREEN, BLUE), strict=True):
        _draw(axes[0], at, [run["memory"][str(beta)] for run in result["runs"]], color, f"β₂ = {beta:g}")
    axes[0].plot(at, result["noise"], color=INK, linestyle="--", linewidth=1.2, label="pure noise")
    axes[0].set_xscale("log")
    axes[0].set_yscale("log")
    for axis, places in ((axes[0].xaxis, (1, 2, 5)), (axes[0].yaxis, (1, 2, 5))):
        axis.set_major_locator(LogLocator(subs=places))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes[0].set_xlabel("step")
    axes[0].set_ylabel("RMS of the update, over the rate")
    legend(axes[0], "Adam without a warm-up", columns=2)
    for case, color in DRAWN.items():
        for way, line in (("cold", "-"), ("warm", (0, (2, 1)))):
            runs = np.minimum([smooth(run["cases"][case][way]["losses"]) for run in result["runs"]], HIGH)
            _draw(axes[1], at, runs, color, f"{case}{', warm-up' * (way == 'warm')}", line)
    axes[1].axhline(math.log(result["classes"]), color=MUTED, linestyle="--", linewidth=1.2)
    axes[1].set_xlabel("step")
    axes[1].set_ylabel("training loss")
    legend(axes[1], "Losses (dashed: guessing)", columns=1)
    _draw_gains(axes[2], result)
    return fig


DRAWN = {"Adam 0.03, BN": ORANGE, "Adam 0.003, BN": BLUE}


def _draw(ax, at, runs, color, label, line="-") -> None:
    low, mean, high = (f(runs, axis=0) for f in (np.min, np.mean, np.max))
    ax.plot(at, mean, color=color, linestyle=line, linewidth=2, label=label)
    ax.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_gains(ax, result: dict) -> None:
    """Final loss, cold less warm."""
    at, under = np.arange(len(CASES))[::-1], {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
    gains = {case: gain(result, case) for case in CASES}
    ax.axvline(0, color=INK, linewidth=1)
    for y, (case, seen) in zip(at, gains.items(), strict=True):
        ax.barh(y, seen.mean(), color=GREEN if seen.mean() > 0 else ORANGE, height=0.4)
        ax.plot(seen, np.full(len(seen), y), "o", color=INK, markersize=3.5)
        text = {"color": INK, "fontsize": TEXT - 1, "zorder": 4, "bbox": under}
        ax.text(0.02, y + 0.25, f"{case}: {seen.mean():+.2f}", transform=ax.get_yaxis_transform(), va="bottom", **text)
    most = 1.15 * max(abs(seen).max() for seen in gains.values())
    ax.set_xlim(-most, most)
    ax.set_ylim(-0.5, len(CASES) - 0.2)
    ax.set_yticks([])
    ax.set_xlabel("final loss, cold less warm")
    legend(ax, "What the warm-up gains", columns=1)


def gain(result: dict, case: str) -> np.ndarray:
    """Seed by seed the final training loss without the warm-up, less that with it."""
    cold, warm = (
        np.array([np.mean(run["cases"][case][way]["losses"][-LAST:]) for run in result["runs"]])
        for way in ("cold", "warm")
    )
    return cold - warm


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
