"""gradcheck, audit, bn-doctor. Exit status 1 where a fault is found."""

import argparse
import sys
from pathlib import Path

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import CheckpointError, ConfigError
from minires.nn import build, resnet

TARGETS = ("conv2d", "batchnorm", "relu", "maxpool", "avgpool", "dense", "loss", "block", "resnet8", "resnet50", "all")


def _examples() -> dict:
    """Name -> (what to check, its input) for everything but the whole networks."""
    import numpy as np

    from minires import nn, ops

    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((4, 9, 7, 3)), rng.integers(0, 6, 4)

    def cross_entropy(logits):
        return ops.softmax_cross_entropy_forward(logits, labels)[0]

    def cross_entropy_backward(dloss, logits):
        return dloss * ops.softmax_cross_entropy_backward(ops.softmax_cross_entropy_forward(logits, labels)[1], labels)

    return {
        "conv2d": (nn.Conv2d("conv2d", 3, 5, 3, stride=2, pad=1, bias=True), x),
        "batchnorm": (nn.BatchNorm("batchnorm", 3), x),
        "relu": (nn.ReLU("relu"), x),
        "maxpool": (nn.MaxPool2d("maxpool", 3, 2, 1), x),
        "avgpool": (nn.AvgPool2d("avgpool", 2), x),
        "dense": (nn.Dense("dense", 12, 6), rng.standard_normal((4, 12))),
        "loss": ((cross_entropy, cross_entropy_backward), rng.standard_normal((4, 6))),
        "block": (resnet("resnet50", widths=(4, 6, 8, 10)).blocks()[3], rng.standard_normal((3, 8, 8, 16))),
    }


def _target(text: str) -> str:
    """An argument type: what there is to check, or FILE.py:FUNCTION."""
    if text not in TARGETS and ":" not in text:
        raise argparse.ArgumentTypeError(
            f"nothing is called {text!r}: choose of {', '.join(TARGETS)}, FILE.py:FUNCTION"
        )
    return text if text in TARGETS else common.own_network(text)


def gradcheck(args) -> int:
    from minires.instruments.findings import print_findings
    from minires.instruments.gradcheck import gradcheck as check
    from minires.instruments.gradcheck import gradcheck_model

    names = TARGETS[:-1] if args.target == "all" else (args.target,)
    if args.sweep:
        return _sweep(args, names)
    examples, reports = _examples(), {}
    for name in names:
        target, x = examples.get(name, (None, None))
        options = {} if args.epsilon is None else {"epsilon": args.epsilon}
        if target is None:
            err.print(f"{name}: along a direction for every tensor, then layer by layer ...", style="dim")
            network = name if name in TARGETS else build(name, (16, 16, 3), 6)
            reports[name] = gradcheck_model(network, **options)
        else:
            reports[name] = check(target, x, title=name, **options)
        if not args.json:
            report = reports[name]
            if len(names) == 1:
                out.print(report.table())
            else:
                verdict = "right" if report.ok else "WRONG"
                out.print(f"{name:10} {verdict}   worst relative error {report.worst:.1e}")
            print_findings(out, report.findings) if report.findings else None
    if args.json:
        print_json({name: report.as_dict() for name, report in reports.items()})
    return int(not all(report.ok for report in reports.values()))


