"""scikit-learn as a contender: MLPRegressor or MLPClassifier, one `partial_fit` a step."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from gpubp.bench import runners
from gpubp.bench.runners import Stepper
from gpubp.bench.timing import Runner
from gpubp.bench.works import TrainingStep, Work


def make(work: Work, threads: int = 1) -> Runner:
    """Return a runner of a training step. Its threads are those of the BLAS, which `worker` limits."""
    assert isinstance(work, TrainingStep)
    return runners.of_step(lambda: _stepper(work))


def _stepper(work: TrainingStep) -> Stepper:
    kind = MLPRegressor if work.regression else MLPClassifier
    model = kind(
        hidden_layer_sizes=work.sizes[1:-1],
        solver="sgd",
        alpha=0,
        batch_size=work.rows,
        learning_rate_init=work.learning_rate,
        momentum=0,
        nesterovs_momentum=False,
        shuffle=False,
    )
    x, y = work.batch()
    every_class = {} if work.regression else {"classes": np.arange(work.sizes[-1])}
    model.partial_fit(x, y, **every_class)
    for own_w, own_b, (w, b) in zip(model.coefs_, model.intercepts_, work.weights(), strict=True):
        own_w[...], own_b[...] = w.T, b
    # its squared error is a mean over the outputs too
    scale = work.sizes[-1] if work.regression else 1
    return Stepper(lambda: model.partial_fit(x, y), lambda: scale * float(model.loss_))
