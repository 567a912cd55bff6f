"""A forward pass that was written down and is called again at once: the same bits, and nothing forgotten."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import normal

from minires import ops
from minires.backend import max_workspace
from minires.fast import cpu
from minires.fast.cpu.replay import KEPT, Replay
from minires.fast.inference import Predictor
from minires.nn import resnet

if not cpu.enabled():
    pytest.skip("there are no compiled kernels, or MINIRES_KERNELS=numpy leaves them out", allow_module_level=True)


def images(count, size, seed=0):
    return normal(np.random.default_rng(seed), (count, size, size, 3), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size", "options"),
    [
        ("resnet8", 16, {}),
        ("resnet8", 16, {"skip": False}),
        ("resnet8", 16, {"preact": True}),
        ("resnet8", 16, {"norm": False}),
        ("resnet8", 16, {"dropout": 0.5}),
        ("resnet18", 32, {"variant": "v1"}),
        ("resnet50", 64, {}),
    ],
)
def test_every_call_gives_the_same_bits(arch, size, options):
    model = resnet(arch, (size, size, 3), 5, **options)
    predictor = Predictor(model)
    for count in (1, 3):
        first, others = images(count, size), images(count, size, 1)
        expected, of_others = predictor.forward.forward(first), predictor.forward.forward(others)
        for _ in range(3):  # as it is, recorded, replayed
            assert np.array_equal(predictor(first), expected)
            assert np.array_equal(predictor(others), of_others)
    assert all(predictor.forward.recordings.values())  # each shape was recorded


def test_results_are_the_callers_own():
    predictor = Predictor(resnet("resnet8", (8, 8, 3), 4))
    x = images(1, 8)
    for _ in range(3):
        y = predictor(x)
    kept = y.copy()
    predictor(images(1, 8, 1))
    assert np.array_equal(y, kept)


def test_what_is_more_than_kernels_is_not_replayed():
    calls = []

    def forward(x):
        calls.append(len(x))
        return ops.relu_forward(np.tanh(x))  # tanh is NumPy's: a replay would repeat its first result

    replay, x = Replay(forward), images(2, 4)
    for i in range(5):
        assert np.array_equal(replay(x + np.float32(i)), np.maximum(np.tanh(x + np.float32(i)), 0))
    assert len(calls) == 7  # each time, and twice more when it was recorded and tried
    assert list(replay.recordings.values()) == [False]


def test_buffers_are_used_again():
    def forward(x):
        for _ in range(20):
            x = ops.add_forward(ops.relu_forward(x), x)
        return x

    replay, x = Replay(forward), images(1, 16)
    for _ in range(3):
        y = replay(x)
    assert np.array_equal(y, forward(x))
    (recording,) = replay.recordings.values()
    assert len(recording.buffers.places) <= 4


def test_a_view_keeps_its_place():
    def forward(x):
        flat = ops.flatten_forward(ops.relu_forward(x))  # the array itself is gone, its view is not
        return ops.add_forward(flat, ops.relu_forward(ops.relu_forward(flat)))

    replay, x = Replay(forward), images(2, 8)
    for _ in range(3):
        assert np.array_equal(replay(x), forward(x))
    assert all(replay.recordings.values())


def test_few_shapes_are_kept():
    predictor = Predictor(resnet("resnet8", (8, 8, 3), 4))
    for count in range(1, KEPT + 3):
        for _ in range(3):
            predictor(images(count, 8))
    assert len(predictor.forward.recordings) == KEPT


def test_settings_are_heeded():
    predictor, x = Predictor(resnet("resnet8", (8, 8, 3), 4)), images(2, 8)
    for _ in range(3):
        y = predictor(x)
    with cpu.as_read():
        assert np.allclose(predictor(x), y, atol=1e-5)
    for _ in range(3):
        with max_workspace(2**16), cpu.use_threads(1):
            assert np.allclose(predictor(x), y, atol=1e-5)


def test_a_batch_of_another_precision_is_computed_in_it():
    model, x = resnet("resnet8", (8, 8, 3), 4), images(2, 8)
    predictor, wide = Predictor(model), x.astype(np.float64) + 1e-9
    for _ in range(3):
        predictor(x)
    for _ in range(3):
        y = predictor(wide)
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y, Predictor(model)(wide))


def test_weights_outlive_a_change_of_their_form():
    """A recording of small batches holds packed weights, large batches want others; see Weights."""
    model = resnet("resnet18", (32, 32, 3), 4, variant="v1", widths=(16, 32, 32, 32))
    predictor, one, many = Predictor(model), images(1, 32), images(40, 32)
    expected = predictor(one)
    for _ in range(4):
        assert np.array_equal(predictor(one), expected)
        predictor(many)


def test_several_threads_at_once():
    predictor = Predictor(resnet("resnet8", (16, 16, 3), 4))
    batches = [images(2, 16, seed) for seed in range(16)]
    expected = [predictor.forward.forward(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            for y, e in zip(pool.map(predictor, batches), expected, strict=True):
                assert np.array_equal(y, e)
