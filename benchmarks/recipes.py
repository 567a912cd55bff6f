"""What the default recipe's further augmentation and its last running statistics are worth, on parts for validation.

    python -m minires.benchmarks.recipes --data sign-language-digits

The training part alone is split again, several times; the test part is never looked at. Each split trains with the
augmentation of before and with today's, and is judged twice: with the running statistics as training left them, and
with those that are estimated anew (train/precise_bn.py).
"""

import argparse
import sys

from rich.table import Table

from minires import resnet
from minires.console import out, print_json
from minires.data import Augment, Subset
from minires.data.batches import Batches
from minires.data.folder import stratified_split
from minires.data.source import load_parts
from minires.run import environment
from minires.train import Classifier, Recipe, evaluate, fit
from minires.train.precise_bn import recalibrate

AUGMENTATIONS = {"moved by 5 %": Augment(0.05, 5, 0.05), "by 10 %": Augment(0.1, 10, 0.1)}
SHARE = 0.18  # of the training part, for validation


def judged(train, held, recipe: Recipe, arch: str) -> dict[str, tuple[int, float]]:
    """Statistics -> (mistakes, loss) on `held` of a network that was trained on `train`."""
    classifier = Classifier.for_data(resnet(arch, train.shape, len(train.classes), seed=recipe.seed), train)
    fit(classifier, train, None, recipe)
    found = {"as left": evaluate(classifier, held)}
    batches = Batches(train, recipe.batch_size, seed=recipe.seed, augment=recipe.augment)
    recalibrate(classifier.model, (classifier.preprocess(images) for images, _, _ in batches.epoch(recipe.epochs)))
    found["anew"] = evaluate(classifier, held)
    return {name: (result.mistakes, result.loss) for name, result in found.items()}


def measure(data: str, size: int = 64, arch: str = "resnet50", epochs: int = 10, splits: int = 2) -> list[dict]:
    """A row for each split, augmentation and kind of running statistics."""
    train, rows = load_parts(data, size=size).train, []
    for split in range(splits):
        parts = (Subset(train, index) for index in stratified_split(train.labels, SHARE, 100 + split))
        ours, held = parts
        for name, augment in AUGMENTATIONS.items():
            recipe = Recipe(epochs=epochs, augment=augment, precise_bn=False)
            for statistics, (mistakes, loss) in judged(ours, held, recipe, arch).items():
                rows.append({"split": split, "augmentation": name, "statistics": statistics})
                rows[-1] |= {"images": len(held), "mistakes": mistakes, "loss": loss}
    return rows


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m minires.benchmarks.recipes", description=__doc__.splitlines()[0])
    p.add_argument("--data", default="builtin", help="default: %(default)s")
    p.add_argument("--arch", default="resnet50", help="default: %(default)s")
    p.add_argument("--size", type=int, default=64, help="default: %(default)s")
    p.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    p.add_argument("--splits", type=int, default=2, help="default: %(default)s")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    rows = measure(args.data, args.size, args.arch, args.epochs, args.splits)
    if args.json:
        print_json({"rows": rows, **environment("cpu")})
        return 0
    table = Table(title=f"{args.arch}, {args.epochs} epochs: mistakes and loss on {rows[0]['images']} held-out images")
    for heading in ("split", "augmentation", "statistics", "mistakes", "loss"):
        table.add_column(heading, justify="right" if heading in ("mistakes", "loss") else "left")
    for row in rows:
        numbers = str(row["mistakes"]), f"{row['loss']:.4f}"
        table.add_row(str(row["split"]), row["augmentation"], row["statistics"], *numbers)
    out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
