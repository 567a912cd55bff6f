"""Weights carry their classes and preprocessing: a run, exported and imported again, says the same of image files."""

import json

import numpy as np
import pytest
from data_helpers import write_image

from minires import cli, nn, resnet
from minires.data import read_image
from minires.errors import CheckpointError
from minires.seal import BLANK, seal
from minires.train import Classifier, Preprocess, load_classifier, save_checkpoint
from minires.weights import export_weights, import_classifier, import_weights, read_use
from minires.weights.use import KEY, from_text, to_text

CLASSES = ("hand", "minires-seal:00000000:000000000000", "naïve 👋")
PREPROCESS = Preprocess((0.1, 0.2, 1 / 3), (0.3, 0.4, 0.7))
SUFFIXES = (".safetensors", ".pth", ".npz", ".onnx", ".weights.h5")
NEEDS = {".safetensors": "safetensors", ".pth": "torch", ".onnx": "onnx"}


def stirred(arch="resnet8", size=16, variant="v1.5", classes=CLASSES, **options):
    """A classifier whose statistics and weights are those of no new network."""
    widths = (4, 8, 12) if arch == "resnet8" else (8, 12, 16, 20)
    model = resnet(arch, (size, size, 3), len(classes), variant=variant, widths=widths, **options)
    rng = np.random.default_rng(1)
    for v in model.params() + model.buffers():
        v.data += (0.1 * rng.random(v.data.shape)).astype(v.data.dtype)
    return Classifier(model, tuple(classes), PREPROCESS)


def needs(suffix):
    if suffix in NEEDS:
        pytest.importorskip(NEEDS[suffix])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"{i}.{kind}", i, size=(31, 23)) for i, kind in enumerate(("png", "jpg", "png"))]


