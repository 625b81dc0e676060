"""What a training step launches, and that its launches are the same ones each time."""

import gc
import weakref
from itertools import product

import numpy as np
import pytest
from devices import DEVICE

from gpubp import Network, Trainer, backends
from gpubp.nn import optimizers

SGD = [
    *("gather_rows", "dense_forward", "dense_forward", "output_delta_softmax_cross_entropy", "hidden_delta"),
    *("layer_step", "layer_step"),
]
ADAM = [*SGD[:5], "layer_gradient", "layer_gradient", "update"]
CLIPPED = [*ADAM[:7], "prepare_update", "update"]
BACKENDS = ("cupy", "numba")
QUICK_TO_COMPILE = {"cupy": None, "numba": "naive"}
"""The variant of products where kernels run and any of them will do."""


def trainer_on(backend, sizes, optimizer="sgd", rows=20, weighted=False, variant=None, **options):
    device = None if backend == "numpy" else DEVICE
    net = Network(sizes, hidden_activation="tanh", backend=backend, device=device, **options)
    if variant is not None:
        net.backend.variant = variant
    trainer, rng = Trainer(net, optimizer), np.random.default_rng(0)
    weights = rng.random(rows) if weighted else None
    return trainer, trainer.feed(rng.normal(size=(rows, sizes[0])), rng.integers(0, sizes[-1], rows), weights)


# --- how many ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"weighted": True}, {"dropout": 0.2}], ids=str)
@pytest.mark.parametrize(
    ("optimizer", "expected"), [("sgd", SGD), ("adam", ADAM), ({"name": "adam", "clip_norm": 1.0}, CLIPPED)]
)
def test_a_step_of_two_layers_is_a_few_launches(backend, optimizer, expected, options):
    """Parts of a product that is split come besides."""
    trainer, feed = trainer_on(backend, (784, 128, 10), optimizer, rows=64, **options)
    seen = []
    trainer.network.backend._launch = seen.append
    trainer.step_rows(feed, 0, 64)
    if "dropout" in options:
        expected = ADAM if expected == SGD else expected  # a step that drops units is not folded
        expected = [f"{name}_dropout" if name in ("dense_forward", "hidden_delta") else name for name in expected]
    assert [launch.kernel for launch in seen if launch.kernel != "partial_product"] == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_bias_nothing_goes_beside(backend):
    for optimizer, kernel in (("sgd", "weight_step"), ("adam", "weight_gradient")):
        trainer, feed = trainer_on(backend, (30, 20, 10), optimizer, bias=False)
        seen = []
        trainer.network.backend._launch = seen.append
        trainer.step_rows(feed, 0, 20)
        assert [launch.kernel for launch in seen].count(kernel) == 2


# --- the record of a step ---------------------------------------------------------------------------------------------
class Counted:
    """Counts how often a backend records."""

    def __init__(self, monkeypatch, backend):
        self.times, run = 0, backend._run_noted

        def counted(work):
            self.times += 1
            return run(work)

        monkeypatch.setattr(backend, "_run_noted", counted)


@pytest.mark.parametrize(
    ("backend", "options"),
    [("cupy", {"weighted": True}), ("cupy", {"dropout": 0.5}), ("cupy", {"bias": False}), ("numba", {})],
    ids=str,
)
def test_a_recorded_step_is_the_step(monkeypatch, backend, options):
    schedule = {"name": "adam", "schedule": {"name": "exponential", "decay": 0.5}, "clip_norm": 0.1}
    options = options | {"variant": QUICK_TO_COMPILE[backend]}
    recorded, feed = trainer_on(backend, (5, 4, 3), schedule, **options)
    anew, other = trainer_on(backend, (5, 4, 3), schedule, **options)
    count = Counted(monkeypatch, recorded.network.backend)
    order = np.random.default_rng(1).permutation(20)
    for start, rows in [(0, 8), (8, 8), (16, 4)] * 2:
        feed.visit(order)
        other.visit(order)
        other._recorded.clear()
        recorded.step_rows(feed, start, rows)
        anew.step_rows(other, start, rows)
        order = order[::-1]
    assert count.times == 2  # of 8 rows and of 4
    for name, values in anew.state().items():
        np.testing.assert_array_equal(recorded.state()[name], values, err_msg=name)


