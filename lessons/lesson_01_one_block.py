"""Lesson 1: One batch through one block, forward and back.

Every layer of a residual block on a batch of images: what it sends forward, what gradient it gets and hands on, and
what becomes of the gradient where the two paths meet and part. K. He et al., arXiv:1512.03385, section 3.2, and the
identity mappings of arXiv:1603.05027.
"""

import sys

import numpy as np
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.terminal import run

from minires import ops
from minires.backend import blas_threads
from minires.data import make_signs
from minires.errors import ConfigError
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, TEXT, figure
from minires.nn import BatchNorm, Block, Conv2d, ReLU, Sequential, resnet
from minires.nn.probe import cosine, rms
from minires.train import Preprocess

LESSON = Lesson(
    number=1,
    title="One batch, forward and back",
    question="A batch of images goes forward through a residual block, and its gradient comes back. What does each "
    "layer receive and send, and what happens to the gradient where two paths meet?",
    idea=r"""
    It is copied at the add node and summed at the block's input. Not halved, not averaged: summed, to the last bit.

    A block computes $y = F(x) + x$: the branch F is a convolution, batch normalisation (BN), ReLU, and once more
    without the ReLU; the shortcut is x itself. If one input of a sum moves by a little, the sum moves by as much, so
    both inputs of the add node receive the whole gradient dy. And x is used twice, by the branch and by the shortcut;
    it answers for both, so its gradient is the sum of what comes back through each. At the start of training the two
    have nothing to do with each other: they stand at right angles, and their squares add up.

    On its way back through the branch each layer does to the gradient what its derivative says. The ReLU passes it
    where its output was above zero and stops it elsewhere. BN takes out the gradient's mean and its part along the
    activations, and divides by their spread. The convolution spreads each pixel's gradient over the window it came
    from. Through the shortcut, nothing happens to it at all. That is the whole trick.

    Set the branch to zero, and a block with equal shapes is the identity, forward and back. Doing nothing is the
    easiest thing for a block with a skip to learn. Layers without one would have to build the identity out of a
    convolution, BN and a ReLU. Lesson 8 shows that they fail to.
    """,
    look_for="Upper row: two convolutions blur the hand, and at the add x joins it again, as it was. Middle row, read "
    "from the right: the gradient on its way back. Lowest row: what comes back through each path, and their sum.",
    wrong_if="The input's gradient differed from the sum of both paths' in a single bit, or a block with a branch of "
    "zero changed its input.",
    exercise="Block 2 halves the map, so its shortcut is a 1x1 convolution with BN: `minires lesson 1 --block 2`. What "
    "does the shortcut do to the gradient now? And which pictures change with `--skip off`?",
    next_try="minires lesson 1 --block 2",
    sources=(
        "K. He et al., arXiv:1512.03385, section 3.2 (the block)",
        "K. He et al., arXiv:1603.05027, equations 4 and 5 (the gradient through the shortcut)",
    ),
    shows=(Block, ops.add_backward, ops.relu_backward),
    quick={"seeds": 1},
)
SIZE, BATCH, SHOWN = 32, 16, 5  # pixels, images, the one in the picture
NAMES = {Conv2d: "conv", BatchNorm: "BN", ReLU: "ReLU"}


def measure(*, block: int = 1, skip: bool = True, seeds: int = 5, seed: int = 0) -> dict:
    """Every tensor of one block of a ResNet-8 on hand signs, with its gradient, at initialisation.

    block  1, 2 or 3: the first has an identity shortcut, the others a projection
    skip   whether the block has a shortcut
    seeds  how many networks; the picture shows the first
    seed   the first of them
    """
    knobs = dict(locals())
    at_least_one(seeds=seeds)
    if block not in (1, 2, 3):
        raise ConfigError(f"--block: a ResNet-8 has blocks 1, 2 and 3, got {block}")
    data, _ = make_signs(BATCH, 6, SIZE)
    images = Preprocess.measure(data)(data.images(np.arange(BATCH)))
    records, zeros = [], []
    with blas_threads(1):  # the products are small
        for s in range(seed, seed + seeds):
            model = resnet("resnet8", data.shape, 6, skip=skip, seed=s)
            records.append(_record(*_through(model, block, images, data.labels)))
            zeros.append(_zero_branch(s, images[:4], data.labels[:4]))
    shown = {key: records[0][key] for key in ("tensors", "parts")}
    return {"knobs": knobs, "numbers": [record["numbers"] for record in records], "zeros": zeros} | shown


