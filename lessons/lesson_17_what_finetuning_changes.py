"""Lesson 17: What does fine-tuning change?

A network that tells 0, 2 and 4 raised fingers learns 1, 3 and 5 from ten hands each: with all of it free, with its
front frozen, with its head alone, and from scratch. Part by part the lesson measures what moved: the weights, what they
compute (linear CKA: S. Kornblith et al., arXiv:1905.00414, section 3), the statistics of batch normalisation. How
transferable the features of each layer are was asked by J. Yosinski et al., arXiv:1411.1792.
"""

import copy
import sys
from typing import Literal

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, moved, note
from minires.lessons.terminal import run

from minires.backend import blas_threads
from minires.data import ArrayDataset, Augment, Dataset, Subset, make_signs
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PINK, TEXT, figure, legend
from minires.nn import BatchNorm, Block, Module, inference, resnet
from minires.train import Classifier, Preprocess, Recipe, evaluate, fit, with_classes

LESSON = Lesson(
    number=17,
    title="What does fine-tuning change?",
    question="A network that can tell 0, 2 and 4 fingers is taught 1, 3 and 5, from ten hands each. Which layers move, "
    "and do those that move compute anything else?",
    idea=r"""
    Pretrained on 540 hands with 0, 2 or 4 raised fingers, a small residual network gets another head and ten hands each
    with 1, 3 and 5. Four ways: all of it learns; the front (stem and first stage) rests, batch normalisation (BN) with
    its statistics included; all but the head rests; and, for comparison, a new network starts from scratch. The head
    learns at ten times the rate of the rest: it knows nothing yet.

    How far did a part go? By its kernels' $|w - w_0| / |w_0|$. Two things stand out. The way is short: a few per cent,
    about a sixth of what pretraining went from its random start. And it gets longer from the image to the head: early
    parts move least, though nobody told them to.

    What does a part compute? Two networks can differ in every weight and agree in what they make of images, up to a
    rotation of the channels. Linear CKA asks for that: for the outputs of n images, as centred rows x and y, let
    $K = x x^T$ and $L = y y^T$, which say how alike any two images are to either network; then

    $CKA = \langle K, L \rangle / (|K| |L|)$

    is 1 where both see the same likenesses. Each part is compared with the pretrained one, on images of the new
    classes. The stem's output hardly changes. The last block's does, by far more than its weights: changes of the parts
    before it add up. That a network from scratch, which shares no weight with the pretrained one, is so like it in its
    stem and so unlike it in its last block says what Yosinski and others said: first layers are general, last ones are
    of the task.

    What the usual advice leaves out: BN's running statistics are fine-tuned too. Their means go no farther than a tenth
    of a standard deviation or so, and yet the tuned weights with the old statistics put back lose accuracy. Weights and
    statistics are one; whoever freezes a part must freeze both, which `Module.freeze` does.

    What it does not show: that freezing is a loss, or a gain. On thirty images the front at rest, and even the head
    alone, come out as good as the whole, within what seeds differ by.
    """,
    look_for="Left: the blue line rises from the image to the head, far below the dashed one of pretraining. Middle: "
    "it falls late, the orange one early: that network never shared a weight with the one it is compared with.",
    wrong_if="the stem moved more than the last block, the frozen front moved at all, or a start from scratch did as "
    "well.",
    exercise="Give it fifty hands of each class, `minires lesson 17 --shots 50`: do the four ways keep their order? "
    "Then ten times the rate, `--lr 0.005`: what becomes of the last block's similarity, and of the accuracy?",
    next_try="minires lesson 17 --lr 0.005",
    sources=(
        "S. Kornblith et al., arXiv:1905.00414, section 3 (linear CKA)",
        "J. Yosinski et al., arXiv:1411.1792, sections 4.1 and 4.2 (which layers transfer)",
        "A. Kumar et al., arXiv:2202.10054, section 3 (what fine-tuning does to features)",
    ),
    shows=(with_classes, Module.freeze),
    quick={"seeds": 1},
)
BEFORE, AFTER = ("0", "2", "4"), ("1", "3", "5")
HANDS, HELD_OUT, WIDTHS, BATCH = 1080, 360, (8, 16, 32), 10
FRONT = ("stem", "stage2")
TRAINING = {"augment": Augment(0.05, 5, 0.05, flip=True), "precise_bn": False}  # statistics as training leaves them
STRANGER = 1000  # added to the seed of a network that shares no weight with the pretrained one
# ways to the new task: what rests. The head, new in all of them, learns ten times as fast
WAYS = {
    "all": {},
    "front frozen": {"freeze": FRONT},
    "head alone": {"freeze": (*FRONT, "stage3", "stage4")},
    "scratch": {},
}
COLORS = dict(zip(WAYS, (BLUE, GREEN, PINK, ORANGE), strict=True))
MEASURED_AT = {"arch": "resnet8", "size": 16, "epochs": 10, "shots": 10, "tuning": 20, "lr": 5e-4}


