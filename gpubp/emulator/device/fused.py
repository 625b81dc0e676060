"""Runs of steps as one compiled function, for blocks that are executed often.

Instruction by instruction, each result travels through memory, and each step costs a call. Here the steps between two
accesses to memory become one loop over lanes, which keeps what is between in the CPU's registers and which LLVM turns
into vector code; an access is a loop of its own, so all lanes make it before any lane goes on. A lane computes the same
bits, and a fault is the same fault.

Compiling takes from some hundredths of a second to a second for the longest blocks, so a block is fused once it has
been executed often (`HOT`). The code is kept in gpubp's cache; with it, writing the text is what is left.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from gpubp.emulator.device import accesses
from gpubp.emulator.device.memory import WINDOW_GRANULE_BITS
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.device.steps import Access, Computation, Given, Source, Step
from gpubp.emulator.isa.lanecode import BIT, Value, llvm_type
from gpubp.emulator.loops import interrupts_wait
from gpubp.emulator.program.ptx import Register
from gpubp.emulator.program.registers import Slot
from gpubp.toolchain import cache

HOT = 64
"""Executions of a block after which it is fused, if it has no more than `SHORT` instructions; else more, in proportion:
compiling a long block takes a second."""
SHORT = 32
CACHE_FORMAT = "2"
"""Goes up with whatever changes what is made of a text, such as LLVM's options here."""

_LONG = ir.IntType(64)
_BYTE = ir.IntType(8)
_CHANGED = 1 << 62
"""What the function returns if a store has changed memory. It returns 0 if none has, and for a fault the number of the
step, from 1, in the upper half and the lane in the lower."""


def fuse(machine: Machine, steps: Sequence[Step], masked: bool) -> Callable[[], None]:
    """Return a function that executes steps on the active lanes of a machine.

    Args:
        machine: whose registers and memories they work on.
        steps: what the instructions do.
        masked: whether living lanes may stand aside, whose registers must stay what they are.
    """
    writer = _Writer(machine, steps)
    function = _compiled(writer.module(steps, masked))
    arrays = writer.arrays
    table = np.array([array.ctypes.data for array in arrays], np.uint64)
    addresses, lanes, mask, mask_address = int(table.ctypes.data), machine.lanes, machine.mask, machine.mask_address
    reads_mask = masked or any(isinstance(step, Access) for step in steps)

    def run(_: object = (arrays, table)) -> None:  # which must live as long as this function
        active = machine.active
        at = 0
        if reads_mask and not active.whole:
            np.copyto(mask, active.mask)
            at = mask_address
        result = function(lanes, at, addresses)
        if result:
            if result == _CHANGED:
                machine.changed = True
            else:
                raise _fault(machine, steps[(result >> 32) - 1], result & 0xFFFFFFFF)

    return run


def _fault(machine: Machine, step: Step, lane: int) -> Exception:
    assert isinstance(step, Access)
    row = machine.row(step.address) if isinstance(step.address, Register) else step.address.array  # type: ignore[union-attr]
    position = int(np.searchsorted(machine.active.lanes, lane))
    kind = "store" if step.stores else "load"
    return accesses.fault(machine, step.instruction, step.memory.space, kind, step.nbytes, row, step.offset, position)


# -- writing the function ---------------------------------------------------------------------------------------------


def _key(given: Given) -> tuple[int, int]:
    """Return what tells arrays apart: views of other sizes may begin at one address."""
    return given.array.ctypes.data, given.array.itemsize


def _given_of(memory: accesses.Memory) -> list[Given]:
    """Return the arrays that an access to a memory needs: its host address, its table of valid bytes, and its size."""
    return [Given(memory.host, memory.host.ndim == 0), Given(memory.valid, False), Given(memory.extent, True)]


def _operands(step: Step) -> list[Source | None]:
    """Return the registers and other sources of a step, results included."""
    if isinstance(step, Access):
        return [step.address, *step.items, step.guard, *_given_of(step.memory)]
    return [*(source for source, _ in step.sources), *(target for target, _ in step.results), step.guard]


