"""Files that Keras wrote, in each of its layouts, read by h5py alone; and our files, read by Keras."""

import os
import re

import h5py
import numpy as np
import pytest

pytestmark = pytest.mark.slow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from minires.benchmarks.peers import keras_course_resnet50  # noqa: E402

from minires import nn, resnet  # noqa: E402
from minires.errors import CheckpointError  # noqa: E402
from minires.seal import seal  # noqa: E402
from minires.weights import export_weights, import_weights  # noqa: E402
from minires.weights.keras import keras_order  # noqa: E402

CLASSES = 6
IMAGES = np.random.default_rng(1).random((2, 64, 64, 3), np.float32)


def stir(model):
    """A Keras model whose biases and statistics are no longer the initial ones."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(np.asarray(weight) + 0.2 * rng.random(weight.shape, np.float32))
    return model


WIDTHS = (4, 8, 16, 32)  # a sixteenth of the full size


def narrowed(model):
    """The same Keras network with a sixteenth of the filters."""

    def narrow(layer):
        config = layer.get_config()
        if "filters" in config:
            config["filters"] //= 16
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=narrow)


@pytest.fixture(scope="module")
def full_size():
    """Variant -> the ResNet-50 of Keras; independent of ours."""
    return {
        "course": stir(keras_course_resnet50((64, 64, 3), CLASSES)),
        "v1": stir(keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=CLASSES)),
    }


@pytest.fixture(scope="module")
def peers(full_size):
    """Variant -> (a narrow Keras network, what it says to IMAGES)."""
    models = {variant: stir(narrowed(model)) for variant, model in full_size.items()}
    return {variant: (model, np.asarray(model(IMAGES, training=False))) for variant, model in models.items()}


def probabilities(model):
    with nn.inference(model):
        logits = model(IMAGES)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def save_as(layout, model, folder):
    """Write the Keras model in one of Keras's layouts; returns the path."""
    from keras.src.legacy.saving import legacy_h5_format

    path = folder / f"model{layout.partition(' ')[0]}"
    if layout == ".h5 weights only":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    elif layout == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    return path


def without_names(path):
    """As earlier versions of Keras 3 wrote it: no layer names in the file."""
    with h5py.File(path, "r+") as file:
        groups = []
        file.visit(groups.append)
        for name in groups:
            file[name].attrs.pop("name", None)
    return path


def as_keras2(path):
    """Names as Keras 2 wrote them, 'kernel:0'; strings as bytes."""
    with h5py.File(path, "r+") as file:
        group = file.get("model_weights", file)
        layers = list(group.attrs["layer_names"])
        for layer in layers:
            old = list(group[layer].attrs["weight_names"])
            for name in old:
                group[layer].move(name, f"{name}:0")
            group[layer].attrs["weight_names"] = np.array([f"{name}:0".encode() for name in old], "S80")
        group.attrs["layer_names"] = np.array([name.encode() for name in layers], "S80")
    return path


LAYOUTS = {
    ".h5 full model": "Keras 2 full model",
    ".h5 weights only": "Keras 2 weights",
    ".weights.h5": "Keras 3 weights",
    ".keras": "Keras 3 full model",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["course", "v1"])
def test_each_layout_is_read(peers, variant, layout, tmp_path):
    twin, expected = peers[variant]
    model = small(variant=variant, seed=5)
    report = import_weights(model, save_as(layout, twin, tmp_path))
    assert report.kind == LAYOUTS[layout]
    assert set(report.mapped) == set(model.state())
    assert (report.unused, report.missing, report.notes) == ((), (), ())
    np.testing.assert_allclose(probabilities(model), expected, atol=1e-5)


@pytest.mark.parametrize("layout", [".h5 full model", ".h5 weights only"])
def test_names_of_keras_2(peers, layout, tmp_path):
    twin, expected = peers["course"]
    model = small(seed=5)
    import_weights(model, as_keras2(save_as(layout, twin, tmp_path)))
    np.testing.assert_allclose(probabilities(model), expected, atol=1e-5)


