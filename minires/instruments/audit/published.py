"""A network beside the published ones: every layer's facts, aligned and compared.

What is no fault is a difference: a kernel, a stride, a padding, an epsilon, a momentum, a bias, a layer too many.
"""

import math
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from minires import nn
from minires.errors import ShapeError
from minires.geometry import resolve_padding
from minires.instruments.guard import label
from minires.nn.blocks import Block
from minires.nn.init import undrawn
from minires.nn.resnet import BLOCKS, ResNet


@dataclass(frozen=True)
class Difference:
    """One thing in which the network differs from a reference, and the layers (by the network's names) where."""

    aspect: str
    here: str
    there: str
    layers: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.layers[:3]) + (f" and {len(self.layers) - 3} more" if self.layers[3:] else "")
        return f"{self.aspect}: {self.here} here, {self.there} there ({where})"


def shortcut_kind(block) -> str:
    """'none', 'identity', 'projection' or, without parameters, 'subsampling'."""
    if block.shortcut is None or block.shortcut == Block.IDENTITY:
        return "none" if block.shortcut is None else "identity"
    return "projection" if block.shortcut.params() else "subsampling"


def guess_arch(model, shape, classes) -> str | None:
    """The architecture with as many blocks, and as many convolutions in each; of several the one that differs least.

    None where there is none.
    """
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    convs = {sum(isinstance(m, nn.Conv2d) for m in b.branch.modules()) for b in blocks}
    found = {}
    for name, arch in nn.ARCHITECTURES.items():
        inside = len(BLOCKS[arch.block][0]) + 2 * bool(arch.reduction)
        if len(blocks) == sum(arch.repeats) and convs == {inside}:
            reference = _reference(nn.Config(name, shape, classes, "v1.5"))
            found[name] = distance(_differences(_layers(model), _layers(reference))) if reference else math.inf
    return min(found, key=found.get, default=None)


def _reference(config) -> ResNet | None:
    """The network, without weights; None where there is none for images of this size."""
    try:
        with undrawn():
            return ResNet(config)
    except ShapeError:
        return None


def references(model, arch, shape, classes) -> dict[str, tuple[Difference, ...]]:
    """Variant -> where `model` differs from the variant's network for images of `shape`."""
    config = getattr(model, "config", None)
    found = {}
    for variant in nn.VARIANTS:
        known = isinstance(config, nn.Config)
        base = replace(config, arch=arch, input_shape=shape) if known else nn.Config(arch, shape, classes)
        reference = _reference(replace(base, variant=variant, skip=True, bn_momentum=None))
        if reference is None:
            continue
        options = [
            Difference(*row, ("every block",)) for row in _options(base, replace(reference.config, preact=False))
        ]
        found[variant] = (*options, *_differences(_layers(model), _layers(reference)))
    return found


def _options(config, usual):
    """(aspect, here, there) of what is compared like with like, since it would change every layer."""
    if config.preact and not usual.preact:
        yield "order", "pre-activation", "post-activation"
    if not config.norm:
        yield "normalisation", "none", "batch"


def distance(differences) -> int:
    """How many layers' facts differ."""
    return sum(len(d.layers) for d in differences)


def _layers(model) -> list[tuple[str, str, dict]]:
    """(kind, name, facts) of each layer in forward order; a padding layer counts as its convolution's padding."""
    rows, margin = [], 0
    for module in model.modules():
        kind, facts = type(module).__name__, None
        for base in (nn.Conv2d, nn.BatchNorm, nn.Dense, nn.MaxPool2d, nn.AvgPool2d, nn.GlobalAvgPool2d, nn.ReLU):
            kind = base.__name__ if isinstance(module, base) else kind
        if isinstance(module, Block):
            kind, facts = "block", {"shortcut": shortcut_kind(module)}
        elif isinstance(module, nn.ZeroPad2d):
            margin = module.pad
        elif isinstance(module, nn.Conv2d):
            R, S, _, O = module.w.data.shape
            pads = margin or module.pad
            facts = {"kernel": f"{R}x{S}", "channels": f"{module.in_channels} to {O}", "stride": str(module.stride)}
            facts |= {"padding": str(resolve_padding(pads, (64, 64), (R, S), module.stride, module.dilation))}
            facts |= {"dilation": str(module.dilation), "groups": str(module.groups)}
            facts |= {"bias": "yes" if module.b is not None else "no"}
            margin = 0
        elif isinstance(module, nn.BatchNorm):
            facts = {"BN epsilon": f"{module.epsilon:g}", "BN momentum": f"{module.momentum:g}"}
            facts |= {"BN running variance": "over m - 1" if module.unbiased else "over m"}
            facts |= {"channels": str(module.gamma.data.size)}
        elif isinstance(module, nn.Dense):
            C, O = module.w.data.shape
            facts = {"features": f"{C} to {O}", "bias": "yes" if module.b is not None else "no"}
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            facts = {("padding" if word == "pad" else word): str(value) for word, value in module.window.items()}
        elif isinstance(module, (nn.ReLU, nn.GlobalAvgPool2d)):
            facts = {}
        if facts is not None:
            rows.append((kind, label(module), facts))
    return rows


def _differences(here, there) -> list[Difference]:
    """Both layer lists aligned by kind, compared fact by fact; equal differences together."""
    found: dict[tuple, list[str]] = {}
    matcher = SequenceMatcher(None, [kind for kind, *_ in here], [kind for kind, *_ in there], autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            for (kind, name, facts), (_, _, other) in zip(here[i:i_end], there[j:j_end], strict=True):
                for aspect in facts:
                    if facts[aspect] != other[aspect]:
                        found.setdefault(
                            (aspect if aspect.startswith("BN") else f"{kind} {aspect}", facts[aspect], other[aspect]),
                            [],
                        ).append(name)
            continue
        for kind, name, _ in here[i:i_end]:
            found.setdefault((f"{kind} layer", "one", "none"), []).append(name)
        for kind, name, _ in there[j:j_end]:
            found.setdefault((f"{kind} layer", "none", "one"), []).append(name)
    return [Difference(*key, tuple(names)) for key, names in found.items()]
