"""Inference with batch normalisation folded into the convolutions.

In evaluation batch normalisation is y = gamma * (x - mean) * rstd + beta with constants, so behind a
convolution x = u w + b it disappears: y = u w' + b' with w' = w * gamma * rstd, o by o, and
b' = beta + (b - mean) * gamma * rstd. B. Jacob et al., arXiv:1712.05877, section 3.2.
"""

import copy
import weakref
from functools import partial
from itertools import pairwise

from minires.backend import Array, device_of, get_xp
from minires.fast import cpu, fuse
from minires.fast.check import check_inference
from minires.fast.cpu import Weights
from minires.fast.cpu.replay import Replay
from minires.fast.fused_ops import conv2d_add_relu, norm_add_relu_forward
from minires.fast.gpu import kernels
from minires.fast.gpu.graph import Replay as GraphReplay
from minires.geometry import resolve_padding
from minires.nn.conv import Conv2d, ZeroPad2d
from minires.nn.dense import Dense
from minires.nn.module import Module, Param, Sequential, check_channels, inference
from minires.nn.norm import BatchNorm


class FoldedConv(Module):
    """relu(conv(x, w) + b + shortcut), the last two if asked for; weights of its own."""

    def __init__(self, conv: Conv2d, norm: BatchNorm, relu: bool):
        super().__init__(conv.name)
        self.check_input, self.relu, self.window = conv.check_input, relu, conv.window
        slope = norm.gamma.data * _rstd(norm)
        bias = -norm.mean.data if conv.b is None else conv.b.data - norm.mean.data
        self.weights, self.b = Weights(conv.w.data * slope), norm.beta.data + bias * slope

    def forward(self, x: Array, shortcut: Array | None = None) -> Array:
        self.check_input(x)
        return conv2d_add_relu(x, self.weights, self.b, shortcut, self.relu, **self.window)


class FoldedDense(Module):
    """y = x w + b, a convolution of one pixel, whose weights may be packed; of its own."""

    def __init__(self, dense: Dense):
        super().__init__(dense.name)
        self.weights = Weights(dense.w.data[None, None].copy())
        self.b = None if dense.b is None else dense.b.data.copy()

    def forward(self, x: Array) -> Array:
        check_channels(self, x.shape[1:], self.weights.shape[2], 1)
        return conv2d_add_relu(x[:, None, None], self.weights, self.b, None, False)[:, 0, 0]


class FoldedNorm(Module):
    """Batch normalisation where no convolution is before it, then ReLU if asked for."""

    def __init__(self, norm: BatchNorm, relu: bool):
        super().__init__(norm.name)
        state = norm.gamma.data.copy(), norm.beta.data.copy(), norm.mean.data.copy()
        self.relu, self.constants = relu, (*state, _rstd(norm))

    def forward(self, x: Array, shortcut: Array | None = None) -> Array:
        return norm_add_relu_forward(x, *self.constants, shortcut, self.relu)


def _rstd(norm):
    return 1 / get_xp(norm.var.data).sqrt(norm.var.data + norm.epsilon)


def _padding_taken_in(layers: list) -> list:
    """Zeros around the image, then a convolution that adds none: the convolution adds them, and nothing is copied."""
    for i, (pad, conv) in enumerate(pairwise(layers)):
        if isinstance(pad, ZeroPad2d) and isinstance(conv, Conv2d) and conv.pad in ("valid", 0):
            conv = copy.copy(conv)
            conv.pad = resolve_padding(pad.pad, (1, 1), (1, 1), (1, 1))
            return [*layers[:i], *_padding_taken_in([conv, *layers[i + 2 :]])]
    return layers


class _Folder(fuse.Fuser):
    def chain(self, layers):
        return super().chain(_padding_taken_in(layers))

    def normalised(self, conv, norm, relu):
        return [FoldedNorm(norm, relu) if conv is None else FoldedConv(conv, norm, relu)]

    def layer(self, module: Module):
        """A copy of its own, whose weights and modes nobody changes."""
        if isinstance(module, Dense):
            return FoldedDense(module)
        twin = copy.copy(module)
        for key, value in vars(module).items():
            if isinstance(value, Param):
                setattr(twin, key, Param(value.name, value.data.copy(), decay=value.decay))
        return twin


def _folded(model):
    net = _Folder().network(model)
    for module in net.modules():
        module.training = module.save_for_backward = False
    return net


_checked = weakref.WeakSet()  # models that were compared with their layers


def _copied(replay, x):
    """A graph's result is good until the next call."""
    return replay(x).copy()


class Predictor:
    """A network as it is now, for inference: `predictor(x)` gives the logits.

    Later changes to the model's weights do not reach it. Nothing is kept for a backward pass. Its normalisations are
    folded and its kernels recorded (cpu/replay.py, or as a graph on a GPU, gpu/graph.py: `graph`). by_layers, or where
    a part is not the library's own: the layers as they stand; `how` says which and why. Before a model's first batch it
    is compared with the layers (check.py), unless told not to.
    """

    def __init__(self, model: Sequential, *, by_layers: bool = False, check: bool = True, graph: bool = True):
        self.unchecked = model if check and model not in _checked else None
        self.reason = "asked for" if by_layers else fuse.reason_against(model)
        self.how = f"layer by layer: {self.reason}" if self.reason else "folded"
        self.net = model if self.reason else _folded(model)
        if self.reason:
            return
        weights = next((p.data for p in model.params()), None)
        if weights is None:  # a pool, say
            self.forward = self.net.forward
        elif device_of(weights) == "cpu":
            self.forward = self.replay = Replay(self.net.forward)
        elif kernels.available(weights):
            self.replay = GraphReplay(get_xp(weights), self.net.forward, "" if graph else "asked for none")
            self.forward = partial(_copied, self.replay)
        else:
            self.forward = self.net.forward

    def __call__(self, x: Array) -> Array:
        """Logits (N, K) for the network's input x (N, H, W, C)."""
        if self.unchecked is not None:
            self._check(x)
        if not self.reason:
            return self.forward(x)
        with inference(self.net):
            return self.net.forward(x)

    def _check(self, x):
        model, self.unchecked = self.unchecked, None
        if len(x) and (not self.reason or device_of(x) == "gpu" or cpu.enabled()):
            make_net = (lambda twin: twin) if self.reason else _folded
            check_inference(model, make_net, x, whole=bool(self.reason))
        _checked.add(model)
