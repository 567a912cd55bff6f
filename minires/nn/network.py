"""Any network: modules in a row, the images that it takes and the classes that it tells apart.

    def build(input_shape, classes, seed=0):
        return Network(Conv2d("conv", 3, 8, 3, pad=1, seed=seed), ReLU("relu"), GlobalAvgPool2d("pool"),
                       Dense("fc", 8, classes, seed=seed), input_shape=input_shape)

A checkpoint holds no code: it names the function that built its network and what that was called with (`Built`).
`register` makes a function known under a name; `build` calls it, and remembers.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minires.errors import ConfigError, MiniresError, ShapeError
from minires.nn.blocks import Block
from minires.nn.module import Module, Sequential
from minires.ranges import COUNT

__all__ = [
    "Built",
    "Network",
    "as_network",
    "build",
    "register",
]

BUILDERS: dict[str, Callable] = {}  # name -> function(input_shape, classes, ...) -> Network or Module


@dataclass(frozen=True)
class Built:
    """What builds a network again: a registered function's name ("": it was put together by hand) and its arguments."""

    input_shape: tuple
    classes: int
    builder: str = ""
    seed: int = 0
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        sizes = (*self.input_shape, self.classes)
        if len(self.input_shape) != 3 or not all(map(COUNT.holds, sizes)):
            raise ShapeError(
                f"expected images (height, width, channels) and a number of classes, got {self.input_shape} and "
                f"{self.classes!r}"
            )


class Network(Sequential):
    """A whole network: logits (N, classes) for images (N, *input_shape), its modules run one after the other.

    ShapeError where a module does not fit the one before it or what comes out is no row of scores; ConfigError where
    two parameters bear one name.

    >>> layers = minires.Conv2d("conv", 3, 8, 3), minires.ReLU("relu"), minires.GlobalAvgPool2d("pool")
    >>> net = minires.Network(*layers, minires.Dense("fc", 8, 5), input_shape=(16, 16, 3), name="tiny")
    >>> net.classes, net.forward(numpy.zeros((2, 16, 16, 3), "float32")).shape
    (5, (2, 5))
    >>> minires.Network(*layers[:2], input_shape=(16, 16, 3))
    Traceback (most recent call last):
    minires.errors.ShapeError: network: gives (14, 14, 8) for an image, ...
    """

    def __init__(self, *layers: Module, input_shape: tuple, name: str = "network"):
        super().__init__(*layers, name=name)
        shape = self.output_shape(tuple(input_shape))
        if len(shape) != 1:
            raise ShapeError(
                f"{name}: gives {shape} for an image, not a score a class: end it with a pool or Flatten, then Dense"
            )
        self.config = Built(tuple(input_shape), int(shape[0]))
        check_names(self)

    @property
    def dtype(self) -> np.dtype:
        """That of its weights."""
        return self.params()[0].data.dtype

    @property
    def input_shape(self) -> tuple:
        """(H, W, C) of its images."""
        return self.config.input_shape

    @property
    def classes(self) -> int:
        """How many scores it gives."""
        return self.config.classes

    @property
    def title(self) -> str:
        """What a picture of it is called."""
        return self.name

    def stage_shapes(self) -> dict[str, tuple]:
        """Name -> shape after each group of the row (stem, stage2, ...)."""
        shapes, shape = {}, self.input_shape
        for layer in self.layers:
            shape = layer.output_shape(shape)
            if isinstance(layer, Sequential):
                shapes[layer.name] = shape
        return shapes

    def blocks(self) -> list[Module]:
        """The pieces that it repeats, from input to output: residual blocks, or other compositions, or layers."""
        blocks = [m for m in self.modules() if isinstance(m, Block)]
        return blocks or _pieces(self.layers) or [m for m in self.layers if m.params()] or self.layers

    def places(self) -> dict[Module, tuple[str, Module | None]]:
        """Module -> (stage, block): the name of the group of the row that it is in, else "head", and its block."""
        found = {}
        for top in self.layers:
            stage = top.name if top.children() else "head"
            found |= {module: (stage, None) for module in top.modules()}
        for block in self.blocks():
            found |= {module: (found[module][0], block) for module in block.modules()}
        return found


