"""What one rank of `minires bench scale-out` does: mpiexec starts it, rank 0 prints a line of JSON for each time.

Steps are those of `fit` (make_step with Adam), on random images. In turn with them every rank makes the same steps
alone, all at the same time: what they take of one another's caches, and other programs of all, is no communication.
"""

import json
import os
import statistics
import sys
import time
from contextlib import contextmanager

import numpy as np
from minires.benchmarks.contenders import CLASSES, network

from minires import make_step
from minires.fast import buckets, communicator
from minires.fast.cpu.engine import use_threads
from minires.fast.mpi import world
from minires.optim import Adam

WARMUP = 2


class Variant:
    """One way of a step of this rank: over so many images, with the others or alone.

    Beside its time it notes what of it was communication, and the window: the seconds of backward's own work after the
    first bucket's all-reduce was begun.
    """

    def __init__(self, options, images, ranks, **settings):
        rng = np.random.default_rng(ranks.rank)
        self.images, self.ranks, self.settings, self.rows = images, ranks, settings, []
        model = network(options).train()
        self.x = rng.standard_normal((images, options["size"], options["size"], 3)).astype(np.float32)
        self.labels = rng.integers(0, CLASSES, images)
        optimizer = Adam(model.params())
        if ranks.size > 1 and ranks.near:  # as `fit` does
            optimizer.share_state()
        self.step, self.first, self.window = make_step(model, optimizer), None, 0.0
        if ranks.size > 1:
            self.step.share_gradients(settings["bucket"])
            made = self.step.buckets
            self.begin, self.close = made._begin, made.close
            made._begin, made.close = self._begin, self._close

    def _now(self):
        """A clock that stands while this rank communicates."""
        return time.perf_counter() - self.ranks.spent

    def _begin(self, bucket):
        self.begin(bucket)
        self.first = self.first or self._now()

    def _close(self):
        now = self._now()
        self.window = now - (self.first or now)
        self.close()
        self.first = None

    def __call__(self):
        self.ranks.local_bn = self.settings.get("bn") == "local"
        batch = self.images * self.ranks.size
        with communicator.speaking_through(self.ranks), communicator.on_batch(batch), self.step as step:
            began, before = time.perf_counter(), self.ranks.spent
            step(self.x, self.labels, 1e-4)
            self.rows.append((time.perf_counter() - began, self.ranks.spent - before, self.window))

    def one(self):
        """The step of one process that has the cores of all ranks, which meanwhile sleep."""
        ranks = communicator.current()
        if ranks.rank == 0:
            with all_cores(ranks.size):
                self()
        else:
            time.sleep(0.8 * max((row[0] for row in self.rows), default=0.0))
            self.rows.append((0.0, 0.0, 0.0))
        self.rows[-1] = tuple(ranks.broadcast(np.array(self.rows[-1])))

    def row(self, ranks) -> dict:
        """The medians; of the slowest rank's seconds, since the others wait for it, and of all ranks' communication."""
        seconds, spent, window = ranks.all_gather(np.array(self.rows[WARMUP:])).transpose(2, 0, 1)
        told = {"seconds": seconds.max(axis=0), "spent": spent.mean(axis=0), "window": window.mean(axis=0)}
        return self.settings | {"images": self.images} | {key: float(np.median(v)) for key, v in told.items()}


@contextmanager
def all_cores(count):
    """Inside, this process has the cores of all ranks of its host, and as many threads."""
    mask = os.sched_getaffinity(0)
    _bind(os.sched_getaffinity(os.getppid()))  # of its guardian, or of the launcher: as it was started
    with use_threads(count):
        yield
    _bind(mask)


def _bind(mask):
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), mask)


def variants(options) -> list[Variant]:
    """All that take turns in this job."""
    ranks, batch, scaling = communicator.current(), options["batch"], options["scaling"]
    share = batch // ranks.size if scaling == "strong" else batch
    made = [Variant(options, share, communicator.Alone(), kind="alone", scaling=scaling)]
    if scaling == "strong" and ranks.size > 1 and ranks.near:
        made.append(Variant(options, batch, communicator.Alone(), kind="threads", scaling=scaling))
    for bn in options["bn"] if ranks.size > 1 else ():
        settings = {"kind": "step", "scaling": scaling, "bn": bn, "bucket": buckets.BUCKET}
        made.append(Variant(options, share, ranks, **settings))
    for bucket in options["buckets"] if ranks.size > 1 and not ranks.near else ():  # on one host there are none
        settings = {"kind": "bucket", "scaling": scaling, "bn": "local", "bucket": bucket}
        made.append(Variant(options, share, ranks, **settings))
    return made


def transfers(verb, sizes) -> list[dict]:
    """The median time of all_reduce or all_gather of float32 of so many bytes a rank."""
    arrays = [np.ones(max(1, size // 4), np.float32) for size in sizes]
    call = getattr(communicator.current(), verb)
    return [{"kind": verb, "bytes": array.nbytes, "seconds": timed(call, array)} for array in arrays]


def on_host(options) -> list[dict]:
    """The median times of all gradients of a network, summed and gathered again, by messages and in host memory."""
    ranks, rows = communicator.current(), []
    size = sum(p.data.size for p in network(options).params())
    parts = communicator.shares(size)
    calls = {
        "reduce": lambda array: ranks.start_reduce_scatter(array, parts)(),
        "gather": lambda array: ranks.all_gather_into(array, parts),
    }
    for where, array in (("messages", np.empty(size, np.float32)), ("memory", ranks.memory(size, np.float32))):
        for verb, call in calls.items() if array is not None else ():
            row = {"kind": "gradients", "where": where, "verb": verb, "bytes": array.nbytes}
            rows.append(row | {"seconds": timed(call, array)})
    return rows


def timed(call, array, seconds=0.1) -> float:
    """The median of several calls."""
    taken = []
    call(array)
    began = time.perf_counter()
    call(array)
    count = int(np.clip(seconds / (time.perf_counter() - began), 3, 100))
    for _ in range(communicator.current().broadcast(np.array([count]))[0]):
        array.fill(1)
        communicator.current().barrier()
        began = time.perf_counter()
        call(array)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(options) -> list[dict]:
    """Every row of this job; options: of scale_out.job."""
    ranks, made = communicator.current(), variants(options)
    for _ in range(WARMUP + options["steps"]):
        for variant in made:
            ranks.barrier()
            variant.one() if variant.settings["kind"] == "threads" else variant()
    rows = [variant.row(ranks) for variant in made]
    for verb in ("all_reduce", "all_gather") if ranks.size > 1 else ():
        rows += transfers(verb, options["sizes"])
    return rows + (on_host(options) if ranks.size > 1 and ranks.near and options["sizes"] else [])


def main(options) -> None:
    with communicator.speaking_through(world()) as ranks:
        rows = measure(json.loads(options))
        for row in rows if ranks.rank == 0 else ():
            print(json.dumps(row), flush=True)  # a launcher cuts long lines
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
