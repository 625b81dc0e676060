"""A run's figures for a terminal, and two runs side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from gpubp.bench.contenders import CONTENDERS, EVERYONE, LIMITS, Contender
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import Limit, SharedStep, TrainingStep, Work
from gpubp.chips import Roofline
from gpubp.costs import PRODUCTS
from gpubp.errors import shown

GAP = 3
"""Characters between columns: the padding, and the line of the box."""

HOW_TO_READ = (
    "of limit: the least time that the measured limits allow, over the median; above 100 % where a cache helped, or "
    "reading is faster than copying. Columns with ×: that contender's time over this row's; above 1 this row is faster."
)


@dataclass(frozen=True)
class Column:
    """A column: its heading in lines, its cells, and its rank; the highest ranks are left out where there is no room.

    Rank 0 is never left out.
    """

    heading: str
    cells: Sequence[str]
    rank: int = 0
    numbers: bool = True

    @property
    def width(self) -> int:
        """Return the width in characters."""
        return max(len(line) for text in (self.heading, *self.cells) for line in text.split("\n"))


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit into `width` characters, in their order, without empty ones."""
    found = [column for column in columns if any(column.cells) or not column.rank]
    while sum(column.width + GAP for column in found) - GAP > width and any(column.rank for column in found):
        found.remove(max(found, key=lambda column: column.rank))
    return found


def table_of(title: str, columns: Sequence[Column], width: int, styles: Sequence[str | None]) -> Table:
    """Return a table of the columns that fit.

    Args:
        styles: of each row.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption_justify="left",
    )
    chosen = fitting(columns, width)
    left_out = [column.heading.replace("\n", " ") for column in columns if any(column.cells) and column not in chosen]
    if left_out:
        table.caption = f"no room for: {', '.join(left_out)}"
    for column in chosen:
        table.add_column(column.heading, justify="right" if column.numbers else "left", no_wrap=True)
    for cells, style in zip(zip(*(column.cells for column in chosen), strict=True), styles, strict=True):
        table.add_row(*cells, style=style)
    return table


# --- a run ------------------------------------------------------------------------------------------------------------
def tables(result: BenchResult, width: int) -> list[Table]:
    """Return a table for each primitive and dtype, and for the steps, in the order of the run. Shared steps have tables
    of their own (`scaling_tables`)."""
    measured = by_processes(result)
    keys = dict.fromkeys((record.work.group, record.work.dtype) for record in measured)
    return [_group_table(result, [r for r in measured if (r.work.group, r.work.dtype) == key], width) for key in keys]


def by_processes(result: BenchResult) -> list[Record]:
    """Return the records of what one process did, without the machine's limits."""
    return [record for record in result.records if not isinstance(record.work, Limit | SharedStep)]


def _group_table(result: BenchResult, records: Sequence[Record], width: int) -> Table:
    """Return a row for each work and each of this project's backends; a column for each peer."""
    work = records[0].work
    rows = [record for record in records if _contender(record).backend]
    peers = [each for each in CONTENDERS.values() if _is_peer(each) and any(r.contender == each.key for r in records)]
    memory_bound = not isinstance(work, TrainingStep) and work.group not in PRODUCTS
    columns = [
        Column(
            "network" if isinstance(work, TrainingStep) else "shape", [row.work.label for row in rows], numbers=False
        ),
        Column("batch", [str(row.work.rows) if isinstance(row.work, TrainingStep) else "" for row in rows], rank=6),
        Column("sizes", [_sizes(row.work) for row in rows], rank=10, numbers=False),
        Column("backend", [_contender(row).title for row in rows], numbers=False),
        Column("median", [duration(row.median) if row.seconds else "failed" for row in rows]),
        Column("quartiles", [quartiles(row) for row in rows], rank=9),
        Column("GFLOP/s", [_per_second(row, row.work.flops) for row in rows], rank=8 * memory_bound),
        Column("GB/s", [_per_second(row, row.work.bytes) for row in rows], rank=8 * (not memory_bound)),
        Column("of\nlimit", [_of_limit(result, row) for row in rows]),
        *(_ratios(records, rows, peer, _rank(peer, peers)) for peer in peers),
    ]
    styles = ["red" if row.fault else None for row in rows]
    return table_of(f"{work.group}, {work.dtype}", columns, width, styles)


