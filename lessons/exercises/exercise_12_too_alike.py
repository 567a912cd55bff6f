"""Exercise 12: bug hunt, layers that are too alike

The cosine between two independent random kernels of n numbers scatters around 0 by about 1 / sqrt(n). In the network
below it is 1 for some pairs of layers. Mend it so that

1. no two kernels begin with the same numbers;
2. the same seed gives the same network, in this program and in the next one;
3. another seed gives another network;
4. a layer's numbers do not depend on which other layers there are: the network with shortcuts and the plain one
   (skip=False) begin with equal weights on the main path, so that they can be compared;
5. the numbers remain those of He: normal, with variance 2 / fan_in, float32.

    draw(name, shape, seed) -> an array of that shape, (R, S, C, O) or (C, O); name tells the layers apart
    build(seed=0, skip=True) -> a network for images (N, 8, 8, 3)

Read: K. He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2, for 5; and the documentation of
numpy.random.default_rng: what may a seed be? The instrument is minires.instruments.audit.
"""

import numpy as np

from minires import resnet


def draw(name, shape, seed):
    """He-normal weights for the kernel `name`."""
    rng = np.random.default_rng(seed)
    fan_in = np.prod(shape[:-1])
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def build(seed=0, skip=True):
    """A small ResNet-8, every kernel of which comes from `draw`."""
    network = resnet("resnet8", (8, 8, 3), 6, widths=(6, 8, 10), skip=skip)
    for p in network.params():
        if p.decay:  # a kernel; biases and batch normalisation start at 0 and 1
            p.data = draw(p.name, p.data.shape, seed)
    return network
