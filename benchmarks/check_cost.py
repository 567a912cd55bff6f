"""Is `minires summary --cost` right? Prediction over measurement of a step, an inference and the peak memory.

    python benchmarks/check_cost.py [--rounds 7] [--cases resnet50:64:32,resnet20:32:128,resnet18:224:4]

In every round the probe predicts, then a training step and an inference of the whole network are timed in a
process of their own (the median of --steps each), so that a slow minute falls on all three; shown are the
median and the quartiles of the ratios formed round by round. The prediction has seen no step of that process.
Memory: the largest resident size of that process, less that of a process that has trained a network of no
size, against the predicted bytes of arrays.
"""

import argparse
import time
from statistics import median

import numpy as np
from minires.benchmarks import harness, watch

from minires import resnet
from minires.instruments.cost.predict import predict_cost

CASES = "resnet50:64:32,resnet20:32:128,resnet18:224:4"
TASKS = ("training", "inference")


def build(name, task, options):
    """'training', as `fit` does it, or 'inference' of the case; or 'nothing': the smallest training step there is."""
    from minires.fast.inference import Predictor
    from minires.fast.step import make_step
    from minires.train import Recipe

    arch, size, batch = ("resnet8", 8, 1) if name == "nothing" else options["case"]
    model = resnet(arch, (size, size, 3), 6)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((batch, size, size, 3), np.float32), rng.integers(0, 6, batch)
    if name == "inference":
        predictor = Predictor(model)
        return lambda: predictor(x)
    optimizer = Recipe(optimizer=options["optimizer"]).make_optimizer(model.params())
    step = make_step(model, optimizer).__enter__()  # for as long as this process lives
    return lambda: step(x, labels, 1e-4)


def check(case, options):
    """(predictions, measured seconds of each task, measured bytes, what the machine did meanwhile)."""
    arch, size, batch = case
    model = resnet(arch, (size, size, 3), 6)
    predictions, seconds = [], {task: [] for task in TASKS}
    with harness.started(build, ("nothing", *TASKS), "", {**options, "case": case}) as workers:
        nothing, *others = workers
        for worker in others:
            worker.turn()  # warm
        with watch.contention() as load:
            for _ in range(options["rounds"]):
                time.sleep(harness.PAUSE)
                predictions.append(predict_cost(model, batch, options["optimizer"]))
                for worker in others:
                    time.sleep(harness.PAUSE)
                    turns = [worker.turn() for _ in range(options["steps"])]
                    seconds[worker.name].append(median(turn.seconds for turn in turns))
                    load.own += sum(turn.cpu_seconds for turn in turns)
        training = next(worker for worker in others if worker.name == "training")
        peak = (training.turn().peak_mib - nothing.turn().peak_mib) * 2**20
    return predictions, seconds, peak, load


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=CASES, help="ARCH:SIZE:BATCH, separated by commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps and inferences measured in a round")
    parser.add_argument("--optimizer", default="adam")
    options = vars(parser.parse_args())
    watch.print_machine(watch.machine())
    rows = []
    for text in options["cases"].split(","):
        arch, *sizes = text.split(":")
        predictions, seconds, peak, load = check((arch, *map(int, sizes)), options)
        for task in TASKS:
            predicted = [getattr(cost, f"{task}_seconds") for cost in predictions]
            ratio = harness.Spread.of([p / m for p, m in zip(predicted, seconds[task], strict=True)])
            times = f"{1e3 * median(predicted):.0f} ms", f"{1e3 * median(seconds[task]):.0f} ms"
            rows.append((text, task, *times, f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"))
        expected = predictions[-1].memory.peak
        ratio = f"{expected / peak:.2f}"
        rows.append((text, "peak memory", f"{expected / 2**20:.0f} MiB", f"{peak / 2**20:.0f} MiB", ratio))
        print(f"{text}: {load.warning() or 'no contention seen.'}")
    harness.print_table("", ["case", "of", "predicted", "measured", "predicted / measured"], rows)


if __name__ == "__main__":
    main()
