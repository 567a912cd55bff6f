"""Images that training and test share: all copies found, nothing else, on the built-in signs and on photographs."""

import io

import numpy as np
import pytest
from data_helpers import PHOTOS, needs_photos
from demand import on_demand
from PIL import Image

from minires.data import ArrayDataset, Parts, load, make_signs
from minires.instruments.look import ALIKE, differences, look


def jpeg(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def darker(image):
    return (image * 0.8).astype(np.uint8)


def smaller(image):
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(0.6 * width), int(0.6 * height)), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(lambda: make_signs(n_train=120, n_test=30), id="a few signs"),
        pytest.param(make_signs, id="signs", marks=on_demand),
        pytest.param(lambda: load(PHOTOS, size=64), id="photographs", marks=[needs_photos, pytest.mark.slow]),
    ],
)
def test_copies_are_found_and_nothing_else(parts):
    train, test = parts()
    images = test.images(np.arange(len(test)))
    known = np.array([differences(image) for image in train.images(np.arange(len(train)))])
    new = np.array([differences(image) for image in images])
    nearest = (new @ known.T).max()
    assert nearest < ALIKE - 0.03
    between = known @ known.T
    np.fill_diagonal(between, 0)
    assert between.max() < ALIKE - 0.03
    for change in (jpeg, darker, smaller):
        copies = np.array([differences(change(image)) for image in images])
        assert ((copies * new).sum(axis=1) >= ALIKE).mean() >= 0.99


def test_a_leak_is_named_wherever_it_lies():
    """Also behind the first thousand images, which are compared at once."""
    images = np.random.default_rng(0).integers(0, 256, (1100, 16, 16, 3), np.uint8)
    train = ArrayDataset(images, np.arange(1100) % 2, "ab")
    test = ArrayDataset(images[[5, 1050]], [1, 0], "ab")
    found = [pair[:4] for pair in look(Parts(train, test)).alike]
    places = [("test image 0", "train image 5"), ("test image 1", "train image 1050")]
    assert found == [("test", one, "train", other) for one, other in places]
