"""The arguments that a network is made from: each function checks one, and raises ArgumentError if it is wrong."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubp import backends, dtypes
from gpubp.backends.base import Backend
from gpubp.errors import ArgumentError, StateError, unknown_name
from gpubp.nn import activations
from gpubp.nn.activations import Activation, Softmax
from gpubp.nn.losses import Loss
from gpubp.nn.precision import PRECISIONS, LossScaling, Precision
from gpubp.registry import require_count, require_number


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the widths n_0 .. n_L, at least two whole numbers ≥ 1."""
    try:
        widths = tuple(sizes)
    except TypeError:
        raise ArgumentError("sizes", sizes, "a sequence of widths, such as [64, 32, 10]") from None
    if len(widths) < 2:
        raise ArgumentError("sizes", sizes, "at least two widths, such as [64, 10]")
    for width in widths:
        require_count("sizes", width)
    return tuple(int(width) for width in widths)


def checked_dtype(dtype: Any) -> str:
    """Return the name of a dtype that networks come in, from a name such as "float32" or "fp32", or NumPy's type.

    Raises:
        ArgumentError: the dtype is neither float32 nor float64.
    """
    if dtype is not None and (not isinstance(dtype, str) or dtype.isidentifier()):  # NumPy parses "1_000" and ","
        with contextlib.suppress(TypeError, ValueError):  # what is no dtype is shown below as it is
            dtype = np.dtype(dtype).name
    return dtypes.canonical("dtype", dtype, dtypes.PLAIN)


def checked_precision(precision: Any, dtype: str) -> tuple[str | None, Precision]:
    """Return the precision's name in `PRECISIONS`, or None, and the dtypes of the roles.

    Raises:
        ArgumentError: `precision` names none of `PRECISIONS` in its short or its long form, or `dtype` is not float32.
    """
    if precision is None:
        return None, Precision.of(dtype)
    for name, roles in PRECISIONS.items():
        if precision in (name, roles.operands):
            if dtype != "float32":
                raise ArgumentError("precision", precision, f"left out with dtype {dtype!r}; it is for 'float32'")
            return name, roles
    raise unknown_name("precision", precision, PRECISIONS)


def checked_loss_scaling(chosen: Any, precision: Precision) -> LossScaling | None:
    """Return how the loss is scaled: always in float16, never in other precisions, where it would rescue nothing."""
    if precision.storage == "float16":
        return LossScaling.get(chosen)
    if chosen is not None:
        raise ArgumentError("loss_scaling", chosen, "left out: it is for precision 'fp16'")
    return None


def checked_dropout(chosen: Any, count: int) -> tuple[float, ...]:
    """Return the dropout rates of `count` hidden layers, from one for all or from one for each, 0 ≤ rate < 1."""
    one_for_all = not isinstance(chosen, Sequence) or isinstance(chosen, str)
    if not one_for_all and len(chosen) != count:
        raise StateError("dropout", f"has {len(chosen)} rates", f"have one, or {count}: one a hidden layer")
    rates = [chosen] if one_for_all else list(chosen)
    for rate in rates:
        require_number("dropout", rate, least=0, below=1)
    if one_for_all:
        rates *= count
    return tuple(map(float, rates))


def made_backend(backend: str | Backend, device: str | None) -> Backend:
    """Return the backend of this name on this device, or the backend itself."""
    if isinstance(backend, str):
        return backends.get(backend, device)
    if not hasattr(backend, "dense_forward"):
        raise ArgumentError("backend", backend, "a backend or the name of one")
    if device not in (None, backend.device):
        raise ArgumentError("device", device, f"{backend.device!r}, that of the backend that was given")
    return backend


def hidden_activations(chosen: Any, count: int) -> list[Activation]:
    """Return `count` elementwise activations, from one for all hidden layers or from one for each."""
    one_for_all = isinstance(chosen, str | Activation | Mapping)
    if not one_for_all and not isinstance(chosen, Sequence):
        raise ArgumentError("hidden_activation", chosen, f"one activation, or {count}: one a hidden layer")
    if not one_for_all and len(chosen) != count:
        raise StateError("hidden_activation", f"names {len(chosen)}", f"name one, or {count}: one a hidden layer")
    made = [activations.get(each, "hidden_activation") for each in ([chosen] if one_for_all else chosen)]
    if one_for_all:
        made *= count  # made once before: a wrong name is an error in a network without hidden layers too
    if any(isinstance(each, Softmax) for each in made):
        raise ArgumentError("hidden_activation", "softmax", "an elementwise activation; softmax is for the output")
    return made


def output_activation(chosen: Any, loss: Loss) -> Activation:
    """Return the chosen activation if the loss allows it; for None the one that the loss requires, else identity."""
    if chosen is None:
        return activations.get(loss.output_activation or "identity")
    activation = activations.get(chosen, "output_activation")
    if loss.from_logits and activation.name != loss.output_activation:
        raise ArgumentError("output_activation", activation.name, f"{loss.output_activation!r} with loss {loss.name!r}")
    return activation


def require_weights(sizes: Any, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ArgumentError unless a file has the weights of a network of these sizes.

    Called before the network is made, so that it takes no more memory than the file's size explains.
    """
    for l, (n_prev, n) in enumerate(itertools.pairwise(sizes), start=1):
        name = f"layer{l}.weight"
        if name not in tensors or tensors[name].shape != (n, n_prev):
            raise StateError(name, "is missing or has another shape", f"have shape {(n, n_prev)}")


def require_backend_for(precision: Any, backend: Backend) -> None:
    """Raise ArgumentError, which names a backend that can, if this one does not compute in the precision of a file."""
    if isinstance(precision, str) and precision in PRECISIONS:
        try:
            backend.for_precision(precision)
        except ArgumentError:
            state = f"is {backend.name!r} on device {backend.device!r}"
            raise StateError("backend", state, f"be one that computes in {precision}, such as 'numpy'") from None
