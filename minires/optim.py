"""Optimisers over one flat buffer.

All parameters become views into one array, all gradients into another, the state into a third: a step is a
few passes over long rows instead of hundreds of small ones, and the norm, the clipping or a check for NaN is
one line. In each group, parameters with weight decay come first in the buffer, so that decay is a slice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minires.backend import Array, device_of, get_xp, row_chunks, to_numpy
from minires.errors import CheckpointError, ConfigError, StateError
from minires.fast import communicator
from minires.fast.dispatch import compiled
from minires.nn.module import Param
from minires.ranges import check


@dataclass
class Group:
    """Parameters with settings of their own, a stretch of the buffer.

    lr_scale: factor of the rate that `step` is given. weight_decay: None for the optimiser's.
    began: steps that the optimiser took before the first of this group; Adam's corrections count from there.
    """

    params: list[Param]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    began: int = 0
    span = decayed = slice(0)  # in the buffer: all of it, and what decays

    def __post_init__(self):
        check(lr_scale=self.lr_scale, **({} if self.weight_decay is None else {"weight_decay": self.weight_decay}))


def _groups(params) -> list[Group]:
    """Of `Optimizer`'s argument, without what is frozen; none is empty, and no parameter is in two."""
    params = list(params)
    try:
        by_group = bool(params) and isinstance(params[0], dict)
        groups = [Group(**group) for group in params] if by_group else [Group(params)]
    except TypeError as error:
        raise ConfigError(f"a group of parameters: {error}: it has params, lr_scale, weight_decay, began") from None
    for group in groups:
        group.params = [p for p in group.params if p.trainable]
    held = [p for group in groups for p in group.params]
    if not held:
        raise StateError("an optimiser needs at least one parameter that is not frozen")
    if len({id(p) for p in held}) < len(held):
        name = next(p.name for i, p in enumerate(held) if any(p is other for other in held[:i]))
        raise ConfigError(f"{name} is in two groups of parameters: put it into one")
    return [group for group in groups if group.params]


