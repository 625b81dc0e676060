"""The graph of ONNX, run by the reference implementation of its operators."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
from exports import X, model_of, table_model
from onnx.reference import ReferenceEvaluator

from gpubp.data import load
from gpubp.data.cells import MISSING, is_missing
from gpubp.data.preparation import InputRules
from gpubp.data.scaler import Scaler
from gpubp.export import export_command, onnx_export
from gpubp.nn.network import Network
from gpubp.sklearn.tables import inputs_of
from gpubp.training import TrainingConfig, fit


@pytest.mark.parametrize("output_activation", ["identity", "tanh"])
def test_values_far_from_0_keep_their_digits_in_float32(output_activation):
    model = model_of("one value", dtype="float32", names=(), output_activation=output_activation)
    model = replace(model, target_scaler=Scaler(np.array([1e9]), np.array([0.5])))
    graph = ReferenceEvaluator(onnx.load_from_string(onnx_export.contents(model)))
    (values,) = graph.run(None, {"x": X})
    expected = model.predict(X)
    assert 1e-3 < expected.std() < 100
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * expected.std())


def test_columns_may_have_the_names_of_the_graphs_own_parts():
    names = ("gpubp: constant 0", "gpubp: gpubp: gemm 3", "x", "values")
    model = model_of("one value", names=names)
    graph = ReferenceEvaluator(onnx.load_from_string(onnx_export.contents(model)))
    (values,) = graph.run(None, {name: X[:, [place]] for place, name in enumerate(names)})
    np.testing.assert_allclose(values, model.predict(X), rtol=1e-9)


@pytest.mark.parametrize("missing", ["mean", "error"])
def test_missing_values_are_those_of_the_training(missing):
    model, columns, _ = table_model(missing)
    texts = [each for text in sorted(MISSING) for each in (text, text.upper(), text.title())] + ["Oslo", "nana", "no"]
    given = {name: np.array(list(columns[name])[:1] * len(texts), float)[:, None] for name in columns if name != "city"}
    given["city"] = np.array(texts, object)[:, None]
    graph = ReferenceEvaluator(onnx.load_from_string(onnx_export.contents(model)))
    _, probabilities = graph.run(None, given)
    absent = np.array([is_missing(text) for text in texts])
    assert absent.sum() == len(texts) - 3
    if missing == "error":  # what the training refuses is a category that it never saw
        expected = inputs_of(model.preparation, rows_of(columns, ["never"] * absent.sum() + texts[-3:]))
    else:
        expected = inputs_of(model.preparation, rows_of(columns, texts))
    np.testing.assert_allclose(probabilities, model.predict_proba(expected), rtol=1e-12)


def rows_of(columns, cities):
    """Rows of a table that differ in their cities."""
    return np.array([[city if name == "city" else columns[name][0] for name in columns] for city in cities], object)


def test_the_program_says_how_pandas_reads_codes_with_gaps(tmp_path):
    codes = ["0100", "200", "", "0100", "", "200"] * 5
    rows = "".join(f"{code},{row % 7},{'yes' if code == '200' else 'no'}\n" for row, code in enumerate(codes))
    path = tmp_path / "codes.csv"
    path.write_text(f"code,number,label\n{rows}")
    data = load(path, rules=InputRules(missing="mean", categories="code"), test_fraction=0)
    network = Network([data.features, 6, 2], loss="softmax_cross_entropy", backend="numpy")
    model = fit(network, data, TrainingConfig(epochs=2)).model
    model.save(tmp_path / "model.safetensors")
    program = export_command.run(tmp_path / "model.safetensors", "onnx", tmp_path / "codes.onnx", False)[1].program
    reading = re.search(r"pandas\.read_csv\(path, dtype=.*\)", program)
    made = {"table": eval(reading[0], {"pandas": pd, "path": path})}
    given = re.search(r"session\.run\(None, (.*)\)$", program)
    exec(next(line for line in program.splitlines() if line.startswith("columns =")), made)
    graph = ReferenceEvaluator(onnx.load(tmp_path / "codes.onnx"))
    _, probabilities = graph.run(None, eval(given[1], made))
    np.testing.assert_allclose(probabilities, model.predict_proba(data.x_train), rtol=0, atol=1e-6)
