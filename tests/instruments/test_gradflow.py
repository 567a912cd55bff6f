"""The probe and the gradient flow: numbers worked out by other means, and nothing left behind."""

import json
import math
from itertools import pairwise, product

import numpy as np
import pytest
from rich.console import Console
from small_network import LABELS, batch, small

from minires import cli, ops
from minires.data import make_signs, write_signs
from minires.errors import ShapeError
from minires.instruments.gradflow import compare_skip, gradflow
from minires.instruments.gradflow.grid import block_rate, expected, gradflow_grid
from minires.instruments.plots import plot_gradflow, plot_gradflow_grid
from minires.nn import Config, Conv2d, Dense, Flatten, ReLU, Sequential, resnet
from minires.nn.probe import NonFinite, Probe, first_nonfinite, probe


def root_mean_square(x):
    return math.sqrt(np.mean(np.square(x, dtype=np.float64)))


def test_probe_numbers_by_hand():
    dense, relu = Dense("fc", 2, 2), ReLU("relu")
    dense.w.data = np.array([[1.0, -1.0], [2.0, 1.0]])
    dense.b.data = np.zeros(2)
    model = Sequential(dense, relu, name="net")
    with probe(model) as log:
        model.backward(model.forward(np.array([[1.0, 1.0], [1.0, -2.0]])) * 0 + np.array([[3.0, 4.0], [5.0, 6.0]]))
    net, fc, last = log.rows()
    # x w = [[3, 0], [-3, -3]]; after the ReLU only the 3 stays, so only dy = 3 passes: dx = [3, 0] w^T = [3, 6]
    assert [row["name"] for row in (net, fc, last)] == ["net", "fc", "relu"]
    assert [row["kind"] for row in (net, fc, last)] == ["Sequential", "Dense", "ReLU"]
    assert fc["shape"] == (2, 2)
    assert fc["mean"] == pytest.approx(-0.75)
    assert fc["std"] == pytest.approx(np.std([3, 0, -3, -3]))
    assert fc["rms"] == pytest.approx(math.sqrt(27 / 4))
    assert (fc["zeros"], last["zeros"]) == (0.25, 0.75)
    assert last["dy_rms"] == pytest.approx(math.sqrt(86 / 4))
    assert last["dx_rms"] == fc["dy_rms"] == pytest.approx(3 / 2)
    assert fc["dx_rms"] == net["dx_rms"] == pytest.approx(math.sqrt(45 / 4))
    assert fc["kept_bytes"] == last["kept_bytes"] == 32
    assert fc["finite"] is True
    assert net["forward_seconds"] == pytest.approx(fc["forward_seconds"] + last["forward_seconds"])


def test_probe_without_the_outputs_has_the_same_gradients():
    model = small()
    logs = Probe(model), Probe(model, outputs=False)
    for log in logs:
        with probe(model, log):
            logits = model.forward(batch())
            model.backward(np.ones_like(logits))
    described, lean = (log.rows() for log in logs)
    assert all(row["rms"] is not None and row["finite"] for row in described)
    assert all(row[key] is None for row in lean for key in ("mean", "std", "rms", "zeros", "finite"))
    for key in ("name", "shape", "dy_rms", "dx_rms", "kept_bytes"):
        assert [row[key] for row in described] == [row[key] for row in lean]
    assert logs[0].blocks() == logs[1].blocks()


def test_probe_sees_what_is_too_small_or_too_large_for_float32_squares():
    layer = ReLU("relu")
    with probe(layer) as log:
        layer.backward(layer.forward(np.full((2, 2), 1e30, np.float32)) * np.float32(1e-36) * np.float32(1e-24))
    (row,) = log.rows()
    assert row["rms"] == pytest.approx(1e30, rel=1e-6)
    assert row["dy_rms"] == pytest.approx(1e-30, rel=1e-6)