@pytest.mark.parametrize("variant", ["course", "v1"])
def test_lost_names_are_found_by_order(peers, variant, tmp_path):
    """The two variants put their shortcuts in different places of the order; the shapes tell which is which."""
    twin, expected = peers[variant]
    model = small(variant=variant, seed=5)
    report = import_weights(model, without_names(save_as(".weights.h5", twin, tmp_path)))
    assert "order" in report.notes[0]
    np.testing.assert_allclose(probabilities(model), expected, atol=1e-5)


def test_the_order_is_that_of_keras(peers):
    for variant, (twin, _) in peers.items():
        model = small(variant=variant)
        theirs = [layer.name for layer in twin.layers if layer.weights]
        assert [m.name for m in keras_order(model, variant == "v1")] == theirs


def stirred(model):
    """Ours, with biases and statistics that are not the initial ones."""
    rng = np.random.default_rng(2)
    for v in model.params() + model.buffers():
        if v.data.ndim == 1:
            v.data += 0.2 * rng.random(v.data.shape, np.float32)
    return model


@pytest.mark.parametrize("variant", ["course", "v1"])
def test_keras_loads_our_file(peers, variant, tmp_path):
    model = stirred(small(variant=variant, seed=7))
    export_weights(model, tmp_path / "ours.weights.h5")
    twin = keras.models.clone_model(peers[variant][0])
    twin.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(np.asarray(twin(IMAGES, training=False)), probabilities(model), atol=1e-5)


@pytest.mark.parametrize("variant", ["course", "v1"])
def test_both_ways_at_full_size(full_size, variant, tmp_path):
    """Theirs into ours, then ours (another) into theirs."""
    twin = full_size[variant]
    model = resnet("resnet50", (64, 64, 3), CLASSES, variant=variant)
    import_weights(model, save_as(".keras", twin, tmp_path))
    np.testing.assert_allclose(probabilities(model), np.asarray(twin(IMAGES, training=False)), atol=1e-4)
    export_weights(stirred(model), tmp_path / "ours.weights.h5")
    twin.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(probabilities(model), np.asarray(twin(IMAGES, training=False)), atol=1e-4)


def test_our_file_comes_back_bit_for_bit(tmp_path):
    model, other = small(preact=True), small(preact=True, seed=1)
    export_weights(model, tmp_path / "a.weights.h5")
    import_weights(other, tmp_path / "a.weights.h5")
    assert all(np.array_equal(a, other.state()[name]) for name, a in model.state().items())


def small(classes=CLASSES, **options):
    return resnet("resnet50", (64, 64, 3), classes, widths=WIDTHS, **options)


def refused(model, path, pattern, **options):
    """The import fails with one line that names the file, and the model stays as it was."""
    before = {name: a.copy() for name, a in model.state().items()}
    with pytest.raises(CheckpointError, match=pattern) as caught:
        import_weights(model, path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(a, before[name]) for name, a in model.state().items())


def test_other_classes(tmp_path):
    path = tmp_path / "a.weights.h5"
    source, model = small(7), small(CLASSES, seed=3)
    export_weights(source, path)
    refused(model, path, "fc7/?.*|.*knows 7 classes, the network 6: .*--skip-head")
    own_head = model.state()["fc6.w"].copy()
    report = import_weights(model, path, skip_head=True)
    assert report.missing == ("fc6.w", "fc6.b")
    assert len(report.unused) == 2
    np.testing.assert_array_equal(model.state()["fc6.w"], own_head)
    np.testing.assert_array_equal(model.state()["conv1.w"], source.state()["conv1.w"])


