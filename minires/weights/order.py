"""Which layer is which where the names are not ours: by order and shapes, held against what the names say.

A file's layers come in the order of its graph (ONNX, Keras), or have names whose numbers give one (a state_dict). Layer
by layer of each kind they are laid beside ours, in each of the orders in which others list a block; the shapes have to
fit, in one way only. Names of a state_dict have to confirm it: all of a block's under one beginning, the beginnings in
the order of the blocks, and the same ending for the same layer of each block.
"""

import re
from itertools import pairwise

import numpy as np

from minires.nn import BatchNorm, Block, Conv2d, Module, Sequential
from minires.weights.found import Found, layer_list

Layers = dict[str, dict[str, np.ndarray]]  # name -> role ("w", "gamma", ...) -> array


def adopt(model: Module, found: Found) -> None:
    """Give the layers in `found` our names, and note it; nothing happens where no way, or more than one, fits."""
    theirs = found.layers()
    listings = [list(theirs)] if found.ordered else [by_number(theirs, layer_list(model)[0]), list(theirs)]
    for names in listings:
        ways = []
        for order in orders(model):
            names_of = pair(names, theirs, order)
            if names_of and names_of not in ways and (found.ordered or confirmed(model, names_of)):
                ways.append(names_of)
        if ways:
            break
    if len(ways) != 1:
        return
    found.rename_layers({their: own for own, their in ways[0].items()})
    how = "order" if found.ordered else "order, by shapes and the numbers in their names"
    some = ", ".join(list(ways[0].values())[1:3])
    found.notes.append(f"the file's layer names are not ours ({some}, ...): its layers were taken in their {how}")


def orders(model: Module) -> list[list[Module]]:
    """The layers that have arrays as others list them: a block's branch first, its shortcut first, or as Keras does."""
    return [list(walk(model, inside)) for inside in (_in_order, _shortcut_first, keras_block)]


def walk(module: Module, inside):
    """The layers that have arrays; inside(block) gives those of a block."""
    if isinstance(module, Block):
        yield from inside(module)
    elif module.children():
        for child in module.children():
            yield from walk(child, inside)
    else:
        yield from layer_list(module)


def _parts(block: Block) -> list[list[Module]]:
    """The layers before the two paths, on the branch, on the shortcut."""
    return [layer_list(m) if isinstance(m, Module) else [] for m in (block.before, block.branch, block.shortcut)]


def _in_order(block: Block) -> list[Module]:
    return [m for part in _parts(block) for m in part]


def _shortcut_first(block: Block) -> list[Module]:
    before, branch, shortcut = _parts(block)
    return shortcut + before + branch


def keras_block(block: Block, shortcut_first: bool = True) -> list[Module]:
    """Keras sorts by distance from the output: the two paths' ends alternate, first the one that Add got first."""
    before, branch, shortcut = _parts(block)
    apart = len(branch) - len(shortcut)
    ends = [p if shortcut_first else p[::-1] for p in zip(shortcut, branch[apart:], strict=True)]
    return [*before, *branch[:apart], *(m for p in ends for m in p)]


def _kind(arrays: dict[str, np.ndarray]) -> tuple:
    """What a layer is: its roles with their numbers of axes; a bias may be there or not."""
    return tuple(sorted((role, array.ndim) for role, array in arrays.items() if role != "b"))


def _arrays(layer: Module) -> dict[str, np.ndarray]:
    return {name.rpartition(".")[2]: array for name, array in layer.state().items()}


def pair(names: list[str], theirs: Layers, ours: list[Module]) -> dict[str, str] | None:
    """Our layers' names -> theirs, the nth of each kind beside the nth; None where numbers or shapes differ.

    The last layer, the classifier, may have another shape, or be missing.
    """
    queues: dict[tuple, list[str]] = {}
    for name in names:
        queues.setdefault(_kind(theirs[name]), []).append(name)
    *body, head = ours
    last = queues.get(_kind(_arrays(head)), [])
    alone = not any(_kind(_arrays(m)) == _kind(_arrays(head)) for m in body)
    found = {head.name: last.pop()} if last else {}
    if alone:
        last.clear()  # a classifier of several layers is none of ours
    for layer in body:
        own = _arrays(layer)
        queue = queues.get(_kind(own))
        if not queue:
            return None
        found[layer.name] = name = queue.pop(0)
        shapes = [{role: array.shape for role, array in arrays.items()} for arrays in (own, theirs[name])]
        if shapes[0] != shapes[1]:
            return None
    return None if any(queues.get(_kind(_arrays(m))) for m in ours) else found


