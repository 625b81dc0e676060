"""What the processes of a program have found: as JSON, merged, and as text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpubp.emulator.observe.findings import Bytes, Finding, LineAccesses, Report
from gpubp.emulator.program.ptx import Location

_THREAD = re.compile(r"\([\d, ]+\)")
"""A block or a thread in a message."""


# --- JSON -------------------------------------------------------------------------------------------------------------
def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON can hold it."""
    return {
        "findings": [finding_to_json(each) for each in report.findings],
        "suppressed": [finding_to_json(each) for each in report.suppressed],
        "traffic": {
            "instructions": dict(report.instructions),
            "flops": report.flops,
            "bytes": {space: [each.read, each.written] for space, each in report.bytes.items()},
            "footprint": [report.footprint.read, report.footprint.written],
            "accesses": [_access_to_json(each) for each in report.accesses],
        },
    }


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON can hold it; its location is a list of places, each inlined at the next."""
    own = None if finding.location is None else finding.location.own
    return {
        "grade": finding.grade,
        "kind": finding.kind,
        "count": finding.count,
        "kernel": finding.kernel,
        "message": finding.message,
        "file": None if own is None else own.file,
        "line": finding.line,
        "code": finding.code,
        "location": _location_to_json(finding.location),
        "reason": finding.reason,
    }


def _finding_of(values: Mapping[str, Any]) -> Finding:
    return Finding(
        values["kind"],
        values["kernel"],
        _location_of(values["location"]),
        values["message"],
        values["count"],
        values["reason"],
        values["code"],
    )


def _location_to_json(location: Location | None) -> list[tuple[str, int]]:
    return [] if location is None else [(place.file, place.line) for place in location.chain()]


def _location_of(places: Sequence[Sequence[Any]]) -> Location | None:
    location = None
    for file, line in reversed(places):
        location = Location(file, line, location)
    return location


def _access_to_json(entry: LineAccesses) -> dict[str, Any]:
    return {**vars(entry), "location": _location_to_json(entry.location)}


# --- merging ----------------------------------------------------------------------------------------------------------
@dataclass
class Process:
    """One process that has launched kernels."""

    pid: int
    command: list[str]
    arch: str
    launches: dict[str, int]


@dataclass
class Outcome:
    """What became of a program.

    Attributes:
        command: its command line, from Python's options on.
        exit_code: its own; negative: the signal that ended it.
        report: the findings of all its processes, equal ones once.
    """

    command: list[str]
    exit_code: int
    report: Report = field(default_factory=Report)
    processes: list[Process] = field(default_factory=list)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add what one process has left."""
        process = Process(**values["process"])
        self.processes.append(process)
        self.report.launches.update(process.launches)
        add_findings(self.report.findings, map(_finding_of, values["findings"]))
        add_findings(self.report.suppressed, map(_finding_of, values["suppressed"]))
        _add_traffic(self.report, values["traffic"])

    def summary(self) -> str:
        """Return a line that says what was found in how much."""
        launches, kernels = sum(self.report.launches.values()), len(self.report.launches)
        if not launches:
            return "gpubp: the program has launched no kernel on the virtual device"
        chips = ", ".join(dict.fromkeys(process.arch for process in self.processes))
        found = _counted(len(self.report.findings), "finding") if self.report.findings else "no findings"
        done = f"{_counted(launches, 'launch', 'launches')} of {_counted(kernels, 'kernel')}"
        return f"gpubp: {found} in {done} on {chips}, in {_counted(len(self.processes), 'process', 'processes')}"

    def text(self) -> str:
        """Return the report as text."""
        tables = str(self.report) if self.report.findings or self.report.suppressed or self.report.bytes else ""
        return f"{self.summary()}\n{tables}"

    def json(self) -> str:
        """Return the report as JSON."""
        found = to_json(self.report)
        content = {
            "summary": self.summary(),
            "command": self.command,
            "exit_code": self.exit_code,
            "launches": dict(self.report.launches),
            **found,
            "traffic": found["traffic"] if self.report.instructions else None,
            "processes": [vars(process) for process in self.processes],
        }
        return json.dumps(content, indent=1) + "\n"


def _counted(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def add_findings(known: list[Finding], found: Iterable[Finding]) -> None:
    """Add findings to those that are known; the same one by other threads or blocks counts on."""
    by_key = {_key(each): each for each in known}
    for finding in found:
        same = by_key.setdefault(_key(finding), finding)
        if same is finding:
            known.append(finding)
        else:
            same.count += finding.count


def _key(finding: Finding) -> tuple[object, ...]:
    message = _THREAD.sub("", finding.message)
    if finding.location is None:  # what a launch ended with: its message names kernel and line first, then the thread
        message = finding.message.partition(", block ")[0]
    return finding.kind, finding.kernel, finding.location, message, finding.reason


def _add_traffic(report: Report, values: Mapping[str, Any]) -> None:
    report.instructions.update(Counter(values["instructions"]))
    report.flops += values["flops"]
    for total, (read, written) in [
        *((report.bytes.setdefault(space, Bytes()), each) for space, each in values["bytes"].items()),
        (report.footprint, values["footprint"]),
    ]:
        total.read += read
        total.written += written
    by_key = {(each.kernel, each.location, each.space, each.kind): each for each in report.accesses}
    for entry in values["accesses"]:
        found = LineAccesses(**{**entry, "location": _location_of(entry["location"])})
        key = found.kernel, found.location, found.space, found.kind
        same = by_key.setdefault(key, found)
        if same is found:
            report.accesses.append(found)
            continue
        for name in ("warps", "threads", "nbytes", "units", "least_units"):
            setattr(same, name, getattr(same, name) + getattr(found, name))
