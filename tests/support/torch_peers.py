"""PyTorch's ResNets, written from the architecture and its names; and as other libraries call their layers."""

import re

import numpy as np

from minires import nn

CLASSES = 7
WIDTHS = (4, 6, 8, 10)
KINDS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}

# of the stem's two layers, the nth of a block's branch, the projection, the classifier; {s} and {b} from 0, {i} from 0
NAMINGS = {
    "Hugging Face": (
        ("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"),
        ("resnet.encoder.stages.{s}.layers.{b}.layer.{i}.convolution",
         "resnet.encoder.stages.{s}.layers.{b}.layer.{i}.normalization"),
        ("resnet.encoder.stages.{s}.layers.{b}.shortcut.convolution",
         "resnet.encoder.stages.{s}.layers.{b}.shortcut.normalization"),
        "classifier.1",
    ),
    "kuangliu/pytorch-cifar": (
        ("conv1", "bn1"),
        ("layer{s1}.{b}.conv{i1}", "layer{s1}.{b}.bn{i1}"),
        ("layer{s1}.{b}.shortcut.0", "layer{s1}.{b}.shortcut.1"),
        "linear",
    ),
    "weiaicunzai/pytorch-cifar100": (
        ("conv1.0", "conv1.1"),
        ("conv{s2}_x.{b}.residual_function.{i3}", "conv{s2}_x.{b}.residual_function.{i31}"),
        ("conv{s2}_x.{b}.shortcut.0", "conv{s2}_x.{b}.shortcut.1"),
        "fc",
    ),
    "pytorchcv": (
        ("features.init_block.conv.conv", "features.init_block.conv.bn"),
        ("features.stage{s1}.unit{b1}.body.conv{i1}.conv", "features.stage{s1}.unit{b1}.body.conv{i1}.bn"),
        ("features.stage{s1}.unit{b1}.identity_conv.conv", "features.stage{s1}.unit{b1}.identity_conv.bn"),
        "output",
    ),
    "detectron2": (
        ("stem.conv1", "stem.conv1.norm"),
        ("res{s2}.{b}.conv{i1}", "res{s2}.{b}.conv{i1}.norm"),
        ("res{s2}.{b}.shortcut", "res{s2}.{b}.shortcut.norm"),
        "linear",
    ),
    "mmpretrain": (
        ("backbone.conv1", "backbone.bn1"),
        ("backbone.layer{s1}.{b}.conv{i1}", "backbone.layer{s1}.{b}.bn{i1}"),
        ("backbone.layer{s1}.{b}.downsample.0", "backbone.layer{s1}.{b}.downsample.1"),
        "head.fc",
    ),
}  # fmt: skip


def renamed(state: dict, naming: str) -> dict:
    """A state_dict of `torchvision_resnet` as another library calls its layers."""
    stem, branch, shortcut, head = NAMINGS[naming]

    def new(name: str) -> str:
        layer, _, part = name.rpartition(".")
        if layer == "fc":
            return f"{head}.{part}"
        inside = re.fullmatch(r"layer(\d+)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.(\d))", layer)
        if not inside:
            return f"{stem[layer == 'bn1']}.{part}"
        s, b, kind, i, side = inside[1], inside[2], inside[3], int(inside[4] or 1), inside[5]
        template = shortcut[int(side)] if side else branch[kind == "bn"]
        numbers = {"s": int(s) - 1, "s1": s, "s2": int(s) + 1, "b": b, "b1": int(b) + 1}
        return f"{template.format(**numbers, i=i - 1, i1=i, i3=3 * i - 3, i31=3 * i - 2)}.{part}"

    return {new(name): tensor for name, tensor in state.items()}


def torchvision_resnet(torch, kind, repeats, widths=(64, 128, 256, 512), classes=CLASSES, small=False):
    """torchvision.models.resnet*: attribute names make the state_dict's keys; the 3x3 strides (v1.5).

    small: as CIFAR's repositories have it, a stem of one 3x3 convolution.
    """
    tnn = torch.nn

    class Unit(tnn.Module):
        def __init__(self, channels, width, stride):
            super().__init__()
            if kind == "basic":
                shapes = [(channels, width, 3, stride), (width, width, 3, 1)]
            else:
                shapes = [(channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
            for i, (c, o, k, s) in enumerate(shapes, start=1):
                setattr(self, f"conv{i}", tnn.Conv2d(c, o, k, s, k // 2, bias=False))
                setattr(self, f"bn{i}", tnn.BatchNorm2d(o))
            self.count, self.out, self.downsample = len(shapes), shapes[-1][1], None
            if stride != 1 or channels != self.out:
                self.downsample = tnn.Sequential(
                    tnn.Conv2d(channels, self.out, 1, stride, bias=False), tnn.BatchNorm2d(self.out)
                )

        def forward(self, x):
            y = x
            for i in range(1, self.count + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                if i < self.count:
                    y = y.relu()
            return (y + (x if self.downsample is None else self.downsample(x))).relu()

    class ResNet(tnn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = tnn.Conv2d(3, widths[0], *((3, 1, 1) if small else (7, 2, 3)), bias=False)
            self.bn1, self.relu = tnn.BatchNorm2d(widths[0]), tnn.ReLU()
            self.maxpool = tnn.Identity() if small else tnn.MaxPool2d(3, 2, 1)
            self.stages = len(repeats)
            channels = widths[0]
            for stage, (count, width) in enumerate(zip(repeats, widths, strict=True)):
                units = []
                for index in range(count):
                    units.append(Unit(channels, width, 2 if stage and not index else 1))
                    channels = units[-1].out
                setattr(self, f"layer{stage + 1}", tnn.Sequential(*units))
            self.avgpool, self.fc = tnn.AdaptiveAvgPool2d(1), tnn.Linear(channels, classes)

        def forward(self, x):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            for stage in range(self.stages):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.fc(self.avgpool(x).flatten(1))

    torch.manual_seed(0)
    model = ResNet()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.ndim == 1:
                tensor += 0.2 * torch.rand_like(tensor)
    return model.eval()


def assert_same_logits(torch, model, twin, tolerance=1e-10):
    """In float64, on the same images."""
    model.astype(np.float64)
    x = np.random.default_rng(1).standard_normal((2, *model.config.input_shape))
    with nn.inference(model), torch.no_grad():
        expected = twin.double()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
        np.testing.assert_allclose(model(x), expected, rtol=0, atol=tolerance * np.abs(expected).max())
