"""Runs that read their inputs while they train: the bits of runs in memory, however they are stopped and resumed."""

import os
import signal
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import trainings
from devices import DEVICE

from gpubp import backends
from gpubp.data import npz
from gpubp.data.loading import load
from gpubp.data.rows import Rows
from gpubp.distributed.ranks import ALONE
from gpubp.errors import CheckpointError, DataError
from gpubp.nn import feeds, model_file
from gpubp.nn.feeds import StreamedFeed
from gpubp.nn.network import Network
from gpubp.training import order, streaming
from gpubp.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Interrupted, Listener, Run, fit
from gpubp.training.order import BLOCKS, WHOLE, epoch_order

CONFIG = TrainingConfig(epochs=3, batch_size=16, validation=0.2, patience=2)


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A folder with x.npy and y.npy, which are mapped."""
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", x)
    np.save(tmp_path / "data" / "y.npy", (x[:, 0] > x[:, 1]).astype(np.int64))
    return tmp_path / "data"


@pytest.fixture
def few_rows_are_many(monkeypatch):
    """Visit rows in blocks of four, of which two are shuffled at once, and windows of three batches."""
    monkeypatch.setattr(order, "SHUFFLED_AT_ONCE", 8)
    monkeypatch.setattr(order, "BLOCK", 4)
    monkeypatch.setattr(feeds, "WINDOW_BYTES", 3 * 16 * 6 * 4)
    monkeypatch.setattr(feeds, "LEAST_WINDOWS", 2)


def network(backend="numpy"):
    return Network([6, 5, 2], backend=backend, seed=1)


def require_same(found, expected):
    assert found.history == expected.history
    for name, array in expected.model.network.weights().items():
        np.testing.assert_array_equal(found.model.network.weights()[name], array, err_msg=name)


@pytest.mark.parametrize("case", trainings.CASES)
def test_every_kind_of_training_is_the_same_to_the_bit(case):
    made = backends.get("numpy")
    found, expected = (trainings.train(name, ALONE, made, "float32") for name in (f"streamed {case}", case))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    "backend", ["cpu", pytest.param("cupy", marks=pytest.mark.slow), pytest.param("numba", marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("few_rows_are_many")
def test_every_backend_streams_the_bits_that_it_has_in_memory(mapped, backend):
    data, config = load(mapped), replace(CONFIG, epochs=2)
    made = backends.get(backend, None if backend == "cpu" else DEVICE)
    results = [fit(network(made), data, config, stream=stream) for stream in (True, False)]
    require_same(*results)


@pytest.mark.usefixtures("few_rows_are_many")
@pytest.mark.parametrize("at", [1, 5, 12, 14, 30])
def test_a_run_that_is_stopped_anywhere_is_resumed_with_or_without_streaming(mapped, tmp_path, at):
    class Stops(Listener):
        def batch(self, run):
            if run.epoch * run.batches + run.batch == at:
                os.kill(os.getpid(), signal.SIGINT)

    data, expected = load(mapped), fit(network(), load(mapped), CONFIG, stream=False)
    for number, (first, then) in enumerate([(True, True), (True, False), (False, True)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(Interrupted):
            fit(network(), data, CONFIG, folder=folder, listener=Stops(), stream=first)
        require_same(fit(network(), data, CONFIG, folder=folder, resume=True, stream=then), expected)


@pytest.mark.slow
def test_the_inputs_are_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(feeds, "WINDOW_BYTES", 2**20)
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    rows, features = 160_000, 128
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, features))
    x[:] = np.random.default_rng(0).random((1000, features), np.float32).repeat(rows // 1000, axis=0)
    x.flush()
    np.save(tmp_path / "y.npy", np.arange(rows) % 2)
    network_of = Network([features, 4, 2], backend="numpy")
    tracemalloc.start()
    try:
        data = load(tmp_path)
        assert isinstance(data.x_train, Rows)
        fit(network_of, data, TrainingConfig(epochs=1, batch_size=2048, validation=0.1), stream=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{peak / x.nbytes:.2f} of the inputs' bytes")
    assert peak < 0.5 * x.nbytes  # mostly targets and row numbers; all scaled inputs would be 1 and more


# --- a file that changes ----------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("few_rows_are_many")
@pytest.mark.parametrize("change", ["touched", "cut off", "gone"])
def test_a_file_that_changes_stops_a_run_which_can_be_resumed(mapped, tmp_path, change):
    path, kept = mapped / "x.npy", tmp_path / "kept.npy"
    (tmp_path / "run").mkdir()

    class Changes(Listener):
        def batch(self, run):
            if (run.epoch, run.batch) == (1, 2):
                os.link(path, kept)
                path.unlink()
                if change != "gone":
                    path.write_bytes(kept.read_bytes()[: 300 if change == "cut off" else None])

    expected = fit(network(), load(mapped), CONFIG)
    with pytest.raises(DataError, match=r"x\.npy: it changed .*\. The run is saved after epoch 1, batch [3-9]: with"):
        fit(network(), load(mapped), CONFIG, folder=tmp_path / "run", listener=Changes(), stream=True)
    os.replace(kept, path)
    assert Checkpoint.read(tmp_path / "run").batch >= 3
    require_same(fit(network(), load(mapped), CONFIG, folder=tmp_path / "run", resume=True), expected)


@pytest.mark.usefixtures("few_rows_are_many")
def test_a_file_that_changes_before_an_epoch_is_measured_leaves_the_epoch_before(mapped, tmp_path):
    (tmp_path / "run").mkdir()

    class Changes(Listener):
        def batch(self, run):
            if (run.epoch, run.batch) == (1, run.batches):
                os.utime(mapped / "x.npy", ns=(1, 1))

    expected = fit(network(), load(mapped), CONFIG)
    with pytest.raises(DataError, match=r"it changed .*\. The run is saved after epoch 1: with .* --resume"):
        fit(network(), load(mapped), CONFIG, folder=tmp_path / "run", listener=Changes(), stream=True)
    require_same(fit(network(), load(mapped), CONFIG, folder=tmp_path / "run", resume=True), expected)


# --- orders of earlier versions ---------------------------------------------------------------------------------------
def _stop_in_second_epoch(folder, data):
    """Leave the checkpoint of a run that was stopped after three batches of its second epoch."""
    folder.mkdir()
    run = Run(network(), data, CONFIG, folder=folder)
    run.train_epoch()
    run._visit()
    for run.batch in range(3):
        run._train_batch()
    run.batch = 3
    run.save()


def test_a_run_of_an_earlier_version_goes_on_in_its_own_order(mapped, tmp_path, monkeypatch):
    data = replace(load(mapped), x_train=np.asarray(load(mapped).x_train), x_test=np.asarray(load(mapped).x_test))
    _stop_in_second_epoch(tmp_path / "run", data)
    assert "order" not in model_file.read(tmp_path / "run" / CHECKPOINT_FILE)[1]
    expected = fit(network(), data, CONFIG)  # of so few rows: in the order WHOLE
    # from here on they are many, as if an earlier version had begun the run
    monkeypatch.setattr(order, "SHUFFLED_AT_ONCE", 8)
    monkeypatch.setattr(order, "BLOCK", 4)
    require_same(fit(network(), data, CONFIG, folder=tmp_path / "run", resume=True, stream=True), expected)
    assert not np.array_equal(epoch_order(0, 0, 300), epoch_order(0, 0, 300, WHOLE))


@pytest.mark.usefixtures("few_rows_are_many")
def test_the_order_of_blocks_is_kept_in_the_checkpoint(mapped, tmp_path, monkeypatch):
    fit(network(), load(mapped), CONFIG, folder=tmp_path)
    assert Checkpoint.read(tmp_path).order == BLOCKS
    monkeypatch.setattr(order, "SHUFFLED_AT_ONCE", 1000)
    with pytest.raises(CheckpointError, match="is damaged: runs on 192 rows have no order of blocks"):
        Run(network(), load(mapped), CONFIG, folder=tmp_path).load()


@pytest.mark.parametrize("kind", [0, 3, "2", None])
def test_an_order_that_is_not_known_is_refused(mapped, tmp_path, kind):
    fit(network(), load(mapped), replace(CONFIG, epochs=1), folder=tmp_path)
    tensors, metadata = model_file.read(tmp_path / CHECKPOINT_FILE)
    model_file.write(tmp_path / CHECKPOINT_FILE, tensors, {**metadata, "order": kind})
    with pytest.raises(CheckpointError, match="order was"):
        Checkpoint.read(tmp_path)


# --- what is large ----------------------------------------------------------------------------------------------------
def test_what_is_large_for_the_machine_is_streamed_unless_it_is_not_wanted(mapped, monkeypatch):
    data = load(mapped)
    assert not Run(network(), data, CONFIG).streamed
    row = 6 * 4 + 8 + 4 + 8  # inputs, label, weight, place in the order
    for memory, expected in ((4 * 300 * row - 1, True), (4 * 300 * row, False), (0, False)):
        monkeypatch.setattr(streaming, "usable_memory", lambda memory=memory: memory)
        run = Run(network(), data, CONFIG)
        assert run.streamed == isinstance(run.feed, StreamedFeed) == expected
    monkeypatch.setattr(streaming, "usable_memory", lambda: 1)
    assert not Run(network(), data, CONFIG, stream=False).streamed


def test_inputs_of_half_precision_are_scaled_in_the_masters(mapped, monkeypatch):
    half, row = Network([6, 5, 2], backend="numpy", precision="fp16"), 6 * 4 + 8 + 4 + 8
    for memory, expected in ((4 * 300 * row - 1, True), (4 * 300 * row, False)):
        monkeypatch.setattr(streaming, "usable_memory", lambda memory=memory: memory)
        assert Run(half, load(mapped), CONFIG).streamed == expected
    monkeypatch.setattr(type(half.backend), "free_memory", 192 * (row - 6 * 2) * 4 // 3)
    assert not Run(half, load(mapped), CONFIG).streamed


def test_what_is_large_for_the_gpu_is_streamed(mapped, monkeypatch):
    data = load(mapped)
    made = type("Gpu", (backends.numpy_backend.NumpyBackend,), {"free_memory": 0})()
    for free, expected in ((192 * 44 * 4 // 3 - 1, True), (192 * 44 * 4 // 3, False)):
        monkeypatch.setattr(type(made), "free_memory", free)
        assert Run(network(made), data, CONFIG).streamed == expected
