"""cp.async.bulk and cp.reduce.async.bulk: copies of whole ranges and of boxes of tensors, which the async proxy makes.

A copy to shared memory ends with its bytes at an mbarrier, or at one in each block that it is multicast to. A copy to
global memory belongs to a bulk group of its thread.

When a copy happens is a matter of chance on a GPU, so there are two orders. Late: a copy to shared memory happens when
no thread can go on, and its target holds the poison pattern until then; a copy to global memory reads its source when
its thread waits for that, and writes when it waits for that. Early: everything happens when the copy is issued.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp.emulator.device.accesses import fault, place
from gpubp.emulator.device.clusters import CLUSTER_BITS, WITHIN
from gpubp.emulator.device.lanewise import Action, Bound, always
from gpubp.emulator.device.memory import ARENA_BASE, MEMORY, POISON, SHARED_WINDOW, WINDOW_GRANULE_BITS
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.errors import MemoryAccessError
from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.program.ptx import Address, Immediate, Instruction, Operand, Register, Symbol, Vector
from gpubp.emulator.tensor_maps import ALIGNMENT, NBYTES, DataType, OutOfBoundsFill, Swizzle, TensorMap, decode

CHUNK = 16
"""Bytes that a bulk copy moves at least, and that a swizzle keeps together."""
SHARED_ALIGNMENT = 128
"""Bytes to which a box in shared memory must be aligned."""
_COMPLETE = "mbarrier::complete_tx::bytes"
_SHARED = ("shared::cta", "shared::cluster")
_HINTS = frozenset(("L2::cache_hint", "tile", "bulk_group", _COMPLETE, "multicast::cluster"))
_INTEGERS = ("u32", "s32", "u64", "s64")
_REDUCTIONS = {
    "add": ("u32", "s32", "u64", "f16", "bf16", "f32", "f64"),
    **dict.fromkeys(("min", "max"), (*_INTEGERS, "f16", "bf16")),
    **dict.fromkeys(("inc", "dec"), ("u32",)),
    **dict.fromkeys(("and", "or", "xor"), ("b32", "b64", *_INTEGERS)),
}
"""Each reduction's types in global memory (PTX ISA, cp.reduce.async.bulk); bits may have the type of a number."""
_TENSOR_TYPES = {
    DataType.UINT32: "u32", DataType.INT32: "s32", DataType.UINT64: "u64", DataType.INT64: "s64",
    DataType.FLOAT16: "f16", DataType.BFLOAT16: "bf16", DataType.FLOAT32: "f32", DataType.FLOAT32_FTZ: "f32",
    DataType.FLOAT64: "f64",
}  # fmt: skip
"""The types by whose elements a box can be reduced, as PTX names them."""


@dataclass(eq=False)
class Copy:
    """A copy that a thread has issued.

    Attributes:
        box: where its bytes lie in global memory, if at one end.
        here: where they lie in shared memory: block of the wave and address, for each block that gets them.
        source: of a copy between the shared memories of two blocks, where they come from.
        slots: the mbarriers that get its bytes, one for each place in `here`.
        phases: their phases when the copy was issued.
        reduction: what a copy to global memory does there with its bytes; None: it stores them.
        group: of the thread, that a copy to global memory belongs to.
        data: the bytes in the order of the box, once they have been read.
        watched: what the observer keeps of it.
    """

    instruction: Instruction
    lane: int
    nbytes: int
    box: Box | None
    here: list[tuple[int, int]]
    source: tuple[int, int] | None = None
    slots: list[int] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    reduction: Reduction | None = None
    group: int = 0
    data: Array | None = None
    watched: Any = None

    @property
    def stores(self) -> bool:
        """Return True for a copy to global memory."""
        return not self.slots


@dataclass(frozen=True)
class Reduction:
    """A reduction by elements of a type, as PTX names it."""

    name: str
    type: str


