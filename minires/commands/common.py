"""What the commands share: the options that come again."""

import argparse

from minires.backend import choose_device
from minires.console import err
from minires.errors import ConfigError
from minires.nn import ARCHITECTURES, VARIANTS, build, resnet
from minires.nn.network import registered


def image_size(text: str) -> tuple[int, int, int]:
    """'64x64x3' or '64' -> (64, 64, 3)."""
    parts = text.lower().split("x")
    if not all(p.isdigit() and int(p) > 0 for p in parts) or len(parts) > 3:
        raise argparse.ArgumentTypeError(f"expected a size such as 64 or 64x64x3, got {text!r}")
    numbers = [int(p) for p in parts]
    return (numbers[0], numbers[0], 3) if len(numbers) == 1 else (*numbers, 3)[:3]


def picture(text: str) -> str:
    """An argument type: the name of a picture to write, told to be one before anything is computed."""
    from minires.instruments.style import picture_kind

    try:
        picture_kind(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_picture(p, name: str, help: str = "PNG, SVG or PDF by its ending; default: %(default)s") -> None:
    """--out, where the picture goes."""
    p.add_argument("--out", default=name, type=picture, metavar="PICTURE", help=help)


def network_name(text: str) -> str:
    """An argument type: an architecture's name, or FILE.py:FUNCTION, which is loaded and known from then on."""
    if text in ARCHITECTURES:
        return text
    if ":" not in text:
        raise argparse.ArgumentTypeError(
            f"unknown network {text!r}: choose {', '.join(ARCHITECTURES)} or FILE.py:FUNCTION"
        )
    return own_network(text)


def own_network(text: str) -> str:
    """An argument type: FILE.py:FUNCTION, a network of one's own, which is loaded and known from then on."""
    try:
        return registered(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_own(p):
    """--arch of a command that loads runs: they bring no code along."""
    text = "what builds a run's network, where that is one of your own"
    p.add_argument("--arch", dest="own", type=own_network, metavar="FILE.py:FUNCTION", help=text)


def add_architecture(p, **options):
    """ARCH, --input and the options of `add_network`: a network by name. options: those of the argument ARCH."""
    text = f"{', '.join(ARCHITECTURES)}, or your own: FILE.py:FUNCTION"
    p.add_argument("arch", type=network_name, metavar="ARCH", help=text, **options)
    p.add_argument("--input", type=image_size, default=(64, 64, 3), metavar="HxWxC", help="default: 64x64x3")
    add_network(p, arch_option=False)


def add_network(p, arch_option=True, regime=True):
    """The options that define a network; `network_options` reads them. regime: skips, BN and weights among them."""
    if arch_option:
        text = "a name, or your own: FILE.py:FUNCTION (default: %(default)s)"
        p.add_argument("--arch", default="resnet50", type=network_name, metavar="NAME", help=text)
    conventions = "conventions: course (Keras notebook), v1, v2 (keras.applications), v1.5 (torchvision), keras-example"
    p.add_argument("--variant", choices=VARIANTS, help=conventions)
    p.add_argument("--preact", action="store_true", help="BN and ReLU before each convolution")
    text = "where shapes change: B, a projection (default); A, no parameters: subsampling and channels of zeros"
    p.add_argument("--shortcut", default="B", choices=("A", "B"), help=text)
    if not regime:
        return
    p.add_argument("--no-skip", action="store_true", help="the plain twin: the same network without shortcuts")
    p.add_argument("--no-bn", action="store_true", help="no batch normalisation")
    p.add_argument("--init", default="he", choices=("he", "glorot"), help="initial weights (default: %(default)s)")


def note_network(p, *more):
    """After `add_network` and further options that define a network: what they are where nobody names one."""
    names = ("arch", "variant", "preact", "shortcut", "no_skip", "no_bn", "init", *more)
    p.set_defaults(unnamed={name: p.get_default(name) for name in names})


def network_is_named(args) -> str:
    """The first option that was given of those that define the network, as typed; "" where none was."""
    given = (name for name, usual in args.unnamed.items() if getattr(args, name) != usual)
    return next((f"--{name.replace('_', '-')}" for name in given), "")


def add_preprocess(p):
    """--preprocess, for weights of others."""
    p.add_argument(
        "--preprocess",
        choices=("unit", "imagenet", "caffe", "tf"),
        help="how images are prepared where the weights do not say it: unit (image / 255; usual for course), imagenet "
        "(torchvision's mean and deviation; usual for v1.5), caffe (mean subtracted, BGR; usual for v1), tf (from -1 "
        "to 1; usual for v2)",
    )


def make_network(args, shape, classes: int, **options):
    """The network that the options describe; options: further ones, of which a network of one's own takes the seed."""
    if args.arch in ARCHITECTURES:
        return resnet(args.arch, shape, classes, **network_options(args), **options)
    usual = {"variant": None, "preact": False, "shortcut": "B", "no_skip": False, "no_bn": False, "init": "he"}
    if given := [name for name in usual if getattr(args, name, usual[name]) != usual[name]]:
        raise ConfigError(
            f"--{given[0].replace('_', '-')}: for the networks that have names: {args.arch} decides that itself"
        )
    return build(args.arch, shape, classes, seed=options.get("seed", 0))


def network_options(args) -> dict:
    """The options of `minires.nn.resnet` that the user chose."""
    return {"skip": not args.no_skip, "norm": not args.no_bn, "init": args.init} | block_options(args)


def block_options(args) -> dict:
    """Those that say how blocks are made; a variant where the user chose one: each network has its own default."""
    options = {"preact": args.preact, "shortcut": args.shortcut}
    return options | ({"variant": args.variant} if args.variant else {})


def add_data(p, default):
    """The options that say which images to use; `source` reads them."""
    text = (
        "builtin, a folder of images, a table (.csv), tars, HDF5, CIFAR, idx, .npz, .npy, .mat (default: %(default)s)"
    )
    p.add_argument("--data", default=default, metavar="DATA", help=text if default else text.rpartition(" (")[0])
    p.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="resize the images to this side (default: as stored; image files to 64)",
    )
    p.add_argument("--split-seed", type=int, default=0, help="how a folder is split into train and test (default: 0)")
    p.add_argument("--test-fraction", type=float, default=0.15, help="share of a folder for the test (default: 0.15)")


def add_device(p):
    """--device; `device` reads it."""
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"), help="default: %(default)s")


def device(args) -> str:
    """'cpu' or 'gpu'; a GPU is named on stderr. Why there is none, `minires doctor` says, and --device gpu fails."""
    chosen, reason = choose_device(args.device)
    if chosen == "gpu":
        err.print(f"device: gpu ({reason})", style="dim")
    return chosen


def parts(source, console=err):
    """All parts of a DataSource; says what was taken for what."""
    return told(source.parts(), console)


def told(parts, console=err):
    """`parts`, after it was said what was taken for what."""
    for line in parts.notes:
        console.print(line, style="dim")
    return parts


def source(args):
    """The DataSource that the options of `add_data` describe."""
    from minires.run import DataSource

    return DataSource(
        args.data or "builtin", args.size, args.split_seed, args.test_fraction, getattr(args, "flip", None)
    )


def classifier(args):
    """The network of the run or file RUN, on the device that was asked for."""
    from minires.train import load_classifier

    found = load_classifier(args.run_folder, best=args.best)
    found.model.to(device(args))
    return found


def add_by_layers(p):
    """--by-layers."""
    text = "run exactly the layers, one after the other: nothing fused or folded"
    p.add_argument("--by-layers", action="store_true", help=text)
