"""Whose layer is whose: our names for a file's layers, and which variant's names they are."""

from minires.nn import VARIANTS, Network
from minires.weights.found import Found, layer_list
from minires.weights.order import adopt, unfold


def name_layers(model: Network, found: Found, head: str) -> None:
    """Our names for the file's layers, where it has others."""
    unfold(model, found)
    theirs, own = found.layers(), {m.name for m in layer_list(model)}
    if own - {head} <= set(theirs):  # the one dense layer of the file is the classifier (fc1000, predictions, dense)
        dense = [name for name, arrays in theirs.items() if "w" in arrays and arrays["w"].ndim == 2]
        if head not in theirs and len(dense) == 1 and dense[0] not in own:
            found.rename_layers({dense[0]: head})
        return
    other = variant_of(set(theirs))
    if other is None or getattr(model.config, "variant", other) == other:
        adopt(model, found)


def variant_of(layers: set) -> str | None:
    """The variant whose layer names these are, seen at the first block's first convolution and norm."""
    first = {"stage": 2, "layer": 1, "letter": "a", "block": 1, "index": 0, "i": 1, "abc": "a", "before": "preact"}
    known = [key for key, variant in VARIANTS.items() if variant.names.conv.format(**first) in layers]
    normed = [key for key in known if VARIANTS[key].names.norm.format(**first) in layers]
    return next(iter(normed[::-1] + known), None)  # a later one has the names of the earlier, and more
