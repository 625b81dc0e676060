"""The functions that the device runtime supplies: printf and assert."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gpubp.emulator.device.lanewise import Bound, always
from gpubp.emulator.device.memory import LOCAL_WINDOW, MEMORY
from gpubp.emulator.device.state import Machine
from gpubp.emulator.errors import TrapError
from gpubp.emulator.program.ptx import Instruction, Symbol, Vector

_CONVERSION = re.compile(r"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?(hh|h|ll|l|j|z|t|L)?([diouxXcsfFeEgGaAp%])")


def bind_call(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of vprintf(format, arguments) or __assertfail(message, file, line, function, size)."""
    name = next(operand.name for operand in instruction.operands if isinstance(operand, Symbol))
    lists = [operand.items for operand in instruction.operands if isinstance(operand, Vector)]
    if name == "vprintf":
        return always(_printf(machine, instruction, [_slot(machine, item) for item in lists[-1]], lists))
    return always(_assertion(machine, instruction, [_slot(machine, item) for item in lists[-1]]))


def _slot(machine: Machine, item: object) -> int:
    """Return the offset of a call's parameter in the thread's local memory."""
    assert isinstance(item, Symbol)
    return machine.local_layout.addresses[item.name]


def _word(machine: Machine, lane: int, offset: int, dtype: str) -> Any:
    size = np.dtype(dtype).itemsize
    return machine.local[lane, offset : offset + size].view(dtype)[0]


def _printf(machine: Machine, instruction: Instruction, slots: list[int], lists: list[Any]) -> Callable[[], None]:
    tracker = None if machine.observer is None else machine.observer.tracker(machine)
    results = [_slot(machine, item) for item in lists[0]] if len(lists) > 1 else []

    def printf() -> None:
        machine.changed = True
        for lane in machine.active.lanes:
            text = c_string(int(_word(machine, lane, slots[0], "<u8")))
            arguments = int(_word(machine, lane, slots[1], "<u8"))
            values = _Arguments(machine, instruction, lane, arguments)
            machine.output.append(_CONVERSION.sub(functools.partial(_format, values), text))
            for slot in results:
                machine.local[lane, slot : slot + 4].view("<i4")[0] = values.taken
                if tracker is not None:
                    tracker.runtime_writes(int(lane), slot, 4)

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


def _assertion(machine: Machine, instruction: Instruction, slots: list[int]) -> Callable[[], None]:
    def fail() -> None:
        lane = int(machine.active.lanes[0])
        message, file, line, function = (
            int(_word(machine, lane, slot, dtype))
            for slot, dtype in zip(slots, ("<u8", "<u8", "<u4", "<u8"), strict=False)
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
