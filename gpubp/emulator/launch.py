"""Loading PTX and launching kernels: the checks that a driver makes, then wave after wave."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpubp.chips import MAX_BLOCK, MAX_GRID, MAX_THREADS, STATIC_SHARED, WARP, architectures, number_of
from gpubp.emulator import limits as watchdog
from gpubp.emulator.device.calls import Calls
from gpubp.emulator.device.memory import MEMORY, SpaceLayout, function_address, layout
from gpubp.emulator.device.scheduler import Wave
from gpubp.emulator.device.state import Machine, Uses
from gpubp.emulator.errors import EmulatorError, HangError, LaunchError, UnsupportedInstruction
from gpubp.emulator.observe import observers
from gpubp.emulator.program import cfg, ptx, registers
from gpubp.emulator.program.inlining import Section
from gpubp.emulator.program.ptx import TYPE_BYTES, Function, Module, Symbol, Variable

FIRST_WITH_CLUSTERS = 90
"""The compute capability, times ten, from which on chips have clusters of blocks."""
LANES = 8192
"""Lanes that a wave aims at: enough to make Python's overhead small, few enough for the CPU's cache."""
FEW_BYTES = 128
"""Bytes of registers of a lane up to which a wave has twice as many lanes."""
_DEVICE = threading.RLock()
"""Held by each launch: there is one device, and its machines are shared."""
os.register_at_fork(  # a fork in the midst of a launch would leave the device half way, and locked
    before=_DEVICE.acquire, after_in_parent=_DEVICE.release, after_in_child=_DEVICE.release
)
_MACHINES = 64
"""Machines that are kept for the next launches of their kernels, over all kernels: enough for a training step."""
listeners: list[Callable[[str, BaseException | None], None]] = []
"""Called at the end of each launch with the kernel's name, and with the error if it did not run to its end."""


@dataclass(frozen=True)
class Parameter:
    """A kernel's parameter as its PTX declares it, such as "u64", "f32" or "b8[24]" (a structure)."""

    name: str
    type: str
    size: int
    align: int


class Kernel:
    """A kernel of a loaded module."""

    def __init__(self, module: LoadedModule, function: Function) -> None:
        self.module = module
        self.name = function.name
        self.label = function.label
        self.max_threads = function.max_threads
        self.required_block = function.required_block
        self.cluster = function.required_cluster or (1, 1, 1)
        self.parameters = tuple(
            Parameter(p.name, f"{p.type}[{p.count}]" if p.is_array else p.type, p.nbytes, p.align)
            for p in function.parameters
        )
        self._function = function
        self._decoded: _Decoded | None = None

    @property
    def static_shared_bytes(self) -> int:
        """Return the bytes of shared memory that the kernel declares."""
        return self.decoded().static_shared_bytes

    @property
    def constant_bytes(self) -> int:
        """Return the bytes of the __constant__ variables that the kernel uses."""
        return self.decoded().constant_bytes

    @property
    def local_bytes(self) -> int:
        """Return the bytes of local memory of a thread."""
        return self.decoded().local.nbytes

    def decoded(self) -> _Decoded:
        """Return the flattened program, which is made at the first call.

        Raises:
            UnsupportedInstruction: the kernel has an instruction that is not implemented.
        """
        if self._decoded is None:
            self._decoded = _Decoded(self.module, self._function)
        return self._decoded

    def wave(
        self, block: tuple[int, int, int], blocks: int, shared_bytes: int, observer: observers.Observer | None = None
    ) -> Wave:
        """Return a wave of `blocks` blocks, one of an earlier launch if it fits.

        Waves under an observer belong to the observer and end with it.
        """
        waves = _WAVES if observer is None else observer.waves
        key = (self, block, blocks, shared_bytes)
        if key not in waves:
            waves[key] = Wave(self.decoded().machine(block, blocks, shared_bytes, observer, self.cluster))
            if len(waves) > _MACHINES:
                waves.popitem(last=False)
        waves.move_to_end(key)
        return waves[key]


_WAVES: OrderedDict[tuple[object, ...], Wave] = OrderedDict()


