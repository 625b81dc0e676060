"""Names of functions as messages show them."""

from __future__ import annotations

import re

_MANGLED = re.compile(r"_ZN?[VK]*(?=\d)")
_DESTRUCTOR = re.compile(r"D\d+E")
_NUMBA = re.compile(r"B\d+v\d+")
"""A mark in the names that Numba gives: the number of a compilation."""


def readable(name: str) -> str:
    """Return the qualified name of a mangled C++ function, without its parameters; other names as they are.

    It reads plain names (Itanium C++ ABI, <nested-name> and <source-name>), which most functions have.
    """
    match = _MANGLED.match(name)
    parts: list[str] = []
    place = match.end() if match else len(name)
    while (size := re.compile(r"\d+").match(name, place)) is not None:
        place = size.end() + int(size[0])
        parts.append(name[size.end() : place])
        if name[:3] != "_ZN":
            break
    if parts and _DESTRUCTOR.match(name, place):
        parts.append(f"~{parts[-1]}")
    return "::".join(parts) or name


def kernel_name(name: str) -> str:
    """Return a kernel's name; of Numba's, which spell out module and types, that of the Python function."""
    return readable(name).rsplit("::", 1)[-1] if _NUMBA.search(name) else name
