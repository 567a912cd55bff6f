"""Images and labels: where they come from and how they reach training.

dataset.py    the interface `Dataset`
source.py     `load`: what a name stands for, by content; its parts; converted to HDF5
sharding.py   a data set in several files: patterns, names that belong together, conversion that goes on
synthetic.py  the built-in hand signs, drawn when asked for
signs.py      the course's SIGNS layout in HDF5, in one file or several, read and written
packed.py     images in compressed chunks: decoded by the chunk, in an order that needs each once an epoch
tars.py       tar files of images and labels, as WebDataset has them
folder.py     image folders, whole or in parts; table.py: a CSV of files and classes
images.py     one image file of any usual kind to RGB
arrays.py     NumPy pairs, .npz and .npy; idx.py: MNIST's; mat.py: MATLAB's; cifar.py, pickled.py: CIFAR's
rows.py       arrays that stay in their files; names.py: which part a name says
augment.py    random shifts, turns, sizes and brightness
batches.py    mini-batches in a reproducible order, prepared in the background
fetch.py      download of the public Sign Language Digits photographs
hdf5.py       HDF5 opened with clear errors and written atomically; checkpoints use it too
"""

from minires.data.arrays import as_dataset
from minires.data.augment import Augment
from minires.data.batches import Batches
from minires.data.dataset import ArrayDataset, Dataset, Subset
from minires.data.folder import ImageFolder, read_split, stratified_split, write_split
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.data.images import read_image
from minires.data.signs import SignsDataset, load_signs, write_signs
from minires.data.source import Parts, convert, load, load_parts
from minires.data.synthetic import make_signs

__all__ = [
    "ArrayDataset",
    "Augment",
    "Batches",
    "Dataset",
    "ImageFolder",
    "Parts",
    "SignsDataset",
    "Subset",
    "as_dataset",
    "atomic_hdf5",
    "convert",
    "fetch_digits",
    "load",
    "load_parts",
    "load_signs",
    "make_signs",
    "open_hdf5",
    "read_image",
    "read_split",
    "stratified_split",
    "write_signs",
    "write_split",
]


def __getattr__(name: str):
    # fetch pulls in the network libraries, a third of a second that most programs need not spend
    if name == "fetch_digits":
        from minires.data.fetch import fetch_digits

        return fetch_digits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
