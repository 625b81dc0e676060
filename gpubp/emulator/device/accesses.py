"""Memory instructions: ld, st, atom, red, and cp.async, in every state space.

Each is bound to a closure that first turns the active lanes' addresses into checked host pointers, then moves the data.
Cache hints and memory orders change nothing here: a wave sees its own accesses in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpubp.emulator.device import native
from gpubp.emulator.device.lanewise import Action, Bound, always, compose
from gpubp.emulator.device.memory import (
    ARENA_BASE,
    GRANULE_BITS,
    LOCAL_WINDOW,
    MEMORY,
    SHARED_WINDOW,
    WINDOW_GRANULE_BITS,
)
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.errors import MemoryAccessError
from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.program.ptx import TYPE_BYTES, Address, Instruction, Operand, Register, Sink, Symbol, Vector

SPACES = ("global", "shared", "local", "param", "const")
_ORDERS = frozenset(("volatile", "relaxed", "acquire", "release", "acq_rel", "weak", "mmio"))
_SCOPES = frozenset(("cta", "cluster", "gpu", "sys"))
_CACHE_OPERATORS = frozenset(("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"))
_WITHOUT_EFFECT = _ORDERS | _SCOPES | _CACHE_OPERATORS
_HINTS = ("L1::", "L2::")
_WINDOWS = np.array([SHARED_WINDOW, LOCAL_WINDOW], np.int64)
ALL_SPACES = {1: "global", 2: "shared", 4: "local"}


class AccessModifiers:
    """What a memory instruction's modifiers say: space ("generic" if none), vector length, type, and the rest."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        self.space = "generic"
        self.vector = 1
        self.rest: list[str] = []
        *modifiers, self.type = instruction.modifiers
        if self.type not in TYPE_BYTES or self.type == "pred":
            raise machine.unsupported(instruction)
        for modifier in modifiers:
            base = modifier.split("::")[0]
            if base in SPACES and modifier in (base, "shared::cta", "param::entry", "param::func"):
                self.space = base
            elif modifier == "shared::cluster":
                self.space = "cluster"
            elif modifier in ("v2", "v4", "v8"):
                self.vector = int(modifier[1:])
            elif modifier not in _WITHOUT_EFFECT and not modifier.startswith(_HINTS):
                self.rest.append(modifier)
        self.item = TYPE_BYTES[self.type]
        if self.item > 8:
            raise machine.unsupported(instruction, "128-bit accesses")


class Memory(NamedTuple):
    """Where a space lies: the byte at an address is at `host` + address - `base` of this process.

    Attributes:
        host: one host address for all lanes (0-d), or one a lane, in int64.
        valid: valid bytes of each granule of 2**granule_bits, from its start.
        extent: the number of bytes that `valid` describes (0-d).
    """

    space: str
    base: int
    host: Array
    valid: Array
    extent: Array
    granule_bits: int


def memory_of(machine: Machine, space: str) -> Memory | None:
    """Return the memory that a state space names; None for generic addresses and parameters."""
    if space in ("global", "const"):
        base, host, valid, bits = ARENA_BASE, np.array(MEMORY.host_base), MEMORY.valid, GRANULE_BITS
    elif space == "shared":
        base, host, valid, bits = 0, machine.shared_bases, machine.shared_layout.valid, WINDOW_GRANULE_BITS
    elif space == "local" and machine.calls is None:
        base, host, valid, bits = 0, machine.local_bases, machine.local_layout.valid, WINDOW_GRANULE_BITS
    else:
        return None
    return Memory("global" if space == "const" else space, base, host, valid, np.array(valid.size << bits), bits)


# -- addresses to pointers --------------------------------------------------------------------------------------------

Access = Callable[[], Array]


def bind_access(
    machine: Machine,
    instruction: Instruction,
    operand: Operand,
    space: str,
    nbytes: int,
    kind: str,
    out: Array | None = None,
) -> Access:
    """Return a function that checks the addresses of the active lanes and returns their host pointers, lane by lane.

    `kind` ("load", "store", "atomic") is for messages and observers. The result is overwritten by the next access
    unless an `out` is given.
    """
    addresses, offset = machine.addresses(operand)
    pointers = machine.pointers if out is None else out
    arguments = (machine, instruction, addresses, offset, nbytes, kind, pointers)
    return _param_resolver(machine, operand)(*arguments) if space == "param" else _bind_space(space, *arguments)


