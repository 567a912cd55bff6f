"""features, kernels, gradcam, occlusion, landscape, diagram."""

import sys
from functools import partial
from pathlib import Path

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import ConfigError, DataError
from minires.nn import ARCHITECTURES, build, resnet


def features(args) -> int:
    from minires.instruments.maps import feature_maps, stage_names
    from minires.instruments.maps.plots import plot_features

    classifier = _classifier(args)
    images, _ = _images(classifier, [args.image] if args.image else [])
    found = feature_maps(classifier, images[0], args.layer or stage_names(classifier.model))
    return _save(plot_features(found, images[0], note=_note()), args)


def kernels(args) -> int:
    import numpy as np

    from minires.instruments.maps import first_kernels, kernel_change
    from minires.instruments.maps.plots import plot_kernels

    model = _classifier(args).model
    weights = first_kernels(model)
    if not args.change:
        return _save(plot_kernels(weights, note=_note()), args)
    change = kernel_change(model)
    share = np.linalg.norm(change) / np.linalg.norm(weights)
    title = f"What training added to the first layer ({share:.1%} of its norm)"
    return _save(plot_kernels(change, title=title, note=_note()), args)


def gradcam(args) -> int:
    from minires.instruments.maps import gradcam as explain
    from minires.instruments.maps.plots import plot_gradcam

    classifier = _classifier(args)
    images, names = _images(classifier, args.images)
    target = _target(args, classifier)
    targets = None if target is None else [target] * len(images)
    found = [explain(classifier, images, layer=layer, targets=targets) for layer in args.layer or [None]]
    numbers = [cam.as_dict(classifier.classes) for cam in found]
    return _save(plot_gradcam(found, images, classifier.classes, names=names, note=_note()), args, numbers)


def occlusion(args) -> int:
    from minires.instruments.maps import occlusion as cover
    from minires.instruments.maps.plots import plot_occlusion

    classifier = _classifier(args)
    images, _ = _images(classifier, [args.image] if args.image else [])
    found = cover(classifier, images[0], patch=args.patch, stride=args.stride, target=_target(args, classifier))
    fig = plot_occlusion(found, images[0], classifier.classes, note=_note())
    return _save(fig, args, found.as_dict(classifier.classes))


def landscape(args) -> int:
    import numpy as np
    from rich.progress import Progress

    from minires import run
    from minires.backend import to_device
    from minires.instruments.landscape import landscape as measure
    from minires.instruments.landscape import plot_landscape
    from minires.train import load_classifier

    device, found = common.device(args), {}
    points = args.points or (15 if args.plane else 21)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        for folder in args.run_folders:
            classifier = load_classifier(folder, best=args.best)
            model = classifier.model.to(device)
            if args.data is None:
                source = run.data_source(folder)
            else:
                args.size = args.size or model.input_shape[0]
                source = common.source(args)
            dataset = getattr(common.told(source.parts(classes=classifier.classes)), args.part)
            if dataset is None or dataset.classes != classifier.classes:
                raise DataError(
                    f"{source.spec}: no {args.part} images of the classes {', '.join(classifier.classes)}: "
                    "give --data of the classes that the network was trained on, or the other --part"
                )
            index = np.random.default_rng(args.seed).permutation(len(dataset))[: args.images]
            x = classifier.preprocess(to_device(dataset.images(index), device), model.dtype)
            task = bar.add_task(folder, total=points ** (1 + args.plane))
            found[folder.rstrip("/")] = measure(
                model,
                x,
                to_device(dataset.labels[index], device),
                plane=args.plane,
                span=args.span,
                points=points,
                seed=args.seed,
                on_point=lambda task=task: bar.advance(task),
            )
    numbers = {label: land.as_dict() for label, land in found.items()}
    return _save(plot_landscape(found, note=_note()), args, numbers)


def diagram(args) -> int:
    from minires.files import write_text
    from minires.instruments.diagram import diagram as lay_out
    from minires.instruments.diagram.drawn import to_figure
    from minires.instruments.diagram.svg import to_svg
    from minires.instruments.style import picture_kind, save_picture

    model = common.make_network(args, args.input, args.classes)
    svg = to_svg(lay_out(model))
    if picture_kind(args.out) == "svg":
        write_text(args.out, svg)  # with its colours for dark pages
    else:
        save_picture(to_figure(svg), args.out)
    out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def _classifier(args):
    """The network of a run; or an untrained one, with the statistics of built-in signs in its batch normalisation."""
    from minires.data import make_signs
    from minires.instruments.bn_doctor import inputs, recalibrate
    from minires.train import Classifier, load_classifier

    device = common.device(args)
    own = ".py:" in args.run_folder
    if not own and (args.run_folder not in ARCHITECTURES or Path(args.run_folder).exists()):
        classifier = load_classifier(args.run_folder, best=args.best)
        classifier.model.to(device)
        return classifier
    signs, _ = make_signs(n_train=24, n_test=6)
    make = partial(build if own else resnet, args.run_folder)
    classifier = Classifier.for_data(make(signs.shape, len(signs.classes)).to(device), signs)
    recalibrate(classifier.model, inputs(classifier, signs))
    return classifier


