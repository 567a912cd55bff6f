"""Fine-tuning: of a network that was trained on something else some parts rest, others learn at rates of their own.

    classifier = with_classes(load_classifier("runs/signs"), train.classes)
    fit(classifier, train, test, Recipe(freeze=("stem", "stage2"), rates={"head": 10}))

A part is a layer of the network by its name ("stem", "stage2", ...), "head", which is all behind the last block, or
a block or layer inside. Of two parts, the one inside the other has the last word.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from minires.backend import device_of
from minires.errors import ConfigError
from minires.nn import VARIANTS, Config, Dense, Module
from minires.nn.module import Param
from minires.optim import Optimizer
from minires.train.classifier import Classifier
from minires.train.recipe import Recipe


def parts(model: Module) -> dict[str, list[Module]]:
    """Name -> modules, from the network's largest parts to its single layers."""
    layers = getattr(model, "layers", [])
    last = max((i for i, m in enumerate(layers) if m.children()), default=None)
    if last is None:  # a row of bare layers: the last one that has parameters
        last = max((i - 1 for i, m in enumerate(layers) if m.params()), default=-1)
    named = {m.name: [m] for m in model.modules() if m.name and m is not model and m.params()}
    return {m.name: [m] for m in layers[: last + 1] if m.name in named} | {"head": layers[last + 1 :]} | named


def _chosen(model: Module, names) -> list[tuple[str, list[Module]]]:
    """(name, modules) of each of these parts, what is inside another one after it; ConfigError for no part."""
    found = parts(model)
    for name in names:
        if name not in found:
            large = [m.name for m in model.layers if m.name in found and m not in found["head"]]
            raise ConfigError(
                f"{name}: {model.name or 'the network'} has no such part: choose of {', '.join(large)}, head, "
                "or a block or layer by its name"
            )
    return sorted(((n, found[n]) for n in names), key=lambda part: -sum(len(list(m.modules())) for m in part[1]))


def freeze(model: Module, recipe: Recipe, epoch: int) -> None:
    """Freeze what `recipe` leaves as it is in this epoch (from 0), thaw what has had its epochs; training mode."""
    for name, modules in _chosen(model, recipe.freeze):
        until = recipe.freeze[name]
        for module in modules:
            module.freeze(until is None or epoch < until)
    model.train()


@contextmanager
def thawed(model: Module, recipe: Recipe) -> Iterator[None]:
    """Afterwards nothing is frozen any more that the recipe froze inside."""
    try:
        yield
    finally:
        for name in recipe.freeze:
            for module in parts(model).get(name, ()):
                module.freeze(False)
        model.train()


def changes(recipe: Recipe, epoch: int) -> bool:
    """Whether a part joins in this epoch."""
    return epoch in recipe.freeze.values()


def make_optimizer(model: Module, recipe: Recipe, epoch: int = 0, steps_per_epoch: int = 1) -> Optimizer:
    """`freeze`, and the recipe's optimiser of what is trained in this epoch, a group for each rate."""
    freeze(model, recipe, epoch)
    scale: dict[int, float] = {}
    began: dict[int, int] = {}
    for name, modules in _chosen(model, recipe.rates):
        scale |= dict.fromkeys(_ids(modules), recipe.rates[name])
    for name, modules in _chosen(model, recipe.freeze):
        began |= dict.fromkeys(_ids(modules), (recipe.freeze[name] or 0) * steps_per_epoch)
    groups: dict[tuple, list[Param]] = {}
    for p in model.params():
        if p.trainable:
            groups.setdefault((scale.get(id(p), 1.0), began.get(id(p), 0)), []).append(p)
    if not groups:
        raise ConfigError("every part is frozen: leave one to train, such as head")
    return recipe.make_optimizer([{"params": ps, "lr_scale": s, "began": b} for (s, b), ps in groups.items()])


def _ids(modules) -> list[int]:
    return [id(p) for m in modules for p in m.params()]


def describe(model: Module, recipe: Recipe) -> list[str]:
    """In words, what is frozen and at which rates the rest learns; nothing where all learns alike. Errors as above."""
    _chosen(model, [*recipe.freeze, *recipe.rates])
    frozen = [name + (f" for {epochs} epochs" if epochs else "") for name, epochs in recipe.freeze.items()]
    lines = [f"frozen, batch normalisation in evaluation mode: {', '.join(frozen)}"] if frozen else []
    rates = [f"{name} {factor:g}x" for name, factor in recipe.rates.items()]
    return lines + ([f"learning rates: {', '.join(rates)}, all else {recipe.lr:g}"] if rates else [])


def with_classes(
    source: Classifier, classes: tuple[str, ...], *, input_shape: tuple[int, int, int] | None = None, seed: int = 0
) -> Classifier:
    """A copy of `source` for these classes: its weights, its preprocessing, and another last layer.

    What that layer knows of a class is kept by the class's name; new ones begin as in a new network (of `seed`). So
    do all where images of another size (`input_shape`) give it other features. ConfigError for no dense last layer.
    """
    model = copy.deepcopy(source.model)
    shape, old = tuple(input_shape or model.config.input_shape), model.layers[-1]
    if not isinstance(old, Dense):
        raise ConfigError(f"{old.name}: expected a dense last layer, got {type(old).__name__}: put one there by hand")
    features = shape
    for layer in model.layers[:-1]:
        features = layer.output_shape(features)
    name = old.name
    if isinstance(model.config, Config):
        name = VARIANTS[model.config.variant].names.head.format(classes=len(classes))
    new = Dense(name, features[-1], len(classes), bias=old.b is not None, seed=seed)
    new.astype(old.w.data.dtype).to(device_of(old.w.data))
    if new.w.data.shape[0] == old.w.data.shape[0]:
        for there, here in enumerate(source.classes.index(c) if c in source.classes else None for c in classes):
            if here is not None:
                for ours, theirs in zip(new.params(), old.params(), strict=True):
                    ours.data[..., there] = theirs.data[..., here]
    model.layers[-1] = new
    model.config = replace(model.config, classes=len(classes), input_shape=shape)
    return Classifier(model, tuple(classes), source.preprocess)


def describe_classes(before: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """In words, which of the classes `before` a network for `classes` keeps."""
    if tuple(classes) == tuple(before):
        return f"all {len(classes)} classes are those of the weights: the classifier is kept"
    kept = [name for name in classes if name in before]
    new = [name for name in classes if name not in before]
    told = [f"kept: {_some(kept)}" if kept else "", f"new: {_some(new)}" if new else ""]
    dropped = [name for name in before if name not in classes]
    told.append(f"not used any more: {_some(dropped)}" if dropped else "")
    return "the classifier's classes: " + "; ".join(filter(None, told))


def _some(names, limit=8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
