"""NumPy pairs where data are taken, and files of arrays that claim, or would run, what they should not."""

import gzip
import pickle
import zipfile

import h5py
import layouts
import numpy as np
import pytest
from data_helpers import assert_one_line

from minires import resnet
from minires.data import as_dataset, convert, load, load_parts
from minires.data.pickled import read_pickle
from minires.data.rows import Rows
from minires.errors import DataError
from minires.train import Classifier, Recipe, evaluate, fit


def test_a_pair_of_arrays_in_for_data_fit_and_evaluate():
    images, labels = layouts.pixels(24, size=16)
    model = resnet("resnet8", (16, 16, 3), 2, widths=(4, 4, 4))
    classifier = Classifier.for_data(model, (images, labels))
    assert classifier.classes == ("0", "1")
    recipe = Recipe(epochs=2, batch_size=8)
    progress = fit(
        classifier, (images, labels), (images[:6] / 255, labels[:6]), recipe, validation=(images[6:], labels[6:])
    )
    row = progress.history[-1]
    assert {"validation_loss", "validation_accuracy"} < set(row)
    assert "test_loss" not in row
    assert progress.judge == "validation"
    whole = evaluate(classifier, (images, labels))
    named = evaluate(classifier, (images, np.array(["0", "1"])[labels]))
    one_hot = evaluate(classifier, (images, np.eye(2)[labels]))
    assert whole.loss == named.loss == one_hot.loss
    np.testing.assert_array_equal(evaluate(classifier, (images[:6] / 255, labels[:6])).probs, whole.probs[:6])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, int), "got 3 for 4 images"),
        (np.zeros((4, 8, 8, 5), np.uint8), np.zeros(4, int), "(4, 8, 8, 5)"),
        (np.zeros((4, 64), np.uint8), np.zeros(4, int), "(4, 64)"),
        (np.full((4, 8, 8, 3), np.nan), np.zeros(4, int), "NaN or infinity first in image 0"),
        (np.full((4, 8, 8, 3), -1.0), np.zeros(4, int), "undo the normalisation"),
        (np.zeros((4, 8, 8, 3), complex), np.zeros(4, int), "complex128"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.full(4, 0.5), "class numbers or names"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.array([{}] * 4), "class numbers or names"),
    ],
)
def test_a_pair_that_fits_nothing_is_one_line(images, labels, words):
    with pytest.raises(DataError) as error:
        as_dataset((images, labels))
    assert_one_line(error, "the pair", words)


def test_all_shapes_and_types_of_the_same_images_are_the_same():
    images, labels = layouts.pixels(6, size=8)
    first = as_dataset((images, labels)).images(np.arange(6))
    np.testing.assert_array_equal(first, images)
    for same in (images.transpose(0, 3, 1, 2), images / 255, images.astype(np.int64), images.astype(np.float32)):
        np.testing.assert_array_equal(as_dataset((same, labels)).images(np.arange(6)), images)
    grey = as_dataset((images[..., 0], labels))
    assert "three equal channels" in grey.source
    for same in (images[..., :1], images[:, None, :, :, 0]):
        np.testing.assert_array_equal(
            as_dataset((same, labels)).images(np.array([5, 0])), grey.images(np.array([5, 0]))
        )
    np.testing.assert_array_equal(grey.images(np.array([5])), np.repeat(images[5:, ..., :1], 3, axis=3))


def test_labels_by_name_number_or_row_are_numbered_by_the_classes_that_are_known():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    assert as_dataset((images, ["dog", "cat", "dog"]), ("cat", "dog")).labels.tolist() == [1, 0, 1]
    assert as_dataset((images, [1, 0, 1]), ("cat", "dog")).labels.tolist() == [1, 0, 1]
    assert as_dataset((images, [7, 9, 7]), ("9", "7")).labels.tolist() == [1, 0, 1]  # a name goes before a number
    assert as_dataset((images, [10, 2, 10])).classes == ("2", "10")
    with pytest.raises(DataError) as error:
        as_dataset((images, ["dog", "cow", "ant"]), ("cat", "dog"))
    assert_one_line(error, "cat, dog", "got also ant, cow")


