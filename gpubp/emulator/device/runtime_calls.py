"""The functions that the device runtime supplies: printf, assert, malloc and free."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.emulator.device.heap import HEAP
from gpubp.emulator.device.lanewise import Bound, always
from gpubp.emulator.device.memory import LOCAL_WINDOW, MEMORY
from gpubp.emulator.device.state import Machine
from gpubp.emulator.errors import MemoryAccessError, TrapError
from gpubp.emulator.program.inlining import ALLOCATORS
from gpubp.emulator.program.ptx import Instruction, Symbol, Vector

_CONVERSION = re.compile(r"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?(hh|h|ll|l|j|z|t|L)?([diouxXcsfFeEgGaAp%])")


def bind_call(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of a call of the device runtime: vprintf(format, arguments), malloc(size), free(pointer), or
    __assertfail(message, file, line, function, size)."""
    name = next(operand.name for operand in instruction.operands if isinstance(operand, Symbol))
    lists = [operand.items for operand in instruction.operands if isinstance(operand, Vector)]
    arguments = [_Slot(machine, item) for item in lists[-1]]
    results = [_Slot(machine, item) for item in lists[0]] if len(lists) > 1 else []
    if name == "vprintf":
        return always(_printf(machine, instruction, arguments, results))
    if name == "free":
        return always(_free(machine, instruction, arguments[0]))
    if name in ALLOCATORS:
        return always(_malloc(machine, instruction, arguments, results))
    return always(_assertion(machine, instruction, arguments))


class _Slot:
    """A call's parameter or result, in the local memory of each lane."""

    def __init__(self, machine: Machine, item: object) -> None:
        assert isinstance(item, Symbol)
        self.machine = machine
        self.name = item.name

    def _place(self, lane: int) -> int:
        machine = self.machine
        if machine.calls is None:
            return machine.local_layout.addresses[self.name]
        return int(machine.calls.offset(self.name, np.array([lane]))[0])

    def read(self, lane: int, dtype: str) -> int:
        return int(_word(self.machine, lane, self._place(lane), dtype))

    def write(self, lane: int, value: int, dtype: str) -> None:
        machine, place, size = self.machine, self._place(lane), np.dtype(dtype).itemsize
        machine.local[lane, place : place + size].view(dtype)[0] = value
        tracker = None if machine.observer is None else machine.observer.tracker(machine)
        if tracker is not None:
            tracker.runtime_writes(lane, place, size)


def _word(machine: Machine, lane: int, offset: int, dtype: str) -> Any:
    size = np.dtype(dtype).itemsize
    return machine.local[lane, offset : offset + size].view(dtype)[0]


def _malloc(
    machine: Machine, instruction: Instruction, arguments: list[_Slot], results: list[_Slot]
) -> Callable[[], None]:
    def malloc() -> None:
        machine.changed = True
        for lane in machine.active.lanes.tolist():
            nbytes = arguments[0].read(lane, "<u8")
            align = arguments[1].read(lane, "<u8") if len(arguments) > 1 else 1
            try:
                address = HEAP.allocate(nbytes, align, machine.line(instruction, lane))
            except ValueError as error:
                raise machine.unsupported(instruction, str(error)) from None
            if address and machine.observer is not None:
                machine.observer.block_allocated(address, nbytes)
            for result in results:
                result.write(lane, address, "<u8")

    return malloc


def _free(machine: Machine, instruction: Instruction, argument: _Slot) -> Callable[[], None]:
    def free() -> None:
        machine.changed = True
        for lane in machine.active.lanes.tolist():
            address = argument.read(lane, "<u8")
            try:
                nbytes = HEAP.free(address, machine.line(instruction, lane))
            except MemoryAccessError as error:
                raise MemoryAccessError(f"{machine.where(instruction, lane)}: {error}") from None
            if nbytes and machine.observer is not None:
                machine.observer.block_freed(machine, instruction, lane, address, nbytes)

    return free


def _printf(machine: Machine, instruction: Instruction, slots: list[_Slot], results: list[_Slot]) -> Callable[[], None]:
    def printf() -> None:
        machine.changed = True
        for lane in machine.active.lanes.tolist():
            text = c_string(slots[0].read(lane, "<u8"))
            values = _Arguments(machine, instruction, lane, slots[1].read(lane, "<u8"))
            machine.output.append(_CONVERSION.sub(functools.partial(_format, values), text))
            for result in results:
                result.write(lane, values.taken, "<i4")

    return printf


class _Arguments:
    """printf's arguments in memory, one behind the other, each aligned to its size."""

    def __init__(self, machine: Machine, instruction: Instruction, lane: int, address: int) -> None:
        self.machine = machine
        self.instruction = instruction
        self.tracker = None if machine.observer is None else machine.observer.tracker(machine)
        self.lane = lane
        self.address = address
        self.taken = 0

    def take(self, dtype: str) -> Any:
        size = np.dtype(dtype).itemsize
        self.address = -(-self.address // size) * size
        if self.address >= LOCAL_WINDOW:
            offset = self.address - LOCAL_WINDOW
            value = _word(self.machine, self.lane, offset, dtype)
            if self.tracker is not None:
                self.tracker.runtime_reads(self.instruction, int(self.lane), offset, size)
        else:
            value = MEMORY.view(self.address, size).view(dtype)[0]
        self.address += size
        self.taken += 1
        return value


def _format(values: _Arguments, match: re.Match[str]) -> str:
    flags, width, precision, length, kind = match.groups()
    if kind == "%":
        return "%"
    if width == "*":
        width = str(values.take("<i4"))
    if precision == "*":
        precision = str(values.take("<i4"))
    form = f"%{flags}{width or ''}" + (f".{precision}" if precision is not None else "")
    if kind == "s":
        return (form + "s") % c_string(int(values.take("<u8")))
    if kind == "p":
        return (form + "s") % hex(int(values.take("<u8")))
    if kind in "fFeEgG":
        return (form + kind) % float(values.take("<f8"))
    if kind in "aA":
        return (form + "s") % float(values.take("<f8")).hex()
    size = 8 if length in ("l", "ll", "j", "z", "t") else 4
    value = int(values.take(f"<{'i' if kind in 'dic' else 'u'}{size}"))
    if kind == "c":
        return (form + "s") % chr(value & 0xFF)
    return (form + ("d" if kind == "u" else kind)) % value


def _assertion(machine: Machine, instruction: Instruction, slots: list[_Slot]) -> Callable[[], None]:
    def fail() -> None:
        lane = int(machine.active.lanes[0])
        message, file, line, function = (
            slot.read(lane, dtype) for slot, dtype in zip(slots, ("<u8", "<u8", "<u4", "<u8"), strict=False)
        )
        raise TrapError(
            f"{machine.where(instruction, lane)}: {c_string(file)}:{line}: {c_string(function)}: assertion "
            f"`{c_string(message)}` failed"
        )

    return fail


def c_string(address: int) -> str:
    """Return the zero-terminated text at an address of global memory."""
    if address == 0:
        return "(null)"
    allocation = MEMORY.find(address)
    if allocation is None:
        return "(bad pointer)"
    data = MEMORY.view(address, allocation.address + allocation.nbytes - address).tobytes()
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
