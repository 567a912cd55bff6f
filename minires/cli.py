"""The command line: `minires COMMAND --help` explains each command with an example.

Errors that a user can mend are one line on stderr and exit status 2, never a traceback; Ctrl-C is 130.
"""

import argparse
import json
import sys
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from minires import __version__
from minires.backend import choose_device
from minires.errors import CheckpointError, DataError, MiniresError
from minires.nn import ARCHITECTURES, VARIANTS, resnet

# stdout carries results, stderr all that is said on the way: `--json` output stays clean
out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(soft_wrap=True, highlight=False, markup=False, stderr=True)


def image_size(text: str) -> tuple[int, int, int]:
    """'64x64x3' or '64' -> (64, 64, 3)."""
    parts = text.lower().split("x")
    if not all(p.isdigit() and int(p) > 0 for p in parts) or len(parts) > 3:
        raise argparse.ArgumentTypeError(f"expected a size such as 64 or 64x64x3, got {text!r}")
    numbers = [int(p) for p in parts]
    return (numbers[0], numbers[0], 3) if len(numbers) == 1 else (*numbers, 3)[:3]


def _add_network(p, arch_option=True):
    if arch_option:
        p.add_argument("--arch", default="resnet50", choices=ARCHITECTURES, metavar="NAME", help="default: %(default)s")
    p.add_argument("--variant", choices=VARIANTS, help="conventions: course (Keras notebook), v1, v1.5 (torchvision)")
    p.add_argument("--no-skip", action="store_true", help="the plain twin: the same network without shortcuts")
    p.add_argument("--preact", action="store_true", help="BN and ReLU before each convolution")
    p.add_argument("--no-bn", action="store_true", help="no batch normalisation")
    p.add_argument("--init", default="he", choices=("he", "glorot"), help="initial weights (default: %(default)s)")


def _network_options(args) -> dict:
    options = {"skip": not args.no_skip, "preact": args.preact, "norm": not args.no_bn, "init": args.init}
    return options | ({"variant": args.variant} if args.variant else {})


def _add_data(p, default):
    p.add_argument("--data", default=default, metavar="DATA", help="builtin, an HDF5 file, or a folder of images")
    p.add_argument("--size", type=int, metavar="PIXELS", help="resize the images to this side (default: 64)")
    p.add_argument("--split-seed", type=int, default=0, help="how a folder is split into train and test (default: 0)")
    p.add_argument("--test-fraction", type=float, default=0.15, help="share of a folder for the test (default: 0.15)")


def _add_device(p):
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"), help="default: %(default)s")


def _device(args) -> str:
    device, reason = choose_device(args.device)
    err.print(f"device: {device} ({reason})", style="dim")
    return device


def _source(args):
    from minires.train.run import DataSource

    return DataSource(args.data, args.size or 64, args.split_seed, args.test_fraction, getattr(args, "flip", None))


