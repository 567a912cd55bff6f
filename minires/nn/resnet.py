"""The ResNet family, built from three tables: the architectures, the variants, the names.

K. He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385: table 1 (ImageNet networks)
and section 4.2 (CIFAR networks, depth 6n + 2). `resnet("resnet50", (64, 64, 3), 6)` or, shorter,
`resnet50((64, 64, 3), 6)` gives the network of the course; `variant="v1.5"` gives torchvision's.

Its relatives are rows of the same tables: ResNeXt (arXiv:1611.05431), Wide ResNet (arXiv:1605.07146), squeeze and
excitation (arXiv:1709.01507), ResNet-D (arXiv:1812.01187, section 4), ResNetV2 (arXiv:1603.05027) as variant "v2".
"""

from dataclasses import dataclass, replace
from typing import Any

from minires.errors import ConfigError, ShapeError
from minires.geometry import Pad, Pair
from minires.nn.activation import Dropout, ReLU
from minires.nn.blocks import Block, SqueezeExcite
from minires.nn.conv import Conv2d, ZeroPad2d
from minires.nn.dense import Dense, Flatten
from minires.nn.init import INITIALISERS
from minires.nn.module import Sequential
from minires.nn.network import Built, Network, build
from minires.nn.norm import BatchNorm
from minires.nn.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d, Subsample
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
    stem: str  # "imagenet": 7x7/2 and a 3x3/2 pool; "deep": three 3x3, the first /2, and the pool; "cifar": one 3x3
    variant: str = "course"  # unless told otherwise
    inner: int = 1  # the channels of a bottleneck's 3x3 over the stage's width ...
    groups: int = 1  # ... and into how many groups they fall
    reduction: int = 0  # of the squeeze and excitation at each branch's end; 0: none
    average: bool = False  # a projection with a stride averages 2x2 pixels, where others take one of four
    stem_width: int = 0  # 0: the first stage's width
    preact: bool = False


def _cifar(n: int) -> Architecture:
    return Architecture("basic", (n, n, n), (16, 32, 64), "cifar", "v1.5")


def _imagenet(block: str, *repeats: int, stem="imagenet", **more) -> Architecture:
    return Architecture(block, repeats, (64, 128, 256, 512), stem, **more)


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
    "resnet18-cifar": _imagenet("basic", 2, 2, 2, 2, stem="cifar", variant="v1.5"),
    "resnet34-cifar": _imagenet("basic", 3, 4, 6, 3, stem="cifar", variant="v1.5"),
    "resnet50-cifar": _imagenet("bottleneck", 3, 4, 6, 3, stem="cifar", variant="v1.5"),
    "resnet50d": _imagenet("bottleneck", 3, 4, 6, 3, stem="deep", average=True, variant="v1.5"),
    "se_resnet50": _imagenet("bottleneck", 3, 4, 6, 3, reduction=16, variant="v1.5"),
    "resnext50_32x4d": _imagenet("bottleneck", 3, 4, 6, 3, inner=2, groups=32, variant="v1.5"),
    "resnext101_32x8d": _imagenet("bottleneck", 3, 4, 23, 3, inner=4, groups=32, variant="v1.5"),
    "wide_resnet50_2": _imagenet("bottleneck", 3, 4, 6, 3, inner=2, variant="v1.5"),
    "wide_resnet101_2": _imagenet("bottleneck", 3, 4, 23, 3, inner=2, variant="v1.5"),
    "wide_resnet28_10": Architecture("basic", (4, 4, 4), (160, 320, 640), "cifar", "v1.5", stem_width=16, preact=True),
}

# kernel sizes, widths as multiples of the stage's
BLOCKS = {"basic": ((3, 3), (1, 1)), "bottleneck": ((1, 3, 1), (1, 1, 4))}


