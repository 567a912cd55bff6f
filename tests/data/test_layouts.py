"""What people have -> what is read as what, or the one line that refuses: folders, tables, arrays."""

import importlib.util
from pathlib import Path
from shutil import make_archive

import layouts
import numpy as np
import pytest
from data_helpers import assert_one_line

from minires.data import load_parts
from minires.errors import DataError

images, flat, table = layouts.images, layouts.flat, layouts.table
needs_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")


def several(*makers):
    def make(root):
        for maker in makers:
            maker(root)
        return root

    return make


def also(root, name, content="x"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return root


PNG_TABLE = [["cat/0.png", "cat"], ["cat/1.png", "cat"], ["dog/0.png", "dog"], ["dog/1.png", "dog"]]

# what it is: (how it is made below a folder, {part: images}, classes, words of the lines that are said)
READ = {
    # folders that are not split
    "one folder a class": (lambda r: images(r, "cat", "dog", count=4), {"train": 6, "test": 2}, "cat dog", "not split"),
    "CLASS_anything": (
        lambda r: flat(r, "cat_1.png", "cat_b.png", "dog_1.png", "dog_2.png"),
        {"train": 2, "test": 2},
        "cat dog",
        "not split",
    ),
    "Kaggle's cat.0.jpg, Windows' 'dog (1).png'": (
        lambda r: flat(r, "cat.0.png", "cat.1.png", "dog (1).png", "dog (2).png"),
        {"train": 2, "test": 2},
        "cat dog",
        "",
    ),
    "an archive's folder around it": (
        lambda r: images(r, "archive/photos/cat", "archive/photos/dog"),
        {"train": 2, "test": 2},
        "cat dog",
        "is what is read of",
    ),
    "a class named train": (
        lambda r: images(r, "train", "plane", "car"),
        {"train": 3, "test": 3},
        "car plane train",
        "train is taken for a class",
    ),
    "valid and invalid": (
        lambda r: images(r, "valid", "invalid"),
        {"train": 2, "test": 2},
        "invalid valid",
        "valid is taken for a class",
    ),
    "a class named train_station": (
        lambda r: images(r, "train_station", "bank"),
        {"train": 2, "test": 2},
        "bank train_station",
        "",
    ),
    "other kinds among them": (
        several(
            lambda r: images(r, "cat", "dog", count=4),
            lambda r: also(r, "cat/a.HEIC"),
            lambda r: also(r, "cat/b.HEIC"),
            lambda r: also(r, "dog/x.svg"),
        ),
        {"train": 6, "test": 2},
        "cat dog",
        "left out: 2 .HEIC, 1 .svg",
    ),
    "endings that Pillow reads": (
        several(
            *(
                lambda r, e=e: images(r, f"a/{e[1:]}", f"b/{e[1:]}", ending=e)
                for e in (".jfif", ".jpe", ".webp", ".bmp", ".gif", ".tif")
            )
        ),
        {"train": 20, "test": 4},
        "a b",
        "",
    ),
    "no ending at all": (lambda r: images(r, "a", "b", ending=""), {"train": 2, "test": 2}, "a b", ""),
    # folders of parts
    "train, test": (
        lambda r: images(r, "train/a", "train/b", "test/a", "test/b"),
        {"train": 4, "test": 4},
        "a b",
        "test",
    ),
    "training_set, test_set": (
        lambda r: images(r, "training_set/a", "training_set/b", "test_set/a", "test_set/b"),
        {"train": 4, "test": 4},
        "a b",
        "test_set",
    ),
    "Train, Valid": (
        lambda r: images(r, "Train/a", "Train/b", "Valid/a", "Valid/b"),
        {"train": 4, "test": 4},
        "a b",
        "there is no test part, so this validation part plays its role",
    ),
    "training, validation": (
        lambda r: images(r, "training/a", "training/b", "validation/a"),
        {"train": 4, "test": 2},
        "a b",
        "no test images of b",
    ),
    "train, dev, test": (
        lambda r: images(r, "train/a", "train/b", "dev/a", "dev/b", "test/a", "test/b", count=1),
        {"train": 2, "validation": 2, "test": 2},
        "a b",
        "2 validation images, which choose the epoch: {root}/dev",
    ),
    "TRAIN, Validation Set, testing-images": (
        lambda r: images(r, "TRAIN/a", "TRAIN/b", "Validation Set/a", "testing-images/a", count=1),
        {"train": 2, "validation": 1, "test": 1},
        "a b",
        "reported at the end: {root}/testing-images",
    ),
    "seg_train/seg_train, seg_test/seg_test, seg_pred": (
        lambda r: images(
            r, "seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "seg_pred/seg_pred"
        ),
        {"train": 4, "test": 2},
        "a b",
        "{root}/seg_pred is left out",
    ),
    "a test folder without classes": (
        lambda r: images(r, "train/a", "train/b", "test", count=4),
        {"train": 6, "test": 2},
        "a b",
        "{root}/test is left out: its images have no classes",
    ),
    "train alone": (lambda r: images(r, "train/a", "train/b", count=4), {"train": 6, "test": 2}, "a b", "not split"),
    "parts within each class": (
        lambda r: images(r, "a/train", "a/test", "b/train", "b/test"),
        {"train": 4, "test": 4},
        "a b",
        "{root}/*/test",
    ),
    "flat files in train and test": (
        several(lambda r: flat(r / "train", "a_1.png", "b_1.png"), lambda r: flat(r / "test", "a_2.png", "b_2.png")),
        {"train": 2, "test": 2},
        "a b",
        "",
    ),
    # tables
    "file,label with heads": (
        several(
            lambda r: images(r, "cat", "dog"), lambda r: table(r / "labels.csv", [["filename", "label"], *PNG_TABLE])
        ),
        {"train": 2, "test": 2},
        "cat dog",
        "labels.csv says which image is what",
    ),
    "a table without heads, its own labels": (
        lambda r: table(images(r, "cat", "dog") / "t.csv", [[f, c.upper()] for f, c in PNG_TABLE]),
        {"train": 2, "test": 2},
        "CAT DOG",
        "",
    ),
    "a table written on Windows": (
        lambda r: table(
            images(r, "cat", "dog") / "t.csv", [["file", "label"], *([f.replace("/", "\\"), c] for f, c in PNG_TABLE)]
        ),
        {"train": 2, "test": 2},
        "cat dog",
        "",
    ),
    "a table with a column split, by ;": (
        lambda r: table(
            images(r, "cat", "dog") / "t.csv",
            [["label", "path", "split"], *([c, f, "Train" if f.endswith("0.png") else "val"] for f, c in PNG_TABLE)],
            ";",
        ),
        {"train": 2, "test": 2},
        "cat dog",
        "plays its role",
    ),
    "train.csv, test.csv": (
        several(
            lambda r: images(r, "cat", "dog"),
            lambda r: table(r / "train.csv", [["image", "class"], *PNG_TABLE]),
            lambda r: table(r / "test.csv", [["image", "class"], *PNG_TABLE[:1]]),
        ),
        {"train": 4, "test": 1},
        "cat dog",
        "no test images of dog",
    ),
    # arrays
    "Keras's mnist.npz": (
        lambda r: layouts.npz(r / "mnist.npz", {"train": 6, "test": 4}),
        {"train": 6, "test": 4},
        "0 1",
        "mnist.npz, test",
    ),
    "MedMNIST's npz": (
        lambda r: layouts.npz(r / "m.npz", {"train": 6, "val": 2, "test": 4}, False, "images", "labels"),
        {"train": 6, "validation": 2, "test": 4},
        "0 1",
        "which choose the epoch",
    ),
    "an npz of one pair": (
        lambda r: layouts.npz(r / "a.npz", {"": 8}, images="arr_0", labels="arr_1"),
        {"train": 6, "test": 2},
        "0 1",
        "not split",
    ),
    "X.npy, Y.npy": (layouts.npy, {"train": 6, "test": 2}, "0 1", "grey, read as three equal channels"),
    "x_train.npy and the rest, by one of them": (
        lambda r: (
            several(lambda r: layouts.npy(r, "x_train", "y_train"), lambda r: layouts.npy(r, "x_test", "y_test"))(r)
            / "y_test.npy"
        ),
        {"train": 8, "test": 8},
        "0 1",
        "",
    ),
    "MNIST's files": (layouts.mnist, {"train": 6, "test": 4}, "0 1", "grey, read as three equal channels"),
    "MNIST's files, packed, as torchvision keeps them": (
        lambda r: layouts.mnist(r / "MNIST/raw", ".gz").parents[1],
        {"train": 6, "test": 4},
        "0 1",
        "MNIST/raw is what is read",
    ),
    "one of EMNIST's sets": (
        lambda r: (
            several(
                lambda r: layouts.mnist(r, ".gz", "emnist-letters-"),
                lambda r: layouts.mnist(r, ".gz", "emnist-digits-"),
            )(r)
            / "emnist-letters-train-images-idx3-ubyte.gz"
        ),
        {"train": 6, "test": 4},
        "0 1",
        "",
    ),
    "CIFAR-10's batches": (layouts.cifar, {"train": 6, "test": 4}, "airplane automobile", "{root}, test"),
    "CIFAR-10's batches, pickled anew": (
        lambda r: layouts.cifar(r, 5),
        {"train": 6, "test": 4},
        "airplane automobile",
        "",
    ),
    "CIFAR-10, by a batch in its folder": (
        lambda r: layouts.cifar(r / "cifar-10-batches-py") / "data_batch_1",
        {"train": 6, "test": 4},
        "airplane automobile",
        "",
    ),
    "CIFAR-100": (lambda r: layouts.cifar(r, hundred=True), {"train": 6, "test": 4}, "apple bear", ""),
    "CIFAR-10 in bytes": (layouts.cifar_bytes, {"train": 6, "test": 4}, "airplane automobile", ""),
    "SVHN in MATLAB's HDF5": (
        lambda r: layouts.svhn(r, "train_32x32.mat", "test_32x32.mat", write=layouts.mat_hdf5),
        {"train": 20, "test": 20},
        "0 1 2 3 4 5 6 7 8 9",
        "",
    ),
    "SVHN in MATLAB's format 5": pytest.param(
        lambda r: layouts.svhn(r, "train_32x32.mat", "test_32x32.mat"),
        {"train": 20, "test": 20},
        "0 1 2 3 4 5 6 7 8 9",
        "",
        marks=needs_scipy,
    ),
    "HDF5 with three parts": (
        lambda r: layouts.signs(r / "a.h5", train=6, validation=2, test=4),
        {"train": 6, "validation": 2, "test": 4},
        "0 1",
        "which choose the epoch",
    ),
}


@pytest.mark.parametrize(
    ("make", "counts", "classes", "words"),
    [
        pytest.param(*(row.values if hasattr(row, "values") else row), id=name, marks=getattr(row, "marks", ()))
        for name, row in READ.items()
    ],
)
def test_what_is_read_as_what(tmp_path, make, counts, classes, words):
    root = tmp_path / "data"
    root.mkdir()
    place = make(root)
    parts = load_parts(place if place.is_file() or place == root else root, size=None)
    named = parts.named()
    assert {name: len(part) for name, part in named.items()} == counts
    assert parts.train.classes == tuple(classes.split())
    assert words.format(root=root) in " | ".join(parts.notes)
    for part in named.values():
        assert any(f"{len(part):,} {'training' if part is parts.train else ''}" in line for line in parts.notes)
        assert part.classes == parts.train.classes
        seen = part.images(np.arange(len(part)))
        assert seen.shape == (len(part), *part.shape)
        assert seen.std() > 20
    assert not any("\n" in line for line in parts.notes)


# what it is: (how it is made, pieces of the line)
REFUSED = {
    "two test folders": (
        lambda r: images(r, "train/a", "train/b", "test/a", "testing/a"),
        ("several folders", "test, testing"),
    ),
    "a class in the test part alone": (
        lambda r: images(r, "train/a", "train/b", "test/a", "test/C", "test/d"),
        ("the classes a, b", "'C', 'd'"),
    ),
    "one class": (lambda r: images(r, "a"), ("two classes", "'a'")),
    "no name says a class": (lambda r: flat(r, "1.png", "2.png"), ("1.png", "class before the last underscore")),
    "nothing but what cannot be read": (
        several(lambda r: also(r, "a/1.HEIC"), lambda r: also(r, "b/2.HEIC")),
        ("2 .HEIC",),
    ),
    "an empty class": (several(lambda r: images(r, "a", "b"), lambda r: also(r, "c/1.heic")), ("/c", "got none")),
    "several sets of idx": (
        several(
            lambda r: layouts.mnist(r, prefix="emnist-letters-"), lambda r: layouts.mnist(r, prefix="emnist-digits-")
        ),
        ("several sets", "emnist letters"),
    ),
    "two kinds of arrays": (
        several(layouts.mnist, lambda r: layouts.npz(r / "a.npz", {"": 4})),
        ("one kind", "npz and idx"),
    ),
    "images without labels": (
        lambda r: np.savez(r / "a.npz", x_train=layouts.pixels(4)[0]) or r,
        ("train has no labels",),
    ),
    "an npz of weights": (lambda r: np.savez(r / "a.npz", conv1=np.ones(3)) or r, ("images and labels", "got conv1")),
    "several classes an image": (
        lambda r: np.savez(r / "a.npz", x=layouts.pixels(4)[0], y=np.ones((4, 3))) or r,
        ("one class an image",),
    ),
    "a table whose images are gone": (
        lambda r: table(r / "t.csv", PNG_TABLE),
        ("t.csv", "cat/0.png", "4 of 4 missing"),
    ),
    "a table of pixels": (
        lambda r: table(r / "t.csv", [["label", *range(784)], [0] * 785]),
        ("columns file and label", "785"),
    ),
    "an image of two classes": (
        lambda r: table(images(r, "cat", "dog") / "t.csv", [*PNG_TABLE, ["cat/0.png", "dog"]]),
        ("t.csv", "cat/0.png is of two classes, cat and dog"),
    ),
    "a table of something": (lambda r: table(r / "t.csv", [["a"], ["b"]]), ("columns file and label",)),
    "a table with a wrong split": (
        lambda r: table(r / "t.csv", [["a.png", "cat", "test"], ["b.png", "dog", "wrong"]]),
        ("line 2", "'wrong'"),
    ),
    "several tables": (
        several(
            lambda r: images(r, "cat", "dog"),
            lambda r: table(r / "a.csv", PNG_TABLE),
            lambda r: table(r / "b.csv", PNG_TABLE),
        ),
        ("several tables", "a.csv, b.csv"),
    ),
    "CIFAR's description alone": (
        lambda r: [p.unlink() for p in layouts.cifar(r).glob("*_batch*")] and r,
        ("only a description", "get the batches"),
    ),
    "a zip": (lambda r: Path(make_archive(r / "a", "zip", images(r / "x", "a"))), ("zip archive", "unpack it")),
}


@pytest.mark.parametrize(("make", "pieces"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_in_one_line(tmp_path, make, pieces):
    root = tmp_path / "data"
    root.mkdir()
    place = make(root)
    with pytest.raises(DataError) as error:
        load_parts(place if place.is_file() else root)
    assert_one_line(error, tmp_path, *pieces)
