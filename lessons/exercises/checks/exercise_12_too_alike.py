"""Exercise 12: the audit finds kernels that are alike; then the five conditions one by one."""

import builtins

import numpy as np
from minires.lessons.exercises.grading import Wrong, random, shaped, single

from minires import nn
from minires.instruments.audit import audit

NEEDS = ("draw", "build")
HINTS = (
    "Print the first three numbers of every kernel. Which layers share them, and what does draw know of a layer?",
    "A generator's numbers follow from its seed alone. What must the seed depend on, so that it differs from layer to "
    "layer and yet is the same in every program?",
    "default_rng takes a list of integers as well as one. How does one get an integer from a text that is the same "
    "tomorrow? (Not from hash(): try it in two shells.)",
)
AFTERWARDS = (
    "minires/nn/init.py does it in one line, `generator`. That a network and its plain twin start from the same main "
    "path is what makes the comparisons of lessons 3 to 8 fair. Public notebooks of the course pass seed=0 to every "
    "layer."
)


def kernels(network) -> dict:
    return {p.name: p.data for p in network.params() if p.decay}


def shape(student):
    network = student.build()
    if not isinstance(network, nn.Module):
        raise Wrong(f"build gave {type(network).__name__}, not a network", "build ends in `return network`.")
    shaped(
        network.forward(random(2, 8, 8, 3, dtype=np.float32)), (2, 6), "logits", "The layers were right as they came."
    )


def scale(student):
    numbers = [w.ravel() * np.sqrt(np.prod(w.shape[:-1]) / 2) for w in kernels(student.build()).values()]
    together = np.concatenate(numbers)
    mean, std = float(together.mean()), float(together.std())
    if abs(std - 1) > 0.1 or abs(mean) > 0.1:
        seen = f"mean and spread of the kernels over sqrt(2 / fan_in): expected 0 and 1, got {mean:.2g} and {std:.2g}"
        raise Wrong(seen, "Which axes of (R, S, C, O) are summed over for one output? They make fan_in.")


def alike(student):
    network = student.build()
    fault = next((f for f in audit(network).findings if f.name == "same seed"), None)
    if fault is None:
        return
    starts = {tuple((w.ravel()[:9] / np.linalg.norm(w.ravel()[:9])).round(4)) for w in kernels(network).values()}
    seen = f"{len(kernels(network))} kernels, but only {len(starts)} different beginnings"
    if len(starts) == 1:
        raise Wrong(seen, "Every layer asks the same question and gets the same answer: what would make it differ?")
    raise Wrong(seen, "Better, but some still agree. What do those that agree have in common: length, shape, place?")


def same(one, other) -> bool:
    one, other = kernels(one), kernels(other)
    return all(np.array_equal(one[name], other[name]) for name in set(one) & set(other))


def again(student):
    if not same(student.build(0), student.build(0)):
        raise Wrong(
            "build(0), called twice, gives two networks", "What does the second call find that the first did not?"
        )
    original = builtins.hash
    try:  # texts hash differently in the next program, as they do after this exchange
        before = student.build(0)
        builtins.hash = lambda value: original((value, "next program"))
        after = student.build(0)
    finally:
        builtins.hash = original
    if not same(before, after):
        seen = "in the next program, build(0) gives another network"
        raise Wrong(seen, "Python salts the hash of a text anew at each start. Which other number belongs to a text?")


def seeds(student):
    if same(student.build(0), student.build(1)):
        raise Wrong("build(0) and build(1) give one network", "The layers differ now, but where has the seed gone?")


def twins(student):
    residual, plain = kernels(student.build(0)), kernels(student.build(0, skip=False))
    differ = [name for name in plain if not np.array_equal(plain[name], residual[name])]
    if differ:
        seen = f"without shortcuts, {len(differ)} of {len(plain)} kernels start elsewhere, {differ[0]} the first"
        raise Wrong(seen, "The plain network has fewer layers. Why does a later one notice?")


def dtype(student):
    single(kernels(student.build()))


CHECKS = {
    "shape": shape,
    "scale": scale,
    "alike": alike,
    "again": again,
    "seeds": seeds,
    "plain twin": twins,
    "dtype": dtype,
}
