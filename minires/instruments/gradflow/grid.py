"""Every regime beside every other: the gradient flow with and without skips, BN, He or Glorot, at any depth.

All networks see one batch, as initialised. `block_rate` is what theory expects of a regime, where it expects
a constant rate.
"""

import math
from dataclasses import asdict, dataclass

from rich.table import Table

from minires.backend import device_of
from minires.console import Shown
from minires.instruments.gradflow import GradFlow, gradflow
from minires.nn import ARCHITECTURES, Config, ResNet
from minires.nn.resnet import BLOCKS

# what a layer does to the squared norm of the gradient that passes it
HE, GLOROT, BN = 1.0, 0.5, math.pi / (math.pi - 1)


@dataclass(frozen=True)
class Grid(Shown):
    """The flows of several networks on the same batch, all as initialised."""

    flows: tuple[GradFlow, ...]

    def panels(self) -> dict[str, dict[str, GradFlow]]:
        """'resnet56, BN' -> 'plain, He' -> flow: what can be drawn in one picture, and its lines."""
        panels: dict[str, dict[str, GradFlow]] = {}
        for flow in self.flows:
            c = flow.config
            line = f"{'with skips' if c.skip else 'plain'}, {c.init.capitalize()}"
            panels.setdefault(f"{c.arch}, {'BN' if c.norm else 'no BN'}", {})[line] = flow
        return panels

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON; each flow with its norms and theory's factor a block."""
        rows = [{**asdict(f), "norms": f.norms(), "theory": block_rate(f.config)} for f in self.flows]
        return {"flows": rows}

    def table(self) -> Table:
        """One row a network: how much larger the gradient is before the first block than after the last."""
        first = self.flows[0]
        table = Table(title=f"Activation gradients at initialisation, batch of {first.batch}, seed {first.seed}")
        table.caption = (
            "first / last: norm of the gradient before the first block over that after the last.\n"
            "a block: the factor a block, on average; theory: for wide dense nets, where it is constant."
        )
        for heading in ("network", "regime", "first / last", "a block", "theory"):
            table.add_column(heading, justify="left" if heading in ("network", "regime") else "right", no_wrap=True)
        for panel, lines in self.panels().items():
            for line, flow in lines.items():
                rate, ratio = block_rate(flow.config), flow.norms()[0]
                mean = ratio ** (1 / len(flow.blocks)) if ratio else None
                table.add_row(panel, line, _number(ratio, ".3g"), _number(mean, ".3f"), _number(rate, ".3f"))
                panel = ""
        return table


def gradflow_grid(configs: list[Config], x, labels) -> Grid:
    """The flow in each config's network, built anew in x's precision and on its device; x, labels as in `gradflow`."""
    models = (ResNet(config).astype(x.dtype).to(device_of(x)) for config in configs)
    return Grid(tuple(gradflow(model, x, labels) for model in models))


def block_rate(config: Config) -> float | None:
    """The factor on the gradient's norm from a block's output to its input that theory gives at initialisation.

    For dense networks of one width, in the limit of wide layers and large batches. A layer with its ReLU
    multiplies the squared norm by 1 under He (arXiv:1502.01852, section 2.2), by 1/2 under Glorot and, whatever
    the weights, by pi / (pi - 1) with BN (G. Yang et al., arXiv:1902.08129); a plain block by the
    product over its layers. A pre-activation block without BN adds the shortcut's 1, since the two gradients are
    uncorrelated. With both a skip and BN the growth is polynomial in depth, after a ReLU on the sum no rate is
    known here: None.
    """
    layers = len(BLOCKS[ARCHITECTURES[config.arch].block][0])
    branch = (BN if config.norm else {"he": HE, "glorot": GLOROT}[config.init]) ** layers
    if not config.skip:
        return math.sqrt(branch)
    return math.sqrt(1 + branch) if config.preact and not config.norm else None


def expected(flow: GradFlow) -> list[float] | None:
    """What `flow.norms()` is by theory; None where `block_rate` is."""
    rate, blocks = block_rate(flow.config), len(flow.blocks)
    return None if rate is None else [rate ** (blocks - i) for i in range(blocks + 1)]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
