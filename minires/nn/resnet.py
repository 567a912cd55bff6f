"""The ResNet family, built from three tables: the architectures, the variants, the names.

K. He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385: table 1 (ImageNet networks)
and section 4.2 (CIFAR networks, depth 6n + 2). `resnet("resnet50", (64, 64, 3), 6)` or, shorter,
`resnet50((64, 64, 3), 6)` gives the network of the course; `variant="v1.5"` gives torchvision's.
"""

from dataclasses import dataclass, replace
from typing import Any

from minires.errors import ConfigError, ShapeError
from minires.geometry import Pad, Pair
from minires.nn.activation import Dropout, ReLU
from minires.nn.blocks import Block
from minires.nn.conv import Conv2d, ZeroPad2d
from minires.nn.dense import Dense, Flatten
from minires.nn.init import INITIALISERS
from minires.nn.module import Sequential
from minires.nn.network import Built, Network, build
from minires.nn.norm import BatchNorm
from minires.nn.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from minires.ranges import COUNT, check_fields

__all__ = [
    "ARCHITECTURES",
    "VARIANTS",
    "Config",
    "ResNet",
    "from_config",
    "plain_twin",
    "resnet",
    "resnet50",
]


@dataclass(frozen=True)
class Architecture:
    """One column of the paper's tables."""

    block: str  # "basic": 3x3, 3x3; "bottleneck": 1x1, 3x3, 1x1 with four times the width
    repeats: tuple  # blocks in each stage
    widths: tuple  # channels of each stage's 3x3 convolutions
    stem: str  # "imagenet": 7x7/2 and a 3x3/2 pool; "cifar": one 3x3


def _cifar(n: int) -> Architecture:
    return Architecture("basic", (n, n, n), (16, 32, 64), "cifar")


def _imagenet(block: str, *repeats: int, stem: str = "imagenet") -> Architecture:
    return Architecture(block, repeats, (64, 128, 256, 512), stem)


ARCHITECTURES = {
    "resnet8": _cifar(1),
    "resnet14": _cifar(2),
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
    "resnet152": _imagenet("bottleneck", 3, 8, 36, 3),
    # as repositories for CIFAR have them (kuangliu/pytorch-cifar): ImageNet's stages behind a stem for small images
    "resnet18-cifar": _imagenet("basic", 2, 2, 2, 2, stem="cifar"),
    "resnet34-cifar": _imagenet("basic", 3, 4, 6, 3, stem="cifar"),
    "resnet50-cifar": _imagenet("bottleneck", 3, 4, 6, 3, stem="cifar"),
}

# kernel sizes, widths as multiples of the stage's
BLOCKS = {"basic": ((3, 3), (1, 1)), "bottleneck": ((1, 3, 1), (1, 1, 4))}


@dataclass(frozen=True)
class Names:
    """What one world calls its layers. {stage} 2.., {layer} 1.., {letter} a.., {block} 1.., {index} 0.., {i} 1.."""

    stem: tuple  # convolution, norm
    unit: str
    conv: str
    norm: str
    shortcut: tuple  # convolution, norm
    head: str


COURSE_NAMES = Names(
    stem=("conv1", "bn_conv1"),
    unit="block{stage}{letter}",
    conv="res{stage}{letter}_branch2{abc}",
    norm="bn{stage}{letter}_branch2{abc}",
    shortcut=("res{stage}{letter}_branch1", "bn{stage}{letter}_branch1"),
    head="fc{classes}",
)
KERAS_NAMES = Names(
    stem=("conv1_conv", "conv1_bn"),
    unit="conv{stage}_block{block}",
    conv="conv{stage}_block{block}_{i}_conv",
    norm="conv{stage}_block{block}_{i}_bn",
    shortcut=("conv{stage}_block{block}_0_conv", "conv{stage}_block{block}_0_bn"),
    head="predictions",
)
TORCH_NAMES = Names(
    stem=("conv1", "bn1"),
    unit="layer{layer}.{index}",
    conv="layer{layer}.{index}.conv{i}",
    norm="layer{layer}.{index}.bn{i}",
    shortcut=("layer{layer}.{index}.downsample.0", "layer{layer}.{index}.downsample.1"),
    head="fc",
)
EXAMPLE_NAMES = Names(  # of ours: Keras's own example leaves naming to Keras
    stem=("conv", "bn"),
    unit="stack{layer}_block{block}",
    conv="stack{layer}_block{block}_conv{i}",
    norm="stack{layer}_block{block}_bn{i}",
    shortcut=("stack{layer}_block{block}_conv0", ""),
    head="dense",
)