class _Writer:
    """Writes a module in LLVM's language: a function for each loop, and `fused`, which calls one after the other.

    A function for each, as what LLVM does to a function takes longer the more loops there are in it.

    Attributes:
        arrays: what the loops work on: registers, then other sources.
    """

    def __init__(self, machine: Machine, steps: Sequence[Step]) -> None:
        self.slots = machine.slots
        rows: dict[Slot, Array] = {}
        given: dict[tuple[int, int], Given] = {}
        for one in itertools.chain.from_iterable(map(_operands, steps)):
            if isinstance(one, Register):
                rows[machine.slots[one.name]] = machine.row(one)
            elif isinstance(one, Given):
                given[_key(one)] = one
        self._rows = {slot: index for index, slot in enumerate(rows)}
        self._given = {key: len(rows) + index for index, key in enumerate(given)}
        self.arrays: list[Array] = [*rows.values(), *(one.array for one in given.values())]

    def index_of(self, one: Register | Given) -> int:
        """Return which of the arrays a register or another source is."""
        return self._rows[self.slots[one.name]] if isinstance(one, Register) else self._given[_key(one)]

    def module(self, steps: Sequence[Step], masked: bool) -> str:
        """Return the text of the module."""
        module = ir.Module()
        entry = ir.Function(
            module, ir.FunctionType(_LONG, [_LONG, _BYTE.as_pointer(), _BYTE.as_pointer().as_pointer()]), "fused"
        )
        count, mask, table = entry.args
        b = ir.IRBuilder(entry.append_basic_block())
        changed: Value = ir.Constant(_LONG, 0)
        for number, members in _groups(steps):
            indexes = sorted(
                {self.index_of(one) for step in members for one in _operands(step) if isinstance(one, Register | Given)}
            )
            types = [ir.IntType(8 * self.arrays[index].itemsize).as_pointer() for index in indexes]
            function = ir.Function(module, ir.FunctionType(_LONG, [_LONG, _BYTE.as_pointer(), *types]), f"loop{number}")
            _Loop(self, function, indexes).write(members, number, masked)
            arrays = [
                b.bitcast(b.load(b.gep(table, [ir.Constant(_LONG, index)])), type_)
                for index, type_ in zip(indexes, types, strict=True)
            ]
            result = b.call(function, [count, mask, *arrays])
            if isinstance(members[0], Access):
                below = b.sub(result, ir.Constant(_LONG, 1))
                with b.if_then(b.icmp_unsigned("<", below, ir.Constant(_LONG, _CHANGED - 1)), likely=False):
                    b.ret(result)
                changed = b.or_(changed, result)
        b.ret(changed)
        return str(module)


def _groups(steps: Sequence[Step]) -> Iterator[tuple[int, list[Step]]]:
    """Yield what becomes one function, with the number of its first step: all computations up to the next access, or
    an access."""
    number = 0
    for computes, group in itertools.groupby(steps, lambda step: isinstance(step, Computation)):
        members = list(group)
        if computes:
            yield number, members
        else:
            yield from ((number + index, [step]) for index, step in enumerate(members))
        number += len(members)