def bind_access_at(
    machine: Machine, instruction: Instruction, addresses: Array, space: str, nbytes: int, kind: str
) -> Access:
    """Return what bind_access does, for addresses over lanes that the caller writes before each access."""
    return _bind_space(space, machine, instruction, addresses, 0, nbytes, kind, machine.pointers)


def _bind_space(space: str, *arguments: Any) -> Access:
    if space == "generic":
        return _resolver_generic(*arguments)
    if space == "cluster":
        return _watched(_resolver_cluster(0)(*arguments), "shared", *arguments)
    # A const operand lies in the arena, but is no traffic of global memory.
    return _watched(_RESOLVERS["global" if space == "const" else space](*arguments), space, *arguments)


def _watched(
    access: Access,
    space: str,
    machine: Machine,
    instruction: Instruction,
    _: Array,
    __: int,
    nbytes: int,
    kind: str,
    ___: Array,
) -> Access:
    """Return the access itself, or one that also tells the observer."""
    if machine.observer is None or kind == "hint":
        return access
    watch = machine.observer.watch(machine, instruction, space, nbytes, kind)
    if watch is None:
        return access

    def observed() -> Array:
        pointers = access()
        watch(pointers)
        return pointers

    return observed


def _param_resolver(machine: Machine, operand: Operand) -> Callable[..., Access]:
    """Return the resolver of a parameter: a kernel's lies in the arena, a device function's in local memory."""
    if not isinstance(operand, Address) or not isinstance(operand.base, Symbol):
        return _resolver_any_param
    of_function = operand.base.name in machine.local_layout.addresses or machine.in_frame(operand.base)
    return _resolver_function_param if of_function else _resolver_kernel_param


def _resolver_global(
    machine: Machine, instruction: Instruction, addresses: Array, offset: int, nbytes: int, kind: str, out: Array
) -> Access:
    valid, host, resolve = MEMORY.valid, MEMORY.host_base, native.resolve_global

    def access() -> Array:
        active = machine.active
        bad = resolve(
            addresses,
            offset,
            nbytes,
            ARENA_BASE,
            host,
            valid,
            GRANULE_BITS,
            active.lanes,
            active.whole,
            active.count,
            out,
        )
        if bad >= 0:
            raise fault(machine, instruction, "global", kind, nbytes, addresses, offset, bad)
        return out

    return access


def _resolver_window(space: str, base: int) -> Callable[..., Access]:
    def bind(
        machine: Machine, instruction: Instruction, addresses: Array, offset: int, nbytes: int, kind: str, out: Array
    ) -> Access:
        if space == "shared" and base and machine.cluster_size > 1:
            return _resolver_cluster(base)(machine, instruction, addresses, offset, nbytes, kind, out)
        if space == "local" and machine.calls is not None:
            return _resolver_frames(machine, instruction, addresses, offset, base, nbytes, kind, out)
        layout = machine.shared_layout if space == "shared" else machine.local_layout
        bases = machine.shared_bases if space == "shared" else machine.local_bases
        valid, resolve, shifted = layout.valid, native.resolve_window, offset - base

        def access() -> Array:
            active = machine.active
            bad = resolve(
                addresses,
                shifted,
                nbytes,
                bases,
                valid,
                WINDOW_GRANULE_BITS,
                active.lanes,
                active.whole,
                active.count,
                out,
            )
            if bad >= 0:
                raise fault(machine, instruction, space, kind, nbytes, addresses, offset - base, bad)
            return out

        return access

    return bind


