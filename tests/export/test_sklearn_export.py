"""The pipeline of scikit-learn's own predicts what the model predicts, and needs no gpubp."""

import pickle

import numpy as np
import pandas as pd
import pytest
from exports import FAR, KINDS, NAMES, X, model_of, outputs_of

from gpubp.errors import ArgumentError
from gpubp.export import sklearn_export


@pytest.mark.parametrize("names", [NAMES, ()], ids=["named", "unnamed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_predicts_what_the_model_does(kind, names):
    model = model_of(kind, names=names)
    pickled = sklearn_export.contents(model)
    assert b"gpubp" not in pickled
    pipeline = pickle.loads(pickled)
    for x in (X, FAR):
        frame = pd.DataFrame(x, columns=NAMES) if names else x
        expected = outputs_of(model, x)
        if model.task == "regression":
            np.testing.assert_allclose(pipeline.predict(frame).reshape(len(x), -1), expected, rtol=1e-6)
            continue
        np.testing.assert_allclose(pipeline.predict_proba(frame), expected, rtol=0, atol=1e-6)
        if model.task == "classification":
            np.testing.assert_array_equal(pipeline.predict(frame), np.array(model.class_names)[model.predict(x)])
        else:
            np.testing.assert_array_equal(pipeline.predict(frame), model.predict(x))


@pytest.mark.parametrize("kind", ["classes", "two classes", "two outputs"])
def test_classes_that_are_numbers_are_predicted_by_their_names(kind):
    model = model_of(kind, names=(), class_names=("2", "9", "10") if kind == "classes" else ("9", "10"))
    pipeline = sklearn_export.pipeline(model)
    assert list(pipeline.classes_) == sorted(model.class_names)
    np.testing.assert_array_equal(pipeline.predict(X), np.array(model.class_names)[model.predict(X)])
    of_class = dict(zip(model.class_names, model.predict_proba(X).T, strict=True))
    expected = np.column_stack([of_class[name] for name in pipeline.classes_])
    np.testing.assert_allclose(pipeline.predict_proba(X), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "identity"])
def test_activations_that_scikit_learn_has(activation):
    model = model_of("classes", names=(), hidden_activation=activation, bias=False)
    np.testing.assert_allclose(sklearn_export.pipeline(model).predict_proba(X), model.predict_proba(X), atol=1e-9)


def test_a_network_without_hidden_layers():
    model = model_of("values", names=(), sizes=())
    np.testing.assert_allclose(sklearn_export.pipeline(model).predict(X), model.predict(X))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "classes",
            {"hidden_activation": "gelu"},
            "activation is gelu; it must be one of identity, sigmoid, tanh, relu",
        ),
        ("classes", {"hidden_activation": ["relu", "tanh"]}, "activation is relu, tanh; it"),
        ("values", {"output_activation": "tanh"}, "output_activation is 'tanh'; it must be 'identity'"),
    ],
)
def test_what_scikit_learn_lacks_is_refused(kind, settings, message):
    with pytest.raises(ArgumentError, match=message):
        sklearn_export.contents(model_of(kind, **settings))
