"""bench: how fast minires is, beside its peers and beside what the machine allows. The work is in benchmarks/."""

import argparse
import importlib
from pathlib import Path

from minires.commands import common
from minires.console import err, out
from minires.errors import ConfigError, DataError

EXPLAIN = """\
Without a name: an overview in about three minutes. The machine's limits (matrix products, memory),
training steps and inferences of the course's ResNet-50 and of ResNet-20, against PyTorch, Keras,
onnxruntime and the textbook's NumPy where they are installed, and how long training waits for data.

Every contender lives in a process of its own and they take turns, so that a slow minute of the
machine falls on all; ratios are formed round by round. What else the machine did meanwhile is
watched and told. "x floor" is the time over what the machine's limits allow: the matrix products
at the measured peak, or the bytes at the measured bandwidth. What is fair: benchmarks/README.md."""


def _run(name: str, in_turns=False):
    """The command that hands the parsed arguments to the `run` of a module of benchmarks/.

    in_turns: its contenders are processes that can be held to an instruction set.
    """

    def run(args) -> int:
        if args.isa != "default" and not in_turns:
            raise ConfigError("--isa is for step, scaling, breakdown and the overview")
        _check_output(args)
        options = {key: value for key, value in vars(args).items() if key != "run"}
        records = importlib.import_module(f"minires.benchmarks.{name}").run(options)
        _draw(records, args.out)
        return 0

    return run


def table(args) -> int:
    from minires.benchmarks import tables

    records = [record for path in args.files for record in tables.read(path)]
    _check_output(args)
    out.print(tables.brief(records) if args.brief else tables.markdown(records))
    _draw(records, args.out)
    return 0


