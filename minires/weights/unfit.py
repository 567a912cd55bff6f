"""Why a file's weights do not fit a network: all that differs at once, and the network of ours that they would fit."""

import math
from collections import Counter
from dataclasses import dataclass

from minires.errors import ConfigError, ShapeError
from minires.nn import ARCHITECTURES, VARIANTS, Block, Config, Conv2d, Network
from minires.nn.resnet import BLOCKS
from minires.train.checkpoint import construct
from minires.weights.found import Found, layer_list
from minires.weights.naming import name_layers, variant_of
from minires.weights.order import orders

Shapes = list[dict[str, tuple]]  # of each layer: role -> shape
_WAYS = ({}, {"shortcut": "A"}, {"preact": True}, {"norm": False}, {"skip": False})
_OPTIONS = {"shortcut": "--shortcut A", "preact": "--preact", "norm": "--no-bn", "skip": "--no-skip"}
_FEW = 8  # names that are told beside what differs


def refusal(model: Network, as_read: Found, found: Found, wanted: dict, skip_head: bool) -> str:
    """The line that refuses. as_read, found: the arrays before and after they got our names; wanted: ours, by name."""
    head = layer_list(model)[-1].name
    own = Sort.of([{role: a.shape for role, a in arrays.items()} for arrays in _own(model)])
    their = Sort.of([{role: a.shape for role, a in arrays.items()} for arrays in as_read.layers().values()])
    missing, extra = sorted(set(wanted) - set(found.arrays)), sorted(set(found.arrays) - set(wanted))
    body = [f for f in (*_depth(their, own), *_inside(their, own, model), *_first(their, own)) if f]
    if not missing and not extra and not body:
        return _one(model, as_read, found, their, wanted, head)
    if missing and not extra and all(name.startswith(f"{head}.") for name in missing):
        return (
            f"{found.kind} for another network than {model.title}: {_names(found, wanted, missing, extra)}: it has no "
            "classifier; load the rest with --skip-head (skip_head=True)"
        )
    differ = body + ([] if skip_head else _head(their, own))
    if not differ or not their.convs or len(missing) + len(extra) <= _FEW:
        differ.insert(0, _names(found, wanted, missing, extra))
    text = f"{found.kind} for another network than {model.title}: {'; '.join(filter(None, differ))}"
    if fitting := _that_fit(model, as_read, their, skip_head):
        return f"{text}: build it with {' or '.join(fitting[:3])}"
    other = variant_of({name.rpartition(".")[0] for name in found.arrays})
    if other not in (None, getattr(model.config, "variant", other)):
        return f"{text}; its names are those of variant {other}: build the network with that variant"
    skip = ", or load all but the classifier with --skip-head (skip_head=True)" if not (body or skip_head) else ""
    return f"{text}: build the architecture and variant that it was saved from{skip}"


@dataclass(frozen=True)
class Sort:
    """What of a network shows in the shapes of its arrays."""

    convs: tuple[tuple, ...]  # kernels (R, S, C, O)
    biased: int  # how many of them have a bias
    norms: int
    dense: tuple[tuple, ...]

    @classmethod
    def of(cls, layers: Shapes) -> "Sort":
        convs = [arrays for arrays in layers if len(arrays.get("w", ())) == 4]
        norms = sum("gamma" in arrays for arrays in layers)
        dense = tuple(arrays["w"] for arrays in layers if len(arrays.get("w", ())) == 2)
        return cls(tuple(arrays["w"] for arrays in convs), sum("b" in arrays for arrays in convs), norms, dense)

    @property
    def first(self) -> tuple | None:
        """The kernel that reads images: the one of fewest channels; None where that is not clear."""
        least = min((w[2] for w in self.convs), default=0)
        found = [w for w in self.convs if w[2] == least]
        return found[0] if len(found) == 1 and least <= 4 else None

    @property
    def widths(self) -> list[int]:
        """The numbers of channels that its 3x3 convolutions give."""
        return sorted({w[3] for w in self.convs if w[:2] == (3, 3)})


def _own(model) -> list[dict]:
    return [{name.rpartition(".")[2]: a for name, a in layer.state().items()} for layer in layer_list(model)]


def _depth(their: Sort, own: Sort):
    if len(their.convs) != len(own.convs):
        yield f"it has {_count(len(their.convs), 'convolution')}, the network {len(own.convs)}"
    elif their.widths != own.widths and Counter(their.convs) != Counter(own.convs):
        yield f"its stages have {_listed(their.widths)} channels, the network's {_listed(own.widths)}"


