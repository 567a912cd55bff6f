"""diagnose: why it does not learn. Exit status 1 where a cause is shown or likely."""

import sys
from pathlib import Path

from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import ConfigError
from minires.nn import ARCHITECTURES, build
from minires.nn.network import BUILDERS


def diagnose(args) -> int:
    from minires.instruments.diagnose import diagnose as look
    from minires.instruments.diagnose.picture import plot_diagnosis
    from minires.instruments.style import save_picture

    what, given = _what(args), _given(args)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("opening", total=None)
        found = look(what, on_step=lambda doing: bar.update(task, description=doing), **given)
    picture = plot_diagnosis(found, note=f"minires {' '.join(sys.argv[1:])}")
    if picture is not None:
        save_picture(picture, Path(args.out))
    if args.json:
        print_json(found.as_dict())
        return int(not found.ok)
    out.print(found.title, style="bold")
    for n, cause in enumerate(found.causes, 1):
        out.print(f"\n{n}. {cause.name} ({cause.sure})", style="bold" if cause.status == "fail" else "")
        told = f"{cause.evidence}.\n→ {cause.fix}"
        out.print(Padding(Text(told), (0, 0, 0, 3)), soft_wrap=False)
    if not found.causes:
        out.print("no cause of trouble was found")
    out.print(f"\nlooked at: {', '.join(found.looked)}", style="dim")
    if picture is not None:
        out.print(f"picture: {args.out}")
    return int(not found.ok)


def _what(args):
    """A path, or the network of that name for the data."""
    if args.what not in ARCHITECTURES and args.what not in BUILDERS and ".py:" not in args.what:
        return args.what
    from minires.nn import resnet

    name = common.network_name(args.what)
    parts = common.parts(common.source(args))
    part = parts.train or parts.test
    make = resnet if name in ARCHITECTURES else build
    return make(name, part.shape, len(part.classes), seed=args.seed)


def _given(args) -> dict:
    from minires.run import DataSource
    from minires.train import Recipe

    given = {"weights": args.weights, "model": None}
    if args.own:
        given["model"] = build(args.own, args.input, args.classes) if args.classes else None
        if given["model"] is None:
            raise ConfigError("--arch: say for how many --classes it was built, and for which --input")
    options = {k: v for k in ("optimizer", "lr", "batch_size", "epochs") if (v := getattr(args, k)) is not None}
    if options:
        given["recipe"] = Recipe(**options, warmup_epochs=0 if options.get("epochs") == 1 else None)
    if args.data is not None or not Path(args.what).exists():
        parts = DataSource(args.data or "builtin", args.size, args.split_seed, args.test_fraction).parts()
        given |= {"data": parts.train, "test": parts.test}
    return given


def register(commands, command) -> None:
    p = command(
        commands,
        "diagnose",
        diagnose,
        "Why does it not learn? The likeliest causes in order, the evidence, what to do. Exit status 1 where one is "
        "shown or likely.",
        "minires diagnose runs/signs",
    )
    p.add_argument("what", metavar="WHAT", help="a run's folder, data, a file of weights, a network's name")
    common.add_data(p, None)
    p.add_argument("--weights", metavar="FILE", help="of a network: a file that should fit it")
    common.add_own(p)
    p.add_argument("--input", type=common.image_size, default=(64, 64, 3), metavar="HxWxC", help="of --arch")
    p.add_argument("--classes", type=int, metavar="N", help="of --arch")
    p.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), help="that it is to be trained with")
    p.add_argument("--lr", type=float, metavar="X", help="the rate that it is to be trained at")
    p.add_argument("--batch-size", type=int, metavar="N", help="images a step")
    p.add_argument("--epochs", type=int, metavar="N", help="how long it is to be trained")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of a network's weights (default: 0)")
    common.add_picture(p, "diagnosis.png")
    p.add_argument("--json", action="store_true", help="print causes and evidence")
