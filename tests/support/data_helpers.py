"""What several tests of the data room share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minires.data import ArrayDataset

PHOTOS = Path(__file__).resolve().parents[3] / "shared/data/sign-language-digits"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the photographs are not at {PHOTOS}")


def random_set(count: int, *, size: int = 8, classes=("a", "b", "c"), seed: int = 0, **options) -> ArrayDataset:
    """Random images whose labels go round the classes."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArrayDataset(images, np.arange(count) % len(classes), classes, **options)


def write_image(path: Path, seed: int = 0, size=(12, 10)) -> Path:
    """A small random RGB image; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def assert_one_line(error: pytest.ExceptionInfo, *expected) -> None:
    """The message is one line and holds every expected piece."""
    message = str(error.value)
    assert "\n" not in message
    for piece in expected:
        assert str(piece) in message, f"{piece!r} is not in {message!r}"
