"""The order of layers in Keras files, without Keras: by it they are found where their names are lost."""

import h5py
import numpy as np
import pytest

from minires import resnet
from minires.seal import seal
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
    seal(file)
    report = import_weights(other, file)
    assert "order" in report.notes[0]
    for name, array in ours.state().items():
        np.testing.assert_array_equal(other.state()[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("variant", "first", "second"),
    [("course", "res2a_branch2c", "res2a_branch1"), ("v1", "conv2_block1_0_conv", "conv2_block1_3_conv")],
)
def test_a_file_has_a_blocks_two_ends_in_the_order_in_which_its_add_got_them(variant, first, second, tmp_path):
    file = tmp_path / "a.weights.h5"
    export_weights(resnet("resnet50", (64, 64, 3), 4, variant=variant, widths=(2, 2, 2, 2)), file)
    with h5py.File(file) as opened:
        number = {
            layer["vars"].attrs["name"]: int(group.removeprefix("conv2d").removeprefix("_") or 0)
            for group, layer in opened["layers"].items()
            if group.startswith("conv2d")
        }
    assert number[second] == number[first] + 1
