"""Lesson 8: Why can't depth copy the identity?

Four small networks learn hand signs with the same recipe: 20 and 56 layers, with and without shortcuts. The deep plain
one could do whatever the shallow one does, with 36 layers that copy their input, and yet its training loss is higher:
the degradation problem of K. He et al., arXiv:1512.03385, figures 1 and 6. The small images and the short run of SGD
serve the other lessons that train, too.
"""

import math
import sys

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, default_knobs, moved, note
from minires.lessons.terminal import run

from minires.backend import blas_threads
from minires.data import Dataset, Subset, load, make_signs
from minires.errors import ConfigError
from minires.instruments.style import BLUE, INK, MUTED, ORANGE, figure, legend
from minires.nn import BatchNorm, Block, Conv2d, ResNet, Sequential, resnet
from minires.train import Classifier, Recipe, evaluate, fit
from minires.train.progress import Reporter

LESSON = Lesson(
    number=8,
    title="Why can't depth copy the identity?",
    question="Put 36 more layers into a network of 20. The new layers could simply copy what they are given. Why is "
    "the deeper network worse, even on the images that it is trained on?",
    idea=r"""
    Not because the good solution were missing. A plain block $y = \mathrm{relu}(F(x))$ copies a map that went through a
    ReLU when each kernel is 1 in its centre, from channel c to channel c, and 0 elsewhere. This lesson puts such blocks
    into the trained plain-20 until it is a plain-56: the loss stays what it was, to rounding. That plain-56 exists;
    from random weights, SGD does not come near it. It is the training loss that is higher in the deep one, so it is no
    overfitting either.

    With the shortcut the same block is $y = \mathrm{relu}(x + F(x))$. To copy, F only has to be 0, and a block whose
    branch is small already is close to a copy. He and others argued so: if the identity is near what is wanted, it is
    easier to learn the difference from it than to learn it with a stack of convolutions. A residual network begins
    where the plain one would have to arrive.

    What it is not: vanishing gradients. Both plain networks have batch normalisation; at initialisation their gradients
    explode with depth, and that is over after a few steps (lesson 5). The authors say themselves that vanishing is
    unlikely to be the reason. Directions matter more than sizes: in a deep plain network neighbouring images do not
    agree on the gradient (lesson 6), and a step spoils it (lesson 7).

    What it is: a matter of speed at least. These are hundreds of steps, not the paper's 64,000; the lesson says that
    the deep plain network falls far behind in them, not that it could never learn. Nor is depth free with shortcuts:
    after 340 steps on the built-in signs residual-56 is 0.51 behind residual-20, where plain-56 is 1.42 behind
    plain-20; after 120 steps on photographs (`--data sign-language-digits/ --count 960 --epochs 4`) 0.48 against 1.25.
    """,
    look_for="four curves, of which three go down; the deep plain one stays near the dashed line of guessing. The "
    "star is the network of 56 layers that was built, not trained.",
    wrong_if="plain-56 came down as fast as plain-20, or residual-56 stayed where plain-56 stays.",
    exercise="At which depth does it begin? Try `minires lesson 8 --deep 32` and 44. Then give the deep plain network "
    "a chance: does a smaller rate, `--lr 0.01`, or more time, `--epochs 30`, bring it down?",
    next_try="minires lesson 8 --deep 32",
    sources=(
        "K. He et al., arXiv:1512.03385, section 1 (the solution by construction), figures 1 and 6, section 4.1 (not "
        "vanishing gradients), section 4.2 (the networks of 6n + 2 layers)",
    ),
    shows=(Block,),
    quick={"shallow": 8, "deep": 32, "epochs": 3},
)
WIDTHS = (8, 16, 32)  # channels of the three stages: half of the paper's
LAST = 30  # steps over which the final loss is averaged
FREE = ("data", "seed", "seeds")  # knobs that do not decide which bounds apply
SMOOTH = 15  # steps over which the picture averages


def hand_signs(data: str, size: int, count: int, tests: int = 120) -> tuple[Dataset, Dataset]:
    """(training, test) at size x size: built-in signs, or `count` of a folder's training images and its test images."""
    if data == "builtin":
        return make_signs(count, tests, size)
    train, test = load(data, size=size)
    if train is None or test is None or len(train) < count:
        have = f"{len(train or ())} and {len(test or ())}"
        raise ConfigError(f"--data {data}: expected {count} images to train on and some to test, got {have}")
    return Subset(train, np.random.default_rng(0).permutation(len(train))[:count]), test


