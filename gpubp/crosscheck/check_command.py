"""What `gpubp check` does: choose the cases, run them, show how it goes, and say what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp import backends
from gpubp.backends.base import Backend
from gpubp.crosscheck.cases import PRODUCTS, Case, Selection, parse, require_dtype
from gpubp.crosscheck.compilation import compile_cases
from gpubp.crosscheck.runner import run_cases
from gpubp.crosscheck.summary import SUFFIXES, CrossCheck
from gpubp.errors import ArgumentError, StateError
from gpubp.files import check_path

if TYPE_CHECKING:
    from rich.console import Console

REFRESH = 4
"""Times a second that the live table is drawn."""
SHOWN_FAILURES = 10
LONGEST_SIDE = 12
"""Digits of a side of a shape."""


def check(
    console: Console,
    *,
    backend: str,
    device: str | None,
    selection: Selection,
    case: str | None = None,
    observe: bool = False,
    jobs: int | None = None,
    report: Path | None = None,
    replace: bool = False,
) -> CrossCheck:
    """Run the chosen cases, or the one of this name, and print a table; write the report if there is a path for it.

    replace: the report may replace a file.

    Raises:
        ArgumentError: the choice leaves no case, or a path cannot be written. Raised before any case runs.
    """
    if report is not None:
        check_path("report", report, *SUFFIXES, replace=replace)
    made = backends.get(backend, device)
    if observe and made.device != "emulator":
        raise StateError("--observe", "was given", f"be left out on device {made.device!r}: the emulator has observers")
    chosen = [_named(case, made)] if case is not None else selection.cases(made.variants)
    result = CrossCheck(made.name, made.device, observe)
    _run(console, result, chosen, jobs)
    if selection.full and case is None and made.device == "emulator":
        _compile(console, result, chosen, jobs)
    _conclude(console, result)
    if report is not None:
        result.write(report)
        console.print(f"report: {report}", soft_wrap=True)
    return result


def _named(name: str, backend: Backend) -> Case:
    """Return the case of this name, if the backend has its variant."""
    case = parse(name)
    known = tuple(backend.variants) if case.primitive in PRODUCTS and backend.variants else ("-",)
    if (case.rung or "-") not in known:
        raise ArgumentError("case", name, f"of a variant that backend {backend.name!r} has: {', '.join(known)}")
    require_dtype("case", name, case.dtype, backend.variants)
    return case


def shape_of(text: str | None) -> tuple[int, ...] | None:
    """Return (M, N, K) of "MxNxK".

    Raises:
        ArgumentError: other text.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if not all(side.isdecimal() and len(side) <= LONGEST_SIDE and int(side) >= 1 for side in sides):
        raise ArgumentError("shape", text, "sides ≥ 1 with x between them, such as 128x64x32")
    return tuple(int(side) for side in sides)


def _run(console: Console, result: CrossCheck, cases: Sequence[Case], jobs: int | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    outcomes = run_cases(cases, result.backend, result.device, observe=result.observed, jobs=jobs)
    if not console.is_terminal:
        for outcome in outcomes:
            result.add(outcome)
        console.print(result.table())
        return
    with Live(console=console, refresh_per_second=REFRESH) as live:
        for number, outcome in enumerate(outcomes, start=1):
            result.add(outcome)
            live.update(Group(result.table(), Text(f"{number} of {len(cases)} cases, {len(result.failures)} failed")))
        live.update(result.table())


def _compile(console: Console, result: CrossCheck, cases: Sequence[Case], jobs: int | None) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(console=console, refresh_per_second=REFRESH, transient=True) as live:
        for number, kernel in enumerate(compile_cases(cases, result.backend, jobs=jobs), start=1):
            result.add_kernel(kernel)
            live.update(Text(f"{number} kernels compiled, {len(result.misfits)} failed"))
    console.print(result.compiled_table())
    for line in result.absences():
        console.print(line, soft_wrap=True)


def _conclude(console: Console, result: CrossCheck) -> None:
    from rich.text import Text

    passed, failed = Text("passed", "green"), Text("failed", "red")
    if result.passed:
        console.print(passed + f": {result.cases} cases")
        return
    for kernel in result.misfits[:SHOWN_FAILURES]:
        console.print(failed + f": {kernel.case.name}: {kernel.complaint}", soft_wrap=True)
    if not result.failures:
        return
    console.print(failed + f": {len(result.failures)} of {result.cases} cases; the worst ones, to run again:")
    for outcome in sorted(result.failures, key=lambda each: -each.share)[:SHOWN_FAILURES]:
        console.print(result.command(outcome), style="bold", soft_wrap=True)
        console.print(f"  {outcome.complaint()}", soft_wrap=True)
