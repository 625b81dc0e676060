import errno
import math
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, CheckpointError, DataError
from gpubp.nn.network import Network
from gpubp.nn.optimizers import SGD
from gpubp.nn.trainer import Trainer
from gpubp.training import loop as training
from gpubp.training.checkpoint import Checkpoint
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import STOPPING, Aborted, Interrupted, Listener, Run, fit
from gpubp.training.model import Model
from gpubp.training.order import epoch_order


def blobs(rows=90, classes=3, features=4, seed=0, test_rows=30):
    """Normal clouds, one a class, far enough apart to be learnt."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 3, (classes, features))
    labels = np.arange(rows + test_rows) % classes
    x = centres[labels] + rng.normal(size=(rows + test_rows, features))
    return Dataset(
        x[:rows], labels[:rows], x[rows:], labels[rows:], class_names=tuple("abcdefgh"[:classes]), name="blobs"
    )


def line(rows=80, seed=0):
    """Two values that depend linearly on three inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    y = 100 + 20 * x @ rng.normal(size=(3, 2))
    return Dataset(x[10:], y[10:], x[:10], y[:10], task="regression", name="line")


def network_for(dataset, layers=(8, 5), **options):
    return Network([dataset.features, *layers, dataset.outputs], **{"seed": 1, **options})


class Recorder(Listener):
    """Notes what it is told; raises the signal `number` at the batch `at`, counted over the whole run."""

    def __init__(self, at=None, number=signal.SIGINT):
        self.at, self.number = at, number
        self.events, self.warnings = [], []

    def started(self, run):
        self.events.append("started")

    def batch(self, run):
        self.events.append((run.epoch, run.batch))
        if self.at is not None and run.epoch * run.batches + run.batch == self.at:
            os.kill(os.getpid(), self.number)

    def epoch(self, run, row):
        self.events.append(f"epoch {row.epoch}")

    def warning(self, message):
        self.warnings.append(message)


def weights(network):
    return {name: array.tobytes() for name, array in network.weights().items()}


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own():
    orders = [epoch_order(3, epoch, 50) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], epoch_order(4, 0, 50))
    np.testing.assert_array_equal(orders[2], epoch_order(3, 2, 50))


def test_the_loop_makes_the_steps_that_the_algorithm_says():
    """Against single steps on batches cut from the epochs' orders by hand, with a ragged last one."""
    dataset = blobs(rows=50)
    config = TrainingConfig(epochs=2, batch_size=16, optimizer=SGD(learning_rate=0.2), schedule="cosine", seed=5)
    result = fit(network_for(dataset), dataset, config)

    network = network_for(dataset)
    trainer = Trainer(network, SGD(learning_rate=0.2, schedule={"name": "cosine", "steps": 8}))
    model = Model.for_data(network, dataset)
    x, y = model.inputs(dataset.x_train), model.targets(dataset.y_train)
    for epoch in range(2):
        order = epoch_order(5, epoch, 50)
        losses = []
        for start in (0, 16, 32, 48):
            batch = order[start : start + 16]
            trainer.step(x[batch], y[batch])
            losses.append(trainer.last_loss() * len(batch))
        row = result.history[epoch]
        assert row.train_loss == pytest.approx(sum(losses) / 50, rel=1e-12)
        assert row.learning_rate == trainer.optimizer.rate(4 * epoch + 3)
        found = network.evaluate(model.inputs(dataset.x_test), dataset.y_test)
        assert (row.test_loss, row.test_accuracy) == (found.loss, found.accuracy)
        assert row.gradient_norms == tuple(network.gradients(x, y)[1].norms())
        assert row.train_accuracy == network.evaluate(x, y).accuracy
    assert weights(network) == weights(result.model.network)
    assert [(row.epoch, row.steps) for row in result.history] == [(1, 4), (2, 8)]


def test_it_learns():
    dataset = blobs()
    result = fit(network_for(dataset), dataset, TrainingConfig(epochs=20, batch_size=8, optimizer=SGD()))
    assert result.row.test_accuracy > 0.95
    assert result.row.train_loss < 0.3 * result.history[0].train_loss
    assert not result.diverged
    assert not result.stopped_early
    assert result.best_epoch is None


