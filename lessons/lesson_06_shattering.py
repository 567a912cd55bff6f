"""Lesson 6: Do neighbouring images agree on the gradient?

The gradient that a network sends back to its input, for images side by side on the way from one hand sign to another,
and for pairs of unrelated random inputs. In a deep plain network it is white noise, the shattered gradients of
D. Balduzzi et al., arXiv:1702.08591, section 2; how fast the agreement goes, plain and residual, follows from a count
of ReLUs that both images switch on (section 3).
"""

import math
import sys

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.networks import dense_stack
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.data import make_signs
from minires.errors import ConfigError
from minires.instruments.bn_doctor import recalibrate
from minires.instruments.style import BLUE, INK, MUTED, ORANGE, TEXT, dress, figure, legend
from minires.nn import Dense, Sequential

LESSON = Lesson(
    number=6,
    title="Do neighbouring images agree on the gradient?",
    question="Two images that hardly differ should want nearly the same change of the network. Do they, when the "
    "network is deep?",
    idea=r"""
    In a plain network of 50 layers with batch normalisation (BN) they do not, not even where one image fades into
    another so slowly that the eye sees no step. The gradient has a healthy size (it even explodes, lesson 3), but its
    direction is white noise: it is shattered. With skips the neighbours agree.

    Take the cosine between the gradients that two inputs send back, averaged over all pairs of a batch of unrelated
    random inputs. At the output both get the same gradient: 1. A ReLU lets pass what its unit was on for,
    $dx = dy \odot [y > 0]$. Half of the units are on for one input, a quarter for both, so of the power of the gradient
    a half goes on and of what the two have in common a quarter: the cosine is halved in each layer. After L layers

    $\left(\frac{1}{2}\right)^L$

    is left, in 50 layers nothing. In a residual block $x + F(x)$ the shortcut hands the agreement on unharmed; only
    the branch, with its two ReLUs, spoils three quarters of its own share. How large is that share? With
    $a = \pi / (\pi - 1)$, the constant of lesson 5, each block adds $1/a$ to the variance v of x, and its two BNs
    divide the power of the branch's gradient by v and by $1/a$. Power $1 + a/v$ arrives, of which $1 + a/4v$ is in
    common: the cosine changes by

    $\frac{v + a/4}{v + a}$

    in each block, with v = 1 in the first: nearly 1 where v has grown. A product of such factors is a power of the
    depth, not an exponential.

    All gradients are those of the activations, at initialisation. BN takes its statistics from a batch and then holds
    them. That matters: with BN in training mode a plain network's gradients sum to zero over the batch, by the mean
    term of BN's backward, so that their mean cosine is about $-1/(N-1)$ at any depth. One would measure the centring.
    """,
    look_for="The strips: bands in the residual network, snow in the plain one. At the lower right, read from right to "
    "left as the gradient goes: the plain line is gone within ten layers, the residual one follows its theory down.",
    wrong_if="The gradients of neighbours on the path agreed in the plain network too, or the mean cosine left the two "
    "dashed lines.",
    exercise="How shallow must the plain network be before neighbours agree as well as in the residual one of 50 "
    "layers? Try `minires lesson 6 --depth 10` and go from there. Then make the path finer: `--points 512`.",
    next_try="minires lesson 6 --depth 20",
    sources=(
        "D. Balduzzi et al., arXiv:1702.08591, section 2 (shattered gradients), section 3 (the halving)",
        "K. He et al., arXiv:1603.05027, figure 4 e (the block)",
    ),
    shows=(ops.relu_backward, ops.batchnorm_eval_backward, recalibrate),
    quick={"seeds": 3, "points": 64},
)
KINDS = {"plain": "none", "residual": "pre"}
SIZE, SIGNS = 16, 128  # pixels; images that give BN its statistics
LAGS = 24
A = math.pi / (math.pi - 1)
MEASURED_AT = {"depth": 50, "width": 128, "batch": 128}