class Optimizer:
    """Base: flat buffers, weight decay, clipping. Subclasses name their `slots` and update one piece.

    params: `model.params()`; the model's arrays are rebound, so make the optimiser after `.to` or `.astype`. Or a
        list of groups, {"params": [...], "lr_scale": 0.1, "weight_decay": 0}, see Group. What is frozen is left out.
    weight_decay: L2 strength; it spares batch normalisation and biases unless `decay_all`.
    clip_norm: the largest norm of the whole gradient, to which a larger one is scaled down, or None.
    ConfigError for a number outside its range (ranges.py) or a parameter in two groups, StateError for no parameter.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self,
        params: list[Param] | list[dict],
        *,
        weight_decay: float = 0.0,
        decay_all: bool = False,
        clip_norm: float | None = None,
    ):
        check(weight_decay=weight_decay, **({} if clip_norm is None else {"clip_norm": clip_norm}))
        self.weight_decay, self.clip_norm = weight_decay, clip_norm
        self.groups, self.params, size = _groups(params), [], 0
        for group in self.groups:
            group.params = sorted(group.params, key=lambda p: not (p.decay or decay_all))
            decayed = sum(p.data.size for p in group.params if p.decay or decay_all)
            whole = sum(p.data.size for p in group.params)
            group.span, group.decayed = slice(size, size + whole), slice(size, size + decayed)
            self.params, size = self.params + group.params, size + whole
        xp, dtype = get_xp(self.params[0].data), self.params[0].data.dtype
        self.weights, self.grads = xp.empty(size, dtype), xp.zeros(size, dtype)
        self.state = {slot: xp.zeros(size, dtype) for slot in self.slots}
        self.parts = [slice(0, size)]  # of the buffer, a rank each, where its state is shared
        self.part, self.steps = self.parts[0], 0
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

    def share_state(self) -> None:
        """From now on each rank keeps the state of its part of the buffer, updates that, and gets the others' weights.

        Before the first step. S. Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 5.1 (stage 1).
        """
        size, self.ranks = self.weights.size, communicator.current()
        self.parts = communicator.shares(size)
        self.part = communicator.share(size)
        self.state = {slot: array[self.part].copy() for slot, array in self.state.items()}

    def move_to(self, memory: Callable) -> bool:
        """Keep weights and gradients in memory(size, dtype) each, unless one is None: whether they are there."""
        if device_of(self.weights) != "cpu":
            return False
        arrays = self.weights, self.grads
        places = [memory(array.size, array.dtype) for array in arrays]
        if any(place is None for place in places):
            return False
        for place, array in zip(places, arrays, strict=True):
            place[...] = array
        self.weights, self.grads = places
        self._bind()
        return True

    def check(self) -> None:
        """StateError where the parameters are no longer views of the buffer."""
        if any(p.data is not view for p, view in zip(self.params, self._views, strict=True)):
            raise StateError("the model was moved or converted after its optimiser was made: make a new optimiser")

    def step(self, lr: float) -> Array:
        """Update every parameter from its gradient, at the rate `lr` times its group's `lr_scale`.

        Returns the norm of the whole gradient before clipping (0-d array).
        """
        self.check()
        self.steps += 1
        xp = get_xp(self.grads)
        squares, scale = square_sum(self.grads[self.part]), 1.0
        norm = xp.sqrt(self.ranks.all_reduce(xp.asarray(squares)) if len(self.parts) > 1 else squares)
        if self.clip_norm is not None:
            scale = xp.minimum(1, self.clip_norm / (norm + 1e-12)).astype(self.grads.dtype)
        for group in self.groups:
            rates = {"lr": lr * group.lr_scale, "scale": scale, "steps": self.steps - group.began}
            rest = slice(group.decayed.stop, group.span.stop)
            for span, decay in ((group.decayed, self.decay_of(group)), (rest, 0.0)):
                span = communicator.overlap(span, self.part)
                if span.start < span.stop:
                    here = slice(span.start - self.part.start, span.stop - self.part.start)
                    state = {slot: array[here] for slot, array in self.state.items()}
                    self.update(self.weights[span], self.grads[span], state, decay=decay, **rates)
        if len(self.parts) > 1:
            self.ranks.all_gather_into(self.weights, self.parts)
        return norm

    def decay_of(self, group: Group) -> float:
        """The group's weight decay."""
        return self.weight_decay if group.weight_decay is None else group.weight_decay

    def update(
        self, w: Array, grad: Array, state: dict[str, Array], *, lr: float, decay: float, scale: float, steps: int
    ) -> None:
        """Change `w`, a run of the buffer, and its `state` in place, from `grad` * `scale`; `grad` is not written.

        steps: how many it has taken, this one included.
        """
        raise NotImplementedError

    def take_over(self, other: "Optimizer") -> None:
        """Go on where `other`, of the same kind, stands: its steps, and its state of the parameters that both hold."""
        self.steps = other.steps
        theirs = {id(p): span for p, span in other._spans()}
        before, whole = other._whole_state(), self._whole_state()
        for p, span in self._spans():
            if id(p) in theirs:
                for slot, array in whole.items():
                    array[span] = before[slot][theirs[id(p)]]
        self._keep(whole)

    def _whole_state(self) -> dict:
        """Slot -> array as long as the buffer; of a state that is shared a copy, and all ranks ask for it together."""
        if len(self.parts) == 1:
            return self.state
        whole = {slot: get_xp(array).zeros_like(self.weights) for slot, array in self.state.items()}
        for slot, array in whole.items():
            array[self.part] = self.state[slot]
            self.ranks.all_gather_into(array, self.parts)
        return whole

    def _keep(self, whole: dict) -> None:
        """Of arrays as long as the buffer, what this rank keeps."""
        for slot, array in self.state.items():
            array[...] = get_xp(array).asarray(whole[slot][self.part])

    def named_state(self) -> dict:
        """Name -> NumPy array of every slot, for a checkpoint; the order is that of the buffer."""
        return {slot: to_numpy(array) for slot, array in self._whole_state().items()}

    def load_state(self, state: dict, steps: int) -> None:
        """Take up the state of `named_state`; CheckpointError where it does not fit."""
        for slot in self.slots:
            if slot not in state or state[slot].shape != self.weights.shape:
                have = {k: v.shape for k, v in state.items()}
                raise CheckpointError(f"optimiser state: expected {slot} {self.weights.shape}, got {have or 'none'}")
        self._keep(state)
        self.steps = steps


