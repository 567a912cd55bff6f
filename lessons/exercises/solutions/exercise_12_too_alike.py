"""Exercise 12: a seed may be several numbers, and a name has a number that is the same in every program."""

from zlib import crc32

import numpy as np

from minires import resnet


def draw(name, shape, seed):
    """He-normal weights for the kernel `name`."""
    rng = np.random.default_rng([seed, crc32(name.encode())])
    fan_in = np.prod(shape[:-1])
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def build(seed=0, skip=True):
    """A small ResNet-8, every kernel of which comes from `draw`."""
    network = resnet("resnet8", (8, 8, 3), 6, widths=(6, 8, 10), skip=skip)
    for p in network.params():
        if p.decay:
            p.data = draw(p.name, p.data.shape, seed)
    return network
