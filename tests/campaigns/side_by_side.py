"""Does all of minires compute, in several threads or processes at once, what it computes alone? To the bit.

    python tests/campaigns/side_by_side.py --seconds 600              # every kind in turn, until the time is over
    python tests/campaigns/side_by_side.py --kinds fits --rounds 200

Each round of a kind sets some work going at once and compares all of it with the same work done alone before. A line a
kind: rounds, results that were compared, wrong ones. Status 1 where one was.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

HERE = Path(__file__)
sys.path.insert(0, str(HERE.parents[1] / "support"))

from stripes import RECIPE, TEST, TRAIN, classifier, weights  # noqa: E402

from minires import backend  # noqa: E402
from minires.fast import cpu  # noqa: E402
from minires.fast.inference import Predictor  # noqa: E402
from minires.instruments.gradcheck import gradcheck_model  # noqa: E402
from minires.train import evaluate, fit  # noqa: E402


def at_once(*works):
    """The results of all, begun together in threads of their own."""
    start = threading.Barrier(len(works))

    def begun(work):
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(begun, work) for work in works]]


def bits(result):
    """Something that is equal where results are equal to the bit."""
    if isinstance(result, dict):
        return {name: bits(value) for name, value in result.items()}
    return result.tobytes() if isinstance(result, np.ndarray) else result


alone = cache(lambda work, *arguments: bits(work(*arguments)))  # each is done once, before anything runs beside it


def together(*works):
    """[whether each of these (function, arguments ...) gives at once what it gives alone]"""
    expected = [alone(*work) for work in works]
    results = at_once(*[lambda work=work: bits(work[0](*work[1:])) for work in works])
    return [result == right for result, right in zip(results, expected, strict=True)]


# --- what is done


def trained(seed, **ways):
    """The weights after a short training; another optimiser, and another workspace, for each seed."""
    c = classifier(seed)
    recipe = replace(RECIPE, epochs=2, seed=seed, optimizer=["sgd", "adam", "adamw"][seed % 3])
    fit(c, TRAIN, TEST, recipe, **({"max_workspace": 2**12} if seed % 2 else {}), **ways)
    return weights(c)


def checked(seed):
    """What the gradient check says of a small network."""
    return repr(asdict(gradcheck_model("resnet8", input_shape=(8, 8, 3), widths=(2, 3, 4), seed=seed)))


@cache
def network(seed):
    return classifier(seed)


@cache
def predictor(seed):
    return Predictor(network(seed).model)


def predicted(seed, count=20):
    """Logits of batches of several sizes, by one predictor that all threads share."""
    x = network(seed).preprocess(TEST.images(np.arange(count)))
    return np.concatenate([predictor(seed)(part) for part in (x, x[:3], x[3:4], x, x[5:])])


def evaluated(seed):
    """By the layers of one network that all threads share; its modes and running statistics are to stay."""
    probs = evaluate(network(seed), TEST, by_layers=True).probs
    return {"probs": probs} | weights(network(seed))


# --- kinds: each a round, which gives a list of whether results were right


def fits(rng):
    return together(*[(trained, int(seed)) for seed in rng.permutation(4)[:3]])


def predictors(rng):
    return together((predicted, 0), (predicted, 1), (predicted, 0), (predicted, 1, 7))


def layers(rng):
    result = together(*[(evaluated, 0)] * 3, (predicted, 0))
    return [*result, all(m.training and m.save_for_backward for m in network(0).model.modules())]


def fit_beside_gradcheck(rng):
    return together((trained, 2), (checked, 0), (predicted, 1))


def settings(rng):
    """Threads that ask for numbers of threads and go when they like leave behind what they found."""
    before = cpu.threads(), backend.thread_count()
    naps = rng.random((4, 2)) / 200

    def use(count, naps):
        time.sleep(naps[0])
        with cpu.use_threads(count), backend.blas_threads(count):
            time.sleep(naps[1])

    at_once(*[lambda i=i: use(1 + i % 3, naps[i]) for i in range(4)])
    return [(cpu.threads(), backend.thread_count()) == before]


def first_use(rng):
    """A fresh process whose very first fits begin together."""
    command = [sys.executable, str(HERE), "--fresh"]
    return [subprocess.run(command, timeout=300).returncode == 0]


def child(rng):
    """A process that has computed, and its forked child, train at once."""
    right = alone(trained, 0), alone(trained, 1)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = 0 if bits(trained(1)) == right[1] else 2
        finally:
            os._exit(status)
    here = bits(trained(0)) == right[0]
    end = time.monotonic() + 120
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(pid, 9)
        ended = os.waitpid(pid, 0)
    return [here, ended[1] == 0]


KINDS = {f.__name__: f for f in (fits, predictors, layers, fit_beside_gradcheck, settings, first_use)}
KINDS |= {"child": child} if hasattr(os, "fork") else {}


def fresh() -> bool:
    """Whether the first fits of this process, begun together, are those that follow."""
    first = at_once(*[lambda seed=seed: bits(trained(seed)) for seed in range(2)])
    return first == [bits(trained(seed)) for seed in range(2)]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=60, help="begin no round later (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10**6, help="of each kind at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.fresh:
        return 0 if fresh() else 1
    rng, end = np.random.default_rng(args.seed), time.monotonic() + args.seconds
    counts = {kind: [0, 0, 0] for kind in args.kinds}
    for done, (kind, count) in product(range(args.rounds), counts.items()):
        if done and time.monotonic() > end:
            break
        right = KINDS[kind](rng)
        count[:] = count[0] + 1, count[1] + len(right), count[2] + right.count(False)
    print(f"{'kind':22}{'rounds':>8}{'results':>9}{'wrong':>7}")
    for kind, count in counts.items():
        print(f"{kind:22}{count[0]:8}{count[1]:9}{count[2]:7}")
    return int(any(wrong for _, _, wrong in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
