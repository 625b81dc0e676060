"""The names of the CUDA C++ kernels: which file holds one, and the C++ expression of each of its instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpubp.backends.plans import Plan
from gpubp.kernels import cuda

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
    return Entry(f"{source}.cu", f"{kernel}<{', '.join(map(str, arguments))}>")


@dataclass(frozen=True)
class ProductKernels:
    """The kernels of one primitive that is a product: one for each rung of the ladder, and the reduction of split-K.

    source: the file. stem: what the kernels' names begin with. form: "NT", "NN" or "TN".
    arguments: template arguments before the plan's; reduce_arguments: those of the reduction.
    """

    source: str
    stem: str
    form: str
    arguments: tuple[str, ...]
    reduce_arguments: tuple[str, ...]

    def whole(self, plan: Plan) -> Entry:
        """The kernel that computes all of the primitive by this plan."""
        return entry(self.source, f"{self.stem}_{plan.variant}", *self.arguments, *plan_arguments(plan))

    def partial(self, plan: Plan) -> Entry:
        """The kernel that computes parts of the product, before the reduction."""
        arguments = (OPERAND_TYPES[plan.dtype], self.form, *plan_arguments(plan))
        return entry("product", f"partial_product_{plan.variant}", *arguments)

    def reduction(self) -> Entry:
        """The kernel that adds the parts, and then does what the primitive does with a sum."""
        return entry(self.source, f"{self.stem}_reduce", *self.reduce_arguments)


def product_kernels(primitive: str, form: str, dtype: str, activation: str | None = None) -> ProductKernels:
    """The kernels of a primitive whose file has its name."""
    arguments = (TYPES[dtype],) if activation is None else (TYPES[dtype], activation)
    return ProductKernels(primitive, primitive, form, arguments, arguments)


def general_product_kernels(form: str, dtype: str) -> ProductKernels:
    """The kernels of c = α A B + β c."""
    return ProductKernels("product", "general_product", form, (TYPES[dtype], form), (TYPES[dtype],))


def plan_arguments(plan: Plan) -> tuple[str, ...]:
    """A plan as template arguments."""
    if plan.variant == "naive":
        return ()
    if plan.variant == "tiled":
        return (str(plan.tile_m),)
    pieces = (plan.warp_m, plan.warp_n) if plan.variant == "tensorcore" else (plan.thread_m, plan.thread_n)
    sizes = (plan.tile_m, plan.tile_n, plan.tile_k, *pieces, plan.stages, plan.vector)
    pipeline = "WarpPipeline" if plan.variant == "tensorcore" else "Pipeline"
    return (f"{pipeline}<{', '.join(map(str, sizes))}>",)
