"""Dense networks without biases, for clean rates: lessons 3 to 5 measure on them.

No padding, no strides, no pooling: what is left is the weight matrix, the ReLU, batch normalisation and the skip.
Composed of the library's modules; parameters are named by layer, so that the plain and the residual stack of one
seed have the same weights.
"""

from typing import Literal

import numpy as np

from minires.backend import blas_threads
from minires.errors import ConfigError
from minires.nn import BatchNorm, Block, Dense, Param, ReLU, Sequential
from minires.nn.probe import rms

SKIPS = {"none": "plain", "pre": "pre-act. residual", "post": "post-act. residual"}
# BN's epsilon, next to nothing: so the weights' scale cancels to many digits. With 1e-5 the little that is left of it
# is enough to change every number in the third digit: a deep plain network with BN amplifies any difference.
EPSILON = 1e-12
# knobs that choose one or all of the kinds
Skip = Literal["all", "none", "pre", "post"]
Norm = Literal["both", "on", "off"]
Init = Literal["both", "he", "glorot"]


def kinds(skip: str, bn: str, init: str) -> list[dict]:
    """The arguments skip, bn and init of `dense_stack` for every kind that the three knobs choose."""
    skips = tuple(SKIPS) if skip == "all" else (skip,)
    norms = {"both": (False, True), "on": (True,), "off": (False,)}[bn]
    inits = ("he", "glorot") if init == "both" else (init,)
    return [{"skip": s, "bn": b, "init": i} for s in skips for b in norms for i in inits]


def label(skip: str, bn: bool, init: str) -> str:
    """'plain, BN, He'."""
    return f"{SKIPS[skip]}, {'BN' if bn else 'no BN'}, {init.capitalize()}"


def dense_stack(depth: int, width: int, *, skip: str = "none", bn: bool = False, init: str = "he", seed: int = 0):
    """A Sequential of units on (N, width), in float64, `depth` dense layers in all.

    skip "none"  depth units         relu(bn(x w))
         "pre"   depth / 2 blocks    x + F(x), F = two times (bn, relu, w): arXiv:1603.05027, figure 4 e
         "post"  depth / 2 blocks    relu(x + F(x)), F = w, bn, relu, w, bn: arXiv:1512.03385, section 3.2
    init: 'he' (normal) or 'glorot' (uniform).
    """
    if depth < 2 or depth % 2:
        raise ConfigError(f"--depth: expected an even number of layers, two for each block, got {depth}")
    if width < 2:
        raise ConfigError(f"--width: expected 2 or more units, got {width}")
    layers = [_Layer(i, width, bn, init, seed) for i in range(1, depth + 1)]
    if skip == "none":
        units = [Sequential(layer.dense, *layer.norm, layer.relu, name=layer.name) for layer in layers]
    else:
        pairs = zip(layers[::2], layers[1::2], strict=True)
        units = [_block(f"block{i}", *pair, skip) for i, pair in enumerate(pairs, 1)]
    return Sequential(*units, name=f"{skip}{depth}").astype(np.float64)


class _Layer:
    """The modules of layer i, from which either kind of network is composed."""

    def __init__(self, i, width, bn, init, seed):
        self.name = f"layer{i}"
        self.dense = Dense(f"dense{i}", width, width, bias=False, init=init, seed=seed)
        self.norm = [BatchNorm(f"bn{i}", width, epsilon=EPSILON)] if bn else []
        self.relu = ReLU(f"relu{i}")


def kernels(network: Sequential) -> list[Param]:
    """The weight matrices from input to output, without the parameters of batch normalisation."""
    return [p for p in network.params() if p.data.ndim == 2]


def _block(name, one: _Layer, two: _Layer, skip: str) -> Block:
    if skip == "pre":
        before = Sequential(*one.norm, one.relu, name=f"{name}.before")
        branch = Sequential(one.dense, *two.norm, two.relu, two.dense, name=f"{name}.branch")
        return Block(name, branch, Block.IDENTITY, before=before)
    branch = Sequential(one.dense, *one.norm, one.relu, two.dense, *two.norm, name=f"{name}.branch")
    return Block(name, branch, Block.IDENTITY, after=two.relu)


def gradient_by_depth(network: Sequential, batch: int, seed: int) -> list[float]:
    """RMS of dL/dy at the network's input and after each unit, for one random batch and a random gradient at the end.

    The activation gradient; the weight gradients of the same pass are in `kernels(network)` afterwards.
    """
    if batch < 2:
        raise ConfigError(f"--batch: expected 2 or more rows, got {batch}")
    rng = np.random.default_rng([seed, 3])
    x = rng.standard_normal((batch, kernels(network)[0].data.shape[0]))
    with blas_threads(1):  # the products are small: more threads gain nothing
        dy = rng.standard_normal(network.forward(x).shape)
        sizes = [rms(dy)]
        for unit in reversed(network.layers):
            dy = unit.backward(dy)
            sizes.append(rms(dy))
    return [float(size) for size in reversed(sizes)]
