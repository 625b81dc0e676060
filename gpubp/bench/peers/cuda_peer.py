"""NVIDIA's own libraries as contenders: cuBLAS through CuPy, and cuBLASLt's fused epilogues through nvmath-python."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gpubp.bench import runners
from gpubp.bench.runners import Arrays
from gpubp.bench.timing import Call, Runner
from gpubp.bench.works import Primitive, Work
from gpubp.kernels.control import Control


def array_module() -> Any:
    """Return CuPy."""
    import cupy

    return cupy


def make(work: Work, threads: int = 1, fused: bool = False) -> Runner:
    """Return a runner of a product.

    Args:
        work: the product.
        threads: not used.
        fused: True: cuBLASLt with an epilogue. False: cuBLAS, and kernels of CuPy for what follows the product.
    """
    assert isinstance(work, Primitive)
    cupy = array_module()
    problem = runners.problem_of(work)
    bind = _planned(work.name, cupy) if fused else partial(partial, FUNCTIONS[work.name], cupy)
    return runners.of_primitive(problem, cupy.array, bind, cupy.asnumpy, elapsed=elapsed, flush=flush())


def flush() -> Call:
    """Return what empties the device's caches."""
    cupy = array_module()
    source, out = (cupy.zeros(runners.FLUSHED_BYTES // 2 // 4, "float32") for _ in range(2))
    return runners.flush_of(lambda: cupy.copyto(out, source))


def elapsed(work: Call) -> float:
    """Return the seconds between two events on CuPy's current stream, around `work`."""
    cupy = array_module()
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    work()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / 1e3


# --- cuBLAS -----------------------------------------------------------------------------------------------------------
def _dense_forward(xp: Any, x: Arrays) -> Arrays:
    a = x["a"]
    xp.matmul(x["a_prev"], x["w"].T, out=a)
    xp.add(a, x["b"], out=a)
    xp.maximum(a, 0, out=a)
    return {"a": a}


def _hidden_delta(xp: Any, x: Arrays) -> Arrays:
    delta = x["delta"]
    xp.matmul(x["delta_next"], x["w_next"], out=delta)
    xp.multiply(delta, x["saved"] > 0, out=delta)
    return {"delta": delta}


def _transpose_product(xp: Any, x: Arrays) -> Arrays:
    return {"product": xp.matmul(x["delta_next"], x["w_next"], out=x["product"])}


def _weight_gradient(xp: Any, x: Arrays) -> Arrays:
    return {"gradient": xp.matmul(x["delta"].T, x["a_prev"], out=x["gradient"])}


def _weight_step(xp: Any, x: Arrays) -> Arrays:
    w = x["w"]
    step = xp.matmul(x["delta"].T, x["a_prev"])
    xp.multiply(step, x["control"][Control.LEARNING_RATE].astype(w.dtype), out=step)
    xp.subtract(w, step, out=w)
    return {"w": w}


FUNCTIONS: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "dense_forward": _dense_forward,
    "hidden_delta": _hidden_delta,
    "transpose_product": _transpose_product,
    "weight_gradient": _weight_gradient,
    "weight_step": _weight_step,
}
"""Each product on the arrays of a module like NumPy."""


# --- cuBLASLt ---------------------------------------------------------------------------------------------------------
# Epilogues go along the columns of a matrix that is stored by columns: such is the transpose of our results.
def _plan_dense_forward(advanced: Any, cupy: Any, x: Arrays) -> Any:
    """Return the plan of zᵀ = w a_prevᵀ with RELU_BIAS."""
    product = advanced.Matmul(x["w"], x["a_prev"].T)
    product.plan(epilog=advanced.MatmulEpilog.RELU_BIAS, epilog_inputs={"bias": x["b"].reshape(-1, 1)})
    return product


def _plan_hidden_delta(advanced: Any, cupy: Any, x: Arrays) -> Any:
    """Return the plan of δᵀ = w_nextᵀ δ_nextᵀ with DRELU, whose sign bits come from a product with RELU_AUX."""
    saved = x["saved"]
    signs = cupy.where(saved > 0, saved, -1).astype(saved.dtype)  # a zero must be on the flat side
    identity = cupy.eye(len(saved), dtype=saved.dtype)
    _, bits = advanced.matmul(signs.T, identity, epilog=advanced.MatmulEpilog.RELU_AUX)
    product = advanced.Matmul(x["w_next"].T, x["delta_next"].T)
    product.plan(epilog=advanced.MatmulEpilog.DRELU, epilog_inputs=bits)
    return product


def _plan_weight_gradient(advanced: Any, cupy: Any, x: Arrays) -> Any:
    """Return the plan of the plain product."""
    product = advanced.Matmul(x["a_prev"].T, x["delta"])
    product.plan()
    return product


FUSED: dict[str, tuple[str, Callable[[Any, Any, Arrays], Any]]] = {
    "dense_forward": ("a", _plan_dense_forward),
    "hidden_delta": ("delta", _plan_hidden_delta),
    "weight_gradient": ("gradient", _plan_weight_gradient),
}
"""The output's name, and what plans the product of its transpose."""


def _planned(primitive: str, cupy: Any) -> Callable[[Arrays], Callable[[], Arrays]]:
    from nvmath.linalg import advanced

    name, plan = FUSED[primitive]

    def bind(arrays: Arrays) -> Callable[[], Arrays]:
        product = plan(advanced, cupy, arrays)
        return lambda: {name: product.execute().T}

    return bind
