"""`train --weights`: from a run, a checkpoint, files of others; what is kept is said, and what cannot be refused."""

import json

import numpy as np
import pytest
from data_helpers import write_image

from minires import cli, resnet
from minires.train import Classifier, Preprocess, load_classifier, save_checkpoint
from minires.train.checkpoint import load_checkpoint
from minires.train.finetune import parts
from minires.weights import export_weights

PREPROCESS = Preprocess((0.1, 0.2, 0.3), (0.3, 0.4, 0.7))
QUICK = ["--epochs", "1", "--batch-size", "6", "--lr", "0.01", "--no-check", "--device", "cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    for i in range(18):
        write_image(folder / ("cat", "dog", "owl")[i % 3] / f"{i}.png", i)
    return folder


@pytest.fixture
def source(tmp_path):
    """A checkpoint of other classes, one of them among the photographs'."""
    classifier = Classifier(resnet("resnet8", (12, 12, 3), 2, seed=5), ("dog", "fox"), PREPROCESS)
    save_checkpoint(tmp_path / "source.h5", classifier)
    return tmp_path / "source.h5", classifier


def train(photos, out, *words):
    return cli.main(["train", "--data", str(photos), *QUICK, "--out", str(out), *map(str, words)])


@pytest.mark.slow
def test_from_a_checkpoint_with_frozen_parts(source, photos, tmp_path, capsys):
    path, before = source
    words = "--freeze", "stem,stage2,stage3:1", "--head-lr", "10x", "--rates", "stage4=0.5x"
    assert train(photos, tmp_path / "run", "--weights", path, *words) == 0
    said = capsys.readouterr().out
    for line in (
        f"weights: {path}\n",
        "the classifier's classes: kept: dog; new: cat, owl; not used any more: fox\n",
        "frozen, batch normalisation in evaluation mode: stem, stage2, stage3 for 1 epochs\n",
        "learning rates: stage4 0.5x, head 10x, all else 0.01\n",
        "resnet8 (v1.5)",
    ):
        assert line in said
    after = load_classifier(tmp_path / "run")
    assert (after.classes, after.preprocess) == (("cat", "dog", "owl"), PREPROCESS)
    assert after.model.config.input_shape == (12, 12, 3)
    here, there = parts(after.model), parts(before.model)
    for name, same in (("stem", True), ("stage2", True), ("stage4", False)):
        pairs = zip(here[name][0].state().values(), there[name][0].state().values(), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == same
    recipe = load_checkpoint(tmp_path / "run" / "model.h5").training["recipe"]
    assert recipe["freeze"] == {"stem": None, "stage2": None, "stage3": 1}
    assert recipe["rates"] == {"stage4": 0.5, "head": 10.0}
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--epochs", "2", "--device", "cpu"]) == 0
    again = load_classifier(tmp_path / "run")
    assert all(np.array_equal(a, again.model.state()[n]) for n, a in before.model.state().items() if "layer1" in n)
    for option in (["--weights", str(path)], ["--freeze", "stem"], ["--rates", "stem=2"], ["--head-lr", "2"]):
        assert cli.main(["train", "--resume", str(tmp_path / "run"), *option]) == 2
        assert f"{option[0]}: --resume goes on as the run began" in capsys.readouterr().err


@pytest.mark.slow
def test_the_head_begins_with_what_the_weights_know(source, photos, tmp_path):
    path, before = source
    assert (
        train(
            photos, tmp_path / "run", "--weights", path, "--freeze", "stem,stage2,stage3,stage4", "--rates", "fc=1e-9x"
        )
        == 0
    )
    after = load_classifier(tmp_path / "run")
    np.testing.assert_allclose(after.model.layers[-1].w.data[:, 1], before.model.layers[-1].w.data[:, 0], atol=1e-6)


@pytest.mark.slow
def test_from_files_of_others(photos, tmp_path, capsys):
    """Their layout, not their classes: the network is named as for `weights import`."""
    export_weights(resnet("resnet18", (32, 32, 3), 7, variant="v1.5", seed=3), tmp_path / "theirs.npz")
    network = "--arch", "resnet18", "--variant", "v1.5", "--size", "32"
    assert train(photos, tmp_path / "run", "--weights", tmp_path / "theirs.npz", *network, "--freeze", "stem") == 0
    said = capsys.readouterr().out
    assert "arrays loaded" in said
    assert "images will be prepared as 'imagenet'" in said
    assert "the classifier's classes: new: cat, dog, owl" in said
    after = load_classifier(tmp_path / "run")
    assert after.preprocess.mean == (0.485, 0.456, 0.406)
    assert after.classes == ("cat", "dog", "owl")
    theirs = resnet("resnet18", (32, 32, 3), 7, variant="v1.5", seed=3)
    np.testing.assert_array_equal(after.model.state()["conv1.w"], theirs.state()["conv1.w"])
    words = "--weights", tmp_path / "theirs.npz", *network, "--preprocess", "unit"
    assert train(photos, tmp_path / "unit", *words) == 0
    assert load_classifier(tmp_path / "unit").preprocess.mean == (0, 0, 0)


@pytest.mark.slow
def test_from_an_export_of_ours_the_network_comes_along(source, photos, tmp_path, capsys):
    export_weights(source[1], tmp_path / "ours.npz")
    assert train(photos, tmp_path / "run", "--weights", tmp_path / "ours.npz") == 0
    assert "kept: dog; new: cat, owl" in capsys.readouterr().out
    assert load_classifier(tmp_path / "run").preprocess == PREPROCESS


@pytest.mark.slow
def test_images_of_another_size_give_a_flat_head_other_features(photos, tmp_path, capsys):
    classifier = Classifier(resnet("resnet18", (64, 64, 3), 3), ("cat", "dog", "owl"), PREPROCESS)
    save_checkpoint(tmp_path / "source.h5", classifier)
    assert train(photos, tmp_path / "run", "--weights", tmp_path / "source.h5", "--size", "128") == 0
    assert (
        "the classifier begins anew: images of this size give it 2048 features in place of 512"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--arch", "resnet20"], "--arch: SOURCE says itself what its network is"),
        (["--bn-momentum", "0.5"], "--bn-momentum: SOURCE says itself"),
        (["--preprocess", "unit"], "--preprocess: SOURCE says itself"),
        (["--freeze", "stage1"], "stage1: resnet8 has no such part: choose of stem, stage2, stage3, stage4, head"),
        (["--rates", "stem"], "argument --rates: expected stem=FACTOR, such as stem=0.1x"),
        (["--rates", "stem=-1x"], "argument --rates: expected a finite number above 0, got '-1'"),
        (["--head-lr", "fast"], "argument --head-lr: expected a finite number above 0, got 'fast'"),
        (["--freeze", "stem:soon"], "argument --freeze: expected a whole number from 1"),
        (["--freeze", "stem,,head"], "argument --freeze: expected names of parts with a comma between them"),
    ],
)
def test_what_cannot_be_is_one_line(words, line, source, photos, tmp_path, capsys):
    assert train(photos, tmp_path / "run", "--weights", source[0], *words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert line.replace("SOURCE", str(source[0])) in said
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there(photos, tmp_path, capsys):
    for name in ("nothing.h5", "nothing.safetensors"):
        assert train(photos, tmp_path / "run", "--weights", tmp_path / name) == 2
        said = capsys.readouterr().err
        assert name in said
        assert "no such file" in said
    assert train(photos, tmp_path / "run", "--preprocess", "unit") == 2
    assert "--preprocess: says how --weights want their images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_to_resume_is_its_run_or_told_what_to_do(source, photos, tmp_path, capsys):
    assert train(photos, tmp_path / "run", "--arch", "resnet8", "--size", "12") == 0
    model = tmp_path / "run" / "model.h5"
    assert cli.main(["train", "--resume", str(model), "--data", str(photos), "--epochs", "2", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    capsys.readouterr()
    (tmp_path / "run" / "manifest.json").unlink()
    for path in (source[0], model, model.parent):
        assert cli.main(["train", "--resume", str(path), "--data", str(photos)]) == 2
        assert f"start a new run from these weights with --weights {path}" in capsys.readouterr().err
