"""Showing a kernel of one's own at work: what `gpubp.explain.kernel` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.errors import ArgumentError
from gpubp.explain.catalogue import catalogue
from gpubp.explain.kernel_page import kernel_page
from gpubp.explain.kernel_run import Explanation, Index, explained, named_array, require_followed
from gpubp.files import check_path, write_bytes
from gpubp.registry import require_count


@dataclass(frozen=True, eq=False)
class OwnExplanation(Explanation):
    """What one block of a kernel did, with the page of it."""

    def page(self, *, language: str = "en", command: str = "gpubp.explain.kernel") -> str:
        """Return the page as HTML.

        Args:
            language: "en" or "es".
            command: what the page says that it was made with.
        """
        return kernel_page(self, catalogue(language), command)

    def save(self, path: str | Path, *, language: str = "en", force: bool = False) -> None:
        """Write the page to an .html file.

        Args:
            language: "en" or "es".
            force: it may replace a file.

        Raises:
            ArgumentError: the path cannot be written, or there is no such language.
        """
        check_path("path", Path(path), ".html", ".htm", replace=force)
        write_bytes(path, self.page(language=language).encode())


def kernel(
    kernel: Any,
    grid: Any,
    block: Any,
    args: tuple[Any, ...] | list[Any],
    arrays: Mapping[str, Any] | None = None,
    *,
    shared_mem: int = 0,
    trace: Index = (0, 0, 0),
    warp: int | None = None,
) -> OwnExplanation:
    """Run a kernel of one's own on the emulated device, and return what one block of it did.

    The arrays hold afterwards what the kernel made of them. Mistakes raise nothing: they are in `troubles`, and the
    page opens there; the block that makes the first one is traced.

    Args:
        kernel: a `RawKernel` of `gpubp.emulator`, or a kernel of `gpubp.emulator.cuda.jit`.
        grid, block: numbers, or tuples of one to three.
        args: as the kernel takes them.
        arrays: those among `args` that the page draws, by name, such as {"a": a}.
        shared_mem: bytes of dynamic shared memory.
        trace: the index of the block that is traced, (x, y, z).
        warp: the number of a warp of it; None: all.

    Raises:
        ArgumentError: the kernel is none of the emulator's, an array is none, or an argument is of another type.
        StateError: an array is not C-contiguous; the grid has no such block, or the block no such warp.

    An example::

        import numpy as np
        import gpubp.emulator as cp
        from gpubp import explain

        saxpy = cp.RawKernel(r'''
        extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) y[i] = a * x[i] + y[i];
        }''', "saxpy")
        x, y = cp.ones(64, np.float32), cp.ones(64, np.float32)
        found = explain.kernel(saxpy, 2, 32, (64, np.float32(2), x, y), arrays={"x": x, "y": y})
        found.save("saxpy.html")
    """
    call = _caller(kernel, grid, block, shared_mem)
    if not (isinstance(trace, tuple | list) and len(trace) == 3):
        raise ArgumentError("trace", trace, "the index of a block, three whole numbers such as (0, 0, 0)")
    for axis, side in enumerate(trace):
        require_count(f"trace[{axis}]", side, least=0)
    x, y, z = map(int, trace)
    index = (x, y, z)
    if warp is not None:
        require_count("warp", warp, least=0, most=31)
    if not isinstance(arrays, Mapping | None):
        raise ArgumentError("arrays", arrays, 'arrays by name, such as {"a": a}')
    named = tuple(named_array(name, array) for name, array in (arrays or {}).items())
    host = [_snapshot(each) for each in args]

    def run() -> None:
        for array, before in zip(args, host, strict=True):
            if before is not None:
                array.set(before)
        call(tuple(args))

    name = getattr(kernel, "name", None) or getattr(kernel, "__name__", "kernel")
    found = explained(str(name), run, lambda: named, index, warp)
    if not found.troubles:
        require_followed(found, "trace", index, warp)
    return OwnExplanation(**vars(found))


def _caller(kernel: Any, grid: Any, block: Any, shared_mem: int) -> Callable[[tuple[Any, ...]], None]:
    """Return what launches a kernel of the emulator with its arguments."""
    if not type(kernel).__module__.startswith("gpubp.emulator"):
        raise ArgumentError("kernel", kernel, "a kernel of gpubp.emulator: a RawKernel, or one of cuda.jit")
    require_count("shared_mem", shared_mem, least=0)
    sides = [tuple(size) if isinstance(size, tuple | list) else (size,) for size in (grid, block)]
    if type(kernel).__name__ == "RawKernel":
        return lambda args: kernel(sides[0], sides[1], args, shared_mem=shared_mem)
    if not hasattr(kernel, "py_func"):
        raise ArgumentError("kernel", kernel, "a kernel of gpubp.emulator: a RawKernel, or one of cuda.jit")
    return lambda args: kernel[sides[0], sides[1], 0, shared_mem](*args)


def _snapshot(argument: Any) -> np.ndarray | None:
    """Return what an array on the device holds, None for other arguments."""
    return argument.get() if hasattr(argument, "__cuda_array_interface__") and hasattr(argument, "set") else None
