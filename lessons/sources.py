"""Where the sources are found that lessons and exercises name: arXiv's by their numbers, the others by what is said."""

import re

ADDRESSES = {
    "AISTATS 2010": "https://proceedings.mlr.press/v9/glorot10a.html",
    "Numerical Recipes": "https://numerical.recipes/",
    "CS231n notes": "https://cs231n.github.io/neural-networks-3/#gradcheck",
    "NIPS 2000": "https://proceedings.neurips.cc/paper/2000/hash/44968aece94f667e4095002d140b5896-Abstract.html",
    "High Performance Convolutional Neural Networks": "https://inria.hal.science/inria-00112631",
    "Roofline, CACM 52(4)": "https://doi.org/10.1145/1498765.1498785",
}
NAMED = re.compile("|".join([r"arXiv:\d{4}\.\d{4,5}", *map(re.escape, ADDRESSES)]))


def address(name: str) -> str:
    """Of what NAMED finds in a text."""
    return ADDRESSES.get(name) or f"https://arxiv.org/abs/{name.removeprefix('arXiv:')}"
