"""Gradients summed over the ranks while backward still runs.

Backward writes the optimiser's flat buffer from its end to its beginning. As soon as a stretch of it is complete (a
bucket) its all-reduce begins, and the layers before go on meanwhile. S. Li et al., "PyTorch Distributed: Experiences on
Accelerating Data Parallel Training", VLDB 2020, arXiv:2006.15704, section 3.2.
"""

import copy

from minires.fast.communicator import overlap
from minires.nn.module import Module, Sequential
from minires.optim import Optimizer

BUCKET = 2**22  # bytes; benchmarks/README.md has others beside it


class Buckets:
    """The buckets of an optimiser's gradients. Every rank begins them in the same order, that of its layers."""

    def __init__(self, optimizer: Optimizer, size: int = BUCKET):
        self.grads, self.spans, self.bucket_of, self.optimizer = optimizer.grads, [], {}, optimizer
        self.ranks = None  # while backward runs, those that share it
        begin = end = 0
        members = []
        for p in optimizer.params:
            members.append(p)
            end += p.data.size
            if (end - begin) * self.grads.itemsize >= size or p is optimizer.params[-1]:
                self.bucket_of |= dict.fromkeys(map(id, members), len(self.spans))
                self.spans.append(slice(begin, end))
                begin, members = end, []

    def open(self, ranks) -> None:
        """Before backward: nothing is written yet."""
        self.ranks, self.written, self.waits = ranks, set(), {}
        self.missing = [0] * len(self.spans)
        for bucket in self.bucket_of.values():
            self.missing[bucket] += 1

    def complete(self, module: Module) -> None:
        """The gradients of this module are written."""
        for p in module.params() if self.ranks else ():
            if (bucket := self.bucket_of.get(id(p))) is not None and id(p) not in self.written:
                self.written.add(id(p))
                self.missing[bucket] -= 1
                if not self.missing[bucket]:
                    self._begin(bucket)

    def _begin(self, bucket):
        span, parts = self.spans[bucket], self.optimizer.parts
        if len(parts) == 1:
            self.waits[bucket] = self.ranks.start_all_reduce(self.grads[span])
        else:  # a rank needs the sums of what it updates
            within = [overlap(span, part) for part in parts]
            here = [slice(s.start - span.start, s.stop - span.start) for s in within]
            self.waits[bucket] = self.ranks.start_reduce_scatter(self.grads[span], here)

    def close(self) -> None:
        """After backward: the sums of all gradients are in the buffer, or of those that this rank updates."""
        for bucket in range(len(self.spans)):
            if bucket not in self.waits:
                self._begin(bucket)
        for wait in self.waits.values():
            wait()
        self.ranks = None


class Telling(Module):
    """`layer`, which tells when its gradients are there."""

    def __init__(self, layer: Module, buckets: Buckets):
        super().__init__(layer.name)
        self.layer, self.forward, self.complete = layer, layer.forward, buckets.complete

    def backward(self, dy, need_dx=True):
        dx = self.layer.backward(dy, need_dx=need_dx)
        self.complete(self.layer)
        return dx

    def output_shape(self, shape):
        return self.layer.output_shape(shape)


def telling(net: Module, buckets: Buckets) -> Module:
    """`net` as it is, over layers that tell; itself where it is no sequence, or all is one bucket."""
    if len(buckets.spans) == 1 or not isinstance(net, Sequential) or type(net).backward is not Sequential.backward:
        return net
    same = copy.copy(net)
    same.layers = [Telling(layer, buckets) for layer in net.layers]
    return same
