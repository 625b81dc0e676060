"""Instructions that move no data: hints to caches, whose addresses are checked, and sleep.

A prefetch may be of any address: one that is not there is skipped, on a GPU too. `discard` is more than a hint: what
it names holds no value any more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpubp.emulator.device import native
from gpubp.emulator.device.accesses import bind_access
from gpubp.emulator.device.bulk_copies import bind_map
from gpubp.emulator.device.clock import CLOCK
from gpubp.emulator.device.lanewise import Bound, always
from gpubp.emulator.device.memory import POISON
from gpubp.emulator.device.state import Machine
from gpubp.emulator.errors import MemoryAccessError
from gpubp.emulator.program.ptx import Address, Immediate, Instruction, Register

LINE = 128
"""Bytes of a cache line, which discard and applypriority name."""
_PART = 32  # the widest access
LONGEST_SLEEP = 1_000_000
"""Nanoseconds (PTX ISA, nanosleep)."""
_PREFETCHES = frozenset(
    [(*space, level) for space in ((), ("global",), ("local",)) for level in ("L1", "L2")]
    + [("global", f"L2::evict_{which}") for which in ("last", "normal")]
)


def _bind_prefetch(machine: Machine, instruction: Instruction) -> Bound:
    if "tensormap" in instruction.modifiers:
        return _bind_map(machine, instruction)
    known = instruction.modifiers in _PREFETCHES or (instruction.opcode, instruction.modifiers) == (
        "prefetchu",
        ("L1",),
    )
    if not known or not isinstance(instruction.operands[0], Address):
        raise machine.unsupported(instruction)
    return always(lambda: None)


def _bind_map(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of prefetch.tensormap: a hint, but of something that must be a tensor map."""
    if instruction.modifiers not in (("tensormap",), ("param", "tensormap"), ("const", "tensormap")):
        raise machine.unsupported(instruction)
    maps = bind_map(machine, instruction, instruction.operands[0])

    def prefetch() -> None:
        for lane in machine.active.lanes.tolist():
            maps(lane)

    return always(prefetch)


def _bind_line(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of discard and applypriority."""
    discards = instruction.opcode == "discard"
    space, *level = (
        ["generic", *instruction.modifiers] if "global" not in instruction.modifiers else instruction.modifiers
    )
    operand, size = instruction.operands
    if level != (["L2"] if discards else ["L2::evict_normal"]) or size != Immediate(LINE):
        raise machine.unsupported(instruction)
    addresses, offset = machine.addresses(operand)
    assert isinstance(operand, Address)
    kind = "store" if discards else "hint"
    parts = [
        bind_access(machine, instruction, operand._replace(offset=offset + start), space, _PART, kind)
        for start in range(0, LINE, _PART)
    ]

    def line() -> None:
        active = machine.active
        crooked = (addresses[active.lanes].astype(np.int64) + offset) % LINE != 0
        if crooked.any():
            lane = int(active.lanes[np.flatnonzero(crooked)[0]])
            raise MemoryAccessError(
                f"{machine.where(instruction, lane)}: misaligned access: {instruction.opcode} at "
                f"{int(addresses[lane]) + offset:#x}; the address must be a multiple of {LINE}"
            )
        for part in parts:
            pointers = part()
            if discards:
                machine.changed = True
                native.fill_halfwords(pointers, _PART, active.count, np.uint16(POISON))

    return always(line)


def _bind_sleep(machine: Machine, instruction: Instruction) -> Bound:
    (duration,) = instruction.operands
    if instruction.modifiers != ("u32",) or not isinstance(duration, Register | Immediate):
        raise machine.unsupported(instruction)
    nanoseconds = machine.lanes_of(duration, np.dtype(np.uint32))

    def sleep() -> None:
        CLOCK.now += min(int(nanoseconds[machine.active.mask].max()), LONGEST_SLEEP)

    return always(sleep)


FACTORIES: dict[str, Callable[[Machine, Instruction], Bound]] = {
    "prefetch": _bind_prefetch,
    "prefetchu": _bind_prefetch,
    "discard": _bind_line,
    "applypriority": _bind_line,
    "nanosleep": _bind_sleep,
}
