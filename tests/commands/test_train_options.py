"""What the options of a command do: each reaches what it is for, and none is taken and forgotten."""

import json
import shutil

import numpy as np
import pytest
from data_helpers import write_image
from PIL import Image

from minires import cli, nn, ops, run
from minires.train import Classifier, Preprocess, evaluate, load_classifier, loop, save_checkpoint
from minires.train.checkpoint import load_checkpoint
from minires.weights import export_weights

# option -> (what is given, where it has to arrive, the value there)
OPTIONS = {
    "--data": ("photos", "data spec", "photos"),
    "--size": ("12", "data size", 12),
    "--split-seed": ("3", "data split_seed", 3),
    "--test-fraction": ("0.5", "data test_fraction", 0.5),
    "--flip": (None, "data flip", True),
    "--arch": ("resnet8", "network arch", "resnet8"),
    "--variant": ("course", "network variant", "course"),
    "--preact": (None, "network preact", True),
    "--shortcut": ("A", "network shortcut", "A"),
    "--init": ("glorot", "network init", "glorot"),
    "--bn-momentum": ("0.8", "network bn_momentum", 0.8),
    "--last-gamma": ("0.5", "network last_gamma", 0.5),
    "--epochs": ("1", "recipe epochs", 1),
    "--batch-size": ("5", "recipe batch_size", 5),
    "--optimizer": ("sgd", "recipe optimizer", "sgd"),
    "--lr": ("0.003", "recipe lr", 0.003),
    "--schedule": ("cosine", "recipe schedule", "cosine"),
    "--warmup-epochs": ("0.5", "recipe warmup_epochs", 0.5),
    "--weight-decay": ("0", "recipe weight_decay", 0),
    "--decay-all": (None, "recipe decay_all", True),
    "--clip-norm": ("2", "recipe clip_norm", 2),
    "--label-smoothing": ("0.1", "recipe label_smoothing", 0.1),
    "--no-precise-bn": (None, "recipe precise_bn", False),
    "--no-augment": (None, "recipe augment", None),
    "--patience": ("4", "recipe patience", 4),
    "--freeze": ("stem,stage2:1", "recipe freeze", {"stem": None, "stage2": 1}),
    "--rates": ("stage3=0.5x", "recipe rates", {"stage3": 0.5, "head": 3.0}),
    "--head-lr": ("3x", "recipe rates", {"stage3": 0.5, "head": 3.0}),
    "--seed": ("7", "recipe seed", 7),
    "--log": ("csv", "seen log", ["csv"]),
    "--watch": ("2", "seen watch", 2),
    "--recompute": (None, "way recompute", True),
    "--max-workspace": ("3", "way max_workspace", 3 * 2**20),
    "--by-layers": (None, "way by_layers", True),
    "--stall": ("900", "watch stall", 900),
    "--no-check": (None, "check skipped", "not asked for"),
    "--device": ("cpu", "data flip", True),  # there is no other here
}
ELSEWHERE = {
    *("-h", "--help", "--out", "--resume"),
    *("--weights", "--preprocess"),  # test_starting.py
    *("--local-bn", "--shard-optimizer", "--no-shard-optimizer"),  # test_ranks.py
    *(
        "--no-flip",
        "--no-skip",
        "--no-bn",
        "--check",
        "--precise-bn",
        "--tf32",
    ),  # the other side of these, or what a CPU has not
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of random photographs."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for i in range(18):
        write_image(folder / "abc"[i % 3] / f"{i}.png", i)
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """(the folder of a run with every option, what arrived: 'recipe lr' -> value)."""
    folder, arrived = tmp_path_factory.mktemp("runs") / "run", {}
    make_step, watch = loop.make_step, loop.Watch

    def watched(*args, **ways):
        arrived.update({f"way {name}": value for name, value in ways.items()})
        return make_step(*args, **ways)

    def watching(stall, *args):
        arrived["watch stall"] = stall
        return watch(stall, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_step", watched)
        patch.setattr(loop, "Watch", watching)
        words = [word for option, (value, *_) in OPTIONS.items() for word in (option, value) if word is not None]
        words[words.index("photos")] = str(photos)
        assert cli.main(["train", *words, "--out", str(folder)]) == 0
    checkpoint = load_checkpoint(folder / "model.h5")
    training = checkpoint.training
    data = json.loads((folder / "manifest.json").read_text())["data"]
    for kind, values in (
        ("network", vars(checkpoint.classifier.model.config)),
        ("recipe", training["recipe"]),
        ("check", training["progress"]["check"]),
        ("data", data | {"spec": photos.name}),
        ("seen", run.seen(folder)),
    ):
        arrived.update({f"{kind} {name}": value for name, value in values.items()})
    return folder, arrived


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_train_arrives(option, trained):
    _, place, value = OPTIONS[option]
    assert trained[1][place] == value


def test_every_option_of_train_is_among_them():
    (commands,) = (action for action in cli.parser()._actions if action.choices)
    known = {name for action in commands.choices["train"]._actions for name in action.option_strings}
    assert known == set(OPTIONS) | ELSEWHERE


def test_the_seed_is_that_of_the_weights_too(trained):
    assert trained[1]["network seed"] == 7


def test_the_same_split_is_loaded_again(trained):
    folder, _ = trained
    data = json.loads((folder / "manifest.json").read_text())["data"]
    train, test = run.data_source(folder).load()
    assert [part.fingerprint() for part in (train, test)] == [data["train fingerprint"], data["test fingerprint"]]
    another = run.DataSource(data["spec"], 12, split_seed=4, test_fraction=0.5).load()[0]
    assert another.fingerprint() != train.fingerprint()


def test_best_is_the_best_and_images_are_brought_to_the_networks_size(trained, tmp_path, capsys):
    """The network takes 12x12; the photographs are 12x10."""
    folder = shutil.copytree(trained[0], tmp_path / "run")
    best = load_classifier(folder)
    save_checkpoint(folder / "model.h5", best)  # which says no more that its epoch is the best
    best.model.layers[-1].b.data[...] += 5, 0, 0
    save_checkpoint(folder / "best.h5", best)
    test = run.data_source(folder).load()[1]
    data = json.loads((folder / "manifest.json").read_text())["data"]["spec"]
    split = "--split-seed", "3", "--test-fraction", "0.5"
    for options, classifier in (((), load_classifier(folder)), (("--best",), best)):
        for source in ((), ("--data", data, *split)):
            assert cli.main(["evaluate", str(folder), *options, *source, "--json", "--device", "cpu"]) == 0
            loss = json.loads(capsys.readouterr().out)["loss"]
            assert loss == pytest.approx(evaluate(classifier, test).loss, rel=1e-5)


def test_predict_tells_the_likeliest_class_and_the_next(tmp_path, capsys):
    model = nn.resnet("resnet8", (8, 8, 3), 4)
    model.layers[-1].w.data[...] = 0
    model.layers[-1].b.data[...] = np.log([0.25, 0.6, 0.1, 0.05])
    save_checkpoint(tmp_path / "model.h5", Classifier(model, ("left", "middle", "right", "none"), Preprocess()))
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert cli.main(["predict", str(tmp_path / "model.h5"), str(tmp_path / "x.png"), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert [word in text for word in ("middle", "60.0%", "left (25.0%)")] == [True] * 3


@pytest.mark.parametrize("wrong", [False, True])
def test_a_wrong_gradient_is_a_status(wrong, monkeypatch, capsys):
    if wrong:
        monkeypatch.setattr(ops, "relu_backward", lambda dy, y: 2 * dy * (y > 0))
    assert cli.main(["gradcheck", "relu"]) == int(wrong)
    assert ("WRONG" in capsys.readouterr().out) == wrong


def test_weights_that_expect_bgr_get_it(tmp_path):
    """keras.applications' networks; this one looks at the blue of an image alone."""
    arguments = ["--arch", "resnet18", "--variant", "v1", "--input", "32x32x3", "--classes", "3"]
    model = nn.resnet("resnet18", (32, 32, 3), 3, variant="v1")
    model.layers[0].layers[1].w.data[:, :, 1:] = 0
    export_weights(model, tmp_path / "theirs.weights.h5")
    out = tmp_path / "model.h5"
    assert cli.main(["weights", "import", str(tmp_path / "theirs.weights.h5"), *arguments, "--out", str(out)]) == 0
    imported = load_classifier(out)
    kernel = imported.model.layers[0].layers[1].w.data
    np.testing.assert_array_equal(kernel[:, :, 2], model.layers[0].layers[1].w.data[:, :, 0])
    assert not kernel[:, :, :2].any()
    assert imported.preprocess.mean == pytest.approx([123.68 / 255, 116.779 / 255, 103.939 / 255])
