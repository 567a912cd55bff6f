"""Any composition is a network: three of somebody's own, through all that the family goes through, in Python."""

import json

import numpy as np
import own_networks
import pytest
from stripes import StopAfter

import minires
from minires import nn, ops
from minires.data import make_signs
from minires.errors import CheckpointError, ConfigError, ShapeError
from minires.instruments.audit import audit
from minires.instruments.bn_doctor import bn_doctor
from minires.instruments.cost.summary import summarize
from minires.instruments.diagram import diagram
from minires.instruments.diagram.svg import to_svg
from minires.instruments.gradcheck import gradcheck_model
from minires.instruments.gradflow import compare_skip, gradflow
from minires.instruments.landscape import landscape
from minires.instruments.maps import gradcam
from minires.instruments.step.tape import record
from minires.nn.network import BUILDERS
from minires.train import Classifier, Recipe, evaluate, fit, load_classifier, resume

NETWORKS = {"vgg": own_networks.vgg, "squeezenet": own_networks.squeezenet, "senet": own_networks.senet}
SHAPE = (16, 16, 3)


@pytest.fixture(autouse=True)
def no_builder_stays():
    before = dict(BUILDERS)
    yield
    BUILDERS.clear()
    BUILDERS.update(before)


@pytest.fixture(scope="module")
def signs():
    return make_signs(n_train=72, n_test=24, size=16)


@pytest.fixture(params=NETWORKS)
def network(request):
    return nn.build(NETWORKS[request.param], SHAPE, 6)


def batch(network, n=4):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, *SHAPE)).astype(network.dtype), np.arange(n) % 6


@pytest.mark.slow
def test_it_trains_resumes_to_the_same_bits_and_comes_back_from_its_file(network, signs, tmp_path):
    train, test = signs
    recipe, whole = Recipe(epochs=2), tmp_path / "whole"
    straight = Classifier.for_data(network, train)
    fit(straight, train, test, recipe, out=whole)
    halved = Classifier.for_data(minires.nn.build(BUILDERS[network.config.builder], SHAPE, 6), train)
    with pytest.raises(KeyboardInterrupt):
        fit(halved, train, test, recipe, out=tmp_path / "halved", reporter=StopAfter(2))  # in the first epoch
    again, _ = resume(tmp_path / "halved", train, test)
    for name, array in straight.model.state().items():
        np.testing.assert_array_equal(again.model.state()[name], array, err_msg=name)
    loaded = load_classifier(whole)
    assert loaded.model.config == network.config
    np.testing.assert_array_equal(evaluate(loaded, test).probs, evaluate(straight, test).probs)


def test_what_runs_is_what_is_read(network, signs):
    train, _ = signs
    index = np.arange(16)
    fast, slow = (Classifier.for_data(nn.build(network.config.builder, SHAPE, 6), train) for _ in range(2))
    for classifier, by_layers in ((fast, False), (slow, True)):
        fit(classifier, train, None, Recipe(epochs=1, augment=None), by_layers=by_layers)
    np.testing.assert_allclose(fast.probs(train.images(index)), slow.probs(train.images(index)), atol=2e-3)


def test_every_gradient_is_right(network):
    report = gradcheck_model(network)
    assert report.ok, report.findings


def test_instruments_know_it(network, signs):
    x, labels = batch(network)
    flow = gradflow(network, x, labels)
    assert [b.name for b in flow.blocks] == [b.name for b in network.blocks()]
    assert all(b.dy_rms > 0 for b in flow.blocks)
    assert all(layer.dw_norm > 0 for layer in flow.layers)
    tape = record(network, x, labels)
    leaves = {m.name for m in network.modules() if not m.children()}
    assert leaves <= {step.name for step in tape.steps}
    assert all(step.maths.formula for step in tape.steps)
    assert audit(network).ok
    drawn = {part.name for unit in diagram(network).units for part in unit.parts}
    assert drawn == leaves | {"image"}
    assert network.name in to_svg(diagram(network))
    classifier = Classifier.for_data(network, signs[0])
    assert np.isfinite(gradcam(classifier, signs[1].images(np.arange(2))).maps).all()
    assert len(landscape(network, x, labels, points=3, span=0.1).loss) == 3
    if network.buffers():
        assert bn_doctor(classifier, signs[1], train=signs[0]).finding


