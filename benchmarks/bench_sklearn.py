"""Fitting our MLPClassifier and scikit-learn's: the same weights, batches and epochs, in the same dtype.

python -m pytest benchmarks/bench_sklearn.py --benchmark-enable

The estimators take turns of one fit each, so that what else the machine does meets all alike; `extra_info` has the
ratio of scikit-learn's time to ours, of the fastest fits.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from gpubp import sklearn as ours
from gpubp.backends import BACKENDS, detection

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")

TURNS = 7
"""Fits of each estimator."""


def digits():
    return load_digits(return_X_y=True)


def wide():
    """20,000 x 100, ten classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 100))
    return x, (x @ rng.normal(size=(100, 10))).argmax(axis=1)


WORKS = {
    "digits": (digits, {"hidden_layer_sizes": (100,), "max_iter": 20}),
    "wide": (wide, {"hidden_layer_sizes": (512, 256), "max_iter": 1}),
}
"""What is fitted: the data, and the settings. The number of epochs is what makes a fit long enough to measure."""


@pytest.mark.parametrize("backend", [name for name, devices in BACKENDS.items() if "cpu" in devices])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("work", WORKS)
def test_fit(benchmark, work, dtype, solver, backend):
    found = detection.probe(backend, "cpu")
    if not found.works:
        pytest.skip(f"{backend}: {found}")
    data, settings = WORKS[work]
    x, y = data()
    x = x.astype(dtype)
    chosen = {**settings, "solver": solver, "random_state": 0, "tol": 0.0, "n_iter_no_change": 100}
    theirs = neural_network.MLPClassifier(**chosen)
    mine = ours.MLPClassifier(**chosen, backend=backend)
    times = {theirs: [], mine: []}

    def turn():
        for estimator, taken in times.items():
            start = time.perf_counter()
            estimator.fit(x, y)
            taken.append(time.perf_counter() - start)

    benchmark.pedantic(turn, rounds=TURNS, warmup_rounds=1)
    ratio = min(times[theirs]) / min(times[mine])
    benchmark.extra_info |= {"ratio": ratio, "scikit-learn": min(times[theirs]), "gpubp": min(times[mine])}
    print(
        f"\n{work} {dtype} {solver} {backend}: scikit-learn {min(times[theirs]) * 1e3:.1f} ms, {ratio:.2f} times ours"
    )
    np.testing.assert_allclose(mine.loss_curve_, theirs.loss_curve_, rtol=1e-3)
