"""Data larger than memory: peak memory, images a second and the share of a step that waits, by the number of images.

HDF5 as `data convert` writes it (compressed, chunks of whole images), of drawn pictures that are all different. In a
process of its own for each size: the file is opened, its statistics and fingerprint are taken, a network is trained for
some steps with the default augmentation, from the epoch's beginning and again from its middle, as a resumed run does,
and evaluated. Memory is told above that of a process that trains and evaluates the same network on one batch in memory.
"""

import os
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
from minires.benchmarks import harness, watch

from minires.data.dataset import ArrayDataset, Dataset, Subset

CLASSES = 10
BLOCK = 256  # pictures that are drawn together
TESTS = 20  # training images for each test image
WARM = 5  # steps before the clock runs


class Drawn(Dataset):
    """`count` pictures of random tiles, a pattern a class, each shifted, lit and grained in its own way.

    A block of them is a function of (seed, its number).
    """

    def __init__(self, count: int, size: int, seed: int):
        self.labels = np.random.default_rng([seed, 0]).integers(0, CLASSES, count)
        self.classes, self.source, self.flip_ok = tuple(f"tiles {i}" for i in range(CLASSES)), "drawn", False
        self.shape, self._seed, self._block = (size, size, 3), seed, (-1, None)
        tiles = np.random.default_rng(1).integers(40, 200, (CLASSES, 8, 8, 3), dtype=np.uint8)
        self._patterns = tiles.repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)[:, :size, :size]

    def images(self, index):
        index = np.asarray(index)
        return np.concatenate([self._drawn(block)[index[index // BLOCK == block] % BLOCK] for block in _runs(index)])

    def _drawn(self, block: int) -> np.ndarray:
        if self._block[0] != block:
            labels = self.labels[block * BLOCK : (block + 1) * BLOCK]
            rng = np.random.default_rng([self._seed, 1, block])
            images = self._patterns[labels]
            for image, shift in zip(images, rng.integers(0, self.shape[0], (len(labels), 2)), strict=True):
                image[:] = np.roll(image, shift, axis=(0, 1))
            images += rng.integers(0, 40, (len(labels), 1, 1, 1), dtype=np.uint8)
            grain = np.frombuffer(rng.bytes(images.size), np.uint8).reshape(images.shape)
            images += grain & (grain >> 2) & (grain >> 4) & 3  # packs as smooth photographs do, to a half
            self._block = block, images
        return self._block[1]


def _runs(index):
    """The blocks of positions that ascend."""
    return np.unique(index // BLOCK).tolist()


def make(folder: Path, count: int, size: int) -> Path:
    """The file of so many training images, which is written unless it is there."""
    from minires.data import write_signs

    path = folder / f"drawn-{count}-{size}.h5"
    if not path.exists():
        began = time.perf_counter()
        write_signs(path, Drawn(count, size, 0), Drawn(-(-count // TESTS), size, 1), compression="gzip")
        seconds = time.perf_counter() - began
        print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, written in {seconds:.0f} s", file=sys.stderr)
    return path


def build(name, _task, options):
    """A turn (what) does one thing with the data; what it measured. name: a file, or "" for the network alone."""
    import minires
    from minires.data import Augment, Batches, load_parts
    from minires.fast.step import make_step
    from minires.optim import Adam
    from minires.train import Classifier, Preprocess, evaluate

    batch, size = options["batch"], options["size"]
    kept = {}

    def opened():
        if name:
            parts = load_parts(name)
            kept["train"], kept["test"] = parts.train, parts.test
        else:
            few = Drawn(batch, size, 0)
            few = ArrayDataset(few.images(np.arange(batch)), few.labels, few.classes)
            kept["train"] = Subset(few, np.tile(np.arange(batch), WARM + options["steps"]))
            kept["test"] = few
        return len(kept["train"])

    def statistics():
        kept["statistics"] = Preprocess.measure(kept["train"])
        return len(kept["train"])

    def fingerprint():
        kept["train"].fingerprint()
        return len(kept["train"])

    def training(start=0):
        model = minires.resnet(options["arch"], kept["train"].shape, CLASSES)
        kept["classifier"] = Classifier(model, kept["train"].classes, kept["statistics"])
        batches = Batches(kept["train"], batch, augment=Augment())
        coming = batches.epoch(0, start)
        losses, first = [], time.perf_counter()
        with make_step(model.train(), Adam(model.params())) as step:
            for images, labels, _ in islice(coming, WARM):
                step(kept["statistics"](images), labels, 1e-3)
            first, waited, began = time.perf_counter() - first, batches.wait_seconds, time.perf_counter()
            for images, labels, _ in islice(coming, options["steps"]):
                losses.append(float(step(kept["statistics"](images), labels, 1e-3)[0]))
            seconds, waited = time.perf_counter() - began, batches.wait_seconds - waited
        coming.close()
        told = {"images": batch * len(losses), "seconds": seconds, "waited": waited, "first_seconds": first}
        return told | {"loss_first": float(np.mean(losses[:10])), "loss_last": float(np.mean(losses[-10:]))}

    def resumed():
        return training(start=len(kept["train"]) // batch // 2)

    def evaluation():
        found = evaluate(kept["classifier"], kept["test"])
        return {"images": len(kept["test"]), "accuracy": found.accuracy}

    tasks = {each.__name__: each for each in (opened, statistics, fingerprint, training, resumed, evaluation)}

    def turn(what):
        value = tasks[what]()
        return value if isinstance(value, dict) else {"images": value}

    return turn


TASKS = ("opened", "statistics", "fingerprint", "training", "evaluation", "resumed")
ALONE = ("opened", "statistics", "training", "evaluation")


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench large-data`."""
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    folder = options["folder"]
    if folder:
        os.makedirs(folder, exist_ok=True)
    records, rows = [], []
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        own = max(turn.peak_mib for turn in _turns("", ALONE, options).values())
        print(f"the network alone, on a batch in memory: {own:.0f} MiB\n")
        for count in options["images"]:
            path = make(Path(place), count, options["size"])
            for what, turn in _turns(str(path), TASKS, options).items():
                seconds = turn.value.get("seconds", turn.seconds)
                rate, above = turn.value["images"] / seconds, turn.peak_mib - own
                waited = turn.value.get("waited")
                share = None if waited is None else waited / seconds
                case = {"train_images": count, "what": what, "images_per_second": rate, "wait_share": share}
                case |= {"peak_mib": turn.peak_mib, "above_network_mib": above, "file_bytes": path.stat().st_size}
                records += harness.record("large-data", facts, options, [turn.value | case | {"seconds": seconds}])
                told = "" if share is None else f"{share:.2%}"
                rows.append((f"{count:,}", what, f"{seconds:.1f}", f"{rate:,.0f}", told, f"{above:.0f}"))
    columns = ["training images", "what", "seconds", "images/s", "waited", "peak MiB above the network's"]
    title = (
        f"{options['arch']}, batch {options['batch']}, {options['size']}x{options['size']}, {options['steps']} steps"
    )
    harness.print_table(title, columns, rows)
    return records


def _turns(name, tasks, options) -> dict:
    """{what: its turn}, one after the other in a process of its own: the peak of each is that of all until then."""
    with harness.started(build, (name,), "", options, options["threads"]) as (worker,):
        return {what: worker.turn(what) for what in tasks}


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "large-data", *sys.argv[1:]]))