def test_the_summary_counts_what_a_hand_counts():
    vgg = nn.build(own_networks.vgg, SHAPE, 6)
    rows = {row.name: row for row in summarize(vgg, 2).rows}
    assert rows["stage1.conv1"].flops == 2 * 27 * 8 * 256
    assert rows["fc1"].flops == 2 * 256 * 32
    squeezenet = summarize(nn.build(own_networks.squeezenet, SHAPE, 6), 2)
    rows = {row.name: row for row in squeezenet.rows}
    assert rows["fire2.expand.concat"].inputs == ("fire2.expand1_relu", "fire2.expand3_relu")
    assert rows["fire2.expand.concat"].shape == (None, 8, 8, 32)
    se = {row.name: row for row in summarize(nn.build(own_networks.senet, SHAPE, 6), 2).rows}
    assert se["block1.scale"].inputs == ("block1.bn2", "block1.fc2")
    assert se["block1.scale"].kept_bytes == 4 * 2 * (16 * 16 * 16 + 16)


def test_what_a_slot_keeps_is_what_the_summary_says(network):
    """The arrays in the slots after a forward pass, each once, against the sum of the rows."""
    x, _ = batch(network, 2)
    network.train().forward(x)
    arrays = {id(a): a for m in network.modules() for a in m._slot or () if hasattr(a, "nbytes")}
    bases = {(a.__array_interface__["data"][0], a.nbytes): a.nbytes for a in arrays.values()}
    network.release()
    assert sum(bases.values()) == summarize(network, 2).memory.activations


def test_onnx_gives_the_same_logits(network, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    from minires.weights import export_weights

    for buffer in network.buffers():
        buffer.data[...] = np.random.default_rng(1).uniform(0.5, 2, buffer.data.shape)
    export_weights(network, tmp_path / "own.onnx")
    session = runtime.InferenceSession(tmp_path / "own.onnx", providers=["CPUExecutionProvider"])
    x, _ = batch(network)
    (theirs,) = session.run(None, {"images": x})
    np.testing.assert_allclose(theirs, minires.train.predict_logits(network, x), rtol=1e-4, atol=1e-5)


def test_a_file_of_weights_brings_it_back(network, tmp_path):
    from minires.weights import export_weights, import_weights

    other = nn.build(network.config.builder, SHAPE, 6, seed=1)
    export_weights(network, tmp_path / "own.safetensors")
    import_weights(other, tmp_path / "own.safetensors")
    for name, array in network.state().items():
        np.testing.assert_array_equal(other.state()[name], array)


def test_a_checkpoint_brings_no_code(network, signs, tmp_path):
    from minires.train.checkpoint import save_checkpoint

    classifier = Classifier.for_data(network, signs[0])
    save_checkpoint(tmp_path / "own.h5", classifier)
    builder = BUILDERS.pop(network.config.builder)
    with pytest.raises(CheckpointError, match=rf"own\.h5: holds a network of one's own, built by {builder.__name__}"):
        load_classifier(tmp_path / "own.h5")
    nn.register(builder)
    assert load_classifier(tmp_path / "own.h5").model.config == network.config
    nn.register(lambda input_shape, classes: own_networks.vgg((*input_shape[:2], 3), classes), builder.__name__)
    if builder is not own_networks.vgg:
        with pytest.raises(CheckpointError, match="holds another network than this one"):
            load_classifier(tmp_path / "own.h5")


def test_one_put_together_by_hand_is_loaded_by_giving_it(signs, tmp_path):
    train, _ = signs
    layers = [nn.Conv2d("conv", 3, 4, 3, pad=1), nn.ReLU("relu"), nn.GlobalAvgPool2d("pool"), nn.Dense("fc", 4, 6)]
    classifier = Classifier.for_data(nn.Sequential(*layers), train)
    fit(classifier, train, None, Recipe(epochs=1), out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="put together by hand: give it"):
        load_classifier(tmp_path / "run")
    again = [nn.Conv2d("conv", 3, 4, 3, pad=1), nn.ReLU("relu"), nn.GlobalAvgPool2d("pool"), nn.Dense("fc", 4, 6)]
    loaded = load_classifier(tmp_path / "run", model=nn.Sequential(*again))
    np.testing.assert_array_equal(loaded.model.state()["conv.w"], classifier.model.state()["conv.w"])


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ([nn.Conv2d("conv", 3, 4, 3)], r"gives \(14, 14, 4\) for an image, not a score a class"),
        ([nn.Conv2d("conv", 4, 4, 3)], r"conv: expected \(H, W, C\) with C = 4, got \(16, 16, 3\)"),
        ([nn.Flatten("flat"), nn.Dense("fc", 768, 6), nn.Dense("fc", 6, 6)], "two arrays are called fc.w"),
    ],
)
def test_what_is_no_network_says_why(layers, error):
    with pytest.raises((ShapeError, ConfigError), match=error):
        nn.Network(*layers, input_shape=SHAPE)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda input_shape, classes: own_networks.vgg(input_shape, 3), "gives a network of 3 classes"),
        (lambda input_shape, classes: 7, "expected a network of minires.nn modules, got a int"),
        (lambda input_shape, classes: {}[0], "KeyError: 0: called with"),
        (lambda input_shape: None, "TypeError"),
    ],
)
def test_a_builder_that_builds_something_else_says_so(build, error):
    with pytest.raises(ConfigError, match=error):
        nn.build(build, SHAPE, 6)