def measure(
    *, depth: int = 50, width: int = 128, batch: int = 128, points: int = 128, seeds: int = 5, seed: int = 0
) -> dict:
    """How well gradients agree: between unrelated inputs by depth, and along a path between two hand signs.

    depth   dense layers, an even number: a residual block has two
    width   units in each layer
    batch   random inputs, all pairs of which are compared
    points  images on the path from one sign to the other
    seeds   how many networks are averaged
    seed    the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds, depth=depth)
    if batch < 2 or points <= LAGS:
        raise ConfigError(f"expected --batch 2 or more and --points more than {LAGS}, got {batch} and {points}")
    images, strips = _signs(), {}
    agreement, lags = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    with blas_threads(1):
        for s in range(seed, seed + seeds):
            for kind, skip in KINDS.items():
                network = dense_stack(depth, width, skip=skip, bn=True, seed=s)
                agreement[kind].append(_by_depth(network, batch, width, s))
                gradients = _along_path(network, images, points, width, s)
                lags[kind].append(_autocorrelation(gradients))
                strips.setdefault(kind, _middle_row(gradients))
    return {"knobs": knobs, "agreement": agreement, "lags": lags, "strips": strips}


def _signs():
    """Hand signs as rows of numbers (SIGNS, SIZE * SIZE * 3), class after class, of mean 0 and variance 1."""
    images = make_signs(SIGNS, 6, SIZE)[0].images(np.arange(SIGNS)).reshape(SIGNS, -1).astype(np.float64)
    return (images - images.mean()) / images.std()


def _direction(width, rows, seed):
    """The gradient at the output: one random direction, the same for every input."""
    return np.tile(np.random.default_rng([seed, 2]).standard_normal(width), (rows, 1))


def _by_depth(network, batch, width, seed) -> list[float]:
    """The mean cosine between two inputs' gradients, before the first unit and after each."""
    x = np.random.default_rng([seed, 1]).standard_normal((batch, width))
    recalibrate(network, [x]).eval().forward(x)
    dy = _direction(width, batch, seed)
    cosines = [1.0]
    for unit in reversed(network.layers):
        dy = unit.backward(dy)
        cosines.append(_mean_cosine(dy))
    return cosines[::-1]


def _mean_cosine(gradients) -> float:
    """Over all pairs of rows: |sum of unit rows|^2 counts each pair twice and each row with itself once."""
    rows, n = _unit(gradients), len(gradients)
    return float(((rows.sum(axis=0) ** 2).sum() - n) / (n * (n - 1)))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _along_path(network, images, points, width, seed):
    """The gradient in the image (points, SIZE * SIZE * 3), as one sign fades into another of another class."""
    stem = Dense("input", images.shape[1], width, bias=False, init="he", seed=seed).astype(np.float64)
    network = Sequential(stem, *network.layers)
    first, last = images[seed % SIGNS], images[(seed + 5) % SIGNS]
    share = np.linspace(0, 1, points)[:, None]
    recalibrate(network, [images]).eval().forward((1 - share) * first + share * last)
    return network.backward(_direction(width, points, seed))


def _autocorrelation(gradients) -> list[float]:
    """The mean cosine between the gradients of images that lie 1, 2, ... LAGS points apart."""
    rows = _unit(gradients)
    return [float((rows[lag:] * rows[:-lag]).sum(axis=1).mean()) for lag in range(1, LAGS + 1)]