def by_number(theirs: Layers, first: Module) -> list[str]:
    """The names sorted, numbers as numbers; in front what stands under one roof with `first`, by its kernel's shape."""
    same = [name for name, arrays in theirs.items() if "w" in arrays and arrays["w"].shape == _arrays(first)["w"].shape]
    start = _tokens(same[0]) if len(same) == 1 else []

    def key(name: str):
        tokens = _tokens(name)
        together = next((i for i, (a, b) in enumerate(zip(tokens, start, strict=False)) if a != b), len(start))
        return -min(together, len(tokens)), [_natural(token) for token in tokens]

    return sorted(theirs, key=key)


def _tokens(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _natural(text: str) -> list:
    """A sort key that puts conv2d_2 before conv2d_10, and conv2d before both."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def confirmed(model: Module, names_of: dict[str, str]) -> bool:
    """Whether a state_dict's names say the same as `names_of`, which maps ours to theirs."""
    rows, paths = [], []  # of each block: our layer's place in it -> their tokens; layers on one path
    for block in (m for m in model.modules() if isinstance(m, Block)):
        before, branch, shortcut = _parts(block)
        paths += [before + branch, shortcut]
        places = enumerate((before, branch, shortcut))
        rows.append({(part, i): _tokens(names_of[m.name]) for part, ms in places for i, m in enumerate(ms)})
    inside = {m.name for path in paths for m in path}
    paths.append([m for m in layer_list(model) if m.name not in inside and m.name in names_of])
    if not all(_numbered(path, names_of) for path in paths):
        return False
    return not rows or any(_blocks_fit(rows, depth) for depth in range(1, min(map(len, rows[0].values()))))


def _numbered(path: list[Module], names_of: dict[str, str]) -> bool:
    """Whether layers of one shape differ in numbers, or letters that count, alone: of words nobody knows the order."""
    words: dict[tuple, set] = {}
    for layer in path:
        shape = tuple(sorted((role, array.shape) for role, array in _arrays(layer).items()))
        words.setdefault(shape, set()).add(re.sub(r"\d+|(?<![a-zA-Z])[a-z](?![a-zA-Z])", "#", names_of[layer.name]))
    return all(len(names) == 1 for names in words.values())


def _blocks_fit(rows: list[dict], depth: int) -> bool:
    """Whether `depth` words name the block and all words behind them the layer in it."""
    starts, ends = [], {}
    for row in rows:
        start = {tuple(tokens[:depth]) for tokens in row.values()}
        if len(start) != 1 or any(ends.setdefault(place, t[depth:]) != t[depth:] for place, t in row.items()):
            return False
        starts.append([_natural(token) for token in start.pop()])
    return all(a < b for a, b in pairwise(starts))


def unfold(model: Module, found: Found) -> None:
    """Where an exporter folded batch normalisation into its convolutions: layers that only add the bias, and a note.

    gamma = 1, mean = 0, var = 1 - epsilon and beta = the convolution's bias give gamma (y - mean) / sqrt(var + epsilon)
    + beta = y + bias.
    """
    theirs = found.layers()
    convs = [name for name, arrays in theirs.items() if "w" in arrays and arrays["w"].ndim == 4]
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    behind = [
        (conv, norm)
        for m in model.modules()
        if isinstance(m, Sequential)
        for conv, norm in pairwise(m.layers)
        if isinstance(conv, Conv2d) and isinstance(norm, BatchNorm)
    ]
    folded = convs and all("b" in theirs[name] for name in convs) and len(convs) == len(behind) == len(norms)
    if not folded or any("gamma" in arrays for arrays in theirs.values()):
        return
    with_bias = behind[0][0].b is not None
    for name in convs:
        bias, origin = theirs[name]["b"], found.origin[f"{name}.b"]
        if not with_bias:
            del found.arrays[f"{name}.b"], found.origin[f"{name}.b"]
        ones, zeros = np.ones_like(bias), np.zeros_like(bias)
        values = {"gamma": ones, "beta": zeros if with_bias else bias, "mean": zeros}
        for role, value in (values | {"var": ones - ones.dtype.type(norms[0].epsilon)}).items():
            found.add(f"{name}+bn.{role}", value, origin)
    found.notes.append(
        "warning: the exporter folded batch normalisation into the convolutions: it predicts the same, but what the "
        "normalisations knew is lost: freeze them where you train further, or import the weights from before the export"
    )