def train(args) -> int:
    from minires.train import Classifier, ConsoleReporter, Recipe, fit, resume, run

    reporter = ConsoleReporter(out)
    if args.resume:
        folder = Path(args.resume)
        source = run.data_source(folder)
        parts = source.load()
        classifier, progress = resume(folder, *parts, epochs=args.epochs, device=_device(args), reporter=reporter)
        return _finish_run(folder, classifier, parts, progress)
    overrides = {f.name: getattr(args, f.name, None) for f in fields(Recipe)}
    recipe = Recipe(**{k: v for k, v in overrides.items() if v is not None})
    if args.no_augment:
        recipe = replace(recipe, augment=None)
    folder = Path(args.out or f"runs/{args.arch}-{datetime.now():%Y%m%d-%H%M%S}")
    if (folder / "model.h5").exists():
        raise CheckpointError(f"{folder}: already holds a run: choose another --out, or go on with --resume {folder}")
    source = _source(args)
    parts = source.load()
    if parts[0] is None:
        raise DataError(f"{args.data}: only a test part is there: give the training file too")
    options = _network_options(args) | {"zero_gamma": not args.no_skip, "seed": recipe.seed}
    model = resnet(args.arch, parts[0].shape, len(parts[0].classes), bn_momentum=args.bn_momentum, **options)
    classifier = Classifier.for_data(model.to(_device(args)), parts[0])
    twin = "" if model.config.skip else ", no skips"
    out.print(
        f"{args.arch} ({model.config.variant}{twin}): {sum(model.parameter_count()):,} parameters\n"
        f"{parts[0].source}: {len(parts[0]):,} training and {len(parts[1] or ()):,} test images, "
        f"{len(parts[0].classes)} classes\nrun folder: {folder}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    run.begin(folder, classifier, source, parts, recipe)
    progress = fit(classifier, *parts, recipe, out=folder, reporter=reporter)
    return _finish_run(folder, classifier, parts, progress)


def _finish_run(folder, classifier, parts, progress) -> int:
    from minires.train import run

    result = run.finish(folder, classifier, parts[1], parts[0], progress)
    if result is not None:
        out.print(
            f"test accuracy {result.accuracy:.2%}: {result.mistakes} mistakes in {len(result.labels)} images "
            f"(loss {result.loss:.3f})",
            style="bold",
        )
    out.print(f"report: {(folder / 'report.html').resolve()}")
    return 0


def _load(args):
    from minires.train import load_classifier

    classifier = load_classifier(args.run_folder, best=args.best)
    classifier.model.to(_device(args))
    return classifier


def evaluate(args) -> int:
    from minires.train import evaluate as measure
    from minires.train import run

    classifier = _load(args)
    if args.data is None:
        source = run.data_source(args.run_folder)
    else:
        args.size = args.size or classifier.model.config.input_shape[0]
        source = _source(args)
    parts = dict(zip(("train", "test"), source.load(), strict=True))
    dataset = parts[args.part]
    if dataset is None:
        raise DataError(f"{source.spec}: there is no {args.part} part: choose the other with --part")
    result = measure(classifier, dataset)
    predictions = result.probs.argmax(axis=1)
    per_class = {
        name: {"images": int(here.sum()), "accuracy": float((predictions[here] == i).mean()) if here.any() else None}
        for i, name in enumerate(classifier.classes)
        for here in [result.labels == i]
    }
    if args.json:
        numbers = {"accuracy": result.accuracy, "loss": result.loss, "images": len(dataset)}
        print(json.dumps(numbers | {"mistakes": result.mistakes, "data": dataset.source, "classes": per_class}))
        return 0
    table = Table("class", "images", "right", title=f"{dataset.source}, {args.part} part")
    for name, row in per_class.items():
        table.add_row(name, str(row["images"]), "" if row["accuracy"] is None else f"{row['accuracy']:.1%}")
    out.print(table)
    out.print(f"accuracy {result.accuracy:.2%} ({result.mistakes} mistakes in {len(dataset)}), loss {result.loss:.4f}")
    return 0


def predict(args) -> int:
    import numpy as np

    from minires.data import read_image

    classifier = _load(args)
    size = classifier.model.config.input_shape[:2]
    probs = classifier.probs(np.stack([read_image(path, size) for path in args.images]))
    rows = [
        {"image": str(path), "class": classifier.classes[p.argmax()], "probability": float(p.max())}
        | {"probabilities": dict(zip(classifier.classes, map(float, p), strict=True))}
        for path, p in zip(args.images, probs, strict=True)
    ]
    if args.json:
        print(json.dumps(rows))
        return 0
    table = Table(Column("image", overflow="fold"), "class", "probability", "next best")
    for row in rows:
        _, second = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:2]
        table.add_row(row["image"], row["class"], f"{row['probability']:.1%}", f"{second[0]} ({second[1]:.1%})")
    out.print(table)
    return 0


def summary(args) -> int:
    from minires.look.summary import summarize

    model = resnet(args.arch, args.input, args.classes, **_network_options(args))
    report = summarize(model, batch=args.batch_size)
    if args.json:
        print(json.dumps(report.as_dict()))
    else:
        out.print(report.table())
    return 0


def gradflow(args) -> int:
    import numpy as np

    from minires.look.gradflow import compare_skip
    from minires.look.plots import plot_gradflow, save_png
    from minires.train import Classifier

    part, _ = _source(args).load()
    model = resnet(args.arch, part.shape, len(part.classes), seed=args.seed, **_network_options(args))
    classifier = Classifier.for_data(model, part)
    index = np.random.default_rng(args.seed).permutation(len(part))[: args.batch_size]
    comparison = compare_skip(model, classifier.preprocess(part.images(index)), part.labels[index])
    save_png(plot_gradflow(comparison.flows), Path(args.out))
    if args.json:
        print(json.dumps(comparison.as_dict()))
    else:
        out.print(comparison.table())
        out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def data_make(args) -> int:
    from minires.data import make_signs, write_signs

    paths = write_signs(args.folder, *make_signs(size=args.size, seed=args.seed))
    out.print("wrote " + " and ".join(map(str, paths)))
    return 0


def data_convert(args) -> int:
    from minires.data import convert

    convert(args.folder, args.file, size=args.size, seed=args.split_seed, test_fraction=args.test_fraction)
    out.print(f"wrote {args.file}")
    return 0


def data_fetch(args) -> int:
    from minires.data import fetch_digits

    out.print(f"ready: {fetch_digits(args.folder)}")
    return 0


