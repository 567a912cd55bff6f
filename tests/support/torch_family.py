"""The relatives of ResNet in PyTorch, written from torchvision's and timm's networks, with their parameters' names.

Nothing of minires is used: what our networks are held against.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPANSION = 4


class SEModule(nn.Module):
    """timm's: squeeze, two 1x1 convolutions, sigmoid."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x):
        scale = x.mean((2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(scale))).sigmoid()


class Bottleneck(nn.Module):
    def __init__(self, C, planes, stride, groups, base_width, average, se):
        super().__init__()
        width, out = int(planes * base_width / 64) * groups, planes * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(C, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.se = SEModule(out) if se else None
        self.downsample = None
        if stride > 1 or out != C:
            layers = [nn.Conv2d(C, out, 1, stride, bias=False), nn.BatchNorm2d(out)]
            if average:
                pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
                layers = [pool, nn.Conv2d(C, out, 1, bias=False), nn.BatchNorm2d(out)]
            self.downsample = nn.Sequential(*layers)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        y = y if self.se is None else self.se(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision.models.ResNet of bottlenecks; deep, average, se: as timm.models.resnet has them."""

    def __init__(self, repeats, classes, widths, groups=1, base_width=64, deep=False, average=False, se=False):
        super().__init__()
        C = widths[0]
        self.conv1 = nn.Conv2d(3, C, 7, 2, 3, bias=False)
        if deep:
            first = nn.Conv2d(3, C // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(C // 2), nn.ReLU()
            second = nn.Conv2d(C // 2, C // 2, 3, 1, 1, bias=False), nn.BatchNorm2d(C // 2), nn.ReLU()
            self.conv1 = nn.Sequential(*first, *second, nn.Conv2d(C // 2, C, 3, 1, 1, bias=False))
        self.bn1 = nn.BatchNorm2d(C)
        for stage, (count, planes) in enumerate(zip(repeats, widths, strict=True)):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(Bottleneck(C, planes, stride, groups, base_width, average, se))
                C = planes * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(C, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


FIFTY, HUNDRED_AND_ONE = (3, 4, 6, 3), (3, 4, 23, 3)
FAMILY = {  # name -> what torchvision or timm calls its constructor with
    "resnext50_32x4d": (FIFTY, {"groups": 32, "base_width": 4}),
    "resnext101_32x8d": (HUNDRED_AND_ONE, {"groups": 32, "base_width": 8}),
    "wide_resnet50_2": (FIFTY, {"base_width": 128}),
    "wide_resnet101_2": (HUNDRED_AND_ONE, {"base_width": 128}),
    "se_resnet50": (FIFTY, {"se": True}),
    "resnet50d": (FIFTY, {"deep": True, "average": True}),
}


def torch_network(name, classes=1000, widths=(64, 128, 256, 512)):
    """A network of FAMILY."""
    repeats, options = FAMILY[name]
    return ResNet(repeats, classes, widths, **options)


class CifarBlock(nn.Module):
    """Of the CIFAR networks with option A, as the public weights have it: no parameters in the shortcut."""

    def __init__(self, C, planes, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.shrinks, self.zeros = stride > 1, planes // 4

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shrinks:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """Depth 6n + 2 with option A; public weights have a head called `linear`."""

    def __init__(self, n, classes=10, head="linear"):
        super().__init__()
        self.conv1, self.bn1, C = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), 16
        for stage, planes in enumerate((16, 32, 64)):
            blocks = [CifarBlock(C if i == 0 else planes, planes, 2 if stage and not i else 1) for i in range(n)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            C = planes
        self.head = head
        self.add_module(head, nn.Linear(64, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return getattr(self, self.head)(x.mean((2, 3)))


class WideBlock(nn.Module):
    """BN, ReLU, 3x3 twice; a projection starts behind the first ReLU."""

    def __init__(self, C, planes, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(C), nn.Conv2d(C, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        same = planes == C and stride == 1
        self.downsample = None if same else nn.Sequential(nn.Conv2d(C, planes, 1, stride, bias=False))

    def forward(self, x):
        h = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(h))))
        return y + (x if self.downsample is None else self.downsample(h))


class WideResNet(nn.Module):
    """WRN-28 of S. Zagoruyko, N. Komodakis, arXiv:1605.07146, table 1."""

    def __init__(self, widths=(160, 320, 640), classes=10):
        super().__init__()
        self.conv1, C = nn.Conv2d(3, 16, 3, 1, 1, bias=False), 16
        for stage, planes in enumerate(widths):
            blocks = [WideBlock(C if i == 0 else planes, planes, 2 if stage and not i else 1) for i in range(4)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            C = planes
        self.post_bn, self.fc = nn.BatchNorm2d(C), nn.Linear(C, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(F.relu(self.post_bn(x)).mean((2, 3)))


def not_as_it_starts(twin, seed=0):
    """`twin` in float64, with every parameter and running statistic moved off the values that it starts from."""
    generator = torch.Generator().manual_seed(seed)
    twin.double()
    with torch.no_grad():
        for name, array in twin.state_dict().items():
            if array.ndim == 1:
                noise = torch.rand(array.shape, generator=generator, dtype=array.dtype)
                array += 0.2 * (noise if name.endswith("var") else noise - 0.5)
    return twin