def _is_peer(contender: Contender) -> bool:
    """True if rows are compared with it: other libraries, and the CPU's backend for the rows of a GPU."""
    return not contender.backend or contender.device == "cpu"


def _rank(peer: Contender, peers: Sequence[Contender]) -> int:
    """Return the rank of a peer's column. The first of each device stays longest."""
    return 1 + [each for each in peers if each.device == peer.device].index(peer)


def _ratios(records: Sequence[Record], rows: Sequence[Record], peer: Contender, rank: int) -> Column:
    """Return the peer's median over the row's, for rows on the peer's device; for the CPU's backend, all other rows."""
    of_peer = {record.work: record for record in records if record.contender == peer.key and record.seconds}

    def ratio(row: Record) -> str:
        other = of_peer.get(row.work)
        comparable = _contender(row).device == peer.device or (peer.device == "cpu" and bool(peer.backend))
        if other is None or not row.seconds or row.contender == peer.key or not comparable:
            return ""
        return f"{other.median / row.median:.2f}"

    return Column(peer.title.replace(" ", "\n", 1) + " ×", [ratio(row) for row in rows], rank=min(rank, 5))


def _of_limit(result: BenchResult, row: Record) -> str:
    limits = result.limits.get(_contender(row).device, {}).get(row.work.dtype)
    return f"{row.work.least_seconds(limits) / row.median:.0%}" if limits and row.seconds else ""


def empty_rows(result: BenchResult) -> list[str]:
    """Return the lines under a table: whose rows are missing, and why."""
    reasons = absent_by_reason({key: why for key, why in result.absent.items() if EVERYONE[key].backend})
    return [f"{', '.join(titles)}: not measured: {reason.split('; ')[0]}" for reason, titles in reasons.items()]


