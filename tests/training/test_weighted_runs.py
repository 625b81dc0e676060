"""Runs with weights of examples and of classes: what is trained, what is measured, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, CheckpointError
from gpubp.nn.network import Network
from gpubp.nn.optimizers import SGD
from gpubp.nn.trainer import Trainer
from gpubp.training.checkpoint import Checkpoint
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Listener, Run, fit
from gpubp.training.model import Model
from gpubp.training.order import epoch_order


def clouds(rows=60, test_rows=20, seed=0, weighted=True, task="classification"):
    """Three clouds that overlap, of uneven sizes, with weights from 0 to 3."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 0, 1, 1, 2])[np.arange(rows + test_rows) % 6]
    x = rng.normal(size=(rows + test_rows, 3)) + labels[:, None]
    y = labels if task == "classification" else 100 + 10 * x @ rng.normal(size=(3, 2))
    weight = rng.integers(0, 4, rows + test_rows).astype(float) if weighted else None
    weights = {} if weight is None else {"weight_train": weight[:rows], "weight_test": weight[rows:]}
    names = ("a", "b", "c") if task == "classification" else ()
    return Dataset(x[:rows], y[:rows], x[rows:], y[rows:], task=task, class_names=names, **weights)


def network_for(dataset, **options):
    loss = "softmax_cross_entropy" if dataset.task == "classification" else "mean_squared_error"
    return Network([dataset.features, 6, dataset.outputs], **{"seed": 1, "loss": loss, "dtype": "float64", **options})


def by_hand(dataset, config, of_class):
    """Train with single steps on batches cut from the epochs' orders; return the network and each epoch's loss."""
    network = network_for(dataset)
    model, trainer = Model.for_data(network, dataset), Trainer(network, config.optimizer)
    x, y = model.inputs(dataset.x_train), model.targets(dataset.y_train)
    weight = dataset.weight_train * np.array(of_class)[dataset.y_train]
    losses = []
    for epoch in range(config.epochs):
        order = epoch_order(config.seed, epoch, len(x))
        for start in range(0, len(x), config.batch_size):
            rows = order[start : start + config.batch_size]
            trainer.step(x[rows], y[rows], weight[rows])
        losses.append(trainer.take_total_loss() / weight.sum())
    return network, losses


@pytest.mark.parametrize("given", [None, [1, 2, 5], {"c": 5, "b": 2}, "balanced"])
def test_each_example_is_trained_with_its_weight_times_its_classes(given):
    dataset = clouds()
    config = TrainingConfig(
        epochs=2, batch_size=16, optimizer=SGD(learning_rate=0.2), schedule="constant", class_weight=given, seed=5
    )
    totals = np.bincount(dataset.y_train, dataset.weight_train)
    of_class = np.ones(3) if given is None else totals.sum() / 3 / totals if given == "balanced" else [1, 2, 5]
    network, losses = by_hand(dataset, config, of_class)
    result = fit(network_for(dataset), dataset, config)
    for name, array in result.model.network.weights().items():
        np.testing.assert_allclose(array, network.weights()[name], rtol=1e-12, err_msg=name)
    assert [row.train_loss for row in result.history] == pytest.approx(losses, rel=1e-12)


