"""Feeds that are streamed: the steps of a feed in memory, bit for bit, and nothing is read too early or too late."""

import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.distributed.ranks import Ranks
from gpubp.errors import StateError
from gpubp.kernels.control import Control
from gpubp.nn import feeds
from gpubp.nn.examples import Examples
from gpubp.nn.network import Network
from gpubp.nn.trainer import Trainer

RNG = np.random.default_rng(1)
ROWS, STEP = 50, 4
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
Y = RNG.integers(0, 2, ROWS)
WEIGHTS = RNG.integers(0, 3, ROWS).astype(np.float32)
ORDER = RNG.permutation(ROWS)


def examples(read=X.__getitem__):
    return Examples(ROWS, 3, read)


def trainer(backend="numpy"):
    return Trainer(Network([3, 5, 2], backend=backend, seed=4), {"name": "adam", "learning_rate": 0.05})


@pytest.fixture(params=[1, 3])
def windows(request, monkeypatch):
    """Windows of one batch, or of three."""
    monkeypatch.setattr(feeds, "WINDOW_BYTES", request.param * STEP * X[0].nbytes)
    monkeypatch.setattr(feeds, "LEAST_WINDOWS", 1)
    return request.param * STEP


def steps(of, feed, starts=range(0, ROWS, STEP)):
    for start in starts:
        of.step_rows(feed, start, min(STEP, ROWS - start))
    return of.state()


