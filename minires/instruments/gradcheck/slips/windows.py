"""Convolutions and poolings: a stride, a padding or a dilation that backward forgets, windows that overwrite each
other, a mean's gradient behind a maximum."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from minires import nn, ops
from minires.geometry import resolve_padding, span

MOST = 4096  # windows of an image up to which slips are computed, one window at a time
SAME = 1e-9  # outputs nearer than this, relative, are of one forward
FITTING = "write each window where forward read it: rows p * stride to p * stride + reach, likewise columns"
ADDING = "windows overlap: dx[window] += ..., not =; start from zeros"


@dataclass(frozen=True)
class Windows:
    """Where the windows of a forward lie."""

    kernel: tuple
    stride: tuple
    pads: tuple  # ((top, bottom), (left, right))
    dilation: tuple

    def cells(self, p, q, stride=None, dilation=None):
        """The rows and columns, of the padded map, of window (p, q)."""
        (sv, sh), (dv, dh) = stride or self.stride, dilation or self.dilation
        R, S = self.kernel
        return slice(p * sv, p * sv + (R - 1) * dv + 1, dv), slice(q * sh, q * sh + (S - 1) * dh + 1, dh)

    def padded(self, x, value=0.0):
        return np.pad(x, ((0, 0), *self.pads, (0, 0)), constant_values=value)

    def crop(self, padded, shape, where="right"):
        """The map without its padding; or cut where a slip would."""
        (top, _), (left, _) = self.pads
        H, W = shape[1:3]
        if where == "not shifted":
            top = left = 0
        if where == "shifted twice":
            top, left = padded.shape[1] - H, padded.shape[2] - W
        return padded[:, top : top + H, left : left + W]


def same(a, b) -> bool:
    return a.shape == b.shape and bool(np.linalg.norm(a - b) <= SAME * max(np.linalg.norm(b), 1e-300))


def _tensors(e, ndim):
    return {n: t for n, t in e.subject.tensors.items() if t.ndim == ndim}


def _layouts(size, outputs, kernel):
    """Windows of such a kernel that make maps of this size out of maps of that: (stride, pads, dilation)."""
    (H, W), (P, Q) = size, outputs
    for d, s in product((1, 2, 3), (1, 2, 3, 4)):
        R, S = span(kernel, d)
        for top, left in product(range(R), range(S)):
            for more in ((0, 0), (1, 1), (0, 1), (1, 0)):
                pads = ((top, top + more[0]), (left, left + more[1]))
                if (H + sum(pads[0]) - R) // s + 1 == P and (W + sum(pads[1]) - S) // s + 1 == Q:
                    yield (s, s), pads, (d, d)


def _convolution(e):
    """(x's name, w's name, Windows, groups) of what a forward convolves; None where it does not."""
    subject, y = e.subject, e.subject.y
    if y.ndim != 4 or np.prod(y.shape[1:3]) > MOST:
        return None
    module = subject.module
    if isinstance(module, nn.Conv2d) and len(subject.inputs) == 1:
        w = module.w.data
        x = subject.inputs[0]
        pads = resolve_padding(module.pad, x.shape[1:3], w.shape[:2], module.stride, module.dilation)
        return (
            subject.input_names[0],
            module.w.name,
            Windows(w.shape[:2], module.stride, pads, module.dilation),
            (module.groups),
        )
    maps, rows = _tensors(e, 4), _tensors(e, 1)
    for (xn, x), (wn, w) in product(maps.items(), maps.items()):
        if xn == wn or x.shape[0] != y.shape[0] or w.shape[3] != y.shape[3] or x.shape[3] % max(1, w.shape[2]):
            continue
        groups = x.shape[3] // w.shape[2]
        biases = [0.0, *(b for b in rows.values() if b.shape == y.shape[3:])]
        for stride, pads, dilation in _layouts(x.shape[1:3], y.shape[1:3], w.shape[:2]):
            if max(map(max, pads)) >= max(x.shape[1:3]):
                continue
            if y.shape[3] % groups:
                continue
            try:
                plain = ops.conv2d_forward(x, w, None, stride=stride, pad=pads, dilation=dilation, groups=groups)
            except ValueError:
                continue
            if any(same(y, plain + b) for b in biases):
                return xn, wn, Windows(w.shape[:2], stride, pads, dilation), groups
    return None


def _dense_kernel(w, groups):
    """The kernel as one over all channels, zero between groups."""
    R, S, C, O = w.shape
    whole = np.zeros((R, S, C * groups, O))
    for g in range(groups):
        outputs = slice(g * O // groups, (g + 1) * O // groups)
        whole[:, :, g * C : (g + 1) * C, outputs] = w[..., outputs]
    return whole


def convolution(e):
    """Slips of dx and dw."""
    found = _convolution(e)
    if found is None or e.name not in found[:2]:
        return
    xn, wn, windows, groups = found
    x, w, dy = (np.asarray(a, np.float64) for a in (e.subject.tensors[xn], e.subject.tensors[wn], e.subject.dy))
    if e.name == xn:
        yield from _of_dx(x, w, dy, windows, groups)
    else:
        yield from _of_dw(x, w, dy, windows, groups)


def _of_dx(x, w, dy, windows, groups):
    kernel = _dense_kernel(w, groups)

    def dx(kernel=kernel, crop="right", assign=False, **where):
        padded = np.zeros(windows.padded(x).shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            rows, columns = windows.cells(p, q, **where)
            part = np.einsum("no,rsco->nrsc", dy[:, p, q], kernel, optimize=True)
            room = padded[:, rows, columns]
            part = part[:, : room.shape[1], : room.shape[2]]
            padded[:, rows, columns] = part if assign else room + part
        return windows.crop(padded, x.shape, crop)

    if windows.stride != (1, 1):
        yield (
            "stride",
            f"dx is laid out as if the stride were 1, forward has {windows.stride}",
            FITTING,
            dx(stride=(1, 1)),
        )
        for other in ((windows.stride[0], 1), (1, windows.stride[1])):
            seen = f"dx is laid out with stride {other}, forward has {windows.stride}"
            yield "stride", seen, FITTING, dx(stride=other)
    yield "overwritten windows", "each window of dx overwrites what those before it gave", ADDING, dx(assign=True)
    if any(map(any, windows.pads)):
        fix = "pad dx as forward pads x, and cut the margin off at the end: dx[:, top:top + H, left:left + W]"
        seen = f"dx is shifted by the padding {windows.pads}: it was not cut off where forward put it on"
        for crop in ("not shifted", "shifted twice"):
            yield "padding", seen, fix, dx(crop=crop)
    if windows.dilation != (1, 1):
        seen = f"dx is laid out as if the kernel were not dilated, forward has a dilation of {windows.dilation}"
        yield "dilation", seen, "step over the cells as forward does", dx(dilation=(1, 1))
    yield (
        "kernel order",
        "dx is that of a kernel which is not turned by 180 degrees",
        "dx is dy convolved with w turned by 180 degrees, C and O exchanged",
        dx(kernel=kernel[::-1, ::-1]),
    )
    if w.shape[0] == w.shape[1]:
        seen = "dx is that of a kernel whose rows and columns are exchanged"
        yield "kernel order", seen, "match the index order of forward", dx(kernel=kernel.transpose(1, 0, 2, 3))
    if kernel.shape[2] == kernel.shape[3]:
        seen = "dx is that of a kernel whose channels C and O are exchanged"
        yield "kernel order", seen, "sum over O, with w as forward has it", dx(kernel=kernel.transpose(0, 1, 3, 2))
    if groups > 1:
        fix = f"go through the {groups} groups as forward does: each has its own part of w, x and dy"
        O = w.shape[3] // groups
        first = _dense_kernel(np.concatenate([w[..., :O]] * groups, axis=-1), groups)
        yield "groups", "dx is computed with the kernels of the first group alone", fix, dx(kernel=first)
        spread = np.concatenate([w] * groups, axis=2)
        yield "groups", "dx is computed as if every output saw every channel: the groups are forgotten", fix, dx(spread)


def _of_dw(x, w, dy, windows, groups):
    def dw(padded=None, images=slice(None), assign=False, outer=False, **where):
        padded = windows.padded(x) if padded is None else padded
        total = np.zeros(_dense_kernel(w, groups).shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            patch = padded[images, windows.cells(p, q, **where)[0], windows.cells(p, q, **where)[1]]
            if patch.shape[1:3] != w.shape[:2]:
                patch = np.pad(
                    patch, ((0, 0), *((0, k - n) for k, n in zip(w.shape, patch.shape[1:3], strict=False)), (0, 0))
                )
            part = np.einsum("nrsc,no->rsco", patch, dy[images, p, q], optimize=True)
            total = part if assign else total + part
        O, C = w.shape[3] // groups, w.shape[2]
        parts = [total[:, :, g * C : (g + 1) * C, g * O : (g + 1) * O] for g in range(groups)]
        return np.concatenate(parts, axis=-1)

    if windows.stride != (1, 1):
        seen = f"dw reads x as if the stride were 1, forward has {windows.stride}"
        yield "stride", seen, FITTING.replace("write", "read"), dw(stride=(1, 1))
    if windows.dilation != (1, 1):
        seen = f"dw reads x as if the kernel were not dilated, forward has a dilation of {windows.dilation}"
        yield "dilation", seen, "step over the cells as forward does", dw(dilation=(1, 1))
    if any(map(any, windows.pads)):
        margin = [(0, sum(pads)) for pads in windows.pads]
        seen = f"dw reads x without the padding {windows.pads} that forward puts on"
        yield "padding", seen, "keep the padded x for backward", dw(np.pad(x, ((0, 0), *margin, (0, 0))))
    yield "overwritten windows", "dw holds the last window's part alone", "dw += ..., not =", dw(assign=True)
    for which, images in (("last", slice(-1, None)), ("first", slice(0, 1))):
        if len(x) > 1:
            yield "one image", f"dw holds the {which} image's part alone", "sum it over the batch", dw(images=images)


def _pool(e):
    """(x's name, 'max' or 'mean', Windows) of what pools; None where nothing does."""
    y, module = e.subject.y, e.subject.module
    if y.ndim != 4 or len(e.subject.inputs) != 1 or np.prod(y.shape[1:3]) > MOST:
        return None
    name, x = e.subject.input_names[0], e.subject.inputs[0]
    if x.ndim != 4 or (x.shape[0], x.shape[3]) != (y.shape[0], y.shape[3]):
        return None
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        windows = Windows(module.kernel, module.stride, module.pads(x.shape[1:]), module.dilation)
        return name, "max" if isinstance(module, nn.MaxPool2d) else "mean", windows
    for k, m in product(range(1, 6), range(1, 6)):
        if k * m == 1:
            continue
        for stride, pads, dilation in _layouts(x.shape[1:3], y.shape[1:3], (k, m)):
            windows = Windows((k, m), stride, pads, dilation)
            if max(map(max, pads)) * 2 > max(k, m) or dilation != (1, 1):
                continue
            for kind, margin in (("max", -np.inf), ("mean", 0.0)):
                if same(_reduced(windows, x, kind, margin, y.shape), y):
                    return name, kind, windows
    return None


def _reduced(windows, x, kind, margin, shape):
    padded, out = windows.padded(x, margin), np.zeros(shape)
    for p, q in np.ndindex(shape[1:3]):
        part = padded[(slice(None), *windows.cells(p, q))]
        out[:, p, q] = part.max((1, 2)) if kind == "max" else part.mean((1, 2))
    return out


def pooling(e):
    """Slips of dx."""
    found = _pool(e)
    if found is None or e.name != found[0]:
        return
    _, kind, windows = found
    x, dy = e.subject.inputs[0], e.subject.dy
    margin = -np.inf if kind == "max" else 0.0
    padded = windows.padded(x, margin)

    def winners(part):
        flat = part.reshape(len(part), -1, part.shape[-1])
        first = np.zeros_like(flat)
        np.put_along_axis(first, flat.argmax(1, keepdims=True), 1.0, axis=1)
        return first.reshape(part.shape)

    def lowest(part):
        return winners(np.where(np.isfinite(part), -part, -np.inf))

    def ties(part):
        return (part == part.max((1, 2), keepdims=True)).astype(float)

    def even(part):
        return np.full(part.shape, 1 / part[0, ..., 0].size)

    def dx(share, crop="right", assign=False, **where):
        total = np.zeros(padded.shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            given = share(padded[(slice(None), *windows.cells(p, q))]) * dy[:, p, q][:, None, None]
            at = (slice(None), *windows.cells(p, q, **where))
            room = total[at]
            given = given[:, : room.shape[1], : room.shape[2]]
            if assign == "winner":
                total[at] = np.where(given != 0, given, room)
            else:
                total[at] = given if assign else room + given
        return windows.crop(total, x.shape, crop)

    right, other = (winners, even) if kind == "max" else (even, winners)
    if kind == "max":
        fix = "let one winner of each window have it (argmax), as minires does, or share it among them"
        yield "all ties", "every pixel that equals its window's maximum receives the whole gradient", fix, dx(ties)
        fix = "hand dy to the pixel that won its window: where x equals y there"
        yield (
            "mean for maximum",
            "the window's gradient is spread evenly, as that of a mean; forward takes the maximum",
            fix,
            dx(other),
        )
        yield (
            "maximum",
            "the gradient goes to the smallest pixel of each window, forward takes the largest",
            fix,
            dx(lowest),
        )
    else:
        fix = f"give each of the window's {np.prod(windows.kernel)} cells an equal share"
        yield (
            "maximum for mean",
            "the window's gradient goes to its largest pixel; forward takes the mean",
            fix,
            dx(other),
        )
    for assign in (True, "winner"):
        yield (
            "overwritten windows",
            "each window of dx overwrites what those before it gave",
            ADDING,
            dx(right, assign=assign),
        )
    if windows.stride != (1, 1):
        seen = f"dx is laid out as if the stride were 1, forward has {windows.stride}"
        yield "stride", seen, FITTING, dx(right, stride=(1, 1))
    if windows.stride != windows.kernel:
        seen = f"dx is laid out as if the stride were the kernel's {windows.kernel}, forward has {windows.stride}"
        yield "stride", seen, FITTING, dx(right, stride=windows.kernel)
    if any(map(any, windows.pads)):
        fix = "pad dx as forward pads x, and cut the margin off at the end: dx[:, top:top + H, left:left + W]"
        seen = f"dx is shifted by the padding {windows.pads}: it was not cut off where forward put it on"
        for crop in ("not shifted", "shifted twice"):
            yield "padding", seen, fix, dx(right, crop=crop)


def whole(e):
    """Slips of a maximum, a mean or a sum over whole axes."""
    if len(e.subject.inputs) != 1 or e.name != e.subject.input_names[0]:
        return
    x, y, dy = e.subject.inputs[0], e.subject.y, e.subject.dy
    for axes in ((1, 2), (-1,), (0,), (1,), tuple(range(1, x.ndim)), tuple(range(x.ndim))):
        if max(axes) >= x.ndim or len({a % x.ndim for a in axes}) < len(axes):
            continue
        kept = x.max(axes, keepdims=True)
        size = int(np.prod([x.shape[a] for a in axes]))
        if kept.size != y.size or size < 2:
            continue
        arrived = dy.reshape(kept.shape) + np.zeros_like(x)
        over = "the map" if axes == (1, 2) else "all numbers" if len(axes) == x.ndim else f"axes {axes}"
        ties = x == kept
        if same(kept.reshape(y.shape), y):
            fix = "hand dy to the winner alone: dx = dy where x equals its maximum, else 0"
            seen = f"the gradient is spread evenly over {over}, as that of a mean; forward takes the maximum"
            yield "mean for maximum", seen, fix, arrived / size
            yield "mean for maximum", seen.replace("a mean", "a sum"), fix, arrived
            seen = f"every number that equals the maximum over {over} receives the whole gradient"
            yield "all ties", seen, "let one winner have it, or share it", arrived * ties
            yield (
                "maximum",
                "the gradient goes to the smallest, forward takes the largest",
                fix,
                arrived * (x == x.min(axes, keepdims=True)),
            )
        elif same(x.mean(axes).reshape(y.shape), y) or same(x.sum(axes).reshape(y.shape), y):
            seen = f"the gradient goes to the largest over {over}; forward takes all"
            yield "maximum for mean", seen, "give each an equal share", arrived * ties