def _inside(their: Sort, own: Sort, model):
    """Biases and normalisation."""
    if their.convs and own.norms and not their.norms:
        yield "it has no batch normalisation, which exporters fold into the convolutions"
        return
    if their.norms and not own.norms:
        yield f"it has {their.norms} batch normalisations, the network none"
    elif len(their.convs) == len(own.convs) and their.norms != own.norms:
        projections = sum(isinstance(m, Conv2d) for block in _blocks(model) for m in _shortcut(block))
        if projections and own.norms - their.norms == projections:
            yield "its projections have no normalisation, the network's have one"
        elif projections and their.norms - own.norms == projections:
            yield "its projections have a normalisation, the network's have none"
        else:
            yield f"it has {their.norms} batch normalisations, the network {own.norms}"
    shares = [_share(sort.biased, len(sort.convs)) for sort in (their, own)]
    if their.convs and own.convs and shares[0] != shares[1]:
        yield f"{shares[0]} of its convolutions have biases, of the network's {shares[1]}"


def _blocks(model):
    return [m for m in model.modules() if isinstance(m, Block)]


def _shortcut(block):
    return block.shortcut.modules() if hasattr(block.shortcut, "modules") else []


def _share(count: int, of: int) -> str:
    return "none" if not count else "all" if count == of else f"{count}"


def _first(their: Sort, own: Sort):
    if not their.first or not own.first:
        return
    if their.first[2] != own.first[2]:
        yield f"it reads images of {_count(their.first[2], 'channel')}, the network of {own.first[2]}"
    if their.first[:2] != own.first[:2]:
        yield f"its first kernel is {_size(their.first)}, the network's {_size(own.first)}"


def _head(their: Sort, own: Sort) -> list[str]:
    if len(their.dense) != 1 or len(own.dense) != 1:
        return []
    (features, classes), (ours, expected) = their.dense[0], own.dense[0]
    found = [f"its classifier knows {classes} classes, the network {expected}"] if classes != expected else []
    return found + ([f"it reads {features} features, here {ours}"] if features != ours else [])


def _one(model, as_read: Found, found: Found, their: Sort, wanted: dict, head: str) -> str:
    """Where names and layers are those of the network: the classifier, the images' size, or one array."""
    kernel, expected = found.arrays.get(f"{head}.w"), wanted.get(f"{head}.w")
    if kernel is None or kernel.ndim != 2 or kernel.shape == expected.shape:
        name = next(name for name, array in found.arrays.items() if array.shape != wanted[name].shape)
        return (
            f"{found.origin[name]} becomes {name} of shape {found.arrays[name].shape}, but the network needs "
            f"{wanted[name].shape}: build the network that these weights were trained in"
        )
    (features, classes), text, remedy = kernel.shape, [], []
    if classes != expected.shape[1]:
        text += [f"its classifier {found.origin[f'{head}.w']} knows {classes} classes, the network {expected.shape[1]}"]
        remedy += [f"build it with {classes} classes (--classes {classes})"]
    if features != expected.shape[0]:
        size = "x".join(map(str, model.input_shape))
        text += [
            f"its classifier reads {features} features, that of the network {expected.shape[0]} for images of {size}"
        ]
        fitting = _that_fit(model, as_read, their, skip_head=False)
        trained = "give the image size that it was trained with (--input)"
        remedy = [f"build it with {' or '.join(fitting[:3])}"] if fitting else [trained, *remedy]
    remedy += ["or load all but the classifier with --skip-head (skip_head=True)"]
    return f"{', and '.join(text)}: {', '.join(remedy)}"


def _names(found: Found, wanted: dict, missing: list, extra: list) -> str:
    text = f"{len(missing)} of {len(wanted)} arrays are missing ({some(missing)})" if missing else ""
    if extra:
        text += f"{' and ' if missing else ''}{len(extra)} have no place ({some([found.origin[n] for n in extra])})"
    return text


