"""The page of a profile: what a kernel needs and what limits it, its roofline, and its source with counts by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import metadata

from gpubp.profiler import profile_tables
from gpubp.profiler.annotated_source import File, Row, files_of, links_of
from gpubp.profiler.profiles import Profile, percent
from gpubp.report.page import Picture, Table, finite, render

INSTRUCTIONS, SHARE = "instructions", "share"
SECTORS, EXCESS = "sectors", "excess"
PASSES, CONFLICTS = "passes", "conflicts"
"""The headings of the numbers beside a line."""

FAINTEST, STRONGEST = 0.06, 0.55
"""Opacity of the tint behind a line that executes something, and behind the line that executes most."""


def page(profile: Profile, command: str) -> str:
    """Return the page of one profile as HTML.

    Args:
        profile: the profile.
        command: the command line that made it.
    """
    files = files_of([line for kernel in profile.kernels for line in kernel.counts.lines], profile.sources)
    executed = sum(file.executed for file in files)
    shown = profile_tables.tables(profile)
    title = profile_tables.title(profile)
    roofline = f"Roofline of {profile.gpu.name} with the profile as a point"
    return render(
        "source.html",
        title=f"gpubp profile: {title}",
        version=metadata.version("gpubp"),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        data=finite(profile.to_dict()),
        heading=title,
        limiter=profile.limiter,
        tables=[Table.of(each) for each in shown if not isinstance(each, str)],
        notes=[each for each in shown if isinstance(each, str) and each != profile.limiter],
        roofline=Picture(profile_tables.picture([profile]), roofline),
        files=files,
        links=links_of(files),
        executed=executed,
        headings=headings,
        cells=_cells(executed),
        excesses=(EXCESS, CONFLICTS),
        share=lambda part, whole: percent(part / whole) if whole else "",
        tint=tint(max((row.executed for file in files for row in file.rows), default=0)),
    )


def headings(file: File) -> tuple[str, ...]:
    """Return the headings of the numbers that the file's lines have."""
    found = [INSTRUCTIONS, SHARE]
    found += [SECTORS, EXCESS] if any(row.sectors for row in file.rows) else []
    found += [PASSES, CONFLICTS] if any(row.passes for row in file.rows) else []
    return tuple(found)


def _cells(executed: int) -> Callable[[Row, Sequence[str]], list[tuple[str, str]]]:
    """Return a function from a row and the headings to pairs of a heading and the text of its cell, "" for nothing.

    Args:
        executed: instructions of all lines.
    """

    def cells(row: Row, headings: Sequence[str]) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        if row.executed:
            share = percent(row.executed / executed)
            found |= {INSTRUCTIONS: profile_tables.amount(row.executed), SHARE: share}
        if row.sectors:
            found |= {SECTORS: profile_tables.amount(row.sectors), EXCESS: profile_tables.amount(row.excess)}
        if row.passes:
            found |= {PASSES: profile_tables.amount(row.passes), CONFLICTS: profile_tables.amount(row.conflicts)}
        return [(heading, found.get(heading, "")) for heading in headings]

    return cells


def tint(most: int) -> Callable[[Row], str]:
    """Return a function from a row to the opacity of its tint, "" if it executes nothing.

    The opacity grows with the root of the row's share of `most`, the instructions of the busiest row, so that lesser
    rows show too.
    """

    def opacity(row: Row) -> str:
        if not row.executed:
            return ""
        return f"{FAINTEST + (STRONGEST - FAINTEST) * (row.executed / most) ** 0.5:.2f}"

    return opacity
