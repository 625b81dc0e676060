"""A plan as the kernels take it: the C++ expression of each kernel's instance and the file that holds it, and the rung
of the kernels in Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp.backends.plans import Chip, Plan
from gpubp.errors import ArgumentError
from gpubp.kernels import cuda

if TYPE_CHECKING:
    from gpubp.kernels.numba.ladder import Rung

KERNEL_DIRECTORY = Path(cuda.__file__).parent
"""Where the .cu and .cuh files lie."""

TYPES = {"float32": "float", "float64": "double", "int64": "int64", "bfloat16": "bfloat16", "float16": "float16"}
"""C++ types by NumPy's names."""

OPERAND_TYPES = TYPES | {"tf32": "float"}
"""The same by what a product multiplies: tf32 is rounded from floats in registers."""

WORDS = {16: "uint4", 8: "uint2", 4: "unsigned", 2: "unsigned short"}
"""C++ types for moving bytes, by their size."""


@dataclass(frozen=True)
class Entry:
    """One instance of a kernel: the file under kernels/cuda that holds it, and its C++ name expression."""

    source: str
    expression: str


def entry(source: str, kernel: str, *arguments: str | int) -> Entry:
    """The instance of `kernel` in `source`.cu with these template arguments."""
    return Entry(f"{source}.cu", _type(kernel, *arguments))


@dataclass(frozen=True)
class ProductKernels:
    """The kernels of one primitive that is a product.

    source: the file. kernel: its name. form: "NT", "NN" or "TN". arguments: template arguments before the rung.
    """

    source: str
    kernel: str
    form: str
    arguments: tuple[str, ...]

    def whole(self, plan: Plan) -> Entry:
        """Return the kernel that computes all of the primitive by this plan."""
        return entry(self.source, self.kernel, *self.arguments, cuda_rung(plan))

    def partial(self, plan: Plan) -> Entry:
        """Return the kernel that computes parts of the product, before the reduction."""
        return entry("product", "partial_product", OPERAND_TYPES[plan.dtype], self.form, cuda_rung(plan))

    def reduction(self) -> Entry:
        """Return the kernel that adds the parts, and then does what the primitive does with a sum."""
        return entry(self.source, self.kernel, *self.arguments, "Reduction")


def product_kernels(primitive: str, form: str, dtype: str, activation: str | None = None) -> ProductKernels:
    """Return the kernels of a primitive whose file has its name."""
    arguments = (TYPES[dtype],) if activation is None else (TYPES[dtype], activation)
    return ProductKernels(primitive, primitive, form, arguments)


def general_product_kernels(form: str, dtype: str) -> ProductKernels:
    """Return the kernels of c = α A B + β c."""
    return ProductKernels("product", "general_product", form, (TYPES[dtype], form))


def cuda_rung(plan: Plan) -> str:
    """Return a plan as a type of kernels/cuda/ladder.cuh."""
    tile = (plan.tile_m, plan.tile_n, plan.tile_k)
    return {
        "naive": "Naive",
        "tiled": _type("Tiled", plan.tile_m),
        "blocked": _type("Blocked", plan.tile_m),
        "pipelined": _type("Pipelined", *tile, plan.thread_m, plan.thread_n, plan.stages, plan.vector),
        "tensorcore": _type("TensorCore", *tile, plan.warp_m, plan.warp_n, plan.stages, plan.vector),
    }[plan.variant]


def _type(name: str, *arguments: str | int) -> str:
    return f"{name}<{', '.join(map(str, arguments))}>"


# --- Numba ------------------------------------------------------------------------------------------------------------
def numba_rung(plan: Plan) -> Rung:
    """Return a plan as a value of kernels/numba/ladder.py."""
    from gpubp.kernels.numba import ladder  # brings Numba, which the names of the C++ kernels do without

    rungs: dict[str, Rung] = {
        "naive": ladder.Naive(),
        "tiled": ladder.Tiled(plan.tile_m),
        "blocked": ladder.Blocked(plan.tile_m),
        "pipelined": ladder.Pipelined(plan.tile_m, plan.tile_n, plan.thread_m, plan.thread_n),
    }
    return rungs[plan.variant]


def numba_plan(plan: Plan, chip: Chip) -> Plan:
    """Return the plan as the kernels in Python run it: `pipelined` with their own depth of tile, two stages and copies
    of one element; another variant as it is.

    Raises:
        ArgumentError: a thread's share of a tile is no whole number of copies, or the chip lacks the shared memory.
    """
    if plan.variant != "pipelined":
        return plan
    from gpubp.kernels.numba.product_pipelined import TILE_K, Pipelined

    adapted = replace(plan, tile_k=TILE_K, stages=2, vector=1)
    needed = Pipelined(plan.tile_m, plan.tile_n, plan.thread_m, plan.thread_n).shared_bytes(plan.dtype)
    if needed > chip.shared_per_block:
        expected = (
            f"≤ {chip.shared_per_block} on {chip.arch}; it is 2 · {TILE_K} · (tile_m + tile_n) elements and padding"
        )
        raise ArgumentError("shared_bytes", needed, expected)
    return adapted
