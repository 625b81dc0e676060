"""Kernels in PTX, as Numba's compilers give them: the name of the entry, and the code that is linked to it."""

from __future__ import annotations

import re
from collections.abc import Iterable


def entry_named(name: str, ptx: str) -> str:
    """Return the PTX with its one entry under the name of the Python function.

    The mangled name spells out every type: too long for a message.
    """
    (mangled,) = re.findall(r"\.entry\s+(\w+)\s*\(", ptx)
    plain = re.sub(r"\W", "_", name)
    return re.sub(rf"\b{mangled}(?=\b|_param_\d)", plain, ptx)


def linked(ptx: str, foreign: Iterable[str]) -> str:
    """Return the PTX with the functions of other modules, which it declares as external."""
    for code in foreign:
        ptx = _merge(ptx, code)
    return ptx


def _merge(ptx: str, foreign: str) -> str:
    """Put the functions of another PTX module before those of the first, which declares them as external."""
    for name in re.findall(r"\.visible\s+\.func\s*(?:\([^)]*\))?\s*(\w+)", foreign):
        ptx = re.sub(rf"\.extern\s+\.func\b[^;{{]*?\b{name}\b[^;{{]*;", "", ptx)
    # Line information counts its files module by module: only the kernel's own is kept.
    foreign = re.sub(r"^\s*\.(loc|file)\b.*$", "", foreign, flags=re.MULTILINE)
    foreign = re.sub(r"^\s*\.section\s+\.debug_\w+\s*\{.*?^\s*\}", "", foreign, flags=re.MULTILINE | re.DOTALL)
    header, body = re.split(r"(?<=\.address_size 64\n)", ptx, maxsplit=1)
    return header + re.split(r"\.address_size 64\n", foreign, maxsplit=1)[1] + body


_DYNAMIC = re.compile(r"^\s*(\.shared \.align \d+ \.b8 __dynamic_shmem__\d+);[^\n]*\n", re.MULTILINE)


def with_dynamic_shared(ptx: str) -> str:
    """Return PTX of numba-cuda-mlir with its dynamic shared memory declared as such.

    The package declares a single byte, at the beginning of a block's shared memory, and goes beyond it: on a GPU the
    memory of the launch lies there.
    """
    found = _DYNAMIC.findall(ptx)
    if not found:
        return ptx
    header, body = re.split(r"(?<=\.address_size 64\n)", _DYNAMIC.sub("", ptx), maxsplit=1)
    return header + "".join(f".extern {each}[];\n" for each in found) + body
