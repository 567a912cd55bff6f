"""A training step and an inference of a whole network, as each contender does them.

A training step is forward, loss, backward and the optimiser's update, on a batch that lies ready in the layout that
the contender likes; an inference is the forward pass in evaluation mode. `build(name, task, options)` makes one, in a
process of its own (see harness); options: arch, size, batch, optimizer, threads.
"""

import os
import shutil
from contextlib import ExitStack

import numpy as np
from minires.benchmarks import harness

from minires import resnet
from minires.nn import ARCHITECTURES

OURS = ("ours", "ours_threads", "plain")
CONTENDERS = {
    "ours": "minires as `fit` and `evaluate` run it",
    "ours_threads": "the same on a team of threads, as where processes cannot share memory",
    "plain": "minires, layer by layer with the plain ops, each batch shared as well",
    "textbook": "NumPy as in a course's notebook: NCHW, im2col for every convolution, np.mean and np.var",
    "torch": "PyTorch, eager, its default layout (NCHW)",
    "torch_channels_last": "PyTorch, eager, NHWC in memory",
    "torch_fused_adam": "the same with its fused optimiser, which one has to ask for",
    "torch_compile": "PyTorch, torch.compile, NHWC in memory, fused optimiser",
    "keras": "Keras on TensorFlow, the step one tf.function",
}
# torch.compile takes a minute or two to compile a network, so it takes part only where it is asked for
USUAL = tuple(name for name in CONTENDERS if name not in ("torch_compile", "ours_threads"))
TASKS = ("training", "inference")
CLASSES = 6
LEARNING_RATE = 1e-4


def batch(options):
    """The same images (N, H, W, 3) and labels (N,) for every contender."""
    rng = np.random.default_rng(0)
    N, size = options["batch"], options["size"]
    return rng.standard_normal((N, size, size, 3), np.float32), rng.integers(0, CLASSES, N)


def network(options):
    """The network in minires, whose weights the peers copy; options["width"] multiplies its channels."""
    size, arch, width = options["size"], options["arch"], options.get("width", 1)
    widths = tuple(width * w for w in ARCHITECTURES[arch].widths)
    return resnet(arch, (size, size, 3), CLASSES, widths=widths)


def build(name, task, options):
    """One turn's work of a contender; what it computes stays in its process."""
    if name in OURS:
        work = build_ours(task, options, fused=name != "plain", threads=name == "ours_threads")
    elif name == "textbook":
        work = build_textbook(task, options)
    elif name == "keras":
        work = build_keras(task, options)
    else:
        compiled = name == "torch_compile"
        fused = compiled or name == "torch_fused_adam"
        work = build_torch(task, options, channels_last=name != "torch", fused=fused, compiled=compiled)

    def turn():
        work()

    return turn


def make_optimizer(params, options):
    from minires.train import SGD, Adam

    return Adam(params) if options["optimizer"] == "adam" else SGD(params, momentum=0.9)


def build_ours(task, options, fused=True, threads=False, stay=None):
    """A step or an inference in minires. threads: a team of them, whatever the system can.

    stay: an ExitStack for what has to be entered (default: for good).
    """
    from minires.nn import inference
    from minires.nn.folded import Predictor
    from minires.team import Team, spans
    from minires.train.step import TeamStep, make_step

    model, (x, labels), stay = network(options), batch(options), stay or ExitStack()
    if task == "training":
        optimizer = make_optimizer(model.params(), options)
        step = TeamStep(model, optimizer, team=Team()) if threads else make_step(model, optimizer, fused=fused)
        stay.enter_context(step)
        return lambda: step(x, labels, LEARNING_RATE)[0]
    if fused:
        predictor = Predictor(model)
        return lambda: predictor(x)
    team = stay.enter_context(Team())
    parts = spans(len(x), team.size)

    def infer():
        with inference(model):
            team.run(lambda member: model.forward(x[parts[member.rank]]), len(parts))

    return infer


def build_textbook(task, options):
    from minires.benchmarks import textbook

    model, (x, labels) = textbook.like(network(options)), batch(options)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if task == "inference":
        return lambda: model.forward(x, training=False)
    adam = options["optimizer"] == "adam"
    optimizer = textbook.Adam(LEARNING_RATE) if adam else textbook.Momentum(LEARNING_RATE)
    return lambda: textbook.step(model, x, labels, optimizer)


def build_torch(task, options, *, channels_last, fused=False, compiled=False, mode=None, device="cpu"):
    """A step or an inference in PyTorch. fused: its optimiser. compiled: by torch.compile, in the first call."""
    if compiled and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise harness.Unavailable("torch.compile needs a C++ compiler: install g++ or clang")
    import torch
    from minires.benchmarks.peers import to_torch

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    model, (x, labels) = to_torch(network(options)), batch(options)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device, memory_format=layout)
    x = torch.from_numpy(x).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels).to(device)
    parameters = list(model.parameters())
    if task == "inference":
        model.eval()
    if compiled:
        model = torch.compile(model, mode=mode)
    if task == "inference":

        def infer():
            with torch.inference_mode():
                model(x)

        return infer
    if options["optimizer"] == "adam":
        optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=fused)
    else:
        optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9, fused=fused)
    criterion = torch.nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = criterion(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

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
