"""What the sliders of each lesson show: the measurements that they take, and the view of them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from types import ModuleType

from minires.lessons.harness import load
from minires.lessons.site import dense, trained, turned
from minires.lessons.site.explorer import Explorer
from minires.lessons.site.results import Job

DEPTHS = (10, 20, 30, 40, 50, 60, 80, 100)
CONVOLUTIONAL = (20, 32, 44, 56)  # depths that lesson 5 has both as dense and as convolutional networks
SCALES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0, 1.1)


@dataclass(frozen=True)
class Grid:
    """settings: the knobs of each measurement, shallow to deep; quick: of those for a quick site. None: the sliders
    move over what the lesson's own picture is made of."""

    view: Callable[[ModuleType, list[dict]], Explorer]
    settings: tuple[dict, ...] | None = None
    quick: tuple[dict, ...] = ()


def jobs(lesson: int, quick: bool) -> list[Job]:
    """The measurements that the lesson's sliders need."""
    grid, small = GRIDS[lesson], load(lesson).LESSON.quick if quick else {}
    if grid.settings is None:
        return [Job.of(lesson, small)]
    base = small | {"seeds": 1} if quick else {}
    return [Job.of(lesson, base | knobs) for knobs in (grid.quick if quick else grid.settings)]


def view(lesson: int, results: list[dict]) -> dict:
    """What the page shows, from the results of `jobs`."""
    return GRIDS[lesson].view(load(lesson), results).data()


def _each(**choices) -> tuple[dict, ...]:
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


GRIDS = {
    1: Grid(turned.one_block, *[_each(block=(1, 2, 3), skip=(True, False), seeds=(1,))] * 2),
    2: Grid(turned.epsilon),
    3: Grid(dense.vanish_or_explode, _each(depth=DEPTHS), _each(depth=(10, 50))),
    4: Grid(dense.weight_gradients, _each(skip=("all",), depth=DEPTHS), _each(skip=("all",), depth=(10, 50))),
    5: Grid(
        dense.where_121_comes_from,
        tuple({"depth": d, "arch": f"resnet{d}"} for d in CONVOLUTIONAL),
        tuple({"depth": d, "arch": f"resnet{d}"} for d in (20, 32)),
    ),
    6: Grid(dense.shattering, _each(depth=DEPTHS), _each(depth=(10, 50))),
    7: Grid(turned.trust, *[_each(each_layer=(False, True))] * 2),
    8: Grid(trained.degradation),
    9: Grid(trained.lesions),
    10: Grid(
        turned.paths,
        _each(epochs=(0,), arch=tuple(f"resnet{n}" for n in (8, 14, 20, 32, 44, 56)), block=("pre", "post")),
        _each(epochs=(0,), arch=("resnet8", "resnet20"), block=("pre", "post")),
    ),
    11: Grid(
        turned.highway,
        _each(steps=(0,), scales=(SCALES,), depth=(20, 50, 100)),
        _each(steps=(0,), scales=(SCALES,), depth=(20, 50)),
    ),
    12: Grid(trained.statistics),
    13: Grid(trained.full_network),
    14: Grid(turned.how_fast),
    15: Grid(trained.without_batches),
    16: Grid(trained.warm_up),
    17: Grid(trained.finetuning),
    18: Grid(trained.machines),
}