def measure(
    *,
    arch: Literal["resnet8", "resnet14", "resnet20"] = "resnet8",
    size: int = 16,
    epochs: int = 10,
    shots: int = 10,
    tuning: int = 20,
    lr: float = 5e-4,
    seeds: int = 3,
    seed: int = 0,
) -> dict:
    """What moved in a pretrained network, part by part, on four ways to a new task.

    arch    the network
    size    side of the images, in pixels
    epochs  of the pretraining, on 540 hands
    shots   hands of each new class
    tuning  epochs on them
    lr      learning rate there; the head's is ten times that, alone a hundred
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(epochs=epochs, shots=shots, tuning=tuning, seeds=seeds)
    hands, held = make_signs(HANDS, HELD_OUT, size)
    with blas_threads(1):
        runs = [_run(knobs, hands, held, s) for s in range(seed, seed + seeds)]
    return {"knobs": knobs, "parts": list(_parts(resnet(arch, (size, size, 3), 3, widths=WIDTHS))), "runs": runs}


def _run(knobs: dict, hands: Dataset, held: Dataset, seed: int) -> dict:
    """Pretrain, then go each way."""
    shuffled = Subset(hands, np.random.default_rng(seed).permutation(len(hands)))
    base, few, new = _of(hands, BEFORE), _of(shuffled, AFTER, knobs["shots"]), _of(held, AFTER)
    images = new.images(np.arange(len(new)))

    def fresh(other: int = 0):
        return resnet(knobs["arch"], few.shape, len(AFTER), widths=WIDTHS, seed=seed + other)

    old = Classifier.for_data(fresh(), base)
    fit(old, base, recipe=Recipe(epochs=knobs["epochs"], seed=seed, **TRAINING), check=False)
    features = _features(old, images)
    ways = {}
    for way, options in WAYS.items():
        if way == "scratch":
            tuned = Classifier(fresh(STRANGER), AFTER, Preprocess.measure(few))
        else:
            tuned = with_classes(old, AFTER, seed=seed)
            lr = knobs["lr"] * (10 if way == "head alone" else 1)
            options = options | {"rates": {"head": 10.0}, "lr": lr}
        start = _kernels(tuned.model)
        options = options | TRAINING | {"epochs": knobs["tuning"], "batch_size": BATCH, "seed": seed}
        fit(tuned, few, recipe=Recipe(**options), check=False)
        ways[way] = {
            "accuracy": evaluate(tuned, new).accuracy,
            "seen": evaluate(tuned, few).accuracy,
            "change": _changes(tuned.model, start),
            "cka": _similar(tuned, features, images),
            "statistics": _drift(old.model, tuned.model),
        }
        if way == "all":
            mixed = {
                "old statistics": with_statistics(tuned, old),
                "old weights": with_statistics(with_classes(old, AFTER, seed=seed), tuned),
            }
            parts = {
                name: {"cka": _similar(c, features, images), "accuracy": evaluate(c, new).accuracy}
                for name, c in mixed.items()
            }
    untrained = Classifier(fresh(STRANGER), AFTER, old.preprocess)
    return {
        "accuracy": evaluate(old, _of(held, BEFORE)).accuracy,
        "change": _changes(old.model, _kernels(fresh())),
        "untrained": _similar(untrained, features, images),
        "ways": ways,
        "mixed": parts,
    }


def with_statistics(classifier: Classifier, other: Classifier) -> Classifier:
    """A copy that has the running statistics of `other`."""
    mixed = copy.deepcopy(classifier)
    for ours, theirs in zip(mixed.model.buffers(), other.model.buffers(), strict=True):
        ours.data[...] = theirs.data
    return mixed


def _of(hands: Dataset, names: tuple[str, ...], each: int | None = None) -> ArrayDataset:
    """The hands that raise so many fingers; each: the first so many of every number."""
    kept = [np.flatnonzero(hands.labels == hands.classes.index(name))[:each] for name in names]
    labels = np.repeat(np.arange(len(names)), [len(k) for k in kept])
    return ArrayDataset(hands.images(np.concatenate(kept)), labels, names, source="builtin", flip_ok=True)


def _parts(model: Module) -> dict[str, Module]:
    """Name -> stem, blocks and classifier, from the image on."""
    found = {m.name: m for m in model.modules() if m.name == "stem" or isinstance(m, Block)}
    return found | {"head": model.layers[-1]}


def _kernels(model: Module) -> dict[str, np.ndarray]:
    """Part -> all its kernels as one vector, copied."""
    return {name: np.concatenate([p.data.ravel() for p in m.params() if p.decay]) for name, m in _parts(model).items()}


def _changes(model: Module, start: dict[str, np.ndarray]) -> list[float]:
    """By part, the norm of the kernels' change over that of the start."""
    norm = np.linalg.norm
    return [float(norm(now - start[name]) / norm(start[name])) for name, now in _kernels(model).items()]


