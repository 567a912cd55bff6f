"""Image folders: both layouts, every kind of image, splits, conversion, and bad files named."""

import json
import os

import numpy as np
import pytest
from data_helpers import PHOTOS, assert_one_line, needs_photos, write_image
from PIL import Image

from minires.data import (
    ImageFolder,
    Subset,
    convert,
    load,
    read_image,
    read_split,
    stratified_split,
    write_split,
)
from minires.errors import ConfigError, DataError


def class_folders(root, classes=("2", "10", "1"), count=5):
    for c, name in enumerate(classes):
        for i in range(count):
            write_image(root / name / f"{i}.png", seed=100 * c + i)
    return root


def test_class_folders_in_natural_order(tmp_path):
    folder = ImageFolder(class_folders(tmp_path), size=(6, 7))
    assert folder.classes == ("1", "2", "10")
    assert folder.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert folder.files == tuple(f"{name}/{i}.png" for name in folder.classes for i in range(5))
    images = folder.images(np.array([14, 0, 14]))
    assert images.shape == (3, 6, 7, 3)
    np.testing.assert_array_equal(images[0], read_image(tmp_path / "10/4.png", (6, 7)))
    np.testing.assert_array_equal(images[0], images[2])
    assert (images[0] != images[1]).any()
    assert folder.flip_ok is False


def test_flat_layout(tmp_path):
    for name in ("3_12.JPG", "3_2.jpg", "thumb_up_1.png", "10_0.png"):
        write_image(tmp_path / name)
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("3", "10", "thumb_up")
    assert folder.files == ("3_12.JPG", "3_2.jpg", "10_0.png", "thumb_up_1.png")
    write_image(tmp_path / "plain.png")
    with pytest.raises(DataError) as error:
        ImageFolder(tmp_path)
    assert_one_line(error, tmp_path / "plain.png", "before the last underscore")


def test_hidden_files_and_non_images_are_left_out_and_counted(tmp_path):
    class_folders(tmp_path, ("a", "b"))
    for name in ("a/.hidden.png", "a/notes.txt", "Thumbs.db", ".git/x.png", "__MACOSX/a/0.png", "cover.png"):
        write_image((tmp_path / name).with_suffix(".png")).rename(tmp_path / name)
    folder = ImageFolder(tmp_path)
    assert (len(folder), folder.classes) == (10, ("a", "b"))
    assert folder.skipped == {"hidden": 1, ".txt": 1, ".db": 1, "beside the classes' folders": 1}
    assert "left out: " in folder.source  # whole hidden folders are not looked into
    assert "1 .txt" in folder.source


def test_folders_that_are_split_already(tmp_path):
    class_folders(tmp_path / "train", ("a", "b"))
    class_folders(tmp_path / "val", ("b",), count=2)
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (10, 2)
    assert test.classes == ("a", "b")
    assert test.labels.tolist() == [1, 1]
    write_image(tmp_path / "val/c/0.png")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert_one_line(error, tmp_path / "val", "a, b", "'c'")


def test_load_splits_each_class(tmp_path):
    class_folders(tmp_path, ("a", "b"), count=10)
    train, test = load(tmp_path, test_fraction=0.2, size=5)
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert train.shape == (5, 5, 3)
    assert load(tmp_path, test_fraction=0)[1] is None
    assert load(tmp_path)[0].shape == (64, 64, 3)


def test_empty_folder_one_class_and_no_folder(tmp_path):
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert_one_line(error, tmp_path, "expected images", "none among 0 files")
    class_folders(tmp_path, ("a",))
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert_one_line(error, tmp_path, "two classes", "'a'")
    with pytest.raises(DataError) as error:
        load("/dev/null")
    assert_one_line(error, "/dev/null", "a device or a pipe")
    with pytest.raises(DataError) as error:
        ImageFolder(tmp_path / "none")
    assert_one_line(error, tmp_path / "none", "no such folder")


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut off"])
def test_unreadable_image_is_named(tmp_path, content):
    class_folders(tmp_path, ("a", "b"))
    path = write_image(tmp_path / "a" / "bad.png", size=(50, 50))
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    folder = ImageFolder(tmp_path)
    with pytest.raises(DataError) as error:
        folder.fingerprint()
    assert_one_line(error, path, "expected an image, but it ")


def test_missing_image_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "none.png")
    assert_one_line(error, tmp_path / "none.png", "no such file")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("side", "found"), [(7100, "7100x7100"), (14000, "178,956,970")])