class Runs:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_runs_nothing(tmp_path, protocol):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Runs(tmp_path / "made"), b"labels": [0]}, protocol))
    with pytest.raises(DataError) as error:
        read_pickle(path, "a batch of CIFAR")
    assert_one_line(error, path, "io.open", "numbers only")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(I9000000000\ntU\x01b\x87R.",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
        b"\x80\x02}(U\x04data]U\x01xub.",
        b"\x80\x02cnumpy\ndtype\n}U\x05_NAMEU\x01xsb.",
        b"\x80\x02(cnumpy\ndtype\no.",
    ],
)
def test_a_pickle_that_asks_for_memory_or_for_more_than_arrays_is_one_line(tmp_path, content):
    path = tmp_path / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_pickle(path, "a batch of CIFAR")
    assert_one_line(error, path, "a batch of CIFAR")


def test_python_2_pickles_and_todays_give_the_same(tmp_path):
    found = [load(layouts.cifar(tmp_path / str(protocol), protocol))[0] for protocol in (2, 4, 5)]
    assert len({part.fingerprint() for part in found}) == 1
    images, _ = layouts.pixels(3, size=32)
    np.testing.assert_array_equal(found[0].images(np.arange(6)), np.concatenate([images, images]))


def test_a_header_that_claims_more_than_there_is(tmp_path):
    layouts.npy(tmp_path)
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000, 8, 8, 3)}\n"
    (tmp_path / "X.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(99))
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert_one_line(error, tmp_path / "X.npy", "19,200,000,000,000 bytes, 99 are there")
    root = layouts.mnist(tmp_path / "mnist", ".gz")
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + np.array([400, 1000, 1000], ">u4").tobytes() + bytes(999)))
    with pytest.raises(DataError) as error:
        load(root)
    assert_one_line(error, path, "would unpack to 400,000,000")


def test_objects_in_arrays_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Runs(tmp_path / "made")], object), y=np.zeros(1, int))
    with pytest.raises(DataError) as error:
        load(tmp_path / "a.npz")
    assert_one_line(error, "nothing is unpickled")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_changed_byte_in_an_npz_is_seen(tmp_path, compressed):
    path = layouts.npz(tmp_path / "a.npz", {"": 8}, compressed)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.infolist()[0].header_offset + 300] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, "damaged")


def test_a_file_that_became_shorter_is_named(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(bytes(range(100)))
    rows = Rows(path, 4, (8, 3), stride=12)
    assert rows[np.array([7, 0])].tolist() == [[88, 89, 90], [4, 5, 6]]
    path.write_bytes(bytes(20))
    with pytest.raises(DataError) as error:
        rows[np.array([7])]
    assert_one_line(error, path, "position 7")


@pytest.mark.parametrize(
    "make",
    [layouts.cifar, layouts.cifar_bytes, layouts.mnist, lambda r: layouts.npz(r / "a.npz", {"train": 6, "val": 4})],
)
def test_convert_holds_what_was_read(tmp_path, make):
    source = make(tmp_path / "data")
    parts, again = load_parts(source), load_parts(convert(source, tmp_path / "out.h5"))
    assert list(parts.named()) == list(again.named())
    for one, other in zip(parts.named().values(), again.named().values(), strict=True):
        assert one.fingerprint() == other.fingerprint()
        assert one.flip_ok == other.flip_ok


def test_without_scipy_a_mat_file_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(200))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, "pip install 'minires[mat]'")


def test_a_mat_file_with_an_empty_array_is_one_line(tmp_path):
    layouts.svhn(tmp_path, "a.mat", write=layouts.mat_hdf5)
    with h5py.File(tmp_path / "a.mat", "r+") as file:
        del file["X"]
        file["X"] = h5py.Empty("u1")
    with pytest.raises(DataError) as error:
        load(tmp_path / "a.mat")
    assert_one_line(error, tmp_path / "a.mat", "has no images")