def _images(classifier, paths):
    """Images of the network's size with their names; where there are no files, a built-in sign of the test part."""
    import numpy as np

    from minires.data import make_signs, read_image
    from minires.data.dataset import Resized

    size = classifier.model.input_shape[:2]
    if paths:
        return np.stack([read_image(path, size) for path in paths]), [Path(path).name for path in paths]
    _, test = make_signs(n_train=6, n_test=6)
    return Resized(test, size).images([4]), ["a built-in sign of 4"]


def _target(args, classifier) -> int | None:
    if args.target is not None and args.target not in classifier.classes:
        known = ", ".join(classifier.classes)
        raise ConfigError(f"--class: the network knows no class {args.target!r}: choose one of {known}")
    return None if args.target is None else classifier.classes.index(args.target)


def _note() -> str:
    return f"minires {' '.join(sys.argv[1:])}"


def _save(fig, args, numbers=None) -> int:
    from minires.instruments.style import save_picture

    save_picture(fig, Path(args.out))
    if numbers is not None and args.json:
        print_json(numbers)
    else:
        out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def register(commands, command) -> None:
    p = command(
        commands,
        "features",
        features,
        "Draw what the stages, or any layers, make of an image.",
        "minires features runs/photos hand.jpg --layer stage3",
    )
    _add_network(p)
    p.add_argument("image", metavar="IMAGE", nargs="?", help="default: a built-in sign")
    p.add_argument("--layer", action="append", metavar="NAME", help="a layer, block or stage (default: every stage)")
    _add_output(p, "features")

    p = command(
        commands,
        "kernels",
        kernels,
        "Draw the kernels of the first convolution.",
        "minires kernels runs/photos --change",
    )
    _add_network(p)
    p.add_argument("--change", action="store_true", help="only what training has added since the initial draw")
    _add_output(p, "kernels")

    p = command(
        commands,
        "gradcam",
        gradcam,
        "Show where in an image the evidence for a class lies (Grad-CAM).",
        "minires gradcam runs/photos hand.jpg other.png --layer stage4 --layer stage5",
    )
    _add_network(p)
    p.add_argument("images", metavar="IMAGE", nargs="*", help="default: a built-in sign")
    p.add_argument("--layer", action="append", metavar="NAME", help="a layer, block or stage (default: the last stage)")
    _add_class(p)
    _add_output(p, "gradcam", numbers=True)

    p = command(
        commands,
        "occlusion",
        occlusion,
        "Cover an image piece by piece and show what that does to the prediction.",
        "minires occlusion runs/photos hand.jpg --patch 12",
    )
    _add_network(p)
    p.add_argument("image", metavar="IMAGE", nargs="?", help="default: a built-in sign")
    p.add_argument("--patch", type=int, metavar="PIXELS", help="side of the square (default: a quarter of the image)")
    p.add_argument("--stride", type=int, metavar="PIXELS", help="between two places (default: a quarter of the square)")
    _add_class(p)
    _add_output(p, "occlusion", numbers=True)

    p = command(
        commands,
        "landscape",
        landscape,
        "Draw the loss around the weights of one or more runs, along filter-normalised random directions.",
        "minires landscape runs/residual runs/plain --plane",
    )
    p.add_argument("run_folders", metavar="RUN", nargs="+", help="runs' folders or checkpoint files")
    common.add_own(p)
    common.add_data(p, None)
    p.add_argument("--part", choices=("train", "test"), default="test", help="default: %(default)s")
    p.add_argument("--images", type=int, default=120, metavar="N", help="at most so many (default: %(default)s)")
    p.add_argument("--plane", action="store_true", help="two directions: a surface in place of a line")
    p.add_argument("--span", type=float, default=1.0, metavar="X", help="the longest step each way (default: 1)")
    p.add_argument("--points", type=int, metavar="N", help="along a direction, odd (default: 21; 15 with --plane)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of directions and images (default: 0)")
    _add_output(p, "landscape", numbers=True)

    p = command(
        commands,
        "diagram",
        diagram,
        "Draw a network: stages, blocks, shortcuts, shapes and strides.",
        "minires diagram resnet50 --out net.svg",
    )
    common.add_architecture(p)
    p.add_argument("--classes", type=int, default=6, metavar="K", help="default: %(default)s")
    common.add_picture(p, "net.svg")


def _add_network(p) -> None:
    text = "a run's folder or a checkpoint file; or an architecture's name or FILE.py:FUNCTION, untrained"
    p.add_argument("run_folder", metavar="RUN", help=text)
    common.add_own(p)


def _add_class(p) -> None:
    p.add_argument("--class", dest="target", metavar="NAME", help="the class to explain (default: the likeliest)")


def _add_output(p, name: str, numbers: bool = False) -> None:
    p.add_argument("--best", action="store_true", help="the epoch of the lowest test loss instead of the last")
    common.add_picture(p, f"{name}.png")
    if numbers:
        p.add_argument("--json", action="store_true", help="print the numbers")
    common.add_device(p)
