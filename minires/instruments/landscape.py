"""The loss around a trained network's weights, along random directions whose filters have the weights' own norms.

    line:   f(a)    = L(w + a d1)
    plane:  f(a, b) = L(w + a d1 + b d2)

H. Li et al., "Visualizing the Loss Landscape of Neural Nets", arXiv:1712.09913, section 4. A network with ReLU or
batch normalisation computes the same with its filters scaled up, and then looks flat to a step of fixed length; a
random direction is therefore scaled filter by filter: d_ij <- d_ij |w_ij| / |d_ij| for filter j of layer i.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from minires import ops
from minires.backend import Array, get_xp
from minires.errors import ConfigError
from minires.instruments.style import INK, MARKERS, MUTED, PALETTE, TEXT, canvas, dress, figure, legend
from minires.nn import Module
from minires.nn.init import generator
from minires.train.classifier import EVAL_BATCH, predict_logits

HEIGHTS = "viridis"


@dataclass(frozen=True)
class Landscape:
    """Mean cross-entropy and accuracy at w + a d1 (+ b d2). The middle point is the network itself."""

    steps: np.ndarray  # (P,), of a and of b, 0 in the middle
    loss: np.ndarray  # (P,) by a, or (P, P) by b and a; NaN where a logit overflowed
    accuracy: np.ndarray  # like loss
    images: int
    seed: int

    @property
    def centre(self) -> tuple:
        """The index of the network itself."""
        return (len(self.steps) // 2,) * self.loss.ndim

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}


def direction(model: Module, name: str, seed: int = 0) -> list:
    """A filter-normalised random direction: one array a parameter, in the order of `model.params()`.

    A filter is what makes one output channel: w[..., o]. Biases, gamma and beta do not move: theirs is zero, as in the
    authors' code. The noise is keyed by the seed, the direction's name and the parameter's.
    """
    return [_normalised(p.data, generator(seed, f"{name} {p.name}")) for p in model.params()]


def landscape(
    model: Module,
    x: Array,
    labels: Array,
    *,
    plane: bool = False,
    span: float = 1.0,
    points: int = 21,
    seed: int = 0,
    on_point: Callable | None = None,
) -> Landscape:
    """The loss of x (N, H, W, C), labels (N,) at `points` steps from -span to span, along one direction or two.

    Evaluation mode: running statistics stay those of the trained network. The weights are moved in place and are
    back, to the bit, on any exit. on_point() is called after each of the points or points^2 evaluations.
    """
    if points < 3 or points % 2 == 0 or not 0 < span < np.inf:
        raise ConfigError(
            f"landscape: expected an odd number of points, 3 or more, and a span above 0, got {points} and {span}: "
            "the middle point is the network itself"
        )
    if not len(x):
        raise ConfigError("landscape: expected at least one image to measure the loss on, got none")
    steps = span * np.linspace(-1, 1, points)
    first = direction(model, "direction 1", seed)
    second = direction(model, "direction 2", seed) if plane else first
    places = [(a, b) for b in (steps if plane else [0.0]) for a in steps]
    found = []
    with _weights(model) as kept:
        for a, b in places:
            for p, w, d1, d2 in zip(model.params(), kept, first, second, strict=True):
                p.data[...] = w + float(a) * d1 + float(b) * d2
            found.append(_loss_and_accuracy(model, x, labels))
            if on_point:
                on_point()
    loss, accuracy = np.array(found).T.reshape(2, *(points,) * (1 + plane))
    return Landscape(steps, loss, accuracy, len(x), seed)


def plot_landscape(found: dict[str, Landscape], *, note: str = "") -> Figure:
    """Lines by label in one picture of loss and accuracy; of each plane the surface, and beside it its contours."""
    planes = {land.loss.ndim == 2 for land in found.values()}
    if len(planes) != 1:
        raise ConfigError("plot_landscape: expected lines or planes, at least one and all of one kind")
    return _plot_planes(found, note) if planes.pop() else _plot_lines(found, note)


def _plot_lines(found, note) -> Figure:
    fig, (left, right) = figure("The loss around the weights", panels=2, note=note)
    for (label, land), color, marker in zip(found.items(), cycle(PALETTE), cycle(MARKERS), strict=False):
        style = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 2, "label": _ending(label)}
        left.plot(land.steps, land.loss, **style)
        right.plot(land.steps, land.accuracy, **style)
    for ax in (left, right):
        ax.axvline(0, color=MUTED, linewidth=1, linestyle=":")
        ax.set_xlabel("step a along a random direction with the filters' norms")
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _number(v)))
    left.yaxis.set_minor_locator(NullLocator())
    left.set_ylabel("L(w + a d)")
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    columns = 3 if max(map(len, found)) < 15 else 1
    legend(left, "Loss (cross-entropy)", columns=columns)
    legend(right, "Accuracy", columns=columns)
    return fig


def _plot_planes(found, note) -> Figure:
    fig = canvas("The loss around the weights", height=4.9 * len(found), note=note)
    finite = np.concatenate([land.loss[np.isfinite(land.loss)] for land in found.values()])
    low = max(finite.min(), 1e-6)
    levels = np.geomspace(0.999 * low, max(1.001 * finite.max(), 1.1 * low), 17)  # one scale for all
    grid = fig.add_gridspec(len(found), 2)
    for i, (label, land) in enumerate(found.items()):
        _surface(fig.add_subplot(grid[i, 0], projection="3d"), land, levels, label)
        ax = fig.add_subplot(grid[i, 1])
        dress(ax)
        filled = ax.contourf(land.steps, land.steps, land.loss, levels, cmap=HEIGHTS, norm=LogNorm())
        ax.contour(land.steps, land.steps, land.loss, levels, colors="white", linewidths=0.6, alpha=0.7)
        ax.plot(0, 0, marker="+", color="white", markersize=12, markeredgewidth=2)
        ax.set(aspect="equal", xlabel="step a, direction 1", ylabel="step b, direction 2")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, prune="both"))
        ax.set_title(f"+: the network, loss {land.loss[land.centre]:.3g}", fontsize=TEXT - 1, color=INK, loc="left")
        bar = fig.colorbar(filled, ax=ax, shrink=0.9, ticks=levels[::4], format=FuncFormatter(lambda v, _: _number(v)))
        bar.set_label("loss (cross-entropy), log scale", color=INK, fontsize=TEXT - 1)
        bar.outline.set_visible(False)
        bar.ax.tick_params(which="both", colors=MUTED, labelsize=TEXT - 2, length=0)
    return fig


def _surface(ax, land: Landscape, levels, label: str) -> None:
    a, b = np.meshgrid(land.steps, land.steps)
    height = np.log10(np.clip(land.loss, levels[0], levels[-1]))
    low, high = np.log10(levels[[0, -1]])
    ax.plot_surface(
        a, b, height, cmap=HEIGHTS, vmin=low, vmax=high, rcount=99, ccount=99, linewidth=0.2, edgecolor="white"
    )
    ax.set_zlim(low, high)
    ax.zaxis.set_major_locator(FixedLocator(np.log10(levels[::4])))
    ax.zaxis.set_major_formatter(FuncFormatter(lambda v, _: _number(10**v)))
    ax.set(xlabel="a", ylabel="b", box_aspect=(1, 1, 0.75))
    ax.set_title(_ending(label), fontsize=TEXT, color=INK, fontweight="bold")
    ax.view_init(elev=32, azim=-58)
    ax.tick_params(colors=MUTED, labelsize=TEXT - 2, pad=0)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def _ending(label: str, most: int = 40) -> str:
    """The end of a long path, which is what tells one run from another."""
    return label if len(label) <= most else "…" + label[1 - most :]


def _number(value: float) -> str:
    """Two digits: '0.013', '1.9', '190', '1,100'."""
    return f"{float(f'{value:.2g}'):,g}"


@contextmanager
def _weights(model: Module):
    """Yields a copy of each parameter's numbers, and puts them back, to the bit, on any exit."""
    kept = [p.data.copy() for p in model.params()]
    try:
        yield kept
    finally:
        for p, data in zip(model.params(), kept, strict=True):
            p.data[...] = data


def _normalised(w, rng):
    xp = get_xp(w)
    if w.ndim < 2:
        return xp.zeros_like(w)
    noise = xp.asarray(rng.standard_normal(w.shape, dtype=np.float32)).astype(w.dtype)
    return noise * (_filter_norms(w) / _filter_norms(noise))


def _filter_norms(w):
    """(O,): the Euclidean norm of w[..., o]."""
    return get_xp(w).sqrt((w * w).sum(axis=tuple(range(w.ndim - 1))))


def _loss_and_accuracy(model: Module, x, labels) -> tuple[float, float]:
    loss = right = 0.0
    with np.errstate(all="ignore"):  # far from the network logits may overflow, which leaves a gap
        for start in range(0, len(x), EVAL_BATCH):
            batch = slice(start, start + EVAL_BATCH)
            logits = predict_logits(model, x[batch])
            loss += float(ops.softmax_cross_entropy_forward(logits, labels[batch])[0]) * len(logits)
            right += float((logits.argmax(axis=1) == labels[batch]).sum())
    return loss / len(x), right / len(x)
