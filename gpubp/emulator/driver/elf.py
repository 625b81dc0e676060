"""A shared library without a compiler: an ELF file whose functions jump to addresses that are filled in later.

Each exported function is a trampoline, one indirect jump through a slot of its own in writable memory. Four symbols
more say where the slots are, and where functions lie that need no Python: they are for calls after it has ended.

The layout is that of the System V ABI's chapters 4 and 5, with the supplements for x86-64 and AArch64.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

SLOTS, STUB, DONE, NAMED = "gpubp_slots", "gpubp_ended", "gpubp_done", "gpubp_named"
"""The names of the symbols: the first slot; a function that returns `ENDED`; one that returns 0; and one that writes
the address of `NAME` where its second argument points, and returns 0."""
ENDED, NAME = 4, b"CUDA_ERROR_DEINITIALIZED\0"

_PAGE = 0x10000  # the largest page of the two architectures
_TRAMPOLINE = 16
_HEADER, _SEGMENT, _SYMBOL, _DYNAMIC = 64, 56, 24, 16
_LOAD, _DYN, _STACK = 1, 2, 0x6474E551
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 4, 5, 6, 10, 11, 14


class Machine(NamedTuple):
    """An instruction set: its number in the header, a trampoline from one address through a slot at another, and the
    functions STUB, DONE and NAMED."""

    number: int
    jump: Callable[[int, int], bytes]
    stubs: tuple[bytes, bytes, bytes]


def _x86_64(here: int, slot: int) -> bytes:
    # endbr64; jmp *slot(%rip), relative to the end of the instruction
    return b"\xf3\x0f\x1e\xfa\xff\x25" + struct.pack("<i", slot - (here + 10))


def _aarch64(here: int, slot: int) -> bytes:
    pages = (slot >> 12) - (here >> 12)
    adrp = 0x90000010 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5  # adrp x16, slot
    load = 0xF9400210 | (slot & 0xFFF) >> 3 << 10  # ldr x16, [x16, #:lo12:slot]
    return struct.pack("<4I", 0xD503245F, adrp, load, 0xD61F0200)  # bti c; adrp; ldr; br x16


MACHINES = {
    "x86_64": Machine(
        62,
        _x86_64,
        (
            b"\xb8" + struct.pack("<I", ENDED) + b"\xc3",  # mov eax, 4; ret
            b"\x31\xc0\xc3",  # xor eax, eax; ret
            b"\x48\x8d\x05\x06\0\0\0\x48\x89\x06\x31\xc0\xc3" + NAME,  # lea rax, [rip + 6]; mov [rsi], rax; as above
        ),
    ),
    "aarch64": Machine(
        183,
        _aarch64,
        (
            struct.pack("<2I", 0x52800000 | ENDED << 5, 0xD65F03C0),  # mov w0, #4; ret
            struct.pack("<2I", 0x52800000, 0xD65F03C0),  # mov w0, #0; ret
            struct.pack("<4I", 0x10000082, 0xF9000022, 0x52800000, 0xD65F03C0) + NAME,  # adr x2, 16 on; str x2, [x1]
        ),
    ),
}
"""By what `platform.machine()` calls them."""


def shared_library(name: str, functions: Sequence[str], machine: str = "") -> bytes:
    """Return an ELF file that exports `functions`, and the symbols SLOTS, STUB, DONE and NAMED.

    Args:
        name: the library's SONAME, by which a later dlopen finds it.
        functions: their slots have this order, 8 bytes each.
        machine: one of `MACHINES`; this computer's if "".

    Raises:
        OSError: no trampoline is known for the machine.
    """
    wanted = machine or platform.machine()
    if wanted not in MACHINES:
        raise OSError(f"machine is {wanted!r}: the virtual device needs one of {', '.join(MACHINES)}")
    isa = MACHINES[wanted]
    extra = (SLOTS, STUB, DONE, NAMED)
    strings, offsets = _strings([name, *functions, *extra])
    symbols_at = _HEADER + 4 * _SEGMENT
    count = 1 + len(functions) + len(extra)  # the first symbol is none
    strings_at = symbols_at + count * _SYMBOL
    hash_at = _aligned(strings_at + len(strings), 8)
    table = _hash_table(["", *functions, *extra])
    text_at = _aligned(hash_at + len(table), _TRAMPOLINE)
    stub_at = text_at + len(functions) * _TRAMPOLINE
    stubs = b"".join(stub.ljust(_TRAMPOLINE, b"\0") for stub in isa.stubs)
    dynamic_at = _aligned(stub_at + len(stubs), _PAGE)
    dynamic = _dynamic(
        [
            (_DT_SONAME, offsets[name]),
            (_DT_HASH, hash_at),
            (_DT_STRTAB, strings_at),
            (_DT_SYMTAB, symbols_at),
            (_DT_STRSZ, len(strings)),
            (_DT_SYMENT, _SYMBOL),
        ]
    )
    slots_at = dynamic_at + len(dynamic)
    end = slots_at + 8 * len(functions)
    text = b"".join(
        isa.jump(text_at + i * _TRAMPOLINE, slots_at + 8 * i).ljust(_TRAMPOLINE, b"\0") for i in range(len(functions))
    )
    symbols = bytes(_SYMBOL) + b"".join(
        [
            *(_symbol(offsets[each], True, text_at + i * _TRAMPOLINE) for i, each in enumerate(functions)),
            _symbol(offsets[SLOTS], False, slots_at),
            *(_symbol(offsets[each], True, stub_at + i * _TRAMPOLINE) for i, each in enumerate(extra[1:])),
        ]
    )
    read, write, execute = 4, 2, 1
    segments = b"".join(
        [
            _segment(_LOAD, read | execute, 0, stub_at + len(stubs), _PAGE),
            _segment(_LOAD, read | write, dynamic_at, end - dynamic_at, _PAGE),
            _segment(_DYN, read | write, dynamic_at, len(dynamic), 8),
            _segment(_STACK, read | write, 0, 0, 16),
        ]
    )
    pieces = [
        (0, _header(isa.number)),
        (_HEADER, segments),
        (symbols_at, symbols),
        (strings_at, strings),
        (hash_at, table),
        (text_at, text + stubs),
        (dynamic_at, dynamic),
    ]
    made = bytearray(end)
    for at, piece in pieces:
        made[at : at + len(piece)] = piece
    return bytes(made)


def _aligned(offset: int, to: int) -> int:
    return -(-offset // to) * to


def _strings(names: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    """Return a table of strings, and where each begins."""
    table, offsets = bytearray(1), {}
    for name in names:
        offsets[name] = len(table)
        table += name.encode() + b"\0"
    return bytes(table), offsets


def _header(machine: int) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    shared_object, sections = 3, 64
    return ident + struct.pack(
        "<HHIQQQIHHHHHH", shared_object, machine, 1, 0, _HEADER, 0, 0, _HEADER, _SEGMENT, 4, sections, 0, 0
    )


def _segment(kind: int, flags: int, at: int, nbytes: int, align: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, nbytes, nbytes, align)


def _symbol(name: int, is_function: bool, address: int) -> bytes:
    is_global, some_section = 1 << 4, 1
    return struct.pack("<IBBHQQ", name, is_global | (2 if is_function else 1), 0, some_section, address, 8)


def _dynamic(entries: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack("<QQ", tag, value) for tag, value in [*entries, (0, 0)])


def _hash_table(names: Sequence[str]) -> bytes:
    """Return the table in which the loader finds symbols: a chain of those with one hash, for each bucket."""
    buckets, chains = [0] * max(1, len(names) // 2), [0] * len(names)
    for index, name in enumerate(names[1:], 1):
        bucket = _hash(name) % len(buckets)
        chains[index], buckets[bucket] = buckets[bucket], index
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def _hash(name: str) -> int:
    """Return the hash of a name that the ABI defines."""
    h = 0
    for byte in name.encode():
        h = (h << 4) + byte
        top = h & 0xF0000000
        h = (h ^ top >> 24) & ~top & 0xFFFFFFFF
    return h
