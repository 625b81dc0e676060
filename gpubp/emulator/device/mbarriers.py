"""mbarriers: barriers as objects in shared memory, which count arrivals and bytes, phase by phase (PTX ISA, mbarrier).

A phase is complete when no arrival and no byte of a transaction is missing; then the next one begins with the count of
arrivals that is expected. Exits do not count. The state stands in a table beside shared memory. The object itself holds
a word made of it, by which a store into the object is found.

A thread's first `test_wait` or `try_wait` for a phase that is not complete fails at once, so that a kernel shows which
does not look at the answer. At the next one the thread is parked until the phase is complete, which any schedule may
do. It gets its false when nobody else can run, or in a turn of all threads, since it may do something else then.

An arrival that waits for copies (`cp.async.mbarrier.arrive`) happens when somebody looks at its barrier, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpubp.emulator.device import native
from gpubp.emulator.device.accesses import Access, bind_access
from gpubp.emulator.device.async_copies import complete_copies
from gpubp.emulator.device.lanewise import Action, Bound, always
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.errors import BarrierError
from gpubp.emulator.loops import loop
from gpubp.emulator.program.cfg import waits_for_mbarrier
from gpubp.emulator.program.ptx import Address, Immediate, Instruction, Operand, Register, Sink

NBYTES = 8
REMOTE = ("arrive", "arrive_drop", "expect_tx", "complete_tx")
"""What a thread may do at an mbarrier of another block of its cluster. Arrivals give no state then."""
MOST = (1 << 20) - 1
"""The highest count of arrivals, and of bytes of transactions that are under way."""

# Columns of the table: whether there is an mbarrier, its phase from 0 on, the arrivals that this phase misses, those
# that each new phase expects, and the bytes that this phase misses.
THERE, PHASE, PENDING, EXPECTED, BYTES = range(5)
_COLUMNS = 5

_FINE, _ABSENT, _OVERWRITTEN, _OFTEN, _COMPLETES, _COUNT, _RANGE = range(7)
_WHAT = {
    _ABSENT: "no mbarrier.init has made an mbarrier there",
    _OVERWRITTEN: "something else has been stored in the mbarrier since",
    _OFTEN: "more arrivals than the phase misses",
    _COMPLETES: "an arrival with .noComplete must leave the phase incomplete",
    _COUNT: f"the count must be 1 to {MOST:,}",
    _RANGE: f"the bytes under way must stay within {-MOST:,} and {MOST:,}",
}


@loop
def _word(table, slot):
    """What an mbarrier's eight bytes hold."""
    state = table[slot, PHASE] << 40 | table[slot, PENDING] << 20 | (table[slot, BYTES] & 0xFFFFF)
    return np.uint64(state) ^ np.uint64(0xB677_1E53_0A5C_96D1)


@loop
def _check(table, base, pointers, count):
    """Return the first position whose pointer is to no mbarrier (else `count`), and what is wrong there."""
    for i in range(count):
        slot = (pointers[i] - base) >> 3
        if not table[slot, THERE]:
            return i, _ABSENT
        if native._load(pointers[i], np.uint64(0)) != _word(table, slot):
            return i, _OVERWRITTEN
    return count, _FINE


@loop
def _update(table, base, pointers, arrivals, more_bytes, drops, must_not_complete, tokens, count):
    """Let threads arrive one after the other, each with `arrivals` (0: not at all) and with more bytes to wait for.

    `tokens` gets the phase and the missing arrivals before each. Returns as `_check`.
    """
    for i in range(count):
        slot = (pointers[i] - base) >> 3
        tokens[i] = table[slot, PHASE] << 32 | table[slot, PENDING]
        missing = table[slot, PENDING] - arrivals[i]
        nbytes = table[slot, BYTES] + more_bytes[i]
        if missing < 0:
            return i, _OFTEN
        if must_not_complete and missing == 0:
            return i, _COMPLETES
        if not -MOST <= nbytes <= MOST:
            return i, _RANGE
        table[slot, PENDING], table[slot, BYTES] = missing, nbytes
        if drops:
            table[slot, EXPECTED] -= arrivals[i]
        if missing == 0 and nbytes == 0:
            table[slot, PHASE] += 1
            table[slot, PENDING] = table[slot, EXPECTED]
        native._store(pointers[i], _word(table, slot))
    return count, _FINE


