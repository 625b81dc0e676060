"""The inner loops over lanes that NumPy has no fast form for, compiled by Numba: addresses, gather, scatter, atomics.

Everywhere: `lanes` are the active lanes and `whole` says that all lanes are active, so that `lanes` need not be read.
Array positions named `i` count active lanes, `lane` is a lane itself. Pointers are host addresses, one an active lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpubp.emulator.loops import loop


@intrinsic
def _load(typingctx: Any, pointer: Any, like: Any) -> Any:
    """Return the value at a host address, of the type of `like`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(like)
        return builder.load(builder.inttoptr(args[0], ir.PointerType(kind)), align=1)

    return like(types.int64, like), codegen


@intrinsic
def _store(typingctx: Any, pointer: Any, value: Any) -> Any:
    """Write a value at a host address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(value)
        builder.store(args[1], builder.inttoptr(args[0], ir.PointerType(kind)), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


# -- addresses --------------------------------------------------------------------------------------------------------


@loop
def resolve_window(addresses, offset, nbytes, bases, valid, bits, lanes, whole, count, out):
    """Check addresses of shared or local memory and turn them into pointers; the first bad position, or -1.

    `bases` has each lane's own host address of the window, `valid` the valid bytes of each granule of 2**bits.
    """
    extent = np.int64(valid.size) << bits
    inside = (np.int64(1) << bits) - 1
    for i in range(count):
        lane = i if whole else lanes[i]
        address = _in_window(addresses, lane, offset)
        if address < 0 or address >= extent or address & (nbytes - 1) != 0:
            return i
        # An access of 32 bytes is wider than a granule.
        if (address & inside) + nbytes > valid[address >> bits] and not _spans(address, nbytes, valid, bits):
            return i
        out[i] = bases[lane] + address
    return -1


@loop
def resolve_cluster(addresses, offset, nbytes, bases, ranks, row, size, valid, bits, lanes, whole, count, out):
    """As resolve_window, of shared memory of a cluster of `size` blocks, whose memories lie `row` bytes apart: an
    address has a block's rank plus 1 above its low 24 bits, or 0 for the block of the lane itself."""
    extent = np.int64(valid.size) << bits
    inside = (np.int64(1) << bits) - 1
    for i in range(count):
        lane = i if whole else lanes[i]
        address = _in_window(addresses, lane, offset)
        if address < 0:
            return i
        rank = (address >> 24) - 1
        address &= 0xFFFFFF
        if rank >= size or address >= extent or address & (nbytes - 1) != 0:
            return i
        if (address & inside) + nbytes > valid[address >> bits] and not _spans(address, nbytes, valid, bits):
            return i
        out[i] = bases[lane] + address
        if rank >= 0:
            out[i] += (rank - ranks[lane]) * row
    return -1


@loop
def _in_window(addresses, lane, offset):
    """The address of an access within its window; one in a 32-bit register wraps around."""
    address = np.int64(addresses[lane]) + offset
    return address & 0xFFFFFFFF if addresses.itemsize == 4 else address


@loop
def resolve_frames(addresses, offset, nbytes, bases, valid, bits, lanes, whole, count, out):
    """As resolve_window, with the valid bytes of each lane in a row of its own."""
    extent = np.int64(valid.shape[1]) << bits
    inside = (np.int64(1) << bits) - 1
    for i in range(count):
        lane = i if whole else lanes[i]
        address = _in_window(addresses, lane, offset)
        if address < 0 or address >= extent or address & (nbytes - 1) != 0:
            return i
        if (address & inside) + nbytes > valid[lane, address >> bits] and not _spans(
            address, nbytes, valid[lane], bits
        ):
            return i
        out[i] = bases[lane] + address
    return -1


@loop
def _spans(address, nbytes, valid, bits):
    """True if an access fills whole granules that are all valid."""
    granule = np.int64(1) << bits
    if nbytes < granule:
        return False
    whole = True
    for start in range(address, address + nbytes, granule):
        whole = whole and valid[start >> bits] == granule
    return whole


@loop
def resolve_global(addresses, offset, nbytes, base, host, valid, bits, lanes, whole, count, out):
    """As resolve_window for global memory, an arena that begins at address `base` and host address `host`."""
    extent = np.int64(valid.size) << bits
    inside = (np.int64(1) << bits) - 1
    for i in range(count):
        lane = i if whole else lanes[i]
        address = np.int64(addresses[lane]) + offset - base
        if address < 0 or address >= extent or address & (nbytes - 1) != 0:
            return i
        if (address & inside) + nbytes > valid[address >> bits]:
            return i
        out[i] = host + address
    return -1


@loop
def spaces(addresses, offset, windows, lanes, whole, count):
    """Bit set of the spaces that generic addresses lie in: 1 global, 2 shared, 4 local."""
    found = 0
    for i in range(count):
        lane = i if whole else lanes[i]
        address = np.int64(addresses[lane]) + offset
        if address < windows[0]:
            found |= 1
        elif address < windows[1]:
            found |= 2
        else:
            found |= 4
    return found


# -- plain accesses ---------------------------------------------------------------------------------------------------


