"""Inference with batch normalisation folded into the convolutions.

In evaluation batch normalisation is y = gamma * (x - mean) * rstd + beta with constants, so behind a
convolution x = u w + b it disappears: y = u w' + b' with w' = w * gamma * rstd, o by o, and
b' = beta + (b - mean) * gamma * rstd. B. Jacob et al., arXiv:1712.05877, section 3.2.
"""

import copy
from itertools import pairwise

from minires.fast.cpu import Weights
from minires.fast.cpu.replay import Replay
from minires.fast.fuse import FusedSequential, Rewriter, folded, rewritable
from minires.fast.fused_ops import conv2d_add_relu
from minires.fast.gpu.network import InferenceOnGpu, OnGpu
from minires.geometry import resolve_padding
from minires.nn.layers import Conv2d, ReLU, ZeroPad2d
from minires.nn.module import Module, Sequential, inference


class FoldedConv(Module):
    """relu(conv(x, w) + b + shortcut), the last two if asked for; weights of its own."""

    def __init__(self, conv, norm, relu: bool):
        super().__init__(conv.name)
        self.check_input, self.relu, self.window = conv.check_input, relu, {"stride": conv.stride, "pad": conv.pad}
        w, self.b = folded(conv, norm)
        self.weights = Weights(w)

    def forward(self, x, shortcut=None):
        self.check_input(x)
        return conv2d_add_relu(x, self.weights, self.b, shortcut, self.relu, **self.window)


def _padding_taken_in(layers: list) -> list:
    """Zeros around the image, then a convolution that adds none: the convolution adds them, and nothing is copied."""
    layers = list(layers)
    for i, (pad, conv) in enumerate(pairwise(layers)):
        if isinstance(pad, ZeroPad2d) and isinstance(conv, Conv2d) and conv.pad in ("valid", 0):
            conv = copy.copy(conv)
            conv.pad = resolve_padding(pad.pad, (1, 1), (1, 1), (1, 1))
            return [*layers[:i], *_padding_taken_in([conv, *layers[i + 2 :]])]
    return layers


class _Folder(Rewriter):
    def chain(self, layers):
        return super().chain(_padding_taken_in(layers))

    def normalised(self, conv, norm, relu):
        if conv is not None:
            return [FoldedConv(conv, norm, relu)]
        return [self.layer(norm), *([ReLU(f"{norm.name}.relu")] if relu else [])]


class Predictor:
    """A network as it is now, for inference: `predictor(x)` gives the logits.

    Later changes to the model's weights do not reach it. Nothing is kept for a backward pass. A network with
    layers of the user's own runs as it is. On a GPU it runs by kernels, replayed as a graph (fast/gpu/network.py).
    """

    def __init__(self, model: Sequential):
        self.on_gpu = InferenceOnGpu(model) if OnGpu.fits(model) else None
        if self.on_gpu:
            return
        self.fused = rewritable(model)
        self.net = FusedSequential(*_Folder().chain(model.layers), name=model.name) if self.fused else model
        if self.fused:  # a copy of ours, whose modes nobody changes
            for module in self.net.modules():
                module.training = module.keeps = False
            self.forward = Replay(self.net.forward)

    def __call__(self, x):
        """Logits (N, K) for the network's input x (N, H, W, C)."""
        if self.on_gpu:
            return self.on_gpu(x)
        if self.fused:
            return self.forward(x)
        with inference(self.net):
            return self.net.forward(x)
