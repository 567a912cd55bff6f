"""Tar files of images and labels as WebDataset has them: what is read, and the one line that refuses all else."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from data_helpers import assert_one_line, random_set
from PIL import Image

from minires import cli
from minires.data import load_parts, tars
from minires.errors import DataError

IMAGES = random_set(12, size=9)


def png(i):
    out = io.BytesIO()
    Image.fromarray(IMAGES.images(np.array([i]))[0]).save(out, "png")
    return out.getvalue()


def write(path, members, **options):
    """A tar of {name: bytes, a str, or a TarInfo without content}."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members if isinstance(members, list) else members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            content = content.encode() if isinstance(content, str) else content
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def samples(numbers, label=lambda i: str(i % 3), ending="cls"):
    return {f"{i:06}.{kind}": content for i in numbers for kind, content in (("png", png(i)), (ending, label(i)))}


def pixels(part):
    return part.images(np.arange(len(part)))


def test_shards_by_pattern_folder_and_one_alone(tmp_path):
    for k in range(3):
        write(tmp_path / f"{k:03}.tar", samples(range(4 * k, 4 * k + 4)))
    for spec in (tmp_path / "{000..002}.tar", tmp_path / "*.tar", tmp_path):
        parts = load_parts(spec, size=9, whole=True)
        np.testing.assert_array_equal(pixels(parts.test), pixels(IMAGES))
        assert parts.test.labels.tolist() == [i % 3 for i in range(12)]
        assert parts.test.classes == ("0", "1", "2")
        assert parts.test.source == str(spec)
        assert not parts.test.flip_ok
    alone = load_parts(tmp_path / "001.tar", size=9, whole=True).test
    np.testing.assert_array_equal(pixels(alone), pixels(IMAGES)[4:8])
    split = load_parts(tmp_path, size=9, test_fraction=0.25)
    assert (len(split.train), len(split.test)) == (9, 3)
    assert load_parts(tmp_path, whole=True).test.shape == (64, 64, 3)


@pytest.mark.parametrize("names", [("train-0", "val-0"), ("my-train-00", "my-test-00"), ("Training", "validation")])
def test_parts_by_the_names_of_the_files(tmp_path, names):
    for name, numbers in zip(names, (range(8), range(8, 12)), strict=True):
        write(tmp_path / f"{name}.tar", samples(numbers))
    parts = load_parts(tmp_path, size=9)
    np.testing.assert_array_equal(pixels(parts.train), pixels(IMAGES)[:8])
    np.testing.assert_array_equal(pixels(parts.test), pixels(IMAGES)[8:])
    assert parts.train.source == f"{tmp_path}, train"


def test_only_training_files_are_split(tmp_path):
    write(tmp_path / "train-000.tar", samples(range(12)))
    parts = load_parts(tmp_path, size=9, test_fraction=0.25)
    assert (len(parts.train), len(parts.test)) == (9, 3)


@pytest.mark.parametrize(
    ("label", "ending", "classes", "names"),
    [
        (lambda i: f" {i % 3}\n", "cls", None, "012"),
        (lambda i: "abc"[i % 3], "cls", None, "abc"),
        (lambda i: json.dumps({"label": i % 3, "width": 9}), "json", None, "012"),
        (lambda i: json.dumps({"cls": "abc"[i % 3]}), "json", None, "abc"),
        (lambda i: json.dumps(i % 3), "json", None, "012"),
        (lambda i: str(i % 3), "cls", "xyz", "xyz"),
        (lambda i: "abc"[i % 3], "CLS", "cba", "cba"),
    ],
)
def test_labels(tmp_path, label, ending, classes, names):
    write(tmp_path / "a.tar", samples(range(12), label, ending))
    part = load_parts(tmp_path / "a.tar", size=9, whole=True, classes=classes and tuple(classes)).test
    assert part.classes == tuple(names)
    said = [("abc" if "a" in names else names)[i % 3] for i in range(12)]
    assert [part.classes[i] for i in part.labels] == said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\ndog\n\nnewt \n"),
        ("classes.json", '["cat", "dog", "newt"]'),
        ("classes.json", '{"0": "cat", "1": "dog", "2": "newt"}'),
    ],
)
def test_names_of_classes_beside_the_files(tmp_path, name, text):
    write(tmp_path / "a.tar", samples(range(12)))
    (tmp_path / name).write_text(text)
    part = load_parts(tmp_path, whole=True).test
    assert part.classes == ("cat", "dog", "newt")
    assert part.labels.tolist() == [i % 3 for i in range(12)]