@loop
def gather(pointers, displacement, out, lanes, whole, count):
    """out[lane] = *(pointer + displacement)"""
    like = out[0]
    for i in range(count):
        out[i if whole else lanes[i]] = _load(pointers[i] + displacement, like)


@loop
def gather2(pointers, out0, out1, lanes, whole, count):
    like = out0[0]
    for i in range(count):
        lane = i if whole else lanes[i]
        pointer = pointers[i]
        out0[lane] = _load(pointer, like)
        out1[lane] = _load(pointer + out0.itemsize, like)


@loop
def gather4(pointers, out0, out1, out2, out3, lanes, whole, count):
    like = out0[0]
    size = out0.itemsize
    for i in range(count):
        lane = i if whole else lanes[i]
        pointer = pointers[i]
        out0[lane] = _load(pointer, like)
        out1[lane] = _load(pointer + size, like)
        out2[lane] = _load(pointer + 2 * size, like)
        out3[lane] = _load(pointer + 3 * size, like)


@loop
def scatter(pointers, displacement, values, lanes, whole, count):
    """*(pointer + displacement) = values[lane], in the order of the lanes"""
    for i in range(count):
        _store(pointers[i] + displacement, values[i if whole else lanes[i]])


@loop
def differs(pointers, displacement, values, lanes, whole, count):
    """True if *(pointer + displacement) is not values[lane] for some lane"""
    for i in range(count):
        value = values[i if whole else lanes[i]]
        if _load(pointers[i] + displacement, value) != value:
            return True
    return False


@loop
def copy_bytes(sources, targets, nbytes):
    """*target = *source for each pair of pointers, byte by byte"""
    byte = np.uint8(0)
    for i in range(sources.size):
        for place in range(nbytes):
            _store(targets[i] + place, _load(sources[i] + place, byte))


@loop
def read_bytes(pointers, sizes, out):
    """out[i, :sizes[i]] = the bytes at pointers[i]"""
    for i in range(pointers.size):
        for byte in range(min(sizes[i], out.shape[1])):
            out[i, byte] = _load(pointers[i] + byte, out[i, byte])


@loop
def write_bytes(pointers, values):
    """The bytes at pointers[i] = values[i]"""
    for i in range(pointers.size):
        for byte in range(values.shape[1]):
            _store(pointers[i] + byte, values[i, byte])


@loop
def read_rows(pointers, out):
    """out[i] = the out.shape[1] elements at pointers[i]"""
    for i in range(pointers.size):
        for column in range(out.shape[1]):
            out[i, column] = _load(pointers[i] + column * out.itemsize, out[0, 0])


@loop
def write_rows(pointers, values):
    """The elements at pointers[i] = values[i]"""
    for i in range(pointers.size):
        for column in range(values.shape[1]):
            _store(pointers[i] + column * values.itemsize, values[i, column])


@loop
def fill_halfwords(targets, nbytes, count, value):
    """Fill nbytes (even) at each pointer with a halfword."""
    for i in range(count):
        for byte in range(0, nbytes, 2):
            _store(targets[i] + byte, value)


# -- atomics: one lane after the other, in the order of the lanes ------------------------------------------------------

ATOMIC_ADD, ATOMIC_MIN, ATOMIC_MAX, ATOMIC_AND, ATOMIC_OR, ATOMIC_XOR, ATOMIC_EXCH, ATOMIC_INC, ATOMIC_DEC = range(9)


@loop
def atomic_integer(pointers, operation, values, old, lanes, whole, count):
    """Update integers; old[lane] gets the value before. inc and dec wrap around at the operand (PTX ISA, atom)."""
    for i in range(count):
        lane = i if whole else lanes[i]
        value = values[lane]
        before = _load(pointers[i], value)
        after = before
        if operation == ATOMIC_ADD:
            after = before + value
        elif operation == ATOMIC_MIN:
            after = min(before, value)
        elif operation == ATOMIC_MAX:
            after = max(before, value)
        elif operation == ATOMIC_AND:
            after = before & value
        elif operation == ATOMIC_OR:
            after = before | value
        elif operation == ATOMIC_XOR:
            after = before ^ value
        elif operation == ATOMIC_EXCH:
            after = value
        elif operation == ATOMIC_INC:
            after = _as(0, value) if before >= value else before + _as(1, value)
        elif operation == ATOMIC_DEC:
            after = value if before == 0 or before > value else before - _as(1, value)
        old[lane] = before
        _store(pointers[i], _as(after, value))


@intrinsic
def _as(typingctx: Any, value: Any, like: Any) -> Any:
    """Return the value converted to the type of `like`: 32-bit arithmetic that was widened to 64 bits wraps around."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], value, like)

    return like(value, like), codegen


@loop
def atomic_add_float(pointers, values, old, lanes, whole, count):
    for i in range(count):
        lane = i if whole else lanes[i]
        value = values[lane]
        before = _load(pointers[i], value)
        old[lane] = before
        _store(pointers[i], before + value)


@loop
def atomic_cas(pointers, compare, values, old, lanes, whole, count):
    for i in range(count):
        lane = i if whole else lanes[i]
        before = _load(pointers[i], values[lane])
        if before == compare[lane]:
            _store(pointers[i], values[lane])
        old[lane] = before