@pytest.mark.parametrize("backend", ["cupy"])
def test_what_a_step_is_decided_by_makes_it_recorded_anew(monkeypatch, backend):
    trainer, feed = trainer_on(backend, (5, 4, 3))
    used = trainer.network.backend
    count = Counted(monkeypatch, used)

    def records():
        before = count.times
        for start in (0, 4):
            trainer.step_rows(feed, start, 4)
        return count.times - before

    assert records() == 1
    assert records() == 0
    trainer.optimizer = optimizers.get({"name": "sgd", "weight_decay": 0.1})
    assert records() == 1
    trainer.at_once = 3
    assert records() == 1
    trainer.at_once = None
    assert records() == 1
    used.variant = "naive"
    assert records() == 1
    used.release_workspace()  # a failed launch puts right what the backend knows of alone
    assert records() == 1
    Trainer(trainer.network).step_rows(feed, 0, 4)  # a trainer of its own
    assert records() == 1
    trainer.step_rows(feed, 0, 20)  # a larger batch: new arrays
    assert records() == 1
    assert records() == 0


def test_a_record_goes_with_its_feed():
    trainer, feed = trainer_on("numpy", (5, 4, 3))
    trainer.step_rows(feed, 0, 4)
    gone = weakref.ref(feed)
    del feed
    gc.collect()
    assert gone() is None


def test_a_record_that_fails_is_none(monkeypatch):
    """What was wrong is said again at the next step, and the backend no longer notes launches."""
    trainer, feed = trainer_on("cupy", (5, 4, 3))
    used = trainer.network.backend
    used.variant = "no such"
    for _ in range(2):
        with pytest.raises(Exception, match="no such"):
            trainer.step_rows(feed, 0, 4)
        assert used._noted is None
    used.variant = None
    trainer.step_rows(feed, 0, 4)
    assert np.isfinite(trainer.last_loss())


def test_numpy_records_the_work_itself():
    calls = []
    again = backends.get("numpy").record(lambda: calls.append(1))
    again()
    assert len(calls) == 2


# --- a launch that is interrupted -------------------------------------------------------------------------------------
class Interrupted:
    """Is called as a launch, or launched as a graph, of which some blocks arrive before a Ctrl-C ends it."""

    def __init__(self, backend):
        self.backend = backend

    def __call__(self):
        for space in (self.backend._workspace, self.backend._beside):
            for each in space.all_counters:
                self.backend.upload(np.ones(each.shape, "uint32"), each)
        assert self.backend.counts_arrivals()
        raise KeyboardInterrupt

    def launch(self, stream):
        self()


@pytest.mark.parametrize(("how", "backend"), [*product(["made", "recorded"], BACKENDS), ("captured", "cupy")])
def test_an_interrupted_launch_leaves_no_count_of_arrivals(backend, how):
    """Blocks that had arrived must not count for the next step: none would come last."""
    settings = {"rows": 64, "variant": QUICK_TO_COMPILE[backend]}
    trainer, feed = trainer_on(backend, (40, 36, 10), {"name": "adam", "clip_norm": 1.0}, **settings)
    used, before = trainer.network.backend, trainer.state()
    trainer.step_rows(feed, 0, 64)
    expected = trainer.state()
    interrupted = Interrupted(used)
    if how == "made":
        used._bound, bound = lambda launch: interrupted, used._bound
        with pytest.raises(KeyboardInterrupt):
            trainer.step(np.ones((3, 40)), [0, 1, 2])
        used._bound = bound
    elif how == "recorded":
        again = used.record(lambda: None)
        again.__closure__[again.__code__.co_freevars.index("launches")].cell_contents.append(interrupted)
        with pytest.raises(KeyboardInterrupt):
            again()
    else:
        replay = trainer.capture(feed, 64).replay
        with pytest.raises(KeyboardInterrupt):
            replay.func(interrupted, *replay.args[1:])
    assert not used.counts_arrivals()
    trainer.restore(before)
    trainer.step_rows(feed, 0, 64)
    for name, values in expected.items():
        np.testing.assert_array_equal(trainer.state()[name], values, err_msg=name)