def _resolver_cluster(base: int) -> Callable[..., Access]:
    """Return the resolver of addresses of shared memory of a cluster (clusters.py), from `base` on."""

    def bind(
        machine: Machine, instruction: Instruction, addresses: Array, offset: int, nbytes: int, kind: str, out: Array
    ) -> Access:
        valid, bases, ranks = machine.shared_layout.valid, machine.shared_bases, machine.rank_of_lane
        row, size = machine.shared.shape[1], machine.cluster_size

        def access() -> Array:
            active = machine.active
            bad = native.resolve_cluster(
                addresses,
                offset - base,
                nbytes,
                bases,
                ranks,
                row,
                size,
                valid,
                WINDOW_GRANULE_BITS,
                active.lanes,
                active.whole,
                active.count,
                out,
            )
            if bad >= 0:
                raise fault(machine, instruction, "shared", kind, nbytes, addresses, offset - base, bad)
            check_peers(machine, instruction, out[: active.count])
            return out

        return access

    return bind


def check_peers(machine: Machine, instruction: Instruction, pointers: Array) -> None:
    """Raise MemoryAccessError if the active lanes access shared memory of a block of their cluster that has ended."""
    if machine.cluster_size == 1:
        return
    owner = (pointers - machine.shared.ctypes.data) // machine.shared.shape[1]
    lanes = machine.active.lanes
    remote = owner != machine.block_of_lane[lanes]
    if not remote.any():
        return
    lives = np.asarray(machine.live.reshape(machine.blocks, -1).any(axis=1))
    gone = remote & ~lives[owner]
    if gone.any():
        position = int(np.flatnonzero(gone)[0])
        block = machine.block_index(int(owner[position]) * machine.padded)
        raise MemoryAccessError(
            f"{machine.where(instruction, int(lanes[position]))}: `{instruction.text}` accesses shared memory of block "
            f"{block}, which has ended: its threads must wait, at a barrier of the cluster, until all others are done"
        )
    if machine.observer is not None:
        machine.observer.peer_accessed(machine, instruction, lanes[remote], owner[remote])


def _resolver_frames(
    machine: Machine,
    instruction: Instruction,
    addresses: Array,
    offset: int,
    base: int,
    nbytes: int,
    kind: str,
    out: Array,
) -> Access:
    """Return the access to local memory of a program with calls, in which each lane has frames of its own."""
    calls, bases, shifted = machine.calls, machine.local_bases, offset - base

    def access() -> Array:
        active = machine.active
        bad = native.resolve_frames(
            addresses,
            shifted,
            nbytes,
            bases,
            calls.valid,
            WINDOW_GRANULE_BITS,
            active.lanes,
            active.whole,
            active.count,
            out,
        )
        if bad >= 0:
            raise fault(machine, instruction, "local", kind, nbytes, addresses, shifted, bad)
        return out

    return access


def _resolver_kernel_param(*arguments: Any) -> Access:
    return _watched(_resolver_global(*arguments), "const", *arguments)


def _resolver_function_param(*arguments: Any) -> Access:
    return _watched(_RESOLVERS["local"](*arguments), "local", *arguments)


def _resolver_any_param(machine: Machine, instruction: Instruction, addresses: Array, *rest: Any) -> Access:
    arguments = (machine, instruction, addresses, *rest)
    of_kernel, of_function = _resolver_kernel_param(*arguments), _resolver_function_param(*arguments)

    def access() -> Array:
        return (of_kernel if int(addresses[machine.active.lanes[0]]) >= ARENA_BASE else of_function)()

    return access


def _resolver_generic(
    machine: Machine, instruction: Instruction, addresses: Array, offset: int, nbytes: int, kind: str, out: Array
) -> Access:
    part = np.zeros(machine.lanes, np.int64)

    def bind(pointers: Array) -> dict[int, Access]:
        arguments = (machine, instruction, addresses, offset, nbytes, kind, pointers)
        return {bit: _watched(_GENERIC[space](*arguments), space, *arguments) for bit, space in ALL_SPACES.items()}

    bound, partial = bind(out), bind(part)

    def access() -> Array:
        active = machine.active
        found = native.spaces(addresses, offset, _WINDOWS, active.lanes, active.whole, active.count)
        if found in bound:
            return bound[found]()
        where = np.searchsorted(_WINDOWS, addresses.astype(np.int64) + offset, side="right")
        for index, bit in enumerate((1, 2, 4)):
            if found & bit:
                mask = active.mask & (where == index)
                machine.active = active.within(mask)
                partial[bit]()
                out[: active.count][mask[active.lanes]] = part[: machine.active.count]
        machine.active = active
        return out

    return access


