"""Training one network on a team, of threads or processes: each takes a part of the batch through layers of its own.

The copies share parameters and buffers with the network they were made from. They meet once in the forward
and once in the backward pass of every batch normalisation, whose statistics are those of the whole batch, so
the result is that of the network alone, up to the order of summation. Batch normalisation, the residual add
and ReLU are one walk over memory (ops/fused.py), or, if asked for, all ops are those that one reads. The classifier's
few layers run as they are.
"""

import copy

import numpy as np

from minires import ops
from minires.backend import give_back_freed_memory
from minires.errors import StateError
from minires.nn.fastconv import FastConv, Kernels
from minires.nn.fuse import FusedSequential, LayerByLayer, Rewriter, rewritable
from minires.nn.layers import BatchNorm, Conv2d
from minires.nn.module import Module, Param, Sequential
from minires.ops import fused as fused_ops
from minires.ops.norm import batchnorm_dx, batchnorm_sums
from minires.team import Member, spans


class _Part(Param):
    """One member's share in a parameter: the same data; the gradient of its own part of the batch.

    The first member writes into the whole's gradient, the others' arrays are added to it at the next meeting.
    """

    def __init__(self, whole: Param, desk: "_Desk"):
        self.whole, self.desk, self.slot = whole, desk, None

    @property
    def data(self):
        return self.whole.data

    @property
    def grad(self):
        self.slot = self._scratch()
        return self.slot if self.desk.member.rank else self.whole.grad

    def _scratch(self):
        return self.desk.member.scratch(self.data.shape, self.data.dtype)

    def write_grad(self, grad):
        if self.slot is None:
            self.slot = self._scratch()
        if not self.desk.member.rank:
            self.whole.write_grad(grad)
        elif self.slot is None:
            self.slot = grad
        elif grad is not self.slot:
            self.slot[...] = grad
        self.desk.grads.append((self.whole, self.slot))
        self.slot = None


