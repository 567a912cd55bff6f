"""HDF5 data: the SIGNS layout read and written, and every bad file named with its cause."""

import errno
import gzip
import threading
import zipfile

import h5py
import numpy as np
import pytest
from data_helpers import assert_one_line, random_set

from minires.data import ArrayDataset, Subset, atomic_hdf5, load, load_signs, open_hdf5, write_signs
from minires.errors import DataError


def write_pair(folder, **changed):
    """A pair as the course has it, with some keys changed (None: left out); returns the training file."""
    rng = np.random.default_rng(0)
    content = {}
    for part, count in (("train", 12), ("test", 6)):
        content[f"{part}_set_x"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        content[f"{part}_set_y"] = np.arange(count) % 6
    content |= changed
    for part in ("train", "test"):
        with h5py.File(folder / f"{part}_signs.h5", "w") as file:
            for key, value in {**content, "list_classes": changed.get("list_classes", np.arange(6))}.items():
                if value is not None and not key.startswith({"train": "test", "test": "train"}[part]):
                    file[key] = value
    return folder / "train_signs.h5"


def all_images(part):
    return part.images(np.arange(len(part)))


@pytest.mark.slow
def test_pair_from_either_file_or_the_folder(tmp_path):
    write_pair(tmp_path)
    loaded = [load(tmp_path / name) for name in ("train_signs.h5", "test_signs.h5", ".")]
    for train, test in loaded:
        assert (len(train), len(test), train.shape, train.classes) == (12, 6, (8, 8, 3), tuple("012345"))
        assert train.labels.tolist() == [0, 1, 2, 3, 4, 5] * 2
        assert train.labels.dtype == np.int64
        assert train.flip_ok
        assert test.source == str(tmp_path / "test_signs.h5")
        assert train.fingerprint() == loaded[0][0].fingerprint() != test.fingerprint()


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_file_of_the_pair(tmp_path, part):
    write_pair(tmp_path)
    other = {"train": "test", "test": "train"}[part]
    (tmp_path / f"{other}_signs.h5").unlink()
    parts = dict(zip(("train", "test"), load(tmp_path / f"{part}_signs.h5"), strict=True))
    assert parts[other] is None
    assert parts[part] is not None


def test_images_in_any_order_with_repeats(tmp_path):
    train, _ = load_signs(write_pair(tmp_path))
    with h5py.File(train.path) as file:
        stored = file["train_set_x"][()]
    for index in ([5, 0, 5, 11, 3], [2, 3, 4], [4, 3, 2], [7], []):
        np.testing.assert_array_equal(train.images(np.array(index, int)), stored[np.array(index, int)])


def test_two_threads_read_at_once(tmp_path):
    train, _ = load_signs(write_pair(tmp_path))
    expected, wrong = all_images(train), []

    def read(seed):
        for index in np.random.default_rng(seed).integers(0, 12, (40, 5)):
            if not np.array_equal(train.images(index), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("shape", [(1, 12), (12, 1)])
def test_labels_as_a_row_or_a_column(tmp_path, shape):
    train, _ = load_signs(write_pair(tmp_path, train_set_y=(np.arange(12) % 6).reshape(shape)))
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize(("top", "scale"), [(1.0, 255), (255.0, 1)])
def test_float_pixels_of_both_ranges(tmp_path, top, scale):
    pixels = np.linspace(0, top, 12 * 192).reshape(12, 8, 8, 3)
    train, _ = load_signs(write_pair(tmp_path, train_set_x=pixels))
    np.testing.assert_array_equal(all_images(train), np.rint(pixels * scale))


def test_black_and_white_as_floats(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (12, 8, 8, 3)).astype(np.float32)
    train, _ = load_signs(write_pair(tmp_path, train_set_x=pixels))
    np.testing.assert_array_equal(all_images(train), 255 * pixels)


@pytest.mark.parametrize("top", [1, 255])
def test_what_a_bicubic_resize_overshoots_is_clipped(tmp_path, top):
    pixels = np.linspace(-0.02, 1.03, 12 * 192).reshape(12, 8, 8, 3) * top
    train, _ = load_signs(write_pair(tmp_path, train_set_x=pixels))
    np.testing.assert_array_equal(all_images(train), np.rint(pixels.clip(0, top) * (255 / top)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train_set_x": None}, ["train_set_x or test_set_x", "['list_classes', 'train_set_y']"]),
        ({"train_set_y": None}, ["the key train_set_y", "['list_classes', 'train_set_x']"]),
        ({"list_classes": None}, ["the key list_classes", "train_set_x"]),
        ({"list_classes": np.linspace(0, 1, 6)}, ["list_classes as integers or byte strings", "float64"]),
        ({"train_set_x": np.zeros((12, 8, 8), np.uint8)}, ["(N, H, W, 3)", "(12, 8, 8)"]),
        ({"train_set_x": np.zeros((12, 3, 8, 8), np.uint8)}, ["(N, H, W, 3)", "(12, 3, 8, 8)"]),
        ({"train_set_x": np.zeros((0, 8, 8, 3), np.uint8)}, ["at least one image"]),
        ({"train_set_x": np.zeros((12, 8, 8, 3), np.int32)}, ["uint8", "int32"]),
        ({"train_set_x": np.full((12, 8, 8, 3), -0.5)}, ["0..1 or 0..255", "-0.5"]),
        ({"train_set_x": np.linspace(0, 1.9, 12 * 192).reshape(12, 8, 8, 3)}, ["0..1 or 0..255", "0..1.9"]),
        ({"train_set_x": np.full((12, 8, 8, 3), 300.0)}, ["0..1 or 0..255", "300"]),
        ({"train_set_y": np.arange(11) % 6}, ["11 for 12 images"]),
        ({"train_set_y": np.arange(12) % 6 * 1.0}, ["integer labels", "float64"]),
        ({"train_set_y": np.zeros((3, 4), int)}, ["labels of shape (N,)", "(3, 4)"]),
        ({"train_set_y": np.r_[0:5, 6, 0:6]}, ["0..5", "got 6 at index 5"]),
        ({"train_set_y": np.r_[0:5, -1, 0:6]}, ["0..5", "got -1 at index 5"]),
        ({"train_set_y": np.full(12, 3)}, ["at least two classes", "'3'"]),
    ],
)
def test_bad_content_is_named(tmp_path, changed, words):
    path = write_pair(tmp_path, **changed)
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, *words)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_first_image_that_is_not_finite_is_named(tmp_path, value):
    pixels = np.zeros((300, 8, 8, 3), np.float32)
    pixels[[270, 290], 1, 2, 0] = value
    path = write_pair(tmp_path, train_set_x=pixels, train_set_y=np.arange(300) % 6)
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, "train_set_x", "NaN or infinity", "image 270")


