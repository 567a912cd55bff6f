"""lr-find, overfit: a learning rate, and a fault, before a long run."""

import sys
from contextlib import contextmanager

from rich.progress import Progress

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import DataError


def _begin(args):
    """(a new network for the data, the data)."""
    from minires.train import Classifier

    train = common.parts(common.source(args)).train
    if train is None:
        raise DataError(f"{args.data}: only a test part is there: give the training file too")
    options = {"last_gamma": args.last_gamma, "seed": args.seed}
    model = common.make_network(args, train.shape, len(train.classes), **options).to(common.device(args))
    return Classifier.for_data(model, train), train


@contextmanager
def _steps(count):
    """A bar; gives what tells it how many steps are done."""
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("steps", total=count)
        yield lambda done: bar.update(task, completed=done)


def lr_find(args) -> int:
    from minires.instruments.plots import plot_rate_test, save_picture
    from minires.instruments.rate_test import rate_test
    from minires.train import Recipe

    recipe = Recipe(optimizer=args.optimizer, batch_size=args.batch_size, seed=args.seed)
    limits = {"lowest": args.lowest, "highest": args.highest, "steps": args.steps}
    network = _begin(args)
    with _steps(args.steps) as on_step:
        test = rate_test(*network, recipe, **limits, on_step=on_step)
    save_picture(plot_rate_test(test, note=f"minires {' '.join(sys.argv[1:])}"), args.out)
    if args.json:
        print_json(test.as_dict())
    else:
        out.print(f"{test}\npicture: {args.out}")
    return int(test.suggestion is None)


def overfit(args) -> int:
    from minires.instruments.findings import print_findings
    from minires.instruments.overfit import overfit as learn
    from minires.train import Recipe

    recipe = Recipe(optimizer=args.optimizer, lr=args.lr, seed=args.seed)
    limits = {"images": args.images, "steps": args.steps, "target": args.target}
    network = _begin(args)
    with _steps(args.steps) as on_step:
        result = learn(*network, recipe, **limits, on_step=on_step)
    if args.json:
        print_json(result.as_dict())
        return int(not result.ok)
    out.print(str(result), style="bold")
    if result.findings:
        print_findings(out, result.findings)
    return int(not result.ok)


def register(commands, command) -> None:
    p = command(
        commands,
        "lr-find",
        lr_find,
        "Find a learning rate: a short run in which it grows with every step. Exit status 1 where the loss never fell.",
        "minires lr-find --data photos/ --arch resnet20 --optimizer sgd",
    )
    common.add_data(p, "builtin")
    common.add_network(p)
    p.add_argument("--optimizer", default="adamw", choices=("sgd", "adam", "adamw"), help="default: %(default)s")
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    p.add_argument("--last-gamma", type=float, default=0.25, metavar="X", help="as for train (default: %(default)s)")
    p.add_argument("--lowest", type=float, default=1e-6, metavar="X", help="the first rate (default: %(default)s)")
    p.add_argument("--highest", type=float, default=1.0, metavar="X", help="the last rate (default: %(default)s)")
    p.add_argument("--steps", type=int, default=120, metavar="N", help="default: %(default)s")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and order (default: 0)")
    common.add_picture(p, "lr-find.png")
    p.add_argument("--json", action="store_true", help="print the numbers")
    common.add_device(p)

    p = command(
        commands,
        "overfit",
        overfit,
        "Learn one batch by heart, which every sound network can; where it fails, say why. Exit status 1 for a fault.",
        "minires overfit --data photos/ --arch resnet20",
    )
    common.add_data(p, "builtin")
    common.add_network(p)
    p.add_argument("--optimizer", default="adamw", choices=("sgd", "adam", "adamw"), help="default: %(default)s")
    p.add_argument("--lr", type=float, metavar="X", help="which stays the same (default: the optimiser's usual one)")
    p.add_argument("--images", type=int, default=16, metavar="N", help="in the batch (default: %(default)s)")
    p.add_argument("--steps", type=int, default=200, metavar="N", help="at most (default: %(default)s)")
    p.add_argument("--target", type=float, default=0.01, metavar="X", help="loss to reach (default: %(default)s)")
    p.add_argument("--last-gamma", type=float, default=0.25, metavar="X", help="as for train (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights (default: 0)")
    p.add_argument("--json", action="store_true", help="print the numbers and findings")
    common.add_device(p)
