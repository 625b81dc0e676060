"""Where the elements of wgmma's operands lie in shared memory: matrix descriptors and their layouts (PTX ISA, "Matrix
Descriptor Format" and "Shared Memory Matrix Layout").

A descriptor has a start address, two offsets and a swizzle. Of an operand that is K-major, 8 rows of 16 bytes (without
swizzle) or of the swizzle's width make a unit; of one that is MN-major, 8 lines of that width. The two offsets lead
from unit to unit. The swizzle then exchanges bits of the whole address, as it does for a copy of a box.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

_FIELD = 0x3FFFF
CHUNK = 16
LINES = 8
PERIOD = 1024
"""Bytes after which every swizzle repeats."""
_WIDTHS = {0: 0, 1: 128, 2: 64, 3: 32}


class Descriptor(NamedTuple):
    """A matrix descriptor, in bytes.

    Attributes:
        start: address in shared memory.
        leading: the leading dimension's offset.
        stride: the stride dimension's offset.
        base: the base offset, 0 to 7.
        width: of the swizzle: 0 (none), 32, 64 or 128.
    """

    start: int
    leading: int
    stride: int
    base: int
    width: int


@functools.lru_cache(maxsize=4096)
def descriptor(bits: int) -> Descriptor:
    """Return what the 64 bits of a descriptor say."""
    start, leading, stride = ((bits >> shift << 4) & _FIELD for shift in (0, 16, 32))
    return Descriptor(start, leading, stride, bits >> 49 & 7, _WIDTHS[bits >> 62 & 3])


@functools.lru_cache(maxsize=4096)
def offsets(given: Descriptor, rows: int, columns: int, item: int, k_major: bool) -> np.ndarray:
    """Return where each element (row, k) lies, in elements from the last multiple of 1,024 before the start on.

    Args:
        given: the descriptor; of its start only the place within 1,024 bytes matters.
        rows: of the operand along M or N.
        columns: along K.
        item: bytes of an element.
        k_major: whether neighbours along K lie side by side; else those along M or N, of 16 bits.
    """
    i, k = np.arange(rows)[:, np.newaxis], np.arange(columns)[np.newaxis]
    width, leading, stride = given.width, given.leading, given.stride
    if k_major and not width:
        per = CHUNK // item
        place = i % LINES * CHUNK + i // LINES * stride + k % per * item + k // per * leading
    elif k_major:
        place = i % LINES * width + i // LINES * stride + k * item
    else:
        line = width or CHUNK
        per = line // item
        along_i, along_k = (stride, leading) if not width else (leading, stride)
        place = i % per * item + i // per * along_i + k % LINES * line + k // LINES * along_k
    address = given.start % PERIOD + place
    if width:
        address = address ^ (address >> 7 & width // CHUNK - 1) << 4
    return address // item


def misalignment(given: Descriptor) -> str:
    """Return what is wrong with where a swizzled operand begins, "" if nothing is.

    The start may lie anywhere within the first line of the pattern.
    """
    lines = given.width // CHUNK
    if given.width and (given.start >> 7) % lines:
        return f"it begins at {given.start:#x}, and its pattern must at a multiple of {128 * lines}"
    return ""
