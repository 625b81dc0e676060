"""The kinds of arithmetic: what each stores, sums and rounds in, and what C++ and BLAS call it. One row a kind.

A kind is named as NumPy names its dtype, and "tf32" for float32 arrays whose products round their operands to TF32.
Users may write the short names too: `canonical` returns the name in `ARITHMETIC`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gpubp.errors import unknown_name

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)


@dataclass(frozen=True)
class Arithmetic:
    """One kind of arithmetic.

    Attributes:
        name: the name in messages and files.
        short: the other name that users may write.
        storage: dtype of the arrays that products read and of activations and deltas.
        accumulator: dtype of sums, biases, gradients and parameters.
        unit_roundoff: largest relative error of rounding to nearest, of what is multiplied.
        k_mma: depth that one tensor-core instruction sums over; 0: threads multiply, not tensor cores.
        cpp: the type of an element in CUDA C++.
        blas: the letter that BLAS puts before its functions; "" if it has none.
    """

    name: str
    short: str
    storage: np.dtype
    accumulator: np.dtype
    unit_roundoff: float
    k_mma: int
    cpp: str
    blas: str = ""

    @property
    def tensor_cores(self) -> bool:
        """True if products run on tensor cores alone."""
        return self.k_mma > 0

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of the arrays that products read."""
        return self.storage.itemsize


ARITHMETIC: dict[str, Arithmetic] = {
    kind.name: kind
    for kind in (
        Arithmetic("float32", "fp32", FLOAT32, FLOAT32, 2.0**-24, 0, "float", "s"),
        Arithmetic("float64", "fp64", FLOAT64, FLOAT64, 2.0**-53, 0, "double", "d"),
        Arithmetic("tf32", "tf32", FLOAT32, FLOAT32, 2.0**-11, 8, "float"),
        Arithmetic("bfloat16", "bf16", BFLOAT16, FLOAT32, 2.0**-8, 16, "bfloat16"),
        Arithmetic("float16", "fp16", FLOAT16, FLOAT32, 2.0**-11, 16, "float16"),
    )
}
"""Every kind by its name."""

NAMES = tuple(ARITHMETIC)
PLAIN = tuple(name for name, kind in ARITHMETIC.items() if not kind.tensor_cores)
"""Kinds that threads compute, in the dtype of the arrays: any chip has them."""
MIXED = tuple(name for name, kind in ARITHMETIC.items() if kind.tensor_cores)
"""Kinds whose products run on tensor cores, and nowhere else."""
HALVES = (BFLOAT16, FLOAT16)
"""The dtypes of 16 bits, in which arrays are stored and nothing is computed."""


def long_name(name: Any) -> Any:
    """Return the name in `ARITHMETIC` of the kind that `name` names in either form; anything else as it is."""
    for kind in ARITHMETIC.values():
        if name == kind.short:
            return kind.name
    return name


def canonical(argument: str, name: Any, options: Sequence[str] = NAMES) -> str:
    """Return the name in `ARITHMETIC` of the kind that `name` names in its long or its short form.

    Raises:
        ArgumentError: `name` names none of `options`; the message lists them.
    """
    long = long_name(name)
    if long not in options:
        raise unknown_name(argument, name, options)
    return long


def master_of(dtype: np.dtype) -> np.dtype:
    """Return the dtype of sums, biases and gradients beside arrays of this dtype."""
    return FLOAT32 if dtype in HALVES else dtype
