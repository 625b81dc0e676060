from dataclasses import replace

import numpy as np
import pytest

from gpubp import Network
from gpubp.data.dataset import Dataset
from gpubp.errors import ArgumentError, CheckpointError
from gpubp.nn import model_file
from gpubp.training.model import Model


def dataset(task="classification", classes=3):
    rng = np.random.default_rng(0)
    x = rng.normal(50, 10, (40, 4))
    y = np.arange(40) % classes if task == "classification" else rng.normal(1000, 30, (40, 2))
    return Dataset(
        x[:30], y[:30], x[30:], y[30:], task=task,
        class_names=tuple("abc"[:classes]) if task == "classification" else (), feature_names=tuple("pqrs"),
    )  # fmt: skip


def model(task="classification", sizes=None, **options):
    data = dataset(task)
    options.setdefault("loss", "softmax_cross_entropy" if task == "classification" else "mean_squared_error")
    return Model.for_data(Network(sizes or [4, 5, data.outputs], seed=0, **options), data, {"data": "here"})


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_predicts_the_same(tmp_path, task, dtype):
    saved = model(task, dtype=dtype)
    saved.save(tmp_path / "m.safetensors")
    loaded = Model.load(tmp_path / "m.safetensors")
    x = dataset(task).x_test
    np.testing.assert_array_equal(loaded.predict(x), saved.predict(x))
    assert (loaded.task, loaded.class_names, loaded.feature_names, loaded.origin) == (
        saved.task, saved.class_names, saved.feature_names, saved.origin,
    )  # fmt: skip
    assert loaded.network.dtype == dtype


def test_a_folder_stands_for_its_model(tmp_path):
    model().save(tmp_path / "model.safetensors")
    assert Model.load(tmp_path).class_names == ("a", "b", "c")
    with pytest.raises(CheckpointError, match="missing"):
        Model.load(tmp_path / "missing")


def test_scaling_is_fitted_on_the_training_part_alone():
    data, found = dataset(), model()
    np.testing.assert_allclose(found.inputs(data.x_train).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(
        found.inputs(data.x_test), (data.x_test - data.x_train.mean(axis=0)) / data.x_train.std(axis=0), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, np.array([2, 0, 1])),
        ({"loss": "squared_error"}, np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])),
        ({"loss": "binary_cross_entropy"}, np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])),
    ],
)
def test_classes_as_the_loss_takes_them(options, expected):
    targets = model(**options).targets(np.array([2, 0, 1]))
    np.testing.assert_array_equal(targets, expected)
    assert targets.dtype == ("int64" if expected.ndim == 1 else "float32")


def test_values_are_scaled_and_come_back():
    found, data = model("regression"), dataset("regression")
    targets = found.targets(data.y_train)
    np.testing.assert_allclose(targets.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.values(targets), data.y_train, rtol=1e-5)


def test_the_accuracy_is_that_of_the_classes_whatever_the_loss():
    data = dataset()
    for loss in ("softmax_cross_entropy", "binary_cross_entropy", "half_squared_error"):
        found = model(loss=loss)
        right = np.mean(found.predict(data.x_train) == data.y_train)
        assert found.evaluate(data.x_train, data.y_train).accuracy == pytest.approx(right, rel=1e-12)


def test_values_have_neither_accuracy_nor_probabilities():
    found, data = model("regression"), dataset("regression")
    assert found.evaluate(data.x_test, data.y_test).accuracy is None
    with pytest.raises(ArgumentError, match="no probabilities"):
        found.predict_proba(data.x_test)


# --- several labels an example ----------------------------------------------------------------------------------------
def labelled(count=3):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (40, 4))
    y = (x[:, :count] + rng.normal(size=(40, count)) > 5).astype(float)
    return Dataset(x[:30], y[:30], x[30:], y[30:], task="multilabel", class_names=tuple("abc"[:count]), name="labelled")


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "binary_focal_cross_entropy"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_labels_an_example(tmp_path, loss, count):
    data = labelled(count)
    found = Model.for_data(Network([4, 5, count], seed=0, loss=loss), data)
    assert found.target_scaler is None
    targets = found.targets(data.y_test)
    np.testing.assert_array_equal(targets, data.y_test)
    assert targets.dtype == "float32"
    probabilities, predicted = found.predict_proba(data.x_test), found.predict(data.x_test)
    assert probabilities.shape == predicted.shape == (10, count)
    np.testing.assert_array_equal(predicted, probabilities > 0.5)
    assert predicted.dtype == np.int64
    right = (predicted == data.y_test).astype(float)
    assert 0 < right.mean() < 1
    assert found.evaluate(data.x_test, data.y_test).accuracy == pytest.approx(right.mean(), rel=1e-12)
    weight = np.arange(10.0)
    assert found.evaluate(data.x_test, data.y_test, weight).accuracy == pytest.approx(
        weight @ right.mean(axis=1) / weight.sum(), rel=1e-12
    )
    found.save(tmp_path / "m.safetensors")
    loaded = Model.load(tmp_path / "m.safetensors")
    assert (loaded.task, loaded.class_names) == ("multilabel", data.class_names)
    np.testing.assert_array_equal(loaded.predict_proba(data.x_test), probabilities)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "softmax_focal_cross_entropy", "mean_squared_error"])
def test_losses_that_several_labels_cannot_have(loss):
    expected = f"loss was '{loss}'; it must be binary_cross_entropy or binary_focal_cross_entropy, which judge each"
    with pytest.raises(ArgumentError, match=expected):
        Model.for_data(Network([4, 3], loss=loss), labelled())


def test_several_labels_have_an_output_each():
    with pytest.raises(ArgumentError, match="it must be of 2 outputs last"):
        Model.for_data(Network([4, 1], loss="binary_cross_entropy"), labelled(2))