def test_the_seed_decides_everything():
    dataset = blobs()

    def run(seed):
        result = fit(network_for(dataset), dataset, TrainingConfig(epochs=2, validation=0.2, seed=seed))
        return weights(result.model.network), result.history

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_are_one_large_batch_to_roundoff(reduction):
    """90 rows in steps of 3 batches of 8: the last step has two batches, of 8 and of 2."""
    dataset = blobs()
    loss = {"name": "softmax_cross_entropy", "reduction": reduction}
    settings = {"epochs": 3, "optimizer": {"name": "adam", "clip_norm": 0.5}, "warmup": 0.5, "validation": 0.0}
    small, large = (
        fit(
            network_for(dataset, loss=loss, dropout=(0.2, 0.5), dtype="float64"), dataset,
            TrainingConfig(batch_size=batch_size, accumulate=accumulate, **settings),
        )
        for batch_size, accumulate in ((8, 3), (24, 1))
    )  # fmt: skip
    assert [row.steps for row in small.history] == [4, 8, 12]
    for one, other in zip(small.history, large.history, strict=True):
        assert (one.steps, one.learning_rate) == (other.steps, other.learning_rate)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-12)
        assert one.gradient_norms == pytest.approx(other.gradient_norms, rel=1e-9)
    for name, array in large.model.network.weights().items():
        np.testing.assert_allclose(small.model.network.weights()[name], array, rtol=1e-9, atol=1e-12)


def test_accumulated_batches_pass_one_by_one(monkeypatch):
    dataset = blobs()
    passed = []
    real = NumpyBackend.output_delta

    def noted(self, loss, activation, output, *rest):
        passed.append(len(output))
        return real(self, loss, activation, output, *rest)

    run = Run(network_for(dataset, backend="numpy"), dataset, TrainingConfig(epochs=1, batch_size=8, accumulate=3))
    monkeypatch.setattr(NumpyBackend, "output_delta", noted)
    run.feed.visit(epoch_order(0, 0, run.rows))
    for batch in range(run.batches):
        run.batch = batch
        run._train_batch()
    assert passed == [8] * 11 + [2]
    assert run.trainer.steps == 4


def test_the_running_loss_is_that_of_the_steps_so_far():
    dataset = blobs(rows=90)
    seen = []

    class Looker(Listener):
        def batch(self, run):
            seen.append(run.running_loss())

    config = TrainingConfig(epochs=1, batch_size=10, accumulate=3, optimizer=SGD(learning_rate=1e-9))
    network = network_for(dataset, dtype="float64")
    fit(network, dataset, config, listener=Looker())
    model = Model.for_data(network, dataset)
    order = epoch_order(0, 0, 90)
    x, y = model.inputs(dataset.x_train)[order], dataset.y_train[order]
    expected = [network.evaluate(x[:rows], y[:rows]).loss for rows in (30, 60, 90)]
    assert seen == pytest.approx(expected, rel=1e-6)


def test_a_batch_larger_than_the_data_is_one_batch():
    dataset = blobs(rows=20)
    recorder = Recorder()
    result = fit(network_for(dataset), dataset, TrainingConfig(epochs=2, batch_size=1000), listener=recorder)
    assert recorder.events == ["started", (0, 1), "epoch 1", (1, 1), "epoch 2"]
    assert result.history[-1].steps == 2


def test_the_listener_is_told_each_batch_and_epoch_in_order():
    dataset = blobs(rows=20)
    recorder = Recorder()
    fit(network_for(dataset), dataset, TrainingConfig(epochs=2, batch_size=15), listener=recorder)
    assert recorder.events == ["started", (0, 1), (0, 2), "epoch 1", (1, 1), (1, 2), "epoch 2"]


def test_looking_at_the_running_loss_changes_nothing():
    dataset = blobs()
    seen = []

    class Looker(Listener):
        def batch(self, run):
            seen.append(run.running_loss())

    config = TrainingConfig(epochs=2, batch_size=8)
    plain = fit(network_for(dataset), dataset, config)
    looked = fit(network_for(dataset), dataset, config, listener=Looker())
    assert looked.history == plain.history
    assert seen[11] == plain.history[0].train_loss  # after the last of an epoch's 12 batches, it is the epoch's


def test_a_sum_of_losses_is_a_sum_and_its_gradients_are_those_of_a_batch():
    dataset = blobs(rows=40)
    config = TrainingConfig(epochs=1, batch_size=10, optimizer=SGD(learning_rate=1e-12))
    mean = fit(network_for(dataset, dtype="float64"), dataset, config).row
    loss = {"name": "softmax_cross_entropy", "reduction": "sum"}
    total = fit(network_for(dataset, dtype="float64", loss=loss), dataset, config).row
    assert total.train_loss == pytest.approx(40 * mean.train_loss, rel=1e-6)
    assert total.gradient_norms == pytest.approx([10 * norm for norm in mean.gradient_norms], rel=1e-6)


