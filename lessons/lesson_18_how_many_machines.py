"""Lesson 18: How many machines?

N ranks with b images each make one step of a batch of N * b. Is it the same step? How much less noise is in it, how far
may it go (P. Goyal et al., arXiv:1706.02677; S. McCandlish et al., arXiv:1812.06162), and what becomes of it where each
rank normalises by itself?
"""

import sys
from dataclasses import replace
from typing import Literal

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.data import Dataset, make_signs
from minires.errors import ConfigError, DivergedError
from minires.fast import communicator
from minires.fast.step import make_step
from minires.instruments.bn_doctor import inputs, recalibrate
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PINK, TEXT, dress, figure, legend
from minires.nn import BatchNorm, ResNet, Sequential, resnet
from minires.optim import SGD
from minires.train import Classifier, evaluate
from minires.train.schedule import Schedule

LESSON = Lesson(
    number=18,
    title="How many machines?",
    question="N machines take the images of a batch among them, and each step has N times the images of one. What does "
    "that do to the gradient, and how far may such a step go?",
    idea=r"""
    N processes that train one network (ranks) take b images each, add up their gradients and divide by N, and all make
    the same step. It is exactly one step of a batch of N b images, if batch normalisation (BN) takes its mean and
    variance from the images of all ranks. For that each tells, a channel, two numbers on the way forward and two on
    the way back; the gradient is then one process's, to rounding. Often each rank normalises alone, which saves the
    talk (`minires train --local-bn`). Then it is another gradient: by ranks of two images, that of 64 images is about
    as far from one process's as this is long; by ranks of 32 it is half that far. That is no noise, the images are the
    same ones: it is another function that they descend (lesson 15).

    What do more images bring? Less noise. The gradient g of B images scatters around that of all images, G:

    $|g|^2 = |G|^2 + S / B$

    in the mean, where S is the sum of the variances that single images have. The noise scale $S / |G|^2$ is the number
    of images at which both terms are equal: of far fewer, twice as many allow nearly twice the step, of far more there
    is nothing left to average away. Ranks have it for nothing: the square of each one's gradient and that of their mean
    are two equations for $|G|^2$ and S. Here, from ranks of 32, it is 90 to 300 images at the start. (It is said to
    grow as the loss falls. After these eight epochs it had grown with one seed of five.)

    That the variance falls as 1 / B holds as initialised, from 2 to 32 images. Trained, it does not: ranks that
    normalise two images alone add the noise of their statistics, and scatter about three times as much as that.

    How far, then? In as many epochs N ranks make N times fewer steps. By the linear rule each goes N times as far.
    From a rate of 0.03, 4 ranks end where one does, by the rule and at the old rate as well. 16 are far behind at the
    old rate; by the rule they get back most of that and not all: their 256 images are no fewer than the noise scale.
    The usual story goes on: at large rates it takes a warm-up. From 0.03 it went either way. From 0.1, near the largest
    rate that one rank bears, 16 ranks learn far less without it, with every seed. But with it the rule still goes too
    far: the root of N, for N, did better with every seed, and not to touch the rate at all with four of five. The rule
    presumes a rate with room above it.

    Normalised alone, two images a rank learn less, with every seed; with sixteen the difference is small, and not of
    one sign. The running statistics, one rank's then, are not to blame: they do about as well as new ones. They do
    worst where steps are few and long, in 16 ranks at the linear rate: they lag behind the weights (lesson 12).

    What this does not show: time, and what a network of another size bears. P. Goyal and others scaled a ResNet-50 from
    256 images to 8192 for 90 epochs; this is eight epochs of a small one. It all runs in one process, which computes
    what the ranks would.
    """,
    look_for="Above: the green line on zero, and how far the orange one is from the dashed one. Below, left: where the "
    "blue one leaves orange, and that it ends higher than it began. Right: the longest pink bar, and the shortest.",
    wrong_if="The gradient of ranks that normalise together were not that of one process, the linear rule brought "
    "nothing back or all, or, from the high rate, did as well without a warm-up.",
    exercise="From a third of the rate, `minires lesson 18 --lr 0.01`: does the linear rule still fall behind at 16 "
    "ranks, and why? And three times as many epochs, `--epochs 24`: does the noise scale grow now?",
    next_try="minires lesson 18 --lr 0.01",
    sources=(
        "P. Goyal et al., arXiv:1706.02677, section 2 (the linear rule, warm-up, each worker normalising alone)",
        "S. McCandlish et al., arXiv:1812.06162, section 2.2 and appendix A.1 (the noise scale and its estimate)",
        "C. Peng et al., arXiv:1711.07240, section 3.3 (normalisation across devices)",
        "E. Hoffer et al., arXiv:1705.08741, section 4 (the root, and the normalisation of small shares)",
    ),
    shows=(communicator.over_all, communicator.batchnorm_backward),
    quick={"seeds": 1},
)
WIDTHS, TESTS = (8, 16, 32), 240
SHARES = (2, 4, 8, 16, 32)  # images a rank, where the gradient is looked at
BATCH = 64  # images in the step that is cut into such shares
METERS, DRAWS = 8, 16  # ranks whose gradients' norms are read, and how many times
STATES = ("as initialised", "trained")
RANKS = (1, 4, 16)  # that train
WARM = 0.25  # of a run, in which the rate rises
WORST = 100.0  # a larger loss, or none, is noted as this
# how the rate follows the number of ranks: its power, and whether it is warmed up
WAYS = {"same rate": (0, False), "linear": (1, False), "linear, warm-up": (1, True)}
MORE = WAYS | {"root, warm-up": (0.5, True)}


