"""Exercise 13: bug hunt, right in training and wrong in use

The reader below learns the colours of signs. Its accuracy in training is 100 %. Asked by predict about the very
same images, it is wrong most of the time. More training does not help, and it is no overfitting either.

    SignReader(classes=6, seed=0)
    reader.fit(images, labels)          images (N, H, W, 3) uint8, labels (N,); not to be changed
    reader.predict(images) -> (N,)      the class of each; an image's answer depends on that image alone
    reader.model                        the network, a minires Module

Find the fault and mend it.

Read: minires/train/classifier.py: what belongs to a network besides its weights; S. Ioffe, C. Szegedy,
arXiv:1502.03167, section 3.1, for what changes between training and use on purpose. Three of five published
notebooks of the course have this fault.
"""

import numpy as np

from minires import nn, ops
from minires.train import SGD


def preprocess_input(images):
    """As for the pretrained networks of the zoo: blue first, the mean of their training images taken off."""
    x = images[..., ::-1].astype(np.float32)
    return x - np.array([103.939, 116.779, 123.68], np.float32)


class SignReader:
    """A small convolutional network that tells colours apart."""

    def __init__(self, classes=6, seed=0):
        self.model = nn.Sequential(
            nn.Conv2d("conv", 3, 8, 3, stride=2, pad=1, seed=seed),
            nn.BatchNorm("bn", 8),
            nn.ReLU("relu"),
            nn.GlobalAvgPool2d("pool"),
            nn.Dense("fc", 8, classes, seed=seed),
            name="reader",
        )

    def fit(self, images, labels, steps=60, lr=0.1):
        """Gradient descent on all images at once."""
        x = images.astype(np.float32) / 255
        self.model.train()
        optimizer = SGD(self.model.params())
        for _ in range(steps):
            _, probs = ops.softmax_cross_entropy_forward(self.model.forward(x), labels)
            self.model.backward(ops.softmax_cross_entropy_backward(probs, labels))
            optimizer.step(lr)

    def predict(self, images):
        """The class of each image."""
        x = preprocess_input(images)
        with nn.inference(self.model):
            return self.model.forward(x).argmax(axis=1)