def require_same(found, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_steps_are_those_of_a_feed_in_memory(windows, weights):
    streamed, whole = trainer(), trainer()
    feed, other = streamed.streamed_feed(examples(), Y, STEP, weights), whole.feed(X, Y, weights)
    assert feed.window == windows
    for order in (ORDER, ORDER[::-1]):
        for each in (feed, other):
            each.visit(order)
        require_same(steps(streamed, feed), steps(whole, other))
        assert feed.weight(3, 9) == other.weight(3, 9)


@pytest.mark.usefixtures("windows")
def test_steps_may_begin_anywhere_and_go_back():
    streamed, whole = trainer(), trainer()
    feed, other = streamed.streamed_feed(examples(), Y, STEP), whole.feed(X, Y)
    for each in (feed, other):
        each.visit(ORDER)
    starts = (20, 24, 28, 0, 4, 48, 16, 16, 44, 48)
    require_same(steps(streamed, feed, starts), steps(whole, other, starts))


@pytest.mark.usefixtures("windows")
def test_a_new_order_holds_from_the_next_step_on():
    streamed, whole = trainer(), trainer()
    feed, other = streamed.streamed_feed(examples(), Y, STEP), whole.feed(X, Y)
    for order in (ORDER, ORDER[::-1], np.arange(ROWS)):
        for each in (feed, other):
            each.visit(order)
        require_same(steps(streamed, feed, [8]), steps(whole, other, [8]))


@pytest.mark.usefixtures("windows")
def test_a_window_is_read_while_the_one_before_is_computed():
    read, began, go_on = [], threading.Event(), threading.Event()

    def late(rows):
        if read:  # the second window: only once the steps on the first have been made
            began.set()
            assert go_on.wait(10)
        read.append(threading.current_thread())
        return X[rows]

    streamed = trainer()
    feed = streamed.streamed_feed(examples(late), Y, STEP)
    feed.visit(ORDER)
    steps(streamed, feed, range(0, feed.window, STEP))
    assert began.wait(10)
    go_on.set()
    steps(streamed, feed, range(feed.window, 2 * feed.window, STEP))
    assert threading.main_thread() not in read


@pytest.mark.usefixtures("windows")
def test_what_reading_raises_comes_out_at_the_step_that_needs_it_and_can_be_tried_again():
    faults = []

    def read(rows):
        if 7 in rows and faults:
            raise faults.pop()
        return X[rows]

    streamed, whole = trainer(), trainer()
    feed, other = streamed.streamed_feed(examples(read), Y, STEP), whole.feed(X, Y)
    order = np.roll(np.arange(ROWS), 20)  # row 7 is at place 27
    for each in (feed, other):
        each.visit(order)
    faults.append(OSError("the disk is gone"))
    first = 27 // feed.window * feed.window
    steps(streamed, feed, range(0, first, STEP))
    before = streamed.state()
    with pytest.raises(OSError, match="the disk is gone"):
        streamed.step_rows(feed, first, STEP)
    require_same(streamed.state(), before)
    steps(whole, other, range(0, first, STEP))
    require_same(steps(streamed, feed, range(first, ROWS, STEP)), steps(whole, other, range(first, ROWS, STEP)))


def test_a_batch_of_more_rows_than_there_are_takes_no_more_memory():
    streamed, whole = trainer(), trainer()
    feed, other = streamed.streamed_feed(examples(), Y, 10**15), whole.feed(X, Y)
    assert feed.window == len(feed.x) == ROWS
    for order in (ORDER, ORDER[::-1]):
        for of, each in ((streamed, feed), (whole, other)):
            each.visit(order)
            of.step_rows(each, 0, ROWS)
    require_same(streamed.state(), whole.state())


def test_examples_are_checked_when_they_are_read():
    bad = X.copy()
    bad[ORDER[2], 1] = np.nan
    streamed = trainer()
    feed = streamed.streamed_feed(examples(bad.__getitem__), Y, STEP)
    feed.visit(ORDER)
    with pytest.raises(StateError, match=r"x holds NaN or infinity"):
        streamed.step_rows(feed, 0, STEP)


@pytest.mark.usefixtures("windows")
def test_a_step_over_the_end_of_a_window_is_refused():
    streamed = trainer()
    feed = streamed.streamed_feed(examples(), Y, STEP)
    with pytest.raises(StateError, match=r"rows go from .* it must be whole batches of 4"):
        streamed.step_rows(feed, feed.window - 1, STEP)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (Examples(ROWS, 4, X.__getitem__), Y, "x has shape"),
        (examples(), Y[1:], "y has 49 rows"),
        (examples(), Y + 1, "labels from 1 to 2"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(x, y, message):
    with pytest.raises(StateError, match=message):
        trainer().streamed_feed(x, y, STEP)


def test_examples_are_a_view_of_what_makes_them():
    found = examples().between(10, 30).then(lambda some: 2 * some)
    assert (len(found), found.shape) == (20, (20, 3))
    np.testing.assert_array_equal(found[3:5], 2 * X[13:15])
    np.testing.assert_array_equal(found[np.array([19, 0])], 2 * X[[29, 10]])
    np.testing.assert_array_equal(found[15:99], 2 * X[25:30])


def of_rank(number, read=X.__getitem__):
    """The feed of one of three ranks, in batches of six."""
    ranks = Ranks(SimpleNamespace(rank=number, size=3))
    network = trainer().network
    feed = feeds.StreamedFeed(network, network.batches.checked_examples(examples(read)), Y, None, 6, ranks)
    feed.visit(ORDER)
    return feed


def test_a_rank_reads_its_own_share(monkeypatch):
    monkeypatch.setattr(feeds, "LEAST_WINDOWS", 4)
    read = []
    feed = of_rank(1, lambda rows: read.append(rows.tolist()) or X[rows])
    assert feed.window == 12
    offset = feed.placed(48, 2)  # of two rows, the second of three ranks has the first
    np.testing.assert_array_equal(feed.x[offset], X[ORDER[48]])
    offset = feed.placed(6, 6)
    np.testing.assert_array_equal(feed.x[offset + 2 : offset + 4], X[ORDER[8:10]])
    assert read[:2] == [ORDER[[48]].tolist(), ORDER[[2, 3, 8, 9]].tolist()]


def test_a_rank_may_have_no_row_of_a_window():
    feed = of_rank(0)
    assert feed.window == 6
    assert feed.placed(48, 2) == 0


class LateCopies(NumpyBackend):
    """A backend whose copies take place as late as its marks allow, and that notes what its steps still read."""

    def __init__(self):
        super().__init__()
        self.waiting, self.reads = [], 0
        self.last_read = {}

    def mark(self):
        return _Mark(self, self.reads)

    def upload_beside(self, pairs, after):
        for _, out in pairs:
            reading = max((n for place, n in self.last_read.items() if place in _places(out)), default=0)
            assert after.reads >= reading, "a copy may come before the steps that read what it replaces"
        self.waiting.append(pairs)
        return _Mark(self, self.reads, len(self.waiting))

    def wait_for(self, mark):
        mark.synchronize()

    def gather_rows(self, sources, order, control, out):
        self.reads += 1
        first = int(control[Control.BATCH_OFFSET])
        self.last_read |= {sources[0][order[first + i]].ctypes.data: self.reads for i in range(len(out[0]))}
        super().gather_rows(sources, order, control, out)


class _Mark:
    def __init__(self, backend, reads, copies=0):
        self.backend, self.reads, self.copies = backend, reads, copies

    def synchronize(self):
        for position, pairs in enumerate(self.backend.waiting[: self.copies]):
            for host, out in pairs:
                out[...] = host
            self.backend.waiting[position] = []


def _places(out):
    return range(out.ctypes.data, out.ctypes.data + out.nbytes)


@pytest.mark.usefixtures("windows")
def test_no_copy_comes_too_early_or_too_late():
    streamed, whole = trainer(LateCopies()), trainer()
    feed, other = streamed.streamed_feed(examples(), Y, STEP, WEIGHTS), whole.feed(X, Y, WEIGHTS)
    for order in (ORDER, ORDER[::-1]):
        for each in (feed, other):
            each.visit(order)
        require_same(steps(streamed, feed), steps(whole, other))


class NotesWaits(NumpyBackend):
    """A backend that notes which copies the host has waited for."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def upload_beside(self, pairs, after):
        super().upload_beside(pairs, after)
        self.copies.append(SimpleNamespace(is_over=False))
        return SimpleNamespace(synchronize=partial(setattr, self.copies[-1], "is_over", True))


@pytest.mark.usefixtures("windows")
def test_nothing_is_read_into_memory_that_is_still_being_copied():
    backend, read = NotesWaits(), []

    def checked(rows):
        read.append([copy.is_over for copy in backend.copies[: max(0, len(read) - 1)]])
        return X[rows]

    streamed = trainer(backend)
    feed = streamed.streamed_feed(examples(checked), Y, STEP)
    feed.visit(ORDER)
    steps(streamed, feed)
    assert len(read) == -(-ROWS // feed.window)
    assert all(map(all, read))