def _that_fit(model, as_read: Found, their: Sort, skip_head: bool) -> list[str]:
    """Options of the command line for each network by name that these arrays are likeliest of."""
    channels = their.first[2] if their.first else model.input_shape[2]
    classes = their.dense[-1][1] if their.dense and not skip_head else model.classes
    ranked = []
    for arch, variant, way in _near(their):
        for side in (model.input_shape[:2], *((side, side) for side in (32, 64, 128, 192, 256))):
            try:
                network = construct(Config(arch, (*side, channels), classes, variant=variant, **way))
            except (ConfigError, ShapeError):
                continue
            if (rank := _takes(network, as_read, their, skip_head)) is not None:
                options = [f"--arch {arch}"]
                options += [f"--variant {variant}"] if variant != ARCHITECTURES[arch].variant else []
                options += [_OPTIONS[name] for name in way]
                options += [] if skip_head else [f"--input {_size(side)}x{channels} --classes {classes}"]
                ranked.append(((*rank, len(way)), " ".join(options)))
                break
            if VARIANTS[variant].head != "flatten":
                break  # another size makes no difference
    return [options for rank, options in ranked if rank == min(ranked)[0]]


def _near(their: Sort):
    """(architecture, variant, further settings) of those that have so many layers of such sizes, by their tables."""
    for arch, a in ARCHITECTURES.items():
        stem, kernel = a.stem_width or a.widths[0], 7 if a.stem == "imagenet" else 3
        least = (3 if a.stem == "deep" else 1) + sum(a.repeats) * (len(BLOCKS[a.block][0]) + 2 * bool(a.reduction))
        more = {7: [], 3: [stem, stem // 2] if a.stem == "deep" else [stem]}[kernel]
        if (
            not 0 <= len(their.convs) - least <= len(a.repeats)
            or their.widths != sorted({*more, *(width * a.inner for width in a.widths)})
            or (their.first and their.first[0] != kernel)
        ):
            continue
        bare = len(their.convs) == least
        for variant, v in VARIANTS.items():
            if their.norms and bool(their.biased) != (v.conv_bias or bool(a.reduction)):
                continue
            for way in _WAYS:
                if bare == bool({"shortcut", "skip"} & set(way)) and not ("norm" in way and their.norms):
                    yield arch, variant, way


def _takes(network: Network, as_read: Found, their: Sort, skip_head: bool) -> tuple | None:
    """None where an import would not find a place for every array; else how much speaks against it, in order."""
    own = Sort.of([{role: a.shape for role, a in arrays.items()} for arrays in _own(network)])
    if Counter(own.convs) != Counter(their.convs) or not (skip_head or own.dense == their.dense):
        return None
    found, head = as_read.copy(), layer_list(network)[-1].name
    name_layers(network, found, head)
    wanted = {name: array.shape for name, array in network.state().items()}
    given = {name: array.shape for name, array in found.arrays.items()}
    if skip_head:
        wanted, given = ({n: s for n, s in each.items() if not n.startswith(f"{head}.")} for each in (wanted, given))
    if wanted != given:
        return None
    kinds = [sorted(arrays) for arrays in as_read.layers().values()]  # a file that is in order has them as the network
    in_order = any(kinds == [sorted(_roles(layer)) for layer in order] for order in orders(network))
    return not in_order, len(differences(network, found))


def _roles(layer) -> list[str]:
    return [name.rpartition(".")[2] for name in layer.state()]


def _size(shape: tuple) -> str:
    return f"{shape[0]}x{shape[1]}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"


def differences(model, found: Found) -> list[str]:
    """Where the file states another convention than the network has: same shapes, other numbers."""
    notes = {}
    for m in layer_list(model):
        theirs = found.stated.get(m.name, {})
        for setting in ("stride", "dilation"):
            here, there = getattr(m, setting, None), theirs.get(setting)
            if here is not None and there is not None and tuple(there) != here:
                notes.setdefault(setting, (m.name, tuple(there), here))
        epsilon = getattr(m, "epsilon", None)
        if epsilon is not None and not math.isclose(theirs.get("epsilon", epsilon), epsilon, rel_tol=1e-6):
            notes.setdefault("epsilon", (m.name, f"{theirs['epsilon']:.4g}", epsilon))
    return [
        f"warning: {layer} has {what} {there} in the file and {here} in the network (and perhaps others too): "
        "the outputs will differ"
        for what, (layer, there, here) in notes.items()
    ]


def some(names, limit: int = 3) -> str:
    """The first few names."""
    rest = len(names) - limit
    return ", ".join(list(names)[:limit]) + (f" and {rest} more" if rest > 0 else "")
