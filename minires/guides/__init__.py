"""Guides: each is a page of `make docs`, a file of Markdown beside this one, and `help(minires.guides.own_data)`.

- `minires.guides.own_block`: add your own block, and a network of it
- `minires.guides.own_data`: train your own data
- `minires.guides.port_weights`: weights from and to Keras, PyTorch and ONNX
"""

from pathlib import Path

GUIDES = ("own_block", "own_data", "port_weights")


def text(name: str) -> str:
    """The guide `name`, as Markdown."""
    return Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8")
