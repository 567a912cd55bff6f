"""Everything that computes, on a GPU: it never meets a NumPy array, never waits, and gives the CPU's numbers.

Each test runs on the strict stand-in (strict.py), anywhere, and on CuPy where there is a GPU. What has no case
here is found by name: a new op, layer or optimiser without one fails.
"""

import contextlib
import copy
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import strict
from arrays import frozen
from data_helpers import random_set
from devices import TEST, TOLD, TRAIN, classifier, fetched, sent, small

from minires import backend, nn, ops
from minires.instruments.watch import look
from minires.nn.probe import probe
from minires.optim import OPTIMIZERS
from minires.train import Preprocess, Recipe, Schedule, evaluate, fit, loop, predict_logits
from minires.train.schedule import KINDS

NUMBERS_ONLY = {"pair", "resolve_padding", "output_size", "span"}  # public in ops, but they take no array
NOT_HERE = {"naive"}  # the loops
FLOAT32 = 1e-5  # CPU against GPU, relative to the norm
FLOAT64 = 1e-9  # of whole networks: in float32 a ReLU may flip, and then the gradients differ honestly


@pytest.fixture(params=["strict", "cupy"])
def waiting(request, pretend_cupy):
    """The GPU is there under the name "gpu"; gives a context manager inside which the host may wait for it."""
    if request.param == "strict":
        pretend_cupy(strict)
        with strict.waiting():
            backend.choose_device("gpu")
        return strict.waiting
    device, reason = backend.choose_device("auto")
    if device != "gpu":
        pytest.skip(f"no GPU to compare with: {reason}")
    return contextlib.nullcontext


def assert_equal(actual, expected, tolerance=FLOAT32, what=""):
    """The same structure, shapes and dtypes, and numbers to `tolerance` of the expected array's norm."""
    if expected is None:
        assert actual is None
    elif isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(a, e, tolerance, f"{what}[{i}]")
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, e in expected.items():
            assert_equal(actual[key], e, tolerance, f"{what}[{key!r}]")
    else:
        assert (actual.shape, actual.dtype) == (np.shape(expected), np.asarray(expected).dtype), what
        error = np.linalg.norm(np.subtract(actual, expected, dtype=np.float64))
        assert error <= tolerance * max(np.linalg.norm(expected), 1e-30), f"{what} is off by {error}"


def normal(shape, seed=0, dtype=np.float32):
    return frozen(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype))


# --- every op ---------------------------------------------------------------------------------------------


def public_ops() -> dict:
    """Name -> function, for every public function of the package minires.ops that any device runs."""
    names = [m.name for m in pkgutil.iter_modules(ops.__path__) if m.name not in NOT_HERE]
    modules = [importlib.import_module(f"minires.ops.{name}") for name in names]
    found = {
        name: f
        for module in modules
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and not name.startswith("_")
    }
    return {name: f for name, f in sorted(found.items()) if name not in NUMBERS_ONLY}


def call(*args, **options):
    return args, options


