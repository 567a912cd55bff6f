"""What the readers of weights hand over: arrays with names, and what the file says of them."""

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass
class Found:
    """What a reader found. arrays: our name -> array in our layout; origin: our name -> name in the file."""

    kind: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)  # arrays that no network of ours has a place for
    notes: list[str] = field(default_factory=list)
    stated: dict[str, dict] = field(
        default_factory=dict
    )  # layer -> "stride", "dilation", "epsilon", where the file says them
    ordered: bool = False  # whether the layers stand in the order of the network

    def add(self, name: str, array, origin: str) -> None:
        """Take up an array under our name."""
        self.arrays[name], self.origin[name] = array, origin

    def copy(self) -> "Found":
        """Of the same arrays, to be renamed on its own."""
        tables = {name: dict(getattr(self, name)) for name in ("arrays", "origin", "stated")}
        return replace(self, **tables, ignored=[*self.ignored], notes=[*self.notes])

    def layers(self) -> dict[str, dict[str, np.ndarray]]:
        """Layer -> role -> array."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, array in self.arrays.items():
            layer, _, role = name.rpartition(".")
            found.setdefault(layer, {})[role] = array
        return found

    def rename_layers(self, new: dict[str, str]) -> None:
        """Give layers other names, all at once; one whose name is given to another is called differently."""
        taken = set(new.values())

        def renamed(layer: str) -> str:
            return new.get(layer) or (f"{layer}'" if layer in taken else layer)

        for table in (self.arrays, self.origin):
            parts = [(name.rpartition("."), value) for name, value in table.items()]
            table.clear()
            table.update({f"{renamed(layer)}.{role}": value for (layer, _, role), value in parts})
        self.stated = {renamed(layer): facts for layer, facts in self.stated.items()}


def layer_list(model) -> list:
    """The layers that have arrays, in the order of the forward pass."""
    return [m for m in model.modules() if not m.children() and (m.params() or m.buffers())]
