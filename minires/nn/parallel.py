"""Training one network on a team of threads: each takes a part of the batch through layers of its own.

The copies share parameters and buffers with the network they were made from. They meet once in the forward
and once in the backward pass of every batch normalisation, whose statistics are those of the whole batch, so
the result is that of the network alone, up to the order of summation. Batch normalisation, the residual add
and ReLU are one walk over memory (ops/fused.py). The classifier's few layers run as they are.
"""

import copy

from minires.backend import get_xp
from minires.nn.fastconv import FastConv, Kernel
from minires.nn.fuse import FusedSequential, Rewriter, rewritable
from minires.nn.layers import BatchNorm, Conv2d
from minires.nn.module import Module, Param, Sequential
from minires.ops import fused
from minires.team import Member, Team, spans, sums


class _Part(Param):
    """One member's share in a parameter: the same data; the gradient of its own part of the batch.

    The first member writes into the whole's gradient, the others' arrays are added to it at the next meeting.
    """

    def __init__(self, whole: Param, desk: "_Desk"):
        self.whole, self.desk = whole, desk

    @property
    def data(self):
        return self.whole.data

    @property
    def grad(self):
        return None if self.desk.member.rank else self.whole.grad

    def write_grad(self, grad):
        if not self.desk.member.rank:
            self.whole.write_grad(grad)
            grad = self.whole.grad
        self.desk.grads.append(grad)


class _Desk:
    """Where a member leaves its gradients until the others come by: each then adds up an equal run of every one.

    So the sum is taken while the numbers are still in the cache, and by all.
    """

    def __init__(self, member: Member):
        self.member, self.grads = member, []

    def meet(self, *arrays) -> list:
        """The sums of the given arrays over the members; on the way, what lies on the desks is added up."""
        member, grads, self.grads = self.member, self.grads, []
        arrays, desks = zip(*member.gather((arrays, grads)), strict=True)
        for first, *others in zip(*desks, strict=True):
            run = slice(*(first.size * rank // member.size for rank in (member.rank, member.rank + 1)))
            for grad in others:
                first.reshape(-1)[run] += grad.reshape(-1)[run]
        return sums(arrays)


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
        mean, var, m = self._statistics(x)
        if self.member.rank == 0 and self.tracks:
            norm._update_running(mean if self.bias is None else mean + self.bias.data, var, m)
        rstd = 1 / get_xp(x).sqrt(var + norm.epsilon)
        x, mean = fused.centre(x, mean, rstd)
        y = fused.norm_add_relu_forward(x, norm.gamma.data, norm.beta.data, mean, rstd, shortcut, self.relu)
        self.save(x, y, mean, rstd, m, shortcut is not None)
        return y

    def _statistics(self, x):
        """Mean, variance and count over all parts: the parts' means and squared deviations add up as in
        T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance", 1983, equation 1.3."""
        parts = self.member.gather((x.size // x.shape[-1], *fused.statistics(x)))
        m = sum(count for count, _, _ in parts)
        mean = sum(count / m * part for count, part, _ in parts)
        return mean, sum(count / m * (var + (part - mean) ** 2) for count, part, var in parts), m

    def backward(self, dy, need_dx=True):
        return self.backward_both(dy)[0]

    def backward_both(self, dy):
        """(dx, dshortcut)."""
        x, y, mean, rstd, m, added = self.saved()
        norm = self.norm
        g, dgamma, dbeta = fused.norm_add_relu_sums(dy, x, y, mean, rstd, self.relu)
        dgamma, dbeta = self.desk.meet(dgamma, dbeta)
        if self.member.rank == 0:
            norm.gamma.write_grad(dgamma)
            norm.beta.write_grad(dbeta)
        out = g if self.relu and not added else None  # g is then ours, and nobody asks for it
        return fused.norm_add_relu_backward(g, x, norm.gamma.data, mean, rstd, dgamma, dbeta, m, out), g


class _Copier(Rewriter):
    """Makes one member's copy of a network."""

    def __init__(self, member: Member, kernels: dict, recompute: bool):
        self.desk, self.kernels, self.recompute = _Desk(member), kernels, recompute
        self.used: list[Param] = []

    def param(self, param):
        self.used.append(param)
        return _Part(param, self.desk)

    def layer(self, module):
        if not isinstance(module, Conv2d):
            return super().layer(module)
        kernel = self.kernels.setdefault(module.w.name, Kernel(module.w))
        b = None if module.b is None else self.param(module.b)
        return FastConv(module, self.param(module.w), b, kernel)

    def normalised(self, conv, norm, relu):
        self.used += norm.params()
        bias = None
        if conv is not None:
            conv, bias = copy.copy(conv), conv.b
            conv.b = None
        shared = SharedNorm(norm, self.desk, relu, bias)
        return [shared] if conv is None else [self.layer(conv), shared]


class Parallel:
    """`model` on a team: forward and backward in training mode; its parameters' gradients are those of the batch.

        with Team(2) as team:
            fast = Parallel(model, team)
            fast.backward(dlogits_of(fast.forward(x)))

    recompute: blocks keep their input alone and are computed again on the way back (nn/recompute.py).
    Make it anew after `.to` or `.astype`. A convolution's bias before a normalisation gets the gradient that
    it has in exact arithmetic, zero, where the plain layers get what rounding leaves.
    """

    def __init__(self, model, team: Team, *, recompute: bool = False):
        self.team = team
        body = [m for m in model.layers if isinstance(m, Sequential)]
        self.head = Sequential(*model.layers[len(body) :])
        self.kernels = {}
        copiers = [_Copier(member, self.kernels, recompute) for member in team.members]
        self.bodies = [FusedSequential(*map(copier.copy, body)) for copier in copiers]
        self.desks = [copier.desk for copier in copiers]
        used = {param.name for param in copiers[0].used}
        self.idle = [p for m in body for p in m.params() if p.name not in used]

    @staticmethod
    def fits(model) -> bool:
        """Whether this is a network of stages, as the ResNets are, with no layer of the user's own."""
        return isinstance(model, Sequential) and isinstance(model.layers[0], Sequential) and rewritable(model)

    @property
    def kernel_bytes(self) -> int:
        """What the transformed kernels take, from a forward pass to the next one."""
        return sum(kernel.nbytes for kernel in self.kernels.values())

    def forward(self, x):
        """Logits (N, K)."""
        for kernel in self.kernels.values():
            kernel.forget()
        for desk in self.desks:
            desk.grads = []  # of a step that was broken off
        self.spans = spans(len(x), self.team.size)
        outputs = self.team.run(lambda m: self.bodies[m.rank].forward(x[self.spans[m.rank]]), len(self.spans))
        return self.head.forward(get_xp(x).concatenate(outputs))

    def backward(self, dy, need_dx=False):
        """Write every parameter's gradient; there is none for the images."""
        dy = self.head.backward(dy)

        def work(member):
            self.bodies[member.rank].backward(dy[self.spans[member.rank]], need_dx=False)
            self.desks[member.rank].meet()

        self.team.run(work, len(self.spans))
        for param in self.idle:
            param.write_grad(get_xp(param.data).zeros_like(param.data))