class _AsyncArrival(NamedTuple):
    """An arrival that happens when a thread's copies of before a number are complete."""

    lane: int
    pointer: int
    before: int  # number of copies issued, see async_copies
    clock: Any  # the observer's


class _Wait(NamedTuple):
    """A bound test_wait or try_wait."""

    instruction: Instruction
    access: Access
    state: Array  # token or parity, over lanes
    parity: bool
    acquires: bool
    target: Array | None


class Mbarriers:
    """The mbarriers of a wave, and the threads that wait at them.

    Args:
        machine: whose shared memory has them.
        send: called with a block of the program and the lanes that go on there.
    """

    def __init__(self, machine: Machine, send: Callable[[int, Array], None]) -> None:
        self.machine = machine
        self.send = send
        self.base = machine.shared.ctypes.data
        self.table = np.zeros((machine.shared.size // NBYTES, _COLUMNS), np.int64)
        self.made: set[int] = set()  # slots that have been in use in this wave
        self.anyone = False  # is parked
        self.parked = np.zeros(machine.lanes, bool)
        self.slot = np.zeros(machine.lanes, np.int64)  # of the latest mbarrier that each lane has waited for in vain
        self.phase = np.zeros(machine.lanes, np.int64)  # and the phase
        self.resume = np.zeros(machine.lanes, np.int64)
        self.at = np.zeros(machine.lanes, np.int64)  # index into `waits`
        self.waits: list[_Wait] = []
        self._wait_of: dict[int, int] = {}
        self._async: dict[int, list[_AsyncArrival]] = {}  # by slot

    def begin(self) -> None:
        """Make ready for new blocks."""
        if self.made:
            self.table[list(self.made)] = 0
            self.made.clear()
        self.parked[:] = False
        self.slot[:] = -1
        self.anyone = False
        self._async.clear()

    def state(self) -> list[Array]:
        """Return copies of who waits where."""
        return [array.copy() for array in (self.parked, self.slot, self.phase, self.resume, self.at)]

    # -- binding ------------------------------------------------------------------------------------------------------

    def bind(self, instruction: Instruction) -> Bound:
        """Return the step of an mbarrier instruction at which no thread waits.

        Raises:
            UnsupportedInstruction: an unknown form, or one that needs clusters.
        """
        name, *rest = instruction.modifiers
        if name == "pending_count" and rest == ["b64"]:
            return always(self._pending_count(instruction))
        forms: dict[str, Callable[[Instruction, set[str]], Action]] = {
            "init": self._init, "inval": self._inval, "arrive": self._arrive, "arrive_drop": self._arrive,
            "expect_tx": self._transaction, "complete_tx": self._transaction,
        }  # fmt: skip
        if name not in forms or rest[-1:] != ["b64"]:
            raise self.machine.unsupported(instruction)
        return always(forms[name](instruction, set(rest[:-1])))

    def bind_async_arrive(self, instruction: Instruction) -> Bound:
        """Return the step of cp.async.mbarrier.arrive."""
        modifiers = set(instruction.modifiers[3:-1])
        if instruction.modifiers[:3] != ("async", "mbarrier", "arrive") or instruction.modifiers[-1] != "b64":
            raise self.machine.unsupported(instruction)
        access = self._access(instruction, instruction.operands[0], modifiers - {"noinc"}, "atomic")
        return always(self._arrive_with_copies(instruction, access, "noinc" in modifiers))

    def _access(self, instruction: Instruction, operand: Operand, modifiers: set[str], kind: str) -> Access:
        """Return a function of the active lanes' pointers to mbarriers, which raises BarrierError if one is to none."""
        machine = self.machine
        name = instruction.modifiers[0]
        known = {"shared", "shared::cta", "shared::cluster", "release", "acquire", "relaxed", "cta", "cluster"}
        if modifiers - known:
            raise machine.unsupported(instruction)
        space = "shared" if {"shared", "shared::cta"} & modifiers else "generic"
        if "shared::cluster" in modifiers:
            if name not in REMOTE or not isinstance(instruction.operands[0], Sink | Address):
                raise machine.unsupported(instruction)
            space = "cluster"
        return self._access_in(instruction, operand, space, kind)

    def _access_in(self, instruction: Instruction, operand: Operand, space: str, kind: str) -> Access:
        machine = self.machine
        access = bind_access(machine, instruction, operand, space, NBYTES, kind)
        end = self.base + machine.shared.size

        def checked() -> Array:
            pointers = access()[: machine.active.count]
            outside = (pointers < self.base) | (pointers >= end)
            if outside.any():
                raise self._error(instruction, int(np.flatnonzero(outside)[0]), "an mbarrier lies in shared memory")
            if kind != "store":
                self._refuse(instruction, pointers, *_check(self.table, self.base, pointers, pointers.size))
            return pointers

        return checked

    def _error(self, instruction: Instruction, position: int, what: str) -> BarrierError:
        machine = self.machine
        lane = int(machine.active.lanes[position])
        return BarrierError(f"{machine.where(instruction, lane)}: `{instruction.text}`: {what}")

    def _refuse(self, instruction: Instruction, pointers: Array, position: int, problem: int) -> None:
        if problem == _FINE:
            return
        what = _WHAT[problem]
        if problem not in (_ABSENT, _OVERWRITTEN):
            slot = int(pointers[position] - self.base) >> 3
            what = f"{what}; {self.describe(slot)}"
        raise self._error(instruction, position, what)

    def describe(self, slot: int) -> str:
        """Return a text that names an mbarrier and says what its phase misses."""
        phase, pending, expected, nbytes = (int(value) for value in self.table[slot, PHASE:])
        per_block = self.machine.shared.shape[1]
        where = self.machine.shared_layout.describe(slot * NBYTES % per_block)
        text = f"phase {phase} of the mbarrier {where} misses {pending} of {expected} arrivals"
        if nbytes < 0:
            return f"{text} and {nbytes:,} bytes: more have come than were expected"
        if nbytes and pending == 0:
            return f"{text} and {nbytes:,} bytes: fewer have come than were expected"
        return f"{text} and {nbytes:,} bytes" if nbytes else text

    def _lanes(self, operand: Operand | None, otherwise: int) -> Array:
        dtype = np.dtype(np.uint32)
        return self.machine.lanes_of(Immediate(otherwise) if operand is None else operand, dtype)

    # -- init and inval -----------------------------------------------------------------------------------------------

    def _init(self, instruction: Instruction, modifiers: set[str]) -> Action:
        operand, count = instruction.operands
        access = self._access(instruction, operand, modifiers, "store")
        counts = self._lanes(count, 1)

        def init() -> None:
            pointers = access()
            slots = (pointers - self.base) >> 3
            expected = counts[self.machine.active.lanes].astype(np.int64)
            for position, slot in enumerate(slots.tolist()):
                if self.table[slot, THERE]:
                    raise self._error(
                        instruction, position, f"it is an mbarrier already, and no inval came before: "
                        f"{self.describe(slot)}",
                    )  # fmt: skip
                if not 1 <= expected[position] <= MOST:
                    raise self._error(instruction, position, f"{_WHAT[_COUNT]}; it is {expected[position]:,}")
                self.table[slot] = (1, 0, expected[position], expected[position], 0)
                self._store_word(slot)
                self.made.add(slot)
            self.machine.changed = True
            if self.machine.observer is not None:
                self.machine.observer.mbarriers_made(self.machine, instruction, self.machine.active.lanes, slots)

        return init

    def _inval(self, instruction: Instruction, modifiers: set[str]) -> Action:
        access = self._access(instruction, instruction.operands[0], modifiers, "store")

        def inval() -> None:
            pointers = access()
            self._refuse(instruction, pointers, *_check(self.table, self.base, pointers, pointers.size))
            slots = (pointers - self.base) >> 3
            for position, slot in enumerate(slots.tolist()):
                if self.table[slot, THERE] == 0:  # by the thread before
                    raise self._error(instruction, position, _WHAT[_ABSENT])
                if (self.parked & (self.slot == slot)).any():
                    raise self._error(instruction, position, f"threads wait at it: {self.describe(slot)}")
                if self._async.get(slot):
                    raise self._error(instruction, position, f"it waits for copies: {self.describe(slot)}")
                self.table[slot] = 0
            self.machine.changed = True

        return inval

    def _store_word(self, slot: int) -> None:
        self.machine.shared.reshape(-1)[slot * NBYTES : (slot + 1) * NBYTES].view(np.uint64)[0] = _word(
            self.table, slot
        )

    # -- arriving -----------------------------------------------------------------------------------------------------

    def _arrive(self, instruction: Instruction, modifiers: set[str]) -> Action:
        machine = self.machine
        to, operand, *rest = instruction.operands
        incomplete, transaction = "noComplete" in modifiers, "expect_tx" in modifiers
        access = self._access(instruction, operand, modifiers - {"noComplete", "expect_tx"}, "atomic")
        if len(rest) > 1 or (transaction and not rest) or (transaction and incomplete):
            raise machine.unsupported(instruction)
        amounts = self._lanes(rest[0] if rest else None, 1)
        ones, none = np.ones(machine.lanes, np.int64), np.zeros(machine.lanes, np.int64)
        tokens = np.zeros(machine.lanes, np.int64)
        target = None if isinstance(to, Sink) else machine.row(to)  # type: ignore[arg-type]
        drops, releases = instruction.modifiers[0] == "arrive_drop", "relaxed" not in modifiers

        def arrive() -> None:
            pointers = access()
            active = machine.active
            chosen = amounts[active.lanes].astype(np.int64)
            if not transaction and not ((chosen >= 1) & (chosen <= MOST)).all():
                position = int(np.flatnonzero((chosen < 1) | (chosen > MOST))[0])
                raise self._error(instruction, position, f"{_WHAT[_COUNT]}; it is {chosen[position]:,}")
            counts, nbytes = (ones, chosen) if transaction else (chosen, none)
            self._let_arrive(instruction, pointers, counts, nbytes, tokens, drops, incomplete)
            if machine.observer is not None:
                slots, phases = pointers - self.base >> 3, tokens[: active.count] >> 32
                machine.observer.mbarrier_arrives(machine, instruction, active.lanes, slots, phases)
                clocks = machine.observer.mbarrier_clocks(machine, active.lanes, releases)
                machine.observer.mbarrier_arrived(machine, pointers - self.base >> 3, tokens >> 32, clocks)
            if target is not None:
                target[active.lanes] = tokens[: active.count].view(np.uint64)
            self.wake()

        return arrive

    def _transaction(self, instruction: Instruction, modifiers: set[str]) -> Action:
        """Return the step of expect_tx and complete_tx."""
        machine = self.machine
        operand, amount = instruction.operands
        access = self._access(instruction, operand, modifiers, "atomic")
        amounts = self._lanes(amount, 0)
        none, tokens = np.zeros(machine.lanes, np.int64), np.zeros(machine.lanes, np.int64)
        sign = 1 if instruction.modifiers[0] == "expect_tx" else -1

        def update() -> None:
            pointers = access()
            nbytes = sign * amounts[machine.active.lanes].astype(np.int64)
            self._let_arrive(instruction, pointers, none, nbytes, tokens, False, False)
            self.wake()

        return update

    def _let_arrive(
        self, instruction: Instruction, pointers: Array, counts: Array, nbytes: Array, tokens: Array, drops: bool,
        incomplete: bool,
    ) -> None:  # fmt: skip
        self.machine.changed = True
        result = _update(
            self.table, self.base, pointers, counts, nbytes, drops, incomplete, tokens, pointers.size
        )  # fmt: skip
        self._refuse(instruction, pointers, *result)

    def bind_slots(self, instruction: Instruction, operand: Operand, space: str) -> Access:
        """Return a function of the numbers of the mbarriers that the active lanes name, in a space: "shared" or
        "cluster"."""
        access = self._access_in(instruction, operand, space, "atomic")
        return lambda: (access() - self.base) >> 3

    def check_slots(self, instruction: Instruction, lane: int, slots: Sequence[int]) -> None:
        """Raise BarrierError if one of these is no mbarrier."""
        pointers = np.array([self.base + slot * NBYTES for slot in slots])
        problem = _check(self.table, self.base, pointers, pointers.size)[1]
        if problem != _FINE:
            raise BarrierError(f"{self.machine.where(instruction, lane)}: `{instruction.text}`: {_WHAT[problem]}")

    def phase_of(self, slot: int) -> int:
        """Return the number of the phase that an mbarrier is in."""
        return int(self.table[slot, PHASE])

    def complete_transaction(self, instruction: Instruction, lane: int, slot: int, nbytes: int) -> int:
        """Note that bytes have arrived which a copy of a lane brings, and return the phase that missed them.

        Raises:
            BarrierError: there is no mbarrier any more.
        """
        machine = self.machine
        pointers = np.array([self.base + slot * NBYTES])
        one, tokens = np.zeros(1, np.int64), np.zeros(1, np.int64)
        outer, mask = machine.active, np.zeros(machine.lanes, bool)
        mask[lane] = True
        machine.active = Active(mask)
        self._refuse(instruction, pointers, *_check(self.table, self.base, pointers, 1))
        self._let_arrive(instruction, pointers, one, one - nbytes, tokens, False, False)
        machine.active = outer
        return int(tokens[0]) >> 32

    def _pending_count(self, instruction: Instruction) -> Action:
        machine = self.machine
        to, token = instruction.operands
        assert isinstance(to, Register)
        target, tokens = machine.row(to), machine.lanes_of(token, np.dtype(np.int64))

        def count() -> None:
            np.copyto(target, tokens & 0xFFFFFFFF, where=machine.active.mask, casting="unsafe")

        return count

    # -- arriving when copies are complete ----------------------------------------------------------------------------

    def _arrive_with_copies(self, instruction: Instruction, access: Access, counted: bool) -> Action:
        """Return the step of cp.async.mbarrier.arrive. `counted`: the expected count includes the arrival already."""
        machine = self.machine

        def arrive() -> None:
            pointers = access()
            active = machine.active
            observer = machine.observer
            clocks = None if observer is None else observer.mbarrier_clocks(machine, active.lanes, True)
            for position, pointer in enumerate(pointers.tolist()):
                slot = (pointer - self.base) >> 3
                if not counted:
                    if self.table[slot, PENDING] >= MOST:
                        raise self._error(instruction, position, f"{_WHAT[_COUNT]}; {self.describe(slot)}")
                    self.table[slot, PENDING] += 1
                    self._store_word(slot)
                one = None if clocks is None else clocks[position]
                lane = int(active.lanes[position])
                self._async.setdefault(slot, []).append(_AsyncArrival(lane, pointer, machine.copies_issued, one))
            machine.changed = True
            self._async_instruction = instruction

        return arrive

    def _finish_copies(self, slots: Array) -> None:
        """Let the arrivals of copies at some mbarriers happen."""
        for slot in np.unique(slots).tolist():
            arrivals = self._async.pop(slot, None)
            if arrivals is not None:
                self._finish(slot, arrivals)

    def _finish(self, slot: int, arrivals: list[_AsyncArrival]) -> None:
        machine = self.machine
        limits = np.zeros(machine.lanes, np.int64)
        for one in arrivals:
            limits[one.lane] = max(limits[one.lane], one.before)
        complete_copies(machine, lambda copy: copy.number < limits[copy.lanes], writes=False)
        count = len(arrivals)
        pointers, ones = np.full(count, arrivals[0].pointer), np.ones(count, np.int64)
        tokens = np.zeros(count, np.int64)
        outer = machine.active
        mask = np.zeros(machine.lanes, bool)
        mask[[one.lane for one in arrivals]] = True
        machine.active = Active(mask)
        self._let_arrive(self._async_instruction, pointers, ones, np.zeros(count, np.int64), tokens, False, False)
        machine.active = outer
        if machine.observer is not None:
            clocks = [one.clock for one in arrivals]
            machine.observer.mbarrier_arrived(machine, np.full(count, slot), tokens >> 32, clocks)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, instruction: Instruction, active: Active, resume: int) -> bool:
        """Let the active lanes wait for a phase, and return True if all may go on at once."""
        index = self._wait_of.get(id(instruction))
        if index is None:
            index = self._wait_of[id(instruction)] = len(self.waits)
            self.waits.append(self._bind_wait(instruction))
        wait = self.waits[index]
        pointers, lanes = wait.access(), active.lanes
        slots = (pointers - self.base) >> 3
        if self._async:
            self._finish_copies(slots)
            self.wake()
        now = self.table[slots, PHASE]
        if wait.parity:
            phases = now - ((now & 1) != (wait.state[lanes] & 1))
        else:
            phases = (wait.state[lanes].view(np.int64)) >> 32
            strange = (phases != now) & (phases != now - 1)
            if strange.any():
                position = int(np.flatnonzero(strange)[0])
                what = "the state is none of the current phase, nor of the one before"
                raise self._error(instruction, position, f"{what}; {self.describe(int(slots[position]))}")
        done = now > phases
        self._acquire(wait, lanes[done], slots[done])
        again = ~done & (self.slot[lanes] == slots) & (self.phase[lanes] == phases)
        failed, waiting = lanes[~done & ~again], lanes[again]
        if wait.target is not None:
            wait.target[failed] = False
        self.slot[lanes], self.phase[lanes] = slots, phases
        if not waiting.size:
            return True
        self.parked[waiting], self.resume[waiting], self.at[waiting] = True, resume, index
        self.anyone = True
        if waiting.size < lanes.size:
            mask = active.mask.copy()
            mask[waiting] = False
            self.send(resume, mask)
        return False

    def _bind_wait(self, instruction: Instruction) -> _Wait:
        machine = self.machine
        name, *rest = instruction.modifiers
        to, operand, state, *hint = instruction.operands
        parity = "parity" in rest
        if rest[-1:] != ["b64"] or len(hint) > (name == "try_wait") or not isinstance(to, Register | Sink):
            raise machine.unsupported(instruction)
        access = self._access(instruction, operand, set(rest[:-1]) - {"parity"}, "load")
        return _Wait(
            instruction,
            access,
            machine.lanes_of(state, np.dtype(np.uint32 if parity else np.uint64)),
            parity,
            "relaxed" not in rest,
            None if isinstance(to, Sink) else machine.row(to),
        )

    def _acquire(self, wait: _Wait, lanes: Array, slots: Array) -> None:
        """Lanes, if any, have found their phase complete."""
        if not lanes.size:
            return
        if wait.target is not None:
            wait.target[lanes] = True
        if self.machine.observer is not None and wait.acquires:
            self.machine.observer.mbarrier_waited(self.machine, lanes, slots, self.table[slots, PHASE])

    def wake(self) -> None:
        """Let parked lanes go on whose phase is complete."""
        if not self.anyone:
            return
        lanes = np.flatnonzero(self.parked)
        lanes = lanes[self.table[self.slot[lanes], PHASE] > self.phase[lanes]]
        if lanes.size:
            for index in np.unique(self.at[lanes]).tolist():
                chosen = lanes[self.at[lanes] == index]
                self._acquire(self.waits[index], chosen, self.slot[chosen])
            self._release(lanes)

    def finish_copies(self) -> None:
        """Let the copies arrive for which parked lanes wait."""
        if self._async:
            self._finish_copies(self.slot[self.parked])
            self.wake()

    def give_up(self) -> None:
        """Let all parked lanes go on with the answer that their phase is not complete."""
        lanes = np.flatnonzero(self.parked)
        for index in np.unique(self.at[lanes]).tolist():
            target = self.waits[index].target
            if target is not None:
                target[lanes[self.at[lanes] == index]] = False
        self._release(lanes)

    def _release(self, lanes: Array) -> None:
        self.parked[lanes] = False
        self.anyone = bool(self.parked.any())
        for position in np.unique(self.resume[lanes]).tolist():
            mask = np.zeros(self.machine.lanes, bool)
            mask[lanes[self.resume[lanes] == position]] = True
            self.send(position, mask)

    def waits_for(self) -> str:
        """Return a text that says where the first parked thread is and what it waits for, and so of the others of its
        cluster."""
        machine = self.machine
        lane = int(np.flatnonzero(self.parked)[0])
        near = machine.block_of_lane // machine.cluster_size == machine.block_of_lane[lane] // machine.cluster_size
        parts: list[str] = []
        for slot in dict.fromkeys(self.slot[self.parked & near].tolist()):
            lanes = np.flatnonzero(self.parked & near & (self.slot == slot))
            first = int(lanes[0])
            if not parts:
                where, verb = machine.where(self.waits[self.at[first]].instruction, first), "wait for ever"
            else:
                line = machine.line(self.waits[self.at[first]].instruction, first)
                where = f"block {machine.block_index(first)}, thread {machine.thread_index(first)} at {line}"
                verb = "wait besides"
            text = f"{where}: {lanes.size} threads of the block {verb}: {self.describe(slot)}"
            if (phase := int(self.phase[first])) != self.table[slot, PHASE]:
                text += f" (they wait for phase {phase})"
            parts.append(text)
        return "; ".join(parts)


def bind_mbarrier(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of an mbarrier instruction; those at which threads wait end their block (see scheduler.py)."""
    assert not waits_for_mbarrier(instruction)
    return machine.mbarriers.bind(instruction)