def _middle_row(gradients) -> list:
    """(points, SIZE): the gradient in the middle row of pixels, colours summed, over its size in the image."""
    rows = _unit(gradients).reshape(-1, SIZE, SIZE, 3)[:, SIZE // 2].sum(axis=-1)
    return rows.round(4).tolist()


def theory(kind: str, depth: int) -> list[float]:
    """The mean cosine from the input to the output (1): halved in each layer, or the product over the blocks."""
    if kind == "plain":
        return [0.5**left for left in range(depth, -1, -1)]
    variance = 1 + np.arange(depth // 2) / A
    factors = (variance + A / 4) / (variance + A)
    return [*np.cumprod(factors[::-1])[::-1].tolist(), 1.0]


def check(result: dict) -> list[Claim]:
    """The halving in the plain network, the power law in the residual one, and the neighbours on the path."""
    knobs = result["knobs"]
    depth, seeds = knobs["depth"], knobs["seeds"]
    mean = {kind: np.mean(result["agreement"][kind], axis=0) for kind in KINDS}
    plain, residual = (np.array(theory(kind, depth)) for kind in KINDS)
    near = slice(-1 - min(depth, 6), -1)
    lag = {kind: float(np.mean(result["lags"][kind], axis=0)[0]) for kind in KINDS}
    moved = ", ".join(f"{name} {value}" for name, value in MEASURED_AT.items() if knobs[name] != value)
    skipped = f"the bounds are for {moved}; hold the numbers against the theory" if moved else ""
    few = skipped or ("" if seeds >= 3 else "one network wanders from its mean: judged from three seeds on")
    path = skipped or ("" if 64 <= knobs["points"] <= 256 else "the bounds are for paths of 64 to 256 points")
    claims = [
        Claim(
            "plain: mean cosine against (1/2)^L, L = 1..6, largest gap", _gap(mean["plain"], plain, near), 0, 0.03, few
        ),
        Claim("plain: mean cosine at the input", float(mean["plain"][0]), -0.005, 0.005, skipped),
        Claim("residual: mean cosine at the input", float(mean["residual"][0]), 0.008, None, skipped),
        Claim("residual: mean cosine at the input / theory", float(mean["residual"][0] / residual[0]), 0.6, 1.4, few),
        Claim("residual: neighbours on the path, cosine", lag["residual"], 0.6, None, path),
        Claim("plain: neighbours on the path, cosine", lag["plain"], -0.15, 0.15, path),
    ]
    return assert_claims(claims, LESSON, result)


def _gap(measured, expected, where) -> float:
    return float(abs(measured - expected)[where].max())


def plot(result: dict):
    """The path and its gradients as heat strips; the agreement by distance and by depth."""
    fig, axes = figure(LESSON.title, panels=2, height=6.6, note=note(LESSON, result))
    for ax in axes:
        ax.remove()
    left, right = fig.add_gridspec(1, 2, width_ratios=(1.05, 1))
    left, right = left.subgridspec(3, 1, height_ratios=(1, 2.2, 2.2)), right.subgridspec(2, 1)
    _draw_path(fig.add_subplot(left[0]), result["knobs"]["seed"])
    for row, kind in enumerate(KINDS, 1):
        _draw_strip(fig.add_subplot(left[row]), kind, result["strips"][kind], bottom=row == len(KINDS))
    top, bottom = fig.add_subplot(right[0]), fig.add_subplot(right[1])
    colors = {"plain": ORANGE, "residual": BLUE}
    for kind, color in colors.items():
        lags = np.vstack([np.ones(result["knobs"]["seeds"]), np.transpose(result["lags"][kind])])
        _band(top, np.arange(LAGS + 1), lags.T, color, kind, marker="o")
        curves = np.array(result["agreement"][kind])
        at = np.linspace(0, result["knobs"]["depth"], curves.shape[1])
        _band(bottom, at, curves, color, kind)
        expected = theory(kind, result["knobs"]["depth"])
        bottom.plot(at, expected, color=INK, linestyle="--", linewidth=1.2, label="theory" if kind == "plain" else None)
    top.set_xlabel("images apart on the path")
    bottom.set_xlabel("layers from the input")
    for ax, heading in ((top, "Neighbours on the path"), (bottom, "Unrelated random inputs, by depth")):
        dress(ax)
        ax.axhline(0, color=MUTED, linewidth=0.8)
        ax.set_ylim(-0.15, 1.05)
        ax.set_ylabel("mean cosine of gradients")
        legend(ax, heading)
    return fig


def _draw_path(ax, seed):
    """Nine images of the path, spread over the strips' width."""
    images = make_signs(SIGNS, 6, SIZE)[0].images(np.array([seed % SIGNS, (seed + 5) % SIGNS])) / 255
    shown = [(1 - share) * images[0] + share * images[1] for share in np.linspace(0, 1, 9)]
    ax.imshow(np.hstack(shown), aspect="auto", extent=(0, 1, 0, 1))
    ax.axis("off")
    ax.set_title("A path between two hand signs", loc="left", fontsize=TEXT, color=INK)


def _draw_strip(ax, kind, strip, *, bottom):
    """Each column the gradient in the middle row of one image's pixels."""
    strip = np.array(strip).T
    limit = np.quantile(abs(strip), 0.98)
    ax.imshow(strip, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, extent=(0, 1, SIZE, 0), interpolation="none")
    dress(ax)
    ax.grid(False)
    ax.set_title(f"{kind.capitalize()}: the gradient there, middle row of pixels", loc="left", fontsize=TEXT, color=INK)
    ax.set_ylabel("pixel")
    ax.set_yticks([0.5, 7.5, 15.5], ["1", "8", "16"])
    ax.set_xticks([0, 0.5, 1], ["one sign", "half of each", "the other"] if bottom else ["", "", ""])


def _band(ax, at, curves, color, label, marker=None):
    ax.fill_between(at, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2, linewidth=0)
    ax.plot(at, curves.mean(axis=0), color=color, linewidth=2.2, marker=marker, markersize=4, label=label)


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
