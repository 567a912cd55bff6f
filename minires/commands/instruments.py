"""summary, gradflow, doctor."""

import argparse
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from minires.commands import common
from minires.console import err, out, print_json
from minires.nn import ARCHITECTURES, build, resnet
from minires.nn.init import INITIALISERS
from minires.optim import OPTIMIZERS


def summary(args) -> int:
    from minires.instruments.cost.predict import predict_cost
    from minires.instruments.cost.summary import summarize

    model = common.make_network(args, args.input, args.classes)
    report = predict_cost(model, args.batch_size, args.optimizer) if args.cost else summarize(model, args.batch_size)
    if args.json:
        print_json(report.as_dict())
    else:
        out.print(report.table())
    return 0


def gradflow(args) -> int:
    import numpy as np

    from minires.instruments.gradflow import compare_skip
    from minires.instruments.gradflow import gradflow as measure
    from minires.instruments.gradflow.grid import gradflow_grid
    from minires.instruments.plots import plot_gradflow, plot_gradflow_grid
    from minires.train import Preprocess

    if args.depth and args.size is None:
        args.size = 32
    with err.status("reading the images ..."):
        part = common.parts(common.source(args)).train
        index = np.random.default_rng(args.seed).permutation(len(part))[: args.batch_size]
        x, labels = Preprocess.measure(part)(part.images(index)), part.labels[index]
    note = f"minires {' '.join(sys.argv[1:])}"
    if not args.depth and args.arch not in ARCHITECTURES:
        model = build(args.arch, part.shape, len(part.classes), seed=args.seed)
        result = measure(model, x, labels)
        return _show(result, plot_gradflow({model.title: result}, note=note), args)
    options = {"seed": args.seed, **common.block_options(args)}
    networks = [resnet(arch, part.shape, len(part.classes), **options).config for arch in args.depth or [args.arch]]
    configs = [replace(c, norm=norm, init=init) for c, norm, init in product(networks, args.bn, args.init)]
    with err.status("one batch forward and back through each network ..."):
        if args.compare == "skip" and len(configs) == 1:
            result = compare_skip(configs[0], x, labels)
            picture = plot_gradflow(result.flows, theory=True, note=note)
        else:
            skips = (True, False) if args.compare == "skip" else (True,)
            result = gradflow_grid([replace(c, skip=skip) for c, skip in product(configs, skips)], x, labels)
            picture = plot_gradflow_grid(result, note=note)
    return _show(result, picture, args)


def _show(result, picture, args) -> int:
    from minires.instruments.plots import save_picture

    save_picture(picture, Path(args.out))
    if args.json:
        print_json(result.as_dict())
    else:
        out.print(result.table())
        out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def _several(known: dict):
    """A parser of 'a,b' into the values that `known` has for a and b."""

    def parse(text: str) -> list:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no such choice: {', '.join(unknown)}: choose from {', '.join(known)}")
        return [known[name] for name in dict.fromkeys(names)]

    return parse


def doctor(args) -> int:
    from minires.instruments.doctor import diagnose, diagnose_files
    from minires.instruments.findings import print_findings

    findings = diagnose_files(args.files) if args.files else diagnose(args.data)
    print_findings(out, findings)
    return int(any(f.status == "fail" for f in findings))


def register(commands, command) -> None:
    p = command(
        commands,
        "summary",
        summary,
        "List a network's layers with shapes, parameters, FLOPs and memory; or predict what training costs here.",
        "minires summary resnet50 --input 64x64x3 --classes 6 --cost --batch-size 32",
    )
    common.add_architecture(p)
    p.add_argument("--classes", type=int, default=6, metavar="K", help="default: %(default)s")
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="for memory and cost (default: %(default)s)")
    p.add_argument("--cost", action="store_true", help="predict time and memory from a probe of two seconds instead")
    p.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="for --cost (default: %(default)s)")
    p.add_argument("--json", action="store_true")

    p = command(
        commands,
        "gradflow",
        gradflow,
        "Compare how the gradient flows back with and without skips, BN, He weights: one batch, a table and a picture.",
        "minires gradflow --arch resnet50 --bn on,off --init he,glorot --out grid.png",
    )
    common.add_data(p, "builtin")
    common.add_network(p, regime=False)
    cifar = (name.removeprefix("resnet") for name, a in ARCHITECTURES.items() if a.stem == "cifar")
    depths = {number: f"resnet{number}" for number in cifar if number.isdigit()}
    p.add_argument(
        "--compare",
        default="skip",
        choices=("skip", "none"),
        help="skip (default): beside each network its plain twin, without skips; none: no twins",
    )
    switch, weights = _several({"on": True, "off": False}), _several({name: name for name in INITIALISERS})
    p.add_argument("--bn", type=switch, default=[True], metavar="on,off", help="batch normalisation (default: on)")
    p.add_argument("--init", type=weights, default=["he"], metavar="he,glorot", help="initial weights (default: he)")
    p.add_argument(
        "--depth",
        type=_several(depths),
        metavar="N,N",
        help=f"CIFAR networks instead of --arch, on images of 32 pixels unless --size: {', '.join(depths)}",
    )
    p.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    common.add_picture(p, "gradflow.png")
    p.add_argument("--json", action="store_true")

    p = command(
        commands,
        "doctor",
        doctor,
        "Check the environment, the GPU and data; or files alone: whole, damaged, or of others. Each with its fix.",
        "minires doctor --data photos/; minires doctor runs/photos resnet50.safetensors",
    )
    p.add_argument("files", nargs="*", metavar="FILE", help="verify these checkpoints, weights, data files or pictures")
    p.add_argument("--data", metavar="DATA", help="also look at this data set")
