"""A network's weights as Keras 2 saves them, under the names that Keras gives: conv2d, conv2d_1, ..."""

import h5py

from minires.backend import to_numpy
from minires.weights.keras import KINDS, ROLES, keras_order

_NAMES = {ours: f"{theirs}:0" for theirs, ours in ROLES.items()}


def keras_2(model, path, shortcut_first=True):
    """Write the file, its layers in Keras's order; returns its path."""
    counts = dict.fromkeys((kind for kind, _ in KINDS.values()), 0)
    layers = []
    with h5py.File(path, "w") as file:
        for layer in keras_order(model, shortcut_first):
            kind, roles = KINDS[type(layer)]
            name = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            arrays = {f"{name}/{_NAMES[role]}": getattr(layer, role) for role in roles}
            held = {variable: array for variable, array in arrays.items() if array is not None}
            group = file.create_group(name)
            for variable, array in held.items():
                group[variable] = to_numpy(array.data)
            group.attrs["weight_names"] = [variable.encode() for variable in held]
            layers.append(name.encode())
        file.attrs["layer_names"] = layers
    return path
