"""predict, and what evaluate tells."""

import csv
import os
from collections import Counter
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path

from rich.table import Column, Table

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import DataError, SystemFailure


def predict(args) -> int:
    """As the images come, a batch at a time: of a folder of any size no more is held than what is to be printed."""
    import numpy as np

    from minires.fast import communicator
    from minires.fast.inference import Predictor
    from minires.train.classifier import EVAL_BATCH

    classifier = common.classifier(args)
    classes, top = classifier.classes, min(args.top or 1, len(classifier.classes))
    predictor = Predictor(classifier.model, by_layers=args.by_layers)
    images = _Images(args.images, classifier.model.input_shape[:2])
    found, rows, counts = images.paths(), [], Counter()
    writes = args.csv and communicator.current().rank == 0  # of several ranks the first one does
    with _csv_file(args.csv, ["file", *_columns(top)]) if writes else nullcontext() as file:
        while part := list(islice(found, EVAL_BATCH * communicator.current().size)):
            here = list(images.read(part[communicator.share(len(part))]))
            probs = classifier.probs(np.stack([image for _, image in here]), predictor).tolist() if here else []
            told = [(path, p) for (path, _), p in zip(here, probs, strict=True)]
            for path, p in chain(*communicator.gather(told)):
                best = [(classes[k], p[k]) for k in np.argsort(-np.array(p), kind="stable")]
                counts[best[0][0]] += 1
                if file:
                    file.writerow([path, *(each for pair in best[:top] for each in pair)])
                if args.json or not args.csv:
                    rows.append((path, best, dict(zip(classes, p, strict=True))))
        if not counts:
            raise DataError(f"{args.images[0]}: no image could be read there: give images, or a folder of some")
    if args.json:
        print_json([_as_dict(*row, args.top and top) for row in rows])
    elif args.csv:
        told = ", ".join(f"{name} ({counts[name]})" for name in classes if counts[name])
        out.print(f"{args.csv}: {counts.total():,} images: {told}")
    else:
        out.print(_table(rows, max(top, 2)))
    if images.other:
        kinds = ", ".join(sorted(images.other))
        err.print(f"{images.other.total():,} other files were left out ({kinds})", style="dim")
    if refused := sum(communicator.gather(images.refused)):
        raise DataError(f"{refused:,} files could not be read, as said above: all others are done")
    return 0


class _Images:
    """Each file that is named, and each image at any depth of a folder that is.

    A file that is named has to be an image: DataError. Of a folder's, one that cannot be read is told of and `refused`.
    """

    def __init__(self, places, size):
        self.places, self.size = places, size
        self.other, self.refused = Counter(), 0  # kinds of other files; images that could not be read

    def paths(self):
        """(path, whether it was named itself) of each."""
        for path in self.places:
            if os.path.isdir(path):
                yield from ((inner, False) for inner in self._files(path))
            else:
                yield str(path), True

    def read(self, paths):
        """(path, image) of those of `paths` that can be read."""
        from minires.data import read_image

        for path, named in paths:
            try:
                yield path, read_image(path, self.size)
            except DataError as error:
                if named or isinstance(error, SystemFailure):
                    raise
                self.refused += 1
                err.print(f"left out: {error}", style="red")

    def _files(self, folder):
        from minires.data.folder import natural_key
        from minires.data.images import EXTENSIONS

        for where, folders, names in os.walk(folder):
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
            for name in sorted((name for name in names if not name.startswith(".")), key=natural_key):
                suffix = Path(name).suffix.lower()
                if suffix in EXTENSIONS:
                    yield os.path.join(where, name)
                else:
                    self.other[suffix or "without an ending"] += 1


@contextmanager
def _csv_file(path, columns):
    """A table for spreadsheets, written whole or not at all; a file's name may be no text: its bytes are kept."""
    from minires.files import atomic_path

    settings = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with atomic_path(path) as temporary, temporary.open("w", **settings) as file:
        table = csv.writer(file)
        table.writerow(columns)
        yield table


def _columns(top):
    """class, probability, class_2, probability_2, ..."""
    return [f"{name}_{k}" if k > 1 else name for k in range(1, top + 1) for name in ("class", "probability")]


def _as_dict(path, best, probabilities, top) -> dict:
    likeliest = {"top": [{"class": name, "probability": p} for name, p in best[:top]]} if top else {}
    return {"image": path, "class": best[0][0], "probability": best[0][1], **likeliest, "probabilities": probabilities}


def _table(rows, top) -> Table:
    table = Table(Column("image", overflow="fold"), "class", "probability", "next best")
    for path, best, _ in rows:
        others = ", ".join(f"{name} ({p:.1%})" for name, p in best[1:top])
        table.add_row(path, best[0][0], f"{best[0][1]:.1%}", others)
    return table


def tell(result, classes, source: str, args) -> int:
    """An evaluation, in the form that the options of `evaluate` ask for."""
    from minires.train.scores import calibration, span

    if args.csv:
        with _csv_file(args.csv, ["true class", *(f"taken for {name}" for name in classes)]) as file:
            file.writerows([name, *row] for name, row in zip(classes, result.confusion.tolist(), strict=True))
    numbers = result.as_dict(classes)
    if args.json:
        print_json(numbers | {"data": source})
        return 0
    table = Table("class", "images", "right", "95 % interval", title=f"{source}, {args.part} part")
    for name, row in numbers["classes"].items():
        share = (
            ["", ""]
            if row["accuracy"] is None
            else [f"{row['accuracy']:.1%}", span(row["interval"]).removeprefix("95 % interval ")]
        )
        table.add_row(name, str(row["images"]), *share)
    out.print(table)
    if args.confusion:
        out.print(_confusion(result.confusion, classes))
    told = f"({span(result.interval)}; {result.mistakes} mistakes in {len(result.labels)})"
    out.print(f"accuracy {result.accuracy:.2%} {told}, loss {result.loss:.4f}")
    among = [f"{share:.2%} among the first {k}" for k, share in result.top().items() if k > 1]
    sure = f"calibration error (ECE) {calibration(result.probs, result.labels).ece:.3f}"
    out.print(", ".join([*among, sure]))
    if args.csv:
        out.print(f"confusion matrix: {args.csv}")
    return 0


def _confusion(counts, classes) -> Table:
    table = Table("true class", title="taken for", title_justify="left")
    for name in classes:
        table.add_column(name, justify="right")
    for name, row in zip(classes, counts.tolist(), strict=True):
        table.add_row(name, *("" if not count else str(count) for count in row))
    return table


def register(commands, command) -> None:
    p = command(
        commands,
        "predict",
        predict,
        "Say what is on images: of files, or of all in a folder.",
        "minires predict runs/photos new/ --csv new.csv --top 3",
    )
    p.set_defaults(shared=True)
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    common.add_own(p)
    p.add_argument("images", metavar="IMAGE", nargs="+", help="an image, or a folder: all images in it, at any depth")
    p.add_argument("--csv", metavar="FILE", help="write a line for each image: file, class, probability")
    p.add_argument("--top", type=int, metavar="K", help="the K likeliest classes of each image")
    common.add_by_layers(p)
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")
    common.add_device(p)
