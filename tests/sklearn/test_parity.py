"""The same losses and weights as scikit-learn's own MLPs: the same random_state draws the same weights and batches."""

import numpy as np
import pytest
from sklearn import neural_network as theirs
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning

from gpubp import sklearn as ours
from gpubp.backends import BACKENDS

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}"),
    # of scikit-learn's call of SciPy's L-BFGS-B
    pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning"),
]

DIGITS, CLASSES = (part[:300] for part in load_digits(return_X_y=True))
DIABETES, VALUES = load_diabetes(return_X_y=True)
MANY, LABELS = make_multilabel_classification(100, random_state=0)
PROBLEMS = {
    "classes": ("MLPClassifier", DIGITS / 16, CLASSES),
    "two classes": ("MLPClassifier", DIGITS / 16, CLASSES > 4),
    "labels": ("MLPClassifier", MANY / 10, LABELS),
    "values": ("MLPRegressor", DIABETES, VALUES / 100),
    "values of two": ("MLPRegressor", DIABETES, np.column_stack([VALUES, -VALUES]) / 100),
}
WEIGHTS = np.random.default_rng(0).choice([0.0, 0.5, 1, 3], 500)
EPOCHS = 20
BOUND = 1e-8
"""What the losses may differ by, in float64."""


def both(problem, weights=None, backend="numpy", **chosen):
    """The fitted estimators, theirs and ours, and the inputs. batch_size: the last batch is a ragged one."""
    kind, x, y = PROBLEMS[problem]
    settings = {"hidden_layer_sizes": (12, 8), "random_state": 3, "max_iter": EPOCHS, "batch_size": 64, **chosen}
    weights = None if weights is None else weights[: len(x)]
    fitted = [
        getattr(module, kind)(**settings, **own).fit(x, y, sample_weight=weights)
        for module, own in ((theirs, {}), (ours, {"backend": backend}))
    ]
    return *fitted, x


def assert_alike(their, our, x):
    assert our.n_iter_ == their.n_iter_
    assert our.t_ == their.t_
    np.testing.assert_allclose(our.loss_curve_, their.loss_curve_, rtol=0, atol=BOUND)
    assert our.loss_ == our.loss_curve_[-1]
    for part in ("coefs_", "intercepts_"):
        for w, reference in zip(getattr(our, part), getattr(their, part), strict=True):
            np.testing.assert_allclose(w, reference, rtol=1e-6, atol=BOUND)
    predict = "predict_proba" if hasattr(our, "predict_proba") else "predict"
    np.testing.assert_allclose(getattr(our, predict)(x), getattr(their, predict)(x), rtol=1e-6, atol=BOUND)


SOLVERS = {
    "adam": {"solver": "adam"},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
}


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_loss_curve_is_scikit_learns(problem, solver, weights):
    assert_alike(*both(problem, weights, **SOLVERS[solver]))


@pytest.mark.parametrize("backend", [name for name, devices in BACKENDS.items() if "cpu" in devices])
@pytest.mark.parametrize("problem", ["classes", "two classes", "values"])
def test_every_backend_of_the_cpu_has_scikit_learns_loss_curve(problem, backend):
    assert_alike(*both(problem, WEIGHTS, backend, max_iter=5))


@pytest.mark.parametrize(
    "chosen",
    [
        {"solver": "sgd", "momentum": 0.0, "alpha": 0.0},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.3},
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.2, "n_iter_no_change": 1, "tol": 0.05},
        {"epsilon": 1e-3, "beta_1": 0.5, "beta_2": 0.9},
        {"alpha": 2.0, "activation": "tanh"},
        {"activation": "logistic"},
        {"activation": "identity", "hidden_layer_sizes": ()},
        {"shuffle": False, "batch_size": "auto"},
        {"n_iter_no_change": 2, "tol": 0.1},
        {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 3},
        {"solver": "sgd", "early_stopping": True, "learning_rate": "adaptive", "n_iter_no_change": 1},
    ],
    ids=lambda chosen: " ".join(map(str, chosen.values())),
)
@pytest.mark.parametrize("problem", ["two classes", "values"])
def test_settings_mean_what_they_mean_in_scikit_learn(problem, chosen):
    their, our, x = both(problem, **chosen)
    assert_alike(their, our, x)
    if chosen.get("early_stopping"):
        np.testing.assert_allclose(our.validation_scores_, their.validation_scores_, atol=BOUND)
        assert our.best_validation_score_ == pytest.approx(their.best_validation_score_, abs=BOUND)
        assert our.best_loss_ is None
    else:
        assert our.best_loss_ == pytest.approx(their.best_loss_, abs=BOUND)