def test_probe_restores_the_methods_even_after_an_error():
    model = small()
    before = [dict(vars(m)) for m in model.modules()]
    with pytest.raises(ShapeError), probe(model):
        model.forward(batch()[..., :2])
    assert [set(vars(m)) for m in model.modules()] == [set(b) for b in before]
    with probe(model) as outer:
        with probe(model) as inner:
            assert "forward" in vars(model)
            model.forward(batch())
        model.backward(np.ones((4, 3)))
    assert inner.rows()[0]["dy_rms"] is None
    assert outer.rows()[0]["dy_rms"] == 1.0
    assert "forward" not in vars(model)


@pytest.mark.parametrize("options", [{}, {"preact": True}, {"norm": False}])
def test_at_each_block_the_two_gradients_add_up(options):
    model = small(**options)
    blocks = {block.name: block for block in model.blocks()}
    received, sent = {}, {}

    def keep(block):
        add, after = block.add, block.backward

        def at_add(dy, need_dx=True, backward=add.backward):
            received[block.name] = backward(dy)
            return received[block.name]

        def whole(dy, need_dx=True):
            sent[block.name] = after(dy)
            return sent[block.name]

        add.backward, block.backward = at_add, whole

    for block in blocks.values():
        keep(block)
    with probe(model) as log:
        logits = model.forward(batch())
        model.backward(np.random.default_rng(1).standard_normal(logits.shape))
    rows = {row["name"]: row for row in log.rows()}
    forks = {fork["name"]: fork for fork in log.blocks()}
    assert list(forks) == list(blocks)
    for name, fork in forks.items():
        dbranch, dshortcut = received[name]
        assert np.array_equal(dbranch, dshortcut)
        assert fork["add_branch_rms"] == fork["add_shortcut_rms"] == pytest.approx(root_mean_square(dshortcut))
        squares = fork["branch_rms"] ** 2 + fork["shortcut_rms"] ** 2
        crossed = 2 * fork["cosine"] * fork["branch_rms"] * fork["shortcut_rms"]
        assert fork["sum_rms"] ** 2 == pytest.approx(squares + crossed)
        if blocks[name].shortcut == "identity":  # then the shortcut's gradient arrives at the input untouched
            branch = sent[name] - dshortcut
            assert fork["shortcut_rms"] == pytest.approx(root_mean_square(dshortcut))
            assert fork["branch_rms"] == pytest.approx(root_mean_square(branch))
            angle = np.vdot(branch, dshortcut) / np.linalg.norm(branch) / np.linalg.norm(dshortcut)
            assert fork["cosine"] == pytest.approx(angle)
        if blocks[name].shortcut == "identity" or blocks[name].before is None:
            assert fork["sum_rms"] == pytest.approx(rows[name]["dx_rms"])


def test_zero_branch_leaves_the_shortcut_alone():
    model = small()
    for param in model.params():
        if param.name.endswith(".gamma") and "bn2" in param.name:
            param.data[:] = 0
    flow = gradflow(model, batch(), LABELS)
    identity = flow.blocks[0]
    assert identity.branch_rms == 0
    assert identity.cosine is None
    assert identity.shortcut_rms == identity.dx_rms > 0


def test_gradflow_leaves_the_model_untouched():
    model = small(dropout=0.5)
    model.eval()
    model.layers[0].train()  # a mixture has to come back as it was
    for param in model.params():
        param.grad = np.full_like(param.data, 7.0)
    grads = [param.grad for param in model.params()]
    state = {name: array.copy() for name, array in model.state().items()}
    modes = [(m.training, m.save_for_backward) for m in model.modules()]
    model.forward(batch())  # a forward that waits for its backward
    state.update({b.name: b.data.copy() for b in model.buffers()})
    slots = [m._slot for m in model.modules()]
    first, second = gradflow(model, batch(), LABELS), gradflow(model, batch(), LABELS)
    assert first == second  # the same dropout mask too
    assert all(np.array_equal(array, state[name]) for name, array in model.state().items())
    assert all(p.grad is g and (g == 7).all() for p, g in zip(model.params(), grads, strict=True))
    assert [(m.training, m.save_for_backward) for m in model.modules()] == modes
    assert all(m._slot is slot for m, slot in zip(model.modules(), slots, strict=True))
    model.layers[0].layers[0].w.data = None
    with pytest.raises(AttributeError):
        gradflow(model, batch(), LABELS)
    assert all(p.grad is g for p, g in zip(model.params(), grads, strict=True))