class _Loop:
    """Writes a function: a loop over lanes that computes, or one that loads, or two that check a store and store."""

    def __init__(self, writer: _Writer, function: Any, indexes: Sequence[int]) -> None:
        function.attributes.add("noinline")
        for argument in function.args[1:]:
            argument.add_attribute("noalias")
        self._count, self._mask, *pointers = function.args
        self._index_of = writer.index_of
        self._slots = writer.slots
        self._pointers = dict(zip(indexes, pointers, strict=True))
        self._function = function
        self._b = ir.IRBuilder(function.append_basic_block())

    def write(self, members: Sequence[Step], number: int, masked: bool) -> None:
        first = members[0]
        if isinstance(first, Access):
            self._all = self._b.icmp_unsigned("==", self._mask, ir.Constant(self._mask.type, None))
            self._changed = self._b.alloca(BIT)
            self._b.store(ir.Constant(BIT, 0), self._changed)
            if first.stores:  # nothing is stored if any lane may not
                self._each_lane(lambda: self._access(first, number, moves=False))
                self._each_lane(lambda: self._access(first, number, checks=False))
            else:
                self._each_lane(lambda: self._access(first, number))
            changed = self._b.load(self._changed)
            self._b.ret(self._b.select(changed, ir.Constant(_LONG, _CHANGED), ir.Constant(_LONG, 0)))
            return
        computations = [step for step in members if isinstance(step, Computation)]
        self._each_lane(lambda: self._compute(computations, masked))
        self._b.ret(ir.Constant(_LONG, 0))

    def _each_lane(self, write: Callable[[], None]) -> None:
        """Write a loop over lanes; `write` writes what it does to each."""
        before = self._b.block
        self._before, self._b = self._b, ir.IRBuilder(self._function.append_basic_block())
        loop = self._b.block
        self._lane = lane = self._b.phi(_LONG)
        lane.add_incoming(ir.Constant(_LONG, 0), before)
        self._loaded: dict[Slot, Value] = {}
        self._values: dict[Slot, Value] = {}
        self._targets: dict[Slot, Register] = {}
        self._uniform: dict[int, Value] = {}
        write()
        following = self._b.add(lane, ir.Constant(_LONG, 1))
        lane.add_incoming(following, self._b.block)
        after = self._function.append_basic_block()
        self._b.cbranch(self._b.icmp_unsigned("<", following, self._count), loop, after)
        self._before.branch(loop)
        self._b = ir.IRBuilder(after)

    # -- computations -------------------------------------------------------------------------------------------------

    def _compute(self, steps: Sequence[Computation], masked: bool) -> None:
        b = self._b
        active = self._is_set(self._element(self._mask)) if masked else None
        for step in steps:
            results = step.emit(b, *(self._read(source, dtype) for source, dtype in step.sources))
            chosen = None if step.guard is None else self._predicate(step.guard)
            for (target, dtype), value in zip(step.results, results, strict=True):
                if target is not None:
                    slot = self._slots[target.name]
                    raw = self._raw(value, dtype, slot)
                    self._values[slot] = raw if chosen is None else b.select(chosen, raw, self._register(target))
                    self._targets[slot] = target
        for slot, value in self._values.items():
            target = self._targets[slot]
            kept = value if active is None else b.select(active, value, self._load(target))
            b.store(kept, self._at(target))

    # -- accesses -----------------------------------------------------------------------------------------------------

    def _access(self, step: Access, number: int, *, checks: bool = True, moves: bool = True) -> None:
        """Write the access of one lane. It is left out if the lane takes no part, and a fault ends the function."""
        ahead = self._function.append_basic_block
        unknown, takes_part, following = ahead(), ahead(), ahead()
        b = self._b
        b.cbranch(self._all, takes_part, unknown)
        b.position_at_end(unknown)
        b.cbranch(self._is_set(self._element(self._mask)), takes_part, following)
        b.position_at_end(takes_part)
        if step.guard is not None:
            guarded = ahead()
            b.cbranch(self._predicate(step.guard), guarded, following)
            b.position_at_end(guarded)
        address = self._address(step)
        if checks:
            self._check(step, address, ir.Constant(_LONG, (number + 1) << 32))
        if moves:
            host = _given_of(step.memory)[0]
            self._move(step, b.add(self._read(host, host.array.dtype), address))
        b.branch(following)
        b.position_at_end(following)

    def _check(self, step: Access, address: Value, fault: Value) -> None:
        """Write the check of one lane's address, which ends the function by `fault` and the lane if it fails."""
        b, memory, nbytes = self._b, step.memory, step.nbytes
        resolved, within, fails = (self._function.append_basic_block() for _ in range(3))
        _, valid, extent = _given_of(memory)
        aligned = b.icmp_unsigned("==", b.and_(address, ir.Constant(_LONG, nbytes - 1)), ir.Constant(_LONG, 0))
        inside = b.icmp_unsigned("<", address, self._read(extent, extent.array.dtype))
        b.cbranch(b.and_(aligned, inside), resolved, fails)
        b.position_at_end(resolved)
        granule = b.lshr(address, ir.Constant(_LONG, memory.granule_bits))
        most = b.zext(b.load(b.gep(self._pointers[self._index_of(valid)], [granule])), _LONG)
        end = b.add(b.and_(address, ir.Constant(_LONG, (1 << memory.granule_bits) - 1)), ir.Constant(_LONG, nbytes))
        b.cbranch(b.icmp_unsigned("<=", end, most), within, fails)
        b.position_at_end(fails)
        b.ret(b.or_(fault, self._lane))
        b.position_at_end(within)

    def _move(self, step: Access, pointer: Value) -> None:
        """Write the loads or stores of one lane's items, which lie at a pointer one after the other."""
        b, type_ = self._b, llvm_type(step.dtype)
        places = [
            b.inttoptr(b.add(pointer, ir.Constant(_LONG, index * step.dtype.itemsize)), type_.as_pointer())
            for index in range(len(step.items))
        ]
        if not step.stores:
            values = [b.load(place, align=1) for place in places]
            for item, value in zip(step.items, values, strict=True):
                if isinstance(item, Register):
                    slot = self._slots[item.name]
                    b.store(self._raw(value, step.dtype, slot), self._at(item))
            return
        for item, place in zip(step.items, places, strict=True):
            assert item is not None
            value = self._read(item, step.dtype)
            differs = b.icmp_unsigned("!=", b.load(place, align=1), value)
            b.store(b.or_(b.load(self._changed), differs), self._changed)
            b.store(value, place, align=1)

    def _address(self, step: Access) -> Value:
        """Return a lane's address within its memory. A narrow register holds it without a sign; in a window, one of 32
        bits wraps around."""
        b, source, memory = self._b, step.address, step.memory
        raw = self._register(source) if isinstance(source, Register) else self._read(source, np.dtype(np.uint64))
        narrow = raw.type.width < 64
        address = b.add(b.zext(raw, _LONG) if narrow else raw, ir.Constant(_LONG, step.offset % (1 << 64)))
        if raw.type.width == 32 and memory.granule_bits == WINDOW_GRANULE_BITS:
            address = b.and_(address, ir.Constant(_LONG, 0xFFFFFFFF))
        return b.sub(address, ir.Constant(_LONG, memory.base))

    # -- registers and other sources ----------------------------------------------------------------------------------

    def _at(self, register: Register) -> Value:
        """Return a pointer to the lane's element of a register."""
        return self._b.gep(self._pointers[self._index_of(register)], [self._lane])

    def _element(self, pointer: Value) -> Value:
        return self._b.load(self._b.gep(pointer, [self._lane]))

    def _is_set(self, raw: Value) -> Value:
        return self._b.icmp_unsigned("!=", raw, ir.Constant(_BYTE, 0))

    def _load(self, register: Register) -> Value:
        """Return what a register held before the loop."""
        slot = self._slots[register.name]
        if slot not in self._loaded:
            self._loaded[slot] = self._b.load(self._at(register))
        return self._loaded[slot]

    def _register(self, register: Register) -> Value:
        """Return what a register holds now."""
        slot = self._slots[register.name]
        return self._values[slot] if slot in self._values else self._load(register)

    def _predicate(self, register: Register) -> Value:
        holds = self._is_set(self._register(register))
        return self._b.not_(holds) if register.negated else holds

    def _read(self, source: Source, dtype: np.dtype[Any]) -> Value:
        """Return a source in the type that a step takes."""
        type_ = llvm_type(dtype)
        if isinstance(source, int):
            return self._typed(ir.Constant(ir.IntType(8 * dtype.itemsize), source), type_)
        if isinstance(source, Register):
            return self._predicate(source) if type_ == BIT else self._typed(self._register(source), type_)
        index = self._index_of(source)
        if not source.uniform:
            return self._typed(self._element(self._pointers[index]), type_)
        if index not in self._uniform:
            self._uniform[index] = self._before.load(self._pointers[index])
        return self._typed(self._uniform[index], type_)

    def _typed(self, raw: Value, type_: Any) -> Value:
        """Return raw bits, or the lower ones of them, as a value of a type."""
        if type_ == BIT:
            return ir.Constant(BIT, raw.constant & 1)  # registers are read as predicates, only constants are left
        if isinstance(type_, ir.IntType):
            return raw if raw.type == type_ else self._b.trunc(raw, type_)
        bits = ir.IntType(32 if type_ == ir.FloatType() else 64)
        return self._b.bitcast(raw if raw.type == bits else self._b.trunc(raw, bits), type_)

    def _raw(self, value: Value, dtype: np.dtype[Any], slot: Slot) -> Value:
        """Return a result as the bits of its register: extended, by its sign if it has one, or cut."""
        b, type_ = self._b, ir.IntType(8 * max(1, slot[0]))
        if dtype.kind == "f":
            return b.bitcast(value, type_)
        if value.type.width > type_.width:
            return b.trunc(value, type_)
        if value.type.width == type_.width:
            return value
        return b.sext(value, type_) if dtype.kind == "i" else b.zext(value, type_)


