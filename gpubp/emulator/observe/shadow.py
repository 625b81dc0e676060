"""The observers' inner loops, compiled by Numba: shadow memory for races and unwritten bytes, sectors, bank passes."""

from __future__ import annotations

import numpy as np

from gpubp.emulator.loops import loop

LOAD, STORE = range(2)

# A cell of the race detector stands for a few bytes of memory, and remembers who touched them last: the thread, its
# number then (see clocks.py), and the site, with the lowest bit set if the access is strong. Two readers that nothing
# orders are kept; MANY says that there were more, whose numbers stand in the cell's row of `reads`, if there is one.
WRITER, WRITTEN, WRITE_SITE, READER, READ, READ_SITE, OTHER_READER, OTHER_READ, OTHER_SITE, MANY = range(10)
CELL = 10

# What is found of a race: position of the lane, the other thread, its number, its site, and whether it wrote.
POSITION, OTHER, NUMBER, SITE, WROTE = range(5)
FOUND = 5


# The shadow of a byte for the observer of uninitialised reads: which of its bits are defined.
UNWRITTEN, DEFINED = 0, 0xFF


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
def _unordered(other, number, thread, first, floor, known, lane, padded):
    """True if a thread (numbered from 1), which `lane` runs, does not know another's access by its number.

    `first`: the number of the first thread of its block; `floor`: that of its block.
    """
    column = other - first
    if other == thread or (0 <= column < padded and number < floor):
        return False
    width = known.shape[1]
    if width == 0 or column < 0 or column >= padded:
        return True  # of another block, the caller knows more
    if width < padded and column // width != (thread - first) // width:
        return True
    return known[lane, column % width] < number


@loop
def check_races(
    cells, bits, base, pointers, nbytes, threads, firsts, number, floors, known, reads, doubt, padded, lanes, whole,
    start, count, kind, site, found,
):  # fmt: skip
    """Record the accesses of the active lanes from position `start` on, and find which race.

    `firsts`: of each lane, the number of its block's first thread. `doubt`: accesses may be ordered by memory after
    all, so more than one is told of each access. Fills `found`; returns the position up to which it came before
    the next access might overfill it, and how many rows it has filled.
    """
    races = 0
    each = max(1, nbytes >> bits)
    strong = site & 1
    simple = known.shape[1] == 0
    size = cells.shape[0] << bits
    for i in range(start, count):
        if races + each * (3 + reads.shape[1]) > found.shape[0]:
            return i, races
        lane = i if whole else lanes[i]
        thread, now, first, floor = threads[lane], number[lane], firsts[lane], floors[lane]
        place = _place(pointers[i], base, nbytes, size) >> bits
        for index in range(place, place + each):
            sure = False
            other = cells[index, WRITER]
            if other != 0 and other != thread and not (strong and cells[index, WRITE_SITE] & 1):
                written = cells[index, WRITTEN]
                if _unordered(other, written, thread, first, floor, known, lane, padded):
                    _note(found, races, i, other, written, cells[index, WRITE_SITE], 1)
                    races += 1
                    sure = not doubt
            one, two = cells[index, READER], cells[index, OTHER_READER]
            if kind == LOAD:
                if simple and one != thread and two != 0 and two != thread:
                    # Two readers of this block since its last barrier: whoever writes races with one of them.
                    recent = cells[index, READ] >= floor and cells[index, OTHER_READ] >= floor
                    if recent and 0 <= one - first < padded and 0 <= two - first < padded:
                        continue
                if one == 0 or (one == thread and simple):
                    cells[index, READER], cells[index, READ], cells[index, READ_SITE] = thread, now, site
                else:
                    _note_read(cells, index, thread, now, site, first, floor, known, lane, reads, padded)
                continue
            if one != 0:
                for slot in (READER, OTHER_READER):
                    other = cells[index, slot]
                    if sure or other == 0 or (strong and cells[index, slot + 2] & 1):
                        continue
                    read = cells[index, slot + 1]
                    if _unordered(other, read, thread, first, floor, known, lane, padded):
                        _note(found, races, i, other, read, cells[index, slot + 2], 0)
                        races += 1
                        sure = not doubt
                if not sure and cells[index, MANY] and reads.shape[0] != 0:
                    for column in range(padded):
                        read = reads[index, column] >> 1
                        if read == 0 or (strong and reads[index, column] & 1):
                            continue
                        if _unordered(first + column, read, thread, first, floor, known, lane, padded):
                            _note(found, races, i, first + column, read, cells[index, READ_SITE], 0)
                            races += 1
                            if not doubt:
                                break
                cells[index, READER] = cells[index, OTHER_READER] = cells[index, MANY] = 0
            own = cells[index, WRITER] == thread and cells[index, WRITTEN] == now
            if own and strong and not cells[index, WRITE_SITE] & 1:
                continue  # more races with the plain write before, and nobody knows one of the two alone
            cells[index, WRITER] = thread
            cells[index, WRITTEN] = now
            cells[index, WRITE_SITE] = site
    return count, races


