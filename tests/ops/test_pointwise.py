"""Activations, dropout, flatten, the dense layer and the loss; and that every op has its loops."""

import inspect
import math

import numpy as np
import pytest
from arrays import assert_gradients, assert_same, frozen, normal, spread
from hypothesis import given
from hypothesis import strategies as st

from minires import ops
from minires.errors import ConfigError, ShapeError
from minires.ops import naive

SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
)
DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("name", ops.__all__)
def test_every_op_has_a_loop_version_with_the_same_signature(name):
    ours, loops = (inspect.signature(getattr(room, name)).parameters.values() for room in (ops, naive))
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in loops]


# name -> (further arguments, whether backward wants y and not x, torch.nn.functional's name)
ACTIVATIONS = {
    "relu": ((), True, "relu"),
    "leaky_relu": ((0.2,), True, "leaky_relu"),
    "sigmoid": ((), True, "sigmoid"),
    "gelu": ((), False, "gelu"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(SHAPES, DTYPES, SEEDS)
def test_activations_are_the_loops_and_torchs(name, shape, dtype, seed):
    torch = pytest.importorskip("torch")
    (further, wants_y, theirs), rng = ACTIVATIONS[name], np.random.default_rng(seed)
    forward, backward = (getattr(ops, f"{name}_{way}") for way in ("forward", "backward"))
    x, dy = spread(rng, shape, dtype), normal(rng, shape, dtype)
    y = frozen(forward(x, *further))
    kept = y if wants_y else x
    dx = backward(dy, kept, *further)
    assert_same(y, getattr(naive, f"{name}_forward")(x, *further))
    assert_same(dx, getattr(naive, f"{name}_backward")(dy, kept, *further))
    tx = torch.tensor(x, requires_grad=True)
    ty = getattr(torch.nn.functional, theirs)(tx, *further)
    ty.backward(torch.tensor(dy))
    assert_same(y, ty.detach().numpy())
    assert_same(dx, tx.grad.numpy())
    if dtype == np.float64:
        assert_gradients(lambda x: forward(x, *further), [x], [dx], dy)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-15), (np.float32, 3e-7)])
def test_gelu_is_exact(dtype, tolerance):
    """Everywhere, beside erfc in float64; its small values on the left have their digits too."""
    x = np.concatenate([np.linspace(-40, 40, 20001), [0.0, -1e-300, 3e-8]]).astype(dtype)
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype(float)])
    y = ops.gelu_forward(x)
    assert y.dtype == dtype
    assert (np.abs(y - exact) <= tolerance * np.maximum(1, np.abs(exact))).all()
    left = (x > -8) & (x < -1)
    np.testing.assert_allclose(y[left], exact[left], rtol=1e3 * tolerance)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_activations_of_huge_numbers(dtype):
    x = np.array([-6e4, 6e4], dtype)
    assert ops.sigmoid_forward(x).tolist() == [0, 1]
    assert ops.gelu_forward(x).tolist() == [0, x[1]]
    assert ops.gelu_backward(np.ones_like(x), x).tolist() == [0, 1]
    assert ops.gelu_forward(x).dtype == ops.sigmoid_forward(x).dtype == dtype


