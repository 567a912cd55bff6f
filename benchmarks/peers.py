"""The same networks for PyTorch, onnxruntime and Keras: results in the tests, time and memory in the benchmarks.

`to_torch(model)` mirrors a minires network layer by layer, with its weights; `to_onnx_nchw(model, batch)` is what
minires exports, for images as onnxruntime likes them. `keras_course_resnet50` is written from the course's notebook,
independent of minires.
"""

import numpy as np

from minires import nn


def to_torch(model: nn.Module):
    """A torch.nn.Module (NCHW) that computes what `model` computes, with a copy of its weights."""
    import torch
    from torch import nn as tnn

    class TorchBlock(tnn.Module):
        def __init__(self, block):
            super().__init__()
            self.before = convert(block.before) if block.before else tnn.Identity()
            self.branch = convert(block.branch)
            self.after = convert(block.after) if block.after else tnn.Identity()
            self.identity, self.from_x = block.shortcut == block.IDENTITY, block.from_x
            self.plain = block.shortcut is None
            self.shortcut = None if self.plain or self.identity else convert(block.shortcut)

        def forward(self, x):
            h = self.before(x)
            y = self.branch(h)
            if not self.plain:
                start = x if self.from_x else h
                y = y + (start if self.identity else self.shortcut(start))
            return self.after(y)

    class TorchBranches(tnn.Module):
        def __init__(self, branches):
            super().__init__()
            self.paths = tnn.ModuleList(map(convert, branches.paths))
            self.multiply = isinstance(branches.join, nn.Multiply)

        def forward(self, x):
            parts = [path(x) for path in self.paths]
            return parts[0] * parts[1][:, :, None, None] if self.multiply else torch.cat(parts, 1)

    class Subsample(tnn.Module):
        def __init__(self, m):
            super().__init__()
            self.stride, self.zeros = m.stride, m.zeros

        def forward(self, x):
            return tnn.functional.pad(x[:, :, :: self.stride[0], :: self.stride[1]], (0, 0, 0, 0, *self.zeros))

    class FlattenNHWC(tnn.Module):
        """In our order, which the weights behind it expect."""

        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    def tensor(param, axes=None):
        array = param.data if axes is None else param.data.transpose(axes)
        return tnn.Parameter(torch.from_numpy(np.ascontiguousarray(array).copy()))

    def convert(m):
        match m:
            case nn.Sequential():
                return tnn.Sequential(*map(convert, m.layers))
            case nn.Block():
                return TorchBlock(m)
            case nn.Branches():
                return TorchBranches(m)
            case nn.Conv2d():
                R, S, _, O = m.w.data.shape
                pad = 0 if m.pad == "valid" else m.pad
                more = {"dilation": m.dilation, "groups": m.groups, "bias": m.b is not None}
                layer = tnn.Conv2d(m.in_channels, O, (R, S), m.stride, pad, **more)
                layer.weight = tensor(m.w, (3, 2, 0, 1))
                if m.b is not None:
                    layer.bias = tensor(m.b)
                return layer
            case nn.BatchNorm():
                layer = tnn.BatchNorm2d(m.gamma.data.size, eps=m.epsilon, momentum=1 - m.momentum)
                layer.weight, layer.bias = tensor(m.gamma), tensor(m.beta)
                return layer.to(layer.weight.dtype)
            case nn.Dense():
                layer = tnn.Linear(*m.w.data.shape)
                layer.weight, layer.bias = tensor(m.w, (1, 0)), tensor(m.b)
                return layer
            case nn.ReLU():
                return tnn.ReLU()
            case nn.Sigmoid():
                return tnn.Sigmoid()
            case nn.Identity():
                return tnn.Identity()
            case nn.Subsample():
                return Subsample(m)
            case nn.ZeroPad2d():
                return tnn.ZeroPad2d(m.pad)
            case nn.MaxPool2d():
                return tnn.MaxPool2d(m.kernel, m.stride, m.pad)
            case nn.AvgPool2d():
                return tnn.AvgPool2d(m.kernel, m.stride, m.pad, m.ceil_mode, m.count_include_pad)
            case nn.GlobalAvgPool2d():
                return tnn.Sequential(tnn.AdaptiveAvgPool2d(1), tnn.Identity() if m.keep else tnn.Flatten())
            case nn.Flatten():
                return FlattenNHWC()
        raise TypeError(f"no PyTorch twin for {type(m).__name__}")

    return convert(model)


def torch_gradients(twin, model: nn.Module) -> dict[str, np.ndarray]:
    """Name (ours) -> gradient (in our layout) of every parameter of `to_torch(model)`, after its backward."""
    grads = {}
    for ours, theirs in zip(model.params(), twin.parameters(), strict=True):
        grad = theirs.grad.numpy()
        grads[ours.name] = grad.transpose(2, 3, 1, 0) if grad.ndim == 4 else grad.T if grad.ndim == 2 else grad
    return grads


def to_onnx_nchw(model: nn.Module, batch: int):
    """The exported network for so many images (N, C, H, W), without the transposition at its front."""
    from minires.weights.onnx import to_onnx

    proto = to_onnx(model)
    front, images = proto.graph.node[0], proto.graph.input[0]
    assert (front.op_type, front.input[0]) == ("Transpose", images.name)
    H, W, C = model.config.input_shape
    for size, axis in zip((batch, C, H, W), images.type.tensor_type.shape.dim, strict=True):
        axis.dim_value = size
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    images.name = front.output[0]
    proto.graph.node.remove(front)
    return proto


def keras_course_resnet50(input_shape=(64, 64, 3), classes=6):
    """The ResNet-50 of the course's notebook in Keras, not compiled."""
    from keras import Model, layers

    def unit(x, kernel, filters, stage, letter, stride, project):
        conv, norm = f"res{stage}{letter}_branch", f"bn{stage}{letter}_branch"
        y = x
        for part, (width, size) in zip("abc", zip(filters, (1, kernel, 1), strict=True), strict=True):
            y = layers.Conv2D(width, size, strides=stride if part == "a" else 1, padding="same", name=f"{conv}2{part}")(
                y
            )
            y = layers.BatchNormalization(name=f"{norm}2{part}")(y)
            if part != "c":
                y = layers.ReLU()(y)
        if project:
            x = layers.Conv2D(filters[-1], 1, strides=stride, name=f"{conv}1")(x)
            x = layers.BatchNormalization(name=f"{norm}1")(x)
        return layers.ReLU()(layers.Add()([y, x]))

    inputs = layers.Input(input_shape)
    x = layers.ZeroPadding2D(3)(inputs)
    x = layers.Conv2D(64, 7, strides=2, name="conv1")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn_conv1")(x))
    x = layers.MaxPooling2D(3, strides=2)(x)
    for stage, (width, letters) in enumerate([(64, "abc"), (128, "abcd"), (256, "abcdef"), (512, "abc")], start=2):
        for letter in letters:
            first = letter == "a"
            stride = 2 if first and stage > 2 else 1
            x = unit(x, 3, (width, width, 4 * width), stage, letter, stride, first)
    x = layers.Flatten()(layers.AveragePooling2D(2, name="avg_pool")(x))
    return Model(inputs, layers.Dense(classes, activation="softmax", name=f"fc{classes}")(x))