_GENERIC: dict[str, Callable[..., Access]] = {
    "global": _resolver_global,
    "shared": _resolver_window("shared", SHARED_WINDOW),
    "local": _resolver_window("local", LOCAL_WINDOW),
}
_RESOLVERS: dict[str, Callable[..., Access]] = {
    "global": _resolver_global,
    "shared": _resolver_window("shared", 0),
    "local": _resolver_window("local", 0),
}


def fault(
    machine: Machine,
    instruction: Instruction,
    space: str,
    kind: str,
    nbytes: int,
    addresses: Array,
    offset: int,
    position: int,
) -> MemoryAccessError:
    """Return the error for the access of the active lane at `position`."""
    lane = int(machine.active.lanes[position])
    address = int(addresses[lane]) + offset
    if addresses.itemsize == 4:
        address %= 1 << 32
    verb = {"load": "reads", "store": "writes", "atomic": "updates", "async": "copies", "hint": "names"}[kind]
    what = f"{verb} {nbytes} bytes of {space} memory at {address:#x}"
    if address % nbytes:
        return MemoryAccessError(
            f"{machine.where(instruction, lane)}: misaligned access: {what}; the address must be a multiple of {nbytes}"
        )
    where = _variable(machine, space, address, lane)
    return MemoryAccessError(f"{machine.where(instruction, lane)}: access out of bounds: {what}, {where}")


def place(machine: Machine, instruction: Instruction, address: int) -> str:
    """Return a text that says what memory an instruction accesses at an address."""
    space = next((space for space in SPACES if {space, f"{space}::cta"} & set(instruction.modifiers)), "")
    if not space:
        bit = int(np.searchsorted(_WINDOWS, address, side="right"))
        space = ("global", "shared", "local")[bit]
        address -= (0, SHARED_WINDOW, LOCAL_WINDOW)[bit]
    return f"{space} memory, {_variable(machine, space, address)}"


def _variable(machine: Machine, space: str, address: int, lane: int | None = None) -> str:
    if space == "local" and machine.calls is not None and lane is not None:
        return str(machine.calls.describe(lane, address))
    if space == "shared" and machine.cluster_size > 1:
        address &= 0xFFFFFF  # without the rank of a block, see clusters.py
    if space in ("shared", "local"):
        return (machine.shared_layout if space == "shared" else machine.local_layout).describe(address)
    return MEMORY.describe(address)


# -- ld and st --------------------------------------------------------------------------------------------------------


def bind_load(machine: Machine, instruction: Instruction) -> Bound:
    modifiers = AccessModifiers(machine, instruction)
    if modifiers.rest:
        raise machine.unsupported(instruction)
    to, operand = instruction.operands[:2]
    if (bound := _bind_parameter(machine, instruction)) is not None:
        return bound
    items = to.items if isinstance(to, Vector) else (to,)
    if len(items) != modifiers.vector:
        raise machine.unsupported(instruction)
    access = bind_access(machine, instruction, operand, modifiers.space, modifiers.item * modifiers.vector, "load")
    dtype = memory_dtype(modifiers)
    outs, conversions = _load_targets(machine, items, dtype)
    move = _gather(machine, access, outs)
    return always(_with_conversions(machine, move, conversions) if conversions else move)


def parameter_values(machine: Machine, instruction: Instruction) -> list[tuple[Operand, Array]] | None:
    """Return the destinations of an ld.param with what they get, one value for all lanes, as views of the parameters.

    None if it loads no kernel's parameter, or if the general way must say what is wrong with it.
    """
    modifiers = AccessModifiers(machine, instruction)
    to, operand = instruction.operands[:2]
    if modifiers.space != "param" or not isinstance(operand, Address) or not isinstance(operand.base, Symbol):
        return None
    if operand.base.name not in machine.parameter_offsets:
        return None
    start = machine.parameter_offsets[operand.base.name] + operand.base.offset + operand.offset
    dtype = memory_dtype(modifiers)
    values: list[tuple[Operand, Array]] = []
    for index, item in enumerate(to.items if isinstance(to, Vector) else (to,)):
        first = start + index * modifiers.item
        if first < 0 or first + modifiers.item > machine.parameter_bytes.size or first % modifiers.item:
            return None
        values.append((item, machine.parameter_bytes[first : first + modifiers.item].view(dtype)))
    return values


