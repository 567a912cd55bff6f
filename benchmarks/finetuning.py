"""Fine-tuning beside training from scratch, at equal steps, and what freezing saves.

    python -m minires.benchmarks.finetuning

The built-in hands supply both tasks: a network learns to tell 0, 2 and 4 raised fingers, from 540 hands; then 1, 3
and 5, from ten hands each, its head new. Held out are 180 other hands of these. Each seed draws its own network, order
and ten.
"""

import argparse
import sys
from dataclasses import replace
from functools import cache
from time import perf_counter

import numpy as np

from minires import resnet
from minires.console import out, print_json
from minires.data.dataset import ArrayDataset, Subset
from minires.data.synthetic import make_signs
from minires.fast.step import make_step
from minires.run import environment
from minires.train import Classifier, Preprocess, Recipe, evaluate, fit, with_classes
from minires.train.finetune import make_optimizer

ARCH, SIDE, SHOTS, HELD_OUT = "resnet8", 32, 10, 180
BEFORE, AFTER = ("0", "2", "4"), ("1", "3", "5")
PRETRAINING = Recipe(epochs=10)
NEW_TASK = Recipe(epochs=20, batch_size=10)
# ways to start from the weights: which part rests, and how fast the rest learns
WAYS = {
    "scratch": {},
    "all": {"rates": {"head": 10.0}, "lr": 5e-4},
    "stem, stage2 frozen": {"freeze": ("stem", "stage2"), "rates": {"head": 10.0}, "lr": 5e-4},
    "head alone": {"freeze": ("stem", "stage2", "stage3", "stage4"), "lr": 5e-3},
    "unfreezing": {
        "freeze": {"stem": None, "stage2": 10, "stage3": 5, "stage4": 2},
        "rates": {"head": 10.0},
        "lr": 5e-4,
    },
}
STEP_BATCH = 32
BOUND = 0.15  # of accuracy: what fine-tuning gains at least, in the mean of five seeds


def of_classes(dataset, names, per_class=None):
    """The images of these classes, their labels renamed; per_class: the first so many of each."""
    kept = [np.flatnonzero(dataset.labels == dataset.classes.index(name))[:per_class] for name in names]
    labels = np.repeat(np.arange(len(names)), [len(k) for k in kept])
    index = np.concatenate(kept)
    return ArrayDataset(dataset.images(index), labels, names, source=f"builtin {', '.join(names)}", flip_ok=True)


@cache
def _hands():
    return make_signs(1080, 2 * HELD_OUT, size=SIDE)


def tasks(seed: int):
    """(pretraining set, few of the new classes, held-out images of the new classes)."""
    hands, held = _hands()
    order = np.random.default_rng(seed).permutation(len(hands))
    few = of_classes(Subset(hands, order), AFTER, SHOTS)
    return of_classes(hands, BEFORE), few, of_classes(held, AFTER)


def measure(seed: int, ways=tuple(WAYS)) -> dict[str, float]:
    """Accuracy on the held-out hands by way, and of the pretrained network on its own task ("pretraining")."""
    base, few, held = tasks(seed)
    shape = few.shape
    before = Classifier.for_data(resnet(ARCH, shape, len(BEFORE), seed=seed), base)
    history = fit(before, base, None, replace(PRETRAINING, seed=seed), check=False).history
    result = {"pretraining": history[-1]["train_accuracy"]}
    for way in ways:
        recipe = replace(NEW_TASK, seed=seed, **WAYS[way])
        if way == "scratch":
            new = Classifier(resnet(ARCH, shape, len(AFTER), seed=seed), AFTER, Preprocess.measure(few))
        else:
            new = with_classes(before, AFTER, seed=seed)
        fit(new, few, None, recipe, check=False)
        result[way] = evaluate(new, held).accuracy
    return result


def step_times(arch="resnet20", side=SIDE, batch=STEP_BATCH, rounds=15) -> dict[str, float]:
    """Milliseconds of a step by what is frozen: the median over rounds, taken in turn."""
    x = np.random.default_rng(0).standard_normal((batch, side, side, 3)).astype(np.float32)
    labels, times = np.arange(batch) % 3, {}
    stages = ("stem", "stage2", "stage3", "stage4")
    frozen = {"nothing": (), "stem": stages[:1], "stem, stage2": stages[:2], "all but the head": stages}
    steps = {}
    for name, freeze in frozen.items():
        model = resnet(arch, (side, side, 3), 3)
        steps[name] = make_step(model, make_optimizer(model, Recipe(freeze=freeze)))
    for _ in range(rounds):
        for name, step in steps.items():
            start = perf_counter()
            with step:
                step(x, labels, 1e-3)
            times.setdefault(name, []).append(1e3 * (perf_counter() - start))
    return {name: float(np.median(each)) for name, each in times.items()}


def main(argv=None) -> int:
    """Measure and print; exit status 1 where fine-tuning gains less than BOUND."""
    parser = argparse.ArgumentParser(prog="python -m minires.benchmarks.finetuning", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    rows = [measure(seed) for seed in range(args.seeds)]
    result = {name: [row[name] for row in rows] for name in rows[0]} | {"step_ms": step_times()}
    if args.json:
        print_json(result | environment("cpu"))
    else:
        steps = NEW_TASK.epochs * -(-len(AFTER) * SHOTS // NEW_TASK.batch_size)
        out.print(f"{ARCH}, {SIDE}x{SIDE}, {len(AFTER) * SHOTS} images, {steps} steps; {HELD_OUT} held-out images")
        for name in ("pretraining", *WAYS):
            mean, low, high = np.mean(result[name]), min(result[name]), max(result[name])
            out.print(f"{name:>24}  {mean:6.1%}  ({low:.1%} .. {high:.1%})")
        for name, ms in result["step_ms"].items():
            out.print(f"{'frozen: ' + name:>24}  {ms:6.1f} ms a step of {STEP_BATCH}")
    return int(min(np.mean(result[name]) for name in WAYS if name != "scratch") - np.mean(result["scratch"]) < BOUND)


if __name__ == "__main__":
    sys.exit(main())
