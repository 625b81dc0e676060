"""How steps scale over ranks, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from gpubp.bench.contenders import EVERYONE
from gpubp.bench.results import BenchResult, Scaling
from gpubp.bench.tables import Column, duration, quartiles, table_of
from gpubp.bench.works import SharedStep

KINDS = {"strong": "the ranks share one batch", "weak": "each rank has a batch of the same size"}

HOW_TO_READ = (
    "median: of a step, from a barrier until the slowest rank has made it. speed-up: rows a second over those of one "
    "rank; efficiency: that over the ranks. all-reduce: its time in a step, of the rank that is in it the shortest, as "
    "the others wait for it; share: that over the median. It is not overlapped with the backward pass."
)

STEPS_DIFFER = (
    "a share is above 100%: the all-reduce is timed in steps of its own, and these took longer than the others. "
    "Measure again with more --repeats, on a machine that does nothing else."
)


def tables(result: BenchResult, width: int) -> list[Table]:
    """Return a table for each dtype and kind of scaling."""
    found = result.scalings
    keys = dict.fromkeys((each.record.work.dtype, each.kind) for each in found)
    return [
        _table([each for each in found if (each.record.work.dtype, each.kind) == (dtype, kind)], width)
        for dtype, kind in keys
    ]


def _table(rows: Sequence[Scaling], width: int) -> Table:
    works = [row.record.work for row in rows]
    steps = [work.step for work in works if isinstance(work, SharedStep)]
    columns = [
        Column("network", [step.name for step in steps], numbers=False),
        Column("sizes", ["-".join(map(str, step.sizes)) for step in steps], rank=6, numbers=False),
        Column("backend", [EVERYONE[row.record.contender].title for row in rows], numbers=False),
        Column("ranks", [str(row.ranks) for row in rows]),
        Column("batch", [f"{step.rows:,}" for step in steps], rank=3),
        Column("median", [duration(row.record.median) if row.record.seconds else "failed" for row in rows]),
        Column("quartiles", [quartiles(row.record) for row in rows], rank=5),
        Column("speed-up", ["" if row.speed_up is None else f"{row.speed_up:.2f}" for row in rows]),
        Column("efficiency", [_percent(row.efficiency) for row in rows], rank=2),
        Column("all-reduce", ["" if row.all_reduce is None else duration(row.all_reduce) for row in rows], rank=4),
        Column("share", [_percent(row.share) for row in rows], rank=1),
    ]
    kind = rows[0].kind
    styles = ["red" if row.record.fault else None for row in rows]
    return table_of(f"training step, {works[0].dtype}, {kind} scaling: {KINDS[kind]}", columns, width, styles)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def notes(result: BenchResult) -> list[str]:
    """Return the lines beside the tables; none if there is no table."""
    found = result.scalings
    if not found:
        return []
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    lines = [HOW_TO_READ, f"each rank on the CPU has {threads}"]
    cores = result.machine.get("cores")
    most = max((row.ranks for row in found if EVERYONE[row.record.contender].device == "cpu"), default=1)
    if isinstance(cores, int) and most * result.threads > cores:
        lines.append(
            f"{most} ranks of {threads} are more than the machine's {cores} cores have room for: they take turns"
        )
    if any(row.share is not None and row.share > 1 for row in found):
        lines.append(STEPS_DIFFER)
    return lines
