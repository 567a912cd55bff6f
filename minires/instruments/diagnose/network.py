"""What is wrong with a network, seen in one batch: its numbers, its units, its structure, its gradients."""

import copy
import math

import numpy as np

from minires import ops
from minires.backend import blas_threads, get_xp, to_numpy
from minires.errors import MiniresError
from minires.instruments.audit import audit
from minires.instruments.dead import DEAD
from minires.instruments.diagnose import parameters
from minires.instruments.diagnose.cause import LIKELY, POSSIBLE, SURE, Cause
from minires.instruments.gradcheck import gradcheck
from minires.nn import BatchNorm, Conv2d, Dense, Dropout, GroupNorm, Module, ReLU
from minires.nn.probe import Probe, probe, untouched

CHECKED = 1_500_000  # parameters up to which structure and gradients are checked: 10 s and less
HALF_DEAD = 0.6  # share of a layer's units
SLOPES = (1e4, 1e6)  # of the gradient between the last and the first layer: a lot, and too much to learn
_FORWARD = {  # what audit and gradient check say of a forward -> (cause, area)
    "misplaced ReLU": ("misrouted skip", "network"),
    "product for sum": ("misrouted skip", "network"),
    "branch left out": ("misrouted skip", "network"),
    "shortcut left out": ("dead skip", "network"),
    "doubled shortcut": ("scaled skip", "network"),
    "scaled shortcut": ("scaled skip", "network"),
    "branch counted twice": ("scaled skip", "network"),
    "weights not finite": ("weights not finite", "numbers"),
    "forward not finite": ("forward not finite", "numbers"),
    "low precision": ("low precision", "numbers"),
    "in-place write": ("in-place write", "gradient"),
    "not a function": ("not a function", "gradient"),
}
_AUDIT = _FORWARD | {  # what the audit says -> (cause, area)
    "same seed": ("same weights", "network"),
    "stride on one path": ("stride on one path", "network"),
    "shapes": ("shapes", "network"),
    "dead skip": ("dead skip", "network"),
    "misrouted skip": ("misrouted skip", "network"),
    "scaled skip": ("scaled skip", "network"),
    "unused layer": ("unused layer", "network"),
    "no use": ("unreachable parameters", "network"),
    "dead ReLUs": ("dead ReLUs", "network"),
}


class _Units(Probe):
    """A probe that also tells which units never or always fire."""

    def __init__(self, model):
        super().__init__(model)
        self.dead, self.saturated, self.largest = {}, {}, {}

    def wrap_forward(self, module, forward):
        probed = super().wrap_forward(module, forward)

        def noted(*inputs):
            y = probed(*inputs)
            if isinstance(y, get_xp(y).ndarray) and not module.children():
                y_ = to_numpy(y)
                name = module.name or type(module).__name__.lower()
                self.largest[name] = float(np.abs(y_).max()) if y_.size else 0.0
                if isinstance(module, ReLU):
                    self.dead[name] = float((y_.reshape(-1, y_.shape[-1]) == 0).all(axis=0).mean())
                elif not module.params() and y_.shape == inputs[0].shape and self.largest[name] <= 1:
                    ends = np.minimum(np.abs(y_), np.abs(1 - np.abs(y_)) if y_.min() >= 0 else 1)
                    near = np.abs(y_) > 0.99 if y_.min() < 0 else ends < 0.01
                    self.saturated[name] = float(near.mean())
            return y

        return noted


def one_batch(model: Module, x, labels, *, trained: bool) -> list[Cause]:
    """What one forward and one backward pass show. x (N, H, W, C) as the network takes it, labels (N,) or None."""
    log = _Units(model)
    with untouched(model), np.errstate(all="ignore"):
        try:
            with probe(model, log):
                _thaw(model)
                logits = model.forward(x)
                classes = np.arange(len(logits)) % logits.shape[1] if labels is None else labels
                loss, probs = ops.softmax_cross_entropy_forward(logits, classes)
                model.backward(ops.softmax_cross_entropy_backward(probs, classes))
        except MiniresError as error:
            return [Cause("shapes", "network", SURE, str(error), "minires summary shows the shape behind every layer")]
        except Exception as error:  # layers of others raise anything
            last = [r.name for r in log.records.values() if r.shape is not None][-1:]
            where = f" after {last[0]}" if last else ""
            detail = f"a pass through the network raises {type(error).__name__}{where}: {' '.join(str(error).split())}"
            return [Cause("shapes", "network", SURE, detail, "mend that layer; minires summary shows every shape")]
        logits, loss = to_numpy(logits), float(loss)
    found = _finite(log, model)
    if found:
        return found
    found += [*_units(log), *_head(model, x, logits, loss, labels, trained, log), *_slope(log, model)]
    return found


