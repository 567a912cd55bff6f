"""A gradient check that explains itself.

    report = gradcheck(model, x)
    report.ok, report.table(), report.findings

L = <forward(x), dy> for a random dy. For the input and for every parameter, the analytic slope <dL/dt, d> along
a random direction d, and at single coordinates, is held against the central difference
(L(t + e d) - L(t - e d)) / 2e in float64, whose error is of order e^2 (curvature) and 1e-16 / e (round-off).

Where the two differ, the check looks for the reason before it blames backward: another epsilon, a ReLU or a
pool that the stencil's ends see from two sides. What is left is a fault, and the report names the innermost
layer in which it arises, the index, both values, and the mistake that explains them (causes.py).
Everything happens on a copy on the CPU; the module given is left as it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minires.backend import Array, blas_threads
from minires.errors import ConfigError, StateError
from minires.instruments.gradcheck.again import left_from_before
from minires.instruments.gradcheck.functions import make_subject
from minires.instruments.gradcheck.locate import faults, locate, without_numbers
from minires.instruments.gradcheck.notes import sharp
from minires.instruments.gradcheck.report import Check, Report, Sweep
from minires.instruments.gradcheck.shapes import explain_shape
from minires.instruments.gradcheck.stencil import Checker
from minires.instruments.gradcheck.subject import FLOAT32
from minires.instruments.guard import owned
from minires.nn import Module, Network, resnet

__all__ = ["Check", "Report", "Sweep", "epsilon_sweep", "gradcheck", "gradcheck_model"]


def gradcheck(
    target: Module | tuple[Callable, Callable],
    x: Array | tuple | dict,
    *,
    dy: Array | None = None,
    epsilon: float = 1e-6,
    tolerance: float = 1e-6,
    coordinates: int = 4,
    training: bool | None = None,
    dtype: DTypeLike | None = np.float64,
    hold: bool = False,
    layers: bool = False,
    seed: int = 0,
    title: str | None = None,
) -> Report:
    """Check the gradients of a Module, or of a pair of functions (forward, backward), at x.

    x         an array; a tuple or a dict by name where there are several. For functions: forward(*arrays) -> y
              and backward(dy, *arrays) -> the gradients in the same order (None: not differentiated)
    dy        the gradient that arrives, of y's shape; random by default
    training  the mode for the check; None keeps the modules' own
    dtype     None keeps that of x and the weights (float32 is then named for what it is)
    hold      let every ReLU and max pool keep the side that it has at x, in place of the usual way, which is
              to do so only where a stencil crosses a kink. The derivative at x is the same; large networks,
              in which every stencil crosses some, are checked to many digits in half the time
    layers    also check each layer by itself, on the input and the gradient that it meets in the network

    Before a gradient is judged, forward has to be finite, a function, and backward has to hand back an array of each
    input's shape; where one is not so, the report has no checks, and a finding that names the layer.

    Raises ConfigError for an epsilon that is not positive or a layer that is none, ShapeError and StateError, naming
    the layer, where forward does not run or a layer raises them.

    >>> layer = minires.Dense("fc", 3, 2)
    >>> minires.gradcheck(layer, numpy.ones((4, 3))).ok
    True
    >>> wrong = lambda x: x**3, lambda dy, x: 2 * dy * x**2  # 3 is right
    >>> report = minires.gradcheck(wrong, numpy.ones((2, 2)))
    >>> report.ok
    False
    """
    if not epsilon > 0:
        raise ConfigError(f"gradcheck: epsilon must be positive, got {epsilon}: 1e-6 suits float64")
    with owned("gradcheck"):
        subject = make_subject(target, x, dy=dy, dtype=dtype, training=training, seed=seed)
        title = title or subject.title
        if subject.stopped:
            told = (*subject.notes[:-1], explain_shape(subject) or subject.notes[-1])
            return Report(title, subject.mode, epsilon, tolerance, (), told)
        if subject.y.dtype == np.float32:
            epsilon, tolerance = max(epsilon, FLOAT32["epsilon"]), max(tolerance, FLOAT32["tolerance"])
        checker = Checker(subject, epsilon, tolerance, hold, seed)
        findings, count = _judged(subject, checker, coordinates, layers, seed)
    return Report(title, subject.mode, epsilon, tolerance, tuple(checker.checks), findings, count if layers else 0)


def _judged(subject, checker, coordinates, layers, seed):
    """(the findings, how many layers were checked one by one); the stencils are the checker's."""
    missing = without_numbers(subject)
    for name in subject.tensors:
        if name not in missing:
            checker.check_tensor(name, coordinates)
    wrong = [c for c in checker.checks if not c.ok]
    # writing in place is a fault where it does harm
    status = "fail" if wrong else "warn"
    notes = [replace(note, status=status) if note.name == "in-place write" else note for note in subject.notes]
    notes += dict.fromkeys(missing.values())
    culprits, count = locate(subject, checker, everything=bool(wrong)) if wrong or layers else ([], 0)
    if wrong and not culprits and count and len(subject.units) > 1 and all(note.status != "fail" for note in notes):
        notes.append(sharp(subject.calls, wrong, count))
    elif wrong and not culprits:
        culprits = [(subject, list(dict.fromkeys(c.tensor for c in wrong)))]
    notes += checker.notes() + faults(culprits, seed)
    if all(note.status != "fail" for note in notes) and (again := left_from_before(subject)):
        notes.append(again)
    return tuple(notes), count


