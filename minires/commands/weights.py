"""weights import, export, compare."""

from pathlib import Path

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import DataError
from minires.nn import resnet

# how each world prepares its images, as (mean, std) of image / 255
PREPROCESS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
USUAL = {"course": "unit", "v1": "caffe", "v1.5": "imagenet"}


def import_(args) -> int:
    from minires.train import Classifier, Preprocess
    from minires.train.checkpoint import save_checkpoint
    from minires.weights import import_weights

    model = resnet(args.arch, args.input, args.classes, **common.network_options(args))
    report = import_weights(model, args.file, skip_head=args.skip_head)
    usual = args.preprocess or USUAL[model.config.variant]
    note = f"images will be prepared as '{usual}'"
    if usual == "caffe":
        stem = model.layers[0].layers
        kernel = next(m for m in stem if hasattr(m, "w")).w.data
        kernel[...] = kernel[:, :, ::-1].copy()
        note += "; those weights expect BGR, so the first kernel's input channels were turned round for RGB"
    classifier = Classifier(
        model,
        tuple(map(str, range(args.classes))),
        Preprocess(*(numbers[: args.input[2]] for numbers in PREPROCESS[usual])),
    )
    save_checkpoint(args.out, classifier)
    if args.json:
        print_json({**report.as_dict(), "preprocess": usual, "checkpoint": args.out})
    else:
        out.print(f"{report}\n{note}\nwrote {args.out}")
    return 0


def export(args) -> int:
    from minires.train import load_classifier
    from minires.weights import export_weights

    classifier = load_classifier(args.run_folder, best=args.best)
    export_weights(classifier.model, args.file)
    if args.json:
        mean, std = classifier.preprocess.mean, classifier.preprocess.std
        print_json({"file": args.file, "classes": classifier.classes, "mean": mean, "std": std})
    else:
        out.print(
            f"wrote {args.file}; it expects (image / 255 - {classifier.preprocess.mean}) / {classifier.preprocess.std}"
        )
    return 0


def compare(args) -> int:
    import numpy as np

    from minires.data import read_image
    from minires.train import load_classifier
    from minires.weights import compare as measure
    from minires.weights import load_activations

    classifier = load_classifier(args.a)
    model = classifier.model
    shape = model.config.input_shape
    other = load_activations(Path(args.b)) if args.b.endswith(".npz") else load_classifier(args.b).model
    if args.image:
        x = classifier.preprocess(read_image(args.image, shape[:2])[None], model.dtype)
    elif isinstance(other, dict):
        if "input" not in other:
            raise DataError(
                f"{args.b}: no array named 'input': save the network's input with the activations, or give --image"
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

    text = "Turn weights of Keras (.h5, .weights.h5, .keras) or PyTorch (.safetensors, .npz, .pth) into a checkpoint."
    example = "minires weights import resnet50.safetensors --variant v1.5 --input 224 --classes 1000 --out resnet50.h5"
    p = command(weights, "import", import_, text, example)
    p.add_argument("file", metavar="FILE")
    common.add_network(p)
    p.add_argument("--input", type=common.image_size, default=(64, 64, 3), metavar="HxWxC", help="default: 64x64x3")
    p.add_argument("--classes", type=int, default=6, metavar="K", help="default: %(default)s")
    p.add_argument("--skip-head", action="store_true", help="load all but the classifier, which starts afresh")
    p.add_argument(
        "--preprocess",
        choices=PREPROCESS,
        help="how predict prepares images: unit (image / 255; usual for course), imagenet (torchvision's mean and "
        "deviation; usual for v1.5), caffe (mean subtracted, BGR; usual for v1)",
    )
    p.add_argument("--out", required=True, metavar="MODEL.h5")
    p.add_argument("--json", action="store_true")

    text = "Write a run's weights for Keras 3 (.weights.h5), PyTorch (.safetensors, .npz) or ONNX (.onnx)."
    p = command(weights, "export", export, text, "minires weights export runs/photos photos.onnx")
    p.add_argument("run_folder", metavar="RUN", help="a run's folder or a checkpoint file")
    p.add_argument("file", metavar="OUT")
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    p.add_argument("--json", action="store_true")

    text = "Hold two networks against each other, layer by layer, and name the first that diverges and why."
    p = command(weights, "compare", compare, text, "minires weights compare runs/photos torch_activations.npz")
    p.add_argument("a", metavar="A", help="a run's folder or a checkpoint file")
    p.add_argument("b", metavar="B", help="another one, or a .npz of activations by layer name (with 'input')")
    p.add_argument("--image", metavar="FILE", help="compare on this image instead of noise or the saved input")
    p.add_argument("--json", action="store_true")