def test_absurdly_large_image_is_named_before_it_is_decoded(tmp_path, side, found):
    path = tmp_path / "huge.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(DataError) as error:
        read_image(path, 64)
    assert_one_line(error, path, "50 megapixels", found)


def test_every_mode_becomes_rgb(tmp_path):
    def read(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        return read_image(tmp_path / name)[0, 0].tolist()

    assert read(Image.new("L", (4, 4), 99)) == [99, 99, 99]
    assert read(Image.new("1", (4, 4), 1)) == [255, 255, 255]
    assert read(Image.new("LA", (4, 4), (0, 0))) == [255, 255, 255]
    assert read(Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == [255, 255, 255]
    assert read(Image.new("RGBA", (4, 4), (255, 0, 0, 255))) == [255, 0, 0]
    half = read(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert half == pytest.approx([127, 127, 127], abs=1)
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert read(palette) == [10, 200, 30]
    assert read(palette, "x.gif", transparency=0) == [255, 255, 255]
    assert read(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "x.tif") == [255, 0, 0]


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    assert read_image(tmp_path / name)[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "floating point"), (np.int32, "got 32")])
def test_deeper_images_are_refused(tmp_path, dtype, words):
    Image.fromarray(np.full((4, 4), 100_000, dtype)).save(tmp_path / "x.tif")
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "x.tif")
    assert_one_line(error, tmp_path / "x.tif", words, "8-bit PNG")


def test_exif_rotation(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    image = read_image(tmp_path / "x.png")
    assert image.shape == (30, 20, 3)
    assert (image[:15] == 255).all()
    assert (image[15:] == 0).all()


def test_large_photo_read_at_reduced_scale_is_nearly_the_same(tmp_path):
    y, x = np.mgrid[0:1200, 0:900]
    pixels = np.stack([x % 256, y % 256, (x + y) % 256], -1) // 2 + 60
    smooth = Image.fromarray(pixels.astype(np.uint8)).resize((90, 120)).resize((900, 1200))
    smooth.save(tmp_path / "x.jpg", quality=95)
    whole = smooth.resize((48, 64), Image.Resampling.BILINEAR)
    difference = np.abs(read_image(tmp_path / "x.jpg", (64, 48)).astype(int) - np.asarray(whole))
    assert difference.mean() < 3


def test_small_sets_are_decoded_once_and_the_cache_is_bounded(tmp_path, monkeypatch):
    class_folders(tmp_path, ("a", "b"))
    decoded = []
    monkeypatch.setattr(
        "minires.data.folder.read_image", lambda path, size: decoded.append(path) or read_image(path, size)
    )
    index = np.arange(10)
    folder = ImageFolder(tmp_path, size=4)
    first = folder.images(index)
    first[:] = 0  # what is handed out is not the cache
    assert folder.images(index).any()
    assert len(decoded) == 10
    bounded = ImageFolder(tmp_path, size=4, cache_bytes=3 * 4 * 4 * 3 + 1)
    decoded.clear()
    for _ in range(3):
        bounded.images(index)
    assert len(decoded) == 10 + 7 + 7


def test_stratified_split():
    labels = np.repeat([0, 1, 2, 3], [40, 21, 2, 1])
    train, test = stratified_split(labels, 0.15, seed=3)
    assert np.bincount(labels[test], minlength=4).tolist() == [6, 3, 1, 0]
    assert sorted([*train, *test]) == list(range(64))
    again = stratified_split(labels, 0.15, seed=3)
    np.testing.assert_array_equal(test, again[1])
    assert stratified_split(labels, 0.15, seed=4)[1].tolist() != test.tolist()
    # another class's size changes nothing
    fewer = stratified_split(labels[:61], 0.15, seed=3)[1]
    np.testing.assert_array_equal(fewer, test[test < 61])
    assert stratified_split(labels, 0, seed=3)[1].size == 0


def test_split_is_the_one_recorded():
    """Fixed positions: another platform or NumPy must give the same."""
    assert stratified_split(np.repeat([0, 1], 10), 0.3, seed=0)[1].tolist() == [2, 4, 6, 11, 13, 19]


@pytest.mark.parametrize(("fraction", "seed", "word"), [(1.0, 0, "fraction"), (-0.1, 0, "fraction"), (0.1, -1, "seed")])
def test_split_arguments(fraction, seed, word):
    with pytest.raises(ConfigError) as error:
        stratified_split(np.array([0, 1]), fraction, seed)
    assert_one_line(error, word)


def test_split_written_and_read(tmp_path):
    folder = ImageFolder(class_folders(tmp_path / "photos"))
    parts = stratified_split(folder.labels, 0.4, seed=1)
    path = tmp_path / "split.json"
    write_split(path, folder, *parts, seed=1, fraction=0.4)
    for part, again in zip(parts, read_split(path, ImageFolder(tmp_path / "photos", size=9)), strict=True):
        np.testing.assert_array_equal(part, again)
    table = json.loads(path.read_text())
    assert (table["seed"], table["fraction"]) == (1, 0.4)
    assert table["test"] == [folder.files[i] for i in parts[1]]

    write_image(tmp_path / "photos/1/0.png", seed=77)
    with pytest.raises(DataError) as error:
        read_split(path, ImageFolder(tmp_path / "photos"))
    assert_one_line(error, path, "not those that were split")
    (tmp_path / "photos/1/0.png").unlink()
    with pytest.raises(DataError) as error:
        read_split(path, ImageFolder(tmp_path / "photos"))
    assert_one_line(error, path, "1/0.png", "1 missing")


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"nothing", b"\xff\xfe", None])
def test_file_that_is_no_split(tmp_path, content):
    folder = ImageFolder(class_folders(tmp_path / "photos"))
    path = tmp_path / "split.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_split(path, folder)
    assert_one_line(error, path, "expected a split")


