"""The answer key: what each lesson asks under "Exercise", answered. `minires lesson 3 --answers`.

A {name} in a text is a number that was measured: what several seeds gave, each alone, kept in spreads.json beside what
the claims gave. It has bounds, which every seed has to keep; `python -m minires.lessons.answers 3` measures it anew.
"""

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from minires.lessons import spreads
from minires.lessons.harness import judged, load, number, numbers, spread
from minires.lessons.prose import readable

from minires.errors import ConfigError, MiniresError


@dataclass(frozen=True)
class Number:
    """A number of an answer. read: how a claim of the lesson begins, or what takes the number from a result.

    knobs: at which it is measured, where they are not the defaults and one seed. Every seed lies within low and high.
    """

    read: str | Callable[[dict], float]
    low: float | None = None
    high: float | None = None
    knobs: dict = field(default_factory=dict)

    def of(self, module, result: dict) -> float:
        if callable(self.read):
            return float(self.read(result))
        found = [c.measured for c in judged(module.check, result) if c.text.startswith(self.read)]
        if len(found) != 1:
            raise ConfigError(f"answers: {len(found)} claims begin with {self.read!r}: name one")
        return float(found[0])

    def holds(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Answer:
    """seeds: how many are measured, one by one."""

    text: str
    numbers: dict[str, Number]
    seeds: int = 5

    @property
    def note(self) -> str:
        """How its numbers were had."""
        several = f"mean (smallest..largest) of {self.seeds} seeds, one by one"
        return f"Numbers as measured: {several if self.seeds > 1 else 'one run'}."


def answer(lesson: int) -> str:
    """The text, with its numbers as they were measured."""
    found = ANSWERS[lesson]
    kept = spreads.kept(lesson).get("answers", {})

    def put(name: re.Match) -> str:
        return spread(kept[name[1]]) if name[1] in found.numbers else name[0]  # other braces are LaTeX's

    return re.sub(r"\{(\w+)\}", put, found.text)


def measure(lesson: int, seeds: int | None = None) -> dict[str, list[float]]:
    """Name -> what each seed gives; knobs that several numbers share are measured once."""
    module, found = load(lesson), ANSWERS[lesson]
    names = sorted(found.numbers, key=lambda name: str(found.numbers[name].knobs))
    values = {}
    for _, group in groupby(names, key=lambda name: str(found.numbers[name].knobs)):
        group = list(group)
        knobs = ({"seeds": 1} if "seeds" in module.measure.__kwdefaults__ else {}) | found.numbers[group[0]].knobs
        results = [module.measure(**knobs, seed=seed) for seed in range(seeds or found.seeds)]
        values |= {name: [found.numbers[name].of(module, result) for result in results] for name in group}
    return values


# readers


def _passed_by_projection(result: dict) -> float:
    """The size of the gradient behind the shortcut, over that which entered it."""
    arriving = next(t["gradient"]["rms"] for t in result["tensors"] if t["name"] == "add")
    return result["numbers"][0]["shortcut_rms"] / arriving


def _leaves_the_v(result: dict) -> float:
    """log10 of the smallest epsilon at which the ReLU's error is ten times softplus's."""
    relu, smooth = (
        np.median(next(c["errors"] for c in result["curves"] if c["label"] == f"{name}, float64"), axis=0)
        for name in ("ReLU", "softplus")
    )
    pairs = zip(result["epsilons"], relu, smooth, strict=True)
    return np.log10(next(e for e, kinked, rounded in pairs if e >= 1e-7 and kinked > 10 * rounded))


def _regime(key: str, skip: str, bn: bool, init: str):
    """The first seed's number of one kind of network."""

    def read(result: dict) -> float:
        kinds = (r for r in result["regimes"] if (r["skip"], r["bn"], r["init"]) == (skip, bn, init))
        return next(kinds)[key][0]

    return read


def _factor(batch: int):
    return lambda result: result["factors"][list(result["knobs"]["batches"]).index(batch)][0]


def _gradient(scale: float):
    """The gradient at the first block over the output's, with the shortcut times `scale`."""
    return lambda result: next(f for f in result["flows"] if (f["branch"], f["shortcut"]) == (1, scale))["total"][0][0]


def _most_lost(result: dict) -> dict:
    """Block -> share of the accuracy that the residual network loses with it."""
    run = result["networks"][1]["runs"][0]
    return {name: 1 - after / run["base"] for name, after in run["after"].items()}


def _worst_is_early(result: dict) -> float:
    lost = _most_lost(result)
    return max(lost, key=lost.get).startswith("layer1.")


def _cheaper(small: int, large: int):
    """The time of an image in a large batch over that in a small one, on the CPU."""

    def read(result: dict) -> float:
        seconds = dict(result["seconds"]["cpu"])
        return seconds[large] / large / (seconds[small] / small)

    return read


def _first_over_last(when: str):
    """The gradient at the first convolution of the main path over that at the last; behind it comes the dense layer."""
    return lambda result: result["flows"][when]["dy_rms"][0] / result["flows"][when]["dy_rms"][-2]


def _products(key: str):
    """Of F(4x4), by output and channel."""

    def read(result: dict) -> float:
        return result["work"]["F(4x4)"][key] / (result["work"]["im2col"]["products"] / 9)

    return read


def _felt(key: str, kind: str, place: int):
    """Of lesson 15, at one size of the batch."""
    return lambda result: result["runs"][0][key][kind][place]


def _fewer(result: dict) -> float:
    """How much less neighbours do in the largest batch of lesson 15 than in the smallest."""
    told = result["runs"][0]["neighbours"]["BN"]
    return told[0] / told[-1]


def _walked(way: str):
    """Of lesson 16: the first twenty steps of Adam at 0.03, over the weights' size."""
    return lambda result: sum(result["runs"][0]["cases"]["Adam 0.03, BN"][way]["moved"][:20])


def _late(way: str):
    """Of lesson 16: the update at step 40 without BN, over the rate."""
    return lambda result: result["runs"][0]["cases"]["Adam 0.01, no BN"][way]["updates"][39]


def _way(way: str, key: str):
    """What a way to the new task gave, of a part the last."""

    def read(result: dict) -> float:
        return np.ravel(result["runs"][0]["ways"][way][key])[-1]

    return read


def _behind(way: str):
    """Of lesson 18: the final loss of 4 ranks less that of one."""

    def read(result: dict) -> float:
        one, few, _ = result["runs"][0]["scaled"][way]
        return few["loss"] - one["loss"]

    return read


def _grown(result: dict) -> float:
    """Of lesson 18: the noise scale, trained, over that as initialised."""
    first, last = (trace / square for trace, square in (noise[-1] for noise in result["runs"][0]["noise"].values()))
    return last / first


MANY, FAST = {"shots": 50}, {"lr": 0.005}
GENTLE, LONG = {"lr": 0.01}, {"epochs": 24}
DEEP, NARROW = {"depth": 100, "skip": "all"}, {"width": 16, "skip": "none", "bn": "off"}
FAIR, BATCHES = {"epochs": 0}, {"batches": (8, 64)}

ANSWERS = {
    1: Answer(
        r"""
        The projection is a layer like others, so the gradient no longer passes untouched. BN takes out its mean and
        its part along the activations and divides by their spread; the 1x1 convolution mixes its channels, and with
        stride 2 it reaches one pixel of four, the other three get 0 from this path. Its RMS behind the projection is
        {projection} of what entered, where an identity hands on 1. What has not changed: dx is still the sum of both
        paths, to the last bit.

        With `--skip off` in block 1 the values are the same up to the second BN, since x and the weights are the
        same; the picture of the add node is gone, and y is relu(branch) alone. All gradients change: what lies behind
        the block is another network now, without its shortcuts. (In block 2 the values change as well: block 1 before
        it has lost its shortcut, so x is another one.)
        """,
        {"projection": Number(_passed_by_projection, 0.5, 1.2, {"block": 2})},
    ),
    2: Answer(
        r"""
        To the left. A stencil of half-width epsilon crosses a kink when some ReLU's input lies within about epsilon
        of 0, and with four times the pixels there are four times the ReLUs: the nearest kink is nearer. In the median
        of five networks the ReLU's error is ten times softplus's from $10^p$ on, with p = {four} at 4x4 and p =
        {eight} at 8x8: a larger network leaves less room between round-off and kinks. That is why `minires gradcheck`
        takes 1e-7 for whole networks and 1e-6 for single layers, and looks for kinks before it blames anybody.
        """,
        {
            "four": Number(_leaves_the_v, -4.2, -2, {"seeds": 5}),
            "eight": Number(_leaves_the_v, -6, -4.4, {"size": 8, "seeds": 5}),
        },
        seeds=1,
    ),
    3: Answer(
        r"""
        Twice the layers are twice the logarithm. Theory, for 100 layers: plain with He's weights 0, with Glorot's
        $100 \log_{10} \sqrt{1/2} = -15.1$, with BN $100 \log_{10} 1.211 = +8.3$, pre-activation with He's weights $50
        \log_{10} \sqrt{2} = +7.5$. Measured: {he}, {glorot}, {bn} and {pre}. The residual network with BN has no such
        rule: it grows by a power of the depth, from 1.25 at 50 layers to {power}.

        Narrow layers: a factor is a mean over the units of a layer, and a mean of 16 scatters more than one of 128.
        Fifty factors multiply, so their logarithms add up and the scatter adds up too; its mean falls as well, since
        the logarithm of a scattering factor lies below that of its mean. Plain with He's weights gives {narrow} at
        width 16.

        The matrix without a BN behind it is the second of each pre-activation block: its output goes straight into
        the sum. With Glorot's weights the branch has half the power, forward and back. In the first blocks it
        therefore sends back half as much; in the late ones the sum has also grown half as far, and the two halves
        cancel. Measured at 50 layers: {pre_he} with He's, {pre_glorot} with Glorot's weights. Everywhere else a BN
        divides the weights' scale out.
        """,
        {
            "he": Number("log10, plain, no BN, He", -1.2, 1.2, DEEP),
            "glorot": Number("log10, plain, no BN, Glorot", -16.5, -14, DEEP),
            "bn": Number("log10, plain, BN, He", 7.2, 8.9, DEEP),
            "pre": Number("log10, pre-act. residual, no BN, He", 6.8, 8.2, DEEP),
            "power": Number("log10, pre-act. residual, BN, He", 1.3, 1.8, DEEP),
            "narrow": Number("log10, plain, no BN, He", -4, 1.5, NARROW),
            "pre_he": Number(_regime("log10_ratio", "pre", True, "he"), 1.1, 1.4),
            "pre_glorot": Number(_regime("log10_ratio", "pre", True, "glorot"), 0.8, 1.1),
        },
    ),
    4: Answer(
        r"""
        Adam takes steps of about the learning rate in every weight, whatever the gradient's size. So all four
        networks get steps of equal size in all layers. Where all layers' gradients are alike, as in the two without
        BN, another learning rate would have done the same: for He's and Glorot's weights the first layer's gradient
        over the last's is {plain_he} and {plain_glorot} powers of ten. It is the two with BN that no single rate
        could serve, where the first layer gets {plain_bn} powers of ten more than the last. What Adam cannot mend is
        the direction (lessons 6 and 7).

        In the pre-activation network without BN, x grows by $\sqrt{2}$ from block to block on its way forward, and dy
        by as much on its way back. A weight's gradient is $x^T dy$: early layers meet a small x and a large dy, late
        ones the other way round, and the product has met the same number of blocks everywhere. Activations:
        {pre_activations} powers of ten from last to first; weights: {pre_weights}.
        """,
        {
            "plain_he": Number(_regime("weight_ratio", "none", False, "he"), -0.8, 0.8),
            "plain_glorot": Number(_regime("weight_ratio", "none", False, "glorot"), -0.8, 0.8),
            "plain_bn": Number(_regime("weight_ratio", "none", True, "he"), 3.5, 4.6),
            "pre_activations": Number(_regime("activation_ratio", "pre", False, "he"), 3.3, 4.3, {"skip": "pre"}),
            "pre_weights": Number(_regime("weight_ratio", "pre", False, "he"), -0.6, 0.6, {"skip": "pre"}),
        },
    ),
    5: Answer(
        r"""
        The factor is {two}: nothing comes back at all. Of two rows a and b BN's mean is the middle and its spread
        half of their distance, so its output is +1 for the larger and -1 for the smaller, whatever their values are.
        Moving a little changes nothing, the derivative is 0 (with BN's epsilon at 1e-5 it is next to 0). At four rows
        the factor is {four}, at eight {eight}: the spread is guessed from few rows, often far too small, and BN
        divides by it.
        """,
        {
            "two": Number(_factor(2), 0, 1e-6, {"batches": (2, 4, 8)}),
            "four": Number(_factor(4), 2.2, 3.4, {"batches": (2, 4, 8)}),
            "eight": Number(_factor(8), 1.6, 2, {"batches": (2, 4, 8)}),
        },
    ),
    6: Answer(
        r"""
        Eight to ten layers. Neighbours on the path agree to {residual} in the residual network of 50 layers; in the
        plain one to {six} at 6 layers, {eight} at 8, {ten} at 10 and {twenty} at 20.

        A path four times as fine brings the plain network of 50 layers nothing: {fine}. A ReLU network is linear
        piece by piece, so neighbours that share a piece do agree; but there are so many pieces that even 512 images
        on the path lie in different ones. The residual network's neighbours agree better still, {fine_residual}.
        """,
        {
            "residual": Number("residual: neighbours", 0.75, 1),
            "six": Number("plain: neighbours", 0.88, 1, {"depth": 6}),
            "eight": Number("plain: neighbours", 0.8, 0.98, {"depth": 8}),
            "ten": Number("plain: neighbours", 0.65, 0.95, {"depth": 10}),
            "twenty": Number("plain: neighbours", 0.05, 0.6, {"depth": 20}),
            "fine": Number("plain: neighbours", -0.25, 0.25, {"points": 512}),
            "fine_residual": Number("residual: neighbours", 0.9, 1, {"points": 512}),
        },
    ),
    7: Answer(
        r"""
        No. With every array moved by the same share of its own size the plain network's gradient is lost after a step
        of 1e-5 all the same: the cosine is {each}, where it is {one} for one long vector; the residual network's is
        {each_residual}. The radius of trust is still {radius} times as long with shortcuts. So it is not only that
        the first layers move most; the direction changes everywhere, since every layer's change goes through all
        layers after it.
        """,
        {
            "each": Number("plain: cosine", -0.5, 0.5, {"each_layer": True}),
            "one": Number("plain: cosine", -0.3, 0.4),
            "each_residual": Number("residual: cosine", 0.9, 1, {"each_layer": True}),
            "radius": Number("radius of trust", 30, None, {"each_layer": True}),
        },
    ),
    8: Answer(
        r"""
        Early: at 32 layers the plain network is already {d32} behind plain-20, at 56 layers {d56}, in the loss at the
        end of the training. A smaller rate does not bring it down: at 0.01 plain-56 is {slow} behind plain-20. More
        steps do what they can, `--epochs 30` shows how much on your machine in a few minutes; compare with what they
        do for the residual network of 56 layers, which needs them less.
        """,
        {
            "d32": Number("final training loss: plain-32 − plain-20", 0.2, None, {"deep": 32}),
            "d56": Number("final training loss: plain-56 − plain-20", 0.6, None),
            "slow": Number("final training loss: plain-56 − plain-20", 0.3, None, {"lr": 0.01}),
        },
        seeds=1,
    ),
    9: Answer(
        r"""
        Not the same block for every seed, but mostly one of the first stage: its share among the worst deletions is
        {first}. With the worst one the network of 20 layers loses {worst} of its accuracy.

        With more blocks each does less, so the blue dots should come nearer to their line, and they do, a little: 20
        layers keep {kept20} of the accuracy in the mean of all deletions, 32 layers {kept32}. (The plain network of
        32 layers seems to keep more as well, but it had hardly anything to lose: see its dashed line.)
        """,
        {
            "first": Number(_worst_is_early, 0, 1),
            "worst": Number(lambda result: max(_most_lost(result).values()), 0.02, 0.5),
            "kept20": Number("residual: accuracy after / before", 0.8, 1),
            "kept32": Number("residual: accuracy after / before", 0.85, 1, {"depth": 32}),
        },
    ),
    10: Answer(
        r"""
        On the grey count: a fair coin at each of n blocks gives "n choose k" paths of length k. Two come near by
        their mean length over the count's, both with pre-activation: ResNet-20 ({twenty}) from below, ResNet-8
        ({eight}) from above. With the ReLU behind the sum both take longer ways, {twenty_post} and {eight_post}. A
        block is fair where its branch and its shortcut send back equal power: in the rule of lesson 6, where the
        trunk's variance v is $a = \pi / (\pi - 1)$. It begins at 1, so that the first block favours the branch, and
        grows, so that late blocks favour the shortcut; with few blocks the two nearly balance.
        """,
        {
            "twenty": Number("init: mean length / the", 0.85, 1, FAIR | {"arch": "resnet20"}),
            "eight": Number("init: mean length / the", 0.98, 1.25, FAIR | {"arch": "resnet8"}),
            "twenty_post": Number("init: mean length / the", 1.05, 1.3, FAIR | {"arch": "resnet20", "block": "post"}),
            "eight_post": Number("init: mean length / the", 1.1, 1.5, FAIR | {"arch": "resnet8", "block": "post"}),
        },
    ),
    11: Answer(
        r"""
        With s above 1 the variance grows by $s^2$ in each block, the branch's share of the power dies out, and what
        remains is the pure path: $1.1^{25} = 10.8$ times what the first few blocks add. The rule of the text gives
        43.7 for s = 1.1 and 16.8 for s = 1; measured: {more} and {one}. So the pure path dominates, and the growth is
        exponential with the shortcut's factor, where s below 1 made it exponential with the branch's.

        `--scales 0` cuts the shortcut: it is the plain network with BN of lesson 3, whose 50 layers grow by
        $1.211^{50} = 14,000$. Measured: {none}.
        """,
        {
            "more": Number(_gradient(1.1), 35, 55, {"scales": (1.0, 1.1, 0.0), "steps": 0}),
            "one": Number(_gradient(1.0), 14, 20, {"scales": (1.0, 1.1, 0.0), "steps": 0}),
            "none": Number(_gradient(0.0), 6000, 18000, {"scales": (1.0, 1.1, 0.0), "steps": 0}),
        },
    ),
    12: Answer(
        r"""
        More than one would think. The beginning is out of the average soon: $0.99^{170} = 0.18$ of it is left after
        10 epochs. But the gap, {four} of the test images after 4 epochs, is still {ten} after 10: the average is a
        hundred steps long, and at a constant rate of 0.1 the weights move a good deal in a hundred steps. The third
        panel says which it is: dots all on one side of the line are the beginning, dots strewn about it are old
        weights. What makes 0.99 harmless is a rate that ends low, as in `minires train`, more than the number of
        steps.
        """,
        {
            "four": Number("the gap", 0.1, 0.9),
            "ten": Number("the gap", 0.05, 0.9, {"epochs": 10}),
        },
        seeds=2,
    ),
    13: Answer(
        r"""
        Look at the whole curve and not at its teeth, each of which is a block. As initialised the gradient at the
        first convolution is {fresh} times that at the last one of the main path: it grows on its way back, slowly.
        After 16 steps it is {trained} times. Your own run shows what many steps do.

        It gets cheaper, but not eight times: on one busy CPU an image in a batch of 64 took {cheaper} of what it took
        in one of 8. The arithmetic of an image is the same; what is shared is all that a step does once, above all to
        read and update 23.6 million weights. On a GPU it gets cheaper until the batch fills the device.
        """,
        {
            "fresh": Number(_first_over_last("as initialised"), 1, 50, BATCHES),
            "trained": Number(_first_over_last("as trained"), 0.2, 200, BATCHES),
            "cheaper": Number(_cheaper(8, 64), 0.1, 2, BATCHES),
        },
        seeds=1,
    ),
    14: Answer(
        r"""
        The multiplications by constants, the second number: {constants64} at 64 channels, {constants16} at 16. The
        products with weights stay {products}. A product is there once for every pair of an input and an output
        channel, but a tile is transformed once for each channel, before and after: divided by the pairs, that is the
        number of outputs in the one case and of inputs in the other that share the cost, and with few channels few
        share it. In proportion to 1 / channels: at 8 it is 2.25 + {constants8}, together nearly the 9 of the plain
        sum, and the tiles have been copied on top of that. (That the numbers do not halve to the digit is the
        transform of the weights, which the images share.)
        """,
        {
            "constants64": Number(_products("constants"), 0.69, 0.7, {"rounds": 1}),
            "constants16": Number(_products("constants"), 2.66, 2.67, {"channels": 16, "rounds": 1}),
            "constants8": Number(_products("constants"), 5.28, 5.3, {"channels": 8, "rounds": 1}),
            "products": Number(_products("products"), 2.25, 2.25, {"channels": 16, "rounds": 1}),
        },
        seeds=1,
    ),
    15: Answer(
        r"""
        Not quite. Sixteen times the images should leave a quarter; an image's answer moves by {two} of what differs
        between images at two and by {most} at 32, {ratio} times less. At two the rule has not begun: half of the mean
        and of the spread is the image's own, and the spread of two is mostly what they differ by, which is divided out
        whatever the neighbour is (of single numbers only a sign would be left: the exercise of lesson 5).

        With `--groups 1` all channels of an image share one mean, with `--groups 8`, here, each of the first stage has
        its own. Neither looks at a neighbour, so the two claims of GN that are exact stay as they are: {told} and
        {off}.
        """,
        {
            "two": Number(_felt("neighbours", "BN", 0), 0.2, 2),
            "most": Number(_felt("neighbours", "BN", -1), 0.05, 0.6),
            "ratio": Number(_fewer, 1.5, 8),
            "told": Number(_felt("neighbours", "GN", 0), 0, 0),
            "off": Number(_felt("gradient", "GN", 0), 0, 1e-4),
        },
    ),
    16: Answer(
        r"""
        Added up, the first twenty steps are {cold} times the weights' size long without the warm-up, {warm} with it.
        (They do not all go the same way, so the network is not that far from its start.) At step 40, twenty steps after
        the warm-up's end, the updates without BN are {late_cold} of the rate after the cold start and {late_warm} after
        the warm one. Look at the smallest: not every seed pays. Where the first loss is far above guessing, v has seen
        large gradients and divides by them for hundreds of steps, so the updates stay short; where it is not, they are
        as long as after the warm-up.
        """,
        {
            "cold": Number(_walked("cold"), 0.6, 2),
            "warm": Number(_walked("warm"), 0.2, 1),
            "late_cold": Number(_late("cold"), 0, 0.3),
            "late_warm": Number(_late("warm"), 0.03, 0.3),
        },
    ),
    17: Answer(
        r"""
        With fifty hands of each: all free {all50} of the new hands right, the front frozen {frozen50}, the head alone
        {head50}, from scratch {scratch50}. More images help those that have the most to learn: a start from scratch
        gains most, and the head alone, which can only weigh what the old task needed, comes last.

        At ten times the rate the last block's similarity falls from {slow} to {fast}, and the accuracy goes from
        {slow_right} to {fast_right}. So staying near the pretrained weights is a matter of the rate and of the number
        of steps, not of fine-tuning as such; what was learnt before is written over as fast as the rate allows.
        """,
        {
            "all50": Number(_way("all", "accuracy"), 0.5, 1, MANY),
            "frozen50": Number(_way("front frozen", "accuracy"), 0.5, 1, MANY),
            "head50": Number(_way("head alone", "accuracy"), 0.4, 1, MANY),
            "scratch50": Number(_way("scratch", "accuracy"), 0.4, 1, MANY),
            "slow": Number(_way("all", "cka"), 0.7, 0.97),
            "fast": Number(_way("all", "cka"), 0.1, 0.9, FAST),
            "slow_right": Number(_way("all", "accuracy"), 0.45, 0.9),
            "fast_right": Number(_way("all", "accuracy"), 0.3, 0.95, FAST),
        },
        seeds=1,
    ),
    18: Answer(
        r"""
        It does, though less. From 0.01 the linear rule brings back {gentle} of what 16 ranks lose, from 0.03 {usual}.
        The rate, 0.16, is no longer large for the network, so that was a part of the reason only. The other is left:
        256 images are no fewer than the noise scale, and a step of sixteen times as many is not worth sixteen. What the
        rule is good for shows better than from 0.03: at the old rate the loss of 4 ranks ends {behind} above that of
        one, by the rule {level}.

        After 24 epochs the noise scale is {late} images, {grown} times that of the start. It does grow, at last: nearly
        all images are right by then, what gradients they have point every way, and their mean is small beside them. So
        more machines are of more use late in training, if not by much here.
        """,
        {
            "gentle": Number("share of what 16 ranks lose", 0.6, 1, GENTLE),
            "usual": Number("share of what 16 ranks lose", 0.4, 1),
            "behind": Number(_behind("same rate"), 0.05, 1, GENTLE),
            "level": Number(_behind("linear"), -0.3, 0.15, GENTLE),
            "late": Number("noise scale, in images: trained", 100, 1500, LONG),
            "grown": Number(_grown, 1, 5, LONG),
        },
        seeds=3,
    ),
}


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        prog="python -m minires.lessons.answers", description="Measure the answers' numbers anew and keep them."
    )
    p.add_argument("lessons", type=int, nargs="*", metavar="N", help="which; default: all")
    status = 0
    try:
        for lesson in p.parse_args(argv).lessons or numbers():
            values = measure(lesson)
            kept = {name: [float(f"{v:.8g}") for v in found] for name, found in values.items()}
            spreads.keep(lesson, answers=kept)
            for name, found in values.items():
                asked = ANSWERS[lesson].numbers[name]
                bad = [v for v in found if not asked.holds(v)]
                status |= bool(bad)
                said = f"FAILS: {', '.join(map(number, bad))} not in {asked.low} .. {asked.high}" if bad else ""
                print(f"lesson {lesson}  {name:18} {spread(found)}  {said}")
            print(readable(answer(lesson)))
    except MiniresError as error:
        print(f"minires: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