def op_cases() -> dict[str, list]:
    """Name -> the calls to make."""
    x, rows = normal((2, 6, 5, 3)), normal((4, 3))
    same, flat = normal(x.shape, 1), normal((4, 3), 1)
    gamma, beta, mean, rstd = (normal((3,), seed) for seed in range(4))
    group = normal((2, 1), 4)
    w, w1, b = normal((3, 2, 3, 4)), normal((1, 1, 3, 4)), normal((4,))
    keep = frozen((same > 0).astype(np.float32))
    labels, shares = frozen(np.array([0, 2, 1, 2])), frozen(np.abs(flat) / np.abs(flat).sum(1, keepdims=True))
    y_max = ops.maxpool_forward(x, kernel=3, stride=2, pad=1)
    reaching = {"kernel": 2, "stride": 2, "dilation": 2, "ceil_mode": True}
    y_far = ops.maxpool_forward(x, **reaching)
    even = {"kernel": 2, "stride": 2, "pad": ((0, 0), (1, 0))}
    convolutions = [(w, {"stride": 2, "pad": "same"}), (w, {"pad": 1}), (w1, {}), (w1, {"stride": 2})]

    def conv_backward(w, options):
        dy = normal(ops.conv2d_forward(x, w, **options).shape)
        return [call(dy, x, w, **options), call(dy, x, w, need_dx=False, need_db=False, **options)]

    w3, each = normal((3, 3, 1, 6)), normal((3, 3, 1, 3))  # in three groups
    convolutions += [(w3, {"pad": 1, "groups": 3}), (each, {"stride": 2, "pad": 1, "groups": 3})]
    convolutions += [(w, {"pad": 2, "dilation": (1, 2)})]
    reduced = [{"ignore_index": 2, "reduction": reduction} for reduction in ("mean", "sum", "none")]
    big = normal((1, 16, 16, 2)), normal((3, 3, 2, 2))  # large beside its kernel: dx by the turned kernel
    return {
        "conv2d_forward": [call(x, w, normal(w.shape[3:]), **o) for w, o in convolutions]
        + [call(x, w), call(*big, pad=1)],
        "conv2d_backward": [c for case in convolutions for c in conv_backward(*case)]
        + [call(normal((1, 16, 16, 2), 1), *big, pad=1)],
        "im2col": [call(x, (3, 2), (2, 1)), call(x, (1, 1), (1, 1)), call(x, (3, 2), (1, 1), (2, 3))],
        "col2im": [call(normal((16, 18)), (2, 6, 5, 3), (3, 2), (2, 1)), call(rows, (1, 2, 2, 3), (1, 1), (1, 1))],
        "zero_pad2d_forward": [call(x, ((1, 0), (2, 3))), call(x, 0)],
        "zero_pad2d_backward": [call(x, ((1, 0), (2, 3))), call(x, 0)],
        "channel_sum": [call(x), call(rows)],
        "batchnorm_statistics": [call(x), call(rows)],
        "batchnorm_running": [call(gamma, beta, mean, rstd, 9, momentum=0.9, unbiased=u) for u in (True, False)],
        "batchnorm_dx": [call(same, x, gamma, mean, rstd, beta, mean, 99)],
        "batchnorm_forward": [call(x, gamma, beta, mean, rstd), call(rows, gamma, beta, mean, rstd)],
        "batchnorm_backward": [call(same, x, gamma, mean, rstd), call(flat, rows, gamma, mean, rstd)],
        "batchnorm_sums": [call(same, x, mean, rstd), call(flat, rows, mean, rstd)],
        "batchnorm_eval_backward": [call(same, x, gamma, mean, rstd)],
        "groupnorm_statistics": [call(x, 3), call(rows, 1)],
        "groupnorm_forward": [call(x, gamma, beta, group, group)],
        "groupnorm_backward": [call(same, x, gamma, group, group)],
        "subsample_forward": [call(x, 2, (1, 2)), call(x, (1, 2))],
        "subsample_backward": [call(normal(ops.subsample_forward(x, 2, (1, 2)).shape), x.shape, 2, (1, 2))],
        "layernorm_statistics": [call(x), call(x, 3), call(rows)],
        "layernorm_forward": [call(x, gamma, beta, x[..., 0], x[..., 0])],
        "layernorm_backward": [call(same, x, gamma, x[..., 0], x[..., 0])],
        "relu_forward": [call(x)],
        "relu_backward": [call(same, frozen(np.maximum(x, 0)))],
        "add_forward": [call(x, same)],
        "add_backward": [call(x)],
        "concat_forward": [call(x, same), call(rows)],
        "concat_backward": [call(x, (1, 2))],
        "multiply_forward": [call(x, same), call(x, flat[:2]), call(x, x[:, :1, :1])],
        "multiply_backward": [call(same, x, same), call(same, x, flat[:2]), call(same, x, x[:, :1, :1])],
        "leaky_relu_forward": [call(x, 0.1)],
        "leaky_relu_backward": [call(same, x, 0.1)],
        "sigmoid_forward": [call(x)],
        "sigmoid_backward": [call(same, x)],
        "gelu_forward": [call(x)],
        "gelu_backward": [call(same, x)],
        "dropout_forward": [call(x, keep, 0.25)],
        "dropout_backward": [call(x, keep, 0.25)],
        "flatten_forward": [call(x)],
        "flatten_backward": [call(normal((2, 90)), x.shape)],
        "dense_forward": [call(rows, normal((3, 4)), b), call(rows, normal((3, 4)))],
        "dense_backward": [call(normal((4, 4)), rows, normal((3, 4)), need_dx=need) for need in (True, False)],
        "maxpool_forward": [call(x, kernel=3, stride=2, pad=1), call(x, kernel=2), call(x, **reaching)],
        "maxpool_backward": [
            call(normal(y_max.shape), x, y_max, kernel=3, stride=2, pad=1),
            call(normal(y_far.shape), x, y_far, **reaching),
        ],
        "avgpool_forward": [call(x, **even, count_include_pad=count) for count in (True, False)]
        + [call(x, kernel=2), call(x, kernel=3, stride=2, ceil_mode=True)],
        "avgpool_backward": [
            call(normal((2, 3, 3, 3)), x.shape, **even, count_include_pad=count) for count in (True, False)
        ],
        "global_avgpool_forward": [call(x)],
        "global_avgpool_backward": [call(normal((2, 3)), x.shape)],
        "softmax_cross_entropy_forward": [
            call(rows, labels),
            call(rows, shares, label_smoothing=0.1),
            call(rows, frozen(labels.astype(np.uint8))),
            *(call(rows, labels, **o) for o in reduced),
        ],
        "softmax_cross_entropy_backward": [call(shares, labels), call(shares, shares, label_smoothing=0.1)]
        + [call(shares, labels, **o) for o in reduced],
    }