@dataclass(frozen=True)
class Variant:
    """The conventions in which the published ResNets differ."""

    names: Names
    stride_at: int  # which convolution of a bottleneck halves the map: 0, the first 1x1; 1, the 3x3
    conv_bias: bool
    epsilon: float
    momentum: float  # Keras's direction: the share of the old running statistics that is kept
    unbiased: bool  # whether the running variance is the one over m - 1
    pad_layer: bool  # zero padding as a layer of its own before a "valid" convolution
    pool_pad: int
    head: str  # "flatten": 2x2 average pool, then flatten; "global": global average pool
    same: bool = False  # Keras's "same" padding: at stride 2 at the bottom and right only
    bare_shortcut: bool = False  # no normalisation behind a projection


VARIANTS = {
    # the Keras notebook of the deep learning course
    "course": Variant(COURSE_NAMES, 0, True, 1e-3, 0.99, False, True, 0, "flatten"),
    # keras.applications.ResNet50, the paper's stride placement
    "v1": Variant(KERAS_NAMES, 0, True, 1.001e-5, 0.99, False, True, 1, "global"),
    # torchvision.models.resnet50
    "v1.5": Variant(TORCH_NAMES, 1, False, 1e-5, 0.9, True, False, 1, "global"),
    # keras.io's example "cifar10_resnet", version 1; its 8x8 average pool is the global one for images of 32x32
    "keras-example": Variant(
        EXAMPLE_NAMES, 0, True, 1e-3, 0.99, False, False, 1, "global", same=True, bare_shortcut=True
    ),
}


@dataclass(frozen=True)
class Config:
    """Everything that defines a network; a checkpoint stores it and can build the network from it alone."""

    arch: str
    input_shape: tuple
    classes: int
    variant: str = "course"
    skip: bool = True  # False: the plain twin, with identical main-path weights for the same seed
    preact: bool = False  # BN and ReLU before each convolution
    norm: bool = True  # False: no batch normalisation
    init: str = "he"
    last_gamma: float = 1.0  # where each branch's last BN starts; 0 is "zero-gamma" (arXiv:1706.02677, section 5.1)
    widths: tuple | None = None  # None: the paper's
    bn_momentum: float | None = None  # None: the variant's
    dropout: float = 0.0  # before the classifier
    seed: int = 0

    def __post_init__(self):
        for name in ("input_shape", "widths"):  # JSON knows no tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        known = (
            ("arch", ARCHITECTURES),
            ("variant", VARIANTS),
            ("init", INITIALISERS),
        )
        for field, table in known:
            if getattr(self, field) not in table:
                raise ConfigError(f"unknown {field} {getattr(self, field)!r}: choose one of {', '.join(table)}")
        check_fields(self)
        if len(self.input_shape) != 3 or not all(map(COUNT.holds, self.input_shape)):
            raise ShapeError(f"input shape must be (height, width, channels), got {self.input_shape}")


class ResNet(Network):
    """A network of the family: stem, stages of blocks, head. Logits (N, classes) for images (N, H, W, 3)."""

    def __init__(self, config: Config):
        build = _Builder(config)
        self.config = config
        Sequential.__init__(self, *build.stem(), *build.stages(), name=config.arch)
        try:
            self.layers += build.head(self.output_shape(config.input_shape))
            self.output_shape(config.input_shape)
        except ShapeError as error:
            size = "x".join(map(str, config.input_shape))
            raise ShapeError(f"{config.arch} ({config.variant}) on {size}: {error}") from None

    @property
    def title(self) -> str:
        """'resnet50 (course), residual, BN, He'."""
        c = self.config
        kind = ("residual" if c.skip else "plain") + (", pre-activation" if c.preact else "")
        return f"{c.arch} ({c.variant}), {kind}, {'BN' if c.norm else 'no BN'}, {c.init.capitalize()}"