def test_gradflow_numbers_are_those_of_a_plain_step():
    model = small(norm=False)
    flow = gradflow(model, batch(), LABELS)
    loss, probs = ops.softmax_cross_entropy_forward(model.forward(batch()), LABELS)
    dlogits = ops.softmax_cross_entropy_backward(probs, LABELS)
    model.backward(dlogits)
    assert flow.loss == pytest.approx(float(loss))
    params = {p.name: p for p in model.params()}
    for layer in flow.layers:
        assert layer.dw_norm == pytest.approx(np.linalg.norm(params[f"{layer.name}.w"].grad))
        assert layer.w_norm == pytest.approx(np.linalg.norm(params[f"{layer.name}.w"].data))
    assert flow.layers[-1].dy_rms == pytest.approx(root_mean_square(dlogits))
    main = [layer for layer in flow.layers if layer.main]
    assert [layer.depth for layer in main] == list(range(1, 9))
    assert [layer.name for layer in flow.layers if not layer.main] == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    assert [layer.stage for layer in main] == ["stem", *["stage2"] * 2, *["stage3"] * 2, *["stage4"] * 2, "head"]
    assert [block.depth for block in flow.blocks] == [3, 5, 7]
    for before, after in zip(flow.blocks, flow.blocks[1:], strict=False):
        assert before.dy_rms == after.dx_rms
    assert json.loads(json.dumps(flow.as_dict()))["blocks"][0]["dx_rms"] == flow.blocks[0].dx_rms


def test_plain_glorot_vanishes_in_activations_not_in_weights():
    """The fact that a plot must not get wrong: <w, dw> is one number in every layer of a plain ReLU network."""
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3))
    model = resnet("resnet20", (8, 8, 3), 3, widths=(16, 16, 16), norm=False, init="glorot", skip=False)
    comparison = compare_skip(model, x, LABELS)
    assert comparison.residual.layers[0].dw_norm > 0  # the model's own skip=False does not matter
    assert comparison.plain.ratio() < 0.05 < comparison.residual.ratio()
    norms = [layer.dw_norm for layer in comparison.plain.layers[:-1]]
    assert max(norms) / min(norms) < 6
    names = [[layer.name for layer in flow.layers if layer.main] for flow in comparison.flows.values()]
    assert names[0] == names[1]
    w_norms = [{layer.name: layer.w_norm for layer in flow.layers} for flow in comparison.flows.values()]
    assert all(w_norms[0][name] == norm for name, norm in w_norms[1].items())
    assert all(block.cosine is None for block in comparison.plain.blocks)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(comparison.table())
        console.print(comparison.plain.table())
    assert capture.get().count("layer2.1") == 2
    assert set(comparison.as_dict()) == {"residual", "plain"}


def test_first_nonfinite_names_the_culprit():
    model = small()
    x = batch()
    running = {b.name: b.data.copy() for b in model.buffers()}
    assert first_nonfinite(model, x) is None
    assert all(np.array_equal(b.data, running[b.name]) for b in model.buffers())
    assert str(first_nonfinite(model, x * np.nan)) == "the input"
    conv = next(m for m in model.modules() if m.name == "layer2.0.conv2")
    conv.w.data[:] = 1e308  # finite, but its products are not
    assert first_nonfinite(model, x) == NonFinite("layer2.0.conv2", "Conv2d")
    assert str(first_nonfinite(model, x)) == "the output of layer2.0.conv2 (Conv2d)"
    model.buffers()[3].data[0] = np.inf
    assert first_nonfinite(model, x) == NonFinite(model.buffers()[3].name, "buffer")
    conv.w.data[0] = np.nan
    assert str(first_nonfinite(model, x)) == "the parameter layer2.0.conv2.w"
    assert all(m._slot is None for m in model.modules())


def test_probe_works_on_any_module():
    model = Sequential(Conv2d("conv", 3, 2, 3), Flatten("flat"), name="")
    with probe(model) as log:
        model.forward(np.ones((1, 4, 4, 3), np.float32))
    assert [row["name"] for row in log.rows()] == ["sequential", "conv", "flat"]
    assert log.blocks() == []
    assert log.rows()[1]["backward_seconds"] is None