@pytest.mark.parametrize("shape", [(3, 50_001), (70_000,)])
def test_gelu_piece_by_piece(shape):
    x = normal(np.random.default_rng(0), shape)
    for at in (0, -1, shape[-1] // 2):
        assert_same(ops.gelu_forward(x)[..., at], ops.gelu_forward(x[..., at]))
        assert_same(ops.gelu_backward(x, x)[..., at], ops.gelu_backward(x[..., at], x[..., at]))


def test_relus_have_the_slope_of_the_left_at_zero():
    zero = np.zeros((1, 3))
    assert not ops.relu_backward(np.ones((1, 3)), ops.relu_forward(zero)).any()
    assert (ops.leaky_relu_backward(np.ones((1, 3)), ops.leaky_relu_forward(zero, 0.2), 0.2) == 0.2).all()


@given(SHAPES, DTYPES, SEEDS, st.sampled_from([0.0, 0.25, 0.9]), st.booleans())
def test_dropout(shape, dtype, seed, rate, whole_images):
    rng = np.random.default_rng(seed)
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    drawn = (shape[0], *[1] * (len(shape) - 1)) if whole_images else shape
    keep = frozen((rng.random(drawn) >= rate).astype(dtype))
    dx = ops.dropout_backward(dy, keep, rate)
    assert_same(ops.dropout_forward(x, keep, rate), naive.dropout_forward(x, keep, rate))
    assert_same(dx, naive.dropout_backward(dy, keep, rate))
    if dtype == np.float64:
        assert_gradients(lambda x: ops.dropout_forward(x, keep, rate), [x], [dx], dy)


@given(st.tuples(*[st.integers(1, 4)] * 4), DTYPES, SEEDS)
def test_flatten(shape, dtype, seed):
    x = normal(np.random.default_rng(seed), shape, dtype)
    y = frozen(ops.flatten_forward(x))
    assert_same(y, naive.flatten_forward(x))
    assert_same(ops.flatten_backward(y, shape), naive.flatten_backward(y, shape))
    assert_same(ops.flatten_backward(y, shape), x)


@given(st.tuples(*[st.integers(1, 5)] * 3), DTYPES, SEEDS, st.booleans())
def test_dense(sizes, dtype, seed, bias):
    N, C, O = sizes
    rng = np.random.default_rng(seed)
    x, w, dy = normal(rng, (N, C), dtype), normal(rng, (C, O), dtype), normal(rng, (N, O), dtype)
    b = normal(rng, O, dtype) if bias else None
    y, gradients = ops.dense_forward(x, w, b), ops.dense_backward(dy, x, w)
    assert_same(y, naive.dense_forward(x, w, b))
    assert_same(gradients, naive.dense_backward(dy, x, w))
    assert_same(ops.dense_backward(dy, x, w, need_dx=False), (None, *gradients[1:]))
    if dtype == np.float64:
        tensors = [x, w, b] if bias else [x, w]
        assert_gradients(ops.dense_forward, tensors, gradients[: len(tensors)], dy)


@st.composite
def classifications(draw, dtypes=DTYPES):
    """(logits, labels, smoothing): labels as integers of any width, one-hot, or distributions."""
    N, K = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    rng, dtype = np.random.default_rng(draw(SEEDS)), draw(dtypes)
    integers = rng.integers(0, K, N)
    labels = {
        "int64": integers,
        "uint8": integers.astype(np.uint8),
        "one-hot": np.eye(K, dtype=dtype)[integers],
        "mixed": rng.dirichlet(np.ones(K), N).astype(dtype),
    }[draw(st.sampled_from(["int64", "uint8", "one-hot", "mixed"]))]
    logits = frozen((rng.standard_normal((N, K)) * 3).astype(dtype))
    return logits, frozen(labels), draw(st.sampled_from([0.0, 0.1]))


@given(classifications())
def test_cross_entropy_is_the_loops(case):
    logits, labels, smoothing = case
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
    assert_same((loss, probs), naive.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing))
    frozen(probs)
    assert_same(
        ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing),
        naive.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing),
    )


@given(classifications(dtypes=st.just(np.float64)))
def test_cross_entropy_gradient(case):
    logits, labels, smoothing = case
    probs = ops.softmax_cross_entropy_forward(logits, labels)[1]
    dlogits = ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(dlogits.sum(axis=1), 0, atol=1e-14)
    assert_gradients(
        lambda z: ops.softmax_cross_entropy_forward(z, labels, label_smoothing=smoothing)[0], [logits], [dlogits], 1.0
    )


@given(classifications())
def test_cross_entropy_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    logits, labels, smoothing = case
    target = torch.tensor(labels.astype(np.int64) if labels.ndim == 1 else labels)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), target, label_smoothing=smoothing)
    loss, _ = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
    assert_same(loss, theirs.numpy())


REDUCED = st.fixed_dictionaries(
    {
        "label_smoothing": st.sampled_from([0.0, 0.1]),
        "reduction": st.sampled_from(["mean", "sum", "none"]),
        "weights": st.booleans(),
        "ignore_index": st.sampled_from([None, -100, 0]),
    }
)