class _Decoded:
    """What all machines of a kernel share."""

    def __init__(self, module: LoadedModule, function: Function) -> None:
        self.module = module
        self.program = cfg.build(module.parsed, function)
        self.uses = Uses(self.program)
        self.slots = registers.allocate(self.program, self.uses.clocked)
        self.has_few_registers = sum(max(1, nbytes) for nbytes, _ in set(self.slots.values())) <= FEW_BYTES
        self.one_block_a_wave = registers.depends_on_atomic_order(self.program)
        variables = self.program.variables.values()
        named = _symbols_of(self.program)
        for name in (*named, *self.program.sections):
            module.place(name)
        known = module.parsed.variables.values()
        self.constant_bytes = sum(v.nbytes for v in known if v.space == "const" and v.name in named)
        outer = [v for v in known if v.space == "shared" and v.name in named]
        every_shared = [*outer, *(v for v in variables if v.space == "shared")]
        self.dynamic = [v for v in every_shared if v.nbytes == 0]
        self.shared = [v for v in every_shared if v.nbytes > 0]
        self.static_shared_bytes = layout(self.shared).nbytes
        self._shared_layouts: dict[int, SpaceLayout] = {}
        self.local = layout([v for v in variables if v.space in ("local", "param")])
        self.frames = {name: _frame(section) for name, section in self.program.sections.items()}
        self.saved = registers.saved(self.program)
        self.parameter_offsets, size = _parameter_offsets(function.parameters)
        self.parameter_address = MEMORY.allocate(size, f"parameters of {function.label}", internal=True)
        self.parameter_bytes = MEMORY.view(self.parameter_address, size)

    def shared_layout(self, dynamic_bytes: int) -> SpaceLayout:
        """Return the layout of shared memory with this many bytes of dynamic shared memory."""
        if dynamic_bytes not in self._shared_layouts:
            made = layout(self.shared, self.dynamic, dynamic_bytes, self.uses.reserved)
            self._shared_layouts[dynamic_bytes] = made
        return self._shared_layouts[dynamic_bytes]

    def machine(
        self,
        block: tuple[int, int, int],
        blocks: int,
        shared_bytes: int,
        observer: observers.Observer | None,
        cluster: tuple[int, int, int] = (1, 1, 1),
    ) -> Machine:
        made = Machine(
            self.program,
            self.slots,
            self.module.addresses,
            (self.parameter_address, self.parameter_bytes, self.parameter_offsets),
            self.uses,
            self.shared_layout(shared_bytes),
            self.local,
            block,
            blocks,
            observer,
            cluster,
        )
        made.source_text = self.module.source
        if self.saved:
            made.calls = Calls(made, self.frames, self.saved, self.module.addresses)
        return made


def _frame(section: Section) -> SpaceLayout:
    """Return the layout of a function's frame. It has no banks, so the variables lie close together."""
    variables = list(section.variables.values())
    return layout(variables, period=max([16, *(variable.align for variable in variables)]))


def _symbols_of(program: cfg.Program) -> set[str]:
    """Return the names of the variables that a program uses."""
    found: set[str] = set()

    def visit(operand: object) -> None:
        if isinstance(operand, Symbol):
            found.add(operand.name)
        elif isinstance(operand, ptx.Address):
            visit(operand.base)
        elif isinstance(operand, ptx.Vector):
            for item in operand.items:
                visit(item)

    for block in program.blocks:
        for instruction in block.instructions:
            for operand in instruction.operands:
                visit(operand)
    return found


