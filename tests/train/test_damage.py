"""Checkpoints that are damaged, or made to mislead: refused in one line, before they cost memory."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest
from data_helpers import assert_one_line
from stripes import classifier

from minires import seal as seal_of
from minires.errors import CheckpointError, DataError
from minires.seal import BLANK, seal, sealed
from minires.train import load_classifier, save_checkpoint
from minires.train.checkpoint import load_checkpoint


@pytest.fixture
def path(tmp_path):
    c = classifier()
    save_checkpoint(tmp_path / "model.h5", c, optimizer={"velocity": np.ones(50, np.float32)}, training={"steps": 1})
    return tmp_path / "model.h5"


def rewrite(path, change):
    """Change header or arrays as someone would who knows the format, seal included."""
    with h5py.File(path, "r+") as file:
        header = json.loads(file.attrs["minires"])
        change(header, file)
        file.attrs["minires"] = json.dumps(header)
    seal(path)


def refused(path, *words):
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert_one_line(error, path, *words)


def test_no_byte_can_change_unseen(path):
    whole = path.read_bytes()
    assert sealed(path)
    for at in np.random.default_rng(0).integers(0, len(whole), 150):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(at) % 8
        path.write_bytes(changed)
        refused(path)


@pytest.mark.parametrize("kept", [0, 5, 300, 512, 600, 20_000])
def test_truncated(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    refused(path)


def test_format_1_is_still_read(tmp_path, path):
    old = tmp_path / "old.h5"
    with h5py.File(path) as file, h5py.File(old, "w") as copy:
        header = json.loads(file.attrs["minires"])
        del header["modules"]
        copy.attrs["minires"] = json.dumps(header | {"format": 1})
        for name in file:
            file.copy(name, copy)
    a, b = (load_classifier(p).model.state() for p in (old, path))
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])


def test_format_2_needs_its_seal(tmp_path, path):
    with h5py.File(path) as file, h5py.File(tmp_path / "bare.h5", "w") as copy:
        copy.attrs["minires"] = file.attrs["minires"]
        for name in file:
            file.copy(name, copy)
    refused(tmp_path / "bare.h5", "seal")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("layer1.0.conv1.w", np.nan, "not finite"), ("bn1.var", -1, "negative variance"), ("fc.b", np.inf, "not finite")],
)
def test_weights_that_nothing_can_be_computed_with(path, name, value, words):
    def spoil(header, file):
        file["weights"][name][...] = value

    rewrite(path, spoil)
    refused(path, name, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["classes"].append("third"), ["names 3 classes for a network of 2"]),
        (lambda h: h.update(classes=[1, 2]), ["2 classes"]),
        (lambda h: h["architecture"].update(classes=10**9), ["2 classes for a network of 1000000000"]),
        (lambda h: h["architecture"].update(widths=[10**6] * 3), ["cannot fill"]),
        (lambda h: h["architecture"].update(input_shape=[10**6, 10**6, 3]), ["cannot fill"]),
        (lambda h: h["architecture"].update(input_shape=[8, 8, 10**9]), ["preprocessing"]),
        (lambda h: h["architecture"].update(arch=["resnet8"]), []),
        (lambda h: h["architecture"].update(arch="resnet9"), ["unknown arch"]),
        (lambda h: h["preprocess"].update(std=[0, 1, 1]), ["preprocessing"]),
        (lambda h: h["preprocess"].update(mean=[float("nan")] * 3), ["preprocessing"]),
        (lambda h: h["preprocess"].update(more=[1]), []),
        (lambda h: h.update(training=3), []),
        (lambda h: h.update(modules="all"), []),
        (lambda h: h.update(generators=None, format="2"), []),
        (lambda h: h.pop("modules"), ["modules"]),
        (lambda h: h.clear(), ["format"]),
    ],
)
def test_headers_that_do_not_fit(path, change, words):
    rewrite(path, lambda header, file: change(header))
    refused(path, *words)


def test_json_of_another_kind_or_far_too_deep(path):
    for text in ("[]", "3", '"x"', "[" * 100_000, "{}", "not JSON"):
        with h5py.File(path, "r+") as file:
            file.attrs["minires"] = text
        seal(path)
        refused(path)


def test_an_optimiser_larger_than_the_network(path):
    def grow(header, file):
        del file["optimizer/velocity"]
        file["optimizer"].create_dataset("velocity", (10**7,), "f4", chunks=(10**6,), compression="gzip")[...] = 0

    rewrite(path, grow)
    refused(path, "velocity has more numbers than the network")


def test_a_link_to_another_file_is_not_followed(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["b"] = np.zeros(2, np.float32)

    def link(header, file):
        del file["weights/fc.b"]
        file["weights/fc.b"] = h5py.ExternalLink("other.h5", "/b")

    rewrite(path, link)
    refused(path, "/weights/fc.b is a link to another file")


@pytest.mark.parametrize("at", [100, 2**20 - 1, 2**20 + 100, 3 * 2**20, -1])
def test_a_seal_is_of_every_byte(tmp_path, at):
    """Also of those behind the first piece that is read."""
    path = tmp_path / "large"
    content = bytearray(np.random.default_rng(0).bytes(3 * 2**20 + 77))
    path.write_bytes(BLANK.encode() + content)
    seal(path)
    assert sealed(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        sealed(path)


def test_a_whole_file_is_read_through_once_but_never_after_a_change(tmp_path, path, monkeypatch):
    """A data set of many gigabytes is opened several times; what was written a moment ago may still change unseen."""
    file, reads = tmp_path / "copy.h5", []
    shutil.copyfile(path, file)
    digits = seal_of._digits
    monkeypatch.setattr(seal_of, "_digits", lambda *args: reads.append(1) or digits(*args))
    assert sealed(file)
    assert sealed(file)
    assert len(reads) == 2  # too new to be sure
    past = file.stat().st_mtime_ns - 10 * 10**9
    os.utime(file, ns=(past, past))
    assert sealed(file)
    assert sealed(file)
    assert len(reads) == 3
    with file.open("rb+") as raw:
        raw.seek(3000)
        byte = raw.read(1)
        raw.seek(3000)
        raw.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DataError, match="checksum"):
        sealed(file)
