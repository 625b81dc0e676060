"""The state of one wave: registers and memories of as many whole blocks as run at once.

A lane is a thread; a register is an array over lanes. Blocks lie one after the other, each padded to whole warps, so
that an array over lanes reshapes to (warps, 32). Padding lanes never live. Everything here is made once for a kernel,
block shape and number of blocks, and used again for every wave of every launch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpubp.chips import WARP
from gpubp.emulator.device.clock import SPECIALS as CLOCKS
from gpubp.emulator.device.memory import MEMORY, POISON, RESERVED, SpaceLayout
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa.matrix import first_arch
from gpubp.emulator.program.cfg import Program
from gpubp.emulator.program.ptx import Address, Immediate, Instruction, Operand, Register, Special, Symbol
from gpubp.emulator.program.registers import GRID_WORKSPACE, Slot, computed_from

Array = np.ndarray[Any, Any]
Sides = tuple[int, int, int]


class Active:
    """The lanes that execute now. `whole`: all lanes there are."""

    __slots__ = ("_lanes", "count", "mask", "whole")

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.whole = self.count == mask.size
        self._lanes: Array | None = None

    @property
    def lanes(self) -> Array:
        """Return the numbers of the active lanes, ascending."""
        if self._lanes is None:
            self._lanes = np.flatnonzero(self.mask)
        return self._lanes

    def within(self, mask: Array) -> Active:
        """Return some of these lanes, in the same order."""
        return Active(mask)


class Uses:
    """What a program uses of the device that most programs do not.

    Attributes:
        clocked: registers that are computed from the clock.
        mbarriers: True if it has instructions on mbarriers.
        bulk_copies: True if it has cp.async.bulk or cp.reduce.async.bulk.
        wgmma: True if it has asynchronous products of warpgroups.
        cluster_barriers: True if it has barriers of clusters.
        roles: True if its warpgroups hand registers to each other.
        grid: True if it asks for the barrier of the grid.
        reserved: True if it uses the shared memory that is reserved for CUDA.
        first_arch: number of the first architecture whose tensor cores multiply what its own must; 0: any.
        workspace: of cooperative launches.
    """

    def __init__(self, program: Program) -> None:
        self.clocked = computed_from(program, CLOCKS)
        self.mbarriers = any(
            instruction.opcode == "mbarrier" or any(one.startswith("mbarrier") for one in instruction.modifiers)
            for instruction in program.instructions()
        )
        self.bulk_copies = any(
            instruction.opcode == "cp" and "bulk" in instruction.modifiers for instruction in program.instructions()
        )
        self.wgmma = any(instruction.opcode == "wgmma" for instruction in program.instructions())
        self.cluster_barriers = any(
            instruction.opcode == "barrier" and "cluster" in instruction.modifiers
            for instruction in program.instructions()
        )
        self.roles = any(instruction.opcode == "setmaxnreg" for instruction in program.instructions())
        self.grid = bool(computed_from(program, GRID_WORKSPACE))
        self.reserved = bool(computed_from(program, ("reserved_smem_offset_1",)))
        self.first_arch = max(
            (first_arch(one.modifiers) for one in program.instructions() if one.opcode in ("mma", "wmma")), default=0
        )
        self.workspace = Workspace()


class Workspace:
    """What a cooperative launch has of its own: memory for the barrier of the grid (driver_abi.h in CUDA's headers).

    Attributes:
        registers: the special registers with its address, upper half first; 0 if the launch is not cooperative.
    """

    _NBYTES = 8  # its size, and the barrier

    def __init__(self) -> None:
        self.registers = (np.zeros((), np.uint32), np.zeros((), np.uint32))
        self._address = 0
        self._cooperative = False

    def begin(self, cooperative: bool) -> None:
        """Make ready for a launch."""
        if not (cooperative or self._cooperative):
            return
        self._cooperative = cooperative
        if cooperative and not self._address:
            self._address = MEMORY.allocate(self._NBYTES, "the grid's workspace", internal=True)
        address = self._address if cooperative else 0
        self.registers[0][...], self.registers[1][...] = address >> 32, address & 0xFFFFFFFF
        if cooperative:
            MEMORY.view(address, self._NBYTES).view(np.uint32)[:] = self._NBYTES, 0
            MEMORY.mark_written(address, self._NBYTES)


class Machine:
    """Registers, special registers, shared, local and parameter memory of one wave."""

    def __init__(
        self,
        program: Program,
        slots: dict[str, Slot],
        symbols: dict[str, int],
        parameters: tuple[int, Array, dict[str, int]],
        uses: Uses,
        shared: SpaceLayout,
        local: SpaceLayout,
        block: tuple[int, int, int],
        blocks: int,
        observer: Any = None,
        cluster: Sides = (1, 1, 1),
    ) -> None:
        self.program = program
        self.slots = slots
        self.symbols = symbols
        self.parameter_address, self.parameter_bytes, self.parameter_offsets = parameters
        self.shared_layout = shared
        self.local_layout = local
        self.block = block
        self.blocks = blocks
        self.threads = block[0] * block[1] * block[2]
        self.padded = -(-self.threads // WARP) * WARP
        self.lanes = blocks * self.padded
        self.cluster = cluster
        self.cluster_size = cluster[0] * cluster[1] * cluster[2]  # in blocks, which lie side by side
        self.grid = (0, 0, 0)
        self.first_block = self.end_block = 0
        self.launched_lanes = np.zeros(self.lanes, bool)
        self.live = np.zeros(self.lanes, bool)
        self.barriers: Any = None  # set by the scheduler
        self.mbarriers: Any = None  # set by the scheduler, if the program uses them
        self.calls: Any = None  # the Calls of a program that has some
        self.bulk: Any = None  # the BulkCopies, set by the scheduler, if the program has some
        self.products: Any = None  # the Products of warpgroups, set by the scheduler, if the program has some
        self.cluster_barriers: Any = None  # set by the scheduler
        self.registers_of_warps: Any = None  # what setmaxnreg has given them, set by the scheduler
        self.carry = np.zeros(self.lanes, bool)
        #: Something that other threads can see has changed since the scheduler last looked: memory, or who lives.
        self.changed = False
        self.source_text: tuple[str, str] = ("", "")  # name and text of a source that is in no file
        self.output: list[str] = []
        self.observer = observer
        self._rows = self._register_file()
        self.uses = uses
        self._constants: dict[tuple[int | float, np.dtype[Any]], Array] = {}
        self._scratch: dict[tuple[np.dtype[Any], int], Array] = {}
        self._make_memories()
        self._make_special_registers()
        self.special.update(zip(GRID_WORKSPACE, uses.workspace.registers, strict=True))
        self.nobody = Active(np.zeros(self.lanes, bool))
        self.active = self.nobody
        self.mask = np.zeros(self.lanes, bool)  # that of the active lanes, for who needs one address for all masks
        self.mask_address = int(self.mask.ctypes.data)
        self.pointers = np.zeros(self.lanes, np.int64)
        self.zeros = np.zeros(self.lanes, np.int64)
        self.pending_copies: list[Any] = []
        self.copies_issued = 0
        self.commits = np.zeros(self.lanes, np.int64)

    def _register_file(self) -> dict[Slot, Array]:
        rows: dict[Slot, Array] = {}
        for slot in set(self.slots.values()):
            if slot[0] == 16:
                raise UnsupportedInstruction(f"kernel {self.program.name}: 128-bit registers are not supported")
            rows[slot] = np.zeros(self.lanes, bool if slot[0] == 0 else f"u{slot[0]}")
        return rows

    def _make_memories(self) -> None:
        self.shared = np.zeros((self.blocks, max(16, self.shared_layout.extent)), np.uint8)
        self.local = np.zeros((self.lanes, max(16, self.local_layout.extent)), np.uint8)
        lane = np.arange(self.lanes, dtype=np.int64)
        self.shared_bases = self.shared.ctypes.data + lane // self.padded * self.shared.shape[1]
        self.local_bases = self.local.ctypes.data + lane * self.local.shape[1]

    def grow_local(self, nbytes: int) -> None:
        """Make the local memory of each lane as large as `nbytes`; what it holds stays."""
        grown = np.zeros((self.lanes, nbytes), np.uint8)
        grown[:, : self.local.shape[1]] = self.local
        self.local = grown
        self.local_bases[:] = grown.ctypes.data + np.arange(self.lanes) * nbytes

    def _make_special_registers(self) -> None:
        lane = np.arange(self.lanes)
        thread = lane % self.padded
        laneid = (thread % WARP).astype(np.uint32)
        width, height, _ = self.block
        bit = np.uint32(1) << laneid
        ones = np.uint32(0xFFFFFFFF)
        values: dict[str, Array] = {
            "tid.x": thread % width,
            "tid.y": thread // width % height,
            "tid.z": thread // (width * height),
            "laneid": laneid,
            "warpid": thread // WARP,
            "lanemask_eq": bit,
            "lanemask_lt": bit - np.uint32(1),
            "lanemask_le": (bit - np.uint32(1)) | bit,
            "lanemask_gt": ~((bit - np.uint32(1)) | bit) & ones,
            "lanemask_ge": ~(bit - np.uint32(1)) & ones,
        }
        self.special: dict[str, Array] = {name: value.astype(np.uint32) for name, value in values.items()}
        for axis in "xyz":
            self.special[f"ctaid.{axis}"] = np.zeros(self.lanes, np.uint32)
            self.special[f"nctaid.{axis}"] = np.zeros((), np.uint32)
        self.is_thread = thread < self.threads
        self.block_of_lane = lane // self.padded
        self.rank_of_lane = self.block_of_lane % self.cluster_size
        rank = self.rank_of_lane
        width, height, _ = self.cluster
        inside = (rank % width, rank // width % height, rank // (width * height))
        self.special["cluster_ctarank"] = rank.astype(np.uint32)
        for axis, place in zip("xyz", inside, strict=True):
            self.special[f"cluster_ctaid.{axis}"] = place.astype(np.uint32)
            alone = self.cluster_size == 1  # a block is a cluster of its own
            for name, of_block in (("clusterid", f"ctaid.{axis}"), ("nclusterid", f"nctaid.{axis}")):
                self.special[f"{name}.{axis}"] = self.special[of_block] if alone else self.special[of_block].copy()

    # -- a wave -------------------------------------------------------------------------------------------------------

    def begin(self, grid: tuple[int, int, int], first_block: int, end_block: int) -> None:
        """Make ready for the blocks of the grid from `first_block` to before `end_block`."""
        if (grid, first_block, end_block) != (self.grid, self.first_block, self.end_block):
            self._place_blocks(grid, first_block, end_block)
        self.shared.view(np.uint16)[:] = POISON
        if RESERVED in self.shared_layout.addresses:
            self.shared[:, self.shared_layout.addresses[RESERVED] :] = 0
        if self.local_layout.extent:
            self.local[:, : self.local_layout.extent].view(np.uint16)[:] = POISON
        if self.calls is not None:
            self.calls.begin()
        if self.pending_copies:
            self.pending_copies.clear()
        self.commits[:] = 0

    def _place_blocks(self, grid: tuple[int, int, int], first_block: int, end_block: int) -> None:
        self.grid = grid
        self.first_block, self.end_block = first_block, end_block
        index = self._index_of(first_block + np.arange(self.blocks))
        for axis, side, of_block, of_cluster in zip("xyz", grid, index, self.cluster, strict=True):
            self.special[f"nctaid.{axis}"][...] = side
            self.special[f"ctaid.{axis}"].reshape(self.blocks, -1)[:] = of_block[:, None]
            if self.cluster_size == 1:
                continue
            self.special[f"nclusterid.{axis}"][...] = side // of_cluster
            self.special[f"clusterid.{axis}"].reshape(self.blocks, -1)[:] = (of_block // of_cluster)[:, None]
        self.launched_lanes[:] = self.is_thread
        self.launched_lanes[(end_block - first_block) * self.padded :] = False

    def _index_of(self, number: Any) -> tuple[Any, Any, Any]:
        """Return the index of blocks by their numbers in the order in which they run: cluster by cluster."""
        (width, height, depth), (across, up, _) = self.cluster, self.grid
        if self.cluster_size == 1:
            return number % across, number // across % up, number // (across * up)
        across, up = across // width, up // height
        cluster, rank = number // self.cluster_size, number % self.cluster_size
        return (
            cluster % across * width + rank % width,
            cluster // across % up * height + rank // width % height,
            cluster // (across * up) * depth + rank // (width * height),
        )

    def thread_state(self) -> list[Array]:
        """Return copies of what living threads know by themselves: registers, carry flags, committed copies, stacks.
        Without registers computed from the clock."""
        counting = {self.slots[name] for name in self.uses.clocked}
        rows = [row for slot, row in self._rows.items() if slot not in counting]
        stacks = [] if self.calls is None else self.calls.state()
        return [array[self.live] for array in (*rows, self.carry, self.commits)] + stacks

    # -- operands as arrays -------------------------------------------------------------------------------------------

    def row(self, register: Register) -> Array:
        """Return the whole register, in its own dtype (raw bits)."""
        return self._rows[self.slots[register.name]]

    def register_bytes(self, register: Register) -> int:
        """Return the size of a register in bytes; 0 for a predicate."""
        return self.slots[register.name][0]

    def scratch(self, dtype: np.dtype[Any], number: int = 0) -> Array:
        """Return a work array over lanes; the same one for the same dtype and number."""
        key = (np.dtype(dtype), number)
        if key not in self._scratch:
            self._scratch[key] = np.zeros(self.lanes, dtype)
        return self._scratch[key]

    def constant(self, value: int, dtype: np.dtype[Any]) -> Array:
        """Return an array over lanes that holds one value."""
        dtype = np.dtype(dtype)
        key = (value, dtype)
        if key not in self._constants:
            self._constants[key] = np.full(self.lanes, immediate(Immediate(value), dtype))
        return self._constants[key]

    def address_of(self, symbol: Symbol) -> int:
        """Return the address of a variable within its own space; that of a function for a function."""
        name = symbol.name
        if self.in_frame(symbol):
            raise UnsupportedInstruction(f"kernel {self.program.name}: the address of {name}, which is in no register")
        for table in (self.shared_layout.addresses, self.local_layout.addresses, self.symbols):
            if name in table:
                return table[name] + symbol.offset
        if name in self.parameter_offsets:
            return self.parameter_address + self.parameter_offsets[name] + symbol.offset
        raise UnsupportedInstruction(f"kernel {self.program.name}: {name} has no address")

    def in_frame(self, operand: Operand | None) -> bool:
        """Return True for a variable of a function that is not inlined, whose address differs by lanes."""
        return isinstance(operand, Symbol) and self.calls is not None and operand.name in self.calls.offsets

    def source(self, operand: Operand, dtype: np.dtype[Any]) -> Array:
        """Return an operand that is read: a view of the register in `dtype`, or a 0-d array."""
        dtype = np.dtype(dtype)
        if isinstance(operand, Register):
            row = self.row(operand)
            if row.dtype == dtype:
                return row
            if row.itemsize < dtype.itemsize:
                raise UnsupportedInstruction(
                    f"register {operand.name} of {row.itemsize} bytes where {dtype.itemsize} are read"
                )
            return row.view(dtype)[:: row.itemsize // dtype.itemsize]
        if isinstance(operand, Immediate):
            return immediate(operand, dtype)
        if isinstance(operand, Special):
            value = self.special_register(operand.name)
            return value.view(dtype) if value.itemsize == dtype.itemsize else value.astype(dtype)
        if isinstance(operand, Symbol):
            return immediate(Immediate(self.address_of(operand)), dtype)
        raise UnsupportedInstruction(f"operand {operand}")

    def lanes_of(self, operand: Operand, dtype: np.dtype[Any]) -> Array:
        """Return what `source` does, but always as an array over lanes."""
        value = self.source(operand, dtype)
        if value.ndim:
            return value
        bits = np.dtype(f"u{value.itemsize}")
        return self.constant(int(value.view(bits)), bits).view(dtype)

    def addresses(self, operand: Operand) -> tuple[Array, int]:
        """Return a memory operand as an array of addresses and an offset."""
        if not isinstance(operand, Address):
            raise UnsupportedInstruction(f"address {operand}")
        if isinstance(operand.base, Register):
            return self.row(operand.base), operand.offset
        if operand.base is None:
            return self.constant(operand.offset, np.dtype(np.uint64)), 0
        if self.in_frame(operand.base):
            return self.calls.frame, self.calls.offsets[operand.base.name] + operand.base.offset + operand.offset
        return self.constant(self.address_of(operand.base), np.dtype(np.uint64)), operand.offset

    def special_register(self, name: str) -> Array:
        """Return an array over lanes, or a 0-d array; raises UnsupportedInstruction for an unknown name."""
        if name in self.special:
            return self.special[name]
        addresses = self.shared_layout.addresses
        uniform = {
            **{f"ntid.{axis}": self.block["xyz".index(axis)] for axis in "xyz"},
            "nwarpid": self.padded // WARP,
            "smid": 0,
            "nsmid": 1,
            "dynamic_smem_size": self.shared_layout.dynamic_bytes,
            "total_smem_size": self.shared_layout.nbytes,
            **({"reserved_smem_offset_1": addresses[RESERVED]} if RESERVED in addresses else {}),
            **{f"cluster_nctaid.{axis}": self.cluster["xyz".index(axis)] for axis in "xyz"},
            "cluster_nctarank": self.cluster_size,
        }
        if name in uniform:
            return np.array(uniform[name], np.uint32)
        raise UnsupportedInstruction(f"special register %{name}")

    # -- reports ------------------------------------------------------------------------------------------------------

    def block_index(self, lane: int) -> tuple[int, int, int]:
        return self._index_of(int(self.first_block + lane // self.padded))

    def thread_of_grid(self, number: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return block and thread index of a thread by its number, which counts over the padded blocks of the grid."""
        width, height, _ = self.block
        thread = number % self.padded
        block = self.block_index(number // self.padded * self.padded - self.first_block * self.padded)
        return block, (thread % width, thread // width % height, thread // (width * height))

    def thread_index(self, lane: int) -> tuple[int, int, int]:
        return tuple(int(self.special[f"tid.{axis}"][lane]) for axis in "xyz")  # type: ignore[return-value]

    def where(self, instruction: Instruction | None, lane: int | None = None) -> str:
        """Return a text that names kernel, source line, block and thread."""
        parts = [f"kernel {self.program.name}"]
        if instruction is not None:
            parts.append(self.line(instruction, lane))
        if lane is not None:
            parts.append(f"block {self.block_index(lane)}, thread {self.thread_index(lane)}")
        return ", ".join(parts)

    def line(self, instruction: Instruction, lane: int | None = None) -> str:
        """Return the source line of an instruction, and where a lane's functions that are not inlined were called."""
        # Without line information the instruction itself is the best there is.
        calls = [] if lane is None or self.calls is None else self.calls.chain(lane)
        return ", ".join([str(instruction.location or f"`{instruction.text}`"), *calls])

    def source_of(self, file: str) -> str:
        """Return the text of a source file, "" if it is not to be had."""
        name, text = self.source_text
        if name and file.rsplit("/", 1)[-1] == name:
            return text
        path = Path(file)
        try:
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        except (OSError, ValueError):
            return ""

    def unsupported(self, instruction: Instruction, what: str = "") -> UnsupportedInstruction:
        """Return the error for an instruction that is not implemented."""
        reason = f" ({what})" if what and what != ".".join((instruction.opcode, *instruction.modifiers)) else ""
        return UnsupportedInstruction(
            f"{self.where(instruction)}: the emulated device does not execute `{instruction.text}`{reason}"
        )


def immediate(operand: Immediate, dtype: np.dtype[Any]) -> Array:
    """Return a constant as a 0-d array; integers wrap to the width, floats keep their bits."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.array(bool(operand.value))
    value = operand.value
    if operand.float_bits == 64 and dtype.itemsize == 4:
        narrowed = np.array(operand.value, np.uint64).view(np.float64).astype(np.float32)
        return narrowed.view(dtype)
    if not operand.float_bits and dtype.kind == "f":
        return np.array(value, dtype)
    return np.array(value & ((1 << dtype.itemsize * 8) - 1), f"u{dtype.itemsize}").view(dtype)
