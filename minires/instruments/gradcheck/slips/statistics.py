"""Products, normalisations and softmax: sums over the wrong axis, statistics as constants, an epsilon elsewhere."""

from itertools import combinations

import numpy as np

from minires import nn
from minires.instruments.gradcheck.slips.windows import same

MISSING = 0.0
EPSILONS = (0.0, 1e-5, 1e-3, 1e-6, 1e-7, 1e-8, 1.001e-5, 1e-4, 1e-12, 1e-10)


def dense(e):
    """Slips of y = x w + b, of x, w and b; and of whatever is added to y along its last axis."""
    y, dy = e.subject.y, e.subject.dy
    tensors = e.subject.tensors
    if y.ndim == 2:
        for xn, wn in ((a, b) for a in tensors for b in tensors if a != b):
            x, w = tensors[xn], tensors[wn]
            if x.ndim != 2 or w.ndim != 2 or x.shape[0] != y.shape[0] or (x.shape[1], y.shape[1]) != w.shape:
                continue
            rest = y - x @ w
            if not np.allclose(rest, rest[:1], atol=1e-9):
                continue
            fix = "dw = xᵀ dy, dx = dy wᵀ: summed over the batch and over the outputs"
            if e.name == xn and w.shape[0] == w.shape[1]:
                yield "transposed weights", "dx = dy w: the weights are not transposed", fix, dy @ w
            if e.name == wn:
                if w.shape[0] == w.shape[1]:
                    yield "kernel order", "dw = dyᵀ x: the gradient of the kernel comes transposed", fix, dy.T @ x
                for which, n in (("last", -1), ("first", 0)):
                    yield "one image", f"dw holds the {which} image's part alone", fix, np.outer(x[n], dy[n])
                yield (
                    "batch's sum",
                    "dw = (Σ x)(Σ dy): each is summed over the batch by itself",
                    fix,
                    np.outer(x.sum(0), dy.sum(0)),
                )
    if e.analytic.ndim == 1 and e.analytic.shape == dy.shape[-1:] and dy.ndim > 1:
        every = tuple(range(dy.ndim - 1))
        fix = f"sum dy over every axis but the last: dy.sum({every})"
        for count in range(1, dy.ndim + 1):
            for axes in combinations(range(dy.ndim), count):
                if axes == every:
                    continue
                total = dy.sum(axes)
                if total.ndim == 1:
                    yield "wrong axis", f"it is dy summed over axes {axes}, not over {every}", fix, total
        rows = dy.reshape(-1, dy.shape[-1])
        for which, part in (("last", rows[-1]), ("first", rows[0])):
            yield "not summed", f"it is the dy of the {which} place alone, not the sum over all", fix, part
        for which, n in (("last", -1), ("first", 0)):
            yield "one image", f"it holds the {which} image's part alone", fix, dy[n].reshape(-1, dy.shape[-1]).sum(0)


def _normalised(e):
    """(x's name, gamma's name or None, axes, epsilon, x_hat's mean and variance) of a forward that normalises."""
    subject, module = e.subject, e.subject.module
    y = subject.y
    if y.ndim < 2 or y.size < 4:
        return None
    known = getattr(module, "epsilon", None)
    epsilons = [*([float(known)] if isinstance(known, float | int) else []), *EPSILONS]
    for xn in subject.input_names:
        x = subject.tensors.get(xn)
        if x is None or x.shape != y.shape:
            continue
        vectors = {n: t for n, t in subject.tensors.items() if n != xn and t.shape in (y.shape[-1:], y.shape[1:])}
        scales = [(None, 1.0), *vectors.items()]
        shifts = [0.0, *vectors.values()]
        for axes in dict.fromkeys(
            (tuple(range(y.ndim - 1)), (y.ndim - 1,), tuple(range(1, y.ndim)), tuple(range(1, y.ndim - 1)))
        ):
            if not axes:
                continue
            kept = {"axis": axes, "keepdims": True}
            mean, var = x.mean(**kept), x.var(**kept)
            for epsilon in epsilons:
                x_hat = (x - mean) / np.sqrt(var + epsilon + (var + epsilon == 0))
                for gn, gamma in scales:
                    if any(same(gamma * x_hat + beta, y) for beta in shifts):
                        return xn, gn, axes, epsilon, mean, var
    return None


