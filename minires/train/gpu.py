"""The training step on a GPU: by kernels, and captured once into a CUDA graph that every later step replays.

A small network's step is some hundred launches of a few microseconds each, and what takes the time is to issue
them one by one. A graph is issued at once. What changes from step to step lies in buffers of its own: the images and
labels, and the learning rate with Adam's corrections (`rates`).
"""

from contextlib import contextmanager
from dataclasses import dataclass

from minires.backend import get_xp
from minires.nn.gpu import OnGpu
from minires.ops import kernels
from minires.ops.blas import tensor_cores
from minires.train.optim import SGD, Adam, AdamW
from minires.train.step import Step


@dataclass
class _Held:
    """A shape of batches: the buffers into which they are copied, and the graph that reads them, once there is one."""

    x: object
    labels: object
    graph: object = None


class GpuStep(Step):
    """By kernels (nn/gpu.py), with the update as one of them; replayed from the second step of a shape on.

    graph: False issues every kernel anew. `how` tells why where a graph was wanted and is not used.
    tf32: let the products of float32 matrices round their inputs to TF32.
    """

    def __init__(self, model, optimizer, label_smoothing=0.0, *, graph=True, tf32=False):
        super().__init__(model, optimizer, label_smoothing)
        self.xp = xp = get_xp(optimizer.weights)
        self.net, self.tf32 = OnGpu(model), tf32
        self.told, self.rates = xp.zeros(3, "f8"), xp.zeros(4, "f8")
        self.states = [*model.params(), *model.buffers()]
        self.reason = "" if graph else "asked for none"
        if self.net.random:
            self.reason = self.reason or "dropout draws its masks on the host"
        self.held: dict[tuple, _Held] = {}
        self.places = []
        if not self.reason:
            cuda = xp.cuda
            self.pool, self.stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)

    @property
    def how(self):
        way = "CUDA kernels, " + (f"no graph: {self.reason}" if self.reason else "replayed as a graph")
        return way + (", TF32" if self.tf32 else "")

    @staticmethod
    def fits(model, optimizer) -> bool:
        """Whether kernels can do it: the library's own layers and optimiser, on CuPy."""
        return type(optimizer) in (SGD, Adam, AdamW) and OnGpu.fits(model)

    def __call__(self, x, labels, lr):
        """As Step's; nothing waits, and nothing is checked that lies on the device."""
        optimizer = self.optimizer
        optimizer.check()
        optimizer.steps += 1
        kernels.set_rates(self.rates, optimizer.weights, *_rates(optimizer, lr))
        labels = labels.astype("i8", copy=False)
        with tensor_cores(self.tf32):
            if self.reason:
                self._compute(x, labels)
            else:
                self._replay(x, labels)
        return tuple(self.told.copy())

    def _compute(self, x, labels):
        logits = self.net.forward(x)
        self.net.backward(kernels.cross_entropy(logits, labels, self.told, label_smoothing=self.label_smoothing))
        optimizer = self.optimizer
        kernels.gradient_norm(optimizer.grads, self.told, self.rates, optimizer.clip_norm)
        _update(optimizer, self.rates)

    def _replay(self, x, labels):
        """The first step of a shape runs as it is, which makes CuPy and cuBLAS ready; the second is captured."""
        places = [v.data for v in self.states]
        if any(a is not b for a, b in zip(places, self.places, strict=False)):
            self.held.clear()  # a graph writes to where the arrays were
        self.places = places
        held = self.held.get(x.shape)
        if held is None:
            with self._apart():
                self.held[x.shape] = _Held(x.copy(), labels.copy())
                self._compute(x, labels)
            return
        if held.graph is None:
            try:
                held.graph = self._capture(held)
            except Exception as error:  # CuPy raises a different type for each thing that cannot be captured
                self.reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.held.clear()
                self.pool.free_all_blocks()
                self._compute(x, labels)
                return
        held.x[...], held.labels[...] = x, labels
        held.graph.launch()

    def _capture(self, held):
        with self._apart():
            self.stream.begin_capture()
            try:
                self._compute(held.x, held.labels)
            finally:
                graph = self.stream.end_capture()
        return graph

    @contextmanager
    def _apart(self):
        """Inside, work goes to a stream of its own, in order with what is before and after, and memory comes from a
        pool of its own: what the graph's steps use between them belongs to nobody else."""
        cuda = self.xp.cuda
        outside = cuda.get_current_stream()
        self.stream.wait_event(outside.record())
        try:
            with cuda.using_allocator(self.pool.malloc), self.stream:
                yield
        finally:
            outside.wait_event(self.stream.record())


def _rates(optimizer, lr):
    """What an update needs that changes with every step."""
    if isinstance(optimizer, SGD):
        return (lr,)
    (b1, b2), t = optimizer.betas, optimizer.steps
    return lr, lr / (1 - b1**t), 1 / (1 - b2**t) ** 0.5


def _update(o, rates):
    """The whole of optimizer.update, in one kernel."""
    decay = {"decayed": o.decayed, "decay": o.weight_decay}
    if isinstance(o, SGD):
        momentum = {"momentum": o.momentum, "nesterov": o.nesterov}
        kernels.update_sgd(o.weights, o.grads, o.state["velocity"], rates, **decay, **momentum)
    else:
        betas = {"betas": o.betas, "epsilon": o.epsilon, "decoupled": o.decoupled}
        kernels.update_adam(o.weights, o.grads, o.state["m"], o.state["v"], rates, **decay, **betas)
