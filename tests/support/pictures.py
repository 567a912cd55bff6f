"""Picture files, opened by what people open them with."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

STARTS = {"png": (b"\x89PNG",), "svg": (b"<?xml", b"<svg"), "pdf": (b"%PDF",)}


def assert_opens(path) -> None:
    """The file is what its ending says, and shows something."""
    kind = path.suffix.lower()[1:]
    assert path.read_bytes().startswith(STARTS[kind])
    if kind == "svg":
        root = ET.parse(path).getroot()
        assert root.tag.endswith("svg")
        assert len(list(root.iter())) > 20
    else:
        image = Image.open(path) if kind == "png" else _first_page(path)
        assert np.ptp(np.asarray(image.convert("L"))) > 100
        assert min(image.size) > 50


def _first_page(path):
    pdfium = pytest.importorskip("pypdfium2")
    document = pdfium.PdfDocument(path)
    assert len(document) == 1
    return document[0].render(scale=0.5).to_pil()