def test_training_that_stops_early_stops_with_scikit_learns():
    their, our, x = both("two classes", n_iter_no_change=1, tol=0.02)
    assert our.n_iter_ < EPOCHS
    assert_alike(their, our, x)


@pytest.mark.parametrize("problem", ["classes", "labels", "values"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_lbfgs_minimises_what_scikit_learn_minimises(problem, weights):
    their, our, _x = both(problem, weights, solver="lbfgs", alpha=0.1)
    assert our.n_iter_ == their.n_iter_
    assert our.loss_ == pytest.approx(their.loss_, abs=BOUND)
    np.testing.assert_allclose(our.coefs_[0], their.coefs_[0], atol=1e-6)
    assert not hasattr(our, "loss_curve_")


def test_lbfgs_of_several_values_comes_to_a_minimum():
    # scikit-learn's gradient is of the sum over the outputs there, and its loss their mean
    _their, our, x = both("values of two", solver="lbfgs", hidden_layer_sizes=(), alpha=0.0, max_iter=200, tol=1e-6)
    y = PROBLEMS["values of two"][2]
    design = np.column_stack([x, np.ones(len(x))])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert our.loss_ == pytest.approx(0.5 * np.mean(residual**2), rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_partial_fit_and_warm_start_go_on_as_scikit_learns(solver):
    _, x, y = PROBLEMS["classes"]
    pair = []
    for module, own in ((theirs, {}), (ours, {"backend": "numpy"})):
        estimator = module.MLPClassifier((10,), random_state=0, warm_start=True, max_iter=3, **SOLVERS[solver], **own)
        for start in (0, 100, 200):
            estimator.partial_fit(x[start : start + 100], y[start : start + 100], classes=range(10))
        pair.append(estimator.fit(x, y))
    assert len(pair[1].loss_curve_) == 6
    assert_alike(*pair, x)


def test_weights_that_somebody_sets_are_taken():
    _, x, y = PROBLEMS["classes"]
    first, second = (theirs.MLPClassifier((10,), random_state=seed, max_iter=2).fit(x, y) for seed in (0, 1))
    our = ours.MLPClassifier((10,), random_state=0, max_iter=2, backend="numpy", warm_start=True).fit(x, y)
    our.coefs_ = [w.copy() for w in second.coefs_]
    our.intercepts_ = [b.copy() for b in second.intercepts_]
    np.testing.assert_allclose(our.predict_proba(x), second.predict_proba(x), rtol=1e-9)
    our.coefs_[0][...] = first.coefs_[0]
    second.coefs_[0][...] = first.coefs_[0]
    np.testing.assert_allclose(our.predict_proba(x), second.predict_proba(x), rtol=1e-9)
    second.set_params(warm_start=True, random_state=0)
    assert_alike_after_warm_start(second.fit(x, y), our.fit(x, y))


def assert_alike_after_warm_start(their, our):
    np.testing.assert_allclose(our.loss_curve_[-2:], their.loss_curve_[-2:], atol=BOUND)


def test_what_is_printed_is_scikit_learns(capsys):
    shown = []
    for module, own in ((theirs, {}), (ours, {"backend": "numpy"})):
        module.MLPClassifier((4,), random_state=0, max_iter=9, n_iter_no_change=1, tol=0.5, verbose=True, **own).fit(
            DIGITS / 16, CLASSES
        )
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "Iteration 1, loss = " in shown[1]
