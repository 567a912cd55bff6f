"""Mini-batches: order, resuming, the background thread; and the augmentation."""

import threading
import time

import numpy as np
import pytest
from data_helpers import assert_one_line, random_set
from hypothesis import given, settings
from hypothesis import strategies as st

from minires.data import ArrayDataset, Augment, Batches
from minires.data.augment import affine, warp
from minires.errors import ConfigError, DataError


def run(batches, epoch=0, start=0):
    return [tuple(map(np.copy, batch)) for batch in batches.epoch(epoch, start)]


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minires-batches")]


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_every_image_once_with_its_label(count, batch_size, prefetch):
    data = random_set(count, size=2)
    batches = Batches(data, batch_size, seed=1, prefetch=prefetch)
    seen = run(batches)
    assert len(seen) == len(batches)
    assert [len(index) for *_, index in seen[:-1]] == [batch_size] * (len(seen) - 1)
    assert sorted(i for *_, index in seen for i in index) == list(range(count))
    for images, labels, index in seen:
        np.testing.assert_array_equal(images, data.images(index))
        np.testing.assert_array_equal(labels, data.labels[index])


def test_order_is_that_of_seed_and_epoch():
    data = random_set(50)
    orders = [Batches(data, 8, seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert orders == [Batches(data, 5, seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert Batches(data, 8, shuffle=False).order(3).tolist() == list(range(50))


@pytest.mark.parametrize("prefetch", [0, 1, 2, 9])
def test_same_batches_whatever_the_prefetch_and_start(prefetch):
    data = random_set(30)
    expected = run(Batches(data, 4, seed=5, augment=Augment(), prefetch=0), epoch=2)
    batches = Batches(data, 4, seed=5, augment=Augment(), prefetch=prefetch)
    assert_same(run(batches, epoch=2), expected)
    for start in (3, len(batches)):
        assert_same(run(batches, epoch=2, start=start), expected[start:])


def test_augmentation_does_not_depend_on_the_batch_size():
    data = random_set(30)
    by_index = []
    for batch_size in (1, 7, 30):
        seen = run(Batches(data, batch_size, seed=5, augment=Augment()), epoch=1)
        by_index.append({i: image for images, _, index in seen for i, image in zip(index, images, strict=True)})
    for i in range(30):
        np.testing.assert_array_equal(by_index[0][i], by_index[1][i])
        np.testing.assert_array_equal(by_index[0][i], by_index[2][i])
    again = run(Batches(data, 30, seed=5, augment=Augment()), epoch=2)[0]
    assert all((image != by_index[0][i]).any() for image, i in zip(again[0], again[2], strict=True))


@pytest.mark.parametrize("flip_ok", [True, False])
def test_flip_only_where_classes_survive_it(flip_ok):
    data = random_set(40, flip_ok=flip_ok)
    only_flip = Augment(shift=0, rotate=0, scale=0, brightness=0, flip=True)
    (images, _, index) = run(Batches(data, 40, augment=only_flip))[0]
    plain = data.images(index)
    flipped = (images == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (images == plain).all(axis=(1, 2, 3))
    assert (flipped | kept).all()
    assert 8 < flipped.sum() < 32 if flip_ok else not flipped.any()


class _Watched(ArrayDataset):
    """Counts reads, may fail at one, may take its time."""

    reads, fails_at, delay = 0, None, 0.0

    def images(self, index):
        self.reads += 1
        time.sleep(self.delay)
        if self.reads == self.fails_at:
            raise DataError("photo.jpg: damaged")
        return super().images(index)


def watched(count=40, **attributes):
    data = _Watched(np.zeros((count, 2, 2, 3), np.uint8), np.arange(count) % 2, "ab")
    vars(data).update(attributes)
    return data


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_preparing_is_raised_in_the_loop(prefetch):
    batches = Batches(watched(fails_at=4), 4, prefetch=prefetch)
    taken = 0
    with pytest.raises(DataError, match=r"photo\.jpg"):  # noqa: PT012 - the loop is what raises
        for _ in batches.epoch(0):
            taken += 1
    assert taken == 3
    assert not worker_threads()


def test_no_more_is_prepared_ahead_than_asked_for():
    data = watched()
    loop = Batches(data, 1, prefetch=3).epoch(0)
    for _ in range(5):
        next(loop)
    time.sleep(0.05)
    assert 5 <= data.reads <= 5 + 3
    loop.close()


def test_leaving_early_ends_the_thread():
    for leave in ("break", "raise", "close", "never started"):
        data = watched()
        loop = Batches(data, 2, prefetch=2).epoch(0)
        if leave != "never started":
            next(loop)
            assert worker_threads()
        if leave == "raise":
            with pytest.raises(KeyError):
                loop.throw(KeyError("mine"))
        loop.close()
        assert not worker_threads(), leave
        assert data.reads < 10
    for _ in Batches(watched(), 2).epoch(0):
        break
    assert not worker_threads()


def test_wait_is_measured():
    slow, fast = (Batches(watched(8, delay=delay), 2, prefetch=0) for delay in (0.02, 0.0))
    run(slow), run(fast)
    assert slow.wait_seconds >= 4 * 0.02
    assert fast.wait_seconds < slow.wait_seconds
    ahead = Batches(watched(8, delay=0.02), 2, prefetch=2)
    for _ in ahead.epoch(0):
        time.sleep(0.05)  # the next batch is ready meanwhile
    assert ahead.wait_seconds < slow.wait_seconds


@pytest.mark.parametrize(
    ("options", "word"),
    [({"batch_size": 0}, "batch size"), ({"seed": -1}, "seed"), ({"prefetch": -1}, "prefetch")],
)
def test_arguments(options, word):
    with pytest.raises(DataError) as error:
        Batches(random_set(4), **{"batch_size": 2, **options})
    assert_one_line(error, word, "got")


@pytest.mark.parametrize("field", ["shift", "rotate", "scale", "brightness"])
@pytest.mark.parametrize("value", [-0.1, 181, float("nan")])
def test_augmentation_limits(field, value):
    with pytest.raises(ConfigError) as error:
        Augment(**{field: value})
    assert_one_line(error, field, value)


SHAPES = [(9, 9), (8, 13), (1, 5), (64, 64)]


def pictures(size, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def moved(images, *, angle=0.0, scale=1.0, shift=(0, 0), mirror=False):
    n = len(images)
    matrices = affine(np.full(n, angle), np.full(n, scale), np.tile(shift, (n, 1)), [mirror] * n, images.shape[1:3])
    return warp(images, matrices)


@pytest.mark.parametrize("size", SHAPES)
def test_identity_is_exact(size):
    images = pictures(size)
    np.testing.assert_array_equal(Augment(0, 0, 0, False, 0)(images, [(1, i) for i in range(3)]), images)


@pytest.mark.parametrize("shift", [(2, -3), (-1, 0), (0, 4)])
def test_whole_pixel_shift_is_roll_inside_the_border(shift):
    images = pictures((8, 13))
    inside = tuple(slice(max(s, 0), size + min(s, 0)) for s, size in zip(shift, (8, 13), strict=True))
    expected = np.roll(images, shift, axis=(1, 2))
    np.testing.assert_array_equal(moved(images, shift=shift)[:, *inside], expected[:, *inside])


def test_outside_the_border_pixel_repeats():
    images = pictures((8, 13))
    result = moved(images, shift=(3, 0))
    np.testing.assert_array_equal(result[:, :3], np.repeat(images[:, :1], 3, axis=1))


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
@pytest.mark.parametrize("side", [8, 9, 64])
def test_quarter_turns_are_rot90(turns, side):
    images = pictures((side, side))
    np.testing.assert_array_equal(moved(images, angle=90 * turns), np.rot90(images, turns, axes=(1, 2)))


@pytest.mark.parametrize("size", SHAPES)
def test_mirror_is_reversal(size):
    images = pictures(size)
    np.testing.assert_array_equal(moved(images, mirror=True), images[:, :, ::-1])


def test_mirror_then_turn():
    images = pictures((9, 9))
    expected = np.rot90(images[:, :, ::-1], axes=(1, 2))
    np.testing.assert_array_equal(moved(images, angle=90, mirror=True), expected)


@pytest.mark.parametrize(("shift", "axis"), [((0, -0.5), 2), ((-0.5, 0), 1)])
def test_half_pixel_shift_is_the_mean_of_neighbours(shift, axis):
    images = pictures((9, 9))
    mean = (images.astype(float) + np.roll(images, -1, axis)) / 2
    inside = np.s_[:, :8, :8]
    np.testing.assert_array_equal(moved(images, shift=shift)[inside], np.rint(mean)[inside])


def test_scale_is_the_size_of_what_is_seen():
    images = np.zeros((1, 41, 41, 3), np.uint8)
    images[:, 15:26, 15:26] = 255  # a square of 11 pixels
    area = (moved(images, scale=2.0) > 127)[0, :, :, 0].sum()
    assert area == pytest.approx(22**2, rel=0.1)


def test_brightness_multiplies_and_saturates():
    images = pictures((4, 4), count=2)
    still = affine(np.zeros(2), np.ones(2), np.zeros((2, 2)), [False] * 2, (4, 4))
    result = warp(images, still, gain=np.array([0.5, 1.5]))
    factors = np.array([0.5, 1.5])[:, None, None, None]
    np.testing.assert_array_equal(result, np.rint(np.minimum(images * factors, 255)))


def test_draws_fill_their_limits():
    """Brightness of a flat image shows the draw: uniform between -limit and +limit."""
    images = np.full((400, 1, 1, 3), 100, np.uint8)
    levels = Augment(0.1, 15, 0.1, False, 0.5)(images, [(9, i) for i in range(400)])[:, 0, 0, 0]
    assert (levels.min(), levels.max()) == (pytest.approx(50, abs=2), pytest.approx(150, abs=2))
    assert levels.mean() == pytest.approx(100, abs=5)


def test_every_draw_fills_its_limits_to_both_sides():
    """Shifts are shares of the side they go along; sizes lie around 1."""
    height, width, keys = 20, 200, [(9, i) for i in range(400)]
    shifts = Augment(0.1, 0, 0, False, 0).draw(keys, (height, width))[0][:, :, 2]
    for offsets, most in zip(shifts.T, (0.1 * height, 0.1 * width), strict=True):
        assert (offsets.min(), offsets.max()) == (pytest.approx(-most, rel=0.05), pytest.approx(most, rel=0.05))
        assert offsets.mean() == pytest.approx(0, abs=0.1 * most)
    turned = Augment(0, 30, 0.2, False, 0).draw(keys, (height, width))[0][:, :, :2]
    sizes, angles = np.linalg.det(turned) ** -0.5, np.rad2deg(np.arctan2(turned[:, 0, 1], turned[:, 0, 0]))
    for values, middle, most in ((sizes, 1, 0.2), (angles, 0, 30)):
        assert values.min() == pytest.approx(middle - most, rel=0.05)
        assert values.max() == pytest.approx(middle + most, rel=0.05)
        assert values.mean() == pytest.approx(middle, abs=0.1 * most)


def test_an_image_depends_on_its_key_alone():
    images = pictures((9, 9), count=5)
    keys = [(0, 1, i) for i in range(5)]
    together = Augment()(images, keys)
    for i in range(5):
        np.testing.assert_array_equal(Augment()(images[i : i + 1], keys[i : i + 1])[0], together[i])
