"""Undefined values across calls that are not inlined: in frames, in arguments and results, in saved registers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpubp.emulator.device.state import Array
from gpubp.emulator.observe import shadow
from gpubp.emulator.program.registers import Slot


class Frames:
    """Follows a machine's stacks for its tracker.

    Args:
        tracker: the Tracker of the machine.
    """

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self.machine = tracker.machine
        self._saved: dict[tuple[int, int], list[tuple[Slot, int, int]]] = {}  # by lane and place in its stack

    def begin_wave(self) -> None:
        self._saved.clear()

    def grown(self, before: int) -> None:
        """The local memory of each lane is larger than `before`, and elsewhere."""
        machine = self.machine
        states, sources, _ = self.tracker.memory("local")
        new_states = np.zeros(machine.local.shape, np.uint8)
        new_sources = np.zeros((machine.lanes, machine.local.shape[1] // 4), np.int32)
        new_states[:, :before] = states.reshape(machine.lanes, -1)[:, :before]
        new_sources[:, : before // 4] = sources.reshape(machine.lanes, -1)[:, : before // 4]
        self.tracker.replace_memory("local", new_states.reshape(-1), new_sources.reshape(-1))

    def made(self, lanes: Array, frames: Array, nbytes: int) -> None:
        """Lanes have called functions, whose frames begin at these addresses of their local memory."""
        states, sources, _ = self.tracker.memory("local")
        rows = lanes[:, np.newaxis]
        states.reshape(self.machine.lanes, -1)[rows, frames[:, np.newaxis] + np.arange(nbytes)] = shadow.UNWRITTEN
        sources.reshape(self.machine.lanes, -1)[rows, frames[:, np.newaxis] // 4 + np.arange(nbytes // 4)] = 0

    def copied(self, lanes: Array, source: Array, target: Array, nbytes: int) -> None:
        """Arguments or results have been copied within local memory."""
        states, sources, _ = self.tracker.memory("local")
        rows, places = lanes[:, np.newaxis], np.arange(nbytes)
        source, target = source[:, np.newaxis] + places, target[:, np.newaxis] + places
        for array, unit in ((states, 1), (sources, 4)):
            table = array.reshape(self.machine.lanes, -1)
            table[rows, target // unit] = table[rows, source // unit]

    def saved(self, slots: Iterable[Slot], lanes: Array, tops: Array) -> None:
        """Registers of callers are saved, before their functions use the storage for others."""
        registers = self.tracker.registers
        for slot in registers.dirty.intersection(slots):
            row = registers.row(slot)
            for lane, top in zip(lanes.tolist(), tops.tolist(), strict=True):
                if row[lane]:
                    entry = slot, int(row[lane]), int(registers.origins[slot][lane])
                    self._saved.setdefault((lane, top), []).append(entry)

    def restored(self, slots: Iterable[Slot], lanes: Array, tops: Array) -> None:
        """The registers have come back."""
        registers = self.tracker.registers
        for slot in registers.dirty.intersection(slots):
            registers.row(slot)[lanes] = 0
            registers.settle(slot)
        if not self._saved:
            return
        for key in zip(lanes.tolist(), tops.tolist(), strict=True):
            for slot, mask, origin in self._saved.pop(key, ()):
                registers.row(slot)[key[0]] = mask
                registers.origins[slot][key[0]] = origin
                registers.dirty.add(slot)