def predictions(path, images, capsys):
    assert cli.main(["predict", str(path), *map(str, images), "--json", "--device", "cpu"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return [(row["class"], row["probabilities"]) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("variant", ["v1.5", "course", "v1"])
def test_the_same_predictions_on_image_files_to_the_bit(suffix, variant, images, tmp_path, capsys):
    """course flattens its last map, v1 would expect BGR of anybody else's files."""
    needs(suffix)
    if variant != "v1.5" and suffix in (".safetensors", ".pth", ".npz"):
        pytest.skip("torchvision has none of it")
    arch, size = ("resnet8", 16) if variant == "v1.5" else ("resnet50", 64)
    run, file, back = tmp_path / "run.h5", tmp_path / f"weights{suffix}", tmp_path / "back.h5"
    save_checkpoint(run, stirred(arch, size, variant, preact=False))
    assert cli.main(["weights", "export", str(run), "--out", str(file)]) == 0
    assert cli.main(["weights", "import", str(file), "--out", str(back)]) == 0
    assert "images will be prepared as the file says" in capsys.readouterr().out
    assert predictions(back, images, capsys) == predictions(run, images, capsys)
    one, two = load_classifier(run), load_classifier(back)
    assert (one.classes, one.preprocess, one.model.config) == (two.classes, two.preprocess, two.model.config)
    assert all(np.array_equal(array, two.model.state()[name]) for name, array in one.model.state().items())


def test_pytorch_and_onnxruntime_are_told_the_same(images, tmp_path):
    """What the files say of images is enough for others to predict as the run does."""
    ort = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    classifier = stirred()
    export_weights(classifier, tmp_path / "a.onnx")
    words = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}
    use = json.loads(words[KEY])
    pixels = np.stack([read_image(path, (16, 16)) for path in images])
    mean, std = (np.array(use["preprocess"][key], np.float32) for key in ("mean", "std"))
    x = ((pixels / 255 - mean) / std).astype(np.float32)
    (logits,) = ort.InferenceSession(tmp_path / "a.onnx").run(None, {"images": x})
    np.testing.assert_allclose(logits, classifier.logits(pixels), rtol=1e-4, atol=1e-4)
    assert use["classes"] == list(CLASSES)


def test_a_pth_is_loaded_by_pytorch_as_ever(tmp_path):
    torch = pytest.importorskip("torch")
    export_weights(stirred(), tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    module = torch.nn.Module()
    module.register_buffer("x", torch.zeros(1))
    assert all(isinstance(value, torch.Tensor) for value in content.values())
    missing, unexpected = module.load_state_dict(content, strict=False)
    assert (missing, len(unexpected)) == (["x"], len(content))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ten_thousand_classes(suffix, tmp_path):
    """The seal is found however much is said: an .npz has no room for it and says so."""
    needs(suffix)
    classifier = stirred(classes=[f"class number {i}" for i in range(10_000)])
    if suffix == ".npz":
        with pytest.raises(CheckpointError, match="no room for so many names of classes"):
            export_weights(classifier, tmp_path / f"a{suffix}")
        assert not list(tmp_path.iterdir())
        return
    export_weights(classifier, tmp_path / f"a{suffix}")
    assert import_classifier(tmp_path / f"a{suffix}")[0].classes == classifier.classes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bare_network_says_nothing_and_has_to_be_named(suffix, tmp_path, capsys):
    needs(suffix)
    model = stirred().model
    path = tmp_path / f"a{suffix}"
    export_weights(model, path)
    assert read_use(path) is None
    with pytest.raises(CheckpointError, match="does not say which network it is of: build it"):
        import_classifier(path)
    classifier, report = import_classifier(
        path, resnet("resnet8", (16, 16, 3), 3, widths=(4, 8, 12)), preprocess="unit"
    )
    assert classifier.preprocess == Preprocess((0, 0, 0), (1, 1, 1))
    assert report.notes[-1] == "images will be prepared as 'unit'"
    assert classifier.classes == ("0", "1", "2")


def test_a_network_with_layers_of_ones_own_is_not_taken_for_another(tmp_path):
    class Mine(nn.ReLU):
        """Of the user's own."""

        def forward(self, x):
            return super().forward(x) * 2

    classifier = stirred()
    classifier.model.layers[0].layers[-1].__class__ = Mine
    export_weights(classifier, tmp_path / "a.npz")
    use = read_use(tmp_path / "a.npz")
    assert (use.classes, use.preprocess, use.config) == (CLASSES, PREPROCESS, None)
    with pytest.raises(CheckpointError, match="does not say which network"):
        import_classifier(tmp_path / "a.npz")


def test_another_network_of_the_same_file_keeps_its_classes_and_preprocessing(tmp_path):
    path = tmp_path / "a.npz"
    export_weights(stirred(), path)
    larger = import_classifier(path, resnet("resnet8", (32, 32, 3), 3, widths=(4, 8, 12)))[0]
    assert (larger.classes, larger.preprocess) == (CLASSES, PREPROCESS)
    other = import_classifier(path, resnet("resnet8", (16, 16, 3), 5, widths=(4, 8, 12)), skip_head=True)[0]
    assert (other.classes, other.preprocess) == (tuple("01234"), PREPROCESS)
    anew = import_classifier(path, skip_head=True)[0]
    assert (anew.classes, anew.model.layers[-1].w.data.any()) == (tuple("012"), True)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"architecture": null, "classes": 3, "preprocess": {"mean": [0], "std": [1]}}',
        '{"architecture": null, "classes": ["a", 2], "preprocess": {"mean": [0], "std": [1]}}',
        '{"architecture": null, "classes": ["a", "b"], "preprocess": {"mean": [0], "std": [0]}}',
        '{"architecture": {"arch": "resnet9"}, "classes": ["a", "b"], "preprocess": {"mean": [0], "std": [1]}}',
        " " * 2**24 + "{}",
    ],
)
def test_metadata_that_cannot_be_are_one_line(text):
    with pytest.raises(CheckpointError, match=r"x\.npz: its metadata \(minires_use\)") as error:
        from_text(text, "x.npz")
    assert "\n" not in str(error.value)


def test_what_looks_like_a_seal_in_a_class_is_none():
    assert BLANK not in to_text(stirred())
    assert from_text(to_text(stirred()), "x").classes == CLASSES


def test_an_onnx_file_that_is_not_whole_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "a.onnx"
    export_weights(stirred().model, path)
    proto = onnx.load(path)
    model = resnet("resnet8", (16, 16, 3), 3, widths=(4, 8, 12))
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    onnx_bytes = proto.SerializeToString()
    path.write_bytes(onnx_bytes)
    seal(path)
    with pytest.raises(CheckpointError, match=r"refers to another file .*, or give a file that holds its numbers"):
        import_weights(model, path)
    path.write_bytes(onnx_bytes[: len(onnx_bytes) // 2])
    with pytest.raises(CheckpointError, match=r"a\.onnx"):
        import_weights(model, path)


@pytest.mark.parametrize("words", [["a.npz"], ["--out", "a.npz"]])
def test_export_and_import_name_their_output_alike(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "run.h5", stirred())
    assert cli.main(["weights", "export", "run.h5", *words]) == 0
    back = [word.replace("a.npz", "b.h5") for word in words]
    assert cli.main(["weights", "import", "a.npz", *back]) == 0
    assert load_classifier(tmp_path / "b.h5").classes == CLASSES
    for wrong in ([], ["c.npz", "--out", "d.npz"]):
        assert cli.main(["weights", "export", "run.h5", *wrong]) == 2
        assert "expected one name for the file to write" in capsys.readouterr().err