class Box:
    """A box of a tensor in global memory, or a range of bytes (`map` None).

    Attributes:
        address: of the first byte of what lies inside of the tensor; 0 if nothing does.
        lines: shape of what lies inside, as elements, the innermost dimension last.
        swizzle: the pattern in shared memory.
    """

    def __init__(
        self, map_: TensorMap | None, address: int, coordinates: tuple[int, ...] = (), nbytes: int = 0
    ) -> None:
        self.map = map_
        self.shape: tuple[int, ...] = (nbytes,)
        self.inside: tuple[slice, ...] = (slice(0, nbytes),)
        self.lines: tuple[int, ...] = (nbytes,)
        self.strides: tuple[int, ...] = (1,)
        self.item, self.address, self.swizzle, self.nbytes = 1, address, Swizzle.NONE, nbytes
        if map_ is None:
            return
        self.item, self.swizzle, self.nbytes = map_.type.nbytes, map_.swizzle, map_.box_bytes
        self.shape = map_.shape[::-1]
        inside, strides, self.address = [], [], map_.address
        for at, side, stride, count, step in zip(
            coordinates, map_.sides, map_.strides, map_.shape, map_.steps, strict=True
        ):
            first = max(0, -(at // step))
            end = min(count, max(first, -((at - side) // step)))
            inside.append(slice(first, end))
            strides.append(stride * step)
            self.address += (at + first * step) * stride
        self.inside, self.strides = tuple(inside[::-1]), tuple(strides[::-1])
        self.lines = tuple(max(0, part.stop - part.start) for part in self.inside)
        if 0 in self.lines:
            self.address = 0

    @property
    def whole(self) -> bool:
        """Return True if all of the box lies inside of the tensor."""
        return self.lines == self.shape

    @property
    def extent(self) -> int:
        """Return the bytes from the first to the end of the last one inside."""
        return self.item + sum((count - 1) * stride for count, stride in zip(self.lines, self.strides, strict=True))

    def view(self, memory: Array, dtype: np.dtype[Any]) -> Array:
        """Return what lies inside, as elements of memory that begins at the arena's first address."""
        return np.ndarray(self.lines, dtype, memory, self.address - ARENA_BASE, self.strides)

    def gather(self, memory: Array, fill: int = 0) -> Array:
        """Return the bytes of the box, those outside of the tensor filled with a byte."""
        dtype = np.dtype(f"u{self.item}")
        if self.address and self.whole:
            return np.ascontiguousarray(self.view(memory, dtype)).reshape(-1).view(np.uint8)
        out = np.full(self.nbytes, fill, np.uint8)
        if self.address:
            out.view(dtype).reshape(self.shape)[self.inside] = self.view(memory, dtype)
        return out

    def scatter(self, memory: Array, data: Array) -> None:
        """Write the bytes of a box to where they lie, but for those outside of the tensor."""
        if self.address:
            dtype = np.dtype(f"u{self.item}")
            self.view(memory, dtype)[...] = data.view(dtype).reshape(self.shape)[self.inside]

    def places(self) -> Array:
        """Return the addresses of the elements that lie inside."""
        if not self.address:
            return np.zeros(0, np.int64)
        found = np.array(self.address, np.int64)
        for count, stride in zip(self.lines, self.strides, strict=True):
            found = found[..., np.newaxis] + stride * np.arange(count)
        return found.reshape(-1)


@functools.cache
def swizzled(first: int, nbytes: int, width: int) -> Array:
    """Return where each 16 bytes of a box lie in shared memory, in units of 16 bytes from a multiple of 1,024 on.

    The pattern exchanges bits of the address: bits 4 to 4 + log2(width/16) with those from 7 on.

    Args:
        first: where the box begins, modulo 1,024.
        nbytes: its size.
        width: of the pattern in bytes, 0 for none.
    """
    chunks = (first >> 4) + np.arange(nbytes // CHUNK)
    mask = max(width // CHUNK - 1, 0)
    return chunks ^ (chunks >> 3 & mask)


class BulkCopies:
    """The bulk copies of a wave that are not complete, and the groups of its threads."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.early = machine.observer is not None and machine.observer.early
        self.loads: list[Copy] = []
        self.stores: list[Copy] = []
        self.group = np.zeros(machine.lanes, np.int64)  # that each lane's next store belongs to

    @property
    def pending(self) -> bool:
        """Return True if something is still to happen."""
        return bool(self.loads) or not all(map(self._done, self.stores))

    def begin(self) -> None:
        """Make ready for new blocks."""
        self.loads.clear()
        self.stores.clear()
        self.group[:] = 0

    # -- what happens -------------------------------------------------------------------------------------------------

    def issue(self, copy: Copy) -> None:
        """Let a copy be under way."""
        machine = self.machine
        if copy.slots:
            copy.phases = [int(machine.mbarriers.phase_of(slot)) for slot in copy.slots]
        if machine.observer is not None:
            machine.observer.bulk_issued(machine, copy)
        machine.changed = True
        if copy.stores:
            if self.early:
                self._read(copy)
                self._write_global(copy)
            self.stores.append(copy)
            return
        if self.early:
            self._arrive(copy)
            return
        for block, address in copy.here:
            machine.shared[block, address : address + copy.nbytes].view(np.uint16)[:] = POISON
        self.loads.append(copy)

    def progress(self) -> bool:
        """Let all copies happen that are under way, those to shared memory first; return True if there were some."""
        if self.loads:
            loads, self.loads = self.loads, []
            for copy in loads:
                self._arrive(copy)
            return True
        if not all(map(self._done, self.stores)):
            for copy in self.stores:
                self._finish(copy)
            return True
        return False

    def finish(self) -> None:
        """All threads of the wave have ended, and with them the copies."""
        while self.progress():
            pass
        if self.machine.observer is not None:
            self.machine.observer.bulk_over(self.machine)
        self.stores.clear()

    def _done(self, copy: Copy) -> bool:
        return copy.box is None

    def _arrive(self, copy: Copy) -> None:
        """Write shared memory, and tell the mbarriers."""
        machine = self.machine
        data = self._source(copy)
        for block, address in copy.here:
            self.chunks_of(machine.shared, copy, block, address)[...] = data.view(f"V{CHUNK}")
        machine.changed = True
        if machine.observer is not None:
            machine.observer.bulk_arrived(machine, copy)
        for slot, phase in zip(copy.slots, copy.phases, strict=True):
            found = machine.mbarriers.complete_transaction(copy.instruction, copy.lane, slot, copy.nbytes)
            if machine.observer is not None:
                machine.observer.bulk_bytes_arrived(machine, copy, slot, phase, found)
        machine.mbarriers.wake()

    def _source(self, copy: Copy) -> Array:
        """Return the bytes of a copy to shared memory."""
        if copy.source is not None:
            block, address = copy.source
            return self.machine.shared[block, address : address + copy.nbytes].copy()
        assert copy.box is not None
        return _converted(copy.box, copy.box.gather(MEMORY.bytes))

    def chunks_of(self, memory: Array, copy: Copy, block: int, address: int) -> Array:
        """Return the 16-byte parts of a copy in a block's shared memory, or its shadow, in the order of the box."""
        swizzle = Swizzle.NONE if copy.box is None else copy.box.swizzle
        return _Chunks(memory[block], address, copy.nbytes, swizzle)  # type: ignore[return-value]

    def _read(self, copy: Copy) -> None:
        """Read the source of a copy to global memory."""
        if copy.data is not None:
            return
        block, address = copy.here[0]
        parts = self.chunks_of(self.machine.shared, copy, block, address)
        copy.data = np.asarray(parts[...]).view(np.uint8)
        if self.machine.observer is not None:
            self.machine.observer.bulk_source_read(self.machine, copy)

    def _write_global(self, copy: Copy) -> None:
        """Write what a copy to global memory has read."""
        assert copy.box is not None
        assert copy.data is not None
        self.machine.changed = True
        if copy.reduction is None:
            copy.box.scatter(MEMORY.bytes, copy.data)
        else:
            _reduce(copy.box, copy.data, copy.reduction)
        if self.machine.observer is not None:
            self.machine.observer.bulk_stored(self.machine, copy)
        copy.box = None  # it is done

    def _finish(self, copy: Copy) -> None:
        if not self._done(copy):
            self._read(copy)
            self._write_global(copy)

    # -- groups -------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """The active lanes close their groups."""
        self.group[self.machine.active.lanes] += 1

    def wait(self, allowed: int, reads: bool) -> None:
        """The active lanes wait for their groups but the latest `allowed`, or (`reads`) for their sources to be
        read."""
        machine = self.machine
        mask = machine.active.mask
        left: list[Copy] = []
        for copy in self.stores:
            if not mask[copy.lane] or copy.group >= self.group[copy.lane] - allowed:
                left.append(copy)
                continue
            machine.changed = True
            if copy.data is None:
                self._read(copy)
            if reads:
                left.append(copy)
            else:
                self._finish(copy)
            if machine.observer is not None:
                machine.observer.bulk_waited(machine, copy, reads)
        self.stores = left


class _Chunks:
    """The 16-byte parts of a box in shared memory, read and written in the order of the box."""

    def __init__(self, memory: Array, address: int, nbytes: int, swizzle: Swizzle) -> None:
        self._memory, self._address, self._nbytes, self._swizzle = memory, address, nbytes, swizzle

    def _parts(self) -> tuple[Array, Array | slice]:
        width = self._swizzle.nbytes
        if not width:
            part = self._memory[self._address : self._address + self._nbytes]
            return part.view(f"V{CHUNK}"), slice(None)
        low = self._address & 1023
        first = self._address - low
        end = first + -(-(low + self._nbytes) // 1024) * 1024
        part = self._memory[first : min(end, self._memory.size // CHUNK * CHUNK)].view(f"V{CHUNK}")
        return part, swizzled(low, self._nbytes, width)

    def __getitem__(self, _: Any) -> Array:
        part, index = self._parts()
        return part[index].copy()

    def __setitem__(self, _: Any, value: Array) -> None:
        part, index = self._parts()
        part[index] = value


def _converted(box: Box, data: Array) -> Array:
    """Return the bytes of a box as they arrive: NaN outside if the map says so, rounded to tf32, subnormals as 0.

    tf32: to nearest, ties to even, NaN and infinities as they are. No reference of NVIDIA's says how; a test in
    Triton's pull request 11751 does, and is said to pass on a chip of sm_120.
    """
    map_ = box.map
    if map_ is None:
        return data
    if map_.fill == OutOfBoundsFill.NAN_REQUEST_ZERO_FMA and not box.whole:
        values = data.view(f"u{box.item}").reshape(box.shape)
        outside = np.ones(box.shape, bool)
        outside[box.inside] = False
        values[outside] = {2: 0x7FFF, 4: 0x7FFFFFFF, 8: 0x7FFF_FFFF_FFFF_FFFF}[box.item]
    if map_.type in (DataType.TFLOAT32, DataType.TFLOAT32_FTZ):
        words = data.view(np.uint32)
        finite = (words & 0x7F800000) != 0x7F800000
        words[:] = np.where(finite, words + 0xFFF + (words >> 13 & 1) & 0xFFFFE000, words)
    if map_.type in (DataType.FLOAT32_FTZ, DataType.TFLOAT32_FTZ):
        words = data.view(np.uint32)
        words[(words & 0x7F800000) == 0] &= 0x80000000
    return data


# -- reductions -------------------------------------------------------------------------------------------------------


def _reduce(box: Box, data: Array, reduction: Reduction) -> None:
    """Update the elements of a box by those of shared memory."""
    if not box.address:
        return
    raw = np.dtype(f"u{_bytes_of(reduction.type)}")
    if box.map is None:
        old = box.view(MEMORY.bytes, np.dtype(np.uint8)).view(raw)
        new = data.view(raw)
    else:
        old = box.view(MEMORY.bytes, raw)
        new = data.view(raw).reshape(box.shape)[box.inside]
    old[...] = _combined(reduction, np.ascontiguousarray(old), np.ascontiguousarray(new)).reshape(old.shape)


def _bytes_of(type_: str) -> int:
    return 2 if type_ == "bf16" else int(type_.lstrip("bfsu")) // 8


def _combined(reduction: Reduction, old: Array, new: Array) -> Array:
    """Return raw elements after a reduction. The sum of float32 flushes subnormals (PTX ISA, cp.reduce.async.bulk)."""
    name, type_ = reduction.name, reduction.type
    raw = old.dtype
    if type_[0] in "fb" and type_ not in ("b32", "b64"):
        rounds = () if name != "add" else ("rn", "ftz") if type_ == "f32" else ("rn",)
        function = operation(name, (*rounds, type_))
        assert function is not None
        kinds = [np.dtype(one) for one in function.sources]
        out = np.empty(old.size, function.results[0])
        function.apply(out, old.reshape(-1).view(kinds[0]), new.reshape(-1).view(kinds[1]))
        return out.view(raw)
    kind = np.dtype(f"{'i' if type_[0] == 's' else 'u'}{raw.itemsize}")
    x, y = old.view(kind), new.view(kind)
    simple: dict[str, Callable[..., Array]] = {
        "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }  # fmt: skip
    if name in simple:
        return simple[name](x, y).view(raw)
    one = kind.type(1)
    result = np.where(x >= y, kind.type(0), x + one) if name == "inc" else np.where((x == 0) | (x > y), y, x - one)
    return result.view(raw)


# -- binding ----------------------------------------------------------------------------------------------------------


def bind_bulk(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of an instruction of bulk copies."""
    reduces = instruction.modifiers[0] == "reduce"
    rest = list(instruction.modifiers[3 if reduces else 2 :])
    if rest == ["commit_group"]:
        return always(lambda: machine.bulk.commit())
    if rest in (["wait_group"], ["wait_group", "read"]):
        (amount,) = instruction.operands
        assert isinstance(amount, Immediate)
        return always(lambda: machine.bulk.wait(amount.value, "read" in rest))
    if rest[0] == "prefetch":
        return _bind_prefetch(machine, instruction, rest[1:])
    tensor = rest[0] == "tensor"
    dimensions = 0
    if tensor:
        dimensions = int(rest[1][0]) if rest[1] in ("1d", "2d", "3d", "4d", "5d") else 0
        rest = rest[2:]
        if not dimensions:
            raise machine.unsupported(instruction)
    reduction = _reduction(machine, instruction, rest, tensor) if reduces else None
    flags = {one for one in rest if one in _HINTS}
    spaces = tuple(one for one in rest if one not in _HINTS)
    form = _Form(machine, instruction, flags, dimensions, reduction)
    if spaces in [(one, "global") for one in _SHARED] and _COMPLETE in flags and not reduces:
        return always(form.load(spaces[0]))
    if spaces == ("shared::cluster", "shared::cta") and flags == {_COMPLETE} and not tensor and not reduces:
        return always(form.between_blocks())
    if spaces == ("global", "shared::cta") and "bulk_group" in flags and not flags & {_COMPLETE, "multicast::cluster"}:
        return always(form.store())
    raise machine.unsupported(instruction)


def _reduction(machine: Machine, instruction: Instruction, rest: list[str], tensor: bool) -> Reduction:
    """Take the reduction out of the modifiers. That of a box gets its type from the map."""
    names = [one for one in rest if one in _REDUCTIONS]
    types = [one for one in rest if one in ("f16", "bf16", "f32", "f64", "b32", "b64", "u32", "s32", "u64", "s64")]
    if len(names) != 1 or len(types) != (0 if tensor else 1):
        raise machine.unsupported(instruction)
    if types and types[0] not in _REDUCTIONS[names[0]]:
        raise machine.unsupported(instruction)
    for one in (*names, *types, *(["noftz"] if "noftz" in rest else [])):
        rest.remove(one)
    return Reduction(names[0], "" if tensor else types[0])


def _bind_prefetch(machine: Machine, instruction: Instruction, rest: list[str]) -> Bound:
    """Return the step of cp.async.bulk.prefetch: a hint, whose map is checked."""
    known = [one for one in rest if one not in ("L2::cache_hint", "tile")]
    if known == ["L2", "global"]:
        return always(lambda: None)
    if len(known) == 4 and known[0] == "tensor" and known[2:] == ["L2", "global"]:
        boxes = _bind_box(machine, instruction, instruction.operands[0], int(known[1][0]))

        def prefetch() -> None:
            for lane in machine.active.lanes.tolist():
                boxes(lane)

        return always(prefetch)
    raise machine.unsupported(instruction)


class _Form:
    """What an instruction says, bound to a machine."""

    def __init__(
        self, machine: Machine, instruction: Instruction, flags: set[str], dimensions: int, reduction: Reduction | None
    ) -> None:
        self.machine, self.instruction = machine, instruction
        self.flags, self.dimensions, self.reduction = flags, dimensions, reduction
        operands = list(instruction.operands)
        if "L2::cache_hint" in flags:
            operands.pop()
        self.operands = operands

    def _count(self, count: int) -> list[Operand]:
        if len(self.operands) != count:
            raise self.machine.unsupported(self.instruction, "an unexpected number of operands")
        return self.operands

    def load(self, space: str) -> Action:
        machine, instruction = self.machine, self.instruction
        multicast = "multicast::cluster" in self.flags
        if multicast:
            mask = machine.lanes_of(self.operands.pop(), np.dtype(np.uint16))
        if self.dimensions:
            target, source, barrier = self._count(3)
            boxes = _bind_box(machine, instruction, source, self.dimensions)
        else:
            target, source, size, barrier = self._count(4)
            boxes = _bind_range(machine, instruction, source, size, "load")
        places = _bind_shared(machine, instruction, target, space == "shared::cluster")
        slots = machine.mbarriers.bind_slots(
            instruction, barrier, "cluster" if space == "shared::cluster" else "shared"
        )

        def issue() -> None:
            found = slots()
            for lane, slot in zip(machine.active.lanes.tolist(), found.tolist(), strict=True):
                box = boxes(lane)
                alignment = SHARED_ALIGNMENT if self.dimensions else CHUNK
                block, address = places(lane, box.nbytes, alignment)
                blocks = _of_mask(machine, instruction, lane, int(mask[lane])) if multicast else [block]
                row = machine.shared.shape[1] // 8
                at_barrier = slot // row
                if not multicast and at_barrier != block:
                    raise MemoryAccessError(
                        f"{machine.where(instruction, lane)}: `{instruction.text}`: the target and the mbarrier lie in "
                        "the shared memory of two blocks"
                    )
                here = [(one, address) for one in blocks]
                barriers = [slot + (one - at_barrier) * row for one in blocks]
                machine.mbarriers.check_slots(instruction, lane, barriers)
                machine.bulk.issue(Copy(instruction, lane, box.nbytes, box, here, None, barriers))

        return issue

    def between_blocks(self) -> Action:
        machine, instruction = self.machine, self.instruction
        target, source, size, barrier = self._count(4)
        targets = _bind_shared(machine, instruction, target, True)
        sources = _bind_shared(machine, instruction, source, False)
        slots = machine.mbarriers.bind_slots(instruction, barrier, "cluster")
        sizes = _bind_size(machine, instruction, size)

        def issue() -> None:
            for lane, slot in zip(machine.active.lanes.tolist(), slots().tolist(), strict=True):
                nbytes = sizes(lane)
                to, from_ = targets(lane, nbytes, CHUNK), sources(lane, nbytes, CHUNK)
                if to[0] == from_[0]:
                    raise MemoryAccessError(
                        f"{machine.where(instruction, lane)}: `{instruction.text}`: the target lies in the block's own "
                        "shared memory, and must in that of another block of the cluster"
                    )
                machine.bulk.issue(Copy(instruction, lane, nbytes, None, [to], from_, [slot]))

        return issue

    def store(self) -> Action:
        machine, instruction = self.machine, self.instruction
        if self.dimensions:
            target, source = self._count(2)
            boxes = _bind_box(machine, instruction, target, self.dimensions)
        else:
            target, source, size = self._count(3)
            boxes = _bind_range(machine, instruction, target, size, "store")
        places = _bind_shared(machine, instruction, source, False)

        def issue() -> None:
            for lane in machine.active.lanes.tolist():
                box = boxes(lane)
                here = places(lane, box.nbytes, SHARED_ALIGNMENT if self.dimensions else CHUNK)
                reduction = self.reduction
                if reduction is not None and box.map is not None:
                    type_ = _TENSOR_TYPES.get(box.map.type)
                    if type_ not in _REDUCTIONS[reduction.name]:
                        raise machine.unsupported(instruction, f"a reduction of {box.map.type.name}")
                    reduction = Reduction(reduction.name, type_)
                group = int(machine.bulk.group[lane])
                machine.bulk.issue(Copy(instruction, lane, box.nbytes, box, [here], reduction=reduction, group=group))

        return issue


def _of_mask(machine: Machine, instruction: Instruction, lane: int, mask: int) -> list[int]:
    """Return the blocks of the wave that a multicast's mask names."""
    if not mask or mask >> machine.cluster_size:
        raise MemoryAccessError(
            f"{machine.where(instruction, lane)}: `{instruction.text}`: the mask {mask:#x} must name some of the "
            f"{machine.cluster_size} blocks of the cluster, and none besides"
        )
    first = int(machine.block_of_lane[lane]) - int(machine.rank_of_lane[lane])
    lives = np.asarray(machine.live.reshape(machine.blocks, -1).any(axis=1))
    found = [first + rank for rank in range(machine.cluster_size) if mask >> rank & 1]
    for one in found:
        if not lives[one]:
            raise MemoryAccessError(
                f"{machine.where(instruction, lane)}: `{instruction.text}` copies to shared memory of block "
                f"{machine.block_index(one * machine.padded)}, which has ended"
            )
    return found


def _bind_size(machine: Machine, instruction: Instruction, operand: Operand) -> Callable[[int], int]:
    sizes = machine.lanes_of(operand, np.dtype(np.uint32))

    def size(lane: int) -> int:
        nbytes = int(sizes[lane])
        if nbytes == 0 or nbytes % CHUNK:
            raise MemoryAccessError(
                f"{machine.where(instruction, lane)}: `{instruction.text}` copies {nbytes:,} bytes; the size must be a "
                f"multiple of {CHUNK}, and not 0"
            )
        return nbytes

    return size


def _bind_range(
    machine: Machine, instruction: Instruction, operand: Operand, size: Operand, kind: str
) -> Callable[[int], Box]:
    """Return what gives the range of global memory that a lane copies."""
    addresses, offset = machine.addresses(operand)
    sizes = _bind_size(machine, instruction, size)

    def box(lane: int) -> Box:
        nbytes = sizes(lane)
        address = int(addresses[lane]) + offset
        _check_global(machine, instruction, lane, address, nbytes, CHUNK, kind)
        return Box(None, address, (), nbytes)

    return box


def _check_global(
    machine: Machine, instruction: Instruction, lane: int, address: int, nbytes: int, alignment: int, kind: str
) -> None:
    verb = "reads" if kind == "load" else "writes"
    text = f"{machine.where(instruction, lane)}: {{}}: {verb} {nbytes:,} bytes of global memory at {address:#x}"
    if address % alignment:
        raise MemoryAccessError(text.format("misaligned access") + f"; the address must be a multiple of {alignment}")
    allocation = MEMORY.find(address)
    inside = allocation is not None and not allocation.freed
    if not inside or address + nbytes > allocation.address + allocation.nbytes:  # type: ignore[union-attr]
        raise MemoryAccessError(text.format("access out of bounds") + f", {MEMORY.describe(address)}")


def _bind_box(machine: Machine, instruction: Instruction, operand: Operand, dimensions: int) -> Callable[[int], Box]:
    """Return what gives the box that a lane's tensor map and coordinates name."""
    if not isinstance(operand, Vector) or len(operand.items) != 2:
        raise machine.unsupported(instruction)
    base, coordinates = operand.items
    items = coordinates.items if isinstance(coordinates, Vector) else (coordinates,)
    if len(items) != dimensions:
        raise machine.unsupported(instruction, f"{len(items)} coordinates of {dimensions} dimensions")
    maps = bind_map(machine, instruction, base)
    places = [machine.lanes_of(item, np.dtype(np.int32)) for item in items]
    kind = "load" if _COMPLETE in instruction.modifiers or "prefetch" in instruction.modifiers else "store"

    def box(lane: int) -> Box:
        map_ = maps(lane)
        if map_.rank != dimensions:
            raise MemoryAccessError(
                f"{machine.where(instruction, lane)}: `{instruction.text}` has {dimensions} coordinates, and its "
                f"tensor map {map_.rank} dimensions"
            )
        width = map_.box[0] * map_.type.nbytes
        if width < map_.swizzle.nbytes:
            what = f"a box of {width} bytes, narrower than its swizzle of {map_.swizzle.nbytes}"
            raise machine.unsupported(instruction, what)
        found = Box(map_, 0, tuple(int(place[lane]) for place in places))
        if found.address:
            _check_global(machine, instruction, lane, found.address, found.extent, 1, kind)
        return found

    return box


def bind_map(machine: Machine, instruction: Instruction, operand: Operand) -> Callable[[int], TensorMap]:
    """Return what gives the tensor map of a lane, by its generic address."""
    if isinstance(operand, Symbol):
        address = machine.address_of(operand)
        addresses, offset = np.full(machine.lanes, address, np.uint64), 0
    elif isinstance(operand, Register):
        addresses, offset = machine.row(operand), 0
    else:
        addresses, offset = machine.addresses(operand)

    def map_of(lane: int) -> TensorMap:
        address = int(addresses[lane]) + offset
        where = f"{machine.where(instruction, lane)}: `{instruction.text}`"
        if address % ALIGNMENT:
            raise MemoryAccessError(f"{where}: the tensor map at {address:#x} must lie at a multiple of {ALIGNMENT}")
        start = address - ARENA_BASE
        allocation = MEMORY.find(address) if 0 <= start < MEMORY.capacity else None
        inside = allocation is not None and not allocation.freed
        if not inside or address + NBYTES > allocation.address + allocation.nbytes:  # type: ignore[union-attr]
            what = "a tensor map lies in the kernel's parameters, in constant or in global memory"
            raise MemoryAccessError(f"{where}: {what}; {address:#x} is {place_of(machine, instruction, address)}")
        found = decode(MEMORY.bytes[start : start + NBYTES].tobytes())
        if found is None:
            raise MemoryAccessError(
                f"{where}: what lies at {address:#x} is no tensor map that the emulator has encoded"
            )
        return found

    return map_of


def place_of(machine: Machine, instruction: Instruction, address: int) -> str:
    """Return a text that says where a generic address is."""
    return place(machine, Instruction("ld", (), (), None, instruction.location, instruction.text), address)


def _bind_shared(
    machine: Machine, instruction: Instruction, operand: Operand, cluster: bool
) -> Callable[[int, int, int], tuple[int, int]]:
    """Return what gives, for a lane, bytes and alignment, the block of the wave and the address in its memory."""
    if not isinstance(operand, Address):
        raise machine.unsupported(instruction)
    addresses, offset = machine.addresses(operand)
    valid = machine.shared_layout.valid
    granule = 1 << WINDOW_GRANULE_BITS

    def shared(lane: int, nbytes: int, alignment: int) -> tuple[int, int]:
        address = int(addresses[lane]) + offset
        if address >= SHARED_WINDOW:
            address -= SHARED_WINDOW
        block, within = int(machine.block_of_lane[lane]), address
        if cluster and address > WITHIN:
            rank, within = (address >> CLUSTER_BITS) - 1, address & WITHIN
            if rank >= machine.cluster_size:
                within = -1
            block += rank - int(machine.rank_of_lane[lane])
        parts = valid[max(0, within) >> WINDOW_GRANULE_BITS : within + nbytes >> WINDOW_GRANULE_BITS]
        if within % alignment:
            raise MemoryAccessError(
                f"{machine.where(instruction, lane)}: misaligned access: `{instruction.text}` copies shared memory at "
                f"{within:#x}; the address must be a multiple of {alignment}"
            )
        if within < 0 or parts.size * granule < nbytes or (parts < granule).any():
            machine_addresses = np.zeros(machine.lanes, np.int64)
            machine_addresses[lane] = address
            at = int(np.searchsorted(machine.active.lanes, lane))
            raise fault(machine, instruction, "shared", "async", nbytes, machine_addresses, 0, at)
        return block, within

    return shared