@pytest.mark.parametrize(
    ("name", "text"), [("classes.txt", ""), ("classes.json", "{}"), ("classes.json", "[1]"), ("classes.json", "[")]
)
def test_names_of_classes_that_are_none(tmp_path, name, text):
    write(tmp_path / "a.tar", samples(range(12)))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        load_parts(tmp_path)
    assert_one_line(error, tmp_path / name)


def test_too_few_names(tmp_path):
    write(tmp_path / "a.tar", samples(range(12)))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError) as error:
        load_parts(tmp_path)
    assert_one_line(error, tmp_path, "cat, dog", "got also")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_folders_long_names_and_the_order_of_members(tmp_path, form):
    """Labels may come before or long after their images; a dot in a folder's name is none in the file's."""
    where = "a.b/" + "long" * (20 if form == tarfile.USTAR_FORMAT else 60)
    members = [(f"{where}/{i:06}.cls", str(i % 3)) for i in range(6)] + [
        (f"{where}/{i:06}.png", png(i)) for i in range(12)
    ]
    members += [(f"{where}/{i:06}.cls", str(i % 3)) for i in range(6, 12)]
    folder = tarfile.TarInfo("a.b")
    folder.type = tarfile.DIRTYPE
    write(tmp_path / "a.tar", [("a.b", folder), *members], format=form)
    part = load_parts(tmp_path / "a.tar", size=9, whole=True).test
    np.testing.assert_array_equal(pixels(part), pixels(IMAGES))
    assert part.labels.tolist() == [i % 3 for i in range(12)]


def test_what_is_no_image_is_counted(tmp_path):
    members = samples(range(12)) | {"000000.txt": "a caption", "000001.txt": "x", "000002.seg.png": png(2)}
    members |= {".DS_Store": "x", "README": "x", "000099.cls": "1", "000003.json": "{}"}
    write(tmp_path / "a.tar", members)
    part = load_parts(tmp_path / "a.tar", whole=True).test
    assert len(part) == 12
    for said in ("2 .txt", "1 .seg.png", "1 hidden", "1 without an ending", "1 labels without", "1 .json without"):
        assert said in part.source


def linked(kind, target="/etc/passwd"):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "no label": ({"a.png": png(0)}, ["'a.png'", "its class", ".cls"]),
    "no image": ({"a.txt": "x"}, ["no image"]),
    "two images": ({"a.png": png(0), "a.jpg": png(1), "a.cls": "0"}, ["'a.jpg'", "second image named a"]),
    "one twice": ([("a.png", png(0)), ("a.cls", "0"), ("a.png", png(1))], ["'a.png'", "second image"]),
    "two labels": ([("a.png", png(0)), ("a.cls", "0"), ("a.cls", "1")], ["'a.cls'", "second .cls of a"]),
    "absolute": ({"/a.png": png(0)}, ["'/a.png'", "leads out"]),
    "above": ({"../a.png": png(0)}, ["'../a.png'", "leads out"]),
    "a symbolic link": ({"a.png": linked(tarfile.SYMTYPE)}, ["'a.png'", "a link"]),
    "a hard link": ({"a.png": linked(tarfile.LNKTYPE, "b.png")}, ["'a.png'", "a link"]),
    "a device": ({"a.png": linked(tarfile.CHRTYPE)}, ["'a.png'", "a device"]),
    "an empty image": ({"a.png": b"", "a.cls": "0"}, ["'a.png'", "got 0"]),
    "an empty label": ({"a.png": png(0), "a.cls": " \n"}, ["'a.cls'", "class's number or name"]),
    "two lines": ({"a.png": png(0), "a.cls": "a\nb"}, ["'a.cls'", "class's number or name"]),
    "a label in bytes": ({"a.png": png(0), "a.cls": b"\xff\xfe\x00"}, ["'a.cls'", "expected a class"]),
    "a large label": ({"a.png": png(0), "a.cls": b"0" * 2**21}, ["'a.cls'", "2,097,152 bytes"]),
    "no JSON": ({"a.png": png(0), "a.json": "{"}, ["'a.json'", "expected a class"]),
    "deep JSON": ({"a.png": png(0), "a.json": "[" * 10**5}, ["'a.json'", "expected a class"]),
    "no number": ({"a.png": png(0), "a.json": '{"label": [1]}'}, ["'a.json'", "no number and no name"]),
    "a truth": ({"a.png": png(0), "a.json": '{"label": true}'}, ["'a.json'", "no number"]),
    "a line in its name": ({"a\nb.png": png(0)}, ["'a\\nb.png'", "its class"]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_named(tmp_path, what):
    members, words = HOSTILE[what]
    write(tmp_path / "000.tar", samples(range(6)) if what != "no image" else {})
    path = write(tmp_path / "001.tar", members)
    with pytest.raises(DataError) as error:
        load_parts(tmp_path)
    assert_one_line(error, tmp_path if what == "no image" else path, *words)


def bad(change):
    def make(path):
        whole = write(path, samples(range(12))).read_bytes()
        path.write_bytes(change(whole))

    return make


def end_of_members(whole):
    return len(whole.rstrip(b"\0")) // 512 * 512 + 512


FILES = {
    "empty": (bad(lambda whole: b""), ["empty (0 bytes)"]),
    "a web page": (bad(lambda whole: b"<html><title>Log in</title>" * 40), ["a web page (title: 'Log in')"]),
    "compressed": (bad(gzip.compress), ["gzip", "tar -xzf"]),
    "cut in an image": (bad(lambda whole: whole[:700]), ["damaged", "unexpected end"]),
    "cut in a header": (bad(lambda whole: whole[: 2 * 512 + 100]), ["byte 1,024", "no member of a tar"]),
    "cut behind a sample": (bad(lambda whole: whole[: end_of_members(whole)]), ["truncated", "mark of its end"]),
    "a damaged header": (bad(lambda whole: whole[:1124] + b"?" + whole[1125:]), ["no member of a tar"]),
    "two joined": (bad(lambda whole: whole + whole), ["no member of a tar"]),
}


@pytest.mark.parametrize("what", FILES)
def test_damaged_files_are_named(tmp_path, what):
    make, words = FILES[what]
    make(tmp_path / "000.tar")
    with pytest.raises(DataError) as error:
        load_parts(tmp_path / "000.tar", whole=True)
    assert_one_line(error, tmp_path / "000.tar", *words)


def test_an_image_that_is_none_is_named_when_it_is_read(tmp_path):
    write(
        tmp_path / "a.tar", samples(range(6)) | {"x.png": b"<html>", "x.cls": "0", "y.jpg": png(0)[:60], "y.cls": "1"}
    )
    part = load_parts(tmp_path / "a.tar", whole=True).test
    for position, words in ((6, ["'x.png'", "a web page"]), (7, ["'y.jpg'", "cannot be decoded"])):
        with pytest.raises(DataError) as error:
            part.images(np.array([position]))
        assert_one_line(error, tmp_path / "a.tar", *words)


def test_a_file_that_has_become_shorter(tmp_path):
    path = write(tmp_path / "a.tar", samples(range(6)))
    part = load_parts(path, whole=True).test
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError) as error:
        part.images(np.array([0]))
    assert_one_line(error, path, "'000000.png'", "has the file changed?")


