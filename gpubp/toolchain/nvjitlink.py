"""PTX to machine code by nvJitLink, with no driver: for the registers and the memory that a kernel needs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from gpubp.toolchain import process
from gpubp.toolchain.process import CompileError
from gpubp.toolchain.ptxas import Resources, resources_from_log


@dataclass(frozen=True)
class Assembled:
    """Machine code for `arch`, ptxas' log, and what each kernel needs, by its name."""

    arch: str
    cubin: bytes
    log: str
    resources: Mapping[str, Resources]


@functools.lru_cache(maxsize=64)
def assemble(ptx: str, arch: str, max_registers: int | None = None) -> Assembled:
    """Return machine code of PTX for one architecture.

    Raises:
        CompileError: nvJitLink refuses the PTX; carries the log.
        RuntimeError: nvJitLink is missing.
    """
    options = [f"-arch={arch}", "-verbose", "-lineinfo"]
    if max_registers is not None:
        options.append(f"-maxrregcount={max_registers}")
    try:
        cubin, log = process.call("nvjitlink", "assemble", ptx=ptx, options=options)
    except process.Refused as error:
        raise CompileError(f"the PTX does not assemble for {arch} ({error.reason}):", error.log) from error
    return Assembled(arch, cubin, log, resources_from_log(log))