def test_a_plain_twin_is_the_familys_alone(network):
    with pytest.raises(ConfigError, match="only a network of the family"):
        compare_skip(network, *batch(network))


def test_a_forward_of_ones_own_is_what_instruments_see():
    """A composite whose `forward` was overridden is one layer to `walk`: its `flow` may not be what runs."""

    class Doubled(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    seen = []
    nn.walk(Doubled(nn.ReLU("relu"), name="doubled"), lambda layer, x: seen.append(layer.name), 0)
    assert seen == ["doubled"]


def test_a_checkpoints_header_is_plain_json(network, signs, tmp_path):
    import h5py

    from minires.train.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "own.h5", Classifier.for_data(network, signs[0]))
    with h5py.File(tmp_path / "own.h5") as file:
        header = json.loads(file.attrs["minires"])
    assert header["architecture"]["builder"] == network.config.builder
    assert header["architecture"]["input_shape"] == list(SHAPE)


@pytest.mark.parametrize("channels", [(1,), (2, 3), (4, 1, 2)])
def test_concat_gives_each_path_its_own(channels):
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((2, 3, 4, c)) for c in channels]
    concat = nn.Concat("concat")
    dy = rng.standard_normal(concat.forward(*xs).shape)
    start = 0
    for x, dx in zip(xs, concat.backward(dy), strict=True):
        np.testing.assert_array_equal(ops.concat_forward(*xs)[..., start : start + x.shape[-1]], x)
        np.testing.assert_array_equal(dx, dy[..., start : start + x.shape[-1]])
        start += x.shape[-1]
    assert start == dy.shape[-1]
    with pytest.raises(ShapeError, match="only maps of one size lie side by side"):
        concat.forward(xs[0], xs[0][:, 1:])


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 1, 3), (2, 4, 5, 3)])
def test_multiply_takes_a_gate_a_channel_or_a_number(shape):
    rng = np.random.default_rng(0)
    x, gate = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal(shape)
    multiply = nn.Multiply("scale")
    y, dy = multiply.forward(x, gate), rng.standard_normal(x.shape)
    dx, dgate = multiply.backward(dy)
    whole = np.broadcast_to(gate.reshape(2, *(shape[1:3] if gate.ndim == 4 else (1, 1)), 3), x.shape)
    np.testing.assert_array_equal(y, x * whole)
    np.testing.assert_array_equal(dx, dy * whole)
    assert dgate.shape == gate.shape
    step = rng.standard_normal(shape)
    moved = ops.multiply_forward(x, gate + 1e-6 * step) - ops.multiply_forward(x, gate - 1e-6 * step)
    assert np.vdot(dy, moved) / 2e-6 == pytest.approx(np.vdot(dgate, step), rel=1e-7)
