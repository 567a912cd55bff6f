"""Whatever is changed in a layer, a block or an op takes effect in fit, evaluate and predict, or stops them by name.

Each class and each op is found by the test itself, changed by a factor of 1.001 or made to raise. What then comes out
must be what the layers give, one after the other as they stand, with the change in them.
"""

# ruff: noqa: E501 (edits of files are long lines)

import ast
import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import threads
from data_helpers import random_set

import minires
from minires import nn, ops, resnet
from minires.backend import to_numpy
from minires.errors import DisagreementError
from minires.fast import check, cpu, fuse, inference, proven, training
from minires.instruments.cost.summary import summarize
from minires.instruments.gradcheck import gradcheck
from minires.nn.module import Module
from minires.nn.probe import probe
from minires.train import Classifier, Preprocess, Recipe, evaluate, fit

TRAIN, TEST = random_set(6, classes=("a", "b")), random_set(4, classes=("a", "b"), seed=1)
RECIPE = Recipe(epochs=1, batch_size=3, optimizer="sgd", lr=0.05, augment=None)
SIZE = TRAIN.shape[0]


def conv(name, C, O, kernel=3, **options):
    return nn.Conv2d(name, C, O, kernel, pad=options.pop("pad", kernel // 2), bias=True, **options)


def block(name, C, O, shortcut, stride=1):
    layers = conv(f"{name}.c1", C, O, stride=stride), nn.BatchNorm(f"{name}.n1", O), nn.ReLU(f"{name}.r1")
    branch = nn.Sequential(*layers, conv(f"{name}.c2", O, O), nn.BatchNorm(f"{name}.n2", O), name=f"{name}.branch")
    return nn.Block(name, branch, shortcut, after=nn.ReLU(f"{name}.r2"))


def of_all_layers():
    """Every layer that is no container, and each join, in one small network."""
    stem = conv("first", 3, 3), nn.ZeroPad2d("pad", 1), conv("conv", 3, 4, pad="valid"), nn.BatchNorm("norm", 4)
    stem = *stem, nn.ReLU("relu"), conv("dilated", 4, 4, pad=2, dilation=2), conv("depthwise", 4, 4, groups=4)
    stem = *stem, nn.BatchNorm("depthwise.norm", 4), nn.LeakyReLU("leaky", 0.1)
    projection = nn.Sequential(conv("p.c", 4, 6, 1, stride=2), nn.BatchNorm("p.n", 6), name="p")
    body = block("one", 4, 4, nn.Block.IDENTITY), nn.MaxPool2d("max", 2), block("two", 4, 6, projection, 2)
    grouped = nn.Sequential(
        conv("mixed.c", 6, 4, groups=2), nn.GELU("gelu"), nn.StochasticDepth("depth", 0.3), name="g"
    )
    mixed = nn.Branches("mixed", conv("mixed.one", 6, 2, 1), grouped)
    gate = nn.Sequential(nn.GlobalAvgPool2d("gate.mean"), nn.Dense("gate.fc", 6, 6), nn.Sigmoid("sigmoid"), name="gate")
    gated = nn.Branches("gated", nn.Identity("same"), gate, join=nn.Multiply("gated.by"))
    body = *body, nn.GroupNorm("groups", 6, 2), mixed, nn.LayerNorm("layer", 6), gated
    subsampled = nn.Sequential(nn.Subsample("sub", 1, 6, 7), name="s")
    body = *body, nn.SqueezeExcite("se", 6, 3), block("three", 6, 7, subsampled)
    head = nn.AvgPool2d("avg", 2, 1), nn.Flatten("flat"), nn.Dropout("drop", 0.3)
    features = int(np.prod(nn.Sequential(*stem, *body, *head[:2]).output_shape(TRAIN.shape)))
    return nn.Network(*stem, *body, *head, nn.Dense("fc", features, 2), input_shape=TRAIN.shape, name="all")


def family():
    return resnet("resnet8", TRAIN.shape, 2, widths=(3, 4, 5))


def network(cls=None):
    """A network with a part of this class."""
    for make in (of_all_layers, family):
        model = make()
        if cls is None or any(type(m) is cls for m in model.modules()):
            return model.astype(np.float64)
    raise AssertionError(f"no network here has a {cls.__name__}: add one")


def run(cls=None, device="cpu", *, make=network, **ways):
    """What fit tells and leaves, what evaluate and predict give, for the network make(cls): name -> numbers."""
    classifier = Classifier(make(cls).to(device), TRAIN.classes, Preprocess())
    by_layers = ways.get("by_layers", False)
    first = evaluate(classifier, TEST, by_layers=by_layers)
    progress = fit(classifier, TRAIN, None, RECIPE, **ways)
    state = {name: to_numpy(value).copy() for name, value in classifier.model.state().items()}
    predictor = inference.Predictor(classifier.model, by_layers=by_layers)
    told = {"evaluate": first.probs, "predict": classifier.probs(TEST.images(np.arange(2)), predictor)}
    return {"loss": np.array(progress.history[0]["train_loss"]), **state, **told}


def assert_close(ours, theirs, tolerance=1e-9):
    for name, value in theirs.items():
        assert np.abs(ours[name] - value).max() <= tolerance * max(1e-2, np.abs(value).max()), name


def differs(ours, theirs):
    return any(np.abs(ours[name] - value).max() > 1e-12 for name, value in theirs.items())


# --- the changes ------------------------------------------------------------------------------------------------


def subclasses(cls):
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


OURS = [c for c in subclasses(Module) if c.__module__.startswith("minires.nn.") and not c.__name__.startswith("_")]
CLASSES = [c for c in OURS if c is not nn.Composite]  # which is nothing by itself
METHODS = [(cls, name) for cls in CLASSES for name in ("forward", "backward")]


class Raised(Exception):
    """What a changed method raises."""


def scaled(result):
    """The first array times 1.001."""
    if isinstance(result, tuple):
        return (scaled(result[0]), *result[1:])
    return None if result is None else result * 1.001


def changed(function, kind, first=None):
    """`function`, but it raises, or what it returns is scaled; or, `first`, what it is given at that place."""

    def mine(*args, **options):
        if kind == "raise":
            raise Raised
        if first is None:
            return scaled(function(*args, **options))
        return function(*args[:first], scaled(args[first]), *args[first + 1 :], **options)

    return mine


def of_dy(method):
    """Where a method takes dy, the network's own backward having nothing to return; None: change what it gives."""
    return 1 if method == "backward" else None


@pytest.fixture(scope="module")
def unchanged():
    return {make: run(make) for make in (None, nn.ResNet)}


def compare(cls, kind, unchanged):
    """With a change in place: what fit, evaluate and predict make of it."""
    if kind == "raise":
        with pytest.raises(Raised):
            run(cls)
        return
    expected = run(cls, by_layers=True)
    assert differs(expected, unchanged[None if any(type(m) is cls for m in of_all_layers().modules()) else nn.ResNet])
    for count in (1, 3):
        with cpu.use_threads(count):
            assert_close(run(cls), expected)


@pytest.mark.parametrize("kind", ["factor", "raise"])
@pytest.mark.parametrize(("cls", "method"), METHODS, ids=lambda v: getattr(v, "__name__", v))
def test_a_changed_layer(cls, method, kind, monkeypatch, unchanged):
    monkeypatch.setattr(cls, method, changed(getattr(cls, method), kind, of_dy(method)))
    assert fuse.reason_against(network(cls)) == f"{cls.__name__}.{method} was replaced"
    compare(cls, kind, unchanged)


@pytest.mark.parametrize(("cls", "method"), METHODS, ids=lambda v: getattr(v, "__name__", v))
def test_a_changed_instance(cls, method):
    """One layer of a network, its class left as it is: compared with the same change on the layers as they stand."""

    def of_mine(cls):
        model = network(cls)
        module = next(m for m in model.modules() if type(m) is cls)
        mine = changed(getattr(module, method), "factor", 0 if method == "backward" else None)
        setattr(module, method, mine)
        return model

    by_layers, fast = run(cls, make=of_mine, by_layers=True), run(cls, make=of_mine)
    assert_close(fast, by_layers)
    assert differs(by_layers, run(cls))


class Halved(nn.ReLU):
    """A layer of the user's own that came by inheritance."""

    def forward(self, x):
        return super().forward(x) / 2


class Centred(Module):
    """A layer that sees the whole batch: it takes the batch's mean away."""

    def forward(self, x):
        return x - x.mean(axis=0)

    def backward(self, dy, need_dx=True):
        return dy - dy.mean(axis=0)

    def output_shape(self, shape):
        return shape


@pytest.mark.parametrize("mine", [Halved, Centred])
def test_a_layer_of_the_users_own(mine, unchanged):
    def with_mine(cls=None):
        model = network(cls)
        model.layers.insert(4, mine("mine"))
        return model

    assert fuse.reason_against(with_mine()) == f"mine is a {mine.__name__} of your own"
    expected = run(make=with_mine, by_layers=True)
    assert differs(expected, unchanged[None])
    assert_close(run(make=with_mine), expected)


# --- ops --------------------------------------------------------------------------------------------------------

AMONG_RANKS = {"batchnorm_sums", "batchnorm_dx"}
NOT_IN_TRAINING = {"batchnorm_eval_backward"}  # of a network in evaluation mode, which nobody trains


def of_op(name):
    return nn.ResNet if name.startswith("global_avgpool") else None


@pytest.mark.parametrize("kind", ["factor", "raise"])
@pytest.mark.parametrize("name", ops.__all__)
def test_a_changed_op(name, kind, monkeypatch, unchanged):
    monkeypatch.setattr(ops, name, changed(getattr(ops, name), kind))
    assert fuse.reason_against(network()) == f"ops.{name} was replaced"
    if name in NOT_IN_TRAINING:
        model = family().eval()
        model.forward(np.ones((2, SIZE, SIZE, 3), np.float32))
        with pytest.raises(Raised) if kind == "raise" else contextlib.nullcontext():
            model.backward(np.ones((2, 2), np.float32))
    elif name in AMONG_RANKS:
        if kind == "raise":
            with pytest.raises(Raised):
                threads.run(2, lambda rank: run())
        else:
            assert differs(threads.run(2, lambda rank: run())[0], unchanged[None])
    else:
        compare(of_op(name), kind, unchanged)


def compare_on_a_gpu(cls, kind, kernels_run):
    if kind == "raise":
        with pytest.raises(Raised), kernels_run():
            run(cls, "gpu")
        return
    expected = run(cls, by_layers=True)
    with kernels_run():
        assert_close(run(cls, "gpu"), expected, 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["factor", "raise"])
@pytest.mark.parametrize("name", [n for n in ops.__all__ if n not in AMONG_RANKS | NOT_IN_TRAINING])
def test_a_changed_op_on_a_gpu(name, kind, monkeypatch, kernels_run):
    monkeypatch.setattr(ops, name, changed(getattr(ops, name), kind))
    compare_on_a_gpu(of_op(name), kind, kernels_run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["factor", "raise"])
@pytest.mark.parametrize(("cls", "method"), METHODS, ids=lambda v: getattr(v, "__name__", v))
def test_a_changed_layer_on_a_gpu(cls, method, kind, monkeypatch, kernels_run):
    monkeypatch.setattr(cls, method, changed(getattr(cls, method), kind, of_dy(method)))
    compare_on_a_gpu(cls, kind, kernels_run)


def test_unchanged_everything_is_fused_and_the_same():
    for cls in (None, nn.ResNet):
        assert fuse.reason_against(network(cls)) == ""
        assert_close(run(cls), run(cls, by_layers=True))


# --- edited files -----------------------------------------------------------------------------------------------


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", [*proven.SHARED, *proven.OPS, *proven.LAYERS, *proven.OTHERS])
def test_an_edit_of_any_function_is_seen_and_a_comment_is_not(name):
    source = (proven.PACKAGE / name).read_text(encoding="utf-8")
    lines, now = source.splitlines(keepends=True), proven.fingerprint(source)
    assert json.loads(proven.TABLE.read_text())[name] == now, "edited: see minires/fast/proven.py for what to do"
    for node in functions(source):
        last = node.body[-1]
        at, indent = last.lineno - 1, " " * last.col_offset
        edited = [*lines[:at], f"{indent}x = x * 1.001\n", *lines[at:]]
        assert proven.fingerprint("".join(edited)) != now, node.name
        commented = [*lines[:at], f"{indent}# a remark\n\n", *lines[at:]]
        assert proven.fingerprint("".join(commented)) == now, node.name


@pytest.fixture
def copy(tmp_path):
    """The package in a folder of its own, and a function that runs Python with it."""
    source = Path(minires.__file__).parent
    shutil.copytree(source, tmp_path / "minires", ignore=shutil.ignore_patterns("__pycache__"))

    def python(*args):
        command = [sys.executable, *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    def edit(name, *changes):
        path = tmp_path / "minires" / name
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    return SimpleNamespace(python=python, edit=edit, folder=tmp_path)


FITS = """
import sys, json, numpy as np
sys.path.insert(0, {tests!r})
from stripes import classifier, TRAIN, TEST, RECIPE
from dataclasses import replace
from minires.train import fit, evaluate
import minires
assert minires.__file__.startswith({folder!r}), minires.__file__
told = []
for by_layers in (False, True):
    c = classifier()
    p = fit(c, TRAIN, None, replace(RECIPE, epochs=1), by_layers=by_layers)
    told.append([p.history[0]["train_loss"], evaluate(c, TEST, by_layers=by_layers).loss, p.how])
print(json.dumps(told))
"""


def fits(copy):
    """[[loss of fit, of evaluate, how], the same by layers] with the copy's package."""
    (copy.folder / "fits.py").write_text(FITS.format(tests=str(Path(threads.__file__).parent), folder=str(copy.folder)))
    done = copy.python("fits.py")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


EDITS = {
    "ops/conv.py": ("        if b is not None:\n            y[images]", "        y[images] *= 1.001\n        if b is not None:\n            y[images]"),
    "ops/norm.py": ("        part += beta\n", "        part += beta\n        part *= 1.001\n"),
    "ops/activation.py": ("return dy * (y > 0)", "return 1.001 * dy * (y > 0)"),
    "ops/dense.py": ("y = x @ w", "y = 1.001 * (x @ w)"),
    "ops/loss.py": ("shifted = logits - ", "shifted = 1.001 * logits - "),
    "nn/activation.py": ("        return ops.relu_backward(dy, y)", "        return 1.001 * ops.relu_backward(dy, y)"),
    "nn/blocks.py": ("return dx + dshortcut if", "return dx + 1.001 * dshortcut if"),
    "optim.py": ("        v *= momentum\n", "        v *= momentum * 0.99\n"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_takes_effect(name, copy):
    before = fits(copy)
    copy.edit(name, EDITS[name])
    fast, by_layers = fits(copy)
    assert fast[:2] == pytest.approx(by_layers[:2], rel=2e-3)
    assert abs(fast[0] - before[0][0]) + abs(fast[1] - before[0][1]) > 1e-6
    assert f"minires/{name} was edited" in fast[2]


@pytest.mark.slow
def test_the_doctor_tells_what_was_edited(copy):
    copy.edit("ops/dense.py", EDITS["ops/dense.py"])
    told = re.sub(r"[│\s]+", " ", copy.python("-m", "minires", "doctor").stdout)
    assert "what was edited runs as it reads: ops/dense.py" in told


@pytest.mark.slow
def test_a_raise_in_a_layers_training_branch_ends_fit(copy):
    line = "        if self.training:\n            mean, var, m = "
    copy.edit("nn/norm.py", (line, line.replace("mean", "raise RuntimeError('mine')\n            mean")))
    done = copy.python("-m", "minires", "train", "--arch", "resnet8", "--epochs", "1", "--out", "run")
    assert done.returncode != 0
    assert "mine" in done.stderr


def test_a_convolution_that_was_edited_to_be_dilated_is_the_one_that_trains(copy):
    before = fits(copy)
    line = 'return {"stride": self.stride, "pad": self.pad, "dilation": self.dilation,'
    copy.edit("nn/conv.py", (line, 'return {"stride": self.stride, "pad": 2 * self.pad, "dilation": (2, 2),'))
    fast, by_layers = fits(copy)
    assert fast[:2] == pytest.approx(by_layers[:2], rel=1e-6)
    assert abs(fast[0] - before[0][0]) > 1e-3
    assert "minires/nn/conv.py was edited" in fast[2]


# --- what is in doubt is compared before the first step -----------------------------------------------------------


@pytest.mark.parametrize("part", ["norm_add_relu_forward", "norm_add_relu_backward", "norm_statistics"])
def test_a_kernel_that_does_something_else_is_found_before_the_first_step(part, monkeypatch):
    wrong = changed(getattr(training, part), "factor")
    monkeypatch.setattr(training, part, wrong)
    classifier = Classifier(network(), TRAIN.classes, Preprocess())
    before = {name: value.copy() for name, value in classifier.model.state().items()}
    told = r"^[\w.]+: its (output|gradient|running statistic) differs from that of the layers by \S+: .*--by-layers"
    with pytest.raises(DisagreementError, match=told):
        fit(classifier, TRAIN, None, RECIPE)
    assert all(np.array_equal(before[name], value) for name, value in classifier.model.state().items())
    fit(classifier, TRAIN, None, RECIPE, check=False)


def test_a_kernel_that_gives_nan_is_found_too(monkeypatch):
    right = training.norm_add_relu_forward
    monkeypatch.setattr(training, "norm_add_relu_forward", lambda *args, **options: right(*args, **options) * np.nan)
    images = np.random.default_rng(0).standard_normal((3, *TRAIN.shape))
    with pytest.raises(DisagreementError, match="its output differs from that of the layers by nan"):
        check.check_training(network(), training.Fused, images, np.array([0, 1, 0]))


def test_a_layer_is_named_where_the_difference_begins(monkeypatch):
    model, calls = network(), []

    def wrong(*args, **options):
        calls.append(args)
        y = right(*args, **options)
        return np.maximum(y, 0.1) if len(calls) % 9 == 3 else y  # of nine normalisations the third, in "one"

    right = training.norm_add_relu_forward
    monkeypatch.setattr(training, "norm_add_relu_forward", wrong)
    images = np.random.default_rng(0).standard_normal((3, *TRAIN.shape))
    with pytest.raises(DisagreementError, match=r"^one: its output"):
        check.check_training(model, training.Fused, images, np.array([0, 1, 0]))


def test_inference_is_compared_too(monkeypatch):
    monkeypatch.setattr(inference, "conv2d_add_relu", changed(inference.conv2d_add_relu, "factor"))
    classifier = Classifier(network(), TRAIN.classes, Preprocess())
    with pytest.raises(DisagreementError, match="its output differs"):
        evaluate(classifier, TEST)
    evaluate(classifier, TEST, by_layers=True)


def test_what_was_compared_is_told_and_noted():
    progress = fit(Classifier(network(), TRAIN.classes, Preprocess()), TRAIN, None, RECIPE)
    told = check.Agreement(**progress.check)
    assert told.images == 3
    assert 0 < max(told.logits, told.gradients, told.running_statistics) < 1e-11
    assert "agrees with the layers to " in str(told)
    model = network()
    model.params()[0].data[...] = np.nan
    images, labels = np.zeros((3, *TRAIN.shape)), np.zeros(3, int)
    told = check.check_training(model, training.Fused, images, labels)
    assert told.skipped == "the network gives numbers that are not finite"
    model = network()
    model.layers[0].lock = threading.Lock()
    told = check.check_training(model, lambda twin: twin, images, labels)
    assert "cannot be copied" in told.skipped


def test_a_predictor_leaves_the_modules_as_they_were():
    """It folds a network that goes on training: also the parts that it takes over as they are."""
    for options in ({"norm": False}, {"preact": True}, {}):
        model = resnet("resnet8", TRAIN.shape, 2, widths=(3, 4, 5), **options).train()
        inference.Predictor(model)(np.zeros((2, *TRAIN.shape), np.float32))
        assert all(m.training and m.save_for_backward for m in model.modules())


# --- every module, whatever it is ---------------------------------------------------------------------------------


def met(cls):
    """(a module of this class in float64, with the arrays that it meets in a network)."""
    model = network(cls).train()
    module = next(m for m in model.modules() if type(m) is cls)
    inputs = []

    def forward(*arrays):
        inputs.append(arrays)
        return cls.forward(module, *arrays)

    module.forward = forward
    model.forward(np.random.default_rng(0).standard_normal((3, *TRAIN.shape)))
    del module.forward
    model.release()
    return module, inputs[0]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_module_has_the_right_gradient_and_shape(cls):
    module, arrays = met(cls)
    report = gradcheck(module, arrays if len(arrays) > 1 else arrays[0])
    assert report.ok, report
    y = module.forward(*arrays)
    if len(arrays) == 1:
        assert module.output_shape(arrays[0].shape[1:]) == y.shape[1:]
    else:
        assert module.output_shape(*(a.shape[1:] for a in arrays)) == y.shape[1:]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_module_is_the_same_with_and_without_kernels(cls, dtype):
    results = []
    for as_read in (cpu.as_read, contextlib.nullcontext):
        module, arrays = met(cls)
        module.astype(dtype)
        with as_read():
            y = module.forward(*(a.astype(dtype) for a in arrays))
            dx = module.backward(np.random.default_rng(1).standard_normal(y.shape).astype(dtype))
        gradients = {p.name: p.grad for p in module.params()}
        flat = dict(enumerate(dx)) if isinstance(dx, tuple) else {0: dx}
        results.append({"y": y, **flat, **gradients, **{b.name: b.data for b in module.buffers()}})
    assert all(value.dtype == dtype for result in results for value in result.values())
    assert_close(results[1], results[0], 1e-10 if dtype == np.float64 else 1e-3)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_module_is_seen_by_summary_and_probe(cls):
    course = {"variant": "course", "widths": (3, 4, 4, 5), "dropout": 0.3}
    small = resnet("resnet8", (8, 8, 3), 2, widths=(3, 4, 5))
    models = resnet("resnet18", (64, 64, 3), 2, **course), small, of_all_layers()
    model = next(m for m in models if any(type(part) is cls for part in m.modules()))
    names = {part.name for part in model.modules() if type(part) is cls}
    holds_others = issubclass(cls, nn.Composite)
    rows = {row.name: row.type for row in summarize(model).rows}
    if holds_others:
        inside = {m.name for part in model.modules() if type(part) is cls for m in part.modules() if not m.children()}
        assert inside <= rows.keys()
    else:
        assert {name: rows[name] for name in names} == dict.fromkeys(names, cls.__name__)
    with probe(model.train()) as log:
        model.backward(model.forward(np.ones((2, *model.config.input_shape), np.float32)))
    assert names <= {row["name"] for row in log.rows()}
