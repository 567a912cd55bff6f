"""Exercise 13: one function turns images into the network's input, and both fit and predict call it."""

import numpy as np
from minires.lessons.exercises import exercise_13_right_in_training as given

from minires import nn, ops
from minires.train import SGD


def network_input(images):
    """float32 in 0..1."""
    return images.astype(np.float32) / 255


class SignReader(given.SignReader):
    """A small convolutional network that tells colours apart."""

    def fit(self, images, labels, steps=60, lr=0.1):
        """Gradient descent on all images at once."""
        x = network_input(images)
        self.model.train()
        optimizer = SGD(self.model.params())
        for _ in range(steps):
            _, probs = ops.softmax_cross_entropy_forward(self.model.forward(x), labels)
            self.model.backward(ops.softmax_cross_entropy_backward(probs, labels))
            optimizer.step(lr)

    def predict(self, images):
        """The class of each image."""
        x = network_input(images)
        with nn.inference(self.model):
            return self.model.forward(x).argmax(axis=1)
