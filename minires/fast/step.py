"""One training step, forward, loss, backward and update, in the fastest way that there is for a network and device.

`make_step` chooses; `fit` trains with what it gives, and so can a loop of one's own or a benchmark:

    with make_step(model, optimizer) as step:
        loss, right, norm = step(x, labels, lr)
"""

import math
from contextlib import ExitStack

from minires.backend import device_of, get_xp, max_workspace
from minires.fast import cpu
from minires.fast.fuse import AsItIs
from minires.fast.training import Fused
from minires.ops import softmax_cross_entropy_backward, softmax_cross_entropy_forward


class Step:
    """The layers one after the other, as one reads them; the base of the faster ways.

    `how` says in words which way it is. Enter the context around the steps.
    """

    way = "layer by layer"

    def __init__(self, model, optimizer, label_smoothing=0.0, *, recompute=False, max_workspace=None):
        self.net = AsItIs().copy(model) if recompute else model
        self.optimizer, self.label_smoothing, self.max_workspace = optimizer, label_smoothing, max_workspace
        self.stay = ExitStack()

    @property
    def how(self):
        return f"{self.way}, {cpu.description()}" if device_of(self.optimizer.weights) == "cpu" else self.way

    def __enter__(self):
        self.stay.enter_context(max_workspace(self.max_workspace))
        return self

    def __exit__(self, *error):
        self.stay.close()

    def __call__(self, x, labels, lr: float):
        """(loss, right answers, gradient norm before clipping), numbers on the device; nothing waits for a GPU.

        x (N, H, W, C) is the network's input, labels (N,) its classes, on the weights' device; the model must be in
        training mode. On the CPU a loss that is not finite ends the step before the update, with a norm of NaN.
        """
        smoothing = self.label_smoothing
        logits = self.net.forward(x)
        loss, probs = softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
        right = get_xp(logits).count_nonzero(probs.argmax(axis=1) == labels)
        if device_of(x) == "cpu" and not math.isfinite(loss):
            return loss, right, math.nan
        self.net.backward(softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing), need_dx=False)
        return loss, right, self.update(lr)

    def update(self, lr):
        """Let the optimiser change the weights; the gradient's norm."""
        return self.optimizer.step(lr)


class FusedStep(Step):
    """On a CPU: each normalisation, add and ReLU as one (fast/training.py)."""

    way = "fused"

    def __init__(self, model, optimizer, label_smoothing=0.0, *, recompute=False, **settings):
        super().__init__(model, optimizer, label_smoothing, **settings)
        self.net = Fused(model, recompute=recompute)


def make_step(
    model, optimizer, *, label_smoothing=0.0, fused=True, graph=True, tf32=False, recompute=False, max_workspace=None
) -> Step:
    """The step that trains `model`, whose parameters `optimizer` holds, fastest on their device.

    fused: False takes the layers as they are, with the plain ops.
    graph, tf32: on a GPU, see fast/gpu/step.py; a CPU has neither.
    recompute: memory for time, for large images or batches (fast/checkpointing.py); the same gradients to the bit.
    max_workspace: bytes that one op may take beside its arguments and results; None: as each op likes.
    Make it anew after `.to` or `.astype`, like the optimiser.
    """
    from minires.fast.gpu.step import GpuStep  # it builds on Step

    optimizer.check()
    memory = {"recompute": recompute, "max_workspace": max_workspace}
    on_cpu = device_of(optimizer.weights) == "cpu"
    if fused and on_cpu and Fused.fits(model):
        return FusedStep(model, optimizer, label_smoothing, **memory)
    if fused and not on_cpu and GpuStep.fits(model, optimizer):
        return GpuStep(model, optimizer, label_smoothing, graph=graph, tf32=tf32, **memory)
    return Step(model, optimizer, label_smoothing, **memory)