@loop
def _note(found, row, position, other, number, site, wrote):
    found[row, POSITION], found[row, OTHER], found[row, NUMBER] = position, other, number
    found[row, SITE], found[row, WROTE] = site, wrote


@loop
def _note_read(cells, index, thread, now, site, first, floor, known, lane, reads, padded):
    """Remember a read in the place of one that its thread knows: who does not know this one does not know that one.

    Of three that nothing orders two are kept here, of two blocks if they can be: a later writer that does not know the
    third does not know one of these, as long as only barriers of whole blocks order accesses; else `reads` has all.
    """
    if cells[index, MANY] and reads.shape[0] != 0:
        _keep_read(reads, index, thread - first, now, site)
    slot = READER
    one, two = cells[index, READER], cells[index, OTHER_READER]
    if one != thread:
        if two == thread:
            slot = OTHER_READER
        elif _unordered(one, cells[index, READ], thread, first, floor, known, lane, padded):
            slot = OTHER_READER
            if two != 0 and _unordered(two, cells[index, OTHER_READ], thread, first, floor, known, lane, padded):
                if reads.shape[0] != 0:
                    _keep_read(reads, index, one - first, cells[index, READ], cells[index, READ_SITE])
                    _keep_read(reads, index, two - first, cells[index, OTHER_READ], cells[index, OTHER_SITE])
                    _keep_read(reads, index, thread - first, now, site)
                    cells[index, MANY] = 1
                if (one - 1) // padded != (two - 1) // padded:
                    if 0 <= one - first < padded:
                        slot = READER
                    elif two < first or two >= first + padded:
                        return
    if cells[index, slot] == thread and cells[index, slot + 1] == now:
        site &= cells[index, slot + 2] | -2  # strong only if both are
    cells[index, slot], cells[index, slot + 1], cells[index, slot + 2] = thread, now, site


@loop
def _keep_read(reads, index, column, number, site):
    """Keep a thread's number when it read, and in the lowest bit whether it read strongly (then only that way)."""
    strong = site & 1
    if reads[index, column] >> 1 == number:
        strong &= reads[index, column]
    reads[index, column] = 2 * number + strong


@loop
def first_undefined(states, base, pointers, nbytes, count):
    """The first position whose bytes are not all defined, or -1."""
    size = states.size
    if nbytes == 4:
        words = states.view(np.uint32)
        for i in range(count):
            if words[_place(pointers[i], base, nbytes, size) >> 2] != np.uint32(0xFFFFFFFF):
                return i
    elif nbytes & 7 == 0:
        doubles = states.view(np.uint64)
        ones = np.uint64(0xFFFFFFFFFFFFFFFF)
        for i in range(count):
            first = _place(pointers[i], base, nbytes, size) >> 3
            together = doubles[first]
            for word in range(1, nbytes >> 3):
                together &= doubles[first + word]
            if together != ones:
                return i
    else:
        for i in range(count):
            first = _place(pointers[i], base, nbytes, size)
            for byte in range(first, first + nbytes):
                if states[byte] != DEFINED:
                    return i
    return -1


@loop
def set_state(states, base, pointers, nbytes, count, state):
    """Make all bytes defined or unwritten."""
    size = states.size
    if nbytes == 4:
        words = states.view(np.uint32)
        word = np.uint32(0xFFFFFFFF if state == DEFINED else 0)
        for i in range(count):
            words[_place(pointers[i], base, nbytes, size) >> 2] = word
    else:
        for i in range(count):
            first = _place(pointers[i], base, nbytes, size)
            for byte in range(first, first + nbytes):
                states[byte] = state


@loop
def read_undefined(states, origins, base, pointers, nbytes, count, masks, found):
    """masks[i] = the undefined bits of the bytes at pointers[i], found[i] = where they come from."""
    for i in range(count):
        first = _place(pointers[i], base, nbytes, states.size)
        found[i] = 0
        for byte in range(nbytes):
            masks[i, byte] = ~states[first + byte]
            if masks[i, byte] != 0 and found[i] == 0:
                found[i] = origins[(first + byte) >> 2]


@loop
def write_undefined(states, origins, base, pointers, nbytes, count, masks, origin):
    """The reverse of read_undefined, in the order of the positions."""
    for i in range(count):
        first = _place(pointers[i], base, nbytes, states.size)
        for byte in range(nbytes):
            states[first + byte] = ~masks[i, byte]
            if masks[i, byte] != 0:
                origins[(first + byte) >> 2] = origin[i]


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
def touch(pointers, base, nbytes, count, touched):
    """Mark the 32-byte sectors that accesses touch, and return how many were not marked before."""
    size = touched.size << 5
    fresh = 0
    for i in range(count):
        first = _place(pointers[i], base, nbytes, size)
        for sector in range(first >> 5, ((first + nbytes - 1) >> 5) + 1):
            fresh += 1 - touched[sector]
            touched[sector] = 1
    return fresh


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
