"""Images that lie packed: each piece decoded once an epoch, in little memory, in an order as good as any."""

import threading

import h5py
import numpy as np
import pytest
from data_helpers import assert_one_line, random_set

from minires import Recipe, fit, resnet, resume
from minires.data import Batches, Dataset, Subset, load_signs, packed, write_signs
from minires.data.dataset import Renumbered, Resized, chunks
from minires.data.packed import Layout, Packed
from minires.data.signs import SignsDataset
from minires.errors import CheckpointError, DataError
from minires.fast.communicator import speaking_through
from minires.train import Classifier

PIECE, COUNT = 16, 4091  # images a piece; the last one holds eleven
IMAGE = 2 * 2 * 3
STARTS = np.arange(0, COUNT, PIECE)


class InPieces(Dataset):
    """Sorted by class; pieces in memory that count how often they are decoded. keep: how many have room."""

    def __init__(self, keep=80):
        self.stored = random_set(COUNT, size=2).images(np.arange(COUNT))
        self.labels, self.classes = np.sort(np.arange(COUNT) % 8), tuple("abcdefgh")
        self.shape, self.source, self.flip_ok = (2, 2, 3), "pieces", False
        self.counts = np.zeros(len(STARTS), int)
        self.packed = Packed(STARTS, self.stored.shape, self.read, "pieces", keep * PIECE * IMAGE)
        self.layout = self.packed.layout()

    def read(self, numbers):
        for number in numbers:
            self.counts[number] += 1
            yield self.stored[STARTS[number] :][:PIECE]

    def images(self, index):
        return self.packed[index]


@pytest.mark.parametrize("batch", [7, 32, 64])
def test_each_image_comes_once_and_each_piece_is_decoded_once_an_epoch(batch):
    data = InPieces()
    batches, seen = Batches(data, batch, seed=3, prefetch=0), []
    for images, labels, index in batches.epoch(1):
        np.testing.assert_array_equal(images, data.stored[index])
        np.testing.assert_array_equal(labels, data.labels[index])
        seen += index.tolist()
        assert len(data.packed._pieces) <= data.packed.keep == 80
    assert sorted(seen) == list(range(COUNT))
    assert (data.counts == 1).all()


def test_a_random_order_would_decode_each_piece_many_times():
    data = InPieces()
    for part in np.array_split(np.random.default_rng(0).permutation(COUNT), 64):
        data.images(part)
    assert data.counts.mean() > 5


