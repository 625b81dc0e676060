"""Undefined bits in the registers of one machine.

A register that holds undefined bits is "dirty" and has a mask of them, lane by lane, in the size of the register. Masks
are made when they are first needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.isa.operations import BOOL
from gpubp.emulator.observe.definedness import UNWRITTEN, Definedness, Origin
from gpubp.emulator.program.ptx import Instruction, Operand, Register
from gpubp.emulator.program.registers import Slot, registers_of

CARRY: Slot = (-1, 0)
"""The flag of the carry chain, among the registers."""

Share = tuple[int, int]
"""How many bytes are undefined, and of how many."""


class Undefined(NamedTuple):
    """The undefined bits of some lanes' bytes, and their origins."""

    masks: Array
    origins: Array

    def of(self, chosen: Array) -> Undefined:
        """Return those of some of the lanes."""
        return Undefined(self.masks[chosen], self.origins[chosen])


class Registers:
    """The undefined bits of a machine's registers.

    Attributes:
        dirty: the registers that have some.
        origins: where each lane's come from.
    """

    def __init__(self, owner: Definedness, machine: Machine) -> None:
        self.owner = owner
        self.machine = machine
        self.dirty: set[Slot] = set()
        self.origins: dict[Slot, Array] = {}
        self._masks: dict[Slot, Array] = {}
        self._unwritten = [machine.slots[name] for name in sorted(machine.program.unwritten)]

    def begin_wave(self) -> None:
        """New threads, whose variables nothing has written."""
        for slot in self.dirty:
            self._masks[slot][...] = 0
        self.dirty.clear()
        for slot in self._unwritten:
            row = self.row(slot)
            row[...] = True if row.dtype == BOOL else np.iinfo(row.dtype).max
            self.origins[slot][...] = self.owner.number(Origin())
        self.dirty.update(self._unwritten)

    def row(self, slot: Slot) -> Array:
        if slot not in self._masks:
            dtype = BOOL if slot[0] <= 0 else np.dtype(f"u{slot[0]}")
            self._masks[slot] = np.zeros(self.machine.lanes, dtype)
            self.origins[slot] = np.zeros(self.machine.lanes, np.int32)
        return self._masks[slot]

    def mask_of(self, operand: Operand, dtype: np.dtype[Any]) -> Array:
        """Return the mask of an operand as it is read in `dtype`, 0-d if it is defined."""
        if not isinstance(operand, Register) or self.machine.slots[operand.name] not in self.dirty:
            return np.zeros((), dtype)
        row = self.row(self.machine.slots[operand.name])
        return row if row.dtype == dtype else row.view(dtype)[:: row.itemsize // dtype.itemsize]

    def lanes_of(self, operand: Operand, dtype: np.dtype[Any]) -> Array:
        return np.broadcast_to(self.mask_of(operand, dtype), self.machine.lanes)

    def origin_of(self, slots: Iterable[Slot]) -> Array:
        """Return for each active lane the origin of the first slot with undefined bits, or 0."""
        found = np.zeros(self.machine.lanes, np.int32)
        for slot in slots:
            if slot in self.dirty:
                here = (self.row(slot) != 0) & self.machine.active.mask & (found == 0)
                np.copyto(found, self.origins[slot], where=here)
        return found

    def slots(self, operands: Iterable[Operand]) -> list[Slot]:
        return [self.machine.slots[name] for operand in operands for name in registers_of(operand)]

    def write(self, slot: Slot, mask: Array, origin: Array | int, signed: bool = False) -> None:
        """Give a register of the active lanes a mask, extended as its value is."""
        row = self.row(slot)
        if mask.dtype != row.dtype:
            mask = mask.view(f"i{mask.itemsize}") if signed else mask
            mask = mask.astype(f"{mask.dtype.kind}{row.itemsize}").view(row.dtype)
        active = self.machine.active
        np.copyto(row, mask, where=active.mask)
        np.copyto(self.origins[slot], origin, where=active.mask)
        self.settle(slot)

    def clear(self, slots: Iterable[Slot]) -> None:
        """Make registers of the active lanes defined."""
        for slot in slots:
            if slot in self.dirty:
                self.row(slot)[self.machine.active.mask] = 0
                self.settle(slot)

    def settle(self, slot: Slot) -> None:
        """Note whether a register has undefined bits in a lane that lives."""
        row = self.row(slot)
        row[~self.machine.live] = 0
        (self.dirty.add if row.any() else self.dirty.discard)(slot)

    def computed(self, instruction: Instruction, origin: Array, masks: Sequence[Array]) -> Array:
        """Return the origins of what an instruction computes, from those of its operands with these masks."""
        result = origin.copy()
        for number in np.unique(origin[origin > 0]):
            lane = int(np.flatnonzero(origin == number)[0])
            share = lambda lane=lane: share_of(masks, lane)  # noqa: E731
            result[origin == number] = self.owner.computed(int(number), instruction, share)
        return result

    def use(self, instruction: Instruction, lane: int, number: int, verb: str, share: Share) -> None:
        """Report that a lane does something with an undefined value."""
        machine, origin = self.machine, self.owner.origins[number]

        def message() -> str:
            what = origin.describe(share, instruction)
            if origin.computed is not None:
                what = f"what is computed at {origin.computed.location or origin.computed.text} from "
                what += origin.describe(origin.share, origin.computed)
            return f"{machine.where(instruction, lane)} {verb} {what}"

        place = instruction.location or instruction.text
        self.owner.report(machine, UNWRITTEN, machine.program.name, place, message)

    def check(self, instruction: Instruction, slots: Iterable[Slot], verb: str) -> None:
        """Report registers of the active lanes that are not defined, and take them for defined from now on."""
        for slot in slots:
            if slot not in self.dirty:
                continue
            row = self.row(slot)
            undefined = (row != 0) & self.machine.active.mask
            if undefined.any():
                lane = int(np.flatnonzero(undefined)[0])
                self.use(instruction, lane, int(self.origins[slot][lane]), verb, share_of([row], lane))
                row[undefined] = 0
            self.settle(slot)


def by_warp(values: Array) -> Array:
    """Return an array over lanes as (warps, 32); 0-d ones as they are."""
    return values.reshape(-1, WARP) if values.ndim else values


def share_of(masks: Iterable[Array], lane: int) -> Share:
    """Return the share of undefined bytes in the first of a lane's operands that has any."""
    for mask in masks:
        value = mask if mask.ndim == 0 else mask[lane : lane + 1]
        if value.any():
            return int(np.count_nonzero(np.ascontiguousarray(value).reshape(1).view(np.uint8))), mask.itemsize
    return 0, 0
