"""Happens-before, slowly: a whole vector clock for each access, and each access against all before it.

A thread's clock counts its own steps one by one; a barrier, or a read of what was published, joins clocks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    thread: int
    step: int
    writes: bool
    strong: bool


class Reference:
    def __init__(self) -> None:
        self.clocks: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self.history: defaultdict[object, list[Access]] = defaultdict(list)
        self.arrived: defaultdict[tuple[int, int], list[dict[int, int]]] = defaultdict(list)
        self.published: defaultdict[object, dict[int, int]] = defaultdict(dict)
        self.fenced: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.phases: defaultdict[object, list[dict[int, int]]] = defaultdict(list)
        self.asked: list[tuple[dict[int, int], object]] = []  # arrivals that wait for copies: clocks and mbarriers
        self.over: defaultdict[object, dict[int, int]] = defaultdict(dict)
        self.pending: defaultdict[int, list[dict[int, int]]] = defaultdict(list)

    def _step(self, thread: int) -> int:
        self.clocks[thread][thread] += 1
        return self.clocks[thread][thread]

    def access(self, thread: int, place: object, writes: bool, strong: bool = False) -> set[int]:
        """Note an access and return the threads whose accesses it races with."""
        new = Access(thread, self._step(thread), writes, strong)
        clock = self.clocks[thread]
        racing = {
            old.thread
            for old in self.history[place]
            if (old.writes or writes) and not (old.strong and strong) and old.step > clock[old.thread]
        }
        self.history[place].append(new)
        return racing

    def barrier(self, threads: list[int], others: list[dict[int, int]] = []) -> None:  # noqa: B006
        for thread in threads:
            self._take_over(thread)
        fenced = join([self.fenced[thread] for thread in threads])
        for thread in threads:
            self.fenced[thread] = dict(fenced)
        joined = join([self.clocks[thread] for thread in threads] + others)
        for thread in threads:
            self.clocks[thread].update(joined)

    def arrive(self, thread: int, key: tuple[int, int]) -> None:
        self.arrived[key].append(dict(self.clocks[thread]))

    def some_barrier(self, threads: list[int], key: tuple[int, int]) -> None:
        self.barrier(threads, self.arrived.pop(key, []))

    def mbarrier_arrive(self, thread: int, mbarrier: object, relaxed: bool = False) -> None:
        """Arrive, and tell what the thread knows, or (`relaxed`) has fenced."""
        self.phases[mbarrier].append(dict(self.fenced[thread] if relaxed else self.clocks[thread]))

    def mbarrier_complete(self, mbarrier: object) -> None:
        """End a phase."""
        self.over[mbarrier] = join([self.over[mbarrier], *self.phases.pop(mbarrier, [])])

    def mbarrier_wait(self, thread: int, mbarrier: object) -> None:
        """Find that a phase is over: what arrived in the ended ones is known, and not what has arrived since."""
        self.clocks[thread].update(join([self.clocks[thread], self.over[mbarrier]]))

    def hand_over_by_mbarrier(self, giver: int, taker: int, mbarrier: object, relaxed: bool) -> None:
        self.mbarrier_arrive(giver, mbarrier, relaxed)
        self.mbarrier_complete(mbarrier)
        self.mbarrier_wait(taker, mbarrier)

    def mbarrier_arrive_after(self, clock: dict[int, int], mbarrier: object) -> None:
        """Let an arrival happen that was asked for earlier, when its thread's clock was this."""
        self.phases[mbarrier].append(clock)

    def fence(self, thread: int) -> None:
        self._take_over(thread)
        self.fenced[thread] = dict(self.clocks[thread])

    def strong_load(self, thread: int, place: object) -> set[int]:
        racing = self.access(thread, place, False, True)
        self.pending[thread].append(dict(self.published[place]))
        return racing

    def strong_store(self, thread: int, place: object) -> set[int]:
        racing = self.access(thread, place, True, True)
        self.published[place] = dict(self.fenced[thread])
        return racing

    def atomic(self, thread: int, place: object) -> set[int]:
        racing = self.access(thread, place, True, True)
        self.pending[thread].append(dict(self.published[place]))
        self.published[place] = join([self.published[place], self.fenced[thread]])
        return racing

    def hand_over(self, giver: int, taker: int, place: object) -> set[int]:
        self.fence(giver)
        racing = self.strong_store(giver, place) | self.strong_load(taker, place)
        self.fence(taker)
        return racing

    def _take_over(self, thread: int) -> None:
        self.clocks[thread].update(join([self.clocks[thread], *self.pending.pop(thread, [])]))


def join(clocks: list[dict[int, int]]) -> dict[int, int]:
    joined: dict[int, int] = {}
    for clock in clocks:
        for thread, step in clock.items():
            joined[thread] = max(joined.get(thread, 0), step)
    return joined