def _bind_parameter(machine: Machine, instruction: Instruction) -> Bound | None:
    """Return the step of ld.param of a kernel's parameter, or None."""
    values = parameter_values(machine, instruction)
    if values is None:
        return None
    outs, sources = [], []
    for item, value in values:
        if isinstance(item, Register):
            row = machine.row(item)
            outs.append(row.view(f"{value.dtype.kind}{row.itemsize}"))
            sources.append(value)

    def apply(*arrays: Array) -> None:
        for out, value in zip(arrays[: len(outs)], arrays[len(outs) :], strict=True):
            out[...] = value

    return compose(machine, apply, outs, sources, [], [])


def memory_dtype(modifiers: AccessModifiers) -> np.dtype[Any]:
    return np.dtype(f"{'i' if modifiers.type[0] == 's' else 'u'}{modifiers.item}")


def _load_targets(
    machine: Machine, items: tuple[Operand, ...], dtype: np.dtype[Any]
) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """Return arrays to gather into, and (register, gathered) pairs to widen afterwards."""
    outs: list[Array] = []
    conversions: list[tuple[Array, Array]] = []
    for index, item in enumerate(items):
        if isinstance(item, Register) and machine.row(item).itemsize == dtype.itemsize:
            outs.append(machine.row(item))
            continue
        gathered = machine.scratch(dtype, 16 + index)
        outs.append(gathered)
        if isinstance(item, Register):
            row = machine.row(item)
            conversions.append((row.view(f"{dtype.kind}{row.itemsize}"), gathered))
    return outs, conversions


def _gather(machine: Machine, access: Access, outs: list[Array]) -> Action:
    if len(outs) == 4:
        first, second, third, fourth = outs

        def load4() -> None:
            pointers = access()
            active = machine.active
            native.gather4(pointers, first, second, third, fourth, active.lanes, active.whole, active.count)

        return load4
    if len(outs) == 2:
        first, second = outs

        def load2() -> None:
            pointers = access()
            active = machine.active
            native.gather2(pointers, first, second, active.lanes, active.whole, active.count)

        return load2

    def load() -> None:
        pointers = access()
        active = machine.active
        for index, out in enumerate(outs):
            native.gather(pointers, index * out.itemsize, out, active.lanes, active.whole, active.count)

    return load


def _with_conversions(machine: Machine, move: Action, conversions: list[tuple[Array, Array]]) -> Action:
    def load() -> None:
        move()
        mask = machine.active.mask
        for target, value in conversions:
            np.copyto(target, value, where=mask)

    return load


def bind_store(machine: Machine, instruction: Instruction) -> Bound:
    modifiers = AccessModifiers(machine, instruction)
    if modifiers.rest:
        raise machine.unsupported(instruction)
    operand, value = instruction.operands[:2]
    items = value.items if isinstance(value, Vector) else (value,)
    if len(items) != modifiers.vector or modifiers.space in ("const",):
        raise machine.unsupported(instruction)
    access = bind_access(machine, instruction, operand, modifiers.space, modifiers.item * modifiers.vector, "store")
    dtype = np.dtype(f"u{modifiers.item}")
    sources = [machine.lanes_of(item, dtype) for item in items]

    def store() -> None:
        pointers = access()
        active = machine.active
        if not machine.changed:
            machine.changed = any(
                native.differs(pointers, index * dtype.itemsize, source, active.lanes, active.whole, active.count)
                for index, source in enumerate(sources)
            )
        for index, source in enumerate(sources):
            native.scatter(pointers, index * dtype.itemsize, source, active.lanes, active.whole, active.count)

    return always(store)


# -- atom and red -----------------------------------------------------------------------------------------------------

_INTEGER_ATOMICS = {
    "add": native.ATOMIC_ADD,
    "min": native.ATOMIC_MIN,
    "max": native.ATOMIC_MAX,
    "and": native.ATOMIC_AND,
    "or": native.ATOMIC_OR,
    "xor": native.ATOMIC_XOR,
    "exch": native.ATOMIC_EXCH,
    "inc": native.ATOMIC_INC,
    "dec": native.ATOMIC_DEC,
}


