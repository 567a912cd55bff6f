"""State over the ops: modules, thin layers, joins, the residual block, any network, the family of ResNets."""

from minires.nn.activation import GELU, Dropout, Identity, LeakyReLU, ReLU, Sigmoid, StochasticDepth
from minires.nn.blocks import Block, SqueezeExcite
from minires.nn.conv import Conv2d, ZeroPad2d
from minires.nn.dense import Dense, Flatten
from minires.nn.join import Add, Branches, Concat, Multiply
from minires.nn.module import Buffer, Composite, Maths, Module, Param, Sequential, inference, walk
from minires.nn.network import Built, Network, as_network, build, register
from minires.nn.norm import BatchNorm, GroupNorm, LayerNorm
from minires.nn.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d, Subsample
from minires.nn.resnet import ARCHITECTURES, VARIANTS, Config, ResNet, from_config, plain_twin, resnet, resnet50

__all__ = [
    "ARCHITECTURES",
    "GELU",
    "VARIANTS",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "Block",
    "Branches",
    "Buffer",
    "Built",
    "Composite",
    "Concat",
    "Config",
    "Conv2d",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Maths",
    "MaxPool2d",
    "Module",
    "Multiply",
    "Network",
    "Param",
    "ReLU",
    "ResNet",
    "Sequential",
    "Sigmoid",
    "SqueezeExcite",
    "StochasticDepth",
    "Subsample",
    "ZeroPad2d",
    "as_network",
    "build",
    "from_config",
    "inference",
    "plain_twin",
    "register",
    "resnet",
    "resnet50",
    "walk",
]