def _similar(classifier: Classifier, features: dict[str, np.ndarray], images: np.ndarray) -> list[float]:
    """By part, the similarity of what it makes of the images to `features`."""
    return [cka(now, features[name]) for name, now in _features(classifier, images).items()]


def _features(classifier: Classifier, images: np.ndarray) -> dict[str, np.ndarray]:
    """Part -> what leaves it for these images, a row each, in evaluation mode; without the classifier's logits."""
    model, kept = classifier.model, {}
    with inference(model):
        x = classifier.preprocess(images)
        for layer in model.layers:
            for unit in layer.layers if layer.name.startswith("stage") else [layer]:
                x = unit.forward(x)
                kept[unit.name] = x.reshape(len(x), -1)
    return {name: kept[name] for name in _parts(model) if name != "head"}


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of two layers' outputs (images, features): 1 where they agree up to rotation and scale.

    With centred columns and the Gram matrices K = x x^T and L = y y^T: <K, L> / (|K| |L|).
    """
    K, L = (z @ z.T for z in (x - x.mean(axis=0), y - y.mean(axis=0)))
    return float(np.vdot(K, L) / (np.linalg.norm(K) * np.linalg.norm(L)))


def _drift(old: Module, new: Module) -> list[float]:
    """By part, how far the running means went: RMS over its channels, in standard deviations of the old ones."""
    drift = []
    for before, after in zip(_parts(old).values(), _parts(new).values(), strict=True):
        pairs = [[m for m in part.modules() if isinstance(m, BatchNorm)] for part in (before, after)]
        gone = [(b.mean.data - a.mean.data) / np.sqrt(a.var.data) for a, b in zip(*pairs, strict=True)]
        drift += [float(np.sqrt(np.mean(np.concatenate(gone) ** 2)))] if gone else []
    return drift


def check(result: dict) -> list[Claim]:
    """What fine-tuning gains, which parts move, what they still compute."""
    elsewhere = moved(result["knobs"], MEASURED_AT)
    skipped = f"the bounds are for {elsewhere}" if elsewhere else ""
    accuracy = {way: float(np.mean(_each(result, way, "accuracy"))) for way in WAYS}
    change, similar = (_each(result, "all", key).mean(axis=0) for key in ("change", "cka"))
    learnt = np.mean([r["change"] for r in result["runs"]], axis=0)
    scratch = _each(result, "scratch", "cka").mean(axis=0)
    untrained = float(np.mean([r["untrained"] for r in result["runs"]], axis=0)[-1])
    lost = accuracy["all"] - float(np.mean([r["mixed"]["old statistics"]["accuracy"] for r in result["runs"]]))
    drift = float(_each(result, "all", "statistics").mean())
    resting = max(_each(result, "front frozen", key)[:, :2].max() for key in ("change", "statistics"))
    of_the_new = "new classes: accuracy, "
    claims = [
        Claim(of_the_new + "all free less from scratch", accuracy["all"] - accuracy["scratch"], 0.03, None, skipped),
        Claim(
            of_the_new + "front frozen less all free", accuracy["front frozen"] - accuracy["all"], -0.12, 0.12, skipped
        ),
        Claim(of_the_new + "head alone less all free", accuracy["head alone"] - accuracy["all"], -0.12, 0.12, skipped),
        Claim("weights: change of the last block / the stem's", float(change[-2] / change[0]), 1.5, 6, skipped),
        Claim(
            "weights: fine-tuning / pretraining, blocks",
            float(np.mean(change[1:-1] / learnt[1:-1])),
            0.05,
            0.35,
            skipped,
        ),
        Claim("front frozen: largest change of its weights and statistics", float(resting), 0, 0),
        Claim("similarity to before (CKA), stem", float(similar[0]), 0.98, 1, skipped),
        Claim("similarity to before (CKA), last block", float(similar[-1]), 0.7, 0.97, skipped),
        Claim("the same, from scratch: stem less last block", float(scratch[0] - scratch[-1]), 0.2, None, skipped),
        Claim("the same, never trained: last block", untrained, None, 0.65, skipped),
        Claim("running means: how far, in standard deviations", drift, 0.01, 0.3, skipped),
        Claim("accuracy lost with the old statistics put back", lost, -0.03, None, skipped),
    ]
    return assert_claims(claims, LESSON, result)


def _each(result: dict, way: str, key: str) -> np.ndarray:
    """What each seed gave."""
    return np.array([r["ways"][way][key] for r in result["runs"]])


def plot(result: dict):
    """How far each part went, what it still computes, and what that was good for."""
    fig, axes = figure("What fine-tuning changes, part by part", panels=3, height=5, note=note(LESSON, result))
    places = short(result["parts"])
    for way, color in COLORS.items():
        changed = np.where(_each(result, way, "change") > 0, _each(result, way, "change"), np.nan)
        _draw(axes[0], changed, color, label=way)
        _draw(axes[1], _each(result, way, "cka"), color, label=way)
    other = {"linestyle": "--", "marker": "", "color": MUTED}
    _draw(axes[0], np.array([r["change"] for r in result["runs"]]), label="pretraining", **other)
    _draw(axes[1], np.array([r["untrained"] for r in result["runs"]]), label="never trained", **other)
    for ax, names in ((axes[0], places), (axes[1], places[:-1])):
        ax.set_xticks(range(len(names)), names, **({"rotation": 45, "ha": "right"} if len(names) > 6 else {}))
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("change of the weights, over their size")
    axes[1].set_ylim(0, 1.03)
    axes[1].set_ylabel("CKA with the pretrained part")
    legend(axes[0], "How far it went", columns=2)
    legend(axes[1], "What it still computes", columns=2)
    _draw_accuracy(axes[2], {way: _each(result, way, "accuracy") for way in WAYS})
    return fig


def short(parts: list[str]) -> list[str]:
    """'stem', '1', '2', ..., 'head': blocks by their numbers."""
    return ["stem", *(f"block {i}" for i in range(1, len(parts) - 1)), "head"]


def _draw(ax, runs: np.ndarray, color: str, *, label: str, marker: str = "o", linestyle: str = "-") -> None:
    at = np.arange(runs.shape[1])
    ax.plot(
        at, runs.mean(axis=0), color=color, marker=marker, markersize=5, linestyle=linestyle, linewidth=2, label=label
    )
    if len(runs) > 1:
        ax.fill_between(at, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.15, linewidth=0)


def _draw_accuracy(ax, accuracies: dict[str, np.ndarray]) -> None:
    at, under = np.arange(len(accuracies))[::-1], {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    for y, (way, seen) in zip(at, accuracies.items(), strict=True):
        ax.barh(y, seen.mean(), color=COLORS[way], height=0.5)
        ax.plot(seen, np.full(len(seen), y), "o", color=INK, markersize=3.5)
        ax.text(
            0, y + 0.3, f"{way}: {seen.mean():.0%}", va="bottom", color=INK, fontsize=TEXT - 1, zorder=4, bbox=under
        )
    ax.axvline(1 / len(AFTER), color=MUTED, linestyle="--", linewidth=1.2, label="guessing")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.5, len(accuracies) - 0.2)
    ax.set_yticks([])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel(f"accuracy on {HELD_OUT // 2} new hands")
    legend(ax, "What it was good for")


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
