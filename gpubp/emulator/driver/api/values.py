"""Values that a program gives by its own addresses, and takes so: texts, numbers, and what stays for it to read."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver.results import DriverError

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A function of the program's that the driver calls with one pointer."""

_texts: dict[str, ctypes.Array[ctypes.c_char]] = {}
"""What was returned as a pointer: it must stay."""


def text_at(address: int) -> str:
    """Return the text at an address, which a null byte ends."""
    return ctypes.string_at(address).decode()


def required(address: int, name: str) -> int:
    """Return an address that must not be null."""
    if not address:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{name} is a null pointer")
    return address


def write(address: int, kind: Any, value: Any) -> None:
    """Write a value at an address of the program's, unless that is null."""
    if address:
        kind.from_address(address).value = value


def write_text(text: str, address: int, nbytes: int) -> None:
    if nbytes < 1:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"len is {nbytes}: it must be at least 1")
    data = text.encode()[: nbytes - 1] + b"\0"
    ctypes.memmove(required(address, "the text"), data, len(data))


def lasting(text: str) -> int:
    """Return the address of a text that stays as long as the process."""
    if text not in _texts:
        _texts[text] = ctypes.create_string_buffer(text.encode())
    return ctypes.addressof(_texts[text])