def test_parts_of_different_sets(tmp_path):
    path = write_pair(tmp_path, test_set_x=np.zeros((6, 9, 9, 3), np.uint8))
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, tmp_path / "test_signs.h5", "(8, 8, 3)", "(9, 9, 3)")


HTML = b"\n<!DOCTYPE html>\n<html><head><title>\n Log in  to Coursera</title></head>" + b"<p>" * 30000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HTML, ["web page (title: 'Log in to Coursera'), not HDF5"]),
        (b"<html><body>404</body></html>", ["web page (title: 'none')"]),
        (b"404: Not Found", ["text that starts with '404: Not Found'"]),
        ('{"message": "zu groß"}\n'.encode() * 9000, ["text that starts with"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", ["Git LFS pointer", "git lfs pull"]),
        (b"", ["empty (0 bytes)"]),
        (gzip.compress(b"x" * 99, mtime=0), ["gzip", "gunzip"]),
        (b"\xff\xd8\xff\xe0" + bytes(99), ["JPEG"]),
        (bytes(range(1, 255)), ["unknown data", "01 02 03 04"]),
    ],
)
def test_files_that_are_not_hdf5(tmp_path, content, words):
    path = tmp_path / "train_signs.h5"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, "a SIGNS data file", "not HDF5", *words)


def test_zip(tmp_path):
    path = tmp_path / "weights.h5"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(DataError) as error, open_hdf5(path, "a checkpoint"):
        pass
    assert_one_line(error, path, "a checkpoint", "zip archive", "unpack")