def test_no_classifier_in_the_file(tmp_path):
    """As keras.applications' "notop" files."""
    path = tmp_path / "a.weights.h5"
    export_weights(small(), path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense"]
    seal(path)
    refused(small(seed=3), path, "no classifier; .*--skip-head")
    assert import_weights(small(seed=3), path, skip_head=True).missing == ("fc6.w", "fc6.b")


def change(name, new=None):
    """A function that removes or replaces an array of a `.weights.h5`."""

    def edit(file):
        del file[name]
        if new is not None:
            file[name] = new

    return edit


def append(file):
    file.create_group("layers/conv2d_99/vars").attrs["name"] = "another"
    file["layers/conv2d_99/vars/0"] = np.zeros((1, 1, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("edit", "pattern"),
    [
        (change("layers/conv2d_3/vars/1"), r"1 of \d+ arrays are missing \(res"),
        (change("layers/conv2d_3"), r"2 of \d+ arrays are missing \(res"),
        (append, r"1 have no place"),
        (change("layers/conv2d/vars/0", np.zeros((7, 7, 3, 5), np.float32)), r"conv1.w of shape \(7, 7, 3, 5\)"),
        (change("layers/conv2d/vars/0", np.zeros((7, 7, 3, 4), np.int8)), "int8, expected floating point"),
        (change("layers/dense/vars/0", np.zeros((512, 6), np.float32)), "reads 512 features, .* 128 for images of 64x"),
    ],
)
def test_malformed(edit, pattern, tmp_path):
    path = tmp_path / "a.weights.h5"
    export_weights(small(), path)
    with h5py.File(path, "r+") as file:
        edit(file)
    seal(path)
    refused(small(seed=3), path, pattern)


def test_not_the_file_that_it_should_be(tmp_path):
    model, path = small(seed=3), tmp_path / "a.h5"
    path.write_text("<!doctype html><title>Sign in</title>")
    refused(model, path, r"a web page \(title: 'Sign in'\)")
    refused(model, tmp_path / "none.h5", "no such file")
    export_weights(small(), tmp_path / "a.weights.h5")
    path.write_bytes((tmp_path / "a.weights.h5").read_bytes()[:20000])
    refused(model, path, "truncated")
    with h5py.File(path, "w") as file:
        file["train_set_x"] = np.zeros(3)
    refused(model, path, "found a data set: data are named with --data")
    with h5py.File(path, "w") as file:
        file.attrs["minires"] = "{}"
    refused(model, path, "a minires checkpoint: name it where a command asks for RUN")


def test_a_keras_archive_that_is_cut_or_is_none(tmp_path):
    import zipfile

    model, path = small(seed=3), tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    refused(model, path, "a zip with readme.txt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n cut")
    refused(model, path, "truncated HDF5 file")
    path.write_bytes(path.read_bytes()[:60])
    refused(model, path, "truncated zip archive")


def test_links_out_of_the_file_are_not_followed(tmp_path):
    path, secret = tmp_path / "a.weights.h5", tmp_path / "secret.h5"
    export_weights(small(), path)
    with h5py.File(secret, "w") as file:
        file["w"] = np.ones((7, 7, 3, 4), np.float32)
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = h5py.ExternalLink(str(secret), "/w")
    seal(path)
    refused(small(seed=3), path, "/layers/conv2d/vars/0 is a link to another file")


def test_names_of_another_variant(tmp_path):
    path = tmp_path / "a.weights.h5"
    export_weights(small(variant="v1"), path)
    refused(small(variant="course"), path, "names are those of variant v1")


def test_the_conventions_that_the_file_states(peers, tmp_path):
    """Same shapes, other strides and epsilon: the weights fit, the outputs would differ."""
    path = save_as(".keras", peers["course"][0], tmp_path)
    model = small()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm):
            m.epsilon = 1e-5
    next(m for m in model.modules() if m.name == "res3a_branch2a").stride = (1, 1)
    notes = import_weights(model, path).notes
    assert any(re.match("warning: res3a_branch2a has stride .2, 2. in the file", note) for note in notes)
    assert any(re.match("warning: bn_conv1 has epsilon 0.001 in the file", note) for note in notes)


def test_a_model_inside_a_model(tmp_path):
    """A frozen base with a new head, as transfer learning builds it."""
    base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3), pooling="avg")
    base = stir(narrowed(base))
    twin = keras.Sequential([keras.Input((64, 64, 3)), base, keras.layers.Dense(CLASSES, activation="softmax")])
    expected = np.asarray(twin(IMAGES, training=False))
    for layout in (".weights.h5", ".h5 full model"):
        model = small(variant="v1", seed=5)
        import_weights(model, save_as(layout, twin, tmp_path))
        np.testing.assert_allclose(probabilities(model), expected, atol=1e-5)
