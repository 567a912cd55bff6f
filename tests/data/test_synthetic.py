"""The built-in hand signs: deterministic, balanced, countable, and not to be told by a linear classifier."""

import numpy as np
import pytest

from minires.data import load, make_signs
from minires.data.synthetic import _place, _Relief, draw_hand


@pytest.fixture(scope="module")
def signs():
    return make_signs()


@pytest.mark.slow
def test_shapes_classes_and_balance(signs):
    for part, count in zip(signs, (180, 20), strict=True):
        images = part.images(np.arange(len(part)))
        assert images.shape == (6 * count, 64, 64, 3)
        assert images.dtype == np.uint8
        assert part.classes == ("0", "1", "2", "3", "4", "5")
        assert np.bincount(part.labels).tolist() == [count] * 6
        assert part.flip_ok


def test_an_image_depends_on_seed_part_and_number_alone(signs):
    train, test = make_signs(12, 6)
    for part, whole in zip((train, test), signs, strict=True):
        index = np.arange(len(part))
        np.testing.assert_array_equal(part.images(index), whole.images(index))
    other = make_signs(12, 6, seed=1)[0]
    assert (other.images(np.arange(12)) != train.images(np.arange(12))).any(axis=(1, 2, 3)).all()


@pytest.mark.slow  # all 1,200 are drawn
def test_no_image_is_in_both_parts_or_twice(signs):
    seen = {image.tobytes() for part in signs for image in part.images(np.arange(len(part)))}
    assert len(seen) == sum(map(len, signs))


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - that state is what is watched
    make_signs(6, 6)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_other_sizes():
    assert make_signs(6, 6, size=32)[0].shape == (32, 32, 3)


def test_windowed_distances_equal_those_of_the_whole_grid(monkeypatch):
    expected = draw_hand(3, 64, np.random.default_rng(5))
    monkeypatch.setattr("minires.data.synthetic._MARGIN", 100.0)
    np.testing.assert_array_equal(draw_hand(3, 64, np.random.default_rng(5)), expected)


def test_capsule_distance_and_height():
    axis = np.linspace(-1, 1, 101, dtype=np.float32)
    x, y = np.meshgrid(axis, -axis)
    relief = _Relief(x, y)
    relief.add((-0.5, 0, 0.1, 0.2), (0.5, 0, 0.1, 0.2))
    assert relief.distance[50, 50] == pytest.approx(-0.2, abs=1e-6)  # on the axis
    assert relief.height[50, 50] == pytest.approx(0.3, abs=1e-6)
    assert relief.distance[50, 100] == pytest.approx(0.3, abs=1e-6)  # 0.5 beyond the end
    assert relief.height[50, 100] == 0


def test_place_keeps_right_angles_up_to_the_narrowing():
    axis = np.linspace(-1, 1, 11, dtype=np.float32)
    x, y = _place(axis, axis[:, None], 1.3, True, np.random.default_rng(0))
    step = 1.3 * 0.2
    assert np.hypot(*(np.diff(y, axis=k)[0, 0] for k in (0, 1))) == pytest.approx(step, rel=1e-3)
    assert step <= np.hypot(*(np.diff(x, axis=k)[0, 0] for k in (0, 1))) <= step / 0.85 + 1e-3


@pytest.mark.slow  # all 1,200 are drawn
def test_a_linear_classifier_is_above_chance_and_far_from_good(signs):
    def features(part):
        return part.images(np.arange(len(part))).reshape(len(part), -1).astype(np.float32)

    train, test = map(features, signs)
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-3
    train, test = (train - mean) / deviation, (test - mean) / deviation
    kernel, targets = train @ train.T, np.eye(6)[signs[0].labels]
    accuracies = []
    for ridge in (1e2, 1e4, 1e6):
        weights = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), targets - targets.mean(axis=0))
        accuracies.append(np.mean((test @ (train.T @ weights)).argmax(axis=1) == signs[1].labels))
    assert max(accuracies) < 0.6
    assert max(accuracies) > 0.25  # chance is 0.17


def test_load_builtin_is_always_the_same(signs, monkeypatch):
    monkeypatch.setattr("minires.data.synthetic.make_signs", lambda: signs)
    train, test = load("builtin", seed=7, size=32)
    assert (len(train), len(test), train.shape) == (1080, 120, (32, 32, 3))
    assert train.source == "builtin"
