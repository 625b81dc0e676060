"""The first rungs under Numba's own simulator: a second opinion on the kernels that is not the emulator's.

The simulator replaces Numba's compiler when Numba is imported, so all of it runs in one process of its own.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from numba import cuda

from gpubp.kernels.numba import activations, dense_forward, forms, hidden_delta, product, transpose_product
from gpubp.kernels.numba import weight_gradient, weight_step
from gpubp.kernels.numba.ladder import Blocked, Naive, Tiled


def jit(*signature, **options):
    return cuda.jit(device=True) if options.get("device") else cuda.jit


def normal(*shape):
    return rng.standard_normal(shape)


def check(name, found, expected):
    error = float(np.max(np.abs(found - expected)))
    print(f"{name} {error:.2g}")
    assert error <= 1e-12, (name, error)


rng = np.random.default_rng(0)
m, n, k = 5, 18, 19
tanh = activations.make(jit, "tanh", 0.0, "float64")
for rung, tile_m, tile_n, block in (
    (Naive(), 2, 8, (8, 2)), (Tiled(16), 16, 16, (16, 16)), (Blocked(64), 64, 64, (8, 8))
):
    grid = -(-m // tile_m), -(-n // tile_n)
    name = type(rung).__name__.lower()

    a_prev, w, b, z, a = normal(m, k), normal(n, k), normal(n), np.full((m, n), np.nan), np.full((m, n), np.nan)
    dense_forward.make(jit, rung, "float64", tanh, True, True)[grid, block](a_prev, w, b, z, a)
    check(f"dense_forward z {name}", z, a_prev @ w.T + b)
    check(f"dense_forward a {name}", a, np.tanh(a_prev @ w.T + b))

    delta_next, w_next, saved, out = normal(m, k), normal(k, n), np.tanh(normal(m, n)), np.full((m, n), np.nan)
    hidden_delta.make(jit, rung, "float64", tanh)[grid, block](delta_next, w_next, saved, out)
    check(f"hidden_delta {name}", out, delta_next @ w_next * (1 - saved**2))

    transpose_product.make(jit, rung, "float64")[grid, block](delta_next, w_next, out)
    check(f"transpose_product {name}", out, delta_next @ w_next)

    delta, a_prev, gradient = normal(k, m), normal(k, n), np.full((m, n), np.nan)
    weight_gradient.make(jit, rung, "float64")[grid, block](delta, a_prev, gradient)
    check(f"weight_gradient {name}", gradient, delta.T @ a_prev)

    weights, control = normal(m, n), np.array([0.5, 0, 0, 0, 1])
    expected = weights - 0.5 * (delta.T @ a_prev)
    weight_step.make(jit, rung, "float64")[grid, block](delta, a_prev, control, weights)
    check(f"weight_step {name}", weights, expected)

    c = normal(m, n)
    expected = 2 * (delta.T @ a_prev) - c
    product.make(jit, rung, "float64", forms.TN)[grid, block](delta, a_prev, c, k, 2.0, -1.0)
    check(f"product {name}", c, expected)
"""
PRIMITIVES = ("dense_forward z", "dense_forward a", "hidden_delta", "transpose_product", "weight_gradient")
RUNGS = ("naive", "tiled", "blocked")
CHECKS = [f"{name} {rung}" for rung in RUNGS for name in (*PRIMITIVES, "weight_step", "product")]


@pytest.mark.slow
def test_numbas_simulator_agrees_with_numpy():
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert [line.rpartition(" ")[0] for line in done.stdout.splitlines()] == CHECKS
