"""The driver's linker: PTX in, PTX out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError

CUBIN, PTX, FATBINARY, OBJECT, LIBRARY, NVVM = range(6)
"""Kinds of input, by the numbers of the documentation's enum CUjitInputType."""
_NAMES = {CUBIN: "a cubin", FATBINARY: "a fatbin", OBJECT: "an object", LIBRARY: "an archive", NVVM: "LTO-IR"}


@dataclass(eq=False)
class Link:
    """A linking that is going on, with the texts it was given and what it made."""

    options: Mapping[int, int]
    texts: list[str] = field(default_factory=list)
    made: ctypes.Array[ctypes.c_char] | None = None


_links: Handles[Link] = Handles("link state")


def create(options: Mapping[int, int]) -> int:
    """Return the handle of a new linking; `options` by the numbers of the enum CUjit_option."""
    return _links.add(Link(options))


def add(handle: int, kind: int, data: bytes, name: str) -> None:
    """Add an input.

    Raises:
        DriverError: CUDA_ERROR_NO_BINARY_FOR_GPU: it is machine code, or code for another compiler.
    """
    if kind != PTX:
        raise DriverError(
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            f"{name or 'an input'} is {_NAMES.get(kind, f'of kind {kind}')}: the virtual device links PTX",
        )
    _links[handle].texts.append(data.rstrip(b"\0").decode())


def add_file(handle: int, kind: int, path: str) -> None:
    """Add the input in a file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DriverError("CUDA_ERROR_FILE_NOT_FOUND", f"{path}: {os.strerror(error.errno or 0)}") from None
    add(handle, kind, data, path)


def complete(handle: int) -> tuple[int, int]:
    """Return where the linked image lies, as long as the linking is not destroyed, and its bytes."""
    link = _links[handle]
    if len(link.texts) != 1:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"{len(link.texts)} inputs: the virtual device links one")
    link.made = ctypes.create_string_buffer(link.texts[0].encode())
    return ctypes.addressof(link.made), len(link.made)


def destroy(handle: int) -> None:
    """Forget a linking, and what it made."""
    _links.remove(handle)