@pytest.mark.parametrize("name", public_ops())
def test_every_op(name, waiting):
    """Arrays of the GPU in and out, the arguments left as they were, the CPU's numbers in the CPU's dtype."""
    op = public_ops()[name]
    for args, options in op_cases()[name]:
        there = sent(args)
        expected, result = op(*args, **options), op(*there, **options)
        assert_equal(fetched(result, waiting), expected, what=name)
        after = [a for a, here in zip(there, args, strict=True) if isinstance(here, np.ndarray)]
        assert_equal(fetched(after, waiting), [a for a in args if isinstance(a, np.ndarray)], 0, "arguments")


def test_a_label_that_is_no_class_is_not_passed_over(waiting):
    """The CPU raises an error; a GPU, which must not be asked for the numbers, makes the loss NaN."""
    logits, labels = sent(normal((4, 3))), sent(np.array([0, 2, 3, 1]))
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels)
    dlogits = ops.softmax_cross_entropy_backward(probs, labels)
    loss, dlogits = fetched([loss, dlogits], waiting)
    assert np.isnan(loss)
    assert np.isnan(dlogits).all(axis=1).tolist() == [False, False, True, False]


# --- every layer, block and network -----------------------------------------------------------------------


def layer_cases() -> dict[str, list]:
    """Class -> (a module, the shape of each input)."""
    image = (2, 6, 5, 3)
    identity, _, projection, *_ = small("resnet14").blocks()
    first, _, second, *_ = small("resnet14", preact=True).blocks()
    plain = small("resnet14", skip=False).blocks()[2]
    return {
        "Conv2d": [(nn.Conv2d("c", 3, 4, (3, 2), stride=2, pad="same", bias=bias), [image]) for bias in (True, False)],
        "BatchNorm": [(nn.BatchNorm("b", 3, unbiased=unbiased), [image]) for unbiased in (True, False)],
        "Subsample": [(nn.Subsample("s", 2, 3, 6), [image])],
        "SqueezeExcite": [(nn.SqueezeExcite("s", 3, 2), [image])],
        "LayerNorm": [(nn.LayerNorm("l", 3), [image]), (nn.LayerNorm("l", (5, 3)), [image])],
        "LeakyReLU": [(nn.LeakyReLU("l", 0.1), [image])],
        "Sigmoid": [(nn.Sigmoid("s"), [image])],
        "GELU": [(nn.GELU("g"), [image])],
        "StochasticDepth": [(nn.StochasticDepth("o", 0.5), [image])],
        "GroupNorm": [(nn.GroupNorm("g", 3, groups), [image]) for groups in (1, 3)],
        "ReLU": [(nn.ReLU("r"), [image])],
        "ZeroPad2d": [(nn.ZeroPad2d("z", 2), [image])],
        "MaxPool2d": [(nn.MaxPool2d("m", 3, 2, 1), [image])],
        "AvgPool2d": [(nn.AvgPool2d("a", 2), [image])],
        "GlobalAvgPool2d": [(nn.GlobalAvgPool2d("g"), [image])],
        "Flatten": [(nn.Flatten("f"), [image])],
        "Dense": [(nn.Dense("d", 3, 4, bias=bias), [(4, 3)]) for bias in (True, False)],
        "Dropout": [(nn.Dropout("o", 0.4), [image])],
        "Identity": [(nn.Identity("i"), [image])],
        "Add": [(nn.Add("+"), [image, image])],
        "Concat": [(nn.Concat("c"), [image, (2, 6, 5, 1), image])],
        "Multiply": [(nn.Multiply("*"), [image, gate]) for gate in (image, (2, 3), (2, 1, 1, 3))],
        "Branches": [(nn.Branches("b", nn.Conv2d("c", 3, 4, 1), nn.ReLU("r")), [image])],
        "Block": [(block, [(2, 6, 6, 3)]) for block in (identity, projection, first, second, plain)],
        "Sequential": [(nn.Sequential(nn.Conv2d("c", 3, 4, 1), nn.ReLU("r"), name="s"), [image])],
    }