def _thaw(model):
    for module in model.modules():
        module.training = not module.frozen and not isinstance(module, Dropout)


def _finite(log, model):
    """Where numbers stopped being finite, if they did."""
    rows = [row for row in log.rows() if row["finite"] is not None]
    leaves = {m.name or type(m).__name__.lower() for m in model.modules() if not m.children()}
    bad = next((row for row in rows if not row["finite"] and row["name"] in leaves), None)
    if bad is None:
        return []
    before = [name for name in log.largest if name != bad["name"]]
    top = max((log.largest[name] for name in before if math.isfinite(log.largest[name])), default=0.0)
    if top > np.finfo(model.params()[0].data.dtype).max ** 0.26:
        detail = f"{bad['name']} gives numbers that are not finite; before it they reach {top:.1e}"
        fix = "look at how the weights are drawn, and at each layer's scale: minires gradflow"
        return [Cause("overflow", "numbers", SURE, detail, fix)]
    detail = f"{bad['name']} gives numbers that are not finite, of inputs up to {top:.3g}"
    return [Cause("forward not finite", "numbers", SURE, detail, "guard its divisions, roots and logarithms")]


def _units(log):
    dead = {name: share for name, share in log.dead.items() if share >= HALF_DEAD}
    if dead:
        worst = max(dead, key=dead.get)
        detail = f"{dead[worst]:.0%} of the channels behind {worst} are 0 for every image"
        detail += (
            f"; more than {HALF_DEAD:.0%} in {len(dead)} of {len(log.dead)} ReLUs" if dead.keys() - {worst} else ""
        )
        fix = "their bias or beta lies far below zero: lower the rate, or draw the weights anew"
        level = SURE if dead[worst] >= DEAD else LIKELY
        yield Cause(
            "dead ReLUs",
            "network",
            level,
            detail,
            fix,
            {"bars": log.dead, "of": "share of channels that are 0 for every image"},
        )
    full = {name: share for name, share in log.saturated.items() if share > 0.8}
    if full:
        worst = max(full, key=full.get)
        detail = (
            f"{full[worst]:.0%} of the outputs of {worst} are within 0.01 of their limits: hardly a gradient passes"
        )
        fix = "draw smaller weights before it, put a normalisation before it, or use a ReLU"
        yield Cause(
            "saturated units",
            "network",
            LIKELY,
            detail,
            fix,
            {"bars": log.saturated, "of": "share of outputs at their limits"},
        )


def _head(model, x, logits, loss, labels, trained, log):
    """What the outputs show."""
    count, flat = logits.shape[1], np.ptp(logits) == 0
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3) and not flat:
        detail = f"each image's {count} outputs are positive and sum to 1: the loss takes the softmax of a softmax"
        yield Cause("softmax twice", "network", SURE, detail, "take the last softmax out: the loss has one")
    elif (logits >= 0).all() and (logits == 0).mean() > 0.05 and not flat:
        detail = f"no output is negative and {(logits == 0).mean():.0%} are 0: a ReLU stands behind the last layer"
        fix = "take it out: no gradient passes where an output is 0"
        yield Cause("relu on the logits", "network", SURE, detail, fix)
    chance = math.log(count)
    scale = float(np.sqrt(np.square(logits - logits.mean(axis=1, keepdims=True)).mean()))
    normed = any(isinstance(m, BatchNorm | GroupNorm) for m in model.modules())
    if labels is not None and loss > 2 * chance + 3 and not trained:
        detail = f"before any training the loss is {loss:.3g}, where guessing gives ln {count} = {chance:.3g}; the "
        detail += f"outputs have an RMS of {scale:.3g}"
        fix = "draw weights with a standard deviation of sqrt(2 / fan-in): minires.nn.init.he_normal"
        yield Cause("weights too large", "network", SURE if loss > 10 * chance else LIKELY, detail, fix)
    hidden = [row for row in log.rows() if row["kind"] == "Conv2d" and row["rms"] is not None]
    if hidden and not normed and not trained:
        first, last = hidden[0]["rms"], hidden[-1]["rms"]
        if last < 1e-3 * max(first, 1e-30) or first < 1e-4:
            detail = f"the signal shrinks from an RMS of {first:.2g} behind {hidden[0]['name']} to {last:.2g} behind "
            detail += f"{hidden[-1]['name']}: the outputs hardly depend on the image"
            fix = "draw weights with a standard deviation of sqrt(2 / fan-in): minires.nn.init.he_normal"
            yield Cause("weights too small", "network", SURE if last < 1e-4 * first else LIKELY, detail, fix)
    yield from _function(model, x)


