"""Trainings that several ranks do together, and one alone: `mpiexec -n 3 python ranks.py FOLDER [CASE ...]`.

Rank 0 leaves what came of each in FOLDER/CASE.npz; `trained(CASE)` is the same in this process. Data, and with it the
number of images a rank, are such that shares differ in size and the last batch has fewer images than four ranks.

The case `begin` trains into FOLDER/run and stops in the second epoch; `go-on` resumes that and trains to the end.
"""

import sys
import zlib
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # where mpiexec runs this file
from demand import ALL
from stripes import RECIPE, TEST, StopAfter, classifier, stripes

from minires import nn
from minires.fast import host_memory
from minires.fast.communicator import current
from minires.train import Classifier, fit, resume
from minires.train.precise_bn import norms

TRAIN = stripes(66, 0)  # batches of 16, 16, 16, 16, 2
LONG = replace(RECIPE, epochs=2, clip_norm=1.0, label_smoothing=0.1)


def dropping():
    """Dropout, whole branches that are dropped, group normalisation, GELU: what draws or normalises by the image."""
    body = nn.Sequential(
        nn.Conv2d("conv", 8, 8, 3, pad=1), nn.GroupNorm("gn", 8, 2), nn.StochasticDepth("depth", 0.3), name="body"
    )
    layers = nn.Conv2d("stem", 3, 8, 3, stride=2, pad=1), nn.BatchNorm("bn", 8, unbiased=True), nn.GELU("gelu")
    head = nn.GlobalAvgPool2d("pool"), nn.Dropout("drop", 0.4), nn.Dense("fc", 8, 2)
    return Classifier.for_data(
        nn.Sequential(*layers, nn.Block("block", body, nn.Block.IDENTITY), *head, name="dropping"), TRAIN
    )


def concatenating():
    """Two paths beside one another, squeeze and excitation behind them."""
    paths = nn.Branches("paths", nn.Conv2d("one", 8, 4, 1), nn.Conv2d("three", 8, 4, 3, pad=1), join=nn.Concat("join"))
    layers = nn.Conv2d("stem", 3, 8, 3, pad=1), nn.BatchNorm("bn", 8), nn.ReLU("relu"), paths
    tail = nn.SqueezeExcite("se", 8, 4), nn.MaxPool2d("max", 2), nn.Flatten("flat"), nn.Dense("fc", 8 * 16, 2)
    return Classifier.for_data(nn.Sequential(*layers, *tail, name="concatenating"), TRAIN)


NETWORKS = {
    "resnet": classifier,
    "preact": lambda: classifier(preact=True),
    "plain": lambda: classifier(skip=False),
    "without": lambda: classifier(norm=False),
    "padded": lambda: classifier(shortcut="A"),
    "dropping": dropping,
    "concatenating": concatenating,
}
THAWING = {"freeze": {"stem": 1}, "rates": {"head": 3.0}, "optimizer": "adam", "lr": 1e-3}
# name -> (network, changes to the recipe, ways of `fit`)
OPTIMISERS = "sgd", "adam", "adamw"
CASES = {
    f"{network}-{optimizer}": (network, {"optimizer": optimizer, "lr": 1e-3}, {})
    for i, network in enumerate(NETWORKS)
    for optimizer in (OPTIMISERS if ALL else OPTIMISERS[i % 3 : i % 3 + 1])
}
CASES |= {
    "by-layers": ("resnet", {}, {"by_layers": True}),
    "recompute": ("resnet", {}, {"recompute": True}),
    "sharded": ("resnet", {"optimizer": "adamw", "lr": 1e-3}, {"shard_optimizer": True}),
    "thawing": ("resnet", THAWING, {"shard_optimizer": True}),
    "whole": ("resnet", {}, {"shard_optimizer": False}),
    "messages-sharded": ("resnet", {"optimizer": "adam", "lr": 1e-3}, {"shard_optimizer": True}),
    "messages-whole": ("resnet", {"optimizer": "adam", "lr": 1e-3}, {"shard_optimizer": False}),
    "single": ("resnet", {}, {}),  # in float32
    "local": ("resnet", {}, {"local_bn": True}),
}


def trained(case: str) -> dict[str, np.ndarray]:
    """What came of a case: every weight, buffer and number of the history; with its own bits on every rank."""
    network, changes, ways = CASES[case]
    c = NETWORKS[network]()
    if case != "single":
        c.model.astype(np.float64)
    with mock.patch.object(host_memory, "made", return_value=None) if case.startswith("messages") else nullcontext():
        progress = fit(c, TRAIN, TEST, replace(LONG, **changes), **ways)
    state = {name: array.copy() for name, array in c.model.state().items()}
    sums = current_sums(state)
    keys = "train_loss", "train_accuracy", "grad_norm", "test_loss", "test_accuracy"
    history = {key: np.array([row[key] for row in progress.history]) for key in keys}
    return state | history | {"ranks": sums, "norms": np.array(len(norms(c.model)))}


def begin(folder, case="thawing"):
    """Stops in the middle of the second epoch, as if somebody pressed Ctrl-C at the first rank."""
    network, changes, ways = CASES[case]
    c = NETWORKS[network]()
    c.model.astype(np.float64)
    recipe = replace(LONG, **changes, epochs=3)
    with suppress(KeyboardInterrupt):
        fit(c, TRAIN, TEST, recipe, out=Path(folder, "run"), reporter=StopAfter(7), **ways)


def go_on(folder, case="thawing"):
    """The weights at the end of what `begin` began."""
    c, progress = resume(Path(folder, "run"), TRAIN, TEST, model=wide(case), **CASES[case][2])
    return c.model.state() | {"train_loss": np.array([row["train_loss"] for row in progress.history])}


def wide(case):
    model = NETWORKS[CASES[case][0]]().model
    return model.astype(np.float64)


def current_sums(state):
    """A checksum of each rank's weights."""
    return current().all_gather(np.array([zlib.crc32(b"".join(array.tobytes() for array in state.values()))])).ravel()


def main(folder, *cases):
    from minires.fast.communicator import speaking_through
    from minires.fast.mpi import world

    with speaking_through(world()) as ranks:
        for case in cases or CASES:
            if case == "begin":
                begin(folder)
                continue
            found = go_on(folder) if case == "go-on" else trained(case)
            if ranks.rank == 0:
                np.savez(Path(folder, f"{case}.npz"), **found)
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
