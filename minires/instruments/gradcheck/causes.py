"""Causes by name: what is known of a wrong gradient, held against the numbers.

`explain` takes numeric derivatives at some coordinates and the wrong analytic gradient, and tries one known mistake
after the other. The repair that makes them agree names it, or the slip (slips/) that gives that very gradient.
"""

from dataclasses import dataclass

import numpy as np

from minires import nn, ops
from minires.errors import MiniresError
from minires.instruments.gradcheck.slips import elementwise, general, of_formulas, of_windows
from minires.nn.blocks import Block

WHOLE = 600  # numbers of a tensor up to which its derivative is measured everywhere, where a hypothesis needs it
FIT = 1e-3  # how near a repaired gradient must come to the numeric one, relative


@dataclass(frozen=True)
class Evidence:
    """A gradient that is wrong. `numeric` holds true derivatives at the flat positions `at`."""

    subject: object  # gradcheck's: module or None, inputs, dy, tensors, calls
    name: str
    analytic: np.ndarray | None
    at: np.ndarray
    numeric: np.ndarray

    @property
    def tensor(self) -> np.ndarray:
        return self.subject.tensors[self.name]

    def unit(self, position: int) -> np.ndarray:
        """The direction of one coordinate."""
        unit = np.zeros(self.tensor.shape)
        unit.flat[position] = 1
        return unit

    def whole(self) -> np.ndarray | None:
        """The derivative at every coordinate; None where there are too many."""
        if self.tensor.size > WHOLE:
            return None
        places = range(self.tensor.size)
        slopes = [self.subject.slope({self.name: self.unit(i)}, 1e-6, "hold")[0] for i in places]
        return np.reshape(slopes, self.tensor.shape)

    def again(self, dy: np.ndarray, *, rewind: bool = False) -> np.ndarray | None:
        """The gradient of a pass with another dy; rewind: generators before backward as they were before forward."""
        try:
            return self.subject.another(dy.copy(), rewind=rewind).get(self.name)
        except MiniresError:
            return None

    def fits(self, repaired) -> bool:
        """Whether a repaired gradient agrees with the numeric derivatives, and ten times better than it did before."""
        if repaired is None or repaired.shape != self.analytic.shape:
            return False
        before, after = (np.linalg.norm(g.ravel()[self.at] - self.numeric) for g in (self.analytic, repaired))
        return after <= min(FIT * np.linalg.norm(self.numeric), 0.1 * before)


def explain(e: Evidence) -> tuple[str, str, str]:
    """(cause, what is seen, what to do), the cause being 'unknown' where no known mistake fits."""
    if e.analytic is None or not e.analytic.any():
        return (
            "never written",
            "backward leaves it without a gradient, yet the output depends on it",
            "compute it in backward and call write_grad (or return it as dx)",
        )
    if not e.numeric.any():
        seen = "the output does not move with it: forward gives the same, whatever it is"
        return "not used by forward", seen, "look at forward: it computes with a constant, or with what it kept"
    first = general.forward_departs, of_windows, of_formulas, _factor, _statistics, general.redrawn, _mask, _paths
    then = _kernel, _unturned, general.uses, general.channels, elementwise.slope, general.of_dy, general.places, _border
    for hypothesis in (*first, *then):
        if found := hypothesis(e):
            return found
    ours, kind = e.analytic.ravel()[e.at], e.analytic.dtype
    coarse = np.abs(ours - e.numeric) <= 4 * np.finfo(kind).eps * np.maximum(np.abs(e.numeric), np.abs(ours).mean())
    if kind.itemsize < e.tensor.dtype.itemsize and coarse.all():
        seen = f"it is right to the digits of {kind}: backward computes in it, forward in {e.tensor.dtype}"
        return "low precision", seen, "keep the dtype of dy in every constant and result"
    right = np.abs(ours - e.numeric) <= FIT * np.abs(e.numeric).max()
    seen = f"no known mistake explains it; it is right at {right.sum()} of the {len(e.at)} places looked at"
    return "unknown", seen, "compare backward with the derivation, term by term"


def _factor(e):
    ours = e.analytic.ravel()[e.at]
    factor = (ours @ e.numeric) / max(e.numeric @ e.numeric, 1e-300)  # analytic = factor * numeric
    if not factor or not e.fits(e.analytic / factor):
        return None
    seen = f"analytic = {factor:.4g} x numeric, everywhere"
    if np.isclose(factor, -1):
        return "sign", f"{seen}: the sign is turned", "drop the minus"
    at_add = isinstance(e.subject.module, (nn.Add, Block))
    if np.isclose(factor, 0.5) and at_add:
        return (
            "averaged at the add",
            f"{seen}: the gradient is averaged at the add node, where it must be copied",
            "give each path the whole dy (y = a + b has slope 1 in both) and sum what comes back",
        )
    if np.isclose(factor, 2):
        return (
            "counted twice",
            f"{seen}: counted twice",
            "look for a term added two times, or a gradient that an earlier backward left",
        )
    for count, what in _counts(e):
        if count > 1 and np.isclose(factor * count, 1):
            return (
                "mean for sum",
                f"analytic = numeric / {count}: divided by {what}",
                f"do not divide by {what} in backward",
            )
        if count > 1 and np.isclose(factor, count):
            return (
                "sum for mean",
                f"analytic = {count} x numeric: multiplied by {what}",
                f"divide by {what}, as forward does",
            )
    return "constant factor", f"{seen}", "look for a scale that forward has and backward lacks, or the other way"


