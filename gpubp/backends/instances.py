"""A plan as the kernels take it: the C++ expression of each kernel's instance and the file that holds it, and the rung
of the kernels in Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpubp.backends.plans import Plan
from gpubp.chips import Chip
from gpubp.dtypes import ARITHMETIC, master_of
from gpubp.errors import ArgumentError
from gpubp.kernels import cuda

if TYPE_CHECKING:
    from gpubp.kernels.numba.ladder import Rung

KERNEL_DIRECTORY = Path(cuda.__file__).parent
"""Where the .cu and .cuh files lie."""

SOURCES = {
    "dense_forward_dropout": "dense_forward",
    "general_product": "product",
    "hidden_delta_dropout": "hidden_delta",
    "layer_gradient": "weight_gradient",
    "layer_step": "weight_step",
    "output_delta_elementwise": "output_delta",
    "output_delta_softmax": "output_delta",
    "output_delta_softmax_cross_entropy": "output_delta",
    "output_delta_softmax_focal_cross_entropy": "output_delta",
    "partial_product": "product",
}
"""The files, without their ending, of kernels that lie in a file of another name."""

TYPES = {str(kind.storage): kind.cpp for kind in ARITHMETIC.values()} | {"int64": "int64"}
"""C++ types by NumPy's names."""

WORDS = {16: "uint4", 8: "uint2", 4: "unsigned", 2: "unsigned short"}
"""C++ types for moving bytes, by their size."""


class Word(NamedTuple):
    """What a kernel that moves bytes moves at once: `nbytes` of an array of this dtype."""

    nbytes: int
    dtype: np.dtype


class MapOf(NamedTuple):
    """A tensor map of a matrix of this dtype, by which a kernel stores it."""

    dtype: np.dtype


@dataclass(frozen=True)
class Entry:
    """One instance of a kernel: the file under kernels/cuda that holds it, and its C++ name expression.

    own_chip: True if its instructions are those of one architecture alone, "sm_90a".
    """

    source: str
    expression: str
    own_chip: bool = False


def entry(source: str, kernel: str, *arguments: str | int) -> Entry:
    """Return the instance of `kernel` in `source`.cu with these template arguments."""
    return Entry(f"{source}.cu", _type(kernel, *arguments))


def cuda_entry(kernel: str, template: tuple[Any, ...]) -> Entry:
    """Return the instance of a kernel that a `Launch` names, with the launch's template arguments, and with the types
    of the working memory that stream-K takes.
    """
    arguments = [*map(_template_argument, template)]
    plan = next((each for each in template if isinstance(each, Plan)), None)
    if plan is not None and plan.stream_k:
        arguments += f"{TYPES[str(master_of(template[0]))]}*", "unsigned*"
    found = entry(SOURCES.get(kernel, kernel), kernel, *arguments)
    return replace(found, own_chip=plan is not None and plan.variant == "wgmma")


def _template_argument(x: Any) -> str | int:
    if isinstance(x, np.dtype):
        return TYPES[str(x)]
    if isinstance(x, Word):
        return WORDS[x.nbytes]
    if isinstance(x, MapOf):
        return _type("TensorMap", TYPES[str(x.dtype)])
    if isinstance(x, Plan):
        return cuda_rung(x)
    return x if isinstance(x, str | int) else type(x).__name__


def cuda_rung(plan: Plan) -> str:
    """Return a plan as a type of kernels/cuda/ladder.cuh."""
    tile = (plan.tile_m, plan.tile_n, plan.tile_k)
    rung = {
        "naive": "Naive",
        "tiled": _type("Tiled", plan.tile_m),
        "blocked": _type("Blocked", plan.tile_m),
        "pipelined": _type("Pipelined", *tile, plan.thread_m, plan.thread_n, plan.stages, plan.vector),
        "tensorcore": _type("TensorCore", *tile, plan.warp_m, plan.warp_n, plan.stages, plan.vector),
        "wgmma": _type("Wgmma", plan.tile_m, plan.tile_n, plan.stages, plan.cluster),
    }[plan.variant]
    return _type("StreamK", rung) if plan.stream_k else rung


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
        ArgumentError: a thread's share of a tile is no whole number of copies, the chip lacks the shared memory, or the
            plan is one of stream-K.
    """
    if plan.stream_k:
        raise ArgumentError("stream_k", plan.stream_k, "0: backend 'numba' splits the depth by split_k alone")
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
