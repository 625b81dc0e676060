"""wgmma: products that four warps start together and that go on without them, until they wait.

A warpgroup is four warps of a block, from a multiple of four on. The warps of one need not come at the same time here:
the first one makes a product's record, the others join it. When a product reads its operands in shared memory is a
matter of chance on a GPU, so there are two orders (bulk_copies.py): late, when the first warp waits for it, and early,
when it is issued.

Until the wait the accumulators' registers hold tokens: NaN that no computation makes, with the number of the sum and of
the register. A compiler may move accumulators between products that are under way, as the machine code has no such
moves; so the sum is found again by the token in a product's registers, and in every register that holds one at its end.

The factors are exact in float32. A product sums them in float32 by BLAS, and is then added to the accumulators, which
are rounded once. A tensor core adds in an order of its own, so results agree within a tolerance. Integers are exact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device import native
from gpubp.emulator.device.lanewise import Action, Bound, always
from gpubp.emulator.device.memory import WINDOW_GRANULE_BITS
from gpubp.emulator.device.state import Array, Machine
from gpubp.emulator.errors import DivergenceError, MemoryAccessError
from gpubp.emulator.isa.descriptors import PERIOD, Descriptor, descriptor, misalignment, offsets
from gpubp.emulator.isa.fragments import ELEMENT_BITS, element_values
from gpubp.emulator.loops import loop
from gpubp.emulator.program.ptx import Immediate, Instruction, Operand, Register, Vector
from gpubp.emulator.program.registers import registers_of

WARPS = 4
M = 64
_ROWS = M // WARPS
ACCUMULATORS = {
    **dict.fromkeys(("f16", "e4m3", "e5m2"), ("f16", "f32")),
    **dict.fromkeys(("bf16", "tf32"), ("f32",)),
    **dict.fromkeys(("s8", "u8"), ("s32",)),
}
ACCUMULATOR: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "s32": np.dtype(np.int32),
}
_MIXED = ({"e4m3", "e5m2"}, {"s8", "u8"})
_SIZES = (8, 16, 24, *range(32, 257, 16))
"""The widths of products of integers; those of floats are all multiples of 8 up to 256."""
_TOKEN = np.uint32(0xFF800000)
_TOKEN_BITS = np.uint32(0xFFC00000)
_REGISTER_BITS = 7
_MOST_SUMS = (1 << 22 - _REGISTER_BITS) - 1


@dataclass(frozen=True)
class Form:
    """What a wgmma.mma_async computes.

    Attributes:
        n, k: columns, and the length of the sums.
        d, a, b: types.
        from_registers: whether A lies in registers.
        a_k_major, b_k_major: how the factors lie in shared memory.
        negate: the factor of A times that of B, 1 or -1.
        satfinite: integers stop at their limits.
    """

    n: int
    k: int
    d: str
    a: str
    b: str
    from_registers: bool
    a_k_major: bool
    b_k_major: bool
    negate: int
    satfinite: bool

    @property
    def item(self) -> int:
        """Return the bytes of a factor."""
        return ELEMENT_BITS[self.a] // 8

    @property
    def flops(self) -> int:
        return 0 if self.d == "s32" else 2 * M * self.n * self.k

    @property
    def registers(self) -> int:
        """Return the registers of the accumulators of a thread."""
        return self.n // 2 if self.d != "f16" else self.n // 4


def form_of(machine: Machine, instruction: Instruction) -> Form:
    """Return what an instruction computes.

    Raises:
        UnsupportedInstruction: there is no such product, or it is a sparse one.
    """
    _, *rest = instruction.modifiers
    satfinite = "satfinite" in rest
    names = [one for one in rest if one != "satfinite"]
    if len(names) != 6 or names[:2] != ["sync", "aligned"]:
        raise machine.unsupported(instruction)
    shape, d, a, b = names[2:]
    k = 256 // ELEMENT_BITS[a] if a in ACCUMULATORS else 0
    n = int(shape[4 : shape.index("k")]) if shape.startswith("m64n") and shape.endswith(f"k{k}") else 0
    integers = a in ("s8", "u8")
    fits = k and (a == b or {a, b} in _MIXED) and d in ACCUMULATORS[a] and (integers or not satfinite)
    if not fits or not 8 <= n <= 256 or n % 8 or (integers and n not in _SIZES):
        raise machine.unsupported(instruction)
    operands = instruction.operands
    registers = isinstance(operands[1], Vector)
    majors = 0 if ELEMENT_BITS[a] != 16 else 1 if registers else 2
    signs = 0 if integers else 2
    flags = [operand.value if isinstance(operand, Immediate) else None for operand in operands[4:]]
    if len(flags) != majors + signs or any(flag not in (1, -1) for flag in flags[:signs]):
        raise machine.unsupported(instruction)
    transposed = flags[signs:]
    if any(flag not in (0, 1) for flag in transposed):
        raise machine.unsupported(instruction)
    negate = flags[0] * flags[1] if signs else 1  # type: ignore[operator]
    a_major = transposed[0] == 0 if majors == 2 else True
    b_major = transposed[-1] == 0 if majors else True
    form = Form(n, k, d, a, b, registers, a_major, b_major, negate, satfinite)
    sizes = [len(one.items) if isinstance(one, Vector) else 0 for one in operands[:2]]
    if sizes != [form.registers, 4 if registers else 0]:
        raise machine.unsupported(instruction, "an unexpected number of registers")
    return form


@dataclass(eq=False)
class Sum:
    """Accumulators of a warpgroup that products are under way for.

    Attributes:
        number: in the tokens.
        values: of shape (4, 16, n), by warps.
        products: that some warp has still to wait for, or to issue.
        under_way: products that it has issued and not waited for, by warps.
    """

    number: int
    form: Form
    values: Array
    products: int = 0
    under_way: Array = field(default_factory=lambda: np.zeros(WARPS, np.int64))


@dataclass(eq=False)
class Product:
    """A product that a warpgroup has issued.

    Attributes:
        total: the sum that it belongs to.
        keeps: by warps, whether the accumulators are added to, or replaced.
        issued: the warps that have issued it.
        group: by warps, the group that it belongs to.
        left: warps that have not waited for it.
        a, b: operands in shared memory, as descriptors; a None: in registers.
        fragments: of A in registers, by warps.
        right: B, once it has been read.
        values: of A B, once they are computed.
        watched: what the observer keeps of it.
    """

    instruction: Instruction
    block: int
    first: int  # lane of the warpgroup
    form: Form
    total: Sum
    keeps: Array
    a: Descriptor | None
    b: Descriptor
    issued: Array = field(default_factory=lambda: np.zeros(WARPS, bool))
    group: Array = field(default_factory=lambda: np.zeros(WARPS, np.int64))
    left: int = WARPS
    fragments: Array | None = None
    right: Array | None = None
    values: Array | None = None
    watched: Any = None


class _Warpgroup:
    """What a warpgroup has under way.

    Attributes:
        products: that some warp has still to wait for, or to issue.
        first: the number of the first of these.
        issued, waited: the number of products by warps.
        group: by warps, the group that is open.
    """

    def __init__(self) -> None:
        self.products: list[Product] = []
        self.first = 0
        self.issued = np.zeros(WARPS, np.int64)
        self.waited = np.zeros(WARPS, np.int64)
        self.group = np.zeros(WARPS, np.int64)


class Products:
    """The products of a wave that are under way."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.early = machine.observer is not None and machine.observer.early
        self.warpgroups: dict[int, _Warpgroup] = {}  # by their first lane
        self.sums: dict[int, Sum] = {}
        self._number = 0
        rows = {id(row): row for row in (machine.row(Register(name)) for name in sorted(holders(machine)))}
        self._holders = np.array([row.ctypes.data for row in rows.values() if row.itemsize == 4], np.int64)
        self._checked: set[tuple[Any, ...]] = set()

    def begin(self) -> None:
        """Make ready for new blocks."""
        self.warpgroups.clear()
        self.sums.clear()

    def finish(self) -> None:
        """All threads have ended.

        Raises:
            DivergenceError: some warp of a warpgroup has not issued a product of it.
        """
        for first, group in self.warpgroups.items():
            for product in group.products:
                if not product.issued.all():
                    missing, there = (int(np.flatnonzero(product.issued == one)[0]) for one in (False, True))
                    raise DivergenceError(
                        f"{self.machine.where(product.instruction, first + there * WARP)}: "
                        f"`{product.instruction.text}`: warp {missing} of the warpgroup has not executed it: all four "
                        "must"
                    )
                if self.machine.observer is not None:
                    self.machine.observer.product_left(self.machine, product)

    # -- warpgroups ---------------------------------------------------------------------------------------------------

    def present(self, instruction: Instruction) -> list[tuple[int, list[int]]]:
        """Return the warpgroups of the active lanes by their first lanes, with the warps that are there.

        Raises:
            DivergenceError: a warp is there in part, or the block has no such warpgroup.
        """
        machine = self.machine
        warps = machine.active.mask.reshape(-1, WARP)
        some = warps.any(axis=1)
        partial = some & ~warps.all(axis=1)
        if partial.any():
            warp = int(np.flatnonzero(partial)[0])
            lane = warp * WARP + int(np.flatnonzero(warps[warp])[0])
            raise DivergenceError(
                f"{machine.where(instruction, lane)}: `{instruction.text}`: all threads of the warp must execute it "
                "together"
            )
        per_block = machine.padded // WARP
        found: dict[int, list[int]] = {}
        for warp in np.flatnonzero(some).tolist():
            block, within = divmod(warp, per_block)
            group = within // WARPS
            if (group + 1) * WARPS > per_block:
                raise DivergenceError(
                    f"{machine.where(instruction, warp * WARP)}: `{instruction.text}`: the warp belongs to no "
                    f"warpgroup of {WARPS} warps: the block has {per_block}"
                )
            found.setdefault((block * per_block + group * WARPS) * WARP, []).append(within % WARPS)
        return list(found.items())

    def group_of(self, first: int) -> _Warpgroup:
        if first not in self.warpgroups:
            self.warpgroups[first] = _Warpgroup()
        return self.warpgroups[first]

    # -- issuing ------------------------------------------------------------------------------------------------------

    def issue(self, bound: _Bound) -> None:
        """Let the active warps issue a product."""
        for first, warps in self.present(bound.instruction):
            group = self.group_of(first)
            numbers = group.issued[warps]
            if numbers.min() == numbers.max():
                self._issue(bound, first, group, warps)
            else:
                for warp in warps:
                    self._issue(bound, first, group, [warp])

    def _issue(self, bound: _Bound, first: int, group: _Warpgroup, warps: list[int]) -> None:
        machine = self.machine
        number = int(group.issued[warps[0]])
        position = number - group.first
        lanes = _lanes(first, warps)
        a, b, keeps = bound.operands(lanes)
        held = self._held(bound, int(lanes[0]))
        if position == len(group.products):
            total = held or self._new_sum(bound.form)
            block = first // machine.padded
            group.products.append(
                Product(bound.instruction, block, first, bound.form, total, np.zeros(WARPS, bool), a, b)
            )
            total.products += 1
        product = group.products[position]
        if product.instruction is not bound.instruction or (product.a, product.b) != (a, b):
            raise DivergenceError(
                f"{machine.where(bound.instruction, int(lanes[0]))}: `{bound.instruction.text}`: other warps of the "
                f"warpgroup execute `{product.instruction.text}` at {product.instruction.location}, or with other "
                "descriptors"
            )
        product.issued[warps] = True
        product.keeps[warps] = keeps
        product.group[warps] = group.group[warps]
        group.issued[warps] += 1
        if bound.form.from_registers:
            if product.fragments is None:
                product.fragments = np.zeros((WARPS, WARP, 4), np.uint32)
            product.fragments[warps] = bound.fragments(lanes)
        if machine.observer is not None:
            machine.observer.product_issued(machine, product, lanes)
        self._take(bound, product, held, lanes, warps)
        if self.early and product.values is None and (not bound.form.from_registers or product.issued.all()):
            self._compute(product)

    def _new_sum(self, form: Form) -> Sum:
        self._number = self._number % _MOST_SUMS + 1
        while self._number in self.sums:
            self._number = self._number % _MOST_SUMS + 1
        values = np.zeros((WARPS, _ROWS, form.n), ACCUMULATOR[form.d])
        made = self.sums[self._number] = Sum(self._number, form, values)
        return made

    def _held(self, bound: _Bound, lane: int) -> Sum | None:
        """Return the sum under way whose tokens a lane's accumulators are, if they are any."""
        word = bound.rows[0][lane]
        if word & _TOKEN_BITS != _TOKEN:
            return None
        found = self.sums.get(int(word & ~_TOKEN_BITS) >> _REGISTER_BITS)
        if found is None or found.form.d != bound.form.d or found.form.n != bound.form.n:
            return None
        return found if _holds(bound.pointers, lane, _tokens(found.number, len(bound.rows))) else None

    def _take(self, bound: _Bound, product: Product, held: Sum | None, lanes: Array, warps: list[int]) -> None:
        """Take the accumulators of warps out of their registers, and leave tokens there, unless they are there."""
        total = product.total
        fresh = held is not total
        if held is not None and fresh:
            raise DivergenceError(
                f"{self.machine.where(bound.instruction, int(lanes[0]))}: `{bound.instruction.text}`: the accumulators "
                "belong to another product that is under way than those of the other warps"
            )
        if fresh:
            if product.keeps[warps].any():
                registers = np.empty((lanes.size, len(bound.rows)), np.uint32)
                _gather(bound.pointers, lanes, registers)
                total.values[warps] = _from_registers(registers, bound.form, len(warps))
            _fill(bound.pointers, lanes, _tokens(total.number, len(bound.rows)))
        total.under_way[warps] += 1

    # -- computing ----------------------------------------------------------------------------------------------------

    def _compute(self, product: Product) -> None:
        """Compute A B."""
        form = product.form
        if form.from_registers:
            assert product.fragments is not None
            a = _from_fragments(product.fragments, form)
        else:
            assert product.a is not None
            a = self._operand(product, product.a, M, form.a, form.a_k_major)
        if product.right is None:
            product.right = self._operand(product, product.b, form.n, form.b, form.b_k_major)
        values = a @ product.right.T
        if form.negate < 0:
            values = -values
        product.values = values.reshape(WARPS, _ROWS, form.n)
        if product.issued.all():
            product.right = None
        if self.machine.observer is not None:
            self.machine.observer.product_read(self.machine, product)

    def _operand(self, product: Product, given: Descriptor, rows: int, type_: str, k_major: bool) -> Array:
        """Return an operand in shared memory (rows, k) as float32."""
        machine, form = self.machine, product.form
        places, base = self.places(product, given, rows, k_major)
        memory = machine.shared[product.block, base:]
        dtype = np.dtype(f"u{form.item}")
        raw = memory[: memory.size // form.item * form.item].view(dtype).take(places)
        return element_values(raw, type_).reshape(rows, form.k)

    def places(self, product: Product, given: Descriptor, rows: int, k_major: bool) -> tuple[Array, int]:
        """Return the places of an operand in elements from an address on, and that address, after checks."""
        form = product.form
        low = given.start % PERIOD
        base = given.start - low
        places = offsets(given._replace(start=low), rows, form.k, form.item, k_major)
        key = (given, rows, k_major, form.item)
        if key not in self._checked:
            self._check(product, given, places, base)
            self._checked.add(key)
        return places, base

    def _check(self, product: Product, given: Descriptor, places: Array, base: int) -> None:
        machine = self.machine
        where = f"{machine.where(product.instruction, product.first)}: `{product.instruction.text}`"
        if given.base:
            raise machine.unsupported(product.instruction, "a descriptor with a base offset")
        wrong = misalignment(given)
        if wrong:
            raise MemoryAccessError(f"{where}: misaligned operand with a swizzle of {given.width} bytes: {wrong}")
        valid = machine.shared_layout.valid
        granules = np.unique((base + places * product.form.item) >> WINDOW_GRANULE_BITS)
        outside = granules[(granules >= valid.size)]
        if not outside.size:
            outside = granules[valid[granules] < 1 << WINDOW_GRANULE_BITS]
        if outside.size:
            address = int(outside[0]) << WINDOW_GRANULE_BITS
            raise MemoryAccessError(
                f"{where}: access out of bounds: the descriptor (start {given.start:#x}, leading offset "
                f"{given.leading}, stride offset {given.stride}, swizzle {given.width}) leads to {address:#x} of "
                f"shared memory, {machine.shared_layout.describe(address)}"
            )

    # -- groups -------------------------------------------------------------------------------------------------------

    def commit(self, instruction: Instruction) -> None:
        """The active warps close their groups."""
        for first, warps in self.present(instruction):
            self.group_of(first).group[warps] += 1

    def wait(self, instruction: Instruction, allowed: int) -> None:
        """The active warps wait for their groups but the latest `allowed`."""
        for first, warps in self.present(instruction):
            group = self.group_of(first)
            if all((each[warps] == each[warps[0]]).all() for each in (group.issued, group.waited, group.group)):
                self._wait(first, group, warps, allowed)
            else:
                for warp in warps:
                    self._wait(first, group, [warp], allowed)
            while group.products and group.products[0].left == 0:
                total = group.products.pop(0).total
                total.products -= 1
                if total.products == 0:
                    del self.sums[total.number]
                group.first += 1

    def _wait(self, first: int, group: _Warpgroup, warps: list[int], allowed: int) -> None:
        machine = self.machine
        one = warps[0]
        limit = int(group.group[one]) - allowed
        lanes: Array | None = None
        done: list[Sum] = []
        while True:
            position = int(group.waited[one]) - group.first
            if position >= len(group.products):
                break
            product = group.products[position]
            if not product.issued[one] or product.group[one] >= limit:
                break
            if product.values is None:
                if product.form.from_registers and not product.issued.all():
                    # The others' fragments are not there yet; theirs are rows of their own.
                    self._compute(product)
                    values, product.values = product.values, None
                else:
                    self._compute(product)
                    values = product.values
            else:
                values = product.values
            assert values is not None
            _accumulate(product, values, warps)
            product.left -= len(warps)
            group.waited[warps] += 1
            product.total.under_way[warps] -= 1
            if lanes is None:
                lanes = _lanes(first, warps)
            if machine.observer is not None:
                machine.observer.product_waited(machine, product, lanes)
            if product.total not in done:
                done.append(product.total)
        for total in done:
            assert lanes is not None
            if not total.under_way[warps].any():
                self._resolve(total, lanes, warps)

    def holder(self, row: Array, lanes: Array) -> tuple[int, Product | None]:
        """Return a lane whose register holds a token of a sum under way, and a product of it; -1 if none does."""
        words = row[lanes]
        held = words & _TOKEN_BITS == _TOKEN
        for lane, word in zip(lanes[held].tolist(), words[held].tolist(), strict=True):
            total = self.sums.get((word & ~int(_TOKEN_BITS)) >> _REGISTER_BITS)
            found = [] if total is None else [one for one in self._under_way(lane) if one.total is total]
            if found:
                return lane, found[0]
        return -1, None

    def uses(self, names: list[str], lanes: Array) -> tuple[int, Product | None]:
        """Return a lane of a warp with a product under way of which a factor is in one of these registers."""
        for lane in lanes[np.unique(lanes // WARP, return_index=True)[1]].tolist():
            for one in self._under_way(lane):
                factors = registers_of(one.instruction.operands[1]) if one.form.from_registers else ()
                if not set(names).isdisjoint(factors):
                    return lane, one
        return -1, None

    def _under_way(self, lane: int) -> list[Product]:
        """Return the products that a lane's warp has issued and not waited for."""
        within = lane % self.machine.padded // WARP
        warp = within % WARPS
        first = lane - lane % self.machine.padded + (within - warp) * WARP
        group = self.warpgroups.get(first)
        if group is None:
            return []
        return group.products[int(group.waited[warp]) - group.first : int(group.issued[warp]) - group.first]

    def _resolve(self, total: Sum, lanes: Array, warps: list[int]) -> None:
        """Write the accumulators of warps to the registers that hold their tokens."""
        registers = _to_registers(total.values[warps], total.form)
        _resolve_tokens(self._holders, lanes, int(_TOKEN) >> _REGISTER_BITS | total.number, _REGISTER_BITS, registers)


def holders(machine: Machine) -> set[str]:
    """Return the registers that may hold tokens: accumulators, and what they are moved to."""
    program = machine.program
    found: set[str] = set()
    moves: list[tuple[str, str]] = []
    for instruction in program.instructions():
        if instruction.opcode == "wgmma" and instruction.modifiers[0] == "mma_async":
            found.update(registers_of(instruction.operands[0]))
        elif instruction.opcode == "mov" and all(isinstance(one, Register) for one in instruction.operands):
            to, source = instruction.operands
            moves.append((to.name, source.name))  # type: ignore[union-attr]
    before = -1
    while len(found) > before:
        before = len(found)
        found.update(to for to, source in moves if source in found)
    return found


def _lanes(first: int, warps: list[int]) -> Array:
    if len(warps) == WARPS:
        return np.arange(first, first + WARPS * WARP)
    return np.concatenate([np.arange(first + warp * WARP, first + (warp + 1) * WARP) for warp in warps])


@loop
def _gather(rows, lanes, out):
    """out[i, r] = register r, which lies at rows[r], of lanes[i]"""
    like = out[0, 0]
    for r in range(rows.size):
        for i in range(lanes.size):
            out[i, r] = native._load(rows[r] + 4 * lanes[i], like)


@loop
def _holds(rows, lane, values):
    """True if each register of a lane holds its value."""
    same = True
    for r in range(rows.size):
        same &= native._load(rows[r] + 4 * lane, values[r]) == values[r]
    return same


@loop
def _fill(rows, lanes, values):
    """register r of all lanes = values[r]"""
    for r in range(rows.size):
        for i in range(lanes.size):
            native._store(rows[r] + 4 * lanes[i], values[r])


@loop
def _resolve_tokens(rows, lanes, upper, bits, values):
    """Each register of lanes[i] that holds a token, whose bits above the lowest are `upper`, gets values[those, i]."""
    like = values[0, 0]
    for r in range(rows.size):
        for i in range(lanes.size):
            word = np.int64(native._load(rows[r] + 4 * lanes[i], like))
            if word >> bits == upper:
                which = word & ((1 << bits) - 1)
                if which < values.shape[0]:
                    native._store(rows[r] + 4 * lanes[i], values[which, i])


@functools.lru_cache(maxsize=256)
def _tokens(number: int, count: int) -> Array:
    """Return the tokens of a sum's registers."""
    return _TOKEN | np.uint32(number << _REGISTER_BITS) | np.arange(count, dtype=np.uint32)


def _accumulate(product: Product, values: Array, warps: list[int]) -> None:
    """Add A B to the accumulators of warps."""
    total, form = product.total.values, product.form
    keeps = product.keeps[warps]
    if form.d == "f32" and len(warps) == WARPS and keeps.all():
        total += values
        return
    if not (keeps.all() or not keeps.any()):
        for warp in warps:
            _accumulate(product, values, [warp])
        return
    added = values[warps]
    if form.d == "s32":
        exact = added.astype(np.int64) + (total[warps].astype(np.int64) if keeps[0] else 0)
        if form.satfinite:
            exact = np.clip(exact, -(1 << 31), (1 << 31) - 1)
        total[warps] = exact.astype(np.int32)
    elif keeps[0]:
        total[warps] = (total[warps].astype(np.float32) + added).astype(total.dtype)
    else:
        total[warps] = added


def _to_registers(values: Array, form: Form) -> Array:
    """Return the registers (registers, lanes) of accumulators (warps, 16, n)."""
    count = len(values)
    # warp, half of 8 rows, row, 8 columns, pair, element -> register, lane
    parts = values.reshape(count, 2, 8, form.n // 8, 4, 2)
    order = (3, 1, 0, 2, 4, 5) if form.d == "f16" else (3, 1, 5, 0, 2, 4)
    held = np.ascontiguousarray(parts.transpose(order)).view(np.uint32)
    return held.reshape(form.registers, count * WARP)


def _from_registers(registers: Array, form: Form, count: int) -> Array:
    """Return accumulators (warps, 16, n) of registers (lanes, registers)."""
    parts = registers.view(ACCUMULATOR[form.d]).reshape(count, 8, 4, form.n // 8, 2, 2)
    return parts.transpose(0, 4, 1, 3, 2, 5).reshape(count, _ROWS, form.n)


def _from_fragments(fragments: Array, form: Form) -> Array:
    """Return A (64, k) of its registers (4, 32, 4)."""
    values = element_values(fragments.reshape(WARPS * WARP, 4), form.a)
    # warp, row, quarter of the columns; half of the columns, half of the rows, element
    parts = values.reshape(WARPS, 8, 4, 2, 2, 4 // form.item)
    return np.ascontiguousarray(parts.transpose(0, 4, 1, 3, 2, 5)).reshape(M, form.k)


# -- binding ----------------------------------------------------------------------------------------------------------


class _Bound:
    """A wgmma.mma_async and the arrays of a machine that it works on."""

    def __init__(self, machine: Machine, instruction: Instruction) -> None:
        self.machine, self.instruction = machine, instruction
        self.form = form_of(machine, instruction)
        d, a, b, scale = instruction.operands[:4]
        assert isinstance(d, Vector)
        self.rows = [machine.row(one) for one in d.items]  # type: ignore[arg-type]
        self.pointers = np.array([row.ctypes.data for row in self.rows], np.int64)
        self._a = None if self.form.from_registers else machine.lanes_of(a, np.dtype(np.uint64))
        self._a_rows = [machine.lanes_of(one, np.dtype(np.uint32)) for one in a.items] if isinstance(a, Vector) else []
        self._b = machine.lanes_of(b, np.dtype(np.uint64))
        self._scale = machine.lanes_of(scale, np.dtype(bool))
        self._negated = isinstance(scale, Register) and scale.negated

    def operands(self, lanes: Array) -> tuple[Descriptor | None, Descriptor, Array]:
        """Return the descriptors of the operands, and by warps whether the accumulators are added to."""
        a = None if self._a is None else descriptor(self._uniform(self._a, lanes, "descriptor of A"))
        b = descriptor(self._uniform(self._b, lanes, "descriptor of B"))
        keeps = self._scale[lanes] != self._negated
        first = keeps[::WARP]
        if (np.repeat(first, WARP) != keeps).any():
            self._differ("scale-d", lanes)
        return a, b, first

    def fragments(self, lanes: Array) -> Array:
        """Return the registers of A, of shape (warps, 32, 4)."""
        return np.stack([row[lanes] for row in self._a_rows], axis=1).reshape(-1, WARP, 4)

    def _uniform(self, values: Array, lanes: Array, what: str) -> int:
        value = values[lanes[0]]
        if (values[lanes] != value).any():
            self._differ(what, lanes)
        return int(value)

    def _differ(self, what: str, lanes: Array) -> None:
        raise DivergenceError(
            f"{self.machine.where(self.instruction, int(lanes[0]))}: `{self.instruction.text}`: the threads of the "
            f"warpgroup give different values for the {what}"
        )


def bind_product(machine: Machine, instruction: Instruction) -> Bound:
    """Return the step of an instruction of wgmma."""
    name, *rest = instruction.modifiers
    if rest[:2] != ["sync", "aligned"]:
        raise machine.unsupported(instruction)
    if name == "mma_async":
        bound = _Bound(machine, instruction)
        return always(lambda: machine.products.issue(bound))
    simple: dict[str, Action] = {
        "fence": lambda: _fence(machine, instruction),
        "commit_group": lambda: machine.products.commit(instruction),
    }
    if name == "wait_group" and len(instruction.operands) == 1:
        amount: Operand = instruction.operands[0]
        if isinstance(amount, Immediate):
            allowed = amount.value
            return always(lambda: machine.products.wait(instruction, allowed))
    if name not in simple or rest[2:]:
        raise machine.unsupported(instruction)
    return always(simple[name])


def _fence(machine: Machine, instruction: Instruction) -> None:
    machine.products.present(instruction)
    if machine.observer is not None:
        machine.observer.product_fence(machine)
