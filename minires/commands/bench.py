"""bench: how fast minires is, beside its peers and beside what the machine allows. The work is in benchmarks/."""

import argparse

from minires.commands import common

EXPLAIN = """\
Every contender lives in a process of its own and they take turns, so that a slow minute of the machine falls on all;
ratios are formed round by round. What else the machine did meanwhile is watched and told. What is fair about it:
benchmarks/README.md."""


def step(args) -> int:
    from minires.benchmarks import bench_step

    return _run(bench_step, args)


def ops(args) -> int:
    from minires.benchmarks import bench_ops

    return _run(bench_ops, args)


def _run(module, args) -> int:
    module.run(vars(args))
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _some_of(known):
    """An argument type: names of `known`, separated by commas."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: choose from {', '.join(known)}")
        return chosen

    return names


def _add_network(p) -> None:
    p.add_argument("--arch", default="resnet50", choices=common.ARCHITECTURES, metavar="NAME", help="default: resnet50")
    p.add_argument("--batch", type=_positive, default=32, metavar="N", help="images (default: 32)")
    p.add_argument("--size", type=_positive, default=64, metavar="PIXELS", help="side of an image (default: 64)")


def _add_common(p) -> None:
    text = "threads of every contender (default: each library's own choice)"
    p.add_argument("--threads", type=_positive, metavar="N", help=text)
    p.add_argument("--json", metavar="FILE.jsonl", help="append every number, one JSON object a line")


def register(commands, command) -> None:

    bench = commands.add_parser(
        "bench", help="Measure speed and memory, against peers and against the machine's limits.", description=EXPLAIN
    ).add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)

    p = command(
        bench,
        "step",
        step,
        "A training step and an inference of a whole network, against every peer that is installed.",
        "minires bench step --arch resnet20 --size 32 --peers ours,torch,torch_channels_last",
    )
    _add_network(p)
    p.add_argument("--steps", type=_positive, default=20, metavar="N", help="turns of each (default: 20)")
    p.add_argument("--warmup", type=_positive, default=3, metavar="N", help="turns before the clock runs (default: 3)")
    p.add_argument("--seconds", type=float, metavar="S", help="no further round once so much time has passed")
    known = ("ours", "plain", "textbook", "torch", "torch_channels_last", "torch_compile", "keras")
    usual = [name for name in known if name != "torch_compile"]
    text = f"which contenders: {', '.join(known)} (default: all but torch_compile, which compiles for minutes)"
    p.add_argument("--peers", type=_some_of(known), default=usual, metavar="A,B", help=text)
    p.add_argument(
        "--tasks", type=_some_of(("training", "inference")), default=["training", "inference"], metavar="A,B"
    )
    p.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="default: %(default)s")
    _add_common(p)

    p = command(bench, "ops", ops, "Op by op at the shapes of the course's ResNet-50.", "minires bench ops --batch 8")
    p.add_argument("--batch", type=_positive, default=32, metavar="N", help="images (default: 32)")
    p.add_argument("--size", type=_positive, default=64, metavar="PIXELS", help="side of an image (default: 64)")
    p.add_argument("--rounds", type=_positive, default=7, metavar="N", help="turns of each op (default: 7)")
    sweeps = p.add_mutually_exclusive_group()
    sweeps.add_argument("--chunks", action="store_true", help="sweep minires.backend.CHUNK over the batch norms")
    sweeps.add_argument("--workspace", action="store_true", help="sweep MAX_WORKSPACE over the k x k convolutions")
    _add_common(p)
