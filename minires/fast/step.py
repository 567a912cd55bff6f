"""One training step, forward, loss, backward and update, in the fastest way that there is for a network and device.

`make_step` chooses; `fit` trains with what it gives, and so can a loop of one's own or a benchmark:

    with make_step(model, optimizer) as step:
        loss, right, norm = step(x, labels, lr)
"""

import math
from contextlib import ExitStack

from minires import ops
from minires.backend import Array, device_of, get_xp, max_workspace
from minires.errors import StateError
from minires.fast import communicator, cpu, fuse
from minires.fast.buckets import BUCKET, Buckets, telling
from minires.fast.check import Agreement, check_training
from minires.fast.checkpointing import checkpointed
from minires.fast.training import Fused
from minires.nn.module import Module
from minires.optim import Optimizer


class Step:
    """The layers one after the other, as one reads them; the base of the faster ways.

    `how` says in words which way it is. Enter the context around the steps. Where other ranks train too
    (communicator.py), x is this one's share of the batch, and what is told is of the whole.
    """

    way = "layer by layer"

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        label_smoothing: float = 0.0,
        *,
        reason: str = "",
        recompute: bool = False,
        max_workspace: int | None = None,
    ):
        self.model, self.optimizer, self.label_smoothing = model, optimizer, label_smoothing
        self.reason, self.recompute, self.max_workspace = reason, recompute, max_workspace
        self.net, self.stay, self.buckets = self.network(model), ExitStack(), None

    def network(self, model: Module) -> Module:
        """What runs in the place of `model`, over its parameters."""
        return checkpointed(model) if self.recompute else model

    @property
    def how(self) -> str:
        way = f"{self.way} ({self.reason})" if self.reason else self.way
        return f"{way}, {cpu.description()}" if device_of(self.optimizer.weights) == "cpu" else way

    def check(self, x: Array, labels: Array) -> Agreement:
        """Whether that gives what the layers give, in float64, for the first images of x; see check.py."""
        if self.net is self.model and device_of(x) == "cpu" and not cpu.enabled():
            return Agreement(skipped="they are what runs")
        return check_training(self.model, self.network, x, labels)

    def __enter__(self):
        self.stay.enter_context(max_workspace(self.max_workspace))
        return self

    def __exit__(self, *error):
        self.stay.close()

    def __call__(self, x: Array, labels: Array, lr: float) -> tuple[Array, Array, Array]:
        """(loss, right answers, gradient norm before clipping), numbers on the device; nothing waits for a GPU.

        x (N, H, W, C) is the network's input, labels (N,) its classes, on the weights' device. On the CPU a loss that
        is not finite ends the step before the update, with a norm of NaN. StateError in evaluation mode.
        """
        check_mode(self.model)
        smoothing, ranks = self.label_smoothing, communicator.current()
        if ranks.size > 1 and self.buckets is None:
            self.share_gradients()
        logits = self.net.forward(x)
        loss, probs = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
        right = get_xp(logits).count_nonzero(probs.argmax(axis=1) == labels)
        part = communicator.part_of_batch(len(x))
        if ranks.size > 1:
            loss, right = ranks.all_reduce(get_xp(logits).stack([loss * part, right]).astype("f8"))
        if device_of(x) == "cpu" and not math.isfinite(loss):
            return loss, right, math.nan
        dlogits = ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing)
        if ranks.size == 1:
            self.net.backward(dlogits, need_dx=False)
        else:
            self.buckets.open(ranks)
            self.net.backward(dlogits * part, need_dx=False)
            self.buckets.close()
        return loss, right, self.optimizer.step(lr)

    def share_gradients(self, bucket: int = BUCKET):
        """From now on gradients are summed over the ranks, in buckets of so many bytes as backward goes on; where all
        are on one host, whose cores would add them up instead of computing, all at its end."""
        on_host = self.optimizer.move_to(communicator.current().memory)
        self.buckets = Buckets(self.optimizer, self.optimizer.grads.nbytes if on_host else bucket)
        self.net = telling(self.net, self.buckets)


class FusedStep(Step):
    """Each normalisation, add and ReLU as one (training.py)."""

    way = "fused"

    def network(self, model: Module) -> Module:
        return Fused(model, recompute=self.recompute)

    def share_gradients(self, bucket=BUCKET):
        super().share_gradients(bucket)
        for param in self.net.idle:
            param.grad[...] = 0  # once: written after backward, it would meet its bucket's all-reduce
        self.net.idle = []
        self.net.rest = telling(self.net.rest, self.buckets)


def check_mode(model: Module) -> None:
    """StateError where `model` is in evaluation mode."""
    if not model.training:
        raise StateError(
            f"{model.name or 'the network'} is in evaluation mode: call its .train() before a training step"
        )


def make_step(
    model: Module,
    optimizer: Optimizer,
    *,
    label_smoothing: float = 0.0,
    by_layers: bool = False,
    graph: bool = True,
    tf32: bool = False,
    recompute: bool = False,
    max_workspace: int | None = None,
) -> Step:
    """The step that trains `model`, whose parameters `optimizer` holds, fastest on their device.

    by_layers: run exactly the modules of `model`, one after the other. So does every network with a part that is not
    the library's own, or was changed, or is in evaluation mode without being frozen; the step's `how` says which.
    StateError where the network itself is in evaluation mode.
    graph, tf32: on a GPU, see gpu/step.py; a CPU has neither.
    recompute: memory for time, for large images or batches (checkpointing.py); the same gradients to the bit.
    max_workspace: bytes that one op may take beside its arguments and results; None: as each op likes.
    Make it anew after `.to` or `.astype`, like the optimiser.

    >>> model = minires.resnet("resnet8", (16, 16, 3), 6)
    >>> x, labels = numpy.zeros((4, 16, 16, 3), "float32"), numpy.arange(4)
    >>> with minires.make_step(model, minires.SGD(model.params())) as step:
    ...     for _ in range(3):
    ...         loss, right, norm = step(x, labels, lr=0.01)
    >>> float(loss) > 0
    True
    """
    from minires.fast.gpu.step import GpuStep  # it builds on Step

    optimizer.check()
    check_mode(model)
    settings = {"recompute": recompute, "max_workspace": max_workspace}
    reason = "asked for" if by_layers else fuse.reason_against(model)
    resting = [module.name for module in model.modules() if not (module.training or module.frozen)]
    if not reason and resting:
        reason = f"{resting[0]} is in evaluation mode"
    if reason:
        return Step(model, optimizer, label_smoothing, reason=reason, **settings)
    if device_of(optimizer.weights) != "cpu" and GpuStep.fits(optimizer):
        return GpuStep(model, optimizer, label_smoothing, graph=graph, tf32=tf32, **settings)
    return FusedStep(model, optimizer, label_smoothing, **settings)
