"""What `gpubp check` does: choose the cases, run them, show how it goes, and say what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp import backends
from gpubp.backends import EMULATED
from gpubp.backends.base import Backend
from gpubp.crosscheck.cases import PRODUCTS, Case, Selection, older_cases, parse, require_arch, require_dtype
from gpubp.crosscheck.compilation import ARCHITECTURES, compile_cases
from gpubp.crosscheck.runner import Watch, on_chip, require_grades, run_cases
from gpubp.crosscheck.summary import SUFFIXES, CrossCheck
from gpubp.errors import ArgumentError, ConflictError, StateError
from gpubp.files import check_path
from gpubp.registry import require_count

if TYPE_CHECKING:
    from rich.console import Console

REFRESH = 4
"""Times a second that the live table is drawn."""
SHOWN_FAILURES = 10
MOST_ORDERS = 10_000
LONGEST_SIDE = 12
"""Digits of a side of a shape."""


def check(
    console: Console,
    *,
    backend: str,
    device: str | None,
    selection: Selection,
    case: str | None = None,
    archs: Sequence[str] = (),
    watch: Watch = Watch(),  # noqa: B008 - it is frozen
    jobs: int | None = None,
    report: Path | None = None,
    force: bool = False,
) -> CrossCheck:
    """Run the chosen cases, or the one of this name, and print a table; write the report if there is a path for it.

    force: the report may replace a file.
    archs: the chips that the emulated device is in turn, such as "sm_75". If none is given it is as usual, but for a
    few cases in which kernels have paths for older chips.

    Raises:
        ArgumentError: the choice leaves no case, or a path cannot be written. Raised before any case runs.
    """
    if report is not None:
        check_path("report", report, *SUFFIXES, replace=force)
    made = backends.get(backend, device)
    if watch.observe and made.device not in EMULATED:
        raise StateError("--observe", "was given", f"be left out on device {made.device!r}: the emulator has observers")
    if watch.orders and made.device not in EMULATED:
        raise StateError("--orders", "was given", f"be left out on device {made.device!r}: the emulator has orders")
    if archs and made.device != "emulator":
        raise StateError("--arch", "was given", f"be left out on device {made.device!r}: the emulator can be any chip")
    if case is not None:
        named = parse(case)
        chosen = [_require_here(dataclasses.replace(named, arch=arch), made) for arch in archs or [named.arch]]
    else:
        chosen = choose(selection, made, archs)
    result = CrossCheck(made.name, made.device, watch)
    _run(console, result, chosen, jobs)
    if selection.full and case is None and made.device == "emulator":
        _compile(
            console, result, list(dict.fromkeys(dataclasses.replace(each, arch="") for each in chosen)), archs, jobs
        )
    _conclude(console, result)
    if report is not None:
        result.write(report)
        console.print(f"report: {report}", soft_wrap=True)
    return result


def choose(selection: Selection, backend: Backend, archs: Sequence[str]) -> list[Case]:
    """Return the chosen cases on each architecture; if none is given, on the device's own, and with kernels that have
    paths for older chips also `older_cases`, where the device can be one.
    """
    found = [case for arch in archs or [""] for case in _cases(selection, backend, arch)]
    if not archs and backend.name == "cupy" and backend.device == "emulator":
        found += selection.of(older_cases())
    return found


def _cases(selection: Selection, backend: Backend, arch: str) -> list[Case]:
    """Return the chosen cases on this architecture; "" for the device's own."""
    if arch:
        require_arch("arch", arch)
        with on_chip(arch):
            backend = backends.get(backend.name, backend.device)
    found = selection.cases(backend.variants, backend.stores_halves, backend.tensor_doubles)
    return [dataclasses.replace(case, arch=arch) for case in found]


def _require_here(case: Case, backend: Backend) -> Case:
    """Return the case, if the backend and its device can run it."""
    if case.arch and backend.device != "emulator":
        raise ArgumentError("case", case.name, f"of no architecture on device {backend.device!r}")
    with on_chip(case.arch):
        backend = backends.get(backend.name, backend.device)
    known = tuple(backend.variants) if case.primitive in PRODUCTS and backend.variants else ("-",)
    if (case.rung or "-") not in known:
        raise ArgumentError("case", case.name, f"of a variant that backend {backend.name!r} has: {', '.join(known)}")
    halves = backend.stores_halves and case.primitive not in PRODUCTS
    require_dtype("case", case.name, case.dtype, backend.variants, halves)
    if case.on_tensor_doubles and not backend.tensor_doubles:
        must = "of another variant or dtype: no tensor cores multiply float64 here (those of sm_80 and sm_90 do)"
        raise ArgumentError("case", case.name, must)
    return case


def watch_of(
    observe: bool, fail_at: str | None, suppressions: Path | None, orders: int | None, order: Sequence[int]
) -> Watch:
    """Return how the emulated device is watched, by the options of the command line.

    Raises:
        ArgumentError: an option is wrong, or grades findings that nobody looks for.
    """
    for name, value in (("fail_at", fail_at), ("suppressions", suppressions)):
        if value is not None and not observe:
            raise StateError(name, "was given", "be left out, or given with --observe, which makes the findings")
    require_grades(fail_at, suppressions)
    if orders is not None:
        require_count("orders", orders, most=MOST_ORDERS)
    for seed in order:
        require_count("order", seed, least=0)
    if orders is not None and order:
        raise ConflictError("orders", "order", "one takes the first seeds, the other a seed that it has named")
    return Watch(observe, fail_at or Watch().fail_at, suppressions, tuple(order or range(orders or 0)))


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

    outcomes = run_cases(cases, result.backend, result.device, watch=result.watch, jobs=jobs)
    if not console.is_terminal:
        for outcome in outcomes:
            result.add(outcome)
        console.print(Group(*result.tables))
        return
    with Live(console=console, refresh_per_second=REFRESH) as live:
        for number, outcome in enumerate(outcomes, start=1):
            result.add(outcome)
            live.update(Group(*result.tables, Text(f"{number} of {len(cases)} cases, {len(result.failures)} failed")))
        live.update(Group(*result.tables))


def _compile(
    console: Console, result: CrossCheck, cases: Sequence[Case], archs: Sequence[str], jobs: int | None
) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(console=console, refresh_per_second=REFRESH, transient=True) as live:
        kernels = compile_cases(cases, result.backend, jobs=jobs, architectures=tuple(archs or ARCHITECTURES))
        for number, kernel in enumerate(kernels, start=1):
            result.add_kernel(kernel)
            live.update(Text(f"{number} kernels compiled, {len(result.misfits)} failed"))
    console.print(result.compiled_table())
    for line in result.absences():
        console.print(line, soft_wrap=True)


def _conclude(console: Console, result: CrossCheck) -> None:
    from rich.text import Text

    passed, failed = Text("passed", "green"), Text("failed", "red")
    for text, count in result.remarks.most_common(SHOWN_FAILURES):
        console.print(f"below --fail-at {result.watch.fail_at}, in {count} cases: {text}", soft_wrap=True, markup=False)
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
