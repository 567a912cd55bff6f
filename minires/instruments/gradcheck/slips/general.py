"""Slips of any layer: a forward that is another than its class's, dy left out, images or channels left out, a second
use that overwrites the first, a mask drawn anew."""

import numpy as np

from minires import nn
from minires.errors import MiniresError
from minires.instruments.departure import departure
from minires.instruments.gradcheck.subject import ModuleSubject
from minires.instruments.guard import copied

SPREAD = 1e-4  # relative: what varies less is equal


def forward_departs(e) -> tuple[str, str, str] | None:
    """Where backward is right for the forward of the class of ours that this one derives from, which it does not keep:
    then forward is what departs."""
    pristine = e.subject.pristine
    if pristine is None:
        return None
    own = type(pristine)
    ours = next(c for c in own.__mro__ if c.__module__.startswith("minires.nn."))
    same = all(getattr(own, name, None) is getattr(ours, name, None) for name in ("forward", "flow"))
    if own is ours or same or ours in (nn.Module, nn.Composite):
        return None
    twin = copied(pristine)
    twin.__class__ = ours
    try:
        usual = ModuleSubject(twin, dict(enumerate(e.subject.inputs)), e.subject.dy, 0)
        if usual.y is None or usual.y.shape != e.subject.y.shape or usual.same(e.subject.y):
            return None
        name = dict(zip(e.subject.input_names, usual.input_names, strict=True)).get(e.name, e.name)
        numeric = np.array([usual.slope({name: e.unit(i)}, 1e-6, "hold")[0] for i in e.at])
    except (MiniresError, KeyError):
        return None
    if np.linalg.norm(e.analytic.ravel()[e.at] - numeric) > SPREAD * np.linalg.norm(numeric):
        return None
    of_class = f"{'backward' if own.backward is not ours.backward else ours.__name__ + '.backward'} is right for "
    of_class += f"{ours.__name__}.forward, which {own.__name__}.forward does not follow"
    if found := departure(e.subject.module, e.subject.calls):
        cause, seen, fix = found
        return cause, f"{seen}; {of_class}", f"{fix}; or write the backward of what forward is meant to be"
    size = np.linalg.norm(e.subject.y - usual.y) / max(np.linalg.norm(usual.y), 1e-300)
    seen = f"forward is {size:.2g} (relative) off that of {ours.__name__}; {of_class}"
    return "other forward", seen, f"let forward follow {ours.__name__}'s, or give it a backward of its own"


def of_dy(e) -> tuple[str, str, str] | None:
    """Whether backward is linear in dy, as the chain rule has it."""
    double = e.again(2 * e.subject.dy)
    if double is None or double.shape != e.analytic.shape or not np.isfinite(double).all():
        return None
    size = np.linalg.norm(e.analytic)

    def is_(other):
        return np.linalg.norm(double - other) <= 1e-6 * size

    if is_(2 * e.analytic):
        return None
    fix = "each gradient is a sum of dy times a slope: dy enters it once"
    if is_(e.analytic):
        return "dy left out", "with twice the dy it is the same: what arrives is not used, or only its sign", fix
    if is_(4 * e.analytic):
        return "dy squared", "with twice the dy it is four times as large: dy is multiplied in twice", fix
    return "not linear in dy", "with twice the dy it is not twice as large", fix


def places(e) -> tuple[str, str, str] | None:
    """Images, rows, columns or channels that were left out."""
    names = {4: ("image", "row", "column", "channel"), 2: ("image", "channel")}.get(e.tensor.ndim)
    if names is None or e.name not in e.subject.input_names:
        return None
    ours, index = e.analytic.ravel()[e.at], np.unravel_index(e.at, e.analytic.shape)
    wrong = np.abs(ours - e.numeric) > SPREAD * np.abs(e.numeric).max()
    if not wrong.any() or wrong.all() or ours[wrong].any():
        return None
    for axis, what in enumerate(names):
        out = set(index[axis][wrong].tolist())
        if len(out) < e.tensor.shape[axis] and not out & set(index[axis][~wrong & (e.numeric != 0)].tolist()):
            few = ", ".join(map(str, sorted(out)[:5])) + (" ..." if len(out) > 5 else "")
            seen = f"it is 0 at {what} {few}, and right elsewhere: what is there was left out"
            return f"left out: {what}s", seen, f"go over every {what}, to the last"
    return None