LAYERS = [
    name
    for name in nn.__all__
    # networks have tests of their own, below
    if inspect.isclass(getattr(nn, name))
    and issubclass(getattr(nn, name), nn.Module)
    and name not in "Module Composite Network ResNet"
]


def moved(module):
    """The module with its parameters off the special points 0 and 1 at which biases, beta and gamma start."""
    for p in module.params():
        p.data = p.data + 0.1 * normal(p.data.shape, dtype=p.data.dtype)
    return module


def there_and_back(module, inputs, dy) -> dict:
    """What a forward and a backward give and leave behind."""
    y = module.forward(*inputs)
    dx = module.backward(dy)
    return {"y": y, "dx": dx, "grads": {p.name: p.grad for p in module.params()}, "state": module.state()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_and_block(name, training, waiting):
    for module, shapes in layer_cases()[name]:
        assert type(module).__name__ == name
        here = moved(module).train(training)
        there = copy.deepcopy(here).to("gpu")
        inputs = [normal(shape, i) for i, shape in enumerate(shapes)]
        dy = normal((len(inputs[0]), *here.output_shape(*(shape[1:] for shape in shapes))), 7)
        expected = there_and_back(here, inputs, dy)
        assert_equal(fetched(there_and_back(there, sent(inputs), sent(dy)), waiting), expected, what=module.name)


NETWORKS = {
    **{variant: {"variant": variant} for variant in nn.VARIANTS},
    **{f"bottleneck {v}": {"arch": "resnet50", "size": 64, "widths": (2, 2, 3, 3), "variant": v} for v in nn.VARIANTS},
    "preact": {"preact": True},
    "plain": {"skip": False},
    "no norm": {"norm": False},
    "dropout": {"dropout": 0.4},
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_of_network_with_its_loss(kind, waiting):
    here = moved(small(**NETWORKS[kind]).astype(np.float64))
    there = copy.deepcopy(here).to("gpu")
    x, labels = normal((3, *here.config.input_shape), dtype=np.float64), frozen(np.array([3, 0, 1]))

    def step(model, x, labels):
        logits = model.forward(x)
        loss, probs = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=0.1)
        model.backward(ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=0.1), need_dx=False)
        return [logits, loss, {p.name: p.grad for p in model.params()}, model.state()]

    expected, result = step(here, x, labels), fetched(step(there, sent(x), sent(labels)), waiting)
    largest = max(np.linalg.norm(g) for g in expected[2].values())
    for n in [n for n, g in expected[2].items() if np.linalg.norm(g) < 1e-12 * largest]:
        expected[2].pop(n)  # of a bias before a normalisation: rounding, where 0 is exact
        assert np.linalg.norm(result[2].pop(n)) < 1e-12 * largest
    assert_equal(result, expected, FLOAT64)


# --- every optimiser, schedule, and a whole training ------------------------------------------------------

