"""An ONNX file: from the raw columns of the data to predictions, with categories, gaps and scaling inside of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from gpubp.data import cells
from gpubp.data.preparation import CATEGORY, InputColumn
from gpubp.errors import BackendError, StateError
from gpubp.export.folded import Folded
from gpubp.nn.activations import GELU_CUBIC, SQRT_2_OVER_PI, Activation
from gpubp.training.model import Model

OPSET = 17
"""Of the operators: onnxruntime has them since 1.12."""
ML, ML_OPSET = "ai.onnx.ml", 3
"""The operators of classical machine learning, which make categories into numbers."""
IR_VERSION = 8
"""Of the file's format, which goes with the operators."""

OWN = "gpubp: "
"""What the names within the graph begin with; it is repeated until no column's name does, so that they differ."""


def contents(model: Model) -> bytes:
    """Return the file. Its inputs are doubles: a column (rows, 1) for each that has a name, else `x` (rows, features).

    A column of categories is one of text, in which a missing value is "" or another text of `cells.MISSING`, without
    spaces around; among numbers it is NaN.

    Its outputs: `label` (rows,), the names of classes, and `probabilities` (rows, classes); for several labels `labels`
    (rows, labels) of 0 and 1 and `probabilities`; for values `values` (rows, outputs). It computes in the dtype of the
    network, and scales in float64.

    Raises:
        BackendError: the package onnx is not installed.
    """
    return _Graph(model).serialized()


def columns_of(model: Model) -> dict[str, type]:
    """Return the columns that the graph reads, by name, and what each holds: `str` or `float`; none if it reads `x`."""
    if model.preparation is None:
        return dict.fromkeys(model.feature_names, float)
    columns = enumerate(model.preparation.columns)
    return {each.name or f"column {i}": str if each.kind == CATEGORY else float for i, each in columns}


def _in_every_case(text: str) -> list[str]:
    """Return a text of small letters with each of them small and large: a graph compares texts as they are."""
    return ["".join(each) for each in product(*(sorted({letter, letter.upper()}) for letter in text))]