def _parameter_offsets(parameters: Sequence[Variable]) -> tuple[dict[str, int], int]:
    offsets, end = {}, 0
    for parameter in parameters:
        end = -(-end // parameter.align) * parameter.align
        offsets[parameter.name] = end
        end += parameter.nbytes
    return offsets, end


class LoadedModule:
    """A PTX module with its variables in device memory."""

    def __init__(self, parsed: Module, source: tuple[str, str] = ("", "")) -> None:
        self.parsed = parsed
        self.source = source
        self.addresses: dict[str, int] = {}
        self.kernels = {f.name: Kernel(self, f) for f in parsed.functions.values() if f.entry and f.defined}

    def kernel(self, name: str) -> Kernel:
        """Return the kernel with this name.

        Raises:
            EmulatorError: there is none; lists the names.
        """
        if name not in self.kernels:
            raise EmulatorError(f"no kernel {name!r} in the module; it has {', '.join(self.kernels) or 'none'}")
        return self.kernels[name]

    def global_address(self, name: str) -> int:
        """Return the device address of a __device__ or __constant__ variable.

        Raises:
            EmulatorError: there is none with this name.
        """
        if name not in self.parsed.variables or not self.place(name):
            known = [v.name for v in self.parsed.variables.values() if v.space in ("global", "const")]
            raise EmulatorError(f"no variable {name!r} in the module; it has {', '.join(known) or 'none'}")
        return self.addresses[name]

    def global_size(self, name: str) -> int:
        """Return the size of a __device__ or __constant__ variable in bytes."""
        self.global_address(name)
        return self.parsed.variables[name].nbytes

    def place(self, name: str) -> bool:
        """Return True if the variable has memory, or the function an address, which they get here at the first call.

        Headers declare hundreds of variables that no kernel uses.
        """
        if name in self.addresses:
            return True
        function = self.parsed.functions.get(name)
        if function is not None and function.defined and not function.entry:
            self.addresses[name] = function_address(name)
            return True
        variable = self.parsed.variables.get(name)
        if variable is None or variable.space not in ("global", "const"):
            return False
        if variable.external:
            raise UnsupportedInstruction(f"variable {name} is declared extern, and no other module can define it")
        address = self.addresses[name] = MEMORY.allocate(variable.nbytes, name)
        view = MEMORY.view(address, variable.nbytes)
        view[:] = 0  # variables without an initialiser are zero
        if variable.initial is not None:
            data = self._initial_bytes(variable)
            view[: len(data)] = np.frombuffer(data, np.uint8)
        MEMORY.mark_written(address, variable.nbytes)
        return True

    def _initial_bytes(self, variable: Variable) -> bytes:
        size = TYPE_BYTES[variable.type]
        assert variable.initial is not None
        parts = []
        for value in variable.initial:
            if isinstance(value, Symbol):
                if not self.place(value.name):
                    raise EmulatorError(f"variable {variable.name} holds the address of {value.name}, which has none")
                value = self.addresses[value.name] + value.offset
            if variable.type in ("f32", "f64"):
                parts.append(np.array(value, np.float32 if size == 4 else np.float64).tobytes())
            else:
                parts.append((int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little"))
        return b"".join(parts)


def load(text: str, source: tuple[str, str] = ("", "")) -> LoadedModule:
    """Return the module of a PTX text; `source` is the name and the text that it was made of, if that is in no file.

    Raises:
        PTXSyntaxError: the text is no PTX.
    """
    return LoadedModule(ptx.parse(text), source)


def launch(
    kernel: Kernel,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    params: Sequence[bytes],
    shared_bytes: int = 0,
    arch: str = "sm_90",
    lanes: int | None = None,
    cooperative: bool = False,
) -> None:
    """Run a kernel to its end.

    Args:
        kernel: of a loaded module.
        grid: blocks in x, y, z.
        block: threads in x, y, z.
        params: each parameter's value as the bytes the kernel expects.
        shared_bytes: dynamic shared memory of a block.
        arch: the architecture whose limits hold, such as "sm_90".
        lanes: threads that a wave aims at (by default LANES or twice as many); the result does not depend on it.
        cooperative: all blocks must be there at once, so that the grid has a barrier.

    Raises:
        LaunchError: no GPU would accept the launch.
        EmulatorError: the kernel does something wrong; each kind of mistake has a kind of this error.
    """
    with _DEVICE:
        check_launch(kernel, grid, block, params, shared_bytes, arch)
        if cooperative:
            check_resident(kernel, grid, block, shared_bytes, arch)
        execute(kernel, grid, block, params, shared_bytes, arch, lanes, cooperative)


def execute(
    kernel: Kernel,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    params: Sequence[bytes],
    shared_bytes: int,
    arch: str,
    lanes: int | None = None,
    cooperative: bool = False,
) -> None:
    """Run a kernel to its end, as `launch` does, whose launch has been checked."""
    with _DEVICE:
        kernel.decoded().uses.workspace.begin(cooperative)
        usual = 2 * LANES if kernel.decoded().has_few_registers else LANES
        try:
            _run(kernel, grid, block, params, shared_bytes, arch, lanes or usual)
        except BaseException as error:
            _tell(kernel, error)
            raise
        _tell(kernel)


def _tell(kernel: Kernel, error: BaseException | None = None) -> None:
    for listener in listeners:
        listener(kernel.label, error)


def check_resident(
    kernel: Kernel, grid: tuple[int, int, int], block: tuple[int, int, int], shared_bytes: int, arch: str
) -> None:
    """Raise LaunchError if the chip cannot hold all blocks of a cooperative launch at once."""
    total, held = math.prod(grid), resident_blocks(kernel, block, shared_bytes, arch)
    if total > held:
        raise LaunchError(
            f"kernel {kernel.label}: a cooperative launch of {total:,} blocks of {math.prod(block):,} threads; {arch} "
            f"holds {held:,} of them at once"
        )


def resident_blocks(kernel: Kernel, block: tuple[int, int, int], shared_bytes: int, arch: str) -> int:
    """Return how many blocks of a kernel the chip holds at once, by their threads and shared memory."""
    chip = architectures()[arch.rstrip("af")]
    return chip.resident_blocks(math.prod(block), kernel.decoded().shared_layout(shared_bytes).nbytes)


def _run(
    kernel: Kernel,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    params: Sequence[bytes],
    shared_bytes: int,
    arch: str,
    lanes: int,
) -> None:
    """Run the waves of a launch that has been checked."""
    decoded = kernel.decoded()
    for parameter, value in zip(kernel.parameters, params, strict=True):
        start = decoded.parameter_offsets[parameter.name]
        decoded.parameter_bytes[start : start + parameter.size] = np.frombuffer(value, np.uint8)
    total = grid[0] * grid[1] * grid[2]
    threads = block[0] * block[1] * block[2]
    padded = -(-threads // WARP) * WARP
    chip = architectures()[arch.rstrip("af")]
    resident = chip.resident_blocks(threads, decoded.shared_layout(shared_bytes).nbytes)
    # Where the order of atomics shows, blocks run one after the other: so the number of lanes shows in no result.
    # The blocks of a cluster are always there together, so the counts below are of clusters.
    together = math.prod(kernel.cluster)
    clusters, resident = total // together, max(1, resident // together)
    most = 1 if decoded.one_block_a_wave else max(1, min(lanes // (padded * together), resident))
    observer = observers.current()
    choices = None if observer is None else observer.choices
    if choices is not None:
        choices.begin_launch()
        most = choices.blocks_per_wave(max(1, min(lanes // (padded * together), resident, clusters)))
    per_wave = together * -(-clusters // -(-clusters // most))  # waves of about one size
    resident *= together
    wave = kernel.wave(block, per_wave, shared_bytes, observer)

    def another() -> Wave:
        made = Wave(decoded.machine(block, per_wave, shared_bytes, observer, kernel.cluster))
        made.machine.output = wave.machine.output
        return made

    used = [wave]
    try:
        with np.errstate(all="ignore"):
            if observer is not None:
                observer.begin_launch(wave.machine)
            _run_waves(_Blocks(grid, total, per_wave, resident, arch, together), wave, another, used)
    except EmulatorError as error:
        if choices is not None:
            error.args = (f"{error} (in the order of execution of observe(order={choices.seed}))",)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the kernel was interrupted at {used[-1].where()}") from None
    finally:
        for one in used:
            if observer is not None:
                observer.end_launch(one.machine)
            one.machine.active = one.machine.nobody
        if wave.machine.output:
            sys.stdout.write("".join(wave.machine.output))
            wave.machine.output.clear()


class _Blocks(NamedTuple):
    """The blocks of a launch: the grid, their number, how many run in a wave, how many the chip holds at once, and how
    many make a cluster."""

    grid: tuple[int, int, int]
    total: int
    per_wave: int
    resident: int
    arch: str
    cluster: int


def _run_waves(blocks: _Blocks, wave: Wave, another: Callable[[], Wave], used: list[Wave]) -> None:
    """Run all blocks, wave after wave. A wave in which nothing happens any more stays resident while others go first:
    new ones as long as the chip has room, then those that wait, in turn.

    `used` gets the waves that have run; the last one is that which runs.

    Raises:
        HangError: nothing happens in any wave, and no other can start.
    """
    free = [*reversed(wave.extra), wave]
    waiting: deque[Wave] = deque()
    most_idle, most, *_ = watchdog.current()
    quiet = idle = steps = 0
    choices = wave.choices
    left = deque([range(blocks.total)])
    if choices is not None:
        size = blocks.cluster
        ranges = choices.ranges(blocks.total // size, blocks.per_wave // size)
        left = deque(range(size * one.start, size * one.stop) for one in ranges)
    while left or waiting:
        room = min(blocks.per_wave, blocks.resident - sum(map(Wave.live_blocks, waiting)))
        count = min(room - room % blocks.cluster, len(left[0])) if left else 0
        if choices is not None and waiting and not quiet and not choices.starts(len(waiting)):
            count = 0  # one that is there already goes on
            waiting.rotate(choices.below(len(waiting)))
        if count > 0:
            if not free:
                wave.extra.append(another())
                free.append(wave.extra[-1])
            now = free.pop()
            ours = left.popleft()
            now.begin(blocks.grid, ours.start, ours.start + count)
            if count < len(ours):
                left.appendleft(ours[count:])
            quiet = idle = 0
        elif quiet >= len(waiting) and (all(one.repeats for one in waiting) or idle > most_idle):
            raise _hang(blocks, waiting, sum(map(len, left)))
        else:
            now = waiting.popleft()
        if used[-1] is not now:
            used[:] = [*(one for one in used if one is not now), now]
        before = now.steps
        if now.run(most - steps if choices is None or quiet else min(most - steps, choices.turn())):
            free.append(now)
            quiet = idle = 0
        else:
            waiting.append(now)
            quiet, idle = (0, 0) if now.happened else (quiet + 1, idle + now.idle)
        steps += now.steps - before
        if steps >= most:
            raise HangError(
                f"{now.where()}: the launch has executed {steps:,} blocks of straight-line code and has not ended: "
                "emulator.limits(total=...) sets another limit"
            )


def _hang(blocks: _Blocks, waiting: deque[Wave], left: int) -> HangError:
    text = waiting[0].waits_for()
    if left:
        text += (
            f"; {left:,} of {blocks.total:,} blocks have not started, as {blocks.arch} holds "
            f"{blocks.resident:,} of them at once"
        )
    return HangError(text)


def check_launch(
    kernel: Kernel,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    params: Sequence[bytes],
    shared_bytes: int,
    arch: str,
) -> None:
    """Raise LaunchError if a driver would refuse the launch."""

    def refuse(what: str) -> LaunchError:
        return LaunchError(f"kernel {kernel.label}: {what}")

    for name, sides, limits in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
        if len(sides) != 3:
            raise refuse(f"{name} is {sides}; it must have three sides")
        for axis, side, limit in zip("xyz", sides, limits, strict=True):
            if not 1 <= side <= limit:
                raise refuse(f"{name}.{axis} is {side}; it must be 1 to {limit:,}")
    threads = block[0] * block[1] * block[2]
    if threads > MAX_THREADS:
        raise refuse(f"block {block} has {threads:,} threads; a block has at most {MAX_THREADS:,}")
    if kernel.max_threads is not None and threads > kernel.max_threads:
        raise refuse(
            f"block {block} has {threads:,} threads; the kernel was compiled for at most {kernel.max_threads:,}"
        )
    if kernel.required_block is not None and tuple(block) != kernel.required_block:
        raise refuse(f"block is {block}; the kernel requires {kernel.required_block}")
    _check_cluster(refuse, kernel, grid, arch)
    _check_shared(kernel, shared_bytes, arch)
    if number_of(arch) < kernel.decoded().uses.first_arch:
        raise refuse(f"its mma of f64 needs sm_{kernel.decoded().uses.first_arch}; the device is {arch}")
    if len(params) != len(kernel.parameters):
        raise refuse(f"{len(params)} arguments given; it takes {len(kernel.parameters)}")
    for index, (parameter, value) in enumerate(zip(kernel.parameters, params, strict=True)):
        if len(value) != parameter.size:
            raise refuse(f"argument {index} has {len(value)} bytes; its type {parameter.type} has {parameter.size}")


MAX_CLUSTER = 8
"""Blocks of a cluster that every chip with clusters can hold (CUDA C++ guide, thread block clusters)."""


def _check_cluster(refuse: Callable[[str], LaunchError], kernel: Kernel, grid: tuple[int, int, int], arch: str) -> None:
    cluster = kernel.cluster
    size = math.prod(cluster)
    if size == 1:
        return
    if number_of(arch) < FIRST_WITH_CLUSTERS:
        raise refuse(f"it requires clusters of {cluster} blocks, which {arch} does not have")
    if size > MAX_CLUSTER:
        raise refuse(f"it requires clusters of {size} blocks; a cluster has at most {MAX_CLUSTER}")
    for axis, side, of_cluster in zip("xyz", grid, cluster, strict=True):
        if side % of_cluster:
            raise refuse(f"grid.{axis} is {side}; it must be a multiple of the cluster's, {of_cluster}")


def _check_shared(kernel: Kernel, shared_bytes: int, arch: str) -> None:
    known = architectures()
    if arch.rstrip("af") not in known:
        raise LaunchError(f"arch is {arch!r}; it must be one of {', '.join(known)}")
    limit = known[arch.rstrip("af")].multiprocessor.shared_per_block
    static = kernel.static_shared_bytes
    if shared_bytes < 0:
        raise LaunchError(f"kernel {kernel.label}: shared_bytes is {shared_bytes}; it must not be negative")
    if static > STATIC_SHARED:
        raise LaunchError(
            f"kernel {kernel.label}: {static:,} bytes of static shared memory; at most {STATIC_SHARED:,} are allowed"
        )
    needed = kernel.decoded().shared_layout(shared_bytes).nbytes
    if needed > limit:
        raise LaunchError(
            f"kernel {kernel.label}: {needed:,} bytes of shared memory ({static:,} static); a block on {arch} has at "
            f"most {limit:,}"
        )
