"""train, report, evaluate."""

import argparse
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

from minires.commands import common, starting
from minires.commands.predicting import tell
from minires.console import err, out
from minires.errors import CheckpointError, ConfigError, DataError, MiniresError
from minires.fast.communicator import ALONE, current, speaking_through
from minires.nn import ARCHITECTURES

# what may be given beside --resume: all else is in the run
RESUMABLE = (
    *("resume", "epochs", "data", "device", "recompute", "max_workspace", "by_layers", "check", "stall", "tf32"),
    *("local_bn", "shard_optimizer"),
)


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
    with _stoppable():
        if args.resume:
            return _resume(args, _run_of(Path(args.resume)))
        weights = starting.loaded(args)
        name = args.arch.replace(".py:", "-")
        return _train(args, Path(args.out or f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"), weights)


def _run_of(path: Path) -> Path:
    """The folder of the run that is to go on, also by its model.h5; CheckpointError for weights without the rest."""
    folder = path.parent if path.name == "model.h5" and path.is_file() else path
    if folder.is_file() or ((folder / "model.h5").exists() and not (folder / "manifest.json").exists()):
        raise CheckpointError(
            f"{path}: --resume goes on in a run's folder, with the manifest.json that says how its data were split: "
            f"start a new run from these weights with --weights {path}"
        )
    return folder


def _train(args, folder, weights) -> int:
    from minires import run
    from minires.train import Recipe, fit
    from minires.train.finetune import describe
    from minires.train.folder import locked

    reporter = _reporter(args.log, args.watch)  # what it lacks shows now
    overrides = {f.name: getattr(args, f.name, None) for f in fields(Recipe)} | {"rates": starting.recipe_rates(args)}
    recipe = Recipe(**{k: v for k, v in overrides.items() if v is not None})
    if args.no_augment:
        recipe = replace(recipe, augment=None)
    source, first = common.source(args), current().rank == 0
    with locked(folder) if first else nullcontext():
        if first and (folder / "model.h5").exists():
            raise CheckpointError(
                f"{folder}: already holds a run: choose another --out, or go on with --resume {folder}"
            )
        parts = common.parts(source, out)
        if parts.train is None:
            raise DataError(f"{source.spec}: only a test part is there: give the training part too")
        classifier, told = starting.begin(args, weights, parts.train, recipe.seed)
        model, (height, width, _) = classifier.model.to(common.device(args)), parts.train.shape
        for line in (*told, *describe(model, recipe)):
            out.print(line)
        out.print(
            f"{model.title}: {sum(model.parameter_count()):,} parameters\n"
            f"{len(parts.train.classes)} classes, {height}x{width} pixels\nrun folder: {folder}"
        )
        if first:
            with current().busy("writing the run's manifest"):
                run.begin(folder, classifier, source, parts, recipe, log=args.log, watch=args.watch)
        held = {"validation": parts.validation, "out": folder, "reporter": reporter}
        progress = fit(classifier, parts.train, parts.test, recipe, **held, **_ways(args))
        return _finish(folder, classifier, parts, progress)


def _resume(args, folder) -> int:
    from minires import run
    from minires.train import resume
    from minires.train.folder import locked

    usual = args.usual()
    kept = [k for k, v in vars(args).items() if k in usual and k not in RESUMABLE and v != usual[k]]
    if args.arch not in ARCHITECTURES and "arch" in kept:  # what builds the run's own network
        kept.remove("arch")
    if kept:
        option = "--" + kept[0].replace("_", "-")
        raise ConfigError(f"{option}: --resume goes on as the run began: leave it out, or start a run of its own")
    source = run.data_source(folder, args.data)
    reporter = _reporter(**run.seen(folder))
    with locked(folder) if current().rank == 0 else nullcontext():
        parts = common.parts(source, out)
        ways = {"device": common.device(args), "validation": parts.validation, "reporter": reporter, **_ways(args)}
        classifier, progress = resume(folder, parts.train, parts.test, epochs=args.epochs, **ways)
        return _finish(folder, classifier, parts, progress)


def _ways(args) -> dict:
    """How the steps are computed."""
    most = None if args.max_workspace is None else args.max_workspace * 2**20
    ways = {"tf32": args.tf32, "recompute": args.recompute, "max_workspace": most, "stall": args.stall}
    shared = {"local_bn": args.local_bn, "shard_optimizer": args.shard_optimizer}
    return ways | {"by_layers": args.by_layers, "check": args.check} | shared


def _reporter(log, watch):
    """Who tells of a run: the terminal, the logs of these names, and who watches it layer by layer."""
    from minires.instruments.watch import Watcher
    from minires.train.logs import make_logs
    from minires.train.progress import ConsoleReporter, Reporters

    watchers = [] if watch is None else [Watcher() if watch is True else Watcher(watch)]
    return Reporters(ConsoleReporter(out), *make_logs(log), *watchers)


def _logs(text: str) -> list[str]:
    """An argument type: 'csv,tensorboard'."""
    from minires.train.logs import known_logs

    try:
        return known_logs(text.split(","))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
        _reporter(**run.seen(folder)).save(folder, progress)
        checkpoint.classifier.model.to(common.device(args))
        if progress.epoch < recipe.epochs and not progress.stopped:
            out.print(f"not trained to its end: {progress.where} of {recipe.epochs}: minires train --resume {folder}")
        return _finish(folder, checkpoint.classifier, parts, progress)


def _finish(folder, classifier, parts, progress) -> int:
    """Measure once more and write the report; of several ranks the first one does, alone."""
    if current().rank:
        return 0
    with current().busy("writing the report"), speaking_through(ALONE):
        return _report(folder, classifier, parts, progress)


def _report(folder, classifier, parts, progress) -> int:
    from minires import run
    from minires.instruments.watch import read_film
    from minires.train.scores import span
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
            f"{chosen}test accuracy {result.accuracy:.2%} ({span(result.interval)}): {result.mistakes} mistakes in "
            f"{len(result.labels)} images (loss {result.loss:.3f})",
            style="bold",
        )
    if film := read_film(folder):
        out.print(film.cost(sum(row["seconds"] for row in progress.history)))
    out.print(f"report: {(folder / 'report.html').resolve()}")
    return 0


def evaluate(args) -> int:
    from minires import run
    from minires.train import evaluate as measure

    classifier = common.classifier(args)
    parts = run.data_for(args.run_folder, classifier, None if args.data is None else common.source(args))
    common.told(parts, err if args.json else out)
    dataset = getattr(parts, args.part)
    if dataset is None:
        there = " or ".join(parts.named())
        raise DataError(f"{args.data or args.run_folder}: there is no {args.part} part: choose --part {there}")
    result = measure(classifier, dataset, by_layers=args.by_layers)
    return 0 if current().rank else tell(result, classifier.classes, dataset.source, args)


def register(commands, command) -> None:
    p = command(
        commands,
        "train",
        train,
        "Train a network; leaves a run folder with the model, its history and a report to look at.",
        "minires train --data photos/ --arch resnet50 --epochs 10 --out runs/photos",
    )
    p.set_defaults(usual=lambda p=p: vars(p.parse_args([])), shared=True)
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
    starting.add_options(p)
    text = "estimate running statistics anew at the end, with the last weights (default: yes)"
    p.add_argument("--precise-bn", action=argparse.BooleanOptionalAction, help=text)
    p.add_argument("--no-augment", action="store_true", help="train on the images as they are")
    p.add_argument(
        "--patience", type=int, metavar="N", help="stop after N epochs without a better test, or validation, loss"
    )
    p.add_argument("--seed", type=int, metavar="N", help="of weights, order and augmentation (default: 0)")
    p.add_argument("--out", metavar="RUN", help="the run's folder (default: runs/ARCH-DATE)")
    text = "write the history as csv (history.csv), tensorboard (needs 'minires[tensorboard]'), or csv,tensorboard too"
    p.add_argument("--log", type=_logs, default=[], metavar="KINDS", help=text)
    text = "every N steps (default: 50) record gradients, updates, dead ReLUs and BN's drift; the report plays them"
    p.add_argument("--watch", type=int, nargs="?", const=True, metavar="N", help=text)
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
    text = "of several ranks (mpiexec): each normalises over its own share of a batch; faster, not what one rank does"
    p.add_argument("--local-bn", action="store_true", help=text)
    text = "of several ranks: each keeps a part of the optimiser's state, and updates that (default: on one host)"
    p.add_argument("--shard-optimizer", action=argparse.BooleanOptionalAction, help=text)
    common.add_by_layers(p)
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
    common.add_own(p)
    p.add_argument("--data", metavar="DATA", help="where its data are now, if they were moved")
    common.add_device(p)

    p = command(
        commands, "evaluate", evaluate, "Measure a trained network on data.", "minires evaluate runs/photos --json"
    )
    p.set_defaults(shared=True)
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    common.add_own(p)
    common.add_data(p, None)
    common.add_by_layers(p)
    p.add_argument("--part", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--confusion", action="store_true", help="also print how often each class was taken for each")
    p.add_argument("--csv", metavar="FILE", help="write the confusion matrix as a table for spreadsheets")
    p.add_argument("--json", action="store_true")
    common.add_device(p)
