"""The report is one file that needs nothing else, and says the right numbers."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from slowed import undrawn

from minires.instruments.gradflow import gradflow
from minires.instruments.report import write_report
from minires.nn import resnet
from minires.train.scores import wilson

CLASSES = ("fist", "<b>one</b>", "two")
HISTORY = [
    {"epoch": 1, "train_loss": 1.2, "train_accuracy": 0.5, "test_loss": 0.75, "test_accuracy": 0.6, "seconds": 70.0},
    {"epoch": 2, "train_loss": 0.4321, "train_accuracy": 0.9, "test_loss": 0.8, "test_accuracy": 0.9, "seconds": 71.0},
]
MANIFEST = {
    "command": "minires train --arch resnet8 --note '<script>'",
    "seed": 3,
    "arch": "resnet8",
    "architecture": {"skip": True},
    "parameters": 12_345,
    "data": {"source": "drawn & signed", "classes": CLASSES, "test fingerprint": None},
    "versions": {"numpy": np.__version__},
}
LABELS = np.repeat([0, 1, 2], 10)
VOID = {"meta", "img", "source"}


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def probabilities(mistakes):
    probs = np.full((30, 3), 0.05)
    probs[np.arange(30), LABELS] = 0.9
    for i in mistakes:
        probs[i] = np.roll(probs[i], 1)
    return probs


def images(index):
    return np.zeros((len(index), 8, 8, 3), np.uint8)


def write(out, *, history=HISTORY, manifest=MANIFEST, mistakes=(0, 12, 13), **options):
    given = {"labels": LABELS, "probs": probabilities(mistakes), "images": images, **options}
    path = write_report(out, history=history, manifest=manifest, classes=CLASSES, **given)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    model = resnet("resnet8", (8, 8, 3), 3, widths=(4, 4, 4))
    x = np.random.default_rng(0).standard_normal((6, 8, 8, 3)).astype(np.float32)
    return out, write(out, flow=gradflow(model, x, np.arange(6) % 3))


def test_needs_nothing_from_outside(full):
    out, page = full
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    references = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "data")]
    assert len(references) == 2 * 5
    for reference in references:
        kind, _, content = reference.partition(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content, validate=True))).verify()
    assert "http" not in " ".join(v for _, n, v in page.attributes if n not in ("src", "srcset"))
    assert "url(" not in (out / "report.html").read_text()
    assert all(len(value) > 20 for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))
    assert sum(name == "alt" for _, name, _ in page.attributes) == page.tags.count("img") == 5


def test_pictures_lie_beside_it(full):
    out, _ = full
    assert sorted(path.name for path in out.iterdir()) == ["pictures", "report.html"]
    names = sorted(path.name for path in (out / "pictures").iterdir())
    assert names == ["calibration.png", "confusion.png", "curves.png", "gradient.png", "mistakes.png"]


def test_says_the_numbers(full):
    _, page = full
    low, high = wilson(27, 30)
    for text in ("90.0%", "3 mistakes in 30", f"{low:.1%} and {high:.1%}", "33.3%", "0.7500, after epoch 1", "12,345"):
        assert text in page.text
    assert "2 min 21 s" in page.text
    assert "0.4321" in page.text
    assert "two (2)" in page.text  # what class one was most often taken for
    assert page.tags.count("h1") == 1


def test_what_others_wrote_is_escaped(full):
    _, page = full
    assert "b" not in page.tags
    assert "<b>one</b>" in page.text
    assert "--note '<script>'" in page.text
    assert "drawn & signed resnet8 · with skips" in page.text  # the title is the name of the data


def test_without_a_test_set(tmp_path):
    history = [{**row, "test_loss": None, "test_accuracy": None} for row in HISTORY]
    page = write(tmp_path, history=history, labels=None, probs=None, images=None)
    assert "There were no test images" in page.text
    assert "90.0%" in page.text  # of the training images
    assert "Wilson" not in page.text
    assert page.tags.count("img") == 1


def test_without_anything(tmp_path):
    page = write(tmp_path, history=[], manifest={}, labels=None, probs=None, images=None)
    assert "No epoch was finished" in page.text
    assert "img" not in page.tags


@pytest.mark.slow
def test_without_mistakes(tmp_path):
    page = write(tmp_path, mistakes=())
    assert "0 mistakes in 30" in page.text
    assert "all 30 test images were classified right" in page.text
    assert not (tmp_path / "pictures" / "mistakes.png").exists()


def test_chance_is_called_chance(tmp_path, monkeypatch):
    undrawn(monkeypatch.setattr)
    assert "cannot be told" in write(tmp_path, mistakes=range(18)).text  # 40 % right of three classes
    assert "cannot be told" not in write(tmp_path).text
