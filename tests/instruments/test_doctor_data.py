"""The doctor on data: every image of every part is decoded, and each fault is told with its image."""

import numpy as np
import pytest
from data_helpers import write_image
from PIL import Image

from minires.cli import main
from minires.data import ArrayDataset, write_signs
from minires.instruments.doctor_data import examine

CLASSES = ("a", "b")


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def found(tmp_path):
    """A function: the findings, by name, on arrays; `only` names the one part that there is."""

    def look(only="train", pixels=None, labels=None, **more):
        pixels = images(12) if pixels is None else pixels
        parts = {only: ArrayDataset(pixels, np.arange(len(pixels)) % 2 if labels is None else labels, CLASSES)} | more
        write_signs(tmp_path / "a.h5", parts.get("train"), parts.get("test"))
        return {f.name: f for f in examine(str(tmp_path / "a.h5"))}

    return look


@pytest.mark.parametrize("only", ["train", "test"])
def test_one_part_alone_is_sound(only, found):
    seen = found(only)
    assert {f.status for name, f in seen.items() if f.detail != "none"} == {"ok"}
    assert any("12 images (16, 16, 3), 2 classes (a: 6, b: 6), all decoded" in f.detail for f in seen.values())


@pytest.mark.parametrize(("only", "part"), [("train", "training data"), ("test", "test data")])
def test_copies_within_a_part(only, part, found):
    pixels = images(12)
    pixels[7] = pixels[3]
    seen = found(only, pixels)
    assert seen[f"{part}, duplicates"].status == "warn"
    assert seen[f"{part}, duplicates"].detail.startswith("1 of 12 images are exact copies of others")
    assert f"{only} image 3, {only} image 7" in seen[f"{part}, duplicates"].detail
    assert f"{part}, contradicting labels" not in seen
    assert seen[part].status == "warn"


def test_one_image_under_two_labels(found):
    pixels = images(12)
    pixels[6] = pixels[3]
    finding = found(pixels=pixels)["training data, contradicting labels"]
    assert finding.status == "fail"
    assert "2 images come under several labels: train image 3, train image 6 as 'a', 'b'" in finding.detail


def test_images_of_one_colour(found):
    pixels = images(12)
    pixels[5] = 77
    assert (
        "1 of 12 images are of one colour: train image 5"
        in found(pixels=pixels)["training data, constant images"].detail
    )


def test_numbers_that_are_all_0_or_1(found):
    seen = found("test", images(12) % 2)
    assert seen["test data, value range"].status == "fail"
    assert "multiply by 255" in seen["test data, value range"].fix
    assert "test data, constant images" not in seen


def test_unbalanced_and_missing_classes(found):
    assert "unbalanced" in found(labels=np.array([0] * 10 + [1] * 2))["training data"].detail
    assert "none of b" in found("test", labels=np.zeros(12, int))["test data"].detail


def test_copies_across_parts_exact_and_nearly(found):
    """Nearly: darker by a fifth."""
    wave = (120 + 60 * np.sin(np.arange(256).reshape(16, 16, 1) / 9)).astype(np.uint8)
    pixels = images(12)
    pixels[0] = wave
    test = images(12, seed=1)
    test[2], test[4] = pixels[5], (0.8 * wave).astype(np.uint8)
    finding = found(pixels=pixels, test=ArrayDataset(test, np.arange(12) % 2, CLASSES))["train and test apart"]
    assert finding.status == "warn"
    assert finding.detail == "1 of 12 test images are in the training set too, 1 more nearly so (test image 4)"


def test_every_file_of_a_folder_is_decoded(tmp_path, capsys):
    """Names that differ in case or spaces alone, and a file that is damaged, in the one part that there is."""
    for name in ("left hand", "Lefthand", "right"):
        for i in range(4):
            write_image(tmp_path / "photos" / "train" / name / f"{i}.png", seed=10 * len(name) + i)
    broken = tmp_path / "photos" / "train" / "right" / "3.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    assert main(["doctor", "--data", str(tmp_path / "photos")]) == 1
    said = "".join(capsys.readouterr().out.replace("│", "").split())  # the table breaks its lines anywhere
    for words in (
        "the classes 'left hand' and 'Lefthand'",
        "differ in case or spaces alone",
        "images cannot be read; the first",
    ):
        assert "".join(words.split()) in said


def test_odd_files(tmp_path):
    for i in range(20):
        write_image(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", seed=i, size=(20, 20) if i else (40, 20))
    for name in "ab":
        write_image(tmp_path / "test" / name / "1.png", seed=ord(name), size=(20, 20))
    Image.new("L", (20, 20), 9).save(tmp_path / "train" / "a" / "2.png")
    details = [f.detail for f in examine(str(tmp_path)) if f.name == "files"]
    assert any("1 of 40x20 pixels, where most are 20x20" in detail for detail in details)
    assert any("1 of L, where most are RGB" in detail for detail in details)
