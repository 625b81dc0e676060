"""The naive and tiled products under Numba's own simulator: a second opinion on the kernels that is not the emulator's.

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
from gpubp.backends.plans import Plan


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
for plan in (Plan("naive", "float64", 2, 8), Plan("tiled", "float64", 16, 16, 16)):
    grid = -(-m // plan.tile_m), -(-n // plan.tile_n)
    block = plan.tile_n, plan.tile_m

    a_prev, w, b, z, a = normal(m, k), normal(n, k), normal(n), np.full((m, n), np.nan), np.full((m, n), np.nan)
    getattr(dense_forward, plan.variant)(jit, plan, tanh, True, True)[grid, block](a_prev, w, b, z, a)
    check(f"dense_forward z {plan.variant}", z, a_prev @ w.T + b)
    check(f"dense_forward a {plan.variant}", a, np.tanh(a_prev @ w.T + b))

    delta_next, w_next, saved, out = normal(m, k), normal(k, n), np.tanh(normal(m, n)), np.full((m, n), np.nan)
    getattr(hidden_delta, plan.variant)(jit, plan, tanh)[grid, block](delta_next, w_next, saved, out)
    check(f"hidden_delta {plan.variant}", out, delta_next @ w_next * (1 - saved**2))

    getattr(transpose_product, plan.variant)(jit, plan)[grid, block](delta_next, w_next, out)
    check(f"transpose_product {plan.variant}", out, delta_next @ w_next)

    delta, a_prev, gradient = normal(k, m), normal(k, n), np.full((m, n), np.nan)
    getattr(weight_gradient, plan.variant)(jit, plan)[grid, block](delta, a_prev, gradient)
    check(f"weight_gradient {plan.variant}", gradient, delta.T @ a_prev)

    weights, control = normal(m, n), np.array([0.5, 0, 0, 0, 1])
    expected = weights - 0.5 * (delta.T @ a_prev)
    getattr(weight_step, plan.variant)(jit, plan)[grid, block](delta, a_prev, control, weights)
    check(f"weight_step {plan.variant}", weights, expected)

    c = normal(m, n)
    expected = 2 * (delta.T @ a_prev) - c
    getattr(product, plan.variant)(jit, plan, forms.TN)[grid, block](delta, a_prev, c, k, 2.0, -1.0)
    check(f"product {plan.variant}", c, expected)
"""
PRIMITIVES = ("dense_forward z", "dense_forward a", "hidden_delta", "transpose_product", "weight_gradient")
CHECKS = [f"{name} {variant}" for variant in ("naive", "tiled") for name in (*PRIMITIVES, "weight_step", "product")]


@pytest.mark.slow
def test_numbas_simulator_agrees_with_numpy():
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert [line.rpartition(" ")[0] for line in done.stdout.splitlines()] == CHECKS
