"""Keras files that have lost their layers' names, without Keras: layers are told by class and number."""

import h5py
import numpy as np
import pytest

from minires import resnet
from minires.weights import export_weights, import_weights


@pytest.mark.parametrize("variant", ["course", "v1"])
def test_more_than_ten_layers_of_a_class_are_counted_not_sorted_as_text(variant, tmp_path):
    """conv2d_2 comes before conv2d_10: a network whose layers are all of one shape has nothing else to go by."""
    file, options = tmp_path / "a.weights.h5", {"variant": variant, "widths": (4, 4, 4)}
    ours, other = (resnet("resnet20", (16, 16, 3), 4, seed=seed, **options) for seed in (0, 1))
    export_weights(ours, file)
    with h5py.File(file, "r+") as opened:
        for layer in opened["layers"].values():
            del layer["vars"].attrs["name"]
    report = import_weights(other, file)
    assert "order" in report.notes[0]
    for name, array in ours.state().items():
        np.testing.assert_array_equal(other.state()[name], array, err_msg=name)