def _sweep(args, names) -> int:
    import numpy as np

    from minires.instruments.gradcheck import epsilon_sweep
    from minires.instruments.plots import plot_epsilon_sweep, save_picture

    if not set(names) <= set(TARGETS) or "resnet50" in names:
        raise ConfigError(f"gradcheck --sweep: {args.target} takes hours: choose one of {', '.join(TARGETS[:-2])}")
    if names == ("resnet8",):
        x = np.random.default_rng(0).standard_normal((2, 16, 16, 3))
        target = resnet("resnet8", (16, 16, 3))
    else:
        target, x = _examples()[names[0]]
    sweeps = {
        kind: epsilon_sweep(target, x.astype(kind), dtype=getattr(np, kind), title=names[0])
        for kind in ("float64", "float32")
    }
    save_picture(plot_epsilon_sweep(sweeps, note=f"minires {' '.join(sys.argv[1:])}"), Path(args.out))
    if args.json:
        print_json({kind: sweep.as_dict() for kind, sweep in sweeps.items()})
        return 0
    for kind, sweep in sweeps.items():
        best = min(sweep.rows, key=lambda row: row["error"])
        out.print(f"{names[0]} in {kind}: smallest error {best['error']:.1e} at epsilon {best['epsilon']:.1e}")
    out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def audit(args) -> int:
    from minires.instruments.audit import audit as examine
    from minires.instruments.findings import print_findings

    if (args.arch is None) == (args.run_folder is None):
        raise ConfigError("audit: give the name of an architecture, or a trained network with --run RUN")
    if args.run_folder:
        from minires.train import load_classifier

        model = load_classifier(args.run_folder).model
    else:
        model = common.make_network(args, args.input, 6)
    report = examine(model)
    if args.json:
        print_json(report.as_dict())
    else:
        out.print(report.table())
        if report.differences:
            out.print(report.reference_table())
        print_findings(out, report.findings) if report.findings else out.print("no fault found")
    return int(not report.ok)


def bn_doctor(args) -> int:
    from minires import run
    from minires.instruments.bn_doctor import bn_doctor as examine
    from minires.instruments.bn_doctor import inputs, recalibrate
    from minires.instruments.findings import print_findings
    from minires.train.checkpoint import load_checkpoint, save_checkpoint

    path = Path(args.run_folder)
    checkpoint = load_checkpoint(path / "model.h5" if path.is_dir() else path)
    classifier = checkpoint.classifier
    classifier.model.to(common.device(args))
    if args.data is None:
        source = run.data_source(args.run_folder)
    else:
        args.size = args.size or classifier.model.input_shape[0]
        source = common.source(args)
    with err.status("reading the images, and evaluating three times ..."):
        parts = common.parts(source)
        train, test = parts.train, parts.test
        dataset = train if test is None else test
        found = examine(classifier, dataset, train=train, updates=checkpoint.training.get("steps"))
    if args.json:
        print_json(found.as_dict())
    else:
        out.print(found.table())
        print_findings(out, [found.finding])
    if args.recalibrate:
        if train is None:
            raise CheckpointError("bn-doctor: --recalibrate needs the training images: give them with --data")
        recalibrate(classifier.model, inputs(classifier, train))
        save_checkpoint(Path(args.recalibrate), classifier)
        err.print(f"wrote {args.recalibrate}: the same weights with statistics of the training images")
    return int(not found.ok)


def register(commands, command) -> None:
    p = command(
        commands,
        "gradcheck",
        gradcheck,
        "Check gradients against central differences, in float64, and name the cause of what is wrong.",
        "minires gradcheck block; minires gradcheck relu --sweep --out curve.png",
    )
    text = f"{', '.join(TARGETS)}, or a network of your own: FILE.py:FUNCTION"
    p.add_argument("target", nargs="?", default="all", type=_target, metavar="WHAT", help=text)
    p.add_argument(
        "--epsilon", type=float, metavar="X", help="half-width of the difference (default: 1e-6; whole networks 1e-7)"
    )
    p.add_argument("--sweep", action="store_true", help="draw the error against epsilon in place of one check")
    common.add_picture(p, "gradcheck.png", "of --sweep: PNG, SVG or PDF by its ending; default: %(default)s")
    p.add_argument("--json", action="store_true")

    p = command(
        commands,
        "audit",
        audit,
        "Prove that the shortcuts, gradients and parameters of a network do what they should.",
        "minires audit resnet50 --variant v1.5",
    )
    common.add_architecture(p, nargs="?")
    p.add_argument("--run", dest="run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    common.add_own(p)
    p.add_argument("--json", action="store_true")

    p = command(
        commands,
        "bn-doctor",
        bn_doctor,
        "Find out whether batch normalisation's running statistics spoil a trained network, and mend them.",
        "minires bn-doctor runs/photos --recalibrate mended.h5",
    )
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    common.add_own(p)
    common.add_data(p, None)
    p.add_argument("--recalibrate", metavar="OUT.h5", help="write the network with statistics estimated anew")
    p.add_argument("--json", action="store_true")
    common.add_device(p)