def config(arch="resnet8", **options):
    return Config(arch, (12, 12, 3), 3, variant="v1.5", **options)


def test_rates_of_theory():
    """The factors of dense stacks of width 128, and where there is none."""
    plain, two = {"skip": False}, 2  # layers in a basic block
    assert block_rate(config(**plain, norm=False)) == 1
    assert block_rate(config(**plain, norm=False, init="glorot")) == pytest.approx(2 ** (-two / 2))
    assert block_rate(config("resnet50", **plain, norm=False, init="glorot")) == pytest.approx(2 ** (-3 / 2))
    for init in ("he", "glorot"):
        assert block_rate(config(**plain, init=init)) == pytest.approx(1.211**two, rel=1e-3)
    assert block_rate(config(preact=True, norm=False)) == pytest.approx(math.sqrt(2))
    assert block_rate(config(preact=True, norm=False, init="glorot")) == pytest.approx(1.118, rel=1e-3)
    assert block_rate(config()) is block_rate(config(preact=True)) is block_rate(config(norm=False)) is None


@pytest.mark.parametrize(
    "options",
    [
        {"skip": False, "norm": False},
        {"skip": False, "norm": False, "init": "glorot"},
        {"skip": False},
        {"preact": True, "norm": False},
    ],
)
def test_convolutional_networks_come_near_the_rates(options):
    """The norm's factor a block, within 15 %: of width 48, on maps large enough for their zero padding."""
    x = np.random.default_rng(1).standard_normal((8, 16, 16, 3)).astype(np.float32)
    chosen = Config("resnet14", (16, 16, 3), 3, variant="v1.5", widths=(48, 48, 48), **options)
    (flow,) = gradflow_grid([chosen], x, np.arange(8) % 3).flows
    assert flow.norms()[0] ** (1 / 6) == pytest.approx(block_rate(chosen), rel=0.15)


def test_norms_are_of_whole_arrays():
    model = small()
    flow = gradflow(model, batch(), LABELS)
    sizes = [4 * 12 * 12 * 4, 4 * 12 * 12 * 4, 4 * 6 * 6 * 6, 4 * 3 * 3 * 8]  # N H W C: after the stem, three stages
    rms = [flow.blocks[0].dx_rms, *(block.dy_rms for block in flow.blocks)]
    norms = [r * math.sqrt(size) for r, size in zip(rms, sizes, strict=True)]
    assert [flow.blocks[0].dx_norm, *(block.dy_norm for block in flow.blocks)] == pytest.approx(norms)
    assert flow.norms() == pytest.approx([norm / norms[-1] for norm in norms])
    assert flow.norms()[-1] == 1
    for block, after in pairwise(flow.blocks):  # one sends what the other receives
        assert after.dx_norm == pytest.approx(block.dy_norm)


def four_regimes(**options):
    return [config(skip=skip, init=init, **options) for init in ("he", "glorot") for skip in (True, False)]


@pytest.fixture(scope="module")
def grid():
    return gradflow_grid(four_regimes() + four_regimes(norm=False, preact=True), batch(), LABELS)


def test_grid_has_a_line_for_each_network(grid):
    lines = ["with skips, He", "plain, He", "with skips, Glorot", "plain, Glorot"]
    assert {panel: list(flows) for panel, flows in grid.panels().items()} == {
        "resnet8, BN": lines,
        "resnet8, no BN": lines,
    }
    alone = compare_skip(config(init="glorot"), batch(), LABELS)
    assert grid.panels()["resnet8, BN"]["plain, Glorot"] == alone.plain
    rows = json.loads(json.dumps(grid.as_dict()))["flows"]
    assert [row["theory"] is None for row in rows] == [True, False, True, False] + 4 * [False]
    assert rows[0]["norms"] == grid.flows[0].norms()
    assert rows[5]["config"]["norm"] is False
    console = Console(width=80)
    with console.capture() as capture:
        console.print(grid.table())
    text = capture.get()
    assert "at initialisation" in text
    assert "…" not in text
    assert f"{grid.flows[1].norms()[0]:.3g}" in text