class Shared(BatchNorm):
    """Batch normalisation as `ranks` ranks do it, each with its share of the images, here in one process.

    together: by the statistics of all images, each rank telling those of its share; else each rank by its own alone,
    and the running statistics are the first rank's.
    """

    def __init__(self, name: str, channels: int, ranks: int, together: bool):
        super().__init__(name, channels)
        self.ranks, self.together = ranks, together

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        shares = np.split(x, self.ranks)
        told = [ops.batchnorm_statistics(share) for share in shares]
        if self.together:
            means, variances = np.stack([mean for mean, _ in told]), np.stack([var for _, var in told])
            mean = means.mean(axis=0)
            told = [(mean, (variances + (means - mean) ** 2).mean(axis=0))] * self.ranks
        m = x.size // x.shape[-1] // (1 if self.together else self.ranks)
        if self.update_running_stats:
            running = ops.batchnorm_running(self.mean.data, self.var.data, *told[0], m, momentum=self.momentum)
            self.mean.data[...], self.var.data[...] = running
        told = [(mean, 1 / np.sqrt(var + self.epsilon)) for mean, var in told]
        self.save(shares, told, m)
        return np.concatenate(
            [ops.batchnorm_forward(s, self.gamma.data, self.beta.data, *t) for s, t in zip(shares, told, strict=True)]
        )

    def backward(self, dy, need_dx=True):
        shares, told, m = self.saved()
        ranks = list(zip(np.split(dy, self.ranks), shares, told, strict=True))
        sums = [ops.batchnorm_sums(d, x, *t) for d, x, t in ranks]
        total = np.sum(sums, axis=0)
        used = [total] * self.ranks if self.together else sums
        dx = [ops.batchnorm_dx(d, x, self.gamma.data, *t, *s, m) for (d, x, t), s in zip(ranks, used, strict=True)]
        return self.write_grads(np.concatenate(dx), *total)


def network(arch: str, shape: tuple, classes: int, seed: int, ranks: int = 1, together: bool = True) -> ResNet:
    """A network of the family, its batch normalisation shared among `ranks`; one seed gives all the same weights."""
    model = resnet(arch, shape, classes, widths=WIDTHS, seed=seed)
    for chain in [m for m in model.modules() if isinstance(m, Sequential)] if ranks > 1 else ():
        chain.layers = [
            Shared(layer.name, layer.gamma.data.size, ranks, together) if isinstance(layer, BatchNorm) else layer
            for layer in chain.layers
        ]
    return model


