"""A pickled pipeline of scikit-learn's own: its scaler and its MLP, with the model's weights."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np

from gpubp.errors import BackendError, StateError
from gpubp.export.folded import Folded
from gpubp.training.model import Model

ACTIVATIONS = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
"""The hidden activations that scikit-learn's MLPs have, by gpubp's names."""


def contents(model: Model) -> bytes:
    """Return the pickle of a pipeline that predicts from raw inputs what the model predicts.

    Raises:
        BackendError: scikit-learn is not installed.
        ArgumentError: scikit-learn's MLPs have no such activation or loss.
    """
    return pickle.dumps(pipeline(model))


def pipeline(model: Model) -> Any:
    """Return the pipeline. Raises as `contents`."""
    try:
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer, StandardScaler
    except ImportError as error:
        raise BackendError(f"the export needs scikit-learn: {error}; pip install 'gpubp[sklearn]'") from error
    if model.task == "classification":
        # scikit-learn has classes in the order of their names, where 10 comes before 2
        model = model.reordered(np.argsort(model.class_names))
    folded = Folded.of(model)
    names = np.array(model.feature_names, dtype=object) if model.feature_names else None
    steps = []
    if folded.scales:
        scaling = StandardScaler().fit(np.zeros((1, len(folded.offset))))
        scaling.mean_, scaling.scale_, scaling.var_ = folded.offset, 1 / folded.scale, 1 / folded.scale**2
        if names is not None:
            scaling.feature_names_in_ = names
        steps.append(("scaling", scaling))
    if folded.limit is not None:
        bounds = {"a_min": -folded.limit, "a_max": folded.limit}
        steps.append(("bounds", FunctionTransformer(np.clip, kw_args=bounds)))
    network = _network(model, folded)
    if names is not None and not steps:
        network.feature_names_in_ = names
    return Pipeline([*steps, ("network", network)])


def _network(model: Model, folded: Folded) -> Any:
    """Return scikit-learn's estimator with the weights of the model."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    *hidden, last = [each.name for each in folded.activations]
    if len(set(hidden)) > 1 or not set(hidden) <= set(ACTIVATIONS):
        expected = f"be one of {', '.join(ACTIVATIONS)} for all hidden layers, as scikit-learn has them"
        raise StateError("activation", f"is {', '.join(dict.fromkeys(hidden))}", expected)
    w, b = list(folded.w), list(folded.b)
    if model.task == "classification" and len(model.class_names) == 2 and last == "softmax":
        # two classes are one output there: softmax(z)₁ = sigmoid(z₁ − z₀)
        w[-1], b[-1], last = w[-1][1:] - w[-1][:1], b[-1][1:] - b[-1][:1], "sigmoid"
    wanted = {"regression": "identity", "multilabel": "sigmoid"}.get(
        model.task, "sigmoid" if len(model.class_names) == 2 and len(b[-1]) == 1 else "softmax"
    )
    if last != wanted:
        raise StateError("output_activation", f"is {last!r}", f"be {wanted!r}, as scikit-learn has it for {model.task}")
    kind = MLPRegressor if model.task == "regression" else MLPClassifier
    sizes = tuple(len(each) for each in b[:-1])
    estimator = kind(hidden_layer_sizes=sizes, activation=ACTIVATIONS[hidden[0] if hidden else "relu"], max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        y = _some_targets(model)
        estimator.fit(np.zeros((len(y), w[0].shape[1])), y)
    estimator.coefs_, estimator.intercepts_ = [each.T for each in w], b
    return estimator


def _some_targets(model: Model) -> np.ndarray:
    """Return targets that make the estimator what the model is: its classes, its labels, or its number of values."""
    if model.task == "classification":
        return np.array(model.class_names)
    outputs = model.network.sizes[-1]
    if model.task == "multilabel":
        return np.vstack([np.zeros(outputs, int), np.ones(outputs, int)])
    return np.zeros((2, outputs))[:, 0 if outputs == 1 else slice(None)]
