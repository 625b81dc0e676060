"""The report of a machine: what it has, whether the kernels are right there, how fast they are, and what they do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gpubp.backends import detection
from gpubp.crosscheck.summary import CrossCheck
from gpubp.machine import MachineInfo
from gpubp.report.page import Picture, Table, finite, picture, render

if TYPE_CHECKING:
    from gpubp.bench.results import BenchResult, Record
    from gpubp.profiler.profiles import Profile

FORMAT = "gpubp report"
VERSION = 1

PARTS = ("check", "bench", "profile")
"""What a report has besides the machine."""

DEVICES = {"cpu": "the CPU", "gpu": "the GPU", "emulator": "the emulated device", "virtual": "the virtual device"}

SHOWN_FAILURES = 20
"""Failed cases whose complaint is shown, the worst ones; all are in the JSON."""

BUSY = 0.05
"""The share of the cores' time from which on other programs spoil what is measured."""

WIDEST = 10_000
"""Characters: room for every column of a table."""

EMULATED = (
    "The emulated device executes, on the CPU, the PTX that NVIDIA's compilers make of the kernels. It proves what "
    "they compute, not how fast: none of its times is shown."
)


@dataclass(frozen=True)
class MachineReport:
    """What a run of `gpubp report` found.

    Attributes:
        made: date and time, in ISO 8601.
        command: the one that made it.
        seconds: how long it took.
        checks: of each backend.
        unchecked: where kernels could not be checked, and why.
        bench: the measured times; None without.
        profiles: of primitives, by the model.
        unprofiled: whose kernels could not be profiled, and why.
        left_out: the parts that are not there, and why.
        faults: the parts that broke, and how.
    """

    made: str
    command: str
    seconds: float
    machine: MachineInfo
    checks: tuple[CrossCheck, ...] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)
    bench: BenchResult | None = None
    profiles: tuple[Profile, ...] = ()
    unprofiled: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """True if a case failed, this project's result of a measurement was wrong, or a part broke."""
        return bool(self.faults or _own_faults(self.bench)) or not all(check.passed for check in self.checks)

    @property
    def checked_on(self) -> tuple[str, ...]:
        """Return the devices that kernels were checked on."""
        return tuple(dict.fromkeys(check.device for check in self.checks if check.cases))

    @property
    def verdict(self) -> str:
        """Return the verdict in a few words."""
        if self.failed:
            return "Failed"
        if not self.checked_on:
            return "No kernel was checked"
        where = " and ".join(DEVICES[device] for device in self.checked_on)
        return f"Passed on {where}" + ("" if "gpu" in self.checked_on else "; nothing ran on a GPU")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it: each part as its own verb writes it."""
        return finite(
            {
                "format": FORMAT,
                "version": VERSION,
                "made": self.made,
                "command": self.command,
                "seconds": self.seconds,
                "verdict": self.verdict,
                "info": self.machine.to_dict(),
                "check": [json.loads(check.to_json()) for check in self.checks],
                "unchecked": dict(self.unchecked),
                "bench": json.loads(self.bench.to_json()) if self.bench else None,
                "profile": [each.to_dict() for each in self.profiles],
                "unprofiled": dict(self.unprofiled),
                "left_out": dict(self.left_out),
                "faults": dict(self.faults),
            }
        )

    def html(self) -> str:
        """Return the page as HTML."""
        return render(
            "report.html",
            title=f"gpubp report: {self.verdict}",
            version=self.machine.packages.get("gpubp", ""),
            made=_readable(self.made),
            command=self.command,
            data=self.to_dict(),
            report=self,
            summary=summary(self),
            machine=Table.of(self.machine.table()),
            checks=[_check(check) for check in self.checks],
            unchecked=_by_reason(self.unchecked),
            emulated=EMULATED if "emulator" in self.checked_on else "",
            bench=_bench(self.bench) if self.bench else None,
            profile=_profile(self.profiles) if self.profiles else None,
            unprofiled=_by_reason(self.unprofiled),
            why_none=lambda part: _why_none(self, part),
        )


def summary(report: MachineReport) -> list[str]:
    """Return what was run, where, what came of it, and what is missing, a sentence each."""
    machine = report.machine
    gpus = ", ".join(machine.gpus) or f"no GPU ({detection.driver().fault})"
    lines = [f"The machine has {machine.processor}, {machine.cores} cores, and {gpus}."]
    lines += [f"Broken: {part}: {fault}" for part, fault in report.faults.items()]
    lines += [f"Checked: {_place(check)}: {_outcome(check)}." for check in report.checks]
    lines += [f"Not checked: {line}." for line in _by_reason(report.unchecked)]
    if report.bench is not None:
        lines += _measured(report.bench)
        lines += [f"Not measured: {line}." for line in _unmeasured(report.bench)]
    if report.profiles:
        lines.append(f"Modelled, not measured: {_modelled(report.profiles)}.")
    lines += [f"Not modelled: {line}." for line in _by_reason(report.unprofiled)]
    lines += [f"Left out: {line}." for line in _by_reason(report.left_out)]
    return lines


def _by_reason(missing: Mapping[str, str]) -> list[str]:
    """Return a line for each reason, with all that is missing for it."""
    found: dict[str, list[str]] = {}
    for what, reason in missing.items():
        found.setdefault(reason, []).append(what)
    return [f"{', '.join(whats)}: {reason}" for reason, whats in found.items()]


def _readable(made: str) -> str:
    return datetime.fromisoformat(made).strftime("%Y-%m-%d %H:%M %Z")


# --- the check --------------------------------------------------------------------------------------------------------
def _place(check: CrossCheck) -> str:
    return f"{check.backend} on {DEVICES[check.device]}"


def _outcome(check: CrossCheck) -> str:
    if not check.cases:
        return "no case ran"
    dtypes = ", ".join(dict.fromkeys(dtype for *_, dtype in check.rows))
    if check.failures:
        return f"{len(check.failures):,} of {check.cases:,} cases in {dtypes} failed"
    worst = max(row.share for row in check.rows.values())
    return f"all {check.cases:,} cases in {dtypes} passed; the largest error is {worst:.0%} of its bound"


def _check(check: CrossCheck) -> dict[str, Any]:
    worst = sorted(check.failures, key=lambda outcome: -outcome.share)
    return {
        "place": _place(check),
        "outcome": _outcome(check),
        "tables": [Table.of(table, caption="") for table in check.tables],
        "failures": [
            {"command": check.command(each), "complaint": each.complaint()} for each in worst[:SHOWN_FAILURES]
        ],
        "more": max(0, len(worst) - SHOWN_FAILURES),
    }


# --- the bench --------------------------------------------------------------------------------------------------------
def _own_faults(result: BenchResult | None) -> list[Record]:
    """Return the measurements of this project that failed; a peer may fail."""
    from gpubp.bench.contenders import EVERYONE

    return [record for record in result.faults if EVERYONE[record.contender].backend] if result else []


def _measured(result: BenchResult) -> list[str]:
    """Return what was measured, the times of the largest network's step, and what makes figures wrong or doubtful."""
    from gpubp.bench.tables import duration
    from gpubp.bench.works import Limit, TrainingStep

    records = [record for record in result.records if not isinstance(record.work, Limit)]
    keys = dict.fromkeys(record.contender for record in records if record.seconds)
    works = len({record.work for record in records})
    lines = [f"Measured: {works} works, by {', '.join(map(_contender, keys)) or 'nobody'}."]
    steps = [record for record in records if isinstance(record.work, TrainingStep) and record.seconds]
    if steps:
        largest = max(steps, key=lambda record: record.work.flops).work
        times = (f"{_contender(each.contender)} {duration(each.median)}" for each in steps if each.work == largest)
        lines.append(f"A training step of network {largest.label} in {largest.dtype} took {', '.join(times)}.")
    faults = [f"{_contender(each.contender)}, {each.work.title}: {each.fault}." for each in _own_faults(result)]
    lines += [f"Failed: {fault}" for fault in faults[:SHOWN_FAILURES]]
    if result.busy is not None and result.busy > BUSY:
        lines.append(f"Other programs took {result.busy:.0%} of the cores' time: the measured times may be too long.")
    return lines


