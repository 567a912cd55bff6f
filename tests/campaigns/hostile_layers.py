"""Do the instruments stay on their feet, whatever a user's layer does?

    python tests/campaigns/hostile_layers.py                      # 500 layers, under four instruments
    python tests/campaigns/hostile_layers.py --layers 50 --seed 7
    python tests/campaigns/hostile_layers.py --only 132 --trace   # one again, with the traceback of what is raised

A sound layer is given one or two habits of HABITS: it hands back no array, another shape, NaNs, raises, writes where
it should not, draws, forgets, lies about its parameters. It is checked by itself and in a small network. Each
instrument has to report, or to raise one of minires's own errors in one line. A table: a line a habit, and of each
instrument how often it told a fault, saw none, raised an error of ours, raised another; how often what it said named
the layer. Exit status 1 where an error was another's, or of several lines.
"""

import argparse
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent))
from hostile_habits import HABITS, Sound

from minires import Classifier, nn
from minires.data import ArrayDataset
from minires.errors import MiniresError
from minires.instruments.audit import audit
from minires.instruments.bn_doctor import bn_doctor
from minires.instruments.gradcheck import gradcheck
from minires.instruments.overfit import overfit
from minires.train import Preprocess

SHAPE, CLASSES = (6, 6, 3), ("a", "b", "c")
NAME = "odd"
IMAGES = ArrayDataset(
    np.random.default_rng(0).integers(0, 256, (12, *SHAPE)).astype(np.uint8), np.arange(12) % 3, CLASSES, source="here"
)


@dataclass(frozen=True)
class Case:
    """A layer of these habits, at this place of a network: 'first', 'middle', 'branch' or 'last'."""

    habits: tuple[str, ...]
    place: str

    def layer(self, channels=3):
        layer = Sound(NAME, channels)
        for habit in self.habits:
            HABITS[habit](layer)
        return layer

    def network(self):
        """Sound as it is built; then the layer is put in."""
        branch = [nn.Conv2d("b.conv", 4, 4, 3, pad=1), nn.BatchNorm("b.bn", 4), nn.ReLU("b.relu")]
        block = nn.Block("b", nn.Sequential(*branch, name="b.branch"), nn.Block.IDENTITY, after=nn.ReLU("b.last"))
        ends = nn.GlobalAvgPool2d("pool"), nn.Dense("fc", 4, 3)
        layers = nn.Identity("start"), nn.Conv2d("conv", 3, 4, 3, pad=1), nn.BatchNorm("bn", 4), nn.ReLU("relu")
        network = nn.Network(*layers, block, *ends, nn.Identity("end"), input_shape=SHAPE, name="net")
        if self.place == "branch":
            block.branch.layers[2] = self.layer(4)
        else:
            at = {"first": 0, "middle": 3, "last": -1}[self.place]
            network.layers[at] = self.layer(4 if self.place == "middle" else 3)
        return network

    def instruments(self):
        """Name -> what is to be run."""
        rng = np.random.default_rng(1)
        x, images = rng.standard_normal((2, 3, 4, 3)), rng.standard_normal((2, *SHAPE))
        return {
            "gradcheck": lambda: gradcheck(self.layer(), x, coordinates=1),
            "gradcheck of a network": lambda: gradcheck(self.network(), images, coordinates=0),
            "audit": lambda: audit(self.network()),
            "bn-doctor": lambda: bn_doctor(self.classifier(), IMAGES),
            "overfit": lambda: overfit(self.classifier(), IMAGES, images=4, steps=2),
        }

    def classifier(self):
        return Classifier(self.network(), CLASSES, Preprocess())


def cases(count: int, seed: int) -> list[Case]:
    """Each habit in turn, in random places, some of them with a second one."""
    rng, names = random.Random(seed), list(HABITS)
    order = []
    while len(order) < count:
        order += rng.sample(names, len(names))
    found = []
    for name in order[:count]:
        second = [rng.choice(names)] if rng.random() < 0.4 else []
        found.append(Case((name, *second), rng.choice(["first", "middle", "branch", "last"])))
    return found


@dataclass(frozen=True)
class Outcome:
    """kind: 'fault', 'none seen', 'error of ours', 'RAW' or 'LINES'; said: what was told; named: with the layer."""

    kind: str
    said: str
    trace: str = ""

    @property
    def named(self) -> bool:
        return NAME in self.said or "Odd" in self.said or "Sound" in self.said


def judge(run) -> Outcome:
    """What an instrument made of it."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = run()
    except MiniresError as error:
        kind = "LINES" if "\n" in str(error) or not str(error) else "error of ours"
        return Outcome(kind, str(error), traceback.format_exc())
    except Exception as error:
        return Outcome("RAW", f"{type(error).__name__}: {error}", traceback.format_exc())
    found = [result.finding] if hasattr(result, "finding") else result.findings
    bad = [f"{f.name}: {f.detail}" for f in found if f.status == "fail"]
    if any("\n" in line for line in bad):
        return Outcome("LINES", "; ".join(bad))
    return Outcome("fault" if bad else "none seen", "; ".join(bad))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=500, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="I", help="the layer of this number alone")
    parser.add_argument("--trace", action="store_true", help="with the tracebacks of what is raised")
    args = parser.parse_args()
    start, table, bad = time.perf_counter(), {}, 0
    for i, case in enumerate(cases(args.layers, args.seed)):
        if args.only not in (None, i):
            continue
        for name, run in case.instruments().items():
            outcome = judge(run)
            counts = table.setdefault(name, Counter())
            counts.update([outcome.kind, *(["named"] if outcome.named and outcome.kind != "none seen" else [])])
            wrong = outcome.kind in ("RAW", "LINES")
            bad += wrong
            if wrong or args.only is not None:
                print(f"{i:4} {name}, {case.place}, {' + '.join(case.habits)}: {outcome.kind}: {outcome.said:.300}")
                if args.trace:
                    print(outcome.trace)
    columns = "fault", "error of ours", "none seen", "RAW", "LINES", "named"
    print(f"{'':24}" + "".join(f"{column:>15}" for column in columns))
    for name, counts in table.items():
        print(f"{name:24}" + "".join(f"{counts[column]:15}" for column in columns))
    print(f"{args.layers} layers, seed {args.seed}, {len(HABITS)} habits, in {time.perf_counter() - start:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
