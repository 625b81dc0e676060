"""Backends on the emulated device that keep, of every launch, what was launched and what it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from gpubp.backends.gpu_backend import Block, GpuBackend
from gpubp.chips import Gpu, architectures
from gpubp.errors import ArgumentError, unknown_name

if TYPE_CHECKING:
    from gpubp.emulator.observe.findings import Report
    from gpubp.toolchain.ptxas import Resources

BACKENDS = ("cupy", "numba")
"""The backends that have kernels."""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    kernel: what it is called in its language. symbol: its name in the machine code. cubin: that machine code.
    grid, block: sides. dynamic_shared: bytes of shared memory that the launch asked for. resources: what the compiler
    reports. report: what the emulated device counted.
    """

    kernel: str
    symbol: str
    cubin: bytes
    grid: Block
    block: Block
    dynamic_shared: int
    resources: Resources
    report: Report

    @property
    def blocks(self) -> int:
        """Of the grid."""
        return prod(self.grid)

    @property
    def threads(self) -> int:
        """Of a block."""
        return prod(self.block)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, static and dynamic."""
        return self.resources.shared_bytes + self.dynamic_shared


@contextmanager
def recording(name: str, gpu: Gpu, arch: str) -> Iterator[tuple[GpuBackend, list[Launch]]]:
    """A backend on the emulated device, which plans for this GPU and compiles for this architecture, and its launches.

    Raises ArgumentError for a backend without kernels, or an architecture that is not emulated.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if arch not in architectures():
        raise ArgumentError("arch", arch, f"one that is emulated: {', '.join(architectures())}")
    from gpubp import emulator

    with emulator.use(arch):
        launches: list[Launch] = []
        backend = _cupy(launches) if name == "cupy" else _numba(launches)
        backend.chip = replace(gpu.for_plans(), arch=arch)
        yield backend, launches


def _cupy(launches: list[Launch]) -> GpuBackend:
    from gpubp import emulator
    from gpubp.backends.cupy_backend import CupyBackend
    from gpubp.toolchain.nvrtc import compile_file

    class Recording(CupyBackend):
        def _launch(self, kernel: Any, grid: Block, block: Block, arguments: tuple, shared: int = 0) -> None:
            with emulator.observe(traffic=True) as report:
                super()._launch(kernel, grid, block, arguments, shared)
            compiled = compile_file(self._kernels / kernel.source, self.chip.arch, name_expressions=[kernel.expression])
            symbol = compiled.lowered_names[kernel.expression]
            used = compiled.resources[symbol]
            launches.append(Launch(kernel.expression, symbol, compiled.cubin, grid, block, shared, used, report))

    return Recording("emulator")


def _numba(launches: list[Launch]) -> GpuBackend:
    from gpubp import emulator
    from gpubp.backends.numba_backend import NumbaBackend

    class Recording(NumbaBackend):
        def _launch(self, kernel: Any, grid: Block, block: Block, *arguments: Any) -> None:
            with emulator.observe(traffic=True) as report:
                super()._launch(kernel, grid, block, *arguments)
            overload = kernel.overload_for(arguments)
            name = overload.kernel.name
            cubin = overload.assembled.cubin
            launches.append(Launch(name, name, cubin, grid, block, 0, overload.resources, report))

    return Recording("emulator")
