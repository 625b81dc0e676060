"""What `gpubp train` made as an estimator, and an estimator as a model that `gpubp predict` reads."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from exports import table_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from gpubp.data import Dataset
from gpubp.errors import ArgumentError, CheckpointError, DataError
from gpubp.nn.network import Network
from gpubp.sklearn import MLPClassifier, MLPRegressor
from gpubp.training import TrainingConfig, fit
from gpubp.training.model import Model

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")

RNG = np.random.default_rng(2)
X = RNG.normal(3, [1, 20, 0.1], size=(120, 3))
FRAME = pd.DataFrame(X, columns=["u", "v", "w"])
VALUES = 100 + 5 * X[:, 0] - X[:, 1]
CLASSES = (X[:, 0] > 3) + (X[:, 1] > 3).astype(np.int64)
LABELS = np.column_stack([X[:, 0] > 3, X[:, 1] > 3]).astype(np.float64)
FAST = {"backend": "numpy", "random_state": 0, "hidden_layer_sizes": (6,), "max_iter": 2}
PROBLEMS = {
    "classes": (CLASSES, "classification", "softmax_cross_entropy", ("a", "b", "c")),
    "two classes": (CLASSES // 2, "classification", "binary_cross_entropy", ("no", "yes")),
    "two outputs": (CLASSES // 2, "classification", "softmax_cross_entropy", ("no", "yes")),
    "labels": (LABELS, "multilabel", "binary_cross_entropy", ("first", "second")),
    "values": (VALUES, "regression", "mean_squared_error", ()),
}


def trained(problem, folder, **chosen):
    """The path of a model of gpubp, and the model."""
    y, task, loss, names = PROBLEMS[problem]
    data = Dataset(X, y, X[:0], y[:0], task=task, class_names=names, feature_names=("u", "v", "w"))
    outputs = 1 if problem in ("two classes", "values") else len(names)
    settings = {"hidden_activation": "tanh", "dtype": "float64", "backend": "numpy", **chosen}
    network = Network([3, 8, 5, outputs], loss=loss, **settings)
    model = fit(network, data, TrainingConfig(epochs=3)).model
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors", model


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_loaded_model_begins_warm_with_the_weights_that_it_has(problem, tmp_path):
    path, model = trained(problem, tmp_path)
    estimator = kind_of(problem).load(path, backend="numpy").set_params(warm_start=True, learning_rate_init=1e-12)
    y, _, _, names = PROBLEMS[problem]
    before = estimator.predict(FRAME)
    estimator.fit(FRAME, np.array(names)[y] if problem in ("classes", "two classes", "two outputs") else y)
    np.testing.assert_allclose(estimator.coefs_[-1].T, model.network.weights()["layer3.weight"], atol=1e-9)
    assert before.shape == estimator.predict(FRAME).shape


def kind_of(problem):
    return MLPRegressor if problem == "values" else MLPClassifier


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_trained_model_predicts_in_a_pipeline_what_it_predicts_by_itself(problem, tmp_path):
    path, model = trained(problem, tmp_path)
    estimator = kind_of(problem).load(path, backend="numpy")
    pipeline = make_pipeline(FunctionTransformer(), estimator)
    expected = model.predict(X)
    if problem == "values":
        np.testing.assert_allclose(pipeline.predict(FRAME), expected[:, 0])
    elif problem == "labels":
        np.testing.assert_array_equal(pipeline.predict(FRAME), expected)
    else:
        names = np.array(PROBLEMS[problem][3])
        np.testing.assert_array_equal(pipeline.predict(FRAME), names[expected])
        np.testing.assert_allclose(pipeline.predict_proba(FRAME), model.predict_proba(X))
    assert estimator.hidden_layer_sizes == (8, 5)
    assert estimator.activation == "tanh"
    assert list(estimator.feature_names_in_) == ["u", "v", "w"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_loaded_model_is_saved_as_it_was_and_can_be_trained_on(problem, tmp_path):
    path, model = trained(problem, tmp_path, bias=problem != "values", dropout=[0.0, 0.05])
    estimator = kind_of(problem).load(path, backend="numpy")
    estimator.save(tmp_path / "again.safetensors")
    again = Model.load(tmp_path / "again.safetensors", "numpy")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.network.config() == model.network.config()
    assert dict(again.origin) == dict(model.origin)
    y, _, _, names = PROBLEMS[problem]
    if problem not in ("labels", "values"):
        y = np.array(names)[y]
    estimator.set_params(learning_rate_init=0.02, batch_size=20)
    for _ in range(40):
        estimator.partial_fit(FRAME, y)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]
    assert estimator.score(FRAME, y) > 0.8


@pytest.mark.parametrize(
    ("problem", "names"),
    [("classes", ("9", "10", "2")), ("two classes", ("yes", "no")), ("two outputs", ("yes", "no"))],
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_classes_of_a_loaded_model_are_sorted_as_the_scorers_of_scikit_learn_need_them(
    problem, names, bias, tmp_path, monkeypatch
):
    y, *rest, _ = PROBLEMS[problem]
    monkeypatch.setitem(PROBLEMS, problem, (y, *rest, names))
    path, model = trained(problem, tmp_path, bias=bias)
    estimator = MLPClassifier.load(path, backend="numpy")
    order = np.argsort(names)
    assert list(estimator.classes_) == sorted(names)
    np.testing.assert_allclose(estimator.predict_proba(FRAME), model.predict_proba(X)[:, order], atol=1e-15)
    named = np.array(names)[y]
    np.testing.assert_array_equal(estimator.predict(FRAME), np.array(names)[model.predict(X)])
    expected = -np.log(model.predict_proba(X)[np.arange(len(y)), y]).mean()
    assert get_scorer("neg_log_loss")(estimator, FRAME, named) == pytest.approx(-expected)
    if len(names) == 2:
        likelier = model.predict_proba(X)[:, names.index("yes")]
        found = get_scorer("roc_auc")(estimator, FRAME, named)
        assert found == pytest.approx(roc_auc_score(named == "yes", likelier))
    estimator.save(tmp_path / "again.safetensors")
    again = Model.load(tmp_path / "again.safetensors", "numpy")
    assert again.class_names == names  # by whose order the fingerprint knows the data
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    estimator.fit(FRAME, named).save(tmp_path / "other.safetensors")
    assert Model.load(tmp_path / "other.safetensors", "numpy").class_names == tuple(sorted(names))


@pytest.mark.parametrize("names", [["9", "10", "2"], [9, 10, 2]], ids=["text", "numbers"])
def test_a_loaded_model_is_trained_on_with_classes_in_any_order(names, tmp_path):
    y = np.array(names)[CLASSES]
    MLPClassifier(**FAST).fit(FRAME, y).save(tmp_path / "model.safetensors")
    estimator = MLPClassifier.load(tmp_path / "model.safetensors", backend="numpy")
    known = list(estimator.classes_)
    assert known == ["10", "2", "9"]
    estimator.set_params(learning_rate_init=0.02, batch_size=20)
    for _ in range(40):
        estimator.partial_fit((FRAME - X.mean(axis=0)) / X.std(axis=0), y.astype(str))
    assert list(estimator.classes_) == known
    assert estimator.score((FRAME - X.mean(axis=0)) / X.std(axis=0), y.astype(str)) > 0.8


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_fitted_estimator_is_a_model_of_gpubp(problem, tmp_path):
    y, task, _, names = PROBLEMS[problem]
    given = y if problem in ("labels", "values") else np.array(names)[y]
    estimator = kind_of(problem)(**FAST).fit(FRAME, given)
    estimator.save(tmp_path / "model.safetensors")
    model = Model.load(tmp_path / "model.safetensors", "numpy")
    assert (model.task, model.feature_names) == (task, ("u", "v", "w"))
    if problem == "values":
        np.testing.assert_allclose(model.predict(X)[:, 0], estimator.predict(FRAME))
    else:
        np.testing.assert_allclose(model.predict_proba(X), estimator.predict_proba(FRAME))
    again = kind_of(problem).load(tmp_path / "model.safetensors", backend="numpy")
    np.testing.assert_array_equal(again.predict(FRAME).astype(str), estimator.predict(FRAME).astype(str))


def test_a_model_of_another_task_is_refused(tmp_path):
    path, _ = trained("values", tmp_path)
    with pytest.raises(ArgumentError, match="MLPRegressor is for values"):
        MLPClassifier.load(path, backend="numpy")
    path, _ = trained("classes", tmp_path)
    with pytest.raises(ArgumentError, match="MLPClassifier is for classes"):
        MLPRegressor.load(path, backend="numpy")
    with pytest.raises(CheckpointError, match="there is no model file"):
        MLPRegressor.load(tmp_path / "none.safetensors")


def test_a_single_class_is_no_model(tmp_path):
    estimator = MLPClassifier(**FAST).fit(X, np.full(len(X), "a"))
    with pytest.raises(ArgumentError, match="classes_ has the class a alone; it must have two or more"):
        estimator.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["median", "error"])
@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_model_of_a_table_with_text_and_gaps_reads_its_columns(missing, library, tmp_path):
    model, columns, x = table_model(missing)
    model.save(tmp_path / "model.safetensors")
    estimator = MLPClassifier.load(tmp_path / "model.safetensors", backend="numpy")
    frame = library.DataFrame({name: list(columns[name]) for name in sorted(columns)})
    np.testing.assert_array_equal(estimator.predict_proba(frame), model.predict_proba(x))
    rows = np.array(list(zip(*columns.values(), strict=True)), dtype=object)
    np.testing.assert_array_equal(estimator.predict_proba(rows), model.predict_proba(x))
    estimator.save(tmp_path / "again.safetensors")
    again = Model.load(tmp_path / "again.safetensors", "numpy")
    assert again.preparation == model.preparation
    assert again.feature_names == model.feature_names
    estimator.partial_fit(frame, np.array(["no", "yes"])[[0, 1] * 45])
    twin = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(twin.predict_proba(frame), estimator.predict_proba(frame))
    with pytest.raises(ArgumentError, match="X lacks the columns city, gpubp: gemm 1; it must have those"):
        estimator.predict(frame[["size", "label"]])
    with pytest.raises(ArgumentError, match=r"X has shape \(2, 3\); it must have shape \(rows, 4\)"):
        estimator.predict(np.ones((2, 3)))
    unseen = np.array(rows)
    unseen[0, 1], unseen[1, 1] = "Lima", float("inf")
    assert np.isfinite(estimator.predict_proba(unseen)).all()
    rows[3, 0] = "many"
    with pytest.raises(DataError, match="X holds 'many' in row 3 of column size; it must be a number"):
        estimator.predict(rows)


def test_a_gap_that_the_training_refused_is_refused(tmp_path):
    model, columns, _ = table_model("error")
    model.save(tmp_path / "model.safetensors")
    estimator = MLPClassifier.load(tmp_path / "model.safetensors", backend="numpy")
    with pytest.raises(DataError, match="of column city has no value"):
        estimator.predict(pd.DataFrame(columns).assign(city=None))
