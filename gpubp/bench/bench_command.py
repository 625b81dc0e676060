"""What `gpubp bench` does: choose what is measured, measure it, show it, keep it, compare it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp import chips, machine, terminal
from gpubp.backends import detection
from gpubp.bench import contenders, jobs, works
from gpubp.bench.contenders import LIMITS, Contender
from gpubp.bench.load import Load
from gpubp.bench.results import BenchResult, Record, limits_of
from gpubp.bench.turns import measure
from gpubp.bench.works import Limit, SharedStep, Sweep, Work
from gpubp.errors import ConflictError, StateError
from gpubp.files import check_folder, check_path
from gpubp.registry import require_count

if TYPE_CHECKING:
    from rich.console import Console


MOST_THREADS = 4096
"""Of a contender: beyond any machine, and short of what libraries fail with."""


@dataclass(frozen=True)
class Effort:
    """How much is measured; `seconds` is about the length of one turn."""

    sweep: Sweep
    repeats: int
    seconds: float


QUICK = Effort(works.QUICK, 3, 0.02)
DEFAULT = Effort(works.DEFAULT, 5, 0.03)
FULL = Effort(works.FULL, 9, 0.25)


@dataclass(frozen=True)
class Choice:
    """What a user chose; empty and None leave it to the effort. See `works.choose` and `contenders.choose`.

    Attributes:
        ranks: numbers of ranks. If there are any, only training steps are measured: by one rank, and by each of these
            numbers.
    """

    primitives: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    steps: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] = ("float32",)
    contenders: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    repeats: int | None = None
    threads: int | None = None
    ranks: tuple[int, ...] = ()

    @property
    def names_works(self) -> bool:
        """True if the choice names what is measured."""
        return bool(self.primitives or self.shapes or self.ranks) or self.steps is not None


def run(
    choice: Choice,
    effort: Effort = DEFAULT,
    *,
    chosen_works: Sequence[Work] | None = None,
    progress: Callable[[str], None] = lambda text: None,
    keep: Callable[[BenchResult], None] = lambda result: None,
    time_is_up: Callable[[], bool] = lambda: False,
) -> BenchResult:
    """Measure.

    Args:
        chosen_works: in place of the choice's.
        keep: is given the result so far, after each work.
        time_is_up: once it is True, no other work is begun.

    Raises:
        ArgumentError: something is chosen that does not exist. It is raised before anything is measured.
    """
    repeats = effort.repeats if choice.repeats is None else choice.repeats
    require_count("repeats", repeats)
    if chosen_works is None:
        chosen_works = _chosen(choice, effort)
    shared = [work for work in chosen_works if isinstance(work, SharedStep)]
    by_processes = [work for work in chosen_works if not isinstance(work, SharedStep)]
    # a rank of few is a rank of many: what is compared has the same threads
    threads = max(1, _cores() // max((work.ranks for work in shared), default=1))
    threads = threads if choice.threads is None else choice.threads
    require_count("threads", threads, most=MOST_THREADS)
    everyone = contenders.choose(choice.contenders, choice.variants)
    if effort is not FULL:
        impatient = [each for each in everyone if each.compiles_long and each.key not in choice.contenders]
        everyone = [replace(each, primitives=()) if each in impatient else each for each in everyone]
    wanted = [each for each in everyone if any(each.takes(work) for work in chosen_works)]
    absent = {each.key: why for each in wanted if (why := each.missing())}
    present = [each for each in wanted if each.key not in absent]
    _require_own(chosen_works, bool(choice.contenders), wanted, present, absent)
    load = Load()
    seen = machine.look().to_dict()

    def result(records: Sequence[Record]) -> BenchResult:
        return BenchResult(
            made=datetime.now().astimezone().isoformat(timespec="seconds"),
            machine=seen,
            threads=threads,
            repeats=repeats,
            seconds=effort.seconds,
            records=tuple(records),
            limits=limits_of(records, {key: each.device for key, each in LIMITS.items()}),
            published=_published(choice.dtypes),
            absent=absent,
            busy=load.share(),
        )

    records: list[Record] = []
    if by_processes:
        records += measure(
            by_processes,
            present,
            repeats=repeats,
            seconds=effort.seconds,
            threads=threads,
            progress=progress,
            keep=lambda found: keep(result(found)),
            time_is_up=time_is_up,
        )
    if shared:
        records += jobs.measure(
            shared, present, repeats=repeats, seconds=effort.seconds, threads=threads, progress=progress
        )
    return result(records)


def _chosen(choice: Choice, effort: Effort) -> Sequence[Work]:
    """Return the works of a choice."""
    for name, value in (("primitive", choice.primitives), ("shape", choice.shapes), ("variant", choice.variants)):
        if choice.ranks and value:
            raise ConflictError("ranks", name, "ranks share training steps")
    for count in choice.ranks:
        require_count("ranks", count, most=works.MOST_RANKS)
    steps = choice.steps if choice.steps is not None or not choice.ranks else ()
    found = works.choose(
        effort.sweep, primitives=choice.primitives, shapes=choice.shapes, steps=steps, dtypes=choice.dtypes
    )
    return works.shared(found, choice.ranks) if choice.ranks else found


def _require_own(
    chosen_works: Sequence[Work],
    named: bool,
    wanted: Sequence[Contender],
    present: Sequence[Contender],
    absent: Mapping[str, str],
) -> None:
    """Raise ArgumentError unless one of this project's backends takes part. named: the user has named contenders."""
    if any(each.backend for each in present):
        return
    own = [each.key for each in wanted if each.backend]
    dtypes = ", ".join(dict.fromkeys(work.dtype for work in chosen_works))
    if not own:
        able = [each.key for each in contenders.CONTENDERS.values() if each.backend and each.takes(chosen_works[0])]
        state = f"names none of this project's backends that computes this in {dtypes}"
        raise StateError("contender", state, f"name one that does, such as {able[0]}")
    reasons = "; ".join(dict.fromkeys(absent[key] for key in own))
    if named:
        raise StateError("contender", f"names {', '.join(own)}", f"name one that works here: {reasons}")
    state = f"names {dtypes}, which only {', '.join(own)} compute"
    raise StateError("dtype", state, f"name one that a backend here computes: {reasons}")


