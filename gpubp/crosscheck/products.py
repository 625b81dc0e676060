"""Checking a matrix product of one's own with the machinery that checks gpubp's kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gpubp.crosscheck import bounds, references
from gpubp.crosscheck.cases import PRODUCT_SHAPES, SCALES, SEEDS
from gpubp.crosscheck.comparator import Comparison, compare
from gpubp.dtypes import ARITHMETIC, canonical
from gpubp.errors import unknown_name

FORMS = {
    "NT": (lambda m, n, k: ((m, k), (n, k)), lambda a, b: (a, b.T)),
    "NN": (lambda m, n, k: ((m, k), (k, n)), lambda a, b: (a, b)),
    "TN": (lambda m, n, k: ((k, m), (k, n)), lambda a, b: (a.T, b)),
}
"""The shapes of a and b for C (M, N), and the factors of C that they stand for: NT is a bᵀ, NN a b, TN aᵀ b."""


GUARD_ROWS = 2
"""Rows behind c, of random numbers: whatever is written there shows, NaN included."""


@dataclass(frozen=True)
class ProductOutcome:
    """One call of a product: its shape (M, N, K), how its inputs were drawn, and how the result compares.

    Attributes:
        fault: what it wrote beside its result; "" for nothing.
    """

    shape: tuple[int, int, int]
    values: str
    scale: float
    seed: int
    comparison: Comparison
    fault: str = ""

    @property
    def passed(self) -> bool:
        """True if the result is within its bound, and nothing else was written."""
        return self.comparison.passed and not self.fault

    def __str__(self) -> str:
        m, n, k = self.shape
        verdict = "passed" if self.passed else "FAILED"
        fault = f"{self.fault}; " if self.fault else ""
        return f"{verdict} {m}x{n}x{k} {self.values} scale {self.scale:g} seed {self.seed}: {fault}{self.comparison}"


class ProductError(AssertionError):
    """A product is wrong; `outcomes` holds every call that failed."""

    def __init__(self, outcomes: Sequence[ProductOutcome], calls: int) -> None:
        self.outcomes = list(outcomes)
        worst = max(outcomes, key=lambda outcome: outcome.comparison.share)
        super().__init__(f"{len(outcomes)} of {calls} products are wrong; the worst: {worst}")


def check_product(
    function: Callable[[Any, Any, Any], object],
    form: str = "NN",
    *,
    dtype: str = "float32",
    arrays: ModuleType | Any = np,
    shapes: Sequence[tuple[int, int, int]] = PRODUCT_SHAPES,
    scales: Sequence[float] = SCALES,
    seeds: Sequence[int] = SEEDS,
) -> list[ProductOutcome]:
    """Check a product of your own on ragged shapes, scales and seeds against the error bound of any correct one.

    function(a, b, c) writes the product into c (M, N). form: "NT", c = a bᵀ with a (M, K), b (N, K); "NN", c = a b with
    b (K, N); "TN", c = aᵀ b with a (K, M). dtype: "float32" or "float64"; for tensor cores "bfloat16" or "float16",
    with c in float32, or "tf32", where a and b are float32 that the product rounds to TF32 (to nearest, ties away from
    zero). arrays: the module whose `asarray` and `asnumpy` move arrays: `cupy`, `gpubp.emulator`, or NumPy.

    c is poisoned with NaN before each call. Rows behind it must stay as they are, like a and b. Small integers must
    come out bit for bit. Returns an outcome a call; raises ProductError if any is wrong. An example, with a CuPy
    kernel that runs on the emulated device as well::

        import gpubp.emulator as cp  # on a GPU: import cupy as cp
        from gpubp.crosscheck import check_product

        kernel = cp.RawKernel(r'''
        extern "C" __global__ void product(const float* a, const float* b, float* c, int m, int n, int k) {
            int i = blockIdx.y * blockDim.y + threadIdx.y, j = blockIdx.x * blockDim.x + threadIdx.x;
            if (i >= m || j >= n) return;
            float sum = 0;
            for (int t = 0; t < k; ++t) sum += a[(long long)i * k + t] * b[(long long)t * n + j];
            c[(long long)i * n + j] = sum;
        }''', "product")

        def product(a, b, c):
            (m, k), n = a.shape, b.shape[1]
            grid = (-(-n // 16), -(-m // 16))
            kernel(grid, (16, 16), (a, b, c, np.int32(m), np.int32(n), np.int32(k)))

        for outcome in check_product(product, "NN", arrays=cp):
            print(outcome)
    """
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    dtype = canonical("dtype", dtype)
    draws = [("integers", 1.0, seed) for seed in seeds] + [
        ("random", scale, seed) for scale in scales for seed in seeds
    ]
    outcomes = [
        _call(function, form, dtype, arrays, shape, values, scale, seed)
        for shape in shapes
        for values, scale, seed in draws
    ]
    wrong = [outcome for outcome in outcomes if not outcome.passed]
    if wrong:
        raise ProductError(wrong, len(outcomes))
    return outcomes


def _call(
    function: Callable[[Any, Any, Any], object],
    form: str,
    dtype: str,
    arrays: Any,
    shape: tuple[int, int, int],
    values: str,
    scale: float,
    seed: int,
) -> ProductOutcome:
    m, n, k = shape
    rng = np.random.default_rng([seed, m, n, k])
    sides, factors = FORMS[form]
    a_side, b_side = sides(m, n, k)
    a, b = _draw(rng, a_side, values, scale, dtype), _draw(rng, b_side, values, 1.0, dtype)
    result_dtype = str(ARITHMETIC[dtype].accumulator)
    placed_a, placed_b = arrays.asarray(a.copy()), arrays.asarray(b.copy())
    guard = rng.normal(0, 1, (GUARD_ROWS, n)).astype(result_dtype)
    whole = arrays.asarray(np.vstack([np.full((m, n), np.nan, result_dtype), guard]))
    function(placed_a, placed_b, whole[:m])
    wide_a, wide_b = factors(*(_operand(x, dtype) for x in (a, b)))
    reference = wide_a @ wide_b
    bound = bounds.stored(bounds.product_error(np.abs(wide_a) @ np.abs(wide_b), k, dtype), reference, result_dtype)
    host, a_after, b_after = (_host(arrays, x) for x in (whole, placed_a, placed_b))
    fault = ""
    if not np.array_equal(host[m:], guard):
        fault = "it wrote behind c"
    elif not (np.array_equal(a, a_after) and np.array_equal(b, b_after)):
        fault = "it changed an input"
    comparison = compare(host[:m], reference, np.zeros_like(bound) if values == "integers" else bound)
    return ProductOutcome(shape, values, scale, seed, comparison, fault)


def _host(arrays: Any, x: Any) -> np.ndarray:
    return arrays.asnumpy(x) if hasattr(arrays, "asnumpy") else np.asarray(x)


def _draw(rng: np.random.Generator, shape: tuple[int, int], values: str, scale: float, dtype: str) -> np.ndarray:
    if values == "integers":
        return rng.integers(-3, 4, shape).astype(ARITHMETIC[dtype].storage)
    drawn = (scale * rng.normal(0, 1, shape)).astype(ARITHMETIC[dtype].storage)
    return references.with_tf32_ties(drawn) if dtype == "tf32" else drawn


def _operand(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return x as the reference multiplies it."""
    return references.tf32(x) if dtype == "tf32" else x.astype(bounds.REFERENCE[dtype])
