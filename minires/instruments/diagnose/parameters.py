"""What the parameters of a network show by themselves: what they hold, what does not learn, what is not reached."""

from collections import defaultdict

import numpy as np

from minires.backend import to_numpy
from minires.instruments.diagnose.cause import LIKELY, POSSIBLE, SURE, Cause
from minires.instruments.guard import label
from minires.nn import BatchNorm, Config, Conv2d, Dense, Module, Param
from minires.nn.network import BUILDERS
from minires.nn.resnet import from_config
from minires.train.finetune import parts


def weights(model: Module) -> list[Cause]:
    """What the parameters show by themselves."""
    found = []
    bad = [p for p in (*model.params(), *model.buffers()) if not np.isfinite(to_numpy(p.data)).all()]
    if bad:
        share = 1 - np.isfinite(to_numpy(bad[0].data)).mean()
        detail = f"{share:.1%} of the numbers of {bad[0].name} are not finite" + _others(bad)
        fix = "load an earlier checkpoint (best.h5), and train on with a tenth of the rate: --lr"
        found.append(Cause("weights not finite", "numbers", SURE, detail, fix))
    kernels = [(m, m.w) for m in model.modules() if isinstance(m, Conv2d | Dense)]
    if kernels and kernels[0][1].data.dtype == np.float16:
        detail = f"the weights are {kernels[0][1].data.dtype}: updates below 1/2048 of a weight are lost"
        found.append(Cause("low precision", "numbers", LIKELY, detail, "model.astype('float32')"))
    zero = [w for _, w in kernels[:-1] if not w.data.any()]
    if zero:
        detail = f"{zero[0].name} is 0 everywhere{_others(zero)}: what it feeds is the same for every image"
        fix = "draw it at random, as He's initialisation does (minires.nn.init.he_normal); zero suits biases alone"
        found.append(Cause("zero weights", "network", SURE, detail, fix))
    alike = [
        w
        for m, w in kernels
        if w.data.shape[-1] > 1 and w.data.any() and np.ptp(to_numpy(w.data), axis=-1).max() <= 1e-7 * abs(w.data).max()
    ]
    if alike:
        detail = f"all output channels of {alike[0].name} hold the same weights{_others(alike)}: they stay the same"
        found.append(Cause("same weights", "network", SURE, detail, "draw each weight at random, not one for all"))
    return found


def hidden(model: Module) -> list[Cause]:
    """Parameters in attributes of a module that its children do not tell of."""
    known = {id(m) for m in model.modules()} | {id(p) for p in (*model.params(), *model.buffers())}
    lost = []

    def walk(value, where, depth):
        if isinstance(value, Module | Param) and id(value) not in known:
            lost.append((where, value))
        elif isinstance(value, dict | list | tuple | set) and depth < 3:
            each = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in each:
                walk(inner, f"{where}[{key!r}]", depth + 1)

    for module in model.modules():
        for name, value in vars(module).items():
            if name != "_slot":
                walk(value, f"{label(module)}.{name}", 0)
    if not lost:
        return []
    where, value = lost[0]
    what = f" ({len(lost)} such attributes)" if lost[1:] else ""
    detail = f"{where} is a {type(value).__name__} that children() and params() leave out{what}: it is never trained"
    fix = "return it from children(), or keep layers as attributes of a Composite"
    return [Cause("unreachable parameters", "network", SURE, detail, fix)]


def _others(params):
    return f" (and {len(params) - 1} more: {', '.join(p.name for p in params[1:4])})" if params[1:] else ""


def frozen(model: Module, recipe) -> list[Cause]:
    """What does not learn though nobody asked for it."""
    params = model.params()
    held = [p for p in params if not p.trainable]
    if recipe is not None and recipe.freeze:
        return _frozen_at_random(model, recipe)
    if not held:
        return []
    share = sum(p.data.size for p in held) / sum(p.data.size for p in params)
    by_layer = defaultdict(int)
    for m in model.modules():
        if m.frozen and not m.children():
            by_layer[label(m)] += 1
    names = f"{', '.join(list(by_layer)[:4])}{' ...' if len(by_layer) > 4 else ''}"
    detail = f"{share:.0%} of the parameters are frozen ({names})"
    level = LIKELY if not params[-1].trainable or share > 0.999 else POSSIBLE
    return [Cause("frozen parameters", "network", level, detail, "model.freeze(False) makes them learn again")]


def _frozen_at_random(model, recipe) -> list[Cause]:
    """Whether what the recipe freezes for good are the numbers that the network begins with."""
    for_good = [part for part, epochs in recipe.freeze.items() if epochs is None]
    drawn = redrawn(model)
    if drawn is None or not for_good:
        return []
    kernels = [
        (a, b)
        for part in for_good
        for ours, theirs in zip(parts(model)[part], parts(drawn)[part], strict=True)
        for a, b in zip(ours.params(), theirs.params(), strict=True)
        if a.decay and b.data.any()
    ]
    if not kernels or not all(np.array_equal(to_numpy(a.data), b.data) for a, b in kernels):
        return []
    detail = f"{', '.join(for_good)} stay as they were drawn: {len(kernels)} kernels of random numbers never learn"
    fix = "freeze what has learned something: start from trained weights (--weights FILE), or leave --freeze out"
    return [Cause("frozen parameters", "network", SURE, detail, fix)]


def fresh_statistics(model: Module, recipe) -> list[Cause]:
    """Normalisations of a trained network that are frozen with the statistics that they were made with."""
    frozen = [m for part in (recipe.freeze if recipe else ()) for top in parts(model)[part] for m in top.modules()]
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and (m.frozen or m in frozen)]
    fresh = [m for m in norms if not m.mean.data.any() and bool((m.var.data == 1).all())]
    if not fresh:
        return []
    detail = (
        f"{len(fresh)} frozen normalisations, {fresh[0].name} first, have a running mean of 0 and a variance of 1, "
    )
    detail += "as they are made with: what follows them sees numbers of another scale"
    fix = "load the statistics with the weights, or estimate them: minires.train.precise_bn.recalibrate"
    return [Cause("no statistics", "normalisation", SURE, detail, fix)]


def redrawn(model):
    """The network as it was drawn; None where nobody knows what builds it."""
    known = isinstance(model.config, Config) or model.config.builder in BUILDERS
    return from_config(model.config) if known else None
