"""step: one batch through a network and its gradient back, layer by layer."""

import sys
from argparse import Namespace
from pathlib import Path

from minires.commands import common
from minires.console import Console, err, out
from minires.errors import ConfigError
from minires.nn import Network, ResNet, plain_twin


def step(args) -> int:
    if args.beside and not (args.run_folder and args.html):
        raise ConfigError(
            "step: --beside sets a run beside that of --run, on a page: give --run RUN and --html FILE too"
        )
    from minires.instruments.step.page import write_page
    from minires.instruments.step.tape import record
    from minires.instruments.step.terminal import play, print_steps

    classifier, images, labels = _batch(args)
    residual, plain = _twins(classifier.model)

    def tape(model, preprocess=classifier.preprocess):
        err.print(f"recording {len(images)} images through {model.title}, forward and back", style="dim")
        return record(model, preprocess(images), labels, classes=classifier.classes, image=images[0])

    if args.html:
        page = {"note": f"minires {' '.join(sys.argv[1:])}"}
        if args.beside:
            other = _other(args.beside, classifier)
            tapes = tape(classifier.model), tape(other.model, other.preprocess)
            page["labels"] = _labels(args.run_folder, args.beside)
        else:
            tapes = [model and tape(model) for model in (residual, plain)]
        out.print(f"page: {write_page(*tapes, args.html, **page).resolve()}")
        return 0
    recorded = tape(plain if args.no_skip or residual is None else residual)
    if args.text or not (sys.stdin.isatty() and sys.stdout.isatty()):
        print_steps(recorded, out)
    else:
        play(recorded, Console(soft_wrap=False))
    return 0


def _other(run: str, classifier):
    """The run to show beside; ConfigError where it cannot see the same images and labels."""
    from minires.train import load_classifier

    other = load_classifier(run)
    for what, ours, its in (
        ("images", classifier.model.input_shape, other.model.input_shape),
        ("classes", classifier.classes, other.classes),
    ):
        if ours != its:
            raise ConfigError(f"step: {run} takes other {what} ({its}) than --run ({ours}): two runs on the same data")
    return other


def _labels(*runs: str) -> list[str]:
    """Short names of two runs: the folders' own, or all that was given where those are the same."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [f"{i}: {run}" for i, run in enumerate(runs, 1)]


def _batch(args):
    """(classifier, images (N, H, W, 3) uint8, labels (N,)): the run's or the built-in signs, --image first if given."""
    import numpy as np

    from minires.data import Subset, make_signs, read_image
    from minires.train import Classifier, load_classifier

    if args.run_folder:
        from minires.run import own_parts

        classifier = load_classifier(args.run_folder)
        parts = common.told(own_parts(args.run_folder))
        train, test = parts.train, parts.test
        part = test if train is None else train
        part = Subset(part, np.random.default_rng(args.seed).permutation(len(part))[: args.batch_size])
    else:
        part, _ = make_signs(n_train=args.batch_size, n_test=1, seed=args.seed)
        whole = Namespace(**vars(args) | {"no_skip": False})
        classifier = Classifier.for_data(
            common.make_network(whole, part.shape, len(part.classes), seed=args.seed), part
        )
    images, labels = part.images(np.arange(len(part))), part.labels.copy()
    if args.image:
        images[0] = read_image(args.image, part.shape[:2])
        labels[0] = _label(args.label, classifier, images[:1])
    elif args.label is not None:
        raise ConfigError("step: --label names the class of --image: give the image too")
    return classifier, images, labels


def _label(name: str | None, classifier, image) -> int:
    if name is None:
        return int(classifier.probs(image).argmax())
    if name not in classifier.classes:
        raise ConfigError(f"step: unknown --label {name!r}: choose one of {', '.join(classifier.classes)}")
    return classifier.classes.index(name)


def _twins(model: Network) -> tuple[Network | None, Network | None]:
    """(the network, the same weights with its shortcuts cut); (None, the network) for a plain one.

    Of a network of one's own nobody knows what cutting its shortcuts is: (the network, None).
    """
    if not isinstance(model, ResNet):
        return model, None
    if not model.config.skip:
        return None, model
    plain, weights = plain_twin(model), model.state()
    for v in plain.params() + plain.buffers():
        v.data[...] = weights[v.name]
    return model, plain


def register(commands, command) -> None:
    p = command(
        commands,
        "step",
        step,
        "Step through one batch, layer by layer, forward and back: in the terminal, or as a page to keep.",
        "minires step --arch resnet8; minires step --html step.html",
    )
    common.add_network(p)
    p.add_argument("--run", dest="run_folder", metavar="RUN", help="a trained run in place of --arch: its data too")
    p.add_argument("--beside", metavar="RUN", help="another run's network in place of the plain twin, with --html")
    p.add_argument("--image", metavar="FILE", help="this picture first in the batch (default: built-in hand signs)")
    p.add_argument("--label", metavar="CLASS", help="the class of --image (default: what the network takes it for)")
    p.add_argument("--batch-size", type=int, default=8, metavar="N", help="default: %(default)s")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and batch (default: %(default)s)")
    p.add_argument("--html", metavar="OUT.html", help="write one page, the network beside its plain twin")
    p.add_argument("--text", action="store_true", help="print all steps and leave the keyboard alone")
