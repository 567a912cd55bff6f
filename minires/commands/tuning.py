"""lr-find: a learning rate before a long run."""

import sys

from rich.progress import Progress

from minires.commands import common
from minires.console import err, out, print_json
from minires.nn import resnet


def lr_find(args) -> int:
    from minires.instruments.plots import plot_rate_test, save_picture
    from minires.instruments.rate_test import rate_test
    from minires.train import Classifier, Recipe

    recipe = Recipe(optimizer=args.optimizer, batch_size=args.batch_size, seed=args.seed)
    train = common.parts(common.source(args)).train
    options = common.network_options(args) | {"last_gamma": args.last_gamma, "seed": args.seed}
    model = resnet(args.arch, train.shape, len(train.classes), **options).to(common.device(args))
    limits = {"lowest": args.lowest, "highest": args.highest, "steps": args.steps}
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("steps", total=args.steps)
        on_step = lambda done: bar.update(task, completed=done)  # noqa: E731
        test = rate_test(Classifier.for_data(model, train), train, recipe, **limits, on_step=on_step)
    save_picture(plot_rate_test(test, note=f"minires {' '.join(sys.argv[1:])}"), args.out)
    if args.json:
        print_json(test.as_dict())
    else:
        out.print(f"{test}\npicture: {args.out}")
    return int(test.suggestion is None)


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
