"""The conventions of Keras and PyTorch by name, for layers that are built by hand.

    layers.BatchNorm("bn1", 64, **PRESETS["torch"].norm)
    layers.Conv2d("conv1", 3, 64, 3, stride=2, pad=PRESETS["keras"].padding(3))

Momentum is Keras's way round, the share that is kept: PyTorch's 0.1 is 0.9 here. PyTorch stores the running
variance over m - 1, Keras 3 the one over m. (Keras 2 with TensorFlow's fused kernel stored the one over m - 1
too: use `norm | {"unbiased": True}` to continue such a training.) With an even surplus, as at stride 2, Keras's
"same" pads at the bottom and right only, where PyTorch's habit, k // 2 on every side, shifts the window by one.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """norm: keyword arguments of BatchNorm; padding: kernel size -> `pad` that keeps the map's size at stride 1."""

    norm: dict
    padding: Callable[[int], object]


PRESETS = {
    "keras": Preset({"epsilon": 1e-3, "momentum": 0.99, "unbiased": False}, lambda kernel: "same"),
    "torch": Preset({"epsilon": 1e-5, "momentum": 0.9, "unbiased": True}, lambda kernel: kernel // 2),
}