def test_convert_holds_what_load_gives(tmp_path):
    class_folders(tmp_path / "photos", ("a", "b"), count=10)
    out = convert(tmp_path / "photos", tmp_path / "photos.h5", size=(9, 8), seed=2, test_fraction=0.2)
    for part, again in zip(load(tmp_path / "photos", size=(9, 8), seed=2, test_fraction=0.2), load(out), strict=True):
        assert part.fingerprint() == again.fingerprint()
        assert part.flip_ok == again.flip_ok
    with pytest.raises(DataError) as error:
        convert(tmp_path / "photos", tmp_path / "photos.npz")
    assert_one_line(error, tmp_path / "photos.npz", ".h5")


def test_convert_failure_leaves_nothing(tmp_path):
    class_folders(tmp_path / "photos", ("a", "b"))
    (tmp_path / "photos/b/9.png").write_bytes(b"?")
    with pytest.raises(DataError) as error:
        convert(tmp_path / "photos", tmp_path / "out.h5")
    assert_one_line(error, tmp_path / "photos/b/9.png")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_subset_positions_are_checked(tmp_path):
    folder = ImageFolder(class_folders(tmp_path))
    for index in ([15], [-1], []):
        with pytest.raises(DataError) as error:
            Subset(folder, index)
        assert_one_line(error, tmp_path, "subset")


@needs_photos
def test_real_photographs():
    train, test = load(PHOTOS, size=32)
    assert train.classes == tuple("0123456789")
    assert len(train) + len(test) == 1762
    shares = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    assert np.abs(shares - 0.15).max() < 0.005
    images = test.images(np.arange(0, len(test), 20))
    assert images.shape[1:] == (32, 32, 3)
    assert images.std(axis=(1, 2, 3)).min() > 5


def test_a_class_without_images_is_named(tmp_path):
    class_folders(tmp_path, ("a", "b"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.heic").touch()
    for use in (load, ImageFolder, lambda root: convert(root, tmp_path / "out.h5")):
        with pytest.raises(DataError) as error:
            use(tmp_path)
        assert_one_line(error, tmp_path / "c", "got none", "put some in", "leave it out by the name .c")
    (tmp_path / "c").rename(tmp_path / ".c")
    assert load(tmp_path)[0].classes == ("a", "b")


def test_a_test_part_says_which_classes_it_lacks(tmp_path):
    class_folders(tmp_path / "train", ("a", "b"))
    class_folders(tmp_path / "test", ("b",), count=2)
    (tmp_path / "test" / "a").mkdir()
    assert load(tmp_path)[1].source == f"{tmp_path / 'test'} (none of a)"


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """Left out without a word it would be a class of its own less."""
    class_folders(tmp_path, ("a", "b"))
    scandir = os.scandir

    def closed(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert_one_line(error, tmp_path / "b", "cannot be read (Permission denied)")
