"""A training step and an inference of a whole network, as each contender does them.

A training step is forward, loss, backward and the optimiser's update, on a batch that lies ready in the layout that
the contender likes; an inference is the forward pass in evaluation mode. `build(name, task, options)` makes one, in a
process of its own (see harness) with the variables of `environment`; options: arch, size, batch, optimizer, threads,
and, where one instruction set is for all, isa.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from minires.benchmarks import harness, isa

from minires import resnet
from minires.nn import ARCHITECTURES

OURS = ("ours", "numpy", "plain")
CONTENDERS = {
    "ours": "minires as `fit` and `evaluate` run it, its kernels compiled from C",
    "numpy": "the same without them, as where there is no C compiler",
    "plain": "minires, layer by layer in NumPy, as one reads it",
    "textbook": "NumPy as in a course's notebook: NCHW, im2col for every convolution, np.mean and np.var",
    "torch": "PyTorch, eager, its default layout (NCHW)",
    "torch_channels_last": "PyTorch, eager, NHWC in memory",
    "torch_fused_adam": "the same with its fused optimiser, which one has to ask for",
    "torch_compile": "PyTorch, torch.compile, NHWC in memory; fused optimiser in training, frozen weights in inference",
    "keras": "Keras on TensorFlow, the step one tf.function",
    "onnxruntime": "onnxruntime on the CPU: the exported network, NCHW",
}
# torch.compile takes a minute or two to compile a network, so it takes part only where it is asked for
USUAL = tuple(name for name in CONTENDERS if name != "torch_compile")
TASKS = ("training", "inference")
# an optimiser is for training, and without one torch_fused_adam is torch_channels_last
ONLY = {"torch_fused_adam": "training", "onnxruntime": "inference"}
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


def environment(name, options):
    """Variables of a contender's process: its instruction set, and whether our ops run by the kernels in C."""
    return isa.environment(options.get("isa")) | {"MINIRES_KERNELS": None if name == "ours" else "numpy"}


def build(name, task, options):
    """One turn's work of a contender, and what its library tells; what it computes stays in its process."""
    if name in OURS:
        work = build_ours(task, options, by_layers=name == "plain")
    elif name == "textbook":
        work = build_textbook(task, options)
    elif name == "keras":
        work = build_keras(task, options)
    elif name == "onnxruntime":
        work = build_onnxruntime(task, options)
    else:
        compiled = name == "torch_compile"
        fused = compiled or name == "torch_fused_adam"
        work = build_torch(task, options, channels_last=name != "torch", fused=fused, compiled=compiled)

    def turn(calls=1):
        for _ in range(calls):
            work()

    turn.told = isa.reported()
    return turn


def make_optimizer(params, options):
    from minires.train import SGD, Adam

    return Adam(params) if options["optimizer"] == "adam" else SGD(params, momentum=0.9)


def build_ours(task, options, by_layers=False, stay=None):
    """A step or an inference in minires, as `fit` and `evaluate` run it, or layer by layer.

    stay: an ExitStack for what has to be entered (default: for good).
    """
    from minires.fast.inference import Predictor
    from minires.fast.step import make_step

    model, (x, labels), stay = network(options), batch(options), stay or ExitStack()
    if task == "training":
        step = make_step(model, make_optimizer(model.params(), options), by_layers=by_layers)
        stay.enter_context(step)
        return lambda: step(x, labels, LEARNING_RATE)[0]
    predictor = Predictor(model, by_layers=by_layers, check=False)
    return lambda: predictor(x)


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
    """A step or an inference in PyTorch. fused: its optimiser. compiled: by torch.compile, in the first call.

    A compiled inference on a CPU has its weights frozen, as PyTorch's TORCHINDUCTOR_FREEZING=1 does: only then is batch
    normalisation folded, are the weights laid out once, and are add and ReLU left to oneDNN. `options={"freezing":
    True}` of torch.compile comes too late for that (PyTorch 2.13).
    """
    if compiled and not compiler():
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
        import torch._inductor.config

        torch._inductor.config.freezing = task == "inference" and device == "cpu"
        model = torch.compile(model, mode=mode)
    if task == "inference":

        def infer():
            with torch.inference_mode():
                return model(x)

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


def compiler() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs."""
    return any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))


def build_keras(task, options):
    if options["arch"] != "resnet50":
        raise harness.Unavailable("the Keras twin exists for resnet50 alone")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if task == "training":  # left alone, TensorFlow takes oneDNN on some processors; a step takes twice as long without
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
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


def build_onnxruntime(task, options):
    if task == "training":
        raise harness.Unavailable("onnxruntime is for inference")
    import onnxruntime

    if find_spec("onnx") is None:
        raise harness.Unavailable("the network is exported by the package onnx: pip install 'minires[onnx]'")
    x, _ = batch(options)
    with TemporaryDirectory() as folder:
        path = str(Path(folder, "network.onnx"))
        # in a process of its own: what the export takes is no memory of onnxruntime's
        code = "import sys; from minires.benchmarks import contenders; contenders.export(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, json.dumps(options), path], check=True)
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.intra_op_num_threads = options["threads"] or 0  # 0: its own choice
        settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    images = {session.get_inputs()[0].name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))}
    return lambda: session.run(None, images)[0]


def export(options, path):
    """Write the network of these options (JSON), for so many images (N, 3, H, W), to an ONNX file."""
    from minires.benchmarks.peers import to_onnx_nchw

    options = json.loads(options)
    Path(path).write_bytes(to_onnx_nchw(network(options), options["batch"]).SerializeToString())