def absent_by_reason(absent: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the titles of the absent contenders, by the reason."""
    found: dict[str, list[str]] = {}
    for key, reason in absent.items():
        contender = EVERYONE[key]
        found.setdefault(reason, []).append(f"{contender.title} on {contender.device}")
    return found


def notes(result: BenchResult) -> list[str]:
    """Return the lines beside the tables: limits, absent peers, faults, other programs."""
    lines = [HOW_TO_READ] if by_processes(result) else []
    for device, by_dtype in result.limits.items():
        by = LIMITS[f"limit-{device}"].title
        lines += [f"limits of the {device}, {dtype}: {_limits(limits, by)}" for dtype, limits in by_dtype.items()]
    lines += [f"published for this GPU, {dtype}: {_limits(limits, '')}" for dtype, limits in result.published.items()]
    lines += [f"absent: {', '.join(titles)}: {reason}" for reason, titles in absent_by_reason(result.absent).items()]
    lines += [f"{_contender(record).title}, {record.work.title}: {record.fault}" for record in result.faults]
    if result.busy is not None and result.busy > 0.05:
        lines.append(f"other programs took {result.busy:.0%} of the cores' time: the figures may be too slow")
    return lines


def _limits(limits: Roofline, by: str) -> str:
    how = (f" ({by})", " (copy)") if by else ("", "")
    return f"{_rate(limits.peak)} GFLOP/s{how[0]}, {_rate(limits.bandwidth)} GB/s{how[1]}"


# --- two runs ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Change:
    """One contender's time for one work in two runs.

    Attributes:
        verdict: "faster", "slower", or "" within the quartiles.
    """

    before: Record
    now: Record

    @property
    def ratio(self) -> float:
        """Return the median now over the median before."""
        return self.now.median / self.before.median

    @property
    def verdict(self) -> str:
        """Return "slower" or "faster" if the quartiles of the two runs do not overlap, else ""."""
        if self.now.quartiles[1] < self.before.quartiles[0]:
            return "faster"
        return "slower" if self.now.quartiles[0] > self.before.quartiles[1] else ""


def changes(before: BenchResult, now: BenchResult) -> list[Change]:
    """Return the changes of what both runs have, in the order of `now`, with the measured limits of the machine."""
    earlier = {(record.work, record.contender): record for record in before.records if record.seconds}
    pairs = ((earlier.get((record.work, record.contender)), record) for record in now.records if record.seconds)
    merged = {(now.work, now.contender): Change(old, now) for old, now in pairs if old is not None}
    return list(merged.values())


def comparison(before: BenchResult, now: BenchResult, width: int) -> Table:
    """Return two runs side by side."""
    found = changes(before, now)
    styles = {"faster": "green", "slower": "red"}
    several = len({change.now.work.dtype for change in found}) > 1
    columns = [
        Column("what", [f"{change.now.work.group} {change.now.work.label}" for change in found], numbers=False),
        Column("dtype", [change.now.work.dtype if several else "" for change in found], rank=3, numbers=False),
        Column("contender", [EVERYONE[change.now.contender].title for change in found], numbers=False),
        Column("before", [duration(change.before.median) for change in found], rank=4),
        Column("quartiles", [quartiles(change.before) for change in found], rank=6),
        Column("now", [duration(change.now.median) for change in found], rank=2),
        Column("quartiles", [quartiles(change.now) for change in found], rank=5),
        Column("now /\nbefore", [f"{change.ratio:.2f}" for change in found]),
        Column("moved", [change.verdict for change in found], rank=1, numbers=False),
    ]
    return table_of(
        f"before: {before.made}; now: {now.made}", columns, width, [styles.get(change.verdict) for change in found]
    )


def comparison_notes(before: BenchResult, now: BenchResult) -> list[str]:
    """Return the lines beside the comparison."""
    found = changes(before, now)
    moved = [change.verdict for change in found if change.verdict]
    lines = [
        f"{len(found)} compared: {moved.count('faster')} faster, {moved.count('slower')} slower; "
        "moved: beyond the quartiles of both runs"
    ]
    for name, of_run in (("processor", lambda run: run.machine.get("processor")), ("threads", lambda run: run.threads)):
        if of_run(before) != of_run(now):
            lines.append(f"not the same {name}: {shown(of_run(before))} before, {shown(of_run(now))} now")
    for when, run, other in (("before", before, now), ("now", now, before)):
        only = Counter(contender for _, contender in sorted(_measured(run) - _measured(other)))
        if only:
            counts = ", ".join(f"{count} of {EVERYONE[key].title}" for key, count in only.items())
            lines.append(f"only {when}, and not compared: {counts}")
    return lines


def _measured(result: BenchResult) -> set[tuple[str, str]]:
    return {(record.work.title, record.contender) for record in result.records if record.seconds}


# --- cells ------------------------------------------------------------------------------------------------------------
def duration(seconds: float) -> str:
    """Return a time as text, with three to four digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{_digits(seconds * factor)} {unit}"
    raise AssertionError(seconds)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _per_second(record: Record, amount: float) -> str:
    return _rate(amount / record.median) if record.seconds else ""


def _rate(per_second: float) -> str:
    """Return a rate as text, in billions a second."""
    return f"{per_second / 1e9:,.0f}" if per_second >= 1e11 else _digits(per_second / 1e9)


def quartiles(record: Record) -> str:
    """Return the quartiles as text; "" if there was one turn."""
    if len(record.seconds) < 2:
        return ""
    first, third = (duration(each) for each in record.quartiles)
    return f"{first.split()[0]} – {third}" if first.split()[1] == third.split()[1] else f"{first} – {third}"


def _sizes(work: Work) -> str:
    return "-".join(map(str, work.sizes)) if isinstance(work, TrainingStep) else ""


def _contender(record: Record) -> Contender:
    return EVERYONE[record.contender]