def test_the_sum_of_losses_is_of_weighted_losses():
    dataset = clouds()
    config = TrainingConfig(epochs=1, batch_size=60, optimizer=SGD(learning_rate=1e-9), class_weight=[1, 2, 5])
    mean, total = (
        fit(network_for(dataset, loss={"name": "softmax_cross_entropy", "reduction": reduction}), dataset, config)
        for reduction in ("mean", "sum")
    )
    weight = dataset.weight_train @ np.array([1, 2, 5])[dataset.y_train]
    assert total.row.train_loss == pytest.approx(weight * mean.row.train_loss, rel=1e-6)
    assert total.row.test_loss == pytest.approx(dataset.weight_test.sum() * mean.row.test_loss, rel=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_an_example_of_weight_zero_is_left_out(task):
    """Its inputs and its target do not matter either: the scaling does not know them."""
    whole = clouds(task=task)
    rng = np.random.default_rng(7)
    weight = rng.integers(0, 2, 60).astype(float)
    odd = whole.x_train.copy()
    odd[weight == 0] = 1e6 * rng.normal(size=(int((weight == 0).sum()), 3))
    counting = weight > 0
    without = replace(
        whole, x_train=whole.x_train[counting], y_train=whole.y_train[counting], weight_train=weight[counting]
    )
    config = TrainingConfig(epochs=4, batch_size=60, optimizer="adam")
    found = fit(network_for(whole), replace(whole, x_train=odd, weight_train=weight), config)
    expected = fit(network_for(whole), without, config)
    for name, array in found.model.network.weights().items():
        np.testing.assert_allclose(array, expected.model.network.weights()[name], rtol=1e-9, atol=1e-12, err_msg=name)
    for row, other in zip(found.history, expected.history, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, rel=1e-9)
        assert row.test_loss == pytest.approx(other.test_loss, rel=1e-9)
        assert row.gradient_norms == pytest.approx(other.gradient_norms, rel=1e-6)
        assert (row.train_accuracy, row.test_accuracy, row.dead_units) == (
            other.train_accuracy, other.test_accuracy, other.dead_units,
        )  # fmt: skip


def test_weights_of_one_change_nothing():
    plain = clouds(weighted=False)
    ones = replace(plain, weight_train=np.ones(60), weight_test=np.ones(20))
    config = TrainingConfig(epochs=3, batch_size=16, validation=0.2)
    expected, found = (fit(network_for(plain), data, config) for data in (plain, ones))
    for row, other in zip(found.history, expected.history, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, rel=1e-9)
        assert row.validation_loss == pytest.approx(other.validation_loss, rel=1e-9)
        assert row.test_accuracy == pytest.approx(other.test_accuracy, rel=1e-12)


def test_what_is_measured_is_weighted_by_the_examples_alone():
    """Not by the classes: the validation and the test loss can be compared from one class weight to another."""
    dataset = clouds(rows=90, test_rows=30)
    config = TrainingConfig(epochs=2, validation=0.3, class_weight=[1, 50, 3])
    run = Run(network_for(dataset), dataset, config)
    row = run.train().row
    kept, set_aside = run._split()
    x, y, w = dataset.x_train, dataset.y_train, dataset.weight_train
    parts = {
        "validation": (x[set_aside], y[set_aside], w[set_aside]),
        "test": (dataset.x_test, dataset.y_test, dataset.weight_test),
    }
    for name, part in parts.items():
        found = run.model.evaluate(*part)
        right = run.model.predict(part[0]) == part[1]
        assert getattr(row, f"{name}_loss") == pytest.approx(found.loss, rel=1e-12)
        assert getattr(row, f"{name}_accuracy") == pytest.approx(right @ part[2] / part[2].sum(), rel=1e-12)
    right = run.model.predict(x[kept]) == y[kept]
    assert row.train_accuracy == pytest.approx(right @ w[kept] / w[kept].sum(), rel=1e-12)
    inputs, targets, weight = run.probe
    _, gradients = run.network.gradients(inputs, targets, sample_weight=weight)
    assert row.gradient_norms == pytest.approx(gradients.norms(), rel=1e-12)


def test_balanced_is_of_the_rows_that_are_trained_on():
    dataset = clouds(rows=120)
    run = Run(network_for(dataset), dataset, TrainingConfig(validation=0.5, class_weight="balanced"))
    kept, _ = run._split()
    totals = np.bincount(dataset.y_train[kept], dataset.weight_train[kept])
    np.testing.assert_allclose(run.class_weight, totals.sum() / (3 * totals))
    np.testing.assert_allclose(run.class_weight * totals, totals.sum() / 3)


def test_the_running_loss_is_of_the_examples_seen():
    seen = []

    class Looks(Listener):
        def batch(self, run):
            seen.append((run.epoch, run.batch, run.running_loss(), run.trainer.total_loss()))

    dataset = clouds()
    run = Run(network_for(dataset), dataset, TrainingConfig(epochs=2, batch_size=16), listener=Looks())
    run.train()
    assert len(seen) == 8
    for epoch, batch, loss, total in seen:
        rows = epoch_order(0, epoch, 60)[: 16 * batch]
        assert loss == pytest.approx(total / dataset.weight_train[rows].sum(), rel=1e-12)


def test_a_batch_that_does_not_count_has_no_running_loss():
    dataset = replace(clouds(), weight_train=(epoch_order(0, 0, 60).argsort() >= 16).astype(float))
    losses = []

    class Looks(Listener):
        def batch(self, run):
            losses.append(run.running_loss())

    fit(network_for(dataset), dataset, TrainingConfig(epochs=1, batch_size=16), listener=Looks())
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1:]).all()