def _contender(key: str) -> str:
    from gpubp.bench.contenders import EVERYONE

    return f"{EVERYONE[key].title} on {DEVICES[EVERYONE[key].device]}"


def _unmeasured(result: BenchResult) -> list[str]:
    """Return why this project's own backends have no times."""
    from gpubp.bench.contenders import EVERYONE

    return _by_reason({_contender(key): reason for key, reason in result.absent.items() if EVERYONE[key].backend})


def _bench(result: BenchResult) -> dict[str, Any]:
    from gpubp.bench import pictures, tables
    from gpubp.bench.contenders import EVERYONE

    peers = {key: reason for key, reason in result.absent.items() if not EVERYONE[key].backend}
    drawn = [Picture(pictures.throughput(result), "Throughput over size: a curve for each contender")]
    if any(result.limits.values()):
        drawn.append(Picture(pictures.roofline(result), "The machine's roofline, with each backend's rates under it"))
    return {
        "tables": [Table.of(table) for table in tables.tables(result, WIDEST)],
        "unmeasured": _unmeasured(result),
        "notes": tables.notes(replace(result, absent=peers)),
        "pictures": drawn,
    }


# --- the profiles -----------------------------------------------------------------------------------------------------
PROFILE_ROWS = (
    "grid",
    "registers a thread",
    "spills",
    "sectors a request",
    "sectors beyond the fewest",
    "bank conflicts",
)
"""What the table of profiles shows, of `gpubp.profiler.profile_tables.rows`; the rest is in the JSON."""