def normalisation(e):
    """Slips of dx, dgamma, dbeta."""
    running = _running(e)
    if running:
        yield from running
        return
    found = _normalised(e)
    if found is None:
        return
    xn, gn, axes, epsilon, mean, var = found
    x, dy, kept = e.subject.tensors[xn], e.subject.dy, {"axis": axes, "keepdims": True}
    gamma = 1.0 if gn is None else e.subject.tensors[gn]
    x_hat = (x - mean) / np.sqrt(var + epsilon)
    if e.name == gn:
        fix = "dgamma = Σ dy x_hat, over all that gamma is shared by"
        others = tuple(range(dy.ndim - e.analytic.ndim))
        yield "x for x_hat", "dgamma = Σ dy x: forward scales x_hat, the normalised x", fix, (dy * x).sum(others)
        yield (
            "x for x_hat",
            "dgamma = Σ dy (x - mean): x_hat is divided by the deviation",
            fix,
            (dy * (x - mean)).sum(others),
        )
        yield "x for x_hat", "dgamma = Σ dy y: forward scales x_hat, not y", fix, (dy * e.subject.y).sum(others)
        yield "x_hat forgotten", "dgamma = Σ dy, which is dbeta", fix, dy.sum(others)
        return
    if e.name != xn:
        return
    m = int(np.prod([x.shape[a] for a in axes]))
    terms = {
        "g": gamma * dy,
        "rstd": 1 / np.sqrt(var + epsilon),
        "mean": 1.0,
        "var": 1.0,
        "x_hat": x_hat,
    }

    def dx(g, rstd, mean, var, x_hat):
        through_mean, through_var = g.mean(**kept), (g * x_hat).mean(**kept)
        return rstd * (g - mean * through_mean - var * x_hat * through_var)

    slips = [
        ("gamma missing", "lacks gamma", "g", dy),
        ("gamma missing", "has gamma twice", "g", gamma * gamma * dy),
        ("x for x_hat", "has x - mean where x_hat should", "x_hat", x - mean),
        ("x for x_hat", "has x where x_hat should", "x_hat", x),
        ("mean term", "does not sum to 0 over a channel: the term through the mean is missing", "mean", MISSING),
        ("variance term", "is not orthogonal to x_hat: the term through the variance is missing", "var", MISSING),
        ("1/m missing", "has a term through the mean that is a sum, not divided by m", "mean", float(m)),
        ("1/m missing", "has a term through the variance that is a sum, not divided by m", "var", float(m)),
        ("mean term", "has the term through the mean with the other sign", "mean", -1.0),
        ("variance term", "has the term through the variance with the other sign", "var", -1.0),
        ("variance term", "has the term through the variance doubled: the root's slope is 1/2", "var", 2.0),
        ("variance term", "has the term through the variance halved", "var", 0.5),
        (
            "variance term",
            "has the term through the variance undivided by var + epsilon",
            "var",
            var + epsilon,
        ),
        (
            "variance term",
            "has the term through the variance undivided by the deviation",
            "var",
            np.sqrt(var + epsilon),
        ),
        ("deviation", "lacks the division by the deviation", "rstd", 1.0),
        ("deviation", "is divided by the variance, not by its root", "rstd", 1 / (var + epsilon)),
        ("deviation", "is multiplied by the deviation, not divided", "rstd", np.sqrt(var + epsilon)),
        (
            "epsilon's place",
            "has epsilon added to the deviation, forward adds it to the variance",
            "rstd",
            1 / (np.sqrt(var) + epsilon),
        ),
        ("epsilon's place", "lacks epsilon", "rstd", 1 / np.sqrt(var + (var == 0))),
        ("epsilon's place", "has epsilon added twice", "rstd", 1 / np.sqrt(var + 2 * epsilon)),
        (
            "variance over m - 1",
            "has a variance over m - 1, in forward over m",
            "rstd",
            1 / np.sqrt(var * m / max(1, m - 1) + epsilon),
        ),
    ]
    slips = [s for s in slips if not np.allclose(s[3], terms[s[2]])]
    fix = "dx = gamma * rstd * (dy - sum(dy) / m - x_hat * sum(dy * x_hat) / m), rstd = 1 / sqrt(var + epsilon)"
    for count in (1, 2):
        for chosen in combinations(slips, count):
            if len({slot for *_, slot, _ in chosen}) < count:
                continue
            cause, seen = chosen[0][0], "; and ".join(words for _, words, *_ in chosen)
            if count == 2 and chosen[0][3] is chosen[1][3] is MISSING:
                cause, seen = "mean and variance terms", f"{seen}: both are treated as constants"
            changed = {slot: value for *_, slot, value in chosen}
            yield cause, f"dx {seen}", fix, np.asarray(dx(**terms | changed))
            if "rstd" in changed:  # in x_hat too, where backward computes that anew
                anew = {"x_hat": (x - mean) * changed["rstd"]} | changed
                yield cause, f"dx {seen}", fix, np.asarray(dx(**terms | anew))


