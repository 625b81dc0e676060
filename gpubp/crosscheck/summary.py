"""What a run of the cross-validation says: a table for the terminal, Markdown, and JSON."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp.crosscheck.cases import OPTIONS
from gpubp.crosscheck.compilation import CompiledKernel
from gpubp.crosscheck.runner import Outcome, Traffic, Watch
from gpubp.files import check_path, write_bytes

if TYPE_CHECKING:
    from rich.table import Table


SUFFIXES = (".md", ".json")
"""Endings of the files that a report can be written to."""

COMPILED_HEADERS = ("primitive", "arch", "kernels", "failed", "most registers", "most shared bytes", "spilled bytes")


@dataclass
class Tally:
    """One primitive with one variant and one dtype: how many cases, how many failed, the largest share of a bound.

    Attributes:
        traffic: of all cases together, where it was observed.
    """

    cases: int = 0
    failed: int = 0
    share: float = 0.0
    worst: str = ""
    traffic: Traffic = field(default_factory=Traffic)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.cases += 1
        self.failed += not outcome.passed
        self.traffic += outcome.traffic or Traffic()
        if outcome.share >= self.share:
            self.share, self.worst = outcome.share, outcome.case.name


@dataclass
class KernelTally:
    """One primitive on one architecture: how many kernels, how many failed, and the most that any of them needs."""

    kernels: int = 0
    failed: int = 0
    registers: int = 0
    shared_bytes: int = 0
    spilled_bytes: int = 0

    def add(self, kernel: CompiledKernel) -> None:
        """Count a kernel."""
        self.kernels += 1
        self.failed += bool(kernel.complaint)
        self.registers = max(self.registers, kernel.registers)
        self.shared_bytes = max(self.shared_bytes, kernel.shared_bytes)
        self.spilled_bytes = max(self.spilled_bytes, kernel.spilled_bytes)


@dataclass
class CrossCheck:
    """The outcomes of a run on one backend and device.

    Attributes:
        watch: how the emulated device's runs were watched.
        rows: by architecture ("" for the device's own), primitive, variant and dtype.
        compiled: what was compiled for every architecture, by primitive and architecture.
        misfits: the kernels among it that a chip has no room for, or that could not be compiled.
        absent: number of kernels that a chip cannot have, by architecture and what the planning said.
        remarks: findings whose grade makes them no faults, and in how many cases each was found.
    """

    backend: str
    device: str
    watch: Watch = field(default_factory=Watch)
    rows: dict[tuple[str, str, str, str], Tally] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)
    compiled: dict[tuple[str, str], KernelTally] = field(default_factory=dict)
    misfits: list[CompiledKernel] = field(default_factory=list)
    absent: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        case = outcome.case
        self.rows.setdefault((case.arch, case.primitive, case.variant, case.dtype), Tally()).add(outcome)
        self.remarks.update(outcome.remarks)
        if not outcome.passed:
            self.failures.append(outcome)

    def add_kernel(self, kernel: CompiledKernel) -> None:
        """Count a kernel that was compiled, or that there is none of."""
        if kernel.absent:
            self.absent[f"{kernel.arch}: {kernel.absent}"] += 1
            return
        self.compiled.setdefault((kernel.case.primitive, kernel.arch), KernelTally()).add(kernel)
        if kernel.complaint:
            self.misfits.append(kernel)

    @property
    def observed(self) -> bool:
        """True if the emulated device's observers were on."""
        return self.watch.observe

    @property
    def cases(self) -> int:
        """Return the number of cases that ran."""
        return sum(row.cases for row in self.rows.values())

    @property
    def passed(self) -> bool:
        """True if cases ran, and all passed, and so did all kernels that were compiled."""
        return self.cases > 0 and not self.failures and not self.misfits

    @property
    def worst(self) -> Outcome | None:
        """Return the failure furthest from its bound."""
        return max(self.failures, key=lambda outcome: outcome.share, default=None)

    def command(self, outcome: Outcome) -> str:
        """Return the command that runs one case again, in the order of execution in which it failed."""
        watch, usual = self.watch, Watch()
        options = ["--observe"] if watch.observe else []
        options += ["--fail-at", watch.fail_at] if watch.fail_at != usual.fail_at else []
        options += ["--suppressions", str(watch.suppressions)] if watch.suppressions is not None else []
        options += ["--order", str(outcome.order)] if outcome.order is not None else []
        words = ["gpubp", "check", "--backend", self.backend, "--device", self.device, *options]
        return shlex.join([*words, "--case", outcome.case.name])

    @property
    def tables(self) -> list[Table]:
        """Return a table for a terminal for each architecture; one without rows if no case ran."""
        return [self._table(arch) for arch in self._architectures() or [""]]

    def _architectures(self) -> list[str]:
        return sorted({arch for arch, *_ in self.rows}, key=lambda arch: (len(arch), arch))

    def _table(self, arch: str) -> Table:
        from rich.table import Table

        title = f"gpubp check: {self.backend} on {self.device}{arch and f' as {arch}'}"
        table = Table(title=title, title_justify="left", pad_edge=False, collapse_padding=True)  # fits 80 columns
        for header in ("primitive", "variant", "dtype"):
            table.add_column(header, no_wrap=True)
        for header in ("cases", "failed", "error / bound", *self._traffic_headers()):
            table.add_column(header, justify="right", no_wrap=True)
        for cells, row in self._ordered(arch):
            style = "red" if row.failed else None
            table.add_row(*cells, *self._figures(row), style=style)
        return table

    def compiled_table(self) -> Table:
        """Return what the kernels need on each architecture as a table for a terminal."""
        from rich.table import Table

        table = Table(title=f"compiled, not run: {self.backend}", title_justify="left")
        for header in COMPILED_HEADERS:
            table.add_column(header, justify="left" if header in ("primitive", "arch") else "right", no_wrap=True)
        for cells in self._compiled_rows():
            table.add_row(*cells, style="red" if cells[3] != "0" else None)
        return table

    def absences(self) -> list[str]:
        """Return a line for each thing that has no kernels."""
        return [f"none of {count} kernels on {text}" for text, count in self.absent.items()]

    def _compiled_rows(self) -> list[list[str]]:
        order = list(OPTIONS)
        rows = sorted(self.compiled.items(), key=lambda item: (order.index(item[0][0]), len(item[0][1]), item[0][1]))
        return [[*key, *(str(figure) for figure in astuple(row))] for key, row in rows]

    def markdown(self) -> str:
        """Return the rows and the failures, as a Markdown page."""
        lines = [
            f"# gpubp check: {self.backend} on {self.device}",
            "",
            f"{self.cases} cases, {len(self.failures)} failed.",
        ]
        for arch in self._architectures():
            lines += ["", *([f"## As {arch}", ""] if arch else [])]
            lines += [
                _line("primitive", "variant", "dtype", "cases", "failed", "error / bound", *self._traffic_headers()),
                _line(*3 * ["---"], *(3 + len(self._traffic_headers())) * ["---:"]),
            ]
            lines += [_line(*cells, *self._figures(row)) for cells, row in self._ordered(arch)]
        if self.compiled:
            lines += ["", "## Compiled, not run", "", _line(*COMPILED_HEADERS), _line(*2 * ["---"], *5 * ["---:"])]
            lines += [_line(*cells) for cells in self._compiled_rows()]
            lines += ["", *self.absences()] if self.absent else []
        if self.failures or self.misfits:
            lines += ["", "## Failures", ""]
        lines += [f"- {kernel.case.name}: {kernel.complaint}" for kernel in self.misfits]
        for outcome in self.failures:
            lines += [f"`{self.command(outcome)}`", "", "```", outcome.complaint(), "```", ""]
        if self.remarks:
            lines += ["", "## Findings below the grade that fails", "", *(f"- {text}" for text in self.remarks)]
        return "\n".join(lines).rstrip() + "\n"

    def to_json(self) -> str:
        """Return the rows and the failures, as JSON. An infinite share is null."""
        return json.dumps(
            {
                "backend": self.backend,
                "device": self.device,
                "cases": self.cases,
                "failed": len(self.failures),
                "rows": [
                    {
                        "arch": arch or None,
                        "primitive": primitive,
                        "variant": variant,
                        "dtype": dtype,
                        "cases": row.cases,
                        "failed": row.failed,
                        "share": _json_number(row.share),
                        "worst": row.worst,
                        **(asdict(row.traffic) if self.observed else {}),
                    }
                    for arch in self._architectures()
                    for (primitive, variant, dtype), row in self._ordered(arch)
                ],
                "compiled": [dict(zip(COMPILED_HEADERS, cells, strict=True)) for cells in self._compiled_rows()],
                "absent": self.absences(),
                "remarks": dict(self.remarks),
                "misfits": [{"case": each.case.name, "complaint": each.complaint} for each in self.misfits],
                "failures": [
                    {"case": each.case.name, "complaint": each.complaint(), "command": self.command(each)}
                    for each in self.failures
                ],
            },
            indent=2,
        )

    def _traffic_headers(self) -> tuple[str, ...]:
        """Return how many of the sectors and of the passes through shared memory's banks were needed."""
        return ("sectors needed", "passes needed") if self.observed else ()

    def _figures(self, row: Tally) -> list[str]:
        figures = [str(row.cases), str(row.failed), _share(row.share)]
        if self.observed:
            moved = row.traffic
            figures += [_needed(moved.least_sectors, moved.sectors), _needed(moved.least_passes, moved.passes)]
        return figures

    def _ordered(self, arch: str) -> list[tuple[tuple[str, str, str], Tally]]:
        """Return the rows of an architecture in the order of the algorithm, whichever came first."""
        order = list(OPTIONS)
        rows = [(key[1:], row) for key, row in self.rows.items() if key[0] == arch]
        return sorted(rows, key=lambda item: (order.index(item[0][0]), item[0][1:]))

    def write(self, path: str | Path) -> None:
        """Write the report in the format that the file's name ends in: .md or .json."""
        path = Path(path)
        check_path("report", path, *SUFFIXES, replace=True)
        text = self.to_json() if path.suffix.lower() == ".json" else self.markdown()
        write_bytes(path, text.encode())


def _share(share: float) -> str:
    return "exact" if share == 0 else f"{share:.3g}"


def _needed(least: int, moved: int) -> str:
    return f"{least / moved:.0%}" if moved else "-"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _json_number(share: float) -> Any:
    return share if share != float("inf") else None
