"""Inference with batch normalisation folded into the convolutions, and the batch shared between threads.

In evaluation batch normalisation is y = gamma * (x - mean) * rstd + beta with constants, so behind a
convolution x = u w + b it disappears: y = u w' + b' with w' = w * gamma * rstd, o by o, and
b' = beta + (b - mean) * gamma * rstd. B. Jacob et al., arXiv:1712.05877, section 3.2.
"""

from minires.backend import device_of, get_xp
from minires.nn.fastconv import FastConv, Kernels
from minires.nn.fuse import FusedSequential, Rewriter, folded, rewritable
from minires.nn.gpu import InferenceOnGpu, OnGpu
from minires.nn.layers import ReLU
from minires.nn.module import Module, Param, Sequential, inference
from minires.ops.fused import shift_add_relu
from minires.team import Team, spans, usual_size


class FoldedConv(Module):
    """relu(conv(x, w) + b + shortcut), the last two if asked for; weights of its own."""

    def __init__(self, conv, norm, relu: bool):
        super().__init__(conv.name)
        w, self.b = folded(conv, norm)
        w = Param(conv.w.name, w)
        self.conv, self.relu = FastConv(conv, w, None, Kernels()), relu

    def forward(self, x, shortcut=None):
        return shift_add_relu(self.conv.forward(x), self.b, shortcut, self.relu)


class _Folder(Rewriter):
    def normalised(self, conv, norm, relu):
        if conv is not None:
            return [FoldedConv(conv, norm, relu)]
        return [self.layer(norm), *([ReLU(f"{norm.name}.relu")] if relu else [])]


class Predictor:
    """A network as it is now, for inference: `predictor(x)` gives the logits.

    Later changes to the model's weights do not reach it. Nothing is kept for a backward pass. A network with
    layers of the user's own runs as it is. On a GPU it runs by kernels, replayed as a graph (nn/gpu.py).
    """

    def __init__(self, model: Sequential):
        self.on_gpu = InferenceOnGpu(model) if OnGpu.fits(model) else None
        if self.on_gpu:
            return
        self.net = FusedSequential(*_Folder().chain(model.layers), name=model.name) if rewritable(model) else model

    def __call__(self, x):
        """Logits (N, K) for the network's input x (N, H, W, C)."""
        if self.on_gpu:
            return self.on_gpu(x)
        size = min(usual_size(), len(x)) if device_of(x) == "cpu" else 1
        parts = spans(len(x), size)
        with inference(self.net):
            if size == 1:
                return self.net.forward(x)
            with Team(size) as team:
                return get_xp(x).concatenate(team.run(lambda m: self.net.forward(x[parts[m.rank]])))