def _published(dtypes: Sequence[str]) -> dict:
    """Return the vendor's limits of the GPU, if the machine has one that is in the table of chips."""
    devices = detection.driver().devices
    gpu = chips.of_device(devices[0]) if devices else None
    return {dtype: gpu.roofline(gpu.product_rate(dtype)) for dtype in dtypes if dtype in gpu.rates} if gpu else {}


# --- the verb ---------------------------------------------------------------------------------------------------------
def bench(
    console: Console,
    choice: Choice,
    *,
    quick: bool = False,
    full: bool = False,
    save: Path | None = None,
    compare: Sequence[Path] = (),
    out: Path | None = None,
    as_json: bool = False,
    force: bool = False,
) -> BenchResult:
    """Measure and show, or compare two files and measure nothing.

    force: the files that are written may replace others.

    Raises:
        ArgumentError, DataError: an argument or a file is wrong. Raised before anything is measured or written.
    """
    if quick and full:
        raise ConflictError("--full", "--quick")
    if as_json and compare:
        raise ConflictError("--json", "--compare", "a comparison is a table")
    if save is not None:
        check_path("save", save, ".json", replace=force)
    if out is not None:
        _check_out(out, force)
    earlier = [BenchResult.read(path) for path in compare]
    if len(earlier) > 2:
        raise StateError("compare", f"names {len(earlier)} files", "name one, which this run is compared with, or two")
    if len(earlier) == 2:
        _show_comparison(console, *earlier)
        return earlier[1]
    effort = QUICK if quick else FULL if full else DEFAULT
    again = None
    if earlier and not (choice.names_works or quick or full):
        again = [work for work in earlier[0].works if not isinstance(work, Limit)] or None
    # JSON stands alone on its stream
    shown = nullcontext(lambda line: None) if as_json else terminal.progress(console, "starting the contenders")
    with shown as progress:
        result = run(choice, effort, chosen_works=again, progress=progress)
    # what was measured is shown even where it cannot be written
    if as_json:
        console.out(result.to_json(), highlight=False)
    else:
        _show(console, result)
    if save is not None:
        result.save(save)
    if out is not None:
        _draw(result, out)
    if not as_json:
        for kind, path in (("result", save), ("pictures", out)):
            if path is not None:
                console.print(f"{kind}: {path}", soft_wrap=True)
    if earlier:
        _show_comparison(console, earlier[0], result)
    return result


def _show(console: Console, result: BenchResult) -> None:
    from gpubp.bench import scaling_tables, tables

    for table in (*tables.tables(result, console.width), *scaling_tables.tables(result, console.width)):
        console.print(table)
        for line in tables.empty_rows(result):
            console.print(line, style="dim")
        console.print()
    for line in (*scaling_tables.notes(result), *tables.notes(result)):
        console.print(line)


def _show_comparison(console: Console, before: BenchResult, now: BenchResult) -> None:
    from gpubp.bench import tables

    console.print(tables.comparison(before, now, console.width), "")
    for line in tables.comparison_notes(before, now):
        console.print(line)


def _draw(result: BenchResult, out: Path) -> None:
    from gpubp.bench import pictures

    out.mkdir(parents=True, exist_ok=True)
    pictures.draw(result, out)


def _check_out(out: Path, force: bool) -> None:
    from gpubp.bench import pictures

    check_folder("out", out)
    if out.is_dir():
        for name in pictures.NAMES:
            check_path("out", out / name, ".png", replace=force)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
