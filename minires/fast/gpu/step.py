"""The training step on a GPU: forward, loss, backward and update by kernels, replayed as one CUDA graph.

What changes from step to step lies on the device: the images and labels, and the learning rate with Adam's
corrections, in `rates`. Over several ranks (gpu/nccl.py) the sums between the GPUs are part of the graph.
"""

from functools import partial

from minires.backend import get_xp
from minires.fast import communicator, fuse
from minires.fast.gpu import kernels
from minires.fast.gpu.cublas import tensor_cores
from minires.fast.gpu.graph import Replay
from minires.fast.step import FusedStep, check_mode
from minires.nn.activation import Dropout
from minires.optim import SGD, Adam, AdamW

OPTIMISERS = {cls: fuse.methods(cls) for cls in (SGD, Adam, AdamW)}  # as they are written


class GpuStep(FusedStep):
    """The fused network (fast/training.py), the update one kernel; replayed from the second step of a shape on.

    graph: False issues every kernel anew. `how` tells why where a graph was wanted and is not used.
    tf32: let the products of float32 matrices round their inputs to TF32.
    But for the rate, what the optimiser is set to when a step is captured stays so.
    """

    def __init__(self, model, optimizer, label_smoothing=0.0, *, graph=True, tf32=False, **settings):
        super().__init__(model, optimizer, label_smoothing, **settings)
        xp, self.tf32 = get_xp(optimizer.weights), tf32
        for param in self.net.idle:
            param.grad[...] = 0  # once: nothing here writes it
        self.net.idle = []
        self.metrics, self.rates = xp.zeros(3, "f8"), xp.zeros((len(optimizer.groups), 4), "f8")
        random = any(isinstance(m, Dropout) and m.rate for m in model.modules())
        reason = "dropout draws its masks on the host" if random else ""
        # with no way back to us: the memory of a step that is let go must not wait for the garbage collector
        work = partial(_compute, self.net, optimizer, self.metrics, self.rates, label_smoothing)
        self.replay = Replay(xp, work, reason if graph else "asked for none")
        self.states = [*model.params(), *model.buffers()]
        self.places = [v.data for v in self.states]

    @property
    def how(self):
        way = "CUDA kernels, " + (f"no graph: {self.replay.reason}" if self.replay.reason else "replayed as a graph")
        return way + (", TF32" if self.tf32 else "")

    @staticmethod
    def fits(optimizer) -> bool:
        """Whether kernels can update what a network that can be fused has: the library's own optimiser, on CuPy, with
        all of its state on this rank."""
        own = type(optimizer) in OPTIMISERS and not fuse.replaced(OPTIMISERS)
        return own and kernels.available(optimizer.weights) and len(optimizer.parts) == 1

    def share_gradients(self):
        super().share_gradients()
        self.replay.work = partial(self.replay.work, buckets=self.buckets)
        # what NCCL does is in the graphs of all ranks or of none
        self.replay.agreed = partial(_of_all, communicator.current())

    def __call__(self, x, labels, lr):
        """As Step's; nothing waits, and nothing is checked that lies on the device."""
        optimizer, shares = self.optimizer, ()  # of the ranks, in images: a share of another whole is another graph
        if communicator.current().size > 1:
            shares = communicator.share_sizes(len(x))
            if self.buckets is None:
                self.share_gradients()
        optimizer.check()
        check_mode(self.model)
        optimizer.steps += 1
        _set_rates(optimizer, self.rates, lr)
        if any(v.data is not place for v, place in zip(self.states, self.places, strict=True)):
            self.places = [v.data for v in self.states]
            self.replay.forget()
        with tensor_cores(self.tf32):
            self.replay(x, labels.astype("i8", copy=False), key=shares)
        return tuple(self.metrics.copy())


def _compute(net, optimizer, metrics, rates, label_smoothing, x, labels, buckets=None):
    """One step, from the batch to the new weights."""
    logits, ranks = net.forward(x), communicator.current()
    dlogits = kernels.cross_entropy(logits, labels, metrics, label_smoothing=label_smoothing)
    if ranks.size == 1:
        net.backward(dlogits)
    else:
        part = communicator.part_of_batch(len(x))
        metrics[:1] *= part
        wait = ranks.start_all_reduce(metrics[:2])
        buckets.open(ranks)
        net.backward(dlogits * part)
        buckets.close()
        wait()
    _update(optimizer, metrics, rates)


def _of_all(ranks, reason):
    """The reason of the first rank that has one."""
    with communicator.speaking_through(ranks):
        return next(filter(None, communicator.gather(reason)), "")


def _set_rates(optimizer, rates, lr):
    """Into rates (groups, 4): what their updates need that changes with every step."""
    for group, row in zip(optimizer.groups, rates, strict=True):
        rate = lr * group.lr_scale
        kernels.set_rates(row, optimizer.weights, *_corrected(optimizer, rate, optimizer.steps - group.began))


def _corrected(optimizer, lr, t):
    if isinstance(optimizer, SGD):
        return (lr,)
    b1, b2 = optimizer.betas
    return lr, lr / (1 - b1**t), 1 / (1 - b2**t) ** 0.5


def _update(optimizer, metrics, rates):
    """The whole of optimizer.step, a kernel for each group; the gradient's norm into metrics[2]."""
    kernels.gradient_norm(optimizer.grads, metrics, rates[0], optimizer.clip_norm)
    rates[1:, 3] = rates[0, 3]
    for group, row in zip(optimizer.groups, rates, strict=True):
        _update_group(optimizer, group, row)


def _update_group(o, group, rates):
    decayed = group.decayed.stop - group.decayed.start
    decay = {"decayed": decayed, "decay": o.decay_of(group)}
    arrays = [array[group.span] for array in (o.weights, o.grads, *o.state.values())]
    if isinstance(o, SGD):
        momentum = {"momentum": o.momentum, "nesterov": o.nesterov}
        kernels.update_sgd(*arrays, rates, **decay, **momentum)
    else:
        betas = {"betas": o.betas, "epsilon": o.epsilon, "decoupled": o.decoupled}
        kernels.update_adam(*arrays, rates, **decay, **betas)
