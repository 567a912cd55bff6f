"""train, report, evaluate, predict."""

import argparse
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

from rich.table import Column, Table

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import CheckpointError, ConfigError, DataError, MiniresError
from minires.nn import resnet

# what may be given beside --resume: all else is in the run
RESUMABLE = ("resume", "epochs", "data", "device", "recompute", "max_workspace", "by_layers", "check", "stall", "tf32")


@contextmanager
def _stoppable():
    """Ctrl-C and SIGTERM end what is inside with one line."""
    from minires.train import stops

    with stops.heard(owns_process=True):
        try:
            yield
        except stops.Stopped as stopped:
            if not stopped.told:
                out.print("stopped before the first step")
            raise


def train(args) -> int:
    folder = Path(args.resume or args.out or f"runs/{args.arch}-{datetime.now():%Y%m%d-%H%M%S}")
    with _stoppable():
        return _resume(args, folder) if args.resume else _train(args, folder)


def _train(args, folder) -> int:
    from minires import run
    from minires.train import Classifier, Recipe, fit
    from minires.train.folder import locked

    overrides = {f.name: getattr(args, f.name, None) for f in fields(Recipe)}
    recipe = Recipe(**{k: v for k, v in overrides.items() if v is not None})
    if args.no_augment:
        recipe = replace(recipe, augment=None)
    source = common.source(args)
    with locked(folder):
        if (folder / "model.h5").exists():
            raise CheckpointError(
                f"{folder}: already holds a run: choose another --out, or go on with --resume {folder}"
            )
        parts = common.parts(source, out)
        if parts.train is None:
            raise DataError(f"{source.spec}: only a test part is there: give the training part too")
        shape, classes = parts.train.shape, len(parts.train.classes)
        options = common.network_options(args) | {"last_gamma": args.last_gamma, "seed": recipe.seed}
        model = resnet(args.arch, shape, classes, bn_momentum=args.bn_momentum, **options)
        classifier = Classifier.for_data(model.to(common.device(args)), parts.train)
        twin = "" if model.config.skip else ", no skips"
        out.print(
            f"{args.arch} ({model.config.variant}{twin}): {sum(model.parameter_count()):,} parameters\n"
            f"{classes} classes, {shape[0]}x{shape[1]} pixels\nrun folder: {folder}"
        )
        run.begin(folder, classifier, source, parts, recipe)
        held = {"validation": parts.validation, "out": folder}
        progress = fit(classifier, parts.train, parts.test, recipe, **held, **_ways(args))
        return _finish(folder, classifier, parts, progress)


def _resume(args, folder) -> int:
    from minires import run
    from minires.train import resume
    from minires.train.folder import locked

    usual = args.usual()
    kept = [k for k, v in vars(args).items() if k in usual and k not in RESUMABLE and v != usual[k]]
    if kept:
        option = "--" + kept[0].replace("_", "-")
        raise ConfigError(f"{option}: --resume goes on as the run began: leave it out, or start a run of its own")
    source = run.data_source(folder, args.data)
    with locked(folder):
        parts = common.parts(source, out)
        ways = {"device": common.device(args), "validation": parts.validation, **_ways(args)}
        classifier, progress = resume(folder, parts.train, parts.test, epochs=args.epochs, **ways)
        return _finish(folder, classifier, parts, progress)


def _ways(args) -> dict:
    """How the steps are computed, and who tells of them."""
    from minires.train import ConsoleReporter

    most = None if args.max_workspace is None else args.max_workspace * 2**20
    ways = {"tf32": args.tf32, "recompute": args.recompute, "max_workspace": most, "stall": args.stall}
    return ways | {"by_layers": args.by_layers, "check": args.check, "reporter": ConsoleReporter(out)}


def report(args) -> int:
    """What the end of training writes, for a run that was stopped before it, or was not trained to its end."""
    from minires import run
    from minires.train.folder import locked
    from minires.train.loop import reopen

    folder = Path(args.run_folder)
    source = run.data_source(folder, args.data)
    with _stoppable(), locked(folder):
        parts = common.parts(source, out)
        checkpoint, recipe, progress = reopen(folder, parts.train)
        checkpoint.classifier.model.to(common.device(args))
        if progress.epoch < recipe.epochs and not progress.stopped:
            out.print(f"not trained to its end: {progress.where} of {recipe.epochs}: minires train --resume {folder}")
        return _finish(folder, checkpoint.classifier, parts, progress)


def _finish(folder, classifier, parts, progress) -> int:
    from minires import run
    from minires.train.stops import Stopped

    later = f"{progress.where} is saved; for the report: minires report {folder}"
    try:
        result = run.finish(folder, classifier, parts.test, parts.train, progress)
    except Stopped as stopped:
        stopped.told = True
        out.print(f"stopped; {later}")
        raise
    except MiniresError as error:
        raise type(error)(f"{error}; {later}") from None
    if result is not None:
        chosen = f"epoch {progress.best_epoch}, chosen by the validation loss: " * (progress.judge == "validation")
        out.print(
            f"{chosen}test accuracy {result.accuracy:.2%}: {result.mistakes} mistakes in {len(result.labels)} images "
            f"(loss {result.loss:.3f})",
            style="bold",
        )
    out.print(f"report: {(folder / 'report.html').resolve()}")
    return 0


def _load(args):
    from minires.train import load_classifier

    classifier = load_classifier(args.run_folder, best=args.best)
    classifier.model.to(common.device(args))
    return classifier