@given(classifications(), REDUCED, SEEDS)
def test_cross_entropy_with_weights_and_ignored_labels(case, options, seed):
    """Against the loops, and against PyTorch, which sends the gradients of losses one by one back too."""
    torch = pytest.importorskip("torch")
    logits, labels, _ = case
    (N, K), rng, ignored = logits.shape, np.random.default_rng(seed), options["ignore_index"]
    weights = frozen(rng.uniform(0.1, 2, K).astype(logits.dtype)) if options["weights"] else None
    if labels.ndim == 2:
        ignored = None
    elif ignored is not None:
        labels = np.where((rng.random(N) < 0.4) & (np.arange(N) > 0), ignored, labels.astype(int))
        labels[0] = 1  # one that counts
    options = {**options, "weights": weights, "ignore_index": ignored}
    tlogits = torch.tensor(logits, requires_grad=True)
    settings = {"label_smoothing": options["label_smoothing"], "reduction": options["reduction"]}
    settings |= {"weight": None if weights is None else torch.tensor(weights)}
    settings |= {} if ignored is None else {"ignore_index": ignored}
    target = torch.tensor(labels.astype(np.int64) if labels.ndim == 1 else labels)
    theirs = torch.nn.functional.cross_entropy(tlogits, target, **settings)
    dloss = normal(rng, theirs.shape, logits.dtype)
    theirs.backward(torch.tensor(dloss))
    dloss = dloss if dloss.ndim else float(dloss)
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels, **options)
    assert_same(loss, theirs.detach().numpy())
    assert_same((loss, probs), naive.softmax_cross_entropy_forward(logits, labels, **options))
    dlogits = ops.softmax_cross_entropy_backward(frozen(probs), labels, **options, dloss=dloss)
    assert_same(dlogits, tlogits.grad.numpy())
    assert_same(dlogits, naive.softmax_cross_entropy_backward(probs, labels, **options, dloss=dloss))


def test_ignored_labels_count_for_nothing_whatever_their_logits():
    logits, labels = np.array([[1.0, 2.0], [-np.inf, 3.0], [0.0, 1.0]]), np.array([0, 255, 1])
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels, ignore_index=255)
    alone, _ = ops.softmax_cross_entropy_forward(logits[::2], labels[::2])
    assert loss == pytest.approx(alone, rel=1e-12)
    assert not ops.softmax_cross_entropy_backward(probs, labels, ignore_index=255)[1].any()
    losses, _ = ops.softmax_cross_entropy_forward(logits, labels, ignore_index=255, reduction="none")
    assert losses[1] == 0
    with pytest.raises(ShapeError, match="got 255 at index 1"):
        ops.softmax_cross_entropy_forward(logits, labels)