def curves(ax):
    """(lines with a name, lines without), each as its data."""
    named, others = {}, []
    for line in ax.get_lines():
        label, data = line.get_label(), [list(values) for values in line.get_data()]
        named[label] = data
        if label.startswith("_"):
            others.append(named.pop(label))
    return named, others


def test_grid_picture(grid):
    fig = plot_gradflow_grid(grid, note="seed 7")
    assert len(fig.axes) == 2
    for ax, flows in zip(fig.axes, grid.panels().values(), strict=True):
        named, dashed = curves(ax)
        assert ax.get_yscale() == "log"
        assert "activation gradient at initialisation" in ax.get_ylabel()
        assert {label: line[1] for label, line in named.items()} == {k: flow.norms() for k, flow in flows.items()}
        assert [line[1] for line in dashed] == [expected(flow) for flow in flows.values() if expected(flow)]
        assert all(line[1][-1] == 1 for line in [*named.values(), *dashed])
        assert "theory for wide dense nets" in ax.get_legend().get_title().get_text()
    assert [len(curves(ax)[1]) for ax in fig.axes] == [2, 4]
    assert len(plot_gradflow_grid(gradflow_grid([config()], batch(), LABELS)).axes) == 1


def test_theory_in_the_picture_of_two():
    flows = compare_skip(config(), batch(), LABELS).flows
    before = len(plot_gradflow(flows).axes[0].get_lines())
    ax = plot_gradflow(flows, theory=True).axes[0]
    assert len(ax.get_lines()) == before + 1  # of the plain network
    plain = flows["plain (no skips)"]
    line = next(list(line.get_ydata()) for line in ax.get_lines() if line.get_linestyle() == "--")
    assert line[-1] == pytest.approx(plain.blocks[-1].dy_rms)
    ratio = math.sqrt(plain.blocks[-1].dy_norm ** 2 / plain.blocks[-1].dy_rms ** 2 / (4 * 12 * 12 * 16))
    assert line[0] == pytest.approx(block_rate(plain.config) ** 3 * ratio * line[-1])
    assert "at initialisation" in ax.get_ylabel()
    unknown = {"with skips": flows["with skips"]}
    assert "theory" not in plot_gradflow(unknown, theory=True).axes[0].get_legend().get_title().get_text()


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signs")
    write_signs(folder, *make_signs(n_train=24, n_test=12, size=16))
    return folder


def command(signs, tmp_path, *arguments):
    picture = tmp_path / "flow.png"
    return cli.main(["gradflow", "--data", str(signs), "--batch-size", "2", "--out", str(picture), *arguments]), picture


@pytest.mark.slow
def test_command_measures_every_combination(signs, tmp_path, capsys):
    status, picture = command(signs, tmp_path, "--depth", "8,14", "--bn", "on,off", "--json")
    assert status == 0
    assert picture.stat().st_size > 10_000
    seen = [row["config"] for row in json.loads(capsys.readouterr().out)["flows"]]
    told = [(c["arch"], c["norm"], c["skip"]) for c in seen]
    assert told == list(product(("resnet8", "resnet14"), (True, False), (True, False)))
    assert {tuple(c["input_shape"]) for c in seen} == {(32, 32, 3)}
    one = ("--arch", "resnet8", "--size", "16", "--compare", "none", "--bn", "off", "--init", "glorot,he")
    assert command(signs, tmp_path, *one)[0] == 0
    text = capsys.readouterr().out.split("picture:")[0]
    assert "resnet8, no BN" in text
    assert text.index("with skips, Glorot") < text.index("with skips, He")
    assert "plain" not in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--depth", "20,50", "no such choice: 50: choose from 8, 14, 20, 32, 44, 56, 110"),
        ("--bn", "yes", "no such choice: yes: choose from on, off"),
        ("--init", "he,lecun", "no such choice: lecun: choose from he, glorot"),
    ],
)
def test_command_names_the_choices(signs, tmp_path, capsys, option, value, message):
    assert command(signs, tmp_path, option, value)[0] == 2
    assert message in capsys.readouterr().err
