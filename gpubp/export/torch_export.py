"""A state dict for PyTorch, and the `torch.nn.Sequential` that it loads into. PyTorch is not needed to write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from gpubp.errors import StateError
from gpubp.export.folded import Folded
from gpubp.nn.activations import Activation
from gpubp.training.model import Model

MODULES: dict[str, Callable[[Any], str]] = {
    "relu": lambda each: "nn.ReLU()",
    "leaky_relu": lambda each: f"nn.LeakyReLU({each.parameter!r})",
    "sigmoid": lambda each: "nn.Sigmoid()",
    "tanh": lambda each: "nn.Tanh()",
    "elu": lambda each: f"nn.ELU({each.parameter!r})",
    "softplus": lambda each: "nn.Softplus(threshold=1000)",  # beyond its threshold it is the identity
    "gelu": lambda each: "nn.GELU()",
    "gelu_tanh": lambda each: "nn.GELU(approximate='tanh')",
    "silu": lambda each: "nn.SiLU()",
    "softmax": lambda each: "nn.Softmax(dim=1)",
}
"""The module of each activation; the identity has none."""


def contents(model: Model) -> tuple[bytes, list[str]]:
    """Return a safetensors file with the state dict, and the modules of the Sequential.

    It maps raw inputs to what `predict_proba` gives, or to values. All is float64: scaled in float32, an input far from
    0 loses the digits that tell it from its neighbours.
    """
    folded = Folded.of(model)
    modules: list[str] = []
    state: dict[str, np.ndarray] = {}

    def add(module: str, **tensors: np.ndarray) -> None:
        state.update({f"{len(modules)}.{name}": np.ascontiguousarray(array) for name, array in tensors.items()})
        modules.append(module)

    def linear(w: np.ndarray, b: np.ndarray) -> None:
        add(f"nn.Linear({w.shape[1]}, {w.shape[0]})", weight=w, bias=b)

    w, b = list(folded.w), list(folded.b)
    if folded.limit is not None:
        # nn has bounds that are the same for all inputs: each is divided by its own first. 0: it was constant
        limit, inputs = folded.limit, len(folded.offset)
        factor = np.divide(folded.scale, limit, out=np.zeros(inputs), where=limit > 0)
        add(
            f"nn.BatchNorm1d({inputs}, eps=0)",
            weight=factor,
            bias=np.zeros(inputs),
            running_mean=folded.offset,
            running_var=np.ones(inputs),
            num_batches_tracked=np.array(0),
        )
        add("nn.Hardtanh()")
        w[0] = w[0] * limit
    elif folded.scales:
        w[0] = w[0] * folded.scale
        b[0] = b[0] - w[0] @ folded.offset
    for each_w, each_b, activation in zip(w, b, folded.activations, strict=True):
        linear(each_w, each_b)
        if activation.name != "identity":
            add(_module(activation))
    if folded.values is not None:
        offset, scale = folded.values
        linear(np.diag(1 / scale), offset)
    return save(state), modules


def program(modules: list[str], path: str) -> str:
    """Return the program that loads the state dict at this path."""
    lines = "".join(f"    {module},\n" for module in modules)
    return (
        "import safetensors.torch\n"
        "from torch import nn\n\n"
        f"model = nn.Sequential(\n{lines}).double().eval()\n"
        f"model.load_state_dict(safetensors.torch.load_file({path!r}))"
    )


def _module(activation: Activation) -> str:
    if activation.name not in MODULES:
        raise StateError("activation", f"is {activation.name!r}", f"be one that torch.nn has: {', '.join(MODULES)}")
    return MODULES[activation.name](activation)
