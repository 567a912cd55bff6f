"""Optimisers over one flat buffer.

All parameters become views into one array, all gradients into another, the state into a third: a step is a
few passes over long rows instead of hundreds of small ones, and the norm, the clipping or a check for NaN is
one line. Parameters with weight decay come first in the buffer, so that decay is a slice.
"""

from itertools import zip_longest

from minires.backend import get_xp, row_chunks, to_numpy
from minires.errors import CheckpointError, StateError
from minires.nn.module import Param
from minires.team import Member


class Optimizer:
    """Base: flat buffers, weight decay, clipping. Subclasses name their `slots` and update one piece.

    params: `model.params()`; the model's arrays are rebound, so make the optimiser after `.to` or `.astype`.
    weight_decay: L2 strength; it spares batch normalisation and biases unless `decay_all`.
    clip_norm: the largest norm of the whole gradient, to which a larger one is scaled down, or None.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, params: list[Param], *, weight_decay=0.0, decay_all=False, clip_norm=None):
        if not params:
            raise StateError("an optimiser needs at least one parameter")
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.params = sorted(params, key=lambda p: not (p.decay or decay_all))
        xp, dtype = get_xp(self.params[0].data), self.params[0].data.dtype
        size = sum(p.data.size for p in self.params)
        self.decayed = sum(p.data.size for p in self.params if p.decay or decay_all)
        self.weights, self.grads = xp.empty(size, dtype), xp.zeros(size, dtype)
        self.state = {slot: xp.zeros(size, dtype) for slot in self.slots}
        self.steps = 0
        for p, span in self._spans():
            self.weights[span] = p.data.ravel()
            if p.grad is not None:
                self.grads[span] = p.grad.ravel()
        self._bind()

    def _spans(self):
        start = 0
        for p in self.params:
            span = slice(start, start + p.data.size)
            yield p, span
            start = span.stop

    def _bind(self):
        """Make the parameters views of the buffers."""
        self._views = []
        for p, span in self._spans():
            p.grad = self.grads[span].reshape(p.data.shape)
            p.data = self.weights[span].reshape(p.data.shape)
            self._views.append(p.data)

    def move(self, empty):
        """Take buffers of empty(size, dtype), with what is in them now."""
        self.check()

        def moved(old):
            new = empty(old.size, old.dtype)
            new[...] = old
            return new

        self.weights, self.grads = moved(self.weights), moved(self.grads)
        self._bind()
        for slot in self.slots:
            self.state[slot] = moved(self.state[slot])

    def _pieces(self):
        """(piece of the buffers, its weight decay), a few hundred thousand numbers each."""
        for start, stop, decay in ((0, self.decayed, self.weight_decay), (self.decayed, len(self.weights), 0.0)):
            for chunk in row_chunks(stop - start, 1, self.weights):
                yield slice(start + chunk.start, start + chunk.stop), decay

    def check(self) -> None:
        """StateError where the parameters are no longer views of the buffer."""
        if any(p.data is not view for p, view in zip(self.params, self._views, strict=True)):
            raise StateError("the model was moved or converted after its optimiser was made: make a new optimiser")

    def step(self, lr: float):
        """Update every parameter from its gradient; returns the gradient's norm before clipping (0-d array)."""
        self.begin()
        return self.step_share(lr, Member(0, 1))

    def begin(self):
        """Count a step."""
        self.check()
        self.steps += 1

    def step_share(self, lr: float, member: Member):
        """One member's share of `step`, after `begin`: every so-manieth piece; all members of a team call it."""
        pieces = list(self._pieces())[member.rank :: member.size]
        squares = member.gather([self.grads[span] @ self.grads[span] for span, _ in pieces])
        norm = get_xp(self.grads).sqrt(sum(s for row in zip_longest(*squares, fillvalue=0) for s in row))
        scale = None
        if self.clip_norm is not None:
            scale = get_xp(norm).minimum(1, self.clip_norm / (norm + 1e-12)).astype(self.grads.dtype)
        for span, decay in pieces:
            grad = self.grads[span] if scale is None else self.grads[span] * scale
            self.update(self.weights[span], grad, {k: v[span] for k, v in self.state.items()}, lr, decay)
        return norm

    def update(self, w, grad, state, lr, decay):
        """Change the piece `w` in place. `grad` must not be written; `state` may."""
        raise NotImplementedError

    def named_state(self) -> dict:
        """Name -> NumPy array of every slot, for a checkpoint; the order is that of the buffer."""
        return {slot: to_numpy(array) for slot, array in self.state.items()}

    def load_state(self, state: dict, steps: int) -> None:
        """Take up the state of `named_state`; CheckpointError where it does not fit."""
        for slot, array in self.state.items():
            if slot not in state or state[slot].shape != array.shape:
                have = {k: v.shape for k, v in state.items()}
                raise CheckpointError(f"optimiser state: expected {slot} {array.shape}, got {have or 'none'}")
            array[...] = get_xp(array).asarray(state[slot])
        self.steps = steps


class SGD(Optimizer):
    """v <- momentum * v + g + decay * w;  w <- w - lr * v, or w - lr * (g + decay * w + momentum * v) with Nesterov.

    B. Polyak, 1964; Y. Nesterov, 1983, in the form of I. Sutskever et al., ICML 2013, as PyTorch writes it.
    """

    slots = ("velocity",)

    def __init__(self, params, *, momentum=0.9, nesterov=False, **options):
        super().__init__(params, **options)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, w, grad, state, lr, decay):
        v = state["velocity"]
        if decay:
            grad = grad + decay * w
        v *= self.momentum
        v += grad
        w -= lr * (grad + self.momentum * v if self.nesterov else v)


class Adam(Optimizer):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr * m_hat / (sqrt(v_hat) + epsilon).

    m_hat = m / (1 - b1^t), v_hat = v / (1 - b2^t) after t steps. Weight decay is added to g (L2).
    D. Kingma, J. Ba, arXiv:1412.6980, algorithm 1.
    """

    slots = ("m", "v")
    decoupled = False

    def __init__(self, params, *, betas=(0.9, 0.999), epsilon=1e-8, **options):
        super().__init__(params, **options)
        self.betas, self.epsilon = betas, epsilon

    def update(self, w, grad, state, lr, decay):
        xp = get_xp(w)
        (b1, b2), m, v = self.betas, state["m"], state["v"]
        if decay and self.decoupled:
            w *= 1 - lr * decay
        elif decay:
            grad = grad + decay * w
        m *= b1
        m += (1 - b1) * grad
        v *= b2
        square = grad * grad
        square *= 1 - b2
        v += square
        correction = (1 - b2**self.steps) ** 0.5  # in the order of section 2: a pass less
        root = xp.sqrt(v, out=square)
        root += self.epsilon * correction
        update = xp.divide(m, root, out=root)
        update *= lr * correction / (1 - b1**self.steps)
        w -= update


class AdamW(Adam):
    """Adam with decoupled weight decay: w <- w * (1 - lr * decay). I. Loshchilov, F. Hutter, arXiv:1711.05101."""

    decoupled = True


class Update:
    """One member's share of an optimiser's work, for `assemble`: `call("run", [(lr, steps)] * size)` after `begin`."""

    def __init__(self, member: Member, optimizer: Optimizer):
        self.member, self.optimizer = member, optimizer

    def run(self, lr: float, steps: int):
        self.optimizer.steps = steps
        return self.optimizer.step_share(lr, self.member)


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