def test_the_order_is_that_of_seed_and_epoch_whatever_the_batch():
    orders = [Batches(InPieces(), 8, seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert orders == [Batches(InPieces(), 500, seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert Batches(InPieces(), 8, shuffle=False).order(3).tolist() == list(range(COUNT))


@pytest.mark.parametrize("keep", [len(STARTS) * 5 // 4 + 1, 10**6])
def test_what_has_room_comes_in_any_order_as_ever(keep):
    order = Batches(InPieces(keep), 8, seed=4).order(2)
    np.testing.assert_array_equal(order, np.random.default_rng([4, 2]).permutation(COUNT))


def spread(order, labels, batch=32):
    """The variance of the classes' counts in batches, over that of batches drawn from all: 1 for a good order."""
    whole = labels[order][: COUNT // batch * batch].reshape(-1, batch)
    counts = np.stack([(whole == c).sum(axis=1) for c in range(8)])
    return counts.var() / (batch * (1 / 8) * (7 / 8))


def test_batches_are_mixed_though_the_file_is_sorted_by_class():
    """A batch's classes scatter as if drawn from all images but for what little the pieces add."""
    data = InPieces()
    every = np.mean([spread(Batches(data, 32, seed=s).order(0), data.labels) for s in range(20)])
    free = np.mean([spread(np.random.default_rng(s).permutation(COUNT), data.labels) for s in range(20)])
    by_piece = np.random.default_rng(0).permutation(len(STARTS))[data.layout.piece]
    assert free == pytest.approx(1, abs=0.1)
    assert every < 1.5
    assert spread(np.argsort(by_piece, kind="stable"), data.labels) > 4  # shuffled by the piece alone


def test_neighbours_of_one_epoch_are_none_in_the_next():
    batches = Batches(InPieces(), 32, seed=5)
    place = np.argsort(batches.order(1))
    gaps = np.abs(np.diff(place[batches.order(0)]))
    assert np.median(gaps) > COUNT / 8
    within = np.abs(np.diff(batches.order(0)))
    assert (within < PIECE).mean() < 0.1


def test_reading_comes_in_no_bursts():
    data, needed = InPieces(), []
    for _ in Batches(data, 16, prefetch=0).epoch(0):
        needed.append(data.counts.sum())
    each = np.diff(needed)
    assert each.mean() == pytest.approx(16 / PIECE, rel=0.1)
    assert each.max() <= 8 * 16 / PIECE


@pytest.mark.parametrize("start", [1, 20, 63])
def test_resumed_at_any_batch_with_the_pieces_of_its_window(start):
    """All pieces of the window are decoded at once then, and some again, since they go in that order."""
    options = {"seed": 5, "prefetch": 0}
    expected = [tuple(map(np.copy, batch)) for batch in Batches(InPieces(), 32, **options).epoch(2)]
    data = InPieces()
    batches = Batches(data, 32, **options)
    for one, other in zip(batches.epoch(2, start), expected[start:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    left = -(-(COUNT - 32 * start) // PIECE)
    assert data.counts.sum() <= left + 1.5 * data.layout.window


class Rank:
    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def abort(self, error):
        raise error


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_read_their_shares_of_the_same_batches_and_few_pieces_twice(size):
    alone = [tuple(map(np.copy, batch)) for batch in Batches(InPieces(), 128, prefetch=0).epoch(0)]
    shares, counts = [], np.zeros(len(STARTS), int)
    for rank in range(size):
        data = InPieces()
        with speaking_through(Rank(rank, size)):
            shares.append([tuple(map(np.copy, batch)) for batch in Batches(data, 128, prefetch=0).epoch(0)])
        assert (data.counts <= 1).all()
        counts += data.counts
    for whole, *parts in zip(alone, *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole[0])
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), whole[1])
        assert all((part[2] == whole[2]).all() for part in parts)
    assert counts.mean() < 1.6  # each rank by itself would need nearly all: `size`


def test_a_pass_in_order_decodes_each_piece_once_and_keeps_the_last_alone():
    data = InPieces()
    for size in (5, 256):
        data.counts[:] = 0
        for index in chunks(COUNT, size):
            np.testing.assert_array_equal(data.images(index), data.stored[index])
        assert (data.counts == 1).all()
        assert not data.packed._pieces


def test_a_set_with_room_is_decoded_once_for_all():
    data = InPieces(keep=len(STARTS))
    for epoch in range(2):
        for _ in Batches(data, 32, prefetch=0).epoch(epoch):
            pass
        data.fingerprint()
    assert (data.counts == 1).all()


def test_a_large_request_needs_no_more_room():
    data = InPieces(keep=3)
    index = np.random.default_rng(0).integers(0, COUNT, 3000)
    np.testing.assert_array_equal(data.images(index), data.stored[index])
    assert len(data.packed._pieces) <= 3
    assert (data.counts == 1).all()


def test_several_threads():
    data, wrong = InPieces(keep=5), []

    def read(seed):
        for index in np.random.default_rng(seed).integers(0, COUNT, (30, 9)):
            if not np.array_equal(data.images(index), data.stored[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("position", [-1, COUNT])
def test_a_position_that_there_is_not(position):
    with pytest.raises(DataError) as error:
        InPieces().images(np.array([0, position]))
    assert_one_line(error, "pieces", "no image at position", "4,091")


def test_the_layout_is_that_of_the_images_that_are_left():
    data = InPieces()
    few = Subset(data, np.arange(3, COUNT, 4))
    assert few.layout.piece.tolist() == (np.arange(3, COUNT, 4) // PIECE).tolist()
    assert Subset(data, np.arange(COUNT - 20, COUNT)).layout.piece.max() == 1
    assert not Subset(data, np.arange(100)).layout.matters
    for other in (Resized(data, (4, 4)), Renumbered(data, tuple("hgfedcba"))):
        assert other.layout is data.layout
    assert Packed(np.arange(5), (5, 2, 2, 3), data.read, "one by one").layout() is None
    assert Layout(np.zeros(0, np.int32), 4).matters is False


# --- of HDF5 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_cache(monkeypatch):
    """So little room that a few hundred tiny images are too many."""
    monkeypatch.setattr(packed, "CACHE", 12 * 10 * 8 * 8 * 3)


@pytest.fixture
def file(tmp_path, small_cache):
    """(a file in chunks of ten images, what it holds)."""
    whole, path = random_set(397), tmp_path / "train_signs.h5"
    with h5py.File(path, "w") as made:
        options = {"compression": "gzip", "chunks": (10, 8, 4, 3)}
        made.create_dataset("train_set_x", data=whole.images(np.arange(397)), **options)
        made["train_set_y"], made["list_classes"] = whole.labels, np.array([b"a", b"b", b"c"])
    return path, whole


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_file_larger_than_the_cache(file, prefetch):
    train, _ = load_signs(file[0])
    assert train.layout.matters
    for epoch in range(2):
        before = train._rows.decoded
        for images, labels, index in Batches(train, 16, prefetch=prefetch).epoch(epoch):
            np.testing.assert_array_equal(images, file[1].images(index))
            np.testing.assert_array_equal(labels, file[1].labels[index])
        assert 28 <= train._rows.decoded - before <= 40  # a few are there since the epoch before
    assert train.fingerprint() == file[1].fingerprint()


def test_a_file_that_changes_meanwhile_is_named(file):
    train, _ = load_signs(file[0])
    train.images(np.array([0]))
    with h5py.File(file[0], "r+") as made:
        del made["train_set_x"]
        made["train_set_x"] = np.zeros((10, 8, 8, 3), np.uint8)
    with pytest.raises(DataError) as error:
        train.images(np.array([200]))
    assert_one_line(error, file[0], "changed since")
    file[0].write_bytes(b"no longer")
    with pytest.raises(DataError) as error:
        train.images(np.array([200]))
    assert_one_line(error, file[0], "a SIGNS data file")


def test_several_files_are_one_set(tmp_path, small_cache):
    whole = random_set(500)
    paths = [tmp_path / f"{i}.h5" for i in range(3)]
    for path, part, way in zip(paths, np.array_split(np.arange(500), 3), ("gzip", "none", "lzf"), strict=True):
        write_signs(path, Subset(whole, part), compression=way)
    joined = SignsDataset(paths, "train")
    assert joined.fingerprint() == whole.fingerprint()
    index = np.random.default_rng(0).integers(0, 500, 90)
    np.testing.assert_array_equal(joined.images(index), whole.images(index))
    plain = SignsDataset(paths[1:2] * 2, "train")  # where nothing is packed, all is read where it lies
    assert plain.layout is None
    np.testing.assert_array_equal(plain.images(np.array([0, 167, 333])), whole.images(np.array([167, 167, 333])))


def test_a_run_does_not_go_on_with_data_packed_in_another_way(file, tmp_path):
    """The fingerprint is the same, the order is not: a resumed run would see some images twice."""
    train, _ = load_signs(file[0])
    classifier = Classifier.for_data(resnet("resnet8", (8, 8, 3), 3, widths=(2, 2, 2)), train)
    fit(classifier, train, None, Recipe(epochs=1, batch_size=128), out=tmp_path / "run", check=False)
    with pytest.raises(CheckpointError) as error:
        resume(tmp_path / "run", file[1], epochs=2)
    assert_one_line(error, "packed in another way")
    assert resume(tmp_path / "run", train, epochs=2, check=False)[1].epoch == 2