# --- resuming ---------------------------------------------------------------------------------------------------------
class StopAt(Listener):
    """Stops a run after a batch, as a signal does."""

    def __init__(self, at):
        self.at, self.loss = at, None

    def batch(self, run):
        if run.epoch * run.batches + run.batch == self.at:
            self.loss = run.running_loss()
            run.save()
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [2, 4])
def test_a_run_that_is_resumed_ends_the_same(tmp_path, at):
    dataset = clouds()
    config = TrainingConfig(epochs=3, batch_size=16, class_weight="balanced", validation=0.2)
    whole = fit(network_for(dataset), dataset, config)
    stop = StopAt(at)
    with pytest.raises(KeyboardInterrupt):
        fit(network_for(dataset), dataset, config, folder=tmp_path, listener=stop)
    run = Run(network_for(dataset), dataset, config, folder=tmp_path)
    run.load()
    assert run.running_loss() == stop.loss
    result = run.train()
    assert result.history == whole.history
    for name, array in result.model.network.weights().items():
        assert array.tobytes() == whole.model.network.weights()[name].tobytes(), name


def test_a_run_is_resumed_with_its_own_weights_alone(tmp_path):
    dataset = clouds()
    config = TrainingConfig(epochs=1, class_weight=[1, 2, 5])
    fit(network_for(dataset), dataset, config, folder=tmp_path)
    assert Checkpoint.read(tmp_path).training["class_weight"] == [1, 2, 5]
    further = replace(config, epochs=2)
    with pytest.raises(CheckpointError, match="its class_weight is"):
        fit(network_for(dataset), dataset, replace(further, class_weight=[1, 2, 4]), folder=tmp_path, resume=True)
    for other in (clouds(weighted=False), replace(dataset, weight_train=dataset.weight_train[::-1])):
        with pytest.raises(CheckpointError, match="was trained on other data"):
            fit(network_for(dataset), other, further, folder=tmp_path, resume=True)
    assert fit(network_for(dataset), dataset, further, folder=tmp_path, resume=True).history[-1].epoch == 2


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (
            [1.0] + [0.0] * 59,
            {"class_weight": [0, 1, 1]},
            "class_weight times the weight of the training part is 0 alto",
        ),
        (None, {"class_weight": [1e300, 1, 1]}, "class_weight times the weight of the training part is inf altogether"),
        (None, {"class_weight": [1, 2]}, "class_weight has 2 numbers"),
        (None, {"class_weight": {"z": 2}}, "class_weight was 'z'"),
    ],
)
def test_class_weights_that_do_not_fit(weight, options, message):
    dataset = clouds() if weight is None else replace(clouds(), weight_train=weight)
    with pytest.raises(ArgumentError, match=message):
        Run(network_for(dataset, dtype="float32"), dataset, TrainingConfig(**options))


def test_a_validation_part_that_takes_all_that_counts_or_nothing():
    dataset, config = clouds(), TrainingConfig(validation=0.2)
    kept, set_aside = Run(network_for(dataset), dataset, config)._split()
    for rows, message in (
        (kept, "the weight of the validation part is 0 altogether; it must be more than 0"),
        (set_aside, "the weight of the training part is 0 altogether"),
    ):
        weight = np.zeros(60)
        weight[rows] = 1
        with pytest.raises(ArgumentError, match=message):
            Run(network_for(dataset), replace(dataset, weight_train=weight), config)


@pytest.mark.parametrize(("part", "other"), [("train", "training"), ("test", "test")])
@pytest.mark.parametrize(("weight", "told"), [(1e-60, "is 0 altogether"), (1e60, "is inf altogether")])
def test_weights_that_the_networks_numbers_cannot_hold(part, other, weight, told):
    dataset = clouds()
    dataset = replace(dataset, **{f"weight_{part}": np.full(60 if part == "train" else 20, weight)})
    with pytest.raises(ArgumentError, match=f"the weight of the {other} part {told}; .* finite in float32"):
        Run(network_for(dataset, dtype="float32"), dataset)
    Run(network_for(dataset), dataset)