class _Desk:
    """Where a member leaves its gradients until the others come by: each then adds up an equal run of every one.

    So the sum is taken while the numbers are still in the cache, and by all.
    """

    def __init__(self, member: Member):
        self.member, self.grads = member, []
        self.images: list[int] = []  # of each member's part

    def meet(self, array) -> list:
        """Every member's array; on the way, what lies on the desks is added up."""
        member, grads, self.grads = self.member, self.grads, []
        arrays, slots = member.meet(array, [slot for _, slot in grads])
        for (whole, _), *others in zip(grads, *slots[1:], strict=True):
            total = whole.grad.reshape(-1)
            run = slice(*(total.size * rank // member.size for rank in (member.rank, member.rank + 1)))
            for other in others:
                total[run] += other.reshape(-1)[run]
        return arrays


class SharedNorm(Module):
    """Batch normalisation over all parts of a batch, then the residual add and ReLU if asked for.

    `bias` is that of the convolution before it, which was left out: the mean takes it away again, so it
    moves the running mean and nothing else, and its gradient is zero.
    """

    def __init__(self, norm: BatchNorm, desk: _Desk, relu: bool, bias: Param | None):
        super().__init__(norm.name)
        self.norm, self.desk, self.member, self.relu, self.bias = norm, desk, desk.member, relu, bias
        self.tracks = True

    def forward(self, x, shortcut=None):
        norm = self.norm
        mean, rstd, m = self._statistics(x, *fused_ops.statistics(x))
        x, mean = fused_ops.centre(x, mean, rstd)
        y = fused_ops.norm_add_relu_forward(x, norm.gamma.data, norm.beta.data, mean, rstd, shortcut, self.relu)
        self.save(x, y, mean, rstd, m, shortcut is not None)
        return y

    def _statistics(self, x, mean, var):
        """Mean, 1 / deviation and count over all parts: the parts' means and squared deviations add up as in
        T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance", 1983, equation 1.3."""
        norm, images = self.norm, self.desk.images
        m = x.size // (len(x) * x.shape[-1]) * sum(images)
        share = np.array(images, x.dtype) / sum(images)
        means, var = np.stack(self.desk.meet(np.stack((mean, var))), axis=1)  # (members, C) each
        mean = share @ means
        var = share @ (var + (means - mean) ** 2)
        if self.member.rank == 0 and self.tracks:
            norm._update_running(mean if self.bias is None else mean + self.bias.data, var, m)
        return mean, 1 / np.sqrt(var + norm.epsilon), m

    def backward(self, dy, need_dx=True):
        return self.backward_both(dy)[0]

    def backward_both(self, dy):
        """(dx, dshortcut)."""
        x, y, mean, rstd, m, added = self.saved()
        norm = self.norm
        g, dgamma, dbeta = fused_ops.norm_add_relu_sums(dy, x, y, mean, rstd, self.relu)
        dgamma, dbeta = self._sums(dgamma, dbeta)
        out = g if self.relu and not added else None  # g is then ours, and nobody asks for it
        return fused_ops.norm_add_relu_backward(g, x, norm.gamma.data, mean, rstd, dgamma, dbeta, m, out), g

    def _sums(self, dgamma, dbeta):
        """The gradients of gamma and beta over all parts."""
        first, *others = self.desk.meet(np.stack((dgamma, dbeta)))
        dgamma, dbeta = sum(others, start=first)
        if self.member.rank == 0:
            self.norm.gamma.write_grad(dgamma)
            self.norm.beta.write_grad(dbeta)
        return dgamma, dbeta


class PlainSharedNorm(SharedNorm):
    """The same, batch normalisation alone, by the plain ops."""

    def forward(self, x):
        mean, rstd, m = self._statistics(x, *ops.batchnorm_statistics(x))
        self.save(x, mean, rstd, m)
        return ops.batchnorm_forward(x, self.norm.gamma.data, self.norm.beta.data, mean, rstd)

    def backward(self, dy, need_dx=True):
        x, mean, rstd, m = self.saved()
        sums = self._sums(*batchnorm_sums(dy, x, mean, rstd))
        return batchnorm_dx(dy, x, self.norm.gamma.data, mean, rstd, *sums, m)


class _Copier(Rewriter):
    """Makes one member's copy of a network."""

    def __init__(self, member: Member, kernels: Kernels, recompute: bool):
        self.desk, self.kernels, self.recompute = _Desk(member), kernels, recompute
        self.used: list[Param] = []

    def param(self, param):
        self.used.append(param)
        return _Part(param, self.desk)

    def layer(self, module):
        if not isinstance(module, Conv2d):
            return super().layer(module)
        b = None if module.b is None else self.param(module.b)
        return FastConv(module, self.param(module.w), b, self.kernels)

    def normalised(self, conv, norm, relu):
        self.used += norm.params()
        bias = None
        if conv is not None:
            conv, bias = copy.copy(conv), conv.b
            conv.b = None
        shared = SharedNorm(norm, self.desk, relu, bias)
        return [shared] if conv is None else [self.layer(conv), shared]


class _PlainCopier(LayerByLayer, _Copier):
    """The same with every layer as it is, but for what the parts of a batch share."""

    def layer(self, module):
        if not isinstance(module, BatchNorm):
            return Rewriter.layer(self, module)
        self.used += module.params()
        return PlainSharedNorm(module, self.desk, False, None)


class Part:
    """One member's share of a network: its layers, where it lives."""

    def __init__(self, member: Member, body: list[Module], kernels: Kernels, fused: bool, recompute: bool):
        copier = (_Copier if fused else _PlainCopier)(member, kernels, recompute)
        self.body = FusedSequential(*map(copier.copy, body))
        self.member, self.desk, self.kernels = member, copier.desk, kernels
        self.used = {param.name for param in copier.used}

    def forward(self, x, turn: int, images: list[int]):
        """The outputs of all parts of the batch; images: how many each has."""
        self.desk.images = images
        self.desk.grads = []  # of a step that was broken off
        self.kernels.renew(turn, self.member)
        return self.member.gather(self.body.forward(x))

    def agree(self, kernels: dict):
        """Make transformed kernels in these arrays from now on, together with the other members."""
        self.kernels.agreed, self.kernels.made = kernels, {}
        give_back_freed_memory()

    def backward(self, dy):
        self.body.backward(dy, need_dx=False)
        self.desk.meet(np.zeros(1, dy.dtype))


class Parallel:
    """`model` on a team: forward and backward in training mode; its parameters' gradients are those of the batch.

        with Team(2) as team:
            fast = Parallel(model, team)
            fast.backward(dlogits_of(fast.forward(x)))

    fused: False takes the layers one after the other, with the plain ops. recompute: blocks keep their input alone and
    are computed again on the way back (nn/recompute.py).
    Make it anew after `.to` or `.astype`, and after the optimiser. A convolution's bias before a normalisation gets the
    gradient that it has in exact arithmetic, zero, where the plain layers get what rounding leaves.
    """

    def __init__(self, model, team, *, fused: bool = True, recompute: bool = False):
        self.team, self.turn = team, 0
        team.adopt(model.params())
        model.release()
        body = [m for m in model.layers if isinstance(m, Sequential)]
        self.head = Sequential(*model.layers[len(body) :])
        self.crew = team.assemble(Part, body, Kernels(), fused, recompute)
        params = [p for m in body for p in m.params()]
        self.idle = [p for p in params if p.name not in self.crew.mine.used]
        self.data = [(p, p.data) for p in params]

    @staticmethod
    def fits(model) -> bool:
        """Whether this is a network of stages, as the ResNets are, with no layer of the user's own."""
        return isinstance(model, Sequential) and isinstance(model.layers[0], Sequential) and rewritable(model)

    def forward(self, x):
        """Logits (N, K)."""
        if any(p.data is not data for p, data in self.data):
            raise StateError("the model was moved or converted after it was put on a team: do so again")
        self.turn += 1
        if self.turn == 2:  # the first step has shown which are needed
            made = self.crew.mine.kernels.made
            agreed = {key: self.team.empty(U.shape, U.dtype) for key, U in made.items()}
            self.crew.call("agree", [(agreed,)] * self.team.size)
        self.spans = spans(len(x), self.team.size)
        images = [span.stop - span.start for span in self.spans]
        outputs = self.crew.call("forward", [(x[span], self.turn, images) for span in self.spans])
        return self.head.forward(np.concatenate(outputs))

    def backward(self, dy, need_dx=False):
        """Write every parameter's gradient; there is none for the images."""
        dy = self.head.backward(dy)
        self.crew.call("backward", [(dy[span],) for span in self.spans])
        for param in self.idle:
            param.write_grad(np.zeros_like(param.data))