def channels(e) -> tuple[str, str, str] | None:
    """A factor that each channel has of its own: a parameter that was forgotten, or stands in it twice."""
    if e.analytic.ndim < 2:
        return None
    last = np.unravel_index(e.at, e.analytic.shape)[-1]
    ours, ratios = e.analytic.ravel()[e.at], {}
    with np.errstate(all="ignore"):
        for c in np.unique(last):
            a, b = ours[last == c], e.numeric[last == c]
            ratio = (a @ b) / (b @ b)
            if len(a) < 2 or not np.isfinite(ratio) or np.linalg.norm(a - ratio * b) > SPREAD * np.linalg.norm(a):
                return None
            ratios[int(c)] = ratio
    found = np.array(list(ratios.values()))
    if len(found) < 2 or np.ptp(found) <= SPREAD * np.abs(found).max():
        return None
    for name, tensor in e.subject.tensors.items():
        if name == e.name or tensor.shape != e.analytic.shape[-1:]:
            continue
        value = tensor[list(ratios)]
        if np.allclose(found * value, 1, rtol=1e-3):
            return "factor missing", f"it lacks the factor {name} of each channel", f"multiply it by {name}"
        if np.allclose(found, value, rtol=1e-3):
            return "factor twice", f"it has the factor {name} of each channel once too often", f"take one {name} out"
    few = ", ".join(f"{r:.3g}" for r in found[:4])
    seen = f"analytic / numeric is one number in each channel, another in each: {few} ..."
    return "factor of each channel", seen, "look for what forward has once a channel: a scale, a deviation"


def uses(e) -> tuple[str, str, str] | None:
    """Several gradients of one thing of which the last was kept."""
    writes = getattr(e.subject, "writes", {}).get(e.name, [])
    if len(writes) > 1 and e.fits(sum(writes)):
        seen = f"backward writes it {len(writes)} times, and the last overwrites those before: the layer is used twice"
        return "overwritten", seen, "sum the gradients of all uses, then write_grad once"
    if e.subject.module is None or e.name not in e.subject.input_names:
        return None
    x = e.subject.tensors[e.name]
    inside = [m for m in e.subject.modules[1:] if m in e.subject.calls]
    heads = [
        e.subject.calls[m].dx[0]
        for m in inside
        if not m.children() and e.subject.calls[m].dx and np.array_equal(e.subject.calls[m].inputs[0], x)
    ]
    heads = [h for h in heads if h is not None and h.shape == x.shape]
    for extra, words in ((0.0, ""), (e.subject.dy, " and the shortcut")):
        if np.shape(extra) in ((), x.shape) and len(heads) + np.ndim(extra) > 1 and e.fits(sum(heads) + extra):
            seen = f"x goes into {len(heads)} layers{words}, and dx is not the sum of what comes back"
            return "paths not summed", seen, "dx = the sum of the gradients of all that x goes into"
    return None


def redrawn(e) -> tuple[str, str, str] | None:
    """A mask that backward draws anew, where it has to be forward's."""
    if not getattr(e.subject, "redraws", None):
        return None
    replayed = e.again(e.subject.dy, rewind=True)
    if replayed is None or not e.fits(replayed):
        return None
    seen = f"{e.subject.redraws[0]} draws in backward: with forward's draw in its place the gradient is right"
    return "drawn anew", seen, "draw once, in forward, and save the mask for backward: self.save(mask)"
