"""The audit: nothing to say about healthy networks, and for each planted bug the fault by its name."""

import json
from itertools import pairwise

import numpy as np
import planted
import pytest

from minires import nn, resnet
from minires.errors import ConfigError
from minires.instruments.audit import audit
from minires.instruments.audit.published import guess_arch
from minires.nn import Block, Conv2d

SMALL = {"widths": (3, 4, 5)}


def small(arch="resnet8", **options):
    return resnet(arch, (8, 8, 3), 4, **SMALL, **options)


def faults(report) -> dict[str, str]:
    return {f.name: f.detail for f in report.findings if f.status == "fail"}


HEALTHY = {
    **{
        f"{arch}, {variant}": (arch, {"variant": variant})
        for arch in ("resnet8", "resnet14")
        for variant in nn.VARIANTS
    },
    "preact": ("resnet8", {"preact": True}),
    "plain": ("resnet14", {"skip": False}),
    "no norm": ("resnet8", {"norm": False}),
    "no norm, preact": ("resnet8", {"norm": False, "preact": True}),
    "plain, no norm": ("resnet8", {"norm": False, "skip": False}),
    "zero gamma": ("resnet14", {"last_gamma": 0.0}),
    "dropout": ("resnet8", {"dropout": 0.5}),
    "option A": ("resnet8", {"shortcut": "A"}),
    "option A, preact": ("resnet14", {"shortcut": "A", "preact": True}),
    "wide": ("wide_resnet28_10", {}),
    "glorot": ("resnet8", {"init": "glorot"}),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_nothing_to_say_about_a_healthy_network(kind):
    arch, options = HEALTHY[kind]
    model = small(arch, **options)
    before = {name: a.copy() for name, a in model.state().items()}
    report = audit(model)
    assert report.findings == ()
    assert report.ok
    for block in report.blocks:
        if options.get("skip", True):
            assert (block.answer, block.branch_share, block.shortcut_share) == (1, 1, 1)
    assert all(np.array_equal(model.state()[name], a) for name, a in before.items())
    assert not any("forward" in vars(m) or m._slot for m in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("variant", nn.VARIANTS)
@pytest.mark.parametrize("preact", [False, True])
def test_nothing_to_say_about_bottlenecks(variant, preact):
    model = resnet("resnet50", (40, 40, 3), 4, widths=(2, 3, 4, 5), variant=variant, preact=preact)
    report = audit(model)
    assert report.findings == ()
    assert report.nearest == variant


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50d", "se_resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_nothing_to_say_about_the_relatives_which_are_told_apart(arch):
    """Also where the network has forgotten what it was built from."""
    model = resnet(arch, (40, 40, 3), 4)
    assert guess_arch(model, (40, 40, 3), 4) == arch
    model = resnet(arch, (40, 40, 3), 4, widths=(16, 16, 16, 16))
    report = audit(model)
    assert report.findings == ()
    assert report.differences["v1.5"] == ()


BUGS = {
    "dead skip": ("dead skip", "layer1.0: the shortcut does not depend on the block's input"),
    "averaging add": ("averaged at the add", "layer1.0: half of the gradient at the add node reaches the branch and"),
    "same seed": ("same seed", "each layer was initialised with the same seed"),
}


def test_kernels_that_begin_at_zero_are_no_draw():
    """As the last of each branch, or a new head, often do."""
    model = resnet("resnet8", (16, 16, 3), 6)
    for block in model.blocks():
        [m for m in block.branch.layers if isinstance(m, Conv2d)][-1].w.data[...] = 0
    assert "same seed" not in {f.name for f in audit(model).findings}


@pytest.mark.parametrize("bug", ["dead skip", "averaging add", "same seed"])
def test_a_planted_bug_is_named(bug):
    name, words = BUGS[bug]
    report = audit(planted.plant(small("resnet14"), bug))
    assert list(faults(report)) == [name]
    assert words in faults(report)[name]
    assert not report.ok


def test_a_gradient_that_misses_the_shortcut_is_named():
    report = audit(planted.plant(small(), "branch only"))
    assert "layer1.0: the shortcut receives nothing of the gradient" in faults(report)["gradient at the add"]


def test_a_write_in_place_is_named_with_the_shortcut_that_shares_the_array():
    report = audit(planted.relu_last_block(), input_shape=(6, 6, 3))
    assert "the shortcut of a receives that very array" in faults(report)["in-place write"]
    assert audit(planted.relu_last_block(nn.ReLU), input_shape=(6, 6, 3)).ok


def test_a_stride_on_one_path_is_named_whether_or_not_the_shapes_fit():
    report = audit(planted.stride_on_one_path(), input_shape=(6, 6, 3))
    assert "the branch has stride (2, 2), the shortcut (identity) (1, 1)" in faults(report)["stride on one path"]
    one_pixel = audit(planted.stride_on_one_path(), input_shape=(1, 1, 3))  # here 1x1 stays 1x1 with any stride
    assert "stride on one path" in faults(one_pixel)
    projection = nn.Sequential(Conv2d("b.proj", 4, 4, 1, stride=2), name="b.shortcut")
    assert audit(planted.stride_on_one_path(projection), input_shape=(6, 6, 3)).ok


def test_shapes_that_disagree_without_a_stride():
    block = Block("b", nn.Sequential(Conv2d("b.conv", 3, 4, 3, pad=1), name="b.branch"), Block.IDENTITY)
    report = audit(nn.Sequential(block, name="net"), input_shape=(6, 6, 3))
    assert "the branch gives (6, 6, 4) but the shortcut (6, 6, 3)" in faults(report)["shapes"]


def conv_block(cls=Block, shortcut=Block.IDENTITY):
    branch = nn.Sequential(Conv2d("b.conv1", 3, 3, 3, pad=1), nn.ReLU("r"), Conv2d("b.conv2", 3, 3, 3, pad=1), name="f")
    return cls("b", branch, shortcut)


def test_a_hand_written_block_that_is_right():
    class Walks(Block):
        def forward(self, x):
            y = x
            for layer in self.branch.layers:
                y = layer.forward(y)
            return x + y

        def backward(self, dy, need_dx=True):
            dbranch = dy
            for layer in reversed(self.branch.layers):
                dbranch = layer.backward(dbranch)
            return dy + dbranch

    report = audit(conv_block(Walks), input_shape=(6, 6, 3))
    assert report.findings == ()
    assert report.blocks[0].answer == report.blocks[0].shortcut_share == 1


def test_shortcuts_that_start_inside_the_branch_or_are_scaled():
    class Inside(Block):
        def forward(self, x):
            h = self.branch.layers[0].forward(x)
            return h + self.branch.layers[2].forward(self.branch.layers[1].forward(h))

        def backward(self, dy, need_dx=True):
            first, *others = self.branch.layers
            dh = others[0].backward(others[1].backward(dy)) + dy
            return first.backward(dh)

    class Scaled(Block):
        def forward(self, x):
            return self.branch.forward(x) + 0.5 * x

        def backward(self, dy, need_dx=True):
            return self.branch.backward(dy) + 0.5 * dy

    assert "dead skip" in faults(audit(conv_block(Inside), input_shape=(6, 6, 3)))
    scaled = audit(conv_block(Scaled), input_shape=(6, 6, 3))
    assert scaled.blocks[0].answer == pytest.approx(0.5)
    assert any("scaled by 0.5" in f.detail for f in scaled.findings)


def test_parameters_without_use_or_gradient():
    class Net(nn.Sequential):
        def forward(self, x):
            return self.layers[0].forward(x)

        def backward(self, dy, need_dx=True):
            return self.layers[0].backward(dy)

    class NoBias(Conv2d):
        def backward(self, dy, need_dx=True):
            dx = super().backward(dy)
            self.b.grad = None
            return dx

    class Ignores(Conv2d):
        def forward(self, x):
            bias, self.b = self.b, None
            y = super().forward(x)
            self.b = bias
            return y

        def backward(self, dy, need_dx=True):
            dx = super().backward(dy)
            self.b.grad[...] = 0
            return dx

    idle = audit(Net(conv_block(), Conv2d("idle", 3, 3, 1), name="net"), input_shape=(6, 6, 3))
    assert faults(idle) == {"unused layer": "idle is never used: 9 idle parameters"}
    forgets = nn.Sequential(conv_block(), NoBias("last", 3, 4, 1, bias=True), name="net")
    assert "last.b receives no gradient" in faults(audit(forgets, input_shape=(6, 6, 3)))["no gradient"]
    ignores = nn.Sequential(conv_block(), Ignores("last", 3, 4, 1, bias=True), name="net")
    assert "last.b has no influence" in faults(audit(ignores, input_shape=(6, 6, 3)))["no use"]


def test_a_bias_before_a_batch_norm_is_no_fault():
    assert audit(small(variant="course")).ok  # it moves nothing in training, by design


def test_differences_from_the_published_networks():
    report = audit(resnet("resnet50", (40, 40, 3), 4, widths=(2, 3, 4, 5), variant="v1"))
    assert report.nearest == "v1"
    assert report.differences["v1"] == ()
    course = {d.aspect: d for d in report.differences["course"]}
    assert (course["BN epsilon"].here, course["BN epsilon"].there) == ("1.001e-05", "0.001")
    assert len(course["BN epsilon"].layers) == 53
    assert course["MaxPool2d padding"].there == "0"
    torch = {d.aspect: d for d in report.differences["v1.5"]}
    assert len([n for d in report.differences["v1.5"] if d.aspect == "Conv2d stride" for n in d.layers]) == 6
    assert torch["Conv2d bias"].here == "yes"
    assert torch["BN momentum"].there == "0.9"


def test_a_changed_layer_is_a_difference_and_no_fault():
    model = small("resnet14")
    model.blocks()[2].branch.layers[1].epsilon = 1e-3
    model.blocks()[1].branch.layers.insert(3, nn.ReLU("one too many"))
    report = audit(model)
    assert report.ok
    assert report.nearest == "v1.5"
    relu, epsilon = report.differences["v1.5"]
    assert str(epsilon) == "BN epsilon: 0.001 here, 1e-05 there (layer2.0.bn1)"
    assert (relu.aspect, relu.here, relu.there) == ("ReLU layer", "one", "none")


def test_a_network_without_a_config_is_compared_with_the_one_that_has_as_many_blocks():
    model = small("resnet14")
    bare = nn.Sequential(*model.layers, name="by hand")
    report = audit(bare, input_shape=(8, 8, 3))
    assert any(d.aspect == "Conv2d channels" for d in report.differences["v1.5"])
    with pytest.raises(ConfigError, match="by hand has no config"):
        audit(bare)


def test_the_report_is_plain_data():
    assert json.loads(json.dumps(audit(small()).as_dict()))["ok"] is True
    assert audit(small()).table().row_count == 3
    assert audit(small()).reference_table().row_count > 3


class IgnoringAdd(nn.Add):
    def forward(self, branch, shortcut):
        return branch + 0


class DoublingAdd(nn.Add):
    def forward(self, branch, shortcut):
        return branch + 2 * shortcut


def with_add(kind):
    block = conv_block()
    block.add = kind("b.add")
    return block


def test_an_add_that_ignores_its_shortcut_is_not_called_a_shortcut_that_starts_elsewhere():
    detail = faults(audit(with_add(IgnoringAdd), input_shape=(6, 6, 3)))["dead skip"]
    assert "the add node gives F(x) + 0 shortcut: it ignores the shortcut" in detail
    assert "starts from the main path" not in detail
    dead = faults(audit(planted.plant(small("resnet14"), "dead skip")))["dead skip"]
    assert "It starts from the main path" in dead


def test_a_doubled_shortcut_is_forwards_fault_not_backwards():
    found = faults(audit(with_add(DoublingAdd), input_shape=(6, 6, 3)))
    assert list(found) == ["scaled skip"]
    assert "scaled by 2" in found["scaled skip"]


def test_a_misplaced_relu_is_named():
    class Before(Block):
        def forward(self, x):
            return self.after.forward(self.branch.forward(x)) + x

        def backward(self, dy, need_dx=True):
            return self.branch.backward(self.after.backward(dy)) + dy

    branch = nn.Sequential(Conv2d("b.conv", 3, 3, 3, pad=1), name="f")
    found = faults(audit(Before("b", branch, Block.IDENTITY, after=nn.ReLU("b.relu")), input_shape=(6, 6, 3)))
    assert list(found) == ["misplaced ReLU"]
    assert "b: forward gives relu(F(x)) + shortcut: the ReLU stands before the sum" in found["misplaced ReLU"]


@pytest.mark.parametrize("options", [{}, {"preact": True}, {"variant": "course"}], ids=str)
@pytest.mark.parametrize("where", [0, 1, 3, 5])
def test_dead_relus_are_named_and_nothing_else_is_blamed(options, where):
    """A shift of -50 in one normalisation that a ReLU follows: no gradient gets past it, nothing depends on it."""
    model = small("resnet14", **options)
    layers = [m for m in model.modules() if not m.children()]
    norms = [a for a, b in pairwise(layers) if isinstance(a, nn.BatchNorm) and isinstance(b, nn.ReLU)]
    norms[where].beta.data[...] = -50
    report = audit(model)
    assert list(faults(report)) == ["dead ReLUs"]
    assert "100.0% of its outputs are 0" in faults(report)["dead ReLUs"]


def test_dead_relus_of_a_network_without_normalisation():
    """As a rate of 0.3 leaves them: every bias far below zero, the branch gives nothing."""
    model = small("resnet14", norm=False, variant="course")
    convs = [m for m in model.blocks()[1].branch.modules() if isinstance(m, Conv2d)]
    convs[0].b.data[...] = -50
    assert list(faults(audit(model))) == ["dead ReLUs"]


def test_weights_that_are_not_finite():
    model = small()
    model.params()[3].data.flat[0] = np.nan
    found = faults(audit(model))
    assert list(found) == ["weights not finite"]
    assert (
        f"1 of {model.params()[3].data.size} numbers of the parameter {model.params()[3].name}"
        in found["weights not finite"]
    )


def test_a_layer_that_does_not_run_is_named():
    class Fails(nn.ReLU):
        def backward(self, dy, need_dx=True):
            return dy[99]

    model = small()
    model.blocks()[1].branch.layers[2] = Fails("odd")
    assert "odd.backward raises IndexError" in faults(audit(model))["raises"]
