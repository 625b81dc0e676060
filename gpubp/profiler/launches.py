"""Backends on the emulated device that keep, of every launch, what was launched and what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from gpubp.backends import gpu_backend
from gpubp.backends.gpu_backend import Block, GpuBackend
from gpubp.chips import Gpu, architectures
from gpubp.errors import ArgumentError, unknown_name

if TYPE_CHECKING:
    from gpubp.backends.cupy_backend import CupyBackend
    from gpubp.backends.numba_backend import NumbaBackend
    from gpubp.emulator.observe.findings import Report
    from gpubp.toolchain.ptxas import Resources

BACKENDS = ("cupy", "numba")
"""The backends that have kernels."""


@dataclass(frozen=True)
class RecordedLaunch:
    """One launch of a kernel, and what it did.

    Attributes:
        kernel: the kernel's name in its language.
        symbol: its name in the machine code.
        cubin: that machine code.
        resources: registers and memory, as the compiler reports them.
        grid, block: their sides.
        dynamic_shared: bytes of shared memory that the launch asked for.
        report: what the emulated device counted.
    """

    kernel: str
    symbol: str
    cubin: bytes
    resources: Resources
    grid: Block
    block: Block
    dynamic_shared: int
    report: Report

    @property
    def blocks(self) -> int:
        """Return the number of blocks of the grid."""
        return prod(self.grid)

    @property
    def threads(self) -> int:
        """Return the number of threads of a block."""
        return prod(self.block)

    @property
    def shared_bytes(self) -> int:
        """Return the shared memory of a block, static and dynamic, in bytes."""
        return self.resources.shared_bytes + self.dynamic_shared


@contextmanager
def recording(name: str, gpu: Gpu, arch: str) -> Iterator[tuple[GpuBackend, list[RecordedLaunch]]]:
    """Yield a backend on the emulated device, which plans for this GPU and compiles for this architecture, and the list
    of its launches.

    Raises:
        ArgumentError: the backend has no kernels, or the architecture is not emulated.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if arch not in architectures():
        raise ArgumentError("arch", arch, f"one that is emulated: {', '.join(architectures())}")
    from gpubp import emulator

    with emulator.use(arch):
        launches: list[RecordedLaunch] = []
        backend = _recording(name, launches)
        backend.chip = replace(gpu.for_plans(), arch=arch)
        yield backend, launches


def _recording(name: str, launches: list[RecordedLaunch]) -> GpuBackend:
    """Return a backend of this name that keeps its launches in this list."""
    from gpubp import emulator

    kind, code_of = _cupy() if name == "cupy" else _numba()

    class Recording(kind):  # type: ignore[valid-type, misc]
        def _launch(self, launch: gpu_backend.Launch) -> None:
            with emulator.observe(traffic=True) as report:
                super()._launch(launch)
            launches.append(
                RecordedLaunch(*code_of(self, launch), launch.grid, launch.block, launch.shared_bytes, report)
            )

    return Recording("emulator")


CodeOf = Callable[[Any, gpu_backend.Launch], tuple[str, str, bytes, "Resources"]]
"""What a backend launches: the kernel's name in its language, that in the machine code, the machine code, resources."""


def _cupy() -> tuple[type[GpuBackend], CodeOf]:
    from gpubp.backends.cupy_backend import CupyBackend
    from gpubp.backends.instances import cuda_entry

    def code_of(backend: CupyBackend, launch: gpu_backend.Launch) -> tuple[str, str, bytes, Resources]:
        compiled, symbol = backend.compiled(launch)
        expression = cuda_entry(launch.kernel, launch.template).expression
        return expression, symbol, compiled.cubin, compiled.resources[symbol]

    return CupyBackend, code_of


def _numba() -> tuple[type[GpuBackend], CodeOf]:
    from gpubp.backends.numba_backend import NumbaBackend

    def code_of(backend: NumbaBackend, launch: gpu_backend.Launch) -> tuple[str, str, bytes, Resources]:
        overload = backend.kernel_of(launch).overload_for(backend.arguments_of(launch))
        name = overload.kernel.name
        return name, name, overload.assembled.cubin, overload.resources

    return NumbaBackend, code_of
