"""Faults of files: weights that do not belong to the network, are none, or are damaged."""

import threading

import h5py
import numpy as np

import minires
from minires.train.folder import locked
from symptoms import layers as own
from symptoms.common import Collection, classifier, fitted, fruit, pair, recipe, run, small

symptoms = Collection("files")

H5 = "https://github.com/matterport/Mask_RCNN/issues/653"
SCRIPT = "https://github.com/pytorch/pytorch/issues/15570"


def loads(model, path, seed=0):
    """A network, with a file that should fit it."""
    train, test = pair(seed=seed)
    return {"what": classifier(model, train), "data": train, "test": test, "weights": path}


def resnet(arch="resnet8", classes=6, seed=0, **options):
    return minires.resnet(arch, (16, 16, 3), classes, seed=seed, **options)


# of another network


@symptoms(
    "ResNet-14's weights for ResNet-8",
    told="Unexpected keys layer1.1.conv1.weight and many others. I mixed up two runs.",
    source="https://github.com/bearpaw/pytorch-classification/issues/27",
    causes="other network",
)
def _(folder, seed=0):
    minires.export_weights(resnet("resnet14", seed=seed), folder / "theirs.npz")
    return loads(resnet(seed=seed), folder / "theirs.npz", seed)


@symptoms(
    "half as wide",
    told="size mismatch for conv1.weight: [8, 3, 3, 3] against [16, 3, 3, 3]. They had trained a slim variant.",
    source="https://github.com/jianbo909/efficientFCN/issues/5",
    causes="other network",
)
def _(folder, seed=0):
    minires.export_weights(resnet(seed=seed, widths=(8, 16, 32)), folder / "slim.npz")
    return loads(resnet(seed=seed), folder / "slim.npz", seed)


@symptoms(
    "without projections",
    told="downsample.0.weight is missing. The file is of a CIFAR ResNet with shortcuts of option A.",
    source="https://github.com/akamaster/pytorch_resnet_cifar10/issues/23",
    causes="other network",
)
def _(folder, seed=0):
    minires.export_weights(resnet(seed=seed, shortcut="A"), folder / "option_a.npz")
    return loads(resnet(seed=seed), folder / "option_a.npz", seed)


@symptoms(
    "names of another world",
    told="The layers are called layer1.0.conv1 in the file and res2a_branch2a in my network, both are ResNet-18.",
    source="https://github.com/keras-team/keras/issues/11748",
    causes="other network",
)
def _(folder, seed=0):
    slim = {"widths": (8, 8, 16, 16)}
    theirs = minires.resnet("resnet18", (64, 64, 3), 6, seed=seed, variant="v1.5", **slim)
    ours = minires.resnet("resnet18", (64, 64, 3), 6, seed=seed, variant="course", **slim)
    minires.export_weights(theirs, folder / "theirs.npz")
    train, test = pair(count=120, test=60, size=64, seed=seed)
    return {"what": classifier(ours, train), "data": train, "test": test, "weights": folder / "theirs.npz"}


@symptoms(
    "VGG's weights from Keras",
    told="model.load_weights found 5 layers where 12 were expected. The .h5 came from an older project of mine.",
    source="https://github.com/keras-team/keras/issues/8546",
    causes="other network",
)
def _(folder, seed=0):
    rng, path = np.random.default_rng(seed), folder / "vgg_weights.h5"
    shapes = {
        "conv2d_1": (3, 3, 3, 16),
        "conv2d_2": (3, 3, 16, 16),
        "conv2d_3": (3, 3, 16, 32),
        "dense_1": (512, 64),
        "dense_2": (64, 6),
    }
    keras2(
        path,
        {name: {"kernel": rng.normal(0, 0.1, shape), "bias": np.zeros(shape[-1])} for name, shape in shapes.items()},
    )
    return loads(resnet(seed=seed), path, seed)