def gradcheck_model(
    arch: str | Network = "resnet50",
    *,
    input_shape: tuple[int, int, int] = (64, 64, 3),
    batch: int = 2,
    epsilon: float = 1e-7,
    seed: int = 0,
    **options: Any,
) -> Report:
    """A whole network, or one by name, in training mode: one random direction for the images and for every parameter,
    and each layer by itself. options: as `minires.nn.resnet` takes them."""
    model = arch if isinstance(arch, Network) else resnet(arch, input_shape, seed=seed, **options)
    x = np.random.default_rng(seed).standard_normal((batch, *model.input_shape))
    name = f"{arch} ({model.config.variant})" if isinstance(arch, str) else model.title
    title = f"{name}, {batch} images of {'x'.join(map(str, model.input_shape[:2]))}"
    # a deep network bends sharply with its first weights: even with the kinks held, 1e-6 would be too large
    with blas_threads(1):  # the products are small: several threads gain little, and lose much on a busy machine
        return gradcheck(
            model,
            x,
            epsilon=epsilon,
            tolerance=1e-5,
            coordinates=0,
            hold=True,
            layers=True,
            seed=seed,
            title=title,
        )


def epsilon_sweep(
    target: Module | tuple[Callable, Callable],
    x: Array | tuple | dict,
    *,
    epsilons: Sequence[float] | None = None,
    directions: int = 5,
    training: bool | None = None,
    dtype: DTypeLike = np.float64,
    seed: int = 0,
    title: str | None = None,
) -> Sweep:
    """The V-curve: the relative error of the central difference for each epsilon, along random directions of all
    tensors at once, with the share of stencils whose ends lie on two sides of a kink. Arguments as `gradcheck`."""
    with owned("epsilon_sweep"):
        subject = make_subject(target, x, dtype=dtype, training=training, seed=seed)
    if subject.stopped:
        raise StateError(f"epsilon_sweep: {subject.notes[-1].detail}: {subject.notes[-1].fix}")
    rng = np.random.default_rng([seed, 2])
    drawn = [{n: rng.standard_normal(t.shape) for n, t in subject.tensors.items()} for _ in range(directions)]
    size = subject.whole or 1.0
    rows = []
    for epsilon in np.logspace(-12, -1, 23) if epsilons is None else epsilons:
        errors, crossed = [], 0
        for d in drawn:
            numeric, kink = subject.slope(d, epsilon)
            errors.append(abs(numeric - subject.analytic(d)) / size)
            crossed += kink is not None
        row = {"epsilon": float(epsilon), "error": float(np.median(errors)), "worst": float(max(errors))}
        rows.append(row | {"crossed": crossed / directions})
    return Sweep(title or subject.title, subject.y.dtype.name, seed, tuple(rows))
