"""Damaged pictures: decoders fill up what is missing; here that is an error that names the file."""

import zlib

import numpy as np
import pytest
from data_helpers import assert_one_line, write_image
from PIL import Image

from minires.data import read_image
from minires.errors import DataError


def jpeg(tmp_path, height=80, width=120, **options):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([127 + 80 * np.sin(x / 9 + y / 17), 127 + 70 * np.cos(y / 11), (x + y) % 255], -1)
    noisy = pixels + np.random.default_rng(0).normal(0, 8, pixels.shape)
    path = tmp_path / "hand.jpg"
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, **options)
    return path


def with_size(content: bytes, height: int, width: int) -> bytes:
    """The same JPEG under other dimensions."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[at + 4 :]


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("size", [None, 64, 16])
def test_a_whole_jpeg_has_the_pixels_that_its_decoder_gives(tmp_path, options, size):
    path = jpeg(tmp_path, **options)
    with Image.open(path) as image:
        if size:
            image.draft(None, (2 * size, 2 * size))
        expected = image.convert("RGB")
        if size:
            expected = expected.resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_image(path, size), np.array(expected))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize(
    ("height", "width", "words"),
    [(48, 120, "end before its data"), (112, 120, "truncated"), (80, 88, "end before"), (80, 152, "truncated")],
)
def test_a_jpeg_with_false_dimensions_is_refused(tmp_path, options, height, width, words):
    path = jpeg(tmp_path, **options)
    path.write_bytes(with_size(path.read_bytes(), height, width))
    for size in (None, 64):
        with pytest.raises(DataError) as error:
            read_image(path, size)
        assert_one_line(error, path, words)


def test_a_jpeg_that_was_cut_off_and_closed_again_is_refused(tmp_path):
    path = jpeg(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4] + b"\xff\xd9")
    with pytest.raises(DataError) as error:
        read_image(path, 64)
    assert_one_line(error, path, "truncated")


def test_what_follows_the_end_of_a_jpeg_does_not_matter(tmp_path):
    path = jpeg(tmp_path)
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"notes of a camera" * 99)
    np.testing.assert_array_equal(read_image(path), expected)


def test_progressive_jpegs_are_read(tmp_path):
    path = jpeg(tmp_path, progressive=True)
    assert read_image(path).shape == (80, 120, 3)


def test_a_png_whose_pixels_changed_is_refused(tmp_path):
    path = write_image(tmp_path / "hand.png")
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT") + 4
    length = int.from_bytes(content[at - 8 : at - 4], "big")
    pixels = bytearray(zlib.decompress(content[at : at + length]))
    pixels[50] ^= 1
    changed = zlib.compress(pixels)[:length].ljust(length, b"\0")
    content[at : at + length] = changed
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(path)
    assert_one_line(error, path, "cannot be decoded")


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(DataError) as error:
        read_image(path)
    assert_one_line(error, path, "536,870,912 bytes")
