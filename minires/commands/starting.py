"""What `train` starts from, a new network or weights, and the options of fine-tuning."""

import argparse
from pathlib import Path

from minires.commands import common
from minires.errors import ConfigError
from minires.ranges import COUNT, POSITIVE


def frozen(text: str) -> dict[str, int | None]:
    """'stem,stage2:3' -> {'stem': None, 'stage2': 3}: parts, and for how many epochs."""
    return {part: _number(count, int, COUNT) if count else None for part, count in _pairs(text, ":")}


def factors(text: str) -> dict[str, float]:
    """'stem=0.1x,head=10' -> {'stem': 0.1, 'head': 10.0}."""
    found = dict(_pairs(text, "="))
    if missing := [part for part, value in found.items() if not value]:
        raise argparse.ArgumentTypeError(f"expected {missing[0]}=FACTOR, such as {missing[0]}=0.1x")
    return {part: factor(value) for part, value in found.items()}


def factor(text: str) -> float:
    """'10x' or '10' -> 10.0."""
    return _number(text.removesuffix("x"), float, POSITIVE)


def _pairs(text, mark):
    pairs = [part.strip().partition(mark)[::2] for part in text.split(",")]
    if not all(name for name, _ in pairs):
        raise argparse.ArgumentTypeError(f"expected names of parts with a comma between them, got {text!r}")
    return pairs


def _number(text, kind, expected):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not expected.holds(value):
        raise argparse.ArgumentTypeError(f"expected {expected.words}, got {text!r}")
    return value


def add_options(p) -> None:
    """The options of fine-tuning, behind all that define a network."""
    common.note_network(p, "bn_momentum", "last_gamma")
    p.add_argument(
        "--weights",
        metavar="FILE",
        help="start from a run, a checkpoint, or weights of Keras, PyTorch or ONNX: their preprocessing, what they "
        "know of classes with the same name, and (of minires' own files) their network",
    )
    common.add_preprocess(p)
    p.add_argument(
        "--freeze",
        type=frozen,
        metavar="PARTS",
        help="leave parts as they are: stem,stage2,stage3:4 (stage3 for 4 epochs); also a block or a layer by its name",
    )
    p.add_argument("--rates", type=factors, metavar="PARTS", help="learning rates by part: stem=0.1x,stage4=0.5x")
    p.add_argument("--head-lr", type=factor, metavar="10x", help="the same as --rates head=10x")


def recipe_rates(args) -> dict[str, float] | None:
    """--rates and --head-lr as one."""
    return (args.rates or {}) | ({"head": args.head_lr} if args.head_lr else {}) or None


def loaded(args):
    """The Classifier that --weights holds with its own network, which then also says the size of images; else None."""
    from minires.train import load_classifier
    from minires.weights import import_classifier, is_checkpoint, read_use

    if args.preprocess and not args.weights:
        raise ConfigError("--preprocess: says how --weights want their images: give those too, or leave it out")
    if not args.weights:
        return None
    path = Path(args.weights)
    if path.is_dir() or is_checkpoint(path):
        classifier = load_classifier(path)
    else:
        use = read_use(path)
        if use is None or use.config is None:
            return None
        classifier, _ = import_classifier(path)
    if option := common.network_is_named(args) or (args.preprocess and "--preprocess"):
        raise ConfigError(f"{option}: {path} says itself what its network is and how it sees images: leave it out")
    args.arch = getattr(classifier.model.config, "arch", classifier.model.name)
    args.size = args.size or classifier.model.input_shape[0]
    return classifier


def begin(args, source, train, seed: int):
    """(the Classifier to train on `train`, what to say of it). source: of `loaded`."""
    from minires.train import Classifier
    from minires.train.finetune import describe_classes, with_classes
    from minires.weights import import_classifier

    if source:
        classifier = with_classes(source, train.classes, input_shape=train.shape, seed=seed)
        before, now = (c.model.layers[-1].w.data.shape[0] for c in (source, classifier))
        told = describe_classes(source.classes, train.classes)
        if before != now:
            told = f"the classifier begins anew: images of this size give it {now} features in place of {before}"
        return classifier, [f"weights: {args.weights}", told]
    options = {"last_gamma": args.last_gamma, "bn_momentum": args.bn_momentum}
    model = common.make_network(args, train.shape, len(train.classes), seed=seed, **options)
    if not args.weights:
        return Classifier.for_data(model, train), []
    imported, report = import_classifier(args.weights, model, skip_head=True, preprocess=args.preprocess)
    classifier = Classifier(model, train.classes, imported.preprocess)
    return classifier, [f"weights: {report}", describe_classes((), train.classes)]
