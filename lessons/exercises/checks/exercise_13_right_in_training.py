"""Exercise 13: the reader is trained on a few coloured signs, and what its network receives is written down."""

from functools import cache

import numpy as np
from minires.lessons.exercises.grading import Wrong, close, shaped, untouched

from minires import nn

NEEDS = ("SignReader",)
HINTS = (
    "For one and the same image, print the smallest and the largest number, and the first pixel, of what the network "
    "receives in fit and in predict.",
    "A network knows the world only through the numbers on which it was trained. What does the same sign look like to "
    "it in predict?",
    "The difference is in what happens before the first layer. Whatever it is, it is part of the network, like its "
    "weights: write it once.",
)
AFTERWARDS = (
    "minires keeps the preprocessing in the checkpoint, beside the weights, and predict applies it: see Preprocess in "
    "minires/train/classifier.py. If a trained network still disappoints, `minires bn-doctor` looks for the other "
    "usual cause."
)
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])


def signs(count=36):
    """(images (count, 8, 8, 3) uint8, labels): a coloured square on a dim wall."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 6
    images = rng.integers(20, 90, (count, 8, 8, 3))
    for image, label in zip(images, labels, strict=True):
        i, j = rng.integers(0, 3, 2)
        image[i : i + 5, j : j + 5] += (COLOURS[label] * rng.integers(90, 160)).astype(np.int64)
    return images.astype(np.uint8), labels


class Recorder(nn.Module):
    """The network, with what it received and what it answered."""

    def __init__(self, model):
        super().__init__("recorder")
        self.model, self.inputs, self.outputs = model, [], []

    def forward(self, x):
        y = self.model.forward(x)
        self.inputs.append(x.copy())
        self.outputs.append(y.copy())
        return y

    def backward(self, dy, need_dx=True):
        return self.model.backward(dy, need_dx)


IMAGES, LABELS = signs()


@cache
def trained(student):
    """(the reader, its recorder, what the network received in the last step of fit, what it answered)"""
    reader = student.SignReader()
    reader.model = recorder = Recorder(reader.model)
    reader.fit(IMAGES.copy(), LABELS.copy())
    if not recorder.inputs:
        raise Wrong(
            "fit never runs reader.model", "The network has to stay `self.model`: its input is what matters here."
        )
    received = recorder.inputs[-1]
    if received.shape != IMAGES.shape:
        seen = f"fit hands the network {received.shape} of {IMAGES.shape}"
        raise Wrong(seen, "The loop over all images at once was right as it came.")
    return reader, recorder, received, recorder.outputs[-1]


def answers(reader, images=IMAGES):
    found = reader.predict(images.copy())
    return shaped(
        found, (len(images),), "predict's answers", "One class for each image: which axis does argmax go over?"
    )


def shape(student):
    reader = trained(student)[0]
    answers(reader)
    answers(reader, IMAGES[:1])


def training(student):
    _, _, _, logits = trained(student)
    right = float((logits.argmax(axis=1) == LABELS).mean())
    if right < 0.95:
        seen = f"after fit, {right:.0%} of the training images are right; it was 100 % when the file came"
        raise Wrong(
            seen, "Training was not the fault. What does the first layer make of the numbers that fit sends now?"
        )


def prediction(student):
    reader, recorder, fitted, _ = trained(student)
    right = float((answers(reader) == LABELS).mean())
    received = recorder.inputs[-1]
    if received.shape != fitted.shape or not close(received, fitted):
        span = (
            f"{fitted.min():.3g} to {fitted.max():.3g} in fit, {received.min():.3g} to {received.max():.3g} in predict"
        )
        raise Wrong(f"{right:.0%} right on the training images; the network received {span}", suspect(fitted, received))
    if right < 0.95:
        hint = "The network receives the right numbers. What is done with its answer, and in which mode does it run?"
        raise Wrong(f"{right:.0%} right on the training images", hint)


def suspect(fitted, received) -> str:
    """The hint for an input that differs from that of training."""
    if received.shape != fitted.shape:
        return "The network is handed another number of images, or other sizes, than came in."
    if close(received, fitted[..., ::-1]):
        return "The sizes agree, the colours do not: which channel comes first?"
    slope, _ = np.polyfit(fitted.ravel(), received.ravel(), 1)
    if close(received, np.float32(slope) * fitted):
        more = "brighter" if slope > 1 else "darker"
        return f"The same picture, but much {more} than in training: look at the units."
    if not close(received, received.mean() + np.float32(slope) * (fitted - fitted.mean())):
        return "Take one image, and look at it through the eyes of the first layer: once in fit, once in predict."
    return (
        "The same picture with another zero and another unit. Which numbers were taken off in training, and which here?"
    )


def alone(student):
    reader, recorder, _, _ = trained(student)
    together = [answers(reader), recorder.inputs[-1][:6], recorder.outputs[-1][:6]]
    apart = [answers(reader, IMAGES[:6]), recorder.inputs[-1], recorder.outputs[-1]]
    if not close(apart[1], together[1]):
        seen = "what the network receives for an image depends on the images beside it"
        raise Wrong(seen, "A mean or a maximum over the batch is another one tomorrow. When should it have been taken?")
    if not close(apart[2], together[2]):
        seen = "the network's answer for an image depends on the images beside it"
        raise Wrong(seen, "The same input, another answer: one layer looks at the whole batch. In which mode?")


def in_place(student):
    reader = trained(student)[0]
    untouched(reader.predict, {"images": IMAGES})
    untouched(student.SignReader().fit, {"images": IMAGES, "labels": LABELS}, steps=1)


def dtype(student):
    reader, recorder, fitted, _ = trained(student)
    answers(reader)
    for when, x in (("fit", fitted), ("predict", recorder.inputs[-1])):
        if x.dtype != np.float32:
            raise Wrong(
                f"{when} hands the network {x.dtype}", "The weights are float32: anything else is slower or coarser."
            )


CHECKS = {
    "shape": shape,
    "training": training,
    "prediction": prediction,
    "each image alone": alone,
    "in place": in_place,
    "dtype": dtype,
}
