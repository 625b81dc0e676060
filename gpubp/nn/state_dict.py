"""The layers in a state dict of PyTorch: what `Network.from_torch` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.errors import StateError, shown


@dataclass(frozen=True)
class Layers:
    """The fully connected layers of a state dict, in its order.

    Attributes:
        sizes: the widths n_0, ..., n_L.
        bias: whether each layer has a bias; otherwise none has.
        weights: by the names of `Network.weights`.
        dtype: "float64" if a weight has it, else "float32".
    """

    sizes: list[int]
    bias: bool
    weights: dict[str, np.ndarray]
    dtype: str


def layers_of(state_dict: Mapping[str, Any]) -> Layers:
    """Return the layers of a state dict with the entries of `torch.nn.Linear`: weight (n_l, n_{l-1}), bias (n_l,).

    Raises ArgumentError, naming the entry, if there are others, or if they do not fit together.
    """
    if not isinstance(state_dict, Mapping):
        raise StateError("state_dict", f"is a {type(state_dict).__name__}", "be a mapping from names to tensors")
    arrays = {str(name): _array(str(name), tensor) for name, tensor in state_dict.items()}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
    sizes: list[int] = []
    weights: dict[str, np.ndarray] = {}
    for layer, module in enumerate(modules, 1):
        prefix = f"{module}." if module else ""
        w, b = _pop_layer(prefix, arrays)
        if sizes and w.shape[1] != sizes[-1]:
            state = f"has shape {w.shape} after a layer of {sizes[-1]} outputs"
            raise StateError(f"{prefix}weight", state, f"have shape (n, {sizes[-1]})")
        sizes += [w.shape[0]] if sizes else [w.shape[1], w.shape[0]]
        weights[f"layer{layer}.weight"] = w
        if b is not None:
            weights[f"layer{layer}.bias"] = b
    if not sizes:
        raise StateError("state_dict", "is empty", "have a weight for each layer")
    biases = len(weights) - len(modules)
    if biases not in (0, len(modules)):
        raise StateError(
            "state_dict", f"has {len(modules)} weights and {biases} biases", "have a bias in each, or in none"
        )
    dtype = "float64" if any(array.dtype == np.float64 for array in weights.values()) else "float32"
    return Layers(sizes, biases > 0, weights, dtype)


def _array(name: str, tensor: Any) -> np.ndarray:
    if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":  # which NumPy does not take
        tensor = tensor.float()
    try:
        array = np.asarray(on_host(name, tensor))
    except (TypeError, ValueError, RuntimeError) as error:
        raise StateError(name, f"is a {type(tensor).__name__} ({shown(error)})", "be a tensor of numbers") from error
    if array.dtype.kind not in "fiu":
        raise StateError(name, f"holds {array.dtype}", "hold real numbers")
    return array


def _pop_layer(prefix: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return and take out the weight and the bias of one module. Raises ArgumentError if it is no Linear."""
    own = [name for name in arrays if name.rpartition(".")[0] == prefix.rstrip(".")]
    for name in own:
        if name.removeprefix(prefix) not in ("weight", "bias"):
            raise StateError(name, "is of no Linear layer", "be left out: a Network has Linear layers alone")
    if f"{prefix}weight" not in own:
        raise StateError(f"{prefix}weight", "is missing", f"be there beside {prefix}bias")
    w, b = arrays.pop(f"{prefix}weight"), arrays.pop(f"{prefix}bias", None)
    if w.ndim != 2 or 0 in w.shape:
        raise StateError(f"{prefix}weight", f"has shape {w.shape}", "have two sides, as of a Linear layer")
    if b is not None and b.shape != w.shape[:1]:
        raise StateError(f"{prefix}bias", f"has shape {b.shape}", f"have shape {w.shape[:1]}, as its weight")
    return w, b
