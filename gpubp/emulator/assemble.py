"""PTX to machine code by nvJitLink, with no driver: for the registers and the memory that a kernel needs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from gpubp.kernels.cuda.compile import CompileError, Resources, resources_from_log


@dataclass(frozen=True)
class Assembled:
    """Machine code for `arch`, ptxas' log, and what each kernel needs, by its name."""

    arch: str
    cubin: bytes
    log: str
    resources: Mapping[str, Resources]


@functools.lru_cache(maxsize=64)
def assemble(ptx: str, arch: str, max_registers: int | None = None) -> Assembled:
    """Assemble PTX for one architecture.

    Raises:
        CompileError: nvJitLink refuses the PTX; carries the log.
        RuntimeError: nvJitLink is missing.
    """
    try:
        from cuda.bindings import nvjitlink
    except ImportError as error:
        raise RuntimeError(f"nvJitLink is missing ({error}): pip install 'gpubp[emulator]'") from error
    options = [f"-arch={arch}", "-verbose", "-lineinfo"]
    if max_registers is not None:
        options.append(f"-maxrregcount={max_registers}")
    text = ptx.encode()
    try:
        handle = nvjitlink.create(len(options), options)
    except nvjitlink.nvJitLinkError as error:
        raise CompileError(f"nvJitLink refuses arch {arch!r}: {error}") from error
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernel.ptx")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = _log(nvjitlink.get_info_log_size, nvjitlink.get_info_log, handle)
    except nvjitlink.nvJitLinkError as error:
        errors = _log(nvjitlink.get_error_log_size, nvjitlink.get_error_log, handle)
        raise CompileError(f"the PTX does not assemble for {arch}:", errors) from error
    finally:
        nvjitlink.destroy(handle)
    return Assembled(arch, bytes(cubin), log, resources_from_log(log))


def _log(get_size, get, handle: int) -> str:
    buffer = bytearray(get_size(handle))
    if buffer:
        get(handle, buffer)
    return buffer.rstrip(b"\0").decode(errors="replace")
