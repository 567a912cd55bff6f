"""A data set in several files: patterns, names that belong together, and conversion that goes on where it was ended."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_helpers import assert_one_line, random_set, write_image

from minires.data import convert, load_parts, sharding, write_signs
from minires.errors import ConfigError, DataError
from minires.seal import sealed


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{8..10}.tar", ["8.tar", "9.tar", "10.tar"]),
        ("a-{008..010}.tar", ["a-008.tar", "a-009.tar", "a-010.tar"]),
        ("{train,val}-{00..01}.h5", ["train-00.h5", "train-01.h5", "val-00.h5", "val-01.h5"]),
        ("a-0??.tar", ["a-008.tar", "a-009.tar", "a-010.tar"]),
        ("*.tar", ["8.tar", "9.tar", "10.tar", "a-008.tar", "a-009.tar", "a-010.tar"]),
        ("{8,[89],1*}.tar", ["8.tar", "9.tar", "10.tar"]),
    ],
)
def test_patterns(tmp_path, pattern, expected):
    touch(tmp_path, *(f"{i}.tar" for i in (8, 9, 10)), *(f"a-{i:03}.tar" for i in (8, 9, 10)))
    touch(tmp_path, *(f"{part}-{i:02}.h5" for part in ("train", "val") for i in range(2)))
    assert sharding.is_pattern(tmp_path / pattern)
    assert [path.name for path in sharding.matching(tmp_path / pattern)] == expected


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{000..002}.tar", ["002.tar", "not there"]),
        ("none-*.tar", ["no such file"]),
        ("{000..", ["braces in pairs"]),
        ("000}*", ["braces in pairs"]),
        ("{5..1}.tar", ["5..1"]),
        ("{0..999999999}.tar", ["100,000"]),
        ("{0..9999}{0..9999}.tar", ["more than 100,000 files"]),
        ("{x}.tar", ["000..099"]),
    ],
)
def test_patterns_that_stand_for_nothing(tmp_path, pattern, words):
    touch(tmp_path, "000.tar", "001.tar")
    with pytest.raises(DataError) as error:
        load_parts(tmp_path / pattern)
    assert_one_line(error, tmp_path / pattern, *words)


def test_a_name_with_braces_is_a_name(tmp_path):
    write_signs(tmp_path / "a{1..2}[3].h5", random_set(6))
    assert len(load_parts(tmp_path / "a{1..2}[3].h5").train) == 6


def test_a_pattern_of_nothing_that_is_read(tmp_path):
    write_image(tmp_path / "1.png"), write_image(tmp_path / "2.png")
    write_signs(tmp_path / "1.h5", random_set(6))
    with pytest.raises(DataError) as error:
        load_parts(tmp_path / "*.png")
    assert_one_line(error, tmp_path / "1.png", "HDF5", "image")
    (tmp_path / "1.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError) as error:
        load_parts(tmp_path / "1.{h5,npy}")
    assert_one_line(error, "one kind", "npy")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as error:
        load_parts(tmp_path / "{1.h5,folder}")
    assert_one_line(error, tmp_path / "folder", "expected files")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 40 images of two classes."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(40):
        write_image(root / "ab"[i % 2] / f"{i}.png", i)
    return root


def fingerprints(spec, **options):
    return {name: part.fingerprint() for name, part in load_parts(spec, **options).named().items()}


@pytest.mark.parametrize(("compression", "shards"), [("none", 0), ("gzip", 0), ("lzf", 1), ("gzip", 3), ("none", 3)])
def test_converted_is_what_it_was_made_from(photos, tmp_path, compression, shards):
    out = convert(photos, tmp_path / "out.h5", size=9, compression=compression, shards=shards)
    assert fingerprints(out) == fingerprints(photos, size=9)
    files = sorted(tmp_path.iterdir())
    assert all(sealed(file) for file in files)
    if not shards:
        assert files == [out]
        return
    assert [file.name for file in files] == [f"out-{i:03}-of-{shards:03}.h5" for i in range(shards)]
    for spec in (tmp_path, files[-1], tmp_path / f"out-{{000..{shards - 1:03}}}-of-*.h5", tmp_path / "out-*.h5"):
        assert fingerprints(spec) == fingerprints(out)


def test_chunks_hold_whole_images(tmp_path):
    write_signs(tmp_path / "0.h5", random_set(80, size=64), random_set(30, size=64))
    convert(tmp_path / "0.h5", tmp_path / "a.h5", shards=2)
    with h5py.File(tmp_path / "a-001-of-002.h5") as file:
        assert file["train_set_x"].chunks == (32, 64, 64, 3)
        assert (file["train_set_x"].compression, file["train_set_x"].compression_opts) == ("gzip", 1)
        assert file["test_set_x"].chunks == (15, 64, 64, 3)  # all that there are
    write_signs(tmp_path / "b.h5", random_set(2, size=800), compression="lzf")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["train_set_x"].chunks == (1, 800, 800, 3)


def test_a_missing_file_is_named(photos, tmp_path):
    convert(photos, tmp_path / "out.h5", size=9, shards=3)
    (tmp_path / "out-001-of-003.h5").unlink()
    convert(photos, tmp_path / "other.h5", size=9, shards=2)
    assert fingerprints(tmp_path / "other.h5") == fingerprints(photos, size=9)
    for spec in (tmp_path, tmp_path / "out-000-of-003.h5", tmp_path / "out.h5"):
        with pytest.raises(DataError) as error:
            load_parts(spec)
        assert_one_line(error, tmp_path, "3 files", "out-001-of-003.h5 is not there")


def test_two_sets_in_one_folder_are_not_mixed(photos, tmp_path):
    for shards in (2, 3):
        convert(photos, tmp_path / "out.h5", size=9, shards=shards)
    for spec in (tmp_path, tmp_path / "out.h5"):
        with pytest.raises(DataError) as error:
            load_parts(spec)
        assert_one_line(error, spec, "several data sets", "out-000-of-002.h5", "out-000-of-003.h5")
    assert fingerprints(tmp_path / "out-001-of-003.h5") == fingerprints(photos, size=9)


def test_files_that_do_not_fit_are_named(tmp_path):
    write_signs(tmp_path / "0.h5", random_set(6))
    write_signs(tmp_path / "1.h5", random_set(6, size=9))
    write_signs(tmp_path / "2.h5", random_set(6, classes=("a", "b", "d")))
    for other, words in (("1", ["image shape", "(9, 9, 3)"]), ("2", ["classes", "'d'"])):
        with pytest.raises(DataError) as error:
            load_parts(tmp_path / f"{{0,{other}}}.h5")
        assert_one_line(error, tmp_path / f"{other}.h5", tmp_path / "0.h5", *words)


def test_options_that_cannot_be(photos, tmp_path):
    for options, words in (
        ({"compression": "zip"}, ["compression", "none, gzip, lzf", "'zip'"]),
        ({"shards": 41}, ["shards", "34", "41"]),
        ({"shards": -1}, ["shards", "-1"]),
    ):
        with pytest.raises(ConfigError) as error:
            convert(photos, tmp_path / "out.h5", **options)
        assert_one_line(error, *words)
    assert not list(tmp_path.iterdir())


def written(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_whole_files_of_the_same_are_kept_and_no_others(photos, tmp_path):
    source, out, told = tmp_path / "photos", tmp_path / "out" / "a.h5", []
    shutil.copytree(photos, source)
    out.parent.mkdir()

    def again(**options):
        told.clear()
        before = written(out.parent)
        convert(source, out, size=9, shards=4, tell=told.append, **options)
        assert fingerprints(out) == fingerprints(source, size=9)
        return [name for name, time in written(out.parent).items() if time != before.get(name)]

    names = [f"a-{i:03}-of-004.h5" for i in range(4)]
    assert sorted(again()) == names
    assert again() == []
    assert "4 of 4 files were there already" in told[-1]
    (out.parent / names[1]).unlink()
    with (out.parent / names[2]).open("rb+") as file:  # a byte that is not what it was
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 1]))
    assert sorted(again()) == names[1:3]
    assert "2 of 4 files" in told[-1]
    assert sorted(again(compression="lzf")) == names
    write_image(source / "a" / "0.png", 99)
    assert sorted(again(compression="lzf")) == names
    (source / "b" / "1.png").rename(source / "a" / "1.png")
    assert sorted(again(compression="lzf")) == names


SLOW = """
import sys, time
from minires.data import convert, folder
read = folder.read_image
folder.read_image = lambda *args: (time.sleep(0.02), read(*args))[1]
convert(sys.argv[1], sys.argv[2], size=9, shards=4)
"""


def test_killed_in_the_middle_it_goes_on(photos, tmp_path):
    out, told = tmp_path / "a.h5", []
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(photos), str(out)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not ((tmp_path / "a-000-of-004.h5").exists() and list(tmp_path.glob(".a-001*.tmp"))):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert re.fullmatch(r"\.a-001-of-004\.h5\.[0-9a-f]{8}\.tmp", left[0])
    with pytest.raises(DataError):  # nothing half written is taken for whole
        load_parts(tmp_path)
    before = written(tmp_path)["a-000-of-004.h5"]
    convert(photos, out, size=9, shards=4, tell=told.append)
    assert "1 of 4 files were there already" in told[-1]
    assert written(tmp_path)["a-000-of-004.h5"] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a-{i:03}-of-004.h5" for i in range(4)]
    assert fingerprints(out) == fingerprints(photos, size=9)


def test_what_somebody_is_writing_is_left_alone(photos, tmp_path):
    mine = tmp_path / f".a.h5.{'0' * 8}.tmp"
    with mine.open("wb"):
        convert(photos, tmp_path / "a.h5", size=9)
        assert mine.exists()
    convert(photos, tmp_path / "a.h5", size=9)
    assert not mine.exists()


def test_a_source_without_files_is_known_by_its_pixels(tmp_path):
    np.savez(tmp_path / "d.npz", images=random_set(30).images(np.arange(30)), labels=np.arange(30) % 3)
    parts = load_parts(tmp_path / "d.npz").named()
    first = sharding.stamp(parts)
    np.savez(tmp_path / "d.npz", images=random_set(30, seed=1).images(np.arange(30)), labels=np.arange(30) % 3)
    assert sharding.stamp(load_parts(tmp_path / "d.npz").named()) != first