def _pieces(modules: list[Module]) -> list[Module]:
    """The compositions among `modules`; of a Sequential that groups some, those in it."""
    found = []
    for module in modules:
        inside = _pieces(module.children()) if type(module) is Sequential else []
        found += inside or [module] * bool(module.children())
    return found


def check_names(model: Module) -> None:
    """ConfigError where two parameters or buffers bear one name: one of them would be lost in a checkpoint."""
    seen = {}
    for v in model.params() + model.buffers():
        if seen.setdefault(v.name, v) is not v:
            raise ConfigError(f"{model.name}: two arrays are called {v.name}: give each layer a name of its own")


def as_network(model: Module, input_shape: tuple) -> Network:
    """`model`, or what makes a Network of the modules themselves for images of this shape."""
    if isinstance(model, Network):
        return model
    if not isinstance(model, Module):
        raise ConfigError(f"expected a network of minires.nn modules, got a {type(model).__name__}")
    plain = type(model) is Sequential
    return Network(*(model.layers if plain else [model]), input_shape=input_shape, name=model.name or "network")


def register(builder: Callable, name: str = "") -> Callable:
    """Make `builder(input_shape, classes, ...)` known, under its own name or another; returns it (a decorator)."""
    BUILDERS[name or builder.__name__] = builder
    return builder


def build(builder: str | Callable, input_shape: tuple, classes: int, *, seed: int = 0, **options: Any) -> Network:
    """The Network that a builder gives: a function (which is registered), a registered name, or "file.py:function".

    It is called with input_shape, classes, seed where it takes one, and options. ConfigError for no such builder, or
    one that gives no network for these images and classes.

    >>> def tiny(input_shape, classes, seed=0):
    ...     return minires.Sequential(minires.Flatten("flat"), minires.Dense("fc", 48, classes, seed=seed), name="tiny")
    >>> minires.build(tiny, (4, 4, 3), 5).classes
    5
    """
    if isinstance(builder, str):
        name = registered(builder)
    else:
        name = next((known for known, function in BUILDERS.items() if function is builder), builder.__name__)
        register(builder, name)
    function, asked = BUILDERS[name], Built(input_shape, classes, name, seed, options)
    taken = inspect.signature(function).parameters
    seeded = {"seed": seed} if "seed" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values()) else {}
    try:
        network = as_network(function(asked.input_shape, classes, **seeded, **options), asked.input_shape)
    except MiniresError as error:
        raise type(error)(f"{name}: {error}") from None
    except Exception as error:
        raise ConfigError(f"{name}: {type(error).__name__}: {error}: called with {input_shape}, {classes}") from error
    if (network.input_shape, network.classes) != (asked.input_shape, classes):
        raise ConfigError(
            f"{name}: gives a network of {network.classes} classes for images {network.input_shape}, asked for were "
            f"{classes} and {asked.input_shape}: build it from the arguments"
        )
    network.config = replace(asked, classes=classes)
    return network


def registered(name: str) -> str:
    """The name under which a builder is known; a file's, "path/file.py:function", is loaded as "file.py:function"."""
    path, colon, function = name.rpartition(":")
    if colon and (path != Path(path).name or name not in BUILDERS):
        name = f"{Path(path).name}:{function}"
        register(_from_file(Path(path), function), name)
    if name not in BUILDERS:
        raise ConfigError(f"unknown network {name!r}: name it as FILE.py:FUNCTION")
    return name


def _from_file(path: Path, name: str) -> Callable:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file: name a network as FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise ConfigError(f"{path}: is no Python file: name a network as FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{path}: has no function {name!r}: define {name}(input_shape, classes, seed=0)")
    return function
