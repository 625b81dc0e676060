"""Runs of steps as one compiled function, for blocks that are executed often.

Instruction by instruction, each result travels through memory, and each step costs a call. Here the steps between two
accesses to memory become one loop over lanes, which keeps what is between in the CPU's registers and which LLVM turns
into vector code; an access is a loop of its own, so all lanes make it before any lane goes on. A lane computes the same
bits, and a fault is the same fault.

Compiling takes some hundredths of a second, so a block is fused once it has been executed `HOT` times; the code is kept
in gpubp's cache.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from gpubp.emulator.device import accesses
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.device.steps import Access, Computation, Given, Source, Step
from gpubp.emulator.isa.lanecode import BIT, Value, llvm_type
from gpubp.emulator.program.ptx import Register
from gpubp.emulator.program.registers import Slot
from gpubp.toolchain import cache

HOT = 64
"""Executions of a block after which it is fused."""
CACHE_FORMAT = "1"

_LONG = ir.IntType(64)
_BYTE = ir.IntType(8)
_CHANGED = 1 << 62
"""What the function returns if a store has changed memory."""


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


class _Writer:
    """Writes a function of the number of lanes, a mask over lanes or a null pointer, and the arrays it works on.

    Attributes:
        arrays: registers, then other sources.
    """

    def __init__(self, machine: Machine, steps: Sequence[Step]) -> None:
        self._slots = machine.slots
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

    def module(self, steps: Sequence[Step], masked: bool) -> str:
        """Return a module in LLVM's language, whose `fused` takes a table of addresses apart for `body`."""
        module = ir.Module()
        pointers = [ir.IntType(8 * array.itemsize).as_pointer() for array in self.arrays]
        head = [_LONG, _BYTE.as_pointer()]
        body = ir.Function(module, ir.FunctionType(_LONG, [*head, *pointers]), "body")
        body.attributes.add("noinline")
        for argument in body.args[1:]:
            argument.add_attribute("noalias")
        self._write_body(body, steps, masked)
        entry = ir.Function(module, ir.FunctionType(_LONG, [*head, _BYTE.as_pointer().as_pointer()]), "fused")
        b = ir.IRBuilder(entry.append_basic_block())
        count, mask, table = entry.args
        arrays = [
            b.bitcast(b.load(b.gep(table, [ir.Constant(_LONG, index)])), pointer)
            for index, pointer in enumerate(pointers)
        ]
        b.ret(b.call(body, [count, mask, *arrays]))
        return str(module)

    def _write_body(self, body: Any, steps: Sequence[Step], masked: bool) -> None:
        self._count, self._mask, *self._pointers = body.args
        self._body = body
        self._b = b = ir.IRBuilder(body.append_basic_block())
        self._changed = b.alloca(BIT)
        b.store(ir.Constant(BIT, 0), self._changed)
        self._all = b.icmp_unsigned("==", self._mask, ir.Constant(self._mask.type, None))
        number = 0
        for computes, group in itertools.groupby(steps, lambda step: isinstance(step, Computation)):
            members = list(group)
            if computes:
                self._write_loop(lambda members=members: self._compute(members, masked))  # type: ignore[misc]
            else:
                for index, step in enumerate(members):
                    self._write_loop(lambda step=step, index=number + index: self._access(step, index))  # type: ignore[misc]
            number += len(members)
        b = self._b
        changed = b.select(b.load(self._changed), ir.Constant(_LONG, _CHANGED), ir.Constant(_LONG, 0))
        b.ret(changed)

    def _write_loop(self, write: Callable[[], None]) -> None:
        """Write a loop over lanes; `write` writes what it does to each."""
        before = self._b.block
        self._before, self._b = self._b, ir.IRBuilder(self._body.append_basic_block())
        loop = self._b.block
        self._lane = lane = self._b.phi(_LONG)
        lane.add_incoming(ir.Constant(_LONG, 0), before)
        self._loaded: dict[Slot, Value] = {}
        self._values: dict[Slot, Value] = {}
        self._uniform: dict[int, Value] = {}
        write()
        following = self._b.add(lane, ir.Constant(_LONG, 1))
        lane.add_incoming(following, self._b.block)
        after = self._body.append_basic_block()
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
                    self._values[slot] = raw if chosen is None else b.select(chosen, raw, self._slot(slot))
        for slot, value in self._values.items():
            kept = value if active is None else b.select(active, value, self._load(slot))
            b.store(kept, self._at(self._rows[slot]))

    # -- accesses -----------------------------------------------------------------------------------------------------

    def _access(self, step: Access, number: int) -> None:
        """Write the access of one lane. It is left out if the lane takes no part, and a fault ends the function."""
        ahead = self._body.append_basic_block
        unknown, takes_part, resolved, within, fails, following = (ahead() for _ in range(6))
        b = self._b
        b.cbranch(self._all, takes_part, unknown)
        b.position_at_end(unknown)
        b.cbranch(self._is_set(self._element(self._mask)), takes_part, following)
        b.position_at_end(takes_part)
        if step.guard is not None:
            guarded = ahead()
            b.cbranch(self._predicate(step.guard), guarded, following)
            b.position_at_end(guarded)
        memory, nbytes = step.memory, step.nbytes
        address = self._address(step.address, step.offset - memory.base)
        host, valid, extent = _given_of(memory)
        aligned = b.icmp_unsigned("==", b.and_(address, ir.Constant(_LONG, nbytes - 1)), ir.Constant(_LONG, 0))
        inside = b.icmp_unsigned("<", address, self._read(extent, extent.array.dtype))
        b.cbranch(b.and_(aligned, inside), resolved, fails)
        b.position_at_end(resolved)
        granule = b.lshr(address, ir.Constant(_LONG, memory.granule_bits))
        most = b.zext(b.load(b.gep(self._pointers[self._given[_key(valid)]], [granule])), _LONG)
        end = b.add(b.and_(address, ir.Constant(_LONG, (1 << memory.granule_bits) - 1)), ir.Constant(_LONG, nbytes))
        b.cbranch(b.icmp_unsigned("<=", end, most), within, fails)
        b.position_at_end(fails)
        b.ret(b.or_(ir.Constant(_LONG, number + 1 << 32), self._lane))
        b.position_at_end(within)
        self._move(step, b.add(self._read(host, host.array.dtype), address))
        b.branch(following)
        b.position_at_end(following)

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
                    b.store(self._raw(value, step.dtype, slot), self._at(self._rows[slot]))
            return
        for item, place in zip(step.items, places, strict=True):
            assert item is not None
            value = self._read(item, step.dtype)
            differs = b.icmp_unsigned("!=", b.load(place, align=1), value)
            b.store(b.or_(b.load(self._changed), differs), self._changed)
            b.store(value, place, align=1)

    def _address(self, source: Source, offset: int) -> Value:
        """Return a lane's address with an offset: a narrow register holds it without a sign, and wraps around."""
        if isinstance(source, Register):
            raw = self._slot(self._slots[source.name])
        else:
            assert isinstance(source, Given)
            raw = self._read(source, source.array.dtype)
        sum_ = self._b.add(raw, ir.Constant(raw.type, offset % (1 << raw.type.width)))
        return sum_ if raw.type == _LONG else self._b.zext(sum_, _LONG)

    # -- registers and other sources ----------------------------------------------------------------------------------

    def _at(self, index: int) -> Value:
        """Return a pointer to the lane's element of an array."""
        return self._b.gep(self._pointers[index], [self._lane])

    def _element(self, pointer: Value) -> Value:
        return self._b.load(self._b.gep(pointer, [self._lane]))

    def _is_set(self, raw: Value) -> Value:
        return self._b.icmp_unsigned("!=", raw, ir.Constant(_BYTE, 0))

    def _load(self, slot: Slot) -> Value:
        """Return what a register held before the loop."""
        if slot not in self._loaded:
            self._loaded[slot] = self._element(self._pointers[self._rows[slot]])
        return self._loaded[slot]

    def _slot(self, slot: Slot) -> Value:
        """Return what a register holds now."""
        return self._values[slot] if slot in self._values else self._load(slot)

    def _predicate(self, register: Register) -> Value:
        holds = self._is_set(self._slot(self._slots[register.name]))
        return self._b.not_(holds) if register.negated else holds

    def _read(self, source: Source, dtype: np.dtype[Any]) -> Value:
        """Return a source in the type that a step takes."""
        type_ = llvm_type(dtype)
        if isinstance(source, int):
            return self._typed(ir.Constant(ir.IntType(8 * dtype.itemsize), source), type_)
        if isinstance(source, Register):
            return self._predicate(source) if type_ == BIT else self._typed(self._slot(self._slots[source.name]), type_)
        index = self._given[_key(source)]
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


def _operands(step: Step) -> list[Source | None]:
    """Return the registers and other sources of a step, results included."""
    if isinstance(step, Access):
        return [step.address, *step.items, step.guard, *_given_of(step.memory)]
    return [*(source for source, _ in step.sources), *(target for target, _ in step.results), step.guard]


# -- compiling --------------------------------------------------------------------------------------------------------

_LOCK = threading.RLock()
_ENGINES: list[Any] = []
"""What owns the machine code."""


@functools.cache
def _compiled(text: str) -> Callable[[int, int, int], int]:
    """Return the function of a module, which is compiled for this CPU unless gpubp's cache has it."""
    parts = (CACHE_FORMAT, text, llvmlite.__version__, llvm.get_host_cpu_name(), _features())
    entry = f"loops/fused-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"
    with _LOCK:
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
