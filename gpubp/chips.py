"""GPUs by name, by their published figures: `chips.toml`, where the source of each stands, or a file like it."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpubp.backends import plans
from gpubp.costs import RATES, Roofline
from gpubp.errors import ArgumentError, nearest, unknown_name

TABLE = Path(__file__).with_name("chips.toml")


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor can hold.

    threads, blocks, registers: the most that are there at a time.
    register_unit: registers a warp gets are rounded up to a multiple of it. register_partitions: parts of the register
    file, each for its own warps. shared_bytes: shared memory. shared_unit: a block's share of it is rounded up to a
    multiple of this. shared_reserve: bytes that the system takes of each block's share. shared_per_block: the most that
    a block can ask for.
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


@dataclass(frozen=True)
class Gpu:
    """One GPU, by its published figures.

    key: what it is asked for by, such as "H100". name: in full. devices: names that the driver gives it.
    arch: real architecture, such as "sm_90". boost_hz: clock. rates: peak flop/s by kind of arithmetic, dense
    (see `gpubp.costs.RATES`); kinds that it lacks are missing. bandwidth: bytes a second of device memory.
    source: of the figures.
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

    def roofline(self, rate: str) -> Roofline:
        """The limits for one kind of arithmetic.

        Raises ArgumentError where the chip has no such units.
        """
        if rate not in self.rates:
            raise ArgumentError("chip", self.key, f"a chip with {rate} units; it has {', '.join(self.rates)}")
        return Roofline(self.rates[rate], self.bandwidth)

    def for_plans(self) -> plans.Chip:
        """What the choice of kernels needs to know of it."""
        return plans.Chip(self.arch, self.multiprocessors, shared_on_request=self.multiprocessor.shared_per_block)


@functools.cache
def known() -> dict[str, Gpu]:
    """The GPUs of the table, by key."""
    return _parse(TABLE)


def get(name: str) -> Gpu:
    """The GPU of this key or full name, whatever the case.

    Raises ArgumentError for a name that is not in the table.
    """
    for gpu in known().values():
        if name.lower() in (gpu.key.lower(), gpu.name.lower()):
            return gpu
    raise unknown_name("chip", name, known())


def of_device(device: str) -> Gpu | None:
    """The GPU that the driver calls by this name, such as "NVIDIA H100 80GB HBM3"; None for one not in the table.

    Only whole names count: boards of one chip differ in clock, in memory and in how much of the chip is on.
    """
    return next((gpu for gpu in known().values() if device in gpu.devices), None)


def read(path: str | Path) -> Gpu:
    """The GPU that a file in the form of `chips.toml` describes, in its one table.

    Raises ArgumentError that names the file and the field at fault.
    """
    found = _parse(Path(path))
    if len(found) != 1:
        raise ArgumentError("chip", str(path), f"a file with one chip's table; it has {len(found)}")
    return next(iter(found.values()))


# --- the file, field by field -----------------------------------------------------------------------------------------
_FIELDS = {
    "name": str,
    "arch": str,
    "multiprocessors": int,
    "boost_mhz": float,
    "bandwidth": float,
    "source": str,
    "tflops": dict,
    "multiprocessor": dict,
}
_OPTIONAL: dict[str, type] = {"devices": list}
_ZERO_ALLOWED = ("shared_reserve",)
_WANTED = {
    str: "a text",
    int: "a whole number > 0",
    float: "a number > 0",
    dict: "a table of its own",
    list: "a list of texts",
}


def _parse(path: Path) -> dict[str, Gpu]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError("chip", str(path), f"a file that can be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError("chip", str(path), f"a TOML file: {error}") from None
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ArgumentError(f"{path}: {key}", table, "inside a chip's table, such as [MyChip]")
    return {key: _gpu(f"{path}: {key}", key, table) for key, table in tables.items()}


def _gpu(where: str, key: str, table: Mapping[str, Any]) -> Gpu:
    checked = _checked(where, table, _FIELDS, _OPTIONAL)
    if not re.fullmatch(r"sm_\d+[af]?", checked["arch"]):
        raise ArgumentError(f"{where}.arch", checked["arch"], 'a real architecture, such as "sm_90"')
    tflops = _checked(f"{where}.tflops", checked["tflops"], {"float32": float}, dict.fromkeys(RATES, float))
    limits = _checked(
        f"{where}.multiprocessor", checked["multiprocessor"], {field.name: int for field in fields(Multiprocessor)}
    )
    return Gpu(
        key=key,
        name=checked["name"],
        devices=tuple(checked.get("devices", ())),
        arch=checked["arch"],
        multiprocessors=checked["multiprocessors"],
        boost_hz=checked["boost_mhz"] * 1e6,
        rates={rate: tflops[rate] * 1e12 for rate in RATES if rate in tflops},
        bandwidth=checked["bandwidth"] * 1e9,
        multiprocessor=Multiprocessor(**limits),
        source=checked["source"],
    )


def _checked(
    where: str, table: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """The table, if it has every required field, none that is unknown, and each of its kind."""
    kinds = {**(optional or {}), **required}
    for name in required:
        if name not in table:
            raise ArgumentError(f"{where}.{name}", None, _WANTED[required[name]])
    for name, value in table.items():
        if name not in kinds:
            hint = nearest(name, kinds)
            raise ArgumentError(f"{where}.{name}", value, "left out", f"did you mean {hint!r}?" if hint else "")
        if not _is(value, kinds[name], name in _ZERO_ALLOWED):
            raise ArgumentError(f"{where}.{name}", value, _WANTED[kinds[name]])
    return dict(table)


def _is(value: Any, kind: type, zero_allowed: bool) -> bool:
    if kind is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if kind not in (int, float):
        return isinstance(value, kind)
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return number and (value > 0 or (zero_allowed and value == 0)) and value != float("inf")
