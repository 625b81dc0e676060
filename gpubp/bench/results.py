"""The figures of a run, and their file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gpubp import files
from gpubp.bench import works
from gpubp.bench.contenders import EVERYONE
from gpubp.bench.timing import quartiles
from gpubp.bench.works import SCALINGS, Limit, SharedStep, Work
from gpubp.chips import Roofline
from gpubp.dtypes import canonical
from gpubp.errors import ArgumentError, DataError, StateError, shown, unknown_name
from gpubp.registry import require_count, require_number
from gpubp.result_file import ResultFormat

FORMAT = ResultFormat("gpubp bench", 1)
SHORTEST, LONGEST = 1e-12, 1e9
"""Seconds that a call can take."""
DEVICES = ("cpu", "gpu")


@dataclass(frozen=True)
class Record:
    """What one contender took for one work.

    Attributes:
        contender: the key of the contender.
        seconds: of a call, one sample for each turn; empty if `fault` says why there are none.
        all_reduce: of the all-reduce within a `works.SharedStep`, one sample for each turn; empty for one rank, and for
            other works.
    """

    work: Work
    contender: str
    seconds: tuple[float, ...] = ()
    fault: str = ""
    all_reduce: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Return the median time of a call in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return the first and third quartile in seconds; of a single sample, the sample twice."""
        return quartiles(self.seconds)

    @property
    def flops_per_second(self) -> float:
        """Return the flop/s at the median."""
        return self.work.flops / self.median

    @property
    def bytes_per_second(self) -> float:
        """Return the rate of the least bytes at the median, in bytes a second."""
        return self.work.bytes / self.median


@dataclass(frozen=True)
class Scaling:
    """A shared step beside the step of one rank.

    Attributes:
        record: of the shared step; it may have a fault and no times.
        base: of one rank; likewise.
        kind: "strong": both have the same batch; or "weak": each rank has as many rows as the one.
    """

    record: Record
    base: Record
    kind: str

    @property
    def ranks(self) -> int:
        """Return the number of ranks."""
        return _shared(self.record).ranks

    @property
    def speed_up(self) -> float | None:
        """Return the rows a second over those of one rank; None if one of the two has no times."""
        if not self.record.seconds or not self.base.seconds:
            return None
        rows = _shared(self.record).step.rows / _shared(self.base).step.rows
        return rows * self.base.median / self.record.median

    @property
    def efficiency(self) -> float | None:
        """Return the speed-up over the number of ranks."""
        return None if self.speed_up is None else self.speed_up / self.ranks

    @property
    def all_reduce(self) -> float | None:
        """Return the median of the all-reduce's seconds; None if there is none."""
        return statistics.median(self.record.all_reduce) if self.record.all_reduce else None

    @property
    def share(self) -> float | None:
        """Return the share of the step that the all-reduce takes."""
        return None if self.all_reduce is None else self.all_reduce / self.record.median


def _shared(record: Record) -> SharedStep:
    assert isinstance(record.work, SharedStep)
    return record.work