def _function(model, x):
    """Whether the network in evaluation mode is a function, and not a linear one."""
    if len(x) < 4:
        return
    with untouched(model), np.errstate(all="ignore"):
        for module in model.modules():
            module.training = False
        one, again = (to_numpy(model.forward(x)).astype(np.float64) for _ in range(2))
        size = np.abs(one).max() + 1e-30
        parts = [to_numpy(model.forward(x[k : k + 2])) for k in (0, 2)]
        apart = float(np.abs(np.concatenate(parts) - one[:4]).max() / size)
        if np.abs(one - again).max() > 1e-6 * size:
            detail = (
                f"in evaluation mode two passes of the same images differ by {np.abs(one - again).max() / size:.1%}"
            )
            fix = "let random layers be the identity where self.training is False"
            yield Cause("not a function", "gradient", SURE, detail, fix)
            return
        if apart > 1e-3:
            detail = f"in evaluation mode the answers to images depend on the batch that they come in, by {apart:.1%}"
            fix = "let a normalisation use running statistics where self.training is False"
            yield Cause("training mode", "inference", SURE, detail, fix)
        layers = [m for m in model.modules() if isinstance(m, Conv2d | Dense)]
        half = len(x) // 2
        middle = to_numpy(model.forward((x[:half] + x[half : 2 * half]) / 2)).astype(np.float64)
        bend = np.abs(middle - (one[:half] + one[half : 2 * half]) / 2).max() / (np.ptp(one, axis=0).max() + 1e-30)
        if len(layers) > 1 and bend < 1e-4 and np.ptp(one, axis=0).max() > 0:
            detail = (
                f"its answer to the mean of two images is the mean of its answers, to {bend:.0e}: it is linear, its "
            )
            detail += f"{len(layers)} layers are worth one"
            fix = "put a ReLU behind every convolution or its normalisation"
            yield Cause("no nonlinearity", "network", SURE, detail, fix)


def _slope(log, model):
    """Whether the gradient vanishes or explodes on its way back."""
    rows = [(m.name, log.records[m]) for m in model.modules() if isinstance(m, Conv2d | Dense)]
    seen = {name: float(r.dy_rms) for name, r in rows if r.dy_rms is not None}
    if len(seen) < 3:
        return
    values = list(seen.values())
    kernels = [m.w.data for m in model.modules() if isinstance(m, Conv2d | Dense)]
    if max(values) == 0 or not kernels[-1].any():  # a last layer of zeros lets nothing through in its first step
        return
    first, last = values[0], values[-1]
    show = {"bars": seen, "log": True, "of": "RMS of the gradient at each layer's output"}
    between = f"between {list(seen)[-1]} and {next(iter(seen))}"
    if first < last / SLOPES[0]:
        level = SURE if first < last / SLOPES[1] else LIKELY
        times = "nothing of it is left" if first == 0 else f"it falls to {first / last:.1e} of itself"
        fix = "add shortcuts or normalisation, or draw weights by He's rule: minires gradflow shows each layer"
        yield Cause("vanishing gradient", "gradient", level, f"the gradient: {times} {between}", fix, show)
    elif first > last * SLOPES[0]:
        level = SURE if first > last * SLOPES[1] else LIKELY
        fix = "clip it (--clip-norm 1), scale branches down (--last-gamma 0), or draw smaller weights"
        detail = f"the gradient grows {first / max(last, 1e-300):.1e} times {between}"
        yield Cause("exploding gradient", "gradient", level, detail, fix, show)


def structure(model: Module, x, seen: set[str]) -> list[Cause]:
    """The audit's and the gradient check's faults, for networks that are small enough. seen: causes known by now."""
    if sum(model.parameter_count()) > CHECKED:
        return []
    found = []
    plain = not (seen & {"dead ReLUs", "zero weights", "same weights", "weights not finite", "forward not finite"})
    if plain:
        for finding in audit(model, input_shape=x.shape[1:]).findings:
            if finding.name in _AUDIT and finding.status != "ok":
                level = SURE if finding.status == "fail" else POSSIBLE
                found.append(Cause(*_AUDIT[finding.name], level, finding.detail, finding.fix))
    if not {c.name for c in found if c.level == SURE} and plain:
        found += gradients(model, to_numpy(x[:2]))
    return found


def gradients(target, x) -> list[Cause]:
    """What the gradient check says is wrong."""
    with blas_threads(1), np.errstate(all="ignore"):
        report = gradcheck(
            copy.deepcopy(target), x.astype(np.float64), epsilon=1e-7, tolerance=1e-5, coordinates=0, hold=True
        )
    found = []
    for finding in report.findings:
        if finding.status == "fail":
            name, area = _FORWARD.get(finding.name, ("wrong backward", "gradient"))
            found.append(Cause(name, area, SURE, f"{finding.name}: {finding.detail}", finding.fix))
    return found


def layer(module: Module, x) -> list[Cause]:
    """A layer by itself on x, as it takes it."""
    return [*parameters.weights(module), *gradients(module, x)]
