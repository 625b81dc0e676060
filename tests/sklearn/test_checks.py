"""scikit-learn's own checks of estimators, without an expected failure.

On the CPU all of them at its settings; on the emulated device, which computes in float32 and takes long, some of them.
"""

import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpubp.backends import BACKENDS
from gpubp.sklearn import MLPClassifier, MLPRegressor

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}"),
    # pandas' and scikit-learn's own, in the checks
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
KINDS = (MLPClassifier, MLPRegressor)
EPOCHS = 100
"""scikit-learn's `max_iter` for its own MLPs in these checks."""
SLOW_BACKENDS = [name for name, devices in BACKENDS.items() if "cpu" in devices and name != "numpy"]

ON_THE_DEVICE = (
    "check_estimators_overwrite_params",
    "check_fit2d_1sample",
    "check_dict_unchanged",
    "check_estimators_pickle",
    "check_estimators_nan_inf",
    "check_n_features_in",
    "check_sample_weights_list",
    "check_fit_idempotent",
    "check_readonly_memmap_input",
)


def with_checks(estimators):
    """scikit-learn's mark, whose cases are a list: pytest refuses the iterator of scikit-learn 1.7."""
    mark = parametrize_with_checks(estimators).mark
    names, cases = mark.args
    return pytest.mark.parametrize(names, list(cases), **mark.kwargs)


@pytest.mark.slow
@with_checks([kind(max_iter=EPOCHS, backend="numpy") for kind in KINDS])
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.exhaustive
@with_checks([kind(max_iter=EPOCHS, backend=name) for kind in KINDS for name in SLOW_BACKENDS])
def test_scikit_learns_checks_pass_on_other_cpu_backends(estimator, check):
    check(estimator)


@pytest.mark.parametrize("backend", ["numpy", *SLOW_BACKENDS])
@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier(max_iter=EPOCHS, solver="lbfgs"),
        MLPRegressor(max_iter=EPOCHS, solver="sgd", tol=1e-2, random_state=42),
    ],
    ids=["classifier", "regressor"],
)
def test_weights_are_repetitions_by_scikit_learns_check_at_its_settings(estimator, backend):
    chosen = clone(estimator).set_params(backend=backend)
    estimator_checks.check_sample_weight_equivalence_on_dense_data(type(estimator).__name__, chosen)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["cupy", "numba"])
@pytest.mark.parametrize("check", ON_THE_DEVICE)
@pytest.mark.parametrize("kind", KINDS)
def test_named_checks_pass_on_the_emulated_device(kind, check, backend):
    estimator = kind(max_iter=2, hidden_layer_sizes=(4,), backend=backend, device="emulator")
    getattr(estimator_checks, check)(kind.__name__, estimator)