def _check_output(args) -> None:
    """Minutes of measuring must not end at a file that cannot be written."""
    try:
        if args.json:
            with open(args.json, "a", encoding="utf-8"):
                pass
        if args.out:
            Path(args.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be written ({error.strerror}): choose another place") from None


def _draw(records, folder) -> None:
    if folder:
        from minires.benchmarks import plots

        for path in plots.draw(records, folder):
            err.print(f"picture: {path}")


def _some_of(known):
    """An argument type: names of `known`, separated by commas."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: choose from {', '.join(known)}")
        return chosen

    return names


def _numbers(kind):
    """An argument type: numbers, separated by commas."""

    def numbers(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers, such as 1,2, not {text!r}") from None

    return numbers


def _add_network(p, arch="resnet50") -> None:
    text = "default: %(default)s"
    p.add_argument("--arch", default=arch, choices=common.ARCHITECTURES, metavar="NAME", help=text)
    p.add_argument("--batch", type=int, default=32, metavar="N", help="images (default: %(default)s)")
    p.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of an image (default: 64)")


def _add_common(p, **default) -> None:
    text = "threads of every contender (default: each library's own choice)"
    p.add_argument("--threads", type=int, metavar="N", help=text, **default)
    p.add_argument("--json", metavar="FILE.jsonl", help="append every number, one JSON object a line", **default)
    p.add_argument("--out", metavar="DIR", help="draw pictures into this folder", **default)


def _add_isa(p, default=argparse.SUPPRESS) -> None:
    from minires.benchmarks.isa import CHOICES

    text = "hold every contender to these instructions (default: each library's own choice)"
    p.add_argument("--isa", choices=CHOICES, help=text, default=default)


def register(commands, command) -> None:
    from minires.benchmarks.contenders import CONTENDERS, OURS, TASKS, USUAL
    from minires.benchmarks.scaling import AXES

    bench = commands.add_parser(
        "bench",
        help="Measure speed and memory, against peers and against the machine's limits.",
        description=EXPLAIN,
        epilog="example: minires bench --json results.jsonl --out pictures/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.set_defaults(run=_run("overview", in_turns=True))
    _add_common(bench)
    _add_isa(bench, default="default")
    kinds = bench.add_subparsers(title="one thing at length", metavar="BENCHMARK")

    p = command(
        kinds,
        "step",
        _run("bench_step", in_turns=True),
        "A training step and an inference of a whole network, against every peer that is installed.",
        "minires bench step --arch resnet20 --size 32 --peers ours,torch,torch_channels_last",
    )
    _add_network(p)
    p.add_argument("--steps", type=int, default=20, metavar="N", help="turns of each (default: 20)")
    p.add_argument("--warmup", type=int, default=3, metavar="N", help="turns before the clock runs (default: 3)")
    p.add_argument("--seconds", type=float, metavar="S", help="no further round once so much time has passed")
    text = f"which of {', '.join(CONTENDERS)} (default: all but torch_compile, which compiles for minutes)"
    p.add_argument("--peers", type=_some_of(CONTENDERS), default=USUAL, metavar="A,B", help=text)
    p.add_argument("--tasks", type=_some_of(TASKS), default=TASKS, metavar="A,B", help=f"default: {','.join(TASKS)}")
    p.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="default: %(default)s")
    _add_common(p, default=argparse.SUPPRESS)
    _add_isa(p)

    p = command(
        kinds,
        "ops",
        _run("bench_ops"),
        "Op by op at the shapes of the course's ResNet-50.",
        "minires bench ops --batch 8",
    )
    p.add_argument("--batch", type=int, default=32, metavar="N", help="images (default: 32)")
    p.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of an image (default: 64)")
    p.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each op (default: 7)")
    sweeps = p.add_mutually_exclusive_group()
    sweeps.add_argument("--chunks", action="store_true", help="sweep minires.backend.CHUNK over the batch norms")
    sweeps.add_argument("--workspace", action="store_true", help="sweep MAX_WORKSPACE over the k x k convolutions")
    _add_common(p, default=argparse.SUPPRESS)

    p = command(
        kinds,
        "algorithms",
        _run("bench_algorithms"),
        "The algorithms that a convolution chooses from; products beside the BLAS's.",
        "minires bench algorithms --rounds 15",
    )
    p.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each way (default: 7)")
    _add_common(p, default=argparse.SUPPRESS)

    p = command(
        kinds,
        "scaling",
        _run("scaling", in_turns=True),
        "How time and peak memory of a training step grow, beside PyTorch's better layout.",
        "minires bench scaling --axes batch,threads --out pictures/",
    )
    text = f"which of {', '.join(AXES)} (default: all)"
    p.add_argument("--axes", type=_some_of(AXES), default=list(AXES), metavar="A,B", help=text)
    p.add_argument("--rounds", type=int, default=7, metavar="N", help="turns at a point (default: 7)")
    p.add_argument("--seconds", type=float, default=6.0, metavar="S", help="or so long at a point (default: 6)")
    _add_common(p, default=argparse.SUPPRESS)
    _add_isa(p)

    p = command(
        kinds,
        "scale-out",
        _run("scale_out"),
        "A training step by ranks of MPI: strong and weak scaling, communication, and a model of many hosts.",
        "minires bench scale-out --ranks 1,2 --gbit 0.2,0.5,1 --out pictures/",
    )
    _add_network(p, "resnet18")
    text = "how many take turns (default: 1,2)"
    p.add_argument("--ranks", type=_numbers(int), default=[1, 2], metavar="N,N", help=text)
    text = "as root: also hosts that are network namespaces, with links of such Gbit/s, to check the model against"
    p.add_argument("--gbit", type=_numbers(float), default=[], metavar="X,X", help=text)
    p.add_argument("--buckets", action="store_true", help="between hosts, also sweep minires.fast.buckets.BUCKET")
    p.add_argument("--steps", type=int, default=5, metavar="N", help="steps of each in a round (default: 5)")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="jobs of each number of ranks (default: 3)")
    _add_common(p, default=argparse.SUPPRESS)

    p = command(
        kinds,
        "breakdown",
        _run("breakdown", in_turns=True),
        "Where the time of a training step goes, op by op, and each op's place below the machine's limits.",
        "minires bench breakdown --arch resnet20 --size 32 --out pictures/",
    )
    _add_network(p)
    p.add_argument("--steps", type=int, default=9, metavar="N", help="steps (default: 9)")
    p.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="default: %(default)s")
    text = "ours: compiled; numpy: the same without; plain: layer by layer (default: %(default)s)"
    p.add_argument("--contender", choices=OURS, default="ours", help=text)
    _add_common(p, default=argparse.SUPPRESS)
    _add_isa(p)

    text = "The share of a training run that waits for the next batch of images."
    p = command(kinds, "waiting", _run("waiting"), text, "minires bench waiting")
    p.add_argument("--images", type=int, default=1080, metavar="N", help="built-in signs (default: 1080)")
    _add_common(p, default=argparse.SUPPRESS)

    text = "Data larger than memory: peak memory, images a second and waiting, by the number of images."
    p = command(kinds, "large-data", _run("large_data"), text, "minires bench large-data --images 50000 1000000")
    text = "training images, one or several numbers (default: 50000)"
    p.add_argument("--images", type=int, nargs="+", default=[50_000], metavar="N", help=text)
    _add_network(p)
    p.set_defaults(arch="resnet8", batch=128)
    p.add_argument("--steps", type=int, default=300, metavar="N", help="steps of training (default: 300)")
    p.add_argument(
        "--folder", metavar="DIR", help="where the files are made and kept (default: made anew, and removed)"
    )
    _add_common(p, default=argparse.SUPPRESS)

    p = command(
        kinds,
        "gpu-vs-cpu",
        _run("gpu_vs_cpu"),
        "Training step and inference on GPU and CPU by batch and image size, against PyTorch and the card's limits.",
        "minires bench gpu-vs-cpu --seconds 200 --json gpu.jsonl --out pictures/",
    )
    text = "the part of one alone (default: both; without a GPU the CPU's)"
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"), help=text)
    text = "start nothing after so long; the most important comes first (default: 200)"
    p.add_argument("--seconds", type=float, default=200.0, metavar="S", help=text)
    p.add_argument("--quick", action="store_true", help="two networks at one size each")
    p.add_argument("--resume", action="store_true", help="only the cases for which --json FILE.jsonl lacks a time")
    _add_common(p, default=argparse.SUPPRESS)

    text = "Markdown tables, and pictures, from what --json wrote."
    p = command(kinds, "table", table, text, "minires bench table results.jsonl --out pictures/")
    p.add_argument("files", metavar="FILE.jsonl", nargs="+")
    p.add_argument("--brief", action="store_true", help="one row a network and batch, its last measurement")
    p.add_argument("--out", metavar="DIR", help="draw pictures into this folder", default=argparse.SUPPRESS)
