"""The annotated source: a profile's files, each line with what it executes and moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import gpubp.kernels
from gpubp.report.page import Picture, Table, finite, render

if TYPE_CHECKING:
    from gpubp.profiler.counts import Line
    from gpubp.profiler.profile import Profile

KERNELS = Path(gpubp.kernels.__file__).parent

INSTRUCTIONS, SHARE = "instructions", "share"
SECTORS, EXCESS = "sectors", "excess"
PASSES, CONFLICTS = "passes", "conflicts"
"""The headings of the numbers beside a line."""

FAINTEST, STRONGEST = 0.06, 0.55
"""How opaque the tint is behind a line that executes something, and behind the one that executes most."""


@dataclass(frozen=True)
class Row:
    """One line of a file.

    anchor: its name in the page. instructions: by class, over threads; the other numbers are of its accesses, all 0
    where it has none. excess: sectors beyond the fewest possible; conflicts: the same of passes.
    """

    number: int
    anchor: str
    text: str
    instructions: Mapping[str, int] = field(default_factory=dict)
    sectors: int = 0
    excess: int = 0
    passes: int = 0
    conflicts: int = 0

    @property
    def executed(self) -> int:
        """Instructions of all classes."""
        return sum(self.instructions.values())

    @property
    def classes(self) -> str:
        """The instructions by class, for a reader."""
        return ", ".join(f"{name} {number:,}" for name, number in self.instructions.items())


@dataclass(frozen=True)
class File:
    """A file of the kernels: all its lines. found: whether it could be read; else only lines with counts are there."""

    name: str
    rows: tuple[Row, ...]
    found: bool

    @property
    def executed(self) -> int:
        """Instructions of all its lines."""
        return sum(row.executed for row in self.rows)

    @property
    def headings(self) -> tuple[str, ...]:
        """The numbers that its lines have."""
        found = [INSTRUCTIONS, SHARE]
        found += [SECTORS, EXCESS] if any(row.sectors for row in self.rows) else []
        found += [PASSES, CONFLICTS] if any(row.passes for row in self.rows) else []
        return tuple(found)


def annotated(profile: Profile, command: str = "gpubp profile") -> str:
    """The page of one profile: resources and limits, the roofline, and the source of its kernels with counts by line.

    command: what made it.
    """
    from gpubp.profiler import profile_tables as report
    from gpubp.profiler.profile import percent

    files = files_of([line for kernel in profile.kernels for line in kernel.counts.lines])
    executed = sum(file.executed for file in files)
    shown = report.tables(profile)
    return render(
        "source.html",
        title=f"gpubp profile: {report.title(profile)}",
        version=metadata.version("gpubp"),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        data=finite(profile.to_dict()),
        heading=report.title(profile),
        limiter=profile.limiter,
        tables=[Table.of(each) for each in shown if not isinstance(each, str)],
        notes=[each for each in shown if isinstance(each, str) and each != profile.limiter],
        roofline=Picture(report.picture([profile]), f"Roofline of {profile.gpu.name} with the profile as a point"),
        files=files,
        links=links_of(files),
        executed=executed,
        cells=_cells(executed),
        excesses=(EXCESS, CONFLICTS),
        share=lambda part, whole: percent(part / whole) if whole else "",
        tint=_tint(max((row.executed for file in files for row in file.rows), default=0)),
    )


def files_of(lines: Iterable[Line]) -> list[File]:
    """The files that these lines come from, the one that executes most first; kernels that share a line are summed."""
    by_file: dict[str, dict[int, list[Line]]] = {}
    for line in lines:
        by_file.setdefault(line.file, {}).setdefault(line.number, []).append(line)
    files = [_file(path, counted, number) for number, (path, counted) in enumerate(sorted(by_file.items()), start=1)]
    return sorted(files, key=lambda file: -file.executed)


def links_of(files: Iterable[File]) -> dict[str, str]:
    """The anchors of lines with counts, by what profiles call them, such as "runs.cuh:104"."""
    found: dict[str, str] = {}
    for file in files:
        for row in file.rows:
            if row.executed or row.sectors or row.passes:
                found.setdefault(f"{file.name.rsplit('/', 1)[-1]}:{row.number}", row.anchor)
    return found


def _file(path: str, counted: Mapping[int, Sequence[Line]], number: int) -> File:
    texts = _texts(path)
    numbers = range(1, len(texts) + 1) if texts else sorted(counted)
    rows = [
        _row(line, f"f{number}-{line}", texts[line - 1] if texts else "", counted.get(line, ())) for line in numbers
    ]
    # a compiler may name a line that is not in the file: its counts are not to be lost
    beyond = [_row(line, f"f{number}-{line}", "", counted[line]) for line in sorted(set(counted) - set(numbers))]
    return File(_name(path), (*rows, *beyond), bool(texts))


def _texts(path: str) -> list[str]:
    """The file's lines; none where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    except OSError:
        return []


def _name(path: str) -> str:
    """The path from the package's folder of kernels on, such as "kernels/cuda/runs.cuh"."""
    if not path:
        return "a file that the compiler does not name"
    found = Path(path)
    return f"kernels/{found.relative_to(KERNELS)}" if found.is_relative_to(KERNELS) else found.name


def _row(number: int, anchor: str, text: str, counted: Sequence[Line]) -> Row:
    instructions: Counter[str] = Counter()
    for line in counted:
        instructions.update(line.instructions)

    def total(space: str, what: str) -> int:
        return sum(getattr(each, what) for line in counted for each in line.accesses if each.space == space)

    return Row(
        number,
        anchor,
        text,
        dict(instructions.most_common()),
        total("global", "units"),
        total("global", "excess"),
        total("shared", "units"),
        total("shared", "excess"),
    )


def _cells(executed: int) -> Callable[[Row, Sequence[str]], list[tuple[str, str]]]:
    """What stands beside a line under each heading; "" where there is nothing. executed: instructions of all lines."""
    from gpubp.profiler.profile import percent
    from gpubp.profiler.profile_tables import amount

    def cells(row: Row, headings: Sequence[str]) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        if row.executed:
            found |= {INSTRUCTIONS: amount(row.executed), SHARE: percent(row.executed / executed)}
        if row.sectors:
            found |= {SECTORS: amount(row.sectors), EXCESS: amount(row.excess)}
        if row.passes:
            found |= {PASSES: amount(row.passes), CONFLICTS: amount(row.conflicts)}
        return [(heading, found.get(heading, "")) for heading in headings]

    return cells


def _tint(most: int) -> Callable[[Row], str]:
    """How opaque a row's tint is, by its instructions: the root of its share of the most, so that lesser ones show."""

    def opacity(row: Row) -> str:
        if not row.executed:
            return ""
        return f"{FAINTEST + (STRONGEST - FAINTEST) * (row.executed / most) ** 0.5:.2f}"

    return opacity
