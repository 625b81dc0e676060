"""Undefined bits in the registers and memories of one machine: how they move, and where they are used.

A register that holds undefined bits is "dirty" and has a mask of them, lane by lane. As long as none is, an instruction
costs one look at an empty set, and a load the check of its bytes; the masks are made when they are first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.bulk_copies import CHUNK, Copy
from gpubp.emulator.device.lanewise import Action, Bound
from gpubp.emulator.device.memory import ARENA_BASE, MEMORY, RESERVED
from gpubp.emulator.device.state import Active, Array, Machine
from gpubp.emulator.device.warpgroup_products import M, Product
from gpubp.emulator.isa import matrix
from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.definedness import PENDING, UNWRITTEN, Definedness, Origin
from gpubp.emulator.observe.frames import Frames
from gpubp.emulator.observe.moves import step_of
from gpubp.emulator.observe.undefined import CARRY, Registers, Undefined, by_warp
from gpubp.emulator.program.cfg import Block
from gpubp.emulator.program.ptx import (
    TYPE_BYTES,
    Address,
    Instruction,
    Register,
    Vector,
)
from gpubp.emulator.program.registers import Slot, reads_and_writes

_LOADS = ("ld", "ldu", "ldmatrix")
_LARGEST_GAP = 16
"""Bytes between two fields of a struct are fewer: no alignment of a type is larger."""
_MEMORY = frozenset(("ld", "ldu", "st", "atom", "red", "cp", "ldmatrix", "stmatrix"))


class _Group:
    """The stores of one statement in a block: together they copy a struct.

    `pieces` are those that stored no defined bit in some lanes, in this run of the block: instruction, bytes, pointers,
    lanes and origins.
    """

    def __init__(self) -> None:
        self.size = 0
        self.pieces: list[tuple[Instruction, int, Array, Array, Array]] = []


class Tracker:
    """The undefined bits of a machine.

    Args:
        owner: what the machines of an observer share.
        machine: the machine.
    """

    def __init__(self, owner: Definedness, machine: Machine) -> None:
        self.owner = owner
        self.machine = machine
        self.registers = Registers(owner, machine)
        self._groups: dict[int, _Group] = {}
        self.frames = Frames(self)
        self._turns: dict[int, list[Any]] = {}  # of matrices that are on their way
        self._begin_memories()

    def begin_wave(self) -> None:
        """New blocks: shared memory, local memory and registers are undefined."""
        self._begin_memories()
        for turns in self._turns.values():
            turns.clear()
        if self.owner.follows:
            self.registers.begin_wave()
            self.frames.begin_wave()

    def _begin_memories(self) -> None:
        # Without following values, all but the targets of asynchronous copies counts as defined.
        fresh = shadow.UNWRITTEN if self.owner.follows else shadow.DEFINED
        self._memories: dict[str, tuple[Array, Array, int]] = {}
        for space, memory in (("shared", self.machine.shared), ("local", self.machine.local)):
            states = np.full(memory.size, fresh, np.uint8) if fresh else np.zeros(memory.size, np.uint8)
            if space == "shared" and RESERVED in self.machine.shared_layout.addresses:
                states.reshape(memory.shape)[:, self.machine.shared_layout.addresses[RESERVED] :] = shadow.DEFINED
            self._memories[space] = states, np.zeros(memory.size // 4, np.int32), memory.ctypes.data

    def memory(self, space: str) -> tuple[Array, Array, int]:
        """Return the states of the bytes of a space, the origins of its words, and its host address."""
        if space in self._memories:
            return self._memories[space]
        return self.owner.states, self.owner.sources, MEMORY.host_base

    def replace_memory(self, space: str, states: Array, sources: Array) -> None:
        """Take other arrays for a space that lies elsewhere now."""
        self._memories[space] = states, sources, getattr(self.machine, space).ctypes.data

    # -- binding ------------------------------------------------------------------------------------------------------

    def watched(self, instruction: Instruction, bound: Bound) -> Bound:
        """Return an instruction that first moves the undefined bits of its operands, if there are any."""
        dirty = self.registers.dirty
        function, arguments, masked = bound
        touched: frozenset[Slot] | None = None
        step: Action | None = None

        def move() -> None:
            # Found out here and not before: in most programs no register is ever undefined.
            nonlocal touched, step
            if touched is None:
                touched = self._touched(instruction)
            if not dirty.isdisjoint(touched):
                if step is None:
                    step = self._step(instruction)
                step()

        def full() -> None:
            if dirty:
                move()
            function(*arguments)

        def partly() -> None:
            if dirty:
                move()
            masked()

        return Bound(full, (), partly)

    def guarded(self, instruction: Instruction, step: Action) -> Action:
        """Return a guarded step that first looks whether its guard is defined."""
        assert instruction.guard is not None
        slots = (self.machine.slots[instruction.guard.name],)

        def checked() -> None:
            if slots[0] in self.registers.dirty:
                self.registers.check(instruction, slots, "branches on")
            step()

        return checked

    def unless_undefined(self, run: Action, bound: Sequence[Bound]) -> Action:
        """Return a step that executes instructions by `run`, but one by one while any register has undefined bits."""
        dirty = self.registers.dirty

        def step() -> None:
            if not dirty:
                run()
                return
            for one in bound:
                one.masked()

        return step

    def end_of(self, block: Block) -> Action | None:
        """Return what is to be done before a block ends: look at the operands of its last instruction, and at the
        structs that it has copied."""
        groups = self._groups_of(block)
        end = block.end
        touched = self._touched(end) if end is not None else frozenset()
        if end is not None and end.guard is not None:
            touched |= {self.machine.slots[end.guard.name]}
        if not touched and not groups:
            return None

        def leave() -> None:
            for group in groups:
                if group.pieces:
                    self._judge(group)
            if end is not None and not self.registers.dirty.isdisjoint(touched):
                reads, writes = reads_and_writes(end)
                barrier = end.opcode in ("bar", "barrier")
                verb = "waits at a barrier by" if barrier else "calls" if end.opcode == "call" else "branches on"
                self.registers.check(end, (self.machine.slots[name] for name in reads), verb)
                self.registers.clear(self.machine.slots[name] for name in writes)

        return leave

    def _touched(self, instruction: Instruction) -> frozenset[Slot]:
        """Return the slots of the registers that an instruction reads and writes, its guard apart."""
        found = set(self.registers.slots(instruction.operands))
        if instruction.opcode in ("addc", "subc", "madc") or "cc" in instruction.modifiers:
            found.add(CARRY)
        return frozenset(found)

    def _groups_of(self, block: Block) -> list[_Group]:
        """Group the stores of one line that lie side by side, as those of a struct do; return the groups of several."""
        stores: dict[tuple[Any, ...], list[tuple[int, int, Instruction]]] = {}
        for instruction in block.instructions:
            address = instruction.operands[0] if instruction.operands else None
            if instruction.opcode != "st" or instruction.guard is not None or not isinstance(address, Address):
                continue
            value = instruction.operands[1]
            items = len(value.items) if isinstance(value, Vector) else 1
            nbytes = items * TYPE_BYTES[instruction.modifiers[-1]]
            place = (address.offset, address.offset + nbytes, instruction)
            stores.setdefault((instruction.location, address.base), []).append(place)
        groups: list[_Group] = []
        for (location, _), places in stores.items():
            reached = None
            for start, end, instruction in sorted(places, key=lambda place: place[0]):
                if location is None or reached is None or start - reached >= _LARGEST_GAP:
                    groups.append(_Group())
                reached = end
                groups[-1].size += 1
                self._groups[id(instruction)] = groups[-1]
        return [group for group in groups if group.size > 1]

    def _step(self, instruction: Instruction) -> Action:
        if instruction.opcode in _MEMORY or (instruction.opcode == "wmma" and instruction.modifiers[0] != "mma"):
            return self._access(instruction)
        return step_of(self.registers, instruction)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _access(self, instruction: Instruction) -> Action:
        """Return the step of a memory instruction before it runs: its address, its bytes come after."""
        addresses = self.registers.slots(operand for operand in instruction.operands if isinstance(operand, Address))
        loads = instruction.opcode in _LOADS or instruction.modifiers[0] == "load"
        writes = self.registers.slots(instruction.operands[:1]) if loads else []
        controls: list[Slot] = []
        if instruction.opcode == "wmma":
            controls = self.registers.slots(instruction.operands[2:])
        elif instruction.opcode == "cp":
            controls = [slot for slot in self.registers.slots(instruction.operands) if slot not in addresses]

        def step() -> None:
            self.registers.check(instruction, addresses, "addresses memory by")
            self.registers.check(instruction, controls, "copies by")
            self.registers.clear(writes)

        return step

    def watch(self, instruction: Instruction, space: str, nbytes: int, kind: str) -> Callable[[Array], None] | None:
        """Return what is done with the host pointers of an access, or None."""
        if space == "const" or not (self.owner.follows or space == "shared"):
            return None
        if instruction.opcode == "wmma":
            return self._tile(instruction, space, nbytes, kind)
        if kind == "load":
            return None if instruction.opcode == "cp" else self._loads(instruction, space, nbytes)
        if kind == "atomic":
            return self._updates(instruction, space, nbytes)
        return self._stores(instruction, space, nbytes, shadow.UNWRITTEN if kind == "async" else shadow.DEFINED)

    def read(self, space: str, pointers: Array, nbytes: int, count: int) -> Undefined | None:
        """Return the undefined bits of the bytes at the first pointers, or None if there are none."""
        states, sources, base = self.memory(space)
        if shadow.first_undefined(states, base, pointers, nbytes, count) < 0:
            return None
        found = Undefined(np.empty((count, nbytes), np.uint8), np.empty(count, np.int32))
        shadow.read_undefined(states, sources, base, pointers, nbytes, count, *found)
        return found

    def _read(self, instruction: Instruction, space: str, pointers: Array, nbytes: int) -> Undefined | None:
        """Return what of the active lanes' bytes is undefined, but for what is reported here: missing waits."""
        active = self.machine.active
        found = self.read(space, pointers, nbytes, active.count)
        if found is None:
            return None
        undefined = found.masks.any(axis=1)
        if space == "shared" and self.machine.pending_copies:
            pending = undefined & self._is_pending(pointers[: active.count], nbytes)
            if pending.any():
                self._report_pending(instruction, int(active.lanes[int(np.flatnonzero(pending)[0])]))
                found.masks[pending] = 0
                undefined &= ~pending
        if not self.owner.follows or not undefined.any():
            return None
        self.name_origins(instruction, space, pointers, active.lanes, found)
        return found

    def name_origins(
        self, instruction: Instruction, space: str, pointers: Array, lanes: Array, found: Undefined
    ) -> None:
        """Give undefined bytes that nothing has written yet an origin: this instruction reads them."""
        fresh = found.masks.any(axis=1) & (found.origins == 0)
        if fresh.any():
            first = int(np.flatnonzero(fresh)[0])
            place = self._place(space, int(pointers[first]), int(lanes[first]))
            found.origins[fresh] = self.owner.number(Origin(space, instruction, place))

    def _place(self, space: str, pointer: int, lane: int) -> str:
        """Return a text that says where a pointer is."""
        machine = self.machine
        if space == "shared":
            return machine.shared_layout.describe(pointer - int(machine.shared_bases[lane]))
        if space == "local":
            address = pointer - int(machine.local_bases[lane])
            if machine.calls is not None:
                return str(machine.calls.describe(lane, address))
            return machine.local_layout.describe(address)
        return MEMORY.describe(pointer - MEMORY.host_base + ARENA_BASE)

    def _is_pending(self, pointers: Array, nbytes: int) -> Array:
        """Return which accesses meet the target of an asynchronous copy that nobody has waited for."""
        words: list[Array] = []
        for copy in self.machine.pending_copies:
            words += [copy.targets // 4 + word for word in range(copy.data.shape[1] // 4)]
        spans = pointers[:, np.newaxis] // 4 + np.arange(max(1, nbytes // 4))
        met: Array = np.any(np.isin(spans, np.concatenate(words)), axis=1)
        return met

    def _report_pending(self, instruction: Instruction, lane: int) -> None:
        machine = self.machine

        def message() -> str:
            where = machine.where(instruction, lane)
            return f"{where} reads shared memory that a cp.async writes and that no thread has waited for"

        place = instruction.location or instruction.text
        self.owner.report(machine, PENDING, machine.program.name, place, message)

    def _loads(self, instruction: Instruction, space: str, nbytes: int) -> Callable[[Array], None]:
        def check(pointers: Array) -> None:
            found = self._read(instruction, space, pointers, nbytes)
            if found is None:
                return
            if instruction.opcode in ("ld", "ldu"):
                self._load(instruction, found)
            elif instruction.opcode == "ldmatrix":
                self._load_matrix(instruction, found)
            else:
                self._use_bytes(instruction, found, "reads")

        return check

    def _use_bytes(self, instruction: Instruction, found: Undefined, verb: str) -> None:
        first = int(np.flatnonzero(found.masks.any(axis=1))[0])
        lane = int(self.machine.active.lanes[first])
        share = (int(np.count_nonzero(found.masks[first])), found.masks.shape[1])
        self.registers.use(instruction, lane, int(found.origins[first]), verb, share)

    def _spread(self, values: Array, dtype: Any = None) -> Array:
        """Return values of the active lanes as an array over all lanes."""
        result = np.zeros(self.machine.lanes, values.dtype if dtype is None else dtype)
        result[self.machine.active.lanes] = values
        return result

    def _load(self, instruction: Instruction, found: Undefined) -> None:
        to = instruction.operands[0]
        items = to.items if isinstance(to, Vector) else (to,)
        kind = instruction.modifiers[-1]
        size = TYPE_BYTES[kind]
        for index, item in enumerate(items):
            if not isinstance(item, Register):
                continue
            slot = self.machine.slots[item.name]
            mask = np.ascontiguousarray(found.masks[:, index * size : (index + 1) * size]).view(f"u{size}")[:, 0]
            mask, origin = self._spread(mask), self._spread(found.origins)
            if slot[0] > max(size, 2):  # a number of another size, as no copy makes it
                origin = self.registers.computed(instruction, np.where(mask != 0, origin, 0), [mask])
            self.registers.write(slot, mask, origin, kind[0] == "s")

    def _load_matrix(self, instruction: Instruction, found: Undefined) -> None:
        """The active lanes are those that give addresses; all lanes of their warps get a part of the rows."""
        machine = self.machine
        move = matrix.matrix_move("ldmatrix", instruction.modifiers)
        warps = np.unique(machine.active.lanes // WARP)
        rows = found.masks.view(np.uint16).reshape(-1, move.count, 8, 8)
        fragments = np.zeros((machine.lanes // WARP, WARP, move.count), np.uint32)
        fragments[warps] = matrix.load_fragments(rows, move.transposed)
        origin = np.zeros((machine.lanes // WARP, WARP), np.int32)
        origin[warps] = (
            np.where(found.masks.any(axis=1), found.origins, 0).reshape(warps.size, -1).max(1)[:, np.newaxis]
        )
        outer = machine.active
        machine.active = Active(np.isin(np.arange(machine.lanes) // WARP, warps))
        for index, slot in enumerate(self.registers.slots([instruction.operands[0]])):
            self.registers.write(slot, np.ascontiguousarray(fragments[:, :, index]).reshape(-1), origin.reshape(-1))
        machine.active = outer

    def _stores(self, instruction: Instruction, space: str, nbytes: int, state: int) -> Callable[[Array], None]:
        dirty = self.registers.dirty
        slots = frozenset(self.registers.slots(instruction.operands[1:])) if state == shadow.DEFINED else frozenset()

        def store(pointers: Array) -> None:
            states, _, base = self.memory(space)
            if dirty and not dirty.isdisjoint(slots):
                self._store(instruction, space, nbytes, pointers)
            else:
                shadow.set_state(states, base, pointers, nbytes, self.machine.active.count, state)

        return store

    def _store(self, instruction: Instruction, space: str, nbytes: int, pointers: Array) -> None:
        if instruction.opcode == "st":
            undefined = self._stored(instruction)
        elif instruction.opcode == "stmatrix":
            undefined = self._stored_matrix(instruction)
        else:
            self.registers.check(instruction, self.registers.slots(instruction.operands[1:]), "stores")
            count = self.machine.active.count
            undefined = Undefined(np.zeros((count, nbytes), np.uint8), np.zeros(count, np.int32))
        if space == "global":
            self._judge_results(instruction, pointers, undefined)
        self.write(space, pointers, undefined)

    def write(self, space: str, pointers: Array, undefined: Undefined) -> None:
        """Give bytes at pointers their undefined bits."""
        states, sources, base = self.memory(space)
        count, nbytes = undefined.masks.shape
        shadow.write_undefined(states, sources, base, pointers, nbytes, count, *undefined)

    def _stored(self, instruction: Instruction) -> Undefined:
        """Return what is undefined of the active lanes' bytes that st writes."""
        lanes = self.machine.active.lanes
        value = instruction.operands[1]
        items = value.items if isinstance(value, Vector) else (value,)
        dtype = np.dtype(f"u{TYPE_BYTES[instruction.modifiers[-1]]}")
        parts = [self.registers.lanes_of(item, dtype)[lanes].reshape(-1, 1).view(np.uint8) for item in items]
        slots = self.registers.slots(items)
        origins = self.registers.origin_of(slots)
        for slot in slots if len(slots) > 1 else ():  # numbers first: those are reported
            origin = self.registers.origin_of([slot])
            np.copyto(origins, origin, where=self.owner.are_computed()[origin])
        return Undefined(np.concatenate(parts, axis=1), origins[lanes])

    def _stored_matrix(self, instruction: Instruction) -> Undefined:
        machine = self.machine
        move = matrix.matrix_move("stmatrix", instruction.modifiers)
        slots = self.registers.slots([instruction.operands[1]])
        warps = np.unique(machine.active.lanes // WARP)
        zeros = np.zeros(machine.lanes, np.uint32)
        rows = [self.registers.row(slot) if slot in self.registers.dirty else zeros for slot in slots]
        fragments = np.stack([by_warp(row) for row in rows], axis=2)[warps]
        masks = np.ascontiguousarray(matrix.store_rows(fragments, move.transposed)).reshape(-1, 8).view(np.uint8)
        origins = np.stack(
            [
                by_warp(np.where(row != 0, self.registers.origins.get(slot, zeros), 0))
                for slot, row in zip(slots, rows, strict=True)
            ]
        ).max(axis=(0, 2))
        return Undefined(masks, np.repeat(origins[warps], 8 * move.count).astype(np.int32))

    def _tile(self, instruction: Instruction, space: str, nbytes: int, kind: str) -> Callable[[Array], None]:
        """Return what is done at each turn of wmma.load or wmma.store, in which each lane accesses a part."""
        move = matrix.tile_move(instruction.modifiers)
        turns = self._turns[len(self._turns)] = []
        slots = self.registers.slots([instruction.operands[0 if move.load else 1]])

        def load(pointers: Array) -> None:
            turns.append(self._read(instruction, space, pointers, nbytes))
            if len(turns) == move.turns:
                if any(part is not None for part in turns):
                    self._load_tile(move, slots, turns)
                turns.clear()

        def store(pointers: Array) -> None:
            if not turns:
                turns.extend(self._stored_tile(move, slots))
            undefined = turns.pop(0)
            if undefined is not None and space == "global":
                self._judge_results(instruction, pointers, undefined)
            if undefined is not None:
                self.write(space, pointers, undefined)
            else:
                states, _, base = self.memory(space)
                shadow.set_state(states, base, pointers, nbytes, self.machine.active.count, shadow.DEFINED)

        return load if move.load else store

    def _load_tile(self, move: matrix.TileMove, slots: list[Slot], turns: list[Undefined | None]) -> None:
        machine = self.machine
        warps = by_warp(machine.active.mask)[:, 0]
        count = int(np.count_nonzero(warps))
        data = np.zeros((count, move.turns, WARP, move.chunk), np.uint8)
        origin = np.zeros((machine.lanes // WARP, WARP), np.int32)
        for turn, part in enumerate(turns):
            if part is not None:
                data[:, turn] = part.masks.reshape(count, WARP, move.chunk)
                here = np.where(part.masks.any(axis=1), part.origins, 0).reshape(count, WARP).max(axis=1)
                origin[warps] = np.maximum(origin[warps], here[:, np.newaxis])
        whole = np.zeros((machine.lanes // WARP, WARP, move.registers), move.register_dtype)
        whole[warps] = move.to_registers(data.view(move.element).reshape(count, move.lines, -1))
        for index, slot in enumerate(slots):
            mask = np.ascontiguousarray(whole[:, :, index]).reshape(-1)
            self.registers.write(slot, mask, origin.reshape(-1))

    def _stored_tile(self, move: matrix.TileMove, slots: list[Slot]) -> list[Undefined | None]:
        """Return what is undefined of the active lanes' parts, turn by turn."""
        machine = self.machine
        if self.registers.dirty.isdisjoint(slots):
            return [None] * move.turns
        warps = by_warp(machine.active.mask)[:, 0]
        zeros = np.zeros(machine.lanes, move.register_dtype)
        rows = [self.registers.row(slot) if slot in self.registers.dirty else zeros for slot in slots]
        lines = move.to_lines(np.stack([by_warp(row) for row in rows], axis=2)[warps])
        masks = lines.view(np.uint8).reshape(-1, move.turns, WARP, move.chunk)
        origins = np.repeat(by_warp(self.registers.origin_of(slots)).max(axis=1)[warps], WARP)
        return [
            Undefined(np.ascontiguousarray(masks[:, turn]).reshape(-1, move.chunk), origins.copy())
            for turn in range(move.turns)
        ]

    def _updates(self, instruction: Instruction, space: str, nbytes: int) -> Callable[[Array], None]:
        exchanges = "exch" in instruction.modifiers
        values = instruction.operands[2:] if instruction.opcode == "atom" else instruction.operands[1:]
        slots = self.registers.slots(values)
        results = self.registers.slots(instruction.operands[:1]) if instruction.opcode == "atom" else []

        def update(pointers: Array) -> None:
            found = self._read(instruction, space, pointers, nbytes)
            if exchanges and self.owner.follows:
                lanes = self.machine.active.lanes
                mask = self.registers.lanes_of(values[0], np.dtype(f"u{nbytes}"))[lanes].reshape(-1, 1).view(np.uint8)
                undefined = Undefined(mask, self.registers.origin_of(slots)[lanes])
                if space == "global":
                    self._judge_results(instruction, pointers, undefined)
                self.write(space, pointers, undefined)
                self.registers.clear(results)
                if found is not None and results:
                    self._load(instruction, found)
                return
            if found is not None:
                self._use_bytes(instruction, found, "updates")
            if self.registers.dirty:
                self.registers.check(instruction, slots, "updates memory by")
                self.registers.clear(results)
            states, _, base = self.memory(space)
            shadow.set_state(states, base, pointers, nbytes, self.machine.active.count, shadow.DEFINED)

        return update

    def copy_begun(
        self, instruction: Instruction, pointers: Array, lanes: Array, sizes: Array, nbytes: int
    ) -> Undefined | None:
        """Return what is undefined of an asynchronous copy of `sizes` of `nbytes` bytes, which is zero behind them."""
        found = Undefined(np.zeros((lanes.size, nbytes), np.uint8), np.zeros(lanes.size, np.int32))
        for size in np.unique(sizes[sizes > 0]):
            chosen = np.flatnonzero(sizes == size)
            part = self.read("global", pointers[chosen], int(size), chosen.size)
            if part is not None:
                found.masks[chosen, : int(size)], found.origins[chosen] = part
        if not found.masks.any():
            return None
        self.name_origins(instruction, "global", pointers, lanes, found)
        return found

    def copy_completed(self, targets: Array, nbytes: int, undefined: Undefined | None) -> None:
        """Asynchronous copies have written their targets."""
        if undefined is not None:
            self.write("shared", targets, undefined)
            return
        states, _, base = self.memory("shared")
        shadow.set_state(states, base, targets, nbytes, targets.size, shadow.DEFINED)

    # -- bulk copies, and products of warpgroups ----------------------------------------------------------------------

    def bulk_issued(self, copy: Copy) -> None:
        """A bulk copy is under way, and who reads its target too early is told so, but not for what lies there."""
        for block, address in copy.here if copy.slots else ():
            states = self.memory("shared")[0].reshape(self.machine.shared.shape)
            states[block, address : address + copy.nbytes] = shadow.DEFINED

    def bulk_arrived(self, copy: Copy) -> None:
        """A bulk copy has written shared memory: what it wrote is as defined as its source."""
        machine = self.machine
        states, sources, _ = self.memory("shared")
        shape = machine.shared.shape
        defined, number = np.full(copy.nbytes, shadow.DEFINED, np.uint8), 0
        if self.owner.follows:
            if copy.source is not None:
                block, address = copy.source
                defined = states.reshape(shape)[block, address : address + copy.nbytes].copy()
            elif copy.box is not None:
                self.owner.cover(MEMORY.extent)
                defined = copy.box.gather(self.owner.states, shadow.DEFINED)
            if (defined != shadow.DEFINED).any():
                place = "" if copy.box is None else MEMORY.describe(copy.box.address)
                space = "shared" if copy.box is None else "global"
                number = self.owner.number(Origin(space, copy.instruction, place))
        for block, address in copy.here:
            machine.bulk.chunks_of(states.reshape(shape), copy, block, address)[...] = defined.view(f"V{CHUNK}")
            if number:
                sources.reshape(shape[0], -1)[block, address // 4 : (address + copy.nbytes) // 4] = number

    def bulk_read(self, copy: Copy) -> None:
        """A copy to global memory has read its source."""
        states, sources, _ = self.memory("shared")
        shape = self.machine.shared.shape
        block, address = copy.here[0]
        parts = self.machine.bulk.chunks_of(states.reshape(shape), copy, block, address)[...]
        defined = np.asarray(parts).view(np.uint8)
        assert copy.box is not None
        dtype = np.dtype(f"u{copy.box.item}")
        inside = defined.view(dtype).reshape(copy.box.shape)[copy.box.inside]
        if copy.box.address and (inside != np.iinfo(dtype).max).any():
            words = sources.reshape(shape[0], -1)[block, address // 4 : (address + copy.nbytes) // 4]
            number = int(words.max())
            if not number:
                where = self.machine.shared_layout.describe(address)
                number = self.owner.number(Origin("shared", copy.instruction, where))
            missing = int(np.count_nonzero(np.ascontiguousarray(inside).view(np.uint8) != shadow.DEFINED))
            self.registers.use(copy.instruction, copy.lane, number, "stores", (missing, copy.nbytes))

    def bulk_stored(self, copy: Copy) -> None:
        """A copy has written global memory: what it wrote counts as defined, as the rest has been reported."""
        assert copy.box is not None
        self.owner.cover(MEMORY.extent)
        copy.box.scatter(self.owner.states, np.full(copy.nbytes, shadow.DEFINED, np.uint8))

    def product_read(self, product: Product) -> None:
        """A product of a warpgroup has read its operands."""
        machine, form = self.machine, product.form
        states, sources, _ = self.memory("shared")
        parts = [(product.b, form.n, form.b_k_major)]
        if product.a is not None:
            parts.append((product.a, M, form.a_k_major))
        for given, rows, major in parts:
            places, base = machine.products.places(product, given, rows, major)
            first = product.block * machine.shared.shape[1] + base
            elements = states[first:]
            whole = elements[: elements.size // form.item * form.item].view(f"u{form.item}").take(places)
            undefined = whole != np.iinfo(whole.dtype).max
            if not undefined.any():
                continue
            place = int(places[undefined][0]) * form.item
            number = int(sources[(first + place) // 4])
            if not number:
                where = machine.shared_layout.describe(base + place)
                number = self.owner.number(Origin("shared", product.instruction, where))
            share = (int(np.count_nonzero(undefined)) * form.item, undefined.size * form.item)
            self.registers.use(product.instruction, product.first, number, "multiplies by", share)

    # -- the device runtime --------------------------------------------------------------------------------------------

    def runtime_writes(self, lane: int, offset: int, nbytes: int) -> None:
        """printf has written local memory of a thread."""
        states, _, _ = self.memory("local")
        start = lane * self.machine.local.shape[1] + offset
        states[start : start + nbytes] = shadow.DEFINED

    def runtime_reads(self, instruction: Instruction, lane: int, offset: int, nbytes: int) -> None:
        """printf reads an argument in local memory of a thread: report it if it is not defined."""
        pointers = np.array([self.machine.local_bases[lane] + offset])
        found = self.read("local", pointers, nbytes, 1)
        if found is not None:
            self.name_origins(instruction, "local", pointers, np.array([lane]), found)
            share = (int(np.count_nonzero(found.masks)), nbytes)
            self.registers.use(instruction, lane, int(found.origins[0]), "prints", share)

    # -- results that the host may see ---------------------------------------------------------------------------------

    def _judge_results(self, instruction: Instruction, pointers: Array, undefined: Undefined) -> None:
        """Report what of a store in global memory is a result; what is reported counts as defined afterwards."""
        masks, origins = undefined
        lanes = self.machine.active.lanes
        some = masks.any(axis=1)
        computed = self.owner.are_computed()
        for number in np.unique(origins[some & computed[origins]]):
            here = some & (origins == number)
            self._report_result(instruction, int(lanes[int(np.flatnonzero(here)[0])]), int(number))
        masks[some & computed[origins]] = 0
        whole = (masks == shadow.DEFINED).all(axis=1)
        if not whole.any():
            return
        chosen = np.flatnonzero(whole)
        piece = (instruction, masks.shape[1], pointers[chosen].copy(), lanes[chosen], origins[chosen])
        group = self._groups.get(id(instruction))
        if group is not None and group.size > 1:
            group.pieces.append(piece)
            return
        undefined.origins[chosen] = self._judge_piece(piece)
        masks[chosen[undefined.origins[chosen] == 0]] = 0

    def _report_result(self, store: Instruction, lane: int, number: int) -> None:
        machine, origin = self.machine, self.owner.origins[number]
        computed = origin.computed
        assert computed is not None

        def message() -> str:
            text = f"{machine.where(computed, lane)} computes with {origin.describe(origin.share, computed)}"
            if store.location is not None and store.location != computed.location:
                text += f"; the result is stored at {store.location}"
            return text

        self.owner.report(machine, UNWRITTEN, machine.program.name, computed.location or computed.text, message)

    def _judge_piece(self, piece: tuple[Instruction, int, Array, Array, Array]) -> Array:
        """Report a store of values that have no defined bit, unless they come from global memory. Returns their
        origins afterwards, 0 for those that are reported."""
        instruction, nbytes, _, lanes, origins = piece
        result = np.zeros_like(origins)
        for number in np.unique(origins):
            if self.owner.origins[number].space == "global":
                result[origins == number] = self.owner.stored(int(number), instruction, self.machine.program.name)
                continue
            lane = int(lanes[int(np.flatnonzero(origins == number)[0])])
            self.registers.use(instruction, lane, int(number), "stores", (nbytes, nbytes))
        return result

    def _judge(self, group: _Group) -> None:
        """Judge the stores of a statement: a lane that stored a defined bit by any of them has copied a struct."""
        counts = np.zeros(self.machine.lanes, np.int64)
        for piece in group.pieces:
            counts[piece[3]] += 1
        pieces, group.pieces = group.pieces, []
        for instruction, nbytes, pointers, lanes, origins in pieces:
            whole = counts[lanes] == group.size
            if not whole.any():
                continue
            origins = self._judge_piece((instruction, nbytes, pointers[whole], lanes[whole], origins[whole]))
            masks = np.zeros((origins.size, nbytes), np.uint8)
            masks[origins > 0] = shadow.DEFINED
            self.write("global", pointers[whole], Undefined(masks, origins))