def test_settings_of_cross_entropy_that_do_not_fit():
    logits, labels = np.zeros((4, 3)), np.array([0, 1, 2, 0])
    with pytest.raises(ShapeError, match=r"logits \(4, 3\) need weights \(3,\), one a class, got \(4,\)"):
        ops.softmax_cross_entropy_forward(logits, labels, weights=np.ones(4))
    with pytest.raises(ShapeError, match=r"and ignore_index=-100 need integer labels"):
        ops.softmax_cross_entropy_forward(logits, np.eye(3)[labels], ignore_index=-100)
    for op in (ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward):
        with pytest.raises(ConfigError, match="unknown reduction 'average': choose mean, sum, none"):
            op(logits, labels, reduction="average")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_huge_logits_is_finite(dtype):
    logits = np.array([[1e4, 0.0, -1e4]], dtype)
    loss, probs = ops.softmax_cross_entropy_forward(logits, np.array([1]))
    assert loss == 1e4
    assert probs.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_each_image_knows_nothing_of_the_others(dtype):
    logits, labels = np.array([[1.0, 2.0], [-2e4, -2e4], [1e4, 1e4 - 1]], dtype), np.array([0, 1, 0])
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels)
    alone = [ops.softmax_cross_entropy_forward(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(loss, np.mean([one for one, _ in alone]), rtol=1e-6)
    np.testing.assert_allclose(probs, np.concatenate([one for _, one in alone]), rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_logit_of_minus_infinity(dtype, smoothing):
    """Of another class it has no share in the loss, unless smoothing gives it one; PyTorch's loss and gradient."""
    torch = pytest.importorskip("torch")
    logits = frozen(np.array([[1, -np.inf, 2], [0, 1, 2], [-np.inf, 5, -np.inf]], dtype))
    options, rounding = {"label_smoothing": smoothing}, 2e-3 if dtype == np.float16 else 1e-6
    for labels in (np.array([0, 1, 1]), np.array([1, 1, 1])):
        there = torch.tensor(logits.astype("f8"), requires_grad=True)
        theirs = torch.nn.functional.cross_entropy(there, torch.tensor(labels), **options)
        theirs.backward()
        assert np.isfinite(theirs.item()) == (smoothing == 0 and labels[0] == 0)
        for targets in (labels, np.eye(3, dtype=dtype)[labels]):
            for module in (ops, naive):
                loss, probs = module.softmax_cross_entropy_forward(logits, targets, **options)
                dlogits = module.softmax_cross_entropy_backward(probs, targets, **options)
                assert loss.dtype == dlogits.dtype == dtype
                assert loss == pytest.approx(theirs.item(), rel=rounding)
                np.testing.assert_allclose(dlogits, there.grad, atol=rounding)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_otherwise_stays_so(value):
    with np.errstate(invalid="ignore"):
        loss, _ = ops.softmax_cross_entropy_forward(np.array([[1.0, value, 2.0]]), np.array([0]))
        assert np.isnan(loss)
        assert np.isnan(naive.softmax_cross_entropy_forward(np.array([[1.0, value, 2.0]]), np.array([0]))[0])


def test_the_loss_of_many_images_in_float16_is_finite():
    """Its sum over them is more than float16 holds."""
    logits = np.zeros((30000, 64), np.float16)
    assert ops.softmax_cross_entropy_forward(logits, np.zeros(30000, int))[0] == pytest.approx(np.log(64), rel=1e-3)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_no_images_have_no_mean_loss(shape):
    for forward in (ops.softmax_cross_entropy_forward, naive.softmax_cross_entropy_forward):
        with pytest.raises(ShapeError, match="no mean loss"):
            forward(np.zeros(shape), np.zeros(shape[0], int))


# op -> (arrays of a batch of n, options); the gradients of weights are those of nothing, zeros
EMPTY = {
    "zero_pad2d_forward": lambda x, w, v: ((x, 1), {}),
    "zero_pad2d_backward": lambda x, w, v: ((x, 1), {}),
    "conv2d_forward": lambda x, w, v: ((x, w), {"pad": 1}),
    "conv2d_backward": lambda x, w, v: ((x, x, w), {"pad": 1}),
    "batchnorm_forward": lambda x, w, v: ((x, v, v, v, v), {}),
    "batchnorm_backward": lambda x, w, v: ((x, x, v, v, v), {}),
    "batchnorm_eval_backward": lambda x, w, v: ((x, x, v, v, v), {}),
    "batchnorm_sums": lambda x, w, v: ((x, x, v, v), {}),
    "groupnorm_statistics": lambda x, w, v: ((x, 1), {}),
    "groupnorm_forward": lambda x, w, v: ((x, v, v, x[:, 0, 0, :1], x[:, 0, 0, :1]), {}),
    "groupnorm_backward": lambda x, w, v: ((x, x, v, x[:, 0, 0, :1], x[:, 0, 0, :1]), {}),
    "batchnorm_dx": lambda x, w, v: ((x, x, v, v, v, v, v, 1), {}),
    "layernorm_statistics": lambda x, w, v: ((x,), {}),
    "layernorm_forward": lambda x, w, v: ((x, v, v, x[..., 0], x[..., 0]), {}),
    "layernorm_backward": lambda x, w, v: ((x, x, v, x[..., 0], x[..., 0]), {}),
    "relu_forward": lambda x, w, v: ((x,), {}),
    "leaky_relu_forward": lambda x, w, v: ((x, 0.1), {}),
    "leaky_relu_backward": lambda x, w, v: ((x, x, 0.1), {}),
    "sigmoid_forward": lambda x, w, v: ((x,), {}),
    "sigmoid_backward": lambda x, w, v: ((x, x), {}),
    "gelu_forward": lambda x, w, v: ((x,), {}),
    "gelu_backward": lambda x, w, v: ((x, x), {}),
    "concat_forward": lambda x, w, v: ((x, x), {}),
    "concat_backward": lambda x, w, v: ((x, (1, 2)), {}),
    "multiply_forward": lambda x, w, v: ((x, x[:, 0, 0]), {}),
    "multiply_backward": lambda x, w, v: ((x, x, x[:, 0, 0]), {}),
    "relu_backward": lambda x, w, v: ((x, x), {}),
    "add_forward": lambda x, w, v: ((x, x), {}),
    "add_backward": lambda x, w, v: ((x,), {}),
    "dropout_forward": lambda x, w, v: ((x, x, 0.5), {}),
    "dropout_backward": lambda x, w, v: ((x, x, 0.5), {}),
    "maxpool_forward": lambda x, w, v: ((x,), {"kernel": 3, "stride": 1, "pad": 1}),
    "maxpool_backward": lambda x, w, v: ((x, x, x), {"kernel": 3, "stride": 1, "pad": 1}),
    "avgpool_forward": lambda x, w, v: ((x,), {"kernel": 3, "stride": 1, "pad": 1}),
    "avgpool_backward": lambda x, w, v: ((x, x.shape), {"kernel": 3, "stride": 1, "pad": 1}),
    "subsample_forward": lambda x, w, v: ((x, 2, (1, 2)), {}),
    "subsample_backward": lambda x, w, v: ((ops.subsample_forward(x, 2, (1, 2)), x.shape, 2, (1, 2)), {}),
    "global_avgpool_forward": lambda x, w, v: ((x,), {}),
    "global_avgpool_backward": lambda x, w, v: ((x[:, 0, 0], x.shape), {}),
    "flatten_forward": lambda x, w, v: ((x,), {}),
    "flatten_backward": lambda x, w, v: ((x.reshape(len(x), 75), x.shape), {}),
    "dense_forward": lambda x, w, v: ((x[:, 0, 0], w[0, 0]), {}),
    "dense_backward": lambda x, w, v: ((x[:, 0, 0], x[:, 0, 0], w[0, 0]), {}),
    "softmax_cross_entropy_backward": lambda x, w, v: ((x[:, 0, 0], x[:, 0, 0]), {}),
}
NO_BATCH = {"batchnorm_running"}  # they work on statistics, or refuse: see test_norm.py and above
REFUSE = {"batchnorm_statistics", "softmax_cross_entropy_forward"}


def test_every_op_stands_in_the_table_of_empty_batches():
    assert {*EMPTY, *NO_BATCH, *REFUSE} == set(ops.__all__)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch(name, kernel, dtype):
    """As PyTorch: empty results, gradients of zero; of the shapes that the loops give."""
    x, w, v = np.zeros((0, 5, 5, 3), dtype), np.ones((kernel, kernel, 3, 3), dtype), np.ones(3, dtype)
    arrays, options = EMPTY[name](x, w, v)
    if "conv" in name:
        options["pad"] = kernel // 2
    result, expected = getattr(ops, name)(*arrays, **options), getattr(naive, name)(*arrays, **options)
    assert_same(result, expected)
    for part in result if isinstance(result, tuple) else (result,):
        assert not part.any()


def test_cross_entropy_of_equal_logits_is_log_of_the_classes():
    loss, probs = ops.softmax_cross_entropy_forward(np.zeros((3, 6)), np.array([0, 5, 2]))
    assert loss == pytest.approx(np.log(6))
    np.testing.assert_allclose(probs, 1 / 6)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros((4, 2)), np.zeros((4, 1), int), np.zeros(4, np.float32)])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ShapeError, match=r"cross-entropy: logits \(4, 5\) need integer labels \(4,\) or one-hot"):
        ops.softmax_cross_entropy_forward(np.zeros((4, 5)), labels)


@pytest.mark.parametrize("label", [-1, 5, 255])
def test_a_label_that_is_no_class(label):
    labels = np.array([0, 4, label, 1])
    message = rf"need labels in 0\.\.4, got {label} at index 2: number the classes from 0"
    with pytest.raises(ShapeError, match=message):
        ops.softmax_cross_entropy_forward(np.zeros((4, 5)), labels)
    with pytest.raises(ShapeError, match=message):
        ops.softmax_cross_entropy_backward(np.zeros((4, 5)), labels)