def _running(e):
    """Slips in evaluation, where the statistics are constants."""
    module = e.subject.module
    if not isinstance(module, nn.BatchNorm) or module.training or e.name != e.subject.input_names[0]:
        return []
    x, dy, gamma = e.subject.inputs[0], e.subject.dy, module.gamma.data
    mean, rstd = module.mean.data, 1 / np.sqrt(module.var.data + module.epsilon)
    axes, x_hat, g = tuple(range(x.ndim - 1)), (x - mean) * rstd, gamma * dy
    seen = "dx has the terms through mean and variance, which are constants in evaluation"
    fix = "in evaluation dx = gamma * rstd * dy: the running statistics do not depend on x"
    whole = rstd * (g - g.mean(axes) - x_hat * (g * x_hat).mean(axes))
    own = (x - x.mean(axes)) / np.sqrt(x.var(axes) + module.epsilon)
    batch = (g - g.mean(axes) - own * (g * own).mean(axes)) / np.sqrt(x.var(axes) + module.epsilon)
    return [("training's formula", seen, fix, whole), ("training's formula", seen, fix, batch)]


def softmax(e):
    """Slips of softmax, of its logarithm, and of the cross-entropy behind it."""
    if not e.subject.input_names or e.name != e.subject.input_names[0] or e.analytic.ndim != 2:
        return
    x, y, dy = e.subject.tensors[e.name], e.subject.y, e.subject.dy
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if same(p, y):
        fix = "dx = p * (dy - sum(dy * p)): each probability depends on every logit of its row"
        yield "other logits", "dx = dy p (1 - p): the other logits of the row are left out", fix, dy * p * (1 - p)
        yield "other logits", "dx = dy p: what the sum in the denominator gives is missing", fix, dy * p
        yield (
            "other logits",
            "dx = p (dy - sum dy): the sum lacks the probabilities",
            fix,
            p * (dy - dy.sum(-1, keepdims=True)),
        )
        yield "other logits", "dx = dy - p sum(dy), which is the logarithm's", fix, dy - p * dy.sum(-1, keepdims=True)
    elif same(np.log(p), y):
        fix = "dx = dy - p * sum(dy)"
        yield "other logits", "dx = dy: what the logarithm of the sum gives is missing", fix, dy
        yield "other logits", "dx = dy (1 - p): the other logits of the row are left out", fix, dy * (1 - p)
        yield "other logits", "dx = dy - p: the sum over dy is missing", fix, dy - p
        yield (
            "other logits",
            "dx = p (dy - sum(dy p)), which is softmax's",
            fix,
            p * (dy - (dy * p).sum(-1, keepdims=True)),
        )
    elif y.ndim < 2 and (slope := e.whole()) is not None:
        for share in (dy / len(x), dy + np.zeros(())):  # of the mean, of the sum or of each row's loss
            c = np.broadcast_to(np.reshape(share, (-1, 1)) if np.ndim(share) else share, (len(x), 1))
            if not np.all(c):
                continue
            hot = p - slope / c
            if not (np.allclose(hot.sum(-1), 1, atol=1e-4) and np.allclose(hot.max(-1), 1, atol=1e-4)):
                continue
            hot, fix = np.round(hot), "dlogits = (p - 1 at the label) / N, times what arrives"
            yield "label", "it is p alone: the - 1 at the label is missing", fix, c * p
            yield "label", "it is p + 1 at the label: the 1 is subtracted", fix, c * (p + hot)
            yield "label", "it is - 1 at the label alone: p is missing", fix, -c * hot
            yield (
                "logits",
                "it is the slope by the probabilities, - 1 / p at the label, not by the logits",
                fix,
                -c * hot / p,
            )
            yield "label", "it is p - 1 at every class: the 1 belongs to the label alone", fix, c * (p - 1)
            for off in (1, -1):
                yield (
                    "label",
                    "the 1 is subtracted at the class beside the label",
                    fix,
                    c * (p - np.roll(hot, off, axis=-1)),
                )
