"""cp.async: copies from global to shared memory that are complete when the thread has waited for their group.

The source is read when the copy is issued. Until the wait, the destination holds the poison pattern, so a kernel that
forgets to wait computes NaN instead of, by luck, the right result. Groups belong to each thread (PTX ISA, cp.async).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpubp.emulator.device import native
from gpubp.emulator.device.accesses import bind_access
from gpubp.emulator.device.lanewise import Action, Bound, always
from gpubp.emulator.device.memory import POISON
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.program.ptx import Immediate, Instruction, Register

_HINTS = frozenset(["L2::64B", "L2::128B", "L2::256B", "L2::cache_hint"])


class PendingCopy(NamedTuple):
    """Copies that lanes issued together."""

    lanes: Array
    groups: Array  # the group of each lane that the copy belongs to
    targets: Array  # host pointers
    data: Array  # (lanes, nbytes)
    instruction: Instruction


def bind_async(machine: Machine, instruction: Instruction) -> Bound:
    """Return the steps of cp.async.ca/cg, commit_group, wait_group and wait_all."""
    modifiers = instruction.modifiers
    if modifiers == ("async", "commit_group"):
        return always(_commit(machine))
    if modifiers == ("async", "wait_all"):
        return always(_wait(machine, None))
    if modifiers == ("async", "wait_group"):
        amount = instruction.operands[0]
        assert isinstance(amount, Immediate)
        return always(_wait(machine, amount.value))
    known = [modifier for modifier in modifiers if modifier not in _HINTS]
    if known not in (
        [*prefix, "global"]
        for cache in ("ca", "cg")
        for prefix in (["async", cache, s] for s in ("shared", "shared::cta"))
    ):
        raise machine.unsupported(instruction)
    return always(_issue(machine, instruction))


def _issue(machine: Machine, instruction: Instruction) -> Action:
    target, source, size, *rest = instruction.operands
    assert isinstance(size, Immediate)
    nbytes = size.value
    hinted = "L2::cache_hint" in instruction.modifiers
    rest = rest[:-1] if hinted else rest
    if nbytes not in (4, 8, 16) or ("cg" in instruction.modifiers and nbytes != 16) or len(rest) > 1:
        raise machine.unsupported(instruction)
    taken = _taken_bytes(machine, rest[0] if rest else None, nbytes)
    targets = bind_access(
        machine, instruction, target, "shared", nbytes, "async", out=np.zeros(machine.lanes, np.int64)
    )
    reading = _bind_source(machine, instruction, source, nbytes)

    def issue() -> None:
        active = machine.active
        to = targets()[: active.count].copy()
        sizes = taken()[active.lanes]
        data = np.zeros((active.count, nbytes), np.uint8)
        reading(sizes, data)
        native.fill_halfwords(to, nbytes, active.count, np.uint16(POISON))
        machine.pending_copies.append(PendingCopy(active.lanes, machine.commits[active.lanes], to, data, instruction))

    return issue


def _taken_bytes(machine: Machine, operand: object, nbytes: int) -> Callable[[], Array]:
    """Return the bytes that each lane takes from the source; the rest of the destination becomes zero."""
    if operand is None:
        whole = np.full(machine.lanes, nbytes, np.int64)
        return lambda: whole
    if isinstance(operand, Register) and machine.register_bytes(operand) == 0:  # ignore-src
        ignore = machine.row(operand)
        return lambda: np.where(ignore != operand.negated, 0, nbytes)
    value = machine.lanes_of(operand, np.dtype(np.uint32))  # type: ignore[arg-type]
    return lambda: value.astype(np.int64)


def _bind_source(
    machine: Machine, instruction: Instruction, source: object, nbytes: int
) -> Callable[[Array, Array], None]:
    """Read each active lane's source bytes; lanes that take none do not touch memory."""
    access = bind_access(machine, instruction, source, "global", nbytes, "load")  # type: ignore[arg-type]

    def read(sizes: Array, data: Array) -> None:
        outer = machine.active
        chosen = sizes > 0
        if chosen.all():
            pointers = access()[: outer.count]
        else:
            mask = outer.mask.copy()
            mask[outer.lanes[~chosen]] = False
            machine.active = outer.within(mask)
            pointers = np.zeros(outer.count, np.int64)
            if machine.active.count:
                pointers[chosen] = access()[: machine.active.count]
            machine.active = outer
        native.read_bytes(pointers, sizes, data)

    return read


def _commit(machine: Machine) -> Action:
    def commit() -> None:
        machine.commits[machine.active.lanes] += 1

    return commit


def _wait(machine: Machine, allowed: int | None) -> Action:
    """Return a step that completes all groups but the latest `allowed`; None: everything, committed or not."""

    def wait() -> None:
        active = machine.active
        pending: list[PendingCopy] = []
        for copy in machine.pending_copies:
            done = active.mask[copy.lanes]
            if allowed is not None:
                done = done & (copy.groups < machine.commits[copy.lanes] - allowed)
            if done.any():
                machine.changed = True
                native.write_bytes(copy.targets[done], copy.data[done])
                if machine.observer is not None:
                    machine.observer.copy_completed(
                        machine, copy.instruction, copy.lanes[done], copy.targets[done], copy.data.shape[1]
                    )
            if not done.all():
                left = ~done
                pending.append(
                    PendingCopy(
                        copy.lanes[left], copy.groups[left], copy.targets[left], copy.data[left], copy.instruction
                    )
                )
        machine.pending_copies[:] = pending

    return wait
