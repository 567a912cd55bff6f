"""State over the ops: modules, thin layers, the residual block, the family of networks."""

from minires.nn.blocks import Add, Block
from minires.nn.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    MaxPool2d,
    ReLU,
    ZeroPad2d,
)
from minires.nn.module import Buffer, Module, Param, Sequential, inference
from minires.nn.resnet import ARCHITECTURES, VARIANTS, Config, ResNet, plain_twin, resnet, resnet50

__all__ = [
    "ARCHITECTURES",
    "VARIANTS",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "Block",
    "Buffer",
    "Config",
    "Conv2d",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "MaxPool2d",
    "Module",
    "Param",
    "ReLU",
    "ResNet",
    "Sequential",
    "ZeroPad2d",
    "inference",
    "plain_twin",
    "resnet",
    "resnet50",
]