@dataclass(frozen=True)
class BenchResult:
    """A run.

    Attributes:
        made: date and time, in ISO 8601.
        machine: as `gpubp.machine.MachineInfo.to_dict` says.
        threads, repeats, seconds: how it was measured.
        records: of every work and contender.
        limits: measured, by device and dtype.
        published: limits of the GPU by its vendor, by dtype; empty if there is none in the table of chips.
        absent: why a contender did not take part.
        busy: the share of the cores' time that other programs took.
    """

    made: str
    machine: Mapping[str, Any]
    threads: int
    repeats: int
    seconds: float
    records: tuple[Record, ...]
    limits: Mapping[str, Mapping[str, Roofline]] = field(default_factory=dict)
    published: Mapping[str, Roofline] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    busy: float | None = None

    @property
    def works(self) -> tuple[Work, ...]:
        """Return what was measured, in order."""
        return tuple(dict.fromkeys(record.work for record in self.records))

    def record(self, work: Work, contender: str) -> Record | None:
        """Return what the contender took for the work; None if it has no times."""
        return next((r for r in self.records if r.work == work and r.contender == contender and r.seconds), None)

    @property
    def scalings(self) -> tuple[Scaling, ...]:
        """Return the shared steps beside those of one rank, by contender and network: the strong ones, then the weak
        ones, each after the one rank's own."""
        shared = [record for record in self.records if isinstance(record.work, SharedStep)]
        found = []
        for base in (record for record in shared if _shared(record).ranks == 1):
            rows = _shared(base).step.rows
            for kind, times in SCALINGS.items():
                found += [
                    Scaling(record, base, kind)
                    for record in shared
                    if record.contender == base.contender
                    and replace(_shared(record).step, rows=rows) == _shared(base).step
                    and _shared(record).step.rows == rows * times(_shared(record).ranks)
                ]
        return tuple(sorted(found, key=lambda each: each.kind))

    @property
    def own_faults(self) -> tuple[Record, ...]:
        """Return the faults of this project's backends."""
        return tuple(record for record in self.faults if EVERYONE[record.contender].backend)

    @property
    def faults(self) -> tuple[Record, ...]:
        """Return the records without times."""
        return tuple(record for record in self.records if record.fault)

    def to_json(self) -> str:
        """Return all of it as JSON, with medians, quartiles and rates for other readers."""

        def roofline(limits: Roofline) -> dict[str, float]:
            return {"flops_per_second": limits.peak, "bytes_per_second": limits.bandwidth}

        return json.dumps(
            {
                **FORMAT.header,
                "made": self.made,
                "machine": dict(self.machine),
                "threads": self.threads,
                "repeats": self.repeats,
                "seconds": self.seconds,
                "busy": self.busy,
                "limits": {
                    device: {dtype: roofline(limits) for dtype, limits in by_dtype.items()}
                    for device, by_dtype in self.limits.items()
                },
                "published": {dtype: roofline(limits) for dtype, limits in self.published.items()},
                "absent": dict(self.absent),
                "records": [_record_to_dict(record) for record in self.records],
                "scalings": [_scaling_to_dict(each) for each in self.scalings],
            },
            indent=1,
        )

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all."""
        files.write_bytes(path, self.to_json().encode())

    @classmethod
    def read(cls, path: str | Path) -> BenchResult:
        """Return the result in a file that `save` wrote.

        Raises:
            DataError: the file is something else; says why.
        """
        return FORMAT.read(path, cls.from_json)

    @classmethod
    def from_json(cls, text: str) -> BenchResult:
        """Return the result that `to_json` wrote.

        Raises:
            DataError: it is another text.
        """
        values = FORMAT.values(text)
        try:
            return cls(**{name: _READERS[name](name, values[name]) for name in _READERS})
        except (KeyError, TypeError, ValueError, AttributeError, ArgumentError) as error:
            missing = "it lacks " if isinstance(error, KeyError) else ""
            raise DataError(f"is a damaged result of gpubp bench: {missing}{shown(error, 230)}") from None


def limits_of(records: Sequence[Record], contenders: Mapping[str, str]) -> dict[str, dict[str, Roofline]]:
    """Return the limits by device and dtype, from the records of `works.Limit`.

    Args:
        records: of the whole run.
        contenders: the device of each contender that measured them. A limit that was measured in part is left out.
    """
    found: dict[str, dict[str, Roofline]] = {}
    samples: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        if isinstance(record.work, Limit):
            work = record.work
            amount = work.flops if work.name == "product" else work.bytes
            key = contenders[record.contender], work.dtype, work.name
            samples.setdefault(key, []).extend(amount / seconds for seconds in record.seconds)
    for device, dtype, _ in samples:
        rates = [samples.get((device, dtype, name)) for name in ("product", "copy")]
        if all(rates):
            peak, bandwidth = (statistics.median(rate) for rate in rates if rate)
            found.setdefault(device, {})[dtype] = Roofline(peak, bandwidth)
    return found


def _record_to_dict(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {
        "work": record.work.to_dict(),
        "contender": record.contender,
        "seconds": list(record.seconds),
        "fault": record.fault,
    }
    if record.all_reduce:
        found["all_reduce"] = list(record.all_reduce)
    if record.seconds:
        first, third = record.quartiles
        found |= {
            "median": record.median,
            "first_quartile": first,
            "third_quartile": third,
            "flops_per_second": record.flops_per_second,
            "bytes_per_second": record.bytes_per_second,
        }
    return found


def _scaling_to_dict(scaling: Scaling) -> dict[str, Any]:
    step = _shared(scaling.record).step
    return {
        "scaling": scaling.kind,
        "contender": scaling.record.contender,
        "network": step.name,
        "dtype": step.dtype,
        "rows": step.rows,
        **{name: getattr(scaling, name) for name in ("ranks", "speed_up", "efficiency", "all_reduce", "share")},
    }


# --- a file, field by field -------------------------------------------------------------------------------------------
def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentError(name, value, "a text")
    return value


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentError(name, value, "a table")
    return value


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ArgumentError(name, value, "a list")
    return value


def _count(name: str, value: Any) -> int:
    require_count(name, value)
    return value


def _seconds(name: str, value: Any) -> float:
    require_number(name, value, above=SHORTEST, below=LONGEST)
    return float(value)


def _samples(name: str, value: Any) -> tuple[float, ...]:
    return tuple(_seconds(name, each) for each in _list(name, value))


def _time(name: str, value: Any) -> str:
    datetime.fromisoformat(_text(name, value))
    return value


def _share(name: str, value: Any) -> float | None:
    if value is not None:
        require_number(name, value, least=0)
    return value


def _machine(name: str, value: Any) -> Mapping[str, Any]:
    machine = _table(name, value)
    _text("machine.processor", machine.get("processor", ""))
    try:
        json.dumps(machine, allow_nan=False)
    except ValueError:
        raise ValueError(f"{name} has a number that is not finite") from None
    return machine


def _rooflines(name: str, value: Any) -> dict[str, Roofline]:
    found = {}
    for dtype, limits in _table(name, value).items():
        rates = [_table(name, limits)[rate] for rate in ("flops_per_second", "bytes_per_second")]
        for rate in rates:
            require_number(name, rate, above=0)
        found[canonical(name, dtype)] = Roofline(*rates)
    return found


def _limits(name: str, value: Any) -> dict[str, dict[str, Roofline]]:
    return {device: _rooflines(name, limits) for device, limits in _table(name, value).items() if device in DEVICES}


def _absent(name: str, value: Any) -> dict[str, str]:
    return {key: _text(name, reason) for key, reason in _table(name, value).items() if key in EVERYONE}


def _records(name: str, value: Any) -> tuple[Record, ...]:
    return tuple(_record_from_dict(_table(name, each)) for each in _list(name, value))


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "made": _time,
    "machine": _machine,
    "threads": _count,
    "repeats": _count,
    "seconds": _seconds,
    "busy": _share,
    "limits": _limits,
    "published": _rooflines,
    "absent": _absent,
    "records": _records,
}
"""How each field is read. Each raises ArgumentError, ValueError or KeyError for what `to_json` never writes."""


def _record_from_dict(values: Mapping[str, Any]) -> Record:
    contender = _text("contender", values["contender"])
    if contender not in EVERYONE:
        raise unknown_name("contender", contender, EVERYONE)
    seconds = _samples("seconds", values["seconds"])
    all_reduce = _samples("all_reduce", values.get("all_reduce", []))
    record = Record(works.from_dict(values["work"]), contender, seconds, _text("fault", values["fault"]), all_reduce)
    if not record.seconds and not record.fault:
        raise StateError("a record", f"of {contender} has neither seconds nor a fault", "have one of them")
    if record.all_reduce and not record.seconds:
        raise StateError("a record", f"of {contender} has all_reduce and no seconds", "have both, or neither")
    return record
