"""weights import, export, compare."""

from dataclasses import asdict
from pathlib import Path

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import ConfigError, DataError


def import_(args) -> int:
    from minires.train.checkpoint import save_checkpoint
    from minires.weights import import_classifier, read_use

    target = _output(args)
    named = {"preprocess": args.preprocess, "classes": args.names and args.names.split(",")}
    use = read_use(args.file)
    model = None
    if use is None or use.config is None or common.network_is_named(args):
        model = common.make_network(args, args.input, args.classes)
    classifier, report = import_classifier(args.file, model, skip_head=args.skip_head, **named)
    save_checkpoint(target, classifier)
    if args.json:
        told = {"classes": classifier.classes, **asdict(classifier.preprocess), "checkpoint": target}
        print_json(report.as_dict() | told)
    else:
        out.print(f"{report}\nwrote {target}")
    return 0


def export(args) -> int:
    from minires.train import load_classifier
    from minires.weights import export_weights

    target = _output(args)
    classifier = load_classifier(args.run_folder, best=args.best)
    export_weights(classifier, target)
    mean, std = classifier.preprocess.mean, classifier.preprocess.std
    if args.json:
        print_json({"file": target, "classes": classifier.classes, "mean": mean, "std": std})
    else:
        out.print(f"wrote {target}, with its classes and preprocessing: it expects (image / 255 - {mean}) / {std}")
    return 0


def _output(args) -> str:
    """The file to write, of `--out FILE` or of the last position."""
    if bool(args.out) == bool(args.target):
        problem = f"both {args.target} and --out {args.out}" if args.out else "no name"
        raise ConfigError(f"expected one name for the file to write, got {problem}: give --out FILE")
    return args.out or args.target


def _add_output(p, name: str) -> None:
    p.add_argument("target", metavar="OUT", nargs="?", help="the same as --out")
    p.add_argument("--out", metavar=name, help="the file to write")


def compare(args) -> int:
    import numpy as np

    from minires.data import read_image
    from minires.data.kinds import described
    from minires.train import load_classifier
    from minires.weights import compare as measure
    from minires.weights import load_activations

    classifier = load_classifier(args.a)
    model = classifier.model
    shape = model.input_shape
    other = load_activations(Path(args.b)) if args.b.endswith(".npz") else load_classifier(args.b).model
    if args.image:
        x = classifier.preprocess(read_image(args.image, shape[:2])[None], model.dtype)
    elif isinstance(other, dict):
        if "input" not in other:
            what, _ = described(Path(args.b))
            raise DataError(
                f"{args.b}: expected activations, but it is {what}, with no array named 'input': save the network's "
                "input with the activations, or give --image"
            )
        x = other.pop("input").astype(model.dtype)
        if x.shape[1:] != shape:
            raise DataError(f"{args.b}: its input has shape {x.shape}, expected (N, {', '.join(map(str, shape))})")
    else:
        x = np.random.default_rng(0).standard_normal((2, *shape)).astype(model.dtype)
        err.print("input: two images of standard normal noise (give --image for a real one)", style="dim")
    result = measure(model, other, x)
    if args.json:
        print_json(result.as_dict())
    else:
        out.print(result.table())
        out.print(result.verdict(), style="bold")
    return int(result.first is not None)


def register(commands, command) -> None:
    weights = commands.add_parser(
        "weights", help="Exchange weights with Keras, PyTorch and ONNX, and find where two networks part."
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)

    text = (
        "Turn weights of Keras (.h5, .weights.h5, .keras), PyTorch (.pth, .bin, .safetensors, .npz), ONNX or of "
        "`weights export` into a checkpoint. The latter say what they are of; name the network of all others."
    )
    example = "minires weights import resnet50.safetensors --variant v1.5 --input 224 --classes 1000 --out resnet50.h5"
    p = command(weights, "import", import_, text, example)
    p.add_argument("file", metavar="FILE")
    common.add_network(p)
    p.add_argument("--input", type=common.image_size, default=(64, 64, 3), metavar="HxWxC", help="default: 64x64x3")
    p.add_argument("--classes", type=int, default=6, metavar="K", help="default: %(default)s")
    common.note_network(p, "input", "classes")
    text = "the classes' names, in the order of the file's outputs (default: those that it says, else numbers)"
    p.add_argument("--names", metavar="NAME,NAME,...", help=text)
    text = "load all but the classifier, which starts afresh: for a file with other classes"
    p.add_argument("--skip-head", action="store_true", help=text)
    common.add_preprocess(p)
    _add_output(p, "MODEL.h5")
    p.add_argument("--json", action="store_true")

    text = "Write a run's weights for Keras 3 (.weights.h5), PyTorch (.safetensors, .npz, .pth) or ONNX (.onnx)."
    p = command(weights, "export", export, text, "minires weights export runs/photos --out photos.onnx")
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    common.add_own(p)
    _add_output(p, "FILE")
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")

    text = "Hold two networks against each other, layer by layer, and name the first that diverges and why."
    p = command(weights, "compare", compare, text, "minires weights compare runs/photos torch_activations.npz")
    p.add_argument("a", metavar="A", help="a run's folder or a checkpoint file")
    p.add_argument("b", metavar="B", help="another one, or a .npz of activations by layer name (with 'input')")
    common.add_own(p)
    p.add_argument("--image", metavar="FILE", help="compare on this image instead of noise or the saved input")
    p.add_argument("--json", action="store_true")