class _Builder:
    """Turns a Config into layers; knows the tables, computes nothing."""

    def __init__(self, config: Config):
        self.config = config
        self.arch, self.variant = ARCHITECTURES[config.arch], VARIANTS[config.variant]
        self.names = self.variant.names
        self.widths = config.widths or self.arch.widths
        if len(self.widths) != len(self.arch.repeats):
            raise ShapeError(
                f"{config.arch} has {len(self.arch.repeats)} stages, got {len(self.widths)} widths: "
                f"give one width a stage, such as {self.arch.widths}"
            )
        self.kernels, self.multiples = BLOCKS[self.arch.block]

    def conv(self, name: str, C, O, kernel: Pair, stride: Pair = 1, pad: Pad | None = None):
        settings = {"bias": self.variant.conv_bias, "init": self.config.init, "seed": self.config.seed}
        usual = "same" if self.variant.same else kernel // 2
        return Conv2d(name, C, O, kernel, stride=stride, pad=usual if pad is None else pad, **settings)

    def norm(self, name: str, channels: int):
        """A list with one BatchNorm, or an empty one for a network without."""
        if not self.config.norm:
            return []
        momentum = self.config.bn_momentum
        momentum = self.variant.momentum if momentum is None else momentum
        settings = {"epsilon": self.variant.epsilon, "unbiased": self.variant.unbiased}
        return [BatchNorm(name, channels, momentum=momentum, **settings)]

    def stem(self):
        C, width = self.config.input_shape[2], self.widths[0]
        conv, norm = self.names.stem
        small = self.arch.stem == "cifar"
        kernel, stride = (3, 1) if small else (7, 2)
        if self.variant.pad_layer:
            layers = [
                ZeroPad2d(f"{conv}_pad", kernel // 2),
                self.conv(conv, C, width, kernel, stride, "valid"),
            ]
        else:
            layers = [self.conv(conv, C, width, kernel, stride)]
        if not self.config.preact:
            layers += [*self.norm(norm, width), ReLU(f"{conv}_relu")]
        if not small:
            layers.append(MaxPool2d("pool1", 3, 2, self.variant.pool_pad))
        return [Sequential(*layers, name="stem")]

    def stages(self):
        C, stages = self.widths[0], []
        for stage, (repeats, width) in enumerate(zip(self.arch.repeats, self.widths, strict=True)):
            blocks = []
            for index in range(repeats):
                stride = 2 if stage > 0 and index == 0 else 1
                block, C = self.block(stage, index, C, width, stride)
                blocks.append(block)
            stages.append(Sequential(*blocks, name=f"stage{stage + 2}"))
        return stages

    def block(self, stage, index, C, width, stride: Pair):
        """(the block, its output channels)."""
        repeats = self.arch.repeats[stage]
        letter = chr(ord("a") + index) if repeats <= 26 else ("a" if index == 0 else f"b{index}")
        where = {
            "stage": stage + 2,
            "layer": stage + 1,
            "letter": letter,
            "block": index + 1,
            "index": index,
        }
        unit = self.names.unit.format(**where)
        outs = [width * m for m in self.multiples]
        stride_at = self.variant.stride_at if self.arch.block == "bottleneck" else 0
        before, branch, channels = [], [], C
        for i, (kernel, O) in enumerate(zip(self.kernels, outs, strict=True)):
            spot = {**where, "i": i + 1, "abc": "abc"[i]}
            conv = self.conv(self.names.conv.format(**spot), channels, O, kernel, stride if i == stride_at else 1)
            norm, relu = self.names.norm.format(**spot), ReLU(f"{unit}.relu{i + 1}")
            if self.config.preact:
                (before if i == 0 else branch).extend([*self.norm(norm, channels), relu])
                branch.append(conv)
            else:
                branch += [conv, *self.norm(norm, O)]
                if i + 1 < len(outs):
                    branch.append(relu)
            channels = O
        self._set_last_gamma(branch)
        return Block(
            unit,
            Sequential(*branch, name=f"{unit}.branch"),
            self._shortcut(where, unit, C, channels, stride),
            before=Sequential(*before, name=f"{unit}.before") if before else None,
            after=None if self.config.preact else relu,
        ), channels

    def _shortcut(self, where, unit, C, O, stride):
        if not self.config.skip:
            return None
        if C == O and stride == 1:
            return Block.IDENTITY
        conv, norm = (name.format(**where) for name in self.names.shortcut)
        layers = [self.conv(conv, C, O, 1, stride)]
        if not self.config.preact and not self.variant.bare_shortcut:
            layers += self.norm(norm, O)
        return Sequential(*layers, name=f"{unit}.shortcut")

    def _set_last_gamma(self, branch):
        """Only where a shortcut carries the signal: a plain block that starts at zero passes nothing on."""
        norms = [m for m in branch if isinstance(m, BatchNorm)]
        if self.config.skip and norms:
            norms[-1].gamma.data[:] = self.config.last_gamma

    def head(self, shape: tuple[int, ...]):
        """The layers after the stages, whose output has this shape."""
        H, W, channels = shape
        layers = []
        if self.config.preact:
            layers += [*self.norm("post_bn", channels), ReLU("post_relu")]
        if self.variant.head == "flatten" and self.arch.stem == "imagenet":
            layers += [AvgPool2d("avg_pool", 2), Flatten("flatten")]
            channels *= (H // 2) * (W // 2)
        else:
            layers.append(GlobalAvgPool2d("avg_pool"))
        if self.config.dropout:
            layers.append(Dropout("dropout", self.config.dropout, seed=self.config.seed))
        name = self.names.head.format(classes=self.config.classes)
        return [*layers, Dense(name, channels, self.config.classes, seed=self.config.seed)]


def resnet(arch: str, input_shape: tuple[int, int, int] = (64, 64, 3), classes: int = 6, **options: Any) -> ResNet:
    """A network by name, such as 'resnet50'. `options` are the further fields of Config.

    The CIFAR networks (resnet8, 14, 20, 32, 44, 56, 110) take the conventions of variant 'v1.5' unless told
    otherwise, the ImageNet ones those of 'course'.

    input_shape (H, W, C); logits (N, classes) come out. ConfigError for an unknown name or option, ShapeError for
    images that are too small.

    >>> model = minires.resnet("resnet20", (32, 32, 3), classes=10)
    >>> model.parameter_count()[0]
    272474
    >>> plain = minires.resnet("resnet20", (32, 32, 3), classes=10, skip=False)  # its plain twin
    >>> logits = model.forward(numpy.zeros((2, 32, 32, 3), "float32"))
    >>> logits.shape
    (2, 10)
    """
    if arch in ARCHITECTURES and ARCHITECTURES[arch].stem == "cifar":
        options.setdefault("variant", "v1.5")
    return ResNet(Config(arch, tuple(input_shape), classes, **options))


def resnet50(input_shape: tuple[int, int, int] = (64, 64, 3), classes: int = 6, **options: Any) -> ResNet:
    """ResNet-50; see `resnet`.

    >>> model = minires.resnet50((64, 64, 3), classes=6)
    >>> sum(model.parameter_count())
    23600006
    """
    return resnet("resnet50", input_shape, classes, **options)


def from_config(config: Config | Built) -> Network:
    """The network that a config builds: one of the family, or what its builder gives."""
    if isinstance(config, Config):
        return ResNet(config)
    return build(config.builder, config.input_shape, config.classes, seed=config.seed, **config.options)


def plain_twin(model: ResNet) -> ResNet:
    """The same network without skips, its main-path weights those that this seed draws."""
    return ResNet(replace(model.config, skip=False))
