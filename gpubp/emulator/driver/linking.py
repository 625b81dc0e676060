"""The driver's linker: PTX in, PTX out. Of an archive, members are taken that are PTX and define what is missing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpubp.emulator.chip import current_arch
from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError
from gpubp.emulator.grid_groups import NAMES, SOURCE
from gpubp.emulator.program import linker
from gpubp.emulator.program.inlining import BUILTINS
from gpubp.emulator.program.linker import LinkError, Unit
from gpubp.toolchain.nvrtc import compile_source

CUBIN, PTX, FATBINARY, OBJECT, LIBRARY, NVVM = range(6)
"""Kinds of input, by the numbers of the documentation's enum CUjitInputType."""
_NAMES = {CUBIN: "a cubin", FATBINARY: "a fatbin", OBJECT: "an object", NVVM: "LTO-IR"}
MAX_REGISTERS, INFO_LOG, INFO_LOG_BYTES, ERROR_LOG, ERROR_LOG_BYTES = 0, 3, 4, 5, 6
"""Options, by the numbers of the documentation's enum CUjit_option."""


@dataclass(frozen=True)
class Archive:
    """An archive: its members that are PTX, and the names of the others."""

    name: str
    units: tuple[Unit, ...]
    others: tuple[str, ...]


@dataclass(eq=False)
class Link:
    """A linking that is going on: its options, what it was given, and what it made."""

    options: Mapping[int, int]
    units: list[Unit] = field(default_factory=list)
    archives: list[Archive] = field(default_factory=list)
    made: ctypes.Array[ctypes.c_char] | None = None


_links: Handles[Link] = Handles("link state")


def create(options: Mapping[int, int]) -> int:
    """Return the handle of a new linking; `options` by the numbers of the enum CUjit_option."""
    return _links.add(Link(options))


def options(handle: int) -> Mapping[int, int]:
    """Return the options of a linking."""
    return _links[handle].options


def add(handle: int, kind: int, data: bytes, name: str) -> None:
    """Add an input.

    Raises:
        DriverError: CUDA_ERROR_NO_BINARY_FOR_GPU: it is machine code, or code for another compiler.
            CUDA_ERROR_INVALID_IMAGE: it is no text, or no archive.
    """
    link = _links[handle]
    name = name or f"input {len(link.units) + len(link.archives) + 1}"
    if kind == LIBRARY:
        link.archives.append(_archive(data, name))
        return
    if kind != PTX:
        raise DriverError(
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            f"{name} is {_NAMES.get(kind, f'of kind {kind}')}: the virtual device links PTX, and archives of PTX",
        )
    link.units.append(_unit(data, name))


def _unit(data: bytes, name: str) -> Unit:
    try:
        return Unit(data.rstrip(b"\0").decode(), name)
    except UnicodeDecodeError as error:
        raise DriverError("CUDA_ERROR_INVALID_IMAGE", f"{name} is no PTX: {error}") from None


def add_file(handle: int, kind: int, path: str) -> None:
    """Add the input in a file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DriverError("CUDA_ERROR_FILE_NOT_FOUND", f"{path}: {os.strerror(error.errno or 0)}") from None
    add(handle, kind, data, path)


def complete(handle: int) -> tuple[int, int]:
    """Return where the linked image lies, as long as the linking is not destroyed, and its bytes.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: there is no input. CUDA_ERROR_INVALID_PTX: a name is defined nowhere, or
            twice; names it.
    """
    link = _links[handle]
    try:
        units = _with_members(link)
        if not units:
            raise DriverError("CUDA_ERROR_INVALID_VALUE", "the linking has no input")
        text = linker.link(units, BUILTINS, link.options.get(MAX_REGISTERS, 0) & 0xFFFF_FFFF)
    except LinkError as error:
        raise DriverError("CUDA_ERROR_INVALID_PTX", f"{error}{_unread(link)}") from None
    link.made = ctypes.create_string_buffer(text.encode())
    return ctypes.addressof(link.made), len(link.made)


def _with_members(link: Link) -> list[Unit]:
    """Return the inputs with those members of archives that define what is missing, and grid groups if asked for."""
    units = list(link.units)
    left = [unit for archive in link.archives for unit in archive.units]
    while missing := set(linker.undefined(units)):
        if missing & NAMES:
            compiled = compile_source(SOURCE, current_arch(), name="grid_groups.cu", options=["-rdc=true"])
            units.append(Unit(compiled.ptx, "grid_groups.cu"))
            continue
        found = next((unit for unit in left if linker.definitions(unit) & missing), None)
        if found is None:
            break
        left.remove(found)
        units.append(found)
    return units


def _unread(link: Link) -> str:
    """Return what a message adds of archives in which the name may be."""
    names = [f"{archive.name} ({', '.join(archive.others)})" for archive in link.archives if archive.others]
    return f"; members that are no PTX are not read: {'; '.join(names)}" if names else ""


def destroy(handle: int) -> None:
    """Forget a linking, and what it made."""
    _links.remove(handle)


# --- archives ---------------------------------------------------------------------------------------------------------
_MAGIC, _HEADER_BYTES = b"!<arch>\n", 60


def _archive(data: bytes, name: str) -> Archive:
    """Return what is in an archive, by the common format of ar (that of System V and GNU)."""
    if not data.startswith(_MAGIC):
        raise DriverError("CUDA_ERROR_INVALID_IMAGE", f"{name} is no archive")
    units, others = [], []
    for member, content in _members(data):
        if content.lstrip().startswith((b"//", b".version")):
            units.append(_unit(content, f"{member} in {name}"))
        else:
            others.append(member)
    return Archive(name, tuple(units), tuple(others))


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Generate the names of an archive's members and what they hold, without its tables."""
    names = b""
    at = len(_MAGIC)
    while at + _HEADER_BYTES <= len(data):
        header = data[at : at + _HEADER_BYTES]
        short, size = header[:16].decode("latin-1").rstrip(), int(header[48:58])
        content = data[at + _HEADER_BYTES : at + _HEADER_BYTES + size]
        if short == "//":
            names = content
        elif short.startswith("/") and short[1:].isdigit():
            yield names[int(short[1:]) :].split(b"/\n", 1)[0].decode("latin-1"), content
        elif short not in ("/", "/SYM64/"):
            yield short.rstrip("/"), content
        at += _HEADER_BYTES + size + size % 2