def gradient(model: ResNet, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the mean loss, all parameters in one row of float64."""
    _, probs = ops.softmax_cross_entropy_forward(model.forward(x), labels)
    model.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)
    return np.concatenate([p.grad.ravel() for p in model.params()]).astype(np.float64)


def noise_scale(gradients: np.ndarray, share: int) -> tuple[float, float]:
    """(tr Sigma, |G|^2), unbiased, from the gradients (ranks, n) of shares of b images: |g_i|^2 holds tr Sigma / b more
    than |G|^2 does, the square of their mean tr Sigma / (ranks * b). S. McCandlish et al., arXiv:1812.06162, A.1."""
    batch, mean = len(gradients) * share, gradients.mean(axis=0)
    small, big = (gradients**2).sum(axis=1).mean(), mean @ mean
    return (small - big) / (1 / share - 1 / batch), (batch * big - share * small) / (batch - share)


def measure(
    *,
    arch: Literal["resnet8", "resnet14", "resnet20"] = "resnet8",
    size: int = 8,
    count: int = 1024,
    images: int = 16,
    epochs: int = 8,
    lr: float = 0.03,
    high: float = 0.1,
    seeds: int = 2,
    seed: int = 0,
) -> dict:
    """The gradient of ranks together and of each alone, its noise, and what is learnt in as many epochs by more ranks.

    arch    the network
    size    side of the images, in pixels
    count   training images
    images  how many each rank takes of a batch
    epochs  how often they are seen
    lr      learning rate of one rank, SGD with momentum
    high    a rate of one rank near the largest that it bears
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(images=images, epochs=epochs, seeds=seeds)
    least = max(BATCH, RANKS[-1] * images)
    if count < least:
        raise ConfigError(f"--count: expected {least} images or more, a batch of {RANKS[-1]} ranks, got {count}")
    train, test = make_signs(count, TESTS, size)
    with blas_threads(1):
        runs = [_run(knobs, train, test, s) for s in range(seed, seed + seeds)]
    return {"knobs": knobs, "classes": len(train.classes), "runs": runs}


def _run(knobs: dict, train: Dataset, test: Dataset, seed: int) -> dict:
    """What one seed gives."""
    few, many = RANKS[1:]

    def fresh(ranks=1, together=True):
        return network(knobs["arch"], train.shape, len(train.classes), seed, ranks, together)

    def trained(ranks, lr, way, model=None):
        return _train(model or fresh(), train, test, knobs, seed, ranks, lr, way)

    model = fresh()
    alone = trained(1, knobs["lr"], "same rate", model)
    if alone["loss"] == WORST:
        raise ConfigError(
            f"--lr: expected a rate that one rank bears, at {knobs['lr']:g} it diverges: give a smaller one"
        )
    scaled = {way: [alone, *(trained(ranks, knobs["lr"], way) for ranks in RANKS[1:])] for way in WAYS}
    high = {way: trained(many, knobs["high"], way) for way in MORE}
    batch = few * knobs["images"]
    cuts = {str(share): fresh(batch // share, False) for share in (knobs["images"], SHARES[0])}
    own = {share: trained(few, knobs["lr"], "same rate", cut) for share, cut in cuts.items()}
    order = np.random.default_rng([seed, 18]).permutation(len(train))
    x, labels = Classifier.for_data(model, train).preprocess(train.images(order)), train.labels[order]
    states = dict(zip(STATES, (fresh(), model.train()), strict=True))
    return {
        "cut": {name: _cut(state, fresh, x[:BATCH], labels[:BATCH]) for name, state in states.items()},
        "noise": {name: [_noise(state, x, labels, share, seed) for share in SHARES] for name, state in states.items()},
        "scaled": scaled,
        "high": high,
        "own": own,
    }


def _cut(model: ResNet, fresh, x: np.ndarray, labels: np.ndarray) -> dict:
    """How far the mean gradient of ranks is from that of one process, over its norm, in float64."""

    def of(ranks, together):
        copy = fresh(ranks, together).astype(np.float64)
        for p, q in zip(copy.params(), model.params(), strict=True):
            p.data[...] = q.data
        return gradient(copy, x.astype(np.float64), labels)

    whole = of(1, True)
    off = {
        kind: [float(np.linalg.norm(of(BATCH // share, kind == "together") - whole)) for share in SHARES]
        for kind in ("together", "alone")
    }
    return {kind: (np.array(far) / np.linalg.norm(whole)).tolist() for kind, far in off.items()}


def _noise(model: ResNet, x: np.ndarray, labels: np.ndarray, share: int, seed: int) -> list[float]:
    """`noise_scale` of ranks that normalise alone, the mean of several steps."""
    rng, seen = np.random.default_rng([seed, share]), []
    for _ in range(DRAWS):
        steps = rng.integers(0, len(x), (METERS, share))
        seen.append(noise_scale(np.stack([gradient(model, x[index], labels[index]) for index in steps]), share))
    return np.mean(seen, axis=0).tolist()


def _train(
    model: ResNet, train: Dataset, test: Dataset, knobs: dict, seed: int, ranks: int, lr: float, way: str
) -> dict:
    """SGD with the rate that `ranks` have this way, from `lr` of one: losses by epoch, and by which statistics.

    What the ranks' communicator would add up is one batch here; the model says how it is normalised.
    """
    classifier, optimizer = Classifier.for_data(model, train), SGD(model.params(), momentum=0.9)
    power, warm = MORE[way]
    batch = ranks * knobs["images"]
    each = len(train) // batch
    total = each * knobs["epochs"]
    warmup = min(round(WARM * total), max(0, total - 2)) if warm else 0
    schedule = Schedule("constant", lr * ranks**power, total, warmup)
    rng, losses = np.random.default_rng(seed), []
    with make_step(model, optimizer) as step:
        for epoch in range(knobs["epochs"]):
            order = rng.permutation(len(train))[: each * batch].reshape(each, batch)
            for i, index in enumerate(order):
                x, labels = classifier.preprocess(train.images(index)), train.labels[index]
                loss, *_ = step(x, labels, schedule(epoch * each + i))
                losses.append(_noted(loss))
    result = {"losses": np.reshape(losses, (-1, each)).mean(axis=1).tolist()}
    result["running"], _ = _judged(classifier, train)
    for norm in [m for m in model.modules() if isinstance(m, Shared)]:
        norm.ranks = 1  # from here on by all images
    recalibrate(model, inputs(classifier, train))
    (loss, _), (_, accuracy) = (_judged(classifier, part) for part in (train, test))
    return result | {"loss": loss, "accuracy": accuracy}


def _judged(classifier: Classifier, dataset: Dataset) -> tuple[float, float]:
    """(loss, accuracy); a rate at which the network diverges is an answer, too: WORST and none."""
    try:
        seen = evaluate(classifier, dataset)
    except DivergedError:
        return WORST, 0.0
    return _noted(seen.loss), seen.accuracy


def _noted(loss: float) -> float:
    return min(float(loss), WORST) if np.isfinite(loss) else WORST


MEASURED_AT = {"arch": "resnet8", "size": 8, "count": 1024, "images": 16, "epochs": 8, "lr": 0.03, "high": 0.1}


def check(result: dict) -> list[Claim]:
    """Whether more ranks make the same step, what its noise is, and what is learnt by a larger one."""
    elsewhere = moved(result["knobs"], MEASURED_AT)
    skipped = f"the bounds are for {elsewhere}" if elsewhere else ""
    small, large, few, many, images = SHARES[0], SHARES[-1], *RANKS[1:], result["knobs"]["images"]
    together = max(cut(result, state, "together").max() for state in STATES)
    far = cut(result, STATES[0], "alone").mean(axis=0)
    rises = [rise(result, state)[:, 0].mean() for state in STATES]
    scales = [images_of_noise(result, state).mean() for state in STATES]
    same, linear, warm = (final(result, "scaled", way) for way in WAYS)
    high = {way: final(result, "high", way) for way in MORE}
    own = [final(result, "own", str(share)) for share in (small, images)]
    regained = (same - linear)[:, -1] / (same[:, -1] - same[:, 0])
    stale = late(result, "scaled", "linear")
    gains = {
        f"loss, {many} ranks less one: same rate": (same[:, -1] - same[:, 0], 0.4, None),
        f"loss, {few} ranks less one: same rate": (same[:, 1] - same[:, 0], -0.3, 0.35),
        f"loss, {few} ranks less one: linear": (linear[:, 1] - linear[:, 0], -0.3, 0.3),
        f"share of what {many} ranks lose that linear brings back": (regained, 0.4, 1),
        f"loss, {many} ranks: linear, cold less warm": (linear[:, -1] - warm[:, -1], None, None),
        "the same from the high rate": (high["linear"] - high["linear, warm-up"], 0.2, None),
        "high rate, warm-up: linear less root": (high["linear, warm-up"] - high["root, warm-up"], 0.05, None),
        "high rate: linear, warm-up, less same rate": (high["linear, warm-up"] - high["same rate"], None, None),
        f"loss, ranks of {small}: alone less together": (own[0] - same[:, 1], 0.1, None),
        f"loss, ranks of {images}: alone less together": (own[1] - same[:, 1], None, None),
        f"loss, running less new statistics: {many} ranks, linear": (stale[:, -1], 0.3, None),
        "the same: one rank": (stale[:, 0], None, 0.25),
        f"the same: ranks of {small}, alone": (late(result, "own", str(small)), None, 0.4),
    }
    claims = [
        Claim("gradient less one process's: normalised together, largest", together, 0, 1e-10),
        Claim(f"gradient less one process's: alone, {small} images a rank", far[0], 0.6, 1.6, skipped),
        Claim(f"gradient less one process's: alone, {large} images a rank", far[-1], 0.25, 0.8, skipped),
        Claim(f"variance x images, {small} over {large}: as initialised", rises[0], 0.8, 1.25, skipped),
        Claim(f"variance x images, {small} over {large}: trained", rises[1], 1.5, None, skipped),
        Claim("noise scale, in images: as initialised", scales[0], 50, 600, skipped),
        Claim("noise scale, in images: trained", scales[1], skipped=skipped),
        *(Claim(text, seen.mean(), low, high, skipped) for text, (seen, low, high) in gains.items()),
    ]
    return assert_claims([replace(c, measured=float(c.measured)) for c in claims], LESSON, result)


def cut(result: dict, state: str, kind: str) -> np.ndarray:
    """(seeds, shares): how far the ranks' gradient is from one process's."""
    return np.array([run["cut"][state][kind] for run in result["runs"]])


def rise(result: dict, state: str) -> np.ndarray:
    """(seeds, shares): the variance of a share's gradient times its images, over that of the largest share."""
    traces = np.array([run["noise"][state] for run in result["runs"]])[..., 0]
    return traces / traces[:, -1:]


def images_of_noise(result: dict, state: str) -> np.ndarray:
    """(seeds,): tr Sigma / |G|^2, from the largest shares."""
    traces, squares = np.moveaxis([run["noise"][state][-1] for run in result["runs"]], -1, 0)
    return traces / squares


def final(result: dict, group: str, way: str, key: str = "loss") -> np.ndarray:
    """The training loss at the end, (seeds,), or (seeds, ranks) of what was scaled."""
    found = [run[group][way] for run in result["runs"]]
    return np.array([[one[key] for one in each] if isinstance(each, list) else each[key] for each in found])


def late(result: dict, group: str, way: str) -> np.ndarray:
    """The loss by running statistics, less that by statistics estimated anew."""
    return final(result, group, way, "running") - final(result, group, way)


def plot(result: dict):
    """By share the gradient's distance and its noise; by ranks and rate what is learnt; and ranks that are alone."""
    fig, spare = figure("What more ranks change", panels=2, height=9.4, note=note(LESSON, result))
    for ax in spare:
        ax.remove()
    axes = list(fig.subplots(2, 2).flat)
    for ax in axes:
        dress(ax)
    for state, color in zip(STATES, (BLUE, ORANGE), strict=True):
        _draw(axes[0], SHARES, cut(result, state, "alone"), color, f"alone, {state}")
        _draw(axes[1], SHARES, rise(result, state), color, state)
    _draw(axes[0], SHARES, cut(result, STATES[1], "together"), GREEN, "together")
    axes[0].set_ylabel("distance from one process's, over its size")
    axes[0].set_ylim(-0.04)
    legend(axes[0], f"The mean gradient of {BATCH} images", columns=3)
    axes[1].axhline(1, color=MUTED, linestyle="--", linewidth=1.2, label="variance as 1 / images")
    axes[1].set_ylabel(f"variance x images, over that of {SHARES[-1]} images")
    axes[1].set_ylim(0)
    legend(axes[1], "Noise, each rank alone", columns=3)
    for way, color in zip(WAYS, (ORANGE, BLUE, GREEN), strict=True):
        _draw(axes[2], RANKS, final(result, "scaled", way), color, way)
    axes[2].set_ylabel("training loss at the end")
    axes[2].set_ylim(0)
    legend(axes[2], f"As many epochs, {result['knobs']['lr']:g} for one rank", columns=3)
    for ax, at, text in zip(axes, (SHARES, SHARES, RANKS), ("images a rank", "images a rank", "ranks"), strict=False):
        ax.set_xscale("log", base=2)
        ax.set_xticks(at, at)
        ax.set_xlabel(text)
    _draw_bars(axes[3], result)
    return fig


def _draw(ax, at, runs, color, label) -> None:
    ax.plot(at, runs.mean(axis=0), color=color, linewidth=2, marker="o", markersize=5, label=label)
    ax.fill_between(at, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, linewidth=0)


def _draw_bars(ax, result: dict) -> None:
    """Final losses: the most ranks at the high rate, and one batch cut into ranks that normalise alone."""
    images, under = result["knobs"]["images"], {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
    few, many = RANKS[1:]
    bars = {f"{many} ranks, {way}": (PINK, final(result, "high", way)) for way in MORE}
    bars[f"{few} ranks of {images}, together"] = GREEN, final(result, "scaled", "same rate")[:, 1]
    for share in result["runs"][0]["own"]:
        text = f"{few * images // int(share)} ranks of {share}, alone"
        bars[text] = BLUE, final(result, "own", share)
    at = np.arange(len(bars))[::-1]
    for y, (text, (color, seen)) in zip(at, bars.items(), strict=True):
        ax.barh(y, seen.mean(), color=color, height=0.42)
        ax.plot(seen, np.full(len(seen), y), "o", color=INK, markersize=3.5)
        said = {"color": INK, "fontsize": TEXT - 1, "zorder": 4, "bbox": under}
        ax.text(0, y + 0.26, f"{text}: {seen.mean():.2f}", va="bottom", **said)
    ax.set_xlim(0, 1.05 * max(seen.max() for _, seen in bars.values()))
    ax.set_ylim(-0.5, len(bars) - 0.2)
    ax.set_yticks([])
    ax.set_xlabel("training loss at the end")
    high, low = (f"{result['knobs'][name]:g}" for name in ("high", "lr"))
    legend(ax, f"Scaled from {high} (pink); {few * images} images at {low}")


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