@pytest.mark.parametrize("kept", [8, 60, 700, 2500])
def test_truncated(tmp_path, kept):
    path = write_pair(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError) as error, open_hdf5(path, "a checkpoint"):
        pass
    assert_one_line(error, path, "truncated HDF5 file", kept)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(DataError) as error, open_hdf5(tmp_path / "none.h5", "a checkpoint"):
        pass
    assert_one_line(error, tmp_path / "none.h5", "no such file")
    with pytest.raises(DataError) as error, open_hdf5(tmp_path, "a checkpoint"):
        pass
    assert_one_line(error, tmp_path, "folder")
    with pytest.raises(DataError) as error:
        load(tmp_path / "none")
    assert_one_line(error, tmp_path / "none", "no such file or folder", "'builtin'")


@pytest.mark.parametrize("classes", [("0", "1", "2"), ("00", "1", "2"), ("no", "ja", "größer")])
@pytest.mark.parametrize("target", ["one.h5", "folder/pair"])
def test_written_and_read_again(tmp_path, target, classes):
    whole = random_set(600, size=5, classes=classes, flip_ok=True)
    train, test = Subset(whole, np.arange(550)), Subset(whole, np.arange(550, 600))
    files = write_signs(tmp_path / target, train, test)
    assert len(files) == 1 + ("pair" in target)
    for part, again in zip((train, test), load(tmp_path / target), strict=True):
        assert again.classes == classes
        assert again.fingerprint() == part.fingerprint()


def test_flip_ok_is_kept_and_can_be_overridden(tmp_path):
    write_signs(tmp_path / "one.h5", random_set(6, flip_ok=False))
    assert load(tmp_path / "one.h5")[0].flip_ok is False
    assert load(tmp_path / "one.h5", flip_ok=True)[0].flip_ok is True


def test_parts_that_do_not_fit_are_not_written(tmp_path):
    with pytest.raises(DataError) as error:
        write_signs(tmp_path / "x.h5", random_set(6), random_set(6, size=9))
    assert_one_line(error, tmp_path / "x.h5", "(8, 8, 3)", "(9, 9, 3)")
    assert not list(tmp_path.iterdir())


class _Breaks(ArrayDataset):
    def images(self, index):
        raise DataError("photo.jpg: damaged")