def test_gradients_and_accuracy_are_measured_on_a_limited_number_of_rows(monkeypatch):
    monkeypatch.setattr(training, "PROBE_ROWS", 7)
    dataset = blobs()
    run = Run(network_for(dataset), dataset)
    assert run.probe[0].shape == (7, 4)
    assert {row.tobytes() for row in run.probe[0]} < {row.tobytes() for row in run.feed.x}
    assert np.unique(run.probe[0], axis=0).shape == (7, 4)


class Replaying(NumpyBackend):
    """Stands in for a backend that records: replaying is doing it again."""

    captures = True

    def __init__(self):
        super().__init__()
        self.recorded = self.replayed = 0

    def capture(self, work):
        def replay():
            self.replayed += 1
            work()

        self.recorded += 1
        return replay


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "recorded", "replayed"),
    [(20, 1, 2, 12), (30, 1, 2, 9), (90, 1, 1, 3), (100, 1, 0, 0), (10, 4, 2, 6), (30, 2, 2, 3), (40, 3, 0, 0)],
)
def test_whole_batches_are_recorded_and_replayed(batch_size, accumulate, recorded, replayed):
    dataset = blobs()
    config = TrainingConfig(epochs=3, batch_size=batch_size, accumulate=accumulate)
    backend = Replaying()
    networks = [network_for(dataset, backend=each) for each in ("numpy", backend)]
    runs = [Run(network, dataset, config) for network in networks]
    results = [run.train() for run in runs]
    # once, and once more where the evaluation after the first epoch made arrays for more rows
    assert (backend.recorded, backend.replayed) == (recorded, replayed)
    assert results[0].history == results[1].history
    assert runs[0].trainer.steps == runs[1].trainer.steps
    assert weights(networks[0]) == weights(networks[1])


# --- regression and other losses --------------------------------------------------------------------------------------


def test_regression_is_trained_on_scaled_targets_and_predicts_in_their_units():
    dataset = line()
    network = network_for(dataset, (), loss="mean_squared_error")
    result = fit(network, dataset, TrainingConfig(epochs=60, batch_size=8, optimizer=SGD(learning_rate=0.1)))
    assert result.row.train_accuracy is None
    assert result.row.test_accuracy is None
    np.testing.assert_allclose(result.model.predict(dataset.x_test), dataset.y_test, atol=0.01)


@pytest.mark.parametrize("loss", ["half_squared_error", "huber", "binary_cross_entropy", "mean_squared_error"])
def test_classes_can_be_learnt_with_other_losses(loss):
    dataset = blobs()
    network = network_for(dataset, (16,), loss=loss, output_activation="sigmoid", seed=3)
    result = fit(network, dataset, TrainingConfig(epochs=40, batch_size=8, optimizer=SGD(learning_rate=0.5)))
    predicted = result.model.predict(dataset.x_test)
    assert result.row.test_accuracy == np.mean(predicted == dataset.y_test)
    assert result.row.test_accuracy > 0.9


