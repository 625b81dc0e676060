"""The observers' inner loops, compiled by Numba: shadow memory for races and unwritten bytes, sectors, bank passes."""

from __future__ import annotations

import numpy as np

from gpubp.emulator.loops import loop

LOAD, STORE, ATOMIC = range(3)

# A cell of the race detector stands for a few bytes of memory, and remembers who touched them last.
# "When" is the thread's barrier count: barriers of the block in the high bits, those of the warp in the low ones.
WRITER, WRITTEN, WRITE_SITE, READER, OTHER_READER, READ, READ_SITE, WRITE_ATOMIC = range(8)
CELL = 8
WARP_BITS = 10

# States of a byte for the observer of uninitialised reads.
UNWRITTEN, DEFINED, PENDING = range(3)


@loop
def _place(pointer, base, nbytes, size):
    """The first of an access's bytes in the shadow of `size` bytes from `base` on.

    Raises IndexError for one outside, so that a mistake of the emulator's own cannot corrupt memory.
    """
    first = pointer - base
    if first < 0 or first + nbytes > size:
        raise IndexError("an access outside of the memory that its observer shadows")
    return first


@loop
def _unordered(one, one_when, other, other_when, padded):
    """True if no barrier of their block or warp orders the accesses of two threads (numbered from 1)."""
    if one == other:
        return False
    if (one - 1) // padded != (other - 1) // padded:
        return True  # nothing orders two blocks of a launch
    if one_when >> WARP_BITS != other_when >> WARP_BITS:
        return False
    return (one - 1) // 32 != (other - 1) // 32 or one_when == other_when


@loop
def check_races(cells, bits, base, pointers, nbytes, threads, when, padded, lanes, whole, count, kind, site, found):
    """Record the accesses of the active lanes and return the number of races.

    `found` gets the first one: position, other thread, other site, whether the other wrote, and the cell.
    """
    races = 0
    for i in range(count):
        lane = i if whole else lanes[i]
        thread, now = threads[lane], when[lane]
        first = _place(pointers[i], base, nbytes, cells.shape[0] << bits) >> bits
        for index in range(first, first + max(1, nbytes >> bits)):
            cell = cells[index]
            writer = cell[WRITER]
            both_atomic = kind == ATOMIC and cell[WRITE_ATOMIC]
            clash = writer != 0 and not both_atomic and _unordered(writer, cell[WRITTEN], thread, now, padded)
            if clash:
                if races == 0:
                    found[0], found[1], found[2], found[3], found[4] = i, writer, cell[WRITE_SITE], 1, index
                races += 1
            if kind == LOAD:
                reader = cell[READER]
                if reader != thread:
                    other = cell[OTHER_READER]
                    # A reader of another block stays unordered for good, so it is worth keeping.
                    if other == 0 or (other - 1) // padded == (thread - 1) // padded:
                        if reader != 0 and _unordered(reader, cell[READ], thread, now, padded):
                            cell[OTHER_READER] = reader
                        else:
                            cell[OTHER_READER] = 0
                    cell[READER] = thread
                elif cell[READ] != now and not _unordered(cell[OTHER_READER], cell[READ], thread, now, padded):
                    cell[OTHER_READER] = 0
                cell[READ] = now
                cell[READ_SITE] = site
                continue
            reader = cell[READER]
            if reader == thread:
                reader = cell[OTHER_READER]
            if reader != 0 and not clash and _unordered(reader, cell[READ], thread, now, padded):
                if races == 0:
                    found[0], found[1], found[2], found[3], found[4] = i, reader, cell[READ_SITE], 0, index
                races += 1
            cell[WRITER] = thread
            cell[WRITTEN] = now
            cell[WRITE_SITE] = site
            cell[WRITE_ATOMIC] = kind == ATOMIC
            cell[READER] = 0
            cell[OTHER_READER] = 0
    return races


@loop
def check_written(states, base, pointers, nbytes, count):
    """The first position whose bytes are not all defined, or -1."""
    for i in range(count):
        first = _place(pointers[i], base, nbytes, states.size)
        for byte in range(first, first + nbytes):
            if states[byte] != DEFINED:
                return i
    return -1


@loop
def set_state(states, base, pointers, nbytes, count, state):
    for i in range(count):
        first = _place(pointers[i], base, nbytes, states.size)
        for byte in range(first, first + nbytes):
            states[byte] = state


@loop
def count_sectors(pointers, nbytes, lanes, count, totals):
    """Add to totals: warps, 32-byte sectors moved, and the fewest sectors that hold the distinct bytes asked for."""
    sectors = np.empty(32, np.int64)
    items = np.empty(32, np.int64)
    start = 0
    while start < count:
        warp = lanes[start] >> 5
        moved = distinct = 0
        i = start
        while i < count and lanes[i] >> 5 == warp:
            moved = _insert(sectors, moved, pointers[i] >> 5)
            distinct = _insert(items, distinct, pointers[i])
            i += 1
        totals[0] += 1
        totals[1] += moved
        totals[2] += (distinct * nbytes + 31) // 32
        start = i


@loop
def _insert(values, size, value):
    """Add a value to the first `size` of an array unless it is there; neighbours are usually equal or ascending."""
    for index in range(size - 1, -1, -1):
        if values[index] == value:
            return size
    values[size] = value
    return size + 1


@loop
def count_conflicts(pointers, bases, nbytes, lanes, count, totals):
    """Add to totals: warps, passes through shared memory needed, and the fewest possible.

    32 banks of 4 bytes; accesses of 8 and 16 bytes go by half and quarter warps. Lanes that want the same word share
    it.
    """
    words = np.empty(32 * 32, np.int64)
    filled = np.empty(32, np.int64)
    width = max(1, nbytes // 4)
    share = 32 // width
    start = 0
    while start < count:
        group = lanes[start] // share
        filled[:] = 0
        i = start
        while i < count and lanes[i] // share == group:
            first = (pointers[i] - bases[lanes[i]]) >> 2
            for word in range(first, first + width):
                bank = word & 31
                row = words[bank * 32 : bank * 32 + 32]
                filled[bank] = _insert(row, filled[bank], word)
            i += 1
        if start == 0 or lanes[start] >> 5 != lanes[start - 1] >> 5:
            totals[0] += 1
        totals[1] += filled.max()
        totals[2] += 1
        start = i