def _counts(e):
    """The numbers that are forgotten or put in by mistake, with what they count."""
    shape = e.subject.inputs[0].shape
    yield shape[0], "the batch size N"
    if len(shape) == 4:
        yield shape[1] * shape[2], "the map's size H * W"
        yield shape[0] * shape[1] * shape[2], "N * H * W"
    if e.subject.dy.ndim == 4:
        yield int(np.prod(e.subject.dy.shape[:3])), "N * P * Q"
    if kernel := getattr(e.subject.module, "kernel", None):
        yield kernel[0] * kernel[1], "the window's size"


def _statistics(e):
    """Batch normalisation: dx sums to zero over a channel, and stands orthogonal to x_hat."""
    module = e.subject.module
    norm_like = isinstance(module, nn.BatchNorm) or e.subject.module is None
    if not norm_like or e.name not in e.subject.input_names or e.analytic.ndim not in (2, 4):
        return None
    x, axes = e.subject.tensors[e.name], tuple(range(e.analytic.ndim - 1))
    if x.size == x.shape[-1]:
        return None
    x_hat = (x - x.mean(axes)) / np.sqrt(x.var(axes) + getattr(module, "epsilon", 0))
    no_mean = e.analytic - e.analytic.mean(axes)
    remedy = "dx = gamma * rstd * (dy - sum(dy) / m - x_hat * sum(dy * x_hat) / m)"
    if e.fits(no_mean):
        return "mean term", "dx does not sum to 0 over a channel: the term through the mean is missing", remedy
    if e.fits(e.analytic - x_hat * (e.analytic * x_hat).mean(axes)):
        seen = "dx is not orthogonal to x_hat: the term through the variance is missing"
        return "variance term", seen, remedy
    if e.fits(no_mean - x_hat * (no_mean * x_hat).mean(axes)):
        seen = "dx neither sums to 0 nor is orthogonal to x_hat: mean and variance are treated as constants"
        return "mean and variance terms", seen, remedy
    return None


def _mask(e):
    ours = e.analytic.ravel()[e.at]
    passes = (np.abs(e.numeric) < 1e-9 * np.abs(e.numeric).max()) & (ours != 0)
    if passes.any() and np.allclose(np.where(passes, 0, ours), e.numeric, rtol=FIT, atol=1e-9):
        return (
            "mask",
            "the gradient passes where the output does not move: the mask of the forward pass is missing or wrong",
            "multiply dy by (y > 0), or by the very mask that forward used",
        )
    return None


def _paths(e):
    """A block: whether one path's gradient was left out of the sum."""
    block, calls = e.subject.module, e.subject.calls
    if not isinstance(block, Block) or block.shortcut is None or e.name not in e.subject.input_names:
        return None
    after = calls.get(block.after)
    identity = block.shortcut == Block.IDENTITY
    at_add = after.dx[0] if after and after.dx else e.subject.dy
    path = calls.get(block.before if block.from_x and block.before is not None else block.branch)
    side = calls.get(None if identity else block.shortcut)
    shortcut = at_add if identity else (side.dx[0] if side and side.dx else None)
    branch = path.dx[0] if path and path.dx else None
    if shortcut is not None and branch is not None and e.fits(branch + shortcut):
        lone = "branch" if np.allclose(e.analytic, branch) else "shortcut" if np.allclose(e.analytic, shortcut) else ""
        seen = f"dx holds the {lone}'s gradient alone" if lone else "dx is not the sum of the two paths' gradients"
        return "one path at the add", f"{seen}: at the add node both count", "dx = dx_branch + dx_shortcut"
    return None


def _kernel(e):
    if e.name in e.subject.input_names or e.analytic.ndim not in (2, 4):
        return None
    a = e.analytic
    repairs = [("transposed", a.T if a.ndim == 2 else a.transpose(1, 0, 2, 3))]
    if a.ndim == 4:
        repairs += [("turned by 180 degrees", a[::-1, ::-1]), ("flipped top to bottom", a[::-1])]
        repairs += [("flipped left to right", a[:, ::-1]), ("with C and O exchanged", a.transpose(0, 1, 3, 2))]
    for what, repaired in repairs:
        if e.fits(repaired):
            return "kernel order", f"the gradient of the kernel comes {what}", "match the index order of forward"
    return None


def _unturned(e):
    """dx of a convolution that was computed with another arrangement of the kernel."""
    module = e.subject.module
    if e.name not in e.subject.input_names or not isinstance(module, nn.Conv2d):
        return None
    w, dy = module.w.data, e.subject.dy
    wrong = {"not turned by 180 degrees": w[::-1, ::-1], "transposed": w.transpose(1, 0, 2, 3)}
    for what, kernel in wrong.items():
        if kernel.shape == w.shape:
            dx, _, _ = ops.conv2d_backward(dy, e.analytic, kernel, **module.window)
            if np.allclose(dx, e.analytic):
                seen = f"dx is that of a kernel which is {what}"
                return "kernel order", seen, "dx is dy convolved with w turned by 180 degrees, C and O exchanged"
    return None


def _border(e):
    if e.name not in e.subject.input_names or e.analytic.ndim != 4:
        return None
    ours = e.analytic.ravel()[e.at]
    bad = np.abs(ours - e.numeric) > FIT * np.abs(e.numeric).max()
    _, h, w, _ = np.unravel_index(e.at, e.analytic.shape)
    _, H, W, _ = e.analytic.shape
    edge = (np.minimum(h, H - 1 - h) < 2) | (np.minimum(w, W - 1 - w) < 2)
    if bad.any() and not bad[~edge].any() and (~edge).any():
        return "border", "wrong at the image's border alone", "look at the padding: where it goes on and comes off"
    return None
