"""How the gradient flows back through a network, and what the skips do to it.

One batch, one training-mode forward and backward, nothing changed: `gradflow`. The residual network beside its
plain twin: `compare_skip`.

Two gradients are told apart everywhere. The *activation* gradient dL/dy of a layer's output is what flows; it
may vanish or explode with depth. The *weight* gradient dL/dw is what the optimiser sees; in a plain ReLU
network without BN, <w, dL/dw> is the same number in every layer even where the activation gradient slopes.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from rich.table import Table

from minires import ops
from minires.backend import Array, device_of, get_xp
from minires.console import Shown
from minires.errors import ConfigError
from minires.nn import Block, Built, Config, Conv2d, Dense, Module, Network, ResNet, plain_twin, walk
from minires.nn.probe import Probe, probe, untouched

__all__ = [
    "BlockFlow",
    "GradFlow",
    "LayerFlow",
    "SkipComparison",
    "compare_skip",
    "gradflow",
]


@dataclass(frozen=True)
class LayerFlow:
    """A convolution or dense layer. depth counts those on the main path from 1; a projection has its block's last."""

    name: str
    stage: str
    depth: int
    main: bool  # False for a projection shortcut
    dy_rms: float | None  # activation gradient at its output
    w_norm: float
    dw_norm: float | None  # weight gradient, Euclidean norm of the kernel's


@dataclass(frozen=True)
class BlockFlow:
    """A block. Gradients as RMS, at its ends also as Euclidean norm over the whole batch; branch, shortcut and
    cosine where the paths part (None without a skip)."""

    name: str
    stage: str
    depth: int  # of its last layer
    dy_rms: float | None  # at the block's output
    dx_rms: float | None  # at its input
    dy_norm: float | None
    dx_norm: float | None
    branch_rms: float | None
    shortcut_rms: float | None
    cosine: float | None


@dataclass(frozen=True)
class GradFlow(Shown):
    """What one batch's gradient looked like on its way from the loss to the image."""

    title: str
    seed: int
    loss: float
    batch: int
    layers: tuple[LayerFlow, ...]
    blocks: tuple[BlockFlow, ...]
    config: Config | Built

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self)

    @property
    def origin(self) -> str:
        """What this was measured on, in a line for a picture's corner."""
        return f"{self.title}, seed {self.seed}, batch of {self.batch}"

    def ratio(self) -> float | None:
        """The activation gradient at the first block's input over that at the last block's output."""
        first, last = self.blocks[0].dx_rms, self.blocks[-1].dy_rms
        return first / last if first is not None and last else None

    def norms(self) -> list[float | None]:
        """The activation gradient's norm before the first block and after each, over that after the last.

        The norm, unlike the RMS, does not change where half as many numbers carry the same gradient.
        """
        norms = [self.blocks[0].dx_norm, *(block.dy_norm for block in self.blocks)]
        return [norm / norms[-1] if norm is not None and norms[-1] else None for norm in norms]

    def table(self) -> Table:
        """One row a block: the gradient in and out, each path's part and their angle."""
        table = Table(title=f"{self.title}\ngradient RMS, batch of {self.batch}, loss {self.loss:.4f}")
        table.caption = "branch, shortcut, cos: where the block's paths part. Their gradients add up."
        for heading in ("block", "at output", "branch", "shortcut", "cos", "at input"):
            table.add_column(heading, justify="left" if heading == "block" else "right", no_wrap=True)
        for b in self.blocks:
            table.add_row(b.name, *map(_short, (b.dy_rms, b.branch_rms, b.shortcut_rms)), _angle(b), _short(b.dx_rms))
        return table


@dataclass(frozen=True)
class SkipComparison(Shown):
    """The residual network and its plain twin on the same batch, both as initialised."""

    residual: GradFlow
    plain: GradFlow

    @property
    def flows(self) -> dict[str, GradFlow]:
        """Label -> flow, as `plots.plot_gradflow` takes them."""
        return {"with skips": self.residual, "plain (no skips)": self.plain}

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return {"residual": self.residual.as_dict(), "plain": self.plain.as_dict()}

    def table(self) -> Table:
        """One row a block, both networks side by side."""
        table = Table(title=f"{self.residual.title}, beside its plain twin\nactivation gradient, RMS at block inputs")
        table.caption = (
            f"First block's input over last block's output: {_short(self.residual.ratio())} with skips, "
            f"{_short(self.plain.ratio())} plain.\nbranch, shortcut, cos: the two paths' gradients and their angle."
        )
        for heading in ("stage", "block", "plain", "with skips", "branch", "shortcut", "cos"):
            table.add_column(heading, justify="left" if heading in ("stage", "block") else "right", no_wrap=True)
        stage = None
        for skip, plain in zip(self.residual.blocks, self.plain.blocks, strict=True):
            table.add_row(
                "" if skip.stage == stage else skip.stage,
                skip.name,
                *map(_short, (plain.dx_rms, skip.dx_rms, skip.branch_rms, skip.shortcut_rms)),
                _angle(skip),
            )
            stage = skip.stage
        return table