def _modelled(profiles: Sequence[Profile]) -> str:
    primitives = ", ".join(dict.fromkeys(each.workload.primitive for each in profiles))
    chips = ", ".join(dict.fromkeys(each.gpu.name for each in profiles))
    return f"{primitives}, as on {chips}"


def _profile(profiles: Sequence[Profile]) -> dict[str, Any]:
    from gpubp.profiler.profile_tables import counted_note, heading, rows
    from gpubp.profiler.profiles import MODEL, percent

    cells = []
    for each in profiles:
        where = f"{each.title}\n{'x'.join(map(str, each.workload.shape))}"
        for kernel in each.kernels:
            found = rows(each, [kernel])
            own = (found[name] for name in PROFILE_ROWS)
            cells.append((where, heading(each), kernel.name.split("<")[0], *own, percent(kernel.occupancy.share)))
    headers = ("primitive", "backend", "kernel", *PROFILE_ROWS, "resident warps")
    return {
        "model": MODEL,
        "table": Table(headers, tuple(cells), (False,) * len(headers)),
        "limiters": [f"{each.title}, {heading(each)}: {each.limiter}" for each in profiles],
        "notes": list(dict.fromkeys(counted_note(each) for each in profiles)),
        "pictures": [_roofline(profiles)],
    }


def _roofline(profiles: Sequence[Profile]) -> Picture:
    """Return all profiles under the chip's roofline, a colour for each primitive, a marker for each kernel."""
    from gpubp.profiler.profile_tables import COLOURS, MARKERS, heading
    from gpubp.profiler.profiles import MODEL
    from gpubp.training import plots

    first = profiles[0]
    primitives = list(dict.fromkeys(each.title for each in profiles))
    kernels = list(dict.fromkeys(heading(each) for each in profiles))
    points = [
        plots.Point(
            f"{each.title}, {heading(each)}",
            each.cost.intensity,
            each.limits.rate,
            COLOURS[primitives.index(each.title) % len(COLOURS)],
            MARKERS[kernels.index(heading(each)) % len(MARKERS)],
        )
        for each in profiles
    ]
    return picture(
        lambda file: plots.roofline(
            {rate: first.gpu.roofline(rate) for rate in dict.fromkeys(each.cost.rate for each in profiles)},
            points,
            title=f"Roofline of {first.gpu.name}",
            note=MODEL,
            out=file,
            y_label="TFLOP/s, at most",
        ),
        f"Roofline of {first.gpu.name} with each profile as a point",
    )


def _why_none(report: MachineReport, part: str) -> str:
    """Return why a part has nothing to show."""
    fault = report.faults.get(part)
    return f"it broke: {fault}" if fault else report.left_out.get(part, "nothing came of it")