def doctor(args) -> int:
    from minires.look.doctor import diagnose, print_findings

    findings = diagnose(args.data)
    print_findings(out, findings)
    return int(any(f.status == "fail" for f in findings))


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="minires", description="Residual networks, written out by hand.")
    root.add_argument("--version", action="version", version=f"minires {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(parent, name, run, text, example):
        p = parent.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        p.set_defaults(run=run)
        return p

    p = command(
        commands,
        "train",
        train,
        "Train a network; leaves a run folder with the model, its history and a report to look at.",
        "minires train --data photos/ --arch resnet50 --epochs 10 --out runs/photos",
    )
    _add_data(p, "builtin")
    _add_network(p)
    p.add_argument("--flip", action=argparse.BooleanOptionalAction, help="whether a mirrored image keeps its class")
    p.add_argument("--epochs", type=int, metavar="N")
    p.add_argument("--batch-size", type=int, metavar="N")
    p.add_argument("--optimizer", choices=("sgd", "adam", "adamw"))
    p.add_argument("--lr", type=float, metavar="X", help="the peak of the schedule")
    p.add_argument("--schedule", choices=("constant", "step", "cosine", "onecycle"))
    p.add_argument("--warmup-epochs", type=float, metavar="N")
    p.add_argument("--weight-decay", type=float, metavar="X")
    p.add_argument("--decay-all", action="store_true", default=None, help="decay BN and biases too")
    p.add_argument("--clip-norm", type=float, metavar="X", help="largest norm of the whole gradient")
    p.add_argument("--label-smoothing", type=float, metavar="X")
    p.add_argument("--bn-momentum", type=float, default=0.9, metavar="X", help="0.99 is the course's (default: 0.9)")
    p.add_argument("--no-augment", action="store_true", help="train on the images as they are")
    p.add_argument("--patience", type=int, metavar="N", help="stop after N epochs without a better test loss")
    p.add_argument("--seed", type=int, metavar="N")
    p.add_argument("--out", metavar="RUN", help="the run's folder (default: runs/ARCH-DATE)")
    p.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped; --epochs may extend it")
    _add_device(p)

    p = command(
        commands, "evaluate", evaluate, "Measure a trained network on data.", "minires evaluate runs/photos --json"
    )
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    _add_data(p, None)
    p.add_argument("--part", choices=("train", "test"), default="test", help="default: %(default)s")
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")
    _add_device(p)

    p = command(
        commands, "predict", predict, "Say what is on images.", "minires predict runs/photos hand.jpg other.png"
    )
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    p.add_argument("images", metavar="IMAGE", nargs="+")
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")
    _add_device(p)

    p = command(
        commands,
        "summary",
        summary,
        "List a network's layers with shapes, parameters, FLOPs and memory.",
        "minires summary resnet50 --input 64x64x3 --classes 6",
    )
    p.add_argument("arch", choices=ARCHITECTURES, metavar="ARCH", help=", ".join(ARCHITECTURES))
    p.add_argument("--input", type=image_size, default=(64, 64, 3), metavar="HxWxC", help="default: 64x64x3")
    p.add_argument("--classes", type=int, default=6, metavar="K", help="default: %(default)s")
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="for the memory (default: %(default)s)")
    p.add_argument("--json", action="store_true")
    _add_network(p, arch_option=False)

    p = command(
        commands,
        "gradflow",
        gradflow,
        "Compare how the gradient flows back with and without skips: one batch, a table and a picture.",
        "minires gradflow --arch resnet50 --out gradflow.png",
    )
    _add_data(p, "builtin")
    _add_network(p)
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--out", default="gradflow.png", metavar="FILE.png", help="default: %(default)s")
    p.add_argument("--json", action="store_true")

    data = commands.add_parser("data", help="Make, convert and fetch data sets.").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    p = command(
        data, "make", data_make, "Write the built-in hand signs as train_signs.h5 and test_signs.h5.",
        "minires data make signs/",
    )  # fmt: skip
    p.add_argument("folder")
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--seed", type=int, default=0)
    p = command(
        data, "convert", data_convert, "Turn a folder of images into one HDF5 file.",
        "minires data convert photos/ photos.h5 --size 64",
    )  # fmt: skip
    p.add_argument("folder")
    p.add_argument("file", metavar="OUT.h5")
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--split-seed", type=int, default=0)
    p.add_argument("--test-fraction", type=float, default=0.15)
    p = command(
        data, "fetch", data_fetch, "Download the Sign Language Digits photographs (2,062 images, ten classes).",
        "minires data fetch digits data/",
    )  # fmt: skip
    p.add_argument("name", choices=("digits",))
    p.add_argument("folder", nargs="?", default="sign-language-digits")

    p = command(
        commands,
        "doctor",
        doctor,
        "Check the environment, the GPU and data; each problem comes with its fix.",
        "minires doctor --data photos/",
    )
    p.add_argument("--data", metavar="DATA", help="also look at this data set")
    return root


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except MiniresError as error:
        err.print(f"minires: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