def keras2(path, layers):
    """A file of weights as Keras 2 writes it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.3.1"
        for name, arrays in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{role}:0".encode() for role in arrays]
            for role, array in arrays.items():
                group[f"{name}/{role}:0"] = array.astype(np.float32)


@symptoms(
    "a plain network's run",
    told="load() of the run says 8 of 50 arrays are missing. One of us had trained the plain twin.",
    source="lessons/lesson_08_degradation.py",
    causes="other network",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed, skip=False), train, None, recipe(epochs=1))
    minires.save(made, folder / "plain.npz")
    return {"what": small(train, seed), "data": train, "test": test, "weights": folder / "plain.npz"}


# of other classes


@symptoms(
    "a thousand classes",
    told="size mismatch for fc.weight: copying a param with shape [1000, 64], the shape in the current model is [6, "
    "64].",
    source="https://github.com/Helias/Car-Model-Recognition/issues/2",
    causes="other classes",
)
def _(folder, seed=0):
    minires.export_weights(resnet(classes=1000, seed=seed), folder / "imagenet.npz")
    return loads(resnet(seed=seed), folder / "imagenet.npz", seed)


@symptoms(
    "one class more in Keras's file",
    told="The weights know 7 classes, the seventh was 'unknown'. Loading fails with shapes (64, 7) and (64, 6).",
    source="https://github.com/xhp-hust-2018-2011/SS-DCNet/issues/4",
    causes="other classes",
)
def _(folder, seed=0):
    minires.export_weights(resnet(classes=7, seed=seed), folder / "seven.weights.h5")
    return loads(resnet(seed=seed), folder / "seven.weights.h5", seed)


# no weights


@symptoms(
    "TorchScript",
    told="I have model.pt, from torch.jit.save, and want its weights in here.",
    source=SCRIPT,
    causes="no weights",
    needs="torch",
)
def _(folder, seed=0):
    import torch

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 16, 16)), str(folder / "model.pt"))
    return loads(resnet(seed=seed), folder / "model.pt", seed)


@symptoms(
    "a pickled model",
    told="torch.save(model, path) of a whole network: loading asks for a class that I do not have.",
    source="https://github.com/amyxlu/cheap-proteins/issues/4",
    causes="no weights",
    needs="torch",
)
def _(folder, seed=0):
    import torch

    torch.manual_seed(seed)
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), folder / "model.pth")
    return loads(resnet(seed=seed), folder / "model.pth", seed)


@symptoms(
    "a pointer of Git LFS",
    told="The .h5 in the clone has 133 bytes. git lfs was not installed.",
    source="https://github.com/albert597/TRAILMAP/issues/3",
    causes=("no weights", "damaged file"),
)
def _(folder, seed=0):
    path = folder / "weights.h5"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'5e' * 32}\nsize 94765736\n")
    return loads(resnet(seed=seed), path, seed)


@symptoms(
    "a page in place of weights",
    told="wget of a share link saved a page as resnet.pth: invalid load key, '<'.",
    source="https://github.com/qubvel-org/segmentation_models.pytorch/issues/105",
    causes=("no weights", "damaged file"),
)
def _(folder, seed=0):
    path = folder / "resnet.pth"
    path.write_text("<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>...</body></html>\n" * 30)
    return loads(resnet(seed=seed), path, seed)


@symptoms(
    "data in place of weights",
    told="I passed train_signs.h5 as the weights, both are .h5 after all.",
    source="https://github.com/ashnkumar/sketch-code/issues/13",
    causes="no weights",
)
def _(folder, seed=0):
    from minires.data import write_signs

    write_signs(folder / "train_signs.h5", *pair(seed=seed))
    return loads(resnet(seed=seed), folder / "train_signs.h5", seed)


@symptoms(
    "only the optimiser's state",
    told="The .npz has exp_avg and exp_avg_sq for each parameter: I saved optimizer.state_dict().",
    source="https://github.com/ChenDelong1999/RemoteCLIP/issues/8",
    causes=("no weights", "other network"),
)
def _(folder, seed=0):
    model = resnet(seed=seed)
    moments = {f"state.{i}.{slot}": np.abs(p.data) * 1e-3 for i, p in enumerate(model.params()) for slot in SLOTS}
    np.savez(folder / "optimizer.npz", **moments)
    return loads(model, folder / "optimizer.npz", seed)


SLOTS = ("exp_avg", "exp_avg_sq")


# damaged, or in use


@symptoms(
    "a download that broke off",
    told="OSError: truncated file: eof = 152490, stored_eof = 457472, for weights from Keras.",
    source=H5,
    causes="damaged file",
)
def _(folder, seed=0):
    layers = {f"conv2d_{i}": {"kernel": np.full((3, 3, 64, 64), 0.01), "bias": np.zeros(64)} for i in range(3)}
    keras2(folder / "resnet.h5", layers)
    content = (folder / "resnet.h5").read_bytes()
    (folder / "resnet.h5").write_bytes(content[: len(content) // 3])
    return loads(resnet(seed=seed), folder / "resnet.h5", seed)


@symptoms(
    "half a zip",
    told="BadZipFile, or failed finding central directory, for a .npz that another machine opens.",
    source="https://github.com/qubvel-org/segmentation_models.pytorch/issues/105",
    causes="damaged file",
)
def _(folder, seed=0):
    minires.export_weights(resnet(seed=seed), folder / "resnet.npz")
    content = (folder / "resnet.npz").read_bytes()
    (folder / "resnet.npz").write_bytes(content[: int(0.6 * len(content))])
    return loads(resnet(seed=seed), folder / "resnet.npz", seed)


@symptoms(
    "flipped bits in a checkpoint",
    told="The USB stick was pulled out. The checkpoint has its full size and is refused.",
    source="https://github.com/keras-team/keras/issues/6221",
    causes="damaged file",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    out = run(folder, small(train, seed), train, test, recipe(epochs=1))
    for name in ("model.h5", "best.h5"):
        content = bytearray((out / name).read_bytes())
        for at in np.random.default_rng(seed).integers(len(content) // 2, len(content) - 4096, 40):
            content[at] ^= 0x10
        (out / name).unlink()
        (out / name).write_bytes(content)
    return {"what": out, "data": train, "test": test}


@symptoms(
    "a run that still trains",
    told="resume says that another training has the folder. In another window the run of yesterday goes on.",
    source="https://github.com/h5py/h5py/issues/1179",
    causes="file in use",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    out = run(folder, small(train, seed), train, test, recipe(epochs=1))
    has_it = threading.Event()

    def train_on():
        with locked(out):
            has_it.set()
            threading.Event().wait(600)

    threading.Thread(target=train_on, name="yesterday's training", daemon=True).start()
    has_it.wait(10)
    return {"what": out, "data": train, "test": test}


@symptoms(
    "weights of NaN",
    told="A file from a colleague loads in PyTorch without complaint and predicts nan for everything.",
    source="https://github.com/pyg-team/pytorch_geometric/issues/1549",
    causes="weights not finite",
    area="numbers",
)
def _(folder, seed=0):
    model = own.vgg((16, 16, 3), 6, seed)
    model.params()[2].data[0, 0] = np.nan
    minires.export_weights(model, folder / "theirs.npz")
    return loads(own.vgg((16, 16, 3), 6, seed + 1), folder / "theirs.npz", seed)