class Losses(Reporter):
    """Notes the loss of each step, from the sum over the epoch that `fit` keeps."""

    def __init__(self):
        self.each = []
        self._epoch, self._sum, self._seen = -1, 0.0, 0

    def step(self, progress):
        if progress.epoch != self._epoch:
            self._epoch, self._sum, self._seen = progress.epoch, 0.0, 0
        self.each.append((progress.loss_sum - self._sum) / (progress.seen - self._seen))
        self._sum, self._seen = progress.loss_sum, progress.seen


def train_sgd(
    model: ResNet, train: Dataset, *, epochs: int, lr: float, seed: int, batch: int = 32
) -> tuple[Classifier, list[float]]:
    """Train with SGD of momentum 0.9 and nothing else: the classifier, and the loss of each step."""
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch,
        optimizer="sgd",
        lr=lr,
        nesterov=False,
        weight_decay=0.0,
        schedule="constant",
        warmup_epochs=0,
        augment=None,
        precise_bn=False,  # lesson 12 looks at the running statistics as training leaves them
        seed=seed,
    )
    classifier, losses = Classifier.for_data(model, train), Losses()
    fit(classifier, train, recipe=recipe, reporter=losses)
    return classifier, losses.each


def form(knobs: dict, measure, lesson: Lesson, **photographs) -> tuple[str, str]:
    """Which bounds are for these knobs: 'full', 'quick' or 'photographs', and ''; or '' and why there are none.

    photographs: the knobs, other than the defaults, at which the bounds for a folder of photographs were measured.
    """
    full = default_knobs(measure)
    forms = {"full": full, "quick": full | lesson.quick}
    if knobs["data"] != "builtin":
        forms = {"photographs": full | photographs}
    elsewhere = {name: moved(knobs, where | {k: knobs[k] for k in FREE}) for name, where in forms.items()}
    fits = [name for name, what in elsewhere.items() if not what]
    return (fits[0], "") if fits else ("", f"the bounds are for {next(iter(elsewhere.values()))}")


def measure(
    *,
    data: str = "builtin",
    shallow: int = 20,
    deep: int = 56,
    size: int = 16,
    count: int = 1080,
    epochs: int = 10,
    batch: int = 32,
    lr: float = 0.03,
    seeds: int = 1,
    seed: int = 0,
) -> dict:
    """The training loss of four networks, and of a deep plain one that is built from the shallow one.

    data     builtin, or a folder of photographs with a subfolder for each class
    shallow  layers of the shallow networks: 8, 14, 20, 32, 44, 56 or 110
    deep     layers of the deep networks
    size     side of the images, in pixels
    count    training images
    epochs   how often they are seen
    batch    images a step
    lr       learning rate
    seeds    how many runs of all four are averaged
    seed     the first of them
    """
    knobs = dict(locals())
    at_least_one(epochs=epochs, seeds=seeds)
    if deep <= shallow:
        raise ConfigError(f"--deep: expected more layers than the {shallow} of --shallow, got {deep}")
    train, _ = hand_signs(data, size, count)
    networks, built = [], []
    with blas_threads(1):  # so small a network is slower on two, and every machine gets the same numbers
        for skip in (False, True):
            for depth in (shallow, deep):
                runs = [_run(depth, skip, train, epochs, lr, batch, s) for s in range(seed, seed + seeds)]
                networks.append({"skip": skip, "depth": depth, "losses": [losses for _, losses in runs]})
                if not skip and depth == shallow:
                    built = [_built(classifier, deep, train) for classifier, _ in runs]
    return {"knobs": knobs, "classes": len(train.classes), "networks": networks, "built": built}


def _run(depth, skip, train, epochs, lr, batch, seed):
    model = resnet(f"resnet{depth}", train.shape, len(train.classes), widths=WIDTHS, skip=skip, seed=seed)
    return train_sgd(model, train, epochs=epochs, lr=lr, seed=seed, batch=batch)


def _built(shallow: Classifier, depth: int, train: Dataset) -> dict:
    """The losses of a trained plain network and of the deep one built from it, over the training images."""
    deep = Classifier(deepened(shallow.model, depth), shallow.classes, shallow.preprocess)
    return {"shallow": evaluate(shallow, train).loss, "deep": evaluate(deep, train).loss}