@compiled
def square_sum(g: Array) -> Array:
    """The sum of all squares."""
    return sum(g[i] @ g[i] for i in row_chunks(len(g), 1, g))


@compiled
def sgd_update(
    w: Array,
    g: Array,
    velocity: Array,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    decay: float,
    scale: float | Array,
) -> None:
    """The update of `SGD`, of w and velocity in place, from g * scale."""
    for i in row_chunks(len(w), 1, w):
        part, v = g[i] * scale, velocity[i]
        if decay:
            part += decay * w[i]
        v *= momentum
        v += part
        w[i] -= lr * (part + momentum * v if nesterov else v)


@compiled
def adam_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    steps: int,
    decay: float,
    decoupled: bool,
    scale: float | Array,
) -> None:
    """The update of `Adam` after so many `steps`, of w, m and v in place, from g * scale."""
    (b1, b2), correction = betas, (1 - betas[1] ** steps) ** 0.5  # in the order of the paper's section 2: a pass less
    for i in row_chunks(len(w), 1, w):
        part = g[i] * scale
        if decay and decoupled:
            w[i] *= 1 - lr * decay
        elif decay:
            part += decay * w[i]
        m[i] *= b1
        m[i] += (1 - b1) * part
        v[i] *= b2
        v[i] += (1 - b2) * part * part
        w[i] -= lr * correction / (1 - b1**steps) * m[i] / (get_xp(w).sqrt(v[i]) + epsilon * correction)


class SGD(Optimizer):
    """v <- momentum * v + g + decay * w;  w <- w - lr * v, or w - lr * (g + decay * w + momentum * v) with Nesterov.

    B. Polyak, 1964; Y. Nesterov, 1983, in the form of I. Sutskever et al., ICML 2013, as PyTorch writes it.

    >>> layer = minires.Dense("fc", 2, 1, bias=False)
    >>> optimizer = minires.SGD(layer.params(), momentum=0.0)
    >>> layer.w.data[:] = 1.0
    >>> layer.w.write_grad(numpy.ones((2, 1), "float32"))
    >>> norm = optimizer.step(lr=0.5)
    >>> layer.w.data.ravel().tolist()
    [0.5, 0.5]
    """

    slots = ("velocity",)

    def __init__(
        self, params: list[Param] | list[dict], *, momentum: float = 0.9, nesterov: bool = False, **options: Any
    ):
        check(momentum=momentum)
        super().__init__(params, **options)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, w: Array, grad: Array, state: dict[str, Array], *, steps: int, **rates: Any) -> None:
        sgd_update(w, grad, state["velocity"], momentum=self.momentum, nesterov=self.nesterov, **rates)


class Adam(Optimizer):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  w <- w - lr * m_hat / (sqrt(v_hat) + epsilon).

    m_hat = m / (1 - b1^t), v_hat = v / (1 - b2^t) after t steps. Weight decay is added to g (L2).
    D. Kingma, J. Ba, arXiv:1412.6980, algorithm 1.
    """

    slots = ("m", "v")
    decoupled = False

    def __init__(
        self,
        params: list[Param] | list[dict],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        **options: Any,
    ):
        check(betas=betas, epsilon=epsilon)
        super().__init__(params, **options)
        self.betas, self.epsilon = betas, epsilon

    def update(self, w: Array, grad: Array, state: dict[str, Array], **rates: Any) -> None:
        settings = {"betas": self.betas, "epsilon": self.epsilon, "decoupled": self.decoupled}
        adam_update(w, grad, state["m"], state["v"], **settings, **rates)


class AdamW(Adam):
    """Adam with decoupled weight decay: w <- w * (1 - lr * decay). I. Loshchilov, F. Hutter, arXiv:1711.05101.

    >>> model = minires.resnet("resnet8", (16, 16, 3), 6)
    >>> optimizer = minires.AdamW(model.params(), weight_decay=0.05)
    >>> with minires.make_step(model, optimizer) as step:
    ...     loss, right, norm = step(numpy.zeros((4, 16, 16, 3), "float32"), numpy.arange(4), lr=1e-3)
    >>> optimizer.steps
    1
    """

    decoupled = True


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