class _Graph:
    """The nodes of a model's graph as they are made."""

    def __init__(self, model: Model) -> None:
        try:
            import onnx
        except ImportError as error:
            raise BackendError(f"the export needs the package onnx: {error}; pip install 'gpubp[onnx]'") from error
        self.onnx, self.model = onnx, model
        self.dtype = np.dtype(model.network.dtype)
        self.own = OWN
        while any(name.startswith(self.own) for name in columns_of(model)):
            self.own += OWN
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def serialized(self) -> bytes:
        """Return the file of the whole model."""
        helper, folded = self.onnx.helper, Folded.of(self.model, values_apart=True)
        a = self.scaled(self.read(), folded)
        for w, b, activation in zip(folded.w, folded.b, folded.activations, strict=True):
            z = self.node("Gemm", a, self.constant(w), self.constant(b), transB=1)
            a = self.activated(z, activation)
        self.write(a, folded)
        graph = helper.make_graph(self.nodes, "gpubp", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)]
        made = helper.make_model(graph, producer_name="gpubp", opset_imports=opsets, ir_version=IR_VERSION)
        self.onnx.checker.check_model(made, full_check=True)
        return made.SerializeToString()

    # --- pieces -------------------------------------------------------------------------------------------------------
    def node(self, operator: str, *inputs: str, called: str | None = None, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = called or f"{self.own}{operator.lower()} {len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Return the name of a constant, of the network's dtype unless another is given."""
        array = np.asarray(values, self.dtype if dtype is None else dtype)
        name = f"{self.own}constant {len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def cast(self, x: str, dtype: Any, called: str | None = None) -> str:
        """Return x in a dtype."""
        return self.node("Cast", x, called=called, to=self.kind(dtype))

    def kind(self, dtype: Any) -> int:
        """Return what ONNX calls a dtype."""
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def declared(self, name: str, dtype: Any, *sides: int) -> Any:
        """Return the declaration of an input or an output: rows, and these sides."""
        return self.onnx.helper.make_tensor_value_info(name, self.kind(dtype), ["rows", *sides])

    # --- from raw columns to the first layer --------------------------------------------------------------------------
    def read(self) -> str:
        """Return the inputs (rows, features), float64."""
        columns = columns_of(self.model)
        if not columns:
            self.inputs.append(self.declared("x", np.float64, self.model.network.sizes[0]))
            return "x"
        self.inputs += [self.declared(name, object if kind is str else np.float64, 1) for name, kind in columns.items()]
        parts = list(columns)
        if self.model.preparation is not None:
            named = zip(columns, self.model.preparation.columns, strict=True)
            parts = [part for name, column in named for part in self.prepared(name, column)]
        return self.node("Concat", *parts, axis=1)

    def prepared(self, name: str, column: InputColumn) -> Iterator[str]:
        """Yield the inputs that a column of a table becomes, as `Preparation.apply` makes them."""
        if column.kind == CATEGORY:
            assert self.model.preparation is not None
            absent = self.absent(name)
            chosen = self.one_hot(name, column.categories) if column.categories else None
            rest = self.constant(1, np.float64)
            if chosen is not None:
                yield chosen
                rest = self.node("Sub", rest, self.node("ReduceSum", chosen, self.constant([1], np.int64), keepdims=1))
            # without anything that stands for missing values, they are texts like any other
            gap = self.constant(float(self.model.preparation.missing != "error"), np.float64)
            yield self.node("Sub", rest, self.node("Mul", absent, gap))
        else:
            there = self.node("IsNaN", name)
            absent = self.cast(there, np.float64)
            fill = column.fill
            yield name if fill is None else self.node("Where", there, self.constant(fill, np.float64), name)
        if column.indicator:
            yield absent

    def absent(self, name: str) -> str:
        """Return 1 where a column of text has a missing value, else 0: (rows, 1), float64."""
        texts = [each for text in sorted(cells.MISSING) for each in _in_every_case(text)]
        ones = [1.0] * len(texts)
        found = self.node("LabelEncoder", name, domain=ML, keys_strings=texts, values_floats=ones, default_float=0.0)
        return self.cast(found, np.float64)

    def one_hot(self, name: str, texts: Sequence[str]) -> str:
        """Return for each text 1 where a column of text is it, else 0: (rows, texts), float64."""
        found = self.node("OneHotEncoder", name, domain=ML, cats_strings=list(texts), zeros=1)
        return self.cast(self.node("Reshape", found, self.constant([-1, len(texts)], np.int64)), np.float64)

    def scaled(self, x: str, folded: Folded) -> str:
        """Return scaled inputs in the dtype of the network."""
        if folded.scales:
            centred = self.node("Sub", x, self.constant(folded.offset, np.float64))
            x = self.node("Mul", centred, self.constant(folded.scale, np.float64))
        if folded.limit is not None:
            x = self.node("Min", x, self.constant(folded.limit, np.float64))
            x = self.node("Max", x, self.constant(-folded.limit, np.float64))
        return self.cast(x, self.dtype)

    # --- activations --------------------------------------------------------------------------------------------------
    def activated(self, z: str, activation: Activation) -> str:
        """Return σ(z), made of operators that runtimes have in float32 and in float64."""
        simple = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
        name, parameter = activation.name, self.constant(activation.parameter)
        if name == "identity":
            return z
        if name in simple:
            return self.node(simple[name], z)
        if name == "softmax":
            return self.node("Softmax", z, axis=1)
        if name == "silu":
            return self.node("Mul", z, self.node("Sigmoid", z))
        if name in ("gelu", "gelu_tanh"):
            return self.gelu(z, name == "gelu")
        zero, one = self.constant(0), self.constant(1)
        above, below = self.node("Max", z, zero), self.node("Min", z, zero)
        if name == "leaky_relu":
            return self.node("Add", above, self.node("Mul", parameter, below))
        if name == "elu":
            grown = self.node("Sub", self.node("Exp", below), one)
            return self.node("Add", above, self.node("Mul", parameter, grown))
        if name == "softplus":
            small = self.node("Exp", self.node("Neg", self.node("Abs", z)))
            return self.node("Add", above, self.node("Log", self.node("Add", one, small)))
        raise StateError("activation", f"is {name!r}", "be one that the export knows")

    def gelu(self, z: str, exact: bool) -> str:
        """Return ½ z (1 + erf(z / √2)), or with tanh(√(2/π) (z + c z³)) in place of erf."""
        if exact:
            # runtimes have erf in float32 alone
            narrow = self.cast(self.node("Mul", z, self.constant(0.5**0.5)), np.float32)
            inner = self.cast(self.node("Erf", narrow), self.dtype)
        else:
            cube = self.node("Mul", z, self.node("Mul", z, z))
            sum_ = self.node("Add", z, self.node("Mul", self.constant(GELU_CUBIC), cube))
            inner = self.node("Tanh", self.node("Mul", self.constant(SQRT_2_OVER_PI), sum_))
        half = self.node("Mul", z, self.constant(0.5))
        return self.node("Mul", half, self.node("Add", inner, self.constant(1)))

    # --- outputs ------------------------------------------------------------------------------------------------------
    def output(self, name: str) -> str:
        """Return what to call an output: another name if a column has this one."""
        return f"predicted {name}" if name in [each.name for each in self.inputs] else name

    def write(self, a: str, folded: Folded) -> None:
        """Name what comes out of the last layer."""
        outputs = self.model.network.sizes[-1]
        if self.model.task == "regression":
            assert folded.values is not None
            offset, scale = (self.constant(each, np.float64) for each in folded.values)
            scaled = self.node("Div", self.cast(a, np.float64), scale)
            self.node("Add", scaled, offset, called=self.output("values"))
            self.outputs.append(self.declared(self.output("values"), np.float64, outputs))
            return
        likelier = self.node("Greater", a, self.constant(0.5))
        if self.model.task == "multilabel":
            self.cast(likelier, np.int64, called=self.output("labels"))
            self.node("Identity", a, called=self.output("probabilities"))
            self.outputs.append(self.declared(self.output("labels"), np.int64, outputs))
        else:
            if outputs == 1:
                index = self.node("Reshape", self.cast(likelier, np.int64), self.constant([-1], np.int64))
                self.node(
                    "Concat", self.node("Sub", self.constant(1), a), a, called=self.output("probabilities"), axis=1
                )
            else:
                index = self.node("ArgMax", a, axis=1, keepdims=0)
                self.node("Identity", a, called=self.output("probabilities"))
            names = self.constant(self.model.class_names, object)
            self.node("Gather", names, index, called=self.output("label"), axis=0)
            self.outputs.append(self.declared(self.output("label"), object))
        self.outputs.append(
            self.declared(self.output("probabilities"), self.dtype, max(outputs, len(self.model.class_names)))
        )
