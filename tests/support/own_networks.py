"""Three networks of somebody's own: layers in a row, paths that are concatenated, a block with its own backward."""

from minires import nn


def vgg(input_shape, classes, seed=0):
    def stage(name, C, O):
        layers = []
        for i, channels in enumerate((C, O), 1):
            layers += [
                nn.Conv2d(f"{name}.conv{i}", channels, O, 3, pad=1, bias=True, seed=seed),
                nn.ReLU(f"{name}.relu{i}"),
            ]
        return nn.Sequential(*layers, nn.MaxPool2d(f"{name}.pool", 2), name=name)

    H, W, C = input_shape
    return nn.Network(
        stage("stage1", C, 8),
        stage("stage2", 8, 16),
        nn.Flatten("flatten"),
        nn.Dense("fc1", H // 4 * (W // 4) * 16, 32, init="he", seed=seed),
        nn.ReLU("relu1"),
        nn.Dropout("dropout", 0.2, seed=seed),
        nn.Dense("fc2", 32, classes, seed=seed),
        input_shape=input_shape,
        name="vgg",
    )


def fire(name, C, squeeze, expand, seed):
    def conv(part, channels, O, kernel):
        return [
            nn.Conv2d(f"{name}.{part}", channels, O, kernel, pad=kernel // 2, seed=seed),
            nn.BatchNorm(f"{name}.{part}_bn", O),
            nn.ReLU(f"{name}.{part}_relu"),
        ]

    paths = [nn.Sequential(*conv(f"expand{k}", squeeze, expand, k), name=f"{name}.way{k}") for k in (1, 3)]
    return nn.Sequential(*conv("squeeze", C, squeeze, 1), nn.Branches(f"{name}.expand", *paths), name=name)


def squeezenet(input_shape, classes, seed=0):
    return nn.Network(
        nn.Conv2d("conv1", input_shape[2], 16, 3, pad=1, seed=seed),
        nn.BatchNorm("bn1", 16),
        nn.ReLU("relu1"),
        nn.MaxPool2d("pool1", 2),
        fire("fire2", 16, 8, 16, seed),
        nn.MaxPool2d("pool2", 2),
        fire("fire3", 32, 8, 16, seed),
        nn.GlobalAvgPool2d("avg"),
        nn.Dense("fc", 32, classes, seed=seed),
        input_shape=input_shape,
        name="squeezenet",
    )


class SEBlock(nn.Composite):
    """y = relu(x + s(f(x))) with s the squeeze and excitation."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name)
        self.branch = nn.Sequential(
            nn.Conv2d(f"{name}.conv1", channels, channels, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn1", channels),
            nn.ReLU(f"{name}.relu1"),
            nn.Conv2d(f"{name}.conv2", channels, channels, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn2", channels),
            name=f"{name}.branch",
        )
        self.gate = nn.Sequential(
            nn.GlobalAvgPool2d(f"{name}.squeeze"),
            nn.Dense(f"{name}.fc1", channels, channels // 4, seed=seed),
            nn.ReLU(f"{name}.gate_relu"),
            nn.Dense(f"{name}.fc2", channels // 4, channels, seed=seed),
            name=f"{name}.gate",
        )
        self.scale, self.add, self.relu = nn.Multiply(f"{name}.scale"), nn.Add(f"{name}.add"), nn.ReLU(f"{name}.relu")

    def flow(self, x, visit):
        f = visit(self.branch, x)
        return visit(self.relu, visit(self.add, visit(self.scale, f, visit(self.gate, f)), x))

    def backward(self, dy, need_dx=True):
        dscaled, dx = self.add.backward(self.relu.backward(dy))
        df, dgate = self.scale.backward(dscaled)
        return self.branch.backward(df + self.gate.backward(dgate)) + dx


def senet(input_shape, classes, seed=0):
    stem = [nn.Conv2d("conv1", input_shape[2], 16, 3, pad=1, seed=seed), nn.BatchNorm("bn1", 16), nn.ReLU("relu1")]
    blocks = [SEBlock(f"block{i}", 16, seed=seed) for i in (1, 2)]
    return nn.Sequential(
        *stem, *blocks, nn.GlobalAvgPool2d("avg"), nn.Dense("fc", 16, classes, seed=seed), name="senet"
    )
