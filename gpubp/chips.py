"""Hardware by name: GPUs by their published figures, and what all chips of an architecture have in common.

The figures stand in `chips.toml`, with their sources. A file like it describes a GPU that is not there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpubp.dtypes import ARITHMETIC, MIXED, NAMES
from gpubp.errors import ArgumentError, nearest, shown, unknown_name
from gpubp.files import read_toml

TABLE = Path(__file__).with_name("chips.toml")

FLOAT64_TENSOR = "float64_tensor"
"""The rate of float64 on tensor cores, beside those of the kinds of arithmetic."""

# The same on every chip (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
WARP = 32
"""Threads of a warp."""
MAX_THREADS = 1024
"""Threads that a block may have."""
MAX_BLOCK = (1024, 1024, 64)
"""Threads that a block may have along x, y and z."""
MAX_GRID = (2**31 - 1, 65535, 65535)
"""Blocks that a grid may have along x, y and z."""
STATIC_SHARED = 48 * 1024
"""Shared memory that a block gets without asking for more, in bytes."""


@dataclass(frozen=True)
class Roofline:
    """The two limits of a machine (Williams, Waterman & Patterson, "Roofline", 2009).

    Attributes:
        peak: flop/s.
        bandwidth: bytes a second.
    """

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """Return the intensity from which on arithmetic is the limit, in flops a byte."""
        return self.peak / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """Return the highest flop/s at this intensity: min(peak, intensity · bandwidth)."""
        return min(self.peak, intensity * self.bandwidth)

    def bound(self, intensity: float) -> str:
        """Return which of the two limits binds at this intensity: "arithmetic" or "memory"."""
        return "arithmetic" if intensity >= self.ridge else "memory"


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor can hold.

    Attributes:
        threads, blocks, registers: the most at a time.
        register_unit: the registers of a warp are rounded up to a multiple of it.
        register_partitions: parts of the register file, each for its own warps.
        shared_bytes: shared memory, in bytes.
        shared_unit: the shared memory of a block is rounded up to a multiple of it.
        shared_reserve: bytes of each block's shared memory that the system takes.
        shared_per_block: the most that a block can ask for, in bytes.
    """

    threads: int
    blocks: int
    registers: int
    register_unit: int
    register_partitions: int
    shared_bytes: int
    shared_unit: int
    shared_reserve: int
    shared_per_block: int

    def blocks_by_threads(self, threads: int) -> int:
        """Return how many blocks of `threads` threads its threads allow, in whole warps."""
        return self.threads // (-(-threads // WARP) * WARP)

    def blocks_by_shared_memory(self, shared_bytes: int) -> int:
        """Return how many blocks with `shared_bytes` of shared memory, static and dynamic, its shared memory allows."""
        if shared_bytes > self.shared_per_block:
            return 0
        taken = -(-(shared_bytes + self.shared_reserve) // self.shared_unit) * self.shared_unit
        return self.shared_bytes // taken if taken else self.blocks

    def blocks_by_registers(self, threads: int, registers: int) -> int:
        """Return how many blocks of `threads` threads with so many registers each its register file allows."""
        warps = -(-threads // WARP)
        each = -(-registers * WARP // self.register_unit) * self.register_unit
        partitions = self.register_partitions
        if each * (-(-warps // partitions) * partitions) > self.registers:
            return 0
        return self.registers // partitions // each * partitions // warps


@dataclass(frozen=True)
class Architecture:
    """What all chips of one compute capability have in common, and the chip that the emulated device is.

    Attributes:
        name: real architecture, such as "sm_90".
        example: name of that chip.
        multiprocessors: number of that chip's multiprocessors.
        multiprocessor: limits of each.
        float32, float64, tensor, wgmma: multiply-adds that each makes a clock; tensor: of 16-bit operands, by mma.sync;
            wgmma: by that, 0 without it.
        float64_tensor: of float64 by mma.sync; 0 where that is no faster.
    """

    name: str
    example: str
    multiprocessors: int
    multiprocessor: Multiprocessor
    float32: int
    float64: int
    tensor: int
    wgmma: int = 0
    float64_tensor: int = 0

    def multiply_adds(self, kind: str, on_tensor_cores: bool) -> float:
        """Return the multiply-adds of a kind of `gpubp.dtypes` that a multiprocessor makes a clock."""
        if kind == "float64":
            return self.float64_tensor if on_tensor_cores else self.float64
        if not on_tensor_cores:
            return self.float32
        return self.tensor * 2 / ARITHMETIC[kind].item_bytes

    def resident_blocks(self, threads: int, shared_bytes: int) -> int:
        """Return how many blocks the chip holds at once, by their threads and shared memory (not by registers)."""
        each = self.multiprocessor
        held = min(each.blocks, each.blocks_by_threads(threads), each.blocks_by_shared_memory(shared_bytes))
        return self.multiprocessors * held


@dataclass(frozen=True)
class Chip:
    """What the plan of a product must know of a chip.

    Attributes:
        arch: real architecture, such as "sm_90".
        multiprocessors: their number.
        shared_per_block: shared memory that a block gets without asking for more, in bytes.
        shared_on_request: shared memory that a block may ask for, in bytes; 0: no more.
    """

    arch: str
    multiprocessors: int
    shared_per_block: int = STATIC_SHARED
    shared_on_request: int = 0

    @property
    def has_async_copies(self) -> bool:
        """True if the chip has cp.async: from sm_80 on."""
        return number_of(self.arch) >= 80

    @property
    def has_tensor_cores(self) -> bool:
        """True if mma.sync takes TF32 and BF16: from sm_80 on."""
        return number_of(self.arch) >= 80

    @property
    def has_float64_tensor_cores(self) -> bool:
        """True if tensor cores multiply float64 faster than threads do: on sm_80 and sm_90."""
        return architecture(self.arch).float64_tensor > 0

    @property
    def has_wgmma(self) -> bool:
        """True if warpgroups multiply: on sm_90 alone."""
        return number_of(self.arch) == 90


@dataclass(frozen=True)
class Link:
    """What joins several GPUs, by its published figures.

    Attributes:
        name: the full name.
        bandwidth: of one GPU, in one direction, in bytes a second.
        latency: of a step of a ring, in seconds.
        chips: as many as it joins at most; None if no figure is published.
        source: of the figures.
    """

    name: str
    bandwidth: float
    latency: float
    chips: int | None
    source: str


@dataclass(frozen=True)
class Gpu:
    """One GPU, by its published figures.

    Attributes:
        key: the name on the command line, such as "H100".
        name: the full name.
        devices: names that the driver gives it.
        arch: real architecture, such as "sm_90".
        multiprocessors: their number.
        boost_hz: boost clock.
        rates: dense peak flop/s by kind of arithmetic of `gpubp.dtypes`, without the kinds that the GPU lacks; and
            `FLOAT64_TENSOR` where that is above float64's.
        bandwidth: of device memory, in bytes a second.
        multiprocessor: limits of one multiprocessor.
        source: of the figures.
        mma_sync: the share of the tensor cores' rates that mma.sync reaches; None if no measurement is known.
        mma_source: of that share; "" if it is not known.
        links: to other GPUs; empty if none is named.
    """

    key: str
    name: str
    devices: tuple[str, ...]
    arch: str
    multiprocessors: int
    boost_hz: float
    rates: Mapping[str, float]
    bandwidth: float
    multiprocessor: Multiprocessor
    source: str
    mma_sync: float | None = None
    mma_source: str = ""
    links: tuple[Link, ...] = ()

    def roofline(self, rate: str) -> Roofline:
        """Return the limits for one kind of arithmetic.

        Raises:
            ArgumentError: the GPU has no units for it.
        """
        if rate not in self.rates:
            raise ArgumentError("chip", self.key, f"a chip with {rate} units; it has {', '.join(self.rates)}")
        return Roofline(self.rates[rate], self.bandwidth)

    def ceiling(self, rate: str) -> Roofline:
        """Return the limits for one kind of arithmetic with the instructions that the kernels have: tensor cores
        through mma.sync. Where its share is not known, they are those of the dense rate.

        Raises:
            ArgumentError: the GPU has no units for it.
        """
        dense = self.roofline(rate)
        share = self.mma_sync if rate in MIXED and self.mma_sync is not None else 1.0
        return Roofline(share * dense.peak, dense.bandwidth)

    def product_rate(self, kind: str) -> str:
        """Return the name of the highest rate at which products of this kind of `gpubp.dtypes` may run."""
        return FLOAT64_TENSOR if kind == "float64" and FLOAT64_TENSOR in self.rates else kind

    def for_plans(self) -> Chip:
        """Return what the choice of kernels must know of the GPU."""
        return Chip(self.arch, self.multiprocessors, shared_on_request=self.multiprocessor.shared_per_block)


def number_of(arch: str) -> int:
    """Return 10 · major + minor of an architecture's compute capability: 90 for "sm_90" and "sm_90a".

    Raises:
        ValueError: the text is no real architecture.
    """
    match = re.fullmatch(r"sm_([0-9]{2,4})[af]?", arch)
    if match is None:
        raise ValueError(f'arch is {arch!r}: it must be a real architecture, such as "sm_90"')
    return int(match[1])


@functools.cache
def architectures() -> dict[str, Architecture]:
    """Return the architectures of the table, which are those that are emulated, by name."""
    found = {}
    for name, figures in _tables(TABLE)["architectures"].items():
        example = figures["example"]
        count = figures["multiprocessors"] if "multiprocessors" in figures else get(example).multiprocessors
        float32, float64, tensor = (figures[kind] for kind in ("float32", "float64", "tensor"))
        wgmma, float64_tensor = figures.get("wgmma", 0), figures.get(FLOAT64_TENSOR, 0)
        found[name] = Architecture(
            name, example, count, _multiprocessors()[name], float32, float64, tensor, wgmma, float64_tensor
        )
    return found


@functools.cache
def architecture(arch: str) -> Architecture:
    """Return the architecture of this name; where it is not in the table, the next older one that is, or the oldest."""
    known = architectures()
    older = [name for name in known if number_of(name) <= number_of(arch)]
    return known[max(older, key=number_of) if older else min(known, key=number_of)]


@functools.cache
def known() -> dict[str, Gpu]:
    """Return the GPUs of the table, by key."""
    return {key: _gpu(TABLE, key, table) for key, table in _tables(TABLE).items() if key not in _OTHERS}


@functools.cache
def links() -> dict[str, Link]:
    """Return the links of the table, by key."""
    return {
        key: Link(
            figures["name"],
            figures["bandwidth"] * 1e9,
            figures["latency"] / 1e6,
            figures.get("chips"),
            figures["source"],
        )
        for key, figures in _tables(TABLE)["links"].items()
    }


def get(name: str) -> Gpu:
    """Return the GPU with this key or full name, in capitals or not.

    Raises:
        ArgumentError: the name is not in the table.
    """
    for gpu in known().values():
        if name.lower() in (gpu.key.lower(), gpu.name.lower()):
            return gpu
    raise unknown_name("chip", name, known())


def of_device(device: str) -> Gpu | None:
    """Return the GPU that the driver calls by this name, such as "NVIDIA H100 80GB HBM3", or None.

    Only whole names count: boards of one chip differ in clock, in memory and in how much of the chip is on.
    """
    return next((gpu for gpu in known().values() if device in gpu.devices), None)


def read(path: str | Path) -> Gpu:
    """Return the GPU that a file in the form of `chips.toml` describes, in its one table.

    Raises:
        ArgumentError: the file or a field of it is wrong; names both.
    """
    path = Path(path)
    tables = _tables(path)
    if len(tables) != 1:
        raise ArgumentError("chip", str(path), f"a file with one chip's table; it has {len(tables)}")
    ((key, table),) = tables.items()
    return _gpu(path, key, table)


# --- the file, field by field -----------------------------------------------------------------------------------------
_FIELDS = {
    "name": str,
    "arch": str,
    "multiprocessors": int,
    "boost_mhz": float,
    "bandwidth": float,
    "source": str,
    "tflops": dict,
}
_OPTIONAL: dict[str, type] = {"devices": list, "multiprocessor": dict, "mma_sync": dict, "links": list}
_OTHERS = ("architectures", "links")
"""The tables of `TABLE` that are no chip's."""
_ZERO_ALLOWED = ("shared_reserve",)
_LONGEST_TEXT = 200
"""Characters."""
_RANGE = 1e-9, 1e9
"""In every unit of the file far beyond any chip, and far from overflow and underflow."""
_WANTED = {
    str: f"a text in one line, of at most {_LONGEST_TEXT} characters",
    int: "a whole number > 0",
    float: "a number > 0",
    dict: "a table of its own",
    list: "a list of texts",
}


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a file, each as a dictionary."""
    try:
        tables = read_toml(path)
    except OSError as error:
        raise ArgumentError("chip", str(path), f"a file that can be read ({error.strerror})") from None
    except ValueError as error:
        raise ArgumentError("chip", str(path), f"a TOML file: {shown(error)}") from None
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ArgumentError(f"{path}: {shown(key)}", table, "inside a chip's table, such as [MyChip]")
    return tables


def _gpu(path: Path, key: str, table: Mapping[str, Any]) -> Gpu:
    where = f"{path}: {key}"
    if not _is(key, str, False):
        raise ArgumentError(f"{path}: the name of the table", key, _WANTED[str])
    checked = _checked(where, table, _FIELDS, _OPTIONAL)
    arch = checked["arch"]
    try:
        number_of(arch)
    except ValueError:
        raise ArgumentError(f"{where}.arch", arch, 'a real architecture, such as "sm_90"') from None
    known = dict.fromkeys((*NAMES, FLOAT64_TENSOR), float)
    tflops = _checked(f"{where}.tflops", checked["tflops"], {"float32": float}, known)
    units = _tables(TABLE)["architectures"].get(arch.rstrip("af"), {})
    if "float64" in tflops and FLOAT64_TENSOR in units:
        tflops.setdefault(FLOAT64_TENSOR, tflops["float64"] * units[FLOAT64_TENSOR] / units["float64"])
    mma_sync: dict[str, Any] = {}
    if "mma_sync" in checked:
        mma_sync = _checked(f"{where}.mma_sync", checked["mma_sync"], {"share": float, "source": str})
        if mma_sync["share"] > 1:
            raise ArgumentError(f"{where}.mma_sync.share", mma_sync["share"], "≤ 1, the dense rate")
    if "multiprocessor" in checked:
        limits = {field.name: int for field in fields(Multiprocessor)}
        own = Multiprocessor(**_checked(f"{where}.multiprocessor", checked["multiprocessor"], limits))
        if own.threads < WARP:
            raise ArgumentError(
                f"{where}.multiprocessor.threads", own.threads, f"at least {WARP}, the threads of a warp"
            )
    elif arch.rstrip("af") in _multiprocessors():
        own = _multiprocessors()[arch.rstrip("af")]
    else:
        raise ArgumentError(f"{where}.multiprocessor", None, f"a table of its own: {arch} is not in {TABLE.name}")
    for link in checked.get("links", ()):
        if link not in links():
            raise unknown_name(f"{where}.links", link, links())
    return Gpu(
        key=key,
        name=checked["name"],
        devices=tuple(checked.get("devices", ())),
        arch=arch,
        multiprocessors=checked["multiprocessors"],
        boost_hz=checked["boost_mhz"] * 1e6,
        rates={rate: tflops[rate] * 1e12 for rate in known if rate in tflops},
        bandwidth=checked["bandwidth"] * 1e9,
        multiprocessor=own,
        source=checked["source"],
        mma_sync=mma_sync.get("share"),
        mma_source=mma_sync.get("source", ""),
        links=tuple(links()[link] for link in checked.get("links", ())),
    )


@functools.cache
def _multiprocessors() -> dict[str, Multiprocessor]:
    """Return the limits of a multiprocessor by architecture."""
    return {
        name: Multiprocessor(**{field.name: figures[field.name] for field in fields(Multiprocessor)})
        for name, figures in _tables(TABLE)["architectures"].items()
    }


def _checked(
    where: str, table: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """Return the table if it has every required field, no unknown one, and values of the right kinds.

    Raises:
        ArgumentError: names the field.
    """
    kinds = {**(optional or {}), **required}
    for name in required:
        if name not in table:
            raise ArgumentError(f"{where}.{name}", None, _WANTED[required[name]])
    for name, value in table.items():
        if name not in kinds:
            hint = nearest(name, kinds)
            raise ArgumentError(f"{where}.{shown(name)}", value, "left out", f"did you mean {hint!r}?" if hint else "")
        if not _is(value, kinds[name], name in _ZERO_ALLOWED):
            raise ArgumentError(f"{where}.{name}", value, _WANTED[kinds[name]])
    return dict(table)


def _is(value: Any, kind: type, zero_allowed: bool) -> bool:
    if kind is str:
        return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()
    if kind is list:
        return isinstance(value, list) and all(_is(each, str, zero_allowed) for each in value)
    if kind is dict:
        return isinstance(value, dict)
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return number and (_RANGE[0] <= value <= _RANGE[1] or (zero_allowed and value == 0))
