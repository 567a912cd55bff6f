"""A training step and an inference of a whole network: ours, PyTorch (eager, both layouts), TensorFlow/Keras.

    python benchmarks/bench_step.py [--arch resnet50] [--batch 32] [--size 64] [--steps 20] [--json FILE]

A training step is forward, loss, backward and the optimiser's update, on a batch that lies ready in the
layout the contender likes. What is fair about it is told in benchmarks/README.md.
"""

import argparse
import os
from dataclasses import asdict

import harness
import numpy as np

from minires import resnet

OURS = ("ours", "plain")  # as `fit` and `evaluate` run it; layer by layer with the plain ops
PEERS = (*OURS, "torch", "torch_channels_last", "keras")
CLASSES = 6
LEARNING_RATE = 1e-4


def batch(options):
    """The same images (N, H, W, 3) and labels (N,) for every contender."""
    rng = np.random.default_rng(0)
    N, size = options["batch"], options["size"]
    return rng.standard_normal((N, size, size, 3), np.float32), rng.integers(0, CLASSES, N)


def network(options):
    size = options["size"]
    return resnet(options["arch"], (size, size, 3), CLASSES)


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
                team.run(lambda member: model.forward(x[parts[member.rank]]))

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


def build_torch(task, options, channels_last):
    import torch
    from peers import to_torch

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    model, (x, labels) = to_torch(network(options)), batch(options)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels)
    if task == "inference":
        model.eval()

        def infer():
            with torch.inference_mode():
                model(x)

        return infer
    if options["optimizer"] == "adam":
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    else:
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
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
    from peers import keras_course_resnet50

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


def build(name, task, options):
    """One turn's work of a contender; see harness."""
    if name in ("ours", "plain"):
        return build_ours(task, options, fused=name == "ours")
    if name == "keras":
        return build_keras(task, options)
    return build_torch(task, options, channels_last=name == "torch_channels_last")


def report(task, results, load, options):
    """Print the table; return the records for --json."""
    rows, records = [], []
    minires = [r for r in results if r.name in OURS]
    for result in results:
        time = harness.Spread.of(result.seconds)
        ratios = {r.name: r.ratio(result) for r in minires}
        rows.append(
            (
                result.name,
                f"{time.median * 1e3:.0f}",
                f"{time.low * 1e3:.0f}-{time.high * 1e3:.0f}",
                f"{time.best * 1e3:.0f}",
                f"{options['batch'] / time.median:.1f}",
                f"{sum(result.cpu_seconds) / sum(result.seconds):.2f}",
                f"{result.peak_mib:.0f}",
                *(f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" for ratio in ratios.values()),
            )
        )
        records.append(
            {
                "task": task,
                "contender": result.name,
                **asdict(result),
                "time": asdict(time),
                **{f"{name}_over_this": asdict(ratio) for name, ratio in ratios.items()},
                "others_share": load.others,
                "steal_share": load.steal,
                "load_average": [load.load_before, load.load_after],
            }
        )
    title = f"{task}: {options['arch']}, batch {options['batch']}, {options['size']}x{options['size']}"
    columns = ["contender", "median ms", "quartiles", "best", "images/s", "cores", "peak MiB"]
    columns += [f"{r.name} / this" for r in minires]
    harness.print_table(title, columns, rows)
    print(load.warning() or "No contention seen.", end="\n\n")
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="turns of each contender")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS), help="which contenders, separated by commas")
    parser.add_argument("--tasks", default="training,inference")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    parser.add_argument("--threads", type=int, help="threads of every contender; default: each library's own choice")
    parser.add_argument("--json", metavar="FILE", help="append one record a contender and task")
    arguments = parser.parse_args()
    names, tasks = arguments.peers.split(","), arguments.tasks.split(",")
    for given, known in ((names, PEERS), (tasks, ("training", "inference"))):
        if unknown := set(given) - set(known):
            parser.error(f"unknown {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    options = vars(arguments)
    facts = harness.machine(arguments.threads)
    harness.print_machine(facts)
    for task in tasks:
        results, load = harness.compare(
            build, names, task, options, rounds=arguments.steps, warmup=arguments.warmup, threads=arguments.threads
        )
        records = report(task, results, load, options)
        harness.append_json(arguments.json, [{**facts, "options": options, **record} for record in records])


if __name__ == "__main__":
    main()