# --- weights ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "softmax_focal_cross_entropy", "half_squared_error"])
def test_the_accuracy_is_weighted_whatever_the_loss(loss):
    data, found = dataset(), model(loss=loss)
    weight = np.arange(30) % 4.0
    right = found.predict(data.x_train) == data.y_train
    assert found.evaluate(data.x_train, data.y_train, weight).accuracy == pytest.approx(
        weight @ right / weight.sum(), rel=1e-12
    )


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_scaling_is_fitted_on_what_counts(task):
    data = dataset(task)
    weight = np.arange(30) % 3
    weighted = replace(data, weight_train=weight, weight_test=np.ones(10))
    loss = "softmax_cross_entropy" if task == "classification" else "mean_squared_error"
    found = Model.for_data(Network([4, data.outputs], loss=loss), weighted)
    np.testing.assert_allclose(found.scaler.offset, data.x_train[weight > 0].mean(axis=0))
    if task == "regression":
        np.testing.assert_allclose(found.target_scaler.offset, data.y_train[weight > 0].mean(axis=0))


def test_a_bare_network_is_no_model(tmp_path):
    Network([4, 3]).save(tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="without its data's scaling"):
        Model.load(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, metadata: tensors.pop("input.scale"),
        lambda tensors, metadata: tensors.pop("input.offset"),
        lambda tensors, metadata: tensors.update({"input.scale": np.zeros(4)}),
        lambda tensors, metadata: tensors.update({"input.scale": np.ones(3)}),
        lambda tensors, metadata: metadata.pop("task"),
        lambda tensors, metadata: metadata.update(task="regression"),
        lambda tensors, metadata: metadata.update(task="other"),
        lambda tensors, metadata: metadata.update(class_names=None),
        lambda tensors, metadata: metadata.update(class_names=["a", "b"]),
        lambda tensors, metadata: metadata.update(class_names=[1, 2, 3]),
        lambda tensors, metadata: metadata.update(class_names=[["a"], "b", "c"]),
        lambda tensors, metadata: metadata.update(origin=3),
        lambda tensors, metadata: metadata.update(class_names="abc"),
        lambda tensors, metadata: metadata.update(class_names=["a", "b", "b"]),
        lambda tensors, metadata: metadata.update(class_names={"a": 1, "b": 2, "c": 3}),
        lambda tensors, metadata: metadata.update(feature_names="xyzw"),
        lambda tensors, metadata: metadata.update(feature_names=["x"]),
        lambda tensors, metadata: metadata.update(feature_names=["x", "x", "y", "z"]),
        lambda tensors, metadata: metadata.update(feature_names=[None] * 4),
        lambda tensors, metadata: metadata.update(task=["classification"]),
        lambda tensors, metadata: metadata.update(task=10**30),
        lambda tensors, metadata: tensors.update({"input.scale": np.full(4, np.nan)}),
        lambda tensors, metadata: tensors.update({"input.offset": np.full(4, np.inf)}),
        lambda tensors, metadata: tensors.update({"input.offset": np.zeros((4, 1)), "input.scale": np.ones((4, 1))}),
        lambda tensors, metadata: tensors.update({"target.offset": np.zeros(3), "target.scale": np.ones(3)}),
        lambda tensors, metadata: tensors["layer1.bias"].fill(np.nan),
        lambda tensors, metadata: tensors.update({"layer1.bias": np.full(tensors["layer1.bias"].shape, 1e300)}),
        lambda tensors, metadata: tensors.update({"input.offset": np.zeros(3), "input.scale": np.ones(3)}),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(tmp_path, spoil):
    path = tmp_path / "m.safetensors"
    model().save(path)
    tensors, metadata = model_file.read(path)
    spoil(tensors, metadata["model"])
    model_file.write(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="does not describe a model") as caught:
        Model.load(path)
    assert len(str(caught.value)) < 400


def test_a_file_of_one_class_is_refused_as_earlier_versions_wrote_it(tmp_path):
    """With one output, which has two probabilities and one name."""
    path = tmp_path / "m.safetensors"
    model().save(path)
    tensors, metadata = model_file.read(path)
    network = Network([4, 1], loss="binary_cross_entropy", backend="numpy")
    metadata["model"]["class_names"], metadata["network"] = ["only"], network.config()
    kept = {name: array for name, array in tensors.items() if not name.startswith("layer")}
    model_file.write(path, kept | network.weights(), metadata)
    with pytest.raises(CheckpointError, match="class_names names one class; it must name two or more"):
        Model.load(path, "numpy")


@pytest.mark.parametrize("contents", [None, 3, "x", [], [{}]])
def test_what_a_file_says_of_its_model_is_a_table(tmp_path, contents):
    path = tmp_path / "m.safetensors"
    model().save(path)
    tensors, metadata = model_file.read(path)
    model_file.write(path, tensors, {**metadata, "model": contents})
    with pytest.raises(CheckpointError, match="does not describe a model"):
        Model.load(path)


def test_targets_far_from_those_of_training_are_not_bounded():
    x, y = np.arange(20.0)[:, None], np.arange(20.0)
    model = Model.for_data(
        Network([1, 1], loss="mean_squared_error", backend="numpy"), Dataset(x, y, x[:0], y[:0], task="regression")
    )
    assert model.values(model.targets(np.array([[1e6]])).astype(float))[0, 0] == pytest.approx(1e6)
    assert model.inputs(np.array([[1e6]]))[0, 0] < 20
    assert model.warnings(np.array([[1e6]])) == (
        "input 0, which was never so far out in training, moved in 1 of 1 rows here; what moved is bounded",
    )
