"""The race detector's clocks against whole vector clocks, on random programs: they agree on what races."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from happens_before import Reference

from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.clocks import Clocks
from gpubp.emulator.program.ptx import Instruction

PADDED = 64
CELLS = 6


class Detector:
    """The race detector, driven one access of one lane at a time; block b has the lanes from PADDED·b on."""

    def __init__(self, blocks: int, width: int, shared: bool, by_memory: bool = False) -> None:
        lane = np.arange(blocks * PADDED)
        self.clocks = Clocks(blocks, PADDED, width)
        self.clocks.begin(0)
        self.cells = np.zeros((CELLS + 1, shadow.CELL), np.int32)
        self.threads = (lane + 1).astype(np.int32)
        self.firsts = (lane // PADDED * PADDED + 1).astype(np.int32)
        self.reads = np.zeros((CELLS + 1 if shared and width else 0, PADDED), np.int32)
        self.by_memory = by_memory
        self.found = np.zeros((3 + PADDED, shadow.FOUND), np.int64)
        self.places: dict[int, dict] = {}
        self.phases: dict[int, int] = defaultdict(int)  # by mbarrier, which are of blocks
        self.asked: list[tuple[int, list]] = []  # arrivals that wait for copies: mbarrier, and what they tell

    def access(self, lane: int, cell: int, writes: bool, strong: bool = False) -> set[int]:
        clocks = self.clocks
        position, races = shadow.check_races(
            self.cells, 2, 0, np.array([4 * cell]), 4, self.threads, self.firsts, clocks.number, clocks.floor,
            clocks.known, self.reads, self.by_memory, PADDED, np.array([lane]), False, 0, 1,
            shadow.STORE if writes else shadow.LOAD, int(strong), self.found,
        )  # fmt: skip
        assert position == 1
        others = set()
        for row in self.found[:races]:
            block, thread = divmod(int(row[shadow.OTHER]) - 1, PADDED)
            if not clocks.knows(lane, block, thread, int(row[shadow.NUMBER])):
                others.add(int(row[shadow.OTHER]) - 1)
        return others

    def strong(self, kind: str, opcode: str, lane: int, cell: int) -> set[int]:
        others = self.access(lane, cell, kind != "load", True)
        instruction = Instruction(opcode, ("relaxed",), (), None, None, "")
        self.clocks.follow(self.places, instruction, kind, np.array([lane]), np.array([4 * cell]))
        return others

    def block_barrier(self, lanes: list[int]) -> None:
        mask = np.zeros(self.threads.size, bool)
        mask[lanes] = True
        self.clocks.block_barrier(mask)

    def warp_barriers(self, groups: list[list[int]]) -> None:
        lanes = np.array(sorted(lane for group in groups for lane in group))
        members = {lane: sum(1 << other % 32 for other in group) for group in groups for lane in group}
        self.clocks.warp_barrier(lanes, np.array([members[lane] for lane in lanes.tolist()]))

    def arrival(self, lane: int, relaxed: bool = False) -> list:
        return self.clocks.arrivals(np.array([lane]), not relaxed)

    def mbarrier_arrive(self, slot: int, arrival: list) -> None:
        self.clocks.arrive_in_phases(np.array([slot]), np.array([self.phases[slot]]), arrival)

    def mbarrier_complete(self, slot: int) -> None:
        self.phases[slot] += 1

    def hand_over_by_mbarrier(self, giver: int, taker: int, slot: int, relaxed: bool) -> None:
        self.mbarrier_arrive(slot, self.arrival(giver, relaxed))
        self.mbarrier_complete(slot)
        self.mbarrier_wait(taker, slot)

    def mbarrier_wait(self, lane: int, slot: int) -> None:
        self.clocks.pass_phases(np.array([lane]), np.array([slot]), np.array([self.phases[slot]]))

    def hand_over(self, giver: int, taker: int, cell: int) -> set[int]:
        self.clocks.fence(np.array([giver]))
        others = self.strong("store", "st", giver, cell) | self.strong("load", "ld", taker, cell)
        self.clocks.fence(np.array([taker]))
        return others


Step = tuple[Callable[[Reference], set[int] | None], Callable[[Detector], set[int] | None], int | None]


def read_or_write(lane: int, cell: int, writes: bool) -> Step:
    return lambda r: r.access(lane, cell, writes), lambda d: d.access(lane, cell, writes), cell


def some(pick: random.Random, lanes: list[int]) -> list[int]:
    return sorted(pick.sample(lanes, pick.randint(1, len(lanes))))


def within_a_block(pick: random.Random) -> Step:
    """Barriers of the block, of some of its threads, of some of a warp; arrivals; accesses to shared memory."""
    lanes = [0, 1, 2, 31, 32, 33, 63]
    chance = pick.random()
    if chance < 0.72:
        return read_or_write(pick.choice(lanes), pick.randrange(3), pick.random() < 0.2)
    if chance < 0.75:
        return lambda r: r.barrier(lanes), lambda d: d.block_barrier(lanes), None
    if chance < 0.85:
        # Two groups of a warp, and one of another.
        one, two = pick.choice([([0, 1], [2, 31]), ([0, 31], [1]), ([0, 1, 2], [31])])
        groups = [one, two, [32, 33, 63][pick.randrange(3) :]]
        return lambda r: [r.barrier(group) for group in groups] and None, lambda d: d.warp_barriers(groups), None
    barrier = pick.randrange(2)
    if chance < 0.9:
        lane = pick.choice(lanes)
        return (
            lambda r: r.arrive(lane, (0, barrier)),
            lambda d: d.clocks.arrive(np.array([lane]), np.array([barrier])),
            None,
        )
    group = some(pick, lanes)
    return (
        lambda r: r.some_barrier(group, (0, barrier)),
        lambda d: d.clocks.some_barrier(np.array(group), barrier),
        None,
    )


def between_blocks(pick: random.Random) -> Step:
    """Barriers of whole blocks alone."""
    blocks = [[0, 1, 40], [64, 65], [128, 190]]
    if pick.random() < 0.15:
        block = pick.choice(blocks)
        return lambda r: r.barrier(block), lambda d: d.block_barrier(block), None
    return read_or_write(
        pick.choice([lane for block in blocks for lane in block]), pick.randrange(CELLS), pick.random() < 0.3
    )


def by_memory(blocks: list[list[int]]) -> Callable[[random.Random], Step]:
    """Fences, and strong accesses to the last two cells."""

    def step(pick: random.Random) -> Step:
        lane, cell = pick.choice([lane for block in blocks for lane in block]), pick.randrange(CELLS - 2)
        place = CELLS - 2 + pick.randrange(2)
        chance = pick.random()
        if chance < 0.4:
            return read_or_write(lane, cell, pick.random() < 0.4)
        if chance < 0.5:
            taker = pick.choice([lane for block in blocks for lane in block])
            return lambda r: r.hand_over(lane, taker, place), lambda d: d.hand_over(lane, taker, place), place
        if chance < 0.6:
            return lambda r: r.fence(lane), lambda d: d.clocks.fence(np.array([lane])), None
        if chance < 0.72:
            return lambda r: r.strong_store(lane, place), lambda d: d.strong("store", "st", lane, place), place
        if chance < 0.84:
            return lambda r: r.strong_load(lane, place), lambda d: d.strong("load", "ld", lane, place), place
        if chance < 0.92:
            return lambda r: r.atomic(lane, place), lambda d: d.strong("atomic", "atom", lane, place), place
        block = pick.choice(blocks)
        return lambda r: r.barrier(block), lambda d: d.block_barrier(block), None

    return step


def by_mbarriers(blocks: list[list[int]], inner: Callable[[random.Random], Step]) -> Callable[[random.Random], Step]:
    """Two mbarriers of each block: threads arrive, now or when copies are complete, phases end, threads wait, or all
    that one after the other."""

    def step(pick: random.Random) -> Step:
        chance = pick.random()
        if chance < 0.5:
            return inner(pick)
        block = pick.randrange(len(blocks))
        lane, slot = pick.choice(blocks[block]), 2 * block + pick.randrange(2)
        relaxed = pick.random() < 0.4
        if chance < 0.6:
            taker = pick.choice(blocks[block])
            return (
                lambda r: r.hand_over_by_mbarrier(lane, taker, slot, relaxed),
                lambda d: d.hand_over_by_mbarrier(lane, taker, slot, relaxed),
                None,
            )
        if chance < 0.7:
            return (
                lambda r: r.mbarrier_arrive(lane, slot, relaxed),
                lambda d: d.mbarrier_arrive(slot, d.arrival(lane, relaxed)),
                None,
            )
        if chance < 0.75:
            return lambda r: ask(r, lane, slot), lambda d: d.asked.append((slot, d.arrival(lane))), None
        if chance < 0.8:
            return give, lambda d: d.asked and d.mbarrier_arrive(*d.asked.pop(0)), None
        if chance < 0.9:
            return lambda r: r.mbarrier_complete(slot), lambda d: d.mbarrier_complete(slot), None
        return lambda r: r.mbarrier_wait(lane, slot), lambda d: d.mbarrier_wait(lane, slot), None

    return step


def ask(reference: Reference, lane: int, slot: int) -> None:
    reference.asked.append((dict(reference.clocks[lane]), slot))


def give(reference: Reference) -> None:
    if reference.asked:
        reference.mbarrier_arrive_after(*reference.asked.pop(0))


def compare(seed: int, step: Callable[[random.Random], Step], detector: Detector, exact: bool = True) -> int:
    """Run a random program on both; return how many races the reference has found first at their places.

    The detector never tells of a race that is none, and it finds the first race at each place.
    """
    pick, reference, raced = random.Random(seed), Reference(), set()
    for number in range(pick.randint(5, 80)):
        slow, fast, place = step(pick)
        expected, got = slow(reference), fast(detector)
        if place is None:
            continue
        assert got <= expected, f"seed {seed}, step {number}: a false alarm"
        if expected and place not in raced:
            assert got or not exact, f"seed {seed}, step {number}: a missed race with {expected}"
            raced.add(place)
    return len(raced)


MODES = {
    "barriers of some threads and of warps, shared memory": (within_a_block, lambda: Detector(1, PADDED, True), True),
    "barriers of whole blocks": (between_blocks, lambda: Detector(3, 0, False), True),
    "fences and strong accesses of two blocks": (
        by_memory([[0], [64]]), lambda: Detector(2, PADDED, False, True), True
    ),
    "fences and strong accesses of one block": (
        by_memory([[0, 1, 2, 33, 63]]), lambda: Detector(1, PADDED, True, True), True
    ),
    "mbarriers, and other barriers of a block": (
        by_mbarriers([[0, 1, 2, 31, 32, 33, 63]], within_a_block), lambda: Detector(1, PADDED, True), True
    ),
    "mbarriers, fences and strong accesses of one block": (
        by_mbarriers([[0, 1, 2, 33, 63]], by_memory([[0, 1, 2, 33, 63]])),
        lambda: Detector(1, PADDED, True, True), True
    ),
    "mbarriers, fences and strong accesses of two blocks": (
        by_mbarriers([[0, 1], [64, 65]], by_memory([[0, 1], [64, 65]])), lambda: Detector(2, PADDED, False, True), False
    ),
    "fences and strong accesses of many threads": (
        by_memory([[0, 1, 33], [64, 65], [128]]), lambda: Detector(3, PADDED, False, True), False
    ),
}  # fmt: skip


@pytest.mark.parametrize(("step", "detector", "exact"), MODES.values(), ids=MODES.keys())
def test_the_fast_clocks_agree_with_whole_ones(step, detector, exact):
    races = [compare(seed, step, detector(), exact) for seed in range(200)]
    assert sum(map(bool, races)) > 50
    assert sum(not found for found in races) > 5


def test_races_with_every_reader_are_all_told_and_do_not_overfill_the_table():
    """Two stores of two cells each, which all threads have read: each cell races with its writer and all readers."""
    detector = Detector(1, PADDED, shared=True, by_memory=True)
    room = 2 * (3 + PADDED)
    table = np.full((2 * room, shadow.FOUND), -1)
    for cell in range(4):
        detector.access(0, cell, writes=True)
        for reader in range(10, PADDED):
            detector.access(reader, cell, writes=False)
    clocks, lanes = detector.clocks, np.array([5, 6])
    start, told = 0, []
    while start < 2:
        start, races = shadow.check_races(
            detector.cells, 2, 0, np.array([0, 8]), 8, detector.threads, detector.firsts, clocks.number, clocks.floor,
            clocks.known, detector.reads, True, PADDED, lanes, False, start, 2, shadow.STORE, 0, table[:room],
        )  # fmt: skip
        assert (table[room:] == -1).all()
        told += [(int(row[shadow.POSITION]), int(row[shadow.OTHER]) - 1) for row in table[:races]]
    assert set(told) == {(position, other) for position in (0, 1) for other in (0, *range(10, PADDED))}