def test_names_of_which_only_some_say_a_part(tmp_path):
    for name in ("train-0", "1"):
        write(tmp_path / f"{name}.tar", samples(range(6)))
    with pytest.raises(DataError) as error:
        load_parts(tmp_path)
    assert_one_line(error, tmp_path, "1.tar", "name all")


def test_an_image_is_decoded_once_where_there_is_room(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", samples(range(12)))
    reads = []
    monkeypatch.setattr(tars, "decode_image", lambda *args: reads.append(1) or IMAGES.images(np.array([0]))[0])
    part = load_parts(path, size=9, whole=True).test
    for _ in range(2):
        pixels(part)
    assert len(reads) == 12
    assert part.read_from() == [path]
    assert part.paths() is None


def test_converted(tmp_path, capsys):
    for k in range(3):
        write(tmp_path / f"train-{k:03}.tar", samples(range(4 * k, 4 * k + 4)))
    pattern, out = tmp_path / "train-{000..002}.tar", tmp_path / "a.h5"
    assert cli.main(["data", "convert", str(pattern), str(out), "--size", "9", "--shards", "2"]) == 0
    assert f"wrote {out} in 2 files" in capsys.readouterr().out
    again = load_parts(out)
    for name, part in load_parts(pattern, size=9).named().items():
        assert again.named()[name].fingerprint() == part.fingerprint()


@pytest.mark.slow
def test_a_run_finds_its_files_again_by_their_pattern(tmp_path):
    write(tmp_path / "train-000.tar", samples(range(12)))
    options = ["--arch", "resnet8", "--batch-size", "4", "--size", "16", "--epochs", "1", "--no-augment", "--no-check"]
    pattern, run = str(tmp_path / "train-{000..000}.tar"), str(tmp_path / "run")
    assert cli.main(["train", "--data", pattern, "--out", run, *options]) == 0
    assert cli.main(["evaluate", run]) == 0
    assert cli.main(["train", "--resume", run, "--epochs", "2"]) == 0
    (tmp_path / "train-000.tar").unlink()
    assert cli.main(["evaluate", run]) == 2
