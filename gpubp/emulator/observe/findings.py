"""What the observers of a launch found and counted: the numbers, and tables to print."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpubp.emulator.program.ptx import Location

if TYPE_CHECKING:
    from rich.table import Table


GRADES = ("note", "warning", "error")
"""How bad a finding is, the least first."""

ASYNC_ORDERS = ("late", "early")
"""When asynchronous engines work, the usual order first; see `observe`."""

KINDS = (
    "race", "same-value race", "uninitialised read", "missing wait", "strides", "async race", "missing proxy fence",
    "wgmma registers", "mbarrier phase", "mbarrier bytes", "mbarrier init", "early exit",
)  # fmt: skip
"""What is found."""


@dataclass
class Finding:
    """One mistake. `count` is how often it was seen; `message` describes the first time, with block and thread."""

    kind: str  # one of KINDS
    kernel: str
    location: Location | None
    message: str
    count: int = 1
    reason: str = ""  # why it is suppressed
    code: str = ""  # the text of the line, if its file is there

    @property
    def grade(self) -> str:
        """Return one of GRADES: "warning" for a race of two stores of one value, which no GPU of today shows; "note"
        for an array whose strides a kernel is not told."""
        return {"same-value race": "warning", "strides": "note"}.get(self.kind, "error")

    @property
    def line(self) -> int | None:
        """Return the source line of the access or use that was found: the user's own, if a library's code made it."""
        return None if self.location is None else self.location.own.line


@dataclass
class LineAccesses:
    """The accesses of one kind that one source line makes to one memory space, all launches together.

    `units` are what the hardware moves for them and `least_units` the fewest that could do: 32-byte sectors for global
    memory, passes through the banks for shared memory.
    """

    kernel: str
    location: Location | None
    space: str
    kind: str  # "load", "store", "atomic" or "async"
    warps: int = 0
    threads: int = 0
    nbytes: int = 0
    units: int = 0
    least_units: int = 0

    @property
    def line(self) -> int | None:
        """Return the source line's number."""
        return None if self.location is None else self.location.line

    @property
    def excess(self) -> int:
        """Return the number of sectors or passes beyond the fewest possible."""
        return self.units - self.least_units


@dataclass
class Bytes:
    """Bytes that threads asked for in one memory space."""

    read: int = 0
    written: int = 0


@dataclass
class Report:
    """What the observers saw; prints as tables. Counts are over threads: one instruction of a full warp counts 32.

    `suppressed` are the findings that are said to be intended (suppressions.py). `lines` are the instructions by class
    of each kernel and source line. `footprint` are the bytes of global memory that threads
    read and wrote, each 32-byte sector once. `order` is the seed of the order of execution; None: the usual one.
    """

    findings: list[Finding] = field(default_factory=list)
    suppressed: list[Finding] = field(default_factory=list)
    instructions: Counter[str] = field(default_factory=Counter)
    lines: dict[tuple[str, Location | None], Counter[str]] = field(default_factory=dict)
    flops: int = 0
    bytes: dict[str, Bytes] = field(default_factory=dict)
    accesses: list[LineAccesses] = field(default_factory=list)
    launches: Counter[str] = field(default_factory=Counter)
    footprint: Bytes = field(default_factory=Bytes)
    order: int | None = None

    @property
    def races(self) -> list[Finding]:
        """Return the data races in shared and in global memory, but for those of one value."""
        return [finding for finding in self.findings if finding.kind in ("race", "async race", "missing proxy fence")]

    def at_least(self, grade: str) -> list[Finding]:
        """Return the findings of this grade ("note", "warning" or "error") or a worse one.

        Raises:
            ValueError: the grade is unknown.
        """
        if grade not in GRADES:
            raise ValueError(f"grade is {grade!r}: it must be one of {', '.join(GRADES)}")
        return [finding for finding in self.findings if GRADES.index(finding.grade) >= GRADES.index(grade)]

    @property
    def uninitialised(self) -> list[Finding]:
        """Return the uses of memory, or of variables, that nothing had written."""
        return [finding for finding in self.findings if finding.kind == "uninitialised read"]

    @property
    def missing_waits(self) -> list[Finding]:
        """Return the reads of the target of an asynchronous copy before the wait for it."""
        return [finding for finding in self.findings if finding.kind == "missing wait"]

    @property
    def global_accesses(self) -> list[LineAccesses]:
        """Return the instructions that access global memory, with their sectors."""
        return [entry for entry in self.accesses if entry.space == "global"]

    @property
    def shared_accesses(self) -> list[LineAccesses]:
        """Return the instructions that access shared memory, with their passes through the banks."""
        return [entry for entry in self.accesses if entry.space == "shared"]

    def __rich__(self) -> Any:
        from rich.console import Group

        return Group(*self.tables())

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=shutil.get_terminal_size((120, 24)).columns)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def tables(self) -> Iterator[Table]:
        """Return the tables of what was found and counted, the findings first."""
        yield _table(
            f"Findings: {len(self.findings)}" + ("" if self.order is None else f", in order {self.order}"),
            ("grade", "kind", "times", "what"),
            [(f.grade, f.kind, f.count, f.message) for f in self.findings],
        )
        if self.suppressed:
            yield _table(
                f"Suppressed: {len(self.suppressed)}",
                ("kind", "times", "what", "reason"),
                [(f.kind, f.count, f.message, f.reason) for f in self.suppressed],
            )
        if self.instructions:
            rows: list[tuple[Any, ...]] = [(name, count) for name, count in self.instructions.most_common()]
            yield _table("Instructions by class, over threads", ("class", "count"), [*rows, ("flops", self.flops)])
        if self.bytes:
            totals = [(space, b.read, b.written) for space, b in sorted(self.bytes.items())]
            yield _table("Bytes by memory space", ("space", "read", "written"), totals)
        for title, unit, entries in (
            ("Global memory: 32-byte sectors", "sectors", self.global_accesses),
            ("Shared memory: passes through the banks", "passes", self.shared_accesses),
        ):
            if entries:
                rows = [
                    (e.kernel, str(e.location), e.kind, e.nbytes, e.units, e.least_units, e.excess) for e in entries
                ]
                yield _table(title, ("kernel", "line", "kind", "bytes", unit, "fewest", "excess"), rows)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(
            name,
            justify="left"
            if name in ("grade", "kind", "what", "reason", "class", "space", "kernel", "line")
            else "right",
        )
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table