def _through(model, block, images, labels):
    """(the block, its input x, the gradient dy at its output, its dx) of one pass through the whole network."""
    unit = model.layers[block].layers[0]  # a stage of a ResNet-8 has one block
    before, after = Sequential(*model.layers[:block]), Sequential(*model.layers[block + 1 :])
    x = before.forward(images)
    _, probs = ops.softmax_cross_entropy_forward(after.forward(unit.forward(x)), labels)
    dy = after.backward(ops.softmax_cross_entropy_backward(probs, labels))
    return unit, x, dy, unit.backward(dy)


def _record(unit, x, dy, dx) -> dict:
    """Every tensor of the block and its gradient, layer by layer; the paths' parts of dx, which the block gave."""
    names, values = ["x"], [x]
    for layer in unit.branch.layers:
        names.append(NAMES[type(layer)])
        values.append(layer.forward(values[-1]))
    if unit.shortcut is not None:
        beside = x if unit.shortcut == Block.IDENTITY else unit.shortcut.forward(x)
        names.append("add")
        values.append(unit.add.forward(values[-1], beside))
    names.append("y")
    values.append(unit.after.forward(values[-1]))
    arriving = unit.after.backward(dy)  # at the add node, or at the plain branch's end
    gradients = [dy, arriving] if unit.shortcut is not None else [dy]
    branch = arriving
    for layer in reversed(unit.branch.layers):
        gradients.append(branch)
        branch = layer.backward(branch)
    gradients.append(dx)
    numbers = {"branch_rms": float(rms(branch)), "dx_rms": float(rms(dx))}
    parts = {"through the branch": branch}
    if unit.shortcut is not None:
        shortcut = arriving if unit.shortcut == Block.IDENTITY else unit.shortcut.backward(arriving)
        parts["through the shortcut"] = shortcut
        numbers |= {
            "copy_error": max(_difference(handed, arriving) for handed in unit.add.backward(arriving)),
            "sum_error": _difference(dx, branch + shortcut),
            "shortcut_rms": float(rms(shortcut)),
            "cosine": float(cosine(branch, shortcut)),
        }
    tensors = [
        {"name": name, "shape": list(value.shape[1:]), "value": _tile(value), "gradient": _tile(gradient)}
        for name, value, gradient in zip(names, values, reversed(gradients), strict=True)
    ]
    return {"numbers": numbers, "tensors": tensors, "parts": {name: _tile(part) for name, part in parts.items()}}


def _zero_branch(seed, images, labels) -> dict:
    """How far from the identity is a block whose branch's last BN starts at zero: forward, and backward."""
    errors = {}
    for preact in (False, True):
        model = resnet("resnet8", images.shape[1:], 6, last_gamma=0.0, preact=preact, seed=seed)
        unit, x, dy, dx = _through(model, 1, images, labels)
        passed = dy if preact else dy * (x > 0)  # the last ReLU of the post-activation block stops the rest
        kind = "pre" if preact else "post"
        errors |= {f"{kind}_forward": _difference(unit.forward(x), x), f"{kind}_backward": _difference(dx, passed)}
    return errors


def _difference(a, b) -> float:
    return float(abs(a - b).max())


def _tile(a) -> dict:
    """The shown image's map, RMS over the channels, as shares of its largest number; the RMS of the whole batch."""
    image = np.sqrt((a[SHOWN].astype(np.float64) ** 2).mean(axis=-1))
    return {"rms": float(rms(a)), "map": (image / (image.max() or 1)).round(3).tolist()}