def evaluate(args) -> int:
    from minires import run
    from minires.train import evaluate as measure

    classifier = _load(args)
    parts = run.data_for(args.run_folder, classifier, None if args.data is None else common.source(args))
    common.told(parts, err if args.json else out)
    dataset = getattr(parts, args.part)
    if dataset is None:
        there = " or ".join(parts.named())
        raise DataError(f"{args.data or args.run_folder}: there is no {args.part} part: choose --part {there}")
    result = measure(classifier, dataset, by_layers=args.by_layers)
    predictions = result.probs.argmax(axis=1)
    per_class = {
        name: {"images": int(here.sum()), "accuracy": float((predictions[here] == i).mean()) if here.any() else None}
        for i, name in enumerate(classifier.classes)
        for here in [result.labels == i]
    }
    if args.json:
        numbers = {"accuracy": result.accuracy, "loss": result.loss, "images": len(dataset)}
        print_json(numbers | {"mistakes": result.mistakes, "data": dataset.source, "classes": per_class})
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
    from minires.fast.inference import Predictor

    classifier = _load(args)
    size = classifier.model.config.input_shape[:2]
    predictor = Predictor(classifier.model, by_layers=args.by_layers)
    probs = classifier.probs(np.stack([read_image(path, size) for path in args.images]), predictor)
    rows = [
        {"image": str(path), "class": classifier.classes[p.argmax()], "probability": float(p.max())}
        | {"probabilities": dict(zip(classifier.classes, map(float, p), strict=True))}
        for path, p in zip(args.images, probs, strict=True)
    ]
    if args.json:
        print_json(rows)
        return 0
    table = Table(Column("image", overflow="fold"), "class", "probability", "next best")
    for row in rows:
        _, second = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:2]
        table.add_row(row["image"], row["class"], f"{row['probability']:.1%}", f"{second[0]} ({second[1]:.1%})")
    out.print(table)
    return 0


def _add_by_layers(p) -> None:
    p.add_argument(
        "--by-layers", action="store_true", help="run exactly the layers, one after the other: nothing fused or folded"
    )


def register(commands, command) -> None:
    p = command(
        commands,
        "train",
        train,
        "Train a network; leaves a run folder with the model, its history and a report to look at.",
        "minires train --data photos/ --arch resnet50 --epochs 10 --out runs/photos",
    )
    p.set_defaults(usual=lambda p=p: vars(p.parse_args([])))
    common.add_data(p, None)
    common.add_network(p)
    p.add_argument("--flip", action=argparse.BooleanOptionalAction, help="whether a mirrored image keeps its class")
    p.add_argument("--epochs", type=int, metavar="N", help="default: 11")
    p.add_argument("--batch-size", type=int, metavar="N", help="default: 32")
    p.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), help="default: adamw")
    p.add_argument(
        "--lr", type=float, metavar="X", help="the peak of the schedule (default: 0.002; sgd 0.02, adam 0.001)"
    )
    p.add_argument("--schedule", choices=("constant", "step", "cosine", "onecycle"), help="default: onecycle")
    p.add_argument(
        "--warmup-epochs",
        type=float,
        metavar="N",
        help="epochs of rising rate (default: 1, of a short run no more than 30 %%)",
    )
    p.add_argument("--weight-decay", type=float, metavar="X", help="default: 0.05; sgd 0.0005, adam 0")
    p.add_argument("--decay-all", action="store_true", default=None, help="decay BN and biases too")
    p.add_argument("--clip-norm", type=float, metavar="X", help="largest norm of the whole gradient")
    p.add_argument("--label-smoothing", type=float, metavar="X", help="default: 0")
    p.add_argument("--bn-momentum", type=float, default=0.9, metavar="X", help="0.99 is the course's (default: 0.9)")
    p.add_argument(
        "--last-gamma",
        type=float,
        default=0.25,
        metavar="X",
        help="where the last BN of each residual branch starts; 0 is zero-gamma, 1 the course's (default: 0.25)",
    )
    p.add_argument("--no-augment", action="store_true", help="train on the images as they are")
    p.add_argument(
        "--patience", type=int, metavar="N", help="stop after N epochs without a better test, or validation, loss"
    )
    p.add_argument("--seed", type=int, metavar="N", help="of weights, order and augmentation (default: 0)")
    p.add_argument("--out", metavar="RUN", help="the run's folder (default: runs/ARCH-DATE)")
    p.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped; --epochs may extend it")
    common.add_device(p)
    p.add_argument(
        "--recompute", action="store_true", help="less memory, more time: compute each block again backwards"
    )
    p.add_argument("--max-workspace", type=int, metavar="MIB", help="what one op may take beside its arrays")
    p.add_argument(
        "--stall",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="without progress, before stderr is told what is waited for (default: 30)",
    )
    _add_by_layers(p)
    p.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="before the first step, compare what runs with the layers, in float64 (default: do)",
    )
    p.add_argument("--tf32", action="store_true", help="on a GPU: matrix products rounded to TF32; faster, less exact")

    p = command(
        commands,
        "report",
        report,
        "Make a run's report and all that belongs to it again, where a stop or a full disk came before it.",
        "minires report runs/photos",
    )
    p.add_argument("run_folder", metavar="RUN", help="a run's folder")
    p.add_argument("--data", metavar="DATA", help="where its data are now, if they were moved")
    common.add_device(p)

    p = command(
        commands, "evaluate", evaluate, "Measure a trained network on data.", "minires evaluate runs/photos --json"
    )
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    common.add_data(p, None)
    _add_by_layers(p)
    p.add_argument("--part", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")
    common.add_device(p)

    p = command(
        commands, "predict", predict, "Say what is on images.", "minires predict runs/photos hand.jpg other.png"
    )
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    p.add_argument("images", metavar="IMAGE", nargs="+")
    _add_by_layers(p)
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")
    common.add_device(p)