def bind_atomic(machine: Machine, instruction: Instruction) -> Bound:
    """Return the steps of atom and red; lanes take their turns in ascending order."""
    modifiers = AccessModifiers(machine, instruction)
    rest = [modifier for modifier in modifiers.rest if modifier not in ("noftz",)]
    if len(rest) != 1 or modifiers.vector != 1:
        raise machine.unsupported(instruction)
    reduction = instruction.opcode == "red"
    to: Operand = Sink() if reduction else instruction.operands[0]
    operand, *values = instruction.operands[0 if reduction else 1 :]
    access = bind_access(machine, instruction, operand, modifiers.space, modifiers.item, "atomic")
    update = _atomic_update(machine, instruction, modifiers, rest[0], values)
    signed = modifiers.type[0] == "s"
    dtype = np.dtype(
        np.float32
        if modifiers.type == "f32"
        else np.float64
        if modifiers.type == "f64"
        else f"{'i' if signed else 'u'}{modifiers.item}"
    )
    old = machine.scratch(dtype, 20)
    target = machine.row(to) if isinstance(to, Register) else None

    def atomic() -> None:
        pointers = access()
        active = machine.active
        update(pointers, old, active.lanes, active.whole, active.count)
        if not machine.changed:
            before = old.view(f"u{old.itemsize}")
            machine.changed = native.differs(pointers, 0, before, active.lanes, active.whole, active.count)
        if target is not None:
            np.copyto(target, old.view(f"u{old.itemsize}"), where=active.mask)

    return always(atomic)


def _atomic_update(
    machine: Machine, instruction: Instruction, modifiers: AccessModifiers, name: str, values: list[Operand]
) -> Callable[..., None]:
    kind, bits = modifiers.type, modifiers.item * 8
    unsigned = np.dtype(f"u{modifiers.item}")
    if name == "cas" and kind in ("b16", "b32", "b64", "u32", "u64", "s32"):
        compare, swap = (machine.lanes_of(value, unsigned) for value in values[:2])
        return lambda pointers, old, *rest: native.atomic_cas(pointers, compare, swap, old.view(unsigned), *rest)
    if name == "add" and kind in ("f32", "f64"):
        amount = machine.lanes_of(values[0], np.dtype(f"f{modifiers.item}"))
        return lambda pointers, old, *rest: native.atomic_add_float(pointers, amount, old, *rest)
    if name == "add" and kind in ("f16", "bf16", "f16x2", "bf16x2"):
        return _atomic_add_half(machine, instruction, kind, values[0])
    allowed = {
        "b": ("and", "or", "xor", "exch"),
        "u": ("add", "min", "max", "inc", "dec", "exch"),
        "s": ("add", "min", "max"),
    }
    if kind[0] not in allowed or name not in allowed[kind[0]] or bits < 32 or kind in ("bf16", "bf16x2"):
        raise machine.unsupported(instruction)
    number = _INTEGER_ATOMICS[name]
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{modifiers.item}")
    operand = machine.lanes_of(values[0], dtype)
    return lambda pointers, old, *rest: native.atomic_integer(pointers, number, operand, old, *rest)


def _atomic_add_half(machine: Machine, instruction: Instruction, kind: str, value: Operand) -> Callable[..., None]:
    """Return the function that adds halves, one lane after the other, rounded as the lane-wise instruction rounds."""
    add = operation("add", ("rn", kind))
    assert add is not None
    dtype = np.dtype(f"u{TYPE_BYTES[kind]}")
    amount = machine.lanes_of(value, dtype)
    everyone = np.arange(1)

    def update(pointers: Array, old: Array, lanes: Array, whole: bool, count: int) -> None:
        before, after = np.zeros(1, dtype), np.zeros(1, dtype)
        for index, lane in enumerate(lanes[:count]):
            one = pointers[index : index + 1]
            native.gather(one, 0, before, everyone, True, 1)
            add.apply(after, before, amount[lane : lane + 1])
            native.scatter(one, 0, after, everyone, True, 1)
            old[lane] = before[0]

    return update
