"""The annotated source: the files of a profile's kernels, each line with what it executes and moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gpubp.kernels

if TYPE_CHECKING:
    from gpubp.profiler.counts import Line

KERNELS = Path(gpubp.kernels.__file__).parent


@dataclass(frozen=True)
class Row:
    """One line of a file.

    Attributes:
        number: of the line, from 1.
        anchor: the line's name in a page.
        text: the line itself.
        instructions: executed instructions by class, counted over threads.
        sectors, excess: sectors of global memory that its accesses move, and how many of them are beyond the fewest
            possible.
        passes, conflicts: the same for passes through the banks of shared memory.
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
        """Return the number of executed instructions of all classes."""
        return sum(self.instructions.values())

    @property
    def classes(self) -> str:
        """Return the instructions by class as text."""
        return ", ".join(f"{name} {number:,}" for name, number in self.instructions.items())


@dataclass(frozen=True)
class File:
    """A file of the kernels: all its lines or, if it could not be read (`found` is False), those with counts."""

    name: str
    rows: tuple[Row, ...]
    found: bool

    @property
    def executed(self) -> int:
        """Return the number of executed instructions of all lines."""
        return sum(row.executed for row in self.rows)


def files_of(lines: Iterable[Line], sources: Mapping[str, str] | None = None) -> list[File]:
    """Return the files that these lines come from, the one that executes most first.

    Counts of kernels that share a line are summed. sources: the texts of sources that are in no file, by name.
    """
    by_file: dict[str, dict[int, list[Line]]] = {}
    for line in lines:
        by_file.setdefault(line.file, {}).setdefault(line.number, []).append(line)
    files = [
        _file(path, counted, number, (sources or {}).get(path.rsplit("/", 1)[-1]))
        for number, (path, counted) in enumerate(sorted(by_file.items()), start=1)
    ]
    return sorted(files, key=lambda file: -file.executed)


def links_of(files: Iterable[File]) -> dict[str, str]:
    """Return the anchors of lines with counts, keyed by the lines' names in profiles, such as "runs.cuh:104"."""
    found: dict[str, str] = {}
    for file in files:
        for row in file.rows:
            if row.executed or row.sectors or row.passes:
                found.setdefault(f"{file.name.rsplit('/', 1)[-1]}:{row.number}", row.anchor)
    return found


def _file(path: str, counted: Mapping[int, Sequence[Line]], number: int, source: str | None) -> File:
    texts = _texts(path) if source is None else source.splitlines()
    numbers = range(1, len(texts) + 1) if texts else sorted(counted)
    rows = [
        _row(line, f"f{number}-{line}", texts[line - 1] if texts else "", counted.get(line, ())) for line in numbers
    ]
    # A compiler may name a line that is not in the file: its counts must not be lost.
    beyond = [_row(line, f"f{number}-{line}", "", counted[line]) for line in sorted(set(counted) - set(numbers))]
    return File(_name(path), (*rows, *beyond), bool(texts))


def _texts(path: str) -> list[str]:
    """Return the file's lines; none if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if path else []
    except OSError:
        return []


def _name(path: str) -> str:
    """Return the path as in the repository, such as "kernels/cuda/runs.cuh"; of a file elsewhere its name."""
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
