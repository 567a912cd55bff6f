"""A training step and an inference of a whole network, as each contender does them.

A training step is forward, loss, backward and the optimiser's update, on a batch that lies ready in the layout that
the contender likes; an inference is the forward pass in evaluation mode. `build(name, task, options)` makes one, in a
process of its own (see harness); options: arch, size, batch, optimizer, threads.
"""

import os
import shutil

import numpy as np
from minires.benchmarks import harness

from minires import resnet

OURS = ("ours", "plain")
CONTENDERS = {
    "ours": "minires as `fit` and `evaluate` run it",
    "plain": "minires, layer by layer with the plain ops",
    "textbook": "NumPy as in a course's notebook: NCHW, im2col for every convolution, np.mean and np.var",
    "torch": "PyTorch, eager, its default layout (NCHW)",
    "torch_channels_last": "PyTorch, eager, NHWC in memory",
    "torch_compile": "PyTorch, torch.compile, NHWC in memory",
    "keras": "Keras on TensorFlow, the step one tf.function",
}
# torch.compile takes a minute or two to compile a network, so it takes part only where it is asked for
USUAL = tuple(name for name in CONTENDERS if name != "torch_compile")
TASKS = ("training", "inference")
CLASSES = 6
LEARNING_RATE = 1e-4


def batch(options):
    """The same images (N, H, W, 3) and labels (N,) for every contender."""
    rng = np.random.default_rng(0)
    N, size = options["batch"], options["size"]
    return rng.standard_normal((N, size, size, 3), np.float32), rng.integers(0, CLASSES, N)


def network(options):
    """The network in minires, whose weights the peers copy."""
    size = options["size"]
    return resnet(options["arch"], (size, size, 3), CLASSES)


def build(name, task, options):
    """One turn's work of a contender."""
    if name in OURS:
        return build_ours(task, options, fused=name == "ours")
    if name == "textbook":
        return build_textbook(task, options)
    if name == "keras":
        return build_keras(task, options)
    return build_torch(task, options, channels_last=name != "torch", compiled=name == "torch_compile")


def build_ours(task, options, fused=True):
    from minires.nn import inference
    from minires.nn.folded import Predictor
    from minires.ops import softmax_cross_entropy_backward, softmax_cross_entropy_forward
    from minires.team import Team, spans
    from minires.train import SGD, Adam

    model, (x, labels) = network(options), batch(options)
    if task == "inference":
        if fused:
            predictor = Predictor(model)
            return lambda: predictor(x)

        team = Team().__enter__()  # for as long as this process lives
        parts = spans(len(x), team.size)

        def infer():
            with inference(model):
                team.run(lambda member: model.forward(x[parts[member.rank]]), len(parts))

        return infer
    adam = options["optimizer"] == "adam"
    optimizer = Adam(model.params()) if adam else SGD(model.params(), momentum=0.9)

    share = map
    if fused:
        from minires.nn.parallel import Parallel

        team = Team().__enter__()  # for as long as this process lives
        model, share = Parallel(model, team), team.map

    def step():
        _, probs = softmax_cross_entropy_forward(model.forward(x), labels)
        model.backward(softmax_cross_entropy_backward(probs, labels), need_dx=False)
        optimizer.step(LEARNING_RATE, share)

    return step


def build_textbook(task, options):
    from minires.benchmarks import textbook

    model, (x, labels) = textbook.like(network(options)), batch(options)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if task == "inference":
        return lambda: model.forward(x, training=False)
    adam = options["optimizer"] == "adam"
    optimizer = textbook.Adam(LEARNING_RATE) if adam else textbook.Momentum(LEARNING_RATE)
    return lambda: textbook.step(model, x, labels, optimizer)


def build_torch(task, options, channels_last, compiled=False):
    if compiled and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise harness.Unavailable("torch.compile needs a C++ compiler: install g++ or clang")
    import torch
    from minires.benchmarks.peers import to_torch

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    model, (x, labels) = to_torch(network(options)), batch(options)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels)
    parameters = list(model.parameters())
    if task == "inference":
        model.eval()
    if compiled:
        model = torch.compile(model)
    if task == "inference":

        def infer():
            with torch.inference_mode():
                model(x)

        return infer
    if options["optimizer"] == "adam":
        optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    else:
        optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        criterion(model(x), labels).backward()
        optimizer.step()

    return step


def build_keras(task, options):
    if options["arch"] != "resnet50":
        raise harness.Unavailable("the Keras twin exists for resnet50 alone")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    if options["threads"]:  # before TensorFlow starts its pools
        tf.config.threading.set_intra_op_parallelism_threads(options["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(options["threads"])
    import keras
    from minires.benchmarks.peers import keras_course_resnet50

    size = options["size"]
    model = keras_course_resnet50((size, size, 3), CLASSES)
    x, labels = map(tf.constant, batch(options))
    if task == "inference":
        infer = tf.function(lambda images: model(images, training=False))
        return lambda: infer(x).numpy()
    if options["optimizer"] == "adam":
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
    else:
        optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
    optimizer.build(model.trainable_variables)
    criterion = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def step(x, labels):
        with tf.GradientTape() as tape:
            loss = criterion(labels, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return lambda: step(x, labels).numpy()  # waits for the result
