"""What programs give the driver to load: PTX, or machine code beside whose file the PTX lies that it was made of."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpubp.emulator.chip import compute_capability, current_arch
from gpubp.emulator.driver.results import DriverError
from gpubp.toolchain import cache
from gpubp.toolchain.nvrtc import Compiled, read_compiled
from gpubp.toolchain.ptxas import Resources

_ELF = b"\x7fELF"
_FATBINS = (b"\x50\xed\x55\xba", b"\xb1\x43\x62\x46")


@dataclass(frozen=True)
class Image:
    """Code to load.

    Attributes:
        ptx: as text.
        target: 10 * major + minor of what it was compiled for.
        suffix: "a" if it runs on that architecture alone, "f" if on its family, as in sm_90a.
        resources: what ptxas said of each kernel, if that is known.
        source: the name and the text that it was made of, if that is in no file.
        addresses: of variables that other modules define, by name.
    """

    ptx: str
    target: int
    suffix: str = ""
    resources: Mapping[str, Resources] = field(default_factory=dict)
    source: tuple[str, str] = ("", "")
    addresses: Mapping[str, int] = field(default_factory=dict)


_given = threading.local()
_SOURCE = "kernel.cu"
_CUPY_FILE = re.compile(r'^(\s*\.file\s+\d+ )"(?:[^"]*/)?[0-9a-f]{40}(?:\.cubin)?\.cu"', re.MULTILINE)
"""The file that CuPy writes a source to, for NVRTC: its name is a hash, and it is gone."""


@contextlib.contextmanager
def made_of(source: str) -> Iterator[None]:
    """Say from what text the images were compiled that this thread loads meanwhile, for the lines in messages."""
    _given.source = source
    try:
        yield
    finally:
        _given.source = ""


def of_ptx(text: str) -> Image:
    """Return the image of a PTX text.

    Raises:
        DriverError: CUDA_ERROR_INVALID_PTX: it names no target. CUDA_ERROR_NO_BINARY_FOR_GPU: the target is a later one
            than the device's.
    """
    match = re.search(r"^\s*\.target\s+sm_(\d+)([af]?)", text, re.MULTILINE)
    if match is None:
        raise DriverError("CUDA_ERROR_INVALID_PTX", "the PTX names no .target")
    target = int(match[1])
    major, minor = compute_capability(current_arch())
    present = 10 * major + minor
    bound = {"a": target != present, "f": target // 10 != present // 10}
    if target > present or bound.get(match[2], False):
        raise DriverError(
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            f"the module was built for sm_{target}{match[2]} and cannot be loaded on {current_arch()}",
        )
    source = getattr(_given, "source", "")
    if not source:
        return Image(text, target, match[2])
    return Image(_CUPY_FILE.sub(rf'\1"{_SOURCE}"', text), target, match[2], source=(_SOURCE, source))


def of_bytes(data: bytes) -> Image:
    """Return the image of what is in memory: PTX, or machine code of ours.

    Raises:
        DriverError: CUDA_ERROR_NO_BINARY_FOR_GPU: it is machine code whose PTX is not known. Others as in `of_ptx`.
    """
    if data.startswith(_ELF):
        compiled = _known(data)
        if compiled is None:
            raise DriverError(
                "CUDA_ERROR_NO_BINARY_FOR_GPU",
                "the image is machine code (a cubin); the virtual device executes PTX. CuPy gives PTX with "
                "CUPY_COMPILE_WITH_PTX=1, which `python -m gpubp.emulator` sets; NVRTC with -arch=compute_XX",
            )
        return _of_compiled(compiled)
    if data.startswith(_FATBINS):
        return of_ptx(_ptx_in_fatbin(data))
    try:
        text = data.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise DriverError("CUDA_ERROR_INVALID_IMAGE", f"the image is neither PTX nor machine code: {error}") from None
    return of_ptx(text)


def at(address: int) -> Image:
    """Return the image at an address. It has no length: a text ends with a null byte, machine code says how long it is.

    Raises:
        DriverError: as in `of_bytes`.
    """
    if not address:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", "image is a null pointer")
    start = ctypes.string_at(address, 4)
    if start == _ELF:
        header = ctypes.string_at(address, 64)
        sections_at, each, count = struct.unpack_from("<Q", header, 40)[0], *struct.unpack_from("<HH", header, 58)
        return of_bytes(ctypes.string_at(address, sections_at + each * count))
    if start in _FATBINS:
        raise DriverError(
            "CUDA_ERROR_NO_BINARY_FOR_GPU", "the image is a fatbin, which the virtual device does not read"
        )
    return of_bytes(ctypes.string_at(address))


def of_file(path: str) -> Image:
    """Return the image of a file.

    Raises:
        DriverError: CUDA_ERROR_FILE_NOT_FOUND: there is none. Others as in `of_bytes`.
    """
    if compiled := read_compiled(Path(path)):
        return _of_compiled(compiled)
    try:
        return of_bytes(Path(path).read_bytes())
    except OSError as error:
        raise DriverError("CUDA_ERROR_FILE_NOT_FOUND", f"{path}: {os.strerror(error.errno or 0)}") from None


def _of_compiled(compiled: Compiled) -> Image:
    major, minor = compute_capability(compiled.arch.rstrip("af"))
    here = compute_capability(current_arch())
    if (major, minor) > here or major != here[0]:
        raise DriverError(
            "CUDA_ERROR_NO_BINARY_FOR_GPU", f"the module was built for {compiled.arch}, and this is {current_arch()}"
        )
    return Image(compiled.ptx, 10 * major + minor, resources=compiled.resources)


def _known(cubin: bytes) -> Compiled | None:
    """Return the compilation in our cache that made this machine code."""
    wanted = hashlib.sha256(cubin).digest()
    for path in sorted((cache.directory() / "cuda").glob("*.cubin")):
        if path.stat().st_size == len(cubin) and hashlib.sha256(path.read_bytes()).digest() == wanted:
            return read_compiled(path)
    return None


def _ptx_in_fatbin(data: bytes) -> str:
    raise DriverError("CUDA_ERROR_NO_BINARY_FOR_GPU", "the image is a fatbin, which the virtual device does not read")
