"""hadamard_derivative: delta = product ⊙ σ'(z^l), the second half of hidden_delta

product, saved, delta: flat, of one size; saved is a or z, as σ' reads
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubp.kernels.numba.activations import Sigma
from gpubp.kernels.numba.signatures import array, kernel
from gpubp.toolchain.numba_package import cuda


def make(jit: Callable, dtype: str, sigma: Sigma) -> Any:
    """Return the kernel hadamard_derivative(product, saved, delta), one thread an element."""
    derivative = sigma.derivative

    def hadamard_derivative(product, saved, delta):
        i = cuda.grid(1)
        if i < delta.size:
            delta[i] = product[i] * derivative(saved[i])

    return jit(kernel(*[array(dtype, 1)] * 3))(hadamard_derivative)
