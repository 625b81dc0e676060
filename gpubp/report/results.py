"""What the parts of a report found, and their file, with which a later run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp import files
from gpubp.backends.detection import Availability
from gpubp.errors import DataError, unknown_name
from gpubp.machine import MachineInfo
from gpubp.report.page import finite
from gpubp.report.parts import PARTS
from gpubp.report.schema import FILE, RESULTS, UNITS, validate
from gpubp.result_file import ResultFormat

if TYPE_CHECKING:
    from gpubp.bench.results import BenchResult

FORMAT = ResultFormat("gpubp report", 2)

BROKEN = ("failed", "timeout", "crashed")
"""What became of parts that are to be run again, and that make a report fail."""


@dataclass(frozen=True)
class PartResult:
    """What became of a part.

    Attributes:
        status: one of `schema.STATUSES`.
        device: where its kernels ran; "" for none.
        made: date and time of its end, in ISO 8601.
        seconds: how long its process took, compiling included: no speed of anything.
        limit_seconds: how long it could take.
        message: why it is not done.
        lacking: backends whose kernels it could not run on the GPU, or at all, and why.
        last_output: the end of what its process wrote, if it broke.
        result: as `schema.RESULTS` describes; of a part that broke, what it had found till then, or None.
    """

    status: str
    device: str = ""
    made: str = ""
    seconds: float = 0.0
    limit_seconds: float = 0.0
    message: str = ""
    lacking: tuple[str, ...] = ()
    last_output: str = ""
    result: Mapping[str, Any] | None = None

    @property
    def broke(self) -> bool:
        """True if the part did not come to its end."""
        return self.status in BROKEN


@dataclass(frozen=True)
class Report:
    """A report: its parts, and what they are results of.

    Attributes:
        made: date and time of the last change, in ISO 8601.
        command: the last one that worked at it.
        identity: what must stay the same for parts of several runs to stand together (`identity.identity_of`).
        parts: by name.
    """

    made: str
    command: str
    identity: Mapping[str, str]
    parts: Mapping[str, PartResult] = field(default_factory=dict)

    def with_part(self, name: str, part: PartResult, made: str) -> Report:
        """Return the report with one more part, or another in its place, in the order in which they run."""
        parts = {**self.parts, name: part}
        return replace(self, made=made, parts={each: parts[each] for each in PARTS if each in parts})

    @property
    def complete(self) -> bool:
        """True if no part is missing, broken, or unfinished for lack of time."""
        return bool(self.parts) and all(part.status in ("done", "absent", "left out") for part in self.parts.values())

    @cached_property
    def machine(self) -> MachineInfo | None:
        """The machine; None if the part that looks at it broke."""
        found = self.result("info")
        return None if found is None else machine_of(found)

    def result(self, name: str) -> Mapping[str, Any] | None:
        """Return what a part found; None if it found nothing, or is not there."""
        return self.parts[name].result if name in self.parts else None

    def results(self, kind: str) -> list[Mapping[str, Any]]:
        """Return what the parts whose names begin with `kind` found."""
        return [part.result for name, part in self.parts.items() if name.startswith(kind) and part.result is not None]

    def bench(self, name: str) -> BenchResult | None:
        """Return the times that a part of the bench measured; None without."""
        result = self.result(name)
        return _bench_of(result["measured"]) if result and result["measured"] is not None else None

    @cached_property
    def measured(self) -> dict[str, BenchResult]:
        """The times that parts of the bench measured, by the parts' names."""
        found = {name: self.bench(name) for name in self.parts if name.startswith("bench")}
        return {name: each for name, each in found.items() if each is not None}

    @property
    def mistakes(self) -> list[str]:
        """Return what is wrong with the kernels or their host code, a line each."""
        found = [
            f"{_place(check)}: {check['failed']} cases failed" for check in self.results("check") if check["failed"]
        ]
        found += [
            f"training on {_place(train)}: the loss is {train['loss']:.6g}, and {train['reference_loss']:.6g} on numpy"
            for train in self.results("train")
            if not train["matches"]
        ]
        for bench in self.measured.values():
            found += [f"{record.contender}, {record.work.title}: {record.fault}" for record in bench.own_faults]
        for bench_part in self.results("bench"):
            found += [
                f"{each['contender']} on {each['device']}, {each['work']}: {each['fault']}"
                for each in bench_part["rehearsed"]
                if each["fault"]
            ]
        return found

    @property
    def failed(self) -> bool:
        """True if a part broke or a kernel is wrong."""
        return any(part.broke for part in self.parts.values()) or bool(self.mistakes)

    @property
    def checked_on(self) -> tuple[str, ...]:
        """Return the devices that kernels were checked on."""
        return tuple(dict.fromkeys(check["device"] for check in self.results("check") if check["cases"]))

    @property
    def verdict(self) -> str:
        """Return the verdict in a few words."""
        if self.failed:
            return "Failed"
        if not self.checked_on:
            return "No kernel was checked"
        where = " and ".join(DEVICE_NAMES[device] for device in self.checked_on)
        return f"Passed on {where}" + ("" if "gpu" in self.checked_on else "; nothing ran on a GPU")

    # --- the file -----------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return finite(
            {
                **FORMAT.header,
                "made": self.made,
                "command": self.command,
                "verdict": self.verdict,
                "identity": dict(self.identity),
                "units": UNITS,
                "parts": {name: dict(vars(part)) for name, part in self.parts.items()},
            }
        )

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all."""
        files.write_bytes(path, json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """Return the report in a file that `save` wrote.

        Raises:
            DataError: the file is something else, or damaged; says where.
        """
        return FORMAT.read(path, cls.from_json)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Return the report in a text that `save` wrote.

        Raises:
            DataError: it is another text.
        """
        values = FORMAT.values(text)
        try:
            return _report_of(values)
        except DataError as error:
            raise DataError(f"is a damaged result of gpubp report: {error}") from None


DEVICE_NAMES = {"cpu": "the CPU", "gpu": "the GPU", "emulator": "the emulated device", "virtual": "the virtual device"}


def _place(result: Mapping[str, Any]) -> str:
    return f"{result['backend']} on {DEVICE_NAMES[result['device']]}"


def _report_of(values: dict[str, Any]) -> Report:
    validate(values, FILE)
    parts = {name: _part_of(name, part) for name, part in values["parts"].items()}
    report = Report(values["made"], values["command"], values["identity"], parts)
    _ = report.machine, report.measured  # damaged ones raise now
    return report


def _part_of(name: str, values: dict[str, Any]) -> PartResult:
    if name not in PARTS:
        raise DataError(str(unknown_name("parts", name, PARTS)))
    if values["result"] is not None:
        validate(values["result"], RESULTS[name.split("-")[0]], f"parts.{name}.result")
    elif values["status"] in ("done", "partial"):
        raise DataError(f"parts.{name}.result was null; it must be there, as the part is {values['status']}")
    return PartResult(**{**values, "lacking": tuple(values["lacking"])})


def _bench_of(values: Any) -> BenchResult:
    from gpubp.bench.results import BenchResult

    return BenchResult.from_json(json.dumps(values))


def machine_of(values: Mapping[str, Any]) -> MachineInfo:
    """Return the machine whose `to_dict` these values are."""
    backends = tuple(Availability(**each) for each in values["backends"])
    return MachineInfo(**{**values, "gpus": tuple(values["gpus"]), "backends": backends})