VARIATIONS = [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decay_all": True, "clip_norm": 0.5}]
OPTIMISERS = [(name, v) for name in OPTIMIZERS for v in VARIATIONS] + [("sgd", {"momentum": 0.8, "nesterov": True})]


@pytest.mark.parametrize(("name", "options"), OPTIMISERS, ids=str)
def test_every_optimiser(name, options, waiting):
    def three_steps(change):
        params = [nn.Param("w", change(normal((3, 4)))), nn.Param("b", change(normal((4,))), decay=False)]
        optimizer = OPTIMIZERS[name](params, **options)
        norms = []
        for seed in range(1, 4):
            for p in params:
                p.write_grad(change(normal(p.data.shape, seed)))
            norms.append(optimizer.step(0.1))
        return {"weights": [p.data for p in params], "state": optimizer.state, "norms": norms}

    assert_equal(fetched(three_steps(sent), waiting), three_steps(np.copy))


def test_an_optimisers_state_comes_and_goes(waiting):
    here, there = (OPTIMIZERS["adam"]([nn.Param("w", change(normal((3, 4))))]) for change in (np.copy, sent))
    for optimizer, change in ((here, np.copy), (there, sent)):
        optimizer.params[0].write_grad(change(normal((3, 4), 1)))
        optimizer.step(0.1)
    with waiting():
        state = there.named_state()
    assert_equal(state, here.named_state())
    there.load_state(state, 1)
    assert_equal(fetched(there.state, waiting), state, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_rate_is_a_number_of_pythons(kind):
    """NumPy's numbers have a dtype of their own, which would make float64 of float32 weights."""
    schedule = Schedule(kind, 0.1, total=20, warmup=3)
    assert {type(schedule(step)) for step in range(22)} == {float}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_preprocessing(dtype, waiting):
    images = random_set(3).images(np.arange(3))
    preprocess = Preprocess((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert_equal(fetched(preprocess(sent(images), dtype), waiting), preprocess(images, dtype))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_waits_only_to_look_and_to_evaluate(dtype, optimizer, waiting, monkeypatch):
    """Twelve steps, past the tenth, at which `look` brings ten losses to the host at once."""
    recipe = Recipe(epochs=1, batch_size=2, optimizer=optimizer, clip_norm=2.0, label_smoothing=0.1)
    here = classifier(dtype, "cpu")
    expected = fit(here, TRAIN, TEST, recipe).history[0]
    looks = []

    def allowed(function):
        def call(*args, **options):
            looks.append(function.__name__)
            with waiting():
                return function(*args, **options)

        return call

    monkeypatch.setattr(loop._Run, "check", allowed(loop._Run.check))
    monkeypatch.setattr(loop._Run, "look", allowed(loop._Run.look))
    monkeypatch.setattr(loop._Run, "watch_numbers", allowed(loop._Run.watch_numbers))
    monkeypatch.setattr(loop, "evaluate", allowed(loop.evaluate))
    there = classifier(dtype, "gpu")
    history = fit(there, TRAIN, TEST, recipe).history[0]
    assert looks == ["check", "look", "look", "watch_numbers", "evaluate"]
    state = fetched(there.model.state(), waiting)
    assert {a.dtype for a in state.values()} == {np.dtype(dtype)}
    if dtype == np.float64:
        assert_equal(state, here.model.state(), FLOAT64)
        assert [history[k] for k in TOLD] == pytest.approx([expected[k] for k in TOLD], rel=FLOAT64)


def test_prediction_and_evaluation(waiting):
    here, there = classifier(np.float32, "cpu"), classifier(np.float32, "gpu")
    x = normal((5, 8, 8, 3))
    with waiting():  # compares with the layers before the first batch
        logits = predict_logits(there.model, sent(x))
    assert_equal(fetched(predict_logits(there.model, sent(x)), waiting), predict_logits(here.model, x))
    assert_equal(fetched(logits, waiting), predict_logits(here.model, x))
    expected = evaluate(here, TEST)
    with waiting():
        result = evaluate(there, TEST)
    assert_equal(result.probs, expected.probs)
    assert (result.loss, result.accuracy) == pytest.approx((expected.loss, expected.accuracy), rel=FLOAT32)


def test_a_run_is_watched_on_the_device(waiting):
    """No number is brought to the host before the look is over."""
    x, labels = normal((4, 8, 8, 3), dtype=np.float64), np.array([0, 1, 2, 3])
    told = {}
    for device, change in (("cpu", np.copy), ("gpu", sent)):
        model = small().astype(np.float64).to(device).train()
        loss, values = look(model, change(x), change(labels))
        with waiting():
            told[device] = {"loss": float(loss)} | {
                f"{name} {layer}": float(value) for name, found in values.items() for layer, value in found.items()
            }
    assert told["gpu"] == pytest.approx(told["cpu"], rel=1e-7, abs=1e-12)


def test_a_probe_leaves_its_numbers_on_the_device_until_they_are_asked_for(waiting):
    x = normal((2, 8, 8, 3), dtype=np.float64)
    told = {}
    for device, change in (("cpu", np.copy), ("gpu", sent)):
        model = small().astype(np.float64).to(device)
        with probe(model) as log:
            model.backward(model.forward(change(x)))
        with waiting():
            rows = [[row[k] for k in ("rms", "mean", "zeros", "dy_rms", "dx_rms")] for row in log.rows()]
            told[device] = np.array(rows, float), np.array([list(b.values())[1:] for b in log.blocks()], float)
    for here, there in zip(told["cpu"], told["gpu"], strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-7, atol=1e-12)
