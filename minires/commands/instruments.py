"""summary, gradflow, doctor."""

import json
import sys
from pathlib import Path

from minires.commands import common
from minires.commands.common import out
from minires.nn import ARCHITECTURES, resnet


def summary(args) -> int:
    from minires.look.summary import summarize

    model = resnet(args.arch, args.input, args.classes, **common.network_options(args))
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

    part, _ = common.source(args).load()
    model = resnet(args.arch, part.shape, len(part.classes), seed=args.seed, **common.network_options(args))
    classifier = Classifier.for_data(model, part)
    index = np.random.default_rng(args.seed).permutation(len(part))[: args.batch_size]
    comparison = compare_skip(model, classifier.preprocess(part.images(index)), part.labels[index])
    note = f"minires {' '.join(sys.argv[1:])}"
    save_png(plot_gradflow(comparison.flows, note=note), Path(args.out))
    if args.json:
        print(json.dumps(comparison.as_dict()))
    else:
        out.print(comparison.table())
        out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def doctor(args) -> int:
    from minires.look.doctor import diagnose, print_findings

    findings = diagnose(args.data)
    print_findings(out, findings)
    return int(any(f.status == "fail" for f in findings))


def register(commands, command) -> None:
    p = command(
        commands,
        "summary",
        summary,
        "List a network's layers with shapes, parameters, FLOPs and memory.",
        "minires summary resnet50 --input 64x64x3 --classes 6",
    )
    p.add_argument("arch", choices=ARCHITECTURES, metavar="ARCH", help=", ".join(ARCHITECTURES))
    p.add_argument("--input", type=common.image_size, default=(64, 64, 3), metavar="HxWxC", help="default: 64x64x3")
    p.add_argument("--classes", type=int, default=6, metavar="K", help="default: %(default)s")
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="for the memory (default: %(default)s)")
    p.add_argument("--json", action="store_true")
    common.add_network(p, arch_option=False)

    p = command(
        commands,
        "gradflow",
        gradflow,
        "Compare how the gradient flows back with and without skips: one batch, a table and a picture.",
        "minires gradflow --arch resnet50 --out gradflow.png",
    )
    common.add_data(p, "builtin")
    common.add_network(p)
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--out", default="gradflow.png", metavar="FILE.png", help="default: %(default)s")
    p.add_argument("--json", action="store_true")

    p = command(
        commands,
        "doctor",
        doctor,
        "Check the environment, the GPU and data; each problem comes with its fix.",
        "minires doctor --data photos/",
    )
    p.add_argument("--data", metavar="DATA", help="also look at this data set")
