"""What each kind of layer computes and hands back: the formula, a sentence, and the op that does it.

The letters are those of minires.ops: x and y forward, dx and dy backward, w, b, gamma and beta the parameters.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from minires import nn, ops
from minires.nn.module import Module


@dataclass(frozen=True)
class Maths:
    """One direction of one kind of step."""

    formula: str
    says: str
    ops: tuple[Callable, ...]

    def sources(self) -> dict[str, str]:
        """Name -> source code of each op."""
        return {op.__qualname__: textwrap.dedent(inspect.getsource(op)).removeprefix("@compiled\n") for op in self.ops}


def _both(forward: tuple, backward: tuple) -> dict[str, Maths]:
    return {
        direction: Maths(formula, says, tuple(used))
        for direction, (formula, says, *used) in (("forward", forward), ("backward", backward))
    }


MATHS = {
    nn.ZeroPad2d: _both(
        ("y = x with a frame of zeros", "Zeros around the map let the windows reach the edge.", ops.zero_pad2d_forward),
        (
            "dx = dy without the frame",
            "The zeros came from no input: their gradient is dropped.",
            ops.zero_pad2d_backward,
        ),
    ),
    nn.Conv2d: _both(
        (
            "y = w ∗ x + b",
            "Each output pixel is a weighted sum over a window of all input channels.",
            ops.conv2d_forward,
        ),
        (
            "dw = Xᵀ dy,   dx = dy wᵀ,   db = Σ dy",
            "The input that was kept meets the arriving gradient and gives the weight gradient; the weights carry "
            "the gradient on.",
            ops.conv2d_backward,
        ),
    ),
    nn.BatchNorm: _both(
        (
            "y = γ (x − μ) / √(σ² + ε) + β",
            "Each channel is brought to mean 0 and variance 1 over the batch, then scaled and shifted.",
            ops.batchnorm_statistics,
            ops.batchnorm_forward,
        ),
        (
            "dx = γ/σ · (dy − mean dy − x̂ · mean(dy x̂))",
            "What flows back through the mean and the variance is subtracted; dividing by σ rescales the rest.",
            ops.batchnorm_backward,
        ),
    ),
    nn.GroupNorm: _both(
        (
            "y = γ (x − μ) / √(σ² + ε) + β",
            "Each group of channels of each image is brought to mean 0 and variance 1, then scaled and shifted.",
            ops.groupnorm_statistics,
            ops.groupnorm_forward,
        ),
        (
            "dx = (g − mean g − x̂ · mean(g x̂)) / σ,   g = γ dy",
            "What flows back through a group's mean and variance is subtracted; dividing by σ rescales the rest.",
            ops.groupnorm_backward,
        ),
    ),
    nn.ReLU: _both(
        ("y = max(x, 0)", "Negative values become zero.", ops.relu_forward),
        (
            "dx = dy where y > 0, else 0",
            "The gradient passes where the unit was on and stops where it was off.",
            ops.relu_backward,
        ),
    ),
    nn.MaxPool2d: _both(
        ("y = the largest x of each window", "Each window keeps its largest value.", ops.maxpool_forward),
        (
            "dx = dy at each window's maximum",
            "Only the winner of a window receives its gradient.",
            ops.maxpool_backward,
        ),
    ),
    nn.AvgPool2d: _both(
        ("y = the mean of each window", "Each window is replaced by its mean.", ops.avgpool_forward),
        ("dx = dy / cells of the window", "Each cell of a window receives an equal share.", ops.avgpool_backward),
    ),
    nn.GlobalAvgPool2d: _both(
        ("y[n, c] = the mean of channel c's map", "Each channel becomes one number.", ops.global_avgpool_forward),
        ("dx = dy / (H W) everywhere", "Each pixel receives an equal share.", ops.global_avgpool_backward),
    ),
    nn.Flatten: _both(
        ("y = x as one row an image", "The same numbers in another shape.", ops.flatten_forward),
        ("dx = dy in the shape of x", "The same numbers, back in their shape.", ops.flatten_backward),
    ),
    nn.Dropout: _both(
        ("y = x · keep / (1 − rate)", "Units are dropped at random, the others scaled up.", ops.dropout_forward),
        ("dx = dy · keep / (1 − rate)", "The mask of the forward pass is applied again.", ops.dropout_backward),
    ),
    nn.Dense: _both(
        ("y = x w + b", "Each class scores a weighted sum of the features.", ops.dense_forward),
        (
            "dw = xᵀ dy,   dx = dy wᵀ,   db = Σ dy",
            "Input and arriving gradient give the weight gradient; the weights carry the gradient on.",
            ops.dense_backward,
        ),
    ),
    nn.Add: _both(
        ("y = F(x) + shortcut", "Two paths become one: their values add up.", ops.add_forward),
        (
            "dF = dy,   dshortcut = dy",
            "The gradient splits: both paths receive all of it, copied and not halved.",
            ops.add_backward,
        ),
    ),
}

LOSS = _both(
    (
        "L = −mean log p[label],   p = softmax(logits)",
        "The scores become probabilities; the loss is the surprise at the right answer.",
        ops.softmax_cross_entropy_forward,
    ),
    (
        "dlogits = (p − one-hot(label)) / N",
        "The gradient starts here: probability minus truth, over the batch size.",
        ops.softmax_cross_entropy_backward,
    ),
)

# What a layer's slot holds, in the order in which `forward` saves it; shapes that a slot holds cost nothing.
KEPT = {
    nn.Conv2d: ("x",),
    nn.Dense: ("x",),
    nn.BatchNorm: ("x", "mean", "rstd"),
    nn.GroupNorm: ("x", "mean", "rstd"),
    nn.ReLU: ("y",),
    nn.MaxPool2d: ("x", "y"),
    nn.Dropout: ("keep",),
}

FORK = Maths(
    "dx = dx via branch + dx via shortcut",
    "x went both ways, so what comes back through the two paths adds up.",
    (nn.Block.backward,),
)


def maths(layer: Module, direction: str) -> Maths:
    """The entry of the layer's kind; for a kind that is not in the library, its own method and docstring."""
    if type(layer) in MATHS:
        return MATHS[type(layer)][direction]
    text = (inspect.getdoc(type(layer)) or "").partition("\n")[0]
    return Maths("", text, (getattr(type(layer), direction),))
