"""The estimators as people use them: frames, pipelines, searches, pickles, threads, and the settings that are ours."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from packaging.version import Version
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from gpubp.errors import ArgumentError, BackendError
from gpubp.nn.losses import SquaredError
from gpubp.nn.optimizers import Step
from gpubp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
FAST = {"backend": "numpy", "random_state": 0, "hidden_layer_sizes": (8,), "learning_rate_init": 0.02, "max_iter": 30,
        "batch_size": 32}  # fmt: skip
REGRESSION = X[:, :3], X[:, 3]


@pytest.fixture(scope="module")
def fitted():
    return MLPClassifier(**FAST).fit(X, NAMES)


# --- what goes in -----------------------------------------------------------------------------------------------------
def test_text_labels_are_the_classes_and_the_predictions(fitted):
    assert list(fitted.classes_) == ["setosa", "versicolor", "virginica"]
    assert fitted.score(X, NAMES) > 0.95
    assert set(fitted.predict(X)) == set(NAMES)
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), probabilities)
    assert fitted.n_outputs_ == 3
    assert fitted.n_layers_ == 3
    assert fitted.out_activation_ == "softmax"


KNOWS_POLARS = Version(sklearn.__version__) >= Version("1.9")
"""Earlier ones do not find the names of the columns of polars 2."""


@pytest.mark.parametrize(
    "library",
    [pd, pytest.param(pl, marks=pytest.mark.skipif(not KNOWS_POLARS, reason="scikit-learn is too old for polars 2"))],
    ids=["pandas", "polars"],
)
def test_frames_are_taken_and_their_columns_are_known(library, fitted):
    frame = library.DataFrame({f"column {i}": X[:, i] for i in range(4)})
    estimator = MLPClassifier(**FAST).fit(frame, library.Series(NAMES.tolist()))
    assert list(estimator.feature_names_in_) == [f"column {i}" for i in range(4)]
    np.testing.assert_array_equal(estimator.predict_proba(frame), fitted.predict_proba(X))
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame[[f"column {i}" for i in (1, 0, 2, 3)]])


def test_sparse_matrices_are_refused():
    estimator = MLPClassifier(**FAST)
    assert not estimator.__sklearn_tags__().input_tags.sparse
    with pytest.raises(TypeError, match="parse"):
        estimator.fit(sparse.csr_array(X), Y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_the_cpu_follows_the_dtype_of_x_unless_asked(kind, dtype):
    x, y = X.astype(dtype), Y
    found = kind(**FAST | {"max_iter": 2}).fit(x, y)
    assert {part.dtype for part in found.coefs_ + found.intercepts_} == {np.dtype(dtype)}
    other = "float64" if dtype == "float32" else "float32"
    assert kind(**FAST | {"max_iter": 2}, precision=other).fit(x, y).coefs_[0].dtype == other
    outputs = found.predict_proba(x) if kind is MLPClassifier else found.predict(x)
    assert outputs.dtype == dtype


def test_several_labels_and_several_values():
    labels = np.column_stack([Y == 0, X[:, 0] > 0]).astype(int)
    estimator = MLPClassifier(**FAST).fit(X, labels)
    assert estimator.score(X, labels) > 0.9
    assert estimator.predict(X).shape == (150, 2)
    assert estimator.out_activation_ == "logistic"
    values = np.column_stack([X[:, 3], X[:, 2]])
    regressor = MLPRegressor(**FAST).fit(X[:, :2], values)
    assert regressor.predict(X[:, :2]).shape == (150, 2)
    assert regressor.score(X[:, :2], values) > 0.8


def test_one_class_is_what_is_predicted():
    estimator = MLPClassifier(**FAST).fit(X, np.full(150, "only"))
    assert set(estimator.predict(X)) == {"only"}
    np.testing.assert_array_equal(estimator.predict_proba(X), np.ones((150, 1)))


# --- scikit-learn's tools ---------------------------------------------------------------------------------------------
@pytest.mark.slow  # processes that import all of it
def test_pipelines_and_searches_with_processes():
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), MLPClassifier(**FAST))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 3000.0]}, n_jobs=2, cv=3).fit(X, NAMES)
    assert search.best_params_ == {"mlpclassifier__alpha": 1e-4}
    assert search.best_score_ > 0.9
    frame = pd.DataFrame({"size": X[:, 3], "kind": NAMES})
    columns = ColumnTransformer([("number", StandardScaler(), ["size"]), ("kind", OneHotEncoder(), ["kind"])])
    folds = KFold(3, shuffle=True, random_state=0)
    assert cross_val_score(make_pipeline(columns, MLPRegressor(**FAST)), frame, X[:, 2], cv=folds).min() > 0.8


def test_weights_are_routed():
    weights = (Y != 2).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = MLPClassifier(**FAST).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=True), estimator)
        routed = pipeline.fit(X, Y, sample_weight=weights)
    assert 2 not in routed.predict(X)


def test_clones_have_the_settings_and_no_weights(fitted):
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        twin.predict(X)


def test_a_pickle_holds_weights_and_settings_and_goes_on_as_the_original_does():
    estimator = MLPClassifier(**FAST)
    for _ in range(3):
        estimator.partial_fit(X, NAMES, classes=np.unique(NAMES))
    text = pickle.dumps(estimator)
    assert b"gpubp.nn" not in text
    assert b"gpubp.backends" not in text
    twin = pickle.loads(text)
    np.testing.assert_array_equal(twin.predict_proba(X), estimator.predict_proba(X))
    for each in (estimator, twin):
        each.partial_fit(X, NAMES)  # with adam's averages
    assert twin.loss_curve_ == estimator.loss_curve_
    np.testing.assert_array_equal(twin.coefs_[0], estimator.coefs_[0])


def test_threads_may_predict_with_one_estimator(fitted):
    parts = [X[start:] for start in range(100)]
    expected = [fitted.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for found, right in zip(pool.map(fitted.predict_proba, parts), expected, strict=True):
            np.testing.assert_array_equal(found, right)


# --- settings of ours -------------------------------------------------------------------------------------------------
def test_class_weights_are_sample_weights():
    weights = compute_sample_weight({"setosa": 3.0, "virginica": 0.5}, NAMES)
    weighted = MLPClassifier(**FAST).fit(X, NAMES, weights)
    found = MLPClassifier(**FAST, class_weight={"setosa": 3.0, "virginica": 0.5}).fit(X, NAMES)
    assert found.loss_curve_ == weighted.loss_curve_
    balanced = MLPClassifier(**FAST, class_weight="balanced").fit(X[:120], NAMES[:120])
    by_hand = MLPClassifier(**FAST).fit(X[:120], NAMES[:120], compute_sample_weight("balanced", NAMES[:120]))
    assert balanced.loss_curve_ == by_hand.loss_curve_


def test_dropout_is_of_the_random_state_and_not_of_predictions():
    first, second, other = (MLPClassifier(**FAST | {"random_state": s}, dropout=0.5).fit(X, Y) for s in (0, 0, 1))
    assert first.loss_curve_ == second.loss_curve_ != other.loss_curve_
    assert first.loss_curve_ != MLPClassifier(**FAST).fit(X, Y).loss_curve_
    np.testing.assert_array_equal(first.predict_proba(X), first.predict_proba(X))


def test_a_schedule_changes_the_learning_rate():
    plain, held, cosine = (MLPClassifier(**FAST, schedule=each).fit(X, Y) for each in (None, "constant", "cosine"))
    assert held.loss_curve_ == plain.loss_curve_
    assert cosine.loss_curve_ != plain.loss_curve_
    assert np.ptp(cosine.loss_curve_[-3:]) < 0.1 * np.ptp(plain.loss_curve_[-3:])
    stopped = MLPClassifier(**FAST, schedule=Step(every=25, factor=1e-30), tol=0.0, shuffle=False).fit(X, Y)
    assert stopped.loss_curve_[6] == pytest.approx(stopped.loss_curve_[20], rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "network_loss"),
    [
        ("focal_loss", "softmax_focal_cross_entropy"),
        ({"name": "log_loss", "label_smoothing": 0.1}, "softmax_cross_entropy"),
        ("softmax_cross_entropy", "softmax_cross_entropy"),
    ],
)
def test_losses_of_classes(loss, network_loss):
    found = MLPClassifier(**FAST, loss=loss).fit(X, Y)
    assert found._config["loss"]["name"] == network_loss
    assert found.score(X, Y) > 0.9


def test_two_classes_by_softmax_have_two_outputs():
    found = MLPClassifier(**FAST, loss="softmax_cross_entropy").fit(X, Y == 0)
    assert found.n_outputs_ == 2
    assert found.score(X, Y == 0) > 0.95


def test_losses_of_values():
    x, y = REGRESSION
    low, high = (MLPRegressor(**FAST, loss={"name": "quantile", "quantile": q}).fit(x, y) for q in (0.05, 0.95))
    assert np.mean(low.predict(x) < y) > 0.8
    assert np.mean(high.predict(x) > y) > 0.8
    ours = MLPRegressor(**FAST | {"alpha": 0.0}, loss=SquaredError()).fit(x, y)
    assert ours.loss_curve_[0] != MLPRegressor(**FAST | {"alpha": 0.0}).fit(x, y).loss_curve_[0]


def test_a_loss_is_the_same_by_its_name_and_as_a_mapping(tmp_path):
    x, y = REGRESSION
    two = np.column_stack([y, -y])
    curve = MLPRegressor(**FAST).fit(x, two).loss_curve_
    assert MLPRegressor(**FAST, loss={"name": "squared_error"}).fit(x, two).loss_curve_ == curve
    ours = MLPRegressor(**FAST, loss=SquaredError()).fit(x, two)
    ours.save(tmp_path / "model.safetensors")
    loaded = MLPRegressor.load(tmp_path / "model.safetensors", backend="numpy").set_params(**FAST)
    assert loaded.fit(x, two)._config["loss"] == ours._config["loss"]


def test_activations_of_gpubp_are_taken():
    activations = ["gelu", {"name": "elu", "alpha": 0.5}]
    found = MLPClassifier(**FAST | {"hidden_layer_sizes": (8, 6)}, activation=activations).fit(X, Y)
    assert [each["name"] for each in found._config["hidden_activation"]] == ["gelu", "elu"]
    assert found.score(X, Y) > 0.9


# --- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"solver": "adamw"}, "solver was 'adamw'; it must be one of sgd, adam, lbfgs; did you mean 'adam'"),
        ({"activation": "rleu"}, "activation was 'rleu'; .*did you mean 'relu'"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes was 0; it must be a whole number ≥ 1"),
        ({"learning_rate": "cosine"}, "learning_rate was 'cosine'; it must be one of constant, invscaling, adaptive"),
        ({"learning_rate_init": 0}, "learning_rate_init was 0; it must be a finite number > 0"),
        ({"momentum": 1.0}, "momentum was 1.0"),
        ({"alpha": -1}, "alpha was -1"),
        ({"max_iter": 0}, "max_iter was 0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change was 0"),
        ({"batch_size": "all"}, "batch_size was 'all'"),
        ({"shuffle": "yes"}, "shuffle was 'yes'; it must be True or False"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": 0.5, "solver": "lbfgs"}, "dropout and solver='lbfgs' exclude each other"),
        ({"schedule": "linear"}, "schedule was 'linear'"),
        ({"schedule": "cosine", "learning_rate": "adaptive"}, "exclude each other"),
        ({"precision": "float16x"}, "precision"),
        ({"backend": "nunpy"}, "backend was 'nunpy'; .*did you mean 'numpy'"),
        ({"backend": np}, "backend was <module"),
        ({"loss": "squared_error"}, "loss was 'squared_error'; it must be log_loss, focal_loss or one of"),
        ({"loss": "binary_cross_entropy"}, "loss was 'binary_cross_entropy'; .* for 3 classes"),
        ({"loss": {"label_smoothing": 0.1}}, "loss was .*; it must be one of"),
        ({"loss": {"name": "log_loss", "reduction": "sum"}}, "reduction 'mean'"),
        ({"class_weight": "even"}, "class_weight was 'even'"),
        ({"class_weight": [1, 2]}, r"class_weight was \[1, 2\]; it must be 'balanced', a mapping"),
        ({"hidden_layer_sizes": np.array(3.5)}, r"hidden_layer_sizes was array\(3.5\)"),
        ({"activation": np.array(3)}, r"activation was array\(3\)"),
        *[
            ({name: np.array(["a", "b"])}, rf"{name} was array\(\['a', 'b'\].*it must be one value")
            for name in (
                "schedule",
                "solver",
                "learning_rate",
                "batch_size",
                "n_iter_no_change",
                "precision",
                "device",
                "verbose",
                "loss",
                "class_weight",
            )
        ],
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(chosen, message):
    with pytest.raises(ArgumentError, match=message):
        MLPClassifier(**FAST | chosen).fit(X, Y)


@pytest.mark.parametrize("loss", ["poisson", "log_loss", "softmax_cross_entropy"])
def test_a_loss_of_values_is_none_of_classes(loss):
    with pytest.raises(ArgumentError, match=f"loss was '{loss}'; it must be one of half_squared_error"):
        MLPRegressor(**FAST, loss=loss).fit(*REGRESSION)


def test_a_backend_that_cannot_run_is_an_error():
    with pytest.raises(BackendError, match="cannot run on device 'gpu'"):
        MLPClassifier(**FAST | {"backend": "cupy", "device": "gpu"}).fit(X, Y)


@pytest.mark.parametrize(("x", "y"), [(X, Y + 1), (X * np.nan, Y), (X, Y[:-1])], ids=["class", "nan", "rows"])
def test_a_first_partial_fit_that_fails_leaves_no_classes_behind(x, y):
    estimator = MLPClassifier(**FAST)
    with pytest.raises(ValueError):
        estimator.partial_fit(x, y, classes=[0, 1, 2])
    assert list(estimator.partial_fit(X, Y // 2, classes=[0, 1, 2]).classes_) == [0, 1, 2]
    estimator = MLPClassifier(**FAST)
    with pytest.raises(ValueError):
        estimator.partial_fit(x, y, classes=[0, 1, 2])
    assert list(estimator.fit(X, Y // 2).classes_) == [0, 1]


@pytest.mark.parametrize(
    "classes",
    [5, "abc", [0, "a", 2], [0, 1, np.nan], [[0, 1, 2]], np.zeros((3, 2)), [], [0, 1, 2.5], {0, 1, 2}, [None, 0, 1]],
    ids=str,
)
def test_classes_that_are_none_are_refused_in_the_first_call_and_later(classes):
    estimator = MLPClassifier(**FAST)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="classes was "):
            estimator.partial_fit(X, Y, classes=classes)
        estimator.partial_fit(X, Y, classes=[2, 0, 1])


def test_the_names_of_labels_are_those_of_their_columns():
    labels = np.column_stack([Y == 0, X[:, 0] > 0]).astype(int)
    with pytest.raises(ArgumentError, match="classes has 3 names; it must have one for each of 2 labels"):
        MLPClassifier(**FAST).partial_fit(X, labels, classes=["a", "b", "c"])
    assert list(MLPClassifier(**FAST).partial_fit(X, labels, classes=["wide", "setosa"]).classes_) == ["wide", "setosa"]


@pytest.mark.parametrize("widths", [(5,), (8, 8), ()])
def test_training_does_not_go_on_with_other_widths(widths):
    estimator = MLPClassifier(**FAST, warm_start=True).fit(X, Y)
    before = estimator.predict_proba(X)
    estimator.set_params(hidden_layer_sizes=widths)
    for train in (estimator.fit, estimator.partial_fit):
        with pytest.raises(ArgumentError, match=r"hidden_layer_sizes was .*; it must be \(8,\), as fitted"):
            train(X, Y)
    np.testing.assert_array_equal(estimator.predict_proba(X), before)
    assert estimator.set_params(warm_start=False).fit(X, Y).coefs_[0].shape == (4, *widths, 3)[:2]


@pytest.mark.parametrize("first", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_a_warm_start_with_other_ways_to_end_begins_their_curves(first):
    settings = {"early_stopping": False, "solver": "adam"}
    for then in ({"early_stopping": True}, {"early_stopping": False}):
        estimator = MLPClassifier(**FAST | settings | first, warm_start=True).fit(X, Y)
        before = estimator.n_iter_
        estimator.set_params(**settings | then).fit(X, Y)
        same = first.get("early_stopping", False) == then["early_stopping"] and "solver" not in first
        assert len(estimator.loss_curve_) == estimator.n_iter_ + same * before
        assert (estimator.validation_scores_ is None) != then["early_stopping"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="classes is missing"):
        MLPClassifier(**FAST).partial_fit(X, Y)
    with pytest.raises(ArgumentError, match="partial_fit and early_stopping exclude each other"):
        MLPClassifier(**FAST, early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ArgumentError, match="y has the class 2"):
        MLPClassifier(**FAST).partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="egative"):
        MLPClassifier(**FAST).fit(X, Y, -np.ones(150))
    with pytest.raises(ArgumentError, match="validation_fraction"):
        MLPClassifier(**FAST, early_stopping=True, validation_fraction=0.001).fit(X, Y)
    with pytest.raises(ArgumentError, match="class_weight and several labels in y exclude each other"):
        MLPClassifier(**FAST, class_weight="balanced").fit(X, np.column_stack([Y > 0, Y > 1]).astype(int))
    assert not hasattr(MLPClassifier(**FAST | {"solver": "lbfgs"}), "partial_fit")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_training_that_diverges_says_so():
    with pytest.raises(ArgumentError, match="X led to weights of NaN or infinity"):
        MLPRegressor(**FAST | {"solver": "sgd", "learning_rate_init": 1e30, "activation": "identity"}).fit(*REGRESSION)
