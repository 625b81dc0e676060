"""Compiling the kernels of the cases for every architecture: does a chip have what they need, and does nothing spill?

A backend is made for the emulated chip of each architecture, so that it plans and compiles as it would there. Its
launches compile and take notes; nothing runs. What comes out is ptxas' own report of the machine code.

Tensor cores that multiply what the kernels do come with sm_80, and wgmma is on sm_90 alone. Elsewhere the backend must
refuse, and say so.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from gpubp.backends import plans
from gpubp.chips import architectures
from gpubp.crosscheck import problems, runner
from gpubp.crosscheck.buffers import placed
from gpubp.crosscheck.cases import Case
from gpubp.errors import ArgumentError
from gpubp.toolchain import cache

if TYPE_CHECKING:
    from gpubp.backends.gpu_backend import Launch
    from gpubp.chips import Chip
    from gpubp.toolchain.ptxas import Resources

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
"""A real architecture of every generation that the kernels are written for: Turing to Blackwell."""

ADDED_WAITS = re.compile(r"^.*\bC75\d\d\b.*$", re.MULTILINE)
"""What ptxas says in its log if it makes the products of a warpgroup wait for each other: C7510, C7517 and the like."""

COMPILED = ("cupy", "numba")
"""The backends that have kernels."""


@dataclass(frozen=True)
class CompiledKernel:
    """One instance of a kernel, compiled for one architecture, with the case that asked for it.

    Attributes:
        threads: of a block.
        registers: of a thread.
        shared_bytes: of a block.
        shared_limit: what the chip gives a block.
        spilled_bytes: of a thread.
        waits: what the compiler said of waits that it has added between the products of warpgroups.
        error: what the compiler, or the planning, said if there is no kernel.
        absent: what the planning said if there must be no kernel, as the chip lacks what it needs.
    """

    case: Case
    arch: str
    name: str = ""
    threads: int = 0
    registers: int = 0
    shared_bytes: int = 0
    shared_limit: int = 0
    spilled_bytes: int = 0
    waits: str = ""
    error: str = ""
    absent: str = ""

    @property
    def complaint(self) -> str:
        """Return what is wrong, in one line; "" if nothing."""
        if self.error:
            return f"{self.arch}: {self.error}"
        found = []
        if self.spilled_bytes:
            found.append(f"{self.spilled_bytes} bytes of registers spill")
        if self.waits:
            found.append(self.waits)
        registers = architectures()[self.arch].multiprocessor.registers
        if self.registers * self.threads > registers:
            found.append(f"{self.threads} threads of {self.registers} registers do not fit {registers}")
        if self.shared_bytes > self.shared_limit:
            found.append(f"{self.shared_bytes} bytes of shared memory where a block gets {self.shared_limit}")
        return f"{self.arch}: {self.name}: {'; '.join(found)}" if found else ""


def compile_cases(
    cases: Iterable[Case], backend: str, *, jobs: int | None = None, architectures: tuple[str, ...] = ARCHITECTURES
) -> Iterator[CompiledKernel]:
    """Compile what the cases launch on the named backend, in worker processes, and give each kernel as it comes.

    Kernels that several primitives or options share come with each of them.
    """
    groups: dict[tuple[str, ...], dict[Case, None]] = {}
    for case in cases:
        # neither the numbers nor where they come from makes another kernel
        plain = replace(case, scale=1.0, values="random", seed=0)
        key = (case.primitive, case.variant, case.dtype, case.option, case.mode)
        groups.setdefault(key, {})[plain] = None
    cache.ensure_writable()
    workers = jobs or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=runner.worker_context()) as pool:
        asked = {pool.submit(compile_group, backend, tuple(group), architectures): group for group in groups.values()}
        for future in as_completed(asked):
            if error := future.exception():  # the process died: a compiler can crash
                yield CompiledKernel(
                    next(iter(asked[future])), "every architecture", error=f"{type(error).__name__}: {error}"
                )
            else:
                yield from future.result()


def compile_group(backend: str, cases: tuple[Case, ...], architectures: tuple[str, ...]) -> list[CompiledKernel]:
    """Compile what these cases launch, in this process; each instance comes once for an architecture."""
    found: dict[tuple[str, object, int], CompiledKernel] = {}
    for case in cases:
        problem = problems.make(case)
        for arch in architectures:
            for instance, kernel in _compile(backend, case, problem, arch):
                found.setdefault((arch, instance, kernel.threads), kernel)
    return list(found.values())


def _compile(name: str, case: Case, problem: problems.Problem, arch: str) -> list[tuple[object, CompiledKernel]]:
    """Return the kernels of one case, each with the key of its instance."""
    from gpubp import emulator

    with emulator.use(arch):
        try:
            backend, notes = _note_taking_backend(name, arch)
            notes.clear()
            arrays = {key: each.array for key, each in placed(backend, problem, case).items()}
            with runner.plans_of(backend, case):
                if case.rung in plans.TENSOR_VARIANTS and case.rung not in plans.variants_of(case.dtype, backend.chip):
                    return [(case, CompiledKernel(case, arch, absent=_refusal(backend, problem, arrays)))]
                problem.run(backend, arrays)
        except Exception as error:  # whatever keeps a kernel from being compiled is a finding of this architecture
            return [(case, CompiledKernel(case, arch, error=f"{type(error).__name__}: {error}"))]
        return [(note.instance, note.kernel(case, arch, backend.chip)) for note in notes]


def _refusal(backend: Any, problem: problems.Problem, arrays: dict[str, Any]) -> str:
    """Return the message of a backend that must refuse the call. Raise RuntimeError if it accepts it."""
    try:
        problem.run(backend, arrays)
    except ArgumentError as error:
        return str(error)
    raise RuntimeError(f"{backend.chip.arch} lacks the instructions, and yet the call was taken")


@dataclass(frozen=True)
class _Noted:
    """What a backend would have launched."""

    instance: object
    name: str
    block: tuple[int, ...]
    used: Resources
    shared: int = 0  # bytes that the launch asks for
    waits: str = ""

    def kernel(self, case: Case, arch: str, chip: Chip) -> CompiledKernel:
        spilled = self.used.spill_store_bytes + self.used.spill_load_bytes
        used = self.used.registers, self.used.shared_bytes + self.shared
        limit = max(chip.shared_per_block, chip.shared_on_request if self.shared else 0)
        return CompiledKernel(case, arch, self.name, prod(self.block), *used, limit, spilled, self.waits)


@functools.cache
def _note_taking_backend(name: str, arch: str) -> tuple[Any, list[_Noted]]:
    """Return a backend for this architecture, and the list of what it would have launched."""
    notes: list[_Noted] = []
    if name == "cupy":
        from gpubp.backends.cupy_backend import CupyBackend
        from gpubp.backends.instances import cuda_entry

        class NoteTakingCupy(CupyBackend):
            def _launch(self, launch: Launch) -> None:
                compiled, symbol = self.compiled(launch)
                entry = cuda_entry(launch.kernel, launch.template)
                used = compiled.resources[symbol]
                waits = ADDED_WAITS.search(compiled.log)
                said = waits[0].strip() if waits else ""
                notes.append(_Noted(entry, entry.expression, launch.block, used, launch.shared_bytes, said))

        return NoteTakingCupy("emulator"), notes

    from gpubp.backends.numba_backend import NumbaBackend

    class NoteTakingNumba(NumbaBackend):
        def _launch(self, launch: Launch) -> None:
            kernel = self.kernel_of(launch)
            (overload,) = kernel.overloads.values()
            notes.append(_Noted(id(kernel), kernel.py_func.__name__, launch.block, overload.resources))

    return NoteTakingNumba("emulator"), notes