def gradflow(model: Network, x: Array, labels: Array, *, title: str | None = None) -> GradFlow:
    """The gradient flow of softmax cross-entropy on one batch, in training mode.

    x (N, H, W, C) in the model's dtype and on its device, labels (N,) integers. The model is left exactly as
    it was: running statistics, gradients, modes, dropout's generators. Raises ShapeError as `forward` does.

    >>> model = minires.resnet("resnet8", (16, 16, 3), 6)
    >>> x = numpy.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype("float32")
    >>> flow = minires.gradflow(model, x, numpy.array([0, 1, 2, 3]))
    >>> [layer.name for layer in flow.layers][:2]
    ['conv1', 'layer1.0.conv1']
    """
    with untouched(model), probe(model, Probe(model, outputs=False)) as log:
        model.train()
        loss, probs = ops.softmax_cross_entropy_forward(model.forward(x), labels)
        model.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)
        norms = {p.name: (_norm(p.data), None if p.grad is None else _norm(p.grad)) for p in model.params()}
        seen = dict(zip(log.modules, log.rows(), strict=True))
    forks = {fork["name"]: fork for fork in log.blocks()}
    layers, ends = [], {}
    for stage, block, layer, depth, main in main_path(model):
        layers.append(LayerFlow(layer.name, stage, depth, main, seen[layer]["dy_rms"], *norms[layer.w.name]))
        ends[block] = stage, depth
    blocks, places = [], model.places()
    for block in model.blocks():
        row, record = seen[block], log.records[block]
        ends_here = _whole(row["dy_rms"], record.shape), _whole(row["dx_rms"], record.input_shape)
        paths = (forks.get(block.name, {}).get(key) for key in ("branch_rms", "shortcut_rms", "cosine"))
        where = ends.get(block) or (places[block][0], 0)
        blocks.append(BlockFlow(block.name, *where, row["dy_rms"], row["dx_rms"], *ends_here, *paths))
    title = title or model.title
    return GradFlow(title, model.config.seed, float(loss), len(x), tuple(layers), tuple(blocks), model.config)


def compare_skip(config_or_model: Config | ResNet, x: Array, labels: Array) -> SkipComparison:
    """The flow in the residual network of a config (or of a model's config) and in its plain twin.

    Both are built anew, with identical main-path weights, and compared as initialised, in x's precision and on
    its device: a trained network beside an untrained twin would show the training, not the skip. For trained
    networks call `gradflow` on each.
    """
    config = getattr(config_or_model, "config", config_or_model)
    if not isinstance(config, Config):
        raise ConfigError("only a network of the family (minires.resnet) has a plain twin: call gradflow on each")
    residual = ResNet(replace(config, skip=True))
    plain = plain_twin(residual)
    for model in (residual, plain):
        model.astype(x.dtype).to(device_of(x))
    return SkipComparison(gradflow(residual, x, labels), gradflow(plain, x, labels))


def main_path(model: Network) -> Iterator[tuple]:
    """(stage, block or None, layer, depth, main) for every convolution and dense layer, in the modules' order.

    depth counts the layers of the longest way from the image, from 1; a projection, which is not `main`, has that of
    its block's last.
    """
    depths, places = {}, model.places()

    def visit(layer, *before):
        depth = max(before)
        for inner in layer.modules():  # of one with a forward of its own, what is in it
            depth += isinstance(inner, (Conv2d, Dense))
            depths[inner] = depth
        return depth

    walk(model, visit, 0)
    beside = {}  # layer of a projection -> its block's add node
    for block in model.modules():
        if isinstance(block, Block) and isinstance(block.shortcut, Module):
            beside |= dict.fromkeys(block.shortcut.modules(), block.add)
    for layer in places:
        if isinstance(layer, (Conv2d, Dense)):
            yield *places[layer], layer, depths[beside.get(layer, layer)], layer not in beside


def _norm(x) -> float:
    """The Euclidean norm, squared and summed in float64."""
    xp = get_xp(x)
    return float(xp.sqrt(xp.square(x, dtype=xp.float64).sum()))


def _whole(rms: float | None, shape) -> float | None:
    """The Euclidean norm of an array of this shape and root mean square."""
    return None if rms is None else rms * math.sqrt(math.prod(shape))


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _angle(block: BlockFlow) -> str:
    return "" if block.cosine is None else f"{block.cosine:+.2f}"