def deepened(plain: ResNet, depth: int) -> ResNet:
    """A plain network of `depth` layers that computes in evaluation mode what `plain` does: its blocks, then copies."""
    deep = resnet(f"resnet{depth}", plain.config.input_shape, plain.config.classes, widths=WIDTHS, skip=False)
    for i, layer in enumerate(plain.layers):
        if not isinstance(layer, Sequential) or layer.name == "stem":
            deep.layers[i] = layer
            continue
        blocks = deep.layers[i].layers
        for block in blocks[len(layer.layers) :]:
            make_identity(block)
        blocks[: len(layer.layers)] = layer.layers
    return deep


def make_identity(block: Block) -> None:
    """Let a plain block copy its input, which a ReLU has left without negative numbers."""
    for layer in block.branch.layers:
        if isinstance(layer, Conv2d):
            layer.w.data[:] = 0
            layer.w.data[1, 1] = np.eye(layer.w.data.shape[2])
        elif isinstance(layer, BatchNorm):
            layer.var.data[:] = 1 - layer.epsilon  # with mean 0, gamma 1 and beta 0: y = x


# by form of the lesson: the bounds of each claim
BOUNDS = {
    "full": [(0.6, None), (0.5, None), (None, 1.0), (0.3, None)],
    "quick": [(0, None), (None, None), (None, 0.6), (None, None)],
    "photographs": [(0.6, None), (0.8, None), (None, 1.0), (0.3, None)],
}


def check(result: dict) -> list[Claim]:
    """Depth hurts the plain networks, not the residual ones, and not for want of a solution."""
    knobs, final = result["knobs"], final_losses(result)
    shallow, deep = knobs["shallow"], knobs["deep"]
    where, why = form(knobs, measure, LESSON, count=960, epochs=4)
    effects = {
        f"plain-{deep} − plain-{shallow}": final[False, deep] - final[False, shallow],
        f"plain-{deep} − residual-{deep}": final[False, deep] - final[True, deep],
        f"residual-{deep} − residual-{shallow}": final[True, deep] - final[True, shallow],
    }
    plain, _, residual = effects.values()
    effects["what depth costs: plain − residual"] = plain - residual
    bounds = BOUNDS.get(where, [(None, None)] * len(effects))
    claims = [
        Claim(f"final training loss: {name}", value, *bound, why)
        for (name, value), bound in zip(effects.items(), bounds, strict=True)
    ]
    off = max(abs(pair["deep"] - pair["shallow"]) for pair in result["built"])
    claims.append(Claim(f"loss: built plain-{deep} − plain-{shallow}, largest", off, 0, 1e-4))
    return assert_claims(claims, LESSON, result)


def final_losses(result: dict) -> dict[tuple, float]:
    """(skip, depth) -> training loss, the mean of the last steps and of the seeds."""
    return {(n["skip"], n["depth"]): float(np.mean(n["losses"], axis=0)[-LAST:].mean()) for n in result["networks"]}


def plot(result: dict, *, narrow: bool = False):
    """The training loss of the four networks, and the network that was built."""
    deep = result["knobs"]["deep"]
    fig, (ax,) = figure("One recipe, four networks", narrow=narrow, height=5.2, note=note(LESSON, result))
    for network in result["networks"]:
        runs = np.array([smooth(losses) for losses in network["losses"]])
        steps, is_deep = np.arange(runs.shape[1]) + 1, network["depth"] == deep
        color, line = BLUE if network["skip"] else ORANGE, "-" if is_deep else (0, (2, 1))
        label = f"{'residual' if network['skip'] else 'plain'}, {network['depth']} layers"
        ax.plot(steps, runs.mean(axis=0), color=color, linestyle=line, linewidth=3 if is_deep else 2, label=label)
        ax.fill_between(steps, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.18, linewidth=0)
    star = {"marker": "*", "markersize": 18, "color": ORANGE, "markeredgecolor": INK, "linestyle": "", "zorder": 5}
    ax.plot(steps[-1], np.mean([pair["deep"] for pair in result["built"]]), label=f"plain, {deep}, built", **star)
    ax.axhline(math.log(result["classes"]), color=MUTED, linestyle="--", linewidth=1.2, label="guessing")
    ax.set_xlabel("step")
    ax.set_ylabel(f"training loss, mean of {SMOOTH} steps")
    ax.set_ylim(0)
    legend(ax, columns=2 if narrow else 3)
    return fig


def smooth(losses: list[float]) -> np.ndarray:
    """The mean of each loss and those just before it, up to SMOOTH in all."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    end = np.arange(1, len(total))
    start = np.maximum(end - SMOOTH, 0)
    return (total[end] - total[start]) / (end - start)


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
