"""The profile of any kernel: one launch on the emulated device, counted, on the roofline of a chip.

Its flops are those that it executes, and its least bytes the sectors of global memory that it touches, each once: what
a cache that forgets nothing would move. Of a primitive both are known from its equation; of any kernel they are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import chips
from gpubp.chips import Gpu, architectures
from gpubp.costs import Cost
from gpubp.dtypes import canonical
from gpubp.errors import ArgumentError
from gpubp.profiler.counts import counts_of_launch
from gpubp.profiler.launches import RecordedLaunch
from gpubp.profiler.limits import limits
from gpubp.profiler.profiles import DEFAULT_CHIP, Profile, kernel_profile, target
from gpubp.profiler.workloads import KernelLaunch

_MATRIX_KINDS = {"tf32": "tf32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}


def profile(
    kernel: Any,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any] = (),
    chip: str | Gpu | None = DEFAULT_CHIP,
    *,
    arch: str | None = None,
    shared_mem: int = 0,
    dtype: str | None = None,
    observe: bool = False,
    suppressions: str | Path | None = None,
) -> Profile:
    """Profile one launch of any kernel on the emulated device; no GPU is needed.

    Args:
        kernel: a RawKernel of the emulator, also one of a .ptx file, or of CuPy; or a Numba kernel, emulated or real.
        grid, block: blocks of the grid, and threads of a block, in up to three directions.
        args: as the kernel takes them. NumPy arrays are copied to the device; emulated arrays are what they hold, and
            the kernel changes them.
        chip: the name of a chip, or the chip itself; None: one that runs `arch`.
        arch: what to compile for, such as "sm_90"; None: the chip's own.
        shared_mem: bytes of shared memory that the launch asks for.
        dtype: the kind of arithmetic whose peak rate counts; None: what most of the kernel's instructions compute in.
        observe: look for races and for reads of memory that nothing wrote too: `Profile.findings`.
        suppressions: a TOML file of findings that are intended.

    Returns:
        A Profile: `gpubp.profiler.profile_tables.tables` makes tables of it, `gpubp.report.profile_page.page` a page
        with the annotated source.

    Raises:
        ArgumentError: an argument is wrong.
        gpubp.emulator.EmulatorError: what the emulator finds while the kernel runs.
    """
    from gpubp import emulator

    gpu, arch = target(chips.get(chip) if isinstance(chip, str) else chip, arch)
    if arch not in architectures():
        raise ArgumentError("arch", arch, f"one that is emulated: {', '.join(architectures())}")
    sizes = _sides("grid", grid), _sides("block", block)
    with emulator.use(arch):
        made = _emulated(kernel)
        launched = _Raw(made) if isinstance(made, emulator.RawKernel) else _Numba(made)
        given = launched.arguments(args)
        with emulator.observe(races=observe, uninitialised=observe, traffic=True, suppressions=suppressions) as report:
            launched.launch(*sizes, given, shared_mem)
        name, parsed, cubin, resources = launched.made(given)
        rate = _rate(parsed.decoded().program, gpu) if dtype is None else canonical("dtype", dtype)
    launch = RecordedLaunch(name, parsed.name, cubin, resources, *sizes, shared_mem, report)
    counts = counts_of_launch(launch)
    work = KernelLaunch(name, *sizes, rate, shared_mem, tuple(map(_in_words, args)))
    read, written = report.footprint.read, report.footprint.written
    cost = Cost(counts.flops, read if read + written else 1, written, rate)  # one byte, for rates that divide by it
    profiled = kernel_profile(gpu, launch, counts)
    file, text = parsed.module.source
    return Profile(
        title=name,
        workload=work,
        backend=launched.backend,
        arch=arch,
        gpu=gpu,
        plan=None,
        cost=cost,
        kernels=(profiled,),
        shapes=(work.shape,),
        scaled=False,
        exact=True,
        error=0.0,
        limits=limits(gpu, cost, [(counts, None)]),
        findings=(*report.findings, *report.suppressed),
        sources={file: text} if file else {},
    )


def _sides(name: str, sides: int | Sequence[int]) -> tuple[int, int, int]:
    """Return the sides of a grid or a block in three directions."""
    found = tuple(sides) if isinstance(sides, Sequence) else (sides,)
    if not 1 <= len(found) <= 3 or not all(isinstance(each, int | np.integer) and each >= 1 for each in found):
        raise ArgumentError(name, sides, "one to three whole numbers ≥ 1")
    return (*(int(each) for each in found), 1, 1)[:3]  # type: ignore[return-value]


# -- kernels of every kind --------------------------------------------------------------------------------------------


def _emulated(kernel: Any) -> Any:
    """Return the kernel as one of the emulator."""
    from gpubp import emulator

    if isinstance(kernel, emulator.RawKernel):
        return kernel
    module = type(kernel).__module__
    if module.startswith("cupy") and type(kernel).__name__ == "RawKernel":
        if kernel.code is None:
            raise ArgumentError("kernel", kernel.name, "a kernel with its source, or gpubp.emulator's of a .ptx file")
        return emulator.RawKernel(kernel.code, kernel.name, tuple(kernel.options))
    if hasattr(kernel, "overload_for"):
        return kernel
    if module.startswith("numba") and hasattr(kernel, "py_func"):
        from gpubp.emulator.numba.frontend import jit

        options = {name: kernel.targetoptions.get(name) for name in ("fastmath", "opt", "launch_bounds")}
        return jit(**{name: value for name, value in options.items() if value is not None})(kernel.py_func)
    raise ArgumentError("kernel", kernel, "a RawKernel or a Numba kernel")


class _Raw:
    """A kernel in CUDA C++ or PTX."""

    backend = "cupy"

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        from gpubp import emulator

        return [emulator.asarray(each) if _is_host_array(each) else each for each in args]

    def launch(self, grid: Any, block: Any, args: Sequence[Any], shared_mem: int) -> None:
        self._kernel(grid, block, tuple(args), shared_mem=shared_mem)

    def made(self, args: Sequence[Any]) -> tuple[str, Any, bytes, Any]:
        """Return name, parsed kernel, machine code and resources."""
        from gpubp.emulator.cupy.modules import assembled

        return self._kernel.name, self._kernel.kernel, *assembled(self._kernel)


class _Numba:
    """A kernel in Python."""

    backend = "numba"

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        from gpubp.emulator.numba.frontend import to_device

        return [to_device(each) if _is_host_array(each) else each for each in args]

    def launch(self, grid: Any, block: Any, args: Sequence[Any], shared_mem: int) -> None:
        self._kernel[grid, block, 0, shared_mem](*args)

    def made(self, args: Sequence[Any]) -> tuple[str, Any, bytes, Any]:
        """Return name, parsed kernel, machine code and resources."""
        overload = self._kernel.overload_for(args)
        return overload.kernel.name, overload.kernel, overload.assembled.cubin, overload.resources


def _is_host_array(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and argument.ndim > 0


def _in_words(argument: Any) -> str:
    if hasattr(argument, "shape") and argument.shape:
        return f"{argument.dtype} {tuple(argument.shape)}"
    return f"{type(argument).__name__} {argument}"


def _rate(program: Any, gpu: Gpu) -> str:
    """Return the rate that most of a program's instructions go by; that of tensor cores if it uses them.

    float32 if it has none.
    """
    from gpubp.emulator.observe.classes import flops_of

    matrix: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    for block in program.blocks:
        for instruction in block.instructions:
            flops = flops_of(instruction)
            kinds = [name for name in instruction.modifiers if name in (*_MATRIX_KINDS, "f32")]
            if instruction.opcode in ("mma", "wmma", "wgmma") and flops:
                operands = [name for name in kinds if name != "f32"]
                matrix[gpu.product_rate(_MATRIX_KINDS[operands[-1]]) if operands else "tf32"] += flops
            elif flops and kinds:
                plain["float64" if kinds[-1] == "f64" else "float32"] += flops
    found = matrix or plain
    return found.most_common(1)[0][0] if found else "float32"