def check(result: dict) -> list[Claim]:
    """Copied at the add node, summed at the input, nothing at all with a branch of zero: exactly."""
    numbers, claims = result["numbers"], []
    plain = "" if result["knobs"]["skip"] else "without a skip there is no add node"
    for text, key, low, high in (
        ("add node: what each path gets, less what arrives", "copy_error", 0, 0),
        ("block's input: dx, less branch + shortcut", "sum_error", 0, 0),
        ("cosine of the two paths' gradients (mean)", "cosine", -0.1, 0.1),
    ):
        found = None if plain else [run[key] for run in numbers]
        mean_or_worst = None if plain else float(np.mean(found)) if key == "cosine" else max(found)
        claims.append(Claim(text, mean_or_worst, low, high, plain))
    for key, text in (
        ("post_forward", "branch of zero, post-activation: y less x"),
        ("post_backward", "the same: dx less dy, where x > 0"),
        ("pre_forward", "branch of zero, pre-activation: y less x"),
        ("pre_backward", "the same: dx less dy"),
    ):
        claims.append(Claim(text, max(zero[key] for zero in result["zeros"]), 0, 0))
    return assert_claims(claims, LESSON, result)


def plot(result: dict):
    """The block as a strip of pictures: values above, gradients below, and how the two paths' gradients add up."""
    tensors, parts, first = result["tensors"], result["parts"], result["numbers"][0]
    fig, (ax,) = figure("Through a block, forward and back", height=4.9, note=note(LESSON, result))
    ax.set_axis_off()
    ax.set(xlim=(-0.5, len(tensors) - 0.05), ylim=(-0.15, 3.7))
    for y, key, colors, color, forward in (
        (2.5, "value", "viridis", BLUE, True),
        (1.2, "gradient", "magma", ORANGE, False),
    ):
        ax.text(-0.45, y + 0.38, f"{key}s", rotation=90, va="center", fontsize=TEXT, color=color)
        for i, tensor in enumerate(tensors):
            shape = "x".join(map(str, tensor["shape"]))
            _picture(ax, i, y, tensor[key], colors, f"{tensor['name']} {shape}" if forward else f"d{tensor['name']}")
            if i:
                _arrow(ax, (i - 0.1, y + 0.38), (i, y + 0.38), color, forward)
        if len(parts) == 2:
            add = len(tensors) - 2
            over = y + 1.04
            heights = [over - 0.1, over, over, over - 0.1]
            ax.plot([0.45, 0.45, add + 0.45, add + 0.45], heights, color=GREEN, linewidth=1.6)
            _arrow(ax, (2.9, over), (3.1, over), GREEN, forward)
            ax.text(3.15, over + 0.03, "shortcut", fontsize=TEXT - 2, color=GREEN)
    ax.text(-0.45, 0.38, "at x", rotation=90, va="center", fontsize=TEXT, color=ORANGE)
    for i, (name, part) in enumerate([*parts.items(), ("dx", tensors[0]["gradient"])]):
        _picture(ax, 1.6 * i, 0, part, "magma", name)
        if len(parts) == 2 and i < 2:
            ax.text(1.6 * i + 1.25, 0.38, "+="[i], ha="center", va="center", fontsize=TEXT + 6, color=INK)
    said = "Brightness: RMS over the channels.\nBelow: RMS of the whole batch."
    if len(parts) == 2:
        said += f"\nCosine of the two paths: {first['cosine']:+.3f}\ndx less their sum: {first['sum_error']:g}"
    ax.text(4.5, 0.38, said, va="center", fontsize=TEXT - 2, color=INK, linespacing=1.6)
    return fig


def _picture(ax, x, y, tile, colors, title):
    box = ax.inset_axes((x, y, 0.9, 0.76), transform=ax.transData)
    box.imshow(tile["map"], cmap=colors, vmin=0, vmax=1)
    box.set(xticks=[], yticks=[])
    for side in box.spines.values():
        side.set_visible(False)
    box.set_title(title, fontsize=TEXT - 4, color=INK, pad=3)
    box.set_xlabel(f"{tile['rms']:.2g}", fontsize=TEXT - 4, color=MUTED, labelpad=2)


def _arrow(ax, start, end, color, forward):
    style = {"arrowstyle": "-|>" if forward else "<|-", "color": color, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