def test_two_classes_can_share_one_output():
    dataset = blobs(classes=2)
    network = Network([4, 8, 1], loss="binary_cross_entropy", seed=0)
    model = fit(network, dataset, TrainingConfig(epochs=30, optimizer=SGD(learning_rate=0.5))).model
    probabilities = model.predict_proba(dataset.x_test)
    assert probabilities.shape == (30, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert np.mean(model.predict(dataset.x_test) == dataset.y_test) > 0.9
    np.testing.assert_array_equal(model.predict(dataset.x_test), probabilities.argmax(axis=1))


@pytest.mark.parametrize(
    ("sizes", "options", "argument"),
    [
        ([5, 3], {}, "sizes"),
        ([4, 2], {}, "sizes"),
        ([4, 1], {"loss": "binary_cross_entropy"}, "sizes"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(sizes, options, argument):
    with pytest.raises(ArgumentError) as caught:
        fit(Network(sizes, **options), blobs())
    assert caught.value.argument == argument


def test_a_loss_for_classes_is_refused_for_values():
    with pytest.raises(ArgumentError, match="mean_squared_error"):
        fit(Network([3, 2]), line())


# --- validation and early stopping ------------------------------------------------------------------------------------


def test_the_validation_part_is_stratified_and_is_not_trained_on():
    dataset = blobs(rows=90)
    run = Run(network_for(dataset), dataset, TrainingConfig(validation=1 / 3))
    inputs, targets, _ = run.parts["validation"]
    assert run.rows == 60
    np.testing.assert_array_equal(np.bincount(targets), [10, 10, 10])
    trained_on = {row.tobytes() for row in run.feed.x}
    assert len(trained_on) == 60
    assert not trained_on & {row.tobytes() for row in inputs}


def test_too_few_examples_for_a_validation_part_are_an_error():
    dataset = Dataset(np.eye(2), np.array([0, 1]), np.eye(2), np.array([0, 1]), class_names=("a", "b"))
    with pytest.raises(DataError, match="too few"):
        Run(Network([2, 2]), dataset, TrainingConfig(validation=0.5))


def overfitted():
    """Labels that are noise: the validation loss soon rises."""
    rng = np.random.default_rng(0)
    return Dataset(
        rng.normal(size=(60, 6)), rng.integers(0, 2, 60), rng.normal(size=(20, 6)), rng.integers(0, 2, 20),
        class_names=("a", "b"),
    )  # fmt: skip


def test_early_stopping_restores_the_weights_of_the_best_epoch():
    dataset = overfitted()
    settings = {"batch_size": 8, "optimizer": SGD(learning_rate=0.1), "schedule": "constant", "validation": 0.3}
    result = fit(network_for(dataset, (32,)), dataset, TrainingConfig(epochs=200, patience=4, **settings))
    losses = [row.validation_loss for row in result.history]
    best = int(np.argmin(losses)) + 1
    assert result.stopped_early
    assert 1 < best == result.best_epoch == len(result.history) - 4
    assert result.row == result.history[best - 1]

    until_best = fit(network_for(dataset, (32,)), dataset, TrainingConfig(epochs=best, **settings))
    assert weights(until_best.model.network) == weights(result.model.network)


def test_without_patience_the_last_weights_stay():
    dataset = overfitted()
    settings = {"epochs": 12, "batch_size": 8, "optimizer": SGD(learning_rate=0.1), "validation": 0.3}
    result = fit(network_for(dataset, (32,)), dataset, TrainingConfig(**settings))
    assert result.best_epoch is not None
    assert result.best_epoch < 12
    assert result.row.epoch == 12
    found = result.model.evaluate(dataset.x_test, dataset.y_test)
    assert found.loss == result.history[-1].test_loss


def test_early_stopping_on_accuracy_restores_the_weights_of_its_best_epoch():
    dataset = overfitted()

    def train(**settings):
        common = {"batch_size": 8, "optimizer": SGD(learning_rate=0.02), "schedule": "constant", "validation": 0.3}
        return fit(network_for(dataset, (32,), seed=29, dtype="float64"), dataset, TrainingConfig(**common, **settings))

    by_loss, by_accuracy = (train(epochs=60, patience=6, monitor=monitor) for monitor in ("loss", "accuracy"))
    merits = [(row.validation_accuracy, -row.validation_loss) for row in by_accuracy.history]
    best = merits.index(max(merits)) + 1
    assert by_accuracy.stopped_early
    assert best == by_accuracy.best_epoch == len(by_accuracy.history) - 6
    assert best != by_loss.best_epoch
    assert by_accuracy.row == by_accuracy.history[best - 1]
    assert weights(train(epochs=best).model.network) == weights(by_accuracy.model.network)


@pytest.mark.parametrize(("monitor", "best"), [("loss", 2), ("accuracy", 4)])
def test_of_equally_accurate_epochs_the_one_with_the_lower_loss_is_the_best_and_of_equals_the_first(monitor, best):
    dataset = blobs()
    run = Run(network_for(dataset), dataset, TrainingConfig(epochs=1, validation=0.2, monitor=monitor))
    (row,) = run.train().history
    found = [(0.5, 0.8), (0.1, 0.7), (0.4, 0.9), (0.3, 0.9), (0.3, 0.9), (0.1, 0.8)]
    run.history = [
        replace(row, epoch=epoch, validation_loss=loss, validation_accuracy=accuracy)
        for epoch, (loss, accuracy) in enumerate(found, start=1)
    ]
    assert run.best_epoch == best


def test_an_epoch_without_a_number_for_its_loss_is_never_the_best():
    dataset = blobs()
    run = Run(network_for(dataset), dataset, TrainingConfig(patience=2, monitor="accuracy"))
    run.train()
    lost = [replace(row, validation_loss=math.nan, validation_accuracy=1.0) for row in run.history[:1]]
    run.history = [*lost, replace(run.history[1], validation_accuracy=0.5)]
    assert run.best_epoch == 2
    run.history = lost
    assert run.best_epoch is None


def test_the_accuracy_of_regression_cannot_be_monitored():
    dataset = line()
    with pytest.raises(ArgumentError, match="line is regression") as caught:
        fit(network_for(dataset, loss="huber"), dataset, TrainingConfig(patience=2, monitor="accuracy"))
    assert caught.value.argument == "monitor"


def test_patience_alone_sets_a_tenth_aside():
    dataset = blobs(rows=90)
    assert Run(network_for(dataset), dataset, TrainingConfig(patience=2)).rows == 81


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_divergence_is_said_once_and_ends_the_run(tmp_path):
    dataset = blobs()
    recorder = Recorder()
    config = TrainingConfig(epochs=30, optimizer=SGD(learning_rate=1e30))
    with np.errstate(all="raise"):  # NumPy's own warnings are off while training
        result = fit(network_for(dataset), dataset, config, listener=recorder, folder=tmp_path)
    assert result.diverged
    assert len(result.history) < 30
    assert len([message for message in recorder.warnings if "lower the learning rate, clip" in message]) == 1
    assert not (tmp_path / "model.safetensors").exists()


def test_vanishing_gradients_are_said_once():
    dataset = blobs()
    recorder = Recorder()
    network = network_for(dataset, (4,) * 10, hidden_activation="sigmoid")
    fit(network, dataset, TrainingConfig(epochs=3), listener=recorder)
    (message,) = recorder.warnings
    assert "gradients vanish" in message
    assert "layer 11" in message


def test_dead_units_are_counted_and_said_once():
    dataset = blobs()
    network = network_for(dataset, (8, 5))
    changed = network.weights()
    changed["layer1.bias"][:3] = -1e3
    network.set_weights(changed)
    recorder = Recorder()
    result = fit(network, dataset, TrainingConfig(epochs=3), listener=recorder)
    activations = network.hidden_activations(result.model.inputs(dataset.x_train))
    assert result.row.dead_units == sum(int((a == 0).all(axis=0).sum()) for a in activations) >= 3
    (message,) = [each for each in recorder.warnings if "dead units" in each]
    assert "of 8 in layer 1" in message


def test_units_that_are_not_relu_are_not_called_dead():
    dataset = blobs()
    network = network_for(dataset, (8,), hidden_activation="sigmoid")
    changed = network.weights()
    changed["layer1.bias"][:] = -1e4
    network.set_weights(changed)
    assert fit(network, dataset, TrainingConfig(epochs=1)).row.dead_units == 0


# --- resuming, in one process -----------------------------------------------------------------------------------------

CONFIG = {"epochs": 3, "batch_size": 16, "optimizer": "adam", "validation": 0.2, "patience": 2, "warmup": 0.5}


def resumable(**options):
    dataset = blobs(rows=60)
    return network_for(dataset, **options), dataset, TrainingConfig(**CONFIG)


@pytest.fixture(scope="module")
def uninterrupted():
    return fit(*resumable())


@pytest.mark.parametrize("at", range(1, 9))
def test_a_run_stopped_after_any_batch_resumes_bit_for_bit(tmp_path, at, uninterrupted):
    """Three epochs of three batches: the stops are within epochs, and at the end of the first and the second."""
    with pytest.raises(Interrupted) as stopped:
        fit(*resumable(), folder=tmp_path, listener=Recorder(at=at))
    assert stopped.value.number == signal.SIGINT
    assert (stopped.value.epoch, stopped.value.batch) == divmod(at, 3)
    resumed = Recorder()
    result = fit(*resumable(), folder=tmp_path, resume=True, listener=resumed)
    assert resumed.events[1] == (at // 3, at % 3 + 1)
    assert result.history == uninterrupted.history
    assert weights(result.model.network) == weights(uninterrupted.model.network)
    assert Model.load(tmp_path).network.weights().keys() == result.model.network.weights().keys()


def test_the_best_weights_survive_a_stop_after_their_epoch(tmp_path):
    settings = {"batch_size": 8, "optimizer": SGD(learning_rate=0.1), "schedule": "constant", "validation": 0.3}
    config = TrainingConfig(epochs=200, patience=4, **settings)

    def start(**options):
        dataset = overfitted()
        return fit(network_for(dataset, (32,)), dataset, config, **options)

    at_once = start()
    two_later = (at_once.best_epoch + 2) * 6 + 1  # 42 rows are left to train on, in six batches
    with pytest.raises(Interrupted):
        start(folder=tmp_path, listener=Recorder(at=two_later))
    resumed = start(folder=tmp_path, resume=True)
    assert resumed.history == at_once.history
    assert resumed.row.epoch == at_once.best_epoch
    assert weights(resumed.model.network) == weights(at_once.model.network)


def test_a_signal_in_the_last_batch_lets_the_run_end(tmp_path, uninterrupted):
    result = fit(*resumable(), folder=tmp_path, listener=Recorder(at=9))
    assert result.history == uninterrupted.history


def test_a_run_that_dies_in_its_first_epoch_can_be_resumed(tmp_path, uninterrupted):
    class Dies(Listener):
        def batch(self, run):
            raise MemoryError

    with pytest.raises(MemoryError):
        fit(*resumable(), folder=tmp_path, listener=Dies())
    assert not (tmp_path / "history.csv").exists()
    result = fit(*resumable(), folder=tmp_path, resume=True)
    assert result.history == uninterrupted.history


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_each_signal_that_stops_a_run_saves_it(tmp_path, number, uninterrupted):
    with pytest.raises(Interrupted) as stopped:
        fit(*resumable(), folder=tmp_path, listener=Recorder(at=4, number=number))
    assert (stopped.value.number, stopped.value.epoch, stopped.value.batch) == (number, 1, 1)
    result = fit(*resumable(), folder=tmp_path, resume=True)
    assert result.history == uninterrupted.history
    assert weights(result.model.network) == weights(uninterrupted.model.network)


def test_a_signal_before_the_first_batch_is_heard(tmp_path):
    class Early(Listener):
        def started(self, run):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as stopped:
        fit(*resumable(), folder=tmp_path, listener=Early())
    assert (stopped.value.epoch, stopped.value.batch) == (0, 0)
    assert len(fit(*resumable(), folder=tmp_path, resume=True).history) == 3


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_that_the_process_ignores_stays_ignored(tmp_path, number):
    """As SIGHUP is under nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert len(fit(*resumable(), folder=tmp_path, listener=Recorder(at=1, number=number)).history) == 3
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_usual_handlers_are_back_after_a_run(tmp_path):
    before = [signal.getsignal(number) for number in STOPPING]
    fit(*resumable(), folder=tmp_path)
    assert [signal.getsignal(number) for number in STOPPING] == before
    with pytest.raises(Interrupted):
        fit(*resumable(), folder=tmp_path, listener=Recorder(at=1))
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.fixture(autouse=True)
def interruptible():
    """Gives Ctrl-C its usual effect: a shell starts what it runs in the background without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Impatient(Listener):
    """Sends the signals one after the other in a batch of the second epoch."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def batch(self, run):
        if (run.epoch, run.batch) == (1, 2):
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_ctrl_c_after_another_signal_ends_at_once(tmp_path, first, uninterrupted):
    with pytest.raises(Aborted) as stopped:
        fit(*resumable(), folder=tmp_path, listener=Impatient(first, signal.SIGINT))
    assert not isinstance(stopped.value, Interrupted)
    assert (stopped.value.epoch, stopped.value.batch) == (1, 0)  # of the checkpoint
    assert fit(*resumable(), folder=tmp_path, resume=True).history == uninterrupted.history


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_other_signals_that_come_again_and_again_lose_nothing(tmp_path, number):
    """`timeout` sends SIGTERM twice, a shell and its terminal SIGHUP each, and a limit of time SIGXCPU every second."""
    with pytest.raises(Interrupted) as stopped:
        fit(*resumable(), folder=tmp_path, listener=Impatient(number, number, number))
    assert (stopped.value.epoch, stopped.value.batch) == (1, 2)


@pytest.mark.parametrize("told", [False, True])
def test_a_terminal_that_goes_away_loses_nothing(tmp_path, told, uninterrupted):
    """Its SIGHUP comes before or after the first error of writing to it, or never."""

    class Gone(Listener):
        def batch(self, run):
            if (run.epoch, run.batch) == (1, 2):
                if told:
                    os.kill(os.getpid(), signal.SIGHUP)
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(Interrupted if told else OSError):
        fit(*resumable(), folder=tmp_path, listener=Gone())
    recorder = Recorder()
    assert fit(*resumable(), folder=tmp_path, resume=True, listener=recorder).history == uninterrupted.history
    assert recorder.events[1] == (1, 3)


def test_without_a_folder_a_signal_has_its_usual_effect():
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(*resumable(), listener=Recorder(at=1))
    assert not isinstance(stopped.value, Interrupted)


def test_a_run_can_be_in_another_thread(tmp_path):
    """Where no signal handler can be set."""
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(*resumable(), folder=tmp_path)))
    thread.start()
    thread.join()
    assert len(results[0].history) == 3


def test_a_finished_run_resumes_to_its_result(tmp_path):
    first = fit(*resumable(), folder=tmp_path)
    (tmp_path / "model.safetensors").unlink()
    recorder = Recorder()
    again = fit(*resumable(), folder=tmp_path, resume=True, listener=recorder)
    assert recorder.events == ["started"]
    assert again.history == first.history
    assert weights(Model.load(tmp_path).network) == weights(first.model.network)


def test_a_finished_run_can_go_on_for_more_epochs(tmp_path):
    dataset = blobs()
    settings = {"batch_size": 16, "schedule": "constant"}
    fit(network_for(dataset), dataset, TrainingConfig(epochs=2, **settings), folder=tmp_path)
    more = fit(network_for(dataset), dataset, TrainingConfig(epochs=4, **settings), folder=tmp_path, resume=True)
    at_once = fit(network_for(dataset), dataset, TrainingConfig(epochs=4, **settings))
    assert more.history == at_once.history
    assert weights(more.model.network) == weights(at_once.model.network)


# --- the schedule of a resumed run ------------------------------------------------------------------------------------
SCHEDULED = {
    "cosine": {"schedule": "cosine"},
    "warmup": {"schedule": "cosine", "warmup": 1.5},
    "step": {"schedule": "step"},
    "step, often": {"schedule": "step", "decay": 0.5, "decay_epochs": 1},
    "exponential": {"schedule": "exponential", "decay": 0.5},
    "constant": {"schedule": "constant"},
    "the optimiser's": {"optimizer": SGD(schedule={"name": "cosine", "steps": 9}), "schedule": None},
}


def scheduled(epochs, settings, **options):
    dataset = blobs(rows=60)
    config = TrainingConfig(epochs=epochs, batch_size=20, **{"optimizer": "momentum", **settings})
    return fit(network_for(dataset), dataset, config, **options)


def rates(result):
    return [row.learning_rate for row in result.history]


@pytest.mark.parametrize("settings", SCHEDULED.values(), ids=SCHEDULED)
def test_further_epochs_keep_the_schedule_that_was_begun_and_go_on_at_its_last_rate(tmp_path, settings):
    begun = scheduled(3, settings, folder=tmp_path)
    more = scheduled(5, settings, folder=tmp_path, resume=True)
    again = scheduled(7, settings, folder=tmp_path, resume=True)
    assert rates(again)[:5] == rates(more)
    assert rates(more)[:3] == rates(begun)
    last = rates(begun)[-1] if settings["schedule"] else 0  # one that counts steps needs no number of epochs
    assert rates(again)[3:] == [last] * 4
    # as in a run that had this schedule from the start
    epochs = {"schedule_epochs": 3} if settings["schedule"] else {}
    whole = scheduled(7, {**settings, **epochs})
    assert again.history == whole.history
    assert weights(again.model.network) == weights(whole.model.network)


@pytest.mark.parametrize("settings", SCHEDULED.values(), ids=SCHEDULED)
def test_a_run_for_fewer_epochs_keeps_its_schedule_too(tmp_path, settings):
    with pytest.raises(Interrupted):
        scheduled(6, settings, folder=tmp_path, listener=Recorder(at=4))
    cut = scheduled(3, settings, folder=tmp_path, resume=True)
    whole = scheduled(6, settings)
    assert cut.history == whole.history[:3]
    assert scheduled(6, settings, folder=tmp_path, resume=True).history == whole.history


@pytest.mark.parametrize("settings", SCHEDULED.values(), ids=SCHEDULED)
def test_a_new_schedule_is_that_of_a_run_of_all_the_epochs(tmp_path, settings):
    scheduled(3, settings, folder=tmp_path)
    scheduled(4, settings, folder=tmp_path, resume=True)
    anew = scheduled(6, settings, folder=tmp_path, resume=True, reschedule=True)
    assert rates(anew)[4:] == rates(scheduled(6, settings))[4:]
    # and the next resume keeps that one
    assert rates(scheduled(7, settings, folder=tmp_path, resume=True))[4:6] == rates(anew)[4:]


@pytest.mark.parametrize("reschedule", [False, True])
@pytest.mark.parametrize("at", [1, 3])
def test_a_prolonged_run_that_is_stopped_again_resumes_bit_for_bit(tmp_path, reschedule, at):
    """Before and after the first checkpoint of its own, and without its options given once more."""
    settings = SCHEDULED["warmup"]
    for folder in ("straight", "stopped"):
        (tmp_path / folder).mkdir()
        scheduled(3, settings, folder=tmp_path / folder)
    options = {"resume": True, "reschedule": reschedule}
    straight = scheduled(5, settings, folder=tmp_path / "straight", **options)

    class Dies(Listener):
        def batch(self, run):
            if (run.epoch - 3) * run.batches + run.batch == at:
                raise MemoryError

    with pytest.raises(MemoryError):
        scheduled(5, settings, folder=tmp_path / "stopped", listener=Dies(), **options)
    assert Checkpoint.read(tmp_path / "stopped").training["epochs"] == 5
    resumed = scheduled(5, settings, folder=tmp_path / "stopped", resume=True)
    assert resumed.history == straight.history
    assert weights(resumed.model.network) == weights(straight.model.network)


def test_warnings_are_not_said_again_after_a_resume(tmp_path):
    dataset = blobs()

    def start(**options):
        network = network_for(dataset, (4,) * 10, hidden_activation="sigmoid")
        return fit(network, dataset, TrainingConfig(epochs=4, batch_size=32), folder=tmp_path, **options)

    first, second = Recorder(at=7), Recorder()
    with pytest.raises(Interrupted):
        start(listener=first)
    start(listener=second, resume=True)
    assert len(first.warnings) == 1
    assert second.warnings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (9, 5)}, "another network: its sizes is"),
        ({"hidden_activation": "tanh"}, "another network: its hidden_activation"),
        ({"dtype": "float64"}, "another network: its dtype is 'float32'"),
        ({"seed": 2}, "another network: its seed is 1"),
    ],
)
def test_another_network_cannot_resume_a_run(tmp_path, change, message):
    with pytest.raises(Interrupted):
        fit(*resumable(), folder=tmp_path, listener=Recorder(at=2))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        fit(*resumable(**change), folder=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


DROPPING = {"dropout": (0.2, 0.5)}


@pytest.fixture(scope="module")
def uninterrupted_with_dropout():
    return fit(*accumulating())


def accumulating():
    """Steps of two batches of 9: with the 48 rows that are left to train on, three an epoch."""
    network, dataset, _ = resumable(**DROPPING)
    return network, dataset, TrainingConfig(**{**CONFIG, "batch_size": 9, "accumulate": 2})


@pytest.mark.parametrize("at", range(1, 9))
def test_a_run_with_dropout_and_accumulation_resumes_bit_for_bit(tmp_path, at, uninterrupted_with_dropout):
    with pytest.raises(Interrupted) as stopped:
        fit(*accumulating(), folder=tmp_path, listener=Recorder(at=at))
    assert (stopped.value.epoch, stopped.value.batch) == divmod(at, 3)
    assert Checkpoint.read(tmp_path).state["steps"] == at
    result = fit(*accumulating(), folder=tmp_path, resume=True)
    assert result.history == uninterrupted_with_dropout.history
    assert weights(result.model.network) == weights(uninterrupted_with_dropout.model.network)


def test_dropout_and_accumulation_change_what_a_run_learns(uninterrupted, uninterrupted_with_dropout):
    """So that the tests above resume what they mean to."""
    network, dataset, config = accumulating()
    without = fit(network_for(dataset), dataset, config)
    assert network.drops
    assert without.history[0].train_loss != uninterrupted_with_dropout.history[0].train_loss
    one_by_one = fit(network, dataset, TrainingConfig(**{**CONFIG, "batch_size": 9}))
    assert one_by_one.history[-1].steps == 2 * uninterrupted_with_dropout.history[-1].steps


def test_another_accumulation_cannot_resume_a_run(tmp_path):
    with pytest.raises(Interrupted):
        fit(*resumable(), folder=tmp_path, listener=Recorder(at=2))
    network, dataset, _ = resumable()
    with pytest.raises(CheckpointError, match="another training: its accumulate is None, and that to resume has 2"):
        fit(network, dataset, TrainingConfig(**{**CONFIG, "accumulate": 2}), folder=tmp_path, resume=True)


def test_another_configuration_or_other_data_cannot_resume_a_run(tmp_path):
    with pytest.raises(Interrupted):
        fit(*resumable(), folder=tmp_path, listener=Recorder(at=2))
    network, dataset, _ = resumable()
    with pytest.raises(CheckpointError, match="another training: its batch_size is 16"):
        fit(network, dataset, TrainingConfig(**{**CONFIG, "batch_size": 15}), folder=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="other data"):
        fit(network, blobs(rows=60, seed=1), TrainingConfig(**CONFIG), folder=tmp_path, resume=True)


def test_resuming_needs_a_folder_with_a_checkpoint(tmp_path):
    with pytest.raises(ArgumentError, match="folder"):
        fit(*resumable(), resume=True)
    with pytest.raises(CheckpointError, match="no run to resume"):
        fit(*resumable(), folder=tmp_path, resume=True)