def test_a_failure_leaves_the_old_pair_and_no_temporary_file(tmp_path):
    write_signs(tmp_path, random_set(6), random_set(6, seed=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = _Breaks(np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 3, "abc")
    with pytest.raises(DataError, match="damaged"):
        write_signs(tmp_path, random_set(6, seed=2), broken)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_full_disk_is_reported_and_the_old_file_intact(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits are a POSIX matter")
    path = tmp_path / "one.h5"
    write_signs(path, random_set(6))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writes beyond fail as on a full disk
    try:
        with pytest.raises(DataError) as error:
            write_signs(path, random_set(600, size=20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_line(error, path, "cannot be written", "free some space")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_hdf5_names_the_system_s_reason(tmp_path):
    with pytest.raises(DataError) as error, atomic_hdf5(tmp_path / "none" / "a.h5"):
        pass
    assert_one_line(error, tmp_path / "none" / "a.h5", "No such file or directory", "create the folder")
    with pytest.raises(DataError) as error, atomic_hdf5(tmp_path / "a.h5"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert_one_line(error, tmp_path / "a.h5", "No space left on device", "free some space")
    with pytest.raises(DataError) as error, atomic_hdf5(tmp_path):
        pass
    assert_one_line(error, tmp_path, "folder")
    assert not list(tmp_path.iterdir())


def test_atomic_hdf5_passes_other_errors_and_keeps_links(tmp_path):
    (tmp_path / "old.h5").write_bytes(b"old")
    (tmp_path / "link.h5").symlink_to("old.h5")
    with pytest.raises(ZeroDivisionError), atomic_hdf5(tmp_path / "link.h5") as file:
        file["x"] = 1 / 0
    assert (tmp_path / "old.h5").read_bytes() == b"old"
    with atomic_hdf5(tmp_path / "link.h5") as file:
        file["x"] = 7
    assert (tmp_path / "link.h5").is_symlink()
    with open_hdf5(tmp_path / "old.h5", "a test") as file:
        assert file["x"][()] == 7
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("size", [0, -3, 2.5, "big", (1, 2, 3)])
def test_sizes_that_are_none(size):
    with pytest.raises(DataError) as error:
        load("builtin", size=size)
    assert_one_line(error, "image size")


def test_size_resizes_and_is_the_identity_where_it_fits(tmp_path):
    path = write_pair(tmp_path)
    train, _ = load(path, size=(4, 6))
    assert all_images(train).shape == (12, 4, 6, 3)
    same, _ = load(path, size=8)
    assert same.fingerprint() == load(path)[0].fingerprint()
    grey = ArrayDataset(np.full((2, 8, 8, 3), 77, np.uint8), [0, 1], "ab")
    write_signs(tmp_path / "grey.h5", grey)
    assert (all_images(load(tmp_path / "grey.h5", size=5)[0]) == 77).all()


def test_fingerprint_sees_pixels_labels_classes_and_order():
    base = random_set(6)
    images = all_images(base)
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    others = [
        ArrayDataset(changed, base.labels, base.classes),
        ArrayDataset(images, base.labels[::-1], base.classes),
        ArrayDataset(images, base.labels, ("a", "b", "d")),
        Subset(base, [1, 0, 2, 3, 4, 5]),
    ]
    assert len({part.fingerprint() for part in (base, *others)}) == 5
    assert Subset(base, np.arange(6)).fingerprint() == base.fingerprint()


LAYOUTS = {
    "gzip": {"compression": "gzip"},
    "large chunks": {"compression": "gzip", "chunks": (50, 8, 8, 3)},
    "parts of images": {"compression": "gzip", "shuffle": True, "chunks": (30, 3, 5, 2)},
    "chunks": {"chunks": (7, 8, 8, 1)},
    "checksums": {"chunks": (7, 8, 8, 1), "fletcher32": True},
}


@pytest.mark.parametrize("layout", [None, *LAYOUTS])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_in_chunks_are_decoded_once(tmp_path, layout, dtype):
    whole, path = random_set(130), tmp_path / "train_signs.h5"
    with h5py.File(path, "w") as file:
        scale = 1 if dtype is np.uint8 else dtype(1 / 255)
        file.create_dataset("train_set_x", data=all_images(whole) * dtype(scale), **LAYOUTS.get(layout, {}))
        file["train_set_y"], file["list_classes"] = whole.labels, np.array([b"a", b"b", b"c"])
    train, _ = load_signs(path)
    assert train.source == str(path)
    assert train.fingerprint() == whole.fingerprint()
    index = np.array([129, 3, 3, 77, 0])
    expected = whole.images(index)
    np.testing.assert_array_equal(train.images(index), expected)
    with pytest.raises((DataError, OSError)):
        train.images(np.array([130]))
    if layout:
        path.unlink()  # nothing is decoded again
        np.testing.assert_array_equal(train.images(index), expected)


def test_chunks_larger_than_memory_should_hold_are_refused(tmp_path):
    path = tmp_path / "train_signs.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train_set_x", (10**6, 32, 32, 3), np.uint8, chunks=(10**6, 1, 1, 1), compression="gzip")
        file["train_set_y"], file["list_classes"] = np.zeros(10**6, np.uint8), np.arange(3)
    with pytest.raises(DataError) as error:
        load_signs(path)[0].images(np.arange(3))
    assert_one_line(error, path, "claims 3,072,000,000 bytes where 0 are stored")


def test_a_changed_byte_of_ours_is_refused_wherever_it_is(tmp_path):
    path = tmp_path / "one.h5"
    write_signs(path, random_set(40))
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(600, len(whole), 30):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(at) % 8
        path.write_bytes(changed)
        with pytest.raises(DataError) as error:
            load(path)
        assert_one_line(error, path, "checksum")


def test_the_seal_cannot_be_lost_alone(tmp_path):
    path = tmp_path / "one.h5"
    write_signs(path, random_set(40))
    path.write_bytes(b"MINIRES" + path.read_bytes()[7:])
    with pytest.raises(DataError) as error:
        load(path)
    assert_one_line(error, path, "seal", "damaged")