# -- compiling --------------------------------------------------------------------------------------------------------

_LOCK = threading.RLock()
_ENGINES: list[Any] = []
"""What owns the machine code."""


@functools.cache
def _compiled(text: str) -> Callable[[int, int, int], int]:
    """Return the function of a module, which is compiled for this CPU unless gpubp's cache has it."""
    with _LOCK, interrupts_wait():
        parts = (CACHE_FORMAT, text, llvmlite.__version__, llvm.get_host_cpu_name(), _features())
        entry = f"loops/fused-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"
        content = cache.find(entry, _read)
        if content is None:
            content = _object_code(text)
            cache.keep(entry, {".o": hashlib.sha256(content).digest() + content})
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(content))
        engine.finalize_object()
        _ENGINES.append(engine)
        address = engine.get_function_address("fused")
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address)


def _read(path: Path) -> bytes | None:
    """Return the object code of an entry, or None if it is absent or damaged."""
    try:
        content = path.with_name(f"{path.name}.o").read_bytes()
    except OSError:
        return None
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def _object_code(text: str) -> bytes:
    module = llvm.parse_assembly(text)
    module.verify()
    machine = _target_machine()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return machine.emit_object(module)


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=2, jit=True)


@functools.cache
def _features() -> str:
    return llvm.get_host_cpu_features().flatten()