@dataclass(frozen=True)
class Names:
    """What one world calls its layers. {stage} 2.., {layer} 1.., {letter} a.., {block} 1.., {index} 0.., {i} 1..

    {before}: the convolution that a norm follows, or "preact"; {conv}, {norm}: the places in a projection, 0..
    """

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
KERAS_V2_NAMES = replace(KERAS_NAMES, norm="conv{stage}_block{block}_{before}_bn")
TORCH_NAMES = Names(
    stem=("conv1", "bn1"),
    unit="layer{layer}.{index}",
    conv="layer{layer}.{index}.conv{i}",
    norm="layer{layer}.{index}.bn{i}",
    shortcut=("layer{layer}.{index}.downsample.{conv}", "layer{layer}.{index}.downsample.{norm}"),
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
    pool_pad: int | str
    head: str  # "flatten": 2x2 average pool, then flatten; "global": global average pool
    preact: bool = False
    stride_last: bool = False  # a stage's last block halves the map, not the next one's first
    bias_before_norm: bool = True  # where convolutions have biases
    same: bool = False  # Keras's "same" padding: at stride 2 at the bottom and right only
    bare_shortcut: bool = False  # no normalisation behind a projection


VARIANTS = {
    # the Keras notebook of the deep learning course
    "course": Variant(COURSE_NAMES, 0, True, 1e-3, 0.99, False, True, 0, "flatten"),
    # keras.applications.ResNet50, the paper's stride placement
    "v1": Variant(KERAS_NAMES, 0, True, 1.001e-5, 0.99, False, True, 1, "global"),
    # keras.applications.ResNet50V2; its first pool has zeros around the map, which win over what is negative
    "v2": Variant(
        *(KERAS_V2_NAMES, 1, True, 1.001e-5, 0.99, False, True, "zeros", "global"),
        **{"preact": True, "stride_last": True, "bias_before_norm": False},
    ),
    # torchvision.models.resnet50, timm's resnet50d and seresnet50
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
    shortcut: str = "B"  # where shapes change: "B", a projection; "A", subsampling and channels of zeros (section 3.3)

    def __post_init__(self):
        for name in ("input_shape", "widths"):  # JSON knows no tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        known = (
            ("arch", ARCHITECTURES),
            ("variant", VARIANTS),
            ("init", INITIALISERS),
            ("shortcut", ("A", "B")),
        )
        for field, table in known:
            if getattr(self, field) not in table:
                raise ConfigError(f"unknown {field} {getattr(self, field)!r}: choose one of {', '.join(table)}")
        check_fields(self)
        given = self.preact or ARCHITECTURES[self.arch].preact or VARIANTS[self.variant].preact
        object.__setattr__(self, "preact", given)
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
        kind = ("residual" if c.skip else "plain") + (", option A" if c.skip and c.shortcut == "A" else "")
        kind += ", pre-activation" if c.preact else ""
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

    def conv(self, name: str, C, O, kernel: int, stride: Pair = 1, pad: Pad | None = None, **more):
        settings = {"bias": self.variant.conv_bias, "init": self.config.init, "seed": self.config.seed} | more
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
        C, width = self.config.input_shape[2], self.arch.stem_width or self.widths[0]
        conv, norm = self.names.stem
        kernel, stride = {"imagenet": (7, 2), "deep": (3, 2), "cifar": (3, 1)}[self.arch.stem]
        steps, half = [(conv, norm, width, stride)], max(1, width // 2)
        if self.arch.stem == "deep":
            steps = [
                (f"{conv}.0", f"{conv}.1", half, 2),
                (f"{conv}.3", f"{conv}.4", half, 1),
                (f"{conv}.6", norm, width, 1),
            ]
        layers, pad = ([ZeroPad2d(f"{conv}_pad", kernel // 2)], "valid") if self.variant.pad_layer else ([], None)
        for name, norm, O, stride in steps:
            layers.append(self.conv(name, C, O, kernel, stride, pad))
            if not self.config.preact or name != steps[-1][0]:
                layers += [*self.norm(norm, O), ReLU(f"{name}_relu")]
            C, pad = O, None
        if self.arch.stem != "cifar":
            zeros = self.variant.pool_pad == "zeros"
            layers += [ZeroPad2d("pool1_pad", 1)] * zeros
            layers.append(MaxPool2d("pool1", 3, 2, 0 if zeros else self.variant.pool_pad))
        return [Sequential(*layers, name="stem")]

    def stages(self):
        C, stages = self.arch.stem_width or self.widths[0], []
        for stage, (repeats, width) in enumerate(zip(self.arch.repeats, self.widths, strict=True)):
            blocks, last = [], stage + 1 == len(self.widths)
            for index in range(repeats):
                halves = not last and index + 1 == repeats if self.variant.stride_last else stage > 0 and index == 0
                block, C = self.block(stage, index, C, width, 2 if halves else 1)
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
        outs = [width * (self.arch.inner if m == 1 else m) for m in self.multiples]
        stride_at = self.variant.stride_at if self.arch.block == "bottleneck" else 0
        before, branch, channels = [], [], C
        for i, (kernel, O) in enumerate(zip(self.kernels, outs, strict=True)):
            spot = {**where, "i": i + 1, "abc": "abc"[i], "before": i or "preact"}
            last = i + 1 == len(outs)
            bias = self.variant.conv_bias and (last or self.variant.bias_before_norm)
            more = {"stride": stride if i == stride_at else 1, "groups": self.arch.groups if kernel > 1 else 1}
            conv = self.conv(self.names.conv.format(**spot), channels, O, kernel, bias=bias, **more)
            norm, relu = self.names.norm.format(**spot), ReLU(f"{unit}.relu{i + 1}")
            if self.config.preact:
                (before if i == 0 else branch).extend([*self.norm(norm, channels), relu])
                branch.append(conv)
            else:
                branch += [conv, *self.norm(norm, O)]
                if not last:
                    branch.append(relu)
            channels = O
        self._set_last_gamma(branch)
        if self.arch.reduction:
            settings = {"init": self.config.init, "seed": self.config.seed}
            branch.append(SqueezeExcite(f"{unit}.se", channels, self.arch.reduction, **settings))
        shortcut = self._shortcut(where, unit, C, channels, stride)
        return Block(
            unit,
            Sequential(*branch, name=f"{unit}.branch"),
            shortcut,
            before=Sequential(*before, name=f"{unit}.before") if before else None,
            after=None if self.config.preact else relu,
            clean=isinstance(shortcut, Sequential) and not shortcut.params(),
        ), channels

    def _shortcut(self, where, unit, C, O, stride):
        if not self.config.skip:
            return None
        if C == O and stride == 1:
            return Block.IDENTITY
        name = f"{unit}.shortcut"
        if self.config.shortcut == "A" or (C == O and self.variant.stride_last):
            return Sequential(Subsample(f"{unit}.subsample", stride, C, O), name=name)
        pooled = self.arch.average and stride > 1
        spot = {**where, "conv": int(self.arch.average), "norm": 1 + self.arch.average}
        conv, norm = (name.format(**spot) for name in self.names.shortcut)
        layers = [self.conv(conv, C, O, 1, 1 if pooled else stride)]
        if pooled:
            pool = AvgPool2d(f"{unit}.shortcut_pool", 2, stride, ceil_mode=True, count_include_pad=False)
            layers.insert(0, pool)
        if not self.config.preact and not self.variant.bare_shortcut:
            layers += self.norm(norm, O)
        return Sequential(*layers, name=name)

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
        if self.variant.head == "flatten" and self.arch.stem != "cifar":
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

    Unless told otherwise the plain ImageNet networks (resnet18, 34, 50, 101, 152) take the conventions of variant
    'course', all others those of 'v1.5', in which PyTorch's files are. shortcut="A": the paper's own shortcuts for
    CIFAR, which have no parameters.

    input_shape (H, W, C); logits (N, classes) come out. ConfigError for an unknown name or option, ShapeError for
    images that are too small.

    >>> model = minires.resnet("resnet20", (32, 32, 3), classes=10)
    >>> model.parameter_count()[0]
    272474
    >>> minires.resnet("resnet20", (32, 32, 3), classes=10, shortcut="A").parameter_count()[0]
    269722
    >>> plain = minires.resnet("resnet20", (32, 32, 3), classes=10, skip=False)  # its plain twin
    >>> logits = model.forward(numpy.zeros((2, 32, 32, 3), "float32"))
    >>> logits.shape
    (2, 10)
    """
    if arch in ARCHITECTURES:
        options.setdefault("variant", ARCHITECTURES[arch].variant)
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
